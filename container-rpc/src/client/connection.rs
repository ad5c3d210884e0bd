//! One frontend, from dialling it to leaving it: connects, registers, passes on what it says, reconnects.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use skysail_proto::container::container_message::Kind as FromContainer;
use skysail_proto::container::container_service_client::ContainerServiceClient;
use skysail_proto::container::frontend_message::Kind as FromFrontend;
use skysail_proto::container::{ContainerMessage, FrontendMessage, Register};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status, Streaming};
use tracing::{debug, error, info, warn};

use super::reconnect::{After, Reconnect, STAYED_WELL};
use crate::credit::StreamId;
use crate::transport::{FRAME_BYTES, KEEP_ALIVE_INTERVAL, KEEP_ALIVE_TIMEOUT, MESSAGE_BYTES, WINDOW_BYTES};

/// How long a frontend may take to accept a connection, and again to answer a registration.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(500);
const REGISTER_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a frontend may take to end a stream whose last message it was sent.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// How long a stream of this container's own that replaced another may take to show itself.
const ALIAS_GRACE: Duration = Duration::from_secs(1);

/// Messages on their way to one frontend. Each answers something the frontend sent against a credit, so a
/// frontend that reads nothing gets no further than a few; one that fills this is cut off.
const OUTBOUND: usize = 32;

/// How far a connection is along; it only moves forward.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) enum Phase {
    /// It is kept up.
    Serving,
    /// It is not opened again; what is in hand is still answered.
    Leaving,
    /// All is answered and the container's end of the stream is closed.
    Closed,
}

/// What connections tell the container.
pub(super) enum Event {
    /// A frontend was reached, and is now told who is there.
    Registering { reply: oneshot::Sender<Register> },
    /// A frontend took this replica.
    Attached {
        stream: StreamId,
        frontend: Frontend,
        outbound: mpsc::Sender<ContainerMessage>,
    },
    /// A frontend said something.
    Said {
        stream: StreamId,
        message: FromFrontend,
        at: Instant,
    },
    /// A registered stream ended.
    Lost { stream: StreamId },
    /// Another container registered as the same replica, as far as this connection knows.
    Superseded { frontend: Frontend, words: String },
}

/// Who is at the other end.
#[derive(Clone, Debug)]
pub(super) struct Frontend {
    /// As it was dialled.
    pub(super) address: String,
    /// As it names itself: one frontend may be reached by several addresses.
    pub(super) id: String,
    /// How far the connection to it is along.
    pub(super) phase: watch::Sender<Phase>,
}

/// Keeps the stream to one frontend up.
pub(super) struct Connection {
    pub(super) address: String,
    pub(super) events: mpsc::Sender<Event>,
    pub(super) phase: watch::Sender<Phase>,
    /// The only receiver: once it is gone, so is the connection.
    pub(super) seen: watch::Receiver<Phase>,
    pub(super) stream_ids: Arc<AtomicU64>,
}

/// Why a stream ended, or never began.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("it cannot be reached")]
    Unreachable(#[source] tonic::transport::Error),
    #[error("it did not answer the registration")]
    Unanswered,
    #[error("it closed the stream")]
    Closed,
    #[error("the stream broke: {}", .0.message())]
    Broken(Status),
    #[error("it refused: {}", .0.message())]
    Refused(Status),
    #[error("it has another container for this replica: {words}")]
    Superseded { frontend: Frontend, words: String },
    #[error("this container leaves it")]
    Left,
}

/// Sorts what a frontend ends a stream with.
fn ended_with(status: Status) -> Ended {
    match status.code() {
        Code::InvalidArgument
        | Code::FailedPrecondition
        | Code::Unauthenticated
        | Code::PermissionDenied
        | Code::NotFound
        | Code::Unimplemented => Ended::Refused(status),
        _ => Ended::Broken(status),
    }
}

/// A stream whose registration was taken.
struct Attachment {
    frontend: Frontend,
    outbound: mpsc::Sender<ContainerMessage>,
    inbound: Streaming<FrontendMessage>,
}

impl Connection {
    /// Runs until the container leaves this frontend.
    pub(super) async fn run(mut self) {
        let mut reconnect = Reconnect::new(fastrand::Rng::new());
        let mut told = None;
        while !self.is_leaving() {
            let begun = Instant::now();
            let ended = match self.attach().await {
                Ok(attachment) => {
                    told = None;
                    self.serve(attachment).await
                }
                Err(ended) => ended,
            };
            if begun.elapsed() >= STAYED_WELL && matches!(ended, Ended::Broken(_) | Ended::Closed) {
                reconnect.reset();
            }
            self.tell_once(&ended, &mut told);
            match ended {
                Ended::Left => return,
                Ended::Superseded { frontend, words } => return self.stand_down(frontend, words).await,
                Ended::Refused(_) => self.pause(reconnect.pause(After::Refusal)).await,
                _ => self.pause(reconnect.pause(After::Loss)).await,
            }
        }
    }

    /// Logs what went wrong, once for as long as it stays the same.
    fn tell_once(&self, ended: &Ended, told: &mut Option<String>) {
        let frontend = &self.address;
        let reason = super::chain(ended);
        if told.as_ref() == Some(&reason) {
            return debug!(frontend, reason, "frontend still not reached");
        }
        match ended {
            Ended::Left => info!(frontend, "left frontend"),
            Ended::Superseded { .. } => debug!(frontend, reason, "stream superseded"),
            Ended::Refused(_) => error!(
                frontend,
                reason, "frontend refused this container, trying again every few seconds"
            ),
            Ended::Unreachable(_) | Ended::Unanswered => {
                warn!(frontend, reason, "frontend not reached, trying again")
            }
            Ended::Closed | Ended::Broken(_) => warn!(frontend, reason, "frontend lost, reconnecting"),
        }
        *told = Some(reason);
    }

    /// Dials and registers.
    async fn attach(&mut self) -> Result<Attachment, Ended> {
        let mut phase = self.seen.clone();
        tokio::select! {
            biased;
            () = reached(&mut phase, Phase::Leaving) => Err(Ended::Left),
            attached = self.dial_and_register() => attached,
        }
    }

    async fn dial_and_register(&self) -> Result<Attachment, Ended> {
        let channel = dial(&self.address).await.map_err(Ended::Unreachable)?;
        let registered = timeout(REGISTER_TIMEOUT, self.register(channel)).await;
        registered.map_err(|_| Ended::Unanswered)?
    }

    async fn register(&self, channel: Channel) -> Result<Attachment, Ended> {
        let mut client = ContainerServiceClient::new(channel)
            .max_decoding_message_size(MESSAGE_BYTES)
            .max_encoding_message_size(MESSAGE_BYTES);
        let (outbound, messages) = mpsc::channel(OUTBOUND);
        let register = ContainerMessage {
            kind: Some(FromContainer::Register(self.introduction().await?)),
        };
        outbound
            .try_send(register)
            .expect("the queue is new; this is a bug");
        let attached = client.attach(ReceiverStream::new(messages)).await;
        let mut inbound = attached.map_err(ended_with)?.into_inner();
        loop {
            let message = inbound
                .message()
                .await
                .map_err(ended_with)?
                .ok_or(Ended::Closed)?;
            if let Some(FromFrontend::Registered(registered)) = message.kind {
                let frontend = Frontend {
                    address: self.address.clone(),
                    id: registered.frontend_id,
                    phase: self.phase.clone(),
                };
                return Ok(Attachment {
                    frontend,
                    outbound,
                    inbound,
                });
            }
        }
    }

    /// What to register with: it grows with every batch.
    async fn introduction(&self) -> Result<Register, Ended> {
        let (reply, register) = oneshot::channel();
        self.send(Event::Registering { reply }).await;
        register.await.map_err(|_| Ended::Left)
    }

    /// Passes on what the frontend says until the stream ends.
    async fn serve(&mut self, attachment: Attachment) -> Ended {
        let Attachment {
            frontend,
            outbound,
            mut inbound,
        } = attachment;
        let stream = StreamId(self.stream_ids.fetch_add(1, Ordering::Relaxed));
        info!(frontend = self.address, "attached to frontend");
        self.send(Event::Attached {
            stream,
            frontend: frontend.clone(),
            outbound,
        })
        .await;
        let mut phase = self.seen.clone();
        let ended = tokio::select! {
            biased;
            ended = self.listen(stream, &mut inbound) => ended,
            () = closed_long_ago(&mut phase) => Ended::Left,
        };
        self.send(Event::Lost { stream }).await;
        match ended {
            _ if self.is_leaving() => Ended::Left,
            Ended::Broken(status) if status.code() == Code::Aborted => Ended::Superseded {
                frontend,
                words: status.message().to_owned(),
            },
            ended => ended,
        }
    }

    async fn listen(&self, stream: StreamId, inbound: &mut Streaming<FrontendMessage>) -> Ended {
        loop {
            let message = match inbound.message().await {
                Ok(Some(message)) => message,
                Ok(None) => return Ended::Closed,
                Err(status) => return ended_with(status),
            };
            // A kind this side does not know comes from a newer frontend, and is not for it.
            let Some(message) = message.kind else { continue };
            let at = Instant::now();
            self.send(Event::Said { stream, message, at }).await;
        }
    }

    /// Another stream registered as this replica. If it is not one of this container's own, which reached
    /// the same frontend by another address, the container has been replaced.
    async fn stand_down(&mut self, frontend: Frontend, words: String) {
        self.pause(ALIAS_GRACE).await;
        self.send(Event::Superseded { frontend, words }).await;
        reached(&mut self.seen, Phase::Leaving).await;
    }

    fn is_leaving(&self) -> bool {
        *self.seen.borrow() >= Phase::Leaving
    }

    async fn pause(&mut self, pause: Duration) {
        // Cut short when the container leaves; either way the caller looks again.
        let _ = timeout(pause, reached(&mut self.seen, Phase::Leaving)).await;
    }

    async fn send(&self, event: Event) {
        // Nobody listens any more when the container is gone, and then this task is about to end too.
        let _ = self.events.send(event).await;
    }
}

async fn dial(address: &str) -> Result<Channel, tonic::transport::Error> {
    Endpoint::from_shared(format!("http://{address}"))?
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        .max_frame_size(FRAME_BYTES)
        .connect()
        .await
}

/// Waits for a phase, or for the container to be gone.
async fn reached(phase: &mut watch::Receiver<Phase>, at_least: Phase) {
    let _ = phase.wait_for(|phase| *phase >= at_least).await;
}

/// Waits until a frontend has had its time to end a stream that this side has closed.
async fn closed_long_ago(phase: &mut watch::Receiver<Phase>) {
    reached(phase, Phase::Closed).await;
    sleep(CLOSE_TIMEOUT).await;
}

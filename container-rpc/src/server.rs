//! The frontend's end: each stream a container opens becomes a [`ReplicaStream`] that can be sent batches.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use skysail_proto::container::container_service_server::{ContainerService, ContainerServiceServer};
use skysail_proto::container::{self, Batch, ContainerMessage, FrontendMessage, frontend_message};
use skysail_proto::error_code::ErrorCode;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming};

use crate::credit::Demand;
use crate::session::{Registration, Session, SessionEvent, Violation};
use crate::transport;

/// How long a stream may take to say who it is.
const REGISTRATION_TIME: Duration = Duration::from_secs(5);

/// Messages that may wait to be written to one container. Credits bound the batches among them to a few
/// and each wait in demand to one message: a full channel means a peer that reads nothing.
const OUTBOUND_MESSAGES: usize = 64;

/// What takes replicas in: the frontend.
pub trait Reception: Send + Sync + 'static {
    /// Takes a replica, or says why not.
    fn receive(&self, replica: Newcomer) -> Result<(), Refusal>;
}

/// A replica that wants in.
pub struct Newcomer {
    /// What it says of itself.
    pub registration: Registration,
    /// Where it dialled from.
    pub peer: Option<SocketAddr>,
    /// Its stream.
    pub stream: ReplicaStream,
}

/// Why a replica is not taken, in words for the container's log.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Refusal {
    /// What kind of reason.
    pub code: ErrorCode,
    /// The reason, and what to do.
    pub reason: String,
}

/// Serves containers on a listener until `shutdown` completes.
pub async fn serve(
    listener: TcpListener,
    reception: Arc<dyn Reception>,
    frontend_id: String,
    shutdown: impl Future<Output = ()>,
) -> Result<(), tonic::transport::Error> {
    let door = ContainerServiceServer::new(Door {
        reception,
        frontend_id,
    })
    .max_decoding_message_size(transport::MESSAGE_BYTES)
    .max_encoding_message_size(transport::MESSAGE_BYTES);
    tonic::transport::Server::builder()
        .http2_keepalive_interval(Some(transport::KEEP_ALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(transport::KEEP_ALIVE_TIMEOUT))
        .initial_stream_window_size(transport::WINDOW_BYTES)
        .initial_connection_window_size(transport::WINDOW_BYTES)
        .max_frame_size(transport::FRAME_BYTES)
        .add_service(door)
        .serve_with_incoming_shutdown(TcpIncoming::from(listener).with_nodelay(Some(true)), shutdown)
        .await
}

/// Answers `Attach`.
struct Door {
    reception: Arc<dyn Reception>,
    frontend_id: String,
}

#[tonic::async_trait]
impl ContainerService for Door {
    type AttachStream = ReceiverStream<Result<FrontendMessage, Status>>;

    async fn attach(
        &self,
        request: Request<Streaming<ContainerMessage>>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        let peer = request.remote_addr();
        let mut inbound = request.into_inner();
        let Ok(first) = timeout(REGISTRATION_TIME, inbound.message()).await else {
            return Err(Status::deadline_exceeded("no registration came"));
        };
        let Some(first) = first? else {
            return Err(Status::invalid_argument("the stream ended before it registered"));
        };
        let mut session = Session::default();
        let registration = session.register(first).map_err(|violation| refused(&violation))?;

        let (outbound, messages) = mpsc::channel(OUTBOUND_MESSAGES);
        let mut stream = ReplicaStream {
            session,
            inbound,
            outbound,
        };
        let registered = container::Registered {
            frontend_id: self.frontend_id.clone(),
        };
        stream
            .send(frontend_message::Kind::Registered(registered))
            .map_err(|_| Status::unavailable("gone"))?;
        self.reception
            .receive(Newcomer {
                registration,
                peer,
                stream,
            })
            .map_err(|refusal| Status::new(refusal.code.grpc_code(), refusal.reason))?;
        Ok(Response::new(ReceiverStream::new(messages)))
    }
}

fn refused(violation: &Violation) -> Status {
    Status::invalid_argument(violation.to_string())
}

/// Inputs to send, laid out as they travel.
#[derive(Clone, Debug)]
pub struct NewBatch {
    /// Its number, unique on its stream.
    pub id: u64,
    /// The credit that it is sent against.
    pub credit: u64,
    /// How long that was held.
    pub credit_held: Duration,
    /// The inputs, as [`to_batch`](skysail_proto::value::to_batch) lays them out. Its other fields are those of this
    /// struct, whatever they are.
    pub inputs: Batch,
    /// Time left for each, in microseconds.
    pub budgets_micros: Vec<u64>,
    /// How long the model is expected to take; zero if that is not known.
    pub predicted: Duration,
}

/// The stream is over: the container is gone, or broke the protocol.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum StreamError {
    /// The connection ended or the peer fell silent.
    #[error("the stream ended: {0}")]
    Lost(String),
    /// It said what may not be said.
    #[error("the container broke the protocol: {0}")]
    Violation(#[from] Violation),
    /// It reads nothing of what it is sent.
    #[error("the container does not read its stream")]
    Stalled,
}

/// One replica's stream.
pub struct ReplicaStream {
    session: Session,
    inbound: Streaming<ContainerMessage>,
    outbound: mpsc::Sender<Result<FrontendMessage, Status>>,
}

impl ReplicaStream {
    /// The next thing the container says. Safe to cancel.
    pub async fn next(&mut self) -> Result<SessionEvent, StreamError> {
        let message = match self.inbound.message().await {
            Ok(Some(message)) => message,
            Ok(None) => return Err(StreamError::Lost("the container closed it".into())),
            Err(status) => return Err(StreamError::Lost(status.message().to_owned())),
        };
        self.session.receive(message).map_err(|violation| {
            let _ = self.outbound.try_send(Err(refused(&violation)));
            violation.into()
        })
    }

    /// Whether the container is going and has answered all it held.
    pub fn is_finished(&self) -> bool {
        self.session.is_finished()
    }

    /// Sends a batch against a credit.
    pub fn send_batch(&mut self, batch: NewBatch) -> Result<(), StreamError> {
        self.session.sent(batch.id);
        self.send(frontend_message::Kind::Batch(Batch {
            id: batch.id,
            credit: batch.credit,
            credit_held_micros: micros(batch.credit_held),
            predicted_micros: micros(batch.predicted),
            budgets_micros: batch.budgets_micros,
            ..batch.inputs
        }))
    }

    /// Says what waits for a credit.
    pub fn announce(&mut self, demand: Demand) -> Result<(), StreamError> {
        let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        self.send(frontend_message::Kind::Demand(container::Demand {
            queued: count(demand.queued),
            earliest_budget_micros: micros(demand.budget),
            most_inputs: count(demand.most_inputs),
        }))
    }

    /// Gives back a credit that there is no work for.
    pub fn return_credit(&mut self, sequence: u64) -> Result<(), StreamError> {
        let returned = container::CreditReturned { sequence };
        self.send(frontend_message::Kind::CreditReturned(returned))
    }

    /// Names the cluster's frontends, as host:port: the container keeps a stream to each.
    pub fn name_frontends(&mut self, addresses: &[String]) -> Result<(), StreamError> {
        let addresses = addresses.to_vec();
        self.send(frontend_message::Kind::FrontendsChanged(
            container::FrontendsChanged { addresses },
        ))
    }

    /// Says that this frontend is going and sends nothing more.
    pub fn announce_draining(&mut self) -> Result<(), StreamError> {
        self.send(frontend_message::Kind::Draining(container::FrontendDraining {}))
    }

    /// Ends the stream with a reason for the container's log.
    pub fn close(self, refusal: &Refusal) {
        let _ = self.outbound.try_send(Err(Status::new(
            refusal.code.grpc_code(),
            refusal.reason.as_str(),
        )));
    }

    /// Ends the stream because another of the same replica took its place; the container then stops.
    pub fn close_superseded(self) {
        let _ = self.outbound.try_send(Err(Status::aborted(
            "another container registered as this replica",
        )));
    }

    fn send(&mut self, kind: frontend_message::Kind) -> Result<(), StreamError> {
        use mpsc::error::TrySendError;
        self.outbound
            .try_send(Ok(FrontendMessage { kind: Some(kind) }))
            .map_err(|error| match error {
                TrySendError::Full(_) => StreamError::Stalled,
                TrySendError::Closed(_) => StreamError::Lost("the connection closed".into()),
            })
    }
}

fn micros(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}

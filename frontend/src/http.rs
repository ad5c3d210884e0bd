//! The HTTP server under both REST APIs: HTTP/1.1 and h2c on one port, bounds on what clients may take of
//! it, and a graceful end.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::header::{CONNECTION, HeaderName};
use hyper::{Request, Response};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;
use tracing::warn;

mod activity;
mod body;
mod connection;
mod cors;
pub(crate) mod encoding;
mod idlest;
pub(crate) mod misread;
mod model_network;
mod upload;
mod warden;

pub(crate) use body::{BodyError, BodyReader, Pieces, RequestBody};
pub(crate) use cors::{AllowedOrigins, Cors, Origin};
pub(crate) use model_network::ModelNetwork;
pub(crate) use upload::Upload;
pub(crate) use warden::Timeouts;

use activity::Activity;
use connection::Connections;
use warden::Warden;

/// The pause after a connection could not be accepted: most likely there are no file descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How often the log says what keeps clients out.
const SAY_AGAIN: Duration = Duration::from_secs(60);

/// The header of an answer after which nothing more is read: the rest of the request may never come.
pub(crate) const CLOSES: [(HeaderName, &str); 1] = [(CONNECTION, "close")];

/// What answers the requests of a server.
pub(crate) trait Answers: Clone + Send + Sync + 'static {
    /// Answers one; it always has an answer.
    fn answer(&self, request: Request<Upload>) -> impl Future<Output = Response<Body>> + Send;
}

impl Answers for Router {
    async fn answer(&self, request: Request<Upload>) -> Response<Body> {
        match self.clone().oneshot(request).await {
            Ok(response) => response,
            Err(never) => match never {},
        }
    }
}

/// What clients may take of a server.
#[derive(Clone, Debug)]
pub(crate) struct Limits {
    /// Connections open at once. For a further one, the one that has waited longest for a head is closed. While each
    /// has a request in flight, those wait in the system's backlog, where they hold nothing of ours, and one in our hands.
    pub connections: usize,
    /// How long they may keep it waiting.
    pub timeouts: Timeouts,
    /// The networks of model containers, whose connections are closed before anything is read.
    pub refused: Vec<ModelNetwork>,
}

/// Serves until `shutdown`, then stops accepting, closes idle connections and waits for the answers under
/// way. How long it may wait is the caller's decision: dropping the future ends every connection.
pub(crate) async fn serve(
    listener: TcpListener,
    answers: impl Answers,
    limits: Limits,
    shutdown: CancellationToken,
) {
    let connections = Connections::new(answers, limits.timeouts);
    let mut warden = Warden::new(&limits);
    let mut looks = interval(limits.timeouts.look_every());
    let mut door = Door::new(listener, limits);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut open = JoinSet::new();
    let mut newcomer = None;
    loop {
        let mut ask_again = None;
        if let Some(stream) = newcomer.take() {
            door.say_if(warden.is_full());
            match warden.make_room(Instant::now()) {
                Ok(()) => {
                    let activity = Arc::new(Activity::default());
                    let serve = connections.clone().serve(stream, activity.clone());
                    warden.watch(open.spawn(serve).id(), activity);
                }
                Err(at) => (newcomer, ask_again) = (Some(stream), Some(at)),
            }
        }
        tokio::select! {
            stream = door.next(), if newcomer.is_none() => newcomer = Some(stream),
            () = until(ask_again) => {}
            Some(ended) = open.join_next_with_id() => warden.forget(match ended {
                Ok((id, ())) => id,
                Err(panicked) => panicked.id(),
            }),
            now = looks.tick() => warden.look(now),
            () = shutdown.cancelled() => break,
        }
    }
    drop(door);
    warden.close();
    while open.join_next().await.is_some() {}
}

/// Waits until then; for ever, if it is never.
async fn until(then: Option<Instant>) {
    match then {
        Some(then) => sleep_until(then).await,
        None => std::future::pending().await,
    }
}

/// Lets clients in, and says what keeps them out.
struct Door {
    listener: TcpListener,
    limit: usize,
    refused: Vec<ModelNetwork>,
    said: Option<Instant>,
}

impl Door {
    fn new(listener: TcpListener, limits: Limits) -> Self {
        Self {
            listener,
            limit: limits.connections,
            refused: limits.refused,
            said: None,
        }
    }

    /// The next client. Nothing is lost if the future is dropped.
    async fn next(&mut self) -> TcpStream {
        loop {
            match self.listener.accept().await {
                Ok((_, peer)) if self.refuses(peer.ip()) => {
                    if self.may_say() {
                        warn!(%peer, "connection from the model containers' network refused");
                    }
                }
                // Answers are small and complete: they go out at once.
                Ok((stream, _)) if stream.set_nodelay(true).is_ok() => return stream,
                Ok(_) => {}
                Err(error) if ended_early(&error) => {}
                Err(error) => {
                    if self.may_say() {
                        warn!(%error, "connections cannot be accepted");
                    }
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn refuses(&self, peer: IpAddr) -> bool {
        self.refused.iter().any(|network| network.is_model(peer))
    }

    fn say_if(&mut self, is_full: bool) {
        if is_full && self.may_say() {
            warn!(
                limit = self.limit,
                "connection limit reached: idle connections are closed for new ones, and where none idles those wait"
            );
        }
    }

    /// Whether it is time to say what keeps clients out.
    fn may_say(&mut self) -> bool {
        let now = Instant::now();
        let may = self.said.is_none_or(|said| now - said >= SAY_AGAIN);
        if may {
            self.said = Some(now);
        }
        may
    }
}

/// The client hung up before it was accepted: nothing is wrong here.
fn ended_early(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(
        error.kind(),
        ConnectionAborted | ConnectionRefused | ConnectionReset
    )
}

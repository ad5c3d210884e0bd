//! The HTTP server under both REST APIs: HTTP/1.1 and h2c on one port, bounds on what clients may take of
//! it, and a graceful end.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::header::{CONNECTION, HeaderName};
use hyper::{Request, Response};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;
use tracing::warn;

mod activity;
mod body;
mod connection;
mod upload;
mod warden;

pub use body::{BodyError, BodyReader, RequestBody};
pub use upload::Upload;
pub use warden::Timeouts;

use activity::Activity;
use connection::Connections;
use warden::Warden;

/// The pause after a connection could not be accepted: most likely there are no file descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How often the log says what keeps clients out.
const SAY_AGAIN: Duration = Duration::from_secs(60);

/// The header of an answer after which nothing more is read: the rest of the request may never come.
pub const CLOSES: [(HeaderName, &str); 1] = [(CONNECTION, "close")];

/// What answers the requests of a server.
pub trait Answers: Clone + Send + Sync + 'static {
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
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections open at once. Further ones wait in the system's backlog until one closes; who waits
    /// there holds nothing of ours.
    pub connections: usize,
    /// How long they may keep it waiting.
    pub timeouts: Timeouts,
}

/// Serves until `shutdown`, then stops accepting, closes idle connections and waits for the answers under
/// way. How long it may wait is the caller's decision: dropping the future ends every connection.
pub async fn serve(
    listener: TcpListener,
    answers: impl Answers,
    limits: Limits,
    shutdown: CancellationToken,
) {
    let connections = Connections::new(answers, limits.timeouts);
    let mut door = Door::new(listener, limits.connections);
    let mut warden = Warden::new(limits.timeouts);
    let mut looks = interval(limits.timeouts.look_every());
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut open = JoinSet::new();
    loop {
        tokio::select! {
            (stream, place) = door.next() => {
                let activity = Arc::new(Activity::default());
                let serve = connections.clone().serve(stream, activity.clone());
                let task = open.spawn(async move {
                    serve.await;
                    drop(place);
                });
                warden.watch(task.id(), activity);
            }
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

/// Lets clients in, as many at once as there are places.
struct Door {
    listener: TcpListener,
    places: Arc<Semaphore>,
    limit: usize,
    said: Option<Instant>,
}

impl Door {
    fn new(listener: TcpListener, limit: usize) -> Self {
        Self {
            listener,
            places: Arc::new(Semaphore::new(limit.min(Semaphore::MAX_PERMITS))),
            limit,
            said: None,
        }
    }

    /// The next client, and its place. Nothing is lost if the future is dropped.
    async fn next(&mut self) -> (TcpStream, OwnedSemaphorePermit) {
        loop {
            let place = self.place().await;
            match self.listener.accept().await {
                // Answers are small and complete: they go out at once.
                Ok((stream, _)) if stream.set_nodelay(true).is_ok() => return (stream, place),
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

    async fn place(&mut self) -> OwnedSemaphorePermit {
        if self.places.available_permits() == 0 && self.may_say() {
            warn!(
                limit = self.limit,
                "connection limit reached: new connections wait"
            );
        }
        let place = self.places.clone().acquire_owned().await;
        place.expect("the semaphore is never closed; this is a bug")
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

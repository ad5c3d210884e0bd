//! The HTTP server under both REST APIs: HTTP/1.1 and h2c on one port, and a graceful end.

use std::time::Duration;

use axum::Router;
use axum::body::Body;
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::Body as _;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

/// The pause after a connection could not be accepted: most likely there are no file descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What is read and thrown away of a body that is refused, so that a client that sends before it reads
/// still sees the answer.
const DISCARDED_BYTES: usize = 64 * 1024 * 1024;

/// How long that may take.
const DISCARD_TIME: Duration = Duration::from_secs(30);

/// Serves until `shutdown`, then stops accepting, closes idle connections and waits for the answers under
/// way. How long it may wait is the caller's decision: dropping the future ends every connection.
pub async fn serve(listener: TcpListener, router: Router, shutdown: CancellationToken) {
    let mut connections = JoinSet::new();
    let graceful = GracefulShutdown::new();
    let builder = Builder::new(TokioExecutor::new());
    let service = TowerToHyperService::new(router);
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) if ended_early(&error) => continue,
                Err(error) => {
                    warn!(%error, "connection not accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            },
            Some(_) = connections.join_next() => continue,
            () = shutdown.cancelled() => break,
        };
        let Some(stream) = prepared(stream) else { continue };
        let connection = builder.serve_connection(stream, service.clone()).into_owned();
        let watched = graceful.watch(connection);
        connections.spawn(async move {
            if let Err(error) = watched.await {
                debug!(%error, "connection ended");
            }
        });
    }
    drop(listener);
    graceful.shutdown().await;
}

/// The client hung up before it was accepted: nothing is wrong here.
fn ended_early(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(
        error.kind(),
        ConnectionAborted | ConnectionRefused | ConnectionReset
    )
}

/// Answers are small and complete: they go out at once.
fn prepared(stream: TcpStream) -> Option<TokioIo<TcpStream>> {
    stream.set_nodelay(true).ok()?;
    Some(TokioIo::new(stream))
}

/// Why a body was not read.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// It is larger than the limit, in bytes.
    #[error("the body is larger than {0} bytes")]
    TooLarge(usize),
    /// The connection broke, or the body is not what its headers say.
    #[error("the body could not be read: {0}")]
    Broken(String),
}

/// Reads a body up to `limit` bytes; one beyond it is discarded by a task of `tasks` while the answer goes
/// out.
pub async fn read_body(mut body: Body, limit: usize, tasks: &TaskTracker) -> Result<Bytes, BodyError> {
    if body.size_hint().lower() > limit as u64 {
        discard(body, tasks);
        return Err(BodyError::TooLarge(limit));
    }
    let (mut first, mut rest) = (Bytes::new(), BytesMut::new());
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| BodyError::Broken(error.to_string()))?;
        let Ok(data) = frame.into_data() else { continue };
        if first.len() + rest.len() + data.len() > limit {
            discard(body, tasks);
            return Err(BodyError::TooLarge(limit));
        }
        if first.is_empty() && rest.is_empty() {
            // Most bodies come in one piece, which is used as it is.
            first = data;
        } else {
            rest.extend_from_slice(&std::mem::take(&mut first));
            rest.extend_from_slice(&data);
        }
    }
    Ok(if rest.is_empty() { first } else { rest.freeze() })
}

/// Reads a body that is not wanted and throws it away. A connection closed with unread data is reset, and
/// the client might never see its answer.
pub fn discard(mut body: Body, tasks: &TaskTracker) {
    if body.is_end_stream() {
        return;
    }
    tasks.spawn(tokio::time::timeout(DISCARD_TIME, async move {
        let mut left = DISCARDED_BYTES;
        while let Some(Ok(frame)) = body.frame().await {
            let size = frame.data_ref().map_or(0, Bytes::len);
            if size > left {
                return;
            }
            left -= size;
        }
    }));
}

//! The HTTP server under both REST APIs: HTTP/1.1 and h2c on one port, and a graceful end.

use std::time::Duration;

use axum::Router;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

/// The pause after a connection could not be accepted: most likely there are no file descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Serves until `shutdown`, then stops accepting, closes idle connections and waits for the answers under
/// way. How long it may wait is the caller's decision: dropping the future ends it.
pub async fn serve(listener: TcpListener, router: Router, shutdown: CancellationToken) {
    let connections = TaskTracker::new();
    let graceful = GracefulShutdown::new();
    let builder = Builder::new(TokioExecutor::new());
    let service = TowerToHyperService::new(router);
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    warn!(%error, "connection not accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            },
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

/// Answers are small and complete: they go out at once.
fn prepared(stream: TcpStream) -> Option<TokioIo<TcpStream>> {
    stream.set_nodelay(true).ok()?;
    Some(TokioIo::new(stream))
}

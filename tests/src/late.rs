//! A way to a server on which everything takes longer: what is sent through it arrives after a while, in both
//! directions, as much of it at once as there is.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

/// What may be under way before the sender has to wait.
const PIECES: usize = 1024;

/// A listener that passes everything on to a server, late. Dropping it closes all connections.
pub struct LateWay {
    addr: SocketAddr,
    delay: watch::Sender<Duration>,
    _passing: JoinSet<()>,
}

impl LateWay {
    /// A way to `server` on which each direction takes `delay`.
    pub async fn to(server: SocketAddr, delay: Duration) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a free port");
        let addr = listener.local_addr().expect("a bound address");
        let (delay, delays) = watch::channel(delay);
        let passing = async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let delays = delays.clone();
                connections.spawn(async move {
                    if let Ok(server) = TcpStream::connect(server).await {
                        let (from_client, to_client) = client.into_split();
                        let (from_server, to_server) = server.into_split();
                        tokio::join!(
                            pass(from_client, to_server, delays.clone()),
                            pass(from_server, to_client, delays),
                        );
                    }
                });
            }
        };
        let mut tasks = JoinSet::new();
        tasks.spawn(passing);
        Self {
            addr,
            delay,
            _passing: tasks,
        }
    }

    /// Where it begins.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// From now on each direction takes so long.
    pub fn take(&self, delay: Duration) {
        self.delay.send_replace(delay);
    }
}

async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, delays: watch::Receiver<Duration>) {
    let (sent, mut underway) = mpsc::channel::<(Instant, Vec<u8>)>(PIECES);
    let read = async move {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(length @ 1..) = from.read(&mut buffer).await {
            let arrives = Instant::now() + *delays.borrow();
            if sent.send((arrives, buffer[..length].to_vec())).await.is_err() {
                return;
            }
        }
    };
    let write = async move {
        while let Some((arrives, piece)) = underway.recv().await {
            sleep_until(arrives).await;
            if to.write_all(&piece).await.is_err() {
                return;
            }
        }
        // The end of what was sent is passed on as well.
        let _ = to.shutdown().await;
    };
    tokio::join!(read, write);
}

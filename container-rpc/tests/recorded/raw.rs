//! The stream as bytes: messages are neither built nor read by the code under test.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::{Body, BoxFuture, Context, Poll, Service, StdError, http};
use tonic::server::{Grpc, NamedService, StreamingService};
use tonic::transport::{Endpoint, Server};
use tonic::{Request, Response, Status, Streaming};

/// How long a test waits for a state: far longer than it takes on a busy machine.
const BOUND: Duration = Duration::from_secs(30);

/// Waits for something that must happen.
pub(crate) async fn within_bound<F: Future>(what: &str, future: F) -> F::Output {
    let done = tokio::time::timeout(BOUND, future).await;
    done.unwrap_or_else(|_| panic!("did not happen within {BOUND:?}: {what}"))
}

/// Passes the bytes of messages on as they are.
#[derive(Clone, Copy, Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;
    fn encoder(&mut self) -> Self {
        Self
    }
    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;
    fn encode(&mut self, message: Bytes, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put(message);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;
    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}

/// One end of a stream.
pub(crate) struct Stream {
    outbound: mpsc::Sender<Bytes>,
    inbound: Streaming<Bytes>,
    /// Messages that came before they were expected.
    early: Vec<Bytes>,
}

impl Stream {
    pub(crate) async fn send(&self, message: Bytes) {
        within_bound("the other end reads", self.outbound.send(message))
            .await
            .unwrap();
    }

    /// The first message that came before it was expected and that `is_expected` now.
    pub(crate) fn take_early(&mut self, is_expected: impl Fn(&Bytes) -> bool) -> Option<Bytes> {
        let place = self.early.iter().position(is_expected)?;
        Some(self.early.remove(place))
    }

    /// Keeps a message that is not expected yet.
    pub(crate) fn keep(&mut self, message: Bytes) {
        self.early.push(message);
    }

    /// The next message; `None` once the other end has closed the stream.
    pub(crate) async fn next(&mut self) -> Option<Bytes> {
        let message = within_bound("the other end says something", self.inbound.message()).await;
        message.unwrap()
    }
}

/// The container's end of a stream to the frontend at `address`, which opens with this registration.
pub(crate) async fn attach(address: SocketAddr, register: Bytes) -> Stream {
    let channel = Endpoint::from_shared(format!("http://{address}")).unwrap();
    let mut client = tonic::client::Grpc::new(channel.connect().await.unwrap());
    client.ready().await.unwrap();
    let (outbound, messages) = mpsc::channel(16);
    outbound.send(register).await.unwrap();
    let path = http::uri::PathAndQuery::from_static("/skysail.container.v1.ContainerService/Attach");
    let request = Request::new(ReceiverStream::new(messages));
    let attached = client.streaming(request, path, Raw).await.unwrap();
    Stream {
        outbound,
        inbound: attached.into_inner(),
        early: Vec::new(),
    }
}

/// A listening frontend; dropping it breaks every connection.
pub(crate) struct Frontend {
    pub(crate) address: SocketAddr,
    streams: mpsc::UnboundedReceiver<Stream>,
    server: JoinHandle<()>,
}

impl Frontend {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (attached, streams) = mpsc::unbounded_channel();
        let serve = Server::builder()
            .add_service(Door(attached))
            .serve_with_incoming(TcpListenerStream::new(listener));
        let server = tokio::spawn(async move { serve.await.unwrap() });
        Self {
            address,
            streams,
            server,
        }
    }

    /// The next stream a container opens.
    pub(crate) async fn attached(&mut self) -> Stream {
        within_bound("a container attaches", self.streams.recv())
            .await
            .unwrap()
    }
}

impl Drop for Frontend {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// Answers `Attach`, whatever path is asked for.
#[derive(Clone)]
struct Door(mpsc::UnboundedSender<Stream>);

impl NamedService for Door {
    const NAME: &'static str = "skysail.container.v1.ContainerService";
}

impl StreamingService<Bytes> for Door {
    type Response = Bytes;
    type ResponseStream =
        tokio_stream::adapters::Map<ReceiverStream<Bytes>, fn(Bytes) -> Result<Bytes, Status>>;
    type Future = std::future::Ready<Result<Response<Self::ResponseStream>, Status>>;
    fn call(&mut self, request: Request<Streaming<Bytes>>) -> Self::Future {
        let (outbound, answers) = mpsc::channel(16);
        let inbound = request.into_inner();
        let early = Vec::new();
        let _ = self.0.send(Stream {
            outbound,
            inbound,
            early,
        });
        let answers = tokio_stream::StreamExt::map(ReceiverStream::new(answers), Ok as fn(_) -> _);
        std::future::ready(Ok(Response::new(answers)))
    }
}

impl<B> Service<http::Request<B>> for Door
where
    B: Body + Send + 'static,
    B::Error: Into<StdError> + Send + 'static,
{
    type Response = http::Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Self::Error>;
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }
    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let door = self.clone();
        Box::pin(async move { Ok(Grpc::new(Raw).streaming(door, request).await) })
    }
}

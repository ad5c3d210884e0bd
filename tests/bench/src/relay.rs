//! The bare relay: what it costs to take a body by HTTP, send it to a container and send the container's answer back,
//! with the same libraries as Skysail and nothing else.
//!
//! axum takes the body, one stream of the container protocol carries it, and the bare container answers the mean of its
//! floats. No queue, no batches, no deadline, no check. With `--parse` the relay makes floats of the JSON first, as
//! every server must that a client sends JSON; without, the container gets as many bytes of the body as it takes floats.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::process;
use std::sync::{Arc, Mutex};

use anyhow::{Context, bail};
use axum::Router;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::serve::ListenerExt;
use bytes::Bytes;
use skysail_proto::container::container_service_client::ContainerServiceClient;
use skysail_proto::container::container_service_server::{ContainerService, ContainerServiceServer};
use skysail_proto::container::{
    Batch, BatchResult, ContainerMessage, FrontendMessage, Outputs, batch_result, container_message,
    frontend_message,
};
use skysail_tests::program::Program;
use skysail_tests::wait::{self, PATIENCE};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Endpoint;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Status, Streaming};

use crate::arguments;
use crate::closed_loop::request::IMAGE;

/// What it prints once it serves, before the two addresses.
const LISTENING: &str = "relay listening addr=";

/// What the echo answers in its place.
pub(crate) const ANSWER: &str = r#"{"query_id":1,"output":{"mean":0.5},"default":false}"#;

/// Flow-control windows and frames as large as Skysail's, so that bodies travel alike.
const WINDOW_BYTES: u32 = 64 * 1024 * 1024;
const FRAME_BYTES: u32 = 1024 * 1024;

/// Messages that wait for the stream.
const OUTBOUND: usize = 64;

/// The bytes of an image's floats.
const IMAGE_BYTES: usize = IMAGE[0] * IMAGE[1] * IMAGE[2] * size_of::<f32>();

/// A running relay with its container; both end when this is dropped.
pub(crate) struct Relay {
    program: Program,
    container: Program,
    pub(crate) addr: SocketAddr,
}

impl Relay {
    pub(crate) async fn start(parses: bool, worker_threads: usize) -> anyhow::Result<Self> {
        let own = std::env::current_exe()?;
        let mut command = process::Command::new(&own);
        command
            .args(["relay", "--worker-threads"])
            .arg(worker_threads.to_string());
        command.args(parses.then_some("--parse"));
        let program = Program::start("the relay", command);
        let (addr, containers) = wait::find("the relay to listen", PATIENCE, async || {
            let lines = program.log().lines();
            lines.iter().find_map(|line| {
                let (addr, containers) = line.strip_prefix(LISTENING)?.split_once(' ')?;
                Some((addr.parse().ok()?, containers.to_owned()))
            })
        })
        .await;
        let mut command = process::Command::new(own);
        command.args(["bare-container", "--relay", &containers]);
        let container = Program::start("the bare container", command);
        Ok(Self {
            program,
            container,
            addr,
        })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.program.pid()
    }

    pub(crate) fn container_pid(&self) -> u32 {
        self.container.pid()
    }
}

/// Serves until it is killed.
pub(crate) fn run(relay: &arguments::Relay) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(relay.worker_threads.get())
        .enable_all()
        .build()
        .context("the async runtime cannot be started")?;
    let served: Infallible = runtime.block_on(serve(relay.parse))?;
    match served {}
}

async fn serve(parses: bool) -> anyhow::Result<Infallible> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let containers = TcpListener::bind("127.0.0.1:0").await?;
    println!(
        "{LISTENING}{} {}",
        listener.local_addr()?,
        containers.local_addr()?
    );
    let line = Arc::new(Line {
        parses,
        stream: Mutex::default(),
        asked: Mutex::default(),
    });
    let door = ContainerServiceServer::new(Door(Arc::clone(&line)))
        .max_decoding_message_size(usize::MAX)
        .max_encoding_message_size(usize::MAX);
    let containers = tonic::transport::Server::builder()
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        .max_frame_size(FRAME_BYTES)
        .add_service(door)
        .serve_with_incoming(TcpIncoming::from(containers).with_nodelay(Some(true)));
    let listener = listener.tap_io(|stream| {
        // As in the echo.
        let _ = stream.set_nodelay(true);
    });
    let router = Router::new()
        .route("/{application}/predict", post(respond))
        .layer(DefaultBodyLimit::disable())
        .with_state(line);
    tokio::select! {
        ended = containers => ended?,
        ended = axum::serve(listener, router) => ended?,
    }
    bail!("the relay stopped serving")
}

/// The stream to the container, and who waits for its answers.
struct Line {
    parses: bool,
    stream: Mutex<Option<mpsc::Sender<Result<FrontendMessage, Status>>>>,
    asked: Mutex<HashMap<u64, oneshot::Sender<Bytes>>>,
}

/// A request body of the query API, of which nothing but the floats is read.
#[derive(serde::Deserialize)]
struct Body {
    input: Input,
}

#[derive(serde::Deserialize)]
struct Input {
    image: Vec<Vec<Vec<f32>>>,
}

impl Line {
    async fn ask(&self, body: Bytes) -> anyhow::Result<Bytes> {
        let data = if self.parses {
            floats(&body)?
        } else {
            body.slice(..IMAGE_BYTES)
        };
        let (answer, answered) = oneshot::channel();
        let id = fastrand::u64(..);
        let stream = self.stream.lock().expect("no holder panics").clone();
        self.asked.lock().expect("no holder panics").insert(id, answer);
        let batch = Batch {
            id,
            data,
            lengths: vec![1],
            ..Batch::default()
        };
        let message = FrontendMessage {
            kind: Some(frontend_message::Kind::Batch(batch)),
        };
        let stream = stream.context("no container is there")?;
        stream.send(Ok(message)).await.context("the container is gone")?;
        answered.await.context("the container is gone")
    }
}

fn floats(body: &[u8]) -> anyhow::Result<Bytes> {
    let body: Body = serde_json::from_slice(body)?;
    let mut data = Vec::with_capacity(IMAGE_BYTES);
    for number in body.input.image.iter().flatten().flatten() {
        data.extend_from_slice(&number.to_le_bytes());
    }
    Ok(data.into())
}

async fn respond(State(line): State<Arc<Line>>, body: Bytes) -> Response {
    match line.ask(body).await {
        Ok(answer) => ([(CONTENT_TYPE, "application/json")], answer).into_response(),
        Err(error) => (StatusCode::BAD_GATEWAY, format!("{error:#}")).into_response(),
    }
}

/// Takes the container in.
struct Door(Arc<Line>);

#[tonic::async_trait]
impl ContainerService for Door {
    type AttachStream = ReceiverStream<Result<FrontendMessage, Status>>;

    async fn attach(
        &self,
        request: Request<Streaming<ContainerMessage>>,
    ) -> Result<tonic::Response<Self::AttachStream>, Status> {
        let (outbound, messages) = mpsc::channel(OUTBOUND);
        *self.0.stream.lock().expect("no holder panics") = Some(outbound);
        let line = Arc::clone(&self.0);
        let mut inbound = request.into_inner();
        tokio::spawn(async move {
            while let Ok(Some(message)) = inbound.message().await {
                let Some(container_message::Kind::Result(result)) = message.kind else {
                    continue;
                };
                let asked = line.asked.lock().expect("no holder panics").remove(&result.id);
                if let (Some(asked), Some(batch_result::Outcome::Outputs(outputs))) = (asked, result.outcome)
                {
                    let _ = asked.send(outputs.data);
                }
            }
        });
        Ok(tonic::Response::new(ReceiverStream::new(messages)))
    }
}

/// Answers the mean of each batch's floats until it is killed.
pub(crate) fn run_container(container: &arguments::BareContainer) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("the async runtime cannot be started")?;
    runtime.block_on(attach(container.relay))
}

async fn attach(relay: SocketAddr) -> anyhow::Result<()> {
    let channel = Endpoint::from_shared(format!("http://{relay}"))?
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        .tcp_nodelay(true)
        .connect()
        .await?;
    let mut client = ContainerServiceClient::new(channel)
        .max_decoding_message_size(usize::MAX)
        .max_encoding_message_size(usize::MAX);
    let (answers, messages) = mpsc::channel(OUTBOUND);
    let mut batches = client.attach(ReceiverStream::new(messages)).await?.into_inner();
    while let Some(message) = batches.message().await? {
        if let Some(frontend_message::Kind::Batch(batch)) = message.kind {
            answers.send(answer(&batch)).await?;
        }
    }
    Ok(())
}

fn answer(batch: &Batch) -> ContainerMessage {
    let (floats, _) = batch.data.as_chunks::<4>();
    let sum: f32 = floats.iter().map(|&bytes| f32::from_le_bytes(bytes)).sum();
    let mean = sum / floats.len() as f32;
    let mean = if mean.is_finite() { mean } else { 0.0 };
    let text = format!(r#"{{"query_id":1,"output":{{"mean":{mean}}},"default":false}}"#);
    let outputs = Outputs {
        lengths: vec![u32::try_from(text.len()).unwrap_or(0)],
        data: text.into(),
        ..Outputs::default()
    };
    ContainerMessage {
        kind: Some(container_message::Kind::Result(BatchResult {
            id: batch.id,
            outcome: Some(batch_result::Outcome::Outputs(outputs)),
            ..BatchResult::default()
        })),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bare_container_answers_the_mean() {
        let data: Vec<u8> = [1.0_f32, 2.0]
            .iter()
            .flat_map(|number| number.to_le_bytes())
            .collect();
        let batch = Batch {
            data: data.into(),
            ..Batch::default()
        };
        let message = format!("{:?}", answer(&batch));
        assert!(message.contains("1.5"), "{message}");
    }
}

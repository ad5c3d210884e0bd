//! The bare echo: what HTTP alone costs with the same libraries, and so the most that a server built on them
//! can do.
//!
//! It reads each body whole and sends the same answer, which is one of Skysail's, byte for byte; the same
//! path, the same allocator, as many threads as the frontend, and answers that go out at once as there.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::process;

use anyhow::Context;
use axum::Router;
use axum::extract::{Path, State};
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::post;
use axum::serve::ListenerExt;
use bytes::Bytes;
use skysail_tests::program::Program;
use skysail_tests::wait::{self, PATIENCE};
use tokio::net::TcpListener;

use crate::arguments;

/// What it prints once it listens, before the address.
const LISTENING: &str = "echo listening addr=";

/// A running echo; it ends when this is dropped.
pub(crate) struct Echo {
    program: Program,
    pub(crate) addr: SocketAddr,
}

impl Echo {
    /// Starts an echo on as many threads that answers so.
    pub(crate) async fn start(answer: &str, worker_threads: usize) -> anyhow::Result<Self> {
        let mut command = process::Command::new(std::env::current_exe()?);
        command.args(["echo", "--answer", answer, "--worker-threads"]);
        command.arg(worker_threads.to_string());
        let program = Program::start("the echo", command);
        let addr = wait::find("the echo to listen", PATIENCE, async || {
            let lines = program.log().lines();
            lines
                .iter()
                .find_map(|line| line.strip_prefix(LISTENING)?.parse().ok())
        })
        .await;
        Ok(Self { program, addr })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.program.pid()
    }
}

/// Serves until it is killed.
pub(crate) fn run(echo: &arguments::Echo) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(echo.worker_threads.get())
        .enable_all()
        .build()
        .context("the async runtime cannot be started")?;
    let served: Infallible = runtime.block_on(serve(Bytes::from(echo.answer.clone())))?;
    match served {}
}

async fn serve(answer: Bytes) -> anyhow::Result<Infallible> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("{LISTENING}{}", listener.local_addr()?);
    let listener = listener.tap_io(|stream| {
        // Without it the figures would be the worse for the echo, never for Skysail.
        let _ = stream.set_nodelay(true);
    });
    let router = Router::new()
        .route("/{application}/predict", post(respond))
        .with_state(answer);
    axum::serve(listener, router).await?;
    anyhow::bail!("the echo stopped serving")
}

/// The whole body is read before this is called.
async fn respond(State(answer): State<Bytes>, _application: Path<String>, _body: Bytes) -> impl IntoResponse {
    ([(CONTENT_TYPE, "application/json")], answer)
}

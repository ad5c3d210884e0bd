//! The container's end of the stream.
//!
//! Two threads: one for the model, one for everything else. On the second, a task for each frontend keeps
//! its stream up (`connection`), and one more (`container`) owns the credits and passes batches to the
//! model and results back.

mod connection;
mod container;
mod model_thread;
mod recent;
mod reconnect;
mod warm_up;

use std::error::Error;
use std::future::Future;
use std::io::IsTerminal;
use std::pin::pin;
use std::process::ExitCode;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::{error, info};
use tracing_subscriber::EnvFilter;

use crate::model::Model;
use crate::settings::{Settings, SettingsError};
use container::Container;
use model_thread::ModelThread;
use recent::RecentBatches;
use warm_up::WarmUp;

/// Why a container stopped serving, other than being asked to.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The environment does not say what to serve.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// Another container registered with the same replica id, which the cluster now uses.
    #[error(
        "another container took this one's place at {frontend}: {words}; give each its own SKYSAIL_REPLICA_ID"
    )]
    Superseded {
        /// Where.
        frontend: String,
        /// In the frontend's words.
        words: String,
    },
    /// The operating system does not let it.
    #[error("cannot start")]
    System(#[source] std::io::Error),
}

/// Serves a model: the whole `main` of a container.
///
/// Reads [`Settings`] from the environment, dials the frontends, and answers their batches until SIGTERM or
/// SIGINT; then answers what it holds and returns success. A second signal ends the process at once. Logs go
/// to stderr; `RUST_LOG` chooses what (default `info`).
pub fn serve(model: impl Model) -> ExitCode {
    let served = block_on_signals(model);
    let Err(error) = served else {
        return ExitCode::SUCCESS;
    };
    error!("{}", chain(&error));
    match error {
        ServeError::Settings(_) => ExitCode::from(2),
        _ => ExitCode::FAILURE,
    }
}

/// Serves a model with these settings until `shutdown` is ready, then answers what is in hand.
///
/// The model warms up first, and the container registers once it has; a `shutdown` meanwhile is obeyed at once.
///
/// For those who bring their own runtime (tokio's, with network and time); [`serve`] is for a `main`.
pub async fn serve_with(
    settings: Settings,
    model: impl Model,
    shutdown: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    let ModelThread {
        warmed_up,
        to_model,
        finished,
    } = model_thread::spawn(model, WarmUp::of(&settings)).map_err(ServeError::System)?;
    let mut shutdown = pin!(shutdown);
    let samples = tokio::select! {
        warmed_up = warmed_up => warmed_up.expect("the thread ends after the container; this is a bug"),
        () = &mut shutdown => {
            info!("asked to end before the model was warm");
            return Ok(());
        }
    };
    let (container, heard) = Container::new(&settings, to_model, RecentBatches::new(samples));
    info!(
        model = %settings.model,
        replica = %settings.replica,
        frontends = settings.frontends.join(","),
        "serving"
    );
    container.run(heard, finished, shutdown).await
}

fn block_on_signals(model: impl Model) -> Result<(), ServeError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(ServeError::System)?;
    let served = runtime.block_on(async {
        // Before anything else: as process 1 of a container, this one ignores a signal it has no handler for.
        let signals = Signals::install().map_err(ServeError::System)?;
        log_to_stderr();
        let settings = Settings::from_env()?;
        serve_with(settings, model, signals.first()).await
    });
    // Not dropped, which would wait for a name being looked up.
    runtime.shutdown_background();
    served
}

/// SIGTERM and SIGINT.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn install() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Waits for the first; from then on, the next ends the process.
    async fn first(mut self) {
        self.next().await;
        tokio::spawn(async move {
            let number = self.next().await;
            // What a shell says of a process that a signal ended.
            std::process::exit(128 + number.as_raw_value());
        });
    }

    async fn next(&mut self) -> SignalKind {
        tokio::select! {
            _ = self.terminate.recv() => SignalKind::terminate(),
            _ = self.interrupt.recv() => SignalKind::interrupt(),
        }
    }
}

fn log_to_stderr() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    // Where the program has its own logger already, that one stays.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .try_init();
}

/// An error with its causes, in one line.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

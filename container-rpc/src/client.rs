//! The container's end of the stream.
//!
//! Two threads: one for the model, one for everything else. On the second, a task for each frontend keeps
//! its stream up (`connection`), and one more (`container`) owns the credits and passes batches to the
//! model and results back.

mod agreement;
mod connection;
mod container;
mod model_thread;
mod recent;
mod reconnect;
mod warm_up;

use std::error::Error;
use std::future::Future;
use std::pin::pin;
use std::process::ExitCode;
use std::time::Duration;

use skysail_process::log::{self, Delivery, Format, StartError};
use skysail_process::{signals, variables};
use skysail_proto::signature::Signature;
use tokio::sync::oneshot;
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
    /// The model takes and gives something else than its environment declares.
    #[error(
        "the model is `{own}`, and the environment declares `{declared}` (SKYSAIL_INPUT_TYPE, SKYSAIL_SIGNATURE): \
         deploy it with the model's signature, or without one"
    )]
    Signature {
        /// What the model says.
        own: Box<Signature>,
        /// What the environment says.
        declared: Box<Signature>,
    },
    /// The model takes tensors, and nobody says which.
    #[error(
        "the model takes tensors, and nobody says which: set SKYSAIL_SIGNATURE to the JSON of its signature, as in \
         {{\"inputs\":[{{\"name\":\"image\",\"datatype\":\"FP32\",\"shape\":[224,224,3]}}]}}, or have the model say it \
         (`Model::signature`)"
    )]
    Undeclared,
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
/// Reads [`Settings`] from the environment, dials the frontends, and answers their batches until SIGTERM,
/// SIGINT, SIGQUIT or SIGHUP (unless it was ignored at the start); then answers what it holds and returns
/// success. A second signal ends the process at once.
///
/// Logs and the messages of panics go to stderr; `RUST_LOG` chooses what (default `info`). Nothing ever waits
/// for long until they are read. A program that has a logger of its own keeps it, and its panic hook.
pub fn serve(model: impl Model) -> ExitCode {
    let served = block_on_signals(model);
    let code = served.map_or_else(|error| failed(&error), |()| ExitCode::SUCCESS);
    log::finish();
    code
}

fn failed(error: &ServeError) -> ExitCode {
    error!("{}", chain(error));
    match error {
        ServeError::Settings(_) | ServeError::Signature { .. } | ServeError::Undeclared => ExitCode::from(2),
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
    let settings = Settings {
        signature: agreement::reached(settings.signature, model.signature())?,
        ..settings
    };
    let annotations = model.annotations();
    let warm_up = WarmUp::of(&settings)?;
    let ModelThread {
        warmed_up,
        to_model,
        finished,
    } = model_thread::spawn(model, warm_up).map_err(ServeError::System)?;
    let mut shutdown = pin!(shutdown);
    let samples = tokio::select! {
        warmed_up = warmed_up => warmed_up.expect("the thread ends after the container; this is a bug"),
        () = &mut shutdown => {
            info!("asked to end before the model was warm");
            return Ok(());
        }
    };
    let (container, heard) = Container::new(&settings, annotations, to_model, RecentBatches::new(samples));
    info!(
        model = %settings.model,
        signature = %settings.signature,
        replica = %settings.replica,
        frontends = settings.frontends.join(","),
        "serving"
    );
    container.run(heard, finished, shutdown).await
}

fn block_on_signals(model: impl Model) -> Result<(), ServeError> {
    // Before anything else: as process 1 of a container, this one ignores a signal it has no handler for.
    let (end, ended) = oneshot::channel();
    signals::watch(move || {
        let _ = end.send(());
    })
    .map_err(ServeError::System)?;
    log_to_stderr()?;
    let settings = Settings::from_env()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(ServeError::System)?;
    let served = runtime.block_on(serve_with(settings, model, async {
        // An error would say that the thread for signals is gone, and then none will come.
        if ended.await.is_err() {
            std::future::pending().await
        }
    }));
    // Not dropped, which would wait for a name being looked up.
    runtime.shutdown_background();
    served
}

/// What a model logs as its last words before it ends the process by itself is to be read. A line takes the
/// time of a write; where the reader does not read, one line takes this and the next ones nothing.
const DELIVERY: Delivery = Delivery::Awaited(Duration::from_millis(50));

fn log_to_stderr() -> Result<(), ServeError> {
    // `EnvFilter`'s own reader takes an empty variable for "errors only".
    let filter = variables::read(EnvFilter::DEFAULT_ENV);
    let filter = filter.and_then(|filter| EnvFilter::try_new(filter).ok());
    let filter = filter.unwrap_or_else(|| EnvFilter::new("info"));
    match log::start(filter, Format::Text, DELIVERY) {
        Ok(()) | Err(StartError::Present) => Ok(()),
        Err(StartError::NoThread(error)) => Err(ServeError::System(error)),
    }
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

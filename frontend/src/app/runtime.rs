//! Opens the configured container runtime, and makes the tasks that it needs.

use std::sync::Arc;

use futures::future::BoxFuture;
use tracing::warn;

use super::parts::{Part, Stage, Thread};
use crate::artifacts::ArtifactFolder;
use crate::config::{Config, RuntimeKind};
use crate::orphans::{self, Orphans};
use crate::runtime::docker::DockerRuntime;
use crate::runtime::process::ProcessRuntime;
use crate::runtime::{ContainerRuntime, RuntimeError};

/// A runtime that can be used once its tasks run.
pub(super) struct Opened {
    /// `None` without the control role, or if containers are started by other means.
    pub(super) runtime: Option<Arc<dyn ContainerRuntime>>,
    pub(super) parts: Vec<Part>,
    /// Removes everything that was made here, for a frontend that cannot start.
    pub(super) undo: BoxFuture<'static, ()>,
}

/// Opens the runtime. Must be called within the control thread's runtime, which reads the containers' output
/// and the engine's events.
pub(super) fn open(config: &Config) -> Result<Opened, RuntimeError> {
    let kind = match config.roles.control {
        true => config.runtime,
        false => RuntimeKind::None,
    };
    Ok(match kind {
        RuntimeKind::Process => process(config)?,
        RuntimeKind::Docker => docker(config),
        RuntimeKind::None => Opened {
            runtime: None,
            parts: reaper(|| async { orphans::reap(|_| false) })
                .into_iter()
                .collect(),
            undo: Box::pin(async {}),
        },
    })
}

fn process(config: &Config) -> Result<Opened, RuntimeError> {
    let artifacts = ArtifactFolder::at(config.artifacts.clone());
    let runtime = Arc::new(ProcessRuntime::new()?.with_artifacts(artifacts));
    let processes = runtime.clone();
    let reaper = reaper(move || {
        let processes = processes.clone();
        async move { processes.reap_orphans().await }
    });
    Ok(Opened {
        runtime: Some(runtime),
        parts: reaper.into_iter().collect(),
        undo: Box::pin(async {}),
    })
}

fn docker(config: &Config) -> Opened {
    let (runtime, events) = DockerRuntime::connect(config.docker_host.as_deref(), config.cluster.clone());
    let runtime = Arc::new(runtime);
    let made = runtime.clone();
    let events = Part::new(
        "Docker event follower",
        Stage::Background,
        Thread::Control,
        events,
    );
    // The frontend has no child processes of its own.
    let reaper = reaper(|| async { orphans::reap(|_| false) });
    Opened {
        runtime: Some(runtime),
        parts: [events].into_iter().chain(reaper).collect(),
        undo: Box::pin(async move {
            // The reason why the frontend cannot start matters more than this error. The next run removes a
            // leftover network when it ends.
            let _ = made.leave_made().await;
        }),
    }
}

/// The task that reaps orphans, if they become children of this process.
fn reaper<R>(reap: impl Fn() -> R + Send + Sync + 'static) -> Option<Part>
where
    R: Future<Output = ()> + Send,
{
    let mut orphans = match Orphans::watch() {
        Ok(orphans) => orphans?,
        Err(error) => {
            warn!(%error, "orphans are not reaped");
            return None;
        }
    };
    let task = async move {
        loop {
            reap().await;
            orphans.ended().await;
        }
    };
    Some(Part::new(
        "orphan reaper",
        Stage::Background,
        Thread::Control,
        task,
    ))
}

//! Applies one action; nothing is left to choose.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use jiff::Timestamp;
use skysail_core::reconcile::{Action, StopReason};
use skysail_proto::admin::Failure;
use skysail_proto::ids::{ModelId, ReplicaId};
use tracing::{info, warn};

use super::report::Report;
use crate::runtime::{ContainerRuntime, ContainerState, ContainerStatus, ReplicaSpec, RuntimeError};

/// Log lines kept of a container that failed.
const LAST_LINES: usize = 20;

/// How long to wait for those lines: the container has ended, they are there or they are not.
const LOG_TIME: Duration = Duration::from_secs(3);

/// What came of an action.
pub(super) enum Applied {
    /// It is done.
    Done,
    /// A container of this version failed, or could not be started: pause before the next.
    Failed(ModelId),
}

/// Has what actions need.
pub(super) struct Applier {
    pub(super) runtime: Arc<dyn ContainerRuntime>,
    pub(super) report: Arc<Report>,
    pub(super) stop_grace: Duration,
}

impl Applier {
    pub(super) async fn apply(&self, action: Action) -> Applied {
        match action {
            Action::Start(spec) => self.start(*spec).await,
            Action::Stop { found, reason } => self.stop(found, reason).await,
            Action::Bury(status) => self.bury(status).await,
        }
    }

    async fn start(&self, spec: ReplicaSpec) -> Applied {
        info!(
            container = spec.container,
            image = spec.image,
            "container starting"
        );
        let (report, model) = (self.report.clone(), spec.model.clone());
        let progress = move |words: &str| report.set_progress(&model, Some(words));
        let started = self.runtime.start(&spec, &progress).await;
        self.report.set_progress(&spec.model, None);
        let Err(error) = started else { return Applied::Done };
        warn!(container = spec.container, %error, "container not started");
        let permanent = matches!(error, RuntimeError::Image(_));
        let reason = error.to_string();
        self.report
            .failed(&spec.model, failure(spec.replica, reason, permanent));
        Applied::Failed(spec.model)
    }

    async fn stop(&self, found: ContainerStatus, reason: StopReason) -> Applied {
        let ContainerStatus {
            container,
            replica,
            model,
            ..
        } = found;
        info!(container, ?reason, "container stopping");
        if let StopReason::NotAttached { was_attached } = reason {
            let sentence = if was_attached {
                "it lost its connection to the frontend and did not come back"
            } else {
                "it runs but did not connect to the frontend in time"
            };
            let mut failure = failure(replica, sentence.into(), false);
            failure.log = self.last_lines(&container).await;
            self.report.failed(&model, failure);
        }
        if let Err(error) = self.runtime.stop(&container, self.stop_grace).await {
            warn!(container, %error, "container not stopped");
        }
        match reason {
            StopReason::NotAttached { .. } => Applied::Failed(model),
            StopReason::NotWanted | StopReason::Outdated => Applied::Done,
        }
    }

    async fn bury(&self, status: ContainerStatus) -> Applied {
        let ContainerStatus {
            container,
            replica,
            model,
            state,
            ..
        } = status;
        let ContainerState::Exited { code, detail } = state else {
            return Applied::Done;
        };
        let reason = match detail {
            Some(detail) => format!("the container ended: {detail}"),
            None => format!("the container ended with exit code {code}"),
        };
        warn!(container, code, "container ended");
        let mut failure = failure(replica, reason, false);
        failure.exit_code = Some(code);
        failure.log = self.last_lines(&container).await;
        self.report.failed(&model, failure);
        if let Err(error) = self.runtime.stop(&container, Duration::ZERO).await {
            warn!(container, %error, "container not removed");
        }
        Applied::Failed(model)
    }

    async fn last_lines(&self, container: &str) -> Vec<String> {
        let read = async {
            let lines = self.runtime.logs(container, LAST_LINES, false).await.ok()?;
            Some(lines.collect::<Vec<_>>().await)
        };
        tokio::time::timeout(LOG_TIME, read)
            .await
            .ok()
            .flatten()
            .unwrap_or_default()
    }
}

fn failure(replica: ReplicaId, reason: String, permanent: bool) -> Failure {
    Failure {
        at: Timestamp::now(),
        replica,
        reason,
        exit_code: None,
        permanent,
        log: Vec::new(),
    }
}

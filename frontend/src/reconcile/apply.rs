//! Applies one action of a plan. All decisions were made before.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use jiff::Timestamp;
use skysail_core::catalog::Secret;
use skysail_core::reconcile::{Action, StopReason};
use skysail_proto::admin::Failure;
use skysail_proto::ids::{ModelId, ReplicaId};
use tracing::{info, warn};

use super::report::Report;
use crate::leadership::Leadership;
use crate::runtime::{ContainerRuntime, ContainerState, ContainerStatus, ReplicaSpec, RuntimeError};
use crate::store::CatalogStore;

/// How many log lines of a failed container are kept.
const LAST_LINES: usize = 20;

/// How long to wait for the log lines: the container has ended, so they are there already or lost.
const LOG_TIME: Duration = Duration::from_secs(3);

/// The grace of a container that serves nobody: nothing in it is worth waiting for.
const SHORT_GRACE: Duration = Duration::from_secs(1);

/// How long a container is left alone after an action on it failed.
pub(super) const RETRY: Duration = Duration::from_secs(1);

/// The error when the catalog has no key. The admin API writes a key with the first change.
const NO_KEY: &str = "the metadata store holds no key to make the container's token with: change anything \
                      (`skysail app update`, `skysail model scale`), which writes one";

/// The outcome of an action.
pub(super) enum Applied {
    /// The action is done, or was left because this frontend no longer acts.
    Done,
    /// A container of this version failed, or could not be started: pause before the next start.
    Failed(ModelId),
}

/// Everything that actions need.
pub(super) struct Applier {
    pub(super) runtime: Arc<dyn ContainerRuntime>,
    /// Receives the meaning of names ([`CatalogStore::commit_under`]), and has the key that tokens are made
    /// with.
    pub(super) store: Arc<dyn CatalogStore>,
    /// Asked before each command to the runtime.
    pub(super) leadership: Arc<Leadership>,
    pub(super) report: Arc<Report>,
    pub(super) stop_grace: Duration,
}

impl Applier {
    pub(super) async fn apply(&self, action: Action) -> Applied {
        match action {
            Action::Resolve { spec, registered_at } => self.resolve(*spec, registered_at).await,
            Action::Start(spec) => self.start(*spec).await,
            Action::Stop { found, reason } => self.stop(found, reason).await,
            Action::Bury(status) => self.bury(status).await,
        }
    }

    async fn start(&self, spec: ReplicaSpec) -> Applied {
        if !self.may_act().await {
            return Applied::Done;
        }
        let Some(key) = self.key() else {
            warn!(
                container = spec.container,
                reason = NO_KEY,
                "container not started: no key for tokens"
            );
            self.report
                .failed(&spec.model, failure(spec.replica, NO_KEY.into(), false));
            return Applied::Failed(spec.model);
        };
        let spec = spec.started_with(fresh_start(), &key);
        info!(
            container = spec.container,
            image = spec.image,
            "container starting"
        );
        let (report, model) = (self.report.clone(), spec.model.clone());
        let progress = move |words: &str| report.set_progress(&model, Some(words));
        let started = self.runtime.start(&spec, &progress).await;
        self.report.set_progress(&spec.model, None);
        // Moved names are looked for at once: an operator who checks on the started container should see them.
        self.report.look_for_moves();
        match started {
            Ok(()) => Applied::Done,
            Err(error) => self.not_started(spec, &error),
        }
    }

    pub(super) fn not_started(&self, spec: ReplicaSpec, error: &RuntimeError) -> Applied {
        if matches!(error, RuntimeError::NameTaken(_)) {
            // Not a failure of the version: two servers chose one name in the same moment.
            info!(container = spec.container, %error, "container not started");
            return Applied::Done;
        }
        warn!(container = spec.container, %error, "container not started");
        let permanent = matches!(error, RuntimeError::Image(_));
        let reason = error.to_string();
        self.report
            .failed(&spec.model, failure(spec.replica, reason, permanent));
        Applied::Failed(spec.model)
    }

    fn key(&self) -> Option<Secret> {
        self.store
            .watch()
            .borrow()
            .as_ref()?
            .settings
            .container_key
            .clone()
    }

    async fn stop(&self, found: ContainerStatus, reason: StopReason) -> Applied {
        let ContainerStatus {
            container,
            replica,
            model,
            ..
        } = found;
        let Some(why) = failing(reason) else {
            if self.may_act().await {
                info!(container, ?reason, "container stopping");
                self.end(&container, self.stop_grace).await;
            }
            return Applied::Done;
        };
        let mut failure = failure(replica, why.into(), false);
        failure.log = self.last_lines(&container).await;
        if !self.may_act().await {
            return Applied::Done;
        }
        warn!(container, why, "container stopping");
        self.report.failed(&model, failure);
        self.end(&container, SHORT_GRACE).await;
        Applied::Failed(model)
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
        let mut failure = failure(replica, reason, false);
        failure.exit_code = Some(code);
        failure.log = self.last_lines(&container).await;
        if !self.may_act().await {
            return Applied::Done;
        }
        warn!(container, code, reason = failure.reason, "container ended");
        self.report.failed(&model, failure);
        self.end(&container, Duration::ZERO).await;
        Applied::Failed(model)
    }

    /// Whether this frontend still acts as the control role. Asked before each command to the runtime, and
    /// after each step that takes time.
    pub(super) async fn may_act(&self) -> bool {
        let acts = self.leadership.confirm().await.is_some();
        if !acts {
            tokio::time::sleep(RETRY).await;
        }
        acts
    }

    async fn end(&self, container: &str, grace: Duration) {
        if let Err(error) = self.runtime.stop(container, grace).await {
            warn!(container, %error, "container not stopped; trying again");
            tokio::time::sleep(RETRY).await;
        }
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

/// The problem of a container that is stopped for this reason, if it has one.
fn failing(reason: StopReason) -> Option<&'static str> {
    match reason {
        StopReason::NotWanted | StopReason::Outdated => None,
        StopReason::NotAttached { was_attached: true } => {
            Some("it lost its connections to the frontends and did not come back")
        }
        StopReason::NotAttached { was_attached: false } => {
            Some("it runs but did not connect to a frontend in time")
        }
        StopReason::Hung => Some("it hung: a batch was not answered for far longer than its model ever took"),
    }
}

/// A random id of a start, 32 hex digits; unique, not secret.
fn fresh_start() -> String {
    format!("{:016x}{:016x}", fastrand::u64(..), fastrand::u64(..))
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

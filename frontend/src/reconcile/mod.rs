//! Reconcile: a loop that observes, plans and applies, woken by changes and by a tick.
//!
//! A pass takes no input, so a crash between any two steps is repaired by the next. At most one action is
//! at work on a container at a time; those of different containers do not wait for each other, so that an
//! image that takes minutes to pull delays nobody else.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use skysail_core::catalog::Catalog;
use skysail_core::reconcile::{Action, History, Observed, Patience, Placement, plan};
use skysail_core::time::Instant;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use crate::clock::Clock;
use crate::model::replica::ReplicaTable;
use crate::runtime::ContainerRuntime;

mod apply;
mod report;

use apply::{Applied, Applier};

pub use report::{Report, VersionReport};

/// How often to look even if nothing seems to have changed.
const TICK: Duration = Duration::from_secs(10);

/// How soon to look again after the runtime could not be asked.
const RETRY: Duration = Duration::from_secs(1);

/// Keeps desired replicas running.
pub struct Reconciler {
    runtime: Arc<dyn ContainerRuntime>,
    catalog: watch::Receiver<Option<Arc<Catalog>>>,
    replicas: Arc<ReplicaTable>,
    placement: Placement,
    clock: Clock,
    stop_grace: Duration,
    history: Arc<Mutex<History>>,
    report: Arc<Report>,
}

/// What a reconciler is made of.
pub struct Parts {
    /// Starts and stops containers.
    pub runtime: Arc<dyn ContainerRuntime>,
    /// Desired state.
    pub catalog: watch::Receiver<Option<Arc<Catalog>>>,
    /// What is attached.
    pub replicas: Arc<ReplicaTable>,
    /// Where containers belong and whom they dial.
    pub placement: Placement,
    /// How long things may take.
    pub patience: Patience,
    /// The time.
    pub clock: Clock,
    /// How long a container may take to end when asked.
    pub stop_grace: Duration,
}

impl Reconciler {
    /// A reconciler, and where it reports what it sees.
    pub fn new(parts: Parts) -> (Self, Arc<Report>) {
        let Parts {
            runtime,
            catalog,
            replicas,
            placement,
            patience,
            clock,
            stop_grace,
        } = parts;
        let report = Arc::new(Report::default());
        let history = Arc::new(Mutex::new(History::new(patience)));
        let reconciler = Self {
            runtime,
            catalog,
            replicas,
            placement,
            clock,
            stop_grace,
            history,
            report: report.clone(),
        };
        (reconciler, report)
    }

    /// Runs until `shutdown`; actions at work are then let go (they are idempotent).
    pub async fn run(mut self, shutdown: CancellationToken) {
        let mut actions = JoinSet::new();
        let mut busy = BTreeSet::new();
        let (runtime_changed, mut replicas_changed) = (self.runtime.changes(), self.replicas.changed());
        loop {
            let look_again = self.pass(&mut actions, &mut busy).await;
            tokio::select! {
                () = shutdown.cancelled() => return,
                Some(done) = actions.join_next() => self.finish(done, &mut busy),
                changed = self.catalog.changed() => if changed.is_err() { return },
                () = runtime_changed.notified() => {}
                _ = replicas_changed.changed() => {}
                () = self.report.wake.notified() => {}
                () = tokio::time::sleep(look_again) => {}
            }
        }
    }

    /// Observes, plans, and sets the actions to work; returns how soon to look again.
    async fn pass(
        &mut self,
        actions: &mut JoinSet<(String, Applied)>,
        busy: &mut BTreeSet<String>,
    ) -> Duration {
        let Some(catalog) = self.catalog.borrow_and_update().clone() else {
            return TICK;
        };
        let containers = match self.runtime.list().await {
            Ok(containers) => containers,
            Err(error) => {
                if self.report.set_runtime_error(Some(error.to_string())) {
                    warn!(%error, "containers cannot be listed");
                }
                return RETRY;
            }
        };
        self.report.set_runtime_error(None);
        self.report.set_containers(&containers);
        self.report.keep_only(&catalog);
        self.report.recovered(&catalog, &self.replicas.ids());
        let now = self.clock.now();
        let observed = Observed {
            containers,
            attached: self.replicas.ids(),
            busy: busy.clone(),
        };
        let plan = self.plan(&catalog, &observed, now);
        for action in plan.actions {
            let container = container_of(&action).to_owned();
            busy.insert(container.clone());
            let applier = self.applier();
            actions.spawn(async move { (container, applier.apply(action).await) });
        }
        plan.look_again
            .map_or(TICK, |then| then.saturating_since(now).min(TICK))
    }

    fn plan(&self, catalog: &Catalog, observed: &Observed, now: Instant) -> skysail_core::reconcile::Plan {
        let mut history = self.history.lock();
        for model in self.report.take_forgiven() {
            history.forgive(&model);
        }
        history.keep_only(catalog);
        history.observe(observed, now);
        plan(catalog, observed, &history, &self.placement, now)
    }

    fn applier(&self) -> Applier {
        Applier {
            runtime: self.runtime.clone(),
            report: self.report.clone(),
            stop_grace: self.stop_grace,
        }
    }

    fn finish(&self, done: Result<(String, Applied), tokio::task::JoinError>, busy: &mut BTreeSet<String>) {
        let (container, outcome) = match done {
            Ok(done) => done,
            Err(error) => {
                // Its container stays busy, which is safer than acting on it again: a restart repairs it.
                error!(%error, "an action on a container ended in a panic; this is a bug");
                return;
            }
        };
        busy.remove(&container);
        if let Applied::Failed(model) = outcome {
            self.history.lock().failed(&model, self.clock.now());
        }
    }
}

fn container_of(action: &Action) -> &str {
    match action {
        Action::Start(spec) => &spec.container,
        Action::Stop { found, .. } | Action::Bury(found) => &found.container,
    }
}

//! Reconcile: a loop that observes, plans and applies, woken by changes and by a tick.
//!
//! A pass takes no input, so a crash between any two steps is repaired by the next pass. At most one action
//! works on a container at a time. Actions on different containers do not wait for each other: an image that
//! takes minutes to pull delays only its own containers.
//!
//! Several frontends may run this loop. All of them observe, so that another can continue when one ends. Only
//! the frontend that acts as the control role ([`Leadership`]) starts and stops containers.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use skysail_core::catalog::{Catalog, Version};
use skysail_core::cluster::{ClusterView, ContainersView};
use skysail_core::reconcile::{
    Action, AtWork, Doubt, Foreign, History, Observed, Patience, Placement, Plan, Work, doubt, plan,
};
use skysail_core::store::Lost;
use skysail_core::time::Instant;
use skysail_proto::ids::{ClusterName, ModelId};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::clock::Clock;
use crate::leadership::Leadership;
use crate::runtime::{ContainerRuntime, ContainerStatus};
use crate::store::CatalogStore;

mod apply;
mod learning;
mod moves;
mod report;
mod resolve;
mod rollout;
#[cfg(test)]
mod tests;

use apply::{Applied, Applier};

pub(crate) use learning::Learning;
pub(crate) use moves::Moves;
pub(crate) use report::Report;
pub(crate) use rollout::Rollouts;

/// How often to look even without a change.
const TICK: Duration = Duration::from_secs(10);

/// How soon to look again when the runtime did not answer, or the catalog was in doubt.
const RETRY: Duration = Duration::from_secs(1);

/// How long frontends may follow different catalogs before an operator is told. A catalog takes a moment to
/// reach all frontends, and the view of a killed frontend is forgotten after a few seconds.
const DIFFERENCE: Duration = Duration::from_secs(10);

/// Keeps desired replicas running.
pub(crate) struct Reconciler {
    parts: Parts,
    history: Arc<Mutex<History>>,
    report: Arc<Report>,
    /// Desired state.
    catalog: watch::Receiver<Option<Arc<Catalog>>>,
    /// The catalog of the last pass.
    before: Option<Arc<Catalog>>,
    /// When frontends began to follow different catalogs.
    differs_since: Option<Instant>,
}

/// The parts that a reconciler is made of.
pub(crate) struct Parts {
    /// Starts and stops containers.
    pub runtime: Arc<dyn ContainerRuntime>,
    /// Receives the part of the desired state that the control role finds out: the meaning of names.
    pub store: Arc<dyn CatalogStore>,
    /// The views of all live frontends, this one included.
    pub views: watch::Receiver<Arc<ClusterView>>,
    /// Whether this frontend acts.
    pub leadership: Arc<Leadership>,
    /// The cluster that containers belong to.
    pub cluster: ClusterName,
    /// The times allowed for starts, streams and pauses.
    pub patience: Patience,
    /// The time.
    pub clock: Clock,
    /// The grace of a container that is asked to end.
    pub stop_grace: Duration,
    /// Receives the observed state for the admin API.
    pub report: Arc<Report>,
}

/// The running actions, and the containers or versions that they work on.
#[derive(Default)]
struct Actions {
    running: JoinSet<(String, Applied)>,
    at_work: BTreeMap<String, AtWork>,
}

impl Reconciler {
    /// A reconciler.
    pub(crate) fn new(parts: Parts) -> Self {
        Self {
            history: Arc::new(Mutex::new(History::new(parts.patience))),
            report: parts.report.clone(),
            catalog: parts.store.watch(),
            parts,
            before: None,
            differs_since: None,
        }
    }

    /// Runs until `shutdown`. Actions that still run are dropped then; they are idempotent.
    pub(crate) async fn run(mut self, shutdown: CancellationToken) {
        let mut actions = Actions::default();
        let mut acting = self.parts.leadership.changes();
        let runtime_changed = self.parts.runtime.changes();
        loop {
            acting.mark_unchanged();
            let cluster = self.parts.views.borrow_and_update().clone();
            let look_again = self.pass(&cluster, &mut actions).await;
            tokio::select! {
                () = shutdown.cancelled() => return,
                Some(done) = actions.running.join_next() => self.finish(done, &mut actions.at_work),
                changed = self.catalog.changed() => if changed.is_err() { return },
                () = runtime_changed.notified() => {}
                changed = news(&mut self.parts.views, cluster.containers()) => if changed.is_err() { return },
                changed = acting.changed() => if changed.is_err() { return },
                () = self.report.wake.notified() => {}
                () = tokio::time::sleep(look_again) => {}
            }
        }
    }

    /// Observes, plans and starts the actions; returns how soon to look again.
    async fn pass(&mut self, cluster: &ClusterView, actions: &mut Actions) -> Duration {
        let seen = cluster.containers();
        let Some(catalog) = self.catalog.borrow_and_update().clone() else {
            return TICK;
        };
        let containers = match self.parts.runtime.list().await {
            Ok(containers) => containers,
            Err(error) => {
                if self.report.set_runtime_error(Some(error.to_string())) {
                    warn!(%error, "containers cannot be listed; those that run go on");
                }
                return RETRY;
            }
        };
        if self.report.set_runtime_error(None) {
            info!("containers can be listed again");
        }
        let (containers, foreign) = Foreign::part(containers, &catalog);
        self.report.set_containers(&containers);
        self.tell_foreign(&foreign);
        self.report.keep_only(&catalog);
        self.report.recovered(&catalog, cluster);
        let now = self.parts.clock.now();
        let doubted = self.is_doubted(&catalog, cluster, now);
        let observed = Observed {
            containers,
            foreign: foreign.replicas,
            attached: seen.attached.clone(),
            hung: seen.hung.clone(),
            at_work: actions.at_work.clone(),
        };
        let plan = self.plan(&catalog, &observed, seen, now);
        let acting = self.parts.leadership.acting().is_some();
        self.report.set_acting(acting);
        self.report
            .set_no_frontend(seen.addresses.is_empty() && wants_containers(&catalog));
        if doubted {
            return RETRY;
        }
        if !acting {
            return TICK;
        }
        for action in plan.actions {
            self.set_to_work(action, actions);
        }
        plan.look_again
            .map_or(TICK, |then| then.saturating_since(now).min(TICK))
    }

    /// Whether this catalog must not be acted on. A difference between frontends is reported once it lasts
    /// [`DIFFERENCE`].
    fn is_doubted(&mut self, catalog: &Catalog, cluster: &ClusterView, now: Instant) -> bool {
        let found = doubt(catalog, cluster);
        let doubted = found.is_some();
        let since = self.differs_since.filter(|_| doubted).unwrap_or(now);
        self.differs_since = doubted.then_some(since);
        let found = found.filter(|_| now.saturating_since(since) >= DIFFERENCE);
        let told = found.as_ref().map(told);
        let why = told.clone();
        if self.report.set_waits_for_a_person(told)
            && let Some(why) = why
        {
            error!(why, "a person has to decide");
        }
        doubted
    }

    /// Logs foreign containers when a new incarnation appears among them.
    fn tell_foreign(&self, foreign: &Foreign) {
        let sentence = foreign.sentence(&self.parts.cluster);
        if self.report.set_foreign(foreign.clone(), sentence.clone())
            && let Some(why) = sentence
        {
            error!(why, "containers of the cluster's name are not this store's");
        }
    }

    fn plan(
        &mut self,
        catalog: &Arc<Catalog>,
        observed: &Observed,
        seen: &ContainersView,
        now: Instant,
    ) -> Plan {
        let before = self.before.replace(catalog.clone());
        let placement = Placement {
            cluster: self.parts.cluster.clone(),
            incarnation: catalog.generation.incarnation.clone(),
            frontends: seen.addresses.clone(),
            key: catalog.settings.container_key.clone(),
        };
        let mut history = self.history.lock();
        for model in self.report.take_forgiven() {
            history.forgive(&model);
        }
        for model in before.iter().flat_map(|before| asked_for_anew(before, catalog)) {
            history.forgive(&model);
        }
        history.keep_only(catalog);
        history.observe(observed, &placement, now);
        plan(catalog, observed, &history, &placement, now)
    }

    fn set_to_work(&self, mut action: Action, actions: &mut Actions) {
        if let Action::Start(spec) | Action::Resolve { spec, .. } = &mut action {
            let runtime = &self.parts.runtime;
            spec.container = runtime.container_name(&self.parts.cluster, &spec.replica);
        }
        let (container, at_work) = work_of(&action);
        actions.at_work.insert(container.clone(), at_work);
        let applier = Applier {
            runtime: self.parts.runtime.clone(),
            store: self.parts.store.clone(),
            leadership: self.parts.leadership.clone(),
            report: self.report.clone(),
            stop_grace: self.parts.stop_grace,
        };
        actions
            .running
            .spawn(async move { (container, applier.apply(action).await) });
    }

    fn finish(
        &self,
        done: Result<(String, Applied), tokio::task::JoinError>,
        at_work: &mut BTreeMap<String, AtWork>,
    ) {
        let (container, outcome) = match done {
            Ok(done) => done,
            Err(error) => {
                // The container stays marked as at work, which is safer than acting on it again. A restart
                // repairs it.
                error!(%error, "an action on a container ended in a panic; this is a bug");
                return;
            }
        };
        at_work.remove(&container);
        if let Applied::Failed(model) = outcome {
            self.history.lock().failed(&model, self.parts.clock.now());
        }
    }
}

/// Why the store is in doubt, and what an operator can do.
fn told(doubt: &Doubt) -> String {
    let lost = match doubt.lost {
        Lost::Everything => "is empty",
        Lost::TheLatest => "went back",
        Lost::ItsIncarnation => "was begun anew or replaced",
    };
    format!(
        "the metadata store {lost}: frontend {} still serves what it held before, and nothing is started or stopped \
         on its word: decide what is right: `skysail cluster restore` writes the snapshot that a running frontend \
         holds back to the store, `skysail cluster accept-empty` goes by the store as it is",
        doubt.frontend
    )
}

/// Waits until the frontends' containers differ from `seen`; changed figures do not count.
async fn news(
    views: &mut watch::Receiver<Arc<ClusterView>>,
    seen: &ContainersView,
) -> Result<(), watch::error::RecvError> {
    loop {
        views.changed().await?;
        if views.borrow_and_update().containers() != seen {
            return Ok(());
        }
    }
}

/// The name under which an action is at work: a container's, or a version's as a whole.
fn work_of(action: &Action) -> (String, AtWork) {
    let of = |found: &ContainerStatus, work| {
        let replica = Some(found.replica.clone());
        (found.container.clone(), found.model.clone(), replica, work)
    };
    let (name, model, replica, work) = match action {
        Action::Resolve { spec, .. } => (spec.model.to_string(), spec.model.clone(), None, Work::Resolving),
        Action::Start(spec) => {
            let replica = Some(spec.replica.clone());
            (
                spec.container.clone(),
                spec.model.clone(),
                replica,
                Work::Starting,
            )
        }
        Action::Stop { found, .. } => of(found, Work::Ending),
        Action::Bury(found) => of(found, Work::Burying),
    };
    (name, AtWork { model, replica, work })
}

fn replicas_of(version: &Version) -> u32 {
    let deployment = version.spec.deployment.as_ref();
    deployment.map_or(0, |deployment| deployment.replicas)
}

fn wants_containers(catalog: &Catalog) -> bool {
    catalog.versions().any(|(_, version)| replicas_of(version) > 0)
}

/// The versions that an operator registered again or scaled, at any frontend: they are tried again at once.
fn asked_for_anew(before: &Catalog, catalog: &Catalog) -> Vec<ModelId> {
    let follows_the_load = |version: &Version| {
        let deployment = version.spec.deployment.as_ref();
        deployment.is_some_and(|deployment| deployment.autoscale.is_some())
    };
    let is_anew = |model: &ModelId, version: &Version| {
        before.version(model).is_some_and(|before| {
            let scaled = replicas_of(before) != replicas_of(version) && !follows_the_load(version);
            before.registered_at != version.registered_at || scaled
        })
    };
    catalog
        .versions()
        .filter(|(model, version)| is_anew(model, version))
        .map(|(model, _)| model)
        .collect()
}

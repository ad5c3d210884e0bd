//! Numbers of replicas that follow the load: decided once a second by the control role that acts, and written
//! under its lease.
//!
//! What is decided is in [`skysail_core::autoscale`]; here is where it gets its numbers from, and what becomes
//! of the answer. A write that another one crosses is not repeated: the next second decides anew.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use skysail_core::autoscale::{Autoscaler as Decider, BatchTimes, Decision, Situation};
use skysail_core::catalog::{Catalog, Change, Model};
use skysail_core::cluster::ClusterView;
use skysail_proto::deployment::Autoscale;
use skysail_proto::ids::ModelId;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::clock::Clock;
use crate::leadership::Leadership;
use crate::reconcile::Report;
use crate::store::{CatalogStore, StoreError};

/// How often is decided: as often as frontends say what is asked of them.
const INTERVAL: Duration = Duration::from_secs(1);

/// What an autoscaler is made of.
pub(crate) struct Parts {
    /// Where numbers of replicas are read and written.
    pub store: Arc<dyn CatalogStore>,
    /// What all live frontends see.
    pub views: watch::Receiver<Arc<ClusterView>>,
    /// Whether this frontend is the one to decide.
    pub leadership: Arc<Leadership>,
    /// Where it is told what was decided last, and why.
    pub report: Arc<Report>,
    /// The time.
    pub clock: Clock,
}

/// Lets the versions that ask for it have as many replicas as their load needs.
pub(crate) struct Autoscaler {
    parts: Parts,
    /// What each version needed lately; forgotten when another frontend decides, which has seen it too.
    deciders: BTreeMap<ModelId, Decider>,
    /// Whether the last write failed, which is told once.
    failed: bool,
}

/// A version whose number of replicas follows its load.
struct Scaled<'a> {
    id: ModelId,
    model: &'a Model,
    bounds: Autoscale,
    replicas: u32,
    max_batch: NonZeroU32,
}

/// What was decided for a version that is to have more or fewer replicas.
struct Step {
    id: ModelId,
    from: u32,
    decision: Decision,
}

impl Autoscaler {
    /// One that has seen nothing yet.
    pub(crate) fn new(parts: Parts) -> Self {
        Self {
            parts,
            deciders: BTreeMap::new(),
            failed: false,
        }
    }

    /// Decides again and again until `shutdown`.
    pub(crate) async fn run(mut self, shutdown: CancellationToken) {
        while shutdown.run_until_cancelled(self.pass()).await.is_some() {
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(INTERVAL) => {}
            }
        }
    }

    async fn pass(&mut self) {
        let catalog = self.parts.store.watch().borrow().clone();
        let lease = self.parts.leadership.acting();
        let is_doubtful = self.parts.report.waits_for_a_person().is_some();
        let (Some(lease), Some(catalog), false) = (lease, catalog, is_doubtful) else {
            self.deciders.clear();
            return self.parts.report.set_autoscaling(BTreeMap::new());
        };
        let steps = self.decide(&catalog);
        if steps.is_empty() {
            return;
        }
        let changes = changes(&catalog, &steps);
        let written = self
            .parts
            .store
            .commit_under(Some(&lease), changes, &catalog.generation)
            .await;
        self.tell(steps, written.map(drop));
    }

    /// Decides for every version that wants it; returns those whose number is to change.
    fn decide(&mut self, catalog: &Catalog) -> Vec<Step> {
        let cluster = self.parts.views.borrow().clone();
        let scaled: Vec<_> = catalog.models.values().flat_map(|model| scaled(model)).collect();
        let ids: BTreeSet<_> = scaled.iter().map(|version| version.id.clone()).collect();
        self.deciders.retain(|id, _| ids.contains(id));
        let (mut steps, mut words) = (Vec::new(), BTreeMap::new());
        for version in scaled {
            let situation = Situation {
                now: self.parts.clock.now(),
                ..version.situation(&cluster)
            };
            let decider = self.deciders.entry(version.id.clone()).or_default();
            let mut decision = decider.decide(&situation);
            if version.model.rollout.is_some() {
                // Whom the traffic leaves or comes to is about to change: nothing is taken away meanwhile.
                let kept = version.replicas.min(version.bounds.max);
                decision.replicas = decision.replicas.max(kept);
            }
            words.insert(
                version.id.clone(),
                format!("{} wanted: {}", decision.replicas, decision.reason),
            );
            if decision.replicas != version.replicas {
                let (id, from) = (version.id, version.replicas);
                steps.push(Step { id, from, decision });
            }
        }
        self.parts.report.set_autoscaling(words);
        steps
    }

    fn tell(&mut self, steps: Vec<Step>, written: Result<(), StoreError>) {
        let failed_before = std::mem::replace(&mut self.failed, written.is_err());
        match written {
            Ok(()) => {
                for Step { id, from, decision } in steps {
                    let (to, reason) = (decision.replicas, decision.reason);
                    info!(model = %id, from, to, %reason, "replicas follow the load");
                }
            }
            // The catalog that is on its way here, or whoever acts now, decides.
            Err(error @ (StoreError::Conflict { .. } | StoreError::Fenced(_))) => {
                debug!(%error, "replicas were not changed");
            }
            Err(error) if failed_before => debug!(%error, "replicas still cannot be changed"),
            Err(error) => warn!(%error, "replicas were not changed; trying again every second"),
        }
    }
}

/// The versions of a model whose numbers of replicas follow their load.
fn scaled(model: &Model) -> impl Iterator<Item = Scaled<'_>> {
    model.versions.iter().filter_map(|(version, registered)| {
        let deployment = registered.spec.deployment.as_ref()?;
        Some(Scaled {
            id: ModelId::new(model.name.clone(), version.clone()),
            model,
            bounds: deployment.autoscale?,
            replicas: deployment.replicas,
            max_batch: registered.spec.most_inputs(),
        })
    })
}

impl Scaled<'_> {
    /// What all frontends together see of it, at no time yet.
    fn situation(&self, cluster: &ClusterView) -> Situation {
        let load = cluster.load(&self.id);
        // A version that is about to take the traffic will be asked for what its model is asked for.
        let is_coming = self.model.rollout.is_some() && self.id == self.model.current_id();
        let (arrivals_per_second, slo_micros) = match is_coming {
            true => cluster.asked_of_model(&self.id.name),
            false => (load.arrivals_per_second, cluster.slo_micros(&self.id)),
        };
        Situation {
            now: skysail_core::time::Instant::default(),
            arrivals_per_second,
            queued: load.queued,
            batch_times: self.batch_times(cluster),
            slo: slo_micros.map(Duration::from_micros),
            max_batch: self.max_batch,
            replicas: self.replicas,
            attached: cluster.attached(&self.id),
            bounds: self.bounds,
        }
    }

    /// The times of its own batches. Until it has done one, those of the version that answers before it.
    fn batch_times(&self, cluster: &ClusterView) -> Option<BatchTimes> {
        let of = |id: &ModelId| BatchTimes::of(cluster.sights_of(id));
        let before = self.model.rollout.as_ref().map(|rollout| &rollout.from);
        let before = before.filter(|_| self.id == self.model.current_id());
        of(&self.id).or_else(|| of(&ModelId::new(self.id.name.clone(), before?.clone())))
    }
}

/// The models with the new numbers, each once.
fn changes(catalog: &Catalog, steps: &[Step]) -> Vec<Change> {
    let mut changed = BTreeMap::new();
    for Step { id, decision, .. } in steps {
        let Some(model) = catalog.models.get(&id.name) else {
            continue;
        };
        let model = changed
            .entry(id.name.clone())
            .or_insert_with(|| Model::clone(model));
        let version = model.versions.get_mut(&id.version);
        if let Some(deployment) = version.and_then(|version| version.spec.deployment.as_mut()) {
            deployment.replicas = decision.replicas;
        }
    }
    changed.into_values().map(Change::put).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use skysail_core::catalog::Rollout;
    use skysail_core::cluster::{FrontendView, LoadView};

    use super::*;
    use crate::store::embedded::EmbeddedStore;

    /// A store with model `m`, of which version 1 answers and has one replica of up to eight.
    struct World {
        autoscaler: Autoscaler,
        views: watch::Sender<Arc<ClusterView>>,
        shutdown: CancellationToken,
        _folder: tempfile::TempDir,
    }

    fn version(replicas: u32, autoscale: &serde_json::Value) -> serde_json::Value {
        json!({"input_type": "doubles", "registered_at": "1970-01-01T00:00:00Z",
               "deployment": {"image": "i", "replicas": replicas, "autoscale": autoscale}})
    }

    fn model() -> Model {
        let bounds = json!({"min": 1, "max": 8});
        let model = json!({"name": "m", "current_version": "1",
            "versions": {"1": version(1, &bounds), "by-hand": version(1, &json!(null))}});
        serde_json::from_value(model).unwrap()
    }

    async fn world(model: Model) -> World {
        let folder = tempfile::tempdir().unwrap();
        let store = EmbeddedStore::open(folder.path().join("metadata.redb")).unwrap();
        let store = Arc::new(store);
        let (views, seen) = watch::channel(Arc::default());
        let leadership = Arc::new(Leadership::new(store.clone(), "f".into()));
        let parts = Parts {
            store,
            views: seen,
            leadership,
            report: Arc::default(),
            clock: Clock::start(),
        };
        put(&*parts.store, model).await;
        World {
            autoscaler: Autoscaler::new(parts),
            views,
            shutdown: CancellationToken::new(),
            _folder: folder,
        }
    }

    async fn put(store: &dyn CatalogStore, model: Model) {
        let catalog = store.watch().borrow().clone().unwrap();
        let put = store.commit(vec![Change::put(model)], &catalog.generation);
        put.await.unwrap();
    }

    impl World {
        async fn act(&self) {
            let leadership = self.autoscaler.parts.leadership.clone();
            tokio::spawn(leadership.clone().run(self.shutdown.clone()));
            let mut changes = leadership.changes();
            changes.wait_for(Option::is_some).await.unwrap();
        }

        fn replicas(&self, version: &str) -> u32 {
            let catalog = self.autoscaler.parts.store.watch().borrow().clone().unwrap();
            let version = &catalog.models["m"].versions[version];
            version.spec.deployment.as_ref().unwrap().replicas
        }

        fn words(&self, id: &str) -> Option<String> {
            self.autoscaler.parts.report.autoscaling(&id.parse().unwrap())
        }
    }

    /// A frontend at which so many queries a second come to a version, of which one replica is attached.
    fn view(id: &str, per_second: f64) -> FrontendView {
        let replica = json!({"replica": "m_1_0", "model": id, "hostname": "h", "pid": 1, "draining": false,
            "in_flight": 0, "attached_at": "1970-01-01T00:00:00Z", "batches": 1, "inputs": 1,
            "fixed_micros": 6000.0, "per_input_micros": 1000.0, "p99_micros": 0});
        FrontendView {
            replicas: vec![serde_json::from_value(replica).unwrap()],
            load: vec![LoadView {
                model: id.parse().unwrap(),
                arrivals_per_second: per_second,
                queued: 0,
                slo_micros: Some(50_000),
                batch_limit: None,
            }],
            ..FrontendView::default()
        }
    }

    /// Frontends with ids of their own.
    fn cluster<const N: usize>(views: [FrontendView; N]) -> ClusterView {
        let ids = ('a'..).map(String::from);
        ClusterView::of(ids.zip(views).map(|(id, view)| FrontendView { id, ..view }))
    }

    #[tokio::test]
    async fn the_load_of_all_frontends_together_decides_and_the_reason_is_kept() {
        let mut world = world(model()).await;
        world.act().await;
        world
            .views
            .send_replace(Arc::new(cluster([view("m:1", 700.0), view("m:1", 500.0)])));
        world.autoscaler.pass().await;
        assert_eq!((world.replicas("1"), world.replicas("by-hand")), (3, 1));
        let words = world.words("m:1").unwrap();
        assert!(
            words.starts_with("3 wanted: 1200.0 queries/s need 2.50"),
            "{words}"
        );
        assert_eq!(world.words("m:by-hand"), None);
        world.shutdown.cancel();
    }

    #[tokio::test]
    async fn who_does_not_act_changes_and_says_nothing() {
        let mut world = world(model()).await;
        world.views.send_replace(Arc::new(cluster([view("m:1", 1200.0)])));
        world.autoscaler.pass().await;
        assert_eq!(world.replicas("1"), 1);
        assert_eq!(world.words("m:1"), None);
    }

    #[tokio::test]
    async fn a_version_that_is_to_take_the_traffic_starts_with_what_it_needs() {
        let mut model = model();
        let from = model.current_version.clone();
        let coming = serde_json::from_value(version(1, &json!({"min": 1, "max": 8}))).unwrap();
        model.versions.insert("2".parse().unwrap(), coming);
        model.current_version = "2".parse().unwrap();
        model.rollout = Some(Rollout { from, replace: true });
        let quiet = model.versions.get_mut("1").unwrap();
        quiet.spec.deployment.as_mut().unwrap().replicas = 4;
        let mut world = world(model).await;
        world.act().await;
        world.views.send_replace(Arc::new(cluster([view("m:1", 1200.0)])));
        world.autoscaler.pass().await;
        assert_eq!((world.replicas("1"), world.replicas("2")), (4, 3));
        world.shutdown.cancel();
    }

    #[test]
    fn a_replica_is_counted_once_and_one_that_drains_not_at_all() {
        let draining = |mut view: FrontendView| {
            view.replicas[0].draining = true;
            view
        };
        let id = "m:1".parse().unwrap();
        assert_eq!(cluster([view("m:1", 0.0), view("m:1", 0.0)]).attached(&id), 1);
        assert_eq!(
            cluster([draining(view("m:1", 0.0)), view("m:2", 0.0)]).attached(&id),
            0
        );
    }
}

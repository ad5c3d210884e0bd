//! What all frontends of a cluster see, taken together.
//!
//! A [`ClusterView`] is built once for each change: another frontend announced something, or this frontend follows
//! another catalog, or its own replicas or figures changed. It is indexed by version, so an answer about one version
//! costs a look-up and not a pass over all replicas. The admin API, the reconciler, the autoscaler, the end of
//! rollouts and the control role's lease all ask it.
//!
//! A **query frontend** is a frontend with the query role ([`FrontendView::is_query_frontend`]). One that does not
//! drain [takes queries](FrontendView::takes_queries): new queries go to it, and new containers dial it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use skysail_proto::admin::{self, BatchLimit, Load, ReplicaState, Serving};
use skysail_proto::ids::{ModelId, ModelName, ModelVersion, ReplicaId};

use super::{FrontendView, LoadView, QUERIES_PER_BLOCK, ReplicaView};
use crate::catalog::Generation;

/// How long a replica may be unknown to a frontend that others are known to: it dials within a second.
const SETTLES_WITHIN: SignedDuration = SignedDuration::from_secs(5);

/// The views of all live frontends at one moment, and what they come to together.
#[derive(Clone, Debug, Default)]
pub struct ClusterView {
    /// Ordered by where they take queries; frontends without the query role come last.
    frontends: Vec<Arc<FrontendView>>,
    /// The place among `frontends` of the frontend that looks.
    own: Option<usize>,
    /// Each replica of each version, with every frontend that it is attached to.
    replicas: BTreeMap<(ReplicaId, ModelId), Vec<Sight>>,
    versions: HashMap<ModelId, VersionView>,
    models: HashMap<ModelName, ModelView>,
    containers: ContainersView,
}

/// What frontends see of containers. The reconciler looks again when it changes.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct ContainersView {
    /// The replicas that take work from some frontend, with the starts of their containers; a start is empty for a
    /// container that was started by hand.
    pub attached: BTreeSet<(ReplicaId, String)>,
    /// How many replicas of each version those are.
    pub counts: BTreeMap<ModelId, u32>,
    /// The starts of containers that a frontend gave up as hung.
    pub hung: BTreeSet<String>,
    /// Where containers reach the frontends that take queries, as host:port, in order.
    pub addresses: Vec<String>,
    /// The catalog that each frontend follows, by its id.
    pub followed: Vec<(String, Generation)>,
}

/// A replica as one frontend sees it: places in `frontends` and in that frontend's `replicas`.
#[derive(Clone, Copy, Debug)]
struct Sight {
    frontend: usize,
    replica: usize,
}

/// What all frontends see of one version.
#[derive(Clone, Debug, Default)]
struct VersionView {
    sights: Vec<Sight>,
    attached: u32,
    attached_everywhere: u32,
    load: Load,
    slo_micros: Option<u64>,
    batch_limit: Option<BatchLimit>,
}

/// What all frontends see of one model.
#[derive(Clone, Debug, Default)]
struct ModelView {
    /// The versions that answer, each with the places of the frontends that take queries and answer with it.
    serving: BTreeMap<ModelVersion, Vec<usize>>,
    arrivals_per_second: f64,
    slo_micros: Option<u64>,
}

/// Something that is not well between frontends and replicas.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Trouble {
    /// A frontend drains.
    Ending {
        /// Its id.
        frontend: String,
    },
    /// A batch in a replica's hands is overdue.
    Overdue {
        /// The replica.
        replica: ReplicaId,
    },
    /// A replica is not attached to every frontend that takes queries, although it had time to dial them.
    NotEverywhere {
        /// The replica.
        replica: ReplicaId,
        /// The frontends that it is attached to.
        reached: usize,
        /// The frontends that take queries.
        frontends: usize,
    },
}

impl ClusterView {
    /// What the frontend with the view `own` knows, given what the others announced.
    ///
    /// Of several runs at one container address only one can be there, whatever the store still remembers of runs
    /// before: the newest, or the frontend that looks.
    pub fn seen_by(own: Arc<FrontendView>, others: impl IntoIterator<Item = Arc<FrontendView>>) -> Self {
        let id = own.id.clone();
        let others = others.into_iter().filter(|view| view.id != id);
        let views = living(std::iter::once(own).chain(newest_first(others)));
        Self::index(views, Some(&id))
    }

    /// The same for nobody among them.
    pub fn of(views: impl IntoIterator<Item = FrontendView>) -> Self {
        Self::index(living(newest_first(views.into_iter().map(Arc::new))), None)
    }

    fn index(mut frontends: Vec<Arc<FrontendView>>, own: Option<&str>) -> Self {
        let place = |view: &Arc<FrontendView>| {
            let addr = view.query_addr.clone();
            (addr.is_none(), addr, view.started_at, view.id.clone())
        };
        frontends.sort_by_cached_key(place);
        let mut view = Self {
            own: own.and_then(|own| frontends.iter().position(|view| view.id == own)),
            frontends,
            ..Self::default()
        };
        view.index_replicas();
        view.index_loads();
        view.containers = view.look_at_containers();
        view
    }

    fn index_replicas(&mut self) {
        for (frontend, view) in self.frontends.iter().enumerate() {
            for (replica, seen) in view.replicas.iter().enumerate() {
                let sight = Sight { frontend, replica };
                let key = (seen.replica.clone(), seen.model.clone());
                self.replicas.entry(key).or_default().push(sight);
            }
        }
        let frontends = self.taking_queries().count();
        for ((_, model), sights) in &self.replicas {
            let version = self.versions.entry(model.clone()).or_default();
            version.sights.extend(sights);
            let working = || {
                sights
                    .iter()
                    .filter(|sight| !seen(&self.frontends, **sight).draining)
            };
            if working().next().is_some() {
                version.attached += 1;
                let reached = working().filter(|sight| self.frontends[sight.frontend].takes_queries());
                version.attached_everywhere += u32::from(reached.count() >= frontends);
            }
        }
    }

    fn index_loads(&mut self) {
        for (place, view) in self.frontends.iter().enumerate() {
            for load in &view.load {
                self.versions.entry(load.model.clone()).or_default().add(load);
                let model = self.models.entry(load.model.name.clone()).or_default();
                model.arrivals_per_second += load.arrivals_per_second;
                model.slo_micros = tightest(model.slo_micros, load.slo_micros);
            }
            for (name, version) in view.serving.iter().filter(|_| view.takes_queries()) {
                let model = self.models.entry(name.clone()).or_default();
                model.serving.entry(version.clone()).or_default().push(place);
            }
        }
    }

    fn look_at_containers(&self) -> ContainersView {
        let replicas = self.frontends.iter().flat_map(|view| &view.replicas);
        let working = replicas.filter(|replica| !replica.draining);
        let addresses: BTreeSet<_> = (self.taking_queries())
            .filter_map(|view| view.rpc_addr.clone())
            .collect();
        let counted = self.versions.iter().filter(|(_, version)| version.attached > 0);
        ContainersView {
            attached: working
                .map(|replica| (replica.replica.clone(), replica.start.clone()))
                .collect(),
            counts: counted
                .map(|(id, version)| (id.clone(), version.attached))
                .collect(),
            hung: (self.frontends.iter())
                .flat_map(|view| view.hung.iter().cloned())
                .collect(),
            addresses: addresses.into_iter().collect(),
            followed: (self.frontends.iter())
                .map(|view| (view.id.clone(), view.generation.clone()))
                .collect(),
        }
    }

    /// The views of all live frontends, in an order that stays.
    pub fn frontends(&self) -> &[Arc<FrontendView>] {
        &self.frontends
    }

    /// The view of the frontend that looks.
    pub fn own(&self) -> Option<&Arc<FrontendView>> {
        self.own.map(|place| &self.frontends[place])
    }

    /// The views of all others.
    pub fn others(&self) -> impl Iterator<Item = &Arc<FrontendView>> {
        let others = self.frontends.iter().enumerate();
        others
            .filter(|(place, _)| Some(*place) != self.own)
            .map(|(_, view)| view)
    }

    /// One frontend's view.
    pub fn frontend(&self, id: &str) -> Option<&Arc<FrontendView>> {
        self.frontends.iter().find(|view| view.id == id)
    }

    /// The view of the frontend that gave out a query's id, if it lives.
    pub fn frontend_of_query(&self, id: u64) -> Option<&Arc<FrontendView>> {
        let block = id / QUERIES_PER_BLOCK;
        let mut frontends = self.frontends.iter();
        frontends.find(|view| view.query_blocks.contains(&block))
    }

    /// The views of the frontends with the query role, draining ones included.
    pub fn query_frontends(&self) -> impl Iterator<Item = &Arc<FrontendView>> {
        self.frontends.iter().filter(|view| view.is_query_frontend())
    }

    /// The views of the frontends that take queries now.
    pub fn taking_queries(&self) -> impl Iterator<Item = &Arc<FrontendView>> {
        self.frontends.iter().filter(|view| view.takes_queries())
    }

    /// Whether every other frontend that takes queries routes them by this catalog or a later one.
    pub fn others_follow(&self, generation: &Generation) -> bool {
        let mut others = self.others().filter(|view| view.takes_queries());
        others.all(|view| view.generation.has_reached(generation))
    }

    /// What all see of containers.
    pub fn containers(&self) -> &ContainersView {
        &self.containers
    }

    /// How many replicas are attached somewhere, draining ones included.
    pub fn replica_count(&self) -> usize {
        self.replicas.len()
    }

    /// How many replicas of a version are attached somewhere and take work.
    pub fn attached(&self, id: &ModelId) -> u32 {
        self.versions.get(id).map_or(0, |version| version.attached)
    }

    /// How many of those take work from every frontend that takes queries.
    pub fn attached_everywhere(&self, id: &ModelId) -> u32 {
        (self.versions.get(id)).map_or(0, |version| version.attached_everywhere)
    }

    /// What is asked of a version at all frontends.
    pub fn load(&self, id: &ModelId) -> Load {
        self.versions
            .get(id)
            .map(|version| version.load)
            .unwrap_or_default()
    }

    /// The tightest latency objective of the applications that a version answers, in microseconds.
    pub fn slo_micros(&self, id: &ModelId) -> Option<u64> {
        self.versions.get(id)?.slo_micros
    }

    /// Queries a second for all versions of a model, and the tightest latency objective among them.
    pub fn asked_of_model(&self, name: &ModelName) -> (f64, Option<u64>) {
        let model = self.models.get(name);
        model.map_or((0.0, None), |model| (model.arrivals_per_second, model.slo_micros))
    }

    /// The limit to the size of a version's batches that stands at some frontend; the lowest of several.
    pub fn batch_limit(&self, id: &ModelId) -> Option<BatchLimit> {
        self.versions.get(id)?.batch_limit
    }

    /// The replicas of a version, once for each frontend that they are attached to.
    pub fn sights_of(&self, id: &ModelId) -> impl Iterator<Item = &ReplicaView> {
        let sights = self.versions.get(id).map(|version| version.sights.as_slice());
        let sights = sights.unwrap_or_default().iter();
        sights.map(|sight| seen(&self.frontends, *sight))
    }

    /// The versions of a model that answer, and where.
    pub fn serving(&self, name: &ModelName) -> Vec<Serving> {
        let serving = self.models.get(name).into_iter().flat_map(|model| &model.serving);
        let shown = serving.map(|(version, places)| Serving {
            version: version.clone(),
            frontends: places
                .iter()
                .map(|place| self.frontends[*place].id.clone())
                .collect(),
        });
        shown.collect()
    }

    /// How many of the frontends that take queries answer with a version.
    pub fn answering_with(&self, name: &ModelName, version: &ModelVersion) -> usize {
        let serving = self.models.get(name).and_then(|model| model.serving.get(version));
        serving.map_or(0, Vec::len)
    }

    /// Whether there are frontends that take queries, and all of them answer with a version.
    pub fn all_answer_with(&self, name: &ModelName, version: &ModelVersion) -> bool {
        let frontends = self.taking_queries().count();
        frontends > 0 && self.answering_with(name, version) == frontends
    }

    /// The attached replicas, each once, ordered by their ids.
    pub fn replicas(&self) -> impl Iterator<Item = admin::Replica> {
        self.replicas.values().map(|sights| self.merged(sights))
    }

    /// What is not well between frontends and replicas.
    pub fn troubles(&self, now: Timestamp) -> Vec<Trouble> {
        let ending = self.frontends.iter().filter(|view| view.draining);
        let mut troubles: Vec<_> = ending
            .map(|view| Trouble::Ending {
                frontend: view.id.clone(),
            })
            .collect();
        let old_enough = |at: Timestamp| now.duration_since(at) > SETTLES_WITHIN;
        let frontends = self.taking_queries().count();
        for ((id, _), sights) in &self.replicas {
            let state = self.state(sights);
            if state == ReplicaState::Overdue {
                let replica = id.clone();
                troubles.push(Trouble::Overdue { replica });
            }
            let reaches = |place: usize| sights.iter().any(|sight| sight.frontend == place);
            let places = self.frontends.iter().enumerate();
            let missed = places
                .filter(|(place, view)| {
                    view.takes_queries() && old_enough(view.started_at) && !reaches(*place)
                })
                .count();
            let attached_at = sights
                .iter()
                .map(|sight| seen(&self.frontends, *sight).attached_at);
            let is_old = attached_at.min().is_some_and(old_enough);
            if missed > 0 && is_old && state != ReplicaState::Draining {
                troubles.push(Trouble::NotEverywhere {
                    replica: id.clone(),
                    reached: frontends - missed,
                    frontends,
                });
            }
        }
        troubles
    }

    /// One replica, by all who see it.
    fn merged(&self, sights: &[Sight]) -> admin::Replica {
        let seen = || sights.iter().map(|sight| seen(&self.frontends, *sight));
        // A replica that is being replaced may be seen with two containers; the newer is the one that stays.
        let newest = seen()
            .max_by_key(|replica| replica.attached_at)
            .expect("a replica is here because somebody sees it; this is a bug");
        // The frontend that had the most answers knows best how long they take.
        let knows = seen()
            .filter(|replica| replica.fixed_micros > 0.0 || replica.per_input_micros > 0.0)
            .max_by_key(|replica| replica.batches);
        let frontends = sights
            .iter()
            .map(|sight| self.frontends[sight.frontend].id.clone());
        admin::Replica {
            replica: newest.replica.clone(),
            model: newest.model.name.clone(),
            version: newest.model.version.clone(),
            state: self.state(sights),
            container: None,
            pid: Some(newest.pid).filter(|&pid| pid != 0),
            hostname: newest.hostname.clone(),
            peer: newest.peer.clone(),
            attached_at: seen()
                .map(|replica| replica.attached_at)
                .min()
                .unwrap_or(newest.attached_at),
            in_flight: seen().map(|replica| replica.in_flight).sum(),
            batches: seen().map(|replica| replica.batches).sum(),
            inputs: seen().map(|replica| replica.inputs).sum(),
            frontends: frontends.collect(),
            inputs_per_second: seen().map(|replica| replica.inputs_per_second).sum(),
            fixed_micros: knows.map(|replica| replica.fixed_micros),
            per_input_micros: knows.map(|replica| replica.per_input_micros),
            fit: knows.and_then(|replica| replica.fit),
            p99_micros: seen()
                .map(|replica| replica.p99_micros)
                .max()
                .filter(|&micros| micros > 0),
        }
    }

    /// A replica tells all frontends when it drains. It tells none that it is overdue, so one that keeps any
    /// frontend waiting is overdue.
    fn state(&self, sights: &[Sight]) -> ReplicaState {
        let mut seen = sights.iter().map(|sight| seen(&self.frontends, *sight));
        if seen.clone().all(|replica| replica.draining) {
            ReplicaState::Draining
        } else if seen.any(|replica| replica.overdue) {
            ReplicaState::Overdue
        } else {
            ReplicaState::Ready
        }
    }
}

impl VersionView {
    fn add(&mut self, load: &LoadView) {
        self.load.arrivals_per_second += load.arrivals_per_second;
        self.load.queued += load.queued;
        self.slo_micros = tightest(self.slo_micros, load.slo_micros);
        self.batch_limit = self.batch_limit.into_iter().chain(load.batch_limit).min();
    }
}

fn seen(frontends: &[Arc<FrontendView>], sight: Sight) -> &ReplicaView {
    &frontends[sight.frontend].replicas[sight.replica]
}

fn tightest(one: Option<u64>, other: Option<u64>) -> Option<u64> {
    one.into_iter().chain(other).min()
}

fn newest_first(views: impl Iterator<Item = Arc<FrontendView>>) -> Vec<Arc<FrontendView>> {
    let mut views: Vec<_> = views.collect();
    views.sort_by(|a, b| (b.started_at, &b.id).cmp(&(a.started_at, &a.id)));
    views
}

/// One frontend for each container address: the first. A frontend without one is always kept.
fn living(views: impl IntoIterator<Item = Arc<FrontendView>>) -> Vec<Arc<FrontendView>> {
    let mut taken = BTreeSet::new();
    let mut is_first = |view: &Arc<FrontendView>| {
        let addr = view.rpc_addr.as_ref();
        addr.is_none_or(|addr| taken.insert(addr.clone()))
    };
    views.into_iter().filter(|view| is_first(view)).collect()
}

#[cfg(test)]
mod tests;

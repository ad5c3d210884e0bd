//! What all frontends of the cluster see, taken together.
//!
//! Each frontend tells what it sees in its view; a replica that is attached to three of them is one replica.

use std::collections::BTreeMap;
use std::sync::Arc;

use skysail_core::catalog::Generation;
use skysail_core::cluster::{FrontendView, ReplicaView};
use skysail_proto::admin::{self, BatchLimit, Load, ReplicaState, Serving};
use skysail_proto::ids::{ModelId, ModelName, ModelVersion, ReplicaId};
use tokio::sync::watch;

/// Where the views come from.
pub struct Views {
    /// Those of all live frontends, as they announced them.
    pub announced: watch::Receiver<Arc<Vec<FrontendView>>>,
    /// This frontend's own, as it is now: an answer that follows a change must already show it.
    pub own: Box<dyn Fn() -> FrontendView + Send + Sync>,
}

impl Views {
    /// All of them, now.
    pub fn observed(&self) -> Observed {
        let own = (self.own)();
        let mut views: Vec<FrontendView> = self
            .announced
            .borrow()
            .iter()
            .filter(|view| view.id != own.id)
            .cloned()
            .collect();
        views.push(own);
        Observed::of(views)
    }

    /// Waits until every frontend that takes queries follows this generation, or a later one.
    pub(super) async fn until_followed(&self, generation: &Generation) {
        let follows = |view: &FrontendView| {
            let now = &view.generation;
            now.incarnation == generation.incarnation && now.number >= generation.number
        };
        let own = (self.own)().id;
        let mut announced = self.announced.clone();
        let waited = announced.wait_for(|views| {
            let others = views.iter().filter(|view| takes_queries(view) && view.id != own);
            others.into_iter().all(follows)
        });
        // Without a sender nobody else is there.
        let _ = waited.await;
    }
}

fn takes_queries(view: &FrontendView) -> bool {
    view.query_addr.is_some() && !view.draining
}

/// The views of all live frontends at one moment.
#[derive(Debug, Default)]
pub struct Observed {
    views: Vec<FrontendView>,
}

impl Observed {
    /// The frontends in an order that stays: by where they take queries, those that take none last.
    pub fn of(mut views: Vec<FrontendView>) -> Self {
        let place = |view: &FrontendView| {
            let addr = view.query_addr.clone();
            (addr.is_none(), addr, view.started_at, view.id.clone())
        };
        views.sort_by_key(place);
        Self { views }
    }

    /// All views.
    pub fn views(&self) -> &[FrontendView] {
        &self.views
    }

    /// The views of those that take queries now.
    pub fn taking_queries(&self) -> impl Iterator<Item = &FrontendView> {
        self.views.iter().filter(|view| takes_queries(view))
    }

    /// Replicas that are attached somewhere, draining ones included.
    pub fn replica_count(&self) -> usize {
        self.by_replica().len()
    }

    /// Replicas of a version that are attached somewhere and take work.
    pub fn attached(&self, id: &ModelId) -> u32 {
        self.count(id, |seen_by| seen_by > 0)
    }

    /// Those of them that are attached to every frontend that takes queries.
    pub fn attached_everywhere(&self, id: &ModelId) -> u32 {
        let frontends = self.taking_queries().count();
        self.count(id, |seen_by| seen_by > 0 && seen_by >= frontends)
    }

    /// Replicas of a version that take work at so many frontends as are `enough`.
    fn count(&self, id: &ModelId, enough: impl Fn(usize) -> bool) -> u32 {
        let works = |sight: &&Sight<'_>| sight.replica.model == *id && !sight.replica.draining;
        let replicas = self.by_replica();
        let counted = replicas
            .values()
            .filter(|sights| enough(sights.iter().filter(works).count()));
        u32::try_from(counted.count()).unwrap_or(u32::MAX)
    }

    /// What is asked of a version everywhere.
    pub fn load(&self, id: &ModelId) -> Load {
        let loads = self.views.iter().flat_map(|view| &view.load);
        loads
            .filter(|load| load.model == *id)
            .fold(Load::default(), |sum, load| Load {
                arrivals_per_second: sum.arrivals_per_second + load.arrivals_per_second,
                queued: sum.queued + load.queued,
            })
    }

    /// The limit to the size of a version's batches that stands somewhere; the lowest of several.
    pub fn batch_limit(&self, id: &ModelId) -> Option<BatchLimit> {
        let loads = self.views.iter().flat_map(|view| &view.load);
        loads
            .filter(|load| load.model == *id)
            .filter_map(|load| load.batch_limit)
            .min()
    }

    /// The versions of a model that answer, and where.
    pub fn serving(&self, model: &ModelName) -> Vec<Serving> {
        let mut found: BTreeMap<&ModelVersion, Vec<String>> = BTreeMap::new();
        for view in self.taking_queries() {
            if let Some(version) = view.serving.get(model) {
                found.entry(version).or_default().push(view.id.clone());
            }
        }
        let serving = found.into_iter().map(|(version, frontends)| Serving {
            version: version.clone(),
            frontends,
        });
        serving.collect()
    }

    /// Whether some frontend answers with a version.
    pub fn answers_with(&self, id: &ModelId) -> bool {
        self.taking_queries()
            .any(|view| view.serving.get(&id.name) == Some(&id.version))
    }

    /// The replicas that are attached, each once.
    pub fn replicas(&self) -> Vec<admin::Replica> {
        self.by_replica()
            .into_values()
            .map(|sights| merged(&sights))
            .collect()
    }

    /// Each replica of each version with those who see it, ordered by the replica's id.
    fn by_replica(&self) -> BTreeMap<(&ReplicaId, &ModelId), Vec<Sight<'_>>> {
        let mut replicas: BTreeMap<(&ReplicaId, &ModelId), Vec<Sight<'_>>> = BTreeMap::new();
        for view in &self.views {
            for replica in &view.replicas {
                let sight = Sight {
                    frontend: &view.id,
                    replica,
                };
                let key = (&replica.replica, &replica.model);
                replicas.entry(key).or_default().push(sight);
            }
        }
        replicas
    }
}

/// A replica as one frontend sees it.
#[derive(Clone, Copy)]
struct Sight<'a> {
    frontend: &'a str,
    replica: &'a ReplicaView,
}

fn merged(sights: &[Sight<'_>]) -> admin::Replica {
    let seen = || sights.iter().map(|sight| sight.replica);
    // A replica that is being replaced may be seen with two containers; the newer is the one that stays.
    let newest = seen()
        .max_by_key(|replica| replica.attached_at)
        .expect("a replica is here because somebody sees it; this is a bug");
    // Who has had the most answers knows best how long they take.
    let knows = seen()
        .filter(|replica| replica.fixed_micros > 0.0 || replica.per_input_micros > 0.0)
        .max_by_key(|replica| replica.batches);
    admin::Replica {
        replica: newest.replica.clone(),
        model: newest.model.name.clone(),
        version: newest.model.version.clone(),
        state: merged_state(sights),
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
        frontends: sights.iter().map(|sight| sight.frontend.to_owned()).collect(),
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

/// A replica says to all when it drains, but whom it keeps waiting it does not say: one that is overdue
/// anywhere is worth a look.
fn merged_state(sights: &[Sight<'_>]) -> ReplicaState {
    if sights.iter().all(|sight| sight.replica.draining) {
        ReplicaState::Draining
    } else if sights.iter().any(|sight| sight.replica.overdue) {
        ReplicaState::Overdue
    } else {
        ReplicaState::Ready
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use skysail_core::cluster::LoadView;

    pub(in super::super) fn replica(id: &str) -> ReplicaView {
        let replica: ReplicaId = id.parse().unwrap();
        let model = ModelId::new(
            "m".parse().unwrap(),
            id.split('_').nth(1).unwrap().parse().unwrap(),
        );
        ReplicaView {
            replica,
            model,
            start: String::new(),
            hostname: "box".into(),
            pid: 7,
            peer: String::new(),
            attached_at: "2026-01-01T00:00:00Z".parse().unwrap(),
            draining: false,
            overdue: false,
            in_flight: 1,
            batches: 10,
            inputs: 100,
            inputs_per_second: 5.0,
            fixed_micros: 0.0,
            per_input_micros: 0.0,
            p99_micros: 0,
            fit: None,
        }
    }

    /// A frontend that answers with this version of `m` and sees these replicas.
    pub(in super::super) fn frontend(id: &str, version: &str, replicas: Vec<ReplicaView>) -> FrontendView {
        FrontendView {
            id: id.into(),
            query_addr: Some(format!("{id}:1337")),
            serving: BTreeMap::from([("m".parse().unwrap(), version.parse().unwrap())]),
            replicas,
            ..FrontendView::default()
        }
    }

    #[test]
    fn a_replica_that_several_frontends_see_is_one_with_the_sum_of_its_work() {
        let mut learned = replica("m_1_0");
        learned.batches = 30;
        learned.fixed_micros = 5000.0;
        learned.p99_micros = 9000;
        learned.attached_at = "2026-01-01T00:00:09Z".parse().unwrap();
        let observed = Observed::of(vec![
            frontend("b", "1", vec![learned]),
            frontend("a", "1", vec![replica("m_1_0"), replica("m_1_1")]),
        ]);
        let replicas = observed.replicas();
        assert_eq!(replicas.len(), 2);
        let both = &replicas[0];
        assert_eq!(both.frontends, ["a", "b"]);
        assert_eq!((both.in_flight, both.batches, both.inputs), (2, 40, 200));
        assert_eq!(both.attached_at.to_string(), "2026-01-01T00:00:00Z");
        assert_eq!((both.fixed_micros, both.p99_micros), (Some(5000.0), Some(9000)));
        assert_eq!(replicas[1].fixed_micros, None);
        let id = "m:1".parse().unwrap();
        assert_eq!(
            (observed.attached(&id), observed.attached_everywhere(&id)),
            (2, 1)
        );
    }

    #[test]
    fn a_replica_drains_once_all_say_so_and_is_overdue_if_one_does() {
        let mut draining = replica("m_1_0");
        draining.draining = true;
        let state = |one: &ReplicaView, other: &ReplicaView| {
            let observed = Observed::of(vec![
                frontend("a", "1", vec![one.clone()]),
                frontend("b", "1", vec![other.clone()]),
            ]);
            (observed.replicas()[0].state, observed.attached(&one.model))
        };
        let ready = replica("m_1_0");
        let mut overdue = replica("m_1_0");
        overdue.overdue = true;
        assert_eq!(state(&draining, &draining), (ReplicaState::Draining, 0));
        assert_eq!(state(&draining, &ready), (ReplicaState::Ready, 1));
        assert_eq!(state(&ready, &overdue), (ReplicaState::Overdue, 1));
    }

    #[test]
    fn who_answers_with_what_is_told_by_version_and_load_is_summed() {
        let mut views = vec![
            frontend("a", "1", vec![]),
            frontend("b", "2", vec![]),
            frontend("c", "1", vec![]),
        ];
        for view in &mut views {
            view.load.push(LoadView {
                model: "m:1".parse().unwrap(),
                arrivals_per_second: 2.0,
                queued: 3,
                slo_micros: None,
                batch_limit: None,
            });
        }
        views[2].draining = true;
        let observed = Observed::of(views);
        let told: Vec<_> = observed
            .serving(&"m".parse().unwrap())
            .into_iter()
            .map(|serving| (serving.version.to_string(), serving.frontends.join(" ")))
            .collect();
        assert_eq!(
            told,
            [("1".to_owned(), "a".to_owned()), ("2".to_owned(), "b".to_owned())]
        );
        let load = observed.load(&"m:1".parse().unwrap());
        assert_eq!((load.arrivals_per_second, load.queued), (6.0, 9));
    }

    #[test]
    fn of_limits_to_batches_at_several_frontends_the_lowest_is_shown() {
        let id: ModelId = "m:1".parse().unwrap();
        let limited = |name: &str, inputs: Option<u64>| {
            let mut view = frontend(name, "1", vec![]);
            let batch_limit = inputs.map(|inputs| BatchLimit {
                inputs,
                failed_inputs: 2 * inputs,
                since: "2026-01-01T00:00:00Z".parse().unwrap(),
            });
            view.load.push(LoadView {
                model: id.clone(),
                arrivals_per_second: 0.0,
                queued: 0,
                slo_micros: None,
                batch_limit,
            });
            view
        };
        let observed = Observed::of(vec![
            limited("a", Some(64)),
            limited("b", Some(32)),
            limited("c", None),
        ]);
        let limit = observed.batch_limit(&id).unwrap();
        assert_eq!((limit.inputs, limit.failed_inputs), (32, 64));
        assert_eq!(observed.batch_limit(&"m:2".parse().unwrap()), None);
    }

    #[test]
    fn the_own_view_is_the_one_that_is_fresh() {
        let (_sender, announced) = watch::channel(Arc::new(vec![
            frontend("a", "1", vec![]),
            frontend("b", "1", vec![]),
        ]));
        let own = Box::new(|| frontend("a", "1", vec![replica("m_1_0")]));
        let observed = Views { announced, own }.observed();
        assert_eq!(observed.views().len(), 2);
        assert_eq!(observed.replica_count(), 1);
    }

    #[tokio::test]
    async fn a_write_is_followed_once_every_frontend_that_takes_queries_says_so() {
        fn at(number: u64) -> Generation {
            Generation {
                incarnation: "i".into(),
                number,
            }
        }
        let view = |id: &str, number| FrontendView {
            generation: at(number),
            ..frontend(id, "1", vec![])
        };
        let (sender, announced) = watch::channel(Arc::new(vec![view("a", 1), view("b", 1)]));
        let own = Box::new(move || view("a", 1));
        let views = Views { announced, own };
        let generation = at(2);
        let mut followed = Box::pin(views.until_followed(&generation));
        assert!(futures::poll!(&mut followed).is_pending());
        sender.send_replace(Arc::new(vec![view("a", 1), view("b", 3)]));
        followed.await;
    }
}

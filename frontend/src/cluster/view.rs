//! This frontend's identity, and its view of itself.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use jiff::Timestamp;
use skysail_core::catalog::Catalog;
use skysail_core::cluster::{FrontendView, LoadView, ReplicaView};
use skysail_core::time::Instant;
use skysail_proto::ids::{ModelId, ModelName, ModelVersion};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::rate::Rate;
use crate::clock::Clock;
use crate::model::ModelTable;
use crate::model::queue::Load;
use crate::model::replica::Replica;
use crate::query::{QueryService, Routes};

/// The facts that do not change while a frontend runs.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    /// Unique to this run of the frontend.
    pub id: String,
    /// When this run began.
    pub started_at: Timestamp,
    /// The address of query REST, with the query role.
    pub query_addr: Option<String>,
    /// The address of admin REST, with the control role.
    pub admin_addr: Option<String>,
    /// The address of probes and metrics.
    pub ops_addr: String,
    /// The address of container RPC as containers dial it, with the query role.
    pub rpc_addr: Option<String>,
    /// Whether its container RPC can be reached only from its own machine.
    pub rpc_is_local: bool,
    /// Whether it can start containers: it has the control role and a runtime.
    pub starts_containers: bool,
}

impl Identity {
    /// The view before the first look.
    pub(crate) fn first_view(&self) -> FrontendView {
        FrontendView {
            id: self.id.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started_at: self.started_at,
            query_addr: self.query_addr.clone(),
            admin_addr: self.admin_addr.clone(),
            ops_addr: self.ops_addr.clone(),
            rpc_addr: self.rpc_addr.clone(),
            rpc_is_local: self.rpc_is_local,
            starts_containers: self.starts_containers,
            ..FrontendView::default()
        }
    }
}

/// Builds this frontend's view of itself.
pub(crate) struct Observer {
    identity: Identity,
    queries: Arc<QueryService>,
    models: Arc<ModelTable>,
    catalogs: watch::Receiver<Option<Arc<Catalog>>>,
    clock: Clock,
    draining: CancellationToken,
    /// The rate of answered inputs of each replica, by its stream.
    answered: HashMap<u64, Rate>,
    /// The rate of queries for each version.
    arrived: HashMap<ModelId, Rate>,
    /// The announced answering version of each model.
    said: BTreeMap<ModelName, Said>,
    /// The address at which other frontends reach this one; `None` until it is known.
    peer_addr: Option<SocketAddr>,
}

/// A version that was announced as answering, and when it was relieved.
struct Said {
    version: ModelVersion,
    left_since: Option<Instant>,
}

/// The longest time that a relieved version is still announced.
const LINGER: Duration = Duration::from_secs(10);

impl Observer {
    /// An observer of these parts.
    pub(crate) fn new(
        identity: Identity,
        queries: Arc<QueryService>,
        models: Arc<ModelTable>,
        catalogs: watch::Receiver<Option<Arc<Catalog>>>,
        clock: Clock,
    ) -> Self {
        Self {
            identity,
            queries,
            models,
            catalogs,
            clock,
            draining: CancellationToken::new(),
            answered: HashMap::new(),
            arrived: HashMap::new(),
            said: BTreeMap::new(),
            peer_addr: None,
        }
    }

    /// Sets the token that is cancelled when this frontend drains.
    pub(crate) fn ending_with(self, draining: CancellationToken) -> Self {
        Self { draining, ..self }
    }

    /// The address at which other frontends reach this one; `None` until it is known.
    pub(crate) fn peer_addr(&mut self) -> &mut Option<SocketAddr> {
        &mut self.peer_addr
    }

    /// This frontend's view now.
    pub(crate) fn look(&mut self) -> FrontendView {
        let now = self.clock.now();
        let routes = self.queries.routes();
        let loads = self.models.loads();
        let replicas = self.models.replicas().all();
        FrontendView {
            generation: routes.generation().clone(),
            serving: self.serving(&routes, &loads, now),
            replicas: self.replicas(&replicas, now),
            hung: self.models.replicas().hung(),
            load: self.load(&loads, &replicas, now),
            learned: self.models.learned(),
            draining: self.draining.is_cancelled(),
            query_blocks: self.queries.ids().blocks(),
            peer_addr: self.peer_addr.map(|addr| addr.to_string()),
            ..self.identity.first_view()
        }
    }

    /// The answering version of each model.
    ///
    /// A relieved version stays announced while queries wait for it, for at most [`LINGER`]. Once no frontend
    /// announces it, its replicas may be stopped.
    fn serving(
        &mut self,
        routes: &Routes,
        loads: &[(ModelId, Load)],
        now: Instant,
    ) -> BTreeMap<ModelName, ModelVersion> {
        let waiting: HashMap<_, _> = loads.iter().map(|(id, load)| (id, load.queued > 0)).collect();
        let mut before = std::mem::take(&mut self.said);
        for (name, version) in routes.serving() {
            let fresh = Said {
                version: version.clone(),
                left_since: None,
            };
            let said = match before.remove(name) {
                Some(said) if said.version != *version => {
                    let since = said.left_since.unwrap_or(now);
                    let id = ModelId::new(name.clone(), said.version.clone());
                    let lingers = waiting.get(&id) == Some(&true) && now.saturating_since(since) < LINGER;
                    let still = Said {
                        left_since: Some(since),
                        ..said
                    };
                    if lingers { still } else { fresh }
                }
                _ => fresh,
            };
            self.said.insert(name.clone(), said);
        }
        let said = self.said.iter();
        said.map(|(name, said)| (name.clone(), said.version.clone()))
            .collect()
    }

    fn replicas(&mut self, replicas: &[Arc<Replica>], now: Instant) -> Vec<ReplicaView> {
        let mut answered = std::mem::take(&mut self.answered);
        let views = replicas.iter().map(|replica| {
            let inputs = replica.inputs.load(Ordering::Relaxed);
            let mut rate = answered
                .remove(&replica.stream)
                .unwrap_or_else(|| Rate::from(inputs, now));
            let view = replica_view(replica, rate.per_second(inputs, now));
            self.answered.insert(replica.stream, rate);
            view
        });
        views.collect()
    }

    /// The load of each version that has a replica or gets queries.
    fn load(&mut self, loads: &[(ModelId, Load)], replicas: &[Arc<Replica>], now: Instant) -> Vec<LoadView> {
        let objectives = self.objectives();
        let limits = self.models.batch_limits();
        let mut arrived = std::mem::take(&mut self.arrived);
        let served: HashSet<_> = (replicas.iter())
            .map(|replica| &replica.registration.model)
            .collect();
        let mut views = Vec::new();
        for (model, load) in loads {
            let mut rate = arrived
                .remove(model)
                .unwrap_or_else(|| Rate::from(load.arrived, now));
            let arrivals_per_second = rate.per_second(load.arrived, now);
            self.arrived.insert(model.clone(), rate);
            let batch_limit = limits.get(model).copied();
            if served.contains(model) || arrivals_per_second > 0.0 || load.queued > 0 || batch_limit.is_some()
            {
                views.push(LoadView {
                    model: model.clone(),
                    arrivals_per_second,
                    queued: load.queued as u64,
                    slo_micros: objectives.get(&model.name).copied(),
                    batch_limit,
                });
            }
        }
        views
    }

    /// The tightest latency objective among the applications that use each model, in microseconds.
    fn objectives(&self) -> HashMap<ModelName, u64> {
        let catalog = self.catalogs.borrow().clone().unwrap_or_default();
        let mut objectives = HashMap::new();
        for application in catalog.applications.values() {
            for model in &application.linked_models {
                let tightest = objectives.entry(model.clone()).or_insert(u64::MAX);
                *tightest = application.slo_micros.min(*tightest);
            }
        }
        objectives
    }
}

fn replica_view(replica: &Replica, inputs_per_second: f64) -> ReplicaView {
    let registration = &replica.registration;
    let speed = replica.times.speed();
    ReplicaView {
        replica: registration.replica.clone(),
        model: registration.model.clone(),
        start: replica.start.clone(),
        hostname: registration.hostname.clone(),
        pid: registration.pid,
        peer: replica.peer.map(|peer| peer.to_string()).unwrap_or_default(),
        attached_at: replica.attached_at,
        draining: replica.draining.load(Ordering::Relaxed),
        overdue: replica.overdue.load(Ordering::Relaxed),
        in_flight: replica.in_flight.load(Ordering::Relaxed),
        batches: replica.batches.load(Ordering::Relaxed),
        inputs: replica.inputs.load(Ordering::Relaxed),
        inputs_per_second,
        fixed_micros: speed.fixed_micros,
        per_input_micros: speed.per_input_micros,
        p99_micros: speed.p99_micros,
        fit: speed.fit,
    }
}

#[cfg(test)]
mod tests {
    use skysail_container_rpc::session::Registration;
    use skysail_core::catalog::{Application, Change, Rollout};
    use skysail_core::queue::Bounds;
    use skysail_proto::ids::ReplicaId;
    use skysail_proto::value::InputType;

    use super::*;
    use crate::metrics::Metrics;

    /// A model `m` whose second version relieves the first, behind an application.
    fn catalog() -> Catalog {
        let spec = serde_json::json!({ "input_type": "doubles", "registered_at": "2026-01-01T00:00:00Z" });
        let mut model: skysail_core::catalog::Model = serde_json::from_value(serde_json::json!({
            "name": "m", "current_version": "2", "versions": { "1": spec, "2": spec },
        }))
        .unwrap();
        model.rollout = Some(Rollout {
            from: "1".parse().unwrap(),
            replace: false,
        });
        let application = |name: &str, slo_micros: u64| {
            let application = serde_json::json!({
                "name": name, "input_type": "doubles", "default_output": "", "slo_micros": slo_micros,
                "linked_models": ["m"], "registered_at": "2026-01-01T00:00:00Z",
            });
            Change::put(serde_json::from_value::<Application>(application).unwrap())
        };
        let changes = [Change::put(model), application("a", 500), application("b", 300)];
        let generation = skysail_core::catalog::Generation {
            incarnation: "i".to_owned(),
            number: 7,
        };
        Catalog::default().with(&changes, generation)
    }

    #[tokio::test(start_paused = true)]
    async fn a_view_shows_the_routes_the_load_and_the_tightest_objective() {
        let clock = Clock::start();
        let metrics = Arc::<Metrics>::default();
        let bounds = Bounds {
            count: 10,
            bytes: 1000,
        };
        let models = Arc::new(ModelTable::new(bounds, 0, metrics.clone(), clock));
        let queries = Arc::new(QueryService::new(clock, &metrics));
        let catalog = Arc::new(catalog());
        let catalogs = watch::Sender::new(Some(catalog.clone()));
        let identity = Identity {
            id: "f".to_owned(),
            started_at: Timestamp::UNIX_EPOCH,
            query_addr: None,
            admin_addr: None,
            ops_addr: "127.0.0.1:1341".into(),
            rpc_addr: Some("a:1".to_owned()),
            rpc_is_local: true,
            starts_containers: true,
        };
        let mut observer = Observer::new(
            identity,
            queries.clone(),
            models.clone(),
            catalogs.subscribe(),
            clock,
        );
        assert!(observer.look().serving.is_empty());

        let (versions, gone) = models.follow(&catalog);
        let routes = Routes::resolve(&Routes::default(), &catalog, &versions, &metrics);
        queries.set_routes(routes);
        models.close(gone);
        models.replicas().give_up("start");
        let registration = Registration {
            model: "m:1".parse().unwrap(),
            signature: InputType::Doubles.into(),
            annotations: [].into(),
            replica: ReplicaId::new("r").unwrap(),
            token: String::new(),
            hostname: String::new(),
            pid: 1,
            agent: String::new(),
            recent_batches: Vec::new(),
        };
        let (replica, _orders) = models.replicas().attach(registration, "of r".to_owned(), None);
        observer.look();
        replica.inputs.store(3, Ordering::Relaxed);
        tokio::time::advance(Duration::from_secs(1)).await;
        let view = observer.look();
        assert_eq!(view.generation.number, 7);
        assert_eq!(view.serving[&"m".parse::<ModelName>().unwrap()].as_str(), "1");
        assert_eq!(
            (view.hung, view.rpc_addr),
            (vec!["start".to_owned()], Some("a:1".to_owned()))
        );
        let [load] = &view.load[..] else {
            panic!("one version has a replica: {:?}", view.load);
        };
        assert_eq!(
            (load.model.to_string(), load.slo_micros),
            ("m:1".to_owned(), Some(300))
        );
        let [replica] = &view.replicas[..] else {
            panic!("one replica: {:?}", view.replicas);
        };
        assert_eq!((replica.start.as_str(), replica.inputs), ("of r", 3));
        assert!((replica.inputs_per_second - 3.0).abs() < 1e-9, "{replica:?}");
    }
}

//! The composition root: builds every part, wires them, and owns every long-lived task.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use skysail_core::catalog::Generation;
use skysail_core::query::QueryRecord;
use skysail_core::reconcile::Patience;
use tokio::net::TcpListener;
use tokio::sync::{Mutex, mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use crate::admin::AdminService;
use crate::admin::access::token::{AskedToken, Asks};
use crate::admin::access::{self, Access, Browsers, Guarded, TokenKeeper};
use crate::admin::http::{AdminApi, BODY_BYTES};
use crate::admin::view::FrontendInfo;
use crate::artifacts::{ArtifactFolder, Artifacts, Sweeper};
use crate::autoscaler::{self, Autoscaler};
use crate::clock::Clock;
use crate::cluster::{Announcer, ClusterWatch, Identity, Membership, Observer};
use crate::config::{Config, RuntimeKind, StoreLocation, without_password};
use crate::control_thread::ControlThread;
use crate::health::{Health, Settling};
use crate::http::{BodyReader, Cors, Limits};
use crate::leadership::{self, Leadership};
use crate::metrics::Metrics;
use crate::model::ModelTable;
use crate::ops::{self, Ops};
use crate::peer::{Counting, Guard, PeerAddress, PeerDoor, Peers};
use crate::query::QueryService;
use crate::query::http::{QueryApi, QueryServer};
use crate::reconcile::{Learning, Moves, Parts, Reconciler, Report, Rollouts};
use crate::runtime::{ContainerRuntime, RuntimeError};
use crate::store::MetadataStore;
use crate::store::embedded::EmbeddedStore;
use crate::store::redis::{self, RedisStore};
use crate::{admin, http, open_files};

mod admin_token;
mod ending;
mod follower;
mod listeners;
mod parts;
mod runtime;
#[cfg(test)]
mod tests;

use ending::{Closing, Ended, Ending, Neighbours};
use follower::Follower;
use listeners::{Listeners, listen_advice};
use parts::{Part, Stage, Thread};

pub use listeners::Addresses;

/// The limit of open connections to admin REST. It is separate from the limit for queries, so that operators
/// get in however many clients query.
const ADMIN_CONNECTIONS: usize = 1000;

/// The grace of a container that is asked to end.
const CONTAINER_GRACE: Duration = Duration::from_secs(10);

/// Why a frontend cannot start.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// A port cannot be bound.
    #[error("{what} cannot listen on {addr}: {}", listen_advice(.cause, .flag))]
    Listen {
        /// The name of the server.
        what: &'static str,
        /// The address.
        addr: SocketAddr,
        /// The flag that changes the address.
        flag: &'static str,
        /// The system's error; part of the message already.
        cause: std::io::Error,
    },
    /// The store cannot be opened.
    #[error("the metadata store cannot be opened")]
    Store(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The thread of the control plane cannot be started.
    #[error("the control plane's thread cannot be started")]
    ControlThread(#[source] std::io::Error),
    /// Admin REST needs a token, and no token file can be made.
    #[error("an admin token cannot be kept in {}: {cause}; give one with --admin-token-file FILE", .path.display())]
    AdminToken {
        /// The path of the token file.
        path: PathBuf,
        /// The system's error; part of the message already.
        cause: std::io::Error,
    },
    /// The runtime cannot be used.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
}

/// A frontend that is built and bound but does not run yet.
pub struct App {
    addresses: Addresses,
    queries: Arc<QueryService>,
    asks: Asks,
    control: ControlThread,
    parts: Vec<Part>,
    ending: Ending,
}

impl App {
    /// Opens the store, binds every address, and wires the parts. Serves nothing yet.
    pub async fn build(mut config: Config) -> Result<Self, BuildError> {
        config.max_connections = open_files::make_room(config.max_connections, ADMIN_CONNECTIONS);
        let control = ControlThread::start().map_err(BuildError::ControlThread)?;
        let opened = {
            let _inside = control.handle().enter();
            runtime::open(&config)?
        };
        match Self::build_with(config, control, opened.runtime, opened.parts).await {
            Ok(app) => Ok(app),
            Err(error) => {
                opened.undo.await;
                Err(error)
            }
        }
    }

    async fn build_with(
        config: Config,
        control: ControlThread,
        runtime: Option<Arc<dyn ContainerRuntime>>,
        mut parts: Vec<Part>,
    ) -> Result<Self, BuildError> {
        let listeners = Listeners::bind(&config, runtime.as_deref(), &control).await?;
        let addresses = listeners.addresses(&config);
        let asks = admin_token::asks(&config)?;
        let (store, follower) = open_store(&config).await?;
        parts.extend(follower);
        let clock = Clock::start();
        let metrics = Arc::new(Metrics::default());
        let models = ModelTable::new(config.queue_bounds, config.cache_bytes, metrics.clone(), clock);
        let models = Arc::new(match addresses.rpc_is_local() {
            true => models.on_this_machine_only(),
            false => models,
        });
        let queries = Arc::new(QueryService::new(clock, &metrics));
        let closing = Closing::default();
        let settling = watch::Sender::new(config.roles.query.then(BTreeSet::new));
        let health = Arc::new(health(&closing, &queries, &*store, &settling));
        let answering = queries.clone();
        let wiring = Wiring {
            identity: addresses.identity(&config),
            asks: asks.clone(),
            admin_addr: addresses.admin,
            ops_addr: addresses.ops,
            store,
            runtime,
            artifacts: Arc::new(Artifacts::new(ArtifactFolder::at(config.artifacts.clone()))),
            models,
            queries,
            metrics,
            health,
            settling,
            clock,
            closing,
            config,
            parts,
        };
        let (parts, ending) = wiring.connect(listeners);
        Ok(Self {
            addresses,
            queries: answering,
            asks,
            control,
            parts,
            ending,
        })
    }

    /// The addresses that the frontend listens on.
    pub fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// A record of each query that is answered from now on, until the receiver is dropped. Queries do not wait
    /// for the reader: while `capacity` records are unread, new records are dropped.
    /// `skysail_query_records_dropped_total` counts them.
    pub fn answered_queries(&self, capacity: usize) -> mpsc::Receiver<Arc<QueryRecord>> {
        self.queries.listen(capacity)
    }

    /// Serves until `shutdown`, then ends within the configured grace: accepts no new connections, answers
    /// every accepted query, and tells the containers.
    ///
    /// If a part ends while the frontend serves, the frontend ends in the same way, with an error.
    pub async fn run(mut self, shutdown: CancellationToken) -> Result<(), PartEnded> {
        self.log_addresses();
        for part in self.parts {
            self.ending.stage(part.stage).spawn(part, self.control.handle());
        }
        let served = tokio::select! {
            () = shutdown.cancelled() => Ok(()),
            part = self.ending.part_ended() => Err(PartEnded(part)),
        };
        if let Err(ended) = &served {
            error!(error = %ended, "ending");
        }
        self.ending.run().await;
        served
    }

    fn log_addresses(&self) {
        if let Some(addr) = self.addresses.query {
            info!(%addr, "query REST listening");
        }
        if let Some(addr) = self.addresses.admin {
            info!(%addr, "admin REST listening");
            admin_token::log(&self.asks);
        }
        let ops = self.addresses.ops;
        info!(addr = %ops, "operations listening");
        for addr in &self.addresses.rpc {
            info!(%addr, advertised = self.addresses.advertised, "container RPC listening");
        }
    }
}

/// The inputs of the parts while they are wired.
struct Wiring {
    config: Config,
    asks: Asks,
    admin_addr: Option<SocketAddr>,
    ops_addr: SocketAddr,
    identity: Identity,
    store: Arc<dyn MetadataStore>,
    runtime: Option<Arc<dyn ContainerRuntime>>,
    artifacts: Arc<Artifacts>,
    models: Arc<ModelTable>,
    queries: Arc<QueryService>,
    metrics: Arc<Metrics>,
    health: Arc<Health>,
    /// What a starting frontend still waits for. The membership follower sets it.
    settling: watch::Sender<Settling>,
    clock: Clock,
    closing: Closing,
    parts: Vec<Part>,
}

/// The parts of the cluster's state that the admin API shows.
struct Shown {
    cluster: Arc<ClusterWatch>,
    report: Arc<Report>,
    counting: Counting,
}

impl Wiring {
    /// Makes every part, and the `Ending` that ends them.
    fn connect(mut self, listeners: Listeners) -> (Vec<Part>, Ending) {
        let ending = Ending::new(
            self.config.grace,
            Ended {
                models: self.models.clone(),
                runtime: self.runtime.clone(),
            },
            Neighbours {
                own_id: self.identity.id.clone(),
                announced: self.store.announced(),
            },
            self.closing.clone(),
        );
        let followed = self.follow_store();
        let cluster = self.join_membership(followed);
        let report = self.take_control(&cluster);
        self.serve_rpc(listeners.rpc);
        let ops = Arc::new(Ops {
            health: self.health.clone(),
            metrics: self.metrics.clone(),
            models: self.models.clone(),
        });
        let counting = Counting {
            metrics: self.metrics.clone(),
            models: self.models.clone(),
            health: self.health.clone(),
        };
        self.serve_ops(listeners.ops, &ops, counting.clone());
        self.serve_queries(listeners.query);
        let shown = Shown {
            cluster,
            report,
            counting,
        };
        self.serve_admin(listeners.admin, ops, shown);
        (self.parts, ending)
    }

    fn add(
        &mut self,
        name: &'static str,
        stage: Stage,
        thread: Thread,
        task: impl Future<Output = ()> + Send + 'static,
    ) {
        self.parts.push(Part::new(name, stage, thread, task));
    }

    /// Adds a part that runs until the background closes, on the thread of the queries.
    fn add_background(&mut self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let task = until(&self.closing.background, task);
        self.add(name, Stage::Background, Thread::Query, task);
    }

    /// Adds a part that runs until the background closes, on the control plane's thread.
    fn add_control_background(
        &mut self,
        name: &'static str,
        task: impl Future<Output = ()> + Send + 'static,
    ) {
        let task = until(&self.closing.background, task);
        self.add(name, Stage::Background, Thread::Control, task);
    }

    /// The tasks that follow the store: the query path's routes, query-id blocks, and a gauge.
    fn follow_store(&mut self) -> watch::Receiver<Generation> {
        let (followed, follows) = watch::channel(Generation::default());
        let follower = Follower {
            catalogs: self.store.watch(),
            queries: self.queries.clone(),
            models: self.models.clone(),
            metrics: self.metrics.clone(),
            replicas: self.models.replicas().changed(),
            followed,
        };
        // Resolving thousands of routes takes milliseconds, and queries on the same thread would wait.
        self.add_control_background("route follower", follower.run());
        let (ids, store) = (self.queries.ids().clone(), self.store.clone());
        self.add_background("query-id fetcher", async move {
            ids.keep_filled(|| store.next_query_block()).await;
        });
        let (mut health, metrics) = (self.store.health(), self.metrics.clone());
        self.add_background("store gauge", async move {
            loop {
                metrics.set_store_up(health.borrow_and_update().is_up());
                if health.changed().await.is_err() {
                    return;
                }
            }
        });
        follows
    }

    /// The tasks that exchange announcements with the cluster's frontends; returns the view of all frontends.
    fn join_membership(&mut self, followed: watch::Receiver<Generation>) -> Arc<ClusterWatch> {
        let observer = Observer::new(
            self.identity.clone(),
            self.queries.clone(),
            self.models.clone(),
            self.store.watch(),
            self.clock,
        );
        let observer = observer.ending_with(self.closing.queries.clone());
        let cluster = Arc::new(ClusterWatch::new(observer));
        let announcer = Announcer {
            id: self.identity.id.clone(),
            peer: PeerAddress {
                bound: self.ops_addr,
                store: store_host(&self.config.store),
            },
            cluster: cluster.clone(),
            store: self.store.clone(),
            followed: followed.clone(),
            replicas: self.models.replicas().changed(),
            draining: self.closing.queries.clone(),
        };
        let membership = Membership::new(
            (self.store.announced(), self.store.watch()),
            cluster.clone(),
            self.settling.clone(),
            self.models.clone(),
            self.metrics.clone(),
        );
        self.add_control_background("membership follower", membership.run());
        let looking = cluster.clone().run(followed, self.models.replicas().changed());
        self.add_control_background("cluster watcher", looking);
        let announce = announcer.run(self.closing.background.clone());
        self.add("announcer", Stage::Announcer, Thread::Control, announce);
        cluster
    }

    /// The tasks of the control role: leadership, the reconciler, and the end of rollouts.
    fn take_control(&mut self, cluster: &ClusterWatch) -> Arc<Report> {
        let report = Arc::<Report>::default();
        if !self.config.roles.control {
            return report;
        }
        let closing = self.closing.background.clone();
        let holder = leadership::holder(self.admin_addr, &self.identity.id);
        let leadership = Leadership::new(self.store.clone(), holder);
        let leadership = Arc::new(match self.runtime {
            None => leadership.yielding(cluster.subscribe()),
            Some(_) => leadership,
        });
        // Leadership ends with admin REST: the next frontend that binds this address becomes the holder.
        let lead = leadership.clone().run(self.closing.admin.clone());
        self.add("leadership", Stage::Leadership, Thread::Query, lead);
        let rollouts = Rollouts {
            store: self.store.clone(),
            views: cluster.subscribe(),
            leadership: leadership.clone(),
            report: report.clone(),
        };
        let rollouts = rollouts.run(closing.clone());
        self.add("rollout watcher", Stage::Background, Thread::Query, rollouts);
        let learning = Learning {
            store: self.store.clone(),
            views: cluster.subscribe(),
            leadership: leadership.clone(),
        };
        let learning = learning.run(closing.clone());
        self.add("signature watcher", Stage::Background, Thread::Query, learning);
        let keeper = TokenKeeper {
            asks: self.asks.clone(),
            store: self.store.clone(),
            report: report.clone(),
        };
        self.add_background("admin token keeper", keeper.run());
        let sweeper = Sweeper {
            artifacts: self.artifacts.clone(),
            store: self.store.clone(),
            report: report.clone(),
        };
        self.add_control_background("artifact sweeper", sweeper.run());
        let autoscaler = Autoscaler::new(autoscaler::Parts {
            store: self.store.clone(),
            views: cluster.subscribe(),
            leadership: leadership.clone(),
            report: report.clone(),
            clock: self.clock,
        });
        let autoscaler = autoscaler.run(closing.clone());
        self.add("autoscaler", Stage::Background, Thread::Query, autoscaler);
        if let Some(runtime) = self.runtime.clone() {
            let moves = Moves {
                runtime: runtime.clone(),
                store: self.store.clone(),
                leadership: leadership.clone(),
                cluster: self.config.cluster.clone(),
                report: report.clone(),
            };
            let moves = moves.run(closing.clone());
            self.add("image watcher", Stage::Background, Thread::Query, moves);
            let reconciler = Reconciler::new(Parts {
                runtime,
                store: self.store.clone(),
                views: cluster.subscribe(),
                leadership,
                cluster: self.config.cluster.clone(),
                patience: Patience::default(),
                clock: self.clock,
                stop_grace: CONTAINER_GRACE,
                report: report.clone(),
            });
            // On the thread that reads the containers' logs: an engine's answer is handled by the thread that
            // asked.
            let reconcile = reconciler.run(closing);
            self.add("reconciler", Stage::Background, Thread::Control, reconcile);
        }
        report
    }

    fn serve_rpc(&mut self, listeners: Vec<TcpListener>) {
        for listener in listeners {
            let serve = skysail_container_rpc::server::serve(
                listener,
                self.models.clone(),
                self.identity.id.clone(),
                self.closing.background.clone().cancelled_owned(),
            );
            self.add(
                "container RPC server",
                Stage::Background,
                Thread::Query,
                async move {
                    if let Err(error) = serve.await {
                        error!(%error, "container RPC ended");
                    }
                },
            );
        }
    }

    fn bodies(&self, limit: usize) -> BodyReader {
        BodyReader::new(limit, self.config.timeouts.client)
    }

    fn serve_queries(&mut self, listener: Option<TcpListener>) {
        let Some(listener) = listener else { return };
        let api = QueryApi {
            service: self.queries.clone(),
            bodies: self.bodies(self.config.body_limit),
            max_rows: self.config.max_rows,
        };
        let probes = ops::probes(self.health.clone());
        let server = QueryServer::new(Arc::new(api), probes, self.config.cors_origins.clone());
        let limits = Limits {
            connections: self.config.max_connections,
            timeouts: self.config.timeouts,
            refused: Vec::new(),
        };
        let serve = http::serve(listener, server, limits, self.closing.queries.clone());
        self.add("query server", Stage::QueryServer, Thread::Query, serve);
    }

    fn serve_ops(&mut self, listener: TcpListener, ops: &Arc<Ops>, counting: Counting) {
        let limits = Limits {
            connections: ADMIN_CONNECTIONS,
            timeouts: self.config.timeouts,
            // Models do not need the operations server.
            refused: self.config.model_networks.clone(),
        };
        let peer = PeerDoor {
            guard: Guard {
                id: self.identity.id.clone(),
                catalogs: self.store.watch(),
            },
            counting,
        };
        let serve = http::serve(
            listener,
            ops::router(ops.clone(), peer),
            limits,
            self.closing.admin.clone(),
        );
        self.add("operations server", Stage::AdminServers, Thread::Control, serve);
    }

    fn serve_admin(&mut self, listener: Option<TcpListener>, ops: Arc<Ops>, shown: Shown) {
        let Some(listener) = listener else { return };
        let token = AskedToken::new(self.asks.clone(), self.store.watch());
        let origins = self.config.admin_origins.clone();
        let access = Access {
            browsers: Browsers {
                origins: origins.clone(),
                hosts: self.config.admin_hosts.clone(),
            },
            token: token.clone(),
            cors: Cors {
                allowed: origins,
                methods: access::METHODS,
                exposed: "Location",
            },
        };
        let service = AdminService {
            cluster: shown.cluster,
            counting: shown.counting,
            peers: Peers::new(self.store.watch()),
            store: self.store.clone(),
            report: shown.report,
            runtime: self.runtime.clone(),
            artifacts: self.artifacts.clone(),
            info: self.info(),
            closing: self.closing.admin.clone(),
            token,
            turns: Mutex::default(),
        };
        let api = AdminApi {
            service,
            bodies: self.bodies(BODY_BYTES),
            files: self.bodies(self.config.artifact_limit),
        };
        let router = admin::http::router(Arc::new(api), ops);
        let limits = Limits {
            connections: ADMIN_CONNECTIONS,
            timeouts: self.config.timeouts,
            refused: self.config.model_networks.clone(),
        };
        let answers = Guarded::new(access, router);
        let serve = http::serve(listener, answers, limits, self.closing.admin.clone());
        self.add("admin server", Stage::AdminServers, Thread::Control, serve);
    }

    fn info(&self) -> FrontendInfo {
        let (store_kind, store_location) = match &self.config.store {
            StoreLocation::Embedded(path) => ("embedded", path.display().to_string()),
            StoreLocation::Redis(url) => ("redis", without_password(url)),
        };
        FrontendInfo {
            cluster: self.config.cluster.clone(),
            id: self.identity.id.clone(),
            store_kind,
            store_location,
            runtime_kind: match self.config.roles.control {
                true => self.config.runtime.name(),
                false => RuntimeKind::None.name(),
            },
        }
    }
}

/// A part that must run as long as the frontend ended before it; this is a bug.
#[derive(Debug, thiserror::Error)]
#[error("the {0} ended while the frontend was serving; this is a bug, see the log")]
pub struct PartEnded(&'static str);

/// Opens the store. A store that several frontends share comes with the part that follows it.
async fn open_store(config: &Config) -> Result<(Arc<dyn MetadataStore>, Option<Part>), BuildError> {
    match &config.store {
        StoreLocation::Embedded(path) => {
            let path = path.clone();
            let opened = tokio::task::spawn_blocking(move || EmbeddedStore::open(path)).await;
            let opened = opened.map_err(|error| BuildError::Store(error.into()))?;
            let opened = opened.map_err(|error| BuildError::Store(error.into()))?;
            Ok((Arc::new(opened), None))
        }
        StoreLocation::Redis(url) => {
            let store = match &config.store_ca {
                None => RedisStore::at(url, &config.cluster),
                Some(authority) => RedisStore::at_trusting(url, &config.cluster, authority),
            };
            let (store, follower) = store.map_err(|error| BuildError::Store(error.into()))?;
            let follower = Part::new("store follower", Stage::Store, Thread::Query, follower.run());
            Ok((Arc::new(store), Some(follower)))
        }
    }
}

/// The inputs of readiness.
fn health(
    closing: &Closing,
    queries: &Arc<QueryService>,
    store: &dyn MetadataStore,
    settling: &watch::Sender<Settling>,
) -> Health {
    let (queries, store) = (queries.clone(), store.health());
    Health {
        draining: closing.queries.clone(),
        cannot_answer: Box::new(move || queries.lacks().map(str::to_owned)),
        settling: settling.subscribe(),
        parts: vec![("store", Box::new(move || store.borrow().problem()))],
    }
}

/// The host and port of a store that several frontends share.
fn store_host(store: &StoreLocation) -> Option<(String, u16)> {
    match store {
        StoreLocation::Embedded(_) => None,
        StoreLocation::Redis(url) => redis::host_of(url),
    }
}

/// Runs a task until it ends or `closing` is cancelled.
fn until(
    closing: &CancellationToken,
    task: impl Future<Output = ()> + Send + 'static,
) -> impl Future<Output = ()> + Send + 'static {
    let closing = closing.clone();
    async move {
        tokio::select! {
            () = closing.cancelled() => {}
            () = task => {}
        }
    }
}

//! The composition root: builds every part, wires them, and owns every long-lived task.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use skysail_core::catalog::Generation;
use skysail_core::reconcile::Patience;
use tokio::sync::{Mutex, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::admin::AdminService;
use crate::admin::access::token::{AskedToken, Asks};
use crate::admin::access::{self, Access, Browsers, Guarded, TokenKeeper};
use crate::admin::http::{AdminApi, BODY_BYTES};
use crate::admin::observed;
use crate::admin::view::FrontendInfo;
use crate::autoscaler::{self, Autoscaler};
use crate::clock::Clock;
use crate::cluster::{Announcer, Identity, Membership, Observer};
use crate::config::{Config, RuntimeKind, StoreLocation, without_password};
use crate::control_thread::ControlThread;
use crate::health::Health;
use crate::http::{BodyReader, Cors, Limits};
use crate::leadership::{self, Leadership};
use crate::metrics::Metrics;
use crate::model::ModelTable;
use crate::orphans::{self, Orphans};
use crate::query::QueryService;
use crate::query::http::{QueryApi, QueryServer};
use crate::reconcile::{Moves, Parts, Reconciler, Report, Rollouts};
use crate::runtime::docker::DockerRuntime;
use crate::runtime::process::ProcessRuntime;
use crate::runtime::{ContainerRuntime, RuntimeError};
use crate::store::MetadataStore;
use crate::store::embedded::EmbeddedStore;
use crate::store::redis::RedisStore;
use crate::{admin, http, open_files};

mod admin_token;
mod ending;
mod follower;
mod listeners;

use ending::{Closing, Ending};
use follower::{Follower, fetch_query_ids};
use listeners::{Listeners, listen_advice};

pub use listeners::Addresses;

/// Connections to admin REST that may be open at once. They are counted by themselves, so that whoever
/// operates a frontend gets in however many ask it.
const ADMIN_CONNECTIONS: usize = 1000;

/// How long a container may take to end when it is asked to.
const CONTAINER_GRACE: Duration = Duration::from_secs(10);

/// Why a frontend cannot start.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// A port cannot be had.
    #[error("{what} cannot listen on {addr}: {}", listen_advice(.cause, .flag))]
    Listen {
        /// Which of the servers.
        what: &'static str,
        /// Where.
        addr: SocketAddr,
        /// The flag that changes it.
        flag: &'static str,
        /// What the system said: part of the message already.
        cause: std::io::Error,
    },
    /// The store cannot be opened.
    #[error("the metadata store cannot be opened")]
    Store(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The thread of the control plane cannot be started.
    #[error("the control plane's thread cannot be started")]
    ControlThread(#[source] std::io::Error),
    /// Admin REST needs a token, and none can be made.
    #[error("an admin token cannot be kept in {}: {cause}; give one with --admin-token-file FILE", .path.display())]
    AdminToken {
        /// Where it would be.
        path: PathBuf,
        /// What the system said: part of the message already.
        cause: std::io::Error,
    },
    /// The runtime cannot be used.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
}

/// A frontend that is built, bound and not yet running.
pub struct App {
    config: Config,
    asks: Asks,
    addresses: Addresses,
    listeners: Listeners,
    control: ControlThread,
    identity: Identity,
    store: Arc<dyn MetadataStore>,
    runtime: Runtime,
    models: Arc<ModelTable>,
    queries: Arc<QueryService>,
    metrics: Arc<Metrics>,
    health: Arc<Health>,
    clock: Clock,
}

/// The runtime, as far as it matters which it is.
#[derive(Clone)]
enum Runtime {
    Process(Arc<ProcessRuntime>),
    Docker(Arc<DockerRuntime>),
    None,
}

impl Runtime {
    fn new(config: &Config) -> Result<Self, RuntimeError> {
        Ok(match config.runtime {
            _ if !config.roles.control => Self::None,
            RuntimeKind::Process => Self::Process(Arc::new(ProcessRuntime::new()?)),
            RuntimeKind::Docker => Self::Docker(Arc::new(DockerRuntime::connect(config.cluster.clone()))),
            RuntimeKind::None => Self::None,
        })
    }

    fn shared(&self) -> Option<Arc<dyn ContainerRuntime>> {
        match self {
            Self::Process(runtime) => Some(runtime.clone()),
            Self::Docker(runtime) => Some(runtime.clone()),
            Self::None => None,
        }
    }

    /// The address at which containers reach this host, where they cannot reach the configured one.
    async fn gateway(&self, config: &Config) -> Result<Option<IpAddr>, RuntimeError> {
        let bound = config.rpc_addr.ip();
        match self {
            Self::Docker(runtime)
                if config.rpc_advertise.is_none() && (bound.is_loopback() || bound.is_unspecified()) =>
            {
                runtime.gateway().await.map(Some)
            }
            _ => Ok(None),
        }
    }
}

impl App {
    /// Opens the store, binds every address, and wires the parts. Nothing is served yet.
    pub async fn build(mut config: Config) -> Result<Self, BuildError> {
        config.max_connections = open_files::make_room(config.max_connections, ADMIN_CONNECTIONS);
        let control = ControlThread::start().map_err(BuildError::ControlThread)?;
        let runtime = {
            // What containers print is read on the control thread, and so is what the engine tells.
            let _inside = control.handle().enter();
            Runtime::new(&config)?
        };
        let built = Self::build_with(config, control, runtime.clone()).await;
        if let (Err(_), Runtime::Docker(docker)) = (&built, &runtime) {
            // What is said is why it cannot start; a network that is left is removed by the next life's end.
            let _ = docker.leave_made().await;
        }
        built
    }

    async fn build_with(
        config: Config,
        control: ControlThread,
        runtime: Runtime,
    ) -> Result<Self, BuildError> {
        let mut listeners = Listeners::bind(&config, &runtime).await?;
        let admin = listeners.admin.take().map(|listener| control.adopt(listener));
        listeners.admin = admin.transpose().map_err(BuildError::ControlThread)?;
        let addresses = listeners.addresses(&config);
        let asks = admin_token::asks(&config)?;
        let store = open_store(&config).await?;
        let clock = Clock::start();
        let metrics = Arc::new(Metrics::default());
        let models = ModelTable::new(config.queue_bounds, config.cache_bytes, metrics.clone(), clock);
        let models = Arc::new(match addresses.rpc_is_local() {
            true => models.on_this_machine_only(),
            false => models,
        });
        let queries = Arc::new(QueryService::new(clock));
        let health = Arc::new(Health::new(queries.clone(), store.health()));
        let identity = addresses.identity(&config);
        Ok(Self {
            config,
            asks,
            addresses,
            listeners,
            control,
            identity,
            store,
            runtime,
            models,
            queries,
            metrics,
            health,
            clock,
        })
    }

    /// Where it listens.
    pub fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// Serves until `shutdown`, then ends gracefully: no new connections, every accepted query answered,
    /// containers told; within the configured grace.
    ///
    /// Ends gracefully as well, with an error, should a part end that never does.
    pub async fn run(mut self, shutdown: CancellationToken) -> Result<(), PartEnded> {
        self.log_addresses();
        let closing = Closing::default();
        let mut ending = Ending {
            grace: self.config.grace,
            queries: self.queries.clone(),
            models: self.models.clone(),
            runtime: self.runtime.clone(),
            id: self.identity.id.clone(),
            announced: self.store.announced(),
            query_server: JoinSet::new(),
            admin_server: JoinSet::new(),
            background: JoinSet::new(),
            announcer: JoinSet::new(),
            leadership: JoinSet::new(),
            closing: closing.clone(),
        };
        let followed = self.spawn_followers(&mut ending.background, &closing.background);
        let views = self.spawn_membership(&mut ending, followed.clone());
        let report = self.spawn_control(&mut ending, &views);
        self.spawn_reaper(&mut ending.background, &closing.background);
        self.spawn_rpc(&mut ending.background, &closing.background);
        let _control = self.spawn_http(&mut ending, followed, views, report);

        let served = tokio::select! {
            () = shutdown.cancelled() => Ok(()),
            Some(_) = ending.background.join_next() => Err(PartEnded),
            Some(_) = ending.announcer.join_next() => Err(PartEnded),
        };
        if let Err(ended) = &served {
            error!(error = %ended, "ending");
        }
        ending.run().await;
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
        for addr in &self.addresses.rpc {
            info!(%addr, advertised = self.addresses.advertised, "container RPC listening");
        }
    }

    /// The tasks that follow the store: the query path's routes, query-id blocks, and a gauge.
    fn spawn_followers(
        &self,
        tasks: &mut JoinSet<()>,
        closing: &CancellationToken,
    ) -> watch::Receiver<Generation> {
        let (followed, follows) = watch::channel(Generation::default());
        let follower = Follower {
            catalogs: self.store.watch(),
            queries: self.queries.clone(),
            models: self.models.clone(),
            metrics: self.metrics.clone(),
            replicas: self.models.replicas().changed(),
            followed,
        };
        // To resolve thousands of routes takes milliseconds, in which queries would have to wait.
        let run = until(closing, follower.run());
        tasks.spawn_on(run, self.control.handle());
        spawn_until(
            tasks,
            closing,
            fetch_query_ids(self.store.clone(), self.queries.clone()),
        );
        let (mut health, metrics) = (self.store.health(), self.metrics.clone());
        spawn_until(tasks, closing, async move {
            loop {
                metrics.set_store_up(health.borrow_and_update().is_up());
                if health.changed().await.is_err() {
                    return;
                }
            }
        });
        follows
    }

    /// The tasks that tell the cluster's frontends of each other; returns what is known of all.
    fn spawn_membership(
        &self,
        ending: &mut Ending,
        followed: watch::Receiver<Generation>,
    ) -> observed::Views {
        self.queries
            .set_settling(self.config.roles.query.then(BTreeSet::new));
        let (own, seen) = watch::channel(self.identity.first_view());
        let observer = Observer::new(
            self.identity.clone(),
            self.queries.clone(),
            self.models.clone(),
            self.store.watch(),
            self.clock,
        );
        let observer = Arc::new(parking_lot::Mutex::new(observer));
        let announcer = Announcer {
            observer: observer.clone(),
            store: self.store.clone(),
            own,
            followed,
            replicas: self.models.replicas().changed(),
            draining: ending.closing.queries.clone(),
        };
        let (membership, views) = Membership::new(
            (self.store.announced(), self.store.watch()),
            seen,
            self.queries.clone(),
            self.models.clone(),
            self.metrics.clone(),
        );
        let closing = ending.closing.background.clone();
        let follow = until(&closing, membership.run());
        ending.background.spawn_on(follow, self.control.handle());
        ending
            .announcer
            .spawn_on(announcer.run(closing), self.control.handle());
        observed::Views {
            announced: views,
            own: Box::new(move || observer.lock().look()),
        }
    }

    /// The tasks of the control role: who acts, what runs, and the end of rollouts.
    fn spawn_control(&self, ending: &mut Ending, views: &observed::Views) -> Arc<Report> {
        let report = Arc::<Report>::default();
        if !self.config.roles.control {
            return report;
        }
        let closing = &ending.closing.background;
        let holder = leadership::holder(self.addresses.admin, &self.identity.id);
        let leadership = Leadership::new(self.store.clone(), holder);
        let leadership = Arc::new(match self.runtime {
            Runtime::None => leadership.yielding(views.announced.clone()),
            Runtime::Process(_) | Runtime::Docker(_) => leadership,
        });
        // No longer than admin REST is bound: whoever binds it next is the holder then.
        let resigning = ending.closing.admin.clone();
        ending.leadership.spawn(leadership.clone().run(resigning));
        let rollouts = Rollouts {
            store: self.store.clone(),
            views: views.announced.clone(),
            leadership: leadership.clone(),
            report: report.clone(),
        };
        ending.background.spawn(rollouts.run(closing.clone()));
        let keeper = TokenKeeper {
            asks: self.asks.clone(),
            store: self.store.clone(),
            report: report.clone(),
        };
        ending.background.spawn(until(closing, keeper.run()));
        let autoscaler = Autoscaler::new(autoscaler::Parts {
            store: self.store.clone(),
            views: views.announced.clone(),
            leadership: leadership.clone(),
            report: report.clone(),
            clock: self.clock,
        });
        ending.background.spawn(autoscaler.run(closing.clone()));
        if let Some(runtime) = self.runtime.shared() {
            let moves = Moves {
                runtime: runtime.clone(),
                store: self.store.clone(),
                leadership: leadership.clone(),
                cluster: self.config.cluster.clone(),
                report: report.clone(),
            };
            ending.background.spawn(moves.run(closing.clone()));
            let reconciler = Reconciler::new(Parts {
                runtime,
                store: self.store.clone(),
                views: views.announced.clone(),
                leadership,
                cluster: self.config.cluster.clone(),
                patience: Patience::default(),
                clock: self.clock,
                stop_grace: CONTAINER_GRACE,
                report: report.clone(),
            });
            // Beside the logs, which it reads: an engine's answer is handled by the thread that asked.
            ending
                .background
                .spawn_on(reconciler.run(closing.clone()), self.control.handle());
        }
        report
    }

    /// The task that reaps orphans, where they come to this process.
    fn spawn_reaper(&self, tasks: &mut JoinSet<()>, closing: &CancellationToken) {
        let _inside = self.control.handle().enter();
        let mut orphans = match Orphans::watch() {
            Ok(Some(orphans)) => orphans,
            Ok(None) => return,
            Err(error) => return warn!(%error, "orphans are not reaped"),
        };
        let runtime = self.runtime.clone();
        let reap = async move {
            loop {
                match &runtime {
                    Runtime::Process(processes) => processes.reap_orphans().await,
                    // The frontend has no children of its own.
                    Runtime::Docker(_) | Runtime::None => orphans::reap(|_| false),
                }
                orphans.ended().await;
            }
        };
        tasks.spawn_on(until(closing, reap), self.control.handle());
    }

    fn spawn_rpc(&mut self, tasks: &mut JoinSet<()>, closing: &CancellationToken) {
        for listener in std::mem::take(&mut self.listeners.rpc) {
            let serve = skysail_container_rpc::server::serve(
                listener,
                self.models.clone(),
                self.identity.id.clone(),
                closing.clone().cancelled_owned(),
            );
            tasks.spawn(async move {
                if let Err(error) = serve.await {
                    error!(%error, "container RPC ended");
                }
            });
        }
    }

    fn spawn_http(
        self,
        ending: &mut Ending,
        followed: watch::Receiver<Generation>,
        views: observed::Views,
        report: Arc<Report>,
    ) -> ControlThread {
        let info = self.info();
        let closing = ending.closing.clone();
        let timeouts = self.config.timeouts;
        let bodies = |limit| BodyReader::new(limit, timeouts.client);
        if let Some(listener) = self.listeners.query {
            let api = QueryApi {
                service: self.queries,
                health: self.health.clone(),
                bodies: bodies(self.config.body_limit),
                max_rows: self.config.max_rows,
            };
            let server = QueryServer::new(Arc::new(api), self.config.cors_origins.clone());
            let limits = Limits {
                connections: self.config.max_connections,
                timeouts,
                refused: Vec::new(),
            };
            ending
                .query_server
                .spawn(http::serve(listener, server, limits, closing.queries));
        }
        if let Some(listener) = self.listeners.admin {
            let token = AskedToken::new(self.asks, self.store.watch());
            let origins = self.config.admin_origins;
            let access = Access {
                browsers: Browsers {
                    origins: origins.clone(),
                    hosts: self.config.admin_hosts,
                },
                token: token.clone(),
                cors: Cors {
                    allowed: origins,
                    methods: access::METHODS,
                    exposed: "Location",
                },
            };
            let service = AdminService {
                views,
                store: self.store,
                followed,
                models: self.models,
                report,
                runtime: self.runtime.shared(),
                info,
                closing: closing.admin.clone(),
                token,
                turns: Mutex::default(),
            };
            let api = AdminApi {
                service,
                health: self.health,
                metrics: self.metrics,
                bodies: bodies(BODY_BYTES),
            };
            let router = admin::http::router(Arc::new(api));
            let limits = Limits {
                connections: ADMIN_CONNECTIONS,
                timeouts,
                refused: self.config.model_networks.clone(),
            };
            let answers = Guarded::new(access, router);
            let serve = http::serve(listener, answers, limits, closing.admin);
            ending.admin_server.spawn_on(serve, self.control.handle());
        }
        self.control
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
            runtime_kind: match self.runtime {
                Runtime::Process(_) => RuntimeKind::Process.name(),
                Runtime::Docker(_) => RuntimeKind::Docker.name(),
                Runtime::None => RuntimeKind::None.name(),
            },
        }
    }
}

/// A task that lives as long as the frontend has ended before it: a defect of ours.
#[derive(Debug, thiserror::Error)]
#[error("a part of the frontend ended while it was serving; this is a bug, see the log")]
pub struct PartEnded;

async fn open_store(config: &Config) -> Result<Arc<dyn MetadataStore>, BuildError> {
    match &config.store {
        StoreLocation::Embedded(path) => {
            let path = path.clone();
            let opened = tokio::task::spawn_blocking(move || EmbeddedStore::open(path)).await;
            let opened = opened.map_err(|error| BuildError::Store(error.into()))?;
            Ok(Arc::new(opened.map_err(|error| BuildError::Store(error.into()))?))
        }
        StoreLocation::Redis(url) => {
            let store = match &config.store_ca {
                None => RedisStore::connect(url, &config.cluster),
                Some(authority) => RedisStore::connect_trusting(url, &config.cluster, authority),
            };
            Ok(Arc::new(store.map_err(|error| BuildError::Store(error.into()))?))
        }
    }
}

fn spawn_until(
    tasks: &mut JoinSet<()>,
    closing: &CancellationToken,
    task: impl Future<Output = ()> + Send + 'static,
) {
    tasks.spawn(until(closing, task));
}

/// Runs a task until it ends, or is told to.
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

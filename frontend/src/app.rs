//! The composition root: builds every part, wires them, and owns every long-lived task.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use skysail_core::backoff::Backoff;
use skysail_core::catalog::{Catalog, Generation};
use skysail_core::cluster::FrontendView;
use skysail_core::reconcile::Patience;
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::{Mutex, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{error, info, warn};

use crate::admin::AdminService;
use crate::admin::http::{AdminApi, BODY_BYTES};
use crate::admin::view::FrontendInfo;
use crate::clock::Clock;
use crate::config::{Config, RuntimeKind, StoreLocation, without_password};
use crate::control_thread::ControlThread;
use crate::health::Health;
use crate::http::{BodyReader, Limits};
use crate::leadership::Leadership;
use crate::metrics::Metrics;
use crate::model::ModelTable;
use crate::query::http::{QueryApi, QueryServer};
use crate::query::{QueryService, Routes};
use crate::reconcile::{Parts, Reconciler, Report, Rollouts};
use crate::runtime::docker::DockerRuntime;
use crate::runtime::process::ProcessRuntime;
use crate::runtime::{ContainerRuntime, RuntimeError};
use crate::store::embedded::EmbeddedStore;
use crate::store::redis::RedisStore;
use crate::store::{MetadataStore, StoreHealth};
use crate::{admin, http, open_files};

/// Connections to admin REST that may be open at once. They are counted by themselves, so that whoever
/// operates a frontend gets in however many ask it.
const ADMIN_CONNECTIONS: usize = 1000;

/// How long a container may take to end when it is asked to.
const CONTAINER_GRACE: Duration = Duration::from_secs(10);

/// The most of the grace that is kept for telling containers and ending processes.
const CONTAINER_RESERVE: Duration = Duration::from_secs(3);

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
    /// The runtime cannot be used.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
}

fn listen_advice(cause: &std::io::Error, flag: &str) -> String {
    match cause.kind() {
        std::io::ErrorKind::AddrInUse => {
            format!(
                "the port is taken; stop what uses it, or choose another with {flag} (port 0 picks a free one)"
            )
        }
        _ => format!("{cause}; choose another address with {flag}"),
    }
}

/// Where a frontend listens.
#[derive(Clone, Debug)]
pub struct Addresses {
    /// Query REST, with the query role.
    pub query: Option<SocketAddr>,
    /// Admin REST, with the control role.
    pub admin: Option<SocketAddr>,
    /// Container RPC.
    pub rpc: Vec<SocketAddr>,
    /// What containers are told to dial.
    pub advertised: String,
}

/// A frontend that is built, bound and not yet running.
pub struct App {
    config: Config,
    addresses: Addresses,
    listeners: Listeners,
    control: ControlThread,
    frontend_id: String,
    store: Arc<dyn MetadataStore>,
    runtime: Runtime,
    models: Arc<ModelTable>,
    queries: Arc<QueryService>,
    metrics: Arc<Metrics>,
    health: Arc<Health>,
    clock: Clock,
}

struct Listeners {
    query: Option<TcpListener>,
    admin: Option<TcpListener>,
    rpc: Vec<TcpListener>,
    /// Where containers reach container RPC, if that is not the configured address.
    gateway: Option<SocketAddr>,
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
        let runtime = Runtime::new(&config)?;
        let mut listeners = Listeners::bind(&config, &runtime).await?;
        let admin = listeners.admin.take().map(|listener| control.adopt(listener));
        listeners.admin = admin.transpose().map_err(BuildError::ControlThread)?;
        let addresses = listeners.addresses(&config);
        let store = open_store(&config).await?;
        let clock = Clock::start();
        let metrics = Arc::new(Metrics::default());
        let models = Arc::new(ModelTable::new(
            config.queue_bounds,
            config.cache_bytes,
            metrics.clone(),
            clock,
        ));
        let queries = Arc::new(QueryService::new(clock));
        let health = Arc::new(Health::new(queries.clone(), store.health()));
        let frontend_id = format!("{:016x}", fastrand::u64(..));
        Ok(Self {
            config,
            addresses,
            listeners,
            control,
            frontend_id,
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
            query_server: JoinSet::new(),
            admin_server: JoinSet::new(),
            background: JoinSet::new(),
            leadership: JoinSet::new(),
            closing: closing.clone(),
        };
        let followed = self.spawn_followers(&mut ending.background, &closing.background);
        let views = self.spawn_view(&mut ending.background, &closing.background, followed.clone());
        let report = self.spawn_control(&mut ending, views);
        self.spawn_rpc(&mut ending.background, &closing.background);
        let _control = self.spawn_http(&mut ending, followed, report);

        let served = tokio::select! {
            () = shutdown.cancelled() => Ok(()),
            Some(_) = ending.background.join_next() => Err(PartEnded),
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
                metrics.set_store_up(*health.borrow_and_update() == StoreHealth::Up);
                if health.changed().await.is_err() {
                    return;
                }
            }
        });
        follows
    }

    /// The task that keeps what this frontend sees.
    fn spawn_view(
        &self,
        tasks: &mut JoinSet<()>,
        closing: &CancellationToken,
        mut followed: watch::Receiver<Generation>,
    ) -> watch::Receiver<Arc<Vec<FrontendView>>> {
        let (sender, views) = watch::channel(Arc::default());
        let (catalogs, replicas) = (self.store.watch(), self.models.replicas().clone());
        let base = FrontendView {
            id: self.frontend_id.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
            started_at: Timestamp::now(),
            query_addr: self.addresses.query.map(|addr| addr.to_string()),
            admin_addr: self.addresses.admin.map(|addr| addr.to_string()),
            rpc_addr: self.config.roles.query.then(|| self.addresses.advertised.clone()),
            ..FrontendView::default()
        };
        spawn_until(tasks, closing, async move {
            let replicas_changed = replicas.changed();
            loop {
                let generation = followed.borrow_and_update().clone();
                let catalog = catalogs.borrow().clone().unwrap_or_default();
                let current = catalog.models.values();
                let view = FrontendView {
                    generation,
                    serving: current
                        .map(|model| (model.name.clone(), model.current_version.clone()))
                        .collect(),
                    replicas: replicas.all().iter().map(|replica| replica.view()).collect(),
                    ..base.clone()
                };
                sender.send_replace(Arc::new(vec![view]));
                tokio::select! {
                    () = replicas_changed.notified() => {}
                    changed = followed.changed() => if changed.is_err() { return },
                }
            }
        });
        views
    }

    /// The tasks of the control role: who acts, what runs, and the end of rollouts.
    fn spawn_control(
        &self,
        ending: &mut Ending,
        views: watch::Receiver<Arc<Vec<FrontendView>>>,
    ) -> Arc<Report> {
        let report = Arc::<Report>::default();
        if !self.config.roles.control {
            return report;
        }
        let closing = &ending.closing.background;
        let leadership = Arc::new(Leadership::new(self.store.clone(), self.frontend_id.clone()));
        ending.leadership.spawn(leadership.clone().run(closing.clone()));
        let rollouts = Rollouts {
            store: self.store.clone(),
            views: views.clone(),
            leadership: leadership.clone(),
            report: report.clone(),
        };
        ending.background.spawn(rollouts.run(closing.clone()));
        if let Some(runtime) = self.runtime.shared() {
            let reconciler = Reconciler::new(Parts {
                runtime,
                catalog: self.store.watch(),
                views,
                leadership,
                cluster: self.config.cluster.clone(),
                patience: Patience::default(),
                clock: self.clock,
                stop_grace: CONTAINER_GRACE,
                report: report.clone(),
            });
            ending.background.spawn(reconciler.run(closing.clone()));
        }
        report
    }

    fn spawn_rpc(&mut self, tasks: &mut JoinSet<()>, closing: &CancellationToken) {
        for listener in std::mem::take(&mut self.listeners.rpc) {
            let serve = skysail_container_rpc::server::serve(
                listener,
                self.models.clone(),
                self.frontend_id.clone(),
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
        report: Arc<Report>,
    ) -> ControlThread {
        let info = self.info();
        let closing = ending.closing.clone();
        let timeouts = self.config.timeouts;
        let bodies = |limit| BodyReader {
            limit,
            timeout: timeouts.client,
            tasks: TaskTracker::new(),
        };
        if let Some(listener) = self.listeners.query {
            let api = QueryApi {
                service: self.queries,
                health: self.health.clone(),
                bodies: bodies(self.config.body_limit),
                most_inputs: self.config.queue_bounds.count,
            };
            let server = QueryServer::new(Arc::new(api));
            let limits = Limits {
                connections: self.config.max_connections,
                timeouts,
            };
            ending
                .query_server
                .spawn(http::serve(listener, server, limits, closing.queries));
        }
        if let Some(listener) = self.listeners.admin {
            let service = AdminService {
                store: self.store,
                followed,
                models: self.models,
                report,
                runtime: self.runtime.shared(),
                info,
                closing: closing.admin.clone(),
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
            };
            let serve = http::serve(listener, router, limits, closing.admin);
            ending.admin_server.spawn_on(serve, self.control.handle());
        }
        self.control
    }

    fn info(&self) -> FrontendInfo {
        let shown = |addr: Option<SocketAddr>| addr.map(|addr| addr.to_string()).unwrap_or_default();
        let (store_kind, store_location) = match &self.config.store {
            StoreLocation::Embedded(path) => ("embedded", path.display().to_string()),
            StoreLocation::Redis(url) => ("redis", without_password(url)),
        };
        FrontendInfo {
            cluster: self.config.cluster.clone(),
            id: self.frontend_id.clone(),
            query_addr: shown(self.addresses.query),
            admin_addr: shown(self.addresses.admin),
            rpc_addr: self.addresses.advertised.clone(),
            started_at: Timestamp::now(),
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

/// What is told to close, in this order.
#[derive(Clone, Default)]
struct Closing {
    queries: CancellationToken,
    admin: CancellationToken,
    background: CancellationToken,
}

/// The end of a frontend, in stages that share the grace between them: however slow one is, containers are
/// told.
struct Ending {
    grace: Duration,
    queries: Arc<QueryService>,
    models: Arc<ModelTable>,
    runtime: Runtime,
    query_server: JoinSet<()>,
    admin_server: JoinSet<()>,
    background: JoinSet<()>,
    /// Gives the control role's lease back at its end.
    leadership: JoinSet<()>,
    closing: Closing,
}

impl Ending {
    async fn run(mut self) {
        info!(grace = ?self.grace, "draining");
        let end = Instant::now() + self.grace;
        let reserve = (self.grace / 4).min(CONTAINER_RESERVE);

        self.queries.start_draining();
        self.closing.queries.cancel();
        if timeout_at(end - reserve, joined(&mut self.query_server))
            .await
            .is_err()
        {
            warn!(grace = ?self.grace, "the grace period ended before every query was answered");
        }
        // The admin API stays until then, so that its /readyz can say what is going on.
        self.closing.admin.cancel();
        if timeout_at(end - reserve * 3 / 4, joined(&mut self.admin_server))
            .await
            .is_err()
        {
            warn!("admin requests were cut off");
        }
        if timeout_at(end - reserve / 2, self.models.drain()).await.is_err() {
            warn!("containers were cut off");
        }
        self.closing.background.cancel();
        if timeout_at(end, joined(&mut self.leadership)).await.is_err() {
            warn!("the control role's lease was not given back; it ends by itself");
        }
        if let Runtime::Process(processes) = &self.runtime {
            processes
                .shutdown(end.saturating_duration_since(Instant::now()))
                .await;
        }
        info!("drained");
    }
}

/// Waits for all tasks of a set.
async fn joined(tasks: &mut JoinSet<()>) {
    while tasks.join_next().await.is_some() {}
}

impl Listeners {
    async fn bind(config: &Config, runtime: &Runtime) -> Result<Self, BuildError> {
        let query = match config.roles.query {
            true => Some(listen("query REST", config.query_addr, "--query-addr")?),
            false => None,
        };
        let admin = match config.roles.control {
            true => Some(listen("admin REST", config.admin_addr, "--admin-addr")?),
            false => None,
        };
        let (mut rpc, mut gateway) = (Vec::new(), None);
        if config.roles.query {
            let first = listen("container RPC", config.rpc_addr, "--rpc-addr")?;
            let port = first
                .local_addr()
                .map_or(config.rpc_addr.port(), |addr| addr.port());
            rpc.push(first);
            gateway = runtime.gateway(config).await?.map(|ip| SocketAddr::new(ip, port));
            if let Some(addr) = gateway.filter(|_| config.rpc_addr.ip().is_loopback()) {
                rpc.push(listen("container RPC", addr, "--rpc-addr")?);
            }
        }
        Ok(Self {
            query,
            admin,
            rpc,
            gateway,
        })
    }

    fn addresses(&self, config: &Config) -> Addresses {
        let bound = |listener: &TcpListener| listener.local_addr().ok();
        let rpc: Vec<SocketAddr> = self.rpc.iter().filter_map(bound).collect();
        // The gateway, if there is one, is all that containers can reach.
        let dialled = self.gateway.or(rpc.first().copied()).unwrap_or(config.rpc_addr);
        Addresses {
            query: self.query.as_ref().and_then(bound),
            admin: self.admin.as_ref().and_then(bound),
            rpc,
            advertised: config
                .rpc_advertise
                .clone()
                .unwrap_or_else(|| reachable(dialled).to_string()),
        }
    }
}

fn listen(what: &'static str, addr: SocketAddr, flag: &'static str) -> Result<TcpListener, BuildError> {
    bound(addr).map_err(|cause| BuildError::Listen {
        what,
        addr,
        flag,
        cause,
    })
}

/// Connections that may wait to be accepted; the system may allow fewer (`net.core.somaxconn`).
///
/// When clients come by the hundred in one instant, one that finds no room tries again after a second, long
/// after its query was due.
const BACKLOG: u32 = 8192;

fn bound(addr: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = match addr {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    // A port of this server's last life may be taken at once.
    socket.set_reuseaddr(true)?;
    socket.bind(addr)?;
    socket.listen(BACKLOG)
}

/// An address to dial for one that is bound: all interfaces include loopback.
fn reachable(addr: SocketAddr) -> SocketAddr {
    match addr.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => SocketAddr::from(([127, 0, 0, 1], addr.port())),
        IpAddr::V6(ip) if ip.is_unspecified() => {
            SocketAddr::from((std::net::Ipv6Addr::LOCALHOST, addr.port()))
        }
        _ => addr,
    }
}

async fn open_store(config: &Config) -> Result<Arc<dyn MetadataStore>, BuildError> {
    match &config.store {
        StoreLocation::Embedded(path) => {
            let path = path.clone();
            let opened = tokio::task::spawn_blocking(move || EmbeddedStore::open(path)).await;
            let opened = opened.map_err(|error| BuildError::Store(error.into()))?;
            Ok(Arc::new(opened.map_err(|error| BuildError::Store(error.into()))?))
        }
        StoreLocation::Redis(url) => {
            let store = RedisStore::connect(url, &config.cluster);
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

/// Keeps the query path in line with the catalog.
struct Follower {
    catalogs: watch::Receiver<Option<Arc<Catalog>>>,
    queries: Arc<QueryService>,
    models: Arc<ModelTable>,
    metrics: Arc<Metrics>,
    followed: watch::Sender<Generation>,
}

impl Follower {
    async fn run(mut self) {
        let mut before = Arc::new(Catalog::default());
        loop {
            let newest = self.catalogs.borrow_and_update().clone();
            if let Some(catalog) = newest {
                self.follow(&before, &catalog);
                before = catalog;
            }
            if self.catalogs.changed().await.is_err() {
                return;
            }
        }
    }

    fn follow(&self, before: &Catalog, catalog: &Catalog) {
        let (versions, gone) = self.models.follow(catalog);
        let routes = Routes::resolve(&self.queries.routes(), catalog, &versions, &self.metrics);
        self.queries.set_routes(routes);
        // Only now that no query is routed there any more.
        self.models.close(gone);
        for name in before
            .applications
            .keys()
            .filter(|name| !catalog.applications.contains_key(*name))
        {
            self.metrics.forget_application(name);
        }
        self.followed.send_replace(catalog.generation.clone());
    }
}

/// Fetches a block of query ids at the start, and whenever half of one is used.
async fn fetch_query_ids(store: Arc<dyn MetadataStore>, queries: Arc<QueryService>) {
    loop {
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(2));
        loop {
            match store.next_query_block().await {
                Ok(block) => break queries.ids().enter(block),
                Err(error) => warn!(%error, "query ids cannot be fetched"),
            }
            tokio::time::sleep(backoff.pause()).await;
        }
        queries.ids().half_used().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_bound_to_all_interfaces_is_dialled_on_loopback() {
        assert_eq!(
            reachable("0.0.0.0:7000".parse().unwrap()).to_string(),
            "127.0.0.1:7000"
        );
        assert_eq!(reachable("[::]:7000".parse().unwrap()).to_string(), "[::1]:7000");
        assert_eq!(
            reachable("10.0.0.1:7000".parse().unwrap()).to_string(),
            "10.0.0.1:7000"
        );
    }
}

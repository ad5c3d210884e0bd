//! A cluster of one frontend: the real program on free ports, with a store and containers of its own.

use std::env;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, ExitStatus};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::binaries;
use crate::deployment::{ByHand, Deployment};
use crate::program::{Log, Program};
use crate::rest::{Reply, Rest};
use crate::wait::{self, PATIENCE};

/// The latency objective of applications that [`TestCluster::serve`] registers: more than any machine needs,
/// so that a default means that something is wrong.
pub const AMPLE_SLO: Duration = Duration::from_secs(30);

/// How often a frontend is started again whose port somebody else took meanwhile.
const STARTS: usize = 5;

/// How a test wants its cluster.
#[derive(Clone, Debug)]
pub struct Settings {
    store: Store,
    runtime: Runtime,
    roles: Roles,
    cluster: String,
    flags: Vec<(String, String)>,
    env: Vec<(String, String)>,
    through: Vec<String>,
}

/// Where metadata lives.
#[derive(Clone, Debug)]
pub enum Store {
    /// A file in the cluster's own folder.
    Embedded,
    /// A Redis, as a URL.
    Redis(String),
}

/// What a frontend does.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Roles {
    /// Answers queries and takes containers in.
    Query,
    /// Takes admin requests and keeps replicas running.
    Control,
    /// Both.
    Both,
}

/// What starts containers.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Runtime {
    /// The frontend itself, as child processes.
    Process,
    /// The Docker engine of this machine.
    Docker,
    /// The test.
    None,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            store: Store::Embedded,
            runtime: Runtime::Process,
            roles: Roles::Both,
            cluster: "test".to_owned(),
            flags: Vec::new(),
            env: Vec::new(),
            through: Vec::new(),
        }
    }
}

impl Settings {
    /// With its metadata in this Redis.
    pub fn redis(mut self, url: impl Into<String>) -> Self {
        self.store = Store::Redis(url.into());
        self
    }

    /// With this runtime.
    pub fn runtime(mut self, runtime: Runtime) -> Self {
        self.runtime = runtime;
        self
    }

    /// With these roles alone.
    pub fn roles(mut self, roles: Roles) -> Self {
        self.roles = roles;
        self
    }

    /// Under this name; what Docker holds of a cluster is found by it, so with Docker choose a unique one.
    pub fn cluster(mut self, name: impl Into<String>) -> Self {
        self.cluster = name.into();
        self
    }

    /// With this further flag, as in `("--grace", "3s")`.
    pub fn flag(mut self, name: &str, value: &str) -> Self {
        self.flags.push((name.to_owned(), value.to_string()));
        self
    }

    /// With this variable in the frontend's environment.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_string()));
        self
    }

    /// Started by this command line, which is given the frontend's as further arguments and becomes it.
    pub fn through(mut self, words: &[&str]) -> Self {
        self.through = words.iter().map(|word| (*word).to_owned()).collect();
        self
    }

    /// Starts a frontend that logs nothing that can be read, and waits until it is ready.
    pub async fn start_unheard(self) -> TestCluster {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let addresses = Addresses {
            query: free_address(),
            admin: free_address(),
            ops: free_address(),
            rpc: free_address(),
        };
        let command = self.command(folder.path(), &addresses.again());
        let cluster = TestCluster {
            frontend: Program::start("the frontend", command),
            addresses,
            folder,
            settings: self,
        };
        let queries = cluster.queries();
        wait::until("the frontend to be ready", PATIENCE, async || {
            let asked = queries.send(reqwest::Method::GET, "/readyz", "").await;
            asked.is_ok_and(|reply| reply.status == 200)
        })
        .await;
        cluster
    }

    /// Starts the frontend and waits until it is ready.
    pub async fn start(self) -> TestCluster {
        let cluster = self.launch().await;
        cluster.ready().await;
        cluster
    }

    /// Starts the frontend and waits until it listens; it may have no snapshot to serve from yet.
    pub async fn launch(self) -> TestCluster {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut frontend = Program::start("the frontend", self.command(folder.path(), &Ports::default()));
        let Some(addresses) = listening(&mut frontend, self.roles).await else {
            panic!(
                "the frontend ended at once: {}",
                frontend.log().lines().join("\n")
            );
        };
        TestCluster {
            frontend,
            addresses,
            folder,
            settings: self,
        }
    }

    /// Starts a frontend that cannot start, and returns how it ended and what it said.
    pub async fn fail(self) -> (ExitStatus, String) {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut frontend = Program::start("the frontend", self.command(folder.path(), &Ports::default()));
        let ended = frontend.end().await;
        (ended, frontend.whole_log().await.join("\n"))
    }

    fn command(&self, folder: &Path, ports: &Ports) -> Command {
        let program = binaries::path("skysail-frontend");
        let mut command = match self.through.split_first() {
            None => Command::new(program),
            Some((first, rest)) => {
                let mut command = Command::new(first);
                command.args(rest).arg(program);
                command
            }
        };
        // What the person who runs the tests has configured is not for them.
        let configured = env::vars_os().map(|(name, _)| name);
        for name in configured.filter(|name| name.to_string_lossy().starts_with("SKYSAIL_")) {
            command.env_remove(name);
        }
        command.env("HOME", folder);
        command.env_remove("XDG_DATA_HOME").env_remove("XDG_STATE_HOME");
        let mut flags = vec![
            ("--store", self.store.flag(folder)),
            ("--runtime", self.runtime.flag().to_owned()),
            ("--roles", self.roles.flag().to_owned()),
            ("--cluster", self.cluster.clone()),
            ("--query-addr", ports.query.clone()),
            ("--admin-addr", ports.admin.clone()),
            ("--rpc-addr", ports.rpc.clone()),
            ("--ops-addr", ports.ops.clone()),
        ];
        // What a test asks for itself takes the place of what clusters usually have.
        flags.retain(|(name, _)| !self.flags.iter().any(|(asked, _)| asked == name));
        for (name, value) in flags {
            command.arg(format!("{name}={value}"));
        }
        for (name, value) in &self.flags {
            command.arg(format!("{name}={value}"));
        }
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        command
    }
}

impl Store {
    fn flag(&self, folder: &Path) -> String {
        match self {
            Self::Embedded => format!("embedded:{}", folder.join("metadata.redb").display()),
            Self::Redis(url) => url.clone(),
        }
    }
}

impl Roles {
    fn flag(self) -> &'static str {
        match self {
            Self::Query => "query",
            Self::Control => "control",
            Self::Both => "query,control",
        }
    }
}

impl Runtime {
    fn flag(self) -> &'static str {
        match self {
            Self::Process => "process",
            Self::Docker => "docker",
            Self::None => "none",
        }
    }
}

/// What the frontend is told to bind.
struct Ports {
    query: String,
    admin: String,
    ops: String,
    rpc: String,
}

impl Default for Ports {
    fn default() -> Self {
        let free = || "127.0.0.1:0".to_owned();
        Self {
            query: free(),
            admin: free(),
            ops: free(),
            rpc: free(),
        }
    }
}

/// Where a frontend listens.
#[derive(Clone, Debug)]
pub struct Addresses {
    /// Query REST; unspecified without the query role.
    pub query: SocketAddr,
    /// Admin REST; unspecified without the control role.
    pub admin: SocketAddr,
    /// Probes and metrics.
    pub ops: SocketAddr,
    /// Container RPC; unspecified without the query role.
    pub rpc: SocketAddr,
}

impl Addresses {
    /// To be bound once more.
    fn again(&self) -> Ports {
        let bound = |addr: SocketAddr| match addr.port() {
            0 => "127.0.0.1:0".to_owned(),
            _ => addr.to_string(),
        };
        Ports {
            query: bound(self.query),
            admin: bound(self.admin),
            ops: bound(self.ops),
            rpc: bound(self.rpc),
        }
    }
}

/// An address that is free just now.
fn free_address() -> SocketAddr {
    let bound = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    bound.local_addr().expect("it is bound")
}

/// Waits until a frontend has logged all its addresses; `None` if it ended instead.
async fn listening(frontend: &mut Program, roles: Roles) -> Option<Addresses> {
    wait::find("the frontend to listen", PATIENCE, async || {
        let lines = frontend.log().lines();
        let bound = |role: Roles, server: &str| match roles == role || roles == Roles::Both {
            true => bound_addr(&lines, server),
            false => Some(SocketAddr::from(([0, 0, 0, 0], 0))),
        };
        let addresses = || {
            Some(Addresses {
                query: bound(Roles::Query, "query REST")?,
                admin: bound(Roles::Control, "admin REST")?,
                ops: bound_addr(&lines, "operations")?,
                rpc: bound(Roles::Query, "container RPC")?,
            })
        };
        match addresses() {
            Some(addresses) => Some(Some(addresses)),
            None => frontend.ended().map(|_| None),
        }
    })
    .await
}

/// The address in a line such as `… query REST listening addr=127.0.0.1:1337`.
fn bound_addr(lines: &[String], server: &str) -> Option<SocketAddr> {
    let words = format!("{server} listening addr=");
    let rest = lines.iter().find_map(|line| line.split_once(&words))?.1;
    rest.split_whitespace().next()?.parse().ok()
}

/// A running cluster. Dropping it kills the frontend, and with it the containers of the process runtime.
pub struct TestCluster {
    frontend: Program,
    addresses: Addresses,
    folder: TempDir,
    settings: Settings,
}

impl TestCluster {
    /// A cluster with an embedded store and the process runtime, ready.
    pub async fn start() -> Self {
        Settings::default().start().await
    }

    /// Where the frontend listens.
    pub fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// The cluster's own folder; the embedded store's file is in it.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The frontend's process.
    pub fn frontend(&mut self) -> &mut Program {
        &mut self.frontend
    }

    /// The frontend's process id.
    pub fn pid(&self) -> u32 {
        self.frontend.pid()
    }

    /// What the frontend has logged.
    pub fn log(&self) -> &Log {
        self.frontend.log()
    }

    /// The query API.
    pub fn queries(&self) -> Rest {
        Rest::at(self.addresses.query)
    }

    /// The admin API; its paths begin with `/api/v1`.
    pub fn admin(&self) -> Rest {
        Rest::at(self.addresses.admin)
    }

    /// Waits until `/readyz` says 200.
    pub async fn ready(&self) {
        let api = match self.settings.roles {
            Roles::Control => self.admin(),
            Roles::Query | Roles::Both => self.queries(),
        };
        wait::until("the frontend to be ready", PATIENCE, async || {
            api.get("/readyz").await.status == 200
        })
        .await;
    }

    /// Kills the frontend, as a crash does.
    pub fn kill(&mut self) {
        self.frontend.kill();
    }

    /// Sends the frontend SIGTERM, and waits until it has ended.
    pub async fn terminate(&mut self) -> ExitStatus {
        self.frontend.signal(Signal::TERM);
        self.frontend.end().await
    }

    /// Starts a frontend that has ended again: same store, same ports. Waits until it is ready.
    pub async fn restart(&mut self) {
        self.relaunch().await;
        self.ready().await;
    }

    /// Like [`Self::restart`], but only waits until it listens.
    pub async fn relaunch(&mut self) {
        assert!(self.frontend.ended().is_some(), "the frontend still runs");
        let ports = self.addresses.again();
        for _ in 0..STARTS {
            let command = self.settings.command(self.folder.path(), &ports);
            self.frontend = Program::start("the frontend, restarted", command);
            // Where a test chose an address itself, its port may be another than before.
            if let Some(addresses) = listening(&mut self.frontend, self.settings.roles).await {
                self.addresses = addresses;
                return;
            }
            let said = self.frontend.whole_log().await.join("\n");
            assert!(
                said.contains("the port is taken"),
                "the frontend ended at once: {said}"
            );
        }
        panic!("the frontend's ports are taken");
    }

    /// Registers an application.
    pub async fn register(&self, name: &str, input_type: &str, default_output: &str, slo: Duration) {
        let body = json!({
            "name": name,
            "input_type": input_type,
            "default_output": default_output,
            "slo_micros": u64::try_from(slo.as_micros()).expect("an SLO of less than ages"),
        });
        self.admin().post("/api/v1/applications", body).await.expect(201);
    }

    /// Deploys a version; it may have no replica yet.
    pub async fn deploy(&self, deployment: &Deployment) {
        let path = format!("/api/v1/models/{}/versions", deployment.model);
        self.admin().post(&path, deployment.body()).await.expect(201);
    }

    /// Registers version 1 of a model whose containers attach by themselves.
    pub async fn register_model(&self, model: &str, input_type: &str) {
        let body = json!({ "version": "1", "input_type": input_type });
        let path = format!("/api/v1/models/{model}/versions");
        self.admin().post(&path, body).await.expect(201);
    }

    /// Links a model to an application.
    pub async fn link(&self, application: &str, model: &str) {
        let path = format!("/api/v1/applications/{application}/models/{model}");
        self.admin().put(&path, Value::Null).await.expect(200);
    }

    /// Deploys a version behind a new application of this name, and waits for its replicas.
    ///
    /// The default output is `-1.0`, and the objective more than any answer takes.
    pub async fn serve(&self, application: &str, deployment: &Deployment) {
        self.serve_within(application, deployment, AMPLE_SLO).await;
    }

    /// Like [`Self::serve`], with this latency objective.
    pub async fn serve_within(&self, application: &str, deployment: &Deployment, slo: Duration) {
        self.register(application, &deployment.input_type, "-1.0", slo)
            .await;
        self.deploy(deployment).await;
        self.link(application, &deployment.model).await;
        self.attached(&deployment.model, deployment.wanted()).await;
    }

    /// Starts a container by hand that dials this cluster.
    pub fn by_hand(&self, container: &ByHand) -> Program {
        let mut command = Command::new(&container.program);
        command
            .env("SKYSAIL_FRONTENDS", self.addresses.rpc.to_string())
            .env("SKYSAIL_MODEL_NAME", &container.model)
            .env("SKYSAIL_MODEL_VERSION", &container.version)
            .env("SKYSAIL_INPUT_TYPE", &container.input_type)
            .env("SKYSAIL_REPLICA_ID", &container.replica)
            .env("SKYSAIL_TOKEN", "")
            .env_remove("RUST_LOG")
            .envs(container.env.iter().map(|(name, value)| (name, value)));
        Program::start(format!("container {}", container.replica), command)
    }

    /// The attached replicas of a model, as the admin API shows them.
    pub async fn replicas(&self, model: &str) -> Vec<Value> {
        let all = self.admin().get("/api/v1/replicas").await.expect(200);
        let all = all.as_array().expect("an array").iter();
        all.filter(|replica| replica["model"] == model).cloned().collect()
    }

    /// Waits until so many replicas of a model are attached and ready, and returns them.
    pub async fn attached(&self, model: &str, count: usize) -> Vec<Value> {
        let what = format!("{count} replicas of {model}");
        wait::find(&what, PATIENCE, async || {
            let replicas = self.replicas(model).await;
            let ready = replicas
                .iter()
                .filter(|replica| replica["state"] == "ready")
                .count();
            (ready == count && replicas.len() == count).then_some(replicas)
        })
        .await
    }

    /// A version as the admin API shows it.
    pub async fn version(&self, model: &str, version: &str) -> Value {
        let path = format!("/api/v1/models/{model}/versions/{version}");
        self.admin().get(&path).await.expect(200)
    }

    /// What a container of a version that is started by hand shows; empty where the version is open.
    pub async fn join_token(&self, model: &str, version: &str) -> String {
        let path = format!("/api/v1/models/{model}/versions/{version}/token");
        let shown = self.admin().get(&path).await.expect(200);
        shown["token"].as_str().expect("a token").to_owned()
    }

    /// Asks an application and returns the reply, whatever it is.
    pub async fn query(&self, application: &str, body: Value) -> Reply {
        self.queries()
            .post(&format!("/{application}/predict"), body)
            .await
    }

    /// Asks an application for one input and returns the answer, a prediction or a default.
    pub async fn answer(&self, application: &str, input: impl Into<Value>) -> Value {
        self.query(application, json!({ "input": input.into() }))
            .await
            .expect(200)
    }

    /// Asks an application for one input and returns the model's output.
    ///
    /// # Panics
    /// If the answer is a default.
    pub async fn predict(&self, application: &str, input: impl Into<Value>) -> Value {
        let answer = self.answer(application, input).await;
        assert_eq!(answer["default"], false, "{answer}");
        answer["output"].clone()
    }

    /// Queries for version 1 of a model that wait for a replica.
    pub async fn waiting(&self, model: &str) -> usize {
        let sample = format!(r#"skysail_queue_length{{model="{model}",version="1"}}"#);
        whole(self.metric(&sample).await)
    }

    /// Queries for version 1 of a model that were sent to a replica, or wait for one.
    pub async fn accepted(&self, model: &str) -> usize {
        let sample = format!(r#"skysail_batch_size_sum{{model="{model}",version="1"}}"#);
        whole(self.metric(&sample).await) + self.waiting(model).await
    }

    /// The value of a sample in the metrics, as in `skysail_queries_total{application="iris"}`; 0 if it is
    /// not there.
    pub async fn metric(&self, sample: &str) -> f64 {
        let text = self.admin().get("/metrics").await.text;
        let value = text
            .lines()
            .find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
        value.map_or(0.0, |value| value.parse().expect("a number"))
    }
}

/// A count, which the metrics' text gives as a float.
fn whole(count: f64) -> usize {
    format!("{count:.0}").parse().expect("a whole number")
}

//! Configuration: the only reader of flags, environment and files.
//!
//! Raw text from the command line, then the environment, then the file, in this order of precedence,
//! becomes a checked [`Config`]; all mistakes are reported at once, each with where it was made.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf, absolute};
use std::str::FromStr;
use std::sync::LazyLock;
use std::time::Duration;

use clap::builder::ValueParser;
use clap::{Arg, ArgAction, ArgMatches, Command};
use skysail_core::queue::Bounds;
use skysail_process::log::Format;
use skysail_process::variables;
use skysail_proto::ids::ClusterName;
use tracing_subscriber::filter::EnvFilter;

use crate::admin::access::token::TokenFile;
use crate::http::{AllowedOrigins, ModelNetwork, Origin, Timeouts};

/// An option: of the command line, of the environment and of the file, by one name. The help is written from it, and
/// [`Reader`] reads by it.
struct ConfigOption {
    /// As it is written behind `--` and in the file. Its variable is the same in capitals: see [`ConfigOption::variable`].
    name: &'static str,
    /// What stands for its value in the help.
    value: &'static str,
    /// What it does, and its default.
    help: &'static str,
    /// Whether it may be given several times; its values are one list then.
    repeats: bool,
    /// A variable of others' that says the same, where ours is not set.
    also: Option<&'static str>,
}

/// What most options are like.
const PLAIN: ConfigOption = ConfigOption {
    name: "",
    value: "",
    help: "",
    repeats: false,
    also: None,
};

/// The file with the others.
const FILE: &str = "config";

/// All of them, in the order of the help.
const CATALOGUE: &[ConfigOption] = &[
    ConfigOption {
        name: "config",
        value: "FILE",
        help: "A TOML file with options",
        ..PLAIN
    },
    ConfigOption {
        name: "store",
        value: "STORE",
        help: "Where metadata lives: embedded:PATH (one machine; `~/` is the home folder), \
             redis://USER:PASSWORD@HOST:PORT/DB, or rediss://… for Redis over TLS [default: an embedded store in the \
             user's data folder]",
        ..PLAIN
    },
    ConfigOption {
        name: "store-ca",
        value: "FILE",
        help: "A PEM file with the certificates of the authority that signed Redis' certificate, for rediss:// only \
             [default: the public authorities]",
        ..PLAIN
    },
    ConfigOption {
        name: "runtime",
        value: "RUNTIME",
        help: "What starts model containers: process, docker or none [default: process]",
        ..PLAIN
    },
    ConfigOption {
        name: "artifacts",
        value: "DIR",
        help: "The folder of the files that were uploaded for models (`skysail model deploy --onnx`), on this frontend's \
             machine [default: beside an embedded store, as in CLUSTER.artifacts; with Redis in the user's data folder]",
        ..PLAIN
    },
    ConfigOption {
        name: "artifact-limit",
        value: "BYTES",
        help: "The largest file that may be uploaded, in bytes [default: 2147483648, the largest that ONNX allows]",
        ..PLAIN
    },
    ConfigOption {
        name: "docker-host",
        value: "unix://…|tcp://…",
        also: Some("DOCKER_HOST"),
        help: "The Docker engine of --runtime docker [default: what DOCKER_HOST says, or the engine of this machine]",
        ..PLAIN
    },
    ConfigOption {
        name: "roles",
        value: "ROLES",
        help: "What this server does: query, control, or both [default: query,control]",
        ..PLAIN
    },
    ConfigOption {
        name: "cluster",
        value: "NAME",
        help: "The cluster it belongs to [default: default-cluster]",
        ..PLAIN
    },
    ConfigOption {
        name: "query-addr",
        value: "IP:PORT",
        help: "Query REST; port 0 picks a free one [default: 127.0.0.1:1337]",
        ..PLAIN
    },
    ConfigOption {
        name: "admin-addr",
        value: "IP:PORT",
        help: "Admin REST [default: 127.0.0.1:1338]",
        ..PLAIN
    },
    ConfigOption {
        name: "ops-addr",
        value: "IP:PORT",
        help: "The operations listener of every frontend, whatever its roles: /healthz, /readyz and /metrics \
             [default: 127.0.0.1:1341, or a free port where that is taken]",
        ..PLAIN
    },
    ConfigOption {
        name: "admin-token-file",
        value: "FILE",
        help: "A file with the token that admin REST asks for (Authorization: Bearer TOKEN), which makes it the \
             cluster's: all frontends that listen beyond loopback ask for it [default: none is asked for on loopback; \
             elsewhere a token is made once, in CLUSTER.admin-token in the user's state folder]",
        ..PLAIN
    },
    ConfigOption {
        name: "admin-host",
        value: "NAME",
        help: "A name by which admin REST is asked without a token, beside localhost and IP addresses; may be given \
             several times, or as a list with commas",
        repeats: true,
        ..PLAIN
    },
    ConfigOption {
        name: "admin-allow-origin",
        value: "ORIGIN",
        help: "An origin whose web pages may use admin REST, as in `https://ui.example`; may be given several times, \
             or as a list with commas [default: its own only]",
        repeats: true,
        ..PLAIN
    },
    ConfigOption {
        name: "cors-origin",
        value: "ORIGIN",
        help: "An origin whose web pages may read query REST's answers, or * for all; may be given several times, or \
             as a list with commas [default: none]",
        repeats: true,
        ..PLAIN
    },
    ConfigOption {
        name: "rpc-addr",
        value: "IP:PORT",
        help: "Container RPC [default: 127.0.0.1:7000]",
        ..PLAIN
    },
    ConfigOption {
        name: "rpc-advertise",
        value: "HOST:PORT",
        help: "The one address at which containers are told to dial this frontend [default: the one container RPC is \
             bound to]",
        ..PLAIN
    },
    ConfigOption {
        name: "model-network",
        value: "IP/PREFIX,…",
        help: "Subnets of model containers, by their gateways (172.18.0.1/16,…): admin REST and the operations listener \
             refuse connections from there, other than the gateway's own, as which those of published ports come [default: none]",
        ..PLAIN
    },
    ConfigOption {
        name: "body-limit",
        value: "BYTES",
        help: "The largest query body, in bytes, also once it is inflated [default: 33554432]",
        ..PLAIN
    },
    ConfigOption {
        name: "max-rows",
        value: "N",
        help: "The most rows of an `input_batch` [default: 16384]",
        ..PLAIN
    },
    ConfigOption {
        name: "max-connections",
        value: "N",
        help: "Connections to query REST that may be open at once; for a further one the one that has waited longest \
             for a request, or for the rest of a request's head, is closed, and while each has a request in flight it \
             waits. So ask /healthz of admin REST, which has 1000 of its own [default: 10000, or what the limit on open \
             files allows]",
        ..PLAIN
    },
    ConfigOption {
        name: "client-timeout",
        value: "DURATION",
        help: "How long a client may take to send its first request or the rest of a request's head, may pause within \
             a body (408) or an answer it reads, and may leave an HTTP/2 ping unanswered [default: 30s]",
        ..PLAIN
    },
    ConfigOption {
        name: "idle-timeout",
        value: "DURATION",
        help: "How long a connection is kept after its last answer, for the next request [default: 2m]",
        ..PLAIN
    },
    ConfigOption {
        name: "queue-length",
        value: "N",
        help: "Queries that may wait for one model version [default: 100000]",
        ..PLAIN
    },
    ConfigOption {
        name: "queue-bytes",
        value: "BYTES",
        help: "Bytes of inputs that may wait for one model version [default: 134217728]",
        ..PLAIN
    },
    ConfigOption {
        name: "cache-bytes",
        value: "BYTES",
        help: "Bytes of inputs and predictions that are kept for each model version, to answer an input that was \
             asked before; 0 asks the model every time [default: 67108864]",
        ..PLAIN
    },
    ConfigOption {
        name: "grace",
        value: "DURATION",
        help: "How long an end by SIGTERM, SIGINT, SIGQUIT or SIGHUP may take: in-flight queries are answered and \
             containers told [default: 10s]",
        ..PLAIN
    },
    ConfigOption {
        name: "worker-threads",
        value: "N",
        help: "Threads that serve queries [default: 1 on up to two cores, otherwise half of the cores]",
        ..PLAIN
    },
    ConfigOption {
        name: "log-level",
        value: "LEVEL",
        help: "error, warn, info, debug, trace, or a tracing filter such as skysail_frontend=debug [default: info]",
        ..PLAIN
    },
    ConfigOption {
        name: "log-format",
        value: "FORMAT",
        help: "text or json [default: text]",
        ..PLAIN
    },
];

const ABOUT: &str = "Skysail's server: answers queries by their deadline, and keeps replicas running";

const LONG_ABOUT: &str = "Skysail's server: answers queries by their deadline, and keeps replicas running.

Every option can also be set in the environment (SKYSAIL_QUERY_ADDR for --query-addr) and in a TOML file given with \
--config (query-addr = \"127.0.0.1:1337\"). The command line wins over the environment, the environment over the file.";

impl ConfigOption {
    /// The variable of the environment.
    fn variable(&self) -> String {
        format!("SKYSAIL_{}", self.name.replace('-', "_").to_uppercase())
    }

    /// The option of the command line.
    fn argument(&self, variable: &'static str) -> Arg {
        let action = match self.repeats {
            true => ArgAction::Append,
            false => ArgAction::Set,
        };
        Arg::new(self.name)
            .long(self.name)
            .env(variable)
            .value_name(self.value)
            .help(self.help)
            .action(action)
            .value_parser(match self.name {
                FILE => ValueParser::path_buf(),
                _ => ValueParser::string(),
            })
    }
}

const EXAMPLES: &str = "Examples:
  skysail-frontend
  skysail-frontend --store embedded:/var/lib/skysail/store.redb --runtime docker
  skysail-frontend --store redis://127.0.0.1:6379/0 --runtime none \\
      --query-addr 0.0.0.0:1337";

/// Everything that can be configured, checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Where metadata lives.
    pub store: StoreLocation,
    /// The certificates to trust when the store is reached by TLS, in PEM; none for the public authorities'.
    pub store_ca: Option<String>,
    /// What starts containers.
    pub runtime: RuntimeKind,
    /// The folder of uploaded files, as an absolute path; nowhere without a home.
    pub artifacts: Option<PathBuf>,
    /// The largest file that may be uploaded, in bytes.
    pub artifact_limit: usize,
    /// The Docker engine, as in `DOCKER_HOST`; none for the one of this machine.
    pub docker_host: Option<String>,
    /// What this server does.
    pub roles: Roles,
    /// The cluster it belongs to.
    pub cluster: ClusterName,
    /// Query REST.
    pub query_addr: SocketAddr,
    /// Admin REST.
    pub admin_addr: SocketAddr,
    /// Probes and metrics; none for [`DEFAULT_OPS_ADDR`], or a free port where that is taken.
    pub ops_addr: Option<SocketAddr>,
    /// The admin token that was given.
    pub admin_token: Option<TokenFile>,
    /// Where the admin token is that is made where none was given; nowhere without a home.
    pub made_token: Option<PathBuf>,
    /// Names of admin REST beside `localhost`, in lower case.
    pub admin_hosts: Vec<String>,
    /// Origins whose pages may use admin REST.
    pub admin_origins: AllowedOrigins,
    /// Origins whose pages may read query REST's answers; without any, no page is told anything.
    pub cors_origins: Option<AllowedOrigins>,
    /// Container RPC.
    pub rpc_addr: SocketAddr,
    /// What containers dial, if it is not the bound address.
    pub rpc_advertise: Option<String>,
    /// Where model containers are, from which admin REST takes no connections.
    pub model_networks: Vec<ModelNetwork>,
    /// The largest query body, in bytes.
    pub body_limit: usize,
    /// The most rows of one request.
    pub max_rows: usize,
    /// Connections to query REST that may be open at once.
    pub max_connections: usize,
    /// How long clients may keep a server waiting.
    pub timeouts: Timeouts,
    /// How much may wait for one model version.
    pub queue_bounds: Bounds,
    /// The weight of each model version's prediction cache, in bytes; 0 for none.
    pub cache_bytes: u64,
    /// How long a graceful end may take.
    pub grace: Duration,
    /// Threads that serve queries.
    pub worker_threads: NonZeroUsize,
    /// What is logged.
    pub log_level: String,
    /// How it is logged.
    pub log_format: Format,
}

/// Where metadata lives.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum StoreLocation {
    /// A file of this machine.
    Embedded(PathBuf),
    /// A Redis, as a URL.
    Redis(String),
}

/// What starts containers.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum RuntimeKind {
    /// Child processes.
    Process,
    /// A Docker engine.
    Docker,
    /// Nobody: containers are started elsewhere and attach themselves.
    None,
}

impl RuntimeKind {
    /// As it is written.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Process => "process",
            Self::Docker => "docker",
            Self::None => "none",
        }
    }
}

/// What a server does; at least one of the two.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Roles {
    /// Answers queries and takes containers in.
    pub query: bool,
    /// Takes admin requests and keeps replicas running.
    pub control: bool,
}

impl Default for Config {
    /// The defaults, with an embedded store in the user's data folder, or in the working directory if
    /// there is none.
    fn default() -> Self {
        let cluster: ClusterName = DEFAULT_CLUSTER
            .parse()
            .expect("the default is a valid name; this is a bug");
        Self {
            store: StoreLocation::Embedded(data_file(&cluster).unwrap_or_else(|| "skysail.redb".into())),
            store_ca: None,
            runtime: RuntimeKind::Process,
            artifacts: None,
            // Protobuf, which ONNX is written in, takes no more.
            artifact_limit: 2 * 1024 * 1024 * 1024,
            docker_host: None,
            roles: Roles {
                query: true,
                control: true,
            },
            cluster,
            query_addr: local(1337),
            admin_addr: local(1338),
            ops_addr: None,
            admin_token: None,
            made_token: None,
            admin_hosts: Vec::new(),
            admin_origins: AllowedOrigins::These(Vec::new()),
            cors_origins: None,
            rpc_addr: local(7000),
            rpc_advertise: None,
            model_networks: Vec::new(),
            body_limit: 32 * 1024 * 1024,
            max_rows: 16 * 1024,
            max_connections: 10_000,
            timeouts: Timeouts {
                client: Duration::from_secs(30),
                // Clients tend to keep idle connections for 90 s at most: they, who know what they are
                // about to send, had better be the ones who close.
                idle: Duration::from_secs(120),
            },
            queue_bounds: Bounds {
                count: 100_000,
                bytes: 128 * 1024 * 1024,
            },
            cache_bytes: 64 * 1024 * 1024,
            grace: Duration::from_secs(10),
            worker_threads: default_workers(),
            log_level: "info".into(),
            log_format: Format::Text,
        }
    }
}

/// Where probes and metrics are if nothing else is asked for.
pub const DEFAULT_OPS_ADDR: SocketAddr = local(1341);

const DEFAULT_CLUSTER: &str = "default-cluster";

const fn local(port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)
}

/// On two cores one thread answered more queries than two: the models need the other core (measured).
fn default_workers() -> NonZeroUsize {
    let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    NonZeroUsize::new(cores / 2).unwrap_or(NonZeroUsize::MIN)
}

/// The embedded store's file in the user's data folder (`$XDG_DATA_HOME`, or `~/.local/share`).
fn data_file(cluster: &ClusterName) -> Option<PathBuf> {
    let folder = user_folder("XDG_DATA_HOME", ".local/share")?;
    Some(folder.join(format!("{cluster}.redb")))
}

/// The folder of uploaded files: beside the store's file, or in the user's data folder.
fn artifacts_folder(store: &StoreLocation, cluster: &ClusterName) -> Option<PathBuf> {
    let beside = match store {
        StoreLocation::Embedded(file) => file.clone(),
        StoreLocation::Redis(_) => data_file(cluster)?,
    };
    absolute(beside.with_extension("artifacts")).ok()
}

/// The file of the admin token that is made here, in the user's state folder (`$XDG_STATE_HOME`, or
/// `~/.local/state`).
fn token_file(cluster: &ClusterName) -> Option<PathBuf> {
    let folder = user_folder("XDG_STATE_HOME", ".local/state")?;
    Some(folder.join(format!("{cluster}.admin-token")))
}

/// Our part of one of the user's folders, by its variable or in the home folder.
fn user_folder(variable: &str, in_home: &str) -> Option<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|folder| !folder.is_empty());
    // By the specification of these folders, a relative path counts as not set.
    let folder = set(variable)
        .map(PathBuf::from)
        .filter(|folder| folder.is_absolute());
    let home = || Some(PathBuf::from(set("HOME")?).join(in_home));
    Some(folder.or_else(home)?.join("skysail"))
}

/// All mistakes in a configuration.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Mistakes(Vec<String>);

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0[..] {
            [one] => write!(f, "the configuration has a mistake: {one}"),
            many => {
                write!(f, "the configuration has {} mistakes:", many.len())?;
                many.iter().try_for_each(|mistake| write!(f, "\n  - {mistake}"))
            }
        }
    }
}

impl std::error::Error for Mistakes {}

impl Config {
    /// Reads flags, environment and file. `--help`, `--version` and unknown flags end the process, as is
    /// usual.
    pub fn from_process() -> Result<Self, Mistakes> {
        Self::from_matches(command().get_matches())
    }

    /// Reads these arguments (the first is the program's name), the environment and the file.
    pub fn from_args(
        args: impl IntoIterator<Item = impl Into<std::ffi::OsString> + Clone>,
    ) -> Result<Self, Mistakes> {
        let matches = command().try_get_matches_from(args);
        Self::from_matches(matches.map_err(|error| Mistakes(vec![error.to_string()]))?)
    }

    /// Whether others than this machine reach admin REST.
    pub fn is_admin_exposed(&self) -> bool {
        self.roles.control && !self.admin_addr.ip().to_canonical().is_loopback()
    }

    fn from_matches(matches: ArgMatches) -> Result<Self, Mistakes> {
        let mut reader = Reader::new(matches);
        let defaults = Self::default();

        let cluster = reader.read("cluster", parse_str).unwrap_or(defaults.cluster);
        let store = reader.read("store", parse_store);
        let store = store
            .or_else(|| data_file(&cluster).map(StoreLocation::Embedded))
            .unwrap_or_else(|| {
                reader
                    .mistakes
                    .push("store: neither HOME nor XDG_DATA_HOME is set: give --store embedded:PATH".into());
                defaults.store
            });
        let config = Self {
            artifacts: reader
                .read("artifacts", parse_folder)
                .or_else(|| artifacts_folder(&store, &cluster)),
            artifact_limit: reader
                .read("artifact-limit", parse_positive)
                .unwrap_or(defaults.artifact_limit),
            store,
            store_ca: reader.read("store-ca", read_certificates),
            runtime: reader.read("runtime", parse_runtime).unwrap_or(defaults.runtime),
            docker_host: reader.read("docker-host", parse_str),
            roles: reader.read("roles", parse_roles).unwrap_or(defaults.roles),
            query_addr: reader
                .read("query-addr", parse_addr)
                .unwrap_or(defaults.query_addr),
            admin_addr: reader
                .read("admin-addr", parse_addr)
                .unwrap_or(defaults.admin_addr),
            ops_addr: reader.read("ops-addr", parse_addr),
            admin_token: reader.read("admin-token-file", read_token),
            made_token: token_file(&cluster),
            admin_hosts: reader
                .read("admin-host", parse_hosts)
                .unwrap_or(defaults.admin_hosts),
            admin_origins: reader
                .read("admin-allow-origin", parse_admin_origins)
                .unwrap_or(defaults.admin_origins),
            cors_origins: reader.read("cors-origin", parse_origins),
            rpc_addr: reader.read("rpc-addr", parse_addr).unwrap_or(defaults.rpc_addr),
            rpc_advertise: reader.read("rpc-advertise", parse_host_port),
            model_networks: reader
                .read("model-network", parse_networks)
                .unwrap_or(defaults.model_networks),
            body_limit: reader
                .read("body-limit", parse_positive)
                .unwrap_or(defaults.body_limit),
            max_rows: reader
                .read("max-rows", parse_positive)
                .unwrap_or(defaults.max_rows),
            max_connections: reader
                .read("max-connections", parse_positive)
                .unwrap_or(defaults.max_connections),
            timeouts: Timeouts {
                client: reader
                    .read("client-timeout", parse_timeout)
                    .unwrap_or(defaults.timeouts.client),
                idle: reader
                    .read("idle-timeout", parse_timeout)
                    .unwrap_or(defaults.timeouts.idle),
            },
            queue_bounds: Bounds {
                count: reader
                    .read("queue-length", parse_positive)
                    .unwrap_or(defaults.queue_bounds.count),
                bytes: reader
                    .read("queue-bytes", parse_positive)
                    .unwrap_or(defaults.queue_bounds.bytes),
            },
            cache_bytes: reader
                .read("cache-bytes", parse_bytes)
                .unwrap_or(defaults.cache_bytes),
            grace: reader.read("grace", parse_duration).unwrap_or(defaults.grace),
            worker_threads: reader
                .read("worker-threads", parse_str)
                .unwrap_or(defaults.worker_threads),
            cluster,
            log_level: reader
                .read("log-level", parse_log_level)
                .unwrap_or(defaults.log_level),
            log_format: reader
                .read("log-format", parse_log_format)
                .unwrap_or(defaults.log_format),
        };
        reader.finish(config)
    }
}

/// The command line. A variable of the environment that is set but empty is one that is not set.
fn command() -> Command {
    /// Of each option, in the catalogue's order: clap keeps names for as long as the process lives.
    static VARIABLES: LazyLock<Vec<String>> =
        LazyLock::new(|| CATALOGUE.iter().map(ConfigOption::variable).collect());
    let options = CATALOGUE.iter().zip(VARIABLES.iter());
    let command = Command::new("skysail-frontend")
        .version(env!("CARGO_PKG_VERSION"))
        .about(ABOUT)
        .long_about(LONG_ABOUT)
        .after_help(EXAMPLES)
        .args(options.map(|(option, variable)| option.argument(variable)));
    variables::without_blank(command)
}

/// Reads one option after the other and keeps the mistakes.
struct Reader {
    matches: ArgMatches,
    file: BTreeMap<String, String>,
    mistakes: Vec<String>,
    /// Those that were not read yet: none is left in the end.
    unread: BTreeSet<&'static str>,
}

impl Reader {
    fn new(matches: ArgMatches) -> Self {
        let mut mistakes = Vec::new();
        let file = matches.get_one::<PathBuf>(FILE);
        let file = file.map_or_else(BTreeMap::new, |path| read_file(path, &mut mistakes));
        Self {
            matches,
            file,
            mistakes,
            unread: CATALOGUE
                .iter()
                .map(|option| option.name)
                .filter(|name| *name != FILE)
                .collect(),
        }
    }

    /// What was given on the command line or in the environment, and what that is called. A text that is blank counts
    /// as not given.
    fn given(&self, option: &ConfigOption) -> Option<(String, String)> {
        let values = self.matches.get_many::<String>(option.name).into_iter().flatten();
        let values: Vec<_> = values.map(String::as_str).collect();
        let own = Some(values.join(",")).filter(|text| !text.trim().is_empty());
        let place = || format!("--{} (or {})", option.name, option.variable());
        own.map(|text| (text, place())).or_else(|| {
            let variable = option.also?;
            Some((variables::read(variable)?, variable.to_owned()))
        })
    }

    fn read<T>(&mut self, name: &'static str, parse: impl Fn(&str) -> Result<T, String>) -> Option<T> {
        let option = CATALOGUE.iter().find(|option| option.name == name);
        let option = option.expect("what is read is in the catalogue; this is a bug");
        self.unread.remove(name);
        let (text, place) = match (self.given(option), self.file.remove(name)) {
            (Some(given), _) => given,
            (None, Some(text)) => (text, format!("{name} in the file")),
            (None, None) => return None,
        };
        match parse(text.trim()) {
            Ok(value) => Some(value),
            Err(why) => {
                self.mistakes
                    .push(format!("{place} is `{}`: {why}", without_password(&text)));
                None
            }
        }
    }

    fn finish(mut self, config: Config) -> Result<Config, Mistakes> {
        debug_assert!(
            self.unread.is_empty(),
            "in the catalogue and not read: {:?}",
            self.unread
        );
        let alone = config.roles.control && !config.roles.query;
        if alone && config.runtime != RuntimeKind::None && matches!(config.store, StoreLocation::Embedded(_))
        {
            let advice = "name a store that query frontends share, as in --store redis://HOST:6379/0";
            self.mistakes.push(format!(
                "--roles is `control`, so queries and containers have nowhere to go: {advice}"
            ));
        }
        if config.is_admin_exposed() && config.admin_token.is_none() && config.made_token.is_none() {
            self.mistakes.push(
                "--admin-addr is not loopback, so that an admin token is needed, and neither HOME nor \
                 XDG_STATE_HOME says where to keep one: give --admin-token-file FILE"
                    .into(),
            );
        }
        let by_tls = matches!(&config.store, StoreLocation::Redis(url) if url.starts_with("rediss://"));
        if config.store_ca.is_some() && !by_tls {
            self.mistakes
                .push("--store-ca is for a store reached by TLS: give --store rediss://…".into());
        }
        self.mistakes.extend(
            self.file
                .keys()
                .map(|name| format!("`{name}` in the file is no option: see --help")),
        );
        if self.mistakes.is_empty() {
            Ok(config)
        } else {
            Err(Mistakes(self.mistakes))
        }
    }
}

fn read_file(path: &Path, mistakes: &mut Vec<String>) -> BTreeMap<String, String> {
    let read = std::fs::read_to_string(path).map_err(|error| error.to_string());
    let table = read.and_then(|text| text.parse::<toml::Table>().map_err(|error| error.to_string()));
    match table {
        Ok(table) => options_of(table, mistakes),
        Err(why) => {
            mistakes.push(format!("--config is `{}`: {why}", path.display()));
            BTreeMap::new()
        }
    }
}

/// The options of a file by their names with dashes; an underscore is as good, but not beside the other
/// spelling, because one of the two values would be ignored.
fn options_of(table: toml::Table, mistakes: &mut Vec<String>) -> BTreeMap<String, String> {
    let mut options = BTreeMap::new();
    for (spelling, value) in table {
        let name = spelling.replace('_', "-");
        if options.insert(name.clone(), written(value)).is_some() {
            let other = name.replace('-', "_");
            mistakes.push(format!(
                "`{name}` and `{other}` in the file are one option: keep one of the two"
            ));
        }
    }
    options
}

fn written(value: toml::Value) -> String {
    match value {
        toml::Value::String(text) => text,
        toml::Value::Array(values) => values.into_iter().map(written).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    }
}

/// A URL as it may be shown: credentials are left out.
pub fn without_password(url: &str) -> String {
    match (url.find("://"), url.rfind('@')) {
        (Some(scheme), Some(at)) if scheme + 3 <= at => format!("{}…{}", &url[..scheme + 3], &url[at..]),
        _ => url.to_owned(),
    }
}

fn parse_str<T: FromStr<Err: fmt::Display>>(text: &str) -> Result<T, String> {
    text.parse().map_err(|error: T::Err| error.to_string())
}

fn parse_positive(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) | Err(_) => Err("expected a whole number above 0".into()),
        Ok(number) => Ok(number),
    }
}

fn parse_bytes(text: &str) -> Result<u64, String> {
    text.parse()
        .map_err(|_| "expected a whole number of bytes; 0 for none".into())
}

fn parse_addr(text: &str) -> Result<SocketAddr, String> {
    let addr = text.replacen("localhost:", "127.0.0.1:", 1);
    addr.parse()
        .map_err(|_| "expected IP:PORT, as in 127.0.0.1:1337 or [::1]:1337".into())
}

fn read_token(path: &str) -> Result<TokenFile, String> {
    TokenFile::read(Path::new(path))
}

fn parse_hosts(text: &str) -> Result<Vec<String>, String> {
    text.split(',').map(|name| parse_host(name.trim())).collect()
}

fn parse_host(text: &str) -> Result<String, String> {
    let name = text.strip_suffix('.').unwrap_or(text);
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    if !name.is_empty() && name.bytes().all(inner) {
        Ok(name.to_ascii_lowercase())
    } else {
        Err("expected the name of a host without a port, as in skysail.example".into())
    }
}

/// Everybody's pages may not: that would be no protection.
fn parse_admin_origins(text: &str) -> Result<AllowedOrigins, String> {
    let origins = text.split(',').map(|origin| parse_str::<Origin>(origin.trim()));
    origins.collect::<Result<_, _>>().map(AllowedOrigins::These)
}

fn parse_origins(text: &str) -> Result<AllowedOrigins, String> {
    if text.split(',').any(|origin| origin.trim() == "*") {
        return Ok(AllowedOrigins::Any);
    }
    parse_admin_origins(text).map_err(|why| format!("{why}, or *"))
}

/// One address, not a list: a container reaches each frontend at the one address that frontend advertises.
fn parse_host_port(text: &str) -> Result<String, String> {
    if text.contains(',') || text.split_whitespace().filter(|part| part.contains(':')).count() > 1 {
        return Err("expected one address, HOST:PORT: each frontend of a cluster advertises its own".into());
    }
    let Some((host, port)) = text.rsplit_once(':').filter(|(host, _)| !host.is_empty()) else {
        return Err("expected HOST:PORT, as in frontend.example:7000".into());
    };
    let is_number = port.bytes().all(|byte| byte.is_ascii_digit());
    if !is_number || !port.parse::<u16>().is_ok_and(|port| port != 0) {
        return Err(format!(
            "expected a port from 1 to 65535 after the last colon, and not `{port}`"
        ));
    }
    check_host(host).map(|()| text.into())
}

/// Whether this is the name or the address of one machine.
fn check_host(host: &str) -> Result<(), String> {
    let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let address = match bracketed {
        Some(inside) => match inside.parse::<Ipv6Addr>() {
            Ok(address) => Some(IpAddr::V6(address)),
            Err(_) => return Err(format!("`{inside}` is no IPv6 address")),
        },
        None if host.contains(':') => {
            return Err("an IPv6 address is written in brackets, as in [2001:db8::1]:7000".into());
        }
        None => host.parse().ok(),
    };
    if address.is_some_and(|address| address.is_unspecified()) {
        return Err(format!(
            "{host} stands for every address of a machine, and nobody can dial it: give the one at which containers reach this frontend"
        ));
    }
    let is_of_names = |character: char| character.is_alphanumeric() || "-._".contains(character);
    match address.is_some() || host.chars().all(is_of_names) {
        true => Ok(()),
        false => Err(format!("`{host}` is neither a host's name nor an address")),
    }
}

fn parse_networks(text: &str) -> Result<Vec<ModelNetwork>, String> {
    text.split(',').map(|one| parse_str(one.trim())).collect()
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|error| format!("{error}; write it as 10s or 1m 30s"))
}

/// A tenth of a second and not 0, which other programs take for no limit at all.
fn parse_timeout(text: &str) -> Result<Duration, String> {
    const LEAST: Duration = Duration::from_millis(100);
    const MOST: Duration = Duration::from_secs(365 * 24 * 60 * 60);
    let timeout = parse_duration(text)?;
    if (LEAST..=MOST).contains(&timeout) {
        Ok(timeout)
    } else {
        Err("expected at least 100ms and at most a year".into())
    }
}

fn parse_store(text: &str) -> Result<StoreLocation, String> {
    if let Some(path) = text.strip_prefix("embedded:") {
        if path.is_empty() {
            return Err("a path is missing after `embedded:`".into());
        }
        let home = std::env::var_os("HOME").filter(|home| !home.is_empty());
        return in_home(path, home.map(PathBuf::from)).map(StoreLocation::Embedded);
    }
    if text.starts_with("redis://") || text.starts_with("rediss://") {
        return Ok(StoreLocation::Redis(text.into()));
    }
    Err("expected embedded:PATH, redis://HOST:PORT/DB or rediss://HOST:PORT/DB".into())
}

/// A folder, as an absolute path: containers are told of the files in it, and work elsewhere.
fn parse_folder(text: &str) -> Result<PathBuf, String> {
    let home = std::env::var_os("HOME").filter(|home| !home.is_empty());
    let folder = in_home(text, home.map(PathBuf::from))?;
    absolute(&folder).map_err(|error| error.to_string())
}

/// A path whose `~` is the home folder: a shell replaces it only at the begin of a word, and not behind
/// `embedded:`.
fn in_home(path: &str, home: Option<PathBuf>) -> Result<PathBuf, String> {
    let Some(below) = path.strip_prefix('~') else {
        return Ok(path.into());
    };
    if !below.is_empty() && !below.starts_with('/') {
        return Err(
            "`~` is the home folder only before a `/`: write another user's in full, and a file whose name \
                    begins with it as ./~…"
                .into(),
        );
    }
    let home = home.ok_or("`~` is the home folder, and HOME is not set: write the path in full")?;
    Ok(home.join(below.trim_start_matches('/')))
}

/// The content of a file of certificates; what they are worth is found out when they are used.
fn read_certificates(path: &str) -> Result<String, String> {
    let pem = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
    if pem.contains("-----BEGIN CERTIFICATE-----") {
        Ok(pem)
    } else {
        Err("expected a PEM file with certificates (-----BEGIN CERTIFICATE-----)".into())
    }
}

fn parse_runtime(text: &str) -> Result<RuntimeKind, String> {
    let known = [RuntimeKind::Process, RuntimeKind::Docker, RuntimeKind::None];
    let found = known.into_iter().find(|kind| kind.name() == text);
    found.ok_or_else(|| "expected process, docker or none".into())
}

fn parse_roles(text: &str) -> Result<Roles, String> {
    let mut roles = Roles {
        query: false,
        control: false,
    };
    for role in text.split(',').map(str::trim) {
        match role {
            "query" => roles.query = true,
            "control" => roles.control = true,
            _ => return Err("expected query, control, or query,control".into()),
        }
    }
    Ok(roles)
}

fn parse_log_level(text: &str) -> Result<String, String> {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    let is_filter = text.contains(['=', ',']);
    // A single word that is no level would be taken for a target's name, and silence everything else.
    if !is_filter && !LEVELS.contains(&text.to_lowercase().as_str()) {
        return Err(format!(
            "expected one of {}, or a filter such as info,skysail_frontend=debug",
            LEVELS.join(", ")
        ));
    }
    EnvFilter::try_new(text).map_err(|error| error.to_string())?;
    Ok(text.into())
}

fn parse_log_format(text: &str) -> Result<Format, String> {
    match text {
        "text" => Ok(Format::Text),
        "json" => Ok(Format::Json),
        _ => Err("expected text or json".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(args: &[&str]) -> Result<Config, Mistakes> {
        Config::from_args(std::iter::once("skysail-frontend").chain(args.iter().copied()))
    }

    fn file(text: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        file
    }

    #[test]
    fn the_defaults_bind_loopback_on_the_documented_ports() {
        let config = config(&[]).unwrap();
        let addrs = [config.query_addr, config.admin_addr, config.rpc_addr].map(|addr| addr.to_string());
        assert_eq!(addrs, ["127.0.0.1:1337", "127.0.0.1:1338", "127.0.0.1:7000"]);
        assert!(
            matches!(config.store, StoreLocation::Embedded(path) if path.ends_with("skysail/default-cluster.redb"))
        );
    }

    #[test]
    fn all_mistakes_are_reported_at_once() {
        let file = file("grace = \"soon\"\nno-such-option = 1\n");
        let path = file.path().to_str().unwrap();
        let mistakes = config(&[
            "--config",
            path,
            "--query-addr",
            "nowhere",
            "--store",
            "mysql://x",
            "--runtime",
            "podman",
            "--roles",
            "both",
            "--cluster",
            "No Good",
            "--log-format",
            "xml",
            "--worker-threads",
            "0",
            "--max-connections",
            "0",
            "--client-timeout",
            "0s",
            "--idle-timeout",
            "long",
        ])
        .unwrap_err()
        .to_string();
        for name in [
            "--query-addr",
            "--store",
            "--runtime",
            "--roles",
            "--cluster",
            "--log-format",
            "--worker-threads",
            "--max-connections",
            "--client-timeout",
            "--idle-timeout",
            "grace in the file",
            "`no-such-option` in the file",
        ] {
            assert!(mistakes.contains(name), "{name} is not in: {mistakes}");
        }
    }

    #[test]
    fn the_command_line_wins_over_the_file() {
        let file = file("query-addr = \"127.0.0.1:1\"\nbody_limit = 7\nroles = [\"query\"]\n");
        let config = config(&[
            "--config",
            file.path().to_str().unwrap(),
            "--query-addr",
            "127.0.0.1:2",
        ])
        .unwrap();
        assert_eq!((config.query_addr.port(), config.body_limit), (2, 7));
        assert_eq!(
            config.roles,
            Roles {
                query: true,
                control: false
            }
        );
    }

    #[test]
    fn what_is_in_the_catalogue_is_in_the_help_and_in_the_environment() {
        let help = command().render_long_help().to_string();
        for option in CATALOGUE {
            assert!(
                help.contains(&format!("--{} <{}>", option.name, option.value)),
                "{help}"
            );
            assert!(help.contains(&option.variable()), "{help}");
            assert!(!option.help.ends_with('.'), "{}", option.help);
        }
        let names: BTreeSet<_> = CATALOGUE.iter().map(|option| option.name).collect();
        assert_eq!(names.len(), CATALOGUE.len());
        assert_eq!(CATALOGUE[0].variable(), "SKYSAIL_CONFIG");
    }

    #[test]
    fn the_docker_engine_can_be_named_like_everything_else() {
        let file = file("docker-host = \"unix:///in/file\"\n");
        let path = file.path().to_str().unwrap();
        let named = config(&["--docker-host", "tcp://engine:1", "--config", path]).unwrap();
        assert_eq!(named.docker_host.as_deref(), Some("tcp://engine:1"));
        // Another program's variable is asked after ours.
        let host = CATALOGUE.iter().find(|option| option.name == "docker-host");
        let host = host.map(|option| (option.variable(), option.also));
        assert_eq!(host, Some(("SKYSAIL_DOCKER_HOST".into(), Some("DOCKER_HOST"))));
        // Where nobody sets it, the file says.
        if variables::read("DOCKER_HOST").is_none() {
            let named = config(&["--config", path]).unwrap();
            assert_eq!(named.docker_host.as_deref(), Some("unix:///in/file"));
        }
    }

    #[test]
    fn an_option_in_both_spellings_is_a_mistake() {
        let file = file("body-limit = 1\nbody_limit = 2\n");
        let mistakes = config(&["--config", file.path().to_str().unwrap()]).unwrap_err();
        let mistakes = mistakes.to_string();
        assert!(
            mistakes.contains("`body-limit` and `body_limit`") && mistakes.contains("keep one"),
            "{mistakes}"
        );
    }

    #[test]
    fn one_address_is_advertised() {
        let advertised = config(&["--rpc-advertise", "one.example:7000"])
            .unwrap()
            .rpc_advertise;
        assert_eq!(advertised.as_deref(), Some("one.example:7000"));
        assert!(config(&["--rpc-advertise", "[::1]:7000"]).is_ok());
        for several in ["one:7000,two:7000", "one:7000, two:7000", "one:7000 two:7000"] {
            let mistake = config(&["--rpc-advertise", several]).unwrap_err().to_string();
            assert!(mistake.contains("expected one address"), "{mistake}");
        }
        for (nowhere, why) in [
            ("0.0.0.0:7000", "nobody can dial"),
            ("[::]:7000", "nobody can dial"),
            ("::1:7000", "in brackets"),
            ("[one]:7000", "no IPv6 address"),
            ("h:+700", "and not `+700`"),
            ("h:7 000", "and not `7 000`"),
            ("h:0", "and not `0`"),
            ("h:65536", "and not `65536`"),
            ("h:", "and not ``"),
            (":7000", "expected HOST:PORT"),
            ("h", "expected HOST:PORT"),
            ("h;x:7000", "neither a host's name"),
            ("h x:7000", "neither a host's name"),
            ("http//h:7000", "neither a host's name"),
        ] {
            let mistake = config(&["--rpc-advertise", nowhere]).unwrap_err().to_string();
            assert!(mistake.contains(why), "{nowhere}: {mistake}");
        }
    }

    #[test]
    fn the_cache_can_be_sized_and_switched_off() {
        assert_eq!(config(&[]).unwrap().cache_bytes, 64 << 20);
        assert_eq!(config(&["--cache-bytes", "1000"]).unwrap().cache_bytes, 1000);
        assert_eq!(config(&["--cache-bytes", "0"]).unwrap().cache_bytes, 0);
        let mistake = config(&["--cache-bytes", "64MiB"]).unwrap_err().to_string();
        assert!(mistake.contains("whole number of bytes"), "{mistake}");
    }

    #[test]
    fn a_file_that_cannot_be_read_is_a_mistake() {
        let mistakes = config(&["--config", "/no/such/file.toml"])
            .unwrap_err()
            .to_string();
        assert!(mistakes.contains("/no/such/file.toml"), "{mistakes}");
    }

    #[test]
    fn a_word_that_is_no_log_level_is_a_mistake_and_a_filter_is_none() {
        assert!(config(&["--log-level", "verbose"]).is_err());
        assert!(config(&["--log-level", "warn,skysail_frontend=debug"]).is_ok());
    }

    #[test]
    fn a_control_role_alone_with_a_store_of_its_own_is_a_mistake() {
        let mistakes = config(&["--roles", "control"]).unwrap_err().to_string();
        assert!(mistakes.contains("--store redis://"), "{mistakes}");
        assert!(config(&["--roles", "control", "--store", "redis://r:6379/0"]).is_ok());
        assert!(config(&["--roles", "control", "--runtime", "none"]).is_ok());
    }

    #[test]
    fn a_tilde_before_a_slash_is_the_home_folder_and_no_other_users() {
        let home = || Some(PathBuf::from("/home/ada"));
        for (path, expected) in [
            ("~/x.redb", "/home/ada/x.redb"),
            ("~//x.redb", "/home/ada/x.redb"),
            ("~", "/home/ada/"),
            ("/var/~/x", "/var/~/x"),
            ("./~x", "./~x"),
        ] {
            assert_eq!(in_home(path, home()).unwrap(), PathBuf::from(expected), "{path}");
        }
        assert!(in_home("~bob/x", home()).unwrap_err().contains("another user's"));
        assert!(in_home("~/x", None).unwrap_err().contains("HOME is not set"));
        assert_eq!(in_home("x", None).unwrap(), PathBuf::from("x"));
        let mistake = config(&["--store", "embedded:~bob/x.redb"])
            .unwrap_err()
            .to_string();
        assert!(
            mistake.contains("--store") && mistake.contains("~bob"),
            "{mistake}"
        );
    }

    #[test]
    fn a_password_is_never_shown() {
        assert_eq!(
            without_password("redis://user:secret@host:6379/0"),
            "redis://…@host:6379/0"
        );
        assert_eq!(without_password("redis://host:6379/0"), "redis://host:6379/0");
        let mistake = config(&["--store", "mysql://user:secret@host"])
            .unwrap_err()
            .to_string();
        assert!(!mistake.contains("secret"), "{mistake}");
    }

    #[test]
    fn certificates_are_for_a_store_reached_by_tls_and_must_be_some() {
        let file = file("-----BEGIN CERTIFICATE-----\n");
        let path = file.path().to_str().unwrap();
        let tls = config(&["--store", "rediss://host", "--store-ca", path]).unwrap();
        assert_eq!(tls.store, StoreLocation::Redis("rediss://host".into()));
        assert!(tls.store_ca.is_some());
        let plain = config(&["--store", "redis://host", "--store-ca", path]);
        assert!(plain.unwrap_err().to_string().contains("rediss://"));
        for bad in ["/no/such/file.pem", "/dev/null"] {
            let mistake = config(&["--store", "rediss://host", "--store-ca", bad]);
            assert!(mistake.unwrap_err().to_string().contains(bad));
        }
    }

    #[test]
    fn the_networks_of_models_are_subnets() {
        let networks = config(&["--model-network", "172.18.0.1/16, fd00::1/64"]).unwrap();
        assert_eq!(networks.model_networks.len(), 2);
        let mistake = config(&["--model-network", "172.18.0.1"])
            .unwrap_err()
            .to_string();
        assert!(mistake.contains("172.18.0.1/16"), "{mistake}");
    }

    #[test]
    fn a_token_file_that_holds_none_is_a_mistake_with_its_name() {
        let good = file("0123456789abcdef\n");
        let path = good.path().to_str().unwrap();
        let config_of_it = config(&["--admin-token-file", path]).unwrap();
        assert_eq!(
            config_of_it.admin_token.unwrap().token.reveal(),
            "0123456789abcdef"
        );
        let short = file("secret\n");
        for bad in ["/no/such/file", "/dev/null", short.path().to_str().unwrap()] {
            let mistake = config(&["--admin-token-file", bad]).unwrap_err().to_string();
            assert!(
                mistake.contains(bad) && !mistake.contains("secret\n"),
                "{mistake}"
            );
        }
    }

    #[test]
    fn names_and_origins_may_be_given_several_times_or_as_lists() {
        let config_of = config(&[
            "--admin-host",
            "Skysail.Example.,b",
            "--admin-host",
            "c",
            "--admin-allow-origin",
            "https://ui.example, http://localhost:3000",
            "--cors-origin",
            "https://shop.example",
        ]);
        let config_of = config_of.unwrap();
        assert_eq!(config_of.admin_hosts, ["skysail.example", "b", "c"]);
        let origins =
            |texts: &[&str]| AllowedOrigins::These(texts.iter().map(|text| text.parse().unwrap()).collect());
        assert_eq!(
            config_of.admin_origins,
            origins(&["https://ui.example", "http://localhost:3000"])
        );
        assert_eq!(config_of.cors_origins, Some(origins(&["https://shop.example"])));
        let any = config(&["--cors-origin", "*"]).unwrap().cors_origins;
        assert_eq!(any, Some(AllowedOrigins::Any));
        for (flag, bad) in [
            ("--admin-host", "skysail:1338"),
            ("--admin-host", "*"),
            ("--admin-allow-origin", "*"),
            ("--admin-allow-origin", "ui.example"),
            ("--cors-origin", "https://shop.example/page"),
        ] {
            let mistake = config(&[flag, bad]).unwrap_err().to_string();
            assert!(
                mistake.contains(flag) && mistake.contains("expected"),
                "{mistake}"
            );
        }
    }

    #[test]
    fn what_listens_beyond_loopback_is_exposed() {
        for (addr, exposed) in [
            ("127.0.0.1:0", false),
            ("127.1.2.3:0", false),
            ("[::1]:0", false),
            ("[::ffff:127.0.0.1]:0", false),
            ("0.0.0.0:0", true),
            ("[::]:0", true),
            ("10.0.0.1:0", true),
        ] {
            let config = config(&["--admin-addr", addr]).unwrap();
            assert_eq!(config.is_admin_exposed(), exposed, "{addr}");
        }
        let query = config(&["--admin-addr", "0.0.0.0:0", "--roles", "query"]).unwrap();
        assert!(!query.is_admin_exposed());
    }

    #[test]
    fn an_unknown_flag_is_a_mistake() {
        assert!(
            config(&["--qery-addr", "127.0.0.1:1"])
                .unwrap_err()
                .to_string()
                .contains("--qery-addr")
        );
    }
}

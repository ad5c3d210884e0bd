//! Bringing a cluster up: all of it, or nothing.

use std::collections::HashMap;
use std::time::Duration;

use bollard::models::{
    ContainerCreateBody, HostConfig, Mount, MountType, PortBinding, RestartPolicy, RestartPolicyNameEnum,
};
use reqwest::Url;
use skysail_proto::ids::ClusterName;
use skysail_proto::labels;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Instant, sleep};

use super::engine::{Container, Engine, Ownership};
use super::ports::{PortChoice, claim, taken};
use super::stop::remove_containers;
use super::{ClusterError, KEEP_DATA_LABEL, RPC_PORT};
use crate::advice::listed;
use crate::client::{AdminClient, ClientError, QueryClient};
use crate::progress::Progress;

/// How often is looked whether what is waited for has come.
const POLL: Duration = Duration::from_millis(200);

/// Restarts of a container that show that it will not come up.
const RESTARTS: i64 = 3;

/// Log lines shown of a container that does not come up.
const LOG_LINES: usize = 20;

/// How long what was begun may take to end when all is undone.
const UNDO_GRACE: Duration = Duration::from_secs(5);

/// How long another start may take to be done with what is in the way: a container that it is making, the
/// network it made too late.
const GIVES_WAY: Duration = Duration::from_secs(5);

/// What to bring up.
#[derive(Debug)]
pub(crate) struct StartPlan {
    pub(crate) cluster: ClusterName,
    pub(crate) redis_image: String,
    pub(crate) frontend_image: String,
    pub(crate) query_port: PortChoice,
    pub(crate) admin_port: PortChoice,
    pub(crate) rpc_port: PortChoice,
    /// Whether a plain `stop` is to leave the data.
    pub(crate) keep_data: bool,
    /// How long the frontend may take to be ready.
    pub(crate) at_most: Duration,
}

/// Where a cluster listens on this machine.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Addresses {
    pub(crate) query_port: u16,
    pub(crate) admin_port: u16,
    pub(crate) rpc_port: u16,
}

/// What was made so far and is removed again if the rest fails. What was there before is not in it.
#[derive(Debug, Default)]
struct Made {
    /// By its id.
    network: Option<String>,
    volume: Option<String>,
    containers: Vec<String>,
}

/// Starts a cluster and waits until it is ready; if that fails, removes what it has made.
pub(crate) async fn start(
    engine: &Engine,
    plan: &StartPlan,
    progress: &mut Progress,
) -> Result<Addresses, ClusterError> {
    let mut interrupt = Interrupt::listen()?;
    refuse_existing(engine, &plan.cluster).await?;
    let [query_port, admin_port, rpc_port] = claim([plan.query_port, plan.admin_port, plan.rpc_port])?;
    let addresses = Addresses {
        query_port,
        admin_port,
        rpc_port,
    };
    // Before anything is made, because this is what fails most often, and what takes longest.
    interrupt.or(have_images(engine, plan, progress)).await?;
    let mut made = Made::default();
    let outcome = async {
        bring_up(engine, plan, addresses, &mut made, progress).await?;
        progress.say(&format!("waiting for cluster {} to be ready", plan.cluster), None);
        let ready = until_ready(engine, &plan.cluster, addresses, plan.at_most);
        interrupt.or(ready).await
    };
    match outcome.await {
        Ok(()) => Ok(addresses),
        Err(error) => {
            progress.say("removing what was started", None);
            made.undo(engine, &plan.cluster, progress).await;
            Err(error)
        }
    }
}

/// Two clusters of one name would fight over their replicas.
async fn refuse_existing(engine: &Engine, cluster: &ClusterName) -> Result<(), ClusterError> {
    let containers = engine.containers(cluster).await?;
    if containers.is_empty() {
        return Ok(());
    }
    let serves = |role: &str| role == labels::ROLE_FRONTEND;
    if containers
        .iter()
        .any(|container| container.running && serves(&container.role))
    {
        return Err(ClusterError::AlreadyRuns(cluster.clone()));
    }
    let names: Vec<_> = containers.into_iter().map(|container| container.name).collect();
    Err(ClusterError::Leftovers {
        cluster: cluster.clone(),
        containers: listed(&names),
    })
}

async fn have_images(engine: &Engine, plan: &StartPlan, progress: &mut Progress) -> Result<(), ClusterError> {
    engine
        .have_image(&plan.frontend_image, "--frontend-image", progress)
        .await?;
    engine
        .have_image(&plan.redis_image, "--redis-image", progress)
        .await
}

async fn bring_up(
    engine: &Engine,
    plan: &StartPlan,
    addresses: Addresses,
    made: &mut Made,
    progress: &mut Progress,
) -> Result<(), ClusterError> {
    let cluster = &plan.cluster;
    progress.say(&format!("starting cluster {cluster}: network and volume"), None);
    let network = have_network(engine, cluster, made).await?;
    have_volume(engine, cluster, made).await?;
    progress.say(&format!("starting cluster {cluster}: Redis"), None);
    let redis = labels::redis_container(cluster);
    run_container(engine, cluster, &redis, redis_body(plan, &network), made).await?;
    progress.say(&format!("starting cluster {cluster}: frontend"), None);
    let frontend = labels::frontend_container(cluster);
    let body = frontend_body(plan, addresses, engine.socket(), &network);
    let started = run_container(engine, cluster, &frontend, body, made).await;
    started.map_err(|error| explain_port(error, plan))
}

/// The id of the network that the cluster's containers join.
///
/// Old engines let two starts make one each. Both then agree on the older, as frontends do, and whoever made
/// the younger gives way.
async fn have_network(
    engine: &Engine,
    cluster: &ClusterName,
    made: &mut Made,
) -> Result<String, ClusterError> {
    let name = labels::network_name(cluster);
    if let Some(id) = oldest_network(engine, &name, cluster).await? {
        return Ok(id);
    }
    made.network = engine.create_network(&name, cluster).await?;
    let oldest = oldest_network(engine, &name, cluster).await?;
    match oldest {
        Some(id) if made.network.as_ref() == Some(&id) => Ok(id),
        _ => Err(ClusterError::StartedElsewhere(cluster.clone())),
    }
}

async fn oldest_network(
    engine: &Engine,
    name: &str,
    cluster: &ClusterName,
) -> Result<Option<String>, ClusterError> {
    let networks = engine.networks_named(name, cluster).await?;
    if networks.iter().any(|network| !network.ours) {
        return Err(name_taken("network", name.to_owned(), cluster));
    }
    Ok(networks.into_iter().next().map(|network| network.id))
}

/// A volume that a stop has kept is used again.
async fn have_volume(engine: &Engine, cluster: &ClusterName, made: &mut Made) -> Result<(), ClusterError> {
    let name = labels::redis_volume(cluster);
    match engine.volume_ownership(&name, cluster).await? {
        Ownership::Ours => Ok(()),
        Ownership::Foreign => Err(name_taken("volume", name, cluster)),
        Ownership::Absent => {
            engine.create_volume(&name, cluster).await?;
            made.volume = Some(name);
            Ok(())
        }
    }
}

async fn run_container(
    engine: &Engine,
    cluster: &ClusterName,
    name: &str,
    body: ContainerCreateBody,
    made: &mut Made,
) -> Result<(), ClusterError> {
    let deadline = Instant::now() + GIVES_WAY;
    while engine.create_container(name, body.clone()).await?.is_none() {
        give_way(engine, cluster, name, made).await?;
        if Instant::now() >= deadline {
            return Err(name_taken("container", name.to_owned(), cluster));
        }
        sleep(POLL).await;
    }
    made.containers.push(name.to_owned());
    start_container(engine, name).await
}

/// Starts a container. Old engines start none in a network of whose name there are two, even if it is named
/// by its id, so that the maker of the younger is given time to remove it.
async fn start_container(engine: &Engine, name: &str) -> Result<(), ClusterError> {
    let deadline = Instant::now() + GIVES_WAY;
    loop {
        match engine.start_container(name).await {
            Err(ClusterError::Engine { reason, .. })
                if reason.contains("ambiguous") && Instant::now() < deadline =>
            {
                sleep(POLL).await;
            }
            started => return started,
        }
    }
}

/// Fails if somebody has a container of this name, which is the one thing that only one of two starts can
/// have. A name that is taken by nobody is of a container that is being made or removed just now.
async fn give_way(
    engine: &Engine,
    cluster: &ClusterName,
    name: &str,
    made: &mut Made,
) -> Result<(), ClusterError> {
    let (ownership, network) = engine.container_ownership(name, cluster).await?;
    match ownership {
        Ownership::Absent => Ok(()),
        Ownership::Foreign => Err(name_taken("container", name.to_owned(), cluster)),
        Ownership::Ours => {
            // The other start relies on the volume by now, and on the network that its container joins,
            // whoever made them. Another network of that name would only be in its way.
            made.network.take_if(|made| Some(&*made) == network.as_ref());
            made.volume = None;
            Err(ClusterError::StartedElsewhere(cluster.clone()))
        }
    }
}

fn name_taken(kind: &'static str, name: String, cluster: &ClusterName) -> ClusterError {
    ClusterError::NameTaken {
        kind,
        name,
        cluster: cluster.clone(),
    }
}

fn redis_body(plan: &StartPlan, network: &str) -> ContainerCreateBody {
    let cluster = &plan.cluster;
    let mut labels = role_labels(cluster, labels::ROLE_REDIS);
    if plan.keep_data {
        labels.insert(KEEP_DATA_LABEL.into(), "true".into());
    }
    let data = Mount {
        target: Some("/data".into()),
        source: Some(labels::redis_volume(cluster)),
        typ: Some(MountType::VOLUME),
        ..Default::default()
    };
    ContainerCreateBody {
        image: Some(plan.redis_image.clone()),
        cmd: Some(vec!["--appendonly".into(), "yes".into()]),
        // Redis writes where it is started, and not every image starts it on the volume.
        working_dir: Some("/data".into()),
        labels: Some(labels),
        host_config: Some(host_config(network, vec![data])),
        ..Default::default()
    }
}

fn frontend_body(plan: &StartPlan, addresses: Addresses, socket: &str, network: &str) -> ContainerCreateBody {
    let cluster = &plan.cluster;
    let socket = Mount {
        target: Some("/var/run/docker.sock".into()),
        source: Some(socket.to_owned()),
        typ: Some(MountType::BIND),
        ..Default::default()
    };
    let published = [
        (addresses.query_port, addresses.query_port),
        (addresses.admin_port, addresses.admin_port),
        (RPC_PORT, addresses.rpc_port),
    ];
    let mut host_config = host_config(network, vec![socket]);
    host_config.port_bindings = Some(published.map(binding).into());
    ContainerCreateBody {
        image: Some(plan.frontend_image.clone()),
        cmd: Some(frontend_arguments(cluster, addresses)),
        exposed_ports: Some(published.map(|(inside, _)| container_port(inside)).into()),
        labels: Some(role_labels(cluster, labels::ROLE_FRONTEND)),
        host_config: Some(host_config),
        ..Default::default()
    }
}

/// Query and admin listen inside on the numbers they are published by, so that the addresses which the
/// admin API names are right outside as well.
fn frontend_arguments(cluster: &ClusterName, addresses: Addresses) -> Vec<String> {
    let redis = labels::redis_container(cluster);
    let frontend = labels::frontend_container(cluster);
    let pairs = [
        ("--store", format!("redis://{redis}:6379/0")),
        ("--runtime", "docker".into()),
        ("--cluster", cluster.to_string()),
        ("--query-addr", format!("0.0.0.0:{}", addresses.query_port)),
        ("--admin-addr", format!("0.0.0.0:{}", addresses.admin_port)),
        ("--rpc-addr", format!("0.0.0.0:{RPC_PORT}")),
        ("--rpc-advertise", format!("{frontend}:{RPC_PORT}")),
    ];
    let words = pairs
        .into_iter()
        .flat_map(|(option, value)| [option.to_owned(), value]);
    words.collect()
}

fn role_labels(cluster: &ClusterName, role: &str) -> HashMap<String, String> {
    HashMap::from([
        (labels::CLUSTER.to_owned(), cluster.to_string()),
        (labels::ROLE.to_owned(), role.to_owned()),
    ])
}

fn host_config(network: &str, mounts: Vec<Mount>) -> HostConfig {
    HostConfig {
        network_mode: Some(network.to_owned()),
        mounts: Some(mounts),
        restart_policy: Some(RestartPolicy {
            name: Some(RestartPolicyNameEnum::UNLESS_STOPPED),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn container_port(port: u16) -> String {
    format!("{port}/tcp")
}

fn binding((inside, outside): (u16, u16)) -> (String, Option<Vec<PortBinding>>) {
    let host = PortBinding {
        host_ip: Some("127.0.0.1".into()),
        host_port: Some(outside.to_string()),
    };
    (container_port(inside), Some(vec![host]))
}

/// Docker's own words on a taken port name neither the option nor a way out.
fn explain_port(error: ClusterError, plan: &StartPlan) -> ClusterError {
    let ClusterError::Engine { reason, .. } = &error else {
        return error;
    };
    if !reason.contains("already allocated") && !reason.contains("already in use") {
        return error;
    }
    let names = |choice: &PortChoice| choice.port != 0 && reason.contains(&format!(":{} ", choice.port));
    let choices = [plan.query_port, plan.admin_port, plan.rpc_port];
    choices.into_iter().find(names).map_or(error, taken)
}

/// Ctrl-C, listened to from the beginning: one that comes while something is being made is heard when that
/// is done, so that all that was made is known and removed.
struct Interrupt(Signal);

impl Interrupt {
    fn listen() -> Result<Self, ClusterError> {
        let listening = signal(SignalKind::interrupt()).map_err(ClusterError::NoSignals)?;
        Ok(Self(listening))
    }

    /// Runs to the end, or until Ctrl-C.
    async fn or<T>(
        &mut self,
        work: impl Future<Output = Result<T, ClusterError>>,
    ) -> Result<T, ClusterError> {
        tokio::select! {
            biased;
            Some(()) = self.0.recv() => Err(ClusterError::Interrupted),
            outcome = work => outcome,
        }
    }
}

/// Waits until the frontend can serve queries and its admin API answers.
async fn until_ready(
    engine: &Engine,
    cluster: &ClusterName,
    addresses: Addresses,
    at_most: Duration,
) -> Result<(), ClusterError> {
    let deadline = Instant::now() + at_most;
    let query = QueryClient::new(local_url(addresses.query_port));
    let admin = AdminClient::new(local_url(addresses.admin_port));
    loop {
        let Err(missing) = look(&query, &admin).await else {
            return Ok(());
        };
        if let Some((container, what)) = unstable(engine, cluster).await? {
            return Err(not_ready(engine, &container, what).await);
        }
        if Instant::now() >= deadline {
            let at_most = humantime::format_duration(at_most);
            let what = format!("the frontend is not ready after {at_most}: {missing}");
            return Err(not_ready(engine, &labels::frontend_container(cluster), what).await);
        }
        sleep(POLL).await;
    }
}

/// The container of a cluster that does not stay up, and how it ends. Redis is looked at first: without
/// it the frontend is well and waits.
async fn unstable(engine: &Engine, cluster: &ClusterName) -> Result<Option<(String, String)>, ClusterError> {
    let watched = [
        ("Redis", labels::redis_container(cluster)),
        ("the frontend", labels::frontend_container(cluster)),
    ];
    for (what, name) in watched {
        let container = engine.inspect(&name).await?;
        if container.restart_count.unwrap_or(0) >= RESTARTS {
            let code = container.state.and_then(|state| state.exit_code);
            return Ok(Some((name, exit_words(what, code))));
        }
    }
    Ok(None)
}

async fn not_ready(engine: &Engine, container: &str, what: String) -> ClusterError {
    let log = engine.last_lines(container, LOG_LINES).await;
    ClusterError::NotReady { what, log }
}

async fn look(query: &QueryClient, admin: &AdminClient) -> Result<(), ClientError> {
    query.ready().await?;
    admin.status().await.map(drop)
}

fn exit_words(what: &str, code: Option<i64>) -> String {
    let code = code.map_or_else(|| "unknown".to_owned(), |code| code.to_string());
    format!("{what} exits again and again (exit code {code})")
}

/// The URL of a port on this machine.
pub(crate) fn local_url(port: u16) -> Url {
    let url = format!("http://127.0.0.1:{port}");
    Url::parse(&url).expect("a port makes a valid URL; this is a bug")
}

impl Made {
    /// Removes what was made, as far as that goes: the error that led here is the one to tell.
    async fn undo(&self, engine: &Engine, cluster: &ClusterName, progress: &mut Progress) {
        if let Err(error) = self.try_undo(engine, cluster).await {
            progress.warn(&format!(
                "warning: {error}; `skysail stop --cluster {cluster}` tries again"
            ));
        }
    }

    async fn try_undo(&self, engine: &Engine, cluster: &ClusterName) -> Result<(), ClusterError> {
        // A frontend that found kept data may have begun to start replicas.
        let started_replicas = self.containers.contains(&labels::frontend_container(cluster));
        let is_ours = |container: &Container| {
            let replica = container.role == labels::ROLE_REPLICA;
            self.containers.contains(&container.name) || (replica && started_replicas)
        };
        remove_containers(engine, cluster, is_ours, UNDO_GRACE).await?;
        if let Some(network) = &self.network {
            engine.remove_network(network).await?;
        }
        if let Some(volume) = &self.volume {
            engine.remove_volume(volume).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan() -> StartPlan {
        let port = |port, option| PortChoice { port, option };
        StartPlan {
            cluster: "blue".parse().unwrap(),
            redis_image: "redis:7-alpine".into(),
            frontend_image: "skysail/frontend:0.1.0".into(),
            query_port: port(1337, "--query-port"),
            admin_port: port(1338, "--admin-port"),
            rpc_port: port(7000, "--rpc-port"),
            keep_data: false,
            at_most: Duration::from_secs(60),
        }
    }

    fn addresses() -> Addresses {
        Addresses {
            query_port: 1337,
            admin_port: 1338,
            rpc_port: 7001,
        }
    }

    #[test]
    fn the_frontend_is_told_its_store_its_runtime_and_its_addresses() {
        let arguments = frontend_arguments(&plan().cluster, addresses()).join(" ");
        let expected = "--store redis://blue-redis:6379/0 --runtime docker --cluster blue \
                        --query-addr 0.0.0.0:1337 --admin-addr 0.0.0.0:1338 --rpc-addr 0.0.0.0:7000 \
                        --rpc-advertise blue-frontend:7000";
        assert_eq!(arguments, expected);
    }

    #[test]
    fn ports_are_published_on_this_machine_only() {
        let body = frontend_body(&plan(), addresses(), "/run/docker.sock", "net");
        let bindings = body.host_config.unwrap().port_bindings.unwrap();
        for (inside, outside) in [("1337/tcp", "1337"), ("1338/tcp", "1338"), ("7000/tcp", "7001")] {
            let host = &bindings[inside].as_ref().unwrap()[0];
            assert_eq!(host.host_ip.as_deref(), Some("127.0.0.1"));
            assert_eq!(host.host_port.as_deref(), Some(outside));
        }
    }

    #[test]
    fn redis_takes_its_arguments_only_and_is_not_published() {
        let body = redis_body(&plan(), "net");
        assert_eq!(body.cmd.unwrap(), ["--appendonly", "yes"]);
        let host_config = body.host_config.unwrap();
        assert!(host_config.port_bindings.is_none());
        let data = &host_config.mounts.unwrap()[0];
        assert_eq!(data.source.as_deref(), Some("blue-redis-data"));
        assert_eq!(data.target.as_deref(), Some("/data"));
    }

    #[test]
    fn only_a_cluster_that_asks_for_it_keeps_its_data() {
        let mut plan = plan();
        assert!(
            !redis_body(&plan, "net")
                .labels
                .unwrap()
                .contains_key(KEEP_DATA_LABEL)
        );
        plan.keep_data = true;
        assert!(
            redis_body(&plan, "net")
                .labels
                .unwrap()
                .contains_key(KEEP_DATA_LABEL)
        );
    }

    #[test]
    fn a_port_that_docker_finds_taken_is_told_with_its_option() {
        let refusal = |reason: &str| ClusterError::Engine {
            doing: "start container blue-frontend".into(),
            reason: reason.into(),
        };
        let taken = "Bind for 127.0.0.1:1338 failed: port is already allocated";
        let explained = explain_port(refusal(taken), &plan());
        assert!(matches!(
            explained,
            ClusterError::PortTaken {
                port: 1338,
                option: "--admin-port"
            }
        ));
        let other = explain_port(refusal("no space left on device"), &plan());
        assert!(matches!(other, ClusterError::Engine { .. }));
    }
}

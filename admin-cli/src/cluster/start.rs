//! Bringing a cluster up: all of it, or nothing.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::time::Duration;

use bollard::models::{
    ContainerCreateBody, HostConfig, Mount, MountType, PortBinding, RestartPolicy, RestartPolicyNameEnum,
};
use reqwest::Url;
use skysail_process::signals::EndSignals;
use skysail_proto::ids::ClusterName;
use skysail_proto::labels;
use tokio::time::{Instant, sleep};

use super::engine::{Container, Engine, Ownership};
use super::networks::Networks;
use super::ports::{PortChoice, claim, taken, upwards};
use super::secrets::{ADMIN_TOKEN_FILE, FRONTEND_FILE, File, REDIS_FILE, Secrets, archive};
use super::stop::remove_containers;
use super::{
    ADMIN_PORT_LABEL, ClusterError, KEEP_DATA_LABEL, MODEL_NETWORK_LABEL, RPC_PORT, TOKEN_FINGERPRINT_LABEL,
};
use crate::advice::listed;
use crate::client::{AdminClient, ClientError, QueryClient};
use crate::credentials::{Credentials, FoundToken, fingerprint};
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
    /// How many frontends take queries. One has the control role as well; beside several there is another
    /// container for that.
    pub(crate) frontends: NonZeroUsize,
    /// The first frontend's, with those of the others above it.
    pub(crate) query_port: PortChoice,
    pub(crate) admin_port: PortChoice,
    /// The first frontend's, with those of the others above it.
    pub(crate) rpc_port: PortChoice,
    /// The first frontend's operations listener, with those of the others above it.
    pub(crate) ops_port: PortChoice,
    /// Whether a plain `stop` is to leave the data.
    pub(crate) keep_data: bool,
    /// How long the frontend may take to be ready.
    pub(crate) at_most: Duration,
}

/// Where a cluster listens on this machine.
#[derive(Clone, Debug)]
pub(crate) struct Addresses {
    /// One for each frontend that takes queries.
    pub(crate) query_ports: Vec<u16>,
    pub(crate) admin_port: u16,
    /// One for each frontend that takes queries.
    pub(crate) rpc_ports: Vec<u16>,
    /// One for each frontend, in the order in which they are started.
    pub(crate) ops_ports: Vec<u16>,
}

impl Addresses {
    /// Finds the ports of a plan, all of them free and different.
    fn claim(plan: &StartPlan) -> Result<Self, ClusterError> {
        let count = plan.frontends.get();
        let everywhere = containers_for(count);
        let mut others = vec![plan.admin_port, plan.rpc_port, plan.ops_port];
        let query = upwards(plan.query_port, count, &others);
        others.extend(&query);
        let rpc = upwards(plan.rpc_port, count, &others);
        others.extend(&rpc);
        let ops = upwards(plan.ops_port, everywhere, &others);
        if query.len() < count || rpc.len() < count || ops.len() < everywhere {
            return Err(ClusterError::TooManyFrontends(count));
        }
        let choices = [query, rpc, ops, vec![plan.admin_port]].concat();
        let mut ports = claim(&choices)?.into_iter();
        Ok(Self {
            query_ports: ports.by_ref().take(count).collect(),
            rpc_ports: ports.by_ref().take(count).collect(),
            ops_ports: ports.by_ref().take(everywhere).collect(),
            admin_port: ports.next().unwrap_or(plan.admin_port.port),
        })
    }
}

/// How many containers have a frontend in them, if `count` take queries: several have another beside them that acts.
fn containers_for(count: usize) -> usize {
    if count == 1 { 1 } else { count + 1 }
}

/// A container with a frontend in it.
#[derive(Debug)]
struct Frontend {
    name: String,
    /// With the query role: the ports of query REST and container RPC on this machine.
    query: Option<(u16, u16)>,
    /// With the control role: the port of admin REST. It is given Docker's socket.
    admin: Option<u16>,
    /// The port of its operations listener.
    ops: u16,
}

impl Frontend {
    /// The frontends of a cluster, in the order in which they are started: the control role, which starts
    /// containers for them, comes last.
    fn all(cluster: &ClusterName, addresses: &Addresses) -> Vec<Self> {
        let query = addresses
            .query_ports
            .iter()
            .copied()
            .zip(addresses.rpc_ports.iter().copied());
        let mut ops = addresses.ops_ports.iter().copied();
        let mut next_ops = || ops.next().unwrap_or(0);
        if let [only] = query.clone().collect::<Vec<_>>()[..] {
            return vec![Self {
                name: labels::frontend_container(cluster),
                query: Some(only),
                admin: Some(addresses.admin_port),
                ops: next_ops(),
            }];
        }
        let mut frontends: Vec<_> = query
            .zip(1..)
            .map(|(ports, number)| Self {
                name: labels::query_container(cluster, number),
                query: Some(ports),
                admin: None,
                ops: next_ops(),
            })
            .collect();
        frontends.push(Self {
            name: labels::control_container(cluster),
            query: None,
            admin: Some(addresses.admin_port),
            ops: next_ops(),
        });
        frontends
    }

    /// Which of its ports inside is published by which.
    fn published(&self) -> Vec<(u16, u16)> {
        let query = self.query.map(|(query, rpc)| [(query, query), (RPC_PORT, rpc)]);
        let same = self.admin.into_iter().chain([self.ops]).map(|port| (port, port));
        query.into_iter().flatten().chain(same).collect()
    }
}

/// What was made so far and is removed again if the rest fails. What was there before is not in it.
#[derive(Debug, Default)]
pub(super) struct Made {
    /// By their ids.
    pub(super) networks: Vec<String>,
    volume: Option<String>,
    containers: Vec<String>,
    /// The admin API whose token was kept for the user's commands.
    token_kept_for: Option<Url>,
}

/// A cluster that is up.
#[derive(Debug)]
pub(crate) struct Started {
    pub(crate) addresses: Addresses,
    /// For its admin API.
    pub(crate) admin: AdminClient,
}

/// Starts a cluster and waits until it is ready; if that fails, removes what it has made.
pub(crate) async fn start(
    engine: &Engine,
    plan: &StartPlan,
    progress: &mut Progress,
) -> Result<Started, ClusterError> {
    let mut interrupt = Interrupt::listen()?;
    // Before anything is made: a cluster whose token cannot be kept is one that nobody can administer.
    let kept = Credentials::of_user()?;
    kept.prepare()?;
    refuse_existing(engine, &plan.cluster).await?;
    let addresses = Addresses::claim(plan)?;
    let frontends = Frontend::all(&plan.cluster, &addresses);
    // Before anything is made, because this is what fails most often, and what takes longest.
    interrupt.or(have_images(engine, plan, progress)).await?;
    let secrets = Secrets::fresh();
    let mut made = Made::default();
    let admin_url = local_url(addresses.admin_port);
    let outcome = async {
        bring_up(engine, (plan, &secrets), &frontends, &mut made, progress).await?;
        // Only now is the port known to be this cluster's: before, the token of another that is there, or is being
        // started at the same port just now, would be lost.
        let place = kept.save(&admin_url, &secrets.admin_token)?;
        made.token_kept_for = Some(admin_url.clone());
        let token = FoundToken {
            token: secrets.admin_token.clone(),
            place: place.display().to_string(),
        };
        let admin = AdminClient::new(admin_url).with_token(Some(token));
        progress.say(&format!("waiting for cluster {} to be ready", plan.cluster), None);
        let ready = until_ready(engine, plan, &frontends, &admin);
        interrupt.or(ready).await?;
        Ok(admin)
    };
    match outcome.await {
        Ok(admin) => Ok(Started { addresses, admin }),
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
    (plan, secrets): (&StartPlan, &Secrets),
    frontends: &[Frontend],
    made: &mut Made,
    progress: &mut Progress,
) -> Result<(), ClusterError> {
    let cluster = &plan.cluster;
    progress.say(&format!("starting cluster {cluster}: networks and volume"), None);
    let networks = Networks::have(engine, cluster, made).await?;
    have_volume(engine, cluster, made).await?;
    progress.say(&format!("starting cluster {cluster}: Redis"), None);
    let redis = New {
        name: labels::redis_container(cluster),
        body: redis_body(plan, &networks),
        files: secrets.redis_files(),
        further_network: None,
    };
    run_container(engine, cluster, redis, made).await?;
    for frontend in frontends {
        progress.say(&format!("starting cluster {cluster}: {}", frontend.name), None);
        let mut body = frontend_body(plan, frontend, engine.socket(), &networks);
        if frontend.admin.is_some() {
            let label = (TOKEN_FINGERPRINT_LABEL.into(), fingerprint(&secrets.admin_token));
            body.labels.get_or_insert_default().extend([label]);
        }
        let new = New {
            name: frontend.name.clone(),
            body,
            files: match frontend.admin {
                Some(_) => secrets.control_files(cluster),
                None => secrets.frontend_files(cluster),
            },
            further_network: Some(networks.private.clone()),
        };
        let started = run_container(engine, cluster, new, made).await;
        started.map_err(|error| explain_port(error, plan, frontend))?;
    }
    Ok(())
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

/// A container to be made.
struct New {
    name: String,
    body: ContainerCreateBody,
    /// What it finds in its file system.
    files: Vec<File>,
    /// A network that it joins beside the one in `body`, by its id.
    further_network: Option<String>,
}

async fn run_container(
    engine: &Engine,
    cluster: &ClusterName,
    new: New,
    made: &mut Made,
) -> Result<(), ClusterError> {
    let name = new.name;
    let deadline = Instant::now() + GIVES_WAY;
    while engine.create_container(&name, new.body.clone()).await?.is_none() {
        give_way(engine, cluster, &name, made).await?;
        if Instant::now() >= deadline {
            return Err(name_taken("container", name, cluster));
        }
        sleep(POLL).await;
    }
    made.containers.push(name.clone());
    engine.put_files(&name, archive(&new.files)).await?;
    if let Some(network) = new.further_network {
        engine.join_network(&name, &network).await?;
    }
    start_container(engine, &name).await
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
    let (ownership, networks) = engine.container_ownership(name, cluster).await?;
    match ownership {
        Ownership::Absent => Ok(()),
        Ownership::Foreign => Err(name_taken("container", name.to_owned(), cluster)),
        Ownership::Ours => {
            // The other start relies on the volume by now, and on the networks that its container names,
            // whoever made them. Others of these names would only be in its way.
            made.networks.retain(|made| !networks.contains(made));
            made.volume = None;
            Err(ClusterError::StartedElsewhere(cluster.clone()))
        }
    }
}

pub(super) fn name_taken(kind: &'static str, name: String, cluster: &ClusterName) -> ClusterError {
    ClusterError::NameTaken {
        kind,
        name,
        cluster: cluster.clone(),
    }
}

fn redis_body(plan: &StartPlan, networks: &Networks) -> ContainerCreateBody {
    let cluster = &plan.cluster;
    let mut labels = role_labels(cluster, labels::ROLE_REDIS);
    labels.insert(MODEL_NETWORK_LABEL.into(), networks.model.clone());
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
        cmd: Some(
            ["--appendonly", "yes", "--include", REDIS_FILE]
                .map(str::to_owned)
                .into(),
        ),
        // Redis writes where it is started, and not every image starts it on the volume.
        working_dir: Some("/data".into()),
        labels: Some(labels),
        host_config: Some(host_config(&networks.private, vec![data])),
        ..Default::default()
    }
}

fn frontend_body(
    plan: &StartPlan,
    frontend: &Frontend,
    socket: &str,
    networks: &Networks,
) -> ContainerCreateBody {
    let cluster = &plan.cluster;
    let socket = frontend.admin.map(|_| Mount {
        target: Some("/var/run/docker.sock".into()),
        source: Some(socket.to_owned()),
        typ: Some(MountType::BIND),
        ..Default::default()
    });
    let published = frontend.published();
    let mut host_config = host_config(&networks.model, socket.into_iter().collect());
    host_config.port_bindings = Some(published.iter().copied().map(binding).collect());
    let mut labels = role_labels(cluster, labels::ROLE_FRONTEND);
    labels.extend(
        frontend
            .admin
            .map(|port| (ADMIN_PORT_LABEL.into(), port.to_string())),
    );
    let exposed = published.iter().map(|&(inside, _)| container_port(inside));
    ContainerCreateBody {
        image: Some(plan.frontend_image.clone()),
        cmd: Some(frontend_arguments(cluster, frontend, &networks.gateways)),
        // The image names a store of its own there, which would win over the file; an empty variable is none.
        env: Some(vec!["SKYSAIL_STORE=".into()]),
        exposed_ports: Some(exposed.collect()),
        labels: Some(labels),
        host_config: Some(host_config),
        ..Default::default()
    }
}

/// Query and admin listen inside on the numbers they are published by, so that the addresses which the
/// admin API names are right outside as well.
fn frontend_arguments(cluster: &ClusterName, frontend: &Frontend, gateways: &[String]) -> Vec<String> {
    let mut pairs = vec![
        ("--config", FRONTEND_FILE.to_owned()),
        ("--cluster", cluster.to_string()),
    ];
    let roles = match (frontend.query, frontend.admin) {
        (Some(_), Some(_)) => "query,control",
        (Some(_), None) => "query",
        (None, _) => "control",
    };
    pairs.push(("--roles", roles.into()));
    if let Some((query_port, _)) = frontend.query {
        pairs.push(("--query-addr", format!("0.0.0.0:{query_port}")));
        pairs.push(("--rpc-addr", format!("0.0.0.0:{RPC_PORT}")));
        pairs.push(("--rpc-advertise", format!("{}:{RPC_PORT}", frontend.name)));
    }
    pairs.push(("--ops-addr", format!("0.0.0.0:{}", frontend.ops)));
    if let Some(admin_port) = frontend.admin {
        pairs.push(("--runtime", "docker".into()));
        pairs.push(("--admin-addr", format!("0.0.0.0:{admin_port}")));
        pairs.push(("--admin-token-file", ADMIN_TOKEN_FILE.into()));
    }
    pairs.push(("--model-network", gateways.join(",")));
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
fn explain_port(error: ClusterError, plan: &StartPlan, frontend: &Frontend) -> ClusterError {
    let ClusterError::Engine { reason, .. } = &error else {
        return error;
    };
    if !reason.contains("already allocated") && !reason.contains("already in use") {
        return error;
    }
    let chosen = |port, choice: PortChoice| {
        // A port that was found is not the person's to change; the next attempt finds another.
        (choice.port != 0).then_some(PortChoice { port, ..choice })
    };
    let query = frontend.query.and_then(|(port, _)| chosen(port, plan.query_port));
    let rpc = frontend.query.and_then(|(_, port)| chosen(port, plan.rpc_port));
    let admin = frontend.admin.and_then(|port| chosen(port, plan.admin_port));
    let ops = chosen(frontend.ops, plan.ops_port);
    let names = |choice: &PortChoice| reason.contains(&format!(":{} ", choice.port));
    let choices = [query, admin, rpc, ops].into_iter().flatten();
    let mut choices = choices;
    choices.find(names).map_or(error, taken)
}

/// Ctrl-C and its like, listened to from the beginning: one that comes while something is being made is heard
/// when that is done, so that all that was made is known and removed.
struct Interrupt(EndSignals);

impl Interrupt {
    fn listen() -> Result<Self, ClusterError> {
        let listening = EndSignals::listen().map_err(ClusterError::NoSignals)?;
        Ok(Self(listening))
    }

    /// Runs to the end, or until Ctrl-C.
    async fn or<T>(
        &mut self,
        work: impl Future<Output = Result<T, ClusterError>>,
    ) -> Result<T, ClusterError> {
        tokio::select! {
            biased;
            _ = self.0.next() => Err(ClusterError::Interrupted),
            outcome = work => outcome,
        }
    }
}

/// Waits until every frontend can serve queries, and the admin API answers and sees them all.
async fn until_ready(
    engine: &Engine,
    plan: &StartPlan,
    frontends: &[Frontend],
    admin: &AdminClient,
) -> Result<(), ClusterError> {
    let (cluster, at_most) = (&plan.cluster, plan.at_most);
    let deadline = Instant::now() + at_most;
    loop {
        let Err((frontend, missing)) = look(frontends, admin).await else {
            return Ok(());
        };
        if let Some((container, what)) = unstable(engine, cluster, frontends).await? {
            return Err(not_ready(engine, &container, what).await);
        }
        if Instant::now() >= deadline {
            let at_most = humantime::format_duration(at_most);
            let what = format!(
                "{} is not ready after {at_most}: {missing}",
                called(frontend, frontends)
            );
            return Err(not_ready(engine, &frontend.name, what).await);
        }
        sleep(POLL).await;
    }
}

/// The container of a cluster that does not stay up, and how it ends. Redis is looked at first: without
/// it the frontends are well and wait.
async fn unstable(
    engine: &Engine,
    cluster: &ClusterName,
    frontends: &[Frontend],
) -> Result<Option<(String, String)>, ClusterError> {
    let redis = ("Redis".to_owned(), labels::redis_container(cluster));
    let frontends = frontends
        .iter()
        .map(|frontend| (called(frontend, frontends), frontend.name.clone()));
    for (what, name) in [redis].into_iter().chain(frontends) {
        let container = engine.inspect(&name).await?;
        if container.restart_count.unwrap_or(0) >= RESTARTS {
            let code = container.state.and_then(|state| state.exit_code);
            return Ok(Some((name, exit_words(&what, code))));
        }
    }
    Ok(None)
}

/// What a frontend is called before a person: the only one needs no name.
fn called(frontend: &Frontend, all: &[Frontend]) -> String {
    match all {
        [_] => "the frontend".into(),
        _ => format!("frontend {}", frontend.name),
    }
}

async fn not_ready(engine: &Engine, container: &str, what: String) -> ClusterError {
    let log = engine.last_lines(container, LOG_LINES).await;
    ClusterError::NotReady { what, log }
}

/// The first frontend with which something is missing, and what.
async fn look<'a>(frontends: &'a [Frontend], admin: &AdminClient) -> Result<(), (&'a Frontend, String)> {
    for frontend in frontends {
        let looked = async {
            if let Some((query_port, _)) = frontend.query {
                QueryClient::new(local_url(query_port)).ready().await?;
            }
            if frontend.admin.is_none() {
                return Ok(frontends.len());
            }
            let status = admin.status().await?.read()?;
            Ok(status.frontends.len())
        };
        match looked.await {
            Ok(seen) if seen >= frontends.len() => {}
            Ok(seen) => {
                let missing = format!("it sees {seen} of {} frontends", frontends.len());
                return Err((frontend, missing));
            }
            Err(error) => {
                let error: ClientError = error;
                return Err((frontend, error.to_string()));
            }
        }
    }
    Ok(())
}

fn exit_words(what: &str, code: Option<i64>) -> String {
    let code = code.map_or_else(|| "unknown".to_owned(), |code| code.to_string());
    format!("{what} exits again and again (exit code {code})")
}

/// The URL of a port on this machine.
pub(super) fn local_url(port: u16) -> Url {
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
        let control = [
            labels::frontend_container(cluster),
            labels::control_container(cluster),
        ];
        let started_replicas = control.iter().any(|name| self.containers.contains(name));
        let is_ours = |container: &Container| {
            let replica = container.role == labels::ROLE_REPLICA;
            self.containers.contains(&container.name) || (replica && started_replicas)
        };
        remove_containers(engine, cluster, is_ours, UNDO_GRACE).await?;
        for network in &self.networks {
            engine.remove_network(network).await?;
        }
        if let Some(volume) = &self.volume {
            engine.remove_volume(volume).await?;
        }
        if let Some(admin_url) = &self.token_kept_for {
            Credentials::of_user()?.forget(admin_url)?;
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
            frontends: NonZeroUsize::MIN,
            query_port: port(1337, "--query-port"),
            admin_port: port(1338, "--admin-port"),
            rpc_port: port(7000, "--rpc-port"),
            ops_port: port(1341, "--ops-port"),
            keep_data: false,
            at_most: Duration::from_secs(60),
        }
    }

    fn addresses(frontends: usize) -> Addresses {
        Addresses {
            query_ports: [1337, 1339][..frontends].to_vec(),
            admin_port: 1338,
            rpc_ports: [7001, 7002][..frontends].to_vec(),
            ops_ports: [1341, 1342, 1343][..containers_for(frontends)].to_vec(),
        }
    }

    fn networks() -> Networks {
        Networks {
            model: "net".into(),
            gateways: vec!["172.18.0.1/16".into(), "fd00::1/64".into()],
            private: "private".into(),
        }
    }

    fn frontends(count: usize) -> Vec<Frontend> {
        Frontend::all(&plan().cluster, &addresses(count))
    }

    #[test]
    fn a_frontend_is_told_its_store_its_roles_its_runtime_and_its_addresses() {
        let gateways = networks().gateways;
        let told = |frontend: &Frontend| frontend_arguments(&plan().cluster, frontend, &gateways).join(" ");
        let store = "--config /skysail/frontend.toml --cluster blue";
        let guarded = "--admin-token-file /skysail/admin-token --model-network 172.18.0.1/16,fd00::1/64";
        let [only] = &frontends(1)[..] else {
            panic!("one container");
        };
        assert_eq!(only.name, "blue-frontend");
        let expected = format!(
            "{store} --roles query,control --query-addr 0.0.0.0:1337 --rpc-addr 0.0.0.0:7000 \
             --rpc-advertise blue-frontend:7000 --ops-addr 0.0.0.0:1341 --runtime docker --admin-addr 0.0.0.0:1338 {guarded}"
        );
        assert_eq!(told(only), expected);

        let [first, second, control] = &frontends(2)[..] else {
            panic!("three containers");
        };
        let names = [&*first.name, &*second.name, &*control.name];
        assert_eq!(names, ["blue-frontend-1", "blue-frontend-2", "blue-control"]);
        let expected = format!(
            "{store} --roles query --query-addr 0.0.0.0:1339 --rpc-addr 0.0.0.0:7000 \
             --rpc-advertise blue-frontend-2:7000 --ops-addr 0.0.0.0:1342 --model-network 172.18.0.1/16,fd00::1/64"
        );
        assert_eq!(told(second), expected);
        let expected = format!(
            "{store} --roles control --ops-addr 0.0.0.0:1343 --runtime docker --admin-addr 0.0.0.0:1338 {guarded}"
        );
        assert_eq!(told(control), expected);
    }

    #[test]
    fn ports_are_published_on_this_machine_only() {
        let body = frontend_body(&plan(), &frontends(1)[0], "/run/docker.sock", &networks());
        let bindings = body.host_config.unwrap().port_bindings.unwrap();
        let expected = [
            ("1337/tcp", "1337"),
            ("1338/tcp", "1338"),
            ("1341/tcp", "1341"),
            ("7000/tcp", "7001"),
        ];
        for (inside, outside) in expected {
            let host = &bindings[inside].as_ref().unwrap()[0];
            assert_eq!(host.host_ip.as_deref(), Some("127.0.0.1"));
            assert_eq!(host.host_port.as_deref(), Some(outside));
        }
    }

    #[test]
    fn only_the_control_role_is_given_dockers_socket() {
        for (frontend, given) in frontends(2).iter().zip([false, false, true]) {
            let body = frontend_body(&plan(), frontend, "/run/docker.sock", &networks());
            let host_config = body.host_config.unwrap();
            assert_eq!(!host_config.mounts.unwrap().is_empty(), given, "{frontend:?}");
            let bindings = host_config.port_bindings.unwrap();
            assert_eq!(bindings.contains_key("1338/tcp"), given, "{frontend:?}");
            assert_eq!(bindings.contains_key("7000/tcp"), !given, "{frontend:?}");
        }
    }

    #[test]
    fn every_frontend_has_ports_of_its_own() {
        let mut plan = plan();
        plan.frontends = 3.try_into().unwrap();
        plan.query_port.port = 0;
        plan.admin_port.port = 0;
        plan.rpc_port.port = 0;
        plan.ops_port.port = 0;
        let found = Addresses::claim(&plan).unwrap();
        let counts = [&found.query_ports, &found.rpc_ports, &found.ops_ports].map(Vec::len);
        assert_eq!(counts, [3, 3, 4]);
        plan.query_port.port = 65534;
        let refused = Addresses::claim(&plan).unwrap_err();
        assert!(matches!(refused, ClusterError::TooManyFrontends(3)), "{refused}");
    }

    #[test]
    fn redis_takes_its_arguments_only_and_is_not_published() {
        let body = redis_body(&plan(), &networks());
        assert_eq!(
            body.cmd.unwrap(),
            ["--appendonly", "yes", "--include", "/skysail/redis.conf"]
        );
        let host_config = body.host_config.unwrap();
        assert_eq!(host_config.network_mode.as_deref(), Some("private"));
        assert!(host_config.port_bindings.is_none());
        let data = &host_config.mounts.unwrap()[0];
        assert_eq!(data.source.as_deref(), Some("blue-redis-data"));
        assert_eq!(data.target.as_deref(), Some("/data"));
    }

    #[test]
    fn only_a_cluster_that_asks_for_it_keeps_its_data() {
        let mut plan = plan();
        assert!(
            !redis_body(&plan, &networks())
                .labels
                .unwrap()
                .contains_key(KEEP_DATA_LABEL)
        );
        plan.keep_data = true;
        assert!(
            redis_body(&plan, &networks())
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
        let explained = explain_port(refusal(taken), &plan(), &frontends(1)[0]);
        assert!(matches!(
            explained,
            ClusterError::PortTaken {
                port: 1338,
                option: "--admin-port"
            }
        ));
        let other = explain_port(refusal("no space left on device"), &plan(), &frontends(1)[0]);
        assert!(matches!(other, ClusterError::Engine { .. }));
    }
}

//! A cluster whose every part is a container: Redis, frontends for queries, candidates for the control role,
//! and the replicas these start. Any part can be killed, stopped, restarted and cut off, and started again
//! as a supervisor would.
//!
//! There are two networks. The parts of the cluster speak over the cluster's own, which a part can be cut
//! from; this process speaks to frontends over another, so that it sees what a cut frontend answers.

use std::collections::HashMap;
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;

use bollard::Docker;
use bollard::errors::Error;
use bollard::models::{
    ContainerCreateBody, HostConfig, Mount, MountType, NetworkConnectRequest, NetworkCreateRequest,
    NetworkDisconnectRequest,
};
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, KillContainerOptionsBuilder, RestartContainerOptionsBuilder,
    StartContainerOptions,
};
use serde_json::{Value, json};
use skysail_core::cluster::FrontendView;
use skysail_frontend::store::AnnouncementStore;
use skysail_proto::ids::ClusterName;
use skysail_proto::labels;
use tempfile::TempDir;

use crate::deployment::Deployment;
use crate::docker::{Container, DockerCluster, image, redis_image};
use crate::followed_store::FollowedStore;
use crate::frontends::answers;
use crate::load::{Load, Running};
use crate::rest::Rest;
use crate::wait::{self, PATIENCE};

pub mod desired;

const QUERY_PORT: u16 = 1337;
const ADMIN_PORT: u16 = 1338;
const RPC_PORT: u16 = 7000;
const REDIS_PORT: u16 = 6379;

/// What its admin APIs ask for: all of them listen where others reach them.
const ADMIN_TOKEN: &str = "the-token-of-a-contained-cluster";

/// How long a part that is restarted may take to end, in seconds.
const RESTART_GRACE: i32 = 10;

/// How many frontends.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Those that answer queries.
    pub query: usize,
    /// Candidates for the control role.
    pub control: usize,
}

/// A running cluster. Dropping it removes all that Docker holds of it.
pub struct ContainedCluster {
    docker: DockerCluster,
    engine: Docker,
    query: Vec<String>,
    control: Vec<String>,
    watch: Option<Watch>,
    /// A folder with the admin token.
    folder: TempDir,
}

/// What frontends announce, read in the store itself: what each of them sees.
struct Watch {
    store: FollowedStore,
    addr: SocketAddr,
}

impl ContainedCluster {
    /// Starts Redis and the frontends, and waits until all are ready.
    pub async fn start(size: Size) -> Self {
        let docker = DockerCluster::new();
        let names = |role: &str, count| {
            (0..count)
                .map(|place| format!("{}-{role}-{place}", docker.name()))
                .collect()
        };
        let cluster = Self {
            query: names("query", size.query),
            control: names("control", size.control),
            engine: Docker::connect_with_defaults().expect("where docker is"),
            docker,
            watch: None,
            folder: tempfile::tempdir().expect("a temporary folder"),
        };
        fs::write(cluster.token_file(), ADMIN_TOKEN).expect("the token is written");
        cluster.make_networks().await;
        cluster.make_redis().await;
        for name in cluster.query.clone() {
            cluster.make_frontend(&name, "query", "none").await;
        }
        for name in cluster.control.clone() {
            cluster.make_frontend(&name, "control", "docker").await;
        }
        for place in 0..size.query {
            cluster.query_ready(place).await;
        }
        for place in 0..size.control {
            cluster.control_ready(place).await;
        }
        cluster
    }

    /// What Docker holds of it.
    pub fn docker(&self) -> &DockerCluster {
        &self.docker
    }

    /// The containers of the query frontends.
    pub fn query(&self) -> &[String] {
        &self.query
    }

    /// The containers of the candidates for the control role.
    pub fn control(&self) -> &[String] {
        &self.control
    }

    /// The container of Redis.
    pub fn redis(&self) -> String {
        labels::redis_container(&self.name())
    }

    /// The containers of replicas, running or not.
    pub async fn replicas(&self) -> Vec<Container> {
        self.docker.with_role(labels::ROLE_REPLICA).await
    }

    /// The query API of a frontend.
    pub async fn queries(&self, place: usize) -> Rest {
        Rest::at(self.query_address(place).await)
    }

    /// Where a query frontend answers this process.
    pub async fn query_address(&self, place: usize) -> SocketAddr {
        self.address(&self.query[place], QUERY_PORT).await
    }

    /// The admin API of a candidate for the control role.
    pub async fn admin(&self, place: usize) -> Rest {
        let addr = self.address(&self.control[place], ADMIN_PORT).await;
        Rest::at(addr).with_token(ADMIN_TOKEN)
    }

    /// Waits until a query frontend is ready.
    pub async fn query_ready(&self, place: usize) {
        self.ready(&self.query[place], QUERY_PORT).await;
    }

    /// Waits until a candidate for the control role is ready.
    pub async fn control_ready(&self, place: usize) {
        self.ready(&self.control[place], ADMIN_PORT).await;
    }

    /// Registers the load's application over this deployment, and waits until every frontend answers from it.
    pub async fn serve(&self, load: &Load, deployment: &Deployment) {
        let Load {
            application,
            default_output,
            slo,
            ..
        } = load;
        let admin = self.admin(0).await;
        for name in [application, desired::PROBE] {
            let body = json!({
                "name": name,
                "input_type": deployment.input_type,
                "default_output": default_output,
                "slo_micros": u64::try_from(slo.as_micros()).expect("an SLO of less than ages"),
            });
            admin.post("/api/v1/applications", body).await.expect(201);
        }
        let versions = format!("/api/v1/models/{}/versions", deployment.model);
        admin.post(&versions, deployment.body()).await.expect(201);
        for name in [application, desired::PROBE] {
            let link = format!("/api/v1/applications/{name}/models/{}", deployment.model);
            admin.put(&link, Value::Null).await.expect(200);
        }
        for place in 0..self.query.len() {
            answers(&self.queries(place).await, application).await;
        }
    }

    /// Begins to send a load to all query frontends.
    pub async fn offer(&self, load: Load) -> Running {
        let mut frontends = Vec::new();
        for place in 0..self.query.len() {
            frontends.push(self.query_address(place).await);
        }
        load.start(frontends)
    }

    /// Ends a part at once. Nobody starts it again, unless it is a replica.
    pub async fn kill(&self, container: &str) {
        self.signal(container, "SIGKILL").await;
    }

    /// Sends a part a signal; a replica may be gone by now.
    pub async fn signal(&self, container: &str, signal: &str) {
        let options = KillContainerOptionsBuilder::new().signal(signal).build();
        done_or_gone(self.engine.kill_container(container, Some(options)).await);
    }

    /// Starts a part that was killed again.
    pub async fn start_again(&self, container: &str) {
        let started = self
            .engine
            .start_container(container, None::<StartContainerOptions>);
        started.await.expect("a container can be started again");
    }

    /// Asks a part to end, and starts it again; a replica may be gone by then.
    pub async fn restart(&self, container: &str) {
        let options = RestartContainerOptionsBuilder::new().t(RESTART_GRACE).build();
        done_or_gone(self.engine.restart_container(container, Some(options)).await);
    }

    /// Takes a part off the cluster's network: what is sent to it is dropped.
    pub async fn cut(&self, container: &str) {
        let request = NetworkDisconnectRequest {
            container: container.to_owned(),
            force: Some(true),
        };
        let network = labels::network_name(&self.name());
        done_or_gone(self.engine.disconnect_network(&network, request).await);
    }

    /// Puts a part that was cut off back on the network, perhaps at another address.
    pub async fn mend(&self, container: &str) {
        let request = NetworkConnectRequest {
            container: container.to_owned(),
            endpoint_config: None,
        };
        let network = labels::network_name(&self.name());
        done_or_gone(self.engine.connect_network(&network, request).await);
    }

    /// Has Redis run a command, its words separated by spaces.
    pub async fn tell_redis(&self, command: &str) {
        let addr = self.address(&self.redis(), REDIS_PORT).await;
        let told = async {
            let client = redis::Client::open(format!("redis://{addr}")).expect("a valid URL");
            let mut connection = client.get_multiplexed_async_connection().await?;
            let mut words = command.split(' ');
            let mut request = redis::cmd(words.next().expect("a command"));
            for word in words {
                request.arg(word);
            }
            request.query_async::<redis::Value>(&mut connection).await
        };
        told.await.unwrap_or_else(|error| panic!("{command}: {error}"));
    }

    /// The same with a key of the cluster as the second word, as in `UNLINK models`.
    pub async fn tell_redis_of_keys(&self, command: &str) {
        let (command, rest) = command.split_once(' ').expect("a key");
        self.tell_redis(&format!("{command} {{skysail:{}}}:{rest}", self.name()))
            .await;
    }

    /// Has the frontends write back what Redis lost, as a person does once that is told of.
    pub async fn restore(&self) {
        wait::until("what was lost to be written back", PATIENCE, async || {
            let mut restored = false;
            for place in 0..self.control.len() {
                let Some(addr) = self.find_address(&self.control[place], ADMIN_PORT).await else {
                    continue;
                };
                let admin = Rest::at(addr).with_token(ADMIN_TOKEN);
                let asked = admin.send(reqwest::Method::POST, "/api/v1/cluster/restore", "");
                restored |= asked.await.is_ok_and(|reply| reply.status == 200);
            }
            restored
        })
        .await;
    }

    /// What each frontend announces, as far as the store can be asked; nothing if it cannot.
    pub async fn views(&mut self) -> Vec<FrontendView> {
        let Some(addr) = self.find_address(&self.redis(), REDIS_PORT).await else {
            return Vec::new();
        };
        let watch = match self.watch.take() {
            Some(watch) if watch.addr == addr => watch,
            _ => {
                let store = FollowedStore::connect(&format!("redis://{addr}/0"), &self.name());
                Watch {
                    store: store.expect("a valid URL"),
                    addr,
                }
            }
        };
        let announced = watch.store.announced().borrow().clone();
        self.watch = Some(watch);
        let views = announced.values().map(|text| serde_json::from_str(text));
        views
            .map(|view| view.expect("frontends announce views"))
            .collect()
    }

    fn token_file(&self) -> PathBuf {
        self.folder.path().join("admin-token")
    }

    fn name(&self) -> ClusterName {
        self.docker.name().parse().expect("a valid name")
    }

    fn clients_network(&self) -> String {
        format!("{}-clients", self.docker.name())
    }

    fn labels(&self, role: &str) -> HashMap<String, String> {
        let cluster = (labels::CLUSTER.to_owned(), self.docker.name().to_owned());
        HashMap::from([cluster, (labels::ROLE.to_owned(), role.to_owned())])
    }

    async fn make_networks(&self) {
        for name in [labels::network_name(&self.name()), self.clients_network()] {
            let request = NetworkCreateRequest {
                name,
                driver: Some("bridge".to_owned()),
                labels: Some(self.labels("network")),
                ..NetworkCreateRequest::default()
            };
            self.engine.create_network(request).await.expect("a network");
        }
    }

    async fn make_redis(&self) {
        // What it was told survives its end, in the container's own layer.
        let words = ["--appendonly", "yes", "--appendfsync", "always"];
        let body = ContainerCreateBody {
            image: Some(redis_image().await),
            cmd: Some(words.map(str::to_owned).to_vec()),
            labels: Some(self.labels(labels::ROLE_REDIS)),
            ..ContainerCreateBody::default()
        };
        self.make(&self.redis(), body, Vec::new()).await;
    }

    async fn make_frontend(&self, name: &str, roles: &str, runtime: &str) {
        let advertised = match roles {
            "query" => name,
            _ => &self.query[0],
        };
        let flags = [
            ("--roles", roles.to_owned()),
            ("--runtime", runtime.to_owned()),
            ("--cluster", self.docker.name().to_owned()),
            ("--store", format!("redis://{}:{REDIS_PORT}/0", self.redis())),
            ("--rpc-advertise", format!("{advertised}:{RPC_PORT}")),
            ("--admin-token-file", "/admin-token".to_owned()),
        ];
        let token = Mount {
            target: Some("/admin-token".to_owned()),
            source: Some(self.token_file().to_str().expect("text").to_owned()),
            typ: Some(MountType::BIND),
            read_only: Some(true),
            ..Mount::default()
        };
        let socket = Mount {
            target: Some("/var/run/docker.sock".to_owned()),
            source: Some("/var/run/docker.sock".to_owned()),
            typ: Some(MountType::BIND),
            ..Mount::default()
        };
        let body = ContainerCreateBody {
            image: Some(image("frontend").await),
            cmd: Some(flags.map(|(flag, value)| format!("{flag}={value}")).to_vec()),
            labels: Some(self.labels(labels::ROLE_FRONTEND)),
            ..ContainerCreateBody::default()
        };
        let mut mounts = vec![token];
        mounts.extend((runtime == "docker").then_some(socket));
        self.make(name, body, mounts).await;
    }

    /// Makes a container that is on both networks, and starts it.
    async fn make(&self, name: &str, mut body: ContainerCreateBody, mounts: Vec<Mount>) {
        body.host_config = Some(HostConfig {
            network_mode: Some(self.clients_network()),
            mounts: Some(mounts),
            ..HostConfig::default()
        });
        let named = CreateContainerOptionsBuilder::new().name(name).build();
        let created = self.engine.create_container(Some(named), body).await;
        created.unwrap_or_else(|error| panic!("container {name} cannot be made: {error}"));
        self.mend(name).await;
        self.start_again(name).await;
    }

    async fn ready(&self, container: &str, port: u16) {
        wait::until(&format!("{container} to be ready"), PATIENCE, async || {
            self.says_ready(container, port).await
        })
        .await;
    }

    async fn says_ready(&self, container: &str, port: u16) -> bool {
        let Some(addr) = self.find_address(container, port).await else {
            return false;
        };
        let asked = desired::asked(addr, "/readyz").await;
        asked.is_some_and(|reply| reply.status == 200 && reply.json()["degraded"] == json!([]))
    }

    async fn address(&self, container: &str, port: u16) -> SocketAddr {
        let what = format!("{container} to have an address");
        wait::find(&what, PATIENCE, async || self.find_address(container, port).await).await
    }

    /// Where this process reaches a container; nowhere if it does not run.
    async fn find_address(&self, container: &str, port: u16) -> Option<SocketAddr> {
        let networks = self.docker.inspect(container).await.network_settings?.networks?;
        let ip = networks.get(&self.clients_network())?.ip_address.as_ref()?;
        Some(SocketAddr::new(ip.parse().ok()?, port))
    }
}

/// What is asked of a container that may be gone by now, or about to go.
fn done_or_gone(asked: Result<(), Error>) {
    match asked {
        Ok(()) => {}
        Err(Error::DockerResponseServerError {
            status_code: 404 | 409,
            ..
        }) => {}
        // Old engines call a container that is just ending an error of theirs.
        Err(Error::DockerResponseServerError {
            status_code: 500,
            message,
        }) if message.contains("is not running") || message.contains("is not connected") => {}
        Err(error) => panic!("docker refuses: {error}"),
    }
}

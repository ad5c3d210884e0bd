//! The few things that are asked of Docker, in the words of a cluster.

use std::collections::HashMap;
use std::time::Duration;
use std::{fmt, io};

use bollard::Docker;
use bollard::errors::Error as DockerError;
use bollard::models::{
    ContainerConfig, ContainerCreateBody, ContainerInspectResponse, ContainerSummary,
    ContainerSummaryStateEnum, CreateImageInfo, IpamConfig, NetworkConnectRequest, NetworkCreateRequest,
    VolumeCreateRequest,
};
use bollard::query_parameters::{
    CommitContainerOptions, CreateContainerOptions, CreateImageOptions, ListContainersOptions,
    ListNetworksOptions, ListVolumesOptions, LogsOptions, RemoveContainerOptions, RemoveVolumeOptions,
    StopContainerOptions, UploadToContainerOptions,
};
use bytes::Bytes;
use futures::{Stream, StreamExt};
use jiff::Timestamp;
use skysail_process::variables;
use skysail_proto::ids::ClusterName;
use skysail_proto::labels;
use tokio::time::timeout;

use super::{ADMIN_PORT_LABEL, ClusterError, KEEP_DATA_LABEL, MODEL_NETWORK_LABEL, TOKEN_FINGERPRINT_LABEL};
use crate::progress::Progress;

/// An engine that runs answers at once.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long a registry may say nothing before a pull has begun: where there is no network, people should
/// hear of it within seconds.
const REGISTRY_PATIENCE: Duration = Duration::from_secs(20);

/// How long a pull that has begun may stand still.
const PULL_PATIENCE: Duration = Duration::from_secs(120);

/// How long a large file may take to be put into a container, or an image to be made of it.
const FILE_PATIENCE: Duration = Duration::from_secs(3600);

/// Where the socket is if nobody says.
const DEFAULT_SOCKET: &str = "/var/run/docker.sock";

/// A Docker engine on this machine.
#[derive(Clone, Debug)]
pub(crate) struct Engine {
    docker: Docker,
    socket: String,
}

/// A container of a cluster.
#[derive(Clone, Debug)]
pub(super) struct Container {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) role: String,
    pub(super) running: bool,
    /// Whether it asks for the cluster's data to be kept.
    pub(super) keeps_data: bool,
    /// With the control role: the port of its admin API on this machine.
    pub(super) admin_port: Option<u16>,
    /// With the control role: the fingerprint of its admin token.
    pub(super) token_fingerprint: Option<String>,
}

/// A network. Old engines allow several of one name, so that only the id says which.
#[derive(Clone, Debug)]
pub(super) struct Network {
    pub(super) id: String,
    pub(super) name: String,
    /// Whether it carries the cluster's label.
    pub(super) ours: bool,
    /// The addresses of its gateway, each with the length of the subnet's prefix: `172.18.0.1/16`.
    pub(super) gateways: Vec<String>,
    created: Option<Timestamp>,
}

/// The name of an image that is made of a container.
pub(crate) struct Commit {
    pub(crate) repository: String,
    pub(crate) tag: String,
}

impl fmt::Display for Commit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.repository, self.tag)
    }
}

/// How far a network reaches.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Reach {
    /// Its members reach the world, and ports of theirs can be published.
    World,
    /// Its members reach each other, and nobody else.
    Members,
}

/// What has a name: something that carries the cluster's label, or something else.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Ownership {
    Absent,
    Ours,
    Foreign,
}

impl Engine {
    /// Connects, and settles on an API version that both sides know.
    pub(crate) async fn connect() -> Result<Self, ClusterError> {
        let socket = socket_path(variables::read("DOCKER_HOST"))?;
        let unreachable = |reason: String| ClusterError::NoDocker {
            address: socket.clone(),
            reason,
        };
        let docker = Docker::connect_with_unix(&socket, 120, bollard::API_DEFAULT_VERSION)
            .map_err(|error| unreachable(words(&error)))?;
        let docker = match timeout(PATIENCE, docker.negotiate_version()).await {
            Ok(Ok(docker)) => docker,
            Ok(Err(error)) => return Err(unreachable(words(&error))),
            Err(_) => return Err(unreachable("it does not answer".into())),
        };
        Ok(Self { docker, socket })
    }

    /// The path of the socket, to be mounted into the frontend.
    pub(super) fn socket(&self) -> &str {
        &self.socket
    }

    /// All containers that carry the cluster's label, running or not.
    pub(super) async fn containers(&self, cluster: &ClusterName) -> Result<Vec<Container>, ClusterError> {
        let options = ListContainersOptions {
            all: true,
            filters: Some(of_cluster(cluster)),
            ..Default::default()
        };
        let listed = self.docker.list_containers(Some(options)).await;
        let listed = listed.map_err(failed("list containers"))?;
        Ok(listed.into_iter().filter_map(Container::of).collect())
    }

    /// All networks that carry the cluster's label.
    pub(super) async fn networks(&self, cluster: &ClusterName) -> Result<Vec<Network>, ClusterError> {
        self.list_networks(of_cluster(cluster), cluster).await
    }

    /// All networks of this name, whoever they belong to, the oldest first.
    pub(super) async fn networks_named(
        &self,
        name: &str,
        cluster: &ClusterName,
    ) -> Result<Vec<Network>, ClusterError> {
        let named = HashMap::from([("name".to_owned(), vec![name.to_owned()])]);
        let mut networks = self.list_networks(named, cluster).await?;
        // The engine's filter takes every name that contains this one.
        networks.retain(|network| network.name == name);
        networks.sort_by_key(|network| (network.created, network.id.clone()));
        Ok(networks)
    }

    async fn list_networks(
        &self,
        filters: HashMap<String, Vec<String>>,
        cluster: &ClusterName,
    ) -> Result<Vec<Network>, ClusterError> {
        let options = ListNetworksOptions {
            filters: Some(filters),
        };
        let listed = self.docker.list_networks(Some(options)).await;
        let listed = listed.map_err(failed("list networks"))?;
        let networks = listed
            .into_iter()
            .filter_map(|network| Network::of(network, cluster));
        Ok(networks.collect())
    }

    /// The names of all volumes that carry the cluster's label.
    pub(super) async fn volumes(&self, cluster: &ClusterName) -> Result<Vec<String>, ClusterError> {
        let options = ListVolumesOptions {
            filters: Some(of_cluster(cluster)),
        };
        let listed = self.docker.list_volumes(Some(options)).await;
        let listed = listed.map_err(failed("list volumes"))?;
        let volumes = listed.volumes.unwrap_or_default();
        Ok(volumes.into_iter().map(|volume| volume.name).collect())
    }

    /// Whether there is a volume of that name, and whose.
    pub(super) async fn volume_ownership(
        &self,
        name: &str,
        cluster: &ClusterName,
    ) -> Result<Ownership, ClusterError> {
        match self.docker.inspect_volume(name).await {
            Ok(volume) => Ok(Ownership::by(&volume.labels, cluster)),
            Err(error) if is_missing(&error) => Ok(Ownership::Absent),
            Err(error) => Err(failed("look at the volume")(error)),
        }
    }

    /// The names of the containers that are connected to a network.
    pub(super) async fn network_members(&self, network: &Network) -> Result<Vec<String>, ClusterError> {
        let network = self.docker.inspect_network(&network.id, None).await;
        let network = network.map_err(failed("look at the network"))?;
        let members = network.containers.unwrap_or_default().into_values();
        Ok(members.filter_map(|member| member.name).collect())
    }

    /// Makes a network and gives its id; `None` if the name is taken, which old engines do not mind.
    pub(super) async fn create_network(
        &self,
        name: &str,
        reach: Reach,
        cluster: &ClusterName,
    ) -> Result<Option<String>, ClusterError> {
        let request = NetworkCreateRequest {
            name: name.to_owned(),
            internal: Some(reach == Reach::Members),
            labels: Some(cluster_label(cluster)),
            ..Default::default()
        };
        match self.docker.create_network(request).await {
            Ok(created) => Ok(Some(created.id)),
            Err(error) if status(&error) == Some(409) => Ok(None),
            Err(error) => Err(failed("create the network")(error)),
        }
    }

    pub(super) async fn create_volume(&self, name: &str, cluster: &ClusterName) -> Result<(), ClusterError> {
        let request = VolumeCreateRequest {
            name: Some(name.to_owned()),
            labels: Some(cluster_label(cluster)),
            ..Default::default()
        };
        let created = self.docker.create_volume(request).await;
        created.map(drop).map_err(failed("create the volume"))
    }

    /// Creates a container; `None` if the name is taken.
    pub(super) async fn create_container(
        &self,
        name: &str,
        body: ContainerCreateBody,
    ) -> Result<Option<()>, ClusterError> {
        let options = CreateContainerOptions {
            name: Some(name.to_owned()),
            ..Default::default()
        };
        match self.docker.create_container(Some(options), body).await {
            Ok(_) => Ok(Some(())),
            Err(error) if status(&error) == Some(409) => Ok(None),
            Err(error) => Err(failed(&format!("create container {name}"))(error)),
        }
    }

    /// Connects a container that was not started yet to a further network: engines before 25 create one in one
    /// network only.
    pub(super) async fn join_network(&self, container: &str, network: &str) -> Result<(), ClusterError> {
        let request = NetworkConnectRequest {
            container: container.to_owned(),
            ..Default::default()
        };
        let connected = self.docker.connect_network(network, request).await;
        connected.map_err(failed(&format!("connect container {container} to its network")))
    }

    /// Puts files into a container that was not started yet; `archive` is a tar, unpacked at its root.
    pub(super) async fn put_files(&self, container: &str, archive: Vec<u8>) -> Result<(), ClusterError> {
        let options = UploadToContainerOptions {
            path: "/".to_owned(),
            ..Default::default()
        };
        let body = bollard::body_full(archive.into());
        let put = self
            .docker
            .upload_to_container(container, Some(options), body)
            .await;
        put.map_err(failed(&format!("put files into container {container}")))
    }

    /// Creates a container that is not to run, under a name that the engine chooses, and gives its id.
    pub(crate) async fn create_unnamed(
        &self,
        image: &str,
        labels: &[(&str, String)],
    ) -> Result<String, ClusterError> {
        let labels = labels
            .iter()
            .map(|(name, value)| ((*name).to_owned(), value.clone()));
        let body = ContainerCreateBody {
            image: Some(image.to_owned()),
            labels: Some(labels.collect()),
            ..Default::default()
        };
        let created = self
            .docker
            .create_container(None::<CreateContainerOptions>, body)
            .await;
        let created = created.map_err(failed(&format!("create a container of `{image}`")))?;
        Ok(created.id)
    }

    /// Puts a tar, as it comes, into a container that was not started; it is unpacked at the root.
    pub(crate) async fn put_archive(
        &self,
        container: &str,
        archive: impl Stream<Item = io::Result<Bytes>> + Send + 'static,
    ) -> Result<(), ClusterError> {
        let options = UploadToContainerOptions {
            path: "/".to_owned(),
            ..Default::default()
        };
        // The file decides how long it takes.
        let patient = self.docker.clone().with_timeout(FILE_PATIENCE);
        let body = bollard::body_try_stream(archive);
        let put = patient.upload_to_container(container, Some(options), body).await;
        put.map_err(failed("put the file into the image"))
    }

    /// Makes an image of a container, with the container's labels, and gives its id.
    pub(crate) async fn commit(&self, container: &str, name: &Commit) -> Result<String, ClusterError> {
        let options = CommitContainerOptions {
            container: Some(container.to_owned()),
            repo: Some(name.repository.clone()),
            tag: Some(name.tag.clone()),
            ..Default::default()
        };
        let patient = self.docker.clone().with_timeout(FILE_PATIENCE);
        let made = patient
            .commit_container(options, ContainerConfig::default())
            .await;
        Ok(made.map_err(failed(&format!("make the image {name}")))?.id)
    }

    /// Removes a container that never ran.
    pub(crate) async fn discard(&self, container: &str) -> Result<(), ClusterError> {
        let removed = self
            .docker
            .remove_container(container, None::<RemoveContainerOptions>)
            .await;
        removed.map_err(failed("remove the container that the image was made of"))
    }

    pub(super) async fn start_container(&self, name: &str) -> Result<(), ClusterError> {
        let started = self.docker.start_container(name, None).await;
        started.map_err(failed(&format!("start container {name}")))
    }

    pub(super) async fn inspect(&self, container: &str) -> Result<ContainerInspectResponse, ClusterError> {
        let inspected = self.docker.inspect_container(container, None).await;
        inspected.map_err(failed(&format!("look at container {container}")))
    }

    /// Whose container has a name, and the networks that whoever made it relies on, by their ids.
    pub(super) async fn container_ownership(
        &self,
        name: &str,
        cluster: &ClusterName,
    ) -> Result<(Ownership, Vec<String>), ClusterError> {
        let found = match self.docker.inspect_container(name, None).await {
            Ok(found) => found,
            Err(error) if is_missing(&error) => return Ok((Ownership::Absent, Vec::new())),
            Err(error) => return Err(failed(&format!("look at container {name}"))(error)),
        };
        let labels = found.config.and_then(|config| config.labels).unwrap_or_default();
        let joined = found.host_config.and_then(|config| config.network_mode);
        let other = labels.get(MODEL_NETWORK_LABEL).cloned();
        let networks = joined.into_iter().chain(other).collect();
        Ok((Ownership::by(&labels, cluster), networks))
    }

    /// Stops a container within `grace` and removes it, with the volumes that only it knows of. One that
    /// is gone, or going, is no error.
    pub(super) async fn remove_container(
        &self,
        container: &Container,
        grace: Duration,
    ) -> Result<(), ClusterError> {
        let stop = StopContainerOptions {
            t: Some(i32::try_from(grace.as_secs()).unwrap_or(i32::MAX)),
            ..Default::default()
        };
        let stopped = self.docker.stop_container(&container.id, Some(stop)).await;
        if let Err(error) = stopped
            && !is_missing(&error)
        {
            return Err(failed(&format!("stop container {}", container.name))(error));
        }
        let remove = RemoveContainerOptions {
            v: true,
            force: true,
            ..Default::default()
        };
        match self.docker.remove_container(&container.id, Some(remove)).await {
            Ok(()) => Ok(()),
            // 409: somebody else is removing it just now.
            Err(error) if is_missing(&error) || status(&error) == Some(409) => Ok(()),
            Err(error) => Err(failed(&format!("remove container {}", container.name))(error)),
        }
    }

    /// Removes a network by its id.
    pub(super) async fn remove_network(&self, id: &str) -> Result<(), ClusterError> {
        match self.docker.remove_network(id).await {
            Err(error) if !is_missing(&error) => Err(failed(&format!("remove network {id}"))(error)),
            _ => Ok(()),
        }
    }

    pub(super) async fn remove_volume(&self, name: &str) -> Result<(), ClusterError> {
        match self.docker.remove_volume(name, None::<RemoveVolumeOptions>).await {
            Err(error) if !is_missing(&error) => Err(failed(&format!("remove volume {name}"))(error)),
            _ => Ok(()),
        }
    }

    /// The last lines of what a container printed; nothing if even that cannot be had.
    pub(super) async fn last_lines(&self, container: &str, count: usize) -> Vec<String> {
        let options = LogsOptions {
            stdout: true,
            stderr: true,
            tail: count.to_string(),
            ..Default::default()
        };
        let pieces = self.docker.logs(container, Some(options));
        let text: String = pieces
            .filter_map(|piece| async { piece.ok().map(|piece| piece.to_string()) })
            .collect()
            .await;
        text.lines().map(str::to_owned).collect()
    }

    /// Makes sure that an image is on this machine; a registry is asked only if it is not.
    pub(crate) async fn have_image(
        &self,
        image: &str,
        option: &'static str,
        progress: &mut Progress,
    ) -> Result<(), ClusterError> {
        match self.docker.inspect_image(image).await {
            Ok(_) => return Ok(()),
            Err(error) if is_missing(&error) => {}
            Err(error) => {
                return Err(ClusterError::Engine {
                    doing: format!("look at the image `{image}` ({option})"),
                    reason: words(&error),
                });
            }
        }
        let pulled = self.pull(image, progress).await;
        pulled.map_err(|reason| ClusterError::Image {
            image: image.to_owned(),
            reason,
            option,
        })
    }

    async fn pull(&self, image: &str, progress: &mut Progress) -> Result<(), String> {
        let options = CreateImageOptions {
            from_image: Some(with_tag(image)),
            ..Default::default()
        };
        let step = format!("pulling {image}");
        progress.say(&step, None);
        let mut events = Box::pin(self.docker.create_image(Some(options), None, None));
        let mut layers = Layers::default();
        let mut patience = REGISTRY_PATIENCE;
        loop {
            match timeout(patience, events.next()).await {
                Ok(None) => return Ok(()),
                Ok(Some(Ok(event))) => layers.observe(event),
                Ok(Some(Err(error))) => return Err(words(&error)),
                Err(_) => return Err(format!("nothing came for {} s", patience.as_secs())),
            }
            patience = PULL_PATIENCE;
            progress.say(&step, layers.share().as_deref());
        }
    }
}

impl Container {
    fn of(summary: ContainerSummary) -> Option<Self> {
        let id = summary.id?;
        let labels = summary.labels.unwrap_or_default();
        let name = summary.names.unwrap_or_default().into_iter().next();
        Some(Self {
            name: name.map_or_else(|| id.clone(), |name| name.trim_start_matches('/').to_owned()),
            id,
            role: labels.get(labels::ROLE).cloned().unwrap_or_default(),
            running: summary.state == Some(ContainerSummaryStateEnum::RUNNING),
            keeps_data: labels.contains_key(KEEP_DATA_LABEL),
            admin_port: labels.get(ADMIN_PORT_LABEL).and_then(|port| port.parse().ok()),
            token_fingerprint: labels.get(TOKEN_FINGERPRINT_LABEL).cloned(),
        })
    }
}

impl Network {
    fn of(network: bollard::models::Network, cluster: &ClusterName) -> Option<Self> {
        let labels = network.labels.unwrap_or_default();
        let parts = network.ipam.and_then(|ipam| ipam.config).unwrap_or_default();
        Some(Self {
            id: network.id?,
            name: network.name?,
            ours: Ownership::by(&labels, cluster) == Ownership::Ours,
            gateways: parts.iter().filter_map(gateway_in_subnet).collect(),
            created: network.created.and_then(|created| created.parse().ok()),
        })
    }
}

impl Ownership {
    fn by(labels: &HashMap<String, String>, cluster: &ClusterName) -> Self {
        if labels.get(labels::CLUSTER).map(String::as_str) == Some(cluster.as_str()) {
            Self::Ours
        } else {
            Self::Foreign
        }
    }
}

/// The gateway's address with the length of its subnet's prefix.
fn gateway_in_subnet(part: &IpamConfig) -> Option<String> {
    let gateway = part.gateway.as_deref().filter(|gateway| !gateway.is_empty())?;
    // Engines write an IPv6 gateway with the prefix already.
    let gateway = gateway.split('/').next().unwrap_or(gateway);
    let (_, prefix) = part.subnet.as_deref()?.split_once('/')?;
    Some(format!("{gateway}/{prefix}"))
}

/// How far each layer of a pull is, in bytes.
#[derive(Default)]
struct Layers {
    bytes: HashMap<String, (i64, i64)>,
}

impl Layers {
    fn observe(&mut self, event: CreateImageInfo) {
        let (Some(layer), Some(detail)) = (event.id, event.progress_detail) else {
            return;
        };
        // Unpacking counts the same bytes again; what is downloaded is what takes long.
        if event.status.as_deref() == Some("Downloading")
            && let (Some(current), Some(total)) = (detail.current, detail.total)
        {
            self.bytes.insert(layer, (current, total));
        } else if let Some((current, total)) = self.bytes.get_mut(&layer) {
            *current = *total;
        }
    }

    /// The share of the known bytes that is here.
    fn share(&self) -> Option<String> {
        let total: i64 = self.bytes.values().map(|(_, total)| total).sum();
        let current: i64 = self.bytes.values().map(|(current, _)| current).sum();
        (total > 0).then(|| format!("{} %", 100 * current / total))
    }
}

/// The path of the engine's socket, by what `DOCKER_HOST` says.
fn socket_path(docker_host: Option<String>) -> Result<String, ClusterError> {
    match docker_host {
        None => Ok(DEFAULT_SOCKET.into()),
        Some(host) if host.is_empty() => Ok(DEFAULT_SOCKET.into()),
        Some(host) => match host.strip_prefix("unix://") {
            Some(path) => Ok(path.to_owned()),
            None => Err(ClusterError::DockerHost(host)),
        },
    }
}

/// An image with its tag, without which Docker's API would pull every tag there is.
fn with_tag(image: &str) -> String {
    let last = image.rsplit('/').next().unwrap_or(image);
    if image.contains('@') || last.contains(':') {
        image.to_owned()
    } else {
        format!("{image}:latest")
    }
}

fn cluster_label(cluster: &ClusterName) -> HashMap<String, String> {
    HashMap::from([(labels::CLUSTER.to_owned(), cluster.to_string())])
}

fn of_cluster(cluster: &ClusterName) -> HashMap<String, Vec<String>> {
    HashMap::from([("label".to_owned(), vec![format!("{}={cluster}", labels::CLUSTER)])])
}

fn status(error: &DockerError) -> Option<u16> {
    match error {
        DockerError::DockerResponseServerError { status_code, .. } => Some(*status_code),
        _ => None,
    }
}

fn is_missing(error: &DockerError) -> bool {
    status(error) == Some(404)
}

fn failed(doing: &str) -> impl FnOnce(DockerError) -> ClusterError + use<'_> {
    move |error| ClusterError::Engine {
        doing: doing.to_owned(),
        reason: words(&error),
    }
}

/// What Docker said, without the wrapping; or else the innermost cause.
fn words(error: &DockerError) -> String {
    match error {
        DockerError::DockerResponseServerError { message, status_code } => match message.trim() {
            // As for a path that the engine would have written otherwise.
            "" => format!("the engine answered {status_code} without a word"),
            words => words.to_owned(),
        },
        DockerError::DockerStreamError { error } => error.trim().to_owned(),
        DockerError::SocketNotFoundError(_) => "there is no such socket".into(),
        other => {
            let mut cause: &dyn std::error::Error = other;
            while let Some(deeper) = cause.source() {
                cause = deeper;
            }
            cause.to_string()
        }
    }
}

#[cfg(test)]
mod tests {
    use bollard::models::ProgressDetail;

    use super::*;

    #[test]
    fn a_refusal_without_words_is_told_by_its_status() {
        let refusal = |message: &str| {
            words(&DockerError::DockerResponseServerError {
                status_code: 301,
                message: message.into(),
            })
        };
        assert_eq!(refusal("\n"), "the engine answered 301 without a word");
        assert_eq!(refusal("no\n"), "no");
    }

    #[test]
    fn an_image_without_a_tag_gets_one() {
        for (image, expected) in [
            ("redis", "redis:latest"),
            ("redis:7-alpine", "redis:7-alpine"),
            ("box:5000/redis", "box:5000/redis:latest"),
            ("box:5000/redis:7", "box:5000/redis:7"),
            ("redis@sha256:00", "redis@sha256:00"),
        ] {
            assert_eq!(with_tag(image), expected);
        }
    }

    #[test]
    fn the_socket_is_where_docker_host_says() {
        assert_eq!(socket_path(None).unwrap(), "/var/run/docker.sock");
        assert_eq!(
            socket_path(Some("unix:///run/d.sock".into())).unwrap(),
            "/run/d.sock"
        );
        assert!(matches!(
            socket_path(Some("tcp://box:2375".into())),
            Err(ClusterError::DockerHost(_))
        ));
    }

    fn event(layer: &str, status: &str, current: i64, total: i64) -> CreateImageInfo {
        CreateImageInfo {
            id: Some(layer.into()),
            status: Some(status.into()),
            progress_detail: Some(ProgressDetail {
                current: Some(current),
                total: Some(total),
            }),
            ..Default::default()
        }
    }

    #[test]
    fn a_pull_is_as_far_as_its_layers_together() {
        let mut layers = Layers::default();
        assert_eq!(layers.share(), None);
        layers.observe(event("a", "Downloading", 10, 100));
        layers.observe(event("b", "Downloading", 50, 100));
        assert_eq!(layers.share().as_deref(), Some("30 %"));
        layers.observe(event("a", "Extracting", 1, 100));
        assert_eq!(layers.share().as_deref(), Some("75 %"));
    }

    #[test]
    fn a_gateway_is_told_with_its_subnet() {
        let part = |subnet: &str, gateway: &str| IpamConfig {
            subnet: Some(subnet.into()),
            gateway: Some(gateway.into()),
            ..Default::default()
        };
        for (subnet, gateway, expected) in [
            ("172.18.0.0/16", "172.18.0.1", Some("172.18.0.1/16")),
            ("fd00:1::/64", "fd00:1::1/64", Some("fd00:1::1/64")),
            ("172.18.0.0/16", "", None),
        ] {
            assert_eq!(gateway_in_subnet(&part(subnet, gateway)).as_deref(), expected);
        }
    }

    #[test]
    fn what_carries_another_clusters_label_is_foreign() {
        let cluster: ClusterName = "blue".parse().unwrap();
        let green = HashMap::from([(labels::CLUSTER.to_owned(), "green".to_owned())]);
        assert_eq!(Ownership::by(&cluster_label(&cluster), &cluster), Ownership::Ours);
        assert_eq!(Ownership::by(&green, &cluster), Ownership::Foreign);
        assert_eq!(Ownership::by(&HashMap::new(), &cluster), Ownership::Foreign);
    }
}

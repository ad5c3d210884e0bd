//! What Docker holds of one test's cluster: seen as a person sees it, and removed with its guard.

use std::collections::HashMap;
use std::env;
use std::fs;
use std::io::Read;
use std::thread;
use std::time::Duration;

use bollard::Docker;
use bollard::errors::Error;
use bollard::models::{
    ContainerConfig, ContainerCreateBody, ContainerInspectResponse, ContainerSummary,
    ContainerSummaryStateEnum, HostConfig, NetworkCreateRequest, VolumeCreateRequest,
};
use bollard::query_parameters::{
    CommitContainerOptionsBuilder, CreateContainerOptions, CreateContainerOptionsBuilder,
    DownloadFromContainerOptionsBuilder, InspectContainerOptions, KillContainerOptionsBuilder,
    ListContainersOptionsBuilder, ListNetworksOptionsBuilder, ListVolumesOptionsBuilder, LogsOptionsBuilder,
    RemoveContainerOptionsBuilder, RemoveImageOptions, RemoveVolumeOptions, StartContainerOptions,
    TagImageOptionsBuilder,
};
use futures::StreamExt;
use rustix::process::{Pid, Signal, kill_process};

use crate::suite::block_on;
use crate::wait;

/// The label that ties things in Docker to their cluster.
const CLUSTER: &str = "ai.skysail.cluster";

/// The label of what a container is for.
const ROLE: &str = "ai.skysail.role";

/// Marks what a test has made that belongs to nobody's cluster.
const STRANGER: &str = "ai.skysail.test.stranger";

/// The lines of each container's log that are shown when a test fails.
const SHOWN_LINES: &str = "40";

/// A name that no other cluster has, and everything in Docker that carries it. Dropping it removes all of
/// that; drop a frontend on the host before, or it starts replicas again.
pub struct DockerCluster {
    docker: Docker,
    name: String,
}

/// A container of the cluster.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Container {
    /// Its id: another container of the same name has another.
    pub id: String,
    /// Its name.
    pub name: String,
    /// What it is for, by its label.
    pub role: String,
    /// All its labels.
    pub labels: HashMap<String, String>,
    /// Whether it runs.
    pub running: bool,
}

/// The names of all that Docker holds of a cluster, sorted.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Holdings {
    /// Containers, running or not.
    pub containers: Vec<String>,
    /// Networks.
    pub networks: Vec<String>,
    /// Volumes.
    pub volumes: Vec<String>,
}

/// Names the tag of the images, if it is not the workspace's version: checkouts share an engine.
const IMAGE_TAG: &str = "SKYSAIL_IMAGE_TAG";

/// The name of an image of this workspace, with its tag.
///
/// # Panics
/// If it was not built, with the command that does.
pub async fn image(name: &str) -> String {
    let tag = env::var(IMAGE_TAG).unwrap_or_else(|_| env!("CARGO_PKG_VERSION").to_owned());
    existing(&format!("skysail/{name}:{tag}"), "make images").await
}

/// The name of the Redis image that is made from the installed `redis-server`.
///
/// # Panics
/// If it was not built, with the command that does.
pub async fn redis_image() -> String {
    existing("skysail/redis:local", "make redis-image").await
}

async fn existing(image: &str, built_by: &str) -> String {
    let found = engine().inspect_image(image).await;
    assert!(
        found.is_ok(),
        "image {image} is not there: `{built_by}` builds it"
    );
    image.to_owned()
}

/// A name of a test's own for an image, which is removed with its guard.
pub struct Tag {
    docker: Docker,
    name: String,
}

impl Tag {
    /// Another name for this image.
    pub async fn of(image: &str) -> Self {
        let tag = Self::new();
        tag.move_to(image).await;
        tag
    }

    /// The name of an image with the content of this one and an id of its own, which goes with its last name.
    pub async fn of_copy(image: &str) -> Self {
        let tag = Self::new();
        let original = ContainerCreateBody {
            image: Some(image.to_owned()),
            ..ContainerCreateBody::default()
        };
        let created = tag
            .docker
            .create_container(None::<CreateContainerOptions>, original)
            .await;
        let container = created.expect("a container").id;
        let (repo, version) = tag.parts();
        let options = CommitContainerOptionsBuilder::new()
            .container(&container)
            .repo(repo)
            .tag(version)
            .build();
        let copied = tag
            .docker
            .commit_container(options, ContainerConfig::default())
            .await;
        copied.expect("a copy");
        remove_container(&tag.docker, &container).await;
        tag
    }

    fn new() -> Self {
        Self {
            docker: engine(),
            name: format!("e2e-{:08x}/model:1", fastrand::u32(..)),
        }
    }

    /// The name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The id of the image that it names.
    pub async fn image_id(&self) -> String {
        let found = self.docker.inspect_image(&self.name).await.expect("an image");
        found.id.expect("an image has an id")
    }

    /// Makes it the name of another image. One that has no other name is removed.
    pub async fn move_to(&self, image: &str) {
        untag(&self.docker, &self.name).await;
        let (repo, version) = self.parts();
        let options = TagImageOptionsBuilder::new().repo(repo).tag(version).build();
        let tagged = self.docker.tag_image(image, Some(options)).await;
        tagged.expect("an image can have another name");
    }

    fn parts(&self) -> (&str, &str) {
        self.name.split_once(':').expect("a name has a tag")
    }
}

impl Drop for Tag {
    fn drop(&mut self) {
        let name = self.name.clone();
        let removal = thread::spawn(move || block_on(async { untag(&engine(), &name).await })).join();
        assert!(
            thread::panicking() || removal.is_ok(),
            "the image's name is not removed"
        );
    }
}

async fn untag(docker: &Docker, name: &str) {
    match docker.remove_image(name, None::<RemoveImageOptions>, None).await {
        Ok(_) => {}
        // It was none.
        Err(Error::DockerResponseServerError { status_code: 404, .. }) => {}
        // It goes with the containers of the test.
        Err(Error::DockerResponseServerError { status_code: 409, .. }) => {}
        Err(error) => panic!("the name {name} cannot be removed: {error}"),
    }
}

fn engine() -> Docker {
    Docker::connect_with_defaults().expect("where docker is")
}

impl DockerCluster {
    /// A cluster of which Docker holds nothing yet.
    pub fn new() -> Self {
        Self {
            docker: engine(),
            name: format!("e2e-{:08x}", fastrand::u32(..)),
        }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// All its containers, sorted by name.
    pub async fn containers(&self) -> Vec<Container> {
        containers(&self.docker, CLUSTER, &self.name).await
    }

    /// Its containers of one role, sorted by name.
    pub async fn with_role(&self, role: &str) -> Vec<Container> {
        let mut containers = self.containers().await;
        containers.retain(|container| container.role == role);
        containers
    }

    /// All containers with this label, of whatever cluster.
    pub async fn labelled(&self, label: &str, value: &str) -> Vec<Container> {
        containers(&self.docker, label, value).await
    }

    /// All that Docker holds of it.
    pub async fn holdings(&self) -> Holdings {
        holdings(&self.docker, CLUSTER, &self.name).await
    }

    /// Makes a container, a network and a volume whose names begin with the cluster's, but which are not the
    /// cluster's. Returns them as [`Self::strangers`] does.
    pub async fn make_strangers(&self, image: &str) -> Holdings {
        let name = format!("{}-stranger", self.name);
        let labels = HashMap::from([(STRANGER.to_owned(), self.name.clone())]);
        let container = ContainerCreateBody {
            image: Some(image.to_owned()),
            labels: Some(labels.clone()),
            ..ContainerCreateBody::default()
        };
        let named = CreateContainerOptionsBuilder::new().name(&name).build();
        let created = self.docker.create_container(Some(named), container).await;
        created.expect("a stranger's container");
        let network = NetworkCreateRequest {
            name: name.clone(),
            labels: Some(labels.clone()),
            ..NetworkCreateRequest::default()
        };
        self.docker.create_network(network).await.expect("a network");
        let volume = VolumeCreateRequest {
            name: Some(name),
            labels: Some(labels),
            ..VolumeCreateRequest::default()
        };
        self.docker.create_volume(volume).await.expect("a volume");
        self.strangers().await
    }

    /// What is left of [`Self::make_strangers`].
    pub async fn strangers(&self) -> Holdings {
        holdings(&self.docker, STRANGER, &self.name).await
    }

    /// What Docker knows of a container.
    pub async fn inspect(&self, container: &str) -> ContainerInspectResponse {
        let found = self
            .docker
            .inspect_container(container, None::<InspectContainerOptions>);
        found.await.expect("the container is there")
    }

    /// The address of a container in the cluster's network.
    pub async fn address(&self, container: &str) -> String {
        let settings = self.inspect(container).await.network_settings;
        let networks = settings
            .and_then(|settings| settings.networks)
            .unwrap_or_default();
        let mut addresses = networks.into_values().filter_map(|network| network.ip_address);
        addresses.next().expect("a container has an address")
    }

    /// What a file in a container says.
    pub async fn file(&self, container: &str, path: &str) -> String {
        let options = DownloadFromContainerOptionsBuilder::new().path(path).build();
        let pieces = self.docker.download_from_container(container, Some(options));
        let archive: Vec<_> = pieces
            .map(|piece| piece.expect("the container has such a file"))
            .collect()
            .await;
        let archive = archive.concat();
        let mut archive = tar::Archive::new(&*archive);
        let mut entries = archive.entries().expect("a tar");
        let mut file = entries.next().expect("a file in it").expect("an entry");
        let mut content = String::new();
        file.read_to_string(&mut content).expect("text");
        content
    }

    /// The URL of the Redis that `skysail start` brought up, as this machine reaches it.
    pub async fn redis_url(&self) -> String {
        let container = format!("{}-redis", self.name);
        let options = self.file(&container, "/skysail/redis.conf").await;
        let password = options.trim().rsplit(' ').next().expect("a password").to_owned();
        format!("redis://:{password}@{}:6379/0", self.address(&container).await)
    }

    /// Runs the test container by this script in a network, to its end, and returns what it printed.
    pub async fn run_script(&self, image: &str, network: &str, script: &str) -> String {
        let body = ContainerCreateBody {
            image: Some(image.to_owned()),
            env: Some(vec![format!("TEST_SCRIPT={script}")]),
            labels: Some(HashMap::from([(STRANGER.to_owned(), self.name.clone())])),
            host_config: Some(HostConfig {
                network_mode: Some(network.to_owned()),
                ..HostConfig::default()
            }),
            ..ContainerCreateBody::default()
        };
        let created = self
            .docker
            .create_container(None, body)
            .await
            .expect("a container");
        let id = created.id;
        let started = self.docker.start_container(&id, None::<StartContainerOptions>);
        started.await.expect("it can be started");
        wait::until("the script to end", wait::PATIENCE, async || {
            let state = self.inspect(&id).await.state;
            state.is_some_and(|state| state.running != Some(true))
        })
        .await;
        let said = self.log(&id).await;
        remove_container(&self.docker, &id).await;
        said
    }

    /// Prints the last lines of each container, for a person to find out what went wrong.
    pub async fn show_logs(&self) {
        for container in self.containers().await {
            show_log(&self.docker, &container).await;
        }
    }

    /// All that a container printed.
    pub async fn log(&self, container: &str) -> String {
        let options = LogsOptionsBuilder::new().stdout(true).stderr(true).build();
        let pieces = self.docker.logs(container, Some(options));
        pieces
            .map(|piece| piece.expect("its log").to_string())
            .collect()
            .await
    }

    /// `docker kill`: the container ends at once, and the engine knows that somebody wanted it.
    pub async fn kill(&self, container: &str) {
        let now = KillContainerOptionsBuilder::new().signal("SIGKILL").build();
        let killed = self.docker.kill_container(container, Some(now)).await;
        killed.expect("a running container can be killed");
    }

    /// Ends a container's process as a crash does: the engine does not know that anybody wanted it, and its
    /// restart policy acts, which it does not after `docker kill`.
    ///
    /// Where this user may not end the engine's processes, the container is killed and started again.
    pub async fn crash(&self, container: &str) {
        let found = self.inspect(container).await;
        let pid = found.state.and_then(|state| i32::try_from(state.pid?).ok());
        let id = found.id.expect("a container has an id");
        let crashed = pid.filter(|pid| is_process_of(*pid, &id)).and_then(Pid::from_raw);
        if crashed.is_some_and(|pid| kill_process(pid, Signal::KILL).is_ok()) {
            return;
        }
        self.kill(container).await;
        let started = self
            .docker
            .start_container(container, None::<StartContainerOptions>);
        started.await.expect("a killed container can be started");
    }
}

impl Default for DockerCluster {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for DockerCluster {
    fn drop(&mut self) {
        let name = self.name.clone();
        let failed = thread::panicking();
        // A guard cannot wait for the engine; a thread with a runtime of its own can.
        let removal = thread::spawn(move || block_on(remove(&name, failed))).join();
        assert!(
            failed || removal.is_ok(),
            "what Docker held of the test's cluster is not removed"
        );
    }
}

/// Whether this is a process of that container: an engine in a namespace of its own counts its processes
/// otherwise than we do. The engine mounts files of its own into each container, from a folder named by the
/// container's id.
fn is_process_of(pid: i32, container: &str) -> bool {
    fs::read_to_string(format!("/proc/{pid}/mountinfo")).is_ok_and(|mounts| mounts.contains(container))
}

/// How long the engine may take to make what it was asked for just before: a test that is interrupted does not
/// wait for it.
const UNDER_WAY: Duration = Duration::from_millis(300);

async fn remove(name: &str, show_logs: bool) {
    let docker = engine();
    remove_what_is_there(&docker, name, show_logs).await;
    tokio::time::sleep(UNDER_WAY).await;
    remove_what_is_there(&docker, name, false).await;
}

async fn remove_what_is_there(docker: &Docker, name: &str, show_logs: bool) {
    let mut doomed = containers(docker, CLUSTER, name).await;
    // Frontends first: they would start again what is removed.
    doomed.sort_by_key(|container| container.role != "frontend");
    doomed.extend(containers(docker, STRANGER, name).await);
    for container in doomed {
        if show_logs {
            show_log(docker, &container).await;
        }
        remove_container(docker, &container.id).await;
    }
    // Looked at again: until its end a frontend may have started another replica.
    for container in containers(docker, CLUSTER, name).await {
        remove_container(docker, &container.id).await;
    }
    for label in [CLUSTER, STRANGER] {
        let left = holdings(docker, label, name).await;
        for network in left.networks {
            docker
                .remove_network(&network)
                .await
                .expect("the network is unused");
        }
        for volume in left.volumes {
            let removed = docker.remove_volume(&volume, None::<RemoveVolumeOptions>).await;
            removed.expect("the volume is unused");
        }
    }
}

async fn remove_container(docker: &Docker, id: &str) {
    let force = RemoveContainerOptionsBuilder::new().force(true).v(true).build();
    match docker.remove_container(id, Some(force)).await {
        // Gone, or going.
        Ok(())
        | Err(Error::DockerResponseServerError {
            status_code: 404 | 409,
            ..
        }) => {}
        Err(error) => panic!("container {id} cannot be removed: {error}"),
    }
}

async fn show_log(docker: &Docker, container: &Container) {
    let options = LogsOptionsBuilder::new()
        .stdout(true)
        .stderr(true)
        .tail(SHOWN_LINES)
        .build();
    let pieces = docker.logs(&container.id, Some(options));
    let text: String = pieces
        .map(|piece| piece.map_or_else(|error| error.to_string(), |piece| piece.to_string()))
        .collect()
        .await;
    eprintln!("--- the log of container {} ---\n{text}---", container.name);
}

async fn holdings(docker: &Docker, label: &str, value: &str) -> Holdings {
    let containers = containers(docker, label, value).await.into_iter();
    let filter = HashMap::from([("label", vec![format!("{label}={value}")])]);
    let of_networks = ListNetworksOptionsBuilder::new().filters(&filter).build();
    let networks = docker.list_networks(Some(of_networks)).await.expect("networks");
    let of_volumes = ListVolumesOptionsBuilder::new().filters(&filter).build();
    let volumes = docker.list_volumes(Some(of_volumes)).await.expect("volumes");
    let mut found = Holdings {
        containers: containers.map(|container| container.name).collect(),
        networks: networks.into_iter().filter_map(|network| network.name).collect(),
        volumes: volumes
            .volumes
            .into_iter()
            .flatten()
            .map(|volume| volume.name)
            .collect(),
    };
    found.networks.sort();
    found.volumes.sort();
    found
}

async fn containers(docker: &Docker, label: &str, value: &str) -> Vec<Container> {
    let filter = HashMap::from([("label", vec![format!("{label}={value}")])]);
    let options = ListContainersOptionsBuilder::new()
        .all(true)
        .filters(&filter)
        .build();
    let listed = docker.list_containers(Some(options)).await.expect("containers");
    let mut containers: Vec<_> = listed.into_iter().map(Container::of).collect();
    containers.sort_by(|one, other| one.name.cmp(&other.name));
    containers
}

impl Container {
    fn of(listed: ContainerSummary) -> Self {
        let labels = listed.labels.unwrap_or_default();
        let name = listed.names.unwrap_or_default().into_iter().next();
        Self {
            id: listed.id.unwrap_or_default(),
            name: name.unwrap_or_default().trim_start_matches('/').to_owned(),
            role: labels.get(ROLE).cloned().unwrap_or_default(),
            labels,
            running: listed.state == Some(ContainerSummaryStateEnum::RUNNING),
        }
    }
}

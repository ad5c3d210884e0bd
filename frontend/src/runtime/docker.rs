//! Containers in Docker, through its API: engine 20.10 (API 1.41) and later.
//!
//! Labels are the truth: nothing that does not carry this cluster's label is stopped, removed or replaced,
//! whatever its name. Nothing is remembered here either; every call asks the engine, so that a frontend
//! that starts again finds what the one before left.
//!
//! - `engine`: the connection, made at its first use, and Docker's errors in our words.
//! - `network`: the cluster's network.
//! - `pull`: images that are not there yet.
//! - `events`: what wakes the reconciler.
//! - `ends`: what events told of containers that ended.

use std::collections::HashMap;
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bollard::Docker;
use bollard::container::LogOutput;
use bollard::models::{
    ContainerCreateBody, ContainerInspectResponse, ContainerStateStatusEnum, ContainerSummary,
    ContainerSummaryStateEnum, DeviceRequest, HostConfig, HostConfigLogConfig,
};
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, InspectContainerOptions, ListContainersOptionsBuilder, LogsOptionsBuilder,
    RemoveContainerOptionsBuilder, StartContainerOptions, StopContainerOptionsBuilder,
};
use futures::stream::{self, BoxStream};
use futures::{Stream, StreamExt, TryStreamExt};
use jiff::{SignedDuration, Timestamp};
use skysail_proto::ids::{ClusterName, ModelId, ReplicaId};
use skysail_proto::labels;
use tokio::sync::{Mutex, Notify};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::task::TaskTracker;

use super::intake::{self, Intake};
use super::{
    ContainerRuntime, ContainerState, ContainerStatus, Progress, ReplicaSpec, Resolution, RuntimeError, exit,
};

mod ends;
mod engine;
mod events;
mod network;
mod pull;

use ends::{End, Ends};
use engine::{Engine, refused, status_of};

/// Where the engine of this machine listens.
const LOCAL_ENGINE: &str = "unix:///var/run/docker.sock";

/// Logs are rotated: two files of this size for each container, whatever it prints.
const LOG_FILE_SIZE: &str = "5m";

/// What the two files hold, and more: what a container printed before it is followed is told whole.
const LOG_FILES: usize = 16 << 20;

/// How long the engine may take beyond the grace to stop a container; it is slow under load.
const STOP_TAKES: Duration = Duration::from_secs(60);

/// How long those who follow an ended container's log may take to read its end.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// A container that is created but not started for this long is not about to be: whoever created it
/// ended in between.
const START_TAKES: SignedDuration = SignedDuration::from_secs(60);

/// What is said of a container that the kernel killed for its memory.
const OUT_OF_MEMORY: &str = "killed: out of memory";

/// The exit code of SIGKILL.
const KILLED: i64 = 137;

/// Stands for the incarnation of a container that says none, and can be taken over like any other.
const UNLABELLED: &str = "unlabelled";

/// Containers that are inspected at a time.
const INSPECTIONS: usize = 8;

/// Runs containers in Docker.
#[derive(Debug)]
pub struct DockerRuntime {
    cluster: ClusterName,
    engine: Arc<Engine>,
    changes: Arc<Notify>,
    /// Two starts of one name take turns; names are spread over these by their hash.
    places: [Mutex<()>; 16],
    followers: Followers,
    ends: Arc<Ends>,
    made_network: AtomicBool,
}

/// Who follows the log of which container, by its id: it is removed only after they read its last words.
type Followers = parking_lot::Mutex<HashMap<String, TaskTracker>>;

impl DockerRuntime {
    /// A runtime for `cluster`, in the engine at `host` (written as in `DOCKER_HOST`) or that of this machine, and the
    /// task that follows the engine's events: as long as it runs, changes of containers are noticed at once.
    ///
    /// Docker need not be there yet: calls fail with [`RuntimeError::Unavailable`] until it is.
    pub fn connect(
        host: Option<&str>,
        cluster: ClusterName,
    ) -> (Self, impl Future<Output = ()> + Send + 'static + use<>) {
        let engine = Arc::new(Engine::new(host.unwrap_or(LOCAL_ENGINE)));
        let changes = Arc::new(Notify::new());
        let ends = Arc::<Ends>::default();
        let events = events::follow(engine.clone(), cluster.clone(), changes.clone(), ends.clone());
        let runtime = Self {
            cluster,
            engine,
            changes,
            places: Default::default(),
            followers: Followers::default(),
            ends,
            made_network: AtomicBool::new(false),
        };
        (runtime, events)
    }

    /// The same as `leave`, if the network was made by this runtime: for a frontend that made it and then
    /// cannot start.
    pub async fn leave_made(&self) -> Result<(), RuntimeError> {
        match self.made_network.load(Ordering::Relaxed) {
            true => self.leave().await,
            false => Ok(()),
        }
    }

    /// Removes the cluster's network, which the frontend needs no longer, unless something else does: a container of
    /// the cluster, running or not, or another process that listens at its gateway.
    async fn leave(&self) -> Result<(), RuntimeError> {
        let docker = self.engine.get().await?;
        let filter = HashMap::from([("label", vec![format!("{}={}", labels::CLUSTER, self.cluster)])]);
        let options = ListContainersOptionsBuilder::new()
            .all(true)
            .filters(&filter)
            .build();
        let listed = docker.list_containers(Some(options)).await;
        let listed = listed.map_err(|error| refused("list", "all containers", &error))?;
        if listed.is_empty() {
            network::leave(docker, &self.cluster).await?;
        }
        Ok(())
    }

    fn place(&self, container: &str) -> &Mutex<()> {
        let hash = BuildHasherDefault::<DefaultHasher>::default().hash_one(container);
        &self.places[hash as usize % self.places.len()]
    }

    /// Looks a container up by name; one that is not this cluster's is an error.
    async fn find(&self, container: &str) -> Result<Option<Found>, RuntimeError> {
        let docker = self.engine.get().await?;
        let found = match docker
            .inspect_container(container, None::<InspectContainerOptions>)
            .await
        {
            Ok(found) => Found::of(found),
            Err(error) if status_of(&error) == Some(404) => return Ok(None),
            Err(error) => return Err(refused("inspect", container, &error)),
        };
        let ours = found.label(labels::CLUSTER) == Some(self.cluster.as_str())
            && found.label(labels::ROLE) == Some(labels::ROLE_REPLICA);
        if ours {
            return Ok(Some(found));
        }
        Err(RuntimeError::Container(format!(
            "the container `{container}` is not a replica of cluster `{}` and will not be touched: rename or \
             remove it",
            self.cluster
        )))
    }

    /// Whether the container of `spec` runs already; what is left of an earlier one is removed, unless it is
    /// another store's.
    async fn runs_already(&self, spec: &ReplicaSpec) -> Result<bool, RuntimeError> {
        let Some(found) = self.find(&spec.container).await? else {
            return Ok(false);
        };
        if found.incarnation() != spec.incarnation {
            return Err(name_taken(spec));
        }
        if found.running || found.starting {
            let digest = found.label(labels::SPEC).unwrap_or_default();
            return super::same_or_refuse(spec, digest).map(|()| true);
        }
        self.remove(&spec.container, &found.id).await?;
        Ok(false)
    }

    async fn create_and_start(&self, spec: &ReplicaSpec, image_id: String) -> Result<(), RuntimeError> {
        let docker = self.engine.get().await?;
        let network = network::ensure(docker, &self.cluster).await?;
        let name = CreateContainerOptionsBuilder::new().name(&spec.container).build();
        let body = self.create_body(spec, image_id, network);
        let created = match docker.create_container(Some(name), body).await {
            Ok(created) => created,
            Err(error) if status_of(&error) == Some(409) => return self.concede(spec).await,
            Err(error) => return Err(not_created(spec, &error)),
        };
        for warning in created.warnings {
            tracing::warn!(
                container = spec.container,
                warning,
                "docker warned of a container"
            );
        }
        if let Err(error) = self.start_created(docker, &created.id).await {
            self.remove(&spec.container, &created.id).await?;
            return Err(not_started(spec, &error));
        }
        Ok(())
    }

    /// Starts a container. Old engines start none in a network of whose name there are two, even if it is named by
    /// its id: the one who made the younger is given time to remove it.
    async fn start_created(&self, docker: &Docker, id: &str) -> Result<(), bollard::errors::Error> {
        let deadline = Instant::now() + network::GIVES_WAY;
        loop {
            let started = docker.start_container(id, None::<StartContainerOptions>).await;
            match started {
                Err(error) if network::is_ambiguous(&error) && Instant::now() < deadline => {
                    network::agree(docker, &self.cluster).await;
                }
                started => return started,
            }
        }
    }

    /// Somebody else took the name since it was free: another control role, which was paused or is about to
    /// find that it does not act any more. Its container is as good as ours, and should it fail, the next
    /// pass sees.
    async fn concede(&self, spec: &ReplicaSpec) -> Result<(), RuntimeError> {
        match self.find(&spec.container).await? {
            Some(found) if found.incarnation() != spec.incarnation => Err(name_taken(spec)),
            Some(found) => super::same_or_refuse(spec, found.label(labels::SPEC).unwrap_or_default()),
            None => Ok(()),
        }
    }

    fn create_body(&self, spec: &ReplicaSpec, image_id: String, network: String) -> ContainerCreateBody {
        let memory = spec
            .memory_bytes
            .map(|bytes| i64::try_from(bytes).unwrap_or(i64::MAX));
        let log_options = [("max-size", LOG_FILE_SIZE), ("max-file", "2")];
        ContainerCreateBody {
            // By its id: what a name means can change between two starts, and between a look and a start.
            image: Some(image_id),
            env: Some(
                spec.env
                    .iter()
                    .map(|(name, value)| format!("{name}={value}"))
                    .collect(),
            ),
            labels: Some(self.labels_of(spec)),
            host_config: Some(HostConfig {
                network_mode: Some(network),
                memory,
                // No swap on top: a model that swaps misses every deadline, and the limit would be double.
                memory_swap: memory,
                device_requests: spec.gpus.map(|gpus| vec![gpus_asked_for(gpus)]),
                nano_cpus: spec.cpus.map(|cpus| (cpus * 1e9) as i64),
                log_config: Some(HostConfigLogConfig {
                    typ: Some("json-file".into()),
                    config: Some(log_options.map(|(key, value)| (key.into(), value.into())).into()),
                }),
                // No restart policy: the reconciler replaces, with backoff and the reason kept.
                ..HostConfig::default()
            }),
            ..ContainerCreateBody::default()
        }
    }

    fn labels_of(&self, spec: &ReplicaSpec) -> HashMap<String, String> {
        let labels = [
            (labels::CLUSTER, self.cluster.as_str()),
            (labels::ROLE, labels::ROLE_REPLICA),
            (labels::MODEL, spec.model.name.as_str()),
            (labels::VERSION, spec.model.version.as_str()),
            (labels::REPLICA, spec.replica.as_str()),
            (labels::SPEC, spec.digest.as_str()),
            (labels::IMAGE, spec.image.as_str()),
            (labels::INCARNATION, spec.incarnation.as_str()),
            (labels::START, spec.start.as_str()),
        ];
        labels.map(|(name, value)| (name.into(), value.into())).into()
    }

    /// Removes a container of this cluster, by the id it was found with: its name may be another's by now.
    async fn remove(&self, container: &str, id: &str) -> Result<(), RuntimeError> {
        self.let_followers_read(id).await;
        let options = RemoveContainerOptionsBuilder::new().force(true).v(true).build();
        match self.engine.get().await?.remove_container(id, Some(options)).await {
            Ok(()) => Ok(()),
            // Gone, or somebody else's removal is under way.
            Err(error) if matches!(status_of(&error), Some(404 | 409)) => Ok(()),
            Err(error) => Err(refused("remove", container, &error)),
        }
    }

    /// A removal cuts off whoever still reads the log: what a model says at its end would be lost.
    async fn let_followers_read(&self, id: &str) {
        let followers = self.followers.lock().remove(id);
        if let Some(followers) = followers {
            followers.close();
            let _ = tokio::time::timeout(LAST_WORDS, followers.wait()).await;
        }
    }

    /// What a listed container is; nothing for one that is gone by now, or that no Skysail labelled.
    async fn status(&self, listed: ContainerSummary) -> Result<Option<ContainerStatus>, RuntimeError> {
        let (Some(id), Some(identity)) = (&listed.id, Identity::of(&listed)) else {
            tracing::debug!(names = ?listed.names, "container with odd labels ignored");
            return Ok(None);
        };
        let state = if may_run(&listed) {
            ContainerState::Running
        } else {
            let docker = self.engine.get().await?;
            match docker
                .inspect_container(id, None::<InspectContainerOptions>)
                .await
            {
                Ok(found) => self.state_of(id, found).await,
                Err(error) if status_of(&error) == Some(404) => return Ok(None),
                Err(error) => return Err(refused("inspect", &identity.container, &error)),
            }
        };
        Ok(Some(identity.with(state)))
    }

    async fn state_of(&self, id: &str, found: ContainerInspectResponse) -> ContainerState {
        let kill = match killed_within_limit(&found) {
            Some(limit) => Some((self.ends.explain(id).await, limit)),
            None => None,
        };
        state_of(found, kill)
    }
}

#[async_trait]
impl ContainerRuntime for DockerRuntime {
    async fn resolve(&self, spec: &ReplicaSpec, progress: &Progress) -> Result<Resolution, RuntimeError> {
        refuse_artifacts(spec)?;
        let id = pull::ensure(self.engine.get().await?, &spec.image, progress).await?;
        Ok(Resolution {
            image_id: Some(id),
            artifacts: Vec::new(),
        })
    }

    async fn moved_on(&self, spec: &ReplicaSpec) -> Result<Option<String>, RuntimeError> {
        let Some(id) = &spec.image_id else { return Ok(None) };
        pull::moved_on(self.engine.get().await?, &spec.image, id).await
    }

    async fn start(&self, spec: &ReplicaSpec, progress: &Progress) -> Result<(), RuntimeError> {
        refuse_artifacts(spec)?;
        let docker = self.engine.get().await?;
        // Outside the turn: a pull can take minutes, and the engine joins two pulls of one image itself.
        let image_id = match &spec.image_id {
            Some(id) => pull::ensure_same(docker, &spec.image, id, progress).await?,
            None => pull::ensure(docker, &spec.image, progress).await?,
        };
        let _turn = self.place(&spec.container).lock().await;
        if self.runs_already(spec).await? {
            return Ok(());
        }
        self.create_and_start(spec, image_id).await
    }

    async fn stop(&self, container: &str, grace: Duration) -> Result<(), RuntimeError> {
        let Some(found) = self.find(container).await? else {
            return Ok(());
        };
        let patient = self
            .engine
            .get()
            .await?
            .clone()
            .with_timeout(grace.saturating_add(STOP_TAKES));
        let options = StopContainerOptionsBuilder::new().t(whole_seconds(grace)).build();
        match patient.stop_container(&found.id, Some(options)).await {
            Ok(()) => {}
            Err(error) if status_of(&error) == Some(404) => return Ok(()),
            // Removal by force kills what could not be stopped; should that fail too, it says why.
            Err(error) => tracing::warn!(container, %error, "docker could not stop a container"),
        }
        self.remove(container, &found.id).await
    }

    async fn list(&self) -> Result<Vec<ContainerStatus>, RuntimeError> {
        let filter = [
            format!("{}={}", labels::CLUSTER, self.cluster),
            format!("{}={}", labels::ROLE, labels::ROLE_REPLICA),
        ];
        let options = ListContainersOptionsBuilder::new()
            .all(true)
            .filters(&HashMap::from([("label", filter.to_vec())]))
            .build();
        let listed = self.engine.get().await?.list_containers(Some(options)).await;
        let listed = listed.map_err(|error| refused("list", "all containers", &error))?;
        stream::iter(listed)
            .map(|listed| self.status(listed))
            .buffered(INSPECTIONS)
            .try_filter_map(|status| async { Ok(status) })
            .try_collect()
            .await
    }

    async fn logs(
        &self,
        container: &str,
        tail: usize,
        follow: bool,
    ) -> Result<BoxStream<'static, String>, RuntimeError> {
        let Some(found) = self.find(container).await? else {
            return Err(RuntimeError::Container(format!(
                "there is no container `{container}`"
            )));
        };
        let options = LogsOptionsBuilder::new()
            .stdout(true)
            .stderr(true)
            .tail(&tail.to_string())
            .follow(follow)
            .build();
        let pieces = self.engine.get().await?.logs(&found.id, Some(options));
        let follower = follow.then(|| self.followers.lock().entry(found.id).or_default().token());
        let pieces = pieces.map_err(move |error| {
            // Held as long as pieces come.
            let _follower = &follower;
            tracing::debug!(%error, "a container's log ended early");
        });
        Ok(in_lines(pieces, if follow { LOG_FILES } else { usize::MAX }))
    }

    fn changes(&self) -> Arc<Notify> {
        self.changes.clone()
    }

    /// Makes the cluster's network if need be.
    async fn gateway(&self) -> Result<Option<IpAddr>, RuntimeError> {
        let (gateway, made) = network::gateway(self.engine.get().await?, &self.cluster).await?;
        if made {
            self.made_network.store(true, Ordering::Relaxed);
        }
        Ok(Some(gateway))
    }

    /// Containers run on, for the frontend's next life. The cluster's network goes with the last of those that use it.
    async fn shutdown(&self, grace: Duration, is_last: bool) -> Result<(), RuntimeError> {
        if !is_last {
            return Ok(());
        }
        let left = timeout(grace, self.leave()).await;
        left.unwrap_or_else(|_| {
            let reason = "the cluster's network was not looked at in time".to_owned();
            Err(RuntimeError::Unavailable(reason))
        })
    }
}

/// A container looked up by name.
struct Found {
    id: String,
    running: bool,
    /// Created, and perhaps about to be started by another control role.
    starting: bool,
    labels: HashMap<String, String>,
}

impl Found {
    fn of(inspected: ContainerInspectResponse) -> Self {
        let status = inspected.state.as_ref().and_then(|state| state.status);
        let created = inspected
            .created
            .as_ref()
            .and_then(|created| created.parse().ok());
        Self {
            starting: status == Some(ContainerStateStatusEnum::CREATED)
                && created.is_some_and(may_be_started),
            id: inspected.id.unwrap_or_default(),
            running: inspected.state.and_then(|state| state.running) == Some(true),
            labels: inspected
                .config
                .and_then(|config| config.labels)
                .unwrap_or_default(),
        }
    }

    fn label(&self, name: &str) -> Option<&str> {
        self.labels.get(name).map(String::as_str)
    }

    fn incarnation(&self) -> &str {
        self.label(labels::INCARNATION).unwrap_or(UNLABELLED)
    }
}

/// What a container's labels say of it.
struct Identity {
    container: String,
    replica: ReplicaId,
    model: ModelId,
    spec_digest: String,
    incarnation: String,
    start: String,
}

impl Identity {
    fn of(listed: &ContainerSummary) -> Option<Self> {
        let labels = listed.labels.as_ref()?;
        let label = |name| labels.get(name).map(String::as_str);
        let name = listed.names.as_ref()?.first()?;
        let model = label(labels::MODEL)?.parse().ok()?;
        let version = label(labels::VERSION)?.parse().ok()?;
        Some(Self {
            container: name.trim_start_matches('/').to_owned(),
            replica: label(labels::REPLICA)?.parse().ok()?,
            model: ModelId::new(model, version),
            spec_digest: label(labels::SPEC).unwrap_or_default().to_owned(),
            incarnation: label(labels::INCARNATION).unwrap_or(UNLABELLED).to_owned(),
            start: label(labels::START).unwrap_or_default().to_owned(),
        })
    }

    fn with(self, state: ContainerState) -> ContainerStatus {
        ContainerStatus {
            container: self.container,
            replica: self.replica,
            model: self.model,
            spec_digest: self.spec_digest,
            incarnation: Some(self.incarnation),
            start: self.start,
            state,
            // The id on the host would tell nothing: the engine may be on another machine.
            pid: None,
        }
    }
}

/// Whether whoever created a container at that time may still be about to start it.
fn may_be_started(created: Timestamp) -> bool {
    Timestamp::now().duration_since(created) < START_TAKES
}

/// Whether a container runs, or is on its way to.
fn may_run(listed: &ContainerSummary) -> bool {
    use ContainerSummaryStateEnum::{CREATED, DEAD, EXITED};

    match listed.state {
        Some(EXITED | DEAD) => false,
        Some(CREATED) => {
            may_be_started(Timestamp::from_second(listed.created.unwrap_or_default()).unwrap_or_default())
        }
        _ => true,
    }
}

/// How an inspected container is; it may have been started since it was listed. `kill` is what is known of
/// one that was killed within its memory limit.
fn state_of(found: ContainerInspectResponse, kill: Option<(End, i64)>) -> ContainerState {
    let state = found.state.unwrap_or_default();
    let code = state.exit_code.unwrap_or_default();
    let said = state.error.filter(|error| !error.is_empty());
    let detail = if state.running == Some(true) {
        return ContainerState::Running;
    } else if state.status == Some(ContainerStateStatusEnum::CREATED) {
        Some(said.unwrap_or_else(|| "created, but never started".into()))
    } else if state.oom_killed == Some(true) && code != 0 {
        Some(OUT_OF_MEMORY.into())
    } else if said.is_some() {
        said
    } else {
        return match (exit::from_code(code), kill) {
            (ContainerState::Exited { code, .. }, Some((End::OutOfMemory, _))) => ContainerState::Exited {
                code,
                detail: Some(OUT_OF_MEMORY.into()),
            },
            (
                ContainerState::Exited {
                    code,
                    detail: Some(killed),
                },
                Some((End::Unexplained, limit)),
            ) => ContainerState::Exited {
                code,
                detail: Some(format!(
                    "{killed}, probably out of memory (its limit is {} MiB)",
                    limit >> 20
                )),
            },
            (ended, _) => ended,
        };
    };
    ContainerState::Exited { code, detail }
}

/// The memory limit of a container that SIGKILL ended and of which the engine does not say why.
fn killed_within_limit(found: &ContainerInspectResponse) -> Option<i64> {
    let state = found.state.as_ref()?;
    let killed = state.exit_code == Some(KILLED) && state.running != Some(true);
    let limit = found.host_config.as_ref()?.memory.filter(|limit| *limit > 0)?;
    (killed && state.oom_killed != Some(true)).then_some(limit)
}

/// The pieces of a container's log, while they come.
type Pieces = BoxStream<'static, Result<LogOutput, ()>>;

/// Docker sends each output as pieces of up to 16 KiB that end anywhere.
fn in_lines(
    pieces: impl Stream<Item = Result<LogOutput, ()>> + Send + 'static,
    burst: usize,
) -> BoxStream<'static, String> {
    let now = Instant::now();
    let reading = Reading {
        pieces: pieces.boxed(),
        out: Intake::new(burst, now),
        err: Intake::new(burst, now),
    };
    let lines = stream::unfold(Some(reading), |reading| async {
        let mut reading = reading?;
        let mut lines = Vec::new();
        let goes_on = reading.next(&mut lines).await;
        Some((stream::iter(lines), goes_on.then_some(reading)))
    });
    lines.flatten().boxed()
}

/// A container's log, and its two outputs, which must not mix within a line.
struct Reading {
    pieces: Pieces,
    out: Intake,
    err: Intake,
}

impl Reading {
    /// Waits for what comes next. The first error is the end, be it the log's or the connection's.
    async fn next(&mut self, lines: &mut Vec<String>) -> bool {
        let due = [self.out.due(), self.err.due()].into_iter().flatten().min();
        let piece = match due {
            Some(due) => tokio::time::timeout_at(due, self.pieces.next()).await,
            None => Ok(self.pieces.next().await),
        };
        let now = Instant::now();
        match piece {
            Ok(Some(Ok(piece))) => {
                let intake = match piece {
                    LogOutput::StdErr { .. } => &mut self.err,
                    _ => &mut self.out,
                };
                intake.push(piece.as_ref(), now, lines);
                if intake.pauses() {
                    sleep(intake::PAUSE).await;
                }
            }
            Ok(None | Some(Err(()))) => {
                self.out.finish(lines);
                self.err.finish(lines);
                return false;
            }
            Err(_) => {
                self.out.look(now, lines);
                self.err.look(now, lines);
            }
        }
        true
    }
}

/// Rounded up: the engine counts in seconds, and 0 would be no grace at all.
fn whole_seconds(grace: Duration) -> i32 {
    i32::try_from(grace.as_millis().div_ceil(1000)).unwrap_or(i32::MAX)
}

/// As `docker run --gpus N` does: any so many, from whichever driver gives out GPUs.
fn gpus_asked_for(gpus: u32) -> DeviceRequest {
    DeviceRequest {
        count: Some(gpus.into()),
        capabilities: Some(vec![vec!["gpu".into()]]),
        ..DeviceRequest::default()
    }
}

/// Files beside an image are not brought into a container.
fn refuse_artifacts(spec: &ReplicaSpec) -> Result<(), RuntimeError> {
    if spec.onnx.is_some() {
        return Err(RuntimeError::Image(
            "the docker runtime takes no ONNX file beside an image: `skysail model deploy --onnx FILE` makes an image \
             of it"
                .into(),
        ));
    }
    match spec.artifacts.first() {
        None => Ok(()),
        Some(artifact) => Err(RuntimeError::Image(format!(
            "the docker runtime takes no files beside an image (`{}`): build them into it",
            artifact.path
        ))),
    }
}

fn name_taken(spec: &ReplicaSpec) -> RuntimeError {
    RuntimeError::NameTaken(format!(
        "the name `{}` is taken by a container that was started for another metadata store, which is left as it is: \
         the next free name is tried",
        spec.container
    ))
}

fn not_created(spec: &ReplicaSpec, error: &bollard::errors::Error) -> RuntimeError {
    match engine::message_of(error, 400).or_else(|| engine::message_of(error, 404)) {
        Some(said) => unusable(spec, said),
        None => refused("create", &spec.container, error),
    }
}

fn not_started(spec: &ReplicaSpec, error: &bollard::errors::Error) -> RuntimeError {
    if let Some(said) = engine::message_of(error, 500)
        && spec.gpus.is_some()
        && said.contains("device driver")
    {
        return RuntimeError::Image(format!(
            "docker has no GPUs to give to image `{}` ({said}): install the NVIDIA Container Toolkit on its host, \
             or deploy without --gpus",
            spec.image
        ));
    }
    match engine::message_of(error, 400) {
        Some(said) => unusable(spec, said),
        None => refused("start", &spec.container, error),
    }
}

/// Docker's 400 is for what cannot work however often it is tried: no command in the image, an executable
/// that is not there, limits it will not set.
fn unusable(spec: &ReplicaSpec, said: &str) -> RuntimeError {
    RuntimeError::Image(format!(
        "image `{}` cannot be run as it was asked for: {said}",
        spec.image
    ))
}

#[cfg(test)]
mod tests {
    use bollard::models::ContainerState as Inspected;

    use super::*;

    fn out(text: &'static str) -> Result<LogOutput, ()> {
        let message = text.into();
        Ok(LogOutput::StdOut { message })
    }

    fn err(text: &'static str) -> Result<LogOutput, ()> {
        let message = text.into();
        Ok(LogOutput::StdErr { message })
    }

    #[tokio::test]
    async fn pieces_of_two_outputs_do_not_mix_within_a_line() {
        let pieces = [out("one "), err("bad "), out("line\ntwo"), err("news\n")];
        let lines: Vec<_> = in_lines(stream::iter(pieces), LOG_FILES).collect().await;
        assert_eq!(lines, ["one line", "bad news", "two"]);
    }

    #[tokio::test]
    async fn a_log_that_breaks_off_gives_what_came() {
        let pieces = [out("one\ntw"), Err(()), out("never")];
        let lines: Vec<_> = in_lines(stream::iter(pieces), LOG_FILES).collect().await;
        assert_eq!(lines, ["one", "tw"]);
    }

    #[tokio::test(start_paused = true)]
    async fn of_a_flood_the_last_lines_are_kept_and_what_was_kept_before_is_told_whole() {
        // The engine sends a piece for each line.
        let flood = (0..1_000_000).map(|_| out("y\n")).chain([out("the end")]);
        let followed: Vec<_> = in_lines(stream::iter(flood.clone().collect::<Vec<_>>()), LOG_FILES)
            .collect()
            .await;
        assert!(followed.iter().any(|line| line.contains("left out here")));
        assert!(followed.len() < 300_000, "{} lines", followed.len());
        assert_eq!(followed.last().unwrap(), "the end");

        let read: Vec<_> = in_lines(stream::iter(flood.collect::<Vec<_>>()), usize::MAX)
            .collect()
            .await;
        assert_eq!(read.len(), 1_000_001);
    }

    fn state_after(state: Inspected) -> (i64, Option<String>) {
        state_after_kill(state, None)
    }

    fn state_after_kill(state: Inspected, kill: Option<(End, i64)>) -> (i64, Option<String>) {
        let found = ContainerInspectResponse {
            state: Some(state),
            ..ContainerInspectResponse::default()
        };
        match state_of(found, kill) {
            ContainerState::Exited { code, detail } => (code, detail),
            ContainerState::Running => panic!("it runs"),
        }
    }

    #[test]
    fn an_end_is_told_with_the_best_reason_docker_has() {
        let exited = |code| Inspected {
            status: Some(ContainerStateStatusEnum::EXITED),
            exit_code: Some(code),
            error: Some(String::new()),
            ..Inspected::default()
        };
        assert_eq!(state_after(exited(3)), (3, None));
        let signal = Some("killed by signal 9 (SIGKILL)".into());
        assert_eq!(state_after(exited(137)), (137, signal));
        let oom = Inspected {
            oom_killed: Some(true),
            ..exited(137)
        };
        assert_eq!(state_after(oom), (137, Some("killed: out of memory".into())));
        let after = |end| state_after_kill(exited(137), Some((end, 16 << 20))).1.unwrap();
        assert_eq!(after(End::OutOfMemory), "killed: out of memory");
        assert_eq!(after(End::Killed), "killed by signal 9 (SIGKILL)");
        assert_eq!(
            after(End::Unexplained),
            "killed by signal 9 (SIGKILL), probably out of memory (its limit is 16 MiB)"
        );
        let said = Inspected {
            error: Some("no such file".into()),
            ..exited(127)
        };
        assert_eq!(state_after(said), (127, Some("no such file".into())));
    }

    #[test]
    fn only_a_kill_within_a_limit_that_the_engine_does_not_explain_is_looked_into() {
        let ended = |code, memory, oom_killed| ContainerInspectResponse {
            state: Some(Inspected {
                exit_code: Some(code),
                oom_killed: Some(oom_killed),
                ..Inspected::default()
            }),
            host_config: Some(HostConfig {
                memory: Some(memory),
                ..HostConfig::default()
            }),
            ..ContainerInspectResponse::default()
        };
        assert_eq!(killed_within_limit(&ended(137, 16 << 20, false)), Some(16 << 20));
        assert_eq!(killed_within_limit(&ended(137, 16 << 20, true)), None);
        assert_eq!(killed_within_limit(&ended(137, 0, false)), None);
        assert_eq!(killed_within_limit(&ended(1, 16 << 20, false)), None);
    }

    #[test]
    fn a_created_container_counts_as_running_only_while_it_may_still_be_started() {
        let created = |at: Timestamp| ContainerSummary {
            state: Some(ContainerSummaryStateEnum::CREATED),
            created: Some(at.as_second()),
            ..ContainerSummary::default()
        };
        assert!(may_run(&created(Timestamp::now())));
        assert!(!may_run(&created(Timestamp::now() - START_TAKES * 2)));
    }

    #[test]
    fn a_grace_is_rounded_up_to_whole_seconds() {
        assert_eq!(whole_seconds(Duration::ZERO), 0);
        assert_eq!(whole_seconds(Duration::from_millis(1)), 1);
        assert_eq!(whole_seconds(Duration::from_secs(10)), 10);
        assert_eq!(whole_seconds(Duration::MAX), i32::MAX);
    }
}

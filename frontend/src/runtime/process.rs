//! Containers as child processes: no Docker needed, and nothing left behind.
//!
//! An image is the path of an executable. Children are direct children of the frontend, in a process group
//! each, so that a Ctrl-C in the terminal reaches the frontend alone, which drains them. None outlives it:
//! they die with the thread that started them (`spawner`), also when the frontend is killed.
//!
//! An executable is what it was when its version was first started (`digests`, `program`), or it is not started. The
//! executable for ONNX files is the one beside the frontend; its version is the file, which is among the artifacts.
//!
//! Not here: limits of CPU and memory (they have no effect, and a warning says so), GPUs (a deployment that
//! asks for some is refused), and isolation of any kind. What a child itself
//! starts dies with it when it is stopped or exits, but not when the frontend is killed.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures::future;
use futures::stream::BoxStream;
use parking_lot::Mutex;
use rustix::process::{Pid, Signal};
use skysail_proto::deployment::Artifact;
use skysail_proto::labels;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Child;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep};
use tokio_util::task::TaskTracker;

use super::{
    ContainerRuntime, ContainerState, ContainerStatus, Progress, ReplicaSpec, Resolution, RuntimeError, exit,
};
use crate::artifacts::ArtifactFolder;
use crate::orphans;
use crate::runtime::intake::{self, Intake};

mod digests;
mod log;
mod program;
mod spawner;

use digests::{Content, Digests, NoDigest};
use log::Log;
use program::{Programs, launch, no_digest, no_onnx, refuse_image_id, replaced, runs_content};
use spawner::Spawner;

/// How long a child's last words are waited for once it has ended. They are in the pipe already; only a
/// grandchild that left the process group can hold it open longer.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// Bytes of an output that are read at once.
const PIECE: usize = 16 * 1024;

/// How long SIGKILL may take: longer means that the kernel itself is stuck.
const KILL_TAKES: Duration = Duration::from_secs(5);

/// Runs containers as child processes.
#[derive(Debug)]
pub struct ProcessRuntime {
    children: Arc<Children>,
    spawner: Spawner,
    digests: Arc<Digests>,
    artifacts: ArtifactFolder,
    warned_of_limits: AtomicBool,
}

/// What the runtime, its thread and its tasks share.
#[derive(Debug, Default)]
struct Children {
    by_name: Mutex<BTreeMap<String, Arc<Container>>>,
    programs: Programs,
    changes: Arc<Notify>,
    /// One task for each child; it ends with the child.
    tasks: TaskTracker,
}

/// A child process, running or ended.
#[derive(Debug)]
struct Container {
    spec: ReplicaSpec,
    /// Also the id of its process group.
    pid: Pid,
    /// Once so, `pid` may belong to somebody else.
    reaped: AtomicBool,
    state: watch::Sender<ContainerState>,
    log: Log,
}

impl ProcessRuntime {
    /// A runtime without containers. Must be called within a tokio runtime.
    pub fn new() -> Result<Self, RuntimeError> {
        let spawner = Spawner::new()
            .map_err(|error| RuntimeError::Unavailable(format!("no thread can be started: {error}")))?;
        Ok(Self {
            children: Arc::default(),
            spawner,
            digests: Arc::default(),
            artifacts: ArtifactFolder::default(),
            warned_of_limits: AtomicBool::new(false),
        })
    }

    /// With the artifacts in this folder.
    pub(crate) fn with_artifacts(mut self, artifacts: ArtifactFolder) -> Self {
        self.artifacts = artifacts;
        self
    }

    /// What is in a file, read on a thread that may block.
    async fn content(&self, path: &str) -> Result<Content, RuntimeError> {
        let file = self.children.programs.place_of(path).unwrap_or_default();
        self.read(file).await?.map_err(|error| no_digest(path, &error))
    }

    async fn read(&self, file: PathBuf) -> Result<Result<Content, NoDigest>, RuntimeError> {
        let digests = self.digests.clone();
        blocking(move || digests.of(&file)).await
    }

    /// Where the version's ONNX file is, checked to be what it was when it was uploaded.
    async fn onnx_file(&self, spec: &ReplicaSpec) -> Result<Option<PathBuf>, RuntimeError> {
        let Some(sha256) = &spec.onnx else { return Ok(None) };
        let wrong = |problem: &str| Err(RuntimeError::Image(no_onnx(sha256, problem)));
        let Some(path) = self.artifacts.path_of(sha256) else {
            return wrong("has no folder (--artifacts DIR)");
        };
        match self.read(path.clone()).await? {
            Ok(content) if content.sha256 == sha256.to_string() => Ok(Some(path)),
            // Who deploys uploads only what is not there.
            Ok(_) => wrong(&format!("was changed on the disk (remove {})", path.display())),
            Err(NoDigest::Unreadable(error)) if error.kind() == io::ErrorKind::NotFound => {
                wrong("is not on this frontend")
            }
            Err(error) => Err(no_digest(&path.display().to_string(), &error)),
        }
    }

    /// Checks that every file is what it was; gives what is in the executable.
    async fn check_artifacts(&self, spec: &ReplicaSpec) -> Result<Option<Content>, RuntimeError> {
        let mut program = None;
        for artifact in &spec.artifacts {
            let content = self.content(&artifact.path).await?;
            if content.sha256 != artifact.sha256 {
                return Err(RuntimeError::Image(replaced(artifact, &content, &spec.model)));
            }
            if artifact.path == spec.image {
                program = Some(content);
            }
        }
        Ok(program)
    }

    /// Reaps the orphans among the frontend's children, of which these containers are none. On the thread that
    /// starts containers, so that each one is known once it can have ended.
    pub async fn reap_orphans(&self) {
        let children = self.children.clone();
        self.spawner
            .run(move || orphans::reap(|pid| children.includes(pid)))
            .await;
    }

    fn warn_of_limits(&self, spec: &ReplicaSpec) {
        let limited = spec.cpus.is_some() || spec.memory_bytes.is_some();
        if limited && !self.warned_of_limits.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                container = spec.container,
                "the process runtime does not limit cpus and memory; use the docker runtime for that"
            );
        }
    }
}

/// Whatever still runs is killed: an orderly end is [`ProcessRuntime::shutdown`], before.
impl Drop for ProcessRuntime {
    fn drop(&mut self) {
        for container in self.children.all() {
            container.signal_group(Signal::KILL);
        }
    }
}

#[async_trait]
impl ContainerRuntime for ProcessRuntime {
    async fn resolve(&self, spec: &ReplicaSpec, _progress: &Progress) -> Result<Resolution, RuntimeError> {
        refuse_image_id(spec)?;
        let (children, image) = (self.children.clone(), spec.image.clone());
        blocking(move || children.programs.executable(&image)).await??;
        let executable = Artifact {
            path: spec.image.clone(),
            sha256: self.content(&spec.image).await?.sha256,
        };
        Ok(Resolution {
            image_id: None,
            artifacts: std::iter::once(executable)
                .chain(spec.artifacts.iter().cloned())
                .collect(),
        })
    }

    async fn moved_on(&self, spec: &ReplicaSpec) -> Result<Option<String>, RuntimeError> {
        for artifact in &spec.artifacts {
            match self.content(&artifact.path).await {
                Ok(content) if content.sha256 == artifact.sha256 => {}
                Ok(content) => return Ok(Some(replaced(artifact, &content, &spec.model))),
                Err(RuntimeError::Image(why)) => return Ok(Some(why)),
                Err(error) => return Err(error),
            }
        }
        match self.onnx_file(spec).await {
            Ok(_) => Ok(None),
            Err(RuntimeError::Image(why)) => Ok(Some(why)),
            Err(error) => Err(error),
        }
    }

    async fn start(&self, spec: &ReplicaSpec, _progress: &Progress) -> Result<(), RuntimeError> {
        if let Some(gpus) = spec.gpus {
            return Err(RuntimeError::Image(format!(
                "the process runtime gives out no GPUs ({gpus} asked for): a process sees all of the machine's; \
                 deploy without --gpus, or use the docker runtime"
            )));
        }
        self.warn_of_limits(spec);
        refuse_image_id(spec)?;
        let content = self.check_artifacts(spec).await?;
        let (children, mut spec) = (self.children.clone(), spec.clone());
        if let Some(file) = self.onnx_file(&spec).await? {
            let file = file.to_string_lossy().into_owned();
            spec.env.insert(labels::ENV_ONNX_FILE.to_owned(), file);
        }
        let started = self.spawner.run(move || children.start(spec, content)).await;
        started.unwrap_or_else(|| {
            let lost = "the thread that starts containers failed; the log says more";
            Err(RuntimeError::Container(lost.into()))
        })
    }

    async fn stop(&self, container: &str, grace: Duration) -> Result<(), RuntimeError> {
        match self.children.get(container) {
            Some(container) => self.children.stop(&container, grace).await,
            None => Ok(()),
        }
    }

    async fn list(&self) -> Result<Vec<ContainerStatus>, RuntimeError> {
        let all = self.children.all();
        Ok(all.iter().map(|container| container.status()).collect())
    }

    async fn logs(
        &self,
        container: &str,
        tail: usize,
        follow: bool,
    ) -> Result<BoxStream<'static, String>, RuntimeError> {
        match self.children.get(container) {
            Some(container) => Ok(container.log.read(tail, follow)),
            None => Err(RuntimeError::Container(format!(
                "there is no container `{container}`"
            ))),
        }
    }

    fn changes(&self) -> Arc<Notify> {
        self.children.changes.clone()
    }

    /// Ends all containers together, as [`ContainerRuntime::stop`] does each.
    async fn shutdown(&self, grace: Duration, _is_last: bool) -> Result<(), RuntimeError> {
        let all = self.children.all();
        future::join_all(all.iter().map(|container| self.children.stop(container, grace)))
            .await
            .into_iter()
            .filter_map(Result::err)
            .for_each(|error| tracing::warn!(%error, "container not stopped"));
        Ok(())
    }
}

impl Children {
    fn all(&self) -> Vec<Arc<Container>> {
        self.by_name.lock().values().cloned().collect()
    }

    /// Whether `pid` is a container's that was not asked yet how it ended.
    fn includes(&self, pid: Pid) -> bool {
        let by_name = self.by_name.lock();
        let mut waited_for = by_name
            .values()
            .filter(|container| !container.reaped.load(Ordering::Acquire));
        waited_for.any(|container| container.pid == pid)
    }

    fn get(&self, name: &str) -> Option<Arc<Container>> {
        self.by_name.lock().get(name).cloned()
    }

    /// Runs on the spawner's thread only: nothing comes between the look and the start.
    fn start(self: Arc<Self>, spec: ReplicaSpec, content: Option<Content>) -> Result<(), RuntimeError> {
        if let Some(present) = self.get(&spec.container)
            && present.runs()
        {
            return super::same_or_refuse(&spec, &present.spec.digest);
        }
        let program = self.programs.executable(&spec.image)?;
        let child = launch(&program, &spec)?;
        if let Some(content) = content
            && !runs_content(&child, &program, &content)
        {
            // Dropping the child kills it.
            return Err(RuntimeError::Container(format!(
                "`{}` was replaced in the moment it was started; what was started was ended",
                program.display()
            )));
        }
        let pid = child.id().and_then(|pid| Pid::from_raw(pid.cast_signed()));
        let container = Arc::new(Container {
            pid: pid.expect("a child that was not waited for has its id; this is a bug"),
            spec,
            reaped: AtomicBool::new(false),
            state: watch::Sender::new(ContainerState::Running),
            log: Log::new(),
        });
        let name = container.spec.container.clone();
        self.by_name.lock().insert(name, container.clone());
        let watcher = self.clone();
        self.tasks.spawn(async move {
            container.watch(child).await;
            watcher.changes.notify_one();
        });
        Ok(())
    }

    async fn stop(&self, container: &Arc<Container>, grace: Duration) -> Result<(), RuntimeError> {
        container.end(grace).await?;
        let mut by_name = self.by_name.lock();
        let name = &container.spec.container;
        // A new container may have taken the place of the ended one meanwhile; that one stays.
        if by_name
            .get(name)
            .is_some_and(|present| Arc::ptr_eq(present, container))
        {
            by_name.remove(name);
        }
        Ok(())
    }
}

impl Container {
    fn runs(&self) -> bool {
        *self.state.borrow() == ContainerState::Running
    }

    fn status(&self) -> ContainerStatus {
        let state = self.state.borrow().clone();
        ContainerStatus {
            container: self.spec.container.clone(),
            replica: self.spec.replica.clone(),
            model: self.spec.model.clone(),
            spec_digest: self.spec.digest.clone(),
            incarnation: None,
            start: self.spec.start.clone(),
            pid: (state == ContainerState::Running).then(|| self.pid.as_raw_nonzero().get().cast_unsigned()),
            state,
        }
    }

    /// Follows the child to its end. The state tells of the end only once the log is complete, so that
    /// whoever sees the one can read the other.
    async fn watch(&self, mut child: Child) {
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let output = future::join(self.keep_lines(stdout), self.keep_lines(stderr));
        tokio::pin!(output);
        let (ended, output_open) = tokio::select! {
            ended = child.wait() => (ended, true),
            _ = &mut output => (child.wait().await, false),
        };
        // As in a container whose first process ends: the others end too. The id cannot have been given
        // to another group in the instant since, for process ids are given out in turn.
        self.signal_group(Signal::KILL);
        self.reaped.store(true, Ordering::Release);
        if output_open {
            let _ = tokio::time::timeout(LAST_WORDS, &mut output).await;
        }
        self.log.end();
        self.state.send_replace(ended_as(ended));
    }

    async fn keep_lines(&self, output: Option<impl AsyncRead + Unpin>) {
        let Some(mut output) = output else { return };
        // More at once than is kept would be forgotten the moment it is taken in.
        let mut intake = Intake::new(log::MAX_BYTES, Instant::now());
        let mut piece = vec![0; PIECE];
        loop {
            let mut lines = Vec::new();
            match until_due(&intake, output.read(&mut piece)).await {
                Some(Ok(read @ 1..)) => intake.push(&piece[..read], Instant::now(), &mut lines),
                None => intake.look(Instant::now(), &mut lines),
                // An output that cannot be read is treated like one that ended: the child itself is watched
                // apart.
                Some(Ok(0) | Err(_)) => break,
            }
            self.log.push(lines);
            if intake.pauses() {
                sleep(intake::PAUSE).await;
            }
        }
        let mut lines = Vec::new();
        intake.finish(&mut lines);
        self.log.push(lines);
    }

    /// Returns once the child has ended: by itself on SIGTERM, or after `grace` by SIGKILL.
    async fn end(&self, grace: Duration) -> Result<(), RuntimeError> {
        self.signal(Signal::TERM);
        if self.ended_within(grace).await {
            return Ok(());
        }
        self.signal_group(Signal::KILL);
        if self.ended_within(KILL_TAKES).await {
            return Ok(());
        }
        let (name, pid) = (&self.spec.container, self.pid);
        Err(RuntimeError::Container(format!(
            "container `{name}` (process {pid}) does not end, not even by SIGKILL: the kernel holds it"
        )))
    }

    async fn ended_within(&self, time: Duration) -> bool {
        let mut state = self.state.subscribe();
        let ended = state.wait_for(|state| *state != ContainerState::Running);
        tokio::time::timeout(time, ended).await.is_ok()
    }

    /// A signal that comes too late is none, so that errors mean nothing here.
    fn signal(&self, signal: Signal) {
        if !self.reaped.load(Ordering::Acquire) {
            let _ = rustix::process::kill_process(self.pid, signal);
        }
    }

    fn signal_group(&self, signal: Signal) {
        if !self.reaped.load(Ordering::Acquire) {
            let _ = rustix::process::kill_process_group(self.pid, signal);
        }
    }
}

/// What is read, unless the intake is due first.
async fn until_due<T>(intake: &Intake, read: impl Future<Output = T>) -> Option<T> {
    match intake.due() {
        Some(due) => tokio::time::timeout_at(due, read).await.ok(),
        None => Some(read.await),
    }
}

/// Does what asks the file system on a thread that may wait for it.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, RuntimeError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|failed| RuntimeError::Container(format!("a look at the files of a version {failed}")))
}

fn ended_as(ended: io::Result<ExitStatus>) -> ContainerState {
    match ended.map(|status| (status.code(), status.signal())) {
        Ok((Some(code), _)) => ContainerState::Exited {
            code: code.into(),
            detail: None,
        },
        Ok((None, signal)) => exit::from_signal(signal.unwrap_or_default()),
        Err(error) => ContainerState::Exited {
            code: -1,
            detail: Some(format!("its end could not be observed: {error}")),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;

    use futures::StreamExt;
    use skysail_proto::deployment::ONNX_IMAGE;
    use skysail_proto::ids::{ModelId, ReplicaId};

    use super::*;

    /// The SHA-256 of `abc`.
    const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    /// A runtime whose frontend has a program for ONNX files beside it, which prints the file that it is given.
    fn runtime(folder: &Path) -> ProcessRuntime {
        let program = folder.join(ONNX_IMAGE);
        fs::write(
            &program,
            "#!/bin/sh\nread -r word < \"$SKYSAIL_ONNX_FILE\"\necho \"file: $word\"\n",
        )
        .unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let mut runtime = ProcessRuntime::new().unwrap();
        runtime.children = Arc::new(Children {
            programs: Programs::in_folder(folder),
            ..Children::default()
        });
        runtime.with_artifacts(ArtifactFolder::at(Some(folder.to_owned())))
    }

    fn spec() -> ReplicaSpec {
        let model: ModelId = "digits:1".parse().unwrap();
        ReplicaSpec {
            container: "digits".into(),
            replica: ReplicaId::of(&model, 0),
            model,
            image: ONNX_IMAGE.into(),
            image_id: None,
            artifacts: Vec::new(),
            onnx: Some(ABC.parse().unwrap()),
            cpus: None,
            gpus: None,
            memory_bytes: None,
            env: BTreeMap::new(),
            digest: "digest".into(),
            incarnation: "store".into(),
            start: "start".into(),
        }
    }

    #[tokio::test]
    async fn a_container_is_told_where_its_onnx_file_is() {
        let folder = tempfile::tempdir().unwrap();
        let runtime = runtime(folder.path());
        fs::write(folder.path().join(ABC), "abc").unwrap();
        runtime.start(&spec(), &|_| ()).await.unwrap();
        let log = runtime.logs("digits", 10, true).await.unwrap();
        assert_eq!(log.collect::<Vec<_>>().await, ["file: abc"]);
        assert_eq!(runtime.moved_on(&spec()).await.unwrap(), None);
    }

    #[tokio::test]
    async fn an_onnx_file_that_is_gone_or_changed_is_not_served() {
        let folder = tempfile::tempdir().unwrap();
        let runtime = runtime(folder.path());
        for (content, problem) in [(None, "is not on this frontend"), (Some("abd"), "was changed")] {
            if let Some(content) = content {
                fs::write(folder.path().join(ABC), content).unwrap();
            }
            let error = runtime.start(&spec(), &|_| ()).await.unwrap_err();
            let RuntimeError::Image(why) = error else {
                panic!("{error:?}")
            };
            assert!(why.contains(problem) && why.contains("upload it"), "{why}");
            assert_eq!(runtime.moved_on(&spec()).await.unwrap(), Some(why));
            assert_eq!(runtime.list().await.unwrap(), []);
        }
    }
}

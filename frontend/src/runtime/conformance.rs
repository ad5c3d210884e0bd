//! What every container runtime promises, as checks that each implementation runs.
//!
//! A harness makes a [`Subject`] for each promise, awaits [`Promise::check`], which panics where the
//! promise is broken, and removes what the check left. The image of the subject must be the test
//! container: a program that does what the variable [`SCRIPT`] says, a command a line:
//!
//! | command | does |
//! |---|---|
//! | `print TEXT`, `complain TEXT` | prints a line to stdout, or to stderr |
//! | `begin TEXT` | prints to stdout without ending the line |
//! | `env NAME` | prints `NAME=VALUE`, or `NAME is not set` |
//! | `on-term TEXT` | from now on, SIGTERM makes it print a line and exit with 0 |
//! | `ignore-term` | from now on, SIGTERM does nothing |
//! | `wait` | waits for ever |
//! | `exit CODE` | ends |
//!
//! Waiting is for a state, with a bound that only a failure reaches.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{Stream, StreamExt};
use skysail_proto::ids::{ModelId, ReplicaId};

use super::{ContainerRuntime, ContainerState, ContainerStatus, ReplicaSpec, RuntimeError};

/// The variable that tells the test container what to do.
pub const SCRIPT: &str = "TEST_SCRIPT";

/// What a state is waited for at most; engines are slow on a busy machine.
const BOUND: Duration = Duration::from_secs(60);

/// A grace that is never used up by a container that ends at SIGTERM.
const AMPLE: Duration = Duration::from_secs(30);

/// A grace that a container is meant to use up.
const SHORT: Duration = Duration::from_millis(200);

/// A runtime to check, with a cluster of its own, and what to check it with.
pub struct Subject {
    /// The runtime.
    pub runtime: Arc<dyn ContainerRuntime>,
    /// One of the same kind for another cluster.
    pub neighbour: Arc<dyn ContainerRuntime>,
    /// The image of the test container.
    pub image: String,
    /// An image that cannot be had.
    pub missing_image: String,
    /// How the names of containers begin, so that no other subject uses the same.
    pub prefix: String,
}

/// A promise by its name, a sentence, and the check of it.
#[derive(Clone, Copy)]
pub struct Promise {
    /// The sentence, in snake case.
    pub name: &'static str,
    kept: for<'a> fn(&'a Subject) -> BoxFuture<'a, ()>,
}

impl Promise {
    /// Panics if `subject` breaks the promise.
    pub async fn check(&self, subject: &Subject) {
        (self.kept)(subject).await;
    }
}

macro_rules! promises {
    ($($name:ident)*) => {
        /// All promises.
        pub const PROMISES: &[Promise] = &[$(Promise {
            name: stringify!($name),
            kept: |subject| Box::pin($name(subject)),
        }),*];
    };
}

promises! {
    a_started_container_is_listed_with_what_it_was_started_with
    starting_a_running_container_again_changes_nothing
    two_starts_at_once_start_one
    a_running_container_is_not_replaced_by_another_specification
    an_ended_container_is_started_anew_in_its_place
    an_exit_is_noticed_with_its_code
    the_environment_reaches_the_container
    both_outputs_are_kept_in_whole_lines
    the_tail_of_a_log_is_its_last_lines
    an_ended_container_still_has_its_log
    a_followed_log_goes_on_until_the_container_ends
    a_log_of_no_container_is_an_error
    a_stopped_container_may_end_in_its_own_way
    a_container_that_does_not_stop_is_made_to
    stopping_removes_a_container_that_has_ended
    stopping_no_container_is_no_error
    an_image_that_cannot_be_had_says_so
    what_a_specification_says_that_its_names_mean_is_what_runs_or_nothing
    a_neighbours_containers_are_neither_listed_nor_touched
}

async fn a_started_container_is_listed_with_what_it_was_started_with(subject: &Subject) {
    let spec = subject.start("one", "wait").await;
    let expected = ContainerStatus {
        container: spec.container,
        replica: spec.replica,
        model: spec.model,
        spec_digest: spec.digest,
        incarnation: None,
        start: spec.start,
        state: ContainerState::Running,
        pid: None,
    };
    let listed = subject.runtime.list().await.expect("listed");
    let listed: Vec<_> = listed
        .into_iter()
        // Only where others' containers can be seen there is need to say whose one is.
        .inspect(|status| {
            let incarnation = status.incarnation.as_deref();
            assert!(
                incarnation.is_none_or(|life| life == spec.incarnation),
                "{status:?}"
            );
        })
        .map(|status| ContainerStatus {
            incarnation: None,
            pid: None,
            ..status
        })
        .collect();
    assert_eq!(listed, [expected]);
}

async fn starting_a_running_container_again_changes_nothing(subject: &Subject) {
    let spec = subject.start("one", "print started\nwait").await;
    subject.line(&spec, "started").await;
    let before = subject.runtime.list().await.expect("listed");
    // Each start is told apart from all others; the container keeps the start that made it.
    let again = ReplicaSpec {
        start: "another-start".into(),
        ..spec.clone()
    };
    subject.start_spec(&again).await.expect("started again");
    assert_eq!(subject.runtime.list().await.expect("listed"), before);
    assert_eq!(subject.log(&spec, 10).await, ["started"]);
}

async fn two_starts_at_once_start_one(subject: &Subject) {
    let spec = subject.spec("one", "print started\nwait");
    let (first, second) = futures::join!(subject.start_spec(&spec), subject.start_spec(&spec));
    first.expect("started");
    second.expect("started");
    subject.line(&spec, "started").await;
    assert_eq!(subject.runtime.list().await.expect("listed").len(), 1);
    assert_eq!(subject.log(&spec, 10).await, ["started"]);
}

async fn a_running_container_is_not_replaced_by_another_specification(subject: &Subject) {
    let spec = subject.start("one", "wait").await;
    let other = ReplicaSpec {
        digest: "another".into(),
        start: "another".into(),
        ..spec.clone()
    };
    let error = subject.start_spec(&other).await.expect_err("refused");
    assert!(matches!(error, RuntimeError::Container(_)), "{error:?}");
    assert_eq!(
        subject.status(&spec).await.expect("listed").spec_digest,
        spec.digest
    );
}

async fn an_ended_container_is_started_anew_in_its_place(subject: &Subject) {
    let spec = subject.start("one", "print first\nexit 1").await;
    subject.ended(&spec).await;
    let again = ReplicaSpec {
        digest: "another".into(),
        start: "another".into(),
        env: script("print second\nwait"),
        ..spec
    };
    subject.start_spec(&again).await.expect("started again");
    subject.line(&again, "second").await;
    assert_eq!(subject.log(&again, 10).await, ["second"]);
    let status = subject.status(&again).await.expect("listed");
    assert_eq!(
        (status.state, status.spec_digest, status.start),
        (ContainerState::Running, again.digest, again.start)
    );
}

async fn an_exit_is_noticed_with_its_code(subject: &Subject) {
    let spec = subject.start("one", "exit 3").await;
    let expected = ContainerState::Exited {
        code: 3,
        detail: None,
    };
    assert_eq!(subject.ended(&spec).await, expected);
    // It does not go by itself: whoever replaces it wants to know why first.
    assert_eq!(subject.status(&spec).await.expect("still listed").state, expected);
}

async fn the_environment_reaches_the_container(subject: &Subject) {
    let mut spec = subject.spec("one", "env EMPTY\nenv GREETING\nenv UNSET\nenv PATH\nexit 0");
    spec.env.insert("EMPTY".into(), String::new());
    spec.env
        .insert("GREETING".into(), "good morning = \"hi\" $HOME".into());
    subject.start_spec(&spec).await.expect("started");
    subject.ended(&spec).await;
    let log = subject.log(&spec, 10).await;
    let expected = [
        "EMPTY=",
        "GREETING=good morning = \"hi\" $HOME",
        "UNSET is not set",
    ];
    assert_eq!(log[..3], expected);
    assert!(log[3].starts_with("PATH=/"), "{log:?}");
}

async fn both_outputs_are_kept_in_whole_lines(subject: &Subject) {
    let script = "print one\ncomplain two\nbegin three\nprint  and a half\nprint ready\nwait";
    let spec = subject.start("one", script).await;
    // Nothing orders the two outputs among each other.
    subject.line(&spec, "two").await;
    subject.line(&spec, "ready").await;
    let mut log = subject.log(&spec, 10).await;
    log.retain(|line| line != "two");
    assert_eq!(log, ["one", "three and a half", "ready"]);
}

async fn the_tail_of_a_log_is_its_last_lines(subject: &Subject) {
    let spec = subject
        .start("one", "print one\nprint two\nprint ready\nwait")
        .await;
    subject.line(&spec, "ready").await;
    assert_eq!(subject.log(&spec, 2).await, ["two", "ready"]);
    assert!(subject.log(&spec, 0).await.is_empty());
}

async fn an_ended_container_still_has_its_log(subject: &Subject) {
    let spec = subject
        .start("one", "print why it ended\nbegin cut off\nexit 1")
        .await;
    // At once when the end is known: that is when the reconciler wants the last lines.
    subject.ended(&spec).await;
    let expected = ["why it ended", "cut off"];
    assert_eq!(subject.log(&spec, 10).await, expected);
    let followed = subject
        .runtime
        .logs(&spec.container, 10, true)
        .await
        .expect("a log");
    assert_eq!(within(followed.collect::<Vec<_>>()).await, expected);
}

async fn a_followed_log_goes_on_until_the_container_ends(subject: &Subject) {
    let script = "print before\non-term last words\nprint ready\nwait";
    let spec = subject.start("one", script).await;
    let followed = subject.runtime.logs(&spec.container, 10, true).await;
    let mut followed = followed.expect("a log");
    assert_eq!(within(followed.next()).await.as_deref(), Some("before"));
    assert_eq!(within(followed.next()).await.as_deref(), Some("ready"));
    subject.stop(&spec, AMPLE).await;
    assert_eq!(within(followed.collect::<Vec<_>>()).await, ["last words"]);
}

async fn a_log_of_no_container_is_an_error(subject: &Subject) {
    let spec = subject.spec("never", "wait");
    let logs = subject.runtime.logs(&spec.container, 10, false).await;
    let error = logs.err().expect("an error");
    assert!(error.to_string().contains(&spec.container), "{error}");
}

async fn a_stopped_container_may_end_in_its_own_way(subject: &Subject) {
    let spec = subject.start("one", "on-term drained\nprint ready\nwait").await;
    let rest = subject.rest_after(&spec, "ready").await;
    subject.stop(&spec, AMPLE).await;
    assert_eq!(subject.status(&spec).await, None);
    assert_eq!(within(rest.collect::<Vec<_>>()).await, ["drained"]);
}

async fn a_container_that_does_not_stop_is_made_to(subject: &Subject) {
    let spec = subject.start("one", "ignore-term\nprint ready\nwait").await;
    let rest = subject.rest_after(&spec, "ready").await;
    subject.stop(&spec, SHORT).await;
    assert_eq!(subject.status(&spec).await, None);
    // The log ends, so it runs no longer.
    assert!(within(rest.collect::<Vec<_>>()).await.is_empty());
}

async fn stopping_removes_a_container_that_has_ended(subject: &Subject) {
    let spec = subject.start("one", "exit 1").await;
    subject.ended(&spec).await;
    subject.stop(&spec, AMPLE).await;
    assert_eq!(subject.status(&spec).await, None);
    assert!(subject.runtime.logs(&spec.container, 1, false).await.is_err());
}

async fn stopping_no_container_is_no_error(subject: &Subject) {
    let spec = subject.spec("never", "wait");
    subject.stop(&spec, AMPLE).await;
    let stopped = subject.start("one", "on-term bye\nwait").await;
    subject.stop(&stopped, SHORT).await;
    subject.stop(&stopped, AMPLE).await;
}

async fn an_image_that_cannot_be_had_says_so(subject: &Subject) {
    let spec = ReplicaSpec {
        image: subject.missing_image.clone(),
        ..subject.spec("one", "wait")
    };
    let error = within(subject.start_spec(&spec)).await.expect_err("refused");
    assert!(matches!(error, RuntimeError::Image(_)), "{error:?}");
    let said = error.to_string();
    assert!(said.contains(&spec.image) && said.contains("check"), "{said}");
    assert_eq!(subject.status(&spec).await, None);
}

async fn what_a_specification_says_that_its_names_mean_is_what_runs_or_nothing(subject: &Subject) {
    let spec = subject.spec("one", "wait");
    let found = within(subject.runtime.resolve(&spec, &|_| ()))
        .await
        .expect("resolved");
    let resolved = ReplicaSpec {
        image_id: found.image_id.clone(),
        artifacts: found.artifacts.clone(),
        ..spec
    };
    let moved_on = within(subject.runtime.moved_on(&resolved)).await;
    assert_eq!(moved_on.expect("it can be looked at"), None);
    subject.start_spec(&resolved).await.expect("started");

    let nobodys = "0".repeat(64);
    let mut other = ReplicaSpec {
        image_id: found.image_id.map(|_| format!("sha256:{nobodys}")),
        container: format!("{}two", subject.prefix),
        ..resolved
    };
    for artifact in &mut other.artifacts {
        artifact.sha256.clone_from(&nobodys);
    }
    let error = within(subject.start_spec(&other)).await.expect_err("refused");
    assert!(matches!(error, RuntimeError::Image(_)), "{error:?}");
    assert!(error.to_string().contains("deploy a new version"), "{error}");
    assert_eq!(subject.status(&other).await, None);
    let moved_on = within(subject.runtime.moved_on(&other)).await;
    assert!(moved_on.expect("it can be looked at").is_some());
}

async fn a_neighbours_containers_are_neither_listed_nor_touched(subject: &Subject) {
    let spec = subject.spec("one", "print started\nwait");
    subject
        .neighbour
        .start(&spec, &|_| ())
        .await
        .expect("the neighbour's starts");
    assert_eq!(subject.status(&spec).await, None);
    // Whether these are errors is the runtime's affair; what matters is what they leave alone.
    let _ = subject.runtime.stop(&spec.container, Duration::ZERO).await;
    let own = ReplicaSpec {
        container: format!("{}own", spec.container),
        ..spec.clone()
    };
    subject.start_spec(&own).await.expect("started beside");
    let theirs = subject.neighbour.list().await.expect("listed");
    assert_eq!(theirs.len(), 1);
    assert_eq!(
        (&theirs[0].container, &theirs[0].state),
        (&spec.container, &ContainerState::Running)
    );
}

impl Subject {
    /// A container that does what `commands` say.
    pub fn spec(&self, name: &str, commands: &str) -> ReplicaSpec {
        let model: ModelId = "test-model:1.0-RC1".parse().expect("a good model id");
        ReplicaSpec {
            container: format!("{}{name}", self.prefix),
            replica: ReplicaId::of(&model, 0),
            model,
            image: self.image.clone(),
            image_id: None,
            artifacts: Vec::new(),
            onnx: None,
            cpus: None,
            gpus: None,
            memory_bytes: None,
            env: script(commands),
            digest: "digest-of-the-specification".into(),
            incarnation: "this-store".into(),
            start: "this-start".into(),
        }
    }

    /// Starts one, and panics if it does not.
    pub async fn start(&self, name: &str, commands: &str) -> ReplicaSpec {
        let spec = self.spec(name, commands);
        self.start_spec(&spec).await.expect("started");
        spec
    }

    /// Starts one, telling nobody of the progress.
    pub async fn start_spec(&self, spec: &ReplicaSpec) -> Result<(), RuntimeError> {
        self.runtime.start(spec, &|_| ()).await
    }

    /// How it ended, once the runtime notified of it: between notifications nobody looks.
    pub async fn ended(&self, spec: &ReplicaSpec) -> ContainerState {
        let changes = self.runtime.changes();
        loop {
            let status = self.status(spec).await.expect("an ended container stays listed");
            if status.state != ContainerState::Running {
                return status.state;
            }
            within(changes.notified()).await;
        }
    }

    /// Its last `tail` lines.
    pub async fn log(&self, spec: &ReplicaSpec, tail: usize) -> Vec<String> {
        let log = self
            .runtime
            .logs(&spec.container, tail, false)
            .await
            .expect("a log");
        within(log.collect()).await
    }

    /// What it prints after `line`, until its end.
    pub async fn rest_after(&self, spec: &ReplicaSpec, line: &str) -> BoxStream<'static, String> {
        self.line(spec, line).await;
        let mut log = self.runtime.logs(&spec.container, 1, true).await.expect("a log");
        assert_eq!(within(log.next()).await.as_deref(), Some(line));
        log
    }

    /// Returns once it has printed `line`.
    pub async fn line(&self, spec: &ReplicaSpec, line: &str) {
        let log = self
            .runtime
            .logs(&spec.container, 1000, true)
            .await
            .expect("a log");
        assert!(
            within(printed(log, line)).await,
            "the container ended without printing {line:?}"
        );
    }

    /// What the runtime lists of it.
    pub async fn status(&self, spec: &ReplicaSpec) -> Option<ContainerStatus> {
        let listed = self.runtime.list().await.expect("listed");
        listed
            .into_iter()
            .find(|status| status.container == spec.container)
    }

    async fn stop(&self, spec: &ReplicaSpec, grace: Duration) {
        self.runtime.stop(&spec.container, grace).await.expect("stopped");
    }
}

fn script(commands: &str) -> BTreeMap<String, String> {
    BTreeMap::from([(SCRIPT.to_owned(), commands.to_owned())])
}

async fn printed(log: impl Stream<Item = String>, line: &str) -> bool {
    let found = log.filter(|printed| std::future::ready(printed == line));
    std::pin::pin!(found).next().await.is_some()
}

/// Fails a check that waits for something that does not come.
async fn within<T>(wanted: impl Future<Output = T>) -> T {
    tokio::time::timeout(BOUND, wanted)
        .await
        .expect("what is waited for comes in time")
}

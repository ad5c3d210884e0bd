//! The process runtime keeps what runtimes promise, and leaves no process behind.
//!
//! That none outlives a frontend that is killed is shown with a real frontend, in `restart`.

use std::env;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use skysail_frontend::runtime::conformance::{PROMISES, Subject};
use skysail_frontend::runtime::process::ProcessRuntime;
use skysail_frontend::runtime::{ContainerRuntime, ContainerState, RuntimeError};
use skysail_tests::cases;
use skysail_tests::program::{gone, stat};
use skysail_tests::suite::Suite;
use skysail_tests::wait::{PATIENCE, within};

cases! {
    an_end_by_signal_counts_as_128_and_its_number;
    containers_inherit_nothing_but_what_finds_programs;
    what_a_container_started_ends_with_it;
    a_container_is_a_direct_child_in_a_group_of_its_own;
    an_executable_that_is_none_says_so;
    a_flood_is_left_out_with_a_word_and_what_follows_it_is_read;
    gpus_are_refused_with_what_to_do;
    a_dropped_runtime_leaves_no_process;
    shutdown_lets_all_containers_end_in_their_own_way;
}

const TEST_CONTAINER: &str = env!("CARGO_BIN_EXE_test-container");

/// With what every runtime promises.
pub(crate) fn keeps_promises(suite: Suite) -> Suite {
    PROMISES.iter().fold(suite, |suite, promise| {
        let name = format!("runtime_process::{}", promise.name);
        suite.test(name, &[], async || promise.check(&subject().await).await)
    })
}

async fn subject() -> Subject {
    subject_of(Arc::new(ProcessRuntime::new().expect("a runtime")))
}

fn subject_of(runtime: Arc<ProcessRuntime>) -> Subject {
    Subject {
        runtime,
        neighbour: Arc::new(ProcessRuntime::new().expect("a runtime")),
        image: TEST_CONTAINER.into(),
        missing_image: format!("{TEST_CONTAINER}-missing"),
        prefix: "test_".into(),
    }
}

async fn an_end_by_signal_counts_as_128_and_its_number() {
    let subject = subject().await;
    let spec = subject.start("one", "abort").await;
    let ContainerState::Exited { code, detail } = subject.ended(&spec).await else {
        panic!("it runs")
    };
    assert_eq!(
        (code, detail.as_deref()),
        (134, Some("killed by signal 6 (SIGABRT)"))
    );
}

async fn containers_inherit_nothing_but_what_finds_programs() {
    let kept = ["PATH", "HOME", "LANG", "LD_LIBRARY_PATH", "TMPDIR", "TZ"];
    // Cargo sets plenty, so there is always one.
    let (secret, _) = env::vars()
        .find(|(name, _)| !kept.contains(&name.as_str()))
        .expect("a variable");
    let subject = subject().await;
    let spec = subject.start("one", &format!("env {secret}\nexit 0")).await;
    subject.ended(&spec).await;
    assert_eq!(subject.log(&spec, 1).await, [format!("{secret} is not set")]);
}

async fn what_a_container_started_ends_with_it() {
    let subject = subject().await;
    let spec = subject.start("one", "child wait\nexit 0").await;
    subject.ended(&spec).await;
    let log = subject.log(&spec, 1).await;
    let child = log[0].strip_prefix("child ").expect("the child's id");
    gone(child.parse().expect("a process id")).await;
}

async fn a_container_is_a_direct_child_in_a_group_of_its_own() {
    let subject = subject().await;
    let spec = subject.start("one", "wait").await;
    let pid = subject
        .status(&spec)
        .await
        .and_then(|status| status.pid)
        .expect("its process id");
    let found = stat(pid).expect("a process");
    assert_eq!((found.parent, found.group), (std::process::id(), pid));
}

async fn an_executable_that_is_none_says_so() {
    let subject = subject().await;
    for (image, expected) in [
        (file!(), "not executable"),
        ("/", "not a file"),
        ("/dev/null/x", "cannot be used"),
    ] {
        let mut spec = subject.spec("one", "wait");
        // Cargo runs tests in the folder of their package, and `file!()` begins at the workspace's.
        spec.image = if image == file!() {
            "../".to_owned() + image
        } else {
            image.into()
        };
        let error = subject.start_spec(&spec).await.expect_err("refused");
        assert!(
            matches!(&error, RuntimeError::Image(said) if said.contains(expected)),
            "{error}"
        );
    }
}

async fn a_flood_is_left_out_with_a_word_and_what_follows_it_is_read() {
    let subject = subject().await;
    let spec = subject.start("one", "flood 20\nprint the end\nwait").await;
    let log = subject.runtime.logs(&spec.container, 1000, true).await;
    let mut log = log.expect("a log");
    let (mut lines, mut left_out) = (0, 0);
    within("the end", PATIENCE, async {
        while let Some(line) = log.next().await {
            lines += 1;
            left_out += usize::from(line.contains("left out here"));
            if line == "the end" {
                return;
            }
        }
        panic!("the log ended");
    })
    .await;
    assert!(left_out > 0, "{lines} lines");
}

async fn gpus_are_refused_with_what_to_do() {
    let subject = subject().await;
    let mut spec = subject.spec("one", "wait");
    spec.gpus = Some(1);
    let error = subject.start_spec(&spec).await.expect_err("refused");
    assert!(
        matches!(&error, RuntimeError::Image(said) if said.contains("--gpus") && said.contains("docker")),
        "{error}"
    );
    assert_eq!(subject.status(&spec).await, None);
}

async fn a_dropped_runtime_leaves_no_process() {
    let runtime = Arc::new(ProcessRuntime::new().expect("a runtime"));
    let subject = subject_of(runtime.clone());
    let spec = subject
        .start("one", "ignore-term\nchild ignore-term\nprint ready\nwait")
        .await;
    subject.line(&spec, "ready").await;
    let pid = subject
        .status(&spec)
        .await
        .and_then(|status| status.pid)
        .expect("its process id");
    drop((subject, runtime));
    gone(pid).await;
}

async fn shutdown_lets_all_containers_end_in_their_own_way() {
    let runtime = Arc::new(ProcessRuntime::new().expect("a runtime"));
    let subject = subject_of(runtime.clone());
    let mut logs = Vec::new();
    for name in ["one", "two"] {
        let spec = subject.start(name, "on-term drained\nprint ready\nwait").await;
        logs.push(subject.rest_after(&spec, "ready").await);
    }
    let ended = runtime.shutdown(Duration::from_secs(30), true).await;
    ended.expect("shut down");
    assert!(runtime.list().await.expect("listed").is_empty());
    for log in logs {
        let lines: Vec<_> = log.collect().await;
        assert_eq!(lines, ["drained"]);
    }
}

//! The process runtime keeps what runtimes promise, and leaves no process behind.

use std::env;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use libtest_mimic::{Arguments, Trial};
use skysail_frontend::runtime::conformance::{PROMISES, Subject};
use skysail_frontend::runtime::process::ProcessRuntime;
use skysail_frontend::runtime::{ContainerRuntime, ContainerState, RuntimeError};

/// Set for this test binary when it plays the frontend that will be killed.
const STAND_IN: &str = "TEST_STAND_IN";

const TEST_CONTAINER: &str = env!("CARGO_BIN_EXE_test-container");

fn main() -> ExitCode {
    if env::var_os(STAND_IN).is_some() {
        run(stand_in_for_a_frontend());
    }
    let promises = PROMISES.iter().map(|promise| {
        Trial::test(promise.name, move || {
            run(async move { promise.check(&subject().await).await });
            Ok(())
        })
    });
    let own = OWN.iter().map(|(name, check)| {
        Trial::test(*name, move || {
            run(check());
            Ok(())
        })
    });
    let all = promises.chain(own).collect();
    libtest_mimic::run(&Arguments::from_args(), all).exit_code()
}

type Check = fn() -> BoxFuture<'static, ()>;

macro_rules! checks {
    ($($name:ident)*) => {
        &[$((stringify!($name), || Box::pin($name()))),*]
    };
}

/// What only this runtime promises.
const OWN: &[(&str, Check)] = checks! {
    an_end_by_signal_counts_as_128_and_its_number
    containers_inherit_nothing_but_what_finds_programs
    what_a_container_started_ends_with_it
    a_container_is_a_direct_child_in_a_group_of_its_own
    an_executable_that_is_none_says_so
    a_dropped_runtime_leaves_no_process
    shutdown_lets_all_containers_end_in_their_own_way
    a_frontend_killed_by_sigkill_leaves_no_process
};

fn run<T>(test: impl Future<Output = T>) -> T {
    let tokio = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build();
    tokio.expect("a tokio runtime").block_on(test)
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
    let stat = stat_of(pid).expect("a process");
    assert_eq!((stat.parent, stat.group), (std::process::id(), pid));
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
    runtime.shutdown(Duration::from_secs(30)).await;
    assert!(runtime.list().await.expect("listed").is_empty());
    for log in logs {
        let lines: Vec<_> = futures::StreamExt::collect(log).await;
        assert_eq!(lines, ["drained"]);
    }
}

async fn a_frontend_killed_by_sigkill_leaves_no_process() {
    let mut frontend = Command::new(env::current_exe().expect("this binary"))
        .env(STAND_IN, "yes")
        .stdout(Stdio::piped())
        .spawn()
        .expect("the stand-in starts");
    let mut output = BufReader::new(frontend.stdout.take().expect("its output"));
    let mut line = String::new();
    output.read_line(&mut line).expect("the containers' process ids");
    let pids: Vec<u32> = line
        .split_whitespace()
        .map(|pid| pid.parse().expect("a process id"))
        .collect();
    assert_eq!(pids.len(), 2, "{line:?}");
    for pid in &pids {
        assert_eq!(stat_of(*pid).expect("it runs").parent, frontend.id());
    }
    frontend.kill().expect("killed");
    frontend.wait().expect("ended");
    for pid in pids {
        gone(pid).await;
    }
}

/// Starts containers that ignore SIGTERM, tells their process ids, and waits to be killed.
async fn stand_in_for_a_frontend() {
    let subject = subject().await;
    let mut pids = Vec::new();
    for name in ["one", "two"] {
        let spec = subject.start(name, "ignore-term\nprint ready\nwait").await;
        subject.line(&spec, "ready").await;
        let status = subject.status(&spec).await.expect("listed");
        pids.push(status.pid.expect("a process id").to_string());
    }
    let mut stdout = std::io::stdout();
    writeln!(stdout, "{}", pids.join(" ")).expect("written");
    stdout.flush().expect("flushed");
    std::future::pending().await
}

/// What the kernel says of a process.
struct Stat {
    state: char,
    parent: u32,
    group: u32,
}

fn stat_of(pid: u32) -> Option<Stat> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may hold anything; the fields follow it.
    let mut fields = stat.rsplit_once(") ")?.1.split(' ');
    Some(Stat {
        state: fields.next()?.chars().next()?,
        parent: fields.next()?.parse().ok()?,
        group: fields.next()?.parse().ok()?,
    })
}

/// Returns once the process has ended; a zombie has, only nobody has asked how yet.
async fn gone(pid: u32) {
    let ended = async {
        while stat_of(pid).is_some_and(|stat| stat.state != 'Z') {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), ended)
        .await
        .unwrap_or_else(|_| panic!("process {pid} is still there"));
}

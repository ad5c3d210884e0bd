//! Logs that nobody reads, that cannot be written, or that have no end: nobody waits for them.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::Duration;

use futures::future::join_all;
use rustix::process::Signal;
use serde_json::{Value, json};
use skysail_tests::binaries;
use skysail_tests::cases;
use skysail_tests::cluster::{AMPLE_SLO, Runtime, Settings, TestCluster};
use skysail_tests::deployment::{ByHand, Deployment};
use skysail_tests::program::{Program, thread_ticks};
use skysail_tests::wait::{PATIENCE, find, until};

cases! {
    a_log_that_nobody_reads_stops_no_query_and_what_is_left_out_is_told;
    a_frontend_whose_log_nobody_reads_ends_at_a_signal;
    a_frontend_whose_log_nobody_reads_ends_at_once_at_the_second_signal;
    a_log_on_a_full_disk_stops_nothing;
    a_frontend_that_cannot_start_ends_although_nobody_reads_why;
    a_container_whose_log_nobody_reads_serves_and_ends;
    what_a_container_prints_is_read_beside_the_queries_and_a_flood_is_left_out;
    the_last_lines_of_a_flood_are_kept;
    the_end_of_a_line_without_end_is_kept;
}

const DROPPED: &str = "skysail_log_lines_dropped_total";

/// A cluster that logs all it can.
fn talkative() -> Settings {
    Settings::default().flag("--log-level", "trace")
}

/// Stops reading the frontend's log, and asks until lines of it are left out.
async fn fill_log(cluster: &TestCluster) {
    cluster.log().hold();
    let mut asked = 0.0;
    until("lines to be left out", PATIENCE * 2, async || {
        // No input is asked twice: what is in the cache is answered without a word.
        let queries = (0..50).map(|_| {
            asked += 1.0;
            cluster.predict("app", json!([asked]))
        });
        join_all(queries.collect::<Vec<_>>()).await;
        cluster.metric(DROPPED).await > 0.0
    })
    .await;
}

async fn a_log_that_nobody_reads_stops_no_query_and_what_is_left_out_is_told() {
    let cluster = talkative().start().await;
    cluster.serve("app", &Deployment::of("noop")).await;
    let crashing = Deployment::of_image("crashing", "/bin/false");
    cluster.deploy(&crashing).await;
    fill_log(&cluster).await;
    assert_eq!(cluster.predict("app", json!([-1.0])).await, 0);
    for api in [cluster.queries(), cluster.admin()] {
        assert_eq!(api.get("/healthz").await.status, 200);
    }
    cluster.log().go_on();
    let told = cluster.log().line("log lines were left out").await;
    let told: f64 = told
        .split_once("lines=")
        .and_then(|(_, count)| count.trim().parse().ok())
        .expect("how many");
    assert!(told > 0.0 && told <= cluster.metric(DROPPED).await, "{told}");
}

async fn a_frontend_whose_log_nobody_reads_ends_at_a_signal() {
    let mut cluster = talkative().start().await;
    cluster.serve("app", &Deployment::of("noop")).await;
    fill_log(&cluster).await;
    let ended = cluster.terminate().await;
    assert_eq!(ended.code(), Some(0), "{ended}");
}

async fn a_frontend_whose_log_nobody_reads_ends_at_once_at_the_second_signal() {
    let mut cluster = talkative().flag("--grace", "10m").start().await;
    cluster.serve("app", &Deployment::of("noop")).await;
    let slow = Deployment::synthetic().env("SYNTHETIC_FIXED_MICROS", "600000000");
    cluster
        .serve_within("slow", &slow, Duration::from_secs(600))
        .await;
    let queries = cluster.queries();
    tokio::spawn(async move {
        let _ = queries
            .send(reqwest::Method::POST, "/slow/predict", r#"{"input": [1]}"#)
            .await;
    });
    until("the query to be in the model's hands", PATIENCE, async || {
        cluster.replicas("synthetic").await[0]["in_flight"] == 1
    })
    .await;
    fill_log(&cluster).await;
    cluster.frontend().signal(Signal::TERM);
    let admin = cluster.admin();
    until("the first signal to be heard", PATIENCE, async || {
        admin.get("/readyz").await.status == 503
    })
    .await;
    let ended = cluster.terminate().await;
    assert_eq!(ended.code(), Some(143), "{ended}");
}

async fn a_log_on_a_full_disk_stops_nothing() {
    let full = ["sh", "-c", r#"exec "$@" 2>/dev/full"#, "sh"];
    let mut cluster = Settings::default().through(&full).start_unheard().await;
    cluster.serve("app", &Deployment::of("noop")).await;
    assert_eq!(cluster.predict("app", json!([1.0])).await, 0);
    assert!(cluster.metric(DROPPED).await > 0.0);
    assert_eq!(cluster.terminate().await.code(), Some(0));
}

async fn a_frontend_that_cannot_start_ends_although_nobody_reads_why() {
    let folder = tempfile::tempdir().expect("a folder");
    let code = folder.path().join("code");
    // The pipe is full before the frontend begins, and its reader does not read.
    let script = format!(
        r#"mkfifo {0}/pipe; sleep 1000 <{0}/pipe & reader=$!
           (head -c 65536 /dev/zero >&2; "$@" >&2; echo $? >{1}.new; mv {1}.new {1}) 2>{0}/pipe
           kill $reader"#,
        folder.path().display(),
        code.display()
    );
    let mut command = Command::new("sh");
    command
        .args(["-c", &script, "sh"])
        .arg(binaries::path("skysail-frontend"))
        .args(["--runtime=none", "--query-addr=192.0.2.1:1"])
        .env("HOME", folder.path());
    let mut shell = Program::start("a frontend that cannot start", command);
    let code = find("the frontend to end", PATIENCE, async || {
        fs::read_to_string(&code).ok()
    })
    .await;
    assert_eq!(code.trim(), "1");
    shell.end().await;
}

async fn a_container_whose_log_nobody_reads_serves_and_ends() {
    let cluster = Settings::default().runtime(Runtime::None).start().await;
    cluster.register_model("model", "doubles").await;
    cluster.register("app", "doubles", "-1.0", AMPLE_SLO).await;
    cluster.link("app", "model").await;
    let talkative = ByHand::of("noop", "model", "talkative").env("RUST_LOG", "trace");
    let mut container = cluster.by_hand(&talkative);
    cluster.attached("model", 1).await;
    container.log().hold();
    // Some kilobytes of log lines each: far more than a pipe takes.
    for round in 0..40 {
        let queries = (0..50).map(|number| cluster.predict("app", json!([round * 100 + number])));
        join_all(queries).await;
    }
    container.signal(Signal::TERM);
    assert_eq!(container.end().await.code(), Some(0));
}

/// Deploys a shell script as a model that is not expected to serve.
async fn deploy_script(cluster: &TestCluster, model: &str, script: &str) {
    let path = cluster.folder().join(model);
    fs::write(&path, format!("#!/bin/sh\n{script}\n")).expect("written");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("executable");
    let deployment = Deployment::of_image(model, path.display().to_string());
    cluster.deploy(&deployment).await;
}

async fn what_a_container_prints_is_read_beside_the_queries_and_a_flood_is_left_out() {
    let cluster = TestCluster::start().await;
    cluster.serve("app", &Deployment::of("noop")).await;
    deploy_script(&cluster, "flood", "yes flood & exec yes flood >&2").await;
    let log = "/api/v1/models/flood/versions/1/logs?tail=100";
    until("the flood to be left out", PATIENCE, async || {
        cluster.admin().get(log).await.text.contains("left out here")
    })
    .await;
    let used = || {
        let threads = thread_ticks(cluster.pid());
        let (control, others): (Vec<_>, Vec<_>) = threads
            .into_iter()
            .partition(|(name, _)| name == "skysail-control");
        let sum = |threads: Vec<(String, u64)>| threads.iter().map(|(_, ticks)| ticks).sum::<u64>();
        (sum(control), sum(others))
    };
    let before = used();
    until("the flood to be read for a while", PATIENCE, async || {
        used().0 >= before.0 + 20
    })
    .await;
    let (control, others) = used();
    let (control, others) = (control - before.0, others - before.1);
    assert!(others * 2 < control, "{others} ticks beside {control}");
    assert_eq!(cluster.predict("app", json!([1.0])).await, 0);
}

async fn the_last_lines_of_a_flood_are_kept() {
    let cluster = TestCluster::start().await;
    let script = "yes flooding | head -c 9000000 >&2\necho the weights are gone >&2\nexit 3";
    deploy_script(&cluster, "failing", script).await;
    let failure = failure(&cluster, "failing").await;
    let log: Vec<&str> = failure["log"]
        .as_array()
        .expect("lines")
        .iter()
        .filter_map(Value::as_str)
        .collect();
    assert_eq!(log.last(), Some(&"the weights are gone"), "{log:?}");
    assert_eq!(log[log.len() - 2], "flooding", "{log:?}");
}

async fn the_end_of_a_line_without_end_is_kept() {
    let cluster = TestCluster::start().await;
    let script = "yes ü€😀 | head -c 9000000 | tr -d '\\n' >&2\necho the end >&2\nexit 3";
    deploy_script(&cluster, "failing", script).await;
    let failure = failure(&cluster, "failing").await;
    let last = failure["log"].as_array().and_then(|log| log.last());
    let last = last.and_then(Value::as_str).expect("a line");
    assert!(last.starts_with('…') && last.ends_with("the end"), "{last}");
    assert!(!last.contains('\u{fffd}'), "{last}");
}

/// How a version's container ended, once it has.
async fn failure(cluster: &TestCluster, model: &str) -> Value {
    find("the container to end", PATIENCE, async || {
        let failure = cluster.version(model, "1").await["last_failure"].clone();
        (!failure.is_null()).then_some(failure)
    })
    .await
}

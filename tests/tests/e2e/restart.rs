//! Ends and beginnings of a frontend: killed and started again, asked to end, told twice.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use futures::future::join_all;
use rustix::process::Signal;
use serde_json::{Value, json};
use skysail_tests::binaries;
use skysail_tests::cases;
use skysail_tests::cluster::{Runtime, Settings, TestCluster};
use skysail_tests::deployment::{ByHand, Deployment};
use skysail_tests::program::{children_of, gone, runs};
use skysail_tests::redis::RedisServer;
use skysail_tests::skysail::Skysail;
use skysail_tests::wait::{PATIENCE, find, until};
use tokio::net::TcpStream;
use tokio::time::Instant;

cases! {
    killed_and_started_again_everything_comes_back_by_itself;
    killed_and_started_again_on_redis_everything_comes_back_by_itself: Redis;
    a_lone_frontend_is_ready_once_its_models_have_replicas;
    a_lone_frontend_on_redis_is_ready_once_its_models_have_replicas: Redis;
    a_lone_frontend_is_ready_once_containers_started_by_hand_are_back;
    a_model_that_does_not_come_back_keeps_a_frontend_from_being_ready_for_a_while_only;
    containers_started_by_hand_attach_again_by_themselves;
    an_acknowledged_write_survives_sigkill;
    a_store_file_that_is_removed_takes_no_write_and_is_restored_by_the_command;
    an_empty_store_file_is_warned_of;
    a_tilde_in_the_store_is_the_home_folder;
    no_process_outlives_a_killed_frontend;
    sigterm_lets_what_was_accepted_be_answered;
    sigterm_ends_at_the_grace_period_if_a_model_does_not;
    a_second_signal_ends_at_once;
    ctrl_c_ends_as_gracefully_as_sigterm;
}

const TEST_CONTAINER: &str = env!("CARGO_BIN_EXE_test-container");
const IRIS: [f64; 4] = [7.9, 4.4, 6.9, 2.5];

/// A model that answers two queries at a time, and takes its time.
fn slow() -> Deployment {
    Deployment::synthetic()
        .env("SYNTHETIC_FIXED_MICROS", "700000")
        .with("batch_size", 2)
}

/// A model that is never done while a test waits.
fn endless() -> Deployment {
    Deployment::synthetic().env("SYNTHETIC_FIXED_MICROS", "600000000")
}

async fn killed_and_started_again_everything_comes_back_by_itself() {
    comes_back(TestCluster::start().await).await;
}

async fn killed_and_started_again_on_redis_everything_comes_back_by_itself() {
    let redis = RedisServer::start().await;
    comes_back(Settings::default().redis(redis.url()).start().await).await;
}

async fn comes_back(mut cluster: TestCluster) {
    cluster.serve("iris", &Deployment::iris().replicas(3)).await;
    cluster.serve("zero", &Deployment::of("noop")).await;
    cluster
        .deploy(&Deployment::of("noop").named("noop", "2").replicas(0))
        .await;
    assert_eq!(cluster.predict("iris", json!(IRIS)).await, "virginica");
    let before = desired(&cluster).await;
    let children = children_of(cluster.pid());
    assert_eq!(children.len(), 4);

    for life in 0..2 {
        cluster.kill();
        let killed = Instant::now();
        cluster.relaunch().await;
        let answered = find("the first right prediction", PATIENCE, async || {
            let reply = cluster.query("iris", json!({ "input": IRIS })).await;
            (reply.status == 200 && reply.json()["output"] == "virginica").then(|| killed.elapsed())
        })
        .await;
        eprintln!("first right prediction {answered:?} after SIGKILL (life {life})");
        cluster.attached("iris-model", 3).await;
        cluster.attached("noop", 1).await;
        assert_eq!(desired(&cluster).await, before);
        // Whoever dials in before the catalog was read is asked for patience, and not sent away for seconds.
        let logs = "/api/v1/models/iris-model/versions/1/logs";
        let logs = cluster.admin().get(logs).await.text;
        assert!(!logs.contains("refused"), "{logs}");
    }
    for child in children {
        gone(child).await;
    }
}

/// Waits until a frontend says that it waits for replicas.
async fn is_not_ready(cluster: &TestCluster) {
    let queries = cluster.queries();
    until("it to say what it waits for", PATIENCE, async || {
        let reply = queries.get("/readyz").await;
        assert_eq!(reply.status, 503, "{}", reply.text);
        reply.text.contains("waiting for replicas of `")
    })
    .await;
}

/// Starts a program after a pause that any machine notices.
fn slow_to_start(cluster: &TestCluster, program: &str) -> String {
    let script = cluster.folder().join(format!("slow-{program}"));
    let program = binaries::path(program);
    let text = format!("#!/bin/sh\nsleep 2\nexec '{}'\n", program.display());
    fs::write(&script, text).expect("written");
    fs::set_permissions(&script, Permissions::from_mode(0o755)).expect("it is ours");
    script.display().to_string()
}

async fn a_lone_frontend_is_ready_once_its_models_have_replicas() {
    has_replicas_when_ready(TestCluster::start().await).await;
}

async fn a_lone_frontend_on_redis_is_ready_once_its_models_have_replicas() {
    let redis = RedisServer::start().await;
    has_replicas_when_ready(Settings::default().redis(redis.url()).start().await).await;
}

async fn has_replicas_when_ready(mut cluster: TestCluster) {
    let image = slow_to_start(&cluster, "iris-svm");
    cluster
        .serve("iris", &Deployment::of_image("iris-model", image))
        .await;
    // These are not waited for: one was stopped, and of the other nobody asks anything.
    cluster
        .register("stopped", "doubles", "-1.0", skysail_tests::cluster::AMPLE_SLO)
        .await;
    cluster.deploy(&Deployment::of("noop").replicas(0)).await;
    cluster.link("stopped", "noop").await;
    cluster
        .deploy(&Deployment::of_image("unlinked", "/no/such/program"))
        .await;
    for life in 0..2 {
        if life == 0 {
            cluster.kill();
        } else {
            assert!(cluster.terminate().await.success());
        }
        cluster.relaunch().await;
        is_not_ready(&cluster).await;
        cluster.ready().await;
        assert_eq!(cluster.predict("iris", json!(IRIS)).await, "virginica");
    }
}

async fn a_lone_frontend_is_ready_once_containers_started_by_hand_are_back() {
    let mut cluster = Settings::default().runtime(Runtime::None).start().await;
    cluster
        .register("app", "doubles", "-1.0", skysail_tests::cluster::AMPLE_SLO)
        .await;
    cluster.register_model("noop", "doubles").await;
    cluster.link("app", "noop").await;
    let _container = cluster.by_hand(&ByHand::of("noop", "noop", "left"));
    cluster.attached("noop", 1).await;
    for _life in 0..3 {
        cluster.kill();
        cluster.restart().await;
        assert_eq!(cluster.predict("app", json!([1.0])).await, 0);
    }
}

async fn a_model_that_does_not_come_back_keeps_a_frontend_from_being_ready_for_a_while_only() {
    let mut cluster = TestCluster::start().await;
    cluster.serve("zero", &Deployment::of("noop")).await;
    cluster
        .register("lost", "doubles", "-1.0", skysail_tests::cluster::AMPLE_SLO)
        .await;
    // It runs, and never attaches.
    let lost = Deployment::of_image("lost", TEST_CONTAINER).env("TEST_SCRIPT", "wait");
    cluster.deploy(&lost).await;
    cluster.link("lost", "lost").await;
    cluster.kill();
    cluster.relaunch().await;
    is_not_ready(&cluster).await;
    // Whoever asks all the same is answered.
    until("the other model to answer", PATIENCE, async || {
        let reply = cluster.query("zero", json!({ "input": [1] })).await;
        reply.status == 200 && reply.json()["default"] == false
    })
    .await;
    cluster.ready().await;
    assert_eq!(
        cluster.answer("lost", json!([1])).await["default_reason"],
        "no_replica"
    );
}

/// What was asked for: all that must survive a restart as it was.
async fn desired(cluster: &TestCluster) -> Value {
    let applications = cluster.admin().get("/api/v1/applications").await.expect(200);
    let models = cluster.admin().get("/api/v1/models").await.expect(200);
    let versions = models
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|model| model["versions"].as_array().unwrap());
    let of_version = |version: &Value| {
        let members = [
            "model",
            "version",
            "current",
            "input_type",
            "deployment",
            "registered_at",
            "max_batch",
        ];
        members.map(|member| version[member].clone()).to_vec()
    };
    json!([applications, versions.map(of_version).collect::<Vec<_>>()])
}

async fn containers_started_by_hand_attach_again_by_themselves() {
    let mut cluster = Settings::default().runtime(Runtime::None).start().await;
    cluster
        .register("app", "doubles", "-1.0", skysail_tests::cluster::AMPLE_SLO)
        .await;
    cluster.register_model("noop", "doubles").await;
    cluster.link("app", "noop").await;
    let containers = ["left", "right"].map(|replica| cluster.by_hand(&ByHand::of("noop", "noop", replica)));
    cluster.attached("noop", 2).await;
    for _life in 0..2 {
        cluster.kill();
        cluster.restart().await;
        let replicas = cluster.attached("noop", 2).await;
        let pids: Vec<u64> = replicas
            .iter()
            .filter_map(|replica| replica["pid"].as_u64())
            .collect();
        assert_eq!(
            pids,
            containers.each_ref().map(|container| u64::from(container.pid())),
            "the same ones"
        );
        assert_eq!(cluster.predict("app", json!([1.0])).await, 0);
    }
    // One that is asked to end says so before it does, and no query is lost to it.
    let [mut left, right] = containers;
    left.signal(Signal::TERM);
    let asked = join_all((0..50).map(|number| cluster.predict("app", json!([number]))));
    let (outputs, ended) = tokio::join!(asked, left.end());
    assert!(outputs.iter().all(|output| *output == 0), "{outputs:?}");
    assert_eq!(ended.code(), Some(0));
    assert!(runs(right.pid()));
}

async fn an_acknowledged_write_survives_sigkill() {
    let mut cluster = Settings::default().runtime(Runtime::None).start().await;
    for life in 0..5 {
        let name = format!("app-{life}");
        cluster
            .register(&name, "doubles", &name, skysail_tests::cluster::AMPLE_SLO)
            .await;
        cluster.kill();
        cluster.restart().await;
        assert_eq!(cluster.answer(&name, json!([1.0])).await["output"], name);
    }
}

async fn a_store_file_that_is_removed_takes_no_write_and_is_restored_by_the_command() {
    let mut cluster = TestCluster::start().await;
    cluster.serve("zero", &Deployment::of("noop")).await;
    let file = cluster.folder().join("metadata.redb");
    fs::remove_file(&file).unwrap();
    until("the loss to be told", PATIENCE, async || {
        let ready = cluster.queries().get("/readyz").await.json();
        ready["degraded"] == json!(["store"]) && ready["reasons"].to_string().contains("was removed")
    })
    .await;
    let body = json!({ "name": "late", "input_type": "doubles", "default_output": "", "slo_micros": 1 });
    let refused = cluster.admin().post("/api/v1/applications", body.clone()).await;
    let detail = refused.problem(503);
    assert!(detail.contains("skysail cluster restore"), "{detail}");
    assert_eq!(cluster.predict("zero", json!([1.0])).await, 0);

    let said = Skysail::at(cluster.addresses().admin)
        .done("cluster restore")
        .await;
    assert!(said.contains("wrote 1 application and 1 model back"), "{said}");
    cluster
        .admin()
        .post("/api/v1/applications", body)
        .await
        .expect(201);
    let ready = cluster.queries().get("/readyz").await.json();
    assert_eq!(ready["degraded"], json!([]), "{ready}");
    cluster.kill();
    cluster.restart().await;
    cluster.attached("noop", 1).await;
    cluster.admin().get("/api/v1/applications/late").await.expect(200);
}

async fn an_empty_store_file_is_warned_of() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("x.redb");
    fs::write(&file, "").unwrap();
    let store = format!("embedded:{}", file.display());
    let cluster = Settings::default().flag("--store", &store).start().await;
    let warned = cluster.log().line("0 bytes").await;
    assert!(
        warned.contains("WARN") && warned.contains("x.redb") && warned.contains("backup"),
        "{warned}"
    );
}

async fn a_tilde_in_the_store_is_the_home_folder() {
    let cluster = Settings::default()
        .flag("--store", "embedded:~/kept/x.redb")
        .start()
        .await;
    // The home folder of a test's frontend is its own folder.
    assert!(cluster.folder().join("kept/x.redb").is_file());
    assert!(!std::path::Path::new("~").exists());
    let (ended, said) = Settings::default()
        .flag("--store", "embedded:~ada/x.redb")
        .fail()
        .await;
    assert!(!ended.success() && said.contains("another user's"), "{said}");
}

async fn no_process_outlives_a_killed_frontend() {
    let mut cluster = TestCluster::start().await;
    cluster.serve("app", &Deployment::of("noop").replicas(2)).await;
    // One that would not go if it were asked.
    let stubborn =
        Deployment::of_image("stubborn", TEST_CONTAINER).env("TEST_SCRIPT", "ignore-term\nprint ready\nwait");
    cluster.deploy(&stubborn).await;
    let logs = "/api/v1/models/stubborn/versions/1/logs";
    until("the stubborn one to be so", PATIENCE, async || {
        cluster.admin().get(logs).await.text.contains("ready")
    })
    .await;
    let children = children_of(cluster.pid());
    assert_eq!(children.len(), 3);
    cluster.kill();
    for child in children {
        gone(child).await;
    }
}

async fn sigterm_lets_what_was_accepted_be_answered() {
    let mut cluster = Settings::default().flag("--grace", "60s").start().await;
    cluster.serve("app", &slow()).await;
    let children = children_of(cluster.pid());
    let queries = cluster.queries();
    let asked: Vec<_> = (0..6)
        .map(|number| {
            let queries = queries.clone();
            tokio::spawn(async move { queries.post("/app/predict", json!({ "input": [number] })).await })
        })
        .collect();
    until("all queries to be accepted", PATIENCE, async || {
        cluster.accepted("synthetic").await == 6
    })
    .await;
    let ended = cluster.terminate().await;
    assert_eq!(ended.code(), Some(0), "{ended}");
    for reply in join_all(asked).await {
        let answer = reply.expect("asked").expect(200);
        assert_eq!(answer["default"], false, "{answer}");
    }
    for child in children {
        gone(child).await;
    }
    let refused = TcpStream::connect(cluster.addresses().query).await;
    assert!(refused.is_err(), "nobody listens any more");
    cluster.restart().await;
    cluster.attached("synthetic", 1).await;
    assert_eq!(cluster.answer("app", json!([1.0])).await["default"], false);
}

/// A cluster with one query in the hands of a model that is never done.
async fn stuck(settings: Settings) -> (TestCluster, Vec<u32>) {
    let cluster = settings.start().await;
    cluster.serve("app", &endless()).await;
    let queries = cluster.queries();
    // Nobody waits for the answer: there will be none.
    tokio::spawn(async move {
        let _ = queries
            .send(reqwest::Method::POST, "/app/predict", r#"{"input": [1]}"#)
            .await;
    });
    until("the query to be in the model's hands", PATIENCE, async || {
        cluster.replicas("synthetic").await[0]["in_flight"] == 1
    })
    .await;
    let children = children_of(cluster.pid());
    (cluster, children)
}

async fn sigterm_ends_at_the_grace_period_if_a_model_does_not() {
    let (mut cluster, children) = stuck(Settings::default().flag("--grace", "500ms")).await;
    let ended = cluster.terminate().await;
    assert_eq!(ended.code(), Some(0), "{ended}");
    let log = cluster.frontend().whole_log().await.join("\n");
    assert!(
        log.contains("the grace period ended before every query was answered"),
        "{log}"
    );
    for child in children {
        gone(child).await;
    }
}

async fn a_second_signal_ends_at_once() {
    let (mut cluster, children) = stuck(Settings::default().flag("--grace", "10m")).await;
    cluster.frontend().signal(Signal::TERM);
    cluster.log().line("ending gracefully").await;
    let ended = cluster.terminate().await;
    assert_eq!(ended.code(), Some(143), "{ended}");
    for child in children {
        gone(child).await;
    }
}

async fn ctrl_c_ends_as_gracefully_as_sigterm() {
    let mut cluster = TestCluster::start().await;
    cluster.serve("app", &Deployment::of("noop").replicas(2)).await;
    let children = children_of(cluster.pid());
    cluster.frontend().signal(Signal::INT);
    let ended = cluster.frontend().end().await;
    assert_eq!(ended.code(), Some(0), "{ended}");
    for child in children {
        assert!(!runs(child), "{child} still runs");
    }
    let log = cluster.frontend().whole_log().await.join("\n");
    assert!(log.contains("drained") && !log.contains("ERROR"), "{log}");
    let left: Vec<_> = fs::read_dir(cluster.folder())
        .expect("listed")
        .filter_map(Result::ok)
        .collect();
    assert_eq!(left.len(), 1, "nothing but the store's file: {left:?}");
}

//! The signals that ask a process to end, and those that it was started to ignore.

use rustix::process::Signal;
use serde_json::json;
use skysail_tests::cases;
use skysail_tests::cluster::{Runtime, Settings, TestCluster};
use skysail_tests::deployment::{ByHand, Deployment};
use skysail_tests::program::{Program, children_of, runs};

cases! {
    a_hangup_and_a_quit_end_as_gracefully_as_sigterm;
    a_signal_that_was_ignored_at_the_start_stays_ignored;
    a_container_ends_as_gracefully_at_any_of_them;
    a_container_ignores_what_it_was_started_to_ignore;
    the_second_may_be_another_and_is_what_is_reported;
}

/// Becomes what follows, with these signals ignored, as `nohup` does.
fn ignoring(signals: &str) -> [String; 4] {
    let script = format!(r#"trap '' {signals}; exec "$@""#);
    ["sh".into(), "-c".into(), script, "sh".into()]
}

async fn a_hangup_and_a_quit_end_as_gracefully_as_sigterm() {
    for (signal, name) in [(Signal::HUP, "SIGHUP"), (Signal::QUIT, "SIGQUIT")] {
        let mut cluster = TestCluster::start().await;
        cluster.serve("app", &Deployment::of("noop").replicas(2)).await;
        let children = children_of(cluster.pid());
        cluster.frontend().signal(signal);
        let ended = cluster.frontend().end().await;
        assert_eq!(ended.code(), Some(0), "{name}: {ended}");
        for child in children {
            assert!(!runs(child), "{child} still runs");
        }
        let log = cluster.frontend().whole_log().await.join("\n");
        assert!(log.contains(name) && log.contains("drained"), "{log}");
    }
}

async fn a_signal_that_was_ignored_at_the_start_stays_ignored() {
    let words = ignoring("HUP INT QUIT");
    let words = words.each_ref().map(String::as_str);
    let mut cluster = Settings::default().through(&words).start().await;
    cluster.serve("app", &Deployment::of("noop")).await;
    for signal in [Signal::HUP, Signal::INT, Signal::QUIT] {
        cluster.frontend().signal(signal);
    }
    assert_eq!(cluster.predict("app", json!([1.0])).await, 0);
    assert_eq!(cluster.terminate().await.code(), Some(0));
    let log = cluster.frontend().whole_log().await.join("\n");
    assert!(log.contains("signal=\"SIGTERM\""), "{log}");
}

async fn a_container_ends_as_gracefully_at_any_of_them() {
    let cluster = Settings::default().runtime(Runtime::None).start().await;
    cluster.register_model("model", "doubles").await;
    for signal in [Signal::TERM, Signal::INT, Signal::HUP, Signal::QUIT] {
        let mut container = cluster.by_hand(&ByHand::of("noop", "model", "one"));
        cluster.attached("model", 1).await;
        container.signal(signal);
        assert_eq!(container.end().await.code(), Some(0), "{signal:?}");
        cluster.attached("model", 0).await;
    }
}

async fn a_container_ignores_what_it_was_started_to_ignore() {
    let cluster = Settings::default().runtime(Runtime::None).start().await;
    cluster.register_model("model", "doubles").await;
    let by_hand = ByHand::of("noop", "model", "one");
    let words = ignoring("HUP");
    let mut command = std::process::Command::new(&words[0]);
    command
        .args(&words[1..])
        .arg(&by_hand.program)
        .env("SKYSAIL_FRONTENDS", cluster.addresses().rpc.to_string())
        .env("SKYSAIL_MODEL_NAME", "model")
        .env("SKYSAIL_MODEL_VERSION", "1")
        .env("SKYSAIL_INPUT_TYPE", "doubles");
    let mut container = Program::start("a container under nohup", command);
    let before = cluster.attached("model", 1).await;
    container.signal(Signal::HUP);
    container.signal(Signal::HUP);
    let after = cluster.attached("model", 1).await;
    assert_eq!(before[0]["replica"], after[0]["replica"]);
    container.signal(Signal::TERM);
    assert_eq!(container.end().await.code(), Some(0));
    let log = container.whole_log().await.join("\n");
    assert!(!log.contains("SIGHUP"), "{log}");
}

async fn the_second_may_be_another_and_is_what_is_reported() {
    let mut cluster = Settings::default().flag("--grace", "10m").start().await;
    let slow = Deployment::synthetic().env("SYNTHETIC_FIXED_MICROS", "600000000");
    cluster.serve("app", &slow).await;
    let queries = cluster.queries();
    tokio::spawn(async move {
        let _ = queries
            .send(
                reqwest::Method::POST,
                "/app/predict",
                r#"{"input": [1], "slo_micros": 600000000}"#,
            )
            .await;
    });
    skysail_tests::wait::until(
        "the query to be taken",
        skysail_tests::wait::PATIENCE,
        async || cluster.replicas("synthetic").await[0]["in_flight"] == 1,
    )
    .await;
    cluster.frontend().signal(Signal::HUP);
    cluster.log().line("ending gracefully").await;
    cluster.frontend().signal(Signal::INT);
    assert_eq!(cluster.frontend().end().await.code(), Some(130));
}

//! `skysail bench` against a real frontend: what it counts is what was asked, and adds up.

use std::fs;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};
use skysail_tests::cases;
use skysail_tests::cluster::{AMPLE_SLO, TestCluster};
use skysail_tests::deployment::Deployment;
use skysail_tests::skysail::Skysail;
use skysail_tests::wait::{self, PATIENCE};

cases! {
    a_load_that_is_carried_is_answered_in_time_to_the_last_query;
    under_too_much_load_every_query_is_counted_once_and_the_server_counts_the_same;
    a_bench_that_is_interrupted_tells_what_it_found_out_so_far;
}

/// The object that a bench printed, in which every query that was offered became one thing.
#[track_caller]
fn report(printed: &str) -> Value {
    let report: Value = serde_json::from_str(printed).expect("one JSON object");
    let parts = ["in_time", "late", "defaulted", "failed"];
    let sum: u64 = parts.iter().map(|part| count(&report[part])).sum();
    assert_eq!(sum, count(&report["offered"]), "{report}");
    assert_eq!(
        sum_of(&report["defaults"]),
        count(&report["defaulted"]),
        "{report}"
    );
    assert_eq!(sum_of(&report["errors"]), count(&report["failed"]), "{report}");
    report
}

#[track_caller]
fn count(value: &Value) -> u64 {
    value.as_u64().expect("a count")
}

#[track_caller]
fn sum_of(counts: &Value) -> u64 {
    counts.as_object().expect("an object").values().map(count).sum()
}

async fn a_load_that_is_carried_is_answered_in_time_to_the_last_query() {
    let cluster = TestCluster::start().await;
    let counting = Deployment::synthetic().env("SYNTHETIC_REPORT_SEEN", "1");
    cluster.serve("echo", &counting).await;
    let skysail = Skysail::at(cluster.addresses().admin);
    let plot = cluster.folder().join("run.svg");
    let line = format!(
        "bench echo --rate 500 --duration 1s --arrivals bursty --output json --plot {}",
        plot.display()
    );
    let report = report(&skysail.done(&line).await);
    assert_eq!(report["in_time"], report["offered"], "{report}");
    assert_eq!(report["goodput"], 1.0);
    assert_eq!(report["ended"], "complete");
    let predictions = &report["latency_micros"]["predictions"];
    assert_eq!(predictions, &report["latency_micros"]["answers"]);
    assert!(
        count(&predictions["p50"]) <= count(&predictions["max"]),
        "{report}"
    );
    let svg = fs::read_to_string(plot).expect("the plot is there");
    assert!(svg.starts_with("<svg") && svg.ends_with("</svg>\n"), "{svg}");

    // No two inputs are alike: the model saw each of them, and now one more.
    let output = cluster.predict("echo", json!([1.0])).await;
    assert_eq!(
        count(&output["inputs_seen"]),
        count(&report["offered"]) + 1,
        "{output}"
    );
}

async fn under_too_much_load_every_query_is_counted_once_and_the_server_counts_the_same() {
    let cluster = TestCluster::start().await;
    // A batch of one takes a second: of hundreds of queries, few can be answered within two.
    let slow = Deployment::synthetic()
        .env("SYNTHETIC_FIXED_MICROS", "1000000")
        .with("batch_size", 1);
    cluster.serve_within("slow", &slow, Duration::from_secs(2)).await;
    let skysail = Skysail::at(cluster.addresses().admin);
    let line = "bench slow --rate 300 --duration 1s --output json";
    let report = report(&skysail.done(line).await);
    assert_eq!(report["errors"], json!({}), "{report}");
    assert_eq!(report["sent"], report["offered"]);
    assert!(
        count(&report["defaulted"]) > count(&report["in_time"]),
        "{report}"
    );
    for (reason, count) in report["defaults"].as_object().unwrap() {
        let sample = format!(r#"skysail_defaults_total{{application="slow",reason="{reason}"}}"#);
        assert_eq!(json!(cluster.metric(&sample).await as u64), *count, "{sample}");
    }
}

async fn a_bench_that_is_interrupted_tells_what_it_found_out_so_far() {
    let cluster = TestCluster::start().await;
    let endless = Deployment::synthetic()
        .env("SYNTHETIC_FIXED_MICROS", "600000000")
        .with("batch_size", 1);
    cluster.serve_within("never", &endless, AMPLE_SLO * 20).await;
    let skysail = Skysail::at(cluster.addresses().admin);
    let mut bench = skysail.start("bench never --rate 50 --duration 1h --output json");
    bench.log().line("sending 50 queries/s to never").await;
    wait::until("queries to wait", PATIENCE, async || {
        let waiting = r#"skysail_queue_length{model="synthetic",version="1"}"#;
        cluster.metric(waiting).await > 0.0
    })
    .await;
    // Whoever closes the terminal wants to know as well.
    bench.signal(Signal::HUP);
    // What is under way may yet be answered, unless nobody wants to wait.
    bench.log().line("waiting for the last answers").await;
    bench.signal(Signal::INT);
    assert!(bench.end().await.success());
    let log = bench.whole_log().await;
    let printed = log.iter().find(|line| line.starts_with('{')).expect("a report");
    let report = report(printed);
    assert_eq!(report["ended"], "interrupted");
    assert_eq!(report["errors"], json!({ "interrupted": report["offered"] }));
}

//! How large batches become by themselves: as large as replicas have shown that they can take, and smaller again where
//! that was too large.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use skysail_tests::cases;
use skysail_tests::cluster::TestCluster;
use skysail_tests::deployment::Deployment;
use skysail_tests::skysail::Skysail;
use skysail_tests::wait::{PATIENCE, find};

cases! {
    batches_grow_beyond_any_number_that_somebody_would_have_to_choose;
    a_hard_cap_is_never_exceeded;
    a_batch_that_is_too_large_for_the_model_is_answered_in_smaller_ones_and_the_limit_is_shown;
    a_batch_that_is_too_large_for_the_memory_costs_its_replica_and_no_query;
    a_container_whose_warm_up_is_too_large_for_its_memory_serves_all_the_same;
}

/// A batch takes 20 ms, however large it is.
fn model() -> Deployment {
    Deployment::synthetic()
        .env("SYNTHETIC_FIXED_MICROS", "20000")
        .env("SYNTHETIC_REPORT_SEEN", "1")
        .with("cache", false)
}

/// Asks for so many rows at once, and expects the model's answer to each.
async fn ask(cluster: &TestCluster, rows: u64) -> Vec<Value> {
    let rows: Vec<_> = (0..rows).map(|row| json!([row])).collect();
    let reply = cluster
        .query("app", json!({ "input_batch": rows }))
        .await
        .expect(200);
    let answers = reply["batch_predictions"].as_array().unwrap().clone();
    assert_eq!(answers.len(), rows.len());
    let default = answers.iter().find(|answer| answer["default"] == true);
    assert_eq!(default, None);
    answers
}

async fn batches_sent(cluster: &TestCluster) -> u64 {
    let replica = &cluster.attached("synthetic", 1).await[0];
    replica["batches"].as_u64().unwrap()
}

async fn batches_grow_beyond_any_number_that_somebody_would_have_to_choose() {
    let cluster = TestCluster::start().await;
    cluster.serve("app", &model()).await;
    for _ in 0..4 {
        ask(&cluster, 1000).await;
    }
    let batches = batches_sent(&cluster).await;
    assert!(batches < 4000 / 64, "{batches} batches for 4000 rows");
    let shown = cluster.version("synthetic", "1").await;
    assert_eq!(shown["max_batch"], Value::Null, "{shown}");
}

async fn a_hard_cap_is_never_exceeded() {
    let cluster = TestCluster::start().await;
    cluster.serve("app", &model().with("max_batch", 16)).await;
    ask(&cluster, 320).await;
    let batches = batches_sent(&cluster).await;
    assert!(batches >= 320 / 16, "{batches} batches for 320 rows");
    assert_eq!(cluster.version("synthetic", "1").await["max_batch"], 16);
}

/// The limit that is shown, in inputs, and the size that failed.
async fn shown_limit(cluster: &TestCluster) -> (u64, u64) {
    let limit = find("a limit to be shown", PATIENCE, async || {
        let limit = cluster.version("synthetic", "1").await["batch_limit"].clone();
        (!limit.is_null()).then_some(limit)
    })
    .await;
    let skysail = Skysail::at(cluster.addresses().admin);
    let page = skysail.done("model show synthetic:1").await;
    let words = format!(
        "batches of at most {} since {}, because one of {} failed",
        limit["inputs"],
        limit["since"].as_str().unwrap(),
        limit["failed_inputs"]
    );
    assert!(page.contains(&words), "{words}:\n{page}");
    let number = |member: &str| limit[member].as_u64().unwrap();
    (number("inputs"), number("failed_inputs"))
}

async fn a_batch_that_is_too_large_for_the_model_is_answered_in_smaller_ones_and_the_limit_is_shown() {
    for fault in ["error", "panic"] {
        let cluster = TestCluster::start().await;
        let model = model()
            .env("SYNTHETIC_FAIL", fault)
            .env("SYNTHETIC_FAIL_ABOVE", "20");
        cluster.serve("app", &model).await;
        ask(&cluster, 300).await;
        let (limit, failed) = shown_limit(&cluster).await;
        assert!((8..=20).contains(&limit) && failed > 20, "{limit}, {failed}");
        // As good as ever within it.
        ask(&cluster, 300).await;
        assert_eq!(cluster.version("synthetic", "1").await["restarts"], 0);
    }
}

async fn a_batch_that_is_too_large_for_the_memory_costs_its_replica_and_no_query() {
    let cluster = TestCluster::start().await;
    let model = model()
        .env("SYNTHETIC_FAIL", "exit")
        .env("SYNTHETIC_FAIL_ABOVE", "20");
    cluster.serve("app", &model).await;
    ask(&cluster, 300).await;
    let (limit, failed) = shown_limit(&cluster).await;
    assert!((8..=20).contains(&limit) && failed > 20, "{limit}, {failed}");
    cluster.attached("synthetic", 1).await;
    let answers = ask(&cluster, 300).await;
    // All by the one that has come, which lives.
    let seen: BTreeSet<_> = answers
        .iter()
        .map(|answer| answer["output"]["inputs_seen"].as_u64().unwrap())
        .collect();
    assert_eq!(seen.len(), 300);
    let restarts = cluster.version("synthetic", "1").await["restarts"]
        .as_u64()
        .unwrap();
    assert!((1..=3).contains(&restarts), "{restarts}");
}

async fn a_container_whose_warm_up_is_too_large_for_its_memory_serves_all_the_same() {
    let cluster = TestCluster::start().await;
    let model = model()
        .env("SYNTHETIC_FAIL", "exit")
        .env("SYNTHETIC_FAIL_ABOVE", "100")
        .warmed_up_by(json!([1.0]));
    cluster.serve("app", &model).await;
    ask(&cluster, 10).await;
    let shown = cluster.version("synthetic", "1").await;
    assert_eq!(shown["restarts"], 1, "{shown}");
    let log = shown["last_failure"]["log"].as_array().unwrap();
    let says = |words: &str| log.iter().any(|line| line.as_str().unwrap().contains(words));
    assert!(says("warming up with a larger batch"), "{log:?}");
}

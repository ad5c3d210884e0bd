//! The prediction cache: what reaches the model and what does not, as a stranger sees it.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::future::join_all;
use serde_json::{Value, json};
use skysail_tests::cases;
use skysail_tests::cluster::{Settings, TestCluster};
use skysail_tests::deployment::Deployment;
use skysail_tests::wait::{PATIENCE, until};

cases! {
    identical_queries_are_one_input_of_the_model;
    with_the_cache_off_every_query_is_an_input_of_the_model;
    the_first_to_ask_may_hang_up_and_the_others_are_answered;
    a_failure_is_not_kept;
    an_answer_that_came_too_late_is_there_the_next_time;
    a_stopped_model_does_not_answer_from_its_cache;
    each_version_keeps_its_own_predictions;
    a_version_registered_anew_has_forgotten_everything;
}

/// A model that says how many inputs it has seen: one answered from the cache says it again.
fn counting() -> Deployment {
    Deployment::synthetic().env("SYNTHETIC_REPORT_SEEN", "1")
}

/// Asks for equal inputs, by themselves and in batches, all at once, and returns the outputs.
async fn ask_at_once(cluster: &TestCluster, application: &str) -> Vec<Value> {
    let single = || async { vec![cluster.predict(application, json!([1.0])).await] };
    let batch = || async {
        let body = json!({ "input_batch": [[1.0], [1.0], [1.0], [1.0]] });
        let reply = cluster.query(application, body).await.expect(200);
        let answers = reply["batch_predictions"].as_array().expect("an array");
        answers.iter().map(|answer| answer["output"].clone()).collect()
    };
    let asked = tokio::join!(
        join_all((0..20).map(|_| single())),
        join_all((0..5).map(|_| batch()))
    );
    asked.0.into_iter().chain(asked.1).flatten().collect()
}

/// Hits, joins and misses of version 1 of the synthetic model.
async fn counts(cluster: &TestCluster) -> [f64; 3] {
    let count = async |name: &str| {
        let sample = format!(r#"skysail_cache_{name}_total{{model="synthetic",version="1"}}"#);
        cluster.metric(&sample).await
    };
    [count("hits").await, count("joins").await, count("misses").await]
}

async fn entries(cluster: &TestCluster) -> f64 {
    let sample = r#"skysail_cache_entries{model="synthetic",version="1"}"#;
    cluster.metric(sample).await
}

fn seen(outputs: &[Value]) -> BTreeSet<u64> {
    let seen = outputs.iter().map(|output| output["inputs_seen"].as_u64());
    seen.map(|seen| seen.expect("a count")).collect()
}

async fn identical_queries_are_one_input_of_the_model() {
    let cluster = TestCluster::start().await;
    let deployment = counting().replicas(2).env("SYNTHETIC_FIXED_MICROS", "20000");
    cluster.serve("app", &deployment).await;
    let outputs = ask_at_once(&cluster, "app").await;
    assert_eq!(outputs.len(), 40);
    assert!(outputs.iter().all(|output| output == &outputs[0]), "{outputs:?}");
    assert_eq!(seen(&outputs), [1].into());
    assert_eq!(cluster.accepted("synthetic").await, 1);
    let [hits, joins, misses] = counts(&cluster).await;
    assert_eq!((hits + joins, misses), (39.0, 1.0));

    assert_eq!(cluster.predict("app", json!([1])).await, outputs[0]);
    assert_eq!(counts(&cluster).await, [hits + 1.0, joins, 1.0]);
    // One that differs, also only in its sign, is another.
    for (number, input) in [json!([0.0]), json!([-0.0]), json!([1.0, 1.0])]
        .iter()
        .enumerate()
    {
        cluster.predict("app", input.clone()).await;
        assert_eq!(cluster.accepted("synthetic").await, number + 2, "{input}");
    }
    assert!((entries(&cluster).await - 4.0).abs() < f64::EPSILON);
}

async fn with_the_cache_off_every_query_is_an_input_of_the_model() {
    let by_version = (Settings::default(), counting().with("cache", false));
    let by_frontend = (Settings::default().flag("--cache-bytes", "0"), counting());
    for (settings, deployment) in [by_version, by_frontend] {
        let cluster = settings.start().await;
        cluster.serve("app", &deployment).await;
        let outputs = ask_at_once(&cluster, "app").await;
        assert_eq!(seen(&outputs), (1..=40).collect());
        assert_eq!(cluster.accepted("synthetic").await, 40);
        assert_eq!(counts(&cluster).await, [0.0; 3]);
    }
}

async fn the_first_to_ask_may_hang_up_and_the_others_are_answered() {
    let cluster = TestCluster::start().await;
    let slow = counting().env("SYNTHETIC_FIXED_MICROS", "1000000");
    cluster.serve("app", &slow).await;
    let ask = || {
        let queries = cluster.queries();
        tokio::spawn(async move { queries.post("/app/predict", json!({ "input": [1] })).await })
    };
    let first = ask();
    until("the first to be asked", PATIENCE, async || {
        counts(&cluster).await[2] > 0.0
    })
    .await;
    let second = ask();
    until("the second to join", PATIENCE, async || {
        let [hits, joins, _] = counts(&cluster).await;
        hits + joins > 0.0
    })
    .await;
    first.abort();
    let answer = second.await.expect("asked").expect(200);
    assert_eq!(answer["output"]["inputs_seen"], 1, "{answer}");
    assert_eq!(cluster.accepted("synthetic").await, 1);
}

async fn a_failure_is_not_kept() {
    let cluster = TestCluster::start().await;
    let failing = Deployment::synthetic().env("SYNTHETIC_FAIL", "error");
    cluster.serve("app", &failing).await;
    for asked in 1..=3 {
        let answer = cluster.answer("app", json!([1.0])).await;
        assert_eq!(answer["default_reason"], "model_error", "{answer}");
        assert_eq!(cluster.accepted("synthetic").await, asked);
    }
    assert!(entries(&cluster).await < 1.0);
}

async fn an_answer_that_came_too_late_is_there_the_next_time() {
    let cluster = TestCluster::start().await;
    let slow = counting().env("SYNTHETIC_FIXED_MICROS", "400000");
    cluster
        .serve_within("app", &slow, Duration::from_millis(50))
        .await;
    let late = cluster.answer("app", json!([1.0])).await;
    assert_eq!(late["default"], true, "{late}");
    until("an answer in time", PATIENCE, async || {
        cluster.answer("app", json!([1.0])).await["default"] == false
    })
    .await;
    let output = cluster.predict("app", json!([1.0])).await;
    assert_eq!(output["inputs_seen"], 1);
}

async fn a_stopped_model_does_not_answer_from_its_cache() {
    let cluster = TestCluster::start().await;
    cluster.serve("app", &counting()).await;
    cluster.predict("app", json!([1.0])).await;
    let replicas = "/api/v1/models/synthetic/versions/1/replicas";
    cluster
        .admin()
        .put(replicas, json!({ "count": 0 }))
        .await
        .expect(200);
    cluster.attached("synthetic", 0).await;
    let answer = cluster.answer("app", json!([1.0])).await;
    assert_eq!(answer["default_reason"], "no_replica", "{answer}");
}

async fn each_version_keeps_its_own_predictions() {
    let cluster = TestCluster::start().await;
    cluster.serve("app", &counting()).await;
    let noop = Deployment::of("noop").named("synthetic", "2");
    cluster.deploy(&noop).await;
    cluster.attached("synthetic", 2).await;
    let switch_to = async |version: &str| {
        let body = json!({ "version": version });
        let path = "/api/v1/models/synthetic/current-version";
        cluster.admin().put(path, body).await.expect(200);
    };
    switch_to("1").await;
    let first = cluster.predict("app", json!([1.0])).await;
    switch_to("2").await;
    assert_eq!(cluster.predict("app", json!([1.0])).await, 0);
    switch_to("1").await;
    assert_eq!(cluster.predict("app", json!([1.0])).await, first);
    assert_eq!(cluster.accepted("synthetic").await, 1);
}

async fn a_version_registered_anew_has_forgotten_everything() {
    let cluster = TestCluster::start().await;
    cluster.serve("app", &counting()).await;
    let output = cluster.predict("app", json!([1.0])).await;
    assert_eq!(output["inputs_seen"], 1);
    let admin = cluster.admin();
    admin
        .delete("/api/v1/applications/app/models/synthetic")
        .await
        .expect(200);
    admin
        .delete("/api/v1/models/synthetic/versions/1")
        .await
        .expect(204);
    cluster.attached("synthetic", 0).await;
    cluster
        .serve("again", &Deployment::of("noop").named("synthetic", "1"))
        .await;
    assert_eq!(cluster.predict("again", json!([1.0])).await, 0);
}

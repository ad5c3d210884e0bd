//! Batches under pressure, and replicas that are slow, hang, or change their speed: every query has one
//! answer, and nothing stays broken. How good the answers are in numbers is for the simulator and the
//! benchmarks; nothing here is timed.

use std::time::Duration;

use futures::future::join_all;
use serde_json::{Value, json};
use skysail_tests::cases;
use skysail_tests::cluster::{AMPLE_SLO, Runtime, Settings, TestCluster};
use skysail_tests::deployment::{ByHand, Deployment};
use skysail_tests::wait::{PATIENCE, until};

cases! {
    under_overload_every_query_has_one_answer_and_no_input_reaches_the_model_twice;
    every_batch_policy_answers_under_overload;
    what_would_be_late_is_said_before_its_deadline;
    the_faster_of_two_replicas_does_more;
    what_a_replica_sits_on_is_answered_by_another_and_the_replica_is_given_up;
    a_model_that_was_slow_for_a_while_is_trusted_again;
    with_an_input_to_warm_up_the_first_queries_find_a_replica_that_is_known;
}

/// 5 ms and 1 ms for each input: with an SLO of 50 ms some 800 inputs a second.
fn modest() -> Deployment {
    Deployment::synthetic()
        .env("SYNTHETIC_FIXED_MICROS", "5000")
        .env("SYNTHETIC_PER_INPUT_MICROS", "1000")
        .with("cache", false)
}

const SLO: Duration = Duration::from_millis(50);

/// Asks for `count` different inputs at once.
async fn ask_at_once(cluster: &TestCluster, count: u32) -> Vec<Value> {
    join_all((0..count).map(|nth| cluster.answer("app", json!([nth])))).await
}

fn is_default(answer: &&Value) -> bool {
    answer["default"] == true
}

async fn counted(cluster: &TestCluster, metric: &str) -> f64 {
    let sample = format!(r#"skysail_{metric}{{model="synthetic",version="1"}}"#);
    cluster.metric(&sample).await
}

async fn under_overload_every_query_has_one_answer_and_no_input_reaches_the_model_twice() {
    let cluster = TestCluster::start().await;
    cluster.serve_within("app", &modest(), SLO).await;
    let mut predicted = 0;
    for _ in 0..5 {
        let answers = ask_at_once(&cluster, 200).await;
        let defaults: Vec<_> = answers.iter().filter(is_default).collect();
        for answer in &defaults {
            let reason = answer["default_reason"].as_str().unwrap();
            let known = ["predicted_late", "expired_in_queue", "late_reply"];
            assert!(known.contains(&reason), "{answer}");
        }
        predicted += answers.len() - defaults.len();
    }
    assert!(predicted > 0, "something is answered in time even so");
    let inputs = counted(&cluster, "batch_size_sum").await;
    assert!(
        inputs >= predicted as f64 && inputs <= 1000.0,
        "{inputs} inputs for {predicted}"
    );
}

async fn every_batch_policy_answers_under_overload() {
    for policy in [json!("adaptive"), json!("aimd"), json!(20)] {
        let cluster = TestCluster::start().await;
        let deployment = modest().with("batch_size", policy.clone());
        cluster.serve_within("app", &deployment, SLO).await;
        assert_eq!(ask_at_once(&cluster, 200).await.len(), 200);
        // The pressure is over: the next query has all the time it needs.
        let answered = async || !is_default(&&cluster.answer("app", json!([-1.0])).await);
        until(&format!("{policy} answers"), PATIENCE, answered).await;
    }
}

async fn what_would_be_late_is_said_before_its_deadline() {
    let cluster = TestCluster::start().await;
    let slow = Deployment::synthetic()
        .env("SYNTHETIC_FIXED_MICROS", "200000")
        .with("cache", false);
    cluster.serve("app", &slow).await;
    // Until something is known of the model nothing is said of it.
    cluster.predict("app", json!([0.0])).await;
    let hopeless = json!({ "input": [1.0], "slo_micros": 100_000 });
    let refused = async || {
        let answer = cluster.query("app", hopeless.clone()).await.expect(200);
        assert_eq!(answer["default"], true, "{answer}");
        let sentence = answer["default_explanation"].as_str().unwrap();
        assert!(
            sentence.starts_with("Failed to retrieve a prediction"),
            "{sentence}"
        );
        answer["default_reason"] == "predicted_late"
    };
    // One such query is let through now and then, to notice if the model has become faster.
    until("a query is refused", PATIENCE, refused).await;
}

/// Application `app` is linked to model `synthetic`, whose containers are started by hand.
async fn by_hand() -> TestCluster {
    let cluster = Settings::default().runtime(Runtime::None).start().await;
    cluster.register("app", "doubles", "-1.0", AMPLE_SLO).await;
    cluster.register_model("synthetic", "doubles").await;
    cluster.link("app", "synthetic").await;
    cluster
}

fn inputs_of(replicas: &[Value], replica: &str) -> u64 {
    let found = replicas.iter().find(|found| found["replica"] == replica);
    found
        .and_then(|found| found["inputs"].as_u64())
        .expect("it is attached")
}

async fn the_faster_of_two_replicas_does_more() {
    let cluster = by_hand().await;
    let container = |name: &str, micros: &str| {
        cluster.by_hand(&ByHand::of("synthetic", "synthetic", name).env("SYNTHETIC_PER_INPUT_MICROS", micros))
    };
    let _containers = [container("fast", "1000"), container("slow", "8000")];
    cluster.attached("synthetic", 2).await;
    let client = async |client: u32| {
        for nth in 0..25 {
            cluster.predict("app", json!([client, nth])).await;
        }
    };
    join_all((0..16).map(client)).await;
    let replicas = cluster.replicas("synthetic").await;
    let (fast, slow) = (inputs_of(&replicas, "fast"), inputs_of(&replicas, "slow"));
    assert_eq!(fast + slow, 400);
    assert!(fast > 2 * slow, "{fast} and {slow}");
}

async fn what_a_replica_sits_on_is_answered_by_another_and_the_replica_is_given_up() {
    let cluster = by_hand().await;
    let hanging = ByHand::of("synthetic", "synthetic", "hanging")
        .env("SYNTHETIC_FAIL", "hang")
        .env("SYNTHETIC_FAIL_AFTER", "3");
    let hanging = cluster.by_hand(&hanging);
    cluster.attached("synthetic", 1).await;
    for nth in 0..3 {
        cluster.predict("app", json!([nth])).await;
    }
    let _well = cluster.by_hand(&ByHand::of("synthetic", "synthetic", "well"));
    cluster.attached("synthetic", 2).await;
    // Some of these reach the one that hangs, and all are answered by the other.
    let sat_on = async || {
        let answers = join_all((0..20).map(|nth| cluster.answer("app", json!([7, nth])))).await;
        assert!(!answers.iter().any(|answer| is_default(&answer)), "{answers:?}");
        cluster.log().says("batch overdue")
    };
    until("a batch is overdue", PATIENCE, sat_on).await;
    cluster.log().line("replica hangs, given up").await;
    // It dials in again, as the container itself lives: what it is given then is answered as well.
    hanging.log().line("attached to frontend").await;
    let answers = join_all((0..20).map(|nth| cluster.answer("app", json!([8, nth])))).await;
    assert!(!answers.iter().any(|answer| is_default(&answer)), "{answers:?}");
}

async fn a_model_that_was_slow_for_a_while_is_trusted_again() {
    let cluster = TestCluster::start().await;
    let jumping = Deployment::synthetic()
        .env("SYNTHETIC_FIXED_MICROS", "5000")
        .env("SYNTHETIC_JUMP_AFTER", "10")
        .env("SYNTHETIC_JUMP_FACTOR", "20")
        .env("SYNTHETIC_JUMP_BATCHES", "10")
        .with("cache", false);
    cluster.serve_within("app", &jumping, SLO).await;
    let batches = async || counted(&cluster, "batch_latency_seconds_count").await;
    let past_the_jump = async || {
        cluster.answer("app", json!([fastrand::f64()])).await;
        batches().await >= 20.0
    };
    until("the model is fast again", PATIENCE, past_the_jump).await;
    let answered = async || {
        let answers = ask_at_once(&cluster, 5).await;
        !answers.iter().any(|answer| is_default(&answer))
    };
    until("every query is answered again", PATIENCE, answered).await;
}

async fn with_an_input_to_warm_up_the_first_queries_find_a_replica_that_is_known() {
    let cluster = TestCluster::start().await;
    let warmed = Deployment::synthetic()
        .env("SYNTHETIC_FIXED_MICROS", "20000")
        .warmed_up_by(json!([1.0]))
        .with("cache", false);
    cluster.serve("app", &warmed).await;
    // Of a replica of which nothing is known they would all be let in, and expire.
    let hopeless = json!({ "input_batch": [[1.0], [2.0], [3.0], [4.0]], "slo_micros": 1000 });
    let answers = cluster.query("app", hopeless).await.expect(200);
    let answers = answers["batch_predictions"].as_array().unwrap();
    let refused = answers
        .iter()
        .filter(|answer| answer["default_reason"] == "predicted_late");
    // The first is let through: the replica is idle, and might have become faster.
    assert!(refused.count() >= 2, "{answers:?}");
}

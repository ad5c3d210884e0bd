//! Containers that nobody but a person started: they attach themselves, or are told why not.

use futures::future::join_all;
use reqwest::Method;
use rustix::process::Signal;
use serde_json::json;
use skysail_tests::cases;
use skysail_tests::cluster::{AMPLE_SLO, Runtime, Settings, TestCluster};
use skysail_tests::deployment::{ByHand, Deployment};
use skysail_tests::program::runs;
use skysail_tests::wait::{PATIENCE, until};

cases! {
    a_container_started_by_hand_attaches_and_answers;
    one_that_is_early_attaches_once_its_model_is_registered;
    one_that_takes_another_type_is_refused_and_told_how_to_start_it;
    a_second_one_of_the_same_id_takes_the_place_of_the_first;
    one_of_a_version_that_is_deleted_is_sent_away;
    one_may_help_out_beside_deployed_replicas;
    an_environment_that_does_not_say_what_to_serve_is_refused_at_once;
    one_that_is_busy_answers_first_when_asked_to_end_and_ends_at_once_when_asked_again;
}

/// Application `app` is linked to model `model`, for which nothing is started.
async fn waiting() -> TestCluster {
    let cluster = Settings::default().runtime(Runtime::None).start().await;
    cluster.register("app", "doubles", "-1.0", AMPLE_SLO).await;
    cluster.register_model("model", "doubles").await;
    cluster.link("app", "model").await;
    cluster
}

async fn a_container_started_by_hand_attaches_and_answers() {
    let cluster = waiting().await;
    let version = cluster.version("model", "1").await;
    assert_eq!(
        (&version["state"], &version["replicas_desired"]),
        (&json!("waiting"), &json!(null))
    );
    assert_eq!(
        cluster.answer("app", json!([1.0])).await["default_reason"],
        "no_replica"
    );

    let container = cluster.by_hand(&ByHand::of("noop", "model", "my-laptop"));
    let replica = &cluster.attached("model", 1).await[0];
    assert_eq!(
        (&replica["replica"], &replica["pid"]),
        (&json!("my-laptop"), &json!(container.pid()))
    );
    assert_eq!(cluster.predict("app", json!([1.0])).await, 0);
    assert_eq!(cluster.version("model", "1").await["state"], "ready");

    drop(container);
    cluster.attached("model", 0).await;
    assert_eq!(
        cluster.answer("app", json!([1.0])).await["default_reason"],
        "no_replica"
    );
}

async fn one_that_is_early_attaches_once_its_model_is_registered() {
    let cluster = Settings::default().runtime(Runtime::None).start().await;
    let container = cluster.by_hand(&ByHand::of("noop", "model", "early"));
    let told = container.log().line("not registered").await;
    assert!(
        told.contains("model:1") && told.contains("skysail model register"),
        "{told}"
    );
    cluster.register_model("model", "doubles").await;
    cluster.attached("model", 1).await;
}

async fn one_that_is_busy_answers_first_when_asked_to_end_and_ends_at_once_when_asked_again() {
    let cluster = waiting().await;
    let busy = ByHand::of("synthetic", "model", "busy").env("SYNTHETIC_FIXED_MICROS", "600000000");
    let mut container = cluster.by_hand(&busy);
    cluster.attached("model", 1).await;
    let queries = cluster.queries();
    // Nobody waits for the answer: there will be none.
    tokio::spawn(async move {
        let _ = queries
            .send(Method::POST, "/app/predict", r#"{"input": [1]}"#)
            .await;
    });
    until("the query to be in the model's hands", PATIENCE, async || {
        cluster.replicas("model").await[0]["in_flight"] == 1
    })
    .await;

    container.signal(Signal::TERM);
    container.log().line("draining").await;
    assert!(runs(container.pid()), "it has an answer to give");
    container.signal(Signal::TERM);
    assert_eq!(container.end().await.code(), Some(143));
    cluster.attached("model", 0).await;
}

async fn one_that_takes_another_type_is_refused_and_told_how_to_start_it() {
    let cluster = waiting().await;
    let container = ByHand {
        input_type: "strings".to_owned(),
        ..ByHand::of("noop", "model", "wrong")
    };
    let container = cluster.by_hand(&container);
    let told = container.log().line("SKYSAIL_INPUT_TYPE=doubles").await;
    assert!(
        told.contains("takes doubles") && told.contains("strings"),
        "{told}"
    );
    let right = cluster.by_hand(&ByHand::of("noop", "model", "right"));
    let replicas = cluster.attached("model", 1).await;
    assert_eq!(replicas[0]["replica"], "right");
    assert_eq!(cluster.predict("app", json!([1.0])).await, 0);
    drop(right);
}

async fn a_second_one_of_the_same_id_takes_the_place_of_the_first() {
    let cluster = waiting().await;
    let mut first = cluster.by_hand(&ByHand::of("noop", "model", "same"));
    cluster.attached("model", 1).await;
    let second = cluster.by_hand(&ByHand::of("noop", "model", "same"));
    let ended = first.end().await;
    assert!(!ended.success(), "{ended}");
    let told = first.log().line("took this one's place").await;
    assert!(told.contains("SKYSAIL_REPLICA_ID"), "{told}");
    let replica = &cluster.attached("model", 1).await[0];
    assert_eq!(replica["pid"], second.pid());
    let outputs = join_all((0..20).map(|number| cluster.predict("app", json!([number])))).await;
    assert!(outputs.iter().all(|output| *output == 0));
}

async fn one_of_a_version_that_is_deleted_is_sent_away() {
    let cluster = waiting().await;
    let container = cluster.by_hand(&ByHand::of("noop", "model", "mine"));
    cluster.attached("model", 1).await;
    cluster
        .admin()
        .delete("/api/v1/applications/app")
        .await
        .expect(204);
    cluster
        .admin()
        .delete("/api/v1/models/model/versions/1")
        .await
        .expect(204);
    container.log().line("not registered").await;
    cluster.attached("model", 0).await;
    // Registered anew, it is another version, for which the container is as good.
    cluster.register_model("model", "doubles").await;
    cluster.attached("model", 1).await;
}

async fn one_may_help_out_beside_deployed_replicas() {
    let cluster = TestCluster::start().await;
    cluster
        .serve("app", &Deployment::of("noop").named("model", "1"))
        .await;
    let token = cluster.join_token("model", "1").await;
    let helper = cluster.by_hand(&ByHand::of("noop", "model", "helper").env("SKYSAIL_TOKEN", &token));
    cluster.attached("model", 2).await;
    drop(helper);
    cluster.attached("model", 1).await;
    until("nothing to be started for it", PATIENCE, async || {
        let version = cluster.version("model", "1").await;
        version["containers"].as_array().unwrap().len() == 1 && version["restarts"] == 0
    })
    .await;
}

async fn an_environment_that_does_not_say_what_to_serve_is_refused_at_once() {
    let cluster = waiting().await;
    let container = ByHand {
        version: String::new(),
        input_type: "tensor".to_owned(),
        ..ByHand::of("noop", "No Good", "two words")
    };
    let mut container = cluster.by_hand(&container);
    assert_eq!(container.end().await.code(), Some(2));
    let said = container.whole_log().await.join("\n");
    for words in [
        "SKYSAIL_MODEL_NAME",
        "SKYSAIL_MODEL_VERSION",
        "bytes, integers, floats, doubles, strings",
        "SKYSAIL_REPLICA_ID",
    ] {
        assert!(said.contains(words), "{words} is not in: {said}");
    }
}

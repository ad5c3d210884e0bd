//! Several applications of one model: none takes from another what is its share.

use std::cell::Cell;
use std::time::Duration;

use futures::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};
use skysail_tests::cases;
use skysail_tests::cluster::{Settings, TestCluster};
use skysail_tests::deployment::Deployment;
use skysail_tests::skysail::Skysail;
use skysail_tests::wait::{PATIENCE, until, within};
use tokio::task::JoinSet;

cases! {
    a_full_queue_makes_room_for_the_application_that_holds_less;
    who_stays_below_its_share_is_answered_beside_who_asks_for_far_too_much;
    a_weight_is_one_until_it_is_set_and_is_shown;
    a_weight_that_is_none_is_refused_with_what_it_may_be;
}

/// Registers one more application of a model.
async fn beside(cluster: &TestCluster, application: &str, model: &str, slo: Duration) {
    cluster.register(application, "doubles", "-1.0", slo).await;
    cluster.link(application, model).await;
}

async fn a_full_queue_makes_room_for_the_application_that_holds_less() {
    const HOUR: Duration = Duration::from_secs(3600);
    let cluster = Settings::default().flag("--queue-length", "4").start().await;
    let endless = Deployment::synthetic()
        .env("SYNTHETIC_FIXED_MICROS", "600000000")
        .with("max_batch", 1)
        .with("cache", false);
    cluster.serve_within("loose", &endless, 2 * HOUR).await;
    beside(&cluster, "urgent", "synthetic", HOUR).await;
    // One in the model's hands, which it never leaves, and as many waiting as may.
    let mut loose = JoinSet::new();
    for _ in 0..5 {
        let queries = cluster.queries();
        loose.spawn(async move { queries.post("/loose/predict", json!({ "input": [1] })).await });
        until("the query to be accepted", PATIENCE, async || {
            cluster.accepted("synthetic").await == loose.len()
        })
        .await;
    }
    let mut urgent = JoinSet::new();
    let queries = cluster.queries();
    urgent.spawn(async move {
        // There will be no answer.
        let body = r#"{"input": [2]}"#;
        let _ = queries.send(Method::POST, "/urgent/predict", body).await;
    });
    let first = within("the one that gives way", PATIENCE, loose.join_next()).await;
    let displaced = first.expect("five are asking").unwrap().expect(200);
    assert_eq!(displaced["default_reason"], "queue_full", "{displaced}");
    assert_eq!(cluster.waiting("synthetic").await, 4);
    assert_eq!((loose.len(), urgent.len()), (4, 1));
    // Who holds most gives way itself.
    let refused = cluster.answer("loose", json!([3])).await;
    assert_eq!(refused["default_reason"], "queue_full", "{refused}");
    loose.shutdown().await;
    urgent.shutdown().await;
}

async fn who_stays_below_its_share_is_answered_beside_who_asks_for_far_too_much() {
    const ASKED: usize = 20;
    let objective = Duration::from_secs(2);
    let cluster = TestCluster::start().await;
    let model = Deployment::synthetic()
        .env("SYNTHETIC_FIXED_MICROS", "20000")
        .env("SYNTHETIC_PER_INPUT_MICROS", "10000")
        .with("cache", false);
    cluster.serve_within("many", &model, objective).await;
    beside(&cluster, "few", "synthetic", objective).await;
    let done = Cell::new(false);
    let rows = json!({ "input_batch": vec![[1.0]; 200] });
    let flood = || async {
        while !done.get() {
            cluster.query("many", rows.clone()).await.expect(200);
        }
    };
    let asking = async {
        until("queries to be lost", PATIENCE, async || {
            let late = r#"skysail_defaults_total{application="many",reason="predicted_late"}"#;
            cluster.metric(late).await > 0.0
        })
        .await;
        let mut answered = 0;
        for _ in 0..ASKED {
            let answer = cluster.answer("few", json!([1.0])).await;
            answered += usize::from(answer["default"] == json!(false));
        }
        done.set(true);
        answered
    };
    let (answered, _) = tokio::join!(asking, join_all((0..8).map(|_| flood())));
    // By deadlines alone most would be lost. A machine that stalls may cost a few.
    assert!(answered > ASKED * 3 / 4, "{answered} of {ASKED}");
}

async fn a_weight_is_one_until_it_is_set_and_is_shown() {
    let cluster = TestCluster::start().await;
    let skysail = Skysail::at(cluster.addresses().admin);
    skysail
        .done("app register one --input-type doubles --default-output=-1 --slo 1s")
        .await;
    skysail
        .done("app register two --input-type doubles --default-output=-1 --slo 1s --weight 2")
        .await;
    let shown = async |name: &str| -> Value {
        let path = format!("/api/v1/applications/{name}");
        cluster.admin().get(&path).await.expect(200)
    };
    assert_eq!(shown("one").await["weight"], 1);
    assert_eq!(shown("two").await["weight"], 2);
    skysail.done("app update one --weight 7").await;
    let one = shown("one").await;
    assert_eq!(
        (&one["weight"], &one["slo_micros"]),
        (&json!(7), &json!(1_000_000))
    );
    let said = skysail.show("app show one").await;
    assert!(
        said.lines()
            .any(|line| line.starts_with("Weight") && line.ends_with('7')),
        "{said}"
    );
}

async fn a_weight_that_is_none_is_refused_with_what_it_may_be() {
    let cluster = TestCluster::start().await;
    cluster
        .register("app", "doubles", "-1.0", Duration::from_secs(1))
        .await;
    for weight in [0, -1, 1001] {
        let patch = json!({ "weight": weight });
        let reply = cluster.admin().patch("/api/v1/applications/app", patch).await;
        let detail = reply.problem(400);
        assert!(detail.contains("from 1 to 1000"), "{detail}");
    }
}

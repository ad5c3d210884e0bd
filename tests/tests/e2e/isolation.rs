//! No query spoils another's answer: what used to wedge or mislead Skysail's predecessors cannot happen.

use futures::future::join_all;
use futures::{StreamExt, stream};
use serde_json::{Value, json};
use skysail_proto::value::InputRef;
use skysail_tests::cases;
use skysail_tests::cluster::{AMPLE_SLO, TestCluster};
use skysail_tests::deployment::Deployment;
use synthetic::digest::digest;

cases! {
    an_empty_input_wedges_no_replica;
    an_input_the_model_refuses_fails_alone;
    a_query_of_one_microsecond_spoils_no_answer_but_its_own;
    different_inputs_always_get_their_own_answers;
    a_deleted_application_is_gone_at_once_and_may_come_back_with_another_type;
    an_application_deleted_under_load_is_served_or_gone_and_nothing_else;
}

const IRIS: [f64; 4] = [7.9, 4.4, 6.9, 2.5];

async fn an_empty_input_wedges_no_replica() {
    let cluster = TestCluster::start().await;
    cluster.serve("iris", &Deployment::iris()).await;
    let before = cluster.attached("iris-model", 1).await;
    for body in [
        json!({ "input": [] }),
        json!({ "input_batch": [[]] }),
        json!({ "input_batch": [IRIS, []] }),
    ] {
        let cause = cluster.query("iris", body).await.cause(400);
        assert!(cause.contains("the input is empty"), "{cause}");
        assert_eq!(cluster.predict("iris", json!(IRIS)).await, "virginica");
    }
    // Empty text is text: it gets as far as the model, and harms it no more.
    cluster
        .serve("text", &Deployment::synthetic().taking("strings"))
        .await;
    let expected = format!("fnv1a:{:016x}", digest(InputRef::Strings("")));
    assert_eq!(cluster.predict("text", "").await, expected);
    let after = cluster.attached("iris-model", 1).await;
    assert_eq!(
        (&after[0]["pid"], &after[0]["attached_at"]),
        (&before[0]["pid"], &before[0]["attached_at"])
    );
}

async fn an_input_the_model_refuses_fails_alone() {
    let cluster = TestCluster::start().await;
    cluster.serve("iris", &Deployment::iris()).await;
    let body = json!({ "input_batch": [IRIS, [1.0], IRIS, vec![1.0; 100]] });
    let reply = cluster.query("iris", body).await.expect(200);
    let answers = reply["batch_predictions"].as_array().unwrap();
    for good in [&answers[0], &answers[2]] {
        assert_eq!(
            (&good["output"], &good["default"]),
            (&json!("virginica"), &json!(false))
        );
    }
    for bad in [&answers[1], &answers[3]] {
        assert_eq!(
            (&bad["output"], &bad["default_reason"]),
            (&json!(-1.0), &json!("model_error")),
            "{bad}"
        );
    }
}

async fn a_query_of_one_microsecond_spoils_no_answer_but_its_own() {
    let cluster = TestCluster::start().await;
    // What is in the cache is answered to the hastiest as well.
    let deployment = Deployment::synthetic()
        .env("SYNTHETIC_PER_INPUT_MICROS", "200")
        .with("cache", false);
    cluster.serve("app", &deployment).await;
    let hasty = || async {
        let answer = cluster
            .query("app", json!({ "input": [1.0], "slo_micros": 1 }))
            .await
            .expect(200);
        assert_eq!(answer["default"], true, "{answer}");
        let reason = answer["default_reason"].as_str().unwrap();
        assert!(
            ["predicted_late", "expired_in_queue", "late_reply"].contains(&reason),
            "{reason}"
        );
    };
    for round in 0..5 {
        let patient = |number: u32| {
            let cluster = &cluster;
            async move {
                let input = f64::from(round * 1000 + number);
                assert_eq!(cluster.predict("app", json!([input])).await, digest_of(input));
            }
        };
        tokio::join!(join_all((0..40).map(|_| hasty())), join_all((0..40).map(patient)));
    }
    cluster.attached("synthetic", 1).await;
    // Also an application whose every query is that hasty.
    cluster
        .register("hasty", "doubles", "-1.0", std::time::Duration::from_micros(1))
        .await;
    cluster.link("hasty", "synthetic").await;
    assert_eq!(cluster.answer("hasty", json!([1.0])).await["default"], true);
    assert_eq!(cluster.predict("app", json!([1.0])).await, digest_of(1.0));
}

async fn different_inputs_always_get_their_own_answers() {
    const BATCHES: u32 = 60;
    const SIZE: u32 = 100;
    let cluster = TestCluster::start().await;
    cluster.serve("app", &Deployment::synthetic().replicas(2)).await;
    let asked = stream::iter(0..BATCHES).map(|batch| {
        let cluster = &cluster;
        async move {
            // Close neighbours, and each batch asked twice: whoever confuses inputs confuses these.
            let inputs: Vec<f64> = (0..SIZE)
                .map(|index| 1.0 + f64::from(batch / 2 * SIZE + index) * f64::EPSILON)
                .collect();
            let body: Vec<[f64; 1]> = inputs.iter().map(|input| [*input]).collect();
            let reply = cluster
                .query("app", json!({ "input_batch": body }))
                .await
                .expect(200);
            let outputs = reply["batch_predictions"].as_array().unwrap().iter();
            for (input, answer) in inputs.into_iter().zip(outputs) {
                assert_eq!(answer["output"], digest_of(input), "{input}");
            }
        }
    });
    asked.buffer_unordered(8).collect::<Vec<()>>().await;
    // Equal as numbers, different as inputs.
    assert_ne!(
        cluster.predict("app", json!([0.0])).await,
        cluster.predict("app", json!([-0.0])).await
    );
    assert_eq!(
        cluster.predict("app", json!([1])).await,
        cluster.predict("app", json!([1.0])).await
    );
}

async fn a_deleted_application_is_gone_at_once_and_may_come_back_with_another_type() {
    let cluster = TestCluster::start().await;
    cluster.serve("app", &Deployment::of("noop")).await;
    cluster
        .deploy(&Deployment::synthetic().named("text-model", "1").taking("strings"))
        .await;
    cluster.attached("text-model", 1).await;
    for _ in 0..5 {
        assert_eq!(cluster.predict("app", json!([1.0])).await, 0);
        cluster
            .admin()
            .delete("/api/v1/applications/app")
            .await
            .expect(204);
        let reply = cluster.query("app", json!({ "input": [1.0] })).await;
        assert!(reply.cause(404).contains("`app`"), "{}", reply.text);

        cluster.register("app", "strings", "nothing", AMPLE_SLO).await;
        assert_eq!(
            cluster.answer("app", "text").await["default_reason"],
            "no_model_linked"
        );
        cluster.link("app", "text-model").await;
        let expected = format!("fnv1a:{:016x}", digest(InputRef::Strings("text")));
        assert_eq!(cluster.predict("app", "text").await, expected);
        let cause = cluster.query("app", json!({ "input": [1.0] })).await.cause(400);
        assert!(cause.contains("a string"), "{cause}");

        cluster
            .admin()
            .delete("/api/v1/applications/app")
            .await
            .expect(204);
        cluster.register("app", "doubles", "-1.0", AMPLE_SLO).await;
        cluster.link("app", "noop").await;
    }
}

async fn an_application_deleted_under_load_is_served_or_gone_and_nothing_else() {
    let cluster = TestCluster::start().await;
    cluster.serve("app", &Deployment::of("noop")).await;
    let deleted = std::cell::Cell::new(false);
    let asking = || async {
        loop {
            let gone_before = deleted.get();
            let reply = cluster.query("app", json!({ "input": [1.0] })).await;
            match reply.status {
                200 => {
                    assert!(!gone_before, "asked after the deletion was answered, and served");
                    assert_eq!(reply.json()["output"], 0, "{}", reply.text);
                }
                404 => return,
                _ => panic!("{reply:?}"),
            }
        }
    };
    let deleting = async {
        for _ in 0..50 {
            cluster.predict("app", json!([1.0])).await;
        }
        cluster
            .admin()
            .delete("/api/v1/applications/app")
            .await
            .expect(204);
        deleted.set(true);
    };
    tokio::join!(join_all((0..4).map(|_| asking())), deleting);
}

fn digest_of(input: f64) -> Value {
    let text = format!("fnv1a:{:016x}", digest(InputRef::Doubles(&[input])));
    serde_json::from_str(&text).unwrap_or_else(|_| text.into())
}

//! What a query is answered with: inputs of all types, versions, objectives, defaults and ids.

use std::collections::HashSet;
use std::time::Duration;

use futures::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};
use skysail_proto::value::InputRef;
use skysail_tests::cases;
use skysail_tests::cluster::{AMPLE_SLO, Settings, TestCluster};
use skysail_tests::deployment::Deployment;
use skysail_tests::rest::Reply;
use skysail_tests::wait::{PATIENCE, until};
use skysail_tests::wire::Wire;
use synthetic::digest::digest;
use tokio::task::JoinSet;

cases! {
    a_batch_is_answered_in_order;
    a_batch_of_one_is_still_a_batch;
    every_input_type_reaches_the_model_as_it_was_sent;
    a_models_output_is_given_as_json_where_it_is_json;
    a_body_is_read_whatever_its_content_type_says;
    a_pinned_version_is_asked_and_an_unknown_one_is_named;
    a_query_is_answered_at_its_own_objective_and_at_the_applications;
    an_objective_in_the_header_counts_if_it_is_the_tighter_one;
    a_header_that_is_no_objective_is_refused_with_what_is_wrong;
    a_full_queue_is_said_at_once_and_whoever_hangs_up_makes_room;
    without_a_model_or_a_replica_the_default_says_so;
    the_default_output_goes_by_the_rule_of_outputs;
    query_ids_are_unique_and_small_also_after_a_crash;
}

/// A model that is never done while a test waits, and that is asked every time.
fn endless() -> Deployment {
    Deployment::synthetic()
        .env("SYNTHETIC_FIXED_MICROS", "600000000")
        .with("cache", false)
}

async fn a_batch_is_answered_in_order() {
    let cluster = TestCluster::start().await;
    cluster.serve("iris", &Deployment::iris().replicas(2)).await;
    let irises = [
        [7.9, 4.4, 6.9, 2.5],
        [5.84, 3.05, 3.76, 1.2],
        [4.3, 2.0, 1.0, 0.1],
    ];
    let inputs: Vec<_> = irises.iter().cycle().take(300).collect();
    let reply = cluster
        .query("iris", json!({ "input_batch": inputs }))
        .await
        .expect(200);
    let outputs: Vec<&str> = answers(&reply)
        .iter()
        .map(|answer| answer["output"].as_str().unwrap())
        .collect();
    let expected: Vec<&str> = ["virginica", "versicolor", "setosa"]
        .into_iter()
        .cycle()
        .take(300)
        .collect();
    assert_eq!(outputs, expected);
    assert!(answers(&reply).iter().all(|answer| answer["default"] == false));
}

async fn a_batch_of_one_is_still_a_batch() {
    let cluster = TestCluster::start().await;
    cluster.serve("echo", &Deployment::of("noop")).await;
    for (count, inputs) in [(1, json!([[1.0]])), (0, json!([]))] {
        let reply = cluster
            .query("echo", json!({ "input_batch": inputs }))
            .await
            .expect(200);
        assert_eq!(answers(&reply).len(), count);
        assert_eq!(reply.as_object().unwrap().len(), 1, "{reply}");
    }
}

async fn every_input_type_reaches_the_model_as_it_was_sent() {
    let cluster = TestCluster::start().await;
    for input_type in ["bytes", "integers", "floats", "doubles", "strings"] {
        let deployment = Deployment::synthetic()
            .named(&format!("digest-{input_type}"), "1")
            .taking(input_type);
        cluster.serve(input_type, &deployment).await;
    }
    let cases = [
        ("bytes", json!("aGVsbG8="), InputRef::Bytes(b"hello")),
        ("bytes", json!("aGVsbG8"), InputRef::Bytes(b"hello")),
        ("bytes", json!(""), InputRef::Bytes(b"")),
        (
            "integers",
            json!([1, -2, i32::MAX, i32::MIN]),
            InputRef::Integers(&[1, -2, i32::MAX, i32::MIN]),
        ),
        (
            "floats",
            json!([1.5, 2, -0.1]),
            InputRef::Floats(&[1.5, 2.0, -0.1]),
        ),
        (
            "doubles",
            json!([0.1, 1e300, -3, 0.0]),
            InputRef::Doubles(&[0.1, 1e300, -3.0, 0.0]),
        ),
        (
            "strings",
            json!("grüezi \"you\"\n\u{0}"),
            InputRef::Strings("grüezi \"you\"\n\u{0}"),
        ),
        ("strings", json!(""), InputRef::Strings("")),
    ];
    for (application, input, sent) in cases {
        let expected = as_output(&format!("fnv1a:{:016x}", digest(sent)));
        assert_eq!(
            cluster.predict(application, input.clone()).await,
            expected,
            "{input}"
        );
        let batch = json!({ "input_batch": [input.clone(), input] });
        let reply = cluster.query(application, batch).await.expect(200);
        assert!(
            answers(&reply).iter().all(|answer| answer["output"] == expected),
            "{reply}"
        );
    }
}

async fn a_models_output_is_given_as_json_where_it_is_json() {
    let cluster = TestCluster::start().await;
    cluster.serve("zero", &Deployment::of("noop")).await;
    assert_eq!(cluster.predict("zero", json!([1.0])).await, json!(0));
    let counting = Deployment::synthetic().env("SYNTHETIC_REPORT_SEEN", "1");
    cluster.serve("counting", &counting).await;
    let digest = format!("fnv1a:{:016x}", digest(InputRef::Doubles(&[1.0])));
    let expected = json!({ "digest": digest, "inputs_seen": 1 });
    assert_eq!(cluster.predict("counting", json!([1.0])).await, expected);
}

async fn a_body_is_read_whatever_its_content_type_says() {
    let cluster = TestCluster::start().await;
    cluster.serve("zero", &Deployment::of("noop")).await;
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    for content_type in [
        "application/json",
        "text/plain",
        "application/x-www-form-urlencoded",
    ] {
        let url = format!("http://{}/zero/predict", cluster.addresses().query);
        let request = client
            .post(url)
            .header("Content-Type", content_type)
            .body(r#"{"input": [1]}"#);
        let reply: Value = request.send().await.unwrap().json().await.unwrap();
        assert_eq!(reply["output"], 0, "{content_type}");
    }
    let queries = cluster.queries();
    let reply = queries
        .send(Method::POST, "/zero/predict", r#"{"input": [1]}"#)
        .await
        .unwrap();
    assert_eq!(reply.content_type, "application/json");
}

async fn a_pinned_version_is_asked_and_an_unknown_one_is_named() {
    let cluster = TestCluster::start().await;
    cluster
        .serve("app", &Deployment::of("noop").named("flower", "1.0-RC1"))
        .await;
    cluster.deploy(&Deployment::iris().named("flower", "2")).await;
    cluster.attached("flower", 2).await;
    let iris = json!([7.9, 4.4, 6.9, 2.5]);
    for (version, output) in [
        (Value::Null, json!("virginica")),
        (json!("2"), json!("virginica")),
        (json!("1.0-RC1"), json!(0)),
    ] {
        let reply = cluster
            .query("app", json!({ "input": iris, "version": version }))
            .await
            .expect(200);
        assert_eq!(reply["output"], output, "version {version}");
    }
    for version in ["3", "", "../2", "No Good"] {
        let reply = cluster
            .query("app", json!({ "input": iris, "version": version }))
            .await;
        let expected = format!("Requested version: {version} does not exist for model: flower");
        assert!(reply.cause(400).starts_with(&expected), "{}", reply.text);
    }
    assert_eq!(cluster.predict("app", iris).await, "virginica");
}

async fn a_query_is_answered_at_its_own_objective_and_at_the_applications() {
    let cluster = TestCluster::start().await;
    // Endless and one at a time: the first query is in the model's hands, the others wait for it.
    cluster.serve("patient", &endless().with("max_batch", 1)).await;
    cluster
        .register("hasty", "doubles", "\"late\"", Duration::from_millis(50))
        .await;
    cluster.link("hasty", "synthetic").await;
    let late = "Failed to retrieve a prediction response within the specified latency SLO";
    let queries = [
        (
            "patient",
            json!({ "input": [1], "slo_micros": 100_000 }),
            "late_reply",
            json!(-1.0),
        ),
        (
            "patient",
            json!({ "input": [1], "slo_micros": 1 }),
            "expired_in_queue",
            json!(-1.0),
        ),
        (
            "hasty",
            json!({ "input": [1] }),
            "expired_in_queue",
            json!("late"),
        ),
        (
            "hasty",
            json!({ "input": [1], "slo_micros": 600_000_000 }),
            "expired_in_queue",
            json!("late"),
        ),
    ];
    for (application, body, reason, output) in queries {
        let answer = cluster.query(application, body.clone()).await.expect(200);
        assert_eq!(answer["default"], true, "{body}: {answer}");
        assert_eq!(answer["default_reason"], reason, "{body}: {answer}");
        assert_eq!(answer["output"], output, "{body}: {answer}");
        let explanation = answer["default_explanation"].as_str().unwrap();
        assert!(explanation.starts_with(late), "{explanation}");
    }
}

/// Asks for one input with this objective in the header, beside one in the body.
async fn ask_within(cluster: &TestCluster, header: &[&str], body: Value) -> Reply {
    let mut request = "POST /app/predict HTTP/1.1\r\nHost: test\r\n".to_owned();
    for value in header {
        request += &format!("skysail-SLO-micros: {value}\r\n");
    }
    let body = body.to_string();
    request += &format!("Content-Length: {}\r\n\r\n{body}", body.len());
    let mut wire = Wire::to(cluster.addresses().query).await;
    wire.write(request).await.expect("written");
    let reply = wire.read().await;
    // Whatever it was, the connection goes on.
    wire.request("GET", "/healthz", "").await.expect(200);
    reply
}

async fn an_objective_in_the_header_counts_if_it_is_the_tighter_one() {
    let cluster = TestCluster::start().await;
    // Never done: each query is answered at its objective, and only the tightest is one that a test awaits.
    cluster
        .serve_within("app", &endless(), Duration::from_secs(600))
        .await;
    for (header, body) in [
        ("50000", json!({ "input": [1] })),
        (" 1 ", json!({ "input": [1], "slo_micros": 500_000_000 })),
        ("500000000", json!({ "input": [1], "slo_micros": 1 })),
        ("1", json!({ "input_batch": [[1], [2]], "slo_micros": null })),
    ] {
        let reply = ask_within(&cluster, &[header], body.clone()).await.expect(200);
        let one = std::slice::from_ref(&reply);
        let answers = reply["batch_predictions"].as_array().map_or(one, |all| all);
        for answer in answers {
            let reason = answer["default_reason"].as_str().unwrap();
            assert!(
                ["predicted_late", "expired_in_queue", "late_reply"].contains(&reason),
                "{header} {body}: {answer}"
            );
        }
    }
    // The application's own objective is the longest there is.
    cluster
        .register("hasty", "doubles", "-1.0", Duration::from_millis(50))
        .await;
    cluster.link("hasty", "synthetic").await;
    let longer = json!({ "input": [1], "slo_micros": 500_000_000 });
    let answer = cluster.query("hasty", longer).await.expect(200);
    assert_eq!(answer["default"], true, "{answer}");
}

async fn a_header_that_is_no_objective_is_refused_with_what_is_wrong() {
    let cluster = TestCluster::start().await;
    cluster.serve("app", &Deployment::of("noop")).await;
    for value in ["0", "-5", "1.5", "", "soon", "5, 6", "18446744073709551616", "ü"] {
        let reply = ask_within(&cluster, &[value], json!({ "input": [1] })).await;
        let cause = reply.cause(400);
        for words in ["Skysail-Slo-Micros", "at least 1", value] {
            assert!(cause.contains(words), "{value:?}: {words:?} is not in {cause:?}");
        }
    }
    let reply = ask_within(&cluster, &["5", "6"], json!({ "input": [1] })).await;
    assert!(reply.cause(400).contains("more than once"), "{}", reply.text);
    let answer = ask_within(&cluster, &["30000000"], json!({ "input": [1] }))
        .await
        .expect(200);
    assert_eq!(answer["output"], 0, "{answer}");
}

async fn a_full_queue_is_said_at_once_and_whoever_hangs_up_makes_room() {
    let cluster = Settings::default().flag("--queue-length", "2").start().await;
    let model = endless().with("max_batch", 1);
    cluster
        .serve_within("app", &model, Duration::from_secs(600))
        .await;
    // One in the model's hands, which it never leaves, and two that wait.
    let mut asking = JoinSet::new();
    for _ in 0..3 {
        let queries = cluster.queries();
        asking.spawn(async move {
            // Nobody waits for the answer: there will be none.
            let _ = queries
                .send(Method::POST, "/app/predict", r#"{"input": [1]}"#)
                .await;
        });
        until("the query to be accepted", PATIENCE, async || {
            cluster.accepted("synthetic").await == asking.len()
        })
        .await;
    }
    let refused = cluster.answer("app", json!([1])).await;
    assert_eq!(
        (&refused["default"], &refused["default_reason"]),
        (&json!(true), &json!("queue_full")),
        "{refused}"
    );
    asking.shutdown().await;
    until("the places to be free", PATIENCE, async || {
        cluster.waiting("synthetic").await == 0
    })
    .await;
}

async fn without_a_model_or_a_replica_the_default_says_so() {
    let cluster = TestCluster::start().await;
    cluster.register("lonely", "doubles", "-1.0", AMPLE_SLO).await;
    cluster.register("waiting", "doubles", "-1.0", AMPLE_SLO).await;
    cluster.register_model("absent", "doubles").await;
    cluster.link("waiting", "absent").await;
    for (application, reason) in [("lonely", "no_model_linked"), ("waiting", "no_replica")] {
        let answer = cluster.answer(application, json!([1.0])).await;
        assert_eq!(answer["default"], true);
        assert_eq!(answer["output"], -1.0);
        assert_eq!(answer["default_reason"], reason);
        assert_eq!(
            answer["default_explanation"],
            "No connected models found for query"
        );
        let sample = format!(r#"skysail_defaults_total{{application="{application}",reason="{reason}"}}"#);
        assert!(
            (cluster.metric(&sample).await - 1.0).abs() < f64::EPSILON,
            "{sample}"
        );
    }
    let pinned = cluster
        .query("lonely", json!({ "input": [1.0], "version": "1" }))
        .await;
    assert!(
        pinned.cause(400).contains("no model is linked"),
        "{}",
        pinned.text
    );
}

async fn the_default_output_goes_by_the_rule_of_outputs() {
    let cluster = TestCluster::start().await;
    let outputs = [
        "-1.0",
        "007",
        "setosa",
        "\"quoted\"",
        "{\"a\": [1, null]}",
        "null",
        "NaN",
        "1e400",
        "",
        " ",
        "grüezi",
    ];
    for (number, output) in outputs.into_iter().enumerate() {
        let application = format!("app-{number}");
        cluster.register(&application, "doubles", output, AMPLE_SLO).await;
        let answer = cluster.answer(&application, json!([1.0])).await;
        assert_eq!(answer["output"], as_output(output), "{output:?}");
    }
}

async fn query_ids_are_unique_and_small_also_after_a_crash() {
    let mut cluster = TestCluster::start().await;
    cluster.register("app", "doubles", "-1.0", AMPLE_SLO).await;
    let mut seen = HashSet::new();
    for life in 0..3 {
        let batch = json!({ "input_batch": vec![[1.0]; 100] });
        let replies = join_all((0..10).map(|_| cluster.query("app", batch.clone()))).await;
        for reply in replies {
            for answer in answers(&reply.expect(200)) {
                let id = answer["query_id"].as_u64().expect("an integer");
                assert!(id < 1 << 53, "{id}");
                assert!(seen.insert(id), "{id} came twice, at the latest in life {life}");
            }
        }
        cluster.kill();
        cluster.restart().await;
    }
    assert_eq!(seen.len(), 3000);
}

fn answers(reply: &Value) -> &Vec<Value> {
    reply["batch_predictions"]
        .as_array()
        .expect("an array of answers")
}

/// What the query API makes of a model's text.
fn as_output(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|_| text.into())
}

//! Named tensors from the query to the container and back, and the signatures that say which.

use serde_json::{Value, json};
use skysail_tests::cases;
use skysail_tests::cluster::{AMPLE_SLO, Runtime, Settings, TestCluster};
use skysail_tests::deployment::{ByHand, Deployment};
use skysail_tests::redis::RedisServer;
use skysail_tests::rest::Reply;
use skysail_tests::wait::{PATIENCE, find, until};

cases! {
    an_input_of_tensors_comes_back_as_the_model_gave_it;
    one_tensor_may_be_given_without_its_name_and_a_batch_row_by_row;
    what_is_no_input_is_refused_with_the_tensor_and_the_place;
    an_application_may_name_its_tensors_in_another_order_than_the_model;
    equal_tensors_are_in_the_cache_and_the_same_bytes_in_another_shape_are_not;
    a_version_learns_its_signature_from_its_first_replica_and_no_container_restarts_for_it;
    a_model_that_attaches_by_itself_learns_too_and_a_replica_of_another_signature_is_refused;
    a_new_version_that_would_not_answer_the_application_never_answers;
    an_application_can_be_like_a_model;
    what_does_not_fit_is_not_linked_and_the_difference_is_told;
    a_model_that_answers_another_shape_fails_that_batch_in_words;
    a_model_without_a_batch_dimension_gets_one_input_at_a_time;
    large_tensors_come_back_whole;
    two_frontends_learn_from_one_replica: Redis;
}

/// A tensor as the admin API has it: `image:FP32[2,2]`.
fn spec(text: &str) -> Value {
    let (name, rest) = text.split_once(':').expect("a name");
    let (rest, utf8) = match rest.strip_suffix(":utf8") {
        Some(rest) => (rest, true),
        None => (rest, false),
    };
    let (datatype, shape) = rest.split_once('[').expect("a shape");
    let lengths = shape.trim_end_matches(']').split(',');
    let lengths = lengths.filter(|length| !length.is_empty());
    let shape: Vec<i64> = lengths.map(|length| length.parse().expect("a length")).collect();
    let mut spec = json!({ "name": name, "datatype": datatype, "shape": shape });
    if utf8 {
        spec["utf8"] = true.into();
    }
    spec
}

/// A signature as the admin API has it. Without outputs the model gives text.
fn signature(inputs: &[&str], outputs: &[&str]) -> Value {
    let specs = |texts: &[&str]| texts.iter().map(|text| spec(text)).collect::<Vec<_>>();
    let mut signature = json!({ "inputs": specs(inputs) });
    if !outputs.is_empty() {
        signature["outputs"] = specs(outputs).into();
    }
    signature
}

fn new_application(name: &str, signature: &Value) -> Value {
    json!({
        "name": name,
        "input_type": "tensors",
        "signature": signature,
        "default_output": "-1.0",
        "slo_micros": u64::try_from(AMPLE_SLO.as_micros()).expect("an SLO of less than ages"),
    })
}

async fn register(cluster: &TestCluster, name: &str, signature: &Value) {
    let new = new_application(name, signature);
    cluster
        .admin()
        .post("/api/v1/applications", new)
        .await
        .expect(201);
}

async fn link(cluster: &TestCluster, application: &str, model: &str) -> Reply {
    let path = format!("/api/v1/applications/{application}/models/{model}");
    cluster.admin().put(&path, Value::Null).await
}

/// A model of this workspace that takes and gives tensors.
fn declared(program: &str, signature: &Value) -> Deployment {
    Deployment::of(program)
        .taking("tensors")
        .with("signature", signature.clone())
}

/// The same, deployed without a signature: its container tells it.
fn undeclared(signature: &Value) -> Deployment {
    Deployment::of("noop")
        .taking("tensors")
        .env("SKYSAIL_SIGNATURE", &signature.to_string())
}

/// Serves a noop of this signature behind the application `app`.
async fn serving(inputs: &[&str], outputs: &[&str]) -> TestCluster {
    let cluster = TestCluster::start().await;
    let signature = signature(inputs, outputs);
    register(&cluster, "app", &signature).await;
    cluster.deploy(&declared("noop", &signature)).await;
    cluster.link("app", "noop").await;
    cluster.attached("noop", 1).await;
    cluster
}

/// Waits until a version has a signature, and returns the version.
async fn learned(cluster: &TestCluster, model: &str) -> Value {
    find(
        "the version to have learned its signature",
        PATIENCE,
        async || {
            let version = cluster.version(model, "1").await;
            version["signature"].is_object().then_some(version)
        },
    )
    .await
}

async fn an_input_of_tensors_comes_back_as_the_model_gave_it() {
    let tensors = [
        "image:FP32[2,-1]",
        "mask:BOOL[-1]",
        "small:INT8[]",
        "big:UINT64[1]",
        "half:FP16[2]",
        "brain:BF16[1]",
        "double:FP64[3]",
        "raw:BYTES[1]",
        "text:BYTES[2]:utf8",
    ];
    let outputs = [&tensors[..], &["mean:FP64[]"]].concat();
    let cluster = serving(&tensors[..], &outputs).await;
    let input = json!({
        "image": [[0.0, 0.5, 1.0], [-1.5, 2.0, 1e30]],
        "mask": [true, false, true],
        "small": -128,
        "big": [u64::MAX],
        "half": [0.5, "Infinity"],
        "brain": [-2.0],
        "double": ["NaN", "-Infinity", 0.1],
        "raw": ["AAEC"],
        "text": ["grüezi", ""],
    });
    let output = cluster.predict("app", input.clone()).await;
    for (name, given) in input.as_object().expect("an object") {
        // The mean of it all is what JSON has it in.
        let is_close = name == "image" && close(&output[name], given);
        assert!(is_close || output[name] == *given, "{name}: {output}");
    }
    assert!(!output["mean"].is_null(), "{output}");
    let application = cluster.admin().get("/api/v1/applications/app").await.expect(200);
    assert_eq!(application["input_type"], "tensors");
    assert_eq!(application["signature"], signature(&tensors[..], &outputs));
}

/// Whether nested arrays of numbers are the same as 32-bit floats.
fn close(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| close(a, b)),
        _ => {
            let (Some(a), Some(b)) = (a.as_f64(), b.as_f64()) else {
                return false;
            };
            (a - b).abs() <= b.abs() * 1e-6
        }
    }
}

async fn one_tensor_may_be_given_without_its_name_and_a_batch_row_by_row() {
    let cluster = serving(&["x:INT32[-1]"], &["x:INT32[-1]", "mean:FP32[]"]).await;
    let expected = json!({ "x": [1, 2, 6], "mean": 3.0 });
    assert_eq!(cluster.predict("app", json!([1, 2, 6])).await, expected);
    assert_eq!(cluster.predict("app", json!({ "x": [1, 2, 6] })).await, expected);
    // The shapes of a batch may differ where the signature leaves them open.
    let batch = json!({ "input_batch": [[1], { "x": [2, 4] }, [], [7, 8, 9]] });
    let answers = cluster.query("app", batch).await.expect(200);
    let outputs: Vec<_> = answers["batch_predictions"]
        .as_array()
        .expect("an array")
        .iter()
        .map(|answer| answer["output"]["x"].clone())
        .collect();
    assert_eq!(json!(outputs), json!([[1], [2, 4], [], [7, 8, 9]]));
}

async fn what_is_no_input_is_refused_with_the_tensor_and_the_place() {
    let cluster = serving(&["image:UINT8[2,2]", "scale:FP32[]"], &[]).await;
    let image = json!([[1, 2], [3, 4]]);
    for (body, words) in [
        (
            json!({ "input": { "image": image } }),
            &["in `input`", "tensor `scale` is missing"][..],
        ),
        (
            json!({ "input": { "image": image, "scale": 1, "more": 1 } }),
            &["tensor `more` is unknown"],
        ),
        (json!({ "input": image }), &["image:UINT8[2,2], scale:FP32[]"]),
        (
            json!({ "input": { "image": [[1, 2], [3, 300]], "scale": 1 } }),
            &["image[1][1]", "300"],
        ),
        (
            json!({ "input": { "image": [[1, 2], [3, 0.5]], "scale": 1 } }),
            &["image[1][1]"],
        ),
        (
            json!({ "input": { "image": [[1, 2], [3]], "scale": 1 } }),
            &["image[1]"],
        ),
        (json!({ "input": { "image": [1, 2], "scale": 1 } }), &["image[0]"]),
        (
            json!({ "input": { "image": image, "scale": "a" } }),
            &["in `input`", "scale"],
        ),
        (
            json!({ "input_batch": [{ "image": image, "scale": 1 }, { "image": [[1, 2], [3, -1]], "scale": 1 }] }),
            &["in `input_batch[1]`", "image[1][1]"],
        ),
    ] {
        let cause = cluster.query("app", body).await.cause(400);
        for part in words {
            assert!(cause.contains(part), "{part} is not in {cause}");
        }
    }
    let twice = r#"{"input": {"scale": 1, "scale": 2, "image": [[1, 2], [3, 4]]}}"#;
    let cause = cluster
        .queries()
        .post_text("/app/predict", twice)
        .await
        .cause(400);
    assert!(cause.contains("`scale` is given twice"), "{cause}");
    let huge = r#"{"input": {"scale": 1e999, "image": [[1, 2], [3, 4]]}}"#;
    cluster.queries().post_text("/app/predict", huge).await.cause(400);
    let input = json!({ "image": image, "scale": 1 });
    assert_eq!(cluster.predict("app", input).await, 0);
}

async fn an_application_may_name_its_tensors_in_another_order_than_the_model() {
    let cluster = serving(&["a:INT64[]", "b:INT64[2]"], &["b:INT64[2]", "a:INT64[]"]).await;
    let turned = signature(&["b:INT64[2]", "a:INT64[]"], &["a:INT64[]", "b:INT64[-1]"]);
    register(&cluster, "turned", &turned).await;
    link(&cluster, "turned", "noop").await.expect(200);
    for application in ["app", "turned"] {
        let output = cluster.predict(application, json!({ "a": 1, "b": [2, 3] })).await;
        assert_eq!(output, json!({ "b": [2, 3], "a": 1 }));
        let pinned = json!({ "input": { "a": 4, "b": [5, 6] }, "version": "1" });
        let answer = cluster.query(application, pinned).await.expect(200);
        assert_eq!(answer["output"], json!({ "b": [5, 6], "a": 4 }));
        let rows = json!({ "input_batch": [{ "a": 7, "b": [8, 9] }, { "b": [1, 2], "a": 3 }] });
        let answers = cluster.query(application, rows).await.expect(200);
        assert_eq!(answers["batch_predictions"][1]["output"]["a"], 3);
    }
    // In the cache there is one order: the second application found what the first had asked.
    let hits = cluster
        .metric(r#"skysail_cache_hits_total{model="noop",version="1"}"#)
        .await;
    assert!(hits >= 4.0, "{hits}");
}

async fn equal_tensors_are_in_the_cache_and_the_same_bytes_in_another_shape_are_not() {
    let cluster = serving(&["x:INT8[-1,-1]"], &["x:INT8[-1,-1]"]).await;
    let counted = async |what: &str| {
        let sample = format!(r#"skysail_cache_{what}_total{{model="noop",version="1"}}"#);
        cluster.metric(&sample).await
    };
    for (input, hits, misses) in [
        (json!([[1, 2, 3, 4]]), 0.0, 1.0),
        (json!([[1, 2, 3, 4]]), 1.0, 1.0),
        (json!([[1, 2], [3, 4]]), 1.0, 2.0),
        (json!([[1], [2], [3], [4]]), 1.0, 3.0),
        (json!({ "x": [[1, 2], [3, 4]] }), 2.0, 3.0),
    ] {
        assert_eq!(
            cluster.predict("app", input.clone()).await,
            json!({ "x": input_of(&input) })
        );
        let found = (counted("hits").await, counted("misses").await);
        assert!(
            (found.0 - hits).abs() < 0.5 && (found.1 - misses).abs() < 0.5,
            "{input}: {found:?}"
        );
    }
}

/// The tensor of an input with or without its name.
fn input_of(input: &Value) -> &Value {
    input.get("x").unwrap_or(input)
}

async fn a_version_learns_its_signature_from_its_first_replica_and_no_container_restarts_for_it() {
    let cluster = TestCluster::start().await;
    let signature = signature(&["x:FP32[3]"], &["mean:FP32[]"]);
    cluster.deploy(&undeclared(&signature)).await;
    let before = cluster.attached("noop", 1).await;
    let version = learned(&cluster, "noop").await;
    assert_eq!(
        (&version["input_type"], &version["signature"]),
        (&json!("tensors"), &signature)
    );
    // Now an application can be linked.
    register(&cluster, "app", &signature).await;
    link(&cluster, "app", "noop").await.expect(200);
    assert_eq!(
        cluster.predict("app", json!([1, 2, 3])).await,
        json!({ "mean": 2.0 })
    );
    // A second replica is told what the first one told.
    let scale = json!({ "count": 2 });
    let path = "/api/v1/models/noop/versions/1/replicas";
    cluster.admin().put(path, scale).await.expect(200);
    let after = cluster.attached("noop", 2).await;
    let first = after
        .iter()
        .find(|replica| replica["replica"] == before[0]["replica"]);
    assert_eq!(first.expect("it stayed")["attached_at"], before[0]["attached_at"]);
    assert_eq!(cluster.version("noop", "1").await["restarts"], 0);
}

/// A container of `model:1` with this signature, started by hand.
fn by_hand(model: &str, replica: &str, signature: &Value) -> ByHand {
    ByHand {
        input_type: "tensors".to_owned(),
        ..ByHand::of("noop", model, replica)
    }
    .env("SKYSAIL_SIGNATURE", &signature.to_string())
}

async fn a_model_that_attaches_by_itself_learns_too_and_a_replica_of_another_signature_is_refused() {
    let cluster = Settings::default().runtime(Runtime::None).start().await;
    cluster.register_model("model", "tensors").await;
    let first = signature(&["x:FP32[3]"], &["mean:FP32[]"]);
    register(&cluster, "app", &first).await;
    let refused = link(&cluster, "app", "model").await.problem(409);
    assert!(
        refused.contains("first replica") && refused.contains("--in"),
        "{refused}"
    );

    let _right = cluster.by_hand(&by_hand("model", "right", &first));
    cluster.attached("model", 1).await;
    assert_eq!(learned(&cluster, "model").await["signature"], first);
    link(&cluster, "app", "model").await.expect(200);

    let other = signature(&["x:FP32[4]"], &["mean:FP32[]"]);
    let wrong = cluster.by_hand(&by_hand("model", "wrong", &other));
    let told = wrong.log().line("it refused").await;
    for part in [
        "takes x:FP32[3] -> mean:FP32[]",
        "the container x:FP32[4] -> mean:FP32[]",
    ] {
        assert!(told.contains(part), "{told}");
    }
    let row = ByHand::of("noop", "model", "row");
    let row = cluster.by_hand(&row);
    row.log().line("the container doubles").await;
    assert_eq!(cluster.attached("model", 1).await[0]["replica"], "right");
    assert_eq!(
        cluster.predict("app", json!([1, 2, 3])).await,
        json!({ "mean": 2.0 })
    );
}

async fn a_new_version_that_would_not_answer_the_application_never_answers() {
    let cluster = serving(&["x:FP32[3]"], &["mean:FP32[]"]).await;
    let other = signature(&["x:FP32[4]"], &["mean:FP32[]"]);
    let body = declared("noop", &other).named("noop", "2").body();
    let admin = cluster.admin();
    let refused = admin
        .post("/api/v1/models/noop/versions", body)
        .await
        .problem(409);
    assert!(
        refused.contains("application `app`") && refused.contains("the model takes x:FP32[4]"),
        "{refused}"
    );
    // Without a signature it is taken, and its containers are held to the application's.
    cluster.deploy(&undeclared(&other).named("noop", "2")).await;
    let log = "/api/v1/models/noop/versions/2/logs?tail=100";
    until("its container to be told", PATIENCE, async || {
        let lines = cluster.admin().get(log).await;
        lines.text.contains("the model takes x:FP32[4]")
    })
    .await;
    assert_eq!(cluster.version("noop", "2").await["replicas_attached"], 0);
    assert_eq!(
        cluster.predict("app", json!([1, 2, 3])).await,
        json!({ "mean": 2.0 })
    );
    // A third that answers it takes over.
    let wider = signature(&["x:FP32[-1]"], &["mean:FP32[]"]);
    cluster.deploy(&undeclared(&wider).named("noop", "3")).await;
    until("the third version to answer", PATIENCE, async || {
        let model = cluster.admin().get("/api/v1/models/noop").await.expect(200);
        model["serving"][0]["version"] == "3"
    })
    .await;
    assert_eq!(
        cluster.predict("app", json!([1, 2, 6])).await,
        json!({ "mean": 3.0 })
    );
}

async fn an_application_can_be_like_a_model() {
    let cluster = TestCluster::start().await;
    let like = |model: &str| json!({ "name": "app", "like": model, "default_output": "-1.0", "slo_micros": 10_000_000 });
    let register = async |new: Value| cluster.admin().post("/api/v1/applications", new).await;
    let refused = register(like("noop")).await.problem(409);
    assert!(refused.contains("no model `noop` is registered"), "{refused}");
    let signature = signature(&["x:FP32[3]"], &["mean:FP32[]"]);
    cluster
        .deploy(&undeclared(&signature).named("noop", "1").replicas(0))
        .await;
    let refused = register(like("noop")).await.problem(409);
    assert!(
        refused.contains("`noop:1` has no signature to copy yet"),
        "{refused}"
    );
    let scale = json!({ "count": 1 });
    let path = "/api/v1/models/noop/versions/1/replicas";
    cluster.admin().put(path, scale).await.expect(200);
    learned(&cluster, "noop").await;
    let application = register(like("noop")).await.expect(201);
    assert_eq!(application["signature"], signature);
    link(&cluster, "app", "noop").await.expect(200);
    cluster.attached("noop", 1).await;
    assert_eq!(
        cluster.predict("app", json!([1, 2, 3])).await,
        json!({ "mean": 2.0 })
    );

    let mut both = like("noop");
    both["input_type"] = "doubles".into();
    let refused = register(both).await.problem(400);
    assert!(refused.contains("give it, or them"), "{refused}");
    let mut neither = like("noop");
    neither.as_object_mut().expect("an object").remove("like");
    let refused = register(neither).await.problem(400);
    assert!(refused.contains("missing field `input_type`"), "{refused}");
    let undeclared = json!({
        "name": "vague", "input_type": "tensors", "default_output": "", "slo_micros": 1,
    });
    let refused = register(undeclared).await.problem(409);
    assert!(
        refused.contains("--in") && refused.contains("--like"),
        "{refused}"
    );
}

async fn what_does_not_fit_is_not_linked_and_the_difference_is_told() {
    let cluster = TestCluster::start().await;
    let model = signature(&["x:FP32[-1]"], &["p:FP32[3]"]);
    cluster.deploy(&declared("noop", &model).replicas(0)).await;
    for (name, sent, words) in [
        (
            "outputs",
            signature(&["x:FP32[-1]"], &["p:FP32[2]"]),
            "the model gives p:FP32[3], the application expects p:FP32[2]; register the application with --like noop",
        ),
        (
            "name",
            signature(&["y:FP32[-1]"], &["p:FP32[3]"]),
            "the application sends y:FP32[-1]",
        ),
        (
            "datatype",
            signature(&["x:FP64[-1]"], &["p:FP32[3]"]),
            "sends x:FP64[-1], the model takes x:FP32[-1]",
        ),
        (
            "text",
            signature(&["x:FP32[-1]"], &[]),
            "the application expects text",
        ),
    ] {
        register(&cluster, name, &sent).await;
        let refused = link(&cluster, name, "noop").await.problem(409);
        assert!(refused.contains(words), "{refused}");
    }
    cluster.register("row", "floats", "-1.0", AMPLE_SLO).await;
    let refused = link(&cluster, "row", "noop").await.problem(409);
    assert!(
        refused.contains("the model takes tensors, the application sends floats"),
        "{refused}"
    );
    register(&cluster, "fits", &signature(&["x:FP32[7]"], &["p:FP32[-1]"])).await;
    link(&cluster, "fits", "noop").await.expect(200);

    let mut unbatched = model.clone();
    unbatched["batched"] = false.into();
    let body = declared("noop", &unbatched)
        .named("single", "1")
        .with("max_batch", 8);
    let admin = cluster.admin();
    let refused = admin
        .post("/api/v1/models/single/versions", body.body())
        .await
        .problem(400);
    assert!(refused.contains("no batch dimension"), "{refused}");
}

async fn a_model_that_answers_another_shape_fails_that_batch_in_words() {
    let cluster = TestCluster::start().await;
    let signature = signature(&["x:FP32[3]"], &["mean:FP32[]"]);
    register(&cluster, "app", &signature).await;
    cluster
        .deploy(&declared("synthetic", &signature).env("SYNTHETIC_FAIL", "wrong-shape"))
        .await;
    cluster.link("app", "synthetic").await;
    cluster.attached("synthetic", 1).await;
    let answer = cluster.answer("app", json!([1, 2, 3])).await;
    assert_eq!(
        (&answer["output"], &answer["default_reason"]),
        (&json!(-1.0), &json!("model_error"))
    );
    let explanation = answer["default_explanation"].as_str().expect("a text");
    assert!(
        explanation.contains("mean:FP32[]") && explanation.contains("UINT8"),
        "{explanation}"
    );
    cluster.attached("synthetic", 1).await;
}

async fn a_model_without_a_batch_dimension_gets_one_input_at_a_time() {
    let cluster = TestCluster::start().await;
    let mut signature = signature(&["x:FP32[3]"], &["mean:FP32[]"]);
    signature["batched"] = false.into();
    register(&cluster, "app", &signature).await;
    cluster.deploy(&undeclared(&signature)).await;
    assert_eq!(learned(&cluster, "noop").await["signature"], signature);
    link(&cluster, "app", "noop").await.expect(200);
    let rows: Vec<_> = (0..50).map(|row| json!([row, row, row])).collect();
    let answers = cluster
        .query("app", json!({ "input_batch": rows }))
        .await
        .expect(200);
    for (row, answer) in answers["batch_predictions"]
        .as_array()
        .expect("an array")
        .iter()
        .enumerate()
    {
        assert_eq!(
            answer["output"]["mean"].as_f64(),
            u32::try_from(row).ok().map(f64::from),
            "{answer}"
        );
    }
    let batches = cluster
        .metric(r#"skysail_batch_size_count{model="noop",version="1"}"#)
        .await;
    assert!((batches - 50.0).abs() < 0.5, "{batches}");
}

async fn large_tensors_come_back_whole() {
    let cluster = serving(&["x:FP64[-1]"], &["x:FP64[-1]"]).await;
    let numbers: Vec<f64> = (0..40_000).map(f64::from).collect();
    for _ in 0..2 {
        let output = cluster.predict("app", json!(numbers)).await;
        assert_eq!(output, json!({ "x": numbers }));
    }
}

async fn two_frontends_learn_from_one_replica() {
    let redis = RedisServer::start().await;
    let frontend = || {
        Settings::default()
            .redis(redis.url())
            .runtime(Runtime::None)
            .start()
    };
    let (first, second) = tokio::join!(frontend(), frontend());
    first.register_model("model", "tensors").await;
    let told = signature(&["x:FP32[3]"], &["mean:FP32[]"]);
    let rpc = [&first, &second].map(|frontend| frontend.addresses().rpc.to_string());
    let container = by_hand("model", "r", &told).env("SKYSAIL_FRONTENDS", &rpc.join(","));
    let _container = first.by_hand(&container);
    for cluster in [&first, &second] {
        assert_eq!(learned(cluster, "model").await["signature"], told);
    }
    register(&first, "app", &told).await;
    link(&first, "app", "model").await.expect(200);
    for cluster in [&first, &second] {
        until("the frontend to answer", PATIENCE, async || {
            let reply = cluster.query("app", json!({ "input": [1, 2, 3] })).await;
            reply.status == 200 && reply.json()["output"] == json!({ "mean": 2.0 })
        })
        .await;
    }
    // A replica that tells something else is refused by both.
    let other = signature(&["x:FP32[4]"], &["mean:FP32[]"]);
    let wrong = by_hand("model", "wrong", &other).env("SKYSAIL_FRONTENDS", &rpc[1]);
    let wrong = first.by_hand(&wrong);
    wrong.log().line("x:FP32[3] -> mean:FP32[]").await;
}

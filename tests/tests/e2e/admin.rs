//! The admin API: what it shows, what it changes, and what it refuses with which words.

use futures::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};
use skysail_tests::cases;
use skysail_tests::cluster::{AMPLE_SLO, Runtime, Settings, TestCluster};
use skysail_tests::deployment::Deployment;
use skysail_tests::rest::Reply;
use skysail_tests::wait::{PATIENCE, until};

cases! {
    an_application_is_registered_shown_changed_and_deleted;
    a_change_of_an_application_is_what_the_next_query_sees;
    a_version_is_deployed_shown_scaled_stopped_and_deleted;
    versions_are_rolled_forward_and_back;
    a_model_answers_the_applications_it_is_linked_to;
    what_is_registered_twice_is_refused_with_what_to_do;
    input_types_that_differ_are_refused_and_named;
    a_name_that_is_none_is_refused_with_the_rule;
    a_value_out_of_range_is_refused_with_the_range;
    what_does_not_exist_is_named_with_what_does;
    a_body_that_is_not_what_was_expected_is_refused_with_why;
    what_others_need_is_not_deleted;
    what_is_not_there_is_a_problem_document_too;
    concurrent_writers_lose_nothing;
    of_writers_of_one_name_one_wins;
    the_replicas_are_listed_as_they_are;
    a_versions_log_is_its_containers_lines;
    the_status_says_what_runs_and_what_is_not_well;
    the_metrics_count_what_happened;
    probes_answer_on_both_ports;
}

async fn without_containers() -> TestCluster {
    Settings::default().runtime(Runtime::None).start().await
}

async fn an_application_is_registered_shown_changed_and_deleted() {
    let cluster = without_containers().await;
    let admin = cluster.admin();
    assert_eq!(admin.get("/api/v1/applications").await.expect(200), json!([]));
    let body =
        json!({ "name": "iris", "input_type": "doubles", "default_output": "-1.0", "slo_micros": 100_000 });
    let registered = admin.post("/api/v1/applications", body.clone()).await.expect(201);
    for (member, value) in body.as_object().unwrap() {
        assert_eq!(registered[member], *value, "{member}");
    }
    assert_eq!(registered["linked_models"], json!([]));
    assert_eq!(
        admin.get("/api/v1/applications/iris").await.expect(200),
        registered
    );
    assert_eq!(
        admin.get("/api/v1/applications").await.expect(200),
        json!([registered])
    );

    let path = "/api/v1/applications/iris";
    let mut expected = registered.clone();
    for (patch, member) in [
        (json!({ "slo_micros": 250_000 }), "slo_micros"),
        (json!({ "default_output": "none" }), "default_output"),
    ] {
        expected[member] = patch[member].clone();
        assert_eq!(admin.patch(path, patch).await.expect(200), expected);
    }
    assert_eq!(admin.patch(path, json!({})).await.expect(200), expected);
    assert_eq!(admin.get(path).await.expect(200), expected);

    assert_eq!(admin.delete(path).await.expect(204), Value::Null);
    admin.get(path).await.problem(404);
    admin.delete(path).await.problem(404);
    assert_eq!(admin.get("/api/v1/applications").await.expect(200), json!([]));
}

async fn a_change_of_an_application_is_what_the_next_query_sees() {
    let cluster = without_containers().await;
    cluster.register("app", "doubles", "first", AMPLE_SLO).await;
    for output in ["second", "third", "fourth"] {
        let patch = json!({ "default_output": output });
        cluster
            .admin()
            .patch("/api/v1/applications/app", patch)
            .await
            .expect(200);
        assert_eq!(cluster.answer("app", json!([1.0])).await["output"], output);
    }
}

async fn a_version_is_deployed_shown_scaled_stopped_and_deleted() {
    let cluster = TestCluster::start().await;
    let admin = cluster.admin();
    let deployment = Deployment::of("noop")
        .named("model", "1.0")
        .replicas(2)
        .env("GREETING", "hello")
        .with("batch_size", 8);
    let deployed = admin
        .post("/api/v1/models/model/versions", deployment.body())
        .await
        .expect(201);
    assert_eq!(
        (&deployed["model"], &deployed["version"], &deployed["current"]),
        (&json!("model"), &json!("1.0"), &json!(true))
    );
    cluster.attached("model", 2).await;

    let path = "/api/v1/models/model/versions/1.0";
    let shown = admin.get(path).await.expect(200);
    assert_eq!(
        (
            &shown["state"],
            &shown["replicas_desired"],
            &shown["replicas_attached"]
        ),
        (&json!("ready"), &json!(2), &json!(2))
    );
    assert_eq!(
        (&shown["batch_size"], &shown["max_batch"], &shown["cache"]),
        (&json!(8), &Value::Null, &json!(true))
    );
    assert_eq!(shown["deployment"]["env"], json!({ "GREETING": "hello" }));
    assert_eq!(shown["containers"].as_array().unwrap().len(), 2);
    let model = admin.get("/api/v1/models/model").await.expect(200);
    assert_eq!(
        (&model["current_version"], &model["versions"][0]),
        (&json!("1.0"), &shown)
    );
    assert_eq!(admin.get("/api/v1/models").await.expect(200), json!([model]));

    for count in [3, 1, 0] {
        let scaled = admin
            .put(&format!("{path}/replicas"), json!({ "count": count }))
            .await
            .expect(200);
        assert_eq!(scaled["replicas_desired"], count);
        cluster.attached("model", count).await;
    }
    assert_eq!(cluster.version("model", "1.0").await["state"], "stopped");
    admin
        .put(&format!("{path}/replicas"), json!({ "count": 1 }))
        .await
        .expect(200);
    cluster.attached("model", 1).await;
    admin.delete(path).await.expect(204);
    admin.get(path).await.problem(404);
    assert_eq!(admin.get("/api/v1/models").await.expect(200), json!([]));
    cluster.attached("model", 0).await;
}

async fn versions_are_rolled_forward_and_back() {
    let cluster = TestCluster::start().await;
    cluster
        .serve("app", &Deployment::of("noop").named("model", "1"))
        .await;
    cluster.deploy(&Deployment::iris().named("model", "2")).await;
    cluster.attached("model", 2).await;
    let outputs = [
        ("2", json!("virginica")),
        ("1", json!(0)),
        ("2", json!("virginica")),
        ("2", json!("virginica")),
    ];
    for (version, output) in outputs {
        let path = "/api/v1/models/model/current-version";
        let model = cluster
            .admin()
            .put(path, json!({ "version": version }))
            .await
            .expect(200);
        assert_eq!(model["current_version"], version);
        assert_eq!(cluster.predict("app", json!([7.9, 4.4, 6.9, 2.5])).await, output);
    }
}

async fn a_model_answers_the_applications_it_is_linked_to() {
    let cluster = TestCluster::start().await;
    cluster.deploy(&Deployment::of("noop")).await;
    cluster.attached("noop", 1).await;
    for application in ["one", "two"] {
        cluster.register(application, "doubles", "-1.0", AMPLE_SLO).await;
        let path = format!("/api/v1/applications/{application}/models/noop");
        for _again in 0..2 {
            let linked = cluster.admin().put(&path, Value::Null).await.expect(200);
            assert_eq!(linked["linked_models"], json!(["noop"]));
        }
        assert_eq!(cluster.predict(application, json!([1.0])).await, 0);
    }
    let model = cluster.admin().get("/api/v1/models/noop").await.expect(200);
    assert_eq!(model["linked_applications"], json!(["one", "two"]));

    let path = "/api/v1/applications/one/models/noop";
    let unlinked = cluster.admin().delete(path).await.expect(200);
    assert_eq!(unlinked["linked_models"], json!([]));
    assert_eq!(
        cluster.answer("one", json!([1.0])).await["default_reason"],
        "no_model_linked"
    );
    assert_eq!(cluster.predict("two", json!([1.0])).await, 0);
    let detail = cluster.admin().delete(path).await.problem(404);
    assert!(detail.contains("not linked"), "{detail}");
}

async fn what_is_registered_twice_is_refused_with_what_to_do() {
    let cluster = without_containers().await;
    let admin = cluster.admin();
    cluster.register("app", "doubles", "-1.0", AMPLE_SLO).await;
    let before = admin.get("/api/v1/applications/app").await.text;
    let again = json!({ "name": "app", "input_type": "strings", "default_output": "x", "slo_micros": 1 });
    let detail = admin.post("/api/v1/applications", again).await.problem(409);
    assert!(
        detail.contains("`app` is already registered") && detail.contains("delete"),
        "{detail}"
    );
    assert_eq!(admin.get("/api/v1/applications/app").await.text, before);

    for model in ["m", "n"] {
        cluster.register_model(model, "doubles").await;
    }
    let version = json!({ "version": "1", "input_type": "doubles" });
    let detail = admin
        .post("/api/v1/models/m/versions", version)
        .await
        .problem(409);
    assert!(
        detail.contains("already has a version `1`") && detail.contains("delete"),
        "{detail}"
    );

    cluster.link("app", "m").await;
    let detail = admin
        .put("/api/v1/applications/app/models/n", Value::Null)
        .await
        .problem(409);
    assert!(
        detail.contains("already linked to model `m`") && detail.contains("unlink"),
        "{detail}"
    );
}

async fn input_types_that_differ_are_refused_and_named() {
    let cluster = without_containers().await;
    let admin = cluster.admin();
    cluster.register("app", "doubles", "-1.0", AMPLE_SLO).await;
    cluster.register_model("text-model", "strings").await;
    let detail = admin
        .put("/api/v1/applications/app/models/text-model", Value::Null)
        .await
        .problem(409);
    assert!(
        detail.contains("takes strings") && detail.contains("sends doubles"),
        "{detail}"
    );

    // Neither a new version of a linked model nor an old one chosen anew may change what it takes.
    cluster.register_model("model", "strings").await;
    let second = json!({ "version": "2", "input_type": "doubles" });
    admin
        .post("/api/v1/models/model/versions", second)
        .await
        .expect(201);
    cluster.link("app", "model").await;
    let third = json!({ "version": "3", "input_type": "bytes" });
    let detail = admin
        .post("/api/v1/models/model/versions", third)
        .await
        .problem(409);
    assert!(
        detail.contains("`app`") && detail.contains("takes bytes"),
        "{detail}"
    );
    let detail = admin
        .put("/api/v1/models/model/current-version", json!({ "version": "1" }))
        .await
        .problem(409);
    assert!(
        detail.contains("`app`") && detail.contains("takes strings"),
        "{detail}"
    );
}

async fn a_name_that_is_none_is_refused_with_the_rule() {
    let cluster = without_containers().await;
    let long = "a".repeat(64);
    for name in ["", "-a", "a-", "Iris", "my app", "a_b", "a.b", "ü", "a/b", &long] {
        let body = json!({ "name": name, "input_type": "doubles", "default_output": "", "slo_micros": 1 });
        let detail = cluster
            .admin()
            .post("/api/v1/applications", body)
            .await
            .problem(400);
        assert!(detail.contains("application name"), "{name:?}: {detail}");
        let body = json!({ "version": format!("{name}_"), "input_type": "doubles" });
        let detail = cluster
            .admin()
            .post("/api/v1/models/m/versions", body)
            .await
            .problem(400);
        assert!(detail.contains("version"), "{name:?}: {detail}");
    }
    let put = Method::PUT;
    for (method, path) in [
        (Method::GET, "/api/v1/applications/No%20Good"),
        (Method::PATCH, "/api/v1/applications/-a"),
        (Method::DELETE, "/api/v1/applications/A"),
        (put.clone(), "/api/v1/applications/app/models/A_B"),
        (put.clone(), "/api/v1/applications/A/models/model"),
        (Method::DELETE, "/api/v1/applications/a%00/models/model"),
        (Method::GET, "/api/v1/models/a.b"),
        (Method::POST, "/api/v1/models/A/versions"),
        (Method::GET, "/api/v1/models/m/versions/1_0"),
        (Method::DELETE, "/api/v1/models/m/versions/.1"),
        (put.clone(), "/api/v1/models/m%2Fn/current-version"),
        (put, "/api/v1/models/m/versions/%20/replicas"),
        (Method::GET, "/api/v1/models/m/versions/%FF/logs"),
    ] {
        let reply = send(
            &cluster,
            method,
            path,
            r#"{"version": "1", "input_type": "doubles", "count": 1}"#,
        )
        .await;
        let detail = reply.problem(400);
        assert!(
            detail.contains("letters") || detail.contains("UTF-8"),
            "{path}: {detail}"
        );
    }
}

async fn a_value_out_of_range_is_refused_with_the_range() {
    let cluster = without_containers().await;
    let admin = cluster.admin();
    cluster.register("app", "doubles", "-1.0", AMPLE_SLO).await;
    for slo in [0, -1, i64::MIN] {
        let body = json!({ "name": "b", "input_type": "doubles", "default_output": "", "slo_micros": slo });
        let refused = admin.post("/api/v1/applications", body).await.problem(400);
        let patched = admin
            .patch("/api/v1/applications/app", json!({ "slo_micros": slo }))
            .await
            .problem(400);
        for detail in [refused, patched] {
            assert!(
                detail.contains(&slo.to_string()) && detail.contains("at least 1 microsecond"),
                "{detail}"
            );
        }
    }
    for input_type in ["double", "Doubles", "tensor", ""] {
        let body = json!({ "name": "b", "input_type": input_type, "default_output": "", "slo_micros": 1 });
        let refused = admin.post("/api/v1/applications", body).await.problem(400);
        let body = json!({ "version": "1", "input_type": input_type });
        let version = admin.post("/api/v1/models/m/versions", body).await.problem(400);
        for detail in [refused, version] {
            for valid in ["bytes", "integers", "floats", "doubles", "strings"] {
                assert!(detail.contains(valid), "{valid} is not in {detail}");
            }
        }
    }
    for (member, value, expected) in [
        ("image", json!(" "), "the image is empty"),
        ("replicas", json!(1001), "1000"),
        ("replicas", json!(-1), "-1"),
        ("cpus", json!(0), "at least 0.01"),
        ("cpus", json!(-2.5), "at least 0.01"),
        ("memory_bytes", json!(0), "above 0"),
        ("env", json!({ "A=B": "" }), "A=B"),
        ("env", json!({ "": "" }), "environment variable"),
        (
            "warm_up",
            json!("text"),
            "an array of numbers (input type doubles)",
        ),
        ("warm_up", json!([]), "the input is empty"),
        ("warm_up", json!(vec![0.5; 40_000]), "160001 bytes"),
    ] {
        let mut body = Deployment::of_image("m", "image").body();
        body["deployment"][member] = value;
        let detail = admin.post("/api/v1/models/m/versions", body).await.problem(400);
        assert!(detail.contains(expected), "{member}: {detail}");
    }
    for (member, value) in [
        ("batch_size", json!(0)),
        ("batch_size", json!("many")),
        ("max_batch", json!(0)),
    ] {
        let body = Deployment::of_image("m", "image").with(member, value).body();
        let detail = admin.post("/api/v1/models/m/versions", body).await.problem(400);
        assert!(!detail.is_empty(), "{member}");
    }
    assert_eq!(
        admin.get("/api/v1/models").await.expect(200),
        json!([]),
        "nothing was registered"
    );
}

async fn what_does_not_exist_is_named_with_what_does() {
    let cluster = without_containers().await;
    let admin = cluster.admin();
    let detail = admin.get("/api/v1/applications/nobody").await.problem(404);
    assert!(
        detail.contains("`nobody`") && detail.contains("there are no applications"),
        "{detail}"
    );
    cluster.register("app", "doubles", "-1.0", AMPLE_SLO).await;
    cluster.register_model("model", "doubles").await;

    let detail = admin
        .put("/api/v1/applications/app/models/nothing", Value::Null)
        .await
        .problem(409);
    assert!(
        detail.contains("`nothing`") && detail.contains("model") && detail.contains("first"),
        "{detail}"
    );
    let version = json!({ "version": "9" });
    let count = json!({ "count": 1 });
    for (reply, missing, known) in [
        (
            admin
                .put("/api/v1/applications/nobody/models/model", Value::Null)
                .await,
            "nobody",
            "app",
        ),
        (
            admin.delete("/api/v1/applications/app/models/nothing").await,
            "nothing",
            "app",
        ),
        (
            admin.patch("/api/v1/applications/nobody", json!({})).await,
            "nobody",
            "app",
        ),
        (admin.get("/api/v1/models/nothing").await, "nothing", "model"),
        (
            admin.get("/api/v1/models/model/versions/9").await,
            "9",
            "versions: 1",
        ),
        (
            admin.get("/api/v1/models/model/versions/9/logs").await,
            "9",
            "versions: 1",
        ),
        (
            admin.delete("/api/v1/models/model/versions/9").await,
            "9",
            "versions: 1",
        ),
        (
            admin.delete("/api/v1/models/nothing/versions/1").await,
            "nothing",
            "model",
        ),
        (
            admin
                .put("/api/v1/models/model/current-version", version.clone())
                .await,
            "9",
            "versions: 1",
        ),
        (
            admin.put("/api/v1/models/nothing/current-version", version).await,
            "nothing",
            "model",
        ),
        (
            admin
                .put("/api/v1/models/model/versions/9/replicas", count.clone())
                .await,
            "9",
            "versions: 1",
        ),
        (
            admin
                .put("/api/v1/models/nothing/versions/1/replicas", count)
                .await,
            "nothing",
            "model",
        ),
    ] {
        let detail = reply.problem(404);
        assert!(detail.contains(missing) && detail.contains(known), "{detail}");
    }
}

async fn a_body_that_is_not_what_was_expected_is_refused_with_why() {
    let cluster = without_containers().await;
    cluster.register("app", "doubles", "-1.0", AMPLE_SLO).await;
    let (post, patch, put) = (Method::POST, Method::PATCH, Method::PUT);
    let applications = "/api/v1/applications";
    for (method, path, body, expected) in [
        (post.clone(), applications, "", "EOF"),
        (post.clone(), applications, "{", "EOF"),
        (post.clone(), applications, "[]", "expected"),
        (post.clone(), applications, r#"{"name": "b"}"#, "missing field"),
        (post.clone(), applications, r#"{"name": 7}"#, "expected a string"),
        (
            post.clone(),
            applications,
            r#"{"name": "b", "sla": 1}"#,
            "unknown field `sla`",
        ),
        (
            patch.clone(),
            "/api/v1/applications/app",
            r#"{"input_type": "strings"}"#,
            "unknown field `input_type`",
        ),
        (
            patch,
            "/api/v1/applications/app",
            r#"{"slo_micros": 1.5}"#,
            "expected i64",
        ),
        (post.clone(), "/api/v1/models/m/versions", "{}", "missing field"),
        (
            post.clone(),
            "/api/v1/models/m/versions",
            "\u{0}",
            "expected value",
        ),
        (
            put.clone(),
            "/api/v1/models/m/current-version",
            "{}",
            "missing field `version`",
        ),
        (
            put,
            "/api/v1/models/m/versions/1/replicas",
            r#"{"count": "3"}"#,
            "expected u32",
        ),
    ] {
        let detail = send(&cluster, method, path, body).await.problem(400);
        assert!(
            detail.contains(expected),
            "{body:?}: {expected:?} is not in {detail:?}"
        );
    }
    let detail = send(&cluster, post, applications, &" ".repeat(2 * 1024 * 1024))
        .await
        .problem(413);
    assert!(!detail.is_empty());
    cluster.admin().get("/api/v1/applications/app").await.expect(200);
}

async fn what_others_need_is_not_deleted() {
    let cluster = without_containers().await;
    let admin = cluster.admin();
    cluster.register("app", "doubles", "-1.0", AMPLE_SLO).await;
    cluster.register_model("model", "doubles").await;
    cluster.link("app", "model").await;
    let detail = admin.delete("/api/v1/models/model/versions/1").await.problem(409);
    assert!(
        detail.contains("last version") && detail.contains("skysail app unlink app model"),
        "{detail}"
    );

    let second = json!({ "version": "2", "input_type": "doubles" });
    admin
        .post("/api/v1/models/model/versions", second)
        .await
        .expect(201);
    let detail = admin.delete("/api/v1/models/model/versions/2").await.problem(409);
    assert!(
        detail.contains("current version") && detail.contains("set-version"),
        "{detail}"
    );
    admin.delete("/api/v1/models/model/versions/1").await.expect(204);
    admin.delete("/api/v1/applications/app").await.expect(204);
    admin.delete("/api/v1/models/model/versions/2").await.expect(204);

    // Whose containers attach by themselves is not Skysail's to scale.
    cluster.register_model("model", "doubles").await;
    let detail = admin
        .put("/api/v1/models/model/versions/1/replicas", json!({ "count": 2 }))
        .await
        .problem(409);
    assert!(detail.contains("without an image"), "{detail}");
}

async fn what_is_not_there_is_a_problem_document_too() {
    let cluster = without_containers().await;
    for path in [
        "/nothing",
        "/api/v1",
        "/api/v1/nothing",
        "/api/v2/applications",
        "/api/v1/applications/a/b/c/d",
    ] {
        let detail = cluster.admin().get(path).await.problem(404);
        assert!(detail.contains("/api/v1"), "{path}: {detail}");
    }
    for (method, path) in [
        (Method::DELETE, "/api/v1/applications"),
        (Method::POST, "/api/v1/applications/app"),
        (Method::POST, "/api/v1/status"),
        (Method::POST, "/metrics"),
    ] {
        let detail = send(&cluster, method.clone(), path, "").await.problem(405);
        assert!(
            detail.contains(method.as_str()) && detail.contains(path),
            "{detail}"
        );
    }
}

async fn concurrent_writers_lose_nothing() {
    let cluster = without_containers().await;
    cluster.register_model("model", "doubles").await;
    let writers = (0..40).map(|number| {
        let cluster = &cluster;
        async move {
            let application = format!("app-{number}");
            cluster.register(&application, "doubles", "-1.0", AMPLE_SLO).await;
            cluster.link(&application, "model").await;
            let version = json!({ "version": format!("by-{number}"), "input_type": "doubles" });
            cluster
                .admin()
                .post("/api/v1/models/model/versions", version)
                .await
                .expect(201);
        }
    });
    join_all(writers).await;
    let applications = cluster.admin().get("/api/v1/applications").await.expect(200);
    let applications = applications.as_array().unwrap();
    assert_eq!(applications.len(), 40);
    assert!(
        applications
            .iter()
            .all(|found| found["linked_models"] == json!(["model"]))
    );
    let model = cluster.admin().get("/api/v1/models/model").await.expect(200);
    assert_eq!(model["versions"].as_array().unwrap().len(), 41);
}

async fn of_writers_of_one_name_one_wins() {
    let cluster = without_containers().await;
    let writers = (0..20).map(|number: u32| {
        let body = json!({
            "name": "app",
            "input_type": "doubles",
            "default_output": number.to_string(),
            "slo_micros": 1,
        });
        let admin = cluster.admin();
        async move { (number, admin.post("/api/v1/applications", body).await) }
    });
    let replies = join_all(writers).await;
    let won: Vec<u32> = replies
        .iter()
        .filter(|(_, reply)| reply.status == 201)
        .map(|(number, _)| *number)
        .collect();
    assert_eq!(won.len(), 1, "{replies:?}");
    for (_, reply) in replies.iter().filter(|(number, _)| *number != won[0]) {
        let detail = reply.problem(409);
        assert!(detail.contains("already registered"), "{detail}");
    }
    let shown = cluster.admin().get("/api/v1/applications/app").await.expect(200);
    assert_eq!(shown["default_output"], won[0].to_string());
}

async fn the_replicas_are_listed_as_they_are() {
    let cluster = TestCluster::start().await;
    assert_eq!(
        cluster.admin().get("/api/v1/replicas").await.expect(200),
        json!([])
    );
    cluster
        .serve("app", &Deployment::of("noop").named("model", "1.0").replicas(2))
        .await;
    for number in 0..10 {
        cluster.predict("app", json!([number])).await;
    }
    let replicas = cluster.attached("model", 2).await;
    let ids: Vec<&Value> = replicas.iter().map(|replica| &replica["replica"]).collect();
    assert_eq!(ids, ["model_1.0_0", "model_1.0_1"]);
    for replica in &replicas {
        assert_eq!(
            (&replica["version"], &replica["state"]),
            (&json!("1.0"), &json!("ready"))
        );
        assert!(replica["pid"].as_u64().is_some_and(|pid| pid > 1), "{replica}");
        assert!(
            replica["container"]
                .as_str()
                .is_some_and(|name| name.starts_with("test_")),
            "{replica}"
        );
        assert_eq!(replica["in_flight"], 0);
    }
    let inputs: u64 = replicas
        .iter()
        .filter_map(|replica| replica["inputs"].as_u64())
        .sum();
    assert_eq!(inputs, 10);
}

async fn a_versions_log_is_its_containers_lines() {
    let cluster = TestCluster::start().await;
    cluster.serve("app", &Deployment::of("noop").replicas(2)).await;
    let path = "/api/v1/models/noop/versions/1/logs";
    let logs = cluster.admin().get(&format!("{path}?tail=50")).await;
    assert_eq!(
        (logs.status, logs.content_type.as_str()),
        (200, "application/x-ndjson")
    );
    let lines: Vec<Value> = logs
        .text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    for replica in ["noop_1_0", "noop_1_1"] {
        let serving =
            |line: &&Value| line["replica"] == replica && line["line"].as_str().unwrap().contains("serving");
        assert_eq!(lines.iter().filter(serving).count(), 1, "{lines:?}");
    }
    assert_eq!(cluster.admin().get(&format!("{path}?tail=0")).await.text, "");
    cluster
        .admin()
        .get(&format!("{path}?tail=many"))
        .await
        .problem(400);
}

async fn the_status_says_what_runs_and_what_is_not_well() {
    let cluster = TestCluster::start().await;
    let status = || async { cluster.admin().get("/api/v1/status").await.expect(200) };
    let empty = status().await;
    assert_eq!(
        (&empty["cluster"], &empty["problems"]),
        (&json!("test"), &json!([]))
    );
    assert_eq!(
        (&empty["store"]["kind"], &empty["store"]["up"]),
        (&json!("embedded"), &json!(true))
    );
    assert_eq!(
        (&empty["runtime"]["kind"], &empty["runtime"]["up"]),
        (&json!("process"), &json!(true))
    );
    let frontend = &empty["frontends"][0];
    let addresses = cluster.addresses();
    let expected = [
        ("query_addr", addresses.query),
        ("admin_addr", addresses.admin),
        ("rpc_addr", addresses.rpc),
    ];
    for (member, addr) in expected {
        assert_eq!(frontend[member], addr.to_string());
    }

    cluster.serve("app", &Deployment::of("noop")).await;
    cluster.register("lonely", "doubles", "-1.0", AMPLE_SLO).await;
    cluster.register_model("absent", "doubles").await;
    cluster
        .deploy(&Deployment::of_image("broken", "/no/such/program"))
        .await;
    let says = |status: &Value, words: &str| {
        status["problems"]
            .as_array()
            .unwrap()
            .iter()
            .any(|problem| problem.as_str().unwrap().contains(words))
    };
    until("the failure to be known", PATIENCE, async || {
        says(&status().await, "/no/such/program")
    })
    .await;
    let status = status().await;
    assert_eq!(
        (&status["applications"], &status["models"], &status["replicas"]),
        (&json!(2), &json!(3), &json!(1))
    );
    for words in [
        "`lonely` has no model",
        "`absent:1` has no replica",
        "`broken:1` has 0 of 1 replicas",
    ] {
        assert!(says(&status, words), "{words}: {status}");
    }
    assert_eq!(status["problems"].as_array().unwrap().len(), 3, "{status}");
}

async fn the_metrics_count_what_happened() {
    let cluster = TestCluster::start().await;
    let asked_every_time = Deployment::of("noop").with("batch_size", 4).with("cache", false);
    cluster.serve("app", &asked_every_time).await;
    cluster.register("lonely", "doubles", "-1.0", AMPLE_SLO).await;
    for _ in 0..3 {
        cluster.predict("app", json!([1.0])).await;
        cluster.answer("lonely", json!([1.0])).await;
    }
    let batch = json!({ "input_batch": vec![[1.0]; 40] });
    cluster.query("app", batch).await.expect(200);
    for (sample, expected) in [
        (r#"skysail_queries_total{application="app"}"#, 43),
        (r#"skysail_queries_total{application="lonely"}"#, 3),
        (
            r#"skysail_defaults_total{application="lonely",reason="no_model_linked"}"#,
            3,
        ),
        (r#"skysail_query_latency_seconds_count{application="app"}"#, 43),
        (r#"skysail_batch_size_sum{model="noop",version="1"}"#, 43),
        (r#"skysail_queue_length{model="noop",version="1"}"#, 0),
        (r#"skysail_replicas_attached{model="noop",version="1"}"#, 1),
        ("skysail_store_up", 1),
    ] {
        let value = cluster.metric(sample).await;
        assert!(
            (value - f64::from(expected)).abs() < f64::EPSILON,
            "{sample} is {value}"
        );
    }
    let batches = cluster
        .metric(r#"skysail_batch_size_count{model="noop",version="1"}"#)
        .await;
    assert!(
        (13.0..=43.0).contains(&batches),
        "43 inputs in batches of at most 4 took {batches}"
    );

    let reply = cluster.admin().get("/metrics").await;
    assert!(
        reply.content_type.starts_with("text/plain"),
        "{}",
        reply.content_type
    );
    for line in reply.text.lines().filter(|line| !line.starts_with('#')) {
        assert!(line.starts_with("skysail_"), "{line}");
        assert!(
            !line.contains("batch_size") || line.starts_with("skysail_batch_size_"),
            "{line}"
        );
    }
}

async fn probes_answer_on_both_ports() {
    let cluster = without_containers().await;
    for api in [cluster.queries(), cluster.admin()] {
        assert_eq!(api.get("/healthz").await.expect(200)["status"], "ok");
        let ready = api.get("/readyz").await.expect(200);
        assert_eq!((&ready["ready"], &ready["degraded"]), (&json!(true), &json!([])));
    }
}

async fn send(cluster: &TestCluster, method: Method, path: &str, body: &str) -> Reply {
    let reply = cluster.admin().send(method, path, body.to_owned()).await;
    reply.unwrap_or_else(|error| panic!("{path}: {error}"))
}

//! Metadata in Redis, on good days and bad ones, as those outside a frontend see it.

use serde_json::{Value, json};
use skysail_tests::cases;
use skysail_tests::cluster::{AMPLE_SLO, Runtime, Settings, TestCluster};
use skysail_tests::deployment::Deployment;
use skysail_tests::redis::{RedisServer, RedisTls};
use skysail_tests::skysail::Skysail;
use skysail_tests::wait::{PATIENCE, until};

cases! {
    a_redis_that_is_not_there_at_start_is_said_and_waited_for: Redis;
    while_redis_is_away_queries_go_on_and_writes_are_refused: Redis;
    what_another_frontend_writes_is_followed: Redis;
    frontends_that_write_at_the_same_time_lose_nothing: Redis;
    query_ids_differ_between_frontends: Redis;
    clusters_in_one_redis_know_nothing_of_each_other: Redis;
    a_redis_that_was_emptied_takes_nothing_down_and_is_restored: Redis;
    an_emptied_redis_that_is_accepted_ends_what_ran: Redis;
    a_redis_that_is_killed_and_comes_back_empty_is_restored_by_the_command: Redis;
    a_redis_that_is_killed_and_comes_back_with_its_data_needs_nobody: Redis;
    a_redis_that_answers_late_holds_up_no_query: Redis;
    a_redis_behind_tls_is_used_with_the_authority_that_was_named: Redis;
}

async fn readiness(cluster: &TestCluster) -> (u16, Value) {
    let reply = cluster.queries().get("/readyz").await;
    (reply.status, reply.json())
}

async fn a_redis_that_is_not_there_at_start_is_said_and_waited_for() {
    let mut redis = RedisServer::reserve(&[]);
    let cluster = Settings::default().redis(redis.url()).launch().await;
    let warned = cluster.log().line("refuses connections").await;
    let port = redis.url().rsplit(':').next().map(str::to_owned).unwrap();
    assert!(warned.contains("WARN") && warned.contains(&port), "{warned}");

    let (status, probe) = readiness(&cluster).await;
    assert_eq!((status, &probe["ready"]), (503, &json!(false)), "{probe}");
    let reasons = probe["reasons"].to_string();
    assert!(reasons.contains("store"), "{reasons}");
    cluster.queries().get("/healthz").await.expect(200);
    let cause = cluster.query("app", json!({ "input": [1] })).await.cause(503);
    assert!(!cause.is_empty());
    let body = json!({ "name": "app", "input_type": "doubles", "default_output": "", "slo_micros": 1 });
    cluster
        .admin()
        .post("/api/v1/applications", body)
        .await
        .problem(503);
    cluster.admin().get("/api/v1/models").await.problem(503);
    let status = cluster.admin().get("/api/v1/status").await.expect(200);
    assert_eq!(status["store"]["up"], false, "{status}");
    assert_eq!(
        cluster.admin().get("/api/v1/replicas").await.expect(200),
        json!([])
    );

    redis.start_again().await;
    cluster.ready().await;
    cluster.serve("iris", &Deployment::iris()).await;
    assert_eq!(
        cluster.predict("iris", json!([4.3, 2.0, 1.0, 0.1])).await,
        "setosa"
    );
}

async fn while_redis_is_away_queries_go_on_and_writes_are_refused() {
    let mut redis = RedisServer::start().await;
    let cluster = Settings::default().redis(redis.url()).start().await;
    cluster.serve("app", &Deployment::of("noop").replicas(2)).await;
    for _again in 0..2 {
        redis.kill();
        until("the loss to be noticed", PATIENCE, async || {
            readiness(&cluster).await.1["degraded"] == json!(["store"])
        })
        .await;
        let (status, probe) = readiness(&cluster).await;
        assert_eq!((status, &probe["ready"]), (200, &json!(true)), "{probe}");
        let reason = probe["reasons"][0].as_str().unwrap();
        assert!(
            reason.contains("redis") && reason.matches("metadata store").count() == 1,
            "{reason}"
        );

        assert_eq!(cluster.predict("app", json!([1.0])).await, 0);
        let refused = cluster
            .admin()
            .patch("/api/v1/applications/app", json!({ "slo_micros": 1 }))
            .await;
        let detail = refused.problem(503);
        assert!(!detail.is_empty());
        cluster
            .admin()
            .delete("/api/v1/applications/app")
            .await
            .problem(503);
        // What is known is shown, and what runs is.
        cluster.admin().get("/api/v1/applications/app").await.expect(200);
        cluster.attached("noop", 2).await;
        let status = cluster.admin().get("/api/v1/status").await.expect(200);
        assert_eq!(status["store"]["up"], false);
        assert!(
            status["problems"].to_string().contains("metadata store is away"),
            "{status}"
        );
        assert!(cluster.metric("skysail_store_up").await.abs() < f64::EPSILON);

        redis.start_again().await;
        until("all to be well again", PATIENCE, async || {
            readiness(&cluster).await.1["degraded"] == json!([])
        })
        .await;
        let patched = cluster
            .admin()
            .patch("/api/v1/applications/app", json!({ "default_output": "new" }))
            .await;
        assert_eq!(patched.expect(200)["default_output"], "new");
        assert_eq!(cluster.predict("app", json!([1.0])).await, 0);
    }
}

async fn two_frontends(redis: &RedisServer) -> [TestCluster; 2] {
    let settings = Settings::default().redis(redis.url()).runtime(Runtime::None);
    [settings.clone().start().await, settings.start().await]
}

async fn what_another_frontend_writes_is_followed() {
    let redis = RedisServer::start().await;
    let [writer, reader] = two_frontends(&redis).await;
    writer.register("app", "doubles", "first", AMPLE_SLO).await;
    let status_is = async |status| {
        until("the write to be followed", PATIENCE, async || {
            reader.query("app", json!({ "input": [1.0] })).await.status == status
        })
        .await;
    };
    status_is(200).await;
    assert_eq!(reader.answer("app", json!([1.0])).await["output"], "first");
    writer
        .admin()
        .patch("/api/v1/applications/app", json!({ "default_output": "second" }))
        .await
        .expect(200);
    until("the change to be followed", PATIENCE, async || {
        reader.answer("app", json!([1.0])).await["output"] == "second"
    })
    .await;
    writer
        .admin()
        .delete("/api/v1/applications/app")
        .await
        .expect(204);
    status_is(404).await;
}

async fn frontends_that_write_at_the_same_time_lose_nothing() {
    let redis = RedisServer::start().await;
    let frontends = two_frontends(&redis).await;
    let writers = (0..30).map(|number| {
        let frontend = &frontends[number % 2];
        async move {
            frontend
                .register(&format!("app-{number}"), "doubles", "-1.0", AMPLE_SLO)
                .await
        }
    });
    futures::future::join_all(writers).await;
    for frontend in &frontends {
        until("all applications to be known", PATIENCE, async || {
            let all = frontend.admin().get("/api/v1/applications").await.expect(200);
            all.as_array().unwrap().len() == 30
        })
        .await;
    }
}

async fn query_ids_differ_between_frontends() {
    let redis = RedisServer::start().await;
    let frontends = two_frontends(&redis).await;
    frontends[0].register("app", "doubles", "-1.0", AMPLE_SLO).await;
    let mut ids = Vec::new();
    for frontend in &frontends {
        until("the application to be known", PATIENCE, async || {
            frontend.query("app", json!({ "input": [1.0] })).await.status == 200
        })
        .await;
        for _ in 0..100 {
            ids.push(
                frontend.answer("app", json!([1.0])).await["query_id"]
                    .as_u64()
                    .unwrap(),
            );
        }
    }
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 200);
}

async fn clusters_in_one_redis_know_nothing_of_each_other() {
    let redis = RedisServer::start().await;
    let settings = Settings::default().redis(redis.url()).runtime(Runtime::None);
    let blue = settings.clone().cluster("blue").start().await;
    let green = settings.cluster("green").start().await;
    blue.register("app", "doubles", "blue", AMPLE_SLO).await;
    green.register("app", "strings", "green", AMPLE_SLO).await;
    assert_eq!(blue.answer("app", json!([1.0])).await["output"], "blue");
    assert_eq!(green.answer("app", "text").await["output"], "green");
    blue.admin().delete("/api/v1/applications/app").await.expect(204);
    assert_eq!(green.answer("app", "text").await["output"], "green");
}

/// A frontend that runs two replicas of an application's model, and one that runs nothing.
async fn serving(redis: &RedisServer) -> [TestCluster; 2] {
    let settings = Settings::default().redis(redis.url());
    let runs = settings.clone().start().await;
    let other = settings.runtime(Runtime::None).start().await;
    runs.serve("app", &Deployment::of("noop").replicas(2)).await;
    until("the write to be followed", PATIENCE, async || {
        other.query("app", json!({ "input": [1.0] })).await.status == 200
    })
    .await;
    [runs, other]
}

/// Waits until a frontend says that its store lost something, and checks how it does.
async fn went_back(cluster: &TestCluster) {
    until("the loss to be told", PATIENCE, async || {
        readiness(cluster).await.1["reasons"]
            .to_string()
            .contains("skysail cluster restore")
    })
    .await;
    let (status, probe) = readiness(cluster).await;
    assert_eq!(
        (status, &probe["ready"], &probe["degraded"]),
        (200, &json!(true), &json!(["store"])),
        "{probe}"
    );
    let status = cluster.admin().get("/api/v1/status").await.expect(200);
    assert_eq!(status["store"]["up"], false, "{status}");
    let problem = status["problems"][0].as_str().unwrap();
    assert!(
        problem.contains("lost something") && problem.contains("skysail cluster accept-empty"),
        "{status}"
    );
    assert!(cluster.metric("skysail_store_up").await.abs() < f64::EPSILON);
    let refused = cluster
        .admin()
        .patch("/api/v1/applications/app", json!({ "slo_micros": 1 }))
        .await;
    let detail = refused.problem(503);
    assert!(detail.contains("skysail cluster restore"), "{detail}");
}

async fn is_well(cluster: &TestCluster) {
    until("all to be well again", PATIENCE, async || {
        readiness(cluster).await.1["degraded"] == json!([])
            && (cluster.metric("skysail_store_up").await - 1.0).abs() < f64::EPSILON
    })
    .await;
}

async fn pids(cluster: &TestCluster) -> Vec<u64> {
    let replicas = cluster.attached("noop", 2).await;
    let mut pids: Vec<u64> = replicas
        .iter()
        .map(|replica| replica["pid"].as_u64().unwrap())
        .collect();
    pids.sort_unstable();
    pids
}

async fn a_redis_that_was_emptied_takes_nothing_down_and_is_restored() {
    let redis = RedisServer::start().await;
    let [runs, other] = serving(&redis).await;
    let before = pids(&runs).await;
    let nothing_to_settle = runs.admin().post("/api/v1/cluster/restore", Value::Null).await;
    nothing_to_settle.problem(409);

    let () = redis.run("FLUSHALL");
    for frontend in [&runs, &other] {
        went_back(frontend).await;
    }
    assert_eq!(runs.predict("app", json!([1.0])).await, 0);
    assert_eq!(pids(&runs).await, before);
    let restored = other
        .admin()
        .post("/api/v1/cluster/restore", Value::Null)
        .await
        .expect(200);
    assert_eq!(
        (&restored["applications"], &restored["models"]),
        (&json!(1), &json!(1)),
        "{restored}"
    );
    for frontend in [&runs, &other] {
        is_well(frontend).await;
    }
    assert_eq!(pids(&runs).await, before);
    runs.admin()
        .patch("/api/v1/applications/app", json!({ "default_output": "new" }))
        .await
        .expect(200);
    assert_eq!(runs.predict("app", json!([1.0])).await, 0);
}

async fn an_emptied_redis_that_is_accepted_ends_what_ran() {
    let redis = RedisServer::start().await;
    let [runs, other] = serving(&redis).await;
    let () = redis.run("FLUSHALL");
    went_back(&runs).await;
    went_back(&other).await;
    let accepted = other
        .admin()
        .post("/api/v1/cluster/accept-empty", Value::Null)
        .await
        .expect(200);
    assert_eq!(accepted["given_up_applications"], 1, "{accepted}");
    assert_eq!(accepted["given_up_models"], 1, "{accepted}");
    assert_eq!(accepted["applications"], 0, "{accepted}");
    runs.attached("noop", 0).await;
    for frontend in [&runs, &other] {
        is_well(frontend).await;
        until("the application to be gone", PATIENCE, async || {
            frontend.query("app", json!({ "input": [1.0] })).await.status == 404
        })
        .await;
    }
    runs.serve("app", &Deployment::of("noop").replicas(2)).await;
}

async fn a_redis_that_is_killed_and_comes_back_empty_is_restored_by_the_command() {
    let mut redis = RedisServer::start().await;
    let [runs, other] = serving(&redis).await;
    let before = pids(&runs).await;
    redis.kill();
    redis.empty();
    redis.start_again().await;
    went_back(&runs).await;
    went_back(&other).await;

    // A frontend that starts now serves nothing, and says why.
    let settings = Settings::default().redis(redis.url()).runtime(Runtime::None);
    let late = settings.launch().await;
    until("the loss to be told", PATIENCE, async || {
        readiness(&late).await.1["reasons"]
            .to_string()
            .contains("another frontend held")
    })
    .await;
    assert_eq!(readiness(&late).await.0, 503);
    let detail = late.admin().get("/api/v1/models").await.problem(503);
    assert!(detail.contains("skysail cluster restore"), "{detail}");

    let said = Skysail::at(late.addresses().admin).done("cluster restore").await;
    assert!(said.contains("wrote 1 application and 1 model back"), "{said}");
    for frontend in [&runs, &other, &late] {
        is_well(frontend).await;
    }
    assert_eq!(pids(&runs).await, before);
    let refused = Skysail::at(runs.addresses().admin)
        .refused("cluster accept-empty")
        .await;
    assert!(refused.contains("nothing to settle"), "{refused}");
}

async fn a_redis_that_is_killed_and_comes_back_with_its_data_needs_nobody() {
    let mut redis = RedisServer::start().await;
    let [runs, other] = serving(&redis).await;
    let before = pids(&runs).await;
    redis.kill();
    until("the loss to be noticed", PATIENCE, async || {
        readiness(&other).await.1["degraded"] == json!(["store"])
    })
    .await;
    redis.start_again().await;
    for frontend in [&runs, &other] {
        is_well(frontend).await;
    }
    assert_eq!(pids(&runs).await, before);
    other
        .admin()
        .patch("/api/v1/applications/app", json!({ "default_output": "new" }))
        .await
        .expect(200);
}

async fn a_redis_that_answers_late_holds_up_no_query() {
    let redis = RedisServer::start().await;
    let [runs, _other] = serving(&redis).await;
    for pause in ["CLIENT PAUSE 6000 ALL", "CLIENT PAUSE 6000 WRITE"] {
        let () = redis.run(pause);
        let refused = runs
            .admin()
            .patch("/api/v1/applications/app", json!({ "slo_micros": 1_000_000 }))
            .await;
        refused.problem(503);
        assert_eq!(runs.predict("app", json!([1.0])).await, 0);
        // It comes back by itself.
        is_well(&runs).await;
        until("writes to be taken", PATIENCE, async || {
            let patch = json!({ "default_output": pause });
            runs.admin().patch("/api/v1/applications/app", patch).await.status == 200
        })
        .await;
    }
}

async fn a_redis_behind_tls_is_used_with_the_authority_that_was_named() {
    let tls = RedisTls::start(&[]).await;
    let () = tls
        .server
        .run("ACL SETUSER app on >s3cret ~* &* +@all -config -keys");
    let folder = tempfile::tempdir().unwrap();
    let authority = folder.path().join("authority.pem");
    std::fs::write(&authority, &tls.authority).unwrap();
    let settings = Settings::default().redis(tls.url_as("app:s3cret"));
    let trusting = settings.clone().flag("--store-ca", authority.to_str().unwrap());
    let cluster = trusting.start().await;
    cluster.serve("app", &Deployment::of("noop")).await;
    assert_eq!(cluster.predict("app", json!([1.0])).await, 0);
    let status = cluster.admin().get("/api/v1/status").await.expect(200);
    let location = status["store"]["location"].as_str().unwrap();
    assert!(
        location.starts_with("rediss://") && !location.contains("s3cret"),
        "{location}"
    );

    let wary = settings.runtime(Runtime::None).launch().await;
    let warned = wary.log().line("invalid peer certificate").await;
    assert!(
        warned.contains("--store-ca") && !warned.contains("s3cret"),
        "{warned}"
    );
}

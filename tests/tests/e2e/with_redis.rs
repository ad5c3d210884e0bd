//! Metadata in Redis, on good days and bad ones, as those outside a frontend see it.

use serde_json::{Value, json};
use skysail_tests::cases;
use skysail_tests::cluster::{AMPLE_SLO, Runtime, Settings, TestCluster};
use skysail_tests::deployment::Deployment;
use skysail_tests::redis::RedisServer;
use skysail_tests::wait::{PATIENCE, until};

cases! {
    a_redis_that_is_not_there_at_start_is_said_and_waited_for: Redis;
    while_redis_is_away_queries_go_on_and_writes_are_refused: Redis;
    what_another_frontend_writes_is_followed: Redis;
    frontends_that_write_at_the_same_time_lose_nothing: Redis;
    query_ids_differ_between_frontends: Redis;
    clusters_in_one_redis_know_nothing_of_each_other: Redis;
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

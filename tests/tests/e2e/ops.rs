//! The operations listener: probes and metrics of every frontend, whatever its roles.

use reqwest::Method;
use serde_json::json;
use skysail_tests::cases;
use skysail_tests::cluster::{Roles, Runtime, Settings, TestCluster};
use skysail_tests::redis::RedisServer;
use skysail_tests::rest::Rest;
use skysail_tests::wait::{PATIENCE, until};
use skysail_tests::wire::Wire;

cases! {
    a_frontend_without_admin_rest_shows_its_metrics_and_status_says_where: Redis;
    its_paths_ask_for_no_token_and_no_host_and_nothing_else_is_there;
}

async fn a_frontend_without_admin_rest_shows_its_metrics_and_status_says_where() {
    let redis = RedisServer::start().await;
    let start = |roles| {
        let settings = Settings::default().redis(redis.url()).runtime(Runtime::None);
        settings.roles(roles).start()
    };
    let control = start(Roles::Control).await;
    let query = start(Roles::Query).await;
    control
        .register("lonely", "doubles", "-1.0", std::time::Duration::from_millis(50))
        .await;
    until(
        "the query frontend to know the application",
        PATIENCE,
        async || query.query("lonely", json!({ "input": [1] })).await.status == 200,
    )
    .await;

    let ops = Rest::at(query.addresses().ops);
    let page = ops.get("/metrics").await;
    assert_eq!(page.status, 200);
    let counted = page.text.lines().any(|line| {
        line.starts_with("skysail_queries_total{") && line.contains("lonely") && !line.ends_with(" 0")
    });
    assert!(counted, "the queries of this frontend: {}", page.text);
    assert_eq!(ops.get("/healthz").await.expect(200)["status"], "ok");
    assert_eq!(ops.get("/readyz").await.expect(200)["ready"], true);

    until("status to name both listeners", PATIENCE, async || {
        let status = control.admin().get("/api/v1/status").await.expect(200);
        let named = |frontend: &TestCluster| {
            let addr = frontend.addresses().ops.to_string();
            let frontends = status["frontends"].as_array().expect("a list");
            frontends.iter().any(|shown| shown["ops_addr"] == addr)
        };
        named(&control) && named(&query)
    })
    .await;
}

async fn its_paths_ask_for_no_token_and_no_host_and_nothing_else_is_there() {
    let folder = tempfile::tempdir().expect("a folder");
    let token = folder.path().join("token");
    std::fs::write(&token, "a-token-of-sixteen-characters\n").expect("written");
    let token = token.to_str().expect("UTF-8");
    let cluster = Settings::default()
        .flag("--admin-token-file", token)
        .start()
        .await;
    let addr = cluster.addresses().ops;
    for path in ["/", "/healthz", "/readyz", "/metrics"] {
        let mut wire = Wire::to(addr).await;
        let request = format!("GET {path} HTTP/1.1\r\nHost: anything.example\r\n\r\n");
        wire.write(request).await.expect("written");
        assert_eq!(wire.read().await.status, 200, "{path}");
    }
    let ops = Rest::at(addr);
    let missing = ops.get("/api/v1/status").await;
    assert_eq!(missing.status, 404);
    assert!(missing.text.contains("/metrics"), "{}", missing.text);
    assert_eq!(
        ops.send(Method::POST, "/metrics", "")
            .await
            .expect("an answer")
            .status,
        405
    );
}

//! The peer channel: a frontend tells what only another one knows, which it asks on its operations listener.

use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};
use skysail_core::catalog::Secret;
use skysail_core::cluster::QUERIES_PER_BLOCK;
use skysail_core::peer_token::peer_token;
use skysail_proto::peer::GetFiguresRequest;
use skysail_proto::peer::peer_service_client::PeerServiceClient;
use skysail_tests::cases;
use skysail_tests::cluster::{Roles, Runtime, Settings, TestCluster};
use skysail_tests::redis::RedisServer;
use skysail_tests::rest::Rest;
use skysail_tests::wait::{PATIENCE, until};
use tonic::transport::Channel;
use tonic::{Code, Request};

cases! {
    status_shows_what_only_another_frontend_counts: Redis;
    a_peer_that_hangs_or_is_dead_costs_status_a_word: Redis;
    a_frontend_bound_to_every_address_is_asked_by_the_way_to_the_store: Redis;
    who_does_not_show_the_clusters_key_is_refused_and_told_nothing;
}

/// A frontend with the control role, which is asked for its status, and one that answers queries.
struct Pair {
    control: TestCluster,
    query: TestCluster,
    redis: RedisServer,
}

impl Pair {
    /// Ready, with an application `lonely` that no model answers.
    async fn start(query: Settings) -> Self {
        let redis = RedisServer::start().await;
        let of = |settings: Settings, roles| settings.redis(redis.url()).runtime(Runtime::None).roles(roles);
        let control = of(Settings::default(), Roles::Control).start().await;
        let query = of(query, Roles::Query).start().await;
        control
            .register("lonely", "doubles", "-1.0", Duration::from_millis(50))
            .await;
        until(
            "the query frontend to know the application",
            PATIENCE,
            async || query.query("lonely", json!({ "input": [1] })).await.status == 200,
        )
        .await;
        Self {
            control,
            query,
            redis,
        }
    }

    /// The entry of the query frontend in the status of the other; null while there is none.
    async fn shown(&self) -> Value {
        shown(&self.control, "query").await
    }
}

/// The entry of the only frontend with a role; null while there is none.
async fn shown(asked: &TestCluster, role: &str) -> Value {
    let status = asked.admin().get("/api/v1/status").await.expect(200);
    let frontends = status["frontends"].as_array().expect("a list").clone();
    let mut found = frontends.into_iter();
    let found = found.find(|frontend| frontend["roles"] == json!([role]));
    found.unwrap_or_default()
}

async fn status_shows_what_only_another_frontend_counts() {
    let pair = Pair::start(Settings::default()).await;
    let query = json!({ "input": [1] });
    let mut last = Value::Null;
    for _ in 0..5 {
        last = pair.query.query("lonely", query.clone()).await.expect(200);
    }
    let counted = Rest::at(pair.query.addresses().ops).get("/metrics").await.text;
    let sample = counted
        .lines()
        .find(|line| line.starts_with("skysail_queries_total{") && line.contains(r#"application="lonely""#));
    let counted: f64 = (sample.and_then(|line| line.rsplit(' ').next()))
        .expect("a sample")
        .parse()
        .expect("a number");
    until("the figures of the other frontend", PATIENCE, async || {
        let shown = pair.shown().await;
        shown["figures"]["queries"].as_f64() == Some(counted)
            && shown["figures"]["defaults"].as_f64() == Some(counted)
            && shown["ops_addr"] == pair.query.addresses().ops.to_string()
            && shown["peer_addr"] == shown["ops_addr"]
            && shown["silence"] == Value::Null
    })
    .await;

    let block = last["query_id"].as_u64().expect("a number") / QUERIES_PER_BLOCK;
    until(
        "the block of the query's id to name its frontend",
        PATIENCE,
        async || {
            let (query, control) = (pair.shown().await, shown(&pair.control, "control").await);
            let has = |frontend: &Value| {
                let blocks = frontend["query_blocks"].as_array().expect("a list");
                blocks.contains(&json!(block))
            };
            has(&query) && !has(&control)
        },
    )
    .await;
    // A frontend shows its own figures as well.
    let own = shown(&pair.control, "control").await;
    assert_eq!(own["figures"]["queries"], 0, "{own}");
}

async fn a_peer_that_hangs_or_is_dead_costs_status_a_word() {
    let mut pair = Pair::start(Settings::default()).await;
    let answers = async |pair: &Pair| pair.shown().await["figures"].is_object();
    until("it to answer", PATIENCE, async || answers(&pair).await).await;
    // While the store is away, what was known of other frontends stays.
    pair.redis.kill();
    until("the store to be missed", PATIENCE, async || {
        let status = pair.control.admin().get("/api/v1/status").await.expect(200);
        status["store"]["up"] == false
    })
    .await;

    let silent = async |pair: &Pair| {
        let shown = pair.shown().await;
        shown["silence"] == "did not answer" && shown["figures"] == Value::Null
    };
    pair.query.frontend().signal(Signal::STOP);
    until("it to be silent", PATIENCE, async || silent(&pair).await).await;
    pair.query.frontend().signal(Signal::CONT);
    until("it to answer again", PATIENCE, async || answers(&pair).await).await;
    pair.query.kill();
    until("it to be dead", PATIENCE, async || silent(&pair).await).await;
}

async fn a_frontend_bound_to_every_address_is_asked_by_the_way_to_the_store() {
    let pair = Pair::start(Settings::default().flag("--ops-addr", "0.0.0.0:0")).await;
    until("its figures", PATIENCE, async || {
        let shown = pair.shown().await;
        let port = pair.query.addresses().ops.port();
        shown["peer_addr"] == format!("127.0.0.1:{port}") && shown["figures"].is_object()
    })
    .await;
}

async fn who_does_not_show_the_clusters_key_is_refused_and_told_nothing() {
    let cluster = TestCluster::start().await;
    // The first change brings the key.
    cluster
        .register("app", "doubles", "-1.0", Duration::from_millis(50))
        .await;
    let status = cluster.admin().get("/api/v1/status").await.expect(200);
    let id = status["frontends"][0]["id"].as_str().expect("an id").to_owned();
    let ops = cluster.addresses().ops;
    let channel = Channel::from_shared(format!("http://{ops}")).expect("an address");
    let mut client = PeerServiceClient::new(channel.connect().await.expect("a connection"));
    let wrong = peer_token(&Secret::new([1; Secret::BYTES]), &id);
    let shown = [None, Some("Bearer "), Some(wrong.as_str()), Some("Basic eDp5")];
    let with_scheme = format!("Bearer {wrong}");
    for shown in shown.into_iter().chain([Some(with_scheme.as_str())]) {
        let mut request = Request::new(GetFiguresRequest {});
        if let Some(shown) = shown {
            let shown = shown.parse().expect("ASCII");
            request.metadata_mut().insert("authorization", shown);
        }
        let refused = client.get_figures(request).await.expect_err("it is refused");
        assert_eq!(refused.code(), Code::Unauthenticated, "{shown:?}: {refused}");
    }
    // The paths for everybody are as they were.
    assert_eq!(Rest::at(ops).get("/healthz").await.status, 200);
}

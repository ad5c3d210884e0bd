//! Who may join a version as its replica: what Skysail started for it, and who shows its token.

use std::net::TcpListener;

use reqwest::Method;
use serde_json::{Value, json};
use skysail_tests::cases;
use skysail_tests::cluster::{AMPLE_SLO, Runtime, Settings, TestCluster};
use skysail_tests::deployment::{ByHand, Deployment};
use skysail_tests::frontends::{Frontends, answers};
use skysail_tests::program::Program;
use skysail_tests::redis::RedisServer;
use skysail_tests::skysail::Skysail;
use skysail_tests::wait::{PATIENCE, until};

cases! {
    a_version_that_others_can_reach_takes_who_shows_its_token;
    an_open_version_takes_anybody;
    on_loopback_a_version_without_containers_is_open_and_one_with_them_is_not;
    a_token_ends_with_its_version;
    a_replica_of_another_version_is_not_displaced;
    a_frontend_that_starts_again_takes_the_same_containers: Redis;
    a_store_that_was_emptied_loses_no_replica_and_is_given_its_key_back: Redis;
    the_key_is_written_with_the_first_change_and_stays: Redis;
}

/// A frontend whose container RPC others can reach, and that starts no containers.
async fn within_reach() -> TestCluster {
    // A port of its own, so that containers find it again when it is started again.
    let free = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = free.local_addr().expect("a bound address").port();
    drop(free);
    let reachable = format!("0.0.0.0:{port}");
    let settings = Settings::default().runtime(Runtime::None);
    settings.flag("--rpc-addr", &reachable).start().await
}

fn skysail(cluster: &TestCluster) -> Skysail {
    Skysail::at(cluster.addresses().admin)
}

fn noop(replica: &str, token: &str) -> ByHand {
    ByHand::of("noop", "model", replica).env("SKYSAIL_TOKEN", token)
}

/// Waits until a container says that it was refused, and by which advice; it goes on trying.
async fn is_refused(container: &mut Program, model: &str) {
    let told = container.log().line("refused this container").await;
    assert!(told.contains("SKYSAIL_TOKEN"), "{told}");
    assert!(
        told.contains(&format!("skysail model show {model} --token")),
        "{told}"
    );
    assert!(container.ended().is_none(), "it may be registered as open yet");
}

async fn a_version_that_others_can_reach_takes_who_shows_its_token() {
    let mut cluster = within_reach().await;
    let command = skysail(&cluster);
    let registered = command.done("model register model:1 --input-type doubles").await;
    let token = command.done("model show model:1 --token").await.trim().to_owned();
    assert!(token.contains('.'), "{token}");
    assert!(
        registered.contains(&format!("SKYSAIL_TOKEN={token}")),
        "{registered}"
    );
    assert_eq!(command.done("model show model --token").await.trim(), token);
    for path in [
        "/models",
        "/models/model",
        "/models/model/versions/1",
        "/status",
        "/replicas",
    ] {
        let body = cluster.admin().get(&format!("/api/v1{path}")).await;
        assert!(!body.text.contains(&token), "{path}: {}", body.text);
    }

    let mut stranger = cluster.by_hand(&noop("stranger", ""));
    is_refused(&mut stranger, "model:1").await;
    let mut liar = cluster.by_hand(&noop("liar", &format!("0{token}")));
    is_refused(&mut liar, "model:1").await;
    // Any replica id may have it, and two at once.
    let friends = ["one", "two"].map(|replica| cluster.by_hand(&noop(replica, &token)));
    let pids = async |cluster: &TestCluster| {
        let replicas = cluster.attached("model", 2).await;
        let mut pids: Vec<_> = replicas.iter().map(|replica| replica["pid"].clone()).collect();
        pids.sort_by_key(Value::as_u64);
        pids
    };
    let mut expected = friends.each_ref().map(|friend| json!(friend.pid())).to_vec();
    expected.sort_by_key(Value::as_u64);
    assert_eq!(pids(&cluster).await, expected);

    // Nothing is remembered of them: whoever is started in this frontend's place knows them.
    cluster.kill();
    cluster.frontend().end().await;
    cluster.restart().await;
    assert_eq!(pids(&cluster).await, expected);
    for program in [&stranger, &liar, &friends[0]] {
        let said = program.log().lines().join("\n");
        assert!(!said.contains(&token), "{said}");
    }
    assert!(!cluster.log().lines().join("\n").contains(&token));
}

async fn an_open_version_takes_anybody() {
    let cluster = within_reach().await;
    let command = skysail(&cluster);
    let registered = command
        .done("model register model:1 --input-type doubles --open")
        .await;
    assert!(!registered.contains("TOKEN"), "{registered}");
    assert_eq!(command.done("model show model:1 --token").await.trim(), "");
    let _containers =
        ["", "of.another"].map(|token| cluster.by_hand(&noop(&format!("r{}", token.len()), token)));
    cluster.attached("model", 2).await;

    let mut body = Deployment::of("noop").named("other", "1").body();
    body["open"] = true.into();
    let refused = cluster.admin().post("/api/v1/models/other/versions", body).await;
    assert!(refused.problem(400).contains("open"), "{refused:?}");
}

async fn on_loopback_a_version_without_containers_is_open_and_one_with_them_is_not() {
    let cluster = TestCluster::start().await;
    let registered = skysail(&cluster)
        .done("model register by-itself:1 --input-type doubles")
        .await;
    assert!(!registered.contains("TOKEN"), "{registered}");
    let _by_itself = cluster.by_hand(&ByHand::of("noop", "by-itself", "r"));
    cluster.attached("by-itself", 1).await;

    cluster
        .serve("app", &Deployment::of("noop").named("model", "1"))
        .await;
    let own = cluster.attached("model", 1).await[0].clone();
    let of_another = cluster.join_token("model", "1").await;
    cluster
        .deploy(&Deployment::of("noop").named("model", "2").replicas(0))
        .await;
    let id = own["replica"].as_str().expect("an id");
    for token in ["", &cluster.join_token("model", "2").await] {
        // By the replica's own id it would take its place.
        let mut impostor = cluster.by_hand(&noop(id, token));
        is_refused(&mut impostor, "model:1").await;
    }
    let helper = cluster.by_hand(&noop("helper", &of_another));
    assert!(
        cluster
            .attached("model", 2)
            .await
            .contains(&own_now(&cluster, id).await)
    );
    assert_eq!(own_now(&cluster, id).await["pid"], own["pid"]);
    drop(helper);
}

/// A replica as it is shown now.
async fn own_now(cluster: &TestCluster, id: &str) -> Value {
    let replicas = cluster.replicas("model").await;
    let found = replicas.into_iter().find(|replica| replica["replica"] == id);
    found.expect("it is attached")
}

async fn a_token_ends_with_its_version() {
    let cluster = within_reach().await;
    cluster.register_model("model", "doubles").await;
    let before = cluster.join_token("model", "1").await;
    cluster
        .admin()
        .delete("/api/v1/models/model/versions/1")
        .await
        .expect(204);
    cluster.register_model("model", "doubles").await;
    let mut container = cluster.by_hand(&noop("r", &before));
    is_refused(&mut container, "model:1").await;
    assert_ne!(cluster.join_token("model", "1").await, before);
    let missing = cluster.admin().get("/api/v1/models/model/versions/2/token").await;
    assert!(missing.problem(404).contains("version"), "{missing:?}");
}

async fn a_replica_of_another_version_is_not_displaced() {
    let cluster = within_reach().await;
    for model in ["model", "open"] {
        let body = json!({ "version": "1", "input_type": "doubles", "open": model == "open" });
        let path = format!("/api/v1/models/{model}/versions");
        cluster.admin().post(&path, body).await.expect(201);
    }
    let token = cluster.join_token("model", "1").await;
    let mut own = cluster.by_hand(&noop("same", &token));
    cluster.attached("model", 1).await;
    let _other = cluster.by_hand(&ByHand::of("noop", "open", "same"));
    cluster.attached("open", 1).await;
    assert_eq!(cluster.attached("model", 1).await[0]["pid"], own.pid());
    assert!(own.ended().is_none());
}

/// Two query frontends and one that starts containers, with a model behind an application.
async fn served() -> Frontends {
    let frontends = Frontends::start(2).await;
    let control = &frontends.control;
    let deployment = Deployment::of("noop").named("model", "1").replicas(2);
    control.register("app", "doubles", "-1.0", AMPLE_SLO).await;
    control.deploy(&deployment).await;
    control.link("app", "model").await;
    everywhere(&frontends).await;
    frontends
}

/// Waits until both replicas are attached to both query frontends, and returns their processes.
async fn everywhere(frontends: &Frontends) -> Vec<Value> {
    until("all replicas to be everywhere", PATIENCE, async || {
        let version = frontends.control.version("model", "1").await;
        version["replicas_attached"] == 2 && version["replicas_everywhere"] == 2
    })
    .await;
    for frontend in &frontends.query {
        answers(&frontend.queries(), "app").await;
    }
    let replicas = frontends.control.attached("model", 2).await;
    replicas.iter().map(|replica| replica["pid"].clone()).collect()
}

async fn a_frontend_that_starts_again_takes_the_same_containers() {
    let mut frontends = served().await;
    let before = everywhere(&frontends).await;
    // It was never told of any token: it has the key by the store alone.
    let restarted = &mut frontends.query[1];
    restarted.kill();
    restarted.frontend().end().await;
    restarted.restart().await;
    assert_eq!(everywhere(&frontends).await, before);
    assert_eq!(frontends.control.version("model", "1").await["restarts"], 0);
}

async fn a_store_that_was_emptied_loses_no_replica_and_is_given_its_key_back() {
    let mut frontends = served().await;
    let before = everywhere(&frontends).await;
    let key = key_in(&frontends.redis);
    let () = frontends.redis.run("FLUSHALL");
    until("the loss to be noticed", PATIENCE, async || {
        let status = frontends.control.admin().get("/api/v1/status").await.expect(200);
        status["store"]["up"] == false
    })
    .await;
    // A container that has to register again is known by the key in memory.
    let first = &frontends.query[0];
    let token = frontends.control.join_token("model", "1").await;
    let mut stranger = first.by_hand(&noop("stranger", ""));
    is_refused(&mut stranger, "model:1").await;
    let joined = first.by_hand(&noop("joined", &token));
    joined.log().line("attached to frontend").await;
    drop((joined, stranger));

    let restored = frontends
        .control
        .admin()
        .send(Method::POST, "/api/v1/cluster/restore", "")
        .await
        .expect("an answer");
    restored.expect(200);
    assert_eq!(key_in(&frontends.redis), key);
    let restarted = &mut frontends.query[1];
    restarted.kill();
    restarted.frontend().end().await;
    restarted.restart().await;
    assert_eq!(everywhere(&frontends).await, before);
}

/// The key of container tokens, as it is in the store.
fn key_in(redis: &RedisServer) -> Option<String> {
    let document: Option<String> = redis.run("HGET {skysail:test}:documents settings/cluster");
    let settings: Value = serde_json::from_str(&document?).expect("a JSON document");
    settings["container_key"].as_str().map(str::to_owned)
}

async fn the_key_is_written_with_the_first_change_and_stays() {
    let redis = RedisServer::start().await;
    let settings = Settings::default().redis(redis.url()).runtime(Runtime::None);
    let [cluster, other] = [settings.clone().start().await, settings.start().await];
    cluster.admin().get("/api/v1/models").await.expect(200);
    assert_eq!(key_in(&redis), None, "nothing was written yet");
    cluster.register("app", "doubles", "", AMPLE_SLO).await;
    let key = key_in(&redis).expect("a key");
    assert_eq!(key.len(), 64, "{key}");
    other.register("other", "doubles", "", AMPLE_SLO).await;
    assert_eq!(key_in(&redis).as_ref(), Some(&key));
    for frontend in [&cluster, &other] {
        let said = frontend.log().lines().join("\n");
        assert!(!said.contains(&key), "{said}");
    }
}

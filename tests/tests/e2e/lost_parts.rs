//! A Redis that loses a part of what it holds: the rest goes on being there, and nobody acts on it.

use std::sync::Arc;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use skysail_core::catalog::{Catalog, Change, Generation, Model, Secret, Settings as ClusterSettings};
use skysail_frontend::store::redis::RedisStore;
use skysail_frontend::store::{CatalogStore, LeaseStore, Leased, Settle, StoreError};
use skysail_tests::cases;
use skysail_tests::cluster::{AMPLE_SLO, Runtime, Settings, TestCluster};
use skysail_tests::deployment::Deployment;
use skysail_tests::docker::{DockerCluster, image};
use skysail_tests::followed_store::FollowedStore;
use skysail_tests::program::children_of;
use skysail_tests::redis::RedisServer;
use skysail_tests::skysail::Skysail;
use skysail_tests::wait::{PATIENCE, find, until};

use crate::store_redis::{
    applications, commit, connect, lease, put, ready, seen, settle, shows, two_stores, went_back, within,
};

cases! {
    a_part_that_is_lost_is_named_and_restored: Redis;
    a_write_right_behind_a_loss_is_refused_and_changes_nothing: Redis;
    while_something_is_lost_the_lease_is_renewed_and_nobody_begins_to_act: Redis;
    a_changed_document_is_found_by_whoever_reads_it_and_told_to_all: Redis;
    a_write_over_a_changed_document_is_refused: Redis;
    what_is_left_of_a_store_that_nobody_holds_is_accepted_and_whole_again: Redis;
    a_frontend_that_starts_on_what_is_left_has_the_one_that_holds_it_restore: Redis;
    one_that_is_behind_restores_what_it_has_if_nobody_holds_more: Redis;
    a_part_that_comes_back_is_followed_at_once: Redis;
    documents_edited_by_hand_are_gone_by_once_that_is_said: Redis;
    documents_that_cannot_be_read_are_not_accepted: Redis;
    a_policy_that_evicts_documents_is_warned_of: Redis;
    models_that_vanish_take_nothing_down_and_are_restored_by_the_command: Redis;
    settings_that_are_given_up_are_written_anew_and_replicas_start: Redis;
    in_docker_models_that_vanish_take_nothing_down: Docker, Redis;
    a_frontend_alone_on_what_is_left_serves_nothing_and_stops_nothing_until_it_is_accepted: Docker, Redis;
}

fn model(name: &str) -> Change {
    let model = json!({
        "name": name,
        "current_version": "1",
        "versions": {"1": {
            "input_type": "doubles", "batch_size": "adaptive", "max_batch": 8, "cache": true,
            "deployment": null, "registered_at": "2026-01-01T00:00:00Z",
        }},
    });
    Change::put(serde_json::from_value::<Model>(model).expect("a model"))
}

fn settings() -> Change {
    Change::put(ClusterSettings {
        container_key: Some(Secret::new([7; Secret::BYTES])),
        ..ClusterSettings::default()
    })
}

/// Two frontends that hold two applications, a model and settings.
async fn filled(server: &RedisServer) -> ([FollowedStore; 2], Arc<Catalog>) {
    let [one, other] = two_stores(server).await;
    commit(&one, vec![put("a"), model("m")]).await.unwrap();
    let whole = commit(&one, vec![put("b"), settings()]).await.unwrap();
    shows(&other, &["a", "b"]).await;
    ([one, other], whole)
}

/// Waits until a store shows this content, whatever the generation and the lives it replaces.
async fn holds(store: &RedisStore, whole: &Catalog) {
    let mut watch = store.watch();
    let same = watch.wait_for(|seen| {
        seen.as_ref().is_some_and(|seen| {
            let seen = Catalog {
                generation: whole.generation.clone(),
                replaces: whole.replaces.clone(),
                ..Catalog::clone(seen)
            };
            seen == *whole
        })
    });
    within("the catalog", same).await.unwrap();
}

fn is_held_back<T: std::fmt::Debug>(refused: Result<T, StoreError>) -> String {
    match refused {
        Err(StoreError::HeldBack(why)) => why,
        other => panic!("{other:?}"),
    }
}

async fn a_part_that_is_lost_is_named_and_restored() {
    let server = RedisServer::start().await;
    let ([one, other], whole) = filled(&server).await;
    let losses = [
        ("HDEL {skysail:blue}:documents model/m", "model `m` is missing"),
        (
            "HDEL {skysail:blue}:documents application/b",
            "application `b` is missing",
        ),
        (
            "HDEL {skysail:blue}:documents settings/cluster",
            "the cluster's settings are missing",
        ),
        (
            "HDEL {skysail:blue}:documents application/a application/b",
            "application `a` and application `b` are missing",
        ),
        (
            "UNLINK {skysail:blue}:documents",
            "application `a` and application `b` and model `m` and the cluster's settings are missing",
        ),
        (
            "HSET {skysail:blue}:documents model/n {}",
            "model `n` is added by nobody",
        ),
        (
            "HSET {skysail:blue}:documents unicorn/u {}",
            "document `unicorn/u` is added by nobody",
        ),
        ("DEL {skysail:blue}:generation", "empty"),
        ("HDEL {skysail:blue}:generation digest", "whole is gone"),
        ("HDEL {skysail:blue}:generation schema", "whole is gone"),
        (
            "HSET {skysail:blue}:generation count 9",
            "should have 9 documents",
        ),
        (
            "HSET {skysail:blue}:generation digest 9",
            "not as they were written",
        ),
        ("HDEL {skysail:blue}:generation number", "it is at generation 0"),
    ];
    for (number, (loss, named)) in losses.into_iter().enumerate() {
        let _: u64 = server.run(loss);
        for store in [&one, &other] {
            let said = went_back(store).await;
            for part in [named, "skysail cluster restore", "skysail cluster accept-empty"] {
                assert!(said.contains(part), "{loss}: {part}: {said}");
            }
            holds(store, &whole).await;
            is_held_back(commit(store, vec![put("c")]).await);
        }
        let [asked, others] = if number % 2 == 0 {
            [&one, &other]
        } else {
            [&other, &one]
        };
        settle(asked, Settle::Restore).await.unwrap();
        for store in [asked, others] {
            ready(store).await;
            holds(store, &whole).await;
        }
    }
    commit(&one, vec![put("c")]).await.unwrap();
    shows(&other, &["a", "b", "c"]).await;
    let fresh = connect(&server.url());
    shows(&fresh, &["a", "b", "c"]).await;
}

async fn a_write_right_behind_a_loss_is_refused_and_changes_nothing() {
    let server = RedisServer::start().await;
    let ([_one, other], whole) = filled(&server).await;
    let before: Value = generation(&server);
    let _: u64 = server.run("HDEL {skysail:blue}:documents model/m");
    let why = is_held_back(commit(&other, vec![put("c")]).await);
    assert!(why.contains("model `m` is missing"), "{why}");
    assert_eq!(generation(&server), before);
    let keys: Vec<String> = server.run("HKEYS {skysail:blue}:documents");
    assert_eq!(keys.len(), 3);
    holds(&other, &whole).await;
}

async fn while_something_is_lost_the_lease_is_renewed_and_nobody_begins_to_act() {
    let server = RedisServer::start().await;
    let ([one, other], _) = filled(&server).await;
    let Leased::Held(held) = lease(&one, "one").await.unwrap() else {
        panic!("it is free");
    };
    let _: u64 = server.run("HDEL {skysail:blue}:documents model/m");
    is_held_back(commit(&one, vec![put("c")]).await);
    for store in [&one, &other] {
        let said = went_back(store).await;
        assert!(
            said.contains("nothing is written") && said.contains("no frontend begins to act"),
            "{said}"
        );
    }
    assert_eq!(lease(&one, "one").await.unwrap(), Leased::Held(held.clone()));
    one.release_lease(&held).await.unwrap();
    // A frontend that starts now is no other case, also under the name of the one that acted.
    let fresh = connect(&server.url());
    went_back(&fresh).await;
    for (store, holder) in [(&one, "one"), (&other, "other"), (&fresh, "one")] {
        let why = is_held_back(lease(store, holder).await);
        assert!(why.contains("skysail cluster restore"), "{why}");
    }
    settle(&other, Settle::Restore).await.unwrap();
    ready(&other).await;
    assert!(matches!(lease(&other, "other").await, Ok(Leased::Held(_))));
}

/// What Redis has beside the documents.
fn generation(server: &RedisServer) -> Value {
    let fields: std::collections::BTreeMap<String, String> = server.run("HGETALL {skysail:blue}:generation");
    json!(fields)
}

async fn a_changed_document_is_found_by_whoever_reads_it_and_told_to_all() {
    let server = RedisServer::start().await;
    let ([one, other], _) = filled(&server).await;
    let b: String = server.run("HGET {skysail:blue}:documents application/b");
    let changed = b.replace("100000", "200000");
    assert_ne!(b, changed);
    let _: u64 = server.run(&format!(
        "HSET {{skysail:blue}}:documents application/b {changed}"
    ));
    // As many documents as there should be: a write of another one is taken, and whoever reads finds out.
    commit(&one, vec![put("c")]).await.unwrap();
    for store in [&other, &one] {
        went_back(store).await;
    }
    let said = went_back(&one).await;
    assert!(said.contains("application `b` is changed"), "{said}");
    is_held_back(commit(&one, vec![put("d")]).await);
    // Asked of the one that holds less, the one that holds all restores.
    settle(&other, Settle::Restore).await.unwrap();
    for store in [&one, &other] {
        ready(store).await;
        shows(store, &["a", "b", "c"]).await;
    }
    let restored: String = server.run("HGET {skysail:blue}:documents application/b");
    assert_eq!(restored, b);
}

async fn a_write_over_a_changed_document_is_refused() {
    let server = RedisServer::start().await;
    let ([one, other], whole) = filled(&server).await;
    let _: u64 = server.run("HSET {skysail:blue}:documents application/b {}");
    let why = is_held_back(commit(&other, vec![put("b")]).await);
    assert!(why.contains("application `b` is changed"), "{why}");
    went_back(&one).await;
    settle(&one, Settle::Restore).await.unwrap();
    for store in [&one, &other] {
        ready(store).await;
        holds(store, &whole).await;
    }
}

async fn what_is_left_of_a_store_that_nobody_holds_is_accepted_and_whole_again() {
    for (loss, named, left) in [
        (
            "HDEL {skysail:blue}:documents model/m",
            "should have 4 documents",
            &["a", "b"][..],
        ),
        (
            "DEL {skysail:blue}:generation",
            "its generation is gone",
            &["a", "b"],
        ),
        (
            "HDEL {skysail:blue}:documents application/a",
            "1 application",
            &["b"],
        ),
    ] {
        let server = RedisServer::start().await;
        let (holders, _) = filled(&server).await;
        drop(holders);
        let _: u64 = server.run(loss);
        let alone = connect(&server.url());
        let said = went_back(&alone).await;
        assert!(
            said.contains(named) && said.contains("no frontend is known to hold"),
            "{said}"
        );
        assert_eq!(seen(&alone), None);
        let refused = within("a refusal", alone.commit(vec![put("x")], &Generation::default())).await;
        is_held_back(refused);
        let nobody = is_held_back(settle(&alone, Settle::Restore).await);
        assert!(nobody.contains("none holds it any more"), "{nobody}");
        let accepted = settle(&alone, Settle::Accept).await.unwrap();
        assert_eq!(applications(&accepted), left);
        ready(&alone).await;
        commit(&alone, vec![put("c")]).await.unwrap();
        let late = connect(&server.url());
        ready(&late).await;
        assert_eq!(seen(&late), seen(&alone));
    }
}

async fn a_frontend_that_starts_on_what_is_left_has_the_one_that_holds_it_restore() {
    let server = RedisServer::start().await;
    let ([one, other], whole) = filled(&server).await;
    let _: u64 = server.run("HDEL {skysail:blue}:documents application/b");
    drop(other);
    let starting = connect(&server.url());
    went_back(&one).await;
    went_back(&starting).await;
    settle(&starting, Settle::Restore).await.unwrap();
    for store in [&one, &starting] {
        ready(store).await;
        holds(store, &whole).await;
    }
}

async fn one_that_is_behind_restores_what_it_has_if_nobody_holds_more() {
    let server = RedisServer::start().await;
    let ([one, other], whole) = filled(&server).await;
    drop(one);
    // As if another had written and ended: what it wrote is broken before anybody else has read it.
    let _: u64 = server.run("HDEL {skysail:blue}:documents model/m");
    let _: u64 = server.run("HINCRBY {skysail:blue}:generation number 1");
    let told = async {
        while !went_back(&other).await.contains("no frontend is known to hold") {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    within("it to be told", told).await;
    settle(&other, Settle::Restore).await.unwrap();
    ready(&other).await;
    holds(&other, &whole).await;
}

async fn a_part_that_comes_back_is_followed_at_once() {
    let server = RedisServer::start().await;
    let ([one, other], whole) = filled(&server).await;
    let _: u64 = server.run("COPY {skysail:blue}:documents kept");
    let _: u64 = server.run("HDEL {skysail:blue}:documents model/m");
    went_back(&one).await;
    went_back(&other).await;
    let _: u64 = server.run("COPY kept {skysail:blue}:documents REPLACE");
    for store in [&one, &other] {
        ready(store).await;
        assert_eq!(seen(store).as_ref(), Some(&whole));
    }
    commit(&other, vec![put("c")]).await.unwrap();
    shows(&one, &["a", "b", "c"]).await;
}

async fn documents_edited_by_hand_are_gone_by_once_that_is_said() {
    let server = RedisServer::start().await;
    let ([one, other], _) = filled(&server).await;
    let b: String = server.run("HGET {skysail:blue}:documents application/b");
    let edited = b.replace("100000", "200000");
    let _: u64 = server.run(&format!("HSET {{skysail:blue}}:documents application/b {edited}"));
    let _: u64 = server.run("HDEL {skysail:blue}:documents application/a");
    settle(&one, Settle::Accept).await.unwrap();
    for store in [&one, &other] {
        ready(store).await;
        shows(store, &["b"]).await;
        let catalog = seen(store).unwrap();
        assert_eq!(catalog.applications.values().next().unwrap().slo_micros, 200_000);
    }
    // Nothing counts it as a loss any more.
    let again = settle(&other, Settle::Accept).await;
    assert!(matches!(again, Err(StoreError::NothingToSettle)), "{again:?}");
    commit(&other, vec![put("c")]).await.unwrap();
}

async fn documents_that_cannot_be_read_are_not_accepted() {
    let server = RedisServer::start().await;
    let ([one, other], whole) = filled(&server).await;
    let _: u64 = server.run("HSET {skysail:blue}:documents model/n 1");
    went_back(&one).await;
    let refused = settle(&one, Settle::Accept).await;
    match refused {
        Err(StoreError::Corrupt(why)) => assert!(why.contains("model `n`"), "{why}"),
        other => panic!("{other:?}"),
    }
    settle(&one, Settle::Restore).await.unwrap();
    for store in [&one, &other] {
        ready(store).await;
        holds(store, &whole).await;
    }
}

async fn a_policy_that_evicts_documents_is_warned_of() {
    let redis = RedisServer::start_with(&["--maxmemory-policy", "allkeys-lru"]).await;
    let settings = Settings::default().redis(redis.url()).runtime(Runtime::None);
    let cluster = settings.clone().start().await;
    let warned = cluster.log().line("allkeys-lru").await;
    assert!(
        warned.contains("WARN") && warned.contains("noeviction"),
        "{warned}"
    );
    let good = RedisServer::start().await;
    let quiet = settings.redis(good.url()).start().await;
    quiet.register("app", "doubles", "", AMPLE_SLO).await;
    let lines = quiet.log().lines();
    assert!(lines.iter().all(|line| !line.contains("maxmemory")), "{lines:?}");
}

async fn loss_is_told(cluster: &TestCluster, named: &str) {
    until("the loss to be told", PATIENCE, async || {
        let status = cluster.admin().get("/api/v1/status").await.expect(200);
        let ready = cluster.queries().get("/readyz").await.json();
        status["problems"].to_string().contains(named)
            && status["store"]["up"] == false
            && ready["degraded"] == json!(["store"])
    })
    .await;
}

async fn is_well(cluster: &TestCluster) {
    until("all to be well", PATIENCE, async || {
        cluster.queries().get("/readyz").await.json()["degraded"] == json!([])
    })
    .await;
}

async fn register(cluster: &TestCluster, name: &str) -> skysail_tests::rest::Reply {
    let body =
        json!({ "name": name, "input_type": "doubles", "default_output": "", "slo_micros": 1_000_000 });
    cluster.admin().post("/api/v1/applications", body).await
}

async fn models_that_vanish_take_nothing_down_and_are_restored_by_the_command() {
    let redis = RedisServer::start().await;
    let settings = Settings::default().redis(redis.url());
    let runs = settings.clone().start().await;
    let mut other = settings.runtime(Runtime::None).start().await;
    runs.serve("app", &Deployment::of("noop").replicas(2)).await;
    until("the write to be followed", PATIENCE, async || {
        other.query("app", json!({ "input": [1.0] })).await.status == 200
    })
    .await;
    let before = children_of(runs.pid());
    assert_eq!(before.len(), 2);

    let _: u64 = redis.run("HDEL {skysail:test}:documents model/noop");
    let detail = register(&other, "second").await.problem(503);
    assert!(detail.contains("model `noop` is missing"), "{detail}");
    for frontend in [&runs, &other] {
        loss_is_told(frontend, "model `noop` is missing").await;
    }
    // A restart instead of a write.
    other.kill();
    other.relaunch().await;
    loss_is_told(&other, "another frontend held").await;
    // What is there is kept up: a replica that dies is replaced.
    let killed = i32::try_from(before[0]).ok().and_then(Pid::from_raw).unwrap();
    kill_process(killed, Signal::KILL).unwrap();
    until("it to be replaced", PATIENCE, async || {
        let now = children_of(runs.pid());
        now.len() == 2 && !now.contains(&before[0])
    })
    .await;
    let before = children_of(runs.pid());
    assert_eq!(runs.predict("app", json!([1.0])).await, 0);

    let said = Skysail::at(other.addresses().admin).done("cluster restore").await;
    assert!(said.contains("wrote 1 application and 1 model back"), "{said}");
    for frontend in [&runs, &other] {
        is_well(frontend).await;
    }
    assert_eq!(children_of(runs.pid()), before);
    register(&other, "second").await.expect(201);
    assert_eq!(runs.predict("app", json!([1.0])).await, 0);
}

async fn settings_that_are_given_up_are_written_anew_and_replicas_start() {
    let redis = RedisServer::start().await;
    let runs = Settings::default().redis(redis.url()).start().await;
    runs.serve("app", &Deployment::of("noop").replicas(2)).await;
    let before = children_of(runs.pid());
    let _: u64 = redis.run("HDEL {skysail:test}:documents settings/cluster");
    loss_is_told(&runs, "the cluster's settings are missing").await;
    Skysail::at(runs.addresses().admin)
        .done("cluster accept-empty")
        .await;
    is_well(&runs).await;
    let settings: String = redis.run("HGET {skysail:test}:documents settings/cluster");
    assert!(settings.contains("container_key"), "{settings}");
    // Containers of the lost key are replaced, and more can be started.
    until("all containers to be replaced", PATIENCE, async || {
        let now = children_of(runs.pid());
        now.len() == 2 && now.iter().all(|pid| !before.contains(pid))
    })
    .await;
    Skysail::at(runs.addresses().admin)
        .done("model scale noop:1 3")
        .await;
    runs.attached("noop", 3).await;
    assert_eq!(runs.predict("app", json!([1.0])).await, 0);
}

/// The ids of two running replicas: the engine's list learns late that a container runs.
async fn replicas(docker: &DockerCluster) -> Vec<String> {
    find("two running containers", PATIENCE, async || {
        let replicas = docker.with_role("replica").await;
        let all_run = replicas.len() == 2 && replicas.iter().all(|replica| replica.running);
        all_run.then(|| replicas.into_iter().map(|replica| replica.id).collect())
    })
    .await
}

/// Two frontends with the Docker runtime on one Redis, and two replicas.
async fn in_docker(redis: &RedisServer) -> (DockerCluster, TestCluster, TestCluster) {
    let docker = DockerCluster::new();
    let settings = Settings::default()
        .redis(redis.url())
        .runtime(Runtime::Docker)
        .cluster(docker.name());
    let one = settings.clone().start().await;
    let other = settings.start().await;
    let noop = Deployment::of_image("noop", image("noop").await).replicas(2);
    one.serve("app", &noop).await;
    other.attached("noop", 2).await;
    (docker, one, other)
}

async fn in_docker_models_that_vanish_take_nothing_down() {
    let redis = RedisServer::start().await;
    let (docker, one, mut other) = in_docker(&redis).await;
    let before = replicas(&docker).await;
    let _: u64 = redis.run(&format!(
        "HDEL {{skysail:{}}}:documents model/noop",
        docker.name()
    ));
    register(&other, "second").await.problem(503);
    for frontend in [&one, &other] {
        loss_is_told(frontend, "model `noop` is missing").await;
    }
    other.kill();
    other.relaunch().await;
    loss_is_told(&other, "another frontend held").await;
    assert_eq!(replicas(&docker).await, before);
    assert_eq!(one.predict("app", json!([1.0])).await, 0);
    Skysail::at(other.addresses().admin).done("cluster restore").await;
    for frontend in [&one, &other] {
        is_well(frontend).await;
        // The containers come to the frontend that was started anew when it knows their version.
        until("a prediction", PATIENCE, async || {
            let reply = frontend.query("app", json!({ "input": [1.0] })).await.expect(200);
            reply["default"] == false
        })
        .await;
    }
    assert_eq!(replicas(&docker).await, before);
}

async fn a_frontend_alone_on_what_is_left_serves_nothing_and_stops_nothing_until_it_is_accepted() {
    let redis = RedisServer::start().await;
    let (docker, mut one, mut other) = in_docker(&redis).await;
    let before = replicas(&docker).await;
    one.kill();
    other.kill();
    let _: u64 = redis.run(&format!(
        "HDEL {{skysail:{}}}:documents model/noop",
        docker.name()
    ));
    one.relaunch().await;
    loss_is_told(&one, "no frontend is known to hold").await;
    assert_eq!(one.queries().get("/readyz").await.status, 503);
    register(&one, "second").await.problem(503);
    let refused = Skysail::at(one.addresses().admin)
        .refused("cluster restore")
        .await;
    assert!(refused.contains("none holds it any more"), "{refused}");
    assert_eq!(replicas(&docker).await, before);
    Skysail::at(one.addresses().admin)
        .done("cluster accept-empty")
        .await;
    is_well(&one).await;
    // Now it is said that there shall be no model.
    until("the containers to be gone", PATIENCE, async || {
        docker.with_role("replica").await.is_empty()
    })
    .await;
    register(&one, "second").await.expect(201);
}

//! A Redis that answers and still does not do: it refuses writes, or takes long.

use std::fs;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use skysail_frontend::store::redis::RedisStore;
use skysail_frontend::store::{AnnouncementStore, CatalogStore, LeaseStore, Leased, StoreError, StoreHealth};
use skysail_tests::cases;
use skysail_tests::cluster::{Runtime, Settings, TestCluster};
use skysail_tests::deployment::Deployment;
use skysail_tests::late::LateWay;
use skysail_tests::program::children_of;
use skysail_tests::redis::RedisServer;
use skysail_tests::skysail::Skysail;
use skysail_tests::wait::{PATIENCE, until};

use crate::store_redis::{announce, announced, commit, connect, lease, put, ready, two_stores, within};

cases! {
    a_redis_that_refuses_writes_says_why_until_it_takes_one: Redis;
    a_user_who_may_not_announce_or_lead_is_told_so: Redis;
    nobody_is_forgotten_while_nobody_can_announce_himself: Redis;
    while_writes_are_refused_status_says_why_and_afterwards_all_heals: Redis;
    a_slow_redis_is_said_to_be_and_every_request_is_answered: Redis;
    a_change_that_takes_too_long_is_answered_with_the_reason: Redis;
}

async fn a_redis_that_refuses_writes_says_why_until_it_takes_one() {
    let cases = [
        (
            "CONFIG SET min-replicas-to-write 1",
            "NOREPLICAS",
            "CONFIG SET min-replicas-to-write 0",
        ),
        ("CONFIG SET maxmemory 1", "OOM", "CONFIG SET maxmemory 0"),
        // A replica of nobody that can be reached keeps what it has.
        ("REPLICAOF 127.0.0.1 1", "READONLY", "REPLICAOF NO ONE"),
        ("BGSAVE", "MISCONF", "CONFIG SET stop-writes-on-bgsave-error no"),
    ];
    for (refusal, words, repair) in cases {
        let server = RedisServer::start_with(&["--appendonly", "no", "--save", "3600 1"]).await;
        let store = connect(&server.url());
        ready(&store).await;
        let before = commit(&store, vec![put("a")]).await.unwrap();
        if words == "MISCONF" {
            fs::remove_dir_all(server.folder()).expect("its folder can be removed");
        }
        let _: redis::Value = server.run(refusal);
        let why = refuses(&store, words).await;
        assert!(
            why.contains("redis at 127.0.0.1") && !why.contains("script"),
            "{why}"
        );
        assert_eq!(store.watch().borrow().as_ref(), Some(&before));
        let refused = commit(&store, vec![put("b")]).await;
        match refused {
            Err(StoreError::Refuses(why)) => assert!(why.contains(words), "{why}"),
            other => panic!("{words}: {other:?}"),
        }
        // It stays so from one look to the next, also where the session is begun anew.
        refuses(&store, words).await;

        let _: redis::Value = server.run(repair);
        let again = async {
            while announce(&store, "one").await.is_err() || lease(&store, "one").await.is_err() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        within("writes to be taken", again).await;
        ready(&store).await;
        let written = async {
            while commit(&store, vec![put("b")]).await.is_err() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        within("a write", written).await;
    }
}

/// Announces and asks for the lease, until the store is said to refuse writes in these words.
async fn refuses(store: &RedisStore, words: &str) -> String {
    let told = async {
        loop {
            // Whether they are refused is what is looked at.
            let _ = store.announce("one", "{}".into(), Duration::from_secs(60)).await;
            let _ = store.take_lease("one", Duration::from_secs(3)).await;
            if let StoreHealth::RefusesWrites(why) = &*store.health().borrow()
                && why.contains(words)
            {
                return why.clone();
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    within(&format!("{words} to be told"), told).await
}

async fn a_user_who_may_not_announce_or_lead_is_told_so() {
    for forbidden in ["-zadd", "-time"] {
        let server = RedisServer::start().await;
        let () = server.run(&format!("ACL SETUSER app on >pw ~* &* +@all {forbidden}"));
        let store = connect(&server.url_as("app:pw"));
        if forbidden == "-time" {
            // Not even a look works.
            let mut health = store.health();
            let down = health
                .wait_for(|health| matches!(health, StoreHealth::Down(why) if why.contains("can't run")));
            within("the reason", down).await.unwrap();
            continue;
        }
        ready(&store).await;
        refuses_announcements(&store).await;
        let () = server.run("ACL SETUSER app +zadd");
        announce(&store, "one").await.unwrap();
        ready(&store).await;
    }
}

async fn refuses_announcements(store: &RedisStore) {
    let led = store.take_lease("one", Duration::from_secs(60)).await;
    assert!(matches!(led, Ok(Leased::Held(_))), "{led:?}");
    let refused = store.announce("one", "{}".into(), Duration::from_secs(60)).await;
    assert!(refused.is_err());
    match &*store.health().borrow() {
        StoreHealth::RefusesWrites(why) => assert!(why.contains("can't run this command"), "{why}"),
        other => panic!("{other:?}"),
    }
    // That the lease is renewed says nothing of announcements.
    let led = store.take_lease("one", Duration::from_secs(60)).await;
    let Ok(Leased::Held(led)) = led else {
        panic!("{led:?}");
    };
    assert!(matches!(&*store.health().borrow(), StoreHealth::RefusesWrites(_)));
    // But whoever cannot announce himself does not begin to act.
    store.release_lease(&led).await.unwrap();
    let begun = store.take_lease("one", Duration::from_secs(60)).await;
    assert!(
        matches!(&begun, Err(StoreError::HeldBack(why)) if why.contains("refuses writes")),
        "{begun:?}"
    );
}

async fn nobody_is_forgotten_while_nobody_can_announce_himself() {
    let server = RedisServer::start().await;
    let [one, other] = two_stores(&server).await;
    let brief = Duration::from_secs(1);
    one.announce("one", "{}".into(), brief).await.unwrap();
    other.announce("other", "{}".into(), brief).await.unwrap();
    let mut watch = one.announced();
    let both = watch.wait_for(|shown| shown.len() == 2);
    within("the other's announcement", both).await.unwrap();
    let () = server.run("CONFIG SET min-replicas-to-write 1");
    let refused = one.announce("one", "{}".into(), brief).await;
    assert!(refused.is_err());
    // By the server's clock all have expired.
    let expired = async {
        let now = || {
            let (seconds, micros): (u64, u64) = server.run("TIME");
            seconds * 1000 + micros / 1000
        };
        loop {
            let alive: u64 = server.run(&format!(
                "ZCOUNT {{skysail:blue}}:frontend-expiries {} +inf",
                now()
            ));
            if alive == 0 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    within("the announcements to expire", expired).await;
    let refused = one.announce("one", "{}".into(), brief).await;
    assert!(refused.is_err());
    assert_eq!(announced(&one), ["one", "other"]);
}

async fn status(cluster: &TestCluster) -> Value {
    cluster.admin().get("/api/v1/status").await.expect(200)
}

async fn degraded(cluster: &TestCluster) -> (Value, String) {
    let ready = cluster.queries().get("/readyz").await.json();
    (ready["degraded"].clone(), ready["reasons"].to_string())
}

fn kill(pid: u32) {
    let pid = i32::try_from(pid)
        .ok()
        .and_then(Pid::from_raw)
        .expect("a process id");
    kill_process(pid, Signal::KILL).expect("a replica can be killed");
}

async fn while_writes_are_refused_status_says_why_and_afterwards_all_heals() {
    let redis = RedisServer::start().await;
    let replica =
        RedisServer::start_with(&["--replicaof", "127.0.0.1", &redis.addr().port().to_string()]).await;
    let settings = Settings::default().redis(redis.url());
    let runs = settings.clone().start().await;
    let other = settings.runtime(Runtime::None).start().await;
    runs.serve("app", &Deployment::of("noop").replicas(1)).await;
    until("both frontends to be known", PATIENCE, async || {
        status(&other).await["frontends"]
            .as_array()
            .is_some_and(|all| all.len() == 2)
    })
    .await;
    until("the replica to follow", PATIENCE, async || {
        redis.run::<String>("INFO replication").contains("state=online")
    })
    .await;
    let () = redis.run("CONFIG SET min-replicas-to-write 1");
    runs.register("kept", "doubles", "", Duration::from_secs(1)).await;

    let mut replica = replica;
    replica.kill();
    for frontend in [&runs, &other] {
        until("the refusal to be told", PATIENCE, async || {
            let (degraded, reasons) = degraded(frontend).await;
            degraded == json!(["store"]) && reasons.contains("NOREPLICAS")
        })
        .await;
        let status = status(frontend).await;
        assert!(
            status["problems"].to_string().contains("refuses writes"),
            "{status}"
        );
        assert_eq!(status["store"]["up"], false, "{status}");
        assert!(frontend.metric("skysail_store_up").await.abs() < f64::EPSILON);
        assert_eq!(frontend.queries().get("/readyz").await.status, 200);
    }
    let killed = children_of(runs.pid())[0];
    kill(killed);
    let patch = json!({ "default_output": "new" });
    let detail = runs
        .admin()
        .patch("/api/v1/applications/app", patch)
        .await
        .problem(503);
    assert!(detail.contains("NOREPLICAS"), "{detail}");
    // Longer than announcements live.
    tokio::time::sleep(Duration::from_secs(7)).await;
    assert_eq!(status(&runs).await["frontends"].as_array().map(Vec::len), Some(2));

    replica.start_again().await;
    for frontend in [&runs, &other] {
        until("all to be well again", PATIENCE, async || {
            degraded(frontend).await.0 == json!([])
                && (frontend.metric("skysail_store_up").await - 1.0).abs() < f64::EPSILON
        })
        .await;
    }
    until("the replica to be replaced", PATIENCE, async || {
        let now = children_of(runs.pid());
        now.len() == 1 && now[0] != killed
    })
    .await;
    runs.attached("noop", 1).await;
}

async fn a_slow_redis_is_said_to_be_and_every_request_is_answered() {
    let redis = RedisServer::start().await;
    let way = LateWay::to(redis.addr(), Duration::ZERO).await;
    let settings = Settings::default().redis(format!("redis://{}", way.addr()));
    let runs = settings.clone().start().await;
    let other = settings.runtime(Runtime::None).start().await;
    runs.serve("app", &Deployment::of("noop").replicas(1)).await;
    until("the other to know of it", PATIENCE, async || {
        other.query("app", json!({ "input": [1.0] })).await.status == 200
    })
    .await;

    way.take(Duration::from_millis(600));
    for frontend in [&runs, &other] {
        until("its slowness to be told", PATIENCE, async || {
            let (degraded, reasons) = degraded(frontend).await;
            degraded == json!(["store"]) && reasons.contains("takes 1.2 s")
        })
        .await;
        let status = status(frontend).await;
        assert!(status["problems"].to_string().contains("is slow"), "{status}");
    }
    let began = runs.log().lines().len();
    let skysail = Skysail::at(runs.addresses().admin);
    let registered = "app register second --input-type doubles --default-output=none --slo 1s";
    skysail.done(registered).await;
    skysail.done("model scale noop 2").await;
    runs.attached("noop", 2).await;
    kill(children_of(runs.pid())[0]);
    runs.attached("noop", 2).await;
    // A frontend that starts now finds its way, too.
    let late = Settings::default()
        .redis(format!("redis://{}", way.addr()))
        .runtime(Runtime::None);
    let late = late.start().await;
    assert_eq!(late.query("second", json!({ "input": [1.0] })).await.status, 200);
    let lines = runs.log().lines();
    let ceased = lines[began..]
        .iter()
        .any(|line| line.contains("no longer acting"));
    assert!(!ceased, "it lost its lease: {lines:?}");
    assert_eq!(runs.predict("app", json!([1.0])).await, 0);

    way.take(Duration::ZERO);
    until("all to be well again", PATIENCE, async || {
        degraded(&runs).await.0 == json!([])
    })
    .await;
}

async fn a_change_that_takes_too_long_is_answered_with_the_reason() {
    let redis = RedisServer::start().await;
    let way = LateWay::to(redis.addr(), Duration::ZERO).await;
    let settings = Settings::default()
        .redis(format!("redis://{}", way.addr()))
        .runtime(Runtime::None);
    let cluster = settings.start().await;
    cluster
        .register("app", "doubles", "", Duration::from_secs(1))
        .await;
    way.take(Duration::from_millis(800));
    // They take turns, so the last ones would wait for half a minute.
    let asked = (0..20).map(|number| {
        let admin = cluster.admin();
        let patch = json!({ "default_output": number.to_string() });
        async move { admin.patch("/api/v1/applications/app", patch).await }
    });
    let replies = futures::future::join_all(asked).await;
    assert!(replies.iter().any(|reply| reply.status == 200));
    let refused = replies.into_iter().find(|reply| reply.status != 200);
    let detail = refused.expect("not all can be done in time").problem(503);
    assert!(
        detail.contains("slow") && detail.contains("look before you ask again"),
        "{detail}"
    );
}

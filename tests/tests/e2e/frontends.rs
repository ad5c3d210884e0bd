//! Several frontends on one Redis: they share containers, and each does without the others.

use std::cell::Cell;

use futures::future::join_all;
use rustix::process::Signal;
use serde_json::{Value, json};
use skysail_tests::cases;
use skysail_tests::cluster::{AMPLE_SLO, Runtime, Settings, TestCluster};
use skysail_tests::deployment::{ByHand, Deployment};
use skysail_tests::program::Program;
use skysail_tests::redis::RedisServer;
use skysail_tests::wait::{PATIENCE, until};

cases! {
    a_container_serves_two_frontends_whichever_is_asked: Redis;
    a_container_that_dialled_one_frontend_is_told_of_the_others: Redis;
    a_frontend_that_is_killed_takes_no_query_of_another_with_it_and_is_served_again: Redis;
    a_frontend_that_ends_is_no_longer_among_those_that_live: Redis;
    a_replica_that_is_stopped_is_left_out_by_every_frontend_until_it_goes_on: Redis;
    while_redis_is_away_containers_stay_with_every_frontend: Redis;
    one_without_a_runtime_leaves_the_control_role_to_one_that_starts_containers: Redis;
}

/// Two frontends of one cluster, whose containers the test starts.
struct Pair {
    first: TestCluster,
    second: TestCluster,
    redis: RedisServer,
}

impl Pair {
    /// Ready, with a model `noop:1` behind the application `app`.
    async fn start() -> Self {
        let redis = RedisServer::start().await;
        let frontend = || {
            Settings::default()
                .redis(redis.url())
                .runtime(Runtime::None)
                .start()
        };
        let (first, second) = tokio::join!(frontend(), frontend());
        first.register("app", "doubles", "-1.0", AMPLE_SLO).await;
        first.register_model("noop", "doubles").await;
        first.link("app", "noop").await;
        until("both frontends to know the application", PATIENCE, async || {
            second.query("app", json!({ "input": [1] })).await.status == 200
        })
        .await;
        Self { first, second, redis }
    }

    fn both(&self) -> [&TestCluster; 2] {
        [&self.first, &self.second]
    }

    /// A container that dials both.
    fn container(&self, replica: &str) -> Program {
        let rpc = self.both().map(|frontend| frontend.addresses().rpc.to_string());
        let container = ByHand::of("noop", "noop", replica).env("SKYSAIL_FRONTENDS", &rpc.join(","));
        self.first.by_hand(&container)
    }

    /// Waits until each frontend has so many replicas.
    async fn attached(&self, count: u64) {
        tokio::join!(attached(&self.first, count), attached(&self.second, count));
    }
}

/// Waits until a frontend has so many replicas of its own; the admin API tells of what all have.
async fn attached(frontend: &TestCluster, count: u64) {
    let sample = r#"skysail_replicas_attached{model="noop",version="1"}"#;
    let what = format!("{count} replicas on one frontend");
    until(&what, PATIENCE, async || whole(frontend, sample).await == count).await;
}

async fn whole(frontend: &TestCluster, sample: &str) -> u64 {
    let count = frontend.metric(sample).await;
    format!("{count:.0}").parse().expect("a whole number")
}

/// Asks for so many inputs at once, none like another, and expects the model's output for each.
async fn ask(frontend: &TestCluster, count: u64) {
    static ASKED: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
    let queries = (0..count).map(|_| {
        let number = ASKED.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        frontend.predict("app", json!([number]))
    });
    let answers = join_all(queries).await;
    assert!(answers.iter().all(|output| *output == 0), "{answers:?}");
}

async fn a_container_serves_two_frontends_whichever_is_asked() {
    let pair = Pair::start().await;
    let _container = pair.container("shared");
    pair.attached(1).await;
    let [first, second] = pair.both();
    for (of_first, of_second) in [(100, 100), (100, 0), (0, 100), (1, 100), (100, 1)] {
        tokio::join!(ask(first, of_first), ask(second, of_second));
    }
    // One after the other, so that the container's credit is where it is not needed each time.
    for _ in 0..10 {
        ask(first, 1).await;
        ask(second, 1).await;
    }
}

async fn a_container_that_dialled_one_frontend_is_told_of_the_others() {
    let pair = Pair::start().await;
    let _container = pair.first.by_hand(&ByHand::of("noop", "noop", "shared"));
    pair.attached(1).await;
    ask(&pair.second, 10).await;
    // Also of one that comes later.
    let third = Settings::default().redis(pair.redis.url()).runtime(Runtime::None);
    let third = third.start().await;
    attached(&third, 1).await;
    ask(&third, 10).await;
    for frontend in [&pair.first, &pair.second, &third] {
        until("each frontend to know all three", PATIENCE, async || {
            living(frontend).await == 3
        })
        .await;
    }
}

async fn a_frontend_that_is_killed_takes_no_query_of_another_with_it_and_is_served_again() {
    let mut pair = Pair::start().await;
    let _containers = [pair.container("a"), pair.container("b")];
    pair.attached(2).await;
    let is_over = Cell::new(false);
    let asking = async {
        while !is_over.get() {
            ask(&pair.first, 10).await;
        }
    };
    let killing = async {
        ask(&pair.second, 10).await;
        for _ in 0..2 {
            pair.second.kill();
            pair.second.frontend().end().await;
            pair.second.restart().await;
            attached(&pair.second, 2).await;
            ask(&pair.second, 10).await;
        }
        is_over.set(true);
    };
    tokio::join!(asking, killing);
}

async fn a_frontend_that_ends_is_no_longer_among_those_that_live() {
    let mut pair = Pair::start().await;
    until("both to know each other", PATIENCE, async || {
        living(&pair.first).await == 2 && living(&pair.second).await == 2
    })
    .await;
    assert!(pair.second.terminate().await.success());
    until("it to be gone", PATIENCE, async || living(&pair.first).await == 1).await;
}

async fn a_replica_that_is_stopped_is_left_out_by_every_frontend_until_it_goes_on() {
    let pair = Pair::start().await;
    let containers = [pair.container("a"), pair.container("b")];
    pair.attached(2).await;
    containers[0].signal(Signal::STOP);
    tokio::join!(ask(&pair.first, 50), ask(&pair.second, 50));
    pair.attached(1).await;
    containers[0].signal(Signal::CONT);
    pair.attached(2).await;
    tokio::join!(ask(&pair.first, 50), ask(&pair.second, 50));
}

async fn while_redis_is_away_containers_stay_with_every_frontend() {
    let mut pair = Pair::start().await;
    let _container = pair.container("shared");
    pair.attached(1).await;
    pair.redis.kill();
    until("both to miss it", PATIENCE, async || {
        is_degraded(&pair.first).await && is_degraded(&pair.second).await
    })
    .await;
    tokio::join!(ask(&pair.first, 50), ask(&pair.second, 50));
    // What was known of each other stays.
    assert_eq!(living(&pair.first).await, living(&pair.second).await);
    pair.redis.start_again().await;
    until("both to have it back", PATIENCE, async || {
        !is_degraded(&pair.first).await && !is_degraded(&pair.second).await
    })
    .await;
    pair.attached(1).await;
    tokio::join!(ask(&pair.first, 50), ask(&pair.second, 50));
}

async fn one_without_a_runtime_leaves_the_control_role_to_one_that_starts_containers() {
    let redis = RedisServer::start().await;
    let settings = Settings::default().redis(redis.url());
    let begins = "acting as the control role number=";
    let without = settings.clone().runtime(Runtime::None).start().await;
    without.log().line(begins).await;
    let with = settings.start().await;
    with.serve("app", &Deployment::of("noop").replicas(1)).await;
    with.log().line(begins).await;

    let begun = || {
        let lines = without.log().lines();
        lines.iter().filter(|line| line.contains(begins)).count()
    };
    let before = begun();
    drop(with);
    until("the other to act again", PATIENCE, async || begun() > before).await;
}

/// How many frontends this one knows to live.
async fn living(frontend: &TestCluster) -> u64 {
    whole(frontend, "skysail_frontends").await
}

async fn is_degraded(frontend: &TestCluster) -> bool {
    let probe: Value = frontend.queries().get("/readyz").await.json();
    probe["degraded"] == json!(["store"])
}

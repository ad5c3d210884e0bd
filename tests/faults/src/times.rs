//! How long single recoveries take, under load: measured several times, and not judged.

use std::collections::BTreeSet;

use jiff::Timestamp;
use reqwest::Method;
use serde::Serialize;
use serde_json::json;
use skysail_tests::contained::desired::{can_write, newest, sees};
use skysail_tests::docker::Container;
use skysail_tests::rest::Rest;
use skysail_tests::wait;
use tokio::time::{Duration, Instant, sleep};

use crate::arguments::Arguments;
use crate::stage::{APPLICATION, MODEL, REPLICAS, Stage};

/// What never comes is waited for so long.
const BOUND: Duration = Duration::from_secs(120);

/// How long Redis is away.
const AWAY: Duration = Duration::from_secs(10);

/// From one event to another.
#[derive(Debug, Serialize)]
pub(crate) struct Recovery {
    pub(crate) from: &'static str,
    pub(crate) to: &'static str,
    pub(crate) seconds: Vec<f64>,
}

impl Recovery {
    fn new(from: &'static str, to: &'static str) -> Self {
        Self {
            from,
            to,
            seconds: Vec::new(),
        }
    }

    fn note(&mut self, took: Duration) {
        eprintln!("{} to {}: {:.2} s", self.from, self.to, took.as_secs_f64());
        self.seconds.push(took.as_secs_f64());
    }
}

pub(crate) async fn measure(arguments: &Arguments) -> Vec<Recovery> {
    let mut stage = Stage::set(arguments.seed(), arguments.load).await;
    let mut killed = Recovery::new(
        "kill -9 of a replica",
        "another in its place, attached at both frontends",
    );
    let mut out = Recovery::new("SIGSTOP of a replica", "out of rotation at both frontends");
    let mut back = Recovery::new("SIGCONT", "three replicas in rotation at both frontends");
    let mut written = Recovery::new("Redis started again", "an admin write is taken");
    let mut served = Recovery::new("a query frontend's start", "its first prediction");
    let mut succeeded = Recovery::new("kill -9 of the acting control role", "another starts a container");
    for _ in 0..arguments.rounds {
        killed.note(replica_killed(&mut stage).await);
        healed(&mut stage).await;
        let (until_out, until_back) = replica_stopped(&mut stage).await;
        out.note(until_out);
        back.note(until_back);
        healed(&mut stage).await;
        written.note(redis_killed(&stage).await);
        healed(&mut stage).await;
        served.note(query_killed(&stage).await);
        healed(&mut stage).await;
        succeeded.note(control_killed(&mut stage).await);
    }
    let Stage { running, cluster } = stage;
    let account = running.finish().await;
    drop(cluster);
    eprintln!("meanwhile: {account:?}");
    vec![killed, out, back, written, served, succeeded]
}

async fn healed(stage: &mut Stage) {
    stage.cluster.healed(REPLICAS as usize).await;
}

async fn replica_killed(stage: &mut Stage) -> Duration {
    let replicas = stage.cluster.replicas().await;
    let before: BTreeSet<_> = replicas.iter().map(|replica| replica.id.clone()).collect();
    let begin = Instant::now();
    stage.cluster.kill(&replicas[0].name).await;
    until("another replica to be attached", async || {
        let now = stage.cluster.replicas().await;
        let running: Vec<_> = now.into_iter().filter(|replica| replica.running).collect();
        let another = running.iter().any(|replica| !before.contains(&replica.id));
        another && running.len() == REPLICAS as usize && seen_by_all(stage, &running).await
    })
    .await;
    begin.elapsed()
}

async fn replica_stopped(stage: &mut Stage) -> (Duration, Duration) {
    let replicas = stage.cluster.replicas().await;
    let stopped = &replicas[0];
    let begin = Instant::now();
    stage.cluster.signal(&stopped.name, "SIGSTOP").await;
    until("it to be out of rotation", async || {
        !seen_by_any(stage, stopped).await
    })
    .await;
    let until_out = begin.elapsed();
    let begin = Instant::now();
    stage.cluster.signal(&stopped.name, "SIGCONT").await;
    until("it to be in rotation again, or replaced", async || {
        let now = stage.cluster.replicas().await;
        let running: Vec<_> = now.into_iter().filter(|replica| replica.running).collect();
        running.len() == REPLICAS as usize && seen_by_all(stage, &running).await
    })
    .await;
    (until_out, begin.elapsed())
}

async fn redis_killed(stage: &Stage) -> Duration {
    let redis = stage.cluster.redis();
    stage.cluster.kill(&redis).await;
    sleep(AWAY).await;
    let admin = stage.cluster.admin(0).await;
    stage.cluster.start_again(&redis).await;
    let begin = Instant::now();
    until("an admin write to be taken", async || can_write(&admin).await).await;
    begin.elapsed()
}

async fn query_killed(stage: &Stage) -> Duration {
    let cluster = &stage.cluster;
    let frontend = &cluster.query()[0];
    stage.running.disturb(0);
    cluster.kill(frontend).await;
    cluster.start_again(frontend).await;
    let began = cluster.began(frontend).await.expect("it runs");
    let addr = cluster.query_address(0).await;
    let queries = Rest::at(addr);
    let path = format!("/{APPLICATION}/predict");
    until("a prediction", async || {
        let asked = queries.send(Method::POST, &path, r#"{"input": [0.5]}"#).await;
        asked.is_ok_and(|reply| reply.status == 200 && reply.json()["default"] == false)
    })
    .await;
    let took = Timestamp::now().duration_since(began).unsigned_abs();
    stage.running.calm(0, addr);
    took
}

/// One more replica is asked of the candidate that is left, and taken back when it is there.
async fn control_killed(stage: &mut Stage) -> Duration {
    let acting = stage.cluster.acting().await.expect("one acts");
    let other = stage
        .cluster
        .admin((acting + 1) % stage.cluster.control().len())
        .await;
    let killed = stage.cluster.control()[acting].clone();
    let begin = Instant::now();
    stage.cluster.kill(&killed).await;
    scale(&other, REPLICAS + 1).await;
    until("one more replica to run", async || {
        stage.cluster.replicas().await.len() > REPLICAS as usize
    })
    .await;
    let took = begin.elapsed();
    stage.cluster.start_again(&killed).await;
    scale(&other, REPLICAS).await;
    healed(stage).await;
    took
}

async fn scale(admin: &Rest, count: u32) {
    let path = format!("/api/v1/models/{MODEL}/versions/1/replicas");
    admin.put(&path, json!({ "count": count })).await.expect(200);
}

async fn seen_by_all(stage: &mut Stage, replicas: &[Container]) -> bool {
    let views = stage.cluster.views().await;
    let frontends = stage.cluster.query().iter();
    let mut newest = frontends.map(|frontend| newest(&views, frontend));
    newest.all(|view| view.is_some_and(|view| replicas.iter().all(|replica| sees(view, replica))))
}

async fn seen_by_any(stage: &mut Stage, replica: &Container) -> bool {
    let views = stage.cluster.views().await;
    let mut newest = stage
        .cluster
        .query()
        .iter()
        .filter_map(|frontend| newest(&views, frontend));
    newest.any(|view| sees(view, replica))
}

async fn until(what: &str, state: impl AsyncFnMut() -> bool) {
    wait::until(what, BOUND, state).await;
}

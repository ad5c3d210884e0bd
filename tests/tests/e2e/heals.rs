//! Clusters of several frontends that are left alone: whatever single part is killed, hung or restarted under
//! load, every query is answered, and the cluster is as it should be again by itself.
//!
//! What is tested is answers and convergence; how long it takes is measured by `make faults ARGS=--report`.

use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use skysail_tests::cases;
use skysail_tests::cluster::TestCluster;
use skysail_tests::contained::desired::{can_write, newest, sees, writable};
use skysail_tests::contained::{ContainedCluster, Size};
use skysail_tests::deployment::Deployment;
use skysail_tests::docker::image;
use skysail_tests::frontends::{Frontends, answers};
use skysail_tests::journal::Account;
use skysail_tests::load::Load;
use skysail_tests::program::{children_of, gone};
use skysail_tests::wait::{PATIENCE, find, until};

cases! {
    a_killed_replica_is_replaced_and_its_queries_go_to_others: Redis;
    a_stopped_replica_is_left_out_and_comes_back: Redis;
    redis_is_killed_under_load_and_no_query_notices: Redis;
    a_killed_query_frontend_is_nothing_to_clients_of_the_other: Redis;
    twenty_switches_of_versions_give_no_default: Redis;
    a_version_that_never_becomes_ready_leaves_the_old_one_answering: Redis;
    in_docker_a_killed_replica_is_replaced_and_its_queries_go_to_others: Docker, Redis;
    in_docker_a_stopped_replica_is_left_out_and_comes_back: Docker, Redis;
    in_docker_a_replica_that_is_cut_off_is_left_out_and_comes_back: Docker, Redis;
    when_the_acting_control_role_is_killed_another_acts: Docker, Redis;
    a_control_role_that_slept_changes_nothing_when_it_wakes_up: Docker, Redis;
}

/// More than any answer takes on a busy machine, so that a default means that something is wrong.
const SLO: Duration = Duration::from_secs(10);

const REPLICAS: u32 = 3;

/// A batch of eight takes 60 ms: three replicas answer 400 queries a second.
fn digests(deployment: Deployment) -> Deployment {
    deployment
        .env("SYNTHETIC_FIXED_MICROS", "20000")
        .env("SYNTHETIC_PER_INPUT_MICROS", "5000")
        .with("max_batch", 8)
        .with("cache", false)
        .replicas(REPLICAS)
}

/// Six tenths of what the replicas can answer.
fn load() -> Load {
    Load {
        application: "digests".to_owned(),
        slo: SLO,
        default_output: "unknown".to_owned(),
        per_second: 240.0,
        seed: 1,
    }
}

/// Queries that show that all goes on.
const SOME: u64 = 150;

fn assert_no_default(account: &Account) {
    account.assert_right();
    assert_eq!(account.defaulted(), 0, "{account:#?}");
}

fn signal(pid: u32, signal: Signal) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    kill_process(pid.expect("a process id"), signal).expect("a replica can be signalled");
}

/// Two query frontends, and the three replicas of the control frontend.
async fn serving() -> Frontends {
    let cluster = Frontends::start(2).await;
    cluster.serve(&load(), &digests(Deployment::synthetic())).await;
    cluster
}

async fn a_killed_replica_is_replaced_and_its_queries_go_to_others() {
    let cluster = serving().await;
    let running = cluster.offer(load());
    running.more(SOME).await;
    let killed = children_of(cluster.control.pid())[0];
    signal(killed, Signal::KILL);
    gone(killed).await;
    until("another in its place", PATIENCE, async || {
        children_of(cluster.control.pid()).len() == REPLICAS as usize
    })
    .await;
    attached_to_both(&cluster.control).await;
    running.more(SOME).await;
    assert_no_default(&running.finish().await);
}

async fn a_stopped_replica_is_left_out_and_comes_back() {
    let cluster = serving().await;
    let running = cluster.offer(load());
    running.more(SOME).await;
    let stopped = children_of(cluster.control.pid())[0];
    signal(stopped, Signal::STOP);
    until("it to be left out", PATIENCE, async || {
        in_rotation(&cluster.control).await < REPLICAS as usize
    })
    .await;
    running.more(SOME).await;
    // One that was given up meanwhile is gone.
    if children_of(cluster.control.pid()).contains(&stopped) {
        signal(stopped, Signal::CONT);
    }
    attached_to_both(&cluster.control).await;
    running.more(SOME).await;
    assert_no_default(&running.finish().await);
}

/// Replicas of the model that are sent queries.
async fn in_rotation(control: &TestCluster) -> usize {
    let replicas = control.replicas("synthetic").await;
    replicas
        .iter()
        .filter(|replica| replica["state"] == "ready")
        .count()
}

/// Waits until all replicas are attached to both query frontends.
async fn attached_to_both(control: &TestCluster) {
    until(
        "all replicas to be attached to both frontends",
        PATIENCE,
        async || {
            let replicas = control.replicas("synthetic").await;
            let both = |replica: &Value| {
                replica["frontends"]
                    .as_array()
                    .is_some_and(|seen| seen.len() == 2)
            };
            replicas.len() == REPLICAS as usize
                && replicas.iter().all(|one| one["state"] == "ready" && both(one))
        },
    )
    .await;
}

async fn redis_is_killed_under_load_and_no_query_notices() {
    let mut cluster = serving().await;
    let running = cluster.offer(load());
    running.more(SOME).await;
    cluster.redis.kill();
    for frontend in &cluster.query {
        until("the loss to be noticed", PATIENCE, async || {
            frontend.queries().get("/readyz").await.json()["degraded"] == json!(["store"])
        })
        .await;
    }
    // Longer than announcements live: nobody may be forgotten for a store's sake.
    tokio::time::sleep(Duration::from_secs(7)).await;
    running.more(SOME).await;
    cluster.redis.start_again().await;
    let admin = cluster.control.admin();
    until("an admin write to be taken", PATIENCE, async || {
        let body = json!({ "default_output": "unknown" }).to_string();
        let written = admin.send(reqwest::Method::PATCH, "/api/v1/applications/digests", body);
        written.await.is_ok_and(|reply| reply.status == 200)
    })
    .await;
    attached_to_both(&cluster.control).await;
    running.more(SOME).await;
    assert_no_default(&running.finish().await);
}

async fn a_killed_query_frontend_is_nothing_to_clients_of_the_other() {
    let mut cluster = serving().await;
    let of_the_other = load().start(cluster.query_addresses()[..1].to_vec());
    let of_both = cluster.offer(Load {
        per_second: 60.0,
        seed: 2,
        ..load()
    });
    of_the_other.more(SOME).await;
    of_both.disturb(1);
    cluster.query[1].kill();
    of_the_other.more(SOME).await;
    cluster.query[1].restart().await;
    answers(&cluster.query[1].queries(), "digests").await;
    of_both.calm(1, cluster.query_addresses()[1]);
    attached_to_both(&cluster.control).await;
    of_the_other.more(SOME).await;
    assert_no_default(&of_the_other.finish().await);
    of_both.finish().await.assert_right();
}

async fn set_version(control: &TestCluster, version: &str) {
    let body = json!({ "version": version });
    let path = "/api/v1/models/synthetic/current-version";
    control.admin().put(path, body).await.expect(200);
}

/// Waits until no change of versions is under way, and this one answers.
async fn moved(control: &TestCluster, version: &str) {
    until("the traffic to have moved", PATIENCE, async || {
        let model = control.admin().get("/api/v1/models/synthetic").await.expect(200);
        model["current_version"] == version && model["rollout"].is_null()
    })
    .await;
}

async fn twenty_switches_of_versions_give_no_default() {
    let cluster = serving().await;
    let control = &cluster.control;
    let running = cluster.offer(load());
    running.more(SOME).await;
    // The first of them has to wait for its replicas.
    control
        .deploy(&digests(Deployment::synthetic()).named("synthetic", "2"))
        .await;
    moved(control, "2").await;
    for round in 0..20 {
        set_version(control, ["1", "2"][round % 2]).await;
        running.more(20).await;
    }
    moved(control, "2").await;
    assert_no_default(&running.finish().await);
}

async fn a_version_that_never_becomes_ready_leaves_the_old_one_answering() {
    let cluster = serving().await;
    let control = &cluster.control;
    let running = cluster.offer(load());
    running.more(SOME).await;
    let broken = digests(Deployment::synthetic())
        .named("synthetic", "2")
        .env("SYNTHETIC_FIXED_MICROS", "soon");
    control.deploy(&broken).await;
    let failure = find("its failure to be told", PATIENCE, async || {
        let version = control.version("synthetic", "2").await;
        Some(version["last_failure"].clone()).filter(Value::is_object)
    })
    .await;
    assert!(
        failure["log"].to_string().contains("SYNTHETIC_FIXED_MICROS"),
        "{failure}"
    );
    running.more(SOME).await;
    set_version(control, "1").await;
    moved(control, "1").await;
    assert_no_default(&running.finish().await);
}

/// Two query frontends, two candidates for the control role, three replicas, all in containers.
async fn contained() -> ContainedCluster {
    let mut cluster = ContainedCluster::start(Size { query: 2, control: 2 }).await;
    let deployment = Deployment::of_image("synthetic", image("synthetic").await);
    cluster.serve(&load(), &digests(deployment)).await;
    cluster.healed(REPLICAS as usize).await;
    cluster
}

async fn in_docker_a_killed_replica_is_replaced_and_its_queries_go_to_others() {
    let mut cluster = contained().await;
    let running = cluster.offer(load()).await;
    running.more(SOME).await;
    let killed = cluster.replicas().await.remove(0);
    cluster.kill(&killed.name).await;
    cluster.healed(REPLICAS as usize).await;
    let now = cluster.replicas().await;
    assert!(now.iter().all(|replica| replica.id != killed.id), "{now:?}");
    running.more(SOME).await;
    assert_no_default(&running.finish().await);
}

/// Waits until neither frontend sends anything to a replica.
async fn left_out(cluster: &mut ContainedCluster, place: usize) {
    let replica = cluster.replicas().await.remove(place);
    until("it to be left out", PATIENCE, async || {
        let views = cluster.views().await;
        let mut newest = cluster
            .query()
            .iter()
            .filter_map(|frontend| newest(&views, frontend));
        !newest.any(|view| sees(view, &replica))
    })
    .await;
}

async fn in_docker_a_stopped_replica_is_left_out_and_comes_back() {
    let mut cluster = contained().await;
    let running = cluster.offer(load()).await;
    running.more(SOME).await;
    let stopped = cluster.replicas().await.remove(0);
    cluster.signal(&stopped.name, "SIGSTOP").await;
    left_out(&mut cluster, 0).await;
    running.more(SOME).await;
    cluster.signal(&stopped.name, "SIGCONT").await;
    cluster.healed(REPLICAS as usize).await;
    running.more(SOME).await;
    assert_no_default(&running.finish().await);
}

async fn in_docker_a_replica_that_is_cut_off_is_left_out_and_comes_back() {
    let mut cluster = contained().await;
    let running = cluster.offer(load()).await;
    running.more(SOME).await;
    let lost = cluster.replicas().await.remove(0);
    cluster.cut(&lost.name).await;
    left_out(&mut cluster, 0).await;
    running.more(SOME).await;
    cluster.mend(&lost.name).await;
    cluster.healed(REPLICAS as usize).await;
    running.more(SOME).await;
    assert_no_default(&running.finish().await);
}

async fn scale(cluster: &ContainedCluster, through: usize, count: u32) {
    let path = "/api/v1/models/synthetic/versions/1/replicas";
    let admin = cluster.admin(through).await;
    admin.put(path, json!({ "count": count })).await.expect(200);
}

async fn when_the_acting_control_role_is_killed_another_acts() {
    let mut cluster = contained().await;
    let running = cluster.offer(load()).await;
    let acting = cluster.acting().await.expect("one acts");
    let other = 1 - acting;
    let killed = cluster.control()[acting].clone();
    cluster.kill(&killed).await;
    // Any candidate takes admin requests; the one that acts carries them out.
    scale(&cluster, other, REPLICAS + 1).await;
    until("one more replica", PATIENCE, async || {
        cluster.replicas().await.len() == REPLICAS as usize + 1
    })
    .await;
    assert_eq!(cluster.acting().await, Some(other));
    cluster.start_again(&killed).await;
    cluster.healed(REPLICAS as usize + 1).await;
    assert_eq!(
        cluster.acting().await,
        Some(other),
        "nobody takes it from the one that acts"
    );
    assert_no_default(&running.finish().await);
}

async fn a_control_role_that_slept_changes_nothing_when_it_wakes_up() {
    let mut cluster = contained().await;
    let running = cluster.offer(load()).await;
    let slept = cluster.acting().await.expect("one acts");
    let other = 1 - slept;
    let container = cluster.control()[slept].clone();
    cluster.signal(&container, "SIGSTOP").await;
    until("another to act", PATIENCE, async || {
        cluster.acting().await == Some(other)
    })
    .await;
    // What it would do by what it knew: start a third replica again.
    scale(&cluster, other, REPLICAS - 1).await;
    until("the third replica to be gone", PATIENCE, async || {
        cluster.replicas().await.len() == REPLICAS as usize - 1
    })
    .await;
    let before = cluster.replicas().await;
    cluster.signal(&container, "SIGCONT").await;
    cluster.control_ready(slept).await;
    // By then it has followed what was written while it slept, and is no longer about to act on anything else.
    let admin = cluster.admin(slept).await;
    until("it to know what was written", PATIENCE, async || {
        let version = admin.get("/api/v1/models/synthetic/versions/1").await.expect(200);
        version["replicas_desired"] == REPLICAS - 1
    })
    .await;
    cluster.healed(REPLICAS as usize - 1).await;
    assert_eq!(cluster.acting().await, Some(other));
    assert_eq!(cluster.replicas().await, before, "it started and stopped nothing");
    // What a person asks of it is written all the same.
    writable(&admin).await;
    assert!(can_write(&cluster.admin(other).await).await);
    assert_no_default(&running.finish().await);
}

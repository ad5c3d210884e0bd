//! An idle cluster is idle: nothing polls.

use std::time::Duration;

use serde_json::json;
use skysail_tests::cases;
use skysail_tests::cluster::TestCluster;
use skysail_tests::deployment::Deployment;
use skysail_tests::program::{children_of, stat};

cases! {
    after_a_query_of_a_long_objective_nobody_is_busy;
}

/// How long processor time is counted. This is what is measured, and nothing that is waited for.
const WINDOW: Duration = Duration::from_secs(2);

/// Processor time in the window that still counts as idle, in ticks of 10 ms: a loop that spins takes 200 of
/// them, or a third of that beside two other tests; timers and HTTP/2 keep-alive take one or two.
const IDLE_TICKS: u64 = 20;

async fn after_a_query_of_a_long_objective_nobody_is_busy() {
    let cluster = TestCluster::start().await;
    cluster
        .serve_within(
            "app",
            &Deployment::of("noop").replicas(2),
            Duration::from_secs(60),
        )
        .await;
    assert_eq!(cluster.predict("app", json!([1.0])).await, 0);
    let mut processes = children_of(cluster.pid());
    processes.push(cluster.pid());
    assert_eq!(processes.len(), 3);
    let used = || {
        processes
            .iter()
            .map(|pid| stat(*pid).expect("it runs").ticks)
            .sum::<u64>()
    };
    let before = used();
    tokio::time::sleep(WINDOW).await;
    let ticks = used() - before;
    assert!(ticks < IDLE_TICKS, "{ticks} ticks in {WINDOW:?}");
}

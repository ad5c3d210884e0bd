//! Processes that containers leave behind, where the frontend is who must bury them.

use serde_json::json;
use skysail_tests::cases;
use skysail_tests::cluster::Settings;
use skysail_tests::deployment::Deployment;
use skysail_tests::program::zombies_of;
use skysail_tests::wait::{PATIENCE, until};

cases! {
    orphans_are_reaped_and_replicas_keep_their_exit_codes;
}

const TEST_CONTAINER: &str = env!("CARGO_BIN_EXE_test-container");

/// What becomes of processes whose parent ended is the same for process 1 and for a subreaper, which needs no
/// privileges.
async fn orphans_are_reaped_and_replicas_keep_their_exit_codes() {
    let cluster = Settings::default()
        .through(&[TEST_CONTAINER, "as-subreaper"])
        .start()
        .await;
    cluster.serve("app", &Deployment::of("noop")).await;
    let scripts = [
        ("orphaning", "orphans 1000\nprint left behind\nwait"),
        ("failing", "exit 7"),
    ];
    for (model, script) in scripts {
        let deployment = Deployment::of_image(model, TEST_CONTAINER).env("TEST_SCRIPT", script);
        cluster.deploy(&deployment).await;
    }
    let log = "/api/v1/models/orphaning/versions/1/logs?tail=10";
    let mut restarts = 0;
    until(
        "the orphans to come, and a replica to fail meanwhile",
        PATIENCE * 2,
        async || {
            let failing = cluster.version("failing", "1").await;
            if !failing["last_failure"].is_null() {
                assert_eq!(failing["last_failure"]["exit_code"], 7, "{failing}");
            }
            restarts = failing["restarts"].as_u64().unwrap_or_default();
            restarts >= 3 && cluster.admin().get(log).await.text.contains("left behind")
        },
    )
    .await;
    let pid = cluster.pid();
    until("the orphans to be reaped", PATIENCE, async || {
        zombies_of(pid).is_empty()
    })
    .await;
    assert_eq!(cluster.version("orphaning", "1").await["restarts"], 0);
    assert_eq!(cluster.predict("app", json!([1.0])).await, 0);
}

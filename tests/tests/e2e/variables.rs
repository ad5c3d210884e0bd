//! Variables of the environment that are set but empty count as not set.

use skysail_tests::cases;
use skysail_tests::cluster::{Runtime, Settings};
use skysail_tests::deployment::{ByHand, Deployment};
use skysail_tests::skysail::Skysail;
use skysail_tests::wait::{PATIENCE, until};

use std::process::Command;

use serde_json::json;
use skysail_tests::binaries;

cases! {
    a_frontend_takes_empty_variables_for_none;
    the_command_takes_empty_variables_for_none;
    a_container_takes_empty_variables_for_none;
    an_empty_docker_host_is_the_local_engine: Docker;
}

/// The variables that a program reads, by its own word.
fn variables_of(program: &str) -> Vec<String> {
    let said = Command::new(binaries::path(program)).arg("--help").output();
    let help = String::from_utf8(said.expect("it says something").stdout).expect("text");
    let named = help.split("[env: ").skip(1);
    named
        .map(|rest| rest.split(['=', ']']).next().unwrap_or_default().to_owned())
        .collect()
}

async fn a_frontend_takes_empty_variables_for_none() {
    let variables = variables_of("skysail-frontend");
    assert!(
        variables.iter().any(|name| name == "SKYSAIL_CONFIG"),
        "{variables:?}"
    );
    for empty in ["", " "] {
        let settings = variables
            .iter()
            .fold(Settings::default(), |settings, name| settings.env(name, empty));
        let cluster = settings.env("DOCKER_HOST", empty).start().await;
        cluster.serve("app", &Deployment::of("noop")).await;
        assert_eq!(cluster.predict("app", json!([1.0])).await, 0);
    }
}

async fn the_command_takes_empty_variables_for_none() {
    let variables = variables_of("skysail");
    assert!(
        variables.iter().any(|name| name == "SKYSAIL_ADMIN_URL"),
        "{variables:?}"
    );
    let cluster = Settings::default().runtime(Runtime::None).start().await;
    let skysail = variables
        .iter()
        .fold(Skysail::default(), |skysail, name| skysail.env(name, ""));
    let admin = cluster.addresses().admin;
    let shown = skysail.done(&format!("status --admin-url {admin}")).await;
    assert!(shown.contains("All is well"), "{shown}");
    // The default is what is asked then, whoever answers there.
    let said = skysail.say("status").await;
    assert_ne!(said.code, Some(2), "{said:?}");
}

async fn a_container_takes_empty_variables_for_none() {
    let cluster = Settings::default().runtime(Runtime::None).start().await;
    cluster.register_model("model", "doubles").await;
    let container = [
        "RUST_LOG",
        "SKYSAIL_REPLICA_ID",
        "SKYSAIL_MAX_BATCH",
        "SKYSAIL_WARM_UP",
        "SYNTHETIC_MODE",
    ]
    .iter()
    .fold(ByHand::of("synthetic", "model", "unnamed"), |container, name| {
        container.env(name, "")
    });
    let container = cluster.by_hand(&container);
    cluster.attached("model", 1).await;
    container.log().line("serving").await;
}

async fn an_empty_docker_host_is_the_local_engine() {
    let name = format!("test-{:08x}", fastrand::u32(..));
    let skysail = Skysail::default().env("DOCKER_HOST", "");
    skysail.done(&format!("stop --cluster {name}")).await;
    let cluster = Settings::default()
        .runtime(Runtime::Docker)
        .cluster(&name)
        .env("DOCKER_HOST", "")
        .start()
        .await;
    until("the engine to be seen", PATIENCE, async || {
        let status = cluster.admin().get("/api/v1/status").await.expect(200);
        status["runtime"]["up"] == true
    })
    .await;
    drop(cluster);
    // What the frontend made for its containers goes, too.
    skysail.done(&format!("stop --cluster {name}")).await;
}

use std::panic::panic_any;
use std::time::Duration;

use futures::FutureExt;
use tempfile::TempDir;
use tokio::time::timeout;

use super::*;
use crate::config::Roles;

/// A bound far above the time that a frontend takes to end.
const BOUND: Duration = Duration::from_secs(60);

/// An idle frontend with both roles, at ports of its own.
async fn app(folder: &TempDir) -> App {
    app_on(StoreLocation::Embedded(folder.path().join("metadata.redb"))).await
}

async fn app_on(store: StoreLocation) -> App {
    let free: SocketAddr = ([127, 0, 0, 1], 0).into();
    let config = Config {
        store,
        query_addr: free,
        admin_addr: free,
        ops_addr: Some(free),
        rpc_addr: free,
        grace: Duration::from_millis(200),
        ..Config::default()
    };
    let built = App::build(config).await;
    built.unwrap_or_else(|error| panic!("{error}"))
}

fn names(app: &App) -> Vec<&'static str> {
    app.parts.iter().map(|part| part.name).collect()
}

/// Runs a frontend in which the part `name` runs `instead`; returns how the frontend ended.
async fn run_with(name: &str, instead: impl Future<Output = ()> + Send + 'static) -> Result<(), PartEnded> {
    let folder = tempfile::tempdir().unwrap();
    ended_with(app(&folder).await, name, instead).await
}

async fn ended_with(
    mut app: App,
    name: &str,
    instead: impl Future<Output = ()> + Send + 'static,
) -> Result<(), PartEnded> {
    let part = app.parts.iter_mut().find(|part| part.name == name);
    part.unwrap().task = instead.boxed();
    let ended = timeout(BOUND, app.run(CancellationToken::new())).await;
    ended.unwrap_or_else(|_| panic!("the frontend went on without its {name}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn every_part_that_ends_takes_the_frontend_down_and_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let names = names(&app(&folder).await);
    for server in [
        "query server",
        "admin server",
        "operations server",
        "leadership",
        "announcer",
    ] {
        assert!(names.contains(&server), "{server} is not watched: {names:?}");
    }
    for name in names {
        let ended = run_with(name, async {}).await.unwrap_err();
        assert_eq!(ended.to_string(), PartEnded(name).to_string());
    }
}

/// A Redis that is away: nothing listens on port 1.
fn redis() -> StoreLocation {
    StoreLocation::Redis("redis://127.0.0.1:1/0".into())
}

#[tokio::test(flavor = "multi_thread")]
async fn on_redis_the_follower_of_the_store_is_a_part_like_the_others() {
    let on_redis = app_on(redis()).await;
    let mut expected = names(&app(&tempfile::tempdir().unwrap()).await);
    expected.push("store follower");
    let mut found = names(&on_redis);
    expected.sort_unstable();
    found.sort_unstable();
    assert_eq!(found, expected);
    let ended = ended_with(on_redis, "store follower", async {})
        .await
        .unwrap_err();
    assert_eq!(ended.to_string(), PartEnded("store follower").to_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frontend_without_its_redis_ends_in_order_when_it_is_told_to() {
    let shutdown = CancellationToken::new();
    let running = tokio::spawn(app_on(redis()).await.run(shutdown.clone()));
    shutdown.cancel();
    let ended = timeout(BOUND, running).await.expect("it ends").unwrap();
    ended.expect("no part ended before");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_that_panics_takes_the_frontend_down_and_is_named() {
    let ended = run_with("reconciler", async { panic_any("a defect") }).await;
    assert!(ended.unwrap_err().to_string().contains("reconciler"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frontend_that_is_told_to_end_ends_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let shutdown = CancellationToken::new();
    shutdown.cancel();
    let ended = timeout(BOUND, app(&folder).await.run(shutdown)).await;
    ended.expect("it ends").expect("no part ended before");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_control_role_there_are_no_parts_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let free: SocketAddr = ([127, 0, 0, 1], 0).into();
    let config = Config {
        store: StoreLocation::Embedded(folder.path().join("metadata.redb")),
        roles: Roles {
            query: true,
            control: false,
        },
        query_addr: free,
        ops_addr: Some(free),
        rpc_addr: free,
        ..Config::default()
    };
    let app = App::build(config).await.unwrap_or_else(|error| panic!("{error}"));
    let names = names(&app);
    assert!(names.contains(&"operations server"), "{names:?}");
    for name in ["admin server", "leadership", "reconciler", "autoscaler"] {
        assert!(!names.contains(&name), "{name}");
    }
}

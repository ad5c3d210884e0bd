//! Docker's stream of events: what tells the reconciler to look again.
//!
//! Events only say that something may have changed; what did is for `list` to say. So one that is lost
//! between two connections does no harm, as long as every connection begins with a look.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bollard::Docker;
use bollard::models::EventMessage;
use bollard::query_parameters::{EventsOptions, EventsOptionsBuilder, InspectContainerOptions};
use futures::TryStreamExt;
use jiff::{SignedDuration, Timestamp};
use skysail_core::backoff::Backoff;
use skysail_proto::ids::ClusterName;
use skysail_proto::labels;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::ends::Ends;
use super::engine::Engine;

/// The changes of state a container can make by itself, or that others can make to it.
const EVENTS: [&str; 6] = ["die", "destroy", "kill", "oom", "pause", "unpause"];

/// How much of the past a new stream repeats: enough for what happens between the look and the stream's
/// beginning, and for clocks that differ a little.
const OVERLAP: SignedDuration = SignedDuration::from_secs(5);

/// How long cleaning up after one container may keep the others' events waiting.
const SETTLING: Duration = Duration::from_secs(10);

/// Pauses between connections that fail.
const BACKOFF: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(10));

/// A stream that held this long was a good one.
const LASTING: Duration = Duration::from_secs(30);

/// Notifies `changes` at every event of the cluster's replicas, and once at every connection. Never ends.
/// What explains an end is kept in `ends`.
pub(super) async fn follow(engine: Arc<Engine>, cluster: ClusterName, changes: Arc<Notify>, ends: Arc<Ends>) {
    let mut backoff = BACKOFF;
    let mut away = false;
    loop {
        let begun = Instant::now();
        let since = Timestamp::now() - OVERLAP;
        match engine.ping().await {
            Ok(docker) => {
                if std::mem::take(&mut away) {
                    tracing::info!("docker is back");
                }
                changes.notify_one();
                notify_of_events(docker, options(&cluster, since), &changes, &ends).await;
            }
            Err(error) if !away => {
                tracing::warn!(%error, "docker cannot be reached; trying again");
                away = true;
            }
            Err(_) => {}
        }
        if begun.elapsed() > LASTING {
            backoff.reset();
        }
        tokio::time::sleep(backoff.pause()).await;
    }
}

async fn notify_of_events(docker: &Docker, options: EventsOptions, changes: &Notify, ends: &Ends) {
    let events = docker.events(Some(options));
    let ended = events.try_for_each(|event| async {
        if ends.note(&event) {
            return Ok(());
        }
        settle(docker, event).await;
        changes.notify_one();
        Ok(())
    });
    if let Err(error) = ended.await {
        tracing::debug!(%error, "docker's events broke off");
    }
}

/// Waits until the engine's list shows what the event tells of.
///
/// The engine tells of an end first and then cleans up, and only after that does its list show the end:
/// whoever looked at once would see a running container and not be woken again. It holds the container's
/// lock for all of that, and an inspection waits for the lock. The answer itself does not matter.
async fn settle(docker: &Docker, event: EventMessage) {
    let Some(container) = event.actor.and_then(|actor| actor.id) else {
        return;
    };
    let inspected = docker.inspect_container(&container, None::<InspectContainerOptions>);
    let _ = tokio::time::timeout(SETTLING, inspected).await;
}

fn options(cluster: &ClusterName, since: Timestamp) -> EventsOptions {
    let ours = format!("{}={cluster}", labels::CLUSTER);
    let replicas = format!("{}={}", labels::ROLE, labels::ROLE_REPLICA);
    let filters = HashMap::from([
        ("type", vec!["container".to_owned()]),
        ("label", vec![ours, replicas]),
        ("event", EVENTS.map(str::to_owned).to_vec()),
    ]);
    EventsOptionsBuilder::new()
        .since(&since.as_second().to_string())
        .filters(&filters)
        .build()
}

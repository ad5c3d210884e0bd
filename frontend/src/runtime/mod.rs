//! The container runtime: what starts and stops model containers.
//!
//! One trait, two implementations, one list of promises that both are held to (`conformance`, behind the
//! feature of that name, for tests).

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::BoxStream;
pub use skysail_core::reconcile::{ContainerState, ContainerStatus, ReplicaSpec, Resolution};
use skysail_proto::ids::{ClusterName, ReplicaId};
use skysail_proto::labels;
use tokio::sync::Notify;

#[cfg(feature = "conformance")]
pub mod conformance;
pub mod docker;
mod exit;
mod intake;
mod lines;
pub mod process;

/// Starts, stops and lists the containers of one cluster.
#[async_trait]
pub trait ContainerRuntime: Send + Sync + 'static {
    /// Finds out what the names in a specification mean now: its image, which is fetched if it is not there, and the
    /// files it is made of.
    async fn resolve(&self, spec: &ReplicaSpec, progress: &Progress) -> Result<Resolution, RuntimeError>;

    /// Whether those names mean something else by now than the specification says, in a sentence. Fetches nothing.
    async fn moved_on(&self, spec: &ReplicaSpec) -> Result<Option<String>, RuntimeError>;

    /// Starts a container, unless one of that name already runs. What the specification says that its names mean is
    /// what runs, or nothing.
    ///
    /// Returns once it runs; it may still exit at once. `progress` is told in words what takes long (an
    /// image being pulled). An error that trying again cannot mend says so.
    async fn start(&self, spec: &ReplicaSpec, progress: &Progress) -> Result<(), RuntimeError>;

    /// Asks a container to end, makes it end after `grace`, and removes it with all that the runtime kept
    /// of it. Removes one that has exited; one that does not exist is no error.
    async fn stop(&self, container: &str, grace: Duration) -> Result<(), RuntimeError>;

    /// All containers of replicas that carry this cluster's name, running or exited; also those of other stores.
    async fn list(&self) -> Result<Vec<ContainerStatus>, RuntimeError>;

    /// The last `tail` lines of what a container printed (stdout and stderr), and if `follow`, the lines
    /// that come, until it ends. Where the tail begins is decided when the stream is first polled.
    async fn logs(
        &self,
        container: &str,
        tail: usize,
        follow: bool,
    ) -> Result<BoxStream<'static, String>, RuntimeError>;

    /// The name of a replica's container. The same for the same replica, so that starting twice starts once, and no
    /// other's: of this cluster or another.
    fn container_name(&self, cluster: &ClusterName, replica: &ReplicaId) -> String {
        labels::replica_container(cluster, replica)
    }

    /// Notified (`notify_one`) whenever a container may have changed state by itself.
    fn changes(&self) -> Arc<Notify>;

    /// The address at which containers reach this host, if they cannot reach its loopback addresses.
    async fn gateway(&self) -> Result<Option<IpAddr>, RuntimeError> {
        Ok(None)
    }

    /// The frontend ends: ends what cannot live without it, within `grace`. `is_last` if no other frontend of the cluster
    /// is left; then what only frontends need is removed.
    async fn shutdown(&self, grace: Duration, is_last: bool) -> Result<(), RuntimeError>;
}

/// Hears in words what a start is waiting for.
pub type Progress = dyn Fn(&str) + Send + Sync;

/// Why the runtime did not do as asked.
#[derive(Clone, Debug, thiserror::Error)]
pub enum RuntimeError {
    /// The runtime itself cannot be reached.
    #[error("the container runtime cannot be reached: {0}")]
    Unavailable(String),
    /// The image or executable cannot be had; trying again as it is will not help.
    #[error("{0}")]
    Image(String),
    /// A container of another store has the name: the next look shows it, and another name is chosen.
    #[error("{0}")]
    NameTaken(String),
    /// The container could not be created, started or stopped.
    #[error("{0}")]
    Container(String),
}

/// What a start comes to that finds its container running: nothing to do, or a refusal if it was started
/// with something else. Replacing is the caller's decision, who knows when the old one may go.
fn same_or_refuse(spec: &ReplicaSpec, running_digest: &str) -> Result<(), RuntimeError> {
    if spec.digest == running_digest {
        return Ok(());
    }
    Err(RuntimeError::Container(format!(
        "container `{}` already runs with another specification: stop it first",
        spec.container
    )))
}

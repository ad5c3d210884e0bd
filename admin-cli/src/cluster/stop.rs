//! Removing a cluster: everything that carries its label, and nothing else.

use std::time::Duration;

use futures::future::join_all;
use skysail_proto::ids::ClusterName;
use skysail_proto::labels;

use super::ClusterError;
use super::engine::{Container, Engine};
use super::start::local_url;
use crate::advice::listed;
use crate::credentials::{Credentials, CredentialsError};
use crate::progress::Progress;

/// How long a container may take to answer what it holds before it is killed.
const GRACE: Duration = Duration::from_secs(15);

/// What becomes of the volume with the metadata.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum VolumeRule {
    /// It is removed, unless the cluster was started with `--keep-data`.
    AsStarted,
    /// It stays.
    Keep,
}

/// What a stop did.
#[derive(Debug, Default, serde::Serialize)]
pub(crate) struct Removed {
    pub(crate) containers: Vec<String>,
    pub(crate) networks: Vec<String>,
    pub(crate) volumes: Vec<String>,
    /// Volumes that were left.
    pub(crate) kept_volumes: Vec<String>,
}

impl Removed {
    /// Whether there was nothing to stop.
    pub(crate) fn is_empty(&self) -> bool {
        self.containers.is_empty() && self.networks.is_empty() && self.volumes.is_empty()
    }
}

/// Stops and removes a cluster.
pub(crate) async fn stop(
    engine: &Engine,
    cluster: &ClusterName,
    rule: VolumeRule,
    progress: &mut Progress,
) -> Result<Removed, ClusterError> {
    let containers = engine.containers(cluster).await?;
    let keeps_data = rule == VolumeRule::Keep || containers.iter().any(|container| container.keeps_data);
    if !containers.is_empty() {
        let names: Vec<_> = containers
            .iter()
            .map(|container| container.name.as_str())
            .collect();
        progress.say(&format!("stopping cluster {cluster}: {}", listed(&names)), None);
    }
    let tokens: Vec<_> = containers
        .iter()
        .filter_map(|container| Some((container.admin_port?, container.token_fingerprint.clone()?)))
        .collect();
    let mut removed = Removed {
        containers: remove_containers(engine, cluster, |_| true, GRACE).await?,
        ..Removed::default()
    };
    for (port, fingerprint) in tokens {
        forget_token(port, &fingerprint)?;
    }
    removed.networks = remove_networks(engine, cluster).await?;
    let volumes = engine.volumes(cluster).await?;
    if keeps_data {
        removed.kept_volumes = volumes;
        return Ok(removed);
    }
    for volume in &volumes {
        engine.remove_volume(volume).await?;
    }
    removed.volumes = volumes;
    Ok(removed)
}

/// Stops and removes those of a cluster's containers that are `chosen`. The frontends go first, because
/// they would replace the replicas that stop; the rest then goes all at once.
pub(super) async fn remove_containers(
    engine: &Engine,
    cluster: &ClusterName,
    chosen: impl Fn(&Container) -> bool,
    grace: Duration,
) -> Result<Vec<String>, ClusterError> {
    let mut names = Vec::new();
    let is_frontend = |container: &Container| container.role == labels::ROLE_FRONTEND;
    let frontends = containers(engine, cluster, |one| chosen(one) && is_frontend(one)).await?;
    names.extend(remove_all(engine, frontends, grace).await?);
    // Looked at again: until its end a frontend may have started another replica.
    let rest = containers(engine, cluster, chosen).await?;
    names.extend(remove_all(engine, rest, grace).await?);
    Ok(names)
}

async fn containers(
    engine: &Engine,
    cluster: &ClusterName,
    chosen: impl Fn(&Container) -> bool,
) -> Result<Vec<Container>, ClusterError> {
    let all = engine.containers(cluster).await?;
    Ok(all.into_iter().filter(chosen).collect())
}

/// Removes all that can be removed, then tells the first that could not.
async fn remove_all(
    engine: &Engine,
    containers: Vec<Container>,
    grace: Duration,
) -> Result<Vec<String>, ClusterError> {
    let removals = containers
        .iter()
        .map(|container| engine.remove_container(container, grace));
    let outcomes = join_all(removals).await;
    outcomes.into_iter().collect::<Result<Vec<()>, _>>()?;
    Ok(containers.into_iter().map(|container| container.name).collect())
}

/// The token that `skysail start` kept is worth nothing any more. Whoever stops another's cluster keeps none, and
/// may have no folder for any.
fn forget_token(admin_port: u16, fingerprint: &str) -> Result<(), ClusterError> {
    match Credentials::of_user() {
        Ok(kept) => Ok(kept.forget_one(&local_url(admin_port), fingerprint)?),
        Err(CredentialsError::NoFolder) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

async fn remove_networks(engine: &Engine, cluster: &ClusterName) -> Result<Vec<String>, ClusterError> {
    let networks = engine.networks(cluster).await?;
    for network in &networks {
        let members = engine.network_members(network).await?;
        if !members.is_empty() {
            return Err(ClusterError::NetworkUsed {
                network: network.name.clone(),
                by: listed(&members),
                cluster: cluster.clone(),
            });
        }
        engine.remove_network(&network.id).await?;
    }
    Ok(networks.into_iter().map(|network| network.name).collect())
}

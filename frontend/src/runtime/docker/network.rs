//! The cluster's bridge network.
//!
//! Old engines allow two networks of one name, so that two frontends that start together may each make
//! one. Both then agree on the older, the maker of the younger removes it, and containers join by id. While there are
//! two, an old engine starts no container in either: whoever wants to waits until the younger is gone.

use std::collections::HashMap;
use std::fs;
use std::net::IpAddr;
use std::time::Duration;

use bollard::Docker;
use bollard::errors::Error;
use bollard::models::{Network, NetworkCreateRequest};
use bollard::query_parameters::ListNetworksOptionsBuilder;
use jiff::Timestamp;
use skysail_proto::ids::ClusterName;
use skysail_proto::labels;

use super::engine::{refused, status_of};
use crate::runtime::RuntimeError;

/// How long others may take to see a network that was made, and to remove one that was made too late.
const SETTLING: Duration = Duration::from_millis(250);

/// How long two networks of one name are waited for to become one.
pub(super) const GIVES_WAY: Duration = Duration::from_secs(10);

/// The id of the cluster's network, which is made if it is not there.
pub(super) async fn ensure(docker: &Docker, cluster: &ClusterName) -> Result<String, RuntimeError> {
    ensure_network(docker, cluster).await.map(|ensured| ensured.id)
}

/// The host's own address in the cluster's network, and whether the network was made for that.
pub(super) async fn gateway(docker: &Docker, cluster: &ClusterName) -> Result<(IpAddr, bool), RuntimeError> {
    let Ensured { network, is_new, .. } = ensure_network(docker, cluster).await?;
    let gateway = gateway_of(&network).ok_or_else(|| {
        RuntimeError::Container(format!(
            "docker's network `{}` has no gateway: is it a bridge?",
            labels::network_name(cluster)
        ))
    })?;
    Ok((gateway, is_new))
}

/// The cluster's network.
struct Ensured {
    id: String,
    network: Network,
    /// Whether it was made here and now.
    is_new: bool,
}

async fn ensure_network(docker: &Docker, cluster: &ClusterName) -> Result<Ensured, RuntimeError> {
    if let Some((id, network)) = oldest(docker, cluster).await? {
        let is_new = false;
        return Ok(Ensured { id, network, is_new });
    }
    let made = create(docker, cluster).await?;
    // One whose making was begun before may be listed only after: with a second look all see the same.
    tokio::time::sleep(SETTLING).await;
    let Some((id, network)) = oldest(docker, cluster).await? else {
        return Err(RuntimeError::Container(format!(
            "docker has a network `{}` that does not belong to cluster `{cluster}`: remove it, or choose \
             another cluster name",
            labels::network_name(cluster)
        )));
    };
    let is_new = made.as_ref() == Some(&id);
    if made.is_some() && !is_new {
        agree(docker, cluster).await;
    }
    Ok(Ensured { id, network, is_new })
}

/// Whether the engine refuses because there are two networks of the name.
pub(super) fn is_ambiguous(error: &Error) -> bool {
    matches!(error, Error::DockerResponseServerError { message, .. } if message.contains("ambiguous"))
}

/// Removes all networks of the cluster but the one that is agreed on, as far as nothing is in them: whoever made
/// one may have ended before it could. Waits a moment, for whoever is about to do the same.
pub(super) async fn agree(docker: &Docker, cluster: &ClusterName) {
    tokio::time::sleep(SETTLING).await;
    // What fails here, whoever wants to start a container hears of.
    for (id, _) in all(docker, cluster).await.unwrap_or_default().into_iter().skip(1) {
        let _ = docker.remove_network(&id).await;
    }
}

/// Removes the cluster's network, if the engine finds nothing in it and nobody listens at its gateway: another
/// frontend would wait there for containers in vain.
pub(super) async fn leave(docker: &Docker, cluster: &ClusterName) -> Result<(), RuntimeError> {
    for (id, network) in all(docker, cluster).await? {
        if gateway_of(&network).is_some_and(is_listened_at) {
            continue;
        }
        match docker.remove_network(&id).await {
            Ok(()) => tracing::info!(network = labels::network_name(cluster), "network removed"),
            // Gone, or in use.
            Err(error) if matches!(status_of(&error), Some(403 | 404 | 409)) => {}
            Err(error) => return Err(refused("remove the network", &id, &error)),
        }
    }
    Ok(())
}

/// The cluster's network; the oldest, should there be two.
async fn oldest(docker: &Docker, cluster: &ClusterName) -> Result<Option<(String, Network)>, RuntimeError> {
    Ok(all(docker, cluster).await?.into_iter().next())
}

/// All networks of the cluster's name and label, the oldest first.
async fn all(docker: &Docker, cluster: &ClusterName) -> Result<Vec<(String, Network)>, RuntimeError> {
    let name = labels::network_name(cluster);
    let ours = format!("{}={cluster}", labels::CLUSTER);
    let filters = HashMap::from([("label", vec![ours]), ("name", vec![name.clone()])]);
    let options = ListNetworksOptionsBuilder::new().filters(&filters).build();
    let listed = docker
        .list_networks(Some(options))
        .await
        .map_err(|error| refused("list", &name, &error))?;
    let made_at = |network: &Network| network.created.as_ref()?.parse::<Timestamp>().ok();
    let mut networks: Vec<_> = listed
        .into_iter()
        // The engine's filter takes every name that contains this one.
        .filter(|network| network.name.as_ref() == Some(&name))
        .filter_map(|network| Some((network.id.clone()?, network)))
        .collect();
    networks.sort_by_key(|(id, network)| (made_at(network), id.clone()));
    Ok(networks)
}

/// Makes the network and gives its id; none if there is one of that name already.
async fn create(docker: &Docker, cluster: &ClusterName) -> Result<Option<String>, RuntimeError> {
    let name = labels::network_name(cluster);
    let request = NetworkCreateRequest {
        name: name.clone(),
        driver: Some("bridge".into()),
        labels: Some(HashMap::from([(labels::CLUSTER.into(), cluster.to_string())])),
        ..NetworkCreateRequest::default()
    };
    match docker.create_network(request).await {
        Ok(made) => Ok(Some(made.id)),
        Err(error) if status_of(&error) == Some(409) => Ok(None),
        Err(error) => Err(refused("create the network", &name, &error)),
    }
}

/// IPv4 where there is both: the frontend listens there.
fn gateway_of(network: &Network) -> Option<IpAddr> {
    let config = network.ipam.as_ref()?.config.as_ref()?;
    let gateways = config
        .iter()
        .filter_map(|part| part.gateway.as_ref()?.parse().ok());
    gateways.min_by_key(IpAddr::is_ipv6)
}

/// Whether a process of this machine listens at exactly this address.
fn is_listened_at(addr: IpAddr) -> bool {
    const LISTENING: &str = "0A";

    let IpAddr::V4(addr) = addr else { return false };
    // The kernel writes the four bytes as it writes a number of this machine.
    let written = format!("{:08X}:", u32::from_ne_bytes(addr.octets()));
    let sockets = fs::read_to_string("/proc/net/tcp").unwrap_or_default();
    sockets.lines().any(|socket| {
        let mut fields = socket.split_whitespace().skip(1);
        let local = fields.next().unwrap_or_default();
        local.starts_with(&written) && fields.nth(1) == Some(LISTENING)
    })
}

#[cfg(test)]
mod tests {
    use bollard::models::{Ipam, IpamConfig};

    use super::*;

    fn network(gateways: &[&str]) -> Network {
        let config = gateways.iter().map(|gateway| IpamConfig {
            gateway: (!gateway.is_empty()).then(|| (*gateway).to_owned()),
            ..IpamConfig::default()
        });
        Network {
            ipam: Some(Ipam {
                config: Some(config.collect()),
                ..Ipam::default()
            }),
            ..Network::default()
        }
    }

    #[test]
    fn who_listens_at_an_address_is_seen() {
        // One that nobody else uses; the kernel takes all of 127/8.
        let addr: IpAddr = "127.83.107.121".parse().unwrap();
        assert!(!is_listened_at(addr));
        let listener = std::net::TcpListener::bind((addr, 0)).unwrap();
        assert!(is_listened_at(addr));
        drop(listener);
        assert!(!is_listened_at(addr));
    }

    #[test]
    fn the_gateway_is_the_ipv4_one_where_there_is_one() {
        let v4 = Some("172.18.0.1".parse().unwrap());
        assert_eq!(gateway_of(&network(&["fd00::1", "", "172.18.0.1"])), v4);
        assert_eq!(
            gateway_of(&network(&["fd00::1"])),
            Some("fd00::1".parse().unwrap())
        );
        assert_eq!(gateway_of(&network(&[""])), None);
        assert_eq!(gateway_of(&Network::default()), None);
    }
}

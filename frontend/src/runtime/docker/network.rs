//! The cluster's bridge network.
//!
//! Old engines allow two networks of one name, so that two frontends that start together may each make
//! one. Both then agree on the older, the maker of the younger removes it, and containers join by id.

use std::collections::HashMap;
use std::net::IpAddr;

use bollard::Docker;
use bollard::models::{Network, NetworkCreateRequest};
use bollard::query_parameters::ListNetworksOptionsBuilder;
use jiff::Timestamp;
use skysail_proto::ids::ClusterName;
use skysail_proto::labels;

use super::engine::{refused, status_of};
use crate::runtime::RuntimeError;

/// The id of the cluster's network, which is made if it is not there.
pub(super) async fn ensure(docker: &Docker, cluster: &ClusterName) -> Result<String, RuntimeError> {
    ensure_network(docker, cluster).await.map(|(id, _)| id)
}

/// The host's own address in the cluster's network.
pub(super) async fn gateway(docker: &Docker, cluster: &ClusterName) -> Result<IpAddr, RuntimeError> {
    let (_, network) = ensure_network(docker, cluster).await?;
    gateway_of(&network).ok_or_else(|| {
        RuntimeError::Container(format!(
            "docker's network `{}` has no gateway: is it a bridge?",
            labels::network_name(cluster)
        ))
    })
}

async fn ensure_network(docker: &Docker, cluster: &ClusterName) -> Result<(String, Network), RuntimeError> {
    if let Some(network) = oldest(docker, cluster).await? {
        return Ok(network);
    }
    let made = create(docker, cluster).await?;
    let Some(network) = oldest(docker, cluster).await? else {
        return Err(RuntimeError::Container(format!(
            "docker has a network `{}` that does not belong to cluster `{cluster}`: remove it, or choose \
             another cluster name",
            labels::network_name(cluster)
        )));
    };
    if let Some(made) = made.filter(|made| *made != network.0) {
        // Failing here leaves a network that nothing uses and that `skysail stop` removes.
        let _ = docker.remove_network(&made).await;
    }
    Ok(network)
}

/// The cluster's network; the oldest, should there be two.
async fn oldest(docker: &Docker, cluster: &ClusterName) -> Result<Option<(String, Network)>, RuntimeError> {
    let name = labels::network_name(cluster);
    let ours = format!("{}={cluster}", labels::CLUSTER);
    let filters = HashMap::from([("label", vec![ours]), ("name", vec![name.clone()])]);
    let options = ListNetworksOptionsBuilder::new().filters(&filters).build();
    let listed = docker
        .list_networks(Some(options))
        .await
        .map_err(|error| refused("list", &name, &error))?;
    let made_at = |network: &Network| network.created.as_ref()?.parse::<Timestamp>().ok();
    Ok(listed
        .into_iter()
        // The engine's filter takes every name that contains this one.
        .filter(|network| network.name.as_ref() == Some(&name))
        .filter_map(|network| Some((network.id.clone()?, network)))
        .min_by_key(|(id, network)| (made_at(network), id.clone())))
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

//! The two networks of a cluster.
//!
//! `CLUSTER-network` is the one of model containers: they reach the frontends' container RPC on it, and it is the
//! way of published ports. `CLUSTER-private` is the one of Redis and the frontends. Nobody on the first reaches
//! Redis, neither by its name nor by its address: Docker's bridges are closed to each other. Engine 20.10 opens them
//! for some milliseconds whenever any network is made on the machine (it takes its rule out and puts it back at the
//! top); what holds then is Redis' password and the admin token.
//!
//! Which of the two networks of a frontend its published ports arrive through is Docker's choice: the one with a
//! way out whose name comes first. The private one has no way out, so that it is never that one.

use skysail_proto::ids::ClusterName;
use skysail_proto::labels;

use super::ClusterError;
use super::engine::{Engine, Network, Reach};
use super::start::{Made, name_taken};

/// The networks that the cluster's containers join.
#[derive(Clone, Debug)]
pub(super) struct Networks {
    /// The one of model containers and published ports, by its id.
    pub(super) model: String,
    /// Where the gateway of that one is, in its subnets: `172.18.0.1/16`.
    pub(super) gateways: Vec<String>,
    /// The one of Redis and the frontends, by its id.
    pub(super) private: String,
}

impl Networks {
    /// Finds them, or makes them.
    pub(super) async fn have(
        engine: &Engine,
        cluster: &ClusterName,
        made: &mut Made,
    ) -> Result<Self, ClusterError> {
        let name = labels::network_name(cluster);
        let model = have_network(engine, &name, Reach::World, cluster, made).await?;
        if model.gateways.is_empty() {
            return Err(ClusterError::Engine {
                doing: format!("use network {name}"),
                reason: "it has no gateway: is it a bridge?".into(),
            });
        }
        let name = labels::private_network_name(cluster);
        let private = have_network(engine, &name, Reach::Members, cluster, made).await?;
        Ok(Self {
            model: model.id,
            gateways: model.gateways,
            private: private.id,
        })
    }
}

/// The network of a name that the cluster's containers join.
///
/// Old engines let two starts make one each. Both then go on with the older, as frontends do, and the maker of
/// the younger removes it. Which of the two starts goes on to its end is decided by the first container's name.
async fn have_network(
    engine: &Engine,
    name: &str,
    reach: Reach,
    cluster: &ClusterName,
    made: &mut Made,
) -> Result<Network, ClusterError> {
    if let Some(network) = oldest(engine, name, cluster).await? {
        return Ok(network);
    }
    let created = engine.create_network(name, reach, cluster).await?;
    made.networks.extend(created.clone());
    let Some(network) = oldest(engine, name, cluster).await? else {
        return Err(ClusterError::StartedElsewhere(cluster.clone()));
    };
    if let Some(younger) = created.filter(|created| *created != network.id) {
        engine.remove_network(&younger).await?;
        made.networks.retain(|made| *made != younger);
    }
    Ok(network)
}

async fn oldest(engine: &Engine, name: &str, cluster: &ClusterName) -> Result<Option<Network>, ClusterError> {
    let networks = engine.networks_named(name, cluster).await?;
    if networks.iter().any(|network| !network.ours) {
        return Err(name_taken("network", name.to_owned(), cluster));
    }
    Ok(networks.into_iter().next())
}

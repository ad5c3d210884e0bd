//! What the frontends of a cluster tell each other: who is there, and what each sees.
//!
//! Each frontend announces a [`FrontendView`] in the metadata store, with a time to live, every second and
//! whenever something in it changes. All of them together are a [`ClusterView`]: by it frontends tell their
//! containers of new and gone frontends, and the control role decides.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use skysail_proto::admin::{BatchLimit, TimesFit};
use skysail_proto::ids::{ModelId, ModelName, ModelVersion, ReplicaId};
use skysail_proto::signature::Signature;

use crate::catalog::Generation;

#[cfg(test)]
pub(crate) mod testing;
mod view;

pub use view::{ClusterView, ContainersView, Trouble};

/// Query ids in a block: the store hands out blocks, and a frontend counts within one. A query's id belongs to the
/// block `id / QUERIES_PER_BLOCK`, so the announced blocks name the frontend that answered it.
///
/// With 2²⁷ blocks below 2⁵³, a new one every minute lasts two and a half centuries.
pub const QUERIES_PER_BLOCK: u64 = 1 << 26;

/// The right to act as the control role. Numbers only grow: a store refuses writes under an older one.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Lease {
    /// The frontend that has it.
    pub holder: String,
    /// Counts the changes of holder.
    pub number: u64,
}

/// What one frontend is and sees.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct FrontendView {
    /// Unique to one run of it.
    pub id: String,
    /// Skysail's version.
    pub version: String,
    /// Since when it runs.
    pub started_at: Timestamp,
    /// Query REST, with the query role.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub query_addr: Option<String>,
    /// Admin REST, with the control role.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub admin_addr: Option<String>,
    /// Probes and metrics.
    #[serde(default)]
    pub ops_addr: String,
    /// Where other frontends dial its operations listener to ask it something; none while that is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer_addr: Option<String>,
    /// The blocks of query ids that it gives out, see [`QUERIES_PER_BLOCK`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub query_blocks: Vec<u64>,
    /// Container RPC as containers dial it, with the query role.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rpc_addr: Option<String>,
    /// Whether its container RPC can be reached from its own machine only.
    #[serde(default)]
    pub rpc_is_local: bool,
    /// Whether it can start containers: it has the control role and a runtime.
    #[serde(default)]
    pub starts_containers: bool,
    /// The catalog that its queries are routed by.
    pub generation: Generation,
    /// The version of each model that answers here.
    #[serde(default)]
    pub serving: BTreeMap<ModelName, ModelVersion>,
    /// The replicas attached to it.
    #[serde(default)]
    pub replicas: Vec<ReplicaView>,
    /// Containers that hang, by their starts.
    #[serde(default)]
    pub hung: Vec<String>,
    /// What is asked of each version here.
    #[serde(default)]
    pub load: Vec<LoadView>,
    /// What its replicas told of versions that were registered without a signature.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub learned: Vec<LearnedView>,
    /// Whether it takes no new queries any more.
    #[serde(default)]
    pub draining: bool,
}

/// What a version's first replica at one frontend told of its model.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct LearnedView {
    /// Which version.
    pub model: ModelId,
    /// When it was registered. A version deleted and registered again has not learned this.
    pub registered_at: Timestamp,
    /// What it takes and gives.
    #[serde(flatten)]
    pub signature: Signature,
    /// What is known of it beyond that.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// An attached replica, as one frontend sees it.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct ReplicaView {
    /// Which.
    pub replica: ReplicaId,
    /// What it serves.
    pub model: ModelId,
    /// Which start of its container it is; empty for one started by hand.
    #[serde(default)]
    pub start: String,
    /// The host name it registered with.
    pub hostname: String,
    /// The process id it registered with.
    pub pid: u32,
    /// Where it dialled from.
    #[serde(default)]
    pub peer: String,
    /// When it attached.
    pub attached_at: Timestamp,
    /// Whether it takes no more work.
    pub draining: bool,
    /// Whether a batch in its hands is overdue: it is sent nothing until it answers.
    #[serde(default)]
    pub overdue: bool,
    /// Batches in its hands.
    pub in_flight: u32,
    /// Batches it answered to this frontend.
    pub batches: u64,
    /// Inputs it answered to this frontend.
    pub inputs: u64,
    /// Inputs it answered a second, lately.
    #[serde(default)]
    pub inputs_per_second: f64,
    /// What a batch of one input takes its model, as learned, in microseconds.
    #[serde(default)]
    pub fixed_micros: f64,
    /// What each further input adds, as learned, in microseconds.
    #[serde(default)]
    pub per_input_micros: f64,
    /// The 99th percentile of its last batches' model times, in microseconds.
    #[serde(default)]
    pub p99_micros: u64,
    /// What its batch times are expected by, and how well that fits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fit: Option<TimesFit>,
}

/// What is asked of one version at one frontend.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct LoadView {
    /// Which.
    pub model: ModelId,
    /// Queries a second, lately, that the model was needed for (hits of the cache are not among them).
    pub arrivals_per_second: f64,
    /// Queries that wait.
    pub queued: u64,
    /// The tightest latency objective of the applications it answers, in microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slo_micros: Option<u64>,
    /// A limit to the size of its batches that stands here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch_limit: Option<BatchLimit>,
}

impl FrontendView {
    /// Whether it has the query role: it takes queries and replicas until it drains, and answers what waits in it
    /// while it drains.
    pub fn is_query_frontend(&self) -> bool {
        self.rpc_addr.is_some()
    }

    /// Whether it takes new queries and new containers: a query frontend that does not drain.
    pub fn takes_queries(&self) -> bool {
        self.is_query_frontend() && !self.draining
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(id: &str, started_at: i64, rpc_addr: Option<&str>) -> FrontendView {
        FrontendView {
            id: id.to_owned(),
            started_at: Timestamp::from_second(started_at).unwrap(),
            rpc_addr: rpc_addr.map(str::to_owned),
            ..FrontendView::default()
        }
    }

    #[test]
    fn a_view_is_read_back_as_it_was_written_and_one_of_a_later_version_if_it_only_says_more() {
        let mut json = serde_json::to_value(view("a", 1, Some("a:1"))).unwrap();
        json["of_a_later_version"] = 1.into();
        let read: FrontendView = serde_json::from_value(json).unwrap();
        assert_eq!(read, view("a", 1, Some("a:1")));
    }
}

//! What the frontends of a cluster tell each other: who is there, and what each sees.
//!
//! Each frontend announces a [`FrontendView`] in the metadata store, with a time to live, every second and
//! whenever something in it changes. Frontends tell their containers of new and gone frontends by it; the
//! control role decides by all views together.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use skysail_proto::ids::{ModelId, ModelName, ModelVersion, ReplicaId};

use crate::catalog::Generation;

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
    /// Container RPC as containers dial it, with the query role.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rpc_addr: Option<String>,
    /// The catalog that its queries are routed by.
    pub generation: Generation,
    /// The version of each model that answers here.
    #[serde(default)]
    pub serving: BTreeMap<ModelName, ModelVersion>,
    /// The replicas attached to it.
    #[serde(default)]
    pub replicas: Vec<ReplicaView>,
    /// Containers that hang, by the token they registered with.
    #[serde(default)]
    pub hung: Vec<String>,
    /// What is asked of each version here.
    #[serde(default)]
    pub load: Vec<LoadView>,
    /// Whether it takes no new queries any more.
    #[serde(default)]
    pub draining: bool,
}

/// An attached replica, as one frontend sees it.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct ReplicaView {
    /// Which.
    pub replica: ReplicaId,
    /// What it serves.
    pub model: ModelId,
    /// What its container was given when it was started; empty for one started by hand.
    #[serde(default)]
    pub token: String,
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
}

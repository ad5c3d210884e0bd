//! Reconcile: from desired and observed state to the actions that bring them together.
//!
//! A pass observes, [`plan()`]s and applies, and takes no other input: whatever was interrupted, the next
//! pass finds and repairs. [`History`] remembers what no observation shows: how often a model failed, and
//! since when a container is without its stream.

use std::collections::{BTreeMap, BTreeSet};

use skysail_proto::ids::{ModelId, ReplicaId};
use skysail_proto::value::InputType;

mod history;
mod plan;
mod spec;

pub use history::{History, Patience};
pub use plan::{Action, Plan, StopReason, plan};
pub use spec::{Placement, replica_spec};

/// What there is.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    /// What the runtime has for this cluster.
    pub containers: Vec<ContainerStatus>,
    /// The replicas that are attached.
    pub attached: BTreeSet<ReplicaId>,
    /// Containers that an action is still at work on: left alone until it is done.
    pub busy: BTreeSet<String>,
}

/// Everything a container is started with.
#[derive(Clone, Debug, PartialEq)]
pub struct ReplicaSpec {
    /// Its name in the runtime: the same for the same place, so that starting twice starts once.
    pub container: String,
    /// The replica it will register as.
    pub replica: ReplicaId,
    /// What it serves.
    pub model: ModelId,
    /// What its inputs are.
    pub input_type: InputType,
    /// A Docker image, or the path of an executable.
    pub image: String,
    /// CPUs it may use.
    pub cpus: Option<f64>,
    /// GPUs it is given.
    pub gpus: Option<u32>,
    /// Memory it may use, in bytes.
    pub memory_bytes: Option<u64>,
    /// Its whole environment, the `SKYSAIL_…` variables included.
    pub env: BTreeMap<String, String>,
    /// A digest of all that a person asked for: [`ContainerStatus::spec_digest`] gives it back.
    pub digest: String,
}

/// A container as the runtime sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct ContainerStatus {
    /// Its name.
    pub container: String,
    /// The replica it runs.
    pub replica: ReplicaId,
    /// What it serves.
    pub model: ModelId,
    /// The digest it was started with.
    pub spec_digest: String,
    /// How it is.
    pub state: ContainerState,
    /// Its process id on this machine, with the process runtime while it runs.
    pub pid: Option<u32>,
}

/// How a container is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum ContainerState {
    /// Being created or running.
    Running,
    /// Ended, with what the runtime knows of it.
    Exited {
        /// Its exit code; a signal counts as 128 and its number.
        code: i64,
        /// In words, where the runtime says more ("killed: out of memory", "killed by signal 9").
        detail: Option<String>,
    },
}

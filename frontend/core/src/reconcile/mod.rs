//! Reconcile: from desired and observed state to the actions that bring them together.
//!
//! A pass observes, [`plan()`]s and applies, and takes no other input: the next pass finds and repairs any
//! interrupted work. [`History`] remembers what no single observation shows: the failures of a model, and since
//! when a container has no stream. [`finished`] ends rollouts. [`doubt()`] stops all of this while the catalog
//! itself may have lost something. Containers that were started for another store are [`Foreign`]. The meaning
//! of a version's names is written down before its first start ([`resolved`]), and the signature of a version that
//! was deployed without one once a replica has told it ([`learned`]).

use std::collections::{BTreeMap, BTreeSet};

use skysail_proto::deployment::Artifact;
use skysail_proto::ids::{ModelId, ReplicaId};
use skysail_proto::labels;
use skysail_proto::sha256::Sha256;

use crate::catalog::Secret;
use crate::container_token;

mod doubt;
mod foreign;
mod history;
mod learning;
mod plan;
mod resolution;
mod rollout;
mod spec;

pub use doubt::{Doubt, doubt};
pub use foreign::Foreign;
pub use history::{History, Patience};
pub use learning::learned;
pub use plan::{Action, Plan, StopReason, plan};
pub use resolution::{Resolution, resolved};
pub use rollout::finished;
pub use spec::{Placement, replica_spec};

/// How many containers of a version may run beyond the wanted number, so that a replacement can start before
/// the replaced container is stopped.
pub const SURGE: u32 = 1;

/// The observed state of one pass.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    /// The runtime's containers of this cluster and its store.
    pub containers: Vec<ContainerStatus>,
    /// The replicas of [`Foreign`] containers. They are left alone, and no container is started in their
    /// places.
    pub foreign: BTreeSet<ReplicaId>,
    /// The replicas that some query frontend sees attached and taking work, with the start of each. The start
    /// is empty for a container that was started by hand.
    pub attached: BTreeSet<(ReplicaId, String)>,
    /// The starts of containers that a frontend reported as hung.
    pub hung: BTreeSet<String>,
    /// Containers with a running action, by name. They are left alone until the action ends.
    pub at_work: BTreeMap<String, AtWork>,
}

impl Observed {
    /// Whether this start of the container is attached. Another container that registered under the replica's
    /// id has another start.
    pub fn is_attached(&self, container: &ContainerStatus) -> bool {
        let start = (container.replica.clone(), container.start.clone());
        self.attached.contains(&start)
    }

    /// Whether a frontend reported this start of the container as hung.
    pub fn is_hung(&self, container: &ContainerStatus) -> bool {
        !container.start.is_empty() && self.hung.contains(&container.start)
    }
}

/// A running action on a container.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct AtWork {
    /// The container's model version.
    pub model: ModelId,
    /// The container's replica; `None` while there is no container yet.
    pub replica: Option<ReplicaId>,
    /// The kind of the action.
    pub work: Work,
}

/// The kinds of actions on a container.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Work {
    /// The version's names are being resolved. There is no container yet, so the version's name stands for it.
    Resolving,
    /// The container is being started, and may not be listed yet.
    Starting,
    /// The container is being stopped.
    Ending,
    /// The container ended by itself and is being removed. It may be gone already, but its failure is not
    /// recorded yet.
    Burying,
}

/// Everything a container is started with.
#[derive(Clone, Debug, PartialEq)]
pub struct ReplicaSpec {
    /// The container's name in the runtime, which may change it before the start. It is the same for the same
    /// replica, so a repeated start starts nothing new. Nothing is parsed from it.
    pub container: String,
    /// The replica that the container will register as.
    pub replica: ReplicaId,
    /// The container's model version.
    pub model: ModelId,
    /// A Docker image, or the path of an executable.
    pub image: String,
    /// The id of that image; `None` until it is resolved.
    pub image_id: Option<String>,
    /// The version's files, and the digests that they must have.
    pub artifacts: Vec<Artifact>,
    /// The version's ONNX file, among the artifacts that the frontend keeps.
    pub onnx: Option<Sha256>,
    /// The CPUs that it may use.
    pub cpus: Option<f64>,
    /// The number of GPUs that it gets.
    pub gpus: Option<u32>,
    /// The memory that it may use, in bytes.
    pub memory_bytes: Option<u64>,
    /// The whole environment, including the `SKYSAIL_…` variables.
    pub env: BTreeMap<String, String>,
    /// A digest of everything that an operator asked for; the runtime returns it as
    /// [`ContainerStatus::spec_digest`].
    pub digest: String,
    /// The incarnation of the store that wants the container.
    pub incarnation: String,
    /// Unique to this start of the container; empty until [`Self::started_with`].
    pub start: String,
}

impl ReplicaSpec {
    /// This spec, for a container that warms up with batches of at most `inputs` inputs.
    pub(super) fn warming_up_with_at_most(mut self, inputs: u32) -> Self {
        if let Some(most) = self.env.get_mut(labels::ENV_MAX_BATCH) {
            let fewer = most.parse().unwrap_or(u32::MAX).min(inputs);
            *most = fewer.to_string();
        }
        self
    }

    /// This spec, for the start with the unique id `start`, and with the token that proves it. The core draws
    /// no random numbers, so the starts of a plan have neither yet.
    pub fn started_with(mut self, start: String, key: &Secret) -> Self {
        let token = container_token::start_token(key, &self.model, &self.replica, &start);
        self.env.insert(labels::ENV_TOKEN.to_owned(), token);
        self.start = start;
        self
    }
}

/// A container as the runtime sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct ContainerStatus {
    /// The container's name.
    pub container: String,
    /// The container's replica.
    pub replica: ReplicaId,
    /// The container's model version.
    pub model: ModelId,
    /// The [`ReplicaSpec::digest`] that it was started with.
    pub spec_digest: String,
    /// The incarnation of the store that it was started for; `None` where a runtime sees only its own
    /// containers.
    pub incarnation: Option<String>,
    /// The id of this start of the container, unique to it.
    pub start: String,
    /// Whether the container runs.
    pub state: ContainerState,
    /// The process id on this machine, with the process runtime while the container runs.
    pub pid: Option<u32>,
}

/// Whether a container runs.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum ContainerState {
    /// The container is being created, or runs.
    Running,
    /// The container ended.
    Exited {
        /// The exit code; a signal counts as 128 plus its number.
        code: i64,
        /// The runtime's explanation, if it has one ("killed: out of memory", "killed by signal 9").
        detail: Option<String>,
    },
}

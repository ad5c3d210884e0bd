//! Reconcile: from desired and observed state to the actions that bring them together.
//!
//! A pass observes, [`plan()`]s and applies, and takes no other input: whatever was interrupted, the next
//! pass finds and repairs. [`History`] remembers what no observation shows: how often a model failed, and
//! since when a container is without its stream. [`finished`] ends rollouts, and [`doubt()`] holds all of it
//! back where the catalog itself may have lost something. Containers that were started for another store are
//! [`Foreign`]. What a version's names mean is written down before its first start ([`resolved`]).

use std::collections::{BTreeMap, BTreeSet};

use skysail_proto::deployment::Artifact;
use skysail_proto::ids::{ModelId, ReplicaId};
use skysail_proto::labels;
use skysail_proto::value::InputType;

use crate::catalog::Secret;
use crate::container_token;

mod doubt;
mod foreign;
mod history;
mod plan;
mod resolution;
mod rollout;
mod spec;

pub use doubt::{Doubt, doubt};
pub use foreign::Foreign;
pub use history::{History, Patience};
pub use plan::{Action, Plan, StopReason, plan};
pub use resolution::{Resolution, resolved};
pub use rollout::finished;
pub use spec::{Placement, replica_spec};

/// Containers of a version that may run beyond the number that is wanted, so that a replacement can be
/// started before what it replaces is stopped.
pub const SURGE: u32 = 1;

/// What there is.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    /// What the runtime has for this cluster and its store.
    pub containers: Vec<ContainerStatus>,
    /// The replicas of containers that have the cluster's name and were started for another store: left alone, and
    /// their places are passed over.
    pub foreign: BTreeSet<ReplicaId>,
    /// The replicas that some query frontend sees attached and taking work, with the start of each; empty for
    /// one that was started by hand.
    pub attached: BTreeSet<(ReplicaId, String)>,
    /// The starts of containers that a frontend gave up as hung.
    pub hung: BTreeSet<String>,
    /// Containers that an action is still at work on, by name: left alone until it is done.
    pub at_work: BTreeMap<String, AtWork>,
}

impl Observed {
    /// Whether this very start of the container is attached: another one that registered under the replica's
    /// id is not it.
    pub fn is_attached(&self, container: &ContainerStatus) -> bool {
        let start = (container.replica.clone(), container.start.clone());
        self.attached.contains(&start)
    }

    /// Whether a frontend gave it up as hung.
    pub fn is_hung(&self, container: &ContainerStatus) -> bool {
        !container.start.is_empty() && self.hung.contains(&container.start)
    }
}

/// An action that is at work on a container.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct AtWork {
    /// What the container serves.
    pub model: ModelId,
    /// The replica it runs; none while there is no container yet.
    pub replica: Option<ReplicaId>,
    /// What is being done to it.
    pub work: Work,
}

/// What is being done to a container.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Work {
    /// It is being found out what is to be started. By the version's name, for there is no container yet.
    Resolving,
    /// It is being started, and may not be listed yet.
    Starting,
    /// It is being stopped.
    Ending,
    /// It ended by itself and is being removed. It may be gone already, but that it failed is not noted yet.
    Burying,
}

/// Everything a container is started with.
#[derive(Clone, Debug, PartialEq)]
pub struct ReplicaSpec {
    /// Its name in the runtime, which may change it before the start: the same for the same replica, so that
    /// starting twice starts once. Nothing is read out of it.
    pub container: String,
    /// The replica it will register as.
    pub replica: ReplicaId,
    /// What it serves.
    pub model: ModelId,
    /// What its inputs are.
    pub input_type: InputType,
    /// A Docker image, or the path of an executable.
    pub image: String,
    /// The id of that image, once it is known.
    pub image_id: Option<String>,
    /// The files it is made of, and what must be in them.
    pub artifacts: Vec<Artifact>,
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
    /// The incarnation of the store that asks for it.
    pub incarnation: String,
    /// Unique to this start of it; empty until [`Self::started_with`].
    pub start: String,
}

impl ReplicaSpec {
    /// The same, for a container that tries no batch of more than so many inputs when it warms up.
    pub(super) fn warming_up_with_at_most(mut self, inputs: u32) -> Self {
        if let Some(most) = self.env.get_mut(labels::ENV_MAX_BATCH) {
            let fewer = most.parse().unwrap_or(u32::MAX).min(inputs);
            *most = fewer.to_string();
        }
        self
    }

    /// The same, for a start that is told apart from all others by `start`, with the token that shows it. The
    /// core draws no random numbers, so a plan's starts have none yet.
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
    /// Its name.
    pub container: String,
    /// The replica it runs.
    pub replica: ReplicaId,
    /// What it serves.
    pub model: ModelId,
    /// The digest it was started with.
    pub spec_digest: String,
    /// The incarnation of the store it was started for; none where a runtime sees nobody else's containers.
    pub incarnation: Option<String>,
    /// Which start of it this is: unique to each.
    pub start: String,
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

//! Reconcile: from desired and observed state to the actions that bring them together.
//!
//! A pass observes, [`plan()`]s and applies, and takes no other input: whatever was interrupted, the next
//! pass finds and repairs. [`History`] remembers what no observation shows: how often a model failed, and
//! since when a container is without its stream. [`finished`] ends rollouts, and [`doubt()`] holds all of it
//! back where the catalog itself may have lost something.

use std::collections::{BTreeMap, BTreeSet};

use skysail_proto::ids::{ModelId, ReplicaId};
use skysail_proto::labels;
use skysail_proto::value::InputType;

mod doubt;
mod history;
mod plan;
mod rollout;
mod spec;

pub use doubt::{Doubt, doubt};
pub use history::{History, Patience};
pub use plan::{Action, Plan, StopReason, plan};
pub use rollout::finished;
pub use spec::{Placement, replica_spec};

/// Containers of a version that may run beyond the number that is wanted, so that a replacement can be
/// started before what it replaces is stopped.
pub const SURGE: u32 = 1;

/// What there is.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    /// What the runtime has for this cluster.
    pub containers: Vec<ContainerStatus>,
    /// The replicas that some query frontend sees attached and taking work, with the token each registered
    /// with.
    pub attached: BTreeSet<(ReplicaId, String)>,
    /// The tokens of containers that a frontend gave up as hung.
    pub hung: BTreeSet<String>,
    /// Containers that an action is still at work on, by name: left alone until it is done.
    pub at_work: BTreeMap<String, AtWork>,
}

impl Observed {
    /// Whether this container's replica is attached: with its token, or with none, as one that knows nothing
    /// of tokens.
    pub fn is_attached(&self, container: &ContainerStatus) -> bool {
        let id = &container.replica;
        [container.token.as_str(), ""]
            .into_iter()
            .any(|token| self.attached.contains(&(id.clone(), token.to_owned())))
    }

    /// Whether a frontend gave it up as hung. One started by hand, without a token, never is.
    pub fn is_hung(&self, container: &ContainerStatus) -> bool {
        !container.token.is_empty() && self.hung.contains(&container.token)
    }
}

/// An action that is at work on a container.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct AtWork {
    /// What the container serves.
    pub model: ModelId,
    /// What is being done to it.
    pub work: Work,
}

/// What is being done to a container.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Work {
    /// It is being started, and may not be listed yet.
    Starting,
    /// It is being stopped, or buried.
    Ending,
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
    /// Unique to this start of it; empty until [`Self::with_token`].
    pub token: String,
}

impl ReplicaSpec {
    /// The same, for a start that is told apart from all others by `token`. The core draws no random numbers,
    /// so a plan's starts have none yet.
    pub fn with_token(mut self, token: String) -> Self {
        self.env.insert(labels::ENV_TOKEN.to_owned(), token.clone());
        self.token = token;
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
    /// The token it was started with; empty if it was started by a release without.
    pub token: String,
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

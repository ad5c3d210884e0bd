//! The plan: a pure function of the catalog, the observed state, the history and the time.

use std::collections::BTreeMap;

use jiff::Timestamp;
use skysail_proto::ids::ModelId;

use super::{ContainerState, ContainerStatus, History, Observed, Placement, ReplicaSpec};
use crate::catalog::Catalog;
use crate::time::Instant;

mod census;

use census::Census;

/// One action. All actions are idempotent: names are deterministic, and an action on a missing container does
/// nothing.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Resolve the version's names and write the result. The version's first start comes after it.
    Resolve {
        /// The spec of the first start.
        spec: Box<ReplicaSpec>,
        /// When the version was registered.
        registered_at: Timestamp,
    },
    /// Start this container, with a new start id.
    Start(Box<ReplicaSpec>),
    /// Stop this container and remove it.
    Stop {
        /// The container.
        found: ContainerStatus,
        /// The reason.
        reason: StopReason,
    },
    /// Keep the exit code and last lines of this container, which ended by itself, then remove it.
    Bury(ContainerStatus),
}

/// Why a container is stopped.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum StopReason {
    /// The catalog does not ask for it any more.
    NotWanted,
    /// The version's spec has changed.
    Outdated,
    /// It has run too long without being attached.
    NotAttached {
        /// Whether it ever was attached.
        was_attached: bool,
    },
    /// It runs, but did not answer a batch in time.
    Hung,
}

/// The actions for now, and when to look again if nothing happens.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// In no particular order; no action depends on another.
    pub actions: Vec<Action>,
    /// The end of the next pause, or of the patience with a container.
    pub look_again: Option<Instant>,
}

impl Plan {
    fn look_again_at(&mut self, then: Instant) {
        self.look_again = Some(self.look_again.map_or(then, |earlier| earlier.min(then)));
    }

    fn stop(&mut self, found: &ContainerStatus, reason: StopReason) {
        self.actions.push(Action::Stop {
            found: found.clone(),
            reason,
        });
    }
}

/// Plans the step from `observed` towards `desired`.
///
/// Each version is planned by itself. It gets as many containers as it wants, in the lowest free places, and
/// [`SURGE`](super::SURGE) more during a replacement. An outdated container does not count, so its replacement
/// starts beside it. A serving container is stopped only if `min(wanted, serving)` containers go on serving.
/// Without a live query frontend no container is known to serve. Then nothing starts, and only unwanted
/// versions are stopped.
pub fn plan(
    desired: &Catalog,
    observed: &Observed,
    history: &History,
    placement: &Placement,
    now: Instant,
) -> Plan {
    let mut plan = Plan::default();
    for found in &observed.containers {
        let ended = matches!(found.state, ContainerState::Exited { .. });
        if ended && !observed.at_work.contains_key(&found.container) {
            plan.actions.push(Action::Bury(found.clone()));
        }
    }

    let mut found: BTreeMap<&ModelId, Vec<&ContainerStatus>> = BTreeMap::new();
    for container in &observed.containers {
        found.entry(&container.model).or_default().push(container);
    }
    for (model, version) in desired.versions() {
        let found = found.remove(&model).unwrap_or_default();
        let census = Census {
            placement,
            observed,
            history,
            now,
            model: &model,
            version,
            found: &found,
        };
        census.plan(&mut plan);
    }
    // The remaining containers belong to unregistered versions.
    for container in found.into_values().flatten() {
        if runs_idle(container, observed) {
            plan.stop(container, StopReason::NotWanted);
        }
    }
    plan
}

/// Whether a container runs and no action works on it.
fn runs_idle(container: &ContainerStatus, observed: &Observed) -> bool {
    container.state == ContainerState::Running && !observed.at_work.contains_key(&container.container)
}

#[cfg(test)]
mod tests;

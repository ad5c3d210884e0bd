//! The plan: a pure function of what is wanted, what there is, what is remembered and the time.

use std::collections::BTreeMap;

use jiff::Timestamp;
use skysail_proto::ids::ModelId;

use super::{ContainerState, ContainerStatus, History, Observed, Placement, ReplicaSpec};
use crate::catalog::Catalog;
use crate::time::Instant;

mod census;

use census::Census;

/// One thing to do. All are idempotent: names are deterministic, and what is gone is not missed.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Find out what the version's names mean, and write that down; its first start comes after.
    Resolve {
        /// What it would start with.
        spec: Box<ReplicaSpec>,
        /// When the version was registered.
        registered_at: Timestamp,
    },
    /// Start this container, as a start of its own.
    Start(Box<ReplicaSpec>),
    /// Stop this container and remove it.
    Stop {
        /// The container.
        found: ContainerStatus,
        /// Why.
        reason: StopReason,
    },
    /// It ended by itself: keep its exit code and last lines, then remove it.
    Bury(ContainerStatus),
}

/// Why a container is stopped.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum StopReason {
    /// Nobody asks for it any more.
    NotWanted,
    /// What was asked for has changed.
    Outdated,
    /// It runs but has not been attached for too long.
    NotAttached {
        /// Whether it ever was.
        was_attached: bool,
    },
    /// It lives, but a frontend waited for a batch's answer in vain.
    Hung,
}

/// What to do now, and when to look again if nothing happens.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// In no particular order; none depends on another.
    pub actions: Vec<Action>,
    /// The end of the next pause or patience.
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
/// Each version is planned by itself. It has as many containers as it wants, in the lowest free places, and
/// [`SURGE`](super::SURGE) more while one is replaced: what does not fit any more counts for nothing, so its
/// replacement starts beside it. What serves is stopped only where as many as are wanted, or as serve now,
/// are left to serve. Without a live query frontend nobody knows what serves: then nothing is started, and
/// nothing stopped but what a person does not want at all.
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
    // What is left belongs to versions that nobody registered.
    for container in found.into_values().flatten() {
        if runs_idle(container, observed) {
            plan.stop(container, StopReason::NotWanted);
        }
    }
    plan
}

/// Whether a container runs, and no action is at work on it.
fn runs_idle(container: &ContainerStatus, observed: &Observed) -> bool {
    container.state == ContainerState::Running && !observed.at_work.contains_key(&container.container)
}

#[cfg(test)]
mod tests;

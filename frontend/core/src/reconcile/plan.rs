//! The plan: a pure function of what is wanted, what there is, what is remembered and the time.

use std::collections::BTreeSet;

use skysail_proto::ids::ModelId;

use super::{ContainerState, ContainerStatus, History, Observed, Placement, ReplicaSpec, replica_spec};
use crate::catalog::{Catalog, Version};
use crate::time::Instant;

/// One thing to do. All are idempotent: names are deterministic, and what is gone is not missed.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Start this container.
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
}

/// Plans the step from `observed` towards `desired`.
pub fn plan(
    desired: &Catalog,
    observed: &Observed,
    history: &History,
    placement: &Placement,
    now: Instant,
) -> Plan {
    let wanted: Vec<(ModelId, &Version, ReplicaSpec)> = desired
        .versions()
        .flat_map(|(model, version)| {
            let replicas = version
                .spec
                .deployment
                .as_ref()
                .map_or(0, |deployment| deployment.replicas);
            (0..replicas).filter_map(move |ordinal| {
                let spec = replica_spec(placement, &model, version, ordinal)?;
                Some((model.clone(), version, spec))
            })
        })
        .collect();

    let mut plan = Plan::default();
    let idle = observed
        .containers
        .iter()
        .filter(|found| !observed.busy.contains(&found.container));
    for found in idle {
        let spec = wanted
            .iter()
            .map(|(_, _, spec)| spec)
            .find(|spec| spec.container == found.container);
        match &found.state {
            ContainerState::Exited { .. } => plan.actions.push(Action::Bury(found.clone())),
            ContainerState::Running => judge_running(&mut plan, found, spec, history, now),
        }
    }

    let taken: BTreeSet<&str> = observed
        .containers
        .iter()
        .map(|found| found.container.as_str())
        .collect();
    for (model, _, spec) in wanted {
        if taken.contains(spec.container.as_str()) || observed.busy.contains(&spec.container) {
            continue;
        }
        match history.not_before(&model) {
            Some(then) if now < then => plan.look_again_at(then),
            _ => plan.actions.push(Action::Start(Box::new(spec))),
        }
    }
    plan
}

/// Decides about one running container: wanted as it is, or to be stopped.
fn judge_running(
    plan: &mut Plan,
    found: &ContainerStatus,
    spec: Option<&ReplicaSpec>,
    history: &History,
    now: Instant,
) {
    let reason = match (spec, history.given_up_at(&found.container)) {
        (None, _) => StopReason::NotWanted,
        (Some(spec), _) if spec.digest != found.spec_digest => StopReason::Outdated,
        (Some(_), Some(then)) if then <= now => StopReason::NotAttached {
            was_attached: history.was_attached(&found.container),
        },
        (Some(_), waiting) => {
            if let Some(then) = waiting {
                plan.look_again_at(then);
            }
            return;
        }
    };
    plan.actions.push(Action::Stop {
        found: found.clone(),
        reason,
    });
}

#[cfg(test)]
mod tests;

//! Counts one version's containers: how many fit, serve, are too many, or are missing.

use std::cmp::Reverse;

use skysail_proto::ids::{ModelId, ReplicaId};

use super::{Plan, StopReason, runs_idle};
use crate::catalog::Version;
use crate::reconcile::plan::Action;
use crate::reconcile::{
    ContainerState, ContainerStatus, History, Observed, Placement, SURGE, Work, replica_spec,
};
use crate::time::Instant;

/// A registered version and its containers.
pub(super) struct Census<'a> {
    pub(super) placement: &'a Placement,
    pub(super) observed: &'a Observed,
    pub(super) history: &'a History,
    pub(super) now: Instant,
    pub(super) model: &'a ModelId,
    pub(super) version: &'a Version,
    /// The version's containers, running or ended.
    pub(super) found: &'a [&'a ContainerStatus],
}

/// The state of a running container that no action works on.
#[derive(Clone, Copy, Eq, PartialEq)]
enum Verdict {
    /// The container is as wanted.
    Fits,
    /// The container is to be stopped at once.
    Useless(StopReason),
    /// The container is to be stopped, but serves until others do.
    Outdated,
}

impl Census<'_> {
    /// Adds this version's actions to the plan.
    pub(super) fn plan(&self, plan: &mut Plan) {
        let Some(digest) = self.digest().filter(|_| self.wanted() > 0) else {
            for found in self.idle() {
                plan.stop(found, StopReason::NotWanted);
            }
            return;
        };
        if self.placement.frontends.is_empty() {
            return;
        }
        let judged: Vec<(&ContainerStatus, Verdict)> = self
            .idle()
            .map(|found| (found, self.judge(found, &digest, plan)))
            .collect();
        self.stop(&judged, plan);
        let fitting = judged.iter().filter(|(_, verdict)| *verdict == Verdict::Fits);
        self.start(fitting.count(), plan);
    }

    fn wanted(&self) -> usize {
        let deployment = self.version.spec.deployment.as_ref();
        deployment.map_or(0, |deployment| deployment.replicas as usize)
    }

    fn digest(&self) -> Option<String> {
        replica_spec(self.placement, self.model, self.version, 0).map(|spec| spec.digest)
    }

    fn idle(&self) -> impl Iterator<Item = &ContainerStatus> {
        self.found
            .iter()
            .copied()
            .filter(|found| runs_idle(found, self.observed))
    }

    fn judge(&self, found: &ContainerStatus, digest: &str, plan: &mut Plan) -> Verdict {
        if self.observed.is_hung(found) {
            return Verdict::Useless(StopReason::Hung);
        }
        let attached = self.observed.is_attached(found);
        if found.spec_digest != digest {
            return if attached {
                Verdict::Outdated
            } else {
                Verdict::Useless(StopReason::Outdated)
            };
        }
        match self.history.given_up_at(found).filter(|_| !attached) {
            Some(then) if then <= self.now => Verdict::Useless(StopReason::NotAttached {
                was_attached: self.history.was_attached(found),
            }),
            Some(then) => {
                plan.look_again_at(then);
                Verdict::Fits
            }
            None => Verdict::Fits,
        }
    }

    /// Stops useless containers at once. Stops outdated and surplus containers only while enough others serve.
    fn stop(&self, judged: &[(&ContainerStatus, Verdict)], plan: &mut Plan) {
        let mut spare = self.serving().saturating_sub(self.wanted());
        let mut outdated = Vec::new();
        let mut fitting = Vec::new();
        for &(found, verdict) in judged {
            match verdict {
                Verdict::Useless(reason) => plan.stop(found, reason),
                Verdict::Outdated => outdated.push(found),
                Verdict::Fits => fitting.push(found),
            }
        }
        let too_many = (fitting.len() + self.at_work(Work::Starting)).saturating_sub(self.wanted());
        // Containers that do not serve go first, then those in the highest places.
        outdated.sort_by_key(|found| Reverse(self.ordinal(found)));
        fitting.sort_by_key(|found| (self.observed.is_attached(found), Reverse(self.ordinal(found))));
        let outdated = outdated.into_iter().map(|found| (found, StopReason::Outdated));
        let fitting = fitting.into_iter().take(too_many);
        for (found, reason) in outdated.chain(fitting.map(|found| (found, StopReason::NotWanted))) {
            if self.observed.is_attached(found) {
                if spare == 0 {
                    continue;
                }
                spare -= 1;
            }
            plan.stop(found, reason);
        }
    }

    /// Starts missing containers, within [`SURGE`], unless a pause after a failure still lasts.
    fn start(&self, fitting: usize, plan: &mut Plan) {
        let limit = self.wanted() + SURGE as usize;
        let missing = self
            .wanted()
            .saturating_sub(fitting + self.at_work(Work::Starting) + self.unburied());
        let starts = missing.min(limit.saturating_sub(self.running()));
        if starts == 0 {
            return;
        }
        if let Some(then) = self.history.not_before(self.model)
            && self.now < then
        {
            return plan.look_again_at(then);
        }
        if !self.is_resolved() {
            return self.resolve(plan);
        }
        let free = (0..)
            .take(limit + self.observed.foreign.len())
            .filter(|ordinal| !self.is_taken(*ordinal));
        let specs =
            free.filter_map(|ordinal| replica_spec(self.placement, self.model, self.version, ordinal));
        let careful = self.history.careful_warm_up(self.model);
        let specs = specs.map(|spec| match careful {
            Some(most) => spec.warming_up_with_at_most(most),
            None => spec,
        });
        plan.actions
            .extend(specs.take(starts).map(|spec| Action::Start(Box::new(spec))));
    }

    fn is_resolved(&self) -> bool {
        let deployment = self.version.spec.deployment.as_ref();
        deployment.is_some_and(skysail_proto::deployment::Deployment::is_resolved)
    }

    /// Resolves the version's names, unless that is under way.
    fn resolve(&self, plan: &mut Plan) {
        if self.at_work(Work::Resolving) > 0 {
            return;
        }
        let spec = replica_spec(self.placement, self.model, self.version, 0);
        plan.actions.extend(spec.map(|spec| Action::Resolve {
            spec: Box::new(spec),
            registered_at: self.version.registered_at,
        }));
    }

    /// The number of containers that answer queries and are not being stopped.
    fn serving(&self) -> usize {
        let serves = |found: &&&ContainerStatus| {
            found.state == ContainerState::Running
                && self.observed.is_attached(found)
                && !self.observed.is_hung(found)
                && self.work_on(found) != Some(Work::Ending)
        };
        self.found.iter().filter(serves).count()
    }

    /// The number of containers that run or are being started. Containers being stopped count: they still take
    /// room.
    fn running(&self) -> usize {
        let runs = |found: &&&ContainerStatus| {
            found.state == ContainerState::Running && self.work_on(found) != Some(Work::Starting)
        };
        self.found.iter().filter(runs).count() + self.at_work(Work::Starting)
    }

    /// The number of containers that ended and are not buried. Each delays its replacement: only the end of its
    /// burial records the failure and its pause. The runtime may have removed the container before that.
    fn unburied(&self) -> usize {
        let ended = |found: &&&ContainerStatus| {
            matches!(found.state, ContainerState::Exited { .. })
                && !matches!(self.work_on(found), Some(Work::Starting | Work::Burying))
        };
        self.found.iter().filter(ended).count() + self.at_work(Work::Burying)
    }

    fn work_on(&self, found: &ContainerStatus) -> Option<Work> {
        self.observed
            .at_work
            .get(&found.container)
            .map(|at_work| at_work.work)
    }

    fn at_work(&self, work: Work) -> usize {
        let mine = |at_work: &&crate::reconcile::AtWork| at_work.model == *self.model && at_work.work == work;
        self.observed.at_work.values().filter(mine).count()
    }

    fn ordinal(&self, found: &ContainerStatus) -> Option<u32> {
        found.replica.ordinal_in(self.model)
    }

    /// Whether a container is, or may be, in this place. Containers are identified by their replicas; the
    /// runtime's names for them do not matter.
    fn is_taken(&self, ordinal: u32) -> bool {
        let replica = ReplicaId::of(self.model, ordinal);
        let mut at_work = self.observed.at_work.values();
        at_work.any(|at_work| at_work.replica.as_ref() == Some(&replica))
            || self.observed.foreign.contains(&replica)
            || self.found.iter().any(|found| found.replica == replica)
    }
}

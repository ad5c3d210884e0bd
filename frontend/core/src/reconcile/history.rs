//! State that no single observation shows: failures and their pauses, and missing streams.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use skysail_proto::ids::ModelId;

use super::{ContainerState, ContainerStatus, Observed, Placement};
use crate::backoff::Backoff;
use crate::catalog::Catalog;
use crate::time::Instant;

/// The times after which something is done about a container.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Patience {
    /// From a container's start until its replica first attaches; a large model may take long to load.
    pub startup: Duration,
    /// From a lost stream until the container is replaced.
    pub reattach: Duration,
    /// The pause after a model's first failure.
    pub first_pause: Duration,
    /// The longest pause between attempts.
    pub longest_pause: Duration,
}

impl Patience {
    const USUAL: Self = Self {
        startup: Duration::from_secs(300),
        reattach: Duration::from_secs(10),
        first_pause: Duration::from_millis(250),
        longest_pause: Duration::from_secs(60),
    };
}

impl Default for Patience {
    fn default() -> Self {
        Self::USUAL
    }
}

/// The failures of one model version.
#[derive(Clone, Debug)]
struct Failures {
    backoff: Backoff,
    /// No container of the version is started before this time.
    not_before: Instant,
    /// The length of the pause that ends at `not_before`.
    pause: Duration,
}

/// The largest warm-up batches after the first and after each later container that ended before it attached.
/// The warm-up may have needed too much memory, and only the container knew how far it was.
const CAREFUL_WARM_UPS: [u32; 2] = [64, 1];

/// A running container without a stream.
#[derive(Clone, Copy, Debug)]
struct Missing {
    since: Instant,
    /// The container had a stream, or ran before this frontend started: it has nothing left to load.
    was_attached: bool,
}

/// Names are reused, so a start is a name plus a start id.
type Start = (String, String);

fn start_of(container: &ContainerStatus) -> Start {
    (container.container.clone(), container.start.clone())
}

/// Remembered between passes. Losing it with the process does no harm.
#[derive(Clone, Debug)]
pub struct History {
    patience: Patience,
    failures: BTreeMap<ModelId, Failures>,
    missing: BTreeMap<Start, Missing>,
    known: BTreeMap<Start, bool>,
    /// Versions with a container that ended before it attached, since the last failure that counted.
    ended_early: BTreeSet<ModelId>,
    /// How many failures of a version counted with such an early end.
    early_ends: BTreeMap<ModelId, usize>,
    passes: u64,
}

impl History {
    /// An empty history.
    pub fn new(patience: Patience) -> Self {
        Self {
            patience,
            failures: BTreeMap::new(),
            missing: BTreeMap::new(),
            known: BTreeMap::new(),
            ended_early: BTreeSet::new(),
            early_ends: BTreeMap::new(),
            passes: 0,
        }
    }

    /// Records the attached containers; call it once per pass, before planning.
    ///
    /// A container that already runs at the first pass was started before this frontend: it has to reconnect,
    /// not to load. While no query frontend lives, the patience with every container starts over.
    pub fn observe(&mut self, observed: &Observed, placement: &Placement, now: Instant) {
        let first_pass = self.passes == 0;
        self.passes += 1;
        let unseen = placement.frontends.is_empty();
        let running = |container: &&ContainerStatus| container.state == ContainerState::Running;
        for ended in observed.containers.iter().filter(|found| !running(found)) {
            // `known` holds the containers that ran at the last pass, so each end counts once.
            if self.known.get(&start_of(ended)) == Some(&false) {
                self.ended_early.insert(ended.model.clone());
            }
        }
        let mut missing = BTreeMap::new();
        let mut known = BTreeMap::new();
        for container in observed.containers.iter().filter(running) {
            let start = start_of(container);
            let attached = observed.is_attached(container);
            let was_attached = attached || first_pass || self.known.get(&start).copied().unwrap_or(false);
            if !attached {
                let before = self.missing.get(&start).filter(|_| !unseen);
                let since = before.map_or(now, |missing| missing.since);
                missing.insert(start.clone(), Missing { since, was_attached });
            }
            known.insert(start, was_attached);
        }
        self.missing = missing;
        self.known = known;
    }

    /// Records that a container of `model` failed or could not be started.
    ///
    /// Failures during a pause belong to the failure that began it: three replicas that fail together are one
    /// failure. The pauses start over once the last pause plus ten seconds have passed without a failure.
    pub fn failed(&mut self, model: &ModelId, now: Instant) {
        let patience = self.patience;
        let failures = self.failures.entry(model.clone()).or_insert_with(|| Failures {
            backoff: Backoff::new(patience.first_pause, patience.longest_pause),
            not_before: now,
            pause: Duration::ZERO,
        });
        if now < failures.not_before {
            return;
        }
        if now > failures.not_before + failures.pause + Duration::from_secs(10) {
            failures.backoff.reset();
        }
        failures.pause = failures.backoff.pause();
        failures.not_before = now + failures.pause;
        if self.ended_early.remove(model) {
            *self.early_ends.entry(model.clone()).or_default() += 1;
        }
    }

    /// The largest batch for the warm-up of `model`'s containers; `None` if no container ended early.
    pub(super) fn careful_warm_up(&self, model: &ModelId) -> Option<u32> {
        let ends = *self.early_ends.get(model)?;
        let [.., least] = CAREFUL_WARM_UPS;
        Some(CAREFUL_WARM_UPS.get(ends - 1).copied().unwrap_or(least))
    }

    /// Forgets versions that are no longer registered.
    pub fn keep_only(&mut self, catalog: &Catalog) {
        self.failures.retain(|model, _| catalog.version(model).is_some());
        self.early_ends
            .retain(|model, _| catalog.version(model).is_some());
        self.ended_early.retain(|model| catalog.version(model).is_some());
    }

    /// Forgets a model's failures: an operator deployed it again or scaled it, and wants an attempt now.
    pub fn forgive(&mut self, model: &ModelId) {
        self.failures.remove(model);
    }

    /// No container of `model` may be started before this time.
    pub(super) fn not_before(&self, model: &ModelId) -> Option<Instant> {
        self.failures.get(model).map(|failures| failures.not_before)
    }

    /// When the patience with a running container ends; `None` if it has a stream.
    pub(super) fn given_up_at(&self, container: &ContainerStatus) -> Option<Instant> {
        let missing = self.missing.get(&start_of(container))?;
        let patience = if missing.was_attached {
            self.patience.reattach
        } else {
            self.patience.startup
        };
        Some(missing.since + patience)
    }

    /// Whether this start of a container is known to have had a stream.
    pub(super) fn was_attached(&self, container: &ContainerStatus) -> bool {
        self.known.get(&start_of(container)).copied().unwrap_or(false)
    }
}

//! The batches in one container's hands: whose they are, and how long they are waited for.

use std::collections::BTreeMap;
use std::time::Duration;

use skysail_core::batch::Patience;
use skysail_core::time::Instant;

use super::queue::Task;

/// A batch that was sent.
#[derive(Debug)]
pub(super) struct SentBatch {
    /// Its queries; none once they were handed back.
    pub(super) tasks: Vec<Task>,
    /// How many inputs it has.
    pub(super) size: usize,
    /// Whether queries were left waiting or given up when it was sized.
    pub(super) pressed: bool,
    /// When it left.
    pub(super) sent_at: Instant,
    /// When the container is expected to be done with it.
    pub(super) expected_end: Instant,
    /// When it is overdue.
    pub(super) overdue_at: Instant,
    /// When the replica is given up for it.
    pub(super) hung_at: Instant,
}

/// A batch that leaves now.
pub(super) struct Outgoing {
    /// Its queries.
    pub(super) tasks: Vec<Task>,
    /// See [`SentBatch::pressed`].
    pub(super) pressed: bool,
    /// Now.
    pub(super) now: Instant,
    /// When the container is expected to start on it.
    pub(super) start: Instant,
    /// How long its model is expected to take.
    pub(super) expected: Duration,
    /// How long it is waited for from `start` on.
    pub(super) patience: Patience,
}

impl From<Outgoing> for SentBatch {
    fn from(batch: Outgoing) -> Self {
        Self {
            size: batch.tasks.len(),
            tasks: batch.tasks,
            pressed: batch.pressed,
            sent_at: batch.now,
            expected_end: batch.start + batch.expected,
            overdue_at: batch.start + batch.patience.overdue,
            hung_at: batch.start + batch.patience.hung,
        }
    }
}

/// All of them, in the order in which the container takes them. There are at most a few.
#[derive(Debug, Default)]
pub(super) struct Sent {
    batches: BTreeMap<u64, SentBatch>,
}

impl Sent {
    pub(super) fn insert(&mut self, id: u64, batch: Outgoing) {
        self.batches.insert(id, batch.into());
    }

    pub(super) fn remove(&mut self, id: u64) -> Option<SentBatch> {
        self.batches.remove(&id)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.batches.is_empty()
    }

    /// When the container is expected to be done with all of them; `now` if it should be.
    pub(super) fn free_at(&self, now: Instant) -> Instant {
        let last = self.batches.values().next_back();
        last.map_or(now, |batch| batch.expected_end.max(now))
    }

    /// Whether nobody waits for anything that the container holds.
    pub(super) fn owes_nothing(&self) -> bool {
        let mut tasks = self.batches.values().flat_map(|batch| &batch.tasks);
        tasks.all(Task::is_abandoned)
    }

    /// Whether the container has had a batch for too long to be sent another.
    pub(super) fn is_overdue(&self, now: Instant) -> bool {
        self.batches.values().any(|batch| batch.overdue_at <= now)
    }

    /// Whether it is to be given up.
    pub(super) fn is_hung(&self, now: Instant) -> bool {
        self.batches.values().any(|batch| batch.hung_at <= now)
    }

    /// When to look whether a batch is overdue or, once one is, whether the replica hangs.
    pub(super) fn next_look(&self, is_overdue: bool) -> Option<Instant> {
        let point = |batch: &SentBatch| match is_overdue {
            true => batch.hung_at,
            false => batch.overdue_at,
        };
        self.batches.values().map(point).min()
    }

    /// Takes all queries out. Their batches stay: the container may still answer them.
    pub(super) fn hand_back(&mut self) -> Vec<Task> {
        let batches = self.batches.values_mut();
        batches
            .flat_map(|batch| std::mem::take(&mut batch.tasks))
            .collect()
    }
}

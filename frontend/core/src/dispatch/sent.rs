//! The batches that one container holds: their queries, and how long they are waited for.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::batch::Patience;
use crate::queue::Placed;
use crate::time::Instant;

/// A batch that was sent.
#[derive(Debug)]
pub struct SentBatch<T> {
    /// Its queries; empty once they were handed back.
    pub batch: Vec<Placed<T>>,
    /// The number of its inputs.
    pub size: usize,
    /// The number of inputs it is expected to have with those of other frontends.
    pub(super) whole: usize,
    /// The bytes of its inputs.
    pub(super) bytes: usize,
    /// Whether queries were left waiting or given up when it was sized.
    pub(super) pressed: bool,
    /// When it was sent.
    pub sent_at: Instant,
    /// When the container is expected to be done with it.
    expected_end: Instant,
    /// When it becomes overdue.
    overdue_at: Instant,
    /// When the replica is given up because of it.
    hung_at: Instant,
}

/// A batch that is sent now.
pub(super) struct Outgoing<T> {
    /// Its queries.
    pub(super) batch: Vec<Placed<T>>,
    /// See [`SentBatch::whole`].
    pub(super) whole: usize,
    /// See [`SentBatch::pressed`].
    pub(super) pressed: bool,
    /// When it is sent.
    pub(super) now: Instant,
    /// When the container is expected to start on it.
    pub(super) start: Instant,
    /// How long the model is expected to take.
    pub(super) expected: Duration,
    /// How long the batch is waited for, from `start` on.
    pub(super) patience: Patience,
}

impl<T> From<Outgoing<T>> for SentBatch<T> {
    fn from(outgoing: Outgoing<T>) -> Self {
        Self {
            size: outgoing.batch.len(),
            whole: outgoing.whole,
            bytes: outgoing.batch.iter().map(Placed::bytes).sum(),
            batch: outgoing.batch,
            pressed: outgoing.pressed,
            sent_at: outgoing.now,
            expected_end: outgoing.start + outgoing.expected,
            overdue_at: outgoing.start + outgoing.patience.overdue,
            hung_at: outgoing.start + outgoing.patience.hung,
        }
    }
}

/// All batches that the container holds, in the order in which it takes them. There are at most a few.
#[derive(Debug)]
pub(super) struct Sent<T> {
    batches: BTreeMap<u64, SentBatch<T>>,
    /// The number of the next batch.
    next: u64,
}

impl<T> Default for Sent<T> {
    fn default() -> Self {
        Self {
            batches: BTreeMap::new(),
            next: 1,
        }
    }
}

impl<T> Sent<T> {
    /// Adds a batch that is sent now. Returns its number.
    pub(super) fn insert(&mut self, batch: Outgoing<T>) -> u64 {
        let id = self.next;
        self.next += 1;
        self.batches.insert(id, batch.into());
        id
    }

    pub(super) fn get(&self, id: u64) -> Option<&SentBatch<T>> {
        self.batches.get(&id)
    }

    pub(super) fn remove(&mut self, id: u64) -> Option<SentBatch<T>> {
        self.batches.remove(&id)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.batches.is_empty()
    }

    /// The size of the batch that the container works on, with other frontends' inputs.
    pub(super) fn first_size(&self) -> Option<usize> {
        self.batches.values().next().map(|sent| sent.whole)
    }

    /// All queries that the container holds.
    pub(super) fn queries(&self) -> impl Iterator<Item = &Placed<T>> {
        self.batches.values().flat_map(|sent| &sent.batch)
    }

    /// When the container is expected to be done with all batches; at least `now`.
    pub(super) fn free_at(&self, now: Instant) -> Instant {
        let last = self.batches.values().next_back();
        last.map_or(now, |sent| sent.expected_end.max(now))
    }

    /// Whether the container has had a batch for too long to be sent another.
    pub(super) fn is_overdue(&self, now: Instant) -> bool {
        self.batches.values().any(|sent| sent.overdue_at <= now)
    }

    /// Whether the replica is to be given up.
    pub(super) fn is_hung(&self, now: Instant) -> bool {
        self.batches.values().any(|sent| sent.hung_at <= now)
    }

    /// When to look again: for the next overdue batch or, if `is_overdue`, for a hung replica.
    pub(super) fn next_look(&self, is_overdue: bool) -> Option<Instant> {
        let point = |sent: &SentBatch<T>| match is_overdue {
            true => sent.hung_at,
            false => sent.overdue_at,
        };
        self.batches.values().map(point).min()
    }

    /// Takes all queries out. Their batches stay: the container may still answer them.
    pub(super) fn hand_back(&mut self) -> Vec<Placed<T>> {
        let batches = self.batches.values_mut();
        batches.flat_map(|sent| std::mem::take(&mut sent.batch)).collect()
    }
}

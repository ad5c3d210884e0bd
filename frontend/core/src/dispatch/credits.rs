//! The credits that a container granted and that are not used yet. A credit is good for one batch.

use std::collections::VecDeque;
use std::time::Duration;

use crate::time::Instant;

/// The right to send one batch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Credit {
    /// Its number, from the container.
    pub sequence: u64,
    /// Whether it may be kept while there is no work.
    pub park: bool,
    /// Whether the container knows no other frontend. Its next credit then comes without an announcement of demand.
    pub alone: bool,
    /// The part of a batch that may be sent against it.
    pub share: Share,
    /// How long after the credit came the batch is expected to start; zero if the container does not say.
    pub starts_in: Duration,
}

/// One frontend's part of a batch. A batch is all that is sent against credits that a container granted together.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Share {
    /// The expected part of the batch's inputs that are this frontend's: above 0, at most 1.
    pub of_inputs: f64,
    /// The most inputs that this frontend may send.
    pub most_inputs: usize,
}

impl Share {
    /// The whole batch: no other frontend sends a part.
    pub const WHOLE: Self = Self {
        of_inputs: 1.0,
        most_inputs: usize::MAX,
    };
}

/// The unused credits.
#[derive(Debug, Default)]
pub(super) struct InHand {
    /// Each credit, and when it came, oldest first.
    credits: VecDeque<(Credit, Instant)>,
    /// Whether the container last said that it knows no other frontend.
    alone: bool,
}

impl InHand {
    pub(super) fn grant(&mut self, credit: Credit, now: Instant) {
        self.alone = credit.alone;
        self.credits.push_back((credit, now));
    }

    /// The container knows another frontend now, and wants this credit back if it is not used.
    pub(super) fn recall(&mut self, sequence: u64) {
        self.alone = false;
        let recalled = |(credit, _): &&mut (Credit, Instant)| credit.sequence == sequence;
        for (credit, _) in self.credits.iter_mut().filter(recalled) {
            credit.park = false;
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.credits.is_empty()
    }

    /// Whether the container has a use for announcements of demand.
    pub(super) fn wants_demand(&self) -> bool {
        !self.alone
    }

    /// The oldest credit, and when it came.
    pub(super) fn first(&self) -> Option<(Credit, Instant)> {
        self.credits.front().copied()
    }

    /// Takes out the oldest credit to use it. Returns also when it came.
    pub(super) fn pop(&mut self) -> Option<(Credit, Instant)> {
        self.credits.pop_front()
    }

    /// Takes out a credit that may not be parked.
    pub(super) fn pop_unparked(&mut self) -> Option<Credit> {
        let index = self.credits.iter().position(|(credit, _)| !credit.park)?;
        self.credits.remove(index).map(|(credit, _)| credit)
    }

    pub(super) fn clear(&mut self) {
        self.credits.clear();
    }
}

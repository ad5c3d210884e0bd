//! Natural batching: whoever waits when the replica is free. Nothing is given up, and what has expired is
//! answered all the same. It is what many servers do unless they are told otherwise.

use std::num::NonZeroU32;
use std::time::Duration;

use skysail_core::batch::{BatchPolicy, Decision, Situation};
use skysail_core::queue::Deadlines;

/// The policy.
#[derive(Clone, Copy, Debug)]
pub struct Natural {
    max_batch: usize,
}

impl Natural {
    /// Never sends more than `max_batch`.
    pub fn new(max_batch: NonZeroU32) -> Self {
        Self {
            max_batch: max_batch.get() as usize,
        }
    }
}

impl BatchPolicy for Natural {
    fn decide(&mut self, queue: &dyn Deadlines, _: &Situation<'_>) -> Decision {
        Decision {
            give_up: 0,
            leave: 0,
            take: queue.len().min(self.max_batch),
        }
    }

    fn observe(&mut self, _size: usize, _took: Duration) {}
}

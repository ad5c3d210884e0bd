//! Clipper's policy (NSDI '17, section 4.3.1): one larger after each full batch in time, a tenth smaller
//! after one that took longer than the latency objective. Gives up only what has already expired.

use std::num::NonZeroU32;
use std::time::Duration;

use super::{BatchPolicy, Decision, Situation};
use crate::queue::Deadlines;

/// What is left of the largest batch after one was too slow.
const BACKOFF: f64 = 0.9;

/// The policy.
#[derive(Clone, Copy, Debug)]
pub struct Aimd {
    size: f64,
    max_batch: f64,
    slo: Duration,
}

impl Aimd {
    /// Begins with batches of one, and never sends more than `max_batch`.
    pub fn new(max_batch: NonZeroU32) -> Self {
        Self {
            size: 1.0,
            max_batch: f64::from(max_batch.get()),
            slo: Duration::MAX,
        }
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "sizes lie between 1 and the largest batch, a 32-bit number"
)]
impl BatchPolicy for Aimd {
    fn decide(&mut self, queue: &dyn Deadlines, situation: &Situation<'_>) -> Decision {
        if let Some(slo) = situation.arrivals.mean_budget() {
            self.slo = slo;
        }
        let give_up = queue.expired(situation.start);
        Decision {
            give_up,
            take: (self.size as usize).min(queue.len() - give_up),
        }
    }

    fn observe(&mut self, size: usize, took: Duration) {
        if took > self.slo {
            self.size = (self.size * BACKOFF).max(1.0);
        } else if size as f64 >= self.size.floor() {
            self.size = (self.size + 1.0).min(self.max_batch);
        }
    }
}

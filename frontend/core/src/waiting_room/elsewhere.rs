//! When a replica that is free leaves all that waits to a much faster one: what a slow replica takes is answered late,
//! though maybe in time, and the fast one would have answered it sooner. While the fast ones have enough to do, the slow
//! one helps.

use std::time::Duration;

use crate::batch::{LatencyModel, Other};
use crate::time::Instant;

/// A replica leaves queries to another that is at least this many times as fast. Between replicas of about one speed,
/// one that waits for the other wastes its time.
const FASTER: f64 = 2.0;

/// Much faster replicas have enough to do if more comes than this part of what they can answer with batches of half of
/// the latency objective.
const BUSY: f64 = 0.8;

/// A replica that could take a batch of all that waits.
#[derive(Clone, Copy, Debug)]
pub(super) struct Free<'a> {
    /// When its batch would start.
    pub(super) start: Instant,
    /// What is known of its batch times.
    pub(super) latency: &'a LatencyModel,
    /// How many queries wait.
    pub(super) waiting: usize,
    /// When the first of them is due.
    pub(super) due: Instant,
    /// How many queries come per second.
    pub(super) per_second: f64,
    /// How long queries are given on average.
    pub(super) budget: Duration,
}

/// Another replica, with what is known of its batch times.
#[derive(Clone, Copy, Debug)]
pub(super) struct Elsewhere {
    /// When it is expected to be free, and what a batch of one takes there.
    pub(super) outlook: Other,
    /// What each further input adds, in seconds.
    pub(super) each: f64,
}

impl Free<'_> {
    /// Whether another is to take all that waits: because it is much faster, and answers sooner and, even if its batch
    /// takes cautiously long, in time.
    pub(super) fn leaves_all_to(&self, others: impl Iterator<Item = Elsewhere>) -> bool {
        let (mut is_answered, mut capacity) = (false, 0.0);
        for other in others.filter(|other| self.is_slow_beside(other)) {
            is_answered |= self.is_answered_by(&other);
            capacity += other.capacity(self.budget);
        }
        is_answered && self.per_second <= BUSY * capacity
    }

    fn is_slow_beside(&self, other: &Elsewhere) -> bool {
        // Of one that has answered nothing yet the time is 0.
        let alone = other.outlook.alone.as_secs_f64();
        alone > 0.0 && FASTER * alone <= self.latency.typical(1)
    }

    /// Whether another replica would answer all that waits sooner, and in time.
    fn is_answered_by(&self, other: &Elsewhere) -> bool {
        let free = other.outlook.free.seconds_after(self.start).max(0.0);
        let takes = other.takes(self.waiting);
        let in_time = free + self.latency.caution() * takes <= self.due.seconds_after(self.start);
        in_time && free + takes < self.latency.typical(self.waiting)
    }
}

impl Elsewhere {
    /// What a batch of this size takes, in seconds.
    #[expect(clippy::cast_precision_loss, reason = "batches are far smaller than 2^52")]
    fn takes(&self, size: usize) -> f64 {
        self.outlook.alone.as_secs_f64() + self.each * (size.max(1) - 1) as f64
    }

    /// How many queries per second it answers with batches that take half of what queries are given.
    fn capacity(&self, budget: Duration) -> f64 {
        let alone = self.outlook.alone.as_secs_f64();
        let seconds = (budget.as_secs_f64() / 2.0).max(alone);
        let further = (seconds - alone) / self.each.max(f64::MIN_POSITIVE);
        (1.0 + further) / seconds
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Instant {
        Instant::from_nanos(millis * 1_000_000)
    }

    /// A replica that takes 40 ms, and 10 ms for each input.
    fn slow() -> LatencyModel {
        let mut latency = LatencyModel::default();
        for n in 0..60 {
            let size = n % 20 + 1;
            latency.observe(size, Duration::from_millis(40 + 10 * size as u64), false);
        }
        latency
    }

    /// One that is free then, takes so many milliseconds for one input, and one more for each further.
    fn other(free: u64, alone: u64) -> Elsewhere {
        let outlook = Other {
            free: at(free),
            alone: Duration::from_millis(alone),
        };
        Elsewhere { outlook, each: 1e-3 }
    }

    /// So many wait, are due in 60 ms, and as many come per second.
    fn free(latency: &LatencyModel, waiting: usize, per_second: f64) -> Free<'_> {
        Free {
            start: at(1000),
            latency,
            waiting,
            due: at(1060),
            per_second,
            budget: Duration::from_millis(60),
        }
    }

    fn leaves(waiting: usize, to: Elsewhere) -> bool {
        free(&slow(), waiting, 100.0).leaves_all_to(std::iter::once(to))
    }

    #[test]
    fn queries_are_left_to_a_much_faster_replica_that_answers_them_sooner_and_in_time() {
        assert!(leaves(1, other(1000, 5)));
        assert!(leaves(1, other(1040, 5)), "done at 45 ms, in place of 50");
        assert!(leaves(1, other(500, 5)), "it is free already");
    }

    #[test]
    fn a_replica_takes_what_no_much_faster_one_answers_sooner_and_in_time() {
        assert!(!leaves(1, other(1046, 5)), "done at 51 ms, in place of 50");
        assert!(!leaves(40, other(1040, 5)), "44 ms of work, and 20 ms left");
        assert!(!leaves(1, other(1000, 26)), "less than twice as fast");
        assert!(!leaves(1, other(1000, 0)), "nothing is known of it");
        let nobody = std::iter::empty();
        assert!(!free(&slow(), 1, 100.0).leaves_all_to(nobody));
    }

    #[test]
    fn a_slow_replica_helps_while_the_fast_ones_have_enough_to_do() {
        // Batches of 26 take 30 ms: that is 866 a second, of which 0.8 are 693.
        let (slow, fast) = (slow(), other(1000, 5));
        let leaves =
            |per_second, fast: &[Elsewhere]| free(&slow, 1, per_second).leaves_all_to(fast.iter().copied());
        assert!(leaves(690.0, &[fast]));
        assert!(!leaves(700.0, &[fast]));
        assert!(leaves(1300.0, &[fast, fast]));
    }

    #[test]
    fn a_replica_of_which_nothing_is_known_finds_out() {
        let unknown = LatencyModel::default();
        assert!(!free(&unknown, 1, 1.0).leaves_all_to(std::iter::once(other(1000, 5))));
    }
}

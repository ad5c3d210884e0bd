//! Clipper's policy (NSDI '17, section 4.3.1): additive increase, multiplicative decrease.
//!
//! The batch size grows by one after each full batch in time, and shrinks by a tenth after a batch that took longer
//! than the latency objective. Only queries whose deadline has passed are given up.

use std::num::NonZeroU32;
use std::time::Duration;

use super::{BatchPolicy, Decision, Situation};
use crate::queue::Deadlines;

/// The largest size is multiplied by this after a batch that was too slow.
const BACKOFF: f64 = 0.9;

/// The policy, with the largest size that it sends now.
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
            leave: 0,
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

#[cfg(test)]
mod tests {
    use super::super::LatencyModel;
    use super::*;
    use crate::arrivals::Arrivals;
    use crate::queue::{Bounds, DeadlineQueue};
    use crate::time::Instant;

    const SLO: Duration = Duration::from_millis(50);

    fn decide(policy: &mut Aimd, waiting: u64) -> Decision {
        let mut queue = DeadlineQueue::new(Bounds {
            count: 100,
            bytes: 100,
        });
        let mut arrivals = Arrivals::default();
        for nth in 0..waiting {
            queue.push(Instant::from_nanos(nth), 1, ()).unwrap();
            arrivals.record(Instant::from_nanos(nth), SLO);
        }
        policy.decide(
            &queue,
            &Situation {
                start: Instant::default(),
                arrivals: &arrivals,
                latency: &LatencyModel::default(),
                others: &[],
                largest: usize::MAX,
                pause: Duration::ZERO,
            },
        )
    }

    #[test]
    fn it_grows_by_one_after_a_full_batch_in_time_and_shrinks_by_a_tenth_after_a_late_one() {
        let mut policy = Aimd::new(NonZeroU32::new(21).unwrap());
        assert_eq!(decide(&mut policy, 30).take, 1);
        for size in 1..30 {
            policy.observe(size, SLO);
        }
        assert_eq!(
            decide(&mut policy, 30).take,
            21,
            "never more than the largest batch"
        );
        policy.observe(21, SLO + Duration::from_nanos(1));
        assert_eq!(decide(&mut policy, 30).take, 18);
    }

    #[test]
    fn a_batch_that_was_not_full_teaches_nothing() {
        let mut policy = Aimd::new(NonZeroU32::new(64).unwrap());
        decide(&mut policy, 1);
        policy.observe(1, SLO);
        policy.observe(1, SLO);
        assert_eq!(decide(&mut policy, 9).take, 2);
    }

    #[test]
    fn only_what_has_expired_is_given_up() {
        let mut policy = Aimd::new(NonZeroU32::MIN);
        assert_eq!(
            decide(&mut policy, 3).give_up,
            1,
            "the one that is due at the epoch"
        );
    }
}

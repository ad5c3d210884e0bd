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

#[cfg(test)]
mod tests {
    use skysail_core::arrivals::Arrivals;
    use skysail_core::batch::LatencyModel;
    use skysail_core::queue::{Bounds, DeadlineQueue};
    use skysail_core::time::Instant;

    use super::*;

    #[test]
    fn it_takes_what_is_there_expired_or_not() {
        let mut queue = DeadlineQueue::new(Bounds { count: 10, bytes: 10 });
        let situation = Situation {
            start: Instant::from_nanos(5),
            arrivals: &Arrivals::default(),
            latency: &LatencyModel::default(),
            others: &[],
            largest: usize::MAX,
            pause: Duration::ZERO,
        };
        let mut policy = Natural::new(NonZeroU32::new(3).unwrap());
        for (deadline, expected) in [(1, 1), (9, 2), (9, 3), (9, 3)] {
            queue.push(Instant::from_nanos(deadline), 1, ()).unwrap();
            let decision = policy.decide(&queue, &situation);
            assert_eq!((decision.give_up, decision.take), (0, expected));
        }
    }
}

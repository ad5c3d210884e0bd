//! The policy with a fixed largest size. It sends the waiting queries, up to that size, and gives up only queries
//! whose deadline has passed.

use std::num::NonZeroU32;
use std::time::Duration;

use super::{BatchPolicy, Decision, Situation};
use crate::queue::Deadlines;

/// The policy. It never waits for a batch to fill.
#[derive(Clone, Copy, Debug)]
pub struct FixedSize {
    size: usize,
}

impl FixedSize {
    /// Batches of up to `size`.
    pub fn new(size: NonZeroU32) -> Self {
        Self {
            size: size.get() as usize,
        }
    }
}

impl BatchPolicy for FixedSize {
    fn decide(&mut self, queue: &dyn Deadlines, situation: &Situation<'_>) -> Decision {
        let give_up = queue.expired(situation.start);
        Decision {
            give_up,
            leave: 0,
            take: self.size.min(queue.len() - give_up),
        }
    }

    fn observe(&mut self, _size: usize, _took: Duration) {}
}

#[cfg(test)]
mod tests {
    use super::super::LatencyModel;
    use super::*;
    use crate::arrivals::Arrivals;
    use crate::queue::{Bounds, DeadlineQueue};
    use crate::time::Instant;

    fn taking(give_up: usize, take: usize) -> Decision {
        Decision {
            give_up,
            leave: 0,
            take,
        }
    }

    fn decide(deadlines: &[u64], size: u32, now: u64) -> Decision {
        let mut queue = DeadlineQueue::new(Bounds {
            count: 100,
            bytes: 100,
        });
        for &deadline in deadlines {
            queue.push(Instant::from_nanos(deadline), 1, ()).unwrap();
        }
        let situation = Situation {
            start: Instant::from_nanos(now),
            arrivals: &Arrivals::default(),
            latency: &LatencyModel::default(),
            others: &[],
            largest: usize::MAX,
            pause: Duration::ZERO,
        };
        FixedSize::new(NonZeroU32::new(size).unwrap()).decide(&queue, &situation)
    }

    #[test]
    fn it_takes_what_is_there_up_to_its_size() {
        assert_eq!(decide(&[5, 6], 3, 0), taking(0, 2));
        assert_eq!(decide(&[5, 6, 7, 8], 3, 0), taking(0, 3));
        assert_eq!(decide(&[], 3, 0), taking(0, 0));
    }

    #[test]
    fn it_gives_up_what_has_expired_and_nothing_else() {
        assert_eq!(decide(&[1, 2, 3, 4], 3, 2), taking(2, 2));
        assert_eq!(decide(&[1, 2], 3, 9), taking(2, 0));
    }
}

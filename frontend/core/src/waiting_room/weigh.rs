//! How many queries fill the time that a batch should take, if their bytes tell what they cost.

use crate::batch::{Decision, Situation};
use crate::queue::{DeadlineQueue, Deadlines};

/// The size of a batch, corrected for its inputs' bytes: a policy sizes batches for average inputs. Of cheaper inputs
/// more are taken, as many as take no longer. Of dearer inputs fewer are taken, unless the first query is cautiously
/// expected to be in time with all of them.
pub(super) fn weigh<T>(queue: &DeadlineQueue<T>, decision: Decision, situation: &Situation<'_>) -> usize {
    let Decision { leave, take, .. } = decision;
    let latency = situation.latency;
    if !latency.knows_bytes() || take == 0 {
        return take;
    }
    let waiting = || queue.iter().skip(leave);
    let due = waiting().next().map_or(situation.start, |(due, _)| due);
    let in_time = due.seconds_after(situation.start) / latency.caution();
    let meant = latency.typical(take);
    let mut bytes = 0;
    let takes = waiting()
        .take(situation.largest.max(take))
        .scan(0, |size, (_, more)| {
            *size += 1;
            bytes += more;
            Some((*size, latency.typical_of(*size, bytes)))
        });
    let fits = |&(size, seconds): &(usize, f64)| seconds <= meant || (size <= take && seconds <= in_time);
    takes
        .take_while(fits)
        .last()
        .map_or(1, |(size, _)| size)
        .min(queue.len() - leave)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::arrivals::Arrivals;
    use crate::batch::LatencyModel;
    use crate::queue::Bounds;
    use crate::time::Instant;

    fn at(millis: u64) -> Instant {
        Instant::from_nanos(millis * 1_000_000)
    }

    /// The time of a batch: 5 ms, and 1 ms for each 1000 bytes.
    fn cost(bytes: usize) -> Duration {
        Duration::from_micros(5000 + bytes as u64)
    }

    /// Batch times learned from inputs of 1000 bytes on average, but of 500 in some batches and 1500 in others.
    fn learned() -> LatencyModel {
        let mut latency = LatencyModel::default();
        for n in 0..300 {
            let size = n * 29 % 20 + 1;
            let bytes = size * [500, 1000, 1500][n % 3];
            latency.observe_of(size, bytes, cost(bytes), false);
        }
        latency
    }

    /// How many of these inputs are taken, all due at `due` ms, if the policy says ten.
    fn taken(inputs: &[usize], due: u64, latency: &LatencyModel) -> usize {
        let mut queue = DeadlineQueue::new(Bounds {
            count: 1000,
            bytes: usize::MAX,
        });
        for &bytes in inputs {
            queue.push(at(due), bytes, ()).unwrap();
        }
        let situation = Situation {
            start: at(0),
            arrivals: &Arrivals::default(),
            latency,
            others: &[],
            largest: 64,
            pause: Duration::ZERO,
        };
        let decision = Decision {
            give_up: 0,
            leave: 0,
            take: 10,
        };
        weigh(&queue, decision, &situation)
    }

    #[test]
    fn of_cheap_inputs_more_are_taken_and_of_dear_ones_fewer() {
        let latency = learned();
        assert!((9..=11).contains(&taken(&[1000; 30], 16, &latency)));
        let cheap = taken(&[500; 30], 16, &latency);
        assert!((18..=21).contains(&cheap), "{cheap}");
        let dear = taken(&[2500; 30], 16, &latency);
        assert!((3..=4).contains(&dear), "{dear}");
    }

    #[test]
    fn dear_inputs_are_all_taken_if_they_are_in_time() {
        assert_eq!(taken(&[2500; 30], 100, &learned()), 10);
    }

    #[test]
    fn one_is_taken_however_dear_it_is() {
        assert_eq!(taken(&[90_000; 3], 16, &learned()), 1);
    }

    #[test]
    fn where_bytes_say_nothing_the_number_decides() {
        let mut latency = LatencyModel::default();
        for n in 0..300 {
            let size = n * 29 % 20 + 1;
            latency.observe_of(size, size * 1000, cost(size * 1000), false);
        }
        assert_eq!(taken(&[90_000; 30], 16, &latency), 10);
    }
}

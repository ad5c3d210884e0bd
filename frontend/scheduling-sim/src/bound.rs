//! The goodput that no policy can exceed.
//!
//! A replica answers at most μ = max n/l(n) queries per second in time, over the batches of n that take no
//! longer than the largest SLO, S: those in a larger one are late, all of them. Whoever comes within a time
//! t and is answered in time is so within t + S, so of these there are at most μ·(t + S), with μ summed over
//! the replicas. A fluid queue that drains at μ and holds μ·S takes as many as that condition allows for
//! all times at once, and more are impossible.
//!
//! Whole batches, cost that cannot be split, and not knowing what comes keep every policy below, by some
//! percent. Noise is ignored: batches that happen to be quick can lift a policy above the bound.

use std::num::NonZeroU32;
use std::time::Duration;

use skysail_core::time::Instant;

use crate::cost::Cost;
use crate::scenario::Query;

/// The largest share of the queries that replicas of these costs could answer in time.
pub fn bound(queries: &[Query], replicas: &[Cost], max_batch: NonZeroU32) -> f64 {
    let longest = queries
        .iter()
        .map(|query| query.budget())
        .max()
        .unwrap_or_default();
    let rate: f64 = replicas.iter().map(|cost| cost.peak(longest, max_batch)).sum();
    let mut fluid = Fluid::new(rate, longest);
    let taken: f64 = queries.iter().map(|query| fluid.take(query.arrival)).sum();
    taken / queries.len().max(1) as f64
}

/// A queue that holds and drains parts of queries.
struct Fluid {
    rate: f64,
    room: f64,
    level: f64,
    last: Instant,
}

impl Fluid {
    fn new(rate: f64, longest: Duration) -> Self {
        Self {
            rate,
            room: rate * longest.as_secs_f64(),
            level: 0.0,
            last: Instant::default(),
        }
    }

    /// The part of a query that it takes.
    fn take(&mut self, arrival: Instant) -> f64 {
        let drained = self.rate * arrival.saturating_since(self.last).as_secs_f64();
        self.last = arrival;
        self.level = (self.level - drained).max(0.0);
        let part = (self.room - self.level).clamp(0.0, 1.0);
        self.level += part;
        part
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Batches of n take 10 + n ms: in 20 ms ten are answered, so 500 a second.
    const COST: Cost = Cost {
        fixed_ms: 10.0,
        per_input_ms: 1.0,
    };

    fn at(millis: u64) -> Instant {
        Instant::from_nanos(millis * 1_000_000)
    }

    fn queries(arrivals: impl IntoIterator<Item = u64>) -> Vec<Query> {
        let query = |millis| Query {
            arrival: at(millis),
            deadline: at(millis + 20),
        };
        arrivals.into_iter().map(query).collect()
    }

    #[track_caller]
    fn assert_bound(queries: &[Query], replicas: &[Cost], expected: f64) {
        let actual = bound(queries, replicas, NonZeroU32::new(64).unwrap());
        assert!((actual - expected).abs() < 1e-9, "{actual} {expected}");
    }

    #[test]
    fn what_can_be_answered_within_the_slo_is_the_bound_of_a_crowd() {
        assert_bound(&queries([0; 40]), &[COST], 10.0 / 40.0);
        assert_bound(
            &queries([0; 40]),
            &[COST, COST.at_pace(0.5)],
            (10.0 + 30.0) / 40.0,
        );
        assert_bound(&queries([0; 10]), &[COST], 1.0);
    }

    #[test]
    fn what_drains_in_between_makes_room() {
        // Ten are taken at once; 10 ms later there is room for five of ten.
        let crowds = queries([0; 10].into_iter().chain([10; 10]));
        assert_bound(&crowds, &[COST], 15.0 / 20.0);
    }

    #[test]
    fn the_longest_slo_decides() {
        let mut crowd = queries([0; 80]);
        crowd[7].deadline = at(40);
        // In 40 ms, thirty are answered in a batch: 750 a second, of which thirty within 40 ms.
        assert_bound(&crowd, &[COST], 30.0 / 80.0);
    }

    #[test]
    fn where_no_batch_is_in_time_nothing_is() {
        assert_bound(&queries([0; 3]), &[COST.at_pace(2.0)], 0.0);
        assert_bound(&[], &[COST], 0.0);
    }
}

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
//! [`noise_aware`](crate::noise_aware) has a bound that is right with noise.

use std::num::NonZeroU32;
use std::time::Duration;

use skysail_core::time::Instant;

use crate::cost::Cost;
use crate::scenario::Query;

/// The largest share of the queries that replicas of these costs could answer in time.
pub fn bound(queries: &[Query], replicas: &[Cost], max_batch: NonZeroU32) -> f64 {
    let longest = longest(queries);
    let rate: f64 = replicas.iter().map(|cost| cost.peak(longest, max_batch)).sum();
    share(queries, longest, &Drain::steady(rate))
}

/// How many queries can be answered in time: between two times, at most so many and `ahead` more.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Drain {
    /// Per second.
    pub(crate) rate: f64,
    pub(crate) ahead: f64,
    /// Where it is lower in every second stretch of time.
    pub(crate) slow: Option<Slow>,
}

/// What is other in every second stretch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Slow {
    /// How long a stretch is, in seconds.
    pub(crate) stretch: f64,
    /// Per second.
    pub(crate) rate: f64,
    /// What there is more at the beginning of each.
    pub(crate) carried: f64,
}

impl Drain {
    fn steady(rate: f64) -> Self {
        Self {
            rate,
            ..Self::default()
        }
    }

    /// Between two times, in seconds.
    fn between(&self, from: f64, to: f64) -> f64 {
        match self.slow {
            None => self.rate * (to - from),
            Some(slow) => self.until(to, slow) - self.until(from, slow),
        }
    }

    fn until(&self, time: f64, slow: Slow) -> f64 {
        let pair = (time / (2.0 * slow.stretch)).floor();
        let within = time - pair * 2.0 * slow.stretch;
        let quick = within.min(slow.stretch);
        let of_pair = self.rate * quick
            + slow.rate * (within - quick)
            + if within >= slow.stretch { slow.carried } else { 0.0 };
        pair * ((self.rate + slow.rate) * slow.stretch + slow.carried) + of_pair
    }
}

/// The share of the queries that a fluid queue takes which drains like that, and holds what drains in the longest
/// SLO.
pub(crate) fn share(queries: &[Query], longest: Duration, drain: &Drain) -> f64 {
    let mut fluid = Fluid {
        drain,
        longest: longest.as_secs_f64(),
        level: 0.0,
        last: 0.0,
    };
    let taken: f64 = queries.iter().map(|query| fluid.take(query.arrival)).sum();
    taken / queries.len().max(1) as f64
}

/// A queue that holds and drains parts of queries.
struct Fluid<'a> {
    drain: &'a Drain,
    longest: f64,
    level: f64,
    last: f64,
}

impl Fluid<'_> {
    /// The part of a query that it takes.
    fn take(&mut self, arrival: Instant) -> f64 {
        let now = arrival.seconds_after(Instant::default());
        let drained = self.drain.between(self.last, now);
        self.last = now;
        self.level = (self.level - drained).max(0.0);
        let room = self.drain.between(now, now + self.longest) + self.drain.ahead;
        let part = (room - self.level).clamp(0.0, 1.0);
        self.level += part;
        part
    }
}

/// The longest that a query is given.
pub(crate) fn longest(queries: &[Query]) -> Duration {
    let budgets = queries.iter().map(|query| query.budget());
    budgets.max().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Batches of n take 10 + n ms: in 20 ms ten are answered, so 500 a second.
    const COST: Cost = Cost::line(10.0, 1.0);

    fn at(millis: u64) -> Instant {
        Instant::from_nanos(millis * 1_000_000)
    }

    fn queries(arrivals: impl IntoIterator<Item = u64>) -> Vec<Query> {
        let query = |millis| Query {
            arrival: at(millis),
            deadline: at(millis + 20),
            application: 0,
            bytes: 1000,
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
    fn what_drains_in_slow_stretches_is_less_and_begins_with_what_is_carried() {
        let slow = Slow {
            stretch: 5.0,
            rate: 40.0,
            carried: 3.0,
        };
        let drain = Drain {
            rate: 100.0,
            ahead: 0.0,
            slow: Some(slow),
        };
        for (from, to, expected) in [
            (0.0, 5.0 - 1e-9, 500.0),
            (0.0, 5.0, 503.0),
            (5.0, 6.0, 40.0),
            (4.0, 11.0, 100.0 + 3.0 + 200.0 + 100.0),
            (10.0, 20.0, 703.0),
            (12.0, 37.0, 300.0 + 203.0 + 703.0 + 500.0 + 80.0 + 3.0),
        ] {
            let drained = drain.between(from, to);
            assert!((drained - expected).abs() < 1e-6, "{from} {to}: {drained}");
        }
    }

    #[test]
    fn where_no_batch_is_in_time_nothing_is() {
        assert_bound(&queries([0; 3]), &[COST.at_pace(2.0)], 0.0);
        assert_bound(&[], &[COST], 0.0);
    }
}

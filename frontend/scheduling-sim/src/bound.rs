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
    let longest = queries.iter().map(|query| query.budget()).max().unwrap_or_default();
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

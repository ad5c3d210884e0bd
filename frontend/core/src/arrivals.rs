//! Recent arrivals: when queries came, and the budget of each. A batch policy expects the near future to be like
//! them.

use std::time::Duration;

use crate::time::Instant;

mod kinds;

use kinds::Kinds;

/// The number of arrivals that are remembered.
///
/// At capacity these are a few latency objectives: long enough for a steady rate, short enough to see a burst.
const REMEMBERED: usize = 256;

/// With fewer arrivals than this, the rate counts as 0.
const FEW: usize = 8;

/// Recent arrivals with similar budgets. A budget is the time from a query's arrival to its deadline.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Class {
    /// Their share of all recent arrivals.
    pub share: f64,
    /// Their mean budget, in seconds.
    pub budget: f64,
}

/// The recent arrivals of one version's queue. Recording one costs the same however many are remembered.
#[derive(Clone, Debug)]
pub struct Arrivals {
    /// Arrivals and their budgets, in a ring. Once it is full, the oldest is at `next`.
    recent: Vec<(Instant, Duration)>,
    next: usize,
    /// The sum of the budgets in `recent`.
    budgets: Duration,
    kinds: Kinds,
    /// The number of arrivals ever recorded.
    total: u64,
}

impl Default for Arrivals {
    fn default() -> Self {
        Self {
            recent: Vec::with_capacity(REMEMBERED),
            next: 0,
            budgets: Duration::ZERO,
            kinds: Kinds::default(),
            total: 0,
        }
    }
}

impl Arrivals {
    /// A query came, and is to be answered within `budget`.
    pub fn record(&mut self, at: Instant, budget: Duration) {
        self.total += 1;
        self.budgets = self.budgets.saturating_add(budget);
        self.kinds.add(budget);
        if self.recent.len() < REMEMBERED {
            self.recent.push((at, budget));
            return;
        }
        let (_, oldest) = std::mem::replace(&mut self.recent[self.next], (at, budget));
        self.budgets = self.budgets.saturating_sub(oldest);
        self.kinds.remove(oldest);
        self.next = (self.next + 1) % REMEMBERED;
    }

    /// The number of arrivals ever recorded.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// Arrivals per second. 0 while too few came to tell.
    #[expect(clippy::cast_precision_loss, reason = "a few hundred at most")]
    pub fn per_second(&self, now: Instant) -> f64 {
        /// The least span of time, in seconds: arrivals of one instant are no infinite rate.
        const LEAST_SECONDS: f64 = 1e-3;
        if self.recent.len() < FEW {
            return 0.0;
        }
        let oldest = self.recent[self.next % self.recent.len()].0;
        let span = now.saturating_since(oldest).as_secs_f64();
        self.recent.len() as f64 / span.max(LEAST_SECONDS)
    }

    /// Appends the classes of recent arrivals, at most `most`, tightest budget first.
    pub fn classes(&self, most: usize, into: &mut Vec<Class>) {
        self.kinds.classes(most, into);
    }

    /// The mean budget of recent arrivals.
    pub fn mean_budget(&self) -> Option<Duration> {
        let count = u32::try_from(self.recent.len()).ok().filter(|&count| count > 0)?;
        Some(self.budgets / count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steady(count: u64) -> Arrivals {
        let mut arrivals = Arrivals::default();
        for nth in 0..count {
            arrivals.record(at(nth), Duration::from_micros(nth));
        }
        arrivals
    }

    fn at(millis: u64) -> Instant {
        Instant::from_nanos(millis * 1_000_000)
    }

    #[test]
    fn of_a_few_arrivals_nothing_is_said() {
        assert_eq!(steady(7).per_second(at(7)).to_bits(), 0.0_f64.to_bits());
        assert_eq!(Arrivals::default().mean_budget(), None);
    }

    #[test]
    fn the_rate_is_that_of_the_last_few_hundred() {
        for count in [100, 256, 1000] {
            let rate = steady(count).per_second(at(count));
            assert_eq!(steady(count).total(), count);
            assert!((rate - 1000.0).abs() < 0.001, "{rate}");
        }
        let silence = steady(1000).per_second(at(2000));
        assert!(silence < 300.0, "{silence}");
    }
}

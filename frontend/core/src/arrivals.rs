//! When queries came lately, and how long each was given: what a batch policy expects of the near future.

use std::time::Duration;

use crate::time::Instant;

/// How many arrivals are remembered.
///
/// At capacity that is a few latency objectives: long enough for a steady rate, short enough to see a burst.
const REMEMBERED: usize = 256;

/// With fewer arrivals than this, nothing is said of their rate.
const FEW: usize = 8;

/// The last arrivals at one version's queue. Recording one writes 16 bytes.
#[derive(Clone, Debug)]
pub struct Arrivals {
    /// A ring: the oldest is at `next` once it is full.
    recent: Vec<(Instant, Duration)>,
    next: usize,
}

impl Default for Arrivals {
    fn default() -> Self {
        Self {
            recent: Vec::with_capacity(REMEMBERED),
            next: 0,
        }
    }
}

impl Arrivals {
    /// A query came, and is to be answered within `budget`.
    pub fn record(&mut self, at: Instant, budget: Duration) {
        if self.recent.len() < REMEMBERED {
            self.recent.push((at, budget));
            return;
        }
        self.recent[self.next] = (at, budget);
        self.next = (self.next + 1) % REMEMBERED;
    }

    /// Arrivals per second; zero while too few came to tell.
    #[expect(clippy::cast_precision_loss, reason = "a few hundred at most")]
    pub fn per_second(&self, now: Instant) -> f64 {
        /// Arrivals of one instant are no infinite rate.
        const LEAST_SECONDS: f64 = 1e-3;
        if self.recent.len() < FEW {
            return 0.0;
        }
        let oldest = self.recent[self.next % self.recent.len()].0;
        let span = now.saturating_since(oldest).as_secs_f64();
        self.recent.len() as f64 / span.max(LEAST_SECONDS)
    }

    /// What the last arrivals were given, newest first.
    pub fn budgets(&self) -> impl Iterator<Item = Duration> + Clone + '_ {
        let (newer, older) = self.recent.split_at(self.next);
        newer.iter().rev().chain(older.iter().rev()).map(|&(_, budget)| budget)
    }

    /// The mean of them.
    pub fn mean_budget(&self) -> Option<Duration> {
        let count = u32::try_from(self.recent.len()).ok().filter(|&count| count > 0)?;
        Some(self.recent.iter().map(|&(_, budget)| budget / count).sum())
    }
}

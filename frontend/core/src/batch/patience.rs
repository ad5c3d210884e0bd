//! How long a batch is waited for, and how long the way to a replica and back takes.

use std::time::Duration;

use super::latency::LatencyModel;

/// A batch is overdue after `OVERDUE * cautious + OVERDUE_SLACK`, where `cautious` is its cautiously expected time.
const OVERDUE: f64 = 4.0;

/// The slack of [`OVERDUE`]: schedulers and networks pause now and then without anything being wrong.
const OVERDUE_SLACK: Duration = Duration::from_millis(50);

/// A replica is hung after `HUNG * cautious`, at least [`LEAST_BEFORE_CLOSE`]: models stall, and attaching again has
/// its price.
const HUNG: f64 = 20.0;

/// The least time before a replica counts as hung.
const LEAST_BEFORE_CLOSE: Duration = Duration::from_secs(10);

/// The longest that any batch is waited for. It holds for a replica whose times are unknown, too: some load their
/// model with the first batch.
const MOST_BEFORE_CLOSE: Duration = Duration::from_secs(300);

/// How long a batch is waited for. Both times count from when the replica was expected to start on it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Patience {
    /// After this the batch's queries are handed to another replica, if one can be counted on.
    pub overdue: Duration,
    /// After this the replica is given up.
    pub hung: Duration,
}

impl Patience {
    /// The patience with a batch of this size.
    pub fn with(latency: &LatencyModel, size: usize) -> Self {
        if !latency.is_known() {
            return Self {
                overdue: MOST_BEFORE_CLOSE,
                hung: MOST_BEFORE_CLOSE,
            };
        }
        let cautious = latency.caution() * latency.typical(size);
        let times = |factor: f64| Duration::try_from_secs_f64(factor * cautious).unwrap_or(MOST_BEFORE_CLOSE);
        Self {
            overdue: times(OVERDUE)
                .saturating_add(OVERDUE_SLACK)
                .min(MOST_BEFORE_CLOSE),
            hung: times(HUNG).clamp(LEAST_BEFORE_CLOSE, MOST_BEFORE_CLOSE),
        }
    }

    /// The patience with a replica's first batch, while only the times of other replicas are known: the replica may
    /// load its model with that batch.
    #[must_use]
    pub fn with_a_first_batch(self) -> Self {
        let hung = MOST_BEFORE_CLOSE;
        Self { hung, ..self }
    }
}

/// The time of a query's answer beside the model: the way to the replica and back, and to the client.
///
/// Smoothed as TCP smooths round trips (RFC 6298): a mean, and a mean deviation from it.
#[derive(Clone, Copy, Debug)]
pub struct Overhead {
    mean: Duration,
    deviation: Duration,
}

impl Default for Overhead {
    /// The overhead of a loopback connection on a busy machine.
    fn default() -> Self {
        Self {
            mean: Duration::from_micros(400),
            deviation: Duration::from_micros(50),
        }
    }
}

impl Overhead {
    /// The overhead of a replica that is reached without any way, as in a simulation.
    pub const NONE: Self = Self {
        mean: Duration::ZERO,
        deviation: Duration::ZERO,
    };

    /// A batch took `in_all` from sending to answer, and `inside` of it was in the container.
    pub fn observe(&mut self, in_all: Duration, inside: Duration) {
        let sample = in_all.saturating_sub(inside);
        self.deviation = (self.deviation * 3 + self.mean.abs_diff(sample)) / 4;
        self.mean = (self.mean * 7 + sample) / 8;
    }

    /// The time to allow for: the mean and two deviations.
    pub fn allowance(&self) -> Duration {
        self.mean + 2 * self.deviation
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(micros: u64) -> LatencyModel {
        let mut latency = LatencyModel::default();
        for _ in 0..20 {
            latency.observe(1, Duration::from_micros(micros), false);
        }
        latency
    }

    #[test]
    fn nothing_is_expected_of_a_replica_of_which_nothing_is_known() {
        let patience = Patience::with(&LatencyModel::default(), 1);
        assert_eq!(patience.hung, MOST_BEFORE_CLOSE);
    }

    #[test]
    fn a_batch_is_overdue_long_before_its_replica_is_given_up() {
        for micros in [1, 1000, 1_000_000, 1_000_000_000] {
            let patience = Patience::with(&known(micros), 1);
            assert!(patience.overdue <= patience.hung, "{patience:?}");
            assert!(patience.overdue > Duration::from_micros(micros).min(Duration::from_secs(299)));
            assert!(patience.hung <= MOST_BEFORE_CLOSE);
        }
    }

    #[test]
    fn the_allowance_follows_what_is_measured() {
        let mut overhead = Overhead::default();
        for _ in 0..100 {
            overhead.observe(Duration::from_millis(30), Duration::from_millis(25));
        }
        let allowed = overhead.allowance();
        assert!(
            allowed.abs_diff(Duration::from_millis(5)) < Duration::from_micros(100),
            "{allowed:?}"
        );
    }
}

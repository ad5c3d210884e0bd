//! The recent batch times of a replica, for people and for the control role.

use std::collections::VecDeque;
use std::time::Duration;

use parking_lot::Mutex;
use skysail_core::batch::LatencyModel;
use skysail_proto::admin::TimesFit;

/// The number of batches remembered: enough for a 99th percentile.
const REMEMBERED: usize = 128;

/// The batch times of one replica. Its batcher writes once a batch, others look once a second.
#[derive(Debug, Default)]
pub(crate) struct BatchTimes(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    /// The model times of the last batches, in microseconds.
    recent: VecDeque<u64>,
    /// The learned time of a batch of one, in seconds; `two` is that of a batch of two.
    one: f64,
    two: f64,
    fit: Option<TimesFit>,
}

/// How fast a replica is.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Speed {
    /// The learned time of a batch of one input, in microseconds; zero while nothing is known.
    pub fixed_micros: f64,
    /// The learned time that each further input adds, in microseconds.
    pub per_input_micros: f64,
    /// The 99th percentile of its last batches' model times, in microseconds; zero before the first batch.
    pub p99_micros: u64,
    /// How its batch times are predicted, and how well that fits.
    pub fit: Option<TimesFit>,
}

impl BatchTimes {
    /// Records the time of a batch, and what was learned from it.
    pub(crate) fn observe(&self, took: Duration, latency: &LatencyModel) {
        let known = &mut *self.0.lock();
        if known.recent.len() == REMEMBERED {
            known.recent.pop_front();
        }
        known
            .recent
            .push_back(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
        known.learn(latency);
    }

    /// Records what was learned before the first batch here.
    pub(crate) fn learned(&self, latency: &LatencyModel) {
        self.0.lock().learn(latency);
    }

    /// The learned times, and the 99th percentile of the last batches.
    pub(crate) fn speed(&self) -> Speed {
        const MICROS: f64 = 1e6;
        let known = self.0.lock();
        let mut sorted: Vec<_> = known.recent.iter().copied().collect();
        sorted.sort_unstable();
        // The smallest time that 99 of 100 batches do not exceed.
        let index = (sorted.len() * 99).div_ceil(100).saturating_sub(1);
        Speed {
            fixed_micros: known.one * MICROS,
            per_input_micros: (known.two - known.one) * MICROS,
            p99_micros: sorted.get(index).copied().unwrap_or_default(),
            fit: known.fit,
        }
    }
}

impl Known {
    fn learn(&mut self, latency: &LatencyModel) {
        (self.one, self.two) = (latency.on_the_line(1), latency.on_the_line(2));
        self.fit = latency.fit();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_speed_is_what_was_learned_and_the_tail_that_of_the_last_batches() {
        let times = BatchTimes::default();
        assert_eq!(times.speed(), Speed::default());
        let mut latency = LatencyModel::default();
        let micros = |size: usize| Duration::from_micros(5000 + 1000 * size as u64);
        for size in (1..=REMEMBERED).cycle().take(1000) {
            latency.observe(size, micros(size), false);
        }
        times.learned(&latency);
        let speed = times.speed();
        assert!((speed.fixed_micros - 6000.0).abs() < 60.0, "{speed:?}");
        assert!((speed.per_input_micros - 1000.0).abs() < 10.0, "{speed:?}");
        assert_eq!(speed.fit, latency.fit());
        times.observe(Duration::from_secs(9), &latency);
        assert_eq!(times.speed().p99_micros, 9_000_000);
        for nth in 1..=100 {
            times.observe(Duration::from_micros(nth), &latency);
        }
        for _ in 0..28 {
            times.observe(Duration::from_micros(1), &latency);
        }
        assert_eq!(times.speed().p99_micros, 99);
    }
}

//! What a replica's batches took lately, for people and for the control role.

use std::collections::VecDeque;
use std::time::Duration;

use parking_lot::Mutex;
use skysail_core::batch::LatencyModel;
use skysail_proto::admin::TimesFit;

/// So many batches are remembered: enough for a 99th percentile.
const REMEMBERED: usize = 128;

/// What is known of one replica's batch times. Its batcher writes, once a batch; others look, once a second.
#[derive(Debug, Default)]
pub(crate) struct BatchTimes(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    /// The model times of the last batches, in microseconds.
    recent: VecDeque<u64>,
    /// Seconds of a batch of one, and of two.
    one: f64,
    two: f64,
    fit: Option<TimesFit>,
}

/// How fast a replica is.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Speed {
    /// What a batch of one input takes, as learned, in microseconds; zero while nothing is known.
    pub fixed_micros: f64,
    /// What each further input adds, as learned, in microseconds.
    pub per_input_micros: f64,
    /// The 99th percentile of its last batches' model times, in microseconds; zero before the first.
    pub p99_micros: u64,
    /// What its batch times are expected by, and how well that fits.
    pub fit: Option<TimesFit>,
}

impl BatchTimes {
    /// A batch took so long, and this is what was learned.
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

    /// This was learned before its first batch here.
    pub(crate) fn learned(&self, latency: &LatencyModel) {
        self.0.lock().learn(latency);
    }

    /// How fast it is.
    pub(crate) fn speed(&self) -> Speed {
        const MICROS: f64 = 1e6;
        let known = self.0.lock();
        let mut sorted: Vec<_> = known.recent.iter().copied().collect();
        sorted.sort_unstable();
        // The smallest that 99 of 100 do not exceed.
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

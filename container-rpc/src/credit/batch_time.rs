//! How long a batch will take in this container, learned from earlier batches.

use std::time::Duration;

/// A line through (inputs, time), fitted by least squares in which older samples fade.
///
/// It need only be good enough to open a credit in time, where the frontend does not say how long it expects a batch
/// to take. One slow batch does not spoil it: a sample counts for at most [`OUTLIER`] times its expected time.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct BatchTime {
    /// Faded sums over the samples; times in microseconds.
    weight: f64,
    inputs: f64,
    inputs_squared: f64,
    micros: f64,
    inputs_times_micros: f64,
}

/// Each later sample multiplies a sample's weight by this: about the last thirty count.
const FADE: f64 = 31.0 / 32.0;

/// A longer time counts as this many times the expected time.
const OUTLIER: f64 = 4.0;

/// The least expected time when outliers are judged, in microseconds: shorter times are not measurable.
const LEAST_MICROS: f64 = 1.0;

#[expect(
    clippy::cast_precision_loss,
    reason = "batches are far smaller than 2^52 inputs"
)]
impl BatchTime {
    /// How long a batch of this many inputs will take. `None` before the first sample.
    pub(super) fn predict(&self, inputs: usize) -> Option<Duration> {
        self.micros_for(inputs as f64)
            .map(|micros| Duration::from_secs_f64(micros / 1e6))
    }

    pub(super) fn observe(&mut self, inputs: usize, took: Duration) {
        let inputs = inputs as f64;
        let most = self
            .micros_for(inputs)
            .map_or(f64::INFINITY, |micros| OUTLIER * micros.max(LEAST_MICROS));
        let micros = (took.as_secs_f64() * 1e6).min(most);
        let fade = |sum: &mut f64, sample: f64| *sum = *sum * FADE + sample;
        fade(&mut self.weight, 1.0);
        fade(&mut self.inputs, inputs);
        fade(&mut self.inputs_squared, inputs * inputs);
        fade(&mut self.micros, micros);
        fade(&mut self.inputs_times_micros, inputs * micros);
    }

    fn micros_for(&self, inputs: f64) -> Option<f64> {
        if self.weight == 0.0 {
            return None;
        }
        let mean_inputs = self.inputs / self.weight;
        let mean_micros = self.micros / self.weight;
        let variance = self.inputs_squared / self.weight - mean_inputs * mean_inputs;
        let covariance = self.inputs_times_micros / self.weight - mean_inputs * mean_micros;
        // If all batches had about the same size, their times show no slope.
        let seen = if variance > 0.01 {
            covariance / variance
        } else {
            0.0
        };
        // Neither a larger batch nor an empty one takes less than nothing.
        let slope = seen.clamp(0.0, mean_micros / mean_inputs.max(1.0));
        Some((mean_micros + slope * (inputs - mean_inputs)).max(0.0))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn learned(samples: impl IntoIterator<Item = (usize, u64)>) -> BatchTime {
        let mut time = BatchTime::default();
        for (inputs, micros) in samples {
            time.observe(inputs, Duration::from_micros(micros));
        }
        time
    }

    #[test]
    fn before_the_first_batch_nothing_is_predicted() {
        assert_eq!(BatchTime::default().predict(1), None);
    }

    #[test]
    fn one_slow_batch_does_not_spoil_it() {
        let mut time = learned((0..100).map(|_| (1, 1000)));
        time.observe(1, Duration::from_secs(10));
        let predicted = time.predict(1).unwrap();
        assert!(predicted < Duration::from_micros(1200), "{predicted:?}");
    }

    proptest! {
        #[test]
        fn a_line_is_found(fixed in 10u64..10_000, each in 0u64..1000, sizes in prop::collection::vec(1usize..64, 40..80)) {
            prop_assume!(sizes.iter().any(|size| size.abs_diff(sizes[0]) > 8));
            // Sizes and times grow together at first, so that no sample looks like an outlier.
            let mut sizes = sizes;
            sizes.sort_unstable();
            let line = |n: usize| fixed + each * n as u64;
            let time = learned(sizes.iter().cycle().take(400).map(|&n| (n, line(n))));
            for n in [sizes[0], sizes[sizes.len() - 1]] {
                let predicted = time.predict(n).unwrap().as_micros() as f64;
                let expected = line(n) as f64;
                prop_assert!((predicted - expected).abs() <= 2.0 + 0.02 * expected, "{} is not {}", predicted, expected);
            }
        }

        #[test]
        fn predictions_are_never_wild(samples in prop::collection::vec((1usize..1000, 0u64..10_000_000), 1..50), n in 1usize..1000) {
            let time = learned(samples.iter().copied());
            let most = samples.iter().map(|sample| sample.1).max().unwrap();
            // The line rises at most from nothing through the mean.
            let bound = Duration::from_micros(most.saturating_mul(1001));
            prop_assert!(time.predict(n).unwrap() <= bound);
        }
    }
}

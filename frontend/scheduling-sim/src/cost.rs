//! What a batch takes inside the model, and what follows from it.

use std::num::NonZeroU32;
use std::time::Duration;

use crate::shape::Shape;

/// A batch of n takes `fixed_ms + n × per_input_ms` milliseconds, noise apart, or another [`Shape`] of n in its place.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cost {
    /// What a batch takes however small it is.
    pub fixed_ms: f64,
    /// What each input adds.
    pub per_input_ms: f64,
    /// How the time grows with the inputs.
    pub shape: Shape,
}

impl Cost {
    /// Each input adds the same.
    pub const fn line(fixed_ms: f64, per_input_ms: f64) -> Self {
        Self {
            fixed_ms,
            per_input_ms,
            shape: Shape::Line,
        }
    }

    /// What a batch of this size takes, if all inputs cost the same.
    pub fn seconds(self, size: usize) -> f64 {
        self.seconds_of(size as f64)
    }

    /// What a batch takes whose inputs cost so many times as much as an average one, together.
    pub fn seconds_of(self, inputs: f64) -> f64 {
        (self.fixed_ms + self.per_input_ms * self.shape.on_the_line(inputs)) * 1e-3
    }

    /// The cost on a replica that takes `pace` times as long.
    pub fn at_pace(self, pace: f64) -> Self {
        Self {
            fixed_ms: self.fixed_ms * pace,
            per_input_ms: self.per_input_ms * pace,
            ..self
        }
    }

    /// Queries per second at load 1: with the best of the batches that take at most half of the SLO, so that a query
    /// which just missed a batch is in time with the next. Where none does, it is a batch of one.
    pub fn capacity(self, slo: Duration, max_batch: NonZeroU32) -> f64 {
        self.peak(slo / 2, max_batch).max(1.0 / self.seconds(1))
    }

    /// Queries per second with the best size whose batches take no longer than `longest`; 0 if there is none.
    pub fn peak(self, longest: Duration, max_batch: NonZeroU32) -> f64 {
        /// Virtual time is in whole nanoseconds, and a batch's is rounded.
        const ROUNDING: f64 = 1e-9;
        (1..=max_batch.get() as usize)
            .filter(|&size| self.seconds(size) <= longest.as_secs_f64() + ROUNDING)
            .map(|size| size as f64 / self.seconds(size))
            .fold(0.0, f64::max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLO: Duration = Duration::from_millis(50);

    fn cost(fixed_ms: f64, per_input_ms: f64) -> Cost {
        Cost::line(fixed_ms, per_input_ms)
    }

    fn most(size: u32) -> NonZeroU32 {
        NonZeroU32::new(size).unwrap()
    }

    #[track_caller]
    fn assert_close(actual: f64, expected: f64) {
        assert!((actual / expected - 1.0).abs() < 1e-9, "{actual} {expected}");
    }

    #[test]
    fn capacity_is_that_of_the_batch_that_takes_half_of_the_slo() {
        assert_close(cost(5.0, 1.0).capacity(SLO, most(64)), 20.0 / 0.025);
        assert_close(cost(1.0, 4.0).capacity(SLO, most(64)), 6.0 / 0.025);
        assert_close(cost(10.0, 2.0).capacity(4 * SLO, most(64)), 45.0 / 0.1);
    }

    #[test]
    fn capacity_is_of_batches_from_one_to_the_largest() {
        assert_close(cost(5.0, 1.0).capacity(SLO, most(10)), 10.0 / 0.015);
        assert_close(cost(40.0, 1.0).capacity(SLO, most(64)), 1.0 / 0.041);
        assert_close(cost(5.0, 0.0).capacity(SLO, most(64)), 64.0 / 0.005);
        assert_close(cost(26.0, 0.0).capacity(SLO, most(64)), 1.0 / 0.026);
    }

    #[test]
    fn the_peak_is_that_of_the_largest_batch_in_time() {
        assert_close(cost(5.0, 1.0).peak(SLO, most(64)), 45.0 / 0.05);
        assert_close(cost(5.0, 1.0).peak(SLO, most(20)), 20.0 / 0.025);
        assert_eq!(cost(60.0, 1.0).peak(SLO, most(64)).to_bits(), 0.0_f64.to_bits());
    }

    #[test]
    fn capacity_is_that_of_the_best_batch_whatever_the_shape() {
        let shaped = |shape: &str| Cost {
            shape: shape.parse().unwrap(),
            ..cost(5.0, 1.0)
        };
        // 16 take 21 ms, 17 already 37; of squares, nine take 5 + 81/16 ms.
        assert_close(shaped("pow2").capacity(SLO, most(64)), 16.0 / 0.021);
        assert_close(shaped("step:20").capacity(SLO, most(64)), 20.0 / 0.025);
        assert_close(shaped("quadratic").capacity(SLO, most(64)), 9.0 / 0.010_062_5);
    }

    #[test]
    fn a_replica_of_half_the_speed_has_half_the_peak() {
        let longest = Duration::from_secs(10);
        let whole = cost(5.0, 1.0).peak(longest, most(64));
        assert_close(cost(5.0, 1.0).at_pace(2.0).peak(longest, most(64)), whole / 2.0);
    }
}

//! How the bytes of a batch's inputs change its time, beside the number of inputs.
//!
//! An input of more bytes may cost more: a longer text, a larger image. Let `excess` be the batch's bytes beyond
//! those of as many average inputs. The batch takes `per_byte * excess` longer. `per_byte` is a least-squares fit of
//! the times that the number of inputs leaves unexplained, in which older batches fade. It is used only if it
//! explains much of them.

use super::fit::{FADE, FEW, MOST_ERROR};

/// Bytes are used once the error with them is below this fraction of the error without.
const CLEARLY_BETTER: f64 = 0.8;

/// Bytes are no longer used once the error with them is above this fraction of the error without.
const NO_BETTER: f64 = 0.95;

/// A batch of small inputs is expected to take at least this fraction of the time for average inputs.
const LEAST_PART: f64 = 0.1;

/// The fit, its errors, and whether it is used.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Bytes {
    batches: u32,
    /// Faded sums. Each batch has the weight 1 ÷ expected².
    inputs: f64,
    bytes: f64,
    excess_squared: f64,
    excess_times_rest: f64,
    /// Faded means of |ln(actual ÷ expected)|, without and with bytes.
    error_without: f64,
    error_with: f64,
    is_used: bool,
}

impl Bytes {
    /// Whether expected times take bytes into account.
    pub(super) fn is_used(self) -> bool {
        self.is_used
    }

    /// The mean error of the times expected with bytes.
    pub(super) fn error(self) -> f64 {
        self.error_with
    }

    /// The time of a batch of these bytes, if as many average inputs take `seconds`.
    pub(super) fn adjust(self, seconds: f64, inputs: f64, bytes: f64) -> f64 {
        match self.is_used {
            true => self.with(seconds, inputs, bytes),
            false => seconds,
        }
    }

    /// The time that as many average inputs would have taken. The inverse of [`Self::adjust`].
    pub(super) fn of_average(self, seconds: f64, inputs: f64, bytes: f64) -> f64 {
        match self.is_used {
            true => (seconds - self.per_byte() * self.excess(inputs, bytes)).max(LEAST_PART * seconds),
            false => seconds,
        }
    }

    fn with(self, seconds: f64, inputs: f64, bytes: f64) -> f64 {
        (seconds + self.per_byte() * self.excess(inputs, bytes)).max(LEAST_PART * seconds)
    }

    fn excess(self, inputs: f64, bytes: f64) -> f64 {
        match self.inputs > 0.0 {
            true => bytes - inputs * self.bytes / self.inputs,
            false => 0.0,
        }
    }

    fn per_byte(self) -> f64 {
        match self.excess_squared > 0.0 {
            true => (self.excess_times_rest / self.excess_squared).max(0.0),
            false => 0.0,
        }
    }

    /// A batch took `seconds`; as many average inputs were expected to take `expected`.
    pub(super) fn observe(&mut self, seconds: f64, expected: f64, inputs: f64, bytes: f64) {
        self.batches = self.batches.saturating_add(1);
        let part = (1.0 / f64::from(self.batches)).max(1.0 - FADE);
        let error = |expected: f64| (seconds / expected).ln().abs().min(MOST_ERROR);
        self.error_without += part * (error(expected) - self.error_without);
        self.error_with += part * (error(self.with(expected, inputs, bytes)) - self.error_with);
        self.is_used = match self.is_used {
            true => self.error_with < NO_BETTER * self.error_without,
            false => self.batches >= FEW && self.error_with < CLEARLY_BETTER * self.error_without,
        };
        let excess = self.excess(inputs, bytes);
        // A stall says nothing about bytes, so the unexplained time is bounded.
        let rest = (seconds - expected).clamp(-expected, expected);
        let weight = expected.powi(-2);
        let fade = |sum: &mut f64, sample: f64| *sum = *sum * FADE + sample;
        fade(&mut self.excess_squared, weight * excess * excess);
        fade(&mut self.excess_times_rest, weight * excess * rest);
        fade(&mut self.inputs, inputs);
        fade(&mut self.bytes, bytes);
    }

    /// The replica changed its speed: everything takes `factor` times as long from now on.
    pub(super) fn scale(&mut self, factor: f64) {
        // The weights are 1 ÷ expected², and the unexplained time in `excess_times_rest` grows by `factor`.
        self.excess_squared /= factor * factor;
        self.excess_times_rest /= factor;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// After batches of eight inputs, of which each takes a millisecond, and 2 µs more for each of `counted` bytes beyond 1000.
    fn after(counted: f64) -> Bytes {
        let mut bytes = Bytes::default();
        for n in 0..300_u32 {
            let of_batch = 8000.0 + 100.0 * f64::from(n * 37 % 41) - 2000.0;
            let noise = 1.0 + 0.02 * (f64::from(n * 29 % 7) - 3.0);
            let seconds = (0.008 + 2e-6 * counted * (of_batch - 8000.0)) * noise;
            bytes.observe(seconds, 0.008, 8.0, of_batch);
        }
        bytes
    }

    #[test]
    fn bytes_are_used_where_they_explain_the_times() {
        let bytes = after(1.0);
        assert!(bytes.is_used() && bytes.error() < 0.05, "{bytes:?}");
        let adjusted = bytes.adjust(0.008, 8.0, 10_000.0);
        assert!((adjusted / 0.012 - 1.0).abs() < 0.03, "{adjusted}");
        let average = bytes.of_average(0.012, 8.0, 10_000.0);
        assert!((average / 0.008 - 1.0).abs() < 0.05, "{average}");
    }

    #[test]
    fn bytes_that_say_nothing_of_the_time_are_not_used() {
        let bytes = after(0.0);
        assert!(!bytes.is_used(), "{bytes:?}");
        assert_eq!(bytes.adjust(0.008, 8.0, 90_000.0).to_bits(), 0.008_f64.to_bits());
    }

    #[test]
    fn a_change_of_speed_is_one_for_bytes_too() {
        let mut bytes = after(1.0);
        bytes.scale(3.0);
        let adjusted = bytes.adjust(0.024, 8.0, 10_000.0);
        assert!((adjusted / 0.036 - 1.0).abs() < 0.03, "{adjusted}");
    }
}

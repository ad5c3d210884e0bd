//! The recent mean of a number that varies from batch to batch.

/// An exponentially fading mean.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Mean(Option<f64>);

/// The newest sample has a weight of `1 / NEWEST`. The numbers of inputs that a frontend sends and has waiting vary
/// from batch to batch; a share that followed each of them would be wrong for the next.
const NEWEST: f64 = 16.0;

impl Mean {
    /// The mean; 0 before the first sample.
    pub(super) fn get(self) -> f64 {
        self.0.unwrap_or_default()
    }

    #[expect(clippy::cast_precision_loss, reason = "queues are far shorter than 2^52")]
    pub(super) fn observe(&mut self, sample: usize) {
        let sample = sample as f64;
        let before = self.0.unwrap_or(sample);
        self.0 = Some(before + (sample - before) / NEWEST);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_sample_is_believed_and_later_ones_move_the_mean_a_little() {
        let mut mean = Mean::default();
        assert!(mean.get().abs() < f64::EPSILON);
        mean.observe(16);
        assert!((mean.get() - 16.0).abs() < 1e-9);
        mean.observe(32);
        assert!((mean.get() - 17.0).abs() < 1e-9);
        for _ in 0..200 {
            mean.observe(0);
        }
        assert!(mean.get() < 0.01, "{mean:?}");
    }
}

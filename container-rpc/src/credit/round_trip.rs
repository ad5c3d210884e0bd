//! How long a credit takes to come back as a batch.

use std::time::Duration;

/// A smoothed round trip that follows shorter samples quickly and longer ones slowly.
///
/// A sample is mostly long for another reason than the way itself: a busy frontend, a large batch, a scheduler's
/// pause. And an overestimated round trip opens every credit too early.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct RoundTrip(Option<Duration>);

/// Assumed before the first sample: more than a local network needs.
const UNKNOWN: Duration = Duration::from_millis(1);

impl RoundTrip {
    pub(super) fn get(self) -> Duration {
        self.0.unwrap_or(UNKNOWN)
    }

    pub(super) fn observe(&mut self, sample: Duration) {
        self.0 = Some(match self.0 {
            None => sample,
            Some(smoothed) if sample < smoothed => smoothed - (smoothed - sample) / 4,
            Some(smoothed) => smoothed + (sample - smoothed) / 32,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shorter_samples_weigh_more_than_longer_ones() {
        let mut round_trip = RoundTrip::default();
        round_trip.observe(Duration::from_micros(100));
        round_trip.observe(Duration::from_micros(420));
        assert_eq!(round_trip.get(), Duration::from_micros(110));
        round_trip.observe(Duration::from_micros(70));
        assert_eq!(round_trip.get(), Duration::from_micros(100));
    }
}

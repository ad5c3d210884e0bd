//! The rate at which a counter increases.

use std::time::Duration;

use skysail_core::time::Instant;

/// The shortest span that a rate is taken over.
const LEAST_SPAN: Duration = Duration::from_secs(1);

/// The rate of a counter that is read at irregular times.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rate {
    count: u64,
    since: Instant,
    per_second: f64,
}

impl Rate {
    /// The rate of a counter that stood at `count` at the first reading.
    pub(super) fn from(count: u64, now: Instant) -> Self {
        Self {
            count,
            since: now,
            per_second: 0.0,
        }
    }

    /// The increase per second since the last rate was taken, over at least [`LEAST_SPAN`].
    #[expect(
        clippy::cast_precision_loss,
        reason = "what is counted in seconds is far below 2^52"
    )]
    pub(super) fn per_second(&mut self, count: u64, now: Instant) -> f64 {
        let span = now.saturating_since(self.since);
        if span >= LEAST_SPAN {
            let counted = count.saturating_sub(self.count);
            *self = Self {
                count,
                since: now,
                per_second: counted as f64 / span.as_secs_f64(),
            };
        }
        self.per_second
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Instant {
        Instant::from_nanos(millis * 1_000_000)
    }

    #[test]
    #[expect(clippy::float_cmp, reason = "exact quotients")]
    fn a_rate_is_that_of_the_last_second_or_longer() {
        let mut rate = Rate::from(5, at(0));
        assert_eq!(rate.per_second(100, at(999)), 0.0);
        assert_eq!(rate.per_second(105, at(1000)), 100.0);
        assert_eq!(rate.per_second(1000, at(1050)), 100.0);
        assert_eq!(rate.per_second(205, at(3000)), 50.0);
        // The counter started anew.
        assert_eq!(rate.per_second(1, at(4000)), 0.0);
    }
}

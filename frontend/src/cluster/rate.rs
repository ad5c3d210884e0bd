//! How fast a counter counts.

use std::time::Duration;

use skysail_core::time::Instant;

/// A rate is taken over at least as long.
const LEAST_SPAN: Duration = Duration::from_secs(1);

/// A counter that is looked at now and then.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rate {
    count: u64,
    since: Instant,
    per_second: f64,
}

impl Rate {
    /// One that stood at `count` when it was first looked at.
    pub(super) fn from(count: u64, now: Instant) -> Self {
        Self {
            count,
            since: now,
            per_second: 0.0,
        }
    }

    /// Counts a second over the last second or, where nobody looked for longer, since then.
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
        // A counter that began anew.
        assert_eq!(rate.per_second(1, at(4000)), 0.0);
    }
}

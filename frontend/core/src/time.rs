//! Points in time as the core sees them: numbers given by the caller.
//!
//! A clock that jumps, pauses or is simulated makes no difference here, so the same code decides in
//! production, under a paused clock and in a simulator.

use std::ops::{Add, Sub};
use std::time::Duration;

/// Nanoseconds since an epoch of the caller's choice (the start of the process, or of a simulation).
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Instant(u64);

impl Instant {
    /// The point `nanos` after the epoch.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Nanoseconds since the epoch.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// Time from `earlier` until this, or nothing if that is later.
    pub const fn saturating_since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// Seconds from `other` to this, negative if this is the earlier.
    #[expect(
        clippy::cast_precision_loss,
        reason = "spans below a hundred days are exact to the nanosecond"
    )]
    pub fn seconds_after(self, other: Self) -> f64 {
        if self >= other {
            (self.0 - other.0) as f64 * 1e-9
        } else {
            -((other.0 - self.0) as f64 * 1e-9)
        }
    }
}

impl Add<Duration> for Instant {
    type Output = Self;
    /// Stays at the end of time rather than wrapping.
    fn add(self, span: Duration) -> Self {
        Self(
            self.0
                .saturating_add(u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)),
        )
    }
}

impl Sub<Duration> for Instant {
    type Output = Self;
    /// Stays at the epoch rather than wrapping.
    fn sub(self, span: Duration) -> Self {
        Self(
            self.0
                .saturating_sub(u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)),
        )
    }
}

//! The process's clock, and its translation into the core's points in time.

use std::time::Duration;

use jiff::Timestamp;
use skysail_core::time::Instant as CoreInstant;
use tokio::time::Instant;

/// Reads tokio's clock, which tests can pause. Copies read the same time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    epoch: Instant,
    /// The same moment by the wall clock.
    started_at: Timestamp,
}

impl Clock {
    /// A clock whose core time starts now.
    pub(crate) fn start() -> Self {
        Self {
            epoch: Instant::now(),
            started_at: Timestamp::now(),
        }
    }

    /// Now.
    pub(crate) fn now(&self) -> CoreInstant {
        self.to_core(Instant::now())
    }

    /// A point of tokio's time in core time.
    pub(crate) fn to_core(self, instant: Instant) -> CoreInstant {
        CoreInstant::default() + instant.saturating_duration_since(self.epoch)
    }

    /// A point of core time in tokio's.
    pub(crate) fn to_tokio(self, instant: CoreInstant) -> Instant {
        self.epoch + Duration::from_nanos(instant.as_nanos())
    }

    /// A point of core time as people write it, in whole seconds: it is the same whenever it is asked for.
    pub(crate) fn to_timestamp(self, instant: CoreInstant) -> Timestamp {
        let at = self
            .started_at
            .saturating_add(Duration::from_nanos(instant.as_nanos()));
        let seconds = at.unwrap_or(self.started_at).as_second();
        Timestamp::from_second(seconds).unwrap_or(self.started_at)
    }
}

//! Growing pauses between tries.

use std::time::Duration;

/// Doubles from `first` to `most`; starts over once something has stayed well.
///
/// It knows no randomness: callers that many others run beside add their own jitter.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Backoff {
    first: Duration,
    most: Duration,
    next: Duration,
}

impl Backoff {
    /// Pauses of `first`, twice that, and so on, never above `most`.
    pub const fn new(first: Duration, most: Duration) -> Self {
        Self {
            first,
            most,
            next: first,
        }
    }

    /// The pause before the next try; the one after will be longer.
    pub fn pause(&mut self) -> Duration {
        let pause = self.next;
        self.next = (pause * 2).min(self.most);
        pause
    }

    /// All is well again.
    pub fn reset(&mut self) {
        self.next = self.first;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn pauses_never_shrink_nor_exceed_the_most(first in 1u64..1000, most in 1000u64..100_000) {
            let mut backoff = Backoff::new(Duration::from_millis(first), Duration::from_millis(most));
            let pauses: Vec<_> = (0..40).map(|_| backoff.pause()).collect();
            prop_assert!(pauses.is_sorted());
            prop_assert_eq!(pauses[0], Duration::from_millis(first));
            prop_assert_eq!(pauses[39], Duration::from_millis(most));
            backoff.reset();
            prop_assert_eq!(backoff.pause(), Duration::from_millis(first));
        }
    }
}

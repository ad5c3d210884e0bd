//! How large the batches of a version may be, by the sizes that its replicas have proven.
//!
//! A batch is at most a few times the largest that was answered well. A larger one might be late, or not fit into
//! memory. If a batch of a new size fails as a whole, or its replica is lost with it, half of that size is the limit
//! for a while. Then the size that failed is approached again from below. Once a batch of that size is answered well,
//! the failure is forgotten, so no history keeps batches small.

use std::time::Duration;

use crate::time::Instant;

/// Growth up to [`FEW`] inputs: the next batch is at most this many times the largest so far. It is quick, because
/// the first batches of a replica decide whether the queries that wait meanwhile are in time.
const QUICK_GROWTH: usize = 8;

/// The size up to which [`QUICK_GROWTH`] holds.
const FEW: usize = 64;

/// Growth beyond [`FEW`] inputs: the next batch is at most this many times the largest so far. A model that runs out
/// of memory loses a replica at each step that is too large; small steps lose fewer.
const GROWTH: usize = 2;

/// How long the limit holds after the first failure. Each further failure doubles it.
const FIRST_PAUSE: Duration = Duration::from_secs(10);

/// The longest that the limit holds.
const MOST_PAUSE: Duration = Duration::from_secs(600);

/// Batches may exceed the size that failed once they have come within 1 ÷ `NEAR` of it.
const NEAR: usize = 8;

/// The largest batch to try, if the largest that was answered well had `proven` inputs.
pub(super) fn grown(proven: usize) -> usize {
    let quick = proven.max(1).saturating_mul(QUICK_GROWTH).min(FEW);
    match proven {
        0 => 1,
        _ => proven.saturating_mul(GROWTH).max(quick),
    }
}

/// The limit of a version's batch sizes, learned from batches that were answered and that failed.
#[derive(Clone, Debug, Default)]
pub struct SizeLimit {
    /// The largest batch that was answered well.
    proven: usize,
    failure: Option<FailedSize>,
}

/// A size that failed, and the limit because of it.
#[derive(Clone, Copy, Debug)]
struct FailedSize {
    size: usize,
    since: Instant,
    /// When the limit ends.
    until: Instant,
    /// How long the limit holds after a failure.
    pause: Duration,
    limit: usize,
}

/// A limit that holds now because a batch failed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Restraint {
    /// The most inputs of a batch.
    pub limit: usize,
    /// The size that failed.
    pub failed: usize,
    /// When that size failed.
    pub since: Instant,
}

impl SizeLimit {
    /// A batch of this size was answered well.
    pub fn answered(&mut self, size: usize) {
        self.proven = self.proven.max(size);
        self.failure.take_if(|failure| failure.size <= size);
    }

    /// A batch of this size failed as a whole, or its replica was lost with it. Returns whether the size may be to
    /// blame: then the inputs are worth another try, in smaller batches. A size that was answered well before is not
    /// to blame.
    pub fn failed(&mut self, size: usize, now: Instant) -> bool {
        if size <= self.safe() {
            return false;
        }
        let limit = (size / 2).max(self.safe());
        match &mut self.failure {
            // This batch was sent before the limit was known.
            Some(failure) if now < failure.until && size > failure.limit => {
                failure.size = failure.size.min(size);
                failure.limit = failure.limit.min(limit);
            }
            before => {
                let pause = before.map_or(FIRST_PAUSE, |failure| (failure.pause * 2).min(MOST_PAUSE));
                *before = Some(FailedSize {
                    size,
                    since: now,
                    until: now + pause,
                    pause,
                    limit,
                });
            }
        }
        true
    }

    /// The largest size that is proven; at least 1.
    pub fn safe(&self) -> usize {
        self.proven.max(1)
    }

    /// The most inputs of the next batch: a few times the proven size, within the limit.
    pub fn largest(&self, now: Instant) -> usize {
        grown(self.proven).min(self.limit(now))
    }

    /// The most inputs that the failures allow, whatever is proven.
    pub fn limit(&self, now: Instant) -> usize {
        let Some(failure) = &self.failure else {
            return usize::MAX;
        };
        let reached = failure.limit.max(self.proven);
        let missing = failure.size.saturating_sub(reached);
        match now < failure.until {
            true => reached,
            false if missing <= failure.size / NEAR => usize::MAX,
            false => reached + missing.div_ceil(2),
        }
    }

    /// The limit that holds now because a batch failed, if any.
    pub fn restraint(&self, now: Instant) -> Option<Restraint> {
        let failure = self.failure.as_ref().filter(|failure| now < failure.until)?;
        Some(Restraint {
            limit: self.limit(now),
            failed: failure.size,
            since: failure.since,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(seconds: u64) -> Instant {
        Instant::default() + Duration::from_secs(seconds)
    }

    fn proven(size: usize) -> SizeLimit {
        let mut sizes = SizeLimit::default();
        sizes.answered(size);
        sizes
    }

    #[test]
    fn batches_grow_quickly_at_first_and_double_later() {
        let mut sizes = SizeLimit::default();
        let mut grown = Vec::new();
        for _ in 0..6 {
            grown.push(sizes.largest(at(0)));
            sizes.answered(sizes.largest(at(0)));
        }
        assert_eq!(grown, [1, 8, 64, 128, 256, 512]);
        assert_eq!(proven(20).largest(at(0)), 64);
        assert_eq!(proven(usize::MAX).largest(at(0)), usize::MAX);
    }

    #[test]
    fn half_of_a_new_size_that_fails_is_the_limit_for_a_while() {
        let mut sizes = proven(8);
        assert!(sizes.failed(64, at(5)));
        let restraint = Restraint {
            limit: 32,
            failed: 64,
            since: at(5),
        };
        assert_eq!(sizes.restraint(at(14)), Some(restraint));
        assert_eq!((sizes.largest(at(14)), sizes.safe()), (32, 8));
        assert_eq!((sizes.restraint(at(15)), sizes.largest(at(15))), (None, 48));
    }

    #[test]
    fn what_was_answered_well_stays_allowed() {
        let mut sizes = proven(40);
        assert!(sizes.failed(64, at(0)));
        assert_eq!(sizes.largest(at(0)), 40);
    }

    #[test]
    fn a_size_that_was_answered_well_fails_as_any_batch_does() {
        let mut sizes = proven(64);
        assert!(!sizes.failed(64, at(0)));
        assert!(!SizeLimit::default().failed(1, at(0)), "there is nothing smaller");
        assert_eq!((sizes.restraint(at(0)), sizes.largest(at(0))), (None, 128));
    }

    #[test]
    fn batches_that_were_under_way_when_one_failed_lower_the_limit_and_do_not_prolong_it() {
        let mut sizes = proven(8);
        for size in [64, 60, 62] {
            assert!(sizes.failed(size, at(0)));
        }
        assert_eq!((sizes.limit(at(9)), sizes.restraint(at(10))), (30, None));
        // If a batch of that size is answered well all the same, its size was not to blame.
        sizes.answered(61);
        assert_eq!(sizes.limit(at(0)), usize::MAX);
    }

    /// Sends ever larger batches, one a second, to a model that dies of more than `most` inputs. Returns the sizes
    /// that killed it, and the last size that did not.
    fn search(most: usize, seconds: u64) -> (Vec<usize>, usize) {
        let mut sizes = SizeLimit::default();
        let (mut killed, mut last) = (Vec::new(), 0);
        for second in 0..seconds {
            let size = sizes.largest(at(second)).min(4096);
            if size > most {
                assert!(sizes.failed(size, at(second)));
                killed.push(size);
            } else {
                sizes.answered(size);
                last = size;
            }
        }
        (killed, last)
    }

    #[test]
    fn the_largest_size_that_a_model_can_take_is_found_at_the_price_of_a_few_replicas() {
        let (killed, last) = search(300, 3600);
        assert_eq!(killed[..2], [512, 384]);
        assert!(killed.len() <= 12, "{killed:?}");
        assert!((256..=300).contains(&last), "{last}");
    }

    proptest! {
        #[test]
        fn no_history_of_failures_keeps_batches_small_for_ever(
            history in prop::collection::vec((any::<bool>(), 1usize..5000, 0u64..1000), 0..100),
        ) {
            let (mut sizes, mut now) = (SizeLimit::default(), 0);
            for (well, size, pause) in history {
                now += pause;
                let safe = sizes.safe();
                if well {
                    sizes.answered(size);
                } else {
                    prop_assert_eq!(sizes.failed(size, at(now)), size > safe);
                }
                prop_assert!(sizes.largest(at(now)) >= sizes.safe());
            }
            let later = at(now) + MOST_PAUSE;
            for _ in 0..30 {
                sizes.answered(sizes.largest(later));
            }
            prop_assert!(sizes.largest(later) >= 4096, "{:?}", sizes);
        }
    }
}

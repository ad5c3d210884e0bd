//! Rules for when a free replica leaves the waiting queries to a much faster one.
//!
//! A slow replica answers a query late, perhaps still in time; the fast one would have answered it sooner. If more
//! queries come than the fast replicas can carry, the slow one helps.
//!
//! Two replicas must never leave queries to each other. So the two times compared are those that the waiting room
//! holds ([`super::members::Members`]), not what a replica thinks of itself. Under the room's lock at most one of two
//! replicas is twice as fast as the other. Queries are left for a bounded time ([`Left`]): after that a faster
//! replica that did not come for them loses them.

use std::time::Duration;

use crate::time::Instant;

/// A replica leaves queries to another if `FASTER * other.alone <= own.alone`. Between replicas of about the same
/// speed, waiting for the other wastes time.
const FASTER: f64 = 2.0;

/// A slow replica helps if more queries come than `BUSY` times the capacity of the much faster ones. Capacity is
/// counted with batches that take half of the latency objective.
const BUSY: f64 = 0.8;

/// A faster replica may come for queries left to it later than expected, by `max(PATIENCE, alone)`. Batches may take
/// longer than typical, and the next credit follows their answers.
const PATIENCE: Duration = Duration::from_millis(5);

/// A replica that leaves everything to others is measured again after this time...
const MEASURED_AGAIN: Duration = Duration::from_secs(10);

/// ...and this many arrivals, so that it answers fewer than one query in a hundred meanwhile.
const MEASURED_AGAIN_ARRIVALS: u64 = 1000;

/// A free replica that could take all waiting queries as a batch.
#[derive(Clone, Copy, Debug)]
pub(super) struct Free {
    /// When its batch would start.
    pub(super) start: Instant,
    /// Its learned batch times.
    pub(super) pace: Pace,
    /// The factor from typical to cautious batch times.
    pub(super) caution: f64,
    /// How many queries wait.
    pub(super) waiting: usize,
    /// The earliest deadline of the waiting queries.
    pub(super) due: Instant,
    /// How many queries come per second.
    pub(super) per_second: f64,
    /// The time that queries are given on average.
    pub(super) budget: Duration,
}

/// The batch times of a replica, in seconds; 0 while they are unknown.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pace {
    /// The time of a batch of one.
    pub(super) alone: f64,
    /// The time that each further input adds.
    pub(super) each: f64,
}

/// Another replica, as the room knows it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Elsewhere {
    /// When it is expected to be free.
    pub(super) free: Instant,
    /// Its learned batch times.
    pub(super) pace: Pace,
}

/// When a replica last took a batch, and how many queries had come by then.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct LastBatch {
    pub(super) at: Instant,
    pub(super) arrived: u64,
}

impl LastBatch {
    /// Whether the last batch is too long ago to tell how fast the replica is now.
    pub(super) fn is_outdated(self, now: Instant, arrived: u64) -> bool {
        now >= self.at + MEASURED_AGAIN && arrived >= self.arrived + MEASURED_AGAIN_ARRIVALS
    }
}

/// Until when the faster replicas may come for the queries left to them. `None` after a batch was taken.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Left(Option<Instant>);

impl Left {
    /// Leaves the waiting queries to `other`. Returns until when, or `None` if that time is over.
    pub(super) fn leave_to(&mut self, other: Elsewhere, now: Instant) -> Option<Instant> {
        let until = *self.0.get_or_insert_with(|| other.comes_by(now));
        (now < until).then_some(until)
    }

    /// Must be called when a batch was taken.
    pub(super) fn taken(&mut self) {
        self.0 = None;
    }
}

impl Free {
    /// The replica to leave all waiting queries to. It is much faster, answers sooner and, even with a cautious batch
    /// time, answers in time.
    pub(super) fn leaves_all_to(&self, others: impl Iterator<Item = Elsewhere>) -> Option<Elsewhere> {
        let (mut chosen, mut capacity) = (None, 0.0);
        for other in others.filter(|other| self.is_slow_beside(other)) {
            chosen = chosen.or_else(|| self.is_answered_by(&other).then_some(other));
            capacity += other.pace.capacity(self.budget);
        }
        chosen.filter(|_| self.per_second <= BUSY * capacity)
    }

    fn is_slow_beside(&self, other: &Elsewhere) -> bool {
        other.pace.alone > 0.0 && FASTER * other.pace.alone <= self.pace.alone
    }

    /// Whether another replica would answer all waiting queries sooner, and in time.
    fn is_answered_by(&self, other: &Elsewhere) -> bool {
        let free = other.free.seconds_after(self.start).max(0.0);
        let takes = other.pace.takes(self.waiting);
        let in_time = free + self.caution * takes <= self.due.seconds_after(self.start);
        in_time && free + takes < self.pace.takes(self.waiting)
    }
}

impl Elsewhere {
    fn comes_by(&self, now: Instant) -> Instant {
        self.free.max(now) + PATIENCE.max(Duration::from_secs_f64(self.pace.alone))
    }
}

impl Pace {
    /// The seconds that a batch of this size takes.
    #[expect(clippy::cast_precision_loss, reason = "batches are far smaller than 2^52")]
    fn takes(&self, size: usize) -> f64 {
        self.alone + self.each * (size.max(1) - 1) as f64
    }

    /// The queries per second answered with batches that take `budget / 2`.
    fn capacity(&self, budget: Duration) -> f64 {
        let seconds = (budget.as_secs_f64() / 2.0).max(self.alone);
        let further = (seconds - self.alone) / self.each.max(f64::MIN_POSITIVE);
        (1.0 + further) / seconds
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(millis: u64) -> Instant {
        Instant::from_nanos(millis * 1_000_000)
    }

    /// A replica that is free at `free` ms and takes `alone` ms for one input, and 1 ms for each further.
    fn other(free: u64, alone: f64) -> Elsewhere {
        let pace = Pace {
            alone: alone / 1e3,
            each: 1e-3,
        };
        Elsewhere { free: at(free), pace }
    }

    /// A replica that takes 40 ms and 10 ms for each input, while `waiting` queries are due in 60 ms.
    fn slow(waiting: usize, per_second: f64) -> Free {
        Free {
            start: at(1000),
            pace: Pace {
                alone: 0.05,
                each: 0.01,
            },
            caution: 1.0,
            waiting,
            due: at(1060),
            per_second,
            budget: Duration::from_millis(60),
        }
    }

    fn leaves(waiting: usize, to: Elsewhere) -> bool {
        slow(waiting, 100.0).leaves_all_to(std::iter::once(to)).is_some()
    }

    #[test]
    fn queries_are_left_to_a_much_faster_replica_that_answers_them_sooner_and_in_time() {
        assert!(leaves(1, other(1000, 5.0)));
        assert!(leaves(1, other(1040, 5.0)), "done at 45 ms, in place of 50");
        assert!(leaves(1, other(500, 5.0)), "it is free already");
    }

    #[test]
    fn a_replica_takes_what_no_much_faster_one_answers_sooner_and_in_time() {
        assert!(!leaves(1, other(1046, 5.0)), "done at 51 ms, in place of 50");
        assert!(!leaves(40, other(1040, 5.0)), "44 ms of work, and 20 ms left");
        assert!(!leaves(1, other(1000, 26.0)), "less than twice as fast");
        assert!(!leaves(1, other(1000, 0.0)), "nothing is known of it");
        assert!(slow(1, 100.0).leaves_all_to(std::iter::empty()).is_none());
    }

    #[test]
    fn a_slow_replica_helps_while_the_fast_ones_have_enough_to_do() {
        // Batches of 26 take 30 ms: that is 866 queries a second, of which 0.8 are 693.
        let fast = other(1000, 5.0);
        let leaves = |per_second, fast: &[Elsewhere]| {
            let to = slow(1, per_second).leaves_all_to(fast.iter().copied());
            to.is_some()
        };
        assert!(leaves(690.0, &[fast]));
        assert!(!leaves(700.0, &[fast]));
        assert!(leaves(1300.0, &[fast, fast]));
    }

    #[test]
    fn a_replica_of_which_nothing_is_known_finds_out() {
        let unknown = Free {
            pace: Pace::default(),
            ..slow(1, 1.0)
        };
        let to = unknown.leaves_all_to(std::iter::once(other(1000, 5.0)));
        assert!(to.is_none());
    }

    #[test]
    fn what_a_faster_replica_does_not_come_for_is_left_to_it_no_longer() {
        let mut left = Left::default();
        assert_eq!(left.leave_to(other(1000, 5.0), at(980)), Some(at(1005)));
        // It is then expected a little later each time, and does not come.
        assert_eq!(left.leave_to(other(1010, 5.0), at(1004)), Some(at(1005)));
        assert_eq!(left.leave_to(other(1010, 5.0), at(1005)), None);
        left.taken();
        assert_eq!(left.leave_to(other(1010, 20.0), at(1005)), Some(at(1030)));
    }

    #[test]
    fn a_replica_is_measured_again_after_ten_seconds_and_a_thousand_queries() {
        let last = LastBatch {
            at: at(1000),
            arrived: 50,
        };
        assert!(last.is_outdated(at(11_000), 1050));
        assert!(!last.is_outdated(at(10_999), 1050));
        assert!(!last.is_outdated(at(11_000), 1049));
    }

    proptest! {
        #[test]
        fn of_two_replicas_at_most_one_leaves_queries_to_the_other(
            paces in prop::array::uniform2((0.0..0.1_f64, 0.0..0.01_f64)),
            waiting in 1..100_usize,
            per_second in 0.0..1000.0_f64,
        ) {
            let [one, another] = paces.map(|(alone, each)| Pace { alone, each });
            let leaves = |pace, to| {
                let free = Free { pace, ..slow(waiting, per_second) };
                free.leaves_all_to(std::iter::once(Elsewhere { free: at(1000), pace: to })).is_some()
            };
            prop_assert!(!(leaves(one, another) && leaves(another, one)));
        }
    }
}

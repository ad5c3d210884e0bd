//! The default policy: batches as large as deadlines allow, from learned batch times.
//!
//! While every query can be answered in time with one batch, that batch is taken at once. Otherwise, taking
//! only as many as the head's deadline allows is a trap: under pressure the head is always nearly late,
//! batches shrink to one, and throughput collapses. So heads are sacrificed where that buys a larger batch
//! that saves more queries than it loses. Which and how many is decided by forecasts ([`super::outlook`]):
//! some dozens of batches are tried in thought, each followed by batches of about one size, and the one with
//! the most queries answered in time within one latency objective is taken.
//!
//! Measured against other rules in `frontend/scheduling-sim`; the idea of planned batches and early drops is
//! that of Nexus (SOSP '19), the rollout that of model-predictive control.

use std::num::NonZeroU32;
use std::time::Duration;

use super::latency::LatencyModel;
use super::outlook::{Aim, Cut, Outlook, Server};
use super::{BatchPolicy, Decision, Situation};
use crate::queue::Deadlines;
use crate::time::Instant;

/// The most waiting queries that one decision looks at.
const MOST_WAITING: usize = 512;

/// The most other replicas a forecast follows.
const MOST_OTHERS: usize = 7;

/// Sizes that are tried differ by this factor.
const SIZE_STEP: f64 = 1.3;

/// Budgets of so many of the last arrivals stand for those of the next.
const BUDGETS: usize = 32;

/// Queries at the head of the queue that would be late even as a batch of one.
struct Hopeless {
    /// With every replica.
    anywhere: usize,
    /// Of those behind them, with this replica.
    here: usize,
}

/// The policy.
#[derive(Clone, Debug)]
pub struct Learned {
    max_batch: usize,
    outlook: Outlook,
    deadlines: Vec<Instant>,
    cuts: Vec<(Cut, Aim)>,
}

impl Learned {
    /// Knows nothing yet, and never sends more than `max_batch`.
    pub fn new(max_batch: NonZeroU32) -> Self {
        Self {
            max_batch: max_batch.get() as usize,
            outlook: Outlook::default(),
            deadlines: Vec::new(),
            cuts: Vec::new(),
        }
    }

    /// Reads the queue: seconds left at `start`, earliest first.
    fn look_at(&mut self, queue: &dyn Deadlines, start: Instant) {
        self.deadlines.clear();
        queue.copy_deadlines(MOST_WAITING, &mut self.deadlines);
        self.outlook.due.clear();
        let left = self
            .deadlines
            .iter()
            .map(|deadline| deadline.seconds_after(start));
        self.outlook.due.extend(left);
    }

    /// Before anything is known, a batch of one finds out.
    fn first_batch(&self) -> Decision {
        let due = &self.outlook.due;
        let give_up = due.partition_point(|&due| due <= 0.0);
        Decision {
            give_up,
            leave: 0,
            take: (due.len() - give_up).min(1),
        }
    }

    /// Whether all that wait are cautiously expected to be in time as one batch.
    fn all_fit(&self, latency: &LatencyModel) -> bool {
        let due = &self.outlook.due;
        due.len() <= self.outlook.largest && due[0] >= latency.caution() * latency.typical(due.len())
    }

    /// Tells how many would be late even alone, with any replica, and how many more with this one.
    ///
    /// If that is all of them and no other replica can help, the one with the most time left is tried all
    /// the same, if it has any: it costs nobody anything, and it is how a replica that has become faster is
    /// noticed.
    fn hopeless(&self, situation: &Situation<'_>) -> Result<Hopeless, Decision> {
        let due = &self.outlook.due;
        let alone = situation.latency.typical(1) * situation.latency.least_ratio();
        let elsewhere = situation
            .others
            .iter()
            .filter(|other| !other.alone.is_zero())
            .map(|other| (other.free + other.alone).seconds_after(situation.start))
            .fold(f64::INFINITY, f64::min);
        let anywhere = due.partition_point(|&due| due < alone.min(elsewhere));
        let here = due.partition_point(|&due| due < alone) - anywhere;
        if anywhere + here < due.len() {
            return Ok(Hopeless { anywhere, here });
        }
        let take = usize::from(here == 0 && due.last().is_some_and(|&last| last > 0.0));
        Err(Decision {
            give_up: anywhere - take,
            leave: here,
            take,
        })
    }

    fn prepare_outlook(&mut self, situation: &Situation<'_>) {
        let Situation {
            start,
            arrivals,
            latency,
            others,
            pause,
            largest: _,
        } = situation;
        let outlook = &mut self.outlook;
        outlook.pause = pause.as_secs_f64();
        outlook.expect_batches(latency);
        outlook.others.clear();
        let alone = latency.typical(1);
        let other = |other: &super::Other| Server {
            free: other.free.seconds_after(*start),
            pace: if other.alone.is_zero() {
                1.0
            } else {
                other.alone.as_secs_f64() / alone
            },
        };
        outlook.others.extend(others.iter().take(MOST_OTHERS).map(other));
        outlook.horizon = arrivals.mean_budget().map_or(0.0, |budget| budget.as_secs_f64());
        let budgets = arrivals
            .budgets()
            .take(BUDGETS)
            .map(|budget| budget.as_secs_f64());
        outlook.expect_arrivals(arrivals.per_second(*start), budgets);
    }

    /// The batches to compare, each with what those after it aim for.
    ///
    /// They differ in the size aimed for and in which heads are passed over for it: those that would be late
    /// in one of ten cases, in every other, or in four of five. Where a query costs little beside the batch,
    /// even a head with a small chance is worth its place.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_precision_loss,
        clippy::cast_sign_loss,
        reason = "sizes lie between 1 and the largest batch, a 32-bit number"
    )]
    fn list_cuts(&mut self, latency: &LatencyModel) {
        let outlook = &self.outlook;
        let due = &outlook.due;
        self.cuts.clear();
        let longest = due.last().copied().unwrap_or_default().max(outlook.horizon);
        for caution in [latency.caution(), latency.even_odds(), latency.long_odds()] {
            let most = outlook.fitting(latency, longest, usize::MAX, caution).max(1);
            let kept = outlook.fitting(latency, due[0], due.len(), caution);
            let mut size = 1.0_f64;
            loop {
                let aim = Aim {
                    size: (size as usize).min(most),
                    caution,
                };
                // All heads kept, with the batch that allows.
                if kept > 0 {
                    let cut = Cut {
                        passed: 0,
                        taken: kept,
                    };
                    self.cuts.push((cut, aim));
                }
                self.cuts.push((outlook.cut(latency, due, 0.0, aim), aim));
                if aim.size == most {
                    break;
                }
                // At least one more, and a part more where that is more than one.
                size = (size * SIZE_STEP).max(aim.size as f64 + 1.0);
            }
        }
        self.cuts
            .sort_unstable_by(|(a, x), (b, y)| (b.taken, a.passed, x.size).cmp(&(a.taken, b.passed, y.size)));
        self.cuts.dedup();
    }

    /// The batch with the best outlook.
    fn best_cut(&mut self, latency: &LatencyModel) -> Cut {
        let mut best = Cut { passed: 0, taken: 1 };
        let mut most_answered = f64::NEG_INFINITY;
        for &(cut, aim) in &self.cuts {
            let answered = self.outlook.answered(latency, cut, aim);
            // Sorted by size: of equals, the largest. It is the one that most is learned from.
            if answered > most_answered + 1e-9 {
                most_answered = answered;
                best = cut;
            }
        }
        best
    }

    fn choose(&mut self, situation: &Situation<'_>) -> Decision {
        let latency = situation.latency;
        if !latency.is_known() {
            return self.first_batch();
        }
        self.outlook.largest = self.max_batch.min(situation.largest).max(1);
        if self.all_fit(latency) {
            return Decision {
                give_up: 0,
                leave: 0,
                take: self.outlook.due.len(),
            };
        }
        let hopeless = match self.hopeless(situation) {
            Ok(hopeless) => hopeless,
            Err(decision) => return decision,
        };
        self.outlook.due.drain(..hopeless.anywhere + hopeless.here);
        self.prepare_outlook(situation);
        self.list_cuts(latency);
        let Cut { passed, taken } = self.best_cut(latency);
        let mut decision = Decision {
            give_up: hopeless.anywhere,
            leave: hopeless.here + passed,
            take: taken,
        };
        if situation.others.is_empty() {
            // Nobody else will come for them.
            decision.give_up += std::mem::take(&mut decision.leave);
        }
        decision
    }
}

impl BatchPolicy for Learned {
    fn decide(&mut self, queue: &dyn Deadlines, situation: &Situation<'_>) -> Decision {
        if queue.is_empty() {
            return Decision::default();
        }
        self.look_at(queue, situation.start);
        self.choose(situation)
    }

    fn ends(&self, size: usize, situation: &Situation<'_>) -> Instant {
        let latency = situation.latency;
        match latency.is_known() {
            true => situation.start + Duration::from_secs_f64(latency.caution() * latency.typical(size)),
            false => situation.start,
        }
    }

    /// All that is learned is in the latency model.
    fn observe(&mut self, _size: usize, _took: Duration) {}

    fn counts_on_times(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{Other, SizeLimit};
    use super::*;
    use crate::arrivals::Arrivals;
    use crate::queue::{Bounds, DeadlineQueue};

    fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn at(millis: u64) -> Instant {
        Instant::from_nanos(millis * 1_000_000)
    }

    /// What a batch takes: 5 ms and 1 ms for each.
    fn cost(size: usize) -> Duration {
        millis(5 + size as u64)
    }

    fn latency(sizes: impl IntoIterator<Item = usize>) -> LatencyModel {
        let mut latency = LatencyModel::default();
        for size in sizes {
            latency.observe(size, cost(size), false);
        }
        latency
    }

    fn known() -> LatencyModel {
        latency((0..100).map(|n| n % 64 + 1))
    }

    /// Queries every `every` ms for `count` times, each due 50 ms after it came.
    fn arrivals(every: u64, count: u64) -> Arrivals {
        let mut arrivals = Arrivals::default();
        for n in 0..count {
            arrivals.record(at(n * every), millis(50));
        }
        arrivals
    }

    fn queue(due: impl IntoIterator<Item = u64>) -> DeadlineQueue<()> {
        let mut queue = DeadlineQueue::new(Bounds {
            count: usize::MAX,
            bytes: usize::MAX,
        });
        for due in due {
            queue.push(at(due), 1, ()).unwrap();
        }
        queue
    }

    /// What is let go to if no other replica has shown more.
    fn largest(latency: &LatencyModel) -> usize {
        let mut sizes = SizeLimit::default();
        sizes.answered(latency.largest());
        sizes.largest(at(0))
    }

    fn decide(due: impl IntoIterator<Item = u64>, latency: &LatencyModel, others: &[Other]) -> Decision {
        let arrivals = arrivals(1, 100);
        let situation = Situation {
            start: at(100),
            arrivals: &arrivals,
            latency,
            others,
            largest: largest(latency),
            pause: Duration::ZERO,
        };
        Learned::new(NonZeroU32::new(64).unwrap()).decide(&queue(due), &situation)
    }

    fn taking(give_up: usize, take: usize) -> Decision {
        Decision {
            give_up,
            leave: 0,
            take,
        }
    }

    #[test]
    fn an_empty_queue_is_left_alone() {
        assert_eq!(decide([], &known(), &[]), Decision::default());
    }

    #[test]
    fn the_first_batch_is_one_query_that_has_not_expired() {
        let unknown = LatencyModel::default();
        assert_eq!(decide([90, 100, 150, 151], &unknown, &[]), taking(2, 1));
        assert_eq!(decide([90], &unknown, &[]), taking(1, 0));
    }

    #[test]
    fn what_fits_into_one_batch_in_time_is_taken_at_once() {
        assert_eq!(decide((0..20).map(|n| 130 + n), &known(), &[]), taking(0, 20));
    }

    #[test]
    fn a_batch_is_no_larger_than_what_replicas_have_shown_allows() {
        assert_eq!(decide([1000; 50], &latency([1, 2, 3]), &[]).take, 24);
    }

    #[test]
    fn heads_that_cannot_make_it_even_alone_are_given_up() {
        assert_eq!(decide([103, 105, 150], &known(), &[]), taking(2, 1));
    }

    #[test]
    fn if_all_are_hopeless_the_one_with_most_time_left_is_tried() {
        assert_eq!(decide([101, 102, 103], &known(), &[]), taking(2, 1));
        assert_eq!(decide([98, 99, 100], &known(), &[]), taking(3, 0));
    }

    #[test]
    fn under_pressure_a_head_is_sacrificed_for_a_larger_batch() {
        // With the first head a batch of one would do; 30 others wait, and one comes every millisecond.
        let due = std::iter::once(107).chain((0..30).map(|n| 140 + n / 2));
        let decision = decide(due, &known(), &[]);
        assert_eq!(decision.give_up, 1, "{decision:?}");
        assert!(decision.take >= 25, "{decision:?}");
    }

    #[test]
    fn a_head_is_not_sacrificed_if_all_others_can_wait() {
        let arrivals = arrivals(10, 11);
        let situation = Situation {
            start: at(100),
            arrivals: &arrivals,
            latency: &known(),
            others: &[],
            largest: 64,
            pause: Duration::ZERO,
        };
        let queue = queue(std::iter::once(107).chain([900; 10]));
        let decision = Learned::new(NonZeroU32::new(64).unwrap()).decide(&queue, &situation);
        assert_eq!(decision, taking(0, 2));
    }

    #[test]
    fn what_a_faster_replica_can_make_in_time_is_left_to_it() {
        let faster = Other {
            free: at(101),
            alone: millis(1),
        };
        let nothing = Decision {
            give_up: 0,
            leave: 2,
            take: 0,
        };
        assert_eq!(decide([103, 104], &known(), &[faster]), nothing);
        let decision = decide([101, 104, 150], &known(), &[faster]);
        assert_eq!((decision.give_up, decision.take), (1, 1));
        let as_fast = Other {
            free: at(101),
            alone: millis(6),
        };
        assert_eq!(decide([103, 104], &known(), &[as_fast]), taking(1, 1));
    }

    /// A replica that is never without work: a query comes each millisecond, with 50 ms to be answered in.
    /// Returns the sizes of its batches.
    fn saturate(latency: &mut LatencyModel, batches: usize) -> Vec<usize> {
        saturate_with(latency, batches, cost)
    }

    /// The same, with batches that take what they are told to.
    fn saturate_with(
        latency: &mut LatencyModel,
        batches: usize,
        cost: impl Fn(usize) -> Duration,
    ) -> Vec<usize> {
        let mut policy = Learned::new(NonZeroU32::new(64).unwrap());
        let mut arrivals = Arrivals::default();
        let mut queue = queue([]);
        let (mut now, mut came) = (0, 0);
        let mut sizes = Vec::new();
        while sizes.len() < batches {
            while came <= now {
                arrivals.record(at(came), millis(50));
                queue.push(at(came + 50), 1, ()).unwrap();
                came += 1;
            }
            let situation = Situation {
                start: at(now),
                arrivals: &arrivals,
                latency,
                others: &[],
                largest: largest(latency),
                pause: Duration::ZERO,
            };
            let Decision { give_up, take, .. } = policy.decide(&queue, &situation);
            for _ in 0..give_up + take {
                queue.pop().unwrap();
            }
            if take == 0 {
                now += 1;
                continue;
            }
            let pressed = !queue.is_empty();
            latency.observe(take, cost(take), pressed);
            now += u64::try_from(cost(take).as_millis()).unwrap();
            sizes.push(take);
        }
        sizes
    }

    #[test]
    fn from_a_cold_start_the_right_size_is_reached_in_a_few_batches() {
        let sizes = saturate(&mut LatencyModel::default(), 30);
        assert_eq!(sizes[0], 1);
        assert!(
            sizes[15..].iter().all(|size| (15..=35).contains(size)),
            "{sizes:?}"
        );
    }

    #[test]
    fn a_model_whose_time_is_no_line_is_served_with_sizes_that_suit_it() {
        // Whatever the size, 20 ms: some twenty queries come meanwhile, and all are taken.
        let sizes = saturate_with(&mut LatencyModel::default(), 100, |_| millis(20));
        assert!(
            sizes[50..].iter().all(|size| (18..=30).contains(size)),
            "{sizes:?}"
        );
        // 5 ms and a twentieth of the size squared: batches of ten are the best, those of thirty take 50 ms.
        let square = |size: usize| millis(5 + (size * size) as u64 / 20);
        let sizes = saturate_with(&mut LatencyModel::default(), 100, square);
        assert!(
            sizes[50..].iter().all(|size| (5..=22).contains(size)),
            "{sizes:?}"
        );
    }

    fn anything() -> impl Strategy<Value = Vec<(usize, u64, bool)>> {
        let micros = prop_oneof![0u64..100, 1000u64..100_000, 1_000_000u64..10_000_000_000];
        prop::collection::vec((1usize..=64, micros, any::<bool>()), 0..150)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn no_history_leaves_it_stuck_at_a_bad_size(history in anything()) {
            let mut latency = LatencyModel::default();
            for (size, micros, pressed) in history {
                latency.observe(size, Duration::from_micros(micros), pressed);
            }
            let sizes = saturate(&mut latency, 250);
            let last = &sizes[200..];
            let mean = last.iter().sum::<usize>() as f64 / last.len() as f64;
            prop_assert!((15.0..=35.0).contains(&mean), "{} {:?}", mean, sizes);
        }

        #[test]
        fn a_decision_never_goes_beyond_the_queue_or_the_largest_batch(
            due in prop::collection::vec(0u64..300, 0..200),
            seen in prop::collection::vec(1usize..=64, 0..50),
        ) {
            let decision = decide(due.clone(), &latency(seen), &[]);
            prop_assert!(decision.give_up + decision.leave + decision.take <= due.len());
            prop_assert!(decision.take <= 64);
            prop_assert!(due.is_empty() || decision.give_up + decision.take > 0);
        }
    }
}

//! The default policy: batches as large as deadlines allow, from learned batch times.
//!
//! If one batch can answer all waiting queries in time, it is sent at once. Otherwise it is a trap to take only as
//! many queries as the most urgent one allows. Under pressure the most urgent is always nearly late; batches shrink
//! to one, and throughput collapses. So urgent queries are given up where that allows a larger batch, which saves
//! more queries than it loses. Forecasts decide which and how many ([`super::outlook`]). Some dozens of batches are
//! tried in thought, each followed by batches of about one size. The batch with the most answers in time within one
//! latency objective is sent.
//!
//! `frontend/scheduling-sim` compares it with other rules. Planned batches and early drops are the idea of Nexus
//! (SOSP '19); a forecast by simulated steps is that of model-predictive control.

use std::num::NonZeroU32;
use std::time::Duration;

use super::latency::LatencyModel;
use super::outlook::lanes::MOST_CLASSES;
use super::outlook::{Aim, Cut, MOST_OTHERS, Outlook, Server};
use super::{BatchPolicy, Decision, Situation};
use crate::arrivals::Class;
use crate::queue::Deadlines;
use crate::time::Instant;

/// The most waiting queries that are looked at, evenly spread over the queue.
const MOST_LOOKED_AT: usize = 256;

/// A query is loose if its budget is at least this many times the tightest class's. It may be able to wait for that
/// class.
const LOOSE: f64 = 4.0;

/// If some loose queries are safe, the horizon of forecasts is this many times the mean budget of the urgent ones.
const URGENT_BUDGETS: f64 = 2.0;

/// Replicas keep up with arrivals that use at most this fraction of their throughput.
const SUSTAINED: f64 = 0.95;

/// The policy of one replica, with its buffers.
#[derive(Clone, Debug)]
pub struct Learned {
    max_batch: usize,
    probe: Probe,
    outlook: Outlook,
    deadlines: Vec<Instant>,
    classes: Vec<Class>,
}

/// When to send a query that is surely late, to learn whether the replica became faster.
#[derive(Clone, Copy, Debug, Default)]
struct Probe {
    /// When the last batch started.
    last_batch: Option<Instant>,
    /// The typical time of that batch in seconds, if it was a probe.
    tried: Option<f64>,
}

impl Probe {
    /// The least time between a batch and a probe, in seconds: a recent batch already shows how long batches take.
    const LEAST_INTERVAL: f64 = 1.0;
    /// The least time between probes, in times of a probe: probes take at most 1 ÷ `LEAST_TIMES` of the replica's
    /// time.
    const LEAST_TIMES: f64 = 20.0;
    /// The most time between probes, in seconds, however long a probe takes.
    const MOST_INTERVAL: f64 = 10.0;
    /// After a probe that takes less than this fraction of its expected time, the next probe is sent at once.
    const QUICK: f64 = 0.7;

    /// Whether a probe is due that takes `alone` seconds.
    fn is_due(self, start: Instant, alone: f64) -> bool {
        let interval = (Self::LEAST_TIMES * alone).clamp(Self::LEAST_INTERVAL, Self::MOST_INTERVAL);
        self.last_batch
            .is_none_or(|last| start.seconds_after(last) >= interval)
    }

    /// A batch starts. `tried` is its expected time in seconds if it is a probe.
    fn batch_starts(&mut self, start: Instant, tried: Option<f64>) {
        self.last_batch = Some(start);
        self.tried = tried;
    }

    fn took(&mut self, seconds: f64) {
        if self
            .tried
            .take()
            .is_some_and(|tried| seconds < Self::QUICK * tried)
        {
            self.last_batch = None;
        }
    }
}

impl Learned {
    /// A policy that knows nothing yet and never sends more than `max_batch` inputs.
    pub fn new(max_batch: NonZeroU32) -> Self {
        Self {
            max_batch: max_batch.get() as usize,
            probe: Probe::default(),
            outlook: Outlook::default(),
            deadlines: Vec::new(),
            classes: Vec::new(),
        }
    }

    /// Samples the deadlines of the waiting queries after the first `skipped`.
    fn look_at(&mut self, queue: &dyn Deadlines, skipped: usize, start: Instant) {
        let waiting = queue.len() - skipped;
        let every = waiting.div_ceil(MOST_LOOKED_AT).next_power_of_two();
        self.deadlines.clear();
        queue.sample(skipped, every, &mut self.deadlines);
        if !(waiting - 1).is_multiple_of(every) {
            self.deadlines.extend(queue.nth(queue.len() - 1));
        }
        let due = self
            .deadlines
            .iter()
            .map(|deadline| deadline.seconds_after(start));
        self.outlook.expected.wait(waiting, every.ilog2(), due);
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
        let alone = latency.alone();
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
        outlook
            .expected
            .expect_arrivals(arrivals.per_second(*start), &self.classes);
        self.spare_the_urgent(latency);
    }

    /// Finds the deadline from which waiting queries are safe: they are in time even if all more urgent ones come
    /// first. If some are safe, the horizon becomes [`URGENT_BUDGETS`] mean budgets of the others.
    #[expect(
        clippy::cast_precision_loss,
        reason = "sizes are 32-bit numbers, and there is a handful of replicas"
    )]
    fn spare_the_urgent(&mut self, latency: &LatencyModel) {
        let outlook = &mut self.outlook;
        outlook.safe_from = f64::INFINITY;
        let Some(tightest) = self.classes.first().map(|class| class.budget) else {
            return;
        };
        let loose = LOOSE * tightest;
        if outlook.expected.last() < loose {
            return;
        }
        // Loose queries can wait, so batches of them may be large.
        let size = outlook
            .fitting(latency, loose, usize::MAX, latency.caution())
            .max(1);
        let each = size as f64 / (latency.typical(size) * latency.mean_ratio());
        let rate = each * (1 + outlook.others.len()) as f64;
        outlook.safe_from = outlook.expected.safe_from(loose, rate);
        if !outlook.some_are_safe() {
            return;
        }
        let urgent = self
            .classes
            .iter()
            .filter(|class| class.budget < outlook.safe_from);
        let (share, sum) = urgent.fold((0.0, 0.0), |(share, sum), class| {
            (share + class.share, sum + class.share * class.budget)
        });
        if share > 0.0 {
            outlook.horizon = URGENT_BUDGETS * sum / share;
        }
    }

    /// The largest batch that keeps the tightest class in time, even for a query that comes just after the batch
    /// started. `None` if endangered queries arrive faster than such batches serve them.
    #[expect(
        clippy::cast_precision_loss,
        reason = "sizes are 32-bit numbers, and there is a handful of replicas"
    )]
    fn careful_size(&self, latency: &LatencyModel, per_second: f64) -> Option<usize> {
        let outlook = &self.outlook;
        let tightest = self.classes.first()?.budget;
        let size = outlook.fitting(latency, tightest / 2.0, usize::MAX, latency.caution());
        let in_danger = self
            .classes
            .iter()
            .filter(|class| class.budget < outlook.safe_from);
        let arriving = per_second * in_danger.map(|class| class.share).sum::<f64>();
        let served = size as f64 / (latency.typical(size) * latency.mean_ratio());
        let replicas = (1 + outlook.others.len()) as f64;
        (size > 0 && arriving <= SUSTAINED * replicas * served).then_some(size)
    }

    /// Whether a batch that takes `took` seconds would make urgent arrivals late, while its own last query could
    /// wait.
    fn keeps_the_urgent_waiting(&self, last: Option<Instant>, took: f64, situation: &Situation<'_>) -> bool {
        let is_loose =
            |tightest: f64| last.is_some_and(|last| last.seconds_after(situation.start) >= LOOSE * tightest);
        self.classes
            .first()
            .is_some_and(|class| took > class.budget / 2.0 && is_loose(class.budget))
    }

    /// The next batch. Forecasts are made only where they are needed.
    fn cut(&mut self, situation: &Situation<'_>) -> Cut {
        let latency = situation.latency;
        let careful = self.careful_size(latency, situation.arrivals.per_second(situation.start));
        if let Some(size) = careful {
            let outlook = &mut self.outlook;
            let taken = outlook.fitting(latency, outlook.expected.first(), size, latency.caution());
            if taken > 0 && outlook.all_are_in_time(latency, taken, size) {
                return Cut {
                    passed: 0,
                    taken: taken.min(outlook.expected.waiting()),
                };
            }
            if outlook.some_are_safe() {
                outlook.largest = size;
            }
        }
        self.best_cut(latency)
    }

    /// The batch with the most answers in its forecast.
    ///
    /// Candidates differ in the size that they and later batches aim for, and in how cautiously they pass over urgent
    /// queries: those that would be late in one of ten cases, in every other, in four of five, or none. Where a query
    /// costs little beside the batch, even one with a small chance is worth its place. First the size is found, by a
    /// coarse search over all and a finer one around the best. Then the caution is varied for that size and for sizes
    /// near it.
    fn best_cut(&mut self, latency: &LatencyModel) -> Cut {
        let (outlook, even_odds) = (&mut self.outlook, latency.even_odds());
        let longest = outlook.expected.last().max(outlook.horizon);
        let most = outlook.fitting(latency, longest, usize::MAX, even_odds).max(1);
        let steps = Steps::up_to(most);
        outlook.most_per_second = steps.most_per_second(latency);
        let mut best = Best::new(outlook, latency);
        let aim = |step| Aim {
            size: steps.size(step),
            caution: even_odds,
        };
        for step in (0..=STEPS / COARSE).rev().map(|coarse| coarse * COARSE) {
            best.try_aim(aim(step), step);
        }
        let mut width = COARSE / 2;
        while width > 0 {
            let around = best.step;
            if around + width <= STEPS {
                best.try_aim(aim(around + width), around + width);
            }
            if let Some(step) = around.checked_sub(width) {
                best.try_aim(aim(step), step);
            }
            width /= 2;
        }
        let around = best.step;
        for caution in [latency.caution(), latency.long_odds()] {
            let sizes = ASIDE.iter().filter_map(|&aside| around.checked_add_signed(aside));
            for step in sizes.filter(|&step| step <= STEPS) {
                let size = steps.size(step);
                best.try_aim(Aim { size, caution }, step);
            }
        }
        let size = best.aim.size;
        for caution in [latency.caution(), even_odds, latency.long_odds()] {
            let aim = Aim { size, caution };
            best.try_aim(aim, best.step);
            let taken = outlook.fitting(
                latency,
                outlook.expected.first(),
                outlook.expected.waiting(),
                caution,
            );
            if taken > 0 {
                best.try_cut(Cut { passed: 0, taken }, aim);
            }
        }
        best.try_whole_steps();
        best.cut
    }

    fn choose(&mut self, queue: &dyn Deadlines, situation: &Situation<'_>) -> Decision {
        let (latency, waiting) = (situation.latency, queue.len());
        if !latency.is_known() {
            self.probe.batch_starts(situation.start, None);
            return first_batch(queue, situation.start);
        }
        self.outlook.largest = self.max_batch.min(situation.largest).max(1);
        self.classes.clear();
        situation.arrivals.classes(MOST_CLASSES, &mut self.classes);
        let took = latency.caution() * latency.typical(waiting);
        let in_time = |first: Instant| first.seconds_after(situation.start) >= took;
        if waiting <= self.outlook.largest
            && queue.nth(0).is_some_and(in_time)
            && !self.keeps_the_urgent_waiting(queue.nth(waiting - 1), took, situation)
        {
            self.probe.batch_starts(situation.start, None);
            return taking(whole_steps(latency, waiting));
        }
        let hopeless = Hopeless::of(queue, situation);
        let skipped = hopeless.anywhere + hopeless.here;
        if skipped == waiting {
            return self.give_up_or_probe(queue, &hopeless, situation);
        }
        self.probe.batch_starts(situation.start, None);
        self.look_at(queue, skipped, situation.start);
        self.prepare_outlook(situation);
        let Cut { passed, taken } = self.cut(situation);
        let mut decision = Decision {
            give_up: hopeless.anywhere,
            leave: hopeless.here + passed,
            take: taken,
        };
        if situation.others.is_empty() {
            // No other replica will come for them.
            decision.give_up += std::mem::take(&mut decision.leave);
        }
        decision
    }

    /// Gives up or leaves the hopeless queries. If all are hopeless and a probe is due, the one with the most time
    /// left is sent as a probe.
    fn give_up_or_probe(
        &mut self,
        queue: &dyn Deadlines,
        hopeless: &Hopeless,
        situation: &Situation<'_>,
    ) -> Decision {
        let alone = situation.latency.typical(1);
        let last = queue.nth(queue.len() - 1);
        let is_probed = hopeless.here == 0
            && last.is_some_and(|last| last > situation.start)
            && self.probe.is_due(situation.start, alone);
        if is_probed {
            self.probe.batch_starts(situation.start, Some(alone));
        }
        let take = usize::from(is_probed);
        Decision {
            give_up: hopeless.anywhere - take,
            leave: hopeless.here,
            take,
        }
    }
}

/// Candidate sizes, from 1 to the largest. Each is the same factor larger than the one before.
struct Steps {
    factor: f64,
}

/// The number of steps from the smallest size to the largest.
const STEPS: usize = 20;

/// The coarse search tries every `COARSE`-th step.
const COARSE: usize = 4;

/// The steps, relative to the best, for which other cautions are tried.
const ASIDE: [isize; 4] = [-2, -1, 0, 2];

impl Steps {
    /// The most queries per second that a batch answers, over all sizes and over the ends of the steps below them. By
    /// a line the largest batch answers most; by a table a smaller one may.
    #[expect(clippy::cast_precision_loss, reason = "sizes are 32-bit numbers")]
    fn most_per_second(&self, latency: &LatencyModel) -> f64 {
        let rate = |size: usize| size as f64 / (latency.typical(size) * latency.mean_ratio());
        let sizes = (0..=STEPS).map(|step| self.size(step).max(1));
        let sizes = sizes.flat_map(|size| [Some(size), latency.step_below(size)]);
        sizes.flatten().map(rate).fold(0.0, f64::max)
    }

    #[expect(clippy::cast_precision_loss, reason = "sizes are 32-bit numbers")]
    fn up_to(most: usize) -> Self {
        Self {
            factor: (most as f64).powf(1.0 / STEPS as f64),
        }
    }

    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "sizes are 32-bit numbers"
    )]
    fn size(&self, step: usize) -> usize {
        self.factor.powi(i32::try_from(step).unwrap_or(i32::MAX)).round() as usize
    }
}

/// The best candidate so far, and those already tried.
struct Best<'a> {
    outlook: &'a Outlook,
    latency: &'a LatencyModel,
    cut: Cut,
    aim: Aim,
    step: usize,
    answered: f64,
    /// Candidates that were already tried.
    tried: Vec<(Cut, Aim)>,
}

impl<'a> Best<'a> {
    fn new(outlook: &'a Outlook, latency: &'a LatencyModel) -> Self {
        Self {
            outlook,
            latency,
            cut: Cut { passed: 0, taken: 1 },
            aim: Aim {
                size: 1,
                caution: 1.0,
            },
            step: 0,
            answered: f64::NEG_INFINITY,
            tried: Vec::with_capacity(32),
        }
    }

    /// Tries the batch that is cut for this aim.
    fn try_aim(&mut self, aim: Aim, step: usize) {
        if self.try_cut(self.outlook.first_cut(self.latency, aim), aim) {
            self.step = step;
        }
    }

    /// Tries the best batch cut at the ends of the next steps below, where the table is used.
    fn try_whole_steps(&mut self) {
        let (Cut { passed, taken }, aim) = (self.cut, self.aim);
        for taken in steps_below(self.latency, taken).take(STEPS_BELOW) {
            self.try_cut(Cut { passed, taken }, aim);
        }
    }

    /// Tries a candidate and returns whether it is the best so far. Among equals the largest wins: it teaches most.
    fn try_cut(&mut self, cut: Cut, aim: Aim) -> bool {
        if self.tried.contains(&(cut, aim)) {
            return false;
        }
        self.tried.push((cut, aim));
        let answered = self
            .outlook
            .answered(self.latency, cut, aim, self.answered - ROUNDING);
        let is_better = answered > self.answered + ROUNDING
            || (answered > self.answered - ROUNDING && cut.taken > self.cut.taken);
        if is_better {
            (self.cut, self.aim, self.answered) = (cut, aim, answered);
        }
        is_better
    }
}

/// The number of lower steps at whose ends the best batch is tried.
const STEPS_BELOW: usize = 3;

/// The ends of the steps below a size, largest first. Empty where the line is used.
fn steps_below(latency: &LatencyModel, size: usize) -> impl Iterator<Item = usize> + '_ {
    std::iter::successors(latency.step_below(size), |&below| latency.step_below(below))
}

/// How many queries of a batch to send first. It is all of them, unless they take no longer as two batches. Then the
/// first part is answered sooner, nothing is later, and arrivals may join the second part. The part with the most
/// queries per second is chosen; among equals the largest.
#[expect(clippy::cast_precision_loss, reason = "sizes are 32-bit numbers")]
fn whole_steps(latency: &LatencyModel, taken: usize) -> usize {
    let at_once = latency.typical(taken);
    let costs_nothing =
        |&part: &usize| latency.typical(part) + latency.typical(taken - part) <= at_once * (1.0 + SAME_TIME);
    let rate = |size: usize| size as f64 / latency.typical(size);
    let parts = steps_below(latency, taken).filter(costs_nothing);
    parts.fold(taken, |best, part| {
        match rate(part) > rate(best) * (1.0 + SAME_TIME) {
            true => part,
            false => best,
        }
    })
}

/// Learned times within this fraction of each other may be of the same step.
const SAME_TIME: f64 = 0.02;

/// Forecasts within this of each other count as equal.
const ROUNDING: f64 = 1e-9;

/// Queries at the front of the queue that would be late even as a batch of one.
struct Hopeless {
    /// Queries that are late at every replica.
    anywhere: usize,
    /// Of the queries behind those, the ones that are late at this replica.
    here: usize,
}

impl Hopeless {
    fn of(queue: &dyn Deadlines, situation: &Situation<'_>) -> Self {
        let alone = situation.latency.typical(1) * situation.latency.least_ratio();
        let here = situation.start + seconds(alone);
        let elsewhere = situation
            .others
            .iter()
            .filter(|other| !other.alone.is_zero())
            .map(|other| other.free + other.alone);
        let anywhere = queue.before(elsewhere.fold(here, Instant::min));
        Self {
            anywhere,
            here: queue.before(here) - anywhere,
        }
    }
}

/// While nothing is known, a batch of one finds out.
fn first_batch(queue: &dyn Deadlines, start: Instant) -> Decision {
    let give_up = queue.expired(start);
    Decision {
        give_up,
        leave: 0,
        take: (queue.len() - give_up).min(1),
    }
}

/// The decision to take the first `take` queries.
fn taking(take: usize) -> Decision {
    Decision {
        give_up: 0,
        leave: 0,
        take,
    }
}

/// A `Duration` of this many seconds; the longest one if it does not fit.
fn seconds(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
}

impl BatchPolicy for Learned {
    fn decide(&mut self, queue: &dyn Deadlines, situation: &Situation<'_>) -> Decision {
        if queue.is_empty() {
            return Decision::default();
        }
        self.choose(queue, situation)
    }

    fn ends(&self, size: usize, situation: &Situation<'_>) -> Instant {
        let latency = situation.latency;
        match latency.is_known() {
            true => situation.start + Duration::from_secs_f64(latency.caution() * latency.typical(size)),
            false => situation.start,
        }
    }

    /// Batch times are learned by the latency model. Only the probe needs them here.
    fn observe(&mut self, _size: usize, took: Duration) {
        self.probe.took(took.as_secs_f64());
    }

    fn most_shared(&self) -> usize {
        self.max_batch
    }

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

    /// The most inputs to send, if no other replica has proven a larger size.
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
        // A batch of one would save the first query. 30 others wait, and one comes every millisecond.
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
        assert_eq!((decision.give_up, decision.leave), (0, 0));
        assert!((1..=2).contains(&decision.take), "{decision:?}");
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

    /// Like [`saturate`], with the batch times that `cost` gives.
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
            let pressed = take < queue.len();
            for _ in 0..give_up + take {
                queue.pop().unwrap();
            }
            if take == 0 {
                now += 1;
                continue;
            }
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

    #[test]
    fn a_batch_that_takes_as_long_in_two_parts_is_cut_at_the_end_of_a_step() {
        // Waves of 16, of 10 ms each.
        let waves = |size: usize| millis(10 * size.div_ceil(16) as u64);
        let mut latency = LatencyModel::default();
        for n in 0..300 {
            let size = n * 29 % 48 + 1;
            latency.observe(size, waves(size), false);
        }
        assert_eq!(decide([250; 16], &latency, &[]).take, 16);
        for waiting in [17, 20, 30] {
            assert_eq!(decide(vec![250; waiting], &latency, &[]).take, 16, "{waiting}");
        }
        assert_eq!(decide([250; 32], &latency, &[]).take, 32, "no step is wasted");
        assert_eq!(decide([250; 40], &latency, &[]).take, 32);
        assert_eq!(decide([250; 40], &known(), &[]).take, 40, "a line has no steps");
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

//! A policy to compare with: planned batches with early drops, fed by a line that is fitted online.
//!
//! It plans one batch size from the arrival rate: the size that answers the most queries per second if
//! batches are only as large as what arrives in the time that the SLO leaves. A batch as large as the
//! earliest deadline allows is taken while that is at least the plan, or while a look ahead shows that
//! everyone else is still in time. Otherwise the heads that would be late with the planned batch are given
//! up. That is the rule of Nexus (SOSP '19) with a latency model of its own instead of a profile made
//! beforehand, and without needless drops. Each replica decides as if the queue were its own; the arrival
//! rate and the time to drain the queue are divided by their number.
//!
//! Kept apart from `skysail-core`, with a latency model of its own: it is what the learned policy has to
//! beat, and does not change with it. Times are seconds.

use std::collections::VecDeque;
use std::num::NonZeroU32;
use std::time::Duration;

use skysail_core::batch::{BatchPolicy, Decision, Situation};
use skysail_core::queue::Deadlines;
use skysail_core::time::Instant;

/// Deadlines are taken to be earlier by this: a reply has a way to go.
const GUARD: f64 = 5e-4;

/// The batch is planned anew after so many decisions.
const PLAN_EVERY: usize = 8;

/// Beyond this share of what planned batches can answer, no small batch is taken for the head's sake.
const SPARE_LOAD: f64 = 0.8;

/// The look ahead ends after so many batches.
const LOOK_AHEAD: usize = 8;

/// What rounding may take away from a batch size.
const SLACK: f64 = 1e-9;

/// The policy.
#[derive(Clone, Debug)]
pub struct Reference {
    model: Model,
    max_batch: usize,
    planned: usize,
    decisions: usize,
    /// Time left for each query that waits, earliest first. Its memory is used again.
    due: Vec<f64>,
    deadlines: Vec<Instant>,
}

/// What a replica's share of the queries is like.
#[derive(Clone, Copy)]
struct Share {
    /// Arrivals per second.
    rate: f64,
    /// Replicas that drain the queue.
    replicas: f64,
}

impl Reference {
    /// Knows nothing yet, and never sends more than `max_batch`.
    pub fn new(max_batch: NonZeroU32) -> Self {
        Self {
            model: Model::default(),
            max_batch: max_batch.get() as usize,
            planned: 1,
            decisions: 0,
            due: Vec::new(),
            deadlines: Vec::new(),
        }
    }

    fn look_at(&mut self, queue: &dyn Deadlines, start: Instant) {
        self.deadlines.clear();
        queue.sample(0, 1, &mut self.deadlines);
        self.due.clear();
        let left = self.deadlines.iter().map(|due| due.seconds_after(start));
        self.due.extend(left);
    }

    /// The size that answers the most queries per second.
    fn plan(&self, slo: f64, rate: f64) -> usize {
        let mut best = (f64::NEG_INFINITY, self.planned);
        for size in 1..=self.max_batch {
            // What a batch may have waited for its queries to come.
            let spare = slo - GUARD - self.model.cautious(size);
            if spare <= 0.0 {
                break;
            }
            let typical = self.model.typical(size);
            let filled = if spare < typical {
                (rate * spare).min(size as f64)
            } else {
                size as f64
            };
            if filled / typical >= best.0 {
                best = (filled / typical, size);
            }
        }
        best.1
    }

    /// The largest batch of up to `waiting` whose head, due then, is in time.
    fn fitting(&self, due: f64, waiting: usize) -> usize {
        let room = (due - GUARD) / self.model.tail - self.model.fixed;
        if room <= 0.0 {
            return 0;
        }
        let size = room / self.model.per_input + SLACK;
        (size as usize).min(waiting).min(self.max_batch)
    }

    /// Whether all that wait are in time after a first batch of this size, of those from `head` on.
    fn all_in_time(&self, head: usize, first: usize, share: Share) -> bool {
        let planned_rate = self.planned as f64 / self.model.typical(self.planned);
        if share.rate > SPARE_LOAD * planned_rate {
            return false;
        }
        let mut next = head + first;
        let mut now = self.model.typical(first) / share.replicas;
        for _ in 0..LOOK_AHEAD {
            let Some(due) = self.due.get(next) else { break };
            let size = self.fitting(due - now, self.due.len() - next);
            if size == 0 {
                return false;
            }
            next += size;
            now += self.model.typical(size) / share.replicas;
        }
        true
    }

    fn choose(&self, share: Share) -> Decision {
        let due = &self.due;
        let alone = self.model.typical(1);
        let mut head = due.iter().take_while(|due| **due - GUARD < alone).count();
        if head == due.len() {
            return decision(head, 0);
        }
        let small = self.fitting(due[head], due.len() - head);
        let wanted = self.planned.min(due.len() - head);
        if small >= wanted || self.all_in_time(head, small.max(1), share) {
            return decision(head, small.max(1));
        }
        while head + 1 < due.len() && due[head] - GUARD < self.model.cautious(wanted.min(due.len() - head)) {
            head += 1;
        }
        decision(head, self.fitting(due[head], due.len() - head).max(1))
    }
}

fn decision(give_up: usize, take: usize) -> Decision {
    Decision {
        give_up,
        leave: 0,
        take,
    }
}

impl BatchPolicy for Reference {
    fn decide(&mut self, queue: &dyn Deadlines, situation: &Situation<'_>) -> Decision {
        let replicas = situation.others.len() as f64 + 1.0;
        let share = Share {
            rate: situation.arrivals.per_second(situation.start) / replicas,
            replicas,
        };
        if self.decisions.is_multiple_of(PLAN_EVERY) {
            let slo = situation.arrivals.mean_budget().unwrap_or_default();
            self.planned = self.plan(slo.as_secs_f64(), share.rate);
        }
        self.decisions += 1;
        self.look_at(queue, situation.start);
        self.choose(share)
    }

    fn observe(&mut self, size: usize, took: Duration) {
        self.model.observe(size as f64, took.as_secs_f64());
    }

    fn counts_on_times(&self) -> bool {
        true
    }
}

/// What old batches still count for after each new one.
const FORGETTING: f64 = 0.97;

/// How strongly the last slope is held on to, relative to what is known: enough to decide it when all
/// batches are alike.
const RIDGE: f64 = 1e-3;

/// A line is not drawn through points that are this close to one.
const DEGENERATE: f64 = 1e-12;

/// So many of the last ratios of actual to typical time are remembered.
const REMEMBERED: usize = 64;

/// The first ratios say more about the line's start than about the replica.
const UNTRUSTED: usize = 4;

/// The share of batches that a cautious time holds for.
const TAIL: f64 = 0.8;

/// How quickly the recent mean of the ratios follows, and from where on it counts: a change of speed shows
/// in it before it shows in the quantile.
const QUICK: f64 = 0.25;
const SLOWER: f64 = 1.15;

/// Batch times, learned: a line by least squares with forgetting, and how far batches are beyond it.
#[derive(Clone, Debug)]
struct Model {
    fixed: f64,
    per_input: f64,
    /// What to multiply typical times by to be cautious.
    tail: f64,
    sums: Sums,
    ratios: VecDeque<f64>,
    recent_ratio: f64,
}

/// Weighted sums over the batches: of 1, n, n², time, and n × time.
#[derive(Clone, Copy, Debug, Default)]
struct Sums {
    one: f64,
    size: f64,
    size_squared: f64,
    time: f64,
    size_time: f64,
}

impl Default for Model {
    /// A guess, to begin with.
    fn default() -> Self {
        Self {
            fixed: 2e-3,
            per_input: 1e-3,
            tail: 1.3,
            sums: Sums::default(),
            ratios: VecDeque::with_capacity(REMEMBERED),
            recent_ratio: 1.0,
        }
    }
}

impl Model {
    fn typical(&self, size: usize) -> f64 {
        self.fixed + self.per_input * size as f64
    }

    fn cautious(&self, size: usize) -> f64 {
        self.tail * self.typical(size)
    }

    fn observe(&mut self, size: f64, seconds: f64) {
        let expected = self.fixed + self.per_input * size;
        let ratio = if self.ratios.len() < UNTRUSTED {
            1.0
        } else {
            seconds / expected
        };
        self.remember(ratio);
        // Relative errors count, not absolute ones.
        self.sums.add(size, seconds, expected.max(1e-6).powi(-2));
        self.fit();
        self.recent_ratio += QUICK * (ratio - self.recent_ratio);
        self.tail = self.quantile(TAIL).max(1.0);
        if self.recent_ratio > SLOWER {
            self.tail = self.tail.max(self.recent_ratio);
        }
    }

    fn remember(&mut self, ratio: f64) {
        if self.ratios.len() == REMEMBERED {
            self.ratios.pop_front();
        }
        self.ratios.push_back(ratio);
    }

    fn quantile(&self, share: f64) -> f64 {
        let mut sorted: Vec<f64> = self.ratios.iter().copied().collect();
        sorted.sort_unstable_by(f64::total_cmp);
        let index = (share * sorted.len() as f64) as usize;
        sorted[index.min(sorted.len() - 1)]
    }

    fn fit(&mut self) {
        let Sums {
            one,
            size,
            size_squared,
            time,
            size_time,
        } = self.sums;
        let ridge = RIDGE * size_squared;
        let determinant = one * (size_squared + ridge) - size * size;
        if determinant <= DEGENERATE * one * size_squared {
            return;
        }
        let slope = (one * (size_time + ridge * self.per_input) - size * time) / determinant;
        self.per_input = slope.max(1e-6);
        self.fixed = ((time - self.per_input * size) / one).max(0.0);
    }
}

impl Sums {
    fn add(&mut self, size: f64, seconds: f64, weight: f64) {
        let follow = |sum: &mut f64, value: f64| *sum = *sum * FORGETTING + weight * value;
        follow(&mut self.one, 1.0);
        follow(&mut self.size, size);
        follow(&mut self.size_squared, size * size);
        follow(&mut self.time, seconds);
        follow(&mut self.size_time, size * seconds);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Knows that batches of n take 5 + n ms.
    fn taught() -> Reference {
        let mut policy = Reference::new(NonZeroU32::new(64).unwrap());
        for nth in 0..200 {
            let size = nth % 40 + 1;
            policy.observe(size, Duration::from_millis(5 + size as u64));
        }
        policy
    }

    /// Decides for queries that have so many milliseconds left.
    fn decide(policy: &mut Reference, planned: usize, rate: f64, left: &[f64]) -> Decision {
        policy.planned = planned;
        policy.due = left.iter().map(|millis| millis * 1e-3).collect();
        policy.choose(Share { rate, replicas: 1.0 })
    }

    #[test]
    fn it_learns_the_line_and_that_nothing_is_beyond_it() {
        let model = taught().model;
        assert!((model.fixed - 5e-3).abs() < 1e-5, "{model:?}");
        assert!((model.per_input - 1e-3).abs() < 1e-5, "{model:?}");
        assert!((model.tail - 1.0).abs() < 0.01, "{model:?}");
    }

    #[test]
    fn batches_of_one_size_leave_the_slope_as_it_was() {
        let mut model = Model::default();
        for _ in 0..500 {
            model.observe(10.0, 0.015);
        }
        assert!((model.typical(10) - 0.015).abs() < 1e-4, "{model:?}");
        assert!((model.per_input - 1e-3).abs() < 1e-4, "{model:?}");
    }

    #[test]
    fn slower_batches_show_in_the_tail_before_they_show_in_the_line() {
        let mut model = taught().model;
        for _ in 0..3 {
            model.observe(20.0, 0.05);
        }
        assert!(model.cautious(20) > 0.04, "{model:?}");
    }

    #[test]
    fn the_plan_is_the_largest_batch_that_fills_in_the_time_that_is_left() {
        let policy = taught();
        // 37 take 42 ms, and in the 7.5 ms that are left so many come.
        let busy = policy.plan(0.05, 5000.0);
        assert!((36..=38).contains(&busy), "{busy}");
        // 19 take 24 ms: no longer than there is to wait for them.
        let calm = policy.plan(0.05, 400.0);
        assert!((18..=20).contains(&calm), "{calm}");
        assert_eq!(policy.plan(0.001, 400.0), policy.planned, "nothing fits");
    }

    #[test]
    fn under_pressure_the_heads_that_stand_in_the_plans_way_are_given_up() {
        let left: Vec<_> = std::iter::once(7.0).chain([45.0; 20]).collect();
        let pressed = decide(&mut taught(), 20, 5000.0, &left);
        assert_eq!(pressed, decision(1, 20));
        let calm = decide(&mut taught(), 20, 10.0, &left);
        assert_eq!(calm, decision(0, 1), "all others are in time after it");
    }

    #[test]
    fn what_is_late_even_alone_is_given_up() {
        assert_eq!(
            decide(&mut taught(), 20, 10.0, &[-1.0, 5.0, 30.0]),
            decision(2, 1)
        );
        assert_eq!(decide(&mut taught(), 20, 10.0, &[1.0, 2.0]), decision(2, 0));
    }
}

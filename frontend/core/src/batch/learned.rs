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
use super::outlook::{Cut, Outlook};
use super::{BatchPolicy, Decision, Situation};
use crate::queue::Deadlines;
use crate::time::Instant;

/// The most waiting queries that one decision looks at.
const MOST_WAITING: usize = 512;

/// The most other replicas a forecast follows.
const MOST_OTHERS: usize = 7;

/// Sizes that are tried differ by this factor.
const SIZE_STEP: f64 = 1.2;

/// A batch is never more than this many times the largest that was seen: a line is not believed far beyond
/// what it was drawn through.
const GROWTH: usize = 2;

/// Budgets of so many of the last arrivals stand for those of the next.
const BUDGETS: usize = 32;

/// The policy.
#[derive(Clone, Debug)]
pub struct Learned {
    model: LatencyModel,
    max_batch: usize,
    outlook: Outlook,
    /// Whether the last batch left queries waiting or gave some up.
    pressed: bool,
    deadlines: Vec<Instant>,
    cuts: Vec<(Cut, usize)>,
}

impl Learned {
    /// Knows nothing yet, and never sends more than `max_batch`.
    pub fn new(max_batch: NonZeroU32) -> Self {
        Self {
            model: LatencyModel::default(),
            max_batch: max_batch.get() as usize,
            outlook: Outlook::default(),
            pressed: false,
            deadlines: Vec::new(),
            cuts: Vec::new(),
        }
    }

    /// What it knows of batch times.
    pub fn model(&self) -> &LatencyModel {
        &self.model
    }

    /// Reads the queue: seconds left at `start`, earliest first.
    fn look_at(&mut self, queue: &dyn Deadlines, start: Instant) {
        self.deadlines.clear();
        queue.copy_deadlines(MOST_WAITING, &mut self.deadlines);
        self.outlook.due.clear();
        let left = self.deadlines.iter().map(|deadline| deadline.seconds_after(start));
        self.outlook.due.extend(left);
    }

    /// Before anything is known, a batch of one finds out.
    fn first_batch(&self) -> Decision {
        let due = &self.outlook.due;
        let give_up = due.partition_point(|&due| due <= 0.0);
        Decision {
            give_up,
            take: (due.len() - give_up).min(1),
        }
    }

    /// Whether all that wait are cautiously expected to be in time as one batch.
    fn all_fit(&self) -> bool {
        let due = &self.outlook.due;
        due.len() <= self.outlook.largest
            && due[0] >= self.model.caution() * self.model.typical(due.len())
    }

    /// Gives up those that would be late even alone. If that is all of them, the one with the most time left
    /// is tried all the same, if it has any: it costs nobody anything, and it is how a replica that has
    /// become faster is noticed.
    fn hopeless(&self) -> Result<usize, Decision> {
        let due = &self.outlook.due;
        let hopeless = due.partition_point(|&due| due < self.model.typical(1));
        if hopeless < due.len() {
            return Ok(hopeless);
        }
        let take = usize::from(due.last().is_some_and(|&last| last > 0.0));
        Err(Decision {
            give_up: hopeless - take,
            take,
        })
    }

    fn prepare_outlook(&mut self, situation: &Situation<'_>) {
        let Situation {
            start,
            arrivals,
            others,
        } = situation;
        let outlook = &mut self.outlook;
        outlook.expect_batches(&self.model);
        outlook.others.clear();
        let free = others.iter().take(MOST_OTHERS).map(|free| free.seconds_after(*start));
        outlook.others.extend(free);
        outlook.horizon = arrivals.mean_budget().map_or(0.0, |budget| budget.as_secs_f64());
        let budgets = arrivals.budgets().take(BUDGETS).map(|budget| budget.as_secs_f64());
        outlook.expect_arrivals(arrivals.per_second(*start), budgets);
    }

    /// The batches to compare, each with the size that those after it aim for.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_precision_loss,
        clippy::cast_sign_loss,
        reason = "sizes lie between 1 and the largest batch, a 32-bit number"
    )]
    fn list_cuts(&mut self) {
        let (outlook, model) = (&self.outlook, &self.model);
        let due = &outlook.due;
        self.cuts.clear();
        let longest = due.last().copied().unwrap_or_default().max(outlook.horizon);
        let most = outlook.fitting(model, longest, usize::MAX).max(1);
        let small = outlook.fitting(model, due[0], due.len());
        let mut size = 1.0_f64;
        loop {
            let aim = (size as usize).min(most);
            // All heads kept, with the batch that allows.
            if small > 0 {
                let cut = Cut {
                    passed: 0,
                    taken: small,
                };
                self.cuts.push((cut, aim));
            }
            self.cuts.push((outlook.cut(model, due, 0.0, aim), aim));
            if aim == most {
                break;
            }
            // At least one more, and a fifth more where that is more than one.
            size = (size * SIZE_STEP).max(aim as f64 + 1.0);
        }
        self.cuts.sort_unstable();
        self.cuts.dedup();
    }

    /// The batch with the best outlook.
    fn best_cut(&mut self) -> Cut {
        let mut best = Cut { passed: 0, taken: 1 };
        let mut most_answered = f64::NEG_INFINITY;
        for &(cut, aim) in &self.cuts {
            let answered = self.outlook.answered(&self.model, cut, aim);
            // Sorted by how many are passed over: of equals, the one that gives up least.
            if answered > most_answered + 1e-9 {
                most_answered = answered;
                best = cut;
            }
        }
        best
    }

    fn choose(&mut self, situation: &Situation<'_>) -> Decision {
        if !self.model.is_known() {
            return self.first_batch();
        }
        self.outlook.largest = self.max_batch.min(GROWTH * self.model.largest()).max(1);
        if self.all_fit() {
            return Decision {
                give_up: 0,
                take: self.outlook.due.len(),
            };
        }
        let hopeless = match self.hopeless() {
            Ok(hopeless) => hopeless,
            Err(decision) => return decision,
        };
        self.outlook.due.drain(..hopeless);
        self.prepare_outlook(situation);
        self.list_cuts();
        let Cut { passed, taken } = self.best_cut();
        Decision {
            give_up: hopeless + passed,
            take: taken,
        }
    }
}

impl BatchPolicy for Learned {
    fn decide(&mut self, queue: &dyn Deadlines, situation: &Situation<'_>) -> Decision {
        if queue.is_empty() {
            return Decision::default();
        }
        self.look_at(queue, situation.start);
        let decision = self.choose(situation);
        self.pressed = decision.take < queue.len();
        decision
    }

    fn observe(&mut self, size: usize, took: Duration) {
        self.model.observe(size, took.as_secs_f64(), self.pressed);
    }

    fn predict(&self, size: usize) -> Option<Duration> {
        self.model
            .is_known()
            .then(|| Duration::from_secs_f64(self.model.typical(size)))
    }
}

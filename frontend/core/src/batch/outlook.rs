//! What becomes of the queue in the near future if the next batch is this one: a forecast in which the
//! queries that wait, and those expected to come, are served by this replica and the others.
//!
//! Times are seconds from when the batch in question would start.

use super::latency::LatencyModel;
use super::ratios::POINTS;

/// The most arrivals that are looked ahead to.
const MOST_ARRIVALS: usize = 256;

/// A batch: so many of the first are passed over, so many behind them taken.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) struct Cut {
    pub(super) passed: usize,
    pub(super) taken: usize,
}

/// What batches are cut for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Aim {
    /// So many queries.
    pub(super) size: usize,
    /// Those that would be late if the batch took so many times what is typical are passed over.
    pub(super) caution: f64,
}

/// Another replica.
#[derive(Clone, Copy, Debug)]
pub(super) struct Server {
    /// When it is free.
    pub(super) free: f64,
    /// How much longer a batch takes there.
    pub(super) pace: f64,
}

/// A query that is expected to come.
#[derive(Clone, Copy, Debug)]
struct Arrival {
    at: f64,
    due: f64,
}

/// What forecasts are made from. Its buffers are used again for the next decision.
#[derive(Clone, Debug, Default)]
pub(super) struct Outlook {
    /// When the queries that wait are due, earliest first.
    pub(super) due: Vec<f64>,
    /// The other replicas.
    pub(super) others: Vec<Server>,
    /// How long it is others' turn between two batches of this queue.
    pub(super) pause: f64,
    /// How far is looked ahead.
    pub(super) horizon: f64,
    /// The largest batch.
    pub(super) largest: usize,
    arrivals: Vec<Arrival>,
    mean_ratio: f64,
    spread: [f64; POINTS],
    /// Scratch: the queries that wait at the forecast's time, and the replicas.
    waiting: Vec<f64>,
    servers: Vec<Server>,
}

impl Outlook {
    /// Takes over what is known of batch times.
    pub(super) fn expect_batches(&mut self, model: &LatencyModel) {
        self.mean_ratio = model.mean_ratio();
        self.spread = model.spread();
    }

    /// Expects queries at a steady rate per second, given what the last ones were given to be answered in.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_precision_loss,
        clippy::cast_sign_loss,
        reason = "a few hundred arrivals"
    )]
    pub(super) fn expect_arrivals(&mut self, per_second: f64, budgets: impl Iterator<Item = f64> + Clone) {
        self.arrivals.clear();
        let count = ((self.horizon * per_second) as usize).min(MOST_ARRIVALS);
        let times = (0..count).map(|nth| (nth as f64 + 0.5) / per_second);
        let expected = times
            .zip(budgets.cycle())
            .map(|(at, budget)| Arrival { at, due: at + budget });
        self.arrivals.extend(expected);
    }

    /// The largest batch whose head, due then, is expected to be in time even if it takes so many times what
    /// is typical.
    pub(super) fn fitting(&self, model: &LatencyModel, due: f64, waiting: usize, caution: f64) -> usize {
        model.size_within(due / caution).min(waiting).min(self.largest)
    }

    /// Passes over those that would be late with a batch of the size aimed for, and takes that many, or more
    /// if those left allow it.
    pub(super) fn cut(&self, model: &LatencyModel, due: &[f64], now: f64, aim: Aim) -> Cut {
        let last = due.len() - 1;
        let mut passed = 0;
        while passed < last
            && due[passed] - now < aim.caution * model.typical(aim.size.min(due.len() - passed))
        {
            passed += 1;
        }
        let left = due.len() - passed;
        let taken = self.fitting(model, due[passed] - now, left, aim.caution).max(1);
        Cut { passed, taken }
    }

    /// How many queries are expected to be answered in time within the horizon if the next batch is `first`
    /// and later ones have this aim.
    #[expect(clippy::cast_precision_loss, reason = "a few hundred queries")]
    pub(super) fn answered(&mut self, model: &LatencyModel, first: Cut, aim: Aim) -> f64 {
        let mut waiting = std::mem::take(&mut self.waiting);
        let mut servers = std::mem::take(&mut self.servers);
        waiting.clear();
        waiting.extend_from_slice(&self.due);
        servers.clear();
        servers.extend_from_slice(&self.others);
        servers.push(Server { free: 0.0, pace: 1.0 });
        let (mut server, mut cut, mut now) = (servers.len() - 1, first, 0.0_f64);
        // The first that still waits; those before it were taken or given up.
        let mut head = 0;
        let mut arrivals = self.arrivals.iter();
        let mut next = arrivals.next();
        let mut answered = 0.0;
        loop {
            let begin = head + cut.passed;
            let batch = &waiting[begin..begin + cut.taken];
            let typical = model.typical(cut.taken) * servers[server].pace;
            let in_time: usize = self
                .spread
                .iter()
                .map(|ratio| in_time(batch, now + ratio * typical))
                .sum();
            let took = typical * self.mean_ratio;
            // A batch that ends beyond the horizon counts for its part within.
            let within = ((self.horizon - now) / took).clamp(0.0, 1.0);
            answered += within * in_time as f64 / POINTS as f64;
            servers[server].free = now + took + self.pause;
            if self.others.is_empty() {
                head = begin + cut.taken;
            } else {
                waiting.drain(begin..begin + cut.taken);
            }

            server = earliest(&servers);
            now = now.max(servers[server].free);
            while let Some(arrival) = next.filter(|arrival| arrival.at <= now) {
                insert(&mut waiting, head, arrival.due);
                next = arrivals.next();
            }
            if !self.others.is_empty() {
                let alone = model.typical(1);
                while head < waiting.len() && waiting[head] - now < alone {
                    head += 1;
                }
            }
            if head == waiting.len() {
                let Some(arrival) = next else { break };
                now = arrival.at;
                waiting.push(arrival.due);
                next = arrivals.next();
            }
            if now >= self.horizon {
                break;
            }
            cut = self.cut(model, &waiting[head..], now, aim);
        }
        self.waiting = waiting;
        self.servers = servers;
        answered
    }
}

/// How many are due at `end` or later; they are sorted.
fn in_time(due: &[f64], end: f64) -> usize {
    due.len() - due.partition_point(|&due| due < end)
}

/// The one that is free first.
fn earliest(servers: &[Server]) -> usize {
    (1..servers.len()).fold(0, |first, server| {
        if servers[server].free < servers[first].free {
            server
        } else {
            first
        }
    })
}

/// Most often an arrival is due last.
fn insert(waiting: &mut Vec<f64>, head: usize, due: f64) {
    if waiting[head..].last().is_none_or(|&last| last <= due) {
        return waiting.push(due);
    }
    let at = head + waiting[head..].partition_point(|&known| known <= due);
    waiting.insert(at, due);
}

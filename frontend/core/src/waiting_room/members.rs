//! The replicas that take from a waiting room: what other replicas and new queries need to know of them.

use std::time::Duration;

use super::elsewhere::{Elsewhere, LastBatch, Pace};
use crate::batch::Other;
use crate::time::Instant;

/// At most once in this time, a query that would be late with every replica is let through, if a replica has been
/// idle for as long. So a model that has become faster is noticed. A replica that has just answered has shown how
/// fast it is.
pub(super) const PROBE_INTERVAL: Duration = Duration::from_millis(100);

/// One replica, as the room knows it.
#[derive(Clone, Copy, Debug)]
struct Member {
    replica: u64,
    /// When it is expected to be free, and its time for a batch of one. `None` while it is not counted on.
    outlook: Option<Other>,
    /// The seconds that each further input adds to a batch of one.
    each: f64,
    last_batch: LastBatch,
}

impl Member {
    fn pace(&self, outlook: Other) -> Pace {
        Pace {
            alone: outlook.alone.as_secs_f64(),
            each: self.each,
        }
    }
}

/// All replicas of one waiting room.
#[derive(Debug, Default)]
pub(super) struct Members {
    all: Vec<Member>,
    /// When a query was last let through that no replica was expected to answer in time.
    last_probe: Option<Instant>,
    /// A buffer for what a policy is told of the other replicas.
    others: Vec<Other>,
}

impl Members {
    /// Adds a replica of which nothing is known.
    pub(super) fn join(&mut self, replica: u64, now: Instant) {
        let outlook = Other {
            free: now,
            alone: Duration::ZERO,
        };
        self.all.push(Member {
            replica,
            outlook: Some(outlook),
            each: 0.0,
            last_batch: LastBatch::default(),
        });
    }

    /// Removes a replica.
    pub(super) fn leave(&mut self, replica: u64) {
        self.all.retain(|member| member.replica != replica);
    }

    /// Sets what is expected of a replica; with `None` it is not counted on.
    pub(super) fn expect(&mut self, replica: u64, outlook: Option<Other>) {
        if let Some(member) = self.find(replica) {
            member.outlook = outlook;
        }
    }

    /// Sets the seconds that each further input is expected to add to a batch of one.
    pub(super) fn expect_each(&mut self, replica: u64, each: f64) {
        if let Some(member) = self.find(replica) {
            member.each = each;
        }
    }

    /// Records the last batch that a replica took.
    pub(super) fn took(&mut self, replica: u64, batch: LastBatch) {
        if let Some(member) = self.find(replica) {
            member.last_batch = batch;
        }
    }

    fn find(&mut self, replica: u64) -> Option<&mut Member> {
        self.all.iter_mut().find(|member| member.replica == replica)
    }

    /// The number of replicas.
    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    /// The batch times of a replica that the room was told, and its last batch.
    pub(super) fn record(&self, replica: u64) -> Option<(Pace, LastBatch)> {
        let member = self.all.iter().find(|member| member.replica == replica)?;
        Some((member.pace(member.outlook?), member.last_batch))
    }

    /// The other replicas that are counted on.
    pub(super) fn elsewhere(&self, replica: u64) -> impl Iterator<Item = Elsewhere> + '_ {
        let others = self.all.iter().filter(move |member| member.replica != replica);
        others.filter_map(|member| {
            let outlook = member.outlook?;
            Some(Elsewhere {
                free: outlook.free,
                pace: member.pace(outlook),
            })
        })
    }

    /// What is expected of the other replicas. `free` is at least `now`: a batch cannot start there in the past.
    pub(super) fn others(&mut self, replica: u64, now: Instant) -> &[Other] {
        self.others.clear();
        let others = self.all.iter().filter(|member| member.replica != replica);
        let outlooks = others.filter_map(|member| member.outlook);
        self.others.extend(outlooks.map(|other| Other {
            free: other.free.max(now),
            ..other
        }));
        &self.others
    }

    /// The earliest time at which a replica could answer a query that is asked alone next. `None` if there is only
    /// one replica: that one itself gives up what no other will come for.
    pub(super) fn earliest_answer(&self, now: Instant) -> Option<Instant> {
        let answer = |outlook: Other| outlook.free.max(now) + outlook.alone;
        let answers = self.all.iter().filter_map(|member| member.outlook).map(answer);
        answers.min().filter(|_| self.all.len() > 1)
    }

    /// Whether another replica is expected to be free.
    pub(super) fn is_another_idle(&mut self, replica: u64, now: Instant) -> bool {
        self.others(replica, now).iter().any(|other| other.free <= now)
    }

    /// Whether no replica is expected to answer by `deadline`, even if it starts now with this query alone. If
    /// nothing waits, such a query is let through every [`PROBE_INTERVAL`]. If no replica is counted on, the answer
    /// is `false`: a stalled replica may go on at any moment.
    pub(super) fn is_hopeless(&mut self, now: Instant, deadline: Instant, nothing_waits: bool) -> bool {
        let mut outlooks = self.all.iter().filter_map(|member| member.outlook).peekable();
        let in_time = |outlook: Other| outlook.free.max(now) + outlook.alone <= deadline;
        if outlooks.peek().is_none() || outlooks.clone().any(in_time) {
            return false;
        }
        let probe_due = self.last_probe.is_none_or(|last| now >= last + PROBE_INTERVAL);
        let long_idle = |outlook: Other| outlook.free + PROBE_INTERVAL <= now;
        if probe_due && nothing_waits && outlooks.any(long_idle) {
            self.last_probe = Some(now);
            return false;
        }
        true
    }
}

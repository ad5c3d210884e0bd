//! How many waiting queries the next batch takes, and which are given up.
//!
//! A [`BatchPolicy`] belongs to one replica, and so does a [`LatencyModel`]. The policy is asked when the
//! replica can take a batch, as late as possible; both are told what each batch took.

use std::num::NonZeroU32;
use std::time::Duration;

use crate::arrivals::Arrivals;
use crate::queue::Deadlines;
use crate::time::Instant;

mod aimd;
mod bytes;
mod fit;
mod fixed;
mod latency;
mod learned;
mod limit;
mod line;
mod outlook;
mod patience;
mod pause;
mod ratios;
mod table;

pub use aimd::Aimd;
pub use fixed::FixedSize;
pub use latency::LatencyModel;
pub use learned::Learned;
pub use limit::{Restraint, SizeLimit};
pub use patience::{Overhead, Patience};
pub use pause::Pause;

/// What to do with the head of the queue: first give up, then take.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Decision {
    /// This many of the earliest are answered with their default now.
    pub give_up: usize,
    /// This many behind those are left for another replica.
    pub leave: usize,
    /// This many of those behind them are sent.
    pub take: usize,
}

/// What a policy is shown beside the queue.
#[derive(Clone, Copy, Debug)]
pub struct Situation<'a> {
    /// When the batch would start: now, or when the batch in the replica's hands is expected to end.
    pub start: Instant,
    /// When queries came lately.
    pub arrivals: &'a Arrivals,
    /// What is known of this replica's batch times.
    pub latency: &'a LatencyModel,
    /// The other replicas that share the queue.
    pub others: &'a [Other],
    /// The most inputs that a policy which chooses sizes may go to, by what the version's replicas have shown and by
    /// the credit.
    pub largest: usize,
    /// How long other frontends' batches keep the replica between two of this queue's.
    pub pause: Duration,
}

/// What a policy is told of another replica.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Other {
    /// When it is expected to be free.
    pub free: Instant,
    /// What a batch of one typically takes there; nothing if that is not known.
    pub alone: Duration,
}

/// Sizes the batches of one replica.
pub trait BatchPolicy: Send {
    /// Decides over the queue as it is.
    fn decide(&mut self, queue: &dyn Deadlines, situation: &Situation<'_>) -> Decision;

    /// A batch of `size` took this long inside the model.
    fn observe(&mut self, size: usize, took: Duration);

    /// When a batch of `size` is cautiously expected to end: what is due by then may be late with it.
    fn ends(&self, _size: usize, situation: &Situation<'_>) -> Instant {
        situation.start
    }

    /// The most inputs of a batch that it shares with other frontends' policies; 0: it shares none. One that does not
    /// count on batch times does better with whole batches in turn.
    fn most_shared(&self) -> usize {
        0
    }

    /// Whether it counts on batch times. One that does not gives up what has expired by now, and no more.
    fn counts_on_times(&self) -> bool {
        false
    }
}

/// The policy for a version's batch size.
pub fn policy_for(
    batch_size: skysail_proto::deployment::BatchSize,
    max_batch: NonZeroU32,
) -> Box<dyn BatchPolicy> {
    use skysail_proto::deployment::BatchSize;
    match batch_size {
        BatchSize::Fixed(size) => Box::new(FixedSize::new(size.min(max_batch))),
        BatchSize::Adaptive => Box::new(Learned::new(max_batch)),
        BatchSize::Aimd => Box::new(Aimd::new(max_batch)),
    }
}

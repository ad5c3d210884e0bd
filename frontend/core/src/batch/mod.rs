//! Batch policies: how many waiting queries the next batch takes, and which are given up.
//!
//! Each replica has a [`BatchPolicy`] and a [`LatencyModel`]. The policy is asked as late as possible, when the
//! replica can take a batch. Both are told how long each batch took.

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

/// What to do with the queries at the front of the queue. The three numbers count consecutive queries, in this order.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Decision {
    /// Queries to answer with their default now.
    pub give_up: usize,
    /// Queries to leave for another replica.
    pub leave: usize,
    /// Queries to send as the next batch.
    pub take: usize,
}

/// What a policy is shown besides the queue.
#[derive(Clone, Copy, Debug)]
pub struct Situation<'a> {
    /// When the batch would start: now, or when the batch in the replica's hands is expected to end.
    pub start: Instant,
    /// The arrivals of the recent past.
    pub arrivals: &'a Arrivals,
    /// The batch times of this replica.
    pub latency: &'a LatencyModel,
    /// The other replicas that take from the same queue.
    pub others: &'a [Other],
    /// The most inputs that a policy may choose: by the sizes that the version's replicas have proven, and by the
    /// credit.
    pub largest: usize,
    /// The time that batches of other frontends keep the replica between two batches of this queue.
    pub pause: Duration,
}

/// What a policy knows of another replica.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Other {
    /// When it is expected to be free.
    pub free: Instant,
    /// The typical time of a batch of one input there. Zero if unknown.
    pub alone: Duration,
}

/// Sizes the batches of one replica.
pub trait BatchPolicy: Send {
    /// Decides on the queries of this queue.
    fn decide(&mut self, queue: &dyn Deadlines, situation: &Situation<'_>) -> Decision;

    /// A batch of `size` inputs took this long inside the model.
    fn observe(&mut self, size: usize, took: Duration);

    /// When a batch of `size` inputs ends, by a cautious estimate. Queries that are due by then may be late with it.
    fn ends(&self, _size: usize, situation: &Situation<'_>) -> Instant {
        situation.start
    }

    /// The most inputs of a batch that is merged with batches of other frontends. With 0 none is merged: a policy
    /// that does not count on batch times does better with whole batches in turn.
    fn most_shared(&self) -> usize {
        0
    }

    /// Whether the policy counts on batch times. Other policies give up only queries whose deadline has passed.
    fn counts_on_times(&self) -> bool {
        false
    }
}

/// The policy for a version's [`BatchSize`](skysail_proto::deployment::BatchSize), with batches of at most
/// `max_batch`.
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

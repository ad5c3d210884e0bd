//! How many waiting queries the next batch takes, and which are given up.
//!
//! A [`BatchPolicy`] belongs to one replica. It is asked when the replica can take a batch, as late as
//! possible, and told what each batch took.

use std::num::NonZeroU32;
use std::time::Duration;

use crate::arrivals::Arrivals;
use crate::queue::Deadlines;
use crate::time::Instant;

mod aimd;
mod fixed;
mod latency;
mod learned;
mod line;
mod outlook;
mod ratios;

pub use aimd::Aimd;
pub use fixed::FixedSize;
pub use latency::LatencyModel;
pub use learned::Learned;

/// What to do with the head of the queue: first give up, then take.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Decision {
    /// This many of the earliest are answered with their default now.
    pub give_up: usize,
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
    /// When each of the other replicas that share the queue is expected to be free.
    pub others: &'a [Instant],
}

/// Sizes the batches of one replica.
pub trait BatchPolicy: Send {
    /// Decides over the queue as it is.
    fn decide(&mut self, queue: &dyn Deadlines, situation: &Situation<'_>) -> Decision;

    /// A batch of `size` took this long inside the model.
    fn observe(&mut self, size: usize, took: Duration);

    /// How long a batch of `size` is expected to take, if there is anything to go by.
    fn predict(&self, size: usize) -> Option<Duration> {
        let _ = size;
        None
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

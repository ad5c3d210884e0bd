//! How many waiting queries the next batch takes, and which are given up.
//!
//! A [`BatchPolicy`] belongs to one replica. It is asked when the replica can take a batch, as late as
//! possible, and told what each batch took.

use std::num::NonZeroU32;
use std::time::Duration;

use crate::queue::Deadlines;
use crate::time::Instant;

mod fixed;

pub use fixed::FixedSize;

/// What to do with the head of the queue: first give up, then take.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Decision {
    /// This many of the earliest are answered with their default now.
    pub give_up: usize,
    /// This many of those behind them are sent.
    pub take: usize,
}

/// Sizes the batches of one replica.
pub trait BatchPolicy: Send {
    /// Decides over the queue as it is, for a batch that would start at `start`.
    fn decide(&mut self, queue: &dyn Deadlines, start: Instant) -> Decision;

    /// A batch of `size` took this long inside the model.
    fn observe(&mut self, size: usize, took: Duration);
}

/// The policy for a version's batch size.
///
/// `adaptive` and `aimd` take what is there, up to the largest batch, until their own policies exist.
pub fn policy_for(
    batch_size: skysail_proto::deployment::BatchSize,
    max_batch: NonZeroU32,
) -> Box<dyn BatchPolicy> {
    use skysail_proto::deployment::BatchSize;
    match batch_size {
        BatchSize::Fixed(size) => Box::new(FixedSize::new(size.min(max_batch))),
        BatchSize::Adaptive | BatchSize::Aimd => Box::new(FixedSize::new(max_batch)),
    }
}

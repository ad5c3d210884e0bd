//! What the replicas of one version have shown, together: how large a batch may be, and what batches take. One that
//! has just come starts from it.

use std::collections::VecDeque;
use std::time::Duration;

use crate::batch::{LatencyModel, SizeLimit};

/// The times of so many of the last batches are kept: as many as a line is drawn through.
const REMEMBERED: usize = 64;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Experience {
    /// How large batches may be.
    pub(super) sizes: SizeLimit,
    /// Sizes and times of the last batches, the newest last.
    recent: VecDeque<(usize, Duration)>,
}

impl Experience {
    /// A replica answered a batch of this size well, in this time.
    pub(super) fn answered(&mut self, size: usize, took: Duration) {
        self.sizes.answered(size);
        if self.recent.len() == REMEMBERED {
            self.recent.pop_front();
        }
        self.recent.push_back((size, took));
    }

    /// What a replica is to expect of its own batches while it has done none.
    pub(super) fn latency(&self) -> LatencyModel {
        let mut latency = LatencyModel::default();
        for &(size, took) in &self.recent {
            latency.observe(size, took, false);
        }
        latency
    }
}

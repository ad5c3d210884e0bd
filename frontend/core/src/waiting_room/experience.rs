//! The shared experience of a version's replicas: how large a batch may be, and how long batches take. A new replica
//! starts from it.

use std::collections::VecDeque;
use std::time::Duration;

use crate::batch::{LatencyModel, SizeLimit};

/// How many of the last batches' times are kept: as many as a line is drawn through.
const REMEMBERED: usize = 64;

/// The shared experience of a version's replicas. See the module.
#[derive(Debug, Default)]
pub(super) struct Experience {
    /// How large batches may be.
    pub(super) sizes: SizeLimit,
    /// Sizes and times of the last batches, the newest last.
    recent: VecDeque<(usize, Duration)>,
}

impl Experience {
    /// Records that a replica answered a batch of this size well, in this time.
    pub(super) fn answered(&mut self, size: usize, took: Duration) {
        self.sizes.answered(size);
        if self.recent.len() == REMEMBERED {
            self.recent.pop_front();
        }
        self.recent.push_back((size, took));
    }

    /// The batch times that a replica must expect while it has answered no batch of its own.
    pub(super) fn latency(&self) -> LatencyModel {
        let mut latency = LatencyModel::default();
        for &(size, took) in &self.recent {
            latency.observe(size, took, false);
        }
        latency
    }
}

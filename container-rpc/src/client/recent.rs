//! What batches took lately, for a frontend that does not know this replica.

use std::collections::VecDeque;

use skysail_proto::container;

use crate::sample::BatchTimeSample;

/// The samples of the warm-up, and those of the most recent batches.
///
/// The warm-up's stay for good: they are the ones of all sizes, where real batches may long have been of one.
/// They come first, so whoever forgets the past forgets them first.
#[derive(Debug)]
pub(super) struct RecentBatches {
    warm_up: Vec<BatchTimeSample>,
    answered: VecDeque<BatchTimeSample>,
}

/// As many as a learner that forgets remembers.
const KEPT: usize = 32;

impl RecentBatches {
    pub(super) fn new(warm_up: Vec<BatchTimeSample>) -> Self {
        Self {
            warm_up,
            answered: VecDeque::with_capacity(KEPT),
        }
    }

    pub(super) fn warm_up(&self) -> &[BatchTimeSample] {
        &self.warm_up
    }

    pub(super) fn add(&mut self, sample: BatchTimeSample) {
        if self.answered.len() == KEPT {
            self.answered.pop_front();
        }
        self.answered.push_back(sample);
    }

    /// All of them, the newest last.
    pub(super) fn to_wire(&self) -> Vec<container::BatchTimeSample> {
        let all = self.warm_up.iter().chain(&self.answered);
        all.map(|sample| sample.to_wire()).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn sample(inputs: usize) -> BatchTimeSample {
        BatchTimeSample {
            inputs,
            took: Duration::from_micros(5),
        }
    }

    #[test]
    fn the_most_recent_are_kept_behind_those_of_the_warm_up() {
        let mut recent = RecentBatches::new(vec![sample(1000)]);
        for inputs in 1..=100 {
            recent.add(sample(inputs));
        }
        let inputs: Vec<_> = recent.to_wire().iter().map(|sample| sample.inputs).collect();
        assert_eq!(inputs[0], 1000);
        assert_eq!(inputs[1..], (69..=100).collect::<Vec<_>>());
    }
}

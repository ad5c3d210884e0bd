//! The deadlines of a queue by rank: which is the thousandth, and how many are before a given one.
//!
//! A `BTreeMap` cannot answer that. So the deadlines are kept a second time, in sorted runs of some hundred. A
//! look-up skips whole runs. An insertion mostly appends to the last run, because new queries tend to be due last.

use std::collections::VecDeque;

use crate::time::Instant;

/// The most deadlines of a run. A longer run is split in two.
const LONGEST_RUN: usize = 512;

/// A sorted multiset of deadlines.
#[derive(Debug, Default)]
pub(super) struct Ranks {
    /// Each run is sorted and not empty, and all its deadlines are at or before those of the next run.
    runs: VecDeque<VecDeque<Instant>>,
}

impl Ranks {
    /// Adds a deadline.
    pub(super) fn insert(&mut self, deadline: Instant) {
        let index = self.run_of(deadline).min(self.runs.len().saturating_sub(1));
        let Some(run) = self.runs.get_mut(index) else {
            return self.runs.push_back(VecDeque::from([deadline]));
        };
        let at = run.partition_point(|&known| known <= deadline);
        if at == LONGEST_RUN && index + 1 == self.runs.len() {
            return self.runs.push_back(VecDeque::from([deadline]));
        }
        self.runs[index].insert(at, deadline);
        if self.runs[index].len() > LONGEST_RUN {
            let rest = self.runs[index].split_off(LONGEST_RUN / 2);
            self.runs.insert(index + 1, rest);
        }
    }

    /// Removes a deadline, which must be there. Of equal ones it removes one.
    pub(super) fn remove(&mut self, deadline: Instant) {
        let index = self.run_of(deadline);
        let Some(run) = self.runs.get_mut(index) else {
            return;
        };
        let at = run.partition_point(|&known| known < deadline);
        run.remove(at);
        if run.is_empty() {
            self.runs.remove(index);
        }
    }

    /// How many deadlines are before `at`.
    pub(super) fn before(&self, at: Instant) -> usize {
        let index = self.run_of(at);
        let skipped: usize = self.runs.range(..index).map(VecDeque::len).sum();
        let found = self.runs.get(index);
        skipped + found.map_or(0, |run| run.partition_point(|&known| known < at))
    }

    /// The deadline of this rank; the earliest has rank 0.
    pub(super) fn nth(&self, rank: usize) -> Option<Instant> {
        let mut left = rank;
        for run in &self.runs {
            match run.get(left) {
                Some(&found) => return Some(found),
                None => left -= run.len(),
            }
        }
        None
    }

    /// Appends the deadlines of the ranks `from`, `from + every`, `from + 2 * every` and so on.
    pub(super) fn sample(&self, from: usize, every: usize, into: &mut Vec<Instant>) {
        let mut left = from;
        for run in &self.runs {
            while let Some(&found) = run.get(left) {
                into.push(found);
                left += every;
            }
            left -= run.len();
        }
    }

    /// The index of the first run with a deadline at or after `at`. Without such a run it is the number of runs.
    fn run_of(&self, at: Instant) -> usize {
        self.runs
            .partition_point(|run| run.back().is_some_and(|&last| last < at))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(nanos: u64) -> Instant {
        Instant::from_nanos(nanos)
    }

    proptest! {
        #[test]
        fn ranks_are_those_of_the_sorted_deadlines(
            deadlines in prop::collection::vec(0u64..500, 1..3000),
            removals in prop::collection::vec(any::<prop::sample::Index>(), 0..1500),
            looks in prop::collection::vec((0u64..510, 0usize..3000, 1usize..900), 1..20),
        ) {
            let mut ranks = Ranks::default();
            let mut sorted = deadlines.clone();
            deadlines.iter().for_each(|&deadline| ranks.insert(at(deadline)));
            sorted.sort_unstable();
            for removal in removals {
                if sorted.is_empty() {
                    break;
                }
                ranks.remove(at(sorted.remove(removal.index(sorted.len()))));
            }
            prop_assert!(ranks.runs.iter().all(|run| (1..=LONGEST_RUN).contains(&run.len())));
            for (deadline, rank, every) in looks {
                prop_assert_eq!(ranks.before(at(deadline)), sorted.partition_point(|&known| known < deadline));
                prop_assert_eq!(ranks.nth(rank), sorted.get(rank).map(|&found| at(found)));
                let mut sample = Vec::new();
                ranks.sample(rank, every, &mut sample);
                let expected: Vec<_> = sorted.iter().skip(rank).step_by(every).map(|&found| at(found)).collect();
                prop_assert_eq!(sample, expected);
            }
        }
    }
}

//! The distribution of recent budgets, in half octaves: how many arrivals had a budget of about each length.

use std::time::Duration;

use super::Class;

/// A duration is 64 bits of nanoseconds, and each power of two is split in two halves.
const HALF_OCTAVES: usize = 128;

/// Neighbouring kinds whose mean budgets differ by less than this factor become one class.
const ALIKE: f64 = 1.2;

#[derive(Clone, Copy, Debug, Default)]
struct Kind {
    count: u32,
    nanos: u64,
}

impl Kind {
    fn mean(self) -> f64 {
        self.nanos as f64 * 1e-9 / f64::from(self.count)
    }
}

/// The number and the sum of budgets in each half octave.
#[derive(Clone, Debug)]
pub(super) struct Kinds {
    kinds: [Kind; HALF_OCTAVES],
    /// A bit for each half octave that has a budget.
    present: u128,
    total: u32,
}

impl Default for Kinds {
    fn default() -> Self {
        Self {
            kinds: [Kind::default(); HALF_OCTAVES],
            present: 0,
            total: 0,
        }
    }
}

impl Kinds {
    pub(super) fn add(&mut self, budget: Duration) {
        let nanos = nanos(budget);
        let index = half_octave(nanos);
        self.kinds[index].count += 1;
        self.kinds[index].nanos += nanos;
        self.present |= 1 << index;
        self.total += 1;
    }

    /// Removes a budget that was added before.
    pub(super) fn remove(&mut self, budget: Duration) {
        let nanos = nanos(budget);
        let index = half_octave(nanos);
        self.kinds[index].count -= 1;
        self.kinds[index].nanos -= nanos;
        if self.kinds[index].count == 0 {
            self.present &= !(1 << index);
        }
        self.total -= 1;
    }

    /// Appends at most `most` classes, tightest budget first. If there are more, the nearest neighbours are merged.
    pub(super) fn classes(&self, most: usize, into: &mut Vec<Class>) {
        let mut left = self.present;
        while left != 0 {
            let kind = self.kinds[left.trailing_zeros() as usize];
            left &= left - 1;
            into.push(Class {
                share: f64::from(kind.count) / f64::from(self.total),
                budget: kind.mean(),
            });
        }
        while let Some((nearest, ratio)) = nearest(into) {
            if into.len() <= most && ratio >= ALIKE {
                break;
            }
            let other = into.remove(nearest + 1);
            let class = &mut into[nearest];
            let share = class.share + other.share;
            class.budget = (class.budget * class.share + other.budget * other.share) / share;
            class.share = share;
        }
    }
}

/// The index of the lower of the two neighbours whose budgets have the smallest ratio, and that ratio.
fn nearest(classes: &[Class]) -> Option<(usize, f64)> {
    let ratios = classes
        .windows(2)
        .map(|pair| pair[1].budget / pair[0].budget.max(1e-9));
    ratios.enumerate().min_by(|(_, a), (_, b)| a.total_cmp(b))
}

/// The budget in nanoseconds, about a year at most, so that sums of a few hundred do not overflow.
fn nanos(budget: Duration) -> u64 {
    u64::try_from(budget.as_nanos()).unwrap_or(u64::MAX).min(1 << 55)
}

fn half_octave(nanos: u64) -> usize {
    let octave = nanos.max(1).ilog2() as usize;
    let upper_half = octave > 0 && nanos >> (octave - 1) & 1 == 1;
    2 * octave + usize::from(upper_half)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn classes(millis: &[u64], most: usize) -> Vec<Class> {
        let mut kinds = Kinds::default();
        // A budget that is removed again leaves no trace.
        kinds.add(Duration::from_secs(77));
        for &millis in millis {
            kinds.add(Duration::from_millis(millis));
        }
        kinds.remove(Duration::from_secs(77));
        let mut classes = Vec::new();
        kinds.classes(most, &mut classes);
        classes
    }

    #[track_caller]
    fn assert_classes(millis: &[u64], most: usize, expected: &[(f64, f64)]) {
        let classes = classes(millis, most);
        let is_close = |class: &Class, &(share, millis): &(f64, f64)| {
            (class.share - share).abs() < 1e-9 && (class.budget * 1e3 - millis).abs() < 1e-6
        };
        assert_eq!(classes.len(), expected.len(), "{classes:?}");
        let mut pairs = classes.iter().zip(expected);
        assert!(
            pairs.all(|(class, expected)| is_close(class, expected)),
            "{classes:?}"
        );
    }

    #[test]
    fn what_is_given_alike_is_one_class_also_across_a_power_of_two() {
        assert_classes(&[30, 10_000, 30, 30], 3, &[(0.75, 30.0), (0.25, 10_000.0)]);
        assert_classes(&[66, 68, 67, 67], 3, &[(1.0, 67.0)]);
        assert_classes(&[], 3, &[]);
    }

    #[test]
    fn of_too_many_the_nearest_become_one() {
        assert_classes(&[1, 10, 20, 500], 3, &[(0.25, 1.0), (0.5, 15.0), (0.25, 500.0)]);
    }

    #[test]
    fn the_longest_and_the_shortest_are_counted_as_well() {
        let mut kinds = Kinds::default();
        for _ in 0..200 {
            kinds.add(Duration::MAX);
            kinds.add(Duration::ZERO);
        }
        let mut classes = Vec::new();
        kinds.classes(3, &mut classes);
        assert_eq!(classes.len(), 2, "{classes:?}");
    }
}

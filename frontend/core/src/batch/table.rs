//! Batch times by size, for models whose time is no line: GPUs work in waves, frameworks pad to powers of two.
//!
//! Sizes fall into classes. Each size up to [`OWN_CLASS`] has its own class. Further classes are 1/16 to 1/32 of the
//! size wide; powers of two, and multiples of 32 up to 1024, are at their upper edges. A class keeps the mean
//! logarithm of its last times. An isotonic regression (pool adjacent violators) makes the means grow with the size.
//! Between seen classes, times are interpolated. Beyond them, times grow as the line does, and by less with each
//! batch under pressure. So larger batches get tried.
//!
//! A class is forgotten if it was not seen in the last [`MOST_AGE`] batches under pressure, unless a larger class
//! that was seen takes longer. Otherwise a size that was once slow would never be tried again.

use super::line::Line;

/// Each size up to this has a class of its own.
const OWN_CLASS: usize = 2 * PER_OCTAVE;

/// The number of classes from one power of two to the next, beyond [`OWN_CLASS`].
const PER_OCTAVE: usize = 16;

/// The most that earlier batches of a class weigh, the new one included, in batches.
const MOST_WEIGHT: f64 = 16.0;

/// A batch that leaves the mean of its class by more than this factor halves the weight of earlier batches, so that
/// classes are corrected quickly.
const FAR: f64 = 1.4;

/// A class is forgotten if it was not seen in this many batches under pressure.
const MOST_AGE: u64 = 128;

/// Each batch under pressure multiplies the belief in the growth beyond the seen classes by this, until a larger size
/// is seen.
const DOUBT: f64 = 0.9;

/// The least belief in that growth: without growth every size would fit.
const LEAST_BELIEF: f64 = 1e-3;

/// Relative error of taking logarithms and back.
const ROUNDING: f64 = 1e-9;

/// The class that a size belongs to.
fn class_of(size: usize) -> usize {
    let below = size.max(1) - 1;
    if below < OWN_CLASS {
        return below;
    }
    let width = below.ilog2() - PER_OCTAVE.ilog2();
    width as usize * PER_OCTAVE + (below >> width)
}

/// The largest size of a class.
fn edge(class: usize) -> usize {
    if class < OWN_CLASS {
        return class + 1;
    }
    let width = class / PER_OCTAVE - 1;
    (class - width * PER_OCTAVE + 1) << width
}

#[expect(clippy::cast_precision_loss, reason = "batches are far smaller than 2^52")]
fn edge_size(class: usize) -> f64 {
    edge(class) as f64
}

/// The times seen for one class of sizes.
#[derive(Clone, Copy, Debug, Default)]
struct Class {
    /// The number of batches, bounded by [`MOST_WEIGHT`]. 0 if the class is unknown.
    weight: f64,
    /// The mean logarithm of their seconds.
    log: f64,
    /// The value of `Table::pressed` when a batch of the class last came.
    seen: u64,
}

/// Neighbouring classes that were out of order and now share one mean.
#[derive(Clone, Copy, Debug)]
struct Pool {
    weight: f64,
    log: f64,
    last: usize,
}

/// The table: seconds by class, and the classes that they are made from.
#[derive(Clone, Debug, Default)]
pub(super) struct Table {
    classes: Vec<Class>,
    /// The number of batches under pressure so far.
    pressed: u64,
    /// Seconds by class, up to the largest class that was seen.
    seconds: Vec<f64>,
    /// The seconds that each input beyond the largest class adds.
    each: f64,
    /// The fraction of the line's growth that is believed beyond the largest class.
    belief: f64,
    /// A buffer for [`Table::pool`], kept to save allocations.
    pools: Vec<Pool>,
}

impl Table {
    /// Whether a batch of this size's class was seen.
    pub(super) fn knows(&self, size: usize) -> bool {
        self.classes
            .get(class_of(size))
            .is_some_and(|class| class.weight > 0.0)
    }

    /// The time of a batch of this size, in seconds. 0 before the first [`Self::settle`].
    #[expect(clippy::cast_precision_loss, reason = "batches are far smaller than 2^52")]
    pub(super) fn at(&self, size: usize) -> f64 {
        let class = class_of(size);
        match (self.seconds.get(class), self.seconds.last()) {
            (Some(&seconds), _) => seconds,
            (None, Some(last)) => last + self.each * (size - edge(self.seconds.len() - 1)) as f64,
            (None, None) => 0.0,
        }
    }

    /// The largest size, as a fraction, that takes at most `seconds`. 0 if no size does.
    pub(super) fn size_within(&self, seconds: f64) -> f64 {
        let within = self
            .seconds
            .partition_point(|&known| known <= seconds * (1.0 + ROUNDING));
        let Some(class) = within.checked_sub(1) else {
            return 0.0;
        };
        let beyond = match within == self.seconds.len() {
            true => (seconds - self.seconds[class]).max(0.0) / self.each,
            false => 0.0,
        };
        edge_size(class) + beyond
    }

    /// The largest size that takes less time than this one: the end of the step below.
    pub(super) fn step_below(&self, size: usize) -> Option<usize> {
        let class = class_of(size).min(self.seconds.len().checked_sub(1)?);
        let own = self.seconds[class];
        let lower = self
            .seconds
            .partition_point(|&known| known < own * (1.0 - ROUNDING));
        lower.checked_sub(1).map(edge)
    }

    /// Counts a batch. Under pressure it ages the classes and lessens the belief.
    pub(super) fn count(&mut self, pressed: bool) {
        self.pressed += u64::from(pressed);
        if pressed {
            self.belief *= DOUBT;
        }
    }

    /// Adds a sample to its class. [`Self::settle`] then updates the times.
    pub(super) fn observe(&mut self, size: usize, seconds: f64) {
        let index = class_of(size);
        if self.classes.len() <= index {
            self.classes.resize(index + 1, Class::default());
        }
        if index >= self.seconds.len() {
            self.belief = 1.0;
        }
        let class = &mut self.classes[index];
        let log = seconds.ln();
        if (log - class.log).abs() > FAR.ln() {
            class.weight /= 2.0;
        }
        class.weight = class.weight.min(MOST_WEIGHT - 1.0) + 1.0;
        class.log += (log - class.log) / class.weight;
        class.seen = self.pressed;
    }

    /// The replica changed its speed: all classes now take `factor` times as long.
    pub(super) fn scale(&mut self, factor: f64) {
        for class in &mut self.classes {
            class.log += factor.ln();
        }
    }

    /// Forgets old classes, and computes the times anew. The line fills in sizes that were not seen.
    pub(super) fn settle(&mut self, line: &Line) {
        self.forget();
        self.pool();
        let known = self.seconds.len();
        self.seconds.clear();
        let mut before: Option<(usize, f64)> = None;
        let mut pool = self.pools.iter();
        let mut current = pool.next();
        for (index, class) in self.classes.iter().enumerate() {
            if class.weight == 0.0 {
                continue;
            }
            while current.is_some_and(|pool| pool.last < index) {
                current = pool.next();
            }
            let Some(seconds) = current.map(|pool| pool.log.exp()) else {
                break;
            };
            fill(&mut self.seconds, before, (index, seconds), line);
            before = Some((index, seconds));
        }
        if self.seconds.len() < known {
            self.belief = 1.0;
        }
        self.each = line.each() * self.belief.max(LEAST_BELIEF);
    }

    /// Forgets old classes. An old class is kept if a larger class, seen lately, takes at least as long: it is then
    /// not too slow, and smaller batches are not tried again by themselves as larger ones are.
    fn forget(&mut self) {
        let mut least_above = f64::NEG_INFINITY;
        for class in self.classes.iter_mut().rev().filter(|class| class.weight > 0.0) {
            if self.pressed <= class.seen + MOST_AGE {
                least_above = match least_above == f64::NEG_INFINITY {
                    true => class.log,
                    false => least_above.min(class.log),
                };
            } else if class.log > least_above {
                class.weight = 0.0;
            }
        }
    }

    /// Pools neighbouring classes until the means grow with the size.
    fn pool(&mut self) {
        self.pools.clear();
        for (index, class) in self.classes.iter().enumerate() {
            if class.weight == 0.0 {
                continue;
            }
            let mut pool = Pool {
                weight: class.weight,
                log: class.log,
                last: index,
            };
            while let Some(lower) = self.pools.pop_if(|lower| lower.log >= pool.log) {
                let weight = lower.weight + pool.weight;
                pool.log = (lower.log * lower.weight + pool.log * pool.weight) / weight;
                pool.weight = weight;
            }
            self.pools.push(pool);
        }
    }
}

/// Appends the times after the last seen class, `before`, up to the next one.
fn fill(answers: &mut Vec<f64>, before: Option<(usize, f64)>, (index, seconds): (usize, f64), line: &Line) {
    let at_edge = edge_size(index);
    for class in answers.len()..index {
        let size = edge_size(class);
        answers.push(match before {
            Some((lower, from)) => {
                let part = (size - edge_size(lower)) / (at_edge - edge_size(lower));
                from + part * (seconds - from)
            }
            None => seconds * line.at(size) / line.at(at_edge),
        });
    }
    answers.push(seconds);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn line() -> Line {
        Line::through(10.0, 0.010)
    }

    /// A table of these sizes and seconds.
    fn table(samples: &[(usize, f64)]) -> Table {
        let mut table = Table::default();
        for &(size, seconds) in samples {
            table.observe(size, seconds);
        }
        table.settle(&line());
        table
    }

    #[track_caller]
    fn assert_close(actual: f64, expected: f64) {
        assert!((actual / expected - 1.0).abs() < 1e-9, "{actual} {expected}");
    }

    #[test]
    fn classes_follow_each_other_and_end_at_powers_of_two_and_multiples_of_32() {
        let mut last = 0;
        for size in 1..5000 {
            let class = class_of(size);
            assert!(class == last || class == last + 1, "{size}");
            assert!(edge(class) >= size && class_of(edge(class)) == class, "{size}");
            last = class;
        }
        for size in (1..=32).chain([64, 96, 128, 160, 512, 992, 1024, 2048, 4096]) {
            assert_eq!(edge(class_of(size)), size);
        }
    }

    #[test]
    fn a_step_is_known_by_the_sizes_at_both_sides_of_it() {
        let table = table(&[(20, 0.01), (32, 0.01), (33, 0.02), (64, 0.02)]);
        for (size, seconds) in [
            (20, 0.01),
            (25, 0.01),
            (32, 0.01),
            (33, 0.02),
            (50, 0.02),
            (64, 0.02),
        ] {
            assert_close(table.at(size), seconds);
        }
        assert_close(table.size_within(0.015), 32.0);
        assert_close(table.size_within(0.01), 32.0);
        assert_eq!((table.step_below(40), table.step_below(20)), (Some(32), Some(19)));
        assert_eq!(
            table.size_within(0.001).to_bits(),
            0.0_f64.to_bits(),
            "even one takes longer"
        );
    }

    #[test]
    fn between_known_sizes_is_interpolated_and_beyond_it_grows_as_the_line_does() {
        let table = table(&[(10, 0.01), (20, 0.02)]);
        assert_close(table.at(15), 0.015);
        let each = line().each();
        assert_close(table.at(28), 0.02 + 8.0 * each);
        assert_close(table.size_within(0.02 + 8.0 * each), 28.0);
        assert_close(table.at(5), 0.01 * line().at(5.0) / line().at(10.0));
    }

    #[test]
    fn under_pressure_the_growth_beyond_is_doubted_until_a_larger_batch_is_tried() {
        let mut table = table(&[(10, 0.01)]);
        let beyond = |table: &mut Table| {
            table.settle(&line());
            table.at(60) / table.at(10)
        };
        let at_first = beyond(&mut table);
        (0..50).for_each(|_| table.count(false));
        assert_close(beyond(&mut table), at_first);
        (0..50).for_each(|_| table.count(true));
        assert!(beyond(&mut table) < 1.02);
        table.observe(60, 0.08);
        assert_close(beyond(&mut table), 8.0);
    }

    #[test]
    fn larger_batches_take_no_less_than_smaller_ones() {
        let table = table(&[(10, 0.02), (11, 0.005), (12, 0.04)]);
        assert_close(table.at(10), 0.01);
        assert_close(table.at(11), 0.01);
        assert_close(table.at(12), 0.04);
    }

    #[test]
    fn what_is_far_from_what_was_seen_is_believed_quickly() {
        let mut slow = vec![(40, 1.0); 30];
        slow.extend([(40, 0.01); 5]);
        assert!(table(&slow).at(40) < 0.03, "{}", table(&slow).at(40));
    }

    #[test]
    fn what_was_long_not_seen_under_pressure_is_forgotten() {
        let mut table = table(&[(10, 0.01), (40, 9.0)]);
        let mut later = |batches: u64, pressed: bool| {
            for _ in 0..batches {
                table.count(pressed);
                table.observe(10, 0.01);
            }
            table.settle(&line());
            table.knows(40)
        };
        assert!(later(1000, false), "nothing asks for larger batches");
        assert!(later(MOST_AGE, true));
        assert!(!later(1, true));
        // A smaller and quicker class is kept while a larger one was seen lately.
        table.observe(60, 0.06);
        (0..=MOST_AGE).for_each(|_| table.count(true));
        table.observe(60, 0.06);
        table.settle(&line());
        assert_close(table.at(10), 0.01);
    }

    proptest! {
        #[test]
        fn times_are_finite_and_grow_with_the_size_and_sizes_are_those_within(
            samples in prop::collection::vec((1usize..3000, 1e-7..1e5_f64), 1..60),
            seconds in 1e-7..1e5_f64,
        ) {
            let table = table(&samples);
            let mut last = 0.0;
            for size in 1..3000 {
                let at = table.at(size);
                prop_assert!(at.is_finite() && at >= last, "{size}");
                last = at;
            }
            let size = table.size_within(seconds) as usize;
            prop_assert!(size == 0 || table.at(size) <= seconds * (1.0 + 1e-9));
            prop_assert!(table.at(size + 1) > seconds * (1.0 - 1e-9));
        }
    }
}

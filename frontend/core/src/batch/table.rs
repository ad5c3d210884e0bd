//! Batch times by size, for models whose time is no line: GPUs work in waves, frameworks pad to powers of two.
//!
//! Sizes are in classes: each has its own up to [`OWN_CLASS`], and further ones are 1/16 to 1/32 of the size wide, with
//! powers of two and multiples of 32 (up to 1024) at their upper edges. Each class knows the mean of the logarithms of its last times.
//! Larger batches take no less than smaller ones: an isotonic regression (pool adjacent violators) makes the means
//! so. Between classes that were seen, times are interpolated. Beyond them they grow as the line does, and by less with
//! each batch under pressure: that is how larger batches come to be tried.
//!
//! A class that was not seen while queries waited for the last [`MOST_AGE`] batches is forgotten, unless a larger one that
//! was seen takes longer. Otherwise a size that was once slow would never be tried again.

use super::line::Line;

/// Sizes up to this have a class each.
const OWN_CLASS: usize = 2 * PER_OCTAVE;

/// Beyond, from one power of two to the next there are so many.
const PER_OCTAVE: usize = 16;

/// What was seen before weighs no more than so many batches of a class.
const MOST_WEIGHT: f64 = 16.0;

/// A batch that takes this many times what its class says, or this many times less, takes half of the weight from what
/// was seen before: classes are corrected quickly.
const FAR: f64 = 1.4;

/// A class is forgotten if it was not seen in so many batches under pressure.
const MOST_AGE: u64 = 128;

/// Under pressure the growth beyond the classes that were seen is believed this much less after each batch, until a
/// larger one is tried.
const DOUBT: f64 = 0.9;

/// It is believed at least this much: without any growth every size would fit.
const LEAST_BELIEF: f64 = 1e-3;

/// What logarithms and back may cost.
const ROUNDING: f64 = 1e-9;

/// The class of a size.
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

/// What was seen of a class.
#[derive(Clone, Copy, Debug, Default)]
struct Class {
    /// How many batches; 0 if nothing is known.
    weight: f64,
    /// The mean of the logarithms of their seconds.
    log: f64,
    /// How many batches there had been under pressure when it was last seen.
    seen: u64,
}

/// Classes whose times were in the wrong order, and have one mean.
#[derive(Clone, Copy, Debug)]
struct Pool {
    weight: f64,
    log: f64,
    last: usize,
}

/// Seconds for a batch of a given size.
#[derive(Clone, Debug, Default)]
pub(super) struct Table {
    classes: Vec<Class>,
    /// How many batches there were under pressure.
    pressed: u64,
    /// The answers, up to the largest class that was seen.
    seconds: Vec<f64>,
    /// What each input beyond adds.
    each: f64,
    /// What part of the line's growth is believed there.
    belief: f64,
    /// Scratch.
    pools: Vec<Pool>,
}

impl Table {
    /// Whether a batch of this size's class was seen.
    pub(super) fn knows(&self, size: usize) -> bool {
        self.classes
            .get(class_of(size))
            .is_some_and(|class| class.weight > 0.0)
    }

    /// Seconds for a batch of this size; nothing before [`Self::settle`].
    #[expect(clippy::cast_precision_loss, reason = "batches are far smaller than 2^52")]
    pub(super) fn at(&self, size: usize) -> f64 {
        let class = class_of(size);
        match (self.seconds.get(class), self.seconds.last()) {
            (Some(&seconds), _) => seconds,
            (None, Some(last)) => last + self.each * (size - edge(self.seconds.len() - 1)) as f64,
            (None, None) => 0.0,
        }
    }

    /// The largest size, as a fraction, that takes at most so many seconds; 0 if none does.
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

    /// The largest size that takes less than this one: the last of the step below.
    pub(super) fn step_below(&self, size: usize) -> Option<usize> {
        let class = class_of(size).min(self.seconds.len().checked_sub(1)?);
        let own = self.seconds[class];
        let lower = self
            .seconds
            .partition_point(|&known| known < own * (1.0 - ROUNDING));
        lower.checked_sub(1).map(edge)
    }

    /// Counts a batch; under pressure, classes grow older.
    pub(super) fn count(&mut self, pressed: bool) {
        self.pressed += u64::from(pressed);
        if pressed {
            self.belief *= DOUBT;
        }
    }

    /// Takes a sample in.
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

    /// Everything takes `factor` times as long from now on, and is taken to always have.
    pub(super) fn scale(&mut self, factor: f64) {
        for class in &mut self.classes {
            class.log += factor.ln();
        }
    }

    /// Forgets what is old, and makes the answers from what is left; the line says what is known of sizes that were
    /// not seen.
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

    /// Forgets classes that are old, but for those that a larger one, seen lately, shows not to be too slow: smaller
    /// batches are not tried again by themselves as larger ones are.
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

    /// Pools neighbours until the means grow with the size.
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

/// Appends the answers behind a class that was seen, up to the next that was.
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
        // What is smaller and quicker than what was seen lately is kept.
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

//! How long a replica's next batch will take, learned from those it has done.
//!
//! A line in the batch size says what is typical, the last ratios of actual to typical say how far off a
//! batch may be. A replica that changes its speed (a noisy neighbour came or went) changes it for all sizes:
//! that shows in the median of a few batches, and the line is scaled at once instead of being learned anew.
//! One slow batch is not a change of speed.
//!
//! Times are seconds, as numbers: they are multiplied far more often than shown.

use std::collections::VecDeque;

use super::line::{LEAST_SECONDS, Line};
use super::ratios::{POINTS, Ratios};

/// The share of batches that a cautious expectation holds for.
const CAUTION: f64 = 0.9;

/// A change of speed is looked for in so many of the last batches.
const JUMP_BATCHES: usize = 7;

/// It is one when their median is this many times what was expected, or this many times less.
const JUMP: f64 = 1.4;

/// One batch counts for at most this many times what was expected, and at least one such part: a stall of
/// seconds says nothing of the batch after it.
const OUTLIER: f64 = 4.0;

/// What is known of a replica's batch times.
#[derive(Clone, Debug, Default)]
pub struct LatencyModel {
    line: Option<Line>,
    ratios: Ratios,
    /// The last batches: size and seconds.
    recent: VecDeque<(f64, f64)>,
    /// Batches since the line was scaled.
    since_jump: usize,
    largest: usize,
}

impl LatencyModel {
    /// Whether any batch was seen.
    pub fn is_known(&self) -> bool {
        self.line.is_some()
    }

    /// The largest batch seen.
    pub fn largest(&self) -> usize {
        self.largest
    }

    /// Seconds that a batch of this size typically takes; nothing while nothing is known.
    #[expect(clippy::cast_precision_loss, reason = "batches are far smaller than 2^52")]
    pub fn typical(&self, size: usize) -> f64 {
        self.line.map_or(0.0, |line| line.at(size as f64))
    }

    /// What to multiply typical times by to be cautious: nine of ten batches take no longer.
    pub fn caution(&self) -> f64 {
        self.ratios.quantile(CAUTION)
    }

    /// The largest batch that typically takes at most so many seconds.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a float casts to the nearest integer there is, and what is not positive to 0"
    )]
    pub fn size_within(&self, seconds: f64) -> usize {
        /// What rounding may take away.
        const SLACK: f64 = 1e-9;
        self.line
            .map_or(0, |line| (line.size_within(seconds) + SLACK) as usize)
    }

    /// Ratios of actual to typical time, each as likely as the others.
    pub fn spread(&self) -> [f64; POINTS] {
        self.ratios.points()
    }

    /// The mean of actual to typical time.
    pub fn mean_ratio(&self) -> f64 {
        self.ratios.mean()
    }

    /// A batch took so many seconds. `pressed`: queries were left waiting or given up when it was sized.
    #[expect(clippy::cast_precision_loss, reason = "batches are far smaller than 2^52")]
    pub fn observe(&mut self, size: usize, seconds: f64, pressed: bool) {
        if size == 0 || !seconds.is_finite() {
            return;
        }
        self.largest = self.largest.max(size);
        let (size, seconds) = (size as f64, seconds.max(LEAST_SECONDS));
        self.recent.push_back((size, seconds));
        if self.recent.len() > JUMP_BATCHES {
            self.recent.pop_front();
        }
        self.follow_jump();
        let line = self.line.get_or_insert_with(|| Line::through(size, seconds));
        let expected = line.at(size);
        self.ratios.push(seconds / expected);
        let counted = seconds.clamp(expected / OUTLIER, expected * OUTLIER);
        line.observe(size, counted, pressed);
    }

    /// Scales the line if the last batches agree on another speed.
    fn follow_jump(&mut self) {
        self.since_jump += 1;
        let Some(line) = &mut self.line else { return };
        if self.recent.len() < JUMP_BATCHES || self.since_jump < JUMP_BATCHES {
            return;
        }
        let mut ratios: [f64; JUMP_BATCHES] = std::array::from_fn(|index| {
            let (size, seconds) = self.recent[index];
            seconds / line.at(size)
        });
        ratios.sort_unstable_by(f64::total_cmp);
        let median = ratios[JUMP_BATCHES / 2];
        if (1.0 / JUMP..=JUMP).contains(&median) {
            return;
        }
        line.scale(median);
        self.ratios.divide_last(JUMP_BATCHES - 1, median);
        self.since_jump = 0;
    }
}

//! A line through (batch size, seconds), fitted by least squares in which the past fades.

/// What is left of a sample's weight after each later one: about the last sixty count.
const FADE: f64 = 0.985;

/// Holds the slope where it was while batches are all of one size and so say nothing of it. As a share of
/// the samples' own weight.
const RIDGE: f64 = 1e-3;

/// Under pressure a slope that the samples say nothing of is believed this much less after each batch, until
/// larger batches are tried: one that is believed too steep would otherwise never be put to the test.
const DOUBT: f64 = 0.97;

/// All the samples before weigh no more than this many of the one that comes. Batches that were once believed
/// to take next to nothing would otherwise outweigh thousands of later ones.
const MOST_HISTORY: f64 = 200.0;

/// No batch is believed to take less than this, in seconds: clocks count microseconds.
pub(super) const LEAST_SECONDS: f64 = 1e-7;

/// Of a first sample, so much is taken to grow with the size. Too little costs one batch that is too large,
/// too much could keep batches small.
const FIRST_SLOPE: f64 = 0.2;

/// Seconds for a batch of a given size.
#[derive(Clone, Copy, Debug)]
pub(super) struct Line {
    fixed: f64,
    each: f64,
    /// Faded sums over the samples, each weighted by the inverse square of what was expected of it: a tenth
    /// more of a small batch weighs what a tenth more of a large one does.
    sums: Sums,
}

#[derive(Clone, Copy, Debug, Default)]
struct Sums {
    weight: f64,
    size: f64,
    size_squared: f64,
    seconds: f64,
    size_times_seconds: f64,
}

impl Line {
    /// Goes through a first sample.
    pub(super) fn through(size: f64, seconds: f64) -> Self {
        let slope = FIRST_SLOPE * seconds / size;
        Self {
            fixed: seconds - slope * size,
            each: slope,
            sums: Sums::default(),
        }
    }

    /// Seconds for a batch of this size.
    pub(super) fn at(&self, size: f64) -> f64 {
        (self.fixed + self.each * size).max(LEAST_SECONDS)
    }

    /// Seconds that each input adds.
    pub(super) fn each(self) -> f64 {
        self.each
    }

    /// The largest size, as a fraction, that takes at most so many seconds; negative if none does.
    pub(super) fn size_within(&self, seconds: f64) -> f64 {
        (seconds - self.fixed) / self.each
    }

    /// Takes a sample in. `pressed`: queries were left waiting or given up when its size was chosen.
    pub(super) fn observe(&mut self, size: f64, seconds: f64, pressed: bool) {
        self.sums.add(size, seconds, self.at(size).powi(-2));
        let slope_to_hold = self.each * if pressed { DOUBT } else { 1.0 };
        let Sums {
            weight,
            size,
            size_squared,
            seconds,
            size_times_seconds,
        } = self.sums;
        let ridge = RIDGE * size_squared;
        let determinant = weight * (size_squared + ridge) - size * size;
        let slope = (weight * (size_times_seconds + ridge * slope_to_hold) - size * seconds) / determinant;
        let mean = seconds / size;
        // A batch neither shrinks with its size nor starts below nothing; and a slope of exactly nothing
        // would make every size fit.
        self.each = slope.clamp(1e-6 * mean, mean);
        self.fixed = ((seconds - self.each * size) / weight).max(0.0);
    }

    /// Everything takes `factor` times as long from now on, and is taken to always have.
    pub(super) fn scale(&mut self, factor: f64) {
        self.fixed *= factor;
        self.each *= factor;
        self.sums.weight /= factor * factor;
        self.sums.size /= factor * factor;
        self.sums.size_squared /= factor * factor;
        self.sums.seconds /= factor;
        self.sums.size_times_seconds /= factor;
    }
}

impl Sums {
    /// Makes all that was seen before weigh no more than this, the line through it staying as it is.
    fn shrink_to(&mut self, weight: f64) {
        if self.weight <= weight {
            return;
        }
        let factor = weight / self.weight;
        let Self {
            weight,
            size,
            size_squared,
            seconds,
            size_times_seconds,
        } = self;
        for sum in [weight, size, size_squared, seconds, size_times_seconds] {
            *sum *= factor;
        }
    }

    fn add(&mut self, size: f64, seconds: f64, weight: f64) {
        self.shrink_to(MOST_HISTORY * weight);
        let fade = |sum: &mut f64, sample: f64| *sum = *sum * FADE + weight * sample;
        fade(&mut self.weight, 1.0);
        fade(&mut self.size, size);
        fade(&mut self.size_squared, size * size);
        fade(&mut self.seconds, seconds);
        fade(&mut self.size_times_seconds, size * seconds);
    }
}

//! A line through (batch size, seconds), fitted by least squares in which older samples fade.

/// Each later sample multiplies a sample's weight by this: about the last sixty count.
const FADE: f64 = 0.985;

/// The weight that holds the slope at its last value, as a fraction of the samples' own weight. It matters only while
/// all batches have one size, and so show no slope.
const RIDGE: f64 = 1e-3;

/// Under pressure, each batch multiplies a slope that the samples do not show by this, until larger batches are
/// tried. Otherwise a slope that is believed too steep would never be tested.
const DOUBT: f64 = 0.97;

/// The most that all earlier samples weigh, in units of the new sample. Otherwise batches that were once believed to
/// take next to nothing would outweigh thousands of later ones.
const MOST_HISTORY: f64 = 200.0;

/// The least time of a batch, in seconds: clocks count microseconds.
pub(super) const LEAST_SECONDS: f64 = 1e-7;

/// The fraction of the first sample's time that is taken to grow with the size. Too little costs one batch that is
/// too large. Too much could keep batches small.
const FIRST_SLOPE: f64 = 0.2;

/// The line: `fixed + each * size` seconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Line {
    fixed: f64,
    each: f64,
    /// Faded sums over the samples. Each has the weight 1 ÷ expected², so relative errors count alike for small and
    /// large batches.
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
    /// A line through a first sample.
    pub(super) fn through(size: f64, seconds: f64) -> Self {
        let slope = FIRST_SLOPE * seconds / size;
        Self {
            fixed: seconds - slope * size,
            each: slope,
            sums: Sums::default(),
        }
    }

    /// The time of a batch of this size, in seconds.
    pub(super) fn at(&self, size: f64) -> f64 {
        (self.fixed + self.each * size).max(LEAST_SECONDS)
    }

    /// The time that each input adds, in seconds.
    pub(super) fn each(self) -> f64 {
        self.each
    }

    /// The largest size, as a fraction, that takes at most `seconds`. Negative if no size does.
    pub(super) fn size_within(&self, seconds: f64) -> f64 {
        (seconds - self.fixed) / self.each
    }

    /// Adds a sample. `pressed`: queries were left waiting or given up when its size was chosen.
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
        // A batch takes no less for being larger, and no negative time when empty. A slope of exactly 0 would make
        // every size fit.
        self.each = slope.clamp(1e-6 * mean, mean);
        self.fixed = ((seconds - self.each * size) / weight).max(0.0);
    }

    /// The replica changed its speed: earlier samples are rescaled as if everything had always taken `factor` times
    /// as long.
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
    /// Reduces the weight of all samples to at most this. The line through them stays.
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

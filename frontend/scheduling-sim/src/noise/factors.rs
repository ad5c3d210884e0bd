//! How likely a batch is to take so many times its cost.

use std::f64::consts::SQRT_2;

use super::{MILD, Noise, Normal, SHIFT_FACTOR, STALL_FACTOR, STALLS, WIDE};

/// The distribution of a factor: log-normal ones, each with its share.
#[derive(Clone, Debug)]
pub(crate) struct Factors(Vec<(f64, Normal)>);

impl Noise {
    /// The factors of a batch that starts in quick times, and in slow ones if there are such.
    pub(crate) fn factors(self) -> (Factors, Option<Factors>) {
        const SURE: Normal = Normal {
            mean: 0.0,
            deviation: 0.0,
        };
        match self {
            Self::None => (Factors(vec![(1.0, SURE)]), None),
            Self::Mild => (Factors(vec![(1.0, MILD)]), None),
            Self::Noisy => {
                let stalled = WIDE.times(STALL_FACTOR);
                (Factors(vec![(1.0 - STALLS, WIDE), (STALLS, stalled)]), None)
            }
            Self::Shift => {
                let slow = Factors(vec![(1.0, MILD.times(SHIFT_FACTOR))]);
                (Factors(vec![(1.0, MILD)]), Some(slow))
            }
        }
    }
}

impl Factors {
    /// The mean of all.
    pub(crate) fn mean(&self) -> f64 {
        let Self(parts) = self;
        parts
            .iter()
            .map(|(share, normal)| share * normal.mean_of_exp())
            .sum()
    }

    /// The probability of a factor of at most `most`, which is more than 0.
    pub(crate) fn at_most(&self, most: f64) -> f64 {
        let Self(parts) = self;
        let part = |(share, normal): &(f64, Normal)| share * standard(normal.deviations(most));
        parts.iter().map(part).sum()
    }

    /// The mean of what is left of the factors if they are cut at `most`, which is more than 0.
    pub(crate) fn mean_cut_at(&self, most: f64) -> f64 {
        let Self(parts) = self;
        let part = |(share, normal): &(f64, Normal)| {
            let deviations = normal.deviations(most);
            // What a log-normal variable has of its mean below a value is the probability of one deviation less.
            let below = normal.mean_of_exp() * standard(deviations - normal.deviation);
            share * (below + most * (1.0 - standard(deviations)))
        };
        parts.iter().map(part).sum()
    }
}

impl Normal {
    /// The logarithms of factors that are so many times as large.
    fn times(self, factor: f64) -> Self {
        Self {
            mean: self.mean + factor.ln(),
            ..self
        }
    }

    fn mean_of_exp(self) -> f64 {
        (self.mean + self.deviation.powi(2) / 2.0).exp()
    }

    /// How many deviations the logarithm of `factor` is above the mean.
    fn deviations(self, factor: f64) -> f64 {
        let above = factor.ln() - self.mean;
        if self.deviation > 0.0 {
            above / self.deviation
        } else if above < 0.0 {
            f64::NEG_INFINITY
        } else {
            f64::INFINITY
        }
    }
}

/// The probability that a standard normal variable is at most that.
fn standard(deviations: f64) -> f64 {
    0.5 * libm::erfc(-deviations / SQRT_2)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use fastrand::Rng;
    use skysail_core::time::Instant;

    use super::*;

    /// What is drawn is what is said of it, in quick times and in slow ones.
    #[test]
    fn the_distribution_is_that_of_the_factors_that_are_drawn() {
        for noise in [Noise::None, Noise::Mild, Noise::Noisy, Noise::Shift] {
            let (quick, slow) = noise.factors();
            let slow = slow.unwrap_or_else(|| quick.clone());
            for (second, factors) in [(1, quick), (6, slow)] {
                let now = Instant::default() + Duration::from_secs(second);
                let mut rng = Rng::with_seed(9);
                let drawn: Vec<_> = (0..100_000).map(|_| noise.factor(now, &mut rng)).collect();
                let mean =
                    |of: &dyn Fn(f64) -> f64| drawn.iter().map(|&factor| of(factor)).sum::<f64>() / 1e5;
                let about = |actual: f64, expected: f64| {
                    assert!(
                        (actual - expected).abs() < 0.006,
                        "{noise} {second}: {actual} {expected}"
                    );
                };
                about(mean(&|factor| factor), factors.mean());
                for most in [0.5, 0.9, 1.0, 1.1, 1.8, 2.0, 2.2, 4.0] {
                    about(mean(&|factor| f64::from(factor <= most)), factors.at_most(most));
                    about(mean(&|factor| factor.min(most)), factors.mean_cut_at(most));
                }
            }
        }
    }
}

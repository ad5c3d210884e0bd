//! How far batches are from what they cost on paper.

mod factors;

use std::f64::consts::TAU;
use std::fmt;

use clap::ValueEnum;
use fastrand::Rng;
use skysail_core::time::Instant;

pub(crate) use self::factors::Factors;

/// How much batch times vary.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum Noise {
    /// Not at all
    None,
    /// Log-normal, with a deviation of 10 %
    Mild,
    /// A shared processor: log-normal, with a deviation of 25 %; one batch in fifty takes three times as long
    Noisy,
    /// A neighbour that comes and goes: as mild, but everything takes twice as long in every second five seconds
    Shift,
}

/// The log-normal factors have a mean of 1: a normal variable of deviation σ has its mean at −σ²/2.
const MILD: Normal = Normal {
    mean: -0.005,
    deviation: 0.1,
};
const WIDE: Normal = Normal {
    mean: -0.03,
    deviation: 0.25,
};

/// The share of batches that stall, and how many times as long they take.
const STALLS: f64 = 0.02;
const STALL_FACTOR: f64 = 3.0;

/// How long a change of speed lasts, in seconds, and how many times as long batches take then.
pub(crate) const SHIFT_SECONDS: f64 = 5.0;
const SHIFT_FACTOR: f64 = 2.0;

impl Noise {
    /// What a batch takes that starts `now`, relative to its cost.
    pub fn factor(self, now: Instant, rng: &mut Rng) -> f64 {
        match self {
            Self::None => 1.0,
            Self::Mild => MILD.sample(rng).exp(),
            Self::Noisy => WIDE.sample(rng).exp() * stall(rng),
            Self::Shift => MILD.sample(rng).exp() * shift(now),
        }
    }
}

impl fmt::Display for Noise {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::None => "none",
            Self::Mild => "mild",
            Self::Noisy => "noisy",
            Self::Shift => "shift",
        })
    }
}

fn stall(rng: &mut Rng) -> f64 {
    if rng.f64() < STALLS { STALL_FACTOR } else { 1.0 }
}

fn shift(now: Instant) -> f64 {
    let period = now.seconds_after(Instant::default()) / SHIFT_SECONDS;
    if period as u64 % 2 == 1 { SHIFT_FACTOR } else { 1.0 }
}

/// A normal distribution.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Normal {
    pub(crate) mean: f64,
    pub(crate) deviation: f64,
}

impl Normal {
    /// By the transform of Box and Muller, of which one half is thrown away.
    pub(crate) fn sample(self, rng: &mut Rng) -> f64 {
        // Never 0, so its logarithm is finite.
        let radius = (-2.0 * (1.0 - rng.f64()).ln()).sqrt();
        let angle = TAU * rng.f64();
        self.mean + self.deviation * radius * angle.cos()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// The factors of many batches that start at this second, in ascending order.
    fn factors(noise: Noise, second: u64) -> Vec<f64> {
        let mut rng = Rng::with_seed(5);
        let now = Instant::default() + Duration::from_secs(second);
        let mut factors: Vec<_> = (0..100_000).map(|_| noise.factor(now, &mut rng)).collect();
        factors.sort_by(f64::total_cmp);
        factors
    }

    fn mean(factors: &[f64]) -> f64 {
        factors.iter().sum::<f64>() / factors.len() as f64
    }

    /// Half of the distance between the quantiles one deviation away, in logarithms.
    fn deviation(factors: &[f64]) -> f64 {
        let quantile = |share: f64| factors[(share * factors.len() as f64) as usize].ln();
        (quantile(0.8413) - quantile(0.1587)) / 2.0
    }

    #[track_caller]
    fn assert_about(actual: f64, expected: f64) {
        assert!((actual / expected - 1.0).abs() < 0.02, "{actual} {expected}");
    }

    #[test]
    fn without_noise_a_batch_takes_what_it_costs() {
        assert!(factors(Noise::None, 7).iter().all(|factor| *factor == 1.0));
    }

    #[test]
    fn mild_noise_has_a_mean_of_one_and_a_deviation_of_a_tenth() {
        let factors = factors(Noise::Mild, 7);
        assert_about(mean(&factors), 1.0);
        assert_about(deviation(&factors), 0.1);
    }

    #[test]
    fn noisy_batches_vary_by_a_quarter_and_one_in_fifty_stalls() {
        let factors = factors(Noise::Noisy, 7);
        assert_about(mean(&factors), 1.0 + STALLS * (STALL_FACTOR - 1.0));
        // The stalls widen what lies between the quantiles a little.
        assert!(
            (0.25..0.265).contains(&deviation(&factors)),
            "{}",
            deviation(&factors)
        );
        // Without stalls, four deviations away, not one batch in ten thousand would be there.
        let far = factors.iter().filter(|factor| **factor > 2.0).count() as f64 / 1e5;
        assert!((0.015..0.025).contains(&far), "{far}");
    }

    #[test]
    fn a_shift_doubles_every_second_five_seconds() {
        for (second, expected) in [(0, 1.0), (4, 1.0), (5, 2.0), (9, 2.0), (10, 1.0), (16, 2.0)] {
            assert_about(mean(&factors(Noise::Shift, second)), expected);
        }
    }

    #[test]
    fn the_words_are_those_of_the_command_line() {
        for noise in Noise::value_variants() {
            let word = noise.to_possible_value().unwrap();
            assert_eq!(word.get_name(), noise.to_string());
        }
    }
}

//! What each batch costs. Pure: the same settings give the same costs, batch by batch.

use std::f64::consts::TAU;
use std::time::Duration;

use crate::settings::Settings;

/// The costs of one model's batches, in order.
#[derive(Debug)]
pub struct Costs {
    settings: Settings,
    random: fastrand::Rng,
    batches: u64,
}

impl Costs {
    /// The costs that these settings describe, from the first batch on.
    pub fn new(settings: Settings) -> Self {
        Self {
            random: fastrand::Rng::with_seed(settings.seed),
            settings,
            batches: 0,
        }
    }

    /// What the next batch costs, if it has this many inputs.
    pub fn next(&mut self, inputs: u64) -> Duration {
        self.batches += 1;
        let factor = self.noise() * self.stall() * self.jump();
        let usual = self.settings.usual_cost(inputs);
        if factor == 1.0 {
            return usual;
        }
        Duration::try_from_secs_f64(usual.as_secs_f64() * factor).unwrap_or(Duration::MAX)
    }

    /// Batches that were asked about.
    pub fn batches(&self) -> u64 {
        self.batches
    }

    /// Log-normal with a mean of 1, so that noise does not change what batches cost on the whole.
    fn noise(&mut self) -> f64 {
        let sigma = self.settings.noise_sigma;
        if sigma == 0.0 {
            return 1.0;
        }
        // Box and Muller's way from two uniform numbers to a normal one.
        let radius = (-2.0 * (1.0 - self.random.f64()).ln()).sqrt();
        let normal = radius * (TAU * self.random.f64()).cos();
        (sigma * normal - sigma * sigma / 2.0).exp()
    }

    fn stall(&mut self) -> f64 {
        if self.random.f64() < self.settings.stall_probability {
            self.settings.stall_factor
        } else {
            1.0
        }
    }

    fn jump(&self) -> f64 {
        let since = self.batches.saturating_sub(self.settings.jump_after);
        if (1..=self.settings.jump_batches).contains(&since) {
            self.settings.jump_factor
        } else {
            1.0
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn micros(micros: u64) -> Duration {
        Duration::from_micros(micros)
    }

    /// A batch of one costs a millisecond.
    fn settings() -> Settings {
        Settings {
            fixed: micros(1000),
            ..Settings::default()
        }
    }

    /// In milliseconds.
    fn costs(settings: Settings, batches: usize) -> Vec<f64> {
        let mut costs = Costs::new(settings);
        let costs = std::iter::repeat_with(|| costs.next(1));
        costs.take(batches).map(|cost| cost.as_secs_f64() * 1e3).collect()
    }

    #[test]
    fn without_noise_a_batch_costs_what_its_inputs_do_to_the_nanosecond() {
        let mut costs = Costs::new(Settings {
            per_input: micros(7),
            per_input_squared: micros(3),
            ..settings()
        });
        assert_eq!(costs.next(1), micros(1010));
        assert_eq!(costs.next(100), micros(1000 + 700 + 30_000));
        assert_eq!(costs.next(u64::MAX), Duration::MAX);
    }

    #[test]
    fn noise_has_a_mean_of_one_and_the_spread_it_is_told() {
        let noisy = Settings {
            noise_sigma: 0.25,
            ..settings()
        };
        let costs = costs(noisy, 20_000);
        let count = costs.len() as f64;
        let mean = costs.iter().sum::<f64>() / count;
        assert!((mean - 1.0).abs() < 0.01, "{mean}");
        let logarithms: Vec<_> = costs.iter().map(|cost| cost.ln()).collect();
        let middle = logarithms.iter().sum::<f64>() / count;
        let variance = logarithms.iter().map(|log| (log - middle).powi(2)).sum::<f64>() / count;
        assert!((variance.sqrt() - 0.25).abs() < 0.01, "{}", variance.sqrt());
    }

    #[test]
    fn the_seed_decides_which_batches_are_slow() {
        let seeded = |seed| {
            let noisy = Settings {
                noise_sigma: 0.1,
                stall_probability: 0.1,
                stall_factor: 3.0,
                seed,
                ..settings()
            };
            costs(noisy, 100)
        };
        assert_eq!(seeded(1), seeded(1));
        assert_ne!(seeded(1), seeded(2));
    }

    #[test]
    fn as_many_batches_stall_as_are_asked_for() {
        let stalling = Settings {
            stall_probability: 0.02,
            stall_factor: 3.0,
            ..settings()
        };
        let costs = costs(stalling, 20_000);
        let stalled = costs.iter().filter(|cost| **cost == 3.0).count();
        assert!((300..=500).contains(&stalled), "{stalled}");
        assert_eq!(
            costs.iter().filter(|cost| **cost == 1.0).count(),
            20_000 - stalled
        );
    }

    #[test]
    fn a_jump_begins_and_ends_with_the_batches_it_is_told() {
        let jumping = |batches| Settings {
            jump_after: 2,
            jump_factor: 10.0,
            jump_batches: batches,
            ..settings()
        };
        assert_eq!(costs(jumping(3), 7), [1.0, 1.0, 10.0, 10.0, 10.0, 1.0, 1.0]);
        assert_eq!(costs(jumping(u64::MAX), 4), [1.0, 1.0, 10.0, 10.0]);
    }
}

//! When queries arrive: on a clock of their own, from a seed.
//!
//! Times are seconds since the start, in order, at a rate that holds on average. Poisson and bursty arrivals
//! are those of `skysail bench`.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use fastrand::Rng;

use crate::trace::{InvalidTrace, Trace};

/// The share of time that bursty arrivals spend at their high rate.
const BURST_SHARE: f64 = 0.15;
/// How many times the low rate the high rate is.
const BURST_FACTOR: f64 = 4.0;
/// How long bursty arrivals stay at their high rate, on average, in seconds.
const BURST_SECONDS: f64 = 1.0;
/// How long they stay at their low rate, on average, in seconds: 1 / 6.67 is the share of bursts.
const CALM_SECONDS: f64 = 5.67;

/// How queries are spread over time.
#[derive(Clone, Debug)]
pub enum Arrivals {
    /// Independent of each other.
    Poisson,
    /// A Markov-modulated Poisson process of two states: four times the low rate 15 % of the time, for one
    /// second on average.
    Bursty,
    /// Rare crowds of any size: their sizes and the pauses between them have no scale of their own. It
    /// stands for recorded arrivals where there are none.
    HeavyTailed,
    /// As in a file of times, compressed or stretched to the rate.
    Trace(Arc<Trace>),
}

/// Arrivals that do not exist.
#[derive(Debug, thiserror::Error)]
pub enum InvalidArrivals {
    /// The word is none of those there are.
    #[error("write poisson, bursty, heavy-tailed or trace:FILE")]
    Unknown,
    /// A trace without its file.
    #[error("the file is missing; write trace:FILE")]
    FileMissing,
    /// The file is none.
    #[error(transparent)]
    Trace(#[from] InvalidTrace),
}

impl Arrivals {
    /// Reads the command line's words, and the trace if it is one.
    pub fn read(text: &str) -> Result<Self, InvalidArrivals> {
        match text {
            "poisson" => Ok(Self::Poisson),
            "bursty" => Ok(Self::Bursty),
            "heavy-tailed" => Ok(Self::HeavyTailed),
            "trace" | "trace:" => Err(InvalidArrivals::FileMissing),
            _ => {
                let file = text.strip_prefix("trace:").ok_or(InvalidArrivals::Unknown)?;
                Ok(Self::Trace(Arc::new(Trace::read(Path::new(file))?)))
            }
        }
    }

    /// The word without the file.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Poisson => "poisson",
            Self::Bursty => "bursty",
            Self::HeavyTailed => "heavy-tailed",
            Self::Trace(_) => "trace",
        }
    }

    /// The same, played by so many clients so many times over if they were recorded; the others never end.
    pub fn played(&self, clients: usize, passes: usize) -> Self {
        match self {
            Self::Trace(trace) if (clients, passes) != (1, 1) => {
                Self::Trace(Arc::new(trace.played(clients, passes)))
            }
            as_they_are => as_they_are.clone(),
        }
    }

    /// The times of the first `count` queries at this rate per second; fewer if a trace has no more.
    pub fn times(&self, rate: f64, count: usize, rng: &mut Rng) -> Vec<f64> {
        match self {
            Self::Poisson => poisson(rate, rng).take(count).collect(),
            Self::Bursty => Bursts::new(rate, rng).take(count).collect(),
            Self::HeavyTailed => {
                let pattern: Vec<_> = Crowds::new(rng).take(count).collect();
                at_rate(&pattern, rate)
            }
            Self::Trace(trace) => at_rate(trace.first(count), rate),
        }
    }
}

impl fmt::Display for Arrivals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Trace(trace) => write!(f, "trace:{}", trace.file().display()),
            _ => f.write_str(self.kind()),
        }
    }
}

/// Compresses or stretches times to a mean rate. They then begin at 0.
fn at_rate(times: &[f64], rate: f64) -> Vec<f64> {
    let (Some(first), Some(last)) = (times.first(), times.last()) else {
        return Vec::new();
    };
    // Arrivals that all come at once have no pattern to stretch.
    let factor = match last - first {
        0.0 => 0.0,
        span => times.len() as f64 / rate / span,
    };
    times.iter().map(|time| (time - first) * factor).collect()
}

fn poisson(rate: f64, rng: &mut Rng) -> impl Iterator<Item = f64> + '_ {
    let mut now = 0.0;
    std::iter::repeat_with(move || {
        now += exponential(rng, rate);
        now
    })
}

/// Bursty arrivals.
struct Bursts<'a> {
    rng: &'a mut Rng,
    calm_rate: f64,
    bursting: bool,
    /// When the state changes.
    until: f64,
    now: f64,
}

impl<'a> Bursts<'a> {
    fn new(rate: f64, rng: &'a mut Rng) -> Self {
        Self {
            until: exponential(rng, 1.0 / CALM_SECONDS),
            rng,
            calm_rate: rate / ((1.0 - BURST_SHARE) + BURST_SHARE * BURST_FACTOR),
            bursting: false,
            now: 0.0,
        }
    }

    fn rate(&self) -> f64 {
        if self.bursting {
            self.calm_rate * BURST_FACTOR
        } else {
            self.calm_rate
        }
    }

    /// An exponential time has no memory: what was drawn beyond the change is drawn again.
    fn change_state(&mut self) {
        self.now = self.until;
        self.bursting = !self.bursting;
        let stay = if self.bursting {
            BURST_SECONDS
        } else {
            CALM_SECONDS
        };
        self.until = self.now + exponential(self.rng, 1.0 / stay);
    }
}

impl Iterator for Bursts<'_> {
    type Item = f64;

    fn next(&mut self) -> Option<f64> {
        loop {
            let rate = self.rate();
            let next = self.now + exponential(self.rng, rate);
            if next <= self.until {
                self.now = next;
                return Some(next);
            }
            self.change_state();
        }
    }
}

/// Heavy-tailed arrivals, in a unit of time of their own.
struct Crowds<'a> {
    rng: &'a mut Rng,
    now: f64,
    /// Queries that the crowd still has.
    left: usize,
}

/// How many queries a crowd has.
const CROWD: Pareto = Pareto {
    exponent: 1.1,
    most: 500.0,
};
/// The time between two crowds.
const PAUSE: Pareto = Pareto {
    exponent: 1.2,
    most: 200.0,
};
/// The mean time between two queries of a crowd: a fiftieth of the shortest pause.
const CROWD_GAP: f64 = 0.02;

impl<'a> Crowds<'a> {
    fn new(rng: &'a mut Rng) -> Self {
        Self {
            rng,
            now: 0.0,
            left: 0,
        }
    }
}

impl Iterator for Crowds<'_> {
    type Item = f64;

    fn next(&mut self) -> Option<f64> {
        if self.left == 0 {
            self.now += PAUSE.sample(self.rng);
            self.left = CROWD.sample(self.rng) as usize;
        }
        self.left -= 1;
        self.now += exponential(self.rng, 1.0 / CROWD_GAP);
        Some(self.now)
    }
}

/// A Pareto distribution of numbers from 1 to `most`.
struct Pareto {
    exponent: f64,
    most: f64,
}

impl Pareto {
    fn sample(&self, rng: &mut Rng) -> f64 {
        let rarest = self.most.powf(-self.exponent);
        (1.0 - rng.f64() * (1.0 - rarest)).powf(-1.0 / self.exponent)
    }
}

/// A time until the next of events that happen at this rate.
fn exponential(rng: &mut Rng, rate: f64) -> f64 {
    // 1 − u is never 0, so its logarithm is finite.
    -(1.0 - rng.f64()).ln() / rate
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: f64 = 1000.0;

    fn times(arrivals: &Arrivals, count: usize, seed: u64) -> Vec<f64> {
        arrivals.times(RATE, count, &mut Rng::with_seed(seed))
    }

    /// Variance of the counts in windows of this length, relative to their mean: 1 for a Poisson process.
    fn dispersion(times: &[f64], window: f64) -> f64 {
        let windows = (times.last().unwrap() / window) as usize;
        let mut counts = vec![0.0; windows];
        for time in times {
            if let Some(count) = counts.get_mut((time / window) as usize) {
                *count += 1.0;
            }
        }
        let mean = counts.iter().sum::<f64>() / counts.len() as f64;
        let squares: f64 = counts.iter().map(|count| (count - mean).powi(2)).sum();
        squares / counts.len() as f64 / mean
    }

    #[test]
    fn arrivals_are_in_order_and_the_same_for_the_same_seed() {
        for arrivals in [Arrivals::Poisson, Arrivals::Bursty, Arrivals::HeavyTailed] {
            let first = times(&arrivals, 5000, 7);
            assert_eq!(first.len(), 5000);
            assert!(first.is_sorted(), "{arrivals}");
            assert_eq!(first, times(&arrivals, 5000, 7), "{arrivals}");
            assert_ne!(first, times(&arrivals, 5000, 8), "{arrivals}");
        }
    }

    #[test]
    fn poisson_arrivals_have_their_rate_and_independent_counts() {
        let times = times(&Arrivals::Poisson, 200_000, 1);
        // Four standard deviations of 200 thousand events, and of a dispersion over 2000 windows.
        assert!((times[199_999] - 200.0).abs() < 1.8, "{}", times[199_999]);
        let dispersion = dispersion(&times, 0.1);
        assert!((dispersion - 1.0).abs() < 0.13, "{dispersion}");
    }

    #[test]
    fn bursty_arrivals_have_their_rate_on_average_and_two_rates_in_truth() {
        let times = Arrivals::Bursty.times(50.0, 1_000_000, &mut Rng::with_seed(3));
        let mean = 1e6 / times.last().unwrap();
        assert!((mean - 50.0).abs() < 2.5, "{mean}");
        // In windows much shorter than a burst, the counts vary by the two rates, 34.5/s and 138/s: by
        // 1 + window × variance of the rate / mean = 1 + 0.1 × 1364 / 50 = 3.7, a little less for the
        // windows in which the state changes.
        let dispersion = dispersion(&times, 0.1);
        assert!((3.2..4.0).contains(&dispersion), "{dispersion}");
    }

    #[test]
    fn heavy_tailed_arrivals_come_in_crowds_and_have_their_rate_exactly() {
        let times = times(&Arrivals::HeavyTailed, 20_000, 1);
        assert!((times[19_999] - 20.0).abs() < 1e-9, "{}", times[19_999]);
        // Where ten and where a thousand are expected: with a scale, one of them would be near 1.
        for window in [0.01, 1.0] {
            let dispersion = dispersion(&times, window);
            assert!(dispersion > 20.0, "{window} {dispersion}");
        }
    }

    #[test]
    fn a_pattern_is_kept_at_another_rate() {
        assert_eq!(at_rate(&[3.0, 4.0, 4.5, 7.0], 2.0), [0.0, 0.5, 0.75, 2.0]);
        assert_eq!(at_rate(&[3.0, 3.0], 2.0), [0.0, 0.0]);
        assert!(at_rate(&[], 2.0).is_empty());
    }
}

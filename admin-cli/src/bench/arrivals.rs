//! When queries arrive: on a clock of their own, from a seed.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use fastrand::Rng;

use skysail_scheduling_sim::trace::Trace;

use super::BenchError;

/// The share of time that bursty arrivals spend at their high rate.
const BURST_SHARE: f64 = 0.15;
/// How many times the low rate the high rate is.
const BURST_FACTOR: f64 = 4.0;
/// How long bursty arrivals stay at their high rate, on average, in seconds.
const BURST_SECONDS: f64 = 1.0;
/// How long they stay at their low rate, on average, in seconds: 1 / 6.67 is the share of bursts.
const CALM_SECONDS: f64 = 5.67;

/// How queries are spread over time.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Arrivals {
    /// Independent of each other.
    Poisson,
    /// A Markov-modulated Poisson process of two states: four times the low rate 15 % of the time, for one
    /// second on average.
    Bursty,
    /// As in a file of times, compressed or stretched to the rate.
    Trace(PathBuf),
}

/// Arrivals that do not exist.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InvalidArrivals {
    #[error("write poisson, bursty or trace:FILE")]
    Unknown,
    #[error("the file is missing; write trace:FILE")]
    FileMissing,
}

impl FromStr for Arrivals {
    type Err = InvalidArrivals;
    fn from_str(text: &str) -> Result<Self, InvalidArrivals> {
        match text {
            "poisson" => Ok(Self::Poisson),
            "bursty" => Ok(Self::Bursty),
            "trace" | "trace:" => Err(InvalidArrivals::FileMissing),
            _ => {
                let file = text.strip_prefix("trace:").ok_or(InvalidArrivals::Unknown)?;
                Ok(Self::Trace(file.into()))
            }
        }
    }
}

impl fmt::Display for Arrivals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Poisson => f.write_str("poisson"),
            Self::Bursty => f.write_str("bursty"),
            Self::Trace(file) => write!(f, "trace:{}", file.display()),
        }
    }
}

/// Queries per second, on average.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Rate(f64);

/// A rate that makes no sense.
#[derive(Debug, thiserror::Error)]
#[error(
    "write a number of queries per second that is greater than 0 and at most a million, as in 500 or 0.5"
)]
pub(crate) struct InvalidRate;

/// No sender offers as much; what it cannot send it still has to count.
const HIGHEST_RATE: f64 = 1e6;

impl Rate {
    pub(crate) fn per_second(self) -> f64 {
        self.0
    }

    /// How many queries arrive within a time, on average.
    pub(crate) fn within(self, time: Duration) -> f64 {
        self.0 * time.as_secs_f64()
    }
}

impl FromStr for Rate {
    type Err = InvalidRate;
    fn from_str(text: &str) -> Result<Self, InvalidRate> {
        let rate: f64 = text.parse().map_err(|_| InvalidRate)?;
        if rate > 0.0 && rate <= HIGHEST_RATE {
            Ok(Self(rate))
        } else {
            Err(InvalidRate)
        }
    }
}

/// The times at which queries are to be sent, since the start, in order, within the run's duration.
pub(crate) struct Schedule {
    process: Process,
    duration: Duration,
}

enum Process {
    Poisson {
        rng: Rng,
        rate: f64,
        now: f64,
    },
    Bursty(Bursts),
    /// All times, of which the first are gone.
    Trace(std::vec::IntoIter<Duration>),
}

struct Bursts {
    rng: Rng,
    calm_rate: f64,
    bursting: bool,
    /// When the state changes.
    until: f64,
    now: f64,
}

impl Schedule {
    pub(crate) fn new(
        arrivals: &Arrivals,
        rate: Rate,
        duration: Duration,
        seed: u64,
    ) -> Result<Self, BenchError> {
        let rng = Rng::with_seed(seed);
        let process = match arrivals {
            Arrivals::Poisson => Process::Poisson {
                rng,
                rate: rate.0,
                now: 0.0,
            },
            Arrivals::Bursty => Process::Bursty(Bursts::new(rng, rate)),
            Arrivals::Trace(path) => {
                let trace = Trace::read(path).map_err(|reason| BenchError::Trace {
                    path: path.clone(),
                    reason,
                })?;
                return Ok(Self::of_trace(&trace, rate, duration));
            }
        };
        Ok(Self { process, duration })
    }

    /// As many of a trace's first times as the run needs, at the rate. The run ends with them.
    fn of_trace(trace: &Trace, rate: Rate, duration: Duration) -> Self {
        let wanted = rate.within(duration).round().max(2.0);
        // A float beyond the file's length saturates, which is what is meant.
        let times = trace.first(wanted as usize);
        let lasts = times.len() as f64 / rate.per_second();
        let span = times.last().copied().unwrap_or_default();
        // Arrivals that all come at once have no pattern to stretch.
        let factor = if span > 0.0 { lasts / span } else { 0.0 };
        let at = |time: &f64| Duration::from_secs_f64(time * factor).min(duration);
        let times: Vec<_> = times.iter().map(at).collect();
        Self {
            process: Process::Trace(times.into_iter()),
            duration: duration.min(Duration::from_secs_f64(lasts)),
        }
    }

    /// How long queries are sent: shorter than was asked for only if a trace ends before.
    pub(crate) fn duration(&self) -> Duration {
        self.duration
    }
}

impl Iterator for Schedule {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let seconds = match &mut self.process {
            Process::Poisson { rng, rate, now } => {
                *now += exponential(rng, *rate);
                *now
            }
            Process::Bursty(bursts) => bursts.next(),
            Process::Trace(times) => return times.next(),
        };
        (seconds < self.duration.as_secs_f64()).then(|| Duration::from_secs_f64(seconds))
    }
}

impl Bursts {
    fn new(mut rng: Rng, rate: Rate) -> Self {
        Self {
            until: exponential(&mut rng, 1.0 / CALM_SECONDS),
            rng,
            calm_rate: rate.0 / ((1.0 - BURST_SHARE) + BURST_SHARE * BURST_FACTOR),
            bursting: false,
            now: 0.0,
        }
    }

    fn next(&mut self) -> f64 {
        loop {
            let rate = if self.bursting {
                self.calm_rate * BURST_FACTOR
            } else {
                self.calm_rate
            };
            let next = self.now + exponential(&mut self.rng, rate);
            if next <= self.until {
                self.now = next;
                return next;
            }
            self.change_state();
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
        self.until = self.now + exponential(&mut self.rng, 1.0 / stay);
    }
}

/// A time until the next of events that happen at this rate.
fn exponential(rng: &mut Rng, rate: f64) -> f64 {
    // 1 − u is never 0, so its logarithm is finite.
    -(1.0 - rng.f64()).ln() / rate
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    const RATE: Rate = Rate(1000.0);

    fn times(arrivals: &Arrivals, duration: u64, seed: u64) -> Vec<f64> {
        Schedule::new(arrivals, RATE, Duration::from_secs(duration), seed)
            .unwrap()
            .map(|time| time.as_secs_f64())
            .collect()
    }

    /// Variance of the counts in windows of this length, relative to their mean: 1 for a Poisson process.
    fn dispersion(times: &[f64], window: f64, windows: u32) -> f64 {
        let mut counts = vec![0.0; windows as usize];
        for time in times {
            counts[(time / window) as usize] += 1.0;
        }
        let mean = counts.iter().sum::<f64>() / counts.len() as f64;
        let squares: f64 = counts.iter().map(|count| (count - mean).powi(2)).sum();
        squares / counts.len() as f64 / mean
    }

    #[test]
    fn arrivals_are_in_order_within_the_run_and_the_same_for_the_same_seed() {
        for arrivals in [Arrivals::Poisson, Arrivals::Bursty] {
            let first = times(&arrivals, 20, 7);
            assert!(first.is_sorted(), "{arrivals}");
            assert!(first.iter().all(|time| (0.0..20.0).contains(time)), "{arrivals}");
            assert_eq!(first, times(&arrivals, 20, 7), "{arrivals}");
            assert_ne!(first, times(&arrivals, 20, 8), "{arrivals}");
        }
    }

    #[test]
    fn poisson_arrivals_have_their_rate_and_independent_counts() {
        let times = times(&Arrivals::Poisson, 200, 1);
        // Four standard deviations of 200 thousand events, and of a dispersion over 2000 windows.
        assert!(
            (times.len() as f64 - 200_000.0).abs() < 1_800.0,
            "{}",
            times.len()
        );
        let dispersion = dispersion(&times, 0.1, 2_000);
        assert!((dispersion - 1.0).abs() < 0.13, "{dispersion}");
    }

    #[test]
    fn bursty_arrivals_have_their_rate_on_average_and_two_rates_in_truth() {
        let seconds = 20_000_u32;
        let rate = Rate(50.0);
        let duration = Duration::from_secs(seconds.into());
        let schedule = Schedule::new(&Arrivals::Bursty, rate, duration, 3).unwrap();
        let times: Vec<_> = schedule.map(|time| time.as_secs_f64()).collect();
        let mean = times.len() as f64 / f64::from(seconds);
        assert!((mean - 50.0).abs() < 2.5, "{mean}");
        // In windows much shorter than a burst, the counts vary by the two rates, 34.5/s and 138/s: by
        // 1 + window × variance of the rate / mean = 1 + 0.1 × 1364 / 50 = 3.7, a little less for the
        // windows in which the state changes.
        let dispersion = dispersion(&times, 0.1, seconds * 10);
        assert!((3.2..4.0).contains(&dispersion), "{dispersion}");
    }

    #[test]
    fn a_trace_keeps_its_pattern_at_the_wanted_rate() {
        let trace = Trace::parse(Path::new("file"), "0\n1\n1.5\n4").unwrap();
        let schedule = Schedule::of_trace(&trace, Rate(2.0), Duration::from_secs(10));
        // Four queries at two a second last two seconds: half of the four that they took.
        assert_eq!(schedule.duration(), Duration::from_secs(2));
        let times: Vec<_> = schedule.map(|time| time.as_secs_f64()).collect();
        assert_eq!(times, [0.0, 0.5, 0.75, 2.0]);
    }

    #[test]
    fn only_what_the_run_needs_of_a_trace_sets_its_pace() {
        let trace = Trace::parse(Path::new("file"), "0\n1\n1.5\n3\n1000").unwrap();
        let schedule = Schedule::of_trace(&trace, Rate(2.0), Duration::from_secs(2));
        assert_eq!(schedule.duration(), Duration::from_secs(2));
        assert_eq!(schedule.map(|time| time.as_secs_f64()).last(), Some(2.0));
    }

    #[test]
    fn what_is_no_arrival_process_is_answered_with_those_that_exist() {
        assert_eq!("poisson".parse::<Arrivals>().unwrap(), Arrivals::Poisson);
        assert_eq!("bursty".parse::<Arrivals>().unwrap(), Arrivals::Bursty);
        assert_eq!(
            "trace:a:b.csv".parse::<Arrivals>().unwrap(),
            Arrivals::Trace("a:b.csv".into())
        );
        for (bad, advice) in [
            ("uniform", "bursty"),
            ("trace", "trace:FILE"),
            ("trace:", "trace:FILE"),
        ] {
            let error = bad.parse::<Arrivals>().unwrap_err().to_string();
            assert!(error.contains(advice), "{error}");
        }
    }

    #[test]
    fn a_rate_is_a_number_greater_than_nothing() {
        assert_eq!("0.5".parse::<Rate>().unwrap(), Rate(0.5));
        for bad in ["0", "-1", "nan", "inf", "1000001", "many", ""] {
            assert!(bad.parse::<Rate>().is_err(), "{bad}");
        }
    }
}

//! What became of the queries.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use hdrhistogram::{Counter, Histogram};

/// Percentiles are right to three digits.
const DIGITS: u8 = 3;
/// Those in a window are right to two, which no plot can show.
const WINDOW_DIGITS: u8 = 2;
/// Longer than any query is waited for; what took longer counts as this.
const LONGEST: Duration = Duration::from_secs(3600);

/// An answer, of any kind, that comes more than this after the objective is overdue: a server cannot see what
/// the way to the client and the client's own scheduling take.
const GRACE: Duration = Duration::from_millis(10);

/// A plot shows at most so many windows.
const MOST_WINDOWS: f64 = 120.0;
/// Fewer queries than this make no percentile worth drawing.
const FEWEST_IN_WINDOW: f64 = 25.0;

/// One query, seen from the sender.
#[derive(Debug)]
pub(crate) struct Sent {
    /// When it was due, since the start.
    pub(crate) due: Duration,
    /// How much later it was sent; none if it was not.
    pub(crate) lateness: Option<Duration>,
    /// From when it was due until its end.
    pub(crate) latency: Duration,
    pub(crate) outcome: Outcome,
}

#[derive(Debug)]
pub(crate) enum Outcome {
    /// The model's prediction.
    Prediction,
    /// The application's default output, and why.
    Default(String),
    /// No answer.
    Failed(Failure),
}

/// Why there is no answer. Displayed, it is the kind that the report counts.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Failure {
    /// The sender was so far behind that it gave up.
    NotSent,
    /// All connections were taken, as many as may be.
    NoConnection,
    /// The server could not be connected to, or the connection broke.
    Connection,
    /// Nothing came in time.
    Timeout,
    /// The server refused.
    Status(u16),
    /// The server answered with what is no answer.
    Unreadable,
    /// The run was ended before the answer came.
    Interrupted,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotSent => f.write_str("not_sent"),
            Self::NoConnection => f.write_str("no_connection"),
            Self::Connection => f.write_str("connection"),
            Self::Timeout => f.write_str("timeout"),
            Self::Status(status) => write!(f, "status_{status}"),
            Self::Unreadable => f.write_str("unreadable"),
            Self::Interrupted => f.write_str("interrupted"),
        }
    }
}

/// The four things that can become of a query; each becomes exactly one.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Counts {
    /// Predictions within the objective.
    pub(crate) in_time: u64,
    /// Predictions after it.
    pub(crate) late: u64,
    pub(crate) defaults: u64,
    pub(crate) errors: u64,
}

impl Counts {
    pub(crate) fn offered(self) -> u64 {
        self.in_time + self.late + self.defaults + self.errors
    }

    /// The share of the offered queries whose prediction came in time; none of none is 0.
    pub(crate) fn goodput(self) -> f64 {
        self.in_time as f64 / self.offered().max(1) as f64
    }
}

/// A part of the run, by the times at which its queries were due.
pub(crate) struct Window {
    pub(crate) counts: Counts,
    /// Latencies of all answers, in microseconds.
    pub(crate) answers: Histogram<u32>,
}

/// Everything that is known of a run.
pub(crate) struct Tally {
    slo: Duration,
    pub(crate) counts: Counts,
    /// How many were sent, whatever became of them.
    pub(crate) sent: u64,
    /// Predictions and default outputs that came more than [`GRACE`] after the objective.
    pub(crate) overdue: u64,
    pub(crate) defaults: BTreeMap<String, u64>,
    pub(crate) errors: BTreeMap<Failure, u64>,
    /// Latencies of all answers, in microseconds.
    pub(crate) answers: Histogram<u64>,
    /// Those of predictions.
    pub(crate) predictions: Histogram<u64>,
    /// How much later than due queries were sent, in microseconds.
    pub(crate) lateness: Histogram<u64>,
    pub(crate) windows: Vec<Window>,
    pub(crate) window: Duration,
}

impl Tally {
    /// An empty tally of a run of this duration in which so many queries are expected.
    pub(crate) fn new(slo: Duration, duration: Duration, expected: f64) -> Self {
        let windows = (expected / FEWEST_IN_WINDOW).clamp(1.0, MOST_WINDOWS).floor();
        let window = duration.div_f64(windows).max(Duration::from_micros(1));
        let empty = || Window {
            counts: Counts::default(),
            answers: histogram(WINDOW_DIGITS),
        };
        Self {
            slo,
            counts: Counts::default(),
            sent: 0,
            overdue: 0,
            defaults: BTreeMap::new(),
            errors: BTreeMap::new(),
            answers: histogram(DIGITS),
            predictions: histogram(DIGITS),
            lateness: histogram(DIGITS),
            windows: (0..windows as usize).map(|_| empty()).collect(),
            window,
        }
    }

    pub(crate) fn record(&mut self, query: Sent) {
        if let Some(lateness) = query.lateness {
            self.sent += 1;
            self.lateness.saturating_record(micros(lateness));
        }
        let latency = micros(query.latency);
        let index = (query.due.as_nanos() / self.window.as_nanos()) as usize;
        // A trace's last query is due at the very end.
        let last = self.windows.len() - 1;
        let window = &mut self.windows[index.min(last)];
        if !matches!(query.outcome, Outcome::Failed(_)) {
            self.answers.saturating_record(latency);
            window.answers.saturating_record(latency);
            self.overdue += u64::from(query.latency > self.slo + GRACE);
        }
        let in_time = query.latency <= self.slo;
        for counts in [&mut self.counts, &mut window.counts] {
            *match query.outcome {
                Outcome::Prediction if in_time => &mut counts.in_time,
                Outcome::Prediction => &mut counts.late,
                Outcome::Default(_) => &mut counts.defaults,
                Outcome::Failed(_) => &mut counts.errors,
            } += 1;
        }
        match query.outcome {
            Outcome::Prediction => self.predictions.saturating_record(latency),
            Outcome::Default(reason) => *self.defaults.entry(reason).or_default() += 1,
            Outcome::Failed(failure) => *self.errors.entry(failure).or_default() += 1,
        }
    }

    /// Counts queries that were sent and whose end nobody waited for. When they were due is not known any
    /// more, so no window has them.
    pub(crate) fn record_interrupted(&mut self, count: u64) {
        if count > 0 {
            self.sent += count;
            self.counts.errors += count;
            *self.errors.entry(Failure::Interrupted).or_default() += count;
        }
    }

    /// Whether the server said anything at all.
    pub(crate) fn was_answered(&self) -> bool {
        let spoke = |failure: &Failure| matches!(failure, Failure::Status(_) | Failure::Unreadable);
        !self.answers.is_empty() || self.errors.keys().any(spoke)
    }
}

fn histogram<T: Counter>(digits: u8) -> Histogram<T> {
    Histogram::new_with_bounds(1, micros(LONGEST), digits)
        .expect("the bounds and digits are valid; this is a bug")
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLO: Duration = Duration::from_millis(50);

    fn tally(duration: u64, expected: f64) -> Tally {
        Tally::new(SLO, Duration::from_secs(duration), expected)
    }

    fn sent(due_ms: u64, latency_micros: u64, outcome: Outcome) -> Sent {
        Sent {
            due: Duration::from_millis(due_ms),
            lateness: Some(Duration::from_micros(80)),
            latency: Duration::from_micros(latency_micros),
            outcome,
        }
    }

    #[test]
    fn an_answer_of_any_kind_is_overdue_that_comes_after_the_objective_and_its_grace() {
        let mut tally = tally(1, 4.0);
        tally.record(sent(0, 60_000, Outcome::Prediction));
        assert_eq!(tally.overdue, 0);
        tally.record(sent(1, 60_001, Outcome::Prediction));
        tally.record(sent(2, 60_001, Outcome::Default("late_reply".into())));
        assert_eq!(tally.overdue, 2);
        tally.record(sent(3, 60_001, Outcome::Failed(Failure::Timeout)));
        assert_eq!(tally.overdue, 2, "an error is no answer");
    }

    #[test]
    fn only_a_prediction_within_the_objective_is_a_success() {
        let mut tally = tally(1, 4.0);
        tally.record(sent(0, 50_000, Outcome::Prediction));
        tally.record(sent(1, 50_001, Outcome::Prediction));
        tally.record(sent(2, 10, Outcome::Default("no_replica".into())));
        tally.record(sent(3, 10, Outcome::Failed(Failure::Status(503))));
        let expected = Counts {
            in_time: 1,
            late: 1,
            defaults: 1,
            errors: 1,
        };
        assert_eq!(tally.counts, expected);
        assert_eq!(tally.counts.offered(), 4);
        assert_eq!(tally.counts.goodput(), 0.25);
        assert_eq!(tally.answers.len(), 3);
        assert_eq!(tally.predictions.len(), 2);
        assert_eq!(tally.lateness.len(), 4);
    }

    #[test]
    fn none_of_none_is_no_goodput_and_no_failure_of_arithmetic() {
        assert_eq!(tally(1, 0.0).counts.goodput(), 0.0);
    }

    #[test]
    fn a_query_that_was_not_sent_is_offered_and_has_no_lateness() {
        let mut tally = tally(1, 1.0);
        tally.record(Sent {
            lateness: None,
            ..sent(0, 0, Outcome::Failed(Failure::NoConnection))
        });
        assert_eq!((tally.counts.offered(), tally.sent), (1, 0));
        assert!(tally.lateness.is_empty());
        assert!(!tally.was_answered());
        tally.record(sent(0, 0, Outcome::Failed(Failure::Status(404))));
        assert!(tally.was_answered());
    }

    #[test]
    fn percentiles_are_right_to_three_digits() {
        let mut tally = tally(10, 1000.0);
        for latency in 1..=10_000 {
            tally.record(sent(0, latency * 10, Outcome::Prediction));
        }
        for (quantile, expected) in [(0.5, 50_000.0), (0.99, 99_000.0), (0.999, 99_900.0)] {
            let value = tally.answers.value_at_quantile(quantile) as f64;
            assert!((value / expected - 1.0).abs() < 0.001, "{quantile}: {value}");
        }
    }

    #[test]
    fn windows_hold_what_was_due_in_them_and_together_hold_everything() {
        let mut tally = tally(10, 1_000_000.0);
        assert_eq!(tally.windows.len(), 120);
        for due in [0, 83, 84, 9_999, 10_000] {
            tally.record(sent(due, 10, Outcome::Prediction));
        }
        let offered: Vec<_> = tally
            .windows
            .iter()
            .map(|window| window.counts.offered())
            .collect();
        assert_eq!(offered[..2], [2, 1]);
        assert_eq!(offered[119], 2);
        assert_eq!(offered.iter().sum::<u64>(), 5);
    }

    #[test]
    fn few_queries_share_few_windows() {
        assert_eq!(tally(30, 100.0).windows.len(), 4);
        assert_eq!(tally(30, 3.0).windows.len(), 1);
    }

    #[test]
    fn a_latency_beyond_all_bounds_counts_as_the_longest() {
        let mut tally = tally(1, 1.0);
        let outcome = Outcome::Failed(Failure::Timeout);
        tally.record(sent(0, u64::MAX, outcome));
        tally.record(sent(0, u64::MAX, Outcome::Prediction));
        assert_eq!(tally.counts.late, 1);
        assert!(tally.answers.max() >= 3_600_000_000);
    }
}

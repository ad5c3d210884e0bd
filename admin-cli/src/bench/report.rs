//! What was found out, as a table for people and as JSON for programs.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;
use skysail_proto::ids::ApplicationName;

use super::plot::Heading;
use super::tally::{Failure, Tally};
use crate::output::{micros, table};

/// The sender may be late by this share of the objective before the figures say more about it than about
/// the server, but not less than the shortest and not more than the longest of these times.
const TRUSTED_SHARE: u32 = 20;
const TRUSTED_AT_LEAST: Duration = Duration::from_micros(200);
const TRUSTED_AT_MOST: Duration = Duration::from_millis(10);

/// A run as it was asked for.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Setup {
    pub(crate) application: ApplicationName,
    /// As on the command line: `poisson`, `bursty`, `trace:FILE`.
    pub(crate) arrivals: String,
    /// Queries per second that were to be offered, on average.
    pub(crate) rate: f64,
    pub(crate) seed: u64,
    /// What was asked, in words.
    pub(crate) inputs: String,
    /// What the predictions are judged by.
    pub(crate) slo_micros: u64,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Ending {
    Complete,
    /// The trace was shorter than the run.
    TraceEnded,
    /// By Ctrl-C.
    Interrupted,
}

/// A run as it was. Serialized, it is the object that `--output json` prints.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    #[serde(flatten)]
    setup: Setup,
    ended: Ending,
    /// How long queries were sent.
    duration_seconds: f64,
    /// Queries that were due. Each is one of the four that follow `sent`.
    offered: u64,
    sent: u64,
    in_time: u64,
    late: u64,
    defaulted: u64,
    failed: u64,
    /// Answers of any kind that came more than 10 ms after the objective.
    overdue: u64,
    /// The share of the offered queries whose prediction came in time, 0 to 1.
    goodput: f64,
    offered_per_second: f64,
    sent_per_second: f64,
    in_time_per_second: f64,
    /// Default outputs by their reason.
    defaults: BTreeMap<String, u64>,
    /// Errors by their kind.
    errors: BTreeMap<String, u64>,
    /// Since a query was due.
    latency_micros: Latencies,
    /// How much later than due queries were sent.
    lateness_micros: Option<Percentiles>,
    /// Whether the sender kept its schedule well enough for the figures to be the server's.
    trustworthy: bool,
    /// The most connections that were open at once.
    connections: usize,
    #[serde(skip)]
    trusted_lateness: Duration,
}

#[derive(Debug, Serialize)]
struct Latencies {
    /// Predictions and default outputs.
    answers: Option<Percentiles>,
    predictions: Option<Percentiles>,
}

/// In microseconds.
#[derive(Clone, Copy, Debug, Serialize)]
struct Percentiles {
    p50: u64,
    p90: u64,
    p99: u64,
    p99_9: u64,
    max: u64,
}

impl Percentiles {
    /// Those of what was recorded; none of nothing.
    fn of(histogram: &Histogram<u64>) -> Option<Self> {
        if histogram.is_empty() {
            return None;
        }
        Some(Self {
            p50: histogram.value_at_quantile(0.5),
            p90: histogram.value_at_quantile(0.9),
            p99: histogram.value_at_quantile(0.99),
            p99_9: histogram.value_at_quantile(0.999),
            max: histogram.max(),
        })
    }
}

/// How a run went, besides its tally.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Course {
    pub(crate) ended: Ending,
    pub(crate) lasted: Duration,
    pub(crate) connections: usize,
}

impl Report {
    pub(crate) fn new(setup: Setup, tally: &Tally, course: Course) -> Self {
        let seconds = course.lasted.as_secs_f64();
        let per_second = |count: u64| count as f64 / seconds;
        let counts = tally.counts;
        let lateness = Percentiles::of(&tally.lateness);
        let trusted_lateness = trusted_lateness(Duration::from_micros(setup.slo_micros));
        let punctual =
            lateness.is_none_or(|lateness| Duration::from_micros(lateness.p99) <= trusted_lateness);
        Self {
            ended: course.ended,
            duration_seconds: seconds,
            offered: counts.offered(),
            sent: tally.sent,
            in_time: counts.in_time,
            late: counts.late,
            defaulted: counts.defaults,
            failed: counts.errors,
            overdue: tally.overdue,
            goodput: counts.goodput(),
            offered_per_second: per_second(counts.offered()),
            sent_per_second: per_second(tally.sent),
            in_time_per_second: per_second(counts.in_time),
            defaults: tally.defaults.clone(),
            errors: by_kind(tally),
            latency_micros: Latencies {
                answers: Percentiles::of(&tally.answers),
                predictions: Percentiles::of(&tally.predictions),
            },
            lateness_micros: lateness,
            trustworthy: punctual && !tally.errors.contains_key(&Failure::NotSent),
            connections: course.connections,
            trusted_lateness,
            setup,
        }
    }

    /// What stands above a plot of the run.
    pub(crate) fn heading(&self) -> Heading {
        let shown = |percentiles: Option<Percentiles>| {
            percentiles.map_or_else(String::new, |percentiles| {
                format!(
                    ", latency p50 {}, p99 {}",
                    duration(percentiles.p50),
                    duration(percentiles.p99)
                )
            })
        };
        Heading {
            title: self.headline(),
            subtitle: format!(
                "goodput {}{}",
                percent(self.goodput),
                shown(self.latency_micros.answers)
            ),
        }
    }

    /// The report in one line of JSON.
    pub(crate) fn json(&self) -> String {
        serde_json::to_string(self).expect("numbers and words can always be written; this is a bug")
    }

    /// The report for a person.
    pub(crate) fn text(&self) -> String {
        let head = format!("{}, {}", self.headline(), self.setup.inputs);
        let goodput = format!(
            "Goodput: {} ({:.1}/s of {:.1}/s offered)",
            percent(self.goodput),
            self.in_time_per_second,
            self.offered_per_second
        );
        let mut parts = vec![head, goodput, self.counts_table(), self.latency_table()];
        parts.extend(self.remark());
        parts.join("\n\n")
    }

    fn headline(&self) -> String {
        let setup = &self.setup;
        let lasted = Duration::from_millis((self.duration_seconds * 1e3).round() as u64);
        format!(
            "{}: {} arrivals, {} queries/s for {}, SLO {}",
            setup.application,
            setup.arrivals,
            setup.rate,
            humantime::format_duration(lasted),
            micros(setup.slo_micros)
        )
    }

    /// What a reader must know before relying on the figures.
    pub(crate) fn warning(&self) -> Option<String> {
        if self.trustworthy {
            return None;
        }
        let late = self.lateness_micros.map_or_else(String::new, |lateness| {
            format!(
                " (p99 {}, trusted up to {})",
                duration(lateness.p99),
                duration(self.trusted_lateness.as_micros() as u64)
            )
        });
        Some(format!(
            "the sender itself was late{late}: these figures say as much about it as about the server; offer \
             less, or give it a processor of its own"
        ))
    }

    /// Why the run was shorter than asked for.
    fn remark(&self) -> Option<String> {
        match self.ended {
            Ending::Complete => None,
            Ending::TraceEnded => Some("The trace was shorter than the run, and ended it.".to_owned()),
            Ending::Interrupted => Some("The run was interrupted.".to_owned()),
        }
    }

    fn counts_table(&self) -> String {
        let row = |what: &str, count: u64| {
            [
                what.to_owned(),
                count.to_string(),
                format!("{:.1}/s", count as f64 / self.duration_seconds),
                percent(count as f64 / self.offered.max(1) as f64),
            ]
        };
        let mut rows = vec![
            row("offered", self.offered),
            row("sent", self.sent),
            row("predictions in time", self.in_time),
            row("predictions too late", self.late),
            row("default outputs", self.defaulted),
        ];
        rows.extend(
            self.defaults
                .iter()
                .map(|(reason, &count)| row(&format!("  {reason}"), count)),
        );
        rows.push(row("errors", self.failed));
        rows.extend(
            self.errors
                .iter()
                .map(|(kind, &count)| row(&format!("  {kind}"), count)),
        );
        table(["QUERIES", "COUNT", "RATE", "SHARE"], rows)
    }

    fn latency_table(&self) -> String {
        let row = |what: &str, percentiles: Option<Percentiles>| {
            let shown =
                |of: fn(Percentiles) -> u64| percentiles.map_or_else(String::new, |p| duration(of(p)));
            [
                what.to_owned(),
                shown(|p| p.p50),
                shown(|p| p.p90),
                shown(|p| p.p99),
                shown(|p| p.p99_9),
                shown(|p| p.max),
            ]
        };
        table(
            ["LATENCY SINCE DUE", "P50", "P90", "P99", "P99.9", "MAX"],
            [
                row("all answers", self.latency_micros.answers),
                row("predictions", self.latency_micros.predictions),
                row("the sender's lateness", self.lateness_micros),
            ],
        )
    }
}

fn by_kind(tally: &Tally) -> BTreeMap<String, u64> {
    let kinds = tally.errors.iter();
    kinds.map(|(kind, &count)| (kind.to_string(), count)).collect()
}

/// The errors in words.
pub(crate) fn failures(tally: &Tally) -> String {
    let kinds = by_kind(tally);
    let kinds: Vec<_> = kinds
        .iter()
        .map(|(kind, count)| format!("{kind} {count}"))
        .collect();
    kinds.join(", ")
}

fn trusted_lateness(slo: Duration) -> Duration {
    (slo / TRUSTED_SHARE).clamp(TRUSTED_AT_LEAST, TRUSTED_AT_MOST)
}

/// A share for a person. What is not all is never shown as all, nor what is something as nothing.
fn percent(share: f64) -> String {
    let text = format!("{:.2} %", share * 100.0);
    match text.as_str() {
        "100.00 %" if share < 1.0 => "99.99 %".to_owned(),
        "0.00 %" if share > 0.0 => "0.01 %".to_owned(),
        _ => text,
    }
}

/// A time for a person, in three digits.
fn duration(micros: u64) -> String {
    let (value, unit) = match micros {
        ..1_000 => return format!("{micros}us"),
        1_000..1_000_000 => (micros as f64 / 1e3, "ms"),
        _ => (micros as f64 / 1e6, "s"),
    };
    let digits = match value {
        ..10.0 => 2,
        10.0..100.0 => 1,
        _ => 0,
    };
    format!("{value:.digits$}{unit}")
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::bench::tally::{Outcome, Sent};

    fn setup() -> Setup {
        Setup {
            application: "iris".parse().unwrap(),
            arrivals: "poisson".into(),
            rate: 2.0,
            seed: 1,
            inputs: "one input".into(),
            slo_micros: 100_000,
        }
    }

    fn tally_of(queries: impl IntoIterator<Item = (Option<u64>, u64, Outcome)>) -> Tally {
        let mut tally = Tally::new(Duration::from_millis(100), Duration::from_secs(2), 4.0);
        for (lateness, latency, outcome) in queries {
            tally.record(Sent {
                due: Duration::ZERO,
                lateness: lateness.map(Duration::from_micros),
                latency: Duration::from_micros(latency),
                outcome,
            });
        }
        tally
    }

    fn report(tally: &Tally, ended: Ending) -> Report {
        let course = Course {
            ended,
            lasted: Duration::from_secs(2),
            connections: 3,
        };
        Report::new(setup(), tally, course)
    }

    fn one_of_each() -> Tally {
        tally_of([
            (Some(100), 2_000, Outcome::Prediction),
            (Some(100), 200_000, Outcome::Prediction),
            (Some(100), 500, Outcome::Default("no_replica".into())),
            (None, 0, Outcome::Failed(Failure::NoConnection)),
        ])
    }

    #[test]
    fn the_json_has_this_shape() {
        let report = report(&one_of_each(), Ending::Complete);
        let json: Value = serde_json::from_str(&report.json()).unwrap();
        let expected = json!({
            "application": "iris", "arrivals": "poisson", "rate": 2.0, "seed": 1, "inputs": "one input",
            "slo_micros": 100_000, "ended": "complete", "duration_seconds": 2.0,
            "offered": 4, "sent": 3, "in_time": 1, "late": 1, "defaulted": 1, "failed": 1, "overdue": 1,
            "goodput": 0.25, "offered_per_second": 2.0, "sent_per_second": 1.5, "in_time_per_second": 0.5,
            "defaults": {"no_replica": 1}, "errors": {"no_connection": 1},
            "latency_micros": {
                "answers": {"p50": 2_000, "p90": 200_063, "p99": 200_063, "p99_9": 200_063, "max": 200_063},
                "predictions": {"p50": 2_000, "p90": 200_063, "p99": 200_063, "p99_9": 200_063, "max": 200_063},
            },
            "lateness_micros": {"p50": 100, "p90": 100, "p99": 100, "p99_9": 100, "max": 100},
            "trustworthy": true, "connections": 3,
        });
        assert_eq!(json, expected);
    }

    #[test]
    fn what_there_is_none_of_has_no_percentiles() {
        let tally = tally_of([(None, 0, Outcome::Failed(Failure::NoConnection))]);
        let report = report(&tally, Ending::Interrupted);
        let json: Value = serde_json::from_str(&report.json()).unwrap();
        assert_eq!(
            json["latency_micros"],
            json!({"answers": null, "predictions": null})
        );
        assert_eq!(json["lateness_micros"], Value::Null);
        assert_eq!(json["ended"], "interrupted");
        assert!(report.text().contains("interrupted"), "{}", report.text());
    }

    #[test]
    fn the_text_tells_goodput_counts_and_latencies() {
        let text = report(&one_of_each(), Ending::TraceEnded).text();
        for part in [
            "iris: poisson arrivals, 2 queries/s for 2s, SLO 100ms, one input",
            "Goodput: 25.00 % (0.5/s of 2.0/s offered)",
            "offered                4       2.0/s   100.00 %",
            "  no_replica           1",
            "  no_connection        1",
            "all answers             2.00ms   200ms",
            "the sender's lateness   100us",
            "The trace was shorter than the run",
        ] {
            assert!(text.contains(part), "`{part}` is not in:\n{text}");
        }
    }

    #[test]
    fn a_sender_that_was_late_says_that_it_is_not_to_be_trusted() {
        let punctual = tally_of([(Some(4_900), 6_000, Outcome::Prediction)]);
        assert_eq!(report(&punctual, Ending::Complete).warning(), None);
        let late = tally_of([(Some(5_010), 6_000, Outcome::Prediction)]);
        let warning = report(&late, Ending::Complete).warning().unwrap();
        assert!(warning.contains("p99 5.01ms, trusted up to 5.00ms"), "{warning}");
        let gave_up = tally_of([(None, 0, Outcome::Failed(Failure::NotSent))]);
        assert!(report(&gave_up, Ending::Complete).warning().is_some());
    }

    #[test]
    fn what_is_trusted_follows_the_objective_within_bounds() {
        for (slo_ms, micros) in [(1, 200), (20, 1_000), (50, 2_500), (10_000, 10_000)] {
            let trusted = trusted_lateness(Duration::from_millis(slo_ms));
            assert_eq!(trusted, Duration::from_micros(micros), "{slo_ms}");
        }
    }

    #[test]
    fn a_share_is_rounded_but_never_to_all_or_nothing() {
        for (share, text) in [
            (1.0, "100.00 %"),
            (0.999_999, "99.99 %"),
            (0.5, "50.00 %"),
            (1e-9, "0.01 %"),
            (0.0, "0.00 %"),
        ] {
            assert_eq!(percent(share), text);
        }
    }

    #[test]
    fn a_time_has_three_digits_and_its_unit() {
        for (micros, text) in [
            (0, "0us"),
            (999, "999us"),
            (1_234, "1.23ms"),
            (12_345, "12.3ms"),
            (123_456, "123ms"),
            (1_234_567, "1.23s"),
        ] {
            assert_eq!(duration(micros), text);
        }
    }
}

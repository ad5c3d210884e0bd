//! What was found out: a table for people, which is Markdown, and JSON for programs.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;

use anyhow::Context;
use serde::Serialize;
use serde_json::json;
use skysail_tests::journal::{LATE_SHARE, SLACK};

use crate::arguments::Arguments;
use crate::campaign::{Done, Outcome};
use crate::fault::{Harm, Part};
use crate::times::Recovery;

/// The findings shown of a run that did not hold.
const SHOWN: usize = 12;

/// What is written as JSON.
pub(crate) trait Figures {
    fn json(&self) -> serde_json::Value;
}

impl Figures for Outcome {
    fn json(&self) -> serde_json::Value {
        let mut json = json!(self);
        json["held"] = self.held(false).into();
        json["held_untimed"] = self.held(true).into();
        json
    }
}

impl<T: Serialize> Figures for Vec<T> {
    fn json(&self) -> serde_json::Value {
        json!(self)
    }
}

/// Writes the JSON.
pub(crate) fn write(arguments: &Arguments, figures: &impl Figures) -> anyhow::Result<()> {
    let path = &arguments.json;
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).with_context(|| format!("{} cannot be made", folder.display()))?;
    }
    let text = serde_json::to_string_pretty(&figures.json()).context("figures can be written as JSON")?;
    fs::write(path, text + "\n").with_context(|| format!("{} cannot be written", path.display()))?;
    eprintln!("the figures are in {}", path.display());
    Ok(())
}

/// A campaign, as it is printed.
pub(crate) fn campaign(outcome: &Outcome, untimed: bool) -> String {
    let mut text = String::new();
    let account = &outcome.account;
    let line = |text: &mut String, line: String| writeln!(text, "{line}").expect("text can be written to");
    line(
        &mut text,
        format!(
            "Seed {}: {} faults in {:.0} s.\n",
            outcome.seed,
            outcome.faults.len(),
            outcome.seconds
        ),
    );
    line(
        &mut text,
        "| fault | times | healed after, median | worst |".to_owned(),
    );
    line(&mut text, "|---|---|---|---|".to_owned());
    for ((part, harm), times) in by_kind(&outcome.faults) {
        let (median, worst) = (median(&times), times.iter().copied().fold(0.0, f64::max));
        let count = times.len();
        line(
            &mut text,
            format!("| {harm} {part} | {count} | {median:.1} s | {worst:.1} s |"),
        );
    }
    line(&mut text, String::new());
    let share = |count: u64| 100.0 * count as f64 / (account.asked.max(1)) as f64;
    let slack = SLACK.as_millis();
    for (what, count) in [
        ("queries", account.asked),
        ("predicted, the right answer", account.predicted),
        (
            "retried: they failed in a frontend that was made to fail",
            account.retried,
        ),
        ("late of such a frontend", account.late_of_disturbed),
    ] {
        line(&mut text, format!("- {what}: {count} ({:.3} %)", share(count)));
    }
    for (reason, count) in &account.defaults {
        line(
            &mut text,
            format!("- default, {reason}: {count} ({:.3} %)", share(*count)),
        );
    }
    line(
        &mut text,
        format!(
            "- more than {slack} ms after the deadline: {} ({:.3} %; {:.1} % may), the latest after {} ms",
            account.late,
            share(account.late),
            100.0 * LATE_SHARE,
            account.latest_millis
        ),
    );
    line(
        &mut text,
        format!(
            "- lost: {}, wrong: {}, answered twice: {}, failed: {}\n",
            account.lost, account.wrong, account.doubled, account.failed
        ),
    );
    if let Some(ailment) = &outcome.ailment {
        line(&mut text, format!("NOT HEALED: {ailment}\n"));
    }
    if outcome.held(untimed) {
        line(&mut text, "It held.".to_owned());
    } else {
        line(&mut text, format!("IT DID NOT HOLD (--seed {}):", outcome.seed));
        for finding in account.findings.iter().take(SHOWN) {
            line(&mut text, format!("- {finding}"));
        }
    }
    text
}

/// Recoveries, as they are printed.
pub(crate) fn times(times: &[Recovery]) -> String {
    let mut text = "| from | to | times | median | worst |\n|---|---|---|---|---|\n".to_owned();
    for Recovery { from, to, seconds } in times {
        let worst = seconds.iter().copied().fold(0.0, f64::max);
        writeln!(
            text,
            "| {from} | {to} | {} | {:.2} s | {worst:.2} s |",
            seconds.len(),
            median(seconds)
        )
        .expect("text can be written to");
    }
    text
}

fn by_kind(faults: &[Done]) -> BTreeMap<(Part, Harm), Vec<f64>> {
    let mut kinds: BTreeMap<_, Vec<f64>> = BTreeMap::new();
    for done in faults {
        kinds
            .entry((done.part, done.harm))
            .or_default()
            .push(done.healed_seconds);
    }
    kinds
}

fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use skysail_tests::journal::Account;

    use super::*;

    fn outcome() -> Outcome {
        let done = |healed_seconds| Done {
            what: "kill replica".into(),
            part: Part::Replica,
            harm: Harm::Kill,
            after_seconds: 1.0,
            lasted_seconds: 0.0,
            healed_seconds,
        };
        Outcome {
            seed: 7,
            seconds: 60.0,
            account: Account {
                asked: 1000,
                predicted: 990,
                defaults: BTreeMap::from([("late_reply".to_owned(), 10)]),
                ..Account::default()
            },
            faults: vec![done(1.0), done(3.0), done(2.0)],
            ailment: None,
        }
    }

    #[test]
    fn a_run_that_held_says_so_with_its_worst_recoveries() {
        let text = campaign(&outcome(), false);
        for part in [
            "Seed 7",
            "| kill replica | 3 | 2.0 s | 3.0 s |",
            "default, late_reply: 10 (1.000 %)",
            "It held.",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert_eq!(outcome().json()["held"], true);
    }

    #[test]
    fn a_run_did_not_hold_if_anything_was_not_as_it_should_be() {
        let held = |change: fn(&mut Outcome)| {
            let mut outcome = outcome();
            change(&mut outcome);
            (outcome.held(false), outcome.held(true))
        };
        assert_eq!(held(|_| ()), (true, true));
        for change in [
            (|outcome| outcome.account.lost = 1) as fn(&mut Outcome),
            |outcome| outcome.account.wrong = 1,
            |outcome| outcome.account.doubled = 1,
            |outcome| outcome.account.failed = 1,
            |outcome| outcome.account.predicted = 100,
            |outcome| outcome.ailment = Some("redis is away".into()),
        ] {
            assert_eq!(held(change), (false, false));
        }
        assert_eq!(held(|outcome| outcome.account.late = 3), (false, true));
        assert_eq!(held(|outcome| outcome.account.late = 2), (true, true));
    }
}

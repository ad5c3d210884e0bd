//! What long work is doing: a spinner on a terminal, a line per step otherwise. Always on stderr.

use std::io::{IsTerminal, stderr};
use std::time::Duration;

use indicatif::{BinaryBytes, ProgressBar, ProgressStyle};
use skysail_process::visible;
use tokio::time::Instant;

use crate::output::{Paint, Stream, tell};

/// What is shown of a step of unknown length.
const SPINNER: &str = "{spinner:.cyan} {wide_msg} {elapsed:.dim}";

/// What is shown of a step that goes through a known number of bytes.
const BAR: &str = "{spinner:.cyan} {msg} [{wide_bar:.cyan}] {binary_bytes}/{binary_total_bytes} {eta:.dim}";

/// How often the spinner turns.
const TURN: Duration = Duration::from_millis(100);

/// How often lines tell the same step's details, so that a log is not filled with percentages.
const LINE_PAUSE: Duration = Duration::from_secs(5);

/// Tells what is going on, until it is dropped.
pub(crate) enum Progress {
    Spinner(ProgressBar),
    Lines(Lines),
}

/// The last line told, and when.
#[derive(Default)]
pub(crate) struct Lines {
    step: String,
    detail: Option<String>,
    told: Option<Instant>,
}

impl Progress {
    /// Whatever fits stderr.
    pub(crate) fn start() -> Self {
        if !stderr().is_terminal() {
            return Self::Lines(Lines::default());
        }
        let spinner = ProgressBar::new_spinner().with_style(style(SPINNER));
        spinner.enable_steady_tick(TURN);
        Self::Spinner(spinner)
    }

    /// Tells the step that is being done, and a detail of it that may change often.
    pub(crate) fn say(&mut self, step: &str, detail: Option<&str>) {
        let text = match detail {
            Some(detail) => format!("{step} ({detail})"),
            None => step.to_owned(),
        };
        let text = visible::line(&text);
        match self {
            Self::Spinner(spinner) => {
                if spinner.length().is_some() {
                    spinner.unset_length();
                    spinner.set_style(style(SPINNER));
                }
                spinner.set_message(text.into_owned());
            }
            Self::Lines(lines) => {
                if lines.is_due(step, detail, Instant::now()) {
                    eprintln!("{text}");
                }
            }
        }
    }

    /// Tells how many bytes of a step are done.
    pub(crate) fn bytes(&mut self, step: &str, done: u64, all: u64) {
        match self {
            Self::Spinner(bar) => {
                if bar.length().is_none() {
                    bar.set_length(all);
                    bar.set_style(style(BAR));
                }
                bar.set_message(visible::line(step).into_owned());
                bar.set_position(done);
            }
            Self::Lines(_) => {
                let share = (done * 100).checked_div(all).unwrap_or(100);
                let detail = format!("{share} % of {}", BinaryBytes(all));
                self.say(step, Some(&detail));
            }
        }
    }
}

/// A template of ours.
fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("the template is valid; this is a bug")
}

impl Progress {
    /// Tells what should be known also after the work is done.
    pub(crate) fn warn(&self, text: &str) {
        let note = || tell(&Paint::on(Stream::Stderr).hint("note:"), text);
        match self {
            Self::Spinner(spinner) => spinner.suspend(note),
            Self::Lines(_) => note(),
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Self::Spinner(spinner) = self {
            spinner.finish_and_clear();
        }
    }
}

impl Lines {
    /// Whether a line is to be told now: a new step at once, a new detail after a pause.
    fn is_due(&mut self, step: &str, detail: Option<&str>, now: Instant) -> bool {
        let changed = self.step != step;
        let rested = self.told.is_none_or(|told| now >= told + LINE_PAUSE);
        let due = changed || (rested && self.detail.as_deref() != detail);
        if due {
            self.step = step.to_owned();
            self.detail = detail.map(str::to_owned);
            self.told = Some(now);
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_told_at_once_and_its_details_now_and_then() {
        let mut lines = Lines::default();
        let start = Instant::now();
        assert!(lines.is_due("pulling", Some("1 %"), start));
        assert!(!lines.is_due("pulling", Some("2 %"), start));
        assert!(!lines.is_due("pulling", Some("1 %"), start + LINE_PAUSE));
        assert!(lines.is_due("pulling", Some("9 %"), start + LINE_PAUSE));
        assert!(lines.is_due("starting", None, start + LINE_PAUSE));
        assert!(!lines.is_due("starting", None, start + 2 * LINE_PAUSE));
    }
}

//! `skysail model logs`: what a version's containers print, each line with the replica that printed it.

use std::borrow::Cow;
use std::io::IsTerminal;

use clap::Args;
use skysail_process::visible;
use skysail_proto::admin::LogLine;
use skysail_proto::ids::ModelId;

use super::{chosen, target_of};
use crate::advice::about_model;
use crate::arguments::ModelTarget;
use crate::commands::Session;
use crate::error::Error;
use crate::output::{Paint, Stream, tell};

const EXAMPLES: &str = "\
Examples:
  skysail model logs iris-model                    # the current version
  skysail model logs iris-model:1 --tail 20 --follow
  skysail model logs iris-model --output json      # one JSON object a line

Followed, a replica that comes is read as well, and of one that ends is said how; the log ends once \
the version is stopped.";

#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct LogsArguments {
    /// The version; without one, the current
    #[arg(value_name = "NAME[:VERSION]")]
    target: ModelTarget,
    /// Lines of the past, for each replica
    #[arg(long, short = 'n', value_name = "N", default_value_t = 100)]
    tail: u32,
    /// Go on with what comes
    #[arg(long, short)]
    follow: bool,
}

pub(super) async fn run(session: &Session, arguments: &LogsArguments) -> Result<(), Error> {
    let id = chosen(session, &arguments.target).await?;
    let result = session.admin.logs(&id, arguments.tail, arguments.follow).await;
    let mut log = about_model(&session.admin, &target_of(&id), result).await?;
    let mut lines = Lines::default();
    let mut silent = true;
    let view = View {
        paint: Paint::on(Stream::Stdout),
        terminal: std::io::stdout().is_terminal(),
    };
    while let Some(piece) = log.next().await? {
        silent = false;
        // A program gets it byte for byte; a terminal could be commanded by a byte that comes in two pieces.
        if session.output.is_json() && !view.terminal {
            session.output.bytes(&piece)?;
            continue;
        }
        for line in lines.take(&piece) {
            print(session, &line, view)?;
        }
    }
    if let Some(line) = lines.rest() {
        print(session, &line, view)?;
    }
    if silent {
        tell(&Paint::on(Stream::Stderr).hint("note:"), &silence(&id));
    }
    Ok(())
}

fn print(session: &Session, line: &str, view: View) -> Result<(), Error> {
    if session.output.is_json() {
        return session.output.body(format!("{line}\n").as_bytes());
    }
    session
        .output
        .bytes(format!("{}\n", shown(line, view)).as_bytes())
}

/// How lines are shown.
#[derive(Clone, Copy)]
struct View {
    paint: Paint,
    /// What containers print may command a terminal; elsewhere it is passed on as it is.
    terminal: bool,
}

impl View {
    fn part(self, text: &str) -> Cow<'_, str> {
        match self.terminal {
            true => visible::line(text),
            false => text.into(),
        }
    }
}

/// A log without a line looks like a mistake of this command.
fn silence(id: &ModelId) -> String {
    format!(
        "{id} has printed nothing, or has no container just now: `skysail model show {id}` tells which, with \
         the last lines of one that failed"
    )
}

/// One line for a person. What is no log line is shown as it came: nothing is lost.
fn shown(json: &str, view: View) -> String {
    match serde_json::from_str::<LogLine>(json) {
        Ok(LogLine { replica, line, ended }) => {
            let mark = if ended { "--" } else { "|" };
            let replica = view.paint.by_name(replica.as_str());
            format!("{replica} {mark} {}", view.part(&line))
        }
        Err(_) => view.part(json).into_owned(),
    }
}

/// Makes lines of pieces that end anywhere.
#[derive(Default)]
struct Lines {
    unfinished: Vec<u8>,
}

impl Lines {
    /// The lines that `piece` completes.
    fn take(&mut self, piece: &[u8]) -> Vec<String> {
        self.unfinished.extend_from_slice(piece);
        let Some(end) = self.unfinished.iter().rposition(|&byte| byte == b'\n') else {
            return Vec::new();
        };
        let rest = self.unfinished.split_off(end + 1);
        let complete = std::mem::replace(&mut self.unfinished, rest);
        let text = String::from_utf8_lossy(&complete);
        text.lines()
            .filter(|line| !line.is_empty())
            .map(str::to_owned)
            .collect()
    }

    /// What came after the last line end, if anything.
    fn rest(self) -> Option<String> {
        let text = String::from_utf8_lossy(&self.unfinished).into_owned();
        (!text.is_empty()).then_some(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_whole_wherever_the_pieces_end() {
        let text = "{\"a\": \"ü\"}\n\n{\"b\": 2}\nrest";
        for size in 1..text.len() {
            let mut lines = Lines::default();
            let taken: Vec<_> = text
                .as_bytes()
                .chunks(size)
                .flat_map(|piece| lines.take(piece))
                .collect();
            assert_eq!(taken, ["{\"a\": \"ü\"}", "{\"b\": 2}"], "pieces of {size}");
            assert_eq!(lines.rest().as_deref(), Some("rest"));
        }
    }

    #[test]
    fn a_line_is_shown_with_its_replica() {
        let plain = View {
            paint: Paint::plain(),
            terminal: false,
        };
        let json = r#"{"replica": "iris-model_1_0", "line": "ready"}"#;
        assert_eq!(shown(json, plain), "iris-model_1_0 | ready");
        assert_eq!(shown("oops", plain), "oops");
        let json = r#"{"replica": "iris-model_1_0", "line": "the container is gone", "ended": true}"#;
        assert_eq!(shown(json, plain), "iris-model_1_0 -- the container is gone");
    }

    #[test]
    fn what_a_container_prints_commands_no_terminal_and_is_passed_on_as_it_is_elsewhere() {
        let view = |terminal| View {
            paint: Paint::plain(),
            terminal,
        };
        let json = r#"{"replica": "m_1_0", "line": "\u001b[2J\u009b1mdone\tok\r"}"#;
        assert_eq!(shown(json, view(true)), "m_1_0 | \\x1b[2J\\u{9b}1mdone\tok\\r");
        assert_eq!(shown(json, view(false)), "m_1_0 | \x1b[2J\u{9b}1mdone\tok\r");
        assert_eq!(shown("\x1b[2J", view(true)), "\\x1b[2J");
    }
}

//! Results: tables for people, or the admin API's own JSON.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use comfy_table::{Cell, Table};
use jiff::{SignedDuration, Timestamp};
use serde::de::DeserializeOwned;
use skysail_process::visible;
use skysail_proto::admin::Failure;

use crate::arguments::Format;
use crate::client::Answer;
use crate::error::Error;

/// Prints results on stdout, in the format that was asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    format: Format,
}

impl Output {
    pub(crate) fn new(format: Format) -> Self {
        Self { format }
    }

    /// Whether JSON was asked for.
    pub(crate) fn is_json(self) -> bool {
        self.format == Format::Json
    }

    /// Prints an answer: its body as it is, or what `render` makes of it.
    pub(crate) fn answer<T: DeserializeOwned>(
        self,
        answer: &Answer<T>,
        render: impl FnOnce(&T) -> String,
    ) -> Result<(), Error> {
        match self.format {
            Format::Json => self.body(answer.body()),
            Format::Table => self.line(&render(&answer.read()?)),
        }
    }

    /// Prints what was done; nothing where JSON was asked for, because the endpoint had no body.
    pub(crate) fn done(self, text: &str) -> Result<(), Error> {
        match self.format {
            Format::Json => Ok(()),
            Format::Table => self.line(text),
        }
    }

    /// Prints text for people and ends its line. What would be a command to a terminal is shown, wherever the
    /// text goes: it may be on a terminal in the end.
    pub(crate) fn line(self, text: &str) -> Result<(), Error> {
        self.bytes(format!("{}\n", visible::lines(text)).as_bytes())
    }

    /// Prints text that programs read as well, and ends its line: as it is, except on a terminal.
    pub(crate) fn data(self, text: &str) -> Result<(), Error> {
        match io::stdout().is_terminal() {
            true => self.line(text),
            false => self.bytes(format!("{text}\n").as_bytes()),
        }
    }

    /// Prints a JSON body byte for byte. On a terminal it says the same without commands to it, and gets a line
    /// end, for the prompt's sake.
    pub(crate) fn body(self, body: &[u8]) -> Result<(), Error> {
        if !io::stdout().is_terminal() {
            return self.bytes(body);
        }
        self.bytes(&visible::json(body))?;
        match body.ends_with(b"\n") {
            true => Ok(()),
            false => self.bytes(b"\n"),
        }
    }

    /// Prints bytes, now: a log that is followed has no end to wait for.
    #[expect(
        clippy::unused_self,
        reason = "that results go through here and nowhere else is the point"
    )]
    pub(crate) fn bytes(self, bytes: &[u8]) -> Result<(), Error> {
        let mut stdout = io::stdout().lock();
        stdout
            .write_all(bytes)
            .and_then(|()| stdout.flush())
            .map_err(Error::Output)
    }
}

/// A table without lines, as `docker ps` prints it: easy on the eye and on `awk`.
pub(crate) fn table<const N: usize>(
    header: [&str; N],
    rows: impl IntoIterator<Item = [String; N]>,
) -> String {
    let mut table = Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    table.set_header(header.map(Cell::new));
    for row in rows {
        table.add_row(row.map(|text| {
            Cell::new(if text.is_empty() {
                "-".into()
            } else {
                visible::line(&text)
            })
        }));
    }
    trimmed(table)
}

/// Labels and values, one pair a line. A value without a label goes on with the one above it.
pub(crate) fn fields<'a>(pairs: impl IntoIterator<Item = (&'a str, String)>) -> String {
    let mut table = Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    for (label, value) in pairs {
        let label = match label {
            "" => String::new(),
            label => format!("{label}:"),
        };
        table.add_row([label, visible::line(&value).into_owned()]);
    }
    trimmed(table)
}

fn trimmed(mut table: Table) -> String {
    for column in table.column_iter_mut() {
        column.set_padding((0, 3));
    }
    table.trim_fmt()
}

/// Time since `at`, in its largest unit.
pub(crate) fn age(at: Timestamp, now: Timestamp) -> String {
    // Clocks of two machines differ a little; nothing is younger than now.
    let seconds = now.duration_since(at).max(SignedDuration::ZERO).as_secs();
    match seconds {
        ..120 => format!("{seconds}s"),
        120..7200 => format!("{}m", seconds / 60),
        7200..172_800 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// A latency objective.
pub(crate) fn micros(micros: u64) -> String {
    humantime::format_duration(Duration::from_micros(micros)).to_string()
}

/// A number of things.
pub(crate) fn counted(count: u64, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// A measured time, with two or three digits: nobody reads more.
pub(crate) fn span(micros: u64) -> String {
    let (value, unit) = match micros {
        ..1000 => return format!("{micros}us"),
        1000..1_000_000 => (micros / 10, "ms"),
        _ => (micros / 10_000, "s"),
    };
    match value {
        ..1000 => format!("{}.{}{unit}", value / 100, value / 10 % 10),
        _ => format!("{}{unit}", value / 100),
    }
}

/// How often something happens.
pub(crate) fn per_second(rate: f64) -> String {
    match rate {
        _ if rate < 0.05 => "0/s".to_owned(),
        _ if rate < 10.0 => format!("{rate:.1}/s"),
        _ => format!("{rate:.0}/s"),
    }
}

/// A text that may be long or hold line ends, on one short line.
pub(crate) fn shortened(text: &str) -> String {
    const MOST: usize = 40;
    let line: String = text
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    if line.chars().count() <= MOST {
        return line;
    }
    let head: String = line.chars().take(MOST - 1).collect();
    format!("{head}…")
}

/// Why a container failed, on one line.
pub(crate) fn failure_words(failure: &Failure) -> String {
    match failure.exit_code {
        // The reason often says it already.
        Some(code) if !failure.reason.contains(&format!("code {code}")) => {
            format!("{} (exit code {code})", failure.reason)
        }
        _ => failure.reason.clone(),
    }
}

/// Says something on stderr that is no result, behind a painted word.
pub(crate) fn tell(word: &str, text: &str) {
    eprintln!("{word} {}", visible::lines(text));
}

/// Where text goes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Stream {
    Stdout,
    Stderr,
}

/// Colours, where a terminal shows them and nobody asked for none (<https://no-color.org>).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Paint {
    enabled: bool,
}

impl Paint {
    pub(crate) fn on(stream: Stream) -> Self {
        let terminal = match stream {
            Stream::Stdout => io::stdout().is_terminal(),
            Stream::Stderr => io::stderr().is_terminal(),
        };
        let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self {
            enabled: terminal && !refused,
        }
    }

    /// No colours, whatever stdout is.
    #[cfg(test)]
    pub(crate) fn plain() -> Self {
        Self { enabled: false }
    }

    pub(crate) fn error(self, text: &str) -> String {
        self.paint(text, "1;31")
    }

    pub(crate) fn hint(self, text: &str) -> String {
        self.paint(text, "1;36")
    }

    /// One of six colours, the same for the same text.
    pub(crate) fn by_name(self, name: &str) -> String {
        let sum: u32 = name
            .bytes()
            .fold(0, |sum, byte| sum.wrapping_mul(31).wrapping_add(u32::from(byte)));
        self.paint(name, &(31 + sum % 6).to_string())
    }

    fn paint(self, text: &str, code: &str) -> String {
        if self.enabled {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_has_aligned_columns_and_no_trailing_blanks() {
        let rows = [["iris".into(), "100ms".into()], ["a".into(), String::new()]];
        assert_eq!(table(["NAME", "SLO"], rows), "NAME   SLO\niris   100ms\na      -");
    }

    #[test]
    fn no_value_makes_a_row_of_its_own_or_commands_a_terminal() {
        let rows = [["a\nb   forged".into(), "\x1b[2J".into()]];
        assert_eq!(
            table(["NAME", "SLO"], rows),
            "NAME            SLO\na\\nb   forged   \\x1b[2J"
        );
        assert_eq!(
            fields([("Image", "x\r\u{202e}".into())]),
            "Image:   x\\r\\u{202e}"
        );
    }

    #[test]
    fn fields_are_aligned() {
        assert_eq!(
            fields([("Name", "iris".into()), ("Input type", "doubles".into())]),
            "Name:         iris\nInput type:   doubles"
        );
    }

    #[test]
    fn an_age_is_told_in_its_largest_unit() {
        let now = Timestamp::from_second(10_000_000).unwrap();
        for (seconds, expected) in [
            (-5, "0s"),
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (7_199, "119m"),
            (7_200, "2h"),
            (172_800, "2d"),
        ] {
            let at = Timestamp::from_second(10_000_000 - seconds).unwrap();
            assert_eq!(age(at, now), expected);
        }
    }

    #[test]
    fn measured_times_and_rates_have_a_few_digits() {
        for (micros, expected) in [
            (0, "0us"),
            (999, "999us"),
            (5_240, "5.2ms"),
            (9_999, "9.9ms"),
            (12_000, "12ms"),
            (999_999, "999ms"),
            (2_500_000, "2.5s"),
            (61_000_000, "61s"),
        ] {
            assert_eq!(span(micros), expected);
        }
        for (rate, expected) in [(0.0, "0/s"), (0.34, "0.3/s"), (12.6, "13/s"), (1999.5, "2000/s")] {
            assert_eq!(per_second(rate), expected);
        }
    }

    #[test]
    fn long_text_is_cut_and_kept_on_one_line() {
        assert_eq!(shortened("a\nb"), "a b");
        let cut = shortened(&"ü".repeat(60));
        assert_eq!(cut.chars().count(), 40);
        assert!(cut.ends_with('…'));
    }

    #[test]
    fn colours_are_left_out_where_nobody_sees_them() {
        let plain = Paint { enabled: false };
        assert_eq!(plain.error("x"), "x");
        let painted = Paint { enabled: true };
        assert_eq!(painted.by_name("m_1_0"), painted.by_name("m_1_0"));
        assert_ne!(painted.by_name("m_1_0"), painted.by_name("m_1_1"));
    }
}

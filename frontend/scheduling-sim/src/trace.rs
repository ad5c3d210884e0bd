//! Arrivals that were recorded: a CSV file with a column `TIMESTAMP`, or a number of seconds a line.

use std::path::{Path, PathBuf};
use std::{fs, io};

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

/// The column that holds the times.
const COLUMN: &str = "TIMESTAMP";

/// Times of arrivals, in order, in seconds since the first.
#[derive(Debug)]
pub struct Trace {
    file: PathBuf,
    times: Vec<f64>,
}

/// Why a file is no trace.
#[derive(Debug, thiserror::Error)]
pub enum InvalidTrace {
    /// It is not there, is no text, or must not be read.
    #[error("cannot be read: {0}")]
    Unreadable(#[source] io::Error),
    /// Nothing says where the times are.
    #[error(
        "the first line neither names a column {COLUMN} nor is a number of seconds; a trace is a CSV file \
         with such a column, or one number a line"
    )]
    NoColumn,
    #[expect(missing_docs, reason = "the message says what they are")]
    #[error("line {line}: there is no column {COLUMN}, the file's number {}", column + 1)]
    ShortLine { line: usize, column: usize },
    #[expect(missing_docs, reason = "the message says what they are")]
    #[error("line {line}: `{text}` is no time; write `2023-11-16 18:17:03.97` or a number of seconds")]
    NoTime { line: usize, text: String },
    /// Fewer than two, or all the same.
    #[error("a trace has two different times at least")]
    NoSpan,
}

impl Trace {
    /// Reads a file.
    pub fn read(file: &Path) -> Result<Self, InvalidTrace> {
        let text = fs::read_to_string(file).map_err(InvalidTrace::Unreadable)?;
        Self::parse(file, &text)
    }

    /// Takes the text of a file for its times.
    pub fn parse(file: &Path, text: &str) -> Result<Self, InvalidTrace> {
        let first = text.lines().next().unwrap_or_default();
        let column = column_of_times(first)?;
        let lines = text.lines().enumerate().skip(usize::from(column.is_header()));
        let mut times = lines
            .filter(|(_, line)| !line.trim().is_empty())
            .map(|(index, line)| column.read(index + 1, line))
            .collect::<Result<Vec<_>, _>>()?;
        times.sort_by(f64::total_cmp);
        let start = times.first().copied().unwrap_or_default();
        if times.last().is_none_or(|&end| end <= start) {
            return Err(InvalidTrace::NoSpan);
        }
        Ok(Self {
            file: file.to_owned(),
            times: times.into_iter().map(|time| time - start).collect(),
        })
    }

    /// As played by so many clients at once, each from another place on and round to it again, so many times
    /// over. Between its end and its beginning lies the mean pause between two arrivals.
    pub fn played(&self, clients: usize, passes: usize) -> Self {
        let span = self.times.last().copied().unwrap_or_default();
        let period = span + span / self.times.len().max(1) as f64;
        let clients = (0..clients).map(|client| period * client as f64 / clients as f64);
        let mut round: Vec<_> = clients
            .flat_map(|ahead| self.times.iter().map(move |time| (time + ahead) % period))
            .collect();
        round.sort_by(f64::total_cmp);
        let pass = |nth: usize| round.iter().map(move |time| time + nth as f64 * period);
        Self {
            file: self.file.clone(),
            times: (0..passes).flat_map(pass).collect(),
        }
    }

    /// How many arrivals it has.
    pub fn len(&self) -> usize {
        self.times.len()
    }

    /// Whether it has none; there is no such trace.
    pub fn is_empty(&self) -> bool {
        self.times.is_empty()
    }

    /// Where it was read from.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// The first times, or all if there are fewer.
    pub fn first(&self, count: usize) -> &[f64] {
        &self.times[..count.min(self.times.len())]
    }
}

/// Where a line has its time.
#[derive(Clone, Copy)]
enum Column {
    /// In this column of a file with a header.
    Named(usize),
    /// It is one.
    Line,
}

fn column_of_times(first: &str) -> Result<Column, InvalidTrace> {
    // Some programs begin a text file with a byte order mark.
    let first = first.trim_start_matches('\u{feff}');
    if let Some(column) = cells(first).position(|cell| cell == COLUMN) {
        return Ok(Column::Named(column));
    }
    match time(first.trim()) {
        Some(_) => Ok(Column::Line),
        None => Err(InvalidTrace::NoColumn),
    }
}

impl Column {
    fn is_header(self) -> bool {
        matches!(self, Self::Named(_))
    }

    fn read(self, line: usize, text: &str) -> Result<f64, InvalidTrace> {
        let cell = match self {
            Self::Line => text.trim(),
            Self::Named(column) => cells(text)
                .nth(column)
                .ok_or(InvalidTrace::ShortLine { line, column })?,
        };
        time(cell).ok_or_else(|| InvalidTrace::NoTime {
            line,
            text: cell.chars().take(40).collect(),
        })
    }
}

/// A line's cells. No time holds a comma, so quotes are nothing but quotes.
fn cells(line: &str) -> impl Iterator<Item = &str> {
    line.split(',').map(|cell| cell.trim().trim_matches('"'))
}

/// A time in seconds since whatever it counts from: a number, or a date with or without its offset.
fn time(text: &str) -> Option<f64> {
    if let Ok(seconds) = text.parse::<f64>() {
        return seconds.is_finite().then_some(seconds);
    }
    let timestamp = match text.parse::<Timestamp>() {
        Ok(timestamp) => timestamp,
        Err(_) => {
            let local: DateTime = text.parse().ok()?;
            TimeZone::UTC.to_timestamp(local).ok()?
        }
    };
    // A double has 52 bits: a date's fraction of a second is kept to less than a microsecond.
    Some(timestamp.as_duration().as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trace(text: &str) -> Vec<f64> {
        Trace::parse(Path::new("file"), text).unwrap().times
    }

    fn refusal(text: &str) -> String {
        Trace::parse(Path::new("file"), text).unwrap_err().to_string()
    }

    #[track_caller]
    fn assert_close(times: &[f64], expected: &[f64]) {
        assert_eq!(times.len(), expected.len());
        for (time, expected) in times.iter().zip(expected) {
            assert!((time - expected).abs() < 1e-5, "{times:?}");
        }
    }

    #[test]
    fn the_times_are_those_of_the_column_named_so() {
        let text = "Tokens,TIMESTAMP,More\n4808,2023-11-16 18:17:03.9799600,10\n\
                    3180,2023-11-16 18:17:04.0319600,8\n";
        assert_close(&trace(text), &[0.0, 0.052]);
        let windows = "\u{feff}\"TIMESTAMP\"\r\n\"2023-12-31 23:59:59\"\r\n\"2024-01-01 00:00:01.5\"\r\n\r\n";
        assert_close(&trace(windows), &[0.0, 2.5]);
        let zones = "TIMESTAMP\n2024-01-01T00:00:00Z\n2024-01-01T02:00:01+02:00\n";
        assert_close(&trace(zones), &[0.0, 1.0]);
    }

    #[test]
    fn a_number_a_line_is_a_trace_too() {
        assert_close(&trace("10\n12.5\n\n11\n"), &[0.0, 1.0, 2.5]);
        assert_close(&trace("TIMESTAMP\n10\n12.5\n"), &[0.0, 2.5]);
    }

    #[test]
    fn a_bad_line_is_named_by_its_number() {
        let text = "TIMESTAMP,x\n2023-11-16 18:17:03,1\n\nsoon,1\n";
        assert!(
            refusal(text).starts_with("line 4: `soon` is no time"),
            "{}",
            refusal(text)
        );
        let text = "x,TIMESTAMP\n1\n";
        assert_eq!(
            refusal(text),
            "line 2: there is no column TIMESTAMP, the file's number 2"
        );
        assert!(refusal("1\n2\nnan\n").starts_with("line 3: `nan`"));
        assert!(refusal("1\n2023-11-16 18:17:03.97,5\n").starts_with("line 2"));
    }

    #[test]
    fn a_file_without_times_is_told_what_a_trace_is() {
        for text in ["a,b\n1,2\n", "", "\n1\n"] {
            assert!(refusal(text).contains("one number a line"), "{text}");
        }
        for text in ["TIMESTAMP\n", "1\n", "1\n1\n"] {
            assert!(refusal(text).contains("two different times"), "{text}");
        }
    }

    #[test]
    fn a_file_that_is_not_there_is_told_so() {
        let error = Trace::read(Path::new("/nowhere/trace.csv")).unwrap_err();
        assert!(error.to_string().starts_with("cannot be read: "), "{error}");
    }
}

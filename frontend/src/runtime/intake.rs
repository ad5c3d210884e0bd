//! How much of what a container prints is taken in: all of it, unless it prints without end.
//!
//! An output that prints more than [`RATE`] for long is a flood. Of a flood the last lines of each
//! [`TICK`] are kept, behind a line that says how much was left out; so the last lines before an exit are
//! kept in any case, and whatever a container prints costs the frontend about the same. Pure: it is given
//! the time.

use std::time::Duration;

use tokio::time::Instant;

use super::lines::Lines;

/// What an output may print for ever, in bytes a second; each line counts [`LINE_COST`] more.
const RATE: usize = 1 << 20;

/// What it costs to keep a line, however short it is, in bytes.
const LINE_COST: usize = 64;

/// How often the last lines of a flood are kept.
const TICK: Duration = Duration::from_millis(250);

/// What [`RATE`] makes of a tick: a flood that prints no more has ended.
const RATE_OF_A_TICK: usize = RATE / 4;

/// The last lines of each tick that are kept: fewer than a person asks for who looks at a log, so that the
/// line which says what was left out is among them.
const LAST_LINES: usize = 50;

/// The same in bytes, whichever is less.
const LAST_BYTES: usize = 16 * 1024;

/// Of a flood this much is read at once, and then paused for [`PAUSE`]: some 8 MiB a second, more than any
/// program prints that means to be read. One that prints more waits until there is room in its pipe.
const PAUSE_AFTER: usize = 16 * 1024;

/// How long it is paused.
pub(super) const PAUSE: Duration = Duration::from_millis(2);

/// Makes lines of what one output prints, and leaves out what is too much.
#[derive(Debug)]
pub(super) struct Intake {
    lines: Lines,
    /// The most that may be printed at once.
    burst: usize,
    /// What may be printed just now.
    room: usize,
    /// When `room` was last added to.
    refilled: Instant,
    flood: Option<Flood>,
}

/// An output that prints too much, since the last tick.
#[derive(Debug)]
struct Flood {
    /// When the next tick is.
    ends: Instant,
    /// What was printed in this tick, at its cost.
    volume: usize,
    /// What was read since the last pause.
    unpaused: usize,
    /// Bytes and line ends of this tick.
    bytes: usize,
    line_ends: usize,
    /// The last bytes of this tick.
    last: Vec<u8>,
    /// Whether `last` begins within a line.
    cut: bool,
}

impl Intake {
    /// Takes in what comes from now on: `burst` bytes at once, and [`RATE`] for ever.
    pub(super) fn new(burst: usize, now: Instant) -> Self {
        Self {
            lines: Lines::default(),
            burst,
            room: burst,
            refilled: now,
            flood: None,
        }
    }

    /// Takes what came, and adds the lines that are complete now.
    pub(super) fn push(&mut self, piece: &[u8], now: Instant, complete: &mut Vec<String>) {
        self.look(now, complete);
        let line_ends = piece.iter().filter(|byte| **byte == b'\n').count();
        let cost = piece.len().saturating_add(line_ends * LINE_COST);
        if self.flood.is_none() && self.affords(cost, now) {
            self.lines.push(piece, |line| complete.push(line));
            return;
        }
        if self.flood.is_none() {
            let begun = self.lines.cut_off();
            let cut = begun.is_some();
            complete.extend(begun);
            self.flood = Some(Flood::new(now, Vec::new(), cut));
        }
        let flood = self.flood.as_mut().expect("it was made above; this is a bug");
        flood.add(piece, line_ends, cost);
    }

    /// When [`Self::look`] is to be called although nothing came.
    pub(super) fn due(&self) -> Option<Instant> {
        self.flood.as_ref().map(|flood| flood.ends)
    }

    /// Looks whether a tick is over, and adds what is kept of it.
    pub(super) fn look(&mut self, now: Instant, complete: &mut Vec<String>) {
        let Some(flood) = self.flood.take_if(|flood| now >= flood.ends) else {
            return;
        };
        let goes_on = flood.volume > RATE_OF_A_TICK && now < flood.ends + TICK;
        let (rest, cut) = flood.keep(complete);
        if goes_on {
            self.flood = Some(Flood::new(now, rest, cut));
            return;
        }
        (self.room, self.refilled) = (self.burst.min(RATE_OF_A_TICK), now);
        self.lines.go_on(&rest, cut);
    }

    /// Whether reading pauses now, for [`PAUSE`].
    pub(super) fn pauses(&mut self) -> bool {
        let Some(flood) = &mut self.flood else {
            return false;
        };
        let pauses = flood.unpaused >= PAUSE_AFTER;
        if pauses {
            flood.unpaused = 0;
        }
        pauses
    }

    /// Adds what is left once the output has ended.
    pub(super) fn finish(&mut self, complete: &mut Vec<String>) {
        if let Some(flood) = self.flood.take() {
            let (rest, cut) = flood.keep(complete);
            self.lines.go_on(&rest, cut);
        }
        complete.extend(self.lines.finish());
    }

    fn affords(&mut self, cost: usize, now: Instant) -> bool {
        let micros = now.duration_since(self.refilled).as_micros();
        let earned = usize::try_from(micros.saturating_mul(RATE as u128) / 1_000_000).unwrap_or(usize::MAX);
        // What a moment earns may be less than a byte.
        if earned > 0 {
            self.room = self.room.saturating_add(earned).min(self.burst);
            self.refilled = now;
        }
        let affords = cost <= self.room;
        if affords {
            self.room -= cost;
        }
        affords
    }
}

impl Flood {
    /// A tick that begins with the unfinished line `last`, of which the beginning may be lost.
    fn new(now: Instant, last: Vec<u8>, cut: bool) -> Self {
        Self {
            ends: now + TICK,
            volume: 0,
            unpaused: 0,
            bytes: last.len(),
            line_ends: 0,
            last,
            cut,
        }
    }

    fn add(&mut self, piece: &[u8], line_ends: usize, cost: usize) {
        self.volume = self.volume.saturating_add(cost);
        self.unpaused = self.unpaused.saturating_add(cost);
        self.bytes += piece.len();
        self.line_ends += line_ends;
        self.last
            .extend_from_slice(&piece[piece.len().saturating_sub(LAST_BYTES)..]);
        let excess = self.last.len().saturating_sub(LAST_BYTES);
        self.cut |= excess > 0 || piece.len() > LAST_BYTES;
        self.last.drain(..excess);
    }

    /// Adds the last lines, behind one that says what was left out. Returns the line that has not ended, and
    /// whether its beginning is lost.
    fn keep(mut self, complete: &mut Vec<String>) -> (Vec<u8>, bool) {
        let whole = self.last.iter().rposition(|byte| *byte == b'\n');
        let rest = self.last.split_off(whole.map_or(0, |end| end + 1));
        let ends = |bytes: &[u8]| bytes.iter().filter(|byte| **byte == b'\n').count();
        let excess = ends(&self.last).saturating_sub(LAST_LINES);
        let mut from = 0;
        for _ in 0..excess {
            let line = self.last[from..].iter().position(|byte| *byte == b'\n');
            from += line.map_or(0, |end| end + 1);
        }
        let shown = &self.last[from..];
        let left_out = self.bytes - shown.len() - rest.len();
        if left_out > 0 {
            complete.push(left_out_words(left_out, self.line_ends - ends(shown)));
        }
        let first = shown.iter().position(|byte| *byte == b'\n').unwrap_or(0);
        let mut lines = Lines::default();
        lines.go_on(&shown[..first], self.cut && from == 0);
        lines.push(&shown[first..], |line| complete.push(line));
        (rest, self.cut && whole.is_none())
    }
}

#[expect(clippy::cast_precision_loss, reason = "nobody reads more than two digits")]
fn left_out_words(bytes: usize, lines: usize) -> String {
    let mebibytes = bytes as f64 / f64::from(1 << 20);
    format!("… {mebibytes:.2} MiB ({lines} lines) left out here: more than 1 MiB a second was printed")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BURST: usize = 64 * 1024;

    struct Printed {
        intake: Intake,
        now: Instant,
        lines: Vec<String>,
    }

    impl Printed {
        fn new() -> Self {
            let now = Instant::now();
            Self {
                intake: Intake::new(BURST, now),
                now,
                lines: Vec::new(),
            }
        }

        fn push(&mut self, piece: &[u8]) {
            self.intake.push(piece, self.now, &mut self.lines);
        }

        fn pass(&mut self, time: Duration) {
            self.now += time;
            self.intake.look(self.now, &mut self.lines);
        }

        fn finish(mut self) -> Vec<String> {
            self.intake.finish(&mut self.lines);
            self.lines
        }
    }

    fn is_note(line: &str) -> bool {
        line.contains("left out here")
    }

    #[test]
    fn what_keeps_to_the_rate_is_kept_whole() {
        let mut printed = Printed::new();
        for number in 0..2000 {
            printed.push(format!("line {number}\n").as_bytes());
            printed.pass(Duration::from_millis(1));
        }
        let lines = printed.finish();
        assert_eq!(lines.len(), 2000);
        assert_eq!(lines[1999], "line 1999");
    }

    #[test]
    fn of_a_flood_the_last_lines_are_kept_and_said_is_how_much_was_left_out() {
        let mut printed = Printed::new();
        printed.push(b"before\n");
        for number in 0..200_000 {
            printed.push(format!("{number}\n").as_bytes());
        }
        printed.push(b"last words");
        let lines = printed.finish();
        assert_eq!(lines[0], "before");
        assert_eq!(&lines[lines.len() - 2..], ["199999", "last words"]);
        let note = lines.iter().position(|line| is_note(line)).unwrap();
        let numbers: Vec<u64> = lines[1..note].iter().map(|line| line.parse().unwrap()).collect();
        let left_out = 200_000 - numbers.len() - LAST_LINES;
        assert!(
            lines[note].contains(&format!("({left_out} lines)")),
            "{}",
            lines[note]
        );
        assert_eq!(lines.len() - note, 1 + LAST_LINES + 1);
    }

    #[test]
    fn a_flood_that_goes_on_keeps_little_of_each_tick_and_one_that_ends_is_kept_whole_again() {
        let mut printed = Printed::new();
        let piece = b"y\n".repeat(8 * 1024);
        for _ in 0..100 {
            // Five ticks.
            for _ in 0..10 {
                printed.push(&piece);
            }
            printed.pass(TICK / 20);
        }
        let flood = printed.lines.len();
        assert!(flood <= BURST / LINE_COST + 6 * (LAST_LINES + 1), "{flood} lines");
        printed.push(&piece);
        assert!(printed.intake.pauses());
        printed.pass(TICK);
        printed.pass(TICK);
        assert_eq!(printed.intake.due(), None);
        assert!(!printed.intake.pauses());
        let before = printed.lines.len();
        printed.push(b"one\ntwo\n");
        assert_eq!(&printed.lines[before..], ["one", "two"]);
    }

    #[test]
    fn what_comes_last_is_shown_at_the_next_tick_though_nothing_follows() {
        let mut printed = Printed::new();
        printed.push(&b"y\n".repeat(BURST));
        printed.push(b"ready\n");
        assert!(!printed.lines.iter().any(|line| line == "ready"));
        let due = printed.intake.due().unwrap();
        printed.pass(due - printed.now);
        assert_eq!(printed.lines.last().unwrap(), "ready");
    }

    #[test]
    fn a_line_without_end_shows_its_end() {
        let mut printed = Printed::new();
        for _ in 0..100 {
            printed.push("ü".repeat(16 * 1024).as_bytes());
        }
        printed.push(b"fatal: no such file");
        let lines = printed.finish();
        let [begin, note, end] = &lines[..] else {
            panic!("{} lines", lines.len())
        };
        assert!(begin.starts_with("üü") && begin.ends_with("ü…"));
        assert!(is_note(note) && note.contains("(0 lines)"), "{note}");
        assert!(end.starts_with("…ü") && end.ends_with("üfatal: no such file"));
    }

    proptest! {
        /// Nothing is lost without a word: what is shown and what is said to be left out is all there was.
        #[test]
        fn every_byte_is_shown_or_counted(
            pieces in proptest::collection::vec((0usize..40_000, 20usize..200, 0u64..300), 1..30),
        ) {
            let mut printed = Printed::new();
            let mut line_ends = 0;
            for (bytes, width, millis) in pieces {
                let line = [b"x".repeat(width), b"\n".to_vec()].concat();
                let piece = line.repeat(bytes / line.len());
                line_ends += bytes / line.len();
                printed.push(&piece);
                printed.pass(Duration::from_millis(millis));
            }
            let lines = printed.finish();
            let said = |line: &String| {
                let (_, rest) = line.split_once('(')?;
                rest.split_once(" lines)")?.0.parse::<usize>().ok()
            };
            let left_out: usize = lines.iter().filter_map(said).sum();
            let shown = lines.iter().filter(|line| !is_note(line)).count();
            prop_assert_eq!(shown + left_out, line_ends);
        }
    }
}

//! Makes lines of what a container printed, however it was cut on its way here.

/// A longer line is cut: one that never ends must not fill the memory.
const MAX_LINE_BYTES: usize = 8 * 1024;

/// Joins pieces of one output into lines. Each output needs its own, or halves of lines would mix.
#[derive(Debug, Default)]
pub(super) struct Lines {
    /// The beginning of the line that has not ended yet.
    begun: Vec<u8>,
    /// Whether that line is longer than what was kept of it.
    cut: bool,
    /// Whether anything came since the last line's end.
    open: bool,
}

impl Lines {
    /// Takes what came, and hands over each line that is complete now, without its end.
    pub(super) fn push(&mut self, bytes: &[u8], mut complete: impl FnMut(String)) {
        let mut rest = bytes;
        while let Some(end) = rest.iter().position(|&byte| byte == b'\n') {
            self.append(&rest[..end]);
            complete(self.take());
            rest = &rest[end + 1..];
        }
        self.append(rest);
        self.open |= !rest.is_empty();
    }

    /// The last line, if the output ended without ending it.
    pub(super) fn finish(&mut self) -> Option<String> {
        self.open.then(|| self.take())
    }

    /// The beginning of the line that has not ended, if there is one: the rest of it is lost.
    pub(super) fn cut_off(&mut self) -> Option<String> {
        self.cut = true;
        let begun = self.open.then(|| self.take());
        self.cut = false;
        begun
    }

    /// Goes on with a line that has begun, of which the beginning may be lost. Of a long one the end is kept.
    pub(super) fn go_on(&mut self, begun: &[u8], cut: bool) {
        const MARK: &str = "…";
        let excess = (begun.len() + MARK.len()).saturating_sub(MAX_LINE_BYTES);
        let kept = &begun[excess..];
        if (!cut && excess == 0) || kept.is_empty() {
            return self.push(kept, |_| {});
        }
        // What is left of a character whose beginning is lost.
        let broken = kept.iter().take_while(|byte| **byte & 0b1100_0000 == 0b1000_0000);
        let whole = &kept[broken.count()..];
        self.push(MARK.as_bytes(), |_| {});
        self.push(whole, |_| {});
    }

    fn append(&mut self, bytes: &[u8]) {
        let room = MAX_LINE_BYTES - self.begun.len();
        self.cut |= bytes.len() > room;
        self.begun.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    fn take(&mut self) -> String {
        if self.cut {
            let whole = whole_characters(&self.begun);
            self.begun.truncate(whole);
        }
        let bytes = self.begun.strip_suffix(b"\r").unwrap_or(&self.begun);
        let mut line = String::from_utf8_lossy(bytes).into_owned();
        if self.cut {
            line.push('…');
        }
        self.begun.clear();
        (self.cut, self.open) = (false, false);
        line
    }
}

/// How many bytes there are without a last character that is not whole.
fn whole_characters(bytes: &[u8]) -> usize {
    let from = bytes.len().saturating_sub(3);
    // A character is four bytes at most, so its first is among the last three if it is not whole.
    let first = (from..bytes.len())
        .rev()
        .find(|index| bytes[*index] & 0b1100_0000 == 0b1100_0000);
    let Some(first) = first else { return bytes.len() };
    match std::str::from_utf8(&bytes[first..]) {
        Err(error) if error.error_len().is_none() => first,
        _ => bytes.len(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn lines_of(pieces: &[&[u8]]) -> Vec<String> {
        let mut lines = Lines::default();
        let mut all = Vec::new();
        for piece in pieces {
            lines.push(piece, |line| all.push(line));
        }
        all.extend(lines.finish());
        all
    }

    #[test]
    fn an_output_that_ends_within_a_line_gives_that_line_too() {
        assert_eq!(lines_of(&[b"a\nb"]), ["a", "b"]);
        assert_eq!(lines_of(&[b"a\n"]), ["a"]);
        assert_eq!(lines_of(&[b"\n\n"]), ["", ""]);
        assert!(lines_of(&[b""]).is_empty());
    }

    #[test]
    fn a_carriage_return_before_the_end_is_part_of_the_end() {
        assert_eq!(lines_of(&[b"a\r\nb\r", b"\n"]), ["a", "b"]);
    }

    #[test]
    fn a_line_too_long_is_cut_and_says_so_and_the_next_is_whole() {
        let long = vec![b'x'; MAX_LINE_BYTES + 1];
        let lines = lines_of(&[&long, b"y", b"\nnext\n"]);
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[0].len(), MAX_LINE_BYTES + '…'.len_utf8());
        assert!(lines[0].ends_with("x…"));
        assert_eq!(lines[1], "next");
    }

    #[test]
    fn a_line_is_cut_between_characters() {
        for character in ["ü", "€", "😀"] {
            for shift in 0..4 {
                let line = format!("{}{}", "x".repeat(shift), character.repeat(MAX_LINE_BYTES));
                let lines = lines_of(&[line.as_bytes()]);
                assert!(!lines[0].contains('\u{fffd}'), "{character} {shift}");
                assert!(
                    lines[0].ends_with(&format!("{character}…")),
                    "{character} {shift}"
                );
            }
        }
    }

    #[test]
    fn what_is_not_utf8_is_still_a_line() {
        assert_eq!(lines_of(&[b"a\xffb\n"]), ["a\u{fffd}b"]);
    }

    proptest! {
        #[test]
        fn where_the_output_is_cut_makes_no_difference(text in "[a-c\n]{0,60}", cuts in proptest::collection::vec(0usize..60, 0..6)) {
            let bytes = text.as_bytes();
            let mut cuts: Vec<_> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let pieces: Vec<_> = cuts.windows(2).map(|ends| &bytes[ends[0]..ends[1]]).collect();
            let expected: Vec<_> = text.split_terminator('\n').collect();
            prop_assert_eq!(lines_of(&pieces), expected);
        }
    }
}

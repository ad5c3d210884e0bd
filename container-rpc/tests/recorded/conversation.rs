//! The files: what was said, in order, a message a line.

use std::path::PathBuf;

use bytes::Bytes;

/// Who is at the frontend's end of a stream: batches of two frontends may be merged.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Who {
    One,
    Other,
}

/// One message.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    pub(crate) who: Who,
    /// `container` or `frontend`.
    pub(crate) by: String,
    /// The name of its kind.
    pub(crate) kind: String,
    pub(crate) bytes: Bytes,
}

/// The lines of a file that were not looked at yet.
pub(crate) struct Recorded(std::vec::IntoIter<Line>);

impl Recorded {
    pub(crate) fn read(name: &str) -> Self {
        let text = std::fs::read_to_string(path(name)).unwrap();
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        Self(lines.map(Line::read).collect::<Vec<_>>().into_iter())
    }

    /// The next message, which is one of these.
    pub(crate) fn next(&mut self, who: Who, by: &str, kind: &str) -> Bytes {
        let line = self.0.next().expect("the recording goes on");
        assert_eq!((line.who, &*line.by, &*line.kind), (who, by, kind), "{line:?}");
        line.bytes
    }

    pub(crate) fn assert_over(mut self) {
        let next = self.0.next();
        assert!(next.is_none(), "not looked at: {next:?}");
    }
}

pub(crate) fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/recorded")
        .join(name)
        .with_extension("hex")
}

impl Line {
    fn read(line: &str) -> Self {
        let mut words = line.split(' ');
        let mut word = || words.next().unwrap_or_else(|| panic!("too short: {line}"));
        let who = match word() {
            "one" => Who::One,
            "other" => Who::Other,
            who => panic!("neither one nor other: {who}"),
        };
        Self {
            who,
            by: word().to_owned(),
            kind: word().to_owned(),
            bytes: from_hex(word()),
        }
    }
}

fn from_hex(text: &str) -> Bytes {
    assert!(text.len().is_multiple_of(2) && text.is_ascii(), "{text}");
    let byte = |place| u8::from_str_radix(&text[place..place + 2], 16).unwrap();
    (0..text.len()).step_by(2).map(byte).collect()
}

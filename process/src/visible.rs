//! Text that came from elsewhere, as it may be shown: on a terminal, some characters are commands.
//!
//! A container's log, a model's error or a name can move the cursor, set the window's title, hide text or
//! turn its direction, and so make a terminal show what was never said.

use std::borrow::Cow;

/// Text with every command visible as an escape, `\x1b` or `\u{202e}`. Line ends and tabs stay.
pub fn lines(text: &str) -> Cow<'_, str> {
    shown(text, |c| matches!(c, '\n' | '\t'))
}

/// The same on one line: a line end is an escape, too. Tabs stay.
pub fn line(text: &str) -> Cow<'_, str> {
    shown(text, |c| c == '\t')
}

/// A JSON document that says the same and has no command in it: such characters can only be in strings,
/// which may write them as escapes. Line ends and tabs stay: they are between the values.
pub fn json(document: &[u8]) -> Cow<'_, [u8]> {
    let Ok(text) = std::str::from_utf8(document) else {
        return lines(&String::from_utf8_lossy(document))
            .into_owned()
            .into_bytes()
            .into();
    };
    let is_command = |c: char| is_command(c) && !matches!(c, '\n' | '\r' | '\t');
    if !text.contains(is_command) {
        return document.into();
    }
    let mut escaped = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match is_command(c) {
            // None of them is beyond the basic plane, so that one escape is enough.
            true => escaped.push_str(&format!("\\u{:04x}", u32::from(c))),
            false => escaped.push(c),
        }
    }
    escaped.into_bytes().into()
}

fn shown(text: &str, stays: impl Fn(char) -> bool) -> Cow<'_, str> {
    let hides = |c: char| is_command(c) && !stays(c);
    if !text.contains(hides) {
        return text.into();
    }
    let mut visible = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match c {
            _ if !hides(c) => visible.push(c),
            '\n' => visible.push_str("\\n"),
            '\r' => visible.push_str("\\r"),
            '\0'..='\x7f' => visible.push_str(&format!("\\x{:02x}", u32::from(c))),
            _ => visible.push_str(&format!("\\u{{{:x}}}", u32::from(c))),
        }
    }
    visible.into()
}

/// Whether a character does something instead of being shown: the controls of ASCII and of Latin-1 (CSI in one
/// character is among these), those that turn the direction of text, and separators that end a line.
fn is_command(c: char) -> bool {
    let turns =
        matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    c.is_control() || turns || matches!(c, '\u{2028}' | '\u{2029}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_would_obey_is_shown_as_an_escape() {
        for (text, expected) in [
            ("plain ü 模型 😀", "plain ü 模型 😀"),
            ("\x1b[2J\x1b]0;title\x07", "\\x1b[2J\\x1b]0;title\\x07"),
            ("10%\r20%", "10%\\r20%"),
            ("a\u{9b}31m\u{7f}\0", "a\\u{9b}31m\\x7f\\x00"),
            ("safe\u{202e}txt.exe\u{2066}", "safe\\u{202e}txt.exe\\u{2066}"),
            ("a\tb\nc", "a\tb\\nc"),
        ] {
            assert_eq!(line(text), expected);
        }
        assert_eq!(lines("a\tb\nc\r\n"), "a\tb\nc\\r\n");
    }

    #[test]
    fn a_document_without_commands_says_the_same() {
        let text = "{\n\t\"line\": \"a\u{9b}31m\u{202e}b\\u001b\u{7f}\"}\r\n";
        let shown = json(text.as_bytes());
        assert!(
            !std::str::from_utf8(&shown)
                .unwrap()
                .contains(['\u{9b}', '\u{202e}', '\u{7f}'])
        );
        let value = |bytes: &[u8]| serde_json::from_slice::<serde_json::Value>(bytes).unwrap();
        assert_eq!(value(&shown), value(text.as_bytes()));
        assert!(matches!(json(b"{}"), Cow::Borrowed(_)));
    }
}

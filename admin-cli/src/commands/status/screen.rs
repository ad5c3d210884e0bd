//! Pages that take each other's place on a terminal, and follow each other elsewhere.

use std::io::{IsTerminal, stdout};

use rustix::termios::tcgetwinsize;
use skysail_process::visible;

use crate::error::Error;
use crate::output::Output;

/// To the upper left corner, without wiping what is there: a page that is drawn over its predecessor does not
/// flicker.
const HOME: &str = "\x1b[H";
const WIPE_LINE: &str = "\x1b[K";
const WIPE_REST: &str = "\x1b[J";

/// Where pages are shown.
pub(super) enum Screen {
    Terminal {
        /// Whether the first page was shown.
        drawn: bool,
    },
    Blocks {
        /// Whether one was shown.
        begun: bool,
    },
}

impl Screen {
    /// Whatever fits stdout.
    pub(super) fn start() -> Self {
        if stdout().is_terminal() {
            Self::Terminal { drawn: false }
        } else {
            Self::Blocks { begun: false }
        }
    }

    pub(super) fn show(&mut self, output: Output, page: &str) -> Result<(), Error> {
        let page = &*visible::lines(page);
        let text = match self {
            Self::Terminal { drawn } => {
                let (rows, columns) = size();
                let page = over(page, rows, columns);
                if std::mem::replace(drawn, true) {
                    page
                } else {
                    // What was there before stays above, for whoever scrolls back.
                    format!("{}{page}", "\n".repeat(rows.min(200)))
                }
            }
            Self::Blocks { begun } => {
                let gap = if std::mem::replace(begun, true) { "\n" } else { "" };
                format!("{gap}{page}\n")
            }
        };
        output.bytes(text.as_bytes())
    }
}

/// The terminal's rows and columns. One that does not know them gets all there is.
fn size() -> (usize, usize) {
    let known = |count: u16| match count {
        0 => usize::MAX,
        count => count.into(),
    };
    tcgetwinsize(stdout()).map_or((usize::MAX, usize::MAX), |size| {
        (known(size.ws_row), known(size.ws_col))
    })
}

/// A page as it is drawn over the one before, cut to so many rows and columns.
fn over(page: &str, rows: usize, columns: usize) -> String {
    // The last row is for the cursor: to end it would scroll.
    let most = rows.saturating_sub(1).max(1);
    let count = page.lines().count();
    let mut lines: Vec<&str> = page.lines().take(most).collect();
    if count > most {
        lines[most - 1] = "…";
    }
    let lines: String = lines
        .iter()
        .map(|line| {
            let line: String = line.chars().take(columns).collect();
            format!("{line}{WIPE_LINE}\r\n")
        })
        .collect();
    format!("{HOME}{lines}{WIPE_REST}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_takes_the_place_of_the_one_before() {
        assert_eq!(over("ace\nb", 10, 1), "\x1b[Ha\x1b[K\r\nb\x1b[K\r\n\x1b[J");
    }

    #[test]
    fn a_page_that_is_too_long_ends_where_the_terminal_does() {
        let drawn = over("a\nb\nc\nd", 4, 80);
        assert!(
            drawn.contains("b") && drawn.contains("…") && !drawn.contains("d"),
            "{drawn}"
        );
        let drawn = over("a\nb\nc", 4, 80);
        assert!(drawn.contains("c") && !drawn.contains("…"), "{drawn}");
    }
}

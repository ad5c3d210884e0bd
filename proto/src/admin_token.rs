//! The bearer token that guards the admin API, as the server and the CLI hold it.

use std::fmt;
use std::str::FromStr;

/// The shortest token taken, in characters: what is shorter can be guessed.
pub const MIN_TOKEN_CHARS: usize = 16;

/// The longest token taken, in characters: it travels in a header.
pub const MAX_TOKEN_CHARS: usize = 512;

/// A token for `Authorization: Bearer …`. Debug output never shows it.
#[derive(Clone, Eq, PartialEq)]
pub struct AdminToken(String);

impl AdminToken {
    /// The token itself, to send or to hash it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for AdminToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AdminToken(…)")
    }
}

/// Why a text is no token; it never repeats the text.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum InvalidToken {
    /// There is none.
    #[error("it is empty: {ADVICE}")]
    Empty,
    /// It can be guessed.
    #[error("it has {0} characters, and fewer than {MIN_TOKEN_CHARS} can be guessed: {ADVICE}")]
    TooShort(usize),
    /// It does not fit a header.
    #[error("it is longer than {MAX_TOKEN_CHARS} characters: {ADVICE}")]
    TooLong,
    /// It cannot be sent in a header as it is.
    #[error("it is not one word of visible ASCII characters: {ADVICE}")]
    NotOneWord,
}

const ADVICE: &str = "write one, as `openssl rand -hex 32` prints it";

impl FromStr for AdminToken {
    type Err = InvalidToken;
    /// Reads a token; white space around it, such as the end of a file's only line, is no part of it.
    fn from_str(text: &str) -> Result<Self, InvalidToken> {
        let token = text.trim();
        if token.is_empty() {
            return Err(InvalidToken::Empty);
        }
        if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(InvalidToken::NotOneWord);
        }
        match token.len() {
            length if length < MIN_TOKEN_CHARS => Err(InvalidToken::TooShort(length)),
            length if length > MAX_TOKEN_CHARS => Err(InvalidToken::TooLong),
            _ => Ok(Self(token.to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn white_space_around_a_token_is_no_part_of_it() {
        for text in [
            "0123456789abcdef",
            "0123456789abcdef\n",
            " \t0123456789abcdef\r\n\n",
        ] {
            let token: AdminToken = text.parse().unwrap();
            assert_eq!(token.reveal(), "0123456789abcdef");
        }
    }

    #[test]
    fn what_can_be_guessed_or_cannot_be_sent_is_no_token() {
        let token = |text: &str| text.parse::<AdminToken>().unwrap_err();
        assert_eq!(token(" \n"), InvalidToken::Empty);
        assert_eq!(token("0123456789abcde"), InvalidToken::TooShort(15));
        assert_eq!(token(&"a".repeat(MAX_TOKEN_CHARS + 1)), InvalidToken::TooLong);
        for text in [
            "0123456789 abcdef",
            "0123456789\nabcdefg",
            "0123456789abcdé",
            "0123456789\u{0}bcdefg",
        ] {
            assert_eq!(token(text), InvalidToken::NotOneWord, "{text:?}");
        }
    }

    #[test]
    fn a_token_is_never_shown() {
        let token: AdminToken = "0123456789abcdef".parse().unwrap();
        assert!(!format!("{token:?}").contains("0123456789"));
    }
}

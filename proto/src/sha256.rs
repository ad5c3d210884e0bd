//! The SHA-256 of a file's content, by which files are named that were uploaded.

use std::fmt::{self, Write as _};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// How many bytes it has.
const BYTES: usize = 32;

/// A SHA-256. Written as 64 lower-case hexadecimal digits, as `sha256sum` prints them, in JSON too.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Sha256([u8; BYTES]);

/// A text that is no SHA-256.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("`{0}` is no SHA-256: it is 64 lower-case hexadecimal digits, as `sha256sum` prints")]
pub struct InvalidSha256(String);

impl Sha256 {
    /// The digest that a hash function gave.
    pub const fn new(digest: [u8; BYTES]) -> Self {
        Self(digest)
    }

    /// The first twelve digits: as many as a person compares.
    pub fn short(&self) -> String {
        self.to_string().chars().take(12).collect()
    }
}

impl fmt::Display for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut digits = String::with_capacity(2 * BYTES);
        for byte in self.0 {
            write!(digits, "{byte:02x}")?;
        }
        f.pad(&digits)
    }
}

impl FromStr for Sha256 {
    type Err = InvalidSha256;
    fn from_str(text: &str) -> Result<Self, InvalidSha256> {
        let invalid = || InvalidSha256(text.chars().take(80).collect());
        let digits: Option<Vec<u8>> = text.bytes().map(digit).collect();
        let digits = digits.filter(|digits| digits.len() == 2 * BYTES);
        let digits = digits.ok_or_else(invalid)?;
        let mut digest = [0; BYTES];
        for (byte, pair) in digest.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = pair[0] << 4 | pair[1];
        }
        Ok(Self(digest))
    }
}

fn digit(written: u8) -> Option<u8> {
    match written {
        b'0'..=b'9' => Some(written - b'0'),
        b'a'..=b'f' => Some(written - b'a' + 10),
        _ => None,
    }
}

impl Serialize for Sha256 {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Sha256 {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_written_as_it_is_read() {
        let text = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        let digest: Sha256 = text.parse().unwrap();
        assert_eq!(digest.to_string(), text);
        assert_eq!(digest.short(), "ba7816bf8f01");
        assert_eq!(serde_json::to_string(&digest).unwrap(), format!("\"{text}\""));
        assert_eq!(
            serde_json::from_str::<Sha256>(&format!("\"{text}\"")).unwrap(),
            digest
        );
    }

    #[test]
    fn what_is_no_digest_is_refused_with_what_one_looks_like() {
        let good = "0".repeat(64);
        for bad in [
            "",
            "0",
            &good[1..],
            &format!("{good}0"),
            &"A".repeat(64),
            &"é".repeat(32),
        ] {
            let error = bad.parse::<Sha256>().unwrap_err().to_string();
            assert!(error.contains("sha256sum"), "{error}");
        }
    }
}

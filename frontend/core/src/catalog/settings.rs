//! What a cluster is set to as a whole, beside its applications and models.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// The settings of a cluster: what all its frontends must agree on.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Settings {
    /// The SHA-256 of the token that the admin API asks for; none is asked for where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub admin_token: Option<Secret>,
    /// The key that the tokens of model containers are made and checked with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container_key: Option<Secret>,
}

/// 32 bytes that are nobody else's business: written as 64 hexadecimal digits, and never shown by `Debug`.
#[derive(Clone, Eq, PartialEq)]
pub struct Secret([u8; Secret::BYTES]);

impl Secret {
    /// How many bytes there are.
    pub const BYTES: usize = 32;

    /// A secret of these bytes.
    pub const fn new(bytes: [u8; Self::BYTES]) -> Self {
        Self(bytes)
    }

    /// The bytes.
    pub const fn bytes(&self) -> &[u8; Self::BYTES] {
        &self.0
    }

    /// Reads what it is written as.
    pub(crate) fn from_hex(text: &str) -> Option<Self> {
        if text.len() != 2 * Self::BYTES {
            return None;
        }
        let mut bytes = [0; Self::BYTES];
        for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            let digit = |at: usize| char::from(pair[at]).to_digit(16);
            *byte = u8::try_from(digit(0)? * 16 + digit(1)?).ok()?;
        }
        Some(Self(bytes))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let hex: String = self.0.iter().map(|byte| format!("{byte:02x}")).collect();
        serializer.serialize_str(&hex)
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        // The text is not repeated: it may be most of a secret.
        Self::from_hex(&text)
            .ok_or_else(|| de::Error::custom(format!("a secret is {} hexadecimal digits", 2 * Self::BYTES)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Settings {
        Settings {
            admin_token: Some(Secret::new(std::array::from_fn(|at| at as u8))),
            container_key: Some(Secret::new([0xab; Secret::BYTES])),
        }
    }

    #[test]
    fn settings_are_written_in_hexadecimal_and_read_back() {
        let written = serde_json::to_string(&settings()).unwrap();
        assert!(written.contains(r#""admin_token":"000102030405"#), "{written}");
        assert_eq!(serde_json::from_str::<Settings>(&written).unwrap(), settings());
        assert_eq!(
            serde_json::from_str::<Settings>("{}").unwrap(),
            Settings::default()
        );
        assert_eq!(serde_json::to_string(&Settings::default()).unwrap(), "{}");
    }

    #[test]
    fn what_is_no_secret_is_refused_without_repeating_it() {
        for bad in ["", "abc", &"g".repeat(64), &"a".repeat(63), &"ä".repeat(32)] {
            let document = serde_json::json!({ "container_key": bad }).to_string();
            let error = serde_json::from_str::<Settings>(&document)
                .unwrap_err()
                .to_string();
            assert!(error.contains("64 hexadecimal digits"), "{error}");
            assert!(bad.is_empty() || !error.contains(bad), "{error}");
        }
    }

    #[test]
    fn debug_output_shows_no_secret() {
        let shown = format!("{:?}", settings());
        assert!(shown.contains("Secret(…)"), "{shown}");
        assert!(
            !shown.contains("ab, ab") && !shown.contains("abab") && !shown.contains("171"),
            "{shown}"
        );
    }
}

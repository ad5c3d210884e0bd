//! JSON that is looked through, and not kept.

use std::collections::HashSet;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};

/// Whether a text is JSON that any reader can read.
///
/// The grammar alone does not tell: `1e400` and a lone surrogate are within it, and so is any depth, but readers
/// that keep numbers as doubles and text as Unicode refuse them, and with them all of the document that they stand
/// in.
pub fn is_readable(text: &str) -> bool {
    match text.as_bytes().first() {
        // Most labels are told from JSON by this; an error of the parser's costs an allocation.
        Some(b'{' | b'[' | b'"' | b'-' | b'0'..=b'9') => {
            look_through(serde_json::Deserializer::from_str(text), Members::MayRepeat).is_ok()
        }
        _ => matches!(text, "true" | "false" | "null"),
    }
}

/// Checks that no object in this JSON has two members of one name, at any depth: most readers take the last of
/// them silently, some the first.
pub fn each_member_once(json: &[u8]) -> Result<(), serde_json::Error> {
    look_through(serde_json::Deserializer::from_slice(json), Members::Once)
}

/// Whether an object may have two members of one name.
#[derive(Clone, Copy)]
enum Members {
    MayRepeat,
    Once,
}

fn look_through<'de, R: serde_json::de::Read<'de>>(
    mut json: serde_json::Deserializer<R>,
    members: Members,
) -> Result<(), serde_json::Error> {
    members.deserialize(&mut json)?;
    json.end()
}

impl<'de> DeserializeSeed<'de> for Members {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        // Unlike `IgnoredAny`, which skips values, this has numbers and texts read.
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Members {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while seq.next_element_seed(self)?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        match self {
            Self::MayRepeat => while map.next_entry_seed(self, self)?.is_some() {},
            Self::Once => {
                let mut seen = HashSet::new();
                while let Some(member) = map.next_key::<String>()? {
                    if seen.contains(&member) {
                        return Err(A::Error::custom(format_args!("`{member}` is given twice")));
                    }
                    seen.insert(member);
                    map.next_value_seed(self)?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_some_readers_refuse_is_not_readable() {
        let deep = "[".repeat(200) + &"]".repeat(200);
        for text in [
            "1e400",
            "[-1e400]",
            r#"{"a": "\ud800"}"#,
            r#"{"\udc00": 1}"#,
            &deep,
            "",
            " 1",
            "NaN",
            "[1,]",
            "truest",
            "007",
            "1 2",
        ] {
            assert!(!is_readable(text), "{text}");
        }
        for json in [
            "0",
            "-0",
            "null",
            "[1e300, {}]",
            r#"{"a": 1, "a": "\ud83d\ude00"}"#,
        ] {
            assert!(is_readable(json), "{json}");
        }
    }

    #[test]
    fn a_member_that_is_given_twice_is_refused_at_any_depth_with_where() {
        for (json, expected) in [
            (r#"{"a": 1, "a": 1}"#, "`a` is given twice at line 1 column 12"),
            (r#"{"a": 1, "\u0061": 1}"#, "`a` is given twice"),
            (r#"{"x": [{"env": {"A": "1", "A": "2"}}]}"#, "`A` is given twice"),
            ("{} {}", "trailing"),
        ] {
            let error = each_member_once(json.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(expected), "{json}: {error}");
        }
        for json in [
            r#"{"a": {"a": 1}, "b": [{"a": 1}, {"a": 2}]}"#,
            "[]",
            "null",
            "1.5",
        ] {
            each_member_once(json.as_bytes()).expect(json);
        }
    }
}

//! Output tensors for people: one a line, long ones shortened as NumPy does.

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

/// An array of more elements than this is shortened.
const MOST: usize = 12;

/// How many elements are shown of a shortened array, at its beginning.
const SHOWN: usize = 4;

/// The longest text that is shown whole, in characters.
const LONGEST_TEXT: usize = 200;

/// The tensors of an answer, a line each; `None` if it is not an object of them.
pub(super) fn tensor_lines(output: &str) -> Option<String> {
    let members: Members = serde_json::from_str(output).ok()?;
    let line = |(name, value): &(String, Box<RawValue>)| format!("{name}: {}", shortened(value.get()));
    let lines: Vec<String> = members.0.iter().map(line).collect();
    (!lines.is_empty()).then(|| lines.join("\n"))
}

/// The members of an object in the order in which they came.
struct Members(Vec<(String, Box<RawValue>)>);

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Self(Vec::new()))
    }
}

impl<'de> Visitor<'de> for Members {
    type Value = Self;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<Self, A::Error> {
        while let Some(member) = map.next_entry()? {
            self.0.push(member);
        }
        Ok(self)
    }
}

/// A tensor as JSON, its long dimensions cut. Numbers keep their digits.
fn shortened(json: &str) -> String {
    if !json.starts_with('[') {
        return text_shortened(json);
    }
    let Ok(elements) = serde_json::from_str::<Vec<&RawValue>>(json) else {
        return json.to_owned();
    };
    let shown = if elements.len() > MOST {
        SHOWN
    } else {
        elements.len()
    };
    let mut parts: Vec<String> = elements[..shown]
        .iter()
        .map(|element| shortened(element.get()))
        .collect();
    if shown < elements.len() {
        parts.push(format!("… {} more …", elements.len() - shown));
    }
    format!("[{}]", parts.join(", "))
}

fn text_shortened(json: &str) -> String {
    let characters = json.chars().count();
    if characters <= LONGEST_TEXT {
        return json.to_owned();
    }
    let head: String = json.chars().take(LONGEST_TEXT / 2).collect();
    format!("{head}… {} more …", characters - LONGEST_TEXT / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_tensors_are_shown_as_they_are() {
        let shown = tensor_lines(r#"{"label":3,"p":[0.10,0.9],"z":["NaN",[],[[true]]]}"#).unwrap();
        assert_eq!(shown, "label: 3\np: [0.10, 0.9]\nz: [\"NaN\", [], [[true]]]");
    }

    #[test]
    fn long_tensors_are_shortened_in_each_dimension() {
        let row: Vec<u32> = (0..1000).collect();
        let json = serde_json::json!({"p": row, "m": vec![row.clone(); 13], "t": "x".repeat(1000)});
        let shown = tensor_lines(&json.to_string()).unwrap();
        let lines: Vec<_> = shown.lines().collect();
        assert!(lines.contains(&"p: [0, 1, 2, 3, … 996 more …]"), "{shown}");
        let row = "[0, 1, 2, 3, … 996 more …]";
        let matrix = format!("m: [{row}, {row}, {row}, {row}, … 9 more …]");
        assert!(lines.contains(&&*matrix), "{shown}");
        assert!(shown.len() < 1000, "{shown}");
    }

    #[test]
    fn what_is_no_object_has_no_lines() {
        for output in ["-1.0", "[1]", "\"a\"", "null", "{}"] {
            assert_eq!(tensor_lines(output), None, "{output}");
        }
    }
}

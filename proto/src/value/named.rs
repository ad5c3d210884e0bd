//! Named tensors, read from JSON: an object, or with one tensor also its bare value.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor, value};

use super::Input;
use crate::signature::TensorSpec;
use crate::tensor::{Tensor, json::TensorSeed};

/// Parses the tensors of one input.
#[derive(Clone, Copy)]
pub(super) struct NamedSeed<'a>(pub(super) &'a [TensorSpec]);

impl<'de> DeserializeSeed<'de> for NamedSeed<'_> {
    type Value = Input;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Input, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl NamedSeed<'_> {
    /// The only tensor, given without its name.
    fn bare<'de, D: Deserializer<'de>>(self, deserializer: D) -> Result<Input, D::Error> {
        let [only] = self.0 else {
            return Err(D::Error::custom(format_args!("expected {self}")));
        };
        let tensor = TensorSeed(only).deserialize(deserializer)?;
        Ok(Input::tensors([tensor]))
    }
}

/// What is expected.
impl fmt::Display for NamedSeed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with ")?;
        for (index, spec) in self.0.iter().enumerate() {
            let before = if index == 0 { "" } else { ", " };
            write!(f, "{before}{spec}")?;
        }
        if self.0.len() == 1 {
            f.write_str(", or its bare value")?;
        }
        Ok(())
    }
}

impl<'de> Visitor<'de> for NamedSeed<'_> {
    type Value = Input;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Input, A::Error> {
        let mut tensors: Vec<Option<Tensor>> = vec![None; self.0.len()];
        while let Some(name) = map.next_key::<std::borrow::Cow<'de, str>>()? {
            let Some(place) = self.0.iter().position(|spec| spec.name() == name) else {
                let name: String = name.chars().take(80).collect();
                return Err(A::Error::custom(format_args!(
                    "tensor `{name}` is unknown; expected {self}"
                )));
            };
            if tensors[place].is_some() {
                return Err(A::Error::custom(format_args!("tensor `{name}` is given twice")));
            }
            tensors[place] = Some(map.next_value_seed(TensorSeed(&self.0[place]))?);
        }
        let missing = tensors.iter().position(Option::is_none);
        if let Some(place) = missing {
            let spec = &self.0[place];
            return Err(A::Error::custom(format_args!(
                "tensor `{}` is missing; expected {spec}",
                spec.name()
            )));
        }
        Ok(Input::tensors(
            tensors.into_iter().flatten().collect::<std::sync::Arc<_>>(),
        ))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Input, A::Error> {
        self.bare(value::SeqAccessDeserializer::new(seq))
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Input, E> {
        self.bare(value::StrDeserializer::new(text))
    }

    fn visit_bool<E: serde::de::Error>(self, given: bool) -> Result<Input, E> {
        self.bare(value::BoolDeserializer::new(given))
    }

    fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<Input, E> {
        self.bare(value::I64Deserializer::new(number))
    }

    fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<Input, E> {
        self.bare(value::U64Deserializer::new(number))
    }

    fn visit_f64<E: serde::de::Error>(self, number: f64) -> Result<Input, E> {
        self.bare(value::F64Deserializer::new(number))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signature::Signature;

    fn read(specs: &[&str], json: &str) -> Result<Input, String> {
        let specs = specs.iter().map(|spec| spec.parse().unwrap());
        let signature = Signature::tensors(specs, []).unwrap();
        let input = Input::from_json(&signature, json).map_err(|error| error.to_string())?;
        assert!(input.fits(&signature), "{input:?} does not fit {signature}");
        Ok(input)
    }

    const TWO: &[&str] = &["image:UINT8[2]", "mask:BOOL[-1]"];

    #[test]
    fn tensors_are_told_by_their_names_in_any_order() {
        let input = read(TWO, r#"{"mask": [true], "im\u0061ge": [1, 2]}"#).unwrap();
        let data: Vec<_> = input
            .as_tensors()
            .iter()
            .map(|tensor| &tensor.data()[..])
            .collect();
        assert_eq!(data, [&[1, 2][..], &[1]]);
    }

    #[test]
    fn the_only_tensor_needs_no_name() {
        for (spec, bare) in [
            ("x:FP32[2,2]", "[[1, 2], [3, 4]]"),
            ("x:FP64", "0.1"),
            ("x:FP32", "1"),
            ("x:FP32", "\"NaN\""),
            ("x:INT8", "-1"),
            ("x:UINT64", "18446744073709551615"),
            ("x:BOOL", "true"),
            ("x:BYTES", "\"AAE=\""),
            ("x:BYTES[]:utf8", "\"t\\u00fc\""),
            ("x:BYTES[-1]:utf8", "[\"a\", \"b\"]"),
        ] {
            let named = read(&[spec], &format!(r#"{{"x": {bare}}}"#)).unwrap();
            assert_eq!(read(&[spec], bare), Ok(named), "{bare} for {spec}");
        }
    }

    #[test]
    fn tensors_that_are_missing_or_too_many_are_refused_by_name() {
        for (json, expected) in [
            (
                r#"{"image": [1, 2]}"#,
                "tensor `mask` is missing; expected mask:BOOL[-1]",
            ),
            ("{}", "tensor `image` is missing; expected image:UINT8[2]"),
            (
                r#"{"image": [1, 2], "image": [1, 2]}"#,
                "tensor `image` is given twice at line 1 column 25",
            ),
            (
                r#"{"image": [1, 2], "masc": [true]}"#,
                "tensor `masc` is unknown; expected an object with image:UINT8[2], mask:BOOL[-1]",
            ),
            (
                r#"{"image": [1, 2], "mask": [0]}"#,
                "mask[0]: expected true or false (BOOL), and not 0",
            ),
        ] {
            let error = read(TWO, json).unwrap_err();
            assert!(error.starts_with(expected), "{json}: {error}");
        }
    }

    #[test]
    fn several_tensors_need_their_names() {
        for json in ["[1, 2]", "1", "-1", "0.5", "true", "\"a\"", "null"] {
            let error = read(TWO, json).unwrap_err();
            let expected = "expected an object with image:UINT8[2], mask:BOOL[-1]";
            assert!(error.contains(expected), "{json}: {error}");
        }
    }

    #[test]
    fn what_is_wrong_with_the_only_tensor_is_said_with_its_name() {
        for (spec, json, expected) in [
            (
                "x:UINT8[2]",
                "[1, 300]",
                "x[1]: 300 does not fit UINT8 (0 to 255) at line 1 column 7",
            ),
            (
                "x:UINT8[2]",
                "7",
                "x: invalid type: integer `7`, expected an array (x:UINT8[2])",
            ),
            (
                "x:UINT8",
                "[7]",
                "x: invalid type: sequence, expected an integer (UINT8)",
            ),
            ("x:UINT8", "0.5", "x: 0.5 does not fit UINT8 (0 to 255)"),
            ("x:BYTES", "\"***\"", "x: invalid base64"),
            (
                "x:UINT8",
                "null",
                "invalid type: null, expected an object with x:UINT8[], or its bare value",
            ),
        ] {
            let error = read(&[spec], json).unwrap_err();
            assert!(error.starts_with(expected), "{json}: {error}");
        }
    }
}

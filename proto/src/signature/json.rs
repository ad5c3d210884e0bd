//! The JSON form of a signature: `input_type` beside an optional `signature`.
//!
//! `{"input_type": "tensors", "signature": {"inputs": […], "outputs": […], "batched": false}}`. Without `outputs` a
//! model gives text; without `batched` its tensors have a batch dimension. A row that gives text is its `input_type`
//! alone, as it always was. A struct that has a signature flattens it.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{Length, Outputs, Shape, Signature, SignatureError, TENSORS, TensorSpec};
use crate::datatype::Datatype;
use crate::deployment::yes;
use crate::value::InputType;

/// A signature's two members.
#[derive(Deserialize, Serialize)]
struct Written {
    input_type: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    signature: Option<Declared>,
}

/// What stands in `signature`, and in the variable `SKYSAIL_SIGNATURE`.
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Declared {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    inputs: Vec<TensorSpec>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    outputs: Vec<TensorSpec>,
    #[serde(default = "yes", skip_serializing_if = "is_true")]
    batched: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_true(value: &bool) -> bool {
    *value
}

/// A tensor's members.
#[derive(Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WrittenSpec {
    name: String,
    datatype: Datatype,
    #[serde(default)]
    shape: Vec<i64>,
    #[serde(default, skip_serializing_if = "crate::deployment::is_false")]
    utf8: bool,
}

impl TryFrom<WrittenSpec> for TensorSpec {
    type Error = SignatureError;
    fn try_from(written: WrittenSpec) -> Result<Self, SignatureError> {
        let lengths: Result<Vec<_>, _> = written.shape.into_iter().map(Length::try_from).collect();
        let spec = Self::new(&written.name, written.datatype, Shape::new(lengths?)?)?;
        if written.utf8 { spec.utf8() } else { Ok(spec) }
    }
}

impl From<TensorSpec> for WrittenSpec {
    fn from(spec: TensorSpec) -> Self {
        Self {
            name: spec.name.to_string(),
            datatype: spec.datatype,
            shape: spec.shape.0.iter().map(|&length| length.into()).collect(),
            utf8: spec.utf8,
        }
    }
}

impl Signature {
    /// The signature of an input type's name, and what is declared beside it as JSON text, if anything is.
    pub fn from_text(input_type: &str, declared: Option<&str>) -> Result<Self, String> {
        let declared = match declared {
            Some(text) => serde_json::from_str(text)
                .map(Some)
                .map_err(|error| error.to_string())?,
            None => None,
        };
        Self::of(input_type, declared).map_err(|error| error.to_string())
    }

    /// What is declared beside the input type, as JSON text; `None` if the input type says all.
    pub fn declared_text(&self) -> Option<String> {
        let declared = self.declared()?;
        Some(serde_json::to_string(&declared).expect("names and numbers are JSON; this is a bug"))
    }

    fn of(input_type: &str, declared: Option<Declared>) -> Result<Self, SignatureError> {
        let row = if input_type == TENSORS {
            None
        } else {
            let unknown = |_| SignatureError::InputType(input_type.chars().take(80).collect());
            Some(input_type.parse::<InputType>().map_err(unknown)?)
        };
        let signature = match (row, declared) {
            (Some(row), None) => return Ok(Self::row(row)),
            (None, None) => return Ok(Self::undeclared()),
            (Some(row), Some(declared)) if !declared.inputs.is_empty() => {
                return Err(SignatureError::InputsOfRow(row));
            }
            (Some(row), Some(declared)) => (Self::row_to_tensors(row, declared.outputs)?, declared.batched),
            (None, Some(declared)) if declared.inputs.is_empty() => {
                if declared.outputs.is_empty() {
                    (Self::undeclared(), declared.batched)
                } else {
                    return Err(SignatureError::OutputsAlone);
                }
            }
            (None, Some(declared)) => (
                Self::tensors(declared.inputs, declared.outputs)?,
                declared.batched,
            ),
        };
        let (signature, batched) = signature;
        Ok(Self { batched, ..signature })
    }

    fn declared(&self) -> Option<Declared> {
        let says_all = self.input_tensors().is_empty() && self.outputs == Outputs::Text && self.batched;
        (!says_all).then(|| Declared {
            inputs: self.input_tensors().to_vec(),
            outputs: self.output_tensors().to_vec(),
            batched: self.batched,
        })
    }
}

impl Serialize for Signature {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let written = Written {
            input_type: self.input_word().to_owned(),
            signature: self.declared(),
        };
        written.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Signature {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let written = Written::deserialize(deserializer)?;
        Self::of(&written.input_type, written.signature).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensors(inputs: &[&str], outputs: &[&str]) -> Signature {
        let parse = |text: &&str| text.parse::<TensorSpec>().unwrap();
        Signature::tensors(inputs.iter().map(parse), outputs.iter().map(parse)).unwrap()
    }

    #[test]
    fn a_signature_is_read_as_it_was_written() {
        for (signature, json) in [
            (Signature::row(InputType::Doubles), r#"{"input_type":"doubles"}"#),
            (Signature::undeclared(), r#"{"input_type":"tensors"}"#),
            (
                tensors(&["image:FP32[224,-1]"], &[]),
                r#"{"input_type":"tensors","signature":{"inputs":[{"name":"image","datatype":"FP32","shape":[224,-1]}]}}"#,
            ),
            (
                tensors(&["t:BYTES[]:utf8"], &["p:INT64"]).without_batch_dimension(),
                concat!(
                    r#"{"input_type":"tensors","signature":{"inputs":[{"name":"t","datatype":"BYTES","shape":[],"utf8":true}],"#,
                    r#""outputs":[{"name":"p","datatype":"INT64","shape":[]}],"batched":false}}"#
                ),
            ),
        ] {
            assert_eq!(serde_json::to_string(&signature).unwrap(), json);
            assert_eq!(serde_json::from_str::<Signature>(json).unwrap(), signature);
            let declared = signature.declared_text();
            let again = Signature::from_text(signature.input_word(), declared.as_deref()).unwrap();
            assert_eq!(again, signature);
        }
    }

    #[test]
    fn what_is_no_signature_is_refused_in_words() {
        for (json, words) in [
            (r#"{"input_type":"float"}"#, "use one of bytes"),
            (
                r#"{"input_type":"tensors","signature":{"outputs":[{"name":"p","datatype":"INT64"}]}}"#,
                "no input tensors",
            ),
            (
                r#"{"input_type":"doubles","signature":{"inputs":[{"name":"p","datatype":"INT64"}]}}"#,
                "not doubles",
            ),
            (
                r#"{"input_type":"tensors","signature":{"inputs":[{"name":"","datatype":"INT64"}]}}"#,
                "tensor's name",
            ),
            (
                r#"{"input_type":"tensors","signature":{"inputs":[{"name":"a","datatype":"FLOAT"}]}}"#,
                "use one of BOOL",
            ),
            (
                r#"{"input_type":"tensors","signature":{"inputs":[{"name":"a","datatype":"FP32","shape":[-2]}]}}"#,
                "no length",
            ),
            (
                r#"{"input_type":"tensors","signature":{"inputs":[{"name":"a","datatype":"FP32","shape":[4294967296,4294967296]}]}}"#,
                "too large",
            ),
            (
                r#"{"input_type":"tensors","signature":{"inputs":[{"name":"a","datatype":"FP32"},{"name":"a","datatype":"FP32"}]}}"#,
                "twice",
            ),
            (
                r#"{"input_type":"tensors","signature":{"inputs":[{"name":"a","datatype":"FP32","utf8":true}]}}"#,
                "only BYTES",
            ),
            (
                r#"{"input_type":"tensors","signature":{"input":[]}}"#,
                "unknown field",
            ),
        ] {
            let error = serde_json::from_str::<Signature>(json).unwrap_err().to_string();
            assert!(error.contains(words), "{json}: {error}");
        }
    }

    #[test]
    fn a_tensor_is_read_as_text() {
        for text in [
            "image:FP32[224,224,3]",
            "x:0:INT8[-1]",
            "t:BYTES[-1]:utf8",
            "scalar:FP64[]",
        ] {
            assert_eq!(text.parse::<TensorSpec>().unwrap().to_string(), text);
        }
        assert_eq!(
            "scalar:FP64".parse::<TensorSpec>().unwrap().to_string(),
            "scalar:FP64[]"
        );
        assert_eq!(
            "a:FP32[1, 2]".parse::<TensorSpec>().unwrap().to_string(),
            "a:FP32[1,2]"
        );
        for (text, words) in [
            ("image", "NAME:DATATYPE"),
            ("image:FP32[1", "datatype `FP32[1`"),
            ("image:FP32]", "NAME:DATATYPE"),
            ("image:FLOAT[1]", "datatype `FLOAT`"),
            ("image:FP32[x]", "`x` is no length"),
            ("image:FP32[1,]", "is no length"),
            ("image:FP32[-2]", "is no length"),
            (":FP32[1]", "tensor's name"),
            ("a:FP32[1]:utf8", "only BYTES"),
        ] {
            let error = text.parse::<TensorSpec>().unwrap_err().to_string();
            assert!(error.contains(words), "{text}: {error}");
        }
        let many = format!("a:FP32[{}]", vec!["1"; 17].join(","));
        assert!(
            many.parse::<TensorSpec>()
                .unwrap_err()
                .to_string()
                .contains("at most 16")
        );
    }

    #[test]
    fn a_signature_that_is_flattened_stands_beside_other_members() {
        #[derive(Debug, Deserialize, PartialEq, Serialize)]
        #[serde(deny_unknown_fields)]
        struct Body {
            name: String,
            #[serde(flatten)]
            signature: Signature,
        }
        let body = Body {
            name: "iris".to_owned(),
            signature: tensors(&["a:FP32[2]"], &["b:FP32[]"]),
        };
        let json = serde_json::to_string(&body).unwrap();
        assert_eq!(serde_json::from_str::<Body>(&json).unwrap(), body);
        let unknown = r#"{"name":"iris","input_type":"doubles","other":1}"#;
        let error = serde_json::from_str::<Body>(unknown).unwrap_err().to_string();
        assert!(error.contains("other"), "{error}");
        let missing = serde_json::from_str::<Body>(r#"{"name":"iris"}"#)
            .unwrap_err()
            .to_string();
        assert!(missing.contains("missing field `input_type`"), "{missing}");
    }

    #[test]
    fn inputs_that_are_undeclared_stay_so() {
        assert_eq!(
            Signature::undeclared().inputs(),
            &super::super::Inputs::Undeclared
        );
        assert!(!Signature::undeclared().is_declared());
    }
}

//! Outputs: what a model answered, and how that stands in an answer.
//!
//! Whether an output is JSON is decided once, when it arrives, and kept with it. To write it into an answer, which
//! may happen a thousand times for an output that is cached, is then to copy it, or to share its buffer.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use super::{WireError, shortened};
use crate::container;
use crate::json::is_readable;
use crate::signature::{Outputs, Signature, TensorSpec};
use crate::tensor::{Tensor, TensorColumn, json};

/// From this size on a text is quoted once, when it arrives, and kept as it will be written, in bytes. A shorter
/// one, such as a class name, is quoted in less time than a buffer for it takes.
const QUOTED_ONCE_BYTES: usize = 1024;

/// A model's answer to one input: UTF-8 text, or named tensors. Cloning shares the buffers.
#[derive(Clone, Eq, Hash, PartialEq)]
pub struct Output(Value);

#[derive(Clone, Eq, Hash, PartialEq)]
enum Value {
    /// In an answer it stands as it is, to the letter, if it is JSON that any reader can read, otherwise as a JSON
    /// string.
    Text {
        /// UTF-8, without white space around it if it is JSON.
        data: Bytes,
        form: Form,
    },
    Tensors(Arc<NamedTensors>),
}

/// An output's tensors, in the order of the signature that names them.
#[derive(Eq, Hash, PartialEq)]
struct NamedTensors {
    specs: Arc<[TensorSpec]>,
    tensors: Box<[Tensor]>,
}

/// What an output's data is.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
enum Form {
    /// JSON.
    Json,
    /// A text that is no JSON.
    Text,
    /// The JSON string of a text that is no JSON.
    Quoted,
}

impl Output {
    /// Takes a text.
    pub fn new(text: impl Into<String>) -> Self {
        let text = text.into();
        Self::from_utf8(Bytes::from(text.into_bytes())).expect("a String is UTF-8; this is a bug")
    }

    /// Takes a text that was received. Reads all of it: a large one takes its time.
    pub fn from_utf8(data: Bytes) -> Result<Self, WireError> {
        let text = std::str::from_utf8(&data).map_err(|_| WireError::Utf8)?;
        let trimmed = text.trim_matches([' ', '\t', '\n', '\r']);
        if is_readable(trimmed) {
            let data = data.slice_ref(trimmed.as_bytes());
            let form = Form::Json;
            return Ok(Self(Value::Text { data, form }));
        }
        if text.len() < QUOTED_ONCE_BYTES {
            let form = Form::Text;
            return Ok(Self(Value::Text { data, form }));
        }
        let mut quoted = Vec::with_capacity(text.len() + text.len() / 16 + 2);
        quote(text, &mut quoted);
        quoted.shrink_to_fit();
        Ok(Self(Value::Text {
            data: quoted.into(),
            form: Form::Quoted,
        }))
    }

    /// Takes tensors, in the order of the specifications; they must fit them.
    pub fn tensors(specs: Arc<[TensorSpec]>, tensors: impl Into<Box<[Tensor]>>) -> Self {
        let tensors = tensors.into();
        Self(Value::Tensors(Arc::new(NamedTensors { specs, tensors })))
    }

    /// The same output in a buffer of its own, no larger than it needs: one that was received is a part of
    /// its whole batch's outputs, which would be kept with it.
    #[must_use]
    pub fn detached(&self) -> Self {
        match &self.0 {
            Value::Text { data, form } => {
                let data = match form {
                    Form::Quoted => data.clone(),
                    Form::Json | Form::Text => Bytes::copy_from_slice(data),
                };
                Self(Value::Text { data, form: *form })
            }
            Value::Tensors(named) => {
                let tensors: Box<[_]> = named.tensors.iter().map(Tensor::detached).collect();
                Self::tensors(Arc::clone(&named.specs), tensors)
            }
        }
    }

    /// The bytes that it keeps.
    pub fn size(&self) -> usize {
        match &self.0 {
            Value::Text { data, .. } => data.len(),
            Value::Tensors(named) => named.tensors.iter().map(|tensor| tensor.data().len()).sum(),
        }
    }

    /// The tensors and what they are called; `None` for text.
    pub fn as_tensors(&self) -> Option<(&[TensorSpec], &[Tensor])> {
        match &self.0 {
            Value::Text { .. } => None,
            Value::Tensors(named) => Some((&named.specs, &named.tensors)),
        }
    }

    /// The text; of tensors, their JSON.
    pub fn text(&self) -> Cow<'_, str> {
        let Value::Text { data, form } = &self.0 else {
            let mut json = Vec::new();
            self.write_json(&mut json);
            return String::from_utf8(json)
                .expect("JSON is UTF-8; this is a bug")
                .into();
        };
        let data = std::str::from_utf8(data).expect("checked when it was made; this is a bug");
        match form {
            Form::Json | Form::Text => data.into(),
            Form::Quoted => {
                let text: String = serde_json::from_str(data).expect("it was quoted by us; this is a bug");
                text.into()
            }
        }
    }

    /// What stands in an answer, where that is what is kept.
    pub fn as_json(&self) -> Option<&Bytes> {
        match &self.0 {
            Value::Text {
                data,
                form: Form::Json | Form::Quoted,
            } => Some(data),
            Value::Text { form: Form::Text, .. } | Value::Tensors(_) => None,
        }
    }

    /// Appends what stands in an answer.
    pub fn write_json(&self, answer: &mut Vec<u8>) {
        match &self.0 {
            Value::Tensors(named) => json::write_named(&named.specs, &named.tensors, answer),
            Value::Text { .. } => match self.as_json() {
                Some(json) => answer.extend_from_slice(json),
                None => quote(&self.text(), answer),
            },
        }
    }
}

impl fmt::Debug for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Value::Text { .. } => write!(f, "Output({:?})", shortened(&self.text())),
            Value::Tensors(named) => write!(f, "Output({:?})", named.tensors),
        }
    }
}

fn quote(text: &str, to: &mut Vec<u8>) {
    serde_json::to_writer(to, text).expect("a text can be written to memory; this is a bug");
}

/// One output or the model's error for each input.
type Taken = Vec<Result<Output, container::InputError>>;

/// Takes the outputs of a batch of `expected` inputs apart: an output or the model's error for each. Fails as a whole if
/// the outputs are not those of the model's signature. Reads all of them: large ones take their time.
pub fn from_outputs(
    outputs: container::Outputs,
    expected: usize,
    signature: &Signature,
) -> Result<Taken, WireError> {
    match signature.outputs() {
        Outputs::Text if outputs.tensors.is_empty() => from_texts(outputs, expected),
        Outputs::Text => Err(WireError::Output {
            declared: "text".to_owned(),
            got: format!("tensor `{}`", outputs.tensors[0].name),
        }),
        Outputs::Tensors(specs) => from_columns(outputs, expected, specs),
    }
}

fn from_texts(outputs: container::Outputs, expected: usize) -> Result<Taken, WireError> {
    let container::Outputs {
        data,
        lengths,
        errors,
        ..
    } = outputs;
    check_count(lengths.len(), expected)?;
    let total: u64 = lengths.iter().map(|&length| u64::from(length)).sum();
    if total != data.len() as u64 {
        return Err(WireError::Lengths {
            lengths: total,
            data: data.len(),
        });
    }
    let mut rest = data;
    let texts = (0..).zip(lengths).map(|(index, length)| {
        let text = Output::from_utf8(rest.split_to(length as usize));
        // What one input was answered with is no fault of the others.
        text.map_err(|error| container::InputError {
            index,
            message: format!("the model's answer cannot be given: {error}"),
            kind: container::InputErrorKind::Model as i32,
        })
    });
    let mut taken: Vec<_> = texts.collect();
    for error in errors {
        let index = error.index as usize;
        let Some(slot) = taken.get_mut(index) else {
            return Err(WireError::Count {
                expected,
                got: index + 1,
            });
        };
        *slot = Err(error);
    }
    Ok(taken)
}

fn check_count(got: usize, expected: usize) -> Result<(), WireError> {
    if got == expected {
        return Ok(());
    }
    Err(WireError::Count { expected, got })
}

/// Outputs that are tensors. The columns have no place for inputs that failed.
fn from_columns(
    outputs: container::Outputs,
    expected: usize,
    specs: &Arc<[TensorSpec]>,
) -> Result<Taken, WireError> {
    let inputs = outputs.inputs as usize;
    let is_text = outputs.tensors.is_empty() && !outputs.lengths.is_empty() && inputs == 0;
    if is_text {
        return Err(WireError::Output {
            declared: format!("tensor {}", specs[0]),
            got: "text".to_owned(),
        });
    }
    check_count(inputs, expected)?;
    let mut failed: Vec<Option<container::InputError>> = vec![None; expected];
    for error in outputs.errors {
        let index = error.index as usize;
        let slot = failed.get_mut(index).ok_or(WireError::Count {
            expected,
            got: index + 1,
        })?;
        *slot = Some(error);
    }
    let answered = failed.iter().filter(|error| error.is_none()).count();
    let columns = in_order(outputs.tensors, answered, specs)?;
    let mut place = 0;
    let taken = failed.into_iter().map(|error| match error {
        Some(error) => Err(error),
        None => {
            let tensors: Box<[_]> = columns.iter().map(|column| column.get(place)).collect();
            place += 1;
            Ok(Output::tensors(Arc::clone(specs), tensors))
        }
    });
    Ok(taken.collect())
}

/// The columns in the order of the specifications, each checked against its own.
fn in_order(
    columns: Vec<container::TensorColumn>,
    answered: usize,
    specs: &[TensorSpec],
) -> Result<Vec<TensorColumn>, WireError> {
    if answered == 0 && columns.is_empty() {
        return Ok(Vec::new());
    }
    let of_spec = |got: String, spec: &TensorSpec| WireError::Output {
        declared: spec.to_string(),
        got,
    };
    if let Some(other) = columns
        .iter()
        .find(|column| specs.iter().all(|spec| spec.name() != column.name))
    {
        return Err(of_spec(format!("a tensor `{}`", other.name), &specs[0]));
    }
    let mut columns: Vec<Option<_>> = columns.into_iter().map(Some).collect();
    let mut take = |spec: &TensorSpec| {
        let found = columns
            .iter_mut()
            .find(|column| column.as_ref().is_some_and(|column| column.name == spec.name()));
        let column = found.and_then(Option::take);
        let column = column.ok_or_else(|| of_spec(format!("no tensor `{}`", spec.name()), spec))?;
        let column = TensorColumn::from_wire(column, answered)?;
        if column.is(spec) {
            Ok(column)
        } else {
            Err(of_spec(column.to_string(), spec))
        }
    };
    specs.iter().map(&mut take).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::value::InputType;

    const TEXT: Signature = Signature::row(InputType::Doubles);

    fn written(text: &str) -> String {
        let mut written = Vec::new();
        Output::new(text).write_json(&mut written);
        String::from_utf8(written).unwrap()
    }

    fn quoted(text: &str) -> String {
        serde_json::to_string(text).unwrap()
    }

    #[test]
    fn what_is_detached_is_the_same_and_keeps_no_other_buffer() {
        for text in ["virginica", "[1, 2]", &"long ".repeat(1000)] {
            let received = Bytes::from(format!("left, {text}, right").into_bytes());
            let slice = received.slice(6..6 + text.len());
            let output = Output::from_utf8(slice).unwrap().detached();
            assert!(received.is_unique());
            assert_eq!(output, Output::new(text));
            assert_eq!(output.text(), text);
        }
    }

    #[test]
    fn an_output_is_json_if_it_parses_as_json_and_a_string_otherwise() {
        for json in [
            "-1.0",
            "0",
            "null",
            "true",
            "\"\"",
            "{\"a\": [1, null]}",
            "[1.50, 1e300]",
            "[]",
            "{\"a\":1,\"a\":2}",
            "-0",
            "\"\\ud83d\\ude00\"",
        ] {
            assert_eq!(written(json), json);
            assert_eq!(written(&format!(" \t{json}\r\n")), json);
        }
        for text in [
            "",
            " ",
            "virginica",
            "NaN",
            "[NaN]",
            "Infinity",
            "-",
            "007",
            "nullify",
            "truest",
            "1 2",
            "{\"a\": 1",
            "[1,]",
            "\u{feff}[1]",
            "\u{a0}1",
            "a \"quoted\"\nline\u{0}\u{2028}",
        ] {
            assert_eq!(written(text), quoted(text));
        }
    }

    #[test]
    fn an_output_that_not_every_reader_can_read_is_a_string() {
        let deep = "[".repeat(200) + &"]".repeat(200);
        for text in [
            "1e400",
            "-1e400",
            "[-1e400]",
            r#"{"a": "\ud800"}"#,
            r#"{"\udc00": 1}"#,
            &deep,
        ] {
            assert_eq!(written(text), quoted(text));
        }
    }

    #[test]
    fn a_long_text_is_quoted_once_and_shared_from_then_on() {
        let text = "a \"line\"\n".repeat(1000);
        let output = Output::new(text.as_str());
        let json = output.as_json().expect("what is kept is what is written");
        assert_eq!(json, quoted(&text).as_bytes());
        assert_eq!(output.text(), text);
        assert_eq!(
            output.clone().as_json().map(|json| json.as_ptr()),
            Some(json.as_ptr())
        );
    }

    #[test]
    fn outputs_of_another_number_than_the_inputs_are_refused() {
        let outputs = container::Outputs {
            data: Bytes::from("ab"),
            lengths: vec![1, 1],
            ..container::Outputs::default()
        };
        assert_eq!(
            from_outputs(outputs, 3, &TEXT),
            Err(WireError::Count { expected: 3, got: 2 })
        );
    }

    #[test]
    fn an_input_that_failed_carries_the_models_words() {
        let failed = container::InputError {
            index: 1,
            message: "no".into(),
            kind: 0,
        };
        let outputs = container::Outputs {
            data: Bytes::from("a"),
            lengths: vec![1, 0],
            errors: vec![failed.clone()],
            ..container::Outputs::default()
        };
        assert_eq!(
            from_outputs(outputs, 2, &TEXT),
            Ok(vec![Ok(Output::new("a")), Err(failed)])
        );
    }

    #[test]
    fn an_answer_that_is_no_text_fails_its_own_input_only() {
        let outputs = container::Outputs {
            data: Bytes::from_static(b"a\xffb"),
            lengths: vec![1, 1, 1],
            ..container::Outputs::default()
        };
        let taken = from_outputs(outputs, 3, &TEXT).unwrap();
        assert_eq!(
            (&taken[0], &taken[2]),
            (&Ok(Output::new("a")), &Ok(Output::new("b")))
        );
        let error = taken[1].as_ref().unwrap_err();
        assert!(error.message.contains("not valid UTF-8"), "{error:?}");
        assert_eq!(error.kind(), container::InputErrorKind::Model);
    }

    /// Texts of which many are nearly JSON.
    fn any_text() -> impl Strategy<Value = String> {
        let token = prop_oneof![
            Just("{"),
            Just("}"),
            Just("["),
            Just("]"),
            Just(","),
            Just(":"),
            Just("\""),
            Just("\\"),
            Just("\\u"),
            Just("d800"),
            Just("1"),
            Just("-"),
            Just("e999"),
            Just("."),
            Just("0"),
            Just("true"),
            Just("null"),
            Just("NaN"),
            Just(" "),
            Just("\n"),
            Just("\u{0}"),
            Just("ü"),
            Just("\"a\""),
            Just("\"a\":1"),
        ];
        prop_oneof![
            any::<String>(),
            prop::collection::vec(token, 0..12).prop_map(|tokens| tokens.concat()),
        ]
    }

    proptest! {
        #[test]
        fn what_stands_in_an_answer_is_always_json_and_says_the_same(text in any_text()) {
            let json = written(&text);
            let read: serde_json::Value = serde_json::from_str(&json).unwrap();
            match serde_json::from_str::<serde_json::Value>(&text) {
                Ok(value) => prop_assert_eq!(read, value),
                Err(_) => prop_assert_eq!(read, serde_json::Value::from(text)),
            }
        }
    }
}

//! Inputs and outputs, and their only conversions to and from JSON and the wire.
//!
//! An [`Input`] is kept as it travels: one little-endian buffer for a row, one for each tensor. It is parsed from JSON
//! straight into that form, compared and hashed as bytes, and copied once into the columns of a [`container::Batch`].
//! The container reads the columns in place ([`Columns`]).

use std::fmt;
use std::str::FromStr;

use base64::alphabet::STANDARD as STANDARD_ALPHABET;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde::{Deserialize, Serialize};

use crate::container;
use crate::tensor::TensorError;

mod column;
mod columns;
mod input;
mod named;
mod output;
mod row;

pub use column::{Column, InputRef, to_columns};
pub use columns::{Columns, to_batch};
pub use input::{Input, InputSeed};
pub use output::{Output, from_outputs};

#[cfg(target_endian = "big")]
compile_error!("inputs are viewed in place as little-endian numbers");

/// What an input that is one unnamed row holds.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum InputType {
    /// Raw bytes; a base64 string in JSON.
    Bytes,
    /// 32-bit signed integers; an array of numbers in JSON.
    Integers,
    /// 32-bit floats; an array of numbers in JSON.
    Floats,
    /// 64-bit floats; an array of numbers in JSON.
    Doubles,
    /// UTF-8 text; a string in JSON.
    Strings,
}

/// An input type that does not exist; the text lists those that do.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("input type `{0}` does not exist; use one of bytes, integers, floats, doubles, strings")]
pub struct UnknownInputType(String);

impl InputType {
    /// All input types.
    pub const ALL: [Self; 5] = [
        Self::Bytes,
        Self::Integers,
        Self::Floats,
        Self::Doubles,
        Self::Strings,
    ];

    /// The type's name, as it is written everywhere.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bytes => "bytes",
            Self::Integers => "integers",
            Self::Floats => "floats",
            Self::Doubles => "doubles",
            Self::Strings => "strings",
        }
    }

    /// The size of one element, in bytes.
    pub const fn element_bytes(self) -> usize {
        match self {
            Self::Bytes | Self::Strings => 1,
            Self::Integers | Self::Floats => 4,
            Self::Doubles => 8,
        }
    }

    /// Whether inputs are arrays of numbers.
    pub const fn is_numeric(self) -> bool {
        matches!(self, Self::Integers | Self::Floats | Self::Doubles)
    }

    /// How one input looks in JSON, to complete "expected …".
    const fn json_form(self) -> &'static str {
        match self {
            Self::Bytes => "a base64 string (input type bytes)",
            Self::Integers => "an array of 32-bit integers (input type integers)",
            Self::Floats => "an array of numbers (input type floats)",
            Self::Doubles => "an array of numbers (input type doubles)",
            Self::Strings => "a string (input type strings)",
        }
    }

    /// The type's number on the wire.
    pub const fn to_wire(self) -> container::InputType {
        match self {
            Self::Bytes => container::InputType::Bytes,
            Self::Integers => container::InputType::Integers,
            Self::Floats => container::InputType::Floats,
            Self::Doubles => container::InputType::Doubles,
            Self::Strings => container::InputType::Strings,
        }
    }

    /// The type of that number, if this side knows it.
    pub fn from_wire(number: i32) -> Option<Self> {
        match container::InputType::try_from(number).ok()? {
            container::InputType::Unspecified | container::InputType::Tensors => None,
            container::InputType::Bytes => Some(Self::Bytes),
            container::InputType::Integers => Some(Self::Integers),
            container::InputType::Floats => Some(Self::Floats),
            container::InputType::Doubles => Some(Self::Doubles),
            container::InputType::Strings => Some(Self::Strings),
        }
    }
}

impl fmt::Display for InputType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for InputType {
    type Err = UnknownInputType;
    fn from_str(name: &str) -> Result<Self, UnknownInputType> {
        let known = Self::ALL.into_iter().find(|known| known.name() == name);
        known.ok_or_else(|| UnknownInputType(name.chars().take(80).collect()))
    }
}
/// Standard base64, with or without padding.
pub(crate) const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD_ALPHABET,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);
/// A few words of a long text, for an error.
pub(crate) fn shortened(text: &str) -> String {
    text.chars().take(40).collect()
}
/// What a batch on the wire got wrong.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum WireError {
    /// The input type is missing or unknown.
    #[error("input type number {0} is unknown")]
    InputType(i32),
    /// The lengths do not add up to the buffer.
    #[error("lengths add up to {lengths} bytes, the data has {data}")]
    Lengths {
        /// Bytes the lengths stand for.
        lengths: u64,
        /// Bytes in the buffer.
        data: usize,
    },
    /// Text that is not UTF-8.
    #[error("text is not valid UTF-8")]
    Utf8,
    /// The datatype is missing or unknown.
    #[error("datatype number {0} is unknown")]
    Datatype(i32),
    /// Bytes are not the elements of a tensor.
    #[error("tensor `{name}`: {error}")]
    Tensor {
        /// Its name.
        name: String,
        /// What is wrong.
        error: TensorError,
    },
    /// A ragged column has another number of lengths than inputs times dimensions.
    #[error("tensor `{name}`: {expected} lengths are expected, and {got} are there")]
    Shapes {
        /// Its name.
        name: String,
        /// Inputs times dimensions.
        expected: usize,
        /// Lengths there are.
        got: usize,
    },
    /// The bytes that each tensor is said to have are not those that it has.
    #[error("tensor `{name}`: its byte lengths are not those of its elements")]
    ByteLengths {
        /// Its name.
        name: String,
    },
    /// The model gave something else than its signature says.
    #[error("the model answered {got}, and its signature says {declared}")]
    Output {
        /// What the signature says.
        declared: String,
        /// What came.
        got: String,
    },
    /// A batch of `expected` inputs came back with another number of outputs.
    #[error("the model answered {got} outputs for {expected} inputs")]
    Count {
        /// Inputs sent.
        expected: usize,
        /// Outputs received.
        got: usize,
    },
}
#[cfg(test)]
mod tests {
    use bytes::{Bytes, BytesMut};
    use proptest::prelude::*;

    use super::*;
    use crate::signature::Signature;

    fn parse(input_type: InputType, json: &str) -> Result<Input, String> {
        Input::from_json(&Signature::row(input_type), json).map_err(|error| error.to_string())
    }

    #[test]
    fn integer_literals_are_welcome_where_floats_are() {
        assert_eq!(
            parse(InputType::Doubles, "[1, 2.5, -3]"),
            Ok(Input::doubles(&[1.0, 2.5, -3.0]))
        );
        assert_eq!(
            parse(InputType::Floats, "[1, 18446744073709551615]"),
            Ok(Input::floats(&[1.0, 1.844_674_4e19]))
        );
    }

    #[test]
    fn what_is_detached_is_the_same_and_keeps_no_other_buffer() {
        let received = Bytes::from(b"left, virginica, right".to_vec());
        let input = Input::bytes(received.slice(6..15)).detached();
        assert!(received.is_unique());
        assert_eq!(input, Input::bytes(&b"virginica"[..]));
    }

    #[test]
    fn minus_zero_is_an_integer() {
        assert_eq!(
            parse(InputType::Integers, "[-0, -1]"),
            Ok(Input::integers(&[0, -1]))
        );
    }

    #[test]
    fn a_bad_input_is_refused_with_what_was_expected() {
        let cases = [
            (InputType::Doubles, "[]", "empty"),
            (InputType::Integers, "[]", "empty"),
            (InputType::Doubles, "[[1.0]]", "a number (input type doubles)"),
            (InputType::Doubles, "[\"NaN\"]", "a number (input type doubles)"),
            (InputType::Doubles, "[NaN]", "expected value"),
            (InputType::Doubles, "[1e999]", "out of range"),
            (InputType::Doubles, "[null]", "a number"),
            (
                InputType::Doubles,
                "1.0",
                "an array of numbers (input type doubles)",
            ),
            (
                InputType::Doubles,
                "\"x\"",
                "an array of numbers (input type doubles)",
            ),
            (InputType::Floats, "[1e300]", "range of 32-bit floats"),
            (InputType::Integers, "[3000000000]", "a 32-bit integer"),
            (InputType::Integers, "[1.5]", "a 32-bit integer"),
            (InputType::Integers, "[1.0]", "a 32-bit integer"),
            (InputType::Strings, "[1]", "a string (input type strings)"),
            (InputType::Strings, "7", "a string (input type strings)"),
            (InputType::Bytes, "\"***\"", "invalid base64"),
            (InputType::Bytes, "[1]", "a base64 string"),
            (InputType::Doubles, "{}", "an array of numbers"),
            (InputType::Doubles, "[1.0", "EOF"),
            (InputType::Doubles, "[1.0] x", "trailing"),
        ];
        for (input_type, json, expected) in cases {
            let error = parse(input_type, json).expect_err(json);
            assert!(error.contains(expected), "{json} for {input_type}: {error}");
        }
    }

    #[test]
    fn empty_text_and_empty_bytes_are_inputs() {
        assert_eq!(parse(InputType::Strings, "\"\""), Ok(Input::string("")));
        assert_eq!(parse(InputType::Bytes, "\"\""), Ok(Input::bytes(Vec::new())));
    }

    #[test]
    fn base64_is_taken_with_and_without_padding() {
        assert_eq!(parse(InputType::Bytes, "\"aGk=\""), Ok(Input::bytes(&b"hi"[..])));
        assert_eq!(parse(InputType::Bytes, "\"aGk\""), Ok(Input::bytes(&b"hi"[..])));
    }

    #[test]
    fn lengths_that_do_not_fit_the_data_are_refused() {
        let wire = InputType::Doubles.to_wire() as i32;
        assert!(matches!(
            Column::from_wire(wire, Bytes::from_static(&[0; 12]), &[1]),
            Err(WireError::Lengths { lengths: 8, data: 12 })
        ));
        assert!(matches!(
            Column::from_wire(9, Bytes::new(), &[]),
            Err(WireError::InputType(9))
        ));
        let text = InputType::Strings.to_wire() as i32;
        assert!(matches!(
            Column::from_wire(text, Bytes::from_static(&[0xff]), &[1]),
            Err(WireError::Utf8)
        ));
    }

    fn any_input(input_type: InputType) -> BoxedStrategy<Input> {
        use proptest::collection::vec;
        use proptest::num;
        match input_type {
            InputType::Bytes => vec(any::<u8>(), 0..50).prop_map(Input::bytes).boxed(),
            InputType::Integers => vec(any::<i32>(), 1..50).prop_map(|n| Input::integers(&n)).boxed(),
            InputType::Floats => vec(num::f32::NORMAL | num::f32::ZERO | num::f32::SUBNORMAL, 1..50)
                .prop_map(|n| Input::floats(&n))
                .boxed(),
            InputType::Doubles => vec(num::f64::NORMAL | num::f64::ZERO | num::f64::SUBNORMAL, 1..50)
                .prop_map(|n| Input::doubles(&n))
                .boxed(),
            InputType::Strings => any::<String>().prop_map(Input::string).boxed(),
        }
    }

    fn any_batch() -> impl Strategy<Value = (InputType, Vec<Input>)> {
        proptest::sample::select(InputType::ALL.to_vec()).prop_flat_map(|input_type| {
            (
                Just(input_type),
                proptest::collection::vec(any_input(input_type), 0..8),
            )
        })
    }

    proptest! {
        #[test]
        fn an_input_survives_json_and_the_wire((input_type, inputs) in any_batch(), shift in 0usize..8) {
            let (data, lengths) = to_columns(inputs.iter());
            // The receive buffer may start anywhere: try every alignment.
            let mut moved = BytesMut::zeroed(shift);
            moved.extend_from_slice(&data);
            let data = moved.freeze().slice(shift..);
            let column = Column::from_wire(input_type.to_wire() as i32, data, &lengths).unwrap();
            prop_assert_eq!(column.len(), inputs.len());
            for (read, input) in column.iter().zip(&inputs) {
                let read = match read {
                    InputRef::Bytes(bytes) => Input::bytes(bytes.to_vec()),
                    InputRef::Integers(numbers) => Input::integers(numbers),
                    InputRef::Floats(numbers) => Input::floats(numbers),
                    InputRef::Doubles(numbers) => Input::doubles(numbers),
                    InputRef::Strings(text) => Input::string(text),
                };
                prop_assert_eq!(&read, input);
                let json = serde_json::to_string(&input.to_json(&Signature::row(input_type))).unwrap();
                prop_assert_eq!(&Input::from_json(&Signature::row(input_type), &json).unwrap(), input);
            }
        }
    }
}

//! Inputs and outputs, and their only conversions to and from JSON and the wire.
//!
//! An [`Input`] is kept as it travels: one little-endian buffer. It is parsed from JSON straight into that
//! form, compared and hashed as bytes, and copied once into the column of a [`container::Batch`]. The
//! container reads the column in place ([`Column`]).

use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::alphabet::STANDARD as STANDARD_ALPHABET;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use bytes::{BufMut, Bytes, BytesMut};
use serde::de::{DeserializeSeed, Deserializer, Error as _, SeqAccess, Unexpected, Visitor};
use serde::{Deserialize, Serialize};

use crate::container;

mod output;

pub use output::{Output, from_outputs};

#[cfg(target_endian = "big")]
compile_error!("inputs are viewed in place as little-endian numbers");

/// What kind of inputs a model or an application takes.
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
            container::InputType::Unspecified => None,
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

/// One typed input: a little-endian buffer and what it holds.
///
/// Cloning shares the buffer. Equality is that of the bytes, so `0.0` and `-0.0` differ.
#[derive(Clone, Eq, Hash, PartialEq)]
pub struct Input {
    input_type: InputType,
    data: Bytes,
}

impl Input {
    /// Raw bytes.
    pub fn bytes(data: impl Into<Bytes>) -> Self {
        Self {
            input_type: InputType::Bytes,
            data: data.into(),
        }
    }

    /// 32-bit integers.
    pub fn integers(numbers: &[i32]) -> Self {
        Self::copied(InputType::Integers, bytemuck::cast_slice(numbers))
    }

    /// 32-bit floats.
    pub fn floats(numbers: &[f32]) -> Self {
        Self::copied(InputType::Floats, bytemuck::cast_slice(numbers))
    }

    /// 64-bit floats.
    pub fn doubles(numbers: &[f64]) -> Self {
        Self::copied(InputType::Doubles, bytemuck::cast_slice(numbers))
    }

    /// Text.
    pub fn string(text: impl Into<String>) -> Self {
        Self {
            input_type: InputType::Strings,
            data: Bytes::from(text.into().into_bytes()),
        }
    }

    fn copied(input_type: InputType, data: &[u8]) -> Self {
        Self {
            input_type,
            data: Bytes::copy_from_slice(data),
        }
    }

    /// What it holds.
    pub fn input_type(&self) -> InputType {
        self.input_type
    }

    /// Its buffer, little-endian.
    pub fn data(&self) -> &Bytes {
        &self.data
    }

    /// Elements: numbers for the numeric types, bytes for bytes and strings.
    pub fn len(&self) -> usize {
        self.data.len() / self.input_type.element_bytes()
    }

    /// Whether it holds no element.
    pub fn is_empty(&self) -> bool {
        self.data.is_empty()
    }

    /// The same input in a buffer of its own, no larger than it needs.
    ///
    /// For whoever keeps inputs: the buffer of one that was received may have room to spare, or be a part of
    /// something larger that would be kept with it.
    pub fn detached(&self) -> Self {
        Self::copied(self.input_type, &self.data)
    }

    /// Parses one input from JSON text.
    pub fn from_json(input_type: InputType, json: &str) -> Result<Self, serde_json::Error> {
        let mut deserializer = serde_json::Deserializer::from_str(json);
        let input = InputSeed(input_type).deserialize(&mut deserializer)?;
        deserializer.end()?;
        Ok(input)
    }

    /// The input as JSON; the inverse of parsing it.
    pub fn to_json(&self) -> serde_json::Value {
        let column = Column::of_one(self);
        match column.get(0) {
            InputRef::Bytes(bytes) => BASE64.encode(bytes).into(),
            InputRef::Integers(numbers) => numbers.into(),
            InputRef::Floats(numbers) => numbers.into(),
            InputRef::Doubles(numbers) => numbers.into(),
            InputRef::Strings(text) => text.into(),
        }
    }
}

impl fmt::Debug for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Input({} × {})", self.len(), self.input_type)
    }
}

/// Standard base64, with or without padding.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD_ALPHABET,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Parses one input of a known type from any JSON deserializer, straight into its buffer.
///
/// Integer literals are taken where floats are expected. An empty array is refused: no model can answer
/// it, and the mistake is the sender's. So is a number the type cannot hold.
#[derive(Clone, Copy, Debug)]
pub struct InputSeed(pub InputType);

impl<'de> DeserializeSeed<'de> for InputSeed {
    type Value = Input;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Input, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for InputSeed {
    type Value = Input;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.json_form())
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Input, E> {
        match self.0 {
            InputType::Strings => Ok(Input::copied(InputType::Strings, text.as_bytes())),
            InputType::Bytes => match BASE64.decode(text) {
                Ok(bytes) => Ok(Input::bytes(bytes)),
                Err(error) => Err(E::custom(format_args!("invalid base64: {error}"))),
            },
            _ => Err(E::invalid_type(Unexpected::Str(&shortened(text)), &self)),
        }
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Input, A::Error> {
        if !self.0.is_numeric() {
            return Err(A::Error::invalid_type(Unexpected::Seq, &self));
        }
        // Most inputs are short; a long one doubles its buffer a few times.
        let mut data = BytesMut::with_capacity(64);
        while seq
            .next_element_seed(Element {
                input_type: self.0,
                data: &mut data,
            })?
            .is_some()
        {}
        if data.is_empty() {
            return Err(A::Error::custom(format_args!(
                "the input is empty; expected at least one number (input type {})",
                self.0
            )));
        }
        Ok(Input {
            input_type: self.0,
            data: data.freeze(),
        })
    }
}

/// A few words of a long text, for an error.
fn shortened(text: &str) -> String {
    text.chars().take(40).collect()
}

/// Parses one number and appends it to the buffer.
struct Element<'a> {
    input_type: InputType,
    data: &'a mut BytesMut,
}

impl<'de> DeserializeSeed<'de> for Element<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl Element<'_> {
    fn put_integer<E: serde::de::Error>(self, given: Unexpected<'_>, number: Option<i32>) -> Result<(), E> {
        let number = number.ok_or_else(|| E::invalid_value(given, &self))?;
        self.data.put_i32_le(number);
        Ok(())
    }

    fn put_float<E: serde::de::Error>(self, number: f64) -> Result<(), E> {
        if self.input_type == InputType::Doubles {
            self.data.put_f64_le(number);
            return Ok(());
        }
        #[expect(
            clippy::cast_possible_truncation,
            reason = "rounding to f32 is what the type asks for"
        )]
        let single = number as f32;
        if !single.is_finite() {
            return Err(E::invalid_value(Unexpected::Float(number), &self));
        }
        self.data.put_f32_le(single);
        Ok(())
    }
}

impl<'de> Visitor<'de> for Element<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.input_type {
            InputType::Integers => "a 32-bit integer (input type integers)",
            InputType::Floats => "a number within the range of 32-bit floats (input type floats)",
            _ => "a number (input type doubles)",
        })
    }

    #[expect(
        clippy::cast_precision_loss,
        reason = "an integer literal stands for the nearest float"
    )]
    fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<(), E> {
        if self.input_type == InputType::Integers {
            return self.put_integer(Unexpected::Signed(number), i32::try_from(number).ok());
        }
        self.put_float(number as f64)
    }

    #[expect(
        clippy::cast_precision_loss,
        reason = "an integer literal stands for the nearest float"
    )]
    fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<(), E> {
        if self.input_type == InputType::Integers {
            return self.put_integer(Unexpected::Unsigned(number), i32::try_from(number).ok());
        }
        self.put_float(number as f64)
    }

    fn visit_f64<E: serde::de::Error>(self, number: f64) -> Result<(), E> {
        if self.input_type == InputType::Integers {
            // The JSON parser gives the integer literal `-0` as a float.
            let zero = (number == 0.0).then_some(0);
            return self.put_integer(Unexpected::Float(number), zero);
        }
        self.put_float(number)
    }
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
    /// A batch of `expected` inputs came back with another number of outputs.
    #[error("the model answered {got} outputs for {expected} inputs")]
    Count {
        /// Inputs sent.
        expected: usize,
        /// Outputs received.
        got: usize,
    },
}

/// Inputs of one type, laid end to end as a [`container::Batch`] carries them.
///
/// Returns the buffer and the number of elements in each input. The one copy of the inputs that the
/// frontend makes; the second is the encoder's.
pub fn to_columns<'a>(inputs: impl ExactSizeIterator<Item = &'a Input> + Clone) -> (Bytes, Vec<u32>) {
    let total = inputs.clone().map(|input| input.data.len()).sum();
    let mut data = BytesMut::with_capacity(total);
    let mut lengths = Vec::with_capacity(inputs.len());
    for input in inputs {
        data.extend_from_slice(&input.data);
        lengths.push(u32::try_from(input.len()).expect("bodies are limited far below 4 GiB; this is a bug"));
    }
    (data.freeze(), lengths)
}

/// One input of a [`Column`], in place.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum InputRef<'a> {
    /// Raw bytes.
    Bytes(&'a [u8]),
    /// 32-bit integers.
    Integers(&'a [i32]),
    /// 32-bit floats.
    Floats(&'a [f32]),
    /// 64-bit floats.
    Doubles(&'a [f64]),
    /// Text.
    Strings(&'a str),
}

/// The elements of all inputs of a batch, as one array of their type.
#[derive(Clone, Debug)]
enum Elements {
    /// Where the buffer happened to be aligned, or its elements are bytes: a view.
    Shared(Bytes),
    /// Otherwise one copy, made when the column is read.
    Integers(Vec<i32>),
    Floats(Vec<f32>),
    Doubles(Vec<f64>),
}

/// The inputs of a batch, viewed where they were received.
#[derive(Clone, Debug)]
pub struct Column {
    input_type: InputType,
    elements: Elements,
    /// Where each input ends, in elements.
    ends: Vec<usize>,
}

impl Column {
    /// Reads a batch: checks that its lengths fit its data, and that text is UTF-8.
    pub fn from_wire(input_type: i32, data: Bytes, lengths: &[u32]) -> Result<Self, WireError> {
        let input_type = InputType::from_wire(input_type).ok_or(WireError::InputType(input_type))?;
        let elements: u64 = lengths.iter().map(|&length| u64::from(length)).sum();
        let bytes = elements.saturating_mul(input_type.element_bytes() as u64);
        if bytes != data.len() as u64 {
            return Err(WireError::Lengths {
                lengths: bytes,
                data: data.len(),
            });
        }
        let ends = lengths.iter().scan(0, |end, &length| {
            *end += length as usize;
            Some(*end)
        });
        let column = Self {
            input_type,
            ends: ends.collect(),
            elements: Elements::aligned(input_type, data),
        };
        column.check_text()?;
        Ok(column)
    }

    /// `count` inputs that repeat these, over and over; they must all be of one type.
    ///
    /// # Panics
    /// If there is no input to repeat.
    pub fn repeating(inputs: &[Input], count: usize) -> Result<Self, WireError> {
        let batch: Vec<_> = inputs.iter().cycle().take(count).collect();
        let (data, lengths) = to_columns(batch.into_iter());
        Self::from_wire(inputs[0].input_type.to_wire() as i32, data, &lengths)
    }

    fn of_one(input: &Input) -> Self {
        let elements = Elements::aligned(input.input_type, input.data.clone());
        Self {
            input_type: input.input_type,
            elements,
            ends: vec![input.len()],
        }
    }

    fn check_text(&self) -> Result<(), WireError> {
        if self.input_type != InputType::Strings {
            return Ok(());
        }
        let good = (0..self.len()).all(|index| std::str::from_utf8(self.byte_range(index)).is_ok());
        if good { Ok(()) } else { Err(WireError::Utf8) }
    }

    /// What the inputs are.
    pub fn input_type(&self) -> InputType {
        self.input_type
    }

    /// How many inputs there are.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there is no input.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The input at `index`.
    ///
    /// # Panics
    /// If there is none.
    pub fn get(&self, index: usize) -> InputRef<'_> {
        let range = self.range(index);
        match self.input_type {
            InputType::Bytes => InputRef::Bytes(self.byte_range(index)),
            InputType::Strings => InputRef::Strings(
                std::str::from_utf8(self.byte_range(index)).expect("checked when it was read; this is a bug"),
            ),
            InputType::Integers => InputRef::Integers(match &self.elements {
                Elements::Integers(numbers) => &numbers[range],
                other => &bytemuck::cast_slice(other.shared())[range],
            }),
            InputType::Floats => InputRef::Floats(match &self.elements {
                Elements::Floats(numbers) => &numbers[range],
                other => &bytemuck::cast_slice(other.shared())[range],
            }),
            InputType::Doubles => InputRef::Doubles(match &self.elements {
                Elements::Doubles(numbers) => &numbers[range],
                other => &bytemuck::cast_slice(other.shared())[range],
            }),
        }
    }

    /// All inputs, in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = InputRef<'_>> {
        (0..self.len()).map(|index| self.get(index))
    }

    fn range(&self, index: usize) -> std::ops::Range<usize> {
        let start = if index == 0 { 0 } else { self.ends[index - 1] };
        start..self.ends[index]
    }

    fn byte_range(&self, index: usize) -> &[u8] {
        &self.elements.shared()[self.range(index)]
    }
}

impl Elements {
    fn aligned(input_type: InputType, data: Bytes) -> Self {
        match input_type {
            InputType::Integers if bytemuck::try_cast_slice::<u8, i32>(&data).is_err() => {
                Self::Integers(bytemuck::pod_collect_to_vec(&data))
            }
            InputType::Floats if bytemuck::try_cast_slice::<u8, f32>(&data).is_err() => {
                Self::Floats(bytemuck::pod_collect_to_vec(&data))
            }
            InputType::Doubles if bytemuck::try_cast_slice::<u8, f64>(&data).is_err() => {
                Self::Doubles(bytemuck::pod_collect_to_vec(&data))
            }
            _ => Self::Shared(data),
        }
    }

    fn shared(&self) -> &[u8] {
        match self {
            Self::Shared(data) => data,
            _ => unreachable!("only the numeric types are ever copied, and each reads its own copy"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(input_type: InputType, json: &str) -> Result<Input, String> {
        Input::from_json(input_type, json).map_err(|error| error.to_string())
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
                let json = serde_json::to_string(&input.to_json()).unwrap();
                prop_assert_eq!(&Input::from_json(input_type, &json).unwrap(), input);
            }
        }
    }
}

//! One input: a row, or tensors in the signature's order.

use std::fmt;
use std::sync::Arc;

use base64::Engine;
use bytes::Bytes;
use serde::de::{DeserializeSeed, Deserializer, Error as _};

use super::named::NamedSeed;
use super::row::RowSeed;
use super::{BASE64, Column, InputRef, InputType};
use crate::signature::{Inputs, Signature};
use crate::tensor::{Tensor, json};

/// One typed input, as it travels: little-endian buffers and what they hold.
///
/// Cloning shares the buffers. Equality is that of the bytes and shapes, so `0.0` and `-0.0` differ.
#[derive(Clone, Eq, Hash, PartialEq)]
pub struct Input(Value);

#[derive(Clone, Eq, Hash, PartialEq)]
enum Value {
    Row { input_type: InputType, data: Bytes },
    Tensors(Arc<[Tensor]>),
}

impl Input {
    /// Raw bytes.
    pub fn bytes(data: impl Into<Bytes>) -> Self {
        Self::row(InputType::Bytes, data.into())
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
        Self::row(InputType::Strings, Bytes::from(text.into().into_bytes()))
    }

    /// Tensors, in the order of the signature that they are meant for.
    pub fn tensors(tensors: impl Into<Arc<[Tensor]>>) -> Self {
        Self(Value::Tensors(tensors.into()))
    }

    pub(super) fn row(input_type: InputType, data: Bytes) -> Self {
        Self(Value::Row { input_type, data })
    }

    pub(super) fn copied(input_type: InputType, data: &[u8]) -> Self {
        Self::row(input_type, Bytes::copy_from_slice(data))
    }

    /// What the row holds; `None` for tensors.
    pub fn row_type(&self) -> Option<InputType> {
        match self.0 {
            Value::Row { input_type, .. } => Some(input_type),
            Value::Tensors(_) => None,
        }
    }

    /// The tensors; none for a row.
    pub fn as_tensors(&self) -> &[Tensor] {
        match &self.0 {
            Value::Row { .. } => &[],
            Value::Tensors(tensors) => tensors,
        }
    }

    /// The row's buffer, little-endian; empty for tensors.
    pub fn row_data(&self) -> &[u8] {
        match &self.0 {
            Value::Row { data, .. } => data,
            Value::Tensors(_) => &[],
        }
    }

    /// The bytes that it holds.
    pub fn size(&self) -> usize {
        match &self.0 {
            Value::Row { data, .. } => data.len(),
            Value::Tensors(tensors) => tensors.iter().map(|tensor| tensor.data().len()).sum(),
        }
    }

    /// The row's elements: numbers for the numeric types, bytes for bytes and strings. None for tensors.
    pub fn elements(&self) -> usize {
        match &self.0 {
            Value::Row { input_type, data } => data.len() / input_type.element_bytes(),
            Value::Tensors(_) => 0,
        }
    }

    /// The same input in buffers of its own, no larger than it needs.
    ///
    /// For whoever keeps inputs: the buffer of one that was received may have room to spare, or be a part of
    /// something larger that would be kept with it.
    #[must_use]
    pub fn detached(&self) -> Self {
        match &self.0 {
            Value::Row { input_type, data } => Self::copied(*input_type, data),
            Value::Tensors(tensors) => {
                Self::tensors(tensors.iter().map(Tensor::detached).collect::<Arc<_>>())
            }
        }
    }

    /// Whether it is what a signature takes.
    pub fn fits(&self, signature: &Signature) -> bool {
        match (&self.0, signature.inputs()) {
            (Value::Row { input_type, .. }, Inputs::Row(taken)) => input_type == taken,
            (Value::Tensors(tensors), Inputs::Tensors(specs)) => {
                tensors.len() == specs.len()
                    && tensors
                        .iter()
                        .zip(specs.iter())
                        .all(|(tensor, spec)| tensor.is(spec))
            }
            _ => false,
        }
    }

    /// Parses one input from JSON text.
    pub fn from_json(signature: &Signature, json: &str) -> Result<Self, serde_json::Error> {
        let mut deserializer = serde_json::Deserializer::from_str(json);
        let input = InputSeed(signature).deserialize(&mut deserializer)?;
        deserializer.end()?;
        Ok(input)
    }

    /// The input as JSON text; the inverse of parsing it. The signature names the tensors.
    pub fn to_json_text(&self, signature: &Signature) -> String {
        let mut text = Vec::new();
        match &self.0 {
            Value::Row { input_type, data } => {
                let written = serde_json::to_writer(&mut text, &row_json(*input_type, data));
                written.expect("JSON can be written to memory; this is a bug");
            }
            Value::Tensors(tensors) => json::write_named(signature.input_tensors(), tensors, &mut text),
        }
        String::from_utf8(text).expect("JSON is UTF-8; this is a bug")
    }

    /// The input as JSON.
    pub fn to_json(&self, signature: &Signature) -> serde_json::Value {
        serde_json::from_str(&self.to_json_text(signature)).expect("it was written by us; this is a bug")
    }
}

fn row_json(input_type: InputType, data: &Bytes) -> serde_json::Value {
    match Column::of_one(input_type, data).get(0) {
        InputRef::Bytes(bytes) => BASE64.encode(bytes).into(),
        InputRef::Integers(numbers) => numbers.into(),
        InputRef::Floats(numbers) => numbers.into(),
        InputRef::Doubles(numbers) => numbers.into(),
        InputRef::Strings(text) => text.into(),
    }
}

impl fmt::Debug for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Value::Row { input_type, .. } => write!(f, "Input({} × {input_type})", self.elements()),
            Value::Tensors(tensors) => write!(f, "Input({tensors:?})"),
        }
    }
}

/// Parses one input of a known signature from any JSON deserializer, straight into the buffers that travel.
///
/// Integer literals are taken where floats are expected. A number that the type cannot hold is refused, and so is an
/// empty row: no model can answer it, and the mistake is the sender's.
#[derive(Clone, Copy, Debug)]
pub struct InputSeed<'a>(pub &'a Signature);

impl<'de> DeserializeSeed<'de> for InputSeed<'_> {
    type Value = Input;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Input, D::Error> {
        match self.0.inputs() {
            Inputs::Row(input_type) => RowSeed(*input_type).deserialize(deserializer),
            Inputs::Tensors(specs) => NamedSeed(specs).deserialize(deserializer),
            Inputs::Undeclared => Err(D::Error::custom(
                "the application's tensors are not declared: register it again with --like MODEL or with --in",
            )),
        }
    }
}

//! One unnamed row, read from JSON.

use std::fmt;

use base64::Engine;
use bytes::{BufMut, BytesMut};
use serde::de::{DeserializeSeed, Deserializer, Error as _, SeqAccess, Unexpected, Visitor};

use super::{BASE64, Input, InputType, shortened};

/// Parses one input of a known type from any JSON deserializer, straight into its buffer.
///
/// Integer literals are taken where floats are expected. An empty array is refused: no model can answer
/// it, and the mistake is the sender's. So is a number the type cannot hold.
#[derive(Clone, Copy, Debug)]
pub(super) struct RowSeed(pub(super) InputType);

impl<'de> DeserializeSeed<'de> for RowSeed {
    type Value = Input;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Input, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for RowSeed {
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
        Ok(Input::row(self.0, data.freeze()))
    }
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

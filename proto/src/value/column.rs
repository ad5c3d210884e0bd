//! Rows of a batch, laid end to end.

use bytes::{Bytes, BytesMut};

use super::{Input, InputType, WireError};

/// Inputs of one type, laid end to end as a [`container::Batch`](crate::container::Batch) carries them.
///
/// Returns the buffer and the number of elements in each input. The one copy of the inputs that the
/// frontend makes; the second is the encoder's. An input that is no row counts as an empty one.
pub fn to_columns<'a>(inputs: impl ExactSizeIterator<Item = &'a Input> + Clone) -> (Bytes, Vec<u32>) {
    let total = inputs.clone().map(|input| input.row_data().len()).sum();
    let mut data = BytesMut::with_capacity(total);
    let mut lengths = Vec::with_capacity(inputs.len());
    for input in inputs {
        data.extend_from_slice(input.row_data());
        lengths.push(
            u32::try_from(input.elements()).expect("bodies are limited far below 4 GiB; this is a bug"),
        );
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

    /// The column of one row.
    pub(super) fn of_one(input_type: InputType, data: &Bytes) -> Self {
        Self {
            input_type,
            elements: Elements::aligned(input_type, data.clone()),
            ends: vec![data.len() / input_type.element_bytes()],
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

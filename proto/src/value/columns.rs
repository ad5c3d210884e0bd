//! All inputs of a batch, as they travel in a [`container::Batch`].

use super::{Column, Input, InputType, WireError, to_columns};
use crate::container;
use crate::signature::{Inputs, Signature};
use crate::tensor::{Tensor, TensorColumn};

/// The inputs of a batch, viewed where they were received.
#[derive(Clone, Debug)]
pub enum Columns {
    /// Rows.
    Row(Column),
    /// Named tensors.
    Tensors {
        /// A column for each tensor, in the signature's order; each has `inputs` tensors.
        columns: Vec<TensorColumn>,
        /// How many inputs there are.
        inputs: usize,
    },
}

/// Lays inputs into the message that carries them; they must all fit the signature. What else the message has is the
/// caller's to fill in.
pub fn to_batch<'a>(
    signature: &Signature,
    inputs: impl ExactSizeIterator<Item = &'a Input> + Clone,
) -> container::Batch {
    let input_type = signature.wire_type() as i32;
    let Inputs::Tensors(specs) = signature.inputs() else {
        let (data, lengths) = to_columns(inputs);
        return container::Batch {
            input_type,
            data,
            lengths,
            ..container::Batch::default()
        };
    };
    let column = |(place, spec): (usize, &crate::signature::TensorSpec)| {
        let tensors: Vec<&Tensor> = inputs
            .clone()
            .filter_map(|input| input.as_tensors().get(place))
            .collect();
        TensorColumn::of(spec.name(), spec.datatype(), tensors.into_iter()).to_wire()
    };
    container::Batch {
        input_type,
        tensors: specs.iter().enumerate().map(column).collect(),
        inputs: u32::try_from(inputs.len()).unwrap_or(u32::MAX),
        ..container::Batch::default()
    }
}

impl Columns {
    /// Takes the inputs out of a message, and checks that they add up.
    pub fn from_batch(batch: &mut container::Batch) -> Result<Self, WireError> {
        if batch.input_type != container::InputType::Tensors as i32 {
            let data = std::mem::take(&mut batch.data);
            return Column::from_wire(batch.input_type, data, &batch.lengths).map(Self::Row);
        }
        let inputs = batch.inputs as usize;
        let columns = std::mem::take(&mut batch.tensors).into_iter();
        let columns: Result<_, _> = columns
            .map(|column| TensorColumn::from_wire(column, inputs))
            .collect();
        Ok(Self::Tensors {
            columns: columns?,
            inputs,
        })
    }

    /// `count` inputs that repeat these, over and over; they must all fit the signature.
    ///
    /// # Panics
    /// If there is no input to repeat.
    pub fn repeating(signature: &Signature, inputs: &[Input], count: usize) -> Result<Self, WireError> {
        assert!(!inputs.is_empty(), "there is no input to repeat");
        let batch: Vec<_> = inputs.iter().cycle().take(count).collect();
        Self::from_batch(&mut to_batch(signature, batch.into_iter()))
    }

    /// The type of the rows; `None` for tensors.
    pub fn row_type(&self) -> Option<InputType> {
        match self {
            Self::Row(column) => Some(column.input_type()),
            Self::Tensors { .. } => None,
        }
    }

    /// How many inputs there are.
    pub fn len(&self) -> usize {
        match self {
            Self::Row(column) => column.len(),
            Self::Tensors { inputs, .. } => *inputs,
        }
    }

    /// Whether there is no input.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

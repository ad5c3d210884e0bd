//! The model that does nothing: whatever time a query takes with it is Skysail's own.
//!
//! It takes whatever its environment declares. Text is `0`. An output tensor is
//!
//! - the input of its name, if that has the same datatype and shape;
//! - otherwise the mean of all elements of the input, if it is a scalar of FP32 or FP64 ([`mean`]);
//! - otherwise zeros, or empty BYTES; a length that may be any is 0.

use skysail_container_rpc::{
    Batch, Datatype, Model, ModelError, Outputs, Tensor, TensorSpec, signature::Length,
};

pub mod mean;

/// Answers at once.
#[derive(Clone, Copy, Debug, Default)]
pub struct Noop;

impl Model for Noop {
    fn predict(&mut self, batch: &Batch) -> Result<Outputs, ModelError> {
        answer(batch)
    }
}

/// What the model answers: the same for the same inputs.
pub fn answer(batch: &Batch) -> Result<Outputs, ModelError> {
    let outputs = batch.signature().output_tensors();
    if outputs.is_empty() {
        return Ok((0..batch.len()).map(|_| "0").collect());
    }
    let given = outputs.iter().map(|output| Given::of(batch, output));
    let mut given: Vec<Given> = given.collect::<Result<_, _>>()?;
    let mut answers = Outputs::with_capacity(batch.len(), 0);
    for _ in 0..batch.len() {
        let tensors = outputs.iter().zip(&mut given);
        let tensors = tensors.map(|(output, given)| Ok((output.name(), given.next(output)?)));
        answers.push_tensors(tensors.collect::<Result<Vec<_>, ModelError>>()?);
    }
    Ok(answers)
}

/// What an output is, input by input.
enum Given {
    Input(std::vec::IntoIter<Tensor>),
    Mean(std::vec::IntoIter<f64>),
    Zeros,
}

impl Given {
    fn of(batch: &Batch, output: &TensorSpec) -> Result<Self, ModelError> {
        if batch.signature().input_tensors().contains(output) {
            let tensors: Vec<_> = batch.tensor(output.name())?.iter().collect();
            return Ok(Self::Input(tensors.into_iter()));
        }
        let is_scalar = output.shape().lengths().is_empty();
        if is_scalar && matches!(output.datatype(), Datatype::Fp32 | Datatype::Fp64) {
            return Ok(Self::Mean(mean::of_inputs(batch)?.into_iter()));
        }
        Ok(Self::Zeros)
    }

    fn next(&mut self, output: &TensorSpec) -> Result<Tensor, ModelError> {
        let too_few = || ModelError::new("there are fewer tensors than inputs; this is a bug");
        match self {
            Self::Input(tensors) => tensors.next().ok_or_else(too_few),
            Self::Mean(means) => scalar(output.datatype(), means.next().ok_or_else(too_few)?),
            Self::Zeros => zeros(output),
        }
    }
}

fn scalar(datatype: Datatype, number: f64) -> Result<Tensor, ModelError> {
    #[expect(clippy::cast_possible_truncation, reason = "the output has fewer digits")]
    let data = match datatype {
        Datatype::Fp32 => (number as f32).to_le_bytes().to_vec(),
        _ => number.to_le_bytes().to_vec(),
    };
    Ok(Tensor::new(datatype, [].as_slice(), data)?)
}

fn zeros(output: &TensorSpec) -> Result<Tensor, ModelError> {
    /// An element of BYTES that is empty is its length.
    const EMPTY: usize = 4;
    let lengths = output.shape().lengths().iter().map(|length| match length {
        Length::Fixed(length) => *length,
        Length::Any => 0,
    });
    let lengths: Vec<u64> = lengths.collect();
    let elements: usize = lengths
        .iter()
        .try_fold(1_usize, |elements, &length| {
            elements.checked_mul(usize::try_from(length).ok()?)
        })
        .ok_or_else(|| ModelError::new(format_args!("{output} does not fit into memory")))?;
    let bytes = elements * output.datatype().element_bytes().unwrap_or(EMPTY);
    Ok(Tensor::new(
        output.datatype(),
        lengths.as_slice(),
        vec![0; bytes],
    )?)
}

#[cfg(test)]
mod tests {
    use skysail_container_rpc::{Input, InputType, Signature};

    use super::*;

    fn signature(inputs: &[&str], outputs: &[&str]) -> Signature {
        let parse = |text: &&str| text.parse::<TensorSpec>().unwrap();
        Signature::tensors(inputs.iter().map(parse), outputs.iter().map(parse)).unwrap()
    }

    fn floats(numbers: &[f32]) -> Tensor {
        let data: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        Tensor::new(Datatype::Fp32, [numbers.len() as u64].as_slice(), data).unwrap()
    }

    fn bytes(numbers: &[u8]) -> Tensor {
        Tensor::new(
            Datatype::Uint8,
            [numbers.len() as u64].as_slice(),
            numbers.to_vec(),
        )
        .unwrap()
    }

    #[test]
    fn text_is_zero_for_rows_and_for_tensors() {
        let row = Batch::of(
            &InputType::Doubles.into(),
            &[Input::doubles(&[1.0]), Input::doubles(&[2.0])],
        );
        let row = row.unwrap();
        let outputs = answer(&row).unwrap().into_wire(&row).unwrap();
        assert_eq!((&outputs.data[..], outputs.lengths), (&b"00"[..], vec![1, 1]));
        let tensors = signature(&["a:FP32[1]"], &[]);
        let batch = Batch::of(&tensors, &[Input::tensors([floats(&[1.0])])]).unwrap();
        assert_eq!(answer(&batch).unwrap().into_wire(&batch).unwrap().data[..], *b"0");
    }

    #[test]
    fn an_output_is_its_input_a_mean_or_zeros() {
        let signature = signature(
            &["a:FP32[2]", "mask:UINT8[-1]"],
            &["mean:FP32[]", "mask:UINT8[-1]", "a:FP64[2,-1]", "text:BYTES[2]"],
        );
        let inputs = [
            Input::tensors([floats(&[1.0, 2.0]), bytes(&[3])]),
            Input::tensors([floats(&[4.0, 5.0]), bytes(&[0, 7])]),
        ];
        let batch = Batch::of(&signature, &inputs).unwrap();
        let outputs = answer(&batch).unwrap().into_wire(&batch).unwrap();
        let [mean, mask, zeros, text] = &outputs.tensors[..] else {
            panic!("{outputs:?}");
        };
        assert_eq!(
            mean.data[..],
            [2.0_f32.to_le_bytes(), 4.0_f32.to_le_bytes()].concat()
        );
        assert_eq!((mask.ragged, &mask.data[..]), (true, &[3, 0, 7][..]));
        assert_eq!((&zeros.shape[..], zeros.data.len()), (&[2, 0][..], 0));
        assert_eq!((&text.shape[..], &text.data[..]), (&[2][..], &[0; 16][..]));
    }

    #[test]
    fn the_mean_of_a_row_is_that_of_its_numbers() {
        let mean = ["mean:FP64".parse().unwrap()];
        let signature = Signature::row_to_tensors(InputType::Integers, mean).unwrap();
        let batch = Batch::of(&signature, &[Input::integers(&[1, 2, 6])]).unwrap();
        let outputs = answer(&batch).unwrap().into_wire(&batch).unwrap();
        assert_eq!(outputs.tensors[0].data[..], 3.0_f64.to_le_bytes());
    }
}

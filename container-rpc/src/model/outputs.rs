//! A model's answers, as it gives them.

use bytes::{Bytes, BytesMut};
use skysail_proto::container;
use skysail_proto::datatype::Datatype;
use skysail_proto::tensor::{Lengths, Tensor, TensorColumn};

use super::answers::{self, Answers};
use super::{Batch, Element, ModelError, little_endian, wire_index};

/// A model's answers, one for each input, in order.
///
/// Text is pushed, one input after the other. Tensors are either stacked, one array of all inputs for each name
/// ([`Outputs::stack`]), or pushed, all names of one input after the other ([`Outputs::push_tensors`]).
#[derive(Clone, Debug, Default)]
pub struct Outputs {
    pub(super) data: BytesMut,
    /// Bytes of each text that was pushed; 0 for tensors and errors.
    pub(super) lengths: Vec<u32>,
    pub(super) errors: Vec<container::InputError>,
    /// Arrays of all inputs.
    pub(super) stacked: Vec<TensorColumn>,
    /// The tensors of each input that was answered by [`Outputs::push_tensors`].
    pub(super) single: Vec<Vec<(String, Tensor)>>,
}

impl Outputs {
    /// No answers yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The answer to the next input.
    pub fn push(&mut self, text: &str) {
        self.data.extend_from_slice(text.as_bytes());
        self.lengths.push(u32::try_from(text.len()).unwrap_or(u32::MAX));
    }

    /// The next input could not be answered. For outputs that are pushed; with [`Outputs::stack`], use
    /// [`Outputs::fail`].
    pub fn push_error(&mut self, error: &ModelError) {
        self.fail(self.lengths.len(), error);
        self.lengths.push(0);
    }

    /// The answer to the next input: its tensors by their names, in any order.
    pub fn push_tensors<N: Into<String>>(&mut self, tensors: impl IntoIterator<Item = (N, Tensor)>) {
        let tensors = tensors.into_iter().map(|(name, tensor)| (name.into(), tensor));
        self.single.push(tensors.collect());
        self.lengths.push(0);
    }

    /// One tensor of all inputs: an array of the shape `[inputs, lengths…]`, its elements little-endian and row-major.
    /// They are not copied. The first length is the number of inputs also where tensors have no batch dimension.
    ///
    /// Where some inputs have no answer ([`Outputs::fail`]), the array is either of all inputs, and what it holds for
    /// those is dropped, or of the others only.
    ///
    /// Fails if the elements are not those of such an array.
    pub fn stack(
        &mut self,
        name: &str,
        datatype: Datatype,
        shape: &[usize],
        elements: impl Into<Bytes>,
    ) -> Result<(), ModelError> {
        let Some((&inputs, lengths)) = shape.split_first() else {
            return Err(ModelError::new(format_args!(
                "output `{name}` has no dimensions: the first one is the number of inputs"
            )));
        };
        let lengths: Lengths = lengths.iter().map(|&length| length as u64).collect();
        let column = TensorColumn::stacked(name, datatype, inputs, lengths, elements)
            .map_err(|error| ModelError::new(format_args!("output `{name}`: {error}")))?;
        self.stacked.push(column);
        Ok(())
    }

    /// One tensor of all inputs, as [`Outputs::stack`] takes it, of the datatype that the elements are written as. They
    /// are not copied. For BOOL, FP16 and BF16, stack what [`little_endian`] makes of the elements.
    pub fn stack_elements<T: Element>(
        &mut self,
        name: &str,
        shape: &[usize],
        elements: Vec<T>,
    ) -> Result<(), ModelError> {
        self.stack(name, T::DATATYPES[0], shape, little_endian(elements))
    }

    /// One tensor of all inputs, as [`Outputs::stack_elements`] takes it: an array of `[inputs, lengths…]`. It is copied
    /// only if it does not lie row by row.
    #[cfg(feature = "ndarray")]
    pub fn stack_array<T: Element>(
        &mut self,
        name: &str,
        array: ndarray::ArrayD<T>,
    ) -> Result<(), ModelError> {
        let shape = array.shape().to_vec();
        let array = if array.is_standard_layout() {
            array
        } else {
            array.as_standard_layout().into_owned()
        };
        let bytes = array.len() * size_of::<T>();
        let (elements, first) = array.into_raw_vec_and_offset();
        let first = first.unwrap_or(0) * size_of::<T>();
        let elements = little_endian(elements).slice(first..first + bytes);
        self.stack(name, T::DATATYPES[0], &shape, elements)
    }

    /// The input at `index` in the batch could not be answered. For outputs that are stacked.
    pub fn fail(&mut self, index: usize, error: &ModelError) {
        self.errors.push(container::InputError {
            index: wire_index(index),
            message: error.message().to_owned(),
            kind: container::InputErrorKind::Model as i32,
        });
    }

    /// No answers yet, with room for those of a batch: one allocation for `inputs` texts that take `bytes`
    /// bytes together.
    pub fn with_capacity(inputs: usize, bytes: usize) -> Self {
        Self {
            data: BytesMut::with_capacity(bytes),
            lengths: Vec::with_capacity(inputs),
            ..Self::default()
        }
    }

    /// Answers so far: those that were pushed, or the length of the first array that was stacked.
    pub fn len(&self) -> usize {
        self.stacked
            .first()
            .map_or(self.lengths.len(), |column| column.len().max(self.lengths.len()))
    }

    /// Whether there is no answer yet.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The outputs as they travel. Fails, with both in words, if they are not as the batch's signature says, or not one
    /// for each of its inputs.
    pub fn into_wire(self, batch: &Batch) -> Result<container::Outputs, ModelError> {
        let answers = self.answering(batch)?;
        Ok(answers.into_wire(batch.len()))
    }

    /// The answers to a batch's inputs, checked.
    pub(crate) fn answering(self, batch: &Batch) -> Result<Answers, ModelError> {
        answers::check(self, batch.signature(), batch.len()).map_err(ModelError::new)
    }
}

impl<T: AsRef<str>> FromIterator<T> for Outputs {
    fn from_iter<I: IntoIterator<Item = T>>(texts: I) -> Self {
        /// A label or a number: longer answers grow the buffer.
        const USUAL_BYTES: usize = 16;
        let texts = texts.into_iter();
        let (inputs, _) = texts.size_hint();
        let mut outputs = Self::with_capacity(inputs, inputs * USUAL_BYTES);
        for text in texts {
            outputs.push(text.as_ref());
        }
        outputs
    }
}

#[cfg(test)]
mod tests {
    use skysail_proto::signature::Signature;
    use skysail_proto::value::Input;

    use super::*;

    /// A batch of so many inputs, each to be answered with `p:FP32[2]`.
    fn batch(inputs: usize) -> Batch {
        let [input, output] = ["a:UINT8", "p:FP32[2]"].map(|text| text.parse().unwrap());
        let signature = Signature::tensors([input], [output]).unwrap();
        let one = Tensor::new(Datatype::Uint8, [].as_slice(), vec![0]).unwrap();
        Batch::of(&signature, &vec![Input::tensors([one]); inputs]).unwrap()
    }

    #[test]
    fn elements_that_are_stacked_are_not_copied() {
        let mut outputs = Outputs::new();
        let elements = vec![1.0_f32, 2.0, 3.0, 4.0];
        let place = elements.as_ptr().cast::<u8>();
        outputs.stack_elements("p", &[2, 2], elements).unwrap();
        assert_eq!(outputs.len(), 2);
        let wire = outputs.into_wire(&batch(2)).unwrap();
        assert_eq!((wire.inputs, &wire.tensors[0].shape[..]), (2, &[2][..]));
        assert_eq!(wire.tensors[0].data.as_ptr(), place);
    }

    #[test]
    fn an_array_without_dimensions_or_with_other_elements_is_refused() {
        let mut outputs = Outputs::new();
        let error = outputs.stack("p", Datatype::Fp32, &[], vec![0; 4]).unwrap_err();
        assert!(
            error.message().contains("the first one is the number of inputs"),
            "{error}"
        );
        let error = outputs.stack_elements("p", &[2, 2], vec![0.0_f32]).unwrap_err();
        assert_eq!(
            error.message(),
            "output `p`: a tensor of FP32 and shape [2,2] takes 16 bytes, and has 4"
        );
        assert!(outputs.is_empty());
    }

    #[test]
    fn inputs_that_failed_have_no_row_whether_the_array_has_one_for_them_or_not() {
        for rows in [3, 2] {
            let mut outputs = Outputs::new();
            let mut elements = vec![1.0_f32, 1.0, 2.0, 2.0, 3.0, 3.0];
            if rows == 2 {
                elements.drain(2..4);
            }
            outputs.stack_elements("p", &[rows, 2], elements).unwrap();
            outputs.fail(1, &ModelError::new("no"));
            let wire = outputs.into_wire(&batch(3)).unwrap();
            let expected = [1.0_f32, 1.0, 3.0, 3.0].map(f32::to_le_bytes).concat();
            assert_eq!((wire.inputs, &wire.tensors[0].data[..]), (3, &expected[..]));
        }
    }

    #[test]
    fn an_input_fails_once_and_only_if_it_is_there() {
        for indices in [&[3][..], &[1, 1]] {
            let mut outputs = Outputs::new();
            outputs.stack_elements("p", &[3, 2], vec![0.0_f32; 6]).unwrap();
            for &index in indices {
                outputs.fail(index, &ModelError::new("no"));
            }
            let error = outputs.into_wire(&batch(3)).unwrap_err();
            assert_eq!(error.message(), "the model answered 4 outputs for 3 inputs");
        }
    }

    #[test]
    fn a_batch_of_which_every_input_failed_has_no_columns() {
        let mut outputs = Outputs::new();
        outputs.push_error(&ModelError::new("no"));
        let wire = outputs.into_wire(&batch(1)).unwrap();
        assert_eq!((wire.inputs, wire.tensors.len(), wire.errors.len()), (1, 0, 1));
    }

    #[cfg(feature = "ndarray")]
    #[test]
    fn an_array_is_stacked_however_it_lies() {
        let rows = ndarray::array![[0.0_f32, 1.0, 2.0], [3.0, 4.0, 5.0]].into_dyn();
        let expected = [1.0_f32, 2.0, 4.0, 5.0].map(f32::to_le_bytes).concat();
        let right = rows.clone().slice_move(ndarray::s![.., 1..]).into_dyn();
        let turned = ndarray::array![[1.0_f32, 4.0], [2.0, 5.0]]
            .reversed_axes()
            .into_dyn();
        for array in [right, turned] {
            let mut outputs = Outputs::new();
            outputs.stack_array("p", array).unwrap();
            let wire = outputs.into_wire(&batch(2)).unwrap();
            assert_eq!(wire.tensors[0].data[..], expected);
        }
        let mut lower = Outputs::new();
        let last = rows.slice_move(ndarray::s![1.., ..2]).into_dyn();
        lower.stack_array("p", last).unwrap();
        let wire = lower.into_wire(&batch(1)).unwrap();
        assert_eq!(
            wire.tensors[0].data[..],
            [3.0_f32, 4.0].map(f32::to_le_bytes).concat()
        );
    }
}

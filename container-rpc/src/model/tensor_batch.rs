//! One tensor of all inputs of a batch, as a model reads it.

use std::sync::OnceLock;

use bytes::Bytes;
use skysail_proto::copies::copied;
use skysail_proto::datatype::Datatype;
use skysail_proto::tensor::{Form, Tensor, TensorColumn};

use super::ModelError;
use super::element::{Element, little_endian, rust_name};

/// One tensor of all inputs of a batch.
///
/// Where the inputs' shapes agree it is stacked: one array of `[inputs, lengths…]`, viewed where it was received. Where
/// they differ, which only a length of -1 allows, it is read one by one ([`TensorBatch::iter`]). Cloning shares the
/// buffers, and a clone may outlive the batch.
#[derive(Clone, Debug)]
pub struct TensorBatch {
    column: TensorColumn,
    /// The elements in a buffer that is aligned, made where somebody wants them as numbers and the received one is not.
    aligned: OnceLock<Bytes>,
}

impl TensorBatch {
    pub(super) fn new(column: TensorColumn) -> Self {
        Self {
            column,
            aligned: OnceLock::new(),
        }
    }

    /// The tensor's name.
    pub fn name(&self) -> &str {
        self.column.name()
    }

    /// What its elements are.
    pub fn datatype(&self) -> Datatype {
        self.column.datatype()
    }

    /// How many inputs there are.
    pub fn len(&self) -> usize {
        self.column.len()
    }

    /// Whether there is no input; never so in a batch that a model is given.
    pub fn is_empty(&self) -> bool {
        self.column.is_empty()
    }

    /// Whether the shapes of all inputs agree.
    pub fn is_stacked(&self) -> bool {
        matches!(self.column.form(), Form::Stacked { .. })
    }

    /// The shape of each input. Fails if they differ.
    pub fn lengths(&self) -> Result<&[u64], ModelError> {
        self.stacked().map(|(lengths, _)| lengths)
    }

    /// The shape of the whole array, `[inputs, lengths…]`. Fails if the inputs' shapes differ.
    pub fn shape(&self) -> Result<Vec<usize>, ModelError> {
        let lengths = self.lengths()?.iter().map(|&length| usize::try_from(length));
        let lengths: Result<Vec<_>, _> = lengths.collect();
        Ok([vec![self.len()], lengths?].concat())
    }

    /// The elements of the whole array `[inputs, lengths…]`, little-endian and row-major, where they were received: the
    /// buffer may start at any address. It is reference-counted. Fails if the inputs' shapes differ.
    ///
    /// An element of BYTES is its length, four bytes, and then its bytes.
    pub fn bytes(&self) -> Result<&Bytes, ModelError> {
        self.stacked().map(|(_, data)| data)
    }

    /// The elements of the whole array as numbers. Fails if the inputs' shapes differ, or the elements are others.
    ///
    /// A view where the received buffer happens to be aligned for them. Otherwise the elements are copied once, however
    /// often they are asked for.
    pub fn as_slice<T: Element>(&self) -> Result<&[T], ModelError> {
        if !T::DATATYPES.contains(&self.datatype()) {
            return Err(self.read_as_another::<T>());
        }
        let data = self.bytes()?;
        if let Ok(elements) = bytemuck::try_cast_slice(data) {
            return Ok(elements);
        }
        let aligned = self.aligned.get_or_init(|| {
            copied(data.len());
            little_endian(bytemuck::pod_collect_to_vec::<u8, T>(data))
        });
        Ok(bytemuck::try_cast_slice(aligned).expect("it was made of such elements; this is a bug"))
    }

    /// The tensors of the inputs, one by one, whether their shapes agree or not. They share the buffer.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Tensor> {
        self.column.iter()
    }

    /// The elements of the whole array as an array of `ndarray`, `[inputs, lengths…]`. Fails and copies as
    /// [`TensorBatch::as_slice`] does.
    #[cfg(feature = "ndarray")]
    pub fn view<T: Element>(&self) -> Result<ndarray::ArrayViewD<'_, T>, ModelError> {
        let view = ndarray::ArrayViewD::from_shape(self.shape()?, self.as_slice()?);
        Ok(view?)
    }

    fn stacked(&self) -> Result<(&[u64], &Bytes), ModelError> {
        match self.column.form() {
            Form::Stacked { lengths, data, .. } => Ok((lengths, data)),
            Form::Ragged(_) => Err(ModelError::new(format_args!(
                "tensor `{}` has several shapes in this batch: read its inputs one by one, or deploy with --max-batch 1",
                self.name()
            ))),
        }
    }

    fn read_as_another<T>(&self) -> ModelError {
        let (name, datatype) = (self.name(), self.datatype());
        let read_as = std::any::type_name::<T>();
        ModelError::new(match rust_name(datatype) {
            Some(number) => {
                format!(
                    "tensor `{name}` is {datatype}, and the model reads it as {read_as}: read it as {number}"
                )
            }
            None => format!(
                "tensor `{name}` is {datatype}, and the model reads it as {read_as}: read its elements one by one"
            ),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn floats(count: usize, shift: usize) -> TensorBatch {
        let numbers: Vec<f32> = (0..count * 6).map(|number| number as f32).collect();
        let mut data = vec![0; shift];
        data.extend_from_slice(bytemuck::cast_slice(&numbers));
        let data = Bytes::from(data).slice(shift..);
        let column = TensorColumn::stacked("a", Datatype::Fp32, count, [2, 3].as_slice(), data);
        TensorBatch::new(column.unwrap())
    }

    #[test]
    fn elements_are_read_wherever_the_buffer_starts() {
        for shift in 0..8 {
            let batch = floats(2, shift);
            assert_eq!(batch.shape().unwrap(), [2, 2, 3]);
            let numbers = batch.as_slice::<f32>().unwrap();
            assert_eq!(numbers[11], 11.0);
            assert_eq!(
                numbers.as_ptr(),
                batch.as_slice::<f32>().unwrap().as_ptr(),
                "copied twice"
            );
        }
    }

    #[test]
    fn elements_of_another_datatype_are_refused_with_what_they_are() {
        let error = floats(1, 0).as_slice::<i64>().unwrap_err();
        assert_eq!(
            error.message(),
            "tensor `a` is FP32, and the model reads it as i64: read it as f32"
        );
        let text = TensorColumn::stacked("t", Datatype::Bytes, 0, [].as_slice(), Bytes::new()).unwrap();
        let error = TensorBatch::new(text).as_slice::<u8>().unwrap_err();
        assert!(error.message().contains("one by one"), "{error}");
    }

    #[test]
    fn shapes_that_differ_are_read_one_by_one() {
        let tensor = |length: u64| {
            let data = vec![1; usize::try_from(length).unwrap()];
            Tensor::new(Datatype::Uint8, [length].as_slice(), data).unwrap()
        };
        let tensors = [tensor(1), tensor(2)];
        let batch = TensorBatch::new(TensorColumn::of("m", Datatype::Uint8, tensors.iter()));
        assert!(!batch.is_stacked());
        assert!(
            batch
                .bytes()
                .unwrap_err()
                .message()
                .contains("`m` has several shapes")
        );
        assert!(batch.as_slice::<u8>().is_err() && batch.shape().is_err());
        assert_eq!(batch.iter().collect::<Vec<_>>(), tensors);
    }

    #[test]
    fn a_clone_keeps_the_buffer() {
        let batch = floats(1, 0);
        let kept = batch.bytes().unwrap().clone();
        let place = batch.bytes().unwrap().as_ptr();
        drop(batch);
        assert_eq!(kept.as_ptr(), place);
    }

    #[cfg(feature = "ndarray")]
    #[test]
    fn an_array_is_a_view() {
        let batch = floats(2, 0);
        let view = batch.view::<f32>().unwrap();
        assert_eq!(view.shape(), [2, 2, 3]);
        assert_eq!(view[[1, 0, 2]], 8.0);
        assert_eq!(view.as_ptr(), batch.as_slice::<f32>().unwrap().as_ptr());
        assert!(batch.view::<f64>().is_err());
    }
}

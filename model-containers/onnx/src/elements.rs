//! Tensors as they travel become tract's, and back.

use std::sync::Arc;

use bytes::Bytes;
use skysail_proto::datatype::Datatype;
use skysail_proto::tensor::{Lengths, Tensor, TensorError};
use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::prelude as tract;
use tract_onnx::prelude::{DatumType, TractResult};

/// Bytes of the length in front of each text.
const PREFIX: usize = 4;

/// What one of ONNX's datatypes is here; `None` for those that tract does not have. Strings are BYTES.
pub(crate) fn datatype(number: i32) -> Option<Datatype> {
    Some(match DataType::try_from(number).ok()? {
        DataType::Bool => Datatype::Bool,
        DataType::Uint8 => Datatype::Uint8,
        DataType::Uint16 => Datatype::Uint16,
        DataType::Uint32 => Datatype::Uint32,
        DataType::Uint64 => Datatype::Uint64,
        DataType::Int8 => Datatype::Int8,
        DataType::Int16 => Datatype::Int16,
        DataType::Int32 => Datatype::Int32,
        DataType::Int64 => Datatype::Int64,
        DataType::Float16 => Datatype::Fp16,
        DataType::Float => Datatype::Fp32,
        DataType::Double => Datatype::Fp64,
        DataType::String => Datatype::Bytes,
        _ => return None,
    })
}

/// How ONNX writes a datatype, for errors.
pub(crate) fn datatype_name(number: i32) -> String {
    DataType::try_from(number).map_or_else(
        |_| format!("datatype {number}"),
        |known| known.as_str_name().to_owned(),
    )
}

/// What tract calls a datatype; it has no BF16.
pub(crate) fn datum_type(datatype: Datatype) -> Option<DatumType> {
    Some(match datatype {
        Datatype::Bool => DatumType::Bool,
        Datatype::Uint8 => DatumType::U8,
        Datatype::Uint16 => DatumType::U16,
        Datatype::Uint32 => DatumType::U32,
        Datatype::Uint64 => DatumType::U64,
        Datatype::Int8 => DatumType::I8,
        Datatype::Int16 => DatumType::I16,
        Datatype::Int32 => DatumType::I32,
        Datatype::Int64 => DatumType::I64,
        Datatype::Fp16 => DatumType::F16,
        Datatype::Fp32 => DatumType::F32,
        Datatype::Fp64 => DatumType::F64,
        Datatype::Bytes => DatumType::String,
        Datatype::Bf16 => return None,
    })
}

/// What one of tract's datatypes is here. `TDim`, its own integer for lengths, is INT64.
pub(crate) fn datatype_of(datum_type: DatumType) -> Option<Datatype> {
    if datum_type.is_tdim() {
        return Some(Datatype::Int64);
    }
    let datum_type = datum_type.unquantized();
    let same = |&datatype: &Datatype| self::datum_type(datatype) == Some(datum_type);
    Datatype::ALL.into_iter().find(same)
}

/// A tensor whose elements tract cannot take.
#[derive(Debug)]
pub(crate) enum Unfit {
    /// The text of this number is not UTF-8.
    Utf8(usize),
    /// Whatever tract says.
    Tract(tract::TractError),
}

impl From<tract::TractError> for Unfit {
    fn from(error: tract::TractError) -> Self {
        Self::Tract(error)
    }
}

/// Copies a tensor into a buffer of tract's.
pub(crate) fn to_tract(tensor: &Tensor) -> Result<tract::Tensor, Unfit> {
    let shape: Vec<usize> = shape(tensor)?;
    let Some(datum_type) = datum_type(tensor.datatype()) else {
        return Err(Unfit::Tract(tract::TractError::msg("there is no BF16 in tract")));
    };
    if datum_type == DatumType::String {
        return texts(tensor, &shape);
    }
    let mut copy = tract::Tensor::zero_dt(datum_type, &shape)?;
    copy.as_bytes_mut().copy_from_slice(tensor.data());
    Ok(copy)
}

fn shape(tensor: &Tensor) -> TractResult<Vec<usize>> {
    let lengths = tensor.lengths().iter();
    Ok(lengths
        .map(|&length| usize::try_from(length))
        .collect::<Result<_, _>>()?)
}

fn texts(tensor: &Tensor, shape: &[usize]) -> Result<tract::Tensor, Unfit> {
    let mut texts = Vec::new();
    for (number, element) in tensor.byte_elements().enumerate() {
        let text = String::from_utf8(element.into()).map_err(|_| Unfit::Utf8(number))?;
        texts.push(text);
    }
    let array =
        tract::tract_ndarray::ArrayD::from_shape_vec(shape, texts).map_err(tract::TractError::from)?;
    Ok(array.into())
}

/// Hands out a tensor of tract's without a copy, except for texts.
pub(crate) fn from_tract(tensor: Arc<tract::Tensor>, datatype: Datatype) -> Result<Tensor, TensorError> {
    let lengths: Lengths = tensor.shape().iter().map(|&length| length as u64).collect();
    let data = match datatype {
        Datatype::Bytes => prefixed(&tensor),
        _ => Bytes::from_owner(Elements(tensor)),
    };
    Tensor::new(datatype, lengths, data)
}

/// Texts with their lengths in front.
fn prefixed(tensor: &tract::Tensor) -> Bytes {
    let view = tensor.as_plain_ram();
    let texts = view
        .as_ref()
        .and_then(|view| view.as_slice::<String>().ok())
        .unwrap_or_default();
    let mut written = Vec::with_capacity(texts.iter().map(|text| PREFIX + text.len()).sum());
    for text in texts {
        // A text of 4 GiB is larger than any message.
        let length = u32::try_from(text.len()).unwrap_or(u32::MAX);
        written.extend_from_slice(&length.to_le_bytes());
        written.extend_from_slice(text.as_bytes());
    }
    written.into()
}

/// The elements of a tensor of numbers, which lives as long as its bytes are needed.
struct Elements(Arc<tract::Tensor>);

impl AsRef<[u8]> for Elements {
    fn as_ref(&self) -> &[u8] {
        self.0.as_plain_ram().map_or(&[], |view| view.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_datatype_but_bf16_goes_to_tract_and_back() {
        for datatype in Datatype::ALL
            .into_iter()
            .filter(|&datatype| datatype != Datatype::Bf16)
        {
            let data: Bytes = match datatype.element_bytes() {
                Some(bytes) => vec![1; 6 * bytes].into(),
                None => [1, 0, 0, 0, b'a'].repeat(6).into(),
            };
            let tensor = Tensor::new(datatype, [2_u64, 3].as_slice(), data).unwrap();
            let tract = to_tract(&tensor).unwrap();
            assert_eq!(datatype_of(tract.datum_type()), Some(datatype));
            assert_eq!(
                from_tract(Arc::new(tract), datatype).unwrap(),
                tensor,
                "{datatype}"
            );
        }
    }

    #[test]
    fn text_that_is_none_is_told_by_its_number() {
        let data = [1, 0, 0, 0, b'a', 1, 0, 0, 0, 0xff].to_vec();
        let tensor = Tensor::new(Datatype::Bytes, [2_u64].as_slice(), data).unwrap();
        assert!(matches!(to_tract(&tensor), Err(Unfit::Utf8(1))));
    }

    #[test]
    fn tensors_without_elements_are_tensors() {
        let tensor = Tensor::new(Datatype::Fp32, [0_u64, 4].as_slice(), Bytes::new()).unwrap();
        let tract = to_tract(&tensor).unwrap();
        assert_eq!(from_tract(Arc::new(tract), Datatype::Fp32).unwrap(), tensor);
    }
}

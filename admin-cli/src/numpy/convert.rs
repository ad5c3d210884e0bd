//! Arrays become tensors, where that loses nothing.
//!
//! Elements of the tensor's own datatype are taken as they are. Integers widen, and become floats that hold all integers
//! of their type; floats widen. Text becomes UTF-8 bytes. Anything else is refused with the words that convert it in
//! NumPy: what is lost there is for the owner of the array to decide.

use half::{bf16, f16};
use skysail_proto::datatype::Datatype;
use skysail_proto::signature::TensorSpec;
use skysail_proto::tensor::Tensor;

use super::array::{Array, Slice};
use super::header::Kind;

/// Why an array is not a tensor of the signature.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum Unfit {
    #[error("the array is {given} and tensor {spec} is {}; convert it first, as in {advice}", spec.datatype())]
    Datatype {
        given: String,
        spec: TensorSpec,
        advice: String,
    },
    #[error(
        "the array has shape {given:?} and the tensor is {spec}; that shape, or a dimension more before it for several \
         inputs, is taken"
    )]
    Shape { given: Vec<u64>, spec: TensorSpec },
    #[error("an element of tensor {spec} is not valid UTF-8")]
    Utf8 { spec: TensorSpec },
    #[error("{0}")]
    Tensor(String),
}

/// The elements as a tensor of this specification, whose shape they are known to fit.
pub(super) fn tensor(slice: Slice<'_>, spec: &TensorSpec) -> Result<Tensor, Unfit> {
    let data = data(slice, spec)?;
    Tensor::new(spec.datatype(), slice.shape, data).map_err(|error| Unfit::Tensor(error.to_string()))
}

fn data(slice: Slice<'_>, spec: &TensorSpec) -> Result<Vec<u8>, Unfit> {
    let Array { kind, item_bytes, .. } = *slice.array;
    match (kind, spec.datatype()) {
        (Kind::Bytes | Kind::Text, Datatype::Bytes) => bytes(slice, spec),
        _ if own_datatype(kind, item_bytes) == Some(spec.datatype()) => Ok(slice.data.to_vec()),
        _ => numbers(slice, spec),
    }
}

/// The datatype that the elements have as they are.
fn own_datatype(kind: Kind, item_bytes: usize) -> Option<Datatype> {
    Some(match (kind, item_bytes) {
        (Kind::Bool, _) => Datatype::Bool,
        (Kind::Unsigned, 1) => Datatype::Uint8,
        (Kind::Unsigned, 2) => Datatype::Uint16,
        (Kind::Unsigned, 4) => Datatype::Uint32,
        (Kind::Unsigned, 8) => Datatype::Uint64,
        (Kind::Signed, 1) => Datatype::Int8,
        (Kind::Signed, 2) => Datatype::Int16,
        (Kind::Signed, 4) => Datatype::Int32,
        (Kind::Signed, 8) => Datatype::Int64,
        (Kind::Float, 2) => Datatype::Fp16,
        (Kind::Float, 4) => Datatype::Fp32,
        (Kind::Float, 8) => Datatype::Fp64,
        (Kind::Void, 2) => Datatype::Bf16,
        _ => return None,
    })
}

/// Each element's length and bytes.
fn bytes(slice: Slice<'_>, spec: &TensorSpec) -> Result<Vec<u8>, Unfit> {
    let mut data = Vec::with_capacity(slice.data.len());
    for element in slice.data.chunks_exact(slice.array.item_bytes) {
        let element = match slice.array.kind {
            Kind::Text => text(element).ok_or_else(|| Unfit::Utf8 { spec: spec.clone() })?,
            _ => without_zeros(element).to_vec(),
        };
        if spec.is_utf8() && std::str::from_utf8(&element).is_err() {
            return Err(Unfit::Utf8 { spec: spec.clone() });
        }
        let length = u32::try_from(element.len())
            .map_err(|_| Unfit::Tensor("an element has more than 4 GiB".to_owned()))?;
        data.extend_from_slice(&length.to_le_bytes());
        data.extend_from_slice(&element);
    }
    Ok(data)
}

/// An element without the zeros that fill it up. NumPy drops all of them, too.
fn without_zeros(element: &[u8]) -> &[u8] {
    let end = element
        .iter()
        .rposition(|&byte| byte != 0)
        .map_or(0, |last| last + 1);
    &element[..end]
}

/// Characters of 32 bits as UTF-8; `None` if one is none.
fn text(element: &[u8]) -> Option<Vec<u8>> {
    let characters = element
        .chunks_exact(4)
        .map(|unit| char::from_u32(u32::from_le_bytes([unit[0], unit[1], unit[2], unit[3]])));
    let text: String = characters.collect::<Option<String>>()?;
    Some(text.trim_end_matches('\0').to_owned().into_bytes())
}

/// A number of an array.
#[derive(Clone, Copy)]
enum Number {
    Integer(i128),
    Float(f64),
}

/// How many bits of an integer, its sign aside, the elements hold at most; `None` for floats.
fn integer_bits(kind: Kind, item_bytes: usize) -> Option<u32> {
    let bits = u32::try_from(item_bytes * 8).ok()?;
    match kind {
        Kind::Bool => Some(1),
        Kind::Unsigned => Some(bits),
        Kind::Signed => Some(bits - 1),
        _ => None,
    }
}

/// Whether each element of this type is one of the datatype, without a loss.
fn widens(kind: Kind, item_bytes: usize, datatype: Datatype) -> bool {
    if let Some(bits) = integer_bits(kind, item_bytes) {
        let signed = kind == Kind::Signed;
        return match datatype {
            Datatype::Uint8 => !signed && bits <= 8,
            Datatype::Uint16 => !signed && bits <= 16,
            Datatype::Uint32 => !signed && bits <= 32,
            Datatype::Uint64 => !signed && bits <= 64,
            Datatype::Int8 => bits <= 7,
            Datatype::Int16 => bits <= 15,
            Datatype::Int32 => bits <= 31,
            Datatype::Int64 => bits <= 63,
            // The digits of a float, in bits.
            Datatype::Bf16 => bits <= 8,
            Datatype::Fp16 => bits <= 11,
            Datatype::Fp32 => bits <= 24,
            Datatype::Fp64 => bits <= 53,
            Datatype::Bool | Datatype::Bytes => false,
        };
    }
    match (kind, item_bytes) {
        (Kind::Float | Kind::Void, 2) => matches!(datatype, Datatype::Fp32 | Datatype::Fp64),
        (Kind::Float, 4) => datatype == Datatype::Fp64,
        _ => false,
    }
}

/// Each number, in the wider datatype.
fn numbers(slice: Slice<'_>, spec: &TensorSpec) -> Result<Vec<u8>, Unfit> {
    let Array { kind, item_bytes, .. } = *slice.array;
    if !widens(kind, item_bytes, spec.datatype()) {
        return Err(Unfit::Datatype {
            given: slice.array.type_name(),
            spec: spec.clone(),
            advice: advice(spec.datatype()),
        });
    }
    let elements = slice.data.len() / item_bytes;
    let mut data = Vec::with_capacity(elements * spec.datatype().element_bytes().unwrap_or(0));
    for element in slice.data.chunks_exact(item_bytes) {
        write(number(kind, element), spec.datatype(), &mut data);
    }
    Ok(data)
}

fn number(kind: Kind, element: &[u8]) -> Number {
    let mut bytes = [0; 8];
    bytes[..element.len()].copy_from_slice(element);
    let bits = u64::from_le_bytes(bytes);
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the bits above the element's own are zeros"
    )]
    match (kind, element.len()) {
        (Kind::Signed, length) => {
            // The sign stands in the highest bit of the element: it is moved to that of the number and back.
            let shift = 64 - 8 * u32::try_from(length).unwrap_or(8);
            Number::Integer(((bits << shift).cast_signed() >> shift).into())
        }
        (Kind::Float, 2) => Number::Float(f16::from_bits(bits as u16).to_f64()),
        (Kind::Void, _) => Number::Float(bf16::from_bits(bits as u16).to_f64()),
        (Kind::Float, 4) => Number::Float(f32::from_bits(bits as u32).into()),
        (Kind::Float, _) => Number::Float(f64::from_bits(bits)),
        _ => Number::Integer(bits.into()),
    }
}

/// Appends a number that the datatype holds.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    reason = "the datatype holds the number: that was checked for all numbers of the array's type"
)]
fn write(number: Number, datatype: Datatype, data: &mut Vec<u8>) {
    let float = match number {
        Number::Integer(integer) => integer as f64,
        Number::Float(float) => float,
    };
    match datatype {
        Datatype::Fp64 => return data.extend_from_slice(&float.to_le_bytes()),
        Datatype::Fp32 => return data.extend_from_slice(&(float as f32).to_le_bytes()),
        Datatype::Fp16 => return data.extend_from_slice(&f16::from_f64(float).to_le_bytes()),
        Datatype::Bf16 => return data.extend_from_slice(&bf16::from_f64(float).to_le_bytes()),
        _ => {}
    }
    if let Number::Integer(integer) = number {
        let bytes = datatype.element_bytes().unwrap_or(0);
        data.extend_from_slice(&integer.to_le_bytes()[..bytes]);
    }
}

/// What to write in Python.
fn advice(datatype: Datatype) -> String {
    let name = match datatype {
        Datatype::Bool => "bool",
        Datatype::Uint8 => "uint8",
        Datatype::Uint16 => "uint16",
        Datatype::Uint32 => "uint32",
        Datatype::Uint64 => "uint64",
        Datatype::Int8 => "int8",
        Datatype::Int16 => "int16",
        Datatype::Int32 => "int32",
        Datatype::Int64 => "int64",
        Datatype::Fp16 => "float16",
        Datatype::Fp32 => "float32",
        Datatype::Fp64 => "float64",
        Datatype::Bytes => "S",
        Datatype::Bf16 => return "a.astype(ml_dtypes.bfloat16)".to_owned(),
    };
    format!("a.astype(\"{name}\")")
}

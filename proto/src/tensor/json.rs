//! Tensors as JSON: arrays nested as deep as the tensor has dimensions; a scalar is a bare value.
//!
//! | datatype | an element in JSON |
//! |---|---|
//! | BOOL | `true` or `false` |
//! | integers | a number without a fraction that the datatype can hold |
//! | floats | a number that rounds to a finite one, or one of `"NaN"`, `"Infinity"`, `"-Infinity"` |
//! | BYTES | a base64 string; a plain string if the specification says `utf8` |
//!
//! Arrays that are not there have no length. If a dimension has the length 0, the lengths of those within it are the
//! specification's fixed ones, and 0 where it says -1: `[]` is a tensor of `[0,3]` for `x:FP32[-1,3]`, and of `[0,0]` for
//! `x:FP32[-1,-1]`. So values come back with their shape wherever the specification fixes the lengths within.

use std::marker::PhantomData;

use serde::de::{DeserializeSeed, Deserializer};

use super::Tensor;
use crate::datatype::Datatype;
use crate::signature::TensorSpec;

mod element;
mod read;
mod write;

use element::{Base64, Element, Text};
use read::Reader;

pub(crate) use write::write_named;

/// Parses one tensor from any JSON deserializer, straight into the buffer that travels.
///
/// An error names the tensor and the place in it: `image[3][0]: 300 does not fit UINT8 (0 to 255)`.
#[derive(Clone, Copy)]
pub(crate) struct TensorSeed<'a>(pub(crate) &'a TensorSpec);

impl<'de> DeserializeSeed<'de> for TensorSeed<'_> {
    type Value = Tensor;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Tensor, D::Error> {
        let read = Read {
            spec: self.0,
            deserializer,
            json: PhantomData,
        };
        for_element(self.0, read)
    }
}

/// Work that is compiled for each element type.
trait ForElement {
    type Done;
    fn run<E: Element>(self, element: PhantomData<E>) -> Self::Done;
}

/// Does the work for the element type of a specification.
fn for_element<W: ForElement>(spec: &TensorSpec, work: W) -> W::Done {
    match spec.datatype() {
        Datatype::Bool => work.run(PhantomData::<bool>),
        Datatype::Uint8 => work.run(PhantomData::<u8>),
        Datatype::Uint16 => work.run(PhantomData::<u16>),
        Datatype::Uint32 => work.run(PhantomData::<u32>),
        Datatype::Uint64 => work.run(PhantomData::<u64>),
        Datatype::Int8 => work.run(PhantomData::<i8>),
        Datatype::Int16 => work.run(PhantomData::<i16>),
        Datatype::Int32 => work.run(PhantomData::<i32>),
        Datatype::Int64 => work.run(PhantomData::<i64>),
        Datatype::Fp16 => work.run(PhantomData::<half::f16>),
        Datatype::Bf16 => work.run(PhantomData::<half::bf16>),
        Datatype::Fp32 => work.run(PhantomData::<f32>),
        Datatype::Fp64 => work.run(PhantomData::<f64>),
        Datatype::Bytes if spec.is_utf8() => work.run(PhantomData::<Text>),
        Datatype::Bytes => work.run(PhantomData::<Base64>),
    }
}

struct Read<'de, 'a, D> {
    spec: &'a TensorSpec,
    deserializer: D,
    json: PhantomData<&'de ()>,
}

impl<'de, D: Deserializer<'de>> ForElement for Read<'de, '_, D> {
    type Done = Result<Tensor, D::Error>;
    fn run<E: Element>(self, element: PhantomData<E>) -> Self::Done {
        Reader::new(self.spec).read(element, self.deserializer)
    }
}

#[cfg(test)]
mod tests;

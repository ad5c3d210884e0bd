//! Tensors: the values that [`signature`](crate::signature)s declare.
//!
//! A [`Tensor`] is one input's or one output's, so it has no batch dimension. A [`TensorColumn`] is the same tensor of
//! all inputs of a batch. Both keep elements as they travel, and cloning shares the buffer.

use std::fmt;

use bytes::{Buf, Bytes};
use smallvec::SmallVec;

use crate::copies::copied;
use crate::datatype::Datatype;
use crate::signature::{MOST_DIMENSIONS, TensorSpec};

mod column;
pub(crate) mod json;

pub use column::{Form, TensorColumn};

/// The lengths of a tensor, the outermost first; empty for a scalar.
pub type Lengths = SmallVec<[u64; 4]>;

/// The bytes of the length in front of each element of [`Datatype::Bytes`].
const PREFIX: usize = 4;

/// The most empty arrays of which a tensor without elements may consist: they take no bytes on the wire, and three each in
/// JSON.
const MOST_EMPTY: u64 = 65_536;

/// One tensor: elements, little-endian and row-major, and what they are.
///
/// Cloning shares the buffer. Equality is that of the bytes, so `0.0` and `-0.0` differ.
#[derive(Clone, Eq, Hash, PartialEq)]
pub struct Tensor {
    datatype: Datatype,
    lengths: Lengths,
    data: Bytes,
}

/// Why bytes are not the elements of a tensor.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum TensorError {
    /// Another number of bytes than the shape says.
    #[error("a tensor of {datatype} and shape {lengths} takes {expected} bytes, and has {got}")]
    Size {
        /// What its elements are.
        datatype: Datatype,
        /// Its shape.
        lengths: String,
        /// Bytes that such a tensor has.
        expected: u64,
        /// Bytes there are.
        got: usize,
    },
    /// A shape whose elements cannot be counted.
    #[error("a tensor of shape {0} is too large for any machine")]
    TooLarge(String),
    /// A shape without elements, of too many empty arrays.
    #[error("a tensor of shape {0} is more than {MOST_EMPTY} empty arrays")]
    Empty(String),
    /// Too many dimensions.
    #[error("a tensor has at most {MOST_DIMENSIONS} dimensions, not {0}")]
    Dimensions(usize),
    /// The lengths of BYTES elements do not add up to the data.
    #[error(
        "BYTES of shape {lengths} are {expected} elements, and the data has {got} whole ones in {bytes} bytes"
    )]
    Elements {
        /// Its shape.
        lengths: String,
        /// Elements of that shape.
        expected: u64,
        /// Whole elements there are.
        got: u64,
        /// Bytes there are.
        bytes: usize,
    },
    /// Text that is not UTF-8.
    #[error("element {0} is not valid UTF-8")]
    Utf8(u64),
    /// A truth value that is neither 0 nor 1.
    #[error("element {0} of a BOOL tensor is neither 0 nor 1")]
    Bool(usize),
}

impl Tensor {
    /// Takes elements, and checks that they are as many as the shape says.
    pub fn new(
        datatype: Datatype,
        lengths: impl Into<Lengths>,
        data: impl Into<Bytes>,
    ) -> Result<Self, TensorError> {
        let (lengths, data) = (lengths.into(), data.into());
        check(datatype, &lengths, &data)?;
        Ok(Self {
            datatype,
            lengths,
            data,
        })
    }

    /// A tensor of elements that were checked before.
    pub(crate) fn checked(datatype: Datatype, lengths: Lengths, data: Bytes) -> Self {
        Self {
            datatype,
            lengths,
            data,
        }
    }

    /// What its elements are.
    pub fn datatype(&self) -> Datatype {
        self.datatype
    }

    /// Its lengths, the outermost first.
    pub fn lengths(&self) -> &[u64] {
        &self.lengths
    }

    /// Its elements, little-endian and row-major.
    pub fn data(&self) -> &Bytes {
        &self.data
    }

    /// How many elements it has.
    pub fn elements(&self) -> u64 {
        count(&self.lengths).expect("counted when it was made; this is a bug")
    }

    /// The same tensor in a buffer of its own, no larger than it needs.
    #[must_use]
    pub fn detached(&self) -> Self {
        copied(self.data.len());
        Self {
            datatype: self.datatype,
            lengths: self.lengths.clone(),
            data: Bytes::copy_from_slice(&self.data),
        }
    }

    /// The elements of a tensor of [`Datatype::Bytes`], in order; none of any other.
    pub fn byte_elements(&self) -> impl Iterator<Item = Bytes> + use<> {
        let of_bytes = self.datatype == Datatype::Bytes;
        let mut rest = if of_bytes { self.data.clone() } else { Bytes::new() };
        std::iter::from_fn(move || next_element(&mut rest))
    }

    /// Whether it is what is declared: datatype, shape, and text where it must be.
    pub fn is(&self, spec: &TensorSpec) -> bool {
        self.datatype == spec.datatype() && spec.shape().takes(&self.lengths) && self.is_text(spec)
    }

    fn is_text(&self, spec: &TensorSpec) -> bool {
        !spec.is_utf8()
            || self
                .byte_elements()
                .all(|element| std::str::from_utf8(&element).is_ok())
    }
}

impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tensor({}{})", self.datatype, written(&self.lengths))
    }
}

/// A shape for people: `[224,224,3]`.
pub(crate) fn written(lengths: &[u64]) -> String {
    let lengths: Vec<_> = lengths.iter().map(u64::to_string).collect();
    format!("[{}]", lengths.join(","))
}

/// Checks that the data is that of a tensor.
fn check(datatype: Datatype, lengths: &[u64], data: &Bytes) -> Result<(), TensorError> {
    check_shape(lengths)?;
    check_data(datatype, lengths, data)
}

/// Checks that a tensor can have these lengths.
fn check_shape(lengths: &[u64]) -> Result<(), TensorError> {
    if lengths.len() > MOST_DIMENSIONS {
        return Err(TensorError::Dimensions(lengths.len()));
    }
    let Some(empty) = lengths.iter().position(|&length| length == 0) else {
        return count(lengths).map(|_| ());
    };
    match count(&lengths[..empty]) {
        Ok(0..=MOST_EMPTY) => Ok(()),
        _ => Err(TensorError::Empty(written(lengths))),
    }
}

/// Checks that there are as many elements as the lengths say.
fn check_data(datatype: Datatype, lengths: &[u64], data: &Bytes) -> Result<(), TensorError> {
    let elements = count(lengths)?;
    let Some(element_bytes) = datatype.element_bytes() else {
        return check_elements(lengths, elements, data);
    };
    let expected = elements
        .checked_mul(element_bytes as u64)
        .ok_or_else(|| TensorError::TooLarge(written(lengths)))?;
    if expected != data.len() as u64 {
        return Err(TensorError::Size {
            datatype,
            lengths: written(lengths),
            expected,
            got: data.len(),
        });
    }
    match datatype {
        Datatype::Bool => match data.iter().position(|&byte| byte > 1) {
            Some(place) => Err(TensorError::Bool(place)),
            None => Ok(()),
        },
        _ => Ok(()),
    }
}

/// How many elements a tensor of these lengths has.
pub(crate) fn count(lengths: &[u64]) -> Result<u64, TensorError> {
    // A dimension of length 0 leaves no element, however long the others are.
    if lengths.contains(&0) {
        return Ok(0);
    }
    let product = lengths
        .iter()
        .try_fold(1_u64, |product, &length| product.checked_mul(length));
    product.ok_or_else(|| TensorError::TooLarge(written(lengths)))
}

fn check_elements(lengths: &[u64], expected: u64, data: &Bytes) -> Result<(), TensorError> {
    let mut rest = data.clone();
    let mut got = 0;
    while next_element(&mut rest).is_some() {
        got += 1;
    }
    if got == expected && rest.is_empty() {
        return Ok(());
    }
    Err(TensorError::Elements {
        lengths: written(lengths),
        expected,
        got,
        bytes: data.len(),
    })
}

/// Takes one element of BYTES off the front; `None`, and nothing taken, if there is no whole one.
fn next_element(rest: &mut Bytes) -> Option<Bytes> {
    let prefix = rest.get(..PREFIX)?;
    let length = u32::from_le_bytes(prefix.try_into().expect("it has four bytes; this is a bug")) as usize;
    if rest.len() - PREFIX < length {
        return None;
    }
    rest.advance(PREFIX);
    Some(rest.split_to(length))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(datatype: Datatype, lengths: &[u64], data: &[u8]) -> Result<Tensor, String> {
        Tensor::new(datatype, lengths, data.to_vec()).map_err(|error| error.to_string())
    }

    #[test]
    fn a_tensor_has_as_many_bytes_as_its_shape_says() {
        assert!(tensor(Datatype::Fp32, &[2, 3], &[0; 24]).is_ok());
        assert!(tensor(Datatype::Fp32, &[], &[0; 4]).is_ok());
        assert!(tensor(Datatype::Fp32, &[7, 0], &[]).is_ok());
        let error = tensor(Datatype::Fp32, &[2, 3], &[0; 20]).unwrap_err();
        assert_eq!(
            error,
            "a tensor of FP32 and shape [2,3] takes 24 bytes, and has 20"
        );
        let error = tensor(Datatype::Uint8, &[1 << 40, 1 << 40], &[]).unwrap_err();
        assert!(error.contains("too large"), "{error}");
        let error = tensor(Datatype::Fp64, &[1 << 62], &[]).unwrap_err();
        assert!(error.contains("too large"), "{error}");
        let error = tensor(Datatype::Uint8, &[1; 17], &[1]).unwrap_err();
        assert!(error.contains("at most 16"), "{error}");
        let error = tensor(Datatype::Bool, &[2], &[1, 2]).unwrap_err();
        assert!(error.contains("element 1"), "{error}");
    }

    #[test]
    fn a_tensor_without_elements_is_not_a_million_empty_arrays() {
        let empty = tensor(Datatype::Fp32, &[65_536, 0, 1 << 40, 1 << 40], &[]);
        assert_eq!(empty.unwrap().elements(), 0);
        for lengths in [&[65_537, 0][..], &[1 << 40, 1 << 40, 0]] {
            let error = tensor(Datatype::Fp32, lengths, &[]).unwrap_err();
            assert!(error.contains("more than 65536 empty arrays"), "{error}");
        }
    }

    #[test]
    fn the_lengths_of_bytes_add_up() {
        let two = [1, 0, 0, 0, b'a', 0, 0, 0, 0];
        let read = tensor(Datatype::Bytes, &[2], &two).unwrap();
        let elements: Vec<_> = read.byte_elements().collect();
        assert_eq!(elements, [Bytes::from_static(b"a"), Bytes::new()]);
        for (lengths, data) in [
            (&[1][..], &two[..]),
            (&[3], &two),
            (&[2], &two[..8]),
            (&[2], &[255, 255, 255, 255, 1]),
            (&[0], &[0]),
        ] {
            let error = tensor(Datatype::Bytes, lengths, data).unwrap_err();
            assert!(error.contains("whole ones"), "{error}");
        }
    }

    #[test]
    fn a_tensor_is_what_its_specification_says() {
        let spec = |text: &str| text.parse::<TensorSpec>().unwrap();
        let two = tensor(Datatype::Fp32, &[2], &[0; 8]).unwrap();
        assert!(two.is(&spec("a:FP32[2]")) && two.is(&spec("a:FP32[-1]")));
        assert!(!two.is(&spec("a:FP32[3]")) && !two.is(&spec("a:INT32[2]")) && !two.is(&spec("a:FP32[2,1]")));
        let bytes = tensor(Datatype::Bytes, &[], &[1, 0, 0, 0, 0xff]).unwrap();
        assert!(bytes.is(&spec("a:BYTES")) && !bytes.is(&spec("a:BYTES[]:utf8")));
    }

    #[test]
    fn what_is_detached_keeps_no_other_buffer() {
        let received = Bytes::from(vec![1; 100]);
        let slice = Tensor::new(Datatype::Uint8, [4_u64].as_slice(), received.slice(3..7)).unwrap();
        let detached = slice.detached();
        assert_eq!(detached, slice);
        drop(slice);
        assert!(received.is_unique());
    }
}

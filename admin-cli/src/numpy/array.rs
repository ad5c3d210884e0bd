//! An array of a NumPy file, its elements little-endian and in row-major order.

use super::header::{self, Header, InvalidArray, Kind};

/// An array, as NumPy had it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Array {
    pub(super) kind: Kind,
    /// The bytes of an element.
    pub(super) item_bytes: usize,
    pub(super) shape: Vec<u64>,
    /// The elements, little-endian and row-major.
    pub(super) data: Vec<u8>,
}

impl Array {
    /// Reads a `.npy` file.
    pub(super) fn read(content: &[u8]) -> Result<Self, InvalidArray> {
        let (header, data) = header::read(content)?;
        check(&header, data)?;
        let mut data = match header.fortran_order {
            true => row_major(&header, data),
            false => data.to_vec(),
        };
        if header.big_endian {
            swap(&header, &mut data);
        }
        Ok(Self {
            kind: header.kind,
            item_bytes: header.item_bytes,
            shape: header.shape,
            data,
        })
    }

    /// NumPy's name of the element type.
    pub(super) fn type_name(&self) -> String {
        let bits = self.item_bytes * 8;
        match self.kind {
            Kind::Bool => "bool".to_owned(),
            Kind::Unsigned => format!("uint{bits}"),
            Kind::Signed => format!("int{bits}"),
            Kind::Float => format!("float{bits}"),
            Kind::Bytes => format!("S{}", self.item_bytes),
            Kind::Text => format!("U{}", self.item_bytes / 4),
            Kind::Void => format!("V{}", self.item_bytes),
        }
    }

    /// The arrays along the first dimension, as slices of this one.
    pub(super) fn rows(&self) -> impl Iterator<Item = Slice<'_>> {
        let (count, shape) = match self.shape.split_first() {
            Some((&count, shape)) => (count, shape),
            None => (0, &[][..]),
        };
        let row_bytes = match count {
            0 => 0,
            // It is a number of bytes that are in memory, divided.
            count => self.data.len() / usize::try_from(count).unwrap_or(usize::MAX),
        };
        (0..count).map(move |row| {
            let start = usize::try_from(row)
                .unwrap_or(usize::MAX)
                .saturating_mul(row_bytes);
            Slice {
                array: self,
                shape,
                data: &self.data[start..start + row_bytes],
            }
        })
    }

    /// All of it.
    pub(super) fn whole(&self) -> Slice<'_> {
        Slice {
            array: self,
            shape: &self.shape,
            data: &self.data,
        }
    }
}

/// A part of an array, or all of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slice<'a> {
    /// Where it is from; what its elements are is the same.
    pub(super) array: &'a Array,
    pub(super) shape: &'a [u64],
    pub(super) data: &'a [u8],
}

/// Checks that there are as many bytes as the shape says.
fn check(header: &Header, data: &[u8]) -> Result<(), InvalidArray> {
    let expected = match header.shape.contains(&0) {
        true => Some(0),
        false => header.shape.iter().try_fold(header.item_bytes, |bytes, &length| {
            bytes.checked_mul(usize::try_from(length).ok()?)
        }),
    };
    let expected = expected.ok_or_else(|| InvalidArray::TooLarge(header.shape.clone()))?;
    if expected == data.len() {
        return Ok(());
    }
    Err(InvalidArray::Size {
        shape: header.shape.clone(),
        expected,
        got: data.len(),
    })
}

/// The elements in row-major order, of an array whose first dimension varies fastest.
fn row_major(header: &Header, data: &[u8]) -> Vec<u8> {
    let mut ordered = Vec::with_capacity(data.len());
    if data.is_empty() {
        return ordered;
    }
    let mut strides = Vec::with_capacity(header.shape.len());
    let mut stride = header.item_bytes;
    for &length in &header.shape {
        strides.push(stride);
        // The product of all of them is the data's length.
        stride *= usize::try_from(length).unwrap_or(usize::MAX);
    }
    gather(&header.shape, &strides, data, header.item_bytes, &mut ordered);
    ordered
}

/// Appends the elements of an array of these lengths, of which each dimension has its stride in bytes.
fn gather(shape: &[u64], strides: &[usize], data: &[u8], item_bytes: usize, ordered: &mut Vec<u8>) {
    let (Some((&length, shape)), Some((&stride, strides))) = (shape.split_first(), strides.split_first())
    else {
        ordered.extend_from_slice(&data[..item_bytes]);
        return;
    };
    for index in 0..usize::try_from(length).unwrap_or(usize::MAX) {
        gather(shape, strides, &data[index * stride..], item_bytes, ordered);
    }
}

/// Reverses the bytes of each number, or of each character of a text.
fn swap(header: &Header, data: &mut [u8]) {
    let unit = match header.kind {
        Kind::Text => 4,
        Kind::Bytes => 1,
        _ => header.item_bytes,
    };
    data.chunks_exact_mut(unit).for_each(<[u8]>::reverse);
}

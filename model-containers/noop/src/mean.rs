//! The mean of an input's elements, read where they were received.

use skysail_container_rpc::{Batch, Datatype, InputRef, ModelError, Tensor};

/// How many sums run beside each other: a single one would wait for each addition.
const LANES: usize = 8;

/// The mean of all elements of each input: of all its tensors together, or of its row. Bytes and BOOLs are numbers; the
/// elements of BYTES are left out. Of no elements it is 0.
pub fn of_inputs(batch: &Batch) -> Result<Vec<f64>, ModelError> {
    let mut sums = vec![Sum::default(); batch.len()];
    for (sum, row) in sums.iter_mut().zip(batch.inputs()) {
        sum.add(of_row(row));
    }
    for spec in batch.signature().input_tensors() {
        for (sum, tensor) in sums.iter_mut().zip(batch.tensor(spec.name())?.iter()) {
            sum.add(of_tensor(&tensor));
        }
    }
    Ok(sums.iter().map(Sum::mean).collect())
}

/// A sum, and of how many elements.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Sum {
    total: f64,
    elements: usize,
}

impl Sum {
    fn add(&mut self, other: Self) {
        self.total += other.total;
        self.elements += other.elements;
    }

    #[expect(clippy::cast_precision_loss, reason = "no buffer has 2⁵³ elements")]
    fn mean(&self) -> f64 {
        self.total / self.elements.max(1) as f64
    }
}

fn of_row(row: InputRef<'_>) -> Sum {
    match row {
        InputRef::Bytes(bytes) => sum(bytes, |[byte]| f64::from(byte)),
        InputRef::Strings(text) => sum(text.as_bytes(), |[byte]| f64::from(byte)),
        InputRef::Integers(numbers) => listed(numbers.iter().map(|&number| f64::from(number))),
        InputRef::Floats(numbers) => listed(numbers.iter().map(|&number| f64::from(number))),
        InputRef::Doubles(numbers) => listed(numbers.iter().copied()),
    }
}

fn listed(numbers: impl ExactSizeIterator<Item = f64>) -> Sum {
    let elements = numbers.len();
    Sum {
        total: numbers.sum(),
        elements,
    }
}

#[expect(clippy::cast_precision_loss, reason = "a mean has fewer digits")]
fn of_tensor(tensor: &Tensor) -> Sum {
    let data = tensor.data();
    match tensor.datatype() {
        Datatype::Bool | Datatype::Uint8 => sum(data, |[byte]| f64::from(byte)),
        Datatype::Int8 => sum(data, |bytes| f64::from(i8::from_le_bytes(bytes))),
        Datatype::Uint16 => sum(data, |bytes| f64::from(u16::from_le_bytes(bytes))),
        Datatype::Int16 => sum(data, |bytes| f64::from(i16::from_le_bytes(bytes))),
        Datatype::Uint32 => sum(data, |bytes| f64::from(u32::from_le_bytes(bytes))),
        Datatype::Int32 => sum(data, |bytes| f64::from(i32::from_le_bytes(bytes))),
        Datatype::Uint64 => sum(data, |bytes| u64::from_le_bytes(bytes) as f64),
        Datatype::Int64 => sum(data, |bytes| i64::from_le_bytes(bytes) as f64),
        Datatype::Fp16 => sum(data, |bytes| binary16(u16::from_le_bytes(bytes))),
        Datatype::Bf16 => sum(data, |bytes| {
            f64::from(f32::from_bits(u32::from(u16::from_le_bytes(bytes)) << 16))
        }),
        Datatype::Fp32 => sum(data, |bytes| f64::from(f32::from_le_bytes(bytes))),
        Datatype::Fp64 => sum(data, f64::from_le_bytes),
        Datatype::Bytes => Sum::default(),
    }
}

/// The sum of elements of `N` bytes each.
fn sum<const N: usize>(data: &[u8], number: impl Fn([u8; N]) -> f64) -> Sum {
    let (elements, _) = data.as_chunks::<N>();
    let (groups, rest) = elements.as_chunks::<LANES>();
    let mut lanes = [0.0; LANES];
    for group in groups {
        for (lane, &element) in lanes.iter_mut().zip(group) {
            *lane += number(element);
        }
    }
    let rest: f64 = rest.iter().map(|&element| number(element)).sum();
    Sum {
        total: lanes.iter().sum::<f64>() + rest,
        elements: elements.len(),
    }
}

/// An IEEE 754 binary16.
fn binary16(bits: u16) -> f64 {
    let sign = if bits & 0x8000 == 0 { 1.0 } else { -1.0 };
    let fraction = f64::from(bits & 0x03ff);
    match (bits >> 10) & 0x1f {
        0 => sign * fraction * 2_f64.powi(-24),
        0x1f if fraction == 0.0 => sign * f64::INFINITY,
        0x1f => f64::NAN,
        exponent => sign * (1.0 + fraction / 1024.0) * 2_f64.powi(i32::from(exponent) - 15),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mean(datatype: Datatype, data: &[u8]) -> f64 {
        let elements = data.len() / datatype.element_bytes().unwrap();
        let tensor = Tensor::new(datatype, [elements as u64].as_slice(), data.to_vec());
        of_tensor(&tensor.unwrap()).mean()
    }

    #[test]
    fn every_datatype_has_a_mean() {
        let halves: Vec<u8> = [0x3c00_u16, 0xc000, 0x0001, 0x3555]
            .iter()
            .flat_map(|bits| bits.to_le_bytes())
            .collect();
        let expected = (1.0 - 2.0 + 2_f64.powi(-24) + (1.0 + 341.0 / 1024.0) / 4.0) / 4.0;
        assert_eq!(mean(Datatype::Fp16, &halves), expected);
        assert!(binary16(0x7c01).is_nan());
        assert_eq!(binary16(0xfc00), f64::NEG_INFINITY);
        assert_eq!(mean(Datatype::Bf16, &[0x80, 0x3f, 0x00, 0x40]), 1.5);
        assert_eq!(mean(Datatype::Int8, &[0xff, 3]), 1.0);
        assert_eq!(mean(Datatype::Uint64, &u64::MAX.to_le_bytes()), 2_f64.powi(64));
        assert_eq!(mean(Datatype::Bool, &[1, 0]), 0.5);
        assert_eq!(mean(Datatype::Fp32, &[]), 0.0);
    }

    #[test]
    fn no_element_is_left_out() {
        for count in 0..40_u8 {
            let data: Vec<u8> = (1..=count).collect();
            let expected = u32::from(count) * (u32::from(count) + 1) / 2;
            assert_eq!(sum(&data, |[byte]| f64::from(byte)).total, f64::from(expected));
        }
    }
}

//! Generated tensors: one body, in which a few numbers change.
//!
//! Each number that changes has a place of a fixed width in the JSON text, filled up with spaces. So a body is a copy of
//! the one before and a few numbers, however large the tensors are.

use std::fmt::Write;

use bytes::Bytes;
use skysail_proto::datatype::Datatype;
use skysail_proto::signature::{Length, TensorSpec};

use super::SCRAMBLE;

/// The most elements of one tensor: what is larger is a slip, and its text would fill the memory.
const MOST_ELEMENTS: u64 = 1 << 26;

/// The bits that make an input one of its kind.
const BITS: u32 = u64::BITS;

/// Bodies of generated tensors.
pub(crate) struct TensorBodies {
    next: u64,
    body: Vec<u8>,
    places: Vec<Place>,
}

/// A place in the body where an element stands that changes.
struct Place {
    start: usize,
    datatype: Datatype,
    /// How many bits of the number it holds.
    bits: u32,
}

/// Tensors of more elements than anybody wants to send.
#[derive(Debug, thiserror::Error)]
#[error("tensor {spec} has more than {MOST_ELEMENTS} elements where each length of -1 is {length}")]
pub(crate) struct TooLarge {
    spec: TensorSpec,
    length: u64,
}

impl TensorBodies {
    /// Bodies of these tensors; `length` is that of the dimensions of any length.
    pub(super) fn starting_at(
        first: u64,
        specs: &[TensorSpec],
        length: u64,
        end: &str,
    ) -> Result<Self, TooLarge> {
        let mut text = Text {
            json: String::from("{\"input\":{"),
            places: Vec::new(),
            bits_left: BITS,
            rng: fastrand::Rng::with_seed(1),
        };
        for (index, spec) in specs.iter().enumerate() {
            let lengths = lengths(spec, length)?;
            if index > 0 {
                text.json.push(',');
            }
            text.json
                .push_str(&serde_json::Value::from(spec.name()).to_string());
            text.json.push(':');
            text.tensor(spec.datatype(), &lengths);
        }
        text.json.push('}');
        text.json.push_str(end);
        Ok(Self {
            next: first,
            body: text.json.into_bytes(),
            places: text.places,
        })
    }

    /// After how many inputs they begin anew; `None` if never.
    pub(super) fn differing(&self) -> Option<u64> {
        let bits: u32 = self.places.iter().map(|place| place.bits).sum();
        (bits < BITS).then(|| 1 << bits)
    }

    pub(super) fn next(&mut self) -> Bytes {
        let mut number = self.next.wrapping_mul(SCRAMBLE);
        self.next = self.next.wrapping_add(1);
        let mut text = String::with_capacity(24);
        for place in &self.places {
            text.clear();
            write_element(&mut text, place.datatype, number & low_bits(place.bits));
            number = number.checked_shr(place.bits).unwrap_or(0);
            let width = width(place.datatype);
            let slot = &mut self.body[place.start..place.start + width];
            let (filling, element) = slot.split_at_mut(width - text.len());
            filling.fill(b' ');
            element.copy_from_slice(text.as_bytes());
        }
        Bytes::copy_from_slice(&self.body)
    }
}

fn low_bits(count: u32) -> u64 {
    u64::MAX.checked_shr(u64::BITS - count).unwrap_or(0)
}

/// The lengths of a tensor that is sent.
fn lengths(spec: &TensorSpec, any: u64) -> Result<Vec<u64>, TooLarge> {
    let lengths: Vec<u64> = spec
        .shape()
        .lengths()
        .iter()
        .map(|length| match length {
            Length::Fixed(length) => *length,
            Length::Any => any,
        })
        .collect();
    let product = lengths
        .iter()
        .try_fold(1_u64, |product, length| product.checked_mul(*length));
    match product {
        Some(..=MOST_ELEMENTS) => Ok(lengths),
        _ => Err(TooLarge {
            spec: spec.clone(),
            length: any,
        }),
    }
}

/// A body that is being written for the first time.
struct Text {
    json: String,
    places: Vec<Place>,
    /// How many bits still need a place.
    bits_left: u32,
    rng: fastrand::Rng,
}

impl Text {
    fn tensor(&mut self, datatype: Datatype, lengths: &[u64]) {
        let Some((&length, within)) = lengths.split_first() else {
            return self.element(datatype);
        };
        self.json.push('[');
        for index in 0..length {
            if index > 0 {
                self.json.push(',');
            }
            self.tensor(datatype, within);
        }
        self.json.push(']');
    }

    fn element(&mut self, datatype: Datatype) {
        if self.bits_left == 0 {
            return write_filling(&mut self.json, datatype, &mut self.rng);
        }
        let bits = bits(datatype).min(self.bits_left);
        self.bits_left -= bits;
        self.places.push(Place {
            start: self.json.len(),
            datatype,
            bits,
        });
        let width = width(datatype);
        self.json.extend(std::iter::repeat_n(' ', width));
    }
}

/// How many bits an element holds that differ in the tensor, too.
const fn bits(datatype: Datatype) -> u32 {
    match datatype {
        Datatype::Bool => 1,
        Datatype::Bf16 => 7,
        Datatype::Uint8 | Datatype::Int8 => 8,
        Datatype::Fp16 => 10,
        Datatype::Uint16 | Datatype::Int16 => 16,
        Datatype::Fp32 => 23,
        Datatype::Uint32 | Datatype::Int32 => 32,
        Datatype::Fp64 => 50,
        Datatype::Uint64 | Datatype::Int64 | Datatype::Bytes => 64,
    }
}

/// How many characters an element takes at most.
const fn width(datatype: Datatype) -> usize {
    match datatype {
        Datatype::Bool => 5,
        Datatype::Uint8 | Datatype::Int8 => 4,
        Datatype::Uint16 | Datatype::Int16 => 6,
        Datatype::Uint32 | Datatype::Int32 => 11,
        Datatype::Uint64 | Datatype::Int64 => 20,
        Datatype::Fp16 | Datatype::Bf16 | Datatype::Fp32 | Datatype::Fp64 => 22,
        Datatype::Bytes => 18,
    }
}

/// Writes an element of these bits, of which there are no more than it holds. Floats lie between 8 and 16, where each has
/// the same few digits: a tiny one would be wider than its place.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    reason = "the bits are no more than the element holds"
)]
fn write_element(text: &mut String, datatype: Datatype, bits: u64) {
    let float = 8.0 + bits as f64 * 8.0 / (1_u64 << self::bits(datatype).min(60)) as f64;
    // A string takes all that is written to it.
    let _ = match datatype {
        Datatype::Bool => write!(text, "{}", bits == 1),
        Datatype::Uint8 | Datatype::Uint16 | Datatype::Uint32 | Datatype::Uint64 => write!(text, "{bits}"),
        Datatype::Int8 => write!(text, "{}", (bits as u8).cast_signed()),
        Datatype::Int16 => write!(text, "{}", (bits as u16).cast_signed()),
        Datatype::Int32 => write!(text, "{}", (bits as u32).cast_signed()),
        Datatype::Int64 => write!(text, "{}", bits.cast_signed()),
        Datatype::Fp32 => write!(text, "{}", float as f32),
        Datatype::Fp16 | Datatype::Bf16 | Datatype::Fp64 => write!(text, "{float}"),
        // Sixteen digits are twelve bytes in base64 as well.
        Datatype::Bytes => write!(text, "\"{bits:016x}\""),
    };
}

/// Writes an element that stays. Floats have two digits, as measured values do.
fn write_filling(json: &mut String, datatype: Datatype, rng: &mut fastrand::Rng) {
    // A string takes all that is written to it.
    let _ = match datatype {
        Datatype::Fp16 | Datatype::Bf16 | Datatype::Fp32 | Datatype::Fp64 => {
            let hundredths = rng.u32(..800);
            write!(json, "{}.{:02}", hundredths / 100, hundredths % 100)
        }
        Datatype::Bool => write!(json, "{}", rng.bool()),
        Datatype::Bytes => write!(json, "\"{:016x}\"", rng.u64(..)),
        _ => write!(json, "{}", rng.u32(..100)),
    };
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use skysail_proto::signature::Signature;
    use skysail_proto::value::Input;

    use super::*;

    fn specs(texts: &[&str]) -> Vec<TensorSpec> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn bodies(texts: &[&str]) -> TensorBodies {
        TensorBodies::starting_at(u64::MAX - 100, &specs(texts), 5, "}").unwrap()
    }

    /// A body's input, read as the frontend reads it.
    fn input_of(body: &Bytes, texts: &[&str]) -> Input {
        let signature = Signature::tensors(specs(texts), []).unwrap();
        let body: serde_json::Value = serde_json::from_slice(body).unwrap();
        Input::from_json(&signature, &body["input"].to_string()).unwrap()
    }

    #[test]
    fn generated_tensors_are_of_their_signature_and_no_two_are_equal() {
        for datatype in Datatype::ALL {
            let written = format!("x:{datatype}[16,-1]");
            let texts = [&*written, "flag:BOOL", "y:FP32[3]"];
            let mut bodies = bodies(&texts);
            assert_eq!(bodies.differing(), None, "{datatype}");
            let inputs: HashSet<Input> = (0..300).map(|_| input_of(&bodies.next(), &texts)).collect();
            assert_eq!(inputs.len(), 300, "{datatype}");
            let tensors = inputs.iter().next().unwrap().as_tensors();
            assert_eq!(tensors[0].lengths(), [16, 5]);
        }
    }

    #[test]
    fn the_smallest_and_the_largest_number_fit_their_places() {
        for datatype in Datatype::ALL {
            for bits in [0, 1, low_bits(bits(datatype))] {
                let mut text = String::new();
                write_element(&mut text, datatype, bits);
                assert!(text.len() <= width(datatype), "{datatype}: {text}");
            }
        }
    }

    #[test]
    fn tensors_that_hold_few_values_tell_how_many() {
        let texts = ["flag:BOOL", "small:UINT8"];
        let mut bodies = bodies(&texts);
        assert_eq!(bodies.differing(), Some(512));
        let inputs: HashSet<Input> = (0..512).map(|_| input_of(&bodies.next(), &texts)).collect();
        assert_eq!(inputs.len(), 512);
    }

    #[test]
    fn tensors_without_elements_are_sent_too() {
        let texts = ["x:FP32[0,3]"];
        let mut bodies = bodies(&texts);
        assert_eq!(bodies.differing(), Some(1));
        assert_eq!(input_of(&bodies.next(), &texts).as_tensors()[0].elements(), 0);
    }

    #[test]
    fn tensors_that_would_fill_the_memory_are_refused() {
        let made = TensorBodies::starting_at(0, &specs(&["x:FP32[-1,-1]"]), 1_000_000, "}");
        let error = made.err().unwrap().to_string();
        assert!(
            error.contains("x:FP32[-1,-1]") && error.contains("1000000"),
            "{error}"
        );
    }
}

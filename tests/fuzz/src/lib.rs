//! Makes signatures and messages out of the fuzzer's bytes.

use bytes::Bytes;
use skysail_proto::container;
use skysail_proto::datatype::Datatype;
use skysail_proto::signature::{Length, Shape, Signature, TensorSpec};

/// The fuzzer's bytes, taken from the front; zeros when there are no more.
pub struct Source<'a>(&'a [u8]);

impl<'a> Source<'a> {
    /// Takes from these bytes.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// Takes one byte.
    pub fn byte(&mut self) -> u8 {
        let Some((&first, rest)) = self.0.split_first() else {
            return 0;
        };
        self.0 = rest;
        first
    }

    /// Takes a number below `end`.
    pub fn below(&mut self, end: u8) -> usize {
        usize::from(self.byte() % end)
    }

    /// Takes a number that is small, or one at which computers break.
    pub fn number(&mut self) -> u64 {
        match self.byte() {
            small @ 0..=239 => u64::from(small % 16),
            240..=243 => u64::from(u32::MAX),
            244..=247 => 1 << 40,
            248..=251 => u64::MAX,
            _ => u64::from(self.byte()) << 8,
        }
    }

    /// Takes all that is left.
    pub fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }

    fn lengths(&mut self) -> Vec<u64> {
        (0..self.below(18)).map(|_| self.number()).collect()
    }

    fn datatype(&mut self) -> Datatype {
        Datatype::ALL[self.below(14)]
    }

    fn spec(&mut self, name: &str) -> Option<TensorSpec> {
        let datatype = self.datatype();
        let is_text = self.byte() % 2 == 1;
        let length = |number| {
            if number % 3 == 2 {
                Length::Any
            } else {
                Length::Fixed(number)
            }
        };
        let lengths: Vec<_> = (0..self.below(17)).map(|_| length(self.number())).collect();
        let spec = TensorSpec::new(name, datatype, Shape::new(lengths).ok()?).ok()?;
        match is_text && datatype == Datatype::Bytes {
            true => spec.utf8().ok(),
            false => Some(spec),
        }
    }

    /// Takes a signature whose inputs and outputs are the same tensors.
    pub fn signature(&mut self) -> Option<Signature> {
        let names = &["a", "b", "c"][..1 + self.below(3)];
        let specs: Option<Vec<_>> = names.iter().map(|name| self.spec(name)).collect();
        let specs = specs?;
        Signature::tensors(specs.clone(), specs).ok()
    }

    fn column(&mut self, name: &str) -> container::TensorColumn {
        let shape = self.lengths();
        let ragged = self.byte() % 2 == 1;
        container::TensorColumn {
            name: name.to_owned(),
            datatype: self.datatype().to_wire() as i32,
            shape: if ragged { Vec::new() } else { shape.clone() },
            ragged_shapes: if ragged { shape } else { Vec::new() },
            ragged,
            rank: u32::try_from(self.number()).unwrap_or(u32::MAX),
            byte_lengths: self.lengths(),
            data: self.bytes(),
        }
    }

    fn bytes(&mut self) -> Bytes {
        let length = self.below(255).min(self.0.len());
        let (bytes, rest) = self.0.split_at(length);
        self.0 = rest;
        Bytes::copy_from_slice(bytes)
    }

    /// Takes columns of the names that signatures have.
    pub fn columns(&mut self) -> Vec<container::TensorColumn> {
        let names = &["a", "b", "c"][..self.below(4)];
        names.iter().map(|name| self.column(name)).collect()
    }
}

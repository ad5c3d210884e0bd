//! The datatypes of tensors: those of the Open Inference Protocol, version 2.
//!
//! Elements are little-endian and row-major. An element of `BYTES` is its length, four bytes, and then its bytes.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::container;

/// What one element of a tensor is.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Datatype {
    /// A byte that is 0 or 1.
    Bool,
    /// An unsigned integer of 8 bits.
    Uint8,
    /// An unsigned integer of 16 bits.
    Uint16,
    /// An unsigned integer of 32 bits.
    Uint32,
    /// An unsigned integer of 64 bits.
    Uint64,
    /// A signed integer of 8 bits.
    Int8,
    /// A signed integer of 16 bits.
    Int16,
    /// A signed integer of 32 bits.
    Int32,
    /// A signed integer of 64 bits.
    Int64,
    /// A float of 16 bits, IEEE 754 binary16.
    Fp16,
    /// A float of 16 bits: the upper half of a binary32.
    Bf16,
    /// A float of 32 bits.
    Fp32,
    /// A float of 64 bits.
    Fp64,
    /// Some bytes, or text where the specification says so; of any length.
    Bytes,
}

/// A datatype that does not exist; the text lists those that do.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error(
    "datatype `{0}` does not exist; use one of BOOL, UINT8, UINT16, UINT32, UINT64, INT8, INT16, INT32, INT64, \
     FP16, BF16, FP32, FP64, BYTES"
)]
pub struct UnknownDatatype(String);

impl Datatype {
    /// All datatypes.
    pub const ALL: [Self; 14] = [
        Self::Bool,
        Self::Uint8,
        Self::Uint16,
        Self::Uint32,
        Self::Uint64,
        Self::Int8,
        Self::Int16,
        Self::Int32,
        Self::Int64,
        Self::Fp16,
        Self::Bf16,
        Self::Fp32,
        Self::Fp64,
        Self::Bytes,
    ];

    /// Its name in the Open Inference Protocol.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bool => "BOOL",
            Self::Uint8 => "UINT8",
            Self::Uint16 => "UINT16",
            Self::Uint32 => "UINT32",
            Self::Uint64 => "UINT64",
            Self::Int8 => "INT8",
            Self::Int16 => "INT16",
            Self::Int32 => "INT32",
            Self::Int64 => "INT64",
            Self::Fp16 => "FP16",
            Self::Bf16 => "BF16",
            Self::Fp32 => "FP32",
            Self::Fp64 => "FP64",
            Self::Bytes => "BYTES",
        }
    }

    /// The size of an element, in bytes; `None` for [`Datatype::Bytes`], whose elements differ in size.
    pub const fn element_bytes(self) -> Option<usize> {
        match self {
            Self::Bool | Self::Uint8 | Self::Int8 => Some(1),
            Self::Uint16 | Self::Int16 | Self::Fp16 | Self::Bf16 => Some(2),
            Self::Uint32 | Self::Int32 | Self::Fp32 => Some(4),
            Self::Uint64 | Self::Int64 | Self::Fp64 => Some(8),
            Self::Bytes => None,
        }
    }

    /// Its number on the wire.
    pub const fn to_wire(self) -> container::Datatype {
        match self {
            Self::Bool => container::Datatype::Bool,
            Self::Uint8 => container::Datatype::Uint8,
            Self::Uint16 => container::Datatype::Uint16,
            Self::Uint32 => container::Datatype::Uint32,
            Self::Uint64 => container::Datatype::Uint64,
            Self::Int8 => container::Datatype::Int8,
            Self::Int16 => container::Datatype::Int16,
            Self::Int32 => container::Datatype::Int32,
            Self::Int64 => container::Datatype::Int64,
            Self::Fp16 => container::Datatype::Fp16,
            Self::Bf16 => container::Datatype::Bf16,
            Self::Fp32 => container::Datatype::Fp32,
            Self::Fp64 => container::Datatype::Fp64,
            Self::Bytes => container::Datatype::Bytes,
        }
    }

    /// The datatype with this number, if this side knows it.
    pub fn from_wire(number: i32) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|datatype| datatype.to_wire() as i32 == number)
    }
}

impl fmt::Display for Datatype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Datatype {
    type Err = UnknownDatatype;
    fn from_str(name: &str) -> Result<Self, UnknownDatatype> {
        let known = Self::ALL.into_iter().find(|known| known.name() == name);
        known.ok_or_else(|| UnknownDatatype(name.chars().take(80).collect()))
    }
}

impl Serialize for Datatype {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl<'de> Deserialize<'de> for Datatype {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        name.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_datatype_survives_text_json_and_the_wire() {
        for datatype in Datatype::ALL {
            assert_eq!(datatype.name().parse(), Ok(datatype));
            assert_eq!(Datatype::from_wire(datatype.to_wire() as i32), Some(datatype));
            let json = serde_json::to_string(&datatype).unwrap();
            assert_eq!(serde_json::from_str::<Datatype>(&json).unwrap(), datatype);
        }
        assert_eq!(Datatype::from_wire(0), None);
        assert_eq!(Datatype::from_wire(99), None);
    }

    #[test]
    fn an_unknown_datatype_is_answered_with_those_that_exist() {
        for name in ["fp32", "FLOAT", ""] {
            let error = name.parse::<Datatype>().unwrap_err().to_string();
            assert!(error.contains("FP32") && error.contains("BYTES"), "{error}");
        }
    }
}

//! The header of a `.npy` file: a Python dictionary of `descr`, `fortran_order` and `shape`, in versions 1.0 to 3.0.
//!
//! <https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html>. Only literals that NumPy writes are
//! understood, so a parser of all Python literals would bring more code than this file is.

use super::NPY;

/// The most dimensions of an array that NumPy makes.
const MOST_DIMENSIONS: usize = 64;

/// What an array is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Header {
    pub(super) kind: Kind,
    /// The bytes of an element.
    pub(super) item_bytes: usize,
    pub(super) big_endian: bool,
    /// Whether the first dimension is the one that varies fastest.
    pub(super) fortran_order: bool,
    pub(super) shape: Vec<u64>,
}

/// What an element is, beside its size.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Kind {
    Bool,
    Unsigned,
    Signed,
    Float,
    /// Bytes of a fixed number, filled up with zeros.
    Bytes,
    /// Characters of 32 bits, of a fixed number, filled up with zeros.
    Text,
    /// Bytes whose meaning NumPy does not know; bfloat16 is written so.
    Void,
}

/// Why bytes are no array of use.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum InvalidArray {
    #[error("it does not begin as a .npy file does")]
    Magic,
    #[error("it is a .npy file of version {0}.{1}, and 1.0 to 3.0 are known")]
    Version(u8, u8),
    #[error("its header is cut short or damaged")]
    Header,
    #[error(
        "it holds Python objects, which only Python can read; make them numbers or text before they are saved, as in \
         a.astype(\"float32\") or a.astype(\"U\")"
    )]
    Objects,
    #[error("its elements are records with fields; save each field as an array of its own")]
    Records,
    #[error("its elements are `{0}`, and no tensor has such; convert them, as in a.astype(\"float32\")")]
    Kind(String),
    #[error("an array of shape {0:?} is too large for any machine")]
    TooLarge(Vec<u64>),
    #[error("its shape {shape:?} takes {expected} bytes, and it has {got}: is the file cut short?")]
    Size {
        shape: Vec<u64>,
        expected: usize,
        got: usize,
    },
}

/// Reads the header; returns the elements beside it.
pub(super) fn read(content: &[u8]) -> Result<(Header, &[u8]), InvalidArray> {
    let rest = content.strip_prefix(NPY).ok_or(InvalidArray::Magic)?;
    let (&[major, minor], rest) = rest.split_first_chunk().ok_or(InvalidArray::Header)?;
    let (length, rest) = match (major, minor) {
        (1, 0) => {
            let (length, rest) = rest.split_first_chunk().ok_or(InvalidArray::Header)?;
            (u32::from(u16::from_le_bytes(*length)), rest)
        }
        (2 | 3, 0) => {
            let (length, rest) = rest.split_first_chunk().ok_or(InvalidArray::Header)?;
            (u32::from_le_bytes(*length), rest)
        }
        _ => return Err(InvalidArray::Version(major, minor)),
    };
    let (text, data) = rest
        .split_at_checked(length as usize)
        .ok_or(InvalidArray::Header)?;
    // Names of fields alone can be other than ASCII, and arrays with fields are refused.
    let text = String::from_utf8_lossy(text);
    Ok((Dictionary { rest: &text }.header()?, data))
}

/// A dictionary that is being read.
struct Dictionary<'a> {
    rest: &'a str,
}

impl<'a> Dictionary<'a> {
    fn header(mut self) -> Result<Header, InvalidArray> {
        let (mut element, mut fortran_order, mut shape) = (None, None, None);
        self.expect('{')?;
        while !self.takes('}') {
            let key = self.string()?;
            self.expect(':')?;
            match key {
                "descr" => element = Some(self.element()?),
                "fortran_order" => fortran_order = Some(self.truth()?),
                "shape" => shape = Some(self.shape()?),
                _ => return Err(InvalidArray::Header),
            }
            if !self.takes(',') {
                self.expect('}')?;
                break;
            }
        }
        let (Some((kind, item_bytes, big_endian)), Some(fortran_order), Some(shape)) =
            (element, fortran_order, shape)
        else {
            return Err(InvalidArray::Header);
        };
        Ok(Header {
            kind,
            item_bytes,
            big_endian,
            fortran_order,
            shape,
        })
    }

    /// What an element is, its bytes, and whether they are big-endian.
    fn element(&mut self) -> Result<(Kind, usize, bool), InvalidArray> {
        if self.takes('[') {
            return Err(InvalidArray::Records);
        }
        let text = self.string()?;
        let unknown = || InvalidArray::Kind(text.chars().take(40).collect());
        let (order, rest) = text.split_at_checked(1).ok_or_else(unknown)?;
        let (code, size) = rest.split_at_checked(1).ok_or_else(unknown)?;
        if code == "O" {
            return Err(InvalidArray::Objects);
        }
        let size: usize = size.parse().map_err(|_| unknown())?;
        let (kind, item_bytes) = match (code, size) {
            ("b", 1) => (Kind::Bool, 1),
            ("u", 1 | 2 | 4 | 8) => (Kind::Unsigned, size),
            ("i", 1 | 2 | 4 | 8) => (Kind::Signed, size),
            ("f", 2 | 4 | 8) => (Kind::Float, size),
            ("S", 1..) => (Kind::Bytes, size),
            ("U", 1..) => (Kind::Text, size.checked_mul(4).ok_or_else(unknown)?),
            ("V", 2) => (Kind::Void, size),
            _ => return Err(unknown()),
        };
        match order {
            ">" => Ok((kind, item_bytes, true)),
            "<" | "|" | "=" => Ok((kind, item_bytes, false)),
            _ => Err(unknown()),
        }
    }

    fn truth(&mut self) -> Result<bool, InvalidArray> {
        self.space();
        for (word, truth) in [("True", true), ("False", false)] {
            if let Some(rest) = self.rest.strip_prefix(word) {
                self.rest = rest;
                return Ok(truth);
            }
        }
        Err(InvalidArray::Header)
    }

    fn shape(&mut self) -> Result<Vec<u64>, InvalidArray> {
        let mut lengths = Vec::new();
        self.expect('(')?;
        while !self.takes(')') {
            if lengths.len() == MOST_DIMENSIONS {
                return Err(InvalidArray::Header);
            }
            lengths.push(self.number()?);
            if !self.takes(',') {
                self.expect(')')?;
                break;
            }
        }
        Ok(lengths)
    }

    /// A number; Python 2 wrote long ones with an `L`.
    fn number(&mut self) -> Result<u64, InvalidArray> {
        self.space();
        let end = self
            .rest
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(self.rest.len());
        let (digits, rest) = self.rest.split_at(end);
        self.rest = rest.strip_prefix('L').unwrap_or(rest);
        digits.parse().map_err(|_| InvalidArray::Header)
    }

    /// A string without escapes: NumPy writes no others here.
    fn string(&mut self) -> Result<&'a str, InvalidArray> {
        self.space();
        let quote = self.rest.chars().next().filter(|c| matches!(c, '\'' | '"'));
        let quote = quote.ok_or(InvalidArray::Header)?;
        let (text, rest) = self.rest[1..].split_once(quote).ok_or(InvalidArray::Header)?;
        self.rest = rest;
        Ok(text)
    }

    fn takes(&mut self, wanted: char) -> bool {
        self.space();
        match self.rest.strip_prefix(wanted) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn expect(&mut self, wanted: char) -> Result<(), InvalidArray> {
        match self.takes(wanted) {
            true => Ok(()),
            false => Err(InvalidArray::Header),
        }
    }

    fn space(&mut self) {
        self.rest = self.rest.trim_start();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A `.npy` file of version 1.0 with this header and no elements.
    fn file(text: &str) -> Vec<u8> {
        let length = u16::try_from(text.len()).unwrap().to_le_bytes();
        [NPY, &[1, 0], &length, text.as_bytes()].concat()
    }

    fn header(text: &str) -> Result<Header, InvalidArray> {
        read(&file(text)).map(|(header, _)| header)
    }

    #[test]
    fn a_header_says_what_the_array_is() {
        let expected = Header {
            kind: Kind::Float,
            item_bytes: 4,
            big_endian: false,
            fortran_order: false,
            shape: vec![3, 4],
        };
        for text in [
            "{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }   \n",
            "{\"shape\":(3L,4L),\"fortran_order\":False,\"descr\":\"<f4\"}",
        ] {
            assert_eq!(header(text), Ok(expected.clone()), "{text}");
        }
        let other = header("{'descr': '>U7', 'fortran_order': True, 'shape': (), }").unwrap();
        assert_eq!((other.kind, other.item_bytes), (Kind::Text, 28));
        assert!(other.big_endian && other.fortran_order && other.shape.is_empty());
        assert_eq!(
            header("{'descr': '|b1', 'fortran_order': False, 'shape': (5,), }")
                .unwrap()
                .shape,
            [5]
        );
    }

    #[test]
    fn what_is_no_tensor_is_refused_in_words() {
        let of = |descr: &str| {
            let text = format!("{{'descr': {descr}, 'fortran_order': False, 'shape': (2,), }}");
            header(&text).unwrap_err().to_string()
        };
        assert!(of("'|O'").contains("Python objects"));
        assert!(of("[('x', '<f4'), ('y', '<f4')]").contains("records"));
        for descr in ["'<c8'", "'<M8[us]'", "'<f16'", "'|S0'", "'<'", "'é4'", "''"] {
            assert!(of(descr).contains("no tensor has such"), "{descr}");
        }
    }

    #[test]
    fn damaged_headers_are_refused() {
        for text in [
            "",
            "{",
            "{'descr'",
            "{'descr': '<f4'}",
            "{'descr': '<f4', 'fortran_order': Maybe, 'shape': ()}",
            "{'descr': '<f4', 'fortran_order': False, 'shape': (-1,)}",
            "{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999999999,)}",
            "{'descr': '<f4', 'fortran_order': False, 'shape': (1 2)}",
            "{'descr': '<f4', 'fortran_order': False, 'shape': (1,), 'more': 1}",
        ] {
            assert_eq!(header(text), Err(InvalidArray::Header), "{text}");
        }
        let whole = file("{'descr': '<f4', 'fortran_order': False, 'shape': (1,), }");
        for length in 0..whole.len() {
            assert!(read(&whole[..length]).is_err(), "{length}");
        }
        assert_eq!(
            read(b"\x93NUMPY\x04\x00\x00\x00").unwrap_err(),
            InvalidArray::Version(4, 0)
        );
        assert_eq!(read(b"JSON").unwrap_err(), InvalidArray::Magic);
    }
}

//! Reads nested arrays, and says what is wrong with them and where.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, SeqAccess, Visitor};
use smallvec::SmallVec;

use super::super::{Lengths, Tensor, check_shape};
use super::element::{Element, Unfit};
use crate::signature::{Length, TensorSpec};
use crate::value::shortened;

/// The most bytes that are reserved before there is anything to put there: a specification may promise gigabytes to
/// come, and three bytes of JSON follow.
const MOST_BELIEVED_BYTES: u64 = 64 * 1024;

/// The least bytes that are reserved for elements.
const LEAST_RESERVED_BYTES: u64 = 64;

/// One tensor while it is read.
pub(super) struct Reader<'a> {
    spec: &'a TensorSpec,
    /// The length of each dimension: the declared one, or else that of the first array there.
    lengths: SmallVec<[Option<u64>; 4]>,
    /// The place that is read: an index in each dimension.
    place: Lengths,
    data: Vec<u8>,
    /// Whether the error that is being returned names its place.
    is_placed: bool,
}

impl<'a> Reader<'a> {
    pub(super) fn new(spec: &'a TensorSpec) -> Self {
        let lengths: SmallVec<_> = spec
            .shape()
            .lengths()
            .iter()
            .map(|&length| declared(length))
            .collect();
        Self {
            spec,
            place: SmallVec::from_elem(0, lengths.len()),
            lengths,
            data: Vec::new(),
            is_placed: false,
        }
    }

    /// Reads the tensor.
    pub(super) fn read<'de, E: Element, D: Deserializer<'de>>(
        mut self,
        _element: PhantomData<E>,
        deserializer: D,
    ) -> Result<Tensor, D::Error> {
        let read = if self.lengths.is_empty() {
            self.reserve::<E>();
            Single::<E>::new(&mut self.data).deserialize(deserializer)
        } else {
            Nested::<E>::new(&mut self, 0).deserialize(deserializer)
        };
        read.map_err(|error| self.placed(0, error))?;
        let lengths: Lengths = self.lengths.iter().map(|length| length.unwrap_or(0)).collect();
        check_shape(&lengths)
            .map_err(D::Error::custom)
            .map_err(|error| self.placed(0, error))?;
        Ok(Tensor::checked(self.spec.datatype(), lengths, self.data.into()))
    }

    /// Makes room for the elements that are expected, or doubles it.
    #[cold]
    fn reserve<E: Element>(&mut self) {
        let expected = self.lengths.iter().fold(E::LEAST_BYTES as u64, |bytes, length| {
            bytes.saturating_mul(length.unwrap_or(1))
        });
        let there = self.data.len() as u64;
        let wanted = match there {
            0 => expected.min(MOST_BELIEVED_BYTES),
            _ if expected > there => expected.min(2 * there),
            _ => 2 * there,
        };
        let more = wanted.max(LEAST_RESERVED_BYTES) - there;
        self.data.reserve_exact(usize::try_from(more).unwrap_or(0));
    }

    /// Adds to an error where it is, unless it says so already: in the first `depth` indices of the place.
    #[cold]
    fn placed<E: serde::de::Error>(&mut self, depth: usize, error: E) -> E {
        if std::mem::replace(&mut self.is_placed, true) {
            return error;
        }
        let place = Place {
            name: self.spec.name(),
            indices: &self.place[..depth],
        };
        E::custom(format_args!("{place}: {error}"))
    }

    /// Notes that an array at that depth ended after `got` elements.
    fn end<E: serde::de::Error>(&mut self, depth: usize, got: u64) -> Result<(), E> {
        match self.lengths[depth] {
            None => self.lengths[depth] = Some(got),
            Some(expected) if expected != got => return Err(self.other_length(depth, got)),
            Some(_) => {}
        }
        Ok(())
    }

    #[cold]
    fn other_length<E: serde::de::Error>(&self, depth: usize, got: impl fmt::Display) -> E {
        let expected = self.lengths[depth].unwrap_or(0);
        let elements = if expected == 1 { "element" } else { "elements" };
        let reason = match declared(self.spec.shape().lengths()[depth]) {
            Some(_) => format!(" ({})", self.spec),
            None => " as in the first array of this depth".to_owned(),
        };
        E::custom(format_args!(
            "expected {expected} {elements}{reason}, and got {got}"
        ))
    }
}

fn declared(length: Length) -> Option<u64> {
    match length {
        Length::Fixed(length) => Some(length),
        Length::Any => None,
    }
}

/// Where something is in a tensor: `image[3][0]`.
struct Place<'a> {
    name: &'a str,
    indices: &'a [u64],
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)?;
        self.indices.iter().try_for_each(|index| write!(f, "[{index}]"))
    }
}

/// Reads an array at some depth, and all that is in it.
struct Nested<'r, 'a, E> {
    reader: &'r mut Reader<'a>,
    depth: usize,
    element: PhantomData<E>,
}

impl<'r, 'a, E: Element> Nested<'r, 'a, E> {
    fn new(reader: &'r mut Reader<'a>, depth: usize) -> Self {
        Self {
            reader,
            depth,
            element: PhantomData,
        }
    }

    /// Reads the arrays in this one, at most so many, and returns how many there were.
    fn arrays<'de, A: SeqAccess<'de>>(&mut self, most: u64, seq: &mut A) -> Result<u64, A::Error> {
        for index in 0..most {
            self.reader.place[self.depth] = index;
            let within = Nested::<E>::new(&mut *self.reader, self.depth + 1);
            match seq.next_element_seed(within) {
                Ok(Some(())) => {}
                Ok(None) => return Ok(index),
                Err(error) => return Err(self.reader.placed(self.depth + 1, error)),
            }
        }
        Ok(most)
    }

    /// Reads the elements in this array, at most so many, and returns how many there were.
    fn elements<'de, A: SeqAccess<'de>>(&mut self, most: u64, seq: &mut A) -> Result<u64, A::Error> {
        for index in 0..most {
            if self.reader.data.capacity() - self.reader.data.len() < E::LEAST_BYTES {
                self.reader.reserve::<E>();
            }
            match seq.next_element_seed(Single::<E>::new(&mut self.reader.data)) {
                Ok(Some(())) => {}
                Ok(None) => return Ok(index),
                Err(error) => {
                    self.reader.place[self.depth] = index;
                    return Err(self.reader.placed(self.depth + 1, error));
                }
            }
        }
        Ok(most)
    }
}

impl<'de, E: Element> DeserializeSeed<'de> for Nested<'_, '_, E> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de, E: Element> Visitor<'de> for Nested<'_, '_, E> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an array ({})", self.reader.spec)
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut seq: A) -> Result<(), A::Error> {
        let most = self.reader.lengths[self.depth].unwrap_or(u64::MAX);
        let got = if self.depth + 1 < self.reader.lengths.len() {
            self.arrays(most, &mut seq)?
        } else {
            self.elements(most, &mut seq)?
        };
        if got < most {
            return self.reader.end(self.depth, got);
        }
        // As many as there may be: the array must end here.
        match seq.next_element::<IgnoredAny>()? {
            None => Ok(()),
            Some(_) => Err(self.reader.other_length(self.depth, "more")),
        }
    }
}

/// Reads one element.
struct Single<'r, E> {
    data: &'r mut Vec<u8>,
    element: PhantomData<E>,
}

impl<'r, E: Element> Single<'r, E> {
    #[inline]
    fn new(data: &'r mut Vec<u8>) -> Self {
        Self {
            data,
            element: PhantomData,
        }
    }
}

impl<'de, E: Element> DeserializeSeed<'de> for Single<'_, E> {
    type Value = ();
    #[inline]
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de, E: Element> Visitor<'de> for Single<'_, E> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(E::EXPECTED)
    }

    fn visit_bool<R: serde::de::Error>(self, given: bool) -> Result<(), R> {
        E::put_bool(given, self.data).map_err(|unfit| refused::<E, R>(&unfit, given))
    }

    #[inline]
    fn visit_u64<R: serde::de::Error>(self, given: u64) -> Result<(), R> {
        E::put_unsigned(given, self.data).map_err(|unfit| refused::<E, R>(&unfit, given))
    }

    #[inline]
    fn visit_i64<R: serde::de::Error>(self, given: i64) -> Result<(), R> {
        E::put_signed(given, self.data).map_err(|unfit| refused::<E, R>(&unfit, given))
    }

    #[inline]
    fn visit_f64<R: serde::de::Error>(self, given: f64) -> Result<(), R> {
        // In its shortest form, which keeps the point of `2.0` and does not write 300 digits.
        E::put_float(given, self.data).map_err(|unfit| refused::<E, R>(&unfit, format_args!("{given:?}")))
    }

    fn visit_str<R: serde::de::Error>(self, given: &str) -> Result<(), R> {
        E::put_text(given, self.data)
            .map_err(|unfit| refused::<E, R>(&unfit, format_args!("{:?}", shortened(given))))
    }
}

#[cold]
fn refused<E: Element, R: serde::de::Error>(unfit: &Unfit, given: impl fmt::Display) -> R {
    match unfit {
        Unfit::Kind => R::custom(format_args!("expected {}, and not {given}", E::EXPECTED)),
        Unfit::Range => R::custom(format_args!("{given} does not fit {}", E::RANGE)),
        Unfit::Base64(error) => R::custom(format_args!("invalid base64: {error}")),
    }
}

//! The same tensor of all inputs, or of all outputs, of a batch.

use std::fmt;

use bytes::{Bytes, BytesMut};

use super::{Lengths, Tensor, TensorError, check_data, check_shape, count, written};
use crate::container;
use crate::copies::copied;
use crate::datatype::Datatype;
use crate::signature::TensorSpec;
use crate::value::WireError;

/// One tensor of several inputs: stacked into one array where their shapes agree, otherwise one by one.
#[derive(Clone, Debug)]
pub struct TensorColumn {
    name: String,
    datatype: Datatype,
    form: Form,
}

/// How the tensors of a column lie.
#[derive(Clone, Debug)]
pub enum Form {
    /// One array of `[count, lengths…]`.
    Stacked {
        /// How many there are.
        count: usize,
        /// The shape that all have.
        lengths: Lengths,
        /// The elements of all, one after the other.
        data: Bytes,
        /// Where each ends in `data`, for [`Datatype::Bytes`]; empty for any other.
        ends: Vec<usize>,
    },
    /// One by one: their shapes differ.
    Ragged(Vec<Tensor>),
}

impl TensorColumn {
    /// Lays tensors of one datatype end to end. A single one is not copied.
    pub fn of<'a>(
        name: &str,
        datatype: Datatype,
        tensors: impl ExactSizeIterator<Item = &'a Tensor> + Clone,
    ) -> Self {
        let first = tensors.clone().next().map(|tensor| tensor.lengths.clone());
        let agree = first
            .as_ref()
            .is_none_or(|first| tensors.clone().all(|tensor| tensor.lengths == *first));
        let form = if agree {
            Form::Stacked {
                count: tensors.len(),
                lengths: first.unwrap_or_default(),
                ends: ends(datatype, tensors.clone()),
                data: joined(tensors.map(|tensor| &tensor.data)),
            }
        } else {
            Form::Ragged(tensors.cloned().collect())
        };
        Self {
            name: name.to_owned(),
            datatype,
            form,
        }
    }

    /// One array of `[count, lengths…]`, as a model made it; checked.
    pub fn stacked(
        name: &str,
        datatype: Datatype,
        count: usize,
        lengths: impl Into<Lengths>,
        data: impl Into<Bytes>,
    ) -> Result<Self, TensorError> {
        let (lengths, data) = (lengths.into(), data.into());
        let whole: Lengths = std::iter::once(count as u64)
            .chain(lengths.iter().copied())
            .collect();
        check_shape(&lengths)?;
        check_data(datatype, &whole, &data)?;
        let ends = byte_ends(datatype, count, &lengths, &data);
        Ok(Self {
            name: name.to_owned(),
            datatype,
            form: Form::Stacked {
                count,
                lengths,
                data,
                ends,
            },
        })
    }

    /// The tensor's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What the elements are.
    pub fn datatype(&self) -> Datatype {
        self.datatype
    }

    /// How the tensors lie.
    pub fn form(&self) -> &Form {
        &self.form
    }

    /// How many tensors there are.
    pub fn len(&self) -> usize {
        match &self.form {
            Form::Stacked { count, .. } => *count,
            Form::Ragged(tensors) => tensors.len(),
        }
    }

    /// Whether there is no tensor.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether all are what is declared.
    pub fn is(&self, spec: &TensorSpec) -> bool {
        match &self.form {
            // Text must be looked at one by one.
            Form::Stacked { count, lengths, .. } if !spec.is_utf8() => {
                self.datatype == spec.datatype() && (*count == 0 || spec.shape().takes(lengths))
            }
            _ => self.datatype == spec.datatype() && self.iter().all(|tensor| tensor.is(spec)),
        }
    }

    /// The tensor at `index`, which shares the column's buffer.
    ///
    /// # Panics
    /// If there is none.
    pub fn get(&self, index: usize) -> Tensor {
        match &self.form {
            Form::Ragged(tensors) => tensors[index].clone(),
            Form::Stacked { lengths, data, .. } => {
                let range = self.range(index..index + 1);
                Tensor::checked(self.datatype, lengths.clone(), data.slice(range))
            }
        }
    }

    /// All tensors, in order, which share the column's buffer.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Tensor> {
        (0..self.len()).map(|index| self.get(index))
    }

    /// The column of those from `range.start` to before `range.end`, which shares the buffer.
    ///
    /// # Panics
    /// If the range goes beyond the column.
    #[must_use]
    pub fn slice(&self, range: std::ops::Range<usize>) -> Self {
        let form = match &self.form {
            Form::Ragged(tensors) => Form::Ragged(tensors[range].to_vec()),
            Form::Stacked {
                lengths, data, ends, ..
            } => {
                let bytes = self.range(range.clone());
                let ends = ends.get(range.clone()).unwrap_or_default();
                Form::Stacked {
                    count: range.len(),
                    lengths: lengths.clone(),
                    ends: ends.iter().map(|end| end - bytes.start).collect(),
                    data: data.slice(bytes),
                }
            }
        };
        Self {
            name: self.name.clone(),
            datatype: self.datatype,
            form,
        }
    }

    /// Where the tensors of a stacked column stand in its data, in bytes.
    fn range(&self, range: std::ops::Range<usize>) -> std::ops::Range<usize> {
        let Form::Stacked {
            count, data, ends, ..
        } = &self.form
        else {
            unreachable!("only stacked columns have one buffer; this is a bug")
        };
        assert!(range.end <= *count, "the column has no tensor {}", range.end);
        let place = |index: usize| match ends.is_empty() {
            true => data.len() / (*count).max(1) * index,
            false => index.checked_sub(1).map_or(0, |before| ends[before]),
        };
        place(range.start)..place(range.end)
    }

    /// As it travels. A stacked column is not copied; a ragged one is, once.
    pub fn to_wire(&self) -> container::TensorColumn {
        let column = container::TensorColumn {
            name: self.name.clone(),
            datatype: self.datatype.to_wire() as i32,
            ..container::TensorColumn::default()
        };
        match &self.form {
            Form::Stacked {
                lengths, data, ends, ..
            } => container::TensorColumn {
                data: data.clone(),
                shape: lengths.to_vec(),
                byte_lengths: differences(ends),
                ..column
            },
            Form::Ragged(tensors) => container::TensorColumn {
                data: joined(tensors.iter().map(|tensor| &tensor.data)),
                ragged: true,
                rank: tensors
                    .first()
                    .map_or(0, |tensor| wire_length(tensor.lengths.len())),
                ragged_shapes: tensors
                    .iter()
                    .flat_map(|tensor| tensor.lengths.iter().copied())
                    .collect(),
                byte_lengths: differences(&ends(self.datatype, tensors.iter())),
                ..column
            },
        }
    }

    /// Reads a column of `count` tensors, and checks it whole. Nothing is copied.
    pub fn from_wire(column: container::TensorColumn, count: usize) -> Result<Self, WireError> {
        let datatype = Datatype::from_wire(column.datatype).ok_or(WireError::Datatype(column.datatype))?;
        let name = column.name.clone();
        let of_tensor = |error| WireError::Tensor {
            name: name.clone(),
            error,
        };
        // Before anything is made for each tensor: there are as many as were sent, and not only announced.
        if datatype == Datatype::Bytes && column.byte_lengths.len() != count {
            return Err(WireError::ByteLengths { name });
        }
        let form = if column.ragged {
            Form::Ragged(read_ragged(datatype, &column, count)?)
        } else {
            let read = Self::stacked(
                &name,
                datatype,
                count,
                column.shape.as_slice(),
                column.data.clone(),
            );
            read.map_err(of_tensor)?.form
        };
        let read = Self {
            name: column.name,
            datatype,
            form,
        };
        // The lengths of BYTES say where each tensor ends; what was counted must be what was sent.
        if datatype == Datatype::Bytes && read.byte_lengths() != column.byte_lengths {
            return Err(WireError::ByteLengths { name });
        }
        Ok(read)
    }

    fn byte_lengths(&self) -> Vec<u64> {
        match &self.form {
            Form::Stacked { ends, .. } => differences(ends),
            Form::Ragged(tensors) => tensors.iter().map(|tensor| tensor.data.len() as u64).collect(),
        }
    }
}

/// For people: `probabilities:FP32[3]`.
impl fmt::Display for TensorColumn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lengths = match &self.form {
            Form::Stacked { lengths, .. } => written(lengths),
            Form::Ragged(_) => " of several shapes".to_owned(),
        };
        write!(f, "{}:{}{lengths}", self.name, self.datatype)
    }
}

/// Reads the tensors of a ragged column, which share its buffer.
fn read_ragged(
    datatype: Datatype,
    column: &container::TensorColumn,
    count: usize,
) -> Result<Vec<Tensor>, WireError> {
    let name = &column.name;
    let of_tensor = |error| WireError::Tensor {
        name: name.clone(),
        error,
    };
    let rank = column.rank as usize;
    if rank.checked_mul(count) != Some(column.ragged_shapes.len()) {
        return Err(WireError::Shapes {
            name: name.clone(),
            expected: rank.saturating_mul(count),
            got: column.ragged_shapes.len(),
        });
    }
    let mut rest = column.data.clone();
    // Scalars announce no lengths, so their number is not to be believed before their bytes were seen.
    let mut tensors = Vec::with_capacity(count.min(column.data.len() + column.ragged_shapes.len()));
    for index in 0..count {
        let lengths = Lengths::from_slice(&column.ragged_shapes[index * rank..(index + 1) * rank]);
        let bytes = match datatype.element_bytes() {
            Some(bytes) => count_bytes(&lengths, bytes).map_err(of_tensor)?,
            None => column.byte_lengths[index],
        };
        if bytes > rest.len() as u64 {
            return Err(of_tensor(TensorError::Size {
                datatype,
                lengths: written(&lengths),
                expected: bytes,
                got: rest.len(),
            }));
        }
        #[expect(
            clippy::cast_possible_truncation,
            reason = "it is at most the length of a buffer"
        )]
        let data = rest.split_to(bytes as usize);
        tensors.push(Tensor::new(datatype, lengths, data).map_err(of_tensor)?);
    }
    if rest.is_empty() {
        return Ok(tensors);
    }
    Err(WireError::Lengths {
        lengths: (column.data.len() - rest.len()) as u64,
        data: column.data.len(),
    })
}

fn count_bytes(lengths: &[u64], element: usize) -> Result<u64, TensorError> {
    count(lengths)?
        .checked_mul(element as u64)
        .ok_or_else(|| TensorError::TooLarge(written(lengths)))
}

/// Buffers laid end to end. A single one is shared.
fn joined<'a>(buffers: impl Iterator<Item = &'a Bytes> + Clone) -> Bytes {
    let mut first = buffers.clone();
    if let (Some(only), None) = (first.next(), first.next()) {
        return only.clone();
    }
    let total = buffers.clone().map(Bytes::len).sum();
    copied(total);
    let mut data = BytesMut::with_capacity(total);
    for buffer in buffers {
        data.extend_from_slice(buffer);
    }
    data.freeze()
}

/// Where tensors of BYTES end if they lie end to end; nothing for any other datatype.
fn ends<'a>(datatype: Datatype, tensors: impl Iterator<Item = &'a Tensor>) -> Vec<usize> {
    if datatype != Datatype::Bytes {
        return Vec::new();
    }
    let end = |end: &mut usize, tensor: &Tensor| {
        *end += tensor.data.len();
        Some(*end)
    };
    tensors.scan(0, end).collect()
}

/// Where `count` tensors of BYTES end in checked data; nothing for any other datatype.
fn byte_ends(datatype: Datatype, count: usize, lengths: &[u64], data: &Bytes) -> Vec<usize> {
    if datatype != Datatype::Bytes {
        return Vec::new();
    }
    let each = super::count(lengths).unwrap_or(0);
    let whole = Tensor::checked(datatype, Lengths::new(), data.clone());
    let mut elements = whole.byte_elements();
    let mut end = 0;
    (0..count)
        .map(|_| {
            for element in elements
                .by_ref()
                .take(usize::try_from(each).unwrap_or(usize::MAX))
            {
                end += super::PREFIX + element.len();
            }
            end
        })
        .collect()
}

fn differences(ends: &[usize]) -> Vec<u64> {
    let mut before = 0;
    ends.iter()
        .map(|&end| (end - std::mem::replace(&mut before, end)) as u64)
        .collect()
}

fn wire_length(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tensor(datatype: Datatype, lengths: &[u64], fill: u8) -> Tensor {
        let elements: u64 = lengths.iter().product();
        let data = match datatype.element_bytes() {
            Some(bytes) => vec![fill % 2; usize::try_from(elements).unwrap() * bytes],
            None => (0..elements)
                .flat_map(|index| {
                    let text = vec![fill; usize::try_from(index).unwrap() % 5];
                    [u32::try_from(text.len()).unwrap().to_le_bytes().to_vec(), text].concat()
                })
                .collect(),
        };
        Tensor::new(datatype, lengths, data).unwrap()
    }

    fn any_column() -> impl Strategy<Value = (Datatype, Vec<Tensor>)> {
        let datatype = prop::sample::select(Datatype::ALL.to_vec());
        (datatype, 0_usize..=5, any::<bool>()).prop_flat_map(|(datatype, rank, alike)| {
            let shapes = prop::collection::vec((prop::collection::vec(0_u64..4, rank), any::<u8>()), 0..6);
            shapes.prop_map(move |shapes| {
                let shape = |index: usize| &shapes[if alike { 0 } else { index }].0;
                let fills = shapes.iter().enumerate();
                let tensors = fills.map(|(index, (_, fill))| tensor(datatype, shape(index), *fill));
                (datatype, tensors.collect())
            })
        })
    }

    proptest! {
        #[test]
        fn a_column_survives_the_wire((datatype, tensors) in any_column()) {
            let column = TensorColumn::of("a", datatype, tensors.iter());
            let read = TensorColumn::from_wire(column.to_wire(), tensors.len()).unwrap();
            prop_assert_eq!(read.iter().collect::<Vec<_>>(), tensors.clone());
            for start in 0..=tensors.len() {
                let part = read.slice(start..tensors.len());
                prop_assert_eq!(part.iter().collect::<Vec<_>>(), &tensors[start..]);
                let again = TensorColumn::from_wire(part.to_wire(), part.len()).unwrap();
                prop_assert_eq!(again.iter().collect::<Vec<_>>(), &tensors[start..]);
            }
        }
    }

    #[test]
    fn two_billion_elements_announced_and_ten_sent_are_refused() {
        let wire = container::TensorColumn {
            name: "a".to_owned(),
            datatype: Datatype::Uint8.to_wire() as i32,
            data: Bytes::from_static(&[0; 10]),
            shape: vec![1 << 31],
            ..container::TensorColumn::default()
        };
        let error = TensorColumn::from_wire(wire.clone(), 1).unwrap_err().to_string();
        assert!(error.contains("`a`") && error.contains("has 10"), "{error}");
        assert!(TensorColumn::from_wire(wire, 1 << 40).is_err());
    }

    #[test]
    fn a_column_that_does_not_add_up_is_refused() {
        let good =
            TensorColumn::of("a", Datatype::Bytes, [tensor(Datatype::Bytes, &[3], 7)].iter()).to_wire();
        let with = |change: fn(&mut container::TensorColumn)| {
            let mut column = good.clone();
            change(&mut column);
            TensorColumn::from_wire(column, 1)
        };
        assert!(with(|_| {}).is_ok());
        assert!(with(|column| column.byte_lengths = vec![1]).is_err());
        assert!(with(|column| column.datatype = 99).is_err());
        assert!(with(|column| column.shape = vec![4]).is_err());
        assert!(with(|column| column.ragged = true).is_err());
        assert!(with(|column| column.data = Bytes::from_static(&[9, 0, 0])).is_err());
    }
}

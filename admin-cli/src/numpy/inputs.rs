//! One input, or several, of the arrays in a NumPy file.

use skysail_proto::datatype::Datatype;
use skysail_proto::signature::{Inputs, Length, Shape, Signature, TensorSpec};
use skysail_proto::tensor::Tensor;
use skysail_proto::value::{Input, InputType};

use super::ZIP;
use super::archive::{self, InvalidArchive};
use super::array::{Array, Slice};
use super::convert::{self, Unfit};
use super::header::InvalidArray;

/// The most inputs of one file. Arrays without elements could hold any number of them.
const MOST_INPUTS: u64 = 1 << 20;

/// What a file asks.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Given {
    /// One input.
    One(Input),
    /// Several: the arrays have a dimension more than the tensors, and that is theirs.
    Batch(Vec<Input>),
}

/// Why a NumPy file is not what an application takes.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NumpyError {
    #[error(transparent)]
    Array(#[from] InvalidArray),
    #[error(transparent)]
    Archive(#[from] InvalidArchive),
    #[error(transparent)]
    Unfit(#[from] Unfit),
    #[error("the application takes {0}, and a NumPy file holds no such input")]
    NoTensors(InputType),
    #[error(
        "a .npy file holds one array, and the application takes {}; save them by name, as in \
         np.savez(\"inputs.npz\", {}=…)", listed(.0), .0[0].name()
    )]
    OneArray(Vec<TensorSpec>),
    #[error(
        "it has no array `{missing}`; it has {there}, and the application takes {}",
        listed(specs)
    )]
    Missing {
        missing: String,
        there: String,
        specs: Vec<TensorSpec>,
    },
    #[error(
        "it has an array `{name}` that the application does not take; it takes {}",
        listed(specs)
    )]
    Unknown { name: String, specs: Vec<TensorSpec> },
    #[error("array `{name}` is for {count} inputs, and array `{first}` for {other}")]
    Counts {
        first: String,
        other: String,
        name: String,
        count: String,
    },
    #[error("its first dimension is of length 0, so that it holds no input")]
    Empty,
    #[error("it holds {0} inputs, and at most {MOST_INPUTS} are asked at once: save them in several files")]
    TooMany(u64),
}

fn listed(specs: &[TensorSpec]) -> String {
    let written: Vec<String> = specs.iter().map(TensorSpec::to_string).collect();
    written.join(", ")
}

/// Reads a file for an application of this signature.
pub(crate) fn read(content: &[u8], signature: &Signature) -> Result<Given, NumpyError> {
    let specs = specs(signature)?;
    let arrays = arrays(content, &specs)?;
    let counts: Vec<Option<u64>> = specs
        .iter()
        .zip(&arrays)
        .map(|(spec, array)| inputs_in(spec, array))
        .collect::<Result<_, _>>()?;
    check_counts(&specs, &counts)?;
    match counts[0] {
        None => {
            let slices: Vec<_> = arrays.iter().map(Array::whole).collect();
            Ok(Given::One(input(signature, &specs, &slices)?))
        }
        Some(0) => Err(NumpyError::Empty),
        Some(count) if count > MOST_INPUTS => Err(NumpyError::TooMany(count)),
        Some(_) => {
            let mut rows: Vec<_> = arrays.iter().map(Array::rows).collect();
            let slices =
                std::iter::from_fn(|| rows.iter_mut().map(Iterator::next).collect::<Option<Vec<_>>>());
            let inputs: Result<_, _> = slices.map(|slices| input(signature, &specs, &slices)).collect();
            Ok(Given::Batch(inputs?))
        }
    }
}

/// The tensors that are taken; a row of numbers counts as one.
fn specs(signature: &Signature) -> Result<Vec<TensorSpec>, NumpyError> {
    let row = match signature.inputs() {
        Inputs::Row(row) => *row,
        Inputs::Tensors(_) | Inputs::Undeclared => return Ok(signature.input_tensors().to_vec()),
    };
    let datatype = match row {
        InputType::Integers => Datatype::Int32,
        InputType::Floats => Datatype::Fp32,
        InputType::Doubles => Datatype::Fp64,
        InputType::Bytes | InputType::Strings => return Err(NumpyError::NoTensors(row)),
    };
    let shape = Shape::new([Length::Any]).expect("one dimension is allowed; this is a bug");
    let spec = TensorSpec::new("input", datatype, shape);
    Ok(vec![spec.expect("the name is a good one; this is a bug")])
}

/// The file's arrays in the order of the tensors.
fn arrays(content: &[u8], specs: &[TensorSpec]) -> Result<Vec<Array>, NumpyError> {
    if !content.starts_with(ZIP) {
        let array = Array::read(content)?;
        return match specs {
            [_] => Ok(vec![array]),
            _ => Err(NumpyError::OneArray(specs.to_vec())),
        };
    }
    let mut named = archive::read(content)?;
    name_by_place(&mut named, specs);
    let mut arrays = Vec::with_capacity(specs.len());
    for spec in specs {
        let Some(place) = named.iter().position(|(name, _)| name == spec.name()) else {
            let there: Vec<String> = named.iter().map(|(name, _)| format!("`{name}`")).collect();
            return Err(NumpyError::Missing {
                missing: spec.name().to_owned(),
                there: if there.is_empty() {
                    "none".into()
                } else {
                    there.join(", ")
                },
                specs: specs.to_vec(),
            });
        };
        arrays.push(named.swap_remove(place).1);
    }
    match named.pop() {
        Some((name, _)) => Err(NumpyError::Unknown {
            name,
            specs: specs.to_vec(),
        }),
        None => Ok(arrays),
    }
}

/// Arrays that were saved without names are called `arr_0`, `arr_1` and so on: they are the tensors in order.
fn name_by_place(named: &mut [(String, Array)], specs: &[TensorSpec]) {
    let place = |name: &str| {
        name.strip_prefix("arr_")
            .and_then(|place| place.parse::<usize>().ok())
    };
    let is_named = |name: &str| specs.iter().any(|spec| spec.name() == name);
    let unnamed = named.len() == specs.len()
        && named
            .iter()
            .all(|(name, _)| !is_named(name) && place(name).is_some_and(|place| place < specs.len()));
    if !unnamed {
        return;
    }
    for (name, _) in named {
        if let Some(place) = place(name) {
            specs[place].name().clone_into(name);
        }
    }
}

/// How many inputs an array holds; `None` if it is one and has no dimension for it.
fn inputs_in(spec: &TensorSpec, array: &Array) -> Result<Option<u64>, Unfit> {
    if spec.shape().takes(&array.shape) {
        return Ok(None);
    }
    match array.shape.split_first() {
        Some((&count, shape)) if spec.shape().takes(shape) => Ok(Some(count)),
        _ => Err(Unfit::Shape {
            given: array.shape.clone(),
            spec: spec.clone(),
        }),
    }
}

fn check_counts(specs: &[TensorSpec], counts: &[Option<u64>]) -> Result<(), NumpyError> {
    let words = |count: Option<u64>| match count {
        Some(count) => count.to_string(),
        None => "one, without a dimension for it".to_owned(),
    };
    match counts.iter().position(|count| *count != counts[0]) {
        None => Ok(()),
        Some(place) => Err(NumpyError::Counts {
            first: specs[0].name().to_owned(),
            other: words(counts[0]),
            name: specs[place].name().to_owned(),
            count: words(counts[place]),
        }),
    }
}

fn input(signature: &Signature, specs: &[TensorSpec], slices: &[Slice<'_>]) -> Result<Input, Unfit> {
    let tensors: Result<Vec<Tensor>, Unfit> = specs
        .iter()
        .zip(slices)
        .map(|(spec, slice)| convert::tensor(*slice, spec))
        .collect();
    let tensors = tensors?;
    let Some(row) = signature.row_type() else {
        return Ok(Input::tensors(tensors));
    };
    let data = tensors[0].data();
    Ok(match row {
        InputType::Integers => Input::integers(&numbers(data, i32::from_le_bytes)),
        InputType::Floats => Input::floats(&numbers(data, f32::from_le_bytes)),
        _ => Input::doubles(&numbers(data, f64::from_le_bytes)),
    })
}

fn numbers<const N: usize, T>(data: &[u8], from: fn([u8; N]) -> T) -> Vec<T> {
    let (numbers, _) = data.as_chunks::<N>();
    numbers.iter().map(|&number| from(number)).collect()
}

#[cfg(test)]
mod tests;

//! Outputs that were checked against the signature: what is sent.

use std::collections::HashSet;

use bytes::Bytes;
use skysail_proto::container;
use skysail_proto::signature::{self, Signature, TensorSpec};
use skysail_proto::tensor::{Tensor, TensorColumn};
use skysail_proto::value::WireError;

use super::{Outputs, wire_index};

/// The answers to the inputs of a batch.
#[derive(Debug)]
pub(crate) struct Answers {
    pub(super) given: Given,
    /// The inputs that have no output, each once.
    pub(super) errors: Vec<container::InputError>,
}

/// What a model gave.
#[derive(Debug)]
pub(super) enum Given {
    /// The text of every input, empty for those without an output.
    Texts { data: Bytes, lengths: Vec<u32> },
    /// A column for each tensor, with the outputs of the inputs that have one; none if no input has.
    Tensors(Vec<TensorColumn>),
}

impl Answers {
    /// No input was given to the model.
    pub(crate) fn none(signature: &Signature) -> Self {
        let given = match signature.outputs() {
            signature::Outputs::Text => Given::Texts {
                data: Bytes::new(),
                lengths: Vec::new(),
            },
            signature::Outputs::Tensors(_) => Given::Tensors(Vec::new()),
        };
        let errors = Vec::new();
        Self { given, errors }
    }

    /// As they travel, for a batch whose inputs are all answered.
    pub(super) fn into_wire(self, inputs: usize) -> container::Outputs {
        let errors = self.errors;
        match self.given {
            Given::Texts { data, lengths } => container::Outputs {
                data,
                lengths,
                errors,
                ..container::Outputs::default()
            },
            Given::Tensors(columns) => container::Outputs {
                errors,
                tensors: columns.iter().map(TensorColumn::to_wire).collect(),
                inputs: wire_index(inputs),
                ..container::Outputs::default()
            },
        }
    }
}

/// Checks that outputs are those that the signature says, one for each of `expected` inputs.
pub(super) fn check(outputs: Outputs, signature: &Signature, expected: usize) -> Result<Answers, WireError> {
    match signature.outputs() {
        signature::Outputs::Text => texts(outputs, expected),
        signature::Outputs::Tensors(specs) => tensors(outputs, specs, expected),
    }
}

fn texts(outputs: Outputs, expected: usize) -> Result<Answers, WireError> {
    let first = outputs.stacked.first().map(TensorColumn::name);
    let first = first.or_else(|| Some(&*outputs.single.first()?.first()?.0));
    if let Some(tensor) = first {
        return Err(WireError::Output {
            declared: "text".to_owned(),
            got: format!("tensor `{tensor}`"),
        });
    }
    check_count(outputs.lengths.len(), expected)?;
    check_errors(&outputs.errors, expected)?;
    Ok(Answers {
        given: Given::Texts {
            data: Bytes::from(outputs.data),
            lengths: outputs.lengths,
        },
        errors: outputs.errors,
    })
}

fn tensors(outputs: Outputs, specs: &[TensorSpec], expected: usize) -> Result<Answers, WireError> {
    let texts = outputs.lengths.len() > outputs.errors.len() + outputs.single.len();
    if texts || (!outputs.stacked.is_empty() && !outputs.single.is_empty()) {
        let got = if texts {
            "text"
        } else {
            "tensors both stacked and one by one"
        };
        return Err(mismatch(got.to_owned(), specs));
    }
    check_errors(&outputs.errors, expected)?;
    let failed: HashSet<usize> = outputs.errors.iter().map(|error| error.index as usize).collect();
    let answered = expected - failed.len();
    let columns = if outputs.stacked.is_empty() {
        check_count(outputs.single.len() + failed.len(), expected)?;
        of_single(&outputs.single, specs)?
    } else {
        let mut columns = outputs.stacked;
        for column in &mut columns {
            if column.len() == expected && answered < expected {
                *column = without(column, &failed);
            }
            check_count(column.len() + failed.len(), expected)?;
        }
        columns
    };
    let given = if answered == 0 {
        Vec::new()
    } else {
        in_order(columns, specs)?
    };
    Ok(Answers {
        given: Given::Tensors(given),
        errors: outputs.errors,
    })
}

fn check_count(got: usize, expected: usize) -> Result<(), WireError> {
    if got == expected {
        return Ok(());
    }
    Err(WireError::Count { expected, got })
}

/// Checks that errors are of inputs that there are, and of each once.
fn check_errors(errors: &[container::InputError], expected: usize) -> Result<(), WireError> {
    let mut failed = HashSet::new();
    for error in errors {
        let index = error.index as usize;
        if index >= expected {
            let got = index + 1;
            return Err(WireError::Count { expected, got });
        }
        if !failed.insert(index) {
            let got = expected + 1;
            return Err(WireError::Count { expected, got });
        }
    }
    Ok(())
}

/// The columns of tensors that were given input by input.
fn of_single(inputs: &[Vec<(String, Tensor)>], specs: &[TensorSpec]) -> Result<Vec<TensorColumn>, WireError> {
    let of_input = |input: &Vec<(String, Tensor)>| {
        let columns = input
            .iter()
            .map(|(name, tensor)| TensorColumn::of(name, tensor.datatype(), std::iter::once(tensor)));
        in_order(columns.collect(), specs)
    };
    let inputs: Vec<Vec<TensorColumn>> = inputs.iter().map(of_input).collect::<Result<_, _>>()?;
    let column = |(place, spec): (usize, &TensorSpec)| {
        let tensors: Vec<Tensor> = inputs.iter().map(|columns| columns[place].get(0)).collect();
        TensorColumn::of(spec.name(), spec.datatype(), tensors.iter())
    };
    Ok(specs.iter().enumerate().map(column).collect())
}

/// What is left of a column without the outputs of inputs that failed.
fn without(column: &TensorColumn, failed: &HashSet<usize>) -> TensorColumn {
    let tensors = column.iter().enumerate();
    let kept = tensors.filter(|(index, _)| !failed.contains(index));
    let kept: Vec<Tensor> = kept.map(|(_, tensor)| tensor).collect();
    TensorColumn::of(column.name(), column.datatype(), kept.iter())
}

/// The columns in the signature's order, each checked against its own specification.
fn in_order(columns: Vec<TensorColumn>, specs: &[TensorSpec]) -> Result<Vec<TensorColumn>, WireError> {
    if columns.len() != specs.len() {
        return Err(mismatch(list(&columns), specs));
    }
    let mut columns: Vec<_> = columns.into_iter().map(Some).collect();
    let mut take = |spec: &TensorSpec| {
        let is_it = |column: &&mut Option<TensorColumn>| {
            column.as_ref().is_some_and(|column| column.name() == spec.name())
        };
        let column = columns.iter_mut().find(is_it).and_then(Option::take);
        let Some(column) = column else {
            return Err(mismatch(format!("no tensor `{}`", spec.name()), specs));
        };
        if !column.is(spec) {
            return Err(WireError::Output {
                declared: spec.to_string(),
                got: column.to_string(),
            });
        }
        Ok(column)
    };
    specs.iter().map(&mut take).collect()
}

fn mismatch(got: String, specs: &[TensorSpec]) -> WireError {
    WireError::Output {
        declared: list(specs),
        got,
    }
}

fn list(tensors: &[impl ToString]) -> String {
    if tensors.is_empty() {
        return "nothing".to_owned();
    }
    let tensors: Vec<_> = tensors.iter().map(ToString::to_string).collect();
    tensors.join(", ")
}

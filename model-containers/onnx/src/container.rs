//! The loaded file as a container's model.
//!
//! A batch whose inputs agree in their shapes is computed at once. If that fails, or the shapes differ, or the tensors
//! have no batch dimension, each input is computed by itself, so that one that the model cannot take fails alone.

use std::collections::BTreeMap;
use std::error::Error;
use std::iter;

use bytes::Bytes;
use skysail_container_rpc::{Batch, Input, Model, ModelError, Outputs};
use skysail_proto::signature::{Length, Signature, TensorSpec};
use skysail_proto::tensor::{Lengths, Tensor};
use tracing::info;

use crate::OnnxModel;
use crate::error::RunError;

impl Model for OnnxModel {
    fn predict(&mut self, batch: &Batch) -> Result<Outputs, ModelError> {
        if let Some(inputs) = self.stacked(batch)? {
            let computed = self.run(&inputs);
            match computed {
                Ok(outputs) => return self.stack(outputs),
                Err(error) if batch.len() == 1 => return Err(in_words(&error)),
                Err(_) => {}
            }
        }
        self.one_by_one(batch)
    }

    /// Zeros, if the file fixes all lengths. How long others take depends on lengths that nobody knows yet.
    fn warm_up(&mut self) -> Vec<Input> {
        if let Some(reason) = self.plan_for_each_shape() {
            info!(%reason, "tract makes a plan for each batch size");
        }
        let zeros: Option<Vec<_>> = OnnxModel::signature(self)
            .input_tensors()
            .iter()
            .map(zeros)
            .collect();
        zeros.map(Input::tensors).into_iter().collect()
    }

    fn signature(&self) -> Option<Signature> {
        Some(OnnxModel::signature(self).clone())
    }

    fn annotations(&self) -> BTreeMap<String, String> {
        OnnxModel::annotations(self).clone()
    }
}

impl OnnxModel {
    /// The batch as one tensor for each input, if it can be computed at once.
    fn stacked(&self, batch: &Batch) -> Result<Option<Vec<Tensor>>, ModelError> {
        let signature = OnnxModel::signature(self);
        if !signature.is_batched() {
            return Ok(None);
        }
        let mut inputs = Vec::new();
        for spec in signature.input_tensors() {
            let column = batch.tensor(spec.name())?;
            if !column.is_stacked() {
                return Ok(None);
            }
            let lengths: Lengths = iter::once(batch.len() as u64)
                .chain(column.lengths()?.iter().copied())
                .collect();
            inputs.push(Tensor::new(spec.datatype(), lengths, column.bytes()?.clone())?);
        }
        Ok(Some(inputs))
    }

    /// Outputs of a whole batch.
    fn stack(&self, outputs: Vec<Tensor>) -> Result<Outputs, ModelError> {
        let mut stacked = Outputs::new();
        for (spec, output) in OnnxModel::signature(self).output_tensors().iter().zip(outputs) {
            stacked.stack(
                spec.name(),
                output.datatype(),
                &shape(&output)?,
                output.data().clone(),
            )?;
        }
        Ok(stacked)
    }

    fn one_by_one(&mut self, batch: &Batch) -> Result<Outputs, ModelError> {
        let signature = OnnxModel::signature(self).clone();
        let specs = signature.input_tensors();
        let columns: Vec<_> = specs
            .iter()
            .map(|spec| batch.tensor(spec.name()))
            .collect::<Result<_, _>>()?;
        let mut inputs: Vec<_> = columns.iter().map(|column| column.iter()).collect();
        let mut outputs = Outputs::new();
        for _ in 0..batch.len() {
            let input: Vec<_> = inputs.iter_mut().filter_map(Iterator::next).collect();
            match self.one(&input, signature.is_batched()) {
                Ok(tensors) => {
                    let names = signature.output_tensors().iter().map(TensorSpec::name);
                    outputs.push_tensors(names.zip(tensors));
                }
                Err(error) => outputs.push_error(&error),
            }
        }
        Ok(outputs)
    }

    /// Computes one input, as a batch of one if there is a batch dimension.
    fn one(&mut self, input: &[Tensor], batched: bool) -> Result<Vec<Tensor>, ModelError> {
        if !batched {
            return self.run(input).map_err(|error| in_words(&error));
        }
        let with_batch = |tensor: &Tensor| {
            let lengths: Lengths = iter::once(1).chain(tensor.lengths().iter().copied()).collect();
            Tensor::new(tensor.datatype(), lengths, tensor.data().clone())
        };
        let input = input.iter().map(with_batch).collect::<Result<Vec<_>, _>>()?;
        let outputs = self.run(&input).map_err(|error| in_words(&error))?;
        let without_batch = |tensor: &Tensor| {
            let lengths: Lengths = tensor.lengths().iter().skip(1).copied().collect();
            Tensor::new(tensor.datatype(), lengths, tensor.data().clone())
        };
        Ok(outputs.iter().map(without_batch).collect::<Result<_, _>>()?)
    }
}

fn shape(tensor: &Tensor) -> Result<Vec<usize>, ModelError> {
    let lengths = tensor.lengths().iter();
    Ok(lengths
        .map(|&length| usize::try_from(length))
        .collect::<Result<_, _>>()?)
}

/// One input's tensor of zeros; `None` if not all is known of it.
fn zeros(spec: &TensorSpec) -> Option<Tensor> {
    let lengths = spec.shape().lengths().iter().map(|length| match length {
        Length::Fixed(length) => Some(*length),
        Length::Any => None,
    });
    let lengths: Lengths = lengths.collect::<Option<_>>()?;
    let elements = usize::try_from(lengths.iter().product::<u64>()).ok()?;
    let bytes = elements.checked_mul(spec.datatype().element_bytes()?)?;
    Tensor::new(spec.datatype(), lengths, Bytes::from(vec![0; bytes])).ok()
}

/// What the model says of a batch, with its causes: the words reach the client.
fn in_words(error: &RunError) -> ModelError {
    let cause = error
        .source()
        .map(|cause| format!(": {cause}"))
        .unwrap_or_default();
    ModelError::new(format_args!("{error}{cause}"))
}

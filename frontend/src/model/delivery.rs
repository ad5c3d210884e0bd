//! Splits the result of a batch and answers the batch's queries.

use std::sync::Arc;

use skysail_core::query::{BatchRun, DefaultReason, Failure};
use skysail_core::time::Instant;
use skysail_proto::container::{BatchResult, InputError, InputErrorKind, TensorColumn, batch_result};
use skysail_proto::datatype::Datatype;
use skysail_proto::signature::Signature;
use skysail_proto::value::{Output, from_outputs};
use tracing::debug;

use super::handle::ModelHandle;
use super::queue::Batch;

/// Outputs of this size or more are read on a thread of their own. Checking whether they are JSON takes a few
/// milliseconds per megabyte. Every other query would have to wait for that. Numbers are not read.
const LARGE_OUTPUTS_BYTES: usize = 64 * 1024;

/// A batch and its result.
pub(super) struct Delivery {
    pub(super) model: Arc<ModelHandle>,
    pub(super) batch: Batch,
    /// When the batch was sent.
    pub(super) sent_at: Instant,
    /// Its replica, its number of inputs, and the model's time.
    pub(super) run: BatchRun,
    pub(super) result: BatchResult,
}

impl Delivery {
    /// Answers each task, at once or, if the outputs are large, soon. If the frontend ends first, the tasks left are
    /// lost like those of a lost replica.
    pub(super) fn start(self) {
        match self.output_bytes() >= LARGE_OUTPUTS_BYTES {
            true => drop(tokio::task::spawn_blocking(|| self.deliver())),
            false => self.deliver(),
        }
    }

    fn output_bytes(&self) -> usize {
        match &self.result.outcome {
            Some(batch_result::Outcome::Outputs(outputs)) => {
                outputs.data.len() + outputs.tensors.iter().map(read_bytes).sum::<usize>()
            }
            _ => 0,
        }
    }

    /// Matches the outputs to their askers.
    fn deliver(self) {
        let (sent_at, run) = (self.sent_at, self.run);
        match outputs(self.result, run.inputs, self.model.signature()) {
            Ok(outputs) => {
                for (placed, output) in self.batch.into_iter().zip(outputs) {
                    let prediction = output.map_err(|error| input_failure(&error));
                    placed.task.answer_by(run.clone(), sent_at, prediction);
                }
            }
            Err(words) => {
                debug!(model = %self.model.id, error = words, "batch failed");
                let failure = Failure::model_error(&words);
                for placed in self.batch {
                    placed.task.answer_by(run.clone(), sent_at, Err(failure.clone()));
                }
            }
        }
    }
}

/// How many bytes of a column must be read to take it apart: those whose elements are checked or have lengths.
fn read_bytes(column: &TensorColumn) -> usize {
    let is_read = matches!(
        Datatype::from_wire(column.datatype),
        Some(Datatype::Bool | Datatype::Bytes)
    );
    if is_read { column.data.len() } else { 0 }
}

/// The outputs of a batch, or the error it failed with.
fn outputs(
    result: BatchResult,
    expected: usize,
    signature: &Signature,
) -> Result<Vec<Result<Output, InputError>>, String> {
    match result.outcome {
        Some(batch_result::Outcome::Outputs(outputs)) => {
            from_outputs(outputs, expected, signature).map_err(|error| error.to_string())
        }
        Some(batch_result::Outcome::BatchError(words)) => Err(words),
        None => Err("the container answered neither outputs nor an error".into()),
    }
}

fn input_failure(error: &InputError) -> Failure {
    match error.kind() {
        InputErrorKind::Model => Failure::model_error(&error.message),
        InputErrorKind::TooLate => DefaultReason::LateReply.into(),
    }
}

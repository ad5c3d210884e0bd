//! What came back for a batch, taken apart and given to those who asked.

use std::sync::Arc;

use skysail_core::query::{BatchRun, DefaultReason, Failure};
use skysail_core::time::Instant;
use skysail_proto::container::{BatchResult, InputError, InputErrorKind, batch_result};
use skysail_proto::value::{Output, from_outputs};
use tracing::debug;

use super::handle::ModelHandle;
use super::queue::Batch;

/// From this size on the outputs of a batch are read on a thread of its own: to find out whether they are JSON
/// takes a few milliseconds per megabyte, which every other query would have to wait.
const LARGE_OUTPUTS_BYTES: usize = 64 * 1024;

/// A batch, and what came back for it.
pub(super) struct Delivery {
    pub(super) model: Arc<ModelHandle>,
    pub(super) batch: Batch,
    /// When the batch left.
    pub(super) sent_at: Instant,
    /// How it was answered.
    pub(super) run: BatchRun,
    pub(super) result: BatchResult,
}

impl Delivery {
    /// Gives each task its answer: now, or soon if that takes its time. A task that is never answered, because
    /// the frontend ends first, is lost like one whose replica is.
    pub(super) fn start(self) {
        match self.output_bytes() >= LARGE_OUTPUTS_BYTES {
            true => drop(tokio::task::spawn_blocking(|| self.deliver())),
            false => self.deliver(),
        }
    }

    fn output_bytes(&self) -> usize {
        match &self.result.outcome {
            Some(batch_result::Outcome::Outputs(outputs)) => outputs.data.len(),
            _ => 0,
        }
    }

    /// Matches the outputs to their askers.
    fn deliver(self) {
        let (sent_at, run) = (self.sent_at, self.run);
        match outputs(self.result, run.inputs) {
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

/// The outputs of a batch, or the words it failed with.
fn outputs(result: BatchResult, expected: usize) -> Result<Vec<Result<Output, InputError>>, String> {
    match result.outcome {
        Some(batch_result::Outcome::Outputs(outputs)) => {
            from_outputs(outputs, expected).map_err(|error| error.to_string())
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

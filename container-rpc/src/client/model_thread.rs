//! The model's own thread: it may compute, block or panic without the connections noticing.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc as std_mpsc;
use std::thread;
use std::time::Duration;

use skysail_proto::container::{self, BatchResult, batch_result::Outcome};
use skysail_proto::value::{Column, WireError};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::credit::StreamId;
use crate::model::{Batch, Model, Outputs};
use crate::transport::MESSAGE_BYTES;

/// A batch for the model.
pub(super) struct Work {
    pub(super) stream: StreamId,
    pub(super) batch: container::Batch,
    pub(super) arrived: Instant,
}

/// A batch the model is done with.
pub(super) struct Finished {
    pub(super) stream: StreamId,
    pub(super) result: BatchResult,
    /// Time inside the model.
    pub(super) took: Duration,
}

/// Starts the thread; it ends when the sender of work is dropped.
///
/// Both queues are unbounded and stay short: each entry stands for a credit, and the container never has
/// more than two of these out.
pub(super) fn spawn(
    model: impl Model,
) -> std::io::Result<(std_mpsc::Sender<Work>, mpsc::UnboundedReceiver<Finished>)> {
    let (to_model, work) = std_mpsc::channel();
    let (done, finished) = mpsc::unbounded_channel();
    thread::Builder::new()
        .name("model".to_owned())
        .stack_size(STACK_BYTES)
        .spawn(move || run(model, &work, &done))?;
    Ok((to_model, finished))
}

/// As much as the main thread of a Linux process gets: models recurse.
const STACK_BYTES: usize = 8 * 1024 * 1024;

fn run(mut model: impl Model, work: &std_mpsc::Receiver<Work>, done: &mpsc::UnboundedSender<Finished>) {
    for work in work {
        let finished = answer(&mut model, work);
        if done.send(finished).is_err() {
            return;
        }
    }
}

fn answer(model: &mut impl Model, work: Work) -> Finished {
    let Work {
        stream,
        batch,
        arrived,
    } = work;
    let id = batch.id;
    let expected = batch.lengths.len();
    let batch = read(batch);
    let started = Instant::now();
    let answered = batch.and_then(|batch| predict(model, &batch));
    let took = started.elapsed();
    let outcome = answered.and_then(|outputs| checked(outputs, expected));
    let result = BatchResult {
        id,
        outcome: Some(match outcome {
            Ok(outputs) => Outcome::Outputs(outputs),
            Err(error) => Outcome::BatchError(shortened(error)),
        }),
        model_micros: micros(took),
        wait_micros: micros(started - arrived),
    };
    Finished { stream, result, took }
}

fn read(batch: container::Batch) -> Result<Batch, String> {
    if batch.lengths.is_empty() {
        return Err("the batch has no inputs".to_owned());
    }
    let column = Column::from_wire(batch.input_type, batch.data, &batch.lengths);
    column
        .map(Batch::new)
        .map_err(|error| format!("the batch cannot be read: {error}"))
}

fn predict(model: &mut impl Model, batch: &Batch) -> Result<Outputs, String> {
    // A model that was left half-changed by its panic is still the author's: what it answers next is as
    // right as what it would answer after an error it returned.
    match catch_unwind(AssertUnwindSafe(|| model.predict(batch))) {
        Ok(answered) => answered.map_err(|error| error.message().to_owned()),
        Err(panic) => Err(format!("the model panicked: {}", words_of(&*panic))),
    }
}

fn words_of(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("it gave no words")
}

fn checked(outputs: Outputs, expected: usize) -> Result<container::Outputs, String> {
    let got = outputs.len();
    if got != expected {
        return Err(WireError::Count { expected, got }.to_string());
    }
    let outputs = outputs.into_wire();
    let bytes = most_encoded_bytes(&outputs);
    if bytes > MESSAGE_BYTES {
        return Err(format!(
            "the outputs of {expected} inputs take {bytes} bytes, more than the {MESSAGE_BYTES} that one message may have: \
             answer less for each input, or deploy with a smaller --max-batch"
        ));
    }
    Ok(outputs)
}

/// An upper bound of what the result takes on the wire: one too large would break the stream.
fn most_encoded_bytes(outputs: &container::Outputs) -> usize {
    const LENGTH: usize = 5;
    const ERROR: usize = 32;
    const REST: usize = 128;
    let errors: usize = outputs
        .errors
        .iter()
        .map(|error| ERROR + error.message.len())
        .sum();
    outputs.data.len() + LENGTH * outputs.lengths.len() + errors + REST
}

/// The first part of a long error; nobody reads more, and a message has its limit.
fn shortened(mut error: String) -> String {
    const MOST: usize = 64 * 1024;
    if error.len() > MOST {
        error.truncate(error.floor_char_boundary(MOST));
        error.push('…');
    }
    error
}

fn micros(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bound_on_a_results_size_is_one() {
        let mut outputs = Outputs::new();
        for _ in 0..1000 {
            outputs.push_error(&crate::ModelError::new("a few words"));
            outputs.push(&"x".repeat(100));
        }
        let outputs = outputs.into_wire();
        let text_and_words = 1000 * (100 + "a few words".len());
        assert!(most_encoded_bytes(&outputs) >= text_and_words + 2 * 1000 + 1000 * 10);
    }

    #[test]
    fn a_result_beyond_the_message_limit_is_an_error_that_says_so() {
        let mut outputs = Outputs::new();
        outputs.push(&"x".repeat(MESSAGE_BYTES));
        let error = checked(outputs, 1).unwrap_err();
        assert!(error.contains("the outputs of 1 inputs take 268"), "{error}");
    }

    #[test]
    fn a_long_error_is_cut_at_a_character() {
        let cut = shortened("ü".repeat(100_000));
        assert!(cut.len() < 70_000 && cut.ends_with("ü…"), "{}", cut.len());
    }
}

//! The model's own thread: it may compute, block or panic without the connections noticing.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc as std_mpsc;
use std::thread;
use std::time::Duration;

use skysail_proto::container::{self, BatchResult, batch_result::Outcome};
use skysail_proto::value::{Column, WireError};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::warm_up::WarmUp;
use crate::credit::StreamId;
use crate::model::{self, Batch, Model, ModelError, Outputs};
use crate::sample::BatchTimeSample;
use crate::transport::MESSAGE_BYTES;

/// A batch for the model.
pub(super) struct Work {
    /// What frontends sent for it; at least one part.
    pub(super) parts: Vec<Part>,
}

/// What one frontend sent.
pub(super) struct Part {
    pub(super) stream: StreamId,
    pub(super) batch: container::Batch,
    pub(super) arrived: Instant,
}

/// A batch the model is done with.
pub(super) struct Finished {
    /// For each stream that sent a part, what to answer.
    pub(super) results: Vec<(StreamId, BatchResult)>,
    /// What the batch took; none if the model did not answer it.
    pub(super) sample: Option<BatchTimeSample>,
}

/// The container's side of the thread.
pub(super) struct ModelThread {
    /// What the batches of the warm-up took, once it is over. Dropping it ends the warm-up.
    pub(super) warmed_up: oneshot::Receiver<Vec<BatchTimeSample>>,
    /// Dropping it ends the thread.
    pub(super) to_model: std_mpsc::Sender<Work>,
    pub(super) finished: mpsc::UnboundedReceiver<Finished>,
}

/// Starts the thread, which begins with the warm-up.
///
/// Both queues are unbounded and stay short: each entry stands for a credit, and the container never has
/// more than two of these out.
pub(super) fn spawn(model: impl Model, warm_up: WarmUp) -> std::io::Result<ModelThread> {
    let (warm, warmed_up) = oneshot::channel();
    let (to_model, work) = std_mpsc::channel();
    let (done, finished) = mpsc::unbounded_channel();
    thread::Builder::new()
        .name("model".to_owned())
        .stack_size(STACK_BYTES)
        .spawn(move || {
            let mut model = model;
            let samples = warm_up.run(&mut model, || warm.is_closed());
            if warm.send(samples).is_ok() {
                run(model, &work, &done);
            }
        })?;
    Ok(ModelThread {
        warmed_up,
        to_model,
        finished,
    })
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
    let is_merged = work.parts.len() > 1;
    let (mut senders, mut parts) = (
        Vec::with_capacity(work.parts.len()),
        Vec::with_capacity(work.parts.len()),
    );
    let mut results = Vec::with_capacity(work.parts.len());
    for part in work.parts {
        let sender = Sender {
            stream: part.stream,
            id: part.batch.id,
            arrived: part.arrived,
        };
        match read(part.batch, part.arrived).and_then(|part| same_type(part, &parts)) {
            Ok(part) => {
                senders.push(sender);
                parts.push(part);
            }
            Err(error) => results.push(sender.result(Err(error), &Answer::without_model(Vec::new()), 0)),
        }
    }
    let mut sample = None;
    if !parts.is_empty() {
        let mut answer = answer_in_time(model, parts, is_merged);
        sample = answer.sample();
        let outcomes = std::mem::take(&mut answer.outcomes);
        let answered = senders.into_iter().zip(outcomes).enumerate();
        results.extend(answered.map(|(part, (sender, outcome))| {
            let own = answer.sizes.get(part).copied().unwrap_or(0);
            sender.result(outcome, &answer, own)
        }));
    }
    Finished { results, sample }
}

/// Who sent a part.
struct Sender {
    stream: StreamId,
    id: u64,
    arrived: Instant,
}

impl Sender {
    /// What it is told: what came of its part, of which the model was given `model_inputs`.
    fn result(
        self,
        outcome: Result<container::Outputs, String>,
        answer: &Answer,
        model_inputs: usize,
    ) -> (StreamId, BatchResult) {
        let inputs = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        let result = BatchResult {
            id: self.id,
            outcome: Some(match outcome {
                Ok(outputs) => Outcome::Outputs(outputs),
                Err(error) => Outcome::BatchError(shortened(error)),
            }),
            model_micros: micros(answer.took),
            wait_micros: micros(answer.started - self.arrived),
            model_inputs: Some(inputs(model_inputs)),
            merged_inputs: inputs(answer.merged_inputs),
        };
        (self.stream, result)
    }
}

/// What came of a batch.
struct Answer {
    /// For each part.
    outcomes: Vec<Result<container::Outputs, String>>,
    /// How many inputs of each part the model was given.
    sizes: Vec<usize>,
    started: Instant,
    took: Duration,
    /// Whether the model answered.
    worked: bool,
    /// How many inputs the model was given, if they are of several parts.
    merged_inputs: usize,
}

impl Answer {
    fn without_model(outcomes: Vec<Result<container::Outputs, String>>) -> Self {
        Self {
            outcomes,
            sizes: Vec::new(),
            started: Instant::now(),
            took: Duration::ZERO,
            worked: false,
            merged_inputs: 0,
        }
    }

    fn sample(&self) -> Option<BatchTimeSample> {
        let sample = BatchTimeSample {
            inputs: self.sizes.iter().sum(),
            took: self.took,
        };
        self.worked.then_some(sample)
    }
}

/// Gives the model what is still in time; if nothing is, the model is not called.
fn answer_in_time(model: &mut impl Model, parts: Vec<model::Part>, is_merged: bool) -> Answer {
    let started = Instant::now();
    let count = parts.len();
    let batch = Batch::of_those_in_time(parts, started);
    if batch.is_empty() {
        let late = batch.split(container::Outputs::default());
        return Answer {
            started,
            ..Answer::without_model(late.into_iter().map(Ok).collect())
        };
    }
    let Called { outcome, took } = call(model, &batch, started);
    let worked = outcome.is_ok();
    let outcomes = match outcome {
        Ok(outputs) => batch.split(outputs).into_iter().map(fitting).collect(),
        Err(error) => vec![Err(error); count],
    };
    Answer {
        outcomes,
        sizes: batch.sizes(),
        started,
        took,
        worked,
        merged_inputs: if is_merged { batch.len() } else { 0 },
    }
}

/// What came of a call of the model, and the time inside it.
pub(super) struct Called {
    pub(super) outcome: Result<container::Outputs, String>,
    pub(super) took: Duration,
}

/// Calls the model, now that it is `started`.
pub(super) fn call(model: &mut impl Model, batch: &Batch, started: Instant) -> Called {
    let answered = guarded(|| model.predict(batch));
    let took = started.elapsed();
    Called {
        outcome: answered.and_then(|outputs| counted(outputs, batch)),
        took,
    }
}

fn read(batch: container::Batch, arrived: Instant) -> Result<model::Part, String> {
    if batch.lengths.is_empty() {
        return Err("the batch has no inputs".to_owned());
    }
    let column = Column::from_wire(batch.input_type, batch.data, &batch.lengths);
    column
        .map(|column| model::Part {
            column,
            arrived,
            budgets_micros: batch.budgets_micros,
        })
        .map_err(|error| format!("the batch cannot be read: {error}"))
}

/// All inputs of a batch are of one type.
fn same_type(part: model::Part, others: &[model::Part]) -> Result<model::Part, String> {
    let given = part.column.input_type();
    match others.first().map(|first| first.column.input_type()) {
        Some(expected) if expected != given => Err(format!(
            "the batch holds {given}, those of other frontends {expected}"
        )),
        _ => Ok(part),
    }
}

/// What the model's own code answers, or the words it failed with, also by a panic.
pub(super) fn guarded<T>(ask: impl FnOnce() -> Result<T, ModelError>) -> Result<T, String> {
    // A model that was left half-changed by its panic is still the author's: what it answers next is as
    // right as what it would answer after an error it returned.
    match catch_unwind(AssertUnwindSafe(ask)) {
        Ok(answered) => answered.map_err(|error| error.message().to_owned()),
        Err(panic) => Err(format!("the model panicked: {}", words_of(&*panic))),
    }
}

fn words_of(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("it gave no words")
}

fn counted(outputs: Outputs, batch: &Batch) -> Result<container::Outputs, String> {
    let (expected, got) = (batch.len(), outputs.len());
    if got != expected {
        return Err(WireError::Count { expected, got }.to_string());
    }
    Ok(outputs.into_wire())
}

/// Outputs that fit into one message.
pub(super) fn fitting(outputs: container::Outputs) -> Result<container::Outputs, String> {
    let inputs = outputs.lengths.len();
    let bytes = most_encoded_bytes(&outputs);
    if bytes > MESSAGE_BYTES {
        return Err(format!(
            "the outputs of {inputs} inputs take {bytes} bytes, more than the {MESSAGE_BYTES} that one message may have: \
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
        let error = fitting(outputs.into_wire()).unwrap_err();
        assert!(error.contains("the outputs of 1 inputs take 268"), "{error}");
    }

    #[test]
    fn a_long_error_is_cut_at_a_character() {
        let cut = shortened("ü".repeat(100_000));
        assert!(cut.len() < 70_000 && cut.ends_with("ü…"), "{}", cut.len());
    }
}

//! The model's own thread: it may compute, block or panic without the connections noticing.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc as std_mpsc;
use std::thread;
use std::time::Duration;

use skysail_proto::container::{self, BatchResult, batch_result::Outcome};
use skysail_proto::signature::{Signature, TENSORS};
use skysail_proto::tensor::TensorColumn;
use skysail_proto::value::{Columns, InputType};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::warm_up::WarmUp;
use crate::credit::StreamId;
use crate::model::{self, Answers, Batch, Model, ModelError};
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
                run(model, &warm_up.signature, &work, &done);
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

fn run(
    mut model: impl Model,
    signature: &Signature,
    work: &std_mpsc::Receiver<Work>,
    done: &mpsc::UnboundedSender<Finished>,
) {
    for work in work {
        let finished = answer(&mut model, signature, work);
        if done.send(finished).is_err() {
            return;
        }
    }
}

fn answer(model: &mut impl Model, signature: &Signature, work: Work) -> Finished {
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
        match read(part, signature).and_then(|part| joins(part, &parts, signature)) {
            Ok(part) => {
                senders.push(sender);
                parts.push(part);
            }
            Err(error) => results.push(sender.result(Err(error), &Answer::without_model(Vec::new()), 0)),
        }
    }
    let mut sample = None;
    if !parts.is_empty() {
        let started = Instant::now();
        let batch = Batch::of_those_in_time(signature.clone(), parts, started);
        let mut answer = answer_in_time(model, &batch, started, is_merged);
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
fn answer_in_time(model: &mut impl Model, batch: &Batch, started: Instant, is_merged: bool) -> Answer {
    if batch.is_empty() {
        let late = batch.split(Answers::none(batch.signature()));
        return Answer {
            started,
            ..Answer::without_model(late.into_iter().map(Ok).collect())
        };
    }
    let Called { outcome, took } = call(model, batch, started);
    let sizes = batch.sizes();
    let worked = outcome.is_ok();
    let outcomes = match outcome {
        Ok(answers) => batch.split(answers).into_iter().map(fitting).collect(),
        Err(error) => vec![Err(error); sizes.len()],
    };
    Answer {
        outcomes,
        sizes,
        started,
        took,
        worked,
        merged_inputs: if is_merged { batch.len() } else { 0 },
    }
}

/// What came of a call of the model, and the time inside it.
pub(super) struct Called {
    pub(super) outcome: Result<Answers, String>,
    pub(super) took: Duration,
}

/// Calls the model, now that it is `started`.
pub(super) fn call(model: &mut impl Model, batch: &Batch, started: Instant) -> Called {
    let answered = guarded(|| model.predict(batch));
    let took = started.elapsed();
    Called {
        outcome: answered.and_then(|outputs| {
            let answers = outputs.answering(batch);
            answers.map_err(|error| error.message().to_owned())
        }),
        took,
    }
}

/// How many inputs a batch says it has.
pub(super) fn inputs_of(batch: &container::Batch) -> usize {
    if batch.input_type == container::InputType::Tensors as i32 {
        return batch.inputs as usize;
    }
    batch.lengths.len()
}

fn read(mut part: Part, signature: &Signature) -> Result<model::Part, String> {
    let inputs = inputs_of(&part.batch);
    if inputs == 0 {
        return Err("the batch has no inputs".to_owned());
    }
    // Inputs that are empty take no bytes: what is announced must still be a number that a batch can have.
    if inputs > MESSAGE_BYTES {
        return Err(format!(
            "the batch cannot be read: it has no room for {inputs} inputs"
        ));
    }
    let columns =
        Columns::from_batch(&mut part.batch).map_err(|error| format!("the batch cannot be read: {error}"))?;
    check_columns(&columns, signature)?;
    Ok(model::Part {
        columns,
        arrived: part.arrived,
        budgets_micros: part.batch.budgets_micros,
    })
}

/// Checks that tensors are those of the signature. A row of another type is for the model to refuse, which knows what
/// it takes.
fn check_columns(columns: &Columns, signature: &Signature) -> Result<(), String> {
    let specs = signature.input_tensors();
    let given = match columns {
        Columns::Row(_) if signature.row_type().is_some() => return Ok(()),
        Columns::Row(column) => column.input_type().to_string(),
        Columns::Tensors { columns, .. } => {
            let alike = columns
                .iter()
                .zip(specs)
                .all(|(column, spec)| column.name() == spec.name() && column.is(spec));
            if alike && columns.len() == specs.len() && !specs.is_empty() {
                return Ok(());
            }
            if columns.is_empty() {
                "no tensor".to_owned()
            } else {
                let columns: Vec<_> = columns.iter().map(TensorColumn::to_string).collect();
                columns.join(", ")
            }
        }
    };
    Err(format!(
        "the batch holds {given}, and the model takes {signature}"
    ))
}

/// All rows of a batch are of one type, and tensors without a batch dimension are a batch by themselves.
fn joins(part: model::Part, others: &[model::Part], signature: &Signature) -> Result<model::Part, String> {
    if !signature.is_batched() && (part.columns.len() > 1 || !others.is_empty()) {
        return Err("the model's tensors have no batch dimension, so a batch is one input".to_owned());
    }
    let row_type = |part: &model::Part| part.columns.row_type().map_or(TENSORS, InputType::name);
    let given = row_type(&part);
    match others.first().map(row_type) {
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

/// Outputs that fit into one message.
pub(super) fn fitting(outputs: container::Outputs) -> Result<container::Outputs, String> {
    let inputs = outputs.lengths.len().max(outputs.inputs as usize);
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
    let tensors: usize = outputs.tensors.iter().map(most_column_bytes).sum();
    outputs.data.len() + LENGTH * outputs.lengths.len() + tensors + errors + REST
}

fn most_column_bytes(column: &container::TensorColumn) -> usize {
    const LENGTH: usize = 10;
    const REST: usize = 64;
    let lengths = column.shape.len() + column.ragged_shapes.len() + column.byte_lengths.len();
    column.name.len() + column.data.len() + LENGTH * lengths + REST
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
    use crate::Outputs;

    /// Outputs as they travel that answer so many texts.
    fn wire(outputs: Outputs) -> container::Outputs {
        let texts = vec![skysail_proto::value::Input::string("a"); outputs.len()];
        let batch = Batch::of(&Signature::row(InputType::Strings), &texts).unwrap();
        outputs.into_wire(&batch).unwrap()
    }

    #[test]
    fn the_bound_on_a_results_size_is_one() {
        let mut outputs = Outputs::new();
        for _ in 0..1000 {
            outputs.push_error(&crate::ModelError::new("a few words"));
            outputs.push(&"x".repeat(100));
        }
        let outputs = wire(outputs);
        let text_and_words = 1000 * (100 + "a few words".len());
        assert!(most_encoded_bytes(&outputs) >= text_and_words + 2 * 1000 + 1000 * 10);
    }

    #[test]
    fn a_result_beyond_the_message_limit_is_an_error_that_says_so() {
        let mut outputs = Outputs::new();
        outputs.push(&"x".repeat(MESSAGE_BYTES));
        let error = fitting(wire(outputs)).unwrap_err();
        assert!(error.contains("the outputs of 1 inputs take 268"), "{error}");
    }

    #[test]
    fn a_long_error_is_cut_at_a_character() {
        let cut = shortened("ü".repeat(100_000));
        assert!(cut.len() < 70_000 && cut.ends_with("ü…"), "{}", cut.len());
    }
}

//! What a container does before it registers: tries the model in batches of several sizes.
//!
//! A model's first call pays for what it loads late, and a frontend that knows what batches take answers more
//! queries in time. Both are settled here, on inputs nobody waits for.

use std::time::Duration;

use skysail_proto::deployment::{MOST_LEARNED_BYTES, MOST_LEARNED_INPUTS};
use skysail_proto::signature::Signature;
use skysail_proto::value::{Columns, Input};
use tokio::time::Instant;
use tracing::{info, warn};

use super::model_thread::{Called, call, fitting, guarded};
use crate::model::{Batch, Model};
use crate::sample::BatchTimeSample;
use crate::settings::{Settings, SettingsError, warm_up_input};

/// No batch begins later than this, counted from the end of the very first.
const TIME: Duration = Duration::from_secs(1);

/// A batch that takes longer is the largest that is tried: twice as many inputs might take what is left of the
/// time, or far more.
const LONG: Duration = Duration::from_millis(250);

/// Times each size is tried: a line through the times stands on more than one of each, and the machine may
/// have been busy during one round.
const ROUNDS: usize = 3;

/// Each larger batch is told of in the log, in the first round: where the container runs out of memory, the last line
/// says of what.
const USUAL_INPUTS: usize = 64;

/// What to warm up with.
#[derive(Debug)]
pub(super) struct WarmUp {
    /// The deployment's input; it goes before what the model offers.
    given: Option<Input>,
    /// What the model takes and gives; declared.
    pub(super) signature: Signature,
    max_batch: usize,
}

impl WarmUp {
    /// Fails if the deployment's input is not of the signature that the settings have by now.
    pub(super) fn of(settings: &Settings) -> Result<Self, SettingsError> {
        let signature = settings.signature.clone();
        let given = settings.warm_up.as_ref();
        let given = given.map(|json| warm_up_input(&signature, json)).transpose();
        let most = if signature.is_batched() {
            settings.max_batch.get() as usize
        } else {
            1
        };
        Ok(Self {
            given: given.map_err(|mistake| SettingsError(vec![mistake]))?,
            signature,
            max_batch: most,
        })
    }

    /// Tries the model, on its thread; returns what the batches took. Nothing that goes wrong here keeps the
    /// container from serving. Once `is_over`, no further batch begins.
    pub(super) fn run(&self, model: &mut impl Model, is_over: impl Fn() -> bool) -> Vec<BatchTimeSample> {
        let inputs = match self.inputs(model) {
            Ok(inputs) if inputs.is_empty() => return Vec::new(),
            Ok(inputs) => inputs,
            Err(words) => {
                warn!(
                    reason = words,
                    "no warm-up: the model offers no inputs that it can be given"
                );
                return Vec::new();
            }
        };
        info!(largest_batch = self.max_batch, "warming up");
        let mut sweep = Sweep {
            model,
            signature: &self.signature,
            inputs,
            samples: Vec::new(),
        };
        match sweep.run(self.max_batch, is_over) {
            Ok(()) => info!(batches = sweep.samples.len(), "warmed up"),
            Err(words) => warn!(
                reason = words,
                "the model failed on its warm-up input, serving anyway"
            ),
        }
        sweep.samples
    }

    fn inputs(&self, model: &mut impl Model) -> Result<Vec<Input>, String> {
        if let Some(given) = &self.given {
            return Ok(vec![given.clone()]);
        }
        let offered = guarded(|| Ok(model.warm_up()))?;
        match offered.iter().find(|input| !input.fits(&self.signature)) {
            None => Ok(offered),
            Some(other) => Err(format!(
                "the model warms up with {other:?}, and is deployed with {}",
                self.signature
            )),
        }
    }
}

/// A sweep of sizes under way.
struct Sweep<'a, M> {
    model: &'a mut M,
    signature: &'a Signature,
    inputs: Vec<Input>,
    samples: Vec<BatchTimeSample>,
}

impl<M: Model> Sweep<'_, M> {
    /// Ends early, with the model's words, at the first batch that fails.
    fn run(&mut self, max_batch: usize, is_over: impl Fn() -> bool) -> Result<(), String> {
        let mut told = USUAL_INPUTS;
        // What this one takes says nothing of later ones: a library may load its kernels now.
        self.take(1)?;
        let begun = Instant::now();
        let mut steps = Steps::up_to(max_batch.min(most_tried(&self.inputs)));
        while let Some(inputs) = steps.next(begun.elapsed()).filter(|_| !is_over()) {
            if inputs > told {
                info!(inputs, "warming up with a larger batch");
                told = inputs;
            }
            let took = self.take(inputs)?;
            let sample = BatchTimeSample { inputs, took };
            steps.observe(sample);
            self.samples.push(sample);
        }
        Ok(())
    }

    /// Has the model answer a batch of this size, and drops the answers.
    fn take(&mut self, size: usize) -> Result<Duration, String> {
        let columns =
            Columns::repeating(self.signature, &self.inputs, size).map_err(|error| error.to_string())?;
        let batch = Batch::new(self.signature.clone(), columns);
        let Called { outcome, took } = call(self.model, &batch, Instant::now());
        let outputs = batch.split(outcome?).into_iter().map(fitting);
        let outputs = outputs.collect::<Result<Vec<_>, _>>()?;
        match outputs.into_iter().flat_map(|outputs| outputs.errors).next() {
            None => Ok(took),
            Some(error) => Err(error.message),
        }
    }
}

/// How many of these inputs make a batch that is not too large to try; one always does. No larger batch is sent
/// unless somebody has said so, and what it takes follows from these.
fn most_tried(inputs: &[Input]) -> usize {
    let longest = inputs.iter().map(|input| input.size()).max();
    let most = MOST_LEARNED_INPUTS.get() as usize;
    (MOST_LEARNED_BYTES / longest.unwrap_or_default().max(1)).clamp(1, most)
}

/// Which sizes are tried: 1, 2, 4 and so on up to the largest, in several rounds. Pure.
#[derive(Debug)]
struct Steps {
    next: usize,
    largest: usize,
    /// Rounds that are not over.
    rounds: usize,
}

impl Steps {
    fn up_to(largest: usize) -> Self {
        Self {
            next: 1,
            largest,
            rounds: ROUNDS,
        }
    }

    /// The size of the next batch, if one is to begin when so much time has passed.
    fn next(&self, elapsed: Duration) -> Option<usize> {
        (self.rounds > 0 && elapsed < TIME).then_some(self.next)
    }

    /// That batch was done.
    fn observe(&mut self, sample: BatchTimeSample) {
        if sample.took > LONG {
            self.largest = sample.inputs;
        }
        if sample.inputs < self.largest {
            self.next = sample.inputs.saturating_mul(2).min(self.largest);
        } else {
            self.next = 1;
            self.rounds -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The sizes tried with a model that takes so long, as far as the time goes.
    fn tried(largest: usize, time: impl Fn(usize) -> Duration) -> Vec<usize> {
        let mut steps = Steps::up_to(largest);
        let (mut tried, mut elapsed) = (Vec::new(), Duration::ZERO);
        while let Some(inputs) = steps.next(elapsed) {
            let took = time(inputs);
            tried.push(inputs);
            elapsed += took;
            steps.observe(BatchTimeSample { inputs, took });
        }
        tried
    }

    fn millis(millis: usize) -> Duration {
        Duration::from_millis(millis as u64)
    }

    #[test]
    fn sizes_double_up_to_the_largest_in_each_round() {
        let round = [1, 2, 4, 8, 9];
        assert_eq!(tried(9, |_| Duration::ZERO), [round; ROUNDS].concat());
        assert_eq!(tried(1, |_| Duration::ZERO), [1; ROUNDS]);
    }

    #[test]
    fn a_batch_that_takes_long_is_the_largest_of_every_round() {
        let sizes = tried(64, |inputs| if inputs < 4 { millis(1) } else { millis(251) });
        assert_eq!(sizes, [[1, 2, 4]; ROUNDS].concat());
    }

    #[test]
    fn no_batch_begins_after_a_second() {
        assert_eq!(tried(64, |_| millis(200)), [1, 2, 4, 8, 16]);
        assert_eq!(tried(64, |_| millis(60_000)), [1]);
    }

    #[test]
    fn a_batch_that_would_take_too_much_memory_is_not_tried() {
        let large = Input::bytes(vec![0; MOST_LEARNED_BYTES / 3]);
        assert_eq!(most_tried(&[Input::bytes(Vec::new()), large]), 3);
        assert_eq!(most_tried(&[Input::bytes(vec![0; MOST_LEARNED_BYTES + 1])]), 1);
        assert_eq!(most_tried(&[Input::bytes(Vec::new())]), 4096);
    }

    #[test]
    fn a_model_whose_time_grows_as_the_square_is_not_tried_for_long() {
        let sizes = tried(1024, |inputs| millis(inputs * inputs));
        assert_eq!(sizes[..5], [1, 2, 4, 8, 16]);
        assert!(sizes.iter().all(|&size| size <= 16), "{sizes:?}");
    }
}

//! A model whose cost is known: what schedulers are measured with, and what tests break on purpose.
//!
//! [`settings`] says how it behaves, [`cost`] what each batch costs; this file is the behaviour.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use skysail_container_rpc::{Batch, Datatype, Model, ModelError, Outputs, Tensor};
use tokio::time::Instant;

pub mod cost;
pub mod digest;
pub mod settings;

use cost::Costs;
use digest::digests;
use settings::{Fault, Mode, Settings};

/// Takes its time, counts its inputs, and answers a digest of each; output tensors are those of [`noop`].
#[derive(Debug)]
pub struct Synthetic {
    settings: Settings,
    costs: Costs,
    seen: Arc<AtomicU64>,
}

impl Synthetic {
    /// A model that has seen nothing.
    pub fn new(settings: Settings) -> Self {
        Self {
            costs: Costs::new(settings.clone()),
            settings,
            seen: Arc::default(),
        }
    }

    /// The number of inputs the model has been given; goes on counting after the model has moved away.
    pub fn seen(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.seen)
    }

    /// What goes wrong with the batch at hand, of so many inputs.
    fn fault(&self, inputs: u64) -> Option<Fault> {
        let goes_wrong = self.costs.batches() > self.settings.fail_after && inputs > self.settings.fail_above;
        self.settings.fault.filter(|_| goes_wrong)
    }

    fn answer(&self, batch: &Batch, seen_before: u64) -> Result<Outputs, ModelError> {
        if !batch.signature().output_tensors().is_empty() {
            return noop::answer(batch);
        }
        let digests = digests(batch)?.into_iter();
        if !self.settings.report_seen {
            return Ok(digests.map(|digest| format!("fnv1a:{digest:016x}")).collect());
        }
        let numbered = digests.zip(seen_before + 1..);
        Ok(numbered
            .map(|(digest, seen)| format!(r#"{{"digest":"fnv1a:{digest:016x}","inputs_seen":{seen}}}"#))
            .collect())
    }
}

impl Model for Synthetic {
    fn predict(&mut self, batch: &Batch) -> Result<Outputs, ModelError> {
        let begun = Instant::now();
        let inputs = batch.len() as u64;
        let seen_before = self.seen.fetch_add(inputs, Ordering::Relaxed);
        let mut outputs = self.answer(batch, seen_before)?;
        spend(self.settings.mode, self.costs.next(inputs), begun);
        match self.fault(inputs) {
            None => Ok(outputs),
            Some(Fault::Error) => Err(ModelError::new("SYNTHETIC_FAIL is error")),
            Some(Fault::Panic) => panic!("SYNTHETIC_FAIL is panic"),
            Some(Fault::Exit) => std::process::exit(17),
            Some(Fault::Hang) => loop {
                std::thread::park();
            },
            Some(Fault::WrongCount) => {
                one_too_many(batch, &mut outputs);
                Ok(outputs)
            }
            Some(Fault::WrongShape) => wrong_shape(batch),
        }
    }
}

fn one_too_many(batch: &Batch, outputs: &mut Outputs) {
    if batch.signature().output_tensors().is_empty() {
        outputs.push("one too many");
    } else {
        outputs.push_error(&ModelError::new("one too many"));
    }
}

/// Each tensor of the signature with a dimension more than it says; of text, a tensor.
fn wrong_shape(batch: &Batch) -> Result<Outputs, ModelError> {
    let specs = batch.signature().output_tensors();
    let names = specs
        .iter()
        .map(|spec| (spec.name(), spec.shape().lengths().len() + 1));
    let mut names: Vec<_> = names.collect();
    if names.is_empty() {
        names.push(("no text", 1));
    }
    let mut outputs = Outputs::new();
    for _ in 0..batch.len() {
        let tensors = names.iter().map(|&(name, rank)| {
            let tensor = Tensor::new(Datatype::Uint8, vec![1; rank], vec![0])?;
            Ok((name, tensor))
        });
        outputs.push_tensors(tensors.collect::<Result<Vec<_>, ModelError>>()?);
    }
    Ok(outputs)
}

/// How much later than it was told a sleeping thread usually wakes on Linux: the kernel's timer slack is
/// 50 µs, and the scheduler needs some more (measured: a median of 65 to 85 µs on a virtual machine).
const LATE: Duration = Duration::from_micros(80);

/// Lets what is left of `cost` since `begun` pass.
///
/// A sleep is cut short by what a sleeper usually wakes late, and what is left then is spun away. A batch never
/// takes less than its cost, and usually no more than some 20 µs longer; of a longer one the processor is kept
/// busy for [`LATE`] at most.
fn spend(mode: Mode, cost: Duration, begun: Instant) {
    let sleep = cost.saturating_sub(begun.elapsed()).saturating_sub(LATE);
    if mode == Mode::Sleep && !sleep.is_zero() {
        #[expect(
            clippy::disallowed_methods,
            reason = "the cost of this model is time that passes, on a thread of its own"
        )]
        std::thread::sleep(sleep);
    }
    while begun.elapsed() < cost {
        std::hint::spin_loop();
    }
}

#[cfg(test)]
mod tests {
    use skysail_container_rpc::{Columns, Input, InputType, Signature};

    use super::*;

    /// A batch of so many inputs.
    fn batch(inputs: usize) -> Batch {
        let signature = Signature::row(InputType::Doubles);
        let columns = Columns::repeating(&signature, &[Input::doubles(&[1.0])], inputs);
        Batch::new(signature, columns.unwrap())
    }

    #[test]
    fn batches_before_the_first_fault_are_answered() {
        let settings = Settings {
            fault: Some(Fault::Error),
            fail_after: 2,
            ..Settings::default()
        };
        let mut model = Synthetic::new(settings);
        let batch = batch(3);
        let answered: Vec<_> = (0..4).map(|_| model.predict(&batch).is_ok()).collect();
        assert_eq!(answered, [true, true, false, false]);
        assert_eq!(model.seen().load(Ordering::Relaxed), 12);
    }

    #[test]
    fn batches_that_are_not_too_large_are_answered() {
        let settings = Settings {
            fault: Some(Fault::Error),
            fail_above: 3,
            ..Settings::default()
        };
        let mut model = Synthetic::new(settings);
        let mut is_answered = |inputs| model.predict(&batch(inputs)).is_ok();
        assert_eq!([3, 4, 3].map(&mut is_answered), [true, false, true]);
    }

    #[test]
    fn what_goes_wrong_with_tensors_is_no_answer() {
        let specs = ["a:FP32[]", "mean:FP32[]"].map(|text| text.parse().unwrap());
        let [input, output] = specs;
        let signature = Signature::tensors([input], [output]).unwrap();
        let tensor = Tensor::new(Datatype::Fp32, [].as_slice(), 4.0_f32.to_le_bytes().to_vec());
        let batch = Batch::of(&signature, &[Input::tensors([tensor.unwrap()])]).unwrap();
        let answered = |fault| {
            let mut model = Synthetic::new(Settings {
                fault,
                ..Settings::default()
            });
            let answered = model
                .predict(&batch)
                .and_then(|outputs| outputs.into_wire(&batch));
            answered.map_err(|error| error.to_string())
        };
        let outputs = answered(None).unwrap();
        assert_eq!(outputs.tensors[0].data[..], 4.0_f32.to_le_bytes());
        for (fault, words) in [
            (Fault::WrongCount, "2 outputs for 1 inputs"),
            (
                Fault::WrongShape,
                "answered mean:UINT8[1], and its signature says mean:FP32[]",
            ),
        ] {
            let error = answered(Some(fault)).unwrap_err();
            assert!(error.contains(words), "{error}");
        }
    }

    #[test]
    fn a_batch_never_takes_less_than_it_costs() {
        for (mode, cost) in [(Mode::Sleep, 2000), (Mode::Sleep, 30), (Mode::Spin, 500)] {
            let (begun, cost) = (Instant::now(), Duration::from_micros(cost));
            spend(mode, cost, begun);
            assert!(begun.elapsed() >= cost, "{mode:?} {cost:?}");
        }
    }
}

//! A model whose cost is known: what schedulers are measured with, and what tests break on purpose.
//!
//! [`settings`] says how it behaves; this file is the behaviour.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use skysail_container_rpc::{Batch, Model, ModelError, Outputs};
use tokio::time::Instant;

pub mod digest;
pub mod settings;

use digest::digest;
use settings::{Fault, Mode, Settings};

/// Takes its time, counts its inputs, and answers a digest of each.
#[derive(Debug)]
pub struct Synthetic {
    settings: Settings,
    seen: Arc<AtomicU64>,
}

impl Synthetic {
    /// A model that has seen nothing.
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            seen: Arc::default(),
        }
    }

    /// The number of inputs the model has been given; goes on counting after the model has moved away.
    pub fn seen(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.seen)
    }

    fn answer(&self, batch: &Batch, seen_before: u64) -> Outputs {
        let digests = batch.inputs().map(digest);
        if !self.settings.report_seen {
            return digests.map(|digest| format!("fnv1a:{digest:016x}")).collect();
        }
        let numbered = digests.zip(seen_before + 1..);
        numbered
            .map(|(digest, seen)| format!(r#"{{"digest":"fnv1a:{digest:016x}","inputs_seen":{seen}}}"#))
            .collect()
    }
}

impl Model for Synthetic {
    fn predict(&mut self, batch: &Batch) -> Result<Outputs, ModelError> {
        let begun = Instant::now();
        let inputs = batch.len() as u64;
        let seen_before = self.seen.fetch_add(inputs, Ordering::Relaxed);
        let mut outputs = self.answer(batch, seen_before);
        spend(self.settings.mode, self.settings.cost_of(inputs), begun);
        match self.settings.fault {
            None => Ok(outputs),
            Some(Fault::Error) => Err(ModelError::new("SYNTHETIC_FAIL is error")),
            Some(Fault::Panic) => panic!("SYNTHETIC_FAIL is panic"),
            Some(Fault::Exit) => std::process::exit(17),
            Some(Fault::WrongCount) => {
                outputs.push("one too many");
                Ok(outputs)
            }
        }
    }
}

/// Lets what is left of `cost` since `begun` pass.
fn spend(mode: Mode, cost: Duration, begun: Instant) {
    match mode {
        #[expect(
            clippy::disallowed_methods,
            reason = "the cost of this model is time that passes, on a thread of its own"
        )]
        Mode::Sleep => std::thread::sleep(cost.saturating_sub(begun.elapsed())),
        Mode::Spin => {
            while begun.elapsed() < cost {
                std::hint::spin_loop();
            }
        }
    }
}

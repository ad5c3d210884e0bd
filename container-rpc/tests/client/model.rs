//! A model that does what its input says.

use std::sync::mpsc;

use skysail_container_rpc::{Batch, Input, Model, ModelError, Outputs};

/// Repeats its inputs, except for a few that ask for trouble.
pub(crate) struct Obedient {
    /// Says that the model is blocked.
    blocked: mpsc::Sender<()>,
    /// Lets it go on.
    released: mpsc::Receiver<()>,
    offers: Vec<Input>,
}

/// The test's side of a blocked model.
pub(crate) struct Gate {
    blocked: mpsc::Receiver<()>,
    release: mpsc::Sender<()>,
}

impl Obedient {
    pub(crate) fn new() -> (Self, Gate) {
        let (blocked, is_blocked) = mpsc::channel();
        let (release, released) = mpsc::channel();
        let gate = Gate {
            blocked: is_blocked,
            release,
        };
        let model = Self {
            blocked,
            released,
            offers: Vec::new(),
        };
        (model, gate)
    }

    /// That offers an input to warm up with.
    pub(crate) fn offering(mut self, input: Input) -> Self {
        self.offers.push(input);
        self
    }
}

impl Gate {
    /// Waits until the model has read `block`.
    pub(crate) async fn blocked(self) -> Self {
        let wait = tokio::task::spawn_blocking(move || {
            self.blocked.recv().unwrap();
            self
        });
        crate::frontend::within_bound("the model blocks", wait)
            .await
            .unwrap()
    }

    pub(crate) fn release(&self) {
        self.release.send(()).unwrap();
    }
}

impl Model for Obedient {
    fn warm_up(&mut self) -> Vec<Input> {
        self.offers.clone()
    }

    fn predict(&mut self, batch: &Batch) -> Result<Outputs, ModelError> {
        let mut outputs = Outputs::new();
        for text in batch.strings()? {
            match text {
                "fail" => return Err(ModelError::new("asked to fail")),
                "panic" => panic!("asked to panic"),
                "refuse" => outputs.push_error(&ModelError::new("asked to refuse this one")),
                "two" => {
                    outputs.push(text);
                    outputs.push(text);
                }
                "block" => {
                    self.blocked.send(()).unwrap();
                    self.released.recv().unwrap();
                    outputs.push(text);
                }
                "huge" => outputs.push(&"x".repeat(256 * 1024 * 1024)),
                text => outputs.push(text),
            }
        }
        Ok(outputs)
    }
}

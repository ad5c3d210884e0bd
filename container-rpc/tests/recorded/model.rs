//! A model of any row type that repeats its inputs, except for a few.

use std::sync::mpsc;

use skysail_container_rpc::{Batch, InputRef, Model, ModelError, Outputs};

use crate::script::BLOCK;

/// Repeats its inputs.
pub(crate) struct Repeating {
    /// Says that the model is blocked.
    pub(crate) blocked: mpsc::Sender<()>,
    /// Lets it go on.
    pub(crate) released: mpsc::Receiver<()>,
}

impl Model for Repeating {
    fn predict(&mut self, batch: &Batch) -> Result<Outputs, ModelError> {
        let mut outputs = Outputs::new();
        for input in batch.inputs() {
            match &*word(input) {
                "13" => outputs.push_error(&ModelError::new("refuses 13")),
                "666" => return Err(ModelError::new("fails on 666")),
                BLOCK => {
                    self.blocked.send(()).unwrap();
                    self.released.recv().unwrap();
                    outputs.push(BLOCK);
                }
                word => outputs.push(word),
            }
        }
        Ok(outputs)
    }
}

fn word(input: InputRef<'_>) -> String {
    fn list<T: ToString>(numbers: &[T]) -> String {
        let numbers: Vec<_> = numbers.iter().map(T::to_string).collect();
        numbers.join(",")
    }
    match input {
        InputRef::Bytes(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        InputRef::Integers(numbers) => list(numbers),
        InputRef::Floats(numbers) => list(numbers),
        InputRef::Doubles(numbers) => list(numbers),
        InputRef::Strings(text) => text.to_owned(),
    }
}

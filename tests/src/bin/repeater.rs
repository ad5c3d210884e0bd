//! A model that answers what it is asked to, as large as it is asked to: each input is a text such as
//! `{"first": "[", "repeat": "1,", "times": 100, "last": "1]"}`.

use std::process::ExitCode;

use serde::Deserialize;
use skysail_container_rpc::{Batch, Model, ModelError, Outputs, serve};

#[derive(Deserialize)]
struct Wish {
    first: String,
    repeat: String,
    times: usize,
    last: String,
}

struct Repeater;

impl Model for Repeater {
    fn predict(&mut self, batch: &Batch) -> Result<Outputs, ModelError> {
        let mut outputs = Outputs::new();
        for input in batch.strings()? {
            match serde_json::from_str::<Wish>(input) {
                Ok(wish) => outputs.push(&(wish.first + &wish.repeat.repeat(wish.times) + &wish.last)),
                Err(error) => outputs.push_error(&ModelError::new(error.to_string())),
            }
        }
        Ok(outputs)
    }
}

fn main() -> ExitCode {
    serve(Repeater)
}

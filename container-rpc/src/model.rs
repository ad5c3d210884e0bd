//! What the author of a container writes against.
//!
//! ```
//! use skysail_container_rpc::{Batch, Model, ModelError, Outputs};
//!
//! struct Sum;
//!
//! impl Model for Sum {
//!     fn predict(&mut self, batch: &Batch) -> Result<Outputs, ModelError> {
//!         Ok(batch.doubles()?.map(|row| row.iter().sum::<f64>().to_string()).collect())
//!     }
//! }
//! ```

use std::fmt;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use skysail_proto::container;
use skysail_proto::value::{Column, Input, InputRef, InputType};
use tokio::time::Instant;

/// A trained model, ready to answer.
pub trait Model: Send + 'static {
    /// Answers a batch: one output for each input, in order.
    ///
    /// Called on the model's own thread, one batch at a time; it may compute or block as long as it likes
    /// without the connection noticing. An error fails the batch, [`Outputs::push_error`] fails one input,
    /// and a panic is caught and fails the batch: the container lives on.
    ///
    /// Inputs whose time ran out while they waited in the container are not in the batch.
    fn predict(&mut self, batch: &Batch) -> Result<Outputs, ModelError>;

    /// Inputs to warm up with, all of the type the model takes; none by default.
    ///
    /// Asked once, on the model's thread, before the container registers; not where the deployment gives an
    /// input (`--warm-up`). The container then has the model answer them in batches of 1, 2, 4 and so on up
    /// to the largest, for about a second, and drops the answers. What the batches took goes to the frontend,
    /// which schedules well from the first query on; without it learns from the first queries.
    fn warm_up(&mut self) -> Vec<Input> {
        Vec::new()
    }
}

/// Why a model could not answer, in its own words: they reach whoever asked.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ModelError(String);

impl ModelError {
    /// An error with these words.
    pub fn new(message: impl fmt::Display) -> Self {
        Self(message.to_string())
    }

    /// Its words.
    pub fn message(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ModelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Lets a model use `?` on whatever its library fails with.
impl<E: std::error::Error> From<E> for ModelError {
    fn from(error: E) -> Self {
        Self::new(error)
    }
}

/// Inputs to answer together, all of one type.
#[derive(Clone, Debug)]
pub struct Batch {
    column: Column,
    /// Where in the column the inputs stand that are in time; none where all are, which is the common case.
    /// The column itself is never copied.
    in_time: Option<Vec<usize>>,
    arrived: Instant,
    /// Time each input of the column had left then; empty where that is not known.
    budgets_micros: Vec<u64>,
}

impl Batch {
    /// A batch of these inputs, which have all the time there is.
    pub fn new(column: Column) -> Self {
        Self::received(column, Instant::now(), Vec::new())
    }

    pub(crate) fn received(column: Column, arrived: Instant, budgets_micros: Vec<u64>) -> Self {
        Self {
            column,
            in_time: None,
            arrived,
            budgets_micros,
        }
    }

    /// Takes the inputs out whose time has run out at `now`.
    pub(crate) fn leave_late_out(&mut self, now: Instant) {
        let waited = (now - self.arrived).as_micros();
        let is_late = |budget: &u64| u128::from(*budget) <= waited;
        if !self.budgets_micros.iter().any(is_late) {
            return;
        }
        let in_time = |place: &usize| !self.budgets_micros.get(*place).is_some_and(is_late);
        self.in_time = Some((0..self.column.len()).filter(in_time).collect());
    }

    /// What the inputs are.
    pub fn input_type(&self) -> InputType {
        self.column.input_type()
    }

    /// How many inputs there are; at least one.
    pub fn len(&self) -> usize {
        self.in_time.as_ref().map_or(self.column.len(), Vec::len)
    }

    /// Whether there is no input; never so for a batch that a model is given.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The inputs, whatever their type.
    pub fn inputs(&self) -> impl ExactSizeIterator<Item = InputRef<'_>> {
        (0..self.len()).map(|index| self.column.get(self.place(index)))
    }

    /// Time left at this moment until the answer to the input at `index` is of no use any more: zero when it
    /// already is not, none where nobody said. The container takes no account of the way back.
    ///
    /// For models that can trade quality for time; most have no need of it.
    pub fn budget(&self, index: usize) -> Option<Duration> {
        if index >= self.len() {
            return None;
        }
        let budget = *self.budgets_micros.get(self.place(index))?;
        Some(Duration::from_micros(budget).saturating_sub(self.arrived.elapsed()))
    }

    /// Where in the column the input at `index` stands.
    fn place(&self, index: usize) -> usize {
        self.in_time.as_ref().map_or(index, |places| places[index])
    }

    /// Answers to this batch's inputs as answers to all of its column: what was left out was too late.
    pub(crate) fn with_late_inputs(&self, outputs: container::Outputs) -> container::Outputs {
        let Some(places) = &self.in_time else {
            return outputs;
        };
        let mut lengths = vec![0; self.column.len()];
        let mut late = vec![true; self.column.len()];
        for (&place, length) in places.iter().zip(outputs.lengths) {
            lengths[place] = length;
            late[place] = false;
        }
        let failed = outputs.errors.into_iter().map(|error| container::InputError {
            index: wire_index(places[error.index as usize]),
            ..error
        });
        let late = (0..late.len()).filter(|&place| late[place]).map(too_late);
        container::Outputs {
            data: outputs.data,
            lengths,
            errors: failed.chain(late).collect(),
        }
    }
}

fn too_late(place: usize) -> container::InputError {
    container::InputError {
        index: wire_index(place),
        kind: container::InputErrorKind::TooLate as i32,
        message: String::new(),
    }
}

fn wire_index(place: usize) -> u32 {
    u32::try_from(place).unwrap_or(u32::MAX)
}

macro_rules! typed {
    ($($(#[$doc:meta])* $method:ident: $variant:ident => $item:ty;)*) => {
        impl Batch {
            $($(#[$doc])*
            ///
            /// Fails if the batch holds inputs of another type.
            pub fn $method(&self) -> Result<impl ExactSizeIterator<Item = &$item>, ModelError> {
                self.expect_type(InputType::$variant)?;
                Ok(self.inputs().map(|input| match input {
                    InputRef::$variant(input) => input,
                    _ => unreachable!("all inputs of a column are of its type"),
                }))
            })*
        }
    };
}

typed! {
    /// The inputs, as bytes.
    bytes: Bytes => [u8];
    /// The inputs, as 32-bit integers.
    integers: Integers => [i32];
    /// The inputs, as 32-bit floats.
    floats: Floats => [f32];
    /// The inputs, as 64-bit floats.
    doubles: Doubles => [f64];
    /// The inputs, as text.
    strings: Strings => str;
}

impl Batch {
    fn expect_type(&self, expected: InputType) -> Result<(), ModelError> {
        let given = self.input_type();
        if given == expected {
            return Ok(());
        }
        Err(ModelError(format!(
            "the model takes {expected}, and was sent {given}: deploy it with input type {expected}"
        )))
    }
}

/// A model's answers, one for each input, in order.
#[derive(Clone, Debug, Default)]
pub struct Outputs {
    data: BytesMut,
    lengths: Vec<u32>,
    errors: Vec<container::InputError>,
}

impl Outputs {
    /// No answers yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The answer to the next input.
    pub fn push(&mut self, text: &str) {
        self.data.extend_from_slice(text.as_bytes());
        self.lengths.push(u32::try_from(text.len()).unwrap_or(u32::MAX));
    }

    /// The next input could not be answered.
    pub fn push_error(&mut self, error: &ModelError) {
        let index = wire_index(self.lengths.len());
        let kind = container::InputErrorKind::Model as i32;
        self.errors.push(container::InputError {
            index,
            message: error.0.clone(),
            kind,
        });
        self.lengths.push(0);
    }

    /// No answers yet, with room for those of a batch: one allocation for `inputs` answers that take `bytes`
    /// bytes together.
    pub fn with_capacity(inputs: usize, bytes: usize) -> Self {
        Self {
            data: BytesMut::with_capacity(bytes),
            lengths: Vec::with_capacity(inputs),
            errors: Vec::new(),
        }
    }

    /// Answers so far.
    pub fn len(&self) -> usize {
        self.lengths.len()
    }

    /// Whether there is no answer yet.
    pub fn is_empty(&self) -> bool {
        self.lengths.is_empty()
    }

    /// The outputs as they travel.
    pub fn into_wire(self) -> container::Outputs {
        container::Outputs {
            data: Bytes::from(self.data),
            lengths: self.lengths,
            errors: self.errors,
        }
    }
}

impl<T: AsRef<str>> FromIterator<T> for Outputs {
    fn from_iter<I: IntoIterator<Item = T>>(texts: I) -> Self {
        /// A label or a number: longer answers grow the buffer.
        const USUAL_BYTES: usize = 16;
        let texts = texts.into_iter();
        let (inputs, _) = texts.size_hint();
        let mut outputs = Self::with_capacity(inputs, inputs * USUAL_BYTES);
        for text in texts {
            outputs.push(text.as_ref());
        }
        outputs
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use skysail_proto::value::{from_outputs, to_columns};

    use super::*;

    fn batch(budgets_micros: &[u64]) -> Batch {
        let inputs: Vec<_> = (0..budgets_micros.len())
            .map(|index| Input::string(index.to_string()))
            .collect();
        let (data, lengths) = to_columns(inputs.iter());
        let wire = InputType::Strings.to_wire() as i32;
        let column = Column::from_wire(wire, data, &lengths).unwrap();
        Batch::received(column, Instant::now(), budgets_micros.to_vec())
    }

    #[test]
    fn an_input_is_too_late_from_the_moment_its_budget_is_used_up() {
        let mut batch = batch(&[1000]);
        let due = batch.arrived + Duration::from_micros(1000);
        batch.leave_late_out(due - Duration::from_micros(1));
        assert_eq!(batch.len(), 1);
        batch.leave_late_out(due);
        assert_eq!(batch.len(), 0);
    }

    #[test]
    fn without_budgets_no_input_is_ever_late() {
        let mut batch = batch(&[1]);
        batch.budgets_micros.clear();
        batch.leave_late_out(batch.arrived + Duration::from_secs(3600));
        assert_eq!(batch.len(), 1);
        assert_eq!(batch.budget(0), None);
    }

    #[test]
    fn a_budget_is_that_of_the_input_the_model_sees() {
        let hour = 3_600_000_000;
        let mut batch = batch(&[0, hour, 0, 2 * hour]);
        batch.leave_late_out(batch.arrived);
        let long = batch.budget(1).unwrap();
        assert!(long > Duration::from_micros(hour) && long <= Duration::from_micros(2 * hour));
        assert!(batch.budget(0).unwrap() <= Duration::from_micros(hour));
        assert_eq!(batch.budget(2), None);
    }

    proptest! {
        #[test]
        fn every_output_finds_its_input_whichever_were_late(
            budgets in prop::collection::vec(prop_oneof![Just(0_u64), Just(10)], 1..20),
        ) {
            let mut batch = batch(&budgets);
            batch.leave_late_out(batch.arrived + Duration::from_micros(5));
            let mut outputs = Outputs::new();
            // Every third input fails by itself.
            for (index, text) in batch.strings().unwrap().enumerate() {
                if index % 3 == 2 {
                    outputs.push_error(&ModelError::new(text));
                } else {
                    outputs.push(text);
                }
            }
            let answers = from_outputs(batch.with_late_inputs(outputs.into_wire()), budgets.len()).unwrap();
            for (place, (answer, budget)) in answers.iter().zip(&budgets).enumerate() {
                match answer {
                    Ok(output) => prop_assert_eq!(output.text(), place.to_string()),
                    Err(error) if error.kind() == container::InputErrorKind::Model => {
                        prop_assert_eq!(&error.message, &place.to_string());
                    }
                    Err(_) => prop_assert_eq!(*budget, 0),
                }
                prop_assert_eq!(*budget == 0, matches!(answer, Err(error) if error.message.is_empty()));
            }
        }
    }
}

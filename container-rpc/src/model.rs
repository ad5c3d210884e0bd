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
    /// What was received for it, from each frontend; at least one part.
    parts: Vec<Part>,
    /// Where the inputs stand, part by part; none where they are all of a single part, which is the common case.
    /// The columns themselves are never copied.
    places: Option<Vec<Place>>,
}

/// What one frontend sent for a batch.
#[derive(Clone, Debug)]
pub(crate) struct Part {
    pub(crate) column: Column,
    pub(crate) arrived: Instant,
    /// Time each input of the column had left then; empty where that is not known.
    pub(crate) budgets_micros: Vec<u64>,
}

/// Where an input stands.
#[derive(Clone, Copy, Debug)]
struct Place {
    part: usize,
    index: usize,
}

impl Part {
    /// Whether the time of an input has run out at `now`.
    fn is_late(&self, index: usize, now: Instant) -> bool {
        let waited = (now - self.arrived).as_micros();
        self.budgets_micros
            .get(index)
            .is_some_and(|&budget| u128::from(budget) <= waited)
    }

    fn has_late(&self, now: Instant) -> bool {
        let waited = (now - self.arrived).as_micros();
        self.budgets_micros
            .iter()
            .any(|&budget| u128::from(budget) <= waited)
    }
}

impl Batch {
    /// A batch of these inputs, which have all the time there is.
    pub fn new(column: Column) -> Self {
        let part = Part {
            column,
            arrived: Instant::now(),
            budgets_micros: Vec::new(),
        };
        Self {
            parts: vec![part],
            places: None,
        }
    }

    /// A batch of those inputs whose time has not run out at `now`.
    pub(crate) fn of_those_in_time(parts: Vec<Part>, now: Instant) -> Self {
        let mut batch = Self { parts, places: None };
        if batch.parts.len() > 1 || batch.parts[0].has_late(now) {
            let places = |(number, part): (usize, &Part)| {
                let in_time = |index: &usize| !part.is_late(*index, now);
                let places = (0..part.column.len())
                    .filter(in_time)
                    .map(|index| Place { part: number, index });
                places.collect::<Vec<_>>()
            };
            batch.places = Some(batch.parts.iter().enumerate().flat_map(places).collect());
        }
        batch
    }

    /// What the inputs are.
    pub fn input_type(&self) -> InputType {
        self.parts[0].column.input_type()
    }

    /// How many inputs there are; at least one.
    pub fn len(&self) -> usize {
        self.places.as_ref().map_or(self.parts[0].column.len(), Vec::len)
    }

    /// Whether there is no input; never so for a batch that a model is given.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The inputs, whatever their type.
    pub fn inputs(&self) -> impl ExactSizeIterator<Item = InputRef<'_>> {
        (0..self.len()).map(|index| {
            let place = self.place(index);
            self.parts[place.part].column.get(place.index)
        })
    }

    /// Time left at this moment until the answer to the input at `index` is of no use any more: zero when it
    /// already is not, none where nobody said. The container takes no account of the way back.
    ///
    /// For models that can trade quality for time; most have no need of it.
    pub fn budget(&self, index: usize) -> Option<Duration> {
        if index >= self.len() {
            return None;
        }
        let place = self.place(index);
        let part = &self.parts[place.part];
        let budget = *part.budgets_micros.get(place.index)?;
        Some(Duration::from_micros(budget).saturating_sub(part.arrived.elapsed()))
    }

    fn place(&self, index: usize) -> Place {
        match &self.places {
            Some(places) => places[index],
            None => Place { part: 0, index },
        }
    }

    /// How many inputs of each part are in the batch.
    pub(crate) fn sizes(&self) -> Vec<usize> {
        let Some(places) = &self.places else {
            return vec![self.len()];
        };
        let mut sizes = vec![0; self.parts.len()];
        for place in places {
            sizes[place.part] += 1;
        }
        sizes
    }

    /// Answers to this batch's inputs as answers to each part's column: what was left out was too late.
    pub(crate) fn split(&self, outputs: container::Outputs) -> Vec<container::Outputs> {
        let Some(places) = &self.places else {
            return vec![outputs];
        };
        let empty = |part: &Part| Split {
            lengths: vec![0; part.column.len()],
            late: vec![true; part.column.len()],
            ..Split::default()
        };
        let mut splits: Vec<_> = self.parts.iter().map(empty).collect();
        for (place, length) in places.iter().zip(outputs.lengths) {
            let split = &mut splits[place.part];
            split.lengths[place.index] = length;
            split.late[place.index] = false;
            split.bytes += length as usize;
        }
        for error in outputs.errors {
            let place = places[error.index as usize];
            splits[place.part].errors.push(container::InputError {
                index: wire_index(place.index),
                ..error
            });
        }
        // Parts follow each other, and so do their outputs.
        let mut data = outputs.data;
        splits
            .into_iter()
            .map(|split| {
                let own = data.split_to(split.bytes);
                split.with(own)
            })
            .collect()
    }
}

/// The outputs of one part.
#[derive(Default)]
struct Split {
    /// How many bytes all its outputs have.
    bytes: usize,
    lengths: Vec<u32>,
    late: Vec<bool>,
    errors: Vec<container::InputError>,
}

impl Split {
    fn with(self, data: Bytes) -> container::Outputs {
        let late = (0..self.late.len())
            .filter(|&index| self.late[index])
            .map(too_late);
        container::Outputs {
            data,
            lengths: self.lengths,
            errors: self.errors.into_iter().chain(late).collect(),
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

    /// A part whose inputs say where they stand, after `before`.
    fn part(before: &str, budgets_micros: &[u64], arrived: Instant) -> Part {
        let inputs: Vec<_> = (0..budgets_micros.len())
            .map(|index| Input::string(format!("{before}{index}")))
            .collect();
        let (data, lengths) = to_columns(inputs.iter());
        let wire = InputType::Strings.to_wire() as i32;
        let column = Column::from_wire(wire, data, &lengths).unwrap();
        Part {
            column,
            arrived,
            budgets_micros: budgets_micros.to_vec(),
        }
    }

    /// A batch of one part, so long after that arrived.
    fn batch(budgets_micros: &[u64], waited: Duration) -> Batch {
        let now = Instant::now();
        Batch::of_those_in_time(vec![part("", budgets_micros, now)], now + waited)
    }

    #[test]
    fn an_input_is_too_late_from_the_moment_its_budget_is_used_up() {
        let due = Duration::from_micros(1000);
        assert_eq!(batch(&[1000], due - Duration::from_micros(1)).len(), 1);
        assert_eq!(batch(&[1000], due).len(), 0);
    }

    #[test]
    fn without_budgets_no_input_is_ever_late() {
        let now = Instant::now();
        let mut part = part("", &[1], now);
        part.budgets_micros.clear();
        let batch = Batch::of_those_in_time(vec![part], now + Duration::from_secs(3600));
        assert_eq!(batch.len(), 1);
        assert_eq!(batch.budget(0), None);
    }

    #[test]
    fn a_budget_is_that_of_the_input_the_model_sees() {
        let hour = 3_600_000_000;
        let batch = batch(&[0, hour, 0, 2 * hour], Duration::ZERO);
        let long = batch.budget(1).unwrap();
        assert!(long > Duration::from_micros(hour) && long <= Duration::from_micros(2 * hour));
        assert!(batch.budget(0).unwrap() <= Duration::from_micros(hour));
        assert_eq!(batch.budget(2), None);
    }

    proptest! {
        #[test]
        fn every_output_finds_its_input_whichever_were_late(
            parts in prop::collection::vec(
                prop::collection::vec(prop_oneof![Just(0_u64), Just(10)], 1..20),
                1..5,
            ),
        ) {
            let now = Instant::now();
            let received = parts.iter().enumerate().map(|(number, budgets)| part(&format!("{number}."), budgets, now));
            let batch = Batch::of_those_in_time(received.collect(), now + Duration::from_micros(5));
            let in_time = |budgets: &Vec<u64>| budgets.iter().filter(|&&budget| budget > 0).count();
            prop_assert_eq!(batch.sizes(), parts.iter().map(in_time).collect::<Vec<_>>());
            let mut outputs = Outputs::new();
            // Every third input fails by itself.
            for (index, text) in batch.strings().unwrap().enumerate() {
                if index % 3 == 2 {
                    outputs.push_error(&ModelError::new(text));
                } else {
                    outputs.push(text);
                }
            }
            let split = batch.split(outputs.into_wire());
            prop_assert_eq!(split.len(), parts.len());
            for (number, (outputs, budgets)) in split.into_iter().zip(&parts).enumerate() {
                let answers = from_outputs(outputs, budgets.len()).unwrap();
                for (place, (answer, budget)) in answers.iter().zip(budgets).enumerate() {
                    let own = format!("{number}.{place}");
                    match answer {
                        Ok(output) => prop_assert_eq!(output.text(), own),
                        Err(error) if error.kind() == container::InputErrorKind::Model => {
                            prop_assert_eq!(&error.message, &own);
                        }
                        Err(_) => prop_assert_eq!(*budget, 0),
                    }
                    prop_assert_eq!(*budget == 0, matches!(answer, Err(error) if error.message.is_empty()));
                }
            }
        }
    }
}

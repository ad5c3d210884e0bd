//! Inputs to answer together, perhaps of several frontends.

use std::sync::OnceLock;
use std::time::Duration;

use bytes::Bytes;
use skysail_proto::container;
use skysail_proto::signature::Signature;
use skysail_proto::tensor::{Tensor, TensorColumn};
use skysail_proto::value::{Columns, Input, InputRef, InputType};
use tokio::time::Instant;

use super::answers::{Answers, Given};
use super::{ModelError, TensorBatch, wire_index};

/// Inputs to answer together, all as the signature says.
#[derive(Clone, Debug)]
pub struct Batch {
    signature: Signature,
    /// What was received for it, from each frontend; at least one part.
    parts: Vec<Part>,
    /// Where the inputs stand, part by part; none where they are all of a single part, which is the common case.
    /// Rows are never copied, and tensors once if they are of several parts, or if some were left out.
    places: Option<Vec<Place>>,
    /// For each tensor of an input, what the model is shown once it has asked for it.
    tensors: Vec<OnceLock<TensorBatch>>,
}

/// What one frontend sent for a batch.
#[derive(Clone, Debug)]
pub(crate) struct Part {
    pub(crate) columns: Columns,
    pub(crate) arrived: Instant,
    /// Time each input of the columns had left then; empty where that is not known.
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

    /// The columns of its tensors; none for rows.
    fn tensors(&self) -> &[TensorColumn] {
        match &self.columns {
            Columns::Row(_) => &[],
            Columns::Tensors { columns, .. } => columns,
        }
    }
}

impl Batch {
    /// A batch of these inputs, which are as the signature says and have all the time there is.
    pub fn new(signature: Signature, columns: Columns) -> Self {
        let part = Part {
            columns,
            arrived: Instant::now(),
            budgets_micros: Vec::new(),
        };
        Self::of_parts(signature, vec![part])
    }

    /// A batch of these inputs, which have all the time there is. Fails if there is none, or one does not fit the
    /// signature.
    pub fn of(signature: &Signature, inputs: &[Input]) -> Result<Self, ModelError> {
        if inputs.is_empty() || !inputs.iter().all(|input| input.fits(signature)) {
            return Err(ModelError::new(format_args!(
                "a batch has at least one input, and all of them are {signature}"
            )));
        }
        let columns = Columns::repeating(signature, inputs, inputs.len())?;
        Ok(Self::new(signature.clone(), columns))
    }

    fn of_parts(signature: Signature, parts: Vec<Part>) -> Self {
        let tensors = parts[0].tensors().iter().map(|_| OnceLock::new()).collect();
        Self {
            signature,
            parts,
            places: None,
            tensors,
        }
    }

    /// A batch of those inputs whose time has not run out at `now`.
    pub(crate) fn of_those_in_time(signature: Signature, parts: Vec<Part>, now: Instant) -> Self {
        let mut batch = Self::of_parts(signature, parts);
        if batch.parts.len() > 1 || batch.parts[0].has_late(now) {
            let places = |(number, part): (usize, &Part)| {
                let in_time = |index: &usize| !part.is_late(*index, now);
                let places = (0..part.columns.len())
                    .filter(in_time)
                    .map(|index| Place { part: number, index });
                places.collect::<Vec<_>>()
            };
            batch.places = Some(batch.parts.iter().enumerate().flat_map(places).collect());
        }
        batch
    }

    /// What the inputs are, and what the outputs are to be.
    pub fn signature(&self) -> &Signature {
        &self.signature
    }

    /// What the rows are; `None` for tensors.
    pub fn row_type(&self) -> Option<InputType> {
        self.parts[0].columns.row_type()
    }

    /// How many inputs there are; at least one.
    pub fn len(&self) -> usize {
        self.places.as_ref().map_or(self.parts[0].columns.len(), Vec::len)
    }

    /// Whether there is no input; never so for a batch that a model is given.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The rows, whatever their type; none if the inputs are tensors.
    pub fn inputs(&self) -> impl ExactSizeIterator<Item = InputRef<'_>> {
        let rows = if self.row_type().is_some() { self.len() } else { 0 };
        (0..rows).map(|index| {
            let place = self.place(index);
            match &self.parts[place.part].columns {
                Columns::Row(column) => column.get(place.index),
                Columns::Tensors { .. } => unreachable!("all parts of a batch are rows; this is a bug"),
            }
        })
    }

    /// One tensor of all inputs, by its name. Fails if there is none of that name.
    ///
    /// A view of what was received. Where the batch was put together of several, or inputs were left out because their
    /// time has run out, the tensor is copied once, when it is first asked for.
    pub fn tensor(&self, name: &str) -> Result<&TensorBatch, ModelError> {
        let columns = self.parts[0].tensors();
        let Some(place) = columns.iter().position(|column| column.name() == name) else {
            return Err(self.no_tensor(name));
        };
        Ok(self.tensors[place].get_or_init(|| TensorBatch::new(self.gathered(place))))
    }

    /// The tensor at `column` in the signature, of all inputs that are in the batch.
    fn gathered(&self, column: usize) -> TensorColumn {
        let of_part = |part: usize| &self.parts[part].tensors()[column];
        let Some(places) = &self.places else {
            return of_part(0).clone();
        };
        let tensors: Vec<Tensor> = places
            .iter()
            .map(|place| of_part(place.part).get(place.index))
            .collect();
        TensorColumn::of(of_part(0).name(), of_part(0).datatype(), tensors.iter())
    }

    fn no_tensor(&self, name: &str) -> ModelError {
        if let Some(given) = self.row_type() {
            return ModelError::new(format_args!(
                "the model takes tensor `{name}`, and was sent {given}: deploy it with input type tensors"
            ));
        }
        let names: Vec<_> = self.parts[0]
            .tensors()
            .iter()
            .map(TensorColumn::to_string)
            .collect();
        ModelError::new(format_args!(
            "there is no input tensor `{name}`; there are {}",
            names.join(", ")
        ))
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

    /// Answers to this batch's inputs as answers to each part's columns: what was left out was too late.
    pub(crate) fn split(&self, answers: Answers) -> Vec<container::Outputs> {
        let Some(places) = &self.places else {
            return vec![answers.into_wire(self.len())];
        };
        let mut splits: Vec<_> = self.parts.iter().map(Split::of).collect();
        for place in places {
            let split = &mut splits[place.part];
            split.late[place.index] = false;
            split.answered += 1;
        }
        for error in answers.errors {
            let place = places[error.index as usize];
            let split = &mut splits[place.part];
            split.answered -= 1;
            split.errors.push(container::InputError {
                index: wire_index(place.index),
                ..error
            });
        }
        match answers.given {
            Given::Texts { data, lengths } => split_texts(splits, places, data, lengths),
            Given::Tensors(columns) => split_tensors(splits, &columns),
        }
    }
}

/// What becomes of one part.
struct Split {
    /// Which of its inputs were left out.
    late: Vec<bool>,
    errors: Vec<container::InputError>,
    /// How many of its inputs have an output.
    answered: usize,
}

impl Split {
    fn of(part: &Part) -> Self {
        Self {
            late: vec![true; part.columns.len()],
            errors: Vec::new(),
            answered: 0,
        }
    }

    fn into_errors(self) -> Vec<container::InputError> {
        let late = (0..self.late.len())
            .filter(|&index| self.late[index])
            .map(too_late);
        self.errors.into_iter().chain(late).collect()
    }
}

fn split_texts(
    splits: Vec<Split>,
    places: &[Place],
    mut data: Bytes,
    lengths: Vec<u32>,
) -> Vec<container::Outputs> {
    let mut own: Vec<_> = splits.iter().map(|split| vec![0; split.late.len()]).collect();
    let mut bytes = vec![0; splits.len()];
    for (place, length) in places.iter().zip(lengths) {
        own[place.part][place.index] = length;
        bytes[place.part] += length as usize;
    }
    // Parts follow each other, and so do their outputs.
    let parts = splits.into_iter().zip(own).zip(bytes);
    parts
        .map(|((split, lengths), bytes)| container::Outputs {
            data: data.split_to(bytes),
            lengths,
            errors: split.into_errors(),
            ..container::Outputs::default()
        })
        .collect()
}

fn split_tensors(splits: Vec<Split>, columns: &[TensorColumn]) -> Vec<container::Outputs> {
    let mut begin = 0;
    let parts = splits.into_iter().map(|split| {
        let range = begin..begin + split.answered;
        begin = range.end;
        container::Outputs {
            tensors: columns
                .iter()
                .map(|column| column.slice(range.clone()).to_wire())
                .collect(),
            inputs: wire_index(split.late.len()),
            errors: split.into_errors(),
            ..container::Outputs::default()
        }
    });
    parts.collect()
}

fn too_late(place: usize) -> container::InputError {
    container::InputError {
        index: wire_index(place),
        kind: container::InputErrorKind::TooLate as i32,
        message: String::new(),
    }
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
        if self.row_type() == Some(expected) {
            return Ok(());
        }
        let given = self.signature.input_word();
        let given = self.row_type().map_or(given, InputType::name);
        Err(ModelError(format!(
            "the model takes {expected}, and was sent {given}: deploy it with input type {expected}"
        )))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use skysail_proto::datatype::Datatype;
    use skysail_proto::signature::TensorSpec;
    use skysail_proto::value::{from_outputs, to_batch};

    use super::*;
    use crate::Outputs;

    const TEXTS: Signature = Signature::row(InputType::Strings);

    /// A part whose inputs say where they stand, after `before`.
    fn part(before: &str, budgets_micros: &[u64], arrived: Instant) -> Part {
        let inputs: Vec<_> = (0..budgets_micros.len())
            .map(|index| Input::string(format!("{before}{index}")))
            .collect();
        received(&TEXTS, &inputs, budgets_micros, arrived)
    }

    /// A part as a frontend sends it.
    fn received(signature: &Signature, inputs: &[Input], budgets_micros: &[u64], arrived: Instant) -> Part {
        Part {
            columns: Columns::from_batch(&mut to_batch(signature, inputs.iter())).unwrap(),
            arrived,
            budgets_micros: budgets_micros.to_vec(),
        }
    }

    /// A batch of one part, so long after that arrived.
    fn batch(budgets_micros: &[u64], waited: Duration) -> Batch {
        let now = Instant::now();
        Batch::of_those_in_time(TEXTS, vec![part("", budgets_micros, now)], now + waited)
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
        let batch = Batch::of_those_in_time(TEXTS, vec![part], now + Duration::from_secs(3600));
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

    fn tensors() -> Signature {
        let [input, output]: [TensorSpec; 2] =
            ["a:UINT8[-1]", "b:UINT8[-1]"].map(|text| text.parse().unwrap());
        Signature::tensors([input], [output]).unwrap()
    }

    fn tensor(bytes: &[u8]) -> Tensor {
        Tensor::new(Datatype::Uint8, [bytes.len() as u64].as_slice(), bytes.to_vec()).unwrap()
    }

    fn batch_of_tensors(inputs: &[&[u8]]) -> Batch {
        let inputs: Vec<_> = inputs
            .iter()
            .map(|bytes| Input::tensors([tensor(bytes)]))
            .collect();
        Batch::of(&tensors(), &inputs).unwrap()
    }

    #[test]
    fn a_tensor_of_one_frontend_is_a_view_of_what_was_received() {
        let wire = to_batch(&tensors(), [Input::tensors([tensor(&[1, 2])])].iter());
        let received = wire.tensors[0].data.clone();
        let columns = Columns::from_batch(&mut wire.clone()).unwrap();
        let batch = Batch::new(tensors(), columns);
        let shown = batch.tensor("a").unwrap();
        assert_eq!(shown.bytes().unwrap().as_ptr(), received.as_ptr());
        assert_eq!(shown.as_slice::<u8>().unwrap().as_ptr(), received.as_ptr());
        assert_eq!(batch.inputs().len(), 0);
    }

    #[test]
    fn what_is_not_there_is_answered_with_what_is() {
        let batch = batch_of_tensors(&[&[1, 2], &[3, 4]]);
        let error = batch.tensor("image").unwrap_err();
        assert_eq!(
            error.message(),
            "there is no input tensor `image`; there are a:UINT8[2]"
        );
        let error = batch.doubles().map(|_| ()).unwrap_err();
        assert_eq!(
            error.message(),
            "the model takes doubles, and was sent tensors: deploy it with input type doubles"
        );
        let rows = Batch::of(&TEXTS, &[Input::string("a")]).unwrap();
        let error = rows.tensor("image").unwrap_err();
        assert!(
            error
                .message()
                .contains("was sent strings: deploy it with input type tensors"),
            "{error}"
        );
        assert!(Batch::of(&TEXTS, &[]).is_err() && Batch::of(&tensors(), &[Input::string("a")]).is_err());
    }

    /// The tensor of an input that says where it stands. Of several lengths, if asked.
    fn at(part: usize, index: usize, ragged: bool) -> Vec<u8> {
        let length = 2 + if ragged { index % 3 } else { 0 };
        let place = [part, index].map(|number| u8::try_from(number).unwrap());
        place.into_iter().cycle().take(length).collect()
    }

    /// How a model gives tensors.
    #[derive(Clone, Copy, Debug)]
    enum Way {
        OneByOne,
        StackedAll,
        StackedAnswered,
    }

    /// Answers each input with itself, and every third with an error.
    fn repeat(batch: &Batch, way: Way) -> Outputs {
        let shown = batch.tensor("a").unwrap();
        let fails = |index: usize| index % 3 == 2;
        let mut outputs = Outputs::new();
        if let (Way::OneByOne, _) | (_, false) = (way, shown.is_stacked()) {
            for (index, tensor) in shown.iter().enumerate() {
                if fails(index) {
                    outputs.push_error(&ModelError::new("third"));
                } else {
                    outputs.push_tensors([("b", tensor)]);
                }
            }
            return outputs;
        }
        let length = shown.shape().unwrap()[1];
        let rows = shown.as_slice::<u8>().unwrap().chunks(length).enumerate();
        let kept: Vec<_> = rows
            .filter(|(index, _)| matches!(way, Way::StackedAll) || !fails(*index))
            .map(|(_, row)| row.to_vec())
            .collect();
        outputs
            .stack_elements("b", &[kept.len(), length], kept.concat())
            .unwrap();
        for index in (0..batch.len()).filter(|&index| fails(index)) {
            outputs.fail(index, &ModelError::new("third"));
        }
        outputs
    }

    proptest! {
        #[test]
        fn every_output_tensor_finds_its_input_whichever_were_late(
            parts in prop::collection::vec(
                prop::collection::vec(prop_oneof![Just(0_u64), Just(10)], 1..20),
                1..5,
            ),
            ragged in any::<bool>(),
            way in prop::sample::select(vec![Way::OneByOne, Way::StackedAll, Way::StackedAnswered]),
        ) {
            let now = Instant::now();
            let received = parts.iter().enumerate().map(|(number, budgets)| {
                let inputs = (0..budgets.len()).map(|index| Input::tensors([tensor(&at(number, index, ragged))]));
                received(&tensors(), &inputs.collect::<Vec<_>>(), budgets, now)
            });
            let batch = Batch::of_those_in_time(tensors(), received.collect(), now + Duration::from_micros(5));
            let answers = match batch.is_empty() {
                true => Answers::none(&tensors()),
                false => repeat(&batch, way).answering(&batch).unwrap(),
            };
            let split = batch.split(answers);
            prop_assert_eq!(split.len(), parts.len());
            let mut seen = 0;
            for (number, (outputs, budgets)) in split.into_iter().zip(&parts).enumerate() {
                let answers = from_outputs(outputs, budgets.len(), &tensors()).unwrap();
                for (index, (answer, budget)) in answers.iter().zip(budgets).enumerate() {
                    if *budget == 0 {
                        let late = container::InputErrorKind::TooLate;
                        prop_assert_eq!(answer.as_ref().unwrap_err().kind(), late);
                        continue;
                    }
                    match answer {
                        Ok(output) => {
                            prop_assert_eq!(output.as_tensors().unwrap().1, [tensor(&at(number, index, ragged))]);
                        }
                        Err(error) => prop_assert_eq!((&*error.message, seen % 3), ("third", 2)),
                    }
                    seen += 1;
                }
            }
            prop_assert_eq!(seen, batch.len());
        }

        #[test]
        fn every_output_finds_its_input_whichever_were_late(
            parts in prop::collection::vec(
                prop::collection::vec(prop_oneof![Just(0_u64), Just(10)], 1..20),
                1..5,
            ),
        ) {
            let now = Instant::now();
            let received = parts.iter().enumerate().map(|(number, budgets)| part(&format!("{number}."), budgets, now));
            let batch = Batch::of_those_in_time(TEXTS, received.collect(), now + Duration::from_micros(5));
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
            let split = batch.split(outputs.answering(&batch).unwrap());
            prop_assert_eq!(split.len(), parts.len());
            for (number, (outputs, budgets)) in split.into_iter().zip(&parts).enumerate() {
                let answers = from_outputs(outputs, budgets.len(), &TEXTS).unwrap();
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

//! What is said: the same when it was recorded and in the tests.

use std::time::Duration;

use bytes::Bytes;
use skysail_container_rpc::credit::Demand;
use skysail_proto::value::{Input, InputType};

use crate::conversation::Who;

/// More time than any test takes.
pub(crate) const AMPLE_MICROS: u64 = 600_000_000;

/// One thing that happens.
pub(crate) enum Step {
    /// The frontend says this.
    Says(Who, Says),
    /// The container says messages of these kinds, in any order.
    Hears(Who, &'static [&'static str]),
    /// The model has read the word `block`.
    Blocked,
    /// The model goes on.
    Released,
    /// The container is asked to end.
    Stopped,
}

/// What a frontend says.
#[derive(Clone)]
pub(crate) enum Says {
    Registered,
    Batch(Inputs),
    Demand(Demand),
    ReturnCredit(u64),
}

impl Says {
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Registered => "Registered",
            Self::Batch(_) => "Batch",
            Self::Demand(_) => "Demand",
            Self::ReturnCredit(_) => "CreditReturned",
        }
    }
}

/// The inputs of a batch.
#[derive(Clone)]
pub(crate) struct Inputs {
    pub(crate) id: u64,
    pub(crate) credit: u64,
    pub(crate) input_type: InputType,
    /// What each input is, and how much time it has.
    pub(crate) words: Vec<(&'static str, u64)>,
    /// How long the frontend expects the model to take.
    pub(crate) predicted: Duration,
    /// Whether the last byte is left out, so that the batch cannot be read.
    pub(crate) cut: bool,
}

impl Inputs {
    fn new(
        id: u64,
        credit: u64,
        input_type: InputType,
        words: impl IntoIterator<Item = (&'static str, u64)>,
    ) -> Self {
        Self {
            id,
            credit,
            input_type,
            words: words.into_iter().collect(),
            predicted: Duration::from_micros(1500),
            cut: false,
        }
    }

    pub(crate) fn inputs(&self) -> Vec<Input> {
        let words = self.words.iter();
        words.map(|(word, _)| input(self.input_type, word)).collect()
    }

    pub(crate) fn budgets(&self) -> Vec<u64> {
        self.words.iter().map(|(_, budget)| *budget).collect()
    }

    /// The data that is sent.
    pub(crate) fn data(&self, data: &Bytes) -> Bytes {
        data.slice(..data.len() - usize::from(self.cut))
    }
}

/// The input of a row type that the model takes for this word: the numbers of a list, or the text.
fn input(input_type: InputType, word: &str) -> Input {
    fn numbers<T: std::str::FromStr<Err: std::fmt::Debug>>(word: &str) -> Vec<T> {
        let words = word.split(',').filter(|word| !word.is_empty());
        words.map(|word| word.parse().unwrap()).collect()
    }
    match input_type {
        InputType::Bytes => Input::bytes(word.as_bytes().to_vec()),
        InputType::Integers => Input::integers(&numbers(word)),
        InputType::Floats => Input::floats(&numbers(word)),
        InputType::Doubles => Input::doubles(&numbers(word)),
        InputType::Strings => Input::string(word),
    }
}

fn ample<const N: usize>(words: [&'static str; N]) -> [(&'static str, u64); N] {
    words.map(|word| (word, AMPLE_MICROS))
}

/// One frontend and a container of a row type.
pub(crate) fn alone(input_type: InputType) -> Vec<Step> {
    use Step::{Hears, Says as Does, Stopped};
    use Who::One;
    const CREDITED: &[&str] = &["Result", "Credit"];
    let batch = |id, words: &[(&'static str, u64)]| {
        Does(One, Says::Batch(Inputs::new(id, id, input_type, words.to_vec())))
    };
    let mut unreadable = Inputs::new(6, 6, input_type, ample(["7", "8"]));
    unreadable.cut = true;
    vec![
        Hears(One, &["Register"]),
        Does(One, Says::Registered),
        Hears(One, &["Credit"]),
        batch(1, &ample(["1", "2,-3", "", "400,5"])),
        Hears(One, CREDITED),
        // One input fails by itself.
        batch(2, &ample(["5", "13", "6"])),
        Hears(One, CREDITED),
        // The model fails on the whole batch.
        batch(3, &ample(["7", "666"])),
        Hears(One, CREDITED),
        // One is too late, and one fails.
        batch(4, &[("8", AMPLE_MICROS), ("9", 0), ("13", AMPLE_MICROS)]),
        Hears(One, CREDITED),
        // All are too late.
        batch(5, &[("8", 0), ("9", 0)]),
        Hears(One, CREDITED),
        Does(One, Says::Batch(unreadable)),
        Hears(One, CREDITED),
        // No inputs.
        batch(7, &[]),
        Hears(One, CREDITED),
        // No credit was granted for it.
        Does(One, Says::Batch(Inputs::new(8, 99, input_type, ample(["1"])))),
        Hears(One, &["Result"]),
        Stopped,
        Hears(One, &["Draining", "Recall"]),
        Does(One, Says::ReturnCredit(8)),
    ]
}

/// Two frontends and a container of doubles, which answers batches of both as one. Begins once the container has said
/// who it is to both and granted its first credit to one.
pub(crate) fn merged() -> Vec<Step> {
    use Step::{Blocked, Hears, Released, Says as Does};
    use Who::{One, Other};
    let batch = |who, id, credit, words: &[(&'static str, u64)]| {
        let mut inputs = Inputs::new(id, credit, InputType::Doubles, words.to_vec());
        // By an expectation the container would grant its next credits before it has heard of both frontends' demand.
        inputs.predicted = Duration::ZERO;
        Does(who, Says::Batch(inputs))
    };
    let shared = Says::Demand(demand(8));
    vec![
        batch(One, 1, 1, &ample([BLOCK])),
        Blocked,
        Does(One, shared.clone()),
        Does(Other, shared),
        // The container has heard both once it refuses these, for which there is no credit.
        batch(One, 2, u64::MAX, &ample(["1"])),
        Hears(One, &["Result"]),
        batch(Other, 1, u64::MAX, &ample(["1"])),
        Hears(Other, &["Result"]),
        Released,
        Hears(One, &["Result", "Credit"]),
        Hears(Other, &["Credit"]),
        batch(
            Other,
            2,
            1,
            &[
                ("11", AMPLE_MICROS),
                ("12", 0),
                ("13", AMPLE_MICROS),
                ("14", AMPLE_MICROS),
            ],
        ),
        batch(One, 3, 2, &ample(["15", "16,17"])),
        Hears(One, &["Result"]),
        Hears(Other, &["Result"]),
    ]
}

/// What both frontends say first.
pub(crate) fn opening() -> [Says; 2] {
    [Says::Registered, Says::Demand(demand(0))]
}

fn demand(most_inputs: usize) -> Demand {
    Demand {
        queued: 1,
        budget: Duration::from_secs(10),
        most_inputs,
    }
}

/// Blocks the model.
pub(crate) const BLOCK: &str = "99";

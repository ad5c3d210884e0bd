//! The conversation of row types as it was before tensors, to the byte: containers and frontends of that time and of
//! now understand each other. `README.md` says how it was recorded.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::mpsc as std_mpsc;
use std::time::Duration;

use bytes::Bytes;
use prost::Message;
use skysail_container_rpc::server::{self, NewBatch, Newcomer, Reception, Refusal, ReplicaStream};
use skysail_container_rpc::session::SessionEvent;
use skysail_container_rpc::{Settings, Signature, serve_with};
use skysail_proto::container::batch_result::Outcome;
use skysail_proto::container::container_message::Kind as FromContainer;
use skysail_proto::container::{self, BatchResult, ContainerMessage, Credit, InputErrorKind, Register};
use skysail_proto::value::{InputType, from_outputs, to_batch};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};

mod conversation;
mod model;
mod raw;
mod script;

use conversation::{Recorded, Who};
use model::Repeating;
use raw::{Frontend, Stream, within_bound};
use script::{Inputs, Says, Step};

/// A container of now.
struct Container {
    stop: Option<oneshot::Sender<()>>,
    blocked: std_mpsc::Receiver<()>,
    release: std_mpsc::Sender<()>,
}

impl Container {
    fn start(frontends: &[&Frontend], input_type: InputType) -> Self {
        let (block, blocked) = std_mpsc::channel();
        let (release, released) = std_mpsc::channel();
        let model = Repeating {
            blocked: block,
            released,
        };
        let settings = Settings {
            frontends: frontends
                .iter()
                .map(|frontend| frontend.address.to_string())
                .collect(),
            model: "repeat:1".parse().unwrap(),
            signature: input_type.into(),
            max_batch: NonZeroU32::new(6).unwrap(),
            warm_up: None,
            replica: "repeat_1_0".parse().unwrap(),
            token: "secret".to_owned(),
        };
        let (stop, stopped) = oneshot::channel();
        tokio::spawn(serve_with(settings, model, async {
            let _ = stopped.await;
        }));
        Self {
            stop: Some(stop),
            blocked,
            release,
        }
    }

    /// Waits until the model has read the word that blocks it.
    async fn blocked(&self) {
        let blocked = async {
            while self.blocked.try_recv().is_err() {
                tokio::task::yield_now().await;
            }
        };
        within_bound("the model blocks", blocked).await;
    }
}

/// A frontend of then: says what was recorded to a container of now.
struct Replay {
    recorded: Recorded,
    one: Stream,
    other: Option<Stream>,
}

impl Replay {
    fn stream(&mut self, who: Who) -> &mut Stream {
        match who {
            Who::One => &mut self.one,
            Who::Other => self.other.as_mut().expect("there are two"),
        }
    }

    async fn run(mut self, steps: Vec<Step>, mut container: Container) {
        for step in steps {
            match step {
                Step::Says(who, says) => self.say(who, says.kind()).await,
                Step::Hears(who, kinds) => self.hear(who, kinds).await,
                Step::Blocked => container.blocked().await,
                Step::Released => container.release.send(()).unwrap(),
                Step::Stopped => container.stop.take().unwrap().send(()).unwrap(),
            }
        }
        self.recorded.assert_over();
    }

    async fn say(&mut self, who: Who, kind: &str) {
        let message = self.recorded.next(who, "frontend", kind);
        self.stream(who).send(message).await;
    }

    /// Expects messages of these kinds, in any order, each as it was recorded.
    async fn hear(&mut self, who: Who, kinds: &[&str]) {
        let heard = hear(self.stream(who), kinds).await;
        for (kind, heard) in kinds.iter().zip(heard) {
            let recorded = self.recorded.next(who, "container", kind);
            assert_same(&heard, &recorded);
        }
    }
}

/// The next message of each of these kinds. What a container says of its credits may come earlier than the script has it.
async fn hear(stream: &mut Stream, kinds: &[&str]) -> Vec<Bytes> {
    let mut heard = Vec::new();
    for expected in kinds {
        let is_expected = |message: &Bytes| kind(&read(message)) == *expected;
        let mut next = stream.take_early(is_expected);
        while next.is_none() {
            let message = stream.next().await.expect("the container says more");
            if is_expected(&message) {
                next = Some(message);
            } else {
                let kind = kind(&read(&message));
                assert!(
                    kinds.contains(&kind) || matches!(kind, "Recall" | "Credit"),
                    "{kind} instead of {kinds:?}"
                );
                stream.keep(message);
            }
        }
        heard.extend(next);
    }
    heard
}

fn read(message: &Bytes) -> FromContainer {
    let message = ContainerMessage::decode(message.clone()).unwrap();
    message.kind.expect("a container says nothing unknown")
}

fn kind(message: &FromContainer) -> &'static str {
    match message {
        FromContainer::Register(_) => "Register",
        FromContainer::Credit(_) => "Credit",
        FromContainer::Recall(_) => "Recall",
        FromContainer::Result(_) => "Result",
        FromContainer::Draining(_) => "Draining",
    }
}

/// Asserts that a message is to the byte what was recorded, apart from what differs from run to run.
fn assert_same(heard: &Bytes, recorded: &Bytes) {
    let message = with_values_of(read(heard), read(recorded));
    let again = ContainerMessage {
        kind: Some(message.clone()),
    };
    assert_eq!(&again.encode_to_vec()[..], &recorded[..], "{message:?}");
    // What was heard has no fields that this reading of it dropped.
    let kind = Some(read(heard));
    assert_eq!(&ContainerMessage { kind }.encode_to_vec()[..], &heard[..]);
}

/// The message with what differs from run to run as it was recorded: process, host and release, times, and what of a
/// batch a frontend is granted.
fn with_values_of(message: FromContainer, recorded: FromContainer) -> FromContainer {
    match (message, recorded) {
        (FromContainer::Register(register), FromContainer::Register(recorded)) => {
            FromContainer::Register(Register {
                pid: recorded.pid,
                hostname: recorded.hostname,
                agent: recorded.agent,
                ..register
            })
        }
        (FromContainer::Credit(credit), FromContainer::Credit(recorded)) => FromContainer::Credit(Credit {
            sequence: credit.sequence,
            ..recorded
        }),
        (FromContainer::Result(result), FromContainer::Result(recorded)) => {
            FromContainer::Result(BatchResult {
                model_micros: recorded.model_micros,
                wait_micros: recorded.wait_micros,
                ..result
            })
        }
        (message, _) => message,
    }
}

#[tokio::test]
async fn a_container_answers_a_frontend_of_then_as_one_of_then_did() {
    for input_type in InputType::ALL {
        let mut frontend = Frontend::start().await;
        let container = Container::start(&[&frontend], input_type);
        let replay = Replay {
            recorded: Recorded::read(input_type.name()),
            one: frontend.attached().await,
            other: None,
        };
        replay.run(script::alone(input_type), container).await;
    }
}

#[tokio::test]
async fn a_container_answers_merged_batches_of_frontends_of_then_as_one_of_then_did() {
    let (mut first, mut second) = (Frontend::start().await, Frontend::start().await);
    let container = Container::start(&[&first, &second], InputType::Doubles);
    let mut replay = Replay {
        recorded: Recorded::read("merged"),
        one: first.attached().await,
        other: Some(second.attached().await),
    };
    for who in [Who::One, Who::Other] {
        replay.hear(who, &["Register"]).await;
        for says in script::opening() {
            replay.say(who, says.kind()).await;
        }
    }
    let granted = replay.recorded.next(Who::One, "container", "Credit");
    let Replay { one, other, .. } = &mut replay;
    let other = other.as_mut().unwrap();
    // Which of the two is granted the first credit depends on which attached first.
    let credit = tokio::select! {
        credit = hear(one, &["Credit"]) => credit,
        credit = hear(other, &["Credit"]) => {
            std::mem::swap(one, other);
            credit
        }
    };
    assert_same(&credit[0], &granted);
    replay.run(script::merged(), container).await;
}

/// Takes every replica in.
struct Welcome(mpsc::UnboundedSender<Newcomer>);

impl Reception for Welcome {
    fn receive(&self, replica: Newcomer) -> Result<(), Refusal> {
        self.0
            .send(replica)
            .map_err(|_| unreachable!("the test holds the receiver"))
    }
}

/// A frontend of now, and the container's end of the stream.
struct Attached {
    replica: ReplicaStream,
    container: Stream,
}

impl Attached {
    /// A container of then registers.
    async fn new(register: Bytes) -> Self {
        let FromContainer::Register(said) = read(&register) else {
            panic!("a stream begins with a registration");
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (arrived, mut arrivals) = mpsc::unbounded_channel();
        tokio::spawn(server::serve(
            listener,
            Arc::new(Welcome(arrived)),
            "recorded".to_owned(),
            std::future::pending(),
        ));
        let container = raw::attach(address, register).await;
        let newcomer = within_bound("the replica arrives", arrivals.recv())
            .await
            .unwrap();
        let registration = newcomer.registration;
        assert_eq!(registration.model.to_string(), "repeat:1");
        let row = InputType::from_wire(said.input_type).unwrap();
        assert_eq!(registration.signature, Signature::row(row));
        assert_eq!((&*registration.token, registration.pid), ("secret", said.pid));
        assert!(registration.annotations.is_empty() && registration.recent_batches.is_empty());
        Self {
            replica: newcomer.stream,
            container,
        }
    }

    /// The frontend says something: to the byte what was recorded.
    async fn says(&mut self, says: &Says, recorded: &Bytes) {
        match says {
            // It was said when the container registered.
            Says::Registered => {}
            Says::Batch(inputs) => self.replica.send_batch(new_batch(inputs)).unwrap(),
            Says::Demand(demand) => self.replica.announce(*demand).unwrap(),
            Says::ReturnCredit(sequence) => self.replica.return_credit(*sequence).unwrap(),
        }
        let said = self.container.next().await.expect("the frontend says it");
        assert_eq!(said, recorded, "{}", says.kind());
    }

    /// The container says what was recorded: `asked` is the last batch.
    async fn hears(&mut self, recorded: Bytes, asked: Option<&Inputs>) {
        let said = read(&recorded);
        self.container.send(recorded).await;
        let event = within_bound("the frontend hears it", self.replica.next())
            .await
            .unwrap();
        match (said, event) {
            (FromContainer::Credit(said), SessionEvent::Credit(credit)) => {
                assert_eq!(credit.sequence, said.sequence);
            }
            (FromContainer::Recall(said), SessionEvent::Recall(sequence)) => {
                assert_eq!(sequence, said.sequence)
            }
            (FromContainer::Draining(_), SessionEvent::Draining) => {}
            (FromContainer::Result(_), SessionEvent::Result(result)) => check(result, asked.unwrap()),
            (said, event) => panic!("{said:?} was heard as {event:?}"),
        }
    }
}

fn new_batch(inputs: &Inputs) -> NewBatch {
    let own = inputs.inputs();
    let mut batch = to_batch(&inputs.input_type.into(), own.iter());
    batch.data = inputs.data(&batch.data);
    NewBatch {
        id: inputs.id,
        credit: inputs.credit,
        credit_held: Duration::from_micros(250),
        inputs: batch,
        budgets_micros: inputs.budgets(),
        predicted: inputs.predicted,
    }
}

/// The batch of [`script::merged`] that both frontends have a part in has so many inputs in time.
const MERGED_INPUTS: u32 = 5;

/// Checks that the answers to a batch are those of the model, or what is wrong with the batch.
fn check(result: BatchResult, asked: &Inputs) {
    assert_eq!(result.id, asked.id);
    let words: Vec<_> = asked.words.iter().map(|(word, _)| *word).collect();
    let is_merged = matches!(*words, ["11", ..] | ["15", ..]);
    assert_eq!(result.merged_inputs, if is_merged { MERGED_INPUTS } else { 0 });
    let outputs = match result.outcome.unwrap() {
        Outcome::Outputs(outputs) => outputs,
        Outcome::BatchError(error) => {
            let expected = match &*words {
                _ if asked.cut => "the batch cannot be read",
                [] => "the batch has no inputs",
                [_, "666"] => "fails on 666",
                _ => "was not granted",
            };
            return assert!(error.contains(expected), "{error}");
        }
    };
    let answers = from_outputs(outputs, words.len(), &asked.input_type.into()).unwrap();
    for (answer, (word, budget)) in answers.into_iter().zip(&asked.words) {
        match answer {
            Ok(output) => assert_eq!(output.text(), *word),
            Err(error) if *budget == 0 => assert_eq!(error.kind(), InputErrorKind::TooLate),
            Err(error) => assert_eq!((*word, &*error.message), ("13", "refuses 13")),
        }
    }
}

/// Goes through what was said between a container of then and one frontend.
async fn replay_to_frontend(steps: Vec<Step>, mut recorded: Recorded) {
    let register = recorded.next(Who::One, "container", "Register");
    let mut attached = Attached::new(register).await;
    let mut asked = None;
    for step in steps.into_iter().skip(1) {
        match step {
            Step::Says(who, says) => {
                let message = recorded.next(who, "frontend", says.kind());
                attached.says(&says, &message).await;
                if let Says::Batch(inputs) = says {
                    asked = Some(inputs);
                }
            }
            Step::Hears(who, kinds) => {
                for kind in kinds {
                    let message = recorded.next(who, "container", kind);
                    attached.hears(message, asked.as_ref()).await;
                }
            }
            Step::Blocked | Step::Released | Step::Stopped => {}
        }
    }
    recorded.assert_over();
}

#[tokio::test]
async fn a_frontend_says_to_a_container_of_then_what_one_of_then_said_and_understands_its_answers() {
    for input_type in InputType::ALL {
        let recorded = Recorded::read(input_type.name());
        replay_to_frontend(script::alone(input_type), recorded).await;
    }
}

#[tokio::test]
async fn frontends_understand_a_container_of_then_that_answers_their_batches_as_one() {
    let mut recorded = Recorded::read("merged");
    let mut both = Vec::new();
    for who in [Who::One, Who::Other] {
        let register = recorded.next(who, "container", "Register");
        let mut attached = Attached::new(register).await;
        for says in script::opening() {
            let message = recorded.next(who, "frontend", says.kind());
            attached.says(&says, &message).await;
        }
        both.push(attached);
    }
    let mut asked = [None, None];
    let credit = recorded.next(Who::One, "container", "Credit");
    both[0].hears(credit, None).await;
    for step in script::merged() {
        match step {
            Step::Says(who, says) => {
                let message = recorded.next(who, "frontend", says.kind());
                both[who as usize].says(&says, &message).await;
                if let Says::Batch(inputs) = says {
                    asked[who as usize].get_or_insert_with(Vec::new).push(inputs);
                }
            }
            Step::Hears(who, kinds) => {
                for kind in kinds {
                    let message = recorded.next(who, "container", kind);
                    let asked = of_result(&message, asked[who as usize].as_deref());
                    both[who as usize].hears(message, asked).await;
                }
            }
            Step::Blocked | Step::Released | Step::Stopped => {}
        }
    }
    recorded.assert_over();
}

/// The batch that a message answers.
fn of_result<'a>(message: &Bytes, asked: Option<&'a [Inputs]>) -> Option<&'a Inputs> {
    let FromContainer::Result(container::BatchResult { id, .. }) = read(message) else {
        return None;
    };
    asked?.iter().find(|inputs| inputs.id == id)
}

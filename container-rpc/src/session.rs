//! What may be said when on one stream, seen from the frontend: a state machine without I/O.
//!
//! ```text
//! Handshake ──Register──► Ready ──Draining──► Draining ──nothing in flight──► finished
//! ```
//!
//! It keeps which batches are in the container's hands, and names every breach of the protocol in words that end
//! up in the container's own log. What a credit is used for is for whoever holds the stream to decide.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use skysail_proto::container::{self, BatchResult, ContainerMessage, PROTOCOL_VERSION, container_message};
use skysail_proto::ids::{ModelId, ModelName, ModelVersion, ReplicaId};
use skysail_proto::signature::Signature;

use crate::credit::Share;
use crate::sample::{BatchTimeSample, believed};

/// What a container says of itself when it registers.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Registration {
    /// What it serves.
    pub model: ModelId,
    /// What the model takes and gives; always declared.
    pub signature: Signature,
    /// What else the container knows of the model, such as the names of its classes.
    pub annotations: BTreeMap<String, String>,
    /// Which replica it is.
    pub replica: ReplicaId,
    /// The token it was given; may be empty.
    pub token: String,
    /// Its host's name.
    pub hostname: String,
    /// Its process id, as it sees it.
    pub pid: u32,
    /// What made it.
    pub agent: String,
    /// What batches took in it so far, the newest last; what cannot be true is left out.
    pub recent_batches: Vec<BatchTimeSample>,
}

/// A breach of the protocol, in words for the container's log.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{0}")]
pub struct Violation(String);

/// What a message means to the frontend.
#[derive(Clone, Debug, PartialEq)]
pub enum SessionEvent {
    /// A batch may be sent.
    Credit(Credit),
    /// The container wants this credit back if it is not used: it knows another frontend now.
    Recall(u64),
    /// A batch was answered.
    Result(BatchResult),
    /// The container is going; it answers what it holds.
    Draining,
    /// Nothing to act on (a message of a later protocol).
    Nothing,
}

/// A slot the container granted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Credit {
    /// Its number.
    pub sequence: u64,
    /// Whether it may be kept while there is no work.
    pub park: bool,
    /// Whether the container knows no other frontend, and has no use for word of demand.
    pub alone: bool,
    /// What may be sent against it.
    pub share: Share,
    /// When the batch is expected to start, from when this came on.
    pub starts_in: Duration,
}

impl From<container::Credit> for Credit {
    fn from(credit: container::Credit) -> Self {
        let share = match credit.share_millionths {
            0 => Share::WHOLE,
            millionths => Share {
                millionths: millionths.min(Share::WHOLE.millionths),
                most_inputs: (credit.most_inputs > 0).then_some(credit.most_inputs as usize),
            },
        };
        Self {
            sequence: credit.sequence,
            park: credit.park,
            alone: credit.alone,
            share,
            starts_in: Duration::from_micros(credit.starts_in_micros),
        }
    }
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum State {
    Handshake,
    Ready,
    Draining,
}

/// One stream's state.
#[derive(Debug)]
pub struct Session {
    state: State,
    in_flight: HashSet<u64>,
}

impl Default for Session {
    fn default() -> Self {
        Self {
            state: State::Handshake,
            in_flight: HashSet::new(),
        }
    }
}

impl Session {
    /// Takes the first message, which must be a registration in a version this side speaks.
    pub fn register(&mut self, message: ContainerMessage) -> Result<Registration, Violation> {
        let Some(container_message::Kind::Register(register)) = message.kind else {
            return Err(Violation("the first message must be Register".into()));
        };
        if register.protocol_version != PROTOCOL_VERSION {
            return Err(Violation(format!(
                "the container speaks protocol version {}, this frontend {PROTOCOL_VERSION}: use matching releases",
                register.protocol_version
            )));
        }
        let registration = parse(register)?;
        self.state = State::Ready;
        Ok(registration)
    }

    /// Takes a later message.
    pub fn receive(&mut self, message: ContainerMessage) -> Result<SessionEvent, Violation> {
        use container_message::Kind;
        match message.kind {
            None => Ok(SessionEvent::Nothing),
            Some(Kind::Register(_)) => Err(Violation("a stream registers only once".into())),
            // One that crossed the word that the container drains: it takes no batch any more.
            Some(Kind::Credit(_)) if self.state == State::Draining => Ok(SessionEvent::Nothing),
            Some(Kind::Credit(credit)) => Ok(SessionEvent::Credit(credit.into())),
            Some(Kind::Recall(container::Recall { sequence })) => Ok(SessionEvent::Recall(sequence)),
            Some(Kind::Result(result)) => {
                if self.in_flight.remove(&result.id) {
                    return Ok(SessionEvent::Result(result));
                }
                Err(Violation(format!(
                    "batch {} was answered but is not in the container's hands",
                    result.id
                )))
            }
            Some(Kind::Draining(_)) => {
                self.state = State::Draining;
                Ok(SessionEvent::Draining)
            }
        }
    }

    /// A batch was sent.
    pub fn sent(&mut self, id: u64) {
        self.in_flight.insert(id);
    }

    /// Whether the container is going and has answered all it held.
    pub fn is_finished(&self) -> bool {
        self.state == State::Draining && self.in_flight.is_empty()
    }
}

/// The most bytes that annotations may have, names and values together.
const ANNOTATION_BYTES: usize = 64 * 1024;

fn parse(register: container::Register) -> Result<Registration, Violation> {
    let refuse = |error: skysail_proto::ids::InvalidName| Violation(error.to_string());
    let name = ModelName::new(&register.model_name).map_err(refuse)?;
    let version = ModelVersion::new(&register.model_version).map_err(refuse)?;
    Ok(Registration {
        model: ModelId::new(name, version),
        signature: signature(register.input_type, register.signature)?,
        annotations: annotations(register.annotations)?,
        replica: ReplicaId::new(&register.replica_id).map_err(refuse)?,
        token: register.token,
        hostname: register.hostname,
        pid: register.pid,
        agent: register.agent,
        recent_batches: believed(register.recent_batches),
    })
}

/// The signature that a container announces beside its input type.
fn signature(input_type: i32, announced: Option<container::Signature>) -> Result<Signature, Violation> {
    let of = announced
        .as_ref()
        .map_or(input_type, |announced| announced.input_type);
    let signature = Signature::from_wire(input_type, announced)
        .map_err(|error| Violation(format!("the container's signature cannot be read: {error}")))?;
    if of != input_type {
        return Err(Violation(format!(
            "the container's input type is number {input_type}, and its signature `{signature}` is of number {of}"
        )));
    }
    if signature.is_declared() {
        return Ok(signature);
    }
    Err(Violation(
        "the container takes tensors and does not say which: set SKYSAIL_SIGNATURE to the JSON of its signature".into(),
    ))
}

fn annotations(
    announced: impl IntoIterator<Item = (String, String)>,
) -> Result<BTreeMap<String, String>, Violation> {
    let annotations: BTreeMap<_, _> = announced.into_iter().collect();
    let bytes: usize = annotations
        .iter()
        .map(|(name, value)| name.len() + value.len())
        .sum();
    if bytes > ANNOTATION_BYTES {
        return Err(Violation(format!(
            "the container's annotations have {bytes} bytes; the most is {ANNOTATION_BYTES}"
        )));
    }
    Ok(annotations)
}

#[cfg(test)]
mod tests {
    use skysail_proto::signature::TensorSpec;
    use skysail_proto::value::InputType;

    use super::*;

    fn message(kind: container_message::Kind) -> ContainerMessage {
        ContainerMessage { kind: Some(kind) }
    }

    fn register() -> container::Register {
        container::Register {
            protocol_version: PROTOCOL_VERSION,
            model_name: "m".into(),
            model_version: "1".into(),
            input_type: container::InputType::Doubles as i32,
            replica_id: "m_1_0".into(),
            ..container::Register::default()
        }
    }

    fn credit(sequence: u64, park: bool) -> ContainerMessage {
        message(container_message::Kind::Credit(container::Credit {
            sequence,
            park,
            ..container::Credit::default()
        }))
    }

    fn recall(sequence: u64) -> ContainerMessage {
        message(container_message::Kind::Recall(container::Recall { sequence }))
    }

    fn result(id: u64) -> ContainerMessage {
        message(container_message::Kind::Result(BatchResult {
            id,
            ..BatchResult::default()
        }))
    }

    fn ready() -> Session {
        let mut session = Session::default();
        session
            .register(message(container_message::Kind::Register(register())))
            .unwrap();
        session
    }

    #[test]
    fn a_stream_begins_with_a_registration_in_a_version_both_speak() {
        assert!(Session::default().register(credit(1, true)).is_err());
        let newer = container::Register {
            protocol_version: 99,
            ..register()
        };
        let error = Session::default()
            .register(message(container_message::Kind::Register(newer)))
            .unwrap_err();
        assert!(error.to_string().contains("99"), "{error}");
    }

    #[test]
    fn a_registration_with_a_bad_name_or_type_is_refused_in_words() {
        let bad = [
            container::Register {
                model_name: "No Good".into(),
                ..register()
            },
            container::Register {
                input_type: 77,
                ..register()
            },
            container::Register {
                replica_id: String::new(),
                ..register()
            },
        ];
        for register in bad {
            let mut session = Session::default();
            assert!(
                session
                    .register(message(container_message::Kind::Register(register)))
                    .is_err()
            );
        }
    }

    fn registered(register: container::Register) -> Result<Registration, String> {
        let register = message(container_message::Kind::Register(register));
        let registered = Session::default().register(register);
        registered.map_err(|violation| violation.to_string())
    }

    fn tensors() -> Signature {
        let spec = |text: &str| text.parse::<TensorSpec>().unwrap();
        Signature::tensors([spec("image:FP32[2,-1]")], [spec("mean:FP32[]")]).unwrap()
    }

    #[test]
    fn a_row_type_is_a_signature() {
        let registration = registered(register()).unwrap();
        assert_eq!(registration.signature, Signature::row(InputType::Doubles));
    }

    #[test]
    fn a_registration_tells_the_signature_and_the_annotations() {
        let registration = registered(container::Register {
            input_type: container::InputType::Tensors as i32,
            signature: tensors().to_wire(),
            annotations: [("classes".to_owned(), "cat,dog".to_owned())].into(),
            ..register()
        });
        let registration = registration.unwrap();
        assert_eq!(registration.signature, tensors());
        assert_eq!(registration.annotations["classes"], "cat,dog");
    }

    #[test]
    fn a_signature_that_says_nothing_or_another_thing_is_refused_in_words() {
        let of_tensors = || container::Register {
            input_type: container::InputType::Tensors as i32,
            ..register()
        };
        let twice = container::Signature {
            inputs: vec![tensors().to_wire().unwrap().inputs[0].clone(); 2],
            ..tensors().to_wire().unwrap()
        };
        for (register, words) in [
            (of_tensors(), "set SKYSAIL_SIGNATURE"),
            (
                container::Register {
                    signature: tensors().to_wire(),
                    ..register()
                },
                "input type is number 4, and its signature `image:FP32[2,-1] -> mean:FP32[]` is of number 6",
            ),
            (
                container::Register {
                    signature: Some(twice),
                    ..of_tensors()
                },
                "`image` is named twice",
            ),
            (
                container::Register {
                    signature: Some(container::Signature {
                        input_type: container::InputType::Tensors as i32,
                        ..container::Signature::default()
                    }),
                    ..of_tensors()
                },
                "1 to 64 of them, not 0",
            ),
            (
                container::Register {
                    annotations: [("a".to_owned(), "x".repeat(ANNOTATION_BYTES))].into(),
                    ..register()
                },
                "the most is 65536",
            ),
        ] {
            let error = registered(register).unwrap_err();
            assert!(error.contains(words), "{error}");
        }
    }

    #[test]
    fn a_batch_is_answered_once_and_only_if_it_was_sent() {
        let mut session = ready();
        session.sent(1);
        assert!(matches!(session.receive(result(1)), Ok(SessionEvent::Result(_))));
        assert!(session.receive(result(1)).is_err());
        assert!(session.receive(result(2)).is_err());
    }

    #[test]
    fn credits_and_recalls_are_passed_on() {
        let mut session = ready();
        let granted = Credit {
            sequence: 1,
            park: true,
            alone: false,
            share: Share::WHOLE,
            starts_in: Duration::ZERO,
        };
        assert_eq!(
            session.receive(credit(1, true)),
            Ok(SessionEvent::Credit(granted))
        );
        assert_eq!(session.receive(recall(1)), Ok(SessionEvent::Recall(1)));
    }

    #[test]
    fn a_credit_for_a_part_of_a_batch_says_which() {
        let shared = container::Credit {
            sequence: 1,
            share_millionths: 250_000,
            most_inputs: 16,
            starts_in_micros: 1500,
            ..container::Credit::default()
        };
        let expected = Credit {
            sequence: 1,
            park: false,
            alone: false,
            share: Share {
                millionths: 250_000,
                most_inputs: Some(16),
            },
            starts_in: Duration::from_micros(1500),
        };
        assert_eq!(Credit::from(shared), expected);
        let wrong = container::Credit {
            share_millionths: 3_000_000,
            ..shared
        };
        assert_eq!(Credit::from(wrong).share.millionths, 1_000_000);
    }

    #[test]
    fn a_draining_container_gets_nothing_more_and_is_finished_when_it_has_answered() {
        let mut session = ready();
        session.sent(1);
        session
            .receive(message(container_message::Kind::Draining(container::Draining {})))
            .unwrap();
        assert_eq!(session.receive(credit(3, true)), Ok(SessionEvent::Nothing));
        assert!(!session.is_finished());
        session.receive(result(1)).unwrap();
        assert!(session.is_finished());
    }
}

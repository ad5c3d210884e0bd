//! What may be said when on one stream, seen from the frontend: a state machine without I/O.
//!
//! ```text
//! Handshake ──Register──► Ready ──Draining──► Draining ──nothing in flight──► finished
//! ```
//!
//! It keeps the credits a container has granted and the batches that are in its hands, and names every
//! breach of the protocol in words that end up in the container's own log.

use std::collections::{HashSet, VecDeque};

use skysail_proto::container::{self, BatchResult, ContainerMessage, PROTOCOL_VERSION, container_message};
use skysail_proto::ids::{ModelId, ModelName, ModelVersion, ReplicaId};
use skysail_proto::value::InputType;

use crate::sample::{BatchTimeSample, believed};

/// What a container says of itself when it registers.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Registration {
    /// What it serves.
    pub model: ModelId,
    /// What its inputs are.
    pub input_type: InputType,
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
pub enum Event {
    /// A batch may be sent.
    Credit,
    /// The container wants unused credits back.
    Recall,
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
    credits: VecDeque<Credit>,
    in_flight: HashSet<u64>,
    next_batch: u64,
    /// Whether the container last said that it knows no other frontend.
    is_alone: bool,
}

impl Default for Session {
    fn default() -> Self {
        Self {
            state: State::Handshake,
            credits: VecDeque::new(),
            in_flight: HashSet::new(),
            next_batch: 1,
            is_alone: false,
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
    pub fn receive(&mut self, message: ContainerMessage) -> Result<Event, Violation> {
        use container_message::Kind;
        match message.kind {
            None => Ok(Event::Nothing),
            Some(Kind::Register(_)) => Err(Violation("a stream registers only once".into())),
            Some(Kind::Credit(container::Credit {
                sequence,
                park,
                alone,
            })) => {
                if self.state == State::Ready {
                    self.credits.push_back(Credit { sequence, park });
                    self.is_alone = alone;
                }
                Ok(Event::Credit)
            }
            Some(Kind::Recall(container::Recall { sequence })) => {
                self.is_alone = false;
                for credit in self
                    .credits
                    .iter_mut()
                    .filter(|credit| credit.sequence == sequence)
                {
                    credit.park = false;
                }
                Ok(Event::Recall)
            }
            Some(Kind::Result(result)) => {
                if self.in_flight.remove(&result.id) {
                    return Ok(Event::Result(result));
                }
                Err(Violation(format!(
                    "batch {} was answered but is not in the container's hands",
                    result.id
                )))
            }
            Some(Kind::Draining(_)) => {
                self.state = State::Draining;
                self.credits.clear();
                Ok(Event::Draining)
            }
        }
    }

    /// Whether a batch may be sent.
    pub fn has_credit(&self) -> bool {
        !self.credits.is_empty()
    }

    /// Whether the container has a use for word of what waits here: without, its next credit comes all the same.
    pub fn wants_demand(&self) -> bool {
        !self.is_alone
    }

    /// Uses a credit for a batch, whose id it returns.
    pub fn use_credit(&mut self) -> Option<(Credit, u64)> {
        let credit = self.credits.pop_front()?;
        let id = self.next_batch;
        self.next_batch += 1;
        self.in_flight.insert(id);
        Some((credit, id))
    }

    /// Takes back a credit that may not be parked, to be returned.
    pub fn unparked_credit(&mut self) -> Option<Credit> {
        let index = self.credits.iter().position(|credit| !credit.park)?;
        self.credits.remove(index)
    }

    /// Batches in the container's hands.
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// Whether the container is going and has answered all it held.
    pub fn is_finished(&self) -> bool {
        self.state == State::Draining && self.in_flight.is_empty()
    }
}

fn parse(register: container::Register) -> Result<Registration, Violation> {
    let refuse = |error: skysail_proto::ids::InvalidName| Violation(error.to_string());
    let name = ModelName::new(&register.model_name).map_err(refuse)?;
    let version = ModelVersion::new(&register.model_version).map_err(refuse)?;
    let input_type = InputType::from_wire(register.input_type)
        .ok_or_else(|| Violation(format!("input type number {} is unknown", register.input_type)))?;
    Ok(Registration {
        model: ModelId::new(name, version),
        input_type,
        replica: ReplicaId::new(&register.replica_id).map_err(refuse)?,
        token: register.token,
        hostname: register.hostname,
        pid: register.pid,
        agent: register.agent,
        recent_batches: believed(register.recent_batches),
    })
}

#[cfg(test)]
mod tests {
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
            alone: false,
        }))
    }

    fn credit_of_the_only_frontend(sequence: u64) -> ContainerMessage {
        message(container_message::Kind::Credit(container::Credit {
            sequence,
            park: true,
            alone: true,
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

    #[test]
    fn each_credit_is_good_for_one_batch() {
        let mut session = ready();
        assert_eq!(session.use_credit(), None);
        session.receive(credit(1, true)).unwrap();
        assert_eq!(
            session.use_credit(),
            Some((
                Credit {
                    sequence: 1,
                    park: true
                },
                1
            ))
        );
        assert_eq!(session.use_credit(), None);
        assert_eq!(session.in_flight(), 1);
    }

    #[test]
    fn a_batch_is_answered_once_and_only_if_it_was_sent() {
        let mut session = ready();
        session.receive(credit(1, true)).unwrap();
        let (_, id) = session.use_credit().unwrap();
        assert!(matches!(session.receive(result(id)), Ok(Event::Result(_))));
        assert!(session.receive(result(id)).is_err());
    }

    #[test]
    fn a_recalled_credit_is_given_back_and_a_parked_one_is_kept() {
        let mut session = ready();
        session.receive(credit(1, true)).unwrap();
        assert_eq!(session.unparked_credit(), None);
        session.receive(recall(1)).unwrap();
        assert_eq!(
            session.unparked_credit(),
            Some(Credit {
                sequence: 1,
                park: false
            })
        );
        assert!(!session.has_credit());
    }

    #[test]
    fn demand_is_wanted_until_a_credit_says_otherwise_and_again_from_the_next_word_of_others() {
        let mut session = ready();
        assert!(session.wants_demand());
        session.receive(credit_of_the_only_frontend(1)).unwrap();
        assert!(!session.wants_demand());
        session.use_credit().unwrap();
        assert!(!session.wants_demand());
        session.receive(credit(2, false)).unwrap();
        assert!(session.wants_demand());
        session.receive(credit_of_the_only_frontend(3)).unwrap();
        session.receive(recall(3)).unwrap();
        assert!(session.wants_demand());
    }

    #[test]
    fn a_draining_container_gets_nothing_more_and_is_finished_when_it_has_answered() {
        let mut session = ready();
        session.receive(credit(1, true)).unwrap();
        session.receive(credit(2, true)).unwrap();
        let (_, id) = session.use_credit().unwrap();
        session
            .receive(message(container_message::Kind::Draining(container::Draining {})))
            .unwrap();
        session.receive(credit(3, true)).unwrap();
        assert!(!session.has_credit() && !session.is_finished());
        session.receive(result(id)).unwrap();
        assert!(session.is_finished());
    }
}

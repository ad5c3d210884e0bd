//! What becomes of a query: a model's output, or the default output and the reason why.

use std::borrow::Cow;
use std::sync::Arc;

use skysail_proto::value::Output;

/// Why a query is answered with its application's default output.
///
/// The same word stands in the reply, in the metric's label and in traces.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum DefaultReason {
    /// The application has no model.
    NoModelLinked,
    /// The model has no replica.
    NoReplica,
    /// As many queries wait as are allowed to.
    QueueFull,
    /// It would be answered after its deadline; known on arrival, or when a batch was decided without it.
    PredictedLate,
    /// Its deadline passed while it waited.
    ExpiredInQueue,
    /// Its deadline passed while a replica worked on it.
    LateReply,
    /// The replicas that worked on it were lost.
    ReplicaLost,
    /// The model failed on it.
    ModelError,
    /// Something had to be read from the store, and could not.
    StoreUnavailable,
}

/// What is said when there is nobody to ask.
const NOBODY: &str = "No connected models found for query";
/// How the explanation begins where the deadline is the cause.
const TOO_LATE: &str = "Failed to retrieve a prediction response within the specified latency SLO";
/// How much of a model's own error is quoted, in characters.
const QUOTED_CHARS: usize = 200;

impl DefaultReason {
    /// All reasons, in the order of [`Self::index`].
    pub const ALL: [Self; 9] = [
        Self::NoModelLinked,
        Self::NoReplica,
        Self::QueueFull,
        Self::PredictedLate,
        Self::ExpiredInQueue,
        Self::LateReply,
        Self::ReplicaLost,
        Self::ModelError,
        Self::StoreUnavailable,
    ];

    /// Its place in [`Self::ALL`].
    pub const fn index(self) -> usize {
        self as usize
    }

    /// The word for machines.
    pub const fn word(self) -> &'static str {
        match self {
            Self::NoModelLinked => "no_model_linked",
            Self::NoReplica => "no_replica",
            Self::QueueFull => "queue_full",
            Self::PredictedLate => "predicted_late",
            Self::ExpiredInQueue => "expired_in_queue",
            Self::LateReply => "late_reply",
            Self::ReplicaLost => "replica_lost",
            Self::ModelError => "model_error",
            Self::StoreUnavailable => "store_unavailable",
        }
    }

    /// The sentence for people, without what the model itself said.
    const fn sentence(self) -> &'static str {
        match self {
            Self::NoModelLinked | Self::NoReplica => NOBODY,
            Self::QueueFull => "The model's queue is full",
            Self::PredictedLate | Self::ExpiredInQueue | Self::LateReply => TOO_LATE,
            Self::ReplicaLost => "The replicas that worked on the query were lost",
            Self::ModelError => "The model failed on the query",
            Self::StoreUnavailable => "The metadata store cannot be reached",
        }
    }
}

/// Why no model answered a query.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Failure {
    /// The reason.
    pub reason: DefaultReason,
    /// The model's own words, or what else is known.
    pub detail: Option<Arc<str>>,
}

impl Failure {
    /// The model failed, in these words.
    pub fn model_error(words: &str) -> Self {
        let detail = words.chars().take(QUOTED_CHARS).collect::<String>();
        Self {
            reason: DefaultReason::ModelError,
            detail: Some(detail.into()),
        }
    }

    /// The explanation a reply carries.
    pub fn explanation(&self) -> Cow<'static, str> {
        let sentence = self.reason.sentence();
        let addition = match (self.reason, &self.detail) {
            (_, Some(detail)) => detail,
            (DefaultReason::PredictedLate, None) => "it would have been answered after its deadline",
            (DefaultReason::ExpiredInQueue, None) => {
                "the deadline passed while the query waited for a replica"
            }
            (DefaultReason::LateReply, None) => "the deadline passed while a replica worked on it",
            (_, None) => return Cow::Borrowed(sentence),
        };
        Cow::Owned(format!("{sentence}: {addition}"))
    }
}

impl From<DefaultReason> for Failure {
    fn from(reason: DefaultReason) -> Self {
        Self { reason, detail: None }
    }
}

/// What a model, or several, made of a query.
pub type Outcome = Result<Output, Failure>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_stands_at_its_index() {
        for (index, reason) in DefaultReason::ALL.into_iter().enumerate() {
            assert_eq!(reason.index(), index);
        }
    }

    #[test]
    fn nobody_to_ask_is_said_in_exactly_these_words() {
        for reason in [DefaultReason::NoModelLinked, DefaultReason::NoReplica] {
            assert_eq!(Failure::from(reason).explanation(), NOBODY);
        }
    }

    #[test]
    fn a_missed_deadline_begins_with_the_known_sentence() {
        for reason in [
            DefaultReason::PredictedLate,
            DefaultReason::ExpiredInQueue,
            DefaultReason::LateReply,
        ] {
            assert!(Failure::from(reason).explanation().starts_with(TOO_LATE));
        }
    }

    #[test]
    fn a_models_error_is_quoted_and_cut_at_200_characters() {
        let failure = Failure::model_error(&"ü".repeat(300));
        let explanation = failure.explanation();
        assert!(explanation.ends_with(&"ü".repeat(200)) && !explanation.contains(&"ü".repeat(201)));
    }
}

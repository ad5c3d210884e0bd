//! What becomes of a query: a model's output, or the default output and the reason why; and how that came about.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use skysail_proto::ids::{ApplicationName, ModelId, ReplicaId};
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
pub type Prediction = Result<Output, Failure>;

/// What became of a query at its model, and how that came about.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// The model's output, or why there is none.
    pub prediction: Prediction,
    /// How it came about.
    pub course: Course,
}

/// How a query came to its outcome. A copy allocates nothing.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Course {
    /// What answered it.
    pub way: Way,
    /// How long its input waited in the queue until its last batch left, or until it was given up there. Nothing if it
    /// did not wait, or if that is not known: an asker whose deadline passes does not know when the batch left.
    ///
    /// A query that joined another is told of the other's wait, which may have begun before its own.
    pub queued: Option<Duration>,
    /// The batch that was answered with its input in it.
    pub batch: Option<BatchRun>,
}

/// What answered a query.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Way {
    /// The prediction cache.
    Cache,
    /// The answer to an identical query, which was on its way already.
    Flight,
    /// A batch with its own input in it.
    Batch,
    /// Nothing: its application answers with the default output.
    Default,
}

/// A batch that a replica answered.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct BatchRun {
    /// The replica.
    pub replica: ReplicaId,
    /// How many inputs of this frontend were in it.
    pub inputs: usize,
    /// How long the model took.
    pub model_time: Duration,
}

impl Outcome {
    /// The cache had this output.
    pub fn cached(output: Output) -> Self {
        let course = Course {
            way: Way::Cache,
            queued: None,
            batch: None,
        };
        Self {
            prediction: Ok(output),
            course,
        }
    }

    /// A batch brought this, for an input that had waited so long.
    pub fn of_batch(prediction: Prediction, queued: Duration, batch: BatchRun) -> Self {
        let way = match prediction {
            Ok(_) => Way::Batch,
            Err(_) => Way::Default,
        };
        let course = Course {
            way,
            queued: Some(queued),
            batch: Some(batch),
        };
        Self { prediction, course }
    }

    /// The same, for a query that joined the one whose outcome it is.
    #[must_use]
    pub fn joined(mut self) -> Self {
        if self.course.way == Way::Batch {
            self.course.way = Way::Flight;
        }
        self
    }

    /// The same, for a query that waited so long.
    #[must_use]
    pub fn after(mut self, queued: Duration) -> Self {
        self.course.queued = Some(queued);
        self
    }
}

impl From<Failure> for Outcome {
    fn from(failure: Failure) -> Self {
        let course = Course {
            way: Way::Default,
            queued: None,
            batch: None,
        };
        Self {
            prediction: Err(failure),
            course,
        }
    }
}

impl From<DefaultReason> for Outcome {
    fn from(reason: DefaultReason) -> Self {
        Failure::from(reason).into()
    }
}

/// An answered query, for everything that counts, traces or records queries.
///
/// It borrows from the path of the query, so that it costs nothing where only counters read it. It has neither the
/// input nor the output: those are the user's, and one slice of a batch keeps the whole batch in memory.
#[derive(Clone, Copy, Debug)]
pub struct AnsweredQuery<'a> {
    /// Its id.
    pub id: u64,
    /// The application that was asked.
    pub application: &'a ApplicationName,
    /// The version of the model that was asked, if a model is linked.
    pub model: Option<&'a ModelId>,
    /// From its arrival to its answer.
    pub latency: Duration,
    /// Why it was answered with the default output, if it was.
    pub default_reason: Option<DefaultReason>,
    /// How it came to its outcome.
    pub course: &'a Course,
}

/// An answered query, to be kept: see [`AnsweredQuery`].
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct QueryRecord {
    /// Its id.
    pub id: u64,
    /// The application that was asked.
    pub application: ApplicationName,
    /// The version of the model that was asked, if a model is linked.
    pub model: Option<ModelId>,
    /// From its arrival to its answer.
    pub latency: Duration,
    /// Why it was answered with the default output, if it was.
    pub default_reason: Option<DefaultReason>,
    /// How it came to its outcome.
    pub course: Course,
}

impl From<&AnsweredQuery<'_>> for QueryRecord {
    fn from(query: &AnsweredQuery<'_>) -> Self {
        Self {
            id: query.id,
            application: query.application.clone(),
            model: query.model.cloned(),
            latency: query.latency,
            default_reason: query.default_reason,
            course: query.course.clone(),
        }
    }
}

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
    fn a_failure_in_a_batch_is_answered_by_the_default_and_still_names_the_batch() {
        let run = BatchRun {
            replica: ReplicaId::new("r").unwrap(),
            inputs: 3,
            model_time: Duration::from_millis(2),
        };
        let waited = Duration::from_millis(5);
        let good = Outcome::of_batch(Ok(Output::new("1")), waited, run.clone());
        assert_eq!(
            (good.course.way, good.clone().joined().course.way),
            (Way::Batch, Way::Flight)
        );
        let bad = Outcome::of_batch(Err(Failure::model_error("no")), waited, run.clone());
        assert_eq!(
            (bad.course.way, bad.clone().joined().course.way),
            (Way::Default, Way::Default)
        );
        assert_eq!((bad.course.queued, bad.course.batch), (Some(waited), Some(run)));
        let cached = Outcome::cached(Output::new("1")).joined();
        assert_eq!(cached.course.way, Way::Cache);
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

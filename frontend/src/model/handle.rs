//! One version of a model: its cache, its queue, and the number of its replicas.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use jiff::Timestamp;
use skysail_container_rpc::server::Refusal;
use skysail_container_rpc::session::Registration;
use skysail_core::catalog::Version;
use skysail_core::query::{DefaultReason, Outcome};
use skysail_proto::admin::BatchLimit;
use skysail_proto::container::MAX_MESSAGE_BYTES;
use skysail_proto::deployment::{MOST_LEARNED_BYTES, VersionSpec};
use skysail_proto::error_code::ErrorCode;
use skysail_proto::ids::ModelId;
use skysail_proto::value::Input;
use smallvec::smallvec;

use super::answers::Asked;
use super::asking::{self, Asking};
use super::cache::PredictionCache;
use super::queue::{Load, TaskQueue};
use crate::clock::Clock;
use crate::metrics::VersionMetrics;

/// The most input bytes in one batch: a message's limit, less room for lengths, budgets and framing.
const MAX_BATCH_BYTES: usize = MAX_MESSAGE_BYTES - 16 * 1024 * 1024;

/// The largest input that can reach a container.
pub(crate) const MAX_INPUT_BYTES: usize = MAX_BATCH_BYTES;

const ALL_ANSWERED: &str = "each row is answered or given up at its deadline; this is a bug";

/// One version of a model, as queries ask it.
pub(crate) struct ModelHandle {
    /// The model's name and the version's.
    pub id: ModelId,
    /// The spec that the version was registered with.
    pub spec: VersionSpec,
    /// When the version was registered. The same name registered later is another version.
    pub(super) registered_at: Timestamp,
    /// `None` if the version or this frontend has its cache switched off. Then every query goes to the model.
    pub(super) cache: Option<Arc<PredictionCache>>,
    pub(super) queue: TaskQueue,
    pub(super) replicas: AtomicUsize,
    pub(super) metrics: VersionMetrics,
    pub(super) clock: Clock,
}

impl ModelHandle {
    /// Answers from the cache or by asking the model, at the latest at the deadline.
    ///
    /// Without a replica the answer is `NoReplica`, even for a cached input. Otherwise a stopped or lost model would
    /// seem to answer, but only for cached inputs.
    pub(crate) async fn predict(&self, input: Input, asked: Asked) -> Outcome {
        if !self.can_answer(1) {
            return DefaultReason::NoReplica.into();
        }
        let version = self.version();
        let unknown = match version.look_up(input) {
            Ok(outcome) => return outcome,
            Err(unknown) => unknown,
        };
        let mut asking = Asking::new(version, 1, asked);
        asking.ask(self.clock.now(), 0, unknown);
        let outcome = asking.outcomes().await.pop().flatten();
        outcome.expect(ALL_ANSWERED)
    }

    /// Predicts for the rows of one request, in their order.
    pub(crate) async fn predict_rows(
        &self,
        inputs: Vec<Input>,
        asked: Asked,
    ) -> impl Iterator<Item = Outcome> {
        let rows = inputs.len();
        let outcomes = match self.can_answer(rows) {
            true => {
                let mut asking = Asking::new(self.version(), rows, asked);
                asking.ask_all(inputs).await;
                asking.outcomes().await
            }
            false => smallvec![Some(DefaultReason::NoReplica.into()); rows],
        };
        outcomes.into_iter().map(|outcome| outcome.expect(ALL_ANSWERED))
    }

    /// Whether there is a replica. If there is none, the cache counts `queries` misses.
    fn can_answer(&self, queries: usize) -> bool {
        let has_replica = self.replicas() > 0;
        if !has_replica && let Some(cache) = &self.cache {
            cache.missed(queries);
        }
        has_replica
    }

    fn version(&self) -> asking::Version<'_> {
        asking::Version {
            cache: self.cache.as_ref(),
            queue: &self.queue,
            clock: self.clock,
        }
    }

    /// Whether queries and containers can use this handle for `version`. Only `version.spec.deployment` may differ,
    /// such as in the number of replicas.
    pub(super) fn serves(&self, version: &Version) -> bool {
        let VersionSpec {
            input_type,
            batch_size,
            max_batch,
            cache,
            deployment: _,
            open,
        } = &version.spec;
        self.registered_at == version.registered_at
            && (self.spec.input_type, self.spec.batch_size) == (*input_type, *batch_size)
            && (self.spec.max_batch, self.spec.cache) == (*max_batch, *cache)
            && self.spec.open == *open
    }

    pub(super) fn check_type(&self, registration: &Registration) -> Result<(), Refusal> {
        let (id, ours, theirs) = (&self.id, self.spec.input_type, registration.input_type);
        if ours == theirs {
            return Ok(());
        }
        let reason = format!(
            "model {id} takes {ours}, the container {theirs}: start it with SKYSAIL_INPUT_TYPE={ours}"
        );
        Err(Refusal {
            code: ErrorCode::Conflict,
            reason,
        })
    }

    /// How many queries came, and how many wait.
    pub(crate) fn load(&self) -> Load {
        self.queue.load()
    }

    /// The limit on batch sizes that a failed batch has set, while it holds.
    pub(super) fn batch_limit(&self) -> Option<BatchLimit> {
        let restraint = self.queue.restraint(self.clock.now())?;
        Some(BatchLimit {
            inputs: restraint.limit as u64,
            failed_inputs: restraint.failed as u64,
            since: self.clock.to_timestamp(restraint.since),
        })
    }

    /// The most input bytes in one batch of this version.
    pub(super) fn most_batch_bytes(&self) -> usize {
        match self.spec.learns_sizes() {
            true => MOST_LEARNED_BYTES,
            false => MAX_BATCH_BYTES,
        }
    }

    /// The number of attached replicas.
    pub(crate) fn replicas(&self) -> usize {
        self.replicas.load(Ordering::Relaxed)
    }
}

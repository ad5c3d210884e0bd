//! One version of a model: its cache, its queue, and the number of its replicas.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use jiff::Timestamp;
use skysail_container_rpc::server::Refusal;
use skysail_container_rpc::session::Registration;
use skysail_core::catalog::{Application, Version};
use skysail_core::query::{DefaultReason, Outcome};
use skysail_proto::admin::BatchLimit;
use skysail_proto::container::MAX_MESSAGE_BYTES;
use skysail_proto::deployment::{MOST_LEARNED_BYTES, VersionSpec};
use skysail_proto::error_code::ErrorCode;
use skysail_proto::ids::ModelId;
use skysail_proto::signature::Signature;
use skysail_proto::value::Input;
use smallvec::smallvec;
use tracing::info;

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
    /// The spec that the version had when this handle was made. Its signature may be known better by now, see
    /// [`Self::signature`].
    pub spec: VersionSpec,
    /// What the version's first replica here told, if the version was registered without a signature.
    pub(super) learned: OnceLock<Learned>,
    /// When the version was registered. The same name registered later is another version.
    pub(super) registered_at: Timestamp,
    /// `None` if the version or this frontend has its cache switched off. Then every query goes to the model.
    pub(super) cache: Option<Arc<PredictionCache>>,
    pub(super) queue: TaskQueue,
    pub(super) replicas: AtomicUsize,
    pub(super) metrics: VersionMetrics,
    pub(super) clock: Clock,
}

/// What a replica told of its model.
#[derive(Debug, Eq, PartialEq)]
pub(super) struct Learned {
    pub(super) signature: Signature,
    pub(super) annotations: BTreeMap<String, String>,
}

impl ModelHandle {
    /// What the version takes and gives; undeclared until it is declared or a replica has told it.
    pub(crate) fn signature(&self) -> &Signature {
        self.learned
            .get()
            .map_or(&self.spec.signature, |learned| &learned.signature)
    }

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
    /// such as in the number of replicas, and what a replica has told of the model.
    pub(super) fn serves(&self, version: &Version) -> bool {
        let VersionSpec {
            signature,
            batch_size,
            max_batch,
            cache,
            deployment: _,
            open,
            annotations: _,
        } = &version.spec;
        self.registered_at == version.registered_at
            && self.is_of(signature)
            && self.spec.batch_size == *batch_size
            && (self.spec.max_batch, self.spec.cache) == (*max_batch, *cache)
            && self.spec.open == *open
    }

    /// Whether the catalog's signature is the one that this handle goes by. If the handle goes by none yet, it goes by
    /// the catalog's from now on.
    fn is_of(&self, signature: &Signature) -> bool {
        if self.spec.signature == *signature {
            return true;
        }
        if self.spec.signature.is_declared() || !signature.is_declared() {
            return false;
        }
        let learned = self.learned.get_or_init(|| Learned {
            signature: signature.clone(),
            annotations: BTreeMap::new(),
        });
        learned.signature == *signature
    }

    /// Checks that a container's model is the version's. The first container of a version that was registered without
    /// a signature tells it; it must then answer the applications of `linked`.
    pub(super) fn check_signature(
        &self,
        registration: &Registration,
        linked: &[Arc<Application>],
    ) -> Result<(), Refusal> {
        let (id, ours, theirs) = (&self.id, self.signature(), &registration.signature);
        if ours == theirs && ours.is_declared() {
            return Ok(());
        }
        if ours.is_declared() {
            return Err(conflict(format!(
                "model {id} takes {ours}, the container {theirs}: {}",
                remedy(ours)
            )));
        }
        if theirs.row_type().is_some() {
            return Err(conflict(format!(
                "model {id} takes tensors, the container {theirs}: start it with SKYSAIL_INPUT_TYPE=tensors"
            )));
        }
        if !theirs.is_declared() {
            return Err(conflict(format!(
                "model {id} was registered without a signature, and the container tells none: say it in SKYSAIL_SIGNATURE"
            )));
        }
        for application in linked {
            if let Err(why) = theirs.answers(&application.signature) {
                return Err(conflict(format!(
                    "model {id} is linked to application {}: {why}: deploy the container's model under another name",
                    application.name
                )));
            }
        }
        // Registrations come one at a time, under the table's lock.
        self.learned.get_or_init(|| Learned {
            signature: theirs.clone(),
            annotations: registration.annotations.clone(),
        });
        info!(model = %id, signature = %theirs, "a replica told what the version takes and gives");
        Ok(())
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
        match self.signature().is_batched() && self.spec.learns_sizes() {
            true => MOST_LEARNED_BYTES,
            false => MAX_BATCH_BYTES,
        }
    }

    /// The most inputs in one batch of this version.
    pub(super) fn most_inputs(&self) -> NonZeroU32 {
        match self.signature().is_batched() {
            true => self.spec.most_inputs(),
            false => NonZeroU32::MIN,
        }
    }

    /// The number of attached replicas.
    pub(crate) fn replicas(&self) -> usize {
        self.replicas.load(Ordering::Relaxed)
    }
}

fn conflict(reason: String) -> Refusal {
    Refusal {
        code: ErrorCode::Conflict,
        reason,
    }
}

/// How to start a container whose signature is this one.
fn remedy(signature: &Signature) -> String {
    let input_type = signature.input_word();
    if signature.declared_text().is_none() {
        return format!("start it with SKYSAIL_INPUT_TYPE={input_type}");
    }
    "start a container with the same signature, or deploy its model as another version".to_owned()
}

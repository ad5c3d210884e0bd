//! Models as the query path sees them: a queue for each version, and a batcher for each attached replica.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use jiff::Timestamp;
use parking_lot::Mutex;
use skysail_container_rpc::server::{Arrival, Reception, Refusal};
use skysail_container_rpc::session::Registration;
use skysail_core::batch::policy_for;
use skysail_core::catalog::Catalog;
use skysail_core::query::{DefaultReason, Outcome};
use skysail_core::queue::Bounds;
use skysail_core::time::Instant;
use skysail_proto::container::MAX_MESSAGE_BYTES;
use skysail_proto::deployment::VersionSpec;
use skysail_proto::error_code::ErrorCode;
use skysail_proto::ids::ModelId;
use skysail_proto::value::Input;
use tokio_util::task::TaskTracker;
use tracing::info;

use crate::clock::Clock;
use crate::metrics::{Metrics, VersionMetrics};

mod batcher;
pub mod queue;
pub mod replica;

use batcher::Batcher;
use queue::TaskQueue;
use replica::{Order, ReplicaTable};

/// The most input bytes in one batch: a message's limit, less room for lengths, budgets and framing.
const MAX_BATCH_BYTES: usize = MAX_MESSAGE_BYTES - 16 * 1024 * 1024;

/// The largest input that can reach a container.
pub const MAX_INPUT_BYTES: usize = MAX_BATCH_BYTES;

/// One version of a model, to be asked.
pub struct ModelHandle {
    /// Which.
    pub id: ModelId,
    /// What it is.
    pub spec: VersionSpec,
    /// When it was registered: a version of the same name registered later is another one.
    registered_at: Timestamp,
    queue: TaskQueue,
    replicas: AtomicUsize,
    metrics: VersionMetrics,
    clock: Clock,
}

impl ModelHandle {
    /// Asks the model. There is always an answer, at the latest at the deadline.
    pub async fn predict(&self, input: Input, deadline: Instant) -> Outcome {
        if self.replicas.load(Ordering::Relaxed) == 0 {
            return Err(DefaultReason::NoReplica.into());
        }
        let mut ticket = self.queue.push(deadline, input)?;
        match tokio::time::timeout_at(self.clock.to_tokio(deadline), ticket.answer()).await {
            Ok(Some(outcome)) => outcome,
            Ok(None) => Err(DefaultReason::ReplicaLost.into()),
            Err(_elapsed) => Err(ticket.expire()),
        }
    }

    /// Replicas attached to it.
    pub fn replicas(&self) -> usize {
        self.replicas.load(Ordering::Relaxed)
    }
}

/// All registered versions, and the replicas attached to them.
pub struct ModelTable {
    versions: Mutex<BTreeMap<ModelId, Arc<ModelHandle>>>,
    replicas: Arc<ReplicaTable>,
    batchers: TaskTracker,
    bounds: Bounds,
    metrics: Arc<Metrics>,
    clock: Clock,
}

impl ModelTable {
    /// No versions yet. `bounds` are those of each version's queue.
    pub fn new(bounds: Bounds, metrics: Arc<Metrics>, clock: Clock) -> Self {
        Self {
            versions: Mutex::default(),
            replicas: Arc::default(),
            batchers: TaskTracker::new(),
            bounds,
            metrics,
            clock,
        }
    }

    /// Brings the versions in line with the catalog and returns them.
    ///
    /// Replicas of a version that is gone, or was registered anew, are sent away with the reason.
    pub fn follow(&self, catalog: &Catalog) -> HashMap<ModelId, Arc<ModelHandle>> {
        let mut versions = self.versions.lock();
        let mut next = BTreeMap::new();
        for (id, version) in catalog.versions() {
            let kept = versions
                .get(&id)
                .filter(|handle| handle.registered_at == version.registered_at)
                .cloned();
            let handle = match kept {
                // A handle outlives changes of the replica count; nothing else of a version ever changes.
                Some(handle) => handle,
                None => Arc::new(self.handle(id.clone(), version.spec.clone(), version.registered_at)),
            };
            next.insert(id, handle);
        }
        let gone: Vec<ModelId> = versions
            .iter()
            .filter(|(id, handle)| next.get(*id).is_none_or(|kept| !Arc::ptr_eq(kept, handle)))
            .map(|(id, _)| id.clone())
            .collect();
        *versions = next;
        for id in gone {
            self.dismiss(&id, versions.contains_key(&id));
        }
        versions
            .iter()
            .map(|(id, handle)| (id.clone(), handle.clone()))
            .collect()
    }

    fn handle(&self, id: ModelId, spec: VersionSpec, registered_at: Timestamp) -> ModelHandle {
        ModelHandle {
            queue: TaskQueue::new(self.bounds),
            replicas: AtomicUsize::new(0),
            metrics: self.metrics.version(&id),
            clock: self.clock,
            id,
            spec,
            registered_at,
        }
    }

    fn dismiss(&self, id: &ModelId, registered_anew: bool) {
        if !registered_anew {
            self.metrics.forget_version(id);
        }
        let refusal = not_registered(id);
        self.replicas.order(|model| model == id, &Order::Dismiss(refusal));
    }

    /// The attached replicas.
    pub fn replicas(&self) -> &Arc<ReplicaTable> {
        &self.replicas
    }

    /// Brings the gauges up to date: nobody pays for them but who looks.
    pub fn refresh_gauges(&self) {
        for handle in self.versions.lock().values() {
            handle.metrics.set_queue_length(handle.queue.len());
            handle.metrics.set_replicas(handle.replicas());
        }
    }

    /// Tells every replica that this frontend is going, and waits until their streams have ended.
    pub async fn drain(&self) {
        self.replicas.order(|_| true, &Order::Drain);
        self.batchers.close();
        self.batchers.wait().await;
    }

    fn version_for(&self, registration: &Registration) -> Result<Arc<ModelHandle>, Refusal> {
        let id = &registration.model;
        let Some(handle) = self.versions.lock().get(id).cloned() else {
            return Err(not_registered(id));
        };
        if handle.spec.input_type != registration.input_type {
            let reason = format!(
                "model {id} takes {}, the container {}: start it with SKYSAIL_INPUT_TYPE={}",
                handle.spec.input_type, registration.input_type, handle.spec.input_type
            );
            return Err(Refusal {
                code: ErrorCode::Conflict,
                reason,
            });
        }
        Ok(handle)
    }
}

fn not_registered(id: &ModelId) -> Refusal {
    let reason = format!("model {id} is not registered: see `skysail model register --help`");
    Refusal {
        code: ErrorCode::NotFound,
        reason,
    }
}

impl Reception for ModelTable {
    fn receive(&self, arrival: Arrival) -> Result<(), Refusal> {
        let Arrival {
            registration,
            peer,
            stream,
        } = arrival;
        let model = self.version_for(&registration)?;
        info!(replica = %registration.replica, model = %model.id, "replica attached");
        let (replica, orders) = self.replicas.attach(registration, peer);
        let batcher = Batcher {
            policy: policy_for(model.spec.batch_size, model.spec.max_batch),
            model: model.clone(),
            replica: replica.clone(),
            stream,
            clock: self.clock,
            sent: HashMap::new(),
            announced: None,
        };
        model.replicas.fetch_add(1, Ordering::Relaxed);
        let leaving = Leaving {
            model,
            replica,
            table: self.replicas.clone(),
        };
        self.batchers.spawn(async move {
            let _leaving = leaving;
            batcher.run(orders).await;
        });
        Ok(())
    }
}

/// Takes a replica out of all counts when its batcher ends, also by a panic.
struct Leaving {
    model: Arc<ModelHandle>,
    replica: Arc<replica::Replica>,
    table: Arc<ReplicaTable>,
}

impl Drop for Leaving {
    fn drop(&mut self) {
        self.model.replicas.fetch_sub(1, Ordering::Relaxed);
        self.table.detach(&self.replica);
    }
}

//! All registered versions, which follow the catalog, and the attached replicas, which containers bring.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use jiff::Timestamp;
use parking_lot::Mutex;
use skysail_container_rpc::server::{Newcomer, Reception, Refusal};
use skysail_container_rpc::session::Registration;
use skysail_core::batch::{LatencyModel, policy_for};
use skysail_core::catalog::{Application, Catalog};
use skysail_core::cluster::LearnedView;
use skysail_core::dispatch::Dispatcher;
use skysail_core::queue::Bounds;
use skysail_proto::admin::BatchLimit;
use skysail_proto::deployment::VersionSpec;
use skysail_proto::error_code::ErrorCode;
use skysail_proto::ids::ModelId;
use tokio::sync::{mpsc, watch};
use tokio_util::task::TaskTracker;
use tracing::info;

use super::batcher::Batcher;
use super::cache::PredictionCache;
use super::handle::ModelHandle;
use super::queue::{Load, TaskQueue};
use super::registrar::Registrar;
use super::replica::{Order, Replica, ReplicaTable};
use crate::clock::Clock;
use crate::metrics::Metrics;

/// All registered versions, and the replicas attached to them.
pub(crate) struct ModelTable {
    versions: Mutex<BTreeMap<ModelId, Arc<ModelHandle>>>,
    /// The versions that the catalog has no signature of, each with the applications that it must answer. Lock order:
    /// after `versions`.
    undeclared: Mutex<HashMap<ModelId, Vec<Arc<Application>>>>,
    /// Lock order: `versions` first, if both are locked.
    registrar: Mutex<Registrar>,
    replicas: Arc<ReplicaTable>,
    /// Addresses of the cluster's query frontends, as containers reach them. Attached containers are told.
    frontends: watch::Sender<Arc<Vec<String>>>,
    batchers: TaskTracker,
    bounds: Bounds,
    cache_bytes: u64,
    pub(super) metrics: Arc<Metrics>,
    clock: Clock,
    /// Whether a catalog was followed yet. Before that this frontend knows nothing of any model.
    followed: AtomicBool,
    draining: AtomicBool,
}

/// All registered versions, and how many replicas of each can be counted on, at one moment.
#[derive(Default)]
pub(crate) struct Versions {
    handles: HashMap<ModelId, Arc<ModelHandle>>,
    ready: HashMap<ModelId, u32>,
}

impl Versions {
    /// The handle of a version, if it is registered.
    pub(crate) fn get(&self, id: &ModelId) -> Option<&Arc<ModelHandle>> {
        self.handles.get(id)
    }

    /// How many replicas of a version can be counted on.
    pub(crate) fn ready(&self, id: &ModelId) -> u32 {
        self.ready.get(id).copied().unwrap_or_default()
    }
}

/// Versions that are gone. Close them once no query is routed to them any more.
#[must_use]
pub(crate) struct Gone(Vec<Arc<ModelHandle>>);

impl ModelTable {
    /// A table without versions. `bounds` are for each version's queue. `cache_bytes` is the capacity of each
    /// version's cache, 0 for no cache.
    pub(crate) fn new(bounds: Bounds, cache_bytes: u64, metrics: Arc<Metrics>, clock: Clock) -> Self {
        Self {
            versions: Mutex::default(),
            undeclared: Mutex::default(),
            registrar: Mutex::default(),
            replicas: Arc::default(),
            frontends: watch::Sender::default(),
            batchers: TaskTracker::new(),
            bounds,
            cache_bytes,
            metrics,
            clock,
            followed: AtomicBool::new(false),
            draining: AtomicBool::new(false),
        }
    }

    /// Makes this the table of a frontend whose container RPC can be reached from this machine only.
    pub(crate) fn on_this_machine_only(self) -> Self {
        self.registrar.lock().on_this_machine_only = true;
        self
    }

    /// Brings the versions in line with the catalog. Returns them, and for [`Self::close`] those that are gone or
    /// replaced.
    pub(crate) fn follow(&self, catalog: &Catalog) -> (Versions, Gone) {
        let mut versions = self.versions.lock();
        let mut next = BTreeMap::new();
        for (id, version) in catalog.versions() {
            let handle = match versions.get(&id).filter(|handle| handle.serves(version)).cloned() {
                Some(handle) => handle,
                None => Arc::new(self.handle(id.clone(), version.spec.clone(), version.registered_at)),
            };
            next.insert(id, handle);
        }
        let is_gone = |handle: &&Arc<ModelHandle>| {
            next.get(&handle.id)
                .is_none_or(|kept: &Arc<ModelHandle>| !Arc::ptr_eq(kept, handle))
        };
        let gone = versions.values().filter(is_gone).cloned().collect();
        *versions = next;
        *self.undeclared.lock() = undeclared(catalog);
        self.registrar
            .lock()
            .key
            .clone_from(&catalog.settings.container_key);
        self.followed.store(true, Ordering::Relaxed);
        let handles = versions.iter().map(|(id, handle)| (id.clone(), handle.clone()));
        let versions = Versions {
            handles: handles.collect(),
            ready: self.replicas.all_ready(),
        };
        (versions, Gone(gone))
    }

    /// Answers all queries that wait for these versions, and dismisses their replicas with the reason.
    pub(crate) fn close(&self, gone: Gone) {
        for handle in gone.0 {
            let id = &handle.id;
            handle.queue.close();
            let refusal = if self.versions.lock().contains_key(id) {
                Refusal {
                    code: ErrorCode::Unavailable,
                    reason: format!("model {id} was registered anew"),
                }
            } else {
                self.metrics.forget_version(id);
                not_registered(id)
            };
            self.replicas.order(|model| model == id, &Order::Dismiss(refusal));
        }
    }

    pub(super) fn handle(&self, id: ModelId, spec: VersionSpec, registered_at: Timestamp) -> ModelHandle {
        let metrics = self.metrics.version(&id);
        let is_cached = spec.cache && self.cache_bytes > 0;
        ModelHandle {
            cache: is_cached.then(|| PredictionCache::new(self.cache_bytes, metrics.cache())),
            queue: TaskQueue::new(self.bounds, spec.batch_size.into()),
            replicas: AtomicUsize::new(0),
            metrics,
            clock: self.clock,
            id,
            spec,
            learned: OnceLock::new(),
            registered_at,
        }
    }

    /// Tells containers the addresses (host:port) of the cluster's query frontends. Attached containers are told at
    /// once, others when they attach. An empty list is not told.
    pub(crate) fn name_frontends(&self, addresses: Vec<String>) {
        self.frontends.send_if_modified(|known| {
            let is_new = **known != addresses;
            if is_new {
                *known = Arc::new(addresses);
            }
            is_new
        });
    }

    /// The load of each version.
    pub(crate) fn loads(&self) -> Vec<(ModelId, Load)> {
        let versions = self.versions.lock();
        versions
            .values()
            .map(|handle| (handle.id.clone(), handle.load()))
            .collect()
    }

    /// The limits on batch sizes that failed batches have set, while they hold.
    pub(crate) fn batch_limits(&self) -> HashMap<ModelId, BatchLimit> {
        let versions = self.versions.lock();
        let limits = versions
            .values()
            .map(|handle| Some((handle.id.clone(), handle.batch_limit()?)));
        limits.flatten().collect()
    }

    /// What replicas here told of the versions that the catalog has no signature of.
    pub(crate) fn learned(&self) -> Vec<LearnedView> {
        let versions = self.versions.lock();
        let undeclared = self.undeclared.lock();
        let told = undeclared.keys().filter_map(|id| {
            let handle = versions.get(id)?;
            let learned = handle.learned.get()?;
            Some(LearnedView {
                model: id.clone(),
                registered_at: handle.registered_at,
                signature: learned.signature.clone(),
                annotations: learned.annotations.clone(),
            })
        });
        let mut told: Vec<_> = told.collect();
        told.sort_by(|a, b| a.model.cmp(&b.model));
        told
    }

    /// The attached replicas.
    pub(crate) fn replicas(&self) -> &Arc<ReplicaTable> {
        &self.replicas
    }

    /// Brings the gauges up to date. Only readers of the metrics pay for that, not queries.
    pub(crate) fn refresh_gauges(&self) {
        for handle in self.versions.lock().values() {
            handle.metrics.set_queue_length(handle.queue.len());
            handle.metrics.set_replicas(handle.replicas());
            if let Some(cache) = &handle.cache {
                cache.refresh_gauges();
            }
        }
    }

    /// Tells every replica that this frontend is going, and waits until their streams have ended.
    pub(crate) async fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
        self.replicas.order(|_| true, &Order::Drain);
        self.batchers.close();
        self.batchers.wait().await;
    }

    /// Adds a replica to the table and to the handle it serves.
    ///
    /// This holds the lock that [`Self::follow`] takes. So no version is replaced between look-up and entry, and
    /// [`Self::close`] finds the replica.
    pub(super) fn enter(
        &self,
        registration: Registration,
        peer: Option<SocketAddr>,
    ) -> Result<(Leaving, mpsc::Receiver<Order>), Refusal> {
        let not_now = |reason: &str| Refusal {
            code: ErrorCode::Unavailable,
            reason: reason.into(),
        };
        let versions = self.versions.lock();
        if self.draining.load(Ordering::Relaxed) {
            return Err(not_now("the frontend is draining"));
        }
        if !self.followed.load(Ordering::Relaxed) {
            return Err(not_now("the frontend has not read its metadata yet"));
        }
        let Some(model) = versions.get(&registration.model).cloned() else {
            return Err(not_registered(&registration.model));
        };
        let start = self.registrar.lock().admit(&model, &registration)?;
        if self.replicas.is_given_up(&start) {
            return Err(not_now("this container hangs; it is being replaced"));
        }
        let undeclared = self.undeclared.lock();
        let linked = undeclared.get(&model.id).map_or(&[][..], Vec::as_slice);
        model.check_signature(&registration, linked)?;
        drop(undeclared);
        info!(replica = %registration.replica, model = %model.id, "replica attached");
        let (replica, orders) = self.replicas.attach(registration, start, peer);
        model.replicas.fetch_add(1, Ordering::Relaxed);
        model.queue.join(replica.stream, self.clock.now());
        let table = self.replicas.clone();
        Ok((
            Leaving {
                model,
                replica,
                table,
            },
            orders,
        ))
    }
}

/// The versions without a signature, each with the applications that it must answer: those of its model if it is the
/// current version.
fn undeclared(catalog: &Catalog) -> HashMap<ModelId, Vec<Arc<Application>>> {
    let undeclared = catalog
        .versions()
        .filter(|(_, version)| !version.spec.signature.is_declared());
    let linked = |id: &ModelId| -> Vec<_> {
        let is_current = catalog.models[&id.name].current_version == id.version;
        let linked = catalog.applications_of(&id.name).filter(|_| is_current);
        linked.cloned().collect()
    };
    undeclared.map(|(id, _)| (id.clone(), linked(&id))).collect()
}

fn not_registered(id: &ModelId) -> Refusal {
    let reason = format!("model {id} is not registered: see `skysail model register --help`");
    Refusal {
        code: ErrorCode::NotFound,
        reason,
    }
}

impl Reception for ModelTable {
    fn receive(&self, newcomer: Newcomer) -> Result<(), Refusal> {
        let Newcomer {
            registration,
            peer,
            stream,
        } = newcomer;
        let (leaving, orders) = self.enter(registration, peer)?;
        let model = leaving.model.clone();
        let mut latency = LatencyModel::default();
        for sample in &leaving.replica.registration.recent_batches {
            latency.observe(sample.inputs, sample.took, false);
        }
        leaving.replica.times.learned(&latency);
        let policy = policy_for(model.spec.batch_size, model.most_inputs());
        let batcher = Batcher {
            table: self.replicas.clone(),
            frontends: self.frontends.subscribe(),
            dispatcher: Dispatcher::new(leaving.replica.stream, policy, model.most_batch_bytes())
                .with_latency(latency),
            model,
            replica: leaving.replica.clone(),
            stream,
            clock: self.clock,
        };
        self.batchers.spawn(async move {
            let _leaving = leaving;
            batcher.run(orders).await;
        });
        Ok(())
    }
}

/// Takes a replica out of all counts when its batcher ends, even by a panic.
pub(super) struct Leaving {
    model: Arc<ModelHandle>,
    replica: Arc<Replica>,
    table: Arc<ReplicaTable>,
}

impl Drop for Leaving {
    fn drop(&mut self) {
        self.model.replicas.fetch_sub(1, Ordering::Relaxed);
        self.model.queue.leave(self.replica.stream);
        self.table.detach(&self.replica);
    }
}

//! The replicas that are attached: what is known of each, and how to send it away.

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use jiff::Timestamp;
use parking_lot::Mutex;
use skysail_container_rpc::server::Refusal;
use skysail_container_rpc::session::Registration;
use skysail_core::cluster::ReplicaView;
use skysail_proto::ids::{ModelId, ReplicaId};
use tokio::sync::{Notify, mpsc};

/// What is known of an attached replica. Its batcher writes, others read.
#[derive(Debug)]
pub struct Replica {
    /// What it said of itself.
    pub registration: Registration,
    /// Where it dialled from.
    pub peer: Option<SocketAddr>,
    /// When it attached.
    pub attached_at: Timestamp,
    /// Unique to this stream: another of the same replica has another.
    pub stream: u64,
    /// Whether it takes no more work.
    pub draining: AtomicBool,
    /// Batches in its hands.
    pub in_flight: AtomicU32,
    /// Batches answered.
    pub batches: AtomicU64,
    /// Inputs answered.
    pub inputs: AtomicU64,
}

impl Replica {
    /// What other frontends are told of it.
    pub fn view(&self) -> ReplicaView {
        let Registration {
            model,
            replica,
            token,
            hostname,
            pid,
            ..
        } = &self.registration;
        ReplicaView {
            replica: replica.clone(),
            model: model.clone(),
            token: token.clone(),
            hostname: hostname.clone(),
            pid: *pid,
            peer: self.peer.map(|peer| peer.to_string()).unwrap_or_default(),
            attached_at: self.attached_at,
            draining: self.draining.load(Ordering::Relaxed),
            overdue: false,
            in_flight: self.in_flight.load(Ordering::Relaxed),
            batches: self.batches.load(Ordering::Relaxed),
            inputs: self.inputs.load(Ordering::Relaxed),
            inputs_per_second: 0.0,
            fixed_micros: 0.0,
            per_input_micros: 0.0,
            p99_micros: 0,
        }
    }
}

/// What a batcher can be told.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Order {
    /// Another stream registered as this replica.
    Superseded,
    /// Its version is gone; the reason is for the container's log.
    Dismiss(Refusal),
    /// The frontend is going: finish what is in hand, then close.
    Drain,
}

#[derive(Debug)]
struct Attached {
    replica: Arc<Replica>,
    orders: mpsc::Sender<Order>,
}

/// All attached replicas, by id. Locked when one comes or goes and when somebody looks, never by queries.
#[derive(Debug, Default)]
pub struct ReplicaTable {
    attached: Mutex<HashMap<ReplicaId, Attached>>,
    streams: AtomicU64,
    changed: Arc<Notify>,
}

impl ReplicaTable {
    /// Takes a replica in; one with the same id is superseded. Returns its record and its orders.
    pub fn attach(
        &self,
        registration: Registration,
        peer: Option<SocketAddr>,
    ) -> (Arc<Replica>, mpsc::Receiver<Order>) {
        let (orders, receiver) = mpsc::channel(4);
        let replica = Arc::new(Replica {
            registration,
            peer,
            attached_at: Timestamp::now(),
            stream: self.streams.fetch_add(1, Ordering::Relaxed),
            draining: AtomicBool::new(false),
            in_flight: AtomicU32::new(0),
            batches: AtomicU64::new(0),
            inputs: AtomicU64::new(0),
        });
        let id = replica.registration.replica.clone();
        let before = self.attached.lock().insert(
            id,
            Attached {
                replica: replica.clone(),
                orders,
            },
        );
        if let Some(before) = before {
            // A full channel holds an order that ends the stream as well.
            let _ = before.orders.try_send(Order::Superseded);
        }
        self.changed.notify_one();
        (replica, receiver)
    }

    /// Takes note that a stream is over, unless another has taken its place.
    pub fn detach(&self, replica: &Replica) {
        let mut attached = self.attached.lock();
        let id = &replica.registration.replica;
        if attached
            .get(id)
            .is_some_and(|found| found.replica.stream == replica.stream)
        {
            attached.remove(id);
        }
        drop(attached);
        self.changed.notify_one();
    }

    /// Sends an order to every replica that `which` picks.
    pub fn order(&self, which: impl Fn(&ModelId) -> bool, order: &Order) {
        for found in self.attached.lock().values() {
            if which(&found.replica.registration.model) {
                let _ = found.orders.try_send(order.clone());
            }
        }
    }

    /// All of them, ordered by id.
    pub fn all(&self) -> Vec<Arc<Replica>> {
        let mut all: Vec<_> = self
            .attached
            .lock()
            .values()
            .map(|found| found.replica.clone())
            .collect();
        all.sort_by(|a, b| a.registration.replica.cmp(&b.registration.replica));
        all
    }

    /// Their ids.
    pub fn ids(&self) -> BTreeSet<ReplicaId> {
        self.attached.lock().keys().cloned().collect()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.attached.lock().len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Notified (`notify_one`) when a replica comes or goes.
    pub fn changed(&self) -> Arc<Notify> {
        self.changed.clone()
    }
}

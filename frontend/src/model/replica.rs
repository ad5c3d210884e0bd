//! The attached replicas: the state of each, and the orders that end its stream.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use parking_lot::Mutex;
use skysail_container_rpc::server::Refusal;
use skysail_container_rpc::session::Registration;
use skysail_proto::ids::{ModelId, ReplicaId};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::times::BatchTimes;

/// The state of an attached replica. Its batcher writes, others read.
#[derive(Debug)]
pub(crate) struct Replica {
    /// What the container said of itself when it registered.
    pub registration: Registration,
    /// The id of its container's start; empty if the container was started by hand.
    pub start: String,
    /// The address it dialled from.
    pub peer: Option<SocketAddr>,
    pub attached_at: Timestamp,
    /// Unique to this stream: a later stream of the same replica has another number.
    pub stream: u64,
    /// Whether it takes no more work.
    pub draining: AtomicBool,
    /// Whether a batch it holds is overdue. Until it answers, it is sent no more.
    pub overdue: AtomicBool,
    /// Batches sent to it and not answered yet.
    pub in_flight: AtomicU32,
    /// Batches answered.
    pub batches: AtomicU64,
    /// Inputs answered.
    pub inputs: AtomicU64,
    /// The times of its last batches.
    pub times: BatchTimes,
}

impl Replica {
    /// Whether it can be counted on: it is neither draining nor overdue.
    pub(crate) fn takes_work(&self) -> bool {
        !self.draining.load(Ordering::Relaxed) && !self.overdue.load(Ordering::Relaxed)
    }
}

/// An order to a replica's batcher.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Order {
    /// Another stream registered as this replica.
    Superseded,
    /// Its version is gone. The refusal is for the container's log.
    Dismiss(Refusal),
    /// The frontend is going: finish the batches in hand, then close.
    Drain,
}

#[derive(Debug)]
struct Attached {
    replica: Arc<Replica>,
    orders: mpsc::Sender<Order>,
}

/// All attached replicas, by version and replica id. So containers of different versions never collide, whatever ids
/// they choose. Locked when a replica comes or goes and when somebody looks, never by queries.
#[derive(Debug, Default)]
pub(crate) struct ReplicaTable {
    attached: Mutex<HashMap<(ModelId, ReplicaId), Attached>>,
    streams: AtomicU64,
    /// The starts of hung containers, and when each was given up, newest last.
    hung: Mutex<VecDeque<(String, Instant)>>,
    changed: watch::Sender<()>,
}

/// How long a container given up is remembered. By then it was stopped, or never will be.
const HUNG_REMEMBERED: Duration = Duration::from_secs(600);

/// The most hung containers remembered. Beyond this the oldest is forgotten.
const MOST_HUNG: usize = 64;

impl ReplicaTable {
    /// Adds a replica. An attached one of the same version and id is superseded. Returns its record and its orders.
    pub(crate) fn attach(
        &self,
        registration: Registration,
        start: String,
        peer: Option<SocketAddr>,
    ) -> (Arc<Replica>, mpsc::Receiver<Order>) {
        let (orders, receiver) = mpsc::channel(4);
        let replica = Arc::new(Replica {
            registration,
            start,
            peer,
            attached_at: Timestamp::now(),
            stream: self.streams.fetch_add(1, Ordering::Relaxed),
            draining: AtomicBool::new(false),
            overdue: AtomicBool::new(false),
            in_flight: AtomicU32::new(0),
            batches: AtomicU64::new(0),
            inputs: AtomicU64::new(0),
            times: BatchTimes::default(),
        });
        let before = self.attached.lock().insert(
            place(&replica),
            Attached {
                replica: replica.clone(),
                orders,
            },
        );
        if let Some(before) = before {
            // A full channel already holds an order that ends the stream.
            let _ = before.orders.try_send(Order::Superseded);
        }
        self.touch();
        (replica, receiver)
    }

    /// Removes a replica whose stream is over, unless another stream has taken its place.
    pub(crate) fn detach(&self, replica: &Replica) {
        let mut attached = self.attached.lock();
        let place = place(replica);
        if attached
            .get(&place)
            .is_some_and(|found| found.replica.stream == replica.stream)
        {
            attached.remove(&place);
        }
        drop(attached);
        self.touch();
    }

    /// Sends an order to every replica of the models that `which` picks.
    pub(crate) fn order(&self, which: impl Fn(&ModelId) -> bool, order: &Order) {
        for found in self.attached.lock().values() {
            if which(&found.replica.registration.model) {
                let _ = found.orders.try_send(order.clone());
            }
        }
    }

    /// All replicas, ordered by id.
    pub(crate) fn all(&self) -> Vec<Arc<Replica>> {
        let mut all: Vec<_> = self
            .attached
            .lock()
            .values()
            .map(|found| found.replica.clone())
            .collect();
        all.sort_by(|a, b| a.registration.replica.cmp(&b.registration.replica));
        all
    }

    /// How many replicas of a version can be counted on.
    pub(crate) fn ready(&self, model: &ModelId) -> usize {
        let attached = self.attached.lock();
        let of_it = attached
            .values()
            .filter(|found| found.replica.registration.model == *model);
        of_it.filter(|found| found.replica.takes_work()).count()
    }

    /// How many replicas of each version can be counted on.
    pub(crate) fn all_ready(&self) -> HashMap<ModelId, u32> {
        let mut ready = HashMap::new();
        for found in self.attached.lock().values() {
            if found.replica.takes_work() {
                *ready.entry(found.replica.registration.model.clone()).or_default() += 1;
            }
        }
        ready
    }

    /// Remembers a hung container: it is not taken in again, and the control role replaces it. A container without a
    /// start is not remembered. It was started by hand, and nobody would replace it.
    pub(crate) fn give_up(&self, start: &str) {
        if start.is_empty() {
            return;
        }
        let mut hung = self.hung.lock();
        hung.retain(|(known, _)| known != start);
        if hung.len() == MOST_HUNG {
            hung.pop_front();
        }
        hung.push_back((start.to_owned(), Instant::now()));
        drop(hung);
        self.touch();
    }

    /// The starts of the hung containers that are still remembered.
    pub(crate) fn hung(&self) -> Vec<String> {
        let mut hung = self.hung.lock();
        hung.retain(|(_, since)| since.elapsed() < HUNG_REMEMBERED);
        hung.iter().map(|(start, _)| start.clone()).collect()
    }

    /// Whether a container with this start was given up.
    pub(crate) fn is_given_up(&self, start: &str) -> bool {
        self.hung().iter().any(|hung| hung == start)
    }

    /// Wakes the receivers of [`Self::changed`].
    pub(crate) fn touch(&self) {
        self.changed.send_replace(());
    }

    /// Changes when a replica comes, goes, is given up, or changes in `takes_work`.
    pub(crate) fn changed(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }
}

fn place(replica: &Replica) -> (ModelId, ReplicaId) {
    let registration = &replica.registration;
    (registration.model.clone(), registration.replica.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registration(replica: &str) -> Registration {
        Registration {
            model: "m:1".parse().unwrap(),
            signature: skysail_proto::value::InputType::Doubles.into(),
            annotations: [].into(),
            replica: ReplicaId::new(replica).unwrap(),
            token: String::new(),
            hostname: String::new(),
            pid: 1,
            agent: String::new(),
            recent_batches: Vec::new(),
        }
    }

    #[test]
    fn replicas_that_drain_or_are_overdue_are_not_counted_on() {
        let table = ReplicaTable::default();
        let ready = || {
            let model = "m:1".parse().unwrap();
            let ready = table.ready(&model);
            assert_eq!(
                table.all_ready().get(&model).map_or(0, |&count| count as usize),
                ready
            );
            ready
        };
        let (first, _orders) = table.attach(registration("a"), "s".to_owned(), None);
        let (second, _more_orders) = table.attach(registration("b"), String::new(), None);
        assert_eq!(ready(), 2);
        first.draining.store(true, Ordering::Relaxed);
        assert_eq!(ready(), 1);
        second.overdue.store(true, Ordering::Relaxed);
        assert_eq!(ready(), 0);
    }

    #[test]
    fn a_replica_takes_the_place_of_its_versions_own_only() {
        let table = ReplicaTable::default();
        let (_first, mut orders) = table.attach(registration("a"), String::new(), None);
        let of_another = Registration {
            model: "other:1".parse().unwrap(),
            ..registration("a")
        };
        let (other, _other_orders) = table.attach(of_another, String::new(), None);
        assert!(orders.try_recv().is_err());
        assert_eq!(table.all().len(), 2);
        table.detach(&other);
        let (_second, _second_orders) = table.attach(registration("a"), String::new(), None);
        assert_eq!(orders.try_recv(), Ok(Order::Superseded));
        assert_eq!(table.all().len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_container_given_up_is_remembered_for_ten_minutes() {
        let table = ReplicaTable::default();
        let mut changed = table.changed();
        table.give_up("a");
        assert!(changed.has_changed().unwrap());
        changed.mark_unchanged();
        assert!(table.is_given_up("a") && !table.is_given_up("b"));
        tokio::time::advance(HUNG_REMEMBERED).await;
        assert_eq!(table.hung(), Vec::<String>::new());
    }

    #[test]
    fn one_started_by_hand_is_not_given_up_and_no_more_than_a_few_are_remembered() {
        let table = ReplicaTable::default();
        table.give_up("");
        assert!(table.hung().is_empty());
        for start in 0..2 * MOST_HUNG {
            table.give_up(&start.to_string());
        }
        assert_eq!(table.hung().len(), MOST_HUNG);
        assert!(table.is_given_up("127") && !table.is_given_up("0"));
    }
}

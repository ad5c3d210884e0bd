//! Flights: identical queries that are on their way at once share one task in the queue.
//!
//! Whoever asks first leads; others join until the flight lands. No task of the runtime drives it: the
//! batcher that answers the task lands the flight, which fills the cache, can no longer be joined, and wakes
//! its askers, in this order, so that whoever comes finds the flight or the output. Askers come and go by
//! themselves. The flight goes on without the first, and when all have gone it gives up its place in the
//! queue. From a container's hands there is nothing to be had back: there it flies on and fills the cache, so
//! a model slower than the objective is not asked the same for ever.
//!
//! Joining must not make a query worse off than asking by itself would:
//! - A flight waits in the queue at the earliest deadline of those who joined it.
//! - If it fails for that deadline, who has more time tries again. The flight that leads waits at the
//!   *latest* deadline of the failed one's askers, and is not hastened: were it as urgent as the next of
//!   them, it would be sacrificed under overload again and again, each time waking all the rest.
//! - Past its deadline it is not joined: it may be in the hands of a replica that hangs.
//!
//! Every other failure is shared: `model_error` would be the same; `queue_full` and `no_replica` are true of
//! all at that moment; and a query that was lost with its replicas may be what kills them, so its askers may
//! not send it to one replica after the other.
//!
//! Locks are taken in this order: a flight's place, the queue, the flights. None is held across an await.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::{Mutex, MutexGuard};
use skysail_core::query::{DefaultReason, Failure, Outcome};
use skysail_core::queue::Place;
use skysail_core::time::Instant;
use skysail_proto::value::Output;
use tokio::sync::Notify;

use super::{Brought, Key, PredictionCache};
use crate::clock::Clock;
use crate::model::queue::{Reply, TaskQueue};

/// The flights that can be joined.
#[derive(Default)]
pub(super) struct Flights(Mutex<HashMap<Key, Arc<Flight>, Brought>>);

impl Flights {
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.lock().len()
    }

    /// Lets nobody join any more.
    fn remove(&self, flight: &Flight) {
        self.remove_if(flight, || true);
    }

    /// Lets nobody join any more if `condition` holds, under the lock under which askers join.
    fn remove_if(&self, flight: &Flight, condition: impl FnOnce() -> bool) -> bool {
        let mut flights = self.0.lock();
        let is_there = flights
            .get(&flight.key)
            .is_some_and(|found| std::ptr::eq(&**found, flight));
        let holds = condition();
        if holds && is_there {
            flights.remove(&flight.key);
        }
        holds
    }
}

/// One task in the queue, or in a container's hands, and those who wait for its answer.
pub(super) struct Flight {
    key: Key,
    cache: Arc<PredictionCache>,
    /// Where it waits or waited; nowhere if it could not. Locked while it enters the queue or moves there.
    place: Mutex<Option<Place>>,
    /// The deadline of its place, in nanoseconds of the clock.
    deadline: AtomicU64,
    /// Those who wait. Grows under the lock of [`Flights`] only.
    askers: AtomicUsize,
    /// The latest deadline of all who joined, in nanoseconds of the clock.
    latest: AtomicU64,
    /// Whether it stays where it waits, because it was led after one that had failed for its deadline.
    is_patient: bool,
    outcome: OnceLock<Outcome>,
    landed: Notify,
}

/// The duty to answer a flight, held by its task. One that is dropped unanswered was lost.
pub struct Landing(Arc<Flight>);

/// An asker's place in a flight. Dropping it leaves the flight.
pub(super) struct Seat<'a> {
    flight: Arc<Flight>,
    queue: &'a TaskQueue,
}

/// How a query boards.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Try {
    /// As urgently as its own deadline asks.
    First,
    /// After a flight that failed for an earlier deadline, and whose askers' latest deadline was this.
    Again { latest: Instant },
}

/// One who asks.
pub struct Asker<'a> {
    /// For what.
    pub key: Key,
    /// By when it is to be answered.
    pub deadline: Instant,
    /// Where the model is asked.
    pub queue: &'a TaskQueue,
    /// The clock of the deadline.
    pub clock: Clock,
}

/// Boards the flight of an input; leads one if there is none. An output instead if one has just landed.
pub(super) fn board<'a>(
    cache: &Arc<PredictionCache>,
    asker: &Asker<'a>,
    how: Try,
) -> Result<Seat<'a>, Output> {
    let (key, queue) = (&asker.key, asker.queue);
    let mut flights = cache.flights.0.lock();
    let joinable = flights
        .get(key)
        .filter(|flight| asker.clock.now() < flight.deadline());
    if let Some(flight) = joinable.cloned() {
        flight.askers.fetch_add(1, Ordering::Relaxed);
        flight
            .latest
            .fetch_max(asker.deadline.as_nanos(), Ordering::Relaxed);
        drop(flights);
        if how == Try::First {
            cache.metrics.joins.inc();
            flight.hasten(queue, asker.deadline);
        }
        return Ok(Seat { flight, queue });
    }
    // Under the lock: a flight that landed since the cache was looked up has filled it before it was removed.
    if let Some(output) = cache.entries.get(key) {
        if how == Try::First {
            cache.metrics.hits.inc();
        }
        return Err(output);
    }
    let flight = Arc::new(Flight::of(cache, asker, how));
    // Nobody else knows the flight yet, so this waits for nobody. Who finds it waits until it has its place.
    let place = flight.place.lock();
    flights.insert(key.clone(), flight.clone());
    drop(flights);
    if how == Try::First {
        cache.metrics.misses.inc();
    }
    flight.enter(queue, asker.clock.now(), place);
    Ok(Seat { flight, queue })
}

impl Flight {
    fn of(cache: &Arc<PredictionCache>, asker: &Asker<'_>, how: Try) -> Self {
        let deadline = match how {
            Try::First => asker.deadline,
            Try::Again { latest } => latest.max(asker.deadline),
        };
        Self {
            key: asker.key.clone(),
            cache: cache.clone(),
            place: Mutex::new(None),
            deadline: AtomicU64::new(deadline.as_nanos()),
            askers: AtomicUsize::new(1),
            latest: AtomicU64::new(deadline.as_nanos()),
            is_patient: how != Try::First,
            outcome: OnceLock::new(),
            landed: Notify::new(),
        }
    }

    /// Takes its place in the queue; lands at once if there is none.
    fn enter(self: &Arc<Self>, queue: &TaskQueue, now: Instant, mut place: MutexGuard<'_, Option<Place>>) {
        let reply = Reply::Flight(Landing(self.clone()));
        match queue.enter(now, self.deadline(), self.key.input.clone(), reply) {
            Ok(entered) => *place = Some(entered),
            Err((failure, reply)) => reply.send(Err(failure)),
        }
    }

    fn deadline(&self) -> Instant {
        Instant::from_nanos(self.deadline.load(Ordering::Relaxed))
    }

    /// Moves to an earlier deadline, if it still waits.
    fn hasten(&self, queue: &TaskQueue, deadline: Instant) {
        if self.is_patient {
            return;
        }
        if let Some(place) = &mut *self.place.lock()
            && deadline < place.deadline()
        {
            *place = queue.hasten(*place, deadline);
            self.deadline
                .store(place.deadline().as_nanos(), Ordering::Relaxed);
        }
    }

    fn land(&self, outcome: Outcome) {
        if let Ok(output) = &outcome {
            self.cache.keep(&self.key, output);
        }
        self.cache.flights.remove(self);
        let _ = self.outcome.set(outcome);
        self.landed.notify_waiters();
    }

    fn is_unwanted(&self) -> bool {
        self.askers.load(Ordering::Relaxed) == 0
    }
}

impl Landing {
    /// Gives the one answer to all who wait.
    pub fn land(self, outcome: Outcome) {
        self.0.land(outcome);
    }

    /// Whether nobody waits for the answer.
    pub fn is_unwanted(&self) -> bool {
        self.0.is_unwanted()
    }
}

impl Drop for Landing {
    fn drop(&mut self) {
        if self.0.outcome.get().is_none() {
            self.0.land(Err(DefaultReason::ReplicaLost.into()));
        }
    }
}

impl fmt::Debug for Landing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Landing").field(&self.0.key.input).finish()
    }
}

impl Seat<'_> {
    /// Waits until the flight lands.
    pub(super) async fn outcome(&self) -> Outcome {
        // Before looking, so that a landing meanwhile is not missed.
        let landed = self.flight.landed.notified();
        if let Some(outcome) = self.flight.outcome.get() {
            return outcome.clone();
        }
        landed.await;
        let outcome = self.flight.outcome.get().cloned();
        outcome.expect("it is set before anybody is notified; this is a bug")
    }

    /// Gives up at the asker's deadline: the reason depends on how far the flight got.
    pub(super) fn expire(self) -> Failure {
        let place = *self.flight.place.lock();
        place.map_or_else(
            || DefaultReason::LateReply.into(),
            |place| self.queue.unanswered(place),
        )
    }

    /// How an asker that has this deadline tries again, if the flight failed for an earlier one.
    pub(super) fn next_try(&self, outcome: &Outcome, deadline: Instant) -> Option<Try> {
        let Err(failure) = outcome else {
            return None;
        };
        let is_of_its_deadline = matches!(
            failure.reason,
            DefaultReason::PredictedLate | DefaultReason::ExpiredInQueue | DefaultReason::LateReply
        );
        (is_of_its_deadline && self.flight.deadline() < deadline).then(|| Try::Again {
            latest: Instant::from_nanos(self.flight.latest.load(Ordering::Relaxed)),
        })
    }
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        let flight = &self.flight;
        let is_last = flight.askers.fetch_sub(1, Ordering::Relaxed) == 1;
        if !is_last || flight.outcome.get().is_some() {
            return;
        }
        let place = *flight.place.lock();
        let Some(place) = place else { return };
        self.queue.withdraw(place, || {
            flight.cache.flights.remove_if(flight, || flight.is_unwanted())
        });
    }
}

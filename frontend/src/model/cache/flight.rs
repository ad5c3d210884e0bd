//! Flights: identical queries that are on their way at once share one task in the queue.
//!
//! Whoever asks first leads; others join until the flight lands. No task of the runtime drives it: the
//! batcher that answers the task lands the flight, which fills the cache, can no longer be joined, and answers
//! its askers, in this order, so that whoever comes finds the flight or the output. Where there are many askers,
//! a task answers them in turns. Askers come and go by
//! themselves. The flight goes on without the first, and when all have gone it gives up its place in the
//! queue. From a container's hands there is nothing to be had back: there it flies on and fills the cache, so
//! a model slower than the objective is not asked the same for ever.
//!
//! Joining must not make a query worse off than asking by itself would:
//! - A flight waits in the queue at the earliest deadline of those who joined it.
//! - It counts as a query of whichever of their applications holds less of the queue.
//! - If it fails for that deadline, who has more time tries again. The flight that leads waits at the
//!   *latest* deadline of the failed one's askers, and is not hastened: were it as urgent as the next of
//!   them, it would be sacrificed under overload again and again, each time waking all the rest.
//! - Past its deadline it is not joined: it may be in the hands of a replica that hangs.
//!
//! Every other failure is shared: `model_error` would be the same; `queue_full` and `no_replica` are true of
//! all at that moment; and a query that was lost with its replicas may be what kills them, so its askers may
//! not send it to one replica after the other.
//!
//! Locks are taken in this order: a flight's place, the queue, the flights, a flight's askers. None is held across
//! an await.

use std::collections::HashMap;
use std::fmt;
use std::mem;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use skysail_core::query::{DefaultReason, Outcome};
use skysail_core::queue::{Claim, Place};
use skysail_core::time::Instant;
use skysail_proto::value::{Input, Output};
use smallvec::SmallVec;
use tokio::runtime::Handle;

use super::{Brought, Key, PredictionCache};
use crate::model::answers::{Answerer, Asked, expired};

/// So many askers of a flight are answered at once. With thousands of them other tasks have their turn in between:
/// each is a task to be run, and an answer to be written.
const ANSWERED_AT_ONCE: usize = 64;

/// The askers of one flight.
type Askers = SmallVec<[Answerer; 1]>;

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

/// Where flights wait: the queue, as far as a flight knows it.
pub(in crate::model) trait Places {
    /// Moves what still waits at a place to an earlier deadline; returns where it waits, or waited last.
    fn hasten(&self, place: Place, deadline: Instant) -> Place;

    /// Lets what still waits at a place be of another application, too.
    fn share(&self, place: Place, claim: Claim);

    /// Why what waits, or waited last, at a place is not answered yet.
    fn unanswered(&self, place: Place) -> DefaultReason;

    /// Takes out what still waits at a place if it is unwanted, which is asked under the queue's lock: it cannot be
    /// taken by a batch meanwhile.
    fn withdraw(&self, place: Place, is_unwanted: impl FnOnce() -> bool);
}

/// One task in the queue, or in a container's hands, and those who wait for its answer.
pub(in crate::model) struct Flight {
    key: Key,
    cache: Arc<PredictionCache>,
    led_at: Instant,
    /// Where it waits or waited; nowhere until it has entered the queue. Locked while it moves there.
    place: Mutex<Option<Place>>,
    /// The application for which it was led. Another's asker may have a better claim to its place.
    application: u64,
    /// The deadline of its place, in nanoseconds of the clock. Changes under the lock of `place` only.
    deadline: AtomicU64,
    /// How many wait. Grows under the lock of [`Flights`] only.
    wanted_by: AtomicUsize,
    /// Those to be answered, also those that wait no more. Grows under the lock of [`Flights`] only.
    askers: Mutex<Askers>,
    /// The latest deadline of all who joined, in nanoseconds of the clock.
    latest: AtomicU64,
    /// Whether it stays where it waits, because it was led after one that had failed for its deadline.
    is_patient: bool,
    outcome: OnceLock<Outcome>,
}

/// The duty to answer a flight, held by its task. One that is dropped unanswered was lost.
pub(crate) struct Landing(Arc<Flight>);

/// Whose answer it is: the first asker's, who led, or another's.
#[derive(Clone, Copy)]
enum Asker {
    Led,
    Joined,
}

/// How a query boards.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in crate::model) enum Try {
    /// As urgently as its own deadline asks.
    First,
    /// After a flight that failed for an earlier deadline, and whose askers' latest deadline was this.
    Again { latest: Instant },
}

/// One who asks.
pub(in crate::model) struct Boarding {
    /// For what.
    pub(in crate::model) key: Key,
    /// Where the answer goes to.
    pub(in crate::model) answerer: Answerer,
    pub(in crate::model) now: Instant,
    pub(in crate::model) how: Try,
}

/// What came of it.
pub(in crate::model) enum Boarded {
    /// This output has just landed: the answer is for the asker to give.
    Landed(Answerer, Output),
    /// An identical query is on its way.
    Joined(Arc<Flight>),
    /// There was none. A task that has [`Flight::landing`] is to enter the queue, and [`Flight::settle`] to be told
    /// where.
    Leads(Arc<Flight>),
}

impl Boarding {
    /// Boards the flight of the input; leads one if there is none.
    pub(in crate::model) fn board(self, cache: &Arc<PredictionCache>, queue: &impl Places) -> Boarded {
        let Asked { deadline, claim } = self.answerer.asked();
        let is_first = self.how == Try::First;
        let mut flights = cache.flights.0.lock();
        let joinable = flights
            .get(&self.key)
            .filter(|flight| self.now < flight.deadline());
        if let Some(flight) = joinable.cloned() {
            flight.wanted_by.fetch_add(1, Ordering::Relaxed);
            flight.latest.fetch_max(deadline.as_nanos(), Ordering::Relaxed);
            flight.askers.lock().push(self.answerer);
            drop(flights);
            if is_first {
                cache.metrics.joins.inc();
                flight.hasten(queue, deadline);
                flight.share(queue, claim);
            }
            return Boarded::Joined(flight);
        }
        // Under the lock: a flight that landed since the cache was looked up has filled it before it was removed.
        if let Some(output) = cache.entries.get(&self.key) {
            if is_first {
                cache.metrics.hits.inc();
            }
            return Boarded::Landed(self.answerer, output);
        }
        let flight = Arc::new(self.lead(cache));
        flights.insert(flight.key.clone(), flight.clone());
        drop(flights);
        if is_first {
            cache.metrics.misses.inc();
        }
        Boarded::Leads(flight)
    }

    fn lead(self, cache: &Arc<PredictionCache>) -> Flight {
        let own = self.answerer.asked();
        let deadline = match self.how {
            Try::First => own.deadline,
            Try::Again { latest } => latest.max(own.deadline),
        };
        Flight {
            key: self.key,
            cache: cache.clone(),
            led_at: self.now,
            place: Mutex::new(None),
            application: own.claim.application,
            deadline: AtomicU64::new(deadline.as_nanos()),
            wanted_by: AtomicUsize::new(1),
            askers: Mutex::new(SmallVec::from_buf([self.answerer])),
            latest: AtomicU64::new(deadline.as_nanos()),
            is_patient: self.how != Try::First,
            outcome: OnceLock::new(),
        }
    }
}

impl Flight {
    /// Its input.
    pub(in crate::model) fn key(&self) -> &Key {
        &self.key
    }

    /// The deadline of its place.
    pub(in crate::model) fn deadline(&self) -> Instant {
        Instant::from_nanos(self.deadline.load(Ordering::Relaxed))
    }

    /// What the model is asked.
    pub(in crate::model) fn input(&self) -> &Input {
        &self.key.input
    }

    /// The duty to answer it, for the one task that waits for it.
    pub(in crate::model) fn landing(self: &Arc<Self>) -> Landing {
        Landing(self.clone())
    }

    /// Takes note of its place in the queue; moves on if somebody more urgent has joined meanwhile.
    pub(in crate::model) fn settle(&self, queue: &impl Places, place: Place) {
        let mut settled = self.place.lock();
        *settled = Some(place);
        if self.deadline() < place.deadline() {
            self.move_to(queue, self.deadline(), &mut settled);
        }
    }

    /// Moves to an earlier deadline, if it still waits.
    fn hasten(&self, queue: &impl Places, deadline: Instant) {
        if self.is_patient || self.deadline() <= deadline {
            return;
        }
        let mut place = self.place.lock();
        if deadline < self.deadline() {
            self.move_to(queue, deadline, &mut place);
        }
    }

    /// Waits for another application, too.
    fn share(&self, queue: &impl Places, claim: Claim) {
        if self.application == claim.application {
            return;
        }
        if let Some(place) = *self.place.lock() {
            queue.share(place, claim);
        }
    }

    fn move_to(&self, queue: &impl Places, deadline: Instant, place: &mut Option<Place>) {
        let moved = place.map(|place| queue.hasten(place, deadline));
        *place = moved;
        let deadline = moved.map_or(deadline, Place::deadline);
        self.deadline.store(deadline.as_nanos(), Ordering::Relaxed);
    }

    fn land(self: &Arc<Self>, outcome: Outcome) {
        if let Ok(output) = &outcome.prediction {
            self.cache.keep(&self.key, output);
        }
        self.cache.flights.remove(self);
        let _ = self.outcome.set(outcome);
        // Nobody joins any more.
        let askers = mem::take(&mut *self.askers.lock());
        match Handle::try_current() {
            Ok(runtime) if askers.len() > ANSWERED_AT_ONCE => {
                runtime.spawn(self.clone().answer_in_turns(askers));
            }
            _ => self.answer(askers, Asker::Led),
        }
    }

    async fn answer_in_turns(self: Arc<Self>, askers: Askers) {
        let mut askers = askers.into_iter();
        let mut next = Asker::Led;
        while askers.len() > 0 {
            self.answer(askers.by_ref().take(ANSWERED_AT_ONCE), next);
            next = Asker::Joined;
            tokio::task::yield_now().await;
        }
    }

    /// Answers askers, but for those who try again. The first of them is `next`, all others have joined.
    fn answer(&self, askers: impl IntoIterator<Item = Answerer>, mut next: Asker) {
        let Some(outcome) = self.outcome.get() else {
            return;
        };
        for asker in askers {
            match mem::replace(&mut next, Asker::Joined) {
                _ if self.failed_too_early_for(outcome, asker.asked().deadline) => {
                    asker.try_again(outcome.clone(), self.latest());
                }
                Asker::Led => asker.send(outcome.clone()),
                Asker::Joined => asker.send(outcome.clone().joined()),
            }
        }
    }

    /// Whether it failed for a deadline that is earlier than this one.
    fn failed_too_early_for(&self, outcome: &Outcome, deadline: Instant) -> bool {
        use DefaultReason::{ExpiredInQueue, LateReply, PredictedLate};
        let Err(failure) = &outcome.prediction else {
            return false;
        };
        let is_of_its_deadline = matches!(failure.reason, PredictedLate | ExpiredInQueue | LateReply);
        is_of_its_deadline && self.deadline() < deadline
    }

    fn latest(&self) -> Instant {
        Instant::from_nanos(self.latest.load(Ordering::Relaxed))
    }

    /// What becomes of an asker at its own deadline: the reason depends on how far the flight got. It may have
    /// landed, with the asker's turn still to come.
    pub(in crate::model) fn expire(&self, queue: &impl Places, now: Instant) -> Outcome {
        if let Some(outcome) = self.outcome.get() {
            return outcome.clone().joined();
        }
        let place = *self.place.lock();
        let reason = place.map_or(DefaultReason::LateReply, |place| queue.unanswered(place));
        expired(reason, self.led_at, now)
    }

    /// An asker waits no more. When all have gone, the flight gives up its place in the queue.
    pub(in crate::model) fn leave(&self, queue: &impl Places) {
        let is_last = self.wanted_by.fetch_sub(1, Ordering::Relaxed) == 1;
        if !is_last || self.outcome.get().is_some() {
            return;
        }
        let place = *self.place.lock();
        let Some(place) = place else { return };
        queue.withdraw(place, || {
            self.cache.flights.remove_if(self, || self.is_unwanted())
        });
    }

    fn is_unwanted(&self) -> bool {
        self.wanted_by.load(Ordering::Relaxed) == 0
    }
}

impl Landing {
    /// Gives the one answer to all who wait.
    pub(crate) fn land(self, outcome: Outcome) {
        self.0.land(outcome);
    }

    /// Whether nobody waits for the answer.
    pub(crate) fn is_unwanted(&self) -> bool {
        self.0.is_unwanted()
    }
}

impl Drop for Landing {
    fn drop(&mut self) {
        if self.0.outcome.get().is_none() {
            self.0.land(DefaultReason::ReplicaLost.into());
        }
    }
}

impl fmt::Debug for Landing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Landing").field(&self.0.key.input).finish()
    }
}

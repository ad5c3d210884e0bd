//! Flights: identical queries that are on their way at once share one task in the queue.
//!
//! The first asker leads; others join until the flight lands. No task of the runtime drives a flight. The batcher
//! that answers the task lands the flight in this order: it fills the cache, closes the flight to others, and answers
//! the askers. So a new asker finds the flight or the output. If there are many askers, a spawned task answers them
//! in turns.
//!
//! Askers come and go by themselves. The flight goes on without its first asker. When all have gone, it gives up its
//! place in the queue. A flight that a container holds cannot be taken back: it goes on and fills the cache. So a
//! model slower than the objective is not asked the same input for ever.
//!
//! Joining must not make a query worse off than asking by itself would:
//! - A flight waits in the queue at the earliest deadline of those who joined it.
//! - It counts as a query of the application, among its askers', that holds the least of the queue.
//! - If it fails for that deadline, askers with more time try again. Their new flight waits at the *latest* deadline
//!   of the failed flight's askers, and is not hastened. If it waited at the next asker's deadline, overload would
//!   sacrifice it again and again, each time waking all the others.
//! - After its deadline nobody joins it: a replica that hangs may hold it.
//!
//! All other failures are shared. `model_error` would come again. `queue_full` and `no_replica` hold for all askers
//! at that moment. A query that was lost with its replicas may be what kills them. So its askers may not send it to
//! one replica after the other.
//!
//! Lock order: a flight's place, the queue, the flights, a flight's askers. No lock is held across an await.

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

/// How many askers of a flight are answered at once. Each of them is a task to be run, and an answer to be written, and
/// other tasks have their turn in between. A query of another application takes several turns, so chunks are small: with
/// 64 its p99 beside 5,000 askers was 50 ms.
const ANSWERED_AT_ONCE: usize = 8;

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

    /// Closes the flight to new askers.
    fn remove(&self, flight: &Flight) {
        self.remove_if(flight, || true);
    }

    /// Closes the flight to new askers if `condition` holds, and returns whether it does. Askers join under the same
    /// lock.
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

/// The queue, as far as a flight knows it.
pub(in crate::model) trait Places {
    /// Moves a task that still waits at `place` to an earlier deadline. Returns where it waits, or waited last.
    fn hasten(&self, place: Place, deadline: Instant) -> Place;

    /// Lets a task that still waits at `place` count for another application, too.
    fn share(&self, place: Place, claim: Claim);

    /// Why the task that waits, or waited last, at `place` is not answered yet.
    fn unanswered(&self, place: Place) -> DefaultReason;

    /// Removes a task that still waits at `place`, if `is_unwanted`. That is asked under the queue's lock, so no
    /// batch takes the task meanwhile.
    fn withdraw(&self, place: Place, is_unwanted: impl FnOnce() -> bool);
}

/// One task in the queue or in a container's hands, and the askers that wait for its answer.
pub(in crate::model) struct Flight {
    key: Key,
    cache: Arc<PredictionCache>,
    led_at: Instant,
    /// Where it waits or waited; `None` until it has entered the queue. Locked while it moves there.
    place: Mutex<Option<Place>>,
    /// The application of the first asker. Another application may have a better claim to its place.
    application: u64,
    /// The deadline of its place, in nanoseconds of the clock. Changes under the lock of `place` only.
    deadline: AtomicU64,
    /// How many askers wait. Grows under the lock of [`Flights`] only.
    wanted_by: AtomicUsize,
    /// The askers to answer, including those that wait no more. Grows under the lock of [`Flights`] only.
    askers: Mutex<Askers>,
    /// The latest deadline of all askers, in nanoseconds of the clock.
    latest: AtomicU64,
    /// Whether it is not hastened, because it was led after a flight that had failed for its deadline.
    is_patient: bool,
    outcome: OnceLock<Outcome>,
}

/// The duty to answer a flight, held by its task. Dropping it unanswered lands `ReplicaLost`.
pub(crate) struct Landing(Arc<Flight>);

/// Whether an answer is for the first asker, who led, or for one who joined.
#[derive(Clone, Copy)]
enum Asker {
    Led,
    Joined,
}

/// How urgently a query boards.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in crate::model) enum Try {
    /// At its own deadline.
    First,
    /// After a flight that failed for an earlier deadline. `latest` is the latest deadline of its askers.
    Again { latest: Instant },
}

/// A query that is to board a flight.
pub(in crate::model) struct Boarding {
    /// Its input, with the hash.
    pub(in crate::model) key: Key,
    /// Where its answer goes.
    pub(in crate::model) answerer: Answerer,
    pub(in crate::model) now: Instant,
    pub(in crate::model) how: Try,
}

/// How a query boarded.
pub(in crate::model) enum Boarded {
    /// This output has just landed. The caller answers with it.
    Landed(Answerer, Output),
    /// An identical query is on its way.
    Joined(Arc<Flight>),
    /// There was no flight, so the query leads a new one. A task with [`Flight::landing`] must enter the queue, and
    /// [`Flight::settle`] must be told its place.
    Leads(Arc<Flight>),
}

impl Boarding {
    /// Boards the flight of the input, or leads a new one.
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
        // Still under the lock: a flight that landed after the first look-up filled the cache before it was removed.
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
    /// Its input, with the hash.
    pub(in crate::model) fn key(&self) -> &Key {
        &self.key
    }

    /// The deadline of its place.
    pub(in crate::model) fn deadline(&self) -> Instant {
        Instant::from_nanos(self.deadline.load(Ordering::Relaxed))
    }

    /// The input that the model is asked.
    pub(in crate::model) fn input(&self) -> &Input {
        &self.key.input
    }

    /// The duty to answer it, for its one task.
    pub(in crate::model) fn landing(self: &Arc<Self>) -> Landing {
        Landing(self.clone())
    }

    /// Records its place in the queue. Moves on if a more urgent asker has joined meanwhile.
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

    /// Counts for another application, too.
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

    /// Answers askers, except those who try again. `next` is for the first of them; all others have joined.
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

    /// Whether it failed because its deadline is earlier than `deadline`.
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

    /// The outcome of an asker at its own deadline. The reason depends on how far the flight got. It may have landed
    /// before the asker's turn.
    pub(in crate::model) fn expire(&self, queue: &impl Places, now: Instant) -> Outcome {
        if let Some(outcome) = self.outcome.get() {
            return outcome.clone().joined();
        }
        let place = *self.place.lock();
        let reason = place.map_or(DefaultReason::LateReply, |place| queue.unanswered(place));
        expired(reason, self.led_at, now)
    }

    /// One asker waits no more. When all have gone, the flight gives up its place in the queue.
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
    /// Gives the one answer to all askers.
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

//! Queries waiting for one model version, and the two ways a replica's batcher is woken.
//!
//! Who is let in, taken and given up is decided by `core`'s [`WaitingRoom`] and [`Dispatcher`]; here are the lock, the
//! wake-ups, and the channels that answers go through.

use parking_lot::Mutex;
use skysail_core::batch::Restraint;
use skysail_core::dispatch::{Dispatcher, Loss, Step, Turn};
use skysail_core::query::{BatchRun, DefaultReason, Outcome, Prediction};
use skysail_core::queue::{Bounds, Claim, Entrant, Place, Placed};
use skysail_core::time::Instant;
use skysail_core::waiting_room::{Refused, WaitingRoom};
use skysail_proto::value::Input;
use smallvec::SmallVec;
use tokio::sync::Notify;
use tokio::sync::futures::Notified;

pub(crate) use skysail_core::waiting_room::{Admission, Unanswered};

use super::answers::Answerer;
use super::cache::flight::{Landing, Places};

/// Whom a task's answer goes to.
#[derive(Debug)]
pub(crate) enum Reply {
    /// The one who asked.
    Asker(Answerer),
    /// All who asked the same.
    Flight(Landing),
}

impl Reply {
    /// Gives the one answer. That nobody may be waiting for it any more is no error.
    pub(crate) fn send(self, outcome: Outcome) {
        match self {
            Self::Asker(asker) => asker.send(outcome),
            Self::Flight(landing) => landing.land(outcome),
        }
    }

    /// Whether nobody waits for the answer any more.
    pub(crate) fn is_closed(&self) -> bool {
        match self {
            Self::Asker(asker) => asker.is_unwanted(),
            Self::Flight(landing) => landing.is_unwanted(),
        }
    }
}

/// A query on its way to a replica.
#[derive(Debug)]
pub(crate) struct Task {
    /// Its input.
    pub input: Input,
    /// When it was first let into the queue, or refused.
    asked_at: Instant,
    reply: Reply,
}

impl Task {
    /// The query of this input, which is asked now and whose answer goes to `reply`.
    pub(crate) fn new(input: Input, reply: Reply, now: Instant) -> Self {
        Self {
            input,
            asked_at: now,
            reply,
        }
    }

    /// The same, to wait until then.
    pub(crate) fn until(self, deadline: Instant, claim: Claim) -> Entrant<Self> {
        Entrant {
            deadline,
            claim,
            bytes: self.input.data().len(),
            task: self,
        }
    }

    /// Gives the one answer. That nobody may be waiting for it any more is no error.
    pub(crate) fn end(self, outcome: Outcome) {
        self.reply.send(outcome);
    }

    /// Gives the answer that a batch brought, which had left at `sent_at`.
    pub(crate) fn answer_by(self, batch: BatchRun, sent_at: Instant, prediction: Prediction) {
        let queued = sent_at.saturating_since(self.asked_at);
        self.end(Outcome::of_batch(prediction, queued, batch));
    }

    /// Says that it is given up while it waits.
    pub(crate) fn give_up(self, reason: DefaultReason, now: Instant) {
        let waited = now.saturating_since(self.asked_at);
        self.end(Outcome::from(reason).after(waited));
    }

    /// Whether nobody waits for the answer any more.
    pub(crate) fn is_abandoned(&self) -> bool {
        self.reply.is_closed()
    }
}

/// Queries in a replica's hands, each with its place in the queue.
pub(crate) type Batch = Vec<Placed<Task>>;

/// The queue of one model version, shared by whoever asks and by its replicas' batchers.
///
/// The lock is held for a few map operations and never across an await; it is what makes "taken by a
/// batch" and "given up by its asker" exclude each other.
#[derive(Debug)]
pub(crate) struct TaskQueue {
    room: Mutex<WaitingRoom<Task>>,
    /// Wakes one batcher that holds a credit.
    work: Notify,
    /// Wakes all batchers without one, to announce demand.
    demand: Notify,
}

/// What is asked of a version.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Load {
    /// Queries that came so far, also those that were refused at once.
    pub arrived: u64,
    /// Queries that wait.
    pub queued: usize,
}

impl TaskQueue {
    /// An empty queue.
    pub(crate) fn new(bounds: Bounds, admission: Admission) -> Self {
        Self {
            room: Mutex::new(WaitingRoom::new(bounds, admission)),
            work: Notify::new(),
            demand: Notify::new(),
        }
    }

    /// A replica takes batches from here from now on.
    pub(crate) fn join(&self, stream: u64, now: Instant) {
        self.room.lock().join(stream, now);
    }

    /// It does so no more. What was left for it is for the others again.
    pub(crate) fn leave(&self, stream: u64) {
        self.room.lock().leave(stream);
        self.work.notify_one();
        self.demand.notify_waiters();
    }

    /// Lets the others see what a replica that has just come knows of itself.
    pub(crate) fn introduce(&self, dispatcher: &Dispatcher<Task>, now: Instant) {
        dispatcher.introduce(&mut self.room.lock(), now);
    }

    /// Lets tasks wait, each unless the queue is full or no replica can answer it in time: that is known, and for the
    /// caller to say, at once. What gives way to them is answered here. One lock and one wake-up are for all.
    pub(crate) fn enter(
        &self,
        now: Instant,
        entrants: impl IntoIterator<Item = Entrant<Task>>,
    ) -> SmallVec<[Result<Place, Refused<Task>>; 1]> {
        let mut is_any_first = false;
        let (entered, displaced) = {
            let mut room = self.room.lock();
            let enter = |entrant| {
                let seat = room.admit(now, entrant)?;
                is_any_first |= seat.is_first;
                Ok(seat.place)
            };
            let entered = entrants.into_iter().map(enter).collect::<SmallVec<_>>();
            (entered, room.displaced())
        };
        for Placed { task, .. } in displaced {
            task.give_up(DefaultReason::QueueFull, now);
        }
        if entered.iter().any(Result::is_ok) {
            self.work.notify_one();
        }
        if is_any_first {
            self.demand.notify_waiters();
        }
        entered
    }

    /// Lets tasks wait again that were not answered, each in its old place, unless nobody waits for them any more.
    pub(crate) fn put_back(&self, batch: impl IntoIterator<Item = Placed<Task>>, why: Unanswered) {
        let wanted = batch.into_iter().filter(|placed| !placed.task.is_abandoned());
        let given_up = self.room.lock().put_back(wanted, why);
        for Placed { task, .. } in given_up {
            task.end(DefaultReason::ReplicaLost.into());
        }
        self.work.notify_one();
        self.demand.notify_waiters();
    }

    /// What the replica's batcher is to do now. What is given up for it is answered here, and another batcher is
    /// woken if there is work for it.
    pub(crate) fn step(&self, dispatcher: &mut Dispatcher<Task>, now: Instant) -> Step {
        if !dispatcher.looks_at_the_room() {
            return Step::Wait;
        }
        let Turn {
            step,
            given_up,
            wake_another,
        } = dispatcher.step(&mut self.room.lock(), now);
        for placed in given_up {
            let reason = placed.given_up(now);
            placed.task.give_up(reason, now);
        }
        if wake_another {
            self.work.notify_one();
        }
        step
    }

    /// Lets the others see what is expected of a replica that has answered a batch.
    pub(crate) fn report(&self, dispatcher: &mut Dispatcher<Task>, now: Instant) {
        dispatcher.report(&mut self.room.lock(), now);
    }

    /// Whether the inputs of a batch that failed as a whole are worth another try, in smaller batches.
    pub(crate) fn batch_failed(&self, inputs: usize, now: Instant) -> bool {
        self.room.lock().batch_failed(inputs, now)
    }

    /// The limit to the size of batches that stands because one failed, if one does.
    pub(crate) fn restraint(&self, now: Instant) -> Option<Restraint> {
        self.room.lock().restraint(now)
    }

    /// Takes all from a replica that is lost; [`Self::put_back`] is to follow.
    pub(crate) fn lose(&self, dispatcher: &mut Dispatcher<Task>, now: Instant) -> Loss<Task> {
        dispatcher.lose(&mut self.room.lock(), now)
    }

    /// Hands on what a replica has had for too long, if others are ready for it; returns how many queries.
    pub(crate) fn hand_over(&self, dispatcher: &mut Dispatcher<Task>, others_ready: usize) -> usize {
        let batch = dispatcher.hand_over(&mut self.room.lock(), others_ready);
        let queries = batch.len();
        if queries > 0 {
            self.put_back(batch, Unanswered::ReplicaLost);
        }
        queries
    }

    /// Answers all that waits, and whatever comes: the version is gone.
    pub(crate) fn close(&self) {
        let waiting = self.room.lock().close();
        for Placed { task, .. } in waiting {
            task.end(DefaultReason::NoReplica.into());
        }
    }

    /// Completes when there may be work for a batcher that holds a credit.
    pub(crate) fn work(&self) -> Notified<'_> {
        self.work.notified()
    }

    /// Completes when a batcher without a credit should [`Self::step`] again, if what waits changed after this
    /// was called: call it before.
    pub(crate) fn demand(&self) -> Notified<'_> {
        self.demand.notified()
    }

    /// What is asked of it.
    pub(crate) fn load(&self) -> Load {
        let room = self.room.lock();
        Load {
            arrived: room.arrived(),
            queued: room.len(),
        }
    }

    /// How many wait.
    pub(crate) fn len(&self) -> usize {
        self.room.lock().len()
    }

    /// Takes out what still waits at these places; says of each why it is not answered yet.
    pub(crate) fn leave_places(
        &self,
        now: Instant,
        places: SmallVec<[Place; 1]>,
    ) -> SmallVec<[DefaultReason; 1]> {
        if places.is_empty() {
            return SmallVec::new();
        }
        let mut left: SmallVec<[Option<Placed<Task>>; 1]> = SmallVec::with_capacity(places.len());
        let mut room = self.room.lock();
        let leave = |place| {
            let (reason, task) = room.leave_place(now, place);
            left.push(task);
            reason
        };
        let reasons = places.into_iter().map(leave).collect();
        // Tasks are dropped outside of the lock.
        drop(room);
        reasons
    }
}

impl Places for TaskQueue {
    fn hasten(&self, place: Place, deadline: Instant) -> Place {
        let hastened = self.room.lock().hasten(place, deadline);
        let Some(seat) = hastened else { return place };
        if seat.is_first {
            self.demand.notify_waiters();
        }
        seat.place
    }

    fn share(&self, place: Place, claim: Claim) {
        self.room.lock().share(place, claim);
    }

    fn unanswered(&self, place: Place) -> DefaultReason {
        self.room.lock().unanswered(place)
    }

    fn withdraw(&self, place: Place, is_unwanted: impl FnOnce() -> bool) {
        let withdrawn = {
            let mut room = self.room.lock();
            if !room.holds(place) || !is_unwanted() {
                return;
            }
            room.remove(place)
        };
        drop(withdrawn);
    }
}

#[cfg(test)]
pub(super) mod tests;

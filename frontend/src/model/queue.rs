//! Queries waiting for one model version, and the two ways a replica's batcher is woken.
//!
//! `core`'s [`WaitingRoom`] and [`Dispatcher`] decide which queries are let in, taken and given up. This module has
//! the lock, the wake-ups, and the channels for answers.

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

/// Where a task's answer goes.
#[derive(Debug)]
pub(crate) enum Reply {
    /// To one row, of a version without a cache.
    Asker(Answerer),
    /// To all askers of a flight.
    Flight(Landing),
}

impl Reply {
    /// Gives the one answer. It is no error if nobody waits for it any more.
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
    /// The query's input.
    pub input: Input,
    /// When it was first let into the queue, or refused.
    asked_at: Instant,
    reply: Reply,
}

impl Task {
    /// A query that is asked at `now` and whose answer goes to `reply`.
    pub(crate) fn new(input: Input, reply: Reply, now: Instant) -> Self {
        Self {
            input,
            asked_at: now,
            reply,
        }
    }

    /// The task, to wait until `deadline`.
    pub(crate) fn until(self, deadline: Instant, claim: Claim) -> Entrant<Self> {
        Entrant {
            deadline,
            claim,
            bytes: self.input.size(),
            task: self,
        }
    }

    /// Gives the one answer. It is no error if nobody waits for it any more.
    pub(crate) fn end(self, outcome: Outcome) {
        self.reply.send(outcome);
    }

    /// Answers with the batch's `prediction`. The batch was sent at `sent_at`.
    pub(crate) fn answer_by(self, batch: BatchRun, sent_at: Instant, prediction: Prediction) {
        let queued = sent_at.saturating_since(self.asked_at);
        self.end(Outcome::of_batch(prediction, queued, batch));
    }

    /// Answers that the query was given up while it waited.
    pub(crate) fn give_up(self, reason: DefaultReason, now: Instant) {
        let waited = now.saturating_since(self.asked_at);
        self.end(Outcome::from(reason).after(waited));
    }

    /// Whether nobody waits for the answer any more.
    pub(crate) fn is_abandoned(&self) -> bool {
        self.reply.is_closed()
    }
}

/// Queries that a replica holds, each with its place in the queue.
pub(crate) type Batch = Vec<Placed<Task>>;

/// The queue of one model version, shared by its queries and its replicas' batchers.
///
/// The lock is held for a few map operations and never across an await. Under the lock a task is either taken by a
/// batch or given up by its asker, never both.
#[derive(Debug)]
pub(crate) struct TaskQueue {
    room: Mutex<WaitingRoom<Task>>,
    /// Wakes one batcher that holds a credit.
    work: Notify,
    /// Wakes all batchers without a credit, to announce demand.
    demand: Notify,
}

/// The load of one version.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Load {
    /// Queries that came so far, including those refused at once.
    pub arrived: u64,
    /// Queries that wait now.
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

    /// Adds a replica, which takes batches from here from now on.
    pub(crate) fn join(&self, stream: u64, now: Instant) {
        self.room.lock().join(stream, now);
    }

    /// Removes a replica. Queries that were left for it are for the other replicas again.
    pub(crate) fn leave(&self, stream: u64) {
        self.room.lock().leave(stream);
        self.work.notify_one();
        self.demand.notify_waiters();
    }

    /// Shows the other replicas what a new replica has already learned of its batch times.
    pub(crate) fn introduce(&self, dispatcher: &Dispatcher<Task>, now: Instant) {
        dispatcher.introduce(&mut self.room.lock(), now);
    }

    /// Lets tasks wait. A task is refused at once if the queue is full or no replica can answer it in time. The
    /// caller answers refused tasks; tasks displaced by the new ones are answered here. All entrants share one lock
    /// and one wake-up.
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

    /// Puts unanswered tasks back in their old places, except tasks that nobody waits for. Tasks that get no other
    /// try are answered `ReplicaLost`.
    pub(crate) fn put_back(&self, batch: impl IntoIterator<Item = Placed<Task>>, why: Unanswered) {
        let wanted = batch.into_iter().filter(|placed| !placed.task.is_abandoned());
        let given_up = self.room.lock().put_back(wanted, why);
        for Placed { task, .. } in given_up {
            task.end(DefaultReason::ReplicaLost.into());
        }
        self.work.notify_one();
        self.demand.notify_waiters();
    }

    /// What the replica's batcher must do now. Queries given up meanwhile are answered here. Another batcher is woken
    /// if there is work for it.
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

    /// Shows the other replicas what to expect of a replica that has answered a batch.
    pub(crate) fn report(&self, dispatcher: &mut Dispatcher<Task>, now: Instant) {
        dispatcher.report(&mut self.room.lock(), now);
    }

    /// Whether to try the inputs of a batch that failed as a whole again, in smaller batches.
    pub(crate) fn batch_failed(&self, inputs: usize, now: Instant) -> bool {
        self.room.lock().batch_failed(inputs, now)
    }

    /// The limit on batch sizes that a failed batch has set, while it holds.
    pub(crate) fn restraint(&self, now: Instant) -> Option<Restraint> {
        self.room.lock().restraint(now)
    }

    /// Takes all queries from a lost replica. The caller must then [`Self::put_back`] them.
    pub(crate) fn lose(&self, dispatcher: &mut Dispatcher<Task>, now: Instant) -> Loss<Task> {
        dispatcher.lose(&mut self.room.lock(), now)
    }

    /// Hands on the queries of an overdue replica, if `others_ready` is not 0. Returns how many they are.
    pub(crate) fn hand_over(&self, dispatcher: &mut Dispatcher<Task>, others_ready: usize) -> usize {
        let batch = dispatcher.hand_over(&mut self.room.lock(), others_ready);
        let queries = batch.len();
        if queries > 0 {
            self.put_back(batch, Unanswered::ReplicaLost);
        }
        queries
    }

    /// Answers all waiting queries `NoReplica` and refuses later ones: the version is gone.
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

    /// Completes when a batcher without a credit must [`Self::step`] again. Only changes after this call count, so
    /// call it before `step`.
    pub(crate) fn demand(&self) -> Notified<'_> {
        self.demand.notified()
    }

    /// How many queries came, and how many wait.
    pub(crate) fn load(&self) -> Load {
        let room = self.room.lock();
        Load {
            arrived: room.arrived(),
            queued: room.len(),
        }
    }

    /// How many queries wait.
    pub(crate) fn len(&self) -> usize {
        self.room.lock().len()
    }

    /// Removes the tasks that still wait at these places. Returns for each place why it is not answered yet.
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
        // Drop the tasks outside of the lock.
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

//! Queries waiting for one model version, and the two ways a replica's batcher is woken.

use std::time::Duration;

use parking_lot::Mutex;
use skysail_core::arrivals::Arrivals;
use skysail_core::batch::Other;
use skysail_core::query::{DefaultReason, Failure, Outcome};
use skysail_core::queue::{Bounds, DeadlineQueue, Deadlines, Full, Place};
use skysail_core::time::Instant;
use skysail_proto::value::Input;
use tokio::sync::futures::Notified;
use tokio::sync::{Notify, oneshot};

use super::cache::flight::Landing;

mod members;
mod taker;

pub use members::Admission;
use members::Members;
pub use taker::{Taken, Taker};

/// Whom a task's answer goes to.
#[derive(Debug)]
pub enum Reply {
    /// The one who asked.
    Asker(oneshot::Sender<Outcome>),
    /// All who asked the same.
    Flight(Landing),
}

impl Reply {
    /// Gives the one answer. That nobody may be waiting for it any more is no error.
    pub fn send(self, outcome: Outcome) {
        match self {
            Self::Asker(asker) => drop(asker.send(outcome)),
            Self::Flight(landing) => landing.land(outcome),
        }
    }

    /// Whether nobody waits for the answer any more.
    pub fn is_closed(&self) -> bool {
        match self {
            Self::Asker(asker) => asker.is_closed(),
            Self::Flight(landing) => landing.is_unwanted(),
        }
    }
}

/// A query on its way to a replica.
#[derive(Debug)]
pub struct Task {
    /// Its place in the queue, which it returns to if its replica is lost.
    place: Place,
    /// Its input.
    pub input: Input,
    /// Whether a replica was lost with it before.
    lost_before: bool,
    reply: Reply,
}

/// A query in the queue.
#[derive(Debug)]
struct Waiting {
    input: Input,
    lost_before: bool,
    reply: Reply,
}

impl Waiting {
    /// Why it is given up here: because its deadline has passed, or because it would.
    fn given_up(&self, is_past: bool) -> Failure {
        let reason = match (self.lost_before, is_past) {
            (true, _) => DefaultReason::ReplicaLost,
            (false, true) => DefaultReason::ExpiredInQueue,
            (false, false) => DefaultReason::PredictedLate,
        };
        reason.into()
    }
}

impl Task {
    fn taken(place: Place, waiting: Waiting) -> Self {
        let Waiting {
            input,
            lost_before,
            reply,
        } = waiting;
        Self {
            place,
            input,
            lost_before,
            reply,
        }
    }

    /// When its answer is due.
    pub fn deadline(&self) -> Instant {
        self.place.deadline()
    }

    /// Gives the one answer. That nobody may be waiting for it any more is no error.
    pub fn answer(self, outcome: Outcome) {
        self.reply.send(outcome);
    }

    /// Whether nobody waits for the answer any more.
    pub fn is_abandoned(&self) -> bool {
        self.reply.is_closed()
    }
}

/// What happened to a batch that comes back unanswered.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Unanswered {
    /// It never left: its queries lose nothing.
    NotSent,
    /// Its replica was lost with it, or has it far longer than expected. A query gets a second try, no third:
    /// a poison query would otherwise kill every replica in turn.
    ReplicaLost,
}

/// The queue of one model version, shared by whoever asks and by its replicas' batchers.
///
/// The lock is held for a few map operations and never across an await; it is what makes "taken by a
/// batch" and "given up by its asker" exclude each other.
#[derive(Debug)]
pub struct TaskQueue {
    waiting: Mutex<State>,
    /// Whether what no replica can answer in time is refused on arrival.
    admission: Admission,
    /// Wakes one batcher that holds a credit.
    work: Notify,
    /// Wakes all batchers without one, to announce demand.
    demand: Notify,
}

/// What is asked of a version.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Load {
    /// Queries that came so far, also those that were refused at once.
    pub arrived: u64,
    /// Queries that wait.
    pub queued: usize,
}

#[derive(Debug)]
struct State {
    queue: DeadlineQueue<Waiting>,
    arrivals: Arrivals,
    /// The replicas that take from here.
    members: Members,
    /// Its version is gone: nobody will take anything from here.
    closed: bool,
    /// Whether something came since a replica that took nothing last woke another.
    changed: bool,
}

impl State {
    /// Whether a replica that leaves all to others shall pass on what woke it: another may be waiting for it.
    /// Once for what came: it may be the only one that waits, and would wake itself for ever.
    fn passes_on(&mut self, stream: u64, now: Instant) -> bool {
        let changed = std::mem::take(&mut self.changed);
        changed && !self.queue.is_empty() && self.members.is_another_idle(stream, now)
    }
}

/// A place in the queue and the promise of an answer. Dropping it frees the place.
#[derive(Debug)]
pub struct Ticket<'a> {
    queue: &'a TaskQueue,
    place: Place,
    answer: oneshot::Receiver<Outcome>,
}

impl Ticket<'_> {
    /// Waits for the answer; `None` if the task was dropped unanswered, which only a batcher that
    /// panicked does.
    pub async fn answer(&mut self) -> Option<Outcome> {
        (&mut self.answer).await.ok()
    }

    /// Gives up at the deadline: the reason depends on how far the task got.
    pub fn expire(self) -> Failure {
        match self.queue.waiting.lock().queue.remove(self.place) {
            Some(waiting) => waiting.given_up(true),
            None => DefaultReason::LateReply.into(),
        }
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        // Answered tasks have left the queue; only an asker that hung up leaves one behind.
        if self.answer.is_empty() && !self.answer.is_terminated() {
            self.queue.waiting.lock().queue.remove(self.place);
        }
    }
}

impl TaskQueue {
    /// An empty queue.
    pub fn new(bounds: Bounds, admission: Admission) -> Self {
        Self {
            admission,
            waiting: Mutex::new(State {
                queue: DeadlineQueue::new(bounds),
                arrivals: Arrivals::default(),
                members: Members::default(),
                closed: false,
                changed: false,
            }),
            work: Notify::new(),
            demand: Notify::new(),
        }
    }

    /// A replica takes batches from here from now on.
    pub fn join(&self, stream: u64, now: Instant) {
        self.waiting.lock().members.join(stream, now);
    }

    /// It does so no more. What was left for it is for the others again.
    pub fn leave(&self, stream: u64) {
        {
            let mut state = self.waiting.lock();
            state.members.leave(stream);
            state.changed = true;
        }
        self.work.notify_one();
        self.demand.notify_waiters();
    }

    /// What is now expected of a replica; none: it is not counted on until something is.
    pub fn expect(&self, stream: u64, outlook: Option<Other>) {
        self.waiting.lock().members.expect(stream, outlook);
    }

    /// Lets a query wait, unless the queue is full or no replica can answer it in time: that is known, and
    /// said, at once.
    pub fn push(&self, now: Instant, deadline: Instant, input: Input) -> Result<Ticket<'_>, Failure> {
        let (reply, answer) = oneshot::channel();
        let place = self
            .enter(now, deadline, input, Reply::Asker(reply))
            .map_err(|(failure, _reply)| failure)?;
        Ok(Ticket {
            queue: self,
            place,
            answer,
        })
    }

    /// Lets a query wait whose answer goes to `reply`; if it cannot, gives the reply back with the reason.
    pub fn enter(
        &self,
        now: Instant,
        deadline: Instant,
        input: Input,
        reply: Reply,
    ) -> Result<Place, (Failure, Reply)> {
        let bytes = input.data().len();
        let waiting = Waiting {
            input,
            lost_before: false,
            reply,
        };
        let (place, was_earliest) = {
            let mut state = self.waiting.lock();
            if state.closed {
                return Err((DefaultReason::NoReplica.into(), waiting.reply));
            }
            state.arrivals.record(now, deadline.saturating_since(now));
            let nothing_waits = state.queue.is_empty();
            if self.admission == Admission::InTime && state.members.is_hopeless(now, deadline, nothing_waits)
            {
                return Err((DefaultReason::PredictedLate.into(), waiting.reply));
            }
            let earliest = state.queue.earliest();
            state.changed = true;
            match state.queue.push(deadline, bytes, waiting) {
                Ok(place) => (place, earliest.is_none_or(|earliest| deadline < earliest)),
                Err(Full(waiting)) => return Err((DefaultReason::QueueFull.into(), waiting.reply)),
            }
        };
        self.work.notify_one();
        if was_earliest {
            self.demand.notify_waiters();
        }
        Ok(place)
    }

    /// Lets tasks wait again that were not answered, each in its old place.
    pub fn put_back(&self, tasks: impl IntoIterator<Item = Task>, why: Unanswered) {
        let lost = why == Unanswered::ReplicaLost;
        let mut given_up = Vec::new();
        {
            let mut state = self.waiting.lock();
            state.changed = true;
            for task in tasks.into_iter().filter(|task| !task.is_abandoned()) {
                if state.closed || (lost && task.lost_before) {
                    given_up.push(task);
                    continue;
                }
                let Task {
                    place,
                    input,
                    lost_before,
                    reply,
                } = task;
                let bytes = input.data().len();
                let waiting = Waiting {
                    input,
                    lost_before: lost_before || lost,
                    reply,
                };
                state.queue.put_back(place, bytes, waiting);
            }
        }
        for task in given_up {
            task.answer(Err(DefaultReason::ReplicaLost.into()));
        }
        self.work.notify_one();
        self.demand.notify_waiters();
    }

    /// Takes the next batch as the taker's policy decides; it may be empty.
    ///
    /// What the policy gives up is answered here. If queries are left, another batcher is woken.
    pub fn take(&self, mut taker: Taker<'_>) -> Taken {
        let mut given_up = Vec::new();
        let (now, stream) = (taker.now, taker.stream);
        let (taken, wake_another) = {
            let state = &mut *self.waiting.lock();
            let taken = state.take(&mut taker, self.admission, &mut given_up);
            let wake_another = match taken.tasks.is_empty() {
                true => state.passes_on(stream, now),
                false => !state.queue.is_empty(),
            };
            (taken, wake_another)
        };
        for (deadline, waiting) in given_up {
            let failure = waiting.given_up(deadline <= now);
            waiting.reply.send(Err(failure));
        }
        if wake_another {
            self.work.notify_one();
        }
        taken
    }

    /// Answers all that waits, and whatever comes: the version is gone.
    pub fn close(&self) {
        let mut waiting = Vec::new();
        {
            let mut state = self.waiting.lock();
            state.closed = true;
            waiting.extend(std::iter::from_fn(|| state.queue.pop()));
        }
        for (_, waiting) in waiting {
            waiting.reply.send(Err(DefaultReason::NoReplica.into()));
        }
    }

    /// Completes when there may be work for a batcher that holds a credit.
    pub fn work(&self) -> Notified<'_> {
        self.work.notified()
    }

    /// Completes when a batcher without a credit should look at [`Self::waiting`] again, if that changed
    /// after this was called: call it before looking.
    pub fn demand(&self) -> Notified<'_> {
        self.demand.notified()
    }

    /// How many wait and how long the most urgent still has, if any waits.
    pub fn waiting(&self, now: Instant) -> Option<(usize, Duration)> {
        let queue = &self.waiting.lock().queue;
        queue
            .earliest()
            .map(|earliest| (queue.len(), earliest.saturating_since(now)))
    }

    /// What is asked of it.
    pub fn load(&self) -> Load {
        let state = self.waiting.lock();
        Load {
            arrived: state.arrivals.total(),
            queued: state.queue.len(),
        }
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.waiting.lock().queue.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Moves a query that still waits to an earlier deadline; returns where it waits, or waited last.
    pub fn hasten(&self, place: Place, deadline: Instant) -> Place {
        let hastened = place.moved_to(deadline);
        let was_earliest = {
            let queue = &mut self.waiting.lock().queue;
            let Some(waiting) = queue.remove(place) else {
                return place;
            };
            let earliest = queue.earliest();
            let bytes = waiting.input.data().len();
            queue.put_back(hastened, bytes, waiting);
            earliest.is_none_or(|earliest| deadline < earliest)
        };
        if was_earliest {
            self.demand.notify_waiters();
        }
        hastened
    }

    /// Why the query that waits, or waited last, at this place is not answered yet.
    pub fn unanswered(&self, place: Place) -> Failure {
        match self.waiting.lock().queue.get(place) {
            Some(waiting) => waiting.given_up(true),
            None => DefaultReason::LateReply.into(),
        }
    }

    /// Takes a query out that still waits if it is unwanted, which is asked under the queue's lock: it
    /// cannot be taken by a batch meanwhile.
    pub fn withdraw(&self, place: Place, is_unwanted: impl FnOnce() -> bool) {
        let withdrawn = {
            let queue = &mut self.waiting.lock().queue;
            if queue.get(place).is_none() || !is_unwanted() {
                return;
            }
            queue.remove(place)
        };
        drop(withdrawn);
    }
}

#[cfg(test)]
mod tests;

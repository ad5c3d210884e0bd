//! Queries waiting for one model version, and the two ways a replica's batcher is woken.

use std::time::Duration;

use parking_lot::Mutex;
use skysail_core::arrivals::Arrivals;
use skysail_core::batch::{BatchPolicy, Decision, LatencyModel, Other, Situation};
use skysail_core::query::{DefaultReason, Failure, Outcome};
use skysail_core::queue::{Bounds, DeadlineQueue, Deadlines, Full, Place};
use skysail_core::time::Instant;
use skysail_proto::deployment::BatchSize;
use skysail_proto::value::Input;
use tokio::sync::futures::Notified;
use tokio::sync::{Notify, oneshot};

use super::cache::flight::Landing;

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

#[derive(Debug)]
struct State {
    queue: DeadlineQueue<Waiting>,
    arrivals: Arrivals,
    /// The replicas that take from here.
    members: Vec<Member>,
    /// When a query was last let through that no replica is expected to answer in time.
    last_probe: Option<Instant>,
    /// Its version is gone: nobody will take anything from here.
    closed: bool,
    /// Whether something came since a replica that took nothing last woke another.
    changed: bool,
    /// Scratch: what a policy is told of the other replicas.
    others: Vec<Other>,
}

/// A replica, as far as the others and those who ask want to know.
#[derive(Clone, Copy, Debug)]
struct Member {
    stream: u64,
    outlook: Other,
}

/// What is let into a queue.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Admission {
    /// Whatever there is room for.
    Any,
    /// What a replica can answer in time, as far as is known.
    InTime,
}

impl From<BatchSize> for Admission {
    /// Only learned batching counts on batch times; the other policies give up what has expired, no more.
    fn from(batch_size: BatchSize) -> Self {
        match batch_size {
            BatchSize::Adaptive => Self::InTime,
            BatchSize::Aimd | BatchSize::Fixed(_) => Self::Any,
        }
    }
}

/// At most one such part of what queries are given is allowed for the way to the replica and back.
const MOST_OVERHEAD: u32 = 4;

/// Queries that would be late with every replica are let through at least this often while one is idle:
/// that is how a model that has become faster is noticed.
const PROBE_INTERVAL: Duration = Duration::from_millis(100);

impl State {
    /// Whether no replica is expected to answer by `deadline`, even at once and alone.
    fn is_hopeless(&mut self, now: Instant, deadline: Instant) -> bool {
        let in_time = |member: &Member| member.outlook.free.max(now) + member.outlook.alone <= deadline;
        if self.members.is_empty() || self.members.iter().any(in_time) {
            return false;
        }
        let probe_due = self.last_probe.is_none_or(|last| now >= last + PROBE_INTERVAL);
        let is_idle = |member: &Member| member.outlook.free <= now;
        if probe_due && self.queue.is_empty() && self.members.iter().any(is_idle) {
            self.last_probe = Some(now);
            return false;
        }
        true
    }

    /// Whether a replica that leaves all to others shall pass on what woke it: another may be waiting for it.
    /// Once for what came: it may be the only one that waits, and would wake itself for ever.
    fn passes_on(&mut self, stream: u64, now: Instant) -> bool {
        let idle = |member: &Member| member.stream != stream && member.outlook.free <= now;
        let changed = std::mem::take(&mut self.changed);
        changed && !self.queue.is_empty() && self.members.iter().any(idle)
    }

    fn member(&mut self, stream: u64) -> Option<&mut Member> {
        self.members.iter_mut().find(|member| member.stream == stream)
    }
}

impl State {
    fn take(
        &mut self,
        taker: &mut Taker<'_>,
        admission: Admission,
        given_up: &mut Vec<(Instant, Waiting)>,
    ) -> Taken {
        let (start, overhead) = match admission {
            Admission::InTime => (taker.start, taker.overhead),
            Admission::Any => (taker.now, Duration::ZERO),
        };
        self.others.clear();
        let others = self.members.iter().filter(|member| member.stream != taker.stream);
        self.others.extend(others.map(|member| member.outlook));
        // What is due must have left the replica a little earlier. Of that no more is allowed for than a part
        // of what queries are given: with more none would ever be sent, and nothing learned of the way.
        let budget = self.arrivals.mean_budget().unwrap_or_default();
        let overhead = overhead.min(budget / MOST_OVERHEAD);
        let situation = Situation {
            start: start + overhead,
            arrivals: &self.arrivals,
            latency: taker.latency,
            others: &self.others,
            pause: Duration::ZERO,
        };
        let mut taken = Taken::default();
        while !self.queue.is_empty() {
            let decision = taker.policy.decide(&self.queue, &situation);
            taken.pressed = decision.take < self.queue.len();
            let expired = std::iter::from_fn(|| self.queue.pop()).take(decision.give_up);
            given_up.extend(expired.map(|(place, waiting)| (place.deadline(), waiting)));
            if decision.take > 0 {
                taken.tasks = pop_batch(&mut self.queue, decision, taker.max_bytes);
            }
            if decision.take > 0 || decision.give_up == 0 {
                break;
            }
        }
        if !taken.tasks.is_empty()
            && let Some(took) = taker.latency.predict(taken.tasks.len())
        {
            let free = taker.start + took;
            let alone = taker.latency.predict(1).unwrap_or_default();
            if let Some(member) = self.member(taker.stream) {
                member.outlook = Other { free, alone };
            }
        }
        taken
    }
}

/// Takes a decision's batch, as far as it fits into a message; one query always does.
fn pop_batch(queue: &mut DeadlineQueue<Waiting>, decision: Decision, max_bytes: usize) -> Vec<Task> {
    let left: Vec<_> = std::iter::from_fn(|| queue.pop()).take(decision.leave).collect();
    let mut batch = Vec::with_capacity(decision.take.min(queue.len()));
    let mut bytes = 0;
    while batch.len() < decision.take {
        let Some((place, waiting)) = queue.pop() else {
            break;
        };
        let size = waiting.input.data().len();
        if bytes + size > max_bytes && !batch.is_empty() {
            queue.put_back(place, size, waiting);
            break;
        }
        bytes += size;
        batch.push(Task::taken(place, waiting));
    }
    for (place, waiting) in left {
        let size = waiting.input.data().len();
        queue.put_back(place, size, waiting);
    }
    batch
}

/// A replica that can take a batch.
pub struct Taker<'a> {
    /// Which.
    pub stream: u64,
    /// Decides.
    pub policy: &'a mut dyn BatchPolicy,
    /// What is known of its batch times.
    pub latency: &'a LatencyModel,
    /// Now.
    pub now: Instant,
    /// When it is expected to start on the batch.
    pub start: Instant,
    /// What to allow for the way there and back.
    pub overhead: Duration,
    /// The most bytes of inputs.
    pub max_bytes: usize,
}

#[cfg(test)]
impl<'a> Taker<'a> {
    /// One that starts at once and of which nothing is known.
    pub(super) fn without_history(
        policy: &'a mut dyn BatchPolicy,
        latency: &'a LatencyModel,
        now: Instant,
    ) -> Self {
        Self {
            stream: 0,
            policy,
            latency,
            now,
            start: now,
            overhead: Duration::ZERO,
            max_bytes: usize::MAX,
        }
    }
}

/// A batch.
#[derive(Debug, Default)]
pub struct Taken {
    /// Its queries, earliest deadline first; may be none.
    pub tasks: Vec<Task>,
    /// Whether queries were left waiting or given up.
    pub pressed: bool,
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
                members: Vec::new(),
                last_probe: None,
                closed: false,
                changed: false,
                others: Vec::new(),
            }),
            work: Notify::new(),
            demand: Notify::new(),
        }
    }

    /// A replica takes batches from here from now on.
    pub fn join(&self, stream: u64, now: Instant) {
        let outlook = Other {
            free: now,
            alone: Duration::ZERO,
        };
        self.waiting.lock().members.push(Member { stream, outlook });
    }

    /// It does so no more.
    pub fn leave(&self, stream: u64) {
        self.waiting
            .lock()
            .members
            .retain(|member| member.stream != stream);
    }

    /// What is now expected of a replica.
    pub fn expect(&self, stream: u64, outlook: Other) {
        if let Some(member) = self.waiting.lock().member(stream) {
            member.outlook = outlook;
        }
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
            if self.admission == Admission::InTime && state.is_hopeless(now, deadline) {
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
mod tests {
    use std::num::NonZeroU32;

    use futures::FutureExt;
    use skysail_core::batch::{FixedSize, Learned};

    use super::*;

    fn queue(count: usize) -> TaskQueue {
        let bounds = Bounds {
            count,
            bytes: usize::MAX,
        };
        TaskQueue::new(bounds, Admission::InTime)
    }

    fn at(nanos: u64) -> Instant {
        Instant::from_nanos(nanos)
    }

    fn input() -> Input {
        Input::doubles(&[1.0])
    }

    fn take(queue: &TaskQueue, size: u32, max_bytes: usize) -> Vec<Task> {
        let mut policy = FixedSize::new(NonZeroU32::new(size).unwrap());
        let latency = LatencyModel::default();
        let taker = Taker::without_history(&mut policy, &latency, at(0));
        queue.take(Taker { max_bytes, ..taker }).tasks
    }

    #[test]
    fn a_full_queue_is_said_at_once() {
        let queue = queue(1);
        let _waiting = queue.push(at(0), at(9), input()).unwrap();
        assert_eq!(
            queue.push(at(0), at(9), input()).unwrap_err().reason,
            DefaultReason::QueueFull
        );
    }

    #[test]
    fn an_asker_that_hangs_up_frees_its_place() {
        let queue = queue(1);
        drop(queue.push(at(0), at(9), input()).unwrap());
        assert!(queue.is_empty());
    }

    #[test]
    fn the_reason_at_the_deadline_says_how_far_the_query_got() {
        let queue = queue(10);
        let waiting = queue.push(at(0), at(9), input()).unwrap();
        assert_eq!(waiting.expire().reason, DefaultReason::ExpiredInQueue);
        let sent = queue.push(at(0), at(9), input()).unwrap();
        let batch = take(&queue, 1, usize::MAX);
        assert_eq!(sent.expire().reason, DefaultReason::LateReply);
        assert!(batch[0].is_abandoned());
    }

    #[tokio::test]
    async fn a_query_is_tried_again_after_its_replica_was_lost_but_only_once() {
        let queue = queue(10);
        let mut ticket = queue.push(at(0), at(9), input()).unwrap();
        queue.put_back(take(&queue, 1, usize::MAX), Unanswered::NotSent);
        queue.put_back(take(&queue, 1, usize::MAX), Unanswered::ReplicaLost);
        assert_eq!(queue.len(), 1);
        queue.put_back(take(&queue, 1, usize::MAX), Unanswered::ReplicaLost);
        assert!(queue.is_empty());
        let outcome = ticket.answer().await.unwrap();
        assert_eq!(outcome, Err(DefaultReason::ReplicaLost.into()));
    }

    #[test]
    fn a_query_put_back_still_belongs_to_its_asker() {
        let queue = queue(10);
        let lost = queue.push(at(0), at(9), input()).unwrap();
        let hung_up = queue.push(at(0), at(9), input()).unwrap();
        queue.put_back(take(&queue, 2, usize::MAX), Unanswered::ReplicaLost);
        drop(hung_up);
        assert_eq!(queue.len(), 1, "hanging up frees the place");
        assert_eq!(lost.expire().reason, DefaultReason::ReplicaLost);
        assert!(queue.is_empty());
    }

    #[test]
    fn what_a_full_message_left_behind_expires_in_the_queue() {
        let queue = queue(10);
        let mut tickets: Vec<_> = (0..2)
            .map(|_| queue.push(at(0), at(9), input()).unwrap())
            .collect();
        assert_eq!(take(&queue, 8, 8).len(), 1);
        assert_eq!(tickets.remove(1).expire().reason, DefaultReason::ExpiredInQueue);
    }

    #[tokio::test]
    async fn a_closed_queue_answers_all_that_waits_and_whatever_comes() {
        let queue = queue(10);
        let mut waiting = queue.push(at(0), at(9), input()).unwrap();
        let mut sent = queue.push(at(0), at(9), input()).unwrap();
        let batch = take(&queue, 1, usize::MAX);
        queue.close();
        assert_eq!(
            queue.push(at(0), at(9), input()).unwrap_err().reason,
            DefaultReason::NoReplica
        );
        queue.put_back(batch, Unanswered::ReplicaLost);
        let answers = [waiting.answer().await.unwrap(), sent.answer().await.unwrap()];
        let reasons = answers.map(|answer| answer.unwrap_err().reason);
        assert!(reasons.contains(&DefaultReason::NoReplica) && reasons.contains(&DefaultReason::ReplicaLost));
    }

    #[tokio::test]
    async fn demand_that_comes_while_a_batcher_looks_away_still_wakes_it() {
        let queue = queue(10);
        let demand = queue.demand();
        assert_eq!(queue.waiting(at(0)), None);
        let _ticket = queue.push(at(0), at(9), input()).unwrap();
        demand.await;
    }

    #[tokio::test]
    async fn a_query_that_is_hastened_to_the_front_is_announced_and_taken_first() {
        let queue = queue(10);
        let first = queue.push(at(0), at(5), input()).unwrap();
        let hastened = queue.push(at(0), at(9), input()).unwrap();
        let demand = queue.demand();
        let place = queue.hasten(hastened.place, at(1));
        demand.await;
        assert_eq!(queue.unanswered(place).reason, DefaultReason::ExpiredInQueue);
        assert_eq!(take(&queue, 1, usize::MAX)[0].deadline(), at(1));
        assert_eq!(queue.unanswered(place).reason, DefaultReason::LateReply);
        assert_eq!(
            queue.hasten(place, at(0)),
            place,
            "a batch has it: it stays where it was"
        );
        drop(first);
    }

    #[test]
    fn only_what_is_unwanted_and_still_waits_is_withdrawn() {
        let queue = queue(10);
        let waiting = queue.push(at(0), at(9), input()).unwrap();
        queue.withdraw(waiting.place, || false);
        assert_eq!(queue.len(), 1);
        queue.withdraw(waiting.place, || true);
        assert!(queue.is_empty());
        queue.withdraw(waiting.place, || unreachable!("it does not wait any more"));
    }

    #[tokio::test]
    async fn what_has_expired_is_answered_when_the_next_batch_is_taken() {
        let queue = queue(10);
        let mut late = queue.push(at(0), at(0), input()).unwrap();
        let _in_time = queue.push(at(0), at(9), input()).unwrap();
        assert_eq!(take(&queue, 8, usize::MAX).len(), 1);
        assert_eq!(
            late.answer().await.unwrap(),
            Err(DefaultReason::ExpiredInQueue.into())
        );
    }

    #[test]
    fn a_batch_stays_below_the_largest_message() {
        let queue = queue(10);
        let tickets: Vec<_> = (0..3)
            .map(|_| queue.push(at(0), at(9), input()).unwrap())
            .collect();
        assert_eq!(take(&queue, 8, 16).len(), 2);
        assert_eq!(
            take(&queue, 8, 1).len(),
            1,
            "one that is larger still goes, alone"
        );
        drop(tickets);
    }

    fn member(queue: &TaskQueue, free: u64, alone: u64) {
        queue.join(1, at(0));
        let outlook = Other {
            free: at(free),
            alone: Duration::from_nanos(alone),
        };
        queue.expect(1, outlook);
    }

    #[test]
    fn what_no_replica_can_answer_in_time_is_refused_on_arrival() {
        let queue = queue(10);
        member(&queue, 5, 10);
        let _in_time = queue.push(at(0), at(15), input()).unwrap();
        let refused = queue.push(at(0), at(14), input()).unwrap_err();
        assert_eq!(refused.reason, DefaultReason::PredictedLate);
        queue.join(2, at(0));
        let _unknown_may_be_faster = queue.push(at(0), at(14), input()).unwrap();
    }

    #[tokio::test]
    async fn what_a_replica_leaves_to_others_wakes_them_once_and_not_itself_for_ever() {
        let queue = queue(10);
        let outlook = |free: u64, alone: u64| Other {
            free: at(free),
            alone: Duration::from_nanos(alone),
        };
        for (stream, outlook) in [(1, outlook(0, 1000)), (2, outlook(0, 10))] {
            queue.join(stream, at(0));
            queue.expect(stream, outlook);
        }
        let _ticket = queue.push(at(0), at(100), input()).unwrap();
        queue.work().await;
        let mut latency = LatencyModel::default();
        latency.observe(1, Duration::from_nanos(1000), false);
        let mut policy = Learned::new(NonZeroU32::MIN);
        for woken in [true, false] {
            let taker = Taker {
                stream: 1,
                ..Taker::without_history(&mut policy, &latency, at(0))
            };
            assert!(queue.take(taker).tasks.is_empty());
            assert_eq!(queue.work().now_or_never().is_some(), woken);
        }
    }

    #[test]
    fn policies_that_do_not_count_on_times_refuse_nothing_for_them() {
        let bounds = Bounds {
            count: 10,
            bytes: 100,
        };
        let queue = TaskQueue::new(bounds, BatchSize::Aimd.into());
        member(&queue, 5, 10);
        assert!(queue.push(at(0), at(1), input()).is_ok());
    }

    #[test]
    fn an_idle_replica_is_tried_now_and_then_even_if_all_would_be_late() {
        let queue = queue(10);
        let interval = u64::try_from(PROBE_INTERVAL.as_nanos()).unwrap();
        member(&queue, 0, 10 * interval);
        let arrive = |now: u64| queue.push(at(now), at(now + interval), input());
        let probe = arrive(0).unwrap();
        assert_eq!(arrive(1).unwrap_err().reason, DefaultReason::PredictedLate);
        drop(probe);
        assert_eq!(
            arrive(interval - 1).unwrap_err().reason,
            DefaultReason::PredictedLate
        );
        assert!(arrive(interval).is_ok());
    }

    #[tokio::test]
    async fn what_is_left_wakes_another_batcher() {
        let queue = queue(10);
        let _tickets: Vec<_> = (0..2)
            .map(|_| queue.push(at(0), at(9), input()).unwrap())
            .collect();
        queue.work().await;
        take(&queue, 1, usize::MAX);
        queue.work().await;
    }
}

//! The queries of one version that wait for a replica: which are let in, when each is taken, and which are given up.
//!
//! A [`WaitingRoom`] knows which queries wait, when queries came lately, and when each replica is expected to be
//! free. A replica that can take a batch calls [`WaitingRoom::take`], by way of its [`crate::dispatch::Dispatcher`].
//! A caller that shares a room between tasks locks it, and wakes the replicas that the room says to wake.

use std::time::Duration;

use skysail_proto::deployment::BatchSize;

use crate::arrivals::Arrivals;
use crate::batch::{BatchPolicy, LatencyModel, Other, Restraint, Situation};
use crate::query::DefaultReason;
use crate::queue::{Bounds, Claim, DeadlineQueue, Deadlines, Entrant, Full, Place, Placed, Section};
use crate::time::Instant;

mod elsewhere;
mod experience;
mod members;
mod shares;
mod weigh;

use elsewhere::{Elsewhere, Free, LastBatch, Left};
use experience::Experience;
use members::Members;
use shares::{Choice, Shares};
use weigh::weigh;

/// The overhead of the way to the replica and back counts for at most `mean_budget / MOST_OVERHEAD`.
const MOST_OVERHEAD: u32 = 4;

/// Which queries are let in.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Admission {
    /// Every query that there is room for.
    Any,
    /// Queries that a replica can answer in time, as far as is known.
    InTime,
}

impl From<BatchSize> for Admission {
    /// Only learned batching counts on batch times. The other policies give up expired queries and no others.
    fn from(batch_size: BatchSize) -> Self {
        match batch_size {
            BatchSize::Adaptive => Self::InTime,
            BatchSize::Aimd | BatchSize::Fixed(_) => Self::Any,
        }
    }
}

/// Why a batch comes back unanswered.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Unanswered {
    /// It was never sent: its queries lose nothing.
    NotSent,
    /// The model failed on it as a whole, and its size may be to blame ([`WaitingRoom::batch_failed`]). Its queries
    /// lose nothing, and are tried again in smaller batches.
    TooLarge,
    /// Its replica was lost with it, or has had it far longer than expected. A query gets a second try but no third.
    /// Otherwise a poison query would kill every replica in turn.
    ReplicaLost,
}

/// A replica that can take a batch.
pub struct Taker<'a> {
    /// The replica's number, as in [`WaitingRoom::join`].
    pub replica: u64,
    /// Decides the size of the batch, and which queries are given up.
    pub policy: &'a mut dyn BatchPolicy,
    /// The learned times of its batches.
    pub latency: &'a LatencyModel,
    /// When it is expected to start on the batch.
    pub start: Instant,
    /// The time to allow for the way to the replica and back.
    pub overhead: Duration,
    /// How long other frontends' batches are expected to keep it between two batches from here.
    pub pause: Duration,
    /// The most bytes of inputs in the batch.
    pub max_bytes: usize,
    /// The expected part of the batch's inputs that are from here: above 0, at most 1.
    pub share: f64,
    /// The most inputs from here in the batch.
    pub most_inputs: usize,
    /// Whether no other frontend uses the replica.
    pub is_sole: bool,
}

impl Taker<'_> {
    /// How many inputs from here a batch of `inputs` holds; at least one.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_precision_loss,
        clippy::cast_sign_loss,
        reason = "a share is between 0 and 1, and what is too large for an integer casts to the largest"
    )]
    fn own_part(&self, inputs: usize) -> usize {
        let part = match self.share < 1.0 {
            true => ((inputs as f64 * self.share) as usize).max(1),
            false => inputs,
        };
        part.min(self.most_inputs)
    }
}

/// The result of [`WaitingRoom::take`].
#[derive(Debug)]
pub struct Taken<T> {
    /// The batch, earliest deadline first; may be empty.
    pub batch: Vec<Placed<T>>,
    /// Whether queries were left waiting or given up.
    pub pressed: bool,
    /// Queries to answer with a default output, for the reason that [`Placed::given_up`] says.
    pub given_up: Vec<Placed<T>>,
    /// Whether to ask another replica that can take a batch, too.
    pub wake_another: bool,
    /// When to ask again at the latest. Set if all queries were left to a faster replica, which may not come for
    /// them.
    pub again: Option<Instant>,
}

impl<T> Default for Taken<T> {
    fn default() -> Self {
        Self {
            batch: Vec::new(),
            pressed: false,
            given_up: Vec::new(),
            wake_another: false,
            again: None,
        }
    }
}

/// A query that was let in.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Seat {
    /// Its place in the queue.
    pub place: Place,
    /// Whether it is more urgent than all that waited before it. Replicas without a credit announce that.
    pub is_first: bool,
}

/// A query that is not let in, and why.
#[derive(Debug, Eq, PartialEq)]
pub struct Refused<T> {
    /// Why it is not let in.
    pub reason: DefaultReason,
    /// The query's task.
    pub task: T,
}

impl<T> Placed<T> {
    /// Why it is given up at `now`: its replica was lost, its deadline has passed, or it would be late.
    pub fn given_up(&self, now: Instant) -> DefaultReason {
        match (self.lost_before, self.deadline() <= now) {
            (true, _) => DefaultReason::ReplicaLost,
            (false, true) => DefaultReason::ExpiredInQueue,
            (false, false) => DefaultReason::PredictedLate,
        }
    }
}

/// The waiting room of one version. See the module.
#[derive(Debug)]
pub struct WaitingRoom<T> {
    queue: DeadlineQueue<T>,
    arrivals: Arrivals,
    /// The replicas that take from this room.
    members: Members,
    /// The batch sizes and times that they have shown.
    experience: Experience,
    /// The applications that ask, and their shares.
    shares: Shares,
    /// Queries that gave way to others since [`Self::displaced`] was last called.
    displaced: Vec<Placed<T>>,
    admission: Admission,
    /// Whether the version is gone: then no replica takes anything from here.
    closed: bool,
    /// How many replicas that take nothing may still wake another one. Each of the others gets one look.
    passes_left: usize,
    /// Until when queries are left to faster replicas.
    left: Left,
}

impl<T> WaitingRoom<T> {
    /// An empty room.
    pub fn new(bounds: Bounds, admission: Admission) -> Self {
        Self {
            queue: DeadlineQueue::new(bounds),
            arrivals: Arrivals::default(),
            members: Members::default(),
            experience: Experience::default(),
            shares: Shares::default(),
            displaced: Vec::new(),
            admission,
            closed: false,
            passes_left: 0,
            left: Left::default(),
        }
    }

    /// Adds a replica, which takes batches from here from now on.
    pub fn join(&mut self, replica: u64, now: Instant) {
        self.members.join(replica, now);
    }

    /// Removes a replica. Queries that were left for it are for the other replicas again.
    pub fn leave(&mut self, replica: u64) {
        self.members.leave(replica);
        self.changed();
    }

    /// Must be called when a query came, or when queries are for other replicas than before.
    fn changed(&mut self) {
        self.passes_left = self.members.len().saturating_sub(1);
    }

    /// Sets when a replica is expected to be free and how fast it is. With `None` it is not counted on until the next
    /// call.
    pub fn expect(&mut self, replica: u64, outlook: Option<Other>) {
        self.members.expect(replica, outlook);
    }

    /// Sets the seconds that each further input is expected to add to a replica's batch of one.
    pub fn expect_each(&mut self, replica: u64, each: f64) {
        self.members.expect_each(replica, each);
    }

    /// Records that a replica answered batches of this size well, elsewhere or while it warmed up.
    pub fn batches_reach(&mut self, size: usize) {
        self.experience.sizes.answered(size);
    }

    /// Records that a replica answered a batch of this size well, in this time.
    pub fn batch_answered(&mut self, size: usize, took: Duration) {
        self.experience.answered(size, took);
    }

    /// Records that a batch of this size failed as a whole, or that its replica was lost with it. Returns whether its
    /// size may be to blame.
    pub fn batch_failed(&mut self, size: usize, now: Instant) -> bool {
        self.experience.sizes.failed(size, now)
    }

    /// The most inputs that a batch may have, after the batches that failed.
    pub fn limit(&self, now: Instant) -> usize {
        self.experience.sizes.limit(now)
    }

    /// The limit on batch sizes that a failed batch has set, while it holds.
    pub fn restraint(&self, now: Instant) -> Option<Restraint> {
        self.experience.sizes.restraint(now)
    }

    /// The batch times that a replica without a batch of its own must expect, learned from the other replicas.
    pub fn expected_latency(&self) -> LatencyModel {
        self.experience.latency()
    }

    /// Lets a query wait, where there is only one application. Its input has `bytes` bytes.
    pub fn enter(
        &mut self,
        now: Instant,
        deadline: Instant,
        bytes: usize,
        task: T,
    ) -> Result<Seat, Refused<T>> {
        let entrant = Entrant {
            deadline,
            claim: Claim::SOLE,
            bytes,
            task,
        };
        self.admit(now, entrant)
    }

    /// Lets a query wait. A query that no replica can answer in time is refused at once. If there is no room, others
    /// may give way to it: see [`Self::displaced`].
    pub fn admit(&mut self, now: Instant, entrant: Entrant<T>) -> Result<Seat, Refused<T>> {
        let refuse = |reason, task| Err(Refused { reason, task });
        let deadline = entrant.deadline;
        if self.closed {
            return refuse(DefaultReason::NoReplica, entrant.task);
        }
        let budget = deadline.saturating_since(now);
        self.arrivals.record(now, budget);
        if self.is_hopeless(now, deadline) {
            return refuse(DefaultReason::PredictedLate, entrant.task);
        }
        let is_first = self.is_first(deadline);
        self.changed();
        let claim = entrant.claim;
        let admitted = self.queue.admit(entrant, &mut self.displaced);
        if self.queue.holdings().is_some() {
            self.shares.asked(claim, now, budget);
        }
        match admitted {
            Ok(place) => Ok(Seat { place, is_first }),
            Err(Full(task)) => refuse(DefaultReason::QueueFull, task),
        }
    }

    /// Takes the queries that gave way to others since the last call. The caller must answer them `QueueFull`.
    pub fn displaced(&mut self) -> Vec<Placed<T>> {
        std::mem::take(&mut self.displaced)
    }

    fn is_hopeless(&mut self, now: Instant, deadline: Instant) -> bool {
        let nothing_waits = self.queue.is_empty();
        self.admission == Admission::InTime && self.members.is_hopeless(now, deadline, nothing_waits)
    }

    fn is_first(&self, deadline: Instant) -> bool {
        self.queue.earliest().is_none_or(|earliest| deadline < earliest)
    }

    /// Puts unanswered queries back in their old places. Returns those given up: those whose replica was lost a
    /// second time, and all if the room is closed.
    pub fn put_back(
        &mut self,
        batch: impl IntoIterator<Item = Placed<T>>,
        why: Unanswered,
    ) -> Vec<Placed<T>> {
        let lost = why == Unanswered::ReplicaLost;
        self.changed();
        let mut given_up = Vec::new();
        for mut placed in batch {
            if self.closed || (lost && placed.lost_before) {
                given_up.push(placed);
                continue;
            }
            placed.lost_before |= lost;
            self.queue.put_back(placed);
        }
        given_up
    }

    /// Takes the next batch, as the taker's policy decides.
    pub fn take(&mut self, now: Instant, mut taker: Taker<'_>) -> Taken<T> {
        let faster = self.faster_one(now, &taker);
        if let Some(again) = faster.and_then(|faster| self.left.leave_to(faster, now)) {
            return Taken {
                wake_another: self.passes_on(taker.replica, now),
                again: Some(again),
                ..Taken::default()
            };
        }
        let mut taken = self.decide(now, &mut taker);
        if taken.batch.is_empty() {
            taken.wake_another = self.passes_on(taker.replica, now);
            return taken;
        }
        self.left.taken();
        let batch = LastBatch {
            at: now,
            arrived: self.arrivals.total(),
        };
        self.members.took(taker.replica, batch);
        taken.wake_another = !self.queue.is_empty();
        let bytes = taken.batch.iter().map(Placed::bytes).sum();
        if let Some(took) = taker.latency.predict_of(taken.batch.len(), bytes) {
            let free = taker.start + took;
            let alone = Duration::from_secs_f64(taker.latency.alone());
            self.members.expect(taker.replica, Some(Other { free, alone }));
        }
        self.give_up_the_hopeless(now, &mut taken);
        taken
    }

    /// Gives up queries that were left for other replicas and are now too late for each of them. So they are answered
    /// at once and not at their deadlines.
    fn give_up_the_hopeless(&mut self, now: Instant, taken: &mut Taken<T>) {
        if self.admission == Admission::Any {
            return;
        }
        let Some(earliest) = self.members.earliest_answer(now) else {
            return;
        };
        while self.queue.earliest().is_some_and(|deadline| deadline < earliest) {
            taken.given_up.extend(self.queue.pop());
        }
    }

    /// The much faster replica to which the taker leaves all queries, if there is one.
    fn faster_one(&self, now: Instant, taker: &Taker<'_>) -> Option<Elsewhere> {
        // Where frontends share replicas, a free replica may have no credit for this frontend.
        if self.members.len() < 2 || !taker.is_sole || !taker.policy.counts_on_times() {
            return None;
        }
        let due = self.queue.earliest()?;
        let (pace, last_batch) = self.members.record(taker.replica)?;
        if last_batch.is_outdated(now, self.arrivals.total()) {
            return None;
        }
        let free = Free {
            start: self.expected_start(now, taker),
            pace,
            caution: taker.latency.caution(),
            waiting: self.queue.len(),
            due,
            per_second: self.arrivals.per_second(now),
            budget: self.arrivals.mean_budget().unwrap_or_default(),
        };
        free.leaves_all_to(self.members.elsewhere(taker.replica))
    }

    /// Asks the policy until there is a batch, or no more queries to give up.
    fn decide(&mut self, now: Instant, taker: &mut Taker<'_>) -> Taken<T> {
        let situation = Situation {
            start: self.expected_start(now, taker),
            arrivals: &self.arrivals,
            latency: taker.latency,
            others: self.members.others(taker.replica, now),
            largest: taker.own_part(self.experience.sizes.largest(now)),
            pause: taker.pause,
        };
        let limit = taker.own_part(self.experience.sizes.limit(now));
        let mut taken = Taken::default();
        while !self.queue.is_empty() {
            let mut decision = taker.policy.decide(&self.queue, &situation);
            decision.take = decision.take.min(limit);
            taken.pressed = decision.take < self.queue.len();
            let picked = self.shares.pick(&Choice {
                now,
                queue: &self.queue,
                policy: &*taker.policy,
                situation: &situation,
                decision,
            });
            // Queries that the picked batch answers in time are not given up.
            let before = picked.as_ref().map(|picked| picked.from);
            let is_late = |first: Place| before.is_none_or(|before| first.deadline() < before);
            let given_up = std::iter::from_fn(|| match self.queue.first().is_some_and(is_late) {
                true => self.queue.pop(),
                false => None,
            });
            taken.given_up.extend(given_up.take(decision.give_up));
            if let Some(picked) = picked {
                taken.batch = self.queue.pick(&picked.places, taker.max_bytes);
            } else if decision.take > 0 {
                let weighed = match taker.policy.counts_on_times() {
                    true => weigh(&self.queue, decision, &situation),
                    false => decision.take,
                };
                taken.batch = self.queue.cut(Section {
                    leave: decision.leave,
                    take: weighed,
                    max_bytes: taker.max_bytes,
                });
            }
            if decision.take > 0 || decision.give_up == 0 {
                break;
            }
        }
        self.spare_the_lost(&mut taken.batch);
        if !taken.given_up.is_empty() {
            self.shares.lost(now);
        }
        taken
    }

    /// Shortens a batch with a query whose replica was lost before, to a size that was answered well. Such a query
    /// gets no third try, so the batch's size must not cost it the second.
    fn spare_the_lost(&mut self, batch: &mut Vec<Placed<T>>) {
        let safe = self.experience.sizes.safe();
        if batch.len() > safe && batch.iter().any(|placed| placed.lost_before) {
            batch.drain(safe..).for_each(|placed| self.queue.put_back(placed));
        }
    }

    /// The start of the batch as the policy sees it; `now` if the policy does not count on batch times. Otherwise the
    /// overhead is added to it, since an answer must leave the replica before it is due. The overhead is limited by
    /// `MOST_OVERHEAD`: with more, no query would ever be sent, and the overhead never learned.
    fn expected_start(&self, now: Instant, taker: &Taker<'_>) -> Instant {
        if !taker.policy.counts_on_times() {
            return now;
        }
        let budget = self.arrivals.mean_budget().unwrap_or_default();
        taker.start + taker.overhead.min(budget / MOST_OVERHEAD)
    }

    /// Whether a replica that takes nothing must wake another, which may be waiting. Allowed at most once for each
    /// other replica: if this replica is the only one that waits, it would wake itself for ever.
    fn passes_on(&mut self, replica: u64, now: Instant) -> bool {
        let may_pass = self.passes_left > 0;
        self.passes_left = self.passes_left.saturating_sub(1);
        may_pass && !self.queue.is_empty() && self.members.is_another_idle(replica, now)
    }

    /// Lets no query in any more, because the version is gone. Returns all that wait.
    pub fn close(&mut self) -> Vec<Placed<T>> {
        self.closed = true;
        std::iter::from_fn(|| self.queue.pop()).collect()
    }

    /// Moves a query to an earlier deadline, if it still waits.
    pub fn hasten(&mut self, place: Place, deadline: Instant) -> Option<Seat> {
        let hastened = self.queue.remove(place)?.moved_to(deadline);
        let seat = Seat {
            place: hastened.place(),
            is_first: self.is_first(deadline),
        };
        self.queue.put_back(hastened);
        Some(seat)
    }

    /// Lets a waiting query count for another application, too, which may have a better claim.
    pub fn share(&mut self, place: Place, claim: Claim) {
        self.queue.share(place, claim);
    }

    /// Takes out a query that nobody waits for any more, if it is still here. Returns why it is not answered.
    pub fn leave_place(&mut self, now: Instant, place: Place) -> (DefaultReason, Option<Placed<T>>) {
        let reason = self.unanswered(place);
        let left = self.queue.remove(place);
        if left.as_ref().is_some_and(|left| left.deadline() <= now) {
            self.shares.lost(now);
        }
        (reason, left)
    }

    /// Takes a query out, if it still waits.
    pub fn remove(&mut self, place: Place) -> Option<Placed<T>> {
        self.queue.remove(place)
    }

    /// Why the query that waits, or waited last, at `place` is not answered by its deadline.
    pub fn unanswered(&self, place: Place) -> DefaultReason {
        match self.queue.lost_before(place) {
            Some(true) => DefaultReason::ReplicaLost,
            Some(false) => DefaultReason::ExpiredInQueue,
            None => DefaultReason::LateReply,
        }
    }

    /// Whether the query at this place still waits.
    pub fn holds(&self, place: Place) -> bool {
        self.queue.get(place).is_some()
    }

    /// The place of the most urgent query.
    pub fn first(&self) -> Option<Place> {
        self.queue.first()
    }

    /// How many queries wait.
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    /// Whether no query waits.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// How many queries came so far, including those refused.
    pub fn arrived(&self) -> u64 {
        self.arrivals.total()
    }
}

#[cfg(test)]
mod tests;

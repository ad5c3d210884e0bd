//! The queries of one version that wait for a replica: who is let in, who is taken when, and who is given up.
//!
//! A [`WaitingRoom`] knows what waits, when queries came lately, and when each replica is expected to be free.
//! A replica that can take a batch asks [`WaitingRoom::take`], by way of its [`crate::dispatch::Dispatcher`].
//! Whoever shares a room between tasks locks it, and wakes those whom it says are to be woken.

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

/// At most one such part of what queries are given is allowed for the way to the replica and back.
const MOST_OVERHEAD: u32 = 4;

/// What is let in.
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

/// What happened to a batch that comes back unanswered.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Unanswered {
    /// It never left: its queries lose nothing.
    NotSent,
    /// The model failed on it as a whole, and its size may be to blame ([`WaitingRoom::batch_failed`]): its queries
    /// lose nothing, and are tried again in smaller batches.
    TooLarge,
    /// Its replica was lost with it, or has it far longer than expected. A query gets a second try, no third:
    /// a poison query would otherwise kill every replica in turn.
    ReplicaLost,
}

/// A replica that can take a batch.
pub struct Taker<'a> {
    /// Which.
    pub replica: u64,
    /// Decides.
    pub policy: &'a mut dyn BatchPolicy,
    /// What is known of its batch times.
    pub latency: &'a LatencyModel,
    /// When it is expected to start on the batch.
    pub start: Instant,
    /// What to allow for the way there and back.
    pub overhead: Duration,
    /// How long other frontends' batches are expected to keep it between two from here.
    pub pause: Duration,
    /// The most bytes of inputs.
    pub max_bytes: usize,
    /// The expected part of the batch's inputs that are from here; the others are other frontends'.
    pub share: f64,
    /// The most inputs from here.
    pub most_inputs: usize,
    /// Whether no other frontend uses the replica.
    pub is_sole: bool,
}

impl Taker<'_> {
    /// How many inputs from here a batch of so many holds; at least one.
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

/// What came of it when a replica could take a batch.
#[derive(Debug)]
pub struct Taken<T> {
    /// The batch, earliest deadline first; may be empty.
    pub batch: Vec<Placed<T>>,
    /// Whether queries were left waiting or given up.
    pub pressed: bool,
    /// What is to be answered with a default output, for the reason that [`Placed::given_up`] says.
    pub given_up: Vec<Placed<T>>,
    /// Whether another replica that can take a batch is to be asked, too.
    pub wake_another: bool,
    /// When to ask again at the latest: all was left to a faster replica, which may not come for it.
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

/// A query that waits.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Seat {
    /// Where.
    pub place: Place,
    /// Whether it is more urgent than all that waited before it: replicas without a credit announce that.
    pub is_first: bool,
}

/// A query that is not let in, and why.
#[derive(Debug, Eq, PartialEq)]
pub struct Refused<T> {
    /// The reason.
    pub reason: DefaultReason,
    /// What was to wait.
    pub task: T,
}

impl<T> Placed<T> {
    /// Why it is given up at `now`: because its deadline has passed, or because it would.
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
    /// The replicas that take from here.
    members: Members,
    /// What they have shown.
    experience: Experience,
    /// The applications that ask.
    shares: Shares,
    /// Queries that gave way to others.
    displaced: Vec<Placed<T>>,
    admission: Admission,
    /// Its version is gone: nobody will take anything from here.
    closed: bool,
    /// How many replicas that take nothing may still wake another for what came: each of the others gets one look.
    passes_left: usize,
    /// What was left to faster replicas.
    left: Left,
}

impl<T> WaitingRoom<T> {
    /// An empty one.
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

    /// A replica takes batches from here from now on.
    pub fn join(&mut self, replica: u64, now: Instant) {
        self.members.join(replica, now);
    }

    /// It does so no more. What was left for it is for the others again.
    pub fn leave(&mut self, replica: u64) {
        self.members.leave(replica);
        self.changed();
    }

    /// Something came, or is for other replicas than before.
    fn changed(&mut self) {
        self.passes_left = self.members.len().saturating_sub(1);
    }

    /// What is now expected of a replica; none: it is not counted on until something is.
    pub fn expect(&mut self, replica: u64, outlook: Option<Other>) {
        self.members.expect(replica, outlook);
    }

    /// What each further input is now expected to add to a replica's batch of one, in seconds.
    pub fn expect_each(&mut self, replica: u64, each: f64) {
        self.members.expect_each(replica, each);
    }

    /// A replica has shown, elsewhere or by warming up, that it answers batches of this size well.
    pub fn batches_reach(&mut self, size: usize) {
        self.experience.sizes.answered(size);
    }

    /// A replica answered a batch of this size well, in this time.
    pub fn batch_answered(&mut self, size: usize, took: Duration) {
        self.experience.answered(size, took);
    }

    /// A batch of this size failed as a whole, or its replica was lost with it. Says whether its size may be to blame.
    pub fn batch_failed(&mut self, size: usize, now: Instant) -> bool {
        self.experience.sizes.failed(size, now)
    }

    /// The most inputs of a batch by what failed.
    pub fn limit(&self, now: Instant) -> usize {
        self.experience.sizes.limit(now)
    }

    /// The limit to the sizes of batches that stands because one failed, if one does.
    pub fn restraint(&self, now: Instant) -> Option<Restraint> {
        self.experience.sizes.restraint(now)
    }

    /// What a replica that has done no batch is to expect of its own, by those of the others.
    pub fn expected_latency(&self) -> LatencyModel {
        self.experience.latency()
    }

    /// Lets a query of the only application there is wait, whose input is of `bytes` bytes.
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

    /// Lets a query wait. One that no replica can answer in time is refused: that is known, and said, at once.
    /// Where there is no room, others may give way to it: see [`Self::displaced`].
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

    /// Takes the queries that gave way to others since this was last called. They are to be answered that the queue
    /// is full.
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

    /// Lets queries wait again that were not answered, each in its old place; returns those that are given up,
    /// because their replicas were lost.
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

    /// Takes the next batch as the taker's policy decides.
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

    /// Gives up what was left for other replicas and is now too late for each of them: it is said at once, and not at
    /// the deadline.
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

    /// The much faster replica to which this one leaves all that waits.
    fn faster_one(&self, now: Instant, taker: &Taker<'_>) -> Option<Elsewhere> {
        // Where frontends share replicas, one that is free may have no credit for this frontend.
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

    /// Asks the policy until there is a batch, or nothing more to give up.
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
            // What is in time with the batch after all is given up no more.
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
        self.shares.made(taken.batch.iter().map(Placed::claim));
        self.spare_the_lost(&mut taken.batch);
        for lost in &taken.given_up {
            self.shares.lost(lost.claim(), now);
        }
        taken
    }

    /// Shortens a batch to a size that was answered well if a replica was lost with one of its queries before. They
    /// are lost no third time: the size of a batch is not to cost them the second try.
    fn spare_the_lost(&mut self, batch: &mut Vec<Placed<T>>) {
        let safe = self.experience.sizes.safe();
        if batch.len() > safe && batch.iter().any(|placed| placed.lost_before) {
            batch.drain(safe..).for_each(|placed| self.queue.put_back(placed));
        }
    }

    /// What a policy that counts on batch times is to take for the time at which the batch starts. What is due
    /// must have left the replica a little earlier. Of that no more is allowed for than a part of what queries
    /// are given: with more none would ever be sent, and nothing learned of the way.
    fn expected_start(&self, now: Instant, taker: &Taker<'_>) -> Instant {
        if !taker.policy.counts_on_times() {
            return now;
        }
        let budget = self.arrivals.mean_budget().unwrap_or_default();
        taker.start + taker.overhead.min(budget / MOST_OVERHEAD)
    }

    /// Whether a replica that leaves all to others shall pass on what woke it: another may be waiting for it.
    /// At most once for each other replica: it may be the only one that waits, and would wake itself for ever.
    fn passes_on(&mut self, replica: u64, now: Instant) -> bool {
        let may_pass = self.passes_left > 0;
        self.passes_left = self.passes_left.saturating_sub(1);
        may_pass && !self.queue.is_empty() && self.members.is_another_idle(replica, now)
    }

    /// Lets nobody in any more, because the version is gone; returns all that waits.
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

    /// Lets a query that waits be one of another application, too: that may have a better claim.
    pub fn share(&mut self, place: Place, claim: Claim) {
        self.queue.share(place, claim);
    }

    /// Takes a query out, if it still waits, because nobody does for it any more; says why it is not answered.
    pub fn leave_place(&mut self, now: Instant, place: Place) -> (DefaultReason, Option<Placed<T>>) {
        let reason = self.unanswered(place);
        let left = self.queue.remove(place);
        if let Some(lost) = left.as_ref().filter(|left| left.deadline() <= now) {
            self.shares.lost(lost.claim(), now);
        }
        (reason, left)
    }

    /// Takes a query out, if it still waits.
    pub fn remove(&mut self, place: Place) -> Option<Placed<T>> {
        self.queue.remove(place)
    }

    /// Why the query that waits, or waited last, at this place is not answered by its deadline.
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

    /// Where the most urgent query waits.
    pub fn first(&self) -> Option<Place> {
        self.queue.first()
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// How many came so far, also those that were refused.
    pub fn arrived(&self) -> u64 {
        self.arrivals.total()
    }
}

#[cfg(test)]
mod tests;

//! Decides what one replica is sent next, and keeps the batches it was sent.
//!
//! A [`Dispatcher`] is one frontend's side of one replica. It holds the credits that the container granted and the
//! batches that the container has, and learns the times of those batches. It is asked for the next [`Step`] at every
//! event of the stream, and when queries came to the [`WaitingRoom`]. The caller carries the step out.

use std::time::Duration;

use crate::batch::{BatchPolicy, LatencyModel, Other, Overhead, Patience, Pause};
use crate::queue::Placed;
use crate::time::Instant;
use crate::waiting_room::{Taken, Taker, WaitingRoom};

mod credits;
mod sent;

use credits::InHand;
pub use credits::{Credit, Share};
pub use sent::SentBatch;
use sent::{Outgoing, Sent};

/// What the caller must do now.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Step {
    /// Send this batch, then ask again.
    Send(Departure),
    /// There is nothing to send: return the credits that [`Dispatcher::unparked_credit`] gives.
    Pass,
    /// Tell the container that queries wait for a credit.
    Announce(Demand),
    /// Do nothing.
    Wait,
}

/// A batch to send. [`Dispatcher::queries`] gives its queries.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Departure {
    /// Its number: batches of one replica count up from 1.
    pub id: u64,
    /// The number of the credit that it is sent against.
    pub credit: u64,
    /// How long the credit was held.
    pub credit_held: Duration,
    /// How long the model is expected to take, if known.
    pub predicted: Option<Duration>,
}

/// Queries that wait for a credit.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Demand {
    /// The number of queries.
    pub queued: usize,
    /// The time left until the earliest deadline.
    pub earliest_budget: Duration,
    /// The most inputs that a batch with some of these queries may have.
    pub most_inputs: usize,
}

/// A step, and its effects on waiting queries.
#[derive(Debug)]
pub struct Turn<T> {
    /// What the caller must do now.
    pub step: Step,
    /// Queries to answer with a default output, for the reason that [`Placed::given_up`] says.
    pub given_up: Vec<Placed<T>>,
    /// Whether to ask another replica that can take a batch, too.
    pub wake_another: bool,
}

impl<T> From<Step> for Turn<T> {
    fn from(step: Step) -> Self {
        Self {
            step,
            given_up: Vec::new(),
            wake_another: false,
        }
    }
}

/// How a batch was answered.
#[derive(Clone, Copy, Debug)]
pub struct Completion {
    /// How many inputs `took` is for, with those of other frontends; 0 if the model failed on the batch.
    pub worked_on: usize,
    /// Whether other frontends' inputs are among `worked_on`.
    pub is_merged: bool,
    /// How long the model took.
    pub took: Duration,
    /// How long the batch was inside the container.
    pub inside: Duration,
}

/// What an answered batch shows of the model's times.
struct Observed {
    /// How many inputs the model worked on, with those of other frontends.
    size: usize,
    /// The number of inputs that were expected.
    planned: usize,
    /// The bytes of all inputs, if known.
    bytes: Option<usize>,
    took: Duration,
    pressed: bool,
}

/// A batch that came back.
#[derive(Debug)]
pub struct Completed<T> {
    /// The batch, as it was sent.
    pub sent: SentBatch<T>,
    /// Whether the dispatcher learned from its time.
    pub learned: bool,
}

/// The batches of a lost container.
#[derive(Debug)]
pub struct Loss<T> {
    /// The size of the batch that it worked on, if that may have been too large for it.
    pub too_large: Option<usize>,
    /// All queries that it held.
    pub queries: Vec<Placed<T>>,
}

/// One frontend's side of one replica. See the module.
pub struct Dispatcher<T> {
    replica: u64,
    policy: Box<dyn BatchPolicy>,
    max_bytes: usize,
    /// The learned times of its batches.
    latency: LatencyModel,
    /// Whether `latency` still holds only what the version's other replicas have learned.
    borrowed: bool,
    /// The size and the time of the batch that was answered well since the last report.
    unreported: Option<(usize, Duration)>,
    /// The learned overhead of the way to the container and back.
    overhead: Overhead,
    /// The learned time for which other frontends keep the container.
    pause: Pause,
    credits: InHand,
    sent: Sent<T>,
    /// The earliest deadline announced since the last credit. Less urgent demand is not worth a message.
    announced: Option<Instant>,
    /// Whether a batch is overdue. Until it is answered, no other is sent.
    overdue: bool,
    /// When to look at the room again: queries were left to a faster replica, which may not come for them.
    look_again: Option<Instant>,
}

impl<T> Dispatcher<T> {
    /// A dispatcher that has learned nothing. Its batches hold at most `max_bytes` bytes of inputs.
    pub fn new(replica: u64, policy: Box<dyn BatchPolicy>, max_bytes: usize) -> Self {
        Self {
            replica,
            policy,
            max_bytes,
            latency: LatencyModel::default(),
            borrowed: false,
            unreported: None,
            overhead: Overhead::default(),
            pause: Pause::default(),
            credits: InHand::default(),
            sent: Sent::default(),
            announced: None,
            overdue: false,
            look_again: None,
        }
    }

    /// Starts with these batch times.
    #[must_use]
    pub fn with_latency(self, latency: LatencyModel) -> Self {
        Self { latency, ..self }
    }

    /// Starts with this overhead of the way to the container and back.
    #[must_use]
    pub fn with_overhead(self, overhead: Overhead) -> Self {
        Self { overhead, ..self }
    }

    /// The learned times of its batches.
    pub fn latency(&self) -> &LatencyModel {
        &self.latency
    }

    /// Adds a credit that the container granted. Queries left after its batch are announced anew.
    pub fn grant(&mut self, credit: Credit, now: Instant) {
        self.credits.grant(credit, now);
    }

    /// Marks a credit that the container wants back if it is not used: another frontend has a use for it.
    pub fn recall(&mut self, sequence: u64) {
        self.credits.recall(sequence);
    }

    /// Drops all credits: the container is going, and takes no more batches.
    pub fn stop(&mut self) {
        self.credits.clear();
    }

    /// Whether the dispatcher has an unused credit.
    pub fn holds_credit(&self) -> bool {
        !self.credits.is_empty()
    }

    /// Whether a batch may be sent: there is a credit, and no batch is overdue.
    pub fn takes_work(&self) -> bool {
        self.holds_credit() && !self.overdue
    }

    /// Whether [`Self::step`] depends on the room now.
    pub fn looks_at_the_room(&self) -> bool {
        self.takes_work() || self.credits.wants_demand()
    }

    /// What the caller must do now.
    pub fn step(&mut self, room: &mut WaitingRoom<T>, now: Instant) -> Turn<T> {
        match self.takes_work() {
            true => self.take(room, now),
            false => self.announce(room, now).into(),
        }
    }

    fn take(&mut self, room: &mut WaitingRoom<T>, now: Instant) -> Turn<T> {
        self.announced = None;
        if !self.latency.is_known() {
            self.latency = room.expected_latency();
            self.borrowed = self.latency.is_known();
        }
        let share = self.share();
        self.latency.see_through(share.of_inputs);
        let start = self.start(now);
        let taker = Taker {
            replica: self.replica,
            policy: &mut *self.policy,
            latency: &self.latency,
            start,
            overhead: self.overhead.allowance(),
            pause: self.pause.expected(),
            max_bytes: own_bytes(self.max_bytes, share),
            share: share.of_inputs,
            most_inputs: share.most_inputs,
            is_sole: !self.credits.wants_demand(),
        };
        let Taken {
            batch,
            pressed,
            given_up,
            wake_another,
            again,
        } = room.take(now, taker);
        self.look_again = again;
        let step = self.depart(batch, pressed, now);
        self.latency.see_through(1.0);
        Turn {
            step,
            given_up,
            wake_another,
        }
    }

    /// The share that goes with the credit in hand.
    fn share(&self) -> Share {
        self.credits
            .first()
            .map_or(Share::WHOLE, |(credit, _)| credit.share)
    }

    /// When the next batch is expected to start. If the container said so with the credit, that counts. It also knows
    /// other frontends' batches, and how large a merged batch is.
    fn start(&self, now: Instant) -> Instant {
        let said = self
            .credits
            .first()
            .filter(|(credit, _)| !credit.starts_in.is_zero());
        match said {
            Some((credit, since)) => now.max(since + credit.starts_in),
            None => self.sent.free_at(now),
        }
    }

    fn depart(&mut self, batch: Vec<Placed<T>>, pressed: bool, now: Instant) -> Step {
        if batch.is_empty() {
            self.pause.passes();
            return Step::Pass;
        }
        let start = self.start(now);
        let Some((credit, since)) = self.credits.pop() else {
            unreachable!("a batch is taken against a credit only");
        };
        let bytes = batch.iter().map(Placed::bytes).sum();
        let predicted = self.latency.predict_of(batch.len(), bytes);
        let patience = Patience::with(&self.latency, batch.len());
        let patience = match self.borrowed {
            true => patience.with_a_first_batch(),
            false => patience,
        };
        let id = self.sent.insert(Outgoing {
            patience,
            whole: whole(batch.len(), credit.share),
            batch,
            pressed,
            now,
            start,
            expected: predicted.unwrap_or_default(),
        });
        self.pause.ends(now);
        Step::Send(Departure {
            id,
            credit: credit.sequence,
            credit_held: now.saturating_since(since),
            predicted,
        })
    }

    /// Announces the waiting queries to a container that grants no credit, if they have become more urgent and the
    /// container has a use for it.
    fn announce(&mut self, room: &WaitingRoom<T>, now: Instant) -> Step {
        let Some(first) = room.first().filter(|_| self.credits.wants_demand()) else {
            return Step::Wait;
        };
        let earliest = first.deadline();
        if self.announced.is_some_and(|announced| announced <= earliest) {
            return Step::Wait;
        }
        self.announced = Some(earliest);
        Step::Announce(Demand {
            queued: room.len(),
            earliest_budget: earliest.saturating_since(now),
            most_inputs: self.policy.most_shared().min(room.limit(now)),
        })
    }

    /// Takes out a credit that has no work and may not be kept. Returns its number.
    pub fn unparked_credit(&mut self) -> Option<u64> {
        self.credits.pop_unparked().map(|credit| credit.sequence)
    }

    /// The queries of a batch.
    pub fn queries(&self, id: u64) -> &[Placed<T>] {
        self.sent.get(id).map_or(&[], |sent| &sent.batch)
    }

    /// Takes back a batch that could not be sent.
    pub fn unsend(&mut self, id: u64) -> Vec<Placed<T>> {
        self.sent.remove(id).map(|sent| sent.batch).unwrap_or_default()
    }

    /// Takes out an answered batch, and learns from it. Only the inputs that the model really worked on tell its
    /// speed. The caller must then [`Self::report`].
    pub fn answered(&mut self, id: u64, answer: Completion, now: Instant) -> Option<Completed<T>> {
        let sent = self.sent.remove(id)?;
        let worked_on = match answer.is_merged {
            true => answer.worked_on,
            false => answer.worked_on.min(sent.size),
        };
        if worked_on > 0 {
            self.policy.observe(worked_on, answer.took);
            let planned = if answer.is_merged && sent.pressed {
                sent.whole
            } else {
                worked_on
            };
            // The bytes are not known for a part of a batch, or for other frontends' inputs.
            let bytes = (worked_on == sent.size && !answer.is_merged).then_some(sent.bytes);
            let observed = Observed {
                size: worked_on,
                planned,
                bytes,
                took: answer.took,
                pressed: sent.pressed,
            };
            self.learn(&observed);
            self.unreported = Some((worked_on, answer.took));
        }
        self.overhead
            .observe(now.saturating_since(sent.sent_at), answer.inside);
        self.look(now);
        Some(Completed {
            sent,
            learned: worked_on > 0,
        })
    }

    fn learn(&mut self, observed: &Observed) {
        let &Observed {
            size,
            planned,
            bytes,
            took,
            pressed,
        } = observed;
        let is_first = std::mem::take(&mut self.borrowed);
        if is_first && !self.latency.agrees(size, took) {
            // This replica is not as fast as the others.
            self.latency = LatencyModel::default();
        }
        match bytes {
            Some(bytes) => self.latency.observe_of(size, bytes, took, pressed),
            None => self.latency.observe_planned(size, planned, took, pressed),
        }
    }

    /// Tells the other replicas of the room what this one has learned before its first batch from there.
    pub fn introduce(&self, room: &mut WaitingRoom<T>, now: Instant) {
        room.batches_reach(self.latency.largest());
        self.publish(room, now);
    }

    /// Tells the other replicas of the room what is expected of this one, after a batch was answered.
    pub fn report(&mut self, room: &mut WaitingRoom<T>, now: Instant) {
        if let Some((size, took)) = self.unreported.take() {
            room.batch_answered(size, took);
        }
        if !self.overdue {
            self.publish(room, now);
        }
        if self.sent.is_empty() {
            self.pause.begins(now, !room.is_empty());
        }
    }

    fn publish(&self, room: &mut WaitingRoom<T>, now: Instant) {
        room.expect(self.replica, Some(self.outlook(now)));
        room.expect_each(self.replica, self.latency.each());
    }

    /// When the replica is expected to be free, and how long a batch of one takes then.
    pub fn outlook(&self, now: Instant) -> Other {
        Other {
            free: self.sent.free_at(now),
            alone: self.latency.predict(1).unwrap_or_default(),
        }
    }

    /// Updates whether a batch is overdue at `now`.
    pub fn look(&mut self, now: Instant) {
        self.overdue = self.sent.is_overdue(now);
        self.look_again = self.look_again.filter(|&again| again > now);
    }

    /// When to call [`Self::look`] and [`Self::step`] again.
    pub fn next_look(&self) -> Option<Instant> {
        let overdue = self.sent.next_look(self.overdue);
        overdue.into_iter().chain(self.look_again).min()
    }

    /// When to call [`Self::step`] again at the latest.
    pub fn next_step(&self) -> Option<Instant> {
        self.look_again
    }

    /// Whether a batch was overdue at the last [`Self::look`].
    pub fn is_overdue(&self) -> bool {
        self.overdue
    }

    /// Whether to give the replica up, because it hangs.
    pub fn is_hung(&self, now: Instant) -> bool {
        self.sent.is_hung(now)
    }

    /// Returns the queries that the container holds, if a batch is overdue and `others_ready` is not 0. While a batch
    /// is overdue the room does not count on this replica, so the others leave it none of these queries.
    pub fn hand_over(&mut self, room: &mut WaitingRoom<T>, others_ready: usize) -> Vec<Placed<T>> {
        if !self.overdue {
            return Vec::new();
        }
        room.expect(self.replica, None);
        match others_ready {
            0 => Vec::new(),
            _ => self.sent.hand_back(),
        }
    }

    /// All queries that the container holds.
    pub fn held(&self) -> impl Iterator<Item = &Placed<T>> {
        self.sent.queries()
    }

    /// Takes out all queries that the container holds.
    pub fn hand_back(&mut self) -> Vec<Placed<T>> {
        self.sent.hand_back()
    }

    /// Takes out all queries of a container that is lost.
    pub fn lose(&mut self, room: &mut WaitingRoom<T>, now: Instant) -> Loss<T> {
        let working_on = self.sent.first_size();
        Loss {
            too_large: working_on.filter(|&size| room.batch_failed(size, now)),
            queries: self.hand_back(),
        }
    }
}

/// How many inputs a batch is expected to have if `part` of them are this frontend's.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "batches are far smaller than 2^52"
)]
fn whole(part: usize, share: Share) -> usize {
    (part as f64 / share.of_inputs).round() as usize
}

/// The most bytes of this frontend's part of a batch of `max_bytes`.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "a share is between 0 and 1, and what is too large for an integer casts to the largest"
)]
fn own_bytes(max_bytes: usize, share: Share) -> usize {
    match share.of_inputs < 1.0 {
        true => (max_bytes as f64 * share.of_inputs) as usize,
        false => max_bytes,
    }
}

#[cfg(test)]
mod tests;

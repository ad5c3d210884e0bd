//! Which frontend gets the container's next slot, and when. Pure: it is told what happened and when.
//!
//! Slots belong to the container. One batch computes at a time; besides it there is at most one more batch
//! waiting or one credit out. That second credit opens only once the batch in hand will end sooner than a
//! credit needs to be turned into a batch (the round trip): the next batch is then decided as late as
//! possible, by whichever frontend has the most urgent queries, and the model still never waits for it. For a
//! model faster than the round trip that is at once.
//!
//! A lone frontend parks its credit until it has work, and announces no demand, which would change nothing. Of
//! several, only those with demand are granted one, the earliest deadline first; a credit that was parked
//! before there were several is recalled when another has demand. A frontend that has not heard yet that it
//! is no longer alone is taken to have demand, so that it is never forgotten: that costs at most one credit,
//! which comes straight back and has told it.
//!
//! Times are durations since a moment of the caller's choice.

mod batch_time;
mod round_trip;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use batch_time::BatchTime;
use round_trip::RoundTrip;

use crate::sample::BatchTimeSample;

/// Names one stream among all that a container ever opens.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct StreamId(pub u64);

/// The credits of one container.
#[derive(Debug, Default)]
pub struct Credits {
    streams: BTreeMap<StreamId, Stream>,
    /// Batches in the container, in the order in which the model takes them; the first is computing.
    held: VecDeque<Held>,
    granted: Option<Granted>,
    batch_time: BatchTime,
    draining: bool,
}

/// One registered stream.
#[derive(Debug, Default)]
struct Stream {
    /// Takes no more credits: the frontend drains, or the container leaves it.
    leaving: bool,
    /// The earliest deadline of what waits there. Forgotten when a credit is granted and by nothing else:
    /// word of demand that is out of date costs one credit that comes straight back, a word that got lost
    /// would leave queries without an answer.
    demand: Option<Duration>,
    /// The last it heard is that it is alone: it announces no demand.
    told_alone: bool,
    /// The last sequence granted; counts up from 1.
    last_sequence: u64,
    /// The credit that may still arrive as a batch, and when it was granted.
    unused: Option<(u64, Duration)>,
    round_trip: RoundTrip,
}

/// The one credit that is out.
#[derive(Debug)]
struct Granted {
    stream: StreamId,
    sequence: u64,
    park: bool,
    recalled: bool,
    /// Since when an answer to it is due; a parked one is kept for as long as nobody asks for it.
    due_since: Option<Duration>,
}

/// A batch in the container.
#[derive(Debug)]
struct Held {
    stream: StreamId,
    /// How long the model is expected to take; unknown before the first batch is done.
    predicted: Option<Duration>,
    /// When the model took it, or may be taken to have.
    started: Option<Duration>,
}

/// A batch that has arrived.
#[derive(Clone, Copy, Debug)]
pub struct Arrival {
    /// The credit it was sent against.
    pub credit: u64,
    /// How long the frontend held that credit.
    pub credit_held: Duration,
    /// How many inputs it has.
    pub inputs: usize,
    /// How long the frontend expects the model to take, if it knows.
    pub predicted: Option<Duration>,
}

/// A batch was sent against no credit: a mistake of the frontend.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("credit {0} was not granted, or was used before")]
pub struct Uncredited(pub u64);

/// What is to be done now.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Step {
    /// Send this credit, then ask again.
    Grant {
        /// To this stream.
        stream: StreamId,
        /// With this sequence.
        sequence: u64,
        /// Whether it may be kept until there is work: only by the one frontend there is, which is told so.
        park: bool,
    },
    /// Ask for this credit back, then ask here again.
    Recall {
        /// On this stream.
        stream: StreamId,
        /// The credit.
        sequence: u64,
    },
    /// Nothing before this time; ask again then, or when something happened.
    WaitUntil(Duration),
    /// Nothing until something happens.
    Wait,
}

/// A frontend's expectation counts as at most this many times what batches of that size have taken here, and
/// at least that fraction of it: one that is wildly wrong neither starves the model nor makes the next batch
/// wait long inside the container.
const TRUST: u32 = 4;

/// Timers fire up to this much late (tokio's count milliseconds), so credits that wait for one open this
/// much early: a batch decided a little sooner costs less than a model that waits.
const TIMER_SLACK: Duration = Duration::from_millis(1);

/// A credit that is neither used nor sent back is waited for as long as this many round trips take, and at
/// least so long, before another frontend gets one: a frontend may be busy.
const ROUND_TRIPS: u32 = 8;
const LEAST_PATIENCE: Duration = Duration::from_millis(50);

impl Stream {
    /// Whether it may get a credit: it takes more, and owes no answer to one that was given up.
    fn may_be_granted(&self) -> bool {
        !self.leaving && self.unused.is_none()
    }

    /// The earliest deadline of what waits there, as far as is known; the most urgent of all where nobody
    /// would say.
    fn demand(&self) -> Option<Duration> {
        if self.told_alone {
            return Some(Duration::ZERO);
        }
        self.demand
    }
}

impl Credits {
    /// A container with nothing in hand and no stream.
    pub fn new() -> Self {
        Self::default()
    }

    /// Such a container, whose model is known to have taken so long.
    pub fn knowing(samples: &[BatchTimeSample]) -> Self {
        let mut credits = Self::new();
        for sample in samples {
            credits.batch_time.observe(sample.inputs, sample.took);
        }
        credits
    }

    /// A frontend registered this container.
    pub fn attach(&mut self, stream: StreamId) {
        let leaving = self.draining;
        self.streams.insert(
            stream,
            Stream {
                leaving,
                ..Stream::default()
            },
        );
    }

    /// A stream ended; its credit is free. Its batches stay in hand until the model has done them.
    pub fn lose(&mut self, stream: StreamId) {
        self.streams.remove(&stream);
        self.free_credit_of(stream);
    }

    /// A frontend has queries waiting, the most urgent of which are due in `budget`.
    pub fn demand(&mut self, stream: StreamId, budget: Duration, now: Duration) {
        if let Some(stream) = self.streams.get_mut(&stream) {
            stream.demand = Some(now.saturating_add(budget));
        }
    }

    /// A batch arrived.
    pub fn batch(&mut self, stream: StreamId, arrival: Arrival, now: Duration) -> Result<(), Uncredited> {
        let sender = self.streams.get_mut(&stream).ok_or(Uncredited(arrival.credit))?;
        let used = sender.unused.take_if(|(sequence, _)| *sequence == arrival.credit);
        let (_, granted_at) = used.ok_or(Uncredited(arrival.credit))?;
        let elapsed = now.saturating_sub(granted_at);
        sender
            .round_trip
            .observe(elapsed.saturating_sub(arrival.credit_held));
        self.free_credit_of(stream);
        self.held.push_back(Held {
            stream,
            predicted: self.predict(&arrival),
            started: self.held.is_empty().then_some(now),
        });
        Ok(())
    }

    fn predict(&self, arrival: &Arrival) -> Option<Duration> {
        let learned = self.batch_time.predict(arrival.inputs);
        match (arrival.predicted, learned) {
            (Some(said), Some(learned)) => Some(said.clamp(learned / TRUST, learned.saturating_mul(TRUST))),
            (said, learned) => said.or(learned),
        }
    }

    /// The model is done with the batch it had, which took what the sample says, if it answered it at all.
    pub fn finish(&mut self, sample: Option<BatchTimeSample>, now: Duration) {
        self.held.pop_front();
        if let Some(sample) = sample {
            self.batch_time.observe(sample.inputs, sample.took);
        }
        if let Some(next) = self.held.front_mut() {
            next.started = Some(now);
        }
    }

    /// A credit came back unused.
    pub fn returned(&mut self, stream: StreamId, sequence: u64) {
        let Some(giver) = self.streams.get_mut(&stream) else {
            return;
        };
        if giver.unused.take_if(|(unused, _)| *unused == sequence).is_some() {
            self.free_credit_of(stream);
        }
    }

    /// The frontend drains: it sends no more batches. One that crossed this word is still taken.
    pub fn frontend_drains(&mut self, stream: StreamId) {
        self.leave(stream);
        self.free_credit_of(stream);
    }

    /// Grant this stream no more, and ask for what it has.
    pub fn leave(&mut self, stream: StreamId) {
        if let Some(stream) = self.streams.get_mut(&stream) {
            stream.leaving = true;
        }
    }

    /// Leave every stream, also those that attach later.
    pub fn drain(&mut self) {
        self.draining = true;
        for stream in self.streams.values_mut() {
            stream.leaving = true;
        }
    }

    /// Whether nothing is owed to this stream and none of its credits is out.
    pub fn is_clear_of(&self, stream: StreamId) -> bool {
        let holds_credit = self
            .granted
            .as_ref()
            .is_some_and(|granted| granted.stream == stream);
        !holds_credit && self.held.iter().all(|held| held.stream != stream)
    }

    /// What to do now. A credit or recall it names counts as sent.
    pub fn step(&mut self, now: Duration) -> Step {
        if self.granted.is_some() {
            if let Some(recall) = self.recall(now) {
                return recall;
            }
            match self.given_up_at() {
                None => return Step::Wait,
                Some(at) if at > now => return Step::WaitUntil(at),
                Some(_) => self.granted = None,
            }
        }
        let Some((stream, park)) = self.most_urgent() else {
            return Step::Wait;
        };
        match self.opens_at(stream, now) {
            None => Step::Wait,
            Some(at) if at > now => Step::WaitUntil(at),
            Some(_) => self.grant(stream, park, now),
        }
    }

    fn grant(&mut self, id: StreamId, park: bool, now: Duration) -> Step {
        let stream = self
            .streams
            .get_mut(&id)
            .expect("chosen from the streams; this is a bug");
        stream.demand = None;
        stream.told_alone = park;
        stream.last_sequence += 1;
        let sequence = stream.last_sequence;
        stream.unused = Some((sequence, now));
        self.granted = Some(Granted {
            stream: id,
            sequence,
            park,
            recalled: false,
            due_since: (!park).then_some(now),
        });
        Step::Grant {
            stream: id,
            sequence,
            park,
        }
    }

    /// When the credit that is out counts for no more: a frontend that is stopped or cut off neither uses it nor
    /// sends it back, and others have work. Its stream gets no other before it has answered to this one, so a
    /// batch sent against it is still taken, however late.
    fn given_up_at(&self) -> Option<Duration> {
        let granted = self.granted.as_ref()?;
        let holder = self.streams.get(&granted.stream)?;
        let is_wanted = self.streams.iter().any(|(id, stream)| {
            *id != granted.stream && stream.may_be_granted() && stream.demand().is_some()
        });
        let patience = (holder.round_trip.get() * ROUND_TRIPS).max(LEAST_PATIENCE);
        granted
            .due_since
            .filter(|_| is_wanted)
            .map(|since| since.saturating_add(patience))
    }

    /// Asks the credit that is out back, once, if its stream is being left or another has work for it.
    fn recall(&mut self, now: Duration) -> Option<Step> {
        let granted = self.granted.as_mut().filter(|granted| !granted.recalled)?;
        let leaving = self
            .streams
            .get(&granted.stream)
            .is_some_and(|stream| stream.leaving);
        let wanted = granted.park
            && self
                .streams
                .iter()
                .any(|(id, stream)| *id != granted.stream && !stream.leaving && stream.demand().is_some());
        if !leaving && !wanted {
            return None;
        }
        granted.recalled = true;
        granted.due_since.get_or_insert(now);
        if let Some(stream) = self.streams.get_mut(&granted.stream) {
            stream.told_alone = false;
        }
        Some(Step::Recall {
            stream: granted.stream,
            sequence: granted.sequence,
        })
    }

    /// The stream that gets the next credit, and whether it may park it.
    fn most_urgent(&self) -> Option<(StreamId, bool)> {
        let mut staying = self.streams.iter().filter(|(_, stream)| !stream.leaving);
        let first = staying.next()?;
        let Some(second) = staying.next() else {
            return first.1.may_be_granted().then_some((*first.0, true));
        };
        let with_demand = [first, second]
            .into_iter()
            .chain(staying)
            .filter(|(_, stream)| stream.may_be_granted())
            .filter_map(|(id, stream)| Some((stream.demand()?, *id)));
        with_demand.min().map(|(_, id)| (id, false))
    }

    /// When a credit for `stream` may open, or never while things are as they are.
    fn opens_at(&self, stream: StreamId, now: Duration) -> Option<Duration> {
        let computing = match self.held.len() {
            0 => return Some(now),
            1 => &self.held[0],
            _ => return None,
        };
        let end = computing.started?.saturating_add(computing.predicted?);
        let lead = self.streams.get(&stream)?.round_trip.get() + TIMER_SLACK;
        Some(end.saturating_sub(lead))
    }

    fn free_credit_of(&mut self, stream: StreamId) {
        self.granted.take_if(|granted| granted.stream == stream);
    }
}

#[cfg(test)]
mod tests;

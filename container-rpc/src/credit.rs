//! Which frontend gets the container's next slot, and when. Pure: it is told what happened and when.
//!
//! Slots belong to the container. One batch computes at a time; besides it there is at most one more batch
//! waiting or one credit out. That second credit opens only once the batch in hand will end sooner than a
//! credit needs to be turned into a batch (the round trip): the next batch is then decided as late as
//! possible, by whichever frontend has the most urgent queries, and the model still never waits for it. For a
//! model faster than the round trip that is at once.
//!
//! A lone frontend parks its credit until it has work, and announces no demand, which would change nothing. Of
//! several, only those with demand are granted one; a credit that was parked before there were several is
//! recalled when another has demand. A frontend that has not heard yet that it is no longer alone is taken to
//! have demand, so that it is never forgotten: that costs at most one credit, which comes straight back and has
//! told it.
//!
//! The credits of several frontends open together, and what is sent against them is one batch. Each frontend is
//! told which share of the batch is its own, by what waits at each of them, and how many inputs it may send. The
//! batch starts when all parts have come. A frontend that neither sends its part nor returns its credit holds the
//! others up for no longer than `SHORT_MOMENT` or a few round trips, and not at all while the model computes.
//!
//! Times are durations since a moment of the caller's choice.

mod batch_time;
mod mean;
mod round_trip;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use batch_time::BatchTime;
use mean::Mean;
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
    /// The credits that are out.
    granted: Vec<Granted>,
    /// Those of them that are to be sent.
    outgoing: Vec<Grant>,
    /// What was sent against those that were out together with them.
    parts: Vec<Part>,
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
    /// How many queries waited when it last announced demand.
    queued: usize,
    /// The same, on the average of the credits lately.
    usually_queued: Mean,
    /// The most inputs of a batch that holds some of its own, as it said last. Of one that never said, no batch is
    /// merged with others'.
    most_inputs: usize,
    /// How many inputs it sent lately against a credit.
    part: Mean,
    /// The last it heard is that it is alone: it announces no demand.
    told_alone: bool,
    /// The last sequence granted; counts up from 1.
    last_sequence: u64,
    /// The credit that may still arrive as a batch, and when it was granted.
    unused: Option<(u64, Duration)>,
    round_trip: RoundTrip,
}

/// A credit that is out.
#[derive(Debug)]
struct Granted {
    stream: StreamId,
    sequence: u64,
    park: bool,
    recalled: bool,
    /// Since when an answer to it is due; a parked one is kept for as long as nobody asks for it.
    due_since: Option<Duration>,
}

/// What one frontend sent for the next batch.
#[derive(Clone, Copy, Debug)]
struct Part {
    stream: StreamId,
    inputs: usize,
    /// How long the frontend expects the model to take for the whole batch.
    predicted: Option<Duration>,
}

/// A batch in the container.
#[derive(Debug)]
struct Held {
    streams: Vec<StreamId>,
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

/// What waits at a frontend.
#[derive(Clone, Copy, Debug)]
pub struct Demand {
    /// How many queries.
    pub queued: usize,
    /// Time left until the earliest deadline.
    pub budget: Duration,
    /// The most inputs that a batch with some of this frontend's may have; 0 and 1: it is merged with no others'.
    pub most_inputs: usize,
}

/// What becomes of a batch that arrived.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Taken {
    /// It is a part of the next batch, which starts when [`Credits::step`] says so.
    Part,
    /// Its credit had been given up: it is a batch of its own, and the model takes it next.
    Late,
}

/// A credit to be sent.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Grant {
    /// To this stream.
    pub stream: StreamId,
    /// With this sequence.
    pub sequence: u64,
    /// Whether it may be kept until there is work: only by the one frontend there is, which is told so.
    pub park: bool,
    /// What the frontend may send.
    pub share: Share,
    /// When the batch is expected to start, from when the frontend has the credit on.
    pub starts_in: Duration,
}

/// One frontend's part of a batch.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Share {
    /// The expected part of the batch's inputs, in millionths.
    pub millionths: u32,
    /// The most inputs that it may send; none: as many as it likes.
    pub most_inputs: Option<usize>,
}

impl Share {
    /// All of it.
    pub const WHOLE: Self = Self {
        millionths: 1_000_000,
        most_inputs: None,
    };
}

/// A batch was sent against no credit: a mistake of the frontend.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("credit {0} was not granted, or was used before")]
pub struct Uncredited(pub u64);

/// What is to be done now.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Step {
    /// Send this credit, then ask again.
    Grant(Grant),
    /// Give the model all parts that came since the last start, as one batch, then ask again.
    Start,
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

/// While the model has nothing to do, parts that have come wait for the others as long as [`ROUND_TRIPS`], and at
/// least so long.
const SHORT_MOMENT: Duration = Duration::from_millis(2);

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

    /// How many queries wait there now, roughly: what it announced, and as many as come from one batch to the next.
    fn waiting(&self) -> f64 {
        self.usually_queued.get().max(1.0) + self.part.get()
    }
}

impl Share {
    /// Such a part of the inputs, and of those `beyond_one` for each.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_precision_loss,
        clippy::cast_sign_loss,
        reason = "a part is between 0 and 1, and what is too large for an integer casts to the largest"
    )]
    fn of(part: f64, beyond_one: usize) -> Self {
        Self {
            millionths: ((part * 1e6) as u32).max(1),
            most_inputs: Some((part * beyond_one as f64) as usize + 1),
        }
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

    /// A frontend has queries waiting.
    pub fn demand(&mut self, stream: StreamId, demand: Demand, now: Duration) {
        if let Some(stream) = self.streams.get_mut(&stream) {
            stream.demand = Some(now.saturating_add(demand.budget));
            stream.queued = demand.queued;
            stream.most_inputs = demand.most_inputs;
        }
    }

    /// A batch arrived.
    pub fn batch(&mut self, stream: StreamId, arrival: Arrival, now: Duration) -> Result<Taken, Uncredited> {
        let sender = self.streams.get_mut(&stream).ok_or(Uncredited(arrival.credit))?;
        let used = sender.unused.take_if(|(sequence, _)| *sequence == arrival.credit);
        let (_, granted_at) = used.ok_or(Uncredited(arrival.credit))?;
        let elapsed = now.saturating_sub(granted_at);
        sender
            .round_trip
            .observe(elapsed.saturating_sub(arrival.credit_held));
        sender.part.observe(arrival.inputs);
        let part = Part {
            stream,
            inputs: arrival.inputs,
            predicted: arrival.predicted,
        };
        if self.free_credit_of(stream) {
            self.parts.push(part);
            return Ok(Taken::Part);
        }
        self.hold(&[part], now);
        Ok(Taken::Late)
    }

    /// The model takes a batch of these parts next.
    fn hold(&mut self, parts: &[Part], now: Duration) {
        self.held.push_back(Held {
            streams: parts.iter().map(|part| part.stream).collect(),
            predicted: self.predict(parts),
            started: self.held.is_empty().then_some(now),
        });
    }

    /// How long a batch of these parts is expected to take. Each frontend expects as much of the others as is usual,
    /// the container knows what came: of several parts, what it has learned itself counts.
    fn predict(&self, parts: &[Part]) -> Option<Duration> {
        let said = parts.iter().filter_map(|part| part.predicted).max();
        let learned = self
            .batch_time
            .predict(parts.iter().map(|part| part.inputs).sum());
        match (said, learned) {
            (Some(said), Some(learned)) if parts.len() == 1 => {
                Some(said.clamp(learned / TRUST, learned.saturating_mul(TRUST)))
            }
            (said, learned) => learned.or(said),
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
            giver.part.observe(0);
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
        let holds_credit = self.granted.iter().any(|granted| granted.stream == stream);
        let sent = self.parts.iter().any(|part| part.stream == stream);
        !holds_credit && !sent && self.held.iter().all(|held| !held.streams.contains(&stream))
    }

    /// What to do now. A credit or recall it names counts as sent.
    pub fn step(&mut self, now: Duration) -> Step {
        if let Some(grant) = self.outgoing.pop() {
            return Step::Grant(grant);
        }
        if !self.granted.is_empty() {
            if let Some(recall) = self.recall(now) {
                return recall;
            }
            match self.given_up_at() {
                None => return Step::Wait,
                Some(at) if at > now => return Step::WaitUntil(at),
                Some(_) => self.granted.clear(),
            }
        }
        if !self.parts.is_empty() {
            let parts = std::mem::take(&mut self.parts);
            self.hold(&parts, now);
            return Step::Start;
        }
        let Some((streams, park)) = self.most_urgent() else {
            return Step::Wait;
        };
        match self.opens_at(&streams, now) {
            None => Step::Wait,
            Some(at) if at > now => Step::WaitUntil(at),
            Some(_) => self.open(&streams, park, now),
        }
    }

    /// Grants these streams a credit each, for parts of one batch.
    fn open(&mut self, streams: &[StreamId], park: bool, now: Duration) -> Step {
        for id in streams {
            if let Some(stream) = self.streams.get_mut(id) {
                stream.usually_queued.observe(stream.queued);
            }
        }
        let shares = self.shares(streams);
        for (&id, share) in streams.iter().zip(shares) {
            let starts_in = match park {
                true => Duration::ZERO,
                false => self.starts_in(id, now),
            };
            self.grant(
                Grant {
                    stream: id,
                    sequence: 0,
                    park,
                    share,
                    starts_in,
                },
                now,
            );
        }
        // The most urgent first.
        self.outgoing.reverse();
        self.outgoing.pop().map_or(Step::Wait, Step::Grant)
    }

    fn grant(&mut self, grant: Grant, now: Duration) {
        let Grant { stream: id, park, .. } = grant;
        let stream = self
            .streams
            .get_mut(&id)
            .expect("chosen from the streams; this is a bug");
        stream.demand = None;
        stream.told_alone = park;
        stream.last_sequence += 1;
        let sequence = stream.last_sequence;
        stream.unused = Some((sequence, now));
        self.granted.push(Granted {
            stream: id,
            sequence,
            park,
            recalled: false,
            due_since: (!park).then_some(now),
        });
        self.outgoing.push(Grant { sequence, ..grant });
    }

    /// How the next batch is divided between these streams: each may send at least one input, and of the rest so much
    /// as is its share of what waits.
    fn shares(&self, streams: &[StreamId]) -> Vec<Share> {
        if streams.len() < 2 {
            return vec![Share::WHOLE; streams.len()];
        }
        let streams = || streams.iter().filter_map(|id| self.streams.get(id));
        let most = streams().map(|stream| stream.most_inputs).min().unwrap_or(0);
        let all: f64 = streams().map(Stream::waiting).sum();
        let beyond_one = most.saturating_sub(streams().count());
        let share = |stream: &Stream| Share::of(stream.waiting() / all, beyond_one);
        let mut shares: Vec<_> = streams().map(share).collect();
        // What rounding left is for the most urgent.
        let given: usize = shares.iter().filter_map(|share| share.most_inputs).sum();
        for share in shares.iter_mut().take(most.saturating_sub(given)) {
            share.most_inputs = share.most_inputs.map(|inputs| inputs + 1);
        }
        shares
    }

    /// When a batch whose credit opens now is expected to start, from when this stream's frontend has heard of it on.
    fn starts_in(&self, stream: StreamId, now: Duration) -> Duration {
        let way = self
            .streams
            .get(&stream)
            .map(|stream| stream.round_trip.get() / 2);
        let end = self.held.front().and_then(Held::ends);
        end.unwrap_or_default()
            .saturating_sub(now.saturating_add(way.unwrap_or_default()))
    }

    /// When the credits that are out count for no more: a frontend that is stopped or cut off neither uses its own nor
    /// sends it back, and others have work. Its stream gets no other before it has answered to this one, so a
    /// batch sent against it is still taken, however late.
    fn given_up_at(&self) -> Option<Duration> {
        let has_parts = !self.parts.is_empty();
        let is_granted = |id| self.granted.iter().any(|granted| granted.stream == id);
        let is_wanted = || {
            self.streams
                .iter()
                .any(|(id, stream)| !is_granted(*id) && stream.may_be_granted() && stream.demand().is_some())
        };
        let least = match has_parts {
            true if self.held.is_empty() => SHORT_MOMENT,
            false if is_wanted() => LEAST_PATIENCE,
            _ => return None,
        };
        let given_up = |granted: &Granted| {
            let holder = self.streams.get(&granted.stream)?;
            let patience = (holder.round_trip.get() * ROUND_TRIPS).max(least);
            Some(granted.due_since?.saturating_add(patience))
        };
        self.granted.iter().map(given_up).max().flatten()
    }

    /// Asks a credit that is out back, once, if its stream is being left or another has work for it.
    fn recall(&mut self, now: Duration) -> Option<Step> {
        let streams = &self.streams;
        let leaving = |granted: &Granted| streams.get(&granted.stream).is_some_and(|stream| stream.leaving);
        let wanted = |granted: &Granted| {
            granted.park
                && streams
                    .iter()
                    .any(|(id, stream)| *id != granted.stream && !stream.leaving && stream.demand().is_some())
        };
        let granted = self
            .granted
            .iter_mut()
            .find(|granted| !granted.recalled && (leaving(granted) || wanted(granted)))?;
        granted.recalled = true;
        granted.due_since.get_or_insert(now);
        let (stream, sequence) = (granted.stream, granted.sequence);
        if let Some(stream) = self.streams.get_mut(&stream) {
            stream.told_alone = false;
        }
        Some(Step::Recall { stream, sequence })
    }

    /// The streams that get the next credits, the most urgent first, and whether that may be parked.
    fn most_urgent(&self) -> Option<(Vec<StreamId>, bool)> {
        let mut staying = self.streams.iter().filter(|(_, stream)| !stream.leaving);
        let first = staying.next()?;
        let Some(second) = staying.next() else {
            return first.1.may_be_granted().then(|| (vec![*first.0], true));
        };
        let mut with_demand: Vec<_> = [first, second]
            .into_iter()
            .chain(staying)
            .filter(|(_, stream)| stream.may_be_granted())
            .filter_map(|(id, stream)| Some((stream.demand()?, *id)))
            .collect();
        with_demand.sort_unstable();
        let (mut chosen, mut most) = (Vec::new(), usize::MAX);
        for (_, id) in with_demand {
            most = most.min(self.streams.get(&id)?.most_inputs);
            if !chosen.is_empty() && chosen.len() >= most {
                break;
            }
            chosen.push(id);
        }
        (!chosen.is_empty()).then_some((chosen, false))
    }

    /// When credits for these streams may open, or never while things are as they are.
    fn opens_at(&self, streams: &[StreamId], now: Duration) -> Option<Duration> {
        let computing = match self.held.len() {
            0 => return Some(now),
            1 => &self.held[0],
            _ => return None,
        };
        let round_trips = streams.iter().filter_map(|id| self.streams.get(id));
        let slowest = round_trips.map(|stream| stream.round_trip.get()).max()?;
        Some(computing.ends()?.saturating_sub(slowest + TIMER_SLACK))
    }

    /// Whether this stream's credit was out.
    fn free_credit_of(&mut self, stream: StreamId) -> bool {
        let before = self.granted.len();
        self.granted.retain(|granted| granted.stream != stream);
        self.outgoing.retain(|grant| grant.stream != stream);
        self.granted.len() < before
    }
}

impl Held {
    fn ends(&self) -> Option<Duration> {
        Some(self.started?.saturating_add(self.predicted?))
    }
}

#[cfg(test)]
mod tests;

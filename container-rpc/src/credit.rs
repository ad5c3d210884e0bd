//! Which frontend gets the container's next credit, and when. Pure: the caller says what happened, and when.
//!
//! Slots belong to the container. One batch computes. Beside it there is at most one more batch that waits, or one
//! set of credits that is out. A second credit opens only when the batch in hand will end within a round trip, the
//! time that a credit takes to become a batch. So the next batch is decided as late as possible, and the model still
//! never waits. If the model is faster than the round trip, the second credit opens at once.
//!
//! A lone frontend parks its credit until it has work. It announces no demand, which would change nothing. Of several
//! frontends, only those with demand get a credit. A credit that was parked before is recalled when another frontend
//! has demand. A frontend that still believes itself alone announces nothing, so it counts as having demand. That
//! costs at most one credit, which comes straight back and has told the frontend that it is not alone.
//!
//! The credits of several frontends open together, and all that they send is one batch. Each frontend is told its
//! share of the batch, by how much waits at each, and the most inputs that it may send. The batch starts when all
//! parts have come. A frontend that neither sends its part nor returns its credit delays the others by
//! `max(ROUND_TRIPS * rtt, SHORT_MOMENT)` at most, and not at all while the model computes.
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

/// All credits of one container, and the batches that came for them.
#[derive(Debug, Default)]
pub struct Credits {
    streams: BTreeMap<StreamId, Stream>,
    /// Batches in the container, in the order in which the model takes them; the first is computing.
    held: VecDeque<Held>,
    /// Credits that are out: granted, and neither used nor returned.
    granted: Vec<Granted>,
    /// The part of `granted` that [`Credits::step`] has not yet handed to the caller.
    outgoing: Vec<Grant>,
    /// Parts of the next batch, sent against credits that were out together.
    parts: Vec<Part>,
    batch_time: BatchTime,
    draining: bool,
}

/// One registered stream, to one frontend.
#[derive(Debug, Default)]
struct Stream {
    /// It gets no more credits: its frontend drains, or the container leaves it.
    leaving: bool,
    /// The earliest deadline of the queries that wait at the frontend. Only a grant clears it. Stale demand costs one
    /// credit that comes straight back; lost demand would leave queries without an answer.
    demand: Option<Duration>,
    /// How many queries waited when the frontend last announced demand.
    queued: usize,
    /// The mean of `queued` over recent credits.
    usually_queued: Mean,
    /// The most inputs of a batch that contains inputs of this frontend, as the frontend said last. It is 0 until the
    /// frontend says it, and then its batches are not merged.
    most_inputs: usize,
    /// The mean number of inputs that it sent lately against a credit.
    part: Mean,
    /// The frontend was last told that it is alone, so it announces no demand.
    told_alone: bool,
    /// The sequence of the last grant; the first has 1.
    last_sequence: u64,
    /// The credit against which a batch may still arrive, and when it was granted.
    unused: Option<(u64, Duration)>,
    round_trip: RoundTrip,
}

/// A credit that is out: granted, and neither used nor returned.
#[derive(Debug)]
struct Granted {
    stream: StreamId,
    sequence: u64,
    park: bool,
    recalled: bool,
    /// Since when an answer is due. A parked credit has none until it is recalled.
    due_since: Option<Duration>,
}

/// What one frontend sent for the next batch.
#[derive(Clone, Copy, Debug)]
struct Part {
    stream: StreamId,
    inputs: usize,
    /// How long the frontend expects the model to take for the whole batch, the other frontends' parts included.
    predicted: Option<Duration>,
}

/// A batch in the container: it computes, or waits for the model.
#[derive(Debug)]
struct Held {
    streams: Vec<StreamId>,
    /// How long the model is expected to take. Unknown before the first batch is done.
    predicted: Option<Duration>,
    /// When the model took it. `None` while it waits behind another batch.
    started: Option<Duration>,
}

/// A batch as it arrives on a stream.
#[derive(Clone, Copy, Debug)]
pub struct Arrival {
    /// The sequence of the credit that it was sent against.
    pub credit: u64,
    /// How long the frontend held that credit.
    pub credit_held: Duration,
    /// The number of its inputs.
    pub inputs: usize,
    /// How long the frontend expects the model to take, if it knows.
    pub predicted: Option<Duration>,
}

/// A frontend's word that queries wait there.
#[derive(Clone, Copy, Debug)]
pub struct Demand {
    /// How many queries wait.
    pub queued: usize,
    /// Time left until the earliest of their deadlines.
    pub budget: Duration,
    /// The most inputs of a batch that contains inputs of this frontend. With 0 or 1 its batches are not merged.
    pub most_inputs: usize,
}

/// How an arrived batch is given to the model.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Taken {
    /// As a part of the next batch, which starts when [`Credits::step`] says so.
    Part,
    /// As a batch of its own, because its credit had been given up. The model takes it next.
    Late,
}

/// A credit to send to a frontend.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Grant {
    /// The stream to send it on.
    pub stream: StreamId,
    /// Its number on that stream.
    pub sequence: u64,
    /// Whether the frontend may keep it until it has work. Only a lone frontend may, and so learns that it is alone.
    pub park: bool,
    /// How much of the batch the frontend may send.
    pub share: Share,
    /// The time from the credit's arrival at the frontend to the expected start of the batch.
    pub starts_in: Duration,
}

/// One frontend's part of a batch.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Share {
    /// The expected part of the batch's inputs, in millionths.
    pub millionths: u32,
    /// The most inputs that the frontend may send. `None`: no limit.
    pub most_inputs: Option<usize>,
}

impl Share {
    /// The whole batch, without a limit: for a lone frontend.
    pub const WHOLE: Self = Self {
        millionths: 1_000_000,
        most_inputs: None,
    };
}

/// A batch came without a valid credit: a mistake of the frontend.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("credit {0} was not granted, or was used before")]
pub struct Uncredited(pub u64);

/// What the caller is to do now.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Step {
    /// Send this credit, then ask again.
    Grant(Grant),
    /// Give the model all parts that came since the last start, as one batch. Then ask again.
    Start,
    /// Ask the frontend to give this credit back. Then ask here again.
    Recall {
        /// The stream of the credit.
        stream: StreamId,
        /// The credit's number on that stream.
        sequence: u64,
    },
    /// Do nothing before this time. Ask again then, or when something happened.
    WaitUntil(Duration),
    /// Do nothing until something happens.
    Wait,
}

/// A frontend's expectation is clamped to within this factor of the container's own, up and down. So a wildly wrong
/// expectation neither starves the model nor makes the next batch wait long inside the container.
const TRUST: u32 = 4;

/// Timers fire up to this late: tokio counts milliseconds. So credits that wait for a timer open this much early. A
/// batch decided a little too soon costs less than a model that waits.
const TIMER_SLACK: Duration = Duration::from_millis(1);

/// An unused credit is given up after `max(ROUND_TRIPS * rtt, LEAST_PATIENCE)`, and another frontend gets one.
/// Shorter would punish a frontend that is merely busy.
const ROUND_TRIPS: u32 = 8;
const LEAST_PATIENCE: Duration = Duration::from_millis(50);

/// While the model is free, parts that have come wait for missing ones for `max(ROUND_TRIPS * rtt, SHORT_MOMENT)`.
const SHORT_MOMENT: Duration = Duration::from_millis(2);

impl Stream {
    /// Whether it may get a credit: it is not leaving, and has answered its last credit with a batch or returned it.
    fn may_be_granted(&self) -> bool {
        !self.leaving && self.unused.is_none()
    }

    /// The earliest deadline of the queries that wait there. Zero, the most urgent, for a frontend that believes
    /// itself alone and so would not announce it.
    fn demand(&self) -> Option<Duration> {
        if self.told_alone {
            return Some(Duration::ZERO);
        }
        self.demand
    }

    /// Roughly how many queries wait there now: the mean number announced, and the mean number sent against a credit,
    /// which is about what arrives from one batch to the next.
    fn waiting(&self) -> f64 {
        self.usually_queued.get().max(1.0) + self.part.get()
    }
}

impl Share {
    /// The fraction `part` of the inputs. It allows one input, and `part` of `beyond_one` more.
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

    /// A container whose model is known from these earlier batches.
    pub fn knowing(samples: &[BatchTimeSample]) -> Self {
        let mut credits = Self::new();
        for sample in samples {
            credits.batch_time.observe(sample.inputs, sample.took);
        }
        credits
    }

    /// A frontend has registered this container: from now on its stream may get credits.
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

    /// The stream has ended, and its credit is free. Its batches stay in hand until the model has done them.
    pub fn lose(&mut self, stream: StreamId) {
        self.streams.remove(&stream);
        self.free_credit_of(stream);
    }

    /// The frontend announces that queries wait.
    pub fn demand(&mut self, stream: StreamId, demand: Demand, now: Duration) {
        if let Some(stream) = self.streams.get_mut(&stream) {
            stream.demand = Some(now.saturating_add(demand.budget));
            stream.queued = demand.queued;
            stream.most_inputs = demand.most_inputs;
        }
    }

    /// A batch has arrived. Fails if the stream holds no such credit.
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

    /// Queues a batch of these parts for the model.
    fn hold(&mut self, parts: &[Part], now: Duration) {
        self.held.push_back(Held {
            streams: parts.iter().map(|part| part.stream).collect(),
            predicted: self.predict(parts),
            started: self.held.is_empty().then_some(now),
        });
    }

    /// How long a batch of these parts is expected to take. A frontend only guesses the parts of the others; the
    /// container knows them. So for several parts the container's own estimate counts, and for one part it bounds the
    /// frontend's.
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

    /// The model is done with its batch. The sample has its time, if the model answered it.
    pub fn finish(&mut self, sample: Option<BatchTimeSample>, now: Duration) {
        self.held.pop_front();
        if let Some(sample) = sample {
            self.batch_time.observe(sample.inputs, sample.took);
        }
        if let Some(next) = self.held.front_mut() {
            next.started = Some(now);
        }
    }

    /// A credit came back unused. It may open anew for any frontend.
    pub fn returned(&mut self, stream: StreamId, sequence: u64) {
        let Some(giver) = self.streams.get_mut(&stream) else {
            return;
        };
        if giver.unused.take_if(|(unused, _)| *unused == sequence).is_some() {
            giver.part.observe(0);
            self.free_credit_of(stream);
        }
    }

    /// The frontend drains and sends no more batches. A batch that is already on its way is still taken.
    pub fn frontend_drains(&mut self, stream: StreamId) {
        self.leave(stream);
        self.free_credit_of(stream);
    }

    /// Grants this stream nothing more, and recalls its credit.
    pub fn leave(&mut self, stream: StreamId) {
        if let Some(stream) = self.streams.get_mut(&stream) {
            stream.leaving = true;
        }
    }

    /// Leaves every stream, and streams that attach later.
    pub fn drain(&mut self) {
        self.draining = true;
        for stream in self.streams.values_mut() {
            stream.leaving = true;
        }
    }

    /// Whether the container has no batch and no part of this stream, and the stream no credit.
    pub fn is_clear_of(&self, stream: StreamId) -> bool {
        let holds_credit = self.granted.iter().any(|granted| granted.stream == stream);
        let sent = self.parts.iter().any(|part| part.stream == stream);
        !holds_credit && !sent && self.held.iter().all(|held| !held.streams.contains(&stream))
    }

    /// The next thing to do. A grant or a recall that is returned counts as sent.
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

    /// Grants one credit to each of these streams, for parts of one batch.
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
        // `step` pops from the end, so the most urgent stream must be last.
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

    /// Divides the next batch between these streams. Each may send one input. The rest is divided by how much waits
    /// at each.
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
        // Rounding down leaves some inputs: the most urgent streams get one more each.
        let given: usize = shares.iter().filter_map(|share| share.most_inputs).sum();
        for share in shares.iter_mut().take(most.saturating_sub(given)) {
            share.most_inputs = share.most_inputs.map(|inputs| inputs + 1);
        }
        shares
    }

    /// The time from the credit's arrival at this stream's frontend to the expected start of its batch.
    fn starts_in(&self, stream: StreamId, now: Duration) -> Duration {
        let way = self
            .streams
            .get(&stream)
            .map(|stream| stream.round_trip.get() / 2);
        let end = self.held.front().and_then(Held::ends);
        end.unwrap_or_default()
            .saturating_sub(now.saturating_add(way.unwrap_or_default()))
    }

    /// When the credits that are out stop counting. A frontend that is stopped or cut off neither uses nor returns
    /// its credit, and others have work. It gets no other credit before it has answered this one, so a batch sent
    /// against it is still taken, however late.
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

    /// Recalls a credit that is out, once, if its stream is leaving, or if it is parked and another frontend has
    /// demand.
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

    /// The streams that get the next credits, most urgent first, and whether the credit may be parked.
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

    /// When credits for these streams may open. `None`: not before something else happens.
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

    /// Frees the credit of this stream. Returns whether one was out.
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

//! Several frontends that share replicas by credits, message by message.
//!
//! Each query comes to one of the frontends, each as likely as the others. A frontend has a queue of its own,
//! and for each replica a policy and what it learned from the batches it sent there. Who may send the next
//! batch is decided by the container: `skysail-container-rpc`'s [`Credits`] themselves. What frontends do with
//! a credit is what the server's batchers do. Every message takes a while.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::time::Duration;

use fastrand::Rng;
use skysail_container_rpc::credit::{Arrival, Credits, Step, StreamId};
use skysail_container_rpc::sample::BatchTimeSample;
use skysail_core::arrivals::Arrivals;
use skysail_core::batch::{BatchPolicy, LatencyModel, Other, Overhead, Pause, Situation};
use skysail_core::query::DefaultReason;
use skysail_core::queue::{Bounds, DeadlineQueue, Deadlines};
use skysail_core::time::Instant;

use crate::cost::Cost;
use crate::noise::Noise;
use crate::policy::PolicyKind;
use crate::scenario::{Query, Scenario, Sharing};
use crate::simulation::Tally;

/// Offers a scenario's queries to a policy at several frontends.
pub(crate) fn simulate(
    policy: PolicyKind,
    scenario: &Scenario,
    sharing: Sharing,
    queries: &[Query],
) -> Tally {
    let mut cluster = Cluster::new(policy, scenario, sharing);
    let mut rng = scenario.frontends_rng();
    for query in queries {
        let frontend = rng.usize(..sharing.frontends);
        cluster.agenda.add(
            query.arrival,
            Event::Query {
                frontend,
                deadline: query.deadline,
            },
        );
    }
    cluster.run()
}

/// One of the frontends' ways to one of the containers.
#[derive(Clone, Copy, Debug)]
struct Link {
    frontend: usize,
    container: usize,
}

#[derive(Debug)]
enum Event {
    Query {
        frontend: usize,
        deadline: Instant,
    },
    ToContainer(Link, FromFrontend),
    ToFrontend(Link, FromContainer),
    /// The container's model is done with the batch it has.
    Finished(usize),
    /// A credit of this container may open.
    Wake(usize),
}

#[derive(Debug)]
enum FromFrontend {
    /// Queries wait, the first of which is due in so long.
    Demand(Duration),
    Returned(u64),
    Batch {
        arrival: Arrival,
        deadlines: Vec<Instant>,
    },
}

#[derive(Clone, Copy, Debug)]
enum FromContainer {
    Credit { sequence: u64, park: bool },
    Recall { sequence: u64 },
    Result { took: Duration, waited: Duration },
}

/// What is to happen; in the same instant, what was added first happens first.
#[derive(Debug, Default)]
struct Agenda {
    times: BinaryHeap<Reverse<(Instant, usize)>>,
    events: Vec<Option<Event>>,
}

impl Agenda {
    fn add(&mut self, at: Instant, event: Event) {
        self.times.push(Reverse((at, self.events.len())));
        self.events.push(Some(event));
    }

    fn next(&mut self) -> Option<(Instant, Event)> {
        let Reverse((at, number)) = self.times.pop()?;
        let event = self.events[number].take();
        Some((at, event.expect("each event happens once; this is a bug")))
    }
}

struct Cluster {
    now: Instant,
    agenda: Agenda,
    delay: Duration,
    frontends: Vec<Frontend>,
    containers: Vec<Container>,
    noise: Noise,
    rng: Rng,
    tally: Tally,
}

/// A frontend: a queue and a batcher for each replica.
struct Frontend {
    queue: DeadlineQueue<()>,
    arrivals: Arrivals,
    batchers: Vec<Batcher>,
}

struct Batcher {
    policy: Box<dyn BatchPolicy>,
    latency: LatencyModel,
    overhead: Overhead,
    credits: VecDeque<Credit>,
    /// Whether the container knows no other frontend, and so has no use for word of demand.
    alone: bool,
    announced: Option<Instant>,
    sent: VecDeque<Sent>,
    pause: Pause,
}

/// A credit in a frontend's hands.
#[derive(Clone, Copy, Debug)]
struct Credit {
    sequence: u64,
    park: bool,
    since: Instant,
}

/// A batch that was sent.
struct Sent {
    deadlines: Vec<Instant>,
    pressed: bool,
    at: Instant,
    expected_end: Instant,
}

impl Batcher {
    fn new(policy: Box<dyn BatchPolicy>) -> Self {
        Self {
            policy,
            latency: LatencyModel::default(),
            overhead: Overhead::default(),
            credits: VecDeque::new(),
            alone: false,
            announced: None,
            sent: VecDeque::new(),
            pause: Pause::default(),
        }
    }

    /// When the container is expected to be done with what this frontend sent it.
    fn free_at(&self, now: Instant) -> Instant {
        self.sent.back().map_or(now, |batch| batch.expected_end.max(now))
    }

    fn outlook(&self, now: Instant) -> Other {
        Other {
            free: self.free_at(now),
            alone: self.latency.predict(1).unwrap_or_default(),
        }
    }
}

/// A container: its credits, and the batches in its hands.
struct Container {
    cost: Cost,
    credits: Credits,
    held: VecDeque<Held>,
    /// When it is to be woken, so that it is not more often.
    wake: Option<Instant>,
}

struct Held {
    link: Link,
    inputs: usize,
    arrived: Instant,
    started: Instant,
}

/// A container's credits count time from the beginning.
fn since_start(now: Instant) -> Duration {
    now.saturating_since(Instant::default())
}

/// A part of what queries are given, at most, is allowed for the way: as in the server.
const MOST_OVERHEAD: u32 = 4;

/// Timers fire at whole milliseconds, as tokio's do.
fn timer(at: Instant) -> Instant {
    const MILLISECOND: u64 = 1_000_000;
    Instant::from_nanos(at.as_nanos().div_ceil(MILLISECOND) * MILLISECOND)
}

impl Cluster {
    fn new(policy: PolicyKind, scenario: &Scenario, sharing: Sharing) -> Self {
        let Sharing { frontends, delay } = sharing;
        let streams = (0..frontends as u64).map(StreamId);
        let container = |cost| {
            let mut credits = Credits::new();
            streams.clone().for_each(|stream| credits.attach(stream));
            Container {
                cost,
                credits,
                held: VecDeque::new(),
                wake: None,
            }
        };
        let containers: Vec<_> = scenario.replicas().map(container).collect();
        let batcher = |_: &Container| Batcher::new(policy.build(scenario.max_batch));
        let frontend = |_| Frontend {
            queue: DeadlineQueue::new(Bounds {
                count: usize::MAX,
                bytes: usize::MAX,
            }),
            arrivals: Arrivals::default(),
            batchers: containers.iter().map(batcher).collect(),
        };
        Self {
            now: Instant::default(),
            agenda: Agenda::default(),
            delay,
            frontends: (0..frontends).map(frontend).collect(),
            tally: Tally::new(containers.len()),
            containers,
            noise: scenario.noise,
            rng: scenario.noise_rng(),
        }
    }

    fn run(mut self) -> Tally {
        for container in 0..self.containers.len() {
            self.settle(container);
        }
        while let Some((at, event)) = self.agenda.next() {
            self.now = at;
            match event {
                Event::Query { frontend, deadline } => self.enqueue(frontend, deadline),
                Event::ToContainer(link, message) => self.hear(link, message),
                Event::ToFrontend(link, message) => self.receive(link, message),
                Event::Finished(container) => self.finish(container),
                Event::Wake(container) => {
                    self.containers[container].wake = None;
                    self.settle(container);
                }
            }
        }
        for frontend in &self.frontends {
            let left = frontend.queue.len();
            self.tally.default_output(DefaultReason::ExpiredInQueue, left);
        }
        self.tally
    }

    fn enqueue(&mut self, at: usize, deadline: Instant) {
        let frontend = &mut self.frontends[at];
        frontend
            .arrivals
            .record(self.now, deadline.saturating_since(self.now));
        let queued = frontend.queue.push(deadline, 1, ());
        queued.expect("the queue has no bounds; this is a bug");
        self.dispatch(at);
    }

    fn receive(&mut self, link: Link, message: FromContainer) {
        let now = self.now;
        let batcher = &mut self.frontends[link.frontend].batchers[link.container];
        match message {
            FromContainer::Credit { sequence, park } => {
                let since = now;
                batcher.credits.push_back(Credit {
                    sequence,
                    park,
                    since,
                });
                batcher.alone = park;
            }
            FromContainer::Recall { sequence } => {
                batcher.alone = false;
                let recalled = batcher
                    .credits
                    .iter_mut()
                    .filter(|credit| credit.sequence == sequence);
                recalled.for_each(|credit| credit.park = false);
            }
            FromContainer::Result { took, waited } => self.answer(link, took, took + waited),
        }
        self.dispatch(link.frontend);
    }

    fn answer(&mut self, link: Link, took: Duration, inside: Duration) {
        let frontend = &mut self.frontends[link.frontend];
        let waits = !frontend.queue.is_empty();
        let batcher = &mut frontend.batchers[link.container];
        let batch = batcher
            .sent
            .pop_front()
            .expect("only what was sent is answered; this is a bug");
        let size = batch.deadlines.len();
        batcher.policy.observe(size, took);
        batcher.latency.observe(size, took, batch.pressed);
        batcher
            .overhead
            .observe(self.now.saturating_since(batch.at), inside);
        if batcher.sent.is_empty() {
            batcher.pause.begins(self.now, waits);
        }
        let in_time = batch.deadlines.iter().filter(|&&due| self.now <= due).count();
        self.tally.in_time += in_time;
        self.tally
            .default_output(DefaultReason::LateReply, size - in_time);
    }

    /// Lets each batcher of a frontend use its credits, and announce what is left to containers that grant none.
    fn dispatch(&mut self, frontend: usize) {
        self.expire(frontend);
        for container in 0..self.containers.len() {
            self.use_credits(Link { frontend, container });
        }
        for container in 0..self.containers.len() {
            self.announce(Link { frontend, container });
        }
    }

    /// Queries leave the queue at their deadlines at the latest: their askers take them out.
    fn expire(&mut self, frontend: usize) {
        let queue = &mut self.frontends[frontend].queue;
        let mut expired = 0;
        while queue.earliest().is_some_and(|due| due <= self.now) {
            queue.pop();
            expired += 1;
        }
        self.tally.default_output(DefaultReason::ExpiredInQueue, expired);
    }

    fn use_credits(&mut self, link: Link) {
        while !self.batcher(link).credits.is_empty() {
            self.batcher(link).announced = None;
            let (deadlines, pressed) = self.take(link);
            if deadlines.is_empty() {
                self.batcher(link).pause.passes();
                return self.return_credits(link);
            }
            self.send_batch(link, deadlines, pressed);
        }
    }

    fn batcher(&mut self, link: Link) -> &mut Batcher {
        &mut self.frontends[link.frontend].batchers[link.container]
    }

    /// Takes what the policy decides, and gives up what it gives up.
    fn take(&mut self, link: Link) -> (Vec<Instant>, bool) {
        let now = self.now;
        let frontend = &mut self.frontends[link.frontend];
        let but = |&(index, _): &(usize, &Batcher)| index != link.container;
        let others = frontend.batchers.iter().enumerate().filter(but);
        let others: Vec<_> = others.map(|(_, batcher)| batcher.outlook(now)).collect();
        let batcher = &mut frontend.batchers[link.container];
        let budget = frontend.arrivals.mean_budget().unwrap_or_default();
        let overhead = batcher.overhead.allowance().min(budget / MOST_OVERHEAD);
        let situation = Situation {
            start: batcher.free_at(now) + overhead,
            arrivals: &frontend.arrivals,
            latency: &batcher.latency,
            others: &others,
            pause: batcher.pause.expected(),
        };
        let queue = &mut frontend.queue;
        while !queue.is_empty() {
            let decision = batcher.policy.decide(&*queue, &situation);
            let pressed = decision.take < queue.len();
            let mut pop =
                |count: usize| -> Vec<_> { std::iter::from_fn(|| queue.pop()).take(count).collect() };
            let given_up = pop(decision.give_up);
            let left = pop(decision.leave);
            let batch = pop(decision.take);
            for (place, ()) in left {
                queue.put_back(place, 1, ());
            }
            self.tally
                .default_output(DefaultReason::PredictedLate, given_up.len());
            if !batch.is_empty() {
                return (
                    batch.into_iter().map(|(place, ())| place.deadline()).collect(),
                    pressed,
                );
            }
            if decision.give_up == 0 {
                break;
            }
        }
        (Vec::new(), false)
    }

    fn send_batch(&mut self, link: Link, deadlines: Vec<Instant>, pressed: bool) {
        let now = self.now;
        let inputs = deadlines.len();
        self.tally.batches += 1;
        self.tally.inputs[link.container] += inputs;
        let batcher = self.batcher(link);
        let credit = batcher
            .credits
            .pop_front()
            .expect("the caller looked; this is a bug");
        let predicted = batcher.latency.predict(inputs);
        batcher.pause.ends(now);
        batcher.sent.push_back(Sent {
            deadlines: deadlines.clone(),
            pressed,
            at: now,
            expected_end: batcher.free_at(now) + predicted.unwrap_or_default(),
        });
        let arrival = Arrival {
            credit: credit.sequence,
            credit_held: now.saturating_since(credit.since),
            inputs,
            predicted,
        };
        self.tell_container(link, FromFrontend::Batch { arrival, deadlines });
    }

    /// Returns the credits that may not be parked.
    fn return_credits(&mut self, link: Link) {
        let batcher = self.batcher(link);
        let (parked, returned): (VecDeque<_>, VecDeque<_>) = std::mem::take(&mut batcher.credits)
            .into_iter()
            .partition(|credit| credit.park);
        batcher.credits = parked;
        for credit in returned {
            self.tell_container(link, FromFrontend::Returned(credit.sequence));
        }
    }

    fn announce(&mut self, link: Link) {
        let now = self.now;
        let earliest = self.frontends[link.frontend].queue.earliest();
        let batcher = self.batcher(link);
        let Some(earliest) = earliest.filter(|_| batcher.credits.is_empty() && !batcher.alone) else {
            return;
        };
        if batcher.announced.is_some_and(|announced| announced <= earliest) {
            return;
        }
        batcher.announced = Some(earliest);
        self.tell_container(link, FromFrontend::Demand(earliest.saturating_since(now)));
    }

    fn tell_container(&mut self, link: Link, message: FromFrontend) {
        self.agenda
            .add(self.now + self.delay, Event::ToContainer(link, message));
    }

    fn tell_frontend(&mut self, link: Link, message: FromContainer) {
        self.agenda
            .add(self.now + self.delay, Event::ToFrontend(link, message));
    }

    fn hear(&mut self, link: Link, message: FromFrontend) {
        let now = since_start(self.now);
        let stream = StreamId(link.frontend as u64);
        let container = &mut self.containers[link.container];
        match message {
            FromFrontend::Demand(budget) => container.credits.demand(stream, budget, now),
            FromFrontend::Returned(sequence) => container.credits.returned(stream, sequence),
            FromFrontend::Batch { arrival, deadlines } => {
                let taken = container.credits.batch(stream, arrival, now);
                taken.expect("batches are sent against credits only; this is a bug");
                container.held.push_back(Held {
                    link,
                    inputs: deadlines.len(),
                    arrived: self.now,
                    started: self.now,
                });
                if container.held.len() == 1 {
                    self.compute(link.container);
                }
            }
        }
        self.settle(link.container);
    }

    /// The model begins with the first batch in hand.
    fn compute(&mut self, index: usize) {
        let container = &mut self.containers[index];
        let Some(batch) = container.held.front_mut() else {
            return;
        };
        batch.started = self.now;
        let seconds = container.cost.seconds(batch.inputs) * self.noise.factor(self.now, &mut self.rng);
        let end = self.now + Duration::from_secs_f64(seconds);
        self.agenda.add(end, Event::Finished(index));
    }

    fn finish(&mut self, index: usize) {
        let container = &mut self.containers[index];
        let batch = container
            .held
            .pop_front()
            .expect("it was computing; this is a bug");
        let took = self.now.saturating_since(batch.started);
        let sample = BatchTimeSample {
            inputs: batch.inputs,
            took,
        };
        container.credits.finish(Some(sample), since_start(self.now));
        let waited = batch.started.saturating_since(batch.arrived);
        self.tell_frontend(batch.link, FromContainer::Result { took, waited });
        self.compute(index);
        self.settle(index);
    }

    /// Grants and recalls what is due.
    fn settle(&mut self, index: usize) {
        let now = since_start(self.now);
        loop {
            let container = &mut self.containers[index];
            let link = |stream: StreamId| Link {
                frontend: stream.0 as usize,
                container: index,
            };
            match container.credits.step(now) {
                Step::Grant {
                    stream,
                    sequence,
                    park,
                } => self.tell_frontend(link(stream), FromContainer::Credit { sequence, park }),
                Step::Recall { stream, sequence } => {
                    self.tell_frontend(link(stream), FromContainer::Recall { sequence });
                }
                Step::Wait => return,
                Step::WaitUntil(at) => {
                    let at = timer(Instant::default() + at);
                    if container.wake.is_none_or(|wake| at < wake) {
                        container.wake = Some(at);
                        self.agenda.add(at, Event::Wake(index));
                    }
                    return;
                }
            }
        }
    }
}

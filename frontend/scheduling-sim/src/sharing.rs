//! Several frontends that share replicas by credits, message by message.
//!
//! Each query comes to one of the frontends, each as likely as the others. A frontend has a waiting room of its
//! own, and for each replica a dispatcher: `skysail-core`'s, as the server has them. Who may send the next batch is
//! decided by the container: `skysail-container-rpc`'s [`Credits`] themselves. Every message takes a while.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::time::Duration;

use fastrand::Rng;
use skysail_container_rpc::credit::{
    Arrival, Credits, Demand, Grant, Share as Granted, Step, StreamId, Taken,
};
use skysail_container_rpc::sample::BatchTimeSample;
use skysail_core::dispatch::{Completion, Credit, Departure, Dispatcher, Share, Step as Next};
use skysail_core::query::DefaultReason;
use skysail_core::time::Instant;
use skysail_core::waiting_room::{Refused, WaitingRoom};

use crate::cost::Cost;
use crate::noise::Noise;
use crate::policy::PolicyKind;
use crate::scenario::{Query, Scenario, Sharing};
use crate::simulation::{Tally, slowed, waiting_room};

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
                query: *query,
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
        query: Query,
    },
    ToContainer(Link, FromFrontend),
    ToFrontend(Link, FromContainer),
    /// The container's model is done with the batch it has.
    Finished(usize),
    /// A credit of this container may open.
    Wake(usize),
}

#[derive(Clone, Debug)]
enum FromFrontend {
    Demand(Demand),
    Returned(u64),
    Batch {
        id: u64,
        arrival: Arrival,
        inputs: Vec<SentInput>,
    },
}

#[derive(Clone, Copy, Debug)]
enum FromContainer {
    Credit(Grant),
    Recall {
        sequence: u64,
    },
    Result {
        id: u64,
        worked_on: usize,
        is_merged: bool,
        took: Duration,
        waited: Duration,
    },
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
    contention: f64,
    apart: bool,
    rng: Rng,
    tally: Tally,
}

/// A frontend: a waiting room and a dispatcher for each replica.
struct Frontend {
    room: WaitingRoom<Query>,
    dispatchers: Vec<Dispatcher<Query>>,
}

/// A container: its credits, and the batches in its hands.
struct Container {
    cost: Cost,
    credits: Credits,
    held: VecDeque<Held>,
    /// What came for the next batch.
    parts: Vec<Part>,
    /// When it is to be woken, so that it is not more often.
    wake: Option<Instant>,
}

/// A batch.
struct Held {
    parts: Vec<Part>,
    started: Instant,
}

/// An input, as a container is told of it.
#[derive(Clone, Copy, Debug)]
struct SentInput {
    due: Instant,
    /// What it costs, where an average one costs 1.
    cost: f64,
}

/// What one frontend sent for a batch.
struct Part {
    link: Link,
    id: u64,
    /// Its inputs, those that are due earliest first.
    inputs: Vec<SentInput>,
    arrived: Instant,
}

impl Held {
    /// The inputs that are in time when the model starts.
    fn in_time(&self) -> impl Iterator<Item = &SentInput> {
        let inputs = self.parts.iter().flat_map(|part| &part.inputs);
        inputs.filter(|input| input.due > self.started)
    }
}

fn share(granted: Granted) -> Share {
    Share {
        of_inputs: f64::from(granted.millionths) / 1e6,
        most_inputs: granted.most_inputs.unwrap_or(usize::MAX),
    }
}

/// A container's credits count time from the beginning.
fn since_start(now: Instant) -> Duration {
    now.saturating_since(Instant::default())
}

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
                parts: Vec::new(),
                wake: None,
            }
        };
        let containers: Vec<_> = scenario.replicas().map(container).collect();
        let frontend = |_| {
            let mut room = waiting_room(policy.admission());
            let replicas = 0..containers.len() as u64;
            let dispatcher = |replica| {
                room.join(replica, Instant::default());
                Dispatcher::new(replica, policy.build(scenario.max_batch), usize::MAX)
            };
            let dispatchers = replicas.map(dispatcher).collect();
            Frontend { room, dispatchers }
        };
        Self {
            now: Instant::default(),
            agenda: Agenda::default(),
            delay,
            frontends: (0..frontends).map(frontend).collect(),
            tally: Tally::new(scenario, containers.len()),
            containers,
            noise: scenario.noise,
            contention: scenario.contention,
            apart: scenario.apart,
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
                Event::Query { frontend, query } => self.enqueue(frontend, query),
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
            let left = frontend.room.len();
            self.tally.default_output(DefaultReason::ExpiredInQueue, left);
        }
        self.tally
    }

    fn enqueue(&mut self, at: usize, query: Query) {
        let room = &mut self.frontends[at].room;
        let entered = room.admit(self.now, query.entrant(self.apart));
        if let Err(Refused { reason, .. }) = entered {
            self.tally.default_output(reason, 1);
        }
        self.dispatch(at);
    }

    fn receive(&mut self, link: Link, message: FromContainer) {
        let now = self.now;
        match message {
            FromContainer::Credit(grant) => {
                let credit = Credit {
                    sequence: grant.sequence,
                    park: grant.park,
                    alone: grant.park,
                    share: share(grant.share),
                    starts_in: grant.starts_in,
                };
                self.dispatcher(link).grant(credit, now);
            }
            FromContainer::Recall { sequence } => self.dispatcher(link).recall(sequence),
            FromContainer::Result {
                id,
                worked_on,
                is_merged,
                took,
                waited,
            } => {
                let answer = Completion {
                    worked_on,
                    is_merged,
                    took,
                    inside: took + waited,
                };
                self.answer(link, id, answer);
            }
        }
        self.dispatch(link.frontend);
    }

    fn answer(&mut self, link: Link, id: u64, answer: Completion) {
        let Frontend { room, dispatchers } = &mut self.frontends[link.frontend];
        let dispatcher = &mut dispatchers[link.container];
        let answered = dispatcher.answered(id, answer, self.now);
        let answered = answered.expect("only what was sent is answered; this is a bug");
        dispatcher.report(room, self.now);
        self.tally.answered(&answered.sent.batch, self.now);
    }

    /// Asks a frontend's dispatchers: as its wake-ups do, first those that hold a credit.
    fn dispatch(&mut self, frontend: usize) {
        self.expire(frontend);
        let links = (0..self.containers.len()).map(|container| Link { frontend, container });
        let (holding, others): (Vec<_>, Vec<_>) =
            links.partition(|&link| self.dispatcher(link).holds_credit());
        for link in holding.into_iter().chain(others) {
            self.ask(link);
        }
    }

    /// Queries leave the room at their deadlines at the latest: their askers take them out.
    fn expire(&mut self, frontend: usize) {
        let room = &mut self.frontends[frontend].room;
        let mut expired = 0;
        while let Some(first) = room.first().filter(|first| first.deadline() <= self.now) {
            room.remove(first);
            expired += 1;
        }
        self.tally.default_output(DefaultReason::ExpiredInQueue, expired);
    }

    /// Carries out what there is to do for one replica now.
    fn ask(&mut self, link: Link) {
        loop {
            let Frontend { room, dispatchers } = &mut self.frontends[link.frontend];
            let turn = dispatchers[link.container].step(room, self.now);
            self.tally.given_up(&turn.given_up, self.now);
            match turn.step {
                Next::Send(departure) => self.send_batch(link, departure),
                Next::Pass => return self.return_credits(link),
                Next::Announce(demand) => {
                    let demand = Demand {
                        queued: demand.queued,
                        budget: demand.earliest_budget,
                        most_inputs: demand.most_inputs,
                    };
                    return self.tell_container(link, FromFrontend::Demand(demand));
                }
                Next::Wait => return,
            }
        }
    }

    fn dispatcher(&mut self, link: Link) -> &mut Dispatcher<Query> {
        &mut self.frontends[link.frontend].dispatchers[link.container]
    }

    fn send_batch(&mut self, link: Link, departure: Departure) {
        let Departure {
            id,
            credit,
            credit_held,
            predicted,
        } = departure;
        let queries = self.dispatcher(link).queries(id);
        let sent: Vec<_> = queries
            .iter()
            .map(|query| SentInput {
                due: query.deadline(),
                cost: query.task.cost(),
            })
            .collect();
        let inputs = sent.len();
        self.tally.batches += 1;
        self.tally.inputs[link.container] += inputs;
        let arrival = Arrival {
            credit,
            credit_held,
            inputs,
            predicted,
        };
        let batch = FromFrontend::Batch {
            id,
            arrival,
            inputs: sent,
        };
        self.tell_container(link, batch);
    }

    /// Returns the credits that may not be parked.
    fn return_credits(&mut self, link: Link) {
        while let Some(sequence) = self.dispatcher(link).unparked_credit() {
            self.tell_container(link, FromFrontend::Returned(sequence));
        }
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
            FromFrontend::Demand(demand) => container.credits.demand(stream, demand, now),
            FromFrontend::Returned(sequence) => container.credits.returned(stream, sequence),
            FromFrontend::Batch { id, arrival, inputs } => {
                let taken = container.credits.batch(stream, arrival, now);
                let part = Part {
                    link,
                    id,
                    inputs,
                    arrived: self.now,
                };
                match taken.expect("batches are sent against credits only; this is a bug") {
                    Taken::Part => container.parts.push(part),
                    Taken::Late => self.start(link.container, vec![part]),
                }
            }
        }
        self.settle(link.container);
    }

    /// A batch of these parts is next.
    fn start(&mut self, index: usize, parts: Vec<Part>) {
        let held = &mut self.containers[index].held;
        held.push_back(Held {
            parts,
            started: self.now,
        });
        if held.len() == 1 {
            self.compute(index);
        }
    }

    /// The model begins with the first batch in hand.
    fn compute(&mut self, index: usize) {
        let others = self.containers.iter().enumerate();
        let busy = others.filter(|(other, container)| *other != index && !container.held.is_empty());
        let slowed = slowed(busy.count(), self.contention);
        let container = &mut self.containers[index];
        let Some(batch) = container.held.front_mut() else {
            return;
        };
        batch.started = self.now;
        // What is late is not given to the model, which is not called for nothing.
        let seconds = match batch.in_time().count() {
            0 => 0.0,
            _ => {
                let cost = batch.in_time().map(|input| input.cost).sum();
                container.cost.seconds_of(cost) * slowed * self.noise.factor(self.now, &mut self.rng)
            }
        };
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
        let worked_on = batch.in_time().count();
        let sample = BatchTimeSample {
            inputs: worked_on,
            took,
        };
        let sample = (worked_on > 0).then_some(sample);
        container.credits.finish(sample, since_start(self.now));
        for part in &batch.parts {
            let result = FromContainer::Result {
                id: part.id,
                worked_on,
                is_merged: batch.parts.len() > 1,
                took,
                waited: batch.started.saturating_since(part.arrived),
            };
            self.tell_frontend(part.link, result);
        }
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
                Step::Grant(grant) => self.tell_frontend(link(grant.stream), FromContainer::Credit(grant)),
                Step::Start => {
                    let parts = std::mem::take(&mut container.parts);
                    self.start(index, parts);
                }
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

//! Replicas and their waiting room, event by event.
//!
//! A query that comes waits, if it is let in. A replica that is free holds a credit, and its dispatcher is asked at
//! every event what to do; it computes one batch at a time, and nothing takes time but batches: no network, no
//! reply. When a query comes in the same instant as a batch ends, the batch ends first.

use std::time::Duration;

use fastrand::Rng;
use skysail_core::batch::{BatchPolicy, Overhead};
use skysail_core::dispatch::{Completion, Credit, Departure, Dispatcher, Share, Step};
use skysail_core::query::DefaultReason;
use skysail_core::queue::{Bounds, Placed};
use skysail_core::time::Instant;
use skysail_core::waiting_room::{Admission, Refused, WaitingRoom};

use crate::cost::Cost;
use crate::noise::Noise;
use crate::policy::PolicyKind;
use crate::scaling::{Scaler, Seen};
use crate::scenario::{Fleet, Query, Scenario};
use crate::sharing;

/// What became of the queries. Each has one outcome.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tally {
    /// Answered by their deadline.
    pub in_time: usize,
    /// The same, for each application.
    pub in_time_of: Vec<usize>,
    /// Not so, by the index of the reason.
    defaults: [usize; DefaultReason::ALL.len()],
    /// Batches that were computed.
    pub batches: usize,
    /// Inputs in them, for each replica.
    pub inputs: Vec<usize>,
    /// For how long there were replicas that were asked for, summed over them, in seconds; where their number
    /// follows the load.
    pub replica_seconds: f64,
    /// How often their number changed.
    pub changes: usize,
    /// How long each query took that was answered, in time or not, in microseconds.
    pub answer_micros: Vec<u32>,
}

impl Tally {
    /// Nothing yet.
    pub(crate) fn new(scenario: &Scenario, replicas: usize) -> Self {
        Self {
            in_time_of: vec![0; scenario.slos().len()],
            inputs: vec![0; replicas],
            ..Self::default()
        }
    }

    pub(crate) fn default_output(&mut self, reason: DefaultReason, queries: usize) {
        self.defaults[reason.index()] += queries;
    }

    /// Queries that are given up at `now`.
    pub(crate) fn given_up(&mut self, queries: &[Placed<Query>], now: Instant) {
        for query in queries {
            self.default_output(query.given_up(now), 1);
        }
    }

    /// A batch that was answered at `now`.
    pub(crate) fn answered(&mut self, batch: &[Placed<Query>], now: Instant) {
        let micros = |query: &Placed<Query>| {
            let took = now.saturating_since(query.task.arrival);
            u32::try_from(took.as_micros()).unwrap_or(u32::MAX)
        };
        self.answer_micros.extend(batch.iter().map(micros));
        let mut in_time = 0;
        for query in batch.iter().filter(|query| now <= query.deadline()) {
            in_time += 1;
            self.in_time_of[query.task.application] += 1;
        }
        self.in_time += in_time;
        self.default_output(DefaultReason::LateReply, batch.len() - in_time);
    }

    /// Default outputs by reason, of those that there were.
    pub fn defaults(&self) -> impl Iterator<Item = (DefaultReason, usize)> + '_ {
        DefaultReason::ALL
            .into_iter()
            .zip(self.defaults)
            .filter(|&(_, queries)| queries > 0)
    }

    /// Queries that have an outcome.
    pub fn queries(&self) -> usize {
        self.in_time + self.defaults.iter().sum::<usize>()
    }

    /// Inputs per batch.
    pub fn mean_batch(&self) -> f64 {
        self.inputs.iter().sum::<usize>() as f64 / self.batches.max(1) as f64
    }
}

/// Offers a scenario's queries to a policy.
pub fn simulate(policy: PolicyKind, scenario: &Scenario, queries: &[Query]) -> Tally {
    let scaling = match &scenario.fleet {
        Fleet::Beside => None,
        Fleet::Shared(sharing) => return sharing::simulate(policy, scenario, *sharing, queries),
        Fleet::Scaled(scaling) => Some(*scaling),
    };
    let at_first = scaling.map_or(usize::MAX, |scaling| scaling.bounds.min as usize);
    let mut simulation = Simulation::new(policy.admission(), scenario);
    for cost in scenario.replicas().take(at_first) {
        simulation.add(policy.build(scenario.max_batch), cost, Instant::default());
    }
    simulation.tally = Tally::new(scenario, simulation.replicas.len());
    simulation.scaler = scaling.map(|scaling| Scaler::new(policy, scenario, scaling));
    simulation.run(queries)
}

/// A waiting room without bounds: what is compared is what policies do about a queue that grows.
pub(crate) fn waiting_room(admission: Admission) -> WaitingRoom<Query> {
    let bounds = Bounds {
        count: usize::MAX,
        bytes: usize::MAX,
    };
    WaitingRoom::new(bounds, admission)
}

/// How many times as long a batch takes that starts while so many other replicas compute.
pub(crate) fn slowed(others: usize, contention: f64) -> f64 {
    1.0 + contention * others as f64
}

struct Simulation {
    now: Instant,
    room: WaitingRoom<Query>,
    replicas: Vec<Replica>,
    /// How many replicas there ever were: their names count up.
    named: u64,
    noise: Noise,
    contention: f64,
    apart: bool,
    rng: Rng,
    tally: Tally,
    /// Where the number of replicas follows the load.
    scaler: Option<Scaler>,
}

struct Replica {
    name: u64,
    dispatcher: Dispatcher<Query>,
    cost: Cost,
    computing: Option<Computing>,
    /// When it was asked for.
    asked_for: Instant,
    /// From when it takes batches.
    ready: Instant,
    /// Takes no more.
    leaves: bool,
}

/// A batch that is being computed.
struct Computing {
    id: u64,
    took: Duration,
    ends: Instant,
}

/// What happens next. What happens in the same instant happens in this order.
#[derive(Clone, Copy, Eq, Ord, PartialEq, PartialOrd)]
enum Event {
    /// The batch of this replica ends.
    Result(usize),
    /// A replica has started.
    Ready,
    /// The number of replicas is decided about.
    Decision,
    /// A replica that left what waits to a faster one looks again.
    Look,
    Arrival,
}

impl Replica {
    fn serves(&self, now: Instant) -> bool {
        !self.leaves && self.ready <= now
    }
}

/// What a replica that is free gives to the one frontend there is.
const CREDIT: Credit = Credit {
    sequence: 0,
    park: true,
    alone: true,
    share: Share::WHOLE,
    starts_in: Duration::ZERO,
};

impl Simulation {
    fn new(admission: Admission, scenario: &Scenario) -> Self {
        Self {
            now: Instant::default(),
            room: waiting_room(admission),
            replicas: Vec::new(),
            named: 0,
            tally: Tally::new(scenario, 1),
            noise: scenario.noise,
            contention: scenario.contention,
            apart: scenario.apart,
            rng: scenario.noise_rng(),
            scaler: None,
        }
    }

    /// Adds a replica that is asked for now, and ready then.
    fn add(&mut self, policy: Box<dyn BatchPolicy>, cost: Cost, ready: Instant) {
        let name = self.named;
        self.named += 1;
        let mut dispatcher = Dispatcher::new(name, policy, usize::MAX).with_overhead(Overhead::NONE);
        dispatcher.grant(CREDIT, self.now);
        self.replicas.push(Replica {
            name,
            dispatcher,
            cost,
            computing: None,
            asked_for: self.now,
            ready,
            leaves: false,
        });
        if ready <= self.now {
            self.room.join(name, self.now);
        }
    }

    /// Those that become ready now take batches from now on.
    fn join(&mut self) {
        for replica in self.replicas.iter().filter(|replica| replica.ready == self.now) {
            self.room.join(replica.name, self.now);
        }
    }

    fn run(mut self, queries: &[Query]) -> Tally {
        let mut coming = queries.iter().copied().peekable();
        while let Some((at, event)) = self.next_event(coming.peek()) {
            self.now = at;
            match event {
                Event::Result(replica) => self.take_result(replica),
                Event::Ready => self.join(),
                Event::Decision => self.scale(),
                Event::Look => {}
                Event::Arrival => self.enqueue(coming.next()),
            }
            self.dispatch();
        }
        let end = queries.last().map(|last| last.arrival).unwrap_or_default();
        for replica in std::mem::take(&mut self.replicas) {
            self.count_seconds(&replica, end);
        }
        // Those that every replica leaves to another, after which nothing happens any more.
        self.tally
            .default_output(DefaultReason::ExpiredInQueue, self.room.len());
        self.tally
    }

    fn next_event(&self, coming: Option<&Query>) -> Option<(Instant, Event)> {
        let ends = |(index, replica): (usize, &Replica)| {
            let batch = replica.computing.as_ref()?;
            Some((batch.ends, Event::Result(index)))
        };
        let results = self.replicas.iter().enumerate().filter_map(ends);
        let starts = self.replicas.iter().map(|replica| replica.ready);
        let starts = starts
            .filter(|&ready| ready > self.now)
            .map(|at| (at, Event::Ready));
        let arrival = coming.map(|query| (query.arrival, Event::Arrival));
        // After the last query there is nothing to decide about.
        let scaler = self.scaler.as_ref().filter(|_| coming.is_some());
        let decision = scaler.map(|scaler| (scaler.next(), Event::Decision));
        let free = self.replicas.iter().filter(|replica| replica.computing.is_none());
        let looks = free.filter_map(|replica| replica.dispatcher.next_step());
        let looks = looks.filter(|&at| at > self.now).map(|at| (at, Event::Look));
        let events = results.chain(starts).chain(arrival).chain(decision);
        events.chain(looks).min()
    }

    fn enqueue(&mut self, query: Option<Query>) {
        let Some(query) = query else { return };
        if let Some(scaler) = &mut self.scaler {
            scaler.arrival();
        }
        if let Err(Refused { reason, .. }) = self.room.admit(self.now, query.entrant(self.apart)) {
            self.tally.default_output(reason, 1);
        }
    }

    /// Decides how many replicas there are to be, and asks for them.
    fn scale(&mut self) {
        let Some(scaler) = &mut self.scaler else { return };
        let staying = self.replicas.iter().filter(|replica| !replica.leaves);
        let seen = Seen {
            now: self.now,
            queued: self.room.len(),
            replicas: staying.clone().count(),
            attached: staying
                .clone()
                .filter(|replica| replica.ready <= self.now)
                .count(),
        };
        let wanted = scaler.decide(seen, staying.map(|replica| replica.dispatcher.latency()));
        self.tally.changes += usize::from(wanted != seen.replicas);
        let ready = self.now + scaler.start_time();
        let started: Vec<_> = (seen.replicas..wanted).map(|_| scaler.replica()).collect();
        for (policy, cost) in started {
            self.add(policy, cost, ready);
        }
        let newest = self.replicas.iter_mut().rev().filter(|replica| !replica.leaves);
        for replica in newest.take(seen.replicas.saturating_sub(wanted)) {
            replica.leaves = true;
            self.room.leave(replica.name);
        }
        self.let_go();
    }

    /// Forgets the replicas that leave and have answered all they hold.
    fn let_go(&mut self) {
        let now = self.now;
        let is_done = |replica: &mut Replica| replica.leaves && replica.computing.is_none();
        for replica in self.replicas.extract_if(.., is_done).collect::<Vec<_>>() {
            self.count_seconds(&replica, now);
        }
    }

    fn count_seconds(&mut self, replica: &Replica, end: Instant) {
        self.tally.replica_seconds += end.saturating_since(replica.asked_for).as_secs_f64();
    }

    fn take_result(&mut self, replica: usize) {
        let replica = &mut self.replicas[replica];
        let Some(Computing { id, took, .. }) = replica.computing.take() else {
            return;
        };
        let answer = Completion {
            worked_on: usize::MAX,
            is_merged: false,
            took,
            inside: took,
        };
        if let Some(answered) = replica.dispatcher.answered(id, answer, self.now) {
            self.tally.answered(&answered.sent.batch, self.now);
        }
        replica.dispatcher.report(&mut self.room, self.now);
        replica.dispatcher.grant(CREDIT, self.now);
        self.let_go();
    }

    /// Asks the replicas that are free.
    fn dispatch(&mut self) {
        for replica in 0..self.replicas.len() {
            let asked = &self.replicas[replica];
            if asked.serves(self.now) && asked.computing.is_none() && !self.room.is_empty() {
                self.ask(replica);
            }
        }
    }

    fn ask(&mut self, replica: usize) {
        let turn = self.replicas[replica].dispatcher.step(&mut self.room, self.now);
        self.tally.given_up(&turn.given_up, self.now);
        if let Step::Send(departure) = turn.step {
            self.start(replica, departure);
        }
    }

    fn start(&mut self, replica: usize, Departure { id, .. }: Departure) {
        // Where replicas come and go they are counted together.
        let counted = replica.min(self.tally.inputs.len() - 1);
        let busy = self.replicas.iter().filter(|replica| replica.computing.is_some());
        let slowed = slowed(busy.count(), self.contention);
        let replica = &mut self.replicas[replica];
        let batch = replica.dispatcher.queries(id);
        self.tally.batches += 1;
        self.tally.inputs[counted] += batch.len();
        let inputs = batch.iter().map(|query| query.task.cost()).sum();
        let seconds = replica.cost.seconds_of(inputs) * slowed * self.noise.factor(self.now, &mut self.rng);
        let took = Duration::from_secs_f64(seconds);
        replica.computing = Some(Computing {
            id,
            took,
            ends: self.now + took,
        });
    }
}

#[cfg(test)]
mod tests {
    use skysail_core::batch::{Decision, Situation};
    use skysail_core::queue::Deadlines;
    use skysail_proto::deployment::BatchSize;

    use super::*;
    use crate::scenario::example;

    /// Queries that come at these milliseconds, and are given 25 ms each.
    fn queries(arrivals: &[u64]) -> Vec<Query> {
        let at = |millis: u64| Instant::from_nanos(millis * 1_000_000);
        let query = |&millis: &u64| Query {
            arrival: at(millis),
            deadline: at(millis + 25),
            application: 0,
            bytes: 1000,
        };
        arrivals.iter().map(query).collect()
    }

    /// Batches take so many milliseconds, however large they are.
    fn scenario(fixed_ms: f64) -> Scenario {
        Scenario {
            cost: Cost::line(fixed_ms, 0.0),
            ..example()
        }
    }

    fn fixed(size: u32) -> PolicyKind {
        PolicyKind::Core(BatchSize::Fixed(size.try_into().unwrap()))
    }

    fn defaults(tally: &Tally) -> Vec<(DefaultReason, usize)> {
        tally.defaults().collect()
    }

    #[test]
    fn batches_follow_each_other_and_only_an_answer_by_the_deadline_counts() {
        // 0 alone until 10; 1 and 2 until 20; 3 until 30, which is 2 ms late.
        let tally = simulate(fixed(2), &scenario(10.0), &queries(&[0, 1, 2, 3]));
        assert_eq!(tally.in_time, 3);
        assert_eq!(defaults(&tally), [(DefaultReason::LateReply, 1)]);
        assert_eq!((tally.batches, tally.inputs.as_slice()), (3, [4].as_slice()));
    }

    #[test]
    fn an_answer_at_the_deadline_is_in_time() {
        assert_eq!(simulate(fixed(1), &scenario(25.0), &queries(&[3])).in_time, 1);
        assert_eq!(simulate(fixed(1), &scenario(25.001), &queries(&[3])).in_time, 0);
    }

    #[test]
    fn what_expires_in_the_queue_is_told_from_what_is_late() {
        let tally = simulate(fixed(1), &scenario(30.0), &queries(&[0, 1, 2, 20]));
        let expected = [(DefaultReason::ExpiredInQueue, 2), (DefaultReason::LateReply, 2)];
        assert_eq!(defaults(&tally), expected);
    }

    #[test]
    fn what_is_given_up_before_its_deadline_is_predicted_late() {
        // The first batch tells that those take 20 ms: at 20, the one due at 27 is late for sure.
        let tally = simulate(PolicyKind::LEARNED, &scenario(20.0), &queries(&[0, 2, 19]));
        assert_eq!(tally.in_time, 2);
        assert_eq!(defaults(&tally), [(DefaultReason::PredictedLate, 1)]);
    }

    #[test]
    fn what_no_replica_can_answer_in_time_is_not_let_in() {
        let scenario = scenario(20.0);
        let policy = PolicyKind::LEARNED;
        let mut simulation = Simulation::new(policy.admission(), &scenario);
        simulation.add(
            policy.build(scenario.max_batch),
            scenario.cost,
            Instant::default(),
        );
        // The first batch tells that those take 20 ms: the second is done at 41, and one more at 61.
        for query in queries(&[0, 21, 30]) {
            simulation.now = query.arrival;
            simulation.enqueue(Some(query));
            simulation.dispatch();
            if query.arrival == Instant::default() {
                simulation.now = query.arrival + Duration::from_millis(20);
                simulation.take_result(0);
            }
        }
        assert!(simulation.room.is_empty());
        assert_eq!(defaults(&simulation.tally), [(DefaultReason::PredictedLate, 1)]);
    }

    #[test]
    fn replicas_work_side_by_side() {
        let mut scenario = scenario(20.0);
        scenario.paces = vec![1.0, 1.0];
        let tally = simulate(fixed(1), &scenario, &queries(&[0, 1]));
        assert_eq!((tally.in_time, tally.inputs.as_slice()), (2, [1, 1].as_slice()));
    }

    #[test]
    fn replicas_slow_each_other_down_if_they_are_to() {
        let mut scenario = scenario(16.0);
        scenario.paces = vec![1.0, 1.0];
        // The second starts 1 ms after the first and takes 24 ms, or 32 ms.
        for (contention, in_time) in [(0.5, 2), (1.0, 1)] {
            scenario.contention = contention;
            let tally = simulate(fixed(1), &scenario, &queries(&[0, 1]));
            assert_eq!(tally.in_time, in_time, "{contention}");
        }
    }

    #[test]
    fn a_batch_takes_what_its_inputs_cost() {
        let mut scenario = scenario(10.0);
        scenario.cost.per_input_ms = 2.0;
        let mut queries = queries(&[0]);
        for (bytes, micros) in [(1000, 12_000), (3000, 16_000)] {
            queries[0].bytes = bytes;
            let tally = simulate(fixed(1), &scenario, &queries);
            assert_eq!(tally.answer_micros, [micros]);
        }
    }

    /// Leaves everything to others.
    struct Shy;

    impl BatchPolicy for Shy {
        fn decide(&mut self, queue: &dyn Deadlines, _: &Situation<'_>) -> Decision {
            Decision {
                give_up: 0,
                leave: queue.len(),
                take: 0,
            }
        }

        fn observe(&mut self, _size: usize, _took: Duration) {}
    }

    #[test]
    fn queries_that_every_replica_leaves_to_another_expire() {
        let scenario = scenario(10.0);
        let mut simulation = Simulation::new(Admission::Any, &scenario);
        simulation.add(Box::new(Shy), scenario.cost, Instant::default());
        let tally = simulation.run(&queries(&[0, 1, 2]));
        assert_eq!(defaults(&tally), [(DefaultReason::ExpiredInQueue, 3)]);
    }
}

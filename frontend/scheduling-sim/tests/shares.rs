//! Applications that share a model: who gets how much of it when not all can be answered.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::time::Duration;

use fastrand::Rng;
use skysail_core::batch::{Overhead, policy_for};
use skysail_core::dispatch::{Completion, Credit, Dispatcher, Share, Step};
use skysail_core::queue::{Bounds, Claim, Entrant};
use skysail_core::time::Instant;
use skysail_core::waiting_room::WaitingRoom;
use skysail_proto::deployment::BatchSize;
use skysail_scheduling_sim::cost::Cost;

const COST: Cost = Cost::line(5.0, 1.0);

/// What batches of 25 ms answer in a second.
const CAPACITY: f64 = 800.0;

const MAX_BATCH: NonZeroU32 = NonZeroU32::new(64).unwrap();

/// An application of the model.
#[derive(Clone, Copy)]
struct Application {
    /// What it asks, relative to the capacity.
    load: f64,
    weight: u32,
    slo_ms: u64,
}

fn of_load(load: f64) -> Application {
    Application {
        load,
        weight: 1,
        slo_ms: 50,
    }
}

/// A model with one replica, and what became of the queries of its applications.
struct World {
    room: WaitingRoom<()>,
    dispatcher: Dispatcher<()>,
    /// The batch that is computed, what it takes, and when it ends.
    computing: Option<(u64, Duration, Instant)>,
    rng: Rng,
    asked: BTreeMap<u64, usize>,
    in_time: BTreeMap<u64, usize>,
}

const CREDIT: Credit = Credit {
    sequence: 0,
    park: true,
    alone: true,
    share: Share::WHOLE,
    starts_in: Duration::ZERO,
};

impl World {
    fn new(batch_size: BatchSize, seed: u64) -> Self {
        let bounds = Bounds {
            count: usize::MAX,
            bytes: usize::MAX,
        };
        let mut room = WaitingRoom::new(bounds, batch_size.into());
        room.join(0, Instant::default());
        let policy = policy_for(batch_size, MAX_BATCH);
        let mut dispatcher = Dispatcher::new(0, policy, usize::MAX).with_overhead(Overhead::NONE);
        dispatcher.grant(CREDIT, Instant::default());
        Self {
            room,
            dispatcher,
            computing: None,
            rng: Rng::with_seed(seed),
            asked: BTreeMap::new(),
            in_time: BTreeMap::new(),
        }
    }

    fn run(mut self, applications: &[Application], seconds: f64) -> Vec<f64> {
        for (at, application) in self.arrivals(applications, seconds) {
            while let Some((_, _, ends)) = self.computing.filter(|&(_, _, ends)| ends <= at) {
                self.finish(ends);
            }
            self.enter(at, application as u64, applications[application]);
        }
        while let Some((_, _, ends)) = self.computing {
            self.finish(ends);
        }
        let share = |(application, &asked): (&u64, &usize)| {
            let in_time = self.in_time.get(application).copied().unwrap_or_default();
            in_time as f64 / asked as f64
        };
        self.asked.iter().map(share).collect()
    }

    fn arrivals(&mut self, applications: &[Application], seconds: f64) -> Vec<(Instant, usize)> {
        let mut arrivals = Vec::new();
        for (index, application) in applications.iter().enumerate() {
            let mut at = 0.0;
            while at < seconds {
                arrivals.push((Instant::default() + Duration::from_secs_f64(at), index));
                at -= (1.0 - self.rng.f64()).ln() / (application.load * CAPACITY);
            }
        }
        arrivals.sort_unstable();
        arrivals
    }

    fn enter(&mut self, now: Instant, number: u64, application: Application) {
        let entrant = Entrant {
            deadline: now + Duration::from_millis(application.slo_ms),
            claim: Claim {
                application: number,
                weight: NonZeroU32::new(application.weight).unwrap(),
            },
            bytes: 1,
            task: (),
        };
        // The model is cold at first, and too slow for nobody.
        let is_cold = now < Instant::default() + Duration::from_secs(1);
        *self.asked.entry(number).or_default() += usize::from(!is_cold);
        let _ = self.room.admit(now, entrant);
        self.step(now);
    }

    fn step(&mut self, now: Instant) {
        if self.computing.is_some() || self.room.is_empty() {
            return;
        }
        if let Step::Send(departure) = self.dispatcher.step(&mut self.room, now).step {
            let size = self.dispatcher.queries(departure.id).len();
            let noise = 0.9 + 0.2 * self.rng.f64();
            let took = Duration::from_secs_f64(COST.seconds(size) * noise);
            self.computing = Some((departure.id, took, now + took));
        }
    }

    fn finish(&mut self, now: Instant) {
        let Some((id, took, _)) = self.computing.take() else {
            return;
        };
        let answer = Completion {
            worked_on: usize::MAX,
            is_merged: false,
            took,
            inside: took,
        };
        let answered = self.dispatcher.answered(id, answer, now).unwrap();
        let is_warm = now > Instant::default() + Duration::from_secs(1);
        for placed in answered
            .sent
            .batch
            .iter()
            .filter(|placed| is_warm && now <= placed.deadline())
        {
            *self.in_time.entry(placed.claim().application).or_default() += 1;
        }
        self.dispatcher.report(&mut self.room, now);
        self.dispatcher.grant(CREDIT, now);
        self.step(now);
    }
}

/// The shares of their queries that applications are answered in time.
fn answered(applications: &[Application]) -> Vec<f64> {
    World::new(BatchSize::Adaptive, 3).run(applications, 15.0)
}

/// How much of the capacity each is answered.
fn used(applications: &[Application]) -> Vec<f64> {
    let shares = answered(applications);
    let used = |(application, share): (&Application, f64)| application.load * share;
    applications.iter().zip(shares).map(used).collect()
}

fn of_loads(loads: &[f64]) -> Vec<Application> {
    loads.iter().copied().map(of_load).collect()
}

#[test]
fn who_stays_below_its_share_loses_nothing_to_who_asks_for_four_times_the_capacity() {
    for loads in [[0.02, 4.0], [0.02, 1.1], [0.3, 4.0], [0.45, 4.0]] {
        let shares = answered(&of_loads(&loads));
        assert!(shares[0] > 0.98, "{loads:?} {shares:?}");
    }
}

#[test]
fn what_one_does_not_use_is_for_the_others() {
    for loads in [vec![0.02, 4.0], vec![0.3, 4.0], vec![0.1, 0.2, 4.0]] {
        let used = used(&of_loads(&loads));
        assert!(used.iter().sum::<f64>() > 0.85, "{loads:?} {used:?}");
    }
}

#[test]
fn those_that_ask_for_too_much_share_by_their_weights() {
    let used_equally = used(&of_loads(&[1.0, 4.0]));
    let ratio = used_equally[0] / used_equally[1];
    assert!((0.9..1.1).contains(&ratio), "{used_equally:?}");
    let heavy = Application {
        weight: 3,
        ..of_load(4.0)
    };
    let used_by_weight = used(&[heavy, of_load(4.0)]);
    let ratio = used_by_weight[0] / used_by_weight[1];
    assert!((2.4..3.4).contains(&ratio), "{used_by_weight:?}");
}

#[test]
fn an_objective_that_is_loose_is_no_reason_to_wait_for_ever() {
    let loose = Application {
        slo_ms: 1000,
        ..of_load(0.3)
    };
    let shares = answered(&[loose, of_load(4.0)]);
    assert!(shares[0] > 0.98, "{shares:?}");
}

//! What one decision of the learned policy costs: `cargo bench -p skysail-core --bench decide`.
//!
//! Batches take 5 ms + 10 µs an input, and as many inputs were seen as the limit allows. Queries have a second and wait in
//! a steady flow. `calm`: all can be answered in time; `late`: the replica can do a third of what comes, so that
//! most of those that wait will be late; `several`: so it is, and there are seven other replicas; `mixed`: so it is, and
//! one of ten queries has a tenth of the time.

use std::hint::black_box;
use std::num::NonZeroU32;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use skysail_core::arrivals::Arrivals;
use skysail_core::batch::{BatchPolicy, LatencyModel, Learned, Other, Situation};
use skysail_core::queue::{Bounds, DeadlineQueue};
use skysail_core::time::Instant;

const SLO: Duration = Duration::from_secs(1);

const LENGTHS: [u32; 5] = [10, 100, 1000, 10_000, 100_000];

const LIMITS: [u32; 4] = [64, 256, 1024, 4096];

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Case {
    Calm,
    Late,
    Several,
    Mixed,
}

/// What a decision is made from.
struct Scene {
    queue: DeadlineQueue<()>,
    arrivals: Arrivals,
    latency: LatencyModel,
    others: Vec<Other>,
    now: Instant,
}

impl Scene {
    fn new(case: Case, length: u32, limit: u32) -> Self {
        let now = Instant::default() + 10 * SLO;
        let budget = |nth: u32| match case == Case::Mixed && nth.is_multiple_of(10) {
            true => SLO / 10,
            false => SLO,
        };
        // The oldest has hardly any time left.
        let came = |nth: u32| now - SLO.mul_f64(0.99 * (1.0 - f64::from(nth) / f64::from(length)));
        let mut scene = Self {
            queue: DeadlineQueue::new(Bounds {
                count: usize::MAX,
                bytes: usize::MAX,
            }),
            arrivals: Arrivals::default(),
            latency: latency(case, length, limit),
            others: Vec::new(),
            now,
        };
        for nth in 0..length {
            scene.arrivals.record(came(nth), budget(nth));
            let due = came(nth) + budget(nth);
            let due = if case == Case::Calm { due + SLO } else { due };
            let Ok(_) = scene.queue.push(due.max(now), 1, ()) else {
                unreachable!("the queue has no bounds");
            };
        }
        if case == Case::Several {
            let free = |nth: u32| now + Duration::from_millis(nth.into());
            let alone = Duration::from_millis(5);
            scene
                .others
                .extend((1..8).map(free).map(|free| Other { free, alone }));
        }
        scene
    }

    fn situation(&self) -> Situation<'_> {
        Situation {
            start: self.now,
            arrivals: &self.arrivals,
            latency: &self.latency,
            others: &self.others,
            largest: usize::MAX,
            pause: Duration::ZERO,
        }
    }
}

/// Knows batches of all sizes up to the limit; those are as fast as the case asks for.
fn latency(case: Case, length: u32, limit: u32) -> LatencyModel {
    let batches = f64::from(length.div_ceil(limit));
    let largest = match case {
        Case::Calm => 0.2 / batches,
        Case::Late | Case::Several | Case::Mixed => 3.0 / batches,
    };
    let mut latency = LatencyModel::default();
    for nth in 0..100 {
        let size = (limit * (nth % 10 + 1) / 10).max(1);
        // Half of a full batch's time is a fixed cost, and times vary by a tenth.
        let part = 0.5 + 0.5 * f64::from(size) / f64::from(limit);
        let noise = 0.95 + 0.01 * f64::from(nth * 7 % 11);
        let took = Duration::from_secs_f64(largest.min(0.3) * part * noise);
        latency.observe(size as usize, took, true);
    }
    latency
}

fn decide(criterion: &mut Criterion) {
    for case in [Case::Calm, Case::Late, Case::Several, Case::Mixed] {
        let mut group = criterion.benchmark_group(format!("{case:?}").to_lowercase());
        for length in LENGTHS {
            for limit in LIMITS {
                let scene = Scene::new(case, length, limit);
                let mut policy = Learned::new(NonZeroU32::new(limit).expect("no limit is 0"));
                let decision = policy.decide(&scene.queue, &scene.situation());
                let id = BenchmarkId::new(format!("{length}-up-to-{limit}"), decision.take);
                group.bench_function(id, |bencher| {
                    bencher.iter(|| black_box(policy.decide(&scene.queue, &scene.situation())));
                });
            }
        }
        group.finish();
    }
}

criterion_group! {
    name = decisions;
    config = Criterion::default()
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(500))
        .sample_size(20);
    targets = decide
}
criterion_main!(decisions);

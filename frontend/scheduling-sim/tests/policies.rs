//! What holds for every policy, and what the learned policy reaches.

use std::num::NonZeroU32;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use skysail_core::autoscale::TARGET_UTILISATION;
use skysail_core::query::DefaultReason;
use skysail_proto::deployment::Autoscale;
use skysail_scheduling_sim::arrivals::Arrivals;
use skysail_scheduling_sim::cell::{Cell, Scaled, run_all};
use skysail_scheduling_sim::cost::Cost;
use skysail_scheduling_sim::inputs::InputCosts;
use skysail_scheduling_sim::noise::Noise;
use skysail_scheduling_sim::policy::PolicyKind;
use skysail_scheduling_sim::scenario::{Application, Burst, Fleet, Scaling, Scenario, Sharing};
use skysail_scheduling_sim::simulation::simulate;
use skysail_scheduling_sim::trace::Trace;

fn any_fleet() -> impl Strategy<Value = Fleet> {
    let shared = (1usize..4, 0u64..2000).prop_map(|(frontends, micros)| {
        let delay = Duration::from_micros(micros);
        Fleet::Shared(Sharing { frontends, delay })
    });
    let scaled = (1u32..3, 0u32..3, 0u64..5000).prop_map(|(min, more, millis)| {
        let bounds = Autoscale { min, max: min + more };
        let start = Duration::from_millis(millis);
        Fleet::Scaled(Scaling { bounds, start })
    });
    prop_oneof![Just(Fleet::Beside), shared, scaled]
}

/// Small, and of every kind; without noise if that is asked for.
fn any_scenario(noises: &'static [Noise]) -> impl Strategy<Value = Scenario> {
    let arrivals = prop::sample::select(vec![Arrivals::Poisson, Arrivals::Bursty, Arrivals::HeavyTailed]);
    let slo = || (1.0..200.0).prop_map(|millis: f64| Duration::from_secs_f64(millis * 1e-3));
    let application = (slo(), 1u32..20).prop_map(|(slo, weight)| Application { slo, weight });
    let burst = (1u32..200, slo()).prop_map(|(queries, slo)| Burst { queries, slo });
    let slos = (
        slo(),
        prop::collection::vec(application, 0..3),
        prop::option::of(burst),
    );
    let shape = prop::sample::select(vec!["line", "step:8", "pow2", "quadratic"]);
    let model = (0.1..30.0, 0.0..10.0, shape, slos);
    let offer = (prop::sample::select(noises), arrivals, 0.1..4.0, any::<u64>());
    let contention = prop_oneof![Just(0.0), 0.0..2.0];
    let fleet = (prop::collection::vec(0.3..3.0, 1..4), contention, 1u32..70);
    (model, offer, fleet, any_fleet()).prop_map(|(model, offer, replicas, fleet)| {
        let (fixed_ms, per_input_ms, shape, (slo, slo_mix, burst)) = model;
        let (noise, arrivals, load, seed) = offer;
        let (mut paces, contention, max_batch) = replicas;
        if let Fleet::Scaled(scaling) = fleet {
            paces = vec![1.0; scaling.bounds.max as usize];
        }
        Scenario {
            cost: Cost {
                shape: shape.parse().unwrap(),
                ..Cost::line(fixed_ms, per_input_ms)
            },
            slo,
            slo_mix,
            apart: false,
            burst,
            noise,
            arrivals,
            load,
            inputs: InputCosts::Equal,
            paces,
            contention,
            seed,
            queries: 300,
            max_batch: NonZeroU32::new(max_batch).unwrap(),
            fleet,
        }
    })
}

fn any_policy() -> impl Strategy<Value = PolicyKind> {
    prop::sample::select(PolicyKind::all())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn each_query_has_exactly_one_outcome(
        policy in any_policy(),
        scenario in any_scenario(&[Noise::None, Noise::Mild, Noise::Noisy, Noise::Shift]),
    ) {
        let queries = scenario.queries();
        let tally = simulate(policy, &scenario, &queries);
        prop_assert_eq!(tally.queries(), queries.len());
        prop_assert_eq!(tally.in_time, tally.in_time_of.iter().sum::<usize>());
        let late = tally.defaults().find(|(reason, _)| *reason == DefaultReason::LateReply);
        let answered = tally.in_time + late.map_or(0, |(_, count)| count);
        prop_assert_eq!(answered, tally.inputs.iter().sum::<usize>());
        prop_assert!(tally.mean_batch() <= f64::from(scenario.max_batch.get()));
    }

    #[test]
    fn without_noise_no_policy_is_above_the_bound(
        policy in any_policy(),
        scenario in any_scenario(&[Noise::None]),
    ) {
        let figures = Cell { policy, scenario }.run();
        // Batch times are rounded to nanoseconds, of which a tenth of a millisecond has a hundred thousand.
        prop_assert!(figures.goodput <= figures.bound + 1e-5, "{:?}", figures);
    }
}

/// Scenarios and policies, the same every time: chance that is drawn anew would fail one run in thousands.
fn drawn<S: Strategy>(strategy: &S, count: usize) -> Vec<S::Value> {
    let mut runner = TestRunner::deterministic();
    let draw = || strategy.new_tree(&mut runner).unwrap().current();
    std::iter::repeat_with(draw).take(count).collect()
}

/// By how much a policy is above the noise-aware bound on average over seeds, and what that may be off by.
fn above_the_noise_aware_bound(policy: PolicyKind, scenario: &Scenario, seeds: u64) -> (f64, f64) {
    let cells: Vec<_> = (0..seeds)
        .map(|seed| {
            let scenario = Scenario {
                seed,
                ..scenario.clone()
            };
            Cell { policy, scenario }
        })
        .collect();
    let figures = run_all(&cells, || ());
    let above: Vec<_> = figures
        .iter()
        .map(|figures| figures.goodput - figures.noise_aware)
        .collect();
    let mean = above.iter().sum::<f64>() / seeds as f64;
    let squares: f64 = above.iter().map(|above| (above - mean).powi(2)).sum();
    (mean, (squares / (seeds * (seeds - 1)) as f64).sqrt())
}

#[test]
fn no_policy_is_above_the_noise_aware_bound_on_average() {
    let noises = &[Noise::Mild, Noise::Noisy, Noise::Shift];
    for (policy, scenario) in drawn(&(any_policy(), any_scenario(noises)), 60) {
        let (above, error) = above_the_noise_aware_bound(policy, &scenario, 10);
        assert!(
            above <= 0.002 + 4.0 * error,
            "{policy} {above} {error}: {scenario:?}"
        );
    }
}

#[test]
fn an_overload_of_varying_batch_times_comes_close_to_the_noise_aware_bound_and_not_above_it() {
    let [scenario, ..] = sample();
    for noise in [Noise::Mild, Noise::Noisy, Noise::Shift] {
        let scenario = Scenario {
            noise,
            load: 2.0,
            queries: 6000,
            ..scenario.clone()
        };
        for policy in [PolicyKind::LEARNED, PolicyKind::Reference] {
            let (above, error) = above_the_noise_aware_bound(policy, &scenario, 6);
            assert!(
                (-0.06..3.0 * error).contains(&above),
                "{policy} {noise}: {above} {error}"
            );
        }
    }
}

/// An application that has as many queries as others of its kind.
fn equally(millis: u64) -> Application {
    Application {
        slo: Duration::from_millis(millis),
        weight: 1,
    }
}

/// A few cells of different kinds, of 3000 queries each.
fn sample() -> [Scenario; 5] {
    let quick = Cost::line(5.0, 1.0);
    let slow = Cost::line(1.0, 4.0);
    let base = Scenario {
        cost: quick,
        slo: Duration::from_millis(50),
        slo_mix: Vec::new(),
        apart: false,
        burst: None,
        noise: Noise::None,
        arrivals: Arrivals::Poisson,
        load: 0.9,
        inputs: InputCosts::Equal,
        paces: vec![1.0],
        contention: 0.0,
        seed: 1,
        queries: 3000,
        max_batch: NonZeroU32::new(64).unwrap(),
        fleet: Fleet::Beside,
    };
    [
        Scenario {
            load: 1.2,
            ..base.clone()
        },
        Scenario {
            noise: Noise::Mild,
            arrivals: Arrivals::Bursty,
            load: 1.2,
            ..base.clone()
        },
        Scenario {
            cost: slow,
            noise: Noise::Noisy,
            slo_mix: [25, 100].map(equally).to_vec(),
            load: 1.0,
            paces: vec![1.0, 1.0],
            ..base.clone()
        },
        Scenario {
            cost: slow,
            noise: Noise::Shift,
            load: 1.6,
            ..base.clone()
        },
        Scenario {
            arrivals: Arrivals::HeavyTailed,
            load: 0.6,
            ..base
        },
    ]
}

/// What policies reach in each cell of the sample.
fn goodput(policy: PolicyKind) -> Vec<f64> {
    let cells = sample().map(|scenario| Cell { policy, scenario });
    let figures = run_all(&cells, || ());
    figures.into_iter().map(|figures| figures.goodput).collect()
}

#[test]
fn the_learned_policy_reaches_what_it_reached() {
    // Exact but for how a platform rounds logarithms. A change of the policy that moves one of these by more
    // than a hundredth is to be seen, judged by the suite, and written down here.
    let expected = [0.843, 0.491, 0.852, 0.500, 0.651];
    let all = goodput(PolicyKind::LEARNED);
    for (reached, expected) in all.iter().zip(expected) {
        assert!(
            (reached - expected).abs() < 0.01,
            "{reached} instead of {expected}, in {all:?}"
        );
    }
}

#[test]
fn the_learned_policy_is_no_worse_than_any_other() {
    /// What chance may make of 3000 queries.
    const TOLERANCE: f64 = 0.01;
    let learned = goodput(PolicyKind::LEARNED);
    for policy in PolicyKind::all() {
        for (cell, (ours, theirs)) in learned.iter().zip(goodput(policy)).enumerate() {
            assert!(
                *ours >= theirs - TOLERANCE,
                "cell {cell}: {ours} where {policy} reaches {theirs}"
            );
        }
    }
}

/// What the learned policy answers in time of 6000 queries at load 1.2, 5 + n ms of this shape.
fn goodput_of_shape(shape: &str) -> f64 {
    let [scenario, ..] = sample();
    let cost = Cost {
        shape: shape.parse().unwrap(),
        ..scenario.cost
    };
    let scenario = Scenario {
        cost,
        load: 1.2,
        queries: 6000,
        ..scenario
    };
    let policy = PolicyKind::LEARNED;
    Cell { policy, scenario }.run().goodput
}

#[test]
fn models_that_are_no_line_are_learned() {
    // By a line alone it is 0.72, 0.69 and 0.67.
    for (shape, least) in [("step:8", 0.79), ("pow2", 0.79), ("quadratic", 0.77)] {
        let goodput = goodput_of_shape(shape);
        assert!(goodput > least, "{shape}: {goodput}");
    }
}

#[test]
fn inputs_that_cost_more_than_others_are_weighed_by_their_bytes() {
    let [scenario, ..] = sample();
    let scenario = Scenario {
        inputs: InputCosts::LogNormal { deviation: 1.2 },
        load: 1.2,
        seed: 3,
        queries: 6000,
        ..scenario
    };
    let policy = PolicyKind::LEARNED;
    let goodput = Cell { policy, scenario }.run().goodput;
    // By their number alone it is 0.73.
    assert!(goodput > 0.80, "{goodput}");
}

#[test]
fn a_slow_replica_does_not_make_answers_late_that_a_fast_one_has_time_for() {
    let [scenario, ..] = sample();
    let p99 = |paces: &[f64], load: f64| {
        let scenario = Scenario {
            paces: paces.to_vec(),
            load,
            slo: Duration::from_millis(300),
            ..scenario.clone()
        };
        let figures = Cell {
            policy: PolicyKind::LEARNED,
            scenario,
        }
        .run();
        assert!(figures.goodput > 0.999, "{figures:?}");
        figures.latency.unwrap().p99_ms
    };
    let (alone, beside) = (p99(&[1.0], 0.6), p99(&[1.0, 10.0], 0.55));
    assert!(beside < 1.5 * alone, "{alone} {beside}");
}

/// Four replicas of which nothing is known, and at once more queries than they can answer.
fn cold_start(seed: u64) -> Scenario {
    let [scenario, ..] = sample();
    Scenario {
        cost: Cost::line(20.0, 0.5),
        slo: Duration::from_millis(100),
        noise: Noise::Mild,
        load: 1.3,
        paces: vec![1.0; 4],
        seed,
        queries: 500,
        ..scenario
    }
}

/// How much the best policy is ahead of the learned one, on average over three seeds.
fn behind(scenario: impl Fn(u64) -> Scenario, policies: impl IntoIterator<Item = PolicyKind>) -> f64 {
    let goodput = |policy| {
        let cells = [1, 2, 3].map(|seed| Cell {
            policy,
            scenario: scenario(seed),
        });
        let figures = run_all(&cells, || ());
        figures.iter().map(|figures| figures.goodput).sum::<f64>() / 3.0
    };
    let best = policies.into_iter().map(goodput).fold(0.0, f64::max);
    best - goodput(PolicyKind::LEARNED)
}

#[test]
fn from_a_cold_start_the_learned_policy_is_close_to_the_best() {
    let behind = behind(cold_start, PolicyKind::all());
    assert!(behind <= 0.04, "{behind}");
}

/// One replica without noise, and queries that come at this load.
fn pressed(fixed_ms: f64, per_input_ms: f64, slo_ms: u64, load: f64) -> impl Fn(u64) -> Scenario {
    move |seed| {
        let [scenario, ..] = sample();
        Scenario {
            cost: Cost::line(fixed_ms, per_input_ms),
            slo: Duration::from_millis(slo_ms),
            noise: Noise::None,
            load,
            seed,
            queries: 20_000,
            ..scenario
        }
    }
}

#[test]
fn a_rate_that_is_far_beyond_the_capacity_is_answered_as_far_as_the_reference_answers_it() {
    for (scenario, at_most) in [
        (pressed(20.0, 0.1, 100, 12.0), 0.02),
        (pressed(1000.0, 1.0, 5000, 4.0), 0.02),
    ] {
        let behind = behind(scenario, [PolicyKind::Reference]);
        assert!(behind <= at_most, "{behind}");
    }
}

#[test]
fn an_objective_that_leaves_time_for_one_batch_is_met_as_often_as_by_the_reference() {
    let behind = behind(pressed(45.0, 0.5, 50, 1.3), [PolicyKind::Reference]);
    assert!(behind <= 0.02, "{behind}");
}

#[test]
fn urgent_queries_are_not_lost_to_a_burst_that_can_wait() {
    let scenario = Scenario {
        burst: Some(Burst {
            queries: 2000,
            slo: Duration::from_secs(10),
        }),
        queries: 400,
        ..pressed(1.0, 1.0, 30, 0.107)(1)
    };
    let policy = PolicyKind::LEARNED;
    let figures = Cell { policy, scenario }.run();
    let [urgent, loose] = figures.applications.as_slice() else {
        panic!("two applications: {:?}", figures.applications);
    };
    assert_eq!((urgent.queries, loose.queries), (400, 2000));
    assert_eq!(loose.in_time, 2000);
    assert!(urgent.in_time >= 390, "{urgent:?}");
}

/// Some three in a hundred are lost here that the reference answers.
#[test]
fn eight_replicas_under_pressure_are_close_to_the_reference() {
    let eight = |seed| Scenario {
        noise: Noise::Noisy,
        paces: vec![1.0; 8],
        ..pressed(5.0, 0.1, 50, 1.1)(seed)
    };
    let behind = behind(eight, [PolicyKind::Reference]);
    assert!(behind <= 0.06, "{behind}");
}

/// What each number of frontends reaches on one replica or three, relative to one frontend.
fn shared(frontends: usize, replicas: usize, load: f64) -> f64 {
    let [scenario, ..] = sample();
    let goodput = |frontends| {
        let delay = Duration::from_micros(100);
        let scenario = Scenario {
            paces: vec![1.0; replicas],
            load,
            fleet: Fleet::Shared(Sharing { frontends, delay }),
            ..scenario.clone()
        };
        let policy = PolicyKind::LEARNED;
        let figures = Cell { policy, scenario }.run();
        assert_eq!(figures.tally.queries(), 3000);
        figures.goodput
    };
    goodput(frontends) / goodput(1)
}

#[test]
fn frontends_that_share_replicas_reach_what_they_reached() {
    // Exact but for how a platform rounds logarithms. Before their batches were merged, two frontends on one replica
    // reached 0.95 of one at a load of 0.9, and four on three 0.83 at 1.2.
    for (frontends, replicas, load, expected) in EXPECTED_OF_SHARING {
        let reached = shared(frontends, replicas, load);
        assert!(
            (reached - expected).abs() < 0.02,
            "{frontends} frontends, {replicas} replicas: {reached}"
        );
    }
}

/// Frontends, replicas, load, and what is reached of one frontend's goodput.
const EXPECTED_OF_SHARING: [(usize, usize, f64, f64); 6] = [
    (2, 1, 0.6, 1.0),
    (2, 1, 0.9, 0.993),
    (4, 1, 1.2, 0.96),
    (4, 1, 2.0, 0.947),
    (2, 3, 0.9, 0.999),
    (4, 3, 1.2, 0.923),
];

/// One to eight replicas that take two seconds to start, and arrivals that ask for two on average.
fn scaled(arrivals: Arrivals, queries: usize) -> Scaled {
    let [scenario, ..] = sample();
    let bounds = Autoscale { min: 1, max: 8 };
    let start = Duration::from_secs(2);
    let scenario = Scenario {
        arrivals,
        paces: vec![1.0; 8],
        load: 2.0 * TARGET_UTILISATION / 8.0,
        queries,
        fleet: Fleet::Scaled(Scaling { bounds, start }),
        ..scenario
    };
    let policy = PolicyKind::LEARNED;
    let figures = Cell { policy, scenario }.run();
    assert_eq!(figures.tally.queries(), queries);
    figures.scaled.unwrap()
}

#[test]
fn replicas_that_follow_a_steady_load_answer_it_at_less_than_half_of_the_cost() {
    let scaled = scaled(Arrivals::Poisson, 100_000);
    assert!(scaled.attainment > 0.99 && scaled.cost < 0.45, "{scaled:?}");
}

#[test]
fn replicas_that_follow_bursts_answer_them_at_less_cost() {
    let scaled = scaled(Arrivals::Bursty, 200_000);
    assert!(scaled.attainment > 0.97 && scaled.cost < 0.75, "{scaled:?}");
}

/// A recording that the environment names, or a bursty one that stands for it: none is part of the repository.
fn recording() -> Trace {
    if let Some(file) = std::env::var_os("SKYSAIL_TRACE") {
        return Trace::read(Path::new(&file)).unwrap();
    }
    let times = Arrivals::Bursty.times(100.0, 8000, &mut fastrand::Rng::with_seed(3));
    let text: Vec<_> = times.iter().map(f64::to_string).collect();
    Trace::parse(Path::new("bursty"), &text.join("\n")).unwrap()
}

#[test]
fn replicas_that_follow_recorded_arrivals_of_several_clients_answer_them_at_little_cost() {
    let trace = recording();
    let played = Arrivals::Trace(Arc::new(trace.played(8, 5)));
    let scaled = scaled(played, trace.len() * 40);
    assert!(scaled.attainment >= 0.97 && scaled.cost <= 0.6, "{scaled:?}");
}

#[test]
fn replicas_of_unequal_speed_share_by_speed() {
    let [scenario, ..] = sample();
    let scenario = Scenario {
        paces: vec![1.0, 2.0],
        load: 1.2,
        ..scenario
    };
    let figures = Cell {
        policy: PolicyKind::LEARNED,
        scenario,
    }
    .run();
    let [quick, slow] = figures.tally.inputs[..] else {
        panic!()
    };
    let ratio = quick as f64 / slow as f64;
    assert!((1.8..2.8).contains(&ratio), "{ratio} {figures:?}");
}

use proptest::prelude::*;

use super::*;

/// Batches of n take 5 + n ms: twenty in half of 50 ms, 800 a second.
const TIMES: BatchTimes = BatchTimes {
    first: 6e-3,
    further: 1e-3,
    p99: 0.0,
};

fn at(seconds: u64) -> Instant {
    Instant::from_nanos(seconds * 1_000_000_000)
}

/// The arrivals per second that keep this many replicas busy for [`TARGET_UTILISATION`] of their time.
fn rate_of(replicas: f64) -> f64 {
    replicas * 800.0 * TARGET_UTILISATION
}

fn situation(second: u64, rate: f64, replicas: u32) -> Situation {
    Situation {
        now: at(second),
        arrivals_per_second: rate,
        queued: 0,
        batch_times: Some(TIMES),
        slo: Some(Duration::from_millis(50)),
        max_batch: NonZeroU32::new(64).unwrap(),
        replicas,
        attached: replicas,
        bounds: Autoscale { min: 1, max: 8 },
    }
}

/// The numbers of replicas under these rates, one a second, if each wanted replica is there at once.
fn follow(rates: impl IntoIterator<Item = f64>, mut replicas: u32) -> Vec<u32> {
    let mut autoscaler = Autoscaler::default();
    let decide = |(second, rate)| {
        let decision = autoscaler.decide(&situation(second, rate, replicas));
        replicas = decision.replicas;
        replicas
    };
    (0..).zip(rates).map(decide).collect()
}

#[test]
fn a_replica_answers_what_batches_of_half_the_objective_do() {
    let decision = Autoscaler::default().decide(&situation(0, rate_of(2.5), 1));
    let Reason::Load(work) = decision.reason else {
        panic!("{decision:?}")
    };
    assert_eq!((decision.replicas, work.batch), (3, 20));
    assert!((work.need - 2.5).abs() < 1e-9, "{work:?}");
}

#[test]
fn batches_have_at_most_as_many_as_they_may_and_at_least_one() {
    let slo = Some(Duration::from_millis(50));
    let most = |most| NonZeroU32::new(most).unwrap();
    assert_eq!(TIMES.best_batch(slo, most(7)).0, 7);
    assert_eq!(TIMES.best_batch(Some(Duration::from_millis(5)), most(64)).0, 1);
    assert_eq!(TIMES.best_batch(None, most(64)).0, 64);
    let free = BatchTimes {
        further: 0.0,
        ..TIMES
    };
    assert_eq!(free.best_batch(slo, most(64)).0, 64);
    // Batches that take a fifth longer than the line says, so fewer fit.
    let slow = BatchTimes { p99: 30e-3, ..TIMES };
    assert_eq!(slow.best_batch(slo, most(64)).0, 15);
}

#[test]
fn a_burst_is_followed_at_once_and_chance_is_not() {
    let mut rates = vec![rate_of(1.9); 100];
    rates.extend([rate_of(5.0); 3]);
    let replicas = follow(rates, 2);
    assert_eq!(replicas[..100], [2; 100]);
    assert_eq!(replicas[100], 5, "a crowd of so many is none by chance");
    // Four in a second where three come on average are no crowd.
    let slow = |rate| Situation {
        batch_times: Some(BatchTimes {
            first: 0.5,
            further: 0.5,
            p99: 0.0,
        }),
        slo: Some(Duration::from_secs(1)),
        ..situation(0, rate, 3)
    };
    let mut autoscaler = Autoscaler::default();
    autoscaler.decide(&slow(3.0 * TARGET_UTILISATION * 2.0 * 0.95));
    let crowd = Situation {
        now: at(1),
        ..slow(5.0)
    };
    assert_eq!(autoscaler.decide(&crowd).replicas, 3);
}

#[test]
fn what_was_needed_is_kept_for_the_hold_and_let_go_after_it() {
    let mut rates = vec![rate_of(4.5)];
    rates.extend([0.0; 100]);
    let replicas = follow(rates, 1);
    let hold = HOLD.as_secs() as usize;
    assert!(
        replicas[..hold].iter().all(|&replicas| replicas == 5),
        "{replicas:?}"
    );
    // The smoothed rate faded meanwhile, and the remembered need with it.
    assert_eq!(replicas[hold + 3], 4, "{replicas:?}");
    assert_eq!(replicas.last(), Some(&1), "{replicas:?}");
}

#[test]
fn who_has_just_begun_to_look_takes_nothing_away() {
    let replicas = follow([0.0; 61], 6);
    assert_eq!(replicas[..60], [6; 60]);
    assert_eq!(replicas[60], 1);
}

#[test]
fn a_backlog_asks_for_one_more_the_second_time_once_all_are_there() {
    let mut autoscaler = Autoscaler::default();
    let pressed = |second, attached| Situation {
        queued: 100,
        attached,
        ..situation(second, rate_of(1.5), 2)
    };
    assert_eq!(autoscaler.decide(&pressed(0, 2)).replicas, 2);
    assert_eq!(autoscaler.decide(&pressed(1, 1)).replicas, 2, "one is on its way");
    let decision = autoscaler.decide(&pressed(2, 2));
    assert_eq!(decision.replicas, 3);
    assert!(
        decision.reason.to_string().starts_with("100 queries wait"),
        "{}",
        decision.reason
    );
    // A backlog long after the first counts as a first one again.
    let mut later = Autoscaler::default();
    later.decide(&pressed(0, 2));
    assert_eq!(later.decide(&pressed(100, 2)).replicas, 2);
}

#[test]
fn where_nothing_is_known_the_number_stays_but_for_the_bounds() {
    let mut autoscaler = Autoscaler::default();
    let unknown = |replicas, rate| Situation {
        batch_times: None,
        ..situation(0, rate, replicas)
    };
    for (replicas, expected) in [(3, 3), (0, 1), (20, 8)] {
        let decision = autoscaler.decide(&unknown(replicas, rate_of(5.0)));
        assert_eq!(
            (decision.replicas, decision.reason),
            (expected, Reason::NothingKnown)
        );
    }
    // Batch times that were learned once are kept when the last replica goes.
    autoscaler.decide(&situation(1, 0.0, 1));
    assert_eq!(autoscaler.decide(&unknown(1, rate_of(5.0))).replicas, 5);
}

#[test]
fn a_rate_that_is_none_changes_nothing() {
    let mut autoscaler = Autoscaler::default();
    autoscaler.decide(&situation(0, rate_of(2.0), 2));
    for (second, rate) in [(1, f64::NAN), (2, f64::INFINITY), (3, f64::NEG_INFINITY)] {
        assert_eq!(autoscaler.decide(&situation(second, rate, 3)).replicas, 3);
    }
    assert_eq!(autoscaler.decide(&situation(4, -5.0, 3)).replicas, 3);
    assert_eq!(autoscaler.decide(&situation(5, rate_of(4.0), 3)).replicas, 4);
}

#[test]
fn the_reason_is_said_in_numbers() {
    let mut autoscaler = Autoscaler::default();
    let reason = autoscaler
        .decide(&situation(0, rate_of(2.5), 1))
        .reason
        .to_string();
    assert_eq!(
        reason,
        "1200.0 queries/s need 2.50 replicas that are busy 60 % of the time (800.0/s each at the most, in \
         batches of 20 that take 25.0 ms)"
    );
}

#[test]
fn the_means_are_over_replicas_that_have_done_a_batch() {
    let view = |fixed_micros: f64| -> ReplicaView {
        serde_json::from_value(serde_json::json!({
            "replica": "m_1_0", "model": "m:1", "hostname": "h", "pid": 1, "draining": false, "in_flight": 0,
            "attached_at": "2026-01-01T00:00:00Z", "batches": 1, "inputs": 1,
            "fixed_micros": fixed_micros, "per_input_micros": 1000.0, "p99_micros": 20_000,
        }))
        .unwrap()
    };
    assert_eq!(BatchTimes::of(&[]), None);
    assert_eq!(BatchTimes::of(&[view(0.0)]), None);
    let times = BatchTimes::of(&[view(5000.0), view(7000.0), view(0.0)]).unwrap();
    let micros = |seconds: f64| (seconds * 1e6).round() as u64;
    assert_eq!(
        [times.first, times.further, times.p99].map(micros),
        [6000, 1000, 20_000]
    );
}

fn anything() -> impl Strategy<Value = Situation> {
    let number = || {
        prop_oneof![
            0.0..1e6,
            Just(0.0),
            Just(f64::NAN),
            Just(f64::INFINITY),
            -10.0..0.0
        ]
    };
    let times = prop::option::of((0.0..10.0, 0.0..1.0, 0.0..100.0));
    let slo = prop::option::of((1u64..10_000_000).prop_map(Duration::from_micros));
    let counts = (0u64..100_000, 0u32..50, 0u32..50, 1u32..300);
    let bounds = (1u32..20, 0u32..20);
    (number(), times, slo, counts, bounds).prop_map(|(rate, times, slo, counts, bounds)| {
        let (queued, replicas, attached, max_batch) = counts;
        Situation {
            now: Instant::default(),
            arrivals_per_second: rate,
            queued,
            batch_times: times.map(|(first, further, p99)| BatchTimes { first, further, p99 }),
            slo,
            max_batch: NonZeroU32::new(max_batch).unwrap(),
            replicas,
            attached,
            bounds: Autoscale {
                min: bounds.0,
                max: bounds.0 + bounds.1,
            },
        }
    })
}

proptest! {
    #[test]
    fn the_number_is_always_within_its_bounds(situations in prop::collection::vec((anything(), 0u64..90), 1..50)) {
        let mut autoscaler = Autoscaler::default();
        let mut now = Instant::default();
        for (situation, pause) in situations {
            now = now + Duration::from_secs(pause);
            let decision = autoscaler.decide(&Situation { now, ..situation });
            let Autoscale { min, max } = situation.bounds;
            prop_assert!((min..=max).contains(&decision.replicas), "{:?}", decision);
            prop_assert!(!decision.reason.to_string().contains("NaN"), "{}", decision.reason);
        }
    }

    #[test]
    fn under_a_steady_load_the_number_settles(
        replicas in 0.1..7.0_f64,
        jitter in prop::collection::vec(-0.04..0.04_f64, 400),
        first in 1u32..=8,
    ) {
        let rates = jitter.iter().map(|part| rate_of(replicas) * (1.0 + part));
        let numbers = follow(rates, first);
        // After enough time the number no longer goes up and down.
        let settled = &numbers[HOLD.as_secs() as usize..];
        let changes = settled.windows(2).filter(|pair| pair[0] != pair[1]).count();
        prop_assert!(changes <= 1, "{:?}", numbers);
        let enough = f64::from(*numbers.last().unwrap());
        prop_assert!(enough >= replicas.floor() && enough <= (replicas * 1.15).ceil() + 1.0, "{:?}", numbers);
    }

    #[test]
    fn more_load_never_asks_for_fewer(less in 0.0..5000.0_f64, more in 0.0..5000.0_f64, replicas in 1u32..8) {
        let (less, more) = (less.min(more), less.max(more));
        let decide = |rate| Autoscaler::default().decide(&situation(0, rate, replicas)).replicas;
        prop_assert!(decide(less) <= decide(more));
    }
}

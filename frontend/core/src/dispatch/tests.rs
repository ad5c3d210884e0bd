use std::num::NonZeroU32;

use proptest::prelude::*;

use super::*;
use crate::batch::{FixedSize, Learned};
use crate::queue::Bounds;
use crate::waiting_room::{Admission, Unanswered};

const MOST: u32 = 4;

fn at(millis: u64) -> Instant {
    Instant::from_nanos(millis * 1_000_000)
}

fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn room() -> WaitingRoom<u32> {
    let bounds = Bounds {
        count: usize::MAX,
        bytes: usize::MAX,
    };
    WaitingRoom::new(bounds, Admission::Any)
}

/// A room with a query due at each of these milliseconds.
fn room_of(due: &[u64]) -> WaitingRoom<u32> {
    let mut room = room();
    for (task, &due) in (0..).zip(due) {
        room.enter(at(0), at(due), 1, task).unwrap();
    }
    room
}

/// A dispatcher of batches of up to four.
fn dispatcher() -> Dispatcher<u32> {
    let policy = FixedSize::new(NonZeroU32::new(MOST).unwrap());
    Dispatcher::new(1, Box::new(policy), usize::MAX)
}

/// A dispatcher that has learned that batches take 10 ms.
fn experienced() -> Dispatcher<u32> {
    let mut latency = LatencyModel::default();
    for size in [1, 2, 3, 4, 1, 2, 3, 4] {
        latency.observe(size, millis(10), false);
    }
    dispatcher().with_latency(latency)
}

fn kept(sequence: u64) -> Credit {
    Credit {
        sequence,
        park: true,
        alone: true,
        share: Share::WHOLE,
        starts_in: Duration::ZERO,
    }
}

fn shared(sequence: u64) -> Credit {
    Credit {
        sequence,
        park: false,
        alone: false,
        share: Share::WHOLE,
        starts_in: Duration::ZERO,
    }
}

fn answer(took: u64) -> Completion {
    Completion {
        worked_on: usize::MAX,
        is_merged: false,
        took: millis(took),
        inside: millis(took),
    }
}

#[track_caller]
fn sent(turn: &Turn<u32>) -> Departure {
    match turn.step {
        Step::Send(departure) => departure,
        step => panic!("not sent: {step:?}"),
    }
}

#[test]
fn each_credit_is_good_for_one_batch() {
    let (mut room, mut dispatcher) = (room_of(&[100; 9]), dispatcher());
    assert!(!dispatcher.takes_work());
    dispatcher.grant(shared(1), at(3));
    let turn = dispatcher.step(&mut room, at(5));
    let departure = sent(&turn);
    assert_eq!(
        departure,
        Departure {
            id: 1,
            credit: 1,
            credit_held: millis(2),
            predicted: None
        }
    );
    assert!(turn.wake_another);
    assert_eq!(dispatcher.queries(1).len(), 4);
    let step = dispatcher.step(&mut room, at(5)).step;
    let demand = Demand {
        queued: 5,
        earliest_budget: millis(95),
        most_inputs: 0,
    };
    assert_eq!(step, Step::Announce(demand));
    dispatcher.grant(shared(2), at(6));
    assert_eq!(sent(&dispatcher.step(&mut room, at(6))).id, 2);
}

/// A credit for half of a batch, with at most `most_inputs` from here.
fn half(most_inputs: usize) -> Credit {
    Credit {
        share: Share {
            of_inputs: 0.5,
            most_inputs,
        },
        ..shared(1)
    }
}

#[test]
fn of_a_shared_batch_no_more_is_sent_than_the_credit_allows() {
    for (most_inputs, taken) in [(1, 1), (3, 3), (99, 4)] {
        let (mut room, mut dispatcher) = (room_of(&[100; 9]), dispatcher());
        dispatcher.grant(half(most_inputs), at(0));
        let id = sent(&dispatcher.step(&mut room, at(0))).id;
        assert_eq!(dispatcher.queries(id).len(), taken, "{most_inputs}");
    }
}

#[test]
fn a_policy_that_counts_on_batch_times_says_how_large_a_shared_batch_may_be() {
    let announced = |policy: Box<dyn BatchPolicy>, failed: Option<usize>| {
        let (mut room, mut dispatcher) = (room_of(&[100]), Dispatcher::new(1, policy, usize::MAX));
        if let Some(size) = failed {
            room.batch_failed(size, at(0));
        }
        match dispatcher.step(&mut room, at(0)).step {
            Step::Announce(demand) => demand.most_inputs,
            step => panic!("not announced: {step:?}"),
        }
    };
    let most = NonZeroU32::new(32).unwrap();
    assert_eq!(announced(Box::new(Learned::new(most)), None), 32);
    assert_eq!(announced(Box::new(Learned::new(most)), Some(16)), 8);
    assert_eq!(announced(Box::new(FixedSize::new(most)), None), 0);
}

#[test]
fn a_part_is_expected_to_take_what_the_whole_batch_takes() {
    let mut latency = LatencyModel::default();
    for size in [1, 2, 3, 4, 5, 6, 7, 8].repeat(20) {
        latency.observe(size, millis(10 + size as u64), false);
    }
    let (mut room, mut dispatcher) = (room_of(&[100; 9]), dispatcher().with_latency(latency));
    let predicted = |turn: &Turn<u32>| sent(turn).predicted.unwrap().as_secs_f64() * 1e3;
    dispatcher.grant(half(99), at(0));
    let whole = predicted(&dispatcher.step(&mut room, at(0)));
    assert!((whole - 18.0).abs() < 0.5, "four of eight: {whole}");
    dispatcher.grant(shared(2), at(0));
    let own = predicted(&dispatcher.step(&mut room, at(0)));
    assert!((own - 14.0).abs() < 0.5, "four of four: {own}");
}

#[test]
fn of_a_merged_batch_the_whole_size_is_learned() {
    for (is_merged, largest) in [(true, 9), (false, 2)] {
        let (mut room, mut dispatcher) = (room_of(&[100, 100]), dispatcher());
        dispatcher.grant(half(99), at(0));
        let id = sent(&dispatcher.step(&mut room, at(0))).id;
        let answer = Completion {
            worked_on: 9,
            is_merged,
            ..answer(10)
        };
        let answered = dispatcher.answered(id, answer, at(11)).unwrap();
        assert_eq!((answered.sent.size, answered.learned), (2, true));
        assert_eq!(dispatcher.latency().largest(), largest);
    }
}

#[test]
fn a_container_that_is_lost_with_a_part_is_lost_with_the_whole_batch() {
    let (mut room, mut dispatcher) = (room_of(&[100; 4]), dispatcher());
    dispatcher.grant(half(99), at(0));
    sent(&dispatcher.step(&mut room, at(0)));
    let loss = dispatcher.lose(&mut room, at(1));
    assert_eq!((loss.too_large, loss.queries.len()), (Some(8), 4));
    // Half of it is the limit: what other frontends may merge with.
    dispatcher.grant(shared(2), at(2));
    assert_eq!(room.limit(at(2)), 4);
}

#[test]
fn the_container_says_when_a_batch_starts_that_others_are_before() {
    let (mut room, mut dispatcher) = (room_of(&[100; 4]), experienced());
    let credit = Credit {
        starts_in: millis(30),
        ..shared(1)
    };
    dispatcher.grant(credit, at(0));
    sent(&dispatcher.step(&mut room, at(10)));
    let free = dispatcher.outlook(at(10)).free.saturating_since(at(0));
    assert!(free.abs_diff(millis(40)) < millis(1), "{free:?}");
}

#[test]
fn without_work_a_credit_is_returned_unless_it_may_be_parked() {
    let (mut room, mut dispatcher) = (room(), dispatcher());
    dispatcher.grant(kept(1), at(0));
    assert_eq!(dispatcher.step(&mut room, at(0)).step, Step::Pass);
    assert_eq!(dispatcher.unparked_credit(), None);
    dispatcher.recall(1);
    assert_eq!(dispatcher.step(&mut room, at(0)).step, Step::Pass);
    assert_eq!(dispatcher.unparked_credit(), Some(1));
    assert_eq!(dispatcher.step(&mut room, at(0)).step, Step::Wait);
}

#[test]
fn only_demand_that_is_more_urgent_is_announced_again_until_the_next_credit() {
    let (mut room, mut dispatcher) = (room_of(&[100]), dispatcher());
    let announces = |room: &mut WaitingRoom<u32>, dispatcher: &mut Dispatcher<u32>| {
        matches!(dispatcher.step(room, at(0)).step, Step::Announce(_))
    };
    assert!(announces(&mut room, &mut dispatcher));
    room.enter(at(0), at(100), 1, 7).unwrap();
    room.enter(at(0), at(200), 1, 8).unwrap();
    assert!(!announces(&mut room, &mut dispatcher));
    room.enter(at(0), at(90), 1, 9).unwrap();
    assert!(announces(&mut room, &mut dispatcher));
    dispatcher.grant(shared(1), at(0));
    sent(&dispatcher.step(&mut room, at(0)));
    room.enter(at(0), at(300), 1, 10).unwrap();
    assert!(announces(&mut room, &mut dispatcher));
}

#[test]
fn a_lone_frontend_announces_demand_only_once_another_is_there() {
    let (mut room, mut dispatcher) = (room_of(&[100; 9]), dispatcher());
    dispatcher.grant(kept(1), at(0));
    sent(&dispatcher.step(&mut room, at(0)));
    assert!(!dispatcher.looks_at_the_room());
    assert_eq!(dispatcher.step(&mut room, at(0)).step, Step::Wait);
    // The recall crosses the batch on the way.
    dispatcher.recall(1);
    assert!(dispatcher.looks_at_the_room());
    let step = dispatcher.step(&mut room, at(0)).step;
    let demand = Demand {
        queued: 5,
        earliest_budget: millis(100),
        most_inputs: 0,
    };
    assert_eq!(step, Step::Announce(demand));
}

#[test]
fn a_container_that_drains_is_sent_nothing_more() {
    let (mut room, mut dispatcher) = (room_of(&[100]), dispatcher());
    dispatcher.grant(kept(1), at(0));
    dispatcher.stop();
    assert!(!dispatcher.takes_work());
    assert_eq!(dispatcher.step(&mut room, at(0)).step, Step::Wait);
}

#[test]
fn a_batch_that_could_not_be_sent_loses_nothing() {
    let (mut room, mut dispatcher) = (room_of(&[100]), dispatcher());
    dispatcher.grant(kept(1), at(0));
    let id = sent(&dispatcher.step(&mut room, at(0))).id;
    let batch = dispatcher.unsend(id);
    assert!(room.put_back(batch, Unanswered::NotSent).is_empty());
    assert_eq!((room.len(), dispatcher.held().count()), (1, 0));
}

#[test]
fn what_the_model_did_not_work_on_teaches_nothing() {
    for (worked_on, learned) in [(0, false), (1, true), (99, true)] {
        let (mut room, mut dispatcher) = (room_of(&[100, 100]), dispatcher());
        dispatcher.grant(kept(1), at(0));
        let id = sent(&dispatcher.step(&mut room, at(0))).id;
        let answer = Completion {
            worked_on,
            ..answer(10)
        };
        let answered = dispatcher.answered(id, answer, at(11)).unwrap();
        assert_eq!((answered.sent.size, answered.learned), (2, learned));
        let latency = dispatcher.latency();
        assert_eq!(
            (latency.is_known(), latency.largest()),
            (learned, worked_on.min(2))
        );
        assert!(dispatcher.answered(id, answer, at(11)).is_none());
    }
}

#[test]
fn an_overdue_batch_is_handed_over_only_to_others_that_are_ready_and_nothing_is_sent_meanwhile() {
    let (mut room, mut dispatcher) = (room_of(&[900; 9]), experienced());
    room.join(1, at(0));
    dispatcher.grant(kept(1), at(0));
    dispatcher.grant(kept(2), at(0));
    let id = sent(&dispatcher.step(&mut room, at(0))).id;
    let due = dispatcher.next_look().unwrap();
    dispatcher.look(due - Duration::from_nanos(1));
    assert!(dispatcher.takes_work() && dispatcher.hand_over(&mut room, 1).is_empty());
    dispatcher.look(due);
    assert!(dispatcher.is_overdue() && !dispatcher.takes_work() && !dispatcher.is_hung(due));
    assert!(dispatcher.hand_over(&mut room, 0).is_empty());
    assert_eq!(dispatcher.hand_over(&mut room, 1).len(), 4);
    assert!(dispatcher.hand_over(&mut room, 1).is_empty());
    let hung = dispatcher.next_look().unwrap();
    assert!(hung > due && dispatcher.is_hung(hung));
    let answered = dispatcher.answered(id, answer(10), due).unwrap();
    assert!(answered.sent.batch.is_empty() && answered.sent.size == 4);
    assert!(dispatcher.takes_work());
}

#[test]
fn how_long_others_keep_the_replica_is_learned_while_queries_wait() {
    let (mut room, mut dispatcher) = (room_of(&[90_000; 60]), dispatcher());
    let mut now = 0;
    for sequence in 0..15 {
        dispatcher.grant(shared(sequence), at(now));
        let id = sent(&dispatcher.step(&mut room, at(now))).id;
        dispatcher.answered(id, answer(10), at(now + 10)).unwrap();
        dispatcher.report(&mut room, at(now + 10));
        now += 10 + 20;
    }
    let learned = dispatcher.pause.expected();
    assert!(learned > millis(18) && learned <= millis(20), "{learned:?}");
}

/// A room whose replicas have shown that batches of up to four take 10 ms.
fn experienced_room() -> WaitingRoom<u32> {
    let mut room = room_of(&[9000; 40]);
    for size in [1, 2, 3, 4, 1, 2, 3, 4] {
        room.batch_answered(size, millis(10));
    }
    room
}

#[test]
fn one_that_has_just_come_starts_from_what_the_others_of_its_version_have_learned() {
    let (mut room, mut dispatcher) = (experienced_room(), dispatcher());
    dispatcher.grant(kept(1), at(0));
    let departure = sent(&dispatcher.step(&mut room, at(0)));
    let predicted = departure.predicted.unwrap();
    assert!((millis(9)..=millis(11)).contains(&predicted), "{predicted:?}");
    // It may load its model with the first batch. So others get the queries soon, but the replica gets its time.
    dispatcher.look(at(1000));
    assert!(dispatcher.is_overdue() && !dispatcher.is_hung(at(200_000)));
    // From the second batch on, its own times count.
    dispatcher.answered(departure.id, answer(10), at(1000)).unwrap();
    dispatcher.grant(kept(2), at(1000));
    sent(&dispatcher.step(&mut room, at(1000)));
    assert!(dispatcher.is_hung(at(200_000)));
}

#[test]
fn one_that_is_not_as_fast_as_the_others_goes_by_its_own_first_batch() {
    for (took, expected) in [(11, 10), (70, 70), (1, 1)] {
        let (mut room, mut dispatcher) = (experienced_room(), dispatcher());
        dispatcher.grant(kept(1), at(0));
        let id = sent(&dispatcher.step(&mut room, at(0))).id;
        dispatcher.answered(id, answer(took), at(100)).unwrap();
        let typical = dispatcher.latency().typical(4) * 1e3;
        assert!(
            (typical / f64::from(expected) - 1.0).abs() < 0.1,
            "{typical} after {took}"
        );
    }
}

#[test]
fn what_it_has_shown_before_it_came_counts_for_the_others() {
    let (mut room, dispatcher) = (room_of(&[9000; 40]), experienced());
    room.join(1, at(0));
    dispatcher.introduce(&mut room, at(0));
    assert!(!room.batch_failed(4, at(0)) && room.batch_failed(5, at(0)));
}

#[test]
fn of_a_lost_replicas_batches_the_one_that_it_worked_on_may_have_been_too_large() {
    let (mut room, mut dispatcher) = (room_of(&[9000; 6]), dispatcher());
    assert_eq!(dispatcher.lose(&mut room, at(0)).too_large, None);
    dispatcher.grant(kept(1), at(0));
    dispatcher.grant(kept(2), at(0));
    sent(&dispatcher.step(&mut room, at(0)));
    sent(&dispatcher.step(&mut room, at(0)));
    let loss = dispatcher.lose(&mut room, at(0));
    assert_eq!((loss.too_large, loss.queries.len()), (Some(4), 6));
    assert_eq!(room.restraint(at(0)).unwrap().limit, 2);
}

/// An event in a dispatcher's life.
#[derive(Clone, Debug)]
enum Happening {
    Enter { budget: u64 },
    Grant { park: bool, alone: bool },
    Recall,
    Answer { took: u64 },
    Look,
    HandOver,
    Tick(u64),
}

fn any_event() -> impl Strategy<Value = Happening> {
    prop_oneof![
        6 => (0u64..200).prop_map(|budget| Happening::Enter { budget }),
        3 => any::<(bool, bool)>().prop_map(|(park, alone)| Happening::Grant { park, alone }),
        1 => Just(Happening::Recall),
        3 => (0u64..50).prop_map(|took| Happening::Answer { took }),
        1 => Just(Happening::Look),
        1 => Just(Happening::HandOver),
        3 => (0u64..200).prop_map(Happening::Tick),
    ]
}

proptest! {
    #[test]
    fn whatever_happens_no_batch_is_sent_without_a_credit_or_while_another_is_overdue(
        events in prop::collection::vec(any_event(), 0..120),
    ) {
        let (mut room, mut dispatcher) = (room(), dispatcher());
        room.join(1, at(0));
        let (mut now, mut granted, mut gone, mut entered, mut done) = (0, 0u64, 0u64, 0u32, 0usize);
        let mut held: Vec<u64> = Vec::new();
        let mut announced: Option<Instant> = None;
        for event in events {
            match event {
                Happening::Enter { budget } => {
                    room.enter(at(now), at(now + budget), 1, entered).unwrap();
                    entered += 1;
                }
                Happening::Grant { park, alone } => {
                    granted += 1;
                    dispatcher.grant(Credit { park, alone, ..kept(granted) }, at(now));
                }
                Happening::Recall => dispatcher.recall(granted),
                Happening::Answer { took } if !held.is_empty() => {
                    let answered = dispatcher.answered(held.remove(0), answer(took), at(now)).unwrap();
                    done += answered.sent.batch.len();
                    dispatcher.report(&mut room, at(now));
                }
                Happening::Answer { .. } => {}
                Happening::Look => dispatcher.look(at(now)),
                Happening::HandOver => {
                    let batch = dispatcher.hand_over(&mut room, 1);
                    done += room.put_back(batch, Unanswered::ReplicaLost).len();
                }
                Happening::Tick(millis) => now += millis,
            }
            loop {
                let overdue = dispatcher.is_overdue();
                let turn = dispatcher.step(&mut room, at(now));
                done += turn.given_up.len();
                match turn.step {
                    Step::Send(departure) => {
                        prop_assert!(!overdue);
                        gone += 1;
                        prop_assert!(gone <= granted);
                        prop_assert_eq!(departure.id, held.last().copied().unwrap_or(departure.id - 1) + 1);
                        prop_assert!((1..=MOST as usize).contains(&dispatcher.queries(departure.id).len()));
                        held.push(departure.id);
                        announced = None;
                        continue;
                    }
                    Step::Pass => {
                        announced = None;
                        while dispatcher.unparked_credit().is_some() {
                            gone += 1;
                        }
                    }
                    Step::Announce(demand) => {
                        prop_assert_eq!(demand.queued, room.len());
                        let first = room.first().unwrap().deadline();
                        prop_assert!(announced.is_none_or(|announced| first < announced));
                        announced = Some(first);
                    }
                    Step::Wait => {}
                }
                break;
            }
            prop_assert!(!dispatcher.takes_work() || room.is_empty(), "what waits is sent");
            prop_assert!(dispatcher.outlook(at(now)).free >= at(now));
            prop_assert_eq!(room.len() + dispatcher.held().count() + done, entered as usize);
        }
    }
}

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::ops::Range;

use proptest::prelude::*;

use super::members::PROBE_INTERVAL;
use super::*;
use crate::batch::{FixedSize, Learned, policy_for};

fn room(admission: Admission) -> WaitingRoom<u32> {
    let bounds = Bounds {
        count: 10,
        bytes: 1000,
    };
    WaitingRoom::new(bounds, admission)
}

fn at(nanos: u64) -> Instant {
    Instant::from_nanos(nanos)
}

fn outlook(free: u64, alone: u64) -> Other {
    Other {
        free: at(free),
        alone: Duration::from_nanos(alone),
    }
}

/// A room with one replica, which is free at `free` and takes `alone` for a batch of one, in nanoseconds.
fn room_with(free: u64, alone: u64, admission: Admission) -> WaitingRoom<u32> {
    let mut room = room(admission);
    room.join(1, at(0));
    room.expect(1, Some(outlook(free, alone)));
    room
}

fn refusal(entered: Result<Seat, Refused<u32>>) -> Option<DefaultReason> {
    entered.err().map(|refused| refused.reason)
}

/// What a replica takes while nothing is known of its batch times.
fn take(room: &mut WaitingRoom<u32>, replica: u64, now: u64, policy: &mut dyn BatchPolicy) -> Taken<u32> {
    let taker = Taker {
        replica,
        policy,
        latency: &LatencyModel::default(),
        start: at(now),
        overhead: Duration::ZERO,
        pause: Duration::ZERO,
        max_bytes: usize::MAX,
        share: 1.0,
        most_inputs: usize::MAX,
        is_sole: true,
    };
    room.take(at(now), taker)
}

fn fixed(size: u32) -> FixedSize {
    FixedSize::new(NonZeroU32::new(size).unwrap())
}

fn tasks(batch: &[Placed<u32>]) -> Vec<u32> {
    batch.iter().map(|placed| placed.task).collect()
}

#[test]
fn what_no_replica_can_answer_in_time_is_refused_on_arrival() {
    let mut room = room_with(5, 10, Admission::InTime);
    assert!(room.enter(at(0), at(15), 1, 1).is_ok());
    let late = room.enter(at(0), at(14), 1, 2);
    assert_eq!(refusal(late), Some(DefaultReason::PredictedLate));
    room.join(2, at(0));
    assert!(
        room.enter(at(0), at(14), 1, 3).is_ok(),
        "one of which nothing is known may be faster"
    );
    assert_eq!((room.len(), room.arrived()), (2, 3));
}

#[test]
fn while_no_replica_is_counted_on_queries_wait_for_one() {
    let mut room = room_with(5, 10, Admission::InTime);
    room.expect(1, None);
    assert!(room.enter(at(0), at(14), 1, 1).is_ok());
    room.join(2, at(0));
    room.expect(2, Some(outlook(5, 10)));
    let late = room.enter(at(0), at(14), 1, 2);
    assert_eq!(refusal(late), Some(DefaultReason::PredictedLate));
}

#[test]
fn policies_that_do_not_count_on_times_refuse_nothing_for_them() {
    for batch_size in [BatchSize::Aimd, BatchSize::Fixed(NonZeroU32::MIN)] {
        assert!(!policy_for(batch_size, NonZeroU32::MIN).counts_on_times());
        let mut room = room_with(5, 10, batch_size.into());
        assert!(room.enter(at(0), at(1), 1, 1).is_ok());
    }
    assert!(policy_for(BatchSize::Adaptive, NonZeroU32::MIN).counts_on_times());
    let mut room = room_with(5, 10, BatchSize::Adaptive.into());
    assert!(room.enter(at(0), at(1), 1, 1).is_err());
}

#[test]
fn a_replica_that_has_long_been_idle_is_tried_now_and_then_even_if_all_would_be_late() {
    let interval = u64::try_from(PROBE_INTERVAL.as_nanos()).unwrap();
    let room = || room_with(0, 10 * interval, Admission::InTime);
    let mut waits = room();
    let mut arrive = |now: u64| refusal(waits.enter(at(now), at(now + interval), 1, 1));
    assert_eq!(arrive(interval), None);
    assert_eq!(
        arrive(3 * interval),
        Some(DefaultReason::PredictedLate),
        "one waits"
    );
    let mut room = room();
    let mut arrive = |now: u64| {
        let entered = room.enter(at(now), at(now + interval), 1, 1);
        entered.map(|seat| room.remove(seat.place)).is_ok()
    };
    assert!(!arrive(interval - 1), "it has been idle for less");
    assert!(arrive(interval));
    assert!(!arrive(2 * interval - 1));
    assert!(arrive(2 * interval));
}

#[test]
fn a_replica_that_should_be_free_by_now_is_no_replica_that_could_have_begun_before() {
    // Replica 1 is free since 0 and needs 50 for one. A batch cannot start there before 100, no sooner than here.
    let mut room = room_with(0, 50, Admission::Any);
    room.join(2, at(0));
    for due in [120, 130] {
        room.enter(at(100), at(due), 1, 1).unwrap();
    }
    let mut latency = LatencyModel::default();
    latency.observe(1, Duration::from_nanos(50), false);
    let taken = room.take(
        at(100),
        Taker {
            replica: 2,
            policy: &mut Learned::new(NonZeroU32::MIN),
            latency: &latency,
            start: at(100),
            overhead: Duration::ZERO,
            pause: Duration::ZERO,
            max_bytes: usize::MAX,
            share: 1.0,
            most_inputs: usize::MAX,
            is_sole: true,
        },
    );
    assert_eq!((taken.given_up.len(), taken.batch.len()), (1, 1), "{taken:?}");
}

#[test]
fn what_was_left_to_others_is_given_up_once_each_of_them_would_be_too_late() {
    let mut room = room_with(0, 50, Admission::InTime);
    room.join(2, at(0));
    room.expect(2, Some(outlook(1000, 10)));
    for (due, task) in [(60, 1), (70, 2), (500, 3)] {
        room.enter(at(0), at(due), 1, task).unwrap();
    }
    let mut latency = LatencyModel::default();
    latency.observe(1, Duration::from_nanos(50), false);
    let taken = room.take(
        at(0),
        Taker {
            replica: 1,
            policy: &mut fixed(1),
            latency: &latency,
            start: at(0),
            overhead: Duration::ZERO,
            pause: Duration::ZERO,
            max_bytes: usize::MAX,
            share: 1.0,
            most_inputs: usize::MAX,
            is_sole: true,
        },
    );
    assert_eq!((tasks(&taken.batch), tasks(&taken.given_up)), (vec![1], vec![2]));
    assert_eq!(taken.given_up[0].given_up(at(0)), DefaultReason::PredictedLate);
    assert_eq!(room.len(), 1, "there is time for another batch");
}

#[test]
fn what_only_a_slow_replica_could_take_and_not_in_time_is_refused_at_once() {
    // The fast replica is free at 100 and done at 105. The slow one is free now and done at 50.
    let mut room = room_with(100, 5, Admission::InTime);
    room.join(2, at(0));
    room.expect(2, Some(outlook(0, 50)));
    let late = room.enter(at(0), at(49), 1, 1);
    assert_eq!(refusal(late), Some(DefaultReason::PredictedLate));
    assert!(room.enter(at(0), at(50), 1, 2).is_ok());
    // Nor is it let in if the slow replica is busy.
    room.expect(2, Some(outlook(60, 50)));
    let late = room.enter(at(0), at(104), 1, 3);
    assert_eq!(refusal(late), Some(DefaultReason::PredictedLate));
}

/// What replica 2 takes at 0. It takes 50 ms for one; replica 1 is free at `free_millis` and takes 5 ms for one.
fn taken_by_a_slow_one(due_millis: u64, free_millis: u64) -> (Taken<u32>, WaitingRoom<u32>) {
    let mut room = room_with(free_millis * MILLI, 5 * MILLI, Admission::InTime);
    room.join(2, at(0));
    room.expect(2, Some(outlook(0, 50 * MILLI)));
    room.enter(at(0), at(due_millis * MILLI), 1, 1).unwrap();
    let taken = take_slowly(&mut room, 0, true);
    (taken, room)
}

const MILLI: u64 = 1_000_000;

fn take_slowly(room: &mut WaitingRoom<u32>, now: u64, is_sole: bool) -> Taken<u32> {
    let mut latency = LatencyModel::default();
    (0..20).for_each(|_| latency.observe(1, Duration::from_millis(50), false));
    let taker = Taker {
        replica: 2,
        policy: &mut Learned::new(NonZeroU32::MIN),
        latency: &latency,
        start: at(now),
        overhead: Duration::ZERO,
        pause: Duration::ZERO,
        max_bytes: usize::MAX,
        share: 1.0,
        most_inputs: usize::MAX,
        is_sole,
    };
    room.take(at(now), taker)
}

#[test]
fn a_slow_replica_leaves_to_a_much_faster_one_what_that_answers_sooner() {
    let (taken, room) = taken_by_a_slow_one(100, 20);
    assert!(taken.batch.is_empty() && taken.given_up.is_empty(), "{taken:?}");
    assert_eq!(taken.again, Some(at(25 * MILLI)));
    assert_eq!(room.len(), 1, "it waits for the faster one");
    let (taken, _) = taken_by_a_slow_one(100, 0);
    assert!(taken.wake_another, "the faster one is free: it is asked");
    let (taken, _) = taken_by_a_slow_one(100, 60);
    assert_eq!(tasks(&taken.batch), [1], "the faster one would answer later");
}

#[test]
fn a_slow_replica_takes_what_the_faster_one_did_not_come_for() {
    let (_, mut room) = taken_by_a_slow_one(100, 20);
    let before = take_slowly(&mut room, 25 * MILLI - 1, true);
    assert!(before.batch.is_empty());
    let taken = take_slowly(&mut room, 25 * MILLI, true);
    assert_eq!(tasks(&taken.batch), [1]);
    // Queries that come after that are left again.
    room.enter(at(26 * MILLI), at(126 * MILLI), 1, 2).unwrap();
    room.expect(2, Some(outlook(26 * MILLI, 50 * MILLI)));
    assert!(take_slowly(&mut room, 26 * MILLI, true).batch.is_empty());
}

#[test]
fn a_slow_replica_that_other_frontends_use_leaves_nothing() {
    let (_, mut room) = taken_by_a_slow_one(100, 20);
    let taken = take_slowly(&mut room, 0, false);
    assert_eq!(tasks(&taken.batch), [1]);
}

#[test]
fn a_slow_replica_does_not_count_on_a_faster_one_that_stalls() {
    let (_, mut room) = taken_by_a_slow_one(100, 20);
    room.expect(1, None);
    let taken = take_slowly(&mut room, 0, true);
    assert_eq!(tasks(&taken.batch), [1]);
}

#[test]
fn what_came_is_passed_on_once_for_each_other_replica() {
    let mut room = room_with(0, 5 * MILLI, Admission::InTime);
    for replica in [2, 3] {
        room.join(replica, at(0));
        room.expect(replica, Some(outlook(0, 50 * MILLI)));
    }
    room.enter(at(0), at(100 * MILLI), 1, 1).unwrap();
    let wakes = [(); 3].map(|()| take_slowly(&mut room, 0, true).wake_another);
    assert_eq!(wakes, [true, true, false]);
}

#[test]
fn what_is_given_up_has_the_reason_of_how_far_it_got() {
    let mut room = room(Admission::Any);
    for (due, task) in [(1, 1), (1, 2), (9, 3)] {
        room.enter(at(0), at(due), 1, task).unwrap();
    }
    let lost = take(&mut room, 1, 0, &mut fixed(1)).batch;
    assert_eq!(tasks(&lost), [1]);
    assert!(room.put_back(lost, Unanswered::ReplicaLost).is_empty());
    let taken = take(&mut room, 1, 5, &mut fixed(9));
    assert_eq!(
        (tasks(&taken.given_up), tasks(&taken.batch)),
        (vec![1, 2], vec![3])
    );
    let reasons: Vec<_> = taken
        .given_up
        .iter()
        .map(|placed| placed.given_up(at(5)))
        .collect();
    assert_eq!(
        reasons,
        [DefaultReason::ReplicaLost, DefaultReason::ExpiredInQueue]
    );
    assert_eq!(taken.batch[0].given_up(at(5)), DefaultReason::PredictedLate);
}

/// A room in which `queries` wait for long.
fn crowded(queries: u32) -> WaitingRoom<u32> {
    let bounds = Bounds {
        count: usize::MAX,
        bytes: usize::MAX,
    };
    let mut room = WaitingRoom::new(bounds, Admission::Any);
    for task in 0..queries {
        room.enter(at(0), at(1_000_000), 1, task).unwrap();
    }
    room
}

#[test]
fn a_batch_of_a_new_size_that_fails_is_tried_again_in_halves_and_loses_nothing() {
    let mut room = crowded(16);
    let mut sizes = Vec::new();
    loop {
        let batch = take(&mut room, 1, 0, &mut fixed(16)).batch;
        sizes.push(batch.len());
        if batch.len() <= 3 {
            room.batch_answered(batch.len(), Duration::from_nanos(1));
            break;
        }
        assert!(room.batch_failed(batch.len(), at(0)));
        assert!(room.put_back(batch, Unanswered::TooLarge).is_empty());
    }
    assert_eq!(sizes, [16, 8, 4, 2]);
    let restraint = room.restraint(at(0)).unwrap();
    assert_eq!((restraint.limit, restraint.failed), (2, 4));
    assert!(!room.batch_failed(2, at(0)), "it was answered well before");
    let again = take(&mut room, 1, 0, &mut fixed(16)).batch;
    assert!(again.iter().all(|placed| !placed.lost_before));
}

#[test]
fn queries_whose_replica_was_lost_go_in_batches_that_were_answered_well_before() {
    let mut room = crowded(20);
    room.batch_answered(4, Duration::from_nanos(1));
    let batch = take(&mut room, 1, 0, &mut fixed(16)).batch;
    assert!(room.batch_failed(batch.len(), at(0)));
    assert!(room.put_back(batch, Unanswered::ReplicaLost).is_empty());
    let sizes = std::iter::from_fn(|| {
        let batch = take(&mut room, 1, 0, &mut fixed(16)).batch;
        (!batch.is_empty()).then_some(batch.len())
    });
    assert_eq!(sizes.collect::<Vec<_>>(), [4; 5]);
}

#[test]
fn a_policy_that_chooses_sizes_is_told_how_far_the_replicas_have_come() {
    let mut room = crowded(100);
    let mut latency = LatencyModel::default();
    latency.observe(1, Duration::from_nanos(10), false);
    let mut sizes = Vec::new();
    for _ in 0..3 {
        let taken = room.take(
            at(0),
            Taker {
                replica: 1,
                policy: &mut Learned::new(NonZeroU32::MAX),
                latency: &latency,
                start: at(0),
                overhead: Duration::ZERO,
                pause: Duration::ZERO,
                max_bytes: usize::MAX,
                share: 1.0,
                most_inputs: usize::MAX,
                is_sole: true,
            },
        );
        sizes.push(taken.batch.len());
        room.batch_answered(taken.batch.len(), Duration::from_nanos(10));
    }
    assert_eq!(sizes, [1, 8, 64]);
}

#[test]
fn of_the_way_no_more_than_a_part_of_what_queries_are_given_is_allowed_for() {
    let mut room = room(Admission::InTime);
    room.enter(at(0), at(100), 1, 1).unwrap();
    let mut latency = LatencyModel::default();
    latency.observe(1, Duration::from_nanos(70), false);
    let taken = room.take(
        at(0),
        Taker {
            replica: 1,
            policy: &mut Learned::new(NonZeroU32::MIN),
            latency: &latency,
            start: at(0),
            overhead: Duration::from_secs(1),
            pause: Duration::ZERO,
            max_bytes: usize::MAX,
            share: 1.0,
            most_inputs: usize::MAX,
            is_sole: true,
        },
    );
    assert_eq!(
        tasks(&taken.batch),
        [1],
        "70 and 25 are in time, 70 and a second are not"
    );
}

/// Lets queries of an application wait, all due at `due`.
fn admit_for(room: &mut WaitingRoom<u32>, application: u64, now: u64, due: u64, tasks: Range<u32>) {
    for task in tasks {
        let claim = Claim {
            application,
            weight: NonZeroU32::MIN,
        };
        let entrant = Entrant {
            deadline: at(due),
            claim,
            bytes: 1,
            task,
        };
        room.admit(at(now), entrant).unwrap();
    }
}

fn large_room() -> WaitingRoom<u32> {
    let bounds = Bounds {
        count: 1000,
        bytes: 1000,
    };
    WaitingRoom::new(bounds, Admission::Any)
}

#[test]
fn while_nothing_is_lost_deadlines_alone_decide_whose_queries_are_taken() {
    let mut room = large_room();
    admit_for(&mut room, 1, 0, 50, 0..20);
    admit_for(&mut room, 2, 0, 60, 20..22);
    let taken = take(&mut room, 1, 1, &mut fixed(8));
    assert_eq!(tasks(&taken.batch), (0..8).collect::<Vec<_>>());
}

/// A room in which application 1 got a batch of its queries 3 to 10, after it lost 0 to 2; its 11 to 19 wait.
#[test]
fn while_queries_are_lost_who_stays_below_its_share_is_taken_first() {
    let mut room = large_room();
    admit_for(&mut room, 1, 0, 5, 0..3);
    admit_for(&mut room, 1, 0, 50, 3..20);
    admit_for(&mut room, 2, 0, 60, 20..22);
    let taken = take(&mut room, 1, 6, &mut fixed(8));
    assert_eq!(tasks(&taken.given_up), [0, 1, 2]);
    assert_eq!(tasks(&taken.batch), [3, 4, 5, 6, 7, 8, 20, 21]);
    // What the other does not ask for is not left empty.
    let taken = take(&mut room, 1, 7, &mut fixed(8));
    assert_eq!(tasks(&taken.batch), (9..17).collect::<Vec<_>>());
    // Both ask for more than there is: each gets half.
    admit_for(&mut room, 1, 8, 60, 30..50);
    admit_for(&mut room, 2, 8, 60, 50..70);
    let taken = take(&mut room, 1, 8, &mut fixed(8));
    assert_eq!(tasks(&taken.batch), [17, 18, 19, 30, 50, 51, 52, 53]);
}

#[test]
fn some_time_after_the_last_loss_deadlines_alone_decide_again() {
    let mut room = large_room();
    let second = 1_000_000_000;
    admit_for(&mut room, 1, 0, 5, 0..1);
    admit_for(&mut room, 2, 0, 5 * second, 1..2);
    assert_eq!(take(&mut room, 1, 6, &mut fixed(1)).given_up.len(), 1);
    admit_for(&mut room, 1, 2 * second, 3 * second, 10..20);
    admit_for(&mut room, 2, 2 * second, 4 * second, 20..22);
    let taken = take(&mut room, 1, 2 * second, &mut fixed(4));
    assert_eq!(tasks(&taken.batch), [10, 11, 12, 13]);
}

#[test]
fn what_expires_while_it_waits_is_a_loss() {
    let mut room = large_room();
    admit_for(&mut room, 1, 0, 50, 0..9);
    admit_for(&mut room, 2, 0, 60, 9..10);
    let first = room.first().unwrap();
    let (reason, left) = room.leave_place(at(50), first);
    assert_eq!(
        (reason, left.map(|left| left.task)),
        (DefaultReason::ExpiredInQueue, Some(0))
    );
    let taken = take(&mut room, 1, 40, &mut fixed(4));
    assert_eq!(tasks(&taken.batch), [1, 2, 3, 9]);
}

#[test]
fn what_gives_way_to_others_is_told_once() {
    let mut room = room(Admission::Any);
    admit_for(&mut room, 1, 0, 50, 0..10);
    admit_for(&mut room, 2, 0, 90, 10..11);
    assert_eq!(tasks(&room.displaced()), [9]);
    assert!(room.displaced().is_empty());
    assert_eq!(room.len(), 10);
}

#[test]
fn a_closed_room_lets_nobody_in_and_gives_up_what_comes_back() {
    let mut room = room(Admission::Any);
    room.enter(at(0), at(9), 1, 1).unwrap();
    room.enter(at(0), at(9), 1, 2).unwrap();
    let in_hand = take(&mut room, 1, 0, &mut fixed(1)).batch;
    assert_eq!(tasks(&room.close()), [2]);
    let refused = room.enter(at(0), at(9), 1, 3);
    assert_eq!(refusal(refused), Some(DefaultReason::NoReplica));
    assert_eq!(tasks(&room.put_back(in_hand, Unanswered::NotSent)), [1]);
}

/// An event in a room's life.
#[derive(Clone, Debug)]
enum Event {
    Enter { due: u64, bytes: usize },
    Take { replica: u64, size: u32 },
    PutBack(Unanswered),
    Remove(prop::sample::Index),
    Hasten(prop::sample::Index),
    Leave { replica: u64 },
    Tick,
}

fn any_event() -> impl Strategy<Value = Event> {
    let unanswered = prop::sample::select(vec![
        Unanswered::NotSent,
        Unanswered::TooLarge,
        Unanswered::ReplicaLost,
    ]);
    prop_oneof![
        6 => (0u64..60, 0usize..300).prop_map(|(due, bytes)| Event::Enter { due, bytes }),
        3 => (0u64..3, 1u32..6).prop_map(|(replica, size)| Event::Take { replica, size }),
        2 => unanswered.prop_map(Event::PutBack),
        1 => any::<prop::sample::Index>().prop_map(Event::Remove),
        1 => any::<prop::sample::Index>().prop_map(Event::Hasten),
        1 => (0u64..3).prop_map(|replica| Event::Leave { replica }),
        3 => Just(Event::Tick),
    ]
}

proptest! {
    #[test]
    fn whatever_happens_each_query_is_in_one_place_and_is_tried_twice_at_the_most(
        events in prop::collection::vec(any_event(), 0..80),
        learned in any::<bool>(),
    ) {
        let mut room = room(if learned { Admission::InTime } else { Admission::Any });
        let mut latency = LatencyModel::default();
        latency.observe(2, Duration::from_nanos(8), false);
        (0..3).for_each(|replica| room.join(replica, at(0)));
        let (mut now, mut next) = (0, 0);
        // The place of each query that is not done with.
        let mut waiting: BTreeMap<u32, Place> = BTreeMap::new();
        let mut in_hand: Vec<Placed<u32>> = Vec::new();
        let mut losses: BTreeMap<u32, u32> = BTreeMap::new();
        for event in events {
            match event {
                Event::Enter { due, bytes } => {
                    let entrant = Entrant {
                        deadline: at(now + due),
                        claim: Claim {
                            application: u64::from(next % 3),
                            weight: NonZeroU32::MIN,
                        },
                        bytes,
                        task: next,
                    };
                    if let Ok(seat) = room.admit(at(now), entrant) {
                        let earliest = waiting.values().map(|place| place.deadline()).min();
                        prop_assert_eq!(seat.is_first, earliest.is_none_or(|first| at(now + due) < first));
                        waiting.insert(next, seat.place);
                    }
                    next += 1;
                    for displaced in room.displaced() {
                        prop_assert_eq!(waiting.remove(&displaced.task), Some(displaced.place()));
                    }
                }
                Event::Take { replica, size } => {
                    let limit = NonZeroU32::new(size).unwrap();
                    let mut policy: Box<dyn BatchPolicy> =
                        if learned { Box::new(Learned::new(limit)) } else { Box::new(FixedSize::new(limit)) };
                    let taken = room.take(at(now), Taker {
                        replica,
                        policy: &mut *policy,
                        latency: &latency,
                        start: at(now),
                        overhead: Duration::ZERO,
                        pause: Duration::ZERO,
                        max_bytes: 400,
                        share: 1.0,
                        most_inputs: usize::MAX,
                        is_sole: true,
                    });
                    prop_assert!(taken.batch.len() <= size as usize);
                    prop_assert!(taken.batch.is_sorted_by_key(Placed::place));
                    for placed in taken.batch.iter().chain(&taken.given_up) {
                        prop_assert_eq!(waiting.remove(&placed.task), Some(placed.place()));
                    }
                    in_hand.extend(taken.batch);
                }
                Event::PutBack(why) => {
                    let batch = std::mem::take(&mut in_hand);
                    for placed in &batch {
                        waiting.insert(placed.task, placed.place());
                        *losses.entry(placed.task).or_default() += u32::from(why == Unanswered::ReplicaLost);
                    }
                    for given_up in room.put_back(batch, why) {
                        waiting.remove(&given_up.task);
                        prop_assert_eq!(losses[&given_up.task], 2);
                        losses.remove(&given_up.task);
                    }
                    prop_assert!(losses.values().all(|&losses| losses < 2));
                }
                Event::Remove(which) if !waiting.is_empty() => {
                    let (&task, &place) = waiting.iter().nth(which.index(waiting.len())).unwrap();
                    waiting.remove(&task);
                    prop_assert_eq!(room.remove(place).map(|placed| placed.task), Some(task));
                }
                Event::Hasten(which) if !waiting.is_empty() => {
                    let (&task, &place) = waiting.iter().nth(which.index(waiting.len())).unwrap();
                    let seat = room.hasten(place, at(now)).unwrap();
                    waiting.insert(task, seat.place);
                }
                Event::Leave { replica } => room.leave(replica),
                Event::Tick => now += 5,
                Event::Remove(_) | Event::Hasten(_) => {}
            }
            prop_assert_eq!(room.len(), waiting.len());
            prop_assert!(waiting.values().all(|&place| room.holds(place)));
            prop_assert_eq!(room.first(), waiting.values().min().copied());
        }
        let mut left = tasks(&room.close());
        left.sort_unstable();
        prop_assert_eq!(left, waiting.into_keys().collect::<Vec<_>>());
    }
}

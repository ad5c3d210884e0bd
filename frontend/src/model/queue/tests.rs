use std::num::NonZeroU32;

use futures::FutureExt;
use skysail_core::batch::{FixedSize, LatencyModel, Learned};
use skysail_proto::deployment::BatchSize;

use super::members::PROBE_INTERVAL;
use super::*;

fn queue(count: usize) -> TaskQueue {
    let bounds = Bounds {
        count,
        bytes: usize::MAX,
    };
    TaskQueue::new(bounds, Admission::InTime)
}

fn at(nanos: u64) -> Instant {
    Instant::from_nanos(nanos)
}

fn input() -> Input {
    Input::doubles(&[1.0])
}

fn take(queue: &TaskQueue, size: u32, max_bytes: usize) -> Vec<Task> {
    let mut policy = FixedSize::new(NonZeroU32::new(size).unwrap());
    let latency = LatencyModel::default();
    let taker = Taker::without_history(&mut policy, &latency, at(0));
    queue.take(Taker { max_bytes, ..taker }).tasks
}

#[test]
fn a_full_queue_is_said_at_once() {
    let queue = queue(1);
    let _waiting = queue.push(at(0), at(9), input()).unwrap();
    assert_eq!(
        queue.push(at(0), at(9), input()).unwrap_err().reason,
        DefaultReason::QueueFull
    );
}

#[test]
fn an_asker_that_hangs_up_frees_its_place() {
    let queue = queue(1);
    drop(queue.push(at(0), at(9), input()).unwrap());
    assert!(queue.is_empty());
}

#[test]
fn the_reason_at_the_deadline_says_how_far_the_query_got() {
    let queue = queue(10);
    let waiting = queue.push(at(0), at(9), input()).unwrap();
    assert_eq!(waiting.expire().reason, DefaultReason::ExpiredInQueue);
    let sent = queue.push(at(0), at(9), input()).unwrap();
    let batch = take(&queue, 1, usize::MAX);
    assert_eq!(sent.expire().reason, DefaultReason::LateReply);
    assert!(batch[0].is_abandoned());
}

#[tokio::test]
async fn a_query_is_tried_again_after_its_replica_was_lost_but_only_once() {
    let queue = queue(10);
    let mut ticket = queue.push(at(0), at(9), input()).unwrap();
    queue.put_back(take(&queue, 1, usize::MAX), Unanswered::NotSent);
    queue.put_back(take(&queue, 1, usize::MAX), Unanswered::ReplicaLost);
    assert_eq!(queue.len(), 1);
    queue.put_back(take(&queue, 1, usize::MAX), Unanswered::ReplicaLost);
    assert!(queue.is_empty());
    let outcome = ticket.answer().await.unwrap();
    assert_eq!(outcome, Err(DefaultReason::ReplicaLost.into()));
}

#[test]
fn a_query_put_back_still_belongs_to_its_asker() {
    let queue = queue(10);
    let lost = queue.push(at(0), at(9), input()).unwrap();
    let hung_up = queue.push(at(0), at(9), input()).unwrap();
    queue.put_back(take(&queue, 2, usize::MAX), Unanswered::ReplicaLost);
    drop(hung_up);
    assert_eq!(queue.len(), 1, "hanging up frees the place");
    assert_eq!(lost.expire().reason, DefaultReason::ReplicaLost);
    assert!(queue.is_empty());
}

#[test]
fn what_a_full_message_left_behind_expires_in_the_queue() {
    let queue = queue(10);
    let mut tickets: Vec<_> = (0..2)
        .map(|_| queue.push(at(0), at(9), input()).unwrap())
        .collect();
    assert_eq!(take(&queue, 8, 8).len(), 1);
    assert_eq!(tickets.remove(1).expire().reason, DefaultReason::ExpiredInQueue);
}

#[tokio::test]
async fn a_closed_queue_answers_all_that_waits_and_whatever_comes() {
    let queue = queue(10);
    let mut waiting = queue.push(at(0), at(9), input()).unwrap();
    let mut sent = queue.push(at(0), at(9), input()).unwrap();
    let batch = take(&queue, 1, usize::MAX);
    queue.close();
    assert_eq!(
        queue.push(at(0), at(9), input()).unwrap_err().reason,
        DefaultReason::NoReplica
    );
    queue.put_back(batch, Unanswered::ReplicaLost);
    let answers = [waiting.answer().await.unwrap(), sent.answer().await.unwrap()];
    let reasons = answers.map(|answer| answer.unwrap_err().reason);
    assert!(reasons.contains(&DefaultReason::NoReplica) && reasons.contains(&DefaultReason::ReplicaLost));
}

#[tokio::test]
async fn demand_that_comes_while_a_batcher_looks_away_still_wakes_it() {
    let queue = queue(10);
    let demand = queue.demand();
    assert_eq!(queue.waiting(at(0)), None);
    let _ticket = queue.push(at(0), at(9), input()).unwrap();
    demand.await;
}

#[tokio::test]
async fn a_query_that_is_hastened_to_the_front_is_announced_and_taken_first() {
    let queue = queue(10);
    let first = queue.push(at(0), at(5), input()).unwrap();
    let hastened = queue.push(at(0), at(9), input()).unwrap();
    let demand = queue.demand();
    let place = queue.hasten(hastened.place, at(1));
    demand.await;
    assert_eq!(queue.unanswered(place).reason, DefaultReason::ExpiredInQueue);
    assert_eq!(take(&queue, 1, usize::MAX)[0].deadline(), at(1));
    assert_eq!(queue.unanswered(place).reason, DefaultReason::LateReply);
    assert_eq!(
        queue.hasten(place, at(0)),
        place,
        "a batch has it: it stays where it was"
    );
    drop(first);
}

#[test]
fn only_what_is_unwanted_and_still_waits_is_withdrawn() {
    let queue = queue(10);
    let waiting = queue.push(at(0), at(9), input()).unwrap();
    queue.withdraw(waiting.place, || false);
    assert_eq!(queue.len(), 1);
    queue.withdraw(waiting.place, || true);
    assert!(queue.is_empty());
    queue.withdraw(waiting.place, || unreachable!("it does not wait any more"));
}

#[tokio::test]
async fn what_has_expired_is_answered_when_the_next_batch_is_taken() {
    let queue = queue(10);
    let mut late = queue.push(at(0), at(0), input()).unwrap();
    let _in_time = queue.push(at(0), at(9), input()).unwrap();
    assert_eq!(take(&queue, 8, usize::MAX).len(), 1);
    assert_eq!(
        late.answer().await.unwrap(),
        Err(DefaultReason::ExpiredInQueue.into())
    );
}

#[test]
fn a_batch_stays_below_the_largest_message() {
    let queue = queue(10);
    let tickets: Vec<_> = (0..3)
        .map(|_| queue.push(at(0), at(9), input()).unwrap())
        .collect();
    assert_eq!(take(&queue, 8, 16).len(), 2);
    assert_eq!(
        take(&queue, 8, 1).len(),
        1,
        "one that is larger still goes, alone"
    );
    drop(tickets);
}

fn member(queue: &TaskQueue, free: u64, alone: u64) {
    queue.join(1, at(0));
    let outlook = Other {
        free: at(free),
        alone: Duration::from_nanos(alone),
    };
    queue.expect(1, Some(outlook));
}

#[test]
fn what_no_replica_can_answer_in_time_is_refused_on_arrival() {
    let queue = queue(10);
    member(&queue, 5, 10);
    let _in_time = queue.push(at(0), at(15), input()).unwrap();
    let refused = queue.push(at(0), at(14), input()).unwrap_err();
    assert_eq!(refused.reason, DefaultReason::PredictedLate);
    queue.join(2, at(0));
    let _unknown_may_be_faster = queue.push(at(0), at(14), input()).unwrap();
}

#[test]
fn while_no_replica_is_counted_on_queries_wait_for_one() {
    let queue = queue(10);
    member(&queue, 5, 10);
    queue.expect(1, None);
    let _may_still_be_answered = queue.push(at(0), at(14), input()).unwrap();
    queue.join(2, at(0));
    let outlook = Other {
        free: at(5),
        alone: Duration::from_nanos(10),
    };
    queue.expect(2, Some(outlook));
    let refused = queue.push(at(0), at(14), input()).unwrap_err();
    assert_eq!(refused.reason, DefaultReason::PredictedLate);
}

#[tokio::test]
async fn what_a_replica_leaves_to_others_wakes_them_once_and_not_itself_for_ever() {
    let queue = queue(10);
    let outlook = |free: u64, alone: u64| Other {
        free: at(free),
        alone: Duration::from_nanos(alone),
    };
    for (stream, outlook) in [(1, outlook(0, 1000)), (2, outlook(0, 10))] {
        queue.join(stream, at(0));
        queue.expect(stream, Some(outlook));
    }
    let _ticket = queue.push(at(0), at(100), input()).unwrap();
    queue.work().await;
    let mut latency = LatencyModel::default();
    latency.observe(1, Duration::from_nanos(1000), false);
    let mut policy = Learned::new(NonZeroU32::MIN);
    for woken in [true, false] {
        let taker = Taker {
            stream: 1,
            ..Taker::without_history(&mut policy, &latency, at(0))
        };
        assert!(queue.take(taker).tasks.is_empty());
        assert_eq!(queue.work().now_or_never().is_some(), woken);
    }
}

#[test]
fn policies_that_do_not_count_on_times_refuse_nothing_for_them() {
    let bounds = Bounds {
        count: 10,
        bytes: 100,
    };
    let queue = TaskQueue::new(bounds, BatchSize::Aimd.into());
    member(&queue, 5, 10);
    assert!(queue.push(at(0), at(1), input()).is_ok());
}

#[test]
fn an_idle_replica_is_tried_now_and_then_even_if_all_would_be_late() {
    let queue = queue(10);
    let interval = u64::try_from(PROBE_INTERVAL.as_nanos()).unwrap();
    member(&queue, 0, 10 * interval);
    let arrive = |now: u64| queue.push(at(now), at(now + interval), input());
    let probe = arrive(0).unwrap();
    assert_eq!(arrive(1).unwrap_err().reason, DefaultReason::PredictedLate);
    drop(probe);
    assert_eq!(
        arrive(interval - 1).unwrap_err().reason,
        DefaultReason::PredictedLate
    );
    assert!(arrive(interval).is_ok());
}

#[tokio::test]
async fn what_is_left_wakes_another_batcher() {
    let queue = queue(10);
    let _tickets: Vec<_> = (0..2)
        .map(|_| queue.push(at(0), at(9), input()).unwrap())
        .collect();
    queue.work().await;
    take(&queue, 1, usize::MAX);
    queue.work().await;
}

#[tokio::test]
async fn what_was_left_for_a_replica_that_is_lost_wakes_another() {
    let queue = queue(10);
    let _ticket = queue.push(at(0), at(9), input()).unwrap();
    queue.join(1, at(0));
    queue.work().await;
    assert!(queue.work().now_or_never().is_none());
    queue.leave(1);
    queue.work().await;
}

#[test]
fn the_load_counts_also_what_is_refused() {
    let queue = queue(1);
    let _waiting = queue.push(at(0), at(9), input()).unwrap();
    assert!(queue.push(at(0), at(9), input()).is_err());
    let expected = Load {
        arrived: 2,
        queued: 1,
    };
    assert_eq!(queue.load(), expected);
}

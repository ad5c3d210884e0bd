use std::num::NonZeroU32;

use std::time::Duration;

use futures::FutureExt;
use skysail_core::batch::{FixedSize, LatencyModel, Learned, Other, Overhead};
use skysail_core::dispatch::{Credit, Share};
use skysail_core::query::Failure;
use skysail_proto::ids::ReplicaId;

use super::*;
use crate::clock::Clock;
use crate::model::answers::{Asked, RowAnswers};
use crate::model::asking::{Asking, Unknown, Version};

/// A replica that has learned nothing and holds a credit.
fn replica(stream: u64, max_batch: u32, max_bytes: usize) -> Dispatcher<Task> {
    let policy = FixedSize::new(NonZeroU32::new(max_batch).unwrap());
    with_credit(Dispatcher::new(stream, Box::new(policy), max_bytes))
}

fn with_credit(mut dispatcher: Dispatcher<Task>) -> Dispatcher<Task> {
    let credit = Credit {
        sequence: 1,
        park: true,
        alone: true,
        share: Share::WHOLE,
        starts_in: Duration::ZERO,
    };
    dispatcher.grant(credit, at(0));
    dispatcher
}

impl Task {
    /// Answers it like a replica that took no time.
    pub(in crate::model) fn answer(self, prediction: Prediction) {
        let sent_at = self.asked_at;
        self.answer_by(run(), sent_at, prediction);
    }
}

/// A batch of one, by a replica that took no time.
pub(in crate::model) fn run() -> BatchRun {
    BatchRun {
        replica: ReplicaId::new("replica").unwrap(),
        inputs: 1,
        model_time: Duration::ZERO,
    }
}

impl TaskQueue {
    /// The batch of at most `size` queries that such a replica is sent.
    pub(in crate::model) fn take(&self, size: u32, now: Instant) -> Batch {
        self.take_within(size, usize::MAX, now)
    }

    fn take_within(&self, size: u32, max_bytes: usize, now: Instant) -> Batch {
        let mut dispatcher = replica(0, size, max_bytes);
        match self.step(&mut dispatcher, now) {
            Step::Send(departure) => dispatcher.unsend(departure.id),
            _ => Batch::new(),
        }
    }
}

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

fn asked(deadline: Instant) -> Asked {
    Asked {
        deadline,
        claim: Claim::SOLE,
    }
}

impl TaskQueue {
    /// A query that waits, or why it was refused.
    fn push(&self, now: Instant, deadline: Instant) -> Result<Asking<'_>, Failure> {
        let version = Version {
            cache: None,
            queue: self,
            clock: Clock::start(),
        };
        let mut asking = Asking::new(version, 1, asked(deadline));
        let before = self.len();
        asking.ask(now, 0, Unknown::Plain(input()));
        if self.len() > before {
            return Ok(asking);
        }
        let refused = outcome(asking).now_or_never().expect("it is refused at once");
        Err(refused.prediction.unwrap_err())
    }

    /// Lets a task wait whose answer goes to nobody; returns its place.
    fn push_task(&self, deadline: Instant) -> Place {
        let reply = Reply::Asker(RowAnswers::new(1, asked(deadline)).answerer(0));
        let entrant = Task::new(input(), reply, at(0)).until(deadline, Claim::SOLE);
        let entered = self.enter(at(0), [entrant]);
        entered.into_iter().next().unwrap().unwrap()
    }
}

/// The outcome of a query. All deadlines of these tests are long past, so an unanswered query has expired.
async fn outcome(asking: Asking<'_>) -> Outcome {
    asking.outcomes().await.remove(0).unwrap()
}

async fn reason(asking: Asking<'_>) -> DefaultReason {
    outcome(asking).await.prediction.unwrap_err().reason
}

#[tokio::test]
async fn a_full_queue_is_said_at_once() {
    let queue = queue(1);
    let _waiting = queue.push(at(0), at(9)).unwrap();
    assert_eq!(
        queue.push(at(0), at(9)).err().unwrap().reason,
        DefaultReason::QueueFull
    );
}

#[tokio::test]
async fn a_full_queue_tells_what_gives_way_at_once() {
    let queue = queue(1);
    let loose = queue.push(at(0), at(99)).unwrap();
    let urgent = queue.push_task(at(9));
    assert_eq!(reason(loose).await, DefaultReason::QueueFull);
    assert_eq!(
        (queue.len(), queue.unanswered(urgent)),
        (1, DefaultReason::ExpiredInQueue)
    );
}

#[test]
fn an_asker_that_hangs_up_frees_its_place() {
    let queue = queue(1);
    drop(queue.push(at(0), at(9)).unwrap());
    assert!(queue.len() == 0);
}

#[tokio::test]
async fn the_reason_at_the_deadline_says_how_far_the_query_got() {
    let queue = queue(10);
    let waiting = queue.push(at(0), at(9)).unwrap();
    assert_eq!(reason(waiting).await, DefaultReason::ExpiredInQueue);
    assert!(queue.len() == 0);
    let sent = queue.push(at(0), at(9)).unwrap();
    let batch = queue.take(1, at(0));
    assert_eq!(reason(sent).await, DefaultReason::LateReply);
    assert!(batch[0].task.is_abandoned());
}

#[tokio::test]
async fn a_query_is_tried_again_after_its_replica_was_lost_but_only_once() {
    let queue = queue(10);
    let ticket = queue.push(at(0), at(9)).unwrap();
    queue.put_back(queue.take(1, at(0)), Unanswered::NotSent);
    queue.put_back(queue.take(1, at(0)), Unanswered::ReplicaLost);
    assert_eq!(queue.len(), 1);
    queue.put_back(queue.take(1, at(0)), Unanswered::ReplicaLost);
    assert!(queue.len() == 0);
    assert_eq!(reason(ticket).await, DefaultReason::ReplicaLost);
}

#[tokio::test]
async fn a_query_put_back_still_belongs_to_its_asker() {
    let queue = queue(10);
    let lost = queue.push(at(0), at(9)).unwrap();
    let hung_up = queue.push(at(0), at(9)).unwrap();
    queue.put_back(queue.take(2, at(0)), Unanswered::ReplicaLost);
    drop(hung_up);
    assert_eq!(queue.len(), 1, "hanging up frees the place");
    assert_eq!(reason(lost).await, DefaultReason::ReplicaLost);
    assert!(queue.len() == 0);
}

#[tokio::test]
async fn what_a_full_message_left_behind_expires_in_the_queue() {
    let queue = queue(10);
    let mut tickets: Vec<_> = (0..2).map(|_| queue.push(at(0), at(9)).unwrap()).collect();
    assert_eq!(queue.take_within(8, 8, at(0)).len(), 1);
    assert_eq!(reason(tickets.remove(1)).await, DefaultReason::ExpiredInQueue);
}

#[tokio::test]
async fn a_closed_queue_answers_all_that_waits_and_whatever_comes() {
    let queue = queue(10);
    let waiting = queue.push(at(0), at(9)).unwrap();
    let sent = queue.push(at(0), at(9)).unwrap();
    let batch = queue.take(1, at(0));
    queue.close();
    assert_eq!(
        queue.push(at(0), at(9)).err().unwrap().reason,
        DefaultReason::NoReplica
    );
    queue.put_back(batch, Unanswered::ReplicaLost);
    let reasons = [reason(waiting).await, reason(sent).await];
    assert!(reasons.contains(&DefaultReason::NoReplica) && reasons.contains(&DefaultReason::ReplicaLost));
}

#[tokio::test]
async fn demand_that_comes_while_a_batcher_looks_away_still_wakes_it() {
    let queue = queue(10);
    let demand = queue.demand();
    let mut without_credit = Dispatcher::new(0, Box::new(FixedSize::new(NonZeroU32::MIN)), 1);
    assert_eq!(queue.step(&mut without_credit, at(0)), Step::Wait);
    let _ticket = queue.push(at(0), at(9)).unwrap();
    demand.await;
    let step = queue.step(&mut without_credit, at(0));
    assert!(matches!(step, Step::Announce(_)), "{step:?}");
}

#[tokio::test]
async fn a_query_that_is_hastened_to_the_front_is_announced_and_taken_first() {
    let queue = queue(10);
    let first = queue.push(at(0), at(5)).unwrap();
    let hastened = queue.push_task(at(9));
    let demand = queue.demand();
    let place = queue.hasten(hastened, at(1));
    demand.await;
    assert_eq!(queue.unanswered(place), DefaultReason::ExpiredInQueue);
    assert_eq!(queue.take(1, at(0))[0].deadline(), at(1));
    assert_eq!(queue.unanswered(place), DefaultReason::LateReply);
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
    let waiting = queue.push_task(at(9));
    queue.withdraw(waiting, || false);
    assert_eq!(queue.len(), 1);
    queue.withdraw(waiting, || true);
    assert!(queue.len() == 0);
    queue.withdraw(waiting, || unreachable!("it does not wait any more"));
}

#[tokio::test]
async fn what_has_expired_is_answered_when_the_next_batch_is_taken() {
    let queue = queue(10);
    let late = queue.push(at(0), at(0)).unwrap();
    let _in_time = queue.push(at(0), at(9)).unwrap();
    assert_eq!(queue.take(8, at(0)).len(), 1);
    assert_eq!(reason(late).await, DefaultReason::ExpiredInQueue);
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
        queue.room.lock().expect(stream, Some(outlook));
    }
    let _ticket = queue.push(at(0), at(100)).unwrap();
    queue.work().await;
    let mut latency = LatencyModel::default();
    latency.observe(1, Duration::from_nanos(1000), false);
    let policy = Box::new(Learned::new(NonZeroU32::MIN));
    let slow = Dispatcher::new(1, policy, usize::MAX).with_latency(latency);
    let mut slow = with_credit(slow.with_overhead(Overhead::NONE));
    for woken in [true, false] {
        assert_eq!(queue.step(&mut slow, at(0)), Step::Pass);
        assert_eq!(queue.work().now_or_never().is_some(), woken);
    }
}

#[tokio::test]
async fn what_is_left_wakes_another_batcher() {
    let queue = queue(10);
    let _tickets: Vec<_> = (0..2).map(|_| queue.push(at(0), at(9)).unwrap()).collect();
    queue.work().await;
    queue.take(1, at(0));
    queue.work().await;
}

#[tokio::test]
async fn what_was_left_for_a_replica_that_is_lost_wakes_another() {
    let queue = queue(10);
    let _ticket = queue.push(at(0), at(9)).unwrap();
    queue.join(1, at(0));
    queue.work().await;
    assert!(queue.work().now_or_never().is_none());
    queue.leave(1);
    queue.work().await;
}

#[tokio::test]
async fn the_load_counts_also_what_is_refused() {
    let queue = queue(1);
    let _waiting = queue.push(at(0), at(9)).unwrap();
    assert!(queue.push(at(0), at(9)).is_err());
    let expected = Load {
        arrived: 2,
        queued: 1,
    };
    assert_eq!(queue.load(), expected);
}

//! Queries waiting for one model version, and the two ways a replica's batcher is woken.

use std::time::Duration;

use parking_lot::Mutex;
use skysail_core::batch::BatchPolicy;
use skysail_core::query::{DefaultReason, Failure, Outcome};
use skysail_core::queue::{Bounds, DeadlineQueue, Deadlines, Full, Place};
use skysail_core::time::Instant;
use skysail_proto::value::Input;
use tokio::sync::futures::Notified;
use tokio::sync::{Notify, oneshot};

/// A query on its way to a replica.
#[derive(Debug)]
pub struct Task {
    /// When its answer is due.
    pub deadline: Instant,
    /// Its input.
    pub input: Input,
    /// Whether a replica was lost with it before.
    pub lost_before: bool,
    reply: oneshot::Sender<Outcome>,
}

impl Task {
    /// Gives the one answer. That nobody may be waiting for it any more is no error.
    pub fn answer(self, outcome: Outcome) {
        let _ = self.reply.send(outcome);
    }

    /// Whether nobody waits for the answer any more.
    pub fn is_abandoned(&self) -> bool {
        self.reply.is_closed()
    }
}

/// The queue of one model version, shared by whoever asks and by its replicas' batchers.
///
/// The lock is held for a few map operations and never across an await; it is what makes "taken by a
/// batch" and "given up by its asker" exclude each other.
#[derive(Debug)]
pub struct TaskQueue {
    waiting: Mutex<DeadlineQueue<Task>>,
    /// Wakes one batcher that holds a credit.
    work: Notify,
    /// Wakes all batchers without one, to announce demand.
    demand: Notify,
}

/// A place in the queue and the promise of an answer. Dropping it frees the place.
#[derive(Debug)]
pub struct Ticket<'a> {
    queue: &'a TaskQueue,
    place: Place,
    answer: oneshot::Receiver<Outcome>,
}

impl Ticket<'_> {
    /// Waits for the answer; `None` if the task was dropped unanswered, which only a batcher that
    /// panicked does.
    pub async fn answer(&mut self) -> Option<Outcome> {
        (&mut self.answer).await.ok()
    }

    /// Gives up at the deadline: the reason depends on how far the task got.
    pub fn expire(self) -> Failure {
        match self.queue.waiting.lock().remove(self.place) {
            Some(task) if task.lost_before => DefaultReason::ReplicaLost.into(),
            Some(_) => DefaultReason::ExpiredInQueue.into(),
            None => DefaultReason::LateReply.into(),
        }
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        // Answered tasks have left the queue; only an asker that hung up leaves one behind.
        if self.answer.is_empty() && !self.answer.is_terminated() {
            self.queue.waiting.lock().remove(self.place);
        }
    }
}

impl TaskQueue {
    /// An empty queue.
    pub fn new(bounds: Bounds) -> Self {
        Self {
            waiting: Mutex::new(DeadlineQueue::new(bounds)),
            work: Notify::new(),
            demand: Notify::new(),
        }
    }

    /// Lets a query wait, unless the queue is full: that is known, and said, at once.
    pub fn push(&self, deadline: Instant, input: Input) -> Result<Ticket<'_>, Failure> {
        let (reply, answer) = oneshot::channel();
        let bytes = input.data().len();
        let task = Task {
            deadline,
            input,
            lost_before: false,
            reply,
        };
        let (place, was_earliest) = {
            let mut waiting = self.waiting.lock();
            let earliest = waiting.earliest();
            match waiting.push(deadline, bytes, task) {
                Ok(place) => (place, earliest.is_none_or(|earliest| deadline < earliest)),
                Err(Full(_)) => return Err(DefaultReason::QueueFull.into()),
            }
        };
        self.work.notify_one();
        if was_earliest {
            self.demand.notify_waiters();
        }
        Ok(Ticket {
            queue: self,
            place,
            answer,
        })
    }

    /// Lets tasks wait again whose replica was lost; those lost before are answered instead.
    pub fn put_back(&self, tasks: impl IntoIterator<Item = Task>) {
        let (again, given_up): (Vec<_>, Vec<_>) = tasks
            .into_iter()
            .filter(|task| !task.is_abandoned())
            .partition(|task| !task.lost_before);
        {
            let mut waiting = self.waiting.lock();
            for task in again {
                let bytes = task.input.data().len();
                waiting.push_again(
                    task.deadline,
                    bytes,
                    Task {
                        lost_before: true,
                        ..task
                    },
                );
            }
        }
        for task in given_up {
            task.answer(Err(DefaultReason::ReplicaLost.into()));
        }
        self.work.notify_one();
        self.demand.notify_waiters();
    }

    /// Takes the next batch as `policy` decides, of at most `max_bytes` of inputs; may be empty.
    ///
    /// What the policy gives up is answered here. If queries are left, another batcher is woken.
    pub fn take(&self, policy: &mut dyn BatchPolicy, start: Instant, max_bytes: usize) -> Vec<Task> {
        let mut given_up = Vec::new();
        let mut batch = Vec::new();
        let left = {
            let mut waiting = self.waiting.lock();
            let decision = policy.decide(&*waiting, start);
            given_up.extend((0..decision.give_up).map_while(|_| waiting.pop()));
            let mut bytes = 0;
            batch.reserve_exact(decision.take);
            while batch.len() < decision.take {
                let Some((_, task)) = waiting.pop() else { break };
                let size = task.input.data().len();
                if bytes + size > max_bytes && !batch.is_empty() {
                    waiting.push_again(task.deadline, size, task);
                    break;
                }
                bytes += size;
                batch.push(task);
            }
            !waiting.is_empty()
        };
        for (_, task) in given_up {
            let reason = if task.lost_before {
                DefaultReason::ReplicaLost
            } else {
                DefaultReason::ExpiredInQueue
            };
            task.answer(Err(reason.into()));
        }
        if left {
            self.work.notify_one();
        }
        batch
    }

    /// Completes when there may be work for a batcher that holds a credit.
    pub fn work(&self) -> Notified<'_> {
        self.work.notified()
    }

    /// Completes when a batcher without a credit should look at [`Self::waiting`] again.
    pub fn demand(&self) -> Notified<'_> {
        self.demand.notified()
    }

    /// How many wait and how long the most urgent still has, if any waits.
    pub fn waiting(&self, now: Instant) -> Option<(usize, Duration)> {
        let waiting = self.waiting.lock();
        waiting
            .earliest()
            .map(|earliest| (waiting.len(), earliest.saturating_since(now)))
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.waiting.lock().len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use skysail_core::batch::FixedSize;

    use super::*;

    fn queue(count: usize) -> TaskQueue {
        TaskQueue::new(Bounds {
            count,
            bytes: usize::MAX,
        })
    }

    fn at(nanos: u64) -> Instant {
        Instant::from_nanos(nanos)
    }

    fn input() -> Input {
        Input::doubles(&[1.0])
    }

    fn take(queue: &TaskQueue, size: u32, max_bytes: usize) -> Vec<Task> {
        queue.take(
            &mut FixedSize::new(NonZeroU32::new(size).unwrap()),
            at(0),
            max_bytes,
        )
    }

    #[test]
    fn a_full_queue_is_said_at_once() {
        let queue = queue(1);
        let _waiting = queue.push(at(9), input()).unwrap();
        assert_eq!(
            queue.push(at(9), input()).unwrap_err().reason,
            DefaultReason::QueueFull
        );
    }

    #[test]
    fn an_asker_that_hangs_up_frees_its_place() {
        let queue = queue(1);
        drop(queue.push(at(9), input()).unwrap());
        assert!(queue.is_empty());
    }

    #[test]
    fn the_reason_at_the_deadline_says_how_far_the_query_got() {
        let queue = queue(10);
        let waiting = queue.push(at(9), input()).unwrap();
        assert_eq!(waiting.expire().reason, DefaultReason::ExpiredInQueue);
        let sent = queue.push(at(9), input()).unwrap();
        let batch = take(&queue, 1, usize::MAX);
        assert_eq!(sent.expire().reason, DefaultReason::LateReply);
        assert!(batch[0].is_abandoned());
    }

    #[tokio::test]
    async fn a_query_is_tried_again_after_its_replica_was_lost_but_only_once() {
        let queue = queue(10);
        let mut ticket = queue.push(at(9), input()).unwrap();
        queue.put_back(take(&queue, 1, usize::MAX));
        assert_eq!(queue.len(), 1);
        queue.put_back(take(&queue, 1, usize::MAX));
        assert!(queue.is_empty());
        let outcome = ticket.answer().await.unwrap();
        assert_eq!(outcome, Err(DefaultReason::ReplicaLost.into()));
    }

    #[tokio::test]
    async fn what_has_expired_is_answered_when_the_next_batch_is_taken() {
        let queue = queue(10);
        let mut late = queue.push(at(0), input()).unwrap();
        let _in_time = queue.push(at(9), input()).unwrap();
        assert_eq!(take(&queue, 8, usize::MAX).len(), 1);
        assert_eq!(
            late.answer().await.unwrap(),
            Err(DefaultReason::ExpiredInQueue.into())
        );
    }

    #[test]
    fn a_batch_stays_below_the_largest_message() {
        let queue = queue(10);
        let tickets: Vec<_> = (0..3).map(|_| queue.push(at(9), input()).unwrap()).collect();
        assert_eq!(take(&queue, 8, 16).len(), 2);
        assert_eq!(
            take(&queue, 8, 1).len(),
            1,
            "one that is larger still goes, alone"
        );
        drop(tickets);
    }

    #[tokio::test]
    async fn what_is_left_wakes_another_batcher() {
        let queue = queue(10);
        let _tickets: Vec<_> = (0..2).map(|_| queue.push(at(9), input()).unwrap()).collect();
        queue.work().await;
        take(&queue, 1, usize::MAX);
        queue.work().await;
    }
}

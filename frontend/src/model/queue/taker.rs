//! A replica that takes a batch from a queue, as its policy decides.

use std::time::Duration;

use skysail_core::batch::{BatchPolicy, Decision, LatencyModel, Other, Situation};
use skysail_core::queue::{DeadlineQueue, Deadlines};
use skysail_core::time::Instant;

use super::{Admission, State, Task, Waiting};

/// At most one such part of what queries are given is allowed for the way to the replica and back.
const MOST_OVERHEAD: u32 = 4;

/// A replica that can take a batch.
pub struct Taker<'a> {
    /// Which.
    pub stream: u64,
    /// Decides.
    pub policy: &'a mut dyn BatchPolicy,
    /// What is known of its batch times.
    pub latency: &'a LatencyModel,
    /// Now.
    pub now: Instant,
    /// When it is expected to start on the batch.
    pub start: Instant,
    /// What to allow for the way there and back.
    pub overhead: Duration,
    /// How long other frontends' batches are expected to keep it between two from here.
    pub pause: Duration,
    /// The most bytes of inputs.
    pub max_bytes: usize,
}

#[cfg(test)]
impl<'a> Taker<'a> {
    /// One that starts at once and of which nothing is known.
    pub(in crate::model) fn without_history(
        policy: &'a mut dyn BatchPolicy,
        latency: &'a LatencyModel,
        now: Instant,
    ) -> Self {
        Self {
            stream: 0,
            policy,
            latency,
            now,
            start: now,
            overhead: Duration::ZERO,
            pause: Duration::ZERO,
            max_bytes: usize::MAX,
        }
    }
}

/// A batch.
#[derive(Debug, Default)]
pub struct Taken {
    /// Its queries, earliest deadline first; may be none.
    pub tasks: Vec<Task>,
    /// Whether queries were left waiting or given up.
    pub pressed: bool,
}

impl State {
    /// Takes what the taker's policy decides; what it gives up goes to `given_up`, with its deadline.
    pub(super) fn take(
        &mut self,
        taker: &mut Taker<'_>,
        admission: Admission,
        given_up: &mut Vec<(Instant, Waiting)>,
    ) -> Taken {
        let (start, overhead) = match admission {
            Admission::InTime => (taker.start, taker.overhead),
            Admission::Any => (taker.now, Duration::ZERO),
        };
        // What is due must have left the replica a little earlier. Of that no more is allowed for than a part
        // of what queries are given: with more none would ever be sent, and nothing learned of the way.
        let budget = self.arrivals.mean_budget().unwrap_or_default();
        let overhead = overhead.min(budget / MOST_OVERHEAD);
        let situation = Situation {
            start: start + overhead,
            arrivals: &self.arrivals,
            latency: taker.latency,
            others: self.members.others(taker.stream),
            pause: taker.pause,
        };
        let mut taken = Taken::default();
        while !self.queue.is_empty() {
            let decision = taker.policy.decide(&self.queue, &situation);
            taken.pressed = decision.take < self.queue.len();
            let expired = std::iter::from_fn(|| self.queue.pop()).take(decision.give_up);
            given_up.extend(expired.map(|(place, waiting)| (place.deadline(), waiting)));
            if decision.take > 0 {
                taken.tasks = pop_batch(&mut self.queue, decision, taker.max_bytes);
            }
            if decision.take > 0 || decision.give_up == 0 {
                break;
            }
        }
        if !taken.tasks.is_empty()
            && let Some(took) = taker.latency.predict(taken.tasks.len())
        {
            let free = taker.start + took;
            let alone = taker.latency.predict(1).unwrap_or_default();
            self.members.expect(taker.stream, Some(Other { free, alone }));
        }
        taken
    }
}

/// Takes a decision's batch, as far as it fits into a message; one query always does.
fn pop_batch(queue: &mut DeadlineQueue<Waiting>, decision: Decision, max_bytes: usize) -> Vec<Task> {
    let left: Vec<_> = std::iter::from_fn(|| queue.pop()).take(decision.leave).collect();
    let mut batch = Vec::with_capacity(decision.take.min(queue.len()));
    let mut bytes = 0;
    while batch.len() < decision.take {
        let Some((place, waiting)) = queue.pop() else {
            break;
        };
        let size = waiting.input.data().len();
        if bytes + size > max_bytes && !batch.is_empty() {
            queue.put_back(place, size, waiting);
            break;
        }
        bytes += size;
        batch.push(Task::taken(place, waiting));
    }
    for (place, waiting) in left {
        let size = waiting.input.data().len();
        queue.put_back(place, size, waiting);
    }
    batch
}

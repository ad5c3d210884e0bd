//! One replica's loop: a credit, then a batch, decided as late as possible; answers back to their askers.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::FutureExt;
use skysail_container_rpc::server::{Demand, NewBatch, Refusal, ReplicaStream, StreamError};
use skysail_container_rpc::session::Event;
use skysail_core::batch::{BatchPolicy, LatencyModel, Other, Overhead, Patience, Pause};
use skysail_core::time::Instant;
use skysail_proto::container::{BatchResult, batch_result};
use skysail_proto::error_code::ErrorCode;
use skysail_proto::value::to_columns;
use tokio::sync::{mpsc, watch};
use tokio::time::Sleep;
use tracing::{info, warn};

use super::delivery::Delivery;
use super::queue::{Taken, Taker, Task, Unanswered};
use super::replica::{Order, Replica, ReplicaTable};
use super::sent::{Outgoing, Sent, SentBatch};
use super::{MAX_BATCH_BYTES, ModelHandle};
use crate::clock::Clock;

/// Serves one replica for as long as its stream lives.
pub(super) struct Batcher {
    pub(super) model: Arc<ModelHandle>,
    pub(super) replica: Arc<Replica>,
    pub(super) table: Arc<ReplicaTable>,
    /// The cluster's frontends, which the container is told.
    pub(super) frontends: watch::Receiver<Arc<Vec<String>>>,
    pub(super) stream: ReplicaStream,
    pub(super) policy: Box<dyn BatchPolicy>,
    /// What was learned of its batch times.
    pub(super) latency: LatencyModel,
    /// What was learned of the way there and back.
    pub(super) overhead: Overhead,
    /// What was learned of how long other frontends keep the container.
    pub(super) pause: Pause,
    pub(super) clock: Clock,
    /// The batches in the container's hands.
    pub(super) sent: Sent,
    /// The earliest deadline announced since the last credit: less urgent demand is not worth a message.
    pub(super) announced: Option<Instant>,
    /// Whether a batch is overdue: none is sent until it is answered.
    pub(super) overdue: bool,
}

/// Why a stream is over.
enum Ended {
    /// The container drained, or this frontend did.
    Drained,
    /// The connection was lost, or the protocol broken.
    Lost(StreamError),
    /// A batch was not answered for so long that none is expected any more.
    Hung,
    /// An order ended it.
    Ordered(Order),
}

impl Batcher {
    /// Runs until the stream ends; what was in the container's hands waits again then.
    pub(super) async fn run(mut self, mut orders: mpsc::Receiver<Order>) {
        // What it has learned by warming up, or elsewhere, is known from the first query on.
        self.expect(self.clock.now());
        let ended = self.work(&mut orders).await;
        let in_hand = self.sent.hand_back();
        let replica = &self.replica.registration.replica;
        match &ended {
            Ended::Drained => info!(%replica, "replica left"),
            Ended::Lost(error) => warn!(%replica, %error, queries = in_hand.len(), "replica lost"),
            Ended::Hung => {
                warn!(%replica, queries = in_hand.len(), "replica hangs, given up");
                self.table.give_up(&self.replica.start);
            }
            Ended::Ordered(Order::Superseded) => info!(%replica, "replica superseded"),
            Ended::Ordered(_) => info!(%replica, "replica dismissed"),
        }
        // First it is counted on no more, so that the others do not leave to it what comes back.
        self.model.queue.leave(self.replica.stream);
        self.model.queue.put_back(in_hand, Unanswered::ReplicaLost);
        match ended {
            Ended::Ordered(Order::Superseded) => self.stream.close_superseded(),
            Ended::Ordered(Order::Dismiss(refusal)) => self.stream.close(&refusal),
            Ended::Hung => self.stream.close(&hung()),
            _ => {}
        }
    }

    async fn work(&mut self, orders: &mut mpsc::Receiver<Order>) -> Ended {
        let mut draining = false;
        let model = self.model.clone();
        let mut look = Look::default();
        let mut others = self.table.changed();
        if let Err(error) = self.name_other_frontends() {
            return Ended::Lost(error);
        }
        loop {
            // Before looking at the queue, so that demand that comes meanwhile is not missed.
            let demand = model.queue.demand();
            if let Err(error) = self.dispatch() {
                return Ended::Lost(error);
            }
            if self.stream.is_finished() || (draining && self.sent.owes_nothing()) {
                return Ended::Drained;
            }
            let holds_credit = self.stream.has_credit();
            let takes_work = holds_credit && !self.overdue;
            look.arm(self.sent.next_look(self.overdue), self.clock);
            tokio::select! {
                event = self.stream.next() => match event {
                    Ok(event) => self.handle(event),
                    Err(error) => return Ended::Lost(error),
                },
                Some(order) = orders.recv() => match order {
                    Order::Drain => {
                        draining = true;
                        if let Err(error) = self.stream.announce_draining() {
                            return Ended::Lost(error);
                        }
                    }
                    order => return Ended::Ordered(order),
                },
                Ok(()) = self.frontends.changed() => {
                    if let Err(error) = self.name_frontends() {
                        return Ended::Lost(error);
                    }
                }
                () = model.queue.work(), if takes_work => {}
                () = look.due() => {
                    if let Err(error) = self.hear_what_is_here().await {
                        return Ended::Lost(error);
                    }
                    if self.look_at_the_time() {
                        return Ended::Hung;
                    }
                }
                // Another may have come, or go on, that can take over what this one sits on.
                Ok(()) = others.changed(), if self.overdue => {
                    if self.look_at_the_time() {
                        return Ended::Hung;
                    }
                }
                () = demand, if !holds_credit => {}
            }
        }
    }

    /// Tells a container that has just come who else is there. A lone frontend has nothing to tell: the
    /// container may know it by another name than its own.
    fn name_other_frontends(&mut self) -> Result<(), StreamError> {
        let has_others = self.frontends.borrow_and_update().len() > 1;
        if has_others { self.name_frontends() } else { Ok(()) }
    }

    fn name_frontends(&mut self) -> Result<(), StreamError> {
        let addresses = self.frontends.borrow_and_update().clone();
        if addresses.is_empty() {
            return Ok(());
        }
        self.stream.name_frontends(&addresses)
    }

    /// Hears what has come already. After a stall of this whole machine the timers go off first, and every
    /// replica seems to be overdue whose answer is here.
    async fn hear_what_is_here(&mut self) -> Result<(), StreamError> {
        tokio::task::yield_now().await;
        while let Some(event) = self.stream.next().now_or_never() {
            self.handle(event?);
        }
        Ok(())
    }

    /// Hands on what the container has had for too long; says whether it is to be given up.
    fn look_at_the_time(&mut self) -> bool {
        let now = self.clock.now();
        self.set_overdue(now);
        if self.overdue {
            // Until it answers, nobody counts on it; the others are not to leave to it what comes back.
            self.model.queue.expect(self.replica.stream, None);
        }
        if self.overdue && self.table.ready(&self.model.id) > 0 {
            let tasks = self.sent.hand_back();
            if !tasks.is_empty() {
                let replica = &self.replica.registration.replica;
                warn!(%replica, queries = tasks.len(), "batch overdue, its queries are handed to other replicas");
            }
            self.model.queue.put_back(tasks, Unanswered::ReplicaLost);
        }
        self.sent.is_hung(now)
    }

    /// Looks whether a batch is overdue, and lets others see it.
    fn set_overdue(&mut self, now: Instant) {
        self.overdue = self.sent.is_overdue(now);
        if self.replica.overdue.swap(self.overdue, Ordering::Relaxed) != self.overdue {
            self.table.touch();
        }
    }

    /// Tells the others, and those who ask, when this replica is expected to be free.
    fn expect(&self, free: Instant) {
        let alone = self.latency.predict(1).unwrap_or_default();
        let outlook = Other { free, alone };
        self.model.queue.expect(self.replica.stream, Some(outlook));
    }

    /// Sends batches while there are credits and queries; then announces or returns what is left of either.
    fn dispatch(&mut self) -> Result<(), StreamError> {
        while self.stream.has_credit() && !self.overdue {
            self.announced = None;
            let now = self.clock.now();
            let start = self.sent.free_at(now);
            let taken = self.model.queue.take(Taker {
                stream: self.replica.stream,
                policy: &mut *self.policy,
                latency: &self.latency,
                now,
                start,
                overhead: self.overhead.allowance(),
                pause: self.pause.expected(),
                max_bytes: MAX_BATCH_BYTES,
            });
            if taken.tasks.is_empty() {
                self.pause.passes();
                return self.stream.return_credits();
            }
            self.send(taken, now, start)?;
        }
        self.announce()
    }

    fn send(&mut self, taken: Taken, now: Instant, start: Instant) -> Result<(), StreamError> {
        let Taken { tasks, pressed } = taken;
        let (data, lengths) = to_columns(tasks.iter().map(|task| &task.input));
        let budget = |task: &Task| micros(task.deadline().saturating_since(now));
        let predicted = self.latency.predict(tasks.len()).unwrap_or_default();
        let batch = NewBatch {
            input_type: self.model.spec.input_type,
            data,
            lengths,
            budgets_micros: tasks.iter().map(budget).collect(),
            predicted,
        };
        self.model.metrics.sent(tasks.len());
        self.replica.in_flight.fetch_add(1, Ordering::Relaxed);
        match self.stream.send_batch(batch) {
            Ok(id) => {
                let batch = Outgoing {
                    patience: Patience::with(&self.latency, tasks.len()),
                    tasks,
                    pressed,
                    now,
                    start,
                    expected: predicted,
                };
                self.sent.insert(id, batch);
                self.pause.ends(now);
                Ok(())
            }
            Err(error) => {
                self.model.queue.put_back(tasks, Unanswered::NotSent);
                Err(error)
            }
        }
    }

    /// Tells a container that grants no credit what waits here, if that has become more urgent.
    fn announce(&mut self) -> Result<(), StreamError> {
        let now = self.clock.now();
        let Some((queued, earliest_budget)) = self.model.queue.waiting(now) else {
            return Ok(());
        };
        let earliest = now + earliest_budget;
        if self.announced.is_some_and(|announced| announced <= earliest) {
            return Ok(());
        }
        self.announced = Some(earliest);
        self.stream.announce(Demand {
            queued,
            earliest_budget,
        })
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Result(result) => self.answer(result),
            Event::Draining => {
                self.replica.draining.store(true, Ordering::Relaxed);
                self.table.touch();
                info!(replica = %self.replica.registration.replica, "replica draining");
            }
            Event::Credit | Event::Recall | Event::Nothing => {}
        }
    }

    /// Matches a batch's outputs to their askers.
    fn answer(&mut self, result: BatchResult) {
        let Some(batch) = self.sent.remove(result.id) else {
            return;
        };
        self.learn(&result, &batch);
        if self.sent.is_empty() {
            let waits = !self.model.queue.is_empty();
            self.pause.begins(self.clock.now(), waits);
        }
        let SentBatch { tasks, size, .. } = batch;
        self.replica.in_flight.fetch_sub(1, Ordering::Relaxed);
        self.replica.batches.fetch_add(1, Ordering::Relaxed);
        self.replica.inputs.fetch_add(size as u64, Ordering::Relaxed);
        if tasks.is_empty() {
            // They were handed to another replica.
            return;
        }
        Delivery {
            model: self.model.clone(),
            tasks,
            size,
            result,
        }
        .start();
    }

    /// Learns from a batch that came back. Only what the model really worked on says how long it takes.
    fn learn(&mut self, result: &BatchResult, batch: &SentBatch) {
        let now = self.clock.now();
        let model_time = Duration::from_micros(result.model_micros);
        let worked_on = result
            .model_inputs
            .map_or(batch.size, |inputs| batch.size.min(inputs as usize));
        if worked_on > 0 && matches!(result.outcome, Some(batch_result::Outcome::Outputs(_))) {
            self.policy.observe(worked_on, model_time);
            self.latency.observe(worked_on, model_time, batch.pressed);
            self.model.metrics.answered(model_time);
            self.replica.times.observe(model_time, &self.latency);
        }
        let inside = model_time + Duration::from_micros(result.wait_micros);
        self.overhead.observe(now.saturating_since(batch.sent_at), inside);
        self.set_overdue(now);
        if !self.overdue {
            self.expect(self.sent.free_at(now));
        }
    }
}

/// What a container that hangs will read, should it wake up.
fn hung() -> Refusal {
    Refusal {
        code: ErrorCode::Unavailable,
        reason: "a batch was not answered for far longer than batches take".into(),
    }
}

/// A timer for when to look whether batches are overdue. It may go off too early but not too late, so that it
/// need not be set anew for each batch: most often the one that is set is early enough.
#[derive(Default)]
struct Look(Option<(Instant, Pin<Box<Sleep>>)>);

impl Look {
    /// Sets the timer, unless it goes off by then anyway.
    fn arm(&mut self, next: Option<Instant>, clock: Clock) {
        let Some(at) = next else { return };
        if self.0.as_ref().is_none_or(|&(armed, _)| at < armed) {
            let sleep = tokio::time::sleep_until(clock.to_tokio(at));
            self.0 = Some((at, Box::pin(sleep)));
        }
    }

    /// Completes when it has gone off.
    async fn due(&mut self) {
        match &mut self.0 {
            Some((_, sleep)) => sleep.as_mut().await,
            None => std::future::pending().await,
        }
        self.0 = None;
    }
}

fn micros(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}

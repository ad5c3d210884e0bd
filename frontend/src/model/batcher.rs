//! One replica's loop: get a credit, form a batch as late as possible, return the answers to their askers.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::FutureExt;
use skysail_container_rpc::credit::Demand;
use skysail_container_rpc::server::{NewBatch, Refusal, ReplicaStream, StreamError};
use skysail_container_rpc::session::{Credit as Granted, SessionEvent};
use skysail_core::dispatch::{
    Completed, Completion, Credit, Departure, Dispatcher, Loss, SentBatch, Share, Step,
};
use skysail_core::query::BatchRun;
use skysail_core::queue::Placed;
use skysail_core::time::Instant;
use skysail_proto::container::{BatchResult, batch_result};
use skysail_proto::error_code::ErrorCode;
use skysail_proto::value::to_batch;
use tokio::sync::{mpsc, watch};
use tokio::time::Sleep;
use tracing::{info, warn};

use super::delivery::Delivery;
use super::handle::ModelHandle;
use super::queue::{Task, Unanswered};
use super::replica::{Order, Replica, ReplicaTable};
use crate::clock::Clock;

/// Serves one replica for as long as its stream lives.
pub(super) struct Batcher {
    pub(super) model: Arc<ModelHandle>,
    pub(super) replica: Arc<Replica>,
    pub(super) table: Arc<ReplicaTable>,
    /// The addresses of the cluster's frontends, which the container is told.
    pub(super) frontends: watch::Receiver<Arc<Vec<String>>>,
    pub(super) stream: ReplicaStream,
    /// Decides what the container is sent next, and keeps what it holds.
    pub(super) dispatcher: Dispatcher<Task>,
    pub(super) clock: Clock,
}

/// Why a stream is over.
enum Ended {
    /// The container drained, or this frontend did.
    Drained,
    /// The connection was lost, or the protocol broken.
    Lost(StreamError),
    /// A batch was not answered for so long that no answer is expected any more.
    Hung,
    /// An [`Order`] ended it.
    Ordered(Order),
}

impl Batcher {
    /// Runs until the stream ends. Queries that the container still holds then wait again.
    pub(super) async fn run(mut self, mut orders: mpsc::Receiver<Order>) {
        // Batch times learned by warming up, or elsewhere, count from the first query on.
        self.model.queue.introduce(&self.dispatcher, self.clock.now());
        let ended = self.work(&mut orders).await;
        let in_hand = match &ended {
            Ended::Lost(_) | Ended::Hung => self.lose(),
            Ended::Drained | Ended::Ordered(_) => self.dispatcher.hand_back(),
        };
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
        // Leave before `put_back`: otherwise the other replicas would leave these queries to this one.
        self.model.queue.leave(self.replica.stream);
        self.model.queue.put_back(in_hand, Unanswered::ReplicaLost);
        match ended {
            Ended::Ordered(Order::Superseded) => self.stream.close_superseded(),
            Ended::Ordered(Order::Dismiss(refusal)) => self.stream.close(&refusal),
            Ended::Hung => self.stream.close(&hung()),
            _ => {}
        }
    }

    fn lose(&mut self) -> Vec<Placed<Task>> {
        let Loss { too_large, queries } = self.model.queue.lose(&mut self.dispatcher, self.clock.now());
        if let Some(inputs) = too_large {
            let model = &self.model.id;
            warn!(%model, inputs, "replica lost with a batch of a new size, smaller ones are tried");
        }
        queries
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
            // Subscribed before `dispatch` looks at the queue, so that no demand is missed in between.
            let demand = model.queue.demand();
            if let Err(error) = self.dispatch() {
                return Ended::Lost(error);
            }
            if self.stream.is_finished() || (draining && self.owes_nothing()) {
                return Ended::Drained;
            }
            let holds_credit = self.dispatcher.holds_credit();
            let takes_work = self.dispatcher.takes_work();
            look.arm(self.dispatcher.next_look(), self.clock);
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
                // Another replica may now be ready to take over the overdue batch.
                Ok(()) = others.changed(), if self.dispatcher.is_overdue() => {
                    if self.look_at_the_time() {
                        return Ended::Hung;
                    }
                }
                () = demand, if !holds_credit => {}
            }
        }
    }

    /// Tells a new container about the other frontends. A lone frontend tells nothing: the container may know it by a
    /// name other than its own.
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

    /// Handles events that have arrived already. After a stall of the whole machine the timers fire first. Then every
    /// replica seems overdue, although its answer is here.
    async fn hear_what_is_here(&mut self) -> Result<(), StreamError> {
        tokio::task::yield_now().await;
        while let Some(event) = self.stream.next().now_or_never() {
            self.handle(event?);
        }
        Ok(())
    }

    /// Hands on queries that the container has had for too long. Returns whether to give the container up.
    fn look_at_the_time(&mut self) -> bool {
        let now = self.clock.now();
        self.dispatcher.look(now);
        self.show_overdue();
        if self.dispatcher.is_overdue() {
            self.hand_over();
        }
        self.dispatcher.is_hung(now)
    }

    fn hand_over(&mut self) {
        let others_ready = self.table.ready(&self.model.id);
        let queries = self.model.queue.hand_over(&mut self.dispatcher, others_ready);
        if queries > 0 {
            let replica = &self.replica.registration.replica;
            warn!(%replica, queries, "batch overdue, its queries are handed to other replicas");
        }
    }

    /// Shows others, in `Replica::overdue`, whether a batch is overdue.
    fn show_overdue(&self) {
        let overdue = self.dispatcher.is_overdue();
        if self.replica.overdue.swap(overdue, Ordering::Relaxed) != overdue {
            self.table.touch();
        }
    }

    /// Whether nobody waits for the queries that the container holds.
    fn owes_nothing(&self) -> bool {
        self.dispatcher.held().all(|placed| placed.task.is_abandoned())
    }

    /// Carries out the dispatcher's steps until it passes, announces demand or waits.
    fn dispatch(&mut self) -> Result<(), StreamError> {
        loop {
            let now = self.clock.now();
            match self.model.queue.step(&mut self.dispatcher, now) {
                Step::Send(departure) => self.send(departure, now)?,
                Step::Pass => return self.return_credits(),
                Step::Announce(demand) => {
                    return self.stream.announce(Demand {
                        queued: demand.queued,
                        budget: demand.earliest_budget,
                        most_inputs: demand.most_inputs,
                    });
                }
                Step::Wait => return Ok(()),
            }
        }
    }

    fn send(&mut self, departure: Departure, now: Instant) -> Result<(), StreamError> {
        let queries = self.dispatcher.queries(departure.id);
        let inputs = queries.iter().map(|placed| &placed.task.input);
        let budget = |placed: &Placed<Task>| micros(placed.deadline().saturating_since(now));
        let batch = NewBatch {
            id: departure.id,
            credit: departure.credit,
            credit_held: departure.credit_held,
            inputs: to_batch(self.model.signature(), inputs),
            budgets_micros: queries.iter().map(budget).collect(),
            predicted: departure.predicted.unwrap_or_default(),
        };
        self.model.metrics.sent(queries.len());
        self.replica.in_flight.fetch_add(1, Ordering::Relaxed);
        self.stream.send_batch(batch).inspect_err(|_| {
            let batch = self.dispatcher.unsend(departure.id);
            self.model.queue.put_back(batch, Unanswered::NotSent);
        })
    }

    fn return_credits(&mut self) -> Result<(), StreamError> {
        while let Some(sequence) = self.dispatcher.unparked_credit() {
            self.stream.return_credit(sequence)?;
        }
        Ok(())
    }

    fn handle(&mut self, event: SessionEvent) {
        match event {
            SessionEvent::Credit(granted) => self.dispatcher.grant(credit(&granted), self.clock.now()),
            SessionEvent::Recall(sequence) => self.dispatcher.recall(sequence),
            SessionEvent::Result(result) => self.answer(result),
            SessionEvent::Draining => {
                self.dispatcher.stop();
                self.replica.draining.store(true, Ordering::Relaxed);
                self.table.touch();
                info!(replica = %self.replica.registration.replica, "replica draining");
            }
            SessionEvent::Nothing => {}
        }
    }

    /// Answers the queries of a batch, or puts them back if the batch was too large.
    fn answer(&mut self, result: BatchResult) {
        let Some(sent) = self.learn(&result) else {
            return;
        };
        let SentBatch {
            batch, size, sent_at, ..
        } = sent;
        self.replica.in_flight.fetch_sub(1, Ordering::Relaxed);
        self.replica.batches.fetch_add(1, Ordering::Relaxed);
        self.replica.inputs.fetch_add(size as u64, Ordering::Relaxed);
        if let Some(words) = self.is_too_large(&result, size) {
            let model = &self.model.id;
            warn!(%model, inputs = size, error = words, "batch of a new size failed, smaller ones are tried");
            return self.model.queue.put_back(batch, Unanswered::TooLarge);
        }
        if batch.is_empty() {
            // Its queries were handed to another replica.
            return;
        }
        Delivery {
            model: self.model.clone(),
            batch,
            sent_at,
            run: BatchRun {
                replica: self.replica.registration.replica.clone(),
                inputs: size,
                model_time: Duration::from_micros(result.model_micros),
            },
            result,
        }
        .start();
    }

    /// The error with which a batch of `size` inputs failed as a whole, if its size may be to blame.
    fn is_too_large<'a>(&self, result: &'a BatchResult, size: usize) -> Option<&'a str> {
        let Some(batch_result::Outcome::BatchError(words)) = &result.outcome else {
            return None;
        };
        let given = match result.merged_inputs {
            0 => result
                .model_inputs
                .map_or(size, |inputs| (inputs as usize).min(size)),
            inputs => inputs as usize,
        };
        let too_large = self.model.queue.batch_failed(given, self.clock.now());
        too_large.then_some(words)
    }

    /// Learns from a batch that came back. `None` if no such batch was sent.
    fn learn(&mut self, result: &BatchResult) -> Option<SentBatch<Task>> {
        let now = self.clock.now();
        let took = Duration::from_micros(result.model_micros);
        let answer = Completion {
            worked_on: worked_on(result),
            is_merged: result.merged_inputs > 0,
            took,
            inside: took + Duration::from_micros(result.wait_micros),
        };
        let Completed { sent, learned } = self.dispatcher.answered(result.id, answer, now)?;
        if learned {
            self.model.metrics.answered(took);
            self.replica.times.observe(took, self.dispatcher.latency());
        }
        if result.merged_inputs > 0 {
            self.model.metrics.merged();
        }
        self.show_overdue();
        self.model.queue.report(&mut self.dispatcher, now);
        Some(sent)
    }
}

fn credit(granted: &Granted) -> Credit {
    let Granted {
        sequence,
        park,
        alone,
        share,
        starts_in,
    } = *granted;
    Credit {
        sequence,
        park,
        alone,
        share: Share {
            of_inputs: f64::from(share.millionths) / 1e6,
            most_inputs: share.most_inputs.unwrap_or(usize::MAX),
        },
        starts_in,
    }
}

/// How many inputs `model_micros` is for: all, unless the container says otherwise; 0 if the batch failed.
fn worked_on(result: &BatchResult) -> usize {
    match result.outcome {
        Some(batch_result::Outcome::Outputs(_)) if result.merged_inputs > 0 => result.merged_inputs as usize,
        Some(batch_result::Outcome::Outputs(_)) => {
            result.model_inputs.map_or(usize::MAX, |inputs| inputs as usize)
        }
        _ => 0,
    }
}

/// The refusal that a hung container reads if it wakes up.
fn hung() -> Refusal {
    Refusal {
        code: ErrorCode::Unavailable,
        reason: "a batch was not answered for far longer than batches take".into(),
    }
}

/// A timer for the next look at overdue batches. It may fire too early but not too late. So it is not set anew for
/// each batch: usually the time it is set to is early enough.
#[derive(Default)]
struct Look(Option<(Instant, Pin<Box<Sleep>>)>);

impl Look {
    /// Sets the timer, unless it fires by `next` anyway.
    fn arm(&mut self, next: Option<Instant>, clock: Clock) {
        let Some(at) = next else { return };
        if self.0.as_ref().is_none_or(|&(armed, _)| at < armed) {
            let sleep = tokio::time::sleep_until(clock.to_tokio(at));
            self.0 = Some((at, Box::pin(sleep)));
        }
    }

    /// Completes when the timer has fired.
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

//! One replica's loop: a credit, then a batch, decided as late as possible; answers back to their askers.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use skysail_container_rpc::server::{Demand, NewBatch, ReplicaStream, StreamError};
use skysail_container_rpc::session::Event;
use skysail_core::batch::BatchPolicy;
use skysail_core::query::{DefaultReason, Failure};
use skysail_core::time::Instant;
use skysail_proto::container::{self, BatchResult, InputError, InputErrorKind, batch_result};
use skysail_proto::value::{from_outputs, to_columns};
use tokio::sync::mpsc;
use tracing::{debug, info, warn};

use super::queue::{Task, Unanswered};
use super::replica::{Order, Replica};
use super::{MAX_BATCH_BYTES, ModelHandle};
use crate::clock::Clock;

/// Serves one replica for as long as its stream lives.
pub(super) struct Batcher {
    pub(super) model: Arc<ModelHandle>,
    pub(super) replica: Arc<Replica>,
    pub(super) stream: ReplicaStream,
    pub(super) policy: Box<dyn BatchPolicy>,
    pub(super) clock: Clock,
    /// The batches in the container's hands.
    pub(super) sent: HashMap<u64, Vec<Task>>,
    /// The earliest deadline announced since the last credit: less urgent demand is not worth a message.
    pub(super) announced: Option<Instant>,
}

/// Why a stream is over.
enum Ended {
    /// The container drained, or this frontend did.
    Drained,
    /// The connection was lost, or the protocol broken.
    Lost(StreamError),
    /// An order ended it.
    Ordered(Order),
}

impl Batcher {
    /// Runs until the stream ends; what was in the container's hands waits again then.
    pub(super) async fn run(mut self, mut orders: mpsc::Receiver<Order>) {
        let ended = self.work(&mut orders).await;
        let in_hand = self.sent.drain().flat_map(|(_, tasks)| tasks).collect::<Vec<_>>();
        let replica = &self.replica.registration.replica;
        match &ended {
            Ended::Drained => info!(%replica, "replica left"),
            Ended::Lost(error) => warn!(%replica, %error, queries = in_hand.len(), "replica lost"),
            Ended::Ordered(Order::Superseded) => info!(%replica, "replica superseded"),
            Ended::Ordered(_) => info!(%replica, "replica dismissed"),
        }
        self.model.queue.put_back(in_hand, Unanswered::ReplicaLost);
        match ended {
            Ended::Ordered(Order::Superseded) => self.stream.close_superseded(),
            Ended::Ordered(Order::Dismiss(refusal)) => self.stream.close(&refusal),
            _ => {}
        }
    }

    async fn work(&mut self, orders: &mut mpsc::Receiver<Order>) -> Ended {
        let mut draining = false;
        let model = self.model.clone();
        loop {
            // Before looking at the queue, so that demand that comes meanwhile is not missed.
            let demand = model.queue.demand();
            if let Err(error) = self.dispatch() {
                return Ended::Lost(error);
            }
            if self.stream.is_finished() || (draining && self.owes_nothing()) {
                return Ended::Drained;
            }
            let holds_credit = self.stream.has_credit();
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
                () = model.queue.work(), if holds_credit => {}
                () = demand, if !holds_credit => {}
            }
        }
    }

    /// Whether nobody waits for anything that the container holds.
    fn owes_nothing(&self) -> bool {
        self.sent.values().flatten().all(Task::is_abandoned)
    }

    /// Sends batches while there are credits and queries; then announces or returns what is left of either.
    fn dispatch(&mut self) -> Result<(), StreamError> {
        while self.stream.has_credit() {
            self.announced = None;
            let now = self.clock.now();
            let tasks = self.model.queue.take(&mut *self.policy, now, MAX_BATCH_BYTES);
            if tasks.is_empty() {
                return self.stream.return_credits();
            }
            self.send(tasks, now)?;
        }
        self.announce()
    }

    fn send(&mut self, tasks: Vec<Task>, now: Instant) -> Result<(), StreamError> {
        let (data, lengths) = to_columns(tasks.iter().map(|task| &task.input));
        let budget = |task: &Task| micros(task.deadline().saturating_since(now));
        let batch = NewBatch {
            input_type: self.model.spec.input_type,
            data,
            lengths,
            budgets_micros: tasks.iter().map(budget).collect(),
            predicted: Duration::ZERO,
        };
        self.model.metrics.sent(tasks.len());
        self.replica.in_flight.fetch_add(1, Ordering::Relaxed);
        match self.stream.send_batch(batch) {
            Ok(id) => {
                self.sent.insert(id, tasks);
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
                info!(replica = %self.replica.registration.replica, "replica draining");
            }
            Event::Credit | Event::Recall | Event::Nothing => {}
        }
    }

    /// Matches a batch's outputs to their askers.
    fn answer(&mut self, result: BatchResult) {
        let Some(tasks) = self.sent.remove(&result.id) else {
            return;
        };
        let worked_on = result
            .model_inputs
            .map_or(tasks.len(), |inputs| tasks.len().min(inputs as usize));
        if worked_on > 0 && matches!(result.outcome, Some(batch_result::Outcome::Outputs(_))) {
            // Only what the model really worked on says how long it takes.
            let model_time = Duration::from_micros(result.model_micros);
            self.policy.observe(worked_on, model_time);
            self.model.metrics.answered(model_time);
        }
        self.replica.in_flight.fetch_sub(1, Ordering::Relaxed);
        self.replica.batches.fetch_add(1, Ordering::Relaxed);
        self.replica
            .inputs
            .fetch_add(tasks.len() as u64, Ordering::Relaxed);
        match outputs(result, tasks.len()) {
            Ok(outputs) => {
                for (task, output) in tasks.into_iter().zip(outputs) {
                    task.answer(output.map_err(|error| input_failure(&error)));
                }
            }
            Err(words) => {
                debug!(model = %self.model.id, error = words, "batch failed");
                let failure = Failure::model_error(&words);
                for task in tasks {
                    task.answer(Err(failure.clone()));
                }
            }
        }
    }
}

type Outputs = Vec<Result<skysail_proto::value::Output, InputError>>;

/// The outputs of a batch, or the words it failed with.
fn outputs(result: BatchResult, expected: usize) -> Result<Outputs, String> {
    match result.outcome {
        Some(batch_result::Outcome::Outputs(outputs)) => {
            from_outputs(outputs, expected).map_err(|error| error.to_string())
        }
        Some(batch_result::Outcome::BatchError(words)) => Err(words),
        None => Err("the container answered neither outputs nor an error".into()),
    }
}

fn input_failure(error: &container::InputError) -> Failure {
    match error.kind() {
        InputErrorKind::Model => Failure::model_error(&error.message),
        InputErrorKind::TooLate => DefaultReason::LateReply.into(),
    }
}

fn micros(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}

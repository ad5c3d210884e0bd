//! The container: owns the credits, the connections and the model, and lets each hear of the others.

use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::mpsc as std_mpsc;
use std::time::Duration;

use skysail_proto::container::container_message::Kind as FromContainer;
use skysail_proto::container::frontend_message::Kind as FromFrontend;
use skysail_proto::container::{
    self, BatchResult, ContainerMessage, Credit, Draining, PROTOCOL_VERSION, Recall, Register,
    batch_result::Outcome,
};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tracing::{debug, error, info, warn};

use super::ServeError;
use super::connection::{Connection, Event, Frontend, Phase};
use super::model_thread::{Finished, Part, Work, inputs_of};
use super::recent::RecentBatches;
use crate::credit::{Arrival, Credits, Demand, Grant, Share, Step, StreamId, Taken, Uncredited};
use crate::settings::{Settings, hostname, is_host_and_port};

/// How long draining may take: batches in hand that take longer are not waited for.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);

/// Messages from frontends that the container has not looked at; connections wait while it is full.
const EVENTS: usize = 64;

/// All that lives as long as the container.
pub(super) struct Container {
    register: Register,
    recent: RecentBatches,
    credits: Credits,
    /// What came for the next batch.
    parts: Vec<Part>,
    streams: HashMap<StreamId, Attached>,
    connections: HashMap<String, watch::Sender<Phase>>,
    tasks: JoinSet<String>,
    events: mpsc::Sender<Event>,
    to_model: std_mpsc::Sender<Work>,
    stream_ids: Arc<AtomicU64>,
    /// What the credits count time from.
    epoch: Instant,
    draining: Option<DrainingSince>,
}

/// A registered stream.
struct Attached {
    frontend: Frontend,
    outbound: mpsc::Sender<ContainerMessage>,
    leaving: bool,
}

struct DrainingSince {
    at: Instant,
    superseded: Option<ServeError>,
}

impl Container {
    /// A container that hands batches to `to_model`, and what its connections will tell it.
    pub(super) fn new(
        settings: &Settings,
        annotations: BTreeMap<String, String>,
        to_model: std_mpsc::Sender<Work>,
        recent: RecentBatches,
    ) -> (Self, mpsc::Receiver<Event>) {
        let (events, heard) = mpsc::channel(EVENTS);
        let mut container = Self {
            register: register(settings, annotations),
            credits: Credits::knowing(recent.warm_up()),
            parts: Vec::new(),
            recent,
            streams: HashMap::new(),
            connections: HashMap::new(),
            tasks: JoinSet::new(),
            events,
            to_model,
            stream_ids: Arc::default(),
            epoch: Instant::now(),
            draining: None,
        };
        for address in &settings.frontends {
            container.connect(address);
        }
        (container, heard)
    }

    /// Serves until `shutdown`, then until all that is in hand is answered.
    pub(super) async fn run(
        mut self,
        mut heard: mpsc::Receiver<Event>,
        mut finished: mpsc::UnboundedReceiver<Finished>,
        shutdown: impl Future<Output = ()>,
    ) -> Result<(), ServeError> {
        let mut shutdown = pin!(shutdown);
        loop {
            let wake = self.settle();
            if self.is_done() {
                return self
                    .draining
                    .and_then(|draining| draining.superseded)
                    .map_or(Ok(()), Err);
            }
            tokio::select! {
                biased;
                Some(done) = finished.recv() => self.finish(done),
                Some(event) = heard.recv() => self.hear(event),
                Some(ended) = self.tasks.join_next() => self.forget(ended.ok()),
                () = &mut shutdown, if self.draining.is_none() => self.drain(None),
                () = wake_up(wake) => {}
            }
        }
    }

    /// Grants and recalls what is due, closes streams that are done; says when to look again.
    fn settle(&mut self) -> Option<Instant> {
        let wake = self.grant();
        let credits = &self.credits;
        let is_done = |id: &StreamId, stream: &mut Attached| stream.leaving && credits.is_clear_of(*id);
        // Dropping the sender ends the stream; the phase starts the frontend's time to end its side.
        for (_, closed) in self.streams.extract_if(is_done) {
            advance(&closed.frontend.phase, Phase::Closed);
        }
        let drained = self.draining.as_ref().map(|draining| draining.at + DRAIN_TIMEOUT);
        [wake, drained].into_iter().flatten().min()
    }

    fn grant(&mut self) -> Option<Instant> {
        loop {
            let now = self.epoch.elapsed();
            match self.credits.step(now) {
                Step::Grant(grant) => self.send(grant.stream, FromContainer::Credit(to_wire(&grant))),
                Step::Start => {
                    let parts = std::mem::take(&mut self.parts);
                    self.start(parts);
                }
                Step::Recall { stream, sequence } => {
                    self.send(stream, FromContainer::Recall(Recall { sequence }))
                }
                Step::WaitUntil(at) => return Some(self.epoch + at),
                Step::Wait => return None,
            }
        }
    }

    /// Whether draining is over: every connection has ended, or has had its time.
    fn is_done(&self) -> bool {
        let Some(draining) = &self.draining else {
            return false;
        };
        if self.tasks.is_empty() {
            return true;
        }
        let overdue = draining.at.elapsed() >= DRAIN_TIMEOUT;
        if overdue {
            warn!(
                frontends = self.tasks.len(),
                "not all could be answered before the end"
            );
        }
        overdue
    }

    fn finish(&mut self, done: Finished) {
        self.credits.finish(done.sample, self.epoch.elapsed());
        if let Some(sample) = done.sample {
            self.recent.add(sample);
        }
        for (stream, result) in done.results {
            self.send(stream, FromContainer::Result(result));
        }
    }

    fn hear(&mut self, event: Event) {
        match event {
            Event::Registering { reply } => {
                // A connection that does not wait for it any more is leaving.
                let _ = reply.send(self.introduction());
            }
            Event::Attached {
                stream,
                frontend,
                outbound,
            } => self.attached(stream, frontend, outbound),
            Event::Said { stream, message, at } => self.said(stream, message, at),
            Event::Lost { stream } => self.lose(stream),
            Event::Superseded { frontend, words } => self.superseded(frontend, words),
        }
    }

    /// What this container says of itself, and of its batches so far.
    fn introduction(&self) -> Register {
        Register {
            recent_batches: self.recent.to_wire(),
            ..self.register.clone()
        }
    }

    fn attached(&mut self, id: StreamId, frontend: Frontend, outbound: mpsc::Sender<ContainerMessage>) {
        let leaving = *frontend.phase.borrow() >= Phase::Leaving;
        let attached = Attached {
            frontend,
            outbound,
            leaving: false,
        };
        self.streams.insert(id, attached);
        self.credits.attach(id);
        if leaving {
            self.leave_stream(id);
        }
    }

    fn said(&mut self, stream: StreamId, message: FromFrontend, at: Instant) {
        match message {
            FromFrontend::Batch(batch) => self.take(stream, batch, at),
            FromFrontend::Demand(demand) => {
                let demand = Demand {
                    queued: demand.queued as usize,
                    budget: Duration::from_micros(demand.earliest_budget_micros),
                    most_inputs: demand.most_inputs as usize,
                };
                self.credits.demand(stream, demand, at - self.epoch);
            }
            FromFrontend::CreditReturned(returned) => self.credits.returned(stream, returned.sequence),
            FromFrontend::FrontendsChanged(changed) => self.frontends_changed(changed.addresses),
            FromFrontend::Draining(_) => self.credits.frontend_drains(stream),
            FromFrontend::Registered(_) => debug!(stream = stream.0, "registered twice"),
        }
    }

    fn take(&mut self, stream: StreamId, batch: container::Batch, arrived: Instant) {
        let arrival = Arrival {
            credit: batch.credit,
            credit_held: Duration::from_micros(batch.credit_held_micros),
            inputs: inputs_of(&batch),
            predicted: (batch.predicted_micros > 0).then(|| Duration::from_micros(batch.predicted_micros)),
        };
        let taken = self.credits.batch(stream, arrival, arrived - self.epoch);
        let part = Part {
            stream,
            batch,
            arrived,
        };
        match taken {
            Ok(Taken::Part) => self.parts.push(part),
            Ok(Taken::Late) => self.start(vec![part]),
            Err(error) => self.refuse(stream, part.batch.id, &error),
        }
    }

    fn refuse(&mut self, stream: StreamId, id: u64, error: &Uncredited) {
        error!(batch = id, %error, "the frontend sent a batch it had no credit for");
        let refusal = BatchResult {
            id,
            outcome: Some(Outcome::BatchError(error.to_string())),
            model_inputs: Some(0),
            ..BatchResult::default()
        };
        self.send(stream, FromContainer::Result(refusal));
    }

    /// Hands the model a batch of these parts.
    fn start(&self, parts: Vec<Part>) {
        let started = self.to_model.send(Work { parts });
        started.expect("the model's thread ends only with the container; this is a bug");
    }

    fn lose(&mut self, stream: StreamId) {
        self.streams.remove(&stream);
        self.credits.lose(stream);
    }

    /// Sends, unless the stream is gone: what was for it is then nobody's.
    fn send(&mut self, stream: StreamId, kind: FromContainer) {
        let Some(attached) = self.streams.get(&stream) else {
            return;
        };
        if let Err(error) = attached.outbound.try_send(ContainerMessage { kind: Some(kind) }) {
            let frontend = &attached.frontend.address;
            warn!(frontend, %error, "the frontend does not take its messages, cut off");
            self.lose(stream);
        }
    }

    fn connect(&mut self, address: &str) {
        let (phase, seen) = watch::channel(Phase::Serving);
        let connection = Connection {
            address: address.to_owned(),
            events: self.events.clone(),
            phase: phase.clone(),
            seen,
            stream_ids: Arc::clone(&self.stream_ids),
        };
        self.connections.insert(address.to_owned(), phase);
        let address = address.to_owned();
        self.tasks.spawn(async move {
            connection.run().await;
            address
        });
    }

    /// A connection has ended; one to the same address may be new already.
    fn forget(&mut self, address: Option<String>) {
        let Some(address) = address else { return };
        if self
            .connections
            .get(&address)
            .is_some_and(watch::Sender::is_closed)
        {
            self.connections.remove(&address);
        }
    }

    /// Connects to frontends that are new and dials no more for those that are gone.
    ///
    /// One that this container is attached to is not left on another's word: it is there, whatever the others
    /// can see of it. One that goes says so itself.
    fn frontends_changed(&mut self, addresses: Vec<String>) {
        let (good, bad): (Vec<_>, Vec<_>) = addresses
            .into_iter()
            .partition(|address| is_host_and_port(address));
        if !bad.is_empty() {
            warn!(?bad, "the frontend names addresses that are not host:port");
        }
        if good.is_empty() || self.draining.is_some() {
            return;
        }
        let is_attached =
            |address: &String| (self.streams.values()).any(|stream| stream.frontend.address == *address);
        let gone: Vec<_> = self
            .connections
            .keys()
            .filter(|known| !good.contains(known) && !is_attached(known))
            .cloned()
            .collect();
        for address in gone {
            info!(frontend = address, "frontend is no longer in the cluster");
            self.leave(&address);
        }
        for address in good {
            let known = self.connections.get(&address);
            if known.is_none_or(|phase| *phase.borrow() >= Phase::Leaving) {
                info!(frontend = address, "frontend is new in the cluster");
                self.connect(&address);
            }
        }
    }

    fn leave(&mut self, address: &str) {
        if let Some(phase) = self.connections.get(address) {
            advance(phase, Phase::Leaving);
        }
        let on_it = self
            .streams
            .iter()
            .filter(|(_, stream)| stream.frontend.address == address);
        let ids: Vec<_> = on_it.map(|(id, _)| *id).collect();
        for id in ids {
            self.leave_stream(id);
        }
    }

    fn leave_stream(&mut self, id: StreamId) {
        self.send(id, FromContainer::Draining(Draining {}));
        self.credits.leave(id);
        if let Some(attached) = self.streams.get_mut(&id) {
            attached.leaving = true;
        }
    }

    /// Another container registered as this replica, unless a stream of this container's own did.
    fn superseded(&mut self, frontend: Frontend, words: String) {
        if self
            .streams
            .values()
            .any(|stream| stream.frontend.id == frontend.id)
        {
            info!(
                frontend = frontend.address,
                "reached by another address too, left at this one"
            );
            return advance(&frontend.phase, Phase::Leaving);
        }
        let superseded = ServeError::Superseded {
            frontend: frontend.address,
            words,
        };
        self.drain(Some(superseded));
    }

    fn drain(&mut self, superseded: Option<ServeError>) {
        if self.draining.is_some() {
            return;
        }
        info!("draining: answering what is in hand, taking no more");
        self.draining = Some(DrainingSince {
            at: Instant::now(),
            superseded,
        });
        self.credits.drain();
        let addresses: Vec<_> = self.connections.keys().cloned().collect();
        for address in addresses {
            self.leave(&address);
        }
    }
}

fn register(settings: &Settings, annotations: BTreeMap<String, String>) -> Register {
    Register {
        protocol_version: PROTOCOL_VERSION,
        model_name: settings.model.name.to_string(),
        model_version: settings.model.version.to_string(),
        input_type: settings.signature.wire_type() as i32,
        replica_id: settings.replica.to_string(),
        token: settings.token.clone(),
        hostname: hostname(),
        pid: std::process::id(),
        agent: concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION")).to_owned(),
        recent_batches: Vec::new(),
        signature: settings.signature.to_wire(),
        annotations: annotations.into_iter().collect(),
    }
}

fn to_wire(grant: &Grant) -> Credit {
    let Grant {
        stream: _,
        sequence,
        park,
        share,
        starts_in,
    } = *grant;
    let is_whole = share == Share::WHOLE;
    let most_inputs = share.most_inputs.unwrap_or(0);
    Credit {
        sequence,
        park,
        // Only the one frontend there is may park.
        alone: park,
        share_millionths: if is_whole { 0 } else { share.millionths },
        most_inputs: u32::try_from(most_inputs).unwrap_or(u32::MAX),
        starts_in_micros: u64::try_from(starts_in.as_micros()).unwrap_or(u64::MAX),
    }
}

/// Moves a connection on; it never moves back.
fn advance(phase: &watch::Sender<Phase>, to: Phase) {
    phase.send_if_modified(|phase| {
        let forward = *phase < to;
        *phase = to.max(*phase);
        forward
    });
}

async fn wake_up(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

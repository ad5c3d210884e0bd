//! The follower: the one task that owns the connection to Redis and the snapshot.
//!
//! Writers send requests to it. So a commit, its snapshot and the snapshots of other frontends' commits are
//! published in one order. A message on the channel wakes it, and it compares generations. A look every second
//! finds changes whose message was lost.

use std::collections::BTreeSet;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use skysail_core::backoff::Backoff;
use skysail_core::catalog::{Catalog, Change, Generation};
use skysail_core::cluster::Lease;
use skysail_core::store::{Damage, Holder, Inventory, RESTORE_WISH, Seen, Setback, Stored};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until};
use tracing::{debug, info};

use super::announcements::Announcements;
use super::endpoint::{Endpoint, Failure};
use super::lease::Line;
use super::pulse::{Beat, Pulse};
use super::session::{Session, Write};
use crate::store::incarnation::fresh_incarnation;
use crate::store::query_block::first_query_block;
use crate::store::{Settle, StoreError, StoreHealth, words};

/// How often the generation is compared even without a message.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A slow Redis is looked at once per `LOOK_TRIPS` round trips, to leave time for other commands.
const LOOK_TRIPS: u32 = 4;
/// The first and the longest pause before connecting again.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

pub(super) type Reply<T> = oneshot::Sender<Result<T, StoreError>>;

/// Requests of the store's callers.
pub(super) enum Request {
    Commit {
        lease: Option<Lease>,
        changes: Vec<Change>,
        expected: Generation,
        reply: Reply<Arc<Catalog>>,
    },
    QueryBlock {
        reply: Reply<u64>,
    },
    Settle {
        how: Settle,
        reply: Reply<Settling>,
    },
    Adopt {
        incarnations: BTreeSet<String>,
        reply: Reply<Arc<Catalog>>,
    },
}

/// An announcement, or its withdrawal. It has a time to live, so it does not queue behind requests.
pub(super) struct Announcement {
    pub(super) id: String,
    pub(super) document: Option<String>,
    pub(super) ttl: Duration,
    pub(super) reply: Reply<()>,
}

/// The outcome of a settlement.
pub(super) enum Settling {
    /// The store is settled; this catalog is followed now.
    Done(Arc<Catalog>),
    /// Another frontend holds the lost generation, and was asked to write it back.
    Wished,
}

impl Request {
    /// Answers without Redis. It does not matter if the caller has given up.
    fn refuse(self, why: StoreError) {
        match self {
            Self::Commit { reply, .. } => drop(reply.send(Err(why))),
            Self::QueryBlock { reply } => drop(reply.send(Err(why))),
            Self::Settle { reply, .. } => drop(reply.send(Err(why))),
            Self::Adopt { reply, .. } => drop(reply.send(Err(why))),
        }
    }
}

/// The queues of the follower.
pub(super) struct Inbox {
    pub(super) requests: mpsc::Receiver<Request>,
    pub(super) beats: mpsc::Receiver<Announcement>,
}

/// The kind of the follower's last step.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Step {
    /// It answered a request.
    Request,
    /// It announced a frontend, or looked.
    Other,
}

/// How thoroughly a look reads.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Look {
    /// Reads the documents only if something is new or wrong.
    Quickly,
    /// Always reads the documents, and compares them with their proof.
    Closely,
}

/// The result of reading all documents.
enum Read {
    /// A whole catalog, which is shown now.
    Whole(Arc<Catalog>),
    /// Documents that differ from what was written.
    Damaged { stored: Stored, damage: Damage },
}

/// The channels by which other tasks watch the follower.
pub(super) struct Shows {
    pub(super) line: watch::Sender<Line>,
    pub(super) catalog: watch::Sender<Option<Arc<Catalog>>>,
    pub(super) announcements: Announcements,
}

/// Owns the connection to Redis and the snapshot. It has to run for as long as the store is used.
pub struct Follower {
    endpoint: Endpoint,
    inbox: Inbox,
    line: watch::Sender<Line>,
    catalog: watch::Sender<Option<Arc<Catalog>>>,
    pulse: Arc<Pulse>,
    announcements: Announcements,
    /// The hashes of the shown snapshot's documents.
    inventory: Inventory,
    /// The loss in Redis, while Redis is not followed.
    setback: Option<Setback>,
    /// When Redis was last looked at, and how long its answer took.
    looked: Instant,
    trip: Duration,
    /// The highest query block this process was given. A Redis that lost its last writes may not give it, or a
    /// lower one, again.
    highest_block: Option<u64>,
}

impl Follower {
    pub(super) fn new(endpoint: Endpoint, inbox: Inbox, pulse: Arc<Pulse>, shows: Shows) -> Self {
        Self {
            endpoint,
            inbox,
            line: shows.line,
            catalog: shows.catalog,
            pulse,
            announcements: shows.announcements,
            inventory: Inventory::default(),
            setback: None,
            looked: Instant::now(),
            trip: Duration::ZERO,
            highest_block: None,
        }
    }

    /// Connects, however long it takes, and follows Redis: one session after another, with growing pauses
    /// between failed ones. Never ends.
    pub async fn run(mut self) {
        let mut backoff = Backoff::new(RETRY.0, RETRY.1);
        // Requests made before the first session wait for its outcome.
        let mut opened = Session::open(&self.endpoint).await;
        loop {
            let outage = match opened {
                Ok(session) => self.serve(session, &mut backoff).await,
                Err(outage) => outage,
            };
            self.report(&outage);
            let endpoint = self.endpoint.clone();
            let pause = jittered(backoff.pause());
            let retry = async {
                tokio::time::sleep(pause).await;
                Session::open(&endpoint).await
            };
            opened = self.inbox.refuse_while(&outage, retry).await;
        }
    }

    /// Serves requests and follows the catalog until the session ends, and returns why it did.
    async fn serve(&mut self, mut session: Session, backoff: &mut Backoff) -> StoreError {
        self.announcements.keep(Instant::now());
        if let Err(outage) = self.look(&mut session, Look::Quickly).await {
            return outage;
        }
        backoff.reset();
        let connection = session.connection();
        self.line
            .send_replace(Some(Ok((self.endpoint.clone(), connection))));
        session.warn_of_evictions().await;
        let mut last = Step::Other;
        loop {
            let (step, done) = self.step(&mut session, last).await;
            if let Err(outage) = done {
                return outage;
            }
            last = step;
        }
    }

    /// Does one step: a request, an announcement or a look.
    async fn step(&mut self, session: &mut Session, last: Step) -> (Step, Result<(), StoreError>) {
        // Announcements and looks go before requests: announcements expire, and looks resolve doubts. But a
        // request waits for one such step only. If each takes seconds, it would otherwise wait for ever.
        if last != Step::Request
            && let Ok(request) = self.inbox.requests.try_recv()
        {
            return (Step::Request, self.answer(session, request).await);
        }
        let look_at = self.looked + LOOK_EVERY.max(self.trip * LOOK_TRIPS);
        tokio::select! {
            biased;
            Some(beat) = self.inbox.beats.recv() => (Step::Other, self.beat(session, beat).await),
            () = sleep_until(look_at) => (Step::Other, self.look(session, Look::Quickly).await),
            Some(request) = self.inbox.requests.recv() => (Step::Request, self.answer(session, request).await),
            () = session.woken() => (Step::Other, self.look(session, Look::Quickly).await),
        }
    }

    async fn answer(&mut self, session: &mut Session, request: Request) -> Result<(), StoreError> {
        match request {
            Request::Commit {
                lease,
                changes,
                expected,
                reply,
            } => {
                let committed = self.commit(session, lease.as_ref(), &changes, expected).await;
                conclude(reply, committed)
            }
            Request::QueryBlock { reply } => conclude(reply, self.next_query_block(session).await),
            Request::Settle { how, reply } => conclude(reply, self.settle(session, how).await),
            Request::Adopt { incarnations, reply } => {
                conclude(reply, self.adopt(session, incarnations).await)
            }
        }
    }

    async fn beat(&mut self, session: &mut Session, beat: Announcement) -> Result<(), StoreError> {
        let asked = Instant::now();
        let announced = session
            .announce(&beat.id, beat.document.as_deref(), beat.ttl)
            .await;
        self.note(&announced, asked.elapsed());
        let shown = announced.map(|live| {
            if beat.document.is_none() {
                self.announcements.withdraw(&beat.id);
            }
            self.announcements.show(live, Instant::now());
        });
        conclude(beat.reply, shown)
    }

    /// Records what an announcement's outcome says about Redis' health.
    fn note<T>(&mut self, announced: &Result<T, Failure>, took: Duration) {
        self.pulse.round_trip(took);
        let refused = match announced {
            Ok(_) => None,
            Err(failure) => match failure.refusal() {
                Some(refusal) => Some(refusal),
                None => return,
            },
        };
        self.pulse.written(Beat::Announcement, refused);
        if refused.is_some() {
            // The other frontends cannot announce themselves either.
            self.announcements.keep(Instant::now());
        }
    }

    async fn commit(
        &mut self,
        session: &mut Session,
        lease: Option<&Lease>,
        changes: &[Change],
        expected: Generation,
    ) -> Result<Arc<Catalog>, Failure> {
        self.refuse_a_setback()?;
        // If `expected` is not shown here, the writer knows a snapshot that has not arrived yet.
        let current = self.shown().filter(|current| current.generation == expected);
        let write = Write {
            lease,
            changes,
            expected: &expected,
            known: current.as_ref().map(|_| &self.inventory),
        };
        let asked = Instant::now();
        let committed = session.commit(&write).await;
        self.pulse.round_trip(asked.elapsed());
        let generation = match committed {
            Ok(generation) => generation,
            Err(refused @ Failure::Refused(StoreError::Conflict { .. } | StoreError::HeldBack(_))) => {
                // Look now, so that a retry finds the conflicting snapshot, or learns what was lost.
                let how = match &refused {
                    Failure::Refused(StoreError::HeldBack(_)) => Look::Closely,
                    _ => Look::Quickly,
                };
                self.look(session, how).await.map_err(Failure::Over)?;
                self.refuse_a_setback()?;
                return Err(refused);
            }
            Err(failure) => return Err(failure),
        };
        let Some(current) = current else {
            return self.load(session).await.map_err(Failure::of_a_write);
        };
        let mut inventory = std::mem::take(&mut self.inventory);
        changes.iter().for_each(|change| inventory.apply(change));
        Ok(self.publish(current.with(changes, generation), inventory))
    }

    fn refuse_a_setback(&self) -> Result<(), Failure> {
        match &self.setback {
            None => Ok(()),
            Some(setback) => {
                let sentence = words::setback(setback, self.shown().as_deref());
                Err(Failure::Refused(StoreError::HeldBack(sentence)))
            }
        }
    }

    async fn next_query_block(&mut self, session: &mut Session) -> Result<u64, Failure> {
        let start = first_query_block(Timestamp::now());
        let given = session.next_query_block(start, self.highest_block).await;
        match &given {
            Ok(_) => self.pulse.written(Beat::QueryBlock, None),
            Err(failure) if failure.refusal().is_some() => {
                self.pulse.written(Beat::QueryBlock, failure.refusal());
            }
            Err(_) => {}
        }
        let block = given?;
        self.highest_block = self.highest_block.max(Some(block));
        Ok(block)
    }

    /// Compares Redis with the shown snapshot, and follows Redis unless it lost something.
    async fn look(&mut self, session: &mut Session, how: Look) -> Result<(), StoreError> {
        let asked = Instant::now();
        let (seen, live) = session.look().await?;
        self.looked = Instant::now();
        self.trip = self.looked - asked;
        self.pulse.round_trip(self.trip);
        let held = self.shown().map(|catalog| catalog.generation.clone());
        match Setback::of(held.as_ref(), &seen) {
            Some(setback) => self.hold_back(session, setback, &seen).await?,
            None if how == Look::Quickly && seen.is_known(held.as_ref(), &self.inventory) => self.follow(),
            None => self.look_into(session, held.as_ref(), &seen).await?,
        }
        self.announcements.show(live, Instant::now());
        Ok(())
    }

    /// Reads the documents, and follows them if they are whole.
    async fn look_into(
        &mut self,
        session: &mut Session,
        held: Option<&Generation>,
        seen: &Seen,
    ) -> Result<(), StoreError> {
        match self.read(session).await {
            Ok(Read::Whole(_)) => {
                if seen.broken {
                    tolerate(session.mend(&seen.stored.generation).await)?;
                }
                self.follow();
                Ok(())
            }
            Ok(Read::Damaged { stored, damage }) => {
                let setback = Setback::of_damage(stored, damage, held, seen.held_back.as_ref());
                self.hold_back(session, setback, seen).await
            }
            failed => tolerate(failed),
        }
    }

    /// Records that the shown snapshot is Redis' own.
    fn follow(&mut self) {
        self.setback = None;
        self.pulse.found(StoreHealth::Up);
    }

    /// Redis lost something: keeps the shown snapshot, reports the loss, and writes the snapshot back on
    /// request.
    async fn hold_back(
        &mut self,
        session: &mut Session,
        setback: Setback,
        seen: &Seen,
    ) -> Result<(), StoreError> {
        if self.setback.is_none() {
            // Redis lost the announcements along with the catalog.
            self.announcements.keep(Instant::now());
        }
        let held = self.shown();
        let steps = setback.steps(held.as_ref().map(|held| &held.generation), seen);
        if steps.says_held || steps.marks_broken {
            let stored = &setback.stored.generation;
            let held = steps.says_held.then_some(&setback.newest);
            tolerate(session.hold_back(stored, held, setback.damage.is_some()).await)?;
        }
        self.pulse
            .found(StoreHealth::WentBack(words::setback(&setback, held.as_deref())));
        self.setback = Some(setback.clone());
        if steps.restores {
            return tolerate(self.write_settlement(session, &setback, Settle::Restore).await);
        }
        Ok(())
    }

    async fn settle(&mut self, session: &mut Session, how: Settle) -> Result<Settling, Failure> {
        // `Closely`, because only reading the documents reveals edits by hand.
        self.look(session, Look::Closely).await.map_err(Failure::Over)?;
        let held = self.shown().map(|catalog| catalog.generation.clone());
        let setback = match (self.setback.clone(), how) {
            (Some(setback), Settle::Restore) if setback.holder(held.as_ref()) != Holder::ThisFrontend => {
                session.wish_for_restore(RESTORE_WISH).await?;
                return Ok(Settling::Wished);
            }
            (Some(setback), _) => setback,
            (None, Settle::Accept) if held == Some(Generation::default()) => Setback::of_nothing(),
            (None, _) => return Err(Failure::Refused(StoreError::NothingToSettle)),
        };
        let settled = self.write_settlement(session, &setback, how).await;
        if let Err(Failure::Refused(StoreError::Conflict { .. })) = settled {
            // Another frontend was quicker: shows its decision.
            self.look(session, Look::Quickly).await.map_err(Failure::Over)?;
        }
        settled.map(Settling::Done)
    }

    /// Makes the store the successor of these lives. The content stays, so it is written as an accepted
    /// settlement.
    async fn adopt(
        &mut self,
        session: &mut Session,
        incarnations: BTreeSet<String>,
    ) -> Result<Arc<Catalog>, Failure> {
        // `Closely`, because the present documents are taken as they are.
        self.look(session, Look::Closely).await.map_err(Failure::Over)?;
        self.refuse_a_setback()?;
        let held = self.shown().unwrap_or_default();
        let adopting = Stored::adopting(&held, incarnations, fresh_incarnation());
        session
            .settle(&held.generation, &adopting, Settle::Accept, &[])
            .await?;
        self.load(session).await.map_err(Failure::of_a_write)
    }

    /// Settles the store in Redis, and follows it from then on.
    async fn write_settlement(
        &mut self,
        session: &mut Session,
        setback: &Setback,
        how: Settle,
    ) -> Result<Arc<Catalog>, Failure> {
        let held = self.shown();
        let settled = setback.settled(held.as_deref(), fresh_incarnation());
        let documents = match (how, &held) {
            (Settle::Restore, Some(held)) => held.documents().collect(),
            (Settle::Restore, None) => Vec::new(),
            (Settle::Accept, _) => {
                // Documents that cannot be read cannot be accepted.
                let (stored, documents) = session.snapshot().await.map_err(Failure::Over)?;
                let readable = session.catalog(&documents, stored);
                readable.map_err(Failure::Refused)?;
                Vec::new()
            }
        };
        session
            .settle(&setback.stored.generation, &settled, how, &documents)
            .await?;
        info!(
            ?how,
            generation = settled.generation.number,
            "the metadata store was settled"
        );
        let catalog = self.load(session).await.map_err(Failure::of_a_write)?;
        self.follow();
        Ok(catalog)
    }

    /// Reads the whole catalog and shows it. If it lost something, nothing is shown, and the next look reports
    /// that.
    async fn load(&mut self, session: &mut Session) -> Result<Arc<Catalog>, Failure> {
        match self.read(session).await? {
            Read::Whole(catalog) => Ok(catalog),
            Read::Damaged { damage, .. } => Err(Failure::Refused(StoreError::HeldBack(format!(
                "the metadata store lost something ({}): see GET /api/v1/status",
                words::damage(&damage)
            )))),
        }
    }

    /// Reads all documents. Shows them if they match their proof and the shown snapshot is not lost by it.
    async fn read(&mut self, session: &mut Session) -> Result<Read, Failure> {
        let (stored, documents) = session.snapshot().await.map_err(Failure::Over)?;
        let held = self.shown();
        if held
            .as_ref()
            .is_some_and(|held| stored.has_lost(&held.generation))
        {
            return Err(Failure::Refused(StoreError::HeldBack(
                "the metadata store went back while it was read: see GET /api/v1/status".into(),
            )));
        }
        let inventory = Inventory::of(&documents);
        let same = held.is_some_and(|held| held.generation == stored.generation);
        if let Some(damage) = stored.damage(&inventory, same.then_some(&self.inventory)) {
            return Ok(Read::Damaged { stored, damage });
        }
        let catalog = session.catalog(&documents, stored).map_err(Failure::Over)?;
        Ok(Read::Whole(self.publish(catalog, inventory)))
    }

    /// The snapshot that readers see.
    fn shown(&self) -> Option<Arc<Catalog>> {
        self.catalog.borrow().clone()
    }

    /// Shows a snapshot to the readers, unless it is what they see already.
    fn publish(&mut self, catalog: Catalog, inventory: Inventory) -> Arc<Catalog> {
        self.inventory = inventory;
        if let Some(shown) = self.shown().filter(|shown| **shown == catalog) {
            return shown;
        }
        let next = Arc::new(catalog);
        self.catalog.send_replace(Some(Arc::clone(&next)));
        next
    }

    fn report(&self, outage: &StoreError) {
        self.line.send_replace(Some(Err(outage.clone())));
        if let StoreError::Refuses(_) = outage {
            return self.pulse.demoted(outage);
        }
        // Callers that show the health name the store themselves.
        let why = match outage {
            StoreError::Unavailable(why) => why.clone(),
            other => other.to_string(),
        };
        self.pulse.found(StoreHealth::Down(why));
    }
}

/// Gives the caller its answer. Returns an error if the session is over.
fn conclude<T>(reply: Reply<T>, result: Result<T, Failure>) -> Result<(), StoreError> {
    let (answer, step) = match result {
        Ok(done) => (Ok(done), Ok(())),
        Err(failure) => {
            let step = failure.outage().map_or(Ok(()), Err);
            (Err(failure.into_error()), step)
        }
    };
    // It does not matter if the caller has given up.
    drop(reply.send(answer));
    step
}

/// Ignores a refusal by Redis: the next look tries again.
fn tolerate<T>(done: Result<T, Failure>) -> Result<(), StoreError> {
    match done {
        Ok(_) => Ok(()),
        Err(failure) => {
            if let Some(outage) = failure.outage() {
                return Err(outage);
            }
            let error = failure.into_error();
            debug!(%error, "redis refused; the next look tries again");
            Ok(())
        }
    }
}

impl Inbox {
    /// Does `work`, and answers all requests meanwhile with `outage`.
    async fn refuse_while<T>(&mut self, outage: &StoreError, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        loop {
            tokio::select! {
                done = &mut work => return done,
                Some(request) = self.requests.recv() => request.refuse(outage.clone()),
                // It does not matter if the caller has given up.
                Some(beat) = self.beats.recv() => drop(beat.reply.send(Err(outage.clone()))),
            }
        }
    }
}

/// Random pauses, so that frontends that lost Redis together do not come back in step.
fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(0.5 + fastrand::f64() / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_is_never_longer_than_it_should_be_nor_less_than_half() {
        let pause = Duration::from_millis(100);
        for _ in 0..1000 {
            let jittered = jittered(pause);
            assert!(jittered <= pause && jittered >= pause / 2, "{jittered:?}");
        }
    }
}

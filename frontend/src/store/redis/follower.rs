//! The follower: the one task that owns the connection to Redis and the snapshot.
//!
//! Writers send it their requests, so a commit, its snapshot and the snapshots of other frontends' commits are
//! published in one order. A message on the channel wakes it, the comparison of generations decides, and a look
//! every second catches what a lost message did not say.

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

/// How often the generation is compared although no message came.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A Redis that is slow is looked at once in so many round trips: there is more to ask of it.
const LOOK_TRIPS: u32 = 4;
/// The first pause before Redis is tried again, and the longest.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

pub(super) type Reply<T> = oneshot::Sender<Result<T, StoreError>>;

/// What callers ask of the follower.
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

/// An announcement, or its end. It has a time to live, so it does not queue behind requests.
pub(super) struct Announcement {
    pub(super) id: String,
    pub(super) document: Option<String>,
    pub(super) ttl: Duration,
    pub(super) reply: Reply<()>,
}

/// How far a settlement came.
pub(super) enum Settling {
    /// It is done; this is followed now.
    Done(Arc<Catalog>),
    /// Another frontend holds what is to be restored, and was asked to.
    Wished,
}

impl Request {
    /// Answers without Redis. That nobody waits for the answer any more is fine.
    fn refuse(self, why: StoreError) {
        match self {
            Self::Commit { reply, .. } => drop(reply.send(Err(why))),
            Self::QueryBlock { reply } => drop(reply.send(Err(why))),
            Self::Settle { reply, .. } => drop(reply.send(Err(why))),
            Self::Adopt { reply, .. } => drop(reply.send(Err(why))),
        }
    }
}

/// What waits for the follower.
pub(super) struct Inbox {
    pub(super) requests: mpsc::Receiver<Request>,
    pub(super) beats: mpsc::Receiver<Announcement>,
}

/// What the follower did.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Step {
    /// It answered a request.
    Request,
    /// It announced somebody, or looked.
    Other,
}

/// How closely Redis is looked at.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Look {
    /// The documents are read only if something is new or wrong.
    Quickly,
    /// They are read, and compared with what proves them whole.
    Closely,
}

/// What was read.
enum Read {
    /// A catalog that is whole, and shown now.
    Whole(Arc<Catalog>),
    /// Something else than what was written.
    Damaged { stored: Stored, damage: Damage },
}

/// What the follower lets others see.
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
    /// The documents of what is shown.
    inventory: Inventory,
    /// What Redis lost, while it is not followed.
    setback: Option<Setback>,
    /// When Redis was last looked at, and how long it took to answer.
    looked: Instant,
    trip: Duration,
    /// The highest query block this process was given: a Redis that lost its last writes does not get to
    /// give it, or one before it, once more.
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

    /// Connects, for as long as it takes, and follows Redis: one session after the other, with growing pauses
    /// between those that fail. Never ends.
    pub async fn run(mut self) {
        let mut backoff = Backoff::new(RETRY.0, RETRY.1);
        // Requests made before the first session wait for how that goes.
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

    /// Serves requests and follows the catalog until the session ends, and says why it did.
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

    /// Does one thing of what there is to do.
    async fn step(&mut self, session: &mut Session, last: Step) -> (Step, Result<(), StoreError>) {
        // What has a time to live, and what ends doubts, goes before what can wait. But a request waits for one
        // of them only: where each takes seconds, it would wait for ever.
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

    /// What an announcement says of a Redis that answers.
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
            // Nobody else can announce himself either.
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
        // Otherwise the writer knows of a snapshot that has not come here yet.
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
                // Whoever tries again finds the snapshot that was in the way, or learns what was lost.
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

    /// Compares what Redis has with what is shown here, and follows it, unless it lost something.
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

    /// What is shown is what Redis has.
    fn follow(&mut self) {
        self.setback = None;
        self.pulse.found(StoreHealth::Up);
    }

    /// Redis lost something: goes on with what is shown, says so, and writes it back if that was asked for.
    async fn hold_back(
        &mut self,
        session: &mut Session,
        setback: Setback,
        seen: &Seen,
    ) -> Result<(), StoreError> {
        if self.setback.is_none() {
            // With the catalog it lost the announcements.
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
        // Closely, because what was edited by hand is seen by reading only.
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
            // Another was quicker: shows what it decided.
            self.look(session, Look::Quickly).await.map_err(Failure::Over)?;
        }
        settled.map(Settling::Done)
    }

    /// Takes the place of these lives. The content stays, so that it is written as a settlement that accepts it.
    async fn adopt(
        &mut self,
        session: &mut Session,
        incarnations: BTreeSet<String>,
    ) -> Result<Arc<Catalog>, Failure> {
        // Closely, because what is there is taken as it is.
        self.look(session, Look::Closely).await.map_err(Failure::Over)?;
        self.refuse_a_setback()?;
        let held = self.shown().unwrap_or_default();
        let adopting = Stored::adopting(&held, incarnations, fresh_incarnation());
        session
            .settle(&held.generation, &adopting, Settle::Accept, &[])
            .await?;
        self.load(session).await.map_err(Failure::of_a_write)
    }

    /// Ends the doubt in Redis, and follows it from then on.
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
                // What cannot be read cannot be gone by.
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

    /// Reads the whole catalog and shows it, unless it is one that lost something: the next look will say so.
    async fn load(&mut self, session: &mut Session) -> Result<Arc<Catalog>, Failure> {
        match self.read(session).await? {
            Read::Whole(catalog) => Ok(catalog),
            Read::Damaged { damage, .. } => Err(Failure::Refused(StoreError::HeldBack(format!(
                "the metadata store lost something ({}): see GET /api/v1/status",
                words::damage(&damage)
            )))),
        }
    }

    /// Reads all documents, and shows them if they are what was written and nothing is lost by it.
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

    /// What readers see.
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
        // Whoever shows it says himself what is down.
        let why = match outage {
            StoreError::Unavailable(why) => why.clone(),
            other => other.to_string(),
        };
        self.pulse.found(StoreHealth::Down(why));
    }
}

/// Tells a caller how its request ended, and the follower whether the session did.
fn conclude<T>(reply: Reply<T>, result: Result<T, Failure>) -> Result<(), StoreError> {
    let (answer, step) = match result {
        Ok(done) => (Ok(done), Ok(())),
        Err(failure) => {
            let step = failure.outage().map_or(Ok(()), Err);
            (Err(failure.into_error()), step)
        }
    };
    // That nobody waits for the answer any more is fine.
    drop(reply.send(answer));
    step
}

/// Goes on after what Redis refused: the next look tries it again.
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
    /// Does `work`, and answers with `outage` whoever asks meanwhile.
    async fn refuse_while<T>(&mut self, outage: &StoreError, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        loop {
            tokio::select! {
                done = &mut work => return done,
                Some(request) = self.requests.recv() => request.refuse(outage.clone()),
                // That nobody waits for the answer any more is fine.
                Some(beat) = self.beats.recv() => drop(beat.reply.send(Err(outage.clone()))),
            }
        }
    }
}

/// Frontends that lost Redis together do not come back in step.
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

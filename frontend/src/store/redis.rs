//! The Redis store: one Redis (6 or later, Valkey, or a managed one) for all frontends of a cluster.
//!
//! Everything of a cluster is under one hash tag, so that it lives on one node of a Redis cluster, and can
//! be read by a person:
//!
//! | key | is |
//! |---|---|
//! | `{skysail:CLUSTER}:generation` | a hash: `incarnation`, `number`, `schema` |
//! | `{skysail:CLUSTER}:applications` | a hash: name → JSON |
//! | `{skysail:CLUSTER}:models` | a hash: name → JSON, with all versions |
//! | `{skysail:CLUSTER}:settings` | a hash: `cluster` → JSON, the settings of the cluster, secrets among them |
//! | `{skysail:CLUSTER}:query-block` | the last block of query ids that was handed out |
//! | `{skysail:CLUSTER}:frontends` | a hash: frontend → what it announced, as JSON |
//! | `{skysail:CLUSTER}:frontend-expiries` | a sorted set: frontend → when that expires |
//! | `{skysail:CLUSTER}:lease` | a hash: `holder`, `number`, `until`: the control role that acts |
//! | `{skysail:CLUSTER}:held-back` | a hash: the newest generation that a frontend holds and Redis lost |
//! | `{skysail:CLUSTER}:restore` | there for some seconds: the wish that it be written back |
//! | `{skysail:CLUSTER}:changes` | a channel: says after each change that there was one |
//!
//! Times are of the server's clock, in milliseconds since the Unix epoch. A user needs no more than
//! `~{skysail:CLUSTER}:* &{skysail:CLUSTER}:* +@read +@write +@connection +@transaction +eval +time +publish
//! +subscribe`.
//!
//! One task, the follower, owns the connection and the snapshot. Writers send it their requests, so a
//! commit, its snapshot and the snapshots of other frontends' commits are published in one order. A message
//! on the channel wakes it, the comparison of generations decides, and a look every second catches what a
//! lost message did not say. (Who edits documents by hand says so with
//! `HINCRBY {skysail:CLUSTER}:generation number 1`.)
//!
//! While Redis is away or hangs, requests are answered with the reason at once, readers keep the last
//! snapshot, and the follower tries again by itself. A Redis that lost something is not followed until a
//! person decides (`setback`).

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use skysail_core::backoff::Backoff;
use skysail_core::catalog::{Catalog, Change, Generation};
use skysail_core::cluster::Lease;
use skysail_proto::ids::ClusterName;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::task::AbortOnDropHandle;
use tracing::{debug, error, info, warn};

use self::announcements::Announcements;
use self::endpoint::{Endpoint, Failure};
use self::lease::{LeaseDesk, Line};
use self::session::Session;
use self::setback::{Seen, Setback};
use super::document::{first_query_block, fresh_incarnation};
use super::{Announced, Leased, MetadataStore, Settle, StoreError, StoreHealth};

mod announcements;
mod endpoint;
mod lease;
mod session;
mod setback;

pub use self::endpoint::InvalidUrl;

/// How often the generation is compared although no message came.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// The first pause before Redis is tried again, and the longest.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));
/// Requests that wait for the follower, of each kind. When it is full callers wait to hand theirs in; not for
/// long, since the follower answers each within Redis' response timeout, and all at once when Redis is away.
const REQUESTS: usize = 64;
/// How long another frontend is asked to write back what Redis lost. One that holds the newest does at its
/// next look; in the second half of the time whoever holds anything does.
const RESTORE_WISH: Duration = Duration::from_secs(8);

/// A store in Redis.
pub struct RedisStore {
    requests: mpsc::Sender<Request>,
    beats: mpsc::Sender<Beat>,
    lease: LeaseDesk,
    catalog: watch::Receiver<Option<Arc<Catalog>>>,
    health: watch::Receiver<StoreHealth>,
    announced: watch::Receiver<Announced>,
    _follower: AbortOnDropHandle<()>,
}

type Reply<T> = oneshot::Sender<Result<T, StoreError>>;

/// What callers ask of the follower.
enum Request {
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
}

/// An announcement, or its end. It has a time to live, so it goes before requests.
struct Beat {
    id: String,
    document: Option<String>,
    ttl: Duration,
    reply: Reply<()>,
}

/// How far a settlement came.
enum Settling {
    /// It is done; this is followed now.
    Done(Arc<Catalog>),
    /// Another frontend holds what is to be restored, and was asked to.
    Wished,
}

impl RedisStore {
    /// Connects to `redis://[[USER]:PASSWORD@]HOST[:PORT][/DB]` in the background, for as long as it takes;
    /// [`MetadataStore::health`] says how that goes. With `rediss://` by TLS, to a server whose certificate a
    /// public authority signed.
    ///
    /// Must be called on a tokio runtime.
    pub fn connect(url: &str, cluster: &ClusterName) -> Result<Self, InvalidUrl> {
        Ok(Self::follow(Endpoint::new(url, cluster, None)?))
    }

    /// Like [`Self::connect`] to a `rediss://` URL, but trusts these certificates (PEM) and no others.
    pub fn connect_trusting(url: &str, cluster: &ClusterName, authority: &str) -> Result<Self, InvalidUrl> {
        Ok(Self::follow(Endpoint::new(url, cluster, Some(authority))?))
    }

    fn follow(endpoint: Endpoint) -> Self {
        let (requests, requests_received) = mpsc::channel(REQUESTS);
        let (beats, beats_received) = mpsc::channel(REQUESTS);
        let (catalog, catalog_seen) = watch::channel(None);
        let (health, health_seen) = watch::channel(StoreHealth::Connecting);
        let (line, line_seen) = watch::channel(None);
        let announcements = Announcements::default();
        let announced = announcements.watch();
        let follower = Follower {
            endpoint,
            inbox: Inbox {
                requests: requests_received,
                beats: beats_received,
            },
            line,
            catalog,
            health,
            announcements,
            setback: None,
            highest_block: None,
        };
        Self {
            requests,
            beats,
            lease: LeaseDesk::new(line_seen),
            catalog: catalog_seen,
            health: health_seen,
            announced,
            _follower: AbortOnDropHandle::new(tokio::spawn(follower.run())),
        }
    }

    async fn ask<T>(&self, request: impl FnOnce(Reply<T>) -> Request) -> Result<T, StoreError> {
        let (reply, answer) = oneshot::channel();
        self.requests.send(request(reply)).await.map_err(|_| closed())?;
        answer.await.map_err(|_| closed())?
    }

    async fn beat(&self, id: &str, document: Option<String>, ttl: Duration) -> Result<(), StoreError> {
        let (reply, answer) = oneshot::channel();
        let beat = Beat {
            id: id.to_owned(),
            document,
            ttl,
            reply,
        };
        self.beats.send(beat).await.map_err(|_| closed())?;
        answer.await.map_err(|_| closed())?
    }

    /// Waits until the frontend that was asked to has written back what it holds.
    async fn restored(&self) -> Result<Arc<Catalog>, StoreError> {
        let mut health = self.health.clone();
        let followed = health.wait_for(|health| *health == StoreHealth::Up);
        match tokio::time::timeout(RESTORE_WISH, followed).await {
            Ok(Ok(_)) => self.catalog.borrow().clone().ok_or_else(closed),
            Ok(Err(_)) => Err(closed()),
            Err(_) => Err(StoreError::HeldBack(format!(
                "no frontend that runs wrote back what the metadata store lost within {} s: it seems that none holds \
                 it any more; `skysail cluster accept-empty` follows the store as it is",
                RESTORE_WISH.as_secs()
            ))),
        }
    }
}

fn closed() -> StoreError {
    StoreError::Unavailable("the store is closed".into())
}

#[async_trait]
impl MetadataStore for RedisStore {
    async fn commit_under(
        &self,
        lease: Option<&Lease>,
        changes: Vec<Change>,
        expected: &Generation,
    ) -> Result<Arc<Catalog>, StoreError> {
        let (lease, expected) = (lease.cloned(), expected.clone());
        self.ask(|reply| Request::Commit {
            lease,
            changes,
            expected,
            reply,
        })
        .await
    }

    fn watch(&self) -> watch::Receiver<Option<Arc<Catalog>>> {
        self.catalog.clone()
    }

    fn health(&self) -> watch::Receiver<StoreHealth> {
        self.health.clone()
    }

    async fn next_query_block(&self) -> Result<u64, StoreError> {
        self.ask(|reply| Request::QueryBlock { reply }).await
    }

    async fn announce(&self, id: &str, document: String, ttl: Duration) -> Result<(), StoreError> {
        self.beat(id, Some(document), ttl).await
    }

    async fn withdraw(&self, id: &str) -> Result<(), StoreError> {
        self.beat(id, None, Duration::ZERO).await
    }

    fn announced(&self) -> watch::Receiver<Announced> {
        self.announced.clone()
    }

    async fn take_lease(&self, holder: &str, ttl: Duration) -> Result<Leased, StoreError> {
        self.lease.take(holder, ttl).await
    }

    async fn release_lease(&self, lease: &Lease) -> Result<(), StoreError> {
        self.lease.release(lease).await
    }

    async fn settle(&self, how: Settle) -> Result<Arc<Catalog>, StoreError> {
        match self.ask(|reply| Request::Settle { how, reply }).await? {
            Settling::Done(catalog) => Ok(catalog),
            Settling::Wished => self.restored().await,
        }
    }
}

impl Request {
    /// Answers without Redis. That nobody waits for the answer any more is fine.
    fn refuse(self, why: StoreError) {
        match self {
            Self::Commit { reply, .. } => drop(reply.send(Err(why))),
            Self::QueryBlock { reply } => drop(reply.send(Err(why))),
            Self::Settle { reply, .. } => drop(reply.send(Err(why))),
        }
    }
}

/// What waits for the follower.
struct Inbox {
    requests: mpsc::Receiver<Request>,
    beats: mpsc::Receiver<Beat>,
}

/// Owns the connection to Redis and the snapshot.
struct Follower {
    endpoint: Endpoint,
    inbox: Inbox,
    line: watch::Sender<Line>,
    catalog: watch::Sender<Option<Arc<Catalog>>>,
    health: watch::Sender<StoreHealth>,
    announcements: Announcements,
    /// What Redis lost, while it is not followed.
    setback: Option<Setback>,
    /// The highest query block this process was given: a Redis that lost its last writes does not get to
    /// give it, or one before it, once more.
    highest_block: Option<u64>,
}

impl Follower {
    /// One session after the other, with growing pauses between those that fail.
    async fn run(mut self) {
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
        if let Err(outage) = self.look(&mut session).await {
            return outage;
        }
        backoff.reset();
        let connection = session.connection();
        self.line
            .send_replace(Some(Ok((self.endpoint.clone(), connection))));
        let mut looks = interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let step = tokio::select! {
                // In this order: what has a time to live, and what ends doubts, before what can wait.
                biased;
                Some(beat) = self.inbox.beats.recv() => self.beat(&mut session, beat).await,
                _ = looks.tick() => self.look(&mut session).await,
                Some(request) = self.inbox.requests.recv() => self.answer(&mut session, request).await,
                () = session.woken() => self.look(&mut session).await,
            };
            if let Err(outage) = step {
                return outage;
            }
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
        }
    }

    async fn beat(&mut self, session: &mut Session, beat: Beat) -> Result<(), StoreError> {
        let announced = session
            .announce(&beat.id, beat.document.as_deref(), beat.ttl)
            .await;
        let shown = announced.map(|live| {
            if beat.document.is_none() {
                self.announcements.withdraw(&beat.id);
            }
            self.announcements.show(live, Instant::now());
        });
        conclude(beat.reply, shown)
    }

    async fn commit(
        &mut self,
        session: &mut Session,
        lease: Option<&Lease>,
        changes: &[Change],
        expected: Generation,
    ) -> Result<Arc<Catalog>, Failure> {
        self.refuse_a_setback()?;
        let generation = match session.commit(lease, changes, &expected).await {
            Ok(generation) => generation,
            Err(refused @ Failure::Refused(StoreError::Conflict { .. } | StoreError::HeldBack(_))) => {
                // Whoever tries again finds the snapshot that was in the way, or learns that it went back.
                self.look(session).await.map_err(Failure::Over)?;
                self.refuse_a_setback()?;
                return Err(refused);
            }
            Err(failure) => return Err(failure),
        };
        let current = self.shown();
        match current {
            Some(current) if current.generation == expected => {
                Ok(self.publish(current.with(changes, generation)))
            }
            // The writer knew of a snapshot that has not come here yet.
            _ => self.load(session).await,
        }
    }

    fn refuse_a_setback(&self) -> Result<(), Failure> {
        match &self.setback {
            None => Ok(()),
            Some(setback) => {
                let sentence = setback.sentence(self.shown().as_deref());
                Err(Failure::Refused(StoreError::HeldBack(sentence)))
            }
        }
    }

    async fn next_query_block(&mut self, session: &mut Session) -> Result<u64, Failure> {
        let start = first_query_block(Timestamp::now());
        let block = session.next_query_block(start, self.highest_block).await?;
        self.highest_block = self.highest_block.max(Some(block));
        Ok(block)
    }

    /// Compares what Redis has with what is shown here, and follows it, unless it lost something.
    async fn look(&mut self, session: &mut Session) -> Result<(), StoreError> {
        let (seen, live) = session.look().await?;
        let held = self.shown().map(|catalog| catalog.generation.clone());
        match Setback::of(held.as_ref(), &seen) {
            None if held.as_ref() == Some(&seen.stored.generation) => self.follow(),
            None => match self.load(session).await {
                Ok(_) => self.follow(),
                failed => tolerate(failed)?,
            },
            Some(setback) => self.hold_back(session, setback, &seen).await?,
        }
        self.announcements.show(live, Instant::now());
        session.keep_subscribed().await;
        Ok(())
    }

    /// What is shown is what Redis has.
    fn follow(&mut self) {
        self.setback = None;
        let before = self.health.send_replace(StoreHealth::Up);
        if before != StoreHealth::Up {
            info!(redis = %self.endpoint, "the metadata store is followed");
        }
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
        let newest = held
            .as_ref()
            .is_some_and(|held| held.generation == setback.newest);
        if let Some(held) = held
            .as_ref()
            .filter(|_| newest && seen.held_back.as_ref() != Some(&setback.newest))
        {
            tolerate(session.hold_back(&seen.stored.generation, &held.generation).await)?;
        }
        let health = StoreHealth::WentBack(setback.sentence(held.as_deref()));
        self.health.send_if_modified(|current| {
            let changed = *current != health;
            if changed && let StoreHealth::WentBack(sentence) = &health {
                error!(redis = %self.endpoint, reason = sentence, "the metadata store is not followed");
                *current = health.clone();
            }
            changed
        });
        let is_wished = |left| setback.ours && (newest || left < RESTORE_WISH / 2);
        self.setback = Some(setback.clone());
        match seen.wish {
            Some(left) if is_wished(left) => {
                tolerate(self.write_settlement(session, &setback, Settle::Restore).await)
            }
            _ => Ok(()),
        }
    }

    async fn settle(&mut self, session: &mut Session, how: Settle) -> Result<Settling, Failure> {
        self.look(session).await.map_err(Failure::Over)?;
        let held = self.shown().map(|catalog| catalog.generation.clone());
        let setback = match (self.setback.clone(), how) {
            (Some(setback), Settle::Restore) if held.as_ref() != Some(&setback.newest) => {
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
            self.look(session).await.map_err(Failure::Over)?;
        }
        settled.map(Settling::Done)
    }

    /// Ends the doubt in Redis, and follows it from then on.
    async fn write_settlement(
        &mut self,
        session: &mut Session,
        setback: &Setback,
        how: Settle,
    ) -> Result<Arc<Catalog>, Failure> {
        let held = self.shown();
        let settled = setback.settled(held.as_ref().map(|held| &held.generation), fresh_incarnation());
        let documents = match (how, &held) {
            (Settle::Restore, Some(held)) => documents_of(held),
            _ => Vec::new(),
        };
        session
            .settle(&setback.stored.generation, &settled, how, &documents)
            .await?;
        info!(
            ?how,
            generation = settled.generation.number,
            "the metadata store was settled"
        );
        let catalog = self.load(session).await?;
        self.follow();
        Ok(catalog)
    }

    /// Reads the whole catalog and shows it, unless it is one that lost something: the next look will say so.
    async fn load(&mut self, session: &mut Session) -> Result<Arc<Catalog>, Failure> {
        let (stored, catalog) = session.snapshot().await.map_err(Failure::Over)?;
        match self.shown() {
            Some(held) if stored.lost(&held.generation) => Err(Failure::Refused(StoreError::HeldBack(
                "the metadata store went back while it was read: see GET /api/v1/status".into(),
            ))),
            _ => Ok(self.publish(catalog)),
        }
    }

    /// What readers see.
    fn shown(&self) -> Option<Arc<Catalog>> {
        self.catalog.borrow().clone()
    }

    /// Shows a snapshot to the readers.
    fn publish(&self, catalog: Catalog) -> Arc<Catalog> {
        let next = Arc::new(catalog);
        self.catalog.send_replace(Some(Arc::clone(&next)));
        next
    }

    fn report(&self, outage: &StoreError) {
        self.line.send_replace(Some(Err(outage.clone())));
        // Whoever shows it says himself what is down.
        let why = match outage {
            StoreError::Unavailable(why) => why.clone(),
            other => other.to_string(),
        };
        let health = StoreHealth::Down(why);
        self.health.send_if_modified(|current| {
            let changed = *current != health;
            if changed {
                warn!(reason = %outage, "metadata store lost; trying again");
                *current = health;
            }
            changed
        });
    }
}

/// Tells a caller how its request ended, and the follower whether the session did.
fn conclude<T>(reply: Reply<T>, result: Result<T, Failure>) -> Result<(), StoreError> {
    let (answer, step) = match result {
        Ok(done) => (Ok(done), Ok(())),
        Err(Failure::Refused(error)) => (Err(error), Ok(())),
        Err(Failure::Over(outage)) => (Err(outage.clone()), Err(outage)),
    };
    // That nobody waits for the answer any more is fine.
    drop(reply.send(answer));
    step
}

/// Goes on after what Redis refused: the next look tries it again.
fn tolerate<T>(done: Result<T, Failure>) -> Result<(), StoreError> {
    match done {
        Ok(_) => Ok(()),
        Err(Failure::Refused(error)) => {
            debug!(%error, "redis refused; the next look tries again");
            Ok(())
        }
        Err(Failure::Over(outage)) => Err(outage),
    }
}

/// Everything of a snapshot, as changes to an empty one.
fn documents_of(catalog: &Catalog) -> Vec<Change> {
    let applications = catalog.applications.values();
    let models = catalog.models.values();
    applications
        .map(|application| Change::PutApplication(application.as_ref().clone()))
        .chain(models.map(|model| Change::PutModel(model.as_ref().clone())))
        .chain([Change::PutSettings(catalog.settings.as_ref().clone())])
        .collect()
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

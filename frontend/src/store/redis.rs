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
//! | `{skysail:CLUSTER}:query-block` | the last block of query ids that was handed out |
//! | `{skysail:CLUSTER}:changes` | a channel: says after each commit that there was one |
//!
//! One task, the follower, owns the connection and the snapshot. Writers send it their requests, so a
//! commit, its snapshot and the snapshots of other frontends' commits are published in one order. A message
//! on the channel wakes it, the comparison of generations decides, and a look every second catches what a
//! lost message did not say. (Who edits documents by hand says so with
//! `HINCRBY {skysail:CLUSTER}:generation number 1`.)
//!
//! While Redis is away or hangs, requests are answered with the reason at once, readers keep the last
//! snapshot, and the follower tries again by itself.

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
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::task::AbortOnDropHandle;
use tracing::{info, warn};

use self::session::{Endpoint, Failure, Session};
use super::document::first_query_block;
use super::local::Local;
use super::{Announced, Leased, MetadataStore, Settle, StoreError, StoreHealth};

mod session;

pub use self::session::InvalidUrl;

/// How often the generation is compared although no message came.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// The first pause before Redis is tried again, and the longest.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));
/// Requests that wait for the follower. When it is full callers wait to hand theirs in; not for long, since
/// the follower answers each within Redis' response timeout, and all at once when Redis is away.
const REQUESTS: usize = 64;

/// A store in Redis.
pub struct RedisStore {
    requests: mpsc::Sender<Request>,
    catalog: watch::Receiver<Option<Arc<Catalog>>>,
    health: watch::Receiver<StoreHealth>,
    /// Interim: what belongs in Redis.
    local: Local,
    _follower: AbortOnDropHandle<()>,
}

/// What callers ask of the follower.
enum Request {
    Commit {
        changes: Vec<Change>,
        expected: Generation,
        reply: oneshot::Sender<Result<Arc<Catalog>, StoreError>>,
    },
    QueryBlock {
        reply: oneshot::Sender<Result<u64, StoreError>>,
    },
}

impl RedisStore {
    /// Connects to `redis://[[USER]:PASSWORD@]HOST[:PORT][/DB]` in the background, for as long as it takes;
    /// [`MetadataStore::health`] says how that goes.
    ///
    /// Must be called on a tokio runtime.
    pub fn connect(url: &str, cluster: &ClusterName) -> Result<Self, InvalidUrl> {
        let endpoint = Endpoint::new(url, cluster)?;
        let (requests, received) = mpsc::channel(REQUESTS);
        let (catalog, catalog_seen) = watch::channel(None);
        let (health, health_seen) = watch::channel(StoreHealth::Connecting);
        let follower = Follower {
            endpoint,
            requests: received,
            catalog,
            health,
            highest_block: None,
        };
        Ok(Self {
            requests,
            catalog: catalog_seen,
            health: health_seen,
            local: Local::default(),
            _follower: AbortOnDropHandle::new(tokio::spawn(follower.run())),
        })
    }

    async fn ask<T>(
        &self,
        request: impl FnOnce(oneshot::Sender<Result<T, StoreError>>) -> Request,
    ) -> Result<T, StoreError> {
        let gone = || StoreError::Unavailable("the store is closed".into());
        let (reply, answer) = oneshot::channel();
        self.requests.send(request(reply)).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }
}

#[async_trait]
impl MetadataStore for RedisStore {
    async fn commit_under(
        &self,
        _lease: Option<&Lease>,
        changes: Vec<Change>,
        expected: &Generation,
    ) -> Result<Arc<Catalog>, StoreError> {
        let expected = expected.clone();
        self.ask(|reply| Request::Commit {
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

    async fn announce(&self, id: &str, document: String, _ttl: Duration) -> Result<(), StoreError> {
        self.local.announce(id, document);
        Ok(())
    }

    async fn withdraw(&self, id: &str) -> Result<(), StoreError> {
        self.local.withdraw(id);
        Ok(())
    }

    fn announced(&self) -> watch::Receiver<Announced> {
        self.local.announced()
    }

    async fn take_lease(&self, holder: &str, _ttl: Duration) -> Result<Leased, StoreError> {
        Ok(self.local.take_lease(holder))
    }

    async fn release_lease(&self, _lease: &Lease) -> Result<(), StoreError> {
        Ok(())
    }

    async fn settle(&self, _how: Settle) -> Result<Arc<Catalog>, StoreError> {
        Err(StoreError::HeldBack(
            "the metadata store has lost nothing: there is nothing to settle".into(),
        ))
    }
}

impl Request {
    /// Answers without Redis. That nobody waits for the answer any more is fine.
    fn refuse(self, why: StoreError) {
        match self {
            Self::Commit { reply, .. } => drop(reply.send(Err(why))),
            Self::QueryBlock { reply } => drop(reply.send(Err(why))),
        }
    }
}

/// Owns the connection to Redis and the snapshot.
struct Follower {
    endpoint: Endpoint,
    requests: mpsc::Receiver<Request>,
    catalog: watch::Sender<Option<Arc<Catalog>>>,
    health: watch::Sender<StoreHealth>,
    /// The highest query block this process was given: a Redis that lost its last writes does not get to
    /// give it, or one before it, once more.
    highest_block: Option<u64>,
}

impl Follower {
    /// One session after the other, with growing pauses between those that fail.
    async fn run(mut self) {
        let mut backoff = Backoff::new(RETRY.0, RETRY.1);
        // Requests made before the first session wait for how that goes.
        let mut opened = self.endpoint.open().await;
        loop {
            let outage = match opened {
                Ok((session, catalog)) => {
                    backoff.reset();
                    self.serve(session, catalog).await
                }
                Err(outage) => outage,
            };
            self.report(&outage);
            let endpoint = self.endpoint.clone();
            let pause = jittered(backoff.pause());
            let retry = async {
                tokio::time::sleep(pause).await;
                endpoint.open().await
            };
            opened = refuse_while(&mut self.requests, &outage, retry).await;
        }
    }

    /// Serves requests and follows the catalog until the session ends, and says why it did.
    async fn serve(&mut self, mut session: Session, first: Catalog) -> StoreError {
        self.publish(first);
        if self.health.send_replace(StoreHealth::Up) != StoreHealth::Up {
            info!(redis = %self.endpoint, "connected to the metadata store");
        }
        let mut looks = interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let step = tokio::select! {
                Some(request) = self.requests.recv() => self.answer(&mut session, request).await,
                () = session.woken() => self.look(&mut session).await,
                _ = looks.tick() => self.look(&mut session).await,
            };
            if let Err(outage) = step {
                return outage;
            }
        }
    }

    async fn answer(&mut self, session: &mut Session, request: Request) -> Result<(), StoreError> {
        match request {
            Request::Commit {
                changes,
                expected,
                reply,
            } => conclude(reply, self.commit(session, &changes, expected).await),
            Request::QueryBlock { reply } => conclude(reply, self.next_query_block(session).await),
        }
    }

    async fn commit(
        &mut self,
        session: &mut Session,
        changes: &[Change],
        expected: Generation,
    ) -> Result<Arc<Catalog>, Failure> {
        let generation = match session.commit(changes, &expected).await {
            Ok(generation) => generation,
            Err(conflict @ Failure::Refused(StoreError::Conflict { .. })) => {
                // Whoever tries again finds the snapshot that was in the way.
                self.look(session).await.map_err(Failure::Over)?;
                return Err(conflict);
            }
            Err(failure) => return Err(failure),
        };
        let current = self.catalog.borrow().clone();
        match current {
            Some(current) if current.generation == expected => {
                Ok(self.publish(current.with(changes, generation)))
            }
            // The writer knew of a snapshot that has not come here yet.
            _ => self.load(session).await.map_err(Failure::Over),
        }
    }

    async fn next_query_block(&mut self, session: &mut Session) -> Result<u64, Failure> {
        let start = first_query_block(Timestamp::now());
        let block = session.next_query_block(start, self.highest_block).await?;
        self.highest_block = self.highest_block.max(Some(block));
        Ok(block)
    }

    /// Compares the generation, and loads the snapshot if it is another one.
    async fn look(&mut self, session: &mut Session) -> Result<(), StoreError> {
        let stored = session.generation().await?;
        let known = self.catalog.borrow().as_ref().map(|c| c.generation.clone());
        if known.as_ref() != Some(&stored) {
            self.load(session).await?;
        }
        session.keep_subscribed().await;
        Ok(())
    }

    async fn load(&mut self, session: &mut Session) -> Result<Arc<Catalog>, StoreError> {
        let catalog = session.snapshot().await?;
        Ok(self.publish(catalog))
    }

    /// Shows a snapshot to the readers.
    fn publish(&self, catalog: Catalog) -> Arc<Catalog> {
        let next = Arc::new(catalog);
        let before = self.catalog.send_replace(Some(Arc::clone(&next)));
        if let Some(before) = before {
            warn_of_setback(&before.generation, &next.generation);
        }
        next
    }

    fn report(&self, outage: &StoreError) {
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
fn conclude<T>(
    reply: oneshot::Sender<Result<T, StoreError>>,
    result: Result<T, Failure>,
) -> Result<(), StoreError> {
    let (answer, step) = match result {
        Ok(done) => (Ok(done), Ok(())),
        Err(Failure::Refused(error)) => (Err(error), Ok(())),
        Err(Failure::Over(outage)) => (Err(outage.clone()), Err(outage)),
    };
    // That nobody waits for the answer any more is fine.
    drop(reply.send(answer));
    step
}

/// Does `work`, and answers with `outage` whoever asks meanwhile.
async fn refuse_while<T>(
    requests: &mut mpsc::Receiver<Request>,
    outage: &StoreError,
    work: impl Future<Output = T>,
) -> T {
    let mut work = pin!(work);
    loop {
        tokio::select! {
            done = &mut work => return done,
            Some(request) = requests.recv() => request.refuse(outage.clone()),
        }
    }
}

/// Frontends that lost Redis together do not come back in step.
fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(0.5 + fastrand::f64() / 2.0)
}

/// Redis can lose acknowledged writes (a crash between two syncs, a failover, an old dump). The snapshot is
/// taken as it is, but somebody should know.
fn warn_of_setback(before: &Generation, after: &Generation) {
    if is_setback(before, after) {
        warn!(
            before.incarnation,
            before.number,
            after.incarnation,
            after.number,
            "the metadata store went back to another state: writes may be lost"
        );
    }
}

/// Whether a store that showed `before` must have lost something to show `after`.
fn is_setback(before: &Generation, after: &Generation) -> bool {
    let was_written = !before.incarnation.is_empty();
    was_written && (before.incarnation != after.incarnation || after.number < before.number)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn generation(incarnation: &str, number: u64) -> Generation {
        Generation {
            incarnation: incarnation.into(),
            number,
        }
    }

    #[test]
    fn only_a_store_that_lost_something_is_a_setback() {
        let written = generation("a", 7);
        assert!(!is_setback(&Generation::default(), &written), "the first write");
        assert!(!is_setback(&written, &generation("a", 9)), "writes of others");
        assert!(is_setback(&written, &generation("a", 6)), "an old dump");
        assert!(is_setback(&written, &generation("b", 8)), "another life");
        assert!(is_setback(&written, &Generation::default()), "an empty store");
    }

    #[test]
    fn a_pause_is_never_longer_than_it_should_be_nor_less_than_half() {
        let pause = Duration::from_millis(100);
        for _ in 0..1000 {
            let jittered = jittered(pause);
            assert!(jittered <= pause && jittered >= pause / 2, "{jittered:?}");
        }
    }
}

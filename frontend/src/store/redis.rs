//! The Redis store: one Redis (6 or later, Valkey, or a managed one) for all frontends of a cluster.
//!
//! All keys of a cluster share one hash tag, so they live on one node of a Redis cluster. A person can read
//! them:
//!
//! | key | content |
//! |---|---|
//! | `{skysail:CLUSTER}:generation` | a hash: `incarnation`, `number`, `schema` (the layout's number); `count` and `digest` prove the catalog whole |
//! | `{skysail:CLUSTER}:documents` | a hash: `kind/name` → JSON. `settings/cluster` holds secrets |
//! | `{skysail:CLUSTER}:query-block` | the last block of query ids that was handed out |
//! | `{skysail:CLUSTER}:frontends` | a hash: frontend → its announcement, as JSON |
//! | `{skysail:CLUSTER}:frontend-expiries` | a sorted set: frontend → when its announcement expires |
//! | `{skysail:CLUSTER}:lease` | a hash: `holder`, `number`, `until` of the control role's lease |
//! | `{skysail:CLUSTER}:held-back` | a hash: the newest generation that a frontend holds and Redis lost; `broken`: a stored generation that is not whole |
//! | `{skysail:CLUSTER}:restore` | exists for some seconds: the request to write the lost generation back |
//! | `{skysail:CLUSTER}:changes` | a channel: a message after each change |
//!
//! Times are the server's, in milliseconds since the Unix epoch. A user needs no more than
//! `~{skysail:CLUSTER}:* &{skysail:CLUSTER}:* +@read +@write +@connection +@transaction +eval +time +publish
//! +subscribe`.
//!
//! One task, the [`Follower`], owns the connection and the snapshot; the code that opens the store runs it.
//! Documents that are edited by hand do not match their digest. So nothing acts on them until
//! `skysail cluster accept-empty` confirms them.
//!
//! While Redis is away or hangs, requests are answered with the reason at once, readers keep the last snapshot,
//! and the follower keeps trying. A Redis that lost something is not followed until an operator decides
//! (`skysail_core::store`).

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use skysail_core::catalog::{Catalog, Change, Generation};
use skysail_core::cluster::Lease;
use skysail_core::store::RESTORE_WISH;
use skysail_proto::ids::ClusterName;
use tokio::sync::{mpsc, oneshot, watch};

use self::announcements::Announcements;
use self::endpoint::Endpoint;
use self::follower::{Announcement, Inbox, Reply, Request, Settling, Shows};
use self::lease::LeaseDesk;
use self::pulse::Pulse;
use super::{
    Announced, AnnouncementStore, CatalogStore, LeaseStore, Leased, QueryBlockStore, Settle, StoreError,
    StoreHealth,
};

mod announcements;
mod endpoint;
mod follower;
mod lease;
mod pulse;
mod session;

pub use self::endpoint::{InvalidUrl, host_of};
pub use self::follower::Follower;

/// Capacity of each queue of requests to the follower. When a queue is full, callers wait to enqueue. They do
/// not wait long: the follower answers each request within Redis' response timeout, and all at once when Redis
/// is away.
const REQUESTS: usize = 64;

/// A store in Redis.
pub struct RedisStore {
    requests: mpsc::Sender<Request>,
    beats: mpsc::Sender<Announcement>,
    lease: LeaseDesk,
    pulse: Arc<Pulse>,
    /// The follower's outputs. The store keeps these senders open, so that tasks which watch them do not end
    /// with the follower: an ended follower is then reported by its own name only.
    catalog: watch::Sender<Option<Arc<Catalog>>>,
    announced: watch::Sender<Announced>,
}

impl RedisStore {
    /// The store at `redis://[[USER]:PASSWORD@]HOST[:PORT][/DB]`, and the task that follows it. `rediss://`
    /// uses TLS and expects a certificate that a public authority signed.
    ///
    /// Nothing is sent to Redis before the follower runs. Once the follower is dropped, requests are refused.
    pub fn at(url: &str, cluster: &ClusterName) -> Result<(Self, Follower), InvalidUrl> {
        Ok(Self::with_follower(Endpoint::new(url, cluster, None)?))
    }

    /// Like [`Self::at`] with a `rediss://` URL, but trusts these certificates (PEM) and no others.
    pub fn at_trusting(
        url: &str,
        cluster: &ClusterName,
        authority: &str,
    ) -> Result<(Self, Follower), InvalidUrl> {
        Ok(Self::with_follower(Endpoint::new(url, cluster, Some(authority))?))
    }

    fn with_follower(endpoint: Endpoint) -> (Self, Follower) {
        let (requests, requests_received) = mpsc::channel(REQUESTS);
        let (beats, beats_received) = mpsc::channel(REQUESTS);
        let catalog = watch::Sender::new(None);
        let pulse = Arc::new(Pulse::new(endpoint.to_string()));
        let (line, line_seen) = watch::channel(None);
        let announcements = Announcements::default();
        let announced = announcements.shown();
        let inbox = Inbox {
            requests: requests_received,
            beats: beats_received,
        };
        let shows = Shows {
            line,
            catalog: catalog.clone(),
            announcements,
        };
        let follower = Follower::new(endpoint, inbox, Arc::clone(&pulse), shows);
        let store = Self {
            requests,
            beats,
            lease: LeaseDesk::new(line_seen, Arc::clone(&pulse)),
            pulse,
            catalog,
            announced,
        };
        (store, follower)
    }

    async fn ask<T>(&self, request: impl FnOnce(Reply<T>) -> Request) -> Result<T, StoreError> {
        let (reply, answer) = oneshot::channel();
        self.requests.send(request(reply)).await.map_err(|_| closed())?;
        answer.await.map_err(|_| closed())?
    }

    async fn beat(&self, id: &str, document: Option<String>, ttl: Duration) -> Result<(), StoreError> {
        let (reply, answer) = oneshot::channel();
        let beat = Announcement {
            id: id.to_owned(),
            document,
            ttl,
            reply,
        };
        self.beats.send(beat).await.map_err(|_| closed())?;
        answer.await.map_err(|_| closed())?
    }

    /// Waits until some frontend has written its snapshot back, as it was asked to.
    async fn restored(&self) -> Result<Arc<Catalog>, StoreError> {
        let mut health = self.pulse.watch();
        let followed =
            health.wait_for(|health| !matches!(health, StoreHealth::WentBack(_) | StoreHealth::Down(_)));
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
impl CatalogStore for RedisStore {
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
        self.catalog.subscribe()
    }

    fn health(&self) -> watch::Receiver<StoreHealth> {
        self.pulse.watch()
    }

    async fn settle(&self, how: Settle) -> Result<Arc<Catalog>, StoreError> {
        match self.ask(|reply| Request::Settle { how, reply }).await? {
            Settling::Done(catalog) => Ok(catalog),
            Settling::Wished => self.restored().await,
        }
    }

    async fn adopt(&self, incarnations: BTreeSet<String>) -> Result<Arc<Catalog>, StoreError> {
        self.ask(|reply| Request::Adopt { incarnations, reply }).await
    }
}

#[async_trait]
impl AnnouncementStore for RedisStore {
    async fn announce(&self, id: &str, document: String, ttl: Duration) -> Result<(), StoreError> {
        self.beat(id, Some(document), ttl).await
    }

    async fn withdraw(&self, id: &str) -> Result<(), StoreError> {
        self.beat(id, None, Duration::ZERO).await
    }

    fn announced(&self) -> watch::Receiver<Announced> {
        self.announced.subscribe()
    }
}

#[async_trait]
impl LeaseStore for RedisStore {
    async fn take_lease(&self, holder: &str, ttl: Duration) -> Result<Leased, StoreError> {
        self.lease.take(holder, ttl).await
    }

    async fn release_lease(&self, lease: &Lease) -> Result<(), StoreError> {
        self.lease.release(lease).await
    }
}

#[async_trait]
impl QueryBlockStore for RedisStore {
    async fn next_query_block(&self) -> Result<u64, StoreError> {
        self.ask(|reply| Request::QueryBlock { reply }).await
    }
}

//! The metadata store: where desired state lives.
//!
//! Four small traits with two implementations each. Both implementations pass one list of promises
//! (`conformance`, compiled for tests only) and share the format of documents (`document`).

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use skysail_core::catalog::{Catalog, Change, Generation};
use skysail_core::cluster::Lease;
use tokio::sync::watch;

#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
mod document;
pub mod embedded;
mod incarnation;
mod layout;
mod local;
mod query_block;
pub mod redis;
mod words;

/// The desired state that all frontends of a cluster share: the catalog and the operator's decisions about the
/// store.
#[async_trait]
pub trait CatalogStore: Send + Sync + 'static {
    /// Writes all of `changes` or none, if the store's generation still is `expected`.
    ///
    /// Once it returns, the write is as durable as this store can make it, and [`Self::watch`] already
    /// shows the snapshot that contains it.
    async fn commit(&self, changes: Vec<Change>, expected: &Generation) -> Result<Arc<Catalog>, StoreError> {
        self.commit_under(None, changes, expected).await
    }

    /// Like [`Self::commit`]. With a lease, the write succeeds only while that lease is the newest: a decision
    /// of an earlier control role must not take effect once another control role acts.
    async fn commit_under(
        &self,
        lease: Option<&Lease>,
        changes: Vec<Change>,
        expected: &Generation,
    ) -> Result<Arc<Catalog>, StoreError>;

    /// The newest snapshot and all later ones; `None` until the first snapshot was read.
    fn watch(&self) -> watch::Receiver<Option<Arc<Catalog>>>;

    /// Whether the store can be reached; if not, why.
    fn health(&self) -> watch::Receiver<StoreHealth>;

    /// Settles a store that lost something ([`StoreHealth::WentBack`]), for all frontends. Accepting a store
    /// that was never written starts its first incarnation. Returns the snapshot that is followed now.
    async fn settle(&self, how: Settle) -> Result<Arc<Catalog>, StoreError>;

    /// The path to which the last [`Self::settle`] moved an unreadable store file.
    fn set_aside(&self) -> Option<PathBuf> {
        None
    }

    /// Makes this store the successor of these other incarnations of the cluster's store. Containers started
    /// for them belong to this store from then on ([`Catalog::owns`]). Returns the snapshot that records it.
    async fn adopt(&self, incarnations: BTreeSet<String>) -> Result<Arc<Catalog>, StoreError>;
}

/// What the frontends of a cluster tell each other.
#[async_trait]
pub trait AnnouncementStore: Send + Sync + 'static {
    /// Tells the cluster's frontends what frontend `id` sees. The store forgets the announcement after `ttl`
    /// unless it is repeated. [`Self::announced`] shows it when this returns.
    async fn announce(&self, id: &str, document: String, ttl: Duration) -> Result<(), StoreError>;

    /// Removes the announcement of frontend `id`, which is shutting down.
    async fn withdraw(&self, id: &str) -> Result<(), StoreError>;

    /// The newest announcements, by frontend. They stay unchanged while the store cannot be reached, and for
    /// some seconds afterwards, so that all frontends have time to announce themselves again.
    fn announced(&self) -> watch::Receiver<Announced>;
}

/// The control role's lease: one frontend of a cluster holds it at a time.
#[async_trait]
pub trait LeaseStore: Send + Sync + 'static {
    /// Takes or renews the lease for `ttl`, or tells which other frontend holds it. A store that lost something
    /// or refuses writes only renews the lease.
    async fn take_lease(&self, holder: &str, ttl: Duration) -> Result<Leased, StoreError>;

    /// Gives a lease back before it ends. If another frontend holds it by now, nothing changes.
    async fn release_lease(&self, lease: &Lease) -> Result<(), StoreError>;
}

/// The cluster's counter of query-id blocks.
#[async_trait]
pub trait QueryBlockStore: Send + Sync + 'static {
    /// Takes the next number of the counter. No number is ever given twice.
    async fn next_query_block(&self) -> Result<u64, StoreError>;
}

/// All four traits together, as a store is opened. Consumers name the trait that they use.
pub trait MetadataStore: CatalogStore + AnnouncementStore + LeaseStore + QueryBlockStore {}

impl<S: CatalogStore + AnnouncementStore + LeaseStore + QueryBlockStore> MetadataStore for S {}

/// The frontends' announcements, by frontend id.
pub type Announced = Arc<BTreeMap<String, String>>;

/// The answer to a request for the control role's lease.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Leased {
    /// The caller holds the lease.
    Held(Lease),
    /// The frontend of this id holds the lease.
    HeldBy(String),
}

/// How to settle a store that lost something.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Settle {
    /// Write back the newest snapshot that a frontend holds.
    Restore,
    /// Follow the store's content as it is.
    Accept,
}

/// Why the store did not carry out a request.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// Another writer was first: read, check and write again.
    #[error("the catalog changed meanwhile: it is at generation {}, not {}", .actual.number, .expected.number)]
    Conflict {
        /// The generation that the writer had read.
        expected: Generation,
        /// The generation that the store is at.
        actual: Generation,
    },
    /// The store cannot be reached; as far as is known, nothing was written.
    #[error("the metadata store cannot be reached: {0}")]
    Unavailable(String),
    /// The store answers but refuses the write; the text is its own. Nothing was written.
    #[error("the metadata store refuses writes: {0}")]
    Refuses(String),
    /// The store was sent a write and did not answer.
    #[error(
        "the metadata store did not answer, so the change may have been carried out: look (`skysail status`, \
         `skysail model show NAME`) before you ask again: {0}"
    )]
    Unanswered(String),
    /// The writer no longer holds the lease of this write; the text says who does.
    #[error("the control role's lease {0}: nothing was written")]
    Fenced(String),
    /// The store lost something, and an operator has to settle it.
    #[error("{0}")]
    HeldBack(String),
    /// The store lost nothing.
    #[error("the metadata store has lost nothing: there is nothing to settle")]
    NothingToSettle,
    /// The store's content cannot be read.
    #[error("the metadata store holds something this version cannot read: {0}")]
    Corrupt(String),
}

/// Whether the store can be reached.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum StoreHealth {
    /// The store was not asked yet.
    Connecting,
    /// The store answers.
    Up,
    /// The store works but answers slowly; the text is a sentence.
    Slow(String),
    /// The store can be read but refuses writes, so no frontend can act as the control role. The text is the
    /// store's own.
    RefusesWrites(String),
    /// The store does not answer; queries continue with the last snapshot.
    Down(String),
    /// The store answers, but it lost something that this frontend's snapshot has: it is empty, or at an older
    /// generation. It is not followed until an operator settles it ([`CatalogStore::settle`]). The text is a
    /// sentence.
    WentBack(String),
}

impl StoreHealth {
    /// Whether the store carries out all requests.
    pub fn is_up(&self) -> bool {
        matches!(self, Self::Up | Self::Slow(_))
    }

    /// The store's problem, in a sentence that names the store.
    pub fn problem(&self) -> Option<String> {
        match self {
            Self::Connecting | Self::Up => None,
            Self::Slow(why) => Some(format!("the metadata store is slow: {why}")),
            Self::RefusesWrites(why) => Some(format!(
                "the metadata store refuses writes; changes, and another frontend's beginning to act as the control \
                 role, wait until it takes them, and what runs goes on: {why}"
            )),
            Self::Down(why) => Some(format!("the metadata store is away: {why}")),
            // The sentence names the store already.
            Self::WentBack(sentence) => Some(sentence.clone()),
        }
    }
}

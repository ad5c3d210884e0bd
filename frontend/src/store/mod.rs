//! The metadata store: where desired state lives.
//!
//! Four small traits, two implementations of each, one list of promises that both are held to (`conformance`,
//! compiled for tests only). How documents are written down is shared by both (`document`).

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

/// Desired state, shared by all frontends of a cluster: the catalog, and what a person decides about it.
#[async_trait]
pub trait CatalogStore: Send + Sync + 'static {
    /// Writes all of `changes` or none, if the store's generation still is `expected`.
    ///
    /// Once it returns, the write is as durable as this store can make it, and [`Self::watch`] already
    /// shows the snapshot that contains it.
    async fn commit(&self, changes: Vec<Change>, expected: &Generation) -> Result<Arc<Catalog>, StoreError> {
        self.commit_under(None, changes, expected).await
    }

    /// The same; with a lease, only while that lease is the newest: what a control role decides is worth
    /// nothing once another acts.
    async fn commit_under(
        &self,
        lease: Option<&Lease>,
        changes: Vec<Change>,
        expected: &Generation,
    ) -> Result<Arc<Catalog>, StoreError>;

    /// The newest snapshot, and every one after it; `None` until the first was read.
    fn watch(&self) -> watch::Receiver<Option<Arc<Catalog>>>;

    /// Whether the store can be reached, and why not.
    fn health(&self) -> watch::Receiver<StoreHealth>;

    /// Decides what to do about a store that lost something ([`StoreHealth::WentBack`]), for all frontends;
    /// accepting one that was never written makes it one that was. Returns the snapshot that is followed now.
    async fn settle(&self, how: Settle) -> Result<Arc<Catalog>, StoreError>;

    /// Where the last [`Self::settle`] moved a file that it could not read.
    fn set_aside(&self) -> Option<PathBuf> {
        None
    }

    /// Takes the place of these other incarnations of the cluster's store as well: what was started for them is this
    /// one's from then on ([`Catalog::owns`]). Returns the snapshot that says so.
    async fn adopt(&self, incarnations: BTreeSet<String>) -> Result<Arc<Catalog>, StoreError>;
}

/// What the frontends of a cluster tell each other.
#[async_trait]
pub trait AnnouncementStore: Send + Sync + 'static {
    /// Tells the cluster's frontends what frontend `id` sees; forgotten after `ttl` unless told again.
    /// [`Self::announced`] shows it when this returns.
    async fn announce(&self, id: &str, document: String, ttl: Duration) -> Result<(), StoreError>;

    /// Takes an announcement back: its frontend is going.
    async fn withdraw(&self, id: &str) -> Result<(), StoreError>;

    /// The newest announcements, by frontend. While the store cannot be reached they stay as they were, and
    /// for some seconds after it came back, until all had the time to announce themselves again.
    fn announced(&self) -> watch::Receiver<Announced>;
}

/// The control role's lease: one frontend of a cluster has it at a time.
#[async_trait]
pub trait LeaseStore: Send + Sync + 'static {
    /// Takes the lease for `ttl`, or renews it; tells who has it if it is another's. While the store lost
    /// something or refuses writes it is renewed only.
    async fn take_lease(&self, holder: &str, ttl: Duration) -> Result<Leased, StoreError>;

    /// Gives a lease back before its time. One that is another's by now is left alone.
    async fn release_lease(&self, lease: &Lease) -> Result<(), StoreError>;
}

/// The cluster's counter of query-id blocks.
#[async_trait]
pub trait QueryBlockStore: Send + Sync + 'static {
    /// Takes the next number of the counter; none is ever given twice.
    async fn next_query_block(&self) -> Result<u64, StoreError>;
}

/// All four in one place, as a store is opened. Consumers name the trait that they use.
pub trait MetadataStore: CatalogStore + AnnouncementStore + LeaseStore + QueryBlockStore {}

impl<S: CatalogStore + AnnouncementStore + LeaseStore + QueryBlockStore> MetadataStore for S {}

/// What frontends announced, by their ids.
pub type Announced = Arc<BTreeMap<String, String>>;

/// The answer to a wish for the control role's lease.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Leased {
    /// It is the asker's.
    Held(Lease),
    /// It is another's.
    HeldBy(String),
}

/// What to do about a store that lost something.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Settle {
    /// Write the newest snapshot that a frontend holds back to it.
    Restore,
    /// Follow it as it is.
    Accept,
}

/// Why the store did not do as asked.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// Somebody else wrote first: read again, check again, write again.
    #[error("the catalog changed meanwhile: it is at generation {}, not {}", .actual.number, .expected.number)]
    Conflict {
        /// What the writer had read.
        expected: Generation,
        /// What the store holds.
        actual: Generation,
    },
    /// It cannot be reached; nothing was written as far as is known.
    #[error("the metadata store cannot be reached: {0}")]
    Unavailable(String),
    /// It answers, and does not take the write; in its own words. Nothing was written.
    #[error("the metadata store refuses writes: {0}")]
    Refuses(String),
    /// It was sent a write and did not answer.
    #[error(
        "the metadata store did not answer, so the change may have been carried out: look (`skysail status`, \
         `skysail model show NAME`) before you ask again: {0}"
    )]
    Unanswered(String),
    /// The lease that the write was made under is the writer's no more; says whose it is.
    #[error("the control role's lease {0}: nothing was written")]
    Fenced(String),
    /// It lost something, and a person has to decide.
    #[error("{0}")]
    HeldBack(String),
    /// It lost nothing.
    #[error("the metadata store has lost nothing: there is nothing to settle")]
    NothingToSettle,
    /// What it holds cannot be understood.
    #[error("the metadata store holds something this version cannot read: {0}")]
    Corrupt(String),
}

/// Whether the store can be reached.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum StoreHealth {
    /// It was not asked yet.
    Connecting,
    /// It answers.
    Up,
    /// It does all that is asked, but takes long; in a sentence.
    Slow(String),
    /// It is read, but does not take writes: nobody can act as the control role; in its own words.
    RefusesWrites(String),
    /// It does not; queries go on from the last snapshot.
    Down(String),
    /// It answers, but it lost something that the snapshot held here has: it is empty, or of before. It is
    /// not followed until a person decides ([`CatalogStore::settle`]); in a sentence.
    WentBack(String),
}

impl StoreHealth {
    /// Whether it does all that is asked of it.
    pub fn is_up(&self) -> bool {
        matches!(self, Self::Up | Self::Slow(_))
    }

    /// What is wrong with it, in a sentence that names it.
    pub fn problem(&self) -> Option<String> {
        match self {
            Self::Connecting | Self::Up => None,
            Self::Slow(why) => Some(format!("the metadata store is slow: {why}")),
            Self::RefusesWrites(why) => Some(format!(
                "the metadata store refuses writes; changes, and another frontend's beginning to act as the control \
                 role, wait until it takes them, and what runs goes on: {why}"
            )),
            Self::Down(why) => Some(format!("the metadata store is away: {why}")),
            // It says so itself.
            Self::WentBack(sentence) => Some(sentence.clone()),
        }
    }
}

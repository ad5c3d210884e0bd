//! The metadata store: where desired state lives.
//!
//! One trait, two implementations, one list of promises that both are held to (`conformance`, compiled
//! for tests only). How documents are written down is shared by both (`document`).

use std::sync::Arc;

use async_trait::async_trait;
use skysail_core::catalog::{Catalog, Change, Generation};
use tokio::sync::watch;

#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
mod document;
pub mod embedded;
pub mod redis;

/// Desired state, shared by all frontends of a cluster.
#[async_trait]
pub trait MetadataStore: Send + Sync + 'static {
    /// Writes all of `changes` or none, if the store's generation still is `expected`.
    ///
    /// Once it returns, the write is as durable as this store can make it, and [`Self::watch`] already
    /// shows the snapshot that contains it.
    async fn commit(&self, changes: Vec<Change>, expected: &Generation) -> Result<Arc<Catalog>, StoreError>;

    /// The newest snapshot, and every one after it; `None` until the first was read.
    fn watch(&self) -> watch::Receiver<Option<Arc<Catalog>>>;

    /// Whether the store can be reached, and why not.
    fn health(&self) -> watch::Receiver<StoreHealth>;

    /// Takes the next number of the cluster's counter of query-id blocks; none is ever given twice.
    async fn next_query_block(&self) -> Result<u64, StoreError>;
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
    /// It does not; queries go on from the last snapshot.
    Down(String),
}

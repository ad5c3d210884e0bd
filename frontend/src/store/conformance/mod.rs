//! The promises of every store, as a list of checks that each implementation passes.
//!
//! A check panics, with a sentence, when the promise is broken. The list knows no test harness: unit tests call
//! [`check_all`], other tests make one test of each [`Promise`].

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::future::BoxFuture;
use skysail_core::catalog::{Catalog, Change, Generation};

use super::{CatalogStore, MetadataStore};

macro_rules! promises {
    ($($name:ident),* $(,)?) => {
        vec![$(Promise {
            name: stringify!($name),
            check: |store| Box::pin($name(store)),
        }),*]
    };
}

mod announcements;
mod catalog;
mod documents;
mod lease;
mod query_blocks;

/// The longest wait for a state that must come.
const PATIENCE: Duration = Duration::from_secs(10);

/// Makes stores to be checked.
#[async_trait]
pub trait StoreFactory: Send + Sync {
    /// A new store that was never written.
    async fn fresh(&self) -> Box<dyn TestedStore>;
}

/// One store, as several frontends see it.
#[async_trait]
pub trait TestedStore: Send {
    /// Another handle on the store. If the implementation can be shared, the handle belongs to another
    /// frontend.
    async fn handle(&self) -> Arc<dyn MetadataStore>;

    /// Closes the store and opens it again. All handles have been dropped.
    async fn reopen(&mut self);
}

/// One thing every store promises.
#[derive(Clone, Copy)]
pub struct Promise {
    /// The promise, in words.
    pub name: &'static str,
    check: fn(Box<dyn TestedStore>) -> BoxFuture<'static, ()>,
}

impl Promise {
    /// Checks the promise on a fresh store; panics if it is broken.
    pub async fn check(&self, factory: &dyn StoreFactory) {
        (self.check)(factory.fresh().await).await;
    }
}

/// Checks all promises one after the other, and panics with the names of those that are broken.
pub async fn check_all(factory: Arc<dyn StoreFactory>) {
    let mut broken = Vec::new();
    for promise in promises() {
        let factory = Arc::clone(&factory);
        let check = tokio::spawn(async move { promise.check(&*factory).await });
        if check.await.is_err() {
            broken.push(promise.name);
        }
    }
    assert!(broken.is_empty(), "broken promises: {broken:#?}");
}

/// The promises to each single frontend.
pub fn promises() -> Vec<Promise> {
    [
        catalog::promises(),
        query_blocks::promises(),
        announcements::promises(),
        lease::promises(),
    ]
    .concat()
}

/// The further promises of a store that several frontends can share: each handle is one frontend.
pub fn promises_to_several_frontends() -> Vec<Promise> {
    [
        announcements::promises_to_several_frontends(),
        lease::promises_to_several_frontends(),
    ]
    .concat()
}

/// Waits at most [`PATIENCE`] for a future that must complete.
async fn within<T>(what: &str, coming: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, coming).await {
        Ok(came) => came,
        Err(_) => panic!("waited {PATIENCE:?} in vain for {what}"),
    }
}

/// The handle's snapshot, as soon as it has one.
async fn shown(handle: &dyn CatalogStore) -> Arc<Catalog> {
    let mut watch = handle.watch();
    let first = within("the first snapshot", watch.wait_for(Option::is_some)).await;
    let shown = first.expect("the store is open").clone();
    shown.expect("it was waited for")
}

async fn commit(handle: &dyn CatalogStore, changes: Vec<Change>, expected: &Generation) -> Arc<Catalog> {
    let committed = within("a commit", handle.commit(changes, expected)).await;
    committed.unwrap_or_else(|error| panic!("a commit failed: {error}"))
}

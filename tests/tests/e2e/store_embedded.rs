//! The embedded store keeps what stores promise; what it promises besides is shown beside its code.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use async_trait::async_trait;
use skysail_frontend::store::MetadataStore;
use skysail_frontend::store::conformance::{StoreFactory, TestedStore, promises};
use skysail_frontend::store::embedded::EmbeddedStore;
use skysail_tests::suite::Suite;
use tempfile::TempDir;

/// With what every store promises.
pub(crate) fn keeps_promises(suite: Suite) -> Suite {
    promises().into_iter().fold(suite, |suite, promise| {
        let name = format!("store_embedded::{}", promise.name);
        suite.test(name, &[], async move || {
            let files = Files {
                folder: tempfile::tempdir().expect("a folder"),
                made: AtomicU32::new(0),
            };
            promise.check(&files).await;
        })
    })
}

/// Makes stores in one folder, which is removed with it.
struct Files {
    folder: TempDir,
    made: AtomicU32,
}

struct TestedFile {
    path: PathBuf,
    store: Option<EmbeddedStore>,
}

#[async_trait]
impl StoreFactory for Files {
    async fn fresh(&self) -> Box<dyn TestedStore> {
        let number = self.made.fetch_add(1, Ordering::Relaxed);
        let path = self.folder.path().join(format!("{number}/store.redb"));
        let store = Some(EmbeddedStore::open(&path).expect("opened"));
        Box::new(TestedFile { path, store })
    }
}

#[async_trait]
impl TestedStore for TestedFile {
    async fn handle(&self) -> Arc<dyn MetadataStore> {
        Arc::new(self.store.clone().expect("it is open"))
    }

    async fn reopen(&mut self) {
        drop(self.store.take());
        self.store = Some(EmbeddedStore::open(&self.path).expect("opened again"));
    }
}

//! Writes down what replicas told of versions that were registered without a signature. The control role that acts
//! writes, under its lease.
//!
//! Separate from the reconciler, because versions whose containers attach by themselves learn too, without a runtime.

use std::sync::Arc;
use std::time::Duration;

use skysail_core::catalog::Catalog;
use skysail_core::cluster::ClusterView;
use skysail_core::reconcile::learned;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::leadership::Leadership;
use crate::store::{CatalogStore, StoreError};

/// How soon to repeat a write that the store refused.
const RETRY: Duration = Duration::from_secs(1);

/// How often to look even without a change.
const TICK: Duration = Duration::from_secs(10);

/// Writes down the signatures that frontends learned.
pub(crate) struct Learning {
    /// Receives the signatures.
    pub store: Arc<dyn CatalogStore>,
    /// The views of all live frontends.
    pub views: watch::Receiver<Arc<ClusterView>>,
    /// Whether this frontend writes.
    pub leadership: Arc<Leadership>,
}

impl Learning {
    /// Runs until `shutdown`.
    pub(crate) async fn run(mut self, shutdown: CancellationToken) {
        let mut catalogs = self.store.watch();
        let mut acting = self.leadership.changes();
        loop {
            let catalog = catalogs.borrow_and_update().clone();
            let views = self.views.borrow_and_update().clone();
            acting.mark_unchanged();
            let look_again = self.pass(catalog, &views).await;
            // None of these channels closes before the frontend ends.
            tokio::select! {
                () = shutdown.cancelled() => return,
                Ok(()) = catalogs.changed() => {}
                Ok(()) = self.views.changed() => {}
                Ok(()) = acting.changed() => {}
                () = tokio::time::sleep(look_again) => {}
            }
        }
    }

    async fn pass(&self, catalog: Option<Arc<Catalog>>, cluster: &ClusterView) -> Duration {
        let (Some(lease), Some(catalog)) = (self.leadership.acting(), catalog) else {
            return TICK;
        };
        let changes = learned(&catalog, cluster);
        if changes.is_empty() {
            return TICK;
        }
        let count = changes.len();
        let written = self
            .store
            .commit_under(Some(&lease), changes, &catalog.generation)
            .await;
        match written {
            Ok(_) => info!(count, "signatures that replicas told were written down"),
            // The newer catalog is on its way here, and wakes the next pass.
            Err(StoreError::Conflict { .. }) => {}
            Err(error) => warn!(%error, "a signature that a replica told was not written down; trying again"),
        }
        RETRY
    }
}

#[cfg(test)]
mod tests {
    use skysail_core::catalog::{Change, Model};
    use skysail_core::cluster::{FrontendView, LearnedView};
    use skysail_proto::signature::{Signature, TensorSpec};

    use super::*;
    use crate::store::embedded::EmbeddedStore;

    #[tokio::test]
    async fn what_a_replica_told_at_one_frontend_is_written_down_for_all() {
        let folder = tempfile::tempdir().unwrap();
        let opened = EmbeddedStore::open(folder.path().join("metadata.redb")).unwrap();
        let store = Arc::new(opened);
        let empty = store.watch().borrow().clone().unwrap();
        let model = r#"{"name": "m", "current_version": "1", "versions": {"1":
            {"input_type": "tensors", "registered_at": "1970-01-01T00:00:00Z"}}}"#;
        let put = Change::put(serde_json::from_str::<Model>(model).unwrap());
        store.commit(vec![put], &empty.generation).await.unwrap();
        let leadership = Arc::new(Leadership::new(store.clone(), "f".into()));
        let shutdown = CancellationToken::new();
        tokio::spawn(leadership.clone().run(shutdown.clone()));

        let (views, seen) = watch::channel(Arc::default());
        let learning = Learning {
            store: store.clone(),
            views: seen,
            leadership: leadership.clone(),
        };
        tokio::spawn(learning.run(shutdown.clone()));
        let spec = |text: &str| text.parse::<TensorSpec>().unwrap();
        let signature = Signature::tensors([spec("x:FP32[4]")], [spec("p:FP32[3]")]).unwrap();
        let view = FrontendView {
            id: "a".into(),
            learned: vec![LearnedView {
                model: "m:1".parse().unwrap(),
                registered_at: jiff::Timestamp::UNIX_EPOCH,
                signature: signature.clone(),
                annotations: [("classes".to_owned(), "0, 1".to_owned())].into(),
            }],
            ..FrontendView::default()
        };
        views.send_replace(Arc::new(ClusterView::of([view])));
        let mut catalogs = store.watch();
        let written = catalogs.wait_for(|catalog| {
            let catalog = catalog.as_ref().expect("it was read");
            catalog.models["m"].versions["1"].spec.signature.is_declared()
        });
        let catalog = written.await.unwrap().clone().unwrap();
        let spec = &catalog.models["m"].versions["1"].spec;
        assert_eq!(spec.signature, signature);
        assert_eq!(spec.annotations["classes"], "0, 1");
        shutdown.cancel();
    }
}

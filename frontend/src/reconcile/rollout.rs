//! Ends rollouts. The control role that acts writes the end, under its lease.
//!
//! Separate from the reconciler, because versions whose containers attach by themselves are rolled out too,
//! without a runtime.

use std::sync::Arc;
use std::time::Duration;

use skysail_core::catalog::Catalog;
use skysail_core::cluster::ClusterView;
use skysail_core::reconcile::finished;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::report::Report;
use crate::leadership::Leadership;
use crate::store::{CatalogStore, StoreError};

/// How soon to repeat a write that the store refused.
const RETRY: Duration = Duration::from_secs(1);

/// How often to look even without a change.
const TICK: Duration = Duration::from_secs(10);

/// Ends rollouts once every query frontend has followed them.
pub(crate) struct Rollouts {
    /// Receives the ended rollouts.
    pub store: Arc<dyn CatalogStore>,
    /// The views of all live frontends.
    pub views: watch::Receiver<Arc<ClusterView>>,
    /// Whether this frontend writes.
    pub leadership: Arc<Leadership>,
    /// Receives whether this frontend acts.
    pub report: Arc<Report>,
}

impl Rollouts {
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
        let lease = self.leadership.acting();
        self.report.set_acting(lease.is_some());
        let (Some(lease), Some(catalog)) = (lease, catalog) else {
            return TICK;
        };
        let changes = finished(&catalog, cluster);
        if changes.is_empty() {
            return TICK;
        }
        let count = changes.len();
        let written = self
            .store
            .commit_under(Some(&lease), changes, &catalog.generation)
            .await;
        match written {
            Ok(_) => info!(count, "rollouts ended"),
            // The newer catalog is on its way here, and wakes the next pass.
            Err(StoreError::Conflict { .. }) => {}
            Err(error) => warn!(%error, "the end of a rollout was not written; trying again"),
        }
        RETRY
    }
}

#[cfg(test)]
mod tests {
    use skysail_core::catalog::{Change, Model, Rollout};
    use skysail_core::cluster::FrontendView;

    use super::*;
    use crate::store::embedded::EmbeddedStore;

    fn model() -> Model {
        let version = r#"{"input_type": "doubles", "registered_at": "1970-01-01T00:00:00Z"}"#;
        let model = format!(
            r#"{{"name": "m", "current_version": "2", "versions": {{"1": {version}, "2": {version}}}}}"#
        );
        let model: Model = serde_json::from_str(&model).unwrap();
        let from = "1".parse().unwrap();
        let rollout = Some(Rollout { from, replace: true });
        Model { rollout, ..model }
    }

    #[tokio::test]
    async fn a_rollout_ends_when_the_last_frontend_has_switched() {
        let folder = tempfile::tempdir().unwrap();
        let opened = EmbeddedStore::open(folder.path().join("metadata.redb")).unwrap();
        let store = Arc::new(opened);
        let empty = store.watch().borrow().clone().unwrap();
        let put = store.commit(vec![Change::put(model())], &empty.generation);
        let generation = put.await.unwrap().generation.clone();
        let leadership = Arc::new(Leadership::new(store.clone(), "f".into()));
        let shutdown = CancellationToken::new();
        tokio::spawn(leadership.clone().run(shutdown.clone()));

        let view = |id: &str, serving: &str| FrontendView {
            id: id.into(),
            rpc_addr: Some(format!("{id}:7000")),
            generation: generation.clone(),
            serving: [("m".parse().unwrap(), serving.parse().unwrap())].into(),
            ..FrontendView::default()
        };
        let (views, seen) = watch::channel(Arc::new(ClusterView::of([view("a", "2"), view("b", "1")])));
        let report = Arc::<Report>::default();
        let rollouts = Rollouts {
            store: store.clone(),
            views: seen,
            leadership: leadership.clone(),
            report: report.clone(),
        };
        let mut acts = leadership.changes();
        acts.wait_for(Option::is_some).await.unwrap();
        rollouts
            .pass(store.watch().borrow().clone(), &views.borrow())
            .await;
        assert!(report.acting());
        let mut catalogs = store.watch();
        assert!(catalogs.borrow().as_ref().unwrap().models["m"].rollout.is_some());

        tokio::spawn(rollouts.run(shutdown.clone()));
        views.send_replace(Arc::new(ClusterView::of([view("a", "2"), view("b", "2")])));
        let ended = catalogs.wait_for(|catalog| {
            let catalog = catalog.as_ref().expect("it was read");
            catalog.models["m"].rollout.is_none()
        });
        ended.await.unwrap();
        shutdown.cancel();
    }
}

//! Follows the catalog, and updates the query path's routes.

use std::sync::Arc;

use skysail_core::catalog::{Catalog, Generation};
use tokio::sync::watch;

use crate::metrics::Metrics;
use crate::model::ModelTable;
use crate::query::{QueryService, Routes};

/// Applies each new catalog to the query path.
pub(super) struct Follower {
    pub(super) catalogs: watch::Receiver<Option<Arc<Catalog>>>,
    pub(super) queries: Arc<QueryService>,
    pub(super) models: Arc<ModelTable>,
    pub(super) metrics: Arc<Metrics>,
    /// Changes when replicas attach or detach.
    pub(super) replicas: watch::Receiver<()>,
    pub(super) followed: watch::Sender<Generation>,
}

impl Follower {
    pub(super) async fn run(mut self) {
        let mut before = Arc::new(Catalog::default());
        loop {
            let newest = self.catalogs.borrow_and_update().clone();
            if let Some(catalog) = newest {
                self.follow(&before, &catalog);
                before = catalog;
            }
            // Which version answers depends on the replicas only during a rollout.
            let is_rolling = before.models.values().any(|model| model.rollout.is_some());
            tokio::select! {
                changed = self.catalogs.changed() => if changed.is_err() { return },
                Ok(()) = self.replicas.changed(), if is_rolling => {}
            }
        }
    }

    fn follow(&self, before: &Catalog, catalog: &Catalog) {
        let (versions, gone) = self.models.follow(catalog);
        let routes = Routes::resolve(&self.queries.routes(), catalog, &versions, &self.metrics);
        self.queries.set_routes(routes);
        // Closed only after the new routes are set, so that no query is routed there.
        self.models.close(gone);
        for name in before
            .applications
            .keys()
            .filter(|name| !catalog.applications.contains_key(*name))
        {
            self.metrics.forget_application(name);
        }
        self.followed.send_replace(catalog.generation.clone());
    }
}

//! Names whose meaning has changed since they were resolved. They are reported, and never followed.
//!
//! The frontend that acts looks every few seconds and after each start: nothing signals that a file was
//! replaced.

use std::sync::Arc;
use std::time::Duration;

use skysail_core::reconcile::{Placement, replica_spec};
use skysail_proto::ids::{ClusterName, ModelId};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::report::Report;
use crate::leadership::Leadership;
use crate::runtime::{ContainerRuntime, ReplicaSpec};
use crate::store::CatalogStore;

/// The time between two looks.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Looks for names whose meaning has changed.
pub(crate) struct Moves {
    /// Resolves names.
    pub runtime: Arc<dyn ContainerRuntime>,
    /// Has the registered versions.
    pub store: Arc<dyn CatalogStore>,
    /// Whether this frontend looks.
    pub leadership: Arc<Leadership>,
    /// The cluster.
    pub cluster: ClusterName,
    /// Receives the findings.
    pub report: Arc<Report>,
}

impl Moves {
    /// Looks until `shutdown`.
    pub(crate) async fn run(self, shutdown: CancellationToken) {
        while shutdown.run_until_cancelled(self.look()).await.is_some() {
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = self.report.look_for_moves.notified() => {}
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        }
    }

    async fn look(&self) {
        let catalog = self.store.watch().borrow().clone();
        let (Some(catalog), Some(_)) = (catalog, self.leadership.acting()) else {
            return;
        };
        let placement = Placement {
            cluster: self.cluster.clone(),
            incarnation: String::new(),
            frontends: Vec::new(),
            key: None,
        };
        for (model, version) in catalog.versions() {
            let resolved = version
                .spec
                .deployment
                .as_ref()
                .filter(|found| found.is_resolved());
            match resolved.and_then(|_| replica_spec(&placement, &model, version, 0)) {
                Some(spec) => self.look_at(&spec).await,
                None => self.tell(&model, None),
            }
        }
    }

    async fn look_at(&self, spec: &ReplicaSpec) {
        match self.runtime.moved_on(spec).await {
            Ok(moved_on) => self.tell(&spec.model, moved_on),
            Err(error) => debug!(model = %spec.model, %error, "not known whether it moved on"),
        }
    }

    fn tell(&self, model: &ModelId, moved_on: Option<String>) {
        if self.report.set_moved_on(model, moved_on.clone())
            && let Some(why) = moved_on
        {
            warn!(%model, why, "a version's name moved on");
        }
    }
}

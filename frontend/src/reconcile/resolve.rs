//! Resolves a version's names before its first start, and writes the result to the catalog.
//!
//! A tag can be moved and a file replaced. If each replica were started by the name alone, two replicas of one
//! version could be two models. So the first resolution is written under the lease, and every start uses it.

use jiff::Timestamp;
use skysail_core::reconcile::{Resolution, resolved};
use skysail_proto::ids::ModelId;
use tracing::{info, warn};

use super::apply::{Applied, Applier, RETRY};
use crate::runtime::ReplicaSpec;
use crate::store::StoreError;

/// How often the write is repeated because of conflicts. The next pass would resolve again too, but that may
/// take longer than a write.
const ATTEMPTS: usize = 20;

impl Applier {
    /// Resolves a version's names, and writes the result unless another frontend has.
    pub(super) async fn resolve(&self, spec: ReplicaSpec, registered_at: Timestamp) -> Applied {
        if !self.may_act().await {
            return Applied::Done;
        }
        let (report, model) = (self.report.clone(), spec.model.clone());
        let progress = move |words: &str| report.set_progress(&model, Some(words));
        let found = self.runtime.resolve(&spec, &progress).await;
        self.report.set_progress(&spec.model, None);
        match found {
            Ok(resolution) => {
                self.write_down(&spec.model, registered_at, &resolution).await;
                Applied::Done
            }
            Err(error) => self.not_started(spec, &error),
        }
    }

    async fn write_down(&self, model: &ModelId, registered_at: Timestamp, resolution: &Resolution) {
        for _ in 0..ATTEMPTS {
            let Some(lease) = self.leadership.confirm().await else {
                break;
            };
            let Some(catalog) = self.store.watch().borrow().clone() else {
                break;
            };
            let Some(change) = resolved(&catalog, model, registered_at, resolution) else {
                return;
            };
            let written = self
                .store
                .commit_under(Some(&lease), vec![change], &catalog.generation)
                .await;
            match written {
                Ok(_) => {
                    let Resolution { image_id, artifacts } = resolution;
                    info!(%model, ?image_id, ?artifacts, "what the version runs is written down");
                    return;
                }
                Err(StoreError::Conflict { .. }) => {}
                Err(StoreError::Fenced(_)) => return,
                Err(error) => {
                    warn!(%model, %error, "what the version runs was not written down; trying again");
                    break;
                }
            }
        }
        tokio::time::sleep(RETRY).await;
    }
}

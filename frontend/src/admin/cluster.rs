//! Decisions about the cluster as a whole: what to do about a metadata store that lost something, and about
//! containers that were started for another one.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use skysail_core::catalog::Catalog;
use skysail_core::reconcile::Foreign;
use skysail_proto::admin::{Adoption, Settlement};
use skysail_proto::error_code::ErrorCode;
use tracing::info;

use super::{ATTEMPTS, AdminError, AdminService, conflict};
use crate::store::{Settle, StoreError};

impl AdminService {
    /// Writes back what the frontends hold and the store lost, or follows the store as it is; for all
    /// frontends of the cluster.
    pub async fn settle(&self, how: Settle) -> Result<Settlement, AdminError> {
        let _turn = self.turns.lock().await;
        let held = self.store.watch().borrow().clone().unwrap_or_default();
        let followed = self.store.settle(how).await?;
        self.wait_until_followed(&followed.generation).await;
        Ok(settlement(&held, &followed))
    }
}

impl AdminService {
    /// Takes over the containers of the cluster's name that were started for other stores.
    pub async fn adopt(&self) -> Result<Adoption, AdminError> {
        let Some(runtime) = &self.runtime else {
            let detail = "this frontend runs no containers: ask the one that does";
            return Err(AdminError::new(ErrorCode::Unavailable, detail));
        };
        if let Some(sentence) = self.report.waits_for_a_person() {
            return Err(AdminError::new(ErrorCode::Unavailable, sentence));
        }
        let _turn = self.turns.lock().await;
        let listed = runtime.list().await;
        let listed = listed.map_err(|error| AdminError::new(ErrorCode::Unavailable, error.to_string()))?;
        let (_, foreign) = Foreign::part(listed, &*self.catalog()?);
        if foreign.containers.is_empty() {
            return Err(conflict(format!(
                "every container of cluster `{}` is this store's already: there is nothing to adopt",
                self.info.cluster
            )));
        }
        let adopted = self.adopted(&foreign.incarnations).await?;
        self.wait_until_followed(&adopted.generation).await;
        info!(containers = ?foreign.containers, incarnations = ?foreign.incarnations, "containers adopted");
        Ok(Adoption {
            generation: adopted.generation.number,
            containers: foreign.containers.into_iter().collect(),
        })
    }

    async fn adopted(&self, incarnations: &BTreeSet<String>) -> Result<Arc<Catalog>, StoreError> {
        let mut attempts = 1;
        loop {
            match self.store.adopt(incarnations.clone()).await {
                Err(StoreError::Conflict { .. }) if attempts < ATTEMPTS => attempts += 1,
                adopted => return adopted,
            }
        }
    }
}

fn settlement(held: &Catalog, followed: &Catalog) -> Settlement {
    Settlement {
        generation: followed.generation.number,
        applications: followed.applications.len() as u64,
        models: followed.models.len() as u64,
        given_up_applications: missing(&held.applications, &followed.applications),
        given_up_models: missing(&held.models, &followed.models),
    }
}

/// How many of `held` are not in `followed`.
fn missing<N: Ord, D>(held: &BTreeMap<N, Arc<D>>, followed: &BTreeMap<N, Arc<D>>) -> u64 {
    held.keys().filter(|name| !followed.contains_key(name)).count() as u64
}

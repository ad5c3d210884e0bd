//! Decisions about the cluster as a whole: what to do about a metadata store that lost something, and about
//! containers that were started for another one.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use skysail_core::catalog::Catalog;
use skysail_core::reconcile::Foreign;
use skysail_proto::admin::{Adoption, Settlement};
use skysail_proto::error_code::ErrorCode;
use tracing::{info, warn};

use super::{ATTEMPTS, AdminError, AdminService, join};
use crate::store::{Settle, StoreError};

impl AdminService {
    /// Writes back what the frontends hold and the store lost, or follows the store as it is; for all
    /// frontends of the cluster.
    pub(crate) async fn settle(&self, how: Settle) -> Result<Settlement, AdminError> {
        let _turn = self.turns.lock().await;
        let held = self.store.watch().borrow().clone().unwrap_or_default();
        let followed = self.store.settle(how).await?;
        let followed = self.with_settings(followed).await;
        self.wait_until_followed(&followed.generation).await;
        Ok(Settlement {
            set_aside: self.store.set_aside().map(|path| path.display().to_string()),
            ..settlement(&held, &followed)
        })
    }

    /// Writes the settings that a catalog with applications or models needs and has lost, as the first change that
    /// a person asks for does: without a key for tokens no container is started.
    async fn with_settings(&self, mut followed: Arc<Catalog>) -> Arc<Catalog> {
        if followed.applications.is_empty() && followed.models.is_empty() {
            return followed;
        }
        for _ in 0..ATTEMPTS {
            let changes = join::with_key(&followed, self.token.with_hash(&followed, Vec::new()));
            if changes.is_empty() {
                return followed;
            }
            match self.store.commit(changes, &followed.generation).await {
                Ok(next) => {
                    info!(
                        "settings written anew: containers are replaced by ones with a token of the new key"
                    );
                    return next;
                }
                Err(StoreError::Conflict { .. }) => {
                    let newest = self.store.watch().borrow().clone();
                    followed = newest.unwrap_or(followed);
                }
                Err(error) => {
                    warn!(%error, "no settings written after a loss; the next change writes them");
                    return followed;
                }
            }
        }
        followed
    }
}

impl AdminService {
    /// Takes over the containers of the cluster's name that were started for other stores.
    pub(crate) async fn adopt(&self) -> Result<Adoption, AdminError> {
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
            return Err(AdminError::new(
                ErrorCode::Conflict,
                format!(
                    "every container of cluster `{}` is this store's already: there is nothing to adopt",
                    self.info.cluster
                ),
            ));
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
        set_aside: None,
    }
}

/// How many of `held` are not in `followed`.
fn missing<N: Ord, D>(held: &BTreeMap<N, Arc<D>>, followed: &BTreeMap<N, Arc<D>>) -> u64 {
    held.keys().filter(|name| !followed.contains_key(name)).count() as u64
}

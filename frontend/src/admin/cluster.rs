//! Decisions about the cluster as a whole: what to do about a metadata store that lost something.

use std::collections::BTreeMap;
use std::sync::Arc;

use skysail_core::catalog::Catalog;
use skysail_proto::admin::Settlement;

use super::{AdminError, AdminService};
use crate::store::Settle;

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

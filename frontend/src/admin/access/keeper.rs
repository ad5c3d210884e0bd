//! Keeps the hash of the admin token in the catalog, so that all frontends of a cluster ask for the same.
//!
//! A store that was never written is left alone: it may be one that lost everything, and the first admin request
//! writes the hash anyway ([`AskedToken::with_hash`](super::token::AskedToken::with_hash)). A frontend that was
//! given a token writes its hash once in its life over another's: that is how a token is changed.

use std::sync::Arc;
use std::time::Duration;

use skysail_core::backoff::Backoff;
use skysail_core::catalog::{Catalog, Change, Secret, Settings};
use tracing::{info, warn};

use super::token::Asks;
use crate::reconcile::Report;
use crate::store::CatalogStore;

/// Keeps the hash in the catalog, for as long as the frontend runs.
pub(crate) struct TokenKeeper {
    /// What this frontend asks for.
    pub asks: Asks,
    /// Where the catalog is.
    pub store: Arc<dyn CatalogStore>,
    /// Whether a person has to decide something about the store first.
    pub report: Arc<Report>,
}

impl TokenKeeper {
    /// Runs until the store ends. To be dropped at any time.
    pub(crate) async fn run(self) {
        let Some(own) = self.asks.own_hash() else {
            return std::future::pending().await;
        };
        let mut catalogs = self.store.watch();
        let mut replaces = matches!(self.asks, Asks::Given(_));
        let mut told = None;
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(10));
        loop {
            let newest = catalogs.borrow_and_update().clone();
            let Some(catalog) = newest.filter(|catalog| !catalog.generation.incarnation.is_empty()) else {
                if catalogs.changed().await.is_err() {
                    return;
                }
                continue;
            };
            let hash = catalog.settings.admin_token.clone();
            let is_missing = hash.is_none();
            let is_well = hash.as_ref() == Some(&own) || !(is_missing || replaces);
            let has_failed = !is_well && !self.write(&catalog, &own).await;
            if is_well {
                // What is another's from now on was written by a frontend that was given it later.
                replaces = false;
                if told.as_ref() != Some(&hash) {
                    self.tell(hash.as_ref() == Some(&own));
                    told = Some(hash);
                }
            }
            let pause = has_failed.then(|| backoff.pause());
            tokio::select! {
                changed = catalogs.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(pause.unwrap_or_default()), if has_failed => {}
            }
        }
    }

    async fn write(&self, catalog: &Catalog, own: &Secret) -> bool {
        if self.report.waits_for_a_person().is_some() {
            return false;
        }
        let settings = Settings {
            admin_token: Some(own.clone()),
            ..Settings::clone(&catalog.settings)
        };
        let change = vec![Change::put(settings)];
        let written = self.store.commit(change, &catalog.generation).await;
        if let Err(error) = &written {
            warn!(%error, "the admin token's hash cannot be written yet");
        }
        written.is_ok()
    }

    fn tell(&self, is_own: bool) {
        match &self.asks {
            Asks::Nothing => {}
            Asks::Given(_) if is_own => info!("the admin token is the cluster's"),
            Asks::Given(file) => warn!(
                file = %file.path.display(),
                "the cluster's admin token is another than this frontend was given, and asks for"
            ),
            Asks::Clusters(_) if is_own => {}
            Asks::Clusters(file) => warn!(
                not_asked_for = %file.path.display(),
                "the cluster has an admin token that was not made here, and this frontend asks for that; if it is \
                 lost, start a frontend with a new one by --admin-token-file"
            ),
        }
    }
}

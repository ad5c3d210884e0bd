//! Announcements and the lease of a cluster that is one process.

use std::sync::Arc;

use skysail_core::cluster::Lease;
use tokio::sync::watch;

use super::{Announced, Leased};

/// Announcements and the lease of the only process. It lives as long as its announcements, so they do not
/// expire. It shares the lease with nobody.
#[derive(Default)]
pub(super) struct Local {
    announced: watch::Sender<Announced>,
}

impl Local {
    pub(super) fn announce(&self, id: &str, document: String) {
        self.announced
            .send_modify(|all| drop(Arc::make_mut(all).insert(id.to_owned(), document)));
    }

    pub(super) fn withdraw(&self, id: &str) {
        self.announced
            .send_modify(|all| drop(Arc::make_mut(all).remove(id)));
    }

    pub(super) fn announced(&self) -> watch::Receiver<Announced> {
        self.announced.subscribe()
    }

    pub(super) fn take_lease(holder: &str) -> Leased {
        Leased::Held(Lease {
            holder: holder.to_owned(),
            number: 1,
        })
    }
}

//! Announcements and the lease of a cluster of one process.

use std::sync::Arc;

use skysail_core::cluster::Lease;
use tokio::sync::watch;

use super::{Announced, Leased};

/// What one process tells itself. It lives as long as its announcements, so they need no time to live, and
/// has nobody to share the lease with.
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

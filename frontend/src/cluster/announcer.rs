//! Announces this frontend's view to the other frontends.

use std::sync::Arc;
use std::time::Duration;

use skysail_core::catalog::Generation;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::watch::{ClusterWatch, changed};
use crate::peer::PeerAddress;
use crate::store::AnnouncementStore;

/// A frontend without an announcement for this long counts as gone.
const TIME_TO_LIVE: Duration = Duration::from_secs(5);

/// How often to announce an unchanged view.
const INTERVAL: Duration = Duration::from_secs(1);

/// Changes within this time are announced together.
const SETTLING: Duration = Duration::from_millis(50);

/// The longest wait for the store: after this, the previous announcement would expire before the next one.
const STORE_PATIENCE: Duration = Duration::from_secs(3);

/// The longest wait for the withdrawal: a frontend that ends has little time.
const FAREWELL: Duration = Duration::from_secs(1);

/// Announces this frontend's view.
pub(crate) struct Announcer {
    /// This frontend's id.
    pub id: String,
    /// How to find the address at which other frontends reach this one.
    pub peer: PeerAddress,
    /// Has this frontend's view.
    pub cluster: Arc<ClusterWatch>,
    /// Receives the announcements.
    pub store: Arc<dyn AnnouncementStore>,
    /// Changes when queries are routed anew.
    pub followed: watch::Receiver<Generation>,
    /// Changes when replicas attach or detach.
    pub replicas: watch::Receiver<()>,
    /// Cancelled when this frontend drains.
    pub draining: CancellationToken,
}

impl Announcer {
    /// Announces until `closing`, then withdraws the announcement.
    pub(crate) async fn run(mut self, closing: CancellationToken) {
        let mut is_away = false;
        let mut drains = false;
        let mut has_address = false;
        loop {
            // The store's host name may not resolve before the store exists. A draining frontend does not wait
            // for that.
            if !has_address
                && !drains
                && let Some(addr) = self.peer.find().await
            {
                self.cluster.set_peer_addr(addr);
                has_address = true;
            }
            drains |= self.draining.is_cancelled();
            is_away = self.announce(is_away).await;
            tokio::select! {
                biased;
                () = closing.cancelled() => break,
                () = self.draining.cancelled(), if !drains => {}
                () = changed(&mut self.followed, &mut self.replicas) => {
                    // The end does not wait for further changes.
                    let _ = timeout(SETTLING, closing.cancelled()).await;
                }
                () = sleep(INTERVAL) => {}
            }
        }
        self.withdraw().await;
    }

    /// Returns whether the store is away. Only the first failure in a row is a warning.
    async fn announce(&self, was_away: bool) -> bool {
        let cluster = self.cluster.look();
        let document =
            serde_json::to_string(&cluster.own()).expect("a view is written as JSON; this is a bug");
        let announcing = self.store.announce(&self.id, document, TIME_TO_LIVE);
        let error = match timeout(STORE_PATIENCE, announcing).await {
            Ok(Ok(())) => {
                if was_away {
                    info!("other frontends are told of this one again");
                }
                return false;
            }
            Ok(Err(error)) => error.to_string(),
            Err(_elapsed) => "the metadata store did not answer".to_owned(),
        };
        if was_away {
            debug!(error, "other frontends still cannot be told of this one");
        } else {
            warn!(error, "other frontends cannot be told of this one");
        }
        true
    }

    async fn withdraw(&self) {
        if !matches!(timeout(FAREWELL, self.store.withdraw(&self.id)).await, Ok(Ok(()))) {
            debug!("the announcement could not be taken back; it ends by itself");
        }
    }
}

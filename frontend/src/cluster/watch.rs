//! The one view of the cluster: rebuilt when something in it changes, and read by everybody.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use skysail_core::catalog::Generation;
use skysail_core::cluster::{ClusterView, FrontendView};
use tokio::sync::watch;
use tokio::time::sleep;

use super::view::Observer;

/// How often this frontend looks at itself even if nothing seems to have changed: its figures have.
const INTERVAL: Duration = Duration::from_secs(1);

/// Builds the [`ClusterView`] and publishes it.
pub struct ClusterWatch {
    parts: Mutex<Parts>,
    views: watch::Sender<Arc<ClusterView>>,
}

/// What the view is built of.
struct Parts {
    observer: Observer,
    own: Arc<FrontendView>,
    others: Vec<Arc<FrontendView>>,
}

impl ClusterWatch {
    /// A view of this frontend alone, by a first look.
    pub fn new(mut observer: Observer) -> Self {
        let own = Arc::new(observer.look());
        let view = ClusterView::seen_by(own.clone(), []);
        Self {
            parts: Mutex::new(Parts {
                observer,
                own,
                others: Vec::new(),
            }),
            views: watch::Sender::new(Arc::new(view)),
        }
    }

    /// The view, and its changes.
    pub fn subscribe(&self) -> watch::Receiver<Arc<ClusterView>> {
        self.views.subscribe()
    }

    /// Looks at this frontend, and publishes the view if that changed it. An answer that follows a change must
    /// already show it, so the admin API looks before it answers.
    pub fn look(&self) -> Arc<ClusterView> {
        let mut parts = self.parts.lock();
        let own = parts.observer.look();
        if own != *parts.own {
            parts.own = Arc::new(own);
            self.publish(&parts);
        }
        self.views.borrow().clone()
    }

    /// Takes note of where other frontends reach this one.
    pub fn set_peer_addr(&self, addr: SocketAddr) {
        *self.parts.lock().observer.peer_addr() = Some(addr);
    }

    /// Takes note of what the other frontends announced.
    pub fn set_others(&self, others: Vec<Arc<FrontendView>>) {
        let mut parts = self.parts.lock();
        if others != parts.others {
            parts.others = others;
            self.publish(&parts);
        }
    }

    /// The lock is held meanwhile, so that no view replaces a newer one.
    fn publish(&self, parts: &Parts) {
        let view = ClusterView::seen_by(parts.own.clone(), parts.others.iter().cloned());
        self.views.send_replace(Arc::new(view));
    }

    /// Looks whenever queries are routed anew or replicas come or go, and every second.
    pub async fn run(
        self: Arc<Self>,
        mut followed: watch::Receiver<Generation>,
        mut replicas: watch::Receiver<()>,
    ) {
        loop {
            self.look();
            tokio::select! {
                () = changed(&mut followed, &mut replicas) => {}
                () = sleep(INTERVAL) => {}
            }
        }
    }
}

/// Completes when either changes. The senders live as long as the frontend: one that is gone is waited for.
pub(super) async fn changed(followed: &mut watch::Receiver<Generation>, replicas: &mut watch::Receiver<()>) {
    tokio::select! {
        Ok(()) = followed.changed() => {}
        Ok(()) = replicas.changed() => {}
        else => std::future::pending().await,
    }
}

//! The one view of the cluster. It is rebuilt when something in it changes, and all parts read it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use skysail_core::catalog::Generation;
use skysail_core::cluster::{ClusterView, FrontendView};
use tokio::sync::watch;
use tokio::time::sleep;

use super::view::Observer;

/// How often this frontend's own view is rebuilt even without a signal: its figures change.
const INTERVAL: Duration = Duration::from_secs(1);

/// Builds the [`ClusterView`] and publishes it.
pub(crate) struct ClusterWatch {
    parts: Mutex<Parts>,
    views: watch::Sender<Arc<ClusterView>>,
}

/// The inputs of the view.
struct Parts {
    observer: Observer,
    own: Arc<FrontendView>,
    others: Vec<Arc<FrontendView>>,
}

impl ClusterWatch {
    /// A view of this frontend alone, from a first look.
    pub(crate) fn new(mut observer: Observer) -> Self {
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

    /// The view and its changes.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Arc<ClusterView>> {
        self.views.subscribe()
    }

    /// Rebuilds this frontend's own view, and publishes the whole view if that changed. An answer that follows
    /// a change must already show it, so the admin API calls this before it answers.
    pub(crate) fn look(&self) -> Arc<ClusterView> {
        let mut parts = self.parts.lock();
        let own = parts.observer.look();
        if own != *parts.own {
            parts.own = Arc::new(own);
            self.publish(&parts);
        }
        self.views.borrow().clone()
    }

    /// Sets the address at which other frontends reach this one.
    pub(crate) fn set_peer_addr(&self, addr: SocketAddr) {
        *self.parts.lock().observer.peer_addr() = Some(addr);
    }

    /// Sets the views that the other frontends announced.
    pub(crate) fn set_others(&self, others: Vec<Arc<FrontendView>>) {
        let mut parts = self.parts.lock();
        if others != parts.others {
            parts.others = others;
            self.publish(&parts);
        }
    }

    /// `parts` is locked meanwhile, so that no view replaces a newer one.
    fn publish(&self, parts: &Parts) {
        let view = ClusterView::seen_by(parts.own.clone(), parts.others.iter().cloned());
        self.views.send_replace(Arc::new(view));
    }

    /// Looks whenever queries are routed anew, when replicas attach or detach, and every [`INTERVAL`].
    pub(crate) async fn run(
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

/// Completes when either changes. The senders live as long as the frontend. If a sender is gone, the other one
/// is awaited.
pub(super) async fn changed(followed: &mut watch::Receiver<Generation>, replicas: &mut watch::Receiver<()>) {
    tokio::select! {
        Ok(()) = followed.changed() => {}
        Ok(()) = replicas.changed() => {}
        else => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use skysail_core::queue::Bounds;
    use skysail_proto::value::InputType;

    use super::super::Identity;
    use super::*;
    use crate::clock::Clock;
    use crate::metrics::Metrics;
    use crate::model::ModelTable;
    use crate::query::QueryService;

    fn watched() -> (ClusterWatch, Arc<ModelTable>) {
        let clock = Clock::start();
        let metrics = Arc::<Metrics>::default();
        let models = Arc::new(ModelTable::new(
            Bounds { count: 1, bytes: 1 },
            0,
            metrics.clone(),
            clock,
        ));
        let identity = Identity {
            id: "own".into(),
            started_at: jiff::Timestamp::UNIX_EPOCH,
            query_addr: None,
            admin_addr: None,
            ops_addr: String::new(),
            rpc_addr: Some("a:1".into()),
            rpc_is_local: true,
            starts_containers: false,
        };
        let queries = Arc::new(QueryService::new(clock, &metrics));
        let catalogs = watch::channel(None).1;
        let observer = Observer::new(identity, queries, models.clone(), catalogs, clock);
        (ClusterWatch::new(observer), models)
    }

    fn other(addr: &str) -> Arc<FrontendView> {
        Arc::new(FrontendView {
            id: "other".into(),
            rpc_addr: Some(addr.into()),
            ..FrontendView::default()
        })
    }

    #[tokio::test(start_paused = true)]
    async fn what_an_answer_of_the_admin_api_shows_everybody_else_sees_too() {
        let (cluster, models) = watched();
        let mut seen = cluster.subscribe();
        let model = "m:1".parse().unwrap();
        let registration = skysail_container_rpc::session::Registration {
            model,
            signature: InputType::Doubles.into(),
            annotations: [].into(),
            replica: "m_1_0".parse().unwrap(),
            token: String::new(),
            hostname: String::new(),
            pid: 1,
            agent: String::new(),
            recent_batches: Vec::new(),
        };
        let id = registration.model.clone();
        let (_replica, _orders) = models.replicas().attach(registration, "start".to_owned(), None);
        assert_eq!(cluster.look().attached(&id), 1);
        assert_eq!(seen.borrow_and_update().attached(&id), 1);
        // Nothing changed since, so no receiver is woken.
        cluster.look();
        assert!(!seen.has_changed().unwrap());
    }

    #[tokio::test(start_paused = true)]
    async fn what_others_announce_is_published_when_it_differs() {
        let (cluster, _models) = watched();
        let mut seen = cluster.subscribe();
        cluster.set_others(vec![other("a:2")]);
        assert_eq!(seen.borrow_and_update().containers().addresses, ["a:1", "a:2"]);
        cluster.set_others(vec![other("a:2")]);
        assert!(!seen.has_changed().unwrap());
        cluster.set_peer_addr("10.0.0.1:1341".parse().unwrap());
        let own = cluster.look().own().unwrap().peer_addr.clone();
        assert_eq!(own.as_deref(), Some("10.0.0.1:1341"));
        assert_eq!(seen.borrow().frontends().len(), 2);
    }
}

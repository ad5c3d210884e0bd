//! Who is there: the views of all live frontends.

use std::collections::BTreeSet;
use std::sync::Arc;

use skysail_core::catalog::Catalog;
use skysail_core::cluster::{FrontendView, container_addresses, living};
use skysail_core::settling::Beginning;
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::health::Settling;
use crate::metrics::Metrics;
use crate::model::ModelTable;
use crate::store::Announced;

/// The views of all live frontends, this one's included and always fresh.
pub type Views = Arc<Vec<FrontendView>>;

/// The newest catalog; none until the first was read.
pub type Catalogs = watch::Receiver<Option<Arc<Catalog>>>;

/// Follows what frontends announce, and tells containers where the query frontends are.
pub struct Membership {
    announced: watch::Receiver<Announced>,
    own: watch::Receiver<FrontendView>,
    catalogs: Catalogs,
    views: watch::Sender<Views>,
    settling: watch::Sender<Settling>,
    models: Arc<ModelTable>,
    metrics: Arc<Metrics>,
    /// Since when there has been a catalog.
    began: Option<Instant>,
    /// Frontends whose announcements cannot be read: each is told once.
    unreadable: BTreeSet<String>,
}

impl Membership {
    /// Of what `store` has announced and this frontend's `own` view; and where all views are found.
    pub fn new(
        store: (watch::Receiver<Announced>, Catalogs),
        own: watch::Receiver<FrontendView>,
        settling: watch::Sender<Settling>,
        models: Arc<ModelTable>,
        metrics: Arc<Metrics>,
    ) -> (Self, watch::Receiver<Views>) {
        let (announced, catalogs) = store;
        let views = watch::Sender::new(Arc::new(vec![own.borrow().clone()]));
        let seen = views.subscribe();
        let membership = Self {
            announced,
            own,
            catalogs,
            views,
            settling,
            models,
            metrics,
            began: None,
            unreadable: BTreeSet::new(),
        };
        (membership, seen)
    }

    /// Follows until nobody announces any more.
    pub async fn run(mut self) {
        loop {
            self.follow();
            tokio::select! {
                Ok(()) = self.announced.changed() => {}
                Ok(()) = self.own.changed() => {}
                Ok(()) = self.catalogs.changed() => {}
                else => return,
            }
        }
    }

    fn follow(&mut self) {
        let announced = self.announced.borrow_and_update().clone();
        let own = self.own.borrow_and_update().clone();
        self.unreadable.retain(|id| announced.contains_key(id));
        let others = announced.iter().filter(|(id, _)| **id != own.id);
        let mut views = Vec::new();
        for (id, document) in others {
            match serde_json::from_str(document) {
                Ok(view) => views.push(view),
                Err(error) if self.unreadable.insert(id.clone()) => {
                    warn!(frontend = id, %error, "a frontend's announcement cannot be read; is it of a later version?");
                }
                Err(_) => {}
            }
        }
        let id = own.id.clone();
        views.push(own);
        let views = living(views);
        self.tell_changes(&views, &id);
        if self.settling.borrow().is_some() {
            // What others announced is known once this frontend's own announcement has been taken.
            let knows_others = announced.contains_key(&id);
            self.settle(knows_others, &views, &id);
        }
        self.metrics.set_frontends(views.len());
        self.models.name_frontends(container_addresses(&views));
        self.views.send_replace(Arc::new(views));
    }

    /// A frontend that has begun is not ready before the replicas that it needs have come to it.
    fn settle(&mut self, knows_others: bool, views: &[FrontendView], own: &str) {
        let Some(catalog) = self.catalogs.borrow_and_update().clone() else {
            return;
        };
        let began = *self.began.get_or_insert_with(Instant::now);
        let (ours, others): (Vec<_>, Vec<_>) = views.iter().partition(|view| view.id == own);
        let Some(own) = ours.first() else { return };
        let beginning = Beginning {
            catalog: &catalog,
            own,
            others,
            knows_others,
            elapsed: began.elapsed(),
        };
        self.settling.send_replace(beginning.waits_for());
    }

    fn tell_changes(&self, now: &[FrontendView], own: &str) {
        let before = self.views.borrow();
        let is_in = |views: &[FrontendView], id: &str| views.iter().any(|view| view.id == id);
        for view in now.iter().filter(|view| view.id != own) {
            if !is_in(&before, &view.id) {
                info!(
                    frontend = view.id,
                    addr = view.rpc_addr,
                    "a frontend joined the cluster"
                );
            }
        }
        for view in before.iter().filter(|view| view.id != own) {
            if !is_in(now, &view.id) {
                info!(
                    frontend = view.id,
                    addr = view.rpc_addr,
                    "a frontend left the cluster"
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use skysail_core::cluster::ReplicaView;
    use skysail_core::queue::Bounds;
    use skysail_core::settling::DIALS_WITHIN;

    use super::*;
    use crate::clock::Clock;
    use crate::metrics::Format;

    fn view(id: &str, rpc_addr: &str) -> FrontendView {
        FrontendView {
            id: id.to_owned(),
            rpc_addr: Some(rpc_addr.to_owned()),
            ..FrontendView::default()
        }
    }

    fn document(view: &FrontendView) -> String {
        serde_json::to_string(view).unwrap()
    }

    fn membership(
        announced: BTreeMap<String, String>,
    ) -> (
        Membership,
        watch::Sender<Announced>,
        watch::Sender<FrontendView>,
        watch::Receiver<Views>,
    ) {
        let announced = watch::Sender::new(Arc::new(announced));
        let own = watch::Sender::new(view("own", "a:1"));
        let metrics = Arc::<Metrics>::default();
        let bounds = Bounds { count: 1, bytes: 1 };
        let settling = watch::Sender::new(None);
        let models = Arc::new(ModelTable::new(bounds, 0, metrics.clone(), Clock::start()));
        let catalogs = watch::Sender::new(Some(Arc::default())).subscribe();
        let store = (announced.subscribe(), catalogs);
        let (membership, views) = Membership::new(store, own.subscribe(), settling, models, metrics);
        (membership, announced, own, views)
    }

    fn ids(views: &watch::Receiver<Views>) -> Vec<String> {
        views.borrow().iter().map(|view| view.id.clone()).collect()
    }

    #[tokio::test]
    async fn the_own_view_is_there_and_fresh_whatever_the_store_says() {
        let stale = [("own".to_owned(), document(&view("own", "stale:1")))];
        let (mut membership, _announced, own, views) = membership(stale.into());
        membership.follow();
        assert_eq!(*views.borrow().as_slice(), [view("own", "a:1")]);
        own.send_replace(view("own", "fresh:1"));
        membership.follow();
        assert_eq!(*views.borrow().as_slice(), [view("own", "fresh:1")]);
        assert!(
            membership
                .metrics
                .render(Format::Text)
                .contains("skysail_frontends 1")
        );
    }

    #[tokio::test]
    async fn others_are_seen_come_and_go_and_what_cannot_be_read_is_left_out() {
        let (mut membership, announced, _own, views) = membership(BTreeMap::new());
        let known = [
            ("b".to_owned(), document(&view("b", "a:2"))),
            ("later".to_owned(), r#"{"id": 7}"#.to_owned()),
        ];
        announced.send_replace(Arc::new(known.into()));
        for _ in 0..2 {
            membership.follow();
            assert_eq!(ids(&views), ["b", "own"]);
            assert!(membership.unreadable.contains("later"));
        }
        announced.send_replace(Arc::default());
        membership.follow();
        assert_eq!(ids(&views), ["own"]);
        assert!(membership.unreadable.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_frontend_beside_others_settles_once_their_models_have_come_or_time_is_up() {
        let replica: ReplicaView = serde_json::from_str(
            r#"{"replica": "m_1_0", "model": "m:1", "hostname": "", "pid": 1, "draining": false,
                "attached_at": "2026-01-01T00:00:00Z", "in_flight": 0, "batches": 0, "inputs": 0}"#,
        )
        .unwrap();
        let with_replica = |view: FrontendView| FrontendView {
            replicas: vec![replica.clone()],
            ..view
        };
        for comes in [true, false] {
            let (mut membership, announced, own, _views) = membership(BTreeMap::new());
            let settling = membership.settling.clone();
            settling.send_replace(Some(BTreeSet::new()));
            let is_settling = || settling.borrow().is_some();
            membership.follow();
            assert!(is_settling(), "it knows nothing of others yet");
            let known = [view("own", "a:1"), with_replica(view("b", "a:2"))];
            let known = known.map(|view| (view.id.clone(), document(&view)));
            announced.send_replace(Arc::new(known.into()));
            membership.follow();
            assert!(is_settling());
            if comes {
                own.send_replace(with_replica(view("own", "a:1")));
            } else {
                tokio::time::advance(DIALS_WITHIN + Duration::from_millis(1)).await;
            }
            membership.follow();
            assert!(!is_settling());
        }
    }
}

//! The live frontends of the cluster, by their announcements.

use std::collections::BTreeMap;
use std::sync::Arc;

use skysail_core::catalog::Catalog;
use skysail_core::cluster::{ClusterView, FrontendView};
use skysail_core::settling::Beginning;
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{info, warn};

use super::watch::ClusterWatch;
use crate::health::Settling;
use crate::metrics::Metrics;
use crate::model::ModelTable;
use crate::store::Announced;

/// The newest catalog; `None` until the first was read.
pub(crate) type Catalogs = watch::Receiver<Option<Arc<Catalog>>>;

/// Reads the frontends' announcements, and tells containers the addresses of the query frontends.
pub(crate) struct Membership {
    announced: watch::Receiver<Announced>,
    catalogs: Catalogs,
    cluster: Arc<ClusterWatch>,
    views: watch::Receiver<Arc<ClusterView>>,
    settling: watch::Sender<Settling>,
    models: Arc<ModelTable>,
    metrics: Arc<Metrics>,
    /// When the first catalog was read.
    began: Option<Instant>,
    /// The other frontends' latest announcements: the text, and the view in it. The view is `None` if the text
    /// cannot be read, which is logged once.
    read: BTreeMap<String, (String, Option<Arc<FrontendView>>)>,
    /// The other frontends at the last log of changes: id → address of container RPC.
    known: BTreeMap<String, Option<String>>,
}

impl Membership {
    /// Follows the announcements and catalogs of `store`, and updates `cluster`.
    pub(crate) fn new(
        store: (watch::Receiver<Announced>, Catalogs),
        cluster: Arc<ClusterWatch>,
        settling: watch::Sender<Settling>,
        models: Arc<ModelTable>,
        metrics: Arc<Metrics>,
    ) -> Self {
        let (announced, catalogs) = store;
        Self {
            announced,
            catalogs,
            views: cluster.subscribe(),
            cluster,
            settling,
            models,
            metrics,
            began: None,
            read: BTreeMap::new(),
            known: BTreeMap::new(),
        }
    }

    /// Follows until all three watched channels are closed.
    pub(crate) async fn run(mut self) {
        loop {
            self.follow();
            tokio::select! {
                Ok(()) = self.announced.changed() => {}
                Ok(()) = self.views.changed() => {}
                Ok(()) = self.catalogs.changed() => {}
                else => return,
            }
        }
    }

    fn follow(&mut self) {
        let announced = self.announced.borrow_and_update().clone();
        self.read_others(&announced);
        let others = self.read.values().filter_map(|(_, view)| view.clone());
        self.cluster.set_others(others.collect());
        let cluster = self.views.borrow_and_update().clone();
        self.tell_changes(&cluster);
        if self.settling.borrow().is_some() {
            // The others' announcements are known once the store shows this frontend's own.
            let own = cluster.own();
            let knows_others = own.is_some_and(|own| announced.contains_key(&own.id));
            self.settle(knows_others, &cluster);
        }
        self.metrics.set_frontends(cluster.frontends().len());
        self.models.name_frontends(cluster.containers().addresses.clone());
    }

    /// Parses new and changed announcements.
    fn read_others(&mut self, announced: &BTreeMap<String, String>) {
        self.read.retain(|id, _| announced.contains_key(id));
        for (id, document) in announced {
            if self.read.get(id).is_some_and(|(before, _)| before == document) {
                continue;
            }
            let view = match serde_json::from_str(document) {
                Ok(view) => Some(Arc::new(view)),
                Err(error) => {
                    if self.read.get(id).is_none_or(|(_, view)| view.is_some()) {
                        warn!(frontend = id, %error, "a frontend's announcement cannot be read; is it of a later version?");
                    }
                    None
                }
            };
            self.read.insert(id.clone(), (document.clone(), view));
        }
    }

    /// Updates what a starting frontend waits for: it is not ready before the replicas that it needs have
    /// attached.
    fn settle(&mut self, knows_others: bool, cluster: &ClusterView) {
        let Some(catalog) = self.catalogs.borrow_and_update().clone() else {
            return;
        };
        let began = *self.began.get_or_insert_with(Instant::now);
        let Some(own) = cluster.own() else { return };
        let beginning = Beginning {
            catalog: &catalog,
            own,
            others: cluster.others().map(|view| &**view).collect(),
            knows_others,
            elapsed: began.elapsed(),
        };
        self.settling.send_replace(beginning.waits_for());
    }

    fn tell_changes(&mut self, cluster: &ClusterView) {
        let others = cluster.others();
        let now: BTreeMap<_, _> = others
            .map(|view| (view.id.clone(), view.rpc_addr.clone()))
            .collect();
        for (frontend, addr) in now.iter().filter(|(id, _)| !self.known.contains_key(*id)) {
            info!(frontend, addr, "a frontend joined the cluster");
        }
        for (frontend, addr) in self.known.iter().filter(|(id, _)| !now.contains_key(*id)) {
            info!(frontend, addr, "a frontend left the cluster");
        }
        self.known = now;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::time::Duration;

    use skysail_container_rpc::session::Registration;
    use skysail_core::cluster::ReplicaView;
    use skysail_core::queue::Bounds;
    use skysail_core::settling::DIALS_WITHIN;
    use skysail_proto::value::InputType;

    use super::super::{Identity, Observer};
    use super::*;
    use crate::clock::Clock;
    use crate::metrics::Format;
    use crate::query::QueryService;

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

    /// A membership of the frontend `own`, and the channel of its store's announcements.
    fn membership(announced: BTreeMap<String, String>) -> (Membership, watch::Sender<Announced>) {
        let announced = watch::Sender::new(Arc::new(announced));
        let clock = Clock::start();
        let metrics = Arc::<Metrics>::default();
        let bounds = Bounds { count: 1, bytes: 1 };
        let queries = Arc::new(QueryService::new(clock, &metrics));
        let settling = watch::Sender::new(None);
        let models = Arc::new(ModelTable::new(bounds, 0, metrics.clone(), clock));
        let catalogs = watch::Sender::new(Some(Arc::default())).subscribe();
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
        let observer = Observer::new(identity, queries.clone(), models.clone(), catalogs.clone(), clock);
        let cluster = Arc::new(ClusterWatch::new(observer));
        let store = (announced.subscribe(), catalogs);
        let membership = Membership::new(store, cluster, settling, models, metrics);
        (membership, announced)
    }

    fn attach(membership: &Membership) {
        let registration = Registration {
            model: "m:1".parse().unwrap(),
            signature: InputType::Doubles.into(),
            annotations: [].into(),
            replica: "m_1_0".parse().unwrap(),
            token: String::new(),
            hostname: String::new(),
            pid: 1,
            agent: String::new(),
            recent_batches: Vec::new(),
        };
        let replicas = membership.models.replicas();
        let (_replica, _orders) = replicas.attach(registration, "start".to_owned(), None);
        membership.cluster.look();
    }

    fn ids(membership: &Membership) -> Vec<String> {
        let cluster = membership.views.borrow();
        cluster.frontends().iter().map(|view| view.id.clone()).collect()
    }

    #[tokio::test]
    async fn the_own_view_is_there_and_fresh_whatever_the_store_says() {
        let stale = [("own".to_owned(), document(&view("own", "stale:1")))];
        let (mut membership, _announced) = membership(stale.into());
        membership.follow();
        let own = |membership: &Membership| {
            let cluster = membership.views.borrow();
            assert_eq!(cluster.frontends().len(), 1);
            let own = cluster.own().unwrap();
            (own.rpc_addr.clone(), own.replicas.len())
        };
        assert_eq!(own(&membership), (Some("a:1".to_owned()), 0));
        attach(&membership);
        membership.follow();
        assert_eq!(own(&membership), (Some("a:1".to_owned()), 1));
        assert!(
            membership
                .metrics
                .render(Format::Text)
                .contains("skysail_frontends 1")
        );
    }

    #[tokio::test]
    async fn others_are_seen_come_and_go_and_what_cannot_be_read_is_left_out() {
        let (mut membership, announced) = membership(BTreeMap::new());
        let known = [
            ("b".to_owned(), document(&view("b", "a:2"))),
            ("later".to_owned(), r#"{"id": 7}"#.to_owned()),
        ];
        announced.send_replace(Arc::new(known.into()));
        for _ in 0..2 {
            membership.follow();
            assert_eq!(ids(&membership), ["b", "own"]);
            assert_eq!(membership.read["later"].1, None);
        }
        announced.send_replace(Arc::default());
        membership.follow();
        assert_eq!(ids(&membership), ["own"]);
        assert!(membership.read.is_empty());
    }

    #[tokio::test]
    async fn what_was_announced_anew_is_read_anew() {
        let (mut membership, announced) = membership(BTreeMap::new());
        for addr in ["a:2", "a:3"] {
            let known = [("b".to_owned(), document(&view("b", addr)))];
            announced.send_replace(Arc::new(known.into()));
            membership.follow();
            let cluster = membership.views.borrow().clone();
            assert_eq!(cluster.frontend("b").unwrap().rpc_addr.as_deref(), Some(addr));
        }
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
            let (mut membership, announced) = membership(BTreeMap::new());
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
                attach(&membership);
            } else {
                tokio::time::advance(DIALS_WITHIN + Duration::from_millis(1)).await;
            }
            membership.follow();
            assert!(!is_settling());
        }
    }
}

//! Asks other frontends.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use parking_lot::Mutex;
use skysail_core::catalog::Catalog;
use skysail_core::cluster::{ClusterView, FrontendView};
use skysail_core::peer_token::peer_token;
use skysail_proto::peer::peer_service_client::PeerServiceClient;
use skysail_proto::peer::{Figures, GetFiguresRequest};
use tokio::sync::watch;
use tokio::time::timeout;
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

/// How long a peer may take to answer. All are asked at once, so no answer about many takes longer.
pub(crate) const PATIENCE: Duration = Duration::from_millis(250);

/// Why nothing is known of a peer.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum Silence {
    /// It announced no address, or the store holds no key to show.
    #[error("cannot be asked")]
    NotAsked,
    /// It announced the address that this frontend announced of itself: a loopback address of another machine.
    #[error("listens on its own machine only: give it an --ops-addr")]
    Elsewhere,
    /// Nothing came in time.
    #[error("did not answer")]
    NoAnswer,
    /// It did not take the key: another frontend, or another program, is at its address.
    #[error("refused the cluster's key")]
    Refused,
}

/// The way to the other frontends. Connections are kept.
pub(crate) struct Peers {
    catalogs: watch::Receiver<Option<Arc<Catalog>>>,
    channels: Mutex<BTreeMap<String, Channel>>,
}

impl Peers {
    /// The key is in the catalog.
    pub(crate) fn new(catalogs: watch::Receiver<Option<Arc<Catalog>>>) -> Self {
        Self {
            catalogs,
            channels: Mutex::default(),
        }
    }

    /// What every other frontend counts, by its id.
    pub(crate) async fn figures(&self, cluster: &ClusterView) -> BTreeMap<String, Result<Figures, Silence>> {
        self.channels
            .lock()
            .retain(|id, _| cluster.frontend(id).is_some());
        let asked = cluster.others().map(async |view| {
            let own = cluster.own().and_then(|own| own.peer_addr.as_ref());
            if own.is_some() && own == view.peer_addr.as_ref() {
                return (view.id.clone(), Err(Silence::Elsewhere));
            }
            let answered = timeout(PATIENCE, self.figures_of(view)).await;
            let answered = answered.unwrap_or(Err(Silence::NoAnswer));
            if answered.is_err() {
                // The next question dials anew.
                self.channels.lock().remove(&view.id);
            }
            (view.id.clone(), answered)
        });
        join_all(asked).await.into_iter().collect()
    }

    async fn figures_of(&self, view: &FrontendView) -> Result<Figures, Silence> {
        let (channel, token) = self.way_to(view).ok_or(Silence::NotAsked)?;
        let mut request = Request::new(GetFiguresRequest {});
        request.metadata_mut().insert("authorization", token);
        let answer = PeerServiceClient::new(channel).get_figures(request).await;
        answer
            .map(tonic::Response::into_inner)
            .map_err(|status| silence_of(&status))
    }

    /// A connection to a frontend, made at the first question, and the token to show there.
    fn way_to(&self, view: &FrontendView) -> Option<(Channel, MetadataValue<tonic::metadata::Ascii>)> {
        let addr = view.peer_addr.as_ref()?;
        let key = self.catalogs.borrow().as_ref()?.settings.container_key.clone()?;
        let token = format!("Bearer {}", peer_token(&key, &view.id)).parse().ok()?;
        let mut channels = self.channels.lock();
        if let Some(channel) = channels.get(&view.id) {
            return Some((channel.clone(), token));
        }
        let endpoint = Endpoint::from_shared(format!("http://{addr}")).ok()?;
        let channel = endpoint.connect_timeout(PATIENCE).connect_lazy();
        channels.insert(view.id.clone(), channel.clone());
        Some((channel, token))
    }
}

fn silence_of(status: &Status) -> Silence {
    match status.code() {
        Code::Unauthenticated | Code::Unimplemented => Silence::Refused,
        _ => Silence::NoAnswer,
    }
}

#[cfg(test)]
mod tests {
    use skysail_core::catalog::{Secret, Settings};
    use skysail_core::query::{AnsweredQuery, DefaultReason, Outcome};
    use skysail_core::queue::Bounds;
    use tokio::net::TcpListener;
    use tokio_util::sync::CancellationToken;

    use super::super::{Counting, Guard, PeerDoor};
    use super::*;
    use crate::clock::Clock;
    use crate::health::Health;
    use crate::http::{self, Limits, Timeouts};
    use crate::metrics::Metrics;
    use crate::model::ModelTable;
    use crate::ops::{self, Ops};

    type Catalogs = watch::Receiver<Option<Arc<Catalog>>>;

    fn catalogs(key: Option<u8>) -> Catalogs {
        let settings = Settings {
            container_key: key.map(|byte| Secret::new([byte; Secret::BYTES])),
            ..Settings::default()
        };
        let catalog = Catalog {
            settings: Arc::new(settings),
            ..Catalog::default()
        };
        watch::channel(Some(Arc::new(catalog))).1
    }

    /// The operations listener of a frontend that answered one query; returns where it is.
    async fn serve(id: &str, key: Option<u8>) -> String {
        let clock = Clock::start();
        let metrics = Arc::<Metrics>::default();
        let name = "app".parse().unwrap();
        metrics.application(&name).answered(&AnsweredQuery {
            id: 1,
            application: &name,
            model: None,
            latency: Duration::from_millis(1),
            default_reason: None,
            course: &Outcome::from(DefaultReason::NoReplica).course,
        });
        let models = ModelTable::new(Bounds { count: 1, bytes: 1 }, 0, metrics.clone(), clock);
        let models = Arc::new(models);
        let health = Arc::new(Health {
            draining: CancellationToken::new(),
            cannot_answer: Box::new(|| Some("no catalog was read yet".to_owned())),
            settling: watch::channel(None).1,
            parts: Vec::new(),
        });
        let counting = Counting {
            metrics: metrics.clone(),
            models: models.clone(),
            health: health.clone(),
        };
        let ops = Ops {
            health,
            metrics,
            models,
        };
        let door = PeerDoor {
            guard: Guard {
                id: id.to_owned(),
                catalogs: catalogs(key),
            },
            counting,
        };
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let addr = listener.local_addr().unwrap().to_string();
        let limits = Limits {
            connections: 10,
            timeouts: Timeouts {
                client: Duration::from_secs(30),
                idle: Duration::from_secs(30),
            },
            refused: Vec::new(),
        };
        let router = ops::router(Arc::new(ops), door);
        tokio::spawn(http::serve(listener, router, limits, CancellationToken::new()));
        addr
    }

    fn view(id: &str, peer_addr: Option<&str>) -> Arc<FrontendView> {
        Arc::new(FrontendView {
            id: id.to_owned(),
            peer_addr: peer_addr.map(str::to_owned),
            ..FrontendView::default()
        })
    }

    /// An address where nobody listens.
    async fn nowhere() -> String {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        listener.local_addr().unwrap().to_string()
    }

    #[tokio::test]
    async fn each_peer_answers_for_itself_or_is_told_apart_by_a_word() {
        let addr = serve("a", Some(7)).await;
        let others = [
            view("a", Some(&addr)),
            // Another frontend is at this address by now.
            view("gone", Some(&addr)),
            view("dead", Some(&nowhere().await)),
            view("unknown", None),
            view("elsewhere", Some("127.0.0.1:1341")),
        ];
        let cluster = ClusterView::seen_by(view("own", Some("127.0.0.1:1341")), others);
        let peers = Peers::new(catalogs(Some(7)));
        for _ in 0..2 {
            let figures = peers.figures(&cluster).await;
            let counted = figures["a"].as_ref().map(|figures| figures.queries);
            assert_eq!(counted, Ok(1));
            assert_eq!(figures["gone"], Err(Silence::Refused));
            assert_eq!(figures["dead"], Err(Silence::NoAnswer));
            assert_eq!(figures["unknown"], Err(Silence::NotAsked));
            assert_eq!(figures["elsewhere"], Err(Silence::Elsewhere));
            assert_eq!(figures.len(), 5);
        }
        // What is known of peers that are gone is forgotten.
        let alone = ClusterView::seen_by(view("own", None), []);
        assert!(peers.figures(&alone).await.is_empty());
        assert!(peers.channels.lock().is_empty());
    }

    #[tokio::test]
    async fn a_peer_with_another_key_or_without_one_tells_nothing() {
        for (theirs, ours, expected) in [
            (Some(8), Some(7), Silence::Refused),
            (None, Some(7), Silence::NoAnswer),
            (Some(7), None, Silence::NotAsked),
        ] {
            let addr = serve("a", theirs).await;
            let cluster = ClusterView::seen_by(view("own", None), [view("a", Some(&addr))]);
            let figures = Peers::new(catalogs(ours)).figures(&cluster).await;
            assert_eq!(figures["a"], Err(expected), "{theirs:?} {ours:?}");
        }
    }
}

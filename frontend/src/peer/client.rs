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
pub const PATIENCE: Duration = Duration::from_millis(250);

/// Why nothing is known of a peer.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Silence {
    /// It announced no address, or the store holds no key to show.
    #[error("cannot be asked")]
    NotAsked,
    /// Nothing came in time.
    #[error("did not answer")]
    NoAnswer,
    /// It did not take the key: another frontend, or another program, is at its address.
    #[error("refused the cluster's key")]
    Refused,
}

/// The way to the other frontends. Connections are kept.
pub struct Peers {
    catalogs: watch::Receiver<Option<Arc<Catalog>>>,
    channels: Mutex<BTreeMap<String, Channel>>,
}

impl Peers {
    /// The key is in the catalog.
    pub fn new(catalogs: watch::Receiver<Option<Arc<Catalog>>>) -> Self {
        Self {
            catalogs,
            channels: Mutex::default(),
        }
    }

    /// What every other frontend counts, by its id.
    pub async fn figures(&self, cluster: &ClusterView) -> BTreeMap<String, Result<Figures, Silence>> {
        self.channels
            .lock()
            .retain(|id, _| cluster.frontend(id).is_some());
        let asked = cluster.others().map(async |view| {
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

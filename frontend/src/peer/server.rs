//! Answers other frontends.

use std::sync::Arc;

use skysail_core::catalog::Catalog;
use skysail_core::peer_token::is_peer;
use skysail_proto::peer::peer_service_server::{PeerService, PeerServiceServer};
use skysail_proto::peer::{Figures, GetFiguresRequest};
use tokio::sync::watch;
use tonic::metadata::MetadataMap;
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::{Request, Response, Status};

use super::figures::Counting;

/// The largest request that is read: there is nothing in one yet.
const REQUEST_BYTES: usize = 64 * 1024;

/// What the peer channel answers by.
pub(crate) struct PeerDoor {
    /// Lets other frontends in.
    pub guard: Guard,
    /// What is counted here.
    pub counting: Counting,
}

/// Asks for a token before anything of a request is read.
#[derive(Clone)]
pub(crate) struct Guard {
    /// This frontend's id, which tokens are made for.
    pub id: String,
    /// Where the key is. While the store is away the key of the last catalog stays.
    pub catalogs: watch::Receiver<Option<Arc<Catalog>>>,
}

impl PeerDoor {
    /// The service.
    pub(crate) fn service(self) -> InterceptedService<PeerServiceServer<Counting>, Guard> {
        let service = PeerServiceServer::new(self.counting).max_decoding_message_size(REQUEST_BYTES);
        InterceptedService::new(service, self.guard)
    }
}

impl Interceptor for Guard {
    fn call(&mut self, request: Request<()>) -> Result<Request<()>, Status> {
        let catalog = self.catalogs.borrow().clone();
        let key = catalog.and_then(|catalog| catalog.settings.container_key.clone());
        let key = key.ok_or_else(|| Status::unavailable("the metadata store holds no key yet"))?;
        match shown(request.metadata()).is_some_and(|token| is_peer(&key, &self.id, token)) {
            true => Ok(request),
            false => Err(Status::unauthenticated("this is for frontends of the cluster")),
        }
    }
}

fn shown(metadata: &MetadataMap) -> Option<&str> {
    let value = metadata.get("authorization")?.to_str().ok()?;
    value.strip_prefix("Bearer ")
}

#[tonic::async_trait]
impl PeerService for Counting {
    async fn get_figures(&self, _request: Request<GetFiguresRequest>) -> Result<Response<Figures>, Status> {
        Ok(Response::new(self.figures()))
    }
}

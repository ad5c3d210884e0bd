//! What probes and monitoring ask: `/healthz`, `/readyz`, `/metrics`. Every frontend answers it on its operations
//! listener, whatever its roles, and one with the control role on the admin port as well.
//!
//! Nobody has to show a token for these, and nothing can be changed here. The operations listener also has the peer
//! channel ([`crate::peer`]), for which frontends show a token.

use std::sync::Arc;

use axum::extract::State;
use axum::http::header::{CONTENT_TYPE, VARY};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde_json::json;

use crate::health::Health;
use crate::metrics::{Format, Metrics};
use crate::model::ModelTable;
use crate::peer::{self, PeerDoor};

/// The paths below, by which the admin API knows what is open to all.
pub(crate) const PROBES: [&str; 2] = ["/healthz", "/readyz"];
/// All metrics, for Prometheus.
pub(crate) const METRICS: &str = "/metrics";

/// What the handlers share.
pub(crate) struct Ops {
    /// Answers the probes.
    pub health: Arc<Health>,
    /// All metrics.
    pub metrics: Arc<Metrics>,
    /// Brings the gauges up to date before they are shown.
    pub models: Arc<ModelTable>,
}

/// The three paths, for the servers that have others, too.
pub(crate) fn routes<S: Clone + Send + Sync + 'static>(ops: Arc<Ops>) -> Router<S> {
    let probes = probes(ops.health.clone());
    Router::new()
        .route(METRICS, get(metrics))
        .with_state(ops)
        .merge(probes)
}

/// The paths of the probes alone.
pub(crate) fn probes<S: Clone + Send + Sync + 'static>(health: Arc<Health>) -> Router<S> {
    let [alive, ready] = PROBES;
    Router::new()
        .route(alive, get(healthz))
        .route(ready, get(readyz))
        .with_state(health)
}

/// What the operations listener answers. Other frontends ask `peer`, over HTTP/2, with the cluster's key.
pub(crate) fn router(ops: Arc<Ops>, peer: PeerDoor) -> Router {
    let service = peer.service();
    let path = format!("/{}/{{*call}}", peer::SERVICE);
    routes(ops)
        .route_service(&path, service)
        .route("/", get(what_this_is))
        .method_not_allowed_fallback(|| async {
            (StatusCode::METHOD_NOT_ALLOWED, "only GET is answered here\n")
        })
        .fallback(|| async {
            (
                StatusCode::NOT_FOUND,
                "only /healthz, /readyz and /metrics are answered here\n",
            )
        })
}

/// For a person who opens the address: what there is.
async fn what_this_is() -> Response {
    let paths = json!({
        "name": "skysail",
        "version": env!("CARGO_PKG_VERSION"),
        "metrics": METRICS,
        "probes": PROBES,
    });
    Json(paths).into_response()
}

async fn healthz() -> Response {
    Json(Health::alive()).into_response()
}

async fn readyz(State(health): State<Arc<Health>>) -> Response {
    let readiness = health.readiness();
    let status = match readiness.ready {
        true => StatusCode::OK,
        false => StatusCode::SERVICE_UNAVAILABLE,
    };
    (status, Json(readiness)).into_response()
}

async fn metrics(State(ops): State<Arc<Ops>>, headers: HeaderMap) -> Response {
    ops.models.refresh_gauges();
    let format = Format::accepted(&headers);
    let headers = [(CONTENT_TYPE, format.content_type()), (VARY, "accept")];
    (headers, ops.metrics.render(format)).into_response()
}

//! Query REST: HTTP in, typed query through, JSON out.

use std::borrow::Cow;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderValue, Method, StatusCode, Uri};
use axum::response::Response;
use axum::routing::{get, post};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use serde::Serialize;
use skysail_proto::value::Output;
use tokio_util::task::TaskTracker;

use super::error::QueryError;
use super::request::PredictRequest;
use super::{Answered, QueryService, Reply};
use crate::health::Health;

/// What is read and thrown away of a body that is not wanted, so that a client that sends before it reads
/// still sees the answer.
const DISCARDED_BYTES: usize = 64 * 1024 * 1024;

/// What the handlers share.
pub struct QueryApi {
    /// Answers queries.
    pub service: Arc<QueryService>,
    /// Answers the probes.
    pub health: Arc<Health>,
    /// The largest body taken, in bytes.
    pub body_limit: usize,
    /// Runs what goes on after a response.
    pub tasks: TaskTracker,
}

/// The query API's routes.
pub fn router(api: Arc<QueryApi>) -> Router {
    Router::new()
        .route("/{application}/predict", post(predict))
        .route("/{application}/predict/", post(predict))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .method_not_allowed_fallback(method_not_allowed)
        .fallback(not_found)
        .with_state(api)
}

async fn predict(
    State(api): State<Arc<QueryApi>>,
    Path(application): Path<String>,
    request: Request,
) -> Result<Response, QueryError> {
    let route = match api.service.route(&application) {
        Ok(route) => route,
        Err(error) => return Err(refused(&api, request.into_body(), error)),
    };
    let body = read_body(&api, request.into_body()).await?;
    let request = PredictRequest::parse(route.application.input_type, &body)
        .map_err(|error| QueryError::Json(format!("Error parsing JSON: {error}")))?;
    drop(body);
    let reply = api.service.predict(&route, request).await?;
    Ok(json(StatusCode::OK, &Written::from(&reply)))
}

/// Reads a body up to the limit; the rest of one beyond it is discarded while the answer goes out.
async fn read_body(api: &QueryApi, mut body: Body) -> Result<Bytes, QueryError> {
    let limit = api.body_limit;
    let mut first = Bytes::new();
    let mut rest = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame =
            frame.map_err(|error| QueryError::Json(format!("the body could not be read: {error}")))?;
        let Ok(data) = frame.into_data() else { continue };
        if first.len() + rest.len() + data.len() > limit {
            return Err(refused(api, body, QueryError::TooLarge(limit)));
        }
        if first.is_empty() && rest.is_empty() {
            // Most bodies come in one piece, which is used as it is.
            first = data;
        } else {
            rest.extend_from_slice(&std::mem::take(&mut first));
            rest.extend_from_slice(&data);
        }
    }
    Ok(if rest.is_empty() { first } else { rest.freeze() })
}

/// Lets an answer go out before its request has been read: the rest is discarded, so that the client gets to
/// read the answer, and can go on with the same connection.
fn refused(api: &QueryApi, body: Body, error: QueryError) -> QueryError {
    api.tasks.spawn(discard(body));
    error
}

async fn discard(mut body: Body) {
    let mut left = DISCARDED_BYTES;
    while let Some(Ok(frame)) = body.frame().await {
        let size = frame.data_ref().map_or(0, Bytes::len);
        if size > left {
            return;
        }
        left -= size;
    }
}

/// A reply as it is written.
#[derive(Serialize)]
#[serde(untagged)]
enum Written<'a> {
    One(WrittenAnswer<'a>),
    Many {
        batch_predictions: Vec<WrittenAnswer<'a>>,
    },
}

#[derive(Serialize)]
struct WrittenAnswer<'a> {
    query_id: u64,
    output: &'a Output,
    default: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    default_explanation: Option<Cow<'static, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    default_reason: Option<&'static str>,
}

impl<'a> From<&'a Reply> for Written<'a> {
    fn from(reply: &'a Reply) -> Self {
        match reply {
            Reply::One(answered) => Self::One(answered.into()),
            Reply::Many(answered) => Self::Many {
                batch_predictions: answered.iter().map(Into::into).collect(),
            },
        }
    }
}

impl<'a> From<&'a Answered> for WrittenAnswer<'a> {
    fn from(answered: &'a Answered) -> Self {
        let failure = answered.answer.failure.as_ref();
        Self {
            query_id: answered.query_id,
            output: &answered.answer.output,
            default: failure.is_some(),
            default_explanation: failure.map(|failure| failure.explanation()),
            default_reason: failure.map(|failure| failure.reason.word()),
        }
    }
}

fn json(status: StatusCode, value: &impl Serialize) -> Response {
    let body = serde_json::to_vec(value).expect("replies are made of what JSON can hold; this is a bug");
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// The process lives.
async fn healthz(State(api): State<Arc<QueryApi>>) -> Response {
    json(StatusCode::OK, &api.health.alive())
}

/// It can serve.
async fn readyz(State(api): State<Arc<QueryApi>>) -> Response {
    let readiness = api.health.readiness();
    let status = if readiness.ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    json(status, &readiness)
}

async fn not_found(State(api): State<Arc<QueryApi>>, uri: Uri, body: Body) -> QueryError {
    let path = uri.path().chars().take(200).collect();
    refused(&api, body, QueryError::UnknownPath(path))
}

async fn method_not_allowed(
    State(api): State<Arc<QueryApi>>,
    uri: Uri,
    method: Method,
    body: Body,
) -> QueryError {
    let path = uri.path().chars().take(200).collect();
    refused(&api, body, QueryError::Method(path, method.to_string()))
}

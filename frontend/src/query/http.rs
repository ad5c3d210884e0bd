//! Query REST: HTTP in, typed query through, JSON out.

use std::num::NonZeroU64;
use std::sync::Arc;

use super::error::QueryError;
use super::request::{PredictRequest, Unread};
use super::{QueryService, Route, written};
use crate::http::encoding::Encodings;
use crate::http::{self, AllowedOrigins, Answers, BodyReader, Cors, Upload, misread};
use axum::Router;
use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request as AxumRequest, State};
use axum::http::header::{CONTENT_TYPE, HeaderName};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Method, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use bytes::Bytes;
use hyper::Request;

/// Bodies of this size or more are parsed on a thread of their own: they would keep every other query waiting.
const LARGE_BODY_BYTES: usize = 64 * 1024;

/// How many characters of a parser's error are quoted. The error may repeat what was sent.
const QUOTED_CHARS: usize = 300;

/// The header with a tighter latency objective than the application's, for one request, in microseconds.
static SLO_HEADER: HeaderName = HeaderName::from_static("skysail-slo-micros");

/// The state that the handlers share.
pub(crate) struct QueryApi {
    /// Answers the queries.
    pub service: Arc<QueryService>,
    /// Reads and decodes request bodies.
    pub bodies: BodyReader,
    /// The most rows that one request may have.
    pub max_rows: usize,
}

/// Answers the query API's requests.
///
/// Most requests are queries. They are answered without a look at the router: matching, extracting and the boxed
/// futures between would cost a tenth of a query's processor time.
#[derive(Clone)]
pub(crate) struct QueryServer {
    api: Arc<QueryApi>,
    router: Router,
    /// The origins whose pages may read answers. Without it a browser hides the answers; every request is answered
    /// either way.
    cors: Option<Arc<Cors>>,
}

impl QueryServer {
    /// A server of this API and, on the same port, of the probes. Pages of `origins` may read its answers.
    pub(crate) fn new(api: Arc<QueryApi>, probes: Router, origins: Option<AllowedOrigins>) -> Self {
        let router = router(api.clone(), probes);
        let cors = |allowed| Cors {
            allowed,
            methods: "GET, POST",
            exposed: "",
        };
        let cors = origins.map(cors).map(Arc::new);
        Self { api, router, cors }
    }

    async fn answer_alone(&self, request: Request<Upload>) -> Response {
        let (head, body) = request.into_parts();
        match plain_application(&head) {
            Some(application) => match answer(&self.api, application, &head.headers, body).await {
                Ok(response) => response,
                Err(error) => error.into_response(),
            },
            None => self.router.answer(Request::from_parts(head, body)).await,
        }
    }
}

impl Answers for QueryServer {
    async fn answer(&self, request: Request<Upload>) -> Response {
        let Some(cors) = &self.cors else {
            return self.answer_alone(request).await;
        };
        let (head, body) = request.into_parts();
        if let Some(answer) = cors.preflight(&head) {
            return answer;
        }
        let origin = cors.allowed_origin(&head.headers);
        let mut answer = self.answer_alone(Request::from_parts(head, body)).await;
        cors.allow(origin, answer.headers_mut());
        answer
    }
}

/// The application that a query is for, if its name is not percent-encoded. `None` sends the request to the router.
fn plain_application(head: &Parts) -> Option<&str> {
    let path = head.uri.path();
    let path = path.strip_suffix('/').unwrap_or(path);
    let application = path.strip_prefix('/')?.strip_suffix("/predict")?;
    let is_plain = !application.is_empty() && !application.contains(['/', '%']);
    (is_plain && head.method == Method::POST).then_some(application)
}

/// The paths of the query API and of the probes.
fn router(api: Arc<QueryApi>, probes: Router) -> Router {
    Router::new()
        .route("/{application}/predict", post(predict))
        .route("/{application}/predict/", post(predict))
        .with_state(api)
        .merge(probes)
        .method_not_allowed_fallback(method_not_allowed)
        .fallback(not_found)
}

async fn predict(
    State(api): State<Arc<QueryApi>>,
    path: Result<Path<String>, PathRejection>,
    request: AxumRequest,
) -> Result<Response, QueryError> {
    let Ok(Path(application)) = path else {
        return Err(QueryError::UnknownPath(shown_path(request.uri())));
    };
    let (head, body) = request.into_parts();
    answer(&api, &application, &head.headers, body).await
}

async fn answer(
    api: &QueryApi,
    application: &str,
    headers: &HeaderMap,
    body: impl http::RequestBody,
) -> Result<Response, QueryError> {
    let route = api.service.route(application);
    let understood = |route| Ok((route, slo_of(headers)?, Encodings::of(headers)?));
    let (route, slo, encodings) = route.and_then(understood)?;
    let body = api.bodies.read(body).await?;
    let arrival = api.service.now();
    let body = api.bodies.decode(encodings, body).await?;
    let mut request = parse(&route, body, api.max_rows).await?;
    request.tighten(slo);
    let reply = api.service.predict(&route, request, arrival).await?;
    Ok(of_json(written::body(&reply).await))
}

/// The objective in the header, for clients that do not write the body themselves.
fn slo_of(headers: &HeaderMap) -> Result<Option<NonZeroU64>, QueryError> {
    let refused = |why| QueryError::Header {
        name: "Skysail-Slo-Micros",
        why,
    };
    let mut values = headers.get_all(&SLO_HEADER).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    if values.next().is_some() {
        return Err(refused("it is there more than once".into()));
    }
    let micros = value.to_str().ok().and_then(|text| text.trim().parse().ok());
    micros.map(Some).ok_or_else(|| {
        let given = String::from_utf8_lossy(value.as_bytes());
        refused(super::request::not_micros(&given))
    })
}

async fn parse(route: &Arc<Route>, body: Bytes, max_rows: usize) -> Result<PredictRequest, QueryError> {
    let is_large = body.len() >= LARGE_BODY_BYTES;
    let parse = move |route: &Route| {
        let parsed = PredictRequest::parse(&route.application.signature, &body, max_rows);
        parsed.map_err(|error| match error {
            Unread::Json(error) => unreadable(&body, &error),
            Unread::TooManyRows => QueryError::TooManyRows { max_rows },
        })
    };
    if is_large {
        let route = route.clone();
        return tokio::task::spawn_blocking(move || parse(&route))
            .await
            .expect("parsing does not panic; if it did, so do we");
    }
    parse(route)
}

/// Says where a body is not a query, and what it may be instead.
fn unreadable(body: &[u8], error: &serde_json::Error) -> QueryError {
    let words: String = error.to_string().chars().take(QUOTED_CHARS).collect();
    let advice = match error.is_data() {
        true => None,
        false => misread::advice(body),
    };
    QueryError::Json(match advice {
        None => format!("Error parsing JSON: {words}"),
        Some(advice) => format!("Error parsing JSON: {words}; {advice}"),
    })
}

fn of_json(body: Body) -> Response {
    let mut response = Response::new(body);
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

async fn not_found(uri: Uri) -> QueryError {
    QueryError::UnknownPath(shown_path(&uri))
}

async fn method_not_allowed(uri: Uri, method: Method) -> QueryError {
    QueryError::Method(shown_path(&uri), method.to_string())
}

/// The first 200 characters of a path, for an error text.
fn shown_path(uri: &Uri) -> String {
    uri.path().chars().take(200).collect()
}

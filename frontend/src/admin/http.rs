//! Admin REST: JSON in and out, errors as RFC 9457 problem details.

use std::convert::Infallible;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::rejection::{JsonRejection, PathRejection, QueryRejection};
use axum::extract::{DefaultBodyLimit, FromRequest, FromRequestParts, State};
use axum::http::header::{CONTENT_TYPE, LOCATION};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use axum::{Json, Router};
use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use serde::Deserialize;
use skysail_proto::admin::{
    API_PREFIX, ApplicationPatch, CurrentVersion, LogLine, NewApplication, NewVersion, Problem, ReplicaCount,
};
use skysail_proto::error_code::ErrorCode;
use skysail_proto::ids::{ApplicationName, ModelId, ModelName, ModelVersion};

use super::{AdminError, AdminService};
use crate::health::Health;
use crate::metrics::{self, Metrics};

/// The largest admin body, in bytes.
const BODY_BYTES: usize = 1024 * 1024;

/// What the handlers share.
pub struct AdminApi {
    /// Does the work.
    pub service: AdminService,
    /// Answers the probes, here too.
    pub health: Arc<Health>,
    /// All metrics.
    pub metrics: Arc<Metrics>,
}

type Api = State<Arc<AdminApi>>;
type Answer = Result<Response, AdminError>;

/// The admin API's routes.
pub fn router(api: Arc<AdminApi>) -> Router {
    let v1 = Router::new()
        .route("/applications", get(list_applications).post(register_application))
        .route(
            "/applications/{app}",
            get(show_application)
                .patch(update_application)
                .delete(delete_application),
        )
        .route("/applications/{app}/models/{model}", put(link).delete(unlink))
        .route("/models", get(list_models))
        .route("/models/{model}", get(show_model))
        .route("/models/{model}/versions", post(register_version))
        .route("/models/{model}/current-version", put(set_current_version))
        .route(
            "/models/{model}/versions/{version}",
            get(show_version).delete(delete_version),
        )
        .route("/models/{model}/versions/{version}/replicas", put(scale))
        .route("/models/{model}/versions/{version}/logs", get(logs))
        .route("/replicas", get(list_replicas))
        .route("/status", get(status));
    Router::new()
        .nest(API_PREFIX, v1)
        .route("/metrics", get(show_metrics))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .method_not_allowed_fallback(method_not_allowed)
        .fallback(not_found)
        .layer(DefaultBodyLimit::max(BODY_BYTES))
        .with_state(api)
}

impl IntoResponse for AdminError {
    fn into_response(self) -> Response {
        let problem = Problem {
            kind: format!(
                "urn:skysail:{}",
                self.code.title().to_lowercase().replace(' ', "-")
            ),
            title: self.code.title().into(),
            status: self.code.http_status(),
            detail: self.detail,
        };
        let status = StatusCode::from_u16(problem.status).expect("error codes map to valid statuses");
        let headers = [(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"))];
        let body = serde_json::to_vec(&problem).expect("a problem is made of strings; this is a bug");
        (status, headers, body).into_response()
    }
}

/// A JSON body, whatever the Content-Type says; a bad one is a problem document.
struct JsonBody<T>(T);

impl<T: serde::de::DeserializeOwned, S: Send + Sync> FromRequest<S> for JsonBody<T> {
    type Rejection = AdminError;
    async fn from_request(request: axum::extract::Request, state: &S) -> Result<Self, AdminError> {
        let bytes = Bytes::from_request(request, state).await.map_err(|rejection| {
            let code = match rejection.status() {
                StatusCode::PAYLOAD_TOO_LARGE => ErrorCode::TooLarge,
                _ => ErrorCode::InvalidArgument,
            };
            AdminError::new(code, rejection.body_text())
        })?;
        Json::from_bytes(&bytes)
            .map(|Json(value)| Self(value))
            .map_err(|rejection| {
                let words = match &rejection {
                    JsonRejection::JsonDataError(error) => innermost(error),
                    JsonRejection::JsonSyntaxError(error) => innermost(error),
                    other => other.body_text(),
                };
                AdminError::new(
                    ErrorCode::InvalidArgument,
                    format!("the body is not what was expected: {words}"),
                )
            })
    }
}

fn innermost(error: &dyn std::error::Error) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}

/// Names from the path; a bad one is a problem document.
struct Named<T>(T);

impl<T: serde::de::DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Named<T> {
    type Rejection = AdminError;
    async fn from_request_parts(
        parts: &mut axum::http::request::Parts,
        state: &S,
    ) -> Result<Self, AdminError> {
        let path = axum::extract::Path::<T>::from_request_parts(parts, state).await;
        path.map(|axum::extract::Path(names)| Self(names))
            .map_err(|rejection: PathRejection| {
                AdminError::new(ErrorCode::InvalidArgument, rejection.body_text())
            })
    }
}

async fn list_applications(State(api): Api) -> Answer {
    Ok(Json(api.service.applications()?).into_response())
}

async fn register_application(State(api): Api, JsonBody(new): JsonBody<NewApplication>) -> Answer {
    let name = new.name.clone();
    api.service.register_application(new).await?;
    let location = format!("{API_PREFIX}/applications/{name}");
    Ok((
        StatusCode::CREATED,
        [(LOCATION, location)],
        Json(api.service.application(&name)?),
    )
        .into_response())
}

async fn show_application(State(api): Api, Named(name): Named<ApplicationName>) -> Answer {
    Ok(Json(api.service.application(&name)?).into_response())
}

async fn update_application(
    State(api): Api,
    Named(name): Named<ApplicationName>,
    JsonBody(patch): JsonBody<ApplicationPatch>,
) -> Answer {
    api.service.update_application(&name, patch).await?;
    Ok(Json(api.service.application(&name)?).into_response())
}

async fn delete_application(State(api): Api, Named(name): Named<ApplicationName>) -> Answer {
    api.service.delete_application(&name).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

async fn link(State(api): Api, Named((name, model)): Named<(ApplicationName, ModelName)>) -> Answer {
    api.service.link(&name, &model).await?;
    Ok(Json(api.service.application(&name)?).into_response())
}

async fn unlink(State(api): Api, Named((name, model)): Named<(ApplicationName, ModelName)>) -> Answer {
    api.service.unlink(&name, &model).await?;
    Ok(Json(api.service.application(&name)?).into_response())
}

async fn list_models(State(api): Api) -> Answer {
    Ok(Json(api.service.models()?).into_response())
}

async fn show_model(State(api): Api, Named(name): Named<ModelName>) -> Answer {
    Ok(Json(api.service.model(&name)?).into_response())
}

async fn register_version(
    State(api): Api,
    Named(name): Named<ModelName>,
    JsonBody(new): JsonBody<NewVersion>,
) -> Answer {
    let id = ModelId::new(name.clone(), new.version.clone());
    api.service.register_version(&name, new).await?;
    let location = format!("{API_PREFIX}/models/{name}/versions/{}", id.version);
    Ok((
        StatusCode::CREATED,
        [(LOCATION, location)],
        Json(api.service.version(&id)?),
    )
        .into_response())
}

async fn show_version(State(api): Api, Named((name, version)): Named<(ModelName, ModelVersion)>) -> Answer {
    Ok(Json(api.service.version(&ModelId::new(name, version))?).into_response())
}

async fn delete_version(State(api): Api, Named((name, version)): Named<(ModelName, ModelVersion)>) -> Answer {
    api.service.delete_version(&ModelId::new(name, version)).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

async fn set_current_version(
    State(api): Api,
    Named(name): Named<ModelName>,
    JsonBody(chosen): JsonBody<CurrentVersion>,
) -> Answer {
    api.service.set_current_version(&name, &chosen.version).await?;
    Ok(Json(api.service.model(&name)?).into_response())
}

async fn scale(
    State(api): Api,
    Named((name, version)): Named<(ModelName, ModelVersion)>,
    JsonBody(wanted): JsonBody<ReplicaCount>,
) -> Answer {
    let id = ModelId::new(name, version);
    api.service.scale(&id, wanted.count).await?;
    Ok(Json(api.service.version(&id)?).into_response())
}

#[derive(Deserialize)]
struct LogOptions {
    #[serde(default = "default_tail")]
    tail: usize,
    #[serde(default)]
    follow: bool,
}

fn default_tail() -> usize {
    100
}

/// The query string, a bad one as a problem document.
struct Options<T>(T);

impl<T: serde::de::DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Options<T> {
    type Rejection = AdminError;
    async fn from_request_parts(
        parts: &mut axum::http::request::Parts,
        state: &S,
    ) -> Result<Self, AdminError> {
        let query = axum::extract::Query::<T>::from_request_parts(parts, state).await;
        query
            .map(|axum::extract::Query(options)| Self(options))
            .map_err(|rejection: QueryRejection| {
                AdminError::new(ErrorCode::InvalidArgument, rejection.body_text())
            })
    }
}

async fn logs(
    State(api): Api,
    Named((name, version)): Named<(ModelName, ModelVersion)>,
    Options(options): Options<LogOptions>,
) -> Answer {
    let lines = api
        .service
        .logs(&ModelId::new(name, version), options.tail, options.follow)
        .await?;
    let body = Body::from_stream(lines.map(|line| Ok::<_, Infallible>(json_line(&line))));
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
    Ok((headers, body).into_response())
}

fn json_line(line: &LogLine) -> Bytes {
    let mut written = serde_json::to_vec(line).expect("a log line is made of strings; this is a bug");
    written.push(b'\n');
    written.into()
}

async fn list_replicas(State(api): Api) -> Response {
    Json(api.service.replicas()).into_response()
}

async fn status(State(api): Api) -> Response {
    Json(api.service.status()).into_response()
}

async fn show_metrics(State(api): Api) -> Response {
    api.service.models.refresh_gauges();
    (
        [(CONTENT_TYPE, HeaderValue::from_static(metrics::CONTENT_TYPE))],
        api.metrics.render(),
    )
        .into_response()
}

async fn healthz(State(api): Api) -> Response {
    Json(api.health.alive()).into_response()
}

async fn readyz(State(api): Api) -> Response {
    let readiness = api.health.readiness();
    let status = if readiness.ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (status, Json(readiness)).into_response()
}

async fn not_found(uri: Uri) -> AdminError {
    let path: String = uri.path().chars().take(200).collect();
    AdminError::new(
        ErrorCode::NotFound,
        format!("nothing is at {path}; the API is below {API_PREFIX}"),
    )
}

async fn method_not_allowed(uri: Uri, method: Method) -> AdminError {
    let path: String = uri.path().chars().take(200).collect();
    AdminError::new(
        ErrorCode::MethodNotAllowed,
        format!("{path} does not take {method}"),
    )
}

impl AdminService {
    /// The log lines of a version's containers, each with its replica.
    pub async fn logs(
        &self,
        id: &ModelId,
        tail: usize,
        follow: bool,
    ) -> Result<impl Stream<Item = LogLine> + Send + 'static, AdminError> {
        let version = self.version(id)?;
        let Some(runtime) = &self.runtime else {
            let detail = "this frontend runs no containers: ask the one that does";
            return Err(AdminError::new(ErrorCode::Unavailable, detail));
        };
        let mut all = Vec::new();
        for container in version.containers {
            let lines = runtime
                .logs(&container.container, tail, follow)
                .await
                .map_err(|error| AdminError::new(ErrorCode::Unavailable, error.to_string()))?;
            let replica = container.replica;
            all.push(
                lines
                    .map(move |line| LogLine {
                        replica: replica.clone(),
                        line,
                    })
                    .boxed(),
            );
        }
        Ok(stream::select_all(all))
    }
}

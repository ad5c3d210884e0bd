//! Admin REST: JSON in and out, errors as RFC 9457 problem details.

use std::convert::Infallible;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{FromRequest, FromRequestParts, Request, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, LOCATION};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use axum::{Json, Router};
use bytes::Bytes;
use futures::StreamExt;
use serde::Deserialize;
use serde_json::json;
use skysail_proto::admin::{
    API_PREFIX, ApplicationPatch, CurrentVersion, LogLine, NewApplication, NewVersion, Problem, ReplicaCount,
};
use skysail_proto::error_code::ErrorCode;
use skysail_proto::ids::{ApplicationName, ModelId, ModelName, ModelVersion};
use skysail_proto::json;
use skysail_proto::sha256::Sha256;

use super::{AdminError, AdminService};
use crate::artifacts::ArtifactError;
use crate::http::encoding::Encodings;
use crate::http::{self, BodyError, BodyReader, misread};
use crate::ops::{self, Ops};
use crate::store::Settle;

/// The largest admin body, in bytes.
pub(crate) const BODY_BYTES: usize = 1024 * 1024;

/// Where artifacts are, below the API's prefix. Their bodies are the files themselves.
pub(super) const ARTIFACTS: &str = "/artifacts/";

/// How much of a parser's words is quoted, in characters: they may repeat what was sent.
const QUOTED_CHARS: usize = 300;

/// What the handlers share.
pub(crate) struct AdminApi {
    /// Does the work.
    pub service: AdminService,
    /// Reads bodies.
    pub bodies: BodyReader,
    /// Reads artifacts, which are larger.
    pub files: BodyReader,
}

type Api = State<Arc<AdminApi>>;
type Answer = Result<Response, AdminError>;

/// The admin API's routes.
pub(crate) fn router(api: Arc<AdminApi>, ops: Arc<Ops>) -> Router {
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
        .route("/models/{model}/versions/{version}/token", get(show_token))
        .route("/models/{model}/versions/{version}/logs", get(logs))
        .route(
            &format!("{ARTIFACTS}{{sha256}}"),
            get(show_artifact).put(keep_artifact),
        )
        .route("/replicas", get(list_replicas))
        .route("/cluster/restore", post(restore))
        .route("/cluster/accept-empty", post(accept_empty))
        .route("/cluster/adopt", post(adopt))
        .route("/status", get(status));
    Router::new()
        .nest(API_PREFIX, v1)
        .route("/", get(what_this_is))
        .merge(ops::routes(ops))
        .method_not_allowed_fallback(method_not_allowed)
        .fallback(not_found)
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
        if self.code == ErrorCode::TooSlow {
            return (status, headers, http::CLOSES, body).into_response();
        }
        (status, headers, body).into_response()
    }
}

/// A JSON body, as `access` lets no other in; a bad one is a problem document.
struct JsonBody<T>(T);

impl<T: serde::de::DeserializeOwned> FromRequest<Arc<AdminApi>> for JsonBody<T> {
    type Rejection = AdminError;
    async fn from_request(request: Request, api: &Arc<AdminApi>) -> Result<Self, AdminError> {
        let bytes = read_body(request, &api.bodies).await?;
        let parsed = json::each_member_once(&bytes).and_then(|()| serde_json::from_slice(&bytes));
        parsed.map(Self).map_err(|error| {
            let words: String = error.to_string().chars().take(QUOTED_CHARS).collect();
            let mut detail = format!("the body is not what was expected: {words}");
            if let Some(advice) = misread::advice(&bytes).filter(|_| !error.is_data()) {
                detail.extend(["; ", advice]);
            }
            AdminError::new(ErrorCode::InvalidArgument, detail)
        })
    }
}

impl From<BodyError> for AdminError {
    fn from(error: BodyError) -> Self {
        let code = match error {
            BodyError::TooLarge(_) | BodyError::InflatedTooLarge(_) => ErrorCode::TooLarge,
            BodyError::Encoding(_) => ErrorCode::Unsupported,
            BodyError::TooSlow { .. } => ErrorCode::TooSlow,
            BodyError::Broken(_) | BodyError::Undecodable(_) => ErrorCode::InvalidArgument,
        };
        Self::new(code, error.to_string())
    }
}

async fn read_body(request: Request, bodies: &BodyReader) -> Result<Bytes, BodyError> {
    let encodings = Encodings::of(request.headers())?;
    let body = bodies.read(request.into_body()).await?;
    bodies.decode(encodings, body).await
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
    let catalog = api.service.register_application(new).await?;
    let location = format!("{API_PREFIX}/applications/{name}");
    Ok((
        StatusCode::CREATED,
        [(LOCATION, location)],
        Json(AdminService::application(&catalog, &name)?),
    )
        .into_response())
}

async fn show_application(State(api): Api, Named(name): Named<ApplicationName>) -> Answer {
    let catalog = api.service.catalog()?;
    Ok(Json(AdminService::application(&catalog, &name)?).into_response())
}

async fn update_application(
    State(api): Api,
    Named(name): Named<ApplicationName>,
    JsonBody(patch): JsonBody<ApplicationPatch>,
) -> Answer {
    let catalog = api.service.update_application(&name, patch).await?;
    Ok(Json(AdminService::application(&catalog, &name)?).into_response())
}

async fn delete_application(State(api): Api, Named(name): Named<ApplicationName>) -> Answer {
    api.service.delete_application(&name).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

async fn link(State(api): Api, Named((name, model)): Named<(ApplicationName, ModelName)>) -> Answer {
    let catalog = api.service.link(&name, &model).await?;
    Ok(Json(AdminService::application(&catalog, &name)?).into_response())
}

async fn unlink(State(api): Api, Named((name, model)): Named<(ApplicationName, ModelName)>) -> Answer {
    let catalog = api.service.unlink(&name, &model).await?;
    Ok(Json(AdminService::application(&catalog, &name)?).into_response())
}

async fn list_models(State(api): Api) -> Answer {
    Ok(Json(api.service.models()?).into_response())
}

async fn show_model(State(api): Api, Named(name): Named<ModelName>) -> Answer {
    let catalog = api.service.catalog()?;
    Ok(Json(api.service.model(&catalog, &name)?).into_response())
}

async fn register_version(
    State(api): Api,
    Named(name): Named<ModelName>,
    JsonBody(new): JsonBody<NewVersion>,
) -> Answer {
    let id = ModelId::new(name.clone(), new.version.clone());
    let catalog = api.service.register_version(&name, new).await?;
    let location = format!("{API_PREFIX}/models/{name}/versions/{}", id.version);
    let mut version = api.service.version(&catalog, &id)?;
    if version.spec.deployment.is_none() {
        let token = api.service.join_token(&catalog, &id)?.token;
        version.token = Some(token).filter(|token| !token.is_empty());
    }
    Ok((StatusCode::CREATED, [(LOCATION, location)], Json(version)).into_response())
}

async fn show_version(State(api): Api, Named((name, version)): Named<(ModelName, ModelVersion)>) -> Answer {
    let catalog = api.service.catalog()?;
    Ok(Json(api.service.version(&catalog, &ModelId::new(name, version))?).into_response())
}

async fn show_token(State(api): Api, Named((name, version)): Named<(ModelName, ModelVersion)>) -> Answer {
    let catalog = api.service.catalog()?;
    let token = api.service.join_token(&catalog, &ModelId::new(name, version))?;
    Ok(([(CACHE_CONTROL, "no-store")], Json(token)).into_response())
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
    let catalog = api.service.set_current_version(&name, &chosen.version).await?;
    Ok(Json(api.service.model(&catalog, &name)?).into_response())
}

async fn scale(
    State(api): Api,
    Named((name, version)): Named<(ModelName, ModelVersion)>,
    JsonBody(wanted): JsonBody<ReplicaCount>,
) -> Answer {
    let id = ModelId::new(name, version);
    let catalog = api.service.scale(&id, wanted).await?;
    Ok(Json(api.service.version(&catalog, &id)?).into_response())
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

async fn show_artifact(State(api): Api, Named(sha256): Named<Sha256>) -> Answer {
    Ok(Json(api.service.artifact(sha256).await?).into_response())
}

async fn keep_artifact(State(api): Api, Named(sha256): Named<Sha256>, request: Request) -> Answer {
    if Encodings::of(request.headers())? != Encodings::default() {
        let advice = "an artifact is taken as it is only: send it without `Content-Encoding`";
        return Err(AdminError::new(ErrorCode::Unsupported, advice));
    }
    let pieces = api.files.pieces(request.into_body());
    let pieces = pieces.map_err(ArtifactError::from)?;
    let received = api.service.keep_artifact(sha256, pieces).await?;
    let status = match received.is_new {
        true => StatusCode::CREATED,
        false => StatusCode::OK,
    };
    Ok((status, Json(received.artifact)).into_response())
}

async fn list_replicas(State(api): Api) -> Response {
    Json(api.service.replicas()).into_response()
}

async fn restore(State(api): Api) -> Answer {
    Ok(Json(api.service.settle(Settle::Restore).await?).into_response())
}

async fn accept_empty(State(api): Api) -> Answer {
    Ok(Json(api.service.settle(Settle::Accept).await?).into_response())
}

async fn adopt(State(api): Api) -> Answer {
    Ok(Json(api.service.adopt().await?).into_response())
}

async fn status(State(api): Api) -> Response {
    Json(api.service.status().await).into_response()
}

/// For a person who opens the address: what there is.
async fn what_this_is() -> Response {
    let paths = json!({
        "name": "skysail",
        "version": env!("CARGO_PKG_VERSION"),
        "api": API_PREFIX,
        "status": format!("{API_PREFIX}/status"),
        "metrics": ops::METRICS,
        "probes": ops::PROBES,
    });
    Json(paths).into_response()
}

async fn not_found(uri: Uri) -> AdminError {
    let detail = format!(
        "nothing is at {}; the API is below {API_PREFIX}",
        shown_path(&uri)
    );
    AdminError::new(ErrorCode::NotFound, detail)
}

async fn method_not_allowed(uri: Uri, method: Method) -> AdminError {
    let detail = format!("{} does not take {method}", shown_path(&uri));
    AdminError::new(ErrorCode::MethodNotAllowed, detail)
}

/// A path, as far as it is worth repeating.
fn shown_path(uri: &Uri) -> String {
    uri.path().chars().take(200).collect()
}

//! The admin API, one method per endpoint.

use std::io;
use std::marker::PhantomData;
use std::time::Duration;

use bytes::Bytes;
use futures::Stream;
use reqwest::header::{CONTENT_LENGTH, CONTENT_TYPE};
use reqwest::{Body, Method, RequestBuilder, Response, StatusCode, Url};
use serde::Serialize;
use skysail_proto::admin::{
    API_PREFIX, Adoption, Application, ApplicationPatch, CurrentVersion, JoinToken, Model, NewApplication,
    NewVersion, Replica, ReplicaCount, Settlement, Status, StoredArtifact, Version,
};
use skysail_proto::deployment::Replicas;
use skysail_proto::ids::{ApplicationName, ModelId, ModelName};
use skysail_proto::sha256::Sha256;

use super::{Answer, Api, ClientError, admin_refusal, http_client, read_body, send};
use crate::credentials::FoundToken;

/// An admin request is a commit to the store at most; one that takes longer will not be answered.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// Speaks to the admin API of one frontend.
#[derive(Clone, Debug)]
pub(crate) struct AdminClient {
    http: reqwest::Client,
    url: Url,
    token: Option<FoundToken>,
}

/// A log as it comes, in pieces that end anywhere.
pub(crate) struct LogStream {
    url: Url,
    response: Response,
}

impl LogStream {
    /// The next piece; none once the log has ended.
    pub(crate) async fn next(&mut self) -> Result<Option<Vec<u8>>, ClientError> {
        let chunk = self.response.chunk().await;
        let chunk = chunk.map_err(|error| ClientError::of_transport(Api::Admin, &self.url, &error))?;
        Ok(chunk.map(Vec::from))
    }
}

impl AdminClient {
    pub(crate) fn new(url: Url) -> Self {
        Self {
            http: http_client(&url),
            url,
            token: None,
        }
    }

    /// Shows this token with every request.
    pub(crate) fn with_token(self, token: Option<FoundToken>) -> Self {
        Self { token, ..self }
    }

    /// Where it speaks to.
    pub(crate) fn url(&self) -> &Url {
        &self.url
    }

    pub(crate) async fn status(&self) -> Result<Answer<Status>, ClientError> {
        self.get("/status").await
    }

    pub(crate) async fn applications(&self) -> Result<Answer<Vec<Application>>, ClientError> {
        self.get("/applications").await
    }

    pub(crate) async fn application(
        &self,
        name: &ApplicationName,
    ) -> Result<Answer<Application>, ClientError> {
        self.get(&format!("/applications/{name}")).await
    }

    pub(crate) async fn register_application(
        &self,
        application: &NewApplication,
    ) -> Result<Answer<Application>, ClientError> {
        self.send_json(Method::POST, "/applications", application).await
    }

    pub(crate) async fn update_application(
        &self,
        name: &ApplicationName,
        patch: &ApplicationPatch,
    ) -> Result<Answer<Application>, ClientError> {
        self.send_json(Method::PATCH, &format!("/applications/{name}"), patch)
            .await
    }

    pub(crate) async fn delete_application(&self, name: &ApplicationName) -> Result<(), ClientError> {
        self.delete(&format!("/applications/{name}")).await
    }

    pub(crate) async fn link(
        &self,
        application: &ApplicationName,
        model: &ModelName,
    ) -> Result<Answer<Application>, ClientError> {
        let path = format!("/applications/{application}/models/{model}");
        self.exchange(self.request(Method::PUT, &path)).await
    }

    pub(crate) async fn unlink(
        &self,
        application: &ApplicationName,
        model: &ModelName,
    ) -> Result<Answer<Application>, ClientError> {
        let path = format!("/applications/{application}/models/{model}");
        self.exchange(self.request(Method::DELETE, &path)).await
    }

    pub(crate) async fn models(&self) -> Result<Answer<Vec<Model>>, ClientError> {
        self.get("/models").await
    }

    pub(crate) async fn model(&self, name: &ModelName) -> Result<Answer<Model>, ClientError> {
        self.get(&format!("/models/{name}")).await
    }

    pub(crate) async fn create_version(
        &self,
        model: &ModelName,
        version: &NewVersion,
    ) -> Result<Answer<Version>, ClientError> {
        self.send_json(Method::POST, &format!("/models/{model}/versions"), version)
            .await
    }

    pub(crate) async fn version(&self, id: &ModelId) -> Result<Answer<Version>, ClientError> {
        self.get(&version_path(id)).await
    }

    /// What containers of a version started by hand show to attach.
    pub(crate) async fn join_token(&self, id: &ModelId) -> Result<Answer<JoinToken>, ClientError> {
        self.get(&format!("{}/token", version_path(id))).await
    }

    /// What the frontend knows of a file that was uploaded to it.
    pub(crate) async fn artifact(&self, sha256: Sha256) -> Result<Answer<StoredArtifact>, ClientError> {
        self.get(&artifact_path(sha256)).await
    }

    /// Uploads a file. It has no time limit of its own: the frontend ends an upload that stalls.
    pub(crate) async fn upload(
        &self,
        sha256: Sha256,
        bytes: u64,
        content: impl Stream<Item = io::Result<Bytes>> + Send + 'static,
    ) -> Result<Answer<StoredArtifact>, ClientError> {
        let request = self
            .endless_request(Method::PUT, &artifact_path(sha256))
            .header(CONTENT_TYPE, "application/octet-stream")
            // One that is too large is then refused before it is sent.
            .header(CONTENT_LENGTH, bytes)
            .body(Body::wrap_stream(content));
        self.exchange(request).await
    }

    pub(crate) async fn delete_version(&self, id: &ModelId) -> Result<(), ClientError> {
        self.delete(&version_path(id)).await
    }

    pub(crate) async fn set_current_version(&self, id: &ModelId) -> Result<Answer<Model>, ClientError> {
        let path = format!("/models/{}/current-version", id.name);
        let version = id.version.clone();
        self.send_json(Method::PUT, &path, &CurrentVersion { version })
            .await
    }

    pub(crate) async fn scale(&self, id: &ModelId, wanted: Replicas) -> Result<Answer<Version>, ClientError> {
        let path = format!("{}/replicas", version_path(id));
        self.send_json(Method::PUT, &path, &ReplicaCount::from(wanted))
            .await
    }

    pub(crate) async fn logs(&self, id: &ModelId, tail: u32, follow: bool) -> Result<LogStream, ClientError> {
        let path = format!("{}/logs?tail={tail}&follow={follow}", version_path(id));
        let request = self.endless_request(Method::GET, &path);
        let response = send(Api::Admin, &self.url, request).await?;
        let url = self.url.clone();
        if response.status().is_success() {
            return Ok(LogStream { url, response });
        }
        let status = response.status();
        let body = read_body(Api::Admin, &url, response).await?;
        Err(self.refusal(status, &body))
    }

    pub(crate) async fn replicas(&self) -> Result<Answer<Vec<Replica>>, ClientError> {
        self.get("/replicas").await
    }

    /// Writes back what the frontends hold and the store lost.
    pub(crate) async fn restore(&self) -> Result<Answer<Settlement>, ClientError> {
        self.exchange(self.request(Method::POST, "/cluster/restore"))
            .await
    }

    /// Follows a store that lost something as it is.
    pub(crate) async fn accept_empty(&self) -> Result<Answer<Settlement>, ClientError> {
        self.exchange(self.request(Method::POST, "/cluster/accept-empty"))
            .await
    }

    /// Takes over containers that were started for another store.
    pub(crate) async fn adopt(&self) -> Result<Answer<Adoption>, ClientError> {
        self.exchange(self.request(Method::POST, "/cluster/adopt")).await
    }

    async fn get<T>(&self, path: &str) -> Result<Answer<T>, ClientError> {
        self.exchange(self.request(Method::GET, path)).await
    }

    async fn delete(&self, path: &str) -> Result<(), ClientError> {
        let _: Answer<()> = self.exchange(self.request(Method::DELETE, path)).await?;
        Ok(())
    }

    async fn send_json<T>(
        &self,
        method: Method,
        path: &str,
        body: &impl Serialize,
    ) -> Result<Answer<T>, ClientError> {
        self.exchange(self.request(method, path).json(body)).await
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.endless_request(method, path).timeout(REQUEST_TIMEOUT)
    }

    /// A request that may be answered for as long as it takes.
    fn endless_request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.http.request(method, self.endpoint(path));
        match &self.token {
            Some(found) => request.bearer_auth(found.token.reveal()),
            None => request,
        }
    }

    fn endpoint(&self, path: &str) -> String {
        format!("{}{API_PREFIX}{path}", self.url.as_str().trim_end_matches('/'))
    }

    async fn exchange<T>(&self, request: RequestBuilder) -> Result<Answer<T>, ClientError> {
        let response = send(Api::Admin, &self.url, request).await?;
        let status = response.status();
        let body = read_body(Api::Admin, &self.url, response).await?;
        if !status.is_success() {
            return Err(self.refusal(status, &body));
        }
        Ok(Answer {
            url: self.url.clone(),
            body,
            meaning: PhantomData,
        })
    }

    fn refusal(&self, status: StatusCode, body: &[u8]) -> ClientError {
        let place = self.token.as_ref().map(|found| found.place.clone());
        match admin_refusal(&self.url, status, body) {
            ClientError::Refused { status, detail } if status == StatusCode::UNAUTHORIZED => {
                ClientError::Unauthenticated { detail, place }
            }
            other => other,
        }
    }
}

fn artifact_path(sha256: Sha256) -> String {
    format!("/artifacts/{sha256}")
}

fn version_path(id: &ModelId) -> String {
    format!("/models/{}/versions/{}", id.name, id.version)
}

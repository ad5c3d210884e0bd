//! Requests and their replies, read as a stranger to Skysail's code reads them: as text and JSON.

use std::net::SocketAddr;

use reqwest::header::{CONTENT_TYPE, HeaderMap};
use reqwest::{Client, Method};
use serde_json::Value;

/// A reply, whole.
#[derive(Clone, Debug)]
pub struct Reply {
    /// The HTTP status.
    pub status: u16,
    /// The media type, empty if there is none.
    pub content_type: String,
    /// All headers.
    pub headers: HeaderMap,
    /// The body.
    pub text: String,
}

impl Reply {
    /// A reply of these parts.
    pub(crate) fn new(status: u16, headers: HeaderMap, text: String) -> Self {
        let content_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
        Self {
            status,
            content_type: content_type.unwrap_or_default().to_owned(),
            headers,
            text,
        }
    }

    /// A header, empty if it is not there.
    pub fn header(&self, name: &str) -> &str {
        let value = self.headers.get(name).and_then(|value| value.to_str().ok());
        value.unwrap_or_default()
    }

    /// The body as JSON.
    ///
    /// # Panics
    /// If it is none.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error} in {self:?}"))
    }

    /// The body as JSON, of a reply with this status.
    ///
    /// # Panics
    /// If the status is another.
    #[track_caller]
    pub fn expect(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.text);
        if self.text.is_empty() {
            Value::Null
        } else {
            self.json()
        }
    }

    /// The detail of a problem document (RFC 9457) with this status.
    ///
    /// # Panics
    /// If it is no such document.
    #[track_caller]
    pub fn problem(&self, status: u16) -> String {
        let problem = self.expect(status);
        assert_eq!(self.content_type, "application/problem+json", "{self:?}");
        assert_eq!(problem["status"], status, "{problem}");
        for member in ["type", "title", "detail"] {
            let text = problem[member].as_str().unwrap_or_default();
            assert!(!text.is_empty(), "{member} is missing in {problem}");
        }
        problem["detail"].as_str().unwrap_or_default().to_owned()
    }

    /// The cause in an error of the query API, with this status.
    ///
    /// # Panics
    /// If it is no such error.
    #[track_caller]
    pub fn cause(&self, status: u16) -> String {
        let error = self.expect(status);
        let members: Vec<&str> = error
            .as_object()
            .into_iter()
            .flatten()
            .map(|(name, _)| &**name)
            .collect();
        assert_eq!(members.len(), 2, "{error}");
        let class = error["error"].as_str().unwrap_or_default();
        assert!(!class.is_empty(), "{error}");
        error["cause"].as_str().expect("a cause").to_owned()
    }
}

/// One of the two REST APIs of a frontend.
#[derive(Clone)]
pub struct Rest {
    http: Client,
    addr: SocketAddr,
    token: Option<String>,
}

impl Rest {
    /// Talks to the API at this address.
    pub fn at(addr: SocketAddr) -> Self {
        // A proxy of the machine is for the world outside.
        let http = Client::builder().no_proxy().build().expect("an HTTP client");
        let token = None;
        Self { http, addr, token }
    }

    /// Shows this token with every request.
    pub fn with_token(self, token: &str) -> Self {
        let token = Some(token.to_owned());
        Self { token, ..self }
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Sends a request with this body, as JSON.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        body: impl Into<reqwest::Body>,
    ) -> reqwest::Result<Reply> {
        self.send_as("application/json", method, path, body).await
    }

    async fn send_as(
        &self,
        content_type: &str,
        method: Method,
        path: &str,
        body: impl Into<reqwest::Body>,
    ) -> reqwest::Result<Reply> {
        let url = format!("http://{}{path}", self.addr);
        let mut request = self.http.request(method, url).body(body);
        request = request.header(CONTENT_TYPE, content_type);
        if let Some(token) = &self.token {
            request = request.bearer_auth(token);
        }
        let response = request.send().await?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        Ok(Reply::new(status, headers, response.text().await?))
    }

    /// `GET`.
    pub async fn get(&self, path: &str) -> Reply {
        self.must(Method::GET, path, String::new()).await
    }

    /// `POST` with a JSON body.
    pub async fn post(&self, path: &str, body: Value) -> Reply {
        self.must(Method::POST, path, body.to_string()).await
    }

    /// `PUT` with a JSON body.
    pub async fn put(&self, path: &str, body: Value) -> Reply {
        self.must(Method::PUT, path, body.to_string()).await
    }

    /// `PUT` with a body of bytes.
    pub async fn put_bytes(&self, path: &str, body: impl Into<reqwest::Body>) -> Reply {
        let reply = self
            .send_as("application/octet-stream", Method::PUT, path, body)
            .await;
        reply.unwrap_or_else(|error| panic!("PUT {path}: {error:?}"))
    }

    /// `PATCH` with a JSON body.
    pub async fn patch(&self, path: &str, body: Value) -> Reply {
        self.must(Method::PATCH, path, body.to_string()).await
    }

    /// `DELETE`.
    pub async fn delete(&self, path: &str) -> Reply {
        self.must(Method::DELETE, path, String::new()).await
    }

    /// `POST` with a body of any text.
    pub async fn post_text(&self, path: &str, body: impl Into<String>) -> Reply {
        self.must(Method::POST, path, body.into()).await
    }

    async fn must(&self, method: Method, path: &str, body: String) -> Reply {
        let what = format!("{method} {path}");
        let reply = self.send(method, path, body).await;
        reply.unwrap_or_else(|error| panic!("{what}: {error:?}"))
    }
}

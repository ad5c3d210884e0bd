//! The admin API and the query API as the CLI sees them: one request, one typed answer or a typed error.

use std::marker::PhantomData;
use std::time::Duration;
use std::{fmt, io};

use reqwest::{RequestBuilder, Response, StatusCode, Url};
use serde::de::DeserializeOwned;
use skysail_proto::admin::Problem;

use crate::arguments::is_local;

mod admin;
mod query;

pub(crate) use admin::AdminClient;
pub(crate) use query::{Prediction, QueryClient};

/// Whoever does not take a connection within this time is not there.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Which of the two APIs is spoken to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Api {
    Admin,
    Query,
}

impl fmt::Display for Api {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Admin => "the admin API",
            Self::Query => "the query API",
        })
    }
}

/// Why there is no answer, or why it is a refusal.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientError {
    /// Nobody takes the connection.
    #[error("cannot reach {api} at {url}: {reason}")]
    Unreachable { api: Api, url: String, reason: String },
    /// The connection was taken, and then nothing came.
    #[error("{api} at {url} did not answer in time")]
    TimedOut { api: Api, url: String },
    /// The connection was taken and broke.
    #[error("the connection to {url} broke: {reason}")]
    Broken { url: String, reason: String },
    /// The server refuses, and says why.
    #[error("{detail}")]
    Refused { status: StatusCode, detail: String },
    /// The server asks for a token, and it did not get the right one.
    #[error("{detail}")]
    Unauthenticated {
        detail: String,
        /// Where the token that was sent was found, if one was sent.
        place: Option<String>,
    },
    /// Something answers that is not the server.
    #[error("{url} answers {status}, but not as {api} does{}", quoted(excerpt))]
    Foreign {
        api: Api,
        url: String,
        status: StatusCode,
        excerpt: String,
    },
    /// The server answers with what this CLI does not know.
    #[error("the answer of {url} cannot be read: {reason}")]
    Unreadable { url: String, reason: serde_json::Error },
}

fn quoted(excerpt: &str) -> String {
    if excerpt.is_empty() {
        String::new()
    } else {
        format!(": `{excerpt}`")
    }
}

impl ClientError {
    /// Whether the server says that something named does not exist.
    pub(crate) fn is_not_found(&self) -> bool {
        self.is_refused_with(StatusCode::NOT_FOUND)
    }

    /// Whether the server says that what is asked for does not go together with what is there.
    pub(crate) fn is_conflict(&self) -> bool {
        self.is_refused_with(StatusCode::CONFLICT)
    }

    fn is_refused_with(&self, expected: StatusCode) -> bool {
        matches!(self, Self::Refused { status, .. } if *status == expected)
    }

    /// Whether the server may just be restarting.
    pub(crate) fn is_passing(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::TimedOut { .. } | Self::Broken { .. } => true,
            Self::Refused { status, .. } => *status == StatusCode::SERVICE_UNAVAILABLE,
            Self::Unauthenticated { .. } | Self::Foreign { .. } | Self::Unreadable { .. } => false,
        }
    }

    /// Nobody takes a connection to `url`.
    pub(crate) fn unreachable(api: Api, url: &Url, error: &io::Error) -> Self {
        Self::Unreachable {
            api,
            url: origin(url),
            reason: in_words(&error.to_string()),
        }
    }

    fn of_transport(api: Api, url: &Url, error: &reqwest::Error) -> Self {
        let url = origin(url);
        let reason = root_cause(error);
        if error.is_connect() {
            Self::Unreachable { api, url, reason }
        } else if error.is_timeout() {
            Self::TimedOut { api, url }
        } else {
            Self::Broken { url, reason }
        }
    }

    /// What to do about it, where that can be guessed.
    pub(crate) fn hint(&self) -> Option<String> {
        match self {
            Self::Unreachable { api: Api::Admin, .. } | Self::TimedOut { api: Api::Admin, .. } => Some(
                "is a frontend running? `skysail start` brings up a cluster in Docker, `skysail-frontend` \
                 one process; another address is named by --admin-url or SKYSAIL_ADMIN_URL"
                    .into(),
            ),
            Self::Unreachable { api: Api::Query, .. } | Self::TimedOut { api: Api::Query, .. } => Some(
                "where the frontend's own view of its address cannot be reached from here, name it by \
                 --query-url or SKYSAIL_QUERY_URL"
                    .into(),
            ),
            Self::Foreign { api: Api::Admin, .. } => {
                Some("--admin-url must name a frontend's admin address (port 1338 by default)".into())
            }
            Self::Foreign { api: Api::Query, .. } => {
                Some("--query-url must name a frontend's query address (port 1337 by default)".into())
            }
            Self::Unreadable { .. } => Some(format!(
                "is the frontend of another version than this `skysail` ({})?",
                env!("CARGO_PKG_VERSION")
            )),
            Self::Unauthenticated { place: None, .. } => Some(
                "name the file with the token by --admin-token-file, or set SKYSAIL_ADMIN_TOKEN; \
                 `skysail-frontend` logs where its token is, `skysail start` keeps one for whoever started \
                 the cluster"
                    .into(),
            ),
            Self::Unauthenticated {
                place: Some(place), ..
            } => Some(format!(
                "the token that was sent is from {place}: is it of another cluster, or of before the token was \
                 changed? name another by --admin-token-file or SKYSAIL_ADMIN_TOKEN"
            )),
            Self::Refused { status, .. } if *status == StatusCode::FORBIDDEN => Some(
                "name the frontend by its IP address in --admin-url, or let it know its name: \
                 `skysail-frontend --admin-host NAME`"
                    .into(),
            ),
            Self::Broken { .. } | Self::Refused { .. } => None,
        }
    }
}

/// Scheme, host and port: what a person would pass as a flag.
fn origin(url: &Url) -> String {
    url.origin().ascii_serialization()
}

/// The innermost cause, which is the one that a person can act on ("connection refused").
fn root_cause(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    in_words(&cause.to_string())
}

/// What the system says of an error, without its number, which says nothing that the words do not.
fn in_words(text: &str) -> String {
    match text.split_once(" (os error") {
        Some((words, _)) => words.to_lowercase(),
        None => text.to_owned(),
    }
}

/// A body as it came, and what it means.
#[derive(Debug)]
pub(crate) struct Answer<T> {
    url: Url,
    body: Vec<u8>,
    meaning: PhantomData<fn() -> T>,
}

impl<T> Answer<T> {
    /// The bytes that came.
    pub(crate) fn body(&self) -> &[u8] {
        &self.body
    }
}

impl<T: DeserializeOwned> Answer<T> {
    /// Reads the body. Nothing but this needs to understand it, so that `--output json` also works with
    /// a newer server.
    pub(crate) fn read(&self) -> Result<T, ClientError> {
        serde_json::from_slice(&self.body).map_err(|reason| ClientError::Unreadable {
            url: origin(&self.url),
            reason,
        })
    }
}

/// An HTTP client for `url`: direct if that is this machine, otherwise by the proxy of the environment.
fn http_client(url: &Url) -> reqwest::Client {
    let mut builder = reqwest::Client::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .user_agent(concat!("skysail/", env!("CARGO_PKG_VERSION")));
    if is_local(url) {
        builder = builder.no_proxy();
    }
    builder
        .build()
        .expect("nothing in these settings can fail without TLS; this is a bug")
}

/// Sends `request` to `api` at `url` and gives the response, whatever its status.
async fn send(api: Api, url: &Url, request: RequestBuilder) -> Result<Response, ClientError> {
    request
        .send()
        .await
        .map_err(|error| ClientError::of_transport(api, url, &error))
}

/// Reads the whole body of a response.
async fn read_body(api: Api, url: &Url, response: Response) -> Result<Vec<u8>, ClientError> {
    let body = response.bytes().await;
    body.map(Vec::from)
        .map_err(|error| ClientError::of_transport(api, url, &error))
}

/// What a body that is no answer and no refusal looks like: its first line, shortened.
fn excerpt(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    let line = text.lines().next().unwrap_or_default().trim();
    line.chars().take(80).collect()
}

/// The refusal in a response of the admin API.
fn admin_refusal(url: &Url, status: StatusCode, body: &[u8]) -> ClientError {
    match serde_json::from_slice::<Problem>(body) {
        Ok(problem) => ClientError::Refused {
            status,
            detail: problem.detail,
        },
        Err(_) => ClientError::Foreign {
            api: Api::Admin,
            url: origin(url),
            status,
            excerpt: excerpt(body),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url() -> Url {
        Url::parse("http://127.0.0.1:1338/api/v1/status").unwrap()
    }

    #[test]
    fn a_problem_document_is_answered_with_its_detail() {
        let body =
            br#"{"type": "urn:skysail:conflict", "title": "Conflict", "status": 409, "detail": "taken"}"#;
        let error = admin_refusal(&url(), StatusCode::CONFLICT, body);
        assert_eq!(error.to_string(), "taken");
        assert!(error.hint().is_none());
    }

    #[test]
    fn an_answer_of_something_else_is_told_apart_from_a_refusal() {
        let error = admin_refusal(&url(), StatusCode::NOT_FOUND, b"<html>\n<body>");
        assert_eq!(
            error.to_string(),
            "http://127.0.0.1:1338 answers 404 Not Found, but not as the admin API does: `<html>`"
        );
        assert!(!error.is_not_found());
        assert!(error.hint().unwrap().contains("--admin-url"));
    }

    #[test]
    fn an_admin_api_that_is_not_there_brings_advice() {
        let error = ClientError::Unreachable {
            api: Api::Admin,
            url: origin(&url()),
            reason: "connection refused".into(),
        };
        assert_eq!(
            error.to_string(),
            "cannot reach the admin API at http://127.0.0.1:1338: connection refused"
        );
        let hint = error.hint().unwrap();
        for advice in ["skysail start", "--admin-url", "SKYSAIL_ADMIN_URL"] {
            assert!(hint.contains(advice), "{hint}");
        }
    }

    #[test]
    fn the_body_survives_being_understood() {
        let answer: Answer<Vec<u32>> = Answer {
            url: url(),
            body: b"[1,  2 ]\n".to_vec(),
            meaning: PhantomData,
        };
        assert_eq!(answer.read().unwrap(), [1, 2]);
        assert_eq!(answer.body(), b"[1,  2 ]\n");
    }
    #[test]
    fn a_server_that_is_away_may_come_back_and_one_that_refuses_will_not() {
        let refused = |status| ClientError::Refused {
            status,
            detail: String::new(),
        };
        let broken = ClientError::Broken {
            url: String::new(),
            reason: String::new(),
        };
        assert!(broken.is_passing());
        assert!(refused(StatusCode::SERVICE_UNAVAILABLE).is_passing());
        assert!(!refused(StatusCode::NOT_FOUND).is_passing());
    }
}

//! Who asks, and may they? The one place that is asked before a request of the admin API is routed.
//!
//! Everything is refused that is not open to all (`OPEN`) and is not allowed here, so a path that is spelt in
//! another way, or that does not exist, tells nothing either. There are two questions: whether a web page asks
//! that has no business here (`browser`), and whether the token that is asked for was shown (`token`).
//! Users and roles would be told apart in `Access::admit`.

use axum::http::header::{CONTENT_TYPE, WWW_AUTHENTICATE};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue};
use axum::response::{IntoResponse, Response};
use hyper::Request;
use hyper::body::Body;
use skysail_proto::admin::API_PREFIX;
use skysail_proto::error_code::ErrorCode;

use super::AdminError;
use super::http::ARTIFACTS;
use crate::http::{Answers, Cors, Upload};

mod browser;
mod keeper;
pub(crate) mod token;

pub(crate) use browser::Browsers;
pub(crate) use keeper::TokenKeeper;
use token::AskedToken;

/// What anybody may ask for: probes, metrics, and what this is.
const OPEN: [&str; 4] = ["/", "/healthz", "/readyz", "/metrics"];

/// What pages of an allowed origin may do.
pub(crate) const METHODS: &str = "GET, POST, PUT, PATCH, DELETE";

/// What guards the admin API.
#[derive(Clone)]
pub(crate) struct Access {
    /// Which web pages may ask, and by which names.
    pub browsers: Browsers,
    /// What has to be shown.
    pub token: AskedToken,
    /// Tells browsers the same.
    pub cors: Cors,
}

impl Access {
    /// Whether a request may be answered, and why not.
    fn admit(&self, head: &Parts, has_body: bool) -> Result<(), AdminError> {
        if OPEN.contains(&head.uri.path()) {
            return Ok(());
        }
        self.browsers.admit(head)?;
        match self.token.is_asked() {
            true => self.token.admit(&head.headers)?,
            // Whoever has the token is no page that was led here by a name of its own.
            false => self.browsers.admit_host(head)?,
        }
        match has_body {
            true => admit_body(head),
            false => Ok(()),
        }
    }
}

/// What a body may be. A web page can send none of these without asking first.
struct BodyKind {
    content_type: &'static str,
    /// What is said to a client that sends another.
    refusal: &'static str,
}

const JSON: BodyKind = BodyKind {
    content_type: "application/json",
    refusal: "a body is taken as JSON only: send it with the header `Content-Type: application/json`",
};

/// A file, which is no JSON.
const FILE: BodyKind = BodyKind {
    content_type: "application/octet-stream",
    refusal: "an artifact is taken as it is only: send it with the header `Content-Type: application/octet-stream`",
};

fn admit_body(head: &Parts) -> Result<(), AdminError> {
    let path = head.uri.path().strip_prefix(API_PREFIX).unwrap_or_default();
    let kind = match path.starts_with(ARTIFACTS) {
        true => FILE,
        false => JSON,
    };
    kind.admit(&head.headers)
}

impl BodyKind {
    fn admit(&self, headers: &HeaderMap) -> Result<(), AdminError> {
        let mut types = headers.get_all(CONTENT_TYPE).iter().peekable();
        match types.peek().is_some() && types.all(|value| self.is_said_by(value)) {
            true => Ok(()),
            false => Err(AdminError::new(ErrorCode::Unsupported, self.refusal)),
        }
    }

    fn is_said_by(&self, value: &HeaderValue) -> bool {
        let text = value.to_str().unwrap_or_default();
        let essence = text.split(';').next().unwrap_or_default();
        essence.trim().eq_ignore_ascii_case(self.content_type)
    }
}

/// Answers the requests that are admitted, and refuses the others.
#[derive(Clone)]
pub(crate) struct Guarded<A> {
    access: Access,
    answers: A,
}

impl<A: Answers> Guarded<A> {
    /// What answers, behind what guards it.
    pub(crate) fn new(access: Access, answers: A) -> Self {
        Self { access, answers }
    }
}

impl<A: Answers> Answers for Guarded<A> {
    async fn answer(&self, request: Request<Upload>) -> Response {
        let (head, body) = request.into_parts();
        let cors = &self.access.cors;
        if let Some(answer) = cors.preflight(&head) {
            return answer;
        }
        let origin = cors.allowed_origin(&head.headers);
        let mut answer = match self.access.admit(&head, !body.is_end_stream()) {
            Ok(()) => self.answers.answer(Request::from_parts(head, body)).await,
            Err(refusal) => refused(refusal),
        };
        cors.allow(origin, answer.headers_mut());
        answer
    }
}

fn refused(refusal: AdminError) -> Response {
    let asks_for_token = refusal.code == ErrorCode::Unauthenticated;
    let mut answer = refusal.into_response();
    if asks_for_token {
        let how = HeaderValue::from_static("Bearer realm=\"skysail\"");
        answer.headers_mut().insert(WWW_AUTHENTICATE, how);
    }
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_json_is_json() {
        let admits = |types: &[&'static str]| {
            let types = types
                .iter()
                .map(|text| (CONTENT_TYPE, HeaderValue::from_static(text)));
            let mut headers = HeaderMap::new();
            headers.extend(types.map(|(name, value)| (Some(name), value)));
            JSON.admit(&headers).is_ok()
        };
        for good in [
            "application/json",
            "Application/JSON;charset=utf-8",
            "application/json ; a=b",
        ] {
            assert!(admits(&[good]), "{good}");
        }
        for bad in [
            "text/plain",
            "text/plain; application/json",
            "application/x-www-form-urlencoded",
            "application/jsonp",
            "application/json, text/plain",
            "",
        ] {
            assert!(!admits(&[bad]), "{bad}");
        }
        assert!(!admits(&[]));
        assert!(!admits(&["application/json", "text/plain"]));
    }

    #[test]
    fn an_artifact_comes_as_bytes_and_all_else_as_json() {
        let admits = |path: &str, content_type: &str| {
            let request = Request::put(path).header(CONTENT_TYPE, content_type);
            let (head, ()) = request.body(()).unwrap().into_parts();
            admit_body(&head).is_ok()
        };
        let (json, bytes) = ("application/json", "application/octet-stream");
        assert!(admits("/api/v1/artifacts/0a", bytes));
        assert!(!admits("/api/v1/artifacts/0a", json));
        assert!(!admits("/api/v1/artifacts/0a", "text/plain"));
        for path in [
            "/api/v1/models/m/current-version",
            "/api/v1/artifactsx",
            "/artifacts/0a",
            "/",
        ] {
            assert!(admits(path, json) && !admits(path, bytes), "{path}");
        }
    }
}

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
use skysail_proto::error_code::ErrorCode;

use super::AdminError;
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
            true => admit_body(&head.headers),
            false => Ok(()),
        }
    }
}

/// A body as JSON only: what a web page can send without asking first is none.
fn admit_body(headers: &HeaderMap) -> Result<(), AdminError> {
    let mut types = headers.get_all(CONTENT_TYPE).iter().peekable();
    if types.peek().is_some() && types.all(is_json) {
        return Ok(());
    }
    Err(AdminError::new(
        ErrorCode::Unsupported,
        "a body is taken as JSON only: send it with the header `Content-Type: application/json`",
    ))
}

fn is_json(value: &HeaderValue) -> bool {
    let text = value.to_str().unwrap_or_default();
    let essence = text.split(';').next().unwrap_or_default();
    essence.trim().eq_ignore_ascii_case("application/json")
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
            admit_body(&headers).is_ok()
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
}

//! Pages of other origins that may use an API from a browser: what `Origin` says, and the headers by which a
//! browser is told (cross-origin resource sharing).
//!
//! A browser lets any page send simple requests, and hides the answers unless these headers are there; it asks
//! before it sends others (a preflight).

use std::fmt;
use std::str::FromStr;

use axum::body::Body;
use axum::http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS,
    ACCESS_CONTROL_REQUEST_METHOD, ORIGIN, VARY,
};
use axum::http::request::Parts;
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri};
use axum::response::Response;

/// For how long a browser need not ask again, in seconds.
const MAX_AGE: &str = "600";

/// Where a page comes from: scheme, host and port.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Origin {
    scheme: String,
    host: String,
    /// None where it is the scheme's usual one.
    port: Option<u16>,
}

/// A text is no origin.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error(
    "expected an origin as browsers send it, scheme://host[:port] without a path, as in https://ui.example"
)]
pub struct NoOrigin;

impl Origin {
    /// Whether it is what is asked at this host, under whatever scheme: a proxy may have added TLS.
    pub fn is_at(&self, asked: &Authority) -> bool {
        self.host.eq_ignore_ascii_case(asked.host()) && self.port == port_of(&self.scheme, asked)
    }
}

impl FromStr for Origin {
    type Err = NoOrigin;
    fn from_str(text: &str) -> Result<Self, NoOrigin> {
        let uri: Uri = text.parse().map_err(|_| NoOrigin)?;
        let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
            return Err(NoOrigin);
        };
        if !matches!(uri.path(), "" | "/") || uri.query().is_some() || authority.as_str().contains('@') {
            return Err(NoOrigin);
        }
        let scheme = scheme.to_ascii_lowercase();
        Ok(Self {
            host: authority.host().to_ascii_lowercase(),
            port: port_of(&scheme, authority),
            scheme,
        })
    }
}

fn port_of(scheme: &str, authority: &Authority) -> Option<u16> {
    let usual = match scheme {
        "http" => Some(80),
        "https" => Some(443),
        _ => None,
    };
    authority.port_u16().filter(|port| Some(*port) != usual)
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme, self.host)?;
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

/// Which origins' pages may use an API.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum AllowedOrigins {
    /// All of them.
    Any,
    /// These.
    These(Vec<Origin>),
}

impl AllowedOrigins {
    /// Whether pages of the origin in a header may use the API.
    pub fn contain(&self, origin: &HeaderValue) -> bool {
        match self {
            Self::Any => true,
            Self::These(origins) => {
                let origin = origin.to_str().ok().and_then(|text| text.parse().ok());
                origin.is_some_and(|origin| origins.contains(&origin))
            }
        }
    }
}

/// Tells browsers which pages may use an API, and how.
#[derive(Clone, Debug)]
pub(crate) struct Cors {
    /// Whose pages may.
    pub allowed: AllowedOrigins,
    /// The methods that the API takes.
    pub methods: &'static str,
    /// What pages may read of an answer's headers, beyond what they always may.
    pub exposed: &'static str,
}

impl Cors {
    /// The answer to a browser that asks whether a page may send a request; nothing if this is no such question,
    /// or the page may not.
    pub(crate) fn preflight(&self, head: &Parts) -> Option<Response> {
        let asks = head.method == Method::OPTIONS && head.headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD);
        let origin = self.allowed_origin(&head.headers).filter(|_| asks)?;
        let mut answer = Response::new(Body::empty());
        *answer.status_mut() = StatusCode::NO_CONTENT;
        let headers = answer.headers_mut();
        headers.insert(
            ACCESS_CONTROL_ALLOW_METHODS,
            HeaderValue::from_static(self.methods),
        );
        headers.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static(MAX_AGE));
        // Whatever headers it wants to send: those that mean nothing here do no harm.
        if let Some(wanted) = head.headers.get(ACCESS_CONTROL_REQUEST_HEADERS) {
            headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, wanted.clone());
        }
        self.allow(Some(origin), headers);
        Some(answer)
    }

    /// The origin that asks, as it may be told that it is allowed.
    pub(crate) fn allowed_origin(&self, asked: &HeaderMap) -> Option<HeaderValue> {
        let origin = asked.get(ORIGIN).filter(|origin| self.allowed.contain(origin))?;
        Some(match self.allowed {
            AllowedOrigins::Any => HeaderValue::from_static("*"),
            AllowedOrigins::These(_) => origin.clone(),
        })
    }

    /// Lets pages of this origin read an answer.
    pub(crate) fn allow(&self, origin: Option<HeaderValue>, answer: &mut HeaderMap) {
        if let AllowedOrigins::These(origins) = &self.allowed
            && !origins.is_empty()
        {
            answer.append(VARY, HeaderValue::from_static("Origin"));
        }
        let Some(origin) = origin else { return };
        answer.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        if !self.exposed.is_empty() {
            answer.insert(
                ACCESS_CONTROL_EXPOSE_HEADERS,
                HeaderValue::from_static(self.exposed),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(text: &str) -> Origin {
        text.parse().unwrap()
    }

    #[test]
    fn an_origin_has_one_form() {
        for (text, form) in [
            ("https://UI.example", "https://ui.example"),
            ("HTTPS://ui.example:443/", "https://ui.example"),
            ("http://ui.example:443", "http://ui.example:443"),
            ("http://[::1]:80", "http://[::1]"),
            ("chrome-extension://abc", "chrome-extension://abc"),
        ] {
            assert_eq!(origin(text).to_string(), form);
        }
        for bad in [
            "",
            "null",
            "*",
            "ui.example",
            "//ui.example",
            "https://ui.example/x",
            "https://",
            "a b",
        ] {
            assert_eq!(bad.parse::<Origin>(), Err(NoOrigin), "{bad:?}");
        }
        assert!("https://me@ui.example".parse::<Origin>().is_err());
    }

    #[test]
    fn an_origin_is_its_own_at_the_same_host_and_port_only() {
        let is_at = |text: &str, host: &'static str| origin(text).is_at(&Authority::from_static(host));
        assert!(is_at("http://127.0.0.1:1338", "127.0.0.1:1338"));
        assert!(is_at("http://[::1]:1338", "[::1]:1338"));
        assert!(
            is_at("https://skysail.example", "Skysail.example"),
            "behind a proxy with TLS"
        );
        assert!(is_at("http://localhost", "localhost:80"));
        assert!(!is_at("http://127.0.0.1:3000", "127.0.0.1:1338"));
        assert!(!is_at("http://localhost", "localhost:1338"));
        assert!(!is_at("http://evil.example:1338", "127.0.0.1:1338"));
    }

    #[test]
    fn only_allowed_origins_are_told_so() {
        let these = AllowedOrigins::These(vec![origin("https://ui.example")]);
        for (allowed, given, told) in [
            (&these, "https://ui.example", Some("https://ui.example")),
            (&these, "https://ui.example.evil.example", None),
            (&these, "http://ui.example", None),
            (&these, "null", None),
            (&AllowedOrigins::Any, "null", Some("*")),
        ] {
            let cors = Cors {
                allowed: allowed.clone(),
                methods: "GET",
                exposed: "",
            };
            let asked = HeaderMap::from_iter([(ORIGIN, HeaderValue::from_static(given))]);
            let allowed = cors.allowed_origin(&asked);
            assert_eq!(allowed, told.map(HeaderValue::from_static), "{given}");
        }
    }
}

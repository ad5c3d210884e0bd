//! Web pages: a browser sends what any page asks it to, from inside of the machine or the network, and by a name
//! that the page's owner may have given our address (DNS rebinding). It says on whose behalf it asks.

use std::net::IpAddr;

use axum::http::header::{HOST, ORIGIN};
use axum::http::request::Parts;
use axum::http::uri::Authority;
use axum::http::{HeaderValue, Method};
use skysail_proto::error_code::ErrorCode;

use super::super::AdminError;
use crate::http::AllowedOrigins;

/// How much of what was sent is repeated, in characters.
const QUOTED_CHARS: usize = 200;

/// Which pages may ask, and by which names this server is asked.
#[derive(Clone, Debug)]
pub(crate) struct Browsers {
    /// Pages of these origins may ask.
    pub origins: AllowedOrigins,
    /// Names of this server beside `localhost`, in lower case.
    pub hosts: Vec<String>,
}

impl Browsers {
    /// Refuses what a foreign page asks for.
    pub(super) fn admit(&self, head: &Parts) -> Result<(), AdminError> {
        let mut origins = head.headers.get_all(ORIGIN).iter();
        let origin = origins.next();
        let is_one = origins.next().is_none();
        match origin {
            // A browser calls this cross-site, which it is; it was allowed.
            Some(origin) if is_one && self.origins.contain(origin) => return Ok(()),
            Some(origin) if !is_one || !is_own(origin, head) => {
                let advice = "a page of another origin asks; `skysail-frontend --admin-allow-origin ORIGIN` \
                              lets one in";
                let origin = quoted(origin.as_bytes());
                return Err(denied(format!("the origin `{origin}` is foreign: {advice}")));
            }
            _ => {}
        }
        if is_cross_site(head) && !is_navigation(head) {
            return Err(denied(
                "the request comes from a page of another site (`Sec-Fetch-Site: cross-site`): open the address \
                 itself, or let the page's origin in with `skysail-frontend --admin-allow-origin ORIGIN`"
                    .into(),
            ));
        }
        Ok(())
    }

    /// Refuses what was asked by a name that may be somebody else's.
    pub(super) fn admit_host(&self, head: &Parts) -> Result<(), AdminError> {
        let unknown = named(head).into_iter().find(|name| !self.is_known(name));
        let Some(name) = unknown else { return Ok(()) };
        let name = quoted(&name);
        Err(denied(format!(
            "the host `{name}` is no name of this server: ask by its IP address or as localhost, or give the name \
             to `skysail-frontend --admin-host NAME`"
        )))
    }

    fn is_known(&self, name: &[u8]) -> bool {
        let Ok(authority) = Authority::try_from(name) else {
            return false;
        };
        let host = host_of(&authority).to_ascii_lowercase();
        host == "localhost" || host.parse::<IpAddr>().is_ok() || self.hosts.contains(&host)
    }
}

/// The names that a request gives its server: in its target, and in `Host`. HTTP/1.0 may give none, which no
/// browser does.
fn named(head: &Parts) -> Vec<Vec<u8>> {
    let target = head
        .uri
        .authority()
        .map(|authority| authority.as_str().as_bytes());
    let hosts = head.headers.get_all(HOST).iter().map(HeaderValue::as_bytes);
    target.into_iter().chain(hosts).map(<[u8]>::to_vec).collect()
}

/// The host alone: without the port, the brackets or zone of an IPv6 address, and the dot that ends a full name.
fn host_of(authority: &Authority) -> &str {
    let host = authority.host();
    match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(address) => address.split('%').next().unwrap_or(address),
        None => host.strip_suffix('.').unwrap_or(host),
    }
}

/// Whether an origin is this server's own, by all the names that the request gives it.
fn is_own(origin: &HeaderValue, head: &Parts) -> bool {
    let origin: Option<crate::http::Origin> = origin.to_str().ok().and_then(|text| text.parse().ok());
    let (Some(origin), names) = (origin, named(head)) else {
        return false;
    };
    let is_there = |name: &Vec<u8>| {
        let authority = Authority::try_from(name.as_slice());
        authority.is_ok_and(|authority| origin.is_at(&authority))
    };
    !names.is_empty() && names.iter().all(is_there)
}

fn is_cross_site(head: &Parts) -> bool {
    let mut said = head.headers.get_all("sec-fetch-site").iter();
    said.any(|site| site.as_bytes().eq_ignore_ascii_case(b"cross-site"))
}

/// A person follows a link to here: what comes is shown to them, and not to the page.
fn is_navigation(head: &Parts) -> bool {
    let says = |name, value: &str| head.headers.get(name).is_some_and(|said| said == value);
    head.method == Method::GET && says("sec-fetch-mode", "navigate") && says("sec-fetch-dest", "document")
}

fn denied(detail: String) -> AdminError {
    AdminError::new(ErrorCode::PermissionDenied, detail)
}

fn quoted(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes)
        .chars()
        .take(QUOTED_CHARS)
        .collect()
}

#[cfg(test)]
mod tests {
    use axum::http::Request;

    use super::*;

    fn head(method: &str, target: &str, headers: &[(&str, &str)]) -> Parts {
        let mut request = Request::builder().method(method).uri(target);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    fn browsers() -> Browsers {
        Browsers {
            origins: AllowedOrigins::These(vec!["https://ui.example".parse().unwrap()]),
            hosts: vec!["skysail.internal".into()],
        }
    }

    #[test]
    fn a_server_is_asked_by_its_address_as_localhost_or_by_a_name_it_was_given() {
        let admits = |target: &str, hosts: &[&str]| {
            let hosts: Vec<_> = hosts.iter().map(|host| ("host", *host)).collect();
            browsers().admit_host(&head("GET", target, &hosts)).is_ok()
        };
        for host in [
            "127.0.0.1:1338",
            "127.0.0.1",
            "10.1.2.3:80",
            "[::1]:1338",
            "[::1]",
            "[fe80::1%25eth0]:1338",
            "localhost",
            "localhost:1338",
            "localhost.",
            "LocalHost.:1338",
            "Skysail.Internal:1338",
            "skysail.internal.",
        ] {
            assert!(admits("/api/v1/status", &[host]), "{host}");
        }
        for host in [
            "evil.example",
            "evil.example:1338",
            "127.0.0.1.evil.example",
            "localhost.evil.example",
            "evil-localhost",
            "sub.skysail.internal",
            "localhost..",
            "127.0.0.1@evil.example",
            "",
            "a b",
        ] {
            assert!(!admits("/api/v1/status", &[host]), "{host}");
        }
        assert!(admits("/api/v1/status", &[]), "HTTP/1.0");
        assert!(!admits("/api/v1/status", &["localhost", "evil.example"]));
        // In the target, as a proxy is asked or as HTTP/2 asks.
        assert!(admits("http://localhost:1338/api/v1/status", &[]));
        assert!(!admits("http://evil.example/api/v1/status", &[]));
        assert!(!admits("http://evil.example/api/v1/status", &["localhost"]));
        assert!(!admits("http://localhost/api/v1/status", &["evil.example"]));
    }

    #[test]
    fn a_foreign_origin_is_refused_whatever_it_asks_for() {
        let admits = |method: &str, origins: &[&str]| {
            let mut headers: Vec<_> = origins.iter().map(|origin| ("origin", *origin)).collect();
            headers.push(("host", "127.0.0.1:1338"));
            browsers()
                .admit(&head(method, "/api/v1/status", &headers))
                .is_ok()
        };
        for method in ["GET", "POST", "DELETE", "OPTIONS"] {
            assert!(admits(method, &[]), "{method}");
            assert!(admits(method, &["http://127.0.0.1:1338"]), "{method}");
            assert!(admits(method, &["https://ui.example"]), "{method}");
            for foreign in [
                "null",
                "",
                "http://evil.example",
                "http://127.0.0.1",
                "http://127.0.0.1:3000",
                "http://localhost:1338",
                "http://127.0.0.1:1338, http://evil.example",
            ] {
                assert!(!admits(method, &[foreign]), "{method} {foreign}");
            }
            assert!(
                !admits(method, &["https://ui.example", "http://evil.example"]),
                "{method}"
            );
        }
    }

    #[test]
    fn without_a_host_no_origin_is_the_servers_own() {
        let asked = head("POST", "/api/v1/status", &[("origin", "http://127.0.0.1:1338")]);
        assert!(browsers().admit(&asked).is_err());
    }

    #[test]
    fn of_another_sites_page_only_a_link_is_followed() {
        let admits = |method: &str, more: &[(&str, &str)]| {
            let headers = [
                &[("sec-fetch-site", "cross-site"), ("host", "localhost:1338")],
                more,
            ]
            .concat();
            browsers()
                .admit(&head(method, "/api/v1/status", &headers))
                .is_ok()
        };
        let link = [("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "document")];
        assert!(admits("GET", &link));
        assert!(!admits("POST", &link));
        assert!(!admits(
            "GET",
            &[("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "iframe")]
        ));
        assert!(!admits(
            "GET",
            &[("sec-fetch-mode", "no-cors"), ("sec-fetch-dest", "image")]
        ));
        assert!(!admits("POST", &[]));
        assert!(!admits("POST", &[("origin", "http://localhost:1338")]));
        assert!(admits("POST", &[("origin", "https://ui.example")]));
        for site in ["same-origin", "same-site", "none"] {
            let asked = head(
                "GET",
                "/api/v1/status",
                &[("sec-fetch-site", site), ("host", "localhost")],
            );
            assert!(browsers().admit(&asked).is_ok(), "{site}");
        }
    }
}

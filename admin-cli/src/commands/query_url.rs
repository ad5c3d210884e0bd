//! Where queries go: what was said, or what the admin API names.

use reqwest::Url;
use skysail_proto::admin::Status;

use super::Session;
use crate::client::QueryClient;
use crate::error::Error;

/// A query API to ask: the one that was named, or the first that is ready of those the admin API names.
pub(super) async fn query_url(session: &Session) -> Result<Url, Error> {
    if let Some(url) = &session.query_url {
        return Ok(url.clone());
    }
    let status = session.admin.status().await?.read()?;
    let urls = named(&status, session.admin.url());
    if let [_, _, ..] = &urls[..] {
        for url in &urls {
            if QueryClient::new(url.clone()).ready().await.is_ok() {
                return Ok(url.clone());
            }
        }
    }
    // If none is ready, or there is but one, its answer says more than ours could.
    urls.into_iter().next().ok_or(Error::NoQueryAddress)
}

/// The query APIs that the admin API names. A frontend that listens everywhere does not know by what name it
/// is reached; the one that worked for the admin API will do.
pub(super) fn named(status: &Status, admin: &Url) -> Vec<Url> {
    let takes_queries = status.frontends.iter().filter(|frontend| !frontend.draining);
    takes_queries
        .filter_map(|frontend| url_of(&frontend.query_addr, admin))
        .collect()
}

fn url_of(address: &str, admin: &Url) -> Option<Url> {
    if address.is_empty() {
        return None;
    }
    let mut url = Url::parse(&format!("http://{address}")).ok()?;
    let everywhere = matches!(url.host_str(), Some("0.0.0.0" | "[::]"));
    if everywhere {
        url.set_host(admin.host_str()).ok()?;
    }
    Some(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn urls(frontends: &str) -> Vec<String> {
        let json = format!(
            r#"{{"cluster": "c", "version": "0", "store": {{"kind": "embedded", "location": "", "up": true,
                "generation": 1}}, "runtime": {{"kind": "none", "up": true}}, "applications": 0, "models": 0,
                "replicas": 0, "problems": [], "frontends": [{frontends}]}}"#
        );
        let status: Status = serde_json::from_str(&json).unwrap();
        let admin = Url::parse("http://10.1.2.3:1338").unwrap();
        named(&status, &admin).into_iter().map(String::from).collect()
    }

    fn frontend(query_addr: &str, more: &str) -> String {
        format!(
            r#"{{"id": "f", "query_addr": "{query_addr}", "admin_addr": "", "rpc_addr": "",
                "started_at": "2026-01-01T00:00:00Z"{more}}}"#
        )
    }

    #[test]
    fn an_address_that_means_everywhere_takes_the_admin_apis_host() {
        for (address, expected) in [
            ("127.0.0.1:1337", "http://127.0.0.1:1337/"),
            ("0.0.0.0:1337", "http://10.1.2.3:1337/"),
            ("[::]:1337", "http://10.1.2.3:1337/"),
            ("box:99", "http://box:99/"),
        ] {
            assert_eq!(urls(&frontend(address, "")), [expected]);
        }
    }

    #[test]
    fn frontends_that_take_no_queries_are_left_out() {
        let control = frontend("", "");
        let ending = frontend("b:1", r#", "draining": true"#);
        let frontends = [control, ending, frontend("c:1", ""), frontend("d:1", "")];
        assert_eq!(urls(&frontends.join(",")), ["http://c:1/", "http://d:1/"]);
    }
}

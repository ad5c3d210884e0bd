//! `skysail status`: the cluster at a glance.

use jiff::Timestamp;
use skysail_proto::admin::{Frontend, Status};

use super::Session;
use crate::error::Error;
use crate::output::{age, fields, table};

pub(super) async fn run(session: &Session) -> Result<(), Error> {
    let status = session.admin.status().await?;
    session
        .output
        .answer(&status, |status| overview(status, session.now))
}

fn overview(status: &Status, now: Timestamp) -> String {
    let counts = format!(
        "{}, {}, {} attached",
        counted(status.applications, "application"),
        counted(status.models, "model"),
        counted(status.replicas, "replica"),
    );
    let head = fields([
        (
            "Cluster",
            format!("{} (skysail {})", status.cluster, status.version),
        ),
        ("Store", store_words(status)),
        ("Runtime", runtime_words(status)),
        ("Serves", counts),
    ]);
    let frontends = frontend_table(&status.frontends, now);
    format!("{head}\n\n{frontends}\n\n{}", verdict(&status.problems))
}

pub(super) fn counted(count: u64, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

fn store_words(status: &Status) -> String {
    let store = &status.store;
    format!(
        "{} at {}, {}, generation {}",
        store.kind,
        store.location,
        up_words(store.up, store.error.as_deref()),
        store.generation
    )
}

fn runtime_words(status: &Status) -> String {
    let runtime = &status.runtime;
    if runtime.kind == "none" {
        return "none (containers attach by themselves)".into();
    }
    format!(
        "{}, {}",
        runtime.kind,
        up_words(runtime.up, runtime.error.as_deref())
    )
}

fn up_words(up: bool, error: Option<&str>) -> String {
    match (up, error) {
        (true, _) => "up".into(),
        (false, Some(error)) => format!("DOWN ({error})"),
        (false, None) => "DOWN".into(),
    }
}

fn frontend_table(frontends: &[Frontend], now: Timestamp) -> String {
    let row = |frontend: &Frontend| {
        [
            frontend.id.clone(),
            frontend.query_addr.clone(),
            frontend.admin_addr.clone(),
            frontend.rpc_addr.clone(),
            age(frontend.started_at, now),
        ]
    };
    table(
        ["FRONTEND", "QUERY", "ADMIN", "RPC", "AGE"],
        frontends.iter().map(row),
    )
}

fn verdict(problems: &[String]) -> String {
    if problems.is_empty() {
        return "All is well.".into();
    }
    let lines: Vec<_> = problems.iter().map(|problem| format!("  - {problem}")).collect();
    format!("Not well:\n{}", lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(json_problems: &str, store_up: bool) -> Status {
        let json = format!(
            r#"{{
                "cluster": "default-cluster", "version": "0.1.0",
                "store": {{"kind": "redis", "location": "redis://r:6379/0", "up": {store_up},
                           "generation": 12, "error": "connection refused"}},
                "runtime": {{"kind": "docker", "up": true}},
                "frontends": [{{"id": "f1", "query_addr": "127.0.0.1:1337", "admin_addr": "127.0.0.1:1338",
                                "rpc_addr": "127.0.0.1:7000", "started_at": "2026-01-01T00:00:00Z"}}],
                "applications": 1, "models": 2, "replicas": 3, "problems": {json_problems}
            }}"#
        );
        serde_json::from_str(&json).unwrap()
    }

    fn shown(status: &Status) -> String {
        overview(status, "2026-01-03T00:00:00Z".parse().unwrap())
    }

    #[test]
    fn a_cluster_that_is_well_says_so() {
        let shown = shown(&status("[]", true));
        for part in [
            "default-cluster (skysail 0.1.0)",
            "redis at redis://r:6379/0, up, generation 12",
            "1 application, 2 models, 3 replicas attached",
            "127.0.0.1:1337",
            "2d",
            "All is well.",
        ] {
            assert!(shown.contains(part), "{part}:\n{shown}");
        }
    }

    #[test]
    fn what_is_not_well_is_said_with_its_reason() {
        let shown = shown(&status(r#"["the store is away"]"#, false));
        assert!(shown.contains("DOWN (connection refused)"), "{shown}");
        assert!(shown.ends_with("Not well:\n  - the store is away"), "{shown}");
    }
}

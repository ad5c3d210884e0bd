//! `skysail status`: the cluster at a glance, once or over and over.

use std::time::Duration;

use clap::Args;
use jiff::Timestamp;
use reqwest::Url;
use skysail_proto::admin::{Control, Frontend, Model, Replica, Role, Status, Version};
use tokio::time::{MissedTickBehavior, interval};

use super::Session;
use super::model::{replicas_share, state_word};
use super::query_url::named;
use super::replica::replica_list;
use crate::advice::listed;
use crate::client::{Answer, ClientError};
use crate::error::Error;
use crate::output::{Paint, Stream, age, counted, failure_words, fields, per_second, shortened, table, tell};

mod screen;

use screen::Screen;

/// How often `--watch` looks.
const TICK: Duration = Duration::from_secs(1);

const EXAMPLES: &str = "\
Examples:
  skysail status
  skysail status --watch       # with all replicas, every second, until Ctrl-C
  skysail status --output json | jq .problems";

#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct StatusArguments {
    /// Go on, every second, until Ctrl-C; also while the frontend cannot be reached
    #[arg(long, short)]
    watch: bool,
}

pub(super) async fn run(session: &Session, arguments: &StatusArguments) -> Result<(), Error> {
    if arguments.watch {
        return watch(session).await;
    }
    let status = session.admin.status().await?;
    if session.output.is_json() {
        return session.output.answer(&status, |_| String::new());
    }
    let models = models(session).await;
    session.output.answer(&status, |status| {
        overview(status, &models, session.admin.url(), session.now)
    })
}

/// Shows the cluster every second. What cannot be had is said, and looked for again.
async fn watch(session: &Session) -> Result<(), Error> {
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut screen = Screen::start();
    let interrupted = tokio::signal::ctrl_c();
    tokio::pin!(interrupted);
    loop {
        let looked = async {
            ticks.tick().await;
            look(session).await
        };
        let seen = tokio::select! {
            biased;
            heard = &mut interrupted => return heard.map_err(Error::Runtime),
            seen = looked => seen,
        };
        let now = Timestamp::now();
        match seen {
            Ok(seen) if session.output.is_json() => {
                let mut body = seen.status.body().to_vec();
                body.push(b'\n');
                session.output.body(&body)?;
            }
            Ok(seen) => screen.show(session.output, &seen.page(session.admin.url(), now)?)?,
            Err(error) if session.output.is_json() => {
                tell(&Paint::on(Stream::Stderr).error("error:"), &error.to_string());
            }
            Err(error) => screen.show(session.output, &format!("{}\n\n{error}", clock(now)))?,
        }
    }
}

/// What one look shows.
struct Seen {
    status: Answer<Status>,
    models: Vec<Model>,
    replicas: Vec<Replica>,
}

async fn look(session: &Session) -> Result<Seen, ClientError> {
    let status = session.admin.status().await?;
    if session.output.is_json() {
        return Ok(Seen {
            status,
            models: Vec::new(),
            replicas: Vec::new(),
        });
    }
    let replicas = session.admin.replicas().await?.read()?;
    Ok(Seen {
        status,
        models: models(session).await,
        replicas,
    })
}

impl Seen {
    fn page(&self, admin: &Url, now: Timestamp) -> Result<String, ClientError> {
        let status = self.status.read()?;
        let overview = overview(&status, &self.models, admin, now);
        let replicas = replica_list(&self.replicas, &self.models, now);
        Ok(format!("{}\n\n{overview}\n\n{replicas}", clock(now)))
    }
}

/// When a page was made: one that no longer changes looks like one that does not need to.
fn clock(now: Timestamp) -> String {
    format!("{}, Ctrl-C ends", now.strftime("%F %T UTC"))
}

/// The models; none while the store was never read, which the status says.
async fn models(session: &Session) -> Vec<Model> {
    let models = session.admin.models().await.ok();
    models.and_then(|models| models.read().ok()).unwrap_or_default()
}

fn overview(status: &Status, models: &[Model], admin: &Url, now: Timestamp) -> String {
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
        ("Queries", query_words(status, admin)),
        ("Serves", counts),
    ]);
    let mut parts = vec![head, frontend_table(&status.frontends, now)];
    if !models.is_empty() {
        parts.push(version_table(models, now));
    }
    parts.push(verdict(&status.problems));
    parts.join("\n\n")
}

/// Where queries are taken.
fn query_words(status: &Status, admin: &Url) -> String {
    let urls: Vec<_> = named(status, admin)
        .iter()
        .map(|url| url.as_str().trim_end_matches('/').to_owned())
        .collect();
    if urls.is_empty() {
        "nowhere: no frontend takes them".into()
    } else {
        listed(&urls)
    }
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
            does(frontend),
            frontend.query_addr.clone(),
            frontend.admin_addr.clone(),
            frontend.ops_addr.clone(),
            frontend.rpc_addr.clone(),
            frontend.replicas.to_string(),
            answered(frontend),
            age(frontend.started_at, now),
        ]
    };
    table(
        [
            "FRONTEND", "DOES", "QUERY", "ADMIN", "OPS", "RPC", "REPLICAS", "QUERIES", "AGE",
        ],
        frontends.iter().map(row),
    )
}

/// What a frontend answered, or why that is not known.
fn answered(frontend: &Frontend) -> String {
    match (&frontend.figures, &frontend.silence) {
        (Some(figures), _) if figures.defaults == 0 => figures.queries.to_string(),
        (Some(figures), _) => format!("{} ({} defaults)", figures.queries, figures.defaults),
        (None, Some(silence)) => silence.clone(),
        (None, None) => String::new(),
    }
}

/// A frontend's roles, and how it fills them just now.
fn does(frontend: &Frontend) -> String {
    let role = |role: &Role| match (role, frontend.control) {
        (Role::Query, _) if frontend.draining => "query (ending)",
        (Role::Query, _) => "query",
        (Role::Control, Some(Control::Acting)) => "control (acting)",
        (Role::Control, Some(Control::Standby)) => "control (standby)",
        (Role::Control, None) => "control",
    };
    let roles: Vec<_> = frontend.roles.iter().map(role).collect();
    listed(&roles)
}

/// What is wanted and what is, a line for each version.
fn version_table(models: &[Model], now: Timestamp) -> String {
    let header = [
        "VERSION",
        "STATE",
        "REPLICAS",
        "ANSWERS",
        "ASKED",
        "QUEUED",
        "FAILURES",
        "LAST FAILURE",
    ];
    let rows = models.iter().flat_map(|model| {
        let row = move |version: &Version| {
            [
                format!("{}:{}", version.model, version.version),
                state_word(version.state).to_owned(),
                replicas_share(version),
                answers_share(model, version),
                per_second(version.load.arrivals_per_second),
                version.load.queued.to_string(),
                version.restarts.to_string(),
                last_failure(version, now),
            ]
        };
        model.versions.iter().map(row)
    });
    table(header, rows)
}

/// At how many frontends a version answers; with a star the one that is to.
fn answers_share(model: &Model, version: &Version) -> String {
    let at = model
        .serving
        .iter()
        .find(|serving| serving.version == version.version);
    let star = if version.current { "*" } else { "" };
    match at {
        Some(serving) => format!("{}{star}", serving.frontends.len()),
        None => star.to_owned(),
    }
}

fn last_failure(version: &Version, now: Timestamp) -> String {
    version.last_failure.as_ref().map_or_else(String::new, |failure| {
        let words = shortened(&failure_words(failure));
        format!("{} ago: {words}", age(failure.at, now))
    })
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

    fn admin() -> Url {
        Url::parse("http://127.0.0.1:1338").unwrap()
    }

    fn shown(status: &Status) -> String {
        overview(status, &[], &admin(), "2026-01-03T00:00:00Z".parse().unwrap())
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

    #[test]
    fn every_frontend_is_named_with_what_it_does_and_where_it_takes_queries() {
        let mut status = status("[]", true);
        let mut other = status.frontends[0].clone();
        other.query_addr = "0.0.0.0:1400".into();
        other.roles = vec![Role::Query];
        other.replicas = 3;
        status.frontends[0].roles = vec![Role::Query, Role::Control];
        status.frontends[0].control = Some(Control::Standby);
        status.frontends[0].draining = true;
        status.frontends.push(other);
        let shown = shown(&status);
        for part in [
            "Queries:   http://127.0.0.1:1400\n",
            "query (ending), control (standby)",
            "0.0.0.0:1400",
        ] {
            assert!(shown.contains(part), "{part}:\n{shown}");
        }
        status.frontends.clear();
        assert!(query_words(&status, &admin()).contains("no frontend"));
    }

    #[test]
    fn each_version_has_a_line_with_what_is_wanted_and_what_is() {
        let json = r#"[{"name": "m", "current_version": "2", "linked_applications": [],
            "serving": [{"version": "1", "frontends": ["a", "b"]}], "versions": [
            {"model": "m", "version": "1", "current": false, "input_type": "doubles", "state": "ready",
             "registered_at": "2026-01-01T00:00:00Z", "replicas_desired": 2, "replicas_attached": 2,
             "containers": [], "restarts": 0, "load": {"arrivals_per_second": 120.4, "queued": 5}},
            {"model": "m", "version": "2", "current": true, "input_type": "doubles", "state": "failing",
             "registered_at": "2026-01-01T00:00:00Z", "replicas_desired": 1, "replicas_attached": 0,
             "containers": [], "restarts": 7, "last_failure": {"at": "2026-01-02T23:59:50Z",
             "replica": "m_2_0", "reason": "killed: out of memory", "permanent": false, "log": []}}]}]"#;
        let models: Vec<Model> = serde_json::from_str(json).unwrap();
        let shown = version_table(&models, "2026-01-03T00:00:00Z".parse().unwrap());
        let cells = |line: usize| {
            let line = shown.lines().nth(line).unwrap();
            let cells = line.split("   ").map(str::trim).filter(|cell| !cell.is_empty());
            cells.map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(
            cells(1),
            ["m:1", "ready", "2/2", "2", "120/s", "5", "0", "-"],
            "{shown}"
        );
        let failing = [
            "m:2",
            "failing",
            "0/1",
            "*",
            "0/s",
            "0",
            "7",
            "10s ago: killed: out of memory",
        ];
        assert_eq!(cells(2), failing, "{shown}");
    }
}

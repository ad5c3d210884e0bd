//! `skysail replica`: containers that are attached to a frontend.

use clap::Subcommand;
use jiff::Timestamp;
use skysail_proto::admin::{Container, Model, Replica, ReplicaState, TimesFit, Version};

use super::Session;
use crate::error::Error;
use crate::output::{age, failure_words, per_second, span, table};

#[derive(Debug, Subcommand)]
pub(crate) enum ReplicaCommand {
    /// List replicas: those that are attached, containers that are not, and what is missing
    #[command(visible_alias = "ls")]
    List,
}

pub(super) async fn run(session: &Session, command: ReplicaCommand) -> Result<(), Error> {
    match command {
        ReplicaCommand::List => {
            let replicas = session.admin.replicas().await?;
            if session.output.is_json() {
                return session.output.answer(&replicas, |_| String::new());
            }
            // What is wanted and not there is worth as much as what is; while the store was never read,
            // only what is there is known.
            let models = session.admin.models().await.ok();
            let models = models.and_then(|models| models.read().ok()).unwrap_or_default();
            session
                .output
                .answer(&replicas, |replicas| replica_list(replicas, &models, session.now))
        }
    }
}

/// All replicas, attached or not, and after them what is not as it is wanted.
pub(super) fn replica_list(replicas: &[Replica], models: &[Model], now: Timestamp) -> String {
    let versions = || models.iter().flat_map(|model| &model.versions);
    let containers: Vec<&Container> = versions().flat_map(|version| &version.containers).collect();
    let table = replica_table(replicas, &containers, now);
    let table =
        table.unwrap_or_else(|| "no replica is attached; `skysail model list` shows what is wanted".into());
    let amiss: Vec<_> = versions().filter_map(|version| amiss(version, now)).collect();
    if amiss.is_empty() {
        table
    } else {
        format!("{table}\n\n{}", amiss.join("\n"))
    }
}

/// Attached replicas, and containers that have none, a line each; nothing if there are neither.
pub(super) fn replica_table(
    replicas: &[Replica],
    containers: &[&Container],
    now: Timestamp,
) -> Option<String> {
    let header = [
        "REPLICA",
        "MODEL",
        "STATE",
        "RUNS AS",
        "HOST",
        "FRONTENDS",
        "IN FLIGHT",
        "RATE",
        "P99",
        "FIT",
        "BATCHES",
        "INPUTS",
        "AGE",
    ];
    let attached = replicas.iter().map(|replica| attached_row(replica, now));
    let is_attached = |container: &&&Container| {
        let mut replicas = replicas.iter();
        replicas.any(|replica| runs(container, replica))
    };
    let rest = containers.iter().filter(|container| !is_attached(container));
    let mut rows: Vec<_> = attached
        .chain(rest.map(|container| container_row(container)))
        .collect();
    rows.sort();
    (!rows.is_empty()).then(|| table(header, rows))
}

/// Whether a container runs a replica. Where the frontend does not know which, its id decides.
fn runs(container: &Container, replica: &Replica) -> bool {
    match &replica.container {
        Some(name) => *name == container.container,
        None => container.replica == replica.replica,
    }
}

fn attached_row(replica: &Replica, now: Timestamp) -> [String; 13] {
    [
        replica.replica.to_string(),
        format!("{}:{}", replica.model, replica.version),
        state_word(replica.state).into(),
        runs_as(replica),
        replica.hostname.clone(),
        // A frontend of an earlier version tells of itself only.
        replica.frontends.len().max(1).to_string(),
        replica.in_flight.to_string(),
        per_second(replica.inputs_per_second),
        replica.p99_micros.map(span).unwrap_or_default(),
        replica.fit.map(fit_words).unwrap_or_default(),
        replica.batches.to_string(),
        replica.inputs.to_string(),
        age(replica.attached_at, now),
    ]
}

/// What batch times are expected by, and how far they are from it.
fn fit_words(fit: TimesFit) -> String {
    format!("{} ±{:.0} %", fit.uses, 100.0 * fit.error)
}

/// A container without a replica: it is starting, or it has ended.
fn container_row(container: &Container) -> [String; 13] {
    let state = match container.state.as_str() {
        "running" => "not attached",
        other => other,
    };
    let mut row = [const { String::new() }; 13];
    row[0] = container.replica.to_string();
    row[2] = state.to_owned();
    row[3].clone_from(&container.container);
    row[5] = "0".into();
    row
}

/// What is not as it is wanted with a version, or has not been lately.
fn amiss(version: &Version, now: Timestamp) -> Option<String> {
    let desired = version.replicas_desired?;
    let id = format!("{}:{}", version.model, version.version);
    let missing = version.replicas_attached < desired;
    if !missing && version.restarts == 0 {
        return None;
    }
    let mut said = format!(
        "{id}: {} of {desired} replicas attached",
        version.replicas_attached
    );
    if version.restarts > 0 {
        said = format!("{said}, {} failures", version.restarts);
    }
    Some(match &version.last_failure {
        Some(failure) => format!(
            "{said}; the last {} ago, {}: {}",
            age(failure.at, now),
            failure.replica,
            failure_words(failure)
        ),
        None => said,
    })
}

fn state_word(state: ReplicaState) -> &'static str {
    match state {
        ReplicaState::Ready => "ready",
        ReplicaState::Overdue => "overdue",
        ReplicaState::Draining => "draining",
    }
}

fn runs_as(replica: &Replica) -> String {
    match (&replica.container, replica.pid) {
        (Some(container), _) => container.clone(),
        (None, Some(pid)) => format!("pid {pid}"),
        (None, None) => String::new(),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use skysail_proto::admin::TimesBy;

    use super::*;

    pub(in super::super) fn replica() -> Replica {
        Replica {
            replica: "iris-model_1_0".parse().unwrap(),
            model: "iris-model".parse().unwrap(),
            version: "1".parse().unwrap(),
            state: ReplicaState::Ready,
            container: None,
            pid: Some(4242),
            hostname: "box".into(),
            peer: "127.0.0.1:40000".into(),
            attached_at: "2026-01-01T00:15:00Z".parse().unwrap(),
            in_flight: 1,
            batches: 20,
            inputs: 300,
            frontends: vec!["a".into(), "b".into()],
            inputs_per_second: 12.4,
            fixed_micros: None,
            per_input_micros: None,
            p99_micros: Some(5240),
            fit: Some(TimesFit {
                uses: TimesBy::Table,
                error: 0.034,
            }),
        }
    }

    fn container(replica: &str, state: &str) -> Container {
        Container {
            container: format!("c_{replica}"),
            replica: replica.parse().unwrap(),
            state: state.into(),
            pid: None,
        }
    }

    fn now() -> Timestamp {
        "2026-01-01T01:00:00Z".parse().unwrap()
    }

    #[test]
    fn replicas_are_listed_with_what_runs_them_and_how_they_do() {
        let shown = replica_table(&[replica()], &[], now()).unwrap();
        let lines: Vec<&str> = shown.lines().collect();
        assert_eq!(lines.len(), 2, "{shown}");
        let cells: Vec<_> = lines[1]
            .split("   ")
            .map(str::trim)
            .filter(|cell| !cell.is_empty())
            .collect();
        let expected = [
            "iris-model_1_0",
            "iris-model:1",
            "ready",
            "pid 4242",
            "box",
            "2",
            "1",
            "12/s",
            "5.2ms",
            "table ±3 %",
            "20",
            "300",
            "45m",
        ];
        assert_eq!(cells, expected, "{shown}");
    }

    #[test]
    fn a_container_without_a_replica_has_a_line_and_one_with_it_has_none_of_its_own() {
        let (attached, starting, ended) = (
            container("iris-model_1_0", "running"),
            container("iris-model_1_1", "running"),
            container("iris-model_1_2", "exited (3)"),
        );
        let shown = replica_table(&[replica()], &[&ended, &starting, &attached], now()).unwrap();
        let lines: Vec<&str> = shown.lines().collect();
        assert_eq!(lines.len(), 4, "{shown}");
        assert!(
            lines[2].starts_with("iris-model_1_1") && lines[2].contains("not attached"),
            "{shown}"
        );
        assert!(
            lines[3].starts_with("iris-model_1_2") && lines[3].contains("exited (3)"),
            "{shown}"
        );
    }

    #[test]
    fn what_is_missing_is_said_with_the_last_failure() {
        let json = r#"{
            "model": "iris-model", "version": "1", "current": true, "input_type": "doubles",
            "registered_at": "2026-01-01T00:00:00Z", "state": "failing", "replicas_desired": 3,
            "replicas_attached": 2, "restarts": 4, "containers": [],
            "last_failure": {"at": "2026-01-01T00:59:50Z", "replica": "iris-model_1_2", "reason": "it exited",
                             "exit_code": 3, "permanent": false, "log": []}
        }"#;
        let mut version: Version = serde_json::from_str(json).unwrap();
        assert_eq!(
            amiss(&version, now()).unwrap(),
            "iris-model:1: 2 of 3 replicas attached, 4 failures; the last 10s ago, iris-model_1_2: it exited \
             (exit code 3)"
        );
        version.replicas_attached = 3;
        version.restarts = 0;
        assert_eq!(amiss(&version, now()), None);
    }

    #[test]
    fn no_replica_is_said_in_words() {
        assert!(replica_list(&[], &[], Timestamp::UNIX_EPOCH).contains("no replica is attached"));
    }
}

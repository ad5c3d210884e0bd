//! `skysail replica`: containers that are attached to a frontend.

use clap::Subcommand;
use jiff::Timestamp;
use skysail_proto::admin::{Replica, ReplicaState};

use super::Session;
use crate::error::Error;
use crate::output::{age, table};

#[derive(Debug, Subcommand)]
pub(crate) enum ReplicaCommand {
    /// List attached replicas
    #[command(visible_alias = "ls")]
    List,
}

pub(super) async fn run(session: &Session, command: ReplicaCommand) -> Result<(), Error> {
    match command {
        ReplicaCommand::List => {
            let replicas = session.admin.replicas().await?;
            session
                .output
                .answer(&replicas, |replicas| replica_table(replicas, session.now))
        }
    }
}

fn replica_table(replicas: &[Replica], now: Timestamp) -> String {
    if replicas.is_empty() {
        return "no replica is attached; `skysail model list` shows what is wanted".into();
    }
    let header = [
        "REPLICA",
        "MODEL",
        "VERSION",
        "STATE",
        "RUNS AS",
        "HOST",
        "IN FLIGHT",
        "BATCHES",
        "INPUTS",
        "ATTACHED",
    ];
    let row = |replica: &Replica| {
        [
            replica.replica.to_string(),
            replica.model.to_string(),
            replica.version.to_string(),
            state_word(replica.state).into(),
            runs_as(replica),
            replica.hostname.clone(),
            replica.in_flight.to_string(),
            replica.batches.to_string(),
            replica.inputs.to_string(),
            age(replica.attached_at, now),
        ]
    };
    table(header, replicas.iter().map(row))
}

fn state_word(state: ReplicaState) -> &'static str {
    match state {
        ReplicaState::Ready => "ready",
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
mod tests {
    use super::*;

    #[test]
    fn replicas_are_listed_with_what_runs_them_and_how_much_they_did() {
        let now: Timestamp = "2026-01-01T01:00:00Z".parse().unwrap();
        let replica = Replica {
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
        };
        let shown = replica_table(&[replica], now);
        let lines: Vec<Vec<&str>> = shown.lines().map(|line| line.split("   ").collect()).collect();
        assert_eq!(lines.len(), 2, "{shown}");
        for cell in ["iris-model_1_0", "ready", "pid 4242", "box", "20", "300", "45m"] {
            assert!(
                lines[1].iter().any(|shown| shown.trim() == cell),
                "{cell}: {shown}"
            );
        }
    }

    #[test]
    fn no_replica_is_said_in_words() {
        assert!(replica_table(&[], Timestamp::UNIX_EPOCH).contains("no replica is attached"));
    }
}

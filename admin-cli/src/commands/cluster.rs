//! `skysail start` and `skysail stop`: a whole cluster in Docker.

use std::num::NonZeroUsize;
use std::time::Duration;

use clap::Args;
use skysail_proto::ids::ClusterName;

use super::Session;
use crate::advice::listed;
use crate::arguments::parse_duration;
use crate::cluster::{
    self, Addresses, Engine, PortChoice, Removed, StartPlan, Started, VolumeRule, free_or_any,
};
use crate::error::Error;
use crate::progress::Progress;

/// The frontend of this CLI's own version.
const FRONTEND_IMAGE: &str = concat!("skysail/frontend:", env!("CARGO_PKG_VERSION"));

/// The admin port that every command looks at unless it is told otherwise.
const ADMIN_PORT: u16 = 1338;

/// The operations port of a frontend, unless another frontend on this machine has it.
const OPS_PORT: u16 = 1341;

const START_EXAMPLES: &str = "\
Examples:
  skysail start
  skysail start --cluster blue --query-port 0 --admin-port 0 --rpc-port 0
  skysail start --frontends 2                # takes queries on 1337 and 1339

With one frontend there is one container, which does everything. With several, each takes queries in a \
container of its own, and another has the control role and, alone, Docker's socket.

The cluster runs until `skysail stop`, also across restarts of Docker. Its ports are open on this \
machine only. What it knows is kept in a Docker volume, which `skysail stop` removes.";

const STOP_EXAMPLES: &str = "\
Examples:
  skysail stop
  skysail stop --cluster blue --keep-data

After --keep-data, `skysail start --cluster blue` knows everything again.";

#[derive(Args, Debug)]
#[command(after_help = START_EXAMPLES)]
pub(crate) struct StartArguments {
    /// The cluster's name: what is made in Docker carries it
    #[arg(long, value_name = "NAME", default_value = "default-cluster")]
    cluster: ClusterName,
    /// The image of Redis, which keeps the metadata
    #[arg(long, value_name = "IMAGE", default_value = "redis:7-alpine")]
    redis_image: String,
    /// The image of the frontend
    #[arg(long, value_name = "IMAGE", default_value = FRONTEND_IMAGE)]
    frontend_image: String,
    /// Frontends that take queries, so that one may fail
    #[arg(long, value_name = "N", default_value = "1")]
    frontends: NonZeroUsize,
    /// The port of the query API on this machine, of several frontends the first one's: the others take those
    /// above it that the cluster has no other use for; 0 finds free ones
    #[arg(long, value_name = "N", default_value_t = 1337)]
    query_port: u16,
    /// The port of the admin API on this machine; 0 finds a free one
    #[arg(long, value_name = "N", default_value_t = ADMIN_PORT)]
    admin_port: u16,
    /// The port for containers started by hand on this machine, of several frontends the first one's; 0 finds
    /// free ones
    #[arg(long, value_name = "N", default_value_t = 7000)]
    rpc_port: u16,
    /// The port of the operations listener (/healthz, /readyz, /metrics) on this machine, of several frontends the first
    /// one's; 0 finds free ones [default: 1341, or free ones where that is taken]
    #[arg(long, value_name = "N")]
    ops_port: Option<u16>,
    /// Keep the data when this cluster is stopped
    #[arg(long)]
    keep_data: bool,
    /// How long to wait at most until it is ready
    #[arg(long, value_name = "DURATION", default_value = "1m", value_parser = parse_duration)]
    wait_timeout: Duration,
}

#[derive(Args, Debug)]
#[command(after_help = STOP_EXAMPLES)]
pub(crate) struct StopArguments {
    /// The cluster's name
    #[arg(long, value_name = "NAME", default_value = "default-cluster")]
    cluster: ClusterName,
    /// Keep the volume with the metadata
    #[arg(long)]
    keep_data: bool,
}

pub(super) async fn start(session: &Session, arguments: StartArguments) -> Result<(), Error> {
    let plan = plan(arguments);
    let engine = Engine::connect().await?;
    let Started { addresses, admin } = {
        let mut progress = Progress::start();
        cluster::start(&engine, &plan, &mut progress).await?
    };
    let status = admin.status().await?;
    session
        .output
        .answer(&status, |_| welcome(&plan.cluster, &addresses))
}

fn plan(arguments: StartArguments) -> StartPlan {
    let choice = |port, option| PortChoice { port, option };
    StartPlan {
        cluster: arguments.cluster,
        redis_image: arguments.redis_image,
        frontend_image: arguments.frontend_image,
        frontends: arguments.frontends,
        query_port: choice(arguments.query_port, "--query-port"),
        admin_port: choice(arguments.admin_port, "--admin-port"),
        rpc_port: choice(arguments.rpc_port, "--rpc-port"),
        ops_port: choice(
            arguments.ops_port.unwrap_or_else(|| free_or_any(OPS_PORT)),
            "--ops-port",
        ),
        keep_data: arguments.keep_data,
        at_most: arguments.wait_timeout,
    }
}

pub(super) async fn stop(session: &Session, arguments: StopArguments) -> Result<(), Error> {
    let rule = if arguments.keep_data {
        VolumeRule::Keep
    } else {
        VolumeRule::AsStarted
    };
    let engine = Engine::connect().await?;
    let removed = {
        let mut progress = Progress::start();
        cluster::stop(&engine, &arguments.cluster, rule, &mut progress).await?
    };
    if session.output.is_json() {
        let json = serde_json::to_string(&removed).expect("names can always be written; this is a bug");
        return session.output.body(format!("{json}\n").as_bytes());
    }
    session.output.done(&farewell(&arguments.cluster, &removed))
}

/// Where the cluster is, and how other commands find it.
fn welcome(cluster: &ClusterName, addresses: &Addresses) -> String {
    let Addresses {
        query_ports,
        admin_port,
        rpc_ports,
        ops_ports,
    } = addresses;
    let all = |ports: &[u16], scheme: &str| {
        let urls: Vec<_> = ports
            .iter()
            .map(|port| format!("{scheme}127.0.0.1:{port}"))
            .collect();
        listed(&urls)
    };
    let mut lines = vec![
        format!("cluster {cluster} is ready"),
        format!("  query API:     {}", all(query_ports, "http://")),
        format!("  admin API:     http://127.0.0.1:{admin_port}"),
        format!("  container RPC: {}", all(rpc_ports, "")),
        format!("  operations:    {}", all(ops_ports, "http://")),
    ];
    if *admin_port != ADMIN_PORT {
        lines.push(format!(
            "commands find it with: export SKYSAIL_ADMIN_URL=http://127.0.0.1:{admin_port}"
        ));
    }
    lines.join("\n")
}

fn farewell(cluster: &ClusterName, removed: &Removed) -> String {
    let mut lines = Vec::new();
    if removed.is_empty() {
        lines.push(format!(
            "nothing runs in Docker that belongs to cluster {cluster}"
        ));
    } else {
        lines.push(format!("stopped cluster {cluster}; removed:"));
    }
    for (kind, names) in [
        ("container", &removed.containers),
        ("network", &removed.networks),
        ("volume", &removed.volumes),
    ] {
        lines.extend(names.iter().map(|name| format!("  {kind} {name}")));
    }
    let kept = removed.kept_volumes.iter();
    lines.extend(kept.map(|name| {
        format!("kept volume {name}: `skysail start` uses it again, another `skysail stop` removes it")
    }));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cluster() -> ClusterName {
        "blue".parse().unwrap()
    }

    #[test]
    fn a_cluster_on_other_ports_says_how_commands_find_it() {
        let mut addresses = Addresses {
            query_ports: vec![1337, 1339],
            admin_port: 1338,
            rpc_ports: vec![7000, 7001],
            ops_ports: vec![1341, 1342, 1343],
        };
        let said = welcome(&cluster(), &addresses);
        assert!(!said.contains("SKYSAIL_ADMIN_URL"), "{said}");
        assert!(
            said.contains("http://127.0.0.1:1337, http://127.0.0.1:1339"),
            "{said}"
        );
        addresses.admin_port = 4242;
        assert!(welcome(&cluster(), &addresses).contains("SKYSAIL_ADMIN_URL=http://127.0.0.1:4242"));
    }

    #[test]
    fn nothing_to_stop_is_said() {
        let said = farewell(&cluster(), &Removed::default());
        assert_eq!(said, "nothing runs in Docker that belongs to cluster blue");
    }

    #[test]
    fn what_was_removed_and_what_was_kept_is_named() {
        let removed = Removed {
            containers: vec!["blue-frontend".into()],
            networks: vec!["blue-network".into()],
            volumes: vec![],
            kept_volumes: vec!["blue-redis-data".into()],
        };
        let said = farewell(&cluster(), &removed);
        for part in [
            "container blue-frontend",
            "network blue-network",
            "kept volume blue-redis-data",
        ] {
            assert!(said.contains(part), "{said}");
        }
    }
}

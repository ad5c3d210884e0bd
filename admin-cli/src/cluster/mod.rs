//! A cluster in Docker: two networks, a Redis with its volume, and one frontend, or several and a control role
//! beside them.
//!
//! Labels are the truth: everything made here carries the cluster's, and nothing without it is ever
//! touched. In reading order: [`mod@start`], [`mod@stop`], [`networks`] (who reaches whom), [`secrets`] (what is
//! put into containers as files), [`ports`] (which ones are free), [`engine`] (the few things that are asked of
//! Docker).

use skysail_proto::ids::ClusterName;

use crate::credentials::CredentialsError;

mod engine;
mod networks;
mod ports;
mod secrets;
mod start;
mod stop;

pub(crate) use engine::{Commit, Engine};
pub(crate) use ports::{PortChoice, free_or_any};
pub(crate) use start::{Addresses, StartPlan, Started, start};
pub(crate) use stop::{Removed, VolumeRule, stop};

/// The port on which containers reach the frontend; it is inside the cluster's network, where nothing
/// else can hold it.
const RPC_PORT: u16 = 7000;

/// Marks the Redis container of a cluster whose data a plain `stop` leaves.
const KEEP_DATA_LABEL: &str = "ai.skysail.keep-data";

/// Names, on the container with the control role, the port of its admin API on this machine, by which the user's
/// commands find the token they keep.
const ADMIN_PORT_LABEL: &str = "ai.skysail.admin-port";

/// Tells, on the same container, which admin token it was given, without saying the token: a cluster that is stopped
/// may have lost its port, and the token kept for that port, to another cluster.
const TOKEN_FINGERPRINT_LABEL: &str = "ai.skysail.admin-token-fingerprint";

/// Names, on the Redis container, the id of the network that the cluster's model containers join: Redis itself
/// is not on it, and another start that finds this container is to leave that network alone.
const MODEL_NETWORK_LABEL: &str = "ai.skysail.model-network";

/// Why a cluster was not started or stopped.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClusterError {
    /// No Docker engine answers.
    #[error("cannot reach Docker at {address}: {reason}")]
    NoDocker { address: String, reason: String },
    /// `DOCKER_HOST` names an engine that is no local socket.
    #[error("DOCKER_HOST is `{0}`, but only unix sockets are supported")]
    DockerHost(String),
    /// There is such a cluster already.
    #[error("cluster `{0}` is already running")]
    AlreadyRuns(ClusterName),
    /// Somebody else started it meanwhile.
    #[error("cluster `{0}` is being started by somebody else just now")]
    StartedElsewhere(ClusterName),
    /// Containers of such a cluster are there, but no frontend that runs.
    #[error("cluster `{cluster}` has left containers behind: {containers}")]
    Leftovers {
        cluster: ClusterName,
        containers: String,
    },
    /// Something that is not ours has the name.
    #[error("Docker already has a {kind} `{name}`, which does not belong to cluster `{cluster}`")]
    NameTaken {
        kind: &'static str,
        name: String,
        cluster: ClusterName,
    },
    /// A port is taken.
    #[error("port {port} is already in use ({option})")]
    PortTaken { port: u16, option: &'static str },
    /// One port is asked for twice.
    #[error("{first} and {second} are both {port}")]
    SamePort {
        port: u16,
        first: &'static str,
        second: &'static str,
    },
    /// Above the first port there are not as many as are needed.
    #[error("there are not enough ports for {0} frontends above the first")]
    TooManyFrontends(usize),
    /// No port is free.
    #[error("cannot find a free port: {0}")]
    NoFreePort(std::io::Error),
    /// An image is not here and cannot be pulled.
    #[error("image `{image}` is not on this machine and cannot be pulled: {reason}")]
    Image {
        image: String,
        reason: String,
        option: &'static str,
    },
    /// What was started does not come up.
    #[error("{what}")]
    NotReady { what: String, log: Vec<String> },
    /// The person changed their mind.
    #[error("interrupted; what had been started was removed again")]
    Interrupted,
    /// The system does not let us hear of Ctrl-C.
    #[error("cannot listen to signals: {0}")]
    NoSignals(std::io::Error),
    /// Somebody else's containers use the network.
    #[error("network `{network}` is still used by {by}, which does not belong to cluster `{cluster}`")]
    NetworkUsed {
        network: String,
        by: String,
        cluster: ClusterName,
    },
    /// The admin API's token cannot be kept for the user's commands, or not be forgotten.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    /// Docker refuses for another reason.
    #[error("cannot {doing}: {reason}")]
    Engine { doing: String, reason: String },
}

impl ClusterError {
    /// What to do about it, where that can be guessed.
    pub(crate) fn hint(&self) -> Option<String> {
        match self {
            Self::NoDocker { .. } => Some(
                "is Docker running, and may you use it (`docker info`)? Without Docker, `skysail-frontend` \
                 runs as a plain process"
                    .into(),
            ),
            Self::DockerHost(_) => Some("forward it to a local socket and name that: unix:///path".into()),
            Self::AlreadyRuns(cluster) => Some(format!(
                "`skysail stop --cluster {cluster}` removes it, `skysail start --cluster OTHER` starts another"
            )),
            Self::StartedElsewhere(_) => Some("`docker ps` shows how far it is".into()),
            Self::Leftovers { cluster, .. } => Some(format!(
                "`skysail stop --cluster {cluster}` removes them (with --keep-data all but the data); if a server of \
                 your own runs them, choose another name with --cluster"
            )),
            Self::NameTaken { .. } => Some("choose another name with --cluster, or remove it by hand".into()),
            Self::PortTaken { option, .. } | Self::SamePort { first: option, .. } => Some(format!(
                "choose another with {option} N, or let one be found with {option} 0"
            )),
            Self::Image { image, option, .. } => Some(image_advice(image, option)),
            Self::NetworkUsed { network, .. } => Some(format!(
                "`docker network disconnect {network} CONTAINER` lets it go; then `skysail stop` again"
            )),
            Self::TooManyFrontends(_) => Some(
                "choose lower ones with --query-port N, --rpc-port N and --ops-port N, or 0 to let them be found".into(),
            ),
            Self::Credentials(error) => error.hint(),
            Self::NoFreePort(_)
            | Self::NoSignals(_)
            | Self::NotReady { .. }
            | Self::Interrupted
            | Self::Engine { .. } => None,
        }
    }

    /// The last lines of the container that did not come up.
    pub(crate) fn log(&self) -> &[String] {
        match self {
            Self::NotReady { log, .. } => log,
            _ => &[],
        }
    }
}

fn image_advice(image: &str, option: &str) -> String {
    let build = if image.starts_with("skysail/") {
        "`make images` in the sources builds it; "
    } else {
        ""
    };
    format!("{build}`docker pull {image}` shows more (and takes your login); {option} names another image")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_running_cluster_is_answered_with_both_ways_out() {
        let error = ClusterError::AlreadyRuns("blue".parse().unwrap());
        let hint = error.hint().unwrap();
        assert!(hint.contains("skysail stop --cluster blue"), "{hint}");
        assert!(hint.contains("start --cluster OTHER"), "{hint}");
    }

    #[test]
    fn a_taken_port_is_named_with_the_option_that_moves_it() {
        let error = ClusterError::PortTaken {
            port: 1337,
            option: "--query-port",
        };
        assert!(error.to_string().contains("1337"));
        assert!(error.hint().unwrap().contains("--query-port 0"));
    }

    #[test]
    fn only_our_own_images_are_said_to_be_built_from_source() {
        assert!(image_advice("skysail/frontend:0.1.0", "--frontend-image").contains("make images"));
        let advice = image_advice("redis:7-alpine", "--redis-image");
        assert!(
            !advice.contains("make images") && advice.contains("--redis-image"),
            "{advice}"
        );
    }
}

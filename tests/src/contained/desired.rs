//! Whether a cluster is as it should be, as seen from everywhere: by Docker, by each frontend, and by what the
//! frontends announce.

use std::net::SocketAddr;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use reqwest::Method;
use serde_json::{Value, json};
use skysail_core::cluster::FrontendView;

use super::{ADMIN_PORT, ContainedCluster, QUERY_PORT, RPC_PORT};
use crate::docker::Container;
use crate::rest::{Reply, Rest};
use crate::wait;

/// The application whose default output is written to see whether anything can be.
pub(super) const PROBE: &str = "probe";

/// How long a frontend may take to say how it is before it is taken for one that does not answer.
const SAYS_WITHIN: Duration = Duration::from_secs(2);

/// The engine notes the begin of a container when it hears of it: the program may have looked at its clock before.
const NOTED_WITHIN: SignedDuration = SignedDuration::from_millis(500);

/// How long a cluster may take until it is as it should be: failing replicas pause for up to a minute.
const HEALS_WITHIN: Duration = Duration::from_secs(120);

impl ContainedCluster {
    /// Waits until the cluster is as it should be, with so many replicas.
    pub async fn healed(&mut self, replicas: usize) {
        let mut last = None;
        let healed = async {
            loop {
                last = self.ailment(replicas).await;
                if last.is_none() {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        let healed = tokio::time::timeout(HEALS_WITHIN, healed).await;
        let last = last.unwrap_or_else(|| "it does not answer".to_owned());
        assert!(healed.is_ok(), "not healed in {HEALS_WITHIN:?}: {last}");
    }

    /// The first thing that is not as it should be, in words.
    pub async fn ailment(&mut self, replicas: usize) -> Option<String> {
        let containers = self.docker().containers().await;
        if let Some(idle) = containers.iter().find(|container| !container.running) {
            return Some(format!("{} does not run", idle.name));
        }
        let of_replicas: Vec<_> = containers.iter().filter(|one| one.role == "replica").collect();
        if of_replicas.len() != replicas {
            return Some(format!("{} of {replicas} replicas run", of_replicas.len()));
        }
        let others = 1 + self.query().len() + self.control().len();
        if containers.len() != others + replicas {
            return Some(format!(
                "{} containers too many",
                containers.len() - others - replicas
            ));
        }
        for (container, port) in self.frontends() {
            if !self.says_ready(&container, port).await {
                return Some(format!("{container} is not ready, or without its store"));
            }
        }
        if let Some(unseen) = self.unseen(&of_replicas).await {
            return Some(unseen);
        }
        match self.acting().await {
            Some(_) => None,
            None => Some("no candidate for the control role acts, or they do not agree which".to_owned()),
        }
    }

    /// The candidate for the control role that acts, if all that say who does agree.
    pub async fn acting(&self) -> Option<usize> {
        let mut found = Vec::new();
        for place in 0..self.control().len() {
            let Some(addr) = self.find_address(&self.control()[place], ADMIN_PORT).await else {
                continue;
            };
            let Some(reply) = asked(addr, "/api/v1/status").await else {
                continue;
            };
            let status: Value = serde_json::from_str(&reply.text).ok()?;
            let frontends = status["frontends"].as_array()?;
            let mut acting = frontends.iter().filter(|one| one["control"] == "acting");
            // One that does not act may not know who does.
            let Some(one) = acting.next() else {
                continue;
            };
            if acting.next().is_some() {
                return None;
            }
            found.push((one["id"].clone(), started_at(&one["started_at"])?));
        }
        let (id, started_at) = found.first()?;
        if found.iter().any(|(other, _)| other != id) {
            return None;
        }
        self.started_nearest(*started_at).await
    }

    /// The candidate for the control role whose container began nearest to that.
    async fn started_nearest(&self, started_at: Timestamp) -> Option<usize> {
        let mut nearest = Vec::new();
        for (place, container) in self.control().iter().enumerate() {
            let apart = self.began(container).await?.duration_since(started_at).abs();
            nearest.push((apart, place));
        }
        nearest.into_iter().min().map(|(_, place)| place)
    }

    /// When a container began to run for the last time, by the engine's clock, which is this machine's.
    pub async fn began(&self, container: &str) -> Option<Timestamp> {
        let state = self.docker().inspect(container).await.state?;
        state.started_at?.parse().ok()
    }

    /// All frontends, with a port on which each says how it is.
    fn frontends(&self) -> Vec<(String, u16)> {
        let query = self.query().iter().map(|name| (name.clone(), QUERY_PORT));
        let control = self.control().iter().map(|name| (name.clone(), ADMIN_PORT));
        query.chain(control).collect()
    }

    /// What a query frontend does not see of these replicas, in words.
    async fn unseen(&mut self, replicas: &[&Container]) -> Option<String> {
        let views = self.views().await;
        for frontend in self.query().to_vec() {
            let began = self.began(&frontend).await;
            let view = newest(&views, &frontend)
                .filter(|view| began.is_some_and(|began| began <= view.started_at + NOTED_WITHIN));
            let Some(view) = view else {
                return Some(format!("{frontend} announces nothing"));
            };
            if let Some(hung) = view
                .hung
                .iter()
                .find(|start| view.replicas.iter().any(|one| one.start == **start))
            {
                return Some(format!(
                    "{frontend} keeps the replica of start {hung}, which hangs"
                ));
            }
            for replica in replicas {
                if !sees(view, replica) {
                    return Some(format!("{frontend} does not see {}", replica.name));
                }
            }
            if view.replicas.len() != replicas.len() {
                return Some(format!("{frontend} sees {} replicas", view.replicas.len()));
            }
        }
        None
    }
}

/// What a query frontend announced last; an earlier life of it may be remembered still.
pub fn newest<'a>(views: &'a [FrontendView], frontend: &str) -> Option<&'a FrontendView> {
    let rpc_addr = format!("{frontend}:{RPC_PORT}");
    let theirs = views
        .iter()
        .filter(|view| view.rpc_addr.as_ref() == Some(&rpc_addr));
    theirs.max_by_key(|view| view.started_at)
}

/// Whether a frontend can send something to this very container: its host name is the container's id.
pub fn sees(view: &FrontendView, replica: &Container) -> bool {
    view.replicas.iter().any(|seen| {
        let is_it = !seen.hostname.is_empty() && replica.id.starts_with(&seen.hostname);
        is_it && !seen.draining && !seen.overdue
    })
}

/// The reply to a question, if there is one soon: a frontend that is stopped or cut off says nothing.
pub(super) async fn asked(addr: SocketAddr, path: &str) -> Option<Reply> {
    let api = Rest::at(addr).with_token(super::ADMIN_TOKEN);
    let reply = tokio::time::timeout(SAYS_WITHIN, api.send(Method::GET, path, ""));
    reply.await.ok()?.ok()
}

fn started_at(text: &Value) -> Option<Timestamp> {
    text.as_str()?.parse().ok()
}

/// Whether this candidate for the control role takes an admin write now.
pub async fn can_write(admin: &Rest) -> bool {
    // Another value each time: what changes nothing need not be written.
    let body = json!({ "default_output": format!("{:08x}", fastrand::u32(..)) }).to_string();
    let path = format!("/api/v1/applications/{PROBE}");
    let written = tokio::time::timeout(SAYS_WITHIN, admin.send(Method::PATCH, &path, body));
    matches!(written.await, Ok(Ok(reply)) if reply.status == 200)
}

/// Waits until an admin write is taken.
pub async fn writable(admin: &Rest) {
    wait::until("an admin write to be taken", wait::PATIENCE, async || {
        can_write(admin).await
    })
    .await;
}

//! The end of a frontend, in stages.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::parts::{Running, Stage};
use crate::model::ModelTable;
use crate::runtime::ContainerRuntime;
use crate::store::Announced;

/// The largest part of the grace that is kept for telling containers and ending processes.
const CONTAINER_RESERVE: Duration = Duration::from_secs(3);

/// The tokens that close parts, in the order in which they are cancelled.
#[derive(Clone, Default)]
pub(super) struct Closing {
    pub(super) queries: CancellationToken,
    pub(super) admin: CancellationToken,
    pub(super) background: CancellationToken,
}

/// The end of a frontend, in stages that share the grace. However slow a stage is, containers are told.
pub(super) struct Ending {
    grace: Duration,
    ended: Ended,
    neighbours: Neighbours,
    closing: Closing,
    query_server: Running,
    admin_servers: Running,
    leadership: Running,
    background: Running,
    announcer: Running,
    store: Running,
}

/// The parts that are told of the frontend's end.
pub(super) struct Ended {
    pub(super) models: Arc<ModelTable>,
    pub(super) runtime: Option<Arc<dyn ContainerRuntime>>,
}

/// The other frontends of the cluster.
pub(super) struct Neighbours {
    /// This frontend's id.
    pub(super) own_id: String,
    /// The latest announcements of the live frontends.
    pub(super) announced: watch::Receiver<Announced>,
}

impl Neighbours {
    /// Whether no other frontend lives.
    fn are_gone(&self) -> bool {
        self.announced.borrow().keys().all(|id| *id == self.own_id)
    }
}

impl Ending {
    pub(super) fn new(grace: Duration, ended: Ended, neighbours: Neighbours, closing: Closing) -> Self {
        Self {
            grace,
            ended,
            neighbours,
            closing,
            query_server: Running::default(),
            admin_servers: Running::default(),
            leadership: Running::default(),
            background: Running::default(),
            announcer: Running::default(),
            store: Running::default(),
        }
    }

    /// The running parts of a stage.
    pub(super) fn stage(&mut self, stage: Stage) -> &mut Running {
        match stage {
            Stage::QueryServer => &mut self.query_server,
            Stage::AdminServers => &mut self.admin_servers,
            Stage::Leadership => &mut self.leadership,
            Stage::Background => &mut self.background,
            Stage::Announcer => &mut self.announcer,
            Stage::Store => &mut self.store,
        }
    }

    /// Waits until any part has ended, and returns its name. No part should end while the frontend serves.
    pub(super) async fn part_ended(&mut self) -> &'static str {
        tokio::select! {
            part = self.query_server.ended() => part,
            part = self.admin_servers.ended() => part,
            part = self.leadership.ended() => part,
            part = self.background.ended() => part,
            part = self.announcer.ended() => part,
            part = self.store.ended() => part,
        }
    }

    pub(super) async fn run(mut self) {
        info!(grace = ?self.grace, "draining");
        let end = Instant::now() + self.grace;
        let reserve = (self.grace / 4).min(CONTAINER_RESERVE);

        // Readiness fails from here on.
        self.closing.queries.cancel();
        if timeout_at(end - reserve, self.query_server.all_ended())
            .await
            .is_err()
        {
            warn!(grace = ?self.grace, "the grace period ended before every query was answered");
        }
        // The admin API has stayed open until here, so that its /readyz reports the draining.
        self.closing.admin.cancel();
        if timeout_at(end - reserve, self.leadership.all_ended())
            .await
            .is_err()
        {
            warn!("the control role's lease was not given back; it ends by itself");
        }
        if timeout_at(end - reserve * 3 / 4, self.admin_servers.all_ended())
            .await
            .is_err()
        {
            warn!("admin requests were cut off");
        }
        if timeout_at(end - reserve / 2, self.ended.models.drain())
            .await
            .is_err()
        {
            warn!("containers were cut off");
        }
        self.closing.background.cancel();
        self.shut_runtime_down(end, reserve).await;
        let _ = timeout_at(end, self.announcer.all_ended()).await;
        info!("drained");
    }

    /// Ends the runtime after all parts that use it, or when the wait for them times out.
    async fn shut_runtime_down(&mut self, end: Instant, reserve: Duration) {
        let Some(runtime) = &self.ended.runtime else {
            return;
        };
        let _ = timeout_at(end - reserve / 4, self.background.all_ended()).await;
        let grace = end.saturating_duration_since(Instant::now());
        if let Err(error) = runtime.shutdown(grace, self.neighbours.are_gone()).await {
            warn!(%error, "the container runtime was not shut down in order");
        }
    }
}

//! The end of a frontend, in stages.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::Runtime;
use crate::model::ModelTable;
use crate::query::QueryService;
use crate::store::Announced;

/// The most of the grace that is kept for telling containers and ending processes.
const CONTAINER_RESERVE: Duration = Duration::from_secs(3);

/// What is told to close, in this order.
#[derive(Clone, Default)]
pub(super) struct Closing {
    pub(super) queries: CancellationToken,
    pub(super) admin: CancellationToken,
    pub(super) background: CancellationToken,
}

/// The end of a frontend, in stages that share the grace between them: however slow one is, containers are
/// told.
pub(super) struct Ending {
    pub(super) grace: Duration,
    pub(super) queries: Arc<QueryService>,
    pub(super) models: Arc<ModelTable>,
    pub(super) runtime: Runtime,
    /// This frontend's id.
    pub(super) id: String,
    /// What the live frontends announced last.
    pub(super) announced: watch::Receiver<Announced>,
    pub(super) query_server: JoinSet<()>,
    pub(super) admin_server: JoinSet<()>,
    pub(super) background: JoinSet<()>,
    /// Takes its announcement back when the background closes.
    pub(super) announcer: JoinSet<()>,
    /// Gives the control role's lease back when admin REST closes.
    pub(super) leadership: JoinSet<()>,
    pub(super) closing: Closing,
}

impl Ending {
    pub(super) async fn run(mut self) {
        info!(grace = ?self.grace, "draining");
        let end = Instant::now() + self.grace;
        let reserve = (self.grace / 4).min(CONTAINER_RESERVE);

        self.queries.start_draining();
        self.closing.queries.cancel();
        if timeout_at(end - reserve, joined(&mut self.query_server))
            .await
            .is_err()
        {
            warn!(grace = ?self.grace, "the grace period ended before every query was answered");
        }
        // The admin API stays until then, so that its /readyz can say what is going on.
        self.closing.admin.cancel();
        if timeout_at(end - reserve, joined(&mut self.leadership))
            .await
            .is_err()
        {
            warn!("the control role's lease was not given back; it ends by itself");
        }
        if timeout_at(end - reserve * 3 / 4, joined(&mut self.admin_server))
            .await
            .is_err()
        {
            warn!("admin requests were cut off");
        }
        if timeout_at(end - reserve / 2, self.models.drain()).await.is_err() {
            warn!("containers were cut off");
        }
        self.closing.background.cancel();
        if let Runtime::Process(processes) = &self.runtime {
            processes
                .shutdown(end.saturating_duration_since(Instant::now()))
                .await;
        }
        let _ = timeout_at(end, joined(&mut self.announcer)).await;
        self.leave_network(end).await;
        info!("drained");
    }
}

impl Ending {
    /// Lets the cluster's network in Docker go with the last of those that used it.
    async fn leave_network(&mut self, end: Instant) {
        let Runtime::Docker(docker) = &self.runtime else {
            return;
        };
        // Whoever else follows the store has told where its containers find it.
        if self.announced.borrow().keys().any(|id| *id != self.id) {
            return;
        }
        // Nobody is to listen there any more, and nothing to be started.
        let left = async {
            joined(&mut self.background).await;
            docker.leave().await
        };
        if let Ok(Err(error)) = timeout_at(end, left).await {
            warn!(%error, "the cluster's network in docker was not looked at");
        }
    }
}

/// Waits for all tasks of a set.
async fn joined(tasks: &mut JoinSet<()>) {
    while tasks.join_next().await.is_some() {}
}

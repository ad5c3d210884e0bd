//! What this frontend counts.

use std::sync::Arc;

use skysail_proto::peer::Figures;

use crate::health::Health;
use crate::metrics::Metrics;
use crate::model::ModelTable;

/// Where the figures come from.
#[derive(Clone)]
pub(crate) struct Counting {
    /// Counts queries.
    pub metrics: Arc<Metrics>,
    /// Knows what waits.
    pub models: Arc<ModelTable>,
    /// Knows whether queries may come.
    pub health: Arc<Health>,
}

impl Counting {
    /// The figures now.
    pub(crate) fn figures(&self) -> Figures {
        let answered = self.metrics.answered();
        let loads = self.models.loads();
        Figures {
            queries: answered.queries,
            defaults: answered.defaults,
            queued: loads.iter().map(|(_, load)| load.queued as u64).sum(),
            ready: self.health.readiness().ready,
        }
    }
}

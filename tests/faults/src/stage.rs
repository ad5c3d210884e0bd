//! The cluster and the load on it.

use std::time::Duration;

use skysail_tests::contained::{ContainedCluster, Size};
use skysail_tests::deployment::Deployment;
use skysail_tests::docker::image;
use skysail_tests::load::{Load, Running};

/// The replicas wanted.
pub(crate) const REPLICAS: u32 = 3;

const SLO: Duration = Duration::from_millis(200);

/// What a batch of n inputs costs, in microseconds: l(n) = 10000 + 4500 n. Slow enough for what is measured to
/// be the system and not the two cores that all of it shares.
const FIXED_MICROS: &str = "10000";
const PER_INPUT_MICROS: &str = "4500";

/// In queries per second and replica: n / l(n) for the n at which two batches fill the objective, n = 20.
const CAPACITY: f64 = 200.0;

/// The application that is asked, and the model behind it.
pub(crate) const APPLICATION: &str = "digests";
pub(crate) const MODEL: &str = "synthetic";

/// A cluster that serves under load.
pub(crate) struct Stage {
    /// First: the load ends before what it asks does.
    pub(crate) running: Running,
    pub(crate) cluster: ContainedCluster,
}

impl Stage {
    /// Brings everything up: two query frontends, two candidates for the control role, three replicas.
    pub(crate) async fn set(seed: u64, share: f64) -> Self {
        let mut cluster = ContainedCluster::start(Size { query: 2, control: 2 }).await;
        let load = Load {
            application: APPLICATION.to_owned(),
            slo: SLO,
            default_output: "unknown".to_owned(),
            per_second: share * CAPACITY * f64::from(REPLICAS),
            seed,
        };
        let deployment = Deployment::of_image(MODEL, image("synthetic").await)
            .env("SYNTHETIC_FIXED_MICROS", FIXED_MICROS)
            .env("SYNTHETIC_PER_INPUT_MICROS", PER_INPUT_MICROS)
            .with("cache", false)
            .replicas(REPLICAS);
        cluster.serve(&load, &deployment).await;
        cluster.healed(REPLICAS as usize).await;
        let running = cluster.offer(load).await;
        Self { running, cluster }
    }

    /// The first thing that is not as it should be.
    pub(crate) async fn ailment(&mut self) -> Option<String> {
        self.cluster.ailment(REPLICAS as usize).await
    }
}

//! A number of replicas that follows the load, as the control role decides it: once a second, by what it was
//! told last.

use std::time::Duration;

use skysail_core::autoscale::{Autoscaler, BatchTimes, Situation};
use skysail_core::batch::{BatchPolicy, LatencyModel};
use skysail_core::time::Instant;

use crate::cost::Cost;
use crate::policy::PolicyKind;
use crate::scenario::{Scaling, Scenario};

/// How often is decided.
const INTERVAL: Duration = Duration::from_secs(1);

/// What decides, and what it has seen since the last time.
pub(crate) struct Scaler {
    autoscaler: Autoscaler,
    policy: PolicyKind,
    scenario: Scenario,
    scaling: Scaling,
    next: Instant,
    arrivals: u32,
}

/// What is seen of queries and replicas at one time.
#[derive(Clone, Copy)]
pub(crate) struct Seen {
    pub(crate) now: Instant,
    pub(crate) queued: usize,
    pub(crate) replicas: usize,
    pub(crate) attached: usize,
}

impl Scaler {
    pub(crate) fn new(policy: PolicyKind, scenario: &Scenario, scaling: Scaling) -> Self {
        Self {
            autoscaler: Autoscaler::default(),
            policy,
            scenario: scenario.clone(),
            scaling,
            next: Instant::default() + INTERVAL,
            arrivals: 0,
        }
    }

    /// When is decided next.
    pub(crate) fn next(&self) -> Instant {
        self.next
    }

    /// A query came.
    pub(crate) fn arrival(&mut self) {
        self.arrivals += 1;
    }

    /// How many replicas there are to be.
    pub(crate) fn decide<'a>(
        &mut self,
        seen: Seen,
        replicas: impl Iterator<Item = &'a LatencyModel>,
    ) -> usize {
        let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        let arrivals = std::mem::take(&mut self.arrivals);
        self.next = seen.now + INTERVAL;
        let decision = self.autoscaler.decide(&Situation {
            now: seen.now,
            arrivals_per_second: f64::from(arrivals) / INTERVAL.as_secs_f64(),
            queued: seen.queued as u64,
            batch_times: batch_times(replicas),
            slo: Some(self.scenario.slo),
            max_batch: self.scenario.max_batch,
            replicas: count(seen.replicas),
            attached: count(seen.attached),
            bounds: self.scaling.bounds,
        });
        decision.replicas as usize
    }

    /// What a replica that is asked for is made of.
    pub(crate) fn replica(&self) -> (Box<dyn BatchPolicy>, Cost) {
        let policy = self.policy.build(self.scenario.max_batch);
        (policy, self.scenario.cost)
    }

    /// How long it takes to start.
    pub(crate) fn start_time(&self) -> Duration {
        self.scaling.start
    }
}

/// The means over the replicas that have done a batch.
fn batch_times<'a>(replicas: impl Iterator<Item = &'a LatencyModel>) -> Option<BatchTimes> {
    let known: Vec<_> = replicas.filter(|latency| latency.is_known()).collect();
    let mean = |time: fn(&LatencyModel) -> f64| {
        known.iter().map(|latency| time(latency)).sum::<f64>() / known.len() as f64
    };
    (!known.is_empty()).then(|| BatchTimes {
        first: mean(|latency| latency.on_the_line(1)),
        further: mean(|latency| latency.on_the_line(2) - latency.on_the_line(1)),
        p99: 0.0,
    })
}

//! Ten times more than can be carried, of inputs of a kibibyte: memory, and every query answered once and in
//! time.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;
use skysail_tests::cluster::TestCluster;
use tokio::time::{MissedTickBehavior, interval};

use crate::arguments::Plan;
use crate::goodput::{self, Offer, Policy, Run};
use crate::process;

/// Relative to the capacity.
pub(crate) const LOAD: f64 = 10.0;

/// Doubles in an input: a kibibyte, of which JSON makes more than two.
const INPUT_LENGTH: u32 = 128;

const LOOK: Duration = Duration::from_millis(500);

/// How it went.
#[derive(Debug, Serialize)]
pub(crate) struct Overload {
    pub(crate) offered_per_second: f64,
    pub(crate) in_time_per_second: f64,
    pub(crate) goodput: f64,
    /// Queries that the client sent.
    pub(crate) sent: u64,
    /// Queries that were answered, by a prediction or by the default output.
    pub(crate) answered: u64,
    /// Queries that were sent and not answered.
    pub(crate) lost: u64,
    /// Queries that the server says it answered.
    pub(crate) served: u64,
    /// What the server answered beyond what was sent.
    pub(crate) twice: u64,
    /// Inputs in batches: more than were sent would mean that some were sent twice.
    pub(crate) model_inputs: u64,
    /// Answers of any kind that came more than 10 ms after the objective.
    pub(crate) overdue: u64,
    pub(crate) share_within_slo_and_10_ms: f64,
    pub(crate) worst_micros: u64,
    pub(crate) errors: BTreeMap<String, u64>,
    pub(crate) memory: Course,
    /// Whether the sender kept its schedule.
    pub(crate) trustworthy: bool,
}

/// The frontend's resident set over time, in bytes.
#[derive(Debug, Serialize)]
pub(crate) struct Course {
    pub(crate) start_bytes: u64,
    /// The kernel's own count of the most.
    pub(crate) max_bytes: u64,
    pub(crate) end_bytes: u64,
    pub(crate) series_bytes: Vec<u64>,
}

pub(crate) async fn measure(plan: &Plan) -> anyhow::Result<Overload> {
    let policy = Policy::Learned;
    let cluster = goodput::cluster(plan, &[policy]).await;
    let calm = Offer {
        policy,
        load: 0.6,
        lasts: plan.goodput_warms_up,
        seed: 1,
        input_length: INPUT_LENGTH,
    };
    goodput::offer(&cluster, calm).await?;
    eprintln!(
        "overload: {LOAD} times the capacity for {:?}",
        plan.overload_lasts
    );
    let before = Counts::of(&cluster, policy).await;
    let storm = Offer {
        load: LOAD,
        lasts: plan.overload_lasts,
        ..calm
    };
    let (run, memory) = watched(&cluster, storm).await?;
    let served = Counts::of(&cluster, policy).await - before;
    Ok(Overload::new(&run, served, memory))
}

/// Offers a load and watches the frontend's memory meanwhile.
async fn watched(cluster: &TestCluster, storm: Offer) -> anyhow::Result<(Run, Course)> {
    let pid = cluster.pid();
    process::forget_peak(pid);
    let start_bytes = process::memory(pid)?.now;
    let mut series_bytes = Vec::new();
    let mut looks = interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut running = std::pin::pin!(goodput::offer(cluster, storm));
    let run = loop {
        tokio::select! {
            run = &mut running => break run?,
            _ = looks.tick() => series_bytes.push(process::memory(pid)?.now),
        }
    };
    let end = process::memory(pid)?;
    let course = Course {
        start_bytes,
        max_bytes: end.peak,
        end_bytes: end.now,
        series_bytes,
    };
    Ok((run, course))
}

/// What the server counted.
#[derive(Clone, Copy, Debug)]
struct Counts {
    queries: u64,
    model_inputs: u64,
}

impl Counts {
    async fn of(cluster: &TestCluster, policy: Policy) -> Self {
        let name = policy.application();
        let queries = format!(r#"skysail_queries_total{{application="{name}"}}"#);
        let inputs = format!(r#"skysail_batch_size_sum{{model="{name}",version="1"}}"#);
        Self {
            queries: cluster.metric(&queries).await as u64,
            model_inputs: cluster.metric(&inputs).await as u64,
        }
    }
}

impl std::ops::Sub for Counts {
    type Output = Self;
    fn sub(self, before: Self) -> Self {
        Self {
            queries: self.queries - before.queries,
            model_inputs: self.model_inputs - before.model_inputs,
        }
    }
}

impl Overload {
    fn new(run: &Run, served: Counts, memory: Course) -> Self {
        let answered = run.in_time + run.late + run.defaulted;
        let worst = run.latency_micros.answers;
        Self {
            offered_per_second: run.offered_per_second,
            in_time_per_second: run.in_time_per_second,
            goodput: run.goodput,
            sent: run.sent,
            answered,
            lost: run.sent.saturating_sub(answered),
            served: served.queries,
            twice: served.queries.saturating_sub(run.sent),
            model_inputs: served.model_inputs,
            overdue: run.overdue,
            share_within_slo_and_10_ms: 1.0 - run.overdue as f64 / answered.max(1) as f64,
            worst_micros: worst.map_or(0, |worst| worst.max),
            errors: run.errors.clone(),
            memory,
            trustworthy: run.trustworthy,
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    fn course() -> Course {
        Course {
            start_bytes: 20 << 20,
            max_bytes: 40 << 20,
            end_bytes: 30 << 20,
            series_bytes: vec![20 << 20, 40 << 20, 30 << 20],
        }
    }

    pub(crate) fn example() -> Overload {
        let served = Counts {
            queries: 800,
            model_inputs: 700,
        };
        Overload::new(&goodput::tests::run(700), served, course())
    }

    #[test]
    fn what_was_sent_and_answered_once_is_neither_lost_nor_there_twice() {
        let overload = example();
        assert_eq!((overload.answered, overload.lost, overload.twice), (800, 0, 0));
        assert_eq!(overload.share_within_slo_and_10_ms, 1.0);
        assert_eq!(overload.worst_micros, 52_000);
    }

    #[test]
    fn what_was_not_answered_is_lost_and_what_the_server_counts_more_is_there_twice() {
        let mut run = goodput::tests::run(700);
        run.sent = 810;
        run.overdue = 200;
        let served = Counts {
            queries: 815,
            model_inputs: 0,
        };
        let overload = Overload::new(&run, served, course());
        assert_eq!((overload.lost, overload.twice), (10, 5));
        assert_eq!(overload.share_within_slo_and_10_ms, 0.75);
    }
}

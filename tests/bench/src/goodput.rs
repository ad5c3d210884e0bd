//! What is answered in time as the offered load grows: the batch policies on a model whose cost is known.
//!
//! Each round offers the same arrivals to each policy, one after the other, in an order that changes from
//! round to round.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, ensure};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use skysail_tests::cluster::{Settings, TestCluster};
use skysail_tests::deployment::Deployment;
use skysail_tests::skysail::Skysail;

use crate::arguments::Plan;
use crate::spread::Spread;

pub(crate) const SLO: Duration = Duration::from_millis(50);

/// What a batch of n inputs costs, in microseconds: l(n) = 5000 + 1000 n.
const FIXED_MICROS: &str = "5000";
const PER_INPUT_MICROS: &str = "1000";

/// In queries per second: n / l(n) for the n at which two batches fill the objective, 2 l(n) = SLO, n = 20.
/// Larger batches carry a little more, but a query that comes while one is computed is answered too late.
pub(crate) const CAPACITY: f64 = 800.0;

/// All loads for all policies.
#[derive(Debug, Serialize)]
pub(crate) struct Goodput {
    pub(crate) capacity_per_second: f64,
    pub(crate) slo_micros: u64,
    pub(crate) cells: Vec<Cell>,
}

/// One load for one policy.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Cell {
    pub(crate) policy: Policy,
    /// Relative to the capacity.
    pub(crate) load: f64,
    pub(crate) offered_per_second: Spread,
    pub(crate) in_time_per_second: Spread,
    /// The share of what was offered that a prediction answered in time.
    pub(crate) goodput: Spread,
    /// Default outputs by their reason, of all rounds.
    pub(crate) defaults: BTreeMap<String, u64>,
    /// Queries without an answer by what went wrong.
    pub(crate) errors: BTreeMap<String, u64>,
    /// Rounds in which the sender itself was late.
    pub(crate) untrustworthy: usize,
}

/// How batch sizes are chosen.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
pub(crate) enum Policy {
    #[serde(rename = "learned")]
    Learned,
    #[serde(rename = "aimd")]
    Aimd,
    #[serde(rename = "fixed:20")]
    Fixed,
}

impl Policy {
    pub(crate) const ALL: [Self; 3] = [Self::Learned, Self::Aimd, Self::Fixed];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Learned => "learned",
            Self::Aimd => "AIMD",
            Self::Fixed => "fixed (20)",
        }
    }

    fn batch_size(self) -> Value {
        match self {
            Self::Learned => json!("adaptive"),
            Self::Aimd => json!("aimd"),
            Self::Fixed => json!(20),
        }
    }

    pub(crate) fn application(self) -> &'static str {
        match self {
            Self::Learned => "learned",
            Self::Aimd => "aimd",
            Self::Fixed => "fixed",
        }
    }
}

/// A frontend with the synthetic model under each of these policies, each behind an application.
pub(crate) async fn cluster(plan: &Plan, policies: &[Policy]) -> TestCluster {
    let cluster = Settings::default()
        .flag("--worker-threads", &plan.worker_threads.to_string())
        .start()
        .await;
    for policy in policies {
        let deployment = Deployment::synthetic()
            .named(policy.application(), "1")
            .env("SYNTHETIC_FIXED_MICROS", FIXED_MICROS)
            .env("SYNTHETIC_PER_INPUT_MICROS", PER_INPUT_MICROS)
            .with("batch_size", policy.batch_size())
            .with("cache", false);
        cluster.serve_within(policy.application(), &deployment, SLO).await;
    }
    cluster
}

/// What `skysail bench --output json` prints, as far as it is of interest here.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Run {
    pub(crate) sent: u64,
    pub(crate) in_time: u64,
    pub(crate) late: u64,
    pub(crate) defaulted: u64,
    pub(crate) overdue: u64,
    pub(crate) goodput: f64,
    pub(crate) offered_per_second: f64,
    pub(crate) in_time_per_second: f64,
    pub(crate) defaults: BTreeMap<String, u64>,
    pub(crate) errors: BTreeMap<String, u64>,
    pub(crate) latency_micros: Latencies,
    pub(crate) trustworthy: bool,
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Latencies {
    pub(crate) answers: Option<Worst>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
pub(crate) struct Worst {
    pub(crate) max: u64,
}

/// What is offered to an application.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Offer {
    pub(crate) policy: Policy,
    pub(crate) load: f64,
    pub(crate) lasts: Duration,
    pub(crate) seed: u64,
    /// Numbers in each input.
    pub(crate) input_length: u32,
}

/// Offers a load with `skysail bench`: an open loop, queries of which no two are alike.
pub(crate) async fn offer(cluster: &TestCluster, offer: Offer) -> anyhow::Result<Run> {
    let line = format!(
        "bench {} --rate {} --duration {}ms --seed {} --input-length {} --output json",
        offer.policy.application(),
        offer.load * CAPACITY,
        offer.lasts.as_millis(),
        offer.seed,
        offer.input_length,
    );
    let words: Vec<&str> = line.split(' ').collect();
    let said = Skysail::at(cluster.addresses().admin).hear(&words, b"").await;
    ensure!(said.code == Some(0), "`skysail {line}` failed: {}", said.err);
    serde_json::from_str(&said.out).with_context(|| format!("`skysail {line}` printed {}", said.out))
}

pub(crate) async fn measure(plan: &Plan) -> anyhow::Result<Goodput> {
    let cluster = cluster(plan, &Policy::ALL).await;
    let mut runs: Vec<Vec<Run>> = vec![Vec::new(); plan.loads.len() * Policy::ALL.len()];
    for round in 0..plan.goodput_rounds {
        for (index, &load) in plan.loads.iter().enumerate() {
            for turn in 0..Policy::ALL.len() {
                let which = (turn + round + index) % Policy::ALL.len();
                let measured = Offer {
                    policy: Policy::ALL[which],
                    load,
                    lasts: plan.goodput_lasts,
                    seed: 1 + round as u64,
                    input_length: 4,
                };
                let warm_up = Offer {
                    lasts: plan.goodput_warms_up,
                    ..measured
                };
                offer(&cluster, warm_up).await?;
                runs[index * Policy::ALL.len() + which].push(offer(&cluster, measured).await?);
            }
            eprintln!(
                "goodput at load {load}: round {} of {}",
                round + 1,
                plan.goodput_rounds
            );
        }
    }
    let cells = plan
        .loads
        .iter()
        .flat_map(|&load| Policy::ALL.map(|policy| (policy, load)));
    let cells = cells
        .zip(&runs)
        .map(|((policy, load), runs)| cell(policy, load, runs));
    Ok(Goodput {
        capacity_per_second: CAPACITY,
        slo_micros: SLO.as_micros() as u64,
        cells: cells.collect::<anyhow::Result<_>>()?,
    })
}

fn cell(policy: Policy, load: f64, runs: &[Run]) -> anyhow::Result<Cell> {
    let spread = |of: fn(&Run) -> f64| Spread::of(runs.iter().map(of)).context("nothing was measured");
    Ok(Cell {
        policy,
        load,
        offered_per_second: spread(|run| run.offered_per_second)?,
        in_time_per_second: spread(|run| run.in_time_per_second)?,
        goodput: spread(|run| run.goodput)?,
        defaults: sum(runs.iter().map(|run| &run.defaults)),
        errors: sum(runs.iter().map(|run| &run.errors)),
        untrustworthy: runs.iter().filter(|run| !run.trustworthy).count(),
    })
}

fn sum<'a>(counts: impl Iterator<Item = &'a BTreeMap<String, u64>>) -> BTreeMap<String, u64> {
    let mut sum = BTreeMap::new();
    for (name, count) in counts.flatten() {
        *sum.entry(name.clone()).or_default() += count;
    }
    sum
}

impl Goodput {
    /// The cells of a policy, in order of their load.
    pub(crate) fn of(&self, policy: Policy) -> impl Iterator<Item = &Cell> {
        self.cells.iter().filter(move |cell| cell.policy == policy)
    }

    /// The loads that were offered.
    pub(crate) fn loads(&self) -> Vec<f64> {
        self.of(Policy::Learned).map(|cell| cell.load).collect()
    }

    /// What a policy still answers in time at the highest load, relative to the most it did at any.
    pub(crate) fn plateau(&self, policy: Policy) -> Option<f64> {
        let medians = || self.of(policy).map(|cell| cell.in_time_per_second.median);
        let most = medians().fold(0.0, f64::max);
        let last = medians().last()?;
        (most > 0.0).then_some(last / most)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A run in which `in_time` of a second's 800 queries were answered in time, and the others late.
    pub(crate) fn run(in_time: u64) -> Run {
        let printed = json!({
            "sent": 800, "in_time": in_time, "late": 0, "defaulted": 800 - in_time, "overdue": 0,
            "goodput": in_time as f64 / 800.0, "offered_per_second": 800.0,
            "in_time_per_second": in_time as f64, "defaults": {"late_reply": 800 - in_time}, "errors": {},
            "latency_micros": {"answers": {"p50": 1000, "max": 52_000}}, "trustworthy": in_time != 300,
        });
        serde_json::from_value(printed).unwrap()
    }

    pub(crate) fn example() -> Goodput {
        let cells = [
            (Policy::Learned, [780, 790]),
            (Policy::Aimd, [400, 300]),
            (Policy::Fixed, [600, 300]),
        ];
        let cells = cells.into_iter().flat_map(|(policy, counts)| {
            let loads = [0.9, 3.0].into_iter().zip(counts);
            loads.map(move |(load, count)| cell(policy, load, &[run(count)]).unwrap())
        });
        Goodput {
            capacity_per_second: CAPACITY,
            slo_micros: 50_000,
            cells: cells.collect(),
        }
    }

    #[test]
    fn a_cell_has_the_spread_of_its_runs_and_the_sum_of_their_counts() {
        let cell = cell(Policy::Aimd, 1.0, &[run(400), run(300), run(700)]).unwrap();
        assert_eq!(
            cell.in_time_per_second,
            Spread::of([300.0, 400.0, 700.0]).unwrap()
        );
        assert_eq!(cell.goodput.median, 0.5);
        assert_eq!(cell.defaults, BTreeMap::from([("late_reply".to_owned(), 1000)]));
        assert_eq!(cell.untrustworthy, 1);
    }

    #[test]
    fn the_plateau_is_the_last_relative_to_the_most() {
        let goodput = example();
        assert_eq!(goodput.plateau(Policy::Learned), Some(1.0));
        assert_eq!(goodput.plateau(Policy::Fixed), Some(0.5));
        assert_eq!(goodput.loads(), [0.9, 3.0]);
    }
}

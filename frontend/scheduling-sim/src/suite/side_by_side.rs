//! Two applications on one model: an urgent one, which is to be answered in tens of milliseconds, beside a loose
//! one, which has seconds.
//!
//! Bursts: a hundred urgent queries a second beside thousands of loose ones that come at once. Steady mixes: both
//! come all the time, in shares from 1 : 99 to 99 : 1, just below and above what the replica can answer. The
//! goodput of such a cell says little: what counts is what the urgent queries lose although the loose ones could wait.

use std::collections::HashMap;
use std::time::Duration;

use super::{MODELS, Options};
use crate::arrivals::Arrivals;
use crate::cell::{Cell, Figures};
use crate::cost::Cost;
use crate::inputs::InputCosts;
use crate::noise::Noise;
use crate::policy::PolicyKind;
use crate::scenario::{Application, Burst, Fleet, Scenario};

const TIGHT_MODEL: Cost = Cost::line(1.0, 1.0);
const TIGHT: Duration = Duration::from_millis(30);
const LOOSE: Duration = Duration::from_secs(10);

/// At this load a hundred queries a second come, of which batches of 14 take half of the SLO.
const BESIDE_A_BURST: f64 = 100.0 / (14.0 / 0.015);
/// In four seconds.
const QUERIES_BESIDE_A_BURST: usize = 400;

/// The weights of the urgent application and of the loose one.
const SHARES: [[u32; 2]; 5] = [[1, 99], [10, 90], [50, 50], [90, 10], [99, 1]];
const LOADS: [f64; 2] = [0.9, 1.2];

/// Five bursts, and five shares of two models at two loads.
pub(super) fn scenarios(options: &Options) -> Vec<Scenario> {
    bursts(options).into_iter().chain(mixes(options)).collect()
}

fn bursts(options: &Options) -> Vec<Scenario> {
    let burst = |queries, slo| Some(Burst { queries, slo });
    let plain = Scenario {
        cost: TIGHT_MODEL,
        slo: TIGHT,
        burst: burst(2000, LOOSE),
        load: BESIDE_A_BURST,
        queries: options.queries.min(QUERIES_BESIDE_A_BURST),
        ..scenario(options)
    };
    let noises = [Noise::None, Noise::Mild, Noise::Noisy];
    let noisy = noises.map(|noise| Scenario {
        noise,
        ..plain.clone()
    });
    let others = [
        Scenario {
            burst: burst(4000, LOOSE),
            noise: Noise::Mild,
            load: BESIDE_A_BURST / 2.0,
            inputs: InputCosts::Equal,
            paces: vec![1.0; 2],
            contention: 0.0,
            ..plain.clone()
        },
        // Most of what there is time for.
        Scenario {
            burst: burst(2000, Duration::from_secs(3)),
            noise: Noise::Mild,
            ..plain
        },
    ];
    noisy.into_iter().chain(others).collect()
}

fn mixes(options: &Options) -> Vec<Scenario> {
    let mut scenarios = Vec::new();
    for (cost, slo) in [(TIGHT_MODEL, TIGHT), (MODELS[0], super::SLO)] {
        for [urgent, loose] in SHARES {
            let application = |slo, weight| Application { slo, weight };
            scenarios.extend(LOADS.map(|load| Scenario {
                cost,
                slo,
                slo_mix: vec![application(slo, urgent), application(LOOSE, loose)],
                apart: true,
                load,
                ..scenario(options)
            }));
        }
    }
    scenarios
}

fn scenario(options: &Options) -> Scenario {
    Scenario {
        cost: TIGHT_MODEL,
        slo: TIGHT,
        slo_mix: Vec::new(),
        apart: true,
        burst: None,
        noise: Noise::Mild,
        arrivals: Arrivals::Poisson,
        load: 1.0,
        paces: vec![1.0],
        seed: options.seed,
        queries: options.queries,
        max_batch: options.max_batch,
        inputs: InputCosts::Equal,
        contention: 0.0,
        fleet: Fleet::Beside,
    }
}

/// Which line of the suite a scenario belongs to, if it is one of these: the burst, or the weights of the mix.
pub(super) fn line(scenario: &Scenario) -> Option<String> {
    if let Some(burst) = scenario.burst {
        return Some(format!("{}@{}", burst.queries, burst.slo.as_millis()));
    }
    let weights: Vec<_> = scenario.slo_mix.iter().map(|mixed| mixed.weight).collect();
    let weighted = weights.iter().any(|weight| *weight != 1);
    let weights: Vec<_> = weights.iter().map(u32::to_string).collect();
    weighted.then(|| weights.join(":"))
}

/// Whose queries.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Side {
    /// Those with the tight SLO.
    Urgent,
    /// Those with the loose one.
    Loose,
}

/// What policies reached for either application, by lines of the suite.
#[derive(Debug, Default)]
pub struct SideBySide {
    /// Those that were compared, in the order of their cells.
    pub policies: Vec<PolicyKind>,
    /// The lines, in order.
    pub lines: Vec<String>,
    sums: HashMap<(PolicyKind, String, Side), Sum>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Sum {
    in_time: usize,
    queries: usize,
}

impl SideBySide {
    /// Sums up those of the suite's cells that have two applications.
    pub fn of(cells: &[Cell], figures: &[Figures]) -> Self {
        let mut summary = Self::default();
        for (cell, figures) in cells.iter().zip(figures) {
            let (Some(line), [urgent, loose]) = (line(&cell.scenario), figures.applications.as_slice())
            else {
                continue;
            };
            if !summary.policies.contains(&cell.policy) {
                summary.policies.push(cell.policy);
            }
            if !summary.lines.contains(&line) {
                summary.lines.push(line.clone());
            }
            for (side, served) in [(Side::Urgent, urgent), (Side::Loose, loose)] {
                let sum = summary.sums.entry((cell.policy, line.clone(), side)).or_default();
                sum.in_time += served.in_time;
                sum.queries += served.queries;
            }
        }
        summary
    }

    /// The share of an application's queries that were answered in time; no number if the policy was not tried there.
    pub fn share(&self, policy: PolicyKind, line: &str, side: Side) -> f64 {
        let sum = self.sums.get(&(policy, line.to_owned(), side));
        let Sum { in_time, queries } = sum.copied().unwrap_or_default();
        in_time as f64 / queries as f64
    }
}

//! The scenarios that policies are judged by, and what they come to.
//!
//! Two models, one whose batches have a large fixed cost and one that gains little from batching; each with
//! one replica (three kinds of noise, four kinds of arrivals, of which one mixes two SLOs) and with two
//! replicas (noisy, three kinds of arrivals); each at seven loads.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::time::Duration;

use crate::arrivals::Arrivals;
use crate::cell::{Cell, Figures};
use crate::cost::Cost;
use crate::noise::Noise;
use crate::policy::PolicyKind;
use crate::scenario::{Fleet, Scenario};

const MODELS: [Cost; 2] = [
    Cost {
        fixed_ms: 5.0,
        per_input_ms: 1.0,
    },
    Cost {
        fixed_ms: 1.0,
        per_input_ms: 4.0,
    },
];

const SLO: Duration = Duration::from_millis(50);
const SLO_MIX: [Duration; 2] = [Duration::from_millis(25), Duration::from_millis(100)];

const LOADS: [f64; 7] = [0.3, 0.6, 0.8, 0.9, 1.0, 1.2, 1.6];

/// What the suite leaves open.
#[derive(Clone, Debug)]
pub struct Options {
    /// Recorded arrivals; heavy-tailed ones stand for them if there are none.
    pub recorded: Arrivals,
    /// Decides what is random.
    pub seed: u64,
    /// How many queries come in each, unless a trace ends before.
    pub queries: usize,
    /// The largest batch.
    pub max_batch: NonZeroU32,
}

/// Thirty scenarios, each at every load.
pub fn scenarios(options: &Options) -> Vec<Scenario> {
    let single = [Noise::Mild, Noise::Noisy, Noise::Shift]
        .into_iter()
        .flat_map(|noise| {
            let offers = [
                Offer::plain(Arrivals::Poisson),
                Offer::plain(Arrivals::Bursty),
                Offer::plain(options.recorded.clone()),
                Offer::mixed(),
            ];
            offers.map(|offer| (1, noise, offer))
        });
    let offers = [
        Offer::plain(Arrivals::Poisson),
        Offer::plain(Arrivals::Bursty),
        Offer::mixed(),
    ];
    let pair = offers.map(|offer| (2, Noise::Noisy, offer));
    let settings: Vec<_> = single.chain(pair).collect();
    let mut scenarios = Vec::new();
    for cost in MODELS {
        for (replicas, noise, offer) in &settings {
            scenarios.extend(LOADS.map(|load| Scenario {
                cost,
                slo: SLO,
                slo_mix: offer.slo_mix.clone(),
                noise: *noise,
                arrivals: offer.arrivals.clone(),
                load,
                paces: vec![1.0; *replicas],
                seed: options.seed,
                queries: options.queries,
                max_batch: options.max_batch,
                fleet: Fleet::Beside,
            }));
        }
    }
    scenarios
}

/// What queries come, and how long they are given.
struct Offer {
    arrivals: Arrivals,
    slo_mix: Vec<Duration>,
}

impl Offer {
    fn plain(arrivals: Arrivals) -> Self {
        Self {
            arrivals,
            slo_mix: Vec::new(),
        }
    }

    fn mixed() -> Self {
        Self {
            arrivals: Arrivals::Poisson,
            slo_mix: SLO_MIX.to_vec(),
        }
    }
}

/// What policies reached in parts of the suite: the sum of their goodput over the sum of the bounds, in the
/// cells that belong to a part.
#[derive(Debug)]
pub struct Summary {
    /// Those that were compared, in the order of their cells.
    pub policies: Vec<PolicyKind>,
    /// The parts, in order; the last is the whole.
    pub parts: Vec<String>,
    sums: HashMap<(PolicyKind, String), Sum>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Sum {
    goodput: f64,
    bound: f64,
}

impl Summary {
    /// Sums up the suite's cells, of one seed or of several.
    pub fn of(cells: &[Cell], figures: &[Figures]) -> Self {
        let mut summary = Self {
            policies: Vec::new(),
            parts: parts(cells),
            sums: HashMap::new(),
        };
        for (cell, figures) in cells.iter().zip(figures) {
            if !summary.policies.contains(&cell.policy) {
                summary.policies.push(cell.policy);
            }
            for part in parts_of(&cell.scenario) {
                let sum = summary.sums.entry((cell.policy, part)).or_default();
                sum.goodput += figures.goodput;
                sum.bound += figures.bound;
            }
        }
        summary
    }

    /// A policy's share of the bound in a part; no number if it was not tried there.
    pub fn share(&self, policy: PolicyKind, part: &str) -> f64 {
        let sum = self
            .sums
            .get(&(policy, part.to_owned()))
            .copied()
            .unwrap_or_default();
        sum.goodput / sum.bound
    }
}

const WHOLE: &str = "all";

/// The parts there are: noises, arrivals, loads, the whole.
fn parts(cells: &[Cell]) -> Vec<String> {
    let mut kinds: [Vec<String>; 3] = Default::default();
    for cell in cells {
        let [noise, arrivals, load, _] = parts_of(&cell.scenario);
        for (kind, part) in kinds.iter_mut().zip([noise, arrivals, load]) {
            if !kind.contains(&part) {
                kind.push(part);
            }
        }
    }
    kinds.into_iter().flatten().chain([WHOLE.to_owned()]).collect()
}

/// Which of them a scenario belongs to.
fn parts_of(scenario: &Scenario) -> [String; 4] {
    let arrivals = if scenario.slo_mix.is_empty() {
        scenario.arrivals.kind()
    } else {
        "mixed SLO"
    };
    [
        scenario.noise.to_string(),
        arrivals.to_owned(),
        scenario.load.to_string(),
        WHOLE.to_owned(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::example;
    use crate::simulation::Tally;

    fn suite() -> Vec<Scenario> {
        scenarios(&Options {
            recorded: Arrivals::HeavyTailed,
            seed: 1,
            queries: 100,
            max_batch: NonZeroU32::new(64).unwrap(),
        })
    }

    #[test]
    fn there_are_thirty_scenarios_at_seven_loads_all_different() {
        let scenarios = suite();
        assert_eq!(scenarios.len(), 210);
        let mut names: Vec<_> = scenarios.iter().map(|scenario| format!("{scenario:?}")).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), 210);
    }

    #[test]
    fn two_replicas_are_noisy_and_have_no_recorded_arrivals() {
        let scenarios = suite();
        let pairs: Vec<_> = scenarios
            .iter()
            .filter(|scenario| scenario.paces.len() == 2)
            .collect();
        assert_eq!(pairs.len(), 2 * 3 * 7);
        for pair in pairs {
            assert_eq!(pair.noise, Noise::Noisy);
            assert_ne!(pair.arrivals.kind(), "heavy-tailed");
        }
    }

    #[test]
    fn a_summary_is_the_sum_of_goodput_over_the_sum_of_bounds() {
        let cell = |load| Cell {
            policy: PolicyKind::Natural,
            scenario: Scenario { load, ..example() },
        };
        let figures = |goodput, bound| Figures {
            goodput,
            bound,
            scaled: None,
            tally: Tally::default(),
        };
        let summary = Summary::of(&[cell(0.9), cell(1.2)], &[figures(0.9, 1.0), figures(0.3, 0.6)]);
        assert_eq!(summary.parts, ["none", "poisson", "0.9", "1.2", "all"]);
        for (part, expected) in [("0.9", 0.9), ("1.2", 0.5), ("all", 0.75)] {
            let share = summary.share(PolicyKind::Natural, part);
            assert!((share - expected).abs() < 1e-9, "{part} {share}");
        }
        assert!(summary.share(PolicyKind::LEARNED, "all").is_nan());
    }
}

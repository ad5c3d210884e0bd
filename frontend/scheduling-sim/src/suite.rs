//! The scenarios that policies are judged by, and what they come to.
//!
//! Two models, one whose batches have a large fixed cost and one that gains little from batching; each with
//! one replica (three kinds of noise, four kinds of arrivals, of which one mixes two SLOs) and with two
//! replicas (noisy, three kinds of arrivals); each at seven loads. Beside these thirty, which are summed up by
//! themselves, there are those of [two applications side by side](SideBySide).

mod side_by_side;

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::time::Duration;

use crate::arrivals::Arrivals;
use crate::cell::{Cell, Figures};
use crate::cost::Cost;
use crate::inputs::InputCosts;
use crate::noise::Noise;
use crate::policy::PolicyKind;
use crate::scenario::{Application, Fleet, Scenario};

pub use self::side_by_side::{Side, SideBySide};

const MODELS: [Cost; 2] = [Cost::line(5.0, 1.0), Cost::line(1.0, 4.0)];

const SLO: Duration = Duration::from_millis(50);
const SLO_MIX: [Application; 2] = [
    Application {
        slo: Duration::from_millis(25),
        weight: 1,
    },
    Application {
        slo: Duration::from_millis(100),
        weight: 1,
    },
];

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

/// Thirty scenarios, each at every load, and then those of two applications side by side.
pub fn scenarios(options: &Options) -> Vec<Scenario> {
    let mut scenarios = thirty(options);
    scenarios.extend(side_by_side::scenarios(options));
    scenarios
}

fn thirty(options: &Options) -> Vec<Scenario> {
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
                apart: false,
                burst: None,
                noise: *noise,
                arrivals: offer.arrivals.clone(),
                load,
                inputs: InputCosts::Equal,
                paces: vec![1.0; *replicas],
                contention: 0.0,
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
    slo_mix: Vec<Application>,
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

/// What policies reached in parts of the thirty scenarios: the sum of their goodput over the sum of the bounds, in
/// the cells that belong to a part.
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
    noise_aware: f64,
}

/// What goodput is compared with.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Yardstick {
    /// The bound that ignores noise.
    Bound,
    /// The bound that knows how noise is distributed.
    NoiseAware,
}

impl Summary {
    /// Sums up the suite's cells, of one seed or of several.
    pub fn of(cells: &[Cell], figures: &[Figures]) -> Self {
        let mut summary = Self {
            policies: Vec::new(),
            parts: parts(cells),
            sums: HashMap::new(),
        };
        for (cell, figures) in cells
            .iter()
            .zip(figures)
            .filter(|(cell, _)| is_of_the_thirty(cell))
        {
            if !summary.policies.contains(&cell.policy) {
                summary.policies.push(cell.policy);
            }
            for part in parts_of(&cell.scenario) {
                let sum = summary.sums.entry((cell.policy, part)).or_default();
                sum.goodput += figures.goodput;
                sum.bound += figures.bound;
                sum.noise_aware += figures.noise_aware;
            }
        }
        summary
    }

    /// A policy's share of a bound in a part; no number if it was not tried there.
    pub fn share(&self, policy: PolicyKind, part: &str, of: Yardstick) -> f64 {
        let sum = self
            .sums
            .get(&(policy, part.to_owned()))
            .copied()
            .unwrap_or_default();
        sum.goodput
            / match of {
                Yardstick::Bound => sum.bound,
                Yardstick::NoiseAware => sum.noise_aware,
            }
    }
}

const WHOLE: &str = "all";

fn is_of_the_thirty(cell: &Cell) -> bool {
    side_by_side::line(&cell.scenario).is_none()
}

/// The parts there are: noises, arrivals, loads, the whole.
fn parts(cells: &[Cell]) -> Vec<String> {
    let mut kinds: [Vec<String>; 3] = Default::default();
    for cell in cells.iter().filter(|cell| is_of_the_thirty(cell)) {
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

    fn options() -> Options {
        Options {
            recorded: Arrivals::HeavyTailed,
            seed: 1,
            queries: 100,
            max_batch: NonZeroU32::new(64).unwrap(),
        }
    }

    #[test]
    fn there_are_thirty_scenarios_at_seven_loads_all_different() {
        let scenarios = thirty(&options());
        assert_eq!(scenarios.len(), 210);
        let mut names: Vec<_> = scenarios.iter().map(|scenario| format!("{scenario:?}")).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), 210);
    }

    #[test]
    fn two_replicas_are_noisy_and_have_no_recorded_arrivals() {
        let scenarios = thirty(&options());
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
            noise_aware: 0.5 * bound,
            latency: None,
            scaled: None,
            applications: Vec::new(),
            tally: Tally::default(),
        };
        let summary = Summary::of(&[cell(0.9), cell(1.2)], &[figures(0.9, 1.0), figures(0.3, 0.6)]);
        assert_eq!(summary.parts, ["none", "poisson", "0.9", "1.2", "all"]);
        for (part, expected) in [("0.9", 0.9), ("1.2", 0.5), ("all", 0.75)] {
            let share = |of| summary.share(PolicyKind::Natural, part, of);
            assert!((share(Yardstick::Bound) - expected).abs() < 1e-9, "{part}");
            assert!(
                (share(Yardstick::NoiseAware) - 2.0 * expected).abs() < 1e-9,
                "{part}"
            );
        }
        assert!(
            summary
                .share(PolicyKind::LEARNED, "all", Yardstick::Bound)
                .is_nan()
        );
    }

    #[test]
    fn two_applications_side_by_side_are_summed_up_by_themselves() {
        let all = scenarios(&options());
        let lines: Vec<_> = all.iter().filter_map(side_by_side::line).collect();
        assert_eq!((all.len(), lines.len()), (210 + 25, 25));
        let cells: Vec<_> = all
            .into_iter()
            .filter(|scenario| scenario.load < 1.0)
            .map(|scenario| Cell {
                policy: PolicyKind::Natural,
                scenario,
            })
            .collect();
        let figures: Vec<_> = cells.iter().map(Cell::run).collect();
        let others = cells.iter().filter(|cell| is_of_the_thirty(cell)).count();
        assert_eq!(parts(&cells), parts(&cells[..others]));
        let summary = SideBySide::of(&cells, &figures);
        let expected = [
            "2000@10000",
            "4000@10000",
            "2000@3000",
            "1:99",
            "10:90",
            "50:50",
            "90:10",
            "99:1",
        ];
        assert_eq!(summary.lines, expected);
        assert_eq!(summary.policies, [PolicyKind::Natural]);
        // A hundred queries are no burden; beside a burst, first come is first served.
        let share = |line, side| summary.share(PolicyKind::Natural, line, side);
        assert!(share("50:50", Side::Urgent) > 0.5);
        assert!(share("50:50", Side::Loose) > 0.99);
        assert!(share("2000@10000", Side::Loose) > 0.99);
        let of_learned = summary.share(PolicyKind::LEARNED, "1:99", Side::Loose);
        assert!(of_learned.is_nan());
    }
}

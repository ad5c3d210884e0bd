//! What is typed, checked before anything is simulated: a mistake is a usage error (exit code 2).

use std::num::NonZeroU32;
use std::ops::RangeInclusive;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{Args, CommandFactory, Parser};
use skysail_core::autoscale::TARGET_UTILISATION;
use skysail_proto::deployment::{Autoscale, Replicas};

use crate::arrivals::Arrivals;
use crate::cell::Cell;
use crate::cost::Cost;
use crate::inputs::InputCosts;
use crate::noise::Noise;
use crate::policy::{InvalidPolicy, PolicyKind};
use crate::scenario::{Application, Burst, Fleet, Scaling, Scenario, Sharing};
use crate::search::Search;
use crate::shape::Shape;
use crate::suite::{self, Options};
use crate::trace::{InvalidTrace, Trace};

const EXAMPLES: &str = "\
Examples:
  scheduling-sim --policy learned,aimd --load 0.9,1.2
  scheduling-sim --fixed-ms 1 --per-input-ms 4 --slo-mix 25,100 --noise noisy
  scheduling-sim --policy learned --paces 1,2 --load 1.2
  scheduling-sim --policy learned --shape step:32 --per-input-ms 0.3 --load 0.9,1.2
  scheduling-sim --policy learned --cost lognormal:1.2 --load 1.2
  scheduling-sim --fixed-ms 1 --slo-ms 30 --load 0.11 --queries 400 --burst 2000@10000
  scheduling-sim --fixed-ms 1 --slo-ms 30 --load 1.2 --slo-mix 30:1,10000:99
  scheduling-sim --suite --seed 1,2,3 --trace arrivals.csv
  scheduling-sim --search 1 --search-cells 500
  scheduling-sim --policy learned --frontends 1,2,4 --replicas 3 --load 0.9,1.2
  scheduling-sim --policy learned --autoscale 1..8 --mean-replicas 2 \\
      --arrivals bursty --queries 200000";

/// The arguments that make up a scenario. Named one by one, for the sake of an error that names the one
/// that was given.
const SCENARIO: [&str; 16] = [
    "fixed_ms",
    "per_input_ms",
    "shape",
    "cost",
    "contention",
    "slo_ms",
    "slo_mix",
    "apart",
    "burst",
    "noise",
    "arrivals",
    "load",
    "replicas",
    "paces",
    "frontends",
    "autoscale",
];

/// What a search draws by itself.
const DRAWN: [&str; 6] = ["suite", "policy", "seed", "queries", "max_batch", "mean_replicas"];

/// The most queries of a cell: they are held in memory.
const MOST_QUERIES: u32 = 10_000_000;

/// Simulates Skysail's batch policies in virtual time.
///
/// Lists are separated by commas; every combination is a cell. Goodput is the share of the queries that are
/// answered in time, and `of bound` its ratio to a bound that no policy can exceed, noise apart. `noise-aware` is a
/// bound that none can exceed on average over the noise, and `of it` the ratio to that.
#[derive(Debug, Parser)]
#[command(name = "scheduling-sim", version, max_term_width = 100, after_help = EXAMPLES)]
pub struct Arguments {
    /// learned, reference, aimd, natural, fixed:N, or all (with fixed sizes that are powers of two)
    #[arg(long, value_name = "P,…", value_delimiter = ',', default_value = "all")]
    policy: Vec<Policies>,
    /// Decides what is random; every policy is offered the same queries
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_value = "1")]
    seed: Vec<u64>,
    /// How many queries come in each cell; a trace that is shorter ends it [default: 20000 for each client and
    /// pass]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(MOST_QUERIES)))]
    queries: Option<u32>,
    /// The largest batch
    #[arg(long, value_name = "N", default_value = "64", value_parser = clap::value_parser!(u16).range(1..))]
    max_batch: u16,
    /// Print JSON and nothing else
    #[arg(long)]
    json: bool,
    /// Simulate the suite: thirty scenarios at seven loads, and urgent beside loose queries
    #[arg(long, conflicts_with_all = SCENARIO)]
    suite: bool,
    /// The suite's recorded arrivals: a CSV file with a column TIMESTAMP, or seconds, one number a line
    /// [default: heavy-tailed arrivals stand for them]
    #[arg(long, value_name = "FILE", requires = "suite", value_parser = read_trace)]
    trace: Option<Arc<Trace>>,
    /// Draw scenarios at random, by this seed, simulate all policies in them, and list those in which the learned
    /// one is furthest behind the best of the others, with the command that shows each
    #[arg(long, value_name = "SEED", conflicts_with_all = SCENARIO, conflicts_with_all = DRAWN)]
    search: Option<u64>,
    /// How many scenarios the search draws; each takes up to a few seconds
    #[arg(
        long, value_name = "N", default_value = "200", requires = "search",
        value_parser = clap::value_parser!(u32).range(1..=1_000_000)
    )]
    search_cells: u32,
    #[command(flatten)]
    scenario: ScenarioArguments,
    #[command(flatten)]
    fleet: FleetArguments,
}

/// A scenario that is put together by hand.
#[derive(Args, Debug)]
#[command(next_help_heading = "Scenario")]
struct ScenarioArguments {
    /// What a batch takes however small it is
    #[arg(long, value_name = "MS", default_value = "5", value_parser = cost_millis)]
    fixed_ms: f64,
    /// What each input adds
    #[arg(long, value_name = "MS", default_value = "1", value_parser = cost_millis)]
    per_input_ms: f64,
    /// How a batch's time grows with its inputs: line, step:N (in waves of N, of which each takes as long as a full
    /// one), pow2 (padded to a power of two) or quadratic (16 take as long as on the line)
    #[arg(long, value_name = "SHAPE", default_value = "line")]
    shape: Shape,
    /// What one input costs beside another: equal, or lognormal:SIGMA with a mean of 1. What it costs shows in its
    /// bytes
    #[arg(long, value_name = "COST", default_value = "equal")]
    cost: InputCosts,
    /// How long each query is given; at load 1, batches take half of it
    #[arg(long, value_name = "MS", default_value = "50", value_parser = slo_millis)]
    slo_ms: Duration,
    /// How long queries are really given: that of an application each. One of weight 99 has 99 times as many
    /// queries as one of weight 1, which is what counts if none is given
    #[arg(long, value_name = "MS[:WEIGHT],…", value_delimiter = ',', value_parser = application)]
    slo_mix: Vec<Application>,
    /// Give the applications of `--slo-mix` and `--burst` a fair share each while there is not enough for all; otherwise
    /// all queries are like those of one application
    #[arg(long)]
    apart: bool,
    /// So many queries more, of one more application and given so long: they come at once, when a quarter of the
    /// others have come
    #[arg(long, value_name = "N@MS", value_parser = burst)]
    burst: Option<Burst>,
    /// How much batch times vary
    #[arg(long, value_name = "NOISE,…", value_delimiter = ',', default_value = "none")]
    noise: Vec<Noise>,
    /// When queries come: poisson, bursty, heavy-tailed or trace:FILE
    #[arg(long, value_name = "A,…", value_delimiter = ',', default_value = "poisson", value_parser = Arrivals::read)]
    arrivals: Vec<Arrivals>,
    /// How many come, relative to what batches of half the SLO can answer
    #[arg(long, value_name = "L,…", value_delimiter = ',', default_value = "0.9", value_parser = load)]
    load: Vec<f64>,
    /// How many replicas share the queue [default: 1, or one for each pace]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1000))]
    replicas: Option<u16>,
    /// How many times as long as the model says each replica takes
    #[arg(long, value_name = "P,…", value_delimiter = ',', value_parser = pace)]
    paces: Vec<f64>,
    /// Let replicas slow each other down: a batch takes this much longer for each other one that computes when it
    /// starts (0.5: half as long again)
    #[arg(long, value_name = "C", default_value = "0", value_parser = contention)]
    contention: f64,
}

/// How queries reach the replicas, and how many there are.
#[derive(Args, Debug)]
#[command(next_help_heading = "Frontends and scaling")]
struct FleetArguments {
    /// How many frontends share the replicas by credits, message by message; each query comes to one of them
    /// [default: one queue right beside the replicas, no messages]
    #[arg(long, value_name = "N,…", value_delimiter = ',', value_parser = clap::value_parser!(u16).range(1..=64))]
    frontends: Vec<u16>,
    /// How long a message between a frontend and a replica is on its way
    #[arg(long, value_name = "MS", default_value = "0.1", requires = "frontends", value_parser = cost_millis)]
    delay_ms: f64,
    /// Let the number of replicas follow the load, as with `model deploy --replicas auto:MIN..MAX`; it begins
    /// with the fewest, and load 1 is that of the most
    #[arg(long, value_name = "MIN..MAX", conflicts_with_all = ["frontends", "replicas", "paces"], value_parser = bounds)]
    autoscale: Option<Autoscale>,
    /// How long a replica takes to start
    #[arg(long, value_name = "SECONDS", default_value = "2", requires = "autoscale", value_parser = seconds)]
    start_seconds: Duration,
    /// Instead of a load: as much as asks for so many replicas on average, each of them as busy as it is to be
    #[arg(long, value_name = "K", requires = "autoscale", conflicts_with = "load", value_parser = mean_replicas)]
    mean_replicas: Option<f64>,
    /// Let so many clients play recorded arrivals at once, each from another place in them
    #[arg(long, value_name = "N", default_value = "1", value_parser = clap::value_parser!(u16).range(1..=1000))]
    clients: u16,
    /// Play recorded arrivals so many times over
    #[arg(long, value_name = "N", default_value = "1", value_parser = clap::value_parser!(u16).range(1..=1000))]
    passes: u16,
}

impl Arguments {
    /// Whether JSON was asked for.
    pub fn json(&self) -> bool {
        self.json
    }

    /// Whether the suite was asked for.
    pub fn suite(&self) -> bool {
        self.suite
    }

    /// The search, if one was asked for.
    pub fn search(&self) -> Option<Search> {
        self.search.map(|seed| Search {
            seed,
            points: self.search_cells as usize,
        })
    }

    /// What is to be simulated: every combination, policies next to each other.
    pub fn cells(&self) -> Result<Vec<Cell>, clap::Error> {
        let policies = self.policies();
        let scenarios = if self.suite {
            self.suite_scenarios()
        } else {
            self.scenarios()?
        };
        let cells = |scenario: Scenario| {
            let cell = move |&policy| Cell {
                policy,
                scenario: scenario.clone(),
            };
            policies.iter().map(cell)
        };
        Ok(scenarios.into_iter().flat_map(cells).collect())
    }

    fn queries(&self) -> usize {
        let plays = u32::from(self.fleet.passes) * u32::from(self.fleet.clients);
        self.queries.unwrap_or(20_000 * plays).min(MOST_QUERIES) as usize
    }

    fn max_batch(&self) -> NonZeroU32 {
        NonZeroU32::new(self.max_batch.into()).expect("the parser takes it from 1; otherwise this is a bug")
    }

    /// Each once, in the order in which they were named.
    fn policies(&self) -> Vec<PolicyKind> {
        let mut policies = Vec::new();
        for policy in self.policy.iter().flat_map(|named| &named.0) {
            if !policies.contains(policy) {
                policies.push(*policy);
            }
        }
        policies
    }

    fn suite_scenarios(&self) -> Vec<Scenario> {
        let recorded = self.trace.clone().map_or(Arrivals::HeavyTailed, Arrivals::Trace);
        let of_seed = |&seed: &u64| {
            suite::scenarios(&Options {
                recorded: recorded.clone(),
                seed,
                queries: self.queries(),
                max_batch: self.max_batch(),
            })
        };
        self.seed.iter().flat_map(of_seed).collect()
    }

    fn scenarios(&self) -> Result<Vec<Scenario>, clap::Error> {
        let first = self.first_scenario()?;
        let loads = self.loads();
        let mut scenarios = Vec::new();
        for &noise in &self.scenario.noise {
            for arrivals in &self.scenario.arrivals {
                let arrivals = arrivals.played(self.fleet.clients.into(), self.fleet.passes.into());
                for &load in &loads {
                    for fleet in self.fleet.fleets() {
                        scenarios.extend(self.seed.iter().map(|&seed| Scenario {
                            noise,
                            arrivals: arrivals.clone(),
                            load,
                            seed,
                            fleet,
                            ..first.clone()
                        }));
                    }
                }
            }
        }
        Ok(scenarios)
    }

    fn loads(&self) -> Vec<f64> {
        let bounds = self.fleet.autoscale.as_ref();
        match (self.fleet.mean_replicas, bounds) {
            (Some(mean), Some(bounds)) => vec![mean * TARGET_UTILISATION / f64::from(bounds.max)],
            _ => self.scenario.load.clone(),
        }
    }

    /// The scenario of the first of each list.
    fn first_scenario(&self) -> Result<Scenario, clap::Error> {
        let given = &self.scenario;
        let cost = Cost {
            shape: given.shape,
            ..Cost::line(given.fixed_ms, given.per_input_ms)
        };
        if cost.seconds(1) == 0.0 {
            return Err(refuse(
                "a batch takes some time: give --fixed-ms or --per-input-ms more than 0",
            ));
        }
        Ok(Scenario {
            cost,
            inputs: given.cost,
            slo: given.slo_ms,
            slo_mix: given.slo_mix.clone(),
            apart: given.apart,
            burst: given.burst,
            noise: given.noise[0],
            arrivals: given.arrivals[0].clone(),
            load: given.load[0],
            paces: match self.fleet.autoscale {
                Some(bounds) => vec![1.0; bounds.max as usize],
                None => given.paces()?,
            },
            contention: given.contention,
            seed: self.seed[0],
            queries: self.queries(),
            max_batch: self.max_batch(),
            fleet: Fleet::Beside,
        })
    }
}

impl FleetArguments {
    fn fleets(&self) -> Vec<Fleet> {
        if let Some(bounds) = self.autoscale {
            let start = self.start_seconds;
            return vec![Fleet::Scaled(Scaling { bounds, start })];
        }
        if self.frontends.is_empty() {
            return vec![Fleet::Beside];
        }
        let delay = Duration::from_secs_f64(self.delay_ms * 1e-3);
        let shared = |&frontends: &u16| {
            Fleet::Shared(Sharing {
                frontends: frontends.into(),
                delay,
            })
        };
        self.frontends.iter().map(shared).collect()
    }
}

impl ScenarioArguments {
    fn paces(&self) -> Result<Vec<f64>, clap::Error> {
        let replicas = self.replicas.map(usize::from);
        if self.paces.is_empty() {
            return Ok(vec![1.0; replicas.unwrap_or(1)]);
        }
        match replicas {
            Some(replicas) if replicas != self.paces.len() => Err(refuse(&format!(
                "{replicas} replicas and {} paces do not agree: give each replica a pace, or leave \
                 --replicas out",
                self.paces.len()
            ))),
            _ => Ok(self.paces.clone()),
        }
    }
}

fn refuse(what: &str) -> clap::Error {
    Arguments::command().error(ErrorKind::ValueValidation, what)
}

/// A policy, or all.
#[derive(Clone, Debug)]
struct Policies(Vec<PolicyKind>);

impl FromStr for Policies {
    type Err = InvalidPolicy;
    fn from_str(text: &str) -> Result<Self, InvalidPolicy> {
        match text {
            "all" => Ok(Self(PolicyKind::all())),
            _ => Ok(Self(vec![text.parse()?])),
        }
    }
}

/// The bounds of [`Replicas::Auto`], without its word.
fn bounds(text: &str) -> Result<Autoscale, String> {
    match format!("auto:{text}").parse() {
        Ok(Replicas::Auto(bounds)) if bounds.max <= 1000 => Ok(bounds),
        _ => Err("write MIN..MAX with 1 <= MIN <= MAX <= 1000, such as 1..8".to_owned()),
    }
}

fn seconds(text: &str) -> Result<Duration, OutOfRange> {
    let seconds = number(text, "seconds", 0.0..=LONGEST_MILLIS * 1e-3)?;
    Ok(Duration::from_secs_f64(seconds))
}

fn mean_replicas(text: &str) -> Result<f64, OutOfRange> {
    number(text, "a number of replicas", 0.001..=1000.0)
}

fn read_trace(file: &str) -> Result<Arc<Trace>, InvalidTrace> {
    Trace::read(Path::new(file)).map(Arc::new)
}

/// A number that is none, or out of its range.
#[derive(Debug, thiserror::Error)]
#[error("write {what}: a number from {} to {}", range.start(), range.end())]
struct OutOfRange {
    what: &'static str,
    range: RangeInclusive<f64>,
}

fn number(text: &str, what: &'static str, range: RangeInclusive<f64>) -> Result<f64, OutOfRange> {
    match text.parse() {
        Ok(number) if range.contains(&number) => Ok(number),
        _ => Err(OutOfRange { what, range }),
    }
}

/// A quarter of an hour: longer times make no sense here.
const LONGEST_MILLIS: f64 = 900_000.0;

fn cost_millis(text: &str) -> Result<f64, OutOfRange> {
    number(text, "milliseconds", 0.0..=LONGEST_MILLIS)
}

fn slo_millis(text: &str) -> Result<Duration, OutOfRange> {
    let millis = number(text, "milliseconds", 0.001..=LONGEST_MILLIS)?;
    Ok(Duration::from_secs_f64(millis * 1e-3))
}

fn application(text: &str) -> Result<Application, String> {
    let (slo, weight) = text.split_once(':').unwrap_or((text, "1"));
    let slo = slo_millis(slo).map_err(|error| error.to_string())?;
    match weight.parse() {
        Ok(weight @ 1..=1000) => Ok(Application { slo, weight }),
        _ => Err("write MS or MS:WEIGHT with a whole number from 1 to 1000, such as 30:1".to_owned()),
    }
}

fn burst(text: &str) -> Result<Burst, String> {
    let (queries, slo) = text.split_once('@').unwrap_or_default();
    match (queries.parse(), slo_millis(slo)) {
        (Ok(queries @ 1..=MOST_QUERIES), Ok(slo)) => Ok(Burst { queries, slo }),
        _ => Err(format!(
            "write N@MS, such as 2000@10000: N from 1 to {MOST_QUERIES}, MS from 0.001 to {LONGEST_MILLIS}"
        )),
    }
}

fn load(text: &str) -> Result<f64, OutOfRange> {
    let what = "a load, where 1 is what batches of half the SLO can answer";
    number(text, what, 0.001..=1000.0)
}

fn contention(text: &str) -> Result<f64, OutOfRange> {
    number(text, "how much longer", 0.0..=100.0)
}

fn pace(text: &str) -> Result<f64, OutOfRange> {
    number(text, "a pace, where 2 takes twice as long", 0.001..=1000.0)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn parse(arguments: &str) -> Result<Vec<Cell>, clap::Error> {
        let words = std::iter::once("scheduling-sim").chain(arguments.split_whitespace());
        Arguments::try_parse_from(words)?.cells()
    }

    #[track_caller]
    fn refusal(arguments: &str) -> String {
        let error = parse(arguments).unwrap_err();
        assert_eq!(error.exit_code(), 2, "{arguments}");
        error.to_string()
    }

    #[test]
    fn the_arguments_are_well_formed() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn every_combination_is_a_cell_and_policies_stand_next_to_each_other() {
        let cells = parse(
            "--policy learned,aimd --load 0.9,1.2 --noise none,mild --arrivals poisson,bursty --seed 1,2,3",
        )
        .unwrap();
        assert_eq!(cells.len(), 2 * 2 * 2 * 2 * 3);
        let [first, second, ..] = cells.as_slice() else {
            panic!()
        };
        assert_eq!(first.policy, PolicyKind::LEARNED);
        assert_eq!(second.policy.to_string(), "aimd");
        assert_eq!(second.scenario.queries(), first.scenario.queries());
    }

    #[test]
    fn a_policy_named_twice_is_simulated_once() {
        let cells = parse("--policy aimd,all").unwrap();
        assert_eq!(cells.len(), PolicyKind::all().len());
        assert_eq!(cells[0].policy.to_string(), "aimd");
    }

    #[test]
    fn the_suite_has_its_scenarios_for_each_seed_and_policy() {
        let cells = parse("--suite --policy learned,natural --seed 4,5").unwrap();
        assert_eq!(cells.len(), (30 * 7 + 25) * 2 * 2);
    }

    #[test]
    fn the_suite_takes_no_scenario() {
        for argument in [
            "--load 1",
            "--noise none",
            "--replicas 2",
            "--slo-mix 25,100",
            "--burst 9@100",
            "--paces 1",
        ] {
            let refusal = refusal(&format!("--suite {argument}"));
            assert!(refusal.contains("cannot be used with"), "{refusal}");
        }
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"1\n2\n").unwrap();
        let refusal = refusal(&format!("--trace {}", file.path().display()));
        assert!(refusal.contains("--suite"), "{refusal}");
    }

    #[test]
    fn a_search_draws_its_scenarios_itself() {
        for argument in [
            "--load 1",
            "--suite",
            "--policy learned",
            "--seed 2",
            "--queries 10",
            "--frontends 2",
        ] {
            let refusal = refusal(&format!("--search 7 {argument}"));
            assert!(refusal.contains("cannot be used with"), "{refusal}");
        }
        assert!(refusal("--search-cells 3").contains("--search"));
        let words = ["scheduling-sim", "--search", "7", "--search-cells", "3"];
        let search = Arguments::try_parse_from(words).unwrap().search().unwrap();
        assert_eq!((search.seed, search.points), (7, 3));
    }

    #[test]
    fn each_pace_is_a_replica() {
        let cells = parse("--paces 1,2 --policy learned").unwrap();
        assert_eq!(cells[0].scenario.paces, [1.0, 2.0]);
        let cells = parse("--replicas 3 --policy learned").unwrap();
        assert_eq!(cells[0].scenario.paces, [1.0; 3]);
        assert!(parse("--replicas 2 --paces 1,2").is_ok());
        assert!(refusal("--replicas 3 --paces 1,2").contains("3 replicas and 2 paces"));
    }

    #[test]
    fn a_mix_has_weights_and_a_burst_is_one_more_application() {
        let cells = parse("--policy learned --slo-mix 30:2,10000 --burst 20@500").unwrap();
        let scenario = &cells[0].scenario;
        let weights: Vec<_> = scenario
            .slo_mix
            .iter()
            .map(|application| application.weight)
            .collect();
        assert_eq!(weights, [2, 1]);
        assert_eq!(scenario.slos(), [30, 10_000, 500].map(Duration::from_millis));
        assert_eq!(scenario.queries().len(), 20_020);
    }

    #[test]
    fn each_number_of_frontends_is_a_cell() {
        let cells = parse("--policy learned --frontends 1,4 --delay-ms 2").unwrap();
        let delay = Duration::from_millis(2);
        let shared = |frontends| Fleet::Shared(Sharing { frontends, delay });
        let fleets: Vec<_> = cells.iter().map(|cell| cell.scenario.fleet).collect();
        assert_eq!(fleets, [shared(1), shared(4)]);
    }

    #[test]
    fn a_load_is_also_given_as_the_replicas_that_it_asks_for() {
        let cells = parse("--policy learned --autoscale 1..8 --mean-replicas 2 --start-seconds 3").unwrap();
        let scenario = &cells[0].scenario;
        assert_eq!(scenario.paces.len(), 8);
        let rate = scenario.load * scenario.capacity();
        assert!((rate - 2.0 * 800.0 * TARGET_UTILISATION).abs() < 1e-6, "{rate}");
        let bounds = Autoscale { min: 1, max: 8 };
        let start = Duration::from_secs(3);
        assert_eq!(scenario.fleet, Fleet::Scaled(Scaling { bounds, start }));
    }

    #[test]
    fn a_mistake_is_answered_with_what_to_write() {
        for (mistake, advice) in [
            ("--load 0", "a number from 0.001 to 1000"),
            ("--load nan", "a number from 0.001 to 1000"),
            ("--slo-ms 0", "a number from 0.001"),
            ("--slo-mix 25,-1", "a number from 0.001"),
            ("--slo-mix 25:0,100", "write MS or MS:WEIGHT"),
            ("--slo-mix 25:1.5", "write MS or MS:WEIGHT"),
            ("--burst 2000", "write N@MS"),
            ("--burst 0@10000", "write N@MS"),
            ("--burst 2000@0", "write N@MS"),
            ("--fixed-ms -1", "a number from 0 to"),
            ("--fixed-ms 0 --per-input-ms 0", "more than 0"),
            ("--replicas 0", "1..=1000"),
            ("--shape step:0", "write line, step:N"),
            ("--cost lognormal:x", "lognormal:SIGMA"),
            ("--contention -1", "a number from 0"),
            ("--queries 0", "1..="),
            ("--max-batch 0", "1..="),
            ("--policy lerned", "learned, reference, aimd"),
            ("--noise loud", "mild, noisy, shift"),
            ("--autoscale 3..2", "write MIN..MAX"),
            ("--autoscale 1..8 --replicas 2", "cannot be used with"),
            ("--autoscale 1..8 --frontends 2", "cannot be used with"),
            (
                "--autoscale 1..8 --mean-replicas 2 --load 1",
                "cannot be used with",
            ),
            ("--mean-replicas 2", "--autoscale"),
            ("--frontends 0", "1..=64"),
            ("--arrivals uniform", "trace:FILE"),
            ("--arrivals trace", "trace:FILE"),
            ("--arrivals trace:/nowhere/trace.csv", "cannot be read"),
            ("--suite --trace /nowhere/trace.csv", "cannot be read"),
        ] {
            let refusal = refusal(&mistake.replace(" -1", "=-1"));
            assert!(refusal.contains(advice), "{mistake}: {refusal}");
        }
    }
}

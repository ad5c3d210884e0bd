//! What is typed, checked before anything is simulated: a mistake is a usage error (exit code 2).

use std::fmt;
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{Args, CommandFactory, Parser};

use crate::arrivals::Arrivals;
use crate::cell::Cell;
use crate::cost::Cost;
use crate::noise::Noise;
use crate::policy::{InvalidPolicy, PolicyKind};
use crate::scenario::Scenario;
use crate::suite::{self, Options};
use crate::trace::{InvalidTrace, Trace};

const EXAMPLES: &str = "\
Examples:
  scheduling-sim --policy learned,aimd --load 0.9,1.2
  scheduling-sim --fixed-ms 1 --per-input-ms 4 --slo-mix 25,100 --noise noisy
  scheduling-sim --policy learned --paces 1,2 --load 1.2
  scheduling-sim --suite --seed 1,2,3 --trace arrivals.csv";

/// Simulates Skysail's batch policies in virtual time.
///
/// Lists are separated by commas; every combination is a cell. Goodput is the share of the queries that are
/// answered in time, and `of bound` its ratio to a bound that no policy can exceed, noise apart.
#[derive(Debug, Parser)]
#[command(name = "scheduling-sim", version, max_term_width = 100, after_help = EXAMPLES)]
pub struct Arguments {
    /// learned, reference, aimd, natural, fixed:N, or all (with fixed sizes that are powers of two)
    #[arg(long, value_name = "P,…", value_delimiter = ',', default_value = "all")]
    policy: Vec<Policies>,
    /// Decides what is random; every policy is offered the same queries
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_value = "1")]
    seed: Vec<u64>,
    /// How many queries come in each cell; a trace that is shorter ends it
    #[arg(long, value_name = "N", default_value = "20000", value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    queries: u32,
    /// The largest batch
    #[arg(long, value_name = "N", default_value = "64")]
    max_batch: NonZeroU32,
    /// Print JSON and nothing else
    #[arg(long)]
    json: bool,
    /// Simulate the suite: thirty scenarios at seven loads
    #[arg(long, conflicts_with = "ScenarioArguments")]
    suite: bool,
    /// The suite's recorded arrivals: a CSV file with a column TIMESTAMP, or seconds, one number a line
    /// [default: heavy-tailed arrivals stand for them]
    #[arg(long, value_name = "FILE", requires = "suite", value_parser = read_trace)]
    trace: Option<Arc<Trace>>,
    #[command(flatten)]
    scenario: ScenarioArguments,
}

/// A scenario that is put together by hand.
#[derive(Args, Debug)]
#[command(next_help_heading = "Scenario")]
struct ScenarioArguments {
    /// What a batch takes however small it is
    #[arg(long, value_name = "MS", default_value = "5")]
    fixed_ms: CostMillis,
    /// What each input adds
    #[arg(long, value_name = "MS", default_value = "1")]
    per_input_ms: CostMillis,
    /// How long each query is given; at load 1, batches take half of it
    #[arg(long, value_name = "MS", default_value = "50")]
    slo_ms: SloMillis,
    /// How long queries are really given, one of these each
    #[arg(long, value_name = "MS,…", value_delimiter = ',')]
    slo_mix: Vec<SloMillis>,
    /// How much batch times vary
    #[arg(long, value_name = "NOISE,…", value_delimiter = ',', default_value = "none")]
    noise: Vec<Noise>,
    /// When queries come: poisson, bursty, heavy-tailed or trace:FILE
    #[arg(long, value_name = "A,…", value_delimiter = ',', default_value = "poisson", value_parser = Arrivals::read)]
    arrivals: Vec<Arrivals>,
    /// How many come, relative to what batches of half the SLO can answer
    #[arg(long, value_name = "L,…", value_delimiter = ',', default_value = "0.9")]
    load: Vec<Load>,
    /// How many replicas share the queue [default: 1, or one for each pace]
    #[arg(long, value_name = "N")]
    replicas: Option<NonZeroUsize>,
    /// How many times as long as the model says each replica takes
    #[arg(long, value_name = "P,…", value_delimiter = ',')]
    paces: Vec<Pace>,
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
                queries: self.queries as usize,
                max_batch: self.max_batch,
            })
        };
        self.seed.iter().flat_map(of_seed).collect()
    }

    fn scenarios(&self) -> Result<Vec<Scenario>, clap::Error> {
        let prototype = self.first_scenario()?;
        let mut scenarios = Vec::new();
        for &noise in &self.scenario.noise {
            for arrivals in &self.scenario.arrivals {
                for &Load(load) in &self.scenario.load {
                    scenarios.extend(self.seed.iter().map(|&seed| Scenario {
                        noise,
                        arrivals: arrivals.clone(),
                        load,
                        seed,
                        ..prototype.clone()
                    }));
                }
            }
        }
        Ok(scenarios)
    }

    /// The scenario of the first of each list.
    fn first_scenario(&self) -> Result<Scenario, clap::Error> {
        let given = &self.scenario;
        let cost = Cost {
            fixed_ms: given.fixed_ms.0,
            per_input_ms: given.per_input_ms.0,
        };
        if cost.seconds(1) == 0.0 {
            return Err(refuse(
                "a batch takes some time: give --fixed-ms or --per-input-ms more than 0",
            ));
        }
        Ok(Scenario {
            cost,
            slo: given.slo_ms.0,
            slo_mix: given.slo_mix.iter().map(|slo| slo.0).collect(),
            noise: given.noise[0],
            arrivals: given.arrivals[0].clone(),
            load: given.load[0].0,
            paces: given.paces()?,
            seed: self.seed[0],
            queries: self.queries as usize,
            max_batch: self.max_batch,
        })
    }
}

impl ScenarioArguments {
    fn paces(&self) -> Result<Vec<f64>, clap::Error> {
        let paces: Vec<_> = self.paces.iter().map(|pace| pace.0).collect();
        let replicas = self.replicas.map(NonZeroUsize::get);
        if paces.is_empty() {
            return Ok(vec![1.0; replicas.unwrap_or(1)]);
        }
        match replicas {
            Some(replicas) if replicas != paces.len() => Err(refuse(&format!(
                "--replicas {replicas} and {} --paces do not agree: give each replica a pace, or leave \
                 --replicas out",
                paces.len()
            ))),
            _ => Ok(paces),
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

fn read_trace(file: &str) -> Result<Arc<Trace>, InvalidTrace> {
    Trace::read(Path::new(file)).map(Arc::new)
}

/// A number out of its range.
#[derive(Debug)]
struct OutOfRange {
    what: &'static str,
    least: &'static str,
    most: f64,
}

impl fmt::Display for OutOfRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, least, most } = self;
        write!(f, "write {what}: a number {least} and at most {most}")
    }
}

impl std::error::Error for OutOfRange {}

fn positive(text: &str, what: &'static str, most: f64) -> Result<f64, OutOfRange> {
    let number = text.parse().ok().filter(|&number| number > 0.0 && number <= most);
    number.ok_or(OutOfRange {
        what,
        least: "greater than 0",
        most,
    })
}

/// No batch is believed to take longer than some hours.
const LONGEST_MILLIS: f64 = 1e7;

/// Milliseconds that may be none.
#[derive(Clone, Copy, Debug)]
struct CostMillis(f64);

impl FromStr for CostMillis {
    type Err = OutOfRange;
    fn from_str(text: &str) -> Result<Self, OutOfRange> {
        let number = text.parse().ok().filter(|millis| (0.0..=LONGEST_MILLIS).contains(millis));
        number.map(Self).ok_or(OutOfRange {
            what: "milliseconds",
            least: "from 0",
            most: LONGEST_MILLIS,
        })
    }
}

#[derive(Clone, Copy, Debug)]
struct SloMillis(Duration);

impl FromStr for SloMillis {
    type Err = OutOfRange;
    fn from_str(text: &str) -> Result<Self, OutOfRange> {
        let millis = positive(text, "milliseconds", LONGEST_MILLIS)?;
        Ok(Self(Duration::from_secs_f64(millis * 1e-3)))
    }
}

#[derive(Clone, Copy, Debug)]
struct Load(f64);

impl FromStr for Load {
    type Err = OutOfRange;
    fn from_str(text: &str) -> Result<Self, OutOfRange> {
        positive(text, "a load, where 1 is what batches of half the SLO can answer", 1000.0).map(Self)
    }
}

#[derive(Clone, Copy, Debug)]
struct Pace(f64);

impl FromStr for Pace {
    type Err = OutOfRange;
    fn from_str(text: &str) -> Result<Self, OutOfRange> {
        positive(text, "a pace, where 2 takes twice as long", 1000.0).map(Self)
    }
}

//! The figures: tables for people, JSON for programs.

use std::collections::BTreeMap;
use std::time::Duration;

use comfy_table::{CellAlignment, Table};
use serde::Serialize;

use crate::cell::{Cell, Figures, Served};
use crate::cost::Cost;
use crate::inputs::InputCosts;
use crate::policy::PolicyKind;
use crate::scenario::{Fleet, Scenario, Sharing};
use crate::search::Finding;
use crate::shape::Shape;
use crate::suite::{Side, SideBySide, Summary, Yardstick};

/// What `--json` prints.
#[derive(Serialize)]
struct Report<'a> {
    cells: Vec<Row<'a>>,
}

/// One cell. What only some cells have is left out of the others.
#[derive(Serialize)]
struct Row<'a> {
    policy: String,
    fixed_ms: f64,
    per_input_ms: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    shape: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    input_cost_deviation: Option<f64>,
    slo_ms: f64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    slo_mix_ms: Vec<f64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    slo_mix_weights: Vec<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    burst: Option<Burst>,
    noise: String,
    arrivals: String,
    load: f64,
    replicas: usize,
    #[serde(skip_serializing_if = "<[f64]>::is_empty")]
    paces: &'a [f64],
    #[serde(skip_serializing_if = "Option::is_none")]
    apart: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    contention: Option<f64>,
    seed: u64,
    goodput: f64,
    bound: f64,
    noise_aware_bound: f64,
    mean_batch: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    p50_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    p99_ms: Option<f64>,
    defaults: BTreeMap<&'static str, usize>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    applications: Vec<Application>,
    #[serde(skip_serializing_if = "<[usize]>::is_empty")]
    inputs: &'a [usize],
    #[serde(skip_serializing_if = "Option::is_none")]
    frontends: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    delay_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    autoscale: Option<Autoscaled>,
}

/// Queries of one more application that come at once.
#[derive(Serialize)]
struct Burst {
    queries: u32,
    slo_ms: f64,
}

/// What an application reached beside others.
#[derive(Serialize)]
struct Application {
    slo_ms: f64,
    queries: usize,
    in_time: usize,
}

/// What a number of replicas that follows the load comes to; `replicas` is the largest.
#[derive(Serialize)]
struct Autoscaled {
    min: u32,
    max: u32,
    start_seconds: f64,
    replica_seconds: f64,
    mean_replicas: f64,
    changes: usize,
    /// Relative to the largest number of replicas all the time.
    replica_seconds_of_max: f64,
    attainment_of_max: f64,
}

impl Autoscaled {
    fn new(scenario: &Scenario, figures: &Figures) -> Option<Self> {
        let Fleet::Scaled(scaling) = scenario.fleet else {
            return None;
        };
        let scaled = figures.scaled?;
        Some(Self {
            min: scaling.bounds.min,
            max: scaling.bounds.max,
            start_seconds: scaling.start.as_secs_f64(),
            replica_seconds: figures.tally.replica_seconds,
            mean_replicas: scaled.mean_replicas,
            changes: figures.tally.changes,
            replica_seconds_of_max: scaled.cost,
            attainment_of_max: scaled.attainment,
        })
    }
}

impl<'a> Row<'a> {
    fn new(cell: &'a Cell, figures: &'a Figures) -> Self {
        let Cell { policy, scenario } = cell;
        let unequal = is_unequal(&scenario.paces);
        let tally = &figures.tally;
        Self {
            policy: policy.to_string(),
            fixed_ms: scenario.cost.fixed_ms,
            per_input_ms: scenario.cost.per_input_ms,
            shape: shape(scenario).map(|shape| shape.to_string()),
            input_cost_deviation: deviation(scenario),
            slo_ms: millis(scenario.slo),
            slo_mix_ms: scenario.slo_mix.iter().map(|mixed| millis(mixed.slo)).collect(),
            slo_mix_weights: weights(scenario),
            burst: scenario.burst.map(|burst| Burst {
                queries: burst.queries,
                slo_ms: millis(burst.slo),
            }),
            noise: scenario.noise.to_string(),
            arrivals: scenario.arrivals.to_string(),
            load: scenario.load,
            replicas: scenario.paces.len(),
            paces: if unequal { &scenario.paces } else { &[] },
            apart: scenario.apart.then_some(true),
            contention: (scenario.contention > 0.0).then_some(scenario.contention),
            seed: scenario.seed,
            goodput: figures.goodput,
            bound: figures.bound,
            noise_aware_bound: figures.noise_aware,
            mean_batch: tally.mean_batch(),
            p50_ms: figures.latency.map(|latency| latency.p50_ms),
            p99_ms: figures.latency.map(|latency| latency.p99_ms),
            defaults: tally
                .defaults()
                .map(|(reason, count)| (reason.word(), count))
                .collect(),
            applications: applications(figures),
            inputs: if unequal { &tally.inputs } else { &[] },
            frontends: sharing(scenario).map(|sharing| sharing.frontends),
            delay_ms: sharing(scenario).map(|sharing| millis(sharing.delay)),
            autoscale: Autoscaled::new(scenario, figures),
        }
    }
}

/// The shape of the model's times, unless it is a line.
fn shape(scenario: &Scenario) -> Option<Shape> {
    Some(scenario.cost.shape).filter(|shape| *shape != Shape::Line)
}

/// How the costs of inputs vary, if they do.
fn deviation(scenario: &Scenario) -> Option<f64> {
    match scenario.inputs {
        InputCosts::Equal => None,
        InputCosts::LogNormal { deviation } => Some(deviation),
    }
}

/// The model as a formula of the number of inputs.
fn model_column(scenario: &Scenario) -> String {
    let Cost {
        fixed_ms,
        per_input_ms,
        ..
    } = scenario.cost;
    let shape = shape(scenario).map(|shape| format!(" {shape}"));
    let costs = deviation(scenario).map(|deviation| format!(" lognormal:{deviation}"));
    let contention = Some(scenario.contention).filter(|contention| *contention > 0.0);
    let contention = contention.map(|contention| format!(" contention {contention}"));
    let apart = scenario.apart.then(|| " apart".to_owned());
    let special = [shape, costs, contention, apart]
        .into_iter()
        .flatten()
        .collect::<String>();
    format!("{fixed_ms}+{per_input_ms}n{special}")
}

/// The weights of a mix, unless all are as frequent.
fn weights(scenario: &Scenario) -> Vec<u32> {
    let weights: Vec<_> = scenario.slo_mix.iter().map(|mixed| mixed.weight).collect();
    if weights.iter().all(|weight| *weight == 1) {
        return Vec::new();
    }
    weights
}

fn applications(figures: &Figures) -> Vec<Application> {
    let application = |served: &Served| Application {
        slo_ms: millis(served.slo),
        queries: served.queries,
        in_time: served.in_time,
    };
    figures.applications.iter().map(application).collect()
}

fn sharing(scenario: &Scenario) -> Option<Sharing> {
    match scenario.fleet {
        Fleet::Shared(sharing) => Some(sharing),
        Fleet::Beside | Fleet::Scaled(_) => None,
    }
}

/// The cells as one JSON object.
pub fn json(cells: &[Cell], figures: &[Figures]) -> String {
    let rows = cells
        .iter()
        .zip(figures)
        .map(|(cell, figures)| Row::new(cell, figures));
    let report = Report {
        cells: rows.collect(),
    };
    serde_json::to_string(&report).expect("numbers and words can be written as JSON; otherwise this is a bug")
}

/// The cells, one a line.
pub fn table(cells: &[Cell], figures: &[Figures]) -> String {
    let paced = cells.iter().any(|cell| is_unequal(&cell.scenario.paces));
    let mut columns = vec![
        Text("policy"),
        Text("model"),
        Text("SLO"),
        Text("noise"),
        Text("arrivals"),
        Number("load"),
        Number("replicas"),
        Number("seed"),
        Number("goodput"),
        Number("bound"),
        Number("of bound"),
        Number("noise-aware"),
        Number("of it"),
        Number("mean batch"),
        Number("p50"),
        Number("p99"),
    ];
    if paced {
        columns.push(Text("inputs"));
    }
    let shared = cells.iter().any(|cell| sharing(&cell.scenario).is_some());
    if shared {
        columns.insert(7, Number("frontends"));
    }
    let scaled = figures.iter().any(|figures| figures.scaled.is_some());
    if scaled {
        let heads = ["replica-seconds", "mean replicas", "of max", "in time, of max"];
        columns.extend(heads.map(Number));
    }
    let several = figures.iter().any(|figures| !figures.applications.is_empty());
    if several {
        columns.push(Text("by SLO"));
    }
    columns.push(Text("defaults"));
    let rows = cells.iter().zip(figures);
    let line = |(cell, figures): (&Cell, &Figures)| {
        let mut line = line(cell, figures, paced);
        if shared {
            let frontends = sharing(&cell.scenario).map(|sharing| sharing.frontends.to_string());
            line.insert(7, frontends.unwrap_or_default());
        }
        if scaled {
            let before_defaults = line.len() - 1;
            line.splice(before_defaults..before_defaults, scaling_columns(figures));
        }
        if several {
            line.insert(line.len() - 1, by_slo(figures));
        }
        line
    };
    render(&columns, rows.map(line))
}

/// What each application reached.
fn by_slo(figures: &Figures) -> String {
    let served = figures.applications.iter();
    join(
        served.map(|served| format!("{} {}", millis(served.slo), share(served.share()))),
        ", ",
    )
}

fn scaling_columns(figures: &Figures) -> [String; 4] {
    let seconds = format!("{:.1}", figures.tally.replica_seconds);
    figures.scaled.map_or_else(Default::default, |scaled| {
        [
            seconds,
            format!("{:.2}", scaled.mean_replicas),
            share(scaled.cost),
            share(scaled.attainment),
        ]
    })
}

fn line(cell: &Cell, figures: &Figures, paced: bool) -> Vec<String> {
    let Cell { policy, scenario } = cell;
    let tally = &figures.tally;
    let slo = slo_column(scenario);
    let replicas = if is_unequal(&scenario.paces) {
        format!("pace {}", join(&scenario.paces, ","))
    } else {
        match scenario.fleet {
            Fleet::Scaled(scaling) => format!("{}..{}", scaling.bounds.min, scaling.bounds.max),
            Fleet::Beside | Fleet::Shared(_) => scenario.paces.len().to_string(),
        }
    };
    let defaults = tally.defaults();
    let defaults = join(
        defaults.map(|(reason, count)| format!("{} {count}", reason.word())),
        ", ",
    );
    let mut line = vec![
        policy.to_string(),
        model_column(scenario),
        slo,
        scenario.noise.to_string(),
        scenario.arrivals.kind().to_owned(),
        scenario.load.to_string(),
        replicas,
        scenario.seed.to_string(),
        format!("{:.4}", figures.goodput),
        format!("{:.4}", figures.bound),
        share(figures.goodput / figures.bound),
        format!("{:.4}", figures.noise_aware),
        share(figures.goodput / figures.noise_aware),
        format!("{:.1}", tally.mean_batch()),
    ];
    let latency = figures.latency.map(|latency| [latency.p50_ms, latency.p99_ms]);
    line.extend(latency.map_or_else(Default::default, |millis| {
        millis.map(|millis| format!("{millis:.1}"))
    }));
    if paced {
        line.push(join(&tally.inputs, ","));
    }
    line.push(defaults);
    line
}

/// What queries are given, as it is typed.
fn slo_column(scenario: &Scenario) -> String {
    let weighted = !weights(scenario).is_empty();
    let mixed = scenario.slo_mix.iter().map(|mixed| match weighted {
        true => format!("{}:{}", millis(mixed.slo), mixed.weight),
        false => millis(mixed.slo).to_string(),
    });
    let steady = match scenario.slo_mix.is_empty() {
        true => millis(scenario.slo).to_string(),
        false => join(mixed, ","),
    };
    let burst = scenario
        .burst
        .map(|burst| format!("+{}@{}", burst.queries, millis(burst.slo)));
    steady + &burst.unwrap_or_default()
}

/// The suite: policies by parts of the thirty scenarios, relative to either bound, and by lines of two applications
/// side by side.
pub fn suite(cells: &[Cell], figures: &[Figures]) -> String {
    let summary = Summary::of(cells, figures);
    let beside = SideBySide::of(cells, figures);
    [
        (
            "Sum of goodput ÷ sum of bound, by noise, arrivals and load:",
            summary_table(&summary, Yardstick::Bound),
        ),
        (
            "Sum of goodput ÷ sum of noise-aware bound:",
            summary_table(&summary, Yardstick::NoiseAware),
        ),
        (
            "Urgent beside loose queries, by bursts and by shares: answered in time of the urgent ones:",
            side_table(&beside, Side::Urgent),
        ),
        ("Of the loose ones:", side_table(&beside, Side::Loose)),
    ]
    .map(|(head, table)| format!("{head}\n\n{table}"))
    .join("\n\n")
}

fn summary_table(summary: &Summary, of: Yardstick) -> String {
    by_policy(&summary.policies, &summary.parts, |policy, part| {
        summary.share(policy, part, of)
    })
}

fn side_table(beside: &SideBySide, side: Side) -> String {
    by_policy(&beside.policies, &beside.lines, |policy, line| {
        beside.share(policy, line, side)
    })
}

/// How many findings of a search are listed.
const LISTED: usize = 25;

/// What a search found.
pub fn findings(findings: &[Finding]) -> String {
    let behind = |least: f64| findings.iter().filter(|finding| finding.behind() > least).count();
    let head = format!(
        "{} scenarios: the learned policy is behind the best of the others by more than 0.01 in {}, 0.02 in {}, 0.05 in {}.",
        findings.len(),
        behind(0.01),
        behind(0.02),
        behind(0.05),
    );
    let columns = [
        Number("behind"),
        Number("learned"),
        Number("best"),
        Number("noise-aware"),
        Text("command"),
    ];
    let worst = findings.iter().take(LISTED).map(|finding| {
        let shares = [
            finding.behind(),
            finding.learned,
            finding.best,
            finding.noise_aware,
        ];
        let shares = shares.into_iter().map(share);
        shares.chain([finding.command()]).collect()
    });
    format!("{head}\n\n{}", render(&columns, worst))
}

/// The same as one JSON object.
pub fn findings_json(findings: &[Finding]) -> String {
    #[derive(Serialize)]
    struct Report {
        scenarios: usize,
        worst: Vec<Worst>,
    }
    #[derive(Serialize)]
    struct Worst {
        learned: f64,
        best: f64,
        best_policy: String,
        noise_aware_bound: f64,
        command: String,
    }
    let worst = findings.iter().take(LISTED).map(|finding| Worst {
        learned: finding.learned,
        best: finding.best,
        best_policy: finding.by.to_string(),
        noise_aware_bound: finding.noise_aware,
        command: finding.command(),
    });
    let report = Report {
        scenarios: findings.len(),
        worst: worst.collect(),
    };
    serde_json::to_string(&report).expect("numbers and words can be written as JSON; otherwise this is a bug")
}

/// A line for each policy, and a column for each part of what was simulated.
fn by_policy(policies: &[PolicyKind], parts: &[String], of: impl Fn(PolicyKind, &str) -> f64) -> String {
    let columns: Vec<_> = std::iter::once(Text("policy"))
        .chain(parts.iter().map(|part| Number(part)))
        .collect();
    let rows = policies.iter().map(|&policy| {
        let shares = parts.iter().map(|part| share(of(policy, part)));
        std::iter::once(policy.to_string()).chain(shares).collect()
    });
    render(&columns, rows)
}

/// A column by its head. Words begin at its left, numbers end at its right.
#[derive(Clone, Copy)]
enum Column<'a> {
    Text(&'a str),
    Number(&'a str),
}

use Column::{Number, Text};

impl Column<'_> {
    fn head(&self) -> &str {
        match self {
            Text(head) | Number(head) => head,
        }
    }

    fn alignment(&self) -> CellAlignment {
        match self {
            Text(_) => CellAlignment::Left,
            Number(_) => CellAlignment::Right,
        }
    }
}

/// A table without lines: easy on the eye and on `awk`.
fn render(columns: &[Column<'_>], rows: impl Iterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    table.set_header(columns.iter().map(Column::head));
    table.add_rows(rows);
    for (column, kind) in table.column_iter_mut().zip(columns) {
        column.set_padding((0, 2));
        column.set_cell_alignment(kind.alignment());
    }
    table.trim_fmt()
}

/// A share; there is none of nothing.
fn share(share: f64) -> String {
    if share.is_finite() {
        format!("{share:.3}")
    } else {
        "-".to_owned()
    }
}

fn join<T: ToString>(items: impl IntoIterator<Item = T>, separator: &str) -> String {
    let items: Vec<_> = items.into_iter().map(|item| item.to_string()).collect();
    items.join(separator)
}

fn millis(time: Duration) -> f64 {
    time.as_nanos() as f64 / 1e6
}

fn is_unequal(paces: &[f64]) -> bool {
    paces.iter().any(|pace| *pace != 1.0)
}

#[cfg(test)]
mod tests {
    use serde_json::Value;
    use skysail_proto::deployment::Autoscale;

    use super::*;
    use crate::scenario::{self, Scaling, example};

    fn cell(scenario: Scenario) -> (Vec<Cell>, Vec<Figures>) {
        let cell = Cell {
            policy: PolicyKind::Natural,
            scenario,
        };
        let figures = cell.run();
        (vec![cell], vec![figures])
    }

    fn keys(scenario: Scenario) -> Vec<String> {
        let (cells, figures) = cell(scenario);
        let report: Value = serde_json::from_str(&json(&cells, &figures)).unwrap();
        report["cells"][0].as_object().unwrap().keys().cloned().collect()
    }

    #[test]
    fn the_keys_of_a_cell_are_these() {
        let mut expected = vec![
            "arrivals",
            "bound",
            "defaults",
            "fixed_ms",
            "goodput",
            "load",
            "mean_batch",
            "noise",
            "noise_aware_bound",
            "p50_ms",
            "p99_ms",
            "per_input_ms",
            "policy",
            "replicas",
            "seed",
            "slo_ms",
        ];
        assert_eq!(keys(example()), expected);
        expected.extend(["inputs", "paces", "slo_mix_ms"]);
        expected.sort_unstable();
        let special = Scenario {
            paces: vec![1.0, 2.0],
            slo_mix: mix(&[(25, 1)]),
            ..example()
        };
        assert_eq!(keys(special), expected);
    }

    /// Applications with these milliseconds and weights.
    fn mix(applications: &[(u64, u32)]) -> Vec<scenario::Application> {
        let application = |&(millis, weight): &(u64, u32)| scenario::Application {
            slo: Duration::from_millis(millis),
            weight,
        };
        applications.iter().map(application).collect()
    }

    #[test]
    fn several_applications_have_what_each_reached() {
        let burst = scenario::Burst {
            queries: 50,
            slo: Duration::from_secs(1),
        };
        let (cells, figures) = cell(Scenario {
            slo_mix: mix(&[(25, 1), (100, 3)]),
            burst: Some(burst),
            ..example()
        });
        let report: Value = serde_json::from_str(&json(&cells, &figures)).unwrap();
        let cell = &report["cells"][0];
        assert_eq!(cell["slo_mix_weights"], serde_json::json!([1, 3]));
        assert_eq!(
            cell["burst"],
            serde_json::json!({"queries": 50, "slo_ms": 1000.0})
        );
        let applications = cell["applications"].as_array().unwrap();
        let sum = |key: &str| -> u64 { applications.iter().map(|each| each[key].as_u64().unwrap()).sum() };
        assert_eq!((applications.len(), sum("queries")), (3, 1050));
        let goodput = cell["goodput"].as_f64().unwrap();
        assert!((sum("in_time") as f64 / 1050.0 - goodput).abs() < 1e-9, "{cell}");
        let table = table(&cells, &figures);
        assert!(
            table.contains("25:1,100:3+50@1000") && table.contains("by SLO"),
            "{table}"
        );
    }

    #[test]
    fn what_is_no_line_is_named() {
        let mut special = example();
        special.cost.shape = "step:32".parse().unwrap();
        special.inputs = InputCosts::LogNormal { deviation: 1.2 };
        special.contention = 0.5;
        let (cells, figures) = cell(special);
        let report: Value = serde_json::from_str(&json(&cells, &figures)).unwrap();
        let cell = &report["cells"][0];
        assert_eq!(cell["shape"], "step:32");
        assert_eq!(cell["input_cost_deviation"], 1.2);
        assert_eq!(cell["contention"], 0.5);
        let table = table(&cells, &figures);
        assert!(
            table.contains("5+1n step:32 lognormal:1.2 contention 0.5"),
            "{table}"
        );
    }

    #[test]
    fn frontends_and_scaling_have_keys_of_their_own() {
        let shared = Sharing {
            frontends: 2,
            delay: Duration::from_micros(100),
        };
        let shared = keys(Scenario {
            fleet: Fleet::Shared(shared),
            ..example()
        });
        assert!(shared.contains(&"frontends".to_owned()) && shared.contains(&"delay_ms".to_owned()));
        let scaling = Scaling {
            bounds: Autoscale { min: 1, max: 1 },
            start: Duration::from_secs(2),
        };
        let (cells, figures) = cell(Scenario {
            fleet: Fleet::Scaled(scaling),
            ..example()
        });
        let text = json(&cells, &figures);
        let report: Value = serde_json::from_str(&text).unwrap();
        let autoscale = &report["cells"][0]["autoscale"];
        assert_eq!(autoscale["changes"], 0);
        let mean = autoscale["mean_replicas"].as_f64().unwrap();
        assert!((mean - 1.0).abs() < 1e-9, "{mean}");
        assert_eq!(autoscale["attainment_of_max"], 1.0);
        // Programs look for these two by name alone.
        let count = |key: &str| text.matches(key).count();
        assert_eq!((count("\"goodput\":"), count("\"bound\":")), (1, 1));
        let table = table(&cells, &figures);
        assert!(
            table.contains("1..1") && table.contains("replica-seconds"),
            "{table}"
        );
    }

    #[test]
    fn numbers_are_written_as_they_were_given_and_outcomes_add_up() {
        let (cells, figures) = cell(Scenario {
            slo: Duration::from_micros(300),
            load: 1.2,
            ..example()
        });
        let report: Value = serde_json::from_str(&json(&cells, &figures)).unwrap();
        let cell = &report["cells"][0];
        assert_eq!(cell["slo_ms"], 0.3);
        assert_eq!(cell["fixed_ms"], 5.0);
        assert_eq!(cell["load"], 1.2);
        assert_eq!(cell["goodput"], 0.0);
        assert_eq!(cell["defaults"], serde_json::json!({"late_reply": 1000}));
    }

    #[test]
    fn a_table_has_a_head_and_a_line_for_each_cell() {
        let (cells, figures) = cell(Scenario {
            cost: crate::cost::Cost::line(60.0, 1.0),
            ..example()
        });
        let table = table(&cells, &figures);
        let [head, line] = table.lines().collect::<Vec<_>>()[..] else {
            panic!("{table}")
        };
        assert!(head.contains("of bound"), "{head}");
        assert!(line.starts_with("natural") && line.contains("60+1n"), "{line}");
        let words: Vec<_> = line.split_whitespace().collect();
        assert_eq!(
            words[8..13],
            ["0.0000", "0.0000", "-", "0.0000", "-"],
            "nothing of nothing is no number"
        );
    }
}

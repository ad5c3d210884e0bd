//! What was found out: tables for people, which are Markdown, and JSON for programs.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use anyhow::Context;
use serde::Serialize;

use crate::arguments::{Arguments, Plan};
use crate::closed_loop::{Program, Row};
use crate::goodput::{Cell, Goodput, Policy};
use crate::machine::Machine;
use crate::overload::{self, Overload};
use crate::{page, plot};

const MEBIBYTE: f64 = 1024.0 * 1024.0;

/// A run. Serialized, it is the object in the JSON file.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    machine: Machine,
    settings: Settings,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) closed_loop: Option<Vec<Row>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) images: Option<Vec<Row>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) goodput: Option<Goodput>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) overload: Option<Overload>,
}

/// How it was found out.
#[derive(Debug, Serialize)]
struct Settings {
    closed_loop_sender: String,
    worker_threads: usize,
    closed_loop_rounds: usize,
    closed_loop_seconds: f64,
    goodput_rounds: usize,
    goodput_seconds: f64,
    overload_seconds: f64,
}

impl Report {
    pub(crate) fn new(machine: Machine, plan: &Plan) -> Self {
        Self {
            machine,
            settings: Settings {
                closed_loop_sender: plan.sender.to_string(),
                worker_threads: plan.worker_threads.get(),
                closed_loop_rounds: plan.closed_rounds,
                closed_loop_seconds: plan.closed_lasts.as_secs_f64(),
                goodput_rounds: plan.goodput_rounds,
                goodput_seconds: plan.goodput_lasts.as_secs_f64(),
                overload_seconds: plan.overload_lasts.as_secs_f64(),
            },
            closed_loop: None,
            images: None,
            goodput: None,
            overload: None,
        }
    }

    /// Writes the files that were asked for.
    pub(crate) fn write(&self, arguments: &Arguments) -> anyhow::Result<()> {
        let json = serde_json::to_string_pretty(self).context("figures can be written as JSON")?;
        write_file(&arguments.json, &(json + "\n"))?;
        eprintln!("the figures are in {}", arguments.json.display());
        if let (Some(path), Some(goodput)) = (&arguments.plot, &self.goodput) {
            write_file(path, &plot::draw(goodput, &self.place()))?;
            eprintln!("the plot is in {}", path.display());
        }
        if let (Some(path), Some(plot)) = (&arguments.page, &arguments.plot) {
            page::write(path, &self.section(&page::link(path, plot)))?;
            eprintln!("the tables are in {}", path.display());
        }
        Ok(())
    }

    /// Everything, as it is printed.
    pub(crate) fn text(&self) -> String {
        self.sections(None)
    }

    /// Everything, as it stands in a page, with the plot.
    fn section(&self, plot: &str) -> String {
        self.sections(Some(plot))
    }

    fn sections(&self, plot: Option<&str>) -> String {
        let mut parts = vec![format!("Measured on {}.", self.place())];
        if let Some(rows) = &self.closed_loop {
            parts.extend(self.closed_loop_sections(rows));
        }
        if let Some(rows) = &self.images {
            parts.extend(image_sections(rows));
        }
        if let Some(goodput) = &self.goodput {
            parts.extend(self.goodput_sections(goodput));
            let picture =
                plot.map(|plot| format!("![Queries answered in time against offered load]({plot})"));
            parts.extend(picture);
        }
        if let Some(overload) = &self.overload {
            parts.extend(self.overload_sections(overload));
        }
        parts.join("\n\n")
    }

    /// The machine and the commit, in a line.
    fn place(&self) -> String {
        let Machine {
            processor,
            cores,
            kernel,
            commit,
            ..
        } = &self.machine;
        let commit = commit.as_deref().unwrap_or("unknown");
        format!("{processor}, {cores} cores, Linux {kernel}, commit {commit}")
    }

    fn closed_loop_sections(&self, rows: &[Row]) -> Vec<String> {
        let settings = &self.settings;
        let intro = format!(
            "**Beside a bare echo.** The echo is axum alone, with the same libraries, allocator and number of worker \
             threads ({}), which reads the same bodies and sends the same answer. Each connection asks again as soon \
             as it has its answer; {} sends. Medians [and ranges] of {} of {} s; ratios are to the echo right \
             before and after.",
            settings.worker_threads,
            settings.closed_loop_sender,
            rounds(settings.closed_loop_rounds),
            settings.closed_loop_seconds
        );
        let mut parts = vec![intro];
        parts.extend(tables(rows));
        parts
    }

    fn goodput_sections(&self, goodput: &Goodput) -> Vec<String> {
        let settings = &self.settings;
        let intro = format!(
            "**Goodput against offered load.** One replica of the synthetic model, whose batch of n takes 5 + n ms, \
             behind an SLO of {} ms; Poisson arrivals in an open loop (`skysail bench`), no two queries alike. A load of \
             1 is {} queries/s. What a prediction answers in time, of what was offered: medians [and ranges] of {} \
             of {} s.",
            goodput.slo_micros / 1000,
            goodput.capacity_per_second,
            rounds(settings.goodput_rounds),
            settings.goodput_seconds
        );
        let of = |policy: Policy| goodput.of(policy).map(in_time).collect::<Vec<_>>();
        let [learned, aimd, fixed] = Policy::ALL.map(of);
        let loads = goodput.loads();
        let mut rows: Vec<[String; 4]> = Vec::new();
        for (index, load) in loads.iter().enumerate() {
            rows.push([
                load.to_string(),
                learned[index].clone(),
                aimd[index].clone(),
                fixed[index].clone(),
            ]);
        }
        if let [_, .., last] = loads[..] {
            let [learned, aimd, fixed] =
                Policy::ALL.map(|policy| shown(goodput.plateau(policy), |share| format!("{share:.2}")));
            rows.push([format!("at {last}, of its most"), learned, aimd, fixed]);
        }
        let [learned, aimd, fixed] = Policy::ALL.map(Policy::name);
        let mut parts = vec![intro, table(["load", learned, aimd, fixed], rows)];
        let late: usize = goodput.cells.iter().map(|cell| cell.untrustworthy).sum();
        if late > 0 {
            parts.push(format!(
                "In {late} of these runs the sender itself was late, so that they say as much of it."
            ));
        }
        parts
    }

    fn overload_sections(&self, overload: &Overload) -> Vec<String> {
        let intro = format!(
            "**Overload.** {} times that capacity for {} s, in inputs of a kibibyte, with the learned policy.",
            overload::LOAD,
            self.settings.overload_seconds
        );
        let mebibytes = |bytes: u64| format!("{:.1} MiB", bytes as f64 / MEBIBYTE);
        let memory = &overload.memory;
        let rows = [
            ("offered", format!("{:.0}/s", overload.offered_per_second)),
            (
                "answered in time by a prediction",
                format!("{:.0}/s", overload.in_time_per_second),
            ),
            (
                "sent, answered",
                format!("{}, {}", overload.sent, overload.answered),
            ),
            (
                "lost, answered twice",
                format!("{}, {}", overload.lost, overload.twice),
            ),
            (
                "answered within the SLO + 10 ms",
                format!("{:.4} %", overload.share_within_slo_and_10_ms * 100.0),
            ),
            (
                "latest answer",
                format!("{:.1} ms", overload.worst_micros as f64 / 1e3),
            ),
            (
                "frontend's memory: start, most, end",
                [memory.start_bytes, memory.max_bytes, memory.end_bytes]
                    .map(mebibytes)
                    .join(", "),
            ),
        ];
        let rows = rows.map(|(what, figure)| [what.to_owned(), figure]);
        let mut parts = vec![intro, table(["", ""], rows)];
        if !overload.trustworthy {
            parts.push("The sender itself was late, so that latencies say as much of it.".to_owned());
        }
        parts
    }
}

/// What an image costs.
fn image_sections(rows: &[Row]) -> Vec<String> {
    let intro = "**An image.** The same closed loop with an image of 224 × 224 × 3 floats as JSON, some 900 kB, for a model that \
         answers its mean. A relay is axum, one stream to a bare container and back, with the same libraries: the first sends \
         602,112 bytes of the body on as they are, the second makes floats of the JSON first, as Skysail must.";
    let mut parts = vec![intro.to_owned()];
    parts.extend(tables(rows));
    parts.extend(beside_relays(rows));
    parts
}

/// Speed and cost of programs in a closed loop.
fn tables(rows: &[Row]) -> Vec<String> {
    let speed = table(
        [
            "connections",
            "",
            "requests/s",
            "of the echo's",
            "median latency",
            "of the echo's",
            "p99",
        ],
        rows.iter().map(|row| {
            [
                row.connections.to_string(),
                name(row.program).to_owned(),
                format!("{:.0}", row.requests_per_second),
                shown(row.requests_of_echo, |ratio| format!("{ratio:.2}")),
                format!("{:.0} µs", row.p50_micros),
                shown(row.p50_of_echo, |ratio| format!("{ratio:.1}")),
                format!("{:.0} µs", row.p99_micros.median),
            ]
        }),
    );
    let cost = table(
        [
            "connections",
            "",
            "CPU s per 1000, server",
            "CPU s per 1000, container",
            "server's peak memory",
        ],
        rows.iter().map(|row| {
            [
                row.connections.to_string(),
                name(row.program).to_owned(),
                format!("{:.4}", row.server_cpu_per_1000),
                shown(row.container_cpu_per_1000, |cpu| format!("{cpu:.4}")),
                format!("{:.1} MiB", row.server_peak_bytes as f64 / MEBIBYTE),
            ]
        }),
    );
    let mut parts = vec![speed, cost];
    parts.extend(remark(rows));
    parts
}

/// How fast Skysail is beside each relay.
fn beside_relays(rows: &[Row]) -> Option<String> {
    let rate = |program, connections| {
        let mut rows = rows.iter();
        let row = rows.find(|row| row.program == program && row.connections == connections)?;
        Some(row.requests_per_second.median)
    };
    let skysail = rows.iter().filter(|row| row.program == Program::Image);
    let mut lines = Vec::new();
    for row in skysail {
        let own = row.requests_per_second.median;
        let relay = own / rate(Program::Relay, row.connections)?;
        let parsing = own / rate(Program::ParsingRelay, row.connections)?;
        lines.push([
            row.connections.to_string(),
            format!("{relay:.2}"),
            format!("{parsing:.2}"),
        ]);
    }
    Some(table(
        ["connections", "of the relay's", "of the relay's that parses"],
        lines,
    ))
}

fn write_file(path: &Path, text: &str) -> anyhow::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).with_context(|| format!("{} cannot be made", folder.display()))?;
    }
    fs::write(path, text).with_context(|| format!("{} cannot be written", path.display()))
}

fn rounds(count: usize) -> String {
    match count {
        1 => "1 round".to_owned(),
        _ => format!("{count} rounds"),
    }
}

fn name(program: Program) -> &'static str {
    match program {
        Program::Echo => "echo",
        Program::Noop => "no-op model, no cache",
        Program::NoopCached => "no-op model, cached",
        Program::IrisSvm => "iris SVM, no cache",
        Program::Relay => "relay",
        Program::ParsingRelay => "relay that parses",
        Program::Image => "image model, no cache",
    }
}

fn in_time(cell: &Cell) -> String {
    let share = cell.goodput.times(100.0);
    format!("{share:.1} %")
}

/// A figure, or a dash where there is none.
fn shown<T>(figure: Option<T>, show: impl FnOnce(T) -> String) -> String {
    figure.map_or_else(|| "–".to_owned(), show)
}

/// What should not be, if it was.
fn remark(rows: &[Row]) -> Option<String> {
    let defaults: u64 = rows.iter().map(|row| row.defaults).sum();
    let failed: u64 = rows.iter().map(|row| row.failed).sum();
    (defaults + failed > 0).then(|| {
        format!(
            "Not all answers were predictions: {defaults} were default outputs, and {failed} requests failed."
        )
    })
}

/// A table in Markdown whose source is readable as well.
fn table<const N: usize>(header: [&str; N], rows: impl IntoIterator<Item = [String; N]>) -> String {
    let mut lines = vec![header.map(str::to_owned)];
    lines.extend(rows);
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max();
    let widths: [usize; N] = std::array::from_fn(|column| width(column).unwrap_or(0).max(3));
    let mut text = String::new();
    for (number, line) in lines.iter().enumerate() {
        for (cell, width) in line.iter().zip(widths) {
            let _ = write!(text, "| {cell:<width$} ");
        }
        text.push_str("|\n");
        if number == 0 {
            for width in widths {
                let _ = write!(text, "|{}", "-".repeat(width + 2));
            }
            text.push_str("|\n");
        }
    }
    text.trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::{goodput, overload};

    fn report() -> Report {
        let arguments = Arguments::try_parse_from(["benchmarks", "--sender", "own"]).unwrap();
        let machine = Machine {
            processor: "Xeon".into(),
            cores: 2,
            kernel: "6.1".into(),
            memory_bytes: 1 << 33,
            commit: Some("abc".into()),
        };
        let mut report = Report::new(machine, &Plan::of(&arguments).unwrap());
        report.goodput = Some(goodput::tests::example());
        report.overload = Some(overload::tests::example());
        report
    }

    #[test]
    fn the_text_names_the_machine_and_has_a_row_for_each_load() {
        let text = report().text();
        for part in [
            "Measured on Xeon, 2 cores, Linux 6.1, commit abc.",
            "| load              | learned | AIMD   | fixed (20) |",
            "| 0.9               | 97.5 %  | 50.0 % | 75.0 %     |",
            "| at 3, of its most | 1.00    | 0.75   | 0.50       |",
            "In 2 of these runs the sender itself was late",
            "| lost, answered twice                | 0, 0                         |",
            "20.0 MiB, 40.0 MiB, 30.0 MiB",
        ] {
            assert!(text.contains(part), "`{part}` is not in:\n{text}");
        }
        assert!(!text.contains("!["), "a terminal shows no pictures");
        assert!(report().section("a/b.svg").contains("](a/b.svg)"));
    }

    #[test]
    fn a_part_that_was_left_out_is_not_in_the_json() {
        let json = serde_json::to_value(report()).unwrap();
        assert_eq!(json["overload"]["lost"], 0);
        assert_eq!(json["goodput"]["cells"][0]["policy"], "learned");
        assert!(json.get("closed_loop").is_none(), "{json}");
    }
}

//! `make bench` runs and leaves nothing behind. What it finds out is not judged here: a machine that runs tests
//! measures nothing.

use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use skysail_tests::program::{Program, children_of, gone};
use skysail_tests::wait::{self, PATIENCE};
use skysail_tests::{binaries, cases};
use tempfile::TempDir;

cases! {
    a_run_measures_every_part_and_writes_the_tables_the_figures_and_the_plot;
    a_run_that_is_interrupted_leaves_no_process_behind;
}

/// A run starts three clusters, one after the other, on a machine that is busy with other tests.
const RUN: Duration = Duration::from_secs(120);

fn smoke(folder: &TempDir) -> Program {
    let file = |name: &str| folder.path().join(name);
    let mut command = Command::new(binaries::path("benchmarks"));
    command.arg("--smoke");
    command.arg("--json").arg(file("figures.json"));
    command.arg("--plot").arg(file("goodput.svg"));
    Program::start("the benchmarks", command)
}

/// A figure that was measured several times.
#[track_caller]
fn assert_spread(figure: &Value) {
    let of = |name: &str| figure[name].as_f64().unwrap_or(f64::NAN);
    let (min, median, max) = (of("min"), of("median"), of("max"));
    assert!(min <= median && median <= max, "{figure}");
}

async fn a_run_measures_every_part_and_writes_the_tables_the_figures_and_the_plot() {
    let folder = tempfile::tempdir().unwrap();
    let mut run = smoke(&folder);
    let ended = wait::find("the benchmarks to end", RUN, async || run.ended()).await;
    let said = run.whole_log().await.join("\n");
    assert!(ended.success(), "{said}");
    for part in [
        "Measured on",
        "Beside a bare echo",
        "Goodput against offered load",
        "Overload",
    ] {
        assert!(said.contains(part), "`{part}` is not in {said}");
    }

    let figures = std::fs::read_to_string(folder.path().join("figures.json")).unwrap();
    let figures: Value = serde_json::from_str(&figures).unwrap();
    assert!(figures["machine"]["cores"].as_u64() > Some(0), "{figures}");
    let rows = figures["closed_loop"].as_array().expect("an array");
    let programs: Vec<_> = rows.iter().map(|row| row["program"].as_str().unwrap()).collect();
    assert_eq!(programs, ["echo", "noop", "noop_cached", "iris_svm"]);
    for row in rows {
        for figure in [
            "requests_per_second",
            "p50_micros",
            "p99_micros",
            "server_cpu_per_1000",
        ] {
            assert_spread(&row[figure]);
        }
        assert!(row["server_peak_bytes"].as_u64() > Some(0), "{row}");
        assert_eq!(row["failed"], 0, "{row}");
        let is_echo = row["program"] == "echo";
        for compared in ["requests_of_echo", "p50_of_echo", "container_cpu_per_1000"] {
            assert_eq!(row[compared].is_null(), is_echo, "{compared} in {row}");
        }
    }
    let cells = figures["goodput"]["cells"].as_array().expect("an array");
    let policies: Vec<_> = cells
        .iter()
        .map(|cell| cell["policy"].as_str().unwrap())
        .collect();
    assert_eq!(policies, ["learned", "aimd", "fixed:20"]);
    for cell in cells {
        assert_spread(&cell["goodput"]);
        assert_spread(&cell["in_time_per_second"]);
    }
    let overload = &figures["overload"];
    assert_eq!(overload["sent"], overload["answered"], "{overload}");
    assert_eq!(overload["sent"], overload["served"], "{overload}");
    assert_eq!(overload["lost"], 0);
    assert_eq!(overload["twice"], 0);
    let series = overload["memory"]["series_bytes"].as_array();
    assert!(series.is_some_and(|series| !series.is_empty()), "{overload}");
    let svg = std::fs::read_to_string(folder.path().join("goodput.svg")).unwrap();
    assert!(svg.starts_with("<svg") && svg.ends_with("</svg>\n"), "{svg}");
}

async fn a_run_that_is_interrupted_leaves_no_process_behind() {
    let folder = tempfile::tempdir().unwrap();
    let mut run = smoke(&folder);
    // A frontend with a container, and by then the echo may be there as well.
    let started = wait::find("a container to run", PATIENCE, async || {
        let children = children_of(run.pid());
        let containers: Vec<u32> = children.iter().flat_map(|&child| children_of(child)).collect();
        (!containers.is_empty()).then(|| [children, containers].concat())
    })
    .await;
    run.signal(Signal::INT);
    let ended = run.end().await;
    assert_eq!(ended.code(), Some(130));
    for pid in started {
        gone(pid).await;
    }
    assert!(!folder.path().join("figures.json").exists());
}

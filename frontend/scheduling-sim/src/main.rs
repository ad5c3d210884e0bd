//! `scheduling-sim`: batch policies in virtual time, in the terminal.

use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
use skysail_scheduling_sim::arguments::Arguments;
use skysail_scheduling_sim::cell::{Cell, Figures, run_all};
use skysail_scheduling_sim::report;
use skysail_scheduling_sim::search::{self, Point, Search};

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let text = match arguments.search() {
        Some(search) => find(&arguments, search),
        None => compare(&arguments),
    };
    match writeln!(io::stdout().lock(), "{text}") {
        // Whoever reads has seen enough, as `head` has.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            eprintln!("error: the figures cannot be printed: {error}");
            ExitCode::FAILURE
        }
        _ => ExitCode::SUCCESS,
    }
}

fn find(arguments: &Arguments, search: Search) -> String {
    let points = search.points();
    let cells: Vec<_> = points.iter().flat_map(Point::cells).collect();
    let findings = search::findings(&points, &cells, &simulate(&cells));
    if arguments.json() {
        report::findings_json(&findings)
    } else {
        report::findings(&findings)
    }
}

fn compare(arguments: &Arguments) -> String {
    let cells = arguments.cells().unwrap_or_else(|error| error.exit());
    let figures = simulate(&cells);
    if arguments.json() {
        report::json(&cells, &figures)
    } else if arguments.suite() {
        report::suite(&cells, &figures)
    } else {
        report::table(&cells, &figures)
    }
}

fn simulate(cells: &[Cell]) -> Vec<Figures> {
    // Hidden by itself where stderr is no terminal.
    let bar = ProgressBar::new(cells.len() as u64).with_style(style());
    let figures = run_all(cells, || bar.inc(1));
    bar.finish_and_clear();
    figures
}

fn style() -> ProgressStyle {
    ProgressStyle::with_template("{bar:40} {pos} of {len} cells, {eta} left")
        .expect("the template is a constant and right; otherwise this is a bug")
}

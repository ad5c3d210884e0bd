//! What is typed, and the plan it makes.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::closed_loop::sender::Sender;

/// Measure Skysail on this machine: beside a bare echo, over offered load, and under overload
#[derive(Debug, Parser)]
#[command(name = "benchmarks", version, args_conflicts_with_subcommands = true, after_long_help = JSON)]
pub(crate) struct Arguments {
    /// Measure this part alone
    #[arg(long, value_enum)]
    pub(crate) only: Option<Part>,
    /// A rough answer in about a minute
    #[arg(long)]
    quick: bool,
    /// Whether it runs at all, in seconds; its figures mean nothing
    #[arg(long, conflicts_with = "quick")]
    smoke: bool,
    /// How often each thing is measured, in turn with what it is compared with [default: 5, goodput 3]
    #[arg(long, value_name = "N")]
    rounds: Option<NonZeroUsize>,
    /// What sends the closed loop [default: wrk if there is one]
    #[arg(long, value_enum)]
    sender: Option<SenderName>,
    /// Threads of the frontend and of the echo [default: half of the cores, as skysail-frontend]
    #[arg(long, value_name = "N")]
    worker_threads: Option<NonZeroUsize>,
    /// Write the figures as JSON
    #[arg(long, value_name = "FILE", default_value = "target/bench.json")]
    pub(crate) json: PathBuf,
    /// Draw goodput against offered load
    #[arg(long, value_name = "FILE.svg")]
    pub(crate) plot: Option<PathBuf>,
    /// Replace the part of this file between the markers `<!-- benchmarks:begin -->` and `<!-- benchmarks:end -->`
    #[arg(long, value_name = "FILE", requires = "plot", conflicts_with_all = ["only", "smoke"])]
    pub(crate) page: Option<PathBuf>,
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

/// What `--help` says of the JSON.
const JSON: &str = "\
The JSON is one object: machine; settings; and, unless --only leaves them out, closed_loop, images, goodput and
overload.
Where something was measured several times it is {median, min, max}.

closed_loop: an array, an object for each program (echo, noop, noop_cached, iris_svm) and number of connections:
requests_per_second, p50_micros, p99_micros; requests_of_echo and p50_of_echo, the ratios to the echo measured
right before and after; server_cpu_per_1000 and container_cpu_per_1000, in seconds per thousand queries;
server_peak_bytes; defaults and failed, counts that should be 0.

images: an array like closed_loop's, for the programs echo, relay, parsing_relay and image.

goodput: capacity_per_second, slo_micros, and cells, an object for each policy (learned, aimd, fixed:20) and load:
offered_per_second, in_time_per_second, goodput (0 to 1), defaults by reason, errors by kind, and untrustworthy,
the runs in which the sender itself was late.

overload: offered_per_second, in_time_per_second, goodput; sent, answered, lost, served (by the server's own
count), twice, model_inputs; overdue, share_within_slo_and_10_ms, worst_micros; memory with start_bytes,
max_bytes, end_bytes and series_bytes, one every half second; trustworthy.";

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// The bare echo, which a run starts itself
    #[command(hide = true)]
    Echo(Echo),
    /// The bare relay, which a run starts itself
    #[command(hide = true)]
    Relay(Relay),
    /// The relay's bare container, which a run starts itself
    #[command(hide = true)]
    BareContainer(BareContainer),
}

#[derive(Args, Debug)]
pub(crate) struct Relay {
    /// Make floats of each body first
    #[arg(long)]
    pub(crate) parse: bool,
    #[arg(long)]
    pub(crate) worker_threads: NonZeroUsize,
}

#[derive(Args, Debug)]
pub(crate) struct BareContainer {
    /// Where the relay takes containers
    #[arg(long)]
    pub(crate) relay: SocketAddr,
}

#[derive(Args, Debug)]
pub(crate) struct Echo {
    /// What every request is answered with
    #[arg(long)]
    pub(crate) answer: String,
    #[arg(long)]
    pub(crate) worker_threads: NonZeroUsize,
}

/// A part of the run.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum Part {
    /// Requests per second and latency in a closed loop, beside the echo
    Closed,
    /// Goodput against offered load, for each batch policy
    Goodput,
    /// The closed loop with images of 224 × 224 × 3 floats, beside two bare relays and the echo
    Images,
    /// Ten times the capacity: memory, and every query answered once and in time
    Overload,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
enum SenderName {
    /// The program of that name
    Wrk,
    /// The one built in
    Own,
}

/// What is measured, how often and how long.
#[derive(Debug)]
pub(crate) struct Plan {
    only: Option<Part>,
    pub(crate) sender: Sender,
    pub(crate) worker_threads: NonZeroUsize,
    pub(crate) closed_rounds: usize,
    pub(crate) closed_lasts: Duration,
    pub(crate) connections: &'static [usize],
    pub(crate) image_connections: &'static [usize],
    pub(crate) goodput_rounds: usize,
    pub(crate) goodput_lasts: Duration,
    /// Sent before each measurement of goodput, with the same load.
    pub(crate) goodput_warms_up: Duration,
    /// Relative to the synthetic model's capacity.
    pub(crate) loads: &'static [f64],
    pub(crate) overload_lasts: Duration,
}

impl Plan {
    pub(crate) fn of(arguments: &Arguments) -> anyhow::Result<Self> {
        let mut plan = Self::usual(
            Sender::Own,
            arguments.worker_threads.unwrap_or_else(default_workers),
        );
        if arguments.quick {
            plan = plan.quick();
        } else if arguments.smoke {
            plan = plan.smoke();
        }
        if let Some(rounds) = arguments.rounds {
            plan.closed_rounds = rounds.get();
            plan.goodput_rounds = rounds.get();
        }
        plan.only = arguments.only;
        // wrk counts whole seconds.
        let whole = plan.closed_lasts.subsec_nanos() == 0;
        plan.sender = match arguments.sender {
            Some(SenderName::Wrk) => Sender::wrk()?,
            Some(SenderName::Own) => Sender::Own,
            None if whole => Sender::wrk().unwrap_or(Sender::Own),
            None => Sender::Own,
        };
        Ok(plan)
    }

    pub(crate) fn includes(&self, part: Part) -> bool {
        self.only.is_none_or(|only| only == part)
    }

    fn usual(sender: Sender, worker_threads: NonZeroUsize) -> Self {
        Self {
            only: None,
            sender,
            worker_threads,
            closed_rounds: 5,
            closed_lasts: Duration::from_secs(2),
            connections: &[1, 64],
            image_connections: &[1, 4],
            goodput_rounds: 3,
            goodput_lasts: Duration::from_secs(2),
            goodput_warms_up: Duration::from_millis(500),
            loads: &[0.3, 0.6, 0.9, 1.2, 1.5, 2.0, 3.0],
            overload_lasts: Duration::from_secs(60),
        }
    }

    fn quick(self) -> Self {
        Self {
            closed_rounds: 2,
            closed_lasts: Duration::from_secs(1),
            goodput_rounds: 1,
            loads: &[0.6, 1.2, 3.0],
            overload_lasts: Duration::from_secs(10),
            ..self
        }
    }

    fn smoke(self) -> Self {
        let moment = Duration::from_millis(300);
        Self {
            closed_rounds: 1,
            closed_lasts: moment,
            connections: &[2],
            image_connections: &[2],
            goodput_rounds: 1,
            goodput_lasts: moment,
            goodput_warms_up: moment,
            loads: &[0.3],
            overload_lasts: moment,
            ..self
        }
    }
}

/// As `skysail-frontend` without `--worker-threads`.
fn default_workers() -> NonZeroUsize {
    let cores = thread::available_parallelism().map_or(1, NonZeroUsize::get);
    NonZeroUsize::new(cores / 2).unwrap_or(NonZeroUsize::MIN)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;
    use skysail_frontend::config::Config;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn the_frontend_runs_on_as_many_threads_as_it_does_by_default() {
        assert_eq!(default_workers(), Config::default().worker_threads);
    }

    #[test]
    fn a_page_is_written_only_from_a_whole_run_and_with_its_plot() {
        for (line, accepted) in [
            (&["--page", "P.md", "--plot", "p.svg"][..], true),
            (&["--page", "P.md"], false),
            (
                &["--page", "P.md", "--plot", "p.svg", "--only", "overload"],
                false,
            ),
            (&["--page", "P.md", "--plot", "p.svg", "--smoke"], false),
        ] {
            let parsed = Arguments::try_parse_from([&["benchmarks"], line].concat());
            assert_eq!(parsed.is_ok(), accepted, "{line:?}");
        }
    }

    #[test]
    fn one_part_alone_leaves_the_others_out() {
        let arguments = Arguments::try_parse_from(["benchmarks", "--only", "goodput", "--sender", "own"]);
        let plan = Plan::of(&arguments.unwrap()).unwrap();
        assert!(plan.includes(Part::Goodput));
        assert!(!plan.includes(Part::Closed) && !plan.includes(Part::Overload));
    }
}

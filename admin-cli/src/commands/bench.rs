//! `skysail bench`: how many queries an application answers in time, found out by sending them.

use std::fs::File;
use std::io::{self, Write};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use skysail_proto::ids::ApplicationName;
use skysail_proto::value::InputType;

use super::Session;
use super::query_url::query_url;
use crate::advice::about_application;
use crate::arguments::{InvalidValue, SloMicros, parse_duration, parse_slo};
use crate::bench::BenchError;
use crate::bench::arrivals::{Arrivals, Rate, Schedule};
use crate::bench::descriptors::room_for;
use crate::bench::inputs::{self, Bodies, JsonInput};
use crate::bench::plot::{self, SvgFile};
use crate::bench::report::{self, Course, Ending, Report, Setup};
use crate::bench::sender::{Ended, Load, Sender, Stage};
use crate::bench::tally::Tally;
use crate::client::{Api, ClientError};
use crate::error::Error;
use crate::output::{self, Paint, Stream};
use crate::progress::Progress;

/// How much longer than its objective a query is waited for.
const PATIENCE: Duration = Duration::from_secs(10);

/// Far beyond any run, and far below what arithmetic with times can bear.
const LONGEST_RUN: Duration = Duration::from_secs(365 * 24 * 3600);

const EXAMPLES: &str = "\
Examples:
  skysail bench iris --rate 500
  skysail bench iris --rate 2000 --duration 1m --arrivals bursty --plot iris.svg
  skysail bench iris --rate 100 --input '[7.9, 4.4, 6.9, 2.5]' --slo 20ms
  skysail bench iris --rate 300 --arrivals trace:arrivals.csv --output json \\
      | jq .goodput

Queries are sent on a clock of their own, whatever becomes of those before them (an open loop), and \
timed from the moment at which they were due. Goodput is the share of the offered queries that the \
model's own prediction answers within the SLO: a default output is no success, nor is an error.

Bursty arrivals come at four times their low rate for 15 % of the time, a second at a time. A trace \
is a CSV file with a column TIMESTAMP (2023-11-16 18:17:03.97), or a number of seconds a line; it \
is compressed to the rate, and a run is over when it ends. Ctrl-C ends a run early, with results.

Without --input or --inputs every query asks something else, so that no cache answers.

With --output json one object is printed: what was asked for (application, arrivals, rate, seed, \
inputs, slo_micros); ended (complete, trace_ended, interrupted) and duration_seconds; offered, which \
is in_time + late + defaulted + failed, and sent; overdue, the answers of any kind that came more \
than 10 ms after the SLO; goodput (0 to 1); offered_, sent_ and in_time_per_second; defaults by \
reason and errors by kind (connection, no_connection, timeout, status_N, unreadable, not_sent, \
interrupted); latency_micros of answers and predictions and lateness_micros (p50, p90, p99, p99_9, \
max; null if there are none); trustworthy, which is false if the sender was too late itself; and \
connections, the most open at once.";

#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct BenchArguments {
    /// The application to ask
    #[arg(value_name = "APP")]
    application: ApplicationName,
    /// Queries to offer per second, on average
    #[arg(long, value_name = "N")]
    rate: Rate,
    /// How long to send
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = parse_run)]
    duration: Duration,
    /// How queries are spread over time: poisson, bursty or trace:FILE
    #[arg(long, value_name = "ARRIVALS", default_value_t = Arrivals::Poisson)]
    arrivals: Arrivals,
    /// Ask this, as JSON; may be given again, then they take turns
    #[arg(long, value_name = "JSON", conflicts_with_all = ["inputs", "input_length"])]
    input: Vec<JsonInput>,
    /// Ask what is in a file, one input a line, as JSON, in turn
    #[arg(long, value_name = "FILE", conflicts_with = "input_length")]
    inputs: Option<PathBuf>,
    /// Numbers in each generated input, or its bytes (12 at least) or characters (16 at least)
    #[arg(long, value_name = "N", default_value = "4")]
    input_length: NonZeroUsize,
    /// Judge by this objective and send it with each query, which can only tighten the application's
    /// [default: the application's]
    #[arg(long, value_name = "DURATION", value_parser = parse_slo, allow_hyphen_values = true)]
    slo: Option<SloMicros>,
    /// Makes arrivals repeatable: the same seed, the same times
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Connections that may be open at once; a query that finds none free is an error
    #[arg(long, value_name = "N", default_value = "4096")]
    max_connections: NonZeroUsize,
    /// Draw latency and goodput over time
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<SvgFile>,
}

/// Parses how long a run takes.
fn parse_run(text: &str) -> Result<Duration, InvalidValue> {
    match parse_duration(text)? {
        Duration::ZERO => Err(InvalidValue::NotPositive),
        duration if duration > LONGEST_RUN => {
            Err(InvalidValue::Duration("a run takes a year at most".into()))
        }
        duration => Ok(duration),
    }
}

pub(super) async fn run(session: &Session, arguments: &BenchArguments) -> Result<(), Error> {
    let (load, setup) = prepare(session, arguments).await?;
    let sender = connect(session, &arguments.application).await?;
    // A file that cannot be written is told before the run, not after it.
    let plot = arguments.plot.as_ref().map(open).transpose()?;
    let slo = Duration::from_micros(setup.slo_micros);
    let planned = load.schedule.duration();
    let mut tally = Tally::new(slo, planned, arguments.rate.within(planned));
    let course = send(sender, load, arguments, &mut tally).await?;
    let report = Report::new(setup, &tally, course);
    if let Some((file, path)) = plot {
        let svg = plot::draw(&report.heading(), &tally, slo, course.lasted);
        write(file, path, &svg)?;
    }
    tell(session, &report)?;
    check_that_something_was_answered(&tally, course.ended)
}

/// What is to be sent, and what the report says about it.
async fn prepare(session: &Session, arguments: &BenchArguments) -> Result<(Load, Setup), Error> {
    let name = &arguments.application;
    let result = session.admin.application(name).await;
    let application = about_application(&session.admin, name, result).await?.read()?;
    let slo = arguments.slo.map(|SloMicros(micros)| micros.unsigned_abs());
    let slo_micros = slo.unwrap_or(application.slo_micros);
    let (bodies, inputs) = bodies(arguments, application.input_type, slo)?;
    let load = Load {
        schedule: Schedule::new(
            &arguments.arrivals,
            arguments.rate,
            arguments.duration,
            arguments.seed,
        )?,
        bodies,
        patience: Duration::from_micros(slo_micros).saturating_add(PATIENCE),
        max_connections: connections(arguments.max_connections.get()),
    };
    let setup = Setup {
        application: application.name,
        arrivals: arguments.arrivals.to_string(),
        rate: arguments.rate.per_second(),
        seed: arguments.seed,
        inputs,
        slo_micros,
    };
    Ok((load, setup))
}

/// The queries' bodies, and what they ask in words.
fn bodies(
    arguments: &BenchArguments,
    input_type: InputType,
    slo_micros: Option<u64>,
) -> Result<(Bodies, String), Error> {
    let given = match &arguments.inputs {
        Some(file) => inputs::read(file)?,
        None => arguments.input.clone(),
    };
    if given.is_empty() {
        let words = format!("generated {input_type}, no two alike");
        let bodies = Bodies::unique(input_type, arguments.input_length, slo_micros);
        return Ok((bodies, words));
    }
    inputs::check(&given, input_type)?;
    let words = match given.len() {
        1 => "the same input always".to_owned(),
        count => format!("{count} inputs in turn"),
    };
    Ok((Bodies::given(&given, slo_micros), words))
}

/// As many connections as are wanted, or as many as there can be.
fn connections(wanted: usize) -> usize {
    let room = room_for(wanted);
    if room < wanted {
        output::tell(
            &Paint::on(Stream::Stderr).hint("note:"),
            &format!("the system lets this process open {room} connections (`ulimit -Hn`), not {wanted}"),
        );
    }
    room
}

async fn connect(session: &Session, application: &ApplicationName) -> Result<Sender, Error> {
    let url = query_url(session).await?;
    let sender = Sender::connect(&url, application).await;
    sender.map_err(|error| ClientError::unreachable(Api::Query, &url, &error).into())
}

async fn send(
    mut sender: Sender,
    mut load: Load,
    arguments: &BenchArguments,
    tally: &mut Tally,
) -> Result<Course, Error> {
    let planned = load.schedule.duration();
    let mut progress = Progress::start();
    let step = format!(
        "sending {} queries/s to {}",
        arguments.rate.per_second(),
        arguments.application
    );
    let tell = |stage: Stage<'_>| match stage {
        Stage::Sending(elapsed, tally) => progress.say(&step, Some(&how_it_goes(elapsed, planned, tally))),
        Stage::Waiting(queries) => progress.say(
            "waiting for the last answers; Ctrl-C ends that",
            Some(&format!("{queries} to come")),
        ),
    };
    let sent = sender.run(&mut load, tally, tell).await;
    let (ended, sent_for) = sent.map_err(BenchError::Sender)?;
    let (ended, lasted) = match ended {
        Ended::Complete if planned < arguments.duration => (Ending::TraceEnded, planned),
        Ended::Complete => (Ending::Complete, planned),
        // A run that was ended at once has no rate, but must not divide by nothing to find that out.
        Ended::Interrupted => (
            Ending::Interrupted,
            sent_for.clamp(Duration::from_millis(1), planned),
        ),
    };
    Ok(Course {
        ended,
        lasted,
        connections: sender.connections(),
    })
}

/// How far a run is and how it goes, for whoever waits for it.
fn how_it_goes(elapsed: Duration, planned: Duration, tally: &Tally) -> String {
    let time = format!("{:.0} of {:.0} s", elapsed.as_secs_f64(), planned.as_secs_f64());
    if tally.counts.offered() == 0 {
        return time;
    }
    format!("{time}, goodput {:.1} %", tally.counts.goodput() * 100.0)
}

fn tell(session: &Session, report: &Report) -> Result<(), Error> {
    if session.output.is_json() {
        session.output.body(format!("{}\n", report.json()).as_bytes())?;
    } else {
        session.output.line(&report.text())?;
    }
    if let Some(warning) = report.warning() {
        output::tell(&Paint::on(Stream::Stderr).error("warning:"), &warning);
    }
    Ok(())
}

/// Low goodput is a result; hearing nothing from the server is none.
fn check_that_something_was_answered(tally: &Tally, ended: Ending) -> Result<(), Error> {
    let offered = tally.counts.offered();
    match offered {
        _ if ended == Ending::Interrupted || tally.was_answered() => Ok(()),
        0 => Err(BenchError::NothingDue.into()),
        _ => Err(BenchError::NothingAnswered {
            offered,
            failures: report::failures(tally),
        }
        .into()),
    }
}

fn open(plot: &SvgFile) -> Result<(File, &Path), BenchError> {
    let path = plot.path();
    match File::create(path) {
        Ok(file) => Ok((file, path)),
        Err(reason) => Err(unwritable(path, reason)),
    }
}

fn write(mut file: File, path: &Path, svg: &str) -> Result<(), BenchError> {
    file.write_all(svg.as_bytes())
        .map_err(|reason| unwritable(path, reason))
}

fn unwritable(path: &Path, reason: io::Error) -> BenchError {
    BenchError::Plot {
        path: path.to_owned(),
        reason,
    }
}

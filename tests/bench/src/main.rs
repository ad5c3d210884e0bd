//! `make bench`: Skysail's figures, all of one run, on this machine.
//!
//! What is compared is measured in turn, several times, and reported as the median and the range. Everything
//! is real: the programs that ship, as processes of their own, driven over their public interfaces. In
//! reading order:
//!
//! - [`arguments`]: what is typed, and the plan it makes.
//! - [`closed_loop`]: requests per second, latency, processor time and memory, beside a bare [`echo`], and of images
//!   also beside a bare [`relay`].
//! - [`goodput`]: what is answered in time as the offered load grows, for each batch policy.
//! - [`overload`]: memory and answers at ten times the capacity.
//! - [`process`], [`machine`]: what the kernel says of processes and of the machine.
//! - [`spread`]: median and range.
//! - [`report`]: all of it as tables and as JSON; [`plot`] draws, [`page`] puts it where it is read.

use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use mimalloc::MiMalloc;
use tokio::signal::unix::{SignalKind, signal};

use crate::arguments::{Arguments, Command, Part, Plan};
use crate::machine::Machine;
use crate::report::Report;

mod arguments;
mod closed_loop;
mod echo;
mod goodput;
mod machine;
mod overload;
mod page;
mod plot;
mod process;
mod relay;
mod report;
mod spread;

/// The echo, which is this program too, has the allocator that `skysail-frontend` has.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// What a shell says of a command that Ctrl-C ended.
const INTERRUPTED: u8 = 130;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = match &arguments.command {
        Some(Command::Echo(echo)) => echo::run(echo).map(|()| ExitCode::SUCCESS),
        Some(Command::Relay(relay)) => relay::run(relay).map(|()| ExitCode::SUCCESS),
        Some(Command::BareContainer(container)) => {
            relay::run_container(container).map(|()| ExitCode::SUCCESS)
        }
        None => run(&arguments),
    };
    done.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    // One thread: what measures leaves the processors to what is measured.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("the async runtime cannot be started")?;
    // A run that is given up is dropped, and with it every process it started.
    let done = runtime.block_on(async {
        tokio::select! {
            done = measure(arguments) => done.map(|()| ExitCode::SUCCESS),
            ended = interrupted() => ended.map(|()| ExitCode::from(INTERRUPTED)),
        }
    });
    // Not waited for: a sender's threads may have a second to go.
    runtime.shutdown_background();
    done
}

/// Returns when somebody wants this program to end.
async fn interrupted() -> anyhow::Result<()> {
    let watch = |kind| signal(kind).context("signals cannot be watched");
    let mut interrupt = watch(SignalKind::interrupt())?;
    let mut terminate = watch(SignalKind::terminate())?;
    let mut hangup = watch(SignalKind::hangup())?;
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
        _ = hangup.recv() => {}
    }
    Ok(())
}

async fn measure(arguments: &Arguments) -> anyhow::Result<()> {
    let plan = Plan::of(arguments)?;
    let mut report = Report::new(Machine::describe(), &plan);
    if plan.includes(Part::Closed) {
        report.closed_loop = Some(closed_loop::measure(&plan).await?);
    }
    if plan.includes(Part::Images) {
        report.images = Some(closed_loop::measure_images(&plan).await?);
    }
    if plan.includes(Part::Goodput) {
        report.goodput = Some(goodput::measure(&plan).await?);
    }
    if plan.includes(Part::Overload) {
        report.overload = Some(overload::measure(&plan).await?);
    }
    // First of all to where nothing can go wrong: the run took minutes.
    println!("{}", report.text());
    report.write(arguments)
}

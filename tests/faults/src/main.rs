//! `make faults`: a cluster under load whose parts are killed, stopped, restarted and cut off, one at a time,
//! and what its clients see of that.
//!
//! Everything is real and a container of its own: two query frontends, three replicas, two candidates for
//! the control role, Redis. In reading order:
//!
//! - [`arguments`]: what is typed.
//! - [`fault`]: what is done to which part; [`schedule`]: a seed's faults, one after the other.
//! - [`campaign`]: does them, under a load whose answers are judged one by one, and waits after each until
//!   the cluster is as it should be.
//! - [`times`]: how long single recoveries take, measured.
//! - [`stage`]: the cluster and the load, for both.
//! - [`report`]: tables for people, JSON for programs, and whether it held.

use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};

use crate::arguments::Arguments;

mod arguments;
mod campaign;
mod fault;
mod report;
mod schedule;
mod stage;
mod times;

/// What a shell says of a command that Ctrl-C ended.
const INTERRUPTED: u8 = 130;

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("the async runtime cannot be started")?;
    // A run that is given up is dropped, and with it all that Docker holds of it.
    let done = runtime.block_on(async {
        tokio::select! {
            held = carry_out(arguments) => held.map(|held| if held { ExitCode::SUCCESS } else { ExitCode::FAILURE }),
            ended = interrupted() => ended.map(|()| ExitCode::from(INTERRUPTED)),
        }
    });
    runtime.shutdown_background();
    done
}

/// Returns when somebody wants this program to end.
async fn interrupted() -> anyhow::Result<()> {
    let watch = |kind| signal(kind).context("signals cannot be watched");
    let mut interrupt = watch(SignalKind::interrupt())?;
    let mut terminate = watch(SignalKind::terminate())?;
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    Ok(())
}

/// Whether what was promised held.
async fn carry_out(arguments: &Arguments) -> anyhow::Result<bool> {
    if arguments.report {
        let times = times::measure(arguments).await;
        println!("{}", report::times(&times));
        report::write(arguments, &times)?;
        return Ok(true);
    }
    let outcome = campaign::run(arguments).await;
    println!("{}", report::campaign(&outcome, arguments.untimed));
    report::write(arguments, &outcome)?;
    Ok(outcome.held(arguments.untimed))
}

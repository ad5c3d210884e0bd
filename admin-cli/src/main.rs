//! `skysail`: registers applications, deploys models, runs clusters.
//!
//! Every command is one exchange with the admin API (two or three where it waits or asks for advice),
//! except `start` and `stop`, which talk to Docker, and `bench`, which sends queries. In reading order:
//!
//! - [`arguments`]: what is typed, parsed into types before anything is sent.
//! - [`commands`]: one file per noun; each prints its own answers.
//! - [`client`]: the admin and the query API, typed; [`credentials`] has the token for the former.
//! - [`cluster`]: what `start` and `stop` make and remove in Docker.
//! - [`mod@bench`]: the sender behind the command of that name, and its report.
//! - [`output`], [`progress`]: results go to stdout, everything else to stderr.
//! - [`advice`]: from an error to what to do about it.

use std::process::ExitCode;

use crate::arguments::Arguments;

mod advice;
mod arguments;
mod bench;
mod client;
mod cluster;
mod commands;
mod credentials;
mod error;
mod numpy;
mod onnx;
mod output;
mod progress;
mod signature;

fn main() -> ExitCode {
    match run(arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => error.report(),
    }
}

fn run(arguments: Arguments) -> Result<(), error::Error> {
    // One thread is plenty: a command waits for one answer at a time, and `bench` leaves the other
    // processors to what it measures.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(error::Error::Runtime)?;
    runtime.block_on(commands::run(arguments))
}

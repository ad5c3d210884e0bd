//! What sends the closed loop: each connection asks again as soon as it has its answer.

use std::path::PathBuf;
use std::time::Duration;
use std::{env, fmt};

use anyhow::Context;

use super::request::{Asks, Request};
use super::{own, wrk};

/// A program, or the one built in.
#[derive(Clone, Debug)]
pub(crate) enum Sender {
    /// `wrk`, where it is.
    Wrk(PathBuf),
    /// [`own`].
    Own,
}

/// What is to be sent.
#[derive(Debug)]
pub(crate) struct Load {
    pub(crate) request: Request,
    pub(crate) asks: Asks,
    pub(crate) connections: usize,
    pub(crate) threads: usize,
    pub(crate) lasts: Duration,
}

/// What came back.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Answers {
    pub(crate) count: u64,
    /// How long it took.
    pub(crate) seconds: f64,
    /// Percentiles of the time from a request to its answer.
    pub(crate) p50_micros: f64,
    pub(crate) p99_micros: f64,
    /// Requests that were refused, or whose connection broke.
    pub(crate) failed: u64,
}

impl Sender {
    /// The `wrk` that is on the path.
    pub(crate) fn wrk() -> anyhow::Result<Self> {
        let path = env::var_os("PATH").unwrap_or_default();
        let found = env::split_paths(&path).map(|folder| folder.join("wrk"));
        let found = found.into_iter().find(|program| program.is_file());
        Ok(Self::Wrk(found.context("wrk is not installed")?))
    }

    pub(crate) async fn send(&self, load: Load) -> anyhow::Result<Answers> {
        match self {
            Self::Wrk(program) => wrk::send(program, &load).await.context("wrk failed"),
            Self::Own => own::send(load).await,
        }
    }
}

impl fmt::Display for Sender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Wrk(_) => "wrk",
            Self::Own => "the benchmarks' own sender",
        })
    }
}

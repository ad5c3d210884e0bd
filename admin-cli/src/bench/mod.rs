//! `skysail bench`: an open-loop sender and what it finds out.
//!
//! Queries are sent on a clock of their own, whatever becomes of those before them, and each is timed from
//! the moment at which it *should* have been sent: a stall, of the server or of the sender itself, counts for
//! every query that it holds up. In reading order:
//!
//! - [`arrivals`]: when queries are sent; the simulator's `trace` reads the times of real ones.
//! - [`inputs`]: what they ask.
//! - [`sender`]: sends them, over [`connection`]s that it opens as it needs them (as many as there are
//!   [`descriptors`] for), woken by an [`alarm`].
//! - [`tally`]: what became of them.
//! - [`report`], [`plot`]: how that is shown.

use std::path::PathBuf;

use skysail_scheduling_sim::trace::InvalidTrace;

mod alarm;
pub(crate) mod arrivals;
mod connection;
pub(crate) mod descriptors;
pub(crate) mod inputs;
pub(crate) mod plot;
pub(crate) mod report;
pub(crate) mod sender;
pub(crate) mod tally;

/// Why nothing can be found out.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BenchError {
    /// A trace cannot be used.
    #[error("{}: {reason}", path.display())]
    Trace { path: PathBuf, reason: InvalidTrace },
    /// A file of inputs cannot be used.
    #[error("{}: {reason}", path.display())]
    Inputs {
        path: PathBuf,
        reason: inputs::InvalidInputs,
    },
    /// An input is not of the application's type.
    #[error("input {number} is not what the application takes: {reason}")]
    WrongInput {
        number: usize,
        reason: serde_json::Error,
    },
    /// The application's tensors are too large to be generated.
    #[error("{0}; choose a smaller --input-length, or give inputs by --inputs")]
    TooLarge(#[from] inputs::TooLarge),
    /// A plot cannot be written.
    #[error("cannot write {}: {reason}", path.display())]
    Plot { path: PathBuf, reason: std::io::Error },
    /// This machine does not give the sender what it needs.
    #[error("cannot send: {0}")]
    Sender(std::io::Error),
    /// The run was over before the first query was due.
    #[error("no query was due within the run; raise --rate or --duration")]
    NothingDue,
    /// Not one query was answered, with whatever status.
    #[error("none of {offered} queries was answered: {failures}")]
    NothingAnswered { offered: u64, failures: String },
}

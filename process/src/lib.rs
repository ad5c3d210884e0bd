//! What every program of Skysail does as a process, whatever it serves.
//!
//! - [`outlet`]: a file descriptor that can be written to without ever waiting for its reader.
//! - [`log`]: log lines, panic messages and last words, by way of an outlet.
//! - [`signals`]: the signals that ask a process to end.
//! - [`variables`]: what a set but empty variable of the environment means.
//! - [`visible`]: text that came from elsewhere, as it may be shown on a terminal.
//!
//! Nothing here knows of queries, models or containers.

#![warn(missing_docs)]

pub mod log;
pub mod outlet;
pub mod signals;
pub mod variables;
pub mod visible;

//! Log lines on stderr, for people or for collectors.

use std::io::IsTerminal;

use tracing_subscriber::filter::EnvFilter;

use crate::config::{Config, LogFormat};

/// Starts logging; a process does so once.
pub fn start(config: &Config) {
    let filter = EnvFilter::new(&config.log_level);
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        // Where nobody reads the log any more, neither would a complaint about that be read: it is made
        // with `eprintln!`, which panics.
        .log_internal_errors(false);
    match config.log_format {
        LogFormat::Text => lines.with_ansi(std::io::stderr().is_terminal()).init(),
        LogFormat::Json => lines.json().flatten_event(true).init(),
    }
}

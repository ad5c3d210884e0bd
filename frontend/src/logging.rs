//! Log lines on stderr, for people or for collectors.

use std::io;

use skysail_process::log::{self, Delivery, StartError};
use tracing_subscriber::filter::EnvFilter;

use crate::config::Config;

/// Starts logging; a process does so once. No thread of the frontend ever waits for the log's reader.
pub fn start(config: &Config) -> io::Result<()> {
    let filter = EnvFilter::new(&config.log_level);
    match log::start(filter, config.log_format, Delivery::Queued) {
        // A program that embeds the frontend may have a logger of its own.
        Ok(()) | Err(StartError::Present) => Ok(()),
        Err(StartError::NoThread(error)) => Err(error),
    }
}

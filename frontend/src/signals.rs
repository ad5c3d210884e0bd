//! SIGTERM and SIGINT: the first drains, the second ends the process at once.

use std::process;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// What a shell reports for a process that SIGTERM ended.
const EXIT_BY_SIGNAL: i32 = 143;

/// Cancels `shutdown` at the first signal. The handlers are in place when this returns.
pub fn watch(shutdown: CancellationToken) -> std::io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::spawn(async move {
        for first in [true, false] {
            let name = tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
            };
            if first {
                info!(signal = name, "ending gracefully; once more ends at once");
                shutdown.cancel();
            } else {
                warn!(signal = name, "ending at once");
                process::exit(EXIT_BY_SIGNAL);
            }
        }
    });
    Ok(())
}

//! `skysail-frontend`: config, build, serve, wait for a signal, drain.

use std::process::ExitCode;

use anyhow::Context;
use mimalloc::MiMalloc;
use skysail_frontend::app::App;
use skysail_frontend::config::Config;
use skysail_frontend::logging;
use skysail_frontend::signals;
use tokio_util::sync::CancellationToken;

/// Measured against the system's allocator on the query path; see ARCHITECTURE.md.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> anyhow::Result<()> {
    let config = Config::from_process()?;
    logging::start(&config);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(config.worker_threads.get())
        .enable_all()
        .build()
        .context("the async runtime cannot be started")?;
    runtime.block_on(async {
        // Before anything else: as process 1 of a container a signal without a handler does nothing.
        let shutdown = CancellationToken::new();
        signals::watch(shutdown.clone()).context("signals cannot be watched")?;
        let app = App::build(config).await?;
        app.run(shutdown).await;
        Ok(())
    })
}

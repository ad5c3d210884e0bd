//! `skysail-frontend`: config, build, serve, wait for a signal, drain.

use std::process::ExitCode;

use anyhow::Context;
use mimalloc::MiMalloc;
use skysail_frontend::app::App;
use skysail_frontend::config::Config;
use skysail_frontend::logging;
use skysail_process::{log, signals};
use tokio_util::sync::CancellationToken;

/// Every query allocates on one thread and frees on another, which this allocator is made for.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    let code = match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log::say(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    };
    log::finish();
    code
}

fn run() -> anyhow::Result<()> {
    let config = Config::from_process()?;
    // Before anything else: as process 1 of a container a signal without a handler does nothing.
    let shutdown = CancellationToken::new();
    let end = shutdown.clone();
    signals::watch(move || end.cancel()).context("signals cannot be watched")?;
    logging::start(&config).context("logging cannot be started")?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(config.worker_threads.get())
        .enable_all()
        .build()
        .context("the async runtime cannot be started")?;
    let served = runtime.block_on(serve(config, shutdown));
    // Not dropped, which would wait for whatever still blocks a thread (a name being looked up).
    runtime.shutdown_background();
    served
}

async fn serve(config: Config, shutdown: CancellationToken) -> anyhow::Result<()> {
    let app = tokio::select! {
        app = App::build(config) => app?,
        () = shutdown.cancelled() => return Ok(()),
    };
    Ok(app.run(shutdown).await?)
}

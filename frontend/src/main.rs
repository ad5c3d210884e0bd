//! `skysail-frontend`: config, build, serve, wait for a signal, drain.

use std::process::ExitCode;

use anyhow::Context;
use mimalloc::MiMalloc;
use skysail_frontend::app::App;
use skysail_frontend::config::Config;
use skysail_frontend::logging;
use skysail_frontend::signals;
use tokio_util::sync::CancellationToken;

/// Every query allocates on one thread and frees on another, which this allocator is made for.
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
    let served = runtime.block_on(serve(config));
    // Not dropped, which would wait for whatever still blocks a thread (a name being looked up).
    runtime.shutdown_background();
    served
}

async fn serve(config: Config) -> anyhow::Result<()> {
    // Before anything else: as process 1 of a container a signal without a handler does nothing.
    let shutdown = CancellationToken::new();
    signals::watch(shutdown.clone()).context("signals cannot be watched")?;
    let app = tokio::select! {
        app = App::build(config) => app?,
        () = shutdown.cancelled() => return Ok(()),
    };
    Ok(app.run(shutdown).await?)
}

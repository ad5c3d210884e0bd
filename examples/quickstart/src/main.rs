//! Skysail in one command: no Docker, no Redis, nothing to install.
//!
//! Starts a frontend on the embedded store and the process runtime, then does what an operator would do
//! over the admin API and what an application would do over the query API. The same executable is the
//! model container: the process runtime starts it again with `SKYSAIL_MODEL_NAME` set.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Parser;
use iris_svm::IrisSvm;
use mimalloc::MiMalloc;
use serde_json::{Value, json};
use skysail_frontend::app::{Addresses, App};
use skysail_frontend::config::{Config, StoreLocation};
use skysail_frontend::logging;
use skysail_process::outlet::Outlet;
use skysail_process::{log, signals, variables};
use skysail_proto::labels::ENV_MODEL_NAME;
use tokio_util::sync::CancellationToken;

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// Serves an iris model with three replicas and asks it three questions.
#[derive(Parser)]
#[command(version)]
struct Options {
    /// Stop after the answers; exit 0 only if all are right.
    #[arg(long)]
    exit: bool,
    /// Query REST; port 0 picks a free one.
    #[arg(long, default_value = "127.0.0.1:1337")]
    query_addr: SocketAddr,
    /// Admin REST.
    #[arg(long, default_value = "127.0.0.1:1338")]
    admin_addr: SocketAddr,
    /// Container RPC.
    #[arg(long, default_value = "127.0.0.1:7000")]
    rpc_addr: SocketAddr,
    /// Probes and metrics [default: 127.0.0.1:1341, or a free port where that is taken].
    #[arg(long)]
    ops_addr: Option<SocketAddr>,
}

/// What the model should answer.
const QUESTIONS: [([f64; 4], &str); 3] = [
    ([7.9, 4.4, 6.9, 2.5], "virginica"),
    ([5.84, 3.05, 3.76, 1.2], "versicolor"),
    ([4.3, 2.0, 1.0, 0.1], "setosa"),
];

const REPLICAS: u64 = 3;

/// How long the end waits until what was printed is read.
const LAST_WORDS: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    if variables::read(ENV_MODEL_NAME).is_some() {
        return skysail_container_rpc::serve(IrisSvm);
    }
    let code = match run(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log::say(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    };
    log::finish();
    code
}

fn run(options: &Options) -> anyhow::Result<()> {
    let shutdown = CancellationToken::new();
    let end = shutdown.clone();
    signals::watch(move || end.cancel()).context("signals cannot be watched")?;
    let out = Outlet::stdout().context("the output's thread cannot be started")?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .context("the async runtime cannot be started")?;
    let served = runtime.block_on(serve(options, &out, shutdown));
    runtime.shutdown_background();
    // Whoever does not read what it prints does not keep it from ending.
    out.flush(LAST_WORDS);
    served
}

async fn serve(options: &Options, out: &Outlet, shutdown: CancellationToken) -> anyhow::Result<()> {
    let folder = tempfile::tempdir().context("no temporary folder can be made")?;
    let config = Config {
        store: StoreLocation::Embedded(folder.path().join("metadata.redb")),
        query_addr: options.query_addr,
        admin_addr: options.admin_addr,
        rpc_addr: options.rpc_addr,
        ops_addr: options.ops_addr,
        log_level: "warn".into(),
        ..Config::default()
    };
    logging::start(&config).context("logging cannot be started")?;
    let app = App::build(config).await?;
    let tour = Tour::new(app.addresses(), out.clone())?;
    let server = tokio::spawn(app.run(shutdown.clone()));

    let answered = tokio::select! {
        answered = tour.take() => answered,
        () = shutdown.cancelled() => Err(anyhow::anyhow!("interrupted")),
    };
    if answered.is_ok() && !options.exit {
        tour.invite();
        shutdown.cancelled().await;
    }
    shutdown.cancel();
    server.await.context("the frontend ended in a panic")??;
    answered
}

/// The steps of the demonstration, each over plain HTTP.
struct Tour {
    http: reqwest::Client,
    query: String,
    admin: String,
    out: Outlet,
}

impl Tour {
    fn new(addresses: &Addresses, out: Outlet) -> anyhow::Result<Self> {
        let url = |addr: Option<SocketAddr>| {
            addr.map(|addr| format!("http://{addr}"))
                .context("a role is missing")
        };
        Ok(Self {
            http: reqwest::Client::new(),
            query: url(addresses.query)?,
            admin: format!("{}/api/v1", url(addresses.admin)?),
            out,
        })
    }

    async fn take(&self) -> anyhow::Result<()> {
        self.say(&format!(
            "A frontend answers queries at {} and its admin API at {}",
            self.query, self.admin
        ));

        self.say("Registering application `iris`: inputs are doubles, answers are due in 1 s, else -1.0");
        let application = json!({"name": "iris", "input_type": "doubles", "default_output": "-1.0", "slo_micros": 1_000_000});
        self.send(
            self.http
                .post(format!("{}/applications", self.admin))
                .json(&application),
        )
        .await?;

        self.say(&format!(
            "Deploying `iris-model:1`, a linear SVM, with {REPLICAS} replicas"
        ));
        let image = std::env::current_exe().context("this executable cannot be found")?;
        let deployment = json!({"image": image, "replicas": REPLICAS});
        let version = json!({"version": "1", "input_type": "doubles", "deployment": deployment});
        self.send(
            self.http
                .post(format!("{}/models/iris-model/versions", self.admin))
                .json(&version),
        )
        .await?;

        self.say("Linking `iris` to `iris-model`");
        self.send(
            self.http
                .put(format!("{}/applications/iris/models/iris-model", self.admin)),
        )
        .await?;
        self.wait_for_replicas().await?;
        self.ask().await
    }

    async fn wait_for_replicas(&self) -> anyhow::Result<()> {
        for _ in 0..600 {
            let version = self
                .send(
                    self.http
                        .get(format!("{}/models/iris-model/versions/1", self.admin)),
                )
                .await?;
            if version["state"] == "ready" {
                self.say(&format!("{REPLICAS} replicas are attached"));
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        bail!("the replicas did not attach within 30 s")
    }

    async fn ask(&self) -> anyhow::Result<()> {
        let mut wrong = 0;
        for (input, expected) in QUESTIONS {
            let query = json!({"input": input});
            let reply = self
                .send(
                    self.http
                        .post(format!("{}/iris/predict", self.query))
                        .json(&query),
                )
                .await?;
            let right = reply["output"] == expected && reply["default"] == false;
            self.say(&format!(
                "  {query} → {reply}{}",
                if right { "" } else { "   (wrong)" }
            ));
            wrong += u32::from(!right);
        }
        if wrong > 0 {
            bail!("{wrong} of {} answers are wrong", QUESTIONS.len());
        }
        Ok(())
    }

    fn invite(&self) {
        self.say("Ask it yourself (Ctrl-C ends it):");
        self.say(&format!(
            "  curl -s {}/iris/predict -d '{{\"input\": [7.9, 4.4, 6.9, 2.5]}}'",
            self.query
        ));
    }

    fn say(&self, text: &str) {
        self.out.write(format!("{text}\n").as_bytes());
    }

    async fn send(&self, request: reqwest::RequestBuilder) -> anyhow::Result<Value> {
        let response = request.send().await?;
        let (status, reply) = (response.status(), response.json::<Value>().await?);
        if !status.is_success() {
            bail!("{status}: {reply}");
        }
        Ok(reply)
    }
}

//! Requests per second, latency, processor time and memory in a closed loop, beside the bare echo.
//!
//! The machine is never the same twice: every program is measured between two measurements of the echo and
//! compared with their mean, in an order that changes from round to round.

use std::time::Duration;

use anyhow::{Context, ensure};
use serde::Serialize;
use serde_json::json;
use skysail_tests::cluster::{Settings, TestCluster};
use skysail_tests::deployment::Deployment;

use self::request::{Asks, IMAGE, Request};
use self::sender::{Load, Sender};
use crate::arguments::Plan;
use crate::echo::Echo;
use crate::process;
use crate::relay::{self, Relay};
use crate::spread::Spread;

mod own;
pub(crate) mod request;
pub(crate) mod sender;
mod wrk;

/// What applications promise; far more than an answer takes.
const SLO: Duration = Duration::from_secs(1);

/// What is measured.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Program {
    /// The bare echo.
    Echo,
    /// Skysail with a model that does nothing, its cache off, no two queries alike.
    Noop,
    /// The same with the cache on and all queries alike.
    NoopCached,
    /// A real model, though a small one.
    IrisSvm,
    /// A relay that sends an image's body on to a bare container as it is.
    Relay,
    /// A relay that makes floats of it first.
    ParsingRelay,
    /// Skysail with a model that takes an image and answers its mean, the cache off.
    Image,
}

/// One program at one number of connections.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    pub(crate) program: Program,
    pub(crate) connections: usize,
    pub(crate) requests_per_second: Spread,
    pub(crate) p50_micros: Spread,
    pub(crate) p99_micros: Spread,
    /// Relative to the echo before and after; none of the echo itself.
    pub(crate) requests_of_echo: Option<Spread>,
    pub(crate) p50_of_echo: Option<Spread>,
    /// Seconds of processor time for a thousand requests.
    pub(crate) server_cpu_per_1000: Spread,
    pub(crate) container_cpu_per_1000: Option<Spread>,
    pub(crate) server_peak_bytes: u64,
    /// Queries that got a default output, of all rounds.
    pub(crate) defaults: u64,
    /// Requests that got no answer.
    pub(crate) failed: u64,
}

/// Measures everything.
pub(crate) async fn measure(plan: &Plan) -> anyhow::Result<Vec<Row>> {
    let cluster = Settings::default()
        .flag("--worker-threads", &plan.worker_threads.to_string())
        .start()
        .await;
    let skysail = [Program::Noop, Program::NoopCached, Program::IrisSvm];
    let mut contestants = Vec::new();
    for program in skysail {
        contestants.push(Contestant::deploy(program, &cluster).await?);
    }
    let answer = cluster
        .query("noop", json!({ "input": [5.1, 3.5, 1.4, 0.2] }))
        .await;
    let echo = Echo::start(&answer.text, plan.worker_threads.get()).await?;
    let request = Request::to(echo.addr, "noop");
    let echo = Contestant::echo(echo, request);
    let bout = Bout {
        sender: &plan.sender,
        lasts: plan.closed_lasts,
        cluster: &cluster,
    };
    bout.all(&echo, &contestants, plan.connections, plan.closed_rounds)
        .await
}

/// Measures what an image costs: Skysail, two bare relays, and the bare echo.
pub(crate) async fn measure_images(plan: &Plan) -> anyhow::Result<Vec<Row>> {
    let cluster = Settings::default()
        .flag("--worker-threads", &plan.worker_threads.to_string())
        .start()
        .await;
    let mut contestants = vec![Contestant::deploy_image(&cluster).await?];
    for (program, parses) in [(Program::Relay, false), (Program::ParsingRelay, true)] {
        let relay = Relay::start(parses, plan.worker_threads.get()).await?;
        contestants.push(Contestant {
            program,
            request: Request::of_image(relay.addr, program.application()),
            server: relay.pid(),
            container: Some(relay.container_pid()),
            guard: Some(Guard::Relay(relay)),
        });
    }
    let echo = Echo::start(relay::ANSWER, plan.worker_threads.get()).await?;
    let request = Request::of_image(echo.addr, "echo");
    let echo = Contestant::echo(echo, request);
    let bout = Bout {
        // A script that puts large requests together would be what is measured.
        sender: &Sender::Own,
        lasts: plan.closed_lasts,
        cluster: &cluster,
    };
    bout.all(&echo, &contestants, plan.image_connections, plan.closed_rounds)
        .await
}

/// A server that is measured, and how it is asked.
struct Contestant {
    program: Program,
    request: Request,
    server: u32,
    container: Option<u32>,
    #[expect(dead_code, reason = "the programs end when this is dropped")]
    guard: Option<Guard>,
}

/// Programs that this one started.
#[expect(dead_code, reason = "they end when this is dropped")]
enum Guard {
    Echo(Echo),
    Relay(Relay),
}

impl Program {
    /// The application that stands for it.
    fn application(self) -> &'static str {
        match self {
            Self::Echo => "echo",
            Self::Noop => "noop",
            Self::NoopCached => "noop-cached",
            Self::IrisSvm => "iris-svm",
            Self::Relay => "relay",
            Self::ParsingRelay => "parsing-relay",
            Self::Image => "image",
        }
    }

    /// Whether its answers are counted by Skysail.
    fn is_skysail(self) -> bool {
        !matches!(self, Self::Echo | Self::Relay | Self::ParsingRelay)
    }

    fn asks(self) -> Asks {
        match self {
            Self::NoopCached => Asks::Same,
            Self::Echo | Self::Noop | Self::IrisSvm => Asks::Unique,
            Self::Relay | Self::ParsingRelay | Self::Image => Asks::Unique,
        }
    }
}

impl Contestant {
    fn echo(echo: Echo, request: Request) -> Self {
        Self {
            program: Program::Echo,
            request,
            server: echo.pid(),
            container: None,
            guard: Some(Guard::Echo(echo)),
        }
    }

    /// Deploys one replica that takes an image and answers its mean, and waits until it answers.
    async fn deploy_image(cluster: &TestCluster) -> anyhow::Result<Self> {
        let application = Program::Image.application();
        let signature = json!({
            "inputs": [{ "name": "image", "datatype": "FP32", "shape": IMAGE }],
            "outputs": [{ "name": "mean", "datatype": "FP32", "shape": [] }],
        });
        let registered = json!({
            "name": application, "input_type": "tensors", "signature": signature,
            "default_output": "-1.0", "slo_micros": u64::try_from(SLO.as_micros())?,
        });
        cluster
            .admin()
            .post("/api/v1/applications", registered)
            .await
            .expect(201);
        let deployment = Deployment::of("noop")
            .named(application, "1")
            .taking("tensors")
            .with("signature", signature)
            .with("cache", false);
        cluster.deploy(&deployment).await;
        cluster.link(application, application).await;
        cluster.attached(application, 1).await;
        Self::deployed(
            Program::Image,
            cluster,
            Request::of_image(cluster.addresses().query, application),
        )
        .await
    }

    /// Deploys one replica, and waits until it answers.
    async fn deploy(program: Program, cluster: &TestCluster) -> anyhow::Result<Self> {
        let application = program.application();
        let container = match program {
            Program::IrisSvm => "iris-svm",
            _ => "noop",
        };
        let is_cached = program == Program::NoopCached;
        let deployment = Deployment::of(container)
            .named(application, "1")
            .with("cache", is_cached);
        cluster.serve_within(application, &deployment, SLO).await;
        Self::deployed(
            program,
            cluster,
            Request::to(cluster.addresses().query, application),
        )
        .await
    }

    async fn deployed(program: Program, cluster: &TestCluster, request: Request) -> anyhow::Result<Self> {
        let replicas = cluster.replicas(program.application()).await;
        let pid = replicas.first().and_then(|replica| replica["pid"].as_u64());
        let pid = pid.context("the replica's process is not known")?;
        Ok(Self {
            program,
            request,
            server: cluster.pid(),
            container: Some(u32::try_from(pid)?),
            guard: None,
        })
    }
}

/// One measurement.
#[derive(Clone, Copy, Debug)]
struct Measured {
    requests_per_second: f64,
    p50_micros: f64,
    p99_micros: f64,
    server_cpu_per_1000: f64,
    container_cpu_per_1000: Option<f64>,
    server_peak_bytes: u64,
    defaults: u64,
    failed: u64,
}

/// A measurement, and the echo before and after.
struct Compared {
    measured: Measured,
    requests_of_echo: f64,
    p50_of_echo: f64,
}

impl Compared {
    fn new(measured: Measured, before: Measured, after: Measured) -> Self {
        let of = |of: fn(&Measured) -> f64| of(&measured) / f64::midpoint(of(&before), of(&after));
        Self {
            requests_of_echo: of(|measured| measured.requests_per_second),
            p50_of_echo: of(|measured| measured.p50_micros),
            measured,
        }
    }
}

/// Who measures.
struct Bout<'a> {
    sender: &'a Sender,
    lasts: Duration,
    cluster: &'a TestCluster,
}

impl Bout<'_> {
    /// All rounds at each number of connections, once everything is warm.
    async fn all(
        &self,
        echo: &Contestant,
        contestants: &[Contestant],
        connections: &[usize],
        rounds: usize,
    ) -> anyhow::Result<Vec<Row>> {
        for contestant in [echo].into_iter().chain(contestants) {
            self.run(contestant, connections[connections.len() - 1]).await?;
        }
        let mut rows = Vec::new();
        for &connections in connections {
            rows.extend(self.rounds(echo, contestants, connections, rounds).await?);
        }
        Ok(rows)
    }

    /// All rounds at one number of connections.
    async fn rounds(
        &self,
        echo: &Contestant,
        contestants: &[Contestant],
        connections: usize,
        rounds: usize,
    ) -> anyhow::Result<Vec<Row>> {
        let mut echoes = vec![self.run(echo, connections).await?];
        let mut compared: Vec<Vec<Compared>> = contestants.iter().map(|_| Vec::new()).collect();
        for round in 0..rounds {
            for turn in 0..contestants.len() {
                let index = (turn + round) % contestants.len();
                let measured = self.run(&contestants[index], connections).await?;
                let before = echoes[echoes.len() - 1];
                let after = self.run(echo, connections).await?;
                echoes.push(after);
                compared[index].push(Compared::new(measured, before, after));
            }
            eprintln!(
                "closed loop, connections {connections}: round {} of {rounds}",
                round + 1
            );
        }
        let mut rows = vec![row(Program::Echo, connections, &echoes)?];
        for (contestant, compared) in contestants.iter().zip(&compared) {
            let measured: Vec<_> = compared.iter().map(|compared| compared.measured).collect();
            rows.push(Row {
                requests_of_echo: Spread::of(compared.iter().map(|compared| compared.requests_of_echo)),
                p50_of_echo: Spread::of(compared.iter().map(|compared| compared.p50_of_echo)),
                ..row(contestant.program, connections, &measured)?
            });
        }
        Ok(rows)
    }

    async fn run(&self, contestant: &Contestant, connections: usize) -> anyhow::Result<Measured> {
        let load = Load {
            request: contestant.request.clone(),
            asks: contestant.program.asks(),
            connections,
            threads: sender_threads(connections),
            lasts: self.lasts,
        };
        process::forget_peak(contestant.server);
        let before = Used::so_far(contestant, self.cluster).await?;
        let answers = self.sender.send(load).await?;
        let used = Used::so_far(contestant, self.cluster).await?;
        ensure!(answers.seconds > 0.0, "the sender took no time");
        let per_1000 = |seconds: f64| seconds * 1000.0 / answers.count as f64;
        Ok(Measured {
            requests_per_second: answers.count as f64 / answers.seconds,
            p50_micros: answers.p50_micros,
            p99_micros: answers.p99_micros,
            server_cpu_per_1000: per_1000(used.server - before.server),
            container_cpu_per_1000: used
                .container
                .zip(before.container)
                .map(|(used, before)| per_1000(used - before)),
            server_peak_bytes: process::memory(contestant.server)?.peak,
            defaults: used.defaults - before.defaults,
            failed: answers.failed,
        })
    }
}

/// What a contestant has used and done so far.
struct Used {
    /// Processor time, in seconds.
    server: f64,
    container: Option<f64>,
    defaults: u64,
}

impl Used {
    async fn so_far(contestant: &Contestant, cluster: &TestCluster) -> anyhow::Result<Self> {
        let defaults = match contestant.program {
            program if program.is_skysail() => defaults(cluster, program.application()).await,
            _ => 0,
        };
        Ok(Self {
            server: process::cpu_seconds(contestant.server)?,
            container: contestant.container.map(process::cpu_seconds).transpose()?,
            defaults,
        })
    }
}

/// How many queries of an application got its default output, for whatever reason.
async fn defaults(cluster: &TestCluster, application: &str) -> u64 {
    let begin = format!(r#"skysail_defaults_total{{application="{application}","#);
    let text = cluster.admin().get("/metrics").await.text;
    let samples = text.lines().filter(|line| line.starts_with(&begin));
    samples
        .filter_map(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok())
        .sum()
}

/// The servers have half of the cores, and so does who asks them.
fn sender_threads(connections: usize) -> usize {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    (cores / 2).clamp(1, connections)
}

fn row(program: Program, connections: usize, measured: &[Measured]) -> anyhow::Result<Row> {
    let spread =
        |of: fn(&Measured) -> f64| Spread::of(measured.iter().map(of)).context("nothing was measured");
    Ok(Row {
        program,
        connections,
        requests_per_second: spread(|measured| measured.requests_per_second)?,
        p50_micros: spread(|measured| measured.p50_micros)?,
        p99_micros: spread(|measured| measured.p99_micros)?,
        requests_of_echo: None,
        p50_of_echo: None,
        server_cpu_per_1000: spread(|measured| measured.server_cpu_per_1000)?,
        container_cpu_per_1000: Spread::of(
            measured
                .iter()
                .filter_map(|measured| measured.container_cpu_per_1000),
        ),
        server_peak_bytes: measured
            .iter()
            .map(|measured| measured.server_peak_bytes)
            .max()
            .unwrap_or(0),
        defaults: measured.iter().map(|measured| measured.defaults).sum(),
        failed: measured.iter().map(|measured| measured.failed).sum(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(requests_per_second: f64, p50_micros: f64) -> Measured {
        Measured {
            requests_per_second,
            p50_micros,
            p99_micros: 2.0 * p50_micros,
            server_cpu_per_1000: 0.01,
            container_cpu_per_1000: None,
            server_peak_bytes: 10,
            defaults: 1,
            failed: 2,
        }
    }

    #[test]
    fn a_program_is_compared_with_the_mean_of_the_echo_before_and_after() {
        let compared = Compared::new(measured(60.0, 30.0), measured(90.0, 10.0), measured(110.0, 20.0));
        assert_eq!(compared.requests_of_echo, 0.6);
        assert_eq!(compared.p50_of_echo, 2.0);
    }

    #[test]
    fn a_row_has_the_spread_of_figures_and_the_sum_of_what_should_not_be() {
        let row = row(Program::Noop, 64, &[measured(60.0, 30.0), measured(80.0, 20.0)]).unwrap();
        assert_eq!(row.requests_per_second.median, 70.0);
        assert_eq!((row.p50_micros.min, row.p50_micros.max), (20.0, 30.0));
        assert_eq!((row.defaults, row.failed), (2, 4));
        assert!(row.container_cpu_per_1000.is_none());
    }

    #[test]
    fn nothing_measured_is_an_error_and_not_a_figure() {
        assert!(row(Program::Echo, 1, &[]).is_err());
    }
}

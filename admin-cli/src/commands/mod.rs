//! The commands, one file per noun: its arguments, what it asks of the server, how it shows the answer.

use clap::Subcommand;
use jiff::Timestamp;
use reqwest::Url;

use crate::arguments::{Arguments, GeneralArguments};
use crate::client::AdminClient;
use crate::credentials;
use crate::error::Error;
use crate::output::Output;

pub(crate) mod app;
mod bench;
pub(crate) mod cluster;
mod completions;
pub(crate) mod model;
mod predict;
mod query_url;
mod replica;
mod settle;
mod status;

/// What can be asked of `skysail`.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Bring up a cluster in Docker: network, Redis and one frontend or several
    Start(cluster::StartArguments),
    /// Remove every container, network and volume of a cluster, and nothing else
    Stop(cluster::StopArguments),
    /// The cluster as a whole: what to do when its metadata store lost something
    #[command(subcommand)]
    Cluster(settle::ClusterCommand),
    /// Show the cluster at a glance, and what is not well
    Status(status::StatusArguments),
    /// Applications: what is asked, and how soon it must be answered
    #[command(subcommand)]
    App(app::AppCommand),
    /// Models: their versions, and the containers that answer
    #[command(subcommand)]
    Model(model::ModelCommand),
    /// Replicas: containers that are attached, and how they do
    #[command(subcommand)]
    Replica(replica::ReplicaCommand),
    /// Ask an application for a prediction
    Predict(predict::PredictArguments),
    /// Offer an application a load, and see how much of it is answered in time
    Bench(bench::BenchArguments),
    /// Print completions for a shell
    Completions(completions::CompletionsArguments),
}

impl Command {
    /// Whether the admin API that is named is asked: a cluster that is only started, stopped or not there has a
    /// token of its own or none.
    fn asks_admin(&self) -> bool {
        !matches!(self, Self::Start(_) | Self::Stop(_) | Self::Completions(_))
    }
}

/// What every command works with.
pub(crate) struct Session {
    pub(crate) admin: AdminClient,
    pub(crate) query_url: Option<Url>,
    pub(crate) output: Output,
    /// One reading for all ages that are shown.
    pub(crate) now: Timestamp,
}

impl Session {
    fn new(general: GeneralArguments, command: &Command) -> Result<Self, Error> {
        let mut admin = AdminClient::new(general.admin_url);
        if command.asks_admin() {
            let token = credentials::find(general.admin_token_file.as_deref(), admin.url())?;
            admin = admin.with_token(token);
        }
        Ok(Self {
            admin,
            query_url: general.query_url,
            output: Output::new(general.output),
            now: Timestamp::now(),
        })
    }
}

/// Runs one command.
pub(crate) async fn run(arguments: Arguments) -> Result<(), Error> {
    let session = Session::new(arguments.general, &arguments.command)?;
    match arguments.command {
        Command::Start(arguments) => cluster::start(&session, arguments).await,
        Command::Stop(arguments) => cluster::stop(&session, arguments).await,
        Command::Cluster(command) => settle::run(&session, command).await,
        Command::Status(arguments) => status::run(&session, &arguments).await,
        Command::App(command) => app::run(&session, command).await,
        Command::Model(command) => model::run(&session, command).await,
        Command::Replica(command) => replica::run(&session, command).await,
        Command::Predict(arguments) => predict::run(&session, arguments).await,
        Command::Bench(arguments) => bench::run(&session, &arguments).await,
        Command::Completions(arguments) => completions::run(session.output, &arguments),
    }
}

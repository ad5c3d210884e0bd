//! `skysail model`: models, their versions, and how many replicas of each there are to be.

use std::time::Duration;

use clap::{Args, Subcommand};
use skysail_proto::admin::{Model, Replica, Version};
use skysail_proto::deployment::Replicas;
use skysail_proto::ids::ModelId;

use super::Session;
use crate::advice::about_model;
use crate::arguments::{ModelTarget, parse_duration};
use crate::error::Error;

mod deploy;
mod logs;
mod show;
mod wait;

pub(super) use show::{replicas_share, state_word};

const SHOW_EXAMPLES: &str = "\
Examples:
  skysail model show iris-model
  skysail model show iris-model:2
  # for a container that is started by hand
  export SKYSAIL_TOKEN=$(skysail model show iris-model:2 --token)";

const SET_VERSION_EXAMPLES: &str = "\
Examples:
  skysail model set-version iris-model:2     # forward
  skysail model set-version iris-model:1     # and back

The old version answers until the new one is ready: until as many of its replicas are attached as are \
wanted, or as the old one has. A version that is stopped has to be started with `skysail model scale`.";

const SCALE_EXAMPLES: &str = "\
Examples:
  skysail model scale iris-model 5           # the current version
  skysail model scale iris-model:1 2 --wait
  skysail model scale iris-model auto:1..8   # as many as the load needs

A replica that is one too many answers what it holds, and then ends: no query is lost.";

const STOP_EXAMPLES: &str = "\
Examples:
  skysail model stop iris-model:1            # one version
  skysail model stop iris-model              # all of them

What is stopped stays registered: `skysail model scale` starts it again.";

#[derive(Debug, Subcommand)]
pub(crate) enum ModelCommand {
    /// Deploy a version: Skysail runs its containers
    Deploy(Box<deploy::DeployArguments>),
    /// Register a version whose containers attach by themselves
    Register(deploy::RegisterArguments),
    /// List models and their versions
    #[command(visible_alias = "ls")]
    List,
    /// Show a model, or one version of it: what was asked for, what is, and what went wrong
    #[command(after_help = SHOW_EXAMPLES)]
    Show {
        /// The model, or one version of it
        #[arg(value_name = "NAME[:VERSION]")]
        target: ModelTarget,
        /// Print what containers started by hand are given as SKYSAIL_TOKEN, and nothing else: the token of the
        /// version, or of the current one; nothing where the version is open
        #[arg(long)]
        token: bool,
    },
    /// Choose the version that answers
    #[command(after_help = SET_VERSION_EXAMPLES)]
    SetVersion {
        /// Any registered version
        #[arg(value_name = "NAME:VERSION")]
        id: ModelId,
        #[command(flatten)]
        waiting: wait::Waiting,
    },
    /// Choose how many replicas a version has
    Scale(ScaleArguments),
    /// Stop a version's replicas, or those of all versions
    #[command(after_help = STOP_EXAMPLES)]
    Stop {
        /// The model, or one version of it
        #[arg(value_name = "NAME[:VERSION]")]
        target: ModelTarget,
    },
    /// Delete a version
    #[command(visible_alias = "rm")]
    Delete {
        /// The version
        #[arg(value_name = "NAME:VERSION")]
        id: ModelId,
    },
    /// Show what a version's containers print
    Logs(logs::LogsArguments),
}

#[derive(Args, Debug)]
#[command(after_help = SCALE_EXAMPLES)]
pub(crate) struct ScaleArguments {
    /// The version; without one, the current
    #[arg(value_name = "NAME[:VERSION]")]
    target: ModelTarget,
    /// Replicas wanted: a number, of which 0 stops the version, or bounds within which it follows the load
    #[arg(value_name = "N|auto:MIN..MAX")]
    replicas: Replicas,
    /// Wait until it is so
    #[arg(long)]
    wait: bool,
    /// How long to wait at most
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = parse_duration)]
    wait_timeout: Duration,
}

pub(super) async fn run(session: &Session, command: ModelCommand) -> Result<(), Error> {
    match command {
        ModelCommand::Deploy(arguments) => deploy::deploy(session, *arguments).await,
        ModelCommand::Register(arguments) => deploy::register(session, arguments).await,
        ModelCommand::List => list(session).await,
        ModelCommand::Show { target, token: true } => show_token(session, &target).await,
        ModelCommand::Show { target, token: false } => show(session, &target).await,
        ModelCommand::SetVersion { id, waiting } => set_version(session, &id, &waiting).await,
        ModelCommand::Scale(arguments) => scale(session, &arguments).await,
        ModelCommand::Stop { target } => stop(session, &target).await,
        ModelCommand::Delete { id } => delete(session, &id).await,
        ModelCommand::Logs(arguments) => logs::run(session, &arguments).await,
    }
}

async fn list(session: &Session) -> Result<(), Error> {
    let models = session.admin.models().await?;
    session
        .output
        .answer(&models, |models| show::model_table(models, session.now))
}

async fn show(session: &Session, target: &ModelTarget) -> Result<(), Error> {
    let admin = &session.admin;
    if let Some(version) = &target.version {
        let id = ModelId::new(target.name.clone(), version.clone());
        let version = about_model(admin, target, admin.version(&id).await).await?;
        let replicas = attached(session).await;
        return session.output.answer(&version, |version| {
            show::version_page(version, &replicas, session.now)
        });
    }
    let model = about_model(admin, target, admin.model(&target.name).await).await?;
    let replicas = attached(session).await;
    session
        .output
        .answer(&model, |model| show::model_page(model, &replicas, session.now))
}

async fn show_token(session: &Session, target: &ModelTarget) -> Result<(), Error> {
    let id = chosen(session, target).await?;
    let result = session.admin.join_token(&id).await;
    let token = about_model(&session.admin, target, result).await?;
    session.output.answer(&token, |token| token.token.clone())
}

/// The attached replicas, for a page that says more of them; none where JSON is asked for, and none if they
/// cannot be had: the page is worth something without them.
async fn attached(session: &Session) -> Vec<Replica> {
    if session.output.is_json() {
        return Vec::new();
    }
    let replicas = session.admin.replicas().await.ok();
    replicas
        .and_then(|replicas| replicas.read().ok())
        .unwrap_or_default()
}

async fn set_version(session: &Session, id: &ModelId, waiting: &wait::Waiting) -> Result<(), Error> {
    let version = about_model(&session.admin, &target_of(id), session.admin.version(id).await).await?;
    let before = wait::Before::of(&version.read()?);
    let result = session.admin.set_current_version(id).await;
    let mut model = about_model(&session.admin, &target_of(id), result).await?;
    if waiting.waits() {
        let mut wait = wait::Wait::at_most(waiting.wait_timeout);
        model = wait.until_answers(session, id, &before).await?;
    }
    session.output.answer(&model, show::turned_line)
}

async fn scale(session: &Session, arguments: &ScaleArguments) -> Result<(), Error> {
    let id = chosen(session, &arguments.target).await?;
    let result = session.admin.scale(&id, arguments.replicas).await;
    let mut version = about_model(&session.admin, &target_of(&id), result).await?;
    if arguments.wait {
        let before = wait::Before::of(&version.read()?);
        let mut wait = wait::Wait::at_most(arguments.wait_timeout);
        version = wait.until_ready(session, &id, &before).await?;
    }
    session.output.answer(&version, show::replicas_line)
}

async fn stop(session: &Session, target: &ModelTarget) -> Result<(), Error> {
    let admin = &session.admin;
    if let Some(version) = &target.version {
        let id = ModelId::new(target.name.clone(), version.clone());
        let version = about_model(admin, target, admin.scale(&id, Replicas::Fixed(0)).await).await?;
        return session.output.answer(&version, |_| format!("stopped {id}"));
    }
    let model: Model = about_model(admin, target, admin.model(&target.name).await)
        .await?
        .read()?;
    let ids: Vec<_> = model
        .versions
        .iter()
        .filter(|version| runs(version))
        .map(id_of)
        .collect();
    for id in &ids {
        about_model(admin, &target_of(id), admin.scale(id, Replicas::Fixed(0)).await).await?;
        session.output.done(&format!("stopped {id}"))?;
    }
    if session.output.is_json() {
        return session
            .output
            .answer(&admin.model(&target.name).await?, |_| String::new());
    }
    if ids.is_empty() {
        session.output.done(&format!(
            "model {} has nothing running that Skysail started",
            target.name
        ))?;
    }
    Ok(())
}

async fn delete(session: &Session, id: &ModelId) -> Result<(), Error> {
    let result = session.admin.delete_version(id).await;
    about_model(&session.admin, &target_of(id), result).await?;
    session.output.done(&format!("deleted {id}"))
}

/// The version that is meant: the one named, or else the current one.
async fn chosen(session: &Session, target: &ModelTarget) -> Result<ModelId, Error> {
    if let Some(version) = &target.version {
        return Ok(ModelId::new(target.name.clone(), version.clone()));
    }
    let result = session.admin.model(&target.name).await;
    let model = about_model(&session.admin, target, result).await?.read()?;
    Ok(ModelId::new(model.name, model.current_version))
}

/// Whether Skysail runs containers for it, or is to.
fn runs(version: &Version) -> bool {
    version.replicas_desired.is_some_and(|desired| desired > 0)
}

fn id_of(version: &Version) -> ModelId {
    ModelId::new(version.model.clone(), version.version.clone())
}

fn target_of(id: &ModelId) -> ModelTarget {
    ModelTarget {
        name: id.name.clone(),
        version: Some(id.version.clone()),
    }
}

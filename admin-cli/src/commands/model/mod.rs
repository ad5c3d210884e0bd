//! `skysail model`: models, their versions, and how many replicas of each there are to be.

use std::time::Duration;

use clap::{Args, Subcommand};
use skysail_proto::admin::{Model, Version};
use skysail_proto::ids::ModelId;

use super::Session;
use crate::advice::about_model;
use crate::arguments::{ModelTarget, parse_duration};
use crate::error::Error;

mod deploy;
mod logs;
mod show;
mod wait;

const SET_VERSION_EXAMPLES: &str = "\
Examples:
  skysail model set-version iris-model:2     # forward
  skysail model set-version iris-model:1     # and back

The old version answers until a replica of the new one is ready.";

const SCALE_EXAMPLES: &str = "\
Examples:
  skysail model scale iris-model 5           # the current version
  skysail model scale iris-model:1 2 --wait";

const STOP_EXAMPLES: &str = "\
Examples:
  skysail model stop iris-model:1            # one version
  skysail model stop iris-model              # all of them

What is stopped stays registered: `skysail model scale` starts it again.";

#[derive(Debug, Subcommand)]
pub(crate) enum ModelCommand {
    /// Deploy a version: Skysail runs its containers
    Deploy(deploy::DeployArguments),
    /// Register a version whose containers attach by themselves
    Register(deploy::RegisterArguments),
    /// List models and their versions
    #[command(visible_alias = "ls")]
    List,
    /// Show a model, or one version of it: what was asked for, what is, and what went wrong
    Show {
        /// The model, or one version of it
        #[arg(value_name = "NAME[:VERSION]")]
        target: ModelTarget,
    },
    /// Choose the version that answers
    #[command(after_help = SET_VERSION_EXAMPLES)]
    SetVersion {
        /// Any registered version
        #[arg(value_name = "NAME:VERSION")]
        id: ModelId,
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
    /// Replicas wanted; 0 stops the version
    #[arg(value_name = "N")]
    count: u32,
    /// Wait until it is so
    #[arg(long)]
    wait: bool,
    /// How long to wait at most
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = parse_duration)]
    wait_timeout: Duration,
}

pub(super) async fn run(session: &Session, command: ModelCommand) -> Result<(), Error> {
    match command {
        ModelCommand::Deploy(arguments) => deploy::deploy(session, arguments).await,
        ModelCommand::Register(arguments) => deploy::register(session, arguments).await,
        ModelCommand::List => list(session).await,
        ModelCommand::Show { target } => show(session, &target).await,
        ModelCommand::SetVersion { id } => set_version(session, &id).await,
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
        return session
            .output
            .answer(&version, |version| show::version_page(version, session.now));
    }
    let model = about_model(admin, target, admin.model(&target.name).await).await?;
    session
        .output
        .answer(&model, |model| show::model_page(model, session.now))
}

async fn set_version(session: &Session, id: &ModelId) -> Result<(), Error> {
    let result = session.admin.set_current_version(id).await;
    let model = about_model(&session.admin, &target_of(id), result).await?;
    session.output.answer(&model, |model| {
        format!(
            "model {} answers with version {}",
            model.name, model.current_version
        )
    })
}

async fn scale(session: &Session, arguments: &ScaleArguments) -> Result<(), Error> {
    let id = chosen(session, &arguments.target).await?;
    let result = session.admin.scale(&id, arguments.count).await;
    let mut version = about_model(&session.admin, &target_of(&id), result).await?;
    if arguments.wait {
        let before = wait::Before::of(&version.read()?);
        version = wait::until_settled(session, &id, &before, arguments.wait_timeout).await?;
    }
    session.output.answer(&version, show::replicas_line)
}

async fn stop(session: &Session, target: &ModelTarget) -> Result<(), Error> {
    let admin = &session.admin;
    if let Some(version) = &target.version {
        let id = ModelId::new(target.name.clone(), version.clone());
        let version = about_model(admin, target, admin.scale(&id, 0).await).await?;
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
        about_model(admin, &target_of(id), admin.scale(id, 0).await).await?;
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

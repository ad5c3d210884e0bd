//! `skysail app`: applications, and the models they are linked to.

use clap::{ArgGroup, Args, Subcommand};
use jiff::Timestamp;
use skysail_proto::admin::{Application, ApplicationPatch, NewApplication};
use skysail_proto::ids::{ApplicationName, ModelName};

use super::Session;
use crate::advice::{about_application, about_link, listed};
use crate::arguments::{SloMicros, parse_slo};
use crate::error::Error;
use crate::output::{age, fields, micros, shortened, table};
use crate::signature::{ApplicationSignature, signature_fields};

const REGISTER_EXAMPLES: &str = "\
Examples:
  skysail app register iris --input-type doubles --default-output=-1.0 \\
      --slo 100ms
  skysail app register captions --input-type bytes \\
      --default-output 'no caption' --slo 2s
  skysail app register photos --in 'image:FP32[224,224,3]' \\
      --out 'probabilities:FP32[1000]' --default-output null --slo 200ms
  skysail app register digits --like digits-model --default-output=-1 --slo 1s

The default output is what is answered when no model can answer in time. It is given as JSON if it \
is JSON (-1.0 becomes a number), otherwise as a string.";

const UPDATE_EXAMPLES: &str = "\
Examples:
  skysail app update iris --slo 50ms
  skysail app update iris --default-output unknown
  skysail app update iris --weight 3

Applications of one model share its capacity when there is not enough for all: each is answered up to its share, by \
their weights, and what one does not use is for the others.";

const LINK_EXAMPLES: &str = "\
Examples:
  skysail app link iris iris-model

The model's current version answers. It must take what the application sends, and give what it expects: the same input \
type, or the same tensors.";

#[derive(Debug, Subcommand)]
pub(crate) enum AppCommand {
    /// Register an application: from then on it answers, first with its default output
    Register(RegisterArguments),
    /// Change an application's latency objective, default output or weight
    Update(UpdateArguments),
    /// List applications
    #[command(visible_alias = "ls")]
    List,
    /// Show an application
    Show {
        /// The application's name
        name: ApplicationName,
    },
    /// Delete an application: its endpoint stops at once
    #[command(visible_alias = "rm")]
    Delete {
        /// The application's name
        name: ApplicationName,
    },
    /// Link an application to the model that answers it
    #[command(after_help = LINK_EXAMPLES)]
    Link(LinkArguments),
    /// Undo a link
    Unlink(LinkArguments),
}

#[derive(Args, Debug)]
#[command(after_help = REGISTER_EXAMPLES)]
pub(crate) struct RegisterArguments {
    /// Its name, and the first segment of its endpoint's path
    name: ApplicationName,
    #[command(flatten)]
    signature: ApplicationSignature,
    /// What is answered when no model can
    #[arg(long, value_name = "OUTPUT", allow_hyphen_values = true)]
    pub(crate) default_output: String,
    /// Its latency objective: every query is answered within it, as in 100ms or 1s
    #[arg(long, value_name = "DURATION", value_parser = parse_slo, allow_hyphen_values = true)]
    pub(crate) slo: SloMicros,
    /// Its share of its model's capacity beside other applications', 1 to 1000 [default: 1]
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    weight: Option<i64>,
}

#[derive(Args, Debug)]
#[command(after_help = UPDATE_EXAMPLES)]
#[command(group = ArgGroup::new("change").required(true).multiple(true).args(["slo", "default_output", "weight"]))]
pub(crate) struct UpdateArguments {
    /// The application's name
    name: ApplicationName,
    /// A new latency objective, as in 100ms or 1s
    #[arg(long, value_name = "DURATION", value_parser = parse_slo, allow_hyphen_values = true)]
    slo: Option<SloMicros>,
    /// A new default output
    #[arg(long, value_name = "OUTPUT", allow_hyphen_values = true)]
    default_output: Option<String>,
    /// A new share of its model's capacity beside other applications', 1 to 1000
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    weight: Option<i64>,
}

#[derive(Args, Debug)]
pub(crate) struct LinkArguments {
    /// The application's name
    name: ApplicationName,
    /// The model's name
    model: ModelName,
}

pub(super) async fn run(session: &Session, command: AppCommand) -> Result<(), Error> {
    match command {
        AppCommand::Register(arguments) => register(session, arguments).await,
        AppCommand::Update(arguments) => update(session, arguments).await,
        AppCommand::List => list(session).await,
        AppCommand::Show { name } => show(session, &name).await,
        AppCommand::Delete { name } => delete(session, &name).await,
        AppCommand::Link(arguments) => link(session, &arguments).await,
        AppCommand::Unlink(arguments) => unlink(session, &arguments).await,
    }
}

async fn register(session: &Session, arguments: RegisterArguments) -> Result<(), Error> {
    let new = NewApplication {
        name: arguments.name,
        signature: arguments.signature.0,
        default_output: arguments.default_output,
        slo_micros: arguments.slo.0,
        weight: arguments.weight,
    };
    let application = session.admin.register_application(&new).await?;
    session.output.answer(&application, |application| {
        format!("registered application {}", summary(application))
    })
}

async fn update(session: &Session, arguments: UpdateArguments) -> Result<(), Error> {
    let UpdateArguments {
        name,
        slo,
        default_output,
        weight,
    } = arguments;
    let patch = ApplicationPatch {
        default_output,
        slo_micros: slo.map(|slo| slo.0),
        weight,
    };
    let result = session.admin.update_application(&name, &patch).await;
    let application = about_application(&session.admin, &name, result).await?;
    session.output.answer(&application, |application| {
        format!("updated application {}", summary(application))
    })
}

async fn list(session: &Session) -> Result<(), Error> {
    let applications = session.admin.applications().await?;
    session.output.answer(&applications, |applications| {
        application_table(applications, session.now)
    })
}

async fn show(session: &Session, name: &ApplicationName) -> Result<(), Error> {
    let result = session.admin.application(name).await;
    let application = about_application(&session.admin, name, result).await?;
    session.output.answer(&application, |application| {
        application_fields(application, session.now)
    })
}

async fn delete(session: &Session, name: &ApplicationName) -> Result<(), Error> {
    let result = session.admin.delete_application(name).await;
    about_application(&session.admin, name, result).await?;
    session.output.done(&format!("deleted application {name}"))
}

async fn link(session: &Session, arguments: &LinkArguments) -> Result<(), Error> {
    let LinkArguments { name, model } = arguments;
    let result = session.admin.link(name, model).await;
    let application = about_link(&session.admin, name, model, result).await?;
    session.output.answer(&application, |_| {
        format!("linked application {name} to model {model}")
    })
}

async fn unlink(session: &Session, arguments: &LinkArguments) -> Result<(), Error> {
    let LinkArguments { name, model } = arguments;
    let result = session.admin.unlink(name, model).await;
    let application = about_link(&session.admin, name, model, result).await?;
    session.output.answer(&application, |_| {
        format!("unlinked application {name} from model {model}")
    })
}

fn summary(application: &Application) -> String {
    format!(
        "{} ({}, answers within {}, default output {})",
        application.name,
        application.signature,
        micros(application.slo_micros),
        shortened(&application.default_output),
    )
}

fn application_table(applications: &[Application], now: Timestamp) -> String {
    if applications.is_empty() {
        return "no application is registered; `skysail app register` makes one".into();
    }
    let row = |application: &Application| {
        [
            application.name.to_string(),
            shortened(&application.signature.to_string()),
            micros(application.slo_micros),
            shortened(&application.default_output),
            listed(&application.linked_models),
            age(application.registered_at, now),
        ]
    };
    table(
        ["NAME", "SIGNATURE", "SLO", "DEFAULT OUTPUT", "MODELS", "AGE"],
        applications.iter().map(row),
    )
}

fn application_fields(application: &Application, now: Timestamp) -> String {
    let models = if application.linked_models.is_empty() {
        format!("none; `skysail app link {} MODEL` links one", application.name)
    } else {
        listed(&application.linked_models)
    };
    let mut pairs = vec![("Name", application.name.to_string())];
    pairs.extend(signature_fields(&application.signature));
    pairs.extend([
        ("SLO", micros(application.slo_micros)),
        ("Default output", application.default_output.clone()),
        ("Weight", application.weight.to_string()),
        ("Linked models", models),
        ("Endpoint", format!("POST /{}/predict", application.name)),
        (
            "Registered",
            format!(
                "{} ({} ago)",
                application.registered_at,
                age(application.registered_at, now)
            ),
        ),
    ]);
    fields(pairs)
}

#[cfg(test)]
mod tests {
    use skysail_proto::admin::default_weight;
    use skysail_proto::value::InputType;

    use super::*;

    fn application(models: &[&str]) -> Application {
        Application {
            name: "iris".parse().unwrap(),
            signature: InputType::Doubles.into(),
            default_output: "-1.0".into(),
            slo_micros: 100_000,
            weight: default_weight(),
            linked_models: models.iter().map(|model| model.parse().unwrap()).collect(),
            registered_at: "2026-01-01T00:00:00Z".parse().unwrap(),
        }
    }

    fn now() -> Timestamp {
        "2026-01-01T00:05:00Z".parse().unwrap()
    }

    #[test]
    fn applications_are_listed_one_a_line() {
        let shown = application_table(&[application(&["iris-model"]), application(&[])], now());
        let expected = "\
NAME   SIGNATURE   SLO     DEFAULT OUTPUT   MODELS       AGE
iris   doubles     100ms   -1.0             iris-model   5m
iris   doubles     100ms   -1.0             -            5m";
        assert_eq!(shown, expected);
    }

    #[test]
    fn an_application_that_no_model_answers_says_how_to_link_one() {
        let shown = application_fields(&application(&[]), now());
        assert!(shown.contains("`skysail app link iris MODEL`"), "{shown}");
        let shown = application_fields(&application(&["iris-model"]), now());
        assert!(shown.contains("Linked models:    iris-model"), "{shown}");
    }

    #[test]
    fn no_application_is_said_in_words() {
        assert!(application_table(&[], now()).contains("skysail app register"));
    }
}

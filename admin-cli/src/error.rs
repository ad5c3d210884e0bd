//! What can go wrong, and how it is told: once, on stderr, with advice where it can be guessed.

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use skysail_proto::admin::Failure;
use skysail_proto::ids::{ApplicationName, ModelId, ModelName, ModelVersion};
use skysail_proto::signature::{Signature, TensorSpec};
use skysail_proto::value::InputType;

use crate::advice::{closest, listed};
use crate::bench::BenchError;
use crate::client::ClientError;
use crate::cluster::ClusterError;
use crate::credentials::CredentialsError;
use crate::numpy::NumpyError;
use crate::output::{Paint, Stream, failure_words, tell};

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The process cannot even start to work.
    #[error("cannot start: {0}")]
    Runtime(#[source] io::Error),
    /// An API refuses or is not there.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// Docker refuses or is not there.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// The admin API's token cannot be had or kept.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    /// A load cannot be offered, or came to nothing.
    #[error(transparent)]
    Bench(#[from] BenchError),
    /// Stdout cannot be written.
    #[error("cannot write the result: {0}")]
    Output(#[source] io::Error),
    /// An application is named that does not exist.
    #[error("application `{name}` does not exist")]
    UnknownApplication {
        name: ApplicationName,
        known: Vec<ApplicationName>,
    },
    /// A model is named that does not exist.
    #[error("model `{name}` does not exist")]
    UnknownModel { name: ModelName, known: Vec<ModelName> },
    /// A version is named that its model does not have.
    #[error("model `{}` has no version `{}`; versions: {}", id.name, id.version, listed(known))]
    UnknownVersion { id: ModelId, known: Vec<ModelVersion> },
    /// A version's containers fail, so that waiting for it is in vain.
    #[error("{id} fails: {}", failure_words(failure))]
    DeploymentFails { id: ModelId, failure: Box<Failure> },
    /// A version's containers fail again and again without saying why.
    #[error("{id} fails: its containers were replaced {restarts} times and do not stay")]
    DeploymentUnstable { id: ModelId, restarts: u64 },
    /// A version did not become ready in time.
    #[error("{id} is not ready after {}: {state}", humantime::format_duration(*waited))]
    NotReady {
        id: ModelId,
        waited: Duration,
        state: String,
    },
    /// An input is given as JSON and is none.
    #[error("the input is not valid JSON: {reason}")]
    InputNotJson {
        signature: Signature,
        reason: serde_json::Error,
    },
    /// A text input is given that is no text.
    #[error("the input is not valid UTF-8, but application `{0}` takes strings")]
    InputNotText(ApplicationName),
    /// A NumPy file is not what the application takes.
    #[error("the NumPy file cannot be asked: {0}")]
    Numpy(#[from] NumpyError),
    /// A file cannot be read.
    #[error("cannot read {}: {reason}", path.display())]
    File { path: PathBuf, reason: io::Error },
    /// The frontend that was asked starts no containers.
    #[error("the frontend starts no containers (--runtime {0}), so it can serve no ONNX file")]
    NoOnnxRuntime(String),
    /// Nothing tells where queries go.
    #[error("the admin API names no frontend that takes queries")]
    NoQueryAddress,
}

impl Error {
    /// Says it on stderr and chooses the exit code.
    pub(crate) fn report(&self) -> ExitCode {
        // A reader that has seen enough (`| head`) is not a failure of ours.
        if let Self::Output(reason) = self
            && reason.kind() == io::ErrorKind::BrokenPipe
        {
            return ExitCode::SUCCESS;
        }
        let paint = Paint::on(Stream::Stderr);
        tell(&paint.error("error:"), &self.to_string());
        for line in self.details() {
            tell(" ", &line);
        }
        if let Some(hint) = self.hint() {
            tell(&paint.hint("hint:"), &hint);
        }
        ExitCode::FAILURE
    }

    /// What was seen, line by line.
    fn details(&self) -> Vec<String> {
        let log = match self {
            Self::DeploymentFails { failure, .. } => &failure.log[..],
            Self::Cluster(error) => error.log(),
            _ => &[],
        };
        log.iter().map(|line| format!("| {line}")).collect()
    }

    /// What to do about it, where that can be guessed.
    fn hint(&self) -> Option<String> {
        match self {
            Self::Client(error) => error.hint(),
            Self::Credentials(error) => error.hint(),
            Self::Cluster(error) => error.hint(),
            Self::UnknownApplication { name, known } => Some(alternatives(
                name.as_str(),
                known.iter().map(ApplicationName::as_str),
                "applications",
                "there is none yet: `skysail app register` makes one",
            )),
            Self::UnknownModel { name, known } => Some(alternatives(
                name.as_str(),
                known.iter().map(ModelName::as_str),
                "models",
                "there is none yet: `skysail model deploy` brings one",
            )),
            Self::DeploymentFails { id, failure } if failure.permanent => Some(format!(
                "trying again as it is cannot help: `skysail model delete {id}`, then deploy what exists"
            )),
            Self::DeploymentFails { id, .. } | Self::DeploymentUnstable { id, .. } => Some(format!(
                "it is tried again with growing pauses: `skysail model show {id}` tells how it goes, \
                 `skysail model delete {id}` ends it"
            )),
            Self::NotReady { id, .. } => Some(format!(
                "the deployment goes on: `skysail model show {id}` tells how, --wait-timeout waits longer"
            )),
            Self::InputNotJson { signature, .. } => Some(json_advice(signature)),
            Self::NoOnnxRuntime(_) => Some(
                "ask the frontend that does, by --admin-url; where containers are started by hand, start `skysail-onnx` \
                 as one of `skysail model register`"
                    .into(),
            ),
            Self::NoQueryAddress => Some("name it by --query-url or SKYSAIL_QUERY_URL".into()),
            Self::Runtime(_)
            | Self::Bench(_)
            | Self::Output(_)
            | Self::UnknownVersion { .. }
            | Self::InputNotText(_)
            | Self::Numpy(_)
            | Self::File { .. } => None,
        }
    }
}

/// What was probably meant, or what there is.
fn alternatives<'a>(
    name: &str,
    known: impl Iterator<Item = &'a str> + Clone,
    plural: &str,
    none: &str,
) -> String {
    if let Some(close) = closest(name, known.clone()) {
        return format!("did you mean `{close}`?");
    }
    let known: Vec<_> = known.collect();
    if known.is_empty() {
        none.to_owned()
    } else {
        format!("{plural}: {}", listed(&known))
    }
}

/// How an input of an application is written.
fn json_advice(signature: &Signature) -> String {
    let words = match signature.row_type() {
        Some(InputType::Bytes) => {
            "give a base64 string in double quotes, or the bytes themselves with --file"
        }
        Some(InputType::Integers) => "integers are written as in '[1, 2, 3]'",
        Some(InputType::Floats | InputType::Doubles) => "numbers are written as in '[7.9, 4.4, 6.9, 2.5]'",
        Some(InputType::Strings) => "a string is written in double quotes",
        None => return tensors_advice(signature.input_tensors()),
    };
    words.to_owned()
}

fn tensors_advice(specs: &[TensorSpec]) -> String {
    let members: Vec<String> = specs
        .iter()
        .map(|spec| {
            let depth = spec.shape().lengths().len();
            let name = serde_json::Value::from(spec.name());
            format!("{name}: {}…{}", "[".repeat(depth), "]".repeat(depth))
        })
        .collect();
    format!(
        "tensors are written as in '{{{}}}', or come from a NumPy file, as in @inputs.npz",
        members.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name<T: std::str::FromStr<Err: std::fmt::Debug>>(text: &str) -> T {
        text.parse().unwrap()
    }

    fn unknown(given: &str, known: &[&str]) -> Error {
        Error::UnknownApplication {
            name: name(given),
            known: known.iter().map(|known| name(known)).collect(),
        }
    }

    #[test]
    fn a_misspelt_application_is_answered_with_the_one_that_was_meant() {
        let error = unknown("irsi", &["digits", "iris"]);
        assert_eq!(error.to_string(), "application `irsi` does not exist");
        assert_eq!(error.hint().unwrap(), "did you mean `iris`?");
    }

    #[test]
    fn an_unknown_application_is_answered_with_those_that_exist() {
        assert_eq!(
            unknown("weather", &["digits", "iris"]).hint().unwrap(),
            "applications: digits, iris"
        );
        assert!(
            unknown("weather", &[])
                .hint()
                .unwrap()
                .contains("skysail app register")
        );
    }

    #[test]
    fn tensors_that_are_not_json_are_answered_with_how_they_are_written() {
        let specs = ["image:FP32[2,2]", "flag:BOOL"].map(|text| text.parse().unwrap());
        let hint = json_advice(&Signature::tensors(specs, []).unwrap());
        assert!(hint.contains(r#"'{"image": [[…]], "flag": …}'"#), "{hint}");
    }

    #[test]
    fn an_unknown_version_is_answered_with_those_that_exist() {
        let error = Error::UnknownVersion {
            id: name("iris-model:3"),
            known: vec![name("1"), name("2")],
        };
        assert_eq!(
            error.to_string(),
            "model `iris-model` has no version `3`; versions: 1, 2"
        );
    }

    #[test]
    fn a_failing_deployment_tells_the_reason_the_exit_code_and_the_last_lines() {
        let failure = Failure {
            at: jiff::Timestamp::UNIX_EPOCH,
            replica: name("m_1_0"),
            reason: "the container exited".into(),
            exit_code: Some(3),
            permanent: false,
            log: vec!["cannot load the model".into()],
        };
        let error = Error::DeploymentFails {
            id: name("m:1"),
            failure: Box::new(failure),
        };
        assert_eq!(error.to_string(), "m:1 fails: the container exited (exit code 3)");
        assert_eq!(error.details(), ["| cannot load the model"]);
        assert!(error.hint().unwrap().contains("skysail model show m:1"));
    }
}

//! The connection to the Docker engine, and its errors in our words.

use std::error::Error as _;
use std::fmt::Write as _;

use bollard::Docker;
use bollard::errors::Error;
use tokio::sync::OnceCell;

use crate::runtime::RuntimeError;

/// The engine that `DOCKER_HOST` names, or the local one.
///
/// Connected at the first use that succeeds: Docker may be started after us. From then on it needs no
/// reconnecting, for every request opens a connection of its own.
#[derive(Debug, Default)]
pub(super) struct Engine {
    docker: OnceCell<Docker>,
}

impl Engine {
    pub(super) async fn get(&self) -> Result<&Docker, RuntimeError> {
        self.docker
            .get_or_try_init(async || {
                // The engine and the library settle on the older API of the two.
                Docker::connect_with_defaults()?.negotiate_version().await
            })
            .await
            .map_err(|error| unavailable(&error))
    }

    /// Asks the engine for a sign of life.
    pub(super) async fn ping(&self) -> Result<&Docker, RuntimeError> {
        let docker = self.get().await?;
        docker.ping().await.map_err(|error| unavailable(&error))?;
        Ok(docker)
    }
}

/// The status the engine answered with, if it answered.
pub(super) fn status_of(error: &Error) -> Option<u16> {
    match error {
        Error::DockerResponseServerError { status_code, .. } => Some(*status_code),
        _ => None,
    }
}

/// The engine's own words, if it answered with `status`.
pub(super) fn message_of(error: &Error, status: u16) -> Option<&str> {
    match error {
        Error::DockerResponseServerError { status_code, message } if *status_code == status => Some(message),
        _ => None,
    }
}

/// The error of a request about `what`: the engine refused, or was not reached.
pub(super) fn refused(doing: &str, what: &str, error: &Error) -> RuntimeError {
    match error {
        Error::DockerResponseServerError { message, .. } => {
            RuntimeError::Container(format!("docker could not {doing} `{what}`: {message}"))
        }
        error if is_about_the_connection(error) => unavailable(error),
        error => RuntimeError::Container(format!("docker could not {doing} `{what}`: {}", chain(error))),
    }
}

pub(super) fn unavailable(error: &Error) -> RuntimeError {
    let advice = match error {
        Error::SocketNotFoundError(_) => "is the docker engine running? DOCKER_HOST names another",
        Error::UnsupportedURISchemeError { .. } => {
            "DOCKER_HOST must begin with unix:// or tcp://; for others, tunnel to one of these"
        }
        _ => "is the docker engine running, and may the frontend's user reach it?",
    };
    RuntimeError::Unavailable(format!("{}; {advice}", chain(error)))
}

fn is_about_the_connection(error: &Error) -> bool {
    matches!(
        error,
        Error::SocketNotFoundError(_)
            | Error::UnsupportedURISchemeError { .. }
            | Error::RequestTimeoutError
            | Error::HyperLegacyError { .. }
            | Error::HyperResponseError { .. }
            | Error::IOError { .. }
    )
}

/// The library's errors keep what matters ("connection refused") in their sources.
fn chain(error: &Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        // Transparent errors repeat their source's words.
        if !text.contains(&cause_text) {
            let _ = write!(text, ": {cause_text}");
        }
        source = cause.source();
    }
    text
}

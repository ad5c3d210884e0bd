//! The connection to the Docker engine, and its errors in our words.

use std::error::Error as _;
use std::fmt::Write as _;

use bollard::Docker;
use bollard::errors::Error;
use tokio::sync::OnceCell;

use crate::runtime::RuntimeError;

/// A Docker engine.
///
/// Connected at the first use that succeeds: Docker may be started after us. From then on it needs no
/// reconnecting, for every request opens a connection of its own.
#[derive(Debug)]
pub(super) struct Engine {
    host: String,
    docker: OnceCell<Docker>,
}

impl Engine {
    /// The engine at `host`, written as in `DOCKER_HOST`.
    pub(super) fn new(host: &str) -> Self {
        Self {
            host: host.to_owned(),
            docker: OnceCell::new(),
        }
    }

    pub(super) async fn get(&self) -> Result<&Docker, RuntimeError> {
        self.docker
            .get_or_try_init(async || {
                // The library names no version in its requests, so the engine answers in its own newest
                // API and what an old one leaves out is read as absent. This is to learn that it answers
                // at all, and for the day the library does name one.
                Docker::connect_with_host(&self.host)?.negotiate_version().await
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
        Error::DockerResponseServerError { message, status_code } => RuntimeError::Container(format!(
            "docker could not {doing} `{what}`: {}",
            said(message, *status_code)
        )),
        error if is_about_the_connection(error) => unavailable(error),
        error => RuntimeError::Container(format!("docker could not {doing} `{what}`: {}", chain(error))),
    }
}

/// The engine's words; where it has none, its status.
fn said(message: &str, status: u16) -> String {
    match message.trim() {
        "" => format!("it answered {status} without a word"),
        words => words.to_owned(),
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

#[cfg(test)]
mod tests {
    use super::*;

    async fn why_not(host: &str) -> String {
        match Engine::new(host).get().await {
            Err(RuntimeError::Unavailable(why)) => why,
            other => panic!("{host}: {other:?}"),
        }
    }

    #[test]
    fn a_refusal_without_words_is_told_by_its_status() {
        let refusal = |message: &str| {
            let error = Error::DockerResponseServerError {
                status_code: 301,
                message: message.into(),
            };
            refused("inspect", "a//b", &error).to_string()
        };
        assert_eq!(
            refusal("\n"),
            "docker could not inspect `a//b`: it answered 301 without a word"
        );
        assert_eq!(refusal("no\n"), "docker could not inspect `a//b`: no");
    }

    #[tokio::test]
    async fn an_engine_that_is_not_there_is_unavailable_with_what_to_look_for() {
        let why = why_not("unix:///no/such/docker.sock").await;
        assert!(
            why.contains("/no/such/docker.sock") && why.contains("DOCKER_HOST"),
            "{why}"
        );
        // Nobody listens at port 1.
        let why = why_not("tcp://127.0.0.1:1").await;
        assert!(why.contains("refused") && why.contains("running"), "{why}");
        let why = why_not("ssh://somewhere").await;
        assert!(why.contains("tcp://"), "{why}");
    }
}

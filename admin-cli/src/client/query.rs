//! The query API: one query, one answer.

use std::marker::PhantomData;
use std::time::Duration;

use reqwest::{StatusCode, Url};
use serde::Deserialize;
use serde_json::value::RawValue;
use skysail_proto::ids::ApplicationName;

use super::{Answer, Api, ClientError, excerpt, http_client, origin, read_body, send};

/// Far above any sensible latency objective: the frontend answers by the deadline, so this only ends the
/// wait for one that hangs.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(600);

/// Readiness is answered within milliseconds, also under load.
const READY_TIMEOUT: Duration = Duration::from_secs(2);

/// An answer, as far as the CLI shows it.
#[derive(Debug, Deserialize)]
pub(crate) struct Prediction {
    /// The output as it was written: a number keeps its digits.
    pub(crate) output: Box<RawValue>,
    /// Whether it is the application's default output.
    pub(crate) default: bool,
    /// Why, in a word.
    #[serde(default)]
    pub(crate) default_reason: Option<String>,
    /// Why, in a sentence.
    #[serde(default)]
    pub(crate) default_explanation: Option<String>,
}

/// The answers to several inputs, in their order.
#[derive(Debug, Deserialize)]
pub(crate) struct Predictions {
    pub(crate) batch_predictions: Vec<Prediction>,
}

/// How the query API says no.
#[derive(Deserialize)]
struct Refusal {
    cause: String,
}

/// How the query API says that it cannot serve yet.
#[derive(Deserialize)]
struct Unready {
    reasons: Vec<String>,
}

/// Speaks to the query API of one frontend.
#[derive(Debug)]
pub(crate) struct QueryClient {
    http: reqwest::Client,
    url: Url,
}

impl QueryClient {
    pub(crate) fn new(url: Url) -> Self {
        Self {
            http: http_client(&url),
            url,
        }
    }

    /// Asks whether queries can be served; if not, the refusal says why.
    pub(crate) async fn ready(&self) -> Result<(), ClientError> {
        let endpoint = format!("{}/readyz", self.url.as_str().trim_end_matches('/'));
        let request = self.http.get(endpoint).timeout(READY_TIMEOUT);
        let response = send(Api::Query, &self.url, request).await?;
        let status = response.status();
        if status.is_success() {
            return Ok(());
        }
        let body = read_body(Api::Query, &self.url, response).await?;
        Err(ClientError::Refused {
            status,
            detail: unreadiness(&body),
        })
    }

    /// Asks `application` for a prediction of `input`, which is JSON text and travels as it is.
    pub(crate) async fn predict(
        &self,
        application: &ApplicationName,
        input: &RawValue,
    ) -> Result<Answer<Prediction>, ClientError> {
        self.ask(application, format!("{{\"input\": {input}}}")).await
    }

    /// Asks `application` for predictions of `inputs`, a JSON array that travels as it is.
    pub(crate) async fn predict_batch(
        &self,
        application: &ApplicationName,
        inputs: &RawValue,
    ) -> Result<Answer<Predictions>, ClientError> {
        self.ask(application, format!("{{\"input_batch\": {inputs}}}"))
            .await
    }

    async fn ask<T>(&self, application: &ApplicationName, body: String) -> Result<Answer<T>, ClientError> {
        let endpoint = format!(
            "{}/{application}/predict",
            self.url.as_str().trim_end_matches('/')
        );
        let request = self
            .http
            .post(endpoint)
            .timeout(REQUEST_TIMEOUT)
            .header("content-type", "application/json")
            .body(body);
        let response = send(Api::Query, &self.url, request).await?;
        let status = response.status();
        let body = read_body(Api::Query, &self.url, response).await?;
        if !status.is_success() {
            return Err(refusal(&self.url, status, &body));
        }
        Ok(Answer {
            url: self.url.clone(),
            body,
            meaning: PhantomData,
        })
    }
}

/// Why queries cannot be served yet, in the frontend's words; what they are not in, as it came.
fn unreadiness(body: &[u8]) -> String {
    match serde_json::from_slice::<Unready>(body) {
        Ok(Unready { reasons }) if !reasons.is_empty() => reasons.join("; "),
        _ => excerpt(body),
    }
}

fn refusal(url: &Url, status: StatusCode, body: &[u8]) -> ClientError {
    match serde_json::from_slice::<Refusal>(body) {
        Ok(Refusal { cause }) => ClientError::Refused {
            status,
            detail: cause,
        },
        Err(_) => ClientError::Foreign {
            api: Api::Query,
            url: origin(url),
            status,
            excerpt: excerpt(body),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_query_is_answered_with_its_cause() {
        let url = Url::parse("http://127.0.0.1:1337").unwrap();
        let body = br#"{"error": "invalid_input", "cause": "input: expected an array of numbers"}"#;
        let error = refusal(&url, StatusCode::BAD_REQUEST, body);
        assert_eq!(error.to_string(), "input: expected an array of numbers");
    }

    #[test]
    fn a_frontend_that_is_not_ready_says_why_in_words() {
        let body = br#"{"ready": false, "degraded": ["store"], "reasons": ["not read yet", "no route"]}"#;
        assert_eq!(unreadiness(body), "not read yet; no route");
        assert_eq!(unreadiness(b"Bad Gateway\n"), "Bad Gateway");
    }

    #[test]
    fn an_output_keeps_its_digits() {
        let prediction: Prediction =
            serde_json::from_str(r#"{"query_id": 1, "output": -1.00, "default": false}"#).unwrap();
        assert_eq!(prediction.output.get(), "-1.00");
    }
}

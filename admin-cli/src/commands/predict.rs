//! `skysail predict`: one query, from the command line.

use std::io::Read;
use std::path::{Path, PathBuf};

use clap::{ArgGroup, Args};
use serde_json::value::RawValue;
use skysail_proto::ids::ApplicationName;
use skysail_proto::value::{Input, InputType};

use super::Session;
use super::query_url::query_url;
use crate::advice::about_application;
use crate::client::{Prediction, QueryClient};
use crate::error::Error;
use crate::output::{Paint, Stream, tell};

const EXAMPLES: &str = "\
Examples:
  skysail predict iris '[7.9, 4.4, 6.9, 2.5]'
  skysail predict captions --file cat.jpg
  echo '[4.3, 2.0, 1.0, 0.1]' | skysail predict iris -

INPUT is one input as JSON; for an application that takes strings, plain text will do. A file holds \
the bytes themselves where the application takes bytes, the text itself where it takes strings, and \
JSON otherwise. Standard input (-) is read as a file is.

The output goes to stdout, a string without its quotes. A default output is an answer too (exit code \
0); a note on stderr says that it is one, and why.";

#[derive(Args, Debug)]
#[command(after_help = EXAMPLES, override_usage = "skysail predict [OPTIONS] <APP> <INPUT|-|--file <FILE>>")]
#[command(group = ArgGroup::new("source").required(true).args(["input", "file"]))]
pub(crate) struct PredictArguments {
    /// The application to ask
    #[arg(value_name = "APP")]
    application: ApplicationName,
    /// One input as JSON, or - for standard input
    #[arg(allow_negative_numbers = true)]
    input: Option<String>,
    /// Read the input from a file
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
}

pub(super) async fn run(session: &Session, arguments: PredictArguments) -> Result<(), Error> {
    let application = arguments.application;
    let input = match (arguments.input, arguments.file) {
        (Some(input), _) if input != "-" => typed_input(session, &application, input).await?,
        (_, Some(file)) if file != Path::new("-") => {
            let content = std::fs::read(&file).map_err(|reason| Error::File { path: file, reason })?;
            file_input(session, &application, content).await?
        }
        _ => file_input(session, &application, standard_input()?).await?,
    };
    let query = QueryClient::new(query_url(session).await?);
    let result = query.predict(&application, &input).await;
    let answer = about_application(&session.admin, &application, result).await?;
    if session.output.is_json() {
        session.output.body(answer.body())?;
    } else {
        session.output.data(&output_text(&answer.read()?))?;
    }
    if let Some(note) = answer.read().ok().as_ref().and_then(default_note) {
        tell(&Paint::on(Stream::Stderr).hint("note:"), &note);
    }
    Ok(())
}

fn standard_input() -> Result<Vec<u8>, Error> {
    let mut content = Vec::new();
    let read = std::io::stdin().lock().read_to_end(&mut content);
    read.map_err(|reason| Error::File {
        path: "standard input".into(),
        reason,
    })?;
    Ok(content)
}

/// What was typed, as JSON. Only what is none needs to know the application's input type.
async fn typed_input(
    session: &Session,
    application: &ApplicationName,
    text: String,
) -> Result<Box<RawValue>, Error> {
    match RawValue::from_string(text.clone()) {
        Ok(json) => Ok(json),
        Err(reason) => match input_type(session, application).await? {
            InputType::Strings => Ok(as_json(&Input::string(text))),
            input_type => Err(Error::InputNotJson { input_type, reason }),
        },
    }
}

/// A file's content, as JSON.
async fn file_input(
    session: &Session,
    application: &ApplicationName,
    content: Vec<u8>,
) -> Result<Box<RawValue>, Error> {
    let input_type = input_type(session, application).await?;
    if input_type == InputType::Bytes {
        return Ok(as_json(&Input::bytes(content)));
    }
    let text = String::from_utf8(content).map_err(|_| Error::InputNotText(application.clone()));
    match (input_type, text) {
        (InputType::Strings, text) => Ok(as_json(&Input::string(text?))),
        (_, Ok(text)) => {
            RawValue::from_string(text).map_err(|reason| Error::InputNotJson { input_type, reason })
        }
        (_, Err(_)) => Err(Error::InputNotJson {
            input_type,
            reason: serde::de::Error::custom("it is not UTF-8 text"),
        }),
    }
}

fn as_json(input: &Input) -> Box<RawValue> {
    serde_json::value::to_raw_value(&input.to_json())
        .expect("a JSON value can always be written; this is a bug")
}

async fn input_type(session: &Session, name: &ApplicationName) -> Result<InputType, Error> {
    let result = session.admin.application(name).await;
    let application = about_application(&session.admin, name, result).await?;
    Ok(application.read()?.input_type)
}

/// The output on its own: a string without its quotes, anything else as JSON.
fn output_text(prediction: &Prediction) -> String {
    let json = prediction.output.get();
    serde_json::from_str(json).unwrap_or_else(|_| json.to_owned())
}

/// What is said of an answer that is a default.
fn default_note(prediction: &Prediction) -> Option<String> {
    if !prediction.default {
        return None;
    }
    let reason = prediction.default_reason.as_deref().unwrap_or("no reason given");
    let sentence = prediction.default_explanation.as_deref().unwrap_or_default();
    let note = format!("this is the default output ({reason}): {sentence}");
    Some(note.trim_end_matches([':', ' ']).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prediction(json: &str) -> Prediction {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn a_string_is_printed_without_its_quotes_and_anything_else_as_it_came() {
        for (json, text) in [
            (r#""virginica""#, "virginica"),
            (r#""a \"b\"""#, r#"a "b""#),
            ("-1.0", "-1.0"),
            ("[1, 2]", "[1, 2]"),
            ("null", "null"),
        ] {
            let body = format!(r#"{{"query_id": 6, "output": {json}, "default": false}}"#);
            assert_eq!(output_text(&prediction(&body)), text);
        }
    }

    #[test]
    fn a_default_output_is_noted_with_its_reason() {
        let default = prediction(
            r#"{"query_id": 6, "output": -1.0, "default": true, "default_reason": "no_replica",
                "default_explanation": "No connected models found for query"}"#,
        );
        assert_eq!(
            default_note(&default).unwrap(),
            "this is the default output (no_replica): No connected models found for query"
        );
        assert!(default_note(&prediction(r#"{"query_id": 6, "output": 1, "default": false}"#)).is_none());
    }
}

//! `skysail predict`: one query, from the command line.

use std::io::Read;
use std::path::{Path, PathBuf};

use clap::{ArgGroup, Args};
use serde_json::value::RawValue;
use skysail_proto::ids::ApplicationName;
use skysail_proto::signature::Signature;
use skysail_proto::value::{Input, InputType};

use super::Session;
use super::query_url::query_url;
use crate::advice::about_application;
use crate::client::{Prediction, QueryClient};
use crate::error::Error;
use crate::numpy::{self, Given};
use crate::output::{Paint, Stream, tell};

mod shown;

const EXAMPLES: &str = "\
Examples:
  skysail predict iris '[7.9, 4.4, 6.9, 2.5]'
  skysail predict captions --file cat.jpg
  skysail predict photos @image.npy
  skysail predict bert '{\"ids\": [101, 7592, 102], \"mask\": [true, true, true]}'
  echo '[4.3, 2.0, 1.0, 0.1]' | skysail predict iris -

INPUT is one input as JSON; for an application that takes strings, plain text will do (text that begins \
with @ is then written as JSON). Tensors are an object by name, and a single one will do without its \
name. A file holds the bytes themselves where the application takes bytes, the text itself where it \
takes strings, and JSON otherwise, or NumPy arrays: .npy for one tensor, .npz (np.savez) for several by \
name. Their elements are converted only where nothing is lost. Arrays with a dimension more than the \
tensors are several inputs, which are asked at once. Standard input (-) is read as a file is.

The output goes to stdout, a string without its quotes. Tensors are shown a line each, long ones \
shortened; --output json prints them in full. A default output is an answer too (exit code 0); a note \
on stderr says that it is one, and why.";

#[derive(Args, Debug)]
#[command(after_help = EXAMPLES, override_usage = "skysail predict [OPTIONS] <APP> <INPUT|@FILE|-|--file <FILE>>")]
#[command(group = ArgGroup::new("source").required(true).args(["input", "file"]))]
pub(crate) struct PredictArguments {
    /// The application to ask
    #[arg(value_name = "APP")]
    application: ApplicationName,
    /// One input as JSON, @FILE for what is in a file, or - for standard input
    #[arg(allow_negative_numbers = true)]
    input: Option<String>,
    /// Read the input from a file, as @FILE does
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
}

pub(super) async fn run(session: &Session, arguments: PredictArguments) -> Result<(), Error> {
    let mut asked = Asked::new(session, arguments.application);
    let question = match (arguments.input, arguments.file) {
        (Some(input), _) if input == "-" => content_asked(&mut asked, standard_input()?).await?,
        (Some(input), _) => match input.strip_prefix('@') {
            Some(path) => file_asked(&mut asked, Path::new(path)).await?,
            None => Question::One(typed_input(&mut asked, input).await?),
        },
        (None, Some(file)) => file_asked(&mut asked, &file).await?,
        (None, None) => content_asked(&mut asked, standard_input()?).await?,
    };
    let query = QueryClient::new(query_url(session).await?);
    match question {
        Question::One(input) => ask_one(&mut asked, &query, &input).await,
        Question::Batch(inputs) => ask_batch(&mut asked, &query, &inputs).await,
    }
}

/// What is asked, as JSON.
enum Question {
    /// One input.
    One(Box<RawValue>),
    /// An array of inputs.
    Batch(Box<RawValue>),
}

/// The application that is asked. What it takes and gives is looked up where that matters, once.
struct Asked<'a> {
    session: &'a Session,
    name: ApplicationName,
    signature: Option<Signature>,
}

impl<'a> Asked<'a> {
    fn new(session: &'a Session, name: ApplicationName) -> Self {
        Self {
            session,
            name,
            signature: None,
        }
    }

    async fn signature(&mut self) -> Result<Signature, Error> {
        if let Some(signature) = &self.signature {
            return Ok(signature.clone());
        }
        let admin = &self.session.admin;
        let result = admin.application(&self.name).await;
        let application = about_application(admin, &self.name, result).await?.read()?;
        self.signature = Some(application.signature.clone());
        Ok(application.signature)
    }
}

async fn ask_one(asked: &mut Asked<'_>, query: &QueryClient, input: &RawValue) -> Result<(), Error> {
    let session = asked.session;
    let result = query.predict(&asked.name, input).await;
    let answer = about_application(&session.admin, &asked.name, result).await?;
    if session.output.is_json() {
        session.output.body(answer.body())?;
        note_default(answer.read().ok().as_ref(), "");
        return Ok(());
    }
    let prediction = answer.read()?;
    session.output.data(&output_text(asked, &prediction).await)?;
    note_default(Some(&prediction), "");
    Ok(())
}

async fn ask_batch(asked: &mut Asked<'_>, query: &QueryClient, inputs: &RawValue) -> Result<(), Error> {
    let session = asked.session;
    let result = query.predict_batch(&asked.name, inputs).await;
    let answer = about_application(&session.admin, &asked.name, result).await?;
    let predictions = answer.read()?.batch_predictions;
    if session.output.is_json() {
        session.output.body(answer.body())?;
    } else {
        for prediction in &predictions {
            session.output.data(&output_text(asked, prediction).await)?;
        }
    }
    for (place, prediction) in predictions.iter().enumerate() {
        note_default(Some(prediction), &format!("input {}: ", place + 1));
    }
    Ok(())
}

fn note_default(prediction: Option<&Prediction>, before: &str) {
    if let Some(note) = prediction.and_then(default_note) {
        tell(
            &Paint::on(Stream::Stderr).hint("note:"),
            &format!("{before}{note}"),
        );
    }
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

/// What was typed, as JSON. Only if it is not JSON, it matters what the application takes.
async fn typed_input(asked: &mut Asked<'_>, text: String) -> Result<Box<RawValue>, Error> {
    match RawValue::from_string(text.clone()) {
        Ok(json) => Ok(json),
        Err(reason) => {
            let signature = asked.signature().await?;
            match signature.row_type() {
                Some(InputType::Strings) => Ok(as_json(&Input::string(text), &signature)),
                _ => Err(Error::InputNotJson { signature, reason }),
            }
        }
    }
}

async fn file_asked(asked: &mut Asked<'_>, path: &Path) -> Result<Question, Error> {
    if path == Path::new("-") {
        return content_asked(asked, standard_input()?).await;
    }
    let content = std::fs::read(path).map_err(|reason| Error::File {
        path: path.to_owned(),
        reason,
    })?;
    content_asked(asked, content).await
}

/// What a file's content asks.
async fn content_asked(asked: &mut Asked<'_>, content: Vec<u8>) -> Result<Question, Error> {
    let signature = asked.signature().await?;
    let row = signature.row_type();
    if row == Some(InputType::Bytes) {
        return Ok(Question::One(as_json(&Input::bytes(content), &signature)));
    }
    if row != Some(InputType::Strings) && numpy::is_numpy(&content) {
        return numpy_asked(&content, &signature);
    }
    let text = String::from_utf8(content);
    let json = match (row, text) {
        (Some(InputType::Strings), Ok(text)) => as_json(&Input::string(text), &signature),
        (Some(InputType::Strings), Err(_)) => return Err(Error::InputNotText(asked.name.clone())),
        (_, Ok(text)) => {
            RawValue::from_string(text).map_err(|reason| Error::InputNotJson { signature, reason })?
        }
        (_, Err(_)) => {
            return Err(Error::InputNotJson {
                signature,
                reason: serde::de::Error::custom("it is not UTF-8 text"),
            });
        }
    };
    Ok(Question::One(json))
}

fn numpy_asked(content: &[u8], signature: &Signature) -> Result<Question, Error> {
    Ok(match numpy::read(content, signature)? {
        Given::One(input) => Question::One(as_json(&input, signature)),
        Given::Batch(inputs) => {
            let inputs: Vec<_> = inputs.iter().map(|input| input.to_json_text(signature)).collect();
            Question::Batch(raw(format!("[{}]", inputs.join(","))))
        }
    })
}

fn as_json(input: &Input, signature: &Signature) -> Box<RawValue> {
    raw(input.to_json_text(signature))
}

fn raw(json: String) -> Box<RawValue> {
    RawValue::from_string(json).expect("it was written as JSON; this is a bug")
}

/// The output on its own: a string without its quotes, tensors a line each, anything else as JSON.
///
/// Whether an object is one of tensors, only the application's signature says. Where it cannot be had, the object is
/// shown as it came.
async fn output_text(asked: &mut Asked<'_>, prediction: &Prediction) -> String {
    let json = prediction.output.get();
    let lines = match json.starts_with('{') && !prediction.default {
        true => shown::tensor_lines(json),
        false => return plain_text(json),
    };
    let are_tensors = |signature: &Signature| !signature.output_tensors().is_empty();
    match (lines, asked.signature().await) {
        (Some(lines), Ok(signature)) if are_tensors(&signature) => lines,
        _ => plain_text(json),
    }
}

/// A string without its quotes, anything else as it came.
fn plain_text(json: &str) -> String {
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
            assert_eq!(plain_text(prediction(&body).output.get()), text);
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

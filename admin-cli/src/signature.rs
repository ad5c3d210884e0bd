//! `--input-type`, `--in`, `--out`, `--no-batch-dimension`, `--signature`: what a version or an application takes and
//! gives, as it is typed.
//!
//! What is typed is checked as a whole while the command line is read, so that a mistake is a usage error.

use std::path::PathBuf;
use std::str::FromStr;

use clap::error::ErrorKind;
use clap::{ArgGroup, ArgMatches, Args, Command, FromArgMatches};
use serde::Deserialize;
use serde_json::value::RawValue;
use skysail_proto::admin::NewSignature;
use skysail_proto::ids::ModelName;
use skysail_proto::signature::{Signature, SignatureError, TENSORS, TensorSpec};
use skysail_proto::value::InputType;

mod shown;

pub(crate) use shown::{annotation_fields, signature_fields};

/// The group of arguments of which one is needed. Another argument may join it: then it will do as well.
pub(crate) const TAKES: &str = "takes";

/// The arguments that declare tensors one by one, or all of them.
const DECLARING: [&str; 5] = [
    "input_type",
    "inputs",
    "outputs",
    "no_batch_dimension",
    "signature",
];

/// The help of `--in`; as a comment its brackets would be links of the documentation.
const IN_HELP: &str = "A tensor that each input has, as in 'image:FP32[224,224,3]', 'mask:BOOL[-1]' (any length) or \
                       'text:BYTES[-1]:utf8'; may be given again";

/// The arguments as they are typed.
#[derive(Args, Debug)]
#[command(group = ArgGroup::new(TAKES).required(true).multiple(true).args(["input_type", "inputs", "signature"]))]
#[group(skip)]
struct Typed {
    /// What its inputs are: bytes, integers, floats, doubles, strings or tensors
    #[arg(long, value_name = "TYPE")]
    input_type: Option<InputWord>,
    #[arg(long = "in", id = "inputs", value_name = "NAME:DATATYPE[LENGTHS]", help = IN_HELP)]
    inputs: Vec<TensorSpec>,
    /// A tensor that each output has, written like those of --in; may be given again [default: the output is text]
    #[arg(long = "out", id = "outputs", value_name = "NAME:DATATYPE[LENGTHS]")]
    outputs: Vec<TensorSpec>,
    /// The model's tensors have no batch dimension: it is sent one input at a time
    #[arg(long)]
    no_batch_dimension: bool,
    /// A JSON file that declares the tensors: an object of `inputs`, `outputs` and `batched`, as in `signature` of
    /// `skysail model show NAME:VERSION --output json`, or all that this prints
    #[arg(long, value_name = "FILE", value_parser = SignatureFile::read,
          conflicts_with_all = ["inputs", "outputs", "no_batch_dimension"])]
    signature: Option<SignatureFile>,
}

/// What is typed as input type.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum InputWord {
    Row(InputType),
    Tensors,
}

/// What a version takes and gives. Undeclared if nothing was typed, which the command allows or not.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct SignatureArguments(pub(crate) Signature);

/// What an application takes and gives.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ApplicationSignature(pub(crate) NewSignature);

/// The arguments of an application.
#[derive(Args, Debug)]
#[group(skip)]
struct TypedOrLike {
    #[command(flatten)]
    typed: Typed,
    /// Take and give what the current version of this model does
    #[arg(long, value_name = "MODEL", group = TAKES, conflicts_with_all = DECLARING)]
    like: Option<ModelName>,
}

/// Why what is typed makes no signature.
#[derive(Debug, thiserror::Error)]
enum InvalidSignature {
    #[error(transparent)]
    Tensors(#[from] SignatureError),
    #[error("--in declares tensors, and --input-type says {0}: leave --in out, or say --input-type tensors")]
    InputsOfRow(InputType),
    #[error(
        "--out alone declares no input: declare the input tensors too, with --in, or say another --input-type"
    )]
    OutputsAlone,
    #[error("--no-batch-dimension is for tensors; for {0}, --max-batch 1 sends one input at a time")]
    RowWithoutBatch(InputType),
    #[error("{}: {reason}", path.display())]
    File { path: PathBuf, reason: String },
    #[error(
        "an application says which tensors it takes: declare them with --in and --out, or name the model that takes \
         them with --like"
    )]
    Undeclared,
}

impl FromStr for InputWord {
    type Err = SignatureError;
    fn from_str(word: &str) -> Result<Self, SignatureError> {
        if word == TENSORS {
            return Ok(Self::Tensors);
        }
        let row = word.parse().map(Self::Row);
        row.map_err(|_| SignatureError::InputType(word.chars().take(80).collect()))
    }
}

impl InputWord {
    fn name(self) -> &'static str {
        match self {
            Self::Row(input_type) => input_type.name(),
            Self::Tensors => TENSORS,
        }
    }
}

impl Typed {
    fn signature(self) -> Result<Signature, InvalidSignature> {
        if let Some(file) = self.signature {
            return file.signature(self.input_type);
        }
        let signature = match self.input_type {
            Some(InputWord::Row(row)) if !self.inputs.is_empty() => {
                return Err(InvalidSignature::InputsOfRow(row));
            }
            Some(InputWord::Row(row)) if self.no_batch_dimension => {
                return Err(InvalidSignature::RowWithoutBatch(row));
            }
            Some(InputWord::Row(row)) => Signature::row_to_tensors(row, self.outputs)?,
            _ if !self.inputs.is_empty() => Signature::tensors(self.inputs, self.outputs)?,
            _ if !self.outputs.is_empty() => return Err(InvalidSignature::OutputsAlone),
            _ => Signature::undeclared(),
        };
        Ok(match self.no_batch_dimension {
            true => signature.without_batch_dimension(),
            false => signature,
        })
    }
}

impl TypedOrLike {
    fn signature(self) -> Result<NewSignature, InvalidSignature> {
        if let Some(model) = self.like {
            return Ok(NewSignature::Like(model));
        }
        let signature = self.typed.signature()?;
        if signature.is_declared() {
            Ok(NewSignature::Given(signature))
        } else {
            Err(InvalidSignature::Undeclared)
        }
    }
}

/// A JSON file that declares tensors.
#[derive(Clone, Debug)]
struct SignatureFile {
    path: PathBuf,
    input_type: Option<String>,
    declared: Option<Box<RawValue>>,
}

/// A file that holds a body of the admin API, or a part of one. What else is in it does not matter here.
#[derive(Deserialize)]
struct Body {
    input_type: Option<String>,
    signature: Option<Box<RawValue>>,
}

/// Why a file declares no tensors.
#[derive(Debug, thiserror::Error)]
enum NoSignatureFile {
    #[error("it cannot be read: {0}")]
    Unreadable(#[from] std::io::Error),
    #[error(
        "it is not JSON as it should be ({0}): write {{\"inputs\": [{{\"name\": …, \"datatype\": …, \"shape\": […]}}], \"outputs\": […]}}"
    )]
    NotJson(#[from] serde_json::Error),
}

impl SignatureFile {
    fn read(path: &str) -> Result<Self, NoSignatureFile> {
        let text = std::fs::read_to_string(path)?;
        let whole: Box<RawValue> = serde_json::from_str(&text)?;
        let body: Body = serde_json::from_str(&text)?;
        let is_body = body.input_type.is_some() || body.signature.is_some();
        Ok(Self {
            path: path.into(),
            input_type: body.input_type,
            declared: if is_body { body.signature } else { Some(whole) },
        })
    }

    /// What it declares, with the input type that is typed beside it, or the one that it names.
    fn signature(self, typed: Option<InputWord>) -> Result<Signature, InvalidSignature> {
        let typed = typed.map(InputWord::name);
        let refused = |reason| InvalidSignature::File {
            path: self.path.clone(),
            reason,
        };
        if let (Some(typed), Some(named)) = (typed, self.input_type.as_deref())
            && typed != named
        {
            return Err(refused(format!(
                "it says input type {named}, and --input-type {typed}"
            )));
        }
        let input_type = typed.or(self.input_type.as_deref()).unwrap_or(TENSORS);
        let declared = self.declared.as_deref().map(RawValue::get);
        Signature::from_text(input_type, declared).map_err(refused)
    }
}

/// A usage error, as clap tells it.
fn usage(error: &InvalidSignature) -> clap::Error {
    clap::Error::raw(ErrorKind::ValueValidation, format!("{error}\n"))
}

/// Arguments that are read as others, and made into something by a function that may refuse them.
macro_rules! checked {
    ($arguments:ident reads $typed:ident) => {
        impl Args for $arguments {
            fn augment_args(command: Command) -> Command {
                $typed::augment_args(command)
            }
            fn augment_args_for_update(command: Command) -> Command {
                $typed::augment_args_for_update(command)
            }
        }

        impl FromArgMatches for $arguments {
            fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
                let signature = $typed::from_arg_matches(matches)?.signature();
                signature.map(Self).map_err(|error| usage(&error))
            }
            fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
                *self = Self::from_arg_matches(matches)?;
                Ok(())
            }
        }
    };
}

checked!(SignatureArguments reads Typed);
checked!(ApplicationSignature reads TypedOrLike);

#[cfg(test)]
mod tests {
    use clap::Parser;
    use skysail_proto::signature::Inputs;

    use super::*;

    #[derive(Debug, Parser)]
    struct Version {
        #[command(flatten)]
        signature: SignatureArguments,
        #[arg(long, group = TAKES)]
        onnx: Option<String>,
    }

    #[derive(Debug, Parser)]
    struct Application {
        #[command(flatten)]
        signature: ApplicationSignature,
    }

    fn version(line: &str) -> Result<Signature, clap::Error> {
        let words = std::iter::once("x").chain(line.split_whitespace());
        Version::try_parse_from(words).map(|version| version.signature.0)
    }

    fn application(line: &str) -> Result<NewSignature, clap::Error> {
        let words = std::iter::once("x").chain(line.split_whitespace());
        Application::try_parse_from(words).map(|application| application.signature.0)
    }

    #[test]
    fn what_is_typed_is_a_signature() {
        for (line, expected) in [
            ("--input-type doubles", "doubles"),
            ("--input-type tensors", "tensors, not declared yet"),
            ("--onnx x.onnx", "tensors, not declared yet"),
            ("--in image:FP32[224,224,3]", "image:FP32[224,224,3]"),
            (
                "--input-type tensors --in image:FP32[2] --in mask:BOOL[-1] --out p:FP32[10] --out label:INT64",
                "image:FP32[2], mask:BOOL[-1] -> p:FP32[10], label:INT64[]",
            ),
            ("--input-type strings --out p:FP32[2]", "strings -> p:FP32[2]"),
            (
                "--in x:FP32[2] --no-batch-dimension",
                "x:FP32[2] (no batch dimension)",
            ),
        ] {
            assert_eq!(version(line).unwrap().to_string(), expected, "{line}");
        }
    }

    #[test]
    fn what_makes_no_signature_is_refused_in_words() {
        for (line, words) in [
            ("", "--input-type <TYPE>"),
            ("", "--signature <FILE>"),
            ("--out y:FP32", "--in <"),
            ("--input-type tensor", "use one of bytes"),
            ("--input-type doubles --in x:FP32", "leave --in out"),
            ("--input-type tensors --out y:FP32", "--out alone"),
            ("--input-type doubles --no-batch-dimension", "--max-batch 1"),
            ("--in x:FP32 --in x:INT8", "tensor `x` is named twice"),
            ("--in x:FLOAT", "use one of BOOL"),
            ("--in x:FP32[-2]", "no length of a dimension"),
            ("--in x", "NAME:DATATYPE[LENGTHS]"),
            ("--signature /no/such/file", "it cannot be read"),
        ] {
            let error = version(line).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{line}");
            assert!(error.to_string().contains(words), "{line}: {error}");
        }
    }

    #[test]
    fn an_application_declares_its_tensors_or_names_a_model() {
        assert_eq!(
            application("--like resnet").unwrap(),
            NewSignature::Like("resnet".parse().unwrap())
        );
        let NewSignature::Given(given) = application("--in x:FP32").unwrap() else {
            panic!("a signature is given");
        };
        assert!(matches!(given.inputs(), Inputs::Tensors(_)));
        for (line, words) in [
            ("", "--like <MODEL>"),
            ("--input-type tensors", "--in and --out, or name the model"),
            ("--like m --input-type doubles", "cannot be used with"),
            ("--like m --out y:FP32", "cannot be used with"),
        ] {
            let error = application(line).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{line}");
            assert!(error.to_string().contains(words), "{line}: {error}");
        }
    }

    #[test]
    fn a_file_declares_tensors_alone_or_within_a_body() {
        let folder = tempfile::tempdir().unwrap();
        let written = |text: &str| {
            let path = folder.path().join("signature.json");
            std::fs::write(&path, text).unwrap();
            path.display().to_string()
        };
        let tensors =
            r#"{"inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}], "batched": false}"#;
        let expected = "x:FP32[-1,2] (no batch dimension)";
        let path = written(tensors);
        for line in [
            format!("--signature {path}"),
            format!("--input-type tensors --signature {path}"),
        ] {
            assert_eq!(version(&line).unwrap().to_string(), expected);
        }
        let refused = |line: String, words: &str| {
            let error = version(&line).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{line}");
            assert!(error.to_string().contains(words), "{line}: {error}");
        };
        refused(format!("--input-type doubles --signature {path}"), "not doubles");
        refused(format!("--signature {path} --in x:FP32"), "cannot be used with");
        let body = format!(r#"{{"model": "m", "input_type": "tensors", "signature": {tensors}}}"#);
        let path = written(&body);
        assert_eq!(
            version(&format!("--signature {path}")).unwrap().to_string(),
            expected
        );
        refused(
            format!("--signature {path} --input-type doubles"),
            "it says input type tensors",
        );
        let path = written(r#"{"outputs": [{"name": "y", "datatype": "FP32"}]}"#);
        let line = format!("--input-type doubles --signature {path}");
        assert_eq!(version(&line).unwrap().to_string(), "doubles -> y:FP32[]");
        refused(format!("--signature {path}"), "no input tensors");
        refused(format!("--signature {}", written("inputs")), "not JSON");
        refused(
            format!("--signature {}", written(r#"{"input": []}"#)),
            "unknown field `input`",
        );
    }
}

//! What is typed: the top of the command line, and the parsers of its values.
//!
//! A value is checked here or not at all, so that a mistake is a usage error (exit code 2) before anything
//! is sent. Each noun's own arguments stand in its file under `commands`.

use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::builder::styling::{AnsiColor, Styles};
use clap::{Args, CommandFactory, FromArgMatches, Parser, ValueEnum};
use reqwest::Url;
use skysail_process::variables;
use skysail_proto::ids::{InvalidName, ModelId, ModelName, ModelVersion};

use crate::commands::Command;

const EXAMPLES: &str = "\
Examples:
  skysail start
  skysail app register iris --input-type doubles --default-output=-1.0 \\
      --slo 100ms
  skysail model deploy iris-model:1 --image skysail/iris-svm \\
      --input-type doubles --replicas 3
  skysail app link iris iris-model
  skysail predict iris '[7.9, 4.4, 6.9, 2.5]'
  skysail bench iris --rate 500
  skysail status

`skysail help NOUN` tells more about each.";

/// Serves predictions: registers applications, deploys models, runs clusters.
#[derive(Debug, Parser)]
#[command(name = "skysail", version, max_term_width = 100, styles = STYLES, after_help = EXAMPLES)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) general: GeneralArguments,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Reads the command line. A variable of the environment that is set but empty is one that is not set.
pub(crate) fn parse() -> Arguments {
    let command = variables::without_blank(Arguments::command());
    let matches = command.get_matches();
    Arguments::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
}

const STYLES: Styles = Styles::styled()
    .header(AnsiColor::Green.on_default().bold())
    .usage(AnsiColor::Green.on_default().bold())
    .literal(AnsiColor::Cyan.on_default().bold())
    .placeholder(AnsiColor::Cyan.on_default());

/// Arguments that every command takes.
#[derive(Args, Debug)]
#[command(next_help_heading = "General options")]
pub(crate) struct GeneralArguments {
    /// The frontend's admin API
    #[arg(
        long,
        global = true,
        value_name = "URL",
        env = "SKYSAIL_ADMIN_URL",
        default_value = "http://127.0.0.1:1338",
        value_parser = parse_url
    )]
    pub(crate) admin_url: Url,
    /// A file with the admin API's token [default: the token in SKYSAIL_ADMIN_TOKEN, or the one that
    /// `skysail start` keeps for the admin URL]
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) admin_token_file: Option<PathBuf>,
    /// The query API [default: what the admin API names]
    #[arg(long, global = true, value_name = "URL", env = "SKYSAIL_QUERY_URL", value_parser = parse_url)]
    pub(crate) query_url: Option<Url>,
    /// How results are printed; `json` prints the admin API's answer as it is
    #[arg(long, short, global = true, value_name = "FORMAT", default_value = "table")]
    pub(crate) output: Format,
}

/// How results are printed: in tables for people, or as the admin API's answer, byte for byte.
//
// The values carry no help of their own: with it, clap spreads every command's help over twice the lines.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum Format {
    Table,
    Json,
}

/// A model and perhaps one of its versions, written `NAME[:VERSION]`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct ModelTarget {
    pub(crate) name: ModelName,
    pub(crate) version: Option<ModelVersion>,
}

impl FromStr for ModelTarget {
    type Err = InvalidName;
    fn from_str(text: &str) -> Result<Self, InvalidName> {
        if text.contains(':') {
            let ModelId { name, version } = text.parse()?;
            return Ok(Self {
                name,
                version: Some(version),
            });
        }
        Ok(Self {
            name: text.parse()?,
            version: None,
        })
    }
}

/// A latency objective, in whole microseconds.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct SloMicros(pub(crate) i64);

/// A value that was refused, and what a good one looks like.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InvalidValue {
    #[error("the unit is missing; write `{0}ms` or `{0}s`")]
    UnitMissing(String),
    #[error("{0}; write it as in `100ms`, `1s` or `1m 30s`")]
    Duration(String),
    #[error("it must be at least one microsecond, as in `1us` or `100ms`")]
    SloTooShort,
    #[error("it is longer than {} microseconds", i64::MAX)]
    SloTooLong,
    #[error("write a number and perhaps a unit (k, m, g, t), as in `512m` or `2g`")]
    Size,
    #[error("it must be greater than 0")]
    NotPositive,
    #[error("write NAME=VALUE, as in `LOG_LEVEL=debug`")]
    Variable,
    #[error("{0}; write one input as JSON, as in `[7.9, 4.4, 6.9, 2.5]` or `\"some text\"`")]
    Input(String),
    #[error("{0}; write it as in `http://127.0.0.1:1338`")]
    Url(String),
    #[error("only http is supported; put a proxy in front for https")]
    UrlScheme,
}

/// Parses a length of time that carries its unit; a plain number is refused, because nobody could tell
/// whether it means seconds or milliseconds.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, InvalidValue> {
    let text = text.trim();
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit() || b == b'.') && text != "0" {
        return Err(InvalidValue::UnitMissing(text.to_owned()));
    }
    humantime::parse_duration(text).map_err(|error| InvalidValue::Duration(error.to_string()))
}

/// Parses a latency objective.
pub(crate) fn parse_slo(text: &str) -> Result<SloMicros, InvalidValue> {
    if text.trim_start().starts_with('-') {
        return Err(InvalidValue::SloTooShort);
    }
    let micros = parse_duration(text)?.as_micros();
    if micros == 0 {
        return Err(InvalidValue::SloTooShort);
    }
    i64::try_from(micros)
        .map(SloMicros)
        .map_err(|_| InvalidValue::SloTooLong)
}

/// Parses a memory size as Docker does: units are powers of 1024, none means bytes.
pub(crate) fn parse_size(text: &str) -> Result<u64, InvalidValue> {
    let text = text.trim().to_ascii_lowercase();
    let unit_at = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(unit_at);
    let shift = match unit.trim() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => return Err(InvalidValue::Size),
    };
    let number: f64 = number.parse().map_err(|_| InvalidValue::Size)?;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "no sign was taken, a fraction of a byte does not count, and the cast saturates"
    )]
    let bytes = (number * f64::from(2_u32).powi(shift)) as u64;
    match bytes {
        0 => Err(InvalidValue::NotPositive),
        // What does not fit the container runtime's signed number is a slip of the finger.
        _ if i64::try_from(bytes).is_err() => Err(InvalidValue::Size),
        _ => Ok(bytes),
    }
}

/// Parses a number of CPUs, of which a part may be given.
pub(crate) fn parse_cpus(text: &str) -> Result<f64, InvalidValue> {
    let cpus: f64 = text.parse().map_err(|_| InvalidValue::NotPositive)?;
    if cpus.is_finite() && cpus > 0.0 {
        Ok(cpus)
    } else {
        Err(InvalidValue::NotPositive)
    }
}

/// Parses one environment variable. The value may be empty and may hold further equals signs.
pub(crate) fn parse_variable(text: &str) -> Result<(String, String), InvalidValue> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err(InvalidValue::Variable),
    }
}

/// Parses an input that is not for a query: whether it fits the version, the server says.
pub(crate) fn parse_input(text: &str) -> Result<serde_json::Value, InvalidValue> {
    serde_json::from_str(text).map_err(|error| InvalidValue::Input(error.to_string()))
}

/// Parses the URL of an API; `HOST:PORT` alone is taken too.
pub(crate) fn parse_url(text: &str) -> Result<Url, InvalidValue> {
    let text = text.trim();
    let full = if text.contains("://") {
        text.to_owned()
    } else {
        format!("http://{text}")
    };
    let url = Url::parse(&full).map_err(|error| InvalidValue::Url(error.to_string()))?;
    if url.scheme() == "http" {
        Ok(url)
    } else {
        Err(InvalidValue::UrlScheme)
    }
}

/// Whether `url` names this machine, so that no proxy may stand between.
pub(crate) fn is_local(url: &Url) -> bool {
    let Some(host) = url.host_str() else { return false };
    let address = host.trim_matches(['[', ']']);
    host == "localhost" || address.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::app::AppCommand;
    use crate::commands::model::ModelCommand;

    fn parse(line: &[&str]) -> Result<Command, clap::Error> {
        Arguments::try_parse_from([&["skysail"], line].concat()).map(|arguments| arguments.command)
    }

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn a_default_output_may_begin_with_a_dash() {
        let base = [
            "app",
            "register",
            "iris",
            "--input-type",
            "doubles",
            "--slo",
            "1s",
        ];
        for tail in [&["--default-output=-1.0"][..], &["--default-output", "-1.0"]] {
            let command = parse(&[&base, tail].concat()).unwrap();
            let Command::App(AppCommand::Register(register)) = command else {
                panic!("{command:?}");
            };
            assert_eq!(register.default_output, "-1.0");
            assert_eq!(register.slo, SloMicros(1_000_000));
        }
    }

    #[test]
    fn a_latency_objective_carries_its_unit() {
        let good = [
            ("100ms", 100_000),
            ("1s", 1_000_000),
            ("250us", 250),
            ("1m 30s", 90_000_000),
        ];
        for (text, micros) in good {
            assert_eq!(parse_slo(text).unwrap(), SloMicros(micros), "{text}");
        }
        let bad = [
            ("100", "write `100ms`"),
            ("0", "at least one microsecond"),
            ("0s", "at least one microsecond"),
            ("10ns", "at least one microsecond"),
            ("-5ms", "at least one microsecond"),
            ("soon", "100ms"),
            ("", "100ms"),
            ("300000years", "longer"),
        ];
        for (text, expected) in bad {
            let error = parse_slo(text).expect_err(text).to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn a_negative_objective_reaches_the_parser_instead_of_being_taken_for_a_flag() {
        let error = parse(&["app", "update", "iris", "--slo", "-5ms"])
            .unwrap_err()
            .to_string();
        assert!(error.contains("at least one microsecond"), "{error}");
    }

    #[test]
    fn an_update_changes_something() {
        assert!(parse(&["app", "update", "iris"]).is_err());
        assert!(parse(&["app", "update", "iris", "--slo", "2s"]).is_ok());
    }

    #[test]
    fn sizes_are_read_as_docker_reads_them() {
        let good = [
            ("512", 512),
            ("64k", 65_536),
            ("512m", 536_870_912),
            ("1g", 1_073_741_824),
            ("1.5G", 1_610_612_736),
            ("2GiB", 2_147_483_648),
            ("10 mb", 10_485_760),
        ];
        for (text, bytes) in good {
            assert_eq!(parse_size(text).unwrap(), bytes, "{text}");
        }
        for bad in ["", "m", "0", "0m", "-1m", "1x", "1..5g", "99999999t", "1e3"] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_variable_is_split_at_its_first_equals_sign() {
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(parse_variable("A=b=c").unwrap(), pair("A", "b=c"));
        assert_eq!(parse_variable("A=").unwrap(), pair("A", ""));
        assert!(parse_variable("A").is_err());
        assert!(parse_variable("=b").is_err());
    }

    #[test]
    fn variables_are_collected_in_any_number() {
        let line = "model deploy m:1 --image i --input-type bytes --env A=1 --env B=2 --batch-size aimd";
        let command = parse(&line.split(' ').collect::<Vec<_>>()).unwrap();
        let Command::Model(ModelCommand::Deploy(deploy)) = command else {
            panic!("{command:?}");
        };
        let names: Vec<_> = deploy.env.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["A", "B"]);
        assert!(deploy.waits());
    }

    #[test]
    fn a_warm_up_input_is_json() {
        let base = [
            "model",
            "deploy",
            "m:1",
            "--image",
            "i",
            "--input-type",
            "strings",
            "--warm-up",
        ];
        let command = parse(&[&base[..], &["\"some text\""]].concat()).unwrap();
        let Command::Model(ModelCommand::Deploy(deploy)) = command else {
            panic!("{command:?}");
        };
        assert_eq!(deploy.warm_up, Some("some text".into()));
        let error = parse(&[&base[..], &["some text"]].concat()).unwrap_err();
        assert!(error.to_string().contains("one input as JSON"), "{error}");
        assert_eq!(error.exit_code(), 2);
    }

    #[test]
    fn deploying_may_be_told_not_to_wait() {
        let line = "model deploy m:1 --image i --input-type bytes --no-wait";
        let command = parse(&line.split(' ').collect::<Vec<_>>()).unwrap();
        let Command::Model(ModelCommand::Deploy(deploy)) = command else {
            panic!("{command:?}");
        };
        assert!(!deploy.waits());
    }

    /// The examples in the help of a command and of its subcommands: the indented lines after the options.
    fn examples(command: &clap::Command, found: &mut Vec<String>) {
        let help = command.get_after_help().map(ToString::to_string);
        let lines = help.iter().flat_map(|help| help.lines());
        found.extend(lines.filter(|line| line.starts_with("  ")).map(str::to_owned));
        for subcommand in command.get_subcommands() {
            examples(subcommand, found);
        }
    }

    #[test]
    fn no_example_is_too_wide_for_a_terminal_of_80_columns() {
        let mut found = Vec::new();
        examples(&Arguments::command(), &mut found);
        assert!(found.len() > 20, "{found:?}");
        let broken: Vec<_> = found.iter().filter(|line| line.chars().count() > 80).collect();
        assert!(broken.is_empty(), "clap would break these lines: {broken:#?}");
    }

    /// A paragraph over several lines is ragged where clap breaks them once more.
    #[test]
    fn paragraphs_below_the_examples_are_wrapped_by_clap_alone() {
        fn visit(command: &clap::Command, broken: &mut Vec<String>, seen: &mut usize) {
            let help = command
                .get_after_help()
                .map(ToString::to_string)
                .unwrap_or_default();
            for paragraph in help
                .split("\n\n")
                .filter(|paragraph| !paragraph.starts_with("Examples:"))
            {
                *seen += usize::from(!paragraph.is_empty());
                if paragraph.contains('\n') {
                    broken.push(paragraph.to_owned());
                }
            }
            for subcommand in command.get_subcommands() {
                visit(subcommand, broken, seen);
            }
        }
        let (mut broken, mut seen) = (Vec::new(), 0);
        visit(&Arguments::command(), &mut broken, &mut seen);
        assert!(seen > 10);
        assert!(broken.is_empty(), "{broken:#?}");
    }

    #[test]
    fn a_version_may_be_left_out_where_one_is_understood() {
        let target: ModelTarget = "iris-model".parse().unwrap();
        assert_eq!(target.version, None);
        let target: ModelTarget = "iris-model:2.1".parse().unwrap();
        assert_eq!(target.version.unwrap().as_str(), "2.1");
        assert!("iris-model:".parse::<ModelTarget>().is_err());
    }

    #[test]
    fn an_unknown_input_type_is_answered_with_those_that_exist() {
        let line = "app register a --input-type double --default-output x --slo 1s";
        let error = parse(&line.split(' ').collect::<Vec<_>>()).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("bytes, integers, floats, doubles, strings"),
            "{error}"
        );
        assert_eq!(error.exit_code(), 2);
    }

    #[test]
    fn a_url_may_leave_the_scheme_out_but_may_not_ask_for_another() {
        assert_eq!(
            parse_url("localhost:1338/").unwrap().as_str(),
            "http://localhost:1338/"
        );
        assert_eq!(
            parse_url("http://10.0.0.1:80").unwrap().as_str(),
            "http://10.0.0.1/"
        );
        assert!(matches!(parse_url("https://a"), Err(InvalidValue::UrlScheme)));
        assert!(parse_url("http://").is_err());
    }

    #[test]
    fn loopback_is_this_machine() {
        for (url, local) in [
            ("http://127.0.0.1:1338", true),
            ("http://[::1]:1338", true),
            ("http://localhost", true),
            ("http://10.0.0.1", false),
            ("http://example.org", false),
        ] {
            assert_eq!(is_local(&parse_url(url).unwrap()), local, "{url}");
        }
    }

    #[test]
    fn an_input_is_given_in_one_way() {
        assert!(parse(&["predict", "iris", "[1.0]"]).is_ok());
        assert!(parse(&["predict", "iris", "-"]).is_ok());
        assert!(parse(&["predict", "iris", "--file", "x.json"]).is_ok());
        assert!(parse(&["predict", "iris", "-1.5"]).is_ok());
        assert!(parse(&["predict", "iris"]).is_err());
        assert!(parse(&["predict", "iris", "[1.0]", "--file", "x.json"]).is_err());
    }
}

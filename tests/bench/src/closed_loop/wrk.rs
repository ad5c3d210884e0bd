//! `wrk` as the sender: a script makes the requests and prints what was counted.

use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, ensure};
use serde::Deserialize;
use tokio::process::Command;

use super::request::DIGITS;
use super::sender::{Answers, Load};

/// What the script prints in its last line.
#[derive(Debug, Deserialize)]
struct Printed {
    requests: u64,
    micros: f64,
    p50: f64,
    p99: f64,
    failed: u64,
}

pub(super) async fn send(program: &Path, load: &Load) -> anyhow::Result<Answers> {
    let folder = tempfile::tempdir()?;
    let script = folder.path().join("requests.lua");
    tokio::fs::write(&script, script_of(load)).await?;
    let mut command = Command::new(program);
    command
        .arg(format!("--threads={}", load.threads))
        .arg(format!("--connections={}", load.connections))
        .arg(format!("--duration={}s", load.lasts.as_secs()))
        .arg("--script")
        .arg(&script)
        .arg(url(load)?)
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let output = command.output().await.context("it cannot be started")?;
    let said = String::from_utf8_lossy(&output.stdout);
    let complained = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{said}{complained}");
    parse(&said).with_context(|| format!("it said:\n{said}{complained}"))
}

/// The script has the whole request; of the URL only the address counts.
fn url(load: &Load) -> anyhow::Result<String> {
    let mut lines = load.request.head.lines();
    let host = lines.find_map(|line| line.strip_prefix("Host: "));
    Ok(format!("http://{}/", host.context("a request names its host")?))
}

/// Threads have globals of their own; each counts on from another number.
fn script_of(load: &Load) -> String {
    format!(
        r#"local threads = 0

function setup(thread)
   thread:set("number", {first} + threads * {apart})
   threads = threads + 1
end

function request()
   number = number + {step}
   return {head} .. string.format("%0{DIGITS}d", number) .. {tail}
end

function done(summary, latency, requests)
   local errors = summary.errors
   local failed = errors.connect + errors.read + errors.write + errors.status + errors.timeout
   print(string.format('{{"requests":%d,"micros":%d,"p50":%d,"p99":%d,"failed":%d}}',
      summary.requests, summary.duration, latency:percentile(50), latency:percentile(99), failed))
end
"#,
        first = load.asks.first(),
        apart = load.asks.apart(),
        step = load.asks.step(),
        head = quoted(&load.request.head),
        tail = quoted(&load.request.tail),
    )
}

/// A string as Lua reads it. (A long string would lose the carriage returns.)
fn quoted(text: &str) -> String {
    let escaped = text
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\r', "\\r")
        .replace('\n', "\\n");
    format!("\"{escaped}\"")
}

fn parse(said: &str) -> anyhow::Result<Answers> {
    let line = said.lines().rfind(|line| line.starts_with('{'));
    let printed: Printed = serde_json::from_str(line.context("the script's line is missing")?)?;
    ensure!(printed.requests > 0, "nothing was answered");
    Ok(Answers {
        count: printed.requests,
        seconds: printed.micros / 1e6,
        p50_micros: printed.p50,
        p99_micros: printed.p99,
        failed: printed.failed,
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::closed_loop::request::{Asks, Request};

    fn load(asks: Asks) -> Load {
        Load {
            request: Request::to("127.0.0.1:4711".parse().unwrap(), "iris"),
            asks,
            connections: 1,
            threads: 1,
            lasts: Duration::from_secs(1),
        }
    }

    #[test]
    fn what_the_script_prints_is_read_and_what_wrk_prints_is_not() {
        let said = "Running 2s test @ http://127.0.0.1:4711/\n  Latency   114.00us\nRequests/sec: 8000\n\
                    {\"requests\":16000,\"micros\":2000500,\"p50\":110,\"p99\":310,\"failed\":2}\n";
        let answers = parse(said).unwrap();
        assert_eq!((answers.count, answers.failed), (16_000, 2));
        assert_eq!((answers.p50_micros, answers.p99_micros), (110.0, 310.0));
        assert_eq!(answers.seconds, 2.0005);
    }

    #[test]
    fn a_run_without_an_answer_is_an_error() {
        let silent = r#"{"requests":0,"micros":1000000,"p50":0,"p99":0,"failed":9}"#;
        for said in ["", "unable to connect\n", silent] {
            assert!(parse(said).is_err(), "{said}");
        }
    }

    #[test]
    fn the_script_has_the_request_with_its_line_ends_and_counts_on_only_if_asked_to() {
        let unique = script_of(&load(Asks::Unique));
        assert!(
            unique.contains(r#""POST /iris/predict HTTP/1.1\r\nHost: 127.0.0.1:4711\r\n"#),
            "{unique}"
        );
        assert!(unique.contains("number = number + 1"), "{unique}");
        let same = script_of(&load(Asks::Same));
        assert!(same.contains("number = number + 0"), "{same}");
        assert!(same.contains("0 + threads * 0"), "{same}");
        assert_eq!(url(&load(Asks::Same)).unwrap(), "http://127.0.0.1:4711/");
    }
}

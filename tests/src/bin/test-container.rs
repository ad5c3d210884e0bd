//! The container that the runtimes' conformance checks run: it does what `TEST_SCRIPT` says, a command a
//! line, as `skysail_frontend::runtime::conformance` describes. It knows nothing of Skysail, so that what
//! goes wrong in it is the runtime's.

use std::env;
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::timeout;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    if let Some(words) = as_subreaper() {
        // Only a failure comes back.
        eprintln!("{}", Command::new(&words[0]).args(&words[1..]).exec());
        return ExitCode::FAILURE;
    }
    let script = env::var("TEST_SCRIPT").unwrap_or_default();
    for line in script.lines() {
        let (command, argument) = line.split_once(' ').unwrap_or((line, ""));
        match run(command, argument).await {
            Ok(None) => {}
            Ok(Some(code)) => return code,
            Err(error) => {
                eprintln!("`{line}` failed: {error}");
                return ExitCode::FAILURE;
            }
        }
    }
    ExitCode::SUCCESS
}

/// The command line to become, where this is to be a subreaper: orphans go to it as they do to process 1.
fn as_subreaper() -> Option<Vec<String>> {
    let words: Vec<String> = env::args().skip(1).collect();
    let (first, rest) = words.split_first()?;
    if first != "as-subreaper" || rest.is_empty() {
        return None;
    }
    rustix::process::set_child_subreaper(Some(rustix::process::getpid())).ok()?;
    Some(rest.to_owned())
}

/// Does one command; a code means that the script ends here.
async fn run(command: &str, argument: &str) -> io::Result<Option<ExitCode>> {
    match command {
        "print" => println!("{argument}"),
        "complain" => eprintln!("{argument}"),
        "begin" => {
            print!("{argument}");
            io::stdout().flush()?;
        }
        "env" => match env::var(argument) {
            Ok(value) => println!("{argument}={value}"),
            Err(_) => println!("{argument} is not set"),
        },
        "on-term" => {
            let text = argument.to_owned();
            tokio::spawn(end_at(signal(SignalKind::terminate())?, text));
        }
        // A signal that is listened to does nothing by itself any more, also once nobody listens.
        "ignore-term" => drop(signal(SignalKind::terminate())?),
        "child" => {
            let child = Command::new(env::current_exe()?)
                .env("TEST_SCRIPT", argument)
                .spawn()?;
            println!("child {}", child.id());
        }
        // A child that leaves so many of its own behind when it ends.
        "orphans" => {
            let script = format!("leave {argument}\nexit 0");
            let child = Command::new(env::current_exe()?)
                .env("TEST_SCRIPT", script)
                .spawn()?;
            let ended = tokio::task::spawn_blocking(move || child.wait_with_output());
            ended.await.map_err(io::Error::other)??;
        }
        "leave" => {
            for _ in 0..argument.parse().unwrap_or(0) {
                Command::new("true").spawn()?;
            }
        }
        "flood" => flood(argument)?,
        "wait" => std::future::pending().await,
        "abort" => std::process::abort(),
        "fill" => fill(argument),
        "ask" => println!("{argument}: {}", ask(argument).await),
        "exit" => {
            return Ok(Some(
                argument.parse().map_or(ExitCode::FAILURE, |code: u8| code.into()),
            ));
        }
        _ => return Err(io::Error::other("no such command")),
    }
    Ok(None)
}

async fn end_at(mut signal: Signal, text: String) {
    signal.recv().await;
    println!("{text}");
    std::process::exit(0);
}

/// How long an answer may take: whatever drops what it is sent never gives one.
const BOUND: Duration = Duration::from_secs(5);

/// What becomes of an HTTP request for the path `/` to `host:port`: the first line of the answer, or why there is
/// none.
async fn ask(address: &str) -> String {
    let exchange = async {
        let mut stream = TcpStream::connect(address)
            .await
            .map_err(|error| format!("not reached, {error}"))?;
        let request = format!("GET / HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
        let _ = stream.write_all(request.as_bytes()).await;
        let mut answer = Vec::new();
        // What came before the connection broke counts.
        let _ = stream.read_to_end(&mut answer).await;
        let answer = String::from_utf8_lossy(&answer).into_owned();
        Ok::<_, String>(match answer.lines().next() {
            Some(line) => format!("answered {line}"),
            None => "closed without an answer".to_owned(),
        })
    };
    let answer = timeout(BOUND, exchange).await;
    answer.map_or_else(
        |_| "not reached in time".to_owned(),
        |answer| answer.unwrap_or_else(|why| why),
    )
}

/// Prints as many MiB as it is told, in short lines.
fn flood(mebibytes: &str) -> io::Result<()> {
    let mebibytes: usize = mebibytes.parse().unwrap_or_default();
    let piece = b"flood\n".repeat(1000);
    let mut stdout = io::stdout().lock();
    for _ in 0..(mebibytes << 20) / piece.len() {
        stdout.write_all(&piece)?;
    }
    stdout.flush()
}

/// Touches as many MiB of memory as it is told.
fn fill(mebibytes: &str) {
    let mebibytes: usize = mebibytes.parse().unwrap_or_default();
    let memory = vec![1_u8; mebibytes << 20];
    println!("filled {} MiB", std::hint::black_box(memory).len() >> 20);
}

//! Log lines, panic messages and last words on stderr, without ever waiting for whoever reads them.

use std::any::Any;
use std::backtrace::{Backtrace, BacktraceStatus};
use std::fmt::{self, Debug};
use std::io::{self, IsTerminal};
use std::os::fd::{AsFd, OwnedFd};
use std::panic::{self, PanicHookInfo};
use std::sync::OnceLock;
use std::time::Duration;

use tracing::field::Field;
use tracing::{error, warn};
use tracing_subscriber::field::MakeExt;
use tracing_subscriber::filter::EnvFilter;
use tracing_subscriber::fmt::format::{Writer, debug_fn};
use tracing_subscriber::util::TryInitError;

use crate::outlet::Outlet;
use crate::visible;

/// How long the end of a process waits for its last lines to be read.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// How log lines look.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Format {
    /// For people.
    Text,
    /// For collectors.
    Json,
}

/// What becomes of the line that is being logged.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Delivery {
    /// The line is written a moment later. For programs that end by returning from `main`.
    Queued,
    /// Whoever logs waits until the line is written, for so long at most, and nobody waits while the reader
    /// is known not to read. For programs whose code is not ours and may call `exit` after a line.
    Awaited(Duration),
}

/// Why logging did not start.
#[derive(Debug)]
pub enum StartError {
    /// The program has a logger of its own, which stays; so does its panic hook.
    Present,
    /// The operating system gives no thread.
    NoThread(io::Error),
}

/// Starts logging and takes over the messages of panics; a process does so once.
pub fn start(filter: EnvFilter, format: Format, delivery: Delivery) -> Result<(), StartError> {
    let outlet = outlet().map_err(StartError::NoThread)?;
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(move || Line { outlet, delivery })
        // A complaint about a line that cannot be written would be made with `eprintln!`, which waits.
        .log_internal_errors(false);
    let started: Result<(), TryInitError> = match format {
        Format::Text => {
            let fields = debug_fn(write_field).delimited(" ");
            let init = lines.with_ansi(io::stderr().is_terminal()).fmt_fields(fields);
            tracing_subscriber::util::SubscriberInitExt::try_init(init.finish())
        }
        Format::Json => {
            let init = lines.json().flatten_event(true);
            tracing_subscriber::util::SubscriberInitExt::try_init(init.finish())
        }
    };
    started.map_err(|_| StartError::Present)?;
    // The default hook writes to stderr itself, and waits there for its reader.
    panic::set_hook(Box::new(log_panic));
    Ok(())
}

/// Says something on stderr that is no log line, as does the end of a program that cannot start.
pub fn say(text: &str) {
    match outlet() {
        Ok(outlet) => outlet.write(format!("{text}\n").as_bytes()),
        // Without a thread, to wait for the reader is all that is left.
        Err(_) => eprintln!("{text}"),
    }
}

/// Waits until everything is written, but no longer than a second: a reader that does not read keeps no
/// process from ending. The last thing a `main` does.
pub fn finish() {
    finish_within(LAST_WORDS);
}

/// Like [`finish`], with another bound.
pub fn finish_within(patience: Duration) {
    if let Some(Ok(outlet)) = OUTLET.get() {
        outlet.flush(patience);
    }
}

/// The lines that were left out so far, because nobody read or they could not be written.
pub fn lines_left_out() -> u64 {
    match OUTLET.get() {
        Some(Ok(outlet)) => outlet.left_out(),
        _ => 0,
    }
}

static OUTLET: OnceLock<io::Result<Outlet>> = OnceLock::new();

/// The outlet to stderr.
fn outlet() -> io::Result<&'static Outlet> {
    let started = OUTLET.get_or_init(|| {
        let stderr: OwnedFd = io::stderr().as_fd().try_clone_to_owned()?;
        Outlet::start(stderr, "log", |lines| {
            warn!(
                lines,
                "log lines were left out: nobody read them, or they could not be written"
            );
        })
    });
    started
        .as_ref()
        .map_err(|error| io::Error::new(error.kind(), error.to_string()))
}

/// Writes a field as the library does, and on one line: what others said neither commands a terminal nor makes
/// a line of its own.
fn write_field(writer: &mut Writer<'_>, field: &Field, value: &dyn Debug) -> fmt::Result {
    let text = format!("{value:?}");
    match (field.name(), writer.has_ansi_escapes()) {
        ("message", _) => writer.write_str(&visible::line(&text)),
        ("backtrace", _) => write!(writer, "\n{}", visible::lines(&text)),
        (name, true) => write!(
            writer,
            "\x1b[3m{name}\x1b[0m\x1b[2m=\x1b[0m{}",
            visible::line(&text)
        ),
        (name, false) => write!(writer, "{name}={}", visible::line(&text)),
    }
}

/// A log line on its way; it is written in one piece.
struct Line {
    outlet: &'static Outlet,
    delivery: Delivery,
}

impl io::Write for Line {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.delivery {
            Delivery::Queued => self.outlet.write(bytes),
            Delivery::Awaited(patience) => self.outlet.write_now(bytes, patience),
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn log_panic(panic: &PanicHookInfo<'_>) {
    let thread = std::thread::current();
    let thread = thread.name().unwrap_or("<unnamed>");
    let place = panic.location().map(ToString::to_string).unwrap_or_default();
    let message = words(panic.payload());
    // Empty unless RUST_BACKTRACE asks for one.
    let backtrace = Backtrace::capture();
    match backtrace.status() {
        BacktraceStatus::Captured => error!(thread, place, message, %backtrace, "a thread panicked"),
        _ => error!(thread, place, message, "a thread panicked"),
    }
}

/// What a panic says, if it says something.
fn words(payload: &dyn Any) -> &str {
    if let Some(text) = payload.downcast_ref::<&str>() {
        return text;
    }
    payload.downcast_ref::<String>().map_or("", String::as_str)
}

//! The signals that ask a process to end: SIGTERM, SIGINT, SIGQUIT and SIGHUP.
//!
//! One that was ignored when the process started stays ignored: that is how `nohup` and shells that start
//! something in the background say that it is not meant.

use std::future::poll_fn;
use std::io;
use std::process;
use std::sync::mpsc;
use std::task::Poll;
use std::thread;
use std::time::Duration;

use tokio::runtime::Builder;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::{info, warn};

use crate::log;

/// How long an end at once waits for the log.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// A signal that asks a process to end.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum EndSignal {
    /// From a supervisor.
    Terminate,
    /// Ctrl-C.
    Interrupt,
    /// Ctrl-\.
    Quit,
    /// The terminal is gone.
    Hangup,
}

impl EndSignal {
    const ALL: [Self; 4] = [Self::Terminate, Self::Interrupt, Self::Quit, Self::Hangup];

    /// As it is written.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Terminate => "SIGTERM",
            Self::Interrupt => "SIGINT",
            Self::Quit => "SIGQUIT",
            Self::Hangup => "SIGHUP",
        }
    }

    /// What a shell reports for a process that this signal ended.
    pub fn exit_code(self) -> i32 {
        128 + self.kind().as_raw_value()
    }

    fn kind(self) -> SignalKind {
        match self {
            Self::Terminate => SignalKind::terminate(),
            Self::Interrupt => SignalKind::interrupt(),
            Self::Quit => SignalKind::quit(),
            Self::Hangup => SignalKind::hangup(),
        }
    }
}

/// Hears the signals that were not ignored at the start.
pub struct EndSignals(Vec<(EndSignal, Signal)>);

impl EndSignals {
    /// Installs the handlers: from now on none of these signals ends the process by itself. Must be called
    /// within a tokio runtime.
    pub fn listen() -> io::Result<Self> {
        let ignored = ignored();
        let heard = EndSignal::ALL
            .into_iter()
            .filter(|which| !ignored.contains(which.kind()));
        let signals = heard.map(|which| Ok((which, signal(which.kind())?)));
        signals.collect::<io::Result<_>>().map(Self)
    }

    /// Waits for the next.
    pub async fn next(&mut self) -> EndSignal {
        poll_fn(|context| {
            for (which, signal) in &mut self.0 {
                if signal.poll_recv(context).is_ready() {
                    return Poll::Ready(*which);
                }
            }
            Poll::Pending
        })
        .await
    }
}

/// Lets programs that are started from here hear the signals that were ignored at the start: what is ignored is
/// inherited, a handler is not. This process goes on ignoring them, by handlers that do nothing. Must be called within
/// a tokio runtime.
pub fn ignore_here_only() -> io::Result<()> {
    let ignored = ignored();
    for which in EndSignal::ALL {
        if ignored.contains(which.kind()) {
            drop(signal(which.kind())?);
        }
    }
    Ok(())
}

/// Calls `end` at the first signal, and ends the process at the second. The handlers are in place when this
/// returns.
///
/// All of it happens on a thread that does nothing else: whatever the others wait for, a signal is heard.
pub fn watch(end: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let (tell, installed) = mpsc::sync_channel(1);
    let thread = move || {
        let runtime = match Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => return drop(tell.send(Err(error))),
        };
        runtime.block_on(async {
            match EndSignals::listen() {
                Ok(signals) => {
                    let _ = tell.send(Ok(()));
                    follow(signals, end).await;
                }
                Err(error) => drop(tell.send(Err(error))),
            }
        });
    };
    thread::Builder::new().name("signals".to_owned()).spawn(thread)?;
    installed
        .recv()
        .unwrap_or_else(|_| Err(io::Error::other("the thread for signals ended")))
}

async fn follow(mut signals: EndSignals, end: impl FnOnce()) {
    let first = signals.next().await;
    info!(signal = first.name(), "ending gracefully; once more ends at once");
    end();
    let second = signals.next().await;
    warn!(signal = second.name(), "ending at once");
    log::finish_within(LAST_WORDS);
    process::exit(second.exit_code());
}

/// The signals that this process ignores.
struct Ignored(u64);

impl Ignored {
    fn contains(&self, kind: SignalKind) -> bool {
        let number = u32::try_from(kind.as_raw_value()).unwrap_or_default();
        number > 0 && self.0.checked_shr(number - 1).is_some_and(|mask| mask & 1 == 1)
    }
}

/// By the kernel's word: to ask the C library is unsafe. Where the kernel does not say, none.
fn ignored() -> Ignored {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    ignored_in(&status)
}

fn ignored_in(status: &str) -> Ignored {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    Ignored(mask.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_ignored_at_the_start_is_told_by_the_kernel() {
        let status = "SigBlk:\t0000000000000000\nSigIgn:\t0000000000001001\nSigCgt:\t0000000180004002\n";
        let ignored = ignored_in(status);
        let of = EndSignal::ALL.map(|which| ignored.contains(which.kind()));
        assert_eq!(of, [false, false, false, true]);
        assert!(
            EndSignal::ALL
                .iter()
                .all(|which| !ignored_in("").contains(which.kind()))
        );
    }

    #[test]
    fn an_end_at_once_is_reported_as_shells_do() {
        let codes = EndSignal::ALL.map(EndSignal::exit_code);
        assert_eq!(codes, [143, 130, 131, 129]);
    }
}

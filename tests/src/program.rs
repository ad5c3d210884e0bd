//! A child process with its log: killed with its guard, its log shown if the test fails.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::thread;

use parking_lot::{Condvar, Mutex};
use rustix::process::{Pid, Signal, kill_process};

use crate::wait::{self, PATIENCE};

/// The lines of a log that are shown when a test fails.
const SHOWN_LINES: usize = 60;

/// A running program. Dropping it kills it.
pub struct Program {
    name: String,
    child: Child,
    log: Log,
    readers: Vec<thread::JoinHandle<()>>,
}

/// What a program has printed so far, on both outputs.
#[derive(Clone, Default)]
pub struct Log {
    lines: Arc<Mutex<Vec<String>>>,
    gate: Arc<Gate>,
}

/// Keeps a log from being read.
#[derive(Default)]
struct Gate {
    closed: Mutex<bool>,
    changed: Condvar,
}

impl Program {
    /// Starts a program; `name` is what it is called when a test fails.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn start(name: impl Into<String>, mut command: Command) -> Self {
        let name = name.into();
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{name} cannot be started: {error}"));
        let log = Log::default();
        let readers = vec![
            log.follow(child.stdout.take().expect("it is piped")),
            log.follow(child.stderr.take().expect("it is piped")),
        ];
        Self {
            name,
            child,
            log,
            readers,
        }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its log.
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("a child can be signalled");
    }

    /// How it ended, if it did.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child can be asked")
    }

    /// Waits until it has ended by itself.
    pub async fn end(&mut self) -> ExitStatus {
        let what = format!("{} to end", self.name);
        wait::find(&what, PATIENCE, async || self.ended()).await
    }

    /// All it has printed, once its outputs are closed: it has ended, and so has whatever inherited them.
    pub async fn whole_log(&self) -> Vec<String> {
        let what = format!("the outputs of {} to end", self.name);
        let all_read = async || self.readers.iter().all(thread::JoinHandle::is_finished);
        wait::until(&what, PATIENCE, all_read).await;
        self.log.lines()
    }

    /// Kills it, as a crash does.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        self.child.wait().expect("a child can be waited for");
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!(
                "--- the log of {} ---\n{}---",
                self.name,
                self.log.tail(SHOWN_LINES)
            );
        }
        self.kill();
    }
}

impl Log {
    /// All lines so far.
    pub fn lines(&self) -> Vec<String> {
        self.lines.lock().clone()
    }

    /// Whether a line contains this.
    pub fn says(&self, words: &str) -> bool {
        self.lines.lock().iter().any(|line| line.contains(words))
    }

    /// Waits for a line that contains this, and returns it.
    pub async fn line(&self, words: &str) -> String {
        let what = format!("a log line with `{words}`");
        wait::find(&what, PATIENCE, async || {
            self.lines
                .lock()
                .iter()
                .find(|line| line.contains(words))
                .cloned()
        })
        .await
    }

    /// Stops reading: once its pipe is full, the program's writes wait.
    pub fn hold(&self) {
        *self.gate.closed.lock() = true;
    }

    /// Goes on reading.
    pub fn go_on(&self) {
        *self.gate.closed.lock() = false;
        self.gate.changed.notify_all();
    }

    fn tail(&self, count: usize) -> String {
        let lines = self.lines.lock();
        let skipped = lines.len().saturating_sub(count);
        lines[skipped..].iter().map(|line| format!("{line}\n")).collect()
    }

    /// Reads until the output is closed.
    fn follow(&self, output: impl Read + Send + 'static) -> thread::JoinHandle<()> {
        let (lines, gate) = (self.lines.clone(), self.gate.clone());
        thread::spawn(move || {
            let read = BufReader::new(output).split(b'\n').map_while(Result::ok);
            for line in read {
                gate.pass();
                lines.lock().push(String::from_utf8_lossy(&line).into_owned());
            }
        })
    }
}

impl Gate {
    fn pass(&self) {
        let mut closed = self.closed.lock();
        while *closed {
            self.changed.wait(&mut closed);
        }
    }
}

/// What the kernel says of a process.
#[derive(Clone, Copy, Debug)]
pub struct ProcessStat {
    /// `Z` for one that has ended and was not asked about yet.
    pub state: char,
    /// The parent's process id.
    pub parent: u32,
    /// The process group.
    pub group: u32,
    /// Processor time used, in clock ticks.
    pub ticks: u64,
}

/// Asks the kernel for a process; `None` if there is none of that id.
pub fn stat(pid: u32) -> Option<ProcessStat> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may hold anything; the fields follow it.
    let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
    let number = |index: usize| fields.get(index)?.parse::<u64>().ok();
    Some(ProcessStat {
        state: fields.first()?.chars().next()?,
        parent: number(1)?.try_into().ok()?,
        group: number(2)?.try_into().ok()?,
        ticks: number(11)? + number(12)?,
    })
}

/// Whether a process runs: a zombie has ended, only nobody has asked how yet.
pub fn runs(pid: u32) -> bool {
    stat(pid).is_some_and(|stat| stat.state != 'Z')
}

/// Waits until a process has ended.
pub async fn gone(pid: u32) {
    wait::until(&format!("process {pid} to end"), PATIENCE, async || !runs(pid)).await;
}

/// The processes whose parent is this one.
pub fn children_of(parent: u32) -> Vec<u32> {
    descended(parent, |state| state != 'Z')
}

/// The children of a process that have ended, and that it has not asked how.
pub fn zombies_of(parent: u32) -> Vec<u32> {
    descended(parent, |state| state == 'Z')
}

fn descended(parent: u32, is_meant: impl Fn(char) -> bool) -> Vec<u32> {
    let processes = fs::read_dir("/proc").expect("the kernel lists processes");
    let ids = processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    ids.filter(|pid| stat(*pid).is_some_and(|stat| stat.parent == parent && is_meant(stat.state)))
        .collect()
}

/// The processor time that each thread of a process has used, in clock ticks, with the thread's name.
pub fn thread_ticks(pid: u32) -> Vec<(String, u64)> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).expect("the kernel lists threads");
    let ticks = threads.filter_map(|thread| {
        let folder = thread.ok()?.path();
        let name = fs::read_to_string(folder.join("comm")).ok()?.trim().to_owned();
        let stat = fs::read_to_string(folder.join("stat")).ok()?;
        let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
        let number = |index: usize| fields.get(index)?.parse::<u64>().ok();
        Some((name, number(11)? + number(12)?))
    });
    ticks.collect()
}

//! The command `skysail`, as a person runs it: a line in, two outputs and an exit code back.

use std::env;
use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use tokio::io::AsyncWriteExt;

use crate::binaries;
use crate::program::Program;
use crate::wait;

/// No command takes this long on any machine; one that does hangs.
const BOUND: Duration = Duration::from_secs(120);

/// The command, told where the admin API is.
#[derive(Clone, Debug, Default)]
pub struct Skysail {
    env: Vec<(String, String)>,
}

/// What a command said, and how it ended.
#[derive(Clone, Debug)]
pub struct Said {
    /// The exit code; none if a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Skysail {
    /// The command, speaking to the admin API at this address.
    pub fn at(admin: SocketAddr) -> Self {
        Self::default().env("SKYSAIL_ADMIN_URL", &format!("http://{admin}"))
    }

    /// With this variable in its environment.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_string()));
        self
    }

    /// Runs a command line, its words separated by spaces.
    pub async fn say(&self, line: &str) -> Said {
        self.hear(&line.split(' ').collect::<Vec<_>>(), b"").await
    }

    /// Runs a command with these words and this standard input.
    pub async fn hear(&self, words: &[impl AsRef<OsStr>], input: &[u8]) -> Said {
        let mut command = tokio::process::Command::from(self.command(words));
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        let mut child = command.spawn().expect("`skysail` can be started");
        let mut stdin = child.stdin.take().expect("it is piped");
        // Who does not read its input closes it.
        let _ = stdin.write_all(input).await;
        drop(stdin);
        let output = wait::within("`skysail` to end", BOUND, child.wait_with_output()).await;
        let output = output.expect("a child can be waited for");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Said {
            code: output.status.code(),
            out: text(&output.stdout),
            err: text(&output.stderr),
        }
    }

    /// Runs a command line on a terminal, and returns all that is shown there.
    pub async fn show(&self, line: &str) -> String {
        let (terminal, shown) = Terminal::open();
        let mut command = self.command(&line.split(' ').collect::<Vec<_>>());
        command
            .stdin(Stdio::null())
            .stdout(shown.try_clone().expect("a terminal can be shared"))
            .stderr(shown);
        let mut child = tokio::process::Command::from(command)
            .kill_on_drop(true)
            .spawn()
            .expect("`skysail` can be started");
        let reading = tokio::task::spawn_blocking(|| terminal.read_all());
        wait::within("`skysail` to end", BOUND, child.wait())
            .await
            .expect("a child can be waited for");
        reading.await.expect("the terminal was read")
    }

    /// Runs a command line that must succeed, and returns what it printed.
    ///
    /// # Panics
    /// If it fails.
    pub async fn done(&self, line: &str) -> String {
        let said = self.say(line).await;
        assert_eq!(said.code, Some(0), "`skysail {line}`: {said:?}");
        said.out
    }

    /// Runs a command line that must fail (exit code 1), and returns what it said on stderr.
    ///
    /// # Panics
    /// If it succeeds, or if it printed a result all the same.
    pub async fn refused(&self, line: &str) -> String {
        let said = self.say(line).await;
        assert_eq!(said.code, Some(1), "`skysail {line}`: {said:?}");
        assert_eq!(said.out, "", "`skysail {line}` prints a result and fails");
        said.err
    }

    /// Starts a command line that goes on until it is ended.
    pub fn start(&self, line: &str) -> Program {
        let words: Vec<_> = line.split(' ').collect();
        Program::start(format!("skysail {line}"), self.command(&words))
    }

    fn command(&self, words: &[impl AsRef<OsStr>]) -> Command {
        let mut command = Command::new(binaries::path("skysail"));
        // What the person who runs the tests has configured is not for them.
        let configured = env::vars_os().map(|(name, _)| name);
        for name in configured.filter(|name| name.to_string_lossy().starts_with("SKYSAIL_")) {
            command.env_remove(name);
        }
        command
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .args(words);
        command
    }
}

/// The near end of a terminal.
struct Terminal(OwnedFd);

impl Terminal {
    /// A terminal, and its far end, for a program.
    fn open() -> (Self, OwnedFd) {
        let near = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC);
        let near = near.expect("a terminal can be had");
        grantpt(&near).expect("its far end is ours");
        unlockpt(&near).expect("its far end can be opened");
        let name = ptsname(&near, Vec::new()).expect("its far end has a name");
        let name = OsStr::from_bytes(name.to_bytes());
        let far = File::options().read(true).write(true).open(name);
        (Self(near), far.expect("the far end").into())
    }

    /// Reads until nobody has the far end any more, which is an error.
    fn read_all(self) -> String {
        let mut shown = Vec::new();
        let _ = File::from(self.0).read_to_end(&mut shown);
        String::from_utf8_lossy(&shown).into_owned()
    }
}

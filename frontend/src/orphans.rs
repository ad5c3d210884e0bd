//! Processes that were left to this one: their parent ended, and they are told to whoever is process 1.
//!
//! As process 1 of a container, or where a supervisor made it a subreaper, the frontend becomes the parent of
//! whatever its replicas (or a health check) started and left behind. When such an orphan ends, it is a
//! zombie until its new parent asks how. The frontend's own children are not touched: who started them waits
//! for them, and `waitpid(-1)` would take their exit codes away.

use std::fs;
use std::io;

use rustix::process::{Pid, WaitOptions, child_subreaper, getpid, waitpid};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Hears of children that ended, where orphans come to this process.
pub(crate) struct Orphans(Signal);

impl Orphans {
    /// Nothing where orphans go to another process. Must be called within a tokio runtime.
    pub(crate) fn watch() -> io::Result<Option<Self>> {
        let reaper = getpid() == Pid::INIT || child_subreaper().is_ok_and(|set| set.is_some());
        reaper.then(|| signal(SignalKind::child()).map(Self)).transpose()
    }

    /// Waits until a child may have ended.
    pub(crate) async fn ended(&mut self) {
        if self.0.recv().await.is_none() {
            std::future::pending().await
        }
    }
}

/// Asks of every orphan that has ended how, and forgets it. `is_own` knows the children that this process
/// started itself; none of them may be started meanwhile.
pub(crate) fn reap(is_own: impl Fn(Pid) -> bool) {
    for orphan in zombies().into_iter().filter(|pid| !is_own(*pid)) {
        let _ = waitpid(Some(orphan), WaitOptions::NOHANG);
    }
}

/// The children of this process that have ended and were not asked yet.
fn zombies() -> Vec<Pid> {
    let (Ok(processes), Ok(own)) = (fs::read_dir("/proc"), fs::read_link("/proc/self")) else {
        return Vec::new();
    };
    let own = own.to_string_lossy().into_owned();
    let processes = processes.filter_map(Result::ok).map(|entry| entry.path());
    // One that is gone by now was somebody's who asked.
    let described = processes.filter_map(|path| fs::read_to_string(path.join("status")).ok());
    described.filter_map(|status| zombie_of(&own, &status)).collect()
}

/// The process that `status` is about, if it is a zombie whose parent is `parent`.
///
/// Where `/proc` belongs to a namespace further out, ids and parents in it are of that one; the last of
/// `NSpid` is what this process knows it by.
fn zombie_of(parent: &str, status: &str) -> Option<Pid> {
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.strip_prefix(':').map(str::trim)
    };
    let is_zombie = field("State")?.starts_with('Z') && field("PPid")? == parent;
    let known_by = field("NSpid").or_else(|| field("Pid"))?;
    let pid = known_by.split_whitespace().next_back()?.parse().ok()?;
    is_zombie.then(|| Pid::from_raw(pid)).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_zombie_is_told_by_its_state_and_its_parent() {
        let status = |state: &str, parent: u32| {
            format!("Name:\tsh\nState:\t{state}\nPid:\t4711\nPPid:\t{parent}\nNSpid:\t4711\t12\n")
        };
        assert_eq!(zombie_of("9", &status("Z (zombie)", 9)), Pid::from_raw(12));
        assert_eq!(zombie_of("9", &status("S (sleeping)", 9)), None);
        assert_eq!(zombie_of("9", &status("Z (zombie)", 99)), None);
        let old = "Name:\tsh\nState:\tZ (zombie)\nPid:\t7\nPPid:\t9\n";
        assert_eq!(zombie_of("9", old), Pid::from_raw(7));
    }
}

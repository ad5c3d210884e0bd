//! The one thread that starts child processes.
//!
//! Linux delivers the parent-death signal when the *thread* that forked ends, not the process. Tokio's
//! workers come and go, so children are forked by a thread that lives as long as the runtime does; when
//! it ends, for whatever reason, so do they. It also starts one at a time, so that two starts of one name
//! cannot race.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc;
use std::thread;

use tokio::process::Command;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

type Job = Box<dyn FnOnce() + Send>;

/// Hands jobs to the thread, which ends once this is dropped and its last job done.
#[derive(Debug)]
pub(super) struct Spawner {
    jobs: mpsc::Sender<Job>,
}

impl Spawner {
    /// Starts the thread. Must be called within a tokio runtime, which will watch the children.
    pub(super) fn new() -> io::Result<Self> {
        let (jobs, queue) = mpsc::channel::<Job>();
        let tokio = Handle::current();
        thread::Builder::new().name("spawner".into()).spawn(move || {
            let _within = tokio.enter();
            for job in queue {
                // A panic that ended this thread would end every container with it. Whoever waits for
                // the job learns of it: the answer's channel closes.
                let _ = catch_unwind(AssertUnwindSafe(job));
            }
        })?;
        Ok(Self { jobs })
    }

    /// Runs `job` on the thread; nothing comes back if it panicked.
    pub(super) async fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        let (answer, answered) = oneshot::channel();
        let job = Box::new(move || {
            let _ = answer.send(job());
        });
        self.jobs.send(job).ok()?;
        answered.await.ok()
    }
}

/// Makes the child die with the thread that starts it.
///
/// SIGKILL and not SIGTERM: a child that drains, or does not listen, would outlive its frontend. It
/// reaches the child itself and not what that started, for Linux clears it at every fork.
pub(super) fn die_with_this_thread(command: &mut Command) {
    use rustix::process::{Signal, getpid, getppid, set_parent_process_death_signal};

    let parent = getpid();
    let in_child = move || {
        set_parent_process_death_signal(Some(Signal::KILL))?;
        // The parent may have died before the line above: then no signal will come.
        if getppid() != Some(parent) {
            return Err(io::Error::from(rustix::io::Errno::SRCH));
        }
        Ok(())
    };
    #[expect(
        unsafe_code,
        reason = "std marks pre_exec unsafe because between fork and exec only async-signal-safe calls \
                  are allowed; these are two plain system calls that neither allocate nor lock"
    )]
    unsafe {
        command.pre_exec(in_child);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_job_that_panics_leaves_the_thread_running() {
        let spawner = Spawner::new().unwrap();
        let here = spawner.run(|| thread::current().id()).await.unwrap();
        assert!(spawner.run(|| panic!("on purpose")).await.is_none());
        assert_eq!(spawner.run(|| thread::current().id()).await, Some(here));
    }
}

//! A file descriptor that can be written to without ever waiting for its reader.
//!
//! A pipe that nobody reads takes 64 KiB and then blocks whoever writes; so do a terminal that was stopped
//! and a disk that hangs. Here the one who waits is a thread that does nothing else.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

/// Bytes that may wait to be written. Further lines are left out and counted until the thread has taken what
/// waits, so that the lines that are written have one gap and not many.
const ROOM: usize = 1 << 20;

/// A bounded queue of lines, and the thread that writes them.
#[derive(Clone)]
pub struct Outlet(Arc<Shared>);

struct Shared {
    queue: Mutex<Queue>,
    /// Something came, or the thread has written what it took.
    changed: Condvar,
    /// All lines that were left out so far.
    left_out: AtomicU64,
    /// Somebody waited for a line to be written, in vain. Nobody waits again until all are.
    stuck: AtomicBool,
}

#[derive(Default)]
struct Queue {
    waiting: Vec<u8>,
    /// Lines that were left out since the thread last took what waits.
    left_out: u64,
    /// Whether the thread has something in hand.
    writing: bool,
}

impl Outlet {
    /// Starts the thread that writes to `output`. Once lines were left out and others can be written again,
    /// it calls `tell` with the number of lines that are missing.
    pub fn start(output: OwnedFd, name: &str, tell: impl Fn(u64) + Send + 'static) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            queue: Mutex::default(),
            changed: Condvar::new(),
            left_out: AtomicU64::new(0),
            stuck: AtomicBool::new(false),
        });
        let writer = shared.clone();
        thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || writer.write_for_ever(&output, tell))?;
        Ok(Self(shared))
    }

    /// One that writes to standard output.
    pub fn stdout() -> io::Result<Self> {
        let output = io::stdout().as_fd().try_clone_to_owned()?;
        Self::start(output, "stdout", |_| {})
    }

    /// Hands over bytes that end a line. Returns at once; if there is no room, they are left out.
    pub fn write(&self, line: &[u8]) {
        let mut queue = self.0.queue.lock();
        if queue.left_out > 0 || queue.waiting.len() + line.len() > ROOM {
            let lines = lines_in(line);
            queue.left_out += lines;
            self.0.left_out.fetch_add(lines, Ordering::Relaxed);
            return;
        }
        queue.waiting.extend_from_slice(line);
        drop(queue);
        self.0.changed.notify_all();
    }

    /// Like [`Self::write`], and waits until the bytes are written, for `patience` at most.
    ///
    /// For those who may end at any moment, without a chance to [`flush`](Self::flush). Whoever waited in vain
    /// was the last to wait until the reader is back.
    pub fn write_now(&self, line: &[u8], patience: Duration) {
        self.write(line);
        if self.0.stuck.load(Ordering::Relaxed) {
            return;
        }
        if !self.flush(patience) {
            self.0.stuck.store(true, Ordering::Relaxed);
        }
    }

    /// Waits until everything is written, for `patience` at most. Returns whether it is.
    pub fn flush(&self, patience: Duration) -> bool {
        let mut queue = self.0.queue.lock();
        let unwritten = |queue: &mut Queue| queue.writing || !queue.waiting.is_empty();
        let waited = self.0.changed.wait_while_for(&mut queue, unwritten, patience);
        !waited.timed_out()
    }

    /// The lines that were left out so far: there was no room for them, or they could not be written.
    pub fn left_out(&self) -> u64 {
        self.0.left_out.load(Ordering::Relaxed)
    }
}

impl Shared {
    fn write_for_ever(&self, output: &OwnedFd, tell: impl Fn(u64)) {
        let mut missing = 0;
        loop {
            let (lines, left_out) = self.take();
            missing += left_out;
            match write_all(output, &lines) {
                Ok(()) if missing > 0 => tell(std::mem::take(&mut missing)),
                Ok(()) => {}
                // A full disk, or a reader that is gone for good: the next lines may fare better.
                Err(Unwritten(lines)) => {
                    missing += lines;
                    self.left_out.fetch_add(lines, Ordering::Relaxed);
                }
            }
            self.done();
        }
    }

    /// Waits for lines, and takes all that wait, with the number of those that were left out after them.
    fn take(&self) -> (Vec<u8>, u64) {
        let mut queue = self.queue.lock();
        while queue.waiting.is_empty() {
            self.changed.wait(&mut queue);
        }
        queue.writing = true;
        let left_out = std::mem::take(&mut queue.left_out);
        (std::mem::take(&mut queue.waiting), left_out)
    }

    fn done(&self) {
        let mut queue = self.queue.lock();
        queue.writing = false;
        if queue.waiting.is_empty() {
            self.stuck.store(false, Ordering::Relaxed);
        }
        drop(queue);
        self.changed.notify_all();
    }
}

/// So many lines could not be written.
struct Unwritten(u64);

/// Not by way of `std::io::Stderr`: whoever waits in there holds a lock that others wait for.
fn write_all(output: &OwnedFd, bytes: &[u8]) -> Result<(), Unwritten> {
    let mut rest = bytes;
    while !rest.is_empty() {
        match rustix::io::write(output, rest) {
            Ok(written) => rest = &rest[written..],
            Err(Errno::INTR) => {}
            // Somebody who shares the descriptor made it so.
            Err(Errno::AGAIN) => {
                let _ = poll(&mut [PollFd::new(output, PollFlags::OUT)], None);
            }
            Err(_) => return Err(Unwritten(lines_in(rest))),
        }
    }
    Ok(())
}

fn lines_in(bytes: &[u8]) -> u64 {
    let ends = bytes.iter().filter(|byte| **byte == b'\n').count();
    u64::try_from(ends).unwrap_or(u64::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Read;
    use std::sync::mpsc;

    use super::*;

    /// No state is waited for longer: one that does not come is a failure.
    const BOUND: Duration = Duration::from_secs(30);

    /// An outlet into a pipe, the pipe's other end, and what is told of missing lines.
    fn into_a_pipe() -> (Outlet, File, mpsc::Receiver<u64>) {
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        let (tell, told) = mpsc::channel();
        let outlet = Outlet::start(writer, "test", move |missing| tell.send(missing).unwrap()).unwrap();
        (outlet, File::from(reader), told)
    }

    #[test]
    fn what_is_written_arrives_in_order() {
        let (outlet, mut reader, _told) = into_a_pipe();
        for number in 0..100 {
            outlet.write(format!("{number}\n").as_bytes());
        }
        assert!(outlet.flush(BOUND));
        let expected: String = (0..100).map(|number| format!("{number}\n")).collect();
        let mut arrived = vec![0; expected.len()];
        reader.read_exact(&mut arrived).unwrap();
        assert_eq!(String::from_utf8(arrived).unwrap(), expected);
        assert_eq!(outlet.left_out(), 0);
    }

    #[test]
    fn a_reader_that_does_not_read_makes_nobody_wait_and_what_is_left_out_is_counted_and_told() {
        let (outlet, mut reader, told) = into_a_pipe();
        let line = [b"x".repeat(1023), b"\n".to_vec()].concat();
        // More than a pipe takes, and then more than there is room for, once the thread has that in hand.
        let in_hand = 100;
        outlet.write(&line.repeat(in_hand));
        while !outlet.0.queue.lock().waiting.is_empty() {
            thread::yield_now();
        }
        let room = ROOM / line.len();
        for _ in 0..room + 10 {
            outlet.write(&line);
        }
        assert_eq!(outlet.left_out(), 10);
        assert!(!outlet.flush(Duration::ZERO));
        // Nor does who asks to wait, once one has waited in vain.
        outlet.write_now(&line, Duration::from_millis(1));
        outlet.write_now(&line, Duration::from_secs(100_000));
        assert_eq!(outlet.left_out(), 12);

        let mut arrived = vec![0; (in_hand + room) * line.len()];
        reader.read_exact(&mut arrived).unwrap();
        assert!(arrived.chunks(line.len()).all(|arrived| arrived == line));
        assert_eq!(told.recv_timeout(BOUND), Ok(12));
        assert!(outlet.flush(BOUND));
        outlet.write_now(b"back\n", BOUND);
        let mut arrived = [0; 5];
        reader.read_exact(&mut arrived).unwrap();
        assert_eq!(&arrived, b"back\n");
    }

    #[test]
    fn what_cannot_be_written_is_counted() {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let outlet = Outlet::start(full.into(), "test", |_| {}).unwrap();
        outlet.write(b"one\n");
        assert!(outlet.flush(BOUND));
        outlet.write(b"two\nthree\n");
        assert!(outlet.flush(BOUND));
        assert_eq!(outlet.left_out(), 3);
    }
}

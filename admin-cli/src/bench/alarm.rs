//! Wakes the sender at a time, to some microseconds.
//!
//! Tokio's timers count milliseconds, in which a fast sender sends dozens of queries: sent together they
//! would be a burst that nobody asked for. The kernel's timers are finer, cost no processor while they run,
//! and end the same wait (epoll) as the sockets do.

use std::io;
use std::os::fd::OwnedFd;

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::task::yield_now;
use tokio::time::Instant;

pub(super) struct Alarm {
    timer: AsyncFd<OwnedFd>,
    /// What it is set to, so that a wait that is begun again costs no system call.
    set: Option<Instant>,
}

impl Alarm {
    pub(super) fn new() -> io::Result<Self> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        #[expect(
            deprecated,
            reason = "its successor is unsafe for the sake of types that change or close what they hold, and \
                      an owned descriptor does neither"
        )]
        let timer = AsyncFd::with_interest(timer, Interest::READABLE)?;
        Ok(Self { timer, set: None })
    }

    /// Waits until `due`. Whoever is late already lets the others on this thread do their part first.
    ///
    /// Nothing is lost when this is dropped before its time.
    pub(super) async fn wait_until(&mut self, due: Instant) -> io::Result<()> {
        if Instant::now() >= due {
            yield_now().await;
            return Ok(());
        }
        while Instant::now() < due {
            self.set(due)?;
            // The number of expirations is not read: setting the timer anew resets it.
            self.timer.readable().await?.clear_ready();
        }
        Ok(())
    }

    fn set(&mut self, due: Instant) -> io::Result<()> {
        if self.set == Some(due) {
            return Ok(());
        }
        let remaining = due.saturating_duration_since(Instant::now());
        let time = Itimerspec {
            it_interval: Timespec::default(),
            // A timer set to nothing never expires.
            it_value: remaining
                .max(std::time::Duration::from_nanos(1))
                .try_into()
                .map_err(io::Error::other)?,
        };
        timerfd_settime(self.timer.get_ref(), TimerfdTimerFlags::empty(), &time)?;
        self.set = Some(due);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn it_wakes_at_each_time_in_turn_and_never_before() {
        let mut alarm = Alarm::new().unwrap();
        let start = Instant::now();
        for micros in [300, 200, 900, 1_000, 2_500, 2_500] {
            let due = start + Duration::from_micros(micros);
            alarm.wait_until(due).await.unwrap();
            assert!(Instant::now() >= due);
        }
    }

    #[tokio::test]
    async fn a_wait_that_was_given_up_leaves_the_next_one_right() {
        let mut alarm = Alarm::new().unwrap();
        let far = Instant::now() + Duration::from_secs(3600);
        tokio::select! {
            biased;
            woken = alarm.wait_until(far) => panic!("{woken:?}"),
            () = yield_now() => {}
        }
        let near = Instant::now() + Duration::from_micros(500);
        alarm.wait_until(near).await.unwrap();
        assert!(Instant::now() >= near);
    }
}

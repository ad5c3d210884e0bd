//! How long other frontends keep a replica between two batches of this one.

use std::time::Duration;

use crate::time::Instant;

/// The newest pause has a weight of 1 ÷ `NEWEST`.
const NEWEST: u32 = 4;

/// The mean pause of one replica. While a frontend's queries wait, a replica that other frontends use does their
/// batches first. A frontend that ignored this would plan for many small batches. It would give up its most urgent
/// queries for them, and all frontends would lose throughput.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pause {
    mean: Duration,
    /// When this frontend's last batch in the replica ended, if queries waited for the next.
    since: Option<Instant>,
}

impl Pause {
    /// The pause to expect after a batch.
    pub fn expected(self) -> Duration {
        self.mean
    }

    /// The replica has no more batches of this frontend. If no query `waits`, the time until the next batch says
    /// nothing about other frontends.
    pub fn begins(&mut self, now: Instant, waits: bool) {
        self.since = waits.then_some(now);
    }

    /// This frontend had its turn and did not use it: its queries are left to other replicas.
    pub fn passes(&mut self) {
        self.since = None;
    }

    /// A batch is sent. If the batch before it is still in the replica's hands, the pause was zero.
    pub fn ends(&mut self, now: Instant) {
        let pause = self.since.take().map(|since| now.saturating_since(since));
        self.mean = (self.mean * (NEWEST - 1) + pause.unwrap_or_default()) / NEWEST;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Instant {
        Instant::from_nanos(millis * 1_000_000)
    }

    /// The expected pause after turns that came this many milliseconds after the batch before. `None`: the batch
    /// before was still in the replica's hands.
    fn after(pauses: &[Option<u64>]) -> Duration {
        let mut pause = Pause::default();
        for &millis in pauses {
            if let Some(millis) = millis {
                pause.begins(at(100), true);
                pause.ends(at(100 + millis));
            } else {
                pause.ends(at(100));
            }
        }
        pause.expected()
    }

    #[test]
    fn a_lone_frontend_expects_no_pause() {
        assert_eq!(after(&[]), Duration::ZERO);
        assert_eq!(after(&[None; 10]), Duration::ZERO);
    }

    #[test]
    fn pauses_are_learned_and_forgotten() {
        let learned = after(&[Some(20); 30]);
        assert!(learned > Duration::from_millis(19), "{learned:?}");
        let mut turns = vec![Some(20); 30];
        turns.extend([None; 20]);
        let forgotten = after(&turns);
        assert!(forgotten < Duration::from_millis(1), "{forgotten:?}");
    }

    #[test]
    fn an_idle_while_is_no_pause() {
        let mut pause = Pause::default();
        pause.begins(at(0), false);
        pause.ends(at(5000));
        assert_eq!(pause.expected(), Duration::ZERO);
    }

    #[test]
    fn a_turn_that_is_not_taken_is_no_pause() {
        let mut pause = Pause::default();
        pause.begins(at(0), true);
        pause.passes();
        pause.ends(at(5000));
        assert_eq!(pause.expected(), Duration::ZERO);
    }
}

//! How long a replica is others' between two batches of one frontend.

use std::time::Duration;

use crate::time::Instant;

/// The newest pause counts for one part in so many.
const NEWEST: u32 = 4;

/// What a frontend learned of the pauses: while its queries wait, a replica that other frontends use too does
/// their batches first. A frontend that did not expect them would hope for many small batches, lose its heads
/// and with them the throughput of all.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pause {
    mean: Duration,
    /// When the last batch in the replica's hands ended, with queries waiting for the next.
    since: Option<Instant>,
}

impl Pause {
    /// What to expect after a batch.
    pub fn expected(self) -> Duration {
        self.mean
    }

    /// The replica has none of this frontend's batches in its hands any more. Where no query `waits`, the time
    /// until the next batch says nothing of others.
    pub fn begins(&mut self, now: Instant, waits: bool) {
        self.since = waits.then_some(now);
    }

    /// This frontend had a turn and did not take it: what waits is left to other replicas.
    pub fn passes(&mut self) {
        self.since = None;
    }

    /// A batch is sent; if the one before is still in the replica's hands, nobody else had a turn.
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

    /// After turns that come so many milliseconds after the batch before, or at once.
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

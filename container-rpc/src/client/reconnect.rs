//! The pauses between tries to reach a frontend.

use std::time::Duration;

/// What a pause comes after.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum After {
    /// The frontend was lost or could not be reached: it may be back any moment.
    Loss,
    /// The frontend said no: it will again, until somebody changes something there.
    Refusal,
}

/// Draws jittered pauses that grow, and start over once a stream has stayed well.
///
/// All replicas lose a frontend in the same moment; the jitter keeps them from coming back in one.
#[derive(Debug)]
pub(super) struct Reconnect {
    random: fastrand::Rng,
    ceiling: Duration,
}

/// No first pause is longer: most losses are a frontend that restarts.
const FIRST: Duration = Duration::from_millis(50);

/// No pause after a loss is longer: a restarted frontend is to answer within a second of its start, and may
/// refuse one try because it has not read its metadata yet. A try at an address where nobody listens costs
/// next to nothing.
const MOST: Duration = Duration::from_millis(300);

/// A stream that lived this long had no part in the trouble that ended it.
pub(super) const STAYED_WELL: Duration = Duration::from_secs(1);

const REFUSED_LEAST: Duration = Duration::from_secs(2);
const REFUSED_MOST: Duration = Duration::from_secs(4);

impl Reconnect {
    pub(super) fn new(random: fastrand::Rng) -> Self {
        Self {
            random,
            ceiling: FIRST,
        }
    }

    /// The pause before the next try; the ones after will be longer.
    pub(super) fn pause(&mut self, after: After) -> Duration {
        match after {
            After::Refusal => self.between(REFUSED_LEAST, REFUSED_MOST),
            After::Loss => {
                let ceiling = self.ceiling;
                self.ceiling = (ceiling * 2).min(MOST);
                self.between(ceiling / 2, ceiling)
            }
        }
    }

    /// The last stream stayed well.
    pub(super) fn reset(&mut self) {
        self.ceiling = FIRST;
    }

    fn between(&mut self, least: Duration, most: Duration) -> Duration {
        least + (most - least).mul_f64(self.random.f64())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_first_pause_is_at_most_50_ms_and_none_is_above_the_most(seed: u64) {
            let mut reconnect = Reconnect::new(fastrand::Rng::with_seed(seed));
            prop_assert!(reconnect.pause(After::Loss) <= Duration::from_millis(50));
            let later: Vec<_> = (0..20).map(|_| reconnect.pause(After::Loss)).collect();
            prop_assert!(later.iter().all(|pause| *pause <= MOST));
            prop_assert!(later[10] >= MOST / 2);
            reconnect.reset();
            prop_assert!(reconnect.pause(After::Loss) <= Duration::from_millis(50));
        }

        #[test]
        fn a_refusal_is_tried_again_after_seconds(seed: u64) {
            let mut reconnect = Reconnect::new(fastrand::Rng::with_seed(seed));
            let pause = reconnect.pause(After::Refusal);
            prop_assert!((REFUSED_LEAST..=REFUSED_MOST).contains(&pause));
        }
    }

    #[test]
    fn two_replicas_do_not_come_back_in_the_same_moment() {
        let pauses = |seed| Reconnect::new(fastrand::Rng::with_seed(seed)).pause(After::Loss);
        assert_ne!(pauses(1), pauses(2));
    }
}

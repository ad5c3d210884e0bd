//! A seed's faults, one after the other.

use std::time::Duration;

use crate::fault::{Fault, Harm, Part, all};

/// The shortest and the longest time that a part is stopped, cut off or away.
const LASTS: (f64, f64) = (0.3, 5.0);

/// Faults without an end. Of every eighteen each is one harm to one part, so that a run of a hundred does
/// everything several times.
pub(crate) struct Schedule {
    random: fastrand::Rng,
    every: Duration,
    left: Vec<(Part, Harm)>,
}

impl Schedule {
    pub(crate) fn new(seed: u64, every: Duration) -> Self {
        Self {
            random: fastrand::Rng::with_seed(seed),
            every,
            left: Vec::new(),
        }
    }
}

impl Iterator for Schedule {
    /// How long after the last fault's begin, at the earliest, and what.
    type Item = (Duration, Fault);

    fn next(&mut self) -> Option<Self::Item> {
        if self.left.is_empty() {
            self.left = all();
            self.random.shuffle(&mut self.left);
        }
        let (part, harm) = self.left.pop()?;
        let (shortest, longest) = LASTS;
        let fault = Fault {
            part,
            harm,
            which: self.random.f64(),
            lasts: Duration::from_secs_f64(shortest + (longest - shortest) * self.random.f64()),
        };
        // At random, because what happens at regular times meets the same moments of the cluster again and again.
        let after = self.every.mul_f64(-(1.0 - self.random.f64()).ln());
        Some((after, fault))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const EVERY: Duration = Duration::from_secs(6);

    #[test]
    fn a_seed_decides_all_faults() {
        let first = |seed| Schedule::new(seed, EVERY).take(50).collect::<Vec<_>>();
        assert_eq!(first(3), first(3));
        assert_ne!(first(3), first(4));
    }

    #[test]
    fn every_eighteen_faults_do_everything() {
        let faults: Vec<_> = Schedule::new(1, EVERY).take(36).collect();
        for eighteen in faults.chunks(18) {
            let kinds: BTreeSet<_> = eighteen
                .iter()
                .map(|(_, fault)| (fault.part, fault.harm))
                .collect();
            assert_eq!(kinds.len(), 18);
        }
    }

    #[test]
    fn faults_come_as_often_as_they_shall() {
        let total: Duration = Schedule::new(1, EVERY).take(2000).map(|(after, _)| after).sum();
        let mean = total / 2000;
        assert!(EVERY.mul_f64(0.9) < mean && mean < EVERY.mul_f64(1.1), "{mean:?}");
    }
}

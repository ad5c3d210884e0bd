//! How much of a queue each application holds: the places and the bytes of its waiting tasks.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;

use super::{Claim, Place};

/// Which bound of a queue is reached.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Measure {
    Count,
    Bytes,
}

/// The waiting tasks of one application.
#[derive(Clone, Debug)]
pub(crate) struct Holding {
    /// The weight of its latest task.
    pub(crate) weight: NonZeroU32,
    bytes: usize,
    places: BTreeSet<Place>,
}

/// The holdings by application. An application without a waiting task has no entry.
#[derive(Clone, Debug, Default)]
pub(crate) struct Holdings(BTreeMap<u64, Holding>);

impl Holding {
    fn none(weight: NonZeroU32) -> Self {
        Self {
            weight,
            bytes: 0,
            places: BTreeSet::new(),
        }
    }

    /// How many of its tasks wait.
    pub(crate) fn len(&self) -> usize {
        self.places.len()
    }

    /// The places of its tasks, earliest deadline first.
    pub(crate) fn places(&self) -> impl DoubleEndedIterator<Item = Place> + '_ {
        self.places.iter().copied()
    }

    /// Its places from `first` on.
    pub(crate) fn places_from(&self, first: Place) -> impl Iterator<Item = Place> + '_ {
        self.places.range(first..).copied()
    }

    fn amount(&self, measure: Measure) -> usize {
        match measure {
            Measure::Count => self.len(),
            Measure::Bytes => self.bytes,
        }
    }
}

impl Holdings {
    pub(super) fn add(&mut self, place: Place, claim: Claim, bytes: usize) {
        let none = || Holding::none(claim.weight);
        let holding = self.0.entry(claim.application).or_insert_with(none);
        holding.weight = claim.weight;
        holding.bytes += bytes;
        holding.places.insert(place);
    }

    pub(super) fn subtract(&mut self, place: Place, claim: Claim, bytes: usize) {
        let Some(holding) = self.0.get_mut(&claim.application) else {
            return;
        };
        holding.places.remove(&place);
        holding.bytes -= bytes;
        if holding.places.is_empty() {
            self.0.remove(&claim.application);
        }
    }

    pub(crate) fn get(&self, application: u64) -> Option<&Holding> {
        self.0.get(&application)
    }

    /// All holdings, each with its application.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, &Holding)> {
        self.0
            .iter()
            .map(|(&application, holding)| (application, holding))
    }

    /// The application that would hold most by weight if one more task of this claim came. Among equals it is the
    /// claim's own application, so that two equal holders do not displace each other in turn.
    pub(super) fn largest(&self, measure: Measure, claim: Claim, bytes: usize) -> u64 {
        let own = self.get(claim.application).map_or(0, |own| own.amount(measure));
        let one_more = match measure {
            Measure::Count => 1,
            Measure::Bytes => bytes,
        };
        let others = self
            .iter()
            .filter(|&(application, _)| application != claim.application);
        let others = others.map(|(application, held)| (application, held.amount(measure), held.weight));
        let mut largest = (claim.application, own + one_more, claim.weight);
        for other in others {
            if by_weight((other.1, other.2), (largest.1, largest.2)) == Ordering::Greater {
                largest = other;
            }
        }
        largest.0
    }
}

/// Compares `amount / weight` of two applications.
pub(crate) fn by_weight(a: (usize, NonZeroU32), b: (usize, NonZeroU32)) -> Ordering {
    let scaled = |amount: usize, weight: NonZeroU32| amount as u128 * u128::from(weight.get());
    scaled(a.0, b.1).cmp(&scaled(b.0, a.1))
}

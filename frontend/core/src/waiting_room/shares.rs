//! Fair shares: how a batch is divided between applications while queries are lost.
//!
//! While no query is lost, deadlines alone decide. While queries are given up, an application that asks for more than
//! its share would take from those that ask for less, because the most urgent queries come first.
//!
//! So shares decide while queries are lost, and for a second after. The places of a batch are divided max-min fairly, by
//! weights. An application with no more waiting than its share gets all of it answered, and the rest of its share is for
//! the others. Queries come in clusters. So an application that has asked for no more than its share lately may have
//! more for a moment, up to half of the places. Within an application deadlines decide.
//!
//! Shares need short batches. A query that comes just after a batch started waits for that batch and for its own.
//! With batches as long as an objective, too few queries are in time to divide. So a batch takes no longer than half
//! of what queries are given, or what is left to queries of applications within their shares. It is not shortened
//! further if that costs more than a fifth of the throughput. (Half cost two applications of 25 and 100 ms a tenth of
//! all answers at 0.8 of the capacity.)

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::time::Duration;

use crate::batch::{BatchPolicy, Decision, Situation};
use crate::queue::{Claim, DeadlineQueue, Place, by_weight};
use crate::time::Instant;

/// Batches are shortened for the sake of shares as long as they keep this part of the throughput.
const THROUGHPUT_KEPT: f64 = 0.8;

/// How long a loss is remembered, and an application that asked.
const LATELY: Duration = Duration::from_secs(1);

/// The applications for which queries wait in one room.
#[derive(Debug, Default)]
pub(super) struct Shares {
    last_loss: Option<Instant>,
    /// The applications that asked lately, once there were two.
    recent: BTreeMap<u64, Recent>,
}

/// An application that asked lately.
#[derive(Clone, Copy, Debug)]
struct Recent {
    /// When it last asked.
    at: Instant,
    /// The shortest time that one of its queries was given lately.
    budget: Duration,
    /// When a query was given that time.
    budget_at: Instant,
    weight: NonZeroU32,
    /// Queries that came lately, and the places of batches that were its share meanwhile.
    asked: f64,
    share: f64,
    /// When both were last halved.
    halved_at: Instant,
}

impl Recent {
    fn is_within(&self) -> bool {
        self.asked <= self.share
    }
}

/// A batch that shares ask for.
#[derive(Debug)]
pub(super) struct Pick {
    /// Its queries, earliest deadline first.
    pub(super) places: Vec<Place>,
    /// Queries due before this would be late with it.
    pub(super) from: Instant,
}

/// An application, and how many of its queries wait.
#[derive(Clone, Copy, Debug)]
struct Asking {
    application: u64,
    waiting: usize,
    weight: NonZeroU32,
    /// Whether it has asked for no more than its share lately.
    is_within: bool,
}

/// The facts that a batch is decided by.
pub(super) struct Choice<'a, T> {
    pub(super) now: Instant,
    pub(super) queue: &'a DeadlineQueue<T>,
    pub(super) policy: &'a dyn BatchPolicy,
    pub(super) situation: &'a Situation<'a>,
    /// What the policy would decide if all queries were of one application.
    pub(super) decision: Decision,
}

impl Shares {
    /// Records that a query came, with `budget` until its deadline.
    pub(super) fn asked(&mut self, claim: Claim, now: Instant, budget: Duration) {
        let recent = self.recent.entry(claim.application).or_insert(Recent {
            at: now,
            budget,
            budget_at: now,
            weight: claim.weight,
            asked: 0.0,
            share: 0.0,
            halved_at: now,
        });
        recent.at = now;
        recent.asked += 1.0;
        recent.weight = claim.weight;
        if budget <= recent.budget || recent.budget_at + LATELY < now {
            recent.budget = budget;
            recent.budget_at = now;
        }
    }

    /// Records that a query was lost.
    pub(super) fn lost(&mut self, now: Instant) {
        self.last_loss = Some(now);
    }

    fn loses(&self, now: Instant) -> bool {
        self.last_loss.is_some_and(|last| now < last + LATELY)
    }

    /// The batch that shares ask for; `None` if deadlines alone decide.
    pub(super) fn pick<T>(&mut self, choice: &Choice<'_, T>) -> Option<Pick> {
        let Choice { now, decision, .. } = *choice;
        let holdings = choice.queue.holdings()?;
        let loses = decision.give_up > 0 || self.loses(now);
        if !loses || decision.take == 0 {
            return None;
        }
        self.recent.retain(|_, recent| now < recent.at + LATELY);
        let mut asking: Vec<_> = holdings
            .iter()
            .map(|(application, holding)| Asking {
                application,
                waiting: holding.len(),
                weight: holding.weight,
                is_within: false,
            })
            .collect();
        let sole = (asking.len() == 1).then(|| asking[0].application);
        if sole.is_some_and(|sole| self.recent.keys().all(|&recent| recent == sole)) {
            return None;
        }
        self.count_shares(now, decision.take, &mut asking);
        let size = self.size(choice);
        let from = choice.ends(size);
        let places = choice.places(size, from, &asking);
        // If all would be late, the policy knows what to try.
        (!places.is_empty()).then_some(Pick { places, from })
    }

    /// Adds to each application's share, and sets [`Asking::is_within`].
    #[expect(clippy::cast_precision_loss, reason = "batches are far smaller than 2^52")]
    fn count_shares(&mut self, now: Instant, places: usize, asking: &mut [Asking]) {
        let parts = divide_evenly(places, asking);
        let by_weight = |(asking, part): (&Asking, usize)| part as f64 / f64::from(asking.weight.get());
        let level = asking.iter().zip(parts).map(by_weight).fold(0.0, f64::max);
        for recent in self.recent.values_mut() {
            recent.share += level * f64::from(recent.weight.get());
            if recent.halved_at + LATELY < now {
                recent.asked /= 2.0;
                recent.share /= 2.0;
                recent.halved_at = now;
            }
        }
        for asking in asking {
            let recent = self.recent.get(&asking.application);
            asking.is_within = recent.is_some_and(Recent::is_within);
        }
    }

    /// How large the batch may be, for the applications within their shares.
    fn size<T>(&self, choice: &Choice<'_, T>) -> usize {
        let most = choice.decision.take;
        let mut size = most;
        for (&application, recent) in &self.recent {
            size = size.min(choice.fitting(choice.situation.start + recent.budget / 2, most));
            if recent.is_within() {
                size = size.min(choice.fitting_first_of(application, most));
            }
        }
        size.max(choice.least_size())
    }
}

impl<T> Choice<'_, T> {
    /// When a batch of this size is expected to end, cautiously.
    fn ends(&self, size: usize) -> Instant {
        self.policy.ends(size, self.situation)
    }

    /// The size of the largest batch, up to `most`, that is expected to end by `due`.
    fn fitting(&self, due: Instant, most: usize) -> usize {
        let sizes = Sizes { most };
        sizes.partition_point(|size| self.ends(size) <= due)
    }

    /// The largest batch, up to `most`, that answers in time the application's first query that can be in time.
    fn fitting_first_of(&self, application: u64, most: usize) -> usize {
        let holding = self
            .queue
            .holdings()
            .and_then(|holdings| holdings.get(application));
        let first = holding.and_then(|holding| {
            let from = Place::first_at(self.ends(1));
            holding.places_from(from).next()
        });
        first.map_or(most, |place| self.fitting(place.deadline(), most))
    }

    /// The smallest batch that keeps [`THROUGHPUT_KEPT`].
    #[expect(clippy::cast_precision_loss, reason = "batches are far smaller than 2^52")]
    fn least_size(&self) -> usize {
        let pace = |size: usize| {
            let took = self.situation.latency.predict(size).unwrap_or_default();
            size as f64 / took.as_secs_f64().max(f64::MIN_POSITIVE)
        };
        let most = self.decision.take;
        let enough = pace(most) * THROUGHPUT_KEPT;
        let too_small = Sizes { most }.partition_point(|size| pace(size) < enough);
        (too_small + 1).min(most)
    }

    /// Picks `size` queries due at `from` or later. Each application gets its part. Places that an application does
    /// not use go to the most urgent queries of the others.
    fn places(&self, size: usize, from: Instant, asking: &[Asking]) -> Vec<Place> {
        let Some(holdings) = self.queue.holdings() else {
            return Vec::new();
        };
        let from = Place::first_at(from);
        let in_time = |application: u64| {
            let holding = holdings.get(application);
            holding
                .into_iter()
                .flat_map(move |holding| holding.places_from(from))
        };
        let parts = divide(size, asking);
        let parts = asking.iter().map(|asking| asking.application).zip(parts);
        let mut places = Vec::with_capacity(size);
        for (application, part) in parts.clone() {
            places.extend(in_time(application).take(part));
        }
        let unused = size - places.len();
        if unused > 0 {
            let beyond = parts.flat_map(|(application, part)| in_time(application).skip(part).take(unused));
            let mut beyond: Vec<_> = beyond.collect();
            beyond.sort_unstable();
            places.extend(beyond.into_iter().take(unused));
        }
        places.sort_unstable();
        places
    }
}

/// The sizes 1 to `most`.
struct Sizes {
    most: usize,
}

impl Sizes {
    /// The largest size for which `holds`; 0 if there is none. `holds` must hold for all smaller sizes, too.
    fn partition_point(&self, holds: impl Fn(usize) -> bool) -> usize {
        let (mut least, mut most) = (0, self.most);
        while least < most {
            let middle = most - (most - least) / 2;
            if holds(middle) {
                least = middle;
            } else {
                most = middle - 1;
            }
        }
        least
    }
}

/// Divides `places`. No application gets more than it asks for. Those that would have more each get as many by weight
/// as the others. Those that have asked for no more than their shares lately come first. They take up to half of the
/// places for all that ask for more.
fn divide(places: usize, asking: &[Asking]) -> Vec<usize> {
    let mut parts = divide_evenly(places, asking);
    let beyond: Vec<_> = (0..asking.len())
        .filter(|&index| parts[index] < asking[index].waiting)
        .collect();
    let all: usize = beyond.iter().map(|&index| parts[index]).sum();
    let mut left = all;
    let mut rest = Vec::with_capacity(beyond.len());
    for &index in &beyond {
        let asked = asking[index];
        let before = match asked.is_within {
            true => asked.waiting.min(left.saturating_sub(all / 2)),
            false => 0,
        };
        left -= before;
        parts[index] = before;
        rest.push(Asking {
            waiting: asked.waiting - before,
            ..asked
        });
    }
    let rest = divide_evenly(left, &rest);
    beyond
        .into_iter()
        .zip(rest)
        .for_each(|(index, part)| parts[index] += part);
    parts
}

/// Divides `places` like [`divide`], but ignores [`Asking::is_within`].
fn divide_evenly(places: usize, asking: &[Asking]) -> Vec<usize> {
    let mut order: Vec<_> = (0..asking.len()).collect();
    order.sort_unstable_by(|&a, &b| {
        let (a, b) = (asking[a], asking[b]);
        by_weight((a.waiting, a.weight), (b.waiting, b.weight))
    });
    let mut weights: u64 = asking.iter().map(|asking| u64::from(asking.weight.get())).sum();
    let mut left = places;
    let mut parts = vec![0; asking.len()];
    for index in order {
        let Asking { waiting, weight, .. } = asking[index];
        let weight = u64::from(weight.get());
        let share = (left as u128 * u128::from(weight)) / u128::from(weights);
        let part = waiting.min(usize::try_from(share).unwrap_or(usize::MAX));
        parts[index] = part;
        left -= part;
        weights -= weight;
    }
    parts
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn asking(all: &[(usize, u32)]) -> Vec<Asking> {
        let asking = |(application, &(waiting, weight)): (usize, &(usize, u32))| Asking {
            application: application as u64,
            waiting,
            weight: NonZeroU32::new(weight).unwrap(),
            is_within: false,
        };
        all.iter().enumerate().map(asking).collect()
    }

    #[test]
    fn who_has_asked_for_no_more_than_its_share_may_have_more_for_a_moment() {
        let mut all = asking(&[(9, 1), (100, 1), (3, 1)]);
        assert_eq!(divide(12, &all), [4, 5, 3]);
        all[0].is_within = true;
        // It gets four at once, and as much of the rest as the other.
        assert_eq!(divide(12, &all), [7, 2, 3]);
    }

    #[test]
    fn who_asks_for_less_than_its_share_gets_it_and_leaves_the_rest() {
        assert_eq!(divide(10, &asking(&[(2, 1), (100, 1)])), [2, 8]);
        assert_eq!(divide(10, &asking(&[(100, 1), (100, 1)])), [5, 5]);
        assert_eq!(divide(12, &asking(&[(100, 1), (100, 3), (2, 1)])), [3, 7, 2]);
        assert_eq!(divide(10, &asking(&[(3, 1), (4, 1)])), [3, 4]);
        assert_eq!(divide(1, &asking(&[(9, 1), (9, 1)])).iter().sum::<usize>(), 1);
    }

    proptest! {
        #[test]
        fn places_are_divided_max_min_fairly(
            all in prop::collection::vec((0usize..200, 1u32..20), 1..12),
            places in 0usize..500,
        ) {
            let parts = divide(places, &asking(&all));
            let asked: usize = all.iter().map(|&(waiting, _)| waiting).sum();
            prop_assert_eq!(parts.iter().sum::<usize>(), places.min(asked), "no place is left empty");
            let weights: u32 = all.iter().map(|&(_, weight)| weight).sum();
            for (&(waiting, weight), &part) in all.iter().zip(&parts) {
                let equal_share = places * weight as usize / weights as usize;
                prop_assert!(part <= waiting);
                prop_assert!(part >= waiting.min(equal_share), "below its share it loses nothing");
                // An application that gets less than it asks for has as much by weight as any other, except for
                // places left over by rounding.
                for (&(_, other_weight), &other) in all.iter().zip(&parts) {
                    let (least, other) = (part + 1, other.saturating_sub(all.len()));
                    let as_much = least as u64 * u64::from(other_weight) >= other as u64 * u64::from(weight);
                    prop_assert!(part == waiting || as_much, "{:?} {:?}", all, parts);
                }
            }
        }

        #[test]
        fn the_largest_size_is_found(most in 0usize..100, holds_to in 0usize..120) {
            let found = Sizes { most }.partition_point(|size| size <= holds_to);
            prop_assert_eq!(found, most.min(holds_to));
        }
    }
}

//! The queue of one model version: tasks that wait for a replica, ordered by deadline, bounded by count and by bytes.
//!
//! A full queue makes room for a more urgent query. The application that holds most of the queue loses the query of
//! its own that has the latest deadline.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::time::Duration;

use crate::time::Instant;

mod holdings;
mod ranks;

pub(crate) use holdings::by_weight;
use holdings::{Holdings, Measure};
use ranks::Ranks;

/// The application that a query waits for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Claim {
    /// Its number, of the caller's choice.
    pub application: u64,
    /// Its weight: its share beside other applications is in proportion to this.
    pub weight: NonZeroU32,
}

impl Claim {
    /// The claim of a queue with a single application.
    pub const SOLE: Self = Self {
        application: 0,
        weight: NonZeroU32::MIN,
    };
}

/// The most that may wait in a queue.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Bounds {
    /// The most queries.
    pub count: usize,
    /// The most bytes of their inputs, together.
    pub bytes: usize,
}

/// A place in the queue. Places are ordered by deadline, and by arrival among equal deadlines.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Place {
    deadline: Instant,
    arrival: u64,
}

impl Place {
    /// The deadline it is ordered by.
    pub fn deadline(self) -> Instant {
        self.deadline
    }

    /// The first place that a task with this deadline could have.
    pub(crate) fn first_at(deadline: Instant) -> Self {
        Self { deadline, arrival: 0 }
    }

    /// The place that the same task has with another deadline.
    pub(crate) fn moved_to(self, deadline: Instant) -> Self {
        Self { deadline, ..self }
    }
}

/// The queue is full. Gives back the task that was not let in.
#[derive(Debug, Eq, PartialEq)]
pub struct Full<T>(pub T);

/// A task that was taken out of the queue, and the place that it had.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Placed<T> {
    place: Place,
    claim: Claim,
    bytes: usize,
    /// Whether a replica was lost while it had this task.
    pub(crate) lost_before: bool,
    /// The task itself.
    pub task: T,
}

impl<T> Placed<T> {
    /// The application that it waits for.
    pub fn claim(&self) -> Claim {
        self.claim
    }

    /// The place that it had in the queue.
    pub fn place(&self) -> Place {
        self.place
    }

    /// When its answer is due.
    pub fn deadline(&self) -> Instant {
        self.place.deadline
    }

    /// The bytes of its input.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The same task with another deadline.
    #[must_use]
    pub(crate) fn moved_to(self, deadline: Instant) -> Self {
        let place = self.place.moved_to(deadline);
        Self { place, ..self }
    }
}

/// A run of consecutive tasks at the front of the queue, to be taken out together.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Section {
    /// The number of tasks at the very front to leave in the queue.
    pub(crate) leave: usize,
    /// The most tasks to take after those.
    pub(crate) take: usize,
    /// The most bytes to take. The first task is taken whatever its size.
    pub(crate) max_bytes: usize,
}

#[derive(Debug)]
struct Waiting<T> {
    claim: Claim,
    bytes: usize,
    lost_before: bool,
    task: T,
}

impl<T> Waiting<T> {
    fn at(self, place: Place) -> Placed<T> {
        let Self {
            claim,
            bytes,
            lost_before,
            task,
        } = self;
        Placed {
            place,
            claim,
            bytes,
            lost_before,
            task,
        }
    }
}

/// The part of a queue that a batch policy sees: deadlines by rank. The earliest deadline has rank 0.
pub trait Deadlines {
    /// How many queries wait.
    fn len(&self) -> usize;

    /// Whether no query waits.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many queries are due before `at`.
    fn before(&self, at: Instant) -> usize;

    /// The deadline of this rank.
    fn nth(&self, rank: usize) -> Option<Instant>;

    /// Appends the deadlines of the ranks `from`, `from + every`, `from + 2 * every` and so on.
    fn sample(&self, from: usize, every: usize, into: &mut Vec<Instant>);

    /// How many deadlines are at or before `now`.
    fn expired(&self, now: Instant) -> usize {
        self.before(now + Duration::from_nanos(1))
    }
}

/// A query that asks to be let into the queue.
#[derive(Debug)]
pub struct Entrant<T> {
    /// When its answer is due.
    pub deadline: Instant,
    /// The application that it is for.
    pub claim: Claim,
    /// Bytes of its input.
    pub bytes: usize,
    /// The task to queue.
    pub task: T,
}

/// Tasks in the order of their deadlines. Adding and removing cost O(log n). A question about ranks costs one step
/// for each few hundred tasks.
#[derive(Debug)]
pub struct DeadlineQueue<T> {
    waiting: BTreeMap<Place, Waiting<T>>,
    /// The deadlines of `waiting`, by rank.
    ranks: Ranks,
    /// The tasks of each application. Kept from the second application on.
    holdings: Option<Holdings>,
    /// The application of all tasks so far, while there is only one.
    only: Option<u64>,
    bounds: Bounds,
    bytes: usize,
    arrivals: u64,
}

impl<T> DeadlineQueue<T> {
    /// An empty queue.
    pub fn new(bounds: Bounds) -> Self {
        Self {
            waiting: BTreeMap::new(),
            holdings: None,
            only: None,
            ranks: Ranks::default(),
            bounds,
            bytes: 0,
            arrivals: 0,
        }
    }

    /// Adds a task of the sole application. Returns its place, or the task if the queue is full.
    pub fn push(&mut self, deadline: Instant, bytes: usize, task: T) -> Result<Place, Full<T>> {
        let entrant = Entrant {
            deadline,
            claim: Claim::SOLE,
            bytes,
            task,
        };
        self.admit(entrant, &mut Vec::new())
    }

    /// Adds a task. Returns its place, or the task if the queue is full and no other task should give way. Tasks that
    /// gave way are appended to `displaced`.
    ///
    /// A task larger than the byte bound is let into an empty queue: otherwise it would never be served.
    pub(crate) fn admit(
        &mut self,
        entrant: Entrant<T>,
        displaced: &mut Vec<Placed<T>>,
    ) -> Result<Place, Full<T>> {
        let Entrant {
            deadline,
            claim,
            bytes,
            task,
        } = entrant;
        self.meet(claim);
        if !self.make_room(deadline, claim, bytes, displaced) {
            return Err(Full(task));
        }
        let place = Place {
            deadline,
            arrival: self.arrivals,
        };
        self.arrivals += 1;
        self.put_back(Placed {
            place,
            claim,
            bytes,
            lost_before: false,
            task,
        });
        Ok(place)
    }

    /// Starts to account for each application once a second one appears.
    fn meet(&mut self, claim: Claim) {
        if self.holdings.is_some() || *self.only.get_or_insert(claim.application) == claim.application {
            return;
        }
        let mut holdings = Holdings::default();
        for (&place, waiting) in &self.waiting {
            holdings.add(place, waiting.claim, waiting.bytes);
        }
        self.holdings = Some(holdings);
    }

    /// Makes room for a task in a full queue, and returns whether there is room. The application that would hold most
    /// gives way, task by task. If that does not make enough room, nothing is displaced.
    fn make_room(
        &mut self,
        deadline: Instant,
        claim: Claim,
        bytes: usize,
        displaced: &mut Vec<Placed<T>>,
    ) -> bool {
        let given_way = displaced.len();
        while let Some(full) = self.is_full_with(bytes) {
            let victim = self.latest_of_largest(full, claim, bytes, deadline);
            let Some(victim) = victim.filter(|_| bytes <= self.bounds.bytes) else {
                displaced
                    .drain(given_way..)
                    .for_each(|placed| self.put_back(placed));
                return false;
            };
            displaced.extend(self.remove(victim));
        }
        true
    }

    fn is_full_with(&self, bytes: usize) -> Option<Measure> {
        if self.waiting.len() >= self.bounds.count {
            return Some(Measure::Count);
        }
        let is_too_large = self.bytes.saturating_add(bytes) > self.bounds.bytes && !self.waiting.is_empty();
        is_too_large.then_some(Measure::Bytes)
    }

    /// The task that gives way to the new one: the latest of the application that would hold most by weight. `None`
    /// if the new task itself should give way.
    fn latest_of_largest(
        &self,
        measure: Measure,
        claim: Claim,
        bytes: usize,
        deadline: Instant,
    ) -> Option<Place> {
        let latest = self.waiting.last_key_value().map(|(&place, _)| place);
        let Some(holdings) = &self.holdings else {
            return latest.filter(|latest| latest.deadline > deadline);
        };
        let largest = holdings.largest(measure, claim, bytes);
        let latest = holdings.get(largest)?.places().next_back();
        let is_own = largest == claim.application;
        latest.filter(|latest| !is_own || latest.deadline > deadline)
    }

    /// Returns a task to its place, even beyond the bounds: an accepted task may not be lost.
    pub fn put_back(&mut self, placed: Placed<T>) {
        let Placed {
            place,
            claim,
            bytes,
            lost_before,
            task,
        } = placed;
        self.bytes += bytes;
        if let Some(holdings) = &mut self.holdings {
            holdings.add(place, claim, bytes);
        }
        let waiting = Waiting {
            claim,
            bytes,
            lost_before,
            task,
        };
        self.waiting.insert(place, waiting);
        self.ranks.insert(place.deadline);
    }

    /// Takes out the task with the earliest deadline.
    pub fn pop(&mut self) -> Option<Placed<T>> {
        let (place, waiting) = self.waiting.pop_first()?;
        Some(self.taken(place, waiting))
    }

    /// Accounts for a task that has left `waiting`.
    fn taken(&mut self, place: Place, waiting: Waiting<T>) -> Placed<T> {
        self.ranks.remove(place.deadline);
        self.bytes -= waiting.bytes;
        if let Some(holdings) = &mut self.holdings {
            holdings.subtract(place, waiting.claim, waiting.bytes);
        }
        waiting.at(place)
    }

    /// Takes out the tasks of a section.
    pub(crate) fn cut(&mut self, section: Section) -> Vec<Placed<T>> {
        let left: Vec<_> = std::iter::from_fn(|| self.waiting.pop_first())
            .take(section.leave)
            .collect();
        let mut batch = Vec::with_capacity(section.take.min(self.waiting.len()));
        let mut bytes: usize = 0;
        while batch.len() < section.take {
            let Some(next) = self.waiting.first_entry() else {
                break;
            };
            bytes = bytes.saturating_add(next.get().bytes);
            if bytes > section.max_bytes && !batch.is_empty() {
                break;
            }
            let (place, waiting) = next.remove_entry();
            batch.push(self.taken(place, waiting));
        }
        self.waiting.extend(left);
        batch
    }

    /// Takes out the tasks at these places, which must be in order. Stops at `max_bytes`, but takes one task at
    /// least.
    pub(crate) fn pick(&mut self, places: &[Place], max_bytes: usize) -> Vec<Placed<T>> {
        let mut batch = Vec::with_capacity(places.len());
        let mut bytes: usize = 0;
        for place in places {
            let size = self.waiting.get(place).map_or(0, |waiting| waiting.bytes);
            bytes = bytes.saturating_add(size);
            if bytes > max_bytes && !batch.is_empty() {
                break;
            }
            batch.extend(self.remove(*place));
        }
        batch
    }

    /// The deadline and the bytes of each waiting task, in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Instant, usize)> + '_ {
        self.waiting
            .iter()
            .map(|(place, waiting)| (place.deadline, waiting.bytes))
    }

    /// Takes out the task at a place, if it still waits there.
    pub fn remove(&mut self, place: Place) -> Option<Placed<T>> {
        let waiting = self.waiting.remove(&place)?;
        Some(self.taken(place, waiting))
    }

    /// Lets another application wait for the same task. The task then counts for the one of the two that holds less
    /// by weight.
    pub(crate) fn share(&mut self, place: Place, claim: Claim) {
        self.meet(claim);
        let (Some(holdings), Some(waiting)) = (&self.holdings, self.waiting.get(&place)) else {
            return;
        };
        let held = |claim: Claim| {
            let held = holdings.get(claim.application);
            (held.map_or(0, holdings::Holding::len), claim.weight)
        };
        if by_weight(held(claim), held(waiting.claim)).is_lt()
            && let Some(placed) = self.remove(place)
        {
            self.put_back(Placed { claim, ..placed });
        }
    }

    /// The tasks of each application. `None` while there is only one application.
    pub(crate) fn holdings(&self) -> Option<&Holdings> {
        self.holdings.as_ref()
    }

    /// Whether a replica was lost with the task at this place. `None` if it does not wait there.
    pub(crate) fn lost_before(&self, place: Place) -> Option<bool> {
        self.waiting.get(&place).map(|waiting| waiting.lost_before)
    }

    /// The place of the task with the earliest deadline.
    pub fn first(&self) -> Option<Place> {
        self.waiting.first_key_value().map(|(&place, _)| place)
    }

    /// The earliest deadline.
    pub fn earliest(&self) -> Option<Instant> {
        self.first().map(Place::deadline)
    }

    /// Bytes of all waiting inputs.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The task at a place, if it still waits there.
    pub fn get(&self, place: Place) -> Option<&T> {
        self.waiting.get(&place).map(|waiting| &waiting.task)
    }
}

impl<T> Deadlines for DeadlineQueue<T> {
    fn len(&self) -> usize {
        self.waiting.len()
    }

    fn before(&self, at: Instant) -> usize {
        self.ranks.before(at)
    }

    fn nth(&self, rank: usize) -> Option<Instant> {
        self.ranks.nth(rank)
    }

    fn sample(&self, from: usize, every: usize, into: &mut Vec<Instant>) {
        self.ranks.sample(from, every, into);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(nanos: u64) -> Instant {
        Instant::from_nanos(nanos)
    }

    fn queue(count: usize, bytes: usize) -> DeadlineQueue<u64> {
        DeadlineQueue::new(Bounds { count, bytes })
    }

    impl DeadlineQueue<u64> {
        fn push_for(&mut self, claim: Claim, deadline: u64, task: u64) -> Place {
            let entrant = Entrant {
                deadline: at(deadline),
                claim,
                bytes: 1,
                task,
            };
            self.admit(entrant, &mut Vec::new()).unwrap()
        }
    }

    fn task(taken: Option<Placed<u64>>) -> Option<u64> {
        taken.map(|placed| placed.task)
    }

    #[test]
    fn a_section_stays_within_its_bytes_but_one_large_task_still_goes() {
        let mut queue = queue(10, 1000);
        for n in 0..5 {
            queue.push(at(n), 10, n).unwrap();
        }
        let mut cut = |leave, take, max_bytes| -> Vec<u64> {
            let section = Section {
                leave,
                take,
                max_bytes,
            };
            queue.cut(section).into_iter().map(|placed| placed.task).collect()
        };
        assert_eq!(cut(1, 9, 29), [1, 2]);
        assert_eq!(cut(0, 9, 1), [0]);
        assert!(cut(7, 1, 100).is_empty());
        assert_eq!((queue.len(), queue.bytes()), (2, 20));
    }

    fn claim(application: u64, weight: u32) -> Claim {
        let weight = NonZeroU32::new(weight).unwrap();
        Claim { application, weight }
    }

    /// Adds a query; says which gave way, or that it is the query itself.
    fn admit(
        queue: &mut DeadlineQueue<u64>,
        claim: Claim,
        deadline: u64,
        bytes: usize,
        task: u64,
    ) -> Vec<u64> {
        let mut displaced = Vec::new();
        let entrant = Entrant {
            deadline: at(deadline),
            claim,
            bytes,
            task,
        };
        if let Err(Full(task)) = queue.admit(entrant, &mut displaced) {
            assert!(displaced.is_empty(), "{displaced:?} gave way for nothing");
            return vec![task];
        }
        displaced.into_iter().map(|placed| placed.task).collect()
    }

    #[test]
    fn a_full_queue_gives_the_task_back_unless_one_with_a_later_deadline_waits() {
        let mut queue = queue(2, 100);
        queue.push(at(1), 10, 1).unwrap();
        queue.push(at(5), 10, 2).unwrap();
        assert_eq!(queue.push(at(5), 10, 3), Err(Full(3)));
        assert_eq!(admit(&mut queue, Claim::SOLE, 4, 10, 4), [2]);
        assert_eq!(admit(&mut queue, Claim::SOLE, 4, 10, 5), [5]);
        assert_eq!((queue.len(), queue.bytes()), (2, 20));
    }

    #[test]
    fn who_holds_most_of_a_full_queue_gives_way_by_its_latest_deadline() {
        let (loose, tight) = (claim(1, 1), claim(2, 1));
        let mut queue = queue(4, 1000);
        for (nth, due) in [60, 61, 62, 63].into_iter().enumerate() {
            assert!(admit(&mut queue, loose, due, 10, nth as u64).is_empty());
        }
        assert_eq!(admit(&mut queue, tight, 99, 10, 10), [3]);
        assert_eq!(admit(&mut queue, tight, 5, 10, 11), [2]);
        // Both hold equally much now. The application that asks for more gives way itself, by its latest deadline.
        assert_eq!(admit(&mut queue, tight, 4, 10, 12), [10]);
        assert_eq!(admit(&mut queue, tight, 6, 10, 13), [13]);
        assert_eq!(admit(&mut queue, loose, 62, 10, 14), [14]);
        assert_eq!(admit(&mut queue, loose, 1, 10, 15), [1]);
    }

    #[test]
    fn weights_say_how_much_may_be_held() {
        let (heavy, light) = (claim(1, 3), claim(2, 1));
        let mut queue = queue(8, 1000);
        for nth in 0..8 {
            assert!(admit(&mut queue, light, 9, 1, nth).is_empty());
        }
        for nth in 10..16 {
            assert!(admit(&mut queue, heavy, 9, 1, nth).iter().all(|&task| task < 8));
        }
        assert_eq!(admit(&mut queue, heavy, 9, 1, 16), [16]);
        assert_eq!(admit(&mut queue, light, 9, 1, 17), [17]);
    }

    #[test]
    fn bytes_are_shared_like_places_and_nobody_gives_way_for_nothing() {
        let (large, small) = (claim(1, 1), claim(2, 1));
        let mut queue = queue(100, 100);
        for nth in 0..9 {
            assert!(admit(&mut queue, large, 50 + nth, 10, nth).is_empty());
        }
        assert_eq!(admit(&mut queue, small, 99, 30, 10), [8, 7]);
        assert_eq!(queue.bytes(), 100);
        assert_eq!(admit(&mut queue, small, 99, 30, 11), [11], "it would hold most");
        assert_eq!(admit(&mut queue, small, 98, 101, 12), [12], "it never fits");
        assert_eq!((queue.len(), queue.bytes()), (8, 100));
        // The query of the same application that is due after the new one gives way, too.
        assert_eq!(admit(&mut queue, small, 98, 30, 13), [6, 10]);
    }

    #[test]
    fn a_query_of_two_applications_is_one_of_that_which_holds_less() {
        let (many, few) = (claim(1, 1), claim(2, 1));
        let mut queue = queue(100, 1000);
        let mut places = Vec::new();
        for nth in 0..3 {
            places.push(queue.push_for(many, 9, nth));
        }
        queue.share(places[2], few);
        let held = |application| queue.holdings().unwrap().get(application).unwrap().len();
        assert_eq!((held(1), held(2)), (2, 1));
        queue.share(places[2], many);
        assert_eq!(queue.remove(places[2]).unwrap().claim(), few);
    }

    #[test]
    fn bytes_are_bounded_but_one_large_task_is_still_served() {
        let mut queue = queue(10, 100);
        let large = queue.push(at(1), 1000, 1).unwrap();
        assert_eq!(queue.push(at(1), 1, 2), Err(Full(2)));
        assert_eq!(task(queue.remove(large)), Some(1));
        assert!(queue.push(at(1), 100, 3).is_ok());
        assert_eq!(queue.bytes(), 100);
    }

    #[test]
    fn a_removed_task_is_gone_and_removing_it_again_is_no_harm() {
        let mut queue = queue(10, 100);
        let place = queue.push(at(5), 1, 7).unwrap();
        assert_eq!(task(queue.remove(place)), Some(7));
        assert_eq!(queue.remove(place), None);
        assert_eq!(queue.pop(), None);
    }

    #[test]
    fn a_task_put_back_is_found_at_the_place_it_had() {
        let mut queue = queue(1, 100);
        let place = queue.push(at(5), 10, 7).unwrap();
        let taken = queue.pop().unwrap();
        assert_eq!((taken.place(), taken.task), (place, 7));
        queue.push(at(9), 10, 8).unwrap();
        queue.put_back(taken);
        assert_eq!((queue.len(), queue.bytes()), (2, 20));
        assert_eq!(task(queue.remove(place)), Some(7));
    }

    #[test]
    fn a_task_moved_to_another_deadline_waits_there_only() {
        let mut queue = queue(10, 100);
        let place = queue.push(at(9), 10, 7).unwrap();
        queue.push(at(5), 10, 8).unwrap();
        let moved = queue.remove(place).unwrap().moved_to(at(1));
        let earlier = moved.place();
        assert_eq!(earlier, place.moved_to(at(1)));
        queue.put_back(moved);
        assert_eq!((queue.get(place), queue.get(earlier)), (None, Some(&7)));
        assert_eq!(queue.bytes(), 20);
        let first = queue.pop().unwrap();
        assert_eq!((first.place(), first.task), (earlier, 7));
    }

    proptest! {
        #[test]
        fn what_is_held_is_what_waits_and_nobody_is_lost(
            events in proptest::collection::vec((0u64..4, 1u32..3, 0u64..50, 1usize..40, 0u8..4), 0..200),
        ) {
            let bounds = Bounds { count: 12, bytes: 200 };
            let mut queue = DeadlineQueue::new(bounds);
            let mut waiting = std::collections::BTreeMap::new();
            for (nth, (application, weight, deadline, bytes, what)) in events.into_iter().enumerate() {
                let task = nth as u64;
                if what == 0 {
                    if let Some(placed) = queue.pop() {
                        waiting.remove(&placed.task);
                    }
                    continue;
                }
                let claim = claim(application, weight);
                let mut displaced = Vec::new();
                let entrant = Entrant { deadline: at(deadline), claim, bytes, task };
                if queue.admit(entrant, &mut displaced).is_ok() {
                    waiting.insert(task, (application, bytes));
                }
                for placed in displaced {
                    prop_assert!(waiting.remove(&placed.task).is_some());
                }
                prop_assert!(queue.len() <= bounds.count && queue.bytes() <= bounds.bytes);
                prop_assert_eq!(queue.len(), waiting.len());
                prop_assert_eq!(queue.bytes(), waiting.values().map(|&(_, bytes)| bytes).sum::<usize>());
                for (application, held) in queue.holdings().into_iter().flat_map(Holdings::iter) {
                    let own = waiting.values().filter(|&&(of, _)| of == application);
                    prop_assert_eq!(held.len(), own.count());
                }
            }
        }

        #[test]
        fn tasks_leave_by_deadline_and_by_arrival_among_equals(
            deadlines in proptest::collection::vec(0u64..10, 0..100),
            removals in proptest::collection::vec(any::<proptest::sample::Index>(), 0..20),
        ) {
            let mut queue = queue(usize::MAX, usize::MAX);
            let mut places = Vec::new();
            for (arrival, &deadline) in deadlines.iter().enumerate() {
                places.push(queue.push(at(deadline), 3, arrival as u64).unwrap());
            }
            let mut expected: Vec<_> = deadlines.iter().enumerate().map(|(n, &d)| (at(d), n as u64)).collect();
            for removal in removals.iter().filter(|_| !places.is_empty()) {
                let index = removal.index(places.len());
                let removed = queue.remove(places[index]);
                prop_assert_eq!(removed.is_some(), expected.iter().any(|&(_, n)| n == index as u64));
                expected.retain(|&(_, n)| n != index as u64);
            }
            prop_assert_eq!(queue.bytes(), expected.len() * 3);
            expected.sort_by_key(|&(deadline, _)| deadline);
            let left: Vec<_> = std::iter::from_fn(|| queue.pop()).map(|left| (left.deadline(), left.task)).collect();
            prop_assert_eq!(left, expected);
        }
    }
}

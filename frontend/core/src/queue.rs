//! Queries waiting for a replica, ordered by deadline, bounded by count and by bytes.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::time::Instant;

mod ranks;

use ranks::Ranks;

/// How much may wait.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Bounds {
    /// Queries.
    pub count: usize,
    /// Bytes of their inputs.
    pub bytes: usize,
}

/// A place in the queue: deadlines first, arrival order among equals.
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

    /// The place of the same task at another deadline.
    pub(crate) fn moved_to(self, deadline: Instant) -> Self {
        Self { deadline, ..self }
    }
}

/// The queue is full; gives back what was to wait.
#[derive(Debug, Eq, PartialEq)]
pub struct Full<T>(pub T);

/// A task outside of the queue, and the place it was taken from.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Placed<T> {
    place: Place,
    bytes: usize,
    /// Whether a replica was lost with it before.
    pub(crate) lost_before: bool,
    /// What was to wait.
    pub task: T,
}

impl<T> Placed<T> {
    /// Where it waited.
    pub fn place(&self) -> Place {
        self.place
    }

    /// When its answer is due.
    pub fn deadline(&self) -> Instant {
        self.place.deadline
    }

    /// The same task at another deadline.
    #[must_use]
    pub(crate) fn moved_to(self, deadline: Instant) -> Self {
        let place = self.place.moved_to(deadline);
        Self { place, ..self }
    }
}

/// What is taken out of the queue at a time.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Section {
    /// This many of the first stay.
    pub(crate) leave: usize,
    /// At most this many of those behind them are taken.
    pub(crate) take: usize,
    /// At most this many bytes of them; one task always goes.
    pub(crate) max_bytes: usize,
}

#[derive(Debug)]
struct Waiting<T> {
    bytes: usize,
    lost_before: bool,
    task: T,
}

impl<T> Waiting<T> {
    fn at(self, place: Place) -> Placed<T> {
        let Self {
            bytes,
            lost_before,
            task,
        } = self;
        Placed {
            place,
            bytes,
            lost_before,
            task,
        }
    }
}

/// What a batch policy sees of a queue.
pub trait Deadlines {
    /// How many wait.
    fn len(&self) -> usize;

    /// Whether none waits.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many are due before `at`.
    fn before(&self, at: Instant) -> usize;

    /// When the one of this rank is due; the earliest has rank 0.
    fn nth(&self, rank: usize) -> Option<Instant>;

    /// Appends when those of the ranks `from`, `from + every` and so on are due.
    fn sample(&self, from: usize, every: usize, into: &mut Vec<Instant>);

    /// How many deadlines have passed at `now`.
    fn expired(&self, now: Instant) -> usize {
        self.before(now + Duration::from_nanos(1))
    }
}

/// The queue. What comes or leaves costs a logarithm of its length, what is asked of ranks a step for each few hundred.
#[derive(Debug)]
pub struct DeadlineQueue<T> {
    waiting: BTreeMap<Place, Waiting<T>>,
    /// The same deadlines.
    ranks: Ranks,
    bounds: Bounds,
    bytes: usize,
    arrivals: u64,
}

impl<T> DeadlineQueue<T> {
    /// An empty queue.
    pub fn new(bounds: Bounds) -> Self {
        Self {
            waiting: BTreeMap::new(),
            ranks: Ranks::default(),
            bounds,
            bytes: 0,
            arrivals: 0,
        }
    }

    /// Adds a task whose input is of `bytes` bytes; returns its place, or the task if the queue is full.
    ///
    /// A task larger than the byte bound is taken when the queue is empty: it would otherwise never be.
    pub fn push(&mut self, deadline: Instant, bytes: usize, task: T) -> Result<Place, Full<T>> {
        let too_many = self.waiting.len() >= self.bounds.count;
        let too_large = self.bytes.saturating_add(bytes) > self.bounds.bytes && !self.waiting.is_empty();
        if too_many || too_large {
            return Err(Full(task));
        }
        let place = Place {
            deadline,
            arrival: self.arrivals,
        };
        self.arrivals += 1;
        self.put_back(Placed {
            place,
            bytes,
            lost_before: false,
            task,
        });
        Ok(place)
    }

    /// Returns a task to the place it was taken from, bounds or not: it was accepted and may not be lost.
    pub fn put_back(&mut self, placed: Placed<T>) {
        let Placed {
            place,
            bytes,
            lost_before,
            task,
        } = placed;
        self.bytes += bytes;
        let waiting = Waiting {
            bytes,
            lost_before,
            task,
        };
        self.waiting.insert(place, waiting);
        self.ranks.insert(place.deadline);
    }

    /// Takes the task with the earliest deadline.
    pub fn pop(&mut self) -> Option<Placed<T>> {
        let (place, waiting) = self.waiting.pop_first()?;
        self.ranks.remove(place.deadline);
        self.bytes -= waiting.bytes;
        Some(waiting.at(place))
    }

    /// Takes a section out.
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
            self.ranks.remove(place.deadline);
            self.bytes -= waiting.bytes;
            batch.push(waiting.at(place));
        }
        self.waiting.extend(left);
        batch
    }

    /// Takes the task at a place, if it still waits.
    pub fn remove(&mut self, place: Place) -> Option<Placed<T>> {
        let waiting = self.waiting.remove(&place)?;
        self.ranks.remove(place.deadline);
        self.bytes -= waiting.bytes;
        Some(waiting.at(place))
    }

    /// Whether a replica was lost with the task at a place, if it still waits.
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

    /// The latest deadline.
    pub fn latest(&self) -> Option<Instant> {
        self.waiting.last_key_value().map(|(place, _)| place.deadline)
    }

    /// Bytes of all inputs that wait.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The task at a place, if it still waits.
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

    #[test]
    fn a_full_queue_gives_the_task_back() {
        let mut queue = queue(1, 100);
        queue.push(at(1), 10, 1).unwrap();
        assert_eq!(queue.push(at(0), 10, 2), Err(Full(2)));
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

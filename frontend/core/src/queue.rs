//! Queries waiting for a replica, ordered by deadline, bounded by count and by bytes.

use std::collections::BTreeMap;

use crate::time::Instant;

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
    pub fn moved_to(self, deadline: Instant) -> Self {
        Self { deadline, ..self }
    }
}

/// The queue is full; gives back what was to wait.
#[derive(Debug, Eq, PartialEq)]
pub struct Full<T>(pub T);

#[derive(Debug)]
struct Waiting<T> {
    bytes: usize,
    task: T,
}

/// What a batch policy sees of a queue.
pub trait Deadlines {
    /// How many wait.
    fn len(&self) -> usize;

    /// Whether none waits.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Appends the deadlines of the first `most`, earliest first.
    fn copy_deadlines(&self, most: usize, into: &mut Vec<Instant>);

    /// How many deadlines have passed at `now`.
    fn expired(&self, now: Instant) -> usize;
}

/// The queue. Every operation is logarithmic in its length.
#[derive(Debug)]
pub struct DeadlineQueue<T> {
    waiting: BTreeMap<Place, Waiting<T>>,
    bounds: Bounds,
    bytes: usize,
    arrivals: u64,
}

impl<T> DeadlineQueue<T> {
    /// An empty queue.
    pub fn new(bounds: Bounds) -> Self {
        Self {
            waiting: BTreeMap::new(),
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
        self.put_back(place, bytes, task);
        Ok(place)
    }

    /// Returns a task to the place it was taken from, bounds or not: it was accepted and may not be lost.
    pub fn put_back(&mut self, place: Place, bytes: usize, task: T) {
        self.bytes += bytes;
        self.waiting.insert(place, Waiting { bytes, task });
    }

    /// Takes the task with the earliest deadline.
    pub fn pop(&mut self) -> Option<(Place, T)> {
        let (place, waiting) = self.waiting.pop_first()?;
        self.bytes -= waiting.bytes;
        Some((place, waiting.task))
    }

    /// Takes the task at a place, if it still waits.
    pub fn remove(&mut self, place: Place) -> Option<T> {
        let waiting = self.waiting.remove(&place)?;
        self.bytes -= waiting.bytes;
        Some(waiting.task)
    }

    /// The earliest deadline.
    pub fn earliest(&self) -> Option<Instant> {
        self.waiting.first_key_value().map(|(place, _)| place.deadline)
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

    fn copy_deadlines(&self, most: usize, into: &mut Vec<Instant>) {
        into.extend(self.waiting.keys().take(most).map(|place| place.deadline));
    }

    fn expired(&self, now: Instant) -> usize {
        self.waiting
            .keys()
            .take_while(|place| place.deadline <= now)
            .count()
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
        assert_eq!(queue.remove(large), Some(1));
        assert!(queue.push(at(1), 100, 3).is_ok());
        assert_eq!(queue.bytes(), 100);
    }

    #[test]
    fn a_removed_task_is_gone_and_removing_it_again_is_no_harm() {
        let mut queue = queue(10, 100);
        let place = queue.push(at(5), 1, 7).unwrap();
        assert_eq!(queue.remove(place), Some(7));
        assert_eq!(queue.remove(place), None);
        assert_eq!(queue.pop(), None);
    }

    #[test]
    fn a_task_put_back_is_found_at_the_place_it_had() {
        let mut queue = queue(1, 100);
        let place = queue.push(at(5), 10, 7).unwrap();
        assert_eq!(queue.pop(), Some((place, 7)));
        queue.push(at(9), 10, 8).unwrap();
        queue.put_back(place, 10, 7);
        assert_eq!((queue.len(), queue.bytes()), (2, 20));
        assert_eq!(queue.remove(place), Some(7));
    }

    #[test]
    fn a_task_moved_to_another_deadline_waits_there_only() {
        let mut queue = queue(10, 100);
        let place = queue.push(at(9), 10, 7).unwrap();
        queue.push(at(5), 10, 8).unwrap();
        let earlier = place.moved_to(at(1));
        let task = queue.remove(place).unwrap();
        queue.put_back(earlier, 10, task);
        assert_eq!((queue.get(place), queue.get(earlier)), (None, Some(&7)));
        assert_eq!((queue.bytes(), queue.pop()), (20, Some((earlier, 7))));
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
            let left: Vec<_> = std::iter::from_fn(|| queue.pop()).map(|(place, n)| (place.deadline(), n)).collect();
            prop_assert_eq!(left, expected);
        }
    }
}

//! Which connection has idled longest, found without a look at all of them each time.
//!
//! Connections that are idle are listed once, in the order in which they became so. One that becomes idle later
//! belongs behind all that are listed, so the list stays right until it is used up: those on it that have been
//! used since are passed over.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use tokio::task::Id;
use tokio::time::Instant;

/// For how long a connection has to have idled before it is closed for another: the next request of a client
/// that asks again and again may be on its way.
const LEAST_IDLE: Duration = Duration::from_millis(100);

/// The connections that were idle when they were last listed, longest first.
#[derive(Debug, Default)]
pub(super) struct Idlest {
    listed: VecDeque<(Instant, Id)>,
    listed_at: Option<Instant>,
}

impl Idlest {
    /// Takes the connection that has idled longest, or says when to ask again.
    ///
    /// `connections` are all there are. `idle_since` says since when one of them has been idle; nothing if it is
    /// not, or is gone.
    pub(super) fn take(
        &mut self,
        now: Instant,
        connections: &HashMap<Id, impl Sized>,
        idle_since: impl Fn(Id) -> Option<Instant>,
    ) -> Result<Id, Instant> {
        loop {
            while let Some(&(since, id)) = self.listed.front() {
                if idle_since(id) == Some(since) {
                    if now < since + LEAST_IDLE {
                        return Err(since + LEAST_IDLE);
                    }
                    self.listed.pop_front();
                    return Ok(id);
                }
                self.listed.pop_front();
            }
            // Whoever became idle since the last time is not to be closed before then anyway.
            let again = self.listed_at.map_or(now, |at| at + LEAST_IDLE);
            if now < again {
                return Err(again);
            }
            self.listed_at = Some(now);
            let mut listed: Vec<_> = connections
                .keys()
                .filter_map(|id| Some((idle_since(*id)?, *id)))
                .collect();
            listed.sort_by_key(|&(since, _)| since);
            self.listed = listed.into();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Connections, and since when each is idle.
    struct Connections {
        idlest: Idlest,
        idle: HashMap<Id, Option<Instant>>,
        ids: Vec<Id>,
        begin: Instant,
    }

    impl Connections {
        /// Idle since these milliseconds; a busy one is negative.
        fn new(since: &[i64]) -> Self {
            let begin = Instant::now();
            // Ids are those of tasks, and only the runtime makes any.
            let ids: Vec<_> = since.iter().map(|_| tokio::spawn(async {}).id()).collect();
            let mut connections = Self {
                idlest: Idlest::default(),
                idle: HashMap::new(),
                ids,
                begin,
            };
            for (index, &since) in since.iter().enumerate() {
                connections.set(index, since);
            }
            connections
        }

        fn at(&self, millis: i64) -> Option<Instant> {
            let millis = u64::try_from(millis).ok()?;
            Some(self.begin + Duration::from_millis(millis))
        }

        fn set(&mut self, index: usize, since: i64) {
            self.idle.insert(self.ids[index], self.at(since));
        }

        /// The index of the one that is taken, or the milliseconds at which to ask again.
        fn take(&mut self, now: i64) -> Result<usize, u128> {
            let now = self.at(now).unwrap();
            let (idle, begin) = (&self.idle, self.begin);
            let taken = self.idlest.take(now, idle, |id| idle.get(&id).copied().flatten());
            let id = taken.map_err(|again| (again - begin).as_millis())?;
            self.idle.remove(&id);
            Ok(self.ids.iter().position(|found| *found == id).unwrap())
        }
    }

    #[tokio::test]
    async fn they_are_taken_in_the_order_in_which_they_became_idle() {
        let mut connections = Connections::new(&[30, 10, -1, 20]);
        assert_eq!(connections.take(500), Ok(1));
        assert_eq!(connections.take(500), Ok(3));
        assert_eq!(connections.take(500), Ok(0));
        assert_eq!(connections.take(500), Err(600));
        // The one that was busy.
        connections.set(2, 550);
        assert_eq!(connections.take(600), Err(650));
        assert_eq!(connections.take(650), Ok(2));
    }

    #[tokio::test]
    async fn one_that_was_used_since_it_was_listed_is_passed_over() {
        let mut connections = Connections::new(&[10, 20, 30]);
        assert_eq!(connections.take(500), Ok(0));
        connections.set(1, 505);
        assert_eq!(connections.take(510), Ok(2));
        assert_eq!(connections.take(510), Err(600));
        assert_eq!(connections.take(600), Err(605));
        assert_eq!(connections.take(605), Ok(1));
    }

    #[tokio::test]
    async fn one_that_has_only_just_become_idle_is_left_alone() {
        let mut connections = Connections::new(&[450]);
        assert_eq!(connections.take(500), Err(550));
        assert_eq!(connections.take(549), Err(550));
        assert_eq!(connections.take(550), Ok(0));
    }

    #[tokio::test]
    async fn while_nobody_is_idle_they_are_looked_at_now_and_then() {
        let mut connections = Connections::new(&[-1, -1]);
        assert_eq!(connections.take(0), Err(100));
        connections.set(0, 10);
        assert_eq!(connections.take(50), Err(100));
        assert_eq!(connections.take(100), Err(110));
        assert_eq!(connections.take(110), Ok(0));
    }
}

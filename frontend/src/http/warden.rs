//! Closes connections whose clients keep them waiting for too long, or that idle while others find no place.
//!
//! A timer for every request would cost every request, so one warden looks at all connections from time to
//! time: a limit is kept to within a quarter of it, and never cut short.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::Id;
use tokio::time::Instant;
use tracing::debug;

use super::Limits;
use super::activity::{Activity, Closing, State};
use super::connection::CLOSING_TIME;
use super::idlest::Idlest;

/// How many connections that are to leave for others may still be there beside those. Most are gone at once; an
/// HTTP/2 client is asked to hang up, and may take a moment.
const LEAVING_AT_ONCE: usize = 64;

/// How long a client may keep a connection waiting.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Timeouts {
    /// For the first request, for the rest of a request's head, for more of a body, or before it takes more
    /// of an answer.
    pub client: Duration,
    /// For the next request, when the last one is answered.
    pub idle: Duration,
}

impl Timeouts {
    /// How often to look.
    pub(super) fn look_every(&self) -> Duration {
        self.client.min(self.idle) / 4
    }

    /// How long a connection may be in a state.
    fn limit(&self, state: State) -> Option<Duration> {
        match state {
            State::Answering => None,
            State::Asking { .. } | State::Taking { .. } => Some(self.client),
            State::Idle { .. } => Some(self.idle),
        }
    }
}

/// Watches over the connections of one server.
pub(super) struct Warden {
    timeouts: Timeouts,
    /// The most connections, besides those that leave.
    limit: usize,
    /// By the task that serves it.
    connections: HashMap<Id, Watched>,
    /// How many of them leave for others.
    leaving: usize,
    idlest: Idlest,
}

/// A connection, and what was seen of it.
struct Watched {
    activity: Arc<Activity>,
    state: State,
    since: Instant,
    /// It was told to close for another.
    leaves: bool,
}

impl Warden {
    pub(super) fn new(limits: &Limits) -> Self {
        Self {
            timeouts: limits.timeouts,
            limit: limits.connections.max(1),
            connections: HashMap::new(),
            leaving: 0,
            idlest: Idlest::default(),
        }
    }

    /// Whether there are as many connections as there may be.
    pub(super) fn is_full(&self) -> bool {
        self.connections.len() - self.leaving >= self.limit
    }

    /// Makes room for one more connection: where there is none, the one that has idled longest is told to
    /// close. If none idles, says when to ask again.
    pub(super) fn make_room(&mut self, now: Instant) -> Result<(), Instant> {
        if !self.is_full() {
            return Ok(());
        }
        if self.leaving >= LEAVING_AT_ONCE {
            // The end of one of them wakes the server before that.
            return Err(now + CLOSING_TIME);
        }
        let connections = &self.connections;
        let idle_since = |id| {
            let watched = connections.get(&id).filter(|watched| !watched.leaves);
            watched?.activity.idle_since()
        };
        let id = self.idlest.take(now, connections, idle_since)?;
        let watched = self.connections.get_mut(&id);
        let watched = watched.expect("it was looked at just now; this is a bug");
        watched.leaves = true;
        self.leaving += 1;
        watched.activity.close(Closing::Gracefully);
        Ok(())
    }

    /// Watches over a connection accepted now.
    pub(super) fn watch(&mut self, id: Id, activity: Arc<Activity>) {
        let watched = Watched {
            state: activity.state(),
            activity,
            since: Instant::now(),
            leaves: false,
        };
        self.connections.insert(id, watched);
    }

    /// A connection has ended.
    pub(super) fn forget(&mut self, id: Id) {
        let ended = self.connections.remove(&id);
        self.leaving -= usize::from(ended.is_some_and(|watched| watched.leaves));
    }

    /// Looks at all connections, and tells those to close whose clients are overdue.
    pub(super) fn look(&mut self, now: Instant) {
        for watched in self.connections.values_mut() {
            if let Some(state) = watched.overdue(&self.timeouts, now) {
                debug!(?state, "connection closed: its client kept it waiting");
                // One that takes nothing takes no farewell.
                watched.activity.close(match state {
                    State::Taking { .. } => Closing::AtOnce,
                    _ => Closing::Gracefully,
                });
            }
        }
    }

    /// Tells all connections to close.
    pub(super) fn close(self) {
        for watched in self.connections.into_values() {
            watched.activity.close(Closing::Gracefully);
        }
    }
}

impl Watched {
    /// The state that the connection has been in for too long.
    fn overdue(&mut self, timeouts: &Timeouts, now: Instant) -> Option<State> {
        let state = self.activity.state();
        if state != self.state {
            (self.state, self.since) = (state, now);
            return None;
        }
        let limit = timeouts.limit(state)?;
        (now.saturating_duration_since(self.since) >= limit).then_some(state)
    }
}

#[cfg(test)]
mod tests {
    use std::task::Poll;

    use hyper::Version;

    use super::*;

    const TIMEOUTS: Timeouts = Timeouts {
        client: Duration::from_secs(10),
        idle: Duration::from_secs(60),
    };

    struct Connection {
        activity: Arc<Activity>,
        watched: Watched,
        now: Instant,
    }

    impl Connection {
        fn accepted() -> Self {
            let (activity, now) = (Arc::new(Activity::default()), Instant::now());
            let watched = Watched {
                activity: activity.clone(),
                state: activity.state(),
                since: now,
                leaves: false,
            };
            Self {
                activity,
                watched,
                now,
            }
        }

        /// Looks after this many seconds.
        fn after(&mut self, seconds: u64) -> Option<State> {
            self.now += Duration::from_secs(seconds);
            self.watched.overdue(&TIMEOUTS, self.now)
        }

        fn is_asked_and_answers(&self) {
            drop(self.activity.begin(Version::HTTP_11));
        }
    }

    #[test]
    fn a_connection_that_never_asks_is_given_the_client_timeout() {
        let mut connection = Connection::accepted();
        assert_eq!(connection.after(9), None);
        // Bytes that make no head do not help.
        connection.activity.read(b"GET");
        assert_eq!(connection.after(1), Some(State::Asking { begun: 0 }));
    }

    #[test]
    fn a_connection_is_given_the_idle_timeout_after_each_request() {
        let mut connection = Connection::accepted();
        for _ in 0..10 {
            connection.is_asked_and_answers();
            assert_eq!(connection.after(5), None);
            assert_eq!(connection.after(50), None);
        }
        assert_eq!(connection.after(10), Some(State::Idle { begun: 10 }));
    }

    #[test]
    fn a_head_that_does_not_end_is_given_the_client_timeout() {
        let mut connection = Connection::accepted();
        connection.is_asked_and_answers();
        connection.activity.read(b"GET");
        assert_eq!(connection.after(5), None);
        connection.activity.read(b"GET");
        assert_eq!(connection.after(9), None);
        assert_eq!(connection.after(1), Some(State::Asking { begun: 1 }));
    }

    #[test]
    fn an_answer_may_take_as_long_as_it_takes() {
        let mut connection = Connection::accepted();
        let open = connection.activity.begin(Version::HTTP_11);
        assert_eq!(connection.after(1), None);
        assert_eq!(connection.after(1_000_000), None);
        drop(open);
        assert_eq!(connection.after(59), None);
        assert_eq!(connection.after(59), None);
        assert_eq!(connection.after(1), Some(State::Idle { begun: 1 }));
    }

    #[test]
    fn an_answer_that_is_not_taken_is_given_the_client_timeout() {
        let mut connection = Connection::accepted();
        let _open = connection.activity.begin(Version::HTTP_11);
        let stuck = Poll::<std::io::Result<()>>::Pending;
        let taken = Poll::Ready(Ok(()));
        for _ in 0..10 {
            connection.activity.wrote(&taken);
            connection.activity.wrote(&stuck);
            assert_eq!(connection.after(9), None);
        }
        assert_eq!(connection.after(10), Some(State::Taking { written: 10 }));
    }
}

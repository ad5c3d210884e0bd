//! How Redis does, as told by all that is asked of it: what is read, what is written, and how long it takes.
//!
//! Reads alone say too little. A Redis that answers reads and refuses writes (too few replicas, a full disk, no
//! memory, a replica after a failover) lets nobody announce himself and nobody act, and one that is slow lets
//! leases run out.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;
use tracing::{error, info, warn};

use crate::store::{StoreError, StoreHealth};

/// A Redis whose answers take this long is told of: a lease of three seconds is renewed a few times only.
const SLOW: Duration = Duration::from_millis(400);

/// As many round trips in a row have to be slow, so that a moment's stall is none.
const ROUND_TRIPS: usize = 3;

/// What is written again and again, and shows whether writes are taken.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Beat {
    /// This frontend's announcement.
    Announcement,
    /// The control role's lease.
    Lease,
    /// Query ids: without a first block no query is answered.
    QueryBlock,
}

/// What is known of Redis, and who wants to know.
pub(super) struct Pulse {
    redis: String,
    state: Mutex<State>,
    health: watch::Sender<StoreHealth>,
}

struct State {
    /// As the follower finds it.
    followed: StoreHealth,
    /// Why the last announcement was refused, the last wish for the lease, and the last for query ids.
    refused: [Option<String>; 3],
    /// The latest round trips.
    trips: [Duration; ROUND_TRIPS],
}

impl Pulse {
    pub(super) fn new(redis: String) -> Self {
        Self {
            redis,
            state: Mutex::new(State {
                followed: StoreHealth::Connecting,
                refused: [None, None, None],
                trips: [Duration::ZERO; ROUND_TRIPS],
            }),
            health: watch::Sender::new(StoreHealth::Connecting),
        }
    }

    pub(super) fn watch(&self) -> watch::Receiver<StoreHealth> {
        self.health.subscribe()
    }

    /// Why nobody should begin to act on the word of this store. That the lease itself was refused is no reason:
    /// asking for it is how it is found out whether it still is.
    pub(super) fn doubt(&self) -> Option<StoreHealth> {
        let state = self.state.lock();
        match (&state.followed, &state.refused[Beat::Announcement as usize]) {
            (lost @ StoreHealth::WentBack(_), _) => Some(lost.clone()),
            (_, Some(refused)) => Some(StoreHealth::RefusesWrites(refused.clone())),
            _ => None,
        }
    }

    /// The session is up, down, or shows a store that lost something.
    pub(super) fn found(&self, followed: StoreHealth) {
        self.change(|state| {
            if let StoreHealth::Down(_) = &followed {
                state.trips = [Duration::ZERO; ROUND_TRIPS];
            }
            state.followed = followed;
        });
    }

    /// The session was ended, to look for a Redis that takes writes: this one is a replica now. It is not away.
    pub(super) fn demoted(&self, refusal: &StoreError) {
        self.change(|state| {
            if state.refused.iter().all(Option::is_none) {
                state.refused[Beat::Announcement as usize] = Some(words(refusal));
            }
        });
    }

    /// An answer took so long.
    pub(super) fn round_trip(&self, took: Duration) {
        self.change(|state| {
            state.trips.rotate_left(1);
            state.trips[ROUND_TRIPS - 1] = took;
        });
    }

    /// A write that is repeated all the time was done, or refused by a Redis that answers.
    pub(super) fn written(&self, beat: Beat, refused: Option<&StoreError>) {
        self.change(|state| state.refused[beat as usize] = refused.map(words));
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.state.lock();
        change(&mut state);
        let health = state.health(&self.redis);
        self.health.send_if_modified(|shown| {
            let changed = *shown != health;
            if changed {
                self.tell(shown, &health);
                *shown = health;
            }
            changed
        });
    }

    /// Tells of another kind of health once, and not of each other figure.
    fn tell(&self, before: &StoreHealth, now: &StoreHealth) {
        let redis = &self.redis;
        match now {
            StoreHealth::Connecting => {}
            StoreHealth::Up => info!(redis, "the metadata store is followed"),
            StoreHealth::Slow(_) if matches!(before, StoreHealth::Slow(_)) => {}
            StoreHealth::Slow(reason) => warn!(reason, "the metadata store is slow"),
            // Announcements and the lease may be refused in different words, in turn.
            StoreHealth::RefusesWrites(_) if matches!(before, StoreHealth::RefusesWrites(_)) => {}
            StoreHealth::RefusesWrites(reason) => error!(reason, "the metadata store refuses writes"),
            StoreHealth::WentBack(reason) => error!(redis, reason, "the metadata store is not followed"),
            StoreHealth::Down(reason) => warn!(reason, "metadata store lost; trying again"),
        }
    }
}

impl State {
    /// The worst of what is known.
    fn health(&self, redis: &str) -> StoreHealth {
        if self.followed != StoreHealth::Up {
            return self.followed.clone();
        }
        if let Some(reason) = self.refused.iter().flatten().next() {
            return StoreHealth::RefusesWrites(reason.clone());
        }
        let quickest = self.trips.iter().min().copied().unwrap_or_default();
        if quickest >= SLOW {
            // In tenths of a second, so that it is not another sentence each time.
            let seconds = quickest.as_secs_f64();
            return StoreHealth::Slow(format!(
                "redis at {redis} takes {seconds:.1} s to answer: admin requests take several times that, and the \
                 control role may change hands"
            ));
        }
        StoreHealth::Up
    }
}

/// Whoever shows it says himself that the store is meant.
fn words(error: &StoreError) -> String {
    match error {
        StoreError::Unavailable(why) | StoreError::Refuses(why) => why.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn followed() -> Pulse {
        let pulse = Pulse::new("r:1".into());
        pulse.found(StoreHealth::Up);
        pulse
    }

    fn shown(pulse: &Pulse) -> StoreHealth {
        pulse.watch().borrow().clone()
    }

    #[test]
    fn writes_that_are_refused_are_told_of_until_one_succeeds() {
        let pulse = followed();
        let refused = StoreError::Refuses("READONLY".into());
        pulse.written(Beat::Lease, Some(&refused));
        assert_eq!(shown(&pulse), StoreHealth::RefusesWrites("READONLY".into()));
        // Another kind of write says nothing of this one.
        pulse.written(Beat::Announcement, None);
        assert!(matches!(shown(&pulse), StoreHealth::RefusesWrites(_)));
        // A session that was ended for it shows no other Redis yet.
        pulse.demoted(&StoreError::Refuses("READONLY, in other words".into()));
        assert_eq!(shown(&pulse), StoreHealth::RefusesWrites("READONLY".into()));
        pulse.found(StoreHealth::Down("refuses connections".into()));
        assert_eq!(shown(&pulse), StoreHealth::Down("refuses connections".into()));
        pulse.found(StoreHealth::Up);
        assert_eq!(shown(&pulse), StoreHealth::RefusesWrites("READONLY".into()));
        pulse.written(Beat::Lease, None);
        assert_eq!(shown(&pulse), StoreHealth::Up);
    }

    #[test]
    fn a_redis_that_is_a_replica_now_is_not_away_whoever_found_out() {
        let pulse = followed();
        pulse.demoted(&StoreError::Refuses("READONLY".into()));
        assert_eq!(shown(&pulse), StoreHealth::RefusesWrites("READONLY".into()));
        pulse.written(Beat::Announcement, None);
        assert_eq!(shown(&pulse), StoreHealth::Up);
    }

    #[test]
    fn a_store_that_is_always_slow_is_told_of_and_a_stall_is_not() {
        let pulse = followed();
        for _ in 0..ROUND_TRIPS - 1 {
            pulse.round_trip(Duration::from_millis(1240));
        }
        assert_eq!(shown(&pulse), StoreHealth::Up);
        pulse.round_trip(Duration::from_millis(2000));
        let StoreHealth::Slow(reason) = shown(&pulse) else {
            panic!("{:?}", shown(&pulse))
        };
        assert!(reason.contains("r:1 takes 1.2 s"), "{reason}");
        pulse.round_trip(Duration::from_millis(2));
        assert_eq!(shown(&pulse), StoreHealth::Up);
    }

    #[test]
    fn a_loss_is_worse_than_a_refusal_and_a_refusal_than_slowness() {
        let pulse = followed();
        (0..ROUND_TRIPS).for_each(|_| pulse.round_trip(SLOW));
        assert!(matches!(shown(&pulse), StoreHealth::Slow(_)));
        pulse.written(Beat::Announcement, Some(&StoreError::Refuses("OOM".into())));
        assert!(matches!(shown(&pulse), StoreHealth::RefusesWrites(_)));
        pulse.found(StoreHealth::WentBack("lost".into()));
        assert_eq!(shown(&pulse), StoreHealth::WentBack("lost".into()));
    }

    #[test]
    fn nobody_begins_to_act_while_something_is_lost_or_announcements_are_refused() {
        let pulse = followed();
        let refused = StoreError::Refuses("OOM".into());
        pulse.written(Beat::Lease, Some(&refused));
        assert_eq!(pulse.doubt(), None);
        pulse.written(Beat::Announcement, Some(&refused));
        assert_eq!(pulse.doubt(), Some(StoreHealth::RefusesWrites("OOM".into())));
        pulse.written(Beat::Announcement, None);
        assert_eq!(pulse.doubt(), None);
        pulse.found(StoreHealth::WentBack("lost".into()));
        assert_eq!(pulse.doubt(), Some(StoreHealth::WentBack("lost".into())));
    }
}

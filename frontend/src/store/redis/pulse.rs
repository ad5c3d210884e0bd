//! The health of Redis, derived from reads, writes and round-trip times.
//!
//! Reads alone say too little. A Redis may answer reads and refuse writes: too few replicas, a full disk, no
//! memory, a replica after a failover. Then no frontend can announce itself or take the lease. With a slow
//! Redis leases run out.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;
use tracing::{error, info, warn};

use crate::store::{StoreError, StoreHealth};

/// Answers that take this long are reported: a lease of three seconds is then renewed only a few times.
const SLOW: Duration = Duration::from_millis(400);

/// This number of round trips in a row has to be slow, so that a moment's stall is not reported.
const ROUND_TRIPS: usize = 3;

/// The writes that are repeated all the time. They show whether Redis takes writes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Beat {
    /// This frontend's announcement.
    Announcement,
    /// The control role's lease.
    Lease,
    /// Query ids: without a first block no query is answered.
    QueryBlock,
}

/// The known health of Redis, and the tasks that watch it.
pub(super) struct Pulse {
    redis: String,
    state: Mutex<State>,
    health: watch::Sender<StoreHealth>,
}

struct State {
    /// The health as the follower sees it.
    followed: StoreHealth,
    /// Why the latest write of each [`Beat`] was refused, by `Beat as usize`; `None` if it succeeded.
    refused: [Option<String>; 3],
    /// The latest round trips, newest last.
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

    /// Why no frontend should begin to act for this store. A refused lease alone is no reason: only another
    /// request for the lease shows whether it is still refused.
    pub(super) fn doubt(&self) -> Option<StoreHealth> {
        let state = self.state.lock();
        match (&state.followed, &state.refused[Beat::Announcement as usize]) {
            (lost @ StoreHealth::WentBack(_), _) => Some(lost.clone()),
            (_, Some(refused)) => Some(StoreHealth::RefusesWrites(refused.clone())),
            _ => None,
        }
    }

    /// Records the session's state: up, down, or a store that lost something.
    pub(super) fn found(&self, followed: StoreHealth) {
        self.change(|state| {
            if let StoreHealth::Down(_) = &followed {
                state.trips = [Duration::ZERO; ROUND_TRIPS];
            }
            state.followed = followed;
        });
    }

    /// Records that Redis is a replica now. The session was ended to look for a Redis that takes writes; this
    /// one is not away.
    pub(super) fn demoted(&self, refusal: &StoreError) {
        self.change(|state| {
            if state.refused.iter().all(Option::is_none) {
                state.refused[Beat::Announcement as usize] = Some(words(refusal));
            }
        });
    }

    /// Records one round-trip time.
    pub(super) fn round_trip(&self, took: Duration) {
        self.change(|state| {
            state.trips.rotate_left(1);
            state.trips[ROUND_TRIPS - 1] = took;
        });
    }

    /// Records whether a repeated write was carried out, or refused by a Redis that answers.
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

    /// Logs a change to another kind of health, not each new figure or wording.
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
    /// The worst of the known states.
    fn health(&self, redis: &str) -> StoreHealth {
        if self.followed != StoreHealth::Up {
            return self.followed.clone();
        }
        if let Some(reason) = self.refused.iter().flatten().next() {
            return StoreHealth::RefusesWrites(reason.clone());
        }
        let quickest = self.trips.iter().min().copied().unwrap_or_default();
        if quickest >= SLOW {
            // Tenths of a second, so that the sentence seldom changes.
            let seconds = quickest.as_secs_f64();
            return StoreHealth::Slow(format!(
                "redis at {redis} takes {seconds:.1} s to answer: admin requests take several times that, and the \
                 control role may change hands"
            ));
        }
        StoreHealth::Up
    }
}

/// The error's text without "the metadata store": callers that show it name the store themselves.
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
        // A successful write of another kind does not clear this refusal.
        pulse.written(Beat::Announcement, None);
        assert!(matches!(shown(&pulse), StoreHealth::RefusesWrites(_)));
        // The session was ended because of the refusal; no other Redis was found yet.
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

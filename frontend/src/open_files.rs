//! The limit on open files: raised to what the connections need, or the connections lowered to what it allows.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::{debug, info, warn};

/// Open files besides connections to the REST APIs: the store, the streams of containers, the pipes of processes
/// and whatever libraries open.
const OTHERS: u64 = 1024;

/// Makes room for `clients` connections besides `reserved` ones, and returns how many there is room for.
///
/// The soft limit is raised to what is needed and no further: containers that are child processes inherit
/// it, and some programs do work for every file they might have open.
pub(crate) fn make_room(clients: usize, reserved: usize) -> usize {
    let limit = getrlimit(Resource::Nofile);
    let plan = plan(clients as u64, reserved as u64 + OTHERS, limit);
    match plan.raise_to {
        None => debug!(soft = ?limit.current, "the limit on open files suffices"),
        Some(raised) => {
            let wanted = Rlimit {
                current: Some(raised),
                ..limit
            };
            match setrlimit(Resource::Nofile, wanted) {
                Ok(()) => info!(from = ?limit.current, to = raised, "limit on open files raised"),
                Err(error) => warn!(%error, "the limit on open files cannot be raised"),
            }
        }
    }
    let room = usize::try_from(plan.room).unwrap_or(usize::MAX);
    if room < clients {
        let hard = limit.maximum;
        warn!(
            asked = clients,
            room, hard, "the limit on open files allows fewer connections: raise it"
        );
    }
    room
}

/// What becomes of the limit, and the connections there is room for then; at least one.
#[derive(Debug, Eq, PartialEq)]
struct Plan {
    raise_to: Option<u64>,
    room: u64,
}

fn plan(clients: u64, others: u64, limit: Rlimit) -> Plan {
    let unlimited = u64::MAX;
    let needed = clients.saturating_add(others);
    let attainable = needed.min(limit.maximum.unwrap_or(unlimited));
    let soft = limit.current.unwrap_or(unlimited);
    // Where there is hardly more than what the others may need, clients get half.
    let all = soft.max(attainable);
    let room = all.saturating_sub(others).max(all / 2).max(1);
    Plan {
        raise_to: (soft < attainable).then_some(attainable),
        room: room.min(clients),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planned(clients: u64, soft: u64, hard: u64) -> (Option<u64>, u64) {
        let limit = Rlimit {
            current: Some(soft),
            maximum: Some(hard),
        };
        let Plan { raise_to, room } = plan(clients, OTHERS, limit);
        (raise_to, room)
    }

    #[test]
    fn a_limit_that_suffices_is_left_alone() {
        assert_eq!(planned(10_000, 20_000, 20_000), (None, 10_000));
        let unlimited = Rlimit {
            current: None,
            maximum: None,
        };
        assert_eq!(plan(10_000, OTHERS, unlimited).raise_to, None);
    }

    #[test]
    fn a_soft_limit_is_raised_to_what_is_needed_and_no_further() {
        assert_eq!(planned(10_000, 1024, 1_000_000_000), (Some(11_024), 10_000));
    }

    #[test]
    fn a_hard_limit_bounds_the_connections() {
        assert_eq!(planned(10_000, 1024, 4096), (Some(4096), 3072));
        assert_eq!(planned(10_000, 1024, 1500), (Some(1500), 750));
        assert_eq!(planned(10_000, 1024, 1024), (None, 512));
        assert_eq!(planned(10_000, 1, 1), (None, 1));
    }
}

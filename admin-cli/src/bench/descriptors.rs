//! How many connections this process may have.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// What is open besides connections: the terminal, the plot, the runtime's own.
const OTHERS: u64 = 64;

/// Makes room for so many connections, as far as the system lets a process help itself, and returns for how
/// many there is room. The limit that a shell sets is often 1024 while a process may raise it a hundredfold.
pub(crate) fn room_for(connections: usize) -> usize {
    let limit = getrlimit(Resource::Nofile);
    let wanted = connections as u64 + OTHERS;
    let Some(raised) = raised(&limit, wanted) else {
        return connections;
    };
    let allowed = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => raised.current,
        Err(_) => limit.current,
    };
    let room = allowed
        .map_or(wanted, |allowed| allowed.min(wanted))
        .saturating_sub(OTHERS);
    usize::try_from(room).unwrap_or(connections).max(1)
}

/// The limit to set, unless there is room already.
fn raised(limit: &Rlimit, wanted: u64) -> Option<Rlimit> {
    let current = limit.current.filter(|&current| current < wanted)?;
    let possible = limit.maximum.map_or(wanted, |most| most.min(wanted));
    Some(Rlimit {
        current: Some(possible.max(current)),
        maximum: limit.maximum,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raised_to(current: Option<u64>, maximum: Option<u64>) -> Option<u64> {
        let raised = raised(&Rlimit { current, maximum }, 4000)?;
        assert_eq!(raised.maximum, maximum);
        raised.current
    }

    #[test]
    fn the_limit_is_raised_only_where_it_is_too_low_and_only_as_far_as_it_may_be() {
        assert_eq!(raised_to(Some(1024), Some(20_000)), Some(4000));
        assert_eq!(raised_to(Some(1024), Some(2000)), Some(2000));
        assert_eq!(raised_to(Some(1024), None), Some(4000));
        assert_eq!(raised_to(Some(8000), Some(20_000)), None);
        assert_eq!(raised_to(None, None), None);
    }

    #[test]
    fn there_is_room_for_a_few_connections_everywhere() {
        assert_eq!(room_for(8), 8);
    }
}

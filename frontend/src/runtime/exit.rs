//! What an exit code says, in words.

use skysail_core::reconcile::ContainerState;

/// Ended with `code`; one that a signal's number accounts for is said so.
pub(super) fn from_code(code: i64) -> ContainerState {
    let signal = i32::try_from(code - SIGNAL_BASE)
        .ok()
        .filter(|signal| *signal > 0);
    ContainerState::Exited {
        code,
        detail: signal.and_then(signal_name).map(|_| in_words(code - SIGNAL_BASE)),
    }
}

/// Ended by a signal.
pub(super) fn from_signal(signal: i32) -> ContainerState {
    ContainerState::Exited {
        code: SIGNAL_BASE + i64::from(signal),
        detail: Some(in_words(signal.into())),
    }
}

/// Shells and container engines alike report an end by signal as this and its number.
const SIGNAL_BASE: i64 = 128;

fn in_words(signal: i64) -> String {
    let name = i32::try_from(signal).ok().and_then(signal_name);
    match name {
        Some(name) => format!("killed by signal {signal} ({name})"),
        None => format!("killed by signal {signal}"),
    }
}

/// The signals a container may well end by; their numbers are the same on every Linux platform that
/// Skysail runs on.
fn signal_name(signal: i32) -> Option<&'static str> {
    Some(match signal {
        1 => "SIGHUP",
        2 => "SIGINT",
        3 => "SIGQUIT",
        4 => "SIGILL",
        6 => "SIGABRT",
        7 => "SIGBUS",
        8 => "SIGFPE",
        9 => "SIGKILL",
        11 => "SIGSEGV",
        13 => "SIGPIPE",
        14 => "SIGALRM",
        15 => "SIGTERM",
        24 => "SIGXCPU",
        31 => "SIGSYS",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exited(code: i64, detail: Option<&str>) -> ContainerState {
        ContainerState::Exited {
            code,
            detail: detail.map(str::to_owned),
        }
    }

    #[test]
    fn a_signal_is_128_and_its_number_and_named() {
        assert_eq!(from_signal(9), exited(137, Some("killed by signal 9 (SIGKILL)")));
        assert_eq!(from_signal(64), exited(192, Some("killed by signal 64")));
    }

    #[test]
    fn a_code_above_128_is_named_only_if_it_can_be_a_signal() {
        assert_eq!(from_code(139), exited(139, Some("killed by signal 11 (SIGSEGV)")));
        assert_eq!(from_code(255), exited(255, None));
        assert_eq!(from_code(128), exited(128, None));
        assert_eq!(from_code(3), exited(3, None));
        assert_eq!(from_code(i64::MAX), exited(i64::MAX, None));
    }
}

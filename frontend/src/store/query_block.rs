//! Where a cluster's counter of query-id blocks begins.

use jiff::Timestamp;

/// 2026-01-01T00:00:00Z, in seconds since the Unix epoch.
const EPOCH_SECONDS: i64 = 1_767_225_600;

/// The first number of a new counter of query-id blocks: the minutes since 2026-01-01.
///
/// A store that lost its data would otherwise hand out its first blocks again, and query ids would repeat. A
/// frontend takes a block when it starts and then once per very many queries. So a counter that began at the
/// clock stays behind it, and a counter that begins anew begins above all earlier blocks.
pub(super) fn first_query_block(now: Timestamp) -> u64 {
    let seconds = now.as_second() - EPOCH_SECONDS;
    u64::try_from(seconds / 60).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn query_blocks_start_from_the_minutes_since_2026() {
        let at = |text: &str| first_query_block(text.parse().unwrap());
        assert_eq!(at("2026-01-01T00:00:59Z"), 0);
        assert_eq!(at("2026-01-02T00:01:00Z"), 24 * 60 + 1);
        assert_eq!(at("2001-01-01T00:00:00Z"), 0, "a clock that was never set");
    }
}

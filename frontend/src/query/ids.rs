//! Query ids: unique across frontends and restarts, below 2⁵³ so that every JSON reader keeps them exact.
//!
//! The store hands out blocks of ids; within a block a frontend counts by itself. A new block is fetched
//! when half of one is used. Should the store stay away for the other half, counting goes on past the
//! block's end: ids could then repeat those of another frontend, which is better than not answering.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::sync::Notify;

/// Ids in a block. With 2²⁷ blocks below 2⁵³, a new one every minute lasts two and a half centuries.
const BLOCK: u64 = 1 << 26;

/// Counts out ids.
#[derive(Debug, Default)]
pub struct QueryIds {
    /// Whether the first block came.
    there: AtomicBool,
    next: AtomicU64,
    half_used: Notify,
}

impl QueryIds {
    /// The next id. One atomic addition.
    pub fn next(&self) -> u64 {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        if id % BLOCK == BLOCK / 2 {
            self.half_used.notify_one();
        }
        id
    }

    /// Goes on in this block; what is left of the one before is never used.
    pub fn enter(&self, block: u64) {
        self.next
            .store(block.wrapping_mul(BLOCK) % (1 << 53), Ordering::Relaxed);
        self.there.store(true, Ordering::Relaxed);
    }

    /// Whether there are ids to give out.
    pub fn are_there(&self) -> bool {
        self.there.load(Ordering::Relaxed)
    }

    /// Completes when it is time to fetch a block.
    pub async fn half_used(&self) {
        self.half_used.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_block_is_asked_for_when_half_of_one_is_used() {
        let ids = QueryIds::default();
        assert!(!ids.are_there());
        ids.enter(3);
        assert!(ids.are_there());
        assert_eq!(ids.next(), 3 * BLOCK);
        ids.next.store(3 * BLOCK + BLOCK / 2, Ordering::Relaxed);
        ids.next();
        ids.half_used().await;
        ids.enter(9);
        assert_eq!(ids.next(), 9 * BLOCK);
    }

    #[test]
    fn ids_stay_below_2_to_the_53() {
        let ids = QueryIds::default();
        ids.enter(u64::MAX);
        assert!(ids.next() < 1 << 53);
    }
}

//! Query ids: unique across frontends and restarts, below 2⁵³ so that every JSON reader keeps them exact.
//!
//! The store hands out blocks of ids; within a block a frontend counts by itself. A new block is fetched
//! when half of one is used. Should the store stay away for the other half, counting goes on past the
//! block's end: ids could then repeat those of another frontend, which is better than not answering.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;
use skysail_core::cluster::QUERIES_PER_BLOCK as BLOCK;
use tokio::sync::Notify;

/// Blocks that are remembered: enough for 2³¹ queries since the frontend started.
const REMEMBERED: usize = 64;

/// Counts out ids.
#[derive(Debug, Default)]
pub struct QueryIds {
    /// Whether the first block came.
    there: AtomicBool,
    next: AtomicU64,
    half_used: Notify,
    /// The last blocks that were entered, the newest last.
    blocks: Mutex<VecDeque<u64>>,
}

impl QueryIds {
    /// The next id. One atomic addition.
    pub fn next(&self) -> u64 {
        self.take(1).start
    }

    /// The next so many ids. One atomic addition.
    pub fn take(&self, count: u64) -> Range<u64> {
        let first = self.next.fetch_add(count, Ordering::Relaxed);
        let half = first - first % BLOCK + BLOCK / 2;
        let ids = first..first + count;
        if ids.contains(&half) {
            self.half_used.notify_one();
        }
        ids
    }

    /// Goes on in this block; what is left of the one before is never used.
    pub fn enter(&self, block: u64) {
        let first = block.wrapping_mul(BLOCK) % (1 << 53);
        let mut blocks = self.blocks.lock();
        blocks.push_back(first / BLOCK);
        if blocks.len() > REMEMBERED {
            blocks.pop_front();
        }
        drop(blocks);
        self.next.store(first, Ordering::Relaxed);
        self.there.store(true, Ordering::Relaxed);
    }

    /// The blocks that ids were given out of, the last 64 of them.
    pub fn blocks(&self) -> Vec<u64> {
        self.blocks.lock().iter().copied().collect()
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
    use futures::FutureExt;

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

    #[tokio::test]
    async fn ids_are_taken_by_the_dozen_and_half_of_a_block_is_not_missed_for_that() {
        let ids = QueryIds::default();
        ids.enter(0);
        assert_eq!(ids.take(12), 0..12);
        assert_eq!(ids.take(0), 12..12);
        assert_eq!(ids.next(), 12);
        ids.take(BLOCK / 2 - 20);
        assert!(ids.half_used().now_or_never().is_none());
        ids.take(20);
        ids.half_used().await;
    }

    #[test]
    fn the_blocks_that_were_entered_are_remembered_up_to_a_bound() {
        let ids = QueryIds::default();
        assert!(ids.blocks().is_empty());
        for block in 0..100 {
            ids.enter(block);
            assert_eq!(ids.next() / BLOCK, *ids.blocks().last().unwrap());
        }
        assert_eq!(ids.blocks(), (36..100).collect::<Vec<_>>());
    }

    #[test]
    fn ids_stay_below_2_to_the_53() {
        let ids = QueryIds::default();
        ids.enter(u64::MAX);
        assert!(ids.next() < 1 << 53);
    }
}

//! Query ids: unique across frontends and restarts, and below 2⁵³ so that every JSON reader keeps them exact.
//!
//! Ids come in blocks, which [`QueryIds::keep_filled`] fetches. Within a block the frontend counts by itself. The
//! next block is fetched when half of one is used. If none comes while the other half lasts, counting goes on past
//! the block's end. Ids could then repeat those of another frontend, which is better than not answering.

use std::collections::VecDeque;
use std::error::Error;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use skysail_core::backoff::Backoff;
use skysail_core::cluster::QUERIES_PER_BLOCK as BLOCK;
use tokio::sync::Notify;
use tracing::warn;

/// How many blocks are remembered: enough for 2³¹ queries since the frontend started.
const REMEMBERED: usize = 64;

/// Gives out the ids of one frontend's queries.
#[derive(Debug, Default)]
pub(crate) struct QueryIds {
    /// Whether the first block came.
    there: AtomicBool,
    next: AtomicU64,
    half_used: Notify,
    /// The last blocks that were entered, the newest last.
    blocks: Mutex<VecDeque<u64>>,
}

impl QueryIds {
    /// The next id. One atomic addition.
    pub(crate) fn next(&self) -> u64 {
        self.take(1).start
    }

    /// The next `count` ids. One atomic addition.
    pub(crate) fn take(&self, count: u64) -> Range<u64> {
        let first = self.next.fetch_add(count, Ordering::Relaxed);
        let half = first - first % BLOCK + BLOCK / 2;
        let ids = first..first + count;
        if ids.contains(&half) {
            self.half_used.notify_one();
        }
        ids
    }

    /// Goes on in this block. The ids left of the block before are never used.
    pub(super) fn enter(&self, block: u64) {
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

    /// The last 64 blocks that ids were given out of.
    pub(crate) fn blocks(&self) -> Vec<u64> {
        self.blocks.lock().iter().copied().collect()
    }

    /// Whether ids can be given out: the first block came.
    pub(crate) fn are_there(&self) -> bool {
        self.there.load(Ordering::Relaxed)
    }

    /// Fetches a block at the start, and whenever half of a block is used. Never completes.
    pub(crate) async fn keep_filled<E: Error, F>(&self, mut next_block: impl FnMut() -> F)
    where
        F: Future<Output = Result<u64, E>>,
    {
        loop {
            let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(2));
            loop {
                match next_block().await {
                    Ok(block) => break self.enter(block),
                    Err(error) => warn!(%error, "query ids cannot be fetched"),
                }
                tokio::time::sleep(backoff.pause()).await;
            }
            self.half_used().await;
        }
    }

    /// Completes when half of a block is used.
    async fn half_used(&self) {
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

    #[tokio::test(start_paused = true)]
    async fn a_block_that_cannot_be_had_is_asked_for_again_until_it_comes() {
        let ids = QueryIds::default();
        let mut asked = 0;
        let next_block = || {
            asked += 1;
            let block = match asked {
                1..=3 => Err(std::io::Error::other("away")),
                block => Ok(block),
            };
            async { block }
        };
        // Once it has a block, nothing completes until half of it is used.
        let filled = tokio::time::timeout(Duration::from_secs(60), ids.keep_filled(next_block));
        assert!(filled.await.is_err());
        assert_eq!((asked, ids.next()), (4, 4 * BLOCK));
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

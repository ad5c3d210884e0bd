//! The promises about query-id blocks.

use std::collections::BTreeSet;

use futures::future::join_all;

use super::documents::{nothing, put};
use super::{Promise, TestedStore, commit};

/// The promises to every frontend.
pub(super) fn promises() -> Vec<Promise> {
    promises![
        query_blocks_are_unique_across_handles_and_reopening,
        query_blocks_leave_the_catalog_alone,
    ]
}

async fn query_blocks_are_unique_across_handles_and_reopening(mut store: Box<dyn TestedStore>) {
    const BLOCKS: usize = 10;
    let mut taken = Vec::new();
    for _ in 0..2 {
        let handles = [store.handle().await, store.handle().await, store.handle().await];
        let takers = handles.map(|handle| async move {
            let mut blocks = Vec::new();
            for _ in 0..BLOCKS {
                blocks.push(handle.next_query_block().await.expect("the store is up"));
            }
            blocks
        });
        taken.extend(join_all(takers).await.into_iter().flatten());
        store.reopen().await;
    }
    let distinct: BTreeSet<u64> = taken.iter().copied().collect();
    assert_eq!(distinct.len(), taken.len(), "a block was given twice: {taken:?}");
    assert_eq!(taken.len(), 2 * 3 * BLOCKS);
}

async fn query_blocks_leave_the_catalog_alone(store: Box<dyn TestedStore>) {
    let handle = store.handle().await;
    handle.next_query_block().await.expect("the store is up");
    let catalog = commit(&*handle, vec![put("a")], &nothing()).await;
    handle.next_query_block().await.expect("the store is up");
    commit(&*handle, vec![put("b")], &catalog.generation).await;
}

//! Waiting for a state, with a bound that only a failure reaches.

use std::future::Future;
use std::time::Duration;

/// How long a state that must come is waited for: a busy machine with two cores needs some of it.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// How often a state is looked at that nobody announces.
const LOOK: Duration = Duration::from_millis(10);

/// Waits until `state` holds.
///
/// # Panics
/// If it does not within `bound`, with `what` was waited for.
pub async fn until(what: &str, bound: Duration, mut state: impl AsyncFnMut() -> bool) {
    let holds = async {
        while !state().await {
            tokio::time::sleep(LOOK).await;
        }
    };
    within(what, bound, holds).await;
}

/// Waits until `look` finds something, and returns it.
///
/// # Panics
/// If it does not within `bound`, with `what` was waited for.
pub async fn find<T>(what: &str, bound: Duration, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let found = async {
        loop {
            if let Some(found) = look().await {
                return found;
            }
            tokio::time::sleep(LOOK).await;
        }
    };
    within(what, bound, found).await
}

/// Waits for something to come.
///
/// # Panics
/// If it does not within `bound`, with `what` was waited for.
pub async fn within<T>(what: &str, bound: Duration, coming: impl Future<Output = T>) -> T {
    match tokio::time::timeout(bound, coming).await {
        Ok(came) => came,
        Err(_) => panic!("waited {bound:?} in vain for {what}"),
    }
}

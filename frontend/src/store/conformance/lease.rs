//! The promises about the control role's lease, and about writes under it.

use std::time::Duration;

use skysail_core::cluster::Lease;

use super::documents::{names, nothing, put};
use super::{PATIENCE, Promise, TestedStore, commit, shown, within};
use crate::store::{LeaseStore, Leased, StoreError};

/// The promises to every frontend.
pub(super) fn promises() -> Vec<Promise> {
    promises![
        a_lease_that_is_renewed_keeps_its_number,
        a_write_under_the_lease_is_committed,
    ]
}

/// The further promises to several frontends that share a store.
pub(super) fn promises_to_several_frontends() -> Vec<Promise> {
    promises![
        of_two_frontends_one_has_the_lease,
        a_lease_that_was_given_back_is_free_at_once,
        a_lease_that_ran_out_is_anothers_under_a_greater_number,
        a_write_under_a_lease_that_is_anothers_is_refused_and_changes_nothing,
        a_write_under_a_lease_that_ran_out_is_refused,
        a_lease_is_given_back_only_by_who_has_it,
    ]
}

async fn a_lease_that_is_renewed_keeps_its_number(store: Box<dyn TestedStore>) {
    let handle = store.handle().await;
    let first = lease(&*handle, "a", PATIENCE).await;
    assert_eq!(lease(&*handle, "a", PATIENCE).await, first);
    assert_eq!(lease(&*handle, "a", PATIENCE).await, first);
}

async fn a_write_under_the_lease_is_committed(store: Box<dyn TestedStore>) {
    let handle = store.handle().await;
    shown(&*handle).await;
    let lease = lease(&*handle, "a", PATIENCE).await;
    let expected = nothing();
    let written = handle.commit_under(Some(&lease), vec![put("app")], &expected);
    let written = within("a commit", written).await.expect("the lease is held");
    assert_eq!(names(&written), ["app"]);
    assert_eq!(shown(&*handle).await, written);
}

async fn of_two_frontends_one_has_the_lease(store: Box<dyn TestedStore>) {
    let (one, other) = (store.handle().await, store.handle().await);
    let held = lease(&*one, "one", PATIENCE * 10).await;
    for _ in 0..3 {
        let asked = within("an answer", other.take_lease("other", PATIENCE)).await;
        assert_eq!(asked.expect("the store is up"), Leased::HeldBy("one".into()));
    }
    assert_eq!(lease(&*one, "one", PATIENCE * 10).await, held);
}

async fn a_lease_that_was_given_back_is_free_at_once(store: Box<dyn TestedStore>) {
    let (one, other) = (store.handle().await, store.handle().await);
    let first = lease(&*one, "one", PATIENCE * 10).await;
    within("an answer", one.release_lease(&first))
        .await
        .expect("the store is up");
    let second = lease(&*other, "other", PATIENCE * 10).await;
    assert!(second.number > first.number, "{second:?}");
}

async fn a_lease_that_ran_out_is_anothers_under_a_greater_number(store: Box<dyn TestedStore>) {
    let (one, other) = (store.handle().await, store.handle().await);
    let mut numbers = vec![lease(&*one, "one", Duration::from_millis(1)).await.number];
    for (handle, holder) in [(&other, "other"), (&one, "one"), (&other, "other")] {
        // The previous lease runs out by itself: nobody gives it back.
        let taken = insist_on_lease(&**handle, holder, Duration::from_millis(1)).await;
        numbers.push(taken.number);
    }
    assert!(
        numbers.is_sorted_by(|before, after| before < after),
        "{numbers:?}"
    );
}

async fn a_write_under_a_lease_that_is_anothers_is_refused_and_changes_nothing(store: Box<dyn TestedStore>) {
    let (one, other) = (store.handle().await, store.handle().await);
    shown(&*one).await;
    let stale = lease(&*one, "one", Duration::from_millis(1)).await;
    let newest = insist_on_lease(&*other, "other", PATIENCE * 10).await;
    let refused = within(
        "an answer",
        one.commit_under(Some(&stale), vec![put("a")], &nothing()),
    )
    .await;
    match refused {
        Err(StoreError::Fenced(why)) => assert!(why.contains("`other`"), "{why}"),
        other => panic!("{other:?}"),
    }
    // A write without a lease is checked by its generation alone. A write under the newest lease is carried
    // out.
    let first = commit(&*one, vec![put("b")], &nothing()).await;
    let second = other.commit_under(Some(&newest), vec![put("c")], &first.generation);
    let second = within("a commit", second).await.expect("the lease is held");
    assert_eq!(names(&second), ["b", "c"]);
}

async fn a_write_under_a_lease_that_ran_out_is_refused(store: Box<dyn TestedStore>) {
    let handle = store.handle().await;
    let mut expected = shown(&*handle).await.generation.clone();
    let passing = lease(&*handle, "one", Duration::from_millis(300)).await;
    let fenced = async {
        loop {
            match handle
                .commit_under(Some(&passing), vec![put("a")], &expected)
                .await
            {
                Ok(written) => expected = written.generation.clone(),
                Err(StoreError::Fenced(_)) => return,
                Err(other) => panic!("{other}"),
            }
        }
    };
    within("the lease to run out", fenced).await;
    // Nobody else took the lease meanwhile, so its number is unchanged.
    assert_eq!(lease(&*handle, "one", PATIENCE).await, passing);
    let written = handle.commit_under(Some(&passing), vec![put("b")], &expected);
    within("a commit", written).await.expect("the lease is held");
}

async fn a_lease_is_given_back_only_by_who_has_it(store: Box<dyn TestedStore>) {
    let (one, other) = (store.handle().await, store.handle().await);
    let stale = lease(&*one, "one", Duration::from_millis(1)).await;
    let newest = insist_on_lease(&*other, "other", PATIENCE * 10).await;
    within("an answer", one.release_lease(&stale))
        .await
        .expect("the store is up");
    let asked = within("an answer", one.take_lease("one", PATIENCE)).await;
    assert_eq!(asked.expect("the store is up"), Leased::HeldBy("other".into()));
    assert_eq!(lease(&*other, "other", PATIENCE).await, newest);
}

/// Takes a lease that must be free.
async fn lease(handle: &dyn LeaseStore, holder: &str, ttl: Duration) -> Lease {
    match within("the lease", handle.take_lease(holder, ttl)).await {
        Ok(Leased::Held(lease)) => lease,
        other => panic!("the lease is not free: {other:?}"),
    }
}

/// Takes a lease once it is free.
async fn insist_on_lease(handle: &dyn LeaseStore, holder: &str, ttl: Duration) -> Lease {
    let taken = async {
        loop {
            match handle.take_lease(holder, ttl).await.expect("the store is up") {
                Leased::Held(lease) => return lease,
                Leased::HeldBy(_) => {}
            }
        }
    };
    within("the lease to be free", taken).await
}

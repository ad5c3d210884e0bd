//! The promises about announcements.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{PATIENCE, Promise, TestedStore, shown, within};
use crate::store::AnnouncementStore;

/// The promises to every frontend.
pub(super) fn promises() -> Vec<Promise> {
    promises![an_announcement_is_shown_once_it_was_made_and_gone_once_it_was_withdrawn,]
}

/// The further promises to several frontends that share a store.
pub(super) fn promises_to_several_frontends() -> Vec<Promise> {
    promises![
        announcements_of_others_are_seen,
        an_announcement_that_is_not_repeated_is_forgotten_by_all,
    ]
}

async fn an_announcement_is_shown_once_it_was_made_and_gone_once_it_was_withdrawn(
    store: Box<dyn TestedStore>,
) {
    let handle = store.handle().await;
    shown(&*handle).await;
    for document in ["{}", r#"{"größer":"猫"}"#] {
        announce(&*handle, "a", document, PATIENCE).await;
        let announced = handle.announced().borrow().get("a").cloned();
        assert_eq!(announced.as_deref(), Some(document));
    }
    within("a withdrawal", handle.withdraw("a"))
        .await
        .expect("the store is up");
    assert_eq!(handle.announced().borrow().get("a"), None);
    // Withdrawing a withdrawn or unknown announcement is no error.
    within("a withdrawal", handle.withdraw("a"))
        .await
        .expect("the store is up");
}

async fn announcements_of_others_are_seen(store: Box<dyn TestedStore>) {
    let (one, other) = (store.handle().await, store.handle().await);
    announce(&*one, "one", "1", PATIENCE).await;
    announce(&*other, "other", "2", PATIENCE).await;
    announces(&*one, &[("one", "1"), ("other", "2")]).await;
    announces(&*other, &[("one", "1"), ("other", "2")]).await;
    announce(&*one, "one", "3", PATIENCE).await;
    announces(&*other, &[("one", "3"), ("other", "2")]).await;
    within("a withdrawal", one.withdraw("one"))
        .await
        .expect("the store is up");
    announces(&*one, &[("other", "2")]).await;
    announces(&*other, &[("other", "2")]).await;
}

async fn an_announcement_that_is_not_repeated_is_forgotten_by_all(store: Box<dyn TestedStore>) {
    let (one, other) = (store.handle().await, store.handle().await);
    announce(&*one, "lasting", "1", PATIENCE * 10).await;
    announce(&*one, "passing", "2", Duration::from_millis(300)).await;
    announces(&*one, &[("lasting", "1")]).await;
    announces(&*other, &[("lasting", "1")]).await;
    announce(&*other, "lasting", "3", PATIENCE * 10).await;
    announces(&*one, &[("lasting", "3")]).await;
}

async fn announce(handle: &dyn AnnouncementStore, id: &str, document: &str, ttl: Duration) {
    let announced = within("an announcement", handle.announce(id, document.to_owned(), ttl)).await;
    announced.unwrap_or_else(|error| panic!("an announcement failed: {error}"));
}

/// Waits until exactly these announcements are shown.
async fn announces(handle: &dyn AnnouncementStore, expected: &[(&str, &str)]) {
    let expected = expected
        .iter()
        .map(|(id, document)| (id.to_string(), document.to_string()));
    let expected: BTreeMap<String, String> = expected.collect();
    let mut announced = handle.announced();
    let shown = announced.wait_for(|shown| **shown == expected);
    within(&format!("the announcements {expected:?}"), shown)
        .await
        .expect("the store is open");
}

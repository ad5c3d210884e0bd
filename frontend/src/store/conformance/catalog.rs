//! The promises about the catalog.

use std::sync::Arc;

use futures::future::join_all;
use skysail_core::catalog::{Catalog, Change, Generation, Secret, Settings};

use super::documents::{application, application_name, model, model_name, names, nothing, put, put_model};
use super::{Promise, TestedStore, commit, shown, within};
use crate::store::{CatalogStore, Settle, StoreError, StoreHealth};

/// The promises to every frontend.
pub(super) fn promises() -> Vec<Promise> {
    promises![
        a_fresh_store_is_up_and_shows_an_empty_catalog,
        a_commit_is_in_the_watch_when_it_returns,
        a_commit_does_all_of_its_changes,
        a_stale_commit_changes_nothing_and_names_both_generations,
        the_snapshot_in_the_way_is_there_after_a_conflict,
        deleting_what_is_not_there_is_no_error,
        settings_are_there_for_all_handles_and_after_reopening_until_they_are_replaced,
        another_handles_write_wakes_the_watch,
        of_concurrent_writers_one_wins_each_generation_and_no_write_is_lost,
        everything_is_there_after_reopening,
        a_thousand_applications_are_no_trouble,
        any_text_comes_back_as_it_was,
        a_store_that_lost_nothing_has_nothing_to_be_settled,
        a_store_that_was_never_written_can_be_accepted_and_then_is_one_that_was,
        a_store_takes_the_place_of_others_for_all_handles_and_after_reopening,
    ]
}

async fn a_fresh_store_is_up_and_shows_an_empty_catalog(store: Box<dyn TestedStore>) {
    let handle = store.handle().await;
    assert_eq!(shown(&*handle).await, Arc::new(Catalog::default()));
    let mut health = handle.health();
    let up = health.wait_for(|health| *health == StoreHealth::Up);
    within("the store to be up", up).await.expect("the store is open");
}

async fn a_commit_is_in_the_watch_when_it_returns(store: Box<dyn TestedStore>) {
    let handle = store.handle().await;
    for number in 1..=20 {
        let before = shown(&*handle).await;
        let name = format!("app-{number}");
        let committed = commit(&*handle, vec![put(&name)], &before.generation).await;
        assert_eq!(committed.generation.number, number);
        assert!(!committed.generation.incarnation.is_empty());
        let seen = handle.watch().borrow().clone();
        assert_eq!(
            seen.as_ref(),
            Some(&committed),
            "the watch lags behind the commit"
        );
        assert_eq!(names(&committed).len() as u64, number);
    }
}

async fn a_commit_does_all_of_its_changes(store: Box<dyn TestedStore>) {
    let handle = store.handle().await;
    let first = commit(&*handle, vec![put("a"), put("b"), put_model("m")], &nothing()).await;
    assert_eq!(names(&first), ["a", "b"]);
    assert_eq!(first.models[&model_name("m")].as_ref(), &model("m"));

    let changes = vec![
        Change::delete(&application_name("a")),
        put("c"),
        Change::delete(&model_name("m")),
        put_model("n"),
    ];
    let second = commit(&*handle, changes, &first.generation).await;
    assert_eq!(names(&second), ["b", "c"]);
    assert_eq!(second.models.keys().collect::<Vec<_>>(), [&model_name("n")]);
    assert_eq!(second.generation.incarnation, first.generation.incarnation);
}

async fn a_stale_commit_changes_nothing_and_names_both_generations(store: Box<dyn TestedStore>) {
    let handle = store.handle().await;
    let current = commit(&*handle, vec![put("a")], &nothing()).await;
    let other_life = Generation {
        incarnation: "another".into(),
        number: current.generation.number,
    };
    for stale in [nothing(), other_life] {
        let changes = vec![put("b"), Change::delete(&application_name("a"))];
        let refused = handle.commit(changes, &stale).await;
        let Err(StoreError::Conflict { expected, actual }) = refused else {
            panic!("a stale commit must conflict, not be {refused:?}");
        };
        assert_eq!((expected, &actual), (stale, &current.generation));
    }
    let next = commit(&*handle, vec![put("c")], &current.generation).await;
    assert_eq!(names(&next), ["a", "c"], "the stale commits left nothing behind");
}

async fn the_snapshot_in_the_way_is_there_after_a_conflict(store: Box<dyn TestedStore>) {
    let (first, second) = (store.handle().await, store.handle().await);
    shown(&*second).await;
    let current = commit(&*first, vec![put("a")], &nothing()).await;
    let refused = second.commit(vec![put("b")], &nothing()).await;
    assert!(matches!(refused, Err(StoreError::Conflict { .. })), "{refused:?}");
    assert_eq!(shown(&*second).await, current);
}

async fn deleting_what_is_not_there_is_no_error(store: Box<dyn TestedStore>) {
    let handle = store.handle().await;
    let changes = vec![
        Change::delete(&application_name("a")),
        Change::delete(&model_name("m")),
    ];
    let catalog = commit(&*handle, changes, &nothing()).await;
    assert_eq!(catalog.generation.number, 1);
    assert!(catalog.applications.is_empty() && catalog.models.is_empty());
}

async fn settings_are_there_for_all_handles_and_after_reopening_until_they_are_replaced(
    mut store: Box<dyn TestedStore>,
) {
    let (writer, reader) = (store.handle().await, store.handle().await);
    let mut watch = reader.watch();
    let mut settings = Settings::default();
    assert_eq!(*shown(&*writer).await.settings, settings);
    settings.container_key = Some(Secret::new([7; Secret::BYTES]));
    let changes = vec![put("a"), Change::put(settings.clone())];
    let first = commit(&*writer, changes, &nothing()).await;
    assert_eq!(*first.settings, settings);
    // Writing other documents leaves the settings alone.
    let second = commit(&*writer, vec![put("b")], &first.generation).await;
    assert_eq!(*second.settings, settings);
    let seen = watch.wait_for(|seen| seen.as_ref() == Some(&second));
    within("the settings of another handle", seen)
        .await
        .expect("the store is open");
    drop((writer, reader));
    store.reopen().await;
    let handle = store.handle().await;
    assert_eq!(shown(&*handle).await, second);
    let without = vec![Change::put(Settings::default())];
    let third = commit(&*handle, without, &second.generation).await;
    assert_eq!(*third.settings, Settings::default());
    drop(handle);
    store.reopen().await;
    assert_eq!(shown(&*store.handle().await).await, third);
}

async fn another_handles_write_wakes_the_watch(store: Box<dyn TestedStore>) {
    let (writer, reader) = (store.handle().await, store.handle().await);
    shown(&*reader).await;
    let mut watch = reader.watch();
    let committed = commit(&*writer, vec![put("a"), put_model("m")], &nothing()).await;
    let woken = watch.wait_for(|seen| seen.as_ref() == Some(&committed));
    within("the write of another handle", woken)
        .await
        .expect("the store is open");
}

async fn of_concurrent_writers_one_wins_each_generation_and_no_write_is_lost(store: Box<dyn TestedStore>) {
    const WRITERS: usize = 4;
    const WRITES: usize = 8;
    let mut writers = Vec::new();
    for writer in 0..WRITERS {
        let handle = store.handle().await;
        writers.push(tokio::spawn(async move {
            let mut won = Vec::new();
            for write in 0..WRITES {
                won.push(insist(&*handle, put(&format!("app-{writer}-{write}"))).await);
            }
            won
        }));
    }
    let mut won: Vec<u64> = Vec::new();
    for writer in join_all(writers).await {
        won.extend(writer.expect("a writer failed"));
    }
    won.sort_unstable();
    let total = WRITERS * WRITES;
    assert_eq!(won, (1..=total as u64).collect::<Vec<_>>());
    let last = store.handle().await;
    let mut watch = last.watch();
    let all = watch.wait_for(|seen| seen.as_ref().is_some_and(|c| c.applications.len() == total));
    within("all writes", all).await.expect("the store is open");
}

/// Commits one change as the admin API does: reads and tries again after each conflict.
async fn insist(handle: &dyn CatalogStore, change: Change) -> u64 {
    loop {
        let expected = shown(handle).await.generation.clone();
        match handle.commit(vec![change.clone()], &expected).await {
            Ok(catalog) => return catalog.generation.number,
            Err(StoreError::Conflict { .. }) => {}
            Err(error) => panic!("a commit failed: {error}"),
        }
    }
}

async fn everything_is_there_after_reopening(mut store: Box<dyn TestedStore>) {
    let handle = store.handle().await;
    let first = commit(&*handle, vec![put("a"), put("b"), put_model("m")], &nothing()).await;
    let gone = vec![Change::delete(&application_name("b"))];
    let before = commit(&*handle, gone, &first.generation).await;
    drop(handle);
    store.reopen().await;
    let handle = store.handle().await;
    assert_eq!(shown(&*handle).await, before);
    let after = commit(&*handle, vec![put("c")], &before.generation).await;
    assert_eq!(names(&after), ["a", "c"]);
}

async fn a_thousand_applications_are_no_trouble(mut store: Box<dyn TestedStore>) {
    let handle = store.handle().await;
    let changes = (0..1000).map(|number| put(&format!("app-{number}"))).collect();
    let committed = commit(&*handle, changes, &nothing()).await;
    assert_eq!(committed.applications.len(), 1000);
    drop(handle);
    store.reopen().await;
    assert_eq!(shown(&*store.handle().await).await, committed);
}

async fn any_text_comes_back_as_it_was(mut store: Box<dyn TestedStore>) {
    let texts = [
        String::new(),
        "-1.0".into(),
        "\"quoted\", 'quoted', back\\slash, {}[]".into(),
        "line\r\nline\ttab \u{0} \u{7f} \u{1b}[31m".into(),
        "größer 猫 🦀 \u{202e} \u{fffd} \u{10ffff}".into(),
        "x".repeat(1 << 20),
    ];
    let changes = texts.iter().enumerate().map(|(number, text)| {
        let mut application = application(&format!("app-{number}"));
        application.default_output.clone_from(text);
        Change::put(application)
    });
    let handle = store.handle().await;
    let committed = commit(&*handle, changes.collect(), &nothing()).await;
    drop(handle);
    store.reopen().await;
    let reopened = shown(&*store.handle().await).await;
    assert_eq!(reopened, committed);
    for (number, text) in texts.iter().enumerate() {
        let name = application_name(&format!("app-{number}"));
        assert_eq!(&reopened.applications[&name].default_output, text);
    }
}

async fn a_store_that_lost_nothing_has_nothing_to_be_settled(store: Box<dyn TestedStore>) {
    let handle = store.handle().await;
    shown(&*handle).await;
    let unwritten = within("an answer", handle.settle(Settle::Restore)).await;
    assert!(
        matches!(unwritten, Err(StoreError::NothingToSettle)),
        "{unwritten:?}"
    );
    let before = commit(&*handle, vec![put("a")], &nothing()).await;
    for how in [Settle::Restore, Settle::Accept] {
        let refused = within("an answer", handle.settle(how)).await;
        assert!(matches!(refused, Err(StoreError::NothingToSettle)), "{refused:?}");
    }
    assert_eq!(shown(&*handle).await, before);
}

async fn a_store_that_was_never_written_can_be_accepted_and_then_is_one_that_was(
    store: Box<dyn TestedStore>,
) {
    let handle = store.handle().await;
    shown(&*handle).await;
    let accepted = within("an answer", handle.settle(Settle::Accept)).await;
    let accepted = accepted.expect("it was never written");
    assert!(!accepted.generation.incarnation.is_empty());
    assert!(accepted.applications.is_empty() && accepted.models.is_empty());
    assert_eq!(shown(&*handle).await, accepted);
    let other = store.handle().await;
    let mut watch = other.watch();
    let same = watch.wait_for(|seen| seen.as_ref() == Some(&accepted));
    within("the others to follow", same)
        .await
        .expect("the store is open");
    commit(&*other, vec![put("a")], &accepted.generation).await;
}

async fn a_store_takes_the_place_of_others_for_all_handles_and_after_reopening(
    mut store: Box<dyn TestedStore>,
) {
    let handle = store.handle().await;
    let before = commit(&*handle, vec![put("a")], &nothing()).await;
    assert!(before.owns(&before.generation.incarnation) && !before.owns("b") && !before.owns(""));
    let lives = |lives: &[&str]| lives.iter().map(|life| (*life).to_owned()).collect();
    let adopted = within("an adoption", handle.adopt(lives(&["b", "c"]))).await;
    let adopted = adopted.expect("the store is up");
    assert_eq!(adopted.generation.incarnation, before.generation.incarnation);
    assert!(adopted.generation.number > before.generation.number);
    assert_eq!(adopted.applications, before.applications);
    assert_eq!(shown(&*handle).await, adopted);
    let adopted = within("another", handle.adopt(lives(&["d"]))).await;
    let adopted = adopted.expect("the store is up");
    let other = store.handle().await;
    let mut watch = other.watch();
    let same = watch.wait_for(|seen| seen.as_ref() == Some(&adopted));
    within("the others to follow", same)
        .await
        .expect("the store is open");
    let written = commit(&*other, vec![put("b")], &adopted.generation).await;
    drop((watch, handle, other));

    store.reopen().await;
    let read = shown(&*store.handle().await).await;
    assert_eq!(read, written);
    for life in ["b", "c", "d", &before.generation.incarnation] {
        assert!(read.owns(life), "{life}");
    }
    assert!(!read.owns("e") && !read.owns(""));
}

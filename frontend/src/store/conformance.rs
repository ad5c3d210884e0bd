//! What every store promises, as a list of checks that each implementation passes.
//!
//! A check panics, with a sentence, when the promise is broken. The list knows no test harness: unit tests
//! call [`check_all`], others make one test of each [`Promise`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::future::{BoxFuture, join_all};
use jiff::Timestamp;
use skysail_core::catalog::{Application, Catalog, Change, Generation, Model, Secret, Settings, Version};
use skysail_core::cluster::Lease;
use skysail_proto::deployment::{Artifact, BatchSize, Deployment, MOST_LEARNED_INPUTS, VersionSpec};
use skysail_proto::ids::{ApplicationName, ModelName, ModelVersion};
use skysail_proto::value::InputType;

use super::{Leased, MetadataStore, Settle, StoreError, StoreHealth};

/// The longest wait for a state that must come.
const PATIENCE: Duration = Duration::from_secs(10);

/// Makes stores to be checked.
#[async_trait]
pub trait StoreFactory: Send + Sync {
    /// A new store in which nothing was ever written.
    async fn fresh(&self) -> Box<dyn TestedStore>;
}

/// One store, as several frontends see it.
#[async_trait]
pub trait TestedStore: Send {
    /// One more handle on the store, as another frontend has it where the implementation can be shared.
    async fn handle(&self) -> Arc<dyn MetadataStore>;

    /// Closes the store and opens it again. All handles have been dropped.
    async fn reopen(&mut self);
}

/// One thing every store promises.
#[derive(Clone, Copy)]
pub struct Promise {
    /// The promise, in words.
    pub name: &'static str,
    check: fn(Box<dyn TestedStore>) -> BoxFuture<'static, ()>,
}

impl Promise {
    /// Checks it on a fresh store; panics if it is broken.
    pub async fn check(&self, factory: &dyn StoreFactory) {
        (self.check)(factory.fresh().await).await;
    }
}

/// Checks all promises one after the other, and panics with the names of those that are broken.
pub async fn check_all(factory: Arc<dyn StoreFactory>) {
    let mut broken = Vec::new();
    for promise in promises() {
        let factory = Arc::clone(&factory);
        let check = tokio::spawn(async move { promise.check(&*factory).await });
        if check.await.is_err() {
            broken.push(promise.name);
        }
    }
    assert!(broken.is_empty(), "broken promises: {broken:#?}");
}

macro_rules! promises {
    ($($name:ident),* $(,)?) => {
        vec![$(Promise {
            name: stringify!($name),
            check: |store| Box::pin($name(store)),
        }),*]
    };
}

/// Everything a store promises.
pub fn promises() -> Vec<Promise> {
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
        query_blocks_are_unique_across_handles_and_reopening,
        query_blocks_leave_the_catalog_alone,
        an_announcement_is_shown_once_it_was_made_and_gone_once_it_was_withdrawn,
        a_lease_that_is_renewed_keeps_its_number,
        a_write_under_the_lease_is_committed,
        a_store_that_lost_nothing_has_nothing_to_be_settled,
        a_store_that_was_never_written_can_be_accepted_and_then_is_one_that_was,
        a_store_takes_the_place_of_others_for_all_handles_and_after_reopening,
    ]
}

/// What a store promises beside that if several frontends can share it: each handle is one frontend.
pub fn promises_to_several_frontends() -> Vec<Promise> {
    promises![
        announcements_of_others_are_seen,
        an_announcement_that_is_not_repeated_is_forgotten_by_all,
        of_two_frontends_one_has_the_lease,
        a_lease_that_was_given_back_is_free_at_once,
        a_lease_that_ran_out_is_anothers_under_a_greater_number,
        a_write_under_a_lease_that_is_anothers_is_refused_and_changes_nothing,
        a_write_under_a_lease_that_ran_out_is_refused,
        a_lease_is_given_back_only_by_who_has_it,
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
        Change::DeleteApplication(application_name("a")),
        put("c"),
        Change::DeleteModel(model_name("m")),
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
        let changes = vec![put("b"), Change::DeleteApplication(application_name("a"))];
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
        Change::DeleteApplication(application_name("a")),
        Change::DeleteModel(model_name("m")),
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
    let changes = vec![put("a"), Change::PutSettings(settings.clone())];
    let first = commit(&*writer, changes, &nothing()).await;
    assert_eq!(*first.settings, settings);
    // What is written beside them leaves them alone.
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
    let without = vec![Change::PutSettings(Settings::default())];
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

/// Commits one change as the admin API does: reads again and tries again for as long as others win.
async fn insist(handle: &dyn MetadataStore, change: Change) -> u64 {
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
    let gone = vec![Change::DeleteApplication(application_name("b"))];
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
        Change::PutApplication(application)
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
    // One that is gone already, or never was, is no error.
    within("a withdrawal", handle.withdraw("a"))
        .await
        .expect("the store is up");
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
        // The one before ends by itself: nobody gives it back.
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
    // A write without a lease is checked by its generation alone, and one under the newest is done.
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
    // Nobody took it meanwhile, so it is still the same one.
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

async fn announce(handle: &dyn MetadataStore, id: &str, document: &str, ttl: Duration) {
    let announced = within("an announcement", handle.announce(id, document.to_owned(), ttl)).await;
    announced.unwrap_or_else(|error| panic!("an announcement failed: {error}"));
}

/// Waits until exactly these announcements are shown.
async fn announces(handle: &dyn MetadataStore, expected: &[(&str, &str)]) {
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

/// Takes a lease that must be free.
async fn lease(handle: &dyn MetadataStore, holder: &str, ttl: Duration) -> Lease {
    match within("the lease", handle.take_lease(holder, ttl)).await {
        Ok(Leased::Held(lease)) => lease,
        other => panic!("the lease is not free: {other:?}"),
    }
}

/// Takes a lease once it is free.
async fn insist_on_lease(handle: &dyn MetadataStore, holder: &str, ttl: Duration) -> Lease {
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

/// Waits for something that must come.
async fn within<T>(what: &str, coming: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, coming).await {
        Ok(came) => came,
        Err(_) => panic!("waited {PATIENCE:?} in vain for {what}"),
    }
}

/// What the handle shows, once it shows something.
async fn shown(handle: &dyn MetadataStore) -> Arc<Catalog> {
    let mut watch = handle.watch();
    let first = within("the first snapshot", watch.wait_for(Option::is_some)).await;
    let shown = first.expect("the store is open").clone();
    shown.expect("it was waited for")
}

async fn commit(handle: &dyn MetadataStore, changes: Vec<Change>, expected: &Generation) -> Arc<Catalog> {
    let committed = within("a commit", handle.commit(changes, expected)).await;
    committed.unwrap_or_else(|error| panic!("a commit failed: {error}"))
}

/// The generation of a store that was never written.
fn nothing() -> Generation {
    Generation::default()
}

fn names(catalog: &Catalog) -> Vec<&str> {
    catalog.applications.keys().map(ApplicationName::as_str).collect()
}

fn put(name: &str) -> Change {
    Change::PutApplication(application(name))
}

fn put_model(name: &str) -> Change {
    Change::PutModel(model(name))
}

fn application_name(name: &str) -> ApplicationName {
    ApplicationName::new(name).expect("a good name")
}

fn model_name(name: &str) -> ModelName {
    ModelName::new(name).expect("a good name")
}

fn application(name: &str) -> Application {
    Application {
        name: application_name(name),
        input_type: InputType::Doubles,
        default_output: "-1.0".into(),
        slo_micros: 100_000,
        weight: skysail_proto::admin::default_weight(),
        linked_models: vec![model_name("m")],
        registered_at: Timestamp::UNIX_EPOCH,
    }
}

/// A model with every field in use: one version that is deployed, and one that attaches by itself.
fn model(name: &str) -> Model {
    let version = |deployment| Version {
        spec: VersionSpec {
            input_type: InputType::Doubles,
            batch_size: BatchSize::Fixed(MOST_LEARNED_INPUTS),
            max_batch: Some(MOST_LEARNED_INPUTS),
            cache: false,
            deployment,
            open: false,
        },
        registered_at: Timestamp::UNIX_EPOCH,
    };
    let deployment = Deployment {
        image: "example/iris:1".into(),
        image_id: Some("sha256:0a".into()),
        artifacts: vec![Artifact {
            path: "/models/iris".into(),
            sha256: "0b".into(),
        }],
        replicas: 3,
        autoscale: None,
        gpus: None,
        cpus: Some(0.1),
        memory_bytes: Some(1 << 30),
        env: [("GREETING".to_owned(), "grüezi = \"hi\"".to_owned())].into(),
        warm_up: Some(serde_json::json!([5.84, 3, 3.76, 1.2])),
    };
    let name_of = |version: &str| ModelVersion::new(version).expect("a good version");
    Model {
        name: model_name(name),
        current_version: name_of("2.1-RC1"),
        rollout: None,
        versions: [
            (name_of("1"), version(Some(deployment))),
            (name_of("2.1-RC1"), version(None)),
        ]
        .into(),
    }
}

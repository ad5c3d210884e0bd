//! What every store promises, as a list of checks that each implementation passes.
//!
//! A check panics, with a sentence, when the promise is broken. The list knows no test harness: unit tests
//! call [`check_all`], others make one test of each [`Promise`].

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::future::{BoxFuture, join_all};
use jiff::Timestamp;
use skysail_core::catalog::{Application, Catalog, Change, Generation, Model, Version};
use skysail_proto::deployment::{BatchSize, DEFAULT_MAX_BATCH, Deployment, VersionSpec};
use skysail_proto::ids::{ApplicationName, ModelName, ModelVersion};
use skysail_proto::value::InputType;

use super::{MetadataStore, StoreError, StoreHealth};

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

/// Everything a store promises.
pub fn promises() -> Vec<Promise> {
    macro_rules! promises {
        ($($name:ident),* $(,)?) => {
            vec![$(Promise {
                name: stringify!($name),
                check: |store| Box::pin($name(store)),
            }),*]
        };
    }
    promises![
        a_fresh_store_is_up_and_shows_an_empty_catalog,
        a_commit_is_in_the_watch_when_it_returns,
        a_commit_does_all_of_its_changes,
        a_stale_commit_changes_nothing_and_names_both_generations,
        the_snapshot_in_the_way_is_there_after_a_conflict,
        deleting_what_is_not_there_is_no_error,
        another_handles_write_wakes_the_watch,
        of_concurrent_writers_one_wins_each_generation_and_no_write_is_lost,
        everything_is_there_after_reopening,
        a_thousand_applications_are_no_trouble,
        any_text_comes_back_as_it_was,
        query_blocks_are_unique_across_handles_and_reopening,
        query_blocks_leave_the_catalog_alone,
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
        linked_models: vec![model_name("m")],
        registered_at: Timestamp::UNIX_EPOCH,
    }
}

/// A model with every field in use: one version that is deployed, and one that attaches by itself.
fn model(name: &str) -> Model {
    let version = |deployment| Version {
        spec: VersionSpec {
            input_type: InputType::Doubles,
            batch_size: BatchSize::Fixed(DEFAULT_MAX_BATCH),
            max_batch: DEFAULT_MAX_BATCH,
            cache: false,
            deployment,
        },
        registered_at: Timestamp::UNIX_EPOCH,
    };
    let deployment = Deployment {
        image: "example/iris:1".into(),
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

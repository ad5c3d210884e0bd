//! The Redis store against a real Redis, on good days and bad ones.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use parking_lot::Mutex;
use skysail_core::catalog::{Application, Catalog, Change, Generation};
use skysail_core::cluster::Lease;
use skysail_frontend::store::conformance::{
    StoreFactory, TestedStore, promises, promises_to_several_frontends,
};
use skysail_frontend::store::redis::RedisStore;
use skysail_frontend::store::{
    AnnouncementStore, CatalogStore, LeaseStore, Leased, MetadataStore, QueryBlockStore, Settle, StoreError,
    StoreHealth,
};
use skysail_proto::ids::{ApplicationName, ClusterName};
use skysail_proto::value::InputType;
use skysail_tests::cases;
use skysail_tests::followed_store::FollowedStore;
use skysail_tests::redis::{RedisServer, RedisTls};
use skysail_tests::suite::{Need, Suite};
use tokio::task::JoinSet;
use tokio::time::Instant;

cases! {
    metadata_can_be_read_by_a_person: Redis;
    a_store_whose_redis_is_away_at_start_says_so_and_comes_up_by_itself: Redis;
    a_redis_that_is_killed_leaves_the_last_snapshot_and_is_found_again: Redis;
    a_redis_that_hangs_holds_nobody_up_and_is_found_again: Redis;
    a_store_that_starts_while_redis_hangs_comes_up_when_it_goes_on: Redis;
    a_commit_is_announced_and_an_announcement_makes_the_others_look: Redis;
    a_write_is_seen_although_its_message_was_lost: Redis;
    a_redis_that_lost_its_data_is_not_followed_until_it_is_restored: Redis;
    a_redis_that_lost_its_data_is_followed_once_it_is_accepted_and_gives_no_query_block_again: Redis;
    an_old_dump_is_not_followed_until_a_person_decides: Redis;
    a_loss_after_a_decision_is_one_more: Redis;
    a_frontend_that_starts_after_a_loss_waits_and_has_the_others_restore: Redis;
    what_nobody_holds_any_more_cannot_be_restored: Redis;
    the_right_data_that_comes_back_is_followed_at_once: Redis;
    announcements_of_others_outlast_an_outage_and_a_loss: Redis;
    a_lease_number_is_not_given_again_by_a_redis_that_lost_its_data: Redis;
    a_lease_that_redis_loses_is_not_taken_by_another_before_it_has_run_out: Redis;
    while_redis_hangs_announcements_and_leases_are_refused_in_time: Redis;
    a_redis_that_pauses_is_found_again: Redis;
    a_change_that_redis_did_not_answer_is_said_to_be_open: Redis;
    redis_is_reached_by_tls_and_a_certificate_nobody_trusts_is_explained: Redis;
    a_password_in_the_url_is_used_and_a_wrong_one_is_explained_without_it: Redis;
    a_user_who_may_touch_nothing_but_the_clusters_keys_and_channel_is_enough: Redis;
    without_permission_for_the_channel_writes_are_seen_all_the_same: Redis;
    a_commit_that_redis_refuses_half_way_changes_nothing: Redis;
    a_key_of_another_type_is_named_with_what_to_do_about_it: Redis;
    a_store_that_cannot_be_read_is_told_of_and_the_last_snapshot_stays: Redis;
    a_store_of_another_layout_is_refused_in_words_and_left_as_it_is: Redis;
}

/// The longest wait for a state that must come.
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) fn connect(url: &str) -> FollowedStore {
    FollowedStore::connect(url, &ClusterName::new("blue").unwrap()).unwrap()
}

/// Waits until the store is up and shows a catalog.
pub(crate) async fn ready(store: &RedisStore) {
    within("the store to be up", async {
        store.health().wait_for(|h| *h == StoreHealth::Up).await.unwrap();
        store.watch().wait_for(Option::is_some).await.unwrap();
    })
    .await;
}

/// Waits until the store is down, and returns the reason.
pub(crate) async fn down(store: &RedisStore) -> String {
    let mut health = store.health();
    let down = health.wait_for(|health| matches!(health, StoreHealth::Down(_)));
    match &*within("the store to be down", down).await.unwrap() {
        StoreHealth::Down(reason) => reason.clone(),
        other => panic!("{other:?}"),
    }
}

/// Waits until the store shows exactly these applications.
pub(crate) async fn shows(store: &RedisStore, names: &[&str]) {
    let mut watch = store.watch();
    let shown = watch.wait_for(|seen| {
        seen.as_ref()
            .is_some_and(|catalog| applications(catalog) == names)
    });
    within(&format!("the applications {names:?}"), shown)
        .await
        .unwrap();
}

pub(crate) async fn within<T>(what: &str, coming: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, coming).await {
        Ok(came) => came,
        Err(_) => panic!("waited {PATIENCE:?} in vain for {what}"),
    }
}

pub(crate) fn seen(store: &RedisStore) -> Option<Arc<Catalog>> {
    store.watch().borrow().clone()
}

pub(crate) fn applications(catalog: &Catalog) -> Vec<&str> {
    catalog.applications.keys().map(ApplicationName::as_str).collect()
}

pub(crate) fn put(name: &str) -> Change {
    Change::put(Application {
        name: ApplicationName::new(name).unwrap(),
        signature: InputType::Doubles.into(),
        default_output: "-1.0".into(),
        slo_micros: 100_000,
        weight: skysail_proto::admin::default_weight(),
        linked_models: vec![],
        registered_at: Timestamp::UNIX_EPOCH,
    })
}

fn delete(name: &str) -> Change {
    Change::delete(&ApplicationName::new(name).unwrap())
}

/// Commits to what the store shows.
pub(crate) async fn commit(store: &RedisStore, changes: Vec<Change>) -> Result<Arc<Catalog>, StoreError> {
    let expected = seen(store).expect("a snapshot").generation.clone();
    within("a commit", store.commit(changes, &expected)).await
}

async fn query_block(store: &RedisStore) -> Result<u64, StoreError> {
    within("a query block", store.next_query_block()).await
}

/// With what every store promises.
pub(crate) fn keeps_promises(suite: Suite) -> Suite {
    let all = promises().into_iter().chain(promises_to_several_frontends());
    all.fold(suite, |suite, promise| {
        let name = format!("store_redis::{}", promise.name);
        suite.test(name, &[Need::Redis], async move || {
            let clusters = Clusters {
                server: Arc::new(RedisServer::start().await),
                made: AtomicU32::new(0),
            };
            promise.check(&clusters).await;
        })
    })
}

/// Makes stores on one server, each for a cluster of its own, so the promises also show that clusters are
/// apart.
struct Clusters {
    server: Arc<RedisServer>,
    made: AtomicU32,
}

struct OneCluster {
    server: Arc<RedisServer>,
    cluster: ClusterName,
    /// Those of the handles.
    followers: Mutex<JoinSet<()>>,
}

#[async_trait]
impl StoreFactory for Clusters {
    async fn fresh(&self) -> Box<dyn TestedStore> {
        let number = self.made.fetch_add(1, Ordering::Relaxed);
        Box::new(OneCluster {
            server: Arc::clone(&self.server),
            cluster: ClusterName::new(&format!("cluster-{number}")).unwrap(),
            followers: Mutex::default(),
        })
    }
}

#[async_trait]
impl TestedStore for OneCluster {
    async fn handle(&self) -> Arc<dyn MetadataStore> {
        let (store, follower) = RedisStore::at(&self.server.url(), &self.cluster).unwrap();
        self.followers.lock().spawn(follower.run());
        Arc::new(store)
    }

    /// Ends every connection; the next one is the reopened store.
    async fn reopen(&mut self) {
        self.followers.get_mut().shutdown().await;
    }
}

async fn metadata_can_be_read_by_a_person() {
    let server = RedisServer::start().await;
    let store = connect(&server.url());
    ready(&store).await;
    commit(&store, vec![put("iris")]).await.unwrap();
    let generation: HashMap<String, String> = server.run("HGETALL {skysail:blue}:generation");
    assert_eq!(generation["number"], "1");
    assert_eq!(generation["incarnation"].len(), 16);
    let iris: String = server.run("HGET {skysail:blue}:documents application/iris");
    assert!(iris.contains(r#""default_output":"-1.0""#), "{iris}");
}

async fn a_store_whose_redis_is_away_at_start_says_so_and_comes_up_by_itself() {
    let mut server = RedisServer::reserve(&[]);
    let store = connect(&server.url());
    let reason = down(&store).await;
    assert!(reason.contains("refuses connections"), "{reason}");
    assert!(seen(&store).is_none());
    let refused = within("a refusal", store.commit(vec![put("a")], &Generation::default())).await;
    assert!(matches!(refused, Err(StoreError::Unavailable(_))), "{refused:?}");

    server.start_again().await;
    ready(&store).await;
    commit(&store, vec![put("a")]).await.unwrap();
}

async fn a_redis_that_is_killed_leaves_the_last_snapshot_and_is_found_again() {
    let mut server = RedisServer::start().await;
    let store = connect(&server.url());
    ready(&store).await;
    let before = commit(&store, vec![put("a")]).await.unwrap();
    let block = query_block(&store).await.unwrap();

    server.kill();
    down(&store).await;
    assert_eq!(seen(&store).as_ref(), Some(&before));
    let refused = commit(&store, vec![put("b")]).await;
    assert!(matches!(refused, Err(StoreError::Unavailable(_))), "{refused:?}");
    let refused = query_block(&store).await;
    assert!(matches!(refused, Err(StoreError::Unavailable(_))), "{refused:?}");

    server.start_again().await;
    ready(&store).await;
    assert_eq!(seen(&store), Some(before));
    commit(&store, vec![put("b")]).await.unwrap();
    assert_eq!(query_block(&store).await.unwrap(), block + 1);
}

async fn a_redis_that_hangs_holds_nobody_up_and_is_found_again() {
    let server = RedisServer::start().await;
    let store = connect(&server.url());
    ready(&store).await;
    let before = commit(&store, vec![put("a")]).await.unwrap();

    server.freeze();
    // All at once: those behind the first are refused with it instead of waiting for their turn.
    let waiting = (0..20).map(|_| store.commit(vec![put("b")], &before.generation));
    let mut sent = 0;
    for refused in within("twenty refusals", futures::future::join_all(waiting)).await {
        match refused {
            Err(StoreError::Unavailable(_)) => {}
            Err(StoreError::Unanswered(_)) => sent += 1,
            other => panic!("{other:?}"),
        }
    }
    assert!(sent <= 1, "{sent} were sent to a Redis that hangs");
    let reason = down(&store).await;
    assert!(reason.contains("did not answer"), "{reason}");
    assert_eq!(seen(&store), Some(before));

    server.thaw();
    ready(&store).await;
    // Whether the first commit reached Redis is open; what counts is that writing goes on.
    commit(&store, vec![put("c")]).await.unwrap();
}

async fn a_store_that_starts_while_redis_hangs_comes_up_when_it_goes_on() {
    let server = RedisServer::start().await;
    server.freeze();
    let store = connect(&server.url());
    down(&store).await;
    server.thaw();
    ready(&store).await;
}

/// How often a command was called since the server started.
fn calls(server: &RedisServer, command: &str) -> u64 {
    let statistics: String = server.run("INFO commandstats");
    let line = statistics
        .lines()
        .find_map(|line| line.strip_prefix(&format!("cmdstat_{command}:calls=")));
    let (count, _) = line.unwrap_or("0,").split_once(',').unwrap();
    count.parse().unwrap()
}

async fn a_commit_is_announced_and_an_announcement_makes_the_others_look() {
    let server = RedisServer::start().await;
    let store = connect(&server.url());
    ready(&store).await;
    let mut connection = server.connection();
    let mut channel = connection.as_pubsub();
    channel.subscribe("{skysail:blue}:changes").unwrap();
    channel.set_read_timeout(Some(PATIENCE)).unwrap();
    let committed = commit(&store, vec![put("a")]).await.unwrap();
    let announced: String = channel.get_message().unwrap().get_payload().unwrap();
    assert_eq!(announced, format!("{} 1", committed.generation.incarnation));

    // More looks than the periodic one could make while we wait.
    let announced_looks = async {
        for _ in 0..PATIENCE.as_secs() * 3 {
            let before = calls(&server, "hmget");
            let _: u64 = server.run("PUBLISH {skysail:blue}:changes again");
            while calls(&server, "hmget") == before {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        }
    };
    within("a look after each announcement", announced_looks).await;
}

async fn a_write_is_seen_although_its_message_was_lost() {
    let server = RedisServer::start().await;
    let (writer, reader) = (connect(&server.url()), connect(&server.url()));
    ready(&writer).await;
    ready(&reader).await;
    // Killed before each write, so that there is nobody to hear of it.
    for number in 0..3 {
        let killed: u64 = server.run("CLIENT KILL TYPE pubsub");
        assert!(killed > 0 || number > 0, "nobody was subscribed");
        commit(&writer, vec![put(&format!("app-{number}"))])
            .await
            .unwrap();
    }
    shows(&reader, &["app-0", "app-1", "app-2"]).await;
    assert_eq!(*reader.health().borrow(), StoreHealth::Up);

    // The subscription comes back, and with it the quick way.
    let subscribed = async {
        while server.run::<Vec<(String, u64)>>("PUBSUB NUMSUB {skysail:blue}:changes")[0].1 < 2 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    within("both to subscribe again", subscribed).await;
}

/// Waits until the store says that Redis lost something, and returns what it says.
pub(crate) async fn went_back(store: &RedisStore) -> String {
    let mut health = store.health();
    let back = health.wait_for(|health| matches!(health, StoreHealth::WentBack(_)));
    match &*within("the loss to be seen", back).await.unwrap() {
        StoreHealth::WentBack(sentence) => sentence.clone(),
        other => panic!("{other:?}"),
    }
}

pub(crate) async fn settle(store: &RedisStore, how: Settle) -> Result<Arc<Catalog>, StoreError> {
    within("a settlement", store.settle(how)).await
}

pub(crate) async fn two_stores(server: &RedisServer) -> [FollowedStore; 2] {
    let stores = [connect(&server.url()), connect(&server.url())];
    ready(&stores[0]).await;
    ready(&stores[1]).await;
    stores
}

async fn a_redis_that_lost_its_data_is_not_followed_until_it_is_restored() {
    let server = RedisServer::start().await;
    let [one, other] = two_stores(&server).await;
    commit(&one, vec![put("a"), put("b")]).await.unwrap();
    let before = commit(&one, vec![delete("b")]).await.unwrap();
    shows(&other, &["a"]).await;

    let () = server.run("FLUSHALL");
    for store in [&one, &other] {
        let said = went_back(store).await;
        for part in [
            "empty",
            "generation 2 with 1 application ",
            "skysail cluster restore",
            "skysail cluster accept-empty",
        ] {
            assert!(said.contains(part), "{part}: {said}");
        }
        assert_eq!(seen(store).as_ref(), Some(&before));
        let refused = commit(store, vec![put("c")]).await;
        assert!(matches!(refused, Err(StoreError::HeldBack(_))), "{refused:?}");
        query_block(store).await.unwrap();
    }

    let restored = settle(&other, Settle::Restore).await.unwrap();
    assert_eq!(restored.applications, before.applications);
    assert!(restored.generation.number > before.generation.number);
    for store in [&one, &other] {
        ready(store).await;
        let mut watch = store.watch();
        let same = watch.wait_for(|seen| seen.as_ref() == Some(&restored));
        within("the restored catalog", same).await.unwrap();
        let again = settle(store, Settle::Restore).await;
        assert!(matches!(again, Err(StoreError::NothingToSettle)), "{again:?}");
    }
    commit(&one, vec![put("c")]).await.unwrap();
    shows(&other, &["a", "c"]).await;
    let fresh = connect(&server.url());
    shows(&fresh, &["a", "c"]).await;
}

async fn a_redis_that_lost_its_data_is_followed_once_it_is_accepted_and_gives_no_query_block_again() {
    let mut server = RedisServer::start().await;
    let [store, other] = two_stores(&server).await;
    let before = commit(&store, vec![put("a")]).await.unwrap();
    shows(&other, &["a"]).await;
    let mut blocks = Vec::new();
    for _ in 0..3 {
        blocks.push(query_block(&store).await.unwrap());
    }

    server.kill();
    server.empty();
    server.start_again().await;
    went_back(&store).await;
    went_back(&other).await;
    let accepted = settle(&other, Settle::Accept).await.unwrap();
    assert!(applications(&accepted).is_empty());
    assert_ne!(accepted.generation.incarnation, before.generation.incarnation);
    shows(&store, &[]).await;
    ready(&store).await;
    let after = commit(&store, vec![put("b")]).await.unwrap();
    assert_eq!(applications(&after), ["b"]);
    shows(&other, &["b"]).await;
    for _ in 0..3 {
        blocks.push(query_block(&store).await.unwrap());
    }
    assert!(
        blocks.is_sorted_by(|earlier, later| earlier < later),
        "{blocks:?}"
    );
}

/// What makes up a catalog, kept aside and put back as an old dump does.
fn keep_aside(server: &RedisServer) {
    for key in ["generation", "documents"] {
        let _: u64 = server.run(&format!("COPY {{skysail:blue}}:{key} kept:{key} REPLACE"));
    }
}

fn put_back(server: &RedisServer) {
    for key in ["generation", "documents"] {
        let _: u64 = server.run(&format!("COPY kept:{key} {{skysail:blue}}:{key} REPLACE"));
    }
}

async fn an_old_dump_is_not_followed_until_a_person_decides() {
    let server = RedisServer::start().await;
    let [one, other] = two_stores(&server).await;
    for how in [Settle::Accept, Settle::Restore] {
        let old = commit(&one, vec![put("old"), delete("new")]).await.unwrap();
        keep_aside(&server);
        commit(&one, vec![put("new")]).await.unwrap();
        shows(&other, &["new", "old"]).await;
        put_back(&server);
        for store in [&one, &other] {
            let said = went_back(store).await;
            let found = format!("it is at generation {},", old.generation.number);
            assert!(said.contains(&found), "{said}");
            assert_eq!(applications(&seen(store).unwrap()), ["new", "old"]);
        }
        let settled = settle(&other, how).await.unwrap();
        let expected: &[&str] = match how {
            Settle::Accept => &["old"],
            Settle::Restore => &["new", "old"],
        };
        assert_eq!(applications(&settled), expected);
        for store in [&one, &other] {
            shows(store, expected).await;
            ready(store).await;
        }
    }
}

async fn a_loss_after_a_decision_is_one_more() {
    let server = RedisServer::start().await;
    let [one, other] = two_stores(&server).await;
    commit(&one, vec![put("a")]).await.unwrap();
    shows(&other, &["a"]).await;
    for _ in 0..2 {
        // A dump that holds the last decision, and another loss after it.
        keep_aside(&server);
        commit(&one, vec![put("b")]).await.unwrap();
        shows(&other, &["a", "b"]).await;
        put_back(&server);
        went_back(&one).await;
        went_back(&other).await;
        settle(&one, Settle::Restore).await.unwrap();
        ready(&one).await;
        ready(&other).await;
        let () = server.run("FLUSHALL");
        went_back(&one).await;
        went_back(&other).await;
        settle(&other, Settle::Restore).await.unwrap();
        ready(&one).await;
        ready(&other).await;
        commit(&one, vec![delete("b")]).await.unwrap();
        shows(&other, &["a"]).await;
    }
}

async fn a_frontend_that_starts_after_a_loss_waits_and_has_the_others_restore() {
    let server = RedisServer::start().await;
    let [one, other] = two_stores(&server).await;
    let before = commit(&one, vec![put("a")]).await.unwrap();
    shows(&other, &["a"]).await;
    let () = server.run("FLUSHALL");
    went_back(&one).await;

    let starting = connect(&server.url());
    let said = went_back(&starting).await;
    assert!(said.contains("another frontend held generation 1"), "{said}");
    assert_eq!(seen(&starting), None);
    let refused = within(
        "a refusal",
        starting.commit(vec![put("x")], &Generation::default()),
    )
    .await;
    assert!(matches!(refused, Err(StoreError::HeldBack(_))), "{refused:?}");

    let restored = settle(&starting, Settle::Restore).await.unwrap();
    assert_eq!(restored.applications, before.applications);
    for store in [&one, &other, &starting] {
        shows(store, &["a"]).await;
        ready(store).await;
    }
}

async fn what_nobody_holds_any_more_cannot_be_restored() {
    let server = RedisServer::start().await;
    let holder = connect(&server.url());
    ready(&holder).await;
    commit(&holder, vec![put("a")]).await.unwrap();
    let () = server.run("FLUSHALL");
    went_back(&holder).await;
    let starting = connect(&server.url());
    went_back(&starting).await;
    drop(holder);

    let refused = settle(&starting, Settle::Restore).await;
    match refused {
        Err(StoreError::HeldBack(why)) => assert!(why.contains("accept-empty"), "{why}"),
        other => panic!("{other:?}"),
    }
    let accepted = settle(&starting, Settle::Accept).await.unwrap();
    assert!(applications(&accepted).is_empty());
    commit(&starting, vec![put("b")]).await.unwrap();
}

async fn the_right_data_that_comes_back_is_followed_at_once() {
    let server = RedisServer::start().await;
    let [one, other] = two_stores(&server).await;
    commit(&one, vec![put("a")]).await.unwrap();
    let before = commit(&one, vec![put("b")]).await.unwrap();
    shows(&other, &["a", "b"]).await;
    keep_aside(&server);
    let _: u64 = server.run("DEL {skysail:blue}:generation {skysail:blue}:documents");
    went_back(&one).await;
    went_back(&other).await;
    put_back(&server);
    for store in [&one, &other] {
        ready(store).await;
        assert_eq!(seen(store).as_ref(), Some(&before));
    }
    commit(&other, vec![put("c")]).await.unwrap();
    shows(&one, &["a", "b", "c"]).await;
}

pub(crate) async fn announce(store: &RedisStore, id: &str) -> Result<(), StoreError> {
    let announcement = store.announce(id, "{}".into(), Duration::from_secs(60));
    within("an announcement", announcement).await
}

pub(crate) fn announced(store: &RedisStore) -> Vec<String> {
    store.announced().borrow().keys().cloned().collect()
}

async fn announcements_of_others_outlast_an_outage_and_a_loss() {
    let mut server = RedisServer::start().await;
    let [one, other] = two_stores(&server).await;
    commit(&one, vec![put("a")]).await.unwrap();
    shows(&other, &["a"]).await;
    announce(&one, "one").await.unwrap();
    announce(&other, "other").await.unwrap();
    let mut watch = one.announced();
    let both = watch.wait_for(|shown| shown.len() == 2);
    within("the other's announcement", both).await.unwrap();

    server.kill();
    down(&one).await;
    assert_eq!(announced(&one), ["one", "other"]);
    let refused = announce(&one, "one").await;
    assert!(matches!(refused, Err(StoreError::Unavailable(_))), "{refused:?}");
    server.empty();
    server.start_again().await;
    went_back(&one).await;
    announce(&one, "one").await.unwrap();
    assert_eq!(announced(&one), ["one", "other"]);

    // Not for ever: the other does not announce itself again.
    let mut watch = one.announced();
    let alone = watch.wait_for(|shown| shown.len() == 1);
    within("the other to be forgotten", alone).await.unwrap();
    assert_eq!(announced(&one), ["one"]);
}

pub(crate) async fn lease(store: &RedisStore, holder: &str) -> Result<Leased, StoreError> {
    within("the lease", store.take_lease(holder, Duration::from_secs(60))).await
}

async fn a_lease_number_is_not_given_again_by_a_redis_that_lost_its_data() {
    let server = RedisServer::start().await;
    let [one, other] = two_stores(&server).await;
    let mut numbers = Vec::new();
    for (store, holder) in [(&one, "one"), (&other, "other"), (&one, "one")] {
        let () = server.run("FLUSHALL");
        match lease(store, holder).await.unwrap() {
            Leased::Held(lease) => numbers.push(lease.number),
            Leased::HeldBy(by) => panic!("held by {by}"),
        }
    }
    // The other never heard of the first's.
    assert_eq!(numbers, [1, 1, 2]);
}

/// How long the lease holds in the tests that wait for its end.
const LEASE_TTL: Duration = Duration::from_secs(2);

async fn short_lease(store: &RedisStore, holder: &str) -> Leased {
    let asked = store.take_lease(holder, LEASE_TTL);
    within("the lease", asked).await.unwrap()
}

fn number_of(leased: Leased) -> u64 {
    match leased {
        Leased::Held(lease) => lease.number,
        Leased::HeldBy(by) => panic!("held by {by}"),
    }
}

async fn a_lease_that_redis_loses_is_not_taken_by_another_before_it_has_run_out() {
    let server = RedisServer::start().await;
    let [one, other] = two_stores(&server).await;
    let loses: [&dyn Fn(); 3] = [
        &|| server.run("UNLINK {skysail:blue}:lease"),
        // An old dump: one of another holder, that ended long ago.
        &|| server.run("HSET {skysail:blue}:lease holder third number 1 until 1"),
        // Of the same one, before it was renewed.
        &|| server.run("HSET {skysail:blue}:lease until 1"),
    ];
    let mut last = number_of(short_lease(&one, "one").await);
    for (case, lose) in loses.into_iter().enumerate() {
        assert_eq!(short_lease(&other, "other").await, Leased::HeldBy("one".into()));
        let renewed = Instant::now();
        last = number_of(short_lease(&one, "one").await);
        lose();
        // Whoever had it dies at this moment; others ask for it all the time.
        let number = loop {
            match short_lease(&other, "other").await {
                Leased::Held(lease) => break lease.number,
                Leased::HeldBy(by) => assert_eq!(by, "one", "case {case}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        assert!(renewed.elapsed() >= LEASE_TTL, "case {case}: too early");
        assert!(number > last, "case {case}: number {number} after {last}");
        // What is given back is free at once.
        let lease = Lease {
            holder: "other".into(),
            number,
        };
        other.release_lease(&lease).await.unwrap();
        last = number_of(short_lease(&one, "one").await);
        assert!(last > number, "case {case}: number {last} after {number}");
    }
    // Whoever lost it and lives takes it again, under another number than before.
    assert_eq!(short_lease(&other, "other").await, Leased::HeldBy("one".into()));
    let () = server.run("UNLINK {skysail:blue}:lease");
    assert_eq!(short_lease(&other, "other").await, Leased::HeldBy("one".into()));
    assert!(number_of(short_lease(&one, "one").await) > last);
    assert_eq!(short_lease(&other, "other").await, Leased::HeldBy("one".into()));
}

async fn while_redis_hangs_announcements_and_leases_are_refused_in_time() {
    let server = RedisServer::start().await;
    let store = connect(&server.url());
    ready(&store).await;
    announce(&store, "one").await.unwrap();
    server.freeze();
    let (announced, leased) = tokio::join!(announce(&store, "one"), lease(&store, "one"));
    assert!(
        matches!(announced, Err(StoreError::Unavailable(_))),
        "{announced:?}"
    );
    assert!(matches!(leased, Err(StoreError::Unavailable(_))), "{leased:?}");
    down(&store).await;
    let (announced, leased) = tokio::join!(announce(&store, "one"), lease(&store, "one"));
    assert!(announced.is_err() && leased.is_err());
    server.thaw();
    ready(&store).await;
    announce(&store, "one").await.unwrap();
    lease(&store, "one").await.unwrap();
}

async fn a_redis_that_pauses_is_found_again() {
    let server = RedisServer::start().await;
    let store = connect(&server.url());
    ready(&store).await;
    commit(&store, vec![put("a")]).await.unwrap();
    let () = server.run("CLIENT PAUSE 5000 ALL");
    let refused = commit(&store, vec![put("b")]).await;
    assert!(
        matches!(
            refused,
            Err(StoreError::Unavailable(_) | StoreError::Unanswered(_))
        ),
        "{refused:?}"
    );
    down(&store).await;
    ready(&store).await;
    commit(&store, vec![put("c")]).await.unwrap();
}

async fn a_change_that_redis_did_not_answer_is_said_to_be_open() {
    let server = RedisServer::start().await;
    let store = connect(&server.url());
    ready(&store).await;
    // A look that hangs already keeps the change from being sent; then there is nothing open.
    let said = loop {
        server.freeze();
        let unsure = commit(&store, vec![put("a")]).await;
        server.thaw();
        match unsure {
            Err(unsure @ StoreError::Unanswered(_)) => break unsure.to_string(),
            Err(StoreError::Unavailable(_)) => ready(&store).await,
            other => panic!("{other:?}"),
        }
    };
    for part in ["may have been carried out", "skysail status", "did not answer"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    // It was: Redis goes on where it stopped.
    shows(&store, &["a"]).await;
}

async fn redis_is_reached_by_tls_and_a_certificate_nobody_trusts_is_explained() {
    let tls = RedisTls::start(&[]).await;
    let () = tls.server.run("ACL SETUSER app on >s3cret ~* &* +@all");
    let cluster = ClusterName::new("blue").unwrap();
    let trusting =
        |authority: &str| FollowedStore::connect_trusting(&tls.url_as("app:s3cret"), &cluster, authority);
    let store = trusting(&tls.authority).unwrap();
    ready(&store).await;
    commit(&store, vec![put("a")]).await.unwrap();
    let other = trusting(&tls.authority).unwrap();
    shows(&other, &["a"]).await;
    // By messages too, not by looks alone.
    let subscribed: Vec<(String, u64)> = tls.server.run("PUBSUB NUMSUB {skysail:blue}:changes");
    assert_eq!(subscribed[0].1, 2);

    let reason = down(&connect(&tls.url_as("app:s3cret"))).await;
    assert!(
        reason.contains("--store-ca") && !reason.contains("s3cret"),
        "{reason}"
    );
    let plain = tls.server.url().replace("redis://", "rediss://app:s3cret@");
    let plain = FollowedStore::connect_trusting(&plain, &cluster, &tls.authority).unwrap();
    let reason = down(&plain).await;
    assert!(reason.contains("is this its port for TLS"), "{reason}");
    let reason = down(&connect(&tls.url_as("app:s3cret").replace("rediss", "redis"))).await;
    assert!(reason.contains("rediss://"), "{reason}");
    let unused = FollowedStore::connect_trusting("redis://127.0.0.1", &cluster, &tls.authority);
    assert!(unused.is_err());
}

async fn a_password_in_the_url_is_used_and_a_wrong_one_is_explained_without_it() {
    let server = RedisServer::start_with(&["--requirepass", "s3cret"]).await;
    let store = connect(&server.url_as(":s3cret"));
    ready(&store).await;
    commit(&store, vec![put("a")]).await.unwrap();

    let wrong = connect(&server.url_as(":wr0ng"));
    let reason = down(&wrong).await;
    assert!(
        reason.contains("user and password") && !reason.contains("wr0ng"),
        "{reason}"
    );
    let none = connect(&server.url());
    let reason = down(&none).await;
    assert!(reason.contains("wants a password"), "{reason}");
}

async fn a_user_who_may_touch_nothing_but_the_clusters_keys_and_channel_is_enough() {
    let server = RedisServer::start().await;
    let () = server.run(
        "ACL SETUSER app on >pw ~{skysail:blue}:* &{skysail:blue}:* -@all \
         +@read +@write +@connection +@transaction +eval +time +publish +subscribe",
    );
    let store = connect(&server.url_as("app:pw"));
    ready(&store).await;
    commit(&store, vec![put("a")]).await.unwrap();
    query_block(&store).await.unwrap();
    // Nothing was asked that the user may not do, but for the policy of evictions, which may be kept secret.
    let denied: Vec<HashMap<String, redis::Value>> = server.run("ACL LOG");
    let denied: Vec<String> = denied
        .iter()
        .map(|entry| redis::from_redis_value(entry["object"].clone()).unwrap())
        .collect();
    assert!(denied.iter().all(|object| object == "info"), "{denied:?}");
}

async fn without_permission_for_the_channel_writes_are_seen_all_the_same() {
    let server = RedisServer::start().await;
    let () = server.run("ACL SETUSER app on >pw ~* resetchannels +@all");
    let (writer, reader) = (
        connect(&server.url_as("app:pw")),
        connect(&server.url_as("app:pw")),
    );
    ready(&writer).await;
    ready(&reader).await;
    commit(&writer, vec![put("a")]).await.unwrap();
    shows(&reader, &["a"]).await;
}

async fn a_commit_that_redis_refuses_half_way_changes_nothing() {
    let server = RedisServer::start().await;
    let store = connect(&server.url());
    ready(&store).await;
    let before = commit(&store, vec![put("a")]).await.unwrap();

    // The first change could be written, the second not.
    let () = server.run("ACL SETUSER app on >pw ~* &* +@all -hdel");
    let limited = connect(&server.url_as("app:pw"));
    ready(&limited).await;
    let refused = commit(&limited, vec![put("b"), delete("a")]).await;
    assert!(matches!(refused, Err(StoreError::Refuses(_))), "{refused:?}");

    let () = server.run("CONFIG SET maxmemory 1");
    let refused = commit(&store, vec![put("b"), delete("a")]).await;
    assert!(matches!(refused, Err(StoreError::Refuses(_))), "{refused:?}");
    let () = server.run("CONFIG SET maxmemory 0");

    let keys: Vec<String> = server.run("HKEYS {skysail:blue}:documents");
    assert_eq!(keys, ["application/a"]);
    let after = commit(&store, vec![put("c")]).await.unwrap();
    assert_eq!(applications(&after), ["a", "c"]);
    assert_eq!(after.generation.number, before.generation.number + 1);
}

async fn a_store_that_cannot_be_read_is_told_of_and_the_last_snapshot_stays() {
    let server = RedisServer::start().await;
    let store = connect(&server.url());
    ready(&store).await;
    let before = commit(&store, vec![put("a")]).await.unwrap();

    let _: u64 = server.run("COPY {skysail:blue}:documents kept");
    let breakages = [
        (
            "HSET {skysail:blue}:generation schema 4",
            "newer Skysail",
            "HSET {skysail:blue}:generation schema 3",
        ),
        (
            "HSET {skysail:blue}:generation schema 2",
            "older Skysail",
            "HSET {skysail:blue}:generation schema 3",
        ),
        (
            "SET {skysail:blue}:documents x",
            "key {skysail:blue}:documents is a string, not a hash: move it away (`RENAME",
            "COPY kept {skysail:blue}:documents REPLACE",
        ),
    ];
    for (breakage, named, repair) in breakages {
        let _: redis::Value = server.run(breakage);
        let reason = down(&store).await;
        assert!(
            reason.contains("cannot read") && reason.contains(named),
            "{reason}"
        );
        assert_eq!(applications(&seen(&store).unwrap()), applications(&before));
        let refused = commit(&store, vec![put("c")]).await;
        assert!(matches!(refused, Err(StoreError::Corrupt(_))), "{refused:?}");

        let _: redis::Value = server.run(repair);
        ready(&store).await;
    }
    commit(&store, vec![put("c")]).await.unwrap();
}

/// What Redis holds, key by key.
fn everything(server: &RedisServer) -> BTreeMap<String, BTreeMap<String, String>> {
    let keys: Vec<String> = server.run("KEYS *");
    let content = |key: &String| server.run(&format!("HGETALL {key}"));
    keys.iter().map(|key| (key.clone(), content(key))).collect()
}

async fn a_store_of_another_layout_is_refused_in_words_and_left_as_it_is() {
    let server = RedisServer::start().await;
    // As the versions before documents by kind wrote it.
    let _: u64 =
        server.run("HSET {skysail:blue}:generation incarnation a number 7 schema 2 count 1 digest 5");
    let _: u64 = server.run(r#"HSET {skysail:blue}:applications iris {"name":"iris"}"#);
    let before = everything(&server);
    let store = connect(&server.url());
    let reason = down(&store).await;
    for part in ["it has layout 2", "this version reads layout 3", "an empty store"] {
        assert!(reason.contains(part), "{part}: {reason}");
    }
    assert_eq!(seen(&store), None);
    let minute = Duration::from_secs(60);
    let refusals = [
        store.commit(vec![put("a")], &Generation::default()).await.err(),
        store.settle(Settle::Restore).await.err(),
        store.settle(Settle::Accept).await.err(),
        store.adopt(["b".to_owned()].into()).await.err(),
        store.announce("one", "{}".into(), minute).await.err(),
        store.withdraw("one").await.err(),
        store.take_lease("one", minute).await.err(),
        store.next_query_block().await.err(),
    ];
    for refused in refusals {
        assert!(matches!(refused, Some(StoreError::Corrupt(_))), "{refused:?}");
    }
    assert_eq!(everything(&server), before);
}

async fn a_key_of_another_type_is_named_with_what_to_do_about_it() {
    for (key, breakage) in [
        ("generation", "SET {skysail:blue}:generation x"),
        ("documents", "SET {skysail:blue}:documents x"),
        ("documents", "RPUSH {skysail:blue}:documents x"),
        ("query-block", "HSET {skysail:blue}:query-block a b"),
        ("query-block", "SET {skysail:blue}:query-block x"),
        ("frontends", "SET {skysail:blue}:frontends x"),
        ("frontend-expiries", "SET {skysail:blue}:frontend-expiries x"),
        ("lease", "SET {skysail:blue}:lease x"),
        ("held-back", "SET {skysail:blue}:held-back x"),
    ] {
        let server = RedisServer::start().await;
        let store = connect(&server.url());
        ready(&store).await;
        commit(&store, vec![put("a")]).await.unwrap();
        let _: redis::Value = server.run(&format!("DEL {{skysail:blue}}:{key}"));
        let _: redis::Value = server.run(breakage);
        let named = format!("key {{skysail:blue}}:{key} ");
        let told = async {
            loop {
                // Whether they are refused is what is looked at.
                let _ = store.announce("one", "{}".into(), Duration::from_secs(60)).await;
                let _ = store.take_lease("one", Duration::from_secs(60)).await;
                let _ = store.next_query_block().await;
                let problem = store.health().borrow().problem();
                if let Some(said) = problem.filter(|said| said.contains(&named)) {
                    return said;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let said = within(&named, told).await;
        assert!(said.contains("RENAME"), "{said}");
        let documents = ["generation", "documents"].contains(&key);
        assert_eq!(said.contains("skysail cluster restore"), documents, "{said}");

        // As it says.
        let () = server.run(&format!(
            "RENAME {{skysail:blue}}:{key} {{skysail:blue}}:{key}-aside"
        ));
        let again = async {
            loop {
                let _ = store.announce("one", "{}".into(), Duration::from_secs(60)).await;
                let _ = store.take_lease("one", Duration::from_secs(60)).await;
                let _ = store.next_query_block().await;
                let _ = store.settle(Settle::Restore).await;
                if *store.health().borrow() == StoreHealth::Up {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        within("the store to be well again", again).await;
        commit(&store, vec![put("b")]).await.unwrap();
    }
}

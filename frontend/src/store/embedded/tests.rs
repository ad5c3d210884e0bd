use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use redb::{ReadableDatabase, TableDefinition};
use skysail_core::catalog::Application;
use skysail_proto::ids::ApplicationName;
use skysail_proto::value::InputType;
use tempfile::TempDir;

use super::tables::{ABOUT, DOCUMENTS, GENERATION_KEY, LAYOUT_KEY, read_text};
use super::*;
use crate::store::MetadataStore;
use crate::store::conformance::{StoreFactory, TestedStore, check_all};

/// Makes stores in one folder, and removes the folder when dropped.
struct Files {
    folder: TempDir,
    made: AtomicU32,
}

struct TestedFile {
    path: PathBuf,
    store: Option<EmbeddedStore>,
}

#[async_trait]
impl StoreFactory for Files {
    async fn fresh(&self) -> Box<dyn TestedStore> {
        let number = self.made.fetch_add(1, Ordering::Relaxed);
        let path = self.folder.path().join(format!("{number}/store.redb"));
        let store = Some(EmbeddedStore::open(&path).unwrap());
        Box::new(TestedFile { path, store })
    }
}

#[async_trait]
impl TestedStore for TestedFile {
    async fn handle(&self) -> Arc<dyn MetadataStore> {
        Arc::new(self.store.clone().unwrap())
    }

    async fn reopen(&mut self) {
        drop(self.store.take());
        self.store = Some(EmbeddedStore::open(&self.path).unwrap());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_embedded_store_keeps_every_promise() {
    let files = Files {
        folder: tempfile::tempdir().unwrap(),
        made: AtomicU32::new(0),
    };
    check_all(Arc::new(files)).await;
}

fn store_path(folder: &TempDir) -> PathBuf {
    folder.path().join("store.redb")
}

fn put(name: &str, default_output: &str) -> Change {
    Change::put(Application {
        name: ApplicationName::new(name).unwrap(),
        signature: InputType::Doubles.into(),
        default_output: default_output.into(),
        slo_micros: 100_000,
        weight: skysail_proto::admin::default_weight(),
        linked_models: vec![],
        registered_at: Timestamp::UNIX_EPOCH,
    })
}

/// Commits one more application to the snapshot that the store shows.
async fn add(store: &EmbeddedStore, name: &str, default_output: &str) -> Result<Arc<Catalog>, StoreError> {
    let expected = store.file.snapshot().generation.clone();
    store.commit(vec![put(name, default_output)], &expected).await
}

fn refused(path: &Path) -> String {
    match EmbeddedStore::open(path) {
        Ok(_) => panic!("{} was opened", path.display()),
        Err(error) => with_cause(&error),
    }
}

#[test]
fn a_store_file_in_use_is_refused_with_a_way_out() {
    let folder = tempfile::tempdir().unwrap();
    let _first = EmbeddedStore::open(store_path(&folder)).unwrap();
    let error = refused(&store_path(&folder));
    assert!(
        error.contains("in use by another process") && error.contains("--store redis://"),
        "{error}"
    );
}

#[test]
fn a_file_of_another_kind_is_refused_and_left_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let path = store_path(&folder);
    for content in ["x", "hello, world\n", &"not a database ".repeat(10_000)] {
        fs::write(&path, content).unwrap();
        let error = refused(&path);
        assert!(error.contains("not a Skysail store"), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), *content);
    }
}

#[test]
fn another_programs_redb_file_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    for (number, table) in ["theirs", "about"].into_iter().enumerate() {
        let path = folder.path().join(format!("{number}.redb"));
        let theirs = Database::create(&path).unwrap();
        let write = theirs.begin_write().unwrap();
        let definition: TableDefinition<u64, u64> = TableDefinition::new(table);
        write.open_table(definition).unwrap().insert(1, 1).unwrap();
        write.commit().unwrap();
        drop(theirs);
        let error = refused(&path);
        assert!(error.contains("not a Skysail store"), "{error}");
    }
}

#[test]
fn a_path_that_cannot_be_is_refused_with_the_cause() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("file"), "").unwrap();
    let error = refused(&folder.path().join("file/store.redb"));
    assert!(error.contains("cannot be opened: "), "{error}");
}

/// Writes one value of the file's [`ABOUT`] table, as another version might.
fn write_about(path: &Path, key: &str, value: &str) {
    drop(EmbeddedStore::open(path).unwrap());
    let database = Database::open(path).unwrap();
    let write = database.begin_write().unwrap();
    write.open_table(ABOUT).unwrap().insert(key, value).unwrap();
    write.commit().unwrap();
}

#[test]
fn a_file_of_another_layout_is_refused_and_keeps_what_is_in_it() {
    for (layout, said) in [
        (
            "1",
            "an older Skysail (it has layout 1, this version reads layout 3)",
        ),
        (
            "2",
            "an older Skysail (it has layout 2, this version reads layout 3)",
        ),
        (
            "4",
            "a newer Skysail (it has layout 4, this version reads layout 3)",
        ),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let path = store_path(&folder);
        write_about(&path, LAYOUT_KEY, layout);
        let error = refused(&path);
        assert!(error.contains(said) && error.contains("empty store"), "{error}");
        let database = Database::open(&path).unwrap();
        let read = database.begin_read().unwrap();
        let kept = read_text(&read.open_table(ABOUT).unwrap(), LAYOUT_KEY).unwrap();
        assert_eq!(kept.as_deref(), Some(layout));
    }
}

#[test]
fn a_document_of_an_unknown_kind_is_another_versions_and_no_damage() {
    let folder = tempfile::tempdir().unwrap();
    let path = store_path(&folder);
    let proof = Inventory::of(&[("unicorn/u".to_owned(), b"{}".to_vec())].into()).proof();
    let generation = format!(
        r#"{{"incarnation": "a", "number": 1, "count": {}, "digest": {}}}"#,
        proof.count, proof.digest
    );
    write_about(&path, GENERATION_KEY, &generation);
    let database = Database::open(&path).unwrap();
    let write = database.begin_write().unwrap();
    write
        .open_table(DOCUMENTS)
        .unwrap()
        .insert("unicorn/u", "{}")
        .unwrap();
    write.commit().unwrap();
    drop(database);
    let error = refused(&path);
    assert!(
        error.contains("`unicorn/u` is of no kind that this version knows")
            && error.contains("run the version"),
        "{error}"
    );
    assert!(!error.contains("damaged"), "{error}");
}

#[test]
fn a_file_whose_content_makes_no_sense_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    write_about(&store_path(&folder), GENERATION_KEY, "seven");
    let error = refused(&store_path(&folder));
    assert!(
        error.contains("is damaged") && error.contains("generation"),
        "{error}"
    );
}

#[test]
fn a_store_file_is_for_its_owner_only() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let _store = EmbeddedStore::open(store_path(&folder)).unwrap();
    let mode = fs::metadata(store_path(&folder)).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

/// The expected words of the report, and the function that harms an open file.
type Displacement = (&'static str, fn(&Path));

/// The ways to harm a file that a server has open.
fn displacements() -> [Displacement; 5] {
    [
        ("was removed", |path| {
            fs::rename(path, path.with_extension("away")).unwrap()
        }),
        ("was removed", |path| {
            fs::remove_dir_all(path.parent().unwrap()).unwrap()
        }),
        ("was replaced", |path| {
            let other = path.with_extension("other");
            fs::copy(path, &other).unwrap();
            fs::rename(other, path).unwrap();
        }),
        ("was replaced", |path| {
            fs::remove_file(path).unwrap();
            fs::write(path, "").unwrap();
        }),
        ("was cut short", |path| {
            OpenOptions::new()
                .write(true)
                .open(path)
                .unwrap()
                .set_len(0)
                .unwrap();
        }),
    ]
}

async fn announced(store: &EmbeddedStore) {
    let announced = store.announce("one", "{}".into(), Duration::from_secs(5));
    announced.await.unwrap();
}

#[tokio::test]
async fn a_file_that_is_no_longer_there_takes_no_write_and_is_told_of() {
    for (what, displace) in displacements() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("below/store.redb");
        let store = EmbeddedStore::open(&path).unwrap();
        let before = add(&store, "a", "").await.unwrap();
        announced(&store).await;
        assert_eq!(*store.health().borrow(), StoreHealth::Up);
        displace(&path);
        // The loss is reported also while nobody writes.
        announced(&store).await;
        match &*store.health().borrow() {
            StoreHealth::WentBack(why) => {
                assert!(
                    why.contains(what) && why.contains("skysail cluster restore"),
                    "{why}"
                );
            }
            other => panic!("{what}: {other:?}"),
        }
        for _again in 0..2 {
            let refused = add(&store, "b", "").await;
            assert!(
                matches!(&refused, Err(StoreError::HeldBack(why)) if why.contains(what)),
                "{refused:?}"
            );
            assert!(store.next_query_block().await.is_err());
        }
        assert_eq!(store.file.snapshot(), before);
    }
}

#[tokio::test]
async fn a_file_that_comes_back_is_written_to_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = store_path(&folder);
    let store = EmbeddedStore::open(&path).unwrap();
    add(&store, "a", "").await.unwrap();
    let away = path.with_extension("away");
    fs::rename(&path, &away).unwrap();
    assert!(add(&store, "b", "").await.is_err());
    fs::rename(&away, &path).unwrap();
    announced(&store).await;
    assert_eq!(*store.health().borrow(), StoreHealth::Up);
    let after = add(&store, "c", "").await.unwrap();
    drop(store);
    assert_eq!(EmbeddedStore::open(&path).unwrap().file.snapshot(), after);
}

#[tokio::test]
async fn what_is_held_is_written_to_a_new_file_when_a_person_says_so() {
    for (what, displace) in displacements() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("below/store.redb");
        let store = EmbeddedStore::open(&path).unwrap();
        add(&store, "a", "").await.unwrap();
        let held = add(&store, "b", "").await.unwrap();
        assert!(matches!(
            store.settle(Settle::Restore).await,
            Err(StoreError::NothingToSettle)
        ));
        displace(&path);
        let restored = store.settle(Settle::Restore).await.unwrap();
        assert_eq!(restored.applications, held.applications, "{what}");
        assert_eq!(restored.generation.incarnation, held.generation.incarnation);
        assert!(restored.generation.number > held.generation.number);
        assert_eq!(*store.health().borrow(), StoreHealth::Up);
        let after = add(&store, "c", "").await.unwrap();
        drop(store);
        assert_eq!(
            EmbeddedStore::open(&path).unwrap().file.snapshot(),
            after,
            "{what}"
        );
    }
}

#[tokio::test]
async fn the_file_that_is_there_is_gone_by_when_a_person_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let (path, other) = (store_path(&folder), folder.path().join("other.redb"));
    let theirs = add(&EmbeddedStore::open(&other).unwrap(), "theirs", "")
        .await
        .unwrap();
    let store = EmbeddedStore::open(&path).unwrap();
    add(&store, "a", "").await.unwrap();
    fs::rename(&other, &path).unwrap();
    let accepted = store.settle(Settle::Accept).await.unwrap();
    assert_eq!(accepted.applications, theirs.applications);
    assert_eq!(accepted.generation.incarnation, theirs.generation.incarnation);
    fs::remove_file(&path).unwrap();
    let nothing = store.settle(Settle::Accept).await.unwrap();
    assert!(nothing.applications.is_empty() && !nothing.generation.incarnation.is_empty());
    // A file of another kind: another program's data is not overwritten.
    fs::remove_file(&path).unwrap();
    fs::write(&path, "a letter").unwrap();
    let refused = held_back(store.settle(Settle::Accept).await);
    assert!(refused.contains("skysail cluster restore"), "{refused}");
    assert_eq!(fs::read_to_string(&path).unwrap(), "a letter");
    held_back(add(&store, "b", "").await);
    store.settle(Settle::Restore).await.unwrap();
    let aside = store.set_aside().unwrap();
    assert_eq!(fs::read_to_string(aside).unwrap(), "a letter");
}

fn held_back<T: std::fmt::Debug>(refused: Result<T, StoreError>) -> String {
    match refused {
        Err(StoreError::HeldBack(why)) => why,
        other => panic!("{other:?}"),
    }
}

/// Cuts an open file to a part of its length, as another program would.
fn cut(path: &Path, length: impl FnOnce(u64) -> u64) {
    let file = OpenOptions::new().write(true).open(path).unwrap();
    file.set_len(length(file.metadata().unwrap().len())).unwrap();
}

#[tokio::test]
async fn a_file_that_is_cut_or_replaced_by_junk_is_set_aside_for_what_is_held() {
    let harms: [fn(&Path); 4] = [
        |path| cut(path, |_| 0),
        |path| cut(path, |length| length / 2),
        |path| {
            let junk = path.with_extension("junk");
            fs::write(&junk, "junk ".repeat(100_000)).unwrap();
            fs::rename(junk, path).unwrap();
        },
        |path| fs::write(path, "short").unwrap(),
    ];
    for (case, harm) in harms.into_iter().enumerate() {
        for writes_first in [false, true] {
            let folder = tempfile::tempdir().unwrap();
            let path = store_path(&folder);
            let store = EmbeddedStore::open(&path).unwrap();
            let held = add(&store, "a", "").await.unwrap();
            harm(&path);
            if writes_first {
                for _again in 0..3 {
                    held_back(add(&store, "b", "").await);
                    announced(&store).await;
                }
            }
            // An operator who tries `Settle::Accept` first may still restore.
            if case == 2 {
                let said = held_back(store.settle(Settle::Accept).await);
                assert!(said.contains("skysail cluster restore"), "{said}");
                announced(&store).await;
                assert!(matches!(&*store.health().borrow(), StoreHealth::WentBack(_)));
                held_back(add(&store, "b", "").await);
            }
            let restored = store.settle(Settle::Restore).await.unwrap();
            assert_eq!(restored.applications, held.applications, "case {case}");
            let aside = store.set_aside().unwrap();
            assert!(aside.exists() && aside.display().to_string().contains("store.redb.damaged-"));
            assert_eq!(*store.health().borrow(), StoreHealth::Up);
            let after = add(&store, "c", "").await.unwrap();
            drop(store);
            assert_eq!(EmbeddedStore::open(&path).unwrap().file.snapshot(), after);
        }
    }
}

#[tokio::test]
async fn what_is_no_file_has_to_be_moved_away_by_a_person() {
    let places: [fn(&Path); 2] = [
        |path| fs::create_dir(path).unwrap(),
        |path| {
            assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
        },
    ];
    for place in places {
        let folder = tempfile::tempdir().unwrap();
        let path = store_path(&folder);
        let store = EmbeddedStore::open(&path).unwrap();
        let held = add(&store, "a", "").await.unwrap();
        fs::remove_file(&path).unwrap();
        place(&path);
        for how in [Settle::Restore, Settle::Accept] {
            let said = held_back(store.settle(how).await);
            assert!(
                said.contains("move it away") && said.contains("do not stop this server"),
                "{said}"
            );
        }
        fs::rename(&path, folder.path().join("away")).unwrap();
        let restored = store.settle(Settle::Restore).await.unwrap();
        assert_eq!(restored.applications, held.applications);
    }
}

#[tokio::test]
async fn a_file_that_lost_a_document_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = store_path(&folder);
    let store = EmbeddedStore::open(&path).unwrap();
    add(&store, "a", "").await.unwrap();
    add(&store, "b", "").await.unwrap();
    drop(store);
    let database = Database::open(&path).unwrap();
    let write = database.begin_write().unwrap();
    write
        .open_table(DOCUMENTS)
        .unwrap()
        .remove("application/a")
        .unwrap();
    write.commit().unwrap();
    drop(database);
    let error = refused(&path);
    assert!(
        error.contains("not whole") && error.contains("2 documents") && error.contains("1 application"),
        "{error}"
    );
}

/// Damages a store in a few hundred ways. Each damage is refused or harmless: no panic escapes, nothing hangs,
/// and no other catalog is read.
#[tokio::test]
async fn a_damaged_file_is_refused_or_reads_as_before() {
    let folder = tempfile::tempdir().unwrap();
    let path = store_path(&folder);
    let before = {
        let store = EmbeddedStore::open(&path).unwrap();
        add(&store, "a", "first").await.unwrap();
        add(&store, "b", &"second".repeat(1000)).await.unwrap()
    };
    let good = fs::read(&path).unwrap();
    let mut random = fastrand::Rng::with_seed(7);
    let mut refusals = 0;
    for round in 0..300 {
        let mut bad = good.clone();
        match round % 3 {
            0 => bad.truncate(random.usize(1..bad.len())),
            1 => bad[random.usize(..good.len())] ^= 1 << random.u8(..8),
            _ => {
                let start = random.usize(..bad.len() - 512);
                bad[start..start + 512].fill_with(|| random.u8(..));
            }
        }
        fs::write(&path, &bad).unwrap();
        match EmbeddedStore::open(&path) {
            Ok(store) => assert_eq!(store.file.snapshot(), before, "round {round}"),
            Err(error) => {
                refusals += 1;
                assert!(
                    !matches!(error, OpenError::InUse { .. }),
                    "round {round}: {error}"
                );
            }
        }
    }
    assert!(refusals > 50, "only {refusals} of 300 damages were seen");
}

/// Environment variable of a child process that commits until it is killed: the path of its file.
const COMMITTER: &str = "SKYSAIL_TEST_COMMITTER";

/// The child prints this after each commit, followed by the number of the generation.
const ACKNOWLEDGED: &str = "acknowledged ";

#[tokio::test]
async fn what_was_acknowledged_survives_a_kill() {
    if let Ok(path) = std::env::var(COMMITTER) {
        return commit_forever(Path::new(&path)).await;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = store_path(&folder);
    let mut least = 0;
    for _ in 0..3 {
        let acknowledged = kill_after(&path, least + 10);
        let store = EmbeddedStore::open(&path).unwrap();
        let catalog = store.file.snapshot();
        assert!(
            catalog.generation.number >= acknowledged,
            "{acknowledged} commits were acknowledged, {} are there",
            catalog.generation.number
        );
        assert_eq!(catalog.applications.len() as u64, catalog.generation.number);
        least = catalog.generation.number;
    }
}

/// Runs a committer until it acknowledged `enough`, kills it, and returns its last acknowledgement.
fn kill_after(path: &Path, enough: u64) -> u64 {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "store::embedded::tests::what_was_acknowledged_survives_a_kill",
        ])
        .args(["--nocapture", "--test-threads=1"])
        .env(COMMITTER, path)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut last = 0;
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        if let Some(number) = line.unwrap().strip_prefix(ACKNOWLEDGED) {
            last = number.parse().unwrap();
            if last == enough {
                // SIGKILL. All lines that the child printed before are read.
                child.kill().unwrap();
            }
        }
    }
    child.wait().unwrap();
    assert!(last >= enough, "the committer ended after {last} commits");
    last
}

async fn commit_forever(path: &Path) {
    let store = EmbeddedStore::open(path).unwrap();
    // The harness has printed the test's name without a newline.
    println!();
    loop {
        let next = store.file.snapshot().generation.number + 1;
        let committed = add(&store, &format!("app-{next}"), "").await.unwrap();
        println!("{ACKNOWLEDGED}{}", committed.generation.number);
    }
}

/// Environment variable of a child process whose disk is full: the path of its file.
const FULL_DISK: &str = "SKYSAIL_TEST_FULL_DISK";

#[tokio::test]
async fn a_full_disk_fails_the_write_and_is_over_when_there_is_room_again() {
    if let Ok(path) = std::env::var(FULL_DISK) {
        return fill_the_disk(Path::new(&path)).await;
    }
    let folder = tempfile::tempdir().unwrap();
    // `ulimit -f` limits the size of files. Ignoring the signal turns the limit into an error.
    let status = Command::new("sh")
        .args(["-c", "trap '' XFSZ && ulimit -S -f 8192 && exec \"$0\" \"$@\""])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "--nocapture"])
        .arg("store::embedded::tests::a_full_disk_fails_the_write_and_is_over_when_there_is_room_again")
        .env(FULL_DISK, store_path(&folder))
        .status()
        .unwrap();
    assert!(status.success(), "{status}");
}

async fn fill_the_disk(path: &Path) {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let store = EmbeddedStore::open(path).unwrap();
    let before = add(&store, "small", "").await.unwrap();
    let large = "x".repeat(16 * 1024 * 1024);

    for _again in 0..3 {
        let failed = add(&store, "large", &large).await;
        assert!(matches!(failed, Err(StoreError::Refuses(_))), "{failed:?}");
        assert!(matches!(&*store.health().borrow(), StoreHealth::RefusesWrites(_)));
    }
    assert_eq!(store.file.snapshot(), before);

    let maximum = getrlimit(Resource::Fsize).maximum;
    setrlimit(
        Resource::Fsize,
        Rlimit {
            current: maximum,
            maximum,
        },
    )
    .unwrap();
    let after = add(&store, "large", &large).await.unwrap();
    assert_eq!(after.generation.number, before.generation.number + 1);
    assert_eq!(*store.health().borrow(), StoreHealth::Up);
}

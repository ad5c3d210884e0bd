//! A frontend that cannot start says why, and what to do.

use std::fs;
use std::net::TcpListener;
use std::path::Path;

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition, TableHandle};
use skysail_tests::binaries;
use skysail_tests::cases;
use skysail_tests::cluster::{Settings, TestCluster};
use skysail_tests::program::Program;

cases! {
    a_port_that_is_taken_is_named_with_the_flag_that_changes_it;
    an_address_of_another_machine_is_refused_with_the_flag;
    all_mistakes_in_the_configuration_are_listed_at_once;
    an_unknown_flag_is_refused_with_a_guess;
    a_store_file_in_use_is_refused_with_a_way_out;
    a_file_that_is_no_store_is_refused_and_left_alone;
    a_store_file_of_another_layout_is_refused_in_words_and_left_as_it_is;
    flags_win_over_the_environment_and_that_over_the_file;
    version_and_help_are_told;
}

async fn a_port_that_is_taken_is_named_with_the_flag_that_changes_it() {
    let taken = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    let addr = taken.local_addr().expect("bound").to_string();
    for flag in ["--query-addr", "--admin-addr", "--rpc-addr", "--ops-addr"] {
        let (ended, said) = Settings::default().flag(flag, &addr).fail().await;
        assert!(!ended.success(), "{said}");
        assert!(
            said.contains(&addr) && said.contains(flag) && said.contains("taken"),
            "{said}"
        );
    }
}

async fn an_address_of_another_machine_is_refused_with_the_flag() {
    // Reserved for documentation: no machine has it.
    let (ended, said) = Settings::default()
        .flag("--query-addr", "192.0.2.1:1337")
        .fail()
        .await;
    assert!(
        !ended.success() && said.contains("192.0.2.1:1337") && said.contains("--query-addr"),
        "{said}"
    );
}

async fn all_mistakes_in_the_configuration_are_listed_at_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("skysail.toml");
    fs::write(&file, "grace = \"soon\"\nno-such-option = 1\n").expect("written");
    let (ended, said) = Settings::default()
        .flag("--config", file.to_str().expect("UTF-8"))
        .flag("--store", "mysql://x")
        .flag("--query-addr", "nowhere")
        .env("SKYSAIL_WORKER_THREADS", "0")
        .env("SKYSAIL_LOG_FORMAT", "xml")
        .fail()
        .await;
    assert!(!ended.success(), "{said}");
    assert!(said.contains("6 mistakes"), "{said}");
    for mistake in [
        "mysql://x",
        "nowhere",
        "soon",
        "no-such-option",
        "worker-threads",
        "log-format",
    ] {
        assert!(said.contains(mistake), "{mistake} is not in: {said}");
    }
}

async fn an_unknown_flag_is_refused_with_a_guess() {
    let (ended, said) = Settings::default()
        .flag("--qery-addr", "127.0.0.1:0")
        .fail()
        .await;
    assert!(!ended.success() && said.contains("--query-addr"), "{said}");
}

async fn a_store_file_in_use_is_refused_with_a_way_out() {
    let cluster = TestCluster::start().await;
    let store = format!("embedded:{}", cluster.folder().join("metadata.redb").display());
    let (ended, said) = Settings::default().flag("--store", &store).fail().await;
    assert!(!ended.success(), "{said}");
    assert!(
        said.contains("metadata.redb") && said.contains("in use") && said.contains("--store"),
        "{said}"
    );
    cluster.ready().await;
}

async fn a_file_that_is_no_store_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("diary.txt");
    fs::write(&file, "dear diary").expect("written");
    let (ended, said) = Settings::default()
        .flag("--store", &format!("embedded:{}", file.display()))
        .fail()
        .await;
    assert!(!ended.success() && said.contains("diary.txt"), "{said}");
    assert_eq!(fs::read_to_string(&file).expect("still there"), "dear diary");
}

/// All that a redb file holds, of tables of texts.
fn texts(path: &Path) -> Vec<(String, String, String)> {
    let database = Database::open(path).unwrap();
    let read = database.begin_read().unwrap();
    let mut all = Vec::new();
    for table in read.list_tables().unwrap() {
        let texts: TableDefinition<&str, &str> = TableDefinition::new(table.name());
        for entry in read.open_table(texts).unwrap().iter().unwrap() {
            let (key, text) = entry.unwrap();
            let (key, text) = (key.value().to_owned(), text.value().to_owned());
            all.push((table.name().to_owned(), key, text));
        }
    }
    all
}

async fn a_store_file_of_another_layout_is_refused_in_words_and_left_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("metadata.redb");
    // As the versions before documents by kind wrote it.
    let database = Database::create(&file).unwrap();
    let written = database.begin_write().unwrap();
    for (table, key, text) in [
        ("about", "schema", "2"),
        ("about", "query-block", "7"),
        ("applications", "iris", r#"{"name": "iris"}"#),
        ("models", "m", r#"{"name": "m"}"#),
    ] {
        let texts: TableDefinition<&str, &str> = TableDefinition::new(table);
        written.open_table(texts).unwrap().insert(key, text).unwrap();
    }
    written.commit().unwrap();
    drop(database);
    let before = texts(&file);
    let store = format!("embedded:{}", file.display());
    let (ended, said) = Settings::default().flag("--store", &store).fail().await;
    assert!(!ended.success(), "{said}");
    for part in [
        "metadata.redb",
        "it has layout 2",
        "this version reads layout 3",
        "an empty store",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert_eq!(texts(&file), before);
}

async fn flags_win_over_the_environment_and_that_over_the_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("skysail.toml");
    fs::write(
        &file,
        "cluster = \"from-file\"\nlog_format = \"json\"\nlog_level = \"error\"\n",
    )
    .expect("written");
    let cluster = Settings::default()
        .cluster("from-flag")
        .flag("--config", file.to_str().expect("UTF-8"))
        .env("SKYSAIL_CLUSTER", "from-environment")
        .env("SKYSAIL_LOG_FORMAT", "text")
        .env("SKYSAIL_LOG_LEVEL", "info")
        .start()
        .await;
    let status = cluster.admin().get("/api/v1/status").await.expect(200);
    assert_eq!(status["cluster"], "from-flag");
    // That it listens at all was read from lines of text at level info.
    assert!(cluster.log().says("query REST listening"));
}

async fn version_and_help_are_told() {
    for (flag, words) in [
        ("--version", env!("CARGO_PKG_VERSION")),
        ("--help", "--rpc-advertise"),
    ] {
        let mut command = std::process::Command::new(binaries::path("skysail-frontend"));
        command.arg(flag);
        let mut frontend = Program::start("the frontend", command);
        assert!(frontend.end().await.success());
        let said = frontend.whole_log().await.join("\n");
        assert!(said.contains(words), "{said}");
    }
}

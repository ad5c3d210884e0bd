//! The embedded store: one redb file, for one frontend.
//!
//! Readers never touch the file: every snapshot is in memory, in the watch. Writers do, one at a time, on
//! tokio's threads for blocking work, and a write is on the disk before it is acknowledged. The file is
//! small (a document per application and per model), so it is read and checked whole when it is opened.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use parking_lot::Mutex;
use redb::backends::FileBackend;
use redb::{
    Database, DatabaseError, ReadableDatabase, ReadableTable, StorageError, TableDefinition, TableError,
    TableHandle,
};
use skysail_core::catalog::{Catalog, Change, Generation};
use skysail_core::cluster::Lease;
use tokio::sync::watch;
use tracing::{error, info};

use super::document::{self, Documents, Edit, Kind, SCHEMA};
use super::local::Local;
use super::{Announced, Leased, MetadataStore, Settle, StoreError, StoreHealth};

/// What is known of the file itself, by the keys below.
const ABOUT: TableDefinition<&str, &str> = TableDefinition::new("about");
/// Applications: name → JSON.
const APPLICATIONS: TableDefinition<&str, &str> = TableDefinition::new("applications");
/// Models with their versions: name → JSON.
const MODELS: TableDefinition<&str, &str> = TableDefinition::new("models");
/// The settings of the cluster: one document of JSON.
const SETTINGS: TableDefinition<&str, &str> = TableDefinition::new("settings");

/// In [`ABOUT`]: which way of writing documents down the file uses, a number.
const SCHEMA_KEY: &str = "schema";
/// In [`ABOUT`]: a [`Generation`] as JSON, once something was committed.
const GENERATION_KEY: &str = "generation";
/// In [`ABOUT`]: the last query block that was handed out, a number.
const QUERY_BLOCK_KEY: &str = "query-block";

/// redb's page cache, in bytes. The catalog is read once and then kept in memory as a snapshot, so the
/// cache serves writes only; redb's own default is 1 GiB.
const CACHE_BYTES: usize = 1024 * 1024;

/// Why a store file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process (or another store of this one) has it.
    #[error(
        "the store file {} is in use by another process: stop that one, give this one a file of its own \
         (--store embedded:PATH), or let both share a Redis (--store redis://HOST:PORT/DB)",
        .path.display()
    )]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// It is not a store file, or was never one of Skysail's.
    #[error(
        "{} is a file, but not a Skysail store: give another path (--store embedded:PATH)",
        .path.display()
    )]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// It was a store, and its content no longer makes sense.
    #[error(
        "the store file {} is damaged: {reason}; restore it from a backup, or move it away to start empty",
        .path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What does not make sense.
        reason: String,
    },
    /// A version that writes stores in another way wrote it.
    #[error("the store file {} cannot be opened: {reason}", .path.display())]
    OtherSchema {
        /// The file.
        path: PathBuf,
        /// Which schema it has, and what to do.
        reason: String,
    },
    /// The operating system refused.
    #[error("the store file {} cannot be opened", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
}

/// A store in one file. Clones are handles on the same one.
#[derive(Clone)]
pub struct EmbeddedStore {
    file: Arc<StoreFile>,
}

/// The file, and what its readers see of it.
struct StoreFile {
    path: PathBuf,
    /// Held by one writer at a time, never across an await. `None` after the disk failed: redb refuses
    /// everything from then on, so the next writer opens the file anew.
    database: Mutex<Option<Database>>,
    catalog: watch::Sender<Option<Arc<Catalog>>>,
    health: watch::Sender<StoreHealth>,
    /// What one process tells itself.
    local: Local,
}

impl EmbeddedStore {
    /// Opens a store file, or creates it together with the folders it is in.
    ///
    /// It blocks for some milliseconds. The snapshot is there when it returns.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, OpenError> {
        let path = path.as_ref().to_path_buf();
        let (database, catalog) = open_file(&path)?;
        info!(path = %path.display(), generation = catalog.generation.number, "store file opened");
        let file = StoreFile {
            path,
            database: Mutex::new(Some(database)),
            catalog: watch::Sender::new(Some(Arc::new(catalog))),
            health: watch::Sender::new(StoreHealth::Up),
            local: Local::default(),
        };
        Ok(Self { file: Arc::new(file) })
    }

    /// Runs blocking work on the file, to its end also if nobody waits for it any more.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&StoreFile) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let file = Arc::clone(&self.file);
        match tokio::task::spawn_blocking(move || work(&file)).await {
            Ok(result) => result,
            Err(failed) => Err(StoreError::Unavailable(format!("the store's work {failed}"))),
        }
    }
}

#[async_trait]
impl MetadataStore for EmbeddedStore {
    async fn commit_under(
        &self,
        _lease: Option<&Lease>,
        changes: Vec<Change>,
        expected: &Generation,
    ) -> Result<Arc<Catalog>, StoreError> {
        // One process has the file, and with it the lease.
        let expected = expected.clone();
        self.blocking(move |file| file.commit(&changes, expected)).await
    }

    fn watch(&self) -> watch::Receiver<Option<Arc<Catalog>>> {
        self.file.catalog.subscribe()
    }

    fn health(&self) -> watch::Receiver<StoreHealth> {
        self.file.health.subscribe()
    }

    async fn next_query_block(&self) -> Result<u64, StoreError> {
        self.blocking(StoreFile::next_query_block).await
    }

    async fn announce(&self, id: &str, document: String, _ttl: Duration) -> Result<(), StoreError> {
        self.file.local.announce(id, document);
        Ok(())
    }

    async fn withdraw(&self, id: &str) -> Result<(), StoreError> {
        self.file.local.withdraw(id);
        Ok(())
    }

    fn announced(&self) -> watch::Receiver<Announced> {
        self.file.local.announced()
    }

    async fn take_lease(&self, holder: &str, _ttl: Duration) -> Result<Leased, StoreError> {
        Ok(Local::take_lease(holder))
    }

    async fn release_lease(&self, _lease: &Lease) -> Result<(), StoreError> {
        Ok(())
    }

    async fn settle(&self, how: Settle) -> Result<Arc<Catalog>, StoreError> {
        // Only a file that was never written can be meant: one that lost something is refused when it is
        // opened, and nobody else holds what it lost.
        match how {
            Settle::Accept if self.file.snapshot().generation == Generation::default() => {
                self.commit(Vec::new(), &Generation::default()).await
            }
            _ => Err(StoreError::NothingToSettle),
        }
    }
}

impl StoreFile {
    fn commit(&self, changes: &[Change], expected: Generation) -> Result<Arc<Catalog>, StoreError> {
        self.with_database(|database| {
            let current = self.snapshot();
            let actual = current.generation.clone();
            if actual != expected {
                return Ok(Err(StoreError::Conflict { expected, actual }));
            }
            let generation = document::generation_after(&actual);
            write_changes(database, changes, &generation)?;
            // Published by the writer and not by its caller: a caller that gave up must not leave a
            // snapshot behind that is older than the file.
            let next = Arc::new(current.with(changes, generation));
            self.catalog.send_replace(Some(Arc::clone(&next)));
            Ok(Ok(next))
        })?
    }

    fn next_query_block(&self) -> Result<u64, StoreError> {
        self.with_database(take_query_block)
    }

    fn snapshot(&self) -> Arc<Catalog> {
        let snapshot = self.catalog.borrow().clone();
        snapshot.expect("an open store has a snapshot; this is a bug")
    }

    /// Does one write, on a file opened anew if the disk failed before.
    fn with_database<T>(
        &self,
        work: impl FnOnce(&Database) -> Result<T, redb::Error>,
    ) -> Result<T, StoreError> {
        let mut slot = self.database.lock();
        let database = match slot.take() {
            Some(database) => database,
            None => self.reopen()?,
        };
        match work(&database) {
            Ok(done) => {
                *slot = Some(database);
                Ok(done)
            }
            Err(failed) => {
                let reason = format!("writing {} failed: {failed}", self.path.display());
                error!(reason, "store file lost; the next write opens it again");
                self.health.send_replace(StoreHealth::Down(reason.clone()));
                Err(StoreError::Unavailable(reason))
            }
        }
    }

    /// Opens the file again. What a failed write left there is the truth now: all of it, or nothing.
    fn reopen(&self) -> Result<Database, StoreError> {
        let (database, catalog) = open_file(&self.path).map_err(|error| {
            let reason = with_cause(&error);
            self.health.send_replace(StoreHealth::Down(reason.clone()));
            match error {
                OpenError::InUse { .. } | OpenError::Io { .. } => StoreError::Unavailable(reason),
                _ => StoreError::Corrupt(reason),
            }
        })?;
        if catalog.generation != self.snapshot().generation {
            self.catalog.send_replace(Some(Arc::new(catalog)));
        }
        info!(path = %self.path.display(), "store file opened again");
        self.health.send_replace(StoreHealth::Up);
        Ok(database)
    }
}

fn with_cause(error: &OpenError) -> String {
    match error {
        OpenError::Io { source, .. } => format!("{error}: {source}"),
        other => other.to_string(),
    }
}

fn open_file(path: &Path) -> Result<(Database, Catalog), OpenError> {
    let io_error = |source| OpenError::Io {
        path: path.to_path_buf(),
        source,
    };
    let folder = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    fs::create_dir_all(folder).map_err(io_error)?;
    let is_new = !path.exists();
    // Readable by its owner only: the environment of a deployment may carry secrets.
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map_err(io_error)?;
    let opened = open_database(file).map_err(|error| refusal(path, error))?;
    if is_new {
        // The file's own content is synced by redb; that it exists is in its folder.
        File::open(folder)
            .and_then(|folder| folder.sync_all())
            .map_err(io_error)?;
    }
    Ok(opened)
}

/// Why [`open_database`] gave up.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error("it holds none of our tables")]
    Foreign,
    #[error("{0}")]
    OtherSchema(String),
    #[error("{0}")]
    Unreadable(String),
    #[error(transparent)]
    Redb(#[from] redb::Error),
}

macro_rules! refused_from {
    ($($error:ty),*) => {
        $(impl From<$error> for Refused {
            fn from(error: $error) -> Self {
                Self::Redb(error.into())
            }
        })*
    };
}

refused_from!(
    DatabaseError,
    StorageError,
    TableError,
    redb::CommitError,
    redb::TransactionError
);

fn open_database(file: File) -> Result<(Database, Catalog), Refused> {
    // The check reads the whole file, which takes a millisecond or two; without it redb may panic on a file
    // that was damaged from outside.
    let database = Database::builder()
        .set_cache_size(CACHE_BYTES)
        .set_check_integrity_on_open(true)
        .create_with_backend(FileBackend::new(file)?)?;
    prepare(&database)?;
    let catalog = read_catalog(&database)?;
    Ok((database, catalog))
}

fn refusal(path: &Path, refused: Refused) -> OpenError {
    let path = path.to_path_buf();
    match refused {
        Refused::Foreign => OpenError::Foreign { path },
        Refused::OtherSchema(reason) => OpenError::OtherSchema { path, reason },
        Refused::Unreadable(reason) => OpenError::Damaged { path, reason },
        Refused::Redb(redb::Error::DatabaseAlreadyOpen) => OpenError::InUse { path },
        // redb's way to say that the file does not begin as its files do.
        Refused::Redb(redb::Error::Io(source)) if source.kind() == io::ErrorKind::InvalidData => {
            OpenError::Foreign { path }
        }
        Refused::Redb(redb::Error::Io(source)) if source.kind() == io::ErrorKind::UnexpectedEof => {
            OpenError::Damaged {
                path,
                reason: "its end is missing".into(),
            }
        }
        Refused::Redb(redb::Error::Io(source)) => OpenError::Io { path, source },
        Refused::Redb(other) => OpenError::Damaged {
            path,
            reason: other.to_string(),
        },
    }
}

/// Checks that the file is ours and of a schema we know; makes an empty one ours.
fn prepare(database: &Database) -> Result<(), Refused> {
    let transaction = database.begin_read()?;
    let mut tables = transaction.list_tables()?.peekable();
    if tables.peek().is_none() {
        return write_schema(database);
    }
    if !tables.any(|table| table.name() == ABOUT.name()) {
        return Err(Refused::Foreign);
    }
    let about = transaction.open_table(ABOUT).map_err(foreign_table)?;
    match read_text(&about, SCHEMA_KEY)? {
        None => Err(Refused::Foreign),
        Some(found) => document::check_schema(&found).map_err(Refused::OtherSchema),
    }
}

/// A table of our name and another type was written by another program.
fn foreign_table(error: TableError) -> Refused {
    match error {
        TableError::TableTypeMismatch { .. }
        | TableError::TypeDefinitionChanged { .. }
        | TableError::TableIsMultimap(_) => Refused::Foreign,
        other => other.into(),
    }
}

fn write_schema(database: &Database) -> Result<(), Refused> {
    let transaction = database.begin_write()?;
    transaction
        .open_table(ABOUT)?
        .insert(SCHEMA_KEY, SCHEMA.to_string().as_str())?;
    transaction.open_table(APPLICATIONS)?;
    transaction.open_table(MODELS)?;
    transaction.open_table(SETTINGS)?;
    transaction.commit()?;
    Ok(())
}

fn read_catalog(database: &Database) -> Result<Catalog, Refused> {
    let transaction = database.begin_read()?;
    let about = transaction.open_table(ABOUT)?;
    let generation = match read_text(&about, GENERATION_KEY)? {
        None => Generation::default(),
        Some(written) => serde_json::from_str(&written)
            .map_err(|error| Refused::Unreadable(format!("its generation: {error}")))?,
    };
    let documents = Documents {
        applications: read_documents(&transaction.open_table(APPLICATIONS)?)?,
        models: read_documents(&transaction.open_table(MODELS)?)?,
        settings: read_documents(&transaction.open_table(SETTINGS)?)?,
    };
    documents.catalog(generation).map_err(Refused::Unreadable)
}

fn read_text(
    table: &impl ReadableTable<&'static str, &'static str>,
    key: &str,
) -> Result<Option<String>, StorageError> {
    Ok(table.get(key)?.map(|text| text.value().to_owned()))
}

fn read_documents(
    table: &impl ReadableTable<&'static str, &'static str>,
) -> Result<Vec<(String, Vec<u8>)>, StorageError> {
    table
        .iter()?
        .map(|entry| {
            let (name, json) = entry?;
            Ok((name.value().to_owned(), json.value().into()))
        })
        .collect()
}

/// One transaction, on the disk when this returns (redb's default durability, `Immediate`).
fn write_changes(
    database: &Database,
    changes: &[Change],
    generation: &Generation,
) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    {
        let mut applications = transaction.open_table(APPLICATIONS)?;
        let mut models = transaction.open_table(MODELS)?;
        let mut settings = transaction.open_table(SETTINGS)?;
        for Edit { kind, name, document } in changes.iter().map(Edit::from) {
            let table = match kind {
                Kind::Application => &mut applications,
                Kind::Model => &mut models,
                Kind::Settings => &mut settings,
            };
            match document {
                Some(json) => drop(table.insert(name, json.as_str())?),
                None => drop(table.remove(name)?),
            }
        }
        let generation =
            serde_json::to_string(generation).expect("a generation is text and a number; this is a bug");
        transaction
            .open_table(ABOUT)?
            .insert(GENERATION_KEY, generation.as_str())?;
    }
    transaction.commit()?;
    Ok(())
}

fn take_query_block(database: &Database) -> Result<u64, redb::Error> {
    let transaction = database.begin_write()?;
    let block = {
        let mut about = transaction.open_table(ABOUT)?;
        let last = read_text(&about, QUERY_BLOCK_KEY)?.and_then(|last| last.parse::<u64>().ok());
        let block = last.map_or_else(|| document::first_query_block(Timestamp::now()), |last| last + 1);
        about.insert(QUERY_BLOCK_KEY, block.to_string().as_str())?;
        block
    };
    transaction.commit()?;
    Ok(block)
}

#[cfg(test)]
mod tests;

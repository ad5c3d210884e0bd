//! The embedded store: one redb file, for one frontend.
//!
//! Readers never touch the file: every snapshot is in memory, in the watch channel. Writers take turns on
//! tokio's threads for blocking work. A write is on the disk before it is acknowledged. The file is small (a
//! document per application and per model), so it is read and checked whole when it is opened.
//!
//! A removed file stays open, but later writes to it are lost with the process. So the store checks that the
//! path still names the open file: before and after each write, and at each announcement (every second). While
//! it does not, nothing is written until the file is back or an operator decides.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use parking_lot::Mutex;
use redb::Database;
use skysail_core::catalog::{Catalog, Change, Generation};
use skysail_core::cluster::Lease;
use skysail_core::store::{Inventory, generation_after, remembered_lives};
use tokio::sync::watch;
use tracing::{error, info, warn};

use self::tables::{Before, Refused, Write, open_database, take_query_block};
use super::incarnation::fresh_incarnation;
use super::local::Local;
use super::{
    Announced, AnnouncementStore, CatalogStore, LeaseStore, Leased, QueryBlockStore, Settle, StoreError,
    StoreHealth,
};

mod tables;

/// Why a store file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process, or another store of this process, holds the file's lock.
    #[error(
        "the store file {} is in use by another process: stop that one, give this one a file of its own \
         (--store embedded:PATH), or let both share a Redis (--store redis://HOST:PORT/DB)",
        .path.display()
    )]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// The file is not a store file, or another program's.
    #[error(
        "{} is a file, but not a Skysail store: give another path (--store embedded:PATH)",
        .path.display()
    )]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// The file was a store, and its content is inconsistent.
    #[error(
        "the store file {} is damaged: {reason}; restore it from a backup, or move it away to start empty",
        .path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is inconsistent.
        reason: String,
    },
    /// A version with another format of stores wrote the file.
    #[error("the store file {} cannot be opened: {reason}", .path.display())]
    OtherVersion {
        /// The file.
        path: PathBuf,
        /// What this version cannot read, and what to do.
        reason: String,
    },
    /// The operating system refused.
    #[error("the store file {} cannot be opened", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The operating system's error.
        source: io::Error,
    },
}

/// A store in one file. Clones share the file.
#[derive(Clone)]
pub struct EmbeddedStore {
    file: Arc<StoreFile>,
}

/// The file, and its readers' snapshot.
struct StoreFile {
    path: PathBuf,
    /// One writer at a time holds it, never across an await.
    open: Mutex<OpenFile>,
    catalog: watch::Sender<Option<Arc<Catalog>>>,
    health: watch::Sender<StoreHealth>,
    /// The file that the last settlement set aside.
    set_aside: Mutex<Option<PathBuf>>,
    /// Announcements and the lease of this process.
    local: Local,
}

/// A writer's state.
struct OpenFile {
    /// `None` after the disk failed: redb then refuses all further work, so the next writer opens the file
    /// anew.
    database: Option<Database>,
    /// The device, inode and length of the open file.
    identity: Identity,
    /// Why the content is no longer as it was written, although the file is there.
    unreadable: Option<String>,
    /// The hashes of the snapshot's documents.
    inventory: Inventory,
}

/// Tells the open file from another file at the same path.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Identity {
    device: u64,
    inode: u64,
    /// The length in bytes after the last write.
    length: u64,
}

/// An opened file, and its content.
struct Opened {
    file: OpenFile,
    catalog: Catalog,
}

/// Whether to create a missing file.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Missing {
    Create,
    Refuse,
}

impl EmbeddedStore {
    /// Opens a store file, or creates it and its folders.
    ///
    /// Blocks for some milliseconds. The snapshot is there when this returns.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, OpenError> {
        let path = path.as_ref().to_path_buf();
        let Opened { file, catalog } = open_file(&path, Missing::Create)?;
        info!(path = %path.display(), generation = catalog.generation.number, "store file opened");
        let file = StoreFile {
            path,
            open: Mutex::new(file),
            catalog: watch::Sender::new(Some(Arc::new(catalog))),
            health: watch::Sender::new(StoreHealth::Up),
            set_aside: Mutex::default(),
            local: Local::default(),
        };
        Ok(Self { file: Arc::new(file) })
    }

    /// Runs blocking work on the file. The work runs to its end even if the caller gave up.
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
impl CatalogStore for EmbeddedStore {
    async fn commit_under(
        &self,
        _lease: Option<&Lease>,
        changes: Vec<Change>,
        expected: &Generation,
    ) -> Result<Arc<Catalog>, StoreError> {
        // One process has the file, and with it the lease: no need to check `lease`.
        let expected = expected.clone();
        self.blocking(move |file| file.commit(&changes, expected)).await
    }

    fn watch(&self) -> watch::Receiver<Option<Arc<Catalog>>> {
        self.file.catalog.subscribe()
    }

    fn health(&self) -> watch::Receiver<StoreHealth> {
        self.file.health.subscribe()
    }

    async fn settle(&self, how: Settle) -> Result<Arc<Catalog>, StoreError> {
        // A file that lost a part is refused when it is opened, and no other frontend holds that part. So there
        // is something to settle only if the file was displaced or never written.
        if let Some(settled) = self.blocking(move |file| file.settle(how)).await? {
            return Ok(settled);
        }
        match how {
            Settle::Accept if self.file.snapshot().generation == Generation::default() => {
                self.commit(Vec::new(), &Generation::default()).await
            }
            _ => Err(StoreError::NothingToSettle),
        }
    }

    fn set_aside(&self) -> Option<PathBuf> {
        self.file.set_aside.lock().clone()
    }

    async fn adopt(&self, incarnations: BTreeSet<String>) -> Result<Arc<Catalog>, StoreError> {
        self.blocking(move |file| file.adopt(incarnations)).await
    }
}

#[async_trait]
impl AnnouncementStore for EmbeddedStore {
    async fn announce(&self, id: &str, document: String, _ttl: Duration) -> Result<(), StoreError> {
        self.file.local.announce(id, document);
        self.blocking(|file| {
            // The health tells what is wrong; the announcement itself needs no file.
            file.look(&file.open.lock());
            Ok(())
        })
        .await
    }

    async fn withdraw(&self, id: &str) -> Result<(), StoreError> {
        self.file.local.withdraw(id);
        Ok(())
    }

    fn announced(&self) -> watch::Receiver<Announced> {
        self.file.local.announced()
    }
}

#[async_trait]
impl LeaseStore for EmbeddedStore {
    async fn take_lease(&self, holder: &str, _ttl: Duration) -> Result<Leased, StoreError> {
        Ok(Local::take_lease(holder))
    }

    async fn release_lease(&self, _lease: &Lease) -> Result<(), StoreError> {
        Ok(())
    }
}

#[async_trait]
impl QueryBlockStore for EmbeddedStore {
    async fn next_query_block(&self) -> Result<u64, StoreError> {
        self.blocking(StoreFile::next_query_block).await
    }
}

impl StoreFile {
    fn commit(&self, changes: &[Change], expected: Generation) -> Result<Arc<Catalog>, StoreError> {
        let mut open = self.open.lock();
        self.ready(&mut open)?;
        let current = self.snapshot();
        let actual = current.generation.clone();
        if actual != expected {
            return Err(StoreError::Conflict { expected, actual });
        }
        let mut inventory = open.inventory.clone();
        changes.iter().for_each(|change| inventory.apply(change));
        let write = Write {
            before: Before::Kept,
            changes,
            generation: generation_after(&actual, fresh_incarnation()),
            replaces: &current.replaces,
            proof: inventory.proof(),
        };
        self.with_database(&mut open, |database| write.done_to(database))?;
        open.inventory = inventory;
        // The writer publishes, not its caller: a caller that gave up must not leave a snapshot that is older
        // than the file.
        Ok(self.publish(current.with(changes, write.generation)))
    }

    fn adopt(&self, incarnations: BTreeSet<String>) -> Result<Arc<Catalog>, StoreError> {
        let mut open = self.open.lock();
        self.ready(&mut open)?;
        let current = self.snapshot();
        let replaces = remembered_lives(incarnations.into_iter().chain(current.replaces.clone()));
        let write = Write {
            before: Before::Kept,
            changes: &[],
            generation: generation_after(&current.generation, fresh_incarnation()),
            replaces: &replaces,
            proof: open.inventory.proof(),
        };
        self.with_database(&mut open, |database| write.done_to(database))?;
        let next = current.with(&[], write.generation);
        Ok(self.publish(Catalog { replaces, ..next }))
    }

    fn next_query_block(&self) -> Result<u64, StoreError> {
        let mut open = self.open.lock();
        self.ready(&mut open)?;
        self.with_database(&mut open, take_query_block)
    }

    fn publish(&self, catalog: Catalog) -> Arc<Catalog> {
        let next = Arc::new(catalog);
        self.catalog.send_replace(Some(Arc::clone(&next)));
        next
    }

    fn snapshot(&self) -> Arc<Catalog> {
        let snapshot = self.catalog.borrow().clone();
        snapshot.expect("an open store has a snapshot; this is a bug")
    }

    /// Checks that the path still names the open file. Updates the health when that changes, and returns the
    /// problem.
    fn look(&self, open: &OpenFile) -> Option<String> {
        let unreadable = || {
            let why = open.unreadable.as_ref()?;
            Some(format!("is not as it was written ({why})"))
        };
        let displaced = open.identity.displaced(&self.path).or_else(unreadable);
        let displaced = displaced.map(|what| {
            format!(
                "the metadata store lost its file: {} {what} while the server runs; queries go on from memory and \
                 nothing is written until the file is back, `skysail cluster restore` writes what is held to a new \
                 file there (one that cannot be read is set aside), or `skysail cluster accept-empty` goes by the \
                 file that is there; do not stop this server before, it alone holds what was stored",
                self.path.display()
            )
        });
        self.health.send_if_modified(|health| {
            let next = match (&displaced, &*health) {
                (Some(sentence), _) => StoreHealth::WentBack(sentence.clone()),
                (None, StoreHealth::WentBack(_)) => StoreHealth::Up,
                (None, other) => other.clone(),
            };
            let changed = *health != next;
            if changed && let Some(reason) = &displaced {
                error!(reason, "store file lost");
            } else if changed {
                info!(path = %self.path.display(), "store file found again");
            }
            *health = next;
            changed
        });
        displaced
    }

    /// Makes sure that there is an open file to write to.
    fn ready(&self, open: &mut OpenFile) -> Result<(), StoreError> {
        // An unreadable file may have been repaired.
        let may_be_right = open.unreadable.is_some() && open.identity.displaced(&self.path).is_none();
        if !may_be_right && let Some(displaced) = self.look(open) {
            return Err(StoreError::HeldBack(displaced));
        }
        if open.database.is_none() {
            self.reopen(open)?;
        }
        Ok(())
    }

    /// Does one write, and checks afterwards that the file is still at its path.
    fn with_database<T>(
        &self,
        open: &mut OpenFile,
        work: impl FnOnce(&Database) -> Result<T, redb::Error>,
    ) -> Result<T, StoreError> {
        let database = open.database.take().expect("it was made ready; this is a bug");
        match work(&database) {
            Ok(done) => {
                if let Ok(written) = Identity::of(&self.path)
                    && written.is_same_file(&open.identity)
                {
                    open.identity = written;
                }
                // The file may have been removed meanwhile. If it comes back, it contains this write.
                if let Some(displaced) = self.look(open) {
                    return Err(StoreError::HeldBack(displaced));
                }
                open.database = Some(database);
                Ok(done)
            }
            Err(failed) => {
                let reason = format!("writing {} failed: {failed}", self.path.display());
                error!(reason, "store file not written; the next write opens it again");
                self.health
                    .send_replace(StoreHealth::RefusesWrites(reason.clone()));
                Err(StoreError::Refuses(reason))
            }
        }
    }

    /// Opens the file again. A failed write left either all of its changes there or none; the file is right.
    fn reopen(&self, open: &mut OpenFile) -> Result<(), StoreError> {
        let held = self.snapshot();
        let opened = match self.opened(Missing::Refuse) {
            Ok(opened) if open.unreadable.is_some() && opened.catalog.generation != held.generation => {
                let number = opened.catalog.generation.number;
                return Err(self.lose(open, format!("it is at generation {number} now")));
            }
            Ok(opened) => opened,
            Err(StoreError::Corrupt(reason)) => return Err(self.lose(open, reason)),
            Err(failed) => return Err(failed),
        };
        *open = opened.file;
        if opened.catalog.generation != held.generation {
            self.publish(opened.catalog);
        }
        info!(path = %self.path.display(), "store file opened again");
        self.health.send_replace(StoreHealth::Up);
        Ok(())
    }

    fn opened(&self, missing: Missing) -> Result<Opened, StoreError> {
        open_file(&self.path, missing).map_err(|error| {
            let reason = with_cause(&error);
            if error.is_of_the_disk() {
                self.health
                    .send_replace(StoreHealth::RefusesWrites(reason.clone()));
                return StoreError::Refuses(reason);
            }
            self.health.send_replace(StoreHealth::Down(reason.clone()));
            match error {
                OpenError::InUse { .. } | OpenError::Io { .. } => StoreError::Unavailable(reason),
                _ => StoreError::Corrupt(reason),
            }
        })
    }

    /// Settles a file that is no longer the one that was opened; `None` if it still is.
    fn settle(&self, how: Settle) -> Result<Option<Arc<Catalog>>, StoreError> {
        let mut open = self.open.lock();
        if self.look(&open).is_none() {
            return Ok(None);
        }
        *self.set_aside.lock() = None;
        let Opened { file, catalog } = self.opened_to_settle(&mut open, how)?;
        *open = file;
        let held = self.snapshot();
        let (before, base, changes, mut inventory) = match how {
            Settle::Restore => (
                Before::Dropped,
                held.clone(),
                held.documents().map(Change::Put).collect(),
                Inventory::default(),
            ),
            Settle::Accept => (
                Before::Kept,
                Arc::new(catalog.clone()),
                Vec::new(),
                open.inventory.clone(),
            ),
        };
        changes.iter().for_each(|change| inventory.apply(change));
        // Greater than both numbers, so that every comparison of generations shows a change.
        let newest = Generation {
            number: base.generation.number.max(catalog.generation.number),
            ..base.generation.clone()
        };
        let generation = generation_after(&newest, fresh_incarnation());
        // The running containers were started for the held snapshot's lives.
        let lives = [&held.generation.incarnation].into_iter().chain(&held.replaces);
        let lives = lives
            .chain(&catalog.replaces)
            .filter(|life| **life != generation.incarnation);
        let replaces = remembered_lives(lives.cloned());
        let write = Write {
            before,
            changes: &changes,
            generation,
            replaces: &replaces,
            proof: inventory.proof(),
        };
        self.with_database(&mut open, |database| write.done_to(database))?;
        open.inventory = inventory;
        self.health.send_replace(StoreHealth::Up);
        info!(?how, path = %self.path.display(), "the metadata store was settled");
        let next = base.with(&[], write.generation);
        Ok(Some(self.publish(Catalog { replaces, ..next })))
    }
}

impl StoreFile {
    /// Marks the file as unreadable: it is there, but its content is not what was written.
    fn lose(&self, open: &mut OpenFile, reason: String) -> StoreError {
        open.unreadable = Some(reason.clone());
        StoreError::HeldBack(self.look(open).unwrap_or(reason))
    }

    /// Opens the file at the path, or a new one. `Settle::Restore` sets an unreadable file aside.
    fn opened_to_settle(&self, open: &mut OpenFile, how: Settle) -> Result<Opened, StoreError> {
        if let Ok(found) = fs::metadata(&self.path)
            && !found.is_file()
        {
            return Err(StoreError::HeldBack(self.not_a_file(&found)));
        }
        if let Ok(found) = Identity::of(&self.path)
            && found.is_same_file(&open.identity)
        {
            // The open file was cut short. An empty file holds nothing to keep.
            if how == Settle::Restore || found.length == 0 {
                self.move_aside()?;
            } else {
                // redb writes to the file when it closes it, and holds its lock until then.
                open.database = None;
            }
        }
        let opened = match open_file(&self.path, Missing::Create) {
            Err(error) if how == Settle::Restore && error.is_of_the_content() => {
                self.move_aside()?;
                open_file(&self.path, Missing::Create)
            }
            opened => opened,
        };
        opened.map_err(|error| {
            let reason = with_cause(&error);
            if !error.is_of_the_content() {
                return StoreError::Unavailable(reason);
            }
            open.unreadable = Some(reason.clone());
            StoreError::HeldBack(format!(
                "it cannot be gone by what is there ({reason}): `skysail cluster restore` sets it aside and writes what \
                 is held to a new file; do not stop this server before, it alone holds what was stored"
            ))
        })
    }

    fn not_a_file(&self, found: &fs::Metadata) -> String {
        let kind = if found.is_dir() {
            "a folder"
        } else {
            "no regular file"
        };
        format!(
            "{} is {kind}: move it away, then say `skysail cluster restore` again; do not stop this server before, it \
             alone holds what was stored",
            self.path.display()
        )
    }

    /// Renames the file at the path, so that it can be examined later.
    fn move_aside(&self) -> Result<(), StoreError> {
        let since = Timestamp::now().as_millisecond();
        let mut aside = self.path.clone().into_os_string();
        aside.push(format!(".damaged-{since}"));
        let aside = PathBuf::from(aside);
        fs::rename(&self.path, &aside).map_err(|error| {
            StoreError::HeldBack(format!(
                "{} could not be set aside ({error}): move it away, then say `skysail cluster restore` again; do not \
                 stop this server before, it alone holds what was stored",
                self.path.display()
            ))
        })?;
        warn!(path = %self.path.display(), aside = %aside.display(), "store file set aside");
        *self.set_aside.lock() = Some(aside);
        Ok(())
    }
}

impl OpenError {
    /// Whether the disk refuses writes to a readable file: redb writes when it opens one.
    fn is_of_the_disk(&self) -> bool {
        use io::ErrorKind::{FileTooLarge, QuotaExceeded, ReadOnlyFilesystem, StorageFull};
        matches!(
            self,
            Self::Io { source, .. }
                if matches!(source.kind(), StorageFull | QuotaExceeded | ReadOnlyFilesystem | FileTooLarge)
        )
    }

    /// Whether the file's content is the reason.
    fn is_of_the_content(&self) -> bool {
        matches!(
            self,
            Self::Foreign { .. } | Self::Damaged { .. } | Self::OtherVersion { .. }
        )
    }
}

impl Identity {
    fn of(path: &Path) -> io::Result<Self> {
        let found = fs::metadata(path)?;
        Ok(Self {
            device: found.dev(),
            inode: found.ino(),
            length: found.len(),
        })
    }

    fn is_same_file(&self, other: &Self) -> bool {
        (self.device, self.inode) == (other.device, other.inode)
    }

    /// What happened to this file at `path`, if it is no longer there unchanged.
    fn displaced(&self, path: &Path) -> Option<String> {
        let found = match Self::of(path) {
            Ok(found) => found,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Some("was removed".into()),
            Err(error) => return Some(format!("cannot be looked at ({error})")),
        };
        if !found.is_same_file(self) {
            let is_file = fs::metadata(path).is_ok_and(|found| found.is_file());
            let by = if is_file {
                "another file"
            } else {
                "something that is no file, which has to be moved away,"
            };
            return Some(format!("was replaced by {by}"));
        }
        (found.length < self.length).then(|| "was cut short by another program".into())
    }
}

fn with_cause(error: &OpenError) -> String {
    match error {
        OpenError::Io { source, .. } => format!("{error}: {source}"),
        other => other.to_string(),
    }
}

fn open_file(path: &Path, missing: Missing) -> Result<Opened, OpenError> {
    let io_error = |source| OpenError::Io {
        path: path.to_path_buf(),
        source,
    };
    let folder = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    if missing == Missing::Create {
        fs::create_dir_all(folder).map_err(io_error)?;
    }
    let is_new = !path.exists();
    if !is_new && fs::metadata(path).is_ok_and(|found| found.is_file() && found.len() == 0) {
        warn!(
            path = %path.display(),
            "the store file is empty (0 bytes) and begins anew: if it had content, end this server and restore the \
             file from a backup"
        );
    }
    // Readable by the owner only: the environment of a deployment may carry secrets.
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(missing == Missing::Create)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map_err(io_error)?;
    let (database, catalog, inventory) = open_database(file).map_err(|error| refusal(path, error))?;
    if is_new {
        // redb syncs the file's content; the file's name is part of the folder, which is synced here.
        File::open(folder)
            .and_then(|folder| folder.sync_all())
            .map_err(io_error)?;
    }
    let file = OpenFile {
        database: Some(database),
        identity: Identity::of(path).map_err(io_error)?,
        unreadable: None,
        inventory,
    };
    Ok(Opened { file, catalog })
}

fn refusal(path: &Path, refused: Refused) -> OpenError {
    let path = path.to_path_buf();
    match refused {
        Refused::Foreign => OpenError::Foreign { path },
        Refused::OtherVersion(reason) => OpenError::OtherVersion { path, reason },
        Refused::Unreadable(reason) => OpenError::Damaged { path, reason },
        Refused::Redb(redb::Error::DatabaseAlreadyOpen) => OpenError::InUse { path },
        // redb returns `InvalidData` if the file does not begin as its files do.
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

#[cfg(test)]
mod tests;

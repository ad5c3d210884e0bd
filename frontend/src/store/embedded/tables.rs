//! The tables of a store file. Each check, read and write is one transaction.

use std::fs::File;

use jiff::Timestamp;
use redb::backends::FileBackend;
use redb::{
    Database, DatabaseError, ReadableDatabase, ReadableTable, StorageError, TableDefinition, TableError,
    TableHandle,
};
use serde::{Deserialize, Serialize};
use skysail_core::catalog::{Catalog, Change, Generation, UnreadableDocument};
use skysail_core::store::{Inventory, Proof};

use crate::store::document::{self, Documents, Edit};
use crate::store::layout::{LAYOUT, check_layout};
use crate::store::query_block::first_query_block;
use crate::store::words;

/// Facts about the file itself, by the keys below.
pub(super) const ABOUT: TableDefinition<&str, &str> = TableDefinition::new("about");
/// The documents of the catalog: `kind/name` → JSON.
pub(super) const DOCUMENTS: TableDefinition<&str, &str> = TableDefinition::new("documents");

/// In [`ABOUT`]: the number of the file's layout.
pub(super) const LAYOUT_KEY: &str = "schema";
/// In [`ABOUT`]: a [`Written`] as JSON, once something was committed.
pub(super) const GENERATION_KEY: &str = "generation";
/// In [`ABOUT`]: the incarnations that the store replaces, separated by spaces.
const REPLACES_KEY: &str = "replaces";
/// In [`ABOUT`]: the last query block that was handed out, a number.
const QUERY_BLOCK_KEY: &str = "query-block";

/// redb's page cache, in bytes. The catalog is read once and then kept in memory as a snapshot, so the cache
/// serves writes only. redb's own default is 1 GiB.
const CACHE_BYTES: usize = 1024 * 1024;

/// A generation, and the proof that its documents are whole, as JSON in [`ABOUT`].
#[derive(Debug, Deserialize, Serialize)]
struct Written {
    #[serde(flatten)]
    generation: Generation,
    count: u64,
    digest: u64,
}

/// Why [`open_database`] gave up.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refused {
    #[error("it holds none of our tables")]
    Foreign,
    #[error("{0}")]
    OtherVersion(String),
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

pub(super) fn open_database(file: File) -> Result<(Database, Catalog, Inventory), Refused> {
    // The check reads the whole file, which takes a millisecond or two. Without it redb may panic on a file
    // that was damaged from outside.
    let database = Database::builder()
        .set_cache_size(CACHE_BYTES)
        .set_check_integrity_on_open(true)
        .create_with_backend(FileBackend::new(file)?)?;
    prepare(&database)?;
    let (catalog, inventory) = read_catalog(&database)?;
    Ok((database, catalog, inventory))
}

/// Checks that the file is Skysail's and of a known layout; makes an empty file a store.
fn prepare(database: &Database) -> Result<(), Refused> {
    let transaction = database.begin_read()?;
    let mut tables = transaction.list_tables()?.peekable();
    if tables.peek().is_none() {
        return write_layout(database);
    }
    if !tables.any(|table| table.name() == ABOUT.name()) {
        return Err(Refused::Foreign);
    }
    let about = transaction.open_table(ABOUT).map_err(foreign_table)?;
    match read_text(&about, LAYOUT_KEY)? {
        None => Err(Refused::Foreign),
        Some(found) => check_layout(&found).map_err(Refused::OtherVersion),
    }
}

/// A table of our name with another type belongs to another program.
fn foreign_table(error: TableError) -> Refused {
    match error {
        TableError::TableTypeMismatch { .. }
        | TableError::TypeDefinitionChanged { .. }
        | TableError::TableIsMultimap(_) => Refused::Foreign,
        other => other.into(),
    }
}

fn write_layout(database: &Database) -> Result<(), Refused> {
    let transaction = database.begin_write()?;
    transaction
        .open_table(ABOUT)?
        .insert(LAYOUT_KEY, LAYOUT.to_string().as_str())?;
    transaction.open_table(DOCUMENTS)?;
    transaction.commit()?;
    Ok(())
}

fn read_catalog(database: &Database) -> Result<(Catalog, Inventory), Refused> {
    let transaction = database.begin_read()?;
    let about = transaction.open_table(ABOUT)?;
    let (generation, proof) = match read_text(&about, GENERATION_KEY)? {
        None => (Generation::default(), Proof::default()),
        Some(written) => {
            let written: Written = serde_json::from_str(&written)
                .map_err(|error| Refused::Unreadable(format!("its generation: {error}")))?;
            let Written { count, digest, .. } = written;
            (written.generation, Proof { count, digest })
        }
    };
    let documents = read_documents(&transaction.open_table(DOCUMENTS)?)?;
    let inventory = Inventory::of(&documents);
    if inventory.proof() != proof {
        return Err(Refused::Unreadable(format!(
            "it is not whole: it should hold {} and holds {}",
            words::documents(proof.count),
            words::contents(&inventory.contents())
        )));
    }
    let mut catalog = document::read(&documents, generation).map_err(|document| unreadable(&document))?;
    let replaces = read_text(&about, REPLACES_KEY)?.unwrap_or_default();
    catalog.replaces = replaces.split_whitespace().map(str::to_owned).collect();
    Ok((catalog, inventory))
}

fn unreadable(document: &UnreadableDocument) -> Refused {
    let reason = document.to_string();
    match document {
        UnreadableDocument::UnknownKind(_) => Refused::OtherVersion(reason),
        _ => Refused::Unreadable(reason),
    }
}

pub(super) fn read_text(
    table: &impl ReadableTable<&'static str, &'static str>,
    key: &str,
) -> Result<Option<String>, StorageError> {
    Ok(table.get(key)?.map(|text| text.value().to_owned()))
}

fn read_documents(table: &impl ReadableTable<&'static str, &'static str>) -> Result<Documents, StorageError> {
    table
        .iter()?
        .map(|entry| {
            let (key, json) = entry?;
            Ok((key.value().to_owned(), json.value().into()))
        })
        .collect()
}

/// One write of documents.
pub(super) struct Write<'a> {
    pub(super) before: Before,
    pub(super) changes: &'a [Change],
    pub(super) generation: Generation,
    /// The incarnations that the store replaces.
    pub(super) replaces: &'a [String],
    /// The proof of all documents after the write.
    pub(super) proof: Proof,
}

/// What happens to the present documents.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Before {
    Kept,
    Dropped,
}

impl Write<'_> {
    /// Runs one transaction, which is on the disk when this returns (redb's default durability, `Immediate`).
    pub(super) fn done_to(&self, database: &Database) -> Result<(), redb::Error> {
        let transaction = database.begin_write()?;
        {
            let mut documents = transaction.open_table(DOCUMENTS)?;
            if self.before == Before::Dropped {
                documents.retain(|_, _| false)?;
            }
            for Edit { key, document } in self.changes.iter().map(Edit::from) {
                match document {
                    Some(json) => drop(documents.insert(key.as_str(), json.as_str())?),
                    None => drop(documents.remove(key.as_str())?),
                }
            }
            let written = Written {
                generation: self.generation.clone(),
                count: self.proof.count,
                digest: self.proof.digest,
            };
            let written =
                serde_json::to_string(&written).expect("a generation is text and numbers; this is a bug");
            let mut about = transaction.open_table(ABOUT)?;
            about.insert(GENERATION_KEY, written.as_str())?;
            if !self.replaces.is_empty() {
                about.insert(REPLACES_KEY, self.replaces.join(" ").as_str())?;
            }
        }
        transaction.commit()?;
        Ok(())
    }
}

pub(super) fn take_query_block(database: &Database) -> Result<u64, redb::Error> {
    let transaction = database.begin_write()?;
    let block = {
        let mut about = transaction.open_table(ABOUT)?;
        let last = read_text(&about, QUERY_BLOCK_KEY)?.and_then(|last| last.parse::<u64>().ok());
        let block = last.map_or_else(|| first_query_block(Timestamp::now()), |last| last + 1);
        about.insert(QUERY_BLOCK_KEY, block.to_string().as_str())?;
        block
    };
    transaction.commit()?;
    Ok(block)
}

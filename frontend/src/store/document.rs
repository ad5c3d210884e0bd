//! Documents as a store holds them: texts by key, of any kind.

use std::collections::BTreeMap;

use skysail_core::catalog::{Catalog, Change, Generation, UnreadableDocument};

/// All documents of a store, by keys of the form `kind/name`. Keys and texts are kept as they were found, so
/// that damage to any of them can be reported.
pub(super) type Documents = BTreeMap<String, Vec<u8>>;

/// Reads all documents, or says which one cannot be read and why.
pub(super) fn read(documents: &Documents, generation: Generation) -> Result<Catalog, UnreadableDocument> {
    let documents = documents
        .iter()
        .map(|(key, json)| (key.as_str(), json.as_slice()));
    Catalog::read(generation, documents)
}

/// One change, as a store writes it.
pub(super) struct Edit {
    pub(super) key: String,
    /// The new document; `None` removes the present one, if any.
    pub(super) document: Option<String>,
}

impl From<&Change> for Edit {
    fn from(change: &Change) -> Self {
        match change {
            Change::Put(document) => Self {
                key: document.key().to_string(),
                document: Some(document.to_json()),
            },
            Change::Delete(key) => Self {
                key: key.to_string(),
                document: None,
            },
        }
    }
}

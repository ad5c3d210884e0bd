//! How the catalog is written down, the same in every store: one JSON document per application and per
//! model, under its name.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use serde::Serialize;
use serde::de::DeserializeOwned;
use skysail_core::catalog::{Application, Catalog, Change, Generation, Model};

/// Which way of writing documents down this version knows. It grows when an older version could not read
/// what this one writes; what a newer version wrote is left alone.
pub(super) const SCHEMA: u32 = 1;

/// 2026-01-01T00:00:00Z, in seconds since the Unix epoch.
const QUERY_BLOCK_EPOCH_SECONDS: i64 = 1_767_225_600;

/// What a document describes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Kind {
    Application,
    Model,
}

impl Kind {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Application => "application",
            Self::Model => "model",
        }
    }
}

/// One change, as a store writes it.
pub(super) struct Edit<'a> {
    pub(super) kind: Kind,
    pub(super) name: &'a str,
    /// The new document; `None` removes the one there is, if any.
    pub(super) document: Option<String>,
}

impl<'a> From<&'a Change> for Edit<'a> {
    fn from(change: &'a Change) -> Self {
        let (kind, name, document) = match change {
            Change::PutApplication(new) => (Kind::Application, new.name.as_str(), Some(write(new))),
            Change::DeleteApplication(name) => (Kind::Application, name.as_str(), None),
            Change::PutModel(new) => (Kind::Model, new.name.as_str(), Some(write(new))),
            Change::DeleteModel(name) => (Kind::Model, name.as_str(), None),
        };
        Self { kind, name, document }
    }
}

fn write(document: &impl Serialize) -> String {
    serde_json::to_string(document).expect("catalog documents have text keys only; this is a bug")
}

/// The documents a store holds, by name, as they are written.
#[derive(Default)]
pub(super) struct Documents {
    pub(super) applications: Vec<(String, Vec<u8>)>,
    pub(super) models: Vec<(String, Vec<u8>)>,
}

impl Documents {
    /// Reads all documents, or says which one cannot be read and why.
    pub(super) fn catalog(&self, generation: Generation) -> Result<Catalog, String> {
        Ok(Catalog {
            generation,
            applications: read_all(Kind::Application, &self.applications, |a: &Application| &a.name)?,
            models: read_all(Kind::Model, &self.models, |m: &Model| &m.name)?,
        })
    }
}

fn read_all<D, N>(
    kind: Kind,
    written: &[(String, Vec<u8>)],
    name_of: impl Fn(&D) -> &N,
) -> Result<BTreeMap<N, Arc<D>>, String>
where
    D: DeserializeOwned,
    N: Clone + Ord + ToString,
{
    let mut documents = BTreeMap::new();
    for (name, json) in written {
        let document: D = serde_json::from_slice(json)
            .map_err(|error| format!("the document of {} `{name}`: {error}", kind.name()))?;
        let named = name_of(&document).clone();
        if named.to_string() != *name {
            return Err(format!(
                "the document of {} `{name}` names `{}`",
                kind.name(),
                named.to_string()
            ));
        }
        documents.insert(named, Arc::new(document));
    }
    Ok(documents)
}

/// Says that a store is left alone because a newer version wrote it.
pub(super) fn newer_schema(found: &str) -> String {
    format!(
        "it was written by a newer Skysail (schema {found}; this version knows {SCHEMA}): run that version"
    )
}

/// The generation that follows `current`; the first write to a store draws its incarnation.
pub(super) fn generation_after(current: &Generation) -> Generation {
    let incarnation = if current.incarnation.is_empty() {
        fresh_incarnation()
    } else {
        current.incarnation.clone()
    };
    Generation {
        incarnation,
        number: current.number + 1,
    }
}

/// A name for a store's life that no other life has.
pub(super) fn fresh_incarnation() -> String {
    format!("{:016x}", fastrand::u64(..))
}

/// What the counter of query-id blocks starts from where there is none: the minutes since 2026-01-01.
///
/// A store that lost its data would otherwise hand out its first blocks again, and query ids would repeat.
/// Blocks are taken by the start of a frontend and then once in very many queries, so a counter that
/// started so stays behind the clock, and one that starts anew starts above it.
pub(super) fn first_query_block(now: Timestamp) -> u64 {
    let seconds = now.as_second() - QUERY_BLOCK_EPOCH_SECONDS;
    u64::try_from(seconds / 60).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn query_blocks_start_from_the_minutes_since_2026() {
        let at = |text: &str| first_query_block(text.parse().unwrap());
        assert_eq!(at("2026-01-01T00:00:59Z"), 0);
        assert_eq!(at("2026-01-02T00:01:00Z"), 24 * 60 + 1);
        assert_eq!(at("2001-01-01T00:00:00Z"), 0, "a clock that was never set");
    }

    #[test]
    fn a_document_under_another_name_is_refused() {
        let application = r#"{"name":"iris","input_type":"doubles","default_output":"","slo_micros":1,
            "linked_models":[],"registered_at":"2026-01-01T00:00:00Z"}"#;
        let documents = |name: &str| Documents {
            applications: vec![(name.into(), application.into())],
            ..Documents::default()
        };
        assert!(documents("iris").catalog(Generation::default()).is_ok());
        let error = documents("rose").catalog(Generation::default()).unwrap_err();
        assert!(error.contains("`rose`") && error.contains("`iris`"), "{error}");
    }

    #[test]
    fn a_document_that_cannot_be_read_is_named() {
        let documents = Documents {
            models: vec![("iris-model".into(), vec![0xff])],
            ..Documents::default()
        };
        let error = documents.catalog(Generation::default()).unwrap_err();
        assert!(error.contains("model `iris-model`"), "{error}");
    }
}

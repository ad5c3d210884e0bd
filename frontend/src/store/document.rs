//! How the catalog is written down, the same in every store: one JSON document per application and per
//! model, under its name, and one with the settings of the cluster.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use serde::Serialize;
use serde::de::DeserializeOwned;
use skysail_core::catalog::{Application, Catalog, Change, Generation, Model, Settings};

/// Which layout of a store this version reads and writes. It grows when an older version could not read what
/// this one writes, or this one not what an older one wrote; a store of any other layout is left alone.
pub(super) const SCHEMA: u32 = 2;

/// 2026-01-01T00:00:00Z, in seconds since the Unix epoch.
const QUERY_BLOCK_EPOCH_SECONDS: i64 = 1_767_225_600;

/// What a document describes.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) enum Kind {
    Application,
    Model,
    Settings,
}

/// The name of the one document of settings.
const SETTINGS_NAME: &str = "cluster";

impl Kind {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Application => "application",
            Self::Model => "model",
            Self::Settings => "settings",
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
            // What is as it would be without a document has none.
            Change::PutSettings(new) => (
                Kind::Settings,
                SETTINGS_NAME,
                (*new != Settings::default()).then(|| write(new)),
            ),
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
    pub(super) settings: Vec<(String, Vec<u8>)>,
}

impl Documents {
    /// Every document: its kind, its name and what is written.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Kind, &str, &[u8])> {
        let all = [
            (Kind::Application, &self.applications),
            (Kind::Model, &self.models),
            (Kind::Settings, &self.settings),
        ];
        all.into_iter().flat_map(|(kind, documents)| {
            documents
                .iter()
                .map(move |(name, document)| (kind, name.as_str(), document.as_slice()))
        })
    }

    /// Reads all documents, or says which one cannot be read and why.
    pub(super) fn catalog(&self, generation: Generation) -> Result<Catalog, String> {
        Ok(Catalog {
            generation,
            replaces: Vec::new(),
            applications: read_all(Kind::Application, &self.applications, |a: &Application| &a.name)?,
            models: read_all(Kind::Model, &self.models, |m: &Model| &m.name)?,
            settings: read_settings(&self.settings)?,
        })
    }
}

fn read_settings(written: &[(String, Vec<u8>)]) -> Result<Arc<Settings>, String> {
    match written {
        [] => Ok(Arc::default()),
        [(name, json)] if name == SETTINGS_NAME => serde_json::from_slice(json)
            .map_err(|error| format!("the document of settings `{name}`: {error}")),
        _ => Err(format!(
            "settings have one document, `{SETTINGS_NAME}`, and there are others"
        )),
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

/// Everything of a snapshot, as changes to an empty one.
pub(super) fn documents_of(catalog: &Catalog) -> Vec<Change> {
    let applications = catalog.applications.values();
    let models = catalog.models.values();
    applications
        .map(|application| Change::PutApplication(application.as_ref().clone()))
        .chain(models.map(|model| Change::PutModel(model.as_ref().clone())))
        .chain([Change::PutSettings(catalog.settings.as_ref().clone())])
        .collect()
}

/// Whether a store of this schema can be used; says what to do about it otherwise.
pub(super) fn check_schema(found: &str) -> Result<(), String> {
    let (age, remedy) = match found.parse::<u32>() {
        Ok(SCHEMA) => return Ok(()),
        Ok(older) if older < SCHEMA => ("an older", "run that version, or give this one an empty store"),
        Ok(_) => ("a newer", "run that version"),
        Err(_) => {
            return Err(format!(
                "its schema is written as `{}`, which is no number ({SCHEMA} is what this version knows): another \
                 program wrote it, or it was edited; it is left as it is: restore it from a backup, or give this \
                 server an empty store",
                found.escape_debug()
            ));
        }
    };
    Err(format!(
        "it was written by {age} Skysail (schema {found}; this version knows {SCHEMA}) and is left as it is: {remedy}"
    ))
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

/// How many lives a store remembers to have replaced. A frontend would have to be away for as many decisions
/// to be asked once more.
const REMEMBERED: usize = 16;

/// The lives whose place a store takes: the newest first, each once, and no more than are remembered.
pub(super) fn remembered_lives(lives: impl IntoIterator<Item = String>) -> Vec<String> {
    let mut remembered = Vec::new();
    for life in lives {
        if !life.is_empty() && !remembered.contains(&life) {
            remembered.push(life);
        }
    }
    remembered.truncate(REMEMBERED);
    remembered
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
    fn a_store_of_another_schema_is_refused_with_what_to_do() {
        assert_eq!(check_schema("2"), Ok(()));
        let older = check_schema("1").unwrap_err();
        assert!(
            older.contains("an older Skysail (schema 1") && older.contains("empty store"),
            "{older}"
        );
        for newer in ["3", "400"] {
            let newer = check_schema(newer).unwrap_err();
            assert!(newer.contains("a newer Skysail (schema "), "{newer}");
        }
        for odd in ["", "new", "-1", "2.0"] {
            let said = check_schema(odd).unwrap_err();
            assert!(
                said.contains(&format!("`{odd}`")) && said.contains("no number") && !said.contains("newer"),
                "{said}"
            );
        }
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

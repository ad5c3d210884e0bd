//! The documents that a catalog is made of: which kinds there are, how each is named, and how it is written.
//!
//! A store knows no kind. It holds texts by keys of the form `kind/name`, and [`Catalog::read`] makes a catalog
//! of them. A new kind is a variant of [`Kind`] and of [`Document`] here, and a field of [`Catalog`].

use std::fmt;

use serde::Serialize;
use serde::de::DeserializeOwned;
use skysail_proto::ids::{ApplicationName, ModelName};

use super::{Application, Catalog, Generation, Model, Settings};

/// What a document describes.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Kind {
    /// An application.
    Application,
    /// A model with all its versions.
    Model,
    /// The settings of the cluster. There is one document of them at most.
    Settings,
}

impl Kind {
    /// Every kind, in the order in which messages count them.
    pub const ALL: [Self; 3] = [Self::Application, Self::Model, Self::Settings];

    /// The word that keys begin with, in the singular. It is written in stores: never change it.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Application => "application",
            Self::Model => "model",
            Self::Settings => "settings",
        }
    }

    /// Reads a document of this kind.
    fn read(self, json: &[u8]) -> serde_json::Result<Document> {
        fn from<D: DeserializeOwned + Into<Document>>(json: &[u8]) -> serde_json::Result<Document> {
            serde_json::from_slice::<D>(json).map(Into::into)
        }
        match self {
            Self::Application => from::<Application>(json),
            Self::Model => from::<Model>(json),
            Self::Settings => from::<Settings>(json),
        }
    }
}

/// One document, as it is stored.
#[derive(Clone, Debug, PartialEq)]
pub enum Document {
    /// Registers or replaces an application.
    Application(Application),
    /// Registers or replaces a model with all its versions.
    Model(Model),
    /// Replaces the settings of the cluster, all of them.
    Settings(Settings),
}

impl Document {
    /// Under which key it is stored.
    pub fn key(&self) -> Key {
        match self {
            Self::Application(application) => Key::from(&application.name),
            Self::Model(model) => Key::from(&model.name),
            Self::Settings(_) => Key::settings(),
        }
    }

    /// How it is written.
    pub fn to_json(&self) -> String {
        fn write(document: &impl Serialize) -> String {
            serde_json::to_string(document).expect("catalog documents have text keys only; this is a bug")
        }
        match self {
            Self::Application(application) => write(application),
            Self::Model(model) => write(model),
            Self::Settings(settings) => write(settings),
        }
    }
}

impl From<Application> for Document {
    fn from(application: Application) -> Self {
        Self::Application(application)
    }
}

impl From<Model> for Document {
    fn from(model: Model) -> Self {
        Self::Model(model)
    }
}

impl From<Settings> for Document {
    fn from(settings: Settings) -> Self {
        Self::Settings(settings)
    }
}

/// What a store keeps a document under, written `kind/name`.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Key {
    /// What the document describes.
    pub kind: Kind,
    /// Which of its kind it is.
    pub name: String,
}

impl Key {
    /// The key of the one document of settings.
    pub fn settings() -> Self {
        Self {
            kind: Kind::Settings,
            name: "cluster".to_owned(),
        }
    }

    /// Reads a key as a store has it; `None` if it is of no kind that this version knows.
    pub fn parse(written: &str) -> Option<Self> {
        let (word, name) = written.split_once('/')?;
        let kind = Kind::ALL.into_iter().find(|kind| kind.word() == word)?;
        let name = name.to_owned();
        Some(Self { kind, name })
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.kind.word(), self.name)
    }
}

impl From<&ApplicationName> for Key {
    fn from(name: &ApplicationName) -> Self {
        Self {
            kind: Kind::Application,
            name: name.to_string(),
        }
    }
}

impl From<&ModelName> for Key {
    fn from(name: &ModelName) -> Self {
        Self {
            kind: Kind::Model,
            name: name.to_string(),
        }
    }
}

/// Why documents make no catalog.
#[derive(Debug, thiserror::Error)]
pub enum UnreadableDocument {
    /// Another version wrote it.
    #[error("the document `{0}` is of no kind that this version knows: run the version that wrote it")]
    UnknownKind(String),
    /// It is not written as its kind is.
    #[error("the document of {} `{}`: {reason}", .key.kind.word(), .key.name)]
    Malformed {
        /// Which document it is.
        key: Key,
        /// What is wrong with it.
        reason: serde_json::Error,
    },
    /// It describes something else than its key says.
    #[error("the document of {} `{}` names `{named}`", .key.kind.word(), .key.name)]
    Misnamed {
        /// The key that it was found under.
        key: Key,
        /// The name that it has by itself.
        named: String,
    },
}

fn read_document(key: &str, json: &[u8]) -> Result<Document, UnreadableDocument> {
    let Some(key) = Key::parse(key) else {
        return Err(UnreadableDocument::UnknownKind(key.to_owned()));
    };
    let document = match key.kind.read(json) {
        Ok(document) => document,
        Err(reason) => return Err(UnreadableDocument::Malformed { key, reason }),
    };
    let named = document.key().name;
    if named != key.name {
        return Err(UnreadableDocument::Misnamed { key, named });
    }
    Ok(document)
}

impl Catalog {
    /// The catalog that a store holds, from its documents by their keys; or which of them cannot be read, and why.
    pub fn read<'a>(
        generation: Generation,
        documents: impl IntoIterator<Item = (&'a str, &'a [u8])>,
    ) -> Result<Self, UnreadableDocument> {
        let mut catalog = Self {
            generation,
            ..Self::default()
        };
        for (key, json) in documents {
            catalog.put(read_document(key, json)?);
        }
        Ok(catalog)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::catalog::{Change, Secret};

    fn full() -> Catalog {
        let application = r#"{"name": "iris", "input_type": "doubles", "default_output": "", "slo_micros": 1,
            "linked_models": ["m"], "registered_at": "2026-01-01T00:00:00Z"}"#;
        let model = r#"{"name": "m", "current_version": "1", "versions": {"1": {"input_type": "doubles",
            "registered_at": "2026-01-01T00:00:00Z", "deployment": null}}}"#;
        let changes = [
            Change::put(serde_json::from_str::<Application>(application).unwrap()),
            Change::put(serde_json::from_str::<Model>(model).unwrap()),
            Change::put(Settings {
                container_key: Some(Secret::new([7; Secret::BYTES])),
                ..Settings::default()
            }),
        ];
        Catalog::default().with(&changes, Generation::default())
    }

    fn read(documents: &[(&str, &str)]) -> Result<Catalog, String> {
        let documents = documents.iter().map(|(key, json)| (*key, json.as_bytes()));
        Catalog::read(Generation::default(), documents).map_err(|error| error.to_string())
    }

    #[test]
    fn documents_of_every_kind_come_back_as_they_were() {
        let full = full();
        let written: Vec<(String, String)> = full
            .documents()
            .map(|document| (document.key().to_string(), document.to_json()))
            .collect();
        let keys: Vec<&str> = written.iter().map(|(key, _)| key.as_str()).collect();
        assert_eq!(keys, ["application/iris", "model/m", "settings/cluster"]);
        let kinds: BTreeSet<Kind> = full.documents().map(|document| document.key().kind).collect();
        assert_eq!(kinds, Kind::ALL.into(), "a kind is not among the documents");
        let written: Vec<(&str, &str)> = written.iter().map(|(k, d)| (k.as_str(), d.as_str())).collect();
        assert_eq!(read(&written).unwrap(), full);
    }

    #[test]
    fn every_document_can_be_deleted_by_its_key() {
        let full = full();
        let changes: Vec<Change> = full
            .documents()
            .map(|document| Change::Delete(document.key()))
            .collect();
        assert_eq!(full.with(&changes, Generation::default()), Catalog::default());
        // One that is gone already is no error.
        assert_eq!(
            Catalog::default().with(&changes, Generation::default()),
            Catalog::default()
        );
    }

    #[test]
    fn default_settings_are_no_document() {
        assert_eq!(Catalog::default().documents().count(), 0);
    }

    #[test]
    fn keys_are_read_as_they_are_written() {
        for key in [
            "application/Iris_1",
            "model/m",
            "settings/cluster",
            "model/a/b",
            "model/",
        ] {
            assert_eq!(Key::parse(key).unwrap().to_string(), key);
        }
        for unknown in ["", "model", "/", "unicorn/u", "Model/m", "models/m"] {
            assert_eq!(Key::parse(unknown), None, "{unknown}");
        }
    }

    #[test]
    fn a_document_under_another_name_is_refused() {
        let iris = full().documents().next().unwrap().to_json();
        assert!(read(&[("application/iris", &iris)]).is_ok());
        let error = read(&[("application/rose", &iris)]).unwrap_err();
        assert!(error.contains("`rose`") && error.contains("`iris`"), "{error}");
        let error = read(&[("settings/other", "{}")]).unwrap_err();
        assert!(
            error.contains("settings `other`") && error.contains("`cluster`"),
            "{error}"
        );
    }

    #[test]
    fn a_document_that_cannot_be_read_is_named() {
        let unreadable = [("model/iris-model", &[0xff][..])];
        let error = Catalog::read(Generation::default(), unreadable).unwrap_err();
        assert!(error.to_string().contains("model `iris-model`"), "{error}");
    }

    #[test]
    fn a_document_of_another_kind_is_refused_by_its_key() {
        for unknown in ["unicorn/u", "iris"] {
            let error = read(&[(unknown, "{}")]).unwrap_err();
            assert!(
                error.contains(&format!("`{unknown}`")) && error.contains("no kind"),
                "{error}"
            );
        }
    }
}

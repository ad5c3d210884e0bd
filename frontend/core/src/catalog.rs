//! Desired state: applications, models, their versions and links, and the settings of the cluster, as an
//! immutable snapshot.
//!
//! A snapshot is replaced, never changed. Writers compute [`Change`]s against the snapshot they read and
//! commit them with its [`Generation`]; a store takes them only if that is still the current one, so every
//! rule that the admin API checks still holds when the write lands.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use skysail_proto::admin::default_weight;
use skysail_proto::deployment::VersionSpec;
use skysail_proto::ids::{ApplicationName, ModelId, ModelName, ModelVersion};
use skysail_proto::signature::Signature;
use skysail_proto::value::Output;

mod document;
mod settings;

pub use self::document::{Document, Key, Kind, UnreadableDocument};
pub use self::settings::{Secret, Settings};

/// Which snapshot of which life of a store.
///
/// Snapshots are compared for difference, not for "newer": a store that lost writes or was replaced counts
/// on from an old number, or from zero in another incarnation.
#[derive(Clone, Debug, Default, Deserialize, Eq, Hash, PartialEq, Serialize)]
pub struct Generation {
    /// Drawn at random when the store is first written; empty while it never was.
    pub incarnation: String,
    /// Counts commits in this incarnation.
    pub number: u64,
}

impl Generation {
    /// Whether a frontend that follows this snapshot has seen the changes of `other`: it is of the same life of the
    /// store, and not an earlier one.
    pub fn has_reached(&self, other: &Self) -> bool {
        self.incarnation == other.incarnation && self.number >= other.number
    }
}

/// An application, as it is stored.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Application {
    /// Its name.
    pub name: ApplicationName,
    /// What it sends, and what it expects.
    #[serde(flatten)]
    pub signature: Signature,
    /// The text answered when no model can.
    pub default_output: String,
    /// Its latency objective, in microseconds.
    pub slo_micros: u64,
    /// Its share of its model's capacity beside other applications'.
    #[serde(default = "default_weight")]
    pub weight: NonZeroU32,
    /// The models that answer it, in the order they were linked.
    pub linked_models: Vec<ModelName>,
    /// When it was registered.
    pub registered_at: Timestamp,
}

impl Application {
    /// Its latency objective.
    pub fn slo(&self) -> Duration {
        Duration::from_micros(self.slo_micros)
    }

    /// Its default output.
    pub fn default_output(&self) -> Output {
        Output::new(self.default_output.as_str())
    }
}

/// A model with its versions, as it is stored.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Model {
    /// Its name.
    pub name: ModelName,
    /// The version that answers queries that do not pin one.
    pub current_version: ModelVersion,
    /// The change of versions that is under way, until every frontend answers with the current version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout: Option<Rollout>,
    /// All registered versions; `current_version` is one of them.
    pub versions: BTreeMap<ModelVersion, Version>,
}

/// A change of versions under way: frontends answer with the old version until the current one is ready.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Rollout {
    /// The version that answered when the change was asked for.
    pub from: ModelVersion,
    /// Whether the model's other versions are to be stopped at its end.
    #[serde(default)]
    pub replace: bool,
}

impl Model {
    /// The current version's id.
    pub fn current_id(&self) -> ModelId {
        ModelId::new(self.name.clone(), self.current_version.clone())
    }

    /// The current version.
    pub fn current(&self) -> Option<&Version> {
        self.versions.get(&self.current_version)
    }
}

/// One version of a model, as it is stored.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Version {
    /// What was asked for.
    #[serde(flatten)]
    pub spec: VersionSpec,
    /// When it was registered. A version deleted and registered again differs by this.
    pub registered_at: Timestamp,
}

/// One document put or removed.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// Puts a document in the place of the one with its key, if there is one.
    Put(Document),
    /// Removes the document with this key. That there is none is no error.
    Delete(Key),
}

impl Change {
    /// Puts an application, a model or settings.
    pub fn put(document: impl Into<Document>) -> Self {
        Self::Put(document.into())
    }

    /// Removes what has this name.
    pub fn delete(key: impl Into<Key>) -> Self {
        Self::Delete(key.into())
    }
}

/// A snapshot of all desired state.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Catalog {
    /// Which snapshot this is.
    pub generation: Generation,
    /// The incarnations whose place this store takes, by a person's decision: their containers are its own.
    pub replaces: Vec<String>,
    /// Applications by name.
    pub applications: BTreeMap<ApplicationName, Arc<Application>>,
    /// Models by name.
    pub models: BTreeMap<ModelName, Arc<Model>>,
    /// The settings of the cluster; the default ones where none were put.
    pub settings: Arc<Settings>,
}

impl Catalog {
    /// The snapshot after `changes`, under the generation the store gave them.
    pub fn with(&self, changes: &[Change], generation: Generation) -> Self {
        let mut next = Self {
            generation,
            ..self.clone()
        };
        for change in changes {
            match change {
                Change::Put(document) => next.put(document.clone()),
                Change::Delete(key) => next.delete(key),
            }
        }
        next
    }

    fn put(&mut self, document: Document) {
        match document {
            Document::Application(application) => {
                self.applications
                    .insert(application.name.clone(), Arc::new(application));
            }
            Document::Model(model) => drop(self.models.insert(model.name.clone(), Arc::new(model))),
            Document::Settings(settings) => self.settings = Arc::new(settings),
        }
    }

    fn delete(&mut self, key: &Key) {
        match key.kind {
            Kind::Application => drop(self.applications.remove(key.name.as_str())),
            Kind::Model => drop(self.models.remove(key.name.as_str())),
            Kind::Settings => self.settings = Arc::default(),
        }
    }

    /// Every document of it. Settings that are the default ones have none.
    pub fn documents(&self) -> impl Iterator<Item = Document> + '_ {
        let applications = self.applications.values().map(|one| one.as_ref().clone().into());
        let models = self.models.values().map(|one| one.as_ref().clone().into());
        let settings = (*self.settings != Settings::default()).then(|| self.settings.as_ref().clone().into());
        applications.chain(models).chain(settings)
    }

    /// Whether containers that were started for this incarnation of a store are this store's to start and stop.
    /// One that was never written has none.
    pub fn owns(&self, incarnation: &str) -> bool {
        let own = &self.generation.incarnation;
        !own.is_empty() && (own == incarnation || self.replaces.iter().any(|life| life == incarnation))
    }

    /// One version, if it is registered.
    pub fn version(&self, id: &ModelId) -> Option<&Version> {
        self.models.get(&id.name)?.versions.get(&id.version)
    }

    /// All versions of all models.
    pub fn versions(&self) -> impl Iterator<Item = (ModelId, &Version)> {
        self.models.values().flat_map(|model| {
            let id = |version: &ModelVersion| ModelId::new(model.name.clone(), version.clone());
            model
                .versions
                .iter()
                .map(move |(version, registered)| (id(version), registered))
        })
    }

    /// The applications of every model that is linked to any, in their order. One pass, for answers about all models.
    pub fn links(&self) -> BTreeMap<&ModelName, Vec<&ApplicationName>> {
        let mut links = BTreeMap::<_, Vec<_>>::new();
        for application in self.applications.values() {
            for model in &application.linked_models {
                links.entry(model).or_default().push(&application.name);
            }
        }
        links
    }

    /// The applications a model is linked to.
    pub fn applications_of(&self, model: &ModelName) -> impl Iterator<Item = &Arc<Application>> {
        self.applications
            .values()
            .filter(move |application| application.linked_models.contains(model))
    }
}

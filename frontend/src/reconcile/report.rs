//! The reconciler's findings, as the admin API shows them.

use std::collections::{BTreeMap, BTreeSet};

use parking_lot::Mutex;
use skysail_core::catalog::Catalog;
use skysail_core::cluster::ClusterView;
use skysail_core::reconcile::Foreign;
use skysail_proto::admin::{Container, Failure};
use skysail_proto::ids::{ModelId, ReplicaId};
use tokio::sync::Notify;

use crate::runtime::{ContainerState, ContainerStatus};

/// Written by the reconciler, read by the admin API.
#[derive(Debug, Default)]
pub(crate) struct Report {
    state: Mutex<State>,
    pub(super) wake: Notify,
    pub(super) look_for_moves: Notify,
}

#[derive(Debug, Default)]
struct State {
    acting: bool,
    waits_for_a_person: Option<String>,
    no_frontend: bool,
    runtime_error: Option<String>,
    containers: BTreeMap<ModelId, Vec<ContainerStatus>>,
    foreign: Foreign,
    /// The sentence about the foreign containers.
    foreign_sentence: Option<String>,
    versions: BTreeMap<ModelId, VersionReport>,
    autoscaling: BTreeMap<ModelId, String>,
    forgiven: BTreeSet<ModelId>,
}

/// The state of one version's containers.
#[derive(Clone, Debug, Default)]
pub(crate) struct VersionReport {
    /// What the version waits for, in words.
    pub progress: Option<String>,
    /// Containers that failed, or could not be started, since this frontend started.
    pub restarts: u64,
    /// In a sentence: the version's names mean something else now than when its containers were started.
    pub moved_on: Option<String>,
    /// Whether a container of the version failed since all its replicas were last attached.
    pub failing: bool,
    /// The last failure.
    pub last_failure: Option<Failure>,
}

impl Report {
    /// Whether this frontend acts as the cluster's control role. Only the acting frontend knows failures and
    /// progress.
    pub(crate) fn acting(&self) -> bool {
        self.state.lock().acting
    }

    /// The decision that an operator has to make because the store lost something. Until then no container is
    /// started or stopped, and nothing is written. The sentence names the remedy.
    pub(crate) fn waits_for_a_person(&self) -> Option<String> {
        self.state.lock().waits_for_a_person.clone()
    }

    /// The reasons, other than the runtime, why containers cannot be started; a sentence each.
    pub(crate) fn problems(&self) -> Vec<String> {
        let state = self.state.lock();
        let no_frontend = state.no_frontend.then(|| {
            "no query frontend is alive: containers would have nothing to dial, so none is started".to_owned()
        });
        state
            .waits_for_a_person
            .iter()
            .cloned()
            .chain(state.foreign_sentence.iter().cloned())
            .chain(no_frontend)
            .collect()
    }

    /// Why the runtime does not answer, if it does not.
    pub(crate) fn runtime_error(&self) -> Option<String> {
        self.state.lock().runtime_error.clone()
    }

    /// The state of one version.
    pub(crate) fn version(&self, model: &ModelId) -> VersionReport {
        self.state.lock().versions.get(model).cloned().unwrap_or_default()
    }

    /// How many replicas the load of a version was last found to need, and why, in words. `None` if an operator
    /// chose the number, or another frontend acts.
    pub(crate) fn autoscaling(&self, model: &ModelId) -> Option<String> {
        self.state.lock().autoscaling.get(model).cloned()
    }

    /// Replaces the autoscaling decisions of all versions.
    pub(crate) fn set_autoscaling(&self, decisions: BTreeMap<ModelId, String>) {
        self.state.lock().autoscaling = decisions;
    }

    /// The containers of one version.
    pub(crate) fn containers(&self, model: &ModelId) -> Vec<Container> {
        let state = self.state.lock();
        state
            .containers
            .get(model)
            .into_iter()
            .flatten()
            .map(shown)
            .collect()
    }

    /// The container that runs a replica of a version.
    pub(crate) fn container_of(&self, model: &ModelId, replica: &ReplicaId) -> Option<Container> {
        let state = self.state.lock();
        let mut containers = state.containers.get(model)?.iter();
        containers.find(|found| found.replica == *replica).map(shown)
    }

    /// Forgets the failures of a version that an operator asked for again: they no longer delay it.
    pub(crate) fn forgive(&self, model: &ModelId) {
        let mut state = self.state.lock();
        if let Some(version) = state.versions.get_mut(model) {
            let moved_on = version.moved_on.take();
            *version = VersionReport {
                moved_on,
                ..VersionReport::default()
            };
        }
        state.forgiven.insert(model.clone());
        drop(state);
        self.wake.notify_one();
    }

    pub(super) fn take_forgiven(&self) -> BTreeSet<ModelId> {
        std::mem::take(&mut self.state.lock().forgiven)
    }

    /// Returns whether the error has changed.
    pub(super) fn set_runtime_error(&self, error: Option<String>) -> bool {
        let mut state = self.state.lock();
        let news = state.runtime_error.is_some() != error.is_some();
        state.runtime_error = error;
        news
    }

    pub(super) fn set_containers(&self, containers: &[ContainerStatus]) {
        let mut by_version = BTreeMap::<_, Vec<_>>::new();
        for found in containers {
            by_version
                .entry(found.model.clone())
                .or_default()
                .push(found.clone());
        }
        self.state.lock().containers = by_version;
    }

    /// Returns whether a new incarnation appeared among the foreign containers.
    pub(super) fn set_foreign(&self, foreign: Foreign, sentence: Option<String>) -> bool {
        let mut state = self.state.lock();
        let news = !foreign.incarnations.is_subset(&state.foreign.incarnations);
        state.foreign = foreign;
        state.foreign_sentence = sentence;
        news
    }

    /// Records whether a version's names mean something else now. Returns whether that has changed.
    pub(super) fn set_moved_on(&self, model: &ModelId, moved_on: Option<String>) -> bool {
        let mut state = self.state.lock();
        match (state.versions.get_mut(model), moved_on) {
            (Some(version), moved_on) => {
                let news = version.moved_on != moved_on;
                version.moved_on = moved_on;
                news
            }
            (None, None) => false,
            (None, moved_on) => {
                let report = VersionReport {
                    moved_on,
                    ..VersionReport::default()
                };
                state.versions.insert(model.clone(), report);
                true
            }
        }
    }

    /// Wakes [`Moves`](super::Moves).
    pub(super) fn look_for_moves(&self) {
        self.look_for_moves.notify_one();
    }

    /// Forgets versions that are no longer registered.
    pub(super) fn keep_only(&self, catalog: &Catalog) {
        self.state
            .lock()
            .versions
            .retain(|model, _| catalog.version(model).is_some());
    }

    /// Ends the failures of versions whose replicas are all attached.
    pub(super) fn recovered(&self, catalog: &Catalog, cluster: &ClusterView) {
        for (model, report) in &mut self.state.lock().versions {
            let deployment = catalog
                .version(model)
                .and_then(|version| version.spec.deployment.as_ref());
            let replicas = deployment.map_or(0, |deployment| deployment.replicas);
            if cluster.attached(model) >= replicas {
                report.failing = false;
            }
        }
    }

    pub(super) fn set_acting(&self, acting: bool) {
        self.state.lock().acting = acting;
    }

    /// Returns whether the reason has changed.
    pub(super) fn set_waits_for_a_person(&self, why: Option<String>) -> bool {
        let mut state = self.state.lock();
        let news = state.waits_for_a_person.is_some() != why.is_some();
        state.waits_for_a_person = why;
        news
    }

    pub(super) fn set_no_frontend(&self, none: bool) {
        self.state.lock().no_frontend = none;
    }

    pub(super) fn set_progress(&self, model: &ModelId, words: Option<&str>) {
        self.state
            .lock()
            .versions
            .entry(model.clone())
            .or_default()
            .progress = words.map(str::to_owned);
    }

    pub(super) fn failed(&self, model: &ModelId, failure: Failure) {
        let mut state = self.state.lock();
        let version = state.versions.entry(model.clone()).or_default();
        version.restarts += 1;
        version.failing = true;
        version.last_failure = Some(failure);
    }
}

fn shown(status: &ContainerStatus) -> Container {
    let state = match &status.state {
        ContainerState::Running => "running".to_owned(),
        ContainerState::Exited { code, detail: None } => format!("exited ({code})"),
        ContainerState::Exited {
            code,
            detail: Some(detail),
        } => format!("exited ({code}: {detail})"),
    };
    Container {
        container: status.container.clone(),
        replica: status.replica.clone(),
        state,
        pid: status.pid,
    }
}

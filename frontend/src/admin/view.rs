//! What the admin API shows: desired state beside what is.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use jiff::Timestamp;
use skysail_core::catalog::{Application, Catalog, Model};
use skysail_proto::admin;
use skysail_proto::admin::{Frontend, ReplicaState, RuntimeStatus, Status, StoreStatus, VersionState};
use skysail_proto::deployment::VersionSpec;
use skysail_proto::ids::{ApplicationName, ClusterName, ModelId, ModelName};

use super::{AdminError, AdminService, application, model, version_of};
use crate::model::replica::Replica;
use crate::store::StoreHealth;

/// What a frontend says of itself.
#[derive(Clone, Debug)]
pub struct FrontendInfo {
    /// Its cluster.
    pub cluster: ClusterName,
    /// Unique to this run.
    pub id: String,
    /// Query REST, host:port.
    pub query_addr: String,
    /// Admin REST, host:port.
    pub admin_addr: String,
    /// Container RPC as containers are told, host:port.
    pub rpc_addr: String,
    /// Since when.
    pub started_at: Timestamp,
    /// `embedded` or `redis`.
    pub store_kind: &'static str,
    /// Where the store is, without any password.
    pub store_location: String,
    /// `process`, `docker` or `none`.
    pub runtime_kind: &'static str,
}

impl AdminService {
    /// One application of a snapshot.
    pub fn application(
        &self,
        catalog: &Catalog,
        name: &ApplicationName,
    ) -> Result<admin::Application, AdminError> {
        application(catalog, name).map(|found| shown_application(found))
    }

    /// All applications.
    pub fn applications(&self) -> Result<Vec<admin::Application>, AdminError> {
        Ok(self
            .catalog()?
            .applications
            .values()
            .map(|found| shown_application(found))
            .collect())
    }

    /// One model of a snapshot, with its versions.
    pub fn model(&self, catalog: &Catalog, name: &ModelName) -> Result<admin::Model, AdminError> {
        Ok(self.shown_model(catalog, model(catalog, name)?))
    }

    /// All models.
    pub fn models(&self) -> Result<Vec<admin::Model>, AdminError> {
        let catalog = self.catalog()?;
        Ok(catalog
            .models
            .values()
            .map(|found| self.shown_model(&catalog, found))
            .collect())
    }

    /// One version of a snapshot.
    pub fn version(&self, catalog: &Catalog, id: &ModelId) -> Result<admin::Version, AdminError> {
        let model = model(catalog, &id.name)?;
        version_of(model, &id.version)?;
        Ok(self.shown_version(model, id, &self.models.replicas().all()))
    }

    /// The attached replicas; also while the store is away.
    pub fn replicas(&self) -> Vec<admin::Replica> {
        self.models
            .replicas()
            .all()
            .iter()
            .map(|replica| self.shown_replica(replica))
            .collect()
    }

    fn shown_model(&self, catalog: &Catalog, model: &Arc<Model>) -> admin::Model {
        let replicas = self.models.replicas().all();
        let id = |version: &_| ModelId::new(model.name.clone(), Clone::clone(version));
        admin::Model {
            name: model.name.clone(),
            current_version: model.current_version.clone(),
            linked_applications: catalog
                .applications_of(&model.name)
                .map(|found| found.name.clone())
                .collect(),
            versions: model
                .versions
                .keys()
                .map(|version| self.shown_version(model, &id(version), &replicas))
                .collect(),
        }
    }

    fn shown_version(&self, model: &Model, id: &ModelId, replicas: &[Arc<Replica>]) -> admin::Version {
        let version = &model.versions[&id.version];
        let report = self.report.version(id);
        let attached = replicas
            .iter()
            .filter(|replica| replica.registration.model == *id && !replica.draining.load(Ordering::Relaxed))
            .count();
        let attached = u32::try_from(attached).unwrap_or(u32::MAX);
        admin::Version {
            model: id.name.clone(),
            version: id.version.clone(),
            current: model.current_version == id.version,
            state: version_state(&version.spec, attached, report.failing),
            replicas_desired: version
                .spec
                .deployment
                .as_ref()
                .map(|deployment| deployment.replicas),
            spec: version.spec.clone(),
            registered_at: version.registered_at,
            progress: report.progress,
            replicas_attached: attached,
            containers: self.report.containers(id),
            restarts: report.restarts,
            last_failure: report.last_failure,
        }
    }

    fn shown_replica(&self, replica: &Replica) -> admin::Replica {
        let registration = &replica.registration;
        let container = self.report.container_of(&registration.replica);
        let draining = replica.draining.load(Ordering::Relaxed);
        let pid = container
            .as_ref()
            .and_then(|found| found.pid)
            .unwrap_or(registration.pid);
        admin::Replica {
            replica: registration.replica.clone(),
            model: registration.model.name.clone(),
            version: registration.model.version.clone(),
            state: if draining {
                ReplicaState::Draining
            } else {
                ReplicaState::Ready
            },
            container: container.map(|found| found.container),
            pid: Some(pid).filter(|&pid| pid != 0),
            hostname: registration.hostname.clone(),
            peer: replica.peer.map(|peer| peer.to_string()).unwrap_or_default(),
            attached_at: replica.attached_at,
            in_flight: replica.in_flight.load(Ordering::Relaxed),
            batches: replica.batches.load(Ordering::Relaxed),
            inputs: replica.inputs.load(Ordering::Relaxed),
        }
    }

    /// The cluster at a glance; answers also while nothing else does.
    pub fn status(&self) -> Status {
        let catalog = self.store.watch().borrow().clone().unwrap_or_default();
        let store = self.store_status(&catalog);
        let runtime_error = self.report.runtime_error();
        let info = &self.info;
        Status {
            cluster: info.cluster.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
            problems: self.problems(&catalog, &store, runtime_error.as_deref()),
            store,
            runtime: RuntimeStatus {
                kind: info.runtime_kind.into(),
                up: runtime_error.is_none(),
                error: runtime_error,
            },
            frontends: vec![Frontend {
                id: info.id.clone(),
                query_addr: info.query_addr.clone(),
                admin_addr: info.admin_addr.clone(),
                rpc_addr: info.rpc_addr.clone(),
                started_at: info.started_at,
            }],
            applications: catalog.applications.len() as u64,
            models: catalog.models.len() as u64,
            replicas: self.models.replicas().len() as u64,
        }
    }

    fn store_status(&self, catalog: &Catalog) -> StoreStatus {
        let error = match &*self.store.health().borrow() {
            StoreHealth::Up => None,
            StoreHealth::Connecting => Some("it was not reached yet".to_owned()),
            StoreHealth::Down(why) | StoreHealth::WentBack(why) => Some(why.clone()),
        };
        StoreStatus {
            kind: self.info.store_kind.into(),
            location: self.info.store_location.clone(),
            up: error.is_none(),
            generation: catalog.generation.number,
            error,
        }
    }

    fn problems(&self, catalog: &Catalog, store: &StoreStatus, runtime_error: Option<&str>) -> Vec<String> {
        let mut problems = Vec::new();
        problems.extend(match &*self.store.health().borrow() {
            // It says so itself.
            StoreHealth::WentBack(sentence) => Some(sentence.clone()),
            _ => store
                .error
                .as_ref()
                .map(|why| format!("the metadata store is away: {why}")),
        });
        problems.extend(runtime_error.map(str::to_owned));
        let replicas = self.models.replicas().all();
        for model in catalog.models.values() {
            for version in model.versions.keys() {
                let id = ModelId::new(model.name.clone(), version.clone());
                let shown = self.shown_version(model, &id, &replicas);
                problems.extend(problem_of(&id, &shown));
            }
        }
        for application in catalog
            .applications
            .values()
            .filter(|found| found.linked_models.is_empty())
        {
            problems.push(format!(
                "application `{}` has no model: link one",
                application.name
            ));
        }
        problems
    }
}

/// What is not well with a version, if anything.
fn problem_of(id: &ModelId, version: &admin::Version) -> Option<String> {
    let reason = version
        .last_failure
        .as_ref()
        .map(|failure| format!(": {}", failure.reason))
        .unwrap_or_default();
    match version.state {
        VersionState::Ready | VersionState::Stopped => None,
        VersionState::Waiting => version
            .current
            .then(|| format!("`{id}` has no replica: start a container of it")),
        VersionState::Starting | VersionState::Failing => Some(format!(
            "`{id}` has {} of {} replicas{reason}",
            version.replicas_attached,
            version.replicas_desired.unwrap_or_default()
        )),
    }
}

fn version_state(spec: &VersionSpec, attached: u32, failing: bool) -> VersionState {
    match spec.deployment.as_ref().map(|deployment| deployment.replicas) {
        None if attached == 0 => VersionState::Waiting,
        None => VersionState::Ready,
        Some(0) => VersionState::Stopped,
        Some(desired) if attached >= desired => VersionState::Ready,
        Some(_) if failing => VersionState::Failing,
        Some(_) => VersionState::Starting,
    }
}

fn shown_application(application: &Application) -> admin::Application {
    admin::Application {
        name: application.name.clone(),
        input_type: application.input_type,
        default_output: application.default_output.clone(),
        slo_micros: application.slo_micros,
        linked_models: application.linked_models.clone(),
        registered_at: application.registered_at,
    }
}

//! What the admin API shows: desired state beside what is.

use std::sync::Arc;

use jiff::Timestamp;
use skysail_core::catalog::{Application, Catalog, Model};
use skysail_core::cluster::{ClusterView, FrontendView, Trouble};
use skysail_core::rules::{application, model, version_of};
use skysail_proto::admin;
use skysail_proto::admin::{
    Control, Frontend, FrontendFigures, Role, RuntimeStatus, Status, StoreStatus, VersionState,
};
use skysail_proto::deployment::VersionSpec;
use skysail_proto::ids::{ApplicationName, ClusterName, ModelId, ModelName};
use skysail_proto::peer::Figures;

use super::{AdminError, AdminService, rollout};
use crate::peer::Silence;
use crate::store::StoreHealth;

/// What a frontend says of itself.
#[derive(Clone, Debug)]
pub(crate) struct FrontendInfo {
    /// Its cluster.
    pub cluster: ClusterName,
    /// Unique to this run.
    pub id: String,
    /// `embedded` or `redis`.
    pub store_kind: &'static str,
    /// Where the store is, without any password.
    pub store_location: String,
    /// `process`, `docker` or `none`.
    pub runtime_kind: &'static str,
}

impl AdminService {
    /// One application of a snapshot.
    pub(crate) fn application(
        catalog: &Catalog,
        name: &ApplicationName,
    ) -> Result<admin::Application, AdminError> {
        Ok(shown_application(application(catalog, name)?))
    }

    /// All applications.
    pub(crate) fn applications(&self) -> Result<Vec<admin::Application>, AdminError> {
        Ok(self
            .catalog()?
            .applications
            .values()
            .map(|found| shown_application(found))
            .collect())
    }

    /// One model of a snapshot, with its versions.
    pub(crate) fn model(&self, catalog: &Catalog, name: &ModelName) -> Result<admin::Model, AdminError> {
        let linked = catalog.applications_of(name).map(|found| found.name.clone());
        let found = model(catalog, name)?;
        Ok(self.shown_model(found, linked.collect(), &self.cluster.look()))
    }

    /// All models.
    pub(crate) fn models(&self) -> Result<Vec<admin::Model>, AdminError> {
        let catalog = self.catalog()?;
        let cluster = self.cluster.look();
        let links = catalog.links();
        let linked = |name| links.get(name).into_iter().flatten().map(|&app| app.clone());
        let models = catalog.models.values();
        Ok(models
            .map(|found| self.shown_model(found, linked(&found.name).collect(), &cluster))
            .collect())
    }

    /// One version of a snapshot.
    pub(crate) fn version(&self, catalog: &Catalog, id: &ModelId) -> Result<admin::Version, AdminError> {
        let model = model(catalog, &id.name)?;
        version_of(model, &id.version)?;
        Ok(self.shown_version(model, id, &self.cluster.look()))
    }

    /// The replicas that are attached to any frontend; also while the store is away.
    pub(crate) fn replicas(&self) -> Vec<admin::Replica> {
        let mut replicas = self.cluster.look().replicas().collect::<Vec<_>>();
        for replica in &mut replicas {
            let model = ModelId::new(replica.model.clone(), replica.version.clone());
            let Some(container) = self.report.container_of(&model, &replica.replica) else {
                continue;
            };
            replica.pid = container.pid.or(replica.pid);
            replica.container = Some(container.container);
        }
        replicas
    }

    /// A model that these applications are linked to.
    fn shown_model(
        &self,
        model: &Model,
        linked: Vec<ApplicationName>,
        cluster: &ClusterView,
    ) -> admin::Model {
        let versions = self.shown_versions(model, cluster);
        let current = versions.iter().find(|version| version.current);
        admin::Model {
            name: model.name.clone(),
            current_version: model.current_version.clone(),
            linked_applications: linked,
            serving: cluster.serving(&model.name),
            rollout: current.and_then(|current| rollout::shown(model, current, cluster)),
            versions,
        }
    }

    fn shown_versions(&self, model: &Model, cluster: &ClusterView) -> Vec<admin::Version> {
        let ids = model
            .versions
            .keys()
            .map(|version| ModelId::new(model.name.clone(), version.clone()));
        ids.map(|id| self.shown_version(model, &id, cluster)).collect()
    }

    fn shown_version(&self, model: &Model, id: &ModelId, cluster: &ClusterView) -> admin::Version {
        let version = &model.versions[&id.version];
        let report = self.report.version(id);
        let attached = cluster.attached(id);
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
            replicas_everywhere: Some(cluster.attached_everywhere(id)),
            load: cluster.load(id),
            batch_limit: cluster.batch_limit(id),
            autoscaling: self.report.autoscaling(id),
            containers: self.report.containers(id),
            moved_on: report.moved_on,
            restarts: report.restarts,
            last_failure: report.last_failure,
            token: None,
        }
    }

    /// The cluster at a glance; answers also while nothing else does.
    pub(crate) async fn status(&self) -> Status {
        let catalog = self.store.watch().borrow().clone().unwrap_or_default();
        let cluster = self.cluster.look();
        let mut figures = self.peers.figures(&cluster).await;
        figures.insert(self.info.id.clone(), Ok(self.counting.figures()));
        let store = self.store_status(&catalog);
        let runtime_error = self.report.runtime_error();
        let info = &self.info;
        let mut problems = Vec::new();
        let health = self.store.health().borrow().clone();
        problems.extend(match health {
            StoreHealth::Connecting => Some("the metadata store is away: it was not reached yet".to_owned()),
            other => other.problem(),
        });
        problems.extend(runtime_error.clone());
        let paused = self.report.problems();
        if paused.is_empty() && cluster.taking_queries().next().is_none() {
            problems.push("no frontend takes queries: start one with the query role".into());
        }
        problems.extend(paused);
        problems.extend(cluster.troubles(Timestamp::now()).into_iter().map(in_words));
        problems.extend(self.problems_of_models(&catalog, &cluster));
        problems.extend(problems_of_applications(&catalog));
        Status {
            cluster: info.cluster.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
            problems,
            store,
            runtime: RuntimeStatus {
                kind: info.runtime_kind.into(),
                up: runtime_error.is_none(),
                error: runtime_error,
            },
            frontends: cluster
                .frontends()
                .iter()
                .map(|view| self.shown_frontend(view, figures.get(&view.id)))
                .collect(),
            applications: catalog.applications.len() as u64,
            models: catalog.models.len() as u64,
            replicas: cluster.replica_count() as u64,
        }
    }

    fn shown_frontend(&self, view: &FrontendView, figures: Option<&Result<Figures, Silence>>) -> Frontend {
        let query = view.query_addr.as_ref().map(|_| Role::Query);
        let control = view.admin_addr.as_ref().map(|_| Role::Control);
        Frontend {
            id: view.id.clone(),
            query_addr: view.query_addr.clone().unwrap_or_default(),
            admin_addr: view.admin_addr.clone().unwrap_or_default(),
            ops_addr: view.ops_addr.clone(),
            rpc_addr: view.rpc_addr.clone().unwrap_or_default(),
            started_at: view.started_at,
            version: view.version.clone(),
            roles: query.into_iter().chain(control).collect(),
            control: control.and_then(|_| self.control_of(view)),
            draining: view.draining,
            replicas: view.replicas.len() as u64,
            generation: view.generation.number,
            peer_addr: view.peer_addr.clone().unwrap_or_default(),
            query_blocks: view.query_blocks.clone(),
            figures: figures
                .and_then(|figures| figures.as_ref().ok())
                .map(shown_figures),
            silence: figures
                .and_then(|figures| figures.as_ref().err())
                .map(ToString::to_string),
        }
    }

    /// Whether a frontend with the control role is the one that acts. This one knows of itself, and of the
    /// others only that they do not while it does.
    fn control_of(&self, view: &FrontendView) -> Option<Control> {
        let is_self = view.id == self.info.id;
        match self.report.acting() {
            true if is_self => Some(Control::Acting),
            false if !is_self || self.runtime.is_none() => None,
            _ => Some(Control::Standby),
        }
    }

    fn store_status(&self, catalog: &Catalog) -> StoreStatus {
        let health = self.store.health().borrow().clone();
        let up = health.is_up();
        let error = match health {
            StoreHealth::Up => None,
            StoreHealth::Connecting => Some("it was not reached yet".to_owned()),
            StoreHealth::Slow(why)
            | StoreHealth::RefusesWrites(why)
            | StoreHealth::Down(why)
            | StoreHealth::WentBack(why) => Some(why),
        };
        StoreStatus {
            kind: self.info.store_kind.into(),
            location: self.info.store_location.clone(),
            up,
            generation: catalog.generation.number,
            error,
        }
    }

    fn problems_of_models(&self, catalog: &Catalog, cluster: &ClusterView) -> Vec<String> {
        let mut problems = Vec::new();
        for model in catalog.models.values() {
            let versions = self.shown_versions(model, cluster);
            problems.extend(versions.iter().filter_map(problem_of));
            problems.extend(versions.iter().filter_map(move_of));
            // A version that fails has been told of; what only a person can go on with has not.
            let current = versions.iter().find(|version| version.current);
            let stopped = current.filter(|version| version.state == VersionState::Stopped);
            let rollout = stopped.and_then(|current| rollout::shown(model, current, cluster));
            problems.extend(rollout.map(|rollout| rollout.waits_for));
        }
        problems
    }
}

/// What is not well between frontends and replicas, in words.
fn in_words(trouble: Trouble) -> String {
    match trouble {
        Trouble::Ending { frontend } => format!("frontend `{frontend}` is ending"),
        Trouble::Overdue { replica } => {
            format!("replica `{replica}` keeps a batch for much longer than is normal for it")
        }
        Trouble::NotEverywhere {
            replica,
            reached,
            frontends,
        } => format!("replica `{replica}` is attached to {reached} of {frontends} frontends only"),
    }
}

fn shown_figures(figures: &Figures) -> FrontendFigures {
    FrontendFigures {
        queries: figures.queries,
        defaults: figures.defaults,
        queued: figures.queued,
        ready: figures.ready,
    }
}

fn problems_of_applications(catalog: &Catalog) -> Vec<String> {
    let linked = |found: &&Arc<Application>| found.linked_models.is_empty();
    catalog
        .applications
        .values()
        .filter(linked)
        .map(|found| format!("application `{}` has no model: link one", found.name))
        .collect()
}

/// What is not well with a version, if anything.
fn problem_of(version: &admin::Version) -> Option<String> {
    let id = ModelId::new(version.model.clone(), version.version.clone());
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

/// That the names of a version which is to run mean something else by now.
fn move_of(version: &admin::Version) -> Option<String> {
    let why = version.moved_on.as_ref()?;
    let wanted = version.replicas_desired.is_some_and(|desired| desired > 0);
    wanted.then(|| format!("`{}:{}`: {why}", version.model, version.version))
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
        signature: application.signature.clone(),
        default_output: application.default_output.clone(),
        slo_micros: application.slo_micros,
        weight: application.weight,
        linked_models: application.linked_models.clone(),
        registered_at: application.registered_at,
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::BTreeMap;

    use skysail_core::cluster::{FrontendView, ReplicaView};

    /// A frontend that answers with this version of `m` and sees these replicas.
    pub(in super::super) fn frontend(id: &str, version: &str, replicas: Vec<ReplicaView>) -> FrontendView {
        FrontendView {
            id: id.into(),
            query_addr: Some(format!("{id}:1337")),
            rpc_addr: Some(format!("{id}:7000")),
            serving: BTreeMap::from([("m".parse().unwrap(), version.parse().unwrap())]),
            replicas,
            ..FrontendView::default()
        }
    }
}

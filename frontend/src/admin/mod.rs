//! The admin service: checks a request against the catalog it will change, and writes desired state.
//!
//! Every rule is checked on the snapshot that the write names, so it still holds when the write lands: a
//! store that has moved on refuses, and the request is checked again on the newer snapshot.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde::de::DeserializeSeed;
use skysail_core::catalog::{Application, Catalog, Change, Generation, Model, Version};
use skysail_proto::admin::{ApplicationPatch, NewApplication, NewVersion, ReplicaCount};
use skysail_proto::deployment::{Autoscale, MAX_WARM_UP_BYTES, Replicas};
use skysail_proto::error_code::ErrorCode;
use skysail_proto::ids::{ApplicationName, ModelId, ModelName, ModelVersion};
use skysail_proto::value::{InputSeed, InputType};
use tokio::sync::{Mutex, watch};
use tokio_util::sync::CancellationToken;

use crate::model::ModelTable;
use crate::reconcile::Report;
use crate::runtime::ContainerRuntime;
use crate::store::{MetadataStore, StoreError, StoreHealth};

mod cluster;
pub mod http;
mod logs;
pub mod view;

use view::FrontendInfo;

/// How often a request is checked anew because another frontend wrote meanwhile.
const ATTEMPTS: usize = 20;

/// How long a write waits until this frontend's query path follows it. It never takes that long; a bound
/// is better than a promise.
const FOLLOW_TIME: Duration = Duration::from_secs(2);

/// The most replicas a version may ask for: far beyond any machine, and small enough to plan quickly.
const MAX_REPLICAS: u32 = 1000;

/// The smallest share of a CPU that a replica may be given: Docker takes less for no limit at all.
const LEAST_CPUS: f64 = 0.01;

/// Why a request was refused.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{detail}")]
pub struct AdminError {
    /// What kind of reason.
    pub code: ErrorCode,
    /// The reason, and what to do.
    pub detail: String,
}

impl AdminError {
    fn new(code: ErrorCode, detail: impl Into<String>) -> Self {
        Self {
            code,
            detail: detail.into(),
        }
    }
}

impl From<StoreError> for AdminError {
    fn from(error: StoreError) -> Self {
        let code = match error {
            StoreError::Conflict { .. } | StoreError::Fenced(_) | StoreError::NothingToSettle => {
                ErrorCode::Conflict
            }
            StoreError::Unavailable(_) | StoreError::HeldBack(_) => ErrorCode::Unavailable,
            StoreError::Corrupt(_) => ErrorCode::Internal,
        };
        Self::new(code, error.to_string())
    }
}

/// The control plane's front door.
pub struct AdminService {
    /// Where desired state lives.
    pub store: Arc<dyn MetadataStore>,
    /// The generation that this frontend's query path follows.
    pub followed: watch::Receiver<Generation>,
    /// What is attached.
    pub models: Arc<ModelTable>,
    /// What the reconciler sees.
    pub report: Arc<Report>,
    /// What has the containers' logs, if this frontend runs any.
    pub runtime: Option<Arc<dyn ContainerRuntime>>,
    /// What this frontend is.
    pub info: FrontendInfo,
    /// Ends what would go on for ever: a log that is followed.
    pub closing: CancellationToken,
    /// Writers of one frontend take turns, so that however many there are, none runs out of attempts.
    pub turns: Mutex<()>,
}

type Checked = Result<Vec<Change>, AdminError>;

impl AdminService {
    /// The newest snapshot.
    pub fn catalog(&self) -> Result<Arc<Catalog>, AdminError> {
        let newest = self.store.watch().borrow().clone();
        newest.ok_or_else(|| match &*self.store.health().borrow() {
            StoreHealth::WentBack(sentence) => AdminError::new(ErrorCode::Unavailable, sentence),
            _ => AdminError::new(
                ErrorCode::Unavailable,
                "the metadata store was not read yet: see GET /api/v1/status",
            ),
        })
    }

    /// Checks against the newest snapshot and writes, until nobody writes in between.
    async fn change(&self, check: impl Fn(&Catalog) -> Checked) -> Result<Arc<Catalog>, AdminError> {
        let _turn = self.turns.lock().await;
        let mut conflict = None;
        for _ in 0..ATTEMPTS {
            let catalog = self.catalog()?;
            let changes = check(&catalog)?;
            if changes.is_empty() {
                return Ok(catalog);
            }
            match self.store.commit(changes, &catalog.generation).await {
                Ok(next) => {
                    self.wait_until_followed(&next.generation).await;
                    return Ok(next);
                }
                Err(error @ StoreError::Conflict { .. }) => conflict = Some(error),
                Err(error) => return Err(error.into()),
            }
        }
        Err(conflict.map_or_else(
            || AdminError::new(ErrorCode::Conflict, "too many writers"),
            Into::into,
        ))
    }

    /// An answer means that queries sent from now on see the write, at this frontend.
    async fn wait_until_followed(&self, generation: &Generation) {
        let mut followed = self.followed.clone();
        let caught_up =
            |now: &Generation| now.incarnation == generation.incarnation && now.number >= generation.number;
        let _ = tokio::time::timeout(FOLLOW_TIME, followed.wait_for(caught_up)).await;
    }

    /// Registers an application.
    pub async fn register_application(&self, new: NewApplication) -> Result<Arc<Catalog>, AdminError> {
        let slo_micros = checked_slo(new.slo_micros)?;
        self.change(|catalog| {
            if catalog.applications.contains_key(&new.name) {
                let advice = "change it with PATCH (`skysail app update`) or delete it first";
                return Err(conflict(format!(
                    "application `{}` is already registered: {advice}",
                    new.name
                )));
            }
            Ok(vec![Change::PutApplication(Application {
                name: new.name.clone(),
                input_type: new.input_type,
                default_output: new.default_output.clone(),
                slo_micros,
                linked_models: Vec::new(),
                registered_at: Timestamp::now(),
            })])
        })
        .await
    }

    /// Changes an application's objective or default output.
    pub async fn update_application(
        &self,
        name: &ApplicationName,
        patch: ApplicationPatch,
    ) -> Result<Arc<Catalog>, AdminError> {
        let slo_micros = patch.slo_micros.map(checked_slo).transpose()?;
        self.change(|catalog| {
            let mut application = Application::clone(application(catalog, name)?);
            application.slo_micros = slo_micros.unwrap_or(application.slo_micros);
            if let Some(default_output) = &patch.default_output {
                application.default_output.clone_from(default_output);
            }
            Ok(vec![Change::PutApplication(application)])
        })
        .await
    }

    /// Deletes an application; its endpoint is gone when this returns.
    pub async fn delete_application(&self, name: &ApplicationName) -> Result<Arc<Catalog>, AdminError> {
        self.change(|catalog| {
            application(catalog, name)?;
            Ok(vec![Change::DeleteApplication(name.clone())])
        })
        .await
    }

    /// Links a model to an application. Linking what is linked changes nothing.
    pub async fn link(
        &self,
        name: &ApplicationName,
        model_name: &ModelName,
    ) -> Result<Arc<Catalog>, AdminError> {
        self.change(|catalog| {
            let mut application = Application::clone(application(catalog, name)?);
            let model = model(catalog, model_name)
                .map_err(|missing| conflict(format!("{}: deploy or register it first", missing.detail)))?;
            if application.linked_models.contains(model_name) {
                return Ok(Vec::new());
            }
            if let Some(linked) = application.linked_models.first() {
                let advice = format!("unlink it first (`skysail app unlink {name} {linked}`)");
                return Err(conflict(format!("application `{name}` is already linked to model `{linked}`: {advice}")));
            }
            if let Some(current) = model.current().filter(|found| found.spec.input_type != application.input_type) {
                return Err(conflict(format!(
                    "model `{model_name}` takes {}, application `{name}` takes {}: link a model of the same input type",
                    current.spec.input_type, application.input_type
                )));
            }
            application.linked_models.push(model_name.clone());
            Ok(vec![Change::PutApplication(application)])
        })
        .await
    }

    /// Unlinks a model from an application.
    pub async fn unlink(
        &self,
        name: &ApplicationName,
        model_name: &ModelName,
    ) -> Result<Arc<Catalog>, AdminError> {
        self.change(|catalog| {
            let mut application = Application::clone(application(catalog, name)?);
            if !application.linked_models.contains(model_name) {
                let detail = format!("model `{model_name}` is not linked to application `{name}`");
                return Err(AdminError::new(ErrorCode::NotFound, detail));
            }
            application.linked_models.retain(|linked| linked != model_name);
            Ok(vec![Change::PutApplication(application)])
        })
        .await
    }

    /// Registers or deploys a version, which becomes the current one.
    pub async fn register_version(
        &self,
        name: &ModelName,
        new: NewVersion,
    ) -> Result<Arc<Catalog>, AdminError> {
        check_deployment(&new)?;
        let id = ModelId::new(name.clone(), new.version.clone());
        let catalog = self
            .change(|catalog| {
                if catalog.version(&id).is_some() {
                    let advice = format!(
                        "deploy another version, scale this one (`skysail model scale {id} N`), or delete it first \
                         (`skysail model delete {id}`)"
                    );
                    return Err(conflict(format!("model `{name}` already has a version `{}`: {advice}", new.version)));
                }
                check_linked_types(catalog, name, &new)?;
                let version = Version { spec: new.spec(), registered_at: Timestamp::now() };
                let mut versions = catalog.models.get(name).map(|model| model.versions.clone()).unwrap_or_default();
                versions.insert(new.version.clone(), version);
                let current_version = new.version.clone();
                Ok(vec![Change::PutModel(Model { name: name.clone(), current_version, rollout: None, versions })])
            })
            .await?;
        self.report.forgive(&id);
        Ok(catalog)
    }

    /// Chooses the version that answers.
    pub async fn set_current_version(
        &self,
        name: &ModelName,
        version: &ModelVersion,
    ) -> Result<Arc<Catalog>, AdminError> {
        self.change(|catalog| {
            let mut model = Model::clone(model(catalog, name)?);
            let chosen = version_of(&model, version)?;
            for application in catalog.applications_of(name) {
                if application.input_type != chosen.spec.input_type {
                    return Err(conflict(format!(
                        "version `{version}` takes {}, but application `{}`, which is linked to model `{name}`, takes {}",
                        chosen.spec.input_type, application.name, application.input_type
                    )));
                }
            }
            model.current_version = version.clone();
            Ok(vec![Change::PutModel(model)])
        })
        .await
    }

    /// Deletes a version, and with the last one the model; its containers are stopped.
    pub async fn delete_version(&self, id: &ModelId) -> Result<Arc<Catalog>, AdminError> {
        self.change(|catalog| {
            let mut model = Model::clone(model(catalog, &id.name)?);
            version_of(&model, &id.version)?;
            if model.versions.len() == 1 {
                if let Some(application) = catalog.applications_of(&id.name).next() {
                    let advice = format!(
                        "unlink it first (`skysail app unlink {} {}`)",
                        application.name, id.name
                    );
                    let linked = format!(
                        "`{id}` is the last version of a model that application `{}` is linked to",
                        application.name
                    );
                    return Err(conflict(format!("{linked}: {advice}")));
                }
                return Ok(vec![Change::DeleteModel(id.name.clone())]);
            }
            if model.current_version == id.version {
                let advice = format!(
                    "choose another first (`skysail model set-version {}:VERSION`)",
                    id.name
                );
                return Err(conflict(format!("`{id}` is the current version: {advice}")));
            }
            model.versions.remove(&id.version);
            Ok(vec![Change::PutModel(model)])
        })
        .await
    }

    /// Chooses how many replicas a version has.
    pub async fn scale(&self, id: &ModelId, wanted: ReplicaCount) -> Result<Arc<Catalog>, AdminError> {
        let wanted = wanted_replicas(wanted)?;
        let catalog = self
            .change(|catalog| {
                let mut model = Model::clone(model(catalog, &id.name)?);
                version_of(&model, &id.version)?;
                let version = model
                    .versions
                    .get_mut(&id.version)
                    .expect("looked up a line above; this is a bug");
                let Some(deployment) = &mut version.spec.deployment else {
                    let detail = format!(
                        "`{id}` was registered without an image: start or stop its containers yourself"
                    );
                    return Err(conflict(detail));
                };
                match wanted {
                    Replicas::Fixed(count) => {
                        deployment.replicas = count;
                        deployment.autoscale = None;
                    }
                    Replicas::Auto(bounds) => {
                        deployment.replicas = deployment.replicas.clamp(bounds.min, bounds.max);
                        deployment.autoscale = Some(bounds);
                    }
                }
                Ok(vec![Change::PutModel(model)])
            })
            .await?;
        self.report.forgive(id);
        Ok(catalog)
    }
}

fn conflict(detail: String) -> AdminError {
    AdminError::new(ErrorCode::Conflict, detail)
}

fn invalid(detail: String) -> AdminError {
    AdminError::new(ErrorCode::InvalidArgument, detail)
}

fn checked_slo(micros: i64) -> Result<u64, AdminError> {
    let positive = u64::try_from(micros).ok().filter(|&micros| micros > 0);
    positive.ok_or_else(|| {
        invalid(format!(
            "slo_micros is {micros}: a latency objective is at least 1 microsecond"
        ))
    })
}

fn check_replicas(count: u32) -> Result<(), AdminError> {
    if count <= MAX_REPLICAS {
        return Ok(());
    }
    Err(invalid(format!(
        "{count} replicas are more than the {MAX_REPLICAS} that are allowed"
    )))
}

fn check_autoscale(bounds: Autoscale) -> Result<(), AdminError> {
    let Autoscale { min, max } = bounds;
    if min == 0 || max < min {
        return Err(invalid(format!(
            "autoscale from {min} to {max} replicas: the fewest are at least 1 and at most as many as the most"
        )));
    }
    check_replicas(max)
}

fn wanted_replicas(wanted: ReplicaCount) -> Result<Replicas, AdminError> {
    match (wanted.count, wanted.autoscale) {
        (Some(count), None) => check_replicas(count).map(|()| Replicas::Fixed(count)),
        (None, Some(bounds)) => check_autoscale(bounds).map(|()| Replicas::Auto(bounds)),
        _ => Err(invalid(
            r#"give either a count, as in {"count": 3}, or bounds, as in {"autoscale": {"min": 1, "max": 8}}"#.into(),
        )),
    }
}

fn check_deployment(new: &NewVersion) -> Result<(), AdminError> {
    let Some(deployment) = &new.deployment else {
        return Ok(());
    };
    check_replicas(deployment.replicas)?;
    if let Some(bounds) = deployment.autoscale {
        check_autoscale(bounds)?;
        if !(bounds.min..=bounds.max).contains(&deployment.replicas) {
            return Err(invalid(format!(
                "replicas is {}, outside of autoscale's {} to {}: start with a number within",
                deployment.replicas, bounds.min, bounds.max
            )));
        }
    }
    if deployment.image.trim().is_empty() {
        return Err(invalid(
            "the image is empty: name a Docker image, or an executable's path".into(),
        ));
    }
    if let Some(cpus) = deployment
        .cpus
        .filter(|cpus| !cpus.is_finite() || *cpus < LEAST_CPUS)
    {
        return Err(invalid(format!(
            "cpus is {cpus}: it must be at least {LEAST_CPUS}"
        )));
    }
    if deployment.memory_bytes == Some(0) {
        return Err(invalid("memory_bytes is 0: it must be above 0".into()));
    }
    let bad_name = |name: &&String| name.is_empty() || name.contains('=') || name.contains('\0');
    if let Some(name) = deployment.env.keys().find(bad_name) {
        return Err(invalid(format!(
            "`{name}` is not a name for an environment variable"
        )));
    }
    if let Some((name, _)) = deployment.env.iter().find(|(_, value)| value.contains('\0')) {
        return Err(invalid(format!(
            "the environment variable `{name}` holds a NUL character"
        )));
    }
    match &deployment.warm_up {
        Some(input) => check_warm_up(new.input_type, input),
        None => Ok(()),
    }
}

/// A container could only warn of a warm-up input that is none, long after whoever gave it has gone.
fn check_warm_up(input_type: InputType, input: &serde_json::Value) -> Result<(), AdminError> {
    InputSeed(input_type)
        .deserialize(input)
        .map_err(|error| invalid(format!("warm_up is no input of this version: {error}")))?;
    let bytes = input.to_string().len();
    if bytes > MAX_WARM_UP_BYTES {
        return Err(invalid(format!(
            "warm_up has {bytes} bytes as JSON, more than the {MAX_WARM_UP_BYTES} that a container's environment \
             has room for: choose a smaller input, or let the model offer its own"
        )));
    }
    Ok(())
}

/// A version that becomes current must take what the linked applications send.
fn check_linked_types(catalog: &Catalog, name: &ModelName, new: &NewVersion) -> Result<(), AdminError> {
    let differs = |found: &&Arc<Application>| found.input_type != new.input_type;
    match catalog.applications_of(name).find(differs) {
        None => Ok(()),
        Some(application) => Err(conflict(format!(
            "model `{name}` is linked to application `{}`, which takes {}; the new version takes {}",
            application.name, application.input_type, new.input_type
        ))),
    }
}

fn application<'a>(catalog: &'a Catalog, name: &ApplicationName) -> Result<&'a Arc<Application>, AdminError> {
    catalog.applications.get(name).ok_or_else(|| {
        let known = listed(
            "applications",
            catalog.applications.keys().map(ApplicationName::as_str),
        );
        AdminError::new(
            ErrorCode::NotFound,
            format!("no application `{name}` is registered ({known})"),
        )
    })
}

fn model<'a>(catalog: &'a Catalog, name: &ModelName) -> Result<&'a Arc<Model>, AdminError> {
    catalog.models.get(name).ok_or_else(|| {
        let known = listed("models", catalog.models.keys().map(ModelName::as_str));
        AdminError::new(
            ErrorCode::NotFound,
            format!("no model `{name}` is registered ({known})"),
        )
    })
}

fn version_of<'a>(model: &'a Model, version: &ModelVersion) -> Result<&'a Version, AdminError> {
    model.versions.get(version).ok_or_else(|| {
        let known = listed("versions", model.versions.keys().map(ModelVersion::as_str));
        AdminError::new(
            ErrorCode::NotFound,
            format!("model `{}` has no version `{version}` ({known})", model.name),
        )
    })
}

/// Some of the names there are, for a person who mistyped one.
fn listed<'a>(what: &str, names: impl ExactSizeIterator<Item = &'a str>) -> String {
    const SHOWN: usize = 10;
    let count = names.len();
    if count == 0 {
        return format!("there are no {what}");
    }
    let shown = names.take(SHOWN).collect::<Vec<_>>().join(", ");
    if count > SHOWN {
        format!("{what}: {shown}, and {} more", count - SHOWN)
    } else {
        format!("{what}: {shown}")
    }
}

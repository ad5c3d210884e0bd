//! The admin service: checks a request against the catalog it will change, and writes desired state.
//!
//! Every rule is checked on the snapshot that the write names, so it still holds when the write lands: a
//! store that has moved on refuses, and the request is checked again on the newer snapshot. The rules are in
//! [`skysail_core::rules`] (what goes together with the catalog) and [`skysail_core::limits`] (what goes at all);
//! `words` tells what they refuse, and `view` shows what there is,
//! by what all frontends see ([`ClusterWatch`]). Who may ask is decided before, in [`access`].

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use skysail_core::catalog::{Catalog, Generation};
use skysail_core::limits::{check_version, checked_slo, checked_weight, wanted_replicas};
use skysail_core::rules::{self, Checked, Objectives};
use skysail_proto::admin::{ApplicationPatch, NewApplication, NewVersion, ReplicaCount};
use skysail_proto::error_code::ErrorCode;
use skysail_proto::ids::{ApplicationName, ModelId, ModelName, ModelVersion};
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use crate::artifacts::Artifacts;
use crate::cluster::ClusterWatch;
use crate::peer::{Counting, Peers};
use crate::reconcile::Report;
use crate::runtime::ContainerRuntime;
use crate::store::{CatalogStore, StoreError, StoreHealth};

pub(crate) mod access;
mod artifacts;
mod cluster;
pub(crate) mod http;
mod join;
mod logs;
mod rollout;
pub(crate) mod view;
mod words;

use access::token::AskedToken;
use view::FrontendInfo;

/// How often a request is checked anew because another frontend wrote meanwhile.
const ATTEMPTS: usize = 20;

/// How long a change may take until it is answered that it took too long: clients wait longer than that.
const CHANGE_TIME: Duration = Duration::from_secs(10);

/// How long a write waits until this frontend's query path follows it. It never takes that long; a bound
/// is better than a promise.
const FOLLOW_TIME: Duration = Duration::from_secs(2);

/// How long a write waits until the other frontends say that they follow it too. They do within some dozen
/// milliseconds; one that was killed says nothing until it is forgotten, and must not delay every write.
const OTHERS_FOLLOW_TIME: Duration = Duration::from_millis(500);

/// Why a request was refused.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{detail}")]
pub(crate) struct AdminError {
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
            StoreError::Unavailable(_)
            | StoreError::Refuses(_)
            | StoreError::Unanswered(_)
            | StoreError::HeldBack(_) => ErrorCode::Unavailable,
            StoreError::Corrupt(_) => ErrorCode::Internal,
        };
        Self::new(code, error.to_string())
    }
}

/// The control plane's front door.
pub(crate) struct AdminService {
    /// Where desired state lives.
    pub store: Arc<dyn CatalogStore>,
    /// What all frontends see.
    pub cluster: Arc<ClusterWatch>,
    /// What this frontend counts.
    pub counting: Counting,
    /// The way to the other frontends.
    pub peers: Peers,
    /// What the reconciler sees.
    pub report: Arc<Report>,
    /// What has the containers' logs, if this frontend runs any.
    pub runtime: Option<Arc<dyn ContainerRuntime>>,
    /// Files that were uploaded to this frontend.
    pub artifacts: Arc<Artifacts>,
    /// What this frontend is.
    pub info: FrontendInfo,
    /// Ends what would go on for ever: a log that is followed.
    pub closing: CancellationToken,
    /// The token that is asked for, whose hash the first change brings into the catalog.
    pub token: AskedToken,
    /// Writers of one frontend take turns, so that however many there are, none runs out of attempts.
    pub turns: Mutex<()>,
}

impl AdminService {
    /// The newest snapshot.
    pub(crate) fn catalog(&self) -> Result<Arc<Catalog>, AdminError> {
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
        let changing = tokio::time::timeout(CHANGE_TIME, self.insist(check));
        changing.await.unwrap_or_else(|_| Err(self.took_too_long()))
    }

    fn took_too_long(&self) -> AdminError {
        let why = self.store.health().borrow().problem();
        let why = why.unwrap_or_else(|| "many changes wait for the metadata store".to_owned());
        let seconds = CHANGE_TIME.as_secs();
        AdminError::new(
            ErrorCode::Unavailable,
            format!(
                "it is not known after {seconds} s whether this was done, so look before you ask again: {why}"
            ),
        )
    }

    async fn insist(&self, check: impl Fn(&Catalog) -> Checked) -> Result<Arc<Catalog>, AdminError> {
        if let Some(sentence) = self.report.waits_for_a_person() {
            return Err(AdminError::new(ErrorCode::Unavailable, sentence));
        }
        let _turn = self.turns.lock().await;
        let mut conflict = None;
        for _ in 0..ATTEMPTS {
            let catalog = self.catalog()?;
            let changes = check(&catalog)?;
            if changes.is_empty() {
                return Ok(catalog);
            }
            let changes = join::with_key(&catalog, self.token.with_hash(&catalog, changes));
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

    /// An answer means that queries sent from now on see the write.
    async fn wait_until_followed(&self, generation: &Generation) {
        let mut views = self.cluster.subscribe();
        let follows = views.wait_for(|cluster| {
            let own = cluster.own();
            own.is_some_and(|own| own.generation.has_reached(generation))
        });
        let _ = tokio::time::timeout(FOLLOW_TIME, follows).await;
        let others_follow = views.wait_for(|cluster| cluster.others_follow(generation));
        let _ = tokio::time::timeout(OTHERS_FOLLOW_TIME, others_follow).await;
    }

    /// Registers an application.
    pub(crate) async fn register_application(&self, new: NewApplication) -> Result<Arc<Catalog>, AdminError> {
        let slo_micros = checked_slo(new.slo_micros)?;
        let weight = new.weight.map(checked_weight).transpose()?;
        self.change(|catalog| {
            rules::register_application(catalog, &new, slo_micros, weight, Timestamp::now())
        })
        .await
    }

    /// Changes an application's objective, default output or weight.
    pub(crate) async fn update_application(
        &self,
        name: &ApplicationName,
        patch: ApplicationPatch,
    ) -> Result<Arc<Catalog>, AdminError> {
        let objectives = Objectives {
            slo_micros: patch.slo_micros.map(checked_slo).transpose()?,
            weight: patch.weight.map(checked_weight).transpose()?,
        };
        let default_output = patch.default_output.as_deref();
        self.change(|catalog| rules::update_application(catalog, name, objectives, default_output))
            .await
    }

    /// Deletes an application; its endpoint is gone when this returns.
    pub(crate) async fn delete_application(
        &self,
        name: &ApplicationName,
    ) -> Result<Arc<Catalog>, AdminError> {
        self.change(|catalog| rules::delete_application(catalog, name))
            .await
    }

    /// Links a model to an application. Linking what is linked changes nothing.
    pub(crate) async fn link(
        &self,
        name: &ApplicationName,
        model_name: &ModelName,
    ) -> Result<Arc<Catalog>, AdminError> {
        self.change(|catalog| rules::link(catalog, name, model_name))
            .await
    }

    /// Unlinks a model from an application.
    pub(crate) async fn unlink(
        &self,
        name: &ApplicationName,
        model_name: &ModelName,
    ) -> Result<Arc<Catalog>, AdminError> {
        self.change(|catalog| rules::unlink(catalog, name, model_name))
            .await
    }

    /// Registers or deploys a version, which becomes the current one; what answered before goes on until it
    /// is ready.
    pub(crate) async fn register_version(
        &self,
        name: &ModelName,
        new: NewVersion,
    ) -> Result<Arc<Catalog>, AdminError> {
        check_version(&new)?;
        self.check_artifacts(&new).await?;
        let catalog = self
            .change(|catalog| {
                let cluster = self.cluster.look();
                rules::register_version(catalog, name, &new, &cluster, Timestamp::now())
            })
            .await?;
        self.report.forgive(&ModelId::new(name.clone(), new.version));
        Ok(catalog)
    }

    /// Chooses the version that answers; what answered before goes on until it is ready.
    pub(crate) async fn set_current_version(
        &self,
        name: &ModelName,
        version: &ModelVersion,
    ) -> Result<Arc<Catalog>, AdminError> {
        self.change(|catalog| rules::set_current_version(catalog, name, version, &self.cluster.look()))
            .await
    }

    /// Deletes a version, and with the last one the model; its containers are stopped.
    pub(crate) async fn delete_version(&self, id: &ModelId) -> Result<Arc<Catalog>, AdminError> {
        self.change(|catalog| rules::delete_version(catalog, id, &self.cluster.look()))
            .await
    }

    /// Chooses how many replicas a version has.
    pub(crate) async fn scale(&self, id: &ModelId, wanted: ReplicaCount) -> Result<Arc<Catalog>, AdminError> {
        let wanted = wanted_replicas(wanted)?;
        let catalog = self.change(|catalog| rules::scale(catalog, id, wanted)).await?;
        self.report.forgive(id);
        Ok(catalog)
    }
}

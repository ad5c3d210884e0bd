//! The admin API's JSON bodies, shared by the server and the CLI.
//!
//! | request | body | answer |
//! |---|---|---|
//! | `GET /api/v1/applications` | | `[Application]` |
//! | `POST /api/v1/applications` | [`NewApplication`] | 201 [`Application`] |
//! | `GET /api/v1/applications/{app}` | | [`Application`] |
//! | `PATCH /api/v1/applications/{app}` | [`ApplicationPatch`] | [`Application`] |
//! | `DELETE /api/v1/applications/{app}` | | 204 |
//! | `PUT`, `DELETE /api/v1/applications/{app}/models/{model}` | | [`Application`] |
//! | `GET /api/v1/models` | | `[Model]` |
//! | `GET /api/v1/models/{model}` | | [`Model`] |
//! | `POST /api/v1/models/{model}/versions` | [`NewVersion`] | 201 [`Version`] |
//! | `GET /api/v1/models/{model}/versions/{version}` | | [`Version`] |
//! | `DELETE /api/v1/models/{model}/versions/{version}` | | 204 |
//! | `GET /api/v1/models/{model}/versions/{version}/token` | | [`JoinToken`] |
//! | `PUT /api/v1/models/{model}/current-version` | [`CurrentVersion`] | [`Model`] |
//! | `PUT /api/v1/models/{model}/versions/{version}/replicas` | [`ReplicaCount`] | [`Version`] |
//! | `GET /api/v1/models/{model}/versions/{version}/logs?tail=N&follow=true` | | [`LogLine`], one JSON object a line |
//! | `PUT /api/v1/artifacts/{sha256}` | the bytes of a file | 200 or 201 [`StoredArtifact`] |
//! | `GET /api/v1/artifacts/{sha256}` | | [`StoredArtifact`] |
//! | `GET /api/v1/replicas` | | `[Replica]` |
//! | `GET /api/v1/status` | | [`Status`] |
//! | `POST /api/v1/cluster/restore`, `POST /api/v1/cluster/accept-empty` | | [`Settlement`] |
//! | `POST /api/v1/cluster/adopt` | | [`Adoption`] |
//! | `GET /metrics` | | Prometheus text, or OpenMetrics where `Accept` asks for it |
//!
//! Bodies are taken as `application/json` only, except an artifact's, which is `application/octet-stream`. Where a token is asked for
//! ([`admin_token`](crate::admin_token)), requests below [`API_PREFIX`] show it.
//! Errors are [`Problem`] documents (RFC 9457).

use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroU32;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::deployment::{self, Autoscale, BatchSize, Deployment, Replicas, VersionSpec};
use crate::ids::{ApplicationName, ClusterName, ModelName, ModelVersion, ReplicaId};
use crate::sha256::Sha256;
use crate::signature::Signature;
use crate::value::InputType;

/// Where the admin API's paths begin.
pub const API_PREFIX: &str = "/api/v1";

/// A file that a frontend keeps.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct StoredArtifact {
    /// The SHA-256 of its content, which is its name.
    pub sha256: Sha256,
    /// How many bytes it has.
    pub bytes: u64,
}

/// Registers an application.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(try_from = "WrittenApplication")]
pub struct NewApplication {
    /// Its name, and the first segment of its endpoint's path.
    pub name: ApplicationName,
    /// What it takes and gives: `input_type`, and beside `tensors` also `signature`; or `like`.
    #[serde(flatten)]
    pub signature: NewSignature,
    /// What is answered when no model can, given as JSON if it is JSON.
    pub default_output: String,
    /// Its latency objective, in microseconds; at least 1.
    pub slo_micros: i64,
    /// How much of its model's capacity is its share beside other applications', 1 to 1000 [default: 1].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<i64>,
}

/// What a new application takes and gives: exactly one of `input_type` and `like`.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(into = "WrittenSignature")]
pub enum NewSignature {
    /// This: `input_type`, and beside `tensors` also `signature`.
    Given(Signature),
    /// What the current version of this model takes and gives.
    Like(ModelName),
}

impl From<Signature> for NewSignature {
    fn from(given: Signature) -> Self {
        Self::Given(given)
    }
}

impl From<InputType> for NewSignature {
    fn from(input_type: InputType) -> Self {
        Self::Given(input_type.into())
    }
}

/// The members of a [`NewApplication`], as they are read. Each by itself: behind a flattened struct, a member that is
/// mistyped would be reported as the one that is missing.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenApplication {
    name: ApplicationName,
    input_type: Option<String>,
    signature: Option<serde_json::Value>,
    like: Option<ModelName>,
    default_output: String,
    slo_micros: i64,
    weight: Option<i64>,
}

impl TryFrom<WrittenApplication> for NewApplication {
    type Error = String;
    fn try_from(written: WrittenApplication) -> Result<Self, String> {
        let declared = written.signature.map(|declared| declared.to_string());
        let signature = match (written.input_type, written.like) {
            (Some(input_type), None) => {
                let given = Signature::from_text(&input_type, declared.as_deref())?;
                NewSignature::Given(given)
            }
            (None, Some(model)) if declared.is_none() => NewSignature::Like(model),
            (None, None) => {
                return Err("missing field `input_type`, or `like` with a model's name".to_owned());
            }
            _ => return Err("`like` stands for `input_type` and `signature`: give it, or them".to_owned()),
        };
        Ok(Self {
            name: written.name,
            signature,
            default_output: written.default_output,
            slo_micros: written.slo_micros,
            weight: written.weight,
        })
    }
}

/// The members of a [`NewSignature`], as they are written.
#[derive(Serialize)]
struct WrittenSignature {
    #[serde(skip_serializing_if = "Option::is_none")]
    input_type: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    signature: Option<serde_json::Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    like: Option<ModelName>,
}

impl From<NewSignature> for WrittenSignature {
    fn from(signature: NewSignature) -> Self {
        match signature {
            NewSignature::Given(given) => Self {
                input_type: Some(given.input_word()),
                signature: given
                    .declared_text()
                    .map(|text| serde_json::from_str(&text).expect("it was written by us; this is a bug")),
                like: None,
            },
            NewSignature::Like(model) => Self {
                input_type: None,
                signature: None,
                like: Some(model),
            },
        }
    }
}

/// Changes an application; what is absent stays.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ApplicationPatch {
    /// A new default output.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_output: Option<String>,
    /// A new latency objective, in microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slo_micros: Option<i64>,
    /// A new weight, 1 to 1000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<i64>,
}

/// An application as it is.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Application {
    /// Its name.
    pub name: ApplicationName,
    /// What it takes and gives: `input_type`, and beside `tensors` also `signature`.
    #[serde(flatten)]
    pub signature: Signature,
    /// What is answered when no model can.
    pub default_output: String,
    /// Its latency objective, in microseconds.
    pub slo_micros: u64,
    /// Its share of its model's capacity beside other applications'.
    #[serde(default = "default_weight")]
    pub weight: NonZeroU32,
    /// The models that answer it.
    pub linked_models: Vec<ModelName>,
    /// When it was registered.
    pub registered_at: Timestamp,
}

/// As much as any other application's: the weight of one that was given none.
pub const fn default_weight() -> NonZeroU32 {
    NonZeroU32::MIN
}

/// Deploys a version (with `deployment`) or registers one whose containers attach by themselves (without).
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(try_from = "WrittenVersion")]
pub struct NewVersion {
    /// The version's name.
    pub version: ModelVersion,
    /// What it takes and gives: `input_type`, and beside `tensors` also `signature`.
    #[serde(flatten)]
    pub signature: Signature,
    /// How batches are sized.
    pub batch_size: BatchSize,
    /// The largest batch ever sent; by default as large as replicas have shown that they can take.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_batch: Option<NonZeroU32>,
    /// Whether equal inputs may be answered from the prediction cache.
    pub cache: bool,
    /// Whether the model's other versions are stopped once this one answers.
    pub replace: bool,
    /// What Skysail runs; none for a version whose containers attach by themselves.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deployment: Option<Deployment>,
    /// Whether any container may attach, without a token; only without `deployment`.
    #[serde(skip_serializing_if = "deployment::is_false")]
    pub open: bool,
    /// What is known of the model beyond its signature, such as the names of its classes.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// The members of a [`NewVersion`], as they are read; each by itself, like those of a [`WrittenApplication`].
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenVersion {
    version: ModelVersion,
    input_type: String,
    signature: Option<serde_json::Value>,
    #[serde(default)]
    batch_size: BatchSize,
    max_batch: Option<NonZeroU32>,
    #[serde(default = "deployment::yes")]
    cache: bool,
    #[serde(default)]
    replace: bool,
    deployment: Option<Deployment>,
    #[serde(default)]
    open: bool,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

impl TryFrom<WrittenVersion> for NewVersion {
    type Error = String;
    fn try_from(written: WrittenVersion) -> Result<Self, String> {
        let declared = written.signature.map(|declared| declared.to_string());
        Ok(Self {
            version: written.version,
            signature: Signature::from_text(&written.input_type, declared.as_deref())?,
            batch_size: written.batch_size,
            max_batch: written.max_batch,
            cache: written.cache,
            replace: written.replace,
            deployment: written.deployment,
            open: written.open,
            annotations: written.annotations,
        })
    }
}

impl NewVersion {
    /// A version with defaults for everything but what it must have.
    pub fn new(version: ModelVersion, signature: impl Into<Signature>) -> Self {
        Self {
            version,
            signature: signature.into(),
            batch_size: BatchSize::default(),
            max_batch: None,
            cache: true,
            replace: false,
            deployment: None,
            open: false,
            annotations: BTreeMap::new(),
        }
    }

    /// A version of which all is known.
    pub fn of(version: ModelVersion, spec: VersionSpec) -> Self {
        let VersionSpec {
            signature,
            batch_size,
            max_batch,
            cache,
            deployment,
            open,
            annotations,
        } = spec;
        Self {
            version,
            signature,
            batch_size,
            max_batch,
            cache,
            replace: false,
            deployment,
            open,
            annotations,
        }
    }

    /// What the catalog keeps of it.
    pub fn spec(&self) -> VersionSpec {
        VersionSpec {
            signature: self.signature.clone(),
            batch_size: self.batch_size,
            max_batch: self.max_batch,
            cache: self.cache,
            deployment: self.deployment.clone(),
            open: self.open,
            annotations: self.annotations.clone(),
        }
    }
}

/// Chooses the version that answers.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct CurrentVersion {
    /// Any registered version.
    pub version: ModelVersion,
}

/// Chooses how many replicas a version has.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ReplicaCount {
    /// Replicas wanted; 0 stops the version. Instead of `autoscale`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<u32>,
    /// Bounds within which the number follows the load. Instead of `count`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub autoscale: Option<Autoscale>,
}

impl From<Replicas> for ReplicaCount {
    fn from(replicas: Replicas) -> Self {
        match replicas {
            Replicas::Fixed(count) => Self {
                count: Some(count),
                autoscale: None,
            },
            Replicas::Auto(bounds) => Self {
                count: None,
                autoscale: Some(bounds),
            },
        }
    }
}

/// A model and its versions.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Model {
    /// Its name.
    pub name: ModelName,
    /// The version that answers.
    pub current_version: ModelVersion,
    /// The applications it is linked to.
    pub linked_applications: Vec<ApplicationName>,
    /// Which versions answer, and at which frontends: while a change of versions is under way these may be
    /// two. Empty while no frontend that takes queries is seen.
    #[serde(default)]
    pub serving: Vec<Serving>,
    /// The change of versions that is under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout: Option<Rollout>,
    /// All versions.
    pub versions: Vec<Version>,
}

/// A version that answers queries which pin none, and where.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Serving {
    /// The version.
    pub version: ModelVersion,
    /// The frontends that answer with it, by id.
    pub frontends: Vec<String>,
}

/// A change of versions under way.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Rollout {
    /// The version that answered when the change was asked for.
    pub from: ModelVersion,
    /// The version that is to answer: the current one.
    pub to: ModelVersion,
    /// Whether the model's other versions are stopped at its end.
    pub replace: bool,
    /// Frontends that take queries.
    pub frontends: u32,
    /// How many of them answer with `to`.
    pub switched: u32,
    /// What it waits for, in a sentence.
    pub waits_for: String,
}

/// One version: what was asked for and what is.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Version {
    /// The model.
    pub model: ModelName,
    /// The version.
    pub version: ModelVersion,
    /// Whether it is the one that answers.
    pub current: bool,
    /// What was asked for.
    #[serde(flatten)]
    pub spec: VersionSpec,
    /// When it was registered.
    pub registered_at: Timestamp,
    /// How it is.
    pub state: VersionState,
    /// What it is waiting for just now, in words ("pulling 40 %"), if anything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<String>,
    /// Replicas wanted; none for a version whose containers attach by themselves.
    pub replicas_desired: Option<u32>,
    /// Replicas that are attached to at least one frontend and answer.
    pub replicas_attached: u32,
    /// Those of them that are attached to every frontend that takes queries.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas_everywhere: Option<u32>,
    /// What is asked of it, at all frontends together.
    #[serde(default)]
    pub load: Load,
    /// A limit to the size of its batches that stands for a while, because one failed or cost a replica.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch_limit: Option<BatchLimit>,
    /// With a number of replicas that follows the load: what was decided last and why, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub autoscaling: Option<String>,
    /// The containers the runtime has for it, running or ended.
    pub containers: Vec<Container>,
    /// That its image's name, or one of its files, means something else by now than what the version runs, in a
    /// sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub moved_on: Option<String>,
    /// Times a container failed or could not be started, since this frontend started.
    pub restarts: u64,
    /// The last time a container failed or could not be started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_failure: Option<Failure>,
    /// The token that containers started by hand show, in the answer to a registration that needs one; see
    /// [`JoinToken`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
}

/// What containers started by hand show to attach.
#[derive(Clone, Deserialize, Serialize)]
pub struct JoinToken {
    /// The value of `SKYSAIL_TOKEN`; empty where the version is open.
    pub token: String,
}

/// What is asked of a version, at all frontends together.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Load {
    /// Queries a second, lately, that the model was needed for: hits of the cache are not among them.
    pub arrivals_per_second: f64,
    /// Queries that wait.
    pub queued: u64,
}

/// A limit to the size of a version's batches, found out by one that was too large.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
pub struct BatchLimit {
    /// Batches have at most so many inputs.
    pub inputs: u64,
    /// The batch that failed as a whole, or was lost with its replica, had so many.
    pub failed_inputs: u64,
    /// When it failed.
    pub since: Timestamp,
}

/// How a version is.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum VersionState {
    /// As many replicas are attached as are wanted.
    Ready,
    /// Containers are being started or have not attached yet.
    Starting,
    /// Containers fail, and are tried again with growing pauses.
    Failing,
    /// None is wanted, none is there.
    Stopped,
    /// Its containers attach by themselves, and none has.
    Waiting,
}

/// A container as the runtime sees it.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Container {
    /// Its name in the runtime.
    pub container: String,
    /// The replica it runs.
    pub replica: ReplicaId,
    /// `running`, `exited`, … in the runtime's words.
    pub state: String,
    /// Its process id on this machine, with the process runtime.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
}

/// Why a container failed or could not be started.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Failure {
    /// When.
    pub at: Timestamp,
    /// The replica.
    pub replica: ReplicaId,
    /// In a sentence.
    pub reason: String,
    /// Its exit code, if it ran.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i64>,
    /// Whether trying again as it is cannot help (an image that does not exist).
    pub permanent: bool,
    /// The container's last log lines.
    pub log: Vec<String>,
}

/// An attached replica.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Replica {
    /// Its id.
    pub replica: ReplicaId,
    /// Its model.
    pub model: ModelName,
    /// Its version.
    pub version: ModelVersion,
    /// How it is.
    pub state: ReplicaState,
    /// The container's name, where the runtime has names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// The process id it registered with; in a container of its own that is the id inside.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// The host name it registered with.
    pub hostname: String,
    /// The address it dialled from.
    pub peer: String,
    /// When it attached: to the first of the frontends that see it.
    pub attached_at: Timestamp,
    /// Batches in its hands, from all frontends.
    pub in_flight: u32,
    /// Batches answered, to all frontends that see it.
    pub batches: u64,
    /// Inputs answered, to all frontends that see it.
    pub inputs: u64,
    /// The frontends it is attached to, by id.
    #[serde(default)]
    pub frontends: Vec<String>,
    /// Inputs it answered a second, lately, to all of them.
    #[serde(default)]
    pub inputs_per_second: f64,
    /// What a batch of one input takes its model, as learned, in microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fixed_micros: Option<f64>,
    /// What each further input adds, as learned, in microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per_input_micros: Option<f64>,
    /// The 99th percentile of its last batches' model times, in microseconds: the highest that a frontend
    /// sees.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p99_micros: Option<u64>,
    /// What its batch times are expected by, and how well that fits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fit: Option<TimesFit>,
}

/// What batch times are expected by, and how well that fits.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
pub struct TimesFit {
    /// What is used.
    pub uses: TimesBy,
    /// How far the last batches were from what was expected of them, on average, as a share of it.
    pub error: f64,
}

/// What batch times are expected by.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum TimesBy {
    /// A line in the number of inputs.
    Line,
    /// A table of batch sizes.
    Table,
    /// Either, and the bytes of the inputs.
    Bytes,
}

impl fmt::Display for TimesBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Line => "line",
            Self::Table => "table",
            Self::Bytes => "bytes",
        })
    }
}

/// How an attached replica is.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReplicaState {
    /// It answers.
    Ready,
    /// A batch in its hands is overdue: it is sent nothing until it answers.
    Overdue,
    /// It takes no more work and answers what it holds.
    Draining,
}

/// The cluster at a glance.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Status {
    /// The cluster's name.
    pub cluster: ClusterName,
    /// The answering frontend's version.
    pub version: String,
    /// The metadata store.
    pub store: StoreStatus,
    /// What starts containers.
    pub runtime: RuntimeStatus,
    /// The frontends.
    pub frontends: Vec<Frontend>,
    /// Applications registered.
    pub applications: u64,
    /// Models registered.
    pub models: u64,
    /// Replicas attached.
    pub replicas: u64,
    /// What is not well, a sentence each; empty when all is.
    pub problems: Vec<String>,
}

/// The metadata store.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct StoreStatus {
    /// `embedded` or `redis`.
    pub kind: String,
    /// Where it is, without any password.
    pub location: String,
    /// Whether it can be written now.
    pub up: bool,
    /// The generation of the catalog that is served.
    pub generation: u64,
    /// Why it is not up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// What became of a metadata store that had lost something.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Settlement {
    /// The generation that all frontends follow now.
    pub generation: u64,
    /// Applications in it.
    pub applications: u64,
    /// Models in it.
    pub models: u64,
    /// Applications that the answering frontend held and the store does not have.
    pub given_up_applications: u64,
    /// Models that the answering frontend held and the store does not have.
    pub given_up_models: u64,
    /// Where the store's file was put that could not be read and had to make place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub set_aside: Option<String>,
}

/// What became of containers that had been started for another metadata store.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Adoption {
    /// The generation of the catalog that they belong to from now on.
    pub generation: u64,
    /// Their names. Those that the catalog asks for go on, the others are stopped.
    pub containers: Vec<String>,
}

/// What starts containers.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct RuntimeStatus {
    /// `process`, `docker` or `none`.
    pub kind: String,
    /// Whether it answers.
    pub up: bool,
    /// Why it is not up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// A frontend and its addresses, as host:port.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Frontend {
    /// Unique to one run of it.
    pub id: String,
    /// Query REST; empty without the query role.
    pub query_addr: String,
    /// Admin REST; empty without the control role.
    pub admin_addr: String,
    /// Probes and metrics: `/healthz`, `/readyz`, `/metrics`.
    #[serde(default)]
    pub ops_addr: String,
    /// Container RPC, as containers are told; empty without the query role.
    pub rpc_addr: String,
    /// Since when it runs.
    pub started_at: Timestamp,
    /// Skysail's version.
    #[serde(default)]
    pub version: String,
    /// What it does.
    #[serde(default)]
    pub roles: Vec<Role>,
    /// With the control role: whether it is the one that acts; none while that is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub control: Option<Control>,
    /// Whether it takes no new queries any more, because it is ending.
    #[serde(default)]
    pub draining: bool,
    /// Replicas attached to it.
    #[serde(default)]
    pub replicas: u64,
    /// The generation of the catalog that its queries are routed by.
    #[serde(default)]
    pub generation: u64,
    /// Where other frontends ask it; empty while that is not known.
    #[serde(default)]
    pub peer_addr: String,
    /// The blocks of query ids that it gives out: a query is of the block `query_id / 67108864`.
    #[serde(default)]
    pub query_blocks: Vec<u64>,
    /// What it counts, as it says itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub figures: Option<FrontendFigures>,
    /// Why its figures are not here, in a few words ("did not answer").
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub silence: Option<String>,
}

/// What one frontend counts.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct FrontendFigures {
    /// Queries it answered since it started.
    pub queries: u64,
    /// Those of them that it answered with a default output.
    pub defaults: u64,
    /// Queries that wait in it now.
    pub queued: u64,
    /// Whether it may be sent queries: what its `/readyz` answers.
    pub ready: bool,
}

/// What a frontend does.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Answers queries.
    Query,
    /// Takes admin requests, and looks after containers while it is the one that acts.
    Control,
}

/// Whether a frontend with the control role is the one that acts.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Control {
    /// It looks after containers.
    Acting,
    /// Another does; it takes over when that one is gone.
    Standby,
}

/// One line of a container's log.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct LogLine {
    /// The replica.
    pub replica: ReplicaId,
    /// The line, without its end; with `ended`, how its container ended.
    pub line: String,
    /// Whether this is said about the container, and not by it: its log has ended.
    #[serde(default, skip_serializing_if = "is_false")]
    pub ended: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_false(value: &bool) -> bool {
    !value
}

/// An error, as RFC 9457 describes it.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Problem {
    /// A word for the kind of error, as `urn:skysail:…`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The kind of error for people.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What happened, and what to do.
    pub detail: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(members: &str) -> Result<NewApplication, String> {
        let json = format!(r#"{{"name":"a","default_output":"","slo_micros":1{members}}}"#);
        serde_json::from_str(&json).map_err(|error| error.to_string())
    }

    #[test]
    fn a_new_application_is_given_a_signature_or_the_model_that_has_it() {
        for (members, words) in [
            (
                r#","input_type":"doubles""#,
                r#"Given(Signature { inputs: Row(Doubles)"#,
            ),
            (
                r#","input_type":"tensors","signature":{"inputs":[{"name":"x","datatype":"FP32","shape":[2]}]}"#,
                "Given(Signature { inputs: Tensors",
            ),
            (r#","like":"m""#, "Like"),
        ] {
            let new = read(members).unwrap();
            let shown = format!("{:?}", new.signature);
            assert!(shown.starts_with(words), "{shown}");
            let again = serde_json::to_string(&new).unwrap();
            let again: NewApplication = serde_json::from_str(&again).unwrap();
            assert_eq!(again.signature, new.signature);
        }
        for (members, words) in [
            ("", "missing field `input_type`"),
            (r#","input_type":"float""#, "use one of bytes"),
            (r#","like":"m","input_type":"doubles""#, "give it, or them"),
            (r#","like":"m","signature":{}"#, "give it, or them"),
            (r#","signature":{}"#, "missing field `input_type`"),
            (r#","likes":"m""#, "unknown field `likes`, expected one of `name`"),
        ] {
            let error = read(members).unwrap_err();
            assert!(error.contains(words), "{members}: {error}");
        }
    }

    #[test]
    fn a_new_version_is_read_as_it_was_written_and_what_is_mistyped_is_named() {
        let spec = "x:FP32[2]".parse().unwrap();
        let signature = Signature::tensors([spec], []).unwrap();
        let mut new = NewVersion::new("1".parse().unwrap(), signature.without_batch_dimension());
        new.annotations.insert("classes".to_owned(), "0, 1".to_owned());
        let json = serde_json::to_string(&new).unwrap();
        let again: NewVersion = serde_json::from_str(&json).unwrap();
        assert_eq!(serde_json::to_string(&again).unwrap(), json);
        for (json, words) in [
            (
                r#"{"version":"1","input_tpye":"doubles"}"#,
                "unknown field `input_tpye`",
            ),
            (r#"{"version":"1"}"#, "missing field `input_type`"),
            (r#"{"version":"1","input_type":"float"}"#, "use one of bytes"),
        ] {
            let error = serde_json::from_str::<NewVersion>(json).unwrap_err().to_string();
            assert!(error.contains(words), "{json}: {error}");
        }
    }
}

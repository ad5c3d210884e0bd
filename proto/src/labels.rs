//! The Docker labels and the environment variables that tie a container to its cluster.
//!
//! Labels are the truth about what belongs to a cluster: nothing without its label is ever touched.

use crate::ids::{ClusterName, ReplicaId};

/// The cluster a container, network or volume belongs to.
pub const CLUSTER: &str = "ai.skysail.cluster";
/// What a container is for: [`ROLE_FRONTEND`], [`ROLE_REDIS`] or [`ROLE_REPLICA`].
pub const ROLE: &str = "ai.skysail.role";
/// The model a replica serves.
pub const MODEL: &str = "ai.skysail.model";
/// The version a replica serves.
pub const VERSION: &str = "ai.skysail.version";
/// The replica id of a replica's container.
pub const REPLICA: &str = "ai.skysail.replica";
/// A digest of what the container was started with: one that no longer fits the catalog is replaced.
pub const SPEC: &str = "ai.skysail.spec";
/// Which start of a replica's container it is: unique to each, and the nonce of the token it was given.
pub const START: &str = "ai.skysail.start";

/// The image that was asked for, by its name: the container itself runs it by its id.
pub const IMAGE: &str = "ai.skysail.image";
/// On an image that `skysail model deploy --onnx` made: the SHA-256 of its ONNX file.
pub const ONNX: &str = "ai.skysail.onnx";
/// The incarnation of the metadata store that the container was started for.
pub const INCARNATION: &str = "ai.skysail.incarnation";

/// A frontend's container.
pub const ROLE_FRONTEND: &str = "frontend";
/// The Redis that holds a cluster's metadata.
pub const ROLE_REDIS: &str = "redis";
/// A model container.
pub const ROLE_REPLICA: &str = "replica";

/// Frontends to dial, as comma-separated host:port.
pub const ENV_FRONTENDS: &str = "SKYSAIL_FRONTENDS";
/// The model's name.
pub const ENV_MODEL_NAME: &str = "SKYSAIL_MODEL_NAME";
/// The model's version.
pub const ENV_MODEL_VERSION: &str = "SKYSAIL_MODEL_VERSION";
/// The model's input type.
pub const ENV_INPUT_TYPE: &str = "SKYSAIL_INPUT_TYPE";
/// What is declared of the model beside the input type, as JSON; absent if the input type says all, or if the container
/// is to say what its model takes.
pub const ENV_SIGNATURE: &str = "SKYSAIL_SIGNATURE";
/// The replica's id.
pub const ENV_REPLICA_ID: &str = "SKYSAIL_REPLICA_ID";
/// The largest batch the replica will be sent.
pub const ENV_MAX_BATCH: &str = "SKYSAIL_MAX_BATCH";
/// An input, as JSON, for the model to warm up with.
pub const ENV_WARM_UP: &str = "SKYSAIL_WARM_UP";
/// Where the ONNX file is that the container serves; only for versions deployed with one.
pub const ENV_ONNX_FILE: &str = "SKYSAIL_ONNX_FILE";
/// The token to show at registration. Empty where the version is open.
pub const ENV_TOKEN: &str = "SKYSAIL_TOKEN";

/// The Docker network of a cluster's model containers, which its frontends are on as well.
pub fn network_name(cluster: &ClusterName) -> String {
    format!("{cluster}-network")
}

/// The Docker network of a cluster that `skysail start` brought up which only Redis and the frontends are on.
pub fn private_network_name(cluster: &ClusterName) -> String {
    format!("{cluster}-private")
}

/// The container of the only frontend that `skysail start` runs, with both roles.
pub fn frontend_container(cluster: &ClusterName) -> String {
    format!("{cluster}-frontend")
}

/// The container of one of several frontends that `skysail start` runs, counted from 1; it takes queries only.
pub fn query_container(cluster: &ClusterName, number: usize) -> String {
    format!("{cluster}-frontend-{number}")
}

/// The container of the control role beside several frontends.
pub fn control_container(cluster: &ClusterName) -> String {
    format!("{cluster}-control")
}

/// The container of the Redis that `skysail start` runs.
pub fn redis_container(cluster: &ClusterName) -> String {
    format!("{cluster}-redis")
}

/// The volume that keeps that Redis' data.
pub fn redis_volume(cluster: &ClusterName) -> String {
    format!("{cluster}-redis-data")
}

/// The container of a replica. Cluster names hold no underscore, so two clusters never share a name.
pub fn replica_container(cluster: &ClusterName, replica: &ReplicaId) -> String {
    format!("{cluster}_{replica}")
}

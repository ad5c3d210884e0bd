//! The spec that a replica's container is started with.

use std::collections::BTreeMap;

use skysail_proto::deployment::Deployment;
use skysail_proto::ids::{ClusterName, ModelId, ReplicaId};
use skysail_proto::labels;

use super::ReplicaSpec;
use crate::catalog::{Secret, Version};
use crate::container_token;

/// Where containers are started, and which frontends they dial.
#[derive(Clone, Debug)]
pub struct Placement {
    /// The cluster of the containers.
    pub cluster: ClusterName,
    /// The incarnation of the store that wants the containers.
    pub incarnation: String,
    /// The live query frontends that the containers dial, as host:port. If empty, containers have nothing to
    /// dial, and no frontend reports attached replicas.
    pub frontends: Vec<String>,
    /// The key of the containers' tokens. Containers that were started with another key are outdated.
    pub key: Option<Secret>,
}

/// The spec of the container in place `ordinal` of a version; `None` if the version's containers attach by
/// themselves.
pub fn replica_spec(
    placement: &Placement,
    model: &ModelId,
    version: &Version,
    ordinal: u32,
) -> Option<ReplicaSpec> {
    let deployment = version.spec.deployment.as_ref()?;
    let replica = ReplicaId::of(model, ordinal);
    Some(ReplicaSpec {
        container: labels::replica_container(&placement.cluster, &replica),
        env: environment(placement, model, version, &replica, deployment),
        replica,
        model: model.clone(),
        image: deployment.image.clone(),
        image_id: deployment.image_id.clone(),
        artifacts: deployment.artifacts.clone(),
        onnx: deployment.onnx.map(|file| file.sha256),
        cpus: deployment.cpus,
        gpus: deployment.gpus,
        memory_bytes: deployment.memory_bytes,
        digest: digest(placement, version, deployment),
        incarnation: placement.incarnation.clone(),
        start: String::new(),
    })
}

/// The operator's variables and Skysail's own; Skysail's own win.
fn environment(
    placement: &Placement,
    model: &ModelId,
    version: &Version,
    replica: &ReplicaId,
    deployment: &Deployment,
) -> BTreeMap<String, String> {
    let signature = &version.spec.signature;
    let ours = [
        (labels::ENV_FRONTENDS, placement.frontends.join(",")),
        (labels::ENV_MODEL_NAME, model.name.to_string()),
        (labels::ENV_MODEL_VERSION, model.version.to_string()),
        (labels::ENV_INPUT_TYPE, signature.input_word().to_owned()),
        (labels::ENV_MAX_BATCH, version.spec.most_inputs().to_string()),
        (labels::ENV_REPLICA_ID, replica.to_string()),
        (labels::ENV_TOKEN, String::new()),
    ];
    let warm_up = deployment.warm_up.as_ref();
    let warm_up = warm_up.map(|input| (labels::ENV_WARM_UP, input.to_string()));
    let declared = signature
        .declared_text()
        .map(|text| (labels::ENV_SIGNATURE, text));
    let mut env = deployment.env.clone();
    env.extend(
        ours.into_iter()
            .chain(warm_up)
            .chain(declared)
            .map(|(name, value)| (name.to_owned(), value)),
    );
    env
}

/// A digest of everything that decides whether a running container fits the catalog.
///
/// The frontends' addresses are left out: a container learns new ones over its stream. The largest batch is
/// left out too, because a container uses it only for its warm-up. The time of registration is included: a
/// version that is deleted and registered again may mean another image of the same name.
///
/// Of the signature only the input type's word is included. The rest changes in two ways: a version registered anew
/// has another time of registration, and an undeclared version learns its signature from a container that runs.
/// That container must go on fitting. A replica of another signature is refused when it registers.
fn digest(placement: &Placement, version: &Version, deployment: &Deployment) -> String {
    let Deployment {
        image,
        image_id,
        artifacts,
        onnx,
        replicas: _,
        autoscale: _,
        cpus,
        gpus,
        memory_bytes,
        env,
        warm_up,
    } = deployment;
    let mut fitting = serde_json::json!({
        "input_type": version.spec.signature.input_word(),
        "registered_at": version.registered_at,
        "image": image,
        "cpus": cpus,
        "memory_bytes": memory_bytes,
        "env": env,
    });
    // The resolved names are included as soon as they are known: no container starts earlier. Each is included
    // only if it is present, so that containers of an earlier release still fit after an upgrade.
    if let Some(id) = image_id {
        fitting["image_id"] = id.as_str().into();
    }
    if !artifacts.is_empty() {
        fitting["artifacts"] = serde_json::json!(artifacts);
    }
    if let Some(file) = onnx {
        fitting["onnx"] = serde_json::json!(file);
    }
    if let Some(input) = warm_up {
        fitting["warm_up"] = input.clone();
    }
    if let Some(gpus) = gpus {
        fitting["gpus"] = (*gpus).into();
    }
    if let Some(key) = &placement.key {
        fitting["key"] = container_token::fingerprint(key).into();
    }
    format!("{:016x}", fnv1a(fitting.to_string().as_bytes()))
}

/// FNV-1a, 64 bit: the same in every build, unlike the standard library's hashers.
fn fnv1a(bytes: &[u8]) -> u64 {
    let step = |hash: u64, &byte: &u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, step)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: Secret = Secret::new([7; Secret::BYTES]);

    fn spec(deployment: &str) -> ReplicaSpec {
        spec_with(deployment, None)
    }

    fn spec_with(deployment: &str, key: Option<Secret>) -> ReplicaSpec {
        let version = format!(
            r#"{{"input_type": "doubles", "max_batch": 8, "registered_at": "1970-01-01T00:00:00Z",
                 "deployment": {deployment}}}"#
        );
        spec_of(&version, key)
    }

    fn spec_of(version: &str, key: Option<Secret>) -> ReplicaSpec {
        let placement = Placement {
            cluster: "test".parse().unwrap(),
            incarnation: "i".into(),
            frontends: vec!["127.0.0.1:7000".into()],
            key,
        };
        let id = "m:1".parse().unwrap();
        replica_spec(&placement, &id, &serde_json::from_str(version).unwrap(), 0).unwrap()
    }

    #[test]
    fn a_container_is_told_its_largest_batch_and_what_to_warm_up_with() {
        let spec =
            spec(r#"{"image": "i", "replicas": 1, "warm_up": [1, 2.5], "env": {"SKYSAIL_MAX_BATCH": "99"}}"#);
        assert_eq!(spec.env[labels::ENV_MAX_BATCH], "8");
        assert_eq!(spec.env[labels::ENV_WARM_UP], "[1,2.5]");
    }

    #[test]
    fn a_learned_signature_is_told_to_the_next_container_and_restarts_none() {
        let of = |signature: &str| {
            let version = format!(
                r#"{{"input_type": "tensors", "registered_at": "1970-01-01T00:00:00Z"{signature},
                     "deployment": {{"image": "i", "replicas": 1}}}}"#
            );
            spec_of(&version, None)
        };
        let before = of("");
        assert_eq!(before.env[labels::ENV_INPUT_TYPE], "tensors");
        assert!(!before.env.contains_key(labels::ENV_SIGNATURE));
        let declared = r#"{"inputs":[{"name":"x","datatype":"FP32","shape":[4]}],"batched":false}"#;
        let after = of(&format!(r#", "signature": {declared}"#));
        assert_eq!(after.env[labels::ENV_SIGNATURE], declared);
        assert_eq!(after.env[labels::ENV_MAX_BATCH], "1");
        assert_eq!(after.digest, before.digest);
    }

    #[test]
    fn a_start_has_a_token_that_is_checked_with_the_key_and_is_no_part_of_the_digest() {
        let spec = spec(r#"{"image": "i", "replicas": 1}"#);
        assert_eq!(
            (spec.start.as_str(), spec.env[labels::ENV_TOKEN].as_str()),
            ("", "")
        );
        let started = spec.clone().started_with("abc".into(), &KEY);
        let subject = container_token::Subject {
            model: &spec.model,
            registered_at: jiff::Timestamp::UNIX_EPOCH,
        };
        let token = &started.env[labels::ENV_TOKEN];
        assert_eq!(
            container_token::check(&KEY, subject, &spec.replica, token),
            Some(container_token::Bearer::Started("abc".into()))
        );
        assert_eq!((started.start.as_str(), &started.digest), ("abc", &spec.digest));
    }

    #[test]
    fn what_was_started_with_another_key_does_not_fit() {
        let deployment = r#"{"image": "i", "replicas": 1}"#;
        let digest = |key| spec_with(deployment, key).digest;
        let other = Secret::new([8; Secret::BYTES]);
        assert_eq!(digest(Some(KEY)), digest(Some(KEY)));
        assert_ne!(digest(Some(KEY)), digest(Some(other)));
        assert_ne!(digest(Some(KEY)), digest(None));
    }

    #[test]
    fn another_onnx_file_is_another_container() {
        let of = |digit: &str| {
            let sha256 = digit.repeat(64);
            spec(&format!(
                r#"{{"image": "i", "replicas": 1, "onnx": {{"sha256": "{sha256}"}}}}"#
            ))
        };
        assert_eq!(of("a").onnx.unwrap().to_string(), "a".repeat(64));
        assert_eq!(of("a").digest, of("a").digest);
        assert_ne!(of("a").digest, of("b").digest);
    }

    #[test]
    fn only_a_warm_up_input_changes_the_digest_and_without_one_there_is_no_variable() {
        let without = spec(r#"{"image": "i", "replicas": 1}"#);
        assert!(!without.env.contains_key(labels::ENV_WARM_UP));
        // The digest of the release before warm-up inputs existed: an upgrade restarts nothing.
        assert_eq!(without.digest, "093029645a08ffa8");
        let with = spec(r#"{"image": "i", "replicas": 1, "warm_up": [1]}"#);
        assert_ne!(with.digest, without.digest);
    }
}

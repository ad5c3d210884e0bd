//! What a request may ask for, whatever the catalog holds: numbers in their ranges, inputs of their types.

use std::num::NonZeroU32;

use serde::de::DeserializeSeed;
use skysail_proto::admin::{NewVersion, ReplicaCount};
use skysail_proto::deployment::{Autoscale, Deployment, MAX_WARM_UP_BYTES, Replicas};
use skysail_proto::value::{InputSeed, InputType};

use super::{AdminError, invalid};

/// The most replicas a version may ask for: far beyond any machine, and small enough to plan quickly.
const MAX_REPLICAS: u32 = 1000;

/// The largest weight of an application: who would rather have no others beside it has a model of its own.
const MAX_WEIGHT: u32 = 1000;

/// The smallest share of a CPU that a replica may be given: Docker takes less for no limit at all.
const LEAST_CPUS: f64 = 0.01;

/// The most files a version may be made of.
const MAX_ARTIFACTS: usize = 64;

pub(super) fn checked_slo(micros: i64) -> Result<u64, AdminError> {
    let positive = u64::try_from(micros).ok().filter(|&micros| micros > 0);
    positive.ok_or_else(|| {
        invalid(format!(
            "slo_micros is {micros}: a latency objective is at least 1 microsecond"
        ))
    })
}

pub(super) fn checked_weight(weight: i64) -> Result<NonZeroU32, AdminError> {
    let allowed = u32::try_from(weight).ok().filter(|&weight| weight <= MAX_WEIGHT);
    allowed.and_then(NonZeroU32::new).ok_or_else(|| {
        invalid(format!(
            "weight is {weight}: an application's weight is a whole number from 1 to {MAX_WEIGHT}"
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

pub(super) fn wanted_replicas(wanted: ReplicaCount) -> Result<Replicas, AdminError> {
    match (wanted.count, wanted.autoscale) {
        (Some(count), None) => check_replicas(count).map(|()| Replicas::Fixed(count)),
        (None, Some(bounds)) => check_autoscale(bounds).map(|()| Replicas::Auto(bounds)),
        _ => Err(invalid(
            r#"give either a count, as in {"count": 3}, or bounds, as in {"autoscale": {"min": 1, "max": 8}}"#.into(),
        )),
    }
}

pub(super) fn check_deployment(new: &NewVersion) -> Result<(), AdminError> {
    let Some(deployment) = &new.deployment else {
        return Ok(());
    };
    if new.open {
        let detail =
            "open is for a version whose containers attach by themselves: leave it out, or the deployment";
        return Err(invalid(detail.into()));
    }
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
    check_identity(deployment)?;
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

/// What a person says of the image and the files is taken as it is found: in the same spelling.
fn check_identity(deployment: &Deployment) -> Result<(), AdminError> {
    let is_digest = |text: &str| {
        let is_digit = |digit: u8| digit.is_ascii_digit() || (b'a'..=b'f').contains(&digit);
        text.len() == 64 && text.bytes().all(is_digit)
    };
    if let Some(id) = &deployment.image_id
        && !id.strip_prefix("sha256:").is_some_and(is_digest)
    {
        return Err(invalid(format!(
            "image_id is `{id}`: it is `sha256:` and 64 lower-case hexadecimal digits, as `docker images --no-trunc` \
             shows; without one, it is found out when the version is first started"
        )));
    }
    if deployment.artifacts.len() > MAX_ARTIFACTS {
        return Err(invalid(format!(
            "{} artifacts are more than the {MAX_ARTIFACTS} that are allowed",
            deployment.artifacts.len()
        )));
    }
    for artifact in &deployment.artifacts {
        if artifact.path.trim().is_empty() || artifact.path.contains('\0') {
            return Err(invalid(format!(
                "an artifact's path is `{}`: name a file",
                artifact.path
            )));
        }
        if !is_digest(&artifact.sha256) {
            return Err(invalid(format!(
                "the sha256 of artifact `{}` is `{}`: it is 64 lower-case hexadecimal digits, as `sha256sum` prints",
                artifact.path, artifact.sha256
            )));
        }
    }
    Ok(())
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

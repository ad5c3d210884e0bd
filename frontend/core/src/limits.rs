//! What a request may ask for, whatever the catalog holds: numbers in their ranges, inputs of their types.

use std::num::NonZeroU32;

use serde::de::DeserializeSeed;
use skysail_proto::admin::{NewVersion, ReplicaCount};
use skysail_proto::deployment::{Artifact, Autoscale, BatchSize, Deployment, MAX_WARM_UP_BYTES, Replicas};
use skysail_proto::signature::Signature;
use skysail_proto::value::InputSeed;

/// Why a request asks for something that nobody may have.
#[derive(Clone, Debug, PartialEq)]
pub enum OutOfLimits {
    /// A latency objective below a microsecond, in microseconds.
    Slo(i64),
    /// A weight of an application that is not from 1 to [`MAX_WEIGHT`].
    Weight(i64),
    /// More than [`MAX_REPLICAS`].
    Replicas(u32),
    /// Bounds that are not in order, or begin at nothing.
    Bounds(Autoscale),
    /// Neither a count of replicas nor bounds, or both.
    CountOrBounds,
    /// A version that is open although Skysail runs its containers.
    OpenAndDeployed,
    /// A number of replicas to start with that is outside of its bounds.
    OutsideOfBounds(u32, Autoscale),
    /// An image without a name.
    NoImage,
    /// Less than [`LEAST_CPUS`], or not a number.
    Cpus(f64),
    /// No memory at all.
    NoMemory,
    /// A name of an environment variable that cannot be one.
    VariableName(String),
    /// An environment variable whose value holds a NUL character.
    VariableHoldsNul(String),
    /// An image's id that is not a digest.
    ImageId(String),
    /// More than [`MAX_ARTIFACTS`].
    Artifacts(usize),
    /// An artifact's path that names no file.
    ArtifactPath(String),
    /// An artifact's digest that is not one.
    ArtifactDigest(Artifact),
    /// Batches of several inputs, of a model whose tensors have no batch dimension.
    BatchWithoutDimension(NonZeroU32),
    /// A warm-up input that the version does not take, and why.
    WarmUp(String),
    /// A warm-up input of more than [`MAX_WARM_UP_BYTES`].
    WarmUpTooLarge(usize),
}

/// The most replicas a version may ask for: far beyond any machine, and small enough to plan quickly.
pub const MAX_REPLICAS: u32 = 1000;

/// The largest weight of an application: who would rather have no others beside it has a model of its own.
pub const MAX_WEIGHT: u32 = 1000;

/// The smallest share of a CPU that a replica may be given: Docker takes less for no limit at all.
pub const LEAST_CPUS: f64 = 0.01;

/// The most files a version may be made of.
pub const MAX_ARTIFACTS: usize = 64;

/// A latency objective in microseconds.
pub fn checked_slo(micros: i64) -> Result<u64, OutOfLimits> {
    let positive = u64::try_from(micros).ok().filter(|&micros| micros > 0);
    positive.ok_or(OutOfLimits::Slo(micros))
}

/// The weight of an application.
pub fn checked_weight(weight: i64) -> Result<NonZeroU32, OutOfLimits> {
    let allowed = u32::try_from(weight).ok().filter(|&weight| weight <= MAX_WEIGHT);
    allowed
        .and_then(NonZeroU32::new)
        .ok_or(OutOfLimits::Weight(weight))
}

fn check_replicas(count: u32) -> Result<(), OutOfLimits> {
    match count <= MAX_REPLICAS {
        true => Ok(()),
        false => Err(OutOfLimits::Replicas(count)),
    }
}

fn check_autoscale(bounds: Autoscale) -> Result<(), OutOfLimits> {
    let Autoscale { min, max } = bounds;
    if min == 0 || max < min {
        return Err(OutOfLimits::Bounds(bounds));
    }
    check_replicas(max)
}

/// The replicas that are asked for.
pub fn wanted_replicas(wanted: ReplicaCount) -> Result<Replicas, OutOfLimits> {
    match (wanted.count, wanted.autoscale) {
        (Some(count), None) => check_replicas(count).map(|()| Replicas::Fixed(count)),
        (None, Some(bounds)) => check_autoscale(bounds).map(|()| Replicas::Auto(bounds)),
        _ => Err(OutOfLimits::CountOrBounds),
    }
}

/// How a new version is to run.
pub fn check_version(new: &NewVersion) -> Result<(), OutOfLimits> {
    check_batches(new)?;
    let Some(deployment) = &new.deployment else {
        return Ok(());
    };
    if new.open {
        return Err(OutOfLimits::OpenAndDeployed);
    }
    check_replicas(deployment.replicas)?;
    if let Some(bounds) = deployment.autoscale {
        check_autoscale(bounds)?;
        if !(bounds.min..=bounds.max).contains(&deployment.replicas) {
            return Err(OutOfLimits::OutsideOfBounds(deployment.replicas, bounds));
        }
    }
    if deployment.image.trim().is_empty() {
        return Err(OutOfLimits::NoImage);
    }
    check_identity(deployment)?;
    if let Some(cpus) = deployment
        .cpus
        .filter(|cpus| !cpus.is_finite() || *cpus < LEAST_CPUS)
    {
        return Err(OutOfLimits::Cpus(cpus));
    }
    if deployment.memory_bytes == Some(0) {
        return Err(OutOfLimits::NoMemory);
    }
    let bad_name = |name: &&String| name.is_empty() || name.contains('=') || name.contains('\0');
    if let Some(name) = deployment.env.keys().find(bad_name) {
        return Err(OutOfLimits::VariableName(name.clone()));
    }
    if let Some((name, _)) = deployment.env.iter().find(|(_, value)| value.contains('\0')) {
        return Err(OutOfLimits::VariableHoldsNul(name.clone()));
    }
    match &deployment.warm_up {
        Some(input) => check_warm_up(&new.signature, input),
        None => Ok(()),
    }
}

/// A model without a batch dimension takes one input at a time. A larger `max_batch` is refused, not cut.
fn check_batches(new: &NewVersion) -> Result<(), OutOfLimits> {
    let fixed = match new.batch_size {
        BatchSize::Fixed(size) => Some(size),
        BatchSize::Adaptive | BatchSize::Aimd => None,
    };
    let asked_for = new.max_batch.max(fixed).filter(|size| size.get() > 1);
    match asked_for {
        Some(size) if !new.signature.is_batched() => Err(OutOfLimits::BatchWithoutDimension(size)),
        _ => Ok(()),
    }
}

/// What a person says of the image and the files is taken as it is found: in the same spelling.
fn check_identity(deployment: &Deployment) -> Result<(), OutOfLimits> {
    let is_digest = |text: &str| {
        let is_digit = |digit: u8| digit.is_ascii_digit() || (b'a'..=b'f').contains(&digit);
        text.len() == 64 && text.bytes().all(is_digit)
    };
    if let Some(id) = &deployment.image_id
        && !id.strip_prefix("sha256:").is_some_and(is_digest)
    {
        return Err(OutOfLimits::ImageId(id.clone()));
    }
    if deployment.artifacts.len() > MAX_ARTIFACTS {
        return Err(OutOfLimits::Artifacts(deployment.artifacts.len()));
    }
    for artifact in &deployment.artifacts {
        if artifact.path.trim().is_empty() || artifact.path.contains('\0') {
            return Err(OutOfLimits::ArtifactPath(artifact.path.clone()));
        }
        if !is_digest(&artifact.sha256) {
            return Err(OutOfLimits::ArtifactDigest(artifact.clone()));
        }
    }
    Ok(())
}

/// A wrong warm-up input is refused here, because a container can only write a warning to its log. If the signature is
/// not declared, the input can be checked by the container alone.
fn check_warm_up(signature: &Signature, input: &serde_json::Value) -> Result<(), OutOfLimits> {
    if signature.is_declared() {
        InputSeed(signature)
            .deserialize(input)
            .map_err(|error| OutOfLimits::WarmUp(error.to_string()))?;
    }
    let bytes = input.to_string().len();
    if bytes > MAX_WARM_UP_BYTES {
        return Err(OutOfLimits::WarmUpTooLarge(bytes));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use skysail_proto::signature::TensorSpec;
    use skysail_proto::value::InputType;

    use super::*;

    fn tensors() -> Signature {
        Signature::tensors(["x:FP32[2]".parse::<TensorSpec>().unwrap()], []).unwrap()
    }

    fn version(signature: Signature) -> NewVersion {
        NewVersion::new("1".parse().unwrap(), signature)
    }

    #[test]
    fn a_model_without_a_batch_dimension_is_asked_for_no_larger_batch() {
        let two = NonZeroU32::new(2).unwrap();
        let mut new = version(tensors().without_batch_dimension());
        assert_eq!(check_version(&new), Ok(()));
        new.max_batch = Some(NonZeroU32::MIN);
        assert_eq!(check_version(&new), Ok(()));
        new.max_batch = Some(two);
        assert_eq!(check_version(&new), Err(OutOfLimits::BatchWithoutDimension(two)));
        new.max_batch = None;
        new.batch_size = BatchSize::Fixed(two);
        assert_eq!(check_version(&new), Err(OutOfLimits::BatchWithoutDimension(two)));
        new.signature = tensors();
        assert_eq!(check_version(&new), Ok(()));
    }

    #[test]
    fn a_warm_up_input_is_one_of_the_signature_if_that_is_declared() {
        let input = serde_json::json!(["no", "numbers"]);
        assert!(check_warm_up(&InputType::Doubles.into(), &input).is_err());
        assert_eq!(check_warm_up(&Signature::undeclared(), &input), Ok(()));
        let error = check_warm_up(&tensors(), &serde_json::json!({"y": [1, 2]})).unwrap_err();
        assert!(matches!(error, OutOfLimits::WarmUp(why) if why.contains("`y` is unknown")));
    }
}

//! How one version of a model runs: the part of the catalog that the admin API shows as it is.

use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::sha256::Sha256;
use crate::signature::Signature;

/// The most inputs of a batch whose size is learned, unless a deployment says otherwise.
pub const MOST_LEARNED_INPUTS: NonZeroU32 = NonZeroU32::new(4096).expect("4096 is not 0");

/// The most bytes of inputs in such a batch; one input always goes.
pub const MOST_LEARNED_BYTES: usize = 16 * 1024 * 1024;

/// How batch sizes are chosen. Written `adaptive`, `aimd` or a number.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub enum BatchSize {
    /// Learned from the replica's own batch times (the default).
    #[default]
    Adaptive,
    /// Additive increase, multiplicative decrease, as in Clipper's paper.
    Aimd,
    /// Up to this many, whatever is there.
    Fixed(NonZeroU32),
}

/// A batch size that is none.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("batch size `{0}` is not valid: use `adaptive`, `aimd` or a number from 1")]
pub struct InvalidBatchSize(String);

impl fmt::Display for BatchSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Adaptive => f.pad("adaptive"),
            Self::Aimd => f.pad("aimd"),
            Self::Fixed(size) => f.pad(&size.to_string()),
        }
    }
}

impl FromStr for BatchSize {
    type Err = InvalidBatchSize;
    fn from_str(text: &str) -> Result<Self, InvalidBatchSize> {
        match text {
            "adaptive" => Ok(Self::Adaptive),
            "aimd" => Ok(Self::Aimd),
            _ => text
                .parse()
                .map(Self::Fixed)
                .map_err(|_| InvalidBatchSize(text.chars().take(80).collect())),
        }
    }
}

impl Serialize for BatchSize {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Fixed(size) => serializer.serialize_u32(size.get()),
            named => serializer.collect_str(named),
        }
    }
}

impl<'de> Deserialize<'de> for BatchSize {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Number(i64),
            Text(String),
        }
        let text = match Written::deserialize(deserializer)? {
            Written::Number(number) => number.to_string(),
            Written::Text(text) => text,
        };
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// What one version of a model is, apart from its name.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct VersionSpec {
    /// What it takes and gives. One that is not declared is learned from the version's first replica.
    #[serde(flatten)]
    pub signature: Signature,
    /// How batches are sized.
    #[serde(default)]
    pub batch_size: BatchSize,
    /// The largest batch ever sent; none: as large as replicas have shown that they can take.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_batch: Option<NonZeroU32>,
    /// Whether equal inputs may be answered from the prediction cache.
    #[serde(default = "yes")]
    pub cache: bool,
    /// What Skysail runs; none for a version whose containers attach by themselves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deployment: Option<Deployment>,
    /// Whether any container may attach, without a token.
    #[serde(default, skip_serializing_if = "is_false")]
    pub open: bool,
    /// What is known of the model beyond its signature, such as the names of its classes. A replica may add to it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

impl VersionSpec {
    /// The most inputs that any batch may have.
    pub fn most_inputs(&self) -> NonZeroU32 {
        if !self.signature.is_batched() {
            return NonZeroU32::MIN;
        }
        self.max_batch.unwrap_or(match self.batch_size {
            BatchSize::Fixed(size) => size,
            BatchSize::Adaptive | BatchSize::Aimd => MOST_LEARNED_INPUTS,
        })
    }

    /// Whether sizes are found out, as far as they are good: nobody has chosen one.
    pub fn learns_sizes(&self) -> bool {
        self.signature.is_batched()
            && self.max_batch.is_none()
            && !matches!(self.batch_size, BatchSize::Fixed(_))
    }
}

pub(crate) fn yes() -> bool {
    true
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
pub(crate) fn is_false(value: &bool) -> bool {
    !value
}

/// What Skysail runs for a version, and how many.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Deployment {
    /// A Docker image, or with the process runtime the path of an executable.
    pub image: String,
    /// The id that the engine gives the image (`sha256:…`). A name can come to mean another image; every container
    /// of the version runs this one. The control role finds it out when it first starts the version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_id: Option<String>,
    /// The files that the version is made of, and what is in them. With the process runtime the executable is one;
    /// the control role adds it when it first starts the version.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub artifacts: Vec<Artifact>,
    /// The ONNX file that the version serves; only with the process runtime, because a Docker image holds its files.
    /// Each container finds it at `SKYSAIL_ONNX_FILE`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub onnx: Option<OnnxFile>,
    /// Replicas wanted now. With `autoscale` the control role moves it within those bounds.
    pub replicas: u32,
    /// Bounds within which the number of replicas follows the load; none for a number chosen by hand.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub autoscale: Option<Autoscale>,
    /// CPUs each replica may use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpus: Option<f64>,
    /// GPUs each replica is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpus: Option<u32>,
    /// Memory each replica may use, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// Further environment of each container.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// An input of the version's type, as in a query, that each container tries in batches of several sizes
    /// before it registers; its JSON text has at most [`MAX_WARM_UP_BYTES`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warm_up: Option<serde_json::Value>,
}

impl Deployment {
    /// Whether it is known what the version runs. [`ONNX_IMAGE`] is part of Skysail and is upgraded with it, so an ONNX
    /// file is all that a version made of the two has to name.
    pub fn is_resolved(&self) -> bool {
        let is_of_onnx = self.image == ONNX_IMAGE && self.onnx.is_some();
        let has_image = |artifact: &Artifact| artifact.path == self.image;
        is_of_onnx || self.image_id.is_some() || self.artifacts.iter().any(has_image)
    }
}

/// The image of versions that serve an ONNX file with the process runtime: the executable of this name in the folder of
/// the frontend's own executable.
pub const ONNX_IMAGE: &str = "skysail-onnx";

/// An ONNX file, which was uploaded (`PUT /api/v1/artifacts/{sha256}`).
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct OnnxFile {
    /// The SHA-256 of its content.
    pub sha256: Sha256,
}

/// A file that a version is made of: one with another content is not used in its place.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Artifact {
    /// Where it is, on the machine of the frontend that starts containers.
    pub path: String,
    /// The SHA-256 of its content, in lower-case hexadecimal digits.
    pub sha256: String,
}

/// Bounds for a number of replicas that follows the load.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Autoscale {
    /// The fewest replicas; at least 1.
    pub min: u32,
    /// The most replicas; at least `min`.
    pub max: u32,
}

/// How many replicas: a number, or bounds written `auto:MIN..MAX`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Replicas {
    /// Chosen by hand; 0 stops the version.
    Fixed(u32),
    /// Follows the load.
    Auto(Autoscale),
}

/// A number of replicas that is none.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("`{0}` is no number of replicas: use a number, or auto:MIN..MAX with 1 <= MIN <= MAX (auto:1..8)")]
pub struct InvalidReplicas(String);

impl fmt::Display for Replicas {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(count) => f.pad(&count.to_string()),
            Self::Auto(Autoscale { min, max }) => f.pad(&format!("auto:{min}..{max}")),
        }
    }
}

impl FromStr for Replicas {
    type Err = InvalidReplicas;
    fn from_str(text: &str) -> Result<Self, InvalidReplicas> {
        let bounds = |text: &str| {
            let (min, max) = text.split_once("..")?;
            let (min, max) = (min.parse().ok()?, max.parse().ok()?);
            (1 <= min && min <= max).then_some(Self::Auto(Autoscale { min, max }))
        };
        let parsed = match text.strip_prefix("auto:") {
            Some(text) => bounds(text),
            None => text.parse().ok().map(Self::Fixed),
        };
        parsed.ok_or_else(|| InvalidReplicas(text.chars().take(80).collect()))
    }
}

/// The longest warm-up input, as JSON text: it travels in the container's environment, where Linux takes no
/// string of more than 128 KiB.
pub const MAX_WARM_UP_BYTES: usize = 120 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replicas_are_a_number_or_bounds() {
        let auto = Replicas::Auto(Autoscale { min: 1, max: 8 });
        assert_eq!("auto:1..8".parse(), Ok(auto));
        assert_eq!(auto.to_string(), "auto:1..8");
        assert_eq!("3".parse(), Ok(Replicas::Fixed(3)));
        for bad in [
            "",
            "-1",
            "auto",
            "auto:",
            "auto:0..3",
            "auto:3..2",
            "auto:1-3",
            "many",
        ] {
            let error = bad.parse::<Replicas>().unwrap_err().to_string();
            assert!(error.contains("auto:MIN..MAX"), "{error}");
        }
    }

    #[test]
    fn batches_are_as_large_as_was_said_or_else_as_is_learned() {
        let spec = |members: &str| -> VersionSpec {
            serde_json::from_str(&format!(r#"{{"input_type": "doubles"{members}}}"#)).unwrap()
        };
        for (members, most, learned) in [
            ("", 4096, true),
            (r#", "max_batch": null"#, 4096, true),
            (r#", "batch_size": "aimd""#, 4096, true),
            (r#", "max_batch": 64"#, 64, false),
            (r#", "max_batch": 10000"#, 10_000, false),
            (r#", "batch_size": 8"#, 8, false),
            (r#", "batch_size": 128, "max_batch": 32"#, 32, false),
        ] {
            let spec = spec(members);
            assert_eq!(
                (spec.most_inputs().get(), spec.learns_sizes()),
                (most, learned),
                "{members}"
            );
        }
        let written = serde_json::to_value(spec("")).unwrap();
        assert!(written.get("max_batch").is_none(), "{written}");
    }

    #[test]
    fn a_batch_size_is_a_word_or_a_number_also_in_json() {
        let fixed = BatchSize::Fixed(NonZeroU32::new(8).unwrap());
        for (json, size) in [
            ("\"adaptive\"", BatchSize::Adaptive),
            ("\"aimd\"", BatchSize::Aimd),
            ("8", fixed),
        ] {
            assert_eq!(serde_json::from_str::<BatchSize>(json).unwrap(), size);
            assert_eq!(serde_json::to_string(&size).unwrap(), json);
        }
        assert_eq!("8".parse(), Ok(fixed));
        for bad in ["0", "-1", "\"0\"", "\"many\"", "1.5"] {
            assert!(serde_json::from_str::<BatchSize>(bad).is_err(), "{bad}");
        }
    }
}

//! How one version of a model runs: the part of the catalog that the admin API shows as it is.

use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::value::InputType;

/// The largest batch sent when a deployment does not say.
pub const DEFAULT_MAX_BATCH: NonZeroU32 = NonZeroU32::new(64).expect("64 is not 0");

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
    /// What its inputs are.
    pub input_type: InputType,
    /// How batches are sized.
    #[serde(default)]
    pub batch_size: BatchSize,
    /// The largest batch ever sent.
    #[serde(default = "default_max_batch")]
    pub max_batch: NonZeroU32,
    /// Whether equal inputs may be answered from the prediction cache.
    #[serde(default = "yes")]
    pub cache: bool,
    /// What Skysail runs; none for a version whose containers attach by themselves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deployment: Option<Deployment>,
}

fn default_max_batch() -> NonZeroU32 {
    DEFAULT_MAX_BATCH
}

pub(crate) fn yes() -> bool {
    true
}

/// What Skysail runs for a version, and how many.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Deployment {
    /// A Docker image, or with the process runtime the path of an executable.
    pub image: String,
    /// Replicas wanted.
    pub replicas: u32,
    /// CPUs each replica may use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpus: Option<f64>,
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

/// The longest warm-up input, as JSON text: it travels in the container's environment, where Linux takes no
/// string of more than 128 KiB.
pub const MAX_WARM_UP_BYTES: usize = 120 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

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

//! Names, parsed once at the edge and carried as types from there on.
//!
//! Application, model and cluster names are `[a-z0-9]([a-z0-9-]*[a-z0-9])?`; versions also take dots and
//! upper case. All are at most [`MAX_NAME_BYTES`] long, so that names made from them fit Docker's and
//! Kubernetes' limits.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// The longest name taken, in bytes (a DNS label's limit).
pub const MAX_NAME_BYTES: usize = 63;

/// Why a name was refused; the text says what a good one looks like.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{what} `{given}` is not valid: {rule}")]
pub struct InvalidName {
    what: &'static str,
    given: String,
    rule: String,
}

impl InvalidName {
    fn new(what: &'static str, given: &str, rule: impl Into<String>) -> Self {
        Self {
            what,
            given: given.chars().take(80).collect(),
            rule: rule.into(),
        }
    }
}

/// What may stand inside a name, and how to say so.
struct Alphabet {
    inner: fn(u8) -> bool,
    rule: &'static str,
}

const NAME: Alphabet = Alphabet {
    inner: |b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-',
    rule: "use lower-case letters, digits and inner dashes, as in `iris-model`",
};

const VERSION: Alphabet = Alphabet {
    inner: |b| b.is_ascii_alphanumeric() || b == b'-' || b == b'.',
    rule: "use letters, digits and inner dashes and dots, as in `1` or `2.1-rc1`",
};

impl Alphabet {
    fn check(&self, what: &'static str, given: &str) -> Result<(), InvalidName> {
        if given.is_empty() {
            return Err(InvalidName::new(
                what,
                given,
                format!("it is empty; {}", self.rule),
            ));
        }
        if given.len() > MAX_NAME_BYTES {
            let rule = format!("it is longer than {MAX_NAME_BYTES} characters");
            return Err(InvalidName::new(what, given, rule));
        }
        let bytes = given.as_bytes();
        let ends = [bytes[0], bytes[bytes.len() - 1]];
        let good = bytes.iter().all(|&b| (self.inner)(b))
            && ends.iter().all(|&b| (self.inner)(b) && b.is_ascii_alphanumeric());
        if good {
            Ok(())
        } else {
            Err(InvalidName::new(what, given, self.rule))
        }
    }
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $what:literal, $alphabet:expr) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
        #[serde(transparent)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Checks and takes a name.
            pub fn new(name: &str) -> Result<Self, InvalidName> {
                $alphabet.check($what, name)?;
                Ok(Self(name.into()))
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = InvalidName;
            fn from_str(name: &str) -> Result<Self, InvalidName> {
                Self::new(name)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        /// Lets a map be searched with text that was never parsed.
        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let name = String::deserialize(deserializer)?;
                Self::new(&name).map_err(serde::de::Error::custom)
            }
        }
    };
}

name!(
    /// Names an application: the first segment of its query endpoint's path.
    ApplicationName, "application name", NAME
);
name!(
    /// Names a model, which has versions.
    ModelName, "model name", NAME
);
name!(
    /// Names one version of a model.
    ModelVersion, "version", VERSION
);
name!(
    /// Names a cluster: frontends, replicas and the store that belong together.
    ClusterName, "cluster name", NAME
);

/// One version of a model, written `name:version`.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct ModelId {
    /// The model.
    pub name: ModelName,
    /// The version.
    pub version: ModelVersion,
}

impl ModelId {
    /// Pairs a model with a version.
    pub fn new(name: ModelName, version: ModelVersion) -> Self {
        Self { name, version }
    }
}

impl fmt::Display for ModelId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.name, self.version)
    }
}

impl FromStr for ModelId {
    type Err = InvalidName;
    fn from_str(id: &str) -> Result<Self, InvalidName> {
        let Some((name, version)) = id.split_once(':') else {
            return Err(InvalidName::new(
                "model id",
                id,
                "write NAME:VERSION, as in `iris-model:1`",
            ));
        };
        Ok(Self::new(name.parse()?, version.parse()?))
    }
}

impl Serialize for ModelId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ModelId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

/// Names one replica in its cluster, for as long as its place exists: a replacement in the same place
/// carries the same id, and its registration supersedes the one before.
///
/// Written `model_version_ordinal` for the replicas Skysail starts (neither names nor versions contain an
/// underscore); a container started by hand may carry any visible ASCII text of up to 200 characters.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(transparent)]
pub struct ReplicaId(Arc<str>);

impl ReplicaId {
    /// The id of the replica in place `ordinal` (from 0) of a model version.
    pub fn of(model: &ModelId, ordinal: u32) -> Self {
        Self(format!("{}_{}_{ordinal}", model.name, model.version).into())
    }

    /// Checks and takes an id.
    pub fn new(id: &str) -> Result<Self, InvalidName> {
        let good = !id.is_empty() && id.len() <= 200 && id.bytes().all(|b| b.is_ascii_graphic());
        if good {
            Ok(Self(id.into()))
        } else {
            Err(InvalidName::new(
                "replica id",
                id,
                "use 1 to 200 visible ASCII characters",
            ))
        }
    }

    /// The place among the replicas of `model`, if this is one of those that Skysail starts.
    pub fn ordinal_in(&self, model: &ModelId) -> Option<u32> {
        let rest = self.0.strip_prefix(model.name.as_str())?.strip_prefix('_')?;
        rest.strip_prefix(model.version.as_str())?
            .strip_prefix('_')?
            .parse()
            .ok()
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ReplicaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl FromStr for ReplicaId {
    type Err = InvalidName;
    fn from_str(id: &str) -> Result<Self, InvalidName> {
        Self::new(id)
    }
}

impl<'de> Deserialize<'de> for ReplicaId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let id = String::deserialize(deserializer)?;
        Self::new(&id).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_take_what_the_rule_says() {
        for good in ["a", "0", "iris", "iris-model", "a-1", "a--b"] {
            assert!(ModelName::new(good).is_ok(), "{good}");
        }
        for bad in ["", "-a", "a-", "A", "a_b", "a.b", "a b", "ü", "a/b", "a:b"] {
            assert!(ModelName::new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn versions_also_take_dots_and_upper_case() {
        for good in ["1", "1.0", "v2.1-RC1"] {
            assert!(ModelVersion::new(good).is_ok(), "{good}");
        }
        for bad in ["", ".1", "1.", "1_0", "1:0", "-"] {
            assert!(ModelVersion::new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_name_is_at_most_63_characters() {
        assert!(ModelName::new(&"a".repeat(63)).is_ok());
        assert!(ModelName::new(&"a".repeat(64)).is_err());
    }

    #[test]
    fn a_refused_name_says_what_a_good_one_looks_like() {
        let error = ApplicationName::new("My App").unwrap_err().to_string();
        assert!(
            error.contains("`My App`") && error.contains("iris-model"),
            "{error}"
        );
    }

    #[test]
    fn a_replica_id_gives_its_place_back_to_its_own_model_only() {
        let model: ModelId = "iris-model:1".parse().unwrap();
        let other: ModelId = "iris:1".parse().unwrap();
        let id = ReplicaId::of(&model, 7);
        assert_eq!(id.ordinal_in(&model), Some(7));
        assert_eq!(id.ordinal_in(&other), None);
    }

    #[test]
    fn model_ids_round_trip_as_text() {
        let id: ModelId = "iris-model:1.0".parse().unwrap();
        assert_eq!(id.to_string(), "iris-model:1.0");
        assert!("iris-model".parse::<ModelId>().is_err());
    }
}

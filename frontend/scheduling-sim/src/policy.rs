//! Who sizes the batches.

use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;

use skysail_core::batch::{BatchPolicy, policy_for};
use skysail_core::waiting_room::Admission;
use skysail_proto::deployment::BatchSize;

use crate::natural::Natural;
use crate::reference::Reference;

/// A policy by its name.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum PolicyKind {
    /// One of Skysail's own.
    Core(BatchSize),
    /// Planned batches and early drops.
    Reference,
    /// Whatever is there.
    Natural,
}

/// A policy that does not exist.
#[derive(Debug, thiserror::Error)]
#[error("write learned, reference, aimd, natural, fixed:N with N from 1, or all")]
pub struct InvalidPolicy;

impl PolicyKind {
    /// Skysail's default.
    pub const LEARNED: Self = Self::Core(BatchSize::Adaptive);

    /// Every policy there is, with fixed sizes that are powers of two.
    pub fn all() -> Vec<Self> {
        let others = [Self::Reference, Self::Core(BatchSize::Aimd), Self::Natural];
        let sizes = [1, 2, 4, 8, 16, 32, 64].into_iter().filter_map(NonZeroU32::new);
        let fixed = sizes.map(|size| Self::Core(BatchSize::Fixed(size)));
        std::iter::once(Self::LEARNED)
            .chain(others)
            .chain(fixed)
            .collect()
    }

    /// The policy of one replica.
    pub fn build(self, max_batch: NonZeroU32) -> Box<dyn BatchPolicy> {
        match self {
            Self::Core(batch_size) => policy_for(batch_size, max_batch),
            Self::Reference => Box::new(Reference::new(max_batch)),
            Self::Natural => Box::new(Natural::new(max_batch)),
        }
    }
}

impl PolicyKind {
    /// What is let into the queues that it takes from.
    pub fn admission(self) -> Admission {
        match self {
            Self::Core(batch_size) => batch_size.into(),
            Self::Reference | Self::Natural => Admission::Any,
        }
    }
}

impl FromStr for PolicyKind {
    type Err = InvalidPolicy;
    fn from_str(text: &str) -> Result<Self, InvalidPolicy> {
        match text {
            "learned" => Ok(Self::LEARNED),
            "reference" => Ok(Self::Reference),
            "aimd" => Ok(Self::Core(BatchSize::Aimd)),
            "natural" => Ok(Self::Natural),
            _ => {
                let size = text.strip_prefix("fixed:").ok_or(InvalidPolicy)?;
                let size = size.parse().map_err(|_| InvalidPolicy)?;
                Ok(Self::Core(BatchSize::Fixed(size)))
            }
        }
    }
}

impl fmt::Display for PolicyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Core(BatchSize::Adaptive) => f.write_str("learned"),
            Self::Core(BatchSize::Aimd) => f.write_str("aimd"),
            Self::Core(BatchSize::Fixed(size)) => write!(f, "fixed:{size}"),
            Self::Reference => f.write_str("reference"),
            Self::Natural => f.write_str("natural"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_is_read_as_it_is_written() {
        for policy in PolicyKind::all() {
            assert_eq!(policy.to_string().parse::<PolicyKind>().unwrap(), policy);
        }
    }

    #[test]
    fn what_is_no_policy_is_answered_with_those_that_exist() {
        for bad in [
            "",
            "lerned",
            "fixed",
            "fixed:",
            "fixed:0",
            "fixed:-1",
            "fixed:1.5",
        ] {
            let error = bad.parse::<PolicyKind>().unwrap_err().to_string();
            assert!(error.contains("fixed:N"), "{error}");
        }
    }
}

//! What one input costs beside another.

use std::str::FromStr;

use fastrand::Rng;

use crate::noise::Normal;

/// Bytes of an average input. An input of twice as many costs twice as much.
pub const MEAN_BYTES: f64 = 1000.0;

/// The largest deviation that is drawn from: beyond it, the mean of many inputs still depends on a handful.
const MOST_DEVIATION: f64 = 3.0;

/// How the costs of inputs are distributed; their mean is 1, of what the model says that an input adds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum InputCosts {
    /// All cost the same.
    Equal,
    /// The logarithms of the costs are normal, with this deviation: texts of few and of many tokens.
    LogNormal {
        /// Of the logarithms.
        deviation: f64,
    },
}

/// Costs that cannot be simulated.
#[derive(Debug, thiserror::Error)]
#[error("write equal, or lognormal:SIGMA with SIGMA from 0 to {MOST_DEVIATION}")]
pub struct InvalidInputCosts;

impl InputCosts {
    /// The bytes of one input.
    pub(crate) fn bytes(self, rng: &mut Rng) -> u32 {
        let cost = match self {
            Self::Equal => 1.0,
            // The mean of the costs is 1 if the mean of their logarithms is −σ²/2.
            Self::LogNormal { deviation } => Normal {
                mean: -deviation * deviation / 2.0,
                deviation,
            }
            .sample(rng)
            .exp(),
        };
        // A float casts to the nearest integer there is.
        ((MEAN_BYTES * cost).round() as u32).max(1)
    }
}

impl FromStr for InputCosts {
    type Err = InvalidInputCosts;
    fn from_str(text: &str) -> Result<Self, InvalidInputCosts> {
        if text == "equal" {
            return Ok(Self::Equal);
        }
        let deviation = text.strip_prefix("lognormal:").ok_or(InvalidInputCosts)?;
        match deviation.parse() {
            Ok(deviation) if (0.0..=MOST_DEVIATION).contains(&deviation) => Ok(Self::LogNormal { deviation }),
            _ => Err(InvalidInputCosts),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn costs_have_a_mean_of_one_and_the_deviation_that_is_asked_for() {
        let costs: InputCosts = "lognormal:1.2".parse().unwrap();
        let mut rng = Rng::with_seed(3);
        let mut bytes: Vec<_> = (0..200_000).map(|_| costs.bytes(&mut rng)).collect();
        let mean = bytes.iter().map(|&bytes| f64::from(bytes)).sum::<f64>() / 2e5;
        assert!((mean / MEAN_BYTES - 1.0).abs() < 0.02, "{mean}");
        bytes.sort_unstable();
        let quantile = |share: f64| f64::from(bytes[(share * 2e5) as usize]).ln();
        let deviation = (quantile(0.8413) - quantile(0.1587)) / 2.0;
        assert!((deviation - 1.2).abs() < 0.02, "{deviation}");
        assert_eq!(InputCosts::Equal.bytes(&mut rng), 1000);
    }

    #[test]
    fn costs_that_cannot_be_drawn_are_answered_with_what_to_write() {
        for bad in [
            "",
            "lognormal",
            "lognormal:",
            "lognormal:-1",
            "lognormal:nan",
            "lognormal:9",
        ] {
            let error = bad.parse::<InputCosts>().unwrap_err().to_string();
            assert!(error.contains("lognormal:SIGMA"), "{error}");
        }
    }
}

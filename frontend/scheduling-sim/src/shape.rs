//! How the time of a batch grows with its inputs: models are not always a line in their number.

use std::fmt;
use std::num::NonZeroU16;
use std::str::FromStr;

/// The shape of a model's batch times.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Shape {
    /// Each input adds the same.
    Line,
    /// Inputs are worked on in waves of so many, as on a GPU: each wave that is begun takes as long as a full one.
    Steps(NonZeroU16),
    /// Batches are padded to the next power of two.
    PowersOfTwo,
    /// The time grows with the square of the inputs; 16 of them take as long as on the line.
    Quadratic,
}

/// See [`Shape::Quadratic`].
const BALANCE: f64 = 16.0;

/// A shape that does not exist.
#[derive(Debug, thiserror::Error)]
#[error("write line, step:N with N from 1 to {}, pow2 or quadratic", u16::MAX)]
pub struct InvalidShape;

impl Shape {
    /// How many inputs take as long on the line as these do. The inputs of a batch may count for more or less than
    /// one each, so this is no whole number.
    pub fn on_the_line(self, inputs: f64) -> f64 {
        match self {
            Self::Line => inputs,
            Self::Steps(wave) => (inputs / f64::from(wave.get())).ceil() * f64::from(wave.get()),
            Self::PowersOfTwo => inputs.log2().ceil().exp2(),
            Self::Quadratic => inputs * inputs / BALANCE,
        }
    }
}

impl FromStr for Shape {
    type Err = InvalidShape;
    fn from_str(text: &str) -> Result<Self, InvalidShape> {
        match text {
            "line" => Ok(Self::Line),
            "pow2" => Ok(Self::PowersOfTwo),
            "quadratic" => Ok(Self::Quadratic),
            _ => {
                let wave = text.strip_prefix("step:").ok_or(InvalidShape)?;
                wave.parse().map(Self::Steps).map_err(|_| InvalidShape)
            }
        }
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Line => f.write_str("line"),
            Self::Steps(wave) => write!(f, "step:{wave}"),
            Self::PowersOfTwo => f.write_str("pow2"),
            Self::Quadratic => f.write_str("quadratic"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shape_is_read_as_it_is_written_and_a_mistake_is_answered_with_what_to_write() {
        for word in ["line", "step:32", "pow2", "quadratic"] {
            assert_eq!(word.parse::<Shape>().unwrap().to_string(), word);
        }
        for bad in ["", "step", "step:0", "step:-1", "cubic"] {
            let error = bad.parse::<Shape>().unwrap_err().to_string();
            assert!(error.contains("step:N"), "{error}");
        }
    }

    #[test]
    fn what_a_batch_takes_jumps_behind_a_full_wave_and_behind_a_power_of_two() {
        let on_the_line = |word: &str, inputs: &[u32]| -> Vec<f64> {
            let shape: Shape = word.parse().unwrap();
            inputs
                .iter()
                .map(|&inputs| shape.on_the_line(inputs.into()))
                .collect()
        };
        let inputs = [1, 16, 17, 32, 33, 64, 65];
        assert_eq!(on_the_line("line", &inputs), [1., 16., 17., 32., 33., 64., 65.]);
        assert_eq!(
            on_the_line("step:32", &inputs),
            [32., 32., 32., 32., 64., 64., 96.]
        );
        assert_eq!(on_the_line("pow2", &inputs), [1., 16., 32., 32., 64., 64., 128.]);
        assert_eq!(on_the_line("quadratic", &[4, 16, 32]), [1., 16., 64.]);
    }
}

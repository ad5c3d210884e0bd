//! The iris model: given four lengths of a flower, answers its species.
//!
//! A linear support vector machine for each pair of species, trained by the build script ([`hyperplane`]
//! is all that is left of it at run time).

use skysail_container_rpc::{Batch, Input, Model, ModelError, Outputs};

pub mod hyperplane;

use hyperplane::{Duel, FEATURES, Hyperplane, classify};

/// The species, by their number in the data set.
pub const SPECIES: [&str; 3] = ["setosa", "versicolor", "virginica"];

/// Bytes in the longest of them.
const LONGEST_NAME: usize = "versicolor".len();

const TRAINED: [Hyperplane; 3] = include!(concat!(env!("OUT_DIR"), "/trained.rs"));

/// Answers `setosa`, `versicolor` or `virginica` for rows of four doubles: sepal length, sepal width,
/// petal length and petal width, in centimetres.
#[derive(Clone, Copy, Debug, Default)]
pub struct IrisSvm;

impl Model for IrisSvm {
    fn predict(&mut self, batch: &Batch) -> Result<Outputs, ModelError> {
        let mut outputs = Outputs::with_capacity(batch.len(), batch.len() * LONGEST_NAME);
        for row in batch.doubles()? {
            match species(row) {
                Ok(species) => outputs.push(species),
                Err(error) => outputs.push_error(&error),
            }
        }
        Ok(outputs)
    }

    /// A flower between the species; which it is makes no difference to how long it takes.
    fn warm_up(&mut self) -> Vec<Input> {
        vec![Input::doubles(&[5.84, 3.05, 3.76, 1.2])]
    }
}

fn species(row: &[f64]) -> Result<&'static str, ModelError> {
    let Ok(row) = <&[f64; FEATURES]>::try_from(row) else {
        return Err(ModelError::new(format_args!(
            "an iris has {FEATURES} numbers (sepal length, sepal width, petal length, petal width), not {}",
            row.len()
        )));
    };
    Ok(SPECIES[classify(&TRAINED, row)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_three_demonstration_rows_are_answered_right() {
        assert_eq!(species(&[7.9, 4.4, 6.9, 2.5]).unwrap(), "virginica");
        assert_eq!(species(&[5.84, 3.05, 3.76, 1.2]).unwrap(), "versicolor");
        assert_eq!(species(&[4.3, 2.0, 1.0, 0.1]).unwrap(), "setosa");
    }

    #[test]
    fn a_row_of_another_length_says_what_is_expected() {
        let error = species(&[1.0, 2.0]).unwrap_err();
        assert!(
            error.message().contains("has 4 numbers") && error.message().ends_with("not 2"),
            "{error}"
        );
        assert!(species(&[0.0; 5]).is_err());
    }
}

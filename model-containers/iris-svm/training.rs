//! Trains one-vs-one linear support vector machines with linfa.
//!
//! Shared by the build script, which trains on everything, and the test of the accuracy, which trains on
//! four fifths at a time. One-vs-rest would need fewer words and is wrong too often: no plane separates
//! versicolor from the two species on either side of it.

use linfa::{Dataset, traits::Fit};
use linfa_svm::{Svm, SvmError};
use ndarray::{Axis, Ix1};

use crate::hyperplane::{Duel, FEATURES, Hyperplane};

/// The pairs of species that duel, by their number in the data set.
const DUELS: [Duel; 3] = [
    Duel {
        positive: 0,
        negative: 1,
    },
    Duel {
        positive: 0,
        negative: 2,
    },
    Duel {
        positive: 1,
        negative: 2,
    },
];

/// How dear a training row on the wrong side is (C).
const COST: f64 = 1.0;

/// The hyperplanes that tell the species of `flowers` apart, pair by pair.
pub(crate) fn train(flowers: &Dataset<f64, usize, Ix1>) -> Result<[Hyperplane; 3], SvmError> {
    let [first, second, third] = DUELS.map(|duel| train_duel(flowers, duel));
    Ok([first?, second?, third?])
}

fn train_duel(flowers: &Dataset<f64, usize, Ix1>, duel: Duel) -> Result<Hyperplane, SvmError> {
    let species = flowers.targets();
    let rows: Vec<usize> = (0..species.len())
        .filter(|&row| species[row] == duel.positive || species[row] == duel.negative)
        .collect();
    let records = flowers.records().select(Axis(0), &rows);
    let is_positive = rows.iter().map(|&row| species[row] == duel.positive).collect();
    let svm = Svm::<f64, bool>::params()
        .linear_kernel()
        .pos_neg_weights(COST, COST)
        .fit(&Dataset::new(records.clone(), is_positive))?;
    // The kernel is linear, so the support vectors add up to one plane.
    let mut weights = [0.0; FEATURES];
    for (row, alpha) in records.outer_iter().zip(&svm.alpha) {
        for (weight, feature) in weights.iter_mut().zip(row) {
            *weight += alpha * feature;
        }
    }
    Ok(Hyperplane {
        duel,
        weights,
        bias: -svm.rho,
    })
}

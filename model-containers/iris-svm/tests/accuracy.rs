//! How often the model is right about flowers it was not trained on.

use iris_svm::hyperplane::{self, FEATURES, classify};
use linfa::Dataset;
use ndarray::{Axis, Ix1};

#[path = "../training.rs"]
mod training;

const FOLDS: usize = 5;

#[test]
fn stratified_five_fold_mean_accuracy_is_at_least_0_95() {
    let flowers = linfa_datasets::iris();
    let fold_of = stratified_folds(&flowers);
    let accuracies = (0..FOLDS).map(|fold| accuracy_on(&flowers, &fold_of, fold));
    let mean = accuracies.sum::<f64>() / FOLDS as f64;
    assert!(mean >= 0.95, "{mean}");
}

/// Deals each species' flowers out in turn, so that every fold has as many of each.
fn stratified_folds(flowers: &Dataset<f64, usize, Ix1>) -> Vec<usize> {
    let mut dealt = [0; 3];
    let mut deal = |&species: &usize| {
        dealt[species] += 1;
        dealt[species] % FOLDS
    };
    flowers.targets().iter().map(&mut deal).collect()
}

/// Trains on all folds but one and counts right answers on that one.
fn accuracy_on(flowers: &Dataset<f64, usize, Ix1>, fold_of: &[usize], fold: usize) -> f64 {
    let pick = |in_fold: bool| {
        let rows: Vec<_> = (0..fold_of.len())
            .filter(|&row| (fold_of[row] == fold) == in_fold)
            .collect();
        let targets = flowers.targets().select(Axis(0), &rows);
        Dataset::new(flowers.records().select(Axis(0), &rows), targets)
    };
    let hyperplanes = training::train(&pick(false)).unwrap();
    let unseen = pick(true);
    let rows = unseen.records().outer_iter().zip(unseen.targets());
    let right = rows.filter(|(row, species)| {
        let row: [f64; FEATURES] = std::array::from_fn(|feature| row[feature]);
        classify(&hyperplanes, &row) == **species
    });
    right.count() as f64 / unseen.targets().len() as f64
}

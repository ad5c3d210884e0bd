//! Trains the model on all of the iris data and writes its hyperplanes as Rust source.

use std::path::Path;
use std::{env, error::Error, fs};

#[path = "src/hyperplane.rs"]
#[expect(
    dead_code,
    unreachable_pub,
    reason = "part of the crate's library too; building only trains, and exports nothing"
)]
mod hyperplane;
#[path = "training.rs"]
mod training;

fn main() -> Result<(), Box<dyn Error>> {
    for source in ["build.rs", "training.rs", "src/hyperplane.rs"] {
        println!("cargo:rerun-if-changed={source}");
    }
    let hyperplanes = training::train(&linfa_datasets::iris())?;
    let target = Path::new(&env::var("OUT_DIR")?).join("trained.rs");
    // The debug form of the array is its Rust source, and prints floats so that they parse back exactly.
    fs::write(target, format!("{hyperplanes:?}"))?;
    Ok(())
}

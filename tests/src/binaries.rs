//! Where the programs are that tests start.
//!
//! Cargo tells a test only where the binaries of its own package are, and builds no others: they come from
//! `SKYSAIL_BIN_DIR` (the binaries that also go into the images), or from beside the one that asks.

use std::env;
use std::path::{Path, PathBuf};

/// Names the folder with the programs, if it is not the one beside the tests.
pub const BIN_DIR: &str = "SKYSAIL_BIN_DIR";

/// A program that is not where it should be.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{program} is not in {folder}: build it with `cargo build --workspace --bins`, or set {BIN_DIR}")]
pub struct MissingBinary {
    program: String,
    folder: String,
}

/// The path of one of this workspace's programs.
pub fn find(program: &str) -> Result<PathBuf, MissingBinary> {
    let folder = folder();
    let path = folder.join(program);
    if path.is_file() {
        return Ok(path);
    }
    Err(MissingBinary {
        program: program.to_owned(),
        folder: folder.display().to_string(),
    })
}

/// The path of one of this workspace's programs, for a test that cannot go on without.
///
/// # Panics
/// If it is not there, with the command that builds it.
pub fn path(program: &str) -> PathBuf {
    find(program).unwrap_or_else(|missing| panic!("{missing}"))
}

/// The path of a program that is installed on this machine.
pub fn installed(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .map(|folder| folder.join(program))
        .find(|program| program.is_file())
}

fn folder() -> PathBuf {
    if let Some(folder) = env::var_os(BIN_DIR).filter(|folder| !folder.is_empty()) {
        return folder.into();
    }
    // A test is in target/PROFILE/deps, programs are in target/PROFILE; what uses this may be one of either.
    let own = env::current_exe().expect("a process knows its own executable");
    let folder = own.parent().unwrap_or(Path::new(""));
    match folder.parent() {
        Some(profile) if folder.ends_with("deps") => profile.to_owned(),
        _ => folder.to_owned(),
    }
}

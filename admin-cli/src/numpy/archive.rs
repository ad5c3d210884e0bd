//! The arrays in a `.npz` file, by name.

use std::io::{Cursor, Read};

use zip::ZipArchive;
use zip::result::ZipError;

use super::array::Array;
use super::header::InvalidArray;

/// What a member's name ends with.
const SUFFIX: &str = ".npy";

/// Why a zip file gives no arrays.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InvalidArchive {
    #[error("it is no .npz file: {0}")]
    Zip(#[from] ZipError),
    #[error("`{name}` in it cannot be read: {reason}")]
    Member { name: String, reason: std::io::Error },
    #[error("`{name}` in it is no array, and a .npz file holds nothing else")]
    Foreign { name: String },
    #[error("array `{name}`: {reason}")]
    Array { name: String, reason: InvalidArray },
}

/// Reads all arrays, in the order in which they were saved.
pub(super) fn read(content: &[u8]) -> Result<Vec<(String, Array)>, InvalidArchive> {
    let mut archive = ZipArchive::new(Cursor::new(content))?;
    (0..archive.len())
        .map(|index| member(&mut archive, index))
        .collect()
}

fn member(archive: &mut ZipArchive<Cursor<&[u8]>>, index: usize) -> Result<(String, Array), InvalidArchive> {
    let mut file = archive.by_index(index)?;
    let name = file.name()?.into_owned();
    let Some(array) = name.strip_suffix(SUFFIX).map(str::to_owned) else {
        return Err(InvalidArchive::Foreign { name });
    };
    let mut content = Vec::new();
    file.read_to_end(&mut content)
        .map_err(|reason| InvalidArchive::Member { name, reason })?;
    match Array::read(&content) {
        Ok(read) => Ok((array, read)),
        Err(reason) => Err(InvalidArchive::Array { name: array, reason }),
    }
}

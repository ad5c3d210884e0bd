//! NumPy files: `.npy` with one array, `.npz` with several by name.
//!
//! In reading order: [`header`] says what an array is, [`mod@array`] puts its elements in row-major order, [`convert`] makes
//! them a tensor of the signature where that loses nothing, [`archive`] finds arrays in a `.npz` file, and [`inputs`]
//! makes inputs of all that.

mod archive;
mod array;
mod convert;
mod header;
mod inputs;

pub(crate) use inputs::{Given, NumpyError, read};

/// What every `.npy` file begins with.
const NPY: &[u8] = b"\x93NUMPY";

/// What a zip file begins with.
const ZIP: &[u8] = b"PK";

/// Whether these are the bytes of a NumPy file. A zip file without arrays counts: it can be nothing else of use here.
pub(crate) fn is_numpy(content: &[u8]) -> bool {
    content.starts_with(NPY) || content.starts_with(ZIP)
}

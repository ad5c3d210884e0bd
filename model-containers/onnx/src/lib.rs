//! Serves an ONNX file, computed by tract.
//!
//! In reading order:
//!
//! - `error`: why a file cannot be served, and why a batch cannot be computed.
//! - `file`: the bytes of a file become ONNX's own description of a model.
//! - `operators`: whether tract has every operator that the model needs.
//! - `labels`, `scaler`, `trees`: operators that tract lacks, or has with flaws.
//! - `zip_map`: the dictionaries at the end of scikit-learn's models are cut off.
//! - `interface`: names, datatypes and shapes, and which dimension is the batch.
//! - `elements`: tensors as they travel become tract's, and back.
//! - `plans`: what tract makes of the model for the shapes that it meets.
//! - `model`: all of it together: a file that was loaded, which computes batches.
//! - `container`: the same as the model of a container.

#![warn(missing_docs)]

mod container;
mod elements;
mod error;
mod file;
mod interface;
mod labels;
mod model;
mod operators;
mod plans;
mod scaler;
mod trees;
mod zip_map;

pub use error::{LoadError, Refusal, RunError};
pub use interface::Batching;
pub use model::OnnxModel;

//! Why a file cannot be served, and why a batch cannot be computed.

use std::path::PathBuf;

use skysail_proto::signature::SignatureError;
use skysail_proto::tensor::TensorError;
use tract_onnx::prelude::TractError;

use crate::operators::{NEWEST_OPSET, OLDEST_OPSET};

/// Why a file cannot be served. Nothing of it is temporary: the same file fails again.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file cannot be read.
    #[error("`{}` cannot be read", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file without a byte.
    #[error("`{}` is empty: it holds no ONNX model", .0.display())]
    Empty(PathBuf),
    /// A file that ONNX's format cannot describe.
    #[error(
        "`{}` has {bytes} bytes, and an ONNX file is smaller than 2 GiB: a larger model keeps its weights in files \
         of their own, which only a container of yours can hold",
        path.display()
    )]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size.
        bytes: u64,
    },
    /// The file ends before the model does.
    #[error("`{}` is cut short: {missing}; upload or export it again", path.display())]
    CutShort {
        /// The file.
        path: PathBuf,
        /// What it lacks.
        missing: String,
    },
    /// The file is something else.
    #[error("`{}` is not an ONNX file: {reason}", path.display())]
    NotOnnx {
        /// The file.
        path: PathBuf,
        /// How that is known.
        reason: String,
    },
    /// Operators of a generation that is not known here.
    #[error(
        "the model uses version {version} of the operator set `{domain}`; supported are {} to {}: export it with \
         one of these (`target_opset` or `opset_version`), or serve it with a Python container",
        supported.0, supported.1
    )]
    Opset {
        /// The operator set, `ai.onnx` or `ai.onnx.ml`.
        domain: String,
        /// The version that the file names.
        version: i64,
        /// The oldest and the newest that are supported.
        supported: (i64, i64),
    },
    /// The file does not say which operators it means.
    #[error(
        "the model names no version of the operator set `{domain}`, of which its node {node} is: the file may be \
         damaged; export it again, with a version from {OLDEST_OPSET} to {NEWEST_OPSET} of `ai.onnx`"
    )]
    NoOpset {
        /// The operator set.
        domain: String,
        /// A node that needs it.
        node: String,
    },
    /// Operators that tract does not have.
    #[error("tract has no operator {0}: serve the model with a Python container")]
    Operators(String),
    /// Weights that are kept in another file, which is not there.
    #[error(
        "the model keeps tensor `{tensor}` in the file `{file}`, which is not beside it: save the model in one file \
         (`onnx.save_model(..., save_as_external_data=False)`)"
    )]
    ExternalData {
        /// One of the tensors that are kept there.
        tensor: String,
        /// The file that the model names.
        file: String,
    },
    /// An input or output that is no tensor, or of which the file does not tell enough.
    #[error("{port} {problem}")]
    Port {
        /// Such as "input `x`".
        port: String,
        /// What is wrong with it.
        problem: String,
    },
    /// Inputs and outputs that are no signature.
    #[error("the model's inputs and outputs are no signature")]
    Signature(#[source] SignatureError),
    /// What tract says of the model.
    #[error("tract cannot run this model, {doing}: serve it with a Python container")]
    Refused {
        /// What was being done.
        doing: String,
        /// What tract said.
        source: Refusal,
    },
}

/// What tract said, with its causes.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Refusal(pub(crate) String);

impl From<TractError> for Refusal {
    fn from(error: TractError) -> Self {
        Self(format!("{error:#}"))
    }
}

/// Why a batch cannot be computed.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The caller gave another number of tensors than the model has inputs.
    #[error("the model takes {expected} tensors, not {got}")]
    Inputs {
        /// The model's inputs.
        expected: usize,
        /// Tensors that were given.
        got: usize,
    },
    /// Text that is not UTF-8, of which ONNX strings are made.
    #[error("element {element} of input `{input}` is not valid UTF-8, and the model takes text")]
    Utf8 {
        /// The input.
        input: String,
        /// The element's number.
        element: usize,
    },
    /// An output that does not have an entry for each input of the batch.
    #[error("output `{output}` has shape {got:?} for a batch of {inputs}: its first dimension is no batch")]
    NoBatch {
        /// The output.
        output: String,
        /// Its shape.
        got: Vec<usize>,
        /// Inputs of the batch.
        inputs: usize,
    },
    /// An output of another datatype than the file says.
    #[error("output `{output}` is {got}, and the file says {expected}")]
    Datatype {
        /// The output.
        output: String,
        /// What tract gave.
        got: String,
        /// What the file says.
        expected: String,
    },
    /// A tensor that is none.
    #[error("{port} is no tensor")]
    Tensor {
        /// Such as "output `y`".
        port: String,
        /// Why.
        source: TensorError,
    },
    /// What tract says of the batch.
    #[error("the model failed on inputs of shape {shapes}")]
    Failed {
        /// The shapes of the inputs.
        shapes: String,
        /// What tract said.
        source: Refusal,
    },
}

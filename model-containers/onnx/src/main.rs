//! The container that serves an ONNX file.

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;

use skysail_onnx::{Batching, OnnxModel};
use skysail_proto::labels::{ENV_INPUT_TYPE, ENV_ONNX_FILE, ENV_SIGNATURE};
use skysail_proto::signature::Signature;

/// Where an image has it.
const DEFAULT_FILE: &str = "/model.onnx";

fn main() -> ExitCode {
    let file = std::env::var_os(ENV_ONNX_FILE).filter(|file| !file.is_empty());
    let file = file.map_or_else(|| DEFAULT_FILE.into(), PathBuf::from);
    match OnnxModel::load(&file, batching()) {
        Ok(model) => skysail_container_rpc::serve(model),
        Err(error) => {
            // The last line is what `skysail model deploy --wait` shows.
            eprintln!("{}", in_a_line(&error));
            ExitCode::FAILURE
        }
    }
}

/// Whether the deployment declares that tensors have no batch dimension. What else it declares, `serve` compares.
fn batching() -> Batching {
    let variable = |name| std::env::var(name).unwrap_or_default();
    let declared = variable(ENV_SIGNATURE);
    let declared = Some(declared.as_str()).filter(|declared| !declared.trim().is_empty());
    match Signature::from_text(&variable(ENV_INPUT_TYPE), declared) {
        Ok(signature) if signature.is_declared() && !signature.is_batched() => Batching::Never,
        _ => Batching::AsInFile,
    }
}

/// An error with its causes.
fn in_a_line(error: &dyn Error) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        line.push_str(": ");
        line.push_str(&error.to_string());
        cause = error.source();
    }
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

//! Whether tract has every operator that a model needs.
//!
//! tract looks an operator up by its name alone and runs a newer version as if it were one that it knows. So which
//! domain an operator is of, and of which version, is checked here: a wrong answer is worse than none.

use std::collections::BTreeMap;

use tract_onnx::model::OnnxOpRegister;
use tract_onnx::pb::{ModelProto, NodeProto};

use crate::error::LoadError;
use crate::file::nodes;
use crate::{labels, scaler, trees};

/// The oldest version of `ai.onnx` whose operators mean what tract takes them to mean.
pub(crate) const OLDEST_OPSET: i64 = 7;

/// The newest such version. tract is tested up to 18. Up to here the operators that it has were changed where tract
/// follows (`DFT`, `GridSample`, `GroupNormalization`), or only took more datatypes.
pub(crate) const NEWEST_OPSET: i64 = 26;

/// The versions of `ai.onnx.ml`, the operators of classical machine learning.
const ML_OPSETS: (i64, i64) = (1, 5);

/// ONNX's own operators have the empty domain, which is also written out.
const STANDARD: &str = "ai.onnx";
const ML: &str = "ai.onnx.ml";

/// The domain of ONNX Runtime's operators, some of which tract has. It has a single version.
const MICROSOFT: &str = "com.microsoft";

/// How many operators an error names.
const NAMED: usize = 8;

/// Adds the operators that are here, to tract's or in their place.
pub(crate) fn register(operators: &mut OnnxOpRegister) {
    labels::register(operators);
    trees::register(operators);
}

/// Replaces operators that tract lacks by those that it has. After [`check`], because it adds some of our own.
pub(crate) fn replace(model: &mut ModelProto) {
    if let Some(graph) = &mut model.graph {
        scaler::replace(graph);
        labels::number(graph);
    }
}

/// Checks the versions of the operator sets, and then every operator.
pub(crate) fn check(model: &ModelProto, known: &OnnxOpRegister) -> Result<(), LoadError> {
    let graph = model
        .graph
        .as_ref()
        .expect("a file without graph is refused; this is a bug");
    let nodes = nodes(graph);
    check_version(model, &nodes, STANDARD, (OLDEST_OPSET, NEWEST_OPSET))?;
    check_version(model, &nodes, ML, ML_OPSETS)?;
    check_names(&nodes, known)
}

/// Checks the version of a domain, if a node is of it: exporters name domains that they do not use.
fn check_version(
    model: &ModelProto,
    nodes: &[&NodeProto],
    domain: &str,
    supported: (i64, i64),
) -> Result<(), LoadError> {
    let Some(node) = nodes.iter().find(|node| domain_of(&node.domain) == domain) else {
        return Ok(());
    };
    let mut imports = model.opset_import.iter();
    let Some(import) = imports.find(|import| domain_of(&import.domain) == domain) else {
        return Err(LoadError::NoOpset {
            domain: domain.to_owned(),
            node: described(node),
        });
    };
    if (supported.0..=supported.1).contains(&import.version) {
        return Ok(());
    }
    Err(LoadError::Opset {
        domain: domain.to_owned(),
        version: import.version,
        supported,
    })
}

fn check_names(nodes: &[&NodeProto], known: &OnnxOpRegister) -> Result<(), LoadError> {
    let mut unknown = BTreeMap::new();
    for node in nodes.iter().filter(|node| !is_known(node, known)) {
        unknown.entry(full_name(node)).or_insert_with(|| described(node));
    }
    if unknown.is_empty() {
        return Ok(());
    }
    let mut named: Vec<_> = unknown
        .iter()
        .take(NAMED)
        .map(|(name, node)| format!("`{name}` (node {node})"))
        .collect();
    if unknown.len() > NAMED {
        named.push(format!("and {} others", unknown.len() - NAMED));
    }
    Err(LoadError::Operators(named.join(", ")))
}

fn is_known(node: &NodeProto, known: &OnnxOpRegister) -> bool {
    // A ZipMap at an output is cut off. One elsewhere would hand a dictionary to another node, which tract lacks.
    [STANDARD, ML, MICROSOFT].contains(&domain_of(&node.domain))
        && (known.0.contains_key(&node.op_type) || node.op_type == scaler::SCALER)
}

fn domain_of(domain: &str) -> &str {
    if domain.is_empty() { STANDARD } else { domain }
}

/// An operator's name, with its domain where that is not the standard one.
fn full_name(node: &NodeProto) -> String {
    match domain_of(&node.domain) {
        STANDARD => node.op_type.clone(),
        domain => format!("{domain}.{}", node.op_type),
    }
}

/// A node's name, or what it computes: nodes need not have names.
fn described(node: &NodeProto) -> String {
    match node.output.first() {
        _ if !node.name.is_empty() => format!("`{}`", node.name),
        Some(output) => format!("of `{output}`"),
        None => "without a name".to_owned(),
    }
}

//! `Scaler`, which tract does not have: `(x - offset) * scale`, by the operators that it has.
//!
//! skl2onnx writes it for a `StandardScaler`, which stands in front of many models.

use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::{AttributeProto, GraphProto, NodeProto, TensorProto, attribute_proto::AttributeType};

pub(crate) const SCALER: &str = "Scaler";

/// Replaces every scaler.
pub(crate) fn replace(graph: &mut GraphProto) {
    let nodes = std::mem::take(&mut graph.node);
    for node in nodes {
        if node.op_type == SCALER {
            replace_one(graph, &node);
        } else {
            graph.node.push(node);
        }
    }
}

fn replace_one(graph: &mut GraphProto, scaler: &NodeProto) {
    let (Some(input), Some(output)) = (scaler.input.first(), scaler.output.first()) else {
        return;
    };
    let [floats, offset, centred, scale] =
        ["floats", "offset", "centred", "scale"].map(|part| format!("{output}/{part}"));
    graph.initializer.push(numbers(scaler, "offset", &offset));
    graph.initializer.push(numbers(scaler, "scale", &scale));
    let to_floats = AttributeProto {
        name: "to".to_owned(),
        r#type: AttributeType::Int as i32,
        i: DataType::Float as i64,
        ..AttributeProto::default()
    };
    graph.node.extend([
        node("Cast", &[input], &floats, vec![to_floats]),
        node("Sub", &[&floats, &offset], &centred, Vec::new()),
        node("Mul", &[&centred, &scale], output, Vec::new()),
    ]);
}

/// One number for each feature, or one for all.
fn numbers(scaler: &NodeProto, attribute: &str, name: &str) -> TensorProto {
    let attribute = scaler.attribute.iter().find(|known| known.name == attribute);
    let numbers = attribute
        .map(|attribute| attribute.floats.clone())
        .unwrap_or_default();
    TensorProto {
        name: name.to_owned(),
        data_type: DataType::Float as i32,
        dims: vec![i64::try_from(numbers.len()).unwrap_or(i64::MAX)],
        float_data: numbers,
        ..TensorProto::default()
    }
}

fn node(operator: &str, inputs: &[&String], output: &str, attribute: Vec<AttributeProto>) -> NodeProto {
    NodeProto {
        name: format!("{output}/{operator}"),
        op_type: operator.to_owned(),
        input: inputs.iter().map(|&input| input.clone()).collect(),
        output: vec![output.to_owned()],
        attribute,
        ..NodeProto::default()
    }
}

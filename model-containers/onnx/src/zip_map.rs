//! The dictionaries at the end of scikit-learn's models are cut off.
//!
//! skl2onnx by default turns a classifier's probabilities into a dictionary for each row, by the operator `ZipMap`. No
//! tensor is such a dictionary. So the output becomes the tensor in front of it, by the name of that, and the labels,
//! which would have been the dictionaries' keys, are kept beside.

use std::collections::BTreeMap;

use serde_json::Value;
use tract_onnx::pb::{GraphProto, NodeProto, ValueInfoProto};

/// The names of classes, in the order of the probabilities, by output.
pub(crate) type Classes = BTreeMap<String, Vec<Value>>;

/// Cuts off the ZipMaps whose dictionaries are outputs.
pub(crate) fn cut(graph: &mut GraphProto) -> Classes {
    let mut classes = Classes::new();
    for place in 0..graph.output.len() {
        let Some(zip_map) = maker(graph, &graph.output[place].name) else {
            continue;
        };
        let Some(probabilities) = zip_map.input.first().cloned() else {
            continue;
        };
        classes.insert(probabilities.clone(), labels(zip_map));
        graph.output[place] = ValueInfoProto {
            name: probabilities,
            ..ValueInfoProto::default()
        };
    }
    drop_unused(graph);
    drop_repeated(graph);
    classes
}

/// The ZipMap that makes a value.
fn maker<'a>(graph: &'a GraphProto, value: &str) -> Option<&'a NodeProto> {
    graph
        .node
        .iter()
        .find(|node| is_zip_map(node) && node.output.iter().any(|output| output == value))
}

fn is_zip_map(node: &NodeProto) -> bool {
    node.op_type == "ZipMap"
}

fn labels(zip_map: &NodeProto) -> Vec<Value> {
    let attributes = zip_map.attribute.iter();
    let texts = attributes.clone().flat_map(|attribute| &attribute.strings);
    let numbers = attributes.flat_map(|attribute| &attribute.ints);
    texts
        .map(|text| Value::from(String::from_utf8_lossy(text).into_owned()))
        .chain(numbers.map(|&number| Value::from(number)))
        .collect()
}

/// Drops the ZipMaps that nothing needs any more.
fn drop_unused(graph: &mut GraphProto) {
    let inputs = graph.node.iter().flat_map(|node| &node.input);
    let outputs = graph.output.iter().map(|output| &output.name);
    let needed: Vec<String> = inputs.chain(outputs).cloned().collect();
    graph
        .node
        .retain(|node| !is_zip_map(node) || node.output.iter().any(|output| needed.contains(output)));
}

/// A model may give the probabilities both as a dictionary and as they are.
fn drop_repeated(graph: &mut GraphProto) {
    let described = graph.output.iter().filter(|output| output.r#type.is_some());
    let known: Vec<String> = described.map(|output| output.name.clone()).collect();
    graph
        .output
        .retain(|output| output.r#type.is_some() || !known.contains(&output.name));
}

#[cfg(test)]
mod tests {
    use super::*;
    use tract_onnx::pb::AttributeProto;

    fn value(name: &str) -> ValueInfoProto {
        ValueInfoProto {
            name: name.to_owned(),
            ..ValueInfoProto::default()
        }
    }

    fn zip_map(attribute: AttributeProto) -> GraphProto {
        GraphProto {
            node: vec![NodeProto {
                op_type: "ZipMap".to_owned(),
                input: vec!["p".to_owned()],
                output: vec!["dictionary".to_owned()],
                attribute: vec![attribute],
                ..NodeProto::default()
            }],
            output: vec![value("label"), value("dictionary")],
            ..GraphProto::default()
        }
    }

    #[test]
    fn what_is_in_front_of_a_zip_map_becomes_the_output() {
        let mut graph = zip_map(AttributeProto {
            name: "classlabels_int64s".to_owned(),
            ints: vec![0, 7],
            ..AttributeProto::default()
        });
        let classes = cut(&mut graph);
        assert_eq!(classes["p"], [Value::from(0), Value::from(7)]);
        assert!(graph.node.is_empty());
        let names: Vec<_> = graph.output.iter().map(|output| output.name.as_str()).collect();
        assert_eq!(names, ["label", "p"]);
    }

    #[test]
    fn labels_that_are_texts_stay_texts() {
        let mut graph = zip_map(AttributeProto {
            name: "classlabels_strings".to_owned(),
            strings: vec![b"setosa".to_vec()],
            ..AttributeProto::default()
        });
        assert_eq!(cut(&mut graph)["p"], [Value::from("setosa")]);
    }

    #[test]
    fn a_zip_map_within_a_model_is_left_alone() {
        let mut graph = zip_map(AttributeProto::default());
        graph.output.pop();
        graph.node.push(NodeProto {
            op_type: "Other".to_owned(),
            input: vec!["dictionary".to_owned()],
            ..NodeProto::default()
        });
        assert!(cut(&mut graph).is_empty());
        assert_eq!(graph.node.len(), 2);
    }
}

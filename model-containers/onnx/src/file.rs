//! The bytes of a file become ONNX's own description of a model.
//!
//! An ONNX file is one protobuf message, `ModelProto`. Protobuf has no magic number and no checksum, so a file that is
//! cut short, or something else, is known by the fields at the top of the message alone.

use std::fs;
use std::path::Path;

use prost::Message;
use tract_onnx::pb::{GraphProto, ModelProto, NodeProto, TensorProto, tensor_proto};

use crate::error::LoadError;

/// The largest message of protobuf, in bytes.
const LARGEST: u64 = i32::MAX as u64;

/// The fields of `ModelProto` by their wire type: 0 for numbers, 2 for texts and messages. Others are not ONNX.
const NUMBERS: [u64; 2] = [1, 5];
const MESSAGES: [u64; 9] = [2, 3, 4, 6, 7, 8, 14, 20, 25];

/// The field that tells devices apart, of newer versions of the format.
const CONFIGURATION: u64 = 26;

/// What is wrong with the bytes of a file.
#[derive(Debug, PartialEq)]
enum Flaw {
    CutShort(String),
    NotOnnx(String),
}

/// Reads the model out of a file.
pub(crate) fn read(path: &Path) -> Result<ModelProto, LoadError> {
    let unread = |source| LoadError::Read {
        path: path.to_owned(),
        source,
    };
    // Asked before reading: nothing that is too large is held in memory.
    let bytes = fs::metadata(path).map_err(unread)?.len();
    if bytes > LARGEST {
        return Err(LoadError::TooLarge {
            path: path.to_owned(),
            bytes,
        });
    }
    let bytes = fs::read(path).map_err(unread)?;
    if bytes.is_empty() {
        return Err(LoadError::Empty(path.to_owned()));
    }
    parse(&bytes).map_err(|flaw| match flaw {
        Flaw::CutShort(missing) => LoadError::CutShort {
            path: path.to_owned(),
            missing,
        },
        Flaw::NotOnnx(reason) => LoadError::NotOnnx {
            path: path.to_owned(),
            reason,
        },
    })
}

fn parse(bytes: &[u8]) -> Result<ModelProto, Flaw> {
    walk(bytes)?;
    let model = ModelProto::decode(bytes).map_err(|error| Flaw::NotOnnx(error.to_string()))?;
    match &model.graph {
        None => Err(Flaw::CutShort("it has no graph".to_owned())),
        Some(_) if model.opset_import.is_empty() => {
            Err(Flaw::CutShort("it names no operator set".to_owned()))
        }
        Some(_) => Ok(model),
    }
}

/// Goes over the fields of the outermost message without a look into them.
fn walk(bytes: &[u8]) -> Result<(), Flaw> {
    let mut rest = bytes;
    while !rest.is_empty() {
        let begins = bytes.len() - rest.len();
        let cut = || Flaw::CutShort(format!("the field at byte {begins} does not end"));
        let key = varint(&mut rest).ok_or_else(cut)?;
        let (field, wire_type) = (key >> 3, key & 7);
        match wire_type {
            0 if NUMBERS.contains(&field) => {
                varint(&mut rest).ok_or_else(cut)?;
            }
            2 if MESSAGES.contains(&field) || field == CONFIGURATION => {
                let length = varint(&mut rest).ok_or_else(cut)?;
                let there = rest.len();
                rest = usize::try_from(length)
                    .ok()
                    .and_then(|length| rest.get(length..))
                    .ok_or_else(|| {
                        Flaw::CutShort(format!(
                            "the field at byte {begins} has {length} bytes, and {there} are there"
                        ))
                    })?;
            }
            _ => {
                return Err(Flaw::NotOnnx(format!(
                    "byte {begins} begins no field of an ONNX model"
                )));
            }
        }
    }
    Ok(())
}

/// Takes a number of protobuf off the front; `None` if it does not end, or not within ten bytes.
fn varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let (&byte, after) = rest.split_first()?;
        *rest = after;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// Checks that files which hold tensors of the model are beside it.
pub(crate) fn check_external_data(path: &Path, graph: &GraphProto) -> Result<(), LoadError> {
    let folder = path.parent().unwrap_or(Path::new("."));
    for tensor in tensors(graph) {
        let external = tensor.data_location == Some(tensor_proto::DataLocation::External as i32);
        let Some(location) = tensor.external_data.iter().find(|entry| entry.key == "location") else {
            continue;
        };
        if external && !folder.join(&location.value).is_file() {
            return Err(LoadError::ExternalData {
                tensor: tensor.name.clone(),
                file: location.value.clone(),
            });
        }
    }
    Ok(())
}

/// All tensors in a graph, and in the graphs within its nodes.
fn tensors(graph: &GraphProto) -> Vec<&TensorProto> {
    let in_nodes = nodes(graph)
        .into_iter()
        .flat_map(|node| &node.attribute)
        .flat_map(|attribute| attribute.t.iter().chain(&attribute.tensors));
    let initializers = graphs(graph).into_iter().flat_map(|graph| &graph.initializer);
    initializers.chain(in_nodes).collect()
}

/// All nodes of a graph, and of the graphs within them.
pub(crate) fn nodes(graph: &GraphProto) -> Vec<&NodeProto> {
    graphs(graph).into_iter().flat_map(|graph| &graph.node).collect()
}

/// A graph and all graphs within its nodes. Protobuf's decoder bounds how deep they go.
fn graphs(graph: &GraphProto) -> Vec<&GraphProto> {
    let mut found = vec![graph];
    let mut next = 0;
    while let Some(&graph) = found.get(next) {
        let attributes = graph.node.iter().flat_map(|node| &node.attribute);
        found.extend(attributes.flat_map(|attribute| attribute.g.iter().chain(&attribute.graphs)));
        next += 1;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use tract_onnx::pb::OperatorSetIdProto;

    fn model() -> Vec<u8> {
        let model = ModelProto {
            ir_version: 8,
            producer_name: "a test".to_owned(),
            graph: Some(GraphProto {
                name: "g".repeat(300),
                ..GraphProto::default()
            }),
            opset_import: vec![OperatorSetIdProto {
                version: 13,
                ..OperatorSetIdProto::default()
            }],
            ..ModelProto::default()
        };
        model.encode_to_vec()
    }

    #[test]
    fn a_whole_model_is_read() {
        assert_eq!(parse(&model()).unwrap().ir_version, 8);
    }

    #[test]
    fn wherever_a_file_is_cut_it_says_so() {
        let whole = model();
        for length in 1..whole.len() {
            let flaw = parse(&whole[..length]).unwrap_err();
            assert!(matches!(flaw, Flaw::CutShort(_)), "{length}: {flaw:?}");
        }
    }

    #[test]
    fn other_files_are_no_onnx_files() {
        for other in [
            &b"{\"json\": true}"[..],
            b"PK\x03\x04 a zip file",
            b"\x80\x04\x95 a pickle",
            b"\x93NUMPY",
            b"#!/bin/sh\n",
            b"\x89HDF\r\n",
            b"\x7fELF",
        ] {
            let flaw = parse(other).unwrap_err();
            assert!(matches!(flaw, Flaw::NotOnnx(_)), "{other:?}: {flaw:?}");
        }
    }

    #[test]
    fn damage_within_the_graph_is_no_panic() {
        let whole = model();
        for place in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[place] ^= 0xff;
            let _ = parse(&damaged);
        }
    }
}

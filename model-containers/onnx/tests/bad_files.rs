//! Files that cannot be served, and the container's last words about each.

use std::path::{Path, PathBuf};
use std::process::Command;

use prost::Message;
use skysail_onnx::{Batching, OnnxModel};
use skysail_proto::datatype::Datatype;
use skysail_proto::tensor::Tensor;
use tempfile::TempDir;
use tract_onnx::pb::tensor_proto::{DataLocation, DataType};
use tract_onnx::pb::tensor_shape_proto::{Dimension, dimension::Value as Length};
use tract_onnx::pb::type_proto::{Tensor as TensorType, Value};
use tract_onnx::pb::{
    GraphProto, ModelProto, NodeProto, OperatorSetIdProto, StringStringEntryProto, TensorProto,
    TensorShapeProto, TypeProto, ValueInfoProto,
};

/// A dimension: a length, or a name where it is open.
enum Dim {
    Of(i64),
    Named(&'static str),
}

fn value(name: &str, dims: &[Dim]) -> ValueInfoProto {
    let dimension = |dim: &Dim| Dimension {
        value: Some(match dim {
            Dim::Of(length) => Length::DimValue(*length),
            Dim::Named(name) => Length::DimParam((*name).to_owned()),
        }),
        ..Dimension::default()
    };
    let tensor = TensorType {
        elem_type: DataType::Float as i32,
        shape: Some(TensorShapeProto {
            dim: dims.iter().map(dimension).collect(),
        }),
    };
    ValueInfoProto {
        name: name.to_owned(),
        r#type: Some(TypeProto {
            value: Some(Value::TensorType(tensor)),
            ..TypeProto::default()
        }),
        ..ValueInfoProto::default()
    }
}

/// `y = operator(x)`, both of this shape.
fn model(operator: &str, dims: &[Dim]) -> ModelProto {
    ModelProto {
        ir_version: 8,
        opset_import: vec![OperatorSetIdProto {
            version: 13,
            ..OperatorSetIdProto::default()
        }],
        graph: Some(GraphProto {
            node: vec![NodeProto {
                name: "the_node".to_owned(),
                op_type: operator.to_owned(),
                input: vec!["x".to_owned()],
                output: vec!["y".to_owned()],
                ..NodeProto::default()
            }],
            input: vec![value("x", dims)],
            output: vec![value("y", dims)],
            ..GraphProto::default()
        }),
        ..ModelProto::default()
    }
}

struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn file(&self, bytes: &[u8]) -> PathBuf {
        let path = self.0.path().join("m.onnx");
        std::fs::write(&path, bytes).unwrap();
        path
    }

    fn model(&self, model: &ModelProto) -> PathBuf {
        self.file(&model.encode_to_vec())
    }
}

fn refused(file: &Path) -> String {
    let error = OnnxModel::load(file, Batching::AsInFile).err();
    error.expect("the file is refused").to_string()
}

fn assert_said(error: &str, words: &[&str]) {
    for word in words {
        assert!(error.contains(word), "{word:?} is not in {error:?}");
    }
}

#[test]
fn a_file_that_is_not_there_is_named() {
    assert_said(
        &refused(Path::new("/no/such/file.onnx")),
        &["`/no/such/file.onnx` cannot be read"],
    );
}

#[test]
fn an_empty_file_is_called_empty() {
    assert_said(&refused(&Folder::new().file(b"")), &["m.onnx` is empty"]);
}

#[test]
fn a_file_that_is_cut_short_is_told_from_one_that_is_something_else() {
    let folder = Folder::new();
    let whole = model("Relu", &[Dim::Named("n"), Dim::Of(2)]).encode_to_vec();
    assert_said(
        &refused(&folder.file(&whole[..whole.len() / 2])),
        &["is cut short", "again"],
    );
    assert_said(
        &refused(&folder.file(b"\x80\x04\x95 pickle")),
        &["is not an ONNX file"],
    );
}

#[test]
fn a_file_of_2_gib_is_refused_unread() {
    let folder = Folder::new();
    let file = folder.file(b"");
    std::fs::File::options()
        .write(true)
        .open(&file)
        .unwrap()
        .set_len(2 << 30)
        .unwrap();
    assert_said(&refused(&file), &["has 2147483648 bytes", "smaller than 2 GiB"]);
}

#[test]
fn an_unknown_operator_set_is_named_with_those_that_are_known() {
    let mut model = model("Relu", &[Dim::Named("n")]);
    for version in [6, 99] {
        model.opset_import[0].version = version;
        let said = refused(&Folder::new().model(&model));
        assert_said(
            &said,
            &[
                &format!("version {version} of the operator set `ai.onnx`"),
                "7 to 26",
            ],
        );
    }
    model.opset_import[0].domain = "another".to_owned();
    assert_said(
        &refused(&Folder::new().model(&model)),
        &["names no version", "`the_node`"],
    );
}

#[test]
fn operators_that_tract_lacks_are_named_with_their_nodes() {
    let mut model = model("SequenceEmpty", &[Dim::Named("n")]);
    let said = refused(&Folder::new().model(&model));
    assert_said(
        &said,
        &[
            "no operator `SequenceEmpty` (node `the_node`)",
            "Python container",
        ],
    );
    // tract would take it for its own `Relu`.
    let node = &mut model.graph.as_mut().unwrap().node[0];
    node.op_type = "Relu".to_owned();
    node.domain = "of.somebody".to_owned();
    assert_said(
        &refused(&Folder::new().model(&model)),
        &["no operator `of.somebody.Relu`"],
    );
}

#[test]
fn weights_in_a_file_that_is_missing_name_that_file() {
    let mut model = model("Relu", &[Dim::Named("n")]);
    model.graph.as_mut().unwrap().initializer.push(TensorProto {
        name: "w".to_owned(),
        data_type: DataType::Float as i32,
        dims: vec![2],
        data_location: Some(DataLocation::External as i32),
        external_data: vec![StringStringEntryProto {
            key: "location".to_owned(),
            value: "weights.bin".to_owned(),
        }],
        ..TensorProto::default()
    });
    let said = refused(&Folder::new().model(&model));
    assert_said(
        &said,
        &["tensor `w`", "file `weights.bin`", "save the model in one file"],
    );
}

#[test]
fn inputs_and_outputs_that_are_no_tensors_are_named() {
    let mut sequence = model("Relu", &[Dim::Named("n")]);
    sequence.graph.as_mut().unwrap().input[0]
        .r#type
        .as_mut()
        .unwrap()
        .value = None;
    assert_said(
        &refused(&Folder::new().model(&sequence)),
        &["input `x` is no tensor"],
    );
    let mut bfloat = model("Relu", &[Dim::Named("n")]);
    let input = bfloat.graph.as_mut().unwrap().input[0].r#type.as_mut().unwrap();
    let Some(Value::TensorType(tensor)) = &mut input.value else {
        panic!()
    };
    tensor.elem_type = DataType::Bfloat16 as i32;
    assert_said(
        &refused(&Folder::new().model(&bfloat)),
        &["input `x` is BFLOAT16", "Python container"],
    );
    let mut nothing = model("Relu", &[Dim::Named("n")]);
    nothing.graph.as_mut().unwrap().output[0].name = "z".to_owned();
    assert!(!refused(&Folder::new().model(&nothing)).is_empty());
}

#[test]
fn damage_anywhere_is_refused_or_served_but_no_panic() {
    let whole = model("Relu", &[Dim::Named("n"), Dim::Of(2)]).encode_to_vec();
    let folder = Folder::new();
    for place in 0..whole.len() {
        for bit in [0x01, 0x80] {
            let mut damaged = whole.clone();
            damaged[place] ^= bit;
            let _ = OnnxModel::load(&folder.file(&damaged), Batching::AsInFile);
        }
    }
}

#[test]
fn the_first_dimension_is_the_batch_if_the_file_leaves_it_open() {
    let signature = |dims: &[Dim], batching| {
        let model = OnnxModel::load(&Folder::new().model(&model("Relu", dims)), batching).unwrap();
        model.signature().to_string()
    };
    let open = [Dim::Named("n"), Dim::Of(2)];
    assert_eq!(signature(&open, Batching::AsInFile), "x:FP32[2] -> y:FP32[2]");
    assert_eq!(
        signature(&open, Batching::Never),
        "x:FP32[-1,2] -> y:FP32[-1,2] (no batch dimension)"
    );
    let fixed = [Dim::Of(1), Dim::Of(2)];
    assert_eq!(
        signature(&fixed, Batching::AsInFile),
        "x:FP32[1,2] -> y:FP32[1,2] (no batch dimension)"
    );
}

#[test]
fn an_open_first_dimension_that_the_output_does_not_have_is_no_batch() {
    let mut sum = model("ReduceSum", &[Dim::Named("n"), Dim::Of(2)]);
    sum.graph.as_mut().unwrap().output[0] = value("y", &[Dim::Of(1), Dim::Of(1)]);
    let loaded = OnnxModel::load(&Folder::new().model(&sum), Batching::AsInFile).unwrap();
    assert_eq!(
        loaded.signature().to_string(),
        "x:FP32[-1,2] -> y:FP32[1,1] (no batch dimension)"
    );
}

#[test]
fn batches_of_all_sizes_are_computed() {
    let file = Folder::new();
    let file = file.model(&model("Relu", &[Dim::Named("n"), Dim::Of(2)]));
    let mut model = OnnxModel::load(&file, Batching::AsInFile).unwrap();
    for inputs in [1_usize, 2, 3, 100] {
        let data: Vec<u8> = [-1.0_f32, 2.0]
            .repeat(inputs)
            .into_iter()
            .flat_map(f32::to_le_bytes)
            .collect();
        let tensor = Tensor::new(Datatype::Fp32, [inputs as u64, 2].as_slice(), data).unwrap();
        let outputs = model.run(&[tensor]).unwrap();
        let expected: Vec<u8> = [0.0_f32, 2.0]
            .repeat(inputs)
            .into_iter()
            .flat_map(f32::to_le_bytes)
            .collect();
        assert_eq!(outputs[0].data()[..], expected);
    }
}

#[test]
fn the_container_ends_with_the_reason_as_its_last_line() {
    let folder = Folder::new();
    let file = folder.model(&model("SequenceEmpty", &[Dim::Named("n")]));
    let ended = Command::new(env!("CARGO_BIN_EXE_skysail-onnx"))
        .env_clear()
        .env("SKYSAIL_ONNX_FILE", &file)
        .output()
        .unwrap();
    assert_eq!(ended.status.code(), Some(1));
    let said = String::from_utf8(ended.stderr).unwrap();
    assert_said(
        said.lines().last().unwrap(),
        &["no operator `SequenceEmpty`", "Python container"],
    );
}

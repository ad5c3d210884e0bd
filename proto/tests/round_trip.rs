//! Tensors go from JSON to a container and back to JSON, and are the same.

use std::ops::Range;

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;
use prost::Message;
use serde_json::{Value, json};
use skysail_proto::container;
use skysail_proto::datatype::Datatype;
use skysail_proto::signature::{Length, Shape, Signature, TensorSpec};
use skysail_proto::value::{Columns, Input, from_outputs, to_batch};

/// The most dimensions that are tried, and the length of each.
const RANKS: Range<usize> = 0..6;
const LENGTHS: Range<u64> = 0..4;

/// A signature that takes and gives the same tensors, and values of them: for each input its tensors by name.
#[derive(Clone, Debug)]
struct Case {
    signature: Signature,
    inputs: Vec<Value>,
    /// How many of the last inputs the model fails on.
    failed: usize,
}

/// An element of a datatype as JSON, in the form in which it is written.
fn any_element(datatype: Datatype, utf8: bool) -> BoxedStrategy<Value> {
    let special = || {
        prop_oneof![
            Just(json!("NaN")),
            Just(json!("Infinity")),
            Just(json!("-Infinity"))
        ]
    };
    // The shortest form of the float. There may be two that are equally near; this is the one that is written.
    let shortest =
        |float: f32| serde_json::from_str::<Value>(zmij::Buffer::new().format_finite(float)).unwrap();
    let finite = move |bits: u32| match f32::from_bits(bits) {
        float if float.is_finite() => shortest(float),
        _ => json!("NaN"),
    };
    let float = |numbers: BoxedStrategy<Value>| prop_oneof![8 => numbers, 1 => special()].boxed();
    match datatype {
        Datatype::Bool => any::<bool>().prop_map(|given| json!(given)).boxed(),
        Datatype::Uint8 => any::<u8>().prop_map(|given| json!(given)).boxed(),
        Datatype::Uint16 => any::<u16>().prop_map(|given| json!(given)).boxed(),
        Datatype::Uint32 => any::<u32>().prop_map(|given| json!(given)).boxed(),
        Datatype::Uint64 => any::<u64>().prop_map(|given| json!(given)).boxed(),
        Datatype::Int8 => any::<i8>().prop_map(|given| json!(given)).boxed(),
        Datatype::Int16 => any::<i16>().prop_map(|given| json!(given)).boxed(),
        Datatype::Int32 => any::<i32>().prop_map(|given| json!(given)).boxed(),
        Datatype::Int64 => any::<i64>().prop_map(|given| json!(given)).boxed(),
        Datatype::Fp16 => {
            let bits = |bits| match half::f16::from_bits(bits) {
                float if float.is_finite() => float.to_f32().to_bits(),
                _ => 0,
            };
            float(any::<u16>().prop_map(bits).prop_map(finite).boxed())
        }
        Datatype::Bf16 => float(
            any::<u16>()
                .prop_map(move |bits| finite(u32::from(bits) << 16))
                .boxed(),
        ),
        Datatype::Fp32 => float(any::<u32>().prop_map(finite).boxed()),
        Datatype::Fp64 => {
            let normal = prop::num::f64::NORMAL | prop::num::f64::SUBNORMAL | prop::num::f64::ZERO;
            float(normal.prop_map(|given| json!(given)).boxed())
        }
        Datatype::Bytes if utf8 => any::<String>().prop_map(|given| json!(given)).boxed(),
        Datatype::Bytes => {
            use base64::Engine;
            let base64 = |bytes| json!(base64::engine::general_purpose::STANDARD.encode::<Vec<u8>>(bytes));
            vec(any::<u8>(), 0..9).prop_map(base64).boxed()
        }
    }
}

/// A declared length, and -1 in one of three.
fn any_length() -> impl Strategy<Value = Length> {
    prop_oneof![2 => LENGTHS.prop_map(Length::Fixed), 1 => Just(Length::Any)]
}

fn any_spec(name: &'static str) -> impl Strategy<Value = TensorSpec> {
    let datatype = prop::sample::select(Datatype::ALL.to_vec());
    let lengths = RANKS.prop_flat_map(|rank| vec(any_length(), rank));
    (datatype, lengths, any::<bool>()).prop_map(move |(datatype, lengths, utf8)| {
        let spec = TensorSpec::new(name, datatype, Shape::new(lengths).unwrap()).unwrap();
        if utf8 && datatype == Datatype::Bytes {
            spec.utf8().unwrap()
        } else {
            spec
        }
    })
}

/// A nested array of these lengths.
fn nested(lengths: &[usize], element: BoxedStrategy<Value>) -> BoxedStrategy<Value> {
    lengths.iter().rev().fold(element, |within, &length| {
        vec(within, length).prop_map(Value::Array).boxed()
    })
}

/// A value that a specification takes.
fn any_value(spec: &TensorSpec) -> BoxedStrategy<Value> {
    let any_of = |length: &Length| match length {
        Length::Fixed(length) => (*length..=*length).boxed(),
        Length::Any => LENGTHS.boxed(),
    };
    let lengths: Vec<_> = spec.shape().lengths().iter().map(any_of).collect();
    let element = any_element(spec.datatype(), spec.is_utf8());
    let of_lengths = move |lengths: Vec<u64>| {
        let lengths: Vec<_> = lengths
            .into_iter()
            .map(|length| usize::try_from(length).unwrap())
            .collect();
        nested(&lengths, element.clone())
    };
    lengths.prop_flat_map(of_lengths).boxed()
}

fn any_input(specs: &[TensorSpec]) -> impl Strategy<Value = Value> + use<> {
    let names: Vec<_> = specs.iter().map(|spec| spec.name().to_owned()).collect();
    let values: Vec<_> = specs.iter().map(any_value).collect();
    values.prop_map(move |values| Value::Object(names.iter().cloned().zip(values).collect()))
}

fn any_case() -> impl Strategy<Value = Case> {
    let specs = (any_spec("a"), any_spec("b"), 1_usize..=2);
    let specs = specs.prop_map(|(a, b, count)| [a, b].into_iter().take(count).collect::<Vec<_>>());
    specs.prop_flat_map(|specs| {
        let inputs = vec(any_input(&specs), 0..5);
        let signature = Signature::tensors(specs.clone(), specs).unwrap();
        (inputs, 0_usize..3).prop_map(move |(inputs, failed)| Case {
            signature: signature.clone(),
            failed: failed.min(inputs.len()),
            inputs,
        })
    })
}

/// A message as it arrives.
fn sent<M: Message + Default>(message: &M) -> M {
    M::decode(Bytes::from(message.encode_to_vec())).unwrap()
}

/// What a model says that gives each input back, but fails on the last ones.
fn echoed(columns: Columns, failed: usize) -> container::Outputs {
    let Columns::Tensors { columns, inputs } = columns else {
        panic!("the signature has tensors")
    };
    let answered = inputs - failed;
    let error = |index: usize| container::InputError {
        index: u32::try_from(index).unwrap(),
        message: "no".to_owned(),
        ..container::InputError::default()
    };
    container::Outputs {
        tensors: columns
            .iter()
            .map(|column| column.slice(0..answered).to_wire())
            .collect(),
        inputs: u32::try_from(inputs).unwrap(),
        errors: (answered..inputs).map(error).collect(),
        ..container::Outputs::default()
    }
}

proptest! {
    #[test]
    fn tensors_survive_json_and_the_wire_there_and_back(case in any_case()) {
        let Case { signature, inputs: values, failed } = case;
        let inputs: Vec<_> = values
            .iter()
            .map(|value| Input::from_json(&signature, &value.to_string()).unwrap())
            .collect();
        for (input, value) in inputs.iter().zip(&values) {
            prop_assert!(input.fits(&signature));
            let written: Value = serde_json::from_str(&input.to_json_text(&signature)).unwrap();
            prop_assert_eq!(&written, value);
        }

        let mut batch = sent(&to_batch(&signature, inputs.iter()));
        let columns = Columns::from_batch(&mut batch).unwrap();
        prop_assert_eq!(columns.len(), inputs.len());
        let outputs = sent(&echoed(columns, failed));
        let outputs = from_outputs(outputs, inputs.len(), &signature).unwrap();

        prop_assert_eq!(outputs.len(), values.len());
        for (index, (output, value)) in outputs.iter().zip(&values).enumerate() {
            prop_assert_eq!(output.is_ok(), index < values.len() - failed);
            let Ok(output) = output else { continue };
            let written: Value = serde_json::from_str(&output.text()).unwrap();
            prop_assert_eq!(&written, value);
        }
    }
}

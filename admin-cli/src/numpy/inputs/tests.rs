//! Files that NumPy wrote (`samples/make.py`), read for applications of many signatures.

use super::*;

fn specs(texts: &[&str]) -> Vec<TensorSpec> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn sample(name: &str) -> Vec<u8> {
    let path = format!("{}/src/numpy/samples/{name}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn given(name: &str, texts: &[&str]) -> Result<Given, String> {
    let signature = Signature::tensors(specs(texts), []).unwrap();
    read(&sample(name), &signature).map_err(|error| error.to_string())
}

/// What is asked, as JSON: an object, or an array of them.
fn json(name: &str, texts: &[&str]) -> serde_json::Value {
    let signature = Signature::tensors(specs(texts), []).unwrap();
    match given(name, texts).unwrap_or_else(|error| panic!("{name}: {error}")) {
        Given::One(input) => input.to_json(&signature),
        Given::Batch(inputs) => inputs.iter().map(|input| input.to_json(&signature)).collect(),
    }
}

fn refused(name: &str, texts: &[&str], words: &str) {
    let error = given(name, texts).unwrap_err();
    assert!(error.contains(words), "{name}, {texts:?}: {error}");
}

const FILES: [(&str, Datatype); 14] = [
    ("bool", Datatype::Bool),
    ("uint8", Datatype::Uint8),
    ("uint16", Datatype::Uint16),
    ("uint32_big", Datatype::Uint32),
    ("uint64", Datatype::Uint64),
    ("int8", Datatype::Int8),
    ("int16_big", Datatype::Int16),
    ("int32", Datatype::Int32),
    ("int64", Datatype::Int64),
    ("float16", Datatype::Fp16),
    ("float32", Datatype::Fp32),
    ("float32_big", Datatype::Fp32),
    ("float64", Datatype::Fp64),
    ("float64_big", Datatype::Fp64),
];

#[test]
fn arrays_of_each_datatype_are_read() {
    for (file, datatype) in FILES {
        let name = format!("{file}.npy");
        let read = json(&name, &[&format!("x:{datatype}[2,-1]")]);
        let expected = match datatype {
            Datatype::Bool => serde_json::json!([[false, true, false], [true, false, true]]),
            Datatype::Fp16 | Datatype::Fp32 | Datatype::Fp64 => {
                serde_json::json!([[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]])
            }
            _ => serde_json::json!([[0, 1, 2], [3, 4, 5]]),
        };
        assert_eq!(read["x"].to_string(), expected.to_string(), "{name}");
    }
}

#[test]
fn an_array_is_converted_only_where_nothing_is_lost() {
    let exact = |datatype| match datatype {
        Datatype::Bool => 1,
        Datatype::Uint8 => 8,
        Datatype::Int8 => 7,
        Datatype::Uint16 => 16,
        Datatype::Int16 => 15,
        Datatype::Uint32 => 32,
        Datatype::Int32 => 31,
        Datatype::Uint64 => 64,
        _ => 63,
    };
    let is_integer =
        |datatype: Datatype| !matches!(datatype, Datatype::Bool | Datatype::Bytes) && !is_float(datatype);
    let is_unsigned = |datatype: Datatype| datatype.name().starts_with('U');
    for (file, from) in FILES {
        for to in Datatype::ALL {
            let taken = given(&format!("{file}.npy"), &[&format!("x:{to}[2,3]")]).is_ok();
            let from_is_integer = is_integer(from) || from == Datatype::Bool;
            let widens = match (from_is_integer, is_integer(to), is_float(from), is_float(to)) {
                (true, true, ..) => {
                    exact(from) <= exact(to)
                        && (from == Datatype::Bool || is_unsigned(from) || !is_unsigned(to))
                }
                (true, _, _, true) => exact(from) <= digits(to),
                (_, _, true, true) => from.element_bytes() < to.element_bytes(),
                _ => false,
            };
            assert_eq!(taken, from == to || widens, "{from} to {to}");
        }
    }
}

fn is_float(datatype: Datatype) -> bool {
    digits(datatype) > 0
}

/// The bits of a float's digits.
fn digits(datatype: Datatype) -> u32 {
    match datatype {
        Datatype::Bf16 => 8,
        Datatype::Fp16 => 11,
        Datatype::Fp32 => 24,
        Datatype::Fp64 => 53,
        _ => 0,
    }
}

#[test]
fn wider_numbers_are_the_same_numbers() {
    for (file, spec) in [
        ("int8.npy", "x:INT64[2,3]"),
        ("uint8.npy", "x:INT16[2,3]"),
        ("int16_big.npy", "x:INT32[2,3]"),
    ] {
        assert_eq!(json(file, &[spec])["x"].to_string(), "[[0,1,2],[3,4,5]]");
    }
    for (file, spec) in [
        ("float16.npy", "x:FP32[2,3]"),
        ("float32_big.npy", "x:FP64[2,3]"),
        ("int32.npy", "x:FP64[2,3]"),
        ("uint8.npy", "x:BF16[2,3]"),
        ("int8.npy", "x:FP16[2,3]"),
    ] {
        assert_eq!(
            json(file, &[spec])["x"].to_string(),
            "[[0.0,1.0,2.0],[3.0,4.0,5.0]]"
        );
    }
    refused("float64.npy", &["x:FP32[2,3]"], "a.astype(\"float32\")");
    refused(
        "int64.npy",
        &["x:INT32[2,3]"],
        "the array is int64 and tensor x:INT32[2,3] is INT32",
    );
}

#[test]
fn negative_numbers_keep_their_sign_when_they_widen() {
    let array = Array {
        kind: super::super::header::Kind::Signed,
        item_bytes: 2,
        shape: vec![2],
        data: [(-2_i16).to_le_bytes(), i16::MIN.to_le_bytes()].concat(),
    };
    let wide = convert::tensor(array.whole(), &"x:INT64[2]".parse().unwrap()).unwrap();
    let expected = [(-2_i64).to_le_bytes(), i64::from(i16::MIN).to_le_bytes()].concat();
    assert_eq!(&wide.data()[..], &expected[..]);
}

#[test]
fn arrays_in_fortran_order_and_of_all_versions_are_the_same_arrays() {
    let expected = json("float32.npy", &["x:FP32[2,3]"]);
    for file in ["fortran.npy", "version_2.npy", "version_3.npy"] {
        assert_eq!(json(file, &["x:FP32[2,3]"]), expected, "{file}");
    }
    let numbers = json("fortran_3d.npy", &["x:INT16[2,3,4]"])["x"].to_string();
    let digits = numbers.replace(['[', ']'], "");
    let expected: Vec<String> = (0..24).map(|number: u32| number.to_string()).collect();
    assert_eq!(digits, expected.join(","));
}

#[test]
fn text_and_bytes_lose_the_zeros_that_fill_them_up() {
    for file in ["text.npy", "text_big.npy"] {
        let read = json(file, &["t:BYTES[-1]:utf8"]);
        assert_eq!(read["t"], serde_json::json!(["a", "", "grün"]), "{file}");
    }
    let read = json("bytes.npy", &["t:BYTES[3]"]);
    assert_eq!(read["t"], serde_json::json!(["YQ==", "", "/wBi"]));
    refused("bytes.npy", &["t:BYTES[3]:utf8"], "not valid UTF-8");
    refused("text.npy", &["t:INT8[3]"], "the array is U5");
    refused("uint8.npy", &["t:BYTES[2,3]"], "the array is uint8");
}

#[test]
fn a_dimension_more_than_the_tensor_is_that_of_several_inputs() {
    let read = json("int32.npy", &["x:INT32[3]"]);
    assert_eq!(read, serde_json::json!([{"x": [0, 1, 2]}, {"x": [3, 4, 5]}]));
    let one = json("scalar.npy", &["x:FP32"]);
    assert_eq!(one, serde_json::json!({"x": 1.5}));
    assert_eq!(json("empty.npy", &["x:FP32[-1,3]"]), serde_json::json!({"x": []}));
    refused("empty.npy", &["x:FP32[3]"], "holds no input");
    refused("int32.npy", &["x:INT32[2]"], "the array has shape [2, 3]");
    refused("int32.npy", &["x:INT32[1,2,3]"], "the array has shape [2, 3]");
    refused("int32.npy", &["x:INT32"], "the array has shape [2, 3]");
}

#[test]
fn several_tensors_are_found_by_name_or_by_place() {
    let texts = ["image:FP32[2,3]", "mask:BOOL[-1]"];
    let expected = serde_json::json!({
        "image": [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]], "mask": [true, false, true]
    });
    for file in ["named.npz", "deflated.npz", "unnamed.npz"] {
        assert_eq!(json(file, &texts), expected, "{file}");
    }
    let batch = json("batch.npz", &texts);
    assert_eq!(batch[0], expected);
    assert_eq!(batch[1]["image"][0][0], 1.0);
    assert_eq!(batch[1]["mask"], serde_json::json!([false, true, false]));
    refused(
        "uneven.npz",
        &texts,
        "array `mask` is for 3 inputs, and array `image` for 2",
    );
    refused("named.npz", &["image:FP32[2,3]"], "an array `mask`");
    refused(
        "named.npz",
        &["image:FP32[2,3]", "ids:INT64[-1]"],
        "no array `ids`",
    );
    refused("float32.npy", &texts, "np.savez(\"inputs.npz\", image=…)");
}

#[test]
fn a_row_of_numbers_is_read_as_well() {
    let of = |row: InputType| read(&sample("int16_big.npy"), &row.into());
    let Given::Batch(inputs) = of(InputType::Doubles).unwrap() else {
        panic!("two rows are two inputs");
    };
    assert_eq!(
        inputs,
        [Input::doubles(&[0.0, 1.0, 2.0]), Input::doubles(&[3.0, 4.0, 5.0])]
    );
    let words = of(InputType::Strings).unwrap_err().to_string();
    assert!(words.contains("takes strings"), "{words}");
}

#[test]
fn more_inputs_than_anybody_asks_at_once_are_refused() {
    let header = "{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000000000, 0)}";
    let length = u16::try_from(header.len()).unwrap().to_le_bytes();
    let file = [b"\x93NUMPY\x01\x00", &length[..], header.as_bytes()].concat();
    let signature = Signature::tensors(specs(&["x:FP32[0]"]), []).unwrap();
    let error = read(&file, &signature).unwrap_err().to_string();
    assert!(error.contains("1000000000000000000 inputs"), "{error}");
}

#[test]
fn files_that_hold_no_tensor_are_refused_in_words() {
    for (file, words) in [
        ("objects.npy", "Python objects"),
        ("records.npy", "records"),
        ("complex.npy", "`<c8`"),
    ] {
        refused(file, &["x:FP32[2]"], words);
    }
}

#[test]
fn files_that_are_cut_short_are_refused() {
    let signature = Signature::tensors(specs(&["image:FP32[2,3]", "mask:BOOL[3]"]), []).unwrap();
    for name in ["named.npz", "deflated.npz"] {
        let whole = sample(name);
        for length in 0..whole.len() {
            assert!(read(&whole[..length], &signature).is_err(), "{name}, {length}");
        }
    }
    let signature = Signature::tensors(specs(&["x:FP32[2,3]"]), []).unwrap();
    let whole = sample("float32.npy");
    for length in 0..whole.len() {
        assert!(read(&whole[..length], &signature).is_err(), "{length}");
    }
}

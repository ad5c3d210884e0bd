use half::{bf16, f16};
use proptest::prelude::*;

use super::super::Lengths;
use super::*;

fn spec(text: &str) -> TensorSpec {
    text.parse().unwrap()
}

fn read(spec_text: &str, json: &str) -> Result<Tensor, String> {
    let spec = spec(spec_text);
    let mut deserializer = serde_json::Deserializer::from_str(json);
    let tensor = TensorSeed(&spec).deserialize(&mut deserializer);
    let tensor = tensor.map_err(|error| error.to_string())?;
    assert!(tensor.is(&spec), "{tensor:?} is not {spec}");
    Tensor::new(tensor.datatype(), tensor.lengths(), tensor.data().clone()).expect("it is whole");
    Ok(tensor)
}

fn refused(spec_text: &str, json: &str) -> String {
    match read(spec_text, json) {
        Ok(tensor) => panic!("{json} was taken for {spec_text}: {:?}", tensor.data()),
        Err(error) => error,
    }
}

fn write(spec_text: &str, tensor: &Tensor) -> String {
    let mut json = Vec::new();
    write_named(&[spec(spec_text)], std::slice::from_ref(tensor), &mut json);
    let json = String::from_utf8(json).unwrap();
    json.strip_prefix("{\"x\":")
        .unwrap()
        .strip_suffix('}')
        .unwrap()
        .to_owned()
}

/// Reads and writes again.
fn again(spec_text: &str, json: &str) -> String {
    let tensor = read(spec_text, json).unwrap_or_else(|error| panic!("{json} for {spec_text}: {error}"));
    write(spec_text, &tensor)
}

#[test]
fn elements_come_back_as_they_were_written() {
    for (spec, json) in [
        ("x:BOOL[2]", "[true,false]"),
        ("x:UINT8[3]", "[0,7,255]"),
        ("x:UINT16", "65535"),
        ("x:UINT32", "4294967295"),
        ("x:UINT64[2]", "[0,18446744073709551615]"),
        ("x:INT8[2]", "[-128,127]"),
        ("x:INT16[2]", "[-32768,32767]"),
        ("x:INT32[2]", "[-2147483648,2147483647]"),
        ("x:INT64[2]", "[-9223372036854775808,9223372036854775807]"),
        ("x:FP16[5]", "[0.0,-0.0,1.0,65504.0,5.9604645e-8]"),
        ("x:BF16[3]", "[0.100097656,3.3895314e+38,-1.5]"),
        ("x:FP32[4]", "[0.1,16777216.0,3.4028235e+38,1e-45]"),
        ("x:FP64[3]", "[0.1,1.7976931348623157e+308,5e-324]"),
        ("x:FP16[3]", r#"["NaN","Infinity","-Infinity"]"#),
        ("x:BF16[3]", r#"["NaN","Infinity","-Infinity"]"#),
        ("x:FP32[3]", r#"["NaN","Infinity","-Infinity"]"#),
        ("x:FP64[3]", r#"["NaN","Infinity","-Infinity"]"#),
        ("x:BYTES[5]", r#"["","AA==","AAE=","AAEC","AAECAw=="]"#),
        ("x:BYTES[]:utf8", r#""ü\"\n""#),
        ("x:UINT8[2,1,3]", "[[[1,2,3]],[[4,5,6]]]"),
        ("x:FP32[-1,-1]", "[[1.0,2.0],[3.0,4.0]]"),
    ] {
        assert_eq!(again(spec, json), json, "{spec}");
    }
}

#[test]
fn elements_are_little_endian_and_row_major() {
    let tensor = read("x:INT16[2,2]", "[[1, 2], [-2, 256]]").unwrap();
    assert_eq!(&tensor.data()[..], [1, 0, 2, 0, 0xfe, 0xff, 0, 1]);
    assert_eq!(tensor.lengths(), [2, 2]);
    let tensor = read("x:BYTES[-1]", r#"["AAE", ""]"#).unwrap();
    assert_eq!(&tensor.data()[..], [2, 0, 0, 0, 0, 1, 0, 0, 0, 0]);
}

#[test]
fn integer_literals_stand_for_floats_and_minus_zero_for_zero() {
    assert_eq!(again("x:FP16[2]", "[1,-65504]"), "[1.0,-65504.0]");
    assert_eq!(again("x:FP32", "16777217"), "16777216.0");
    // Rounded to 53 bits first, it would be a tie, and rounded to 2⁶².
    assert_eq!(again("x:FP32", "4611686293305294849"), "4.6116866e+18");
    assert_eq!(again("x:FP64", "18446744073709551616"), "1.8446744073709552e+19");
    assert_eq!(again("x:UINT8", "-0"), "0");
    assert_eq!(again("x:INT64", "-0"), "0");
    assert_eq!(again("x:FP32", "-0"), "-0.0");
}

#[test]
fn a_number_between_two_floats_becomes_the_nearest() {
    // Its nearest double is in the middle between two floats, and of these the other one is even.
    assert_eq!(again("x:FP32", "7.038531e-26"), "7.038531e-26");
    assert_eq!(again("x:FP32", "-7.038531e-26"), "-7.038531e-26");
    // In the middle itself: the even one.
    assert_eq!(
        again("x:FP32[2]", "[16777217.0,16777219.0]"),
        "[16777216.0,16777220.0]"
    );
}

#[test]
fn without_elements_the_declared_lengths_hold_or_none() {
    for (spec, json, lengths) in [
        ("x:FP32[-1]", "[]", &[0][..]),
        ("x:FP32[0]", "[]", &[0]),
        ("x:FP32[-1,3]", "[]", &[0, 3]),
        ("x:FP32[-1,-1]", "[]", &[0, 0]),
        ("x:FP32[-1,-1]", "[[],[]]", &[2, 0]),
        ("x:FP32[2,0,5]", "[[],[]]", &[2, 0, 5]),
        ("x:FP32[-1,-1,-1]", "[[[],[]]]", &[1, 2, 0]),
        ("x:BYTES[-1,7]", "[]", &[0, 7]),
    ] {
        let tensor = read(spec, json).unwrap();
        assert_eq!((tensor.lengths(), tensor.data().len()), (lengths, 0), "{spec}");
        assert_eq!(write(spec, &tensor), json, "{spec}");
    }
    let many = format!("[{}[]]", "[],".repeat(65_536));
    let error = refused("x:FP32[-1,-1]", &many);
    assert!(
        error.starts_with("x: a tensor of shape [65537,0] is more than"),
        "{error}"
    );
}

#[test]
fn what_does_not_fit_is_refused_with_its_place() {
    for (spec, json, expected) in [
        (
            "image:UINT8[-1,2]",
            "[[1,2],[3,4],[5,6],[300,0]]",
            "image[3][0]: 300 does not fit UINT8 (0 to 255) at line 1 column 23",
        ),
        ("x:UINT32[2]", "[0,-1]", "x[1]: -1 does not fit UINT32"),
        ("x:INT8[1]", "[128]", "x[0]: 128 does not fit INT8 (-128 to 127)"),
        ("x:INT32[1]", "[0.5]", "x[0]: 0.5 does not fit INT32"),
        ("x:INT32[1]", "[2.0]", "x[0]: 2.0 does not fit INT32"),
        ("x:INT32[1]", "[1e2]", "x[0]: 100.0 does not fit INT32"),
        ("x:INT32[1]", "[0.0]", "x[0]: 0.0 does not fit INT32"),
        (
            "x:UINT64[1]",
            "[18446744073709551616]",
            "x[0]: 1.8446744073709552e19 does not fit UINT64",
        ),
        (
            "x:INT64",
            "-9223372036854775809",
            "x: -9.223372036854776e18 does not fit INT64",
        ),
        (
            "x:FP64[1,2]",
            "[[1,1e999]]",
            "x[0][1]: number out of range at line 1 column",
        ),
        (
            "x:FP32[1,2]",
            "[[1,-1e999]]",
            "x[0][1]: number out of range at line 1 column",
        ),
        ("x:UINT8", "1e999", "x: number out of range"),
        (
            "x:FP32[2]",
            "[0, 1e39]",
            "x[1]: 1e39 does not fit FP32 (at most 3.4028235e38, up or down)",
        ),
        ("x:FP32[1]", "[3.4028236e38]", "does not fit FP32"),
        (
            "x:FP16[1]",
            "[65520]",
            "x[0]: 65520 does not fit FP16 (at most 65504, up or down)",
        ),
        ("x:FP16[1]", "[-65520.0]", "x[0]: -65520.0 does not fit FP16"),
        ("x:BF16[1]", "[3.4e38]", "x[0]: 3.4e38 does not fit BF16"),
        ("x:BF16[1]", "[1e300]", "x[0]: 1e300 does not fit BF16"),
    ] {
        let error = refused(spec, json);
        assert!(error.contains(expected), "{spec}, {json}: {error}");
    }
}

#[test]
fn another_kind_of_value_is_refused_with_its_place() {
    for (spec, json, expected) in [
        (
            "x:BOOL[2]",
            "[true,1]",
            "x[1]: expected true or false (BOOL), and not 1",
        ),
        (
            "x:BOOL",
            "\"true\"",
            "x: expected true or false (BOOL), and not \"true\"",
        ),
        (
            "x:UINT8[1]",
            "[true]",
            "x[0]: expected an integer (UINT8), and not true",
        ),
        (
            "x:UINT8[1]",
            "[\"1\"]",
            "x[0]: expected an integer (UINT8), and not \"1\"",
        ),
        (
            "x:UINT8[1]",
            "[\"NaN\"]",
            "x[0]: expected an integer (UINT8), and not \"NaN\"",
        ),
        (
            "x:FP32[1]",
            "[\"nan\"]",
            "x[0]: expected a number, \"NaN\", \"Infinity\"",
        ),
        ("x:FP32[1]", "[NaN]", "x[0]: expected value at line 1 column 2"),
        (
            "x:FP32[1]",
            "[null]",
            "x[0]: invalid type: null, expected a number",
        ),
        ("x:FP32[1]", "[{}]", "x[0]: invalid type: map, expected a number"),
        (
            "x:BYTES[1]",
            "[7]",
            "x[0]: expected a base64 string (BYTES), and not 7",
        ),
        ("x:BYTES[1]", "[\"***\"]", "x[0]: invalid base64"),
        (
            "x:BYTES[1]:utf8",
            "[7.5]",
            "x[0]: expected a string (BYTES, utf8), and not 7.5",
        ),
        (
            "x:FP32[2,1]",
            "[[1],2]",
            "x[1]: invalid type: integer `2`, expected an array (x:FP32[2,1])",
        ),
        (
            "x:FP32[2]",
            "[[1],[2]]",
            "x[0]: invalid type: sequence, expected a number",
        ),
        ("x:FP32", "[1]", "x: invalid type: sequence, expected a number"),
        (
            "x:FP32[1]",
            "1",
            "x: invalid type: integer `1`, expected an array (x:FP32[1])",
        ),
        (
            "x:FP32[1]",
            "\"NaN\"",
            "x: invalid type: string \"NaN\", expected an array",
        ),
    ] {
        let error = refused(spec, json);
        assert!(error.starts_with(expected), "{spec}, {json}: {error}");
    }
}

#[test]
fn another_length_is_refused_with_its_place() {
    for (spec, json, expected) in [
        (
            "x:FP32[3]",
            "[1,2]",
            "x: expected 3 elements (x:FP32[3]), and got 2 at line 1 column 5",
        ),
        (
            "x:FP32[1]",
            "[1,2]",
            "x: expected 1 element (x:FP32[1]), and got more",
        ),
        (
            "x:FP32[-1,2]",
            "[[1,2],[3]]",
            "x[1]: expected 2 elements (x:FP32[-1,2]), and got 1",
        ),
        (
            "x:FP32[2,2]",
            "[[1,2]]",
            "x: expected 2 elements (x:FP32[2,2]), and got 1",
        ),
        (
            "x:FP32[-1,-1]",
            "[[1,2],[3]]",
            "x[1]: expected 2 elements as in the first array of this depth, and got 1",
        ),
        (
            "x:FP32[2,-1,-1]",
            "[[[1,2]],[[3,4],[5,6]]]",
            "x[1]: expected 1 element as in the first array of this depth, and got more",
        ),
        (
            "x:FP32[-1,-1]",
            "[[],[1]]",
            "x[1]: expected 0 elements as in the first",
        ),
        (
            "x:FP32[0]",
            "[1]",
            "x: expected 0 elements (x:FP32[0]), and got more",
        ),
    ] {
        let error = refused(spec, json);
        assert!(error.starts_with(expected), "{spec}, {json}: {error}");
    }
}

#[test]
fn broken_json_is_refused_with_the_place_before_it() {
    for (json, expected) in [
        (
            "[[1,2],[3,",
            "x[1][1]: EOF while parsing a value at line 1 column 10",
        ),
        ("[[1,2] [3,4]]", "x[1]: expected `,` or `]` at line 1 column 8"),
        ("[[1,2],[3 4]]", "x[1][1]: expected `,` or `]`"),
        ("[[1,2],[3,4]", "EOF while parsing a list"),
        ("[[1,2,],[3,4]]", "trailing comma"),
        ("[[1,02],[3,4]]", "x[0][1]: invalid number"),
        ("", "EOF while parsing a value"),
    ] {
        let error = refused("x:FP32[2,2]", json);
        assert!(
            error.starts_with("x") && error.contains(expected),
            "{json}: {error}"
        );
    }
}

#[test]
fn little_is_reserved_before_elements_come() {
    let promised = "x:FP32[1000000,1000000]";
    assert!(refused(promised, "[[1,2]]").contains("x[0]: expected 1000000 elements"));
    // Exactly as much as is needed, where that is known.
    let numbers = vec!["1"; 100_000].join(",");
    let tensor = read("x:FP32[100000]", &format!("[{numbers}]")).unwrap();
    let data = tensor.data().clone();
    drop(tensor);
    assert_eq!(Vec::from(data).capacity(), 400_000);
}

#[test]
fn text_that_is_not_utf8_is_written_as_well_as_it_can_be() {
    let tensor = Tensor::new(Datatype::Bytes, Lengths::new(), &b"\x02\0\0\0a\xff"[..]).unwrap();
    assert_eq!(write("x:BYTES[]:utf8", &tensor), "\"a\u{fffd}\"");
}

#[test]
fn a_tensor_is_read_from_any_deserializer() {
    let value = serde_json::json!([[1, 2.5], ["NaN", -3]]);
    let tensor = TensorSeed(&spec("x:FP32[2,2]")).deserialize(value).unwrap();
    assert_eq!(write("x:FP32[2,2]", &tensor), "[[1.0,2.5],[\"NaN\",-3.0]]");
    let json = "[[1, 2.5], [3, 4]]".as_bytes();
    let mut reader = serde_json::Deserializer::from_reader(json);
    let tensor = TensorSeed(&spec("x:BF16[2,2]")).deserialize(&mut reader).unwrap();
    assert_eq!(write("x:BF16[2,2]", &tensor), "[[1.0,2.5],[3.0,4.0]]");
}

#[test]
fn every_float_of_sixteen_bits_comes_back() {
    for bits in 0..=u16::MAX {
        for (spec, is_nan) in [
            ("x:FP16", f16::from_bits(bits).is_nan()),
            ("x:BF16", bf16::from_bits(bits).is_nan()),
        ] {
            let datatype = spec_datatype(spec);
            let tensor = Tensor::new(datatype, Lengths::new(), bits.to_le_bytes().to_vec()).unwrap();
            let json = write(spec, &tensor);
            assert!(
                is_nan && json == "\"NaN\"" || read(spec, &json).unwrap() == tensor,
                "{json} for {spec}"
            );
        }
    }
}

/// The float of 16 bits that is nearest to a number, found among all: of two that are equally near the even one.
fn nearest(number: f64, value: impl Fn(u16) -> f64, most: u16) -> u16 {
    let magnitude = number.abs();
    let above = (0..=most)
        .collect::<Vec<_>>()
        .partition_point(|&bits| value(bits) < magnitude);
    let above = u16::try_from(above).unwrap();
    let Some(below) = above.checked_sub(1) else {
        return above;
    };
    let to_below = magnitude - value(below);
    let to_above = value(above) - magnitude;
    match to_below.total_cmp(&to_above) {
        std::cmp::Ordering::Less => below,
        std::cmp::Ordering::Greater => above,
        std::cmp::Ordering::Equal => below + (below & 1),
    }
}

proptest! {
    #[test]
    fn floats_of_sixteen_bits_are_rounded_to_the_nearest(
        below in 0_u16..0x7bff,
        shift in prop::sample::select(vec![-1e-3, -1e-9, -1e-14, 0.0, 1e-14, 1e-9, 1e-3]),
    ) {
        let half = |bits| f16::from_bits(bits).to_f64();
        let brain = |bits| bf16::from_bits(bits).to_f64();
        // Close to the middle between two floats.
        let number = (half(below) + half(below + 1)) / 2.0 * (1.0 + shift);
        let tensor = read("x:FP16", &serde_json::to_string(&number).unwrap()).unwrap();
        prop_assert_eq!(&tensor.data()[..], nearest(number, half, 0x7bff).to_le_bytes());
        let number = (brain(below) + brain(below + 1)) / 2.0 * (1.0 + shift);
        let tensor = read("x:BF16", &serde_json::to_string(&number).unwrap()).unwrap();
        prop_assert_eq!(&tensor.data()[..], nearest(number, brain, 0x7f7f).to_le_bytes());
    }

    #[test]
    fn floats_come_back(bits in any::<u64>()) {
        #[expect(clippy::cast_possible_truncation, reason = "any bits will do")]
        for (spec, data, is_nan) in [
            ("x:FP32", (bits as u32).to_le_bytes().to_vec(), f32::from_bits(bits as u32).is_nan()),
            ("x:FP64", bits.to_le_bytes().to_vec(), f64::from_bits(bits).is_nan()),
        ] {
            let tensor = Tensor::new(spec_datatype(spec), Lengths::new(), data).unwrap();
            let json = write(spec, &tensor);
            prop_assert!(is_nan && json == "\"NaN\"" || read(spec, &json).unwrap() == tensor, "{}", json);
        }
    }
}

fn spec_datatype(text: &str) -> Datatype {
    spec(text).datatype()
}

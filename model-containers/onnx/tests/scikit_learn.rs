//! Models that scikit-learn trained and skl2onnx wrote: every answer is compared with the library's own.
//!
//! `models/make` makes them, in an environment of its own under the target folder. Where it cannot, because there is no
//! Python or no network, the tests are skipped by name; with `CI=true` or `SKYSAIL_REQUIRE_ALL=1` they fail.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::OnceLock;

use libtest_mimic::{Arguments, Completion, Failed, Trial};
use serde_json::Value;
use skysail_onnx::{Batching, OnnxModel};
use skysail_proto::datatype::Datatype;
use skysail_proto::tensor::Tensor;

/// How far a probability may be from the library's, which computes in binary64.
const TOLERANCE: f64 = 1e-5;

/// The largest batch that the tests compute; the last one is smaller.
const BATCH: usize = 64;

/// A test's name, and the model whose answers it compares.
const COMPARED: [(&str, &str); 12] = [
    ("a_linear_model_answers_as_its_library", "linear"),
    (
        "a_linear_model_of_two_classes_answers_as_its_library",
        "linear_of_two",
    ),
    (
        "a_linear_model_whose_labels_are_texts_answers_as_its_library",
        "linear_with_names",
    ),
    ("a_linear_regression_answers_as_its_library", "regression"),
    ("a_random_forest_answers_as_its_library", "forest"),
    (
        "a_random_forest_of_two_classes_answers_as_its_library",
        "forest_of_two",
    ),
    (
        "a_random_forest_whose_labels_are_texts_answers_as_its_library",
        "forest_with_names",
    ),
    (
        "a_random_forest_that_predicts_numbers_answers_as_its_library",
        "regression_forest",
    ),
    ("boosted_trees_answer_as_their_library", "boosted"),
    (
        "boosted_trees_of_two_classes_answer_as_their_library",
        "boosted_of_two",
    ),
    ("a_neural_network_answers_as_its_library", "network"),
    (
        "a_scaled_neural_network_with_texts_answers_as_its_library",
        "scaled_network",
    ),
];

fn main() -> ExitCode {
    let compared = COMPARED.map(|(name, model)| {
        Trial::ignorable_test(name, move || {
            with_models(|folder| answers_as_its_library(folder, model))
        })
    });
    let refused = Trial::ignorable_test("support_vectors_are_refused_by_the_operators_name", || {
        with_models(support_vectors_are_refused)
    });
    let described = Trial::ignorable_test("signatures_and_classes_come_from_the_file", || {
        with_models(signatures_and_classes_come_from_the_file)
    });
    let trials = compared.into_iter().chain([refused, described]).collect();
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

fn with_models(test: impl FnOnce(&Path)) -> Result<Completion, Failed> {
    static MODELS: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    match MODELS.get_or_init(make_models) {
        Ok(folder) => {
            test(folder);
            Ok(Completion::Completed)
        }
        Err(why) if all_is_required() => Err(Failed::from(why)),
        Err(why) => Ok(Completion::ignored_with(why)),
    }
}

fn all_is_required() -> bool {
    let is = |name, value| env::var(name).is_ok_and(|set| set == value);
    is("CI", "true") || is("SKYSAIL_REQUIRE_ALL", "1")
}

/// Makes the models, or finds those of an earlier run.
fn make_models() -> Result<PathBuf, String> {
    let made = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/models/make"))
        .arg(concat!(env!("CARGO_TARGET_TMPDIR"), "/onnx-models"))
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("the models cannot be made: {error}"))?;
    if made.status.success() {
        return Ok(String::from_utf8_lossy(&made.stdout).trim_end().into());
    }
    let said = String::from_utf8_lossy(&made.stderr);
    let last = said.lines().last().unwrap_or("nothing was said");
    Err(format!("the models cannot be made with Python: {last}"))
}

/// What the library wrote beside a model.
struct Recorded {
    inputs: Vec<u8>,
    features: usize,
    expected: Vec<f64>,
    labels: Option<Vec<Value>>,
    rows: usize,
}

impl Recorded {
    fn read(folder: &Path, name: &str) -> Self {
        let bytes = |kind: &str| std::fs::read(folder.join(format!("{name}.{kind}"))).unwrap();
        let about: Value = serde_json::from_slice(&bytes("json")).unwrap();
        let length = |place: usize| usize::try_from(about["inputs"][place].as_u64().unwrap()).unwrap();
        Self {
            inputs: bytes("inputs"),
            features: length(1),
            expected: numbers(&bytes("expected"), f64::from_le_bytes),
            labels: about["labels"].as_array().cloned(),
            rows: length(0),
        }
    }

    /// Some of the inputs, as one tensor.
    fn batch(&self, begin: usize, end: usize) -> Tensor {
        let row = self.features * size_of::<f32>();
        let lengths = [(end - begin) as u64, self.features as u64];
        let data = self.inputs[begin * row..end * row].to_vec();
        Tensor::new(Datatype::Fp32, lengths.as_slice(), data).unwrap()
    }
}

fn numbers<T, const BYTES: usize>(bytes: &[u8], number: impl Fn([u8; BYTES]) -> T) -> Vec<T> {
    bytes
        .chunks_exact(BYTES)
        .map(|bytes| number(bytes.try_into().unwrap()))
        .collect()
}

fn load(folder: &Path, name: &str) -> OnnxModel {
    OnnxModel::load(&folder.join(format!("{name}.onnx")), Batching::AsInFile)
        .unwrap_or_else(|error| panic!("{name}: {error:?}"))
}

/// All 1,000 inputs, in batches of every size up to [`BATCH`].
fn answers_as_its_library(folder: &Path, name: &str) {
    let recorded = Recorded::read(folder, name);
    let mut model = load(folder, name);
    let (mut begin, mut size) = (0, 1);
    let mut labels = Vec::new();
    let mut answers = Vec::new();
    while begin < recorded.rows {
        let end = recorded.rows.min(begin + size);
        let outputs = model.run(&[recorded.batch(begin, end)]).unwrap();
        labels.extend(labels_of(&outputs));
        answers.extend(numbers(outputs.last().unwrap().data(), f32::from_le_bytes));
        begin = end;
        size = size % BATCH + 1;
    }
    assert_eq!(recorded.rows, 1_000);
    if let Some(expected) = &recorded.labels {
        assert_eq!(&labels, expected);
    }
    assert_eq!(answers.len(), recorded.expected.len());
    for (place, (answer, expected)) in answers.iter().zip(&recorded.expected).enumerate() {
        let distance = (f64::from(*answer) - expected).abs();
        assert!(
            distance <= TOLERANCE,
            "{name}, number {place}: {answer} and not {expected}"
        );
    }
    let furthest = answers
        .iter()
        .zip(&recorded.expected)
        .map(|(answer, expected)| (f64::from(*answer) - expected).abs());
    eprintln!("{name}: within {:.1e}", furthest.fold(0.0, f64::max));
}

/// The labels in the first of two outputs, as the library writes them.
fn labels_of(outputs: &[Tensor]) -> Vec<Value> {
    let [labels, _] = outputs else {
        return Vec::new();
    };
    match labels.datatype() {
        Datatype::Bytes => labels
            .byte_elements()
            .map(|text| Value::from(str::from_utf8(&text).unwrap()))
            .collect(),
        Datatype::Int64 => numbers(labels.data(), i64::from_le_bytes)
            .into_iter()
            .map(Value::from)
            .collect(),
        other => panic!("labels are {other}"),
    }
}

fn support_vectors_are_refused(folder: &Path) {
    let refused = OnnxModel::load(&folder.join("support_vectors.onnx"), Batching::AsInFile);
    let error = refused.err().expect("tract has no SVMClassifier").to_string();
    assert!(
        error.contains("no operator `ai.onnx.ml.SVMClassifier` (node `"),
        "{error}"
    );
    assert!(
        error.ends_with("serve the model with a Python container"),
        "{error}"
    );
}

fn signatures_and_classes_come_from_the_file(folder: &Path) {
    let expected = [
        (
            "linear",
            "X:FP32[4] -> output_label:INT64[], probabilities:FP32[3]",
        ),
        (
            "linear_with_names",
            "X:FP32[4] -> output_label:BYTES[]:utf8, probabilities:FP32[3]",
        ),
        ("regression", "X:FP32[3] -> variable:FP32[1]"),
        (
            "forest",
            "X:FP32[64] -> output_label:INT64[], probabilities:FP32[10]",
        ),
        (
            "network",
            "X:FP32[64] -> output_label:INT64[], out_activations_result:FP32[10]",
        ),
    ];
    for (name, signature) in expected {
        assert_eq!(load(folder, name).signature().to_string(), signature, "{name}");
    }
    let classes = |name: &str| {
        load(folder, name)
            .annotations()
            .clone()
            .into_iter()
            .collect::<Vec<_>>()
    };
    let annotation = |output: &str, labels: &str| vec![(format!("classes.{output}"), labels.to_owned())];
    assert_eq!(classes("linear"), annotation("probabilities", "[0,1,2]"));
    let names = r#"["setosa","versicolor","virginica"]"#;
    assert_eq!(classes("forest_with_names"), annotation("probabilities", names));
    assert!(classes("regression").is_empty());
}

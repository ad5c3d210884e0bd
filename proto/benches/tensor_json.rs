//! What it costs to read and write an image of 224 × 224 × 3 as JSON.
//!
//! `cargo bench -p skysail-proto --bench tensor_json` prints the times. `vec` is what `serde_json` takes for the same
//! numbers in one flat array, `nested` for the same text.

use std::fmt::Display;
use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use serde::Serialize;
use serde::de::DeserializeOwned;
use skysail_proto::signature::Signature;
use skysail_proto::value::Input;

const ROWS: usize = 224;
const COLUMNS: usize = 224;
const CHANNELS: usize = 3;
const NUMBERS: usize = ROWS * COLUMNS * CHANNELS;

/// Numbers that look random.
fn random() -> impl Iterator<Item = u32> {
    let next = |state: &u64| {
        let state = state.wrapping_mul(6_364_136_223_846_793_005);
        Some(state.wrapping_add(1_442_695_040_888_963_407))
    };
    let upper_half = |state: u64| u32::try_from(state >> 32).expect("it has 32 bits");
    std::iter::successors(Some(7_u64), next).map(upper_half)
}

/// An image as JSON: rows of columns of channels.
fn image(numbers: &[impl Display]) -> String {
    let joined = |parts: Vec<String>| format!("[{}]", parts.join(","));
    let pixel = |pixel: &[_]| joined(pixel.iter().map(ToString::to_string).collect());
    let pixels: Vec<_> = numbers.chunks(CHANNELS).map(pixel).collect();
    joined(pixels.chunks(COLUMNS).map(|row| joined(row.to_vec())).collect())
}

fn compare<T: DeserializeOwned + Serialize + Display>(
    criterion: &mut Criterion,
    datatype: &str,
    numbers: &[T],
) {
    let spec = format!("image:{datatype}[{ROWS},{COLUMNS},{CHANNELS}]");
    let signature = Signature::tensors([spec.parse().expect("a specification")], []).expect("a signature");
    let nested = image(numbers);
    let flat = serde_json::to_vec(numbers).expect("numbers");
    let input = Input::from_json(&signature, &nested).expect("an image");

    let mut group = criterion.benchmark_group(format!("tensor_json/{datatype}"));
    group.throughput(Throughput::Elements(NUMBERS as u64));
    group.bench_function(BenchmarkId::new("read", "tensor"), |bencher| {
        bencher.iter(|| Input::from_json(&signature, black_box(&nested)));
    });
    group.bench_function(BenchmarkId::new("read", "vec"), |bencher| {
        bencher.iter(|| serde_json::from_slice::<Vec<T>>(black_box(&flat)));
    });
    group.bench_function(BenchmarkId::new("read", "nested"), |bencher| {
        bencher.iter(|| serde_json::from_str::<Vec<Vec<Vec<T>>>>(black_box(&nested)));
    });
    group.bench_function(BenchmarkId::new("write", "tensor"), |bencher| {
        bencher.iter(|| black_box(&input).to_json_text(&signature));
    });
    group.bench_function(BenchmarkId::new("write", "vec"), |bencher| {
        bencher.iter(|| serde_json::to_vec(black_box(numbers)));
    });
    group.finish();
}

fn images(criterion: &mut Criterion) {
    #[expect(clippy::cast_precision_loss, reason = "only the look of the numbers matters")]
    let floats: Vec<_> = random()
        .take(NUMBERS)
        .map(|number| number as f32 / 4_294_967_296.0)
        .collect();
    compare(criterion, "FP32", &floats);
    let bytes: Vec<_> = random()
        .take(NUMBERS)
        .map(|number| number.to_le_bytes()[3])
        .collect();
    compare(criterion, "UINT8", &bytes);
}

criterion_group!(benches, images);
criterion_main!(benches);

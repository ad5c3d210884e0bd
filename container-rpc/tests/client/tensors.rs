//! A container of tensors.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use bytes::Bytes;
use skysail_container_rpc::{Batch, Model, ModelError, Outputs, ServeError, Settings, serve_with};
use skysail_proto::container::batch_result::Outcome;
use skysail_proto::container::frontend_message::Kind as FromFrontend;
use skysail_proto::container::{self, Credit, InputErrorKind};
use skysail_proto::datatype::Datatype;
use skysail_proto::signature::{Signature, TensorSpec};
use skysail_proto::tensor::Tensor;
use skysail_proto::value::{Input, InputType, Output, from_outputs, to_batch};

use super::error;
use super::frontend::{Frontend, Stream};

/// Sums its input, or does what the code in it says.
struct Sum(Option<Signature>);

/// `code` chooses what goes wrong.
fn signature() -> Signature {
    let specs =
        |texts: &[&str]| -> Vec<TensorSpec> { texts.iter().map(|text| text.parse().unwrap()).collect() };
    Signature::tensors(
        specs(&["code:UINT8", "data:FP32[-1]"]),
        specs(&["sum:FP32", "twice:FP32[-1]"]),
    )
    .unwrap()
}

fn floats(lengths: &[u64], numbers: &[f32]) -> Tensor {
    let data: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
    Tensor::new(Datatype::Fp32, lengths, data).unwrap()
}

fn input(code: u8, numbers: &[f32]) -> Input {
    let code = Tensor::new(Datatype::Uint8, [].as_slice(), vec![code]).unwrap();
    Input::tensors([code, floats(&[numbers.len() as u64], numbers)])
}

impl Model for Sum {
    fn predict(&mut self, batch: &Batch) -> Result<Outputs, ModelError> {
        let codes = batch.tensor("code")?.as_slice::<u8>()?;
        let mut outputs = Outputs::new();
        for (&code, data) in codes.iter().zip(batch.tensor("data")?.iter()) {
            let numbers: Vec<f32> = bytemuck::pod_collect_to_vec(data.data());
            let sum = floats(&[], &[numbers.iter().sum()]);
            let twice: Vec<f32> = numbers.iter().map(|number| number * 2.0).collect();
            let twice = floats(&[twice.len() as u64], &twice);
            match code {
                0 => outputs.push_tensors([("twice", twice), ("sum", sum)]),
                1 => outputs.push_error(&ModelError::new("asked to refuse this one")),
                2 => outputs.push_tensors([("sum", floats(&[1], &[0.0])), ("twice", twice)]),
                3 => {
                    let whole = Tensor::new(Datatype::Int32, [].as_slice(), vec![0; 4])?;
                    outputs.push_tensors([("sum", whole), ("twice", twice)]);
                }
                4 => outputs.push_tensors([("sum", sum)]),
                5 => outputs.push("text"),
                6 => outputs.push_tensors([("sum", sum.clone()), ("sum", sum)]),
                7 => outputs.stack("sum", Datatype::Fp32, &[2], vec![0; 4])?,
                8 => {
                    outputs.stack_elements("sum", &[3], vec![0.0_f32; 3])?;
                    outputs.stack_elements("twice", &[3, 1], vec![0.0_f32; 3])?;
                }
                9 => outputs.push_tensors([("sum", sum), ("double", twice)]),
                _ => {
                    batch.tensor("image")?;
                }
            }
        }
        Ok(outputs)
    }

    fn signature(&self) -> Option<Signature> {
        self.0.clone()
    }

    /// Only a model that says itself what it takes offers something here.
    fn warm_up(&mut self) -> Vec<Input> {
        self.0.iter().map(|_| input(0, &[1.0, 2.0])).collect()
    }

    fn annotations(&self) -> BTreeMap<String, String> {
        [("unit".to_owned(), "metres".to_owned())].into()
    }
}

fn settings(address: SocketAddr, declared: Signature) -> Settings {
    Settings {
        frontends: vec![address.to_string()],
        model: "sum:1".parse().unwrap(),
        signature: declared,
        max_batch: 8.try_into().unwrap(),
        warm_up: None,
        replica: "sum_1_0".parse().unwrap(),
        token: String::new(),
    }
}

async fn serve(address: SocketAddr, declared: Signature, own: Option<Signature>) -> Result<(), ServeError> {
    serve_with(settings(address, declared), Sum(own), std::future::pending()).await
}

/// A container that is attached, and its first credit.
async fn attached() -> (Frontend, Stream, Credit) {
    attached_with(signature()).await
}

async fn attached_with(signature: Signature) -> (Frontend, Stream, Credit) {
    let mut frontend = Frontend::start().await;
    tokio::spawn(serve(frontend.address, signature, None));
    let mut stream = frontend.attached().await;
    let credit = stream.credit().await;
    (frontend, stream, credit)
}

async fn send(stream: &mut Stream, credit: &Credit, batch: container::Batch) {
    let batch = container::Batch {
        id: credit.sequence,
        credit: credit.sequence,
        ..batch
    };
    stream.send(FromFrontend::Batch(batch)).await;
}

/// The tensors of an output.
fn tensors(output: &Output) -> &[Tensor] {
    output.as_tensors().expect("the model gives tensors").1
}

#[tokio::test]
async fn a_container_registers_with_the_signature_that_its_environment_or_its_model_says() {
    for (declared, own) in [
        (signature(), None),
        (signature(), Some(signature())),
        (Signature::undeclared(), Some(signature())),
    ] {
        let mut frontend = Frontend::start().await;
        tokio::spawn(serve(frontend.address, declared, own));
        let register = frontend.attached().await.register;
        let announced = Signature::from_wire(register.input_type, register.signature);
        assert_eq!(announced, Ok(signature()));
        assert_eq!(register.annotations["unit"], "metres");
    }
}

#[tokio::test]
async fn a_model_of_tensors_warms_up_with_what_it_offers() {
    for (signature, most) in [(signature(), 8), (signature().without_batch_dimension(), 1)] {
        let mut frontend = Frontend::start().await;
        tokio::spawn(serve(frontend.address, signature.clone(), Some(signature)));
        let register = frontend.attached().await.register;
        let sizes: Vec<_> = register
            .recent_batches
            .iter()
            .map(|sample| sample.inputs)
            .collect();
        assert!(
            sizes.len() > 2 && sizes.iter().all(|&inputs| inputs <= most),
            "{sizes:?}"
        );
    }
}

#[tokio::test]
async fn an_input_to_warm_up_with_that_is_none_ends_the_container_once_the_signature_is_known() {
    let frontend = Frontend::start().await;
    let settings = Settings {
        warm_up: Some(r#"{"code": [], "data": []}"#.to_owned()),
        ..settings(frontend.address, Signature::undeclared())
    };
    let served = serve_with(settings, Sum(Some(signature())), std::future::pending()).await;
    let error = served.unwrap_err().to_string();
    assert!(
        error.contains("SKYSAIL_WARM_UP") && error.contains("code"),
        "{error}"
    );
}

#[tokio::test]
async fn a_container_whose_signature_nobody_or_both_say_ends_in_words() {
    let frontend = Frontend::start().await;
    let error = serve(frontend.address, Signature::undeclared(), None).await;
    let error = error.unwrap_err().to_string();
    assert!(error.contains("SKYSAIL_SIGNATURE"), "{error}");
    let doubles = Signature::row(InputType::Doubles);
    let error = serve(frontend.address, doubles, Some(signature())).await;
    let error = error.unwrap_err().to_string();
    assert!(
        error.contains("`doubles`") && error.contains("`code:UINT8[], data"),
        "{error}"
    );
}

#[tokio::test]
async fn tensors_are_answered_with_tensors_of_the_signature_in_its_order() {
    let (_frontend, mut stream, mut credit) = attached().await;
    // Of one length, and then of several.
    for second in [&[10.0, 20.0][..], &[7.0], &[]] {
        let inputs = [input(0, &[1.0, 2.0]), input(1, second), input(0, second)];
        send(&mut stream, &credit, to_batch(&signature(), inputs.iter())).await;
        let (result, early) = stream.result().await;
        let Some(Outcome::Outputs(outputs)) = result.outcome else {
            panic!("not outputs: {result:?}");
        };
        assert_eq!((outputs.inputs, &*outputs.tensors[0].name), (3, "sum"));
        let answers = from_outputs(outputs, 3, &signature()).unwrap();
        assert_eq!(
            tensors(answers[0].as_ref().unwrap()),
            [floats(&[], &[3.0]), floats(&[2], &[2.0, 4.0])]
        );
        assert_eq!(
            answers[1].as_ref().unwrap_err().message,
            "asked to refuse this one"
        );
        let twice: Vec<f32> = second.iter().map(|number| number * 2.0).collect();
        let expected = [
            floats(&[], &[second.iter().sum()]),
            floats(&[second.len() as u64], &twice),
        ];
        assert_eq!(tensors(answers[2].as_ref().unwrap()), expected);
        credit = stream.credit_after(early).await;
    }
}

#[tokio::test]
async fn inputs_that_are_too_late_have_no_place_in_the_columns() {
    let (_frontend, mut stream, mut credit) = attached().await;
    let inputs = [input(0, &[1.0]), input(0, &[2.0]), input(0, &[3.0, 4.0])];
    let ample = 600_000_000;
    for budgets_micros in [vec![0, ample, 0], vec![0, 0, 0]] {
        let expected = budgets_micros.iter().filter(|&&budget| budget > 0).count();
        let batch = container::Batch {
            budgets_micros,
            ..to_batch(&signature(), inputs.iter())
        };
        send(&mut stream, &credit, batch).await;
        let (result, early) = stream.result().await;
        credit = stream.credit_after(early).await;
        assert_eq!(result.model_inputs, Some(u32::try_from(expected).unwrap()));
        let Some(Outcome::Outputs(outputs)) = result.outcome else {
            panic!("not outputs: {result:?}");
        };
        let answers = from_outputs(outputs, 3, &signature()).unwrap();
        let late = |index: usize| {
            let error = answers[index].as_ref().unwrap_err();
            assert_eq!(error.kind(), InputErrorKind::TooLate);
        };
        late(0);
        late(2);
        match expected {
            0 => late(1),
            _ => assert_eq!(
                tensors(answers[1].as_ref().unwrap()),
                [floats(&[], &[2.0]), floats(&[1], &[4.0])]
            ),
        }
    }
}

#[tokio::test]
async fn outputs_that_are_not_those_of_the_signature_fail_their_batch_with_both_in_words() {
    let (_frontend, mut stream, mut credit) = attached().await;
    for (code, words) in [
        (
            2,
            "the model answered sum:FP32[1], and its signature says sum:FP32[]",
        ),
        (3, "answered sum:INT32[], and its signature says sum:FP32[]"),
        (
            4,
            "answered sum:FP32[], and its signature says sum:FP32[], twice:FP32[-1]",
        ),
        (
            5,
            "answered text, and its signature says sum:FP32[], twice:FP32[-1]",
        ),
        (
            6,
            "answered no tensor `twice`, and its signature says sum:FP32[], twice:FP32[-1]",
        ),
        (
            7,
            "output `sum`: a tensor of FP32 and shape [2] takes 8 bytes, and has 4",
        ),
        (8, "the model answered 3 outputs for 1 inputs"),
        (9, "answered no tensor `twice`"),
        (
            10,
            "there is no input tensor `image`; there are code:UINT8[], data:FP32[1]",
        ),
    ] {
        let batch = to_batch(&signature(), [input(code, &[1.0])].iter());
        send(&mut stream, &credit, batch).await;
        let (result, early) = stream.result().await;
        let error = error(result);
        assert!(error.contains(words), "{error}");
        credit = stream.credit_after(early).await;
    }
    send(
        &mut stream,
        &credit,
        to_batch(&signature(), [input(0, &[1.0])].iter()),
    )
    .await;
    let (result, _) = stream.result().await;
    assert!(matches!(result.outcome, Some(Outcome::Outputs(_))), "it lives on");
}

#[tokio::test]
async fn a_model_without_a_batch_dimension_is_given_one_input_at_a_time() {
    let unbatched = signature().without_batch_dimension();
    let (_frontend, mut stream, credit) = attached_with(unbatched).await;
    let inputs = [input(0, &[1.0]), input(0, &[2.0])];
    send(&mut stream, &credit, to_batch(&signature(), inputs.iter())).await;
    let (result, early) = stream.result().await;
    let error = error(result);
    assert!(error.contains("a batch is one input"), "{error}");
    let credit = stream.credit_after(early).await;
    send(&mut stream, &credit, to_batch(&signature(), inputs[..1].iter())).await;
    let (result, _) = stream.result().await;
    assert!(matches!(result.outcome, Some(Outcome::Outputs(_))), "{result:?}");
}

#[tokio::test]
async fn a_batch_whose_columns_do_not_add_up_is_an_error_that_says_why() {
    type Change = fn(&mut container::Batch);
    let changes: [(Change, &str); 14] = [
        (|batch| batch.inputs = 0, "the batch has no inputs"),
        (|batch| batch.inputs = u32::MAX, "the batch cannot be read"),
        (
            |batch| batch.inputs = 3,
            "tensor `code`: a tensor of UINT8 and shape [3] takes 3 bytes, and has 2",
        ),
        (
            |batch| batch.tensors[0].datatype = 99,
            "datatype number 99 is unknown",
        ),
        (
            |batch| batch.tensors[1].datatype = 0,
            "datatype number 0 is unknown",
        ),
        (
            |batch| batch.tensors[1].shape = vec![1 << 40, 1 << 40],
            "too large",
        ),
        (
            |batch| batch.tensors[1].shape = vec![0; 17],
            "at most 16 dimensions",
        ),
        (
            |batch| batch.tensors[1].data = Bytes::from_static(&[0; 7]),
            "takes 8 bytes, and has 7",
        ),
        (
            |batch| batch.tensors[1].ragged = true,
            "data:FP32 of several shapes",
        ),
        (
            |batch| batch.tensors[1] = batch.tensors[0].clone(),
            "the batch holds code:UINT8[], code:UINT8[], and the model takes code:UINT8[], data:FP32[-1]",
        ),
        (
            |batch| batch.tensors.swap(0, 1),
            "the batch holds data:FP32[1], code:UINT8[]",
        ),
        (
            |batch| {
                batch.tensors.pop();
            },
            "the batch holds code:UINT8[], and the model takes code:UINT8[], data:FP32[-1]",
        ),
        (
            |batch| batch.tensors[1].datatype = Datatype::Uint32.to_wire() as i32,
            "the batch holds code:UINT8[], data:UINT32[1], and the model takes",
        ),
        (
            |batch| *batch = to_batch(&InputType::Doubles.into(), [Input::doubles(&[1.0])].iter()),
            "the batch holds doubles, and the model takes code:UINT8[], data:FP32[-1]",
        ),
    ];
    let (_frontend, mut stream, mut credit) = attached().await;
    for (change, words) in changes {
        let mut batch = to_batch(&signature(), [input(0, &[1.0]), input(0, &[2.0])].iter());
        change(&mut batch);
        send(&mut stream, &credit, batch).await;
        let (result, early) = stream.result().await;
        let error = error(result);
        assert!(error.contains(words), "{words}: {error}");
        credit = stream.credit_after(early).await;
    }
}

//! How often a tensor is copied on its way, counted in the functions that copy. The count is the process's, so this is
//! one test by itself.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use prost::Message;
use skysail_container_rpc::server::{self, NewBatch, Newcomer, Reception, Refusal};
use skysail_container_rpc::session::SessionEvent;
use skysail_container_rpc::{
    Batch, Columns, Datatype, Input, Model, ModelError, Outputs, Settings, Signature, Tensor, serve_with,
};
use skysail_proto::container::batch_result::Outcome;
use skysail_proto::container::{self, FrontendMessage, frontend_message};
use skysail_proto::copies;
use skysail_proto::value::to_batch;
use tokio::net::TcpListener;
use tokio::sync::mpsc;

/// An image of 224 × 224 × 3 FP32.
const IMAGE_BYTES: usize = 224 * 224 * 3 * 4;

fn image() -> Input {
    let tensor = Tensor::new(Datatype::Fp32, [224, 224, 3].as_slice(), vec![0; IMAGE_BYTES]);
    Input::tensors([tensor.unwrap()])
}

fn signature() -> Signature {
    Signature::tensors(["image:FP32[224,224,3]".parse().unwrap()], []).unwrap()
}

/// The message that carries a batch, in a buffer that begins `shift` bytes after a whole word.
fn encoded(batch: container::Batch, shift: usize) -> Bytes {
    let kind = Some(frontend_message::Kind::Batch(batch));
    let message = FrontendMessage { kind }.encode_to_vec();
    Bytes::from([vec![0; shift], message].concat()).slice(shift..)
}

fn decoded(message: Bytes) -> container::Batch {
    match FrontendMessage::decode(message).unwrap().kind {
        Some(frontend_message::Kind::Batch(batch)) => batch,
        other => panic!("not a batch: {other:?}"),
    }
}

/// Reads its images as numbers, and answers the first input with what was copied up to then.
struct Counting;

impl Model for Counting {
    fn predict(&mut self, batch: &Batch) -> Result<Outputs, ModelError> {
        let numbers = batch.tensor("image")?.as_slice::<f32>()?.len();
        assert_eq!(numbers * 4, batch.len() * IMAGE_BYTES);
        let copied = copies::take().to_string();
        Ok((0..batch.len()).map(|_| &copied).collect())
    }
}

/// Takes every replica in.
struct Welcome(mpsc::UnboundedSender<Newcomer>);

impl Reception for Welcome {
    fn receive(&self, replica: Newcomer) -> Result<(), Refusal> {
        self.0
            .send(replica)
            .map_err(|_| unreachable!("the test holds the receiver"))
    }
}

/// What is copied of images with these budgets between a frontend that has parsed them and a model that reads them, in
/// bytes.
async fn copied_on_the_way(budgets_micros: Vec<u64>) -> usize {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let settings = Settings {
        frontends: vec![listener.local_addr().unwrap().to_string()],
        model: "counting:1".parse().unwrap(),
        signature: signature(),
        max_batch: 8.try_into().unwrap(),
        warm_up: None,
        replica: "counting_1_0".parse().unwrap(),
        token: String::new(),
    };
    let (arrived, mut arrivals) = mpsc::unbounded_channel();
    let welcome = Arc::new(Welcome(arrived));
    tokio::spawn(server::serve(
        listener,
        welcome,
        "f".to_owned(),
        std::future::pending(),
    ));
    tokio::spawn(serve_with(settings, Counting, std::future::pending()));
    let mut stream = arrivals.recv().await.unwrap().stream;
    let Ok(SessionEvent::Credit(credit)) = stream.next().await else {
        panic!("a container grants a credit first");
    };
    let inputs: Vec<Input> = budgets_micros.iter().map(|_| image()).collect();
    copies::take();
    let batch = NewBatch {
        id: 1,
        credit: credit.sequence,
        credit_held: Duration::ZERO,
        inputs: to_batch(&signature(), inputs.iter()),
        budgets_micros,
        predicted: Duration::ZERO,
    };
    stream.send_batch(batch).unwrap();
    loop {
        match stream.next().await.unwrap() {
            SessionEvent::Result(result) => return first_number(result),
            _ => continue,
        }
    }
}

fn first_number(result: container::BatchResult) -> usize {
    let Some(Outcome::Outputs(outputs)) = result.outcome else {
        panic!("not outputs: {result:?}");
    };
    let first = outputs.data.slice(..outputs.lengths[0] as usize);
    std::str::from_utf8(&first).unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_tensor_is_copied_at_most_twice_on_each_side_of_the_stream() {
    count_each_side();
    const AMPLE: u64 = 600_000_000;
    // One image is laid into its batch as it is; it is copied if it arrives unaligned.
    assert!(copied_on_the_way(vec![AMPLE]).await <= IMAGE_BYTES);
    // Three are laid end to end, and copied again if they arrive unaligned.
    assert!(copied_on_the_way(vec![AMPLE; 3]).await <= 2 * 3 * IMAGE_BYTES);
    // What is left where one came too late is laid end to end once more.
    let late = copied_on_the_way(vec![AMPLE, 0, AMPLE]).await;
    assert!(late <= (3 + 2 * 2) * IMAGE_BYTES, "{late}");
}

/// The two ends by themselves.
fn count_each_side() {
    for count in [1, 3] {
        let inputs: Vec<Input> = (0..count).map(|_| image()).collect();
        let bytes = count * IMAGE_BYTES;
        copies::take();
        let batch = to_batch(&signature(), inputs.iter());
        let to_encoder = copies::take();
        assert!(
            to_encoder <= if count == 1 { 0 } else { bytes },
            "{to_encoder} for {count} inputs"
        );
        for shift in 0..4 {
            let mut received = decoded(encoded(batch.clone(), shift));
            copies::take();
            let columns = Columns::from_batch(&mut received).unwrap();
            let batch = Batch::new(signature(), columns);
            let images = batch.tensor("image").unwrap();
            assert_eq!(images.bytes().unwrap().len(), bytes);
            assert_eq!(copies::take(), 0, "a view copies nothing");
            assert_eq!(images.as_slice::<f32>().unwrap().len() * 4, bytes);
            assert_eq!(images.as_slice::<f32>().unwrap().len() * 4, bytes);
            let aligned = copies::take();
            assert!(aligned == 0 || aligned == bytes, "{aligned} for {count} inputs");
        }
    }
}

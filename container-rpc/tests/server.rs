//! The frontend's end against a scripted container, over real sockets.

use std::sync::Arc;
use std::time::Duration;

use skysail_container_rpc::credit::{Demand, Share};
use skysail_container_rpc::server::{self, NewBatch, Newcomer, Reception, Refusal, ReplicaStream};
use skysail_container_rpc::session::{self, SessionEvent};
use skysail_proto::container::container_message::Kind as FromContainer;
use skysail_proto::container::container_service_client::ContainerServiceClient;
use skysail_proto::container::frontend_message::Kind as FromFrontend;
use skysail_proto::container::{
    BatchTimeSample, ContainerMessage, Credit, FrontendMessage, PROTOCOL_VERSION, Recall, Register,
};
use skysail_proto::value::{Input, InputType, to_batch};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

/// How long a test waits for a state: far longer than it takes on a busy machine.
const BOUND: Duration = Duration::from_secs(30);

async fn within_bound<F: Future>(what: &str, future: F) -> F::Output {
    let done = tokio::time::timeout(BOUND, future).await;
    done.unwrap_or_else(|_| panic!("did not happen within {BOUND:?}: {what}"))
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

/// The container's end of a stream.
struct Container {
    to_frontend: mpsc::Sender<ContainerMessage>,
    messages: Streaming<FrontendMessage>,
}

impl Container {
    async fn say(&self, kind: FromContainer) {
        let message = ContainerMessage { kind: Some(kind) };
        within_bound("the frontend reads", self.to_frontend.send(message))
            .await
            .unwrap();
    }

    async fn grant(&self, sequence: u64, alone: bool) {
        self.say(FromContainer::Credit(Credit {
            sequence,
            park: alone,
            alone,
            ..Credit::default()
        }))
        .await;
    }

    async fn next(&mut self) -> FromFrontend {
        let message = within_bound("the frontend says something", self.messages.message()).await;
        message.unwrap().expect("the stream goes on").kind.unwrap()
    }
}

/// A container that has registered, and what became of it at the frontend.
async fn attached(recent_batches: Vec<BatchTimeSample>) -> (Container, Newcomer) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (arrived, mut arrivals) = mpsc::unbounded_channel();
    tokio::spawn(server::serve(
        listener,
        Arc::new(Welcome(arrived)),
        "a frontend".to_owned(),
        std::future::pending(),
    ));
    let (to_frontend, messages) = mpsc::channel(16);
    let mut client = ContainerServiceClient::connect(format!("http://{address}"))
        .await
        .unwrap();
    let register = Register {
        protocol_version: PROTOCOL_VERSION,
        model_name: "m".to_owned(),
        model_version: "1".to_owned(),
        input_type: InputType::Strings.to_wire() as i32,
        replica_id: "m_1_0".to_owned(),
        recent_batches,
        ..Register::default()
    };
    let kind = Some(FromContainer::Register(register));
    to_frontend.send(ContainerMessage { kind }).await.unwrap();
    let messages = client
        .attach(ReceiverStream::new(messages))
        .await
        .unwrap()
        .into_inner();
    let mut container = Container {
        to_frontend,
        messages,
    };
    assert!(matches!(container.next().await, FromFrontend::Registered(_)));
    let arrival = within_bound("the replica arrives", arrivals.recv())
        .await
        .unwrap();
    (container, arrival)
}

async fn event(stream: &mut ReplicaStream) -> SessionEvent {
    within_bound("the container says something", stream.next())
        .await
        .unwrap()
}

fn one_text() -> NewBatch {
    NewBatch {
        id: 1,
        credit: 7,
        credit_held: Duration::from_micros(5),
        inputs: to_batch(&InputType::Strings.into(), [Input::string("a")].iter()),
        budgets_micros: vec![1],
        predicted: Duration::ZERO,
    }
}

#[tokio::test]
async fn a_registration_tells_what_the_containers_batches_took() {
    let said = |inputs, model_micros| BatchTimeSample { inputs, model_micros };
    let (_container, arrival) = attached(vec![said(1, 10), said(0, 10), said(4, 25)]).await;
    let known = arrival.registration.recent_batches.iter();
    let known: Vec<_> = known.map(|sample| (sample.inputs, sample.took)).collect();
    let micros = Duration::from_micros;
    assert_eq!(known, [(1, micros(10)), (4, micros(25))]);
}

#[tokio::test]
async fn credits_batches_and_demand_pass_both_ways() {
    let (mut container, arrival) = attached(Vec::new()).await;
    let mut stream = arrival.stream;
    container.grant(7, true).await;
    let credit = session::Credit {
        sequence: 7,
        park: true,
        alone: true,
        share: Share::WHOLE,
        starts_in: Duration::ZERO,
    };
    assert_eq!(event(&mut stream).await, SessionEvent::Credit(credit));
    container.say(FromContainer::Recall(Recall { sequence: 7 })).await;
    assert_eq!(event(&mut stream).await, SessionEvent::Recall(7));
    stream.send_batch(one_text()).unwrap();
    let demand = Demand {
        queued: 3,
        budget: Duration::from_micros(9),
        most_inputs: 12,
    };
    stream.announce(demand).unwrap();
    stream.return_credit(8).unwrap();
    match container.next().await {
        FromFrontend::Batch(batch) => {
            assert_eq!((batch.id, batch.credit, batch.credit_held_micros), (1, 7, 5));
        }
        other => panic!("not a batch: {other:?}"),
    }
    match container.next().await {
        FromFrontend::Demand(demand) => {
            assert_eq!((demand.queued, demand.earliest_budget_micros), (3, 9));
            assert_eq!(demand.most_inputs, 12);
        }
        other => panic!("not demand: {other:?}"),
    }
    match container.next().await {
        FromFrontend::CreditReturned(returned) => assert_eq!(returned.sequence, 8),
        other => panic!("not a credit: {other:?}"),
    }
}

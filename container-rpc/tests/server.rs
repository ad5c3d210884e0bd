//! The frontend's end against a scripted container, over real sockets.

use std::sync::Arc;
use std::time::Duration;

use skysail_container_rpc::server::{self, Arrival, Demand, NewBatch, Reception, Refusal, ReplicaStream};
use skysail_container_rpc::session::Event;
use skysail_proto::container::container_message::Kind as FromContainer;
use skysail_proto::container::container_service_client::ContainerServiceClient;
use skysail_proto::container::frontend_message::Kind as FromFrontend;
use skysail_proto::container::{
    BatchTimeSample, ContainerMessage, Credit, FrontendMessage, PROTOCOL_VERSION, Recall, Register,
};
use skysail_proto::value::{Input, InputType, to_columns};
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
struct Welcome(mpsc::UnboundedSender<Arrival>);

impl Reception for Welcome {
    fn receive(&self, replica: Arrival) -> Result<(), Refusal> {
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
        }))
        .await;
    }

    async fn next(&mut self) -> FromFrontend {
        let message = within_bound("the frontend says something", self.messages.message()).await;
        message.unwrap().expect("the stream goes on").kind.unwrap()
    }
}

/// A container that has registered, and what became of it at the frontend.
async fn attached(recent_batches: Vec<BatchTimeSample>) -> (Container, Arrival) {
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

async fn event(stream: &mut ReplicaStream) -> Event {
    within_bound("the container says something", stream.next())
        .await
        .unwrap()
}

fn demand(queued: usize) -> Demand {
    Demand {
        queued,
        earliest_budget: Duration::MAX,
    }
}

fn one_text() -> NewBatch {
    let (data, lengths) = to_columns([Input::string("a")].iter());
    NewBatch {
        input_type: InputType::Strings,
        data,
        lengths,
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
async fn a_lone_frontend_announces_demand_only_once_another_is_there() {
    let (mut container, arrival) = attached(Vec::new()).await;
    let mut stream = arrival.stream;
    container.grant(1, true).await;
    assert_eq!(event(&mut stream).await, Event::Credit);
    assert!(!stream.wants_demand());
    stream.send_batch(one_text()).unwrap();
    stream.announce(demand(1)).unwrap();
    stream.announce(demand(2)).unwrap();
    assert!(matches!(container.next().await, FromFrontend::Batch(_)));
    // The recall crosses the batch. What was kept back is said now, as it was last.
    container.say(FromContainer::Recall(Recall { sequence: 1 })).await;
    assert_eq!(event(&mut stream).await, Event::Recall);
    match container.next().await {
        FromFrontend::Demand(demand) => assert_eq!(demand.queued, 2),
        other => panic!("not demand: {other:?}"),
    }
    stream.announce(demand(3)).unwrap();
    match container.next().await {
        FromFrontend::Demand(demand) => assert_eq!(demand.queued, 3),
        other => panic!("not demand: {other:?}"),
    }
}

#[tokio::test]
async fn demand_kept_back_is_forgotten_with_the_next_credit() {
    let (mut container, arrival) = attached(Vec::new()).await;
    let mut stream = arrival.stream;
    container.grant(1, true).await;
    event(&mut stream).await;
    stream.send_batch(one_text()).unwrap();
    stream.announce(demand(1)).unwrap();
    container.grant(2, true).await;
    container.say(FromContainer::Recall(Recall { sequence: 2 })).await;
    assert_eq!(event(&mut stream).await, Event::Credit);
    assert_eq!(event(&mut stream).await, Event::Recall);
    stream.return_credits().unwrap();
    assert!(matches!(container.next().await, FromFrontend::Batch(_)));
    assert!(matches!(container.next().await, FromFrontend::CreditReturned(_)));
}

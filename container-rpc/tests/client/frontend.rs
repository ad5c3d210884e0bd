//! A frontend that does what the test says, over a real socket.

use std::net::SocketAddr;
use std::time::Duration;

use skysail_proto::container::container_message::Kind as FromContainer;
use skysail_proto::container::container_service_server::{ContainerService, ContainerServiceServer};
use skysail_proto::container::frontend_message::Kind as FromFrontend;
use skysail_proto::container::{
    Batch, BatchResult, ContainerMessage, Credit, CreditReturned, Demand, FrontendMessage, InputType,
    MAX_MESSAGE_BYTES, Register, Registered,
};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::transport::Server;
use tonic::{Request, Response, Status, Streaming};

/// How long a test waits for a state: far longer than it takes on a busy machine.
const BOUND: Duration = Duration::from_secs(30);

/// Waits for something that must happen.
pub(crate) async fn within_bound<F: Future>(what: &str, future: F) -> F::Output {
    let done = tokio::time::timeout(BOUND, future).await;
    done.unwrap_or_else(|_| panic!("did not happen within {BOUND:?}: {what}"))
}

/// A listening frontend; dropping it breaks every connection.
pub(crate) struct Frontend {
    pub(crate) address: SocketAddr,
    streams: mpsc::UnboundedReceiver<Stream>,
    server: JoinHandle<()>,
}

/// The frontend's end of one container's stream.
pub(crate) struct Stream {
    pub(crate) register: Register,
    messages: Streaming<ContainerMessage>,
    to_container: mpsc::Sender<Result<FrontendMessage, Status>>,
    batches: u64,
}

struct Service(mpsc::UnboundedSender<Stream>);

#[tonic::async_trait]
impl ContainerService for Service {
    type AttachStream = ReceiverStream<Result<FrontendMessage, Status>>;

    async fn attach(
        &self,
        request: Request<Streaming<ContainerMessage>>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        let mut messages = request.into_inner();
        let first = messages.message().await?.and_then(|message| message.kind);
        let Some(FromContainer::Register(register)) = first else {
            return Err(Status::invalid_argument(
                "the first message must be a registration",
            ));
        };
        let (to_container, answers) = mpsc::channel(16);
        let stream = Stream {
            register,
            messages,
            to_container,
            batches: 0,
        };
        let _ = self.0.send(stream);
        Ok(Response::new(ReceiverStream::new(answers)))
    }
}

impl Frontend {
    pub(crate) async fn start() -> Self {
        Self::start_on("127.0.0.1:0", Server::builder()).await
    }

    pub(crate) async fn start_on(address: &str, mut server: Server) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (attached, streams) = mpsc::unbounded_channel();
        let service = ContainerServiceServer::new(Service(attached))
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES);
        let serve = server
            .add_service(service)
            .serve_with_incoming(TcpListenerStream::new(listener));
        let server = tokio::spawn(async move { serve.await.unwrap() });
        Self {
            address,
            streams,
            server,
        }
    }

    /// The next stream a container opens, not registered yet.
    pub(crate) async fn next_stream(&mut self) -> Stream {
        within_bound("a container attaches", self.streams.recv())
            .await
            .unwrap()
    }

    /// The next stream a container opens, registered.
    pub(crate) async fn attached(&mut self) -> Stream {
        let mut stream = self.next_stream().await;
        let frontend_id = self.address.to_string();
        stream
            .send(FromFrontend::Registered(Registered { frontend_id }))
            .await;
        stream
    }

    /// Streams that were opened and not looked at.
    pub(crate) fn waiting_streams(&self) -> usize {
        self.streams.len()
    }
}

impl Drop for Frontend {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Stream {
    pub(crate) async fn send(&mut self, kind: FromFrontend) {
        let message = FrontendMessage { kind: Some(kind) };
        within_bound("the container reads", self.to_container.send(Ok(message)))
            .await
            .unwrap();
    }

    /// Ends the stream with a status.
    pub(crate) async fn end(self, status: Status) {
        self.to_container.send(Err(status)).await.unwrap();
    }

    /// The next message, or nothing if the container has closed its end.
    pub(crate) async fn next(&mut self) -> Option<FromContainer> {
        let message = within_bound("the container says something", self.messages.message()).await;
        message
            .unwrap()
            .map(|message| message.kind.expect("a container says nothing unknown"))
    }

    pub(crate) async fn credit(&mut self) -> Credit {
        match self.next().await {
            Some(FromContainer::Credit(credit)) => credit,
            other => panic!("not a credit: {other:?}"),
        }
    }

    /// The next result; a credit that comes first is given too, a recall of one that was used is not.
    pub(crate) async fn result(&mut self) -> (BatchResult, Option<Credit>) {
        let mut credit = None;
        loop {
            match self.next().await {
                Some(FromContainer::Result(result)) => return (result, credit),
                Some(FromContainer::Credit(given)) if credit.is_none() => credit = Some(given),
                Some(FromContainer::Recall(_)) => {}
                other => panic!("not a result: {other:?}"),
            }
        }
    }

    /// Returns once the container has heard all that was said before: it answers a batch that has no credit
    /// without asking the model. Gives the credit that came meanwhile.
    pub(crate) async fn heard(&mut self) -> Option<Credit> {
        let nowhere = Credit {
            sequence: u64::MAX,
            ..Credit::default()
        };
        let id = self.send_texts(nowhere, &["?"]).await;
        let (result, credit) = self.result().await;
        assert_eq!(result.id, id);
        credit
    }

    /// The credit that comes with a result, before it or after.
    pub(crate) async fn credit_after(&mut self, already: Option<Credit>) -> Credit {
        match already {
            Some(credit) => credit,
            None => self.credit().await,
        }
    }

    /// Sends texts against a credit; returns the batch's id. They have more time than any test.
    pub(crate) async fn send_texts(&mut self, credit: Credit, texts: &[&str]) -> u64 {
        const AMPLE_MICROS: u64 = 600_000_000;
        let texts: Vec<_> = texts.iter().map(|text| (*text, AMPLE_MICROS)).collect();
        self.send_texts_due(credit, &texts).await
    }

    /// Sends texts, each with the time it has left in microseconds.
    pub(crate) async fn send_texts_due(&mut self, credit: Credit, texts: &[(&str, u64)]) -> u64 {
        self.batches += 1;
        let (texts, budgets_micros): (Vec<_>, Vec<_>) = texts.iter().copied().unzip();
        let batch = Batch {
            id: self.batches,
            credit: credit.sequence,
            input_type: InputType::Strings as i32,
            data: texts.concat().into_bytes().into(),
            lengths: texts.iter().map(|text| text.len() as u32).collect(),
            budgets_micros,
            ..Batch::default()
        };
        self.send(FromFrontend::Batch(batch)).await;
        self.batches
    }

    /// A query waits whose batch is merged with no others'.
    pub(crate) async fn demand(&mut self, budget: Duration) {
        self.demand_shared(budget, 0).await;
    }

    /// A query waits whose batch may be merged with others' to at most so many inputs.
    pub(crate) async fn demand_shared(&mut self, budget: Duration, most_inputs: u32) {
        let demand = Demand {
            queued: 1,
            earliest_budget_micros: budget.as_micros() as u64,
            most_inputs,
        };
        self.send(FromFrontend::Demand(demand)).await;
    }

    pub(crate) async fn return_credit(&mut self, sequence: u64) {
        self.send(FromFrontend::CreditReturned(CreditReturned { sequence }))
            .await;
    }
}

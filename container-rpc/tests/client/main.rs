//! The container's end against a scripted frontend, over real sockets.

use std::num::NonZeroU32;
use std::time::Duration;

use skysail_container_rpc::{ServeError, Settings, serve_with};
use skysail_proto::container::batch_result::Outcome;
use skysail_proto::container::container_message::Kind as FromContainer;
use skysail_proto::container::frontend_message::Kind as FromFrontend;
use skysail_proto::container::{
    Batch, BatchResult, Credit, FrontendDraining, FrontendsChanged, InputErrorKind, InputType,
    PROTOCOL_VERSION, Register,
};
use skysail_proto::value::Input;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tonic::Status;
use tonic::transport::Server;

mod frontend;
mod merged;
mod model;
mod tensors;

use frontend::{Frontend, Stream, within_bound};
use model::{Gate, Obedient};

/// A container that serves until it is told to stop.
struct Container {
    gate: Option<Gate>,
    stop: Option<oneshot::Sender<()>>,
    served: JoinHandle<Result<(), ServeError>>,
}

impl Container {
    fn start(frontends: &[&Frontend]) -> Self {
        Self::dialling(
            frontends
                .iter()
                .map(|frontend| frontend.address.to_string())
                .collect(),
        )
    }

    fn dialling(frontends: Vec<String>) -> Self {
        let (model, gate) = Obedient::new();
        Self::serving(frontends, None, model, gate)
    }

    /// A container that warms up with this text.
    fn warming_up(frontend: &Frontend, text: &str) -> Self {
        let (model, gate) = Obedient::new();
        let frontends = vec![frontend.address.to_string()];
        Self::serving(frontends, Some(format!("{text:?}")), model, gate)
    }

    fn serving(frontends: Vec<String>, warm_up: Option<String>, model: Obedient, gate: Gate) -> Self {
        let settings = Settings {
            frontends,
            model: "repeat:1".parse().unwrap(),
            signature: skysail_proto::value::InputType::Strings.into(),
            max_batch: NonZeroU32::new(6).unwrap(),
            warm_up,
            replica: "repeat_1_0".parse().unwrap(),
            token: "secret".to_owned(),
        };
        let (stop, stopped) = oneshot::channel();
        let served = serve_with(settings, model, async {
            let _ = stopped.await;
        });
        Self {
            gate: Some(gate),
            stop: Some(stop),
            served: tokio::spawn(served),
        }
    }

    /// Waits until the model has read `block`.
    async fn blocked(&mut self) -> Gate {
        self.gate.take().expect("blocked once").blocked().await
    }

    fn stop(&mut self) {
        self.stop.take().expect("stopped once").send(()).unwrap();
    }

    async fn served(self) -> Result<(), ServeError> {
        within_bound("the container ends", self.served).await.unwrap()
    }
}

fn texts(result: &BatchResult) -> String {
    match &result.outcome {
        Some(Outcome::Outputs(outputs)) => String::from_utf8(outputs.data.to_vec()).unwrap(),
        other => panic!("not outputs: {other:?}"),
    }
}

fn error(result: BatchResult) -> String {
    match result.outcome {
        Some(Outcome::BatchError(error)) => error,
        other => panic!("not an error: {other:?}"),
    }
}

#[tokio::test]
async fn a_container_registers_with_all_that_the_protocol_asks_for() {
    let mut frontend = Frontend::start().await;
    let _container = Container::start(&[&frontend]);
    let register = frontend.attached().await.register;
    assert_eq!(register.protocol_version, PROTOCOL_VERSION);
    assert_eq!(register.model_name, "repeat");
    assert_eq!(register.model_version, "1");
    assert_eq!(register.input_type, InputType::Strings as i32);
    assert_eq!(register.replica_id, "repeat_1_0");
    assert_eq!(register.token, "secret");
    assert_eq!(register.pid, std::process::id());
    assert!(!register.hostname.is_empty());
    assert!(
        register.agent.starts_with("skysail-container-rpc/"),
        "{}",
        register.agent
    );
}

#[tokio::test]
async fn batches_are_answered_in_order_each_against_its_credit() {
    let mut frontend = Frontend::start().await;
    let _container = Container::start(&[&frontend]);
    let mut stream = frontend.attached().await;
    let mut credit = stream.credit().await;
    for round in 1..=100 {
        assert_eq!((credit.sequence, credit.park), (round, true));
        let id = stream.send_texts(credit, &["a", "bc", ""]).await;
        let (result, early) = stream.result().await;
        assert_eq!((result.id, texts(&result)), (id, "abc".to_owned()));
        credit = stream.credit_after(early).await;
    }
}

#[tokio::test]
async fn a_model_that_fails_fails_that_batch_or_that_input_and_nothing_else() {
    let mut frontend = Frontend::start().await;
    let _container = Container::start(&[&frontend]);
    let mut stream = frontend.attached().await;
    let mut credit = stream.credit().await;
    for (batch, expected) in [
        (&["a", "fail"][..], "asked to fail"),
        (&["panic"], "the model panicked: asked to panic"),
        (&["two", "a", "b"], "the model answered 4 outputs for 3 inputs"),
        (&[], "the batch has no inputs"),
    ] {
        stream.send_texts(credit, batch).await;
        let (result, early) = stream.result().await;
        assert_eq!(error(result), expected);
        credit = stream.credit_after(early).await;
    }
    stream.send_texts(credit, &["a", "refuse", "b"]).await;
    let Some(Outcome::Outputs(outputs)) = stream.result().await.0.outcome else {
        panic!("one refused input does not fail its batch");
    };
    assert_eq!(outputs.lengths, [1, 0, 1]);
    assert_eq!(
        (outputs.errors[0].index, &*outputs.errors[0].message),
        (1, "asked to refuse this one")
    );
}

#[tokio::test]
async fn a_batch_that_cannot_be_read_is_an_error_that_says_why() {
    let mut frontend = Frontend::start().await;
    let _container = Container::start(&[&frontend]);
    let mut stream = frontend.attached().await;
    let credit = stream.credit().await;
    let batch = Batch {
        id: 1,
        credit: credit.sequence,
        input_type: InputType::Doubles as i32,
        data: vec![0; 12].into(),
        lengths: vec![2],
        ..Batch::default()
    };
    stream.send(FromFrontend::Batch(batch)).await;
    let error = error(stream.result().await.0);
    assert_eq!(
        error,
        "the batch cannot be read: lengths add up to 16 bytes, the data has 12"
    );
}

#[tokio::test]
async fn a_batch_without_a_credit_is_refused() {
    let mut frontend = Frontend::start().await;
    let _container = Container::start(&[&frontend]);
    let mut stream = frontend.attached().await;
    let mut credit = stream.credit().await;
    credit.sequence += 1;
    stream.send_texts(credit, &["a"]).await;
    let error = error(stream.result().await.0);
    assert!(error.contains("credit 2 was not granted"), "{error}");
}

#[tokio::test]
async fn of_two_frontends_the_one_in_a_hurry_is_served_first() {
    let (mut first, mut second) = (Frontend::start().await, Frontend::start().await);
    let mut container = Container::start(&[&first, &second]);
    let (mut a, mut b) = (first.attached().await, second.attached().await);
    // Whichever attached first was alone for a moment and parks a credit; it is used to block the model, so
    // that both demands are known when the next slot opens.
    a.demand(Duration::from_secs(10)).await;
    b.demand(Duration::from_secs(10)).await;
    let (mut busy, mut other) = (a, b);
    let credit = tokio::select! {
        credit = busy.credit() => credit,
        credit = other.credit() => {
            std::mem::swap(&mut busy, &mut other);
            credit
        }
    };
    busy.send_texts(credit, &["block"]).await;
    let gate = container.blocked().await;
    busy.demand(Duration::from_secs(20)).await;
    other.demand(Duration::from_secs(5)).await;
    busy.heard().await;
    other.heard().await;
    gate.release();
    let credit = other.credit().await;
    assert!(!credit.park);
    other.send_texts(credit, &["urgent"]).await;
    assert_eq!(texts(&other.result().await.0), "urgent");
    let (blocked, early) = busy.result().await;
    assert_eq!(texts(&blocked), "block");
    let credit = busy.credit_after(early).await;
    busy.send_texts(credit, &["patient"]).await;
    assert_eq!(texts(&busy.result().await.0), "patient");
}

#[tokio::test]
async fn a_credit_parked_while_alone_is_recalled_for_a_frontend_with_work() {
    let (mut first, mut second) = (Frontend::start().await, Frontend::start().await);
    let _container = Container::start(&[&first]);
    let mut idle = first.attached().await;
    let parked = idle.credit().await;
    assert!(parked.park);
    let addresses = vec![first.address.to_string(), second.address.to_string()];
    idle.send(FromFrontend::FrontendsChanged(FrontendsChanged { addresses }))
        .await;
    let mut busy = second.attached().await;
    busy.demand(Duration::from_secs(1)).await;
    let Some(FromContainer::Recall(recall)) = idle.next().await else {
        panic!("the parked credit is recalled");
    };
    assert_eq!(recall.sequence, parked.sequence);
    idle.return_credit(parked.sequence).await;
    let credit = busy.credit().await;
    busy.send_texts(credit, &["work"]).await;
    assert_eq!(texts(&busy.result().await.0), "work");
}

#[tokio::test]
async fn a_lost_stream_is_opened_again() {
    let mut frontend = Frontend::start().await;
    let _container = Container::start(&[&frontend]);
    let mut stream = frontend.attached().await;
    stream.credit().await;
    stream.end(Status::unavailable("going away")).await;
    let mut stream = frontend.attached().await;
    assert_eq!(stream.credit().await.sequence, 1);
}

#[tokio::test]
async fn a_frontend_that_is_started_again_is_found_again() {
    let mut frontend = Frontend::start().await;
    let address = frontend.address.to_string();
    let _container = Container::start(&[&frontend]);
    frontend.attached().await.credit().await;
    drop(frontend);
    let mut frontend = within_bound("the port is free again", async {
        while tokio::net::TcpListener::bind(&address).await.is_err() {
            tokio::task::yield_now().await;
        }
        Frontend::start_on(&address, Server::builder()).await
    })
    .await;
    let mut stream = frontend.attached().await;
    let credit = stream.credit().await;
    stream.send_texts(credit, &["again"]).await;
    assert_eq!(texts(&stream.result().await.0), "again");
}

#[tokio::test]
async fn a_blocked_model_does_not_stop_the_connections() {
    // The frontend gives up on a peer that does not answer for 200 ms.
    let strict = Server::builder()
        .http2_keepalive_interval(Some(Duration::from_millis(100)))
        .http2_keepalive_timeout(Some(Duration::from_millis(100)));
    let mut frontend = Frontend::start_on("127.0.0.1:0", strict).await;
    let mut other = Frontend::start().await;
    let mut container = Container::start(&[&frontend, &other]);
    let mut stream = frontend.attached().await;
    stream.demand(Duration::from_secs(1)).await;
    let credit = stream.credit().await;
    stream.send_texts(credit, &["block"]).await;
    let gate = container.blocked().await;
    // Each loss is followed by a longer pause: after six, keep-alive has asked several times, and the other
    // connection was opened each time.
    for _ in 0..6 {
        other.attached().await.end(Status::unavailable("again")).await;
    }
    gate.release();
    assert_eq!(texts(&stream.result().await.0), "block");
    assert_eq!(
        frontend.waiting_streams(),
        0,
        "the first connection was never lost"
    );
}

#[tokio::test]
async fn a_stopped_container_answers_what_it_holds_and_then_leaves() {
    let mut frontend = Frontend::start().await;
    let mut container = Container::start(&[&frontend]);
    let mut stream = frontend.attached().await;
    let credit = stream.credit().await;
    stream.send_texts(credit, &["block"]).await;
    let gate = container.blocked().await;
    container.stop();
    assert!(matches!(stream.next().await, Some(FromContainer::Draining(_))));
    gate.release();
    assert_eq!(texts(&stream.result().await.0), "block");
    assert_eq!(stream.next().await, None, "no credit follows");
    drop(stream);
    container.served().await.unwrap();
}

#[tokio::test]
async fn a_stopped_container_waits_for_the_credit_that_is_out() {
    let mut frontend = Frontend::start().await;
    let mut container = Container::start(&[&frontend]);
    let mut stream = frontend.attached().await;
    let parked = stream.credit().await;
    container.stop();
    assert!(matches!(stream.next().await, Some(FromContainer::Draining(_))));
    assert!(
        matches!(stream.next().await, Some(FromContainer::Recall(recall)) if recall.sequence == parked.sequence)
    );
    // A batch may have crossed these words: it is answered.
    stream.send_texts(parked, &["last"]).await;
    assert_eq!(texts(&stream.result().await.0), "last");
    assert_eq!(stream.next().await, None);
    drop(stream);
    container.served().await.unwrap();
}

#[tokio::test]
async fn a_container_that_reaches_no_frontend_stops_when_told() {
    let nobody = Frontend::start().await.address.to_string();
    let mut container = Container::dialling(vec![nobody]);
    container.stop();
    container.served().await.unwrap();
}

#[tokio::test]
async fn a_refused_container_tries_again_later() {
    let mut frontend = Frontend::start().await;
    let _container = Container::start(&[&frontend]);
    let refused = frontend.next_stream().await;
    refused
        .end(Status::not_found("model `repeat` has no version `1`"))
        .await;
    let mut stream = frontend.attached().await;
    assert!(stream.credit().await.park);
}

#[tokio::test]
async fn a_container_whose_place_was_taken_ends_and_says_so() {
    let mut frontend = Frontend::start().await;
    let container = Container::start(&[&frontend]);
    let mut stream = frontend.attached().await;
    stream.credit().await;
    stream
        .end(Status::aborted("another container registered as `repeat_1_0`"))
        .await;
    let error = container.served().await.unwrap_err().to_string();
    assert!(
        error.contains("another container registered as `repeat_1_0`"),
        "{error}"
    );
    assert!(error.contains("SKYSAIL_REPLICA_ID"), "{error}");
}

#[tokio::test]
async fn one_frontend_by_two_addresses_does_not_make_a_container_end() {
    let mut frontend = Frontend::start().await;
    let port = frontend.address.port();
    let _container = Container::dialling(vec![format!("127.0.0.1:{port}"), format!("localhost:{port}")]);
    let first = frontend.attached().await;
    let mut second = frontend.attached().await;
    first.end(Status::aborted("replaced by a second stream")).await;
    // Only an address that was left is dialled when a frontend names it.
    let addresses = vec![format!("127.0.0.1:{port}"), format!("localhost:{port}")];
    let mut credit = second.credit().await;
    let left = async {
        while frontend.waiting_streams() == 0 {
            let addresses = addresses.clone();
            second
                .send(FromFrontend::FrontendsChanged(FrontendsChanged { addresses }))
                .await;
            second.send_texts(credit, &["still here"]).await;
            let (result, early) = second.result().await;
            assert_eq!(texts(&result), "still here");
            credit = second.credit_after(early).await;
        }
    };
    within_bound("the other address is left", left).await;
}

#[tokio::test]
async fn frontends_that_join_are_dialled_and_those_that_are_gone_only_when_they_are_named_again() {
    let (mut first, mut second) = (Frontend::start().await, Frontend::start().await);
    let gone = Frontend::start().await;
    let address = gone.address.to_string();
    drop(gone);
    let _container = Container::dialling(vec![first.address.to_string(), address.clone()]);
    let mut stays = first.attached().await;
    let named = |others: &[&Frontend]| FrontendsChanged {
        addresses: others.iter().map(|other| other.address.to_string()).collect(),
    };
    stays
        .send(FromFrontend::FrontendsChanged(named(&[&first, &second])))
        .await;
    let _second = second.attached().await;
    // The address that was left is dialled again once it is named again.
    let mut back = Frontend::start_on(&address, Server::builder()).await;
    stays
        .send(FromFrontend::FrontendsChanged(named(&[&first, &second, &back])))
        .await;
    back.attached().await;
}

#[tokio::test]
async fn a_frontend_that_is_there_is_not_left_on_the_word_of_another() {
    let (mut first, mut second) = (Frontend::start().await, Frontend::start().await);
    let _container = Container::start(&[&first, &second]);
    let (mut one, mut other) = (first.attached().await, second.attached().await);
    // The container knows that it is attached to the second: a frontend it still dials may be left.
    let mut credit = other.heard().await;
    let addresses = vec![first.address.to_string()];
    one.send(FromFrontend::FrontendsChanged(FrontendsChanged { addresses }))
        .await;
    one.heard().await;
    other.demand(Duration::from_secs(1)).await;
    while credit.is_none() {
        tokio::select! {
            granted = other.credit() => credit = Some(granted),
            said = one.next() => match said {
                Some(FromContainer::Credit(credit)) if !credit.park => one.return_credit(credit.sequence).await,
                Some(FromContainer::Recall(recall)) => one.return_credit(recall.sequence).await,
                _ => {}
            }
        }
    }
    other.send_texts(credit.unwrap(), &["still served"]).await;
    assert_eq!(texts(&other.result().await.0), "still served");
}

#[tokio::test]
async fn a_draining_frontend_gets_no_credit_and_is_dialled_again_once_it_has_closed() {
    let mut frontend = Frontend::start().await;
    let mut container = Container::start(&[&frontend]);
    let mut stream = frontend.attached().await;
    let credit = stream.credit().await;
    stream.send_texts(credit, &["block"]).await;
    let gate = container.blocked().await;
    stream.send(FromFrontend::Draining(FrontendDraining {})).await;
    gate.release();
    let (result, early) = stream.result().await;
    assert_eq!((texts(&result), early), ("block".to_owned(), None));
    drop(stream);
    frontend.attached().await.credit().await;
}

#[tokio::test]
async fn a_batch_of_100_mib_goes_through() {
    let mut frontend = Frontend::start().await;
    let _container = Container::start(&[&frontend]);
    let mut stream = frontend.attached().await;
    let credit = stream.credit().await;
    let text = "x".repeat(100 * 1024 * 1024);
    stream.send_texts(credit, &[&text]).await;
    assert!(texts(&stream.result().await.0) == text);
}

#[tokio::test]
async fn outputs_beyond_the_message_limit_fail_their_batch_and_not_the_stream() {
    let mut frontend = Frontend::start().await;
    let _container = Container::start(&[&frontend]);
    let mut stream = frontend.attached().await;
    let credit = stream.credit().await;
    stream.send_texts(credit, &["huge"]).await;
    let (result, early) = stream.result().await;
    let error = error(result);
    assert!(
        error.contains("more than the 268435456 that one message may have"),
        "{error}"
    );
    let credit = stream.credit_after(early).await;
    stream.send_texts(credit, &["small"]).await;
    assert_eq!(texts(&stream.result().await.0), "small");
}

/// Inputs in each of the batches that a container has told of, the newest last.
fn recent_inputs(register: &Register) -> Vec<u32> {
    let recent = register.recent_batches.iter();
    recent.map(|sample| sample.inputs).collect()
}

/// Whether these are the sizes of a sweep up to 6, which a busy machine may have cut short.
fn is_sweep(sizes: &[u32]) -> bool {
    let whole = [1, 2, 4, 6].repeat(3);
    !sizes.is_empty() && whole.starts_with(sizes)
}

#[tokio::test]
async fn a_container_warms_up_in_batches_of_all_sizes_and_registers_with_what_they_took() {
    let mut frontend = Frontend::start().await;
    let _container = Container::warming_up(&frontend, "a");
    let mut stream = frontend.attached().await;
    let sizes = recent_inputs(&stream.register);
    assert!(is_sweep(&sizes), "{sizes:?}");
    let credit = stream.credit().await;
    stream.send_texts(credit, &["b"]).await;
    assert_eq!(
        texts(&stream.result().await.0),
        "b",
        "no answer of the warm-up is in the way"
    );
}

#[tokio::test]
async fn a_model_that_fails_on_its_warm_up_input_serves_anyway() {
    for text in ["fail", "panic", "refuse", "two"] {
        let mut frontend = Frontend::start().await;
        let _container = Container::warming_up(&frontend, text);
        let mut stream = frontend.attached().await;
        assert_eq!(recent_inputs(&stream.register), [0; 0], "{text}");
        let credit = stream.credit().await;
        stream.send_texts(credit, &["b"]).await;
        assert_eq!(texts(&stream.result().await.0), "b");
    }
}

#[tokio::test]
async fn a_model_warms_up_with_what_it_offers_if_that_is_of_its_input_type() {
    for (offered, warms_up) in [(Input::string("mine"), true), (Input::doubles(&[1.0]), false)] {
        let mut frontend = Frontend::start().await;
        let (model, gate) = Obedient::new();
        let model = model.offering(offered);
        let _container = Container::serving(vec![frontend.address.to_string()], None, model, gate);
        let sizes = recent_inputs(&frontend.attached().await.register);
        assert_eq!(is_sweep(&sizes), warms_up, "{sizes:?}");
    }
}

#[tokio::test]
async fn a_container_that_is_told_to_stop_while_it_warms_up_stops_at_once() {
    let frontend = Frontend::start().await;
    let mut container = Container::warming_up(&frontend, "block");
    let gate = container.blocked().await;
    container.stop();
    container.served().await.unwrap();
    assert_eq!(frontend.waiting_streams(), 0, "it never registered");
    gate.release();
}

#[tokio::test]
async fn a_container_that_registers_again_tells_what_its_batches_took() {
    let mut frontend = Frontend::start().await;
    let _container = Container::start(&[&frontend]);
    let mut stream = frontend.attached().await;
    assert_eq!(recent_inputs(&stream.register), [0; 0]);
    let mut credit = stream.credit().await;
    // What the model fails on, or was never given, tells nothing of what a batch takes.
    for batch in [&["a", "b", "c"][..], &["fail"], &["d", "e"]] {
        stream.send_texts(credit, batch).await;
        let (_, early) = stream.result().await;
        credit = stream.credit_after(early).await;
    }
    stream.send_texts_due(credit, &[("late", 0)]).await;
    stream.result().await;
    stream.end(Status::unavailable("restarting")).await;
    let register = frontend.attached().await.register;
    assert_eq!(recent_inputs(&register), [3, 2]);
}

#[tokio::test]
async fn inputs_whose_time_has_run_out_are_not_given_to_the_model() {
    let mut frontend = Frontend::start().await;
    let _container = Container::start(&[&frontend]);
    let mut stream = frontend.attached().await;
    let credit = stream.credit().await;
    let ample = 600_000_000;
    stream
        .send_texts_due(
            credit,
            &[("panic", 0), ("a", ample), ("refuse", ample), ("panic", 0)],
        )
        .await;
    let (result, early) = stream.result().await;
    assert_eq!(result.model_inputs, Some(2));
    let Some(Outcome::Outputs(outputs)) = result.outcome else {
        panic!("inputs that are too late do not fail their batch: {result:?}");
    };
    assert_eq!((&*outputs.data, outputs.lengths), (&b"a"[..], vec![0, 1, 0, 0]));
    let mut errors: Vec<_> = outputs
        .errors
        .iter()
        .map(|error| (error.index, error.kind()))
        .collect();
    errors.sort_unstable_by_key(|(index, _)| *index);
    assert_eq!(
        errors,
        [
            (0, InputErrorKind::TooLate),
            (2, InputErrorKind::Model),
            (3, InputErrorKind::TooLate)
        ]
    );

    let credit = stream.credit_after(early).await;
    stream.send_texts_due(credit, &[("panic", 0), ("panic", 0)]).await;
    let (result, _) = stream.result().await;
    assert_eq!((result.model_inputs, result.model_micros), (Some(0), 0));
    let Some(Outcome::Outputs(outputs)) = result.outcome else {
        panic!("the model is not called: {result:?}");
    };
    assert!(
        outputs
            .errors
            .iter()
            .all(|error| error.kind() == InputErrorKind::TooLate)
    );
    assert_eq!(outputs.errors.len(), 2);
}

#[tokio::test]
async fn only_the_one_frontend_of_a_container_is_told_that_it_is_alone() {
    let (mut first, mut second) = (Frontend::start().await, Frontend::start().await);
    let _container = Container::start(&[&first]);
    let mut one = first.attached().await;
    let credit = one.credit().await;
    assert!(credit.alone);
    let addresses = vec![first.address.to_string(), second.address.to_string()];
    one.send(FromFrontend::FrontendsChanged(FrontendsChanged { addresses }))
        .await;
    let mut other = second.attached().await;
    other.heard().await;
    // It announces nothing, not knowing that it should: the next credit comes unasked and tells it.
    one.send_texts(credit, &["a"]).await;
    let (_, early) = one.result().await;
    let more = one.credit_after(early).await;
    assert!(!more.alone && !more.park);
    one.return_credit(more.sequence).await;
    other.demand(Duration::from_secs(1)).await;
    assert!(!other.credit().await.alone);
}

/// A frontend with so many queries, one after the other; then it is idle, until `all_done` says so.
async fn ask(stream: &mut Stream, count: usize, answered: &watch::Sender<usize>, all: usize) {
    let mut all_done = answered.subscribe();
    let mut held: Option<Credit> = None;
    let mut asked = 0;
    if count > 0 {
        stream.demand(Duration::from_secs(60)).await;
    }
    loop {
        let said = tokio::select! {
            said = stream.next() => said.expect("the stream goes on"),
            done = all_done.wait_for(|done| *done == all) => {
                done.expect("the sender is here");
                return;
            }
        };
        match said {
            FromContainer::Credit(credit) => held = Some(credit),
            FromContainer::Recall(recall) => {
                if held
                    .take_if(|credit| credit.sequence == recall.sequence)
                    .is_some()
                {
                    stream.return_credit(recall.sequence).await;
                }
            }
            FromContainer::Result(result) => {
                assert_eq!(texts(&result), "q");
                answered.send_modify(|done| *done += 1);
                if asked < count && held.is_none() {
                    stream.demand(Duration::from_secs(60)).await;
                }
            }
            other => panic!("not expected: {other:?}"),
        }
        match held {
            Some(credit) if asked < count => {
                held = None;
                asked += 1;
                stream.send_texts(credit, &["q"]).await;
                if asked < count {
                    stream.demand(Duration::from_secs(60)).await;
                }
            }
            Some(credit) if !credit.park => {
                held = None;
                stream.return_credit(credit.sequence).await;
            }
            _ => {}
        }
    }
}

#[tokio::test]
async fn of_two_frontends_none_is_stranded_whichever_is_loaded() {
    let (mut first, mut second) = (Frontend::start().await, Frontend::start().await);
    let _container = Container::start(&[&first, &second]);
    let (mut a, mut b) = (first.attached().await, second.attached().await);
    for (of_a, of_b) in [(50, 50), (0, 50), (50, 0), (1, 100), (100, 1)] {
        let answered = watch::Sender::new(0);
        let all = of_a + of_b;
        let both = async {
            tokio::join!(
                ask(&mut a, of_a, &answered, all),
                ask(&mut b, of_b, &answered, all)
            );
        };
        within_bound("every query is answered", both).await;
    }
}

#[tokio::test]
async fn a_credit_that_a_lost_frontend_held_goes_to_another() {
    let (mut first, mut second) = (Frontend::start().await, Frontend::start().await);
    let _container = Container::start(&[&first]);
    let mut lost = first.attached().await;
    assert!(lost.credit().await.park);
    let addresses = vec![first.address.to_string(), second.address.to_string()];
    lost.send(FromFrontend::FrontendsChanged(FrontendsChanged { addresses }))
        .await;
    let mut other = second.attached().await;
    other.demand(Duration::from_secs(1)).await;
    // It is asked for the credit, and ends without having given it back.
    assert!(matches!(lost.next().await, Some(FromContainer::Recall(_))));
    drop((lost, first));
    let credit = other.credit().await;
    other.send_texts(credit, &["work"]).await;
    assert_eq!(texts(&other.result().await.0), "work");
}

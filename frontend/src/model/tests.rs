use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::FutureExt;
use jiff::Timestamp;
use skysail_container_rpc::session::Registration;
use skysail_core::catalog::{Application, Catalog, Change, Generation, Model, Version};
use skysail_core::query::{DefaultReason, Failure, Prediction};
use skysail_core::queue::{Bounds, Claim};
use skysail_core::time::Instant;
use skysail_proto::datatype::Datatype;
use skysail_proto::deployment::VersionSpec;
use skysail_proto::ids::{ModelId, ModelVersion, ReplicaId};
use skysail_proto::signature::{Signature, TensorSpec};
use skysail_proto::tensor::Tensor;
use skysail_proto::value::{Input, InputType, Output};

use super::Asked;
use super::handle::ModelHandle;
use super::queue::Task;
use super::table::ModelTable;
use crate::clock::Clock;
use crate::metrics::Format;

/// A catalog of one model with one version of this spec, registered at this second.
fn catalog(spec: &VersionSpec, registered_at: i64) -> Catalog {
    let version = Version {
        spec: spec.clone(),
        registered_at: Timestamp::from_second(registered_at).unwrap(),
    };
    let model = Model {
        name: id().name,
        current_version: id().version,
        rollout: None,
        versions: [(id().version, version)].into(),
    };
    Catalog::default().with(&[Change::put(model)], Generation::default())
}

pub(super) fn spec() -> VersionSpec {
    VersionSpec {
        signature: InputType::Doubles.into(),
        batch_size: skysail_proto::deployment::BatchSize::default(),
        max_batch: None,
        cache: true,
        deployment: None,
        open: false,
        annotations: [].into(),
    }
}

/// The handle of a version with this specification, registered at the Unix epoch.
pub(super) fn handle_of(spec: VersionSpec) -> ModelHandle {
    table(0).handle(id(), spec, Timestamp::UNIX_EPOCH)
}

fn id() -> ModelId {
    "model:1".parse().unwrap()
}

fn table(cache_bytes: u64) -> ModelTable {
    let bounds = Bounds {
        count: 100,
        bytes: usize::MAX,
    };
    ModelTable::new(bounds, cache_bytes, Arc::default(), Clock::start()).on_this_machine_only()
}

/// Follows the catalog, closes the versions that are gone, and returns the version's handle.
fn follow(table: &ModelTable, catalog: &Catalog) -> Arc<ModelHandle> {
    let (handles, gone) = table.follow(catalog);
    table.close(gone);
    handles.get(&id()).unwrap().clone()
}

fn input() -> Input {
    Input::doubles(&[1.0])
}

fn asked(deadline: Instant) -> Asked {
    Asked {
        deadline,
        claim: Claim::SOLE,
    }
}

fn one() -> Output {
    Output::new("one")
}

impl ModelHandle {
    /// Accepts queries from now on, as if a replica were attached.
    pub(crate) fn pretend_to_have_a_replica(&self) {
        self.replicas.store(1, Ordering::Relaxed);
    }

    /// Answers the one query that waits, as a replica would, with an output of this text.
    pub(crate) fn answer_one(&self, text: &str) {
        take_one(self).answer(Ok(Output::new(text)));
    }
}

/// Asks as if there were a replica. The test must answer the query that waits.
async fn ask(handle: &ModelHandle) -> Prediction {
    handle.replicas.store(1, Ordering::Relaxed);
    let deadline = handle.clock.now() + Duration::from_secs(1);
    handle.predict(input(), asked(deadline)).await.prediction
}

fn take_one(handle: &ModelHandle) -> Task {
    let mut batch = handle.queue.take(1, handle.clock.now());
    assert_eq!(batch.len(), 1);
    batch.remove(0).task
}

/// Asks, and answers in the model's place.
async fn predict(handle: &ModelHandle) -> Prediction {
    let mut asking = Box::pin(ask(handle));
    assert_eq!((&mut asking).now_or_never(), None, "it is in the cache");
    take_one(handle).answer(Ok(one()));
    asking.await
}

#[tokio::test(start_paused = true)]
async fn without_a_replica_not_even_what_was_predicted_is_answered() {
    let table = table(1 << 20);
    let handle = follow(&table, &catalog(&spec(), 1));
    assert_eq!(predict(&handle).await, Ok(one()));
    handle.replicas.store(0, Ordering::Relaxed);
    let deadline = handle.clock.now() + Duration::from_secs(1);
    let without = handle.predict(input(), asked(deadline)).await;
    assert_eq!(without.prediction, Err(DefaultReason::NoReplica.into()));
    assert_eq!(ask(&handle).await, Ok(one()));
    let metrics = handle.metrics.cache();
    assert_eq!(
        [metrics.hits.get(), metrics.joins.get(), metrics.misses.get()],
        [1, 0, 2]
    );
}

#[tokio::test(start_paused = true)]
async fn with_its_cache_off_a_version_is_asked_every_time() {
    let off = VersionSpec {
        cache: false,
        ..spec()
    };
    for (cache_bytes, spec) in [(1 << 20, off), (0, spec())] {
        let table = table(cache_bytes);
        let handle = follow(&table, &catalog(&spec, 1));
        for _ in 0..2 {
            assert_eq!(predict(&handle).await, Ok(one()));
        }
        let (mut first, mut second) = (Box::pin(ask(&handle)), Box::pin(ask(&handle)));
        assert_eq!((&mut first).now_or_never(), None);
        assert_eq!((&mut second).now_or_never(), None);
        assert_eq!(handle.queue.len(), 2);
    }
}

#[tokio::test(start_paused = true)]
async fn a_version_registered_anew_knows_nothing_of_the_one_before() {
    let table = table(1 << 20);
    let old = follow(&table, &catalog(&spec(), 1));
    assert_eq!(predict(&old).await, Ok(one()));
    let other = Input::doubles(&[2.0]);
    let deadline = old.clock.now() + Duration::from_secs(1);
    let mut late = Box::pin(old.predict(other.clone(), asked(deadline)));
    assert!((&mut late).now_or_never().is_none());
    let task = take_one(&old);

    let new = follow(&table, &catalog(&spec(), 2));
    task.answer(Ok(Output::new("two, of the old one")));
    assert_eq!(late.await.prediction, Ok(Output::new("two, of the old one")));
    for input in [input(), other] {
        new.replicas.store(1, Ordering::Relaxed);
        let mut asking = Box::pin(new.predict(input, asked(deadline)));
        assert!((&mut asking).now_or_never().is_none());
        take_one(&new).answer(Err(Failure::model_error("another model")));
        assert_eq!(
            asking.await.prediction,
            Err(Failure::model_error("another model"))
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_version_keeps_its_cache_while_another_is_the_current_one() {
    let table = table(1 << 20);
    let first = catalog(&spec(), 1);
    assert_eq!(predict(&follow(&table, &first)).await, Ok(one()));
    let mut model = Model::clone(&first.models[&id().name]);
    let second: ModelVersion = "2".parse().unwrap();
    model
        .versions
        .insert(second.clone(), model.versions[&id().version].clone());
    model.current_version = second;
    let switched = first.with(&[Change::put(model)], Generation::default());
    follow(&table, &switched);
    assert_eq!(ask(&follow(&table, &first)).now_or_never(), Some(Ok(one())));
}

#[tokio::test(start_paused = true)]
async fn the_metrics_show_what_a_cache_holds_until_its_version_is_deleted() {
    let table = table(1 << 20);
    let handle = follow(&table, &catalog(&spec(), 1));
    assert_eq!(predict(&handle).await, Ok(one()));
    table.refresh_gauges();
    let page = table.metrics.render(Format::Text);
    let sample = |name: &str| {
        let line = format!("skysail_cache_{name}{{model=\"model\",version=\"1\"}} ");
        let value = page.lines().find_map(|found| found.strip_prefix(&line));
        value
            .unwrap_or_else(|| panic!("{name} is not in {page}"))
            .to_owned()
    };
    assert_eq!(sample("entries"), "1");
    assert!(sample("bytes").parse::<u64>().unwrap() > 8 + 3);
    assert_eq!(sample("misses_total"), "1");
    let (_, gone) = table.follow(&Catalog::default());
    table.close(gone);
    assert!(!table.metrics.render(Format::Text).contains("cache_entries{"));
}

fn tensors(input: &str, output: &str) -> Signature {
    let parse = |text: &str| text.parse::<TensorSpec>().unwrap();
    Signature::tensors([parse(input)], [parse(output)]).unwrap()
}

fn of(signature: Signature) -> VersionSpec {
    VersionSpec { signature, ..spec() }
}

/// A catalog whose version is of this signature, with an application that sends and expects `sent`.
fn linked(signature: Signature, sent: Signature) -> Catalog {
    let application = Application {
        name: "app".parse().unwrap(),
        signature: sent,
        default_output: String::new(),
        slo_micros: 1,
        weight: skysail_proto::admin::default_weight(),
        linked_models: vec![id().name],
        registered_at: Timestamp::UNIX_EPOCH,
    };
    catalog(&of(signature), 1).with(&[Change::put(application)], Generation::default())
}

/// Lets a container of this signature attach, and leave again.
fn attach(table: &ModelTable, signature: Signature) -> Result<(), String> {
    let registration = Registration {
        model: id(),
        signature,
        annotations: [("classes".to_owned(), "0, 1".to_owned())].into(),
        replica: ReplicaId::new("r").unwrap(),
        token: String::new(),
        hostname: String::new(),
        pid: 1,
        agent: String::new(),
        recent_batches: Vec::new(),
    };
    let entered = table.enter(registration, None);
    entered.map(drop).map_err(|refusal| refusal.reason)
}

#[test]
fn the_first_replica_tells_what_a_version_takes_and_the_next_are_held_to_it() {
    let table = table(0);
    let handle = follow(&table, &catalog(&of(Signature::undeclared()), 1));
    for (signature, words) in [
        (InputType::Doubles.into(), "takes tensors, the container doubles"),
        (Signature::undeclared(), "SKYSAIL_SIGNATURE"),
    ] {
        let refused = attach(&table, signature).unwrap_err();
        assert!(refused.contains(words), "{refused}");
    }
    assert_eq!(table.learned(), []);
    assert!(!handle.signature().is_declared());

    let told = tensors("x:FP32[4]", "p:FP32[3]");
    attach(&table, told.clone()).unwrap();
    assert_eq!(handle.signature(), &told);
    let learned = table.learned();
    assert_eq!((learned.len(), &learned[0].signature), (1, &told));
    assert_eq!(learned[0].annotations["classes"], "0, 1");
    let refused = attach(&table, tensors("x:FP32[5]", "p:FP32[3]")).unwrap_err();
    for part in ["x:FP32[4] -> p:FP32[3]", "x:FP32[5] -> p:FP32[3]"] {
        assert!(refused.contains(part), "{refused}");
    }

    // Once it is written down the handle stays, and nothing is announced any more.
    let declared = follow(&table, &catalog(&of(told.clone()), 1));
    assert!(Arc::ptr_eq(&declared, &handle));
    assert_eq!(table.learned(), []);
    // If another frontend learned something else first, this one's replicas must go.
    let other = follow(&table, &catalog(&of(tensors("x:FP32[5]", "p:FP32[3]")), 1));
    assert!(!Arc::ptr_eq(&other, &handle));
    assert!(attach(&table, told).unwrap_err().contains("x:FP32[5]"));
}

#[test]
fn a_version_that_no_replica_has_told_of_goes_by_the_catalog() {
    let table = table(0);
    let handle = follow(&table, &catalog(&of(Signature::undeclared()), 1));
    let told = tensors("x:FP32[4]", "p:FP32[3]").without_batch_dimension();
    assert!(Arc::ptr_eq(
        &handle,
        &follow(&table, &catalog(&of(told.clone()), 1))
    ));
    assert_eq!(handle.signature(), &told);
    assert_eq!(handle.most_inputs().get(), 1);
}

#[test]
fn a_replica_that_would_not_answer_the_linked_applications_is_refused() {
    let table = table(0);
    let sent = tensors("x:FP32[4]", "p:FP32[3]");
    follow(&table, &linked(Signature::undeclared(), sent));
    let refused = attach(&table, tensors("x:FP32[5]", "p:FP32[3]")).unwrap_err();
    assert!(
        refused.contains("application app") && refused.contains("the model takes x:FP32[5]"),
        "{refused}"
    );
    assert_eq!(table.learned(), []);
    attach(&table, tensors("x:FP32[-1]", "p:FP32[3]")).unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_same_bytes_in_another_shape_are_another_input() {
    let table = table(1 << 20);
    let signature = tensors("x:INT8[-1,-1]", "p:INT8");
    let handle = follow(&table, &catalog(&of(signature.clone()), 1));
    handle.replicas.store(1, Ordering::Relaxed);
    let input = |json: &[u64]| {
        let tensor = Tensor::new(Datatype::Int8, json, vec![1, 2, 3, 4]).unwrap();
        Input::tensors([tensor])
    };
    let asking = async |shape: &[u64]| {
        let deadline = handle.clock.now() + Duration::from_secs(1);
        handle.predict(input(shape), asked(deadline)).await.prediction
    };
    let mut first = Box::pin(asking(&[2, 2]));
    assert!((&mut first).now_or_never().is_none());
    take_one(&handle).answer(Ok(one()));
    assert_eq!(first.await, Ok(one()));
    assert_eq!(asking(&[2, 2]).now_or_never(), Some(Ok(one())));
    for other in [[4, 1], [1, 4]] {
        assert_eq!(Box::pin(asking(&other)).now_or_never(), None);
    }
}

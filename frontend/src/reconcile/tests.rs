//! The whole loop, with a runtime and views that the tests control.

use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use futures::stream::{self, BoxStream, StreamExt};
use skysail_core::catalog::{Change, Model, Secret, Settings};
use skysail_core::cluster::{FrontendView, ReplicaView};
use tokio::sync::Notify;

use super::*;
use crate::runtime::{ContainerState, ContainerStatus, Progress, ReplicaSpec, Resolution, RuntimeError};
use crate::store::CatalogStore;
use crate::store::embedded::EmbeddedStore;

/// A runtime of lists, in which nothing happens by itself.
#[derive(Default)]
struct FakeRuntime {
    away: AtomicBool,
    containers: Mutex<Vec<ContainerStatus>>,
    changes: Arc<Notify>,
    /// All commands of the reconciler to this runtime.
    done: watch::Sender<Vec<String>>,
}

impl FakeRuntime {
    fn answers(&self) -> Result<(), RuntimeError> {
        if self.away.load(Ordering::Relaxed) {
            return Err(RuntimeError::Unavailable("it is away".into()));
        }
        Ok(())
    }

    fn set_away(&self, away: bool) {
        self.away.store(away, Ordering::Relaxed);
        self.changes.notify_one();
    }

    fn start_of(&self, container: &str) -> String {
        let containers = self.containers.lock();
        let found = containers.iter().find(|found| found.container == container);
        found.expect("it is there").start.clone()
    }

    /// Waits until the reconciler gave this command.
    async fn has_done(&self, what: &str) {
        let mut done = self.done.subscribe();
        let found = done.wait_for(|done| done.iter().any(|step| step == what));
        drop(within(found).await.expect("it is there"));
    }
}

#[async_trait]
impl ContainerRuntime for FakeRuntime {
    async fn resolve(&self, spec: &ReplicaSpec, _progress: &Progress) -> Result<Resolution, RuntimeError> {
        self.answers()?;
        Ok(Resolution {
            image_id: Some(format!("id of {}", spec.image)),
            ..Resolution::default()
        })
    }

    async fn moved_on(&self, _spec: &ReplicaSpec) -> Result<Option<String>, RuntimeError> {
        Ok(None)
    }

    async fn start(&self, spec: &ReplicaSpec, _progress: &Progress) -> Result<(), RuntimeError> {
        self.answers()?;
        assert_eq!(spec.image_id.as_deref(), Some("id of i"), "it is resolved first");
        self.containers.lock().push(ContainerStatus {
            container: spec.container.clone(),
            replica: spec.replica.clone(),
            model: spec.model.clone(),
            spec_digest: spec.digest.clone(),
            incarnation: Some(spec.incarnation.clone()),
            start: spec.start.clone(),
            state: ContainerState::Running,
            pid: None,
        });
        self.done
            .send_modify(|done| done.push(format!("start {}", spec.container)));
        Ok(())
    }

    async fn stop(&self, container: &str, grace: Duration) -> Result<(), RuntimeError> {
        self.answers()?;
        self.containers
            .lock()
            .retain(|found| found.container != container);
        self.done
            .send_modify(|done| done.push(format!("stop {container} {}s", grace.as_secs())));
        Ok(())
    }

    async fn list(&self) -> Result<Vec<ContainerStatus>, RuntimeError> {
        self.answers()?;
        Ok(self.containers.lock().clone())
    }

    async fn logs(
        &self,
        _container: &str,
        _tail: usize,
        _follow: bool,
    ) -> Result<BoxStream<'static, String>, RuntimeError> {
        Ok(stream::iter(["the last line".to_owned()]).boxed())
    }

    async fn shutdown(&self, _grace: Duration, _is_last: bool) -> Result<(), RuntimeError> {
        Ok(())
    }

    fn changes(&self) -> Arc<Notify> {
        self.changes.clone()
    }
}

/// A running reconciler and its inputs.
struct Bench {
    runtime: Arc<FakeRuntime>,
    store: Arc<EmbeddedStore>,
    views: watch::Sender<Arc<ClusterView>>,
    leadership: Arc<Leadership>,
    report: Arc<Report>,
    shutdown: CancellationToken,
    _folder: tempfile::TempDir,
}

impl Bench {
    /// With one live query frontend and no attached replica. No frontend acts yet.
    fn new(runtime: FakeRuntime) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Arc::new(EmbeddedStore::open(folder.path().join("metadata.redb")).unwrap());
        let bench = Self {
            runtime: Arc::new(runtime),
            views: watch::Sender::new(Arc::new(ClusterView::of([view(vec![])]))),
            leadership: Arc::new(Leadership::new(store.clone(), "f".into())),
            report: Arc::default(),
            shutdown: CancellationToken::new(),
            store,
            _folder: folder,
        };
        let reconciler = Reconciler::new(Parts {
            runtime: bench.runtime.clone(),
            store: bench.store.clone(),
            views: bench.views.subscribe(),
            leadership: bench.leadership.clone(),
            cluster: "test".parse().unwrap(),
            patience: Patience::default(),
            clock: Clock::start(),
            stop_grace: Duration::from_secs(10),
            report: bench.report.clone(),
        });
        tokio::spawn(reconciler.run(bench.shutdown.clone()));
        bench
    }

    fn act(&self) {
        tokio::spawn(self.leadership.clone().run(self.shutdown.clone()));
    }

    async fn deploy(&self, replicas: u32) {
        let model = format!(
            r#"{{"name": "m", "current_version": "1", "versions": {{"1": {{"input_type": "doubles",
                 "registered_at": "1970-01-01T00:00:00Z", "deployment": {{"image": "i", "replicas": {replicas}}}}}}}}}"#
        );
        let model: Model = serde_json::from_str(&model).unwrap();
        let catalog = self.store.watch().borrow().clone().unwrap();
        let settings = Settings {
            container_key: Some(Secret::new([7; Secret::BYTES])),
            ..Settings::default()
        };
        let put = vec![Change::put(model), Change::put(settings)];
        self.store.commit(put, &catalog.generation).await.unwrap();
    }

    /// Attaches the replicas of all running containers except `absent` to the query frontend.
    fn attach_all_but(&self, absent: &[&str], hung: Vec<String>) {
        let containers = self.runtime.containers.lock();
        let present = containers
            .iter()
            .filter(|found| !absent.contains(&found.container.as_str()));
        let view = FrontendView {
            hung,
            ..view(present.map(attached).collect())
        };
        self.views.send_replace(Arc::new(ClusterView::of([view])));
    }

    /// Waits until the report satisfies `wanted`.
    async fn reports(&self, wanted: impl Fn(&Report) -> bool) {
        within(async {
            while !wanted(&self.report) {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

fn view(replicas: Vec<ReplicaView>) -> FrontendView {
    FrontendView {
        id: "f".into(),
        rpc_addr: Some("127.0.0.1:7000".into()),
        replicas,
        ..FrontendView::default()
    }
}

fn attached(container: &ContainerStatus) -> ReplicaView {
    let view = serde_json::json!({
        "replica": container.replica, "model": container.model.to_string(), "start": container.start,
        "hostname": "h", "pid": 1, "attached_at": "1970-01-01T00:00:00Z", "draining": false,
        "in_flight": 0, "batches": 0, "inputs": 0,
    });
    serde_json::from_value(view).unwrap()
}

/// Waits for a future that must complete; panics after a minute.
async fn within<T>(wanted: impl Future<Output = T>) -> T {
    let bound = Duration::from_secs(60);
    tokio::time::timeout(bound, wanted)
        .await
        .expect("it comes in time")
}

fn model() -> ModelId {
    "m:1".parse().unwrap()
}

#[tokio::test]
async fn a_frontend_that_does_not_act_observes_and_goes_on_once_it_does() {
    let bench = Bench::new(FakeRuntime::default());
    bench.deploy(1).await;
    bench.runtime.containers.lock().push(foreign());
    bench.runtime.changes.notify_one();
    bench
        .reports(|report| report.containers(&foreign().model).len() == 1)
        .await;
    assert!(!bench.report.acting());
    assert!(bench.runtime.done.borrow().is_empty());

    bench.act();
    bench.runtime.has_done("start test_m_1_0").await;
    bench.runtime.has_done("stop test_gone_1_0 10s").await;
    bench.reports(Report::acting).await;
}

/// A container of this cluster that no catalog wants.
fn foreign() -> ContainerStatus {
    let model: ModelId = "gone:1".parse().unwrap();
    ContainerStatus {
        container: "test_gone_1_0".into(),
        replica: skysail_proto::ids::ReplicaId::of(&model, 0),
        model,
        spec_digest: String::new(),
        incarnation: None,
        start: String::new(),
        state: ContainerState::Running,
        pid: None,
    }
}

#[tokio::test]
async fn a_container_that_hangs_is_stopped_with_a_short_grace_and_replaced() {
    let bench = Bench::new(FakeRuntime::default());
    bench.act();
    bench.deploy(2).await;
    bench.runtime.has_done("start test_m_1_0").await;
    bench.runtime.has_done("start test_m_1_1").await;
    bench.attach_all_but(&[], vec![]);

    let start = bench.runtime.start_of("test_m_1_1");
    assert_ne!(start, bench.runtime.start_of("test_m_1_0"));
    bench.attach_all_but(&["test_m_1_1"], vec![start]);
    bench.runtime.has_done("stop test_m_1_1 1s").await;
    bench.runtime.has_done("start test_m_1_2").await;
    let failure = bench.report.version(&model()).last_failure.expect("a failure");
    assert!(failure.reason.starts_with("it hung"), "{failure:?}");
    assert_eq!(failure.log, ["the last line"]);

    // The replacement is another start, and stays.
    bench.attach_all_but(&[], vec![]);
    bench.reports(|report| !report.version(&model()).failing).await;
    assert_eq!(bench.runtime.done.borrow().len(), 4);
}

#[tokio::test]
async fn a_runtime_that_goes_away_is_told_of_and_used_again_when_it_is_back() {
    let bench = Bench::new(FakeRuntime::default());
    bench.act();
    bench.deploy(1).await;
    bench.runtime.has_done("start test_m_1_0").await;
    bench.attach_all_but(&[], vec![]);
    bench.runtime.set_away(true);
    bench.reports(|report| report.runtime_error().is_some()).await;

    // The catalog change is carried out afterwards.
    bench.deploy(2).await;
    bench.runtime.set_away(false);
    bench.runtime.has_done("start test_m_1_1").await;
    assert_eq!(bench.report.runtime_error(), None);
}

#[tokio::test]
async fn a_store_that_was_never_written_stops_nothing_and_a_person_is_asked() {
    let runtime = FakeRuntime::default();
    runtime.containers.lock().push(foreign());
    let bench = Bench::new(runtime);
    bench.act();
    bench
        .reports(|report| report.acting() && !report.problems().is_empty())
        .await;
    let problems = bench.report.problems();
    assert!(problems[0].contains("skysail cluster restore"), "{problems:?}");
    assert!(bench.runtime.done.borrow().is_empty());

    // Once the store was written, the catalog is trusted.
    bench.deploy(0).await;
    bench.runtime.has_done("stop test_gone_1_0 10s").await;
    assert!(bench.report.problems().is_empty());
}

#[tokio::test]
async fn containers_of_another_store_are_told_of_and_left_until_they_are_adopted() {
    let runtime = FakeRuntime::default();
    let of_another = |mut found: ContainerStatus| {
        found.incarnation = Some("another".into());
        found
    };
    let taken = of_another(ContainerStatus {
        container: "test_m_1_0".into(),
        replica: skysail_proto::ids::ReplicaId::of(&model(), 0),
        model: model(),
        ..foreign()
    });
    runtime.containers.lock().extend([of_another(foreign()), taken]);
    let bench = Bench::new(runtime);
    bench.act();
    bench.deploy(1).await;
    bench.runtime.has_done("start test_m_1_1").await;
    let problems = bench.report.problems();
    assert!(
        problems[0].contains("test_gone_1_0, test_m_1_0") && problems[0].contains("cluster adopt"),
        "{problems:?}"
    );
    assert_eq!(bench.report.containers(&foreign().model), []);
    assert_eq!(*bench.runtime.done.borrow(), ["start test_m_1_1"]);

    bench.store.adopt(["another".to_owned()].into()).await.unwrap();
    bench.runtime.has_done("stop test_gone_1_0 10s").await;
    bench.runtime.has_done("stop test_m_1_0 10s").await;
    bench.reports(|report| report.problems().is_empty()).await;
}

#[tokio::test]
async fn without_a_query_frontend_nothing_is_started_and_the_report_says_so() {
    let bench = Bench::new(FakeRuntime::default());
    bench.act();
    bench.views.send_replace(Arc::default());
    bench.deploy(1).await;
    bench.reports(|report| !report.problems().is_empty()).await;
    assert!(bench.runtime.done.borrow().is_empty());

    bench.attach_all_but(&[], vec![]);
    bench.runtime.has_done("start test_m_1_0").await;
    assert!(bench.report.problems().is_empty());
}

#[test]
fn a_version_scaled_by_a_person_is_asked_for_anew_and_one_that_follows_its_load_is_not() {
    let catalog = |replicas: u32, autoscale: &str| {
        let model = format!(
            r#"{{"name": "m", "current_version": "1", "versions": {{"1": {{"input_type": "doubles",
                 "registered_at": "1970-01-01T00:00:00Z",
                 "deployment": {{"image": "i", "replicas": {replicas}{autoscale}}}}}}}}}"#
        );
        let put = Change::put(serde_json::from_str::<Model>(&model).unwrap());
        Catalog::default().with(&[put], skysail_core::catalog::Generation::default())
    };
    let auto = r#", "autoscale": {"min": 1, "max": 4}"#;
    assert_eq!(asked_for_anew(&catalog(1, ""), &catalog(2, "")), [model()]);
    assert_eq!(asked_for_anew(&catalog(1, ""), &catalog(1, "")), []);
    assert_eq!(asked_for_anew(&catalog(1, auto), &catalog(2, auto)), []);
}

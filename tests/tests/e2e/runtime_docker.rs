//! The Docker runtime keeps what runtimes promise, against the engine that is there.
//!
//! The image of the test container is made here: the binary and the libraries it is linked with, from
//! scratch. Each check has clusters of its own, and whatever carries their labels is removed after it,
//! also if it failed.

use std::collections::HashMap;
use std::env;
use std::panic::{AssertUnwindSafe, resume_unwind};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bollard::Docker;
use bollard::models::{ContainerInspectResponse, NetworkCreateRequest};
use bollard::query_parameters::{
    InspectContainerOptions, KillContainerOptionsBuilder, ListContainersOptionsBuilder,
    ListNetworksOptionsBuilder, RemoveContainerOptionsBuilder,
};
use futures::FutureExt;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use skysail_frontend::runtime::conformance::{PROMISES, Promise, Subject};
use skysail_frontend::runtime::docker::DockerRuntime;
use skysail_frontend::runtime::{ContainerRuntime, ContainerState, ReplicaSpec, RuntimeError};
use skysail_process::variables;
use skysail_proto::ids::ClusterName;
use skysail_proto::labels;
use skysail_tests::suite::{Need, Suite};
use skysail_tests::test_image::{self, TestImage, import, packed};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::OnceCell;
use tokio::task::JoinSet;
use tokio_util::task::AbortOnDropHandle;

/// Made by the first test that wants it.
static IMAGE: OnceCell<Mutex<Option<TestImage>>> = OnceCell::const_new();

/// Removes the image of the test container, if one was made.
pub(crate) fn clean_up() {
    if let Some(image) = IMAGE.get() {
        drop(image.lock().take());
    }
}

async fn image() -> String {
    let made = IMAGE
        .get_or_init(async || Mutex::new(Some(TestImage::make().await)))
        .await;
    let made = made.lock();
    made.as_ref()
        .expect("no test runs after the end")
        .name()
        .to_owned()
}

/// With what every runtime promises, and what only this one does.
pub(crate) fn keeps_promises(suite: Suite) -> Suite {
    let promises = PROMISES.iter().fold(suite, |suite, promise| {
        test(suite, promise.name, |bench| Box::pin(keeps(*promise, bench)))
    });
    OWN.iter()
        .fold(promises, |suite, (name, check)| test(suite, name, *check))
}

fn test(
    suite: Suite,
    name: &str,
    check: impl FnOnce(Bench) -> BoxFuture<'static, ()> + Send + 'static,
) -> Suite {
    let name = format!("runtime_docker::{name}");
    suite.test(name, &[Need::Docker], || with_bench(check))
}

type Check = fn(Bench) -> BoxFuture<'static, ()>;

macro_rules! checks {
    ($($name:ident)*) => {
        &[$((stringify!($name), |bench| Box::pin($name(bench)))),*]
    };
}

/// What only this runtime promises.
const OWN: &[(&str, Check)] = checks! {
    an_engine_that_comes_late_or_goes_away_is_used_when_it_is_there
    containers_carry_labels_limits_and_a_bounded_log
    a_container_killed_from_outside_is_noticed_and_told_in_words
    a_container_out_of_memory_says_so
    two_runtimes_that_start_one_container_at_once_start_one
    gpus_that_are_not_there_are_refused_with_what_to_do
    an_image_that_holds_no_program_says_so
    an_image_without_a_name_is_refused
    a_runtime_that_starts_anew_finds_what_runs
    the_gateway_is_an_address_of_this_host
    frontends_that_start_together_share_one_network
    a_second_network_of_the_name_that_nobody_removed_keeps_no_container_from_starting
    a_container_of_another_store_keeps_its_name
    a_container_of_nobodys_under_our_name_is_left_alone
};

/// A subject with what only this runtime has.
struct Bench {
    subject: Subject,
    docker: Docker,
    runtime: Arc<DockerRuntime>,
    cluster: ClusterName,
}

/// A runtime that follows the engine's events.
fn runtime_for(cluster: ClusterName) -> DockerRuntime {
    let host = variables::read("DOCKER_HOST");
    let (runtime, events) = DockerRuntime::connect(host.as_deref(), cluster);
    tokio::spawn(events);
    runtime
}

/// Runs a check in clusters of its own, and removes all that carries their labels, whatever happened.
async fn with_bench(check: impl FnOnce(Bench) -> BoxFuture<'static, ()>) {
    let image = image().await;
    let docker = Docker::connect_with_defaults().expect("docker");
    let unique = format!("test-{:08x}", fastrand::u32(..));
    let clusters = [unique.clone(), format!("{unique}-next")];
    let [cluster, next] = clusters
        .each_ref()
        .map(|name| ClusterName::new(name).expect("a good name"));
    let runtime = Arc::new(runtime_for(cluster.clone()));
    let subject = Subject {
        runtime: runtime.clone(),
        neighbour: Arc::new(runtime_for(next)),
        image: image.clone(),
        // Nobody listens at port 1.
        missing_image: "localhost:1/skysail/missing:1".into(),
        prefix: format!("{unique}_"),
    };
    let bench = Bench {
        subject,
        docker: docker.clone(),
        runtime,
        cluster,
    };
    let result = AssertUnwindSafe(check(bench)).catch_unwind().await;
    for cluster in clusters {
        remove_cluster(&docker, &cluster).await;
    }
    if let Err(panic) = result {
        resume_unwind(panic);
    }
}

async fn keeps(promise: Promise, bench: Bench) {
    promise.check(&bench.subject).await;
}

async fn an_engine_that_comes_late_or_goes_away_is_used_when_it_is_there(bench: Bench) {
    let folder = tempfile::tempdir().expect("a folder");
    let socket = folder.path().join("docker.sock");
    let host = format!("unix://{}", socket.display());
    let (runtime, events) = DockerRuntime::connect(Some(&host), bench.cluster.clone());
    tokio::spawn(events);
    let error = runtime.list().await.expect_err("not there yet");
    assert!(matches!(error, RuntimeError::Unavailable(_)), "{error:?}");

    let spec = bench.subject.start("one", "wait").await;
    for _ in 0..2 {
        let engine = relay(&socket);
        // Being connected is a reason to look, whatever happened meanwhile.
        tokio::time::timeout(Duration::from_secs(60), runtime.changes().notified())
            .await
            .expect("notified");
        assert_eq!(runtime.list().await.expect("listed").len(), 1);
        drop(engine);
        std::fs::remove_file(&socket).expect("the socket goes with its engine");
        let error = runtime.list().await.expect_err("gone");
        assert!(matches!(error, RuntimeError::Unavailable(_)), "{error:?}");
    }
    bench
        .runtime
        .stop(&spec.container, Duration::ZERO)
        .await
        .expect("stopped");
}

/// Plays the engine at `socket` until it is dropped, and all its connections with it.
fn relay(socket: &Path) -> AbortOnDropHandle<()> {
    let listener = UnixListener::bind(socket).expect("the socket is free");
    let host = env::var("DOCKER_HOST").unwrap_or_default();
    let real = host
        .strip_prefix("unix://")
        .unwrap_or("/var/run/docker.sock")
        .to_owned();
    AbortOnDropHandle::new(tokio::spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((mut client, _)) = listener.accept().await {
            let real = real.clone();
            connections.spawn(async move {
                let mut engine = UnixStream::connect(real).await.expect("the engine");
                let _ = tokio::io::copy_bidirectional(&mut client, &mut engine).await;
            });
        }
    }))
}

async fn containers_carry_labels_limits_and_a_bounded_log(bench: Bench) {
    let spec = ReplicaSpec {
        cpus: Some(0.5),
        memory_bytes: Some(64 << 20),
        ..bench.subject.spec("one", "wait")
    };
    bench.subject.start_spec(&spec).await.expect("started");
    let found = bench.inspect(&spec).await;
    let labels = found.config.and_then(|config| config.labels).expect("labels");
    let expected = [
        (labels::CLUSTER, bench.cluster.as_str()),
        (labels::ROLE, labels::ROLE_REPLICA),
        (labels::MODEL, "test-model"),
        (labels::VERSION, "1.0-RC1"),
        (labels::REPLICA, "test-model_1.0-RC1_0"),
        (labels::SPEC, spec.digest.as_str()),
        (labels::START, spec.start.as_str()),
    ];
    for (name, value) in expected {
        assert_eq!(labels.get(name).map(String::as_str), Some(value), "{name}");
    }
    let host = found.host_config.expect("a host configuration");
    assert_eq!((host.nano_cpus, host.memory), (Some(500_000_000), Some(64 << 20)));
    let log = host.log_config.and_then(|log| log.config).expect("log options");
    assert!(log.contains_key("max-size"), "{log:?}");
    let networks = found
        .network_settings
        .and_then(|settings| settings.networks)
        .expect("networks");
    let addresses: Vec<_> = networks
        .values()
        .filter_map(|network| network.ip_address.as_deref())
        .collect();
    assert!(
        matches!(addresses[..], [address] if !address.is_empty()),
        "{networks:?}"
    );
}

async fn a_container_killed_from_outside_is_noticed_and_told_in_words(bench: Bench) {
    let spec = bench.subject.start("one", "wait").await;
    let kill = KillContainerOptionsBuilder::new().signal("SIGKILL").build();
    bench
        .docker
        .kill_container(&spec.container, Some(kill))
        .await
        .expect("killed");
    let expected = ContainerState::Exited {
        code: 137,
        detail: Some("killed by signal 9 (SIGKILL)".into()),
    };
    assert_eq!(bench.subject.ended(&spec).await, expected);
}

async fn a_container_out_of_memory_says_so(bench: Bench) {
    let spec = ReplicaSpec {
        memory_bytes: Some(16 << 20),
        ..bench.subject.spec("one", "fill 64\nwait")
    };
    bench.subject.start_spec(&spec).await.expect("started");
    let ended = bench.subject.ended(&spec).await;
    let ContainerState::Exited {
        code: 137,
        detail: Some(detail),
    } = ended
    else {
        panic!("{ended:?}")
    };
    // Engine 20.10 may learn of the reason long after the end.
    let unexplained = "killed by signal 9 (SIGKILL), probably out of memory (its limit is 16 MiB)";
    assert!(
        ["killed: out of memory", unexplained].contains(&&*detail),
        "{detail}"
    );
}

async fn two_runtimes_that_start_one_container_at_once_start_one(bench: Bench) {
    let spec = bench.subject.spec("one", "print started\nwait");
    let other = runtime_for(bench.cluster.clone());
    let theirs = ReplicaSpec {
        start: "the-other".into(),
        ..spec.clone()
    };
    for _ in 0..5 {
        let (first, second) =
            futures::join!(bench.runtime.start(&spec, &|_| ()), other.start(&theirs, &|_| ()));
        first.expect("a name that is taken is no error");
        second.expect("a name that is taken is no error");
        bench.subject.line(&spec, "started").await;
        assert_eq!(bench.runtime.list().await.expect("listed").len(), 1);
        let stopped = bench.runtime.stop(&spec.container, Duration::ZERO).await;
        stopped.expect("stopped");
    }
}

async fn gpus_that_are_not_there_are_refused_with_what_to_do(bench: Bench) {
    let spec = ReplicaSpec {
        gpus: Some(1),
        ..bench.subject.spec("one", "wait")
    };
    match bench.subject.start_spec(&spec).await {
        // This machine has some.
        Ok(()) => {
            let host = bench
                .inspect(&spec)
                .await
                .host_config
                .expect("a host configuration");
            let asked = host.device_requests.expect("device requests");
            assert_eq!((asked.len(), asked[0].count), (1, Some(1)));
        }
        Err(error) => {
            assert!(matches!(error, RuntimeError::Image(_)), "{error:?}");
            assert!(error.to_string().contains("--gpus"), "{error}");
            assert_eq!(bench.subject.status(&spec).await, None);
        }
    }
}

async fn an_image_that_holds_no_program_says_so(bench: Bench) {
    let image = format!("{}:empty", bench.cluster);
    import(&image, "/nothing-here", packed(&[Path::new("/etc/hostname")])).await;
    let spec = ReplicaSpec {
        image: image.clone(),
        ..bench.subject.spec("one", "wait")
    };
    let error = bench.subject.start_spec(&spec).await.expect_err("refused");
    test_image::remove(&image).await;
    let said = error.to_string();
    assert!(matches!(error, RuntimeError::Image(_)), "{error:?}");
    assert!(said.contains(&image) && said.contains("/nothing-here"), "{said}");
    assert_eq!(
        bench.subject.status(&spec).await,
        None,
        "what could not be started is not left"
    );
}

async fn an_image_without_a_name_is_refused(bench: Bench) {
    for image in ["", "../containers", "Not An Image", "Upper/Case:1"] {
        let spec = ReplicaSpec {
            image: image.into(),
            ..bench.subject.spec("one", "wait")
        };
        let error = bench.subject.start_spec(&spec).await.expect_err("refused");
        assert!(matches!(error, RuntimeError::Image(_)), "{image}: {error:?}");
    }
}

async fn a_runtime_that_starts_anew_finds_what_runs(bench: Bench) {
    let spec = bench.subject.start("one", "wait").await;
    let anew = runtime_for(bench.cluster.clone());
    assert_eq!(
        anew.list().await.expect("listed"),
        bench.runtime.list().await.expect("listed")
    );
    anew.start(&spec, &|_| ()).await.expect("runs already");
    anew.stop(&spec.container, Duration::ZERO).await.expect("stopped");
    assert!(bench.runtime.list().await.expect("listed").is_empty());
}

async fn the_gateway_is_an_address_of_this_host(bench: Bench) {
    let gateway = bench.runtime.gateway().await.expect("a network");
    let gateway = gateway.expect("a gateway");
    tokio::net::TcpListener::bind((gateway, 0))
        .await
        .expect("an address of this host");
    assert_eq!(bench.runtime.gateway().await.expect("the same"), Some(gateway));
}

async fn frontends_that_start_together_share_one_network(bench: Bench) {
    let frontends: Vec<_> = (0..4).map(|_| runtime_for(bench.cluster.clone())).collect();
    let gateways = futures::future::join_all(frontends.iter().map(|frontend| frontend.gateway())).await;
    let first = gateways[0].clone().expect("a gateway");
    assert!(
        gateways
            .iter()
            .all(|gateway| gateway.as_ref().ok() == Some(&first)),
        "{gateways:?}"
    );
    assert_eq!(networks_of(&bench.docker, bench.cluster.as_str()).await.len(), 1);
}

async fn a_second_network_of_the_name_that_nobody_removed_keeps_no_container_from_starting(bench: Bench) {
    // As two frontends that start at once make them, of which one ends before it could remove its own.
    let name = labels::network_name(&bench.cluster);
    for _ in 0..2 {
        let request = NetworkCreateRequest {
            name: name.clone(),
            labels: Some([(labels::CLUSTER.to_owned(), bench.cluster.to_string())].into()),
            ..NetworkCreateRequest::default()
        };
        // An engine that takes no second one has nothing to get wrong.
        let _ = bench.docker.create_network(request).await;
    }
    let spec = bench.subject.start("one", "print started\nwait").await;
    bench.subject.line(&spec, "started").await;
    assert_eq!(networks_of(&bench.docker, bench.cluster.as_str()).await.len(), 1);
}

async fn a_container_of_another_store_keeps_its_name(bench: Bench) {
    for script in ["wait", "exit 0"] {
        let theirs = ReplicaSpec {
            incarnation: "another-store".into(),
            ..bench
                .subject
                .spec(script.split(' ').next().unwrap_or_default(), script)
        };
        bench.subject.start_spec(&theirs).await.expect("started");
        if script != "wait" {
            bench.subject.ended(&theirs).await;
        }
        let ours = ReplicaSpec {
            incarnation: "this-store".into(),
            ..theirs.clone()
        };
        let refused = bench.subject.start_spec(&ours).await.expect_err("refused");
        assert!(matches!(refused, RuntimeError::NameTaken(_)), "{refused:?}");
        let said = refused.to_string();
        assert!(said.contains("another metadata store"), "{said}");
        let found = bench.subject.status(&theirs).await.expect("it is still there");
        assert_eq!(found.incarnation.as_deref(), Some("another-store"));
    }
}

async fn a_container_of_nobodys_under_our_name_is_left_alone(bench: Bench) {
    let spec = bench.subject.spec("one", "wait");
    bench
        .subject
        .neighbour
        .start(&spec, &|_| ())
        .await
        .expect("started");
    for result in [
        bench.subject.start_spec(&spec).await,
        bench.runtime.stop(&spec.container, Duration::ZERO).await,
        bench.runtime.logs(&spec.container, 1, false).await.map(drop),
    ] {
        let said = result.expect_err("refused").to_string();
        assert!(said.contains("will not be touched"), "{said}");
    }
    assert_eq!(
        bench.inspect(&spec).await.state.and_then(|state| state.running),
        Some(true)
    );
}

impl Bench {
    async fn inspect(&self, spec: &ReplicaSpec) -> ContainerInspectResponse {
        let options = None::<InspectContainerOptions>;
        self.docker
            .inspect_container(&spec.container, options)
            .await
            .expect("inspected")
    }
}

async fn remove_cluster(docker: &Docker, cluster: &str) {
    let label = format!("{}={cluster}", labels::CLUSTER);
    let filters = HashMap::from([("label", vec![label])]);
    let all = ListContainersOptionsBuilder::new()
        .all(true)
        .filters(&filters)
        .build();
    for container in docker.list_containers(Some(all)).await.expect("listed") {
        let force = RemoveContainerOptionsBuilder::new().force(true).v(true).build();
        let id = container.id.expect("an id");
        docker
            .remove_container(&id, Some(force))
            .await
            .expect("the container is removed");
    }
    for network in networks_of(docker, cluster).await {
        docker
            .remove_network(&network)
            .await
            .expect("the network is removed");
    }
}

async fn networks_of(docker: &Docker, cluster: &str) -> Vec<String> {
    let label = format!("{}={cluster}", labels::CLUSTER);
    let filters = HashMap::from([("label", vec![label])]);
    let options = ListNetworksOptionsBuilder::new().filters(&filters).build();
    let networks = docker.list_networks(Some(options)).await.expect("listed");
    networks.into_iter().filter_map(|network| network.id).collect()
}

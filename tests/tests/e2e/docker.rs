//! A frontend on the host whose containers run in Docker.

use serde_json::{Value, json};
use skysail_tests::cases;
use skysail_tests::cluster::{Runtime, Settings, TestCluster};
use skysail_tests::deployment::{ByHand, Deployment};
use skysail_tests::docker::{Container, DockerCluster, Holdings, image};
use skysail_tests::skysail::Skysail;
use skysail_tests::wait::{self, PATIENCE};

cases! {
    replicas_carry_their_labels_reach_the_frontend_and_answer: Docker;
    a_killed_container_is_replaced_and_its_end_is_told: Docker;
    a_frontend_that_was_killed_finds_its_containers_again: Docker;
    replicas_are_scaled_stopped_and_leave_nothing: Docker;
    an_image_that_cannot_be_had_is_told_soon: Docker;
    an_image_that_exits_at_once_is_told_with_its_last_lines: Docker;
    an_engine_that_is_not_there_is_told_and_harms_nobody;
    without_an_engine_there_is_no_address_for_containers_and_no_start;
}

/// The irises of the demonstration, and what they are.
const IRISES: [([f64; 4], &str); 3] = [
    ([7.9, 4.4, 6.9, 2.5], "virginica"),
    ([5.84, 3.05, 3.76, 1.2], "versicolor"),
    ([4.3, 2.0, 1.0, 0.1], "setosa"),
];

/// A frontend on the host and what Docker holds of it; the frontend goes first.
struct Hosted {
    frontend: TestCluster,
    docker: DockerCluster,
}

impl Hosted {
    async fn start() -> Self {
        let docker = DockerCluster::new();
        let settings = Settings::default()
            .runtime(Runtime::Docker)
            .cluster(docker.name());
        let frontend = settings.start().await;
        Self { frontend, docker }
    }

    async fn with_iris(replicas: u32) -> Self {
        let hosted = Self::start().await;
        let iris = Deployment::of_image("iris-model", image("iris-svm").await);
        hosted.frontend.serve("iris", &iris.replicas(replicas)).await;
        hosted
    }

    fn skysail(&self) -> Skysail {
        Skysail::at(self.frontend.addresses().admin)
    }

    async fn tells_irises_apart(&self) {
        for (iris, species) in IRISES {
            assert_eq!(self.frontend.predict("iris", json!(iris)).await, species);
        }
    }

    /// Waits until the model's containers are as many as wanted, and all run.
    async fn running(&self, count: usize) -> Vec<Container> {
        wait::find(&format!("{count} running containers"), PATIENCE, async || {
            let containers = self.docker.with_role("replica").await;
            let all_run = containers.iter().all(|container| container.running);
            (all_run && containers.len() == count).then_some(containers)
        })
        .await
    }

    async fn last_failure(&self, model: &str) -> Value {
        wait::find("a failure to be reported", PATIENCE, async || {
            let version = self.frontend.version(model, "1").await;
            Some(version["last_failure"].clone()).filter(Value::is_object)
        })
        .await
    }
}

async fn replicas_carry_their_labels_reach_the_frontend_and_answer() {
    let hosted = Hosted::with_iris(3).await;
    hosted.tells_irises_apart().await;
    let containers = hosted.running(3).await;
    let cluster = hosted.docker.name();
    for (ordinal, container) in containers.iter().enumerate() {
        let replica = format!("iris-model_1_{ordinal}");
        assert!(container.name.starts_with(cluster), "{container:?}");
        for (label, value) in [
            ("ai.skysail.cluster", cluster),
            ("ai.skysail.role", "replica"),
            ("ai.skysail.model", "iris-model"),
            ("ai.skysail.version", "1"),
            ("ai.skysail.replica", &replica),
        ] {
            let found = container.labels.get(label).map(String::as_str);
            assert_eq!(found, Some(value), "{label}");
        }
    }
    // Loopback, where the frontend listens for others, is not where containers can reach it.
    let env = hosted.docker.inspect(&containers[0].id).await.config;
    let env = env.and_then(|config| config.env).unwrap_or_default();
    let frontends = env
        .iter()
        .find_map(|pair| pair.strip_prefix("SKYSAIL_FRONTENDS="));
    let frontends = frontends.expect("a container is told whom to dial");
    assert!(!frontends.starts_with("127."), "{frontends}");
    let port = hosted.frontend.addresses().rpc.port();
    assert!(frontends.ends_with(&format!(":{port}")), "{frontends}");
    for replica in hosted.frontend.replicas("iris-model").await {
        let runs = replica["container"].as_str().expect("a container");
        assert!(
            containers.iter().any(|container| container.name == runs),
            "{replica}"
        );
    }
}

async fn a_killed_container_is_replaced_and_its_end_is_told() {
    let hosted = Hosted::with_iris(2).await;
    let before = hosted.running(2).await;
    hosted.docker.kill(&before[0].name).await;
    let failure = hosted.last_failure("iris-model").await;
    assert_eq!(failure["exit_code"], 137, "{failure}");
    assert_eq!(failure["replica"], "iris-model_1_0", "{failure}");
    assert_eq!(failure["permanent"], false, "{failure}");
    let log = failure["log"].to_string();
    assert!(log.contains("attached to frontend"), "{log}");
    // On a busy machine the other one may lose its stream meanwhile, and be replaced as well.
    wait::until("another container in its place", PATIENCE, async || {
        let now = hosted.running(2).await;
        now.iter().all(|container| container.id != before[0].id)
    })
    .await;
    hosted.frontend.attached("iris-model", 2).await;
    hosted.tells_irises_apart().await;
    let page = hosted.skysail().done("model show iris-model").await;
    assert!(
        page.contains("137") && page.contains("attached to frontend"),
        "{page}"
    );
}

async fn a_frontend_that_was_killed_finds_its_containers_again() {
    let mut hosted = Hosted::with_iris(3).await;
    let before = hosted.running(3).await;
    hosted.frontend.kill();
    hosted.frontend.restart().await;
    hosted.frontend.attached("iris-model", 3).await;
    hosted.tells_irises_apart().await;
    assert_eq!(hosted.running(3).await, before, "the same containers");

    // Asked to end, it leaves them running as well: another frontend may take over.
    let ended = hosted.frontend.terminate().await;
    assert!(ended.success(), "{ended}");
    assert_eq!(hosted.running(3).await, before);
    hosted.frontend.restart().await;
    hosted.frontend.attached("iris-model", 3).await;
    assert_eq!(hosted.running(3).await, before, "the same containers");
}

async fn replicas_are_scaled_stopped_and_leave_nothing() {
    let mut hosted = Hosted::with_iris(1).await;
    let skysail = hosted.skysail();
    skysail.done("model scale iris-model 4 --wait").await;
    hosted.running(4).await;
    skysail.done("model scale iris-model 2 --wait").await;
    // Which two depends on which of them serve at that moment (`core/src/reconcile/plan/tests.rs`), and on a busy
    // machine a stream can be lost for a moment.
    hosted.running(2).await;
    hosted.tells_irises_apart().await;
    skysail.done("model stop iris-model").await;
    hosted.running(0).await;

    // What is left is the network, and it goes with the cluster.
    skysail.done("model scale iris-model 1 --wait").await;
    hosted.frontend.terminate().await;
    let stopped = skysail
        .done(&format!("stop --cluster {}", hosted.docker.name()))
        .await;
    assert!(
        stopped.contains("iris-model_1_0") && stopped.contains("network"),
        "{stopped}"
    );
    assert_eq!(hosted.docker.holdings().await, Holdings::default());
}

async fn an_image_that_cannot_be_had_is_told_soon() {
    let hosted = Hosted::start().await;
    // Nobody listens at port 1, so that the registry refuses as one that lacks the image does: at once.
    let missing = "localhost:1/skysail/missing:1";
    let line = format!("model deploy missing:1 --image {missing} --input-type doubles --replicas 2");
    let error = hosted.skysail().refused(&line).await;
    for part in [
        missing,
        "cannot be pulled",
        "docker pull",
        "skysail model delete missing:1",
    ] {
        assert!(error.contains(part), "{part}: {error}");
    }
    let failure = hosted.last_failure("missing").await;
    assert_eq!(failure["permanent"], true, "{failure}");
    let error = hosted
        .skysail()
        .refused("model deploy path:1 --image /bin/true --input-type doubles")
        .await;
    assert!(error.contains("not the name of a docker image"), "{error}");
    assert_eq!(hosted.docker.containers().await, []);
}

async fn an_image_that_exits_at_once_is_told_with_its_last_lines() {
    let hosted = Hosted::start().await;
    let line = format!(
        "model deploy ends:1 --image {} --input-type doubles --env SYNTHETIC_FIXED_MICROS=soon",
        image("synthetic").await
    );
    let error = hosted.skysail().refused(&line).await;
    for part in [
        "exit code 2",
        "| ",
        "SYNTHETIC_FIXED_MICROS is `soon`",
        "skysail model show ends:1",
    ] {
        assert!(error.contains(part), "{part}: {error}");
    }
}

async fn an_engine_that_is_not_there_is_told_and_harms_nobody() {
    // Where a container finds the frontend is said, because there is no engine to ask.
    let settings = Settings::default()
        .runtime(Runtime::Docker)
        .flag("--rpc-advertise", "localhost:7000")
        .env("DOCKER_HOST", "unix:///no/such/docker.sock");
    let frontend = settings.start().await;
    let skysail = Skysail::at(frontend.addresses().admin);
    wait::until("the engine to be missed", PATIENCE, async || {
        skysail.done("status").await.contains("/no/such/docker.sock")
    })
    .await;
    frontend.register_model("by-hand", "doubles").await;
    frontend.register("iris", "doubles", "-1.0", PATIENCE).await;
    frontend.link("iris", "by-hand").await;
    let container = ByHand::of("iris-svm", "by-hand", "mine");
    let _container = frontend.by_hand(&container);
    frontend.attached("by-hand", 1).await;
    assert_eq!(frontend.predict("iris", json!(IRISES[2].0)).await, "setosa");
}

async fn without_an_engine_there_is_no_address_for_containers_and_no_start() {
    let settings = Settings::default()
        .runtime(Runtime::Docker)
        .env("DOCKER_HOST", "unix:///no/such/docker.sock");
    let (ended, said) = settings.fail().await;
    assert_eq!(ended.code(), Some(1), "{said}");
    assert!(
        said.contains("/no/such/docker.sock") && said.contains("running?"),
        "{said}"
    );
}

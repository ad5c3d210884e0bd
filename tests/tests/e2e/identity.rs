//! What a name means: one version is one model, whatever becomes of tags and files, and containers belong to one
//! store, whoever else has its cluster's name.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use skysail_tests::binaries;
use skysail_tests::cases;
use skysail_tests::cluster::{Runtime, Settings, TestCluster};
use skysail_tests::deployment::Deployment;
use skysail_tests::docker::{Container, DockerCluster, Holdings, Tag, image};
use skysail_tests::redis::RedisServer;
use skysail_tests::skysail::Skysail;
use skysail_tests::wait::{PATIENCE, find, until};

cases! {
    an_executable_that_was_replaced_is_not_started_beside_the_old_one;
    what_an_executable_was_is_written_down_with_its_version;
    a_version_can_be_pinned_to_what_is_in_its_files;
    a_tag_that_was_moved_changes_no_version: Docker;
    an_image_that_is_gone_is_told_with_what_to_do: Docker;
    a_short_image_id_works: Docker;
    an_image_of_which_the_engine_says_nothing_is_told_with_what_it_answered: Docker;
    two_servers_of_one_name_leave_each_others_containers_alone: Docker;
    what_a_store_that_is_gone_left_behind_is_adopted: Docker;
    containers_stay_with_a_store_that_was_restored_or_accepted: Docker, Redis;
    a_frontend_takes_its_network_along_when_nothing_of_it_runs: Docker;
}

/// An iris, and what it is.
const IRIS: [f64; 4] = [7.9, 4.4, 6.9, 2.5];
const SPECIES: &str = "virginica";

/// Another model that takes what irises are.
const OTHER: &str = "noop";

/// Puts a program of this workspace in the place of a file, as an installation does: by renaming.
fn install(program: &str, path: &Path) {
    let beside = path.with_extension("new");
    fs::copy(binaries::path(program), &beside).expect("a copy");
    fs::rename(&beside, path).expect("a place for it");
}

fn executable(folder: &Path) -> PathBuf {
    let path = folder.join("model");
    install("iris-svm", &path);
    path
}

fn deployment(image: &str, replicas: u32) -> Deployment {
    Deployment::of_image("iris-model", image).replicas(replicas)
}

async fn last_failure(cluster: &TestCluster, words: &str) -> Value {
    find(&format!("a failure with `{words}`"), PATIENCE, async || {
        let failure = cluster.version("iris-model", "1").await["last_failure"].clone();
        let reason = failure["reason"].as_str().unwrap_or_default();
        reason.contains(words).then_some(failure)
    })
    .await
}

/// Waits until the version is said to have moved on, and the status and the page tell of it.
async fn moved_on(cluster: &TestCluster, words: &str) {
    find(&format!("`{words}` to be told"), PATIENCE, async || {
        let version = cluster.version("iris-model", "1").await;
        version["moved_on"]
            .as_str()
            .filter(|said| said.contains(words) && said.contains("deploy a new version"))
            .map(str::to_owned)
    })
    .await;
    let skysail = Skysail::at(cluster.addresses().admin);
    for command in ["status", "model show iris-model"] {
        // Lines are broken to the terminal's width.
        let said = skysail.done(command).await;
        let said = said.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(said.contains(words), "{command}: {said}");
    }
}

/// Asks so often that every replica has answered.
async fn answers_alike(cluster: &TestCluster) {
    for petal in 0..40 {
        // Another input each time: the cache is not what is asked.
        let iris = [IRIS[0], IRIS[1], IRIS[2], IRIS[3] + f64::from(petal) / 1000.0];
        assert_eq!(cluster.predict("iris", json!(iris)).await, SPECIES);
    }
}

fn end(replica: &Value) {
    let pid = replica["pid"].as_i64().expect("a process");
    let pid = Pid::from_raw(pid.try_into().expect("a process id")).expect("a process id");
    kill_process(pid, Signal::KILL).expect("it runs");
}

async fn an_executable_that_was_replaced_is_not_started_beside_the_old_one() {
    let cluster = TestCluster::start().await;
    let path = executable(cluster.folder());
    cluster
        .serve("iris", &deployment(path.to_str().unwrap(), 2))
        .await;
    let before = cluster.attached("iris-model", 2).await;

    install(OTHER, &path);
    end(&before[0]);
    let failure = last_failure(&cluster, "is not what `iris-model:1` was first started with").await;
    assert_eq!(failure["permanent"], true, "{failure}");
    let reason = failure["reason"].as_str().unwrap();
    assert!(reason.contains("deploy a new version"), "{reason}");
    cluster.attached("iris-model", 1).await;
    answers_alike(&cluster).await;
    moved_on(&cluster, "is not what `iris-model:1` was first started with").await;

    // The old one comes back, and with it the replica.
    install("iris-svm", &path);
    cluster.attached("iris-model", 2).await;
    answers_alike(&cluster).await;
    until("nothing more to be told", PATIENCE, async || {
        cluster.version("iris-model", "1").await["moved_on"].is_null()
    })
    .await;

    // A new version runs the new file.
    install(OTHER, &path);
    let mut next = deployment(path.to_str().unwrap(), 1);
    "2".clone_into(&mut next.version);
    cluster.deploy(&next).await;
    until("the new version to answer", PATIENCE, async || {
        cluster.predict("iris", json!(IRIS)).await != SPECIES
    })
    .await;
}

async fn what_an_executable_was_is_written_down_with_its_version() {
    let mut cluster = TestCluster::start().await;
    let path = executable(cluster.folder());
    cluster
        .serve("iris", &deployment(path.to_str().unwrap(), 1))
        .await;
    let version = cluster.version("iris-model", "1").await;
    let artifacts = version["deployment"]["artifacts"].clone();
    assert_eq!(artifacts[0]["path"], path.to_str().unwrap(), "{version}");
    let said = std::process::Command::new("sha256sum")
        .arg(&path)
        .output()
        .unwrap();
    let digest = artifacts[0]["sha256"].as_str().unwrap();
    assert!(
        String::from_utf8(said.stdout).unwrap().starts_with(digest),
        "{version}"
    );
    let page = Skysail::at(cluster.addresses().admin)
        .done("model show iris-model")
        .await;
    assert!(page.contains(digest), "{page}");

    // A new life starts what the one before had, or nothing.
    cluster.kill();
    install(OTHER, &path);
    cluster.relaunch().await;
    last_failure(&cluster, "deploy a new version").await;
    assert_eq!(cluster.replicas("iris-model").await, [] as [Value; 0]);
    let version = cluster.version("iris-model", "1").await;
    assert_eq!(version["deployment"]["artifacts"], artifacts);
}

async fn a_version_can_be_pinned_to_what_is_in_its_files() {
    let cluster = TestCluster::start().await;
    let path = executable(cluster.folder());
    let path = path.to_str().unwrap();
    let pinned = |sha256: &str| {
        let mut body = deployment(path, 1).body();
        body["deployment"]["artifacts"] = json!([{ "path": path, "sha256": sha256 }]);
        body
    };
    let admin = cluster.admin();
    let versions = "/api/v1/models/iris-model/versions";
    let refused = admin.post(versions, pinned("abc")).await.problem(400);
    assert!(refused.contains("64 lower-case hexadecimal digits"), "{refused}");
    admin.post(versions, pinned(&"0".repeat(64))).await.expect(201);
    let failure = last_failure(&cluster, "deploy a new version").await;
    assert!(
        failure["reason"].as_str().unwrap().contains("000000000000"),
        "{failure}"
    );
}

/// A frontend on the host and what Docker holds of it; the frontend goes first.
struct Hosted {
    frontend: TestCluster,
    docker: DockerCluster,
}

impl Hosted {
    async fn start() -> Self {
        let docker = DockerCluster::new();
        let frontend = hosted(docker.name()).start().await;
        Self { frontend, docker }
    }

    async fn running(&self, count: usize) -> Vec<Container> {
        running(&self.docker, count).await
    }
}

fn hosted(cluster: &str) -> Settings {
    Settings::default().runtime(Runtime::Docker).cluster(cluster)
}

/// Waits until so many containers run, and nothing else is there.
async fn running(docker: &DockerCluster, count: usize) -> Vec<Container> {
    find(&format!("{count} running containers"), PATIENCE, async || {
        let containers = docker.with_role("replica").await;
        let all_run = containers.iter().all(|container| container.running);
        (all_run && containers.len() == count).then_some(containers)
    })
    .await
}

async fn a_tag_that_was_moved_changes_no_version() {
    let hosted = Hosted::start().await;
    let (iris, other) = (image("iris-svm").await, image(OTHER).await);
    let tag = Tag::of(&iris).await;
    let id = tag.image_id().await;
    hosted.frontend.serve("iris", &deployment(tag.name(), 2)).await;
    let version = hosted.frontend.version("iris-model", "1").await;
    assert_eq!(version["deployment"]["image_id"], id, "{version}");
    assert_eq!(version["deployment"]["image"], tag.name(), "{version}");

    tag.move_to(&other).await;
    let before = hosted.running(2).await;
    hosted.docker.kill(&before[0].name).await;
    until("another container in its place", PATIENCE, async || {
        let now = hosted.running(2).await;
        now.iter().all(|container| container.id != before[0].id)
    })
    .await;
    hosted.frontend.attached("iris-model", 2).await;
    answers_alike(&hosted.frontend).await;
    for container in hosted.running(2).await {
        let found = hosted.docker.inspect(&container.id).await;
        assert_eq!(found.image.as_deref(), Some(&*id), "{container:?}");
        assert_eq!(container.labels["ai.skysail.image"], tag.name());
    }
    moved_on(&hosted.frontend, "names another image").await;
}

async fn an_image_that_is_gone_is_told_with_what_to_do() {
    let hosted = Hosted::start().await;
    let tag = Tag::of_copy(&image("iris-svm").await).await;
    hosted.frontend.serve("iris", &deployment(tag.name(), 1)).await;
    let skysail = Skysail::at(hosted.frontend.addresses().admin);
    skysail.done("model stop iris-model").await;
    hosted.running(0).await;
    // As after `docker image prune` and a new build.
    tag.move_to(&image(OTHER).await).await;
    skysail.done("model scale iris-model 1").await;
    let failure = last_failure(&hosted.frontend, "not on this machine any more").await;
    assert_eq!(failure["permanent"], true, "{failure}");
    let reason = failure["reason"].as_str().unwrap();
    assert!(
        reason.contains("deploy a new version") && reason.contains(tag.name()),
        "{reason}"
    );
    assert_eq!(hosted.docker.with_role("replica").await, []);
}

async fn a_short_image_id_works() {
    let hosted = Hosted::start().await;
    let tag = Tag::of(&image("iris-svm").await).await;
    let id = tag.image_id().await;
    let short = &id["sha256:".len()..][..12];
    hosted.frontend.serve("iris", &deployment(short, 1)).await;
    assert_eq!(hosted.frontend.predict("iris", json!(IRIS)).await, SPECIES);
    let version = hosted.frontend.version("iris-model", "1").await;
    assert_eq!(version["deployment"]["image_id"], id, "{version}");

    // A whole one that nobody has is not looked for in registries.
    let unknown = format!("sha256:{}", "0".repeat(64));
    let skysail = Skysail::at(hosted.frontend.addresses().admin);
    let line = format!("model deploy other:1 --image {unknown} --input-type doubles");
    let said = skysail.refused(&line).await;
    assert!(said.contains("an id cannot be pulled"), "{said}");
}

async fn an_image_of_which_the_engine_says_nothing_is_told_with_what_it_answered() {
    let docker = DockerCluster::new();
    // The engine answers that this path is to be written otherwise, without a word.
    let line = format!("start --cluster {} --frontend-image skysail//noop", docker.name());
    let ports = "--query-port 0 --admin-port 0 --rpc-port 0 --ops-port 0";
    let said = Skysail::default().refused(&format!("{line} {ports}")).await;
    for part in ["skysail//noop", "--frontend-image", "301 without a word"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert_eq!(docker.holdings().await, Holdings::default());

    let hosted = Hosted::start().await;
    let skysail = Skysail::at(hosted.frontend.addresses().admin);
    let said = skysail
        .refused("model deploy other:1 --image skysail//noop --input-type doubles")
        .await;
    assert!(said.contains("not the name of a docker image"), "{said}");
}

fn names(containers: &[Container]) -> BTreeSet<String> {
    containers
        .iter()
        .map(|container| container.name.clone())
        .collect()
}

fn ids(containers: &[Container]) -> BTreeSet<String> {
    containers.iter().map(|container| container.id.clone()).collect()
}

async fn problems(cluster: &TestCluster) -> String {
    let status = cluster.admin().get("/api/v1/status").await.expect(200);
    status["problems"].to_string()
}

async fn two_servers_of_one_name_leave_each_others_containers_alone() {
    let first = Hosted::start().await;
    let iris = deployment(&image("iris-svm").await, 2);
    first.frontend.serve("iris", &iris).await;
    let of_first = first.running(2).await;
    let mut second = hosted(first.docker.name()).start().await;
    second.serve("iris", &iris).await;
    let all = first.running(4).await;
    let of_second: Vec<_> = all
        .iter()
        .filter(|container| !names(&of_first).contains(&container.name))
        .cloned()
        .collect();
    assert_eq!(of_second.len(), 2, "{all:?}");
    let lives: BTreeSet<_> = all
        .iter()
        .map(|container| &container.labels["ai.skysail.incarnation"])
        .collect();
    assert_eq!(lives.len(), 2, "{all:?}");

    // Each has looked at what there is and acted on it: its own killed container comes back, the others stay.
    for (server, own) in [(&first.frontend, &of_first), (&second, &of_second)] {
        let life = &own[0].labels["ai.skysail.incarnation"];
        let others: Vec<_> = first
            .running(4)
            .await
            .into_iter()
            .filter(|container| container.labels["ai.skysail.incarnation"] != *life)
            .collect();
        first.docker.kill(&own[0].name).await;
        until("the killed container to be replaced", PATIENCE, async || {
            let now = ids(&first.running(4).await);
            !now.contains(&own[0].id) && ids(&others).is_subset(&now)
        })
        .await;
        server.attached("iris-model", 2).await;
        answers_alike(server).await;
        until("the others to be told of", PATIENCE, async || {
            let said = problems(server).await;
            others.iter().all(|container| said.contains(&container.name)) && said.contains("cluster adopt")
        })
        .await;
        let told = server.log().lines();
        assert!(
            told.iter().any(|line| line.contains("are not this store's")),
            "{told:?}"
        );
    }

    // One of the two goes, and the other takes over what is left: its catalog does not ask for it.
    second.terminate().await;
    let skysail = Skysail::at(first.frontend.addresses().admin);
    let said = skysail.done("cluster adopt").await;
    assert!(said.contains("took over 2 containers"), "{said}");
    first.running(2).await;
    until("nothing more to be told", PATIENCE, async || {
        !problems(&first.frontend).await.contains("adopt")
    })
    .await;
    answers_alike(&first.frontend).await;
    let said = skysail.refused("cluster adopt").await;
    assert!(said.contains("nothing to adopt"), "{said}");
}

async fn what_a_store_that_is_gone_left_behind_is_adopted() {
    let mut hosted = Hosted::start().await;
    let iris = deployment(&image("iris-svm").await, 2);
    hosted.frontend.serve("iris", &iris).await;
    let before = hosted.running(2).await;
    hosted.frontend.kill();
    fs::remove_file(hosted.frontend.folder().join("metadata.redb")).unwrap();
    hosted.frontend.restart().await;
    until("what is left to be told of", PATIENCE, async || {
        let said = problems(&hosted.frontend).await;
        said.contains("store is empty") && said.contains(&before[0].name)
    })
    .await;
    assert_eq!(hosted.running(2).await, before);

    // `skysail stop` or this: what the catalog asks for is replaced by what it asks for.
    hosted
        .frontend
        .serve("other", &deployment(&image(OTHER).await, 1).named("other", "1"))
        .await;
    assert!(ids(&before).is_subset(&ids(&hosted.running(3).await)));
    Skysail::at(hosted.frontend.addresses().admin)
        .done("cluster adopt")
        .await;
    let left = hosted.running(1).await;
    assert_eq!(left[0].labels["ai.skysail.model"], "other");
    until("nothing more to be told", PATIENCE, async || {
        !problems(&hosted.frontend).await.contains("adopt")
    })
    .await;

    // And in its next life it still knows them.
    hosted.frontend.kill();
    hosted.frontend.restart().await;
    hosted.frontend.attached("other", 1).await;
    assert_eq!(hosted.running(1).await, left);
}

async fn containers_stay_with_a_store_that_was_restored_or_accepted() {
    let redis = RedisServer::start().await;
    let docker = DockerCluster::new();
    let frontend = hosted(docker.name()).redis(redis.url()).start().await;
    frontend
        .serve("iris", &deployment(&image("iris-svm").await, 2))
        .await;
    let before = running(&docker, 2).await;
    let skysail = Skysail::at(frontend.addresses().admin);

    let is_lost = async || problems(&frontend).await.contains("lost something");
    let () = redis.run("FLUSHALL");
    until("the loss to be told", PATIENCE, is_lost).await;
    skysail.done("cluster restore").await;
    until("all to be well again", PATIENCE, async || {
        problems(&frontend).await == "[]"
    })
    .await;
    skysail.done("model scale iris-model 3 --wait").await;
    assert!(ids(&before).is_subset(&ids(&running(&docker, 3).await)));

    let () = redis.run("FLUSHALL");
    until("the loss to be told", PATIENCE, is_lost).await;
    skysail.done("cluster accept-empty").await;
    running(&docker, 0).await;
    until("all to be well again", PATIENCE, async || {
        !problems(&frontend).await.contains("adopt")
    })
    .await;
}

async fn a_frontend_takes_its_network_along_when_nothing_of_it_runs() {
    let mut frontend_hosted = Hosted::start().await;
    let network = frontend_hosted.docker.holdings().await.networks;
    assert_eq!(network.len(), 1, "{network:?}");
    // Another server of the name still waits for containers there.
    let mut second = hosted(frontend_hosted.docker.name()).start().await;
    second.terminate().await;
    assert_eq!(frontend_hosted.docker.holdings().await.networks, network);
    let ended = frontend_hosted.frontend.terminate().await;
    assert!(ended.success(), "{ended}");
    assert_eq!(frontend_hosted.docker.holdings().await, Holdings::default());

    // One that cannot start leaves nothing either.
    let (ended, said) = hosted(frontend_hosted.docker.name())
        .flag("--store", "embedded:/proc/nowhere/metadata.redb")
        .fail()
        .await;
    assert_eq!(ended.code(), Some(1), "{said}");
    assert_eq!(frontend_hosted.docker.holdings().await, Holdings::default());
}

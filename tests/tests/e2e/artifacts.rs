//! Files that are uploaded, and versions that are made of them.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

use reqwest::Method;
use serde_json::{Value, json};
use skysail_tests::binaries;
use skysail_tests::cases;
use skysail_tests::cluster::{Runtime, Settings, TestCluster};
use skysail_tests::docker::DockerCluster;
use skysail_tests::onnx;
use skysail_tests::rest::{Reply, Rest};
use skysail_tests::skysail::Skysail;
use skysail_tests::test_image::{self, TestImage};
use skysail_tests::wait::{PATIENCE, find, until};
use skysail_tests::wire::Wire;

cases! {
    an_upload_is_kept_under_its_digest_over_a_restart;
    an_upload_with_another_digest_is_refused_with_both;
    an_upload_that_is_cut_short_leaves_nothing;
    an_upload_that_is_too_large_is_refused_before_it_is_sent;
    an_upload_is_bytes_with_a_digest_for_a_name;
    a_token_is_asked_for_before_an_upload;
    a_folder_that_cannot_be_used_is_told_with_what_to_do;
    a_version_is_made_of_an_artifact_that_is_here;
    an_onnx_file_is_uploaded_once_and_each_container_is_given_it;
    an_onnx_file_that_was_changed_is_not_served_until_it_is_uploaded_again;
    a_deployed_onnx_file_answers_queries;
    a_file_that_is_no_onnx_file_is_told_in_its_containers_words;
    with_docker_an_image_is_made_of_an_onnx_file: Docker;
    an_image_for_onnx_files_that_is_not_there_is_told_with_what_to_do: Docker;
}

/// What is uploaded, and its SHA-256.
const CONTENT: &str = "abcdef";
const SHA256: &str = "bef57ec7f53a6d40beb640a780a639c83bc29ac8a9816f1fc6c5c6dcd93c4721";

const BYTES: &str = "Content-Type: application/octet-stream";

fn path(sha256: &str) -> String {
    format!("/api/v1/artifacts/{sha256}")
}

/// The folder of a cluster's artifacts, which is beside its store.
fn folder(cluster: &TestCluster) -> PathBuf {
    cluster.folder().join("metadata.artifacts")
}

/// The names of all that was kept, also in part.
fn kept(cluster: &TestCluster) -> Vec<String> {
    let Ok(entries) = fs::read_dir(folder(cluster)) else {
        return Vec::new();
    };
    let names = entries.map(|entry| entry.expect("an entry").file_name());
    names.map(|name| name.into_string().expect("text")).collect()
}

/// The SHA-256 of a file, as another program finds it.
fn sha256sum(file: &str) -> String {
    let said = Command::new("sha256sum")
        .arg(file)
        .output()
        .expect("sha256sum runs");
    let said = String::from_utf8(said.stdout).expect("text");
    said.split_whitespace().next().expect("a digest").to_owned()
}

async fn an_upload_is_kept_under_its_digest_over_a_restart() {
    let mut cluster = TestCluster::start().await;
    let admin = cluster.admin();
    let missing = admin.get(&path(SHA256)).await.problem(404);
    assert!(
        missing.contains(SHA256) && missing.contains("upload it"),
        "{missing}"
    );

    let here = json!({ "sha256": SHA256, "bytes": 6 });
    let uploaded = admin.put_bytes(&path(SHA256), CONTENT).await;
    assert_eq!(uploaded.expect(201), here);
    assert_eq!(admin.put_bytes(&path(SHA256), CONTENT).await.expect(200), here);
    let file = folder(&cluster).join(SHA256);
    assert_eq!(sha256sum(file.to_str().expect("text")), SHA256);
    let mode = fs::metadata(folder(&cluster))
        .expect("a folder")
        .permissions()
        .mode();
    assert_eq!(mode & 0o077, 0, "{mode:o}");

    cluster.kill();
    cluster.restart().await;
    assert_eq!(cluster.admin().get(&path(SHA256)).await.expect(200), here);
    let head = cluster
        .admin()
        .send(Method::HEAD, &path(SHA256), "")
        .await
        .expect("a reply");
    assert_eq!((head.status, head.text.as_str()), (200, ""));
    let head = cluster
        .admin()
        .send(Method::HEAD, &path(&"0".repeat(64)), "")
        .await;
    assert_eq!(head.expect("a reply").status, 404);
    assert_eq!(kept(&cluster), [SHA256]);
}

async fn an_upload_with_another_digest_is_refused_with_both() {
    let cluster = TestCluster::start().await;
    let refused = cluster
        .admin()
        .put_bytes(&path(SHA256), "abcdeg")
        .await
        .problem(400);
    assert!(
        refused.contains(SHA256) && refused.contains("6 bytes"),
        "{refused}"
    );
    let digests = refused
        .split(|c: char| !c.is_ascii_hexdigit())
        .filter(|word| word.len() == SHA256.len());
    assert_eq!(digests.count(), 2, "{refused}");
    assert_eq!(kept(&cluster), [""; 0]);
}

async fn an_upload_that_is_cut_short_leaves_nothing() {
    let cluster = TestCluster::start().await;
    let mut wire = Wire::to(cluster.addresses().admin).await;
    wire.head("PUT", &path(SHA256), &[BYTES, "Content-Length: 1000000"])
        .await;
    wire.write(vec![7; 300_000]).await.expect("a part is written");
    until("the upload to begin", PATIENCE, async || {
        kept(&cluster).len() == 1
    })
    .await;
    assert!(kept(&cluster)[0].starts_with(".partial-"), "{:?}", kept(&cluster));
    assert_eq!(cluster.admin().get(&path(SHA256)).await.status, 404);
    drop(wire);
    until("nothing to be left", PATIENCE, async || kept(&cluster).is_empty()).await;
}

async fn an_upload_that_is_too_large_is_refused_before_it_is_sent() {
    let cluster = Settings::default().flag("--artifact-limit", "6").start().await;
    cluster
        .admin()
        .put_bytes(&path(SHA256), CONTENT)
        .await
        .expect(201);
    let addr = cluster.addresses().admin;
    let mut wire = Wire::to(addr).await;
    wire.head("PUT", &path(SHA256), &[BYTES, "Content-Length: 7"])
        .await;
    let refused = wire.read().await.problem(413);
    assert!(
        refused.contains("larger than 6 bytes") && refused.contains("--artifact-limit"),
        "{refused}"
    );

    // Nothing says beforehand how long this one is.
    let mut wire = Wire::to(addr).await;
    wire.head(
        "PUT",
        &path(&"0".repeat(64)),
        &[BYTES, "Transfer-Encoding: chunked"],
    )
    .await;
    wire.write("7\r\nabcdefg\r\n").await.expect("a chunk is written");
    wire.read().await.problem(413);
    until("nothing to be left of it", PATIENCE, async || {
        kept(&cluster) == [SHA256]
    })
    .await;
}

async fn an_upload_is_bytes_with_a_digest_for_a_name() {
    let cluster = TestCluster::start().await;
    let mut wire = Wire::to(cluster.addresses().admin).await;
    let json = wire.request("PUT", &path(SHA256), CONTENT).await.problem(415);
    assert!(json.contains("application/octet-stream"), "{json}");
    let bytes = format!("{BYTES}\r\n");
    let elsewhere = wire
        .request_with(&bytes, "POST", "/api/v1/applications", "{}")
        .await
        .problem(415);
    assert!(elsewhere.contains("application/json"), "{elsewhere}");
    let encoded = format!("{BYTES}\r\nContent-Encoding: gzip\r\n");
    let encoded = wire
        .request_with(&encoded, "PUT", &path(SHA256), CONTENT)
        .await
        .problem(415);
    assert!(encoded.contains("Content-Encoding"), "{encoded}");
    for bad in ["abc", &SHA256.to_uppercase(), "..%2Fmetadata.redb"] {
        let refused = wire
            .request_with(&bytes, "PUT", &path(bad), CONTENT)
            .await
            .problem(400);
        assert!(refused.contains("sha256sum"), "{bad}: {refused}");
    }
    assert_eq!(kept(&cluster), [""; 0]);
}

async fn a_token_is_asked_for_before_an_upload() {
    let secret = tempfile::tempdir().expect("a temporary folder");
    let file = secret.path().join("token");
    let token = "correct-horse-battery";
    fs::write(&file, token).expect("written");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("the file is ours");
    let file = file.to_str().expect("text");
    let cluster = Settings::default().flag("--admin-token-file", file).start().await;
    for stranger in [
        cluster.admin(),
        cluster.admin().with_token("another-horse-battery"),
    ] {
        stranger.put_bytes(&path(SHA256), CONTENT).await.problem(401);
        stranger.get(&path(SHA256)).await.problem(401);
    }
    assert_eq!(kept(&cluster), [""; 0]);
    let admin = cluster.admin().with_token(token);
    admin.put_bytes(&path(SHA256), CONTENT).await.expect(201);
}

async fn a_folder_that_cannot_be_used_is_told_with_what_to_do() {
    // Below a file there can be no folder.
    let cluster = Settings::default()
        .flag("--artifacts", "/etc/hostname/artifacts")
        .start()
        .await;
    let refused = cluster
        .admin()
        .put_bytes(&path(SHA256), CONTENT)
        .await
        .problem(503);
    assert!(refused.contains("/etc/hostname/artifacts"), "{refused}");
    assert!(refused.contains("--artifacts DIR"), "{refused}");
}

async fn deploy(admin: &Rest, onnx: Value) -> Reply {
    let body = json!({
        "version": "1",
        "input_type": "doubles",
        "deployment": { "image": "skysail-onnx", "replicas": 0, "onnx": onnx },
    });
    admin.post("/api/v1/models/digits/versions", body).await
}

async fn a_version_is_made_of_an_artifact_that_is_here() {
    let cluster = TestCluster::start().await;
    let admin = cluster.admin();
    let missing = deploy(&admin, json!({ "sha256": SHA256 })).await.problem(400);
    assert!(
        missing.contains(SHA256) && missing.contains("upload it"),
        "{missing}"
    );
    let bad = deploy(&admin, json!({ "sha256": "abc" })).await.problem(400);
    assert!(bad.contains("64 lower-case hexadecimal digits"), "{bad}");
    admin.put_bytes(&path(SHA256), CONTENT).await.expect(201);
    let version = deploy(&admin, json!({ "sha256": SHA256 })).await.expect(201);
    assert_eq!(version["deployment"]["onnx"]["sha256"], SHA256, "{version}");
}

/// A frontend beside which a script stands in for the executable that serves ONNX files: it prints the digest of its file,
/// and waits.
struct WithStandIn {
    cluster: TestCluster,
    installed: tempfile::TempDir,
}

impl WithStandIn {
    async fn start() -> Self {
        let installed = tempfile::tempdir().expect("a temporary folder");
        let frontend = installed.path().join("skysail-frontend");
        fs::copy(binaries::path("skysail-frontend"), &frontend).expect("a copy");
        let stand_in = installed.path().join("skysail-onnx");
        let script = "#!/bin/sh\nsha256sum < \"$SKYSAIL_ONNX_FILE\"\nexec sleep 1000\n";
        fs::write(&stand_in, script).expect("written");
        fs::set_permissions(&stand_in, fs::Permissions::from_mode(0o755)).expect("it is ours");
        // The first argument is the frontend that tests start otherwise.
        let become_it = format!("shift; exec {} \"$@\"", frontend.display());
        let settings = Settings::default().through(&["sh", "-c", &become_it, "sh"]);
        let cluster = settings.start().await;
        Self { cluster, installed }
    }

    /// Writes a file to be deployed, and returns its path.
    fn file(&self, content: &str) -> String {
        let path = self.installed.path().join("digits.onnx");
        fs::write(&path, content).expect("written");
        path.to_str().expect("text").to_owned()
    }

    fn skysail(&self) -> Skysail {
        Skysail::at(self.cluster.addresses().admin)
    }

    /// Waits until the containers of a version have printed this digest so many times.
    async fn printed(&self, version: &str, digest: &str, count: usize) {
        until("the containers to print the digest", PATIENCE, async || {
            let lines = self
                .skysail()
                .say(&format!("model logs digits:{version}"))
                .await
                .out;
            lines.matches(digest).count() == count
        })
        .await;
    }
}

async fn an_onnx_file_is_uploaded_once_and_each_container_is_given_it() {
    let mut started = WithStandIn::start().await;
    let file = started.file(CONTENT);
    let deploy =
        |version: &str| format!("model deploy digits:{version} --onnx {file} --replicas 2 --no-wait");
    let uploads = started.skysail().say(&deploy("1")).await;
    assert_eq!(uploads.code, Some(0), "{uploads:?}");
    assert!(uploads.err.contains("uploading"), "{uploads:?}");
    started.printed("1", SHA256, 2).await;
    let again = started.skysail().say(&deploy("2")).await;
    assert_eq!((again.code, again.err.as_str()), (Some(0), ""), "{again:?}");
    started.printed("2", SHA256, 2).await;
    let page = started.skysail().done("model show digits:1").await;
    assert!(page.contains(SHA256), "{page}");

    // The file at its old place may go.
    fs::remove_file(&file).expect("removed");
    started.cluster.kill();
    started.cluster.relaunch().await;
    started.printed("1", SHA256, 2).await;
}

async fn an_onnx_file_that_was_changed_is_not_served_until_it_is_uploaded_again() {
    let started = WithStandIn::start().await;
    let file = started.file(CONTENT);
    let deploy = format!("model deploy digits:1 --onnx {file} --replicas 0 --no-wait");
    started.skysail().done(&deploy).await;
    let stored = folder(&started.cluster).join(SHA256);
    fs::write(&stored, "abcdeg").expect("written");
    started.skysail().done("model scale digits:1 1").await;
    until("the change to be told", PATIENCE, async || {
        let version = started.cluster.version("digits", "1").await;
        let reason = version["last_failure"]["reason"].as_str().unwrap_or_default();
        reason.contains("was changed on the disk") && reason.contains("upload it")
    })
    .await;
    started
        .cluster
        .admin()
        .put_bytes(&path(SHA256), CONTENT)
        .await
        .expect(200);
    started.printed("1", SHA256, 1).await;
}

async fn with_docker_an_image_is_made_of_an_onnx_file() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("digits.onnx");
    fs::write(&file, CONTENT).expect("written");
    let base = TestImage::make().await;
    let docker = DockerCluster::new();
    let settings = Settings::default()
        .runtime(Runtime::Docker)
        .cluster(docker.name());
    let frontend = settings.start().await;
    let (model, skysail) = (docker.name(), Skysail::at(frontend.addresses().admin));
    let file = file.to_str().expect("text");
    let deploy = format!(
        "model deploy {model}:1.0-RC1 --onnx {file} --onnx-image {} --env TEST_SCRIPT=wait --no-wait",
        base.name()
    );
    skysail.done(&deploy).await;
    let version = frontend.version(model, "1.0-RC1").await;
    let image = format!("skysail-model/{model}:1.0-RC1");
    assert_eq!(version["deployment"]["image"], image, "{version}");
    let image_id = version["deployment"]["image_id"]
        .as_str()
        .expect("an id")
        .to_owned();

    let container = find("a container of the image", PATIENCE, async || {
        let containers = docker.with_role("replica").await;
        containers.into_iter().find(|container| container.running)
    })
    .await;
    assert_eq!(docker.file(&container.id, "/model.onnx").await, CONTENT);
    assert_eq!(container.labels["ai.skysail.onnx"], SHA256);
    assert_eq!(docker.inspect(&container.id).await.image, Some(image_id));
    // What the image was made of is gone.
    assert_eq!(docker.labelled("ai.skysail.model", model).await.len(), 1);

    drop(frontend);
    drop(docker);
    test_image::remove(&image).await;
}

async fn an_image_for_onnx_files_that_is_not_there_is_told_with_what_to_do() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("digits.onnx");
    fs::write(&file, CONTENT).expect("written");
    let docker = DockerCluster::new();
    let settings = Settings::default()
        .runtime(Runtime::Docker)
        .cluster(docker.name());
    let frontend = settings.start().await;
    let deploy = format!(
        "model deploy digits:1 --onnx {} --onnx-image 127.0.0.1:1/nothing:1",
        file.to_str().expect("text")
    );
    let refused = Skysail::at(frontend.addresses().admin).refused(&deploy).await;
    assert!(refused.contains("127.0.0.1:1/nothing:1"), "{refused}");
    assert!(refused.contains("--onnx-image names another image"), "{refused}");
}

async fn a_deployed_onnx_file_answers_queries() {
    let cluster = TestCluster::start().await;
    let file = cluster.folder().join("doubling.onnx");
    fs::write(&file, onnx::doubling(2)).expect("written");
    let skysail = Skysail::at(cluster.addresses().admin);
    let deploy = format!("model deploy doubling:1 --onnx {} --replicas 2", file.display());
    let deployed = skysail.done(&deploy).await;
    assert!(deployed.contains("2 of 2 replicas attached"), "{deployed}");
    let register = "app register double --like doubling --default-output=null --slo 30s";
    skysail.done(register).await;
    cluster.link("double", "doubling").await;
    let output = cluster.predict("double", json!({ "x": [1.5, -2] })).await;
    assert_eq!(output, json!({ "y": [3.0, -4.0] }));
    // The name of the one tensor may be left out.
    let output = cluster.predict("double", json!([0.25, 1e9])).await;
    assert_eq!(output, json!({ "y": [0.5, 2e9] }));
}

async fn a_file_that_is_no_onnx_file_is_told_in_its_containers_words() {
    let cluster = TestCluster::start().await;
    let file = cluster.folder().join("digits.onnx");
    fs::write(&file, "no model at all").expect("written");
    let deploy = format!("model deploy digits:1 --onnx {}", file.display());
    let refused = Skysail::at(cluster.addresses().admin).refused(&deploy).await;
    assert!(refused.contains("error: digits:1 fails"), "{refused}");
    assert!(
        refused.contains("\n  | ") && refused.contains("ONNX"),
        "{refused}"
    );
}

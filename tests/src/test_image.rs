//! The image of the test container (`src/bin/test-container.rs`), made from the binary and the libraries it is
//! linked with.

use std::path::Path;
use std::process::Command;
use std::thread;

use bollard::Docker;
use bollard::query_parameters::{CreateImageOptionsBuilder, RemoveImageOptions};
use futures::StreamExt;

use crate::binaries;
use crate::suite::block_on;

/// An image of its own, removed when it is dropped.
pub struct TestImage {
    name: String,
}

impl TestImage {
    /// Makes one.
    pub async fn make() -> Self {
        let name = format!("skysail-test-container:{:08x}", fastrand::u32(..));
        let binary = binaries::path("test-container");
        let libraries = libraries_of(&binary);
        let files: Vec<_> = libraries.iter().map(Path::new).chain([&*binary]).collect();
        let entrypoint = binary.to_str().expect("a path of text");
        import(&name, entrypoint, packed(&files)).await;
        Self { name }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl Drop for TestImage {
    fn drop(&mut self) {
        let name = self.name.clone();
        let removal = thread::spawn(move || block_on(remove(&name))).join();
        assert!(thread::panicking() || removal.is_ok(), "the image is not removed");
    }
}

/// What the loader needs to run it, by absolute path.
fn libraries_of(binary: &Path) -> Vec<String> {
    let listed = Command::new("ldd").arg(binary).output().expect("ldd runs");
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    let paths = listed.split_whitespace().filter(|word| word.starts_with('/'));
    paths.map(str::to_owned).collect()
}

/// A tar of files of this machine, under their paths.
pub fn packed(files: &[&Path]) -> Vec<u8> {
    let packed = Command::new("tar")
        .args(["--create", "--dereference", "--absolute-names"])
        .args(files)
        .output();
    let packed = packed.expect("tar runs");
    assert!(
        packed.status.success(),
        "{}",
        String::from_utf8_lossy(&packed.stderr)
    );
    packed.stdout
}

/// Makes an image of a tar.
pub async fn import(image: &str, entrypoint: &str, tar: Vec<u8>) {
    let docker = Docker::connect_with_defaults().expect("docker");
    let (repo, tag) = image.rsplit_once(':').expect("a name with a tag");
    let options = CreateImageOptionsBuilder::new()
        .from_src("-")
        .repo(repo)
        .tag(tag)
        .changes(vec![format!("ENTRYPOINT [{entrypoint:?}]")])
        .build();
    let body = http_body_util::Either::Left(http_body_util::Full::new(bytes::Bytes::from(tar)));
    let mut news = docker.create_image(Some(options), Some(body), None).boxed();
    while let Some(news) = news.next().await {
        news.expect("the image is imported");
    }
}

/// Removes an image.
pub async fn remove(image: &str) {
    let docker = Docker::connect_with_defaults().expect("docker");
    docker
        .remove_image(image, None::<RemoveImageOptions>, None)
        .await
        .expect("the image is removed");
}

//! Images: there already, or pulled; and what their names mean, which can change.
//!
//! Pulling needs no credentials here: an image of a private registry is to be pulled by hand before.

use std::collections::HashMap;
use std::time::Duration;

use bollard::Docker;
use bollard::errors::Error;
use bollard::models::CreateImageInfo;
use bollard::query_parameters::CreateImageOptionsBuilder;
use futures::{Stream, StreamExt};

use super::engine::{refused, status_of, unavailable};
use crate::runtime::{Progress, RuntimeError};

/// How long a registry may take to say anything at all; an image that cannot be had is to be told soon.
const FIRST_WORD: Duration = Duration::from_secs(15);

/// How long a pull may say nothing once it has begun. A big pull has no limit, one that stalls has.
const SILENCE: Duration = Duration::from_secs(120);

/// Sees to it that the engine has `image`, and gives its id.
pub(super) async fn ensure(
    docker: &Docker,
    image: &str,
    progress: &Progress,
) -> Result<String, RuntimeError> {
    if let Some(id) = id_of(docker, image).await? {
        return Ok(id);
    }
    if is_whole_id(image) {
        return Err(RuntimeError::Image(format!(
            "there is no image `{image}` on this machine, and an id cannot be pulled: check it against `docker images \
             --no-trunc`, or name the image"
        )));
    }
    let image = reference(image);
    pull(docker, &image, progress).await?;
    let id = id_of(docker, &image).await?;
    id.ok_or_else(|| not_had(&image, "it was pulled, and is not there"))
}

/// Sees to it that the engine has the image of this id, by its name if need be, and gives the id.
pub(super) async fn ensure_same(
    docker: &Docker,
    image: &str,
    id: &str,
    progress: &Progress,
) -> Result<String, RuntimeError> {
    if id_of(docker, id).await?.is_some() {
        return Ok(id.to_owned());
    }
    match ensure(docker, image, progress).await {
        Ok(found) if found == id => Ok(found),
        Ok(found) => Err(gone(image, id, &format!("`{image}` is {} now", short(&found)))),
        Err(RuntimeError::Image(why)) => Err(gone(image, id, &why)),
        Err(error) => Err(error),
    }
}

/// Whether a name means another image by now than the one of this id, in a sentence.
pub(super) async fn moved_on(docker: &Docker, image: &str, id: &str) -> Result<Option<String>, RuntimeError> {
    if is_id_of(image, id) {
        return Ok(None);
    }
    let now = match id_of(docker, image).await? {
        Some(now) if now == id => return Ok(None),
        Some(now) => format!("names another image ({})", short(&now)),
        None => "names no image any more".to_owned(),
    };
    Ok(Some(format!(
        "the image `{image}` {now}; every replica of this version runs the one it was first started with ({}), and \
         goes on to: to run another, deploy a new version",
        short(id)
    )))
}

/// The id of the image that the engine knows by a name, an id or the beginning of one, as `docker run` takes it.
async fn id_of(docker: &Docker, image: &str) -> Result<Option<String>, RuntimeError> {
    if !is_reference(image) {
        return Err(not_a_name(image));
    }
    match docker.inspect_image(image).await {
        Ok(found) => found.id.map(Some).ok_or_else(|| {
            RuntimeError::Container(format!(
                "docker says of the image `{image}` nothing that tells it from others"
            ))
        }),
        Err(error) if status_of(&error) == Some(404) => Ok(None),
        Err(error) if status_of(&error) == Some(400) => Err(not_a_name(image)),
        Err(error) => Err(refused("inspect", image, &error)),
    }
}

/// Whether this is an image's id in full, which no registry knows.
fn is_whole_id(image: &str) -> bool {
    let digits = image.strip_prefix("sha256:").unwrap_or(image);
    digits.len() == 64 && digits.bytes().all(|digit| digit.is_ascii_hexdigit())
}

/// Whether `image` is this id, or its beginning.
fn is_id_of(image: &str, id: &str) -> bool {
    let digits = |id: &str| id.strip_prefix("sha256:").unwrap_or(id).to_owned();
    digits(id).starts_with(&digits(image))
}

/// As much of an id as `docker images` shows.
fn short(id: &str) -> &str {
    let digits = id.strip_prefix("sha256:").unwrap_or(id);
    digits.get(..12).unwrap_or(digits)
}

fn gone(image: &str, id: &str, now: &str) -> RuntimeError {
    RuntimeError::Image(format!(
        "the image that this version was first started with ({}) is not on this machine any more ({now}): deploy a \
         new version to run what `{image}` means now, or bring the old one back (`docker load`, or `docker pull` of \
         the tag or digest it still has)",
        short(id)
    ))
}

/// The name with its tag spelled out: asked for a name alone, the engine pulls every tag there is.
pub(super) fn reference(image: &str) -> String {
    let last = image.rsplit('/').next().unwrap_or(image);
    if last.contains([':', '@']) {
        image.to_owned()
    } else {
        format!("{image}:latest")
    }
}

/// Whether the engine can be asked for it at all; what it is exactly is for the engine to judge.
fn is_reference(image: &str) -> bool {
    let legal = |c: char| c.is_ascii_alphanumeric() || "._-:@".contains(c);
    image
        .split('/')
        .all(|part| part.starts_with(|c: char| c.is_ascii_alphanumeric()) && part.chars().all(legal))
}

fn not_a_name(image: &str) -> RuntimeError {
    RuntimeError::Image(format!(
        "`{image}` is not the name of a docker image: they are in lower case and look like `skysail/noop`, \
         `redis:7` or `registry.example.com:5000/team/model:1`"
    ))
}

async fn pull(docker: &Docker, image: &str, progress: &Progress) -> Result<(), RuntimeError> {
    progress(&format!("pulling {image}"));
    let options = CreateImageOptionsBuilder::new().from_image(image).build();
    let mut news = docker.create_image(Some(options), None, None).boxed();
    let mut told = Told::default();
    let mut patience = FIRST_WORD;
    while let Some(info) = next_within(patience, &mut news, image).await? {
        patience = SILENCE;
        if let Some(percent) = told.percent_after(&info) {
            progress(&format!("pulling {image}: {percent} %"));
        }
    }
    Ok(())
}

async fn next_within(
    patience: Duration,
    news: &mut (impl Stream<Item = Result<CreateImageInfo, Error>> + Unpin),
    image: &str,
) -> Result<Option<CreateImageInfo>, RuntimeError> {
    match tokio::time::timeout(patience, news.next()).await {
        Ok(Some(Ok(info))) => Ok(Some(info)),
        Ok(Some(Err(error))) => Err(not_pulled(image, &error)),
        Ok(None) => Ok(None),
        Err(_) => Err(not_had(
            image,
            &format!("the registry said nothing for {} s", patience.as_secs()),
        )),
    }
}

fn not_pulled(image: &str, error: &Error) -> RuntimeError {
    match error {
        Error::DockerResponseServerError { message, .. } => not_had(image, message),
        Error::DockerStreamError { error } => not_had(image, error),
        error => unavailable(error),
    }
}

fn not_had(image: &str, reason: &str) -> RuntimeError {
    RuntimeError::Image(format!(
        "image `{image}` is not on this machine and cannot be pulled: {reason}; check its name against \
         `docker images`, build it, or fetch it by hand with `docker pull {image}`"
    ))
}

/// What is known of a pull: bytes of each layer, and what was told last.
#[derive(Debug, Default)]
struct Told {
    /// Bytes here and bytes in all, by layer.
    layers: HashMap<String, (i64, i64)>,
    percent: Option<i64>,
}

impl Told {
    /// How far the download is, if that is news. Layers become known one by one, so it can also go back.
    fn percent_after(&mut self, info: &CreateImageInfo) -> Option<i64> {
        let layer = info.id.clone()?;
        match info.status.as_deref()? {
            "Downloading" => {
                let detail = info.progress_detail.as_ref()?;
                self.layers.insert(layer, (detail.current?, detail.total?));
            }
            "Download complete" | "Pull complete" => {
                let (here, all) = self.layers.get_mut(&layer)?;
                *here = *all;
            }
            _ => return None,
        }
        let (here, all) = self
            .layers
            .values()
            .fold((0, 0), |sum, layer| (sum.0 + layer.0, sum.1 + layer.1));
        let percent = Some((here * 100).checked_div(all)?);
        (percent != std::mem::replace(&mut self.percent, percent)).then_some(percent?)
    }
}

#[cfg(test)]
mod tests {
    use bollard::models::ProgressDetail;
    use futures::stream;

    use super::*;

    fn info(layer: &str, status: &str, bytes: Option<(i64, i64)>) -> CreateImageInfo {
        CreateImageInfo {
            id: Some(layer.into()),
            status: Some(status.into()),
            progress_detail: bytes.map(|(current, total)| ProgressDetail {
                current: Some(current),
                total: Some(total),
            }),
            ..CreateImageInfo::default()
        }
    }

    #[test]
    fn a_name_without_a_tag_means_latest_and_nothing_more() {
        assert_eq!(reference("redis"), "redis:latest");
        assert_eq!(reference("redis:7"), "redis:7");
        assert_eq!(reference("localhost:5000/redis"), "localhost:5000/redis:latest");
        assert_eq!(reference("redis@sha256:0a"), "redis@sha256:0a");
    }

    #[test]
    fn an_id_is_known_by_its_beginning_and_only_a_whole_one_is_never_pulled() {
        let digits = "0123456789abcdef".repeat(4);
        let id = format!("sha256:{digits}");
        for image in ["0123456789ab", "sha256:0123", &digits, &id] {
            assert!(is_id_of(image, &id), "{image}");
        }
        for image in ["123456789abc", "redis", "redis:7", "sha256:1"] {
            assert!(!is_id_of(image, &id), "{image}");
        }
        assert!(is_whole_id(&id) && is_whole_id(&digits));
        for image in ["0123456789ab", "redis", &format!("redis@{id}")] {
            assert!(!is_whole_id(image), "{image}");
        }
    }

    #[test]
    fn what_cannot_be_an_image_is_not_asked_for() {
        for good in ["redis", "redis:7-alpine", "a.b:5000/c/d_e:V1", "x@sha256:0a"] {
            assert!(is_reference(good), "{good}");
        }
        for bad in ["", "/", "a//b", "../containers", "a/./b", "a b", "a?b", "-a", "ü"] {
            assert!(!is_reference(bad), "{bad}");
        }
    }

    #[test]
    fn progress_counts_the_bytes_of_all_layers_and_tells_only_news() {
        let mut told = Told::default();
        let mut after = |info: CreateImageInfo| told.percent_after(&info);
        assert_eq!(after(info("a", "Pulling fs layer", None)), None);
        assert_eq!(after(info("a", "Downloading", Some((10, 100)))), Some(10));
        assert_eq!(after(info("a", "Downloading", Some((10, 100)))), None);
        assert_eq!(after(info("b", "Downloading", Some((0, 100)))), Some(5));
        assert_eq!(after(info("a", "Download complete", None)), Some(50));
        assert_eq!(after(info("b", "Already exists", None)), None);
        assert_eq!(after(info("b", "Pull complete", None)), Some(100));
        assert_eq!(after(info("c", "Downloading", Some((0, 0)))), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_registry_that_says_nothing_is_given_up_soon() {
        let mut silent = stream::pending();
        let error = next_within(FIRST_WORD, &mut silent, "a:1").await.unwrap_err();
        assert!(
            matches!(&error, RuntimeError::Image(why) if why.contains("15 s")),
            "{error}"
        );
    }

    #[tokio::test]
    async fn an_image_that_cannot_be_had_is_an_error_that_says_what_to_do() {
        let refused = Error::DockerStreamError {
            error: "manifest unknown".into(),
        };
        let mut news = stream::iter([Err(refused)]);
        let error = next_within(FIRST_WORD, &mut news, "a:1")
            .await
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("manifest unknown") && error.contains("docker pull a:1"),
            "{error}"
        );
    }
}

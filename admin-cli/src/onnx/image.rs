//! A Docker image with an ONNX file, on top of the image that serves such files. Made as `docker commit` does, through
//! the engine's API: no Dockerfile, and the file is never held as a whole.

use bytes::Bytes;
use futures::stream::{self, Stream, StreamExt};
use skysail_proto::ids::ModelId;
use skysail_proto::labels;
use std::io;

use super::{Deployed, LocalFile, Told};
use crate::cluster::{Commit, Engine};
use crate::error::Error;
use crate::progress::Progress;

/// The file in the image, where the base image looks for it.
const PATH: &str = "model.onnx";

/// Everybody in the container may read it.
const MODE: u32 = 0o444;

/// What a tar consists of, in bytes.
const BLOCK: usize = 512;

/// Makes the image of a version.
pub(super) async fn make(
    engine: &Engine,
    id: &ModelId,
    file: &LocalFile,
    base: &str,
) -> Result<Deployed, Error> {
    let sha256 = file.digest().await?;
    let mut progress = Progress::start();
    engine.have_image(base, "--onnx-image", &mut progress).await?;
    let labels = [
        (labels::ONNX, sha256.to_string()),
        (labels::MODEL, id.name.to_string()),
        (labels::VERSION, id.version.to_string()),
    ];
    let container = engine.create_unnamed(base, &labels).await?;
    let made = commit(engine, &container, id, file, &mut progress).await;
    // The image is made, or the reason why not matters more.
    let removed = engine.discard(&container).await;
    let image_id = made?;
    removed?;
    Ok(Deployed {
        image: name_of(id).to_string(),
        image_id: Some(image_id),
        onnx: None,
    })
}

async fn commit(
    engine: &Engine,
    container: &str,
    id: &ModelId,
    file: &LocalFile,
    progress: &mut Progress,
) -> Result<String, Error> {
    let reading = file.open().await?;
    let (done, bytes) = (reading.done.clone(), file.bytes);
    let put = engine.put_archive(container, archive(reading.pieces(), bytes));
    let step = format!("putting {} into an image", file.path.display());
    let told = Told {
        step: &step,
        done: &done,
        bytes,
    };
    told.while_doing(progress, put).await?;
    progress.say(&format!("making the image {}", name_of(id)), None);
    Ok(engine.commit(container, &name_of(id)).await?)
}

/// The image's name. What may stand in a version's name may stand in a tag.
fn name_of(id: &ModelId) -> Commit {
    Commit {
        repository: format!("skysail-model/{}", id.name),
        tag: id.version.to_string(),
    }
}

/// A tar with one file.
fn archive(
    content: impl Stream<Item = io::Result<Bytes>> + Send + 'static,
    bytes: u64,
) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
    let mut header = tar::Header::new_gnu();
    header.set_path(PATH).expect("the path is short; this is a bug");
    header.set_size(bytes);
    header.set_mode(MODE);
    header.set_cksum();
    let begin = Bytes::copy_from_slice(header.as_bytes());
    let padding = (BLOCK - (bytes % BLOCK as u64) as usize) % BLOCK;
    // Two empty blocks end an archive.
    let end = Bytes::from(vec![0; padding + 2 * BLOCK]);
    let (begin, end) = (stream::iter([Ok(begin)]), stream::iter([Ok(end)]));
    begin.chain(content).chain(end)
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use futures::TryStreamExt;

    use super::*;

    #[tokio::test]
    async fn an_archive_holds_the_file_whatever_its_length() {
        for length in [1, 511, 512, 513, 2000] {
            let content = vec![7; length];
            let pieces: Vec<_> = content
                .chunks(500)
                .map(|piece| Ok(Bytes::copy_from_slice(piece)))
                .collect();
            let pieces = archive(stream::iter(pieces), length as u64);
            let written: Vec<Bytes> = pieces.try_collect().await.unwrap();
            let written = written.concat();
            assert_eq!(written.len() % BLOCK, 0);
            let mut archive = tar::Archive::new(&*written);
            let mut entries = archive.entries().unwrap().map(Result::unwrap);
            let mut file = entries.next().unwrap();
            assert_eq!(file.path().unwrap().to_str(), Some(PATH));
            assert_eq!(file.header().mode().unwrap(), MODE);
            let mut read = Vec::new();
            file.read_to_end(&mut read).unwrap();
            assert_eq!(read, content);
            drop(file);
            assert!(entries.next().is_none());
        }
    }

    #[test]
    fn an_image_is_named_for_its_version() {
        let id = "iris-model:2.1-RC1".parse().unwrap();
        assert_eq!(name_of(&id).to_string(), "skysail-model/iris-model:2.1-RC1");
    }
}

//! An upload: received in pieces, hashed as they are written, and kept only as a whole and with the right digest.

use std::fs::{DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use bytes::Bytes;
use ring::digest::{Context, SHA256};
use skysail_proto::admin::StoredArtifact;
use skysail_proto::sha256::Sha256;
use tokio::sync::mpsc;

use super::{ArtifactError, Artifacts};
use crate::http::{BodyError, Pieces, RequestBody};

/// How the names of files begin that are not whole yet.
pub(super) const PARTIAL: &str = ".partial-";

/// Pieces that came and are not written yet. If there are as many, the client waits.
const PIECES: usize = 16;

/// What the thread that writes is told. If nothing more comes before the end, the upload was cut short.
enum Part {
    Piece(Bytes),
    End,
}

/// An artifact that was received.
#[derive(Debug)]
pub(crate) struct Received {
    /// The artifact.
    pub artifact: StoredArtifact,
    /// Whether it was not here before.
    pub is_new: bool,
}

impl Artifacts {
    /// Keeps what comes, if its digest is this one. What was here under that name is replaced by the same content, so
    /// to upload again also repairs a file that somebody changed.
    pub(crate) async fn receive(
        &self,
        named: Sha256,
        pieces: Pieces<impl RequestBody>,
    ) -> Result<Received, ArtifactError> {
        let folder = self.folder.path()?.to_owned();
        let turn = self.uploads.acquire().await;
        let _turn = turn.expect("the semaphore is never closed; this is a bug");
        let (sender, parts) = mpsc::channel(PIECES);
        let writing = tokio::task::spawn_blocking(move || write(&folder, named, parts));
        let fed = feed(pieces, sender).await;
        let written = writing.await.expect("writing does not panic; this is a bug");
        // A body that broke also ends the writing, and says more.
        fed?;
        written
    }
}

/// Hands the pieces on, until the writing ends.
async fn feed(mut pieces: Pieces<impl RequestBody>, writer: mpsc::Sender<Part>) -> Result<(), BodyError> {
    while let Some(piece) = pieces.next().await? {
        if writer.send(Part::Piece(piece)).await.is_err() {
            return Ok(());
        }
    }
    let _ = writer.send(Part::End).await;
    Ok(())
}

/// Writes a file, or leaves nothing. Runs on a thread that may block.
fn write(folder: &Path, named: Sha256, parts: mpsc::Receiver<Part>) -> Result<Received, ArtifactError> {
    let unusable = |error| ArtifactError::of_folder(folder, error);
    make(folder).map_err(unusable)?;
    // It is removed when it is dropped, unless it was persisted.
    let mut partial = tempfile::Builder::new()
        .prefix(PARTIAL)
        .tempfile_in(folder)
        .map_err(unusable)?;
    let (found, bytes) = copy(parts, partial.as_file_mut()).map_err(unusable)?;
    if found != named {
        return Err(ArtifactError::OtherContent { named, found, bytes });
    }
    let path = folder.join(named.to_string());
    let is_new = !path.exists();
    partial.as_file().sync_all().map_err(unusable)?;
    partial.persist(&path).map_err(|error| unusable(error.error))?;
    synced(folder).map_err(unusable)?;
    let artifact = StoredArtifact { sha256: named, bytes };
    Ok(Received { artifact, is_new })
}

/// Models are nobody else's business.
fn make(folder: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

/// The digest and the number of the bytes that were written.
fn copy(mut parts: mpsc::Receiver<Part>, file: &mut File) -> io::Result<(Sha256, u64)> {
    let (mut context, mut bytes) = (Context::new(&SHA256), 0);
    loop {
        match parts.blocking_recv() {
            Some(Part::Piece(piece)) => {
                context.update(&piece);
                file.write_all(&piece)?;
                bytes += piece.len() as u64;
            }
            Some(Part::End) => break,
            None => {
                return Err(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    "the upload was cut short",
                ));
            }
        }
    }
    let digest = context.finish();
    let digest = digest.as_ref().try_into();
    Ok((
        Sha256::new(digest.expect("a SHA-256 has 32 bytes; this is a bug")),
        bytes,
    ))
}

/// A name is there after a crash once its folder is on the disk.
fn synced(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::fs;
    use std::time::Duration;

    use axum::body::Body;
    use futures::stream;
    use tempfile::TempDir;

    use super::super::ArtifactFolder;
    use super::*;
    use crate::http::BodyReader;

    /// The SHA-256 of `abcdef`.
    const NAMED: &str = "bef57ec7f53a6d40beb640a780a639c83bc29ac8a9816f1fc6c5c6dcd93c4721";

    async fn received(folder: &TempDir, limit: usize, body: Body) -> Result<Received, ArtifactError> {
        let artifacts = Artifacts::new(ArtifactFolder::at(Some(folder.path().join("made"))));
        let pieces = BodyReader::new(limit, Duration::from_secs(5)).pieces(body)?;
        artifacts.receive(NAMED.parse().unwrap(), pieces).await
    }

    fn in_pieces<E: std::error::Error + Send + Sync + 'static>(
        pieces: impl IntoIterator<Item = Result<&'static str, E>, IntoIter: Send + 'static>,
    ) -> Body {
        Body::from_stream(stream::iter(pieces))
    }

    fn names(folder: &TempDir) -> Vec<String> {
        let Ok(entries) = fs::read_dir(folder.path().join("made")) else {
            return Vec::new();
        };
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.collect()
    }

    #[tokio::test]
    async fn what_has_the_right_digest_is_kept_under_it() {
        let folder = tempfile::tempdir().unwrap();
        for is_new in [true, false] {
            let body = in_pieces(["abc", "", "def"].map(Ok::<_, Infallible>));
            let received = received(&folder, 6, body).await.unwrap();
            assert_eq!((received.artifact.bytes, received.is_new), (6, is_new));
            assert_eq!(names(&folder), [NAMED]);
        }
        assert_eq!(
            fs::read(folder.path().join("made").join(NAMED)).unwrap(),
            b"abcdef"
        );
    }

    #[tokio::test]
    async fn of_what_is_not_as_it_should_be_nothing_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let error = received(&folder, 6, Body::from("abcdeg")).await.unwrap_err();
        assert!(
            matches!(error, ArtifactError::OtherContent { bytes: 6, .. }),
            "{error}"
        );
        assert!(error.to_string().contains(NAMED), "{error}");

        let cut = in_pieces([Ok("abc"), Err(io::Error::other("gone"))]);
        let error = received(&folder, 6, cut).await.unwrap_err();
        assert!(
            matches!(error, ArtifactError::Body(BodyError::Broken(_))),
            "{error}"
        );

        let long = in_pieces(["abc", "def", "g"].map(Ok::<_, Infallible>));
        let error = received(&folder, 6, long).await.unwrap_err();
        assert!(matches!(error, ArtifactError::TooLarge(6)), "{error}");
        assert_eq!(names(&folder), [""; 0]);
    }

    #[tokio::test]
    async fn an_upload_that_nobody_waits_for_any_more_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let (sender, parts) = mpsc::channel(PIECES);
        let (to, named) = (folder.path().join("made"), NAMED.parse().unwrap());
        let writing = tokio::task::spawn_blocking(move || write(&to, named, parts));
        sender
            .send(Part::Piece(Bytes::from_static(b"abcdef")))
            .await
            .unwrap();
        drop(sender);
        assert!(writing.await.unwrap().is_err());
        assert_eq!(names(&folder), [""; 0]);
    }

    #[tokio::test]
    async fn a_full_disk_is_told_as_one() {
        let full = ArtifactError::of_folder(Path::new("/models"), io::ErrorKind::StorageFull.into());
        assert!(full.to_string().contains("/models, is full"), "{full}");
        // `/dev/full` would do, but cannot be given a name; the kernel's number is what matters.
        let error = io::Error::from(rustix::io::Errno::NOSPC);
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    }
}

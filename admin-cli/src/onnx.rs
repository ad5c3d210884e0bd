//! An ONNX file that is to be deployed, and how the frontend comes by it.
//!
//! With the process runtime it is uploaded, unless the frontend has it. With Docker an image is made of it here
//! ([`image`]), in the engine that the frontend uses too.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::{Bytes, BytesMut};
use futures::stream::{self, Stream};
use ring::digest::{Context, SHA256};
use skysail_proto::deployment::{ONNX_IMAGE, OnnxFile};
use skysail_proto::ids::ModelId;
use skysail_proto::sha256::Sha256;
use tokio::fs::File;
use tokio::io::AsyncReadExt;
use tokio::time::{Duration, MissedTickBehavior, interval};

use crate::client::AdminClient;
use crate::cluster::Engine;
use crate::error::Error;
use crate::progress::Progress;

mod image;

/// The image that serves an ONNX file in Docker, unless another is named.
pub(crate) const BASE_IMAGE: &str = concat!("skysail/onnx:", env!("CARGO_PKG_VERSION"));

/// What ONNX files stay below, in bytes: they are written in protobuf, which takes no more.
const LIMIT: u64 = 2 * 1024 * 1024 * 1024;

/// How much is read at a time, in bytes.
const PIECE: usize = 256 * 1024;

/// How often a person is told how far it is.
const TELL_EVERY: Duration = Duration::from_millis(100);

/// An ONNX file, as it was found on the command line.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct LocalFile {
    path: PathBuf,
    bytes: u64,
}

/// Why a path names no ONNX file.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoFile {
    #[error("there is no such file")]
    Missing,
    #[error("it is not a file")]
    Folder,
    #[error("it is empty: was the model exported?")]
    Empty,
    #[error(
        "it has {}: an ONNX file stays below 2 GiB, and tensors in files beside it cannot be deployed",
        indicatif::BinaryBytes(*.0)
    )]
    TooLarge(u64),
    #[error("it cannot be read: {0}")]
    Unreadable(io::Error),
}

/// What a deployment names, once the frontend can have the file.
pub(crate) struct Deployed {
    /// The image.
    pub(crate) image: String,
    /// What the engine calls that image.
    pub(crate) image_id: Option<String>,
    /// The file, if it is an artifact.
    pub(crate) onnx: Option<OnnxFile>,
}

/// Parses the path of an ONNX file. What is in it the container judges.
pub(crate) fn parse_onnx(text: &str) -> Result<LocalFile, NoFile> {
    let path = PathBuf::from(text);
    let found = std::fs::metadata(&path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => NoFile::Missing,
        _ => NoFile::Unreadable(error),
    })?;
    if !found.is_file() {
        return Err(NoFile::Folder);
    }
    std::fs::File::open(&path).map_err(NoFile::Unreadable)?;
    match found.len() {
        0 => Err(NoFile::Empty),
        bytes if bytes >= LIMIT => Err(NoFile::TooLarge(bytes)),
        bytes => Ok(LocalFile { path, bytes }),
    }
}

/// Brings the file to where a frontend with this runtime finds it.
pub(crate) async fn bring(
    admin: &AdminClient,
    id: &ModelId,
    file: &LocalFile,
    base: &str,
) -> Result<Deployed, Error> {
    match &*admin.status().await?.read()?.runtime.kind {
        "process" => upload(admin, file).await,
        "docker" => image::make(&Engine::connect().await?, id, file, base).await,
        kind => Err(Error::NoOnnxRuntime(kind.to_owned())),
    }
}

/// Uploads the file, unless the frontend has it.
async fn upload(admin: &AdminClient, file: &LocalFile) -> Result<Deployed, Error> {
    let sha256 = file.digest().await?;
    match admin.artifact(sha256).await {
        Ok(_) => {}
        Err(error) if error.is_not_found() => {
            let mut progress = Progress::start();
            let sending = file.open().await?;
            let done = sending.done.clone();
            let uploaded = admin.upload(sha256, file.bytes, sending.pieces());
            let step = format!("uploading {}", file.path.display());
            let told = Told {
                step: &step,
                done: &done,
                bytes: file.bytes,
            };
            told.while_doing(&mut progress, uploaded).await?;
        }
        Err(error) => return Err(error.into()),
    }
    Ok(Deployed {
        image: ONNX_IMAGE.to_owned(),
        image_id: None,
        onnx: Some(OnnxFile { sha256 }),
    })
}

/// A file that is being read, and how far.
struct Reading {
    file: File,
    bytes: u64,
    done: Arc<AtomicU64>,
}

impl LocalFile {
    fn unreadable(&self, reason: io::Error) -> Error {
        Error::File {
            path: self.path.clone(),
            reason,
        }
    }

    async fn open(&self) -> Result<Reading, Error> {
        let file = File::open(&self.path).await;
        Ok(Reading {
            file: file.map_err(|error| self.unreadable(error))?,
            bytes: self.bytes,
            done: Arc::default(),
        })
    }

    async fn digest(&self) -> Result<Sha256, Error> {
        let mut reading = self.open().await?;
        let mut context = Context::new(&SHA256);
        while let Some(piece) = reading.next().await.map_err(|error| self.unreadable(error))? {
            context.update(&piece);
        }
        let digest = context.finish().as_ref().try_into();
        Ok(Sha256::new(
            digest.expect("a SHA-256 has 32 bytes; this is a bug"),
        ))
    }
}

impl Reading {
    /// The next piece. A file that ends early was changed, and one that grew is read as far as it was long.
    async fn next(&mut self) -> io::Result<Option<Bytes>> {
        let left = self.bytes - self.done.load(Ordering::Relaxed);
        if left == 0 {
            return Ok(None);
        }
        let mut piece = BytesMut::with_capacity(PIECE);
        let read = (&mut self.file)
            .take(left.min(PIECE as u64))
            .read_buf(&mut piece)
            .await?;
        if read == 0 {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "it was changed while it was read",
            ));
        }
        self.done.fetch_add(read as u64, Ordering::Relaxed);
        Ok(Some(piece.freeze()))
    }

    /// All pieces.
    fn pieces(self) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
        stream::try_unfold(self, async |mut reading| {
            Ok(reading.next().await?.map(|piece| (piece, reading)))
        })
    }
}

/// What a person is told while a file travels.
struct Told<'a> {
    step: &'a str,
    done: &'a AtomicU64,
    bytes: u64,
}

impl Told<'_> {
    async fn while_doing<T>(&self, progress: &mut Progress, work: impl Future<Output = T>) -> T {
        let mut ticks = interval(TELL_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        tokio::pin!(work);
        loop {
            progress.bytes(self.step, self.done.load(Ordering::Relaxed), self.bytes);
            tokio::select! {
                done = &mut work => return done,
                _ = ticks.tick() => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use futures::TryStreamExt;

    use super::*;

    #[test]
    fn what_is_no_onnx_file_is_told_before_anything_is_sent() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
        fs::write(path("empty"), "").unwrap();
        fs::write(path("model"), "model").unwrap();
        let large = fs::File::create(path("large")).unwrap();
        large.set_len(LIMIT).unwrap();
        for (name, expected) in [
            ("missing", "no such file"),
            ("", "not a file"),
            ("empty", "exported"),
            ("large", "2.00 GiB"),
        ] {
            let error = parse_onnx(&path(name)).unwrap_err().to_string();
            assert!(error.contains(expected), "{name}: {error}");
        }
        large.set_len(LIMIT - 1).unwrap();
        assert_eq!(parse_onnx(&path("large")).unwrap().bytes, LIMIT - 1);
        assert_eq!(parse_onnx(&path("model")).unwrap().bytes, 5);
    }

    fn file_of(folder: &tempfile::TempDir, content: &[u8]) -> LocalFile {
        let path = folder.path().join("model.onnx");
        fs::write(&path, content).unwrap();
        parse_onnx(path.to_str().unwrap()).unwrap()
    }

    #[tokio::test]
    async fn a_file_is_read_in_pieces_up_to_its_length() {
        let folder = tempfile::tempdir().unwrap();
        let content = vec![7; 3 * PIECE + 1];
        let file = file_of(&folder, &content);
        let reading = file.open().await.unwrap();
        let done = reading.done.clone();
        let pieces: Vec<Bytes> = reading.pieces().try_collect().await.unwrap();
        assert!(pieces.len() > 3 && pieces.iter().all(|piece| piece.len() <= PIECE));
        assert_eq!(pieces.concat(), content);
        assert_eq!(done.load(Ordering::Relaxed), content.len() as u64);
    }

    #[tokio::test]
    async fn a_file_that_is_cut_short_meanwhile_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let file = file_of(&folder, b"abcdef");
        assert!(file.digest().await.is_ok());
        fs::write(&file.path, "abc").unwrap();
        let error = file.digest().await.unwrap_err().to_string();
        assert!(error.contains("changed while it was read"), "{error}");
    }

    #[tokio::test]
    async fn the_digest_is_that_of_the_content() {
        let folder = tempfile::tempdir().unwrap();
        let digest = file_of(&folder, b"abc").digest().await.unwrap();
        assert_eq!(digest.short(), "ba7816bf8f01");
    }
}

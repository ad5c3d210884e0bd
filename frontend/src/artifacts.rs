//! Artifacts: files that were uploaded, each named by the SHA-256 of its content, in one folder.
//!
//! A file that has its name is whole: it is received under another name, hashed while it is written, and renamed once
//! its digest is right. A digest never comes to mean another file, so nothing here is ever changed.
//!
//! - [`receipt`]: writes what is uploaded.
//! - [`sweep`]: removes what no version has named for a day.
//!
//! Not here: what a version makes of its file (the runtime), and who may upload (`admin::access`). Frontends on
//! several machines have a folder each.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use parking_lot::Mutex;
use skysail_proto::admin::StoredArtifact;
use skysail_proto::sha256::Sha256;
use tokio::sync::Semaphore;

use crate::http::BodyError;

mod receipt;
mod sweep;

pub(crate) use receipt::Received;
pub(crate) use sweep::Sweeper;

/// Uploads that are written at a time; each takes a thread. Further ones wait, and their clients with them.
const UPLOADS: usize = 8;

/// Where artifacts are; nowhere on a frontend that was given no folder and has no home.
#[derive(Clone, Debug, Default)]
pub(crate) struct ArtifactFolder(Option<PathBuf>);

/// The artifacts of a frontend.
#[derive(Debug)]
pub(crate) struct Artifacts {
    folder: ArtifactFolder,
    uploads: Semaphore,
    /// Held while an artifact is asked for, and while one is judged and removed: an artifact that was asked for is not
    /// removed in the same moment.
    asking: Mutex<()>,
}

/// Why an artifact was not kept, or not looked for.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ArtifactError {
    /// There is no folder.
    #[error(
        "this frontend has no folder for artifacts, because neither HOME nor XDG_DATA_HOME is set: start it with \
         --artifacts DIR"
    )]
    NoFolder,
    /// The body is larger than the limit, in bytes.
    #[error("the artifact is larger than {0} bytes: start the frontend with a larger --artifact-limit")]
    TooLarge(usize),
    /// The body could not be read.
    #[error(transparent)]
    Body(BodyError),
    /// The body is something else than its path says.
    #[error(
        "the body's SHA-256 is {found}, and not {named} as the path says ({bytes} bytes came): nothing was kept; \
         `sha256sum FILE` prints the right one"
    )]
    OtherContent {
        /// What the path says.
        named: Sha256,
        /// What came.
        found: Sha256,
        /// How many bytes came.
        bytes: u64,
    },
    /// The disk is full.
    #[error("the disk with the folder for artifacts, {}, is full: nothing was kept; make room, or start the frontend \
             with another --artifacts DIR", .0.display())]
    DiskFull(PathBuf),
    /// The folder cannot be used.
    #[error("the folder for artifacts, {}, cannot be used: {cause}; the frontend's user must be allowed to write there, \
             or start the frontend with another --artifacts DIR", .folder.display())]
    Unusable {
        /// The folder.
        folder: PathBuf,
        /// The system's error; part of the message already.
        cause: io::Error,
    },
}

impl From<BodyError> for ArtifactError {
    fn from(error: BodyError) -> Self {
        match error {
            BodyError::TooLarge(limit) => Self::TooLarge(limit),
            other => Self::Body(other),
        }
    }
}

impl ArtifactError {
    fn of_folder(folder: &Path, cause: io::Error) -> Self {
        let folder = folder.to_owned();
        match cause.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::DiskFull(folder),
            _ => Self::Unusable { folder, cause },
        }
    }
}

impl ArtifactFolder {
    /// The folder at this path, which is made with the first upload.
    pub(crate) fn at(path: Option<PathBuf>) -> Self {
        Self(path)
    }

    fn path(&self) -> Result<&Path, ArtifactError> {
        self.0.as_deref().ok_or(ArtifactError::NoFolder)
    }

    /// Where an artifact is, if it is here.
    pub(crate) fn path_of(&self, sha256: &Sha256) -> Option<PathBuf> {
        Some(self.0.as_ref()?.join(sha256.to_string()))
    }
}

impl Artifacts {
    /// The artifacts in a folder.
    pub(crate) fn new(folder: ArtifactFolder) -> Self {
        Self {
            folder,
            uploads: Semaphore::new(UPLOADS),
            asking: Mutex::default(),
        }
    }

    /// An artifact, if it is here. To ask is to want it: it then stays for a day at least.
    pub(crate) async fn ask(
        self: &Arc<Self>,
        sha256: Sha256,
    ) -> Result<Option<StoredArtifact>, ArtifactError> {
        let artifacts = self.clone();
        let looked = tokio::task::spawn_blocking(move || artifacts.look(sha256)).await;
        looked.expect("a look at a file does not panic; this is a bug")
    }

    fn look(&self, sha256: Sha256) -> Result<Option<StoredArtifact>, ArtifactError> {
        let folder = self.folder.path()?;
        let _asking = self.asking.lock();
        match renewed(&folder.join(sha256.to_string())) {
            Ok(bytes) => Ok(Some(StoredArtifact { sha256, bytes })),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(ArtifactError::of_folder(folder, error)),
        }
    }
}

/// The size of a file, which counts as new from now on. The owner of a file may set its times.
fn renewed(path: &Path) -> io::Result<u64> {
    if !fs::metadata(path)?.is_file() {
        return Err(io::ErrorKind::NotFound.into());
    }
    let file = File::open(path)?;
    file.set_modified(SystemTime::now())?;
    Ok(file.metadata()?.len())
}

//! What is in files: their SHA-256, remembered as long as a file seems to be the same, because a model can be large.

use std::collections::HashMap;
use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use std::{fmt::Write as _, fs};

use parking_lot::Mutex;
use ring::digest::{Context, SHA256};

/// Files that are remembered; when there are more, all are forgotten and read again.
const REMEMBERED: usize = 1024;

/// How often a file is read that changes meanwhile.
const ATTEMPTS: usize = 3;

/// A file that changed less than this ago is not remembered: its times may not tell of the next change. Clocks of
/// file systems go in steps of some milliseconds, of some network ones in steps of a second or two.
const SETTLED: Duration = Duration::from_secs(3);

/// How much is read at a time, in bytes.
const PIECE: usize = 256 * 1024;

/// The digests of files that were read.
#[derive(Debug, Default)]
pub(super) struct Digests {
    known: Mutex<HashMap<PathBuf, Arc<Known>>>,
}

/// What is known of one file. Locked while it is read, so that of many who ask only the first reads it.
type Known = Mutex<Option<Content>>;

/// What was in a file, and the file it was in.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Content {
    /// In lower-case hexadecimal digits.
    pub(super) sha256: String,
    file: Identity,
}

/// Why there is no digest.
#[derive(Debug)]
pub(super) enum NoDigest {
    /// It was written to each time it was read.
    Changing,
    /// The system refused.
    Unreadable(io::Error),
}

/// What tells one content of a file from another without reading it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Identity {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    /// Nobody can set this one back.
    changed: (i64, i64),
}

impl Digests {
    /// What is in a file. Blocks while it is read, unless it is known.
    pub(super) fn of(&self, path: &Path) -> Result<Content, NoDigest> {
        let known = self.known_of(path);
        let mut known = known.lock();
        for _ in 0..ATTEMPTS {
            let mut file = open(path).map_err(NoDigest::Unreadable)?;
            let before = Identity::of(&file.metadata().map_err(NoDigest::Unreadable)?);
            if let Some(known) = known.as_ref().filter(|known| known.file == before) {
                return Ok(known.clone());
            }
            let sha256 = sha256(&mut file).map_err(NoDigest::Unreadable)?;
            let after = file.metadata().map_err(NoDigest::Unreadable)?;
            if Identity::of(&after) == before {
                let content = Content { sha256, file: before };
                *known = is_settled(&after).then(|| content.clone());
                return Ok(content);
            }
        }
        Err(NoDigest::Changing)
    }

    fn known_of(&self, path: &Path) -> Arc<Known> {
        let mut known = self.known.lock();
        if known.len() >= REMEMBERED && !known.contains_key(path) {
            known.clear();
        }
        known.entry(path.to_owned()).or_default().clone()
    }
}

/// Opens a file that can be read to its end: to open a pipe would wait for somebody who writes.
fn open(path: &Path) -> io::Result<File> {
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::other("it is not a file"));
    }
    File::open(path)
}

impl Content {
    /// Whether the file at this path is the one that was read, unchanged. That it lost a name meanwhile is no change.
    pub(super) fn is_in(&self, path: &Path) -> bool {
        let found = fs::metadata(path).map(|found| Identity::of(&found));
        found.is_ok_and(|found| {
            Identity {
                changed: self.file.changed,
                ..found
            } == self.file
        })
    }
}

impl Identity {
    fn of(found: &Metadata) -> Self {
        Self {
            device: found.dev(),
            inode: found.ino(),
            size: found.size(),
            modified: (found.mtime(), found.mtime_nsec()),
            changed: (found.ctime(), found.ctime_nsec()),
        }
    }
}

fn is_settled(found: &Metadata) -> bool {
    let changed = Duration::new(
        found.ctime().try_into().unwrap_or_default(),
        found.ctime_nsec().try_into().unwrap_or_default(),
    );
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH + changed);
    since.is_ok_and(|since| since >= SETTLED)
}

fn sha256(file: &mut File) -> io::Result<String> {
    let mut context = Context::new(&SHA256);
    let mut piece = vec![0; PIECE];
    loop {
        match file.read(&mut piece) {
            Ok(0) => break,
            Ok(read) => context.update(&piece[..read]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    let mut written = String::with_capacity(64);
    for byte in context.finish().as_ref() {
        let _ = write!(written, "{byte:02x}");
    }
    Ok(written)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_told_by_its_content_also_where_its_size_and_time_stay_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model");
        fs::write(&path, "abc").unwrap();
        let modified = fs::metadata(&path).unwrap().modified().unwrap();
        let digests = Digests::default();
        let first = digests.of(&path).unwrap();
        assert_eq!(
            first.sha256,
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
        assert!(first.is_in(&path));

        fs::write(&path, "abd").unwrap();
        File::options()
            .write(true)
            .open(&path)
            .unwrap()
            .set_modified(modified)
            .unwrap();
        assert_ne!(digests.of(&path).unwrap().sha256, first.sha256);

        fs::remove_file(&path).unwrap();
        assert!(!first.is_in(&path));
        let Err(NoDigest::Unreadable(error)) = digests.of(&path) else {
            panic!("it is gone")
        };
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_file_that_seems_to_be_the_same_is_not_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model");
        fs::write(&path, "abc").unwrap();
        let digests = Digests::default();
        let known = Content {
            sha256: "known".into(),
            ..digests.of(&path).unwrap()
        };
        *digests.known_of(&path).lock() = Some(known.clone());
        assert_eq!(digests.of(&path).unwrap(), known);
        // Another file of that name, with the same content.
        fs::write(folder.path().join("other"), "abc").unwrap();
        fs::rename(folder.path().join("other"), &path).unwrap();
        assert_ne!(digests.of(&path).unwrap().sha256, "known");
        assert!(!known.is_in(&path));
    }
}

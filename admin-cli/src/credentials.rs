//! The admin API's token: given by the person, or kept in the user's configuration folder by the admin URL.
//!
//! Each token is a file of its own, `skysail/tokens/HOST_PORT` in `$XDG_CONFIG_HOME` or `~/.config`, that only
//! its owner can read: commands that run at once do not disturb each other, and `cat` shows what there is.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write as _};
use std::net::{IpAddr, Ipv6Addr};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::{env, process};

use reqwest::Url;
use skysail_proto::admin_token::{AdminToken, InvalidToken};

/// The token itself, for where a file is inconvenient.
const TOKEN_VARIABLE: &str = "SKYSAIL_ADMIN_TOKEN";

/// The variable of `--admin-token-file`, the same for the server.
const FILE_VARIABLE: &str = "SKYSAIL_ADMIN_TOKEN_FILE";

/// Why there is no token to send, or why one cannot be kept.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CredentialsError {
    /// A file cannot be read, written or removed.
    #[error("cannot {verb} the admin token in {}: {reason}", path.display())]
    File {
        verb: &'static str,
        path: PathBuf,
        reason: io::Error,
    },
    /// What was found is no token.
    #[error("{place} holds no admin token: {reason}")]
    NoToken { place: String, reason: InvalidToken },
    /// Nobody's configuration folder is known.
    #[error(
        "there is no place to keep the admin token: neither XDG_CONFIG_HOME (an absolute path) nor HOME is set"
    )]
    NoFolder,
}

impl CredentialsError {
    /// What to do about it, where that can be guessed.
    pub(crate) fn hint(&self) -> Option<String> {
        match self {
            Self::File { verb: "read", .. } => Some(format!(
                "only whoever may administer the cluster can read it; another is named by --admin-token-file or \
                 {TOKEN_VARIABLE}"
            )),
            Self::NoFolder => Some("set HOME, or XDG_CONFIG_HOME to a folder of yours".into()),
            Self::File { verb: "keep", .. } => {
                Some("make the folder writable, or name another by XDG_CONFIG_HOME".into())
            }
            Self::File { .. } | Self::NoToken { .. } => None,
        }
    }
}

/// A token, and where it was found, for advice should it be refused.
#[derive(Clone, Debug)]
pub(crate) struct FoundToken {
    pub(crate) token: AdminToken,
    pub(crate) place: String,
}

/// The token to send to `admin_url`: of the file that was named, of the environment, or the one that is kept;
/// none if there is none of these.
pub(crate) fn find(named: Option<&Path>, admin_url: &Url) -> Result<Option<FoundToken>, CredentialsError> {
    if let Some(path) = named {
        return read(path).map(Some);
    }
    if let Some(text) = variable(TOKEN_VARIABLE) {
        return parse(&text.to_string_lossy(), TOKEN_VARIABLE.into()).map(Some);
    }
    if let Some(path) = variable(FILE_VARIABLE) {
        return read(Path::new(&path)).map(Some);
    }
    match Credentials::of_user() {
        Ok(kept) => kept.find(admin_url),
        Err(CredentialsError::NoFolder) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The tokens that are kept.
#[derive(Clone, Debug)]
pub(crate) struct Credentials {
    folder: PathBuf,
}

impl Credentials {
    /// Those in the user's configuration folder.
    pub(crate) fn of_user() -> Result<Self, CredentialsError> {
        let home = || Some(PathBuf::from(variable("HOME")?).join(".config"));
        let folder = variable("XDG_CONFIG_HOME").map(PathBuf::from);
        // By the specification of these folders, a relative path counts as not set: it means another folder
        // wherever a command is run.
        let folder = folder.filter(|folder| folder.is_absolute()).or_else(home);
        Ok(Self {
            folder: folder
                .ok_or(CredentialsError::NoFolder)?
                .join("skysail")
                .join("tokens"),
        })
    }

    /// The token kept for the admin API at `admin_url`.
    pub(crate) fn find(&self, admin_url: &Url) -> Result<Option<FoundToken>, CredentialsError> {
        match read(&self.path(admin_url)) {
            Err(CredentialsError::File { reason, .. }) if reason.kind() == io::ErrorKind::NotFound => {
                Ok(None)
            }
            found => found.map(Some),
        }
    }

    /// Keeps the token of the admin API at `admin_url`, in place of one kept before, and returns where.
    pub(crate) fn save(&self, admin_url: &Url, token: &AdminToken) -> Result<PathBuf, CredentialsError> {
        let path = self.path(admin_url);
        match self.write(&path, token) {
            Ok(()) => Ok(path),
            Err(reason) => Err(failed("keep", path, reason)),
        }
    }

    /// Forgets the token of the admin API at `admin_url`, if one is kept.
    pub(crate) fn forget(&self, admin_url: &Url) -> Result<(), CredentialsError> {
        let path = self.path(admin_url);
        match fs::remove_file(&path) {
            Err(reason) if reason.kind() != io::ErrorKind::NotFound => Err(failed("forget", path, reason)),
            _ => Ok(()),
        }
    }

    /// Forgets the token of this [`fingerprint`] for the admin API at `admin_url`. What else is kept there is
    /// another cluster's by now.
    pub(crate) fn forget_one(&self, admin_url: &Url, print: &str) -> Result<(), CredentialsError> {
        match self.find(admin_url) {
            Ok(Some(found)) if fingerprint(&found.token) == print => self.forget(admin_url),
            _ => Ok(()),
        }
    }

    /// Makes the folder, to find out whether a token can be kept.
    pub(crate) fn prepare(&self) -> Result<(), CredentialsError> {
        self.make_folder()
            .map_err(|reason| failed("keep", self.folder.clone(), reason))
    }

    fn make_folder(&self) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.folder)
    }

    fn path(&self, admin_url: &Url) -> PathBuf {
        self.folder.join(file_name(admin_url))
    }

    /// Whoever looks meanwhile finds the token before or this one.
    fn write(&self, path: &Path, token: &AdminToken) -> io::Result<()> {
        self.make_folder()?;
        // A name with a `~` is no URL's, so it is in nobody's way.
        let draft = self.folder.join(format!("~{}", process::id()));
        let written = || {
            let _ = fs::remove_file(&draft);
            let mut file = OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&draft)?;
            writeln!(file, "{}", token.reveal())?;
            fs::rename(&draft, path)
        };
        written().inspect_err(|_| drop(fs::remove_file(&draft)))
    }
}

/// Tells tokens apart without saying them: the beginning of the SHA-256, in hexadecimal digits.
pub(crate) fn fingerprint(token: &AdminToken) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, token.reveal().as_bytes());
    digest.as_ref()[..8].iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// A variable of the environment; one that is empty counts as not set.
fn variable(name: &str) -> Option<OsString> {
    env::var_os(name).filter(|value| !value.is_empty())
}

fn read(path: &Path) -> Result<FoundToken, CredentialsError> {
    let text = fs::read(path).map_err(|reason| failed("read", path.to_owned(), reason))?;
    parse(&String::from_utf8_lossy(&text), path.display().to_string())
}

fn parse(text: &str, place: String) -> Result<FoundToken, CredentialsError> {
    match text.parse() {
        Ok(token) => Ok(FoundToken { token, place }),
        Err(reason) => Err(CredentialsError::NoToken { place, reason }),
    }
}

fn failed(verb: &'static str, path: PathBuf, reason: io::Error) -> CredentialsError {
    CredentialsError::File { verb, path, reason }
}

/// One name for all ways to write the same address: `HOST_PORT`, and `_PATH` behind a proxy that has one.
fn file_name(url: &Url) -> String {
    let mut name = plain(&host_name(url));
    let port = url.port_or_known_default().unwrap_or_default();
    let _ = write!(name, "_{port}");
    for segment in url.path().split('/').filter(|segment| !segment.is_empty()) {
        let _ = write!(name, "_{}", plain(segment));
    }
    name
}

/// The host, with one name for loopback.
fn host_name(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    let host = host.trim_matches(['[', ']']).trim_end_matches('.');
    let is_loopback =
        |ip: IpAddr| ip.to_canonical() == IpAddr::from([127, 0, 0, 1]) || ip == Ipv6Addr::LOCALHOST;
    if host == "localhost" || host.parse().is_ok_and(is_loopback) {
        return "localhost".to_owned();
    }
    host.to_owned()
}

/// Text as a part of a file's name, one for each text: what could mean something else is written in hexadecimal.
fn plain(text: &str) -> String {
    let mut name = String::new();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'-' => name.push(byte.into()),
            _ => drop(write!(name, "%{byte:02x}")),
        }
    }
    name
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn kept() -> (tempfile::TempDir, Credentials) {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join("skysail").join("tokens");
        (home, Credentials { folder })
    }

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

    fn token(text: &str) -> AdminToken {
        text.parse().unwrap()
    }

    fn found(kept: &Credentials, at: &str) -> Option<AdminToken> {
        kept.find(&url(at)).unwrap().map(|found| found.token)
    }

    #[test]
    fn loopback_is_one_place_by_whatever_name() {
        let (_home, kept) = kept();
        kept.save(&url("http://127.0.0.1:1338"), &token("0123456789abcdef"))
            .unwrap();
        for same in [
            "http://localhost:1338",
            "http://LOCALHOST.:1338/",
            "http://[::1]:1338",
            "http://[::ffff:127.0.0.1]:1338",
        ] {
            assert_eq!(found(&kept, same), Some(token("0123456789abcdef")), "{same}");
        }
        for other in [
            "http://localhost",
            "http://localhost:1339",
            "http://127.0.0.2:1338",
            "http://localhost:1338/blue",
            "http://box:1338",
        ] {
            assert_eq!(found(&kept, other), None, "{other}");
        }
    }

    #[test]
    fn a_token_takes_the_place_of_the_one_before_and_can_be_forgotten() {
        let (_home, kept) = kept();
        let at = url("http://box:1338");
        kept.forget(&at).unwrap();
        kept.save(&at, &token("0123456789abcdef")).unwrap();
        kept.save(&at, &token("fedcba9876543210")).unwrap();
        assert_eq!(found(&kept, at.as_str()), Some(token("fedcba9876543210")));
        kept.forget(&at).unwrap();
        assert_eq!(found(&kept, at.as_str()), None);
    }

    #[test]
    fn a_token_that_took_the_place_of_another_is_not_forgotten_for_that() {
        let (_home, kept) = kept();
        let at = url("http://localhost:1338");
        let (before, now) = (token("0123456789abcdef"), token("fedcba9876543210"));
        kept.save(&at, &now).unwrap();
        kept.forget_one(&at, &fingerprint(&before)).unwrap();
        assert_eq!(found(&kept, at.as_str()), Some(now.clone()));
        kept.forget_one(&at, &fingerprint(&now)).unwrap();
        assert_eq!(found(&kept, at.as_str()), None);
        kept.forget_one(&at, &fingerprint(&now)).unwrap();
    }

    #[test]
    fn only_its_owner_can_read_a_token() {
        let (_home, kept) = kept();
        let path = kept.save(&url("http://box"), &token("0123456789abcdef")).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(&kept.folder)), (0o600, 0o700));
        assert_eq!(path.file_name().unwrap(), "box_80");
        assert_eq!(
            fs::read_dir(&kept.folder).unwrap().count(),
            1,
            "nothing else is left"
        );
    }

    #[test]
    fn different_urls_have_different_names_that_stay_in_the_folder() {
        let urls = [
            "http://box:1",
            "http://box:1/a",
            "http://box:1/a/b",
            "http://box:1/a_b",
            "http://box:1/a%2Fb",
            "http://[fe80::1]:1",
        ];
        let mut names: Vec<_> = urls.iter().map(|text| file_name(&url(text))).collect();
        assert!(names.iter().all(|name| !name.contains(['/', '~'])), "{names:?}");
        names.sort();
        names.dedup();
        assert_eq!(names.len(), urls.len(), "{names:?}");
    }

    #[test]
    fn what_is_no_token_is_said_with_its_place_and_never_quoted() {
        let (_home, kept) = kept();
        let at = url("http://box:1338");
        let path = kept.save(&at, &token("0123456789abcdef")).unwrap();
        fs::write(&path, "hunter2").unwrap();
        let error = kept.find(&at).unwrap_err().to_string();
        assert!(
            error.contains(path.to_str().unwrap()) && error.contains("7 characters"),
            "{error}"
        );
        assert!(!error.contains("hunter2"), "{error}");
    }
}

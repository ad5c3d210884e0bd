//! The bearer token of the admin API: whether one is asked for, and which.
//!
//! A cluster has one token, whose hash its catalog holds. A frontend that was given a token asks for that; one
//! that listens beyond loopback asks for the cluster's, and until the catalog says which that is, for one that it
//! made by itself; any other asks for none. So neither a store that is empty nor one that is away opens the API.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use ring::digest::{SHA256, digest};
use ring::rand::{SystemRandom, generate};
use skysail_core::catalog::{Catalog, Change, Secret, Settings};
use skysail_proto::admin_token::AdminToken;
use skysail_proto::error_code::ErrorCode;
use tokio::sync::watch;

use super::super::AdminError;

/// A token in a file.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenFile {
    /// Where.
    pub path: PathBuf,
    /// What it holds.
    pub token: AdminToken,
}

impl TokenFile {
    /// Reads one; what is wrong is said in a sentence that does not repeat the content.
    pub fn read(path: &Path) -> Result<Self, String> {
        let text = fs::read(path).map_err(|error| error.to_string())?;
        let token = String::from_utf8_lossy(&text).parse::<AdminToken>();
        Ok(Self {
            path: path.to_owned(),
            token: token.map_err(|why| why.to_string())?,
        })
    }

    /// Reads the one that this machine made before, or makes one, that only its owner can read.
    pub fn made(path: &Path) -> io::Result<Self> {
        if !path.exists() {
            make(path)?;
        }
        Self::read(path).map_err(io::Error::other)
    }

    /// Whether others than its owner and its group may read it.
    pub fn is_open_to_others(&self) -> bool {
        fs::metadata(&self.path).is_ok_and(|file| file.mode() & 0o004 != 0)
    }
}

/// Makes a token. Of frontends that do so at once one is the first, and the others find its token.
fn make(path: &Path) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let random: [u8; 32] = generate(&SystemRandom::new())
        .map_err(|_| io::Error::other("the system has no random numbers"))?
        .expose();
    let token: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
    let draft = path.with_extension(format!("{:016x}", fastrand::u64(..)));
    let written = || {
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&draft)?;
        writeln!(file, "{token}")?;
        file.sync_all()?;
        match fs::hard_link(&draft, path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            _ => Ok(()),
        }
    };
    let made = written();
    let _ = fs::remove_file(&draft);
    made
}

/// Which token a frontend asks for.
#[derive(Clone, Debug)]
pub(crate) enum Asks {
    /// None.
    Nothing,
    /// For the one that it was given.
    Given(TokenFile),
    /// For the cluster's; until the catalog says which that is, for this one.
    Clusters(TokenFile),
}

impl Asks {
    /// What the catalog should hold by this frontend's wish.
    pub(super) fn own_hash(&self) -> Option<Secret> {
        match self {
            Self::Nothing => None,
            Self::Given(file) | Self::Clusters(file) => Some(hash(file.token.reveal())),
        }
    }
}

/// The token that is asked for now.
#[derive(Clone)]
pub(crate) struct AskedToken {
    asks: Arc<Asks>,
    own: Option<Secret>,
    catalogs: watch::Receiver<Option<Arc<Catalog>>>,
}

impl AskedToken {
    /// What is asked for by `asks`, in the cluster with these catalogs.
    pub(crate) fn new(asks: Asks, catalogs: watch::Receiver<Option<Arc<Catalog>>>) -> Self {
        Self {
            own: asks.own_hash(),
            asks: Arc::new(asks),
            catalogs,
        }
    }

    pub(super) fn is_asked(&self) -> bool {
        !matches!(*self.asks, Asks::Nothing)
    }

    /// These changes, with the hash of this frontend's token if the catalog has none: a store is given one with
    /// the first change that a person asks for.
    pub(crate) fn with_hash(&self, catalog: &Catalog, mut changes: Vec<Change>) -> Vec<Change> {
        if self.own.is_some() && catalog.settings.admin_token.is_none() {
            changes.push(Change::put(Settings {
                admin_token: self.own.clone(),
                ..Settings::clone(&catalog.settings)
            }));
        }
        changes
    }

    /// Refuses who does not show the token.
    pub(super) fn admit(&self, headers: &HeaderMap) -> Result<(), AdminError> {
        let refuse = |detail: &str| Err(AdminError::new(ErrorCode::Unauthenticated, detail));
        let mut shown = headers.get_all(AUTHORIZATION).iter();
        let (Some(shown), None) = (shown.next(), shown.next()) else {
            return refuse(
                "the admin API asks for its token: send it in one header `Authorization: Bearer TOKEN` (`skysail \
                 --admin-token-file FILE` does)",
            );
        };
        let Some(token) = shown.to_str().ok().and_then(bearer) else {
            return refuse("`Authorization` holds no bearer token: write `Authorization: Bearer TOKEN`");
        };
        match self.expected() {
            Some(expected) if are_equal(&expected, &hash(token)) => Ok(()),
            _ => refuse("the token is not this cluster's admin token"),
        }
    }

    fn expected(&self) -> Option<Secret> {
        match *self.asks {
            Asks::Clusters(_) => {
                let catalog = self.catalogs.borrow();
                let clusters = catalog
                    .as_ref()
                    .and_then(|catalog| catalog.settings.admin_token.clone());
                clusters.or_else(|| self.own.clone())
            }
            Asks::Given(_) | Asks::Nothing => self.own.clone(),
        }
    }
}

/// The token in `Bearer TOKEN`.
fn bearer(header: &str) -> Option<&str> {
    let (scheme, token) = header.trim().split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim_start())
}

fn hash(token: &str) -> Secret {
    let digest = digest(&SHA256, token.as_bytes());
    Secret::new(
        digest
            .as_ref()
            .try_into()
            .expect("SHA-256 has 32 bytes; this is a bug"),
    )
}

/// Compares in a time that does not tell where they differ.
fn are_equal(one: &Secret, other: &Secret) -> bool {
    let pairs = one.bytes().iter().zip(other.bytes());
    let differences = pairs.fold(0, |differences, (one, other)| differences | (one ^ other));
    std::hint::black_box(differences) == 0
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;
    use skysail_core::catalog::{Document, Generation};

    use super::*;

    const TOKEN: &str = "0123456789abcdef";
    const OTHER: &str = "fedcba9876543210";

    fn file(token: &str) -> TokenFile {
        TokenFile {
            path: "/somewhere".into(),
            token: token.parse().unwrap(),
        }
    }

    fn catalog(token: Option<&str>) -> Arc<Catalog> {
        let settings = Settings {
            admin_token: token.map(hash),
            ..Settings::default()
        };
        Arc::new(Catalog::default().with(&[Change::put(settings)], Generation::default()))
    }

    fn admits(asked: &AskedToken, shown: &[&str]) -> bool {
        let mut headers = HeaderMap::new();
        for value in shown {
            headers.append(AUTHORIZATION, HeaderValue::from_str(value).unwrap());
        }
        asked.admit(&headers).is_ok()
    }

    #[test]
    fn the_token_is_shown_in_one_header_as_a_bearer_token() {
        let (_store, catalogs) = watch::channel(None);
        let asked = AskedToken::new(Asks::Given(file(TOKEN)), catalogs);
        let bearer = format!("Bearer {TOKEN}");
        for good in [
            bearer.clone(),
            format!("bearer {TOKEN}"),
            format!("BEARER  {TOKEN} "),
        ] {
            assert!(admits(&asked, &[&good]), "{good}");
        }
        for bad in [
            String::new(),
            TOKEN.into(),
            "Bearer".into(),
            "Bearer ".into(),
            format!("Basic {TOKEN}"),
            format!("Bearer {OTHER}"),
            format!("Bearer {TOKEN}0"),
            format!("Bearer {}", &TOKEN[1..]),
            format!("Bearer{TOKEN}"),
        ] {
            assert!(!admits(&asked, &[&bad]), "{bad}");
        }
        assert!(!admits(&asked, &[]));
        assert!(!admits(&asked, &[&bearer, &bearer]), "which of them?");
    }

    #[test]
    fn the_catalogs_token_is_asked_for_unless_one_was_given() {
        let (store, catalogs) = watch::channel(None);
        let made = AskedToken::new(Asks::Clusters(file(TOKEN)), catalogs.clone());
        let given = AskedToken::new(Asks::Given(file(TOKEN)), catalogs);
        let [own, others] = [TOKEN, OTHER].map(|token| format!("Bearer {token}"));
        for unknown in [None, Some(catalog(None))] {
            store.send_replace(unknown);
            assert!(admits(&made, &[&own]) && !admits(&made, &[&others]));
        }
        store.send_replace(Some(catalog(Some(OTHER))));
        assert!(admits(&made, &[&others]) && !admits(&made, &[&own]));
        assert!(admits(&given, &[&own]) && !admits(&given, &[&others]));
    }

    #[test]
    fn the_first_change_carries_the_hash_and_later_ones_do_not() {
        let (_store, catalogs) = watch::channel(None);
        let asked = AskedToken::new(Asks::Clusters(file(TOKEN)), catalogs.clone());
        let [Change::Put(Document::Settings(put))] = &asked.with_hash(&Catalog::default(), Vec::new())[..]
        else {
            panic!("no settings are put");
        };
        assert_eq!(put.admin_token, Some(hash(TOKEN)));
        assert!(asked.with_hash(&catalog(Some(OTHER)), Vec::new()).is_empty());
        let nothing = AskedToken::new(Asks::Nothing, catalogs);
        assert!(nothing.with_hash(&Catalog::default(), Vec::new()).is_empty());
        assert!(!nothing.is_asked());
    }

    #[test]
    fn a_token_is_made_once_and_only_its_owner_can_read_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder
            .path()
            .join("state")
            .join("skysail")
            .join("a.b.admin-token");
        let made = TokenFile::made(&path).unwrap();
        assert_eq!(TokenFile::made(&path).unwrap(), made);
        assert_eq!(made.token.reveal().len(), 64);
        assert!(!made.is_open_to_others());
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
        let names = fs::read_dir(path.parent().unwrap()).unwrap().count();
        assert_eq!(names, 1, "nothing else is left");
    }

    #[test]
    fn of_those_that_make_one_at_once_all_have_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        let makers: Vec<_> = (0..8)
            .map(|_| {
                let path = path.clone();
                std::thread::spawn(move || TokenFile::made(&path).unwrap())
            })
            .collect();
        let made: Vec<_> = makers.into_iter().map(|maker| maker.join().unwrap()).collect();
        assert!(made.iter().all(|one| *one == made[0]));
    }

    #[test]
    fn a_file_that_holds_no_token_is_refused_without_repeating_it() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), "hunter2").unwrap();
        let why = TokenFile::read(file.path()).unwrap_err();
        assert!(why.contains("7 characters") && !why.contains("hunter2"), "{why}");
        assert!(TokenFile::read(Path::new("/no/such/file")).is_err());
    }
}

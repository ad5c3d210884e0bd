//! Removes artifacts that nothing needs any more: that no version has named for a day, as this frontend saw it, and
//! that nobody uploaded or asked for in that day.
//!
//! A client that deploys asks for the artifact, or uploads it, moments before a version names it. So an artifact that is being
//! deployed is never removed. A day also leaves time to notice that the metadata store lost something.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use skysail_core::catalog::Catalog;
use skysail_proto::sha256::Sha256;
use tokio::time::{Instant, MissedTickBehavior};
use tracing::{info, warn};

use super::Artifacts;
use super::receipt::PARTIAL;
use crate::reconcile::Report;
use crate::store::CatalogStore;

/// How long an artifact stays that nothing needs.
const KEPT: Duration = Duration::from_secs(24 * 60 * 60);

/// The time between two looks.
const LOOK_EVERY: Duration = Duration::from_secs(10 * 60);

/// Removes artifacts that nothing needs.
pub(crate) struct Sweeper {
    /// The artifacts.
    pub artifacts: Arc<Artifacts>,
    /// Has the registered versions.
    pub store: Arc<dyn CatalogStore>,
    /// Whether the store's word counts.
    pub report: Arc<Report>,
}

/// Since when no version names an artifact.
#[derive(Default)]
struct Unnamed(BTreeMap<Sha256, Instant>);

impl Sweeper {
    /// Looks for ever.
    pub(crate) async fn run(self) {
        let mut unnamed = Unnamed::default();
        let mut ticks = tokio::time::interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let Some(catalog) = self.catalog() else { continue };
            let artifacts = self.artifacts.clone();
            let (now, named) = (Instant::now(), named(&catalog));
            let looked = tokio::task::spawn_blocking(move || {
                let looked = artifacts.sweep(&mut unnamed, &named, now);
                (unnamed, looked)
            });
            let Ok((kept, looked)) = looked.await else { return };
            unnamed = kept;
            if let Err(error) = looked {
                warn!(%error, "artifacts that nothing needs were not removed");
            }
        }
    }

    /// What versions there are, if that is certain.
    fn catalog(&self) -> Option<Arc<Catalog>> {
        let is_certain = self.store.health().borrow().is_up() && self.report.waits_for_a_person().is_none();
        is_certain.then(|| self.store.watch().borrow().clone()).flatten()
    }
}

/// The artifacts that versions name.
fn named(catalog: &Catalog) -> BTreeSet<Sha256> {
    let deployments = catalog
        .versions()
        .filter_map(|(_, version)| version.spec.deployment.as_ref());
    deployments
        .filter_map(|deployment| Some(deployment.onnx?.sha256))
        .collect()
}

impl Unnamed {
    /// Which of the artifacts that are here no version has named for as long as they are kept.
    fn for_long(&mut self, here: BTreeSet<Sha256>, named: &BTreeSet<Sha256>, now: Instant) -> Vec<Sha256> {
        self.0
            .retain(|artifact, _| here.contains(artifact) && !named.contains(artifact));
        let unnamed = here.into_iter().filter(|artifact| !named.contains(artifact));
        let since = unnamed.map(|artifact| (artifact, *self.0.entry(artifact).or_insert(now)));
        since
            .filter(|(_, since)| now.duration_since(*since) >= KEPT)
            .map(|(artifact, _)| artifact)
            .collect()
    }
}

impl Artifacts {
    fn sweep(&self, unnamed: &mut Unnamed, named: &BTreeSet<Sha256>, now: Instant) -> io::Result<()> {
        let Ok(folder) = self.folder.path() else {
            return Ok(());
        };
        let names = match names(folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            names => names?,
        };
        let artifacts = names.iter().filter_map(|name| name.parse().ok()).collect();
        for artifact in unnamed.for_long(artifacts, named, now) {
            if self.remove_old(&folder.join(artifact.to_string()))? {
                info!(%artifact, "removed an artifact that no version has named for a day");
            }
        }
        // Of a frontend that was killed while it received them.
        for partial in names.iter().filter(|name| name.starts_with(PARTIAL)) {
            self.remove_old(&folder.join(partial))?;
        }
        Ok(())
    }

    /// Removes a file, unless it was written or asked for of late.
    fn remove_old(&self, path: &Path) -> io::Result<bool> {
        let _asking = self.asking.lock();
        let modified = match fs::metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            found => found?.modified()?,
        };
        let age = SystemTime::now().duration_since(modified).unwrap_or_default();
        if age < KEPT {
            return Ok(false);
        }
        fs::remove_file(path)?;
        Ok(true)
    }
}

fn names(folder: &Path) -> io::Result<Vec<String>> {
    let entries = fs::read_dir(folder)?;
    entries
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::super::ArtifactFolder;
    use super::*;

    fn artifact(byte: u8) -> Sha256 {
        Sha256::new([byte; 32])
    }

    #[test]
    fn an_artifact_is_needless_once_no_version_has_named_it_for_a_day() {
        let mut unnamed = Unnamed::default();
        let here = || BTreeSet::from([artifact(1), artifact(2)]);
        let (none, first) = (BTreeSet::new(), BTreeSet::from([artifact(1)]));
        let start = Instant::now();
        let just_before = start + KEPT - Duration::from_secs(1);
        assert!(unnamed.for_long(here(), &none, start).is_empty());
        assert!(unnamed.for_long(here(), &none, just_before).is_empty());
        // The first is named now: its day begins anew.
        assert_eq!(unnamed.for_long(here(), &first, start + KEPT), [artifact(2)]);
        assert_eq!(unnamed.for_long(here(), &none, start + KEPT), [artifact(2)]);
        let later = start + 2 * KEPT;
        assert_eq!(unnamed.for_long(here(), &none, later), [artifact(1), artifact(2)]);
    }

    fn aged(path: &Path, age: Duration) {
        fs::write(path, "content").unwrap();
        let file = File::options().write(true).open(path).unwrap();
        file.set_modified(SystemTime::now() - age).unwrap();
    }

    #[test]
    fn what_was_asked_for_of_late_and_what_has_another_name_stays() {
        let folder = tempfile::tempdir().unwrap();
        let artifacts = Artifacts::new(ArtifactFolder::at(Some(folder.path().to_owned())));
        let path = |name: &str| folder.path().join(name);
        let [named, old, asked] = [1, 2, 3].map(artifact);
        for artifact in [named, old, asked] {
            aged(&path(&artifact.to_string()), 2 * KEPT);
        }
        aged(&path(".partial-old"), 2 * KEPT);
        aged(&path(".partial-new"), Duration::ZERO);
        aged(&path("a stranger's"), 2 * KEPT);

        let (mut unnamed, now) = (Unnamed::default(), Instant::now());
        let names = BTreeSet::from([named]);
        artifacts.sweep(&mut unnamed, &names, now).unwrap();
        assert!(path(&old.to_string()).exists() && !path(".partial-old").exists());
        assert!(artifacts.look(asked).unwrap().is_some());
        artifacts.sweep(&mut unnamed, &names, now + KEPT).unwrap();
        assert_eq!(artifacts.look(old).unwrap(), None);
        for kept in [
            &named.to_string(),
            &asked.to_string(),
            ".partial-new",
            "a stranger's",
        ] {
            assert!(path(kept).exists(), "{kept}");
        }
    }

    #[test]
    fn a_folder_that_was_never_made_is_no_error() {
        let folder = tempfile::tempdir().unwrap();
        let at = |path: Option<&str>| {
            let path = path.map(|path| folder.path().join(path));
            Artifacts::new(ArtifactFolder::at(path)).sweep(
                &mut Unnamed::default(),
                &BTreeSet::new(),
                Instant::now(),
            )
        };
        at(Some("nowhere")).unwrap();
        at(None).unwrap();
    }
}

//! What proves that a store holds the whole catalog and not a part of it.
//!
//! A store can lose documents and keep its generation: Redis under an LRU policy evicts exactly what is
//! seldom touched. So each commit also writes how many documents there are and a digest, the sum of their
//! hashes modulo 2⁴⁸: a commit adds and subtracts the hashes of what it changes and reads nothing else. A
//! hash is the first 48 bits of a SHA-1, which Redis' scripts can compute too, and whose sums a double (a
//! number of Lua) holds exactly. It is proof against accidents and not against forgers, who could write
//! another digest just as well.

use std::collections::BTreeMap;

use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};

use super::document::{Documents, Edit, Kind};

/// Digests are sums modulo this.
const MODULUS: u64 = 1 << 48;

/// How many names are spelled out before the rest is counted.
const NAMED: usize = 5;

/// How many documents a catalog has, and the sum of their hashes.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Proof {
    pub(super) count: u64,
    pub(super) digest: u64,
}

/// The hash of each document of a catalog, as it is written down.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Inventory {
    hashes: BTreeMap<(Kind, String), u64>,
    digest: u64,
}

impl Inventory {
    pub(super) fn of(documents: &Documents) -> Self {
        let mut inventory = Self::default();
        for (kind, name, document) in documents.iter() {
            inventory.put(kind, name, hash(kind, name, document));
        }
        inventory
    }

    /// What a store of these documents has to have written beside them.
    pub(super) fn proof(&self) -> Proof {
        Proof {
            count: self.hashes.len() as u64,
            digest: self.digest,
        }
    }

    /// The hash of a document, if it is there.
    pub(super) fn hash_of(&self, kind: Kind, name: &str) -> Option<u64> {
        self.hashes.get(&(kind, name.to_owned())).copied()
    }

    /// Keeps up with a commit.
    pub(super) fn apply(&mut self, edit: &Edit<'_>) {
        match &edit.document {
            Some(document) => self.put(
                edit.kind,
                edit.name,
                hash(edit.kind, edit.name, document.as_bytes()),
            ),
            None => {
                let gone = self.hashes.remove(&(edit.kind, edit.name.to_owned()));
                self.subtract(gone);
            }
        }
    }

    fn put(&mut self, kind: Kind, name: &str, hash: u64) {
        let before = self.hashes.insert((kind, name.to_owned()), hash);
        self.subtract(before);
        self.digest = (self.digest + hash) % MODULUS;
    }

    fn subtract(&mut self, hash: Option<u64>) {
        self.digest = (self.digest + MODULUS - hash.unwrap_or_default()) % MODULUS;
    }

    /// What is wrong with the documents that were `found`, beside what is held here, in words; nothing if they
    /// are the same.
    pub(super) fn damage(&self, found: &Self) -> Option<String> {
        let missing = self.hashes.keys().filter(|key| !found.hashes.contains_key(key));
        let added = found.hashes.keys().filter(|key| !self.hashes.contains_key(key));
        let other = |(key, hash): &(&(Kind, String), &u64)| {
            found.hashes.get(*key).is_some_and(|found| found != *hash)
        };
        let changed = self.hashes.iter().filter(other).map(|(key, _)| key);
        let parts = [
            named(missing, "missing"),
            named(changed, "changed"),
            named(added, "added by nobody"),
        ];
        let parts: Vec<String> = parts.into_iter().flatten().collect();
        (!parts.is_empty()).then(|| parts.join(", "))
    }

    /// How many documents there are of each kind, in words.
    pub(super) fn counted(&self) -> String {
        let of = |kind| self.hashes.keys().filter(|(found, _)| *found == kind).count();
        let settings = match of(Kind::Settings) {
            0 => "no settings",
            _ => "settings",
        };
        format!(
            "{}, {} and {settings}",
            counted(of(Kind::Application), "application"),
            counted(of(Kind::Model), "model"),
        )
    }
}

/// As in "application `a` and model `b` are missing"; nothing where there is nothing.
fn named<'a>(keys: impl Iterator<Item = &'a (Kind, String)>, what: &str) -> Option<String> {
    let mut plural = 0;
    let mut names: Vec<String> = keys
        .inspect(|(kind, _)| plural += 1 + usize::from(*kind == Kind::Settings))
        .map(|(kind, name)| match kind {
            Kind::Settings => "the cluster's settings".to_owned(),
            other => format!("{} `{name}`", other.name()),
        })
        .collect();
    if names.is_empty() {
        return None;
    }
    let more = names.len().saturating_sub(NAMED);
    names.truncate(NAMED);
    if more > 0 {
        names.push(format!("{more} more"));
    }
    let verb = if plural == 1 { "is" } else { "are" };
    Some(format!("{} {verb} {what}", names.join(" and ")))
}

/// As in "1 model" and "no models".
pub(super) fn counted(count: usize, what: &str) -> String {
    match count {
        0 => format!("no {what}s"),
        1 => format!("1 {what}"),
        many => format!("{many} {what}s"),
    }
}

/// The hash of one document. `proof.lua` computes the same.
fn hash(kind: Kind, name: &str, document: &[u8]) -> u64 {
    let text = [kind.name().as_bytes(), name.as_bytes(), document].join(&0);
    let sum = digest(&SHA1_FOR_LEGACY_USE_ONLY, &text);
    let first = sum.as_ref().iter().take(6);
    first.fold(0, |hash, byte| hash << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn documents(applications: &[(&str, &str)], models: &[(&str, &str)]) -> Documents {
        let owned = |all: &[(&str, &str)]| {
            all.iter()
                .map(|(name, json)| (name.to_string(), json.as_bytes().to_vec()))
                .collect()
        };
        Documents {
            applications: owned(applications),
            models: owned(models),
            ..Documents::default()
        }
    }

    #[test]
    fn a_hash_is_the_first_48_bits_of_the_sha_1_of_kind_name_and_document() {
        // printf 'model\0m\0{}' | sha1sum
        assert_eq!(hash(Kind::Model, "m", b"{}"), 0xda88_bf43_538c);
    }

    #[test]
    fn what_is_missing_changed_and_added_is_named() {
        let held = Inventory::of(&documents(&[("a", "1"), ("b", "2")], &[("m", "3")]));
        assert_eq!(held.damage(&held), None);
        let found = Inventory::of(&documents(&[("a", "1"), ("b", "4"), ("c", "5")], &[]));
        assert_eq!(
            held.damage(&found).as_deref(),
            Some("model `m` is missing, application `b` is changed, application `c` is added by nobody")
        );
        let names: Vec<String> = (0..8).map(|number| format!("app-{number}")).collect();
        let many: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "")).collect();
        let damage = Inventory::of(&documents(&many, &[]))
            .damage(&Inventory::default())
            .unwrap();
        assert!(
            damage.ends_with("application `app-4` and 3 more are missing"),
            "{damage}"
        );
    }

    proptest! {
        /// Whatever is done in whatever order, the running sum is the sum of what is there.
        #[test]
        fn a_running_digest_is_that_of_the_documents_there_are(
            edits in prop::collection::vec((any::<bool>(), "[a-c]", prop::option::of("[xy]{0,2}")), 0..40),
        ) {
            let mut running = Inventory::default();
            let mut there: BTreeMap<(Kind, String), String> = BTreeMap::new();
            for (is_model, name, document) in &edits {
                let kind = if *is_model { Kind::Model } else { Kind::Application };
                match document {
                    Some(text) => drop(there.insert((kind, name.clone()), text.clone())),
                    None => drop(there.remove(&(kind, name.clone()))),
                }
                running.apply(&Edit { kind, name, document: document.clone() });
            }
            let of = |wanted: Kind| {
                let all = there.iter().filter(|((kind, _), _)| *kind == wanted);
                all.map(|((_, name), text)| (name.clone(), text.clone().into_bytes())).collect()
            };
            let whole = Documents {
                applications: of(Kind::Application),
                models: of(Kind::Model),
                ..Documents::default()
            };
            prop_assert_eq!(running.proof(), Inventory::of(&whole).proof());
            prop_assert_eq!(running, Inventory::of(&whole));
        }
    }
}

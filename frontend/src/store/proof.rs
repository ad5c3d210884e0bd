//! The proof that a store holds the whole catalog.
//!
//! A store can lose documents and keep its generation: Redis under an LRU policy evicts exactly the documents
//! that are seldom touched. So each commit also writes the number of documents and a digest, the sum of their
//! hashes modulo 2⁴⁸. A commit adds and subtracts the hashes of the documents it changes and reads no others. A
//! hash is the first 48 bits of a SHA-1. Redis' scripts can compute it too, and a double (a number of Lua)
//! holds the sums exactly. The digest detects accidents, not forgery: a forger could write a matching digest as
//! well.

use std::collections::BTreeMap;

use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use skysail_core::catalog::{Key, Kind};

use super::document::{Documents, Edit};

/// Digests are sums modulo this.
const MODULUS: u64 = 1 << 48;

/// How many names are spelled out; the rest is counted.
const NAMED: usize = 5;

/// The number of documents of a catalog, and the sum of their hashes modulo [`MODULUS`].
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Proof {
    pub(super) count: u64,
    pub(super) digest: u64,
}

/// Document key → hash of the stored document.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Inventory {
    hashes: BTreeMap<String, u64>,
    digest: u64,
}

impl Inventory {
    pub(super) fn of(documents: &Documents) -> Self {
        let mut inventory = Self::default();
        for (key, document) in documents {
            inventory.put(key, hash(key, document));
        }
        inventory
    }

    /// The proof that a store with these documents has to hold.
    pub(super) fn proof(&self) -> Proof {
        Proof {
            count: self.hashes.len() as u64,
            digest: self.digest,
        }
    }

    /// The hash of the document under `key`, if there is one.
    pub(super) fn hash_of(&self, key: &str) -> Option<u64> {
        self.hashes.get(key).copied()
    }

    /// Applies one change of a commit.
    pub(super) fn apply(&mut self, edit: &Edit) {
        match &edit.document {
            Some(document) => self.put(&edit.key, hash(&edit.key, document.as_bytes())),
            None => {
                let gone = self.hashes.remove(&edit.key);
                self.subtract(gone);
            }
        }
    }

    fn put(&mut self, key: &str, hash: u64) {
        let before = self.hashes.insert(key.to_owned(), hash);
        self.subtract(before);
        self.digest = (self.digest + hash) % MODULUS;
    }

    fn subtract(&mut self, hash: Option<u64>) {
        self.digest = (self.digest + MODULUS - hash.unwrap_or_default()) % MODULUS;
    }

    /// How the `found` documents differ from these, in words; `None` if they are the same.
    pub(super) fn damage(&self, found: &Self) -> Option<String> {
        let missing = self.hashes.keys().filter(|key| !found.hashes.contains_key(*key));
        let added = found.hashes.keys().filter(|key| !self.hashes.contains_key(*key));
        let other =
            |(key, hash): &(&String, &u64)| found.hashes.get(*key).is_some_and(|found| found != *hash);
        let changed = self.hashes.iter().filter(other).map(|(key, _)| key);
        let parts = [
            named(missing, "missing"),
            named(changed, "changed"),
            named(added, "added by nobody"),
        ];
        let parts: Vec<String> = parts.into_iter().flatten().collect();
        (!parts.is_empty()).then(|| parts.join(", "))
    }

    /// The number of documents of each kind, in words. Kinds without documents are left out.
    pub(super) fn counted(&self) -> String {
        let kind_of = |key: &String| Key::parse(key).map(|key| key.kind);
        let of = |kind| self.hashes.keys().filter(|key| kind_of(key) == kind).count();
        let parts = Kind::ALL
            .into_iter()
            .map(|kind| match (of(Some(kind)), kind) {
                (0, _) => None,
                (_, Kind::Settings) => Some(kind.word().to_owned()),
                (count, _) => Some(counted(count, kind.word())),
            })
            .chain([match of(None) {
                0 => None,
                count => Some(format!("{} of other kinds", counted(count, "document"))),
            }]);
        let parts: Vec<String> = parts.flatten().collect();
        match parts.split_last() {
            None => "no documents".to_owned(),
            Some((last, [])) => last.clone(),
            Some((last, others)) => format!("{} and {last}", others.join(", ")),
        }
    }
}

/// As in "application `a` and model `b` are missing"; `None` if there are no `keys`.
fn named<'a>(keys: impl Iterator<Item = &'a String>, what: &str) -> Option<String> {
    let mut plural = 0;
    let mut names: Vec<String> = keys
        .map(|key| {
            plural += 1;
            match Key::parse(key) {
                Some(key) if key == Key::settings() => {
                    plural += 1;
                    "the cluster's settings".to_owned()
                }
                Some(Key { kind, name }) => format!("{} `{name}`", kind.word()),
                None => format!("document `{key}`"),
            }
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
fn hash(key: &str, document: &[u8]) -> u64 {
    let text = [key.as_bytes(), document].join(&0);
    let sum = digest(&SHA1_FOR_LEGACY_USE_ONLY, &text);
    let first = sum.as_ref().iter().take(6);
    first.fold(0, |hash, byte| hash << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn documents(all: &[(&str, &str)]) -> Documents {
        all.iter()
            .map(|(key, json)| (key.to_string(), json.as_bytes().to_vec()))
            .collect()
    }

    #[test]
    fn a_hash_is_the_first_48_bits_of_the_sha_1_of_key_and_document() {
        // printf 'model/m\0{}' | sha1sum
        assert_eq!(hash("model/m", b"{}"), 0x89a4_555c_9851);
    }

    #[test]
    fn documents_are_counted_by_kind() {
        let counted = |keys: &[&str]| {
            let all: Vec<(&str, &str)> = keys.iter().map(|key| (*key, "{}")).collect();
            Inventory::of(&documents(&all)).counted()
        };
        assert_eq!(counted(&[]), "no documents");
        assert_eq!(counted(&["settings/cluster"]), "settings");
        assert_eq!(
            counted(&["application/a", "application/b", "model/m", "settings/cluster"]),
            "2 applications, 1 model and settings"
        );
        assert_eq!(
            counted(&["model/m", "x", "unicorn/u"]),
            "1 model and 2 documents of other kinds"
        );
    }

    #[test]
    fn what_is_missing_changed_and_added_is_named() {
        let held = Inventory::of(&documents(&[
            ("application/a", "1"),
            ("application/b", "2"),
            ("model/m", "3"),
        ]));
        assert_eq!(held.damage(&held), None);
        let found = Inventory::of(&documents(&[
            ("application/a", "1"),
            ("application/b", "4"),
            ("unicorn/c", "5"),
        ]));
        assert_eq!(
            held.damage(&found).as_deref(),
            Some("model `m` is missing, application `b` is changed, document `unicorn/c` is added by nobody")
        );
        let names: Vec<String> = (0..8).map(|number| format!("application/app-{number}")).collect();
        let many: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "")).collect();
        let damage = Inventory::of(&documents(&many))
            .damage(&Inventory::default())
            .unwrap();
        assert!(
            damage.ends_with("application `app-4` and 3 more are missing"),
            "{damage}"
        );
    }

    proptest! {
        /// After any commits in any order, the running sum equals the sum over the documents.
        #[test]
        fn a_running_digest_is_that_of_the_documents_there_are(
            edits in prop::collection::vec((any::<bool>(), "[a-c]", prop::option::of("[xy]{0,2}")), 0..40),
        ) {
            let mut running = Inventory::default();
            let mut there = Documents::new();
            for (is_model, name, document) in &edits {
                let kind = if *is_model { Kind::Model } else { Kind::Application };
                let key = format!("{}/{name}", kind.word());
                match document {
                    Some(text) => drop(there.insert(key.clone(), text.clone().into_bytes())),
                    None => drop(there.remove(&key)),
                }
                running.apply(&Edit { key, document: document.clone() });
            }
            prop_assert_eq!(running.proof(), Inventory::of(&there).proof());
            prop_assert_eq!(running, Inventory::of(&there));
        }
    }
}

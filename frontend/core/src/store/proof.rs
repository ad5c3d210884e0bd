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

use crate::catalog::{Change, Key, Kind};

/// Digests are sums modulo this.
const MODULUS: u64 = 1 << 48;

/// How many documents a catalog has, and the sum of their hashes.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Proof {
    /// How many documents.
    pub count: u64,
    /// The sum of their hashes, modulo 2⁴⁸.
    pub digest: u64,
}

/// The hash of each document of a store, as it is written down, by its key.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Inventory {
    hashes: BTreeMap<String, u64>,
    digest: u64,
}

impl Inventory {
    /// The inventory of these documents: texts by keys, as they were found.
    pub fn of(documents: &BTreeMap<String, Vec<u8>>) -> Self {
        let mut inventory = Self::default();
        for (key, document) in documents {
            inventory.put(key, hash(key, document));
        }
        inventory
    }

    /// What a store of these documents has to have written beside them.
    pub fn proof(&self) -> Proof {
        Proof {
            count: self.hashes.len() as u64,
            digest: self.digest,
        }
    }

    /// The hash of a document, if it is there.
    pub fn hash_of(&self, key: &str) -> Option<u64> {
        self.hashes.get(key).copied()
    }

    /// Keeps up with a commit.
    pub fn apply(&mut self, change: &Change) {
        match change {
            Change::Put(document) => {
                let key = document.key().to_string();
                self.put(&key, hash(&key, document.to_json().as_bytes()));
            }
            Change::Delete(key) => self.remove(&key.to_string()),
        }
    }

    fn put(&mut self, key: &str, hash: u64) {
        let before = self.hashes.insert(key.to_owned(), hash);
        self.subtract(before);
        self.digest = (self.digest + hash) % MODULUS;
    }

    fn remove(&mut self, key: &str) {
        let gone = self.hashes.remove(key);
        self.subtract(gone);
    }

    fn subtract(&mut self, hash: Option<u64>) {
        self.digest = (self.digest + MODULUS - hash.unwrap_or_default()) % MODULUS;
    }

    /// How the documents that were `found` differ from those held here; none if they are the same.
    pub fn difference(&self, found: &Self) -> Option<Difference> {
        let without = |one: &Self, other: &Self| {
            let keys = one.hashes.keys().filter(|key| !other.hashes.contains_key(*key));
            keys.cloned().collect()
        };
        let is_other =
            |(key, hash): &(&String, &u64)| found.hashes.get(*key).is_some_and(|found| found != *hash);
        let changed = self.hashes.iter().filter(is_other);
        let difference = Difference {
            missing: without(self, found),
            changed: changed.map(|(key, _)| key.clone()).collect(),
            added: without(found, self),
        };
        (difference != Difference::default()).then_some(difference)
    }

    /// How many documents there are of each kind.
    pub fn contents(&self) -> Contents {
        let mut contents = Contents::default();
        for key in self.hashes.keys() {
            match Key::parse(key) {
                Some(key) => *contents.kinds.entry(key.kind).or_default() += 1,
                None => contents.others += 1,
            }
        }
        contents
    }
}

/// How the documents of a store differ from those it should have. Each list has keys as they were found, in order.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Difference {
    /// Keys that should be there.
    pub missing: Vec<String>,
    /// Keys whose documents are not as they were written.
    pub changed: Vec<String>,
    /// Keys that should not be there.
    pub added: Vec<String>,
}

/// How many documents a store has.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Contents {
    /// Of each kind that has any.
    pub kinds: BTreeMap<Kind, usize>,
    /// Of kinds that are unknown here.
    pub others: usize,
}

/// The hash of one document. The scripts of the Redis store compute the same (`proof.lua`).
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
    use crate::catalog::{Document, Settings};

    type Documents = BTreeMap<String, Vec<u8>>;

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
        let keys = [
            "application/a",
            "application/b",
            "model/m",
            "settings/cluster",
            "x",
            "unicorn/u",
        ];
        let contents = Inventory::of(&documents(&keys.map(|key| (key, "{}")))).contents();
        let kinds = [(Kind::Application, 2), (Kind::Model, 1), (Kind::Settings, 1)];
        assert_eq!(contents.kinds, kinds.into());
        assert_eq!(contents.others, 2);
        assert_eq!(Inventory::default().contents(), Contents::default());
    }

    #[test]
    fn what_is_missing_changed_and_added_is_told_apart() {
        let held = Inventory::of(&documents(&[
            ("application/a", "1"),
            ("application/b", "2"),
            ("model/m", "3"),
        ]));
        assert_eq!(held.difference(&held), None);
        let found = Inventory::of(&documents(&[
            ("application/a", "1"),
            ("application/b", "4"),
            ("unicorn/c", "5"),
        ]));
        let difference = Difference {
            missing: vec!["model/m".into()],
            changed: vec!["application/b".into()],
            added: vec!["unicorn/c".into()],
        };
        assert_eq!(held.difference(&found), Some(difference));
    }

    #[test]
    fn a_commit_is_kept_up_with_as_it_is_written() {
        let settings = Document::Settings(Settings::default());
        let key = settings.key();
        let written = [(key.to_string(), settings.to_json().into_bytes())];
        let mut inventory = Inventory::default();
        inventory.apply(&Change::Put(settings));
        assert_eq!(inventory, Inventory::of(&written.into()));
        inventory.apply(&Change::Delete(key));
        assert_eq!(inventory, Inventory::default());
    }

    proptest! {
        /// Whatever is done in whatever order, the running sum is the sum of what is there.
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
                    Some(text) => {
                        running.put(&key, hash(&key, text.as_bytes()));
                        there.insert(key, text.clone().into_bytes());
                    }
                    None => {
                        running.remove(&key);
                        there.remove(&key);
                    }
                }
            }
            prop_assert_eq!(running.proof(), Inventory::of(&there).proof());
            prop_assert_eq!(running, Inventory::of(&there));
        }
    }
}

//! A store that lost something: when it did, and what to say about it.
//!
//! Redis can lose acknowledged writes (a crash between two syncs, a failover, an old dump, an empty disk), and
//! single documents of a generation that stays (an eviction, a slip of an operator's hand; `proof` tells).
//! To follow it then would tear a cluster down on the word of a store that forgot it, so a frontend that
//! holds something newer goes on with that, and says so in Redis: from then on nobody writes, whoever follows
//! the store, until a person has decided. The decision begins another life of the store (an incarnation)
//! that names the lives it replaces; whoever holds a generation of one of those follows it, so that one
//! decision is one for all frontends, also for those that hear of it late.

use std::collections::BTreeSet;
use std::time::Duration;

use skysail_core::catalog::{Catalog, Generation};

use crate::store::incarnation::{generation_after, remembered_lives};
use crate::store::proof::{Inventory, Proof, counted};

/// The generation a store is at, and what it is to others.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Stored {
    pub(super) generation: Generation,
    /// The incarnations whose generations this one takes the place of, by a person's decision.
    pub(super) replaces: Vec<String>,
    /// What its documents have to be; nothing where that is not written any more.
    pub(super) proof: Option<Proof>,
}

impl Stored {
    /// The same store one write later, in the place of these lives as well.
    pub(super) fn adopting(held: &Catalog, lives: BTreeSet<String>) -> Self {
        Self {
            generation: generation_after(&held.generation),
            replaces: remembered_lives(lives.into_iter().chain(held.replaces.iter().cloned())),
            proof: None,
        }
    }

    /// What is wrong with the documents that were `found` in it, in words: beside those that are `held`, where
    /// they are of the same generation. Nothing if it is whole.
    pub(super) fn damage(&self, found: &Inventory, held: Option<&Inventory>) -> Option<String> {
        if self.proof == Some(found.proof()) {
            return None;
        }
        if let Some(damage) = held.and_then(|held| held.damage(found)) {
            return Some(damage);
        }
        let number = self.generation.number;
        Some(match self.proof {
            None => format!("what proves generation {number} whole is gone"),
            Some(_) if self.generation.incarnation.is_empty() => {
                format!("its generation is gone, but {} are there", found.counted())
            }
            Some(should) if should.count != found.proof().count => {
                format!(
                    "generation {number} should have {}, but there are {}",
                    counted(usize::try_from(should.count).unwrap_or(usize::MAX), "document"),
                    found.counted()
                )
            }
            Some(_) => format!("the documents of generation {number} are not as they were written"),
        })
    }

    /// Whether this store lost something that a frontend with a snapshot of `held` has.
    pub(super) fn lost(&self, held: &Generation) -> bool {
        if held.incarnation.is_empty() {
            return false;
        }
        if held.incarnation == self.generation.incarnation {
            return self.generation.number < held.number;
        }
        !self.replaces.contains(&held.incarnation)
    }
}

/// What one look at Redis shows beside the announcements.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Seen {
    pub(super) stored: Stored,
    /// How many documents there are.
    pub(super) documents: u64,
    /// Whether a frontend said that this generation is broken.
    pub(super) broken: bool,
    /// The newest generation that a frontend said to hold.
    pub(super) held_back: Option<Generation>,
    /// For how long there still is the wish that it be restored.
    pub(super) wish: Option<Duration>,
}

impl Seen {
    /// Whether nothing speaks against it being the generation that is held here, and whole. That the documents
    /// are as they were written only reading them can tell.
    pub(super) fn is_known(&self, held: Option<&Generation>, inventory: &Inventory) -> bool {
        let proof = inventory.proof();
        !self.broken
            && held == Some(&self.stored.generation)
            && self.stored.proof == Some(proof)
            && self.documents == proof.count
    }
}

/// What a store lost.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Setback {
    /// What the store is at.
    pub(super) stored: Stored,
    /// The newest generation that there was.
    pub(super) newest: Generation,
    /// Whether a frontend is known to hold it.
    pub(super) is_held: bool,
    /// Whether this frontend holds something the store lost.
    pub(super) ours: bool,
    /// What is wrong with the documents of a generation that is there, in words.
    pub(super) damage: Option<String>,
}

impl Setback {
    /// Whether, and what, the store lost: of what is held here, or of what another frontend said to hold.
    pub(super) fn of(held: Option<&Generation>, seen: &Seen) -> Option<Self> {
        let lost = |generation: &&Generation| seen.stored.lost(generation);
        let ours = held.filter(lost);
        let theirs = seen.held_back.as_ref().filter(lost);
        let newest = match (ours, theirs) {
            (Some(ours), Some(theirs)) if is_newer(ours, theirs) => ours,
            (_, Some(theirs)) => theirs,
            (Some(ours), None) => ours,
            (None, None) => return None,
        };
        Some(Self {
            stored: seen.stored.clone(),
            newest: newest.clone(),
            is_held: true,
            ours: ours.is_some(),
            damage: None,
        })
    }

    /// The documents of the generation that the store is at are damaged, of which `held` is a snapshot, or of
    /// one before, and another frontend said to hold `held_back`.
    pub(super) fn of_damage(
        stored: Stored,
        damage: String,
        held: Option<&Generation>,
        held_back: Option<&Generation>,
    ) -> Self {
        let of_this_life = |one: &&Generation| {
            !one.incarnation.is_empty() && one.incarnation == stored.generation.incarnation
        };
        let ours = held.filter(of_this_life);
        let holders = [ours, held_back.filter(of_this_life)];
        let newest_held = holders.into_iter().flatten().max_by_key(|one| one.number);
        let is_held = newest_held.is_some_and(|held| held.number >= stored.generation.number);
        Self {
            newest: newest_held
                .filter(|_| is_held)
                .unwrap_or(&stored.generation)
                .clone(),
            is_held,
            ours: ours.is_some(),
            damage: Some(damage),
            stored,
        }
    }

    /// A store that was never written, and nobody holds anything of.
    pub(super) fn of_nothing() -> Self {
        Self {
            stored: Stored::default(),
            newest: Generation::default(),
            is_held: false,
            ours: false,
            damage: None,
        }
    }

    /// The generation that ends the doubt: above all that are known, in a life of its own.
    pub(super) fn settled(&self, held: Option<&Catalog>, incarnation: String) -> Stored {
        let held_generation = held.map(|held| &held.generation);
        let lives = [Some(&self.newest), held_generation, Some(&self.stored.generation)];
        let numbers = lives.iter().flatten().map(|generation| generation.number);
        let number = numbers.max().unwrap_or_default() + 1;
        let lives = lives.iter().flatten().map(|generation| &generation.incarnation);
        Stored {
            generation: Generation { incarnation, number },
            // With those that the lost life had taken the place of: some of their containers may still run.
            replaces: remembered_lives(
                lives
                    .chain(held.into_iter().flat_map(|held| &held.replaces))
                    .chain(&self.stored.replaces)
                    .cloned(),
            ),
            proof: None,
        }
    }

    /// What there is to say: what happened, what goes on meanwhile, and what to do.
    pub(super) fn sentence(&self, held: Option<&Catalog>) -> String {
        let stored = &self.stored.generation;
        let found = if let Some(damage) = &self.damage {
            damage.clone()
        } else if stored.incarnation.is_empty() {
            "it is empty".to_owned()
        } else if stored.incarnation == self.newest.incarnation {
            format!("it is at generation {}", stored.number)
        } else {
            format!("it is at generation {} of another life", stored.number)
        };
        let newest = self.newest.number;
        let (whose, meanwhile) = match held {
            Some(held) if self.ours && held.generation == self.newest => (
                format!(
                    "this frontend holds generation {newest} with {} and {}",
                    counted(held.applications.len(), "application"),
                    counted(held.models.len(), "model"),
                ),
                "queries go on",
            ),
            Some(_) if !self.is_held => (
                "no frontend is known to hold what it was".to_owned(),
                "queries go on with what is older",
            ),
            None if !self.is_held => (
                "no frontend is known to hold what it was, and this one has nothing to serve".to_owned(),
                "nothing here answers",
            ),
            // It may have ended since.
            Some(_) => (
                format!("another frontend held generation {newest} when it was last heard of"),
                "queries go on",
            ),
            None => (
                format!(
                    "another frontend held generation {newest} when it was last heard of, and this one has nothing \
                     to serve"
                ),
                "queries go on at those that still run",
            ),
        };
        format!(
            "the metadata store lost something: {found}, while {whose}; {meanwhile}; nothing is written, and \
             no frontend begins to act as the control role (one that acts replaces what ends, by the catalog it \
             holds), until `skysail cluster restore` writes back what is held, or `skysail cluster accept-empty` \
             follows the store as it is"
        )
    }
}

fn is_newer(one: &Generation, other: &Generation) -> bool {
    one.incarnation == other.incarnation && one.number > other.number
}

#[cfg(test)]
mod tests {
    use super::*;

    fn generation(incarnation: &str, number: u64) -> Generation {
        Generation {
            incarnation: incarnation.into(),
            number,
        }
    }

    fn stored(incarnation: &str, number: u64, replaces: &[&str]) -> Stored {
        Stored {
            generation: generation(incarnation, number),
            replaces: replaces.iter().map(ToString::to_string).collect(),
            proof: None,
        }
    }

    fn seen(stored: Stored, held_back: Option<Generation>) -> Seen {
        Seen {
            stored,
            held_back,
            ..Seen::default()
        }
    }

    #[test]
    fn only_a_store_that_lost_something_is_held_back_from() {
        let held = generation("a", 7);
        let lost = |store: Stored| Setback::of(Some(&held), &seen(store, None)).is_some();
        assert!(!lost(stored("a", 7, &[])), "nothing new");
        assert!(!lost(stored("a", 9, &[])), "writes of others");
        assert!(lost(stored("a", 6, &[])), "an old dump");
        assert!(lost(stored("b", 8, &[])), "another life");
        assert!(lost(Stored::default()), "an empty store");
        assert!(!lost(stored("b", 8, &["a"])), "a person decided");
        let unwritten = Generation::default();
        let first = seen(stored("a", 1, &[]), None);
        assert_eq!(Setback::of(Some(&unwritten), &first), None, "the first write");
        assert_eq!(Setback::of(None, &first), None, "a frontend that starts");
    }

    #[test]
    fn what_another_frontend_holds_holds_back_whoever_holds_less() {
        let empty = seen(Stored::default(), Some(generation("a", 7)));
        let starting = Setback::of(None, &empty).unwrap();
        assert!(!starting.ours);
        assert_eq!(starting.newest, generation("a", 7));
        let behind = Setback::of(Some(&generation("a", 5)), &empty).unwrap();
        assert!(behind.ours);
        assert_eq!(behind.newest, generation("a", 7));
        let ahead = Setback::of(Some(&generation("a", 9)), &empty).unwrap();
        assert_eq!(ahead.newest, generation("a", 9));
        // A word that was left behind when the right data came back.
        let back = seen(stored("a", 7, &[]), Some(generation("a", 7)));
        assert_eq!(Setback::of(None, &back), None);
    }

    #[test]
    fn a_decision_settles_it_for_all_but_not_the_next_loss() {
        let held = generation("a", 7);
        let catalog = Catalog {
            generation: held.clone(),
            replaces: vec!["y".into()],
            ..Catalog::default()
        };
        let first = Setback::of(Some(&held), &seen(stored("b", 2, &["z"]), None)).unwrap();
        let settled = first.settled(Some(&catalog), "c".into());
        assert_eq!(settled, stored("c", 8, &["a", "b", "y", "z"]));
        for earlier in [generation("a", 3), held, generation("b", 2), generation("z", 40)] {
            assert!(!settled.lost(&earlier), "{earlier:?}");
        }
        // Dumps of every age, once something was written after the decision.
        let now = generation("c", 12);
        for dump in [
            settled,
            stored("b", 2, &["z"]),
            stored("a", 7, &[]),
            Stored::default(),
        ] {
            assert!(dump.lost(&now), "{dump:?}");
        }
    }

    #[test]
    fn a_store_remembers_no_more_lives_than_it_must() {
        let lives: Vec<String> = (0..40).map(|life| format!("life-{life}")).collect();
        let setback = Setback {
            stored: Stored {
                generation: generation("now", 1),
                replaces: lives,
                proof: None,
            },
            newest: generation("held", 9),
            is_held: true,
            ours: true,
            damage: None,
        };
        let settled = setback.settled(None, "next".into());
        assert_eq!(settled.replaces.len(), 16);
        assert_eq!(settled.replaces[..3], ["held", "now", "life-0"]);
    }

    #[test]
    fn of_damaged_documents_whoever_holds_that_generation_is_the_newest() {
        let now = stored("a", 7, &[]);
        let of = |held: Option<&Generation>, held_back: Option<&Generation>| {
            Setback::of_damage(now.clone(), "model `m` is missing".into(), held, held_back)
        };
        let held = generation("a", 7);
        let ours = of(Some(&held), None);
        assert!(ours.ours && ours.is_held && ours.newest == held);
        // One that is behind holds something, but another may hold all.
        let behind = generation("a", 5);
        let older = of(Some(&behind), None);
        assert!(older.ours && !older.is_held && older.newest == held);
        assert!(of(Some(&behind), Some(&held)).is_held);
        let starting = of(None, Some(&held));
        assert!(!starting.ours && starting.is_held);
        let alone = of(None, None);
        assert!(!alone.ours && !alone.is_held);
        let said = alone.sentence(None);
        assert!(
            said.contains("model `m` is missing") && said.contains("no frontend is known"),
            "{said}"
        );
        // What was written before a decision has been given up.
        assert!(!of(Some(&generation("b", 9)), None).ours);
    }

    #[test]
    fn damage_is_told_by_the_proof_and_named_by_what_is_held() {
        let documents = |names: &[&str]| {
            let models = names.iter().map(|name| (format!("model/{name}"), b"{}".to_vec()));
            Inventory::of(&models.collect())
        };
        let (held, found) = (documents(&["m", "n"]), documents(&["m"]));
        let mut now = stored("a", 7, &[]);
        now.proof = Some(held.proof());
        assert_eq!(now.damage(&held, None), None);
        let damage = now.damage(&found, Some(&held)).unwrap();
        assert_eq!(damage, "model `n` is missing");
        let damage = now.damage(&found, None).unwrap();
        assert!(
            damage.contains("should have 2 documents") && damage.contains("1 model"),
            "{damage}"
        );
        let damage = now.damage(&documents(&["m", "o"]), None).unwrap();
        assert!(damage.contains("not as they were written"), "{damage}");
        now.proof = None;
        assert!(now.damage(&held, Some(&held)).unwrap().contains("is gone"));
        let nothing = Stored {
            proof: Some(Proof::default()),
            ..Stored::default()
        };
        assert_eq!(nothing.damage(&Inventory::default(), None), None);
        let damage = nothing.damage(&found, None).unwrap();
        assert!(damage.contains("its generation is gone"), "{damage}");
    }

    #[test]
    fn what_is_said_names_the_loss_and_both_remedies() {
        let held = Catalog {
            generation: generation("a", 7),
            ..Catalog::default()
        };
        let said = |store: Stored| {
            let setback = Setback::of(Some(&held.generation), &seen(store, None)).unwrap();
            setback.sentence(Some(&held))
        };
        let empty = said(Stored::default());
        assert!(
            empty.contains("it is empty") && empty.contains("generation 7 with no applications"),
            "{empty}"
        );
        assert!(empty.contains("skysail cluster restore") && empty.contains("skysail cluster accept-empty"));
        assert!(said(stored("a", 5, &[])).contains("it is at generation 5,"));
        assert!(said(stored("b", 5, &[])).contains("of another life"));
        let starting = Setback::of(None, &seen(Stored::default(), Some(generation("a", 7)))).unwrap();
        let starting = starting.sentence(None);
        assert!(
            starting.contains("another frontend held generation 7"),
            "{starting}"
        );
    }
}

//! A store that lost something: whether it did, who holds what it lost, and what ends the doubt.
//!
//! Redis can lose acknowledged writes: by a crash between two syncs, a failover, an old dump, an empty disk. It can also
//! lose single documents of a generation that stays: by an eviction, or a slip of an operator's hand ([`Proof`] tells).
//! To follow such a store would tear a cluster down. So a frontend that holds something newer goes on with that, and says
//! so in Redis. From then on no frontend writes until a person has decided.
//!
//! The decision begins another life of the store (an incarnation) that names the lives it replaces. A frontend that holds
//! a generation of one of those follows it. So one decision is enough for all frontends, also for those that hear of it
//! late.

use std::collections::BTreeSet;
use std::time::Duration;

use super::lives::{generation_after, remembered_lives};
use super::proof::{Contents, Difference, Inventory, Proof};
use crate::catalog::{Catalog, Generation};

/// How long frontends are asked to write back what the store lost. One that holds the newest generation does so at its
/// next look. In the second half of the time any frontend does that holds something the store lost.
pub const RESTORE_WISH: Duration = Duration::from_secs(8);

/// The generation a store is at, and what it is to others.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Stored {
    /// The generation that it says to be at; the default if it was never written.
    pub generation: Generation,
    /// The incarnations whose generations this one takes the place of, by a person's decision.
    pub replaces: Vec<String>,
    /// What its documents have to be; nothing where that is not written any more.
    pub proof: Option<Proof>,
}

impl Stored {
    /// The same store one write later, in the place of these lives as well. If that is its first write, it begins the
    /// incarnation `drawn`.
    pub fn adopting(held: &Catalog, lives: BTreeSet<String>, drawn: String) -> Self {
        Self {
            generation: generation_after(&held.generation, drawn),
            replaces: remembered_lives(lives.into_iter().chain(held.replaces.iter().cloned())),
            proof: None,
        }
    }

    /// What is wrong with the documents that were `found` in it: beside those that are `held`, where they are of
    /// the same generation. Nothing if it is whole.
    pub fn damage(&self, found: &Inventory, held: Option<&Inventory>) -> Option<Damage> {
        if self.proof == Some(found.proof()) {
            return None;
        }
        if let Some(difference) = held.and_then(|held| held.difference(found)) {
            return Some(Damage::Differs(difference));
        }
        let generation = self.generation.number;
        Some(match self.proof {
            None => Damage::Unproved { generation },
            Some(_) if self.generation.incarnation.is_empty() => Damage::NoGeneration {
                found: found.contents(),
            },
            Some(should) if should.count != found.proof().count => Damage::OtherCount {
                generation,
                should: should.count,
                found: found.contents(),
            },
            Some(_) => Damage::OtherDigest { generation },
        })
    }

    /// Whether this store lost something that a frontend with a snapshot of `held` has.
    pub fn has_lost(&self, held: &Generation) -> bool {
        if held.incarnation.is_empty() {
            return false;
        }
        if held.incarnation == self.generation.incarnation {
            return !self.generation.has_reached(held);
        }
        !self.replaces.contains(&held.incarnation)
    }
}

/// What is wrong with the documents of a generation that a store has.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Damage {
    /// They are not those that a frontend holds of the same generation.
    Differs(Difference),
    /// The proof of the generation is gone.
    Unproved {
        /// Its number.
        generation: u64,
    },
    /// There are documents, but the generation itself is gone.
    NoGeneration {
        /// The documents that there are.
        found: Contents,
    },
    /// There are more documents, or fewer, than were written.
    OtherCount {
        /// The number of the generation.
        generation: u64,
        /// How many documents were written.
        should: u64,
        /// The documents that there are.
        found: Contents,
    },
    /// There are as many documents as were written, with another content.
    OtherDigest {
        /// The number of the generation.
        generation: u64,
    },
}

/// What a store that is whole seems to have lost.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Lost {
    /// All: it was never written.
    Everything,
    /// Its last changes: it is in the same incarnation, at an earlier generation.
    TheLatest,
    /// It is another store, or was begun anew.
    ItsIncarnation,
}

impl Lost {
    /// What became of a store that is at `stored` and was at `newest`.
    pub fn of(stored: &Generation, newest: &Generation) -> Self {
        if stored.incarnation.is_empty() {
            Self::Everything
        } else if stored.incarnation == newest.incarnation {
            Self::TheLatest
        } else {
            Self::ItsIncarnation
        }
    }
}

/// What one look at the store shows beside the announcements.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Seen {
    /// The generation, and what it is to others.
    pub stored: Stored,
    /// How many documents there are.
    pub documents: u64,
    /// Whether a frontend said that this generation is broken.
    pub broken: bool,
    /// The newest generation that a frontend said to hold, while the store lost it.
    pub held_back: Option<Generation>,
    /// For how long there still is the wish that it be restored.
    pub wish: Option<Duration>,
}

impl Seen {
    /// Whether the store seems to be at the generation that is `held` here, and whole. Only a reader of the documents can
    /// tell whether they are as they were written.
    pub fn is_known(&self, held: Option<&Generation>, inventory: &Inventory) -> bool {
        let proof = inventory.proof();
        !self.broken
            && held == Some(&self.stored.generation)
            && self.stored.proof == Some(proof)
            && self.documents == proof.count
    }
}

/// A store that lost something, as one frontend sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct Setback {
    /// What the store is at.
    pub stored: Stored,
    /// The newest generation that there was.
    pub newest: Generation,
    /// Whether a frontend is known to hold it.
    pub is_held: bool,
    /// Whether this frontend holds something the store lost.
    pub ours: bool,
    /// What is wrong with the documents of a generation that is there.
    pub damage: Option<Damage>,
}

impl Setback {
    /// Whether, and what, the store lost: of what is held here, or of what another frontend said to hold.
    pub fn of(held: Option<&Generation>, seen: &Seen) -> Option<Self> {
        let lost = |generation: &&Generation| seen.stored.has_lost(generation);
        let ours = held.filter(lost);
        let theirs = seen.held_back.as_ref().filter(lost);
        let newest = match (ours, theirs) {
            (Some(ours), Some(theirs)) if ours.has_reached(theirs) => ours,
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

    /// The documents of the generation that the store is at are damaged. This frontend holds a snapshot of `held`, and
    /// another one said to hold `held_back`.
    pub fn of_damage(
        stored: Stored,
        damage: Damage,
        held: Option<&Generation>,
        held_back: Option<&Generation>,
    ) -> Self {
        let of_this_life = |one: &&Generation| {
            !one.incarnation.is_empty() && one.incarnation == stored.generation.incarnation
        };
        let ours = held.filter(of_this_life);
        let holders = [ours, held_back.filter(of_this_life)];
        let newest_held = holders.into_iter().flatten().max_by_key(|one| one.number);
        let is_held = newest_held.is_some_and(|held| held.has_reached(&stored.generation));
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

    /// A store that was never written, and of which no frontend holds anything.
    pub fn of_nothing() -> Self {
        Self {
            stored: Stored::default(),
            newest: Generation::default(),
            is_held: false,
            ours: false,
            damage: None,
        }
    }

    /// The generation that ends the doubt: above all that are known, in a life of its own.
    pub fn settled(&self, held: Option<&Catalog>, incarnation: String) -> Stored {
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

    /// What the store lost, if its documents are whole.
    pub fn lost(&self) -> Lost {
        Lost::of(&self.stored.generation, &self.newest)
    }

    /// Who holds the newest generation, to a frontend that holds `held`.
    pub fn holder(&self, held: Option<&Generation>) -> Holder {
        if self.ours && held == Some(&self.newest) {
            Holder::ThisFrontend
        } else if self.is_held {
            Holder::Another
        } else {
            Holder::Nobody
        }
    }

    /// What a frontend that holds `held` does about it after this look.
    pub fn steps(&self, held: Option<&Generation>, seen: &Seen) -> Steps {
        let newest = self.holder(held) == Holder::ThisFrontend;
        let restores = |left| self.ours && (newest || left < RESTORE_WISH / 2);
        Steps {
            says_held: newest && seen.held_back.as_ref() != Some(&self.newest),
            // If the generation itself is gone, the first commit finds that out.
            marks_broken: self.damage.is_some()
                && !seen.broken
                && !self.stored.generation.incarnation.is_empty(),
            restores: seen.wish.is_some_and(restores),
        }
    }
}

/// What a frontend does in a store that lost something.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Steps {
    /// It says there that it holds the newest generation.
    pub says_held: bool,
    /// It says there that the generation is broken.
    pub marks_broken: bool,
    /// It writes back what it holds, since a person asked for that.
    pub restores: bool,
}

/// Who holds the newest generation that a store lost.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Holder {
    /// The frontend that asks: it can write it back.
    ThisFrontend,
    /// Another one said so. It may have ended since.
    Another,
    /// No frontend is known to.
    Nobody,
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
            assert!(!settled.has_lost(&earlier), "{earlier:?}");
        }
        // Dumps of every age, once something was written after the decision.
        let now = generation("c", 12);
        for dump in [
            settled,
            stored("b", 2, &["z"]),
            stored("a", 7, &[]),
            Stored::default(),
        ] {
            assert!(dump.has_lost(&now), "{dump:?}");
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

    fn missing(key: &str) -> Damage {
        Damage::Differs(Difference {
            missing: vec![key.into()],
            ..Difference::default()
        })
    }

    #[test]
    fn of_damaged_documents_whoever_holds_that_generation_is_the_newest() {
        let now = stored("a", 7, &[]);
        let of = |held: Option<&Generation>, held_back: Option<&Generation>| {
            Setback::of_damage(now.clone(), missing("model/m"), held, held_back)
        };
        let held = generation("a", 7);
        let ours = of(Some(&held), None);
        assert!(ours.ours && ours.is_held && ours.newest == held);
        assert_eq!(ours.holder(Some(&held)), Holder::ThisFrontend);
        // One that is behind holds something, but another may hold all.
        let behind = generation("a", 5);
        let older = of(Some(&behind), None);
        assert!(older.ours && !older.is_held && older.newest == held);
        assert_eq!(older.holder(Some(&behind)), Holder::Nobody);
        let both = of(Some(&behind), Some(&held));
        assert!(both.is_held);
        assert_eq!(both.holder(Some(&behind)), Holder::Another);
        let starting = of(None, Some(&held));
        assert!(!starting.ours && starting.is_held);
        let alone = of(None, None);
        assert!(!alone.ours && !alone.is_held);
        assert_eq!(alone.holder(None), Holder::Nobody);
        assert_eq!(alone.damage, Some(missing("model/m")));
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
        assert_eq!(now.damage(&found, Some(&held)), Some(missing("model/n")));
        let fewer = Damage::OtherCount {
            generation: 7,
            should: 2,
            found: found.contents(),
        };
        assert_eq!(now.damage(&found, None), Some(fewer));
        let other = Damage::OtherDigest { generation: 7 };
        assert_eq!(now.damage(&documents(&["m", "o"]), None), Some(other));
        now.proof = None;
        let unproved = Damage::Unproved { generation: 7 };
        assert_eq!(now.damage(&held, Some(&held)), Some(unproved));
        let nothing = Stored {
            proof: Some(Proof::default()),
            ..Stored::default()
        };
        assert_eq!(nothing.damage(&Inventory::default(), None), None);
        let headless = Damage::NoGeneration {
            found: found.contents(),
        };
        assert_eq!(nothing.damage(&found, None), Some(headless));
    }

    #[test]
    fn a_wish_is_for_the_newest_first_and_then_for_all_that_hold_something() {
        let (newest, older) = (generation("a", 7), generation("a", 5));
        let restores = |held: Option<&Generation>, wish: Option<Duration>| {
            let mut empty = seen(Stored::default(), Some(newest.clone()));
            empty.wish = wish;
            Setback::of(held, &empty).unwrap().steps(held, &empty).restores
        };
        let (early, late) = (
            Some(RESTORE_WISH),
            Some(RESTORE_WISH / 2 - Duration::from_millis(1)),
        );
        assert!(restores(Some(&newest), early) && restores(Some(&newest), late));
        assert!(!restores(Some(&older), early) && !restores(Some(&older), Some(RESTORE_WISH / 2)));
        assert!(restores(Some(&older), late));
        assert!(!restores(None, late), "a frontend that holds nothing");
        assert!(!restores(Some(&newest), None), "nobody asked");
    }

    #[test]
    fn a_loss_is_said_once() {
        let held = generation("a", 7);
        let steps = |held_back: Option<Generation>, broken: bool, store: Stored| {
            let mut seen = seen(store.clone(), held_back.clone());
            seen.broken = broken;
            let damage = missing("model/m");
            Setback::of_damage(store, damage, Some(&held), held_back.as_ref()).steps(Some(&held), &seen)
        };
        let first = steps(None, false, stored("a", 7, &[]));
        assert!(first.says_held && first.marks_broken);
        let again = steps(Some(held.clone()), true, stored("a", 7, &[]));
        assert!(!again.says_held && !again.marks_broken);
        // Another frontend holds what is newer than that.
        let behind = steps(Some(generation("a", 9)), true, stored("a", 8, &[]));
        assert!(!behind.says_held);
        // There is no generation to mark.
        assert!(!steps(None, false, Stored::default()).marks_broken);
    }

    #[test]
    fn what_was_lost_and_who_holds_it_is_told_apart() {
        let held = generation("a", 7);
        let of = |store: Stored| Setback::of(Some(&held), &seen(store, None)).unwrap();
        let empty = of(Stored::default());
        assert_eq!(empty.lost(), Lost::Everything);
        assert_eq!(empty.holder(Some(&held)), Holder::ThisFrontend);
        assert_eq!(of(stored("a", 5, &[])).lost(), Lost::TheLatest);
        assert_eq!(of(stored("b", 5, &[])).lost(), Lost::ItsIncarnation);
        let starting = Setback::of(None, &seen(Stored::default(), Some(held.clone()))).unwrap();
        assert_eq!(starting.holder(None), Holder::Another);
        let unwritten = Setback::of_nothing();
        assert_eq!(unwritten.holder(Some(&Generation::default())), Holder::Nobody);
    }
}

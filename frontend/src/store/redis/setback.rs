//! A store that lost something: when it did, and what to say about it.
//!
//! Redis can lose acknowledged writes (a crash between two syncs, a failover, an old dump, an empty disk).
//! To follow it then would tear a cluster down on the word of a store that forgot it, so a frontend that
//! holds something newer goes on with that, and says so in Redis: from then on nobody writes, whoever follows
//! the store, until a person has decided. The decision begins another life of the store (an incarnation)
//! that names the lives it replaces; whoever holds a generation of one of those follows it, so that one
//! decision is one for all frontends, also for those that hear of it late.

use std::time::Duration;

use skysail_core::catalog::{Catalog, Generation};

/// How many lives a store remembers to have replaced. A frontend would have to be away for as many decisions
/// to be asked once more.
const REMEMBERED: usize = 16;

/// The generation a store is at, and what it is to others.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Stored {
    pub(super) generation: Generation,
    /// The incarnations whose generations this one takes the place of, by a person's decision.
    pub(super) replaces: Vec<String>,
}

impl Stored {
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
    /// The newest generation that a frontend said to hold.
    pub(super) held_back: Option<Generation>,
    /// For how long there still is the wish that it be restored.
    pub(super) wish: Option<Duration>,
}

/// What a store lost.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Setback {
    /// What the store is at.
    pub(super) stored: Stored,
    /// The newest generation that is known to be held by a frontend.
    pub(super) newest: Generation,
    /// Whether this frontend holds something the store lost.
    pub(super) ours: bool,
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
            ours: ours.is_some(),
        })
    }

    /// A store that was never written, and nobody holds anything of.
    pub(super) fn of_nothing() -> Self {
        Self {
            stored: Stored::default(),
            newest: Generation::default(),
            ours: false,
        }
    }

    /// The generation that ends the doubt: above all that are known, in a life of its own.
    pub(super) fn settled(&self, held: Option<&Generation>, incarnation: String) -> Stored {
        let lives = [Some(&self.newest), held, Some(&self.stored.generation)];
        let numbers = lives.iter().flatten().map(|generation| generation.number);
        let number = numbers.max().unwrap_or_default() + 1;
        let mut replaces: Vec<String> = Vec::new();
        let lives = lives.iter().flatten().map(|generation| &generation.incarnation);
        for life in lives.chain(&self.stored.replaces) {
            if !life.is_empty() && !replaces.contains(life) {
                replaces.push(life.clone());
            }
        }
        replaces.truncate(REMEMBERED);
        Stored {
            generation: Generation { incarnation, number },
            replaces,
        }
    }

    /// What there is to say: what happened, what goes on meanwhile, and what to do.
    pub(super) fn sentence(&self, held: Option<&Catalog>) -> String {
        let stored = &self.stored.generation;
        let found = if stored.incarnation.is_empty() {
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
            Some(_) => (
                format!("another frontend holds generation {newest}"),
                "queries go on",
            ),
            None => (
                format!("another frontend holds generation {newest}, and this one has nothing to serve"),
                "the others' queries go on",
            ),
        };
        format!(
            "the metadata store lost something: {found}, while {whose}; {meanwhile}, nothing is started, stopped or \
             written until `skysail cluster restore` writes back what is held, or `skysail cluster accept-empty` \
             follows the store as it is"
        )
    }
}

fn is_newer(one: &Generation, other: &Generation) -> bool {
    one.incarnation == other.incarnation && one.number > other.number
}

fn counted(count: usize, what: &str) -> String {
    match count {
        1 => format!("1 {what}"),
        many => format!("{many} {what}s"),
    }
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
        }
    }

    fn seen(stored: Stored, held_back: Option<Generation>) -> Seen {
        Seen {
            stored,
            held_back,
            wish: None,
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
        let first = Setback::of(Some(&held), &seen(stored("b", 2, &["z"]), None)).unwrap();
        let settled = first.settled(Some(&held), "c".into());
        assert_eq!(settled, stored("c", 8, &["a", "b", "z"]));
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
            },
            newest: generation("held", 9),
            ours: true,
        };
        let settled = setback.settled(None, "next".into());
        assert_eq!(settled.replaces.len(), REMEMBERED);
        assert_eq!(settled.replaces[..3], ["held", "now", "life-0"]);
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
            empty.contains("it is empty") && empty.contains("generation 7 with 0 applications"),
            "{empty}"
        );
        assert!(empty.contains("skysail cluster restore") && empty.contains("skysail cluster accept-empty"));
        assert!(said(stored("a", 5, &[])).contains("it is at generation 5,"));
        assert!(said(stored("b", 5, &[])).contains("of another life"));
        let starting = Setback::of(None, &seen(Stored::default(), Some(generation("a", 7)))).unwrap();
        let starting = starting.sentence(None);
        assert!(
            starting.contains("another frontend holds generation 7"),
            "{starting}"
        );
    }
}

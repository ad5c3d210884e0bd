//! A store that is not whole, in words, and what to do: `core` decides, here it is told.

use skysail_core::catalog::{Catalog, Key, Kind};
use skysail_core::store::{Contents, Damage, Difference, Holder, Lost, Setback};

/// How many names are spelled out before the rest is counted.
const NAMED: usize = 5;

/// What there is to say to those who ask a frontend that holds `held`: what happened, what goes on meanwhile, and
/// what to do.
pub(super) fn setback(setback: &Setback, held: Option<&Catalog>) -> String {
    let number = setback.stored.generation.number;
    let found = match (&setback.damage, setback.lost()) {
        (Some(found), _) => damage(found),
        (None, Lost::Everything) => "it is empty".to_owned(),
        (None, Lost::TheLatest) => format!("it is at generation {number}"),
        (None, Lost::ItsIncarnation) => format!("it is at generation {number} of another life"),
    };
    let newest = setback.newest.number;
    let (whose, meanwhile) = match (setback.holder(held.map(|held| &held.generation)), held) {
        (Holder::ThisFrontend, held) => {
            let count = |of: fn(&Catalog) -> usize| held.map(of).unwrap_or_default();
            (
                format!(
                    "this frontend holds generation {newest} with {} and {}",
                    counted(count(|held| held.applications.len()), "application"),
                    counted(count(|held| held.models.len()), "model"),
                ),
                "queries go on",
            )
        }
        (Holder::Nobody, Some(_)) => (
            "no frontend is known to hold what it was".to_owned(),
            "queries go on with what is older",
        ),
        (Holder::Nobody, None) => (
            "no frontend is known to hold what it was, and this one has nothing to serve".to_owned(),
            "nothing here answers",
        ),
        // It may have ended since.
        (Holder::Another, Some(_)) => (
            format!("another frontend held generation {newest} when it was last heard of"),
            "queries go on",
        ),
        (Holder::Another, None) => (
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

/// What is wrong with the documents of a store.
pub(super) fn damage(damage: &Damage) -> String {
    match damage {
        Damage::Differs(difference) => differs(difference),
        Damage::Unproved { generation } => format!("what proves generation {generation} whole is gone"),
        Damage::NoGeneration { found } => {
            format!("its generation is gone, but {} are there", contents(found))
        }
        Damage::OtherCount {
            generation,
            should,
            found,
        } => format!(
            "generation {generation} should have {}, but there are {}",
            documents(*should),
            contents(found)
        ),
        Damage::OtherDigest { generation } => {
            format!("the documents of generation {generation} are not as they were written")
        }
    }
}

fn differs(difference: &Difference) -> String {
    let parts = [
        named(&difference.missing, "missing"),
        named(&difference.changed, "changed"),
        named(&difference.added, "added by nobody"),
    ];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    parts.join(", ")
}

/// As in "application `a` and model `b` are missing"; nothing where there is nothing.
fn named(keys: &[String], what: &str) -> Option<String> {
    let mut plural = 0;
    let mut names: Vec<String> = keys
        .iter()
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

/// How many documents there are of each kind. Kinds that have none are left out.
pub(super) fn contents(contents: &Contents) -> String {
    let known = contents.kinds.iter().map(|(kind, count)| match kind {
        Kind::Settings => kind.word().to_owned(),
        _ => counted(*count, kind.word()),
    });
    let others =
        (contents.others > 0).then(|| format!("{} of other kinds", counted(contents.others, "document")));
    let parts: Vec<String> = known.chain(others).collect();
    match parts.split_last() {
        None => "no documents".to_owned(),
        Some((last, [])) => last.clone(),
        Some((last, others)) => format!("{} and {last}", others.join(", ")),
    }
}

/// As in "2 documents".
pub(super) fn documents(count: u64) -> String {
    counted(usize::try_from(count).unwrap_or(usize::MAX), "document")
}

/// As in "1 model" and "no models".
fn counted(count: usize, what: &str) -> String {
    match count {
        0 => format!("no {what}s"),
        1 => format!("1 {what}"),
        many => format!("{many} {what}s"),
    }
}

#[cfg(test)]
mod tests {
    use skysail_core::catalog::Generation;
    use skysail_core::store::{Inventory, Proof, Seen, Stored};

    use super::*;

    fn inventory(all: &[(&str, &str)]) -> Inventory {
        let documents = all.iter();
        let documents = documents.map(|(key, json)| (key.to_string(), json.as_bytes().to_vec()));
        Inventory::of(&documents.collect())
    }

    fn generation(incarnation: &str, number: u64) -> Generation {
        Generation {
            incarnation: incarnation.into(),
            number,
        }
    }

    fn stored(incarnation: &str, number: u64) -> Stored {
        Stored {
            generation: generation(incarnation, number),
            ..Stored::default()
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
    fn documents_are_counted_by_kind() {
        let counted = |keys: &[&str]| {
            let all: Vec<(&str, &str)> = keys.iter().map(|key| (*key, "{}")).collect();
            contents(&inventory(&all).contents())
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
        let held = inventory(&[("application/a", "1"), ("application/b", "2"), ("model/m", "3")]);
        let found = inventory(&[("application/a", "1"), ("application/b", "4"), ("unicorn/c", "5")]);
        assert_eq!(
            differs(&held.difference(&found).unwrap()),
            "model `m` is missing, application `b` is changed, document `unicorn/c` is added by nobody"
        );
        let names: Vec<String> = (0..8).map(|number| format!("application/app-{number}")).collect();
        let many: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "")).collect();
        let damage = differs(&inventory(&many).difference(&Inventory::default()).unwrap());
        assert!(
            damage.ends_with("application `app-4` and 3 more are missing"),
            "{damage}"
        );
    }

    #[test]
    fn damage_is_told_by_the_proof_and_named_by_what_is_held() {
        let (held, found) = (
            inventory(&[("model/m", "{}"), ("model/n", "{}")]),
            inventory(&[("model/m", "{}")]),
        );
        let other = inventory(&[("model/m", "{}"), ("model/o", "{}")]);
        let said = |store: &Stored, found: &Inventory, held: Option<&Inventory>| {
            damage(&store.damage(found, held).unwrap())
        };
        let mut now = stored("a", 7);
        now.proof = Some(held.proof());
        assert_eq!(said(&now, &found, Some(&held)), "model `n` is missing");
        let fewer = said(&now, &found, None);
        assert!(
            fewer.contains("should have 2 documents") && fewer.contains("1 model"),
            "{fewer}"
        );
        let changed = said(&now, &other, None);
        assert!(changed.contains("not as they were written"), "{changed}");
        now.proof = None;
        assert!(said(&now, &held, Some(&held)).contains("is gone"));
        let nothing = Stored {
            proof: Some(Proof::default()),
            ..Stored::default()
        };
        let headless = said(&nothing, &found, None);
        assert!(headless.contains("its generation is gone"), "{headless}");
    }

    #[test]
    fn what_is_said_names_the_loss_and_both_remedies() {
        let held = Catalog {
            generation: generation("a", 7),
            ..Catalog::default()
        };
        let said = |store: Stored| {
            let found = Setback::of(Some(&held.generation), &seen(store, None)).unwrap();
            setback(&found, Some(&held))
        };
        let empty = said(Stored::default());
        assert!(
            empty.contains("it is empty") && empty.contains("generation 7 with no applications"),
            "{empty}"
        );
        assert!(empty.contains("skysail cluster restore") && empty.contains("skysail cluster accept-empty"));
        assert!(said(stored("a", 5)).contains("it is at generation 5,"));
        assert!(said(stored("b", 5)).contains("of another life"));
        let starting = Setback::of(None, &seen(Stored::default(), Some(generation("a", 7)))).unwrap();
        let starting = setback(&starting, None);
        assert!(
            starting.contains("another frontend held generation 7"),
            "{starting}"
        );
    }

    #[test]
    fn damage_that_nobody_can_repair_is_said_to_be_so() {
        let missing = Damage::Differs(Difference {
            missing: vec!["model/m".into()],
            ..Difference::default()
        });
        let alone = Setback::of_damage(stored("a", 7), missing, None, None);
        let said = setback(&alone, None);
        assert!(
            said.contains("model `m` is missing") && said.contains("no frontend is known"),
            "{said}"
        );
    }
}

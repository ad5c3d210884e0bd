//! Whether the catalog can be believed: a store that lost something must not tear a cluster down.

use crate::catalog::Catalog;
use crate::cluster::FrontendView;

/// Why nothing is started or stopped on the word of a catalog, in a sentence.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Doubt {
    /// The store was never written, but the cluster's containers are there: a person has to decide.
    Lost(String),
    /// Other frontends follow another catalog, or are further. For a moment that is a catalog on its way here;
    /// if it lasts, the store lost something, and a person has to decide.
    Differs(String),
}

/// What a person can do about it.
const REMEDY: &str = "decide what is right: `skysail cluster restore` writes the snapshot that a running \
                      frontend holds back to the store, `skysail cluster accept-empty` goes by the store as it is";

/// Doubts about a catalog: `containers` of this cluster are there, and other frontends follow a catalog too.
pub fn doubt(catalog: &Catalog, views: &[FrontendView], containers: usize) -> Option<Doubt> {
    let store = &catalog.generation;
    let differs = |view: &&FrontendView| {
        let theirs = &view.generation;
        // A frontend that has read nothing yet says nothing against the store.
        !theirs.incarnation.is_empty()
            && (theirs.incarnation != store.incarnation || theirs.number > store.number)
    };
    if store.incarnation.is_empty() && containers > 0 {
        return Some(Doubt::Lost(format!(
            "the metadata store is empty, but containers of this cluster are there ({containers}), which are \
             left as they are: {REMEDY}"
        )));
    }
    let view = views.iter().find(differs)?;
    let lost = if store.incarnation.is_empty() {
        "is empty"
    } else if view.generation.incarnation == store.incarnation {
        "went back"
    } else {
        "was begun anew or replaced"
    };
    Some(Doubt::Differs(format!(
        "the metadata store {lost}: frontend {} still serves what it held before, and nothing is started or \
         stopped on its word: {REMEDY}",
        view.id
    )))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::Generation;

    fn generation(incarnation: &str, number: u64) -> Generation {
        Generation {
            incarnation: incarnation.into(),
            number,
        }
    }

    fn doubts(store: Generation, views: &[Generation], containers: usize) -> Option<Doubt> {
        let catalog = Catalog {
            generation: store,
            ..Catalog::default()
        };
        let views: Vec<_> = views
            .iter()
            .map(|generation| FrontendView {
                id: "f".into(),
                generation: generation.clone(),
                ..FrontendView::default()
            })
            .collect();
        doubt(&catalog, &views, containers)
    }

    #[test]
    fn an_empty_store_is_believed_only_where_nothing_runs() {
        assert_eq!(doubts(generation("", 0), &[generation("", 0)], 0), None);
        let Some(Doubt::Lost(why)) = doubts(generation("", 0), &[], 3) else {
            panic!("it is believed")
        };
        assert!(
            why.contains("(3)") && why.contains("skysail cluster restore"),
            "{why}"
        );
        let served = doubts(generation("", 0), &[generation("a", 4)], 0);
        assert!(matches!(served, Some(Doubt::Differs(_))), "{served:?}");
    }

    #[test]
    fn a_store_of_another_life_is_not_believed_while_frontends_serve_the_one_before() {
        let served = doubts(generation("b", 9), &[generation("b", 9), generation("a", 4)], 0);
        assert!(matches!(served, Some(Doubt::Differs(_))), "{served:?}");
        // A frontend that has read nothing yet says nothing against it.
        assert_eq!(doubts(generation("b", 9), &[generation("", 0)], 3), None);
    }

    #[test]
    fn a_catalog_that_others_are_ahead_of_is_not_acted_on() {
        assert_eq!(doubts(generation("a", 5), &[generation("a", 4)], 3), None);
        assert_eq!(doubts(generation("a", 5), &[generation("a", 5)], 3), None);
        let ahead = doubts(generation("a", 5), &[generation("a", 6)], 3);
        assert!(matches!(ahead, Some(Doubt::Differs(_))), "{ahead:?}");
    }
}

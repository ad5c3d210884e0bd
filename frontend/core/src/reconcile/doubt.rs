//! Whether the catalog can be believed: a store that lost something must not tear a cluster down.

use crate::catalog::{Catalog, Generation};
use crate::cluster::ClusterView;

/// What a person can do about it.
const REMEDY: &str = "decide what is right: `skysail cluster restore` writes the snapshot that a running \
                      frontend holds back to the store, `skysail cluster accept-empty` goes by the store as it is";

/// Why nothing is started or stopped on the word of a catalog, in a sentence: other frontends follow another one, or
/// are further. For a moment that is a catalog on its way here; if it lasts, the store lost something, and a person
/// has to decide.
///
/// A store that was never written needs no doubt: no container is its own.
pub fn doubt(catalog: &Catalog, cluster: &ClusterView) -> Option<String> {
    let store = &catalog.generation;
    // A frontend that has read nothing yet says nothing against the store.
    let has_read = |generation: &Generation| !generation.incarnation.is_empty();
    let mut views = cluster.frontends().iter();
    let view = views.find(|view| has_read(&view.generation) && !store.has_reached(&view.generation))?;
    let lost = if store.incarnation.is_empty() {
        "is empty"
    } else if view.generation.incarnation == store.incarnation {
        "went back"
    } else {
        "was begun anew or replaced"
    };
    Some(format!(
        "the metadata store {lost}: frontend {} still serves what it held before, and nothing is started or \
         stopped on its word: {REMEDY}",
        view.id
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::FrontendView;

    fn generation(incarnation: &str, number: u64) -> Generation {
        Generation {
            incarnation: incarnation.into(),
            number,
        }
    }

    fn doubts(store: Generation, views: &[Generation]) -> Option<String> {
        let catalog = Catalog {
            generation: store,
            ..Catalog::default()
        };
        let views = views.iter().map(|generation| FrontendView {
            id: "f".into(),
            generation: generation.clone(),
            ..FrontendView::default()
        });
        doubt(&catalog, &ClusterView::of(views))
    }

    #[test]
    fn an_empty_store_is_not_believed_while_frontends_serve_what_it_lost() {
        assert_eq!(doubts(generation("", 0), &[generation("", 0)]), None);
        let why = doubts(generation("", 0), &[generation("a", 4)]).unwrap();
        assert!(
            why.contains("is empty") && why.contains("skysail cluster restore"),
            "{why}"
        );
    }

    #[test]
    fn a_store_of_another_life_is_not_believed_while_frontends_serve_the_one_before() {
        let why = doubts(generation("b", 9), &[generation("b", 9), generation("a", 4)]).unwrap();
        assert!(why.contains("begun anew"), "{why}");
        // A frontend that has read nothing yet says nothing against it.
        assert_eq!(doubts(generation("b", 9), &[generation("", 0)]), None);
    }

    #[test]
    fn a_catalog_that_others_are_ahead_of_is_not_acted_on() {
        assert_eq!(doubts(generation("a", 5), &[generation("a", 4)]), None);
        assert_eq!(doubts(generation("a", 5), &[generation("a", 5)]), None);
        let why = doubts(generation("a", 5), &[generation("a", 6)]).unwrap();
        assert!(why.contains("went back"), "{why}");
    }
}

//! Whether the catalog can be believed: a store that lost something must not tear a cluster down.

use crate::catalog::{Catalog, Generation};
use crate::cluster::ClusterView;
use crate::store::Lost;

/// Why nothing is started or stopped on the word of a catalog: a frontend follows another one, or is further.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Doubt {
    /// The frontend that still serves what the store held before.
    pub frontend: String,
    /// What became of the store, as it seems.
    pub lost: Lost,
}

/// Whether a catalog can be believed. For a moment a difference is a catalog on its way here; if it lasts, the store
/// lost something, and a person has to decide.
///
/// A store that was never written needs no doubt: no container is its own.
pub fn doubt(catalog: &Catalog, cluster: &ClusterView) -> Option<Doubt> {
    let store = &catalog.generation;
    // A frontend that has read nothing yet says nothing against the store.
    let has_read = |generation: &Generation| !generation.incarnation.is_empty();
    let mut views = cluster.frontends().iter();
    let view = views.find(|view| has_read(&view.generation) && !store.has_reached(&view.generation))?;
    Some(Doubt {
        frontend: view.id.clone(),
        lost: Lost::of(store, &view.generation),
    })
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

    fn doubts(store: Generation, views: &[Generation]) -> Option<Lost> {
        let catalog = Catalog {
            generation: store,
            ..Catalog::default()
        };
        let views = views.iter().map(|generation| FrontendView {
            id: "f".into(),
            generation: generation.clone(),
            ..FrontendView::default()
        });
        doubt(&catalog, &ClusterView::of(views)).map(|doubt| doubt.lost)
    }

    #[test]
    fn an_empty_store_is_not_believed_while_frontends_serve_what_it_lost() {
        assert_eq!(doubts(generation("", 0), &[generation("", 0)]), None);
        let found = doubts(generation("", 0), &[generation("a", 4)]);
        assert_eq!(found, Some(Lost::Everything));
    }

    #[test]
    fn a_store_of_another_life_is_not_believed_while_frontends_serve_the_one_before() {
        let found = doubts(generation("b", 9), &[generation("b", 9), generation("a", 4)]);
        assert_eq!(found, Some(Lost::ItsIncarnation));
        // A frontend that has read nothing yet says nothing against it.
        assert_eq!(doubts(generation("b", 9), &[generation("", 0)]), None);
    }

    #[test]
    fn a_catalog_that_others_are_ahead_of_is_not_acted_on() {
        assert_eq!(doubts(generation("a", 5), &[generation("a", 4)]), None);
        assert_eq!(doubts(generation("a", 5), &[generation("a", 5)]), None);
        let found = doubts(generation("a", 5), &[generation("a", 6)]);
        assert_eq!(found, Some(Lost::TheLatest));
    }
}

//! Containers of the cluster's name that were started for another metadata store: another server's, or a store
//! that is gone. Only an operator can tell which, so they are left alone and reported.

use std::collections::BTreeSet;

use skysail_proto::ids::{ClusterName, ReplicaId};

use super::ContainerStatus;
use crate::catalog::Catalog;

/// How many containers the sentence names; there may be hundreds.
const TOLD: usize = 10;

/// The containers that were started for another store.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Foreign {
    /// Their names.
    pub containers: BTreeSet<String>,
    /// Their replicas. No other container can take their places.
    pub replicas: BTreeSet<ReplicaId>,
    /// The incarnations of the stores that they were started for.
    pub incarnations: BTreeSet<String>,
    /// Whether this store was never written.
    store_is_empty: bool,
}

impl Foreign {
    /// Splits a runtime's containers into the store's own and the others.
    pub fn part(containers: Vec<ContainerStatus>, catalog: &Catalog) -> (Vec<ContainerStatus>, Self) {
        let is_written = !catalog.generation.incarnation.is_empty();
        let (own, others): (Vec<_>, Vec<_>) =
            containers
                .into_iter()
                .partition(|found| match &found.incarnation {
                    Some(incarnation) => catalog.owns(incarnation),
                    None => is_written,
                });
        let foreign = Self {
            containers: others.iter().map(|found| found.container.clone()).collect(),
            replicas: others.iter().map(|found| found.replica.clone()).collect(),
            incarnations: others.into_iter().filter_map(|found| found.incarnation).collect(),
            store_is_empty: !is_written,
        };
        (own, foreign)
    }

    /// The sentence about these containers: which were found, and what can be done. `None` if there are none.
    pub fn sentence(&self, cluster: &ClusterName) -> Option<String> {
        if self.containers.is_empty() {
            return None;
        }
        let named: Vec<_> = self.containers.iter().take(TOLD).map(String::as_str).collect();
        let named = match self.containers.len() - named.len() {
            0 => named.join(", "),
            more => format!("{} and {more} more", named.join(", ")),
        };
        let found = if self.store_is_empty {
            format!(
                "the metadata store is empty, but {} of cluster `{cluster}` are there",
                counted(self.containers.len())
            )
        } else {
            format!(
                "{} of cluster `{cluster}` were started for another metadata store",
                counted(self.containers.len())
            )
        };
        let restore = if self.store_is_empty {
            "If a running frontend holds what the store lost, `skysail cluster restore` writes it back. "
        } else {
            ""
        };
        Some(format!(
            "{found} and are left as they are: {named}. If another server runs them, give one of the two a name of \
             its own (--cluster). {restore}`skysail cluster adopt` takes over what is left of a store that is \
             gone, and stops what the catalog does not ask for; `skysail stop --cluster {cluster}` removes everything of that name"
        ))
    }
}

fn counted(containers: usize) -> String {
    format!("{containers} container{}", if containers == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use skysail_proto::ids::ModelId;

    use super::*;
    use crate::catalog::Generation;
    use crate::reconcile::ContainerState;

    fn container(ordinal: u32, incarnation: Option<&str>) -> ContainerStatus {
        let model: ModelId = "m:1".parse().unwrap();
        ContainerStatus {
            container: format!("c_m_1_{ordinal}"),
            replica: ReplicaId::of(&model, ordinal),
            model,
            spec_digest: String::new(),
            incarnation: incarnation.map(str::to_owned),
            start: String::new(),
            state: ContainerState::Running,
            pid: None,
        }
    }

    fn store(incarnation: &str, replaces: &[&str]) -> Catalog {
        Catalog {
            generation: Generation {
                incarnation: incarnation.into(),
                number: 1,
            },
            replaces: replaces.iter().map(ToString::to_string).collect(),
            ..Catalog::default()
        }
    }

    #[test]
    fn own_is_what_was_started_for_this_store_or_one_whose_place_it_takes() {
        let found = vec![
            container(0, Some("a")),
            container(1, Some("b")),
            container(2, Some("c")),
            container(3, None),
        ];
        let (own, foreign) = Foreign::part(found.clone(), &store("a", &["b"]));
        assert_eq!(own.len(), 3);
        assert_eq!(foreign.containers, ["c_m_1_2".to_owned()].into());
        assert_eq!(foreign.incarnations, ["c".to_owned()].into());
        let said = foreign.sentence(&"x".parse().unwrap()).unwrap();
        for part in [
            "1 container of",
            "c_m_1_2",
            "--cluster",
            "cluster adopt",
            "stop --cluster x",
        ] {
            assert!(said.contains(part), "{part}: {said}");
        }

        let (own, foreign) = Foreign::part(found, &store("", &[]));
        assert_eq!((own.len(), foreign.containers.len()), (0, 4));
        let said = foreign.sentence(&"x".parse().unwrap()).unwrap();
        assert!(
            said.contains("is empty") && said.contains("cluster restore"),
            "{said}"
        );
        assert_eq!(Foreign::default().sentence(&"x".parse().unwrap()), None);
    }

    #[test]
    fn of_very_many_some_are_named() {
        let many = (0..25).map(|ordinal| container(ordinal, Some("c"))).collect();
        let (_, foreign) = Foreign::part(many, &store("a", &[]));
        let said = foreign.sentence(&"x".parse().unwrap()).unwrap();
        assert!(said.contains("and 15 more"), "{said}");
    }
}

//! Which version of a model answers at one frontend while a change of versions is under way.
//!
//! Each frontend judges for itself: it answers with the version it had until enough replicas of the new one
//! are attached to it, and then with the new one, come what may: a frontend that went back and forth would
//! never be done. Once all frontends answer with the current version, the control role ends the rollout.

use skysail_proto::ids::ModelVersion;

use crate::catalog::Model;

/// The version that answers queries that pin none, given the one that answered `before` and how many replicas
/// of a version are `attached` and take work.
///
/// It is the current one if no rollout is under way or if it answered before; and else once as many of its
/// replicas are attached as are wanted of it, or as the old version has, whichever are fewer, but at least
/// one. Until then it is the one that answered before. A frontend that starts in the midst of a rollout goes
/// by the version that it began from.
pub fn serving(
    model: &Model,
    before: Option<&ModelVersion>,
    attached: impl Fn(&ModelVersion) -> u32,
) -> ModelVersion {
    let current = &model.current_version;
    let Some(rollout) = &model.rollout else {
        return current.clone();
    };
    if before == Some(current) {
        return current.clone();
    }
    let is_other = |version: &&ModelVersion| *version != current && model.versions.contains_key(*version);
    let Some(old) = before.filter(is_other).or(Some(&rollout.from).filter(is_other)) else {
        return current.clone();
    };
    // Also with nothing attached at all the old one stays: it is what all frontends wait for the new one to
    // relieve, and one replica of the new one is then enough.
    let enough = wanted(model, current).min(attached(old)).max(1);
    if attached(current) >= enough { current } else { old }.clone()
}

/// What a change of versions under way waits for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum WaitsFor {
    /// The current version is stopped, so it never becomes ready by itself.
    AStart,
    /// No frontend takes queries.
    AFrontend,
    /// Every frontend answers with the current version: the control role is about to end the rollout.
    ItsEnd,
    /// A person starts the containers of the current version, and none is attached.
    AContainer,
    /// The current version lacks replicas.
    Replicas {
        /// Attached to some frontend.
        attached: u32,
        /// Wanted.
        desired: u32,
    },
    /// Not every frontend answers with the current version yet.
    Traffic,
}

/// How far a change of versions is along.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// The replicas that the current version is to have; none if its containers attach by themselves.
    pub desired: Option<u32>,
    /// Its replicas that take work from some frontend.
    pub attached: u32,
    /// The frontends that take queries.
    pub frontends: usize,
    /// Those of them that answer with the current version.
    pub switched: usize,
}

impl Progress {
    /// What it waits for. A version that is to have no replica comes first, because only a person can go on.
    pub fn waits_for(self) -> WaitsFor {
        match self.desired {
            Some(0) if self.attached == 0 => WaitsFor::AStart,
            _ if self.frontends == 0 => WaitsFor::AFrontend,
            _ if self.switched == self.frontends => WaitsFor::ItsEnd,
            None if self.attached == 0 => WaitsFor::AContainer,
            Some(desired) if self.attached < desired => WaitsFor::Replicas {
                attached: self.attached,
                desired,
            },
            _ => WaitsFor::Traffic,
        }
    }
}

/// The replicas that a version is to have; one if its containers attach by themselves, and nobody knows how
/// many there will be.
fn wanted(model: &Model, version: &ModelVersion) -> u32 {
    let deployment = model
        .versions
        .get(version)
        .and_then(|version| version.spec.deployment.as_ref());
    deployment.map_or(1, |deployment| deployment.replicas)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::catalog::Rollout;

    fn version(number: u32) -> ModelVersion {
        ModelVersion::new(&number.to_string()).unwrap()
    }

    /// Versions 1, 2, … with so many replicas wanted of each; none: they attach by themselves.
    fn model(wanted: &[Option<u32>], current: u32, from: Option<u32>) -> Model {
        let versions: serde_json::Map<_, _> = (1..)
            .zip(wanted)
            .map(|(number, wanted)| {
                let mut spec = serde_json::json!({
                    "input_type": "doubles", "registered_at": "2026-01-01T00:00:00Z",
                });
                if let Some(replicas) = wanted {
                    spec["deployment"] = serde_json::json!({ "image": "i", "replicas": replicas });
                }
                (format!("{number}"), spec)
            })
            .collect();
        let mut model: Model = serde_json::from_value(serde_json::json!({
            "name": "m", "current_version": current.to_string(), "versions": versions,
        }))
        .unwrap();
        model.rollout = from.map(|from| Rollout {
            from: version(from),
            replace: false,
        });
        model
    }

    fn serves(model: &Model, before: Option<u32>, attached: &[u32]) -> String {
        let before = before.map(version);
        let count = |version: &ModelVersion| {
            let index: usize = version.to_string().parse().unwrap();
            attached.get(index - 1).copied().unwrap_or_default()
        };
        serving(model, before.as_ref(), count).to_string()
    }

    #[test]
    fn the_old_version_answers_until_as_many_of_the_new_are_there() {
        let rolling = model(&[Some(3), Some(3)], 2, Some(1));
        assert_eq!(serves(&rolling, Some(1), &[3, 0]), "1");
        assert_eq!(serves(&rolling, Some(1), &[3, 2]), "1");
        assert_eq!(serves(&rolling, Some(1), &[3, 3]), "2");
        assert_eq!(serves(&rolling, Some(1), &[2, 2]), "2");
    }

    #[test]
    fn fewer_are_enough_if_no_more_are_wanted_but_never_none() {
        let fewer = model(&[Some(3), Some(1)], 2, Some(1));
        assert_eq!(serves(&fewer, Some(1), &[3, 1]), "2");
        let by_themselves = model(&[Some(3), None], 2, Some(1));
        assert_eq!(serves(&by_themselves, Some(1), &[3, 1]), "2");
        let stopped = model(&[Some(3), Some(0)], 2, Some(1));
        assert_eq!(serves(&stopped, Some(1), &[3, 0]), "1");
        assert_eq!(serves(&stopped, Some(1), &[0, 0]), "1");
    }

    #[test]
    fn a_frontend_that_starts_in_the_midst_goes_by_where_the_rollout_began() {
        let rolling = model(&[Some(1), Some(1)], 2, Some(1));
        assert_eq!(serves(&rolling, None, &[0, 0]), "1");
        assert_eq!(serves(&rolling, None, &[1, 0]), "1");
        assert_eq!(serves(&rolling, None, &[0, 1]), "2");
    }

    #[test]
    fn what_a_rollout_began_from_may_be_gone() {
        assert_eq!(
            serves(&model(&[Some(1), Some(1)], 2, Some(9)), Some(7), &[1, 0]),
            "2"
        );
        assert_eq!(
            serves(&model(&[Some(1), Some(1)], 2, Some(9)), Some(1), &[1, 0]),
            "1"
        );
    }

    /// What happens to one model, as one frontend sees it.
    #[derive(Clone, Debug)]
    enum Event {
        Attached(u32, u32),
        SetVersion(u32),
        Done,
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            (1u32..=3, 0u32..=4).prop_map(|(version, count)| Event::Attached(version, count)),
            (1u32..=3).prop_map(Event::SetVersion),
            Just(Event::Done),
        ]
    }

    proptest! {
        #[test]
        fn whatever_happens_the_version_that_answers_changes_only_to_the_current_one_and_only_when_that_is_ready(
            wanted in prop::collection::vec(prop::option::of(0u32..=4), 3..=3),
            events in prop::collection::vec(event(), 0..60),
        ) {
            let mut now = model(&wanted, 1, None);
            let mut attached = BTreeMap::<ModelVersion, u32>::new();
            let mut before = serving(&now, None, |_| 0);
            for event in events {
                match event {
                    Event::Attached(number, count) => drop(attached.insert(version(number), count)),
                    Event::SetVersion(number) if version(number) != now.current_version => {
                        let from = std::mem::replace(&mut now.current_version, version(number));
                        now.rollout = Some(Rollout { from, replace: false });
                    }
                    // The control role ends a rollout when the current version answers.
                    Event::Done if before == now.current_version => now.rollout = None,
                    _ => {}
                }
                let count = |version: &ModelVersion| attached.get(version).copied().unwrap_or_default();
                let next = serving(&now, Some(&before), count);
                if next != before {
                    prop_assert_eq!(&next, &now.current_version);
                    prop_assert!(count(&next) >= 1);
                    prop_assert!(count(&next) >= count(&before).min(super::wanted(&now, &next)));
                } else if next != now.current_version {
                    prop_assert!(count(&now.current_version) < count(&next).max(1));
                }
                // Asked again, it answers the same.
                prop_assert_eq!(&serving(&now, Some(&next), count), &next);
                before = next;
            }
        }
    }
}

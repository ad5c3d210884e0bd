//! When a frontend that has begun is ready: once the models that were served before have replicas here.
//!
//! A balancer that sent it queries before that would get defaults for them. What cannot be had is not waited for:
//! containers that run dial in within a second, and those that have to be started are given some more.

use std::collections::BTreeSet;
use std::time::Duration;

use skysail_proto::ids::{ModelId, ModelName};

use crate::catalog::{Catalog, Model};
use crate::cluster::FrontendView;

/// How long containers are waited for that run already.
pub const DIALS_WITHIN: Duration = Duration::from_secs(3);

/// How long containers are waited for that this cluster has to start.
pub const STARTS_WITHIN: Duration = Duration::from_secs(10);

/// What a frontend that has begun knows.
pub struct Beginning<'a> {
    /// What is to be served.
    pub catalog: &'a Catalog,
    /// What this frontend sees.
    pub own: &'a FrontendView,
    /// What the others see.
    pub others: Vec<&'a FrontendView>,
    /// Whether what others announced is known yet.
    pub knows_others: bool,
    /// For how long the catalog has been known.
    pub elapsed: Duration,
}

impl Beginning<'_> {
    /// The models whose replicas are waited for: none yet while it is not known which, nothing once it is over.
    pub fn waits_for(&self) -> Option<BTreeSet<ModelName>> {
        if !self.knows_others && self.elapsed <= DIALS_WITHIN {
            return Some(BTreeSet::new());
        }
        let others = self.others.iter().filter(|view| !view.draining);
        let mut served = others.flat_map(|view| &view.replicas).peekable();
        let missing: BTreeSet<_> = if served.peek().is_some() {
            let missing = served.filter(|replica| !self.has(&replica.model) && self.elapsed <= DIALS_WITHIN);
            missing.map(|replica| replica.model.name.clone()).collect()
        } else {
            // Nobody serves anything: it is alone, or all have begun at once. What was served before is not
            // written down anywhere, but what is to be.
            let linked = self.catalog.models.values().filter(|model| {
                let mut applications = self.catalog.applications_of(&model.name);
                applications.next().is_some()
            });
            let missing = linked.filter(|model| !self.is_served(model));
            missing.map(|model| model.name.clone()).collect()
        };
        (!missing.is_empty()).then_some(missing)
    }

    /// Whether this frontend has a replica of a version of this model that answers queries, or is not to wait for
    /// one any more.
    fn is_served(&self, model: &Model) -> bool {
        let from = model.rollout.as_ref().map(|rollout| &rollout.from);
        let answering = from.into_iter().chain([&model.current_version]);
        let answering = answering.filter_map(|version| Some((version, model.versions.get(version)?)));
        let mut longest = Duration::ZERO;
        for (version, registered) in answering {
            if self.has(&ModelId::new(model.name.clone(), version.clone())) {
                return true;
            }
            let patience = match &registered.spec.deployment {
                None => DIALS_WITHIN,
                Some(deployment) if deployment.replicas > 0 => STARTS_WITHIN,
                Some(_stopped) => Duration::ZERO,
            };
            longest = longest.max(patience);
        }
        longest.is_zero() || self.elapsed > longest
    }

    fn has(&self, model: &ModelId) -> bool {
        self.own.replicas.iter().any(|found| found.model == *model)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::catalog::{Application, Change, Generation};
    use crate::cluster::ReplicaView;

    fn view(models: &[&str]) -> FrontendView {
        let replica = |model: &&str| -> ReplicaView {
            serde_json::from_value(json!({
                "replica": "m_1_0", "model": model, "hostname": "", "pid": 1, "draining": false,
                "attached_at": "2026-01-01T00:00:00Z", "in_flight": 0, "batches": 0, "inputs": 0,
            }))
            .unwrap()
        };
        FrontendView {
            replicas: models.iter().map(replica).collect(),
            ..FrontendView::default()
        }
    }

    /// Models with the replicas wanted of their version 1 (none: they attach by themselves); all are linked whose
    /// names do not begin with an x.
    fn catalog(models: &[(&str, Option<u32>)]) -> Catalog {
        let mut changes = Vec::new();
        for (name, replicas) in models {
            let deployment = replicas.map(|replicas| json!({ "image": "i", "replicas": replicas }));
            let version = json!({
                "input_type": "doubles", "registered_at": "2026-01-01T00:00:00Z", "deployment": deployment,
            });
            let model = json!({ "name": name, "current_version": "1", "versions": { "1": version } });
            changes.push(Change::put(serde_json::from_value::<Model>(model).unwrap()));
            if !name.starts_with('x') {
                let application = json!({
                    "name": name, "input_type": "doubles", "default_output": "", "slo_micros": 1,
                    "linked_models": [name], "registered_at": "2026-01-01T00:00:00Z",
                });
                changes.push(Change::put(
                    serde_json::from_value::<Application>(application).unwrap(),
                ));
            }
        }
        Catalog::default().with(&changes, Generation::default())
    }

    /// After how many milliseconds it is over at the latest, with these replicas here.
    fn over_after(catalog: &Catalog, own: &[&str], others: &[&[&str]]) -> u64 {
        let (own, others): (_, Vec<_>) = (view(own), others.iter().map(|models| view(models)).collect());
        let is_over = |millis: u64| {
            let beginning = Beginning {
                catalog,
                own: &own,
                others: others.iter().collect(),
                knows_others: true,
                elapsed: Duration::from_millis(millis),
            };
            beginning.waits_for().is_none()
        };
        let after = [0, 3001, 10_001].into_iter().find(|millis| is_over(*millis));
        after.expect("it is over some time")
    }

    #[test]
    fn a_lone_frontend_waits_for_what_its_applications_ask_and_not_for_ever() {
        let all = catalog(&[("a", Some(2)), ("b", None), ("c", Some(0)), ("x", Some(1))]);
        assert_eq!(over_after(&all, &["a:1", "b:1"], &[]), 0);
        assert_eq!(over_after(&all, &["a:1"], &[]), 3001);
        assert_eq!(over_after(&all, &["b:1"], &[]), 10_001);
        assert_eq!(over_after(&all, &["a:2", "b:1"], &[]), 10_001);
        assert_eq!(over_after(&Catalog::default(), &[], &[]), 0);
        // Others that have nothing either have begun with it.
        assert_eq!(over_after(&all, &["b:1"], &[&[], &[]]), 10_001);
    }

    #[test]
    fn the_models_that_are_waited_for_are_named() {
        let all = catalog(&[("a", Some(2)), ("b", None), ("c", Some(0)), ("x", Some(1))]);
        let named = |own: &[&str], other: &[&str], knows_others| {
            let (own, other) = (view(own), view(other));
            let beginning = Beginning {
                catalog: &all,
                own: &own,
                others: vec![&other],
                knows_others,
                elapsed: Duration::ZERO,
            };
            let names = beginning.waits_for()?;
            Some(
                names
                    .iter()
                    .map(ToString::to_string)
                    .collect::<Vec<_>>()
                    .join(" "),
            )
        };
        assert_eq!(named(&[], &[], false).as_deref(), Some(""));
        assert_eq!(named(&[], &[], true).as_deref(), Some("a b"));
        assert_eq!(named(&["a:1"], &[], true).as_deref(), Some("b"));
        assert_eq!(
            named(&["a:1"], &["a:1", "x:1", "x:2"], true).as_deref(),
            Some("x")
        );
        assert_eq!(named(&["a:1", "b:1"], &[], true), None);
    }

    #[test]
    fn beside_others_it_waits_for_what_they_have() {
        let all = catalog(&[("a", Some(2)), ("b", Some(1))]);
        assert_eq!(over_after(&all, &["a:1"], &[&["a:1"], &[]]), 0);
        assert_eq!(over_after(&all, &["b:1"], &[&["a:1"]]), 3001);
    }

    #[test]
    fn while_a_change_of_versions_is_under_way_either_version_will_do() {
        let mut all = catalog(&[("a", Some(1))]);
        let mut model = Model::clone(&all.models.values().next().unwrap().clone());
        let old = model.current_version.clone();
        let new = "2".parse().unwrap();
        model.versions.insert(new, model.versions[&old].clone());
        model.current_version = "2".parse().unwrap();
        model.rollout = Some(crate::catalog::Rollout {
            from: old,
            replace: false,
        });
        all = all.with(&[Change::put(model)], Generation::default());
        for (own, after) in [("a:1", 0), ("a:2", 0), ("a:3", 10_001)] {
            assert_eq!(over_after(&all, &[own], &[]), after, "{own}");
        }
    }

    #[test]
    fn before_it_knows_of_others_it_does_not_take_itself_for_alone() {
        let (catalog, own) = (Catalog::default(), view(&[]));
        let is_over = |knows_others, elapsed| {
            Beginning {
                catalog: &catalog,
                own: &own,
                others: Vec::new(),
                knows_others,
                elapsed,
            }
            .waits_for()
            .is_none()
        };
        assert!(is_over(true, Duration::ZERO) && !is_over(false, Duration::ZERO));
        assert!(is_over(false, DIALS_WITHIN + Duration::from_millis(1)));
    }
}

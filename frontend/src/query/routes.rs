//! The version that each application's queries go to: resolved when the catalog changes, read by every query.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use skysail_core::catalog::{Application, Catalog, Generation, Model};
use skysail_core::queue::Claim;
use skysail_core::rollout::serving;
use skysail_core::selection::select;
use skysail_proto::ids::{ApplicationName, ModelId, ModelName, ModelVersion};
use skysail_proto::value::Output;

use super::error::QueryError;
use super::target::{Fit, Target};
use crate::metrics::{ApplicationMetrics, Metrics};
use crate::model::{ModelHandle, Versions};

/// The number of the next new application's [`Claim`]. An application keeps its number as long as it is registered.
static NEXT_APPLICATION: AtomicU64 = AtomicU64::new(0);

/// Everything that the path of an application's queries needs, resolved when the catalog changed.
pub(crate) struct Route {
    /// The application, as the catalog has it.
    pub application: Arc<Application>,
    pub(super) default_output: Output,
    candidates: Vec<Linked>,
    pub(super) metrics: Arc<ApplicationMetrics>,
    /// The application's number and weight beside other applications of its model.
    pub(super) claim: Claim,
}

/// A model that is linked to an application.
struct Linked {
    candidate: Arc<Candidate>,
    /// How the application's inputs fit the version that answers.
    fit: Fit,
}

/// A model that can be linked.
struct Candidate {
    name: ModelName,
    /// The version that answers queries that pin no version.
    serving: Arc<ModelHandle>,
    versions: HashMap<ModelVersion, Arc<ModelHandle>>,
    /// How many of them have a signature. A version learns it once, and its handle stays.
    declared: usize,
}

/// All routes, as one immutable snapshot.
#[derive(Default)]
pub(crate) struct Routes {
    generation: Generation,
    applications: HashMap<ApplicationName, Arc<Route>>,
    candidates: HashMap<ModelName, Arc<Candidate>>,
}

impl Routes {
    /// Resolves a catalog with its versions. The version of a model that answers also depends on the one that
    /// answered `before`. An unchanged route is kept: with thousands of applications, resolving all of them would
    /// make every write slow.
    pub(crate) fn resolve(before: &Self, catalog: &Catalog, versions: &Versions, metrics: &Metrics) -> Self {
        let candidates: HashMap<_, _> = catalog
            .models
            .values()
            .filter_map(|model| {
                let known = before.candidates.get(&model.name);
                let answered = known.map(|known| &known.serving.id.version);
                let resolved = Candidate::resolve(model, answered, versions)?;
                let kept = known.filter(|known| known.leads_where(&resolved)).cloned();
                Some((model.name.clone(), kept.unwrap_or_else(|| Arc::new(resolved))))
            })
            .collect();
        let route = |application: &Arc<Application>| {
            let linked = application.linked_models.iter();
            let linked = linked.filter_map(|name| candidates.get(name));
            let known = before.applications.get(&application.name);
            let known_as = known.map(|known| known.claim.application);
            match known.filter(|known| known.is_for(application, linked.clone())) {
                Some(known) => known.clone(),
                None => Arc::new(Route {
                    application: application.clone(),
                    default_output: application.default_output(),
                    candidates: linked.map(|found| Linked::new(found, application)).collect(),
                    metrics: metrics.application(&application.name),
                    claim: Claim {
                        application: known_as
                            .unwrap_or_else(|| NEXT_APPLICATION.fetch_add(1, Ordering::Relaxed)),
                        weight: application.weight,
                    },
                }),
            }
        };
        let applications = catalog
            .applications
            .iter()
            .map(|(name, found)| (name.clone(), route(found)))
            .collect();
        Self {
            generation: catalog.generation.clone(),
            applications,
            candidates,
        }
    }

    /// The route of an application.
    pub(super) fn of(&self, application: &str) -> Option<&Arc<Route>> {
        self.applications.get(application)
    }

    /// The generation of the catalog that the routes were resolved from.
    pub(crate) fn generation(&self) -> &Generation {
        &self.generation
    }

    /// The version of each model that answers queries that pin no version.
    pub(crate) fn serving(&self) -> impl Iterator<Item = (&ModelName, &ModelVersion)> {
        let candidates = self.candidates.iter();
        candidates.map(|(name, candidate)| (name, &candidate.serving.id.version))
    }
}

impl Candidate {
    /// Resolves a model whose version `before` has answered so far. `None` if the version that must answer has no
    /// handle.
    fn resolve(model: &Model, before: Option<&ModelVersion>, all: &Versions) -> Option<Self> {
        let id = |version: &ModelVersion| ModelId::new(model.name.clone(), version.clone());
        let versions: HashMap<_, _> = model
            .versions
            .keys()
            .filter_map(|version| Some((version.clone(), all.get(&id(version))?.clone())))
            .collect();
        let serving = serving(model, before, |version| all.ready(&id(version)));
        Some(Self {
            name: model.name.clone(),
            serving: versions.get(&serving)?.clone(),
            declared: versions
                .values()
                .filter(|handle| handle.signature().is_declared())
                .count(),
            versions,
        })
    }

    /// Whether queries go to the same handles as with `other`, and inputs fit them alike.
    fn leads_where(&self, other: &Self) -> bool {
        let is_same = |(version, handle): (&ModelVersion, &Arc<ModelHandle>)| {
            let found = other.versions.get(version);
            found.is_some_and(|found| Arc::ptr_eq(found, handle))
        };
        Arc::ptr_eq(&self.serving, &other.serving)
            && self.declared == other.declared
            && self.versions.len() == other.versions.len()
            && self.versions.iter().all(is_same)
    }
}

impl Linked {
    fn new(candidate: &Arc<Candidate>, application: &Application) -> Self {
        Self {
            candidate: candidate.clone(),
            fit: Fit::of_serving(&candidate.serving, &application.signature),
        }
    }
}

impl Route {
    /// Whether it is the route of this application with these candidates.
    fn is_for<'a>(
        &self,
        application: &Arc<Application>,
        candidates: impl Iterator<Item = &'a Arc<Candidate>>,
    ) -> bool {
        // A store that reads everything anew makes new objects for unchanged applications.
        let is_same = Arc::ptr_eq(&self.application, application) || self.application == *application;
        is_same
            && self
                .candidates
                .iter()
                .map(|linked| Arc::as_ptr(&linked.candidate))
                .eq(candidates.map(Arc::as_ptr))
    }

    /// The version to ask: the pinned one, or the serving one of the selected candidate. `None` if no model is
    /// linked.
    pub(super) fn target(&self, version: Option<&str>) -> Result<Option<Target<'_>>, QueryError> {
        let linked = match (select(&self.candidates), version) {
            (Ok(linked), _) => linked,
            (Err(_), None) => return Ok(None),
            (Err(_), Some(version)) => return Err(QueryError::VersionWithoutModel(shortened(version))),
        };
        match version {
            None => Ok(Some(self.serving(linked))),
            Some(version) => self.pinned(&linked.candidate, version).map(Some),
        }
    }

    fn serving<'a>(&'a self, linked: &'a Linked) -> Target<'a> {
        let model: &ModelHandle = &linked.candidate.serving;
        let fit = match &linked.fit {
            // A replica may have told the signature since.
            Fit::Not(_) => Cow::Owned(Fit::of_serving(model, &self.application.signature)),
            fit => Cow::Borrowed(fit),
        };
        Target { model, fit }
    }

    fn pinned<'a>(&self, candidate: &'a Candidate, version: &str) -> Result<Target<'a>, QueryError> {
        let Some(model) = candidate.versions.get(version) else {
            let (version, model) = (shortened(version), candidate.name.clone());
            return Err(QueryError::UnknownVersion { version, model });
        };
        let fit = Fit::of(model.signature(), &self.application.signature);
        let fit = fit.map_err(|why| QueryError::VersionMisfit {
            version: model.id.version.clone(),
            model: candidate.name.clone(),
            why,
        })?;
        Ok(Target {
            model,
            fit: Cow::Owned(fit),
        })
    }
}

fn shortened(text: &str) -> String {
    text.chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    use skysail_container_rpc::session::Registration;
    use skysail_core::catalog::{Change, Rollout};
    use skysail_core::queue::Bounds;
    use skysail_proto::ids::ReplicaId;
    use skysail_proto::value::InputType;

    use super::*;
    use crate::clock::Clock;
    use crate::model::ModelTable;
    use crate::model::replica::Replica;

    /// A catalog that grows, and the routes that follow it.
    struct Followed {
        catalog: Catalog,
        table: ModelTable,
        metrics: Arc<Metrics>,
        routes: Routes,
    }

    impl Followed {
        fn new() -> Self {
            let metrics = Arc::new(Metrics::default());
            let bounds = Bounds { count: 1, bytes: 1 };
            Self {
                catalog: Catalog::default(),
                table: ModelTable::new(bounds, 0, metrics.clone(), Clock::start()),
                metrics,
                routes: Routes::default(),
            }
        }

        fn change(&mut self, change: Change) {
            self.catalog = self.catalog.with(&[change], Default::default());
            self.follow();
        }

        fn follow(&mut self) {
            let (versions, gone) = self.table.follow(&self.catalog);
            self.routes = Routes::resolve(&self.routes, &self.catalog, &versions, &self.metrics);
            self.table.close(gone);
        }

        fn register(&mut self, name: &str, model: &str, slo_micros: u64) {
            let application = serde_json::json!({
                "name": name, "input_type": "doubles", "default_output": "", "slo_micros": slo_micros,
                "linked_models": [model], "registered_at": "2026-01-01T00:00:00Z",
            });
            self.change(Change::put(
                serde_json::from_value::<Application>(application).unwrap(),
            ));
        }

        fn deploy(&mut self, name: &str, version: &str, registered_at: &str) {
            let version_spec = serde_json::json!({
                "version": version, "input_type": "doubles", "registered_at": registered_at,
            });
            let model = serde_json::json!({
                "name": name, "current_version": version, "versions": { version: version_spec },
            });
            self.change(Change::put(serde_json::from_value::<Model>(model).unwrap()));
        }

        /// Makes another version the current one, by a rollout from the one before.
        fn roll(&mut self, name: &str, version: &str) {
            let mut model = Model::clone(&self.catalog.models[name]);
            let spec = model.versions.values().next().unwrap().clone();
            let version: ModelVersion = version.parse().unwrap();
            model.versions.entry(version.clone()).or_insert(spec);
            let from = std::mem::replace(&mut model.current_version, version);
            model.rollout = Some(Rollout { from, replace: false });
            self.change(Change::put(model));
        }

        fn attach(&mut self, model: &str) -> Arc<Replica> {
            let registration = Registration {
                model: model.parse().unwrap(),
                signature: InputType::Doubles.into(),
                annotations: [].into(),
                replica: ReplicaId::of(&model.parse().unwrap(), 0),
                token: String::new(),
                hostname: String::new(),
                pid: 1,
                agent: String::new(),
                recent_batches: Vec::new(),
            };
            self.table.replicas().attach(registration, String::new(), None).0
        }

        fn answers(&self, name: &str) -> String {
            self.route(name)
                .target(None)
                .unwrap()
                .unwrap()
                .model
                .id
                .to_string()
        }

        fn route(&self, name: &str) -> Arc<Route> {
            self.routes.applications[name].clone()
        }
    }

    #[test]
    fn routes_are_kept_where_nothing_changed_and_resolved_anew_where_something_did() {
        let mut followed = Followed::new();
        followed.deploy("a", "1", "2026-01-01T00:00:00Z");
        followed.deploy("b", "1", "2026-01-01T00:00:00Z");
        followed.register("to-a", "a", 1);
        followed.register("to-b", "b", 1);
        let kept =
            |followed: &Followed, before: &Arc<Route>, name| Arc::ptr_eq(before, &followed.route(name));
        let (to_a, to_b) = (followed.route("to-a"), followed.route("to-b"));
        assert_eq!(to_b.target(None).unwrap().unwrap().model.id.to_string(), "b:1");

        // Changes of other applications and models keep the routes.
        followed.register("other", "a", 1);
        followed.deploy("c", "1", "2026-01-01T00:00:00Z");
        // So does the same application, read anew.
        followed.register("to-a", "a", 1);
        assert!(kept(&followed, &to_a, "to-a") && kept(&followed, &to_b, "to-b"));
        // Another version makes a new route, and so does another version of the same name.
        followed.deploy("b", "2", "2026-01-01T00:00:00Z");
        let to_b2 = followed.route("to-b");
        assert_eq!(to_b2.target(None).unwrap().unwrap().model.id.to_string(), "b:2");
        followed.deploy("b", "2", "2026-01-02T00:00:00Z");
        assert!(!kept(&followed, &to_b2, "to-b"));
        // So does a change of the application.
        followed.register("to-a", "a", 2);
        assert_eq!(followed.route("to-a").application.slo_micros, 2);
    }

    #[test]
    fn a_version_answers_once_it_has_a_replica_and_can_be_pinned_before() {
        let mut followed = Followed::new();
        followed.deploy("m", "1", "2026-01-01T00:00:00Z");
        followed.register("app", "m", 1);
        let first = followed.attach("m:1");
        followed.roll("m", "2");
        assert_eq!(followed.answers("app"), "m:1");
        let route = followed.route("app");
        assert_eq!(
            route.target(Some("2")).unwrap().unwrap().model.id.to_string(),
            "m:2"
        );
        let second = followed.attach("m:2");
        followed.follow();
        assert_eq!(followed.answers("app"), "m:2");
        // A route from before the switch stays with its version.
        assert_eq!(route.target(None).unwrap().unwrap().model.id.to_string(), "m:1");
        // Only another rollout leads back, and that at once.
        followed.table.replicas().detach(&second);
        followed.follow();
        assert_eq!(followed.answers("app"), "m:2");
        followed.roll("m", "1");
        assert_eq!(followed.answers("app"), "m:1");
        let serving: Vec<_> = followed
            .routes
            .serving()
            .map(|(_, version)| version.as_str())
            .collect();
        assert_eq!(serving, ["1"]);
        followed.table.replicas().detach(&first);
    }

    #[test]
    fn a_replica_that_cannot_be_counted_on_makes_no_version_ready() {
        let mut followed = Followed::new();
        followed.deploy("m", "1", "2026-01-01T00:00:00Z");
        followed.register("app", "m", 1);
        followed.roll("m", "2");
        followed.attach("m:2").draining.store(true, Ordering::Relaxed);
        followed.follow();
        assert_eq!(followed.answers("app"), "m:1");
    }

    #[test]
    fn a_version_that_learns_its_signature_is_asked_in_its_own_order() {
        let mut followed = Followed::new();
        let spec = |name: &str| serde_json::json!({"name": name, "datatype": "INT8"});
        let model = |signature: serde_json::Value| {
            let mut version = serde_json::json!({
                "input_type": "tensors", "registered_at": "2026-01-01T00:00:00Z",
            });
            if !signature.is_null() {
                version["signature"] = signature;
            }
            let model = serde_json::json!({"name": "m", "current_version": "1", "versions": {"1": version}});
            Change::put(serde_json::from_value::<Model>(model).unwrap())
        };
        followed.change(model(serde_json::Value::Null));
        let application = serde_json::json!({
            "name": "app", "input_type": "tensors", "signature": {"inputs": [spec("a"), spec("b")]},
            "default_output": "", "slo_micros": 1, "linked_models": ["m"],
            "registered_at": "2026-01-01T00:00:00Z",
        });
        followed.change(Change::put(
            serde_json::from_value::<Application>(application).unwrap(),
        ));
        let fit = |route: &Route, version| {
            route
                .target(version)
                .map(|target| target.unwrap().fit.into_owned())
        };
        let before = followed.route("app");
        assert!(matches!(fit(&before, None), Ok(Fit::Not(_))));
        assert!(matches!(
            fit(&before, Some("1")),
            Err(QueryError::VersionMisfit { .. })
        ));
        let handle = before.candidates[0].candidate.serving.clone();

        followed.change(model(serde_json::json!({"inputs": [spec("b"), spec("a")]})));
        let after = followed.route("app");
        assert!(Arc::ptr_eq(&handle, &after.candidates[0].candidate.serving));
        let reordered = Fit::Reordered([1, 0].into());
        for route in [&before, &after] {
            assert_eq!(fit(route, None).unwrap(), reordered);
            assert_eq!(fit(route, Some("1")).unwrap(), reordered);
        }
        assert_eq!(after.candidates[0].fit, reordered);
    }
}

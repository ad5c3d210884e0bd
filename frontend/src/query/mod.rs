//! The query path: from a typed query to its answer.

use std::collections::{BTreeSet, HashMap};
use std::iter;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use skysail_core::catalog::{Application, Catalog, Generation, Model};
use skysail_core::query::{DefaultReason, Outcome};
use skysail_core::queue::Claim;
use skysail_core::rollout::serving;
use skysail_core::selection::{Answer, combine, select};
use skysail_core::time::Instant;
use skysail_proto::ids::{ApplicationName, ModelId, ModelName, ModelVersion};
use skysail_proto::value::{Input, Output};

use crate::clock::Clock;
use crate::metrics::{ApplicationMetrics, Metrics};
use crate::model::{Asked, MAX_INPUT_BYTES, ModelHandle, ROWS_AT_ONCE, Versions};

pub mod error;
pub mod http;
pub mod ids;
pub mod request;
mod written;

use error::QueryError;
use ids::QueryIds;
use request::{Inputs, PredictRequest};

/// The most models that are named where there may be many.
const MOST_NAMED: usize = 5;

/// The number under which the next application's queries wait: it keeps it for as long as it is registered.
static NEXT_APPLICATION: AtomicU64 = AtomicU64::new(0);

/// Where an application's queries go: everything the path needs, resolved when the catalog changed.
pub struct Route {
    /// The application.
    pub application: Arc<Application>,
    default_output: Output,
    candidates: Vec<Arc<Candidate>>,
    metrics: Arc<ApplicationMetrics>,
    /// What it is beside other applications of its model.
    claim: Claim,
}

/// A model that can be linked.
struct Candidate {
    name: ModelName,
    /// The version that answers queries that pin none.
    serving: Arc<ModelHandle>,
    versions: HashMap<ModelVersion, Arc<ModelHandle>>,
}

/// All routes, as one immutable snapshot.
#[derive(Default)]
pub struct Routes {
    generation: Generation,
    applications: HashMap<ApplicationName, Arc<Route>>,
    candidates: HashMap<ModelName, Arc<Candidate>>,
}

impl Routes {
    /// Resolves a catalog, given its versions; which of a model's versions answers also depends on which did
    /// `before`. What is as it was in `before` is kept:
    /// with thousands of applications, resolving them all would make every write slow.
    pub fn resolve(before: &Self, catalog: &Catalog, versions: &Versions, metrics: &Metrics) -> Self {
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
                    candidates: linked.cloned().collect(),
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

    /// The catalog they were resolved from.
    pub fn generation(&self) -> &Generation {
        &self.generation
    }

    /// The version of each model that answers queries that pin none.
    pub fn serving(&self) -> impl Iterator<Item = (&ModelName, &ModelVersion)> {
        let candidates = self.candidates.iter();
        candidates.map(|(name, candidate)| (name, &candidate.serving.id.version))
    }
}

impl Candidate {
    /// A model, of which a version answered `before`.
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
            versions,
        })
    }

    /// Whether queries end up where they would with `other`: at the same handles.
    fn leads_where(&self, other: &Self) -> bool {
        let is_same = |(version, handle): (&ModelVersion, &Arc<ModelHandle>)| {
            let found = other.versions.get(version);
            found.is_some_and(|found| Arc::ptr_eq(found, handle))
        };
        Arc::ptr_eq(&self.serving, &other.serving)
            && self.versions.len() == other.versions.len()
            && self.versions.iter().all(is_same)
    }
}

/// One answered query.
#[derive(Debug)]
pub struct Answered {
    /// Its id.
    pub query_id: u64,
    /// Its answer.
    pub answer: Answer,
}

/// The answers to a request, in its own form.
#[derive(Debug)]
pub enum Reply {
    /// To `input`.
    One(Answered),
    /// To `input_batch`, in order.
    Many(Vec<Answered>),
}

/// Answers queries.
pub struct QueryService {
    routes: ArcSwapOption<Routes>,
    ids: QueryIds,
    clock: Clock,
    settling: Mutex<Option<BTreeSet<ModelName>>>,
    draining: AtomicBool,
}

impl QueryService {
    /// Knows no application yet.
    pub fn new(clock: Clock) -> Self {
        Self {
            routes: ArcSwapOption::empty(),
            ids: QueryIds::default(),
            clock,
            settling: Mutex::default(),
            draining: AtomicBool::new(false),
        }
    }

    /// The routes that queries take; none before a catalog was followed.
    pub fn routes(&self) -> Arc<Routes> {
        self.routes.load_full().unwrap_or_default()
    }

    /// Follows the catalog: queries that come from now on take these routes.
    pub fn set_routes(&self, routes: Routes) {
        self.routes.store(Some(Arc::new(routes)));
    }

    /// The source of query ids.
    pub fn ids(&self) -> &QueryIds {
        &self.ids
    }

    /// Says in readiness that replicas of these models are waited for; none while it is not known yet which, and
    /// nothing once they have come.
    pub fn set_settling(&self, waits_for: Option<BTreeSet<ModelName>>) {
        *self.settling.lock() = waits_for;
    }

    /// Whether replicas are waited for.
    pub fn is_settling(&self) -> bool {
        self.settling.lock().is_some()
    }

    /// Says in readiness that no new query should come.
    pub fn start_draining(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Whether no new query should come any more.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// Why new queries should not come; nothing if they may.
    pub fn not_ready(&self) -> Option<String> {
        if self.is_draining() {
            return Some("the frontend is draining".into());
        }
        if self.routes.load().is_none() {
            return Some("the metadata store was not read yet".into());
        }
        if !self.ids.are_there() {
            return Some("the metadata store has not given query ids yet".into());
        }
        self.settling.lock().as_ref().map(waiting_for)
    }

    /// An application's route.
    pub fn route(&self, application: &str) -> Result<Arc<Route>, QueryError> {
        let routes = self.routes.load();
        let (Some(routes), true) = (&*routes, self.ids.are_there()) else {
            return Err(QueryError::NotReady(
                "the metadata store was not read yet; try again".into(),
            ));
        };
        let route = routes.applications.get(application).cloned();
        route.ok_or_else(|| QueryError::UnknownApplication(application.chars().take(80).collect()))
    }

    /// The time of the queries' clock.
    pub fn now(&self) -> Instant {
        self.clock.now()
    }

    /// Answers a request that was there as a whole at `arrival`: its deadlines count from then.
    pub async fn predict(
        &self,
        route: &Route,
        request: PredictRequest,
        arrival: Instant,
    ) -> Result<Reply, QueryError> {
        let PredictRequest {
            inputs,
            version,
            slo_micros,
        } = request;
        let slo = slo_micros
            .map_or(Duration::MAX, |micros| Duration::from_micros(micros.get()))
            .min(route.application.slo());
        let target = route.target(version.as_deref())?;
        let span = Span {
            arrival,
            asked: Asked {
                deadline: arrival + slo,
                claim: route.claim,
            },
        };
        match inputs {
            Inputs::One(input) => {
                check_size(&input)?;
                Ok(Reply::One(self.answer(route, target, input, span).await))
            }
            Inputs::Many(inputs) => {
                inputs.iter().try_for_each(check_size)?;
                Ok(Reply::Many(self.answer_rows(route, target, inputs, span).await))
            }
        }
    }

    async fn answer(
        &self,
        route: &Route,
        target: Option<&ModelHandle>,
        input: Input,
        span: Span,
    ) -> Answered {
        let query_id = self.ids.next();
        let outcome = match target {
            Some(model) => model.predict(input, span.asked).await,
            None => Err(DefaultReason::NoModelLinked.into()),
        };
        route.answered(query_id, outcome, self.latency(span))
    }

    /// Answers the rows of a request, each under an id of its own. Between chunks of them other tasks have their
    /// turn.
    async fn answer_rows(
        &self,
        route: &Route,
        target: Option<&ModelHandle>,
        inputs: Vec<Input>,
        span: Span,
    ) -> Vec<Answered> {
        let rows = inputs.len();
        let mut ids = self.ids.take(rows as u64);
        let mut answers = Vec::with_capacity(rows);
        let mut outcomes: Box<dyn Iterator<Item = Outcome> + Send> = match target {
            Some(model) => Box::new(model.predict_rows(inputs, span.asked).await),
            None => Box::new(iter::repeat_n(Err(DefaultReason::NoModelLinked.into()), rows)),
        };
        // All are answered now: what some waited for the others is theirs, too.
        let latency = self.latency(span);
        while answers.len() < rows {
            let chunk = ids.by_ref().zip(outcomes.by_ref()).take(ROWS_AT_ONCE);
            answers.extend(chunk.map(|(id, outcome)| route.answered(id, outcome, latency)));
            if answers.len() < rows {
                tokio::task::yield_now().await;
            }
        }
        answers
    }

    fn latency(&self, span: Span) -> Duration {
        self.clock.now().saturating_since(span.arrival)
    }
}

/// From a query's arrival to when its answer is due, and for whom it is asked.
#[derive(Clone, Copy)]
struct Span {
    arrival: Instant,
    asked: Asked,
}

/// Says for which models' replicas a frontend waits.
fn waiting_for(models: &BTreeSet<ModelName>) -> String {
    if models.is_empty() {
        return "waiting for what other frontends announce".into();
    }
    let named: Vec<_> = models
        .iter()
        .take(MOST_NAMED)
        .map(|model| format!("`{model}`"))
        .collect();
    let more = match models.len() - named.len() {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!(
        "waiting for replicas of {}{more} to attach to this frontend",
        named.join(", ")
    )
}

impl Route {
    /// What the application answers to a query, which is counted.
    fn answered(&self, query_id: u64, outcome: Outcome, latency: Duration) -> Answered {
        let answer = combine(outcome, &self.default_output);
        let reason = answer.failure.as_ref().map(|failure| failure.reason);
        self.metrics.answered(latency, reason);
        Answered { query_id, answer }
    }

    /// Whether it is the route of this application with these candidates.
    fn is_for<'a>(
        &self,
        application: &Arc<Application>,
        candidates: impl Iterator<Item = &'a Arc<Candidate>>,
    ) -> bool {
        // A store that reads everything anew makes new ones of what did not change.
        let is_same = Arc::ptr_eq(&self.application, application) || self.application == *application;
        is_same
            && self
                .candidates
                .iter()
                .map(Arc::as_ptr)
                .eq(candidates.map(Arc::as_ptr))
    }

    /// The model to ask: the version of the selected candidate that answers, or the pinned one.
    fn target(&self, version: Option<&str>) -> Result<Option<&ModelHandle>, QueryError> {
        let candidate = match (select(&self.candidates), version) {
            (Ok(candidate), _) => candidate,
            (Err(_), None) => return Ok(None),
            (Err(_), Some(version)) => return Err(QueryError::VersionWithoutModel(shortened(version))),
        };
        let Some(version) = version else {
            return Ok(Some(&candidate.serving));
        };
        let Some(pinned) = candidate.versions.get(version) else {
            let (version, model) = (shortened(version), candidate.name.clone());
            return Err(QueryError::UnknownVersion { version, model });
        };
        let (takes, sends) = (pinned.spec.input_type, self.application.input_type);
        if takes != sends {
            let (version, model) = (pinned.id.version.clone(), candidate.name.clone());
            return Err(QueryError::VersionType {
                version,
                model,
                takes,
                sends,
            });
        }
        Ok(Some(pinned))
    }
}

fn shortened(text: &str) -> String {
    text.chars().take(80).collect()
}

fn check_size(input: &Input) -> Result<(), QueryError> {
    let (size, limit) = (input.data().len(), MAX_INPUT_BYTES);
    if size > limit {
        return Err(QueryError::InputTooLarge { size, limit });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use skysail_container_rpc::session::Registration;
    use skysail_core::catalog::{Change, Rollout};
    use skysail_core::queue::Bounds;
    use skysail_proto::ids::ReplicaId;
    use skysail_proto::value::InputType;

    use super::*;
    use crate::model::ModelTable;
    use crate::model::replica::Replica;

    #[test]
    fn the_models_that_are_waited_for_are_named_as_far_as_they_are_few() {
        let models = |count: usize| {
            (0..count)
                .map(|number| format!("m{number}").parse().unwrap())
                .collect()
        };
        let words = waiting_for(&models(2));
        assert_eq!(
            words,
            "waiting for replicas of `m0`, `m1` to attach to this frontend"
        );
        assert!(waiting_for(&models(5)).contains("`m4` to attach"));
        assert!(waiting_for(&models(9)).contains("`m4` and 4 more to attach"));
        assert!(waiting_for(&models(0)).contains("other frontends"));
    }

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

        /// Makes another version the current one, as a rollout from the one before.
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
                input_type: InputType::Doubles,
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
            self.route(name).target(None).unwrap().unwrap().id.to_string()
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
        assert_eq!(to_b.target(None).unwrap().unwrap().id.to_string(), "b:1");

        // Other applications and models.
        followed.register("other", "a", 1);
        followed.deploy("c", "1", "2026-01-01T00:00:00Z");
        // The same again, read anew.
        followed.register("to-a", "a", 1);
        assert!(kept(&followed, &to_a, "to-a") && kept(&followed, &to_b, "to-b"));
        // Another version, and another version of the same name.
        followed.deploy("b", "2", "2026-01-01T00:00:00Z");
        let to_b2 = followed.route("to-b");
        assert_eq!(to_b2.target(None).unwrap().unwrap().id.to_string(), "b:2");
        followed.deploy("b", "2", "2026-01-02T00:00:00Z");
        assert!(!kept(&followed, &to_b2, "to-b"));
        // An application that changes.
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
        assert_eq!(route.target(Some("2")).unwrap().unwrap().id.to_string(), "m:2");
        let second = followed.attach("m:2");
        followed.follow();
        assert_eq!(followed.answers("app"), "m:2");
        // What was routed before the switch stays where it is.
        assert_eq!(route.target(None).unwrap().unwrap().id.to_string(), "m:1");
        // Nothing leads back but another rollout, and that at once.
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
    fn an_input_that_fits_no_message_is_refused_with_its_size_and_the_limit() {
        assert!(check_size(&Input::bytes(vec![0; MAX_INPUT_BYTES])).is_ok());
        let error = check_size(&Input::bytes(vec![0; MAX_INPUT_BYTES + 1])).unwrap_err();
        assert!(
            error.to_string().contains(&MAX_INPUT_BYTES.to_string()),
            "{error}"
        );
    }
}

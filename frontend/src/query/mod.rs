//! The query path: from a typed query to its answer.
//!
//! A query passes the modules in this order. [`http`] reads a request and [`request`] parses it. [`routes`] finds the
//! version to ask, a [`target`]. [`QueryService::predict`] answers under an id of [`ids`]. `listeners` tells others of the answer,
//! and `written` writes the reply.

use std::iter;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use skysail_core::query::{AnsweredQuery, DefaultReason, Outcome, QueryRecord};
use skysail_core::selection::{Answer, combine};
use skysail_core::time::Instant;
use skysail_proto::value::Input;
use tokio::sync::mpsc::Receiver;

use crate::clock::Clock;
use crate::metrics::Metrics;
use crate::model::{Asked, MAX_INPUT_BYTES, ROWS_AT_ONCE};

pub(crate) mod error;
pub(crate) mod http;
pub(crate) mod ids;
mod listeners;
pub(crate) mod request;
mod routes;
mod target;
mod written;

use error::QueryError;
use ids::QueryIds;
use listeners::Listeners;
use request::{Inputs, PredictRequest};
pub(crate) use routes::{Route, Routes};
use target::Target;

/// The answer to one query, with its id.
#[derive(Debug)]
pub(crate) struct NumberedAnswer {
    /// The query's id, see [`ids`].
    pub id: u64,
    /// The application's answer to the query.
    pub answer: Answer,
}

/// The answers to a request, in the form of its inputs.
#[derive(Debug)]
pub(crate) enum Reply {
    /// The answer to `input`.
    One(NumberedAnswer),
    /// The answers to `input_batch`, in order.
    Many(Vec<NumberedAnswer>),
}

/// Answers the queries of all applications.
pub(crate) struct QueryService {
    routes: ArcSwapOption<Routes>,
    ids: Arc<QueryIds>,
    listeners: Listeners,
    clock: Clock,
}

/// What the queries of one request share.
#[derive(Clone, Copy)]
struct Shared<'a> {
    route: &'a Route,
    /// The version that is asked; `None` if no model is linked.
    target: Option<&'a Target<'a>>,
    arrival: Instant,
    asked: Asked,
}

impl QueryService {
    /// A service that knows no application yet.
    pub(crate) fn new(clock: Clock, metrics: &Metrics) -> Self {
        Self {
            routes: ArcSwapOption::empty(),
            ids: Arc::default(),
            listeners: Listeners::new(metrics.query_records_dropped()),
            clock,
        }
    }

    /// Answers a request whose body was complete at `arrival`. Its deadlines count from then.
    pub(crate) async fn predict(
        &self,
        route: &Route,
        request: PredictRequest,
        arrival: Instant,
    ) -> Result<Reply, QueryError> {
        let slo = request.slo().min(route.application.slo());
        let target = route.target(request.version.as_deref())?;
        let queries = Shared {
            route,
            target: target.as_ref(),
            arrival,
            asked: Asked {
                deadline: arrival + slo,
                claim: route.claim,
            },
        };
        Ok(match request.inputs {
            Inputs::One(input) => {
                check_size(&input)?;
                Reply::One(self.answer(queries, input).await)
            }
            Inputs::Many(inputs) => {
                inputs.iter().try_for_each(check_size)?;
                Reply::Many(self.answer_rows(queries, inputs).await)
            }
        })
    }

    async fn answer(&self, query: Shared<'_>, input: Input) -> NumberedAnswer {
        let id = self.ids.next();
        let outcome = match query.target {
            Some(target) => target.predict(input, query.asked).await,
            None => DefaultReason::NoModelLinked.into(),
        };
        self.answered(query, id, outcome, self.latency(query))
    }

    /// Answers the rows of a request, each under its own id. Other tasks run between chunks of rows.
    async fn answer_rows(&self, queries: Shared<'_>, inputs: Vec<Input>) -> Vec<NumberedAnswer> {
        let rows = inputs.len();
        let mut ids = self.ids.take(rows as u64);
        let mut answers = Vec::with_capacity(rows);
        let mut outcomes: Box<dyn Iterator<Item = Outcome> + Send> = match queries.target {
            Some(target) => target.predict_rows(inputs, queries.asked).await,
            None => Box::new(iter::repeat_n(DefaultReason::NoModelLinked.into(), rows)),
        };
        // All rows are answered now: a row that waited for the others waited as long as they did.
        let latency = self.latency(queries);
        while answers.len() < rows {
            let chunk = ids.by_ref().zip(outcomes.by_ref()).take(ROWS_AT_ONCE);
            answers.extend(chunk.map(|(id, outcome)| self.answered(queries, id, outcome, latency)));
            if answers.len() < rows {
                tokio::task::yield_now().await;
            }
        }
        answers
    }

    /// Makes the application's answer to a query, counts it and tells the listeners.
    fn answered(&self, query: Shared<'_>, id: u64, outcome: Outcome, latency: Duration) -> NumberedAnswer {
        let Shared { route, target, .. } = query;
        let answer = combine(outcome.prediction, &route.default_output);
        let answered = AnsweredQuery {
            id,
            application: &route.application.name,
            model: target.map(|target| &target.model.id),
            latency,
            default_reason: answer.failure.as_ref().map(|failure| failure.reason),
            course: &outcome.course,
        };
        route.metrics.answered(&answered);
        self.listeners.tell(&answered);
        NumberedAnswer { id, answer }
    }

    fn latency(&self, queries: Shared<'_>) -> Duration {
        self.clock.now().saturating_since(queries.arrival)
    }

    /// The route of an application.
    pub(crate) fn route(&self, application: &str) -> Result<Arc<Route>, QueryError> {
        let routes = self.routes.load();
        let (Some(routes), true) = (&*routes, self.ids.are_there()) else {
            return Err(QueryError::NotReady(
                "the metadata store was not read yet; try again".into(),
            ));
        };
        let route = routes.of(application).cloned();
        route.ok_or_else(|| QueryError::UnknownApplication(application.chars().take(80).collect()))
    }

    /// The routes that queries take; empty before a catalog was followed.
    pub(crate) fn routes(&self) -> Arc<Routes> {
        self.routes.load_full().unwrap_or_default()
    }

    /// Replaces the routes. Queries that come from now on take the new ones.
    pub(crate) fn set_routes(&self, routes: Routes) {
        self.routes.store(Some(Arc::new(routes)));
    }

    /// A listener to the queries answered from now on, until it is dropped. At most `capacity` records wait for it.
    /// Records beyond that are dropped and counted.
    pub(crate) fn listen(&self, capacity: usize) -> Receiver<Arc<QueryRecord>> {
        self.listeners.listen(capacity)
    }

    /// The source of query ids.
    pub(crate) fn ids(&self) -> &Arc<QueryIds> {
        &self.ids
    }

    /// Why no query can be answered yet; `None` once queries can be answered.
    pub(crate) fn lacks(&self) -> Option<&'static str> {
        if self.routes.load().is_none() {
            return Some("the metadata store was not read yet");
        }
        if !self.ids.are_there() {
            return Some("the metadata store has not given query ids yet");
        }
        None
    }

    /// The time of the queries' clock.
    pub(crate) fn now(&self) -> Instant {
        self.clock.now()
    }
}

fn check_size(input: &Input) -> Result<(), QueryError> {
    let (size, limit) = (input.size(), MAX_INPUT_BYTES);
    if size > limit {
        return Err(QueryError::InputTooLarge { size, limit });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use skysail_core::catalog::{Application, Catalog, Change, Model};
    use skysail_core::query::Way;
    use skysail_core::queue::Bounds;

    use super::*;
    use crate::metrics::Format;
    use crate::model::{ModelHandle, ModelTable};

    /// A frontend's query path, with one application that has a model and one that has none.
    struct Path {
        service: QueryService,
        model: Arc<ModelHandle>,
        metrics: Arc<Metrics>,
    }

    impl Path {
        fn new() -> Self {
            let (clock, metrics) = (Clock::start(), Arc::new(Metrics::default()));
            let version = serde_json::json!({
                "version": "1", "input_type": "doubles", "registered_at": "2026-01-01T00:00:00Z",
            });
            let model = serde_json::json!({"name": "m", "current_version": "1", "versions": {"1": version}});
            let application = |name: &str, linked: &[&str]| {
                let application = serde_json::json!({
                    "name": name, "input_type": "doubles", "default_output": "none", "slo_micros": 1_000_000,
                    "linked_models": linked, "registered_at": "2026-01-01T00:00:00Z",
                });
                Change::put(serde_json::from_value::<Application>(application).unwrap())
            };
            let changes = [
                Change::put(serde_json::from_value::<Model>(model).unwrap()),
                application("linked", &["m"]),
                application("alone", &[]),
            ];
            let catalog = Catalog::default().with(&changes, Default::default());
            let bounds = Bounds {
                count: 100,
                bytes: usize::MAX,
            };
            let table = ModelTable::new(bounds, 1 << 20, metrics.clone(), clock);
            let (versions, gone) = table.follow(&catalog);
            table.close(gone);
            let service = QueryService::new(clock, &metrics);
            service.set_routes(Routes::resolve(&Routes::default(), &catalog, &versions, &metrics));
            service.ids().enter(0);
            Self {
                service,
                model: versions.get(&"m:1".parse().unwrap()).unwrap().clone(),
                metrics,
            }
        }

        /// Sends these numbers to an application, as one query or as the rows of a request.
        async fn ask(&self, application: &str, numbers: &[f64]) -> Reply {
            let inputs = match numbers {
                [number] => Inputs::One(Input::doubles(&[*number])),
                numbers => Inputs::Many(numbers.iter().map(|number| Input::doubles(&[*number])).collect()),
            };
            let request = PredictRequest {
                inputs,
                version: None,
                slo_micros: None,
            };
            let route = self.service.route(application).unwrap();
            let reply = self.service.predict(&route, request, self.service.now()).await;
            reply.unwrap()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_listener_hears_of_each_answered_query_once_and_how_it_was_answered() {
        let path = Path::new();
        let mut records = path.service.listen(100);
        path.ask("alone", &[1.0]).await;
        path.ask("linked", &[1.0]).await;
        path.model.pretend_to_have_a_replica();
        let mut asking = Box::pin(path.ask("linked", &[1.0]));
        assert!((&mut asking).now_or_never().is_none());
        tokio::time::advance(Duration::from_millis(5)).await;
        path.model.answer_one("one");
        asking.await;
        path.ask("linked", &[1.0]).await;
        // Two rows of one input: the second joins the first.
        let mut asking = Box::pin(path.ask("linked", &[2.0, 2.0]));
        assert!((&mut asking).now_or_never().is_none());
        path.model.answer_one("two");
        let Reply::Many(rows) = asking.await else {
            panic!("it was a request of rows");
        };

        let heard: Vec<_> = std::iter::from_fn(|| records.try_recv().ok()).collect();
        let ways: Vec<_> = heard.iter().map(|record| record.course.way).collect();
        assert_eq!(
            ways,
            [
                Way::Default,
                Way::Default,
                Way::Batch,
                Way::Cache,
                Way::Batch,
                Way::Flight
            ]
        );
        let reasons: Vec<_> = heard.iter().map(|record| record.default_reason).collect();
        let (unlinked, unmanned) = (DefaultReason::NoModelLinked, DefaultReason::NoReplica);
        assert_eq!(reasons[..3], [Some(unlinked), Some(unmanned), None]);
        assert_eq!(heard[0].application.as_str(), "alone");
        assert_eq!(heard[0].model, None);
        let asked = &heard[2];
        assert_eq!(
            (asked.application.as_str(), &asked.model),
            ("linked", &Some(path.model.id.clone()))
        );
        assert_eq!(asked.latency, Duration::from_millis(5));
        assert_eq!(asked.course.batch.as_ref().map(|batch| batch.inputs), Some(1));
        let ids: Vec<_> = heard.iter().map(|record| record.id).collect();
        assert_eq!(ids, [0, 1, 2, 3, 4, 5]);
        assert_eq!(ids[4..], rows.iter().map(|row| row.id).collect::<Vec<_>>());
        // The metrics counted the same queries.
        let page = path.metrics.render(Format::Text);
        for line in [
            "skysail_queries_total{application=\"alone\"} 1",
            "skysail_queries_total{application=\"linked\"} 5",
            "skysail_defaults_total{application=\"linked\",reason=\"no_replica\"} 1",
            "skysail_query_records_dropped_total 0",
        ] {
            assert!(page.contains(line), "{line} is not in:\n{page}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn no_query_waits_for_a_listener_that_reads_nothing() {
        let path = Path::new();
        let records = path.service.listen(1);
        for _ in 0..3 {
            path.ask("alone", &[1.0])
                .now_or_never()
                .expect("it is answered at once");
        }
        assert_eq!(records.len(), 1);
        let page = path.metrics.render(Format::Text);
        assert!(page.contains("skysail_query_records_dropped_total 2"), "{page}");
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

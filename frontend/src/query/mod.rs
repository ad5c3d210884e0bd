//! The query path: from a typed query to its answer.
//!
//! In the order of a query: [`http`] reads a request and [`request`] parses it, [`routes`] says where it goes,
//! [`QueryService::predict`] answers it under an id of [`ids`], and `written` puts the reply together.

use std::iter;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use skysail_core::query::{DefaultReason, Outcome};
use skysail_core::selection::{Answer, combine};
use skysail_core::time::Instant;
use skysail_proto::value::Input;

use crate::clock::Clock;
use crate::model::{Asked, MAX_INPUT_BYTES, ModelHandle, ROWS_AT_ONCE};

pub mod error;
pub mod http;
pub mod ids;
pub mod request;
mod routes;
mod written;

use error::QueryError;
use ids::QueryIds;
use request::{Inputs, PredictRequest};
pub use routes::{Route, Routes};

/// One answered query.
#[derive(Debug)]
pub struct AnsweredQuery {
    /// Its id.
    pub id: u64,
    /// Its answer.
    pub answer: Answer,
}

/// The answers to a request, in its own form.
#[derive(Debug)]
pub enum Reply {
    /// To `input`.
    One(AnsweredQuery),
    /// To `input_batch`, in order.
    Many(Vec<AnsweredQuery>),
}

/// Answers queries.
pub struct QueryService {
    routes: ArcSwapOption<Routes>,
    ids: Arc<QueryIds>,
    clock: Clock,
}

/// What the queries of one request share.
#[derive(Clone, Copy)]
struct Shared<'a> {
    route: &'a Route,
    /// The model's version that is asked; none if no model is linked.
    target: Option<&'a ModelHandle>,
    arrival: Instant,
    asked: Asked,
}

impl QueryService {
    /// Knows no application yet.
    pub fn new(clock: Clock) -> Self {
        Self {
            routes: ArcSwapOption::empty(),
            ids: Arc::default(),
            clock,
        }
    }

    /// Answers a request whose body was complete at `arrival`: its deadlines count from then.
    pub async fn predict(
        &self,
        route: &Route,
        request: PredictRequest,
        arrival: Instant,
    ) -> Result<Reply, QueryError> {
        let slo = request.slo().min(route.application.slo());
        let queries = Shared {
            route,
            target: route.target(request.version.as_deref())?,
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

    async fn answer(&self, query: Shared<'_>, input: Input) -> AnsweredQuery {
        let id = self.ids.next();
        let outcome = match query.target {
            Some(model) => model.predict(input, query.asked).await,
            None => Err(DefaultReason::NoModelLinked.into()),
        };
        query.answered(id, outcome, self.latency(query))
    }

    /// Answers the rows of a request, each under an id of its own. Between chunks of them other tasks have their
    /// turn.
    async fn answer_rows(&self, queries: Shared<'_>, inputs: Vec<Input>) -> Vec<AnsweredQuery> {
        let rows = inputs.len();
        let mut ids = self.ids.take(rows as u64);
        let mut answers = Vec::with_capacity(rows);
        let mut outcomes: Box<dyn Iterator<Item = Outcome> + Send> = match queries.target {
            Some(model) => Box::new(model.predict_rows(inputs, queries.asked).await),
            None => Box::new(iter::repeat_n(Err(DefaultReason::NoModelLinked.into()), rows)),
        };
        // All are answered now: a row that waited for the others waited as long as they did.
        let latency = self.latency(queries);
        while answers.len() < rows {
            let chunk = ids.by_ref().zip(outcomes.by_ref()).take(ROWS_AT_ONCE);
            answers.extend(chunk.map(|(id, outcome)| queries.answered(id, outcome, latency)));
            if answers.len() < rows {
                tokio::task::yield_now().await;
            }
        }
        answers
    }

    fn latency(&self, queries: Shared<'_>) -> Duration {
        self.clock.now().saturating_since(queries.arrival)
    }

    /// The route of an application.
    pub fn route(&self, application: &str) -> Result<Arc<Route>, QueryError> {
        let routes = self.routes.load();
        let (Some(routes), true) = (&*routes, self.ids.are_there()) else {
            return Err(QueryError::NotReady(
                "the metadata store was not read yet; try again".into(),
            ));
        };
        let route = routes.of(application).cloned();
        route.ok_or_else(|| QueryError::UnknownApplication(application.chars().take(80).collect()))
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
    pub fn ids(&self) -> &Arc<QueryIds> {
        &self.ids
    }

    /// Why no query can be answered yet; nothing once queries can be answered.
    pub fn lacks(&self) -> Option<&'static str> {
        if self.routes.load().is_none() {
            return Some("the metadata store was not read yet");
        }
        if !self.ids.are_there() {
            return Some("the metadata store has not given query ids yet");
        }
        None
    }

    /// The time of the queries' clock.
    pub fn now(&self) -> Instant {
        self.clock.now()
    }
}

impl Shared<'_> {
    /// What the application answers to one of the queries, which is counted.
    fn answered(&self, id: u64, outcome: Outcome, latency: Duration) -> AnsweredQuery {
        let answer = combine(outcome, &self.route.default_output);
        let reason = answer.failure.as_ref().map(|failure| failure.reason);
        self.route.metrics.answered(latency, reason);
        AnsweredQuery { id, answer }
    }
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
    use super::*;

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

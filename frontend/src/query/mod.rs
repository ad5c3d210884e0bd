//! The query path: from a typed query to its answer.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use futures::future::join_all;
use skysail_core::catalog::{Application, Catalog};
use skysail_core::query::DefaultReason;
use skysail_core::selection::{Answer, combine, select};
use skysail_core::time::Instant;
use skysail_proto::ids::{ApplicationName, ModelId, ModelName, ModelVersion};
use skysail_proto::value::{Input, Output};

use crate::clock::Clock;
use crate::metrics::{ApplicationMetrics, Metrics};
use crate::model::{MAX_INPUT_BYTES, ModelHandle};

pub mod error;
pub mod http;
pub mod ids;
pub mod request;

use error::QueryError;
use ids::QueryIds;
use request::{Inputs, PredictRequest};

/// Where an application's queries go: everything the path needs, resolved when the catalog changed.
pub struct Route {
    /// The application.
    pub application: Arc<Application>,
    default_output: Output,
    candidates: Vec<Candidate>,
    metrics: Arc<ApplicationMetrics>,
}

/// A linked model.
struct Candidate {
    name: ModelName,
    current: Arc<ModelHandle>,
    versions: HashMap<ModelVersion, Arc<ModelHandle>>,
}

/// All routes, as one immutable snapshot.
pub struct Routes {
    applications: HashMap<ApplicationName, Arc<Route>>,
}

impl Routes {
    /// Resolves a catalog, given a handle for each of its versions.
    pub fn resolve(
        catalog: &Catalog,
        models: &HashMap<ModelId, Arc<ModelHandle>>,
        metrics: &Metrics,
    ) -> Self {
        let route = |application: &Arc<Application>| {
            let linked = application.linked_models.iter();
            Arc::new(Route {
                application: application.clone(),
                default_output: application.default_output(),
                candidates: linked
                    .filter_map(|name| candidate(catalog, models, name))
                    .collect(),
                metrics: metrics.application(&application.name),
            })
        };
        let applications = catalog
            .applications
            .iter()
            .map(|(name, found)| (name.clone(), route(found)));
        Self {
            applications: applications.collect(),
        }
    }
}

fn candidate(
    catalog: &Catalog,
    models: &HashMap<ModelId, Arc<ModelHandle>>,
    name: &ModelName,
) -> Option<Candidate> {
    let model = catalog.models.get(name)?;
    let versions: HashMap<_, _> = model
        .versions
        .keys()
        .filter_map(|version| {
            let id = ModelId::new(name.clone(), version.clone());
            Some((version.clone(), models.get(&id)?.clone()))
        })
        .collect();
    let current = versions.get(&model.current_version)?.clone();
    Some(Candidate {
        name: name.clone(),
        current,
        versions,
    })
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
    draining: AtomicBool,
}

impl QueryService {
    /// Knows no application yet.
    pub fn new(clock: Clock) -> Self {
        Self {
            routes: ArcSwapOption::empty(),
            ids: QueryIds::default(),
            clock,
            draining: AtomicBool::new(false),
        }
    }

    /// Follows the catalog: queries that come from now on take these routes.
    pub fn set_routes(&self, routes: Routes) {
        self.routes.store(Some(Arc::new(routes)));
    }

    /// The source of query ids.
    pub fn ids(&self) -> &QueryIds {
        &self.ids
    }

    /// Says in readiness that no new query should come.
    pub fn start_draining(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Why new queries should not come; nothing if they may.
    pub fn not_ready(&self) -> Option<&'static str> {
        if self.draining.load(Ordering::Relaxed) {
            return Some("the frontend is draining");
        }
        let ready = self.routes.load().is_some() && self.ids.are_there();
        (!ready).then_some("the metadata store was not read yet")
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
            .map_or(Duration::MAX, Duration::from_micros)
            .min(route.application.slo());
        let target = route.target(version.as_deref())?;
        let query = |input: Input| {
            self.answer(
                route,
                target,
                input,
                Span {
                    arrival,
                    deadline: arrival + slo,
                },
            )
        };
        match inputs {
            Inputs::One(input) => {
                check_size(&input)?;
                Ok(Reply::One(query(input).await))
            }
            Inputs::Many(inputs) => {
                inputs.iter().try_for_each(check_size)?;
                Ok(Reply::Many(join_all(inputs.into_iter().map(query)).await))
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
            Some(model) => model.predict(input, span.deadline).await,
            None => Err(DefaultReason::NoModelLinked.into()),
        };
        let answer = combine(outcome, &route.default_output);
        let latency = self.clock.now().saturating_since(span.arrival);
        route
            .metrics
            .answered(latency, answer.failure.as_ref().map(|failure| failure.reason));
        Answered { query_id, answer }
    }
}

/// From a query's arrival to when its answer is due.
#[derive(Clone, Copy)]
struct Span {
    arrival: Instant,
    deadline: Instant,
}

impl Route {
    /// The model to ask: the selected candidate's current version, or the pinned one.
    fn target(&self, version: Option<&str>) -> Result<Option<&ModelHandle>, QueryError> {
        let candidate = match (select(&self.candidates), version) {
            (Ok(candidate), _) => candidate,
            (Err(_), None) => return Ok(None),
            (Err(_), Some(version)) => return Err(QueryError::VersionWithoutModel(shortened(version))),
        };
        let Some(version) = version else {
            return Ok(Some(&candidate.current));
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

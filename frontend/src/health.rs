//! What the probes answer. Off the data path: a few atomic loads.

use std::sync::Arc;

use serde::Serialize;
use tokio::sync::watch;

use crate::query::QueryService;
use crate::store::StoreHealth;

/// Answers `/healthz` and `/readyz`.
pub struct Health {
    service: Arc<QueryService>,
    store: watch::Receiver<StoreHealth>,
}

/// `/healthz`.
#[derive(Debug, Serialize)]
pub struct Alive {
    status: &'static str,
    version: &'static str,
}

/// `/readyz`.
#[derive(Debug, Serialize)]
pub struct Readiness {
    /// Whether queries may come.
    pub ready: bool,
    /// Parts that do not work while queries are still answered.
    pub degraded: Vec<&'static str>,
    /// Why queries should not come, or what is degraded, a sentence each.
    pub reasons: Vec<String>,
}

impl Health {
    /// Watches over these.
    pub fn new(service: Arc<QueryService>, store: watch::Receiver<StoreHealth>) -> Self {
        Self { service, store }
    }

    /// The process lives.
    pub fn alive(&self) -> Alive {
        Alive {
            status: "ok",
            version: env!("CARGO_PKG_VERSION"),
        }
    }

    /// Whether it can serve, and what is not well. A store that is away does not make a frontend with a
    /// snapshot unready: balancers would take every frontend out at once.
    pub fn readiness(&self) -> Readiness {
        let not_ready = self.service.not_ready();
        let ready = not_ready.is_none();
        let mut reasons: Vec<String> = not_ready.into_iter().collect();
        let mut degraded = Vec::new();
        if let Some(problem) = self.store.borrow().problem() {
            degraded.push("store");
            reasons.push(problem);
        }
        Readiness {
            ready,
            degraded,
            reasons,
        }
    }
}

//! What the probes answer. Off the data path: a few atomic loads.
//!
//! A leaf: `app.rs` tells it by [`Check`]s what to ask of the parts that it knows nothing of.

use std::collections::BTreeSet;

use serde::Serialize;
use skysail_proto::ids::ModelName;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// The most models that are named where there may be many.
const MOST_NAMED: usize = 5;

/// Asks a part what is wrong with it, as a sentence; nothing if it is well.
pub(crate) type Check = Box<dyn Fn() -> Option<String> + Send + Sync>;

/// The models whose replicas a frontend that has begun waits for: none of them while it does not know yet which, and
/// no set at all once they have come.
pub(crate) type Settling = Option<BTreeSet<ModelName>>;

/// Answers `/healthz` and `/readyz`.
pub(crate) struct Health {
    /// Cancelled when no new query should come.
    pub draining: CancellationToken,
    /// Why no query can be answered yet.
    pub cannot_answer: Check,
    /// What is still waited for.
    pub settling: watch::Receiver<Settling>,
    /// What is wrong with each part, by its name, without which queries are still answered.
    pub parts: Vec<(&'static str, Check)>,
}

/// `/healthz`.
#[derive(Debug, Serialize)]
pub(crate) struct Alive {
    status: &'static str,
    version: &'static str,
}

/// `/readyz`.
#[derive(Debug, Serialize)]
pub(crate) struct Readiness {
    /// Whether queries may come.
    pub ready: bool,
    /// Parts that do not work while queries are still answered.
    pub degraded: Vec<&'static str>,
    /// Why queries should not come, or what is degraded, a sentence each.
    pub reasons: Vec<String>,
}

impl Health {
    /// The process lives.
    pub(crate) fn alive() -> Alive {
        Alive {
            status: "ok",
            version: env!("CARGO_PKG_VERSION"),
        }
    }

    /// Whether it can serve, and what is not well. A store that is away does not make a frontend with a
    /// snapshot unready: balancers would take every frontend out at once.
    pub(crate) fn readiness(&self) -> Readiness {
        let not_ready = self.not_ready();
        let ready = not_ready.is_none();
        let mut reasons: Vec<String> = not_ready.into_iter().collect();
        let mut degraded = Vec::new();
        for (name, check) in &self.parts {
            if let Some(problem) = check() {
                degraded.push(*name);
                reasons.push(problem);
            }
        }
        Readiness {
            ready,
            degraded,
            reasons,
        }
    }

    /// Why new queries should not come; nothing if they may.
    fn not_ready(&self) -> Option<String> {
        if self.draining.is_cancelled() {
            return Some("the frontend is draining".into());
        }
        let cannot_answer = (self.cannot_answer)();
        cannot_answer.or_else(|| self.settling.borrow().as_ref().map(waiting_for))
    }
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

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

    #[test]
    fn the_end_comes_before_the_beginning_and_a_part_that_is_unwell_leaves_it_ready() {
        let settling = watch::Sender::new(Some(BTreeSet::new()));
        let answers = Arc::new(AtomicBool::new(false));
        let asked = answers.clone();
        let health = Health {
            draining: CancellationToken::new(),
            cannot_answer: Box::new(move || (!asked.load(Ordering::Relaxed)).then(|| "not yet".into())),
            settling: settling.subscribe(),
            parts: vec![
                ("store", Box::new(|| Some("away".into()))),
                ("clock", Box::new(|| None)),
            ],
        };
        let reasons = |health: &Health| health.readiness().reasons;
        assert_eq!(reasons(&health), ["not yet", "away"]);
        answers.store(true, Ordering::Relaxed);
        assert_eq!(reasons(&health), [&*waiting_for(&BTreeSet::new()), "away"]);
        assert!(!health.readiness().ready);
        settling.send_replace(None);
        let readiness = health.readiness();
        assert!(readiness.ready);
        assert_eq!(readiness.degraded, ["store"]);
        assert_eq!(readiness.reasons, ["away"]);
        health.draining.cancel();
        answers.store(false, Ordering::Relaxed);
        assert_eq!(reasons(&health), ["the frontend is draining", "away"]);
        assert!(!health.readiness().ready);
    }
}

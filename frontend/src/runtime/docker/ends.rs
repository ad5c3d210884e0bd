//! Why containers ended, as far as only the engine's events tell.
//!
//! Engine 20.10 may learn that the kernel killed a process for its memory only after it learned of the end, and
//! then never says so when it is asked about the container: the event is all there is. Likewise only an event
//! tells that somebody had the engine kill it.

use std::collections::VecDeque;
use std::time::Duration;

use bollard::models::EventMessage;
use parking_lot::Mutex;
use tokio::sync::watch;

/// How long after an end is noticed the event that explains it may come.
const EXPLAINED_WITHIN: Duration = Duration::from_secs(1);

/// Containers that are remembered. One is asked about within seconds of its end, if at all.
const REMEMBERED: usize = 256;

/// What ended a container by SIGKILL.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum End {
    /// The kernel, because it used more memory than it may.
    OutOfMemory,
    /// The engine, because somebody asked it to.
    Killed,
    /// No event told.
    Unexplained,
}

/// The ends that events told of, by the containers' ids; the newest last.
#[derive(Debug, Default)]
pub(super) struct Ends {
    told: watch::Sender<VecDeque<(String, End)>>,
    /// Those that were waited for in vain, once.
    unexplained: Mutex<VecDeque<String>>,
}

impl Ends {
    /// Takes note of an event, if it explains an end. Returns whether that is all it means.
    pub(super) fn note(&self, event: &EventMessage) -> bool {
        let Some(actor) = &event.actor else { return false };
        let attributes = actor.attributes.as_ref();
        let signal = attributes.and_then(|attributes| attributes.get("signal"));
        let action = event.action.as_deref();
        let end = match action {
            Some("oom") => End::OutOfMemory,
            Some("kill") if signal.is_some_and(|signal| signal == "9") => End::Killed,
            _ => return action == Some("kill"),
        };
        if let Some(id) = &actor.id {
            self.told.send_modify(|told| {
                // The kernel's word stands, whatever else was done to the container.
                let known = told
                    .iter()
                    .any(|(found, what)| found == id && *what == End::OutOfMemory);
                if !known {
                    told.retain(|(found, _)| found != id);
                    told.push_back((id.clone(), end));
                }
                if told.len() > REMEMBERED {
                    told.pop_front();
                }
            });
        }
        action == Some("kill")
    }

    /// What ended container `id` by SIGKILL; waits a moment for the event that tells, the first time.
    pub(super) async fn explain(&self, id: &str) -> End {
        let known = |told: &VecDeque<(String, End)>| {
            let found = told.iter().find(|(found, _)| found == id);
            found.map(|(_, end)| *end)
        };
        if self.unexplained.lock().iter().any(|found| found == id) {
            return known(&self.told.borrow()).unwrap_or(End::Unexplained);
        }
        let mut told = self.told.subscribe();
        let explained = told.wait_for(|told| known(told).is_some());
        if let Ok(Ok(told)) = tokio::time::timeout(EXPLAINED_WITHIN, explained).await {
            return known(&told).unwrap_or(End::Unexplained);
        }
        let mut unexplained = self.unexplained.lock();
        unexplained.push_back(id.to_owned());
        if unexplained.len() > REMEMBERED {
            unexplained.pop_front();
        }
        End::Unexplained
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bollard::models::EventActor;

    use super::*;

    fn event(action: &str, id: &str, signal: Option<&str>) -> EventMessage {
        let attributes = signal.map(|signal| [("signal".to_owned(), signal.to_owned())].into());
        EventMessage {
            action: Some(action.into()),
            actor: Some(EventActor {
                id: Some(id.into()),
                attributes,
            }),
            ..EventMessage::default()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_event_that_comes_after_the_end_still_explains_it() {
        let ends = Arc::new(Ends::default());
        let asked = tokio::spawn({
            let ends = ends.clone();
            async move { ends.explain("a").await }
        });
        tokio::time::advance(EXPLAINED_WITHIN / 2).await;
        ends.note(&event("oom", "b", None));
        ends.note(&event("oom", "a", None));
        assert_eq!(asked.await.unwrap(), End::OutOfMemory);
    }

    #[tokio::test(start_paused = true)]
    async fn an_end_that_nobody_explains_is_waited_for_once() {
        let ends = Ends::default();
        let begun = tokio::time::Instant::now();
        assert_eq!(ends.explain("a").await, End::Unexplained);
        let waited = begun.elapsed();
        assert!(waited >= EXPLAINED_WITHIN);
        assert_eq!(ends.explain("a").await, End::Unexplained);
        assert_eq!(begun.elapsed(), waited);
        // Late is better than never.
        ends.note(&event("oom", "a", None));
        assert_eq!(ends.explain("a").await, End::OutOfMemory);
    }

    #[tokio::test(start_paused = true)]
    async fn a_kill_by_the_engine_is_told_from_one_by_the_kernel() {
        let ends = Ends::default();
        assert!(
            ends.note(&event("kill", "a", Some("15"))),
            "it means nothing else"
        );
        ends.note(&event("kill", "a", Some("9")));
        assert_eq!(ends.explain("a").await, End::Killed);
        assert!(!ends.note(&event("oom", "a", None)), "others want to know of it");
        ends.note(&event("kill", "a", Some("9")));
        assert_eq!(ends.explain("a").await, End::OutOfMemory);
    }

    #[test]
    fn no_more_is_kept_than_is_of_use() {
        let ends = Ends::default();
        for id in 0..2 * REMEMBERED {
            ends.note(&event("oom", &id.to_string(), None));
        }
        assert_eq!(ends.told.borrow().len(), REMEMBERED);
    }
}

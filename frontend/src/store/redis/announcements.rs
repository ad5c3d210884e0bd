//! The frontends' announcements, as this frontend shows them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::store::Announced;

/// How long announcements are shown that Redis lost, or that expired while it was away. The other frontends
/// need this time to find Redis again and to announce themselves. Without it, containers would be told for a
/// moment that this frontend is the only one.
const KEPT: Duration = Duration::from_secs(10);

/// Shows Redis' announcements; for [`KEPT`] after a break, also the announcements from before it.
#[derive(Default)]
pub(super) struct Announcements {
    shown: watch::Sender<Announced>,
    /// The announcements from before the break, and until when they are shown.
    kept: Option<(Announced, Instant)>,
}

impl Announcements {
    /// The channel that shows the announcements.
    pub(super) fn shown(&self) -> watch::Sender<Announced> {
        self.shown.clone()
    }

    /// Notes a break: for [`KEPT`], Redis may lack announcements.
    pub(super) fn keep(&mut self, now: Instant) {
        let shown = Arc::clone(&self.shown.borrow());
        self.kept = Some((shown, now + KEPT));
    }

    /// Forgets the kept announcement of a frontend that withdrew it.
    pub(super) fn withdraw(&mut self, id: &str) {
        if let Some((kept, _)) = &mut self.kept {
            Arc::make_mut(kept).remove(id);
        }
    }

    /// Shows the announcements in Redis and those that are kept.
    pub(super) fn show(&mut self, mut live: BTreeMap<String, String>, now: Instant) {
        if self.kept.as_ref().is_some_and(|(_, until)| *until <= now) {
            self.kept = None;
        }
        if let Some((kept, _)) = &self.kept {
            for (id, document) in kept.iter() {
                live.entry(id.clone()).or_insert_with(|| document.clone());
            }
        }
        self.shown.send_if_modified(|shown| {
            let changed = **shown != live;
            if changed {
                *shown = Arc::new(live);
            }
            changed
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(ids: &[&str]) -> BTreeMap<String, String> {
        ids.iter().map(|id| (id.to_string(), "{}".to_owned())).collect()
    }

    fn shown(announcements: &Announcements) -> Vec<String> {
        announcements.shown.borrow().keys().cloned().collect()
    }

    #[test]
    fn what_redis_no_longer_has_is_gone_at_once() {
        let now = Instant::now();
        let mut announcements = Announcements::default();
        announcements.show(of(&["a", "b"]), now);
        announcements.show(of(&["b"]), now);
        assert_eq!(shown(&announcements), ["b"]);
    }

    #[test]
    fn after_a_break_the_others_are_kept_until_they_had_time_to_come_back() {
        let start = Instant::now();
        let mut announcements = Announcements::default();
        announcements.show(of(&["a", "b", "c"]), start);
        announcements.keep(start);
        announcements.withdraw("c");
        announcements.show(of(&["a"]), start + KEPT - Duration::from_millis(1));
        assert_eq!(shown(&announcements), ["a", "b"]);
        announcements.show(of(&["a"]), start + KEPT);
        assert_eq!(shown(&announcements), ["a"]);
    }

    #[test]
    fn nobody_is_woken_by_what_is_known_already() {
        let mut announcements = Announcements::default();
        announcements.show(of(&["a"]), Instant::now());
        let mut watch = announcements.shown.subscribe();
        watch.borrow_and_update();
        announcements.show(of(&["a"]), Instant::now());
        assert!(!watch.has_changed().unwrap());
    }
}

//! Decides which frontend of a cluster acts as the control role: one at a time, by a lease in the metadata
//! store.
//!
//! The lease has to be renewed. The holder measures its duration itself, from before the request. So a frontend
//! that was paused, or gets no answer from the store, stops acting before another can begin. That would suffice
//! if no time passed between a look at the clock and an action. So the store is asked again before each action
//! ([`Leadership::confirm`]), and refuses writes under any lease but the newest.
//!
//! A frontend without a runtime cannot replace a container that ends. While a frontend with a runtime lives, it
//! leaves the lease to that one ([`Leadership::yielding`]).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use skysail_core::cluster::{ClusterView, Lease};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::store::{LeaseStore, Leased};

mod place;

pub(crate) use place::holder;

/// How long a lease lasts unless it is renewed. If the acting frontend is killed, the next one begins after
/// about `TTL + RENEWAL` at most.
const TTL: Duration = Duration::from_secs(3);

/// The time between renewals, and between the requests of the other frontends.
const RENEWAL: Duration = Duration::from_secs(1);

/// How soon the frontend that acted last asks again when the store did not answer. The store comes back with
/// the lease free, and the frontend with running containers should be first.
const RETRY: Duration = Duration::from_millis(200);

/// This frontend takes its lease to end this much earlier than the store does: clocks run at different speeds.
const MARGIN: Duration = Duration::from_millis(500);

/// The longest wait for the store's answer. A lease whose answer takes longer has run out by then.
const ANSWER: Duration = Duration::from_millis(2500);

/// A store that has not answered for this long is asked again meanwhile. So the lease is kept if any answer
/// comes before it runs out.
const OVERLAP: Duration = Duration::from_millis(500);

/// This frontend's lease of the control role, and its requests for it.
pub(crate) struct Leadership {
    store: Arc<dyn LeaseStore>,
    holder: String,
    term: watch::Sender<Option<Term>>,
    /// Whether this frontend was the last to act, as far as it knows.
    acted_last: AtomicBool,
    /// The views of all live frontends, if this frontend yields to those that start containers.
    yields_to: Option<watch::Receiver<Arc<ClusterView>>>,
}

/// A lease, and until when it lasts by this frontend's own clock.
#[derive(Clone, Debug)]
pub(crate) struct Term {
    lease: Lease,
    until: Instant,
}

/// The outcome of a request for the lease.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Asked {
    Held,
    HeldByAnother,
    NoAnswer,
}

impl Leadership {
    /// The leadership of `holder`, which does not act before [`Self::run`]. See [`holder()`].
    pub(crate) fn new(store: Arc<dyn LeaseStore>, holder: String) -> Self {
        Self {
            store,
            holder,
            term: watch::Sender::new(None),
            acted_last: AtomicBool::new(false),
            yields_to: None,
        }
    }

    /// Makes a frontend that starts no containers yield: it does not act while `views` show a frontend that
    /// starts them.
    pub(crate) fn yielding(mut self, views: watch::Receiver<Arc<ClusterView>>) -> Self {
        self.yields_to = Some(views);
        self
    }

    /// The lease under which this frontend acts now; `None` if it does not. Reads only the local clock.
    pub(crate) fn acting(&self) -> Option<Lease> {
        let term = self.term.borrow();
        let term = term.as_ref().filter(|term| Instant::now() < term.until)?;
        Some(term.lease.clone())
    }

    /// Like [`Self::acting`], but the store confirms and renews the lease. Call it before each action.
    pub(crate) async fn confirm(&self) -> Option<Lease> {
        self.acting()?;
        match self.ask().await {
            Asked::Held => self.acting(),
            Asked::HeldByAnother | Asked::NoAnswer => None,
        }
    }

    /// Changes whenever this frontend begins or ceases to act. A paused frontend may cease without a change
    /// here; [`Self::acting`] then returns `None`.
    pub(crate) fn changes(&self) -> watch::Receiver<Option<Term>> {
        self.term.subscribe()
    }

    /// Takes the lease whenever it is free, and keeps it until `shutdown`. Gives it back then, so that another
    /// frontend acts at once.
    pub(crate) async fn run(self: Arc<Self>, shutdown: CancellationToken) {
        {
            let mut asks = FuturesUnordered::new();
            let rounds = async {
                loop {
                    asks.push(self.ask());
                    self.round(&mut asks).await;
                }
            };
            shutdown.run_until_cancelled(rounds).await;
        }
        self.resign().await;
    }

    /// Waits for answers until it is time to ask again. Unanswered requests stay for the next round.
    async fn round(&self, asks: &mut FuturesUnordered<impl Future<Output = Asked>>) {
        let asked = Instant::now();
        let answer = timeout(OVERLAP, asks.next()).await;
        let pause = match answer {
            Ok(Some(Asked::NoAnswer)) if self.acted_last.load(Ordering::Relaxed) => RETRY,
            // The random part keeps frontends that started together from always asking together.
            _ if asks.is_empty() => RENEWAL.mul_f64(0.8 + 0.2 * fastrand::f64()),
            _ => OVERLAP,
        };
        let again = sleep_until(asked + pause);
        tokio::pin!(again);
        loop {
            if self.acting().is_none() && self.term.borrow().is_some() {
                self.cease("the metadata store did not renew its lease");
            }
            tokio::select! {
                () = &mut again => return,
                Some(_) = asks.next() => {}
            }
        }
    }

    /// Whether to leave the lease to another frontend. A draining frontend does not count: it is about to give
    /// it back.
    fn yields(&self) -> bool {
        self.yields_to.as_ref().is_some_and(|views| {
            let views = views.borrow();
            let mut views = views.frontends().iter();
            views.any(|view| view.starts_containers && !view.draining)
        })
    }

    async fn ask(&self) -> Asked {
        if self.yields() {
            if self.acted_last.swap(false, Ordering::Relaxed) {
                info!("a frontend that can start containers is to act as the control role");
            }
            self.resign().await;
            return Asked::HeldByAnother;
        }
        let asked = Instant::now();
        match timeout(ANSWER, self.store.take_lease(&self.holder, TTL)).await {
            Ok(Ok(Leased::Held(lease))) => {
                self.begin(lease, asked + TTL - MARGIN);
                Asked::Held
            }
            Ok(Ok(Leased::HeldBy(other))) => {
                self.acted_last.store(false, Ordering::Relaxed);
                if self.term.borrow().is_some() {
                    self.cease(&format!("{other} has the lease"));
                }
                Asked::HeldByAnother
            }
            Ok(Err(error)) => {
                debug!(%error, "the control role's lease was not taken");
                Asked::NoAnswer
            }
            Err(_elapsed) => Asked::NoAnswer,
        }
    }

    fn begin(&self, lease: Lease, until: Instant) {
        self.acted_last.store(true, Ordering::Relaxed);
        self.term.send_if_modified(|term| {
            let same = term.as_ref().filter(|term| term.lease == lease);
            // Answers may overtake each other, so `until` never decreases within a lease.
            let until = same.map_or(until, |term| term.until.max(until));
            let news = same.is_none();
            if news {
                info!(number = lease.number, "acting as the control role");
            }
            *term = Some(Term { lease, until });
            news
        });
    }

    fn cease(&self, why: &str) {
        warn!(why, "no longer acting as the control role");
        self.term.send_replace(None);
    }

    async fn resign(&self) {
        let Some(term) = self.term.send_replace(None) else {
            return;
        };
        let released = timeout(ANSWER, self.store.release_lease(&term.lease)).await;
        if !matches!(released, Ok(Ok(()))) {
            debug!("the control role's lease was not given back; it ends by itself");
        }
    }
}

#[cfg(test)]
mod tests;

//! Who acts as the control role: one frontend of a cluster at a time, by a lease in the metadata store.
//!
//! The lease has to be renewed, and whoever has it counts the time itself, from before it asked: a frontend
//! that was paused, or that the store does not answer, stops acting before another can begin. That alone would
//! do if nothing took time between a look at the clock and an action; so the store is asked once more before
//! each action ([`Leadership::confirm`]), and refuses writes under a lease that is not the newest.
//!
//! A frontend without a runtime cannot replace a container that ends. It leaves the lease to a frontend that can, as
//! long as one lives ([`Leadership::yielding`]).

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

/// How long a lease holds unless it is renewed. With [`RENEWAL`] it bounds how long nobody acts after the
/// frontend that did is killed.
const TTL: Duration = Duration::from_secs(3);

/// How often it is renewed, and how often others ask for it.
const RENEWAL: Duration = Duration::from_secs(1);

/// How soon the frontend that acted asks again when the store did not answer. The store comes back with the
/// lease free: who has containers running should be first.
const RETRY: Duration = Duration::from_millis(200);

/// How much sooner than the store this frontend takes its lease to have ended: clocks run differently fast.
const MARGIN: Duration = Duration::from_millis(500);

/// How long the store may take to answer: a lease whose answer takes longer has run out by then.
const ANSWER: Duration = Duration::from_millis(2500);

/// A store that has not answered for so long is asked once more meanwhile, so that a lease is kept for as long
/// as an answer comes before it runs out.
const OVERLAP: Duration = Duration::from_millis(500);

/// This frontend's part in who acts.
pub(crate) struct Leadership {
    store: Arc<dyn LeaseStore>,
    holder: String,
    term: watch::Sender<Option<Term>>,
    /// Whether it was this frontend that acted last, as far as it knows.
    acted_last: AtomicBool,
    /// All live frontends, if this one leaves the lease to those that start containers.
    yields_to: Option<watch::Receiver<Arc<ClusterView>>>,
}

/// A lease, and until when it holds by this frontend's own clock.
#[derive(Clone, Debug)]
pub(crate) struct Term {
    lease: Lease,
    until: Instant,
}

/// What came of asking for the lease.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Asked {
    Held,
    HeldByAnother,
    NoAnswer,
}

impl Leadership {
    /// That of `holder`, which does not act before [`Self::run`]. See [`holder()`].
    pub(crate) fn new(store: Arc<dyn LeaseStore>, holder: String) -> Self {
        Self {
            store,
            holder,
            term: watch::Sender::new(None),
            acted_last: AtomicBool::new(false),
            yields_to: None,
        }
    }

    /// The same for a frontend that starts no containers: while `views` show one that does, this one does not act.
    pub(crate) fn yielding(mut self, views: watch::Receiver<Arc<ClusterView>>) -> Self {
        self.yields_to = Some(views);
        self
    }

    /// The lease under which this frontend acts now, if it does. Asks its clock only.
    pub(crate) fn acting(&self) -> Option<Lease> {
        let term = self.term.borrow();
        let term = term.as_ref().filter(|term| Instant::now() < term.until)?;
        Some(term.lease.clone())
    }

    /// The same, once the store has confirmed it: to be asked before each action. Renews the lease.
    pub(crate) async fn confirm(&self) -> Option<Lease> {
        self.acting()?;
        match self.ask().await {
            Asked::Held => self.acting(),
            Asked::HeldByAnother | Asked::NoAnswer => None,
        }
    }

    /// Changes whenever this frontend begins or ceases to act. A frontend that was paused may cease without a
    /// change: [`Self::acting`] says so.
    pub(crate) fn changes(&self) -> watch::Receiver<Option<Term>> {
        self.term.subscribe()
    }

    /// Takes the lease whenever it is free and keeps it until `shutdown`; gives it back then, so that another
    /// acts at once.
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

    /// Waits for what was asked, and until it is time to ask again. Asks that are not answered yet are left
    /// to the next round.
    async fn round(&self, asks: &mut FuturesUnordered<impl Future<Output = Asked>>) {
        let asked = Instant::now();
        let answer = timeout(OVERLAP, asks.next()).await;
        let pause = match answer {
            Ok(Some(Asked::NoAnswer)) if self.acted_last.load(Ordering::Relaxed) => RETRY,
            // Frontends that were started together need not ask together for ever.
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

    /// Whether the lease is another's to take. One that drains is about to give it back.
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
            // Answers may overtake each other.
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

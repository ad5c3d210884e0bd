//! Two frontends, one lease, and a store that can be away, under a paused clock.

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::task::JoinHandle;
use tokio::time::advance;

use skysail_core::cluster::FrontendView;

use super::*;
use crate::store::StoreError;

/// A store that holds only a lease.
#[derive(Default)]
struct OneLease {
    away: AtomicBool,
    /// How long a request takes to arrive, and its answer to return.
    trip: Mutex<Duration>,
    lease: Mutex<Option<(Lease, Instant)>>,
}

#[async_trait]
impl LeaseStore for OneLease {
    async fn take_lease(&self, holder: &str, ttl: Duration) -> Result<Leased, StoreError> {
        if self.away.load(Ordering::Relaxed) {
            return Err(StoreError::Unavailable("it is away".into()));
        }
        let trip = *self.trip.lock();
        if !trip.is_zero() {
            tokio::time::sleep(trip / 2).await;
            let taken = self.take(holder, ttl);
            tokio::time::sleep(trip / 2).await;
            return taken;
        }
        self.take(holder, ttl)
    }

    async fn release_lease(&self, lease: &Lease) -> Result<(), StoreError> {
        let mut held = self.lease.lock();
        if let Some((_, until)) = held.as_mut().filter(|(found, _)| found == lease) {
            *until = Instant::now();
        }
        Ok(())
    }
}

impl OneLease {
    fn take(&self, holder: &str, ttl: Duration) -> Result<Leased, StoreError> {
        let mut held = self.lease.lock();
        let before = held.take();
        let number = match &before {
            Some((lease, until)) if *until > Instant::now() && lease.holder != holder => {
                let other = lease.holder.clone();
                *held = before;
                return Ok(Leased::HeldBy(other));
            }
            Some((lease, _)) if lease.holder == holder => lease.number,
            Some((lease, _)) => lease.number + 1,
            None => 1,
        };
        let lease = Lease {
            holder: holder.into(),
            number,
        };
        *held = Some((lease.clone(), Instant::now() + ttl));
        Ok(Leased::Held(lease))
    }
}

fn frontend(store: &Arc<OneLease>, id: &str) -> Arc<Leadership> {
    Arc::new(Leadership::new(store.clone(), id.into()))
}

/// Runs a frontend in the background. Cancel the token to end it; abort the task to kill it.
fn run(frontend: &Arc<Leadership>) -> (JoinHandle<()>, CancellationToken) {
    let shutdown = CancellationToken::new();
    (tokio::spawn(frontend.clone().run(shutdown.clone())), shutdown)
}

async fn acts(frontend: &Leadership) {
    let mut changes = frontend.changes();
    let begun = changes.wait_for(Option::is_some).await;
    begun.expect("it is there");
    assert!(frontend.acting().is_some());
}

#[tokio::test(start_paused = true)]
async fn one_acts_at_a_time_and_another_takes_over_within_five_seconds_of_its_death() {
    let store = Arc::default();
    let (first, second) = (frontend(&store, "first"), frontend(&store, "second"));
    let (killed, _) = run(&first);
    acts(&first).await;
    let (_running, _shutdown) = run(&second);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(first.acting().is_some() && second.acting().is_none());

    killed.abort();
    let takes_over = tokio::time::timeout(Duration::from_secs(5), acts(&second));
    takes_over.await.expect("the other takes over");
    assert!(first.acting().is_none());
}

#[tokio::test(start_paused = true)]
async fn one_that_ends_gives_its_lease_back() {
    let store = Arc::default();
    let (first, second) = (frontend(&store, "first"), frontend(&store, "second"));
    let (ended, shutdown) = run(&first);
    acts(&first).await;
    shutdown.cancel();
    ended.await.expect("it ends");
    assert_eq!(second.ask().await, Asked::Held);
}

#[tokio::test(start_paused = true)]
async fn one_without_a_runtime_acts_only_while_nobody_with_one_lives() {
    let store: Arc<OneLease> = Arc::default();
    let views = watch::Sender::new(Arc::<ClusterView>::default());
    let without = Leadership::new(store.clone(), "without".into());
    let without = Arc::new(without.yielding(views.subscribe()));
    let with = frontend(&store, "with");
    let _running = run(&without);
    acts(&without).await;

    let view = FrontendView {
        starts_containers: true,
        ..FrontendView::default()
    };
    views.send_replace(Arc::new(ClusterView::of([FrontendView::default(), view.clone()])));
    assert!(without.confirm().await.is_none());
    // The lease is free at once, and stays free.
    tokio::time::sleep(TTL).await;
    assert!(without.acting().is_none());
    assert_eq!(with.ask().await, Asked::Held);

    let draining = FrontendView {
        draining: true,
        ..view
    };
    views.send_replace(Arc::new(ClusterView::of([draining])));
    tokio::time::timeout(TTL + RENEWAL, acts(&without))
        .await
        .expect("it acts again");
}

#[tokio::test(start_paused = true)]
async fn one_that_was_paused_knows_by_its_own_clock_that_it_acts_no_longer() {
    let store = Arc::default();
    let (first, second) = (frontend(&store, "first"), frontend(&store, "second"));
    assert_eq!(first.ask().await, Asked::Held);
    advance(TTL - MARGIN - Duration::from_millis(1)).await;
    assert!(first.acting().is_some());
    advance(Duration::from_millis(1)).await;
    assert!(first.acting().is_none());
    assert!(first.confirm().await.is_none());
    // All that happens before the store would let another frontend act.
    assert_eq!(second.ask().await, Asked::HeldByAnother);
    advance(MARGIN).await;
    assert_eq!(second.ask().await, Asked::Held);
    assert!(second.confirm().await.is_some_and(|lease| lease.number == 2));
}

#[tokio::test(start_paused = true)]
async fn nothing_is_confirmed_once_another_has_the_lease() {
    let store: Arc<OneLease> = Arc::default();
    let (first, second) = (frontend(&store, "first"), frontend(&store, "second"));
    assert_eq!(first.ask().await, Asked::Held);
    // By its clock it still acts, but the store has forgotten the lease.
    *store.lease.lock() = None;
    assert_eq!(second.ask().await, Asked::Held);
    assert!(first.acting().is_some());
    assert!(first.confirm().await.is_none());
    assert!(first.acting().is_none());
}

#[tokio::test(start_paused = true)]
async fn without_the_store_nobody_acts_for_long_and_with_it_one_does_again() {
    let store: Arc<OneLease> = Arc::default();
    let (first, second) = (frontend(&store, "first"), frontend(&store, "second"));
    let _running = (run(&first), run(&second));
    acts(&first).await;
    store.away.store(true, Ordering::Relaxed);
    assert!(first.confirm().await.is_none());
    let mut changes = first.changes();
    let ceased = changes.wait_for(Option::is_none).await;
    drop(ceased.expect("it is there"));
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(first.acting().is_none() && second.acting().is_none());

    store.away.store(false, Ordering::Relaxed);
    let either = async {
        tokio::select! {
            () = acts(&first) => {}
            () = acts(&second) => {}
        }
    };
    tokio::time::timeout(RENEWAL, either)
        .await
        .expect("one acts again");
}

#[tokio::test(start_paused = true)]
async fn a_lease_is_kept_from_a_store_that_answers_before_it_runs_out() {
    for trip in [600, 1200, 1950] {
        let store: Arc<OneLease> = Arc::default();
        *store.trip.lock() = Duration::from_millis(trip);
        let (first, second) = (frontend(&store, "first"), frontend(&store, "second"));
        let _running = run(&first);
        acts(&first).await;
        let _other = run(&second);
        for _ in 0..600 {
            tokio::time::sleep(Duration::from_millis(100)).await;
            assert!(first.acting().is_some(), "a round trip of {trip} ms");
        }
        assert!(first.confirm().await.is_some());
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_answers_when_a_lease_has_run_out_lets_nobody_act() {
    let store: Arc<OneLease> = Arc::default();
    *store.trip.lock() = ANSWER + Duration::from_millis(1);
    let first = frontend(&store, "first");
    let _running = run(&first);
    for _ in 0..100 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(first.acting().is_none());
    }
}

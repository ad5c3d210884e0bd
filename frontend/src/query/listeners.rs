//! The listeners that are told of each answered query, such as tracing, feedback and sinks.
//!
//! Metrics are not a listener: they are counted on the query's own path, before its answer leaves, and lose no query.
//! Each listener has a queue of its own, and no query waits for it: a record that finds no room is dropped and
//! counted. While nobody listens, a query costs one relaxed load here.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwap;
use prometheus_client::metrics::counter::Counter;
use skysail_core::query::{AnsweredQuery, QueryRecord};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::mpsc::{self, Receiver, Sender};

/// The queue of one listener. All listeners share each record, so it is allocated once.
type Queue = Sender<Arc<QueryRecord>>;

/// The listeners to one frontend's queries.
pub(super) struct Listeners {
    is_any: AtomicBool,
    queues: ArcSwap<Vec<Queue>>,
    dropped: Counter,
}

impl Listeners {
    /// No listeners yet. `dropped` counts the records that found no room in a listener's queue.
    pub(super) fn new(dropped: Counter) -> Self {
        Self {
            is_any: AtomicBool::new(false),
            queues: ArcSwap::default(),
            dropped,
        }
    }

    /// Adds a listener, which gets each query answered from now on, until it drops the receiver. At most `capacity`
    /// records wait for it.
    pub(super) fn listen(&self, capacity: usize) -> Receiver<Arc<QueryRecord>> {
        let (queue, records) = mpsc::channel(capacity);
        self.replace(|queues| queues.iter().chain([&queue]).cloned().collect());
        records
    }

    /// Tells all listeners of a query.
    pub(super) fn tell(&self, query: &AnsweredQuery<'_>) {
        if self.is_any.load(Ordering::Relaxed) {
            self.tell_all(&Arc::new(query.into()));
        }
    }

    fn tell_all(&self, record: &Arc<QueryRecord>) {
        let mut is_any_gone = false;
        for queue in &**self.queues.load() {
            match queue.try_send(record.clone()) {
                Ok(()) => {}
                Err(TrySendError::Full(_)) => {
                    self.dropped.inc();
                }
                Err(TrySendError::Closed(_)) => is_any_gone = true,
            }
        }
        if is_any_gone {
            self.replace(|queues| {
                queues
                    .iter()
                    .filter(|queue| !queue.is_closed())
                    .cloned()
                    .collect()
            });
        }
    }

    /// Replaces the queues. `others` is called again if the queues changed meanwhile.
    fn replace(&self, others: impl Fn(&[Queue]) -> Vec<Queue>) {
        self.queues.rcu(|queues| {
            let next = others(queues);
            // If a listener comes meanwhile, this runs again, so that the listener is not left out.
            self.is_any.store(!next.is_empty(), Ordering::Relaxed);
            next
        });
    }
}

#[cfg(test)]
mod tests {
    use skysail_core::query::{DefaultReason, Outcome};
    use tokio::sync::mpsc::error::TryRecvError;

    use super::*;

    /// Answers a query with this id.
    fn answer(listeners: &Listeners, id: u64) {
        let reason = DefaultReason::NoModelLinked;
        listeners.tell(&AnsweredQuery {
            id,
            application: &"app".parse().unwrap(),
            model: None,
            latency: std::time::Duration::ZERO,
            default_reason: Some(reason),
            course: &Outcome::from(reason).course,
        });
    }

    fn heard(records: &mut Receiver<Arc<QueryRecord>>) -> Vec<u64> {
        std::iter::from_fn(|| records.try_recv().ok())
            .map(|record| record.id)
            .collect()
    }

    #[test]
    fn each_listener_hears_what_is_answered_while_it_listens() {
        let listeners = Listeners::new(Counter::default());
        answer(&listeners, 1);
        let mut first = listeners.listen(9);
        answer(&listeners, 2);
        let mut second = listeners.listen(9);
        answer(&listeners, 3);
        assert_eq!((heard(&mut first), heard(&mut second)), (vec![2, 3], vec![3]));
        drop(first);
        answer(&listeners, 4);
        assert_eq!(listeners.queues.load().len(), 1);
        assert_eq!(heard(&mut second), [4]);
        drop(second);
        answer(&listeners, 5);
        assert!(!listeners.is_any.load(Ordering::Relaxed));
        assert!(heard(&mut listeners.listen(9)).is_empty());
    }

    #[test]
    fn what_a_slow_listener_misses_is_counted_and_nobody_else_misses_it() {
        let listeners = Listeners::new(Counter::default());
        let (mut slow, mut quick) = (listeners.listen(2), listeners.listen(9));
        // A listener that reads nothing holds up no answer: these return.
        (1..=5).for_each(|id| answer(&listeners, id));
        assert_eq!(listeners.dropped.get(), 3);
        assert_eq!(
            (heard(&mut slow), heard(&mut quick)),
            (vec![1, 2], vec![1, 2, 3, 4, 5])
        );
        answer(&listeners, 6);
        assert_eq!(
            (heard(&mut slow), slow.try_recv()),
            (vec![6], Err(TryRecvError::Empty))
        );
        assert_eq!(listeners.dropped.get(), 3);
    }
}

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::future::{FutureExt, Shared};
use proptest::prelude::*;
use skysail_core::query::{DefaultReason, Failure, Outcome, Prediction, Way};
use skysail_core::queue::{Bounds, Claim, Placed};
use skysail_core::time::Instant;
use tokio::time::advance;

use super::*;
use crate::clock::Clock;
use crate::model::answers::Asked;
use crate::model::asking::{self, Asking, ROWS_AT_ONCE, Unknown};
use crate::model::queue::tests::run;
use crate::model::queue::{Admission, Batch, Task, TaskQueue, Unanswered};

/// A version without replicas: the test takes batches and answers them.
struct Version {
    cache: Arc<PredictionCache>,
    queue: TaskQueue,
    clock: Clock,
}

type Query<'a> = Pin<Box<dyn Future<Output = Prediction> + Send + 'a>>;

impl Version {
    fn new() -> Self {
        Self::queueing(100)
    }

    fn queueing(count: usize) -> Self {
        let bounds = Bounds {
            count,
            bytes: usize::MAX,
        };
        Self {
            cache: PredictionCache::new(1 << 20, CacheMetrics::default()),
            queue: TaskQueue::new(bounds, Admission::InTime),
            clock: Clock::start(),
        }
    }

    /// A query, polled as far as it gets by itself. Panics if it is answered.
    fn ask(&self, number: u32, millis: u64) -> Query<'_> {
        let mut asking = self.query(number, millis);
        assert_eq!(look(&mut asking), None);
        asking
    }

    fn query(&self, number: u32, millis: u64) -> Query<'_> {
        let outcome = self.outcome(number, millis);
        Box::pin(async move { outcome.await.prediction })
    }

    fn outcome(&self, number: u32, millis: u64) -> impl Future<Output = Outcome> + Send {
        let deadline = self.clock.now() + Duration::from_millis(millis);
        async move {
            match self.way().look_up(input(number)) {
                Ok(outcome) => outcome,
                Err(unknown) => self.fly(unknown, deadline).await,
            }
        }
    }

    async fn fly(&self, unknown: Unknown, deadline: Instant) -> Outcome {
        let mut asking = Asking::new(self.way(), 1, asked(deadline));
        asking.ask(self.clock.now(), 0, unknown);
        asking.outcomes().await.remove(0).unwrap()
    }

    /// A request of these rows. All rows are asked when this returns.
    async fn ask_rows(&self, numbers: impl IntoIterator<Item = u32>, millis: u64) -> Asking<'_> {
        let inputs: Vec<_> = numbers.into_iter().map(input).collect();
        let deadline = self.clock.now() + Duration::from_millis(millis);
        let mut asking = Asking::new(self.way(), inputs.len(), asked(deadline));
        asking.ask_all(inputs).await;
        asking
    }

    fn way(&self) -> asking::Version<'_> {
        asking::Version {
            cache: Some(&self.cache),
            queue: &self.queue,
            clock: self.clock,
        }
    }

    fn hit(&self, number: u32) -> Option<Output> {
        self.cache.hit(&self.cache.key(input(number)))
    }

    /// The batch that a batcher would send. Expired queries are answered.
    fn take(&self, size: u32) -> Batch {
        self.queue.take(size, self.clock.now())
    }

    /// Takes the one task that waits.
    fn take_one(&self) -> Task {
        let mut batch = self.take(100);
        assert_eq!(batch.len(), 1);
        batch.remove(0).task
    }

    fn take_first(&self) -> Task {
        self.take(1).remove(0).task
    }

    fn counts(&self) -> [u64; 3] {
        let metrics = &self.cache.metrics;
        [metrics.hits.get(), metrics.joins.get(), metrics.misses.get()]
    }

    fn in_flight(&self) -> usize {
        self.cache.flights.len()
    }
}

fn asked(deadline: Instant) -> Asked {
    Asked {
        deadline,
        claim: Claim::SOLE,
    }
}

fn input(number: u32) -> Input {
    Input::doubles(&[f64::from(number)])
}

fn output(text: &str) -> Output {
    Output::new(text)
}

fn failed(reason: DefaultReason) -> Prediction {
    Err(reason.into())
}

/// Polls a query.
fn look(asking: &mut Query<'_>) -> Option<Prediction> {
    asking.now_or_never()
}

fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

#[tokio::test(start_paused = true)]
async fn what_was_predicted_once_is_answered_from_the_cache() {
    let version = Version::new();
    let asking = version.ask(1, 100);
    version.take_one().answer(Ok(output("one")));
    assert_eq!(asking.await, Ok(output("one")));
    assert_eq!(version.query(1, 100).await, Ok(output("one")));
    // Also at its deadline: a hit costs nothing.
    assert_eq!(version.query(1, 0).await, Ok(output("one")));
    assert!(version.queue.len() == 0);
    assert_eq!(version.counts(), [2, 0, 1]);
    assert_eq!(version.hit(2), None);
}

#[tokio::test(start_paused = true)]
async fn identical_queries_in_flight_are_one_input_of_the_model() {
    let version = Version::new();
    let mut asking: Vec<_> = (0..3).map(|_| version.ask(1, 100)).collect();
    asking.push(version.ask(2, 100));
    let batch = version.take(100);
    let inputs: Vec<_> = batch.iter().map(|placed| placed.task.input.clone()).collect();
    assert_eq!(inputs, [input(1), input(2)]);
    // A query also joins while the container has the batch.
    asking.push(version.ask(1, 100));
    for Placed { task, .. } in batch {
        let answer = if task.input == input(1) { "one" } else { "two" };
        task.answer(Ok(output(answer)));
    }
    let mut answers = Vec::new();
    for asking in asking {
        answers.push(asking.await.unwrap());
    }
    assert_eq!(answers, ["one", "one", "one", "two", "one"].map(output));
    assert_eq!(version.counts(), [0, 3, 2]);
    assert_eq!(version.in_flight(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_models_error_is_shared_by_who_waits_and_not_kept() {
    let version = Version::new();
    let asking = [version.ask(1, 100), version.ask(1, 200)];
    let error = Err(Failure::model_error("too blue"));
    version.take_one().answer(error.clone());
    for asking in asking {
        assert_eq!(asking.await, error);
    }
    let again = version.ask(1, 100);
    version.take_one().answer(Ok(output("one")));
    assert_eq!(again.await, Ok(output("one")));
}

#[tokio::test(start_paused = true)]
async fn a_flight_goes_on_without_its_first_asker() {
    let version = Version::new();
    let (first, second) = (version.ask(1, 100), version.ask(1, 100));
    drop(first);
    assert_eq!(version.queue.len(), 1);
    version.take_one().answer(Ok(output("one")));
    assert_eq!(second.await, Ok(output("one")));
}

#[tokio::test(start_paused = true)]
async fn when_all_have_hung_up_the_place_is_free() {
    let version = Version::queueing(1);
    drop([version.ask(1, 100), version.ask(1, 100)]);
    assert!(version.queue.len() == 0);
    assert_eq!(version.in_flight(), 0);
    let other = version.ask(2, 100);
    version.take_one().answer(Ok(output("two")));
    assert_eq!(other.await, Ok(output("two")));
}

#[tokio::test(start_paused = true)]
async fn a_prediction_nobody_waits_for_any_more_is_kept_all_the_same() {
    let version = Version::new();
    let mut asking = version.ask(1, 10);
    let task = version.take_one();
    advance(millis(10)).await;
    assert_eq!(look(&mut asking), Some(failed(DefaultReason::LateReply)));
    drop(asking);
    assert!(task.is_abandoned());
    task.answer(Ok(output("one")));
    assert_eq!(version.hit(1), Some(output("one")));
    assert_eq!(version.in_flight(), 0);
}

#[tokio::test(start_paused = true)]
async fn what_a_container_works_on_can_be_joined_though_its_askers_hung_up() {
    let version = Version::new();
    drop(version.ask(1, 100));
    let asking = version.ask(1, 100);
    let task = version.take_one();
    drop(asking);
    let joined = version.ask(1, 100);
    assert!(version.queue.len() == 0);
    task.answer(Ok(output("one")));
    assert_eq!(joined.await, Ok(output("one")));
}

#[tokio::test(start_paused = true)]
async fn a_flight_past_its_deadline_is_not_joined_for_its_replica_may_hang() {
    let version = Version::new();
    let hanging = version.ask(1, 10);
    let task = version.take_one();
    advance(millis(10)).await;
    let asking = version.ask(1, 10);
    version.take_one().answer(Ok(output("from another replica")));
    assert_eq!(asking.await, Ok(output("from another replica")));
    assert_eq!(hanging.await, failed(DefaultReason::LateReply));
    task.answer(failed(DefaultReason::ReplicaLost));
    assert_eq!(version.hit(1), Some(output("from another replica")));
}

#[tokio::test(start_paused = true)]
async fn each_asker_is_answered_at_its_own_deadline_with_how_far_the_flight_got() {
    let version = Version::new();
    let mut patient = version.ask(1, 30);
    let (mut hasty, mut hastier) = (version.ask(1, 20), version.ask(1, 10));
    advance(millis(9)).await;
    assert_eq!(look(&mut hastier), None);
    advance(millis(1)).await;
    assert_eq!(look(&mut hastier), Some(failed(DefaultReason::ExpiredInQueue)));
    // The next batch gives up the place, for the most urgent asker's deadline. The other askers try again.
    assert!(version.take(1).is_empty());
    assert_eq!((look(&mut hasty), look(&mut patient)), (None, None));
    let task = version.take_one();
    advance(millis(10)).await;
    assert_eq!(look(&mut hasty), Some(failed(DefaultReason::LateReply)));
    assert_eq!(look(&mut patient), None);
    task.answer(Ok(output("one")));
    assert_eq!(patient.await, Ok(output("one")));
}

#[tokio::test(start_paused = true)]
async fn a_flight_waits_at_the_earliest_deadline_of_those_who_joined_it() {
    let version = Version::new();
    let patient = version.ask(1, 100);
    let between = version.ask(2, 50);
    let hasty = version.ask(1, 10);
    let batch = version.take(1);
    assert_eq!(batch[0].task.input, input(1));
    assert_eq!(batch[0].deadline(), version.clock.now() + millis(10));
    for Placed { task, .. } in batch {
        task.answer(Ok(output("one")));
    }
    assert_eq!(hasty.await, Ok(output("one")));
    assert_eq!(patient.await, Ok(output("one")));
    drop(between);
    assert!(version.queue.len() == 0);
}

#[tokio::test(start_paused = true)]
async fn who_has_more_time_than_a_flight_that_failed_for_its_deadline_tries_again() {
    for reason in [DefaultReason::PredictedLate, DefaultReason::LateReply] {
        let version = Version::new();
        let (first, second) = (version.ask(1, 10), version.ask(1, 10));
        let mut patient = version.ask(1, 100);
        version.take_one().answer(failed(reason));
        // These queries were as late as their flight.
        assert_eq!(first.await, failed(reason));
        assert_eq!(second.await, failed(reason));
        assert_eq!(look(&mut patient), None);
        version.take_one().answer(Ok(output("one")));
        assert_eq!(patient.await, Ok(output("one")));
        assert_eq!(version.counts(), [0, 2, 1], "nobody is counted twice");
    }
}

#[tokio::test(start_paused = true)]
async fn after_a_failure_the_flight_waits_at_the_latest_deadline_and_is_not_hastened() {
    let version = Version::new();
    let start = version.clock.now();
    let _first = version.ask(1, 10);
    let mut others: Vec<_> = [20, 100, 50].map(|millis| version.ask(1, millis)).into();
    advance(millis(10)).await;
    assert!(version.take(1).is_empty());
    assert!(others.iter_mut().all(|asking| look(asking).is_none()));
    let _hasty = version.ask(1, 1);
    assert_eq!(version.queue.len(), 1);
    assert_eq!(version.take(1)[0].deadline(), start + millis(100));
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_is_said_at_once_and_forgotten() {
    let version = Version::queueing(1);
    let waiting = version.ask(1, 100);
    assert_eq!(version.query(2, 100).await, failed(DefaultReason::QueueFull));
    assert_eq!(version.in_flight(), 1);
    // A join needs no place.
    let joined = version.ask(1, 100);
    version.take_one().answer(Ok(output("one")));
    assert_eq!(waiting.await, joined.await);
    let _fits = version.ask(2, 100);
    assert_eq!(version.queue.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_query_lost_twice_is_lost_for_all_who_joined_it() {
    let version = Version::new();
    let asking = [version.ask(1, 100), version.ask(1, 200)];
    for _ in 0..2 {
        let batch = version.take(1);
        version.queue.put_back(batch, Unanswered::ReplicaLost);
    }
    assert!(version.queue.len() == 0);
    for asking in asking {
        assert_eq!(asking.await, failed(DefaultReason::ReplicaLost));
    }
}

#[tokio::test(start_paused = true)]
async fn a_task_that_is_dropped_unanswered_was_lost() {
    let version = Version::new();
    let asking = [version.ask(1, 100), version.ask(1, 200)];
    drop(version.take_one());
    for asking in asking {
        assert_eq!(asking.await, failed(DefaultReason::ReplicaLost));
    }
    assert_eq!(version.in_flight(), 0);
}

#[tokio::test(start_paused = true)]
async fn what_lands_between_the_look_up_and_the_flight_is_found() {
    let version = Version::new();
    let key = version.cache.key(input(1));
    assert_eq!(version.cache.hit(&key), None);
    let first = version.ask(1, 100);
    version.take_one().answer(Ok(output("one")));
    let deadline = version.clock.now() + millis(100);
    let unknown = Unknown::Keyed(key);
    assert_eq!(version.fly(unknown, deadline).await.prediction, Ok(output("one")));
    assert_eq!(first.await, Ok(output("one")));
    assert!(version.queue.len() == 0);
}

#[tokio::test(start_paused = true)]
async fn a_closed_queue_ends_all_flights() {
    let version = Version::new();
    let waiting = version.ask(1, 100);
    version.queue.close();
    assert_eq!(waiting.await, failed(DefaultReason::NoReplica));
    assert_eq!(version.query(1, 100).await, failed(DefaultReason::NoReplica));
    assert_eq!(version.in_flight(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_threads_that_ask_the_same_at_once_ask_the_model_once() {
    const INPUTS: u32 = 500;
    const ASKERS: u32 = 8;
    let version: &'static Version = Box::leak(Box::new(Version::queueing(usize::MAX)));
    let asking: Vec<_> = (0..ASKERS)
        .map(|_| {
            let ask_all = async move {
                for number in 0..INPUTS {
                    let answer = version.query(number, 60_000).await;
                    assert_eq!(answer, Ok(output(&number.to_string())));
                }
            };
            tokio::spawn(ask_all)
        })
        .collect();
    let batcher = tokio::spawn(async move {
        for number in 0..INPUTS {
            while version.queue.len() == 0 {
                version.queue.work().await;
            }
            let task = version.take_one();
            assert_eq!(task.input, input(number), "it was asked before");
            task.answer(Ok(output(&number.to_string())));
        }
    });
    for asker in asking {
        asker.await.unwrap();
    }
    batcher.await.unwrap();
    let [hits, joins, misses] = version.counts();
    assert_eq!(misses, u64::from(INPUTS));
    assert_eq!(hits + joins, u64::from(INPUTS * (ASKERS - 1)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_hangs_up_takes_nothing_from_those_who_join_at_that_moment() {
    let version: &'static Version = Box::leak(Box::new(Version::new()));
    let come_and_go = async || {
        for _ in 0..20_000 {
            let mut asking = version.ask(1, 60_000);
            std::hint::black_box(&mut asking);
            assert_eq!(look(&mut asking), None);
        }
    };
    let others = tokio::spawn(come_and_go());
    tokio::spawn(come_and_go()).await.unwrap();
    others.await.unwrap();
    assert!(version.queue.len() == 0);
    assert_eq!(version.in_flight(), 0);
}

#[test]
fn inputs_whose_hashes_are_equal_are_told_apart() {
    let cache = PredictionCache::new(1 << 20, CacheMetrics::default());
    let colliding = |number| Key {
        hash: 7,
        input: input(number),
    };
    for number in 0..100 {
        cache.keep(&colliding(number), &output(&number.to_string()));
    }
    for number in 0..100 {
        assert_eq!(cache.hit(&colliding(number)), Some(output(&number.to_string())));
    }
    assert_eq!(cache.hit(&colliding(100)), None);
}

#[test]
fn what_does_not_fit_is_not_kept() {
    for capacity in [1, 1000] {
        let cache = PredictionCache::new(capacity, CacheMetrics::default());
        let large = cache.key(Input::bytes(vec![0; 1000]));
        cache.keep(&large, &output("large"));
        assert_eq!(cache.hit(&large), None);
        assert_eq!(cache.entries.len(), 0);
    }
}

#[test]
fn an_entry_keeps_nothing_alive_but_its_own_bytes() {
    let cache = PredictionCache::new(1 << 20, CacheMetrics::default());
    let body = bytes::Bytes::from(vec![1; 1000]);
    let key = cache.key(Input::bytes(body.slice(10..20)));
    cache.keep(&key, &output("ten ones"));
    drop(key);
    assert!(body.is_unique());
}

proptest! {
    #[test]
    fn a_cache_never_outweighs_its_capacity_and_never_confuses_inputs(
        capacity in 1u64..200_000,
        entries in proptest::collection::vec((0u32..300, 0usize..2000), 1..400),
    ) {
        let cache = PredictionCache::new(capacity, CacheMetrics::default());
        let mut last = HashMap::new();
        for (number, length) in entries {
            let text = format!("{number}:{}", "x".repeat(length));
            cache.keep(&cache.key(input(number)), &output(&text));
            last.insert(number, text);
            // The capacity is rounded up to whole bytes for each shard.
            prop_assert!(cache.entries.weight() < capacity + SHARDS as u64);
        }
        for (number, text) in last {
            // If an output was too heavy to be kept, the cache may still hold the one before it.
            if let Some(found) = cache.hit(&cache.key(input(number))) {
                let prefix = format!("{number}:");
                prop_assert!(found.text().starts_with(&prefix), "{text}");
            }
        }
    }
}

fn answer_with_its_number(batch: Batch) {
    for Placed { task, .. } in batch {
        let number = (0..1000).find(|&number| input(number) == task.input).unwrap();
        task.answer(Ok(output(&number.to_string())));
    }
}

fn texts(outcomes: impl IntoIterator<Item = Option<Outcome>>) -> Vec<String> {
    let text = |outcome: Option<Outcome>| match outcome.unwrap().prediction {
        Ok(output) => output.text().into_owned(),
        Err(failure) => failure.reason.word().to_owned(),
    };
    outcomes.into_iter().map(text).collect()
}

#[tokio::test(start_paused = true)]
async fn rows_are_hits_joins_and_misses_of_their_own_and_answered_in_order() {
    let version = Version::new();
    let first = version.ask(1, 100);
    answer_with_its_number(version.take(1));
    assert_eq!(first.await, Ok(output("1")));
    let joined = version.ask(2, 100);
    let rows = version.ask_rows([3, 1, 2, 3, 4], 100).await;
    // One hit, and the second of the two that are alike joins the first.
    assert_eq!(version.counts(), [1, 2, 4]);
    assert_eq!(version.queue.len(), 3);
    let mut rows = Box::pin(rows.outcomes());
    answer_with_its_number(version.take(2));
    assert!((&mut rows).now_or_never().is_none());
    answer_with_its_number(version.take(1));
    assert_eq!(texts(rows.await), ["3", "1", "2", "3", "4"]);
    assert_eq!(joined.await, Ok(output("2")));
}

#[tokio::test(start_paused = true)]
async fn at_the_deadline_the_rows_that_are_answered_keep_their_answers() {
    let version = Version::new();
    let rows = version.ask_rows(0..3, 10).await;
    let mut rows = Box::pin(rows.outcomes());
    answer_with_its_number(version.take(1));
    let in_hand = version.take(1);
    assert!((&mut rows).now_or_never().is_none());
    advance(millis(10)).await;
    assert_eq!(texts(rows.await), ["0", "late_reply", "expired_in_queue"]);
    assert!(version.queue.len() == 0, "what expired has left its place");
    assert!(in_hand[0].task.is_abandoned());
}

#[tokio::test(start_paused = true)]
async fn a_row_whose_flight_failed_too_early_for_it_is_asked_again_while_the_others_wait() {
    let version = Version::new();
    let hasty = version.ask(1, 10);
    let rows = version.ask_rows([0, 1], 100).await;
    let mut rows = Box::pin(rows.outcomes());
    assert!((&mut rows).now_or_never().is_none());
    version.take_first().answer(failed(DefaultReason::PredictedLate));
    assert_eq!(hasty.await, failed(DefaultReason::PredictedLate));
    assert!((&mut rows).now_or_never().is_none());
    assert_eq!(
        version.queue.len(),
        2,
        "it waits again before the other is answered"
    );
    answer_with_its_number(version.take(2));
    assert_eq!(texts(rows.await), ["0", "1"]);
}

#[tokio::test(start_paused = true)]
async fn of_rows_for_which_there_is_no_room_some_are_refused_and_the_others_answered() {
    let version = Version::queueing(2);
    let rows = version.ask_rows(0..4, 100).await;
    answer_with_its_number(version.take(2));
    assert_eq!(
        texts(rows.outcomes().await),
        ["0", "1", "queue_full", "queue_full"]
    );
    assert_eq!(version.in_flight(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_hangs_up_frees_the_places_of_all_its_rows() {
    let version = Version::queueing(1000);
    let other = version.ask(1, 100);
    drop(version.ask_rows(0..700, 100).await);
    assert_eq!((version.queue.len(), version.in_flight()), (1, 1));
    // An asker may also hang up while its rows are still coming.
    let mut asking = Box::pin(version.ask_rows(0..700, 100));
    assert!((&mut asking).now_or_never().is_none());
    assert_eq!(version.queue.len(), ROWS_AT_ONCE);
    drop(asking);
    assert_eq!((version.queue.len(), version.in_flight()), (1, 1));
    answer_with_its_number(version.take(1));
    assert_eq!(other.await, Ok(output("1")));
}

#[tokio::test(start_paused = true)]
async fn rows_without_number_are_answered_by_none() {
    let version = Version::new();
    let rows = version.ask_rows([], 100).await;
    assert!(rows.outcomes().await.is_empty());
}

#[tokio::test]
async fn of_many_askers_who_land_at_once_others_have_their_turn_in_between() {
    let version: &'static Version = Box::leak(Box::new(Version::new()));
    let answered = Arc::new(AtomicUsize::new(0));
    let asking: Vec<_> = (0..1000)
        .map(|_| {
            let (answered, asking) = (answered.clone(), version.ask(1, 60_000));
            tokio::spawn(async move {
                let outcome = asking.await;
                answered.fetch_add(1, Ordering::Relaxed);
                outcome
            })
        })
        .collect();
    // Poll until all wait.
    for _ in 0..1000 {
        tokio::task::yield_now().await;
    }
    version.take_one().answer(Ok(output("one")));
    let answered_before = tokio::spawn(async move { answered.load(Ordering::Relaxed) });
    assert!(answered_before.await.unwrap() < 500);
    for asking in asking {
        assert_eq!(asking.await.unwrap(), Ok(output("one")));
    }
}

#[tokio::test(start_paused = true)]
async fn an_asker_whose_turn_comes_after_its_deadline_gets_what_has_landed() {
    let version = Version::new();
    let mut asking: Vec<_> = (0..200).map(|_| version.ask(1, 10)).collect();
    version.take_one().answer(Ok(output("one")));
    // No asker has had a turn yet.
    advance(millis(10)).await;
    for asking in asking.drain(..).rev() {
        assert_eq!(asking.await, Ok(output("one")));
    }
}

#[tokio::test(start_paused = true)]
async fn an_outcome_says_which_way_it_came_and_how_long_its_input_waited() {
    let version = Version::new();
    let mut led = Box::pin(version.outcome(7, 100));
    let mut joined = Box::pin(version.outcome(7, 100));
    assert!((&mut led).now_or_never().is_none() && (&mut joined).now_or_never().is_none());
    advance(millis(5)).await;
    let (task, sent_at) = (version.take_one(), version.clock.now());
    advance(millis(9)).await;
    task.answer_by(run(), sent_at, Ok(output("one")));
    for (asking, way) in [(led, Way::Batch), (joined, Way::Flight)] {
        let course = asking.await.course;
        assert_eq!(course.way, way);
        assert_eq!((course.queued, course.batch), (Some(millis(5)), Some(run())));
    }
    let cached = version.outcome(7, 100).await.course;
    assert_eq!(
        (cached.way, cached.queued, cached.batch),
        (Way::Cache, None, None)
    );
}

#[tokio::test(start_paused = true)]
async fn a_query_that_expires_says_how_long_it_waited_unless_its_batch_left() {
    let version = Version::new();
    let waited = version.outcome(7, 20).await;
    assert_eq!(waited.prediction, failed(DefaultReason::ExpiredInQueue));
    assert_eq!((waited.course.way, &waited.course.batch), (Way::Default, &None));
    assert!(waited.course.queued >= Some(millis(20)), "{waited:?}");
    let mut late = Box::pin(version.outcome(8, 20));
    assert!((&mut late).now_or_never().is_none());
    let _task = version.take_one();
    let late = late.await;
    assert_eq!(late.prediction, failed(DefaultReason::LateReply));
    assert_eq!((late.course.way, late.course.queued), (Way::Default, None));
}

/// Something that happens to a version.
#[derive(Clone, Debug)]
enum Happening {
    Ask { number: u32, millis: u64 },
    HangUp(prop::sample::Index),
    Take { size: u32 },
    Answer { which: prop::sample::Index, good: bool },
    Lose(prop::sample::Index),
    Advance { millis: u64 },
}

fn event() -> impl Strategy<Value = Happening> {
    prop_oneof![
        4 => (0u32..3, 0u64..40).prop_map(|(number, millis)| Happening::Ask { number, millis }),
        1 => any::<prop::sample::Index>().prop_map(Happening::HangUp),
        2 => (1u32..4).prop_map(|size| Happening::Take { size }),
        2 => (any::<prop::sample::Index>(), prop::bool::weighted(0.3))
            .prop_map(|(which, good)| Happening::Answer { which, good }),
        1 => any::<prop::sample::Index>().prop_map(Happening::Lose),
        3 => (1u64..15).prop_map(|millis| Happening::Advance { millis }),
    ]
}

/// A query that was asked, and its deadline.
struct Waiting<'a> {
    number: u32,
    deadline: Instant,
    outcome: Shared<Query<'a>>,
}

/// Polls every query. Those not answered must have time left.
fn check(version: &Version, asked: &[Waiting<'_>]) -> Result<(), TestCaseError> {
    // A query that tries again may wait for a query later in the list.
    for _ in 0..2 {
        for query in asked {
            let outcome = query.outcome.clone().now_or_never();
            match outcome {
                None => prop_assert!(version.clock.now() < query.deadline, "unanswered at its deadline"),
                Some(Ok(found)) => prop_assert_eq!(found, output(&query.number.to_string())),
                Some(Err(failure)) => prop_assert_ne!(failure.reason, DefaultReason::NoReplica),
            }
        }
    }
    Ok(())
}

async fn whatever_happens(events: Vec<Happening>) -> Result<(), TestCaseError> {
    let version = Version::queueing(4);
    let mut asked: Vec<Waiting<'_>> = Vec::new();
    let mut in_hand = Batch::new();
    for event in events {
        match event {
            Happening::Ask { number, millis } => asked.push(Waiting {
                number,
                deadline: version.clock.now() + Duration::from_millis(millis),
                outcome: version.query(number, millis).shared(),
            }),
            Happening::HangUp(which) if !asked.is_empty() => {
                asked.remove(which.index(asked.len()));
            }
            Happening::Take { size } => in_hand.extend(version.take(size)),
            Happening::Answer { which, good } if !in_hand.is_empty() => {
                let task = in_hand.remove(which.index(in_hand.len())).task;
                let number = (0..3).find(|&number| input(number) == task.input).unwrap();
                let outcome = if good {
                    Ok(output(&number.to_string()))
                } else {
                    Err(Failure::model_error("not today"))
                };
                task.answer(outcome);
            }
            Happening::Lose(which) if !in_hand.is_empty() => {
                let task = in_hand.remove(which.index(in_hand.len()));
                version.queue.put_back([task], Unanswered::ReplicaLost);
            }
            Happening::Advance { millis } => advance(Duration::from_millis(millis)).await,
            Happening::HangUp(_) | Happening::Answer { .. } | Happening::Lose(_) => {}
        }
        check(&version, &asked)?;
    }
    advance(millis(40)).await;
    check(&version, &asked)?;
    prop_assert!(
        version.queue.len() == 0,
        "a place is not free though nobody waits"
    );
    drop(in_hand);
    prop_assert_eq!(version.in_flight(), 0);
    Ok(())
}

proptest! {
    #[test]
    fn whatever_happens_every_query_is_answered_by_its_deadline_and_nothing_is_left(
        events in proptest::collection::vec(event(), 0..60),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        runtime.unwrap().block_on(whatever_happens(events))?;
    }
}

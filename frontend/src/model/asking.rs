//! The rows of one request on their way: looked up, led or joined as flights, let into the queue, waited for.
//!
//! Rows share their deadline, so they share the cost of waiting. They enter the queue in chunks, each with one lock
//! and one wake-up of a batcher. One timer and one wake-up serve all rows. Each row still has its own place and its
//! own outcome. Other tasks run between two chunks, so a request of many rows holds nobody up.

use std::ops::Range;
use std::sync::Arc;

use skysail_core::query::{DefaultReason, Outcome};
use skysail_core::queue::{Entrant, Place};
use skysail_core::time::Instant;
use skysail_proto::value::Input;
use smallvec::{SmallVec, smallvec};

use super::answers::{Again, Asked, News, Outcomes, RowAnswers, expired};
use super::cache::flight::{Boarded, Boarding, Flight, Try};
use super::cache::{Key, PredictionCache};
use super::queue::{Reply, Task, TaskQueue};
use crate::clock::Clock;

/// How many rows of a request are worked on at once. That takes some tenths of a millisecond.
pub(crate) const ROWS_AT_ONCE: usize = 512;

/// The version that rows are asked of.
#[derive(Clone, Copy)]
pub(super) struct Version<'a> {
    /// `None` if every row is asked.
    pub(super) cache: Option<&'a Arc<PredictionCache>>,
    pub(super) queue: &'a TaskQueue,
    pub(super) clock: Clock,
}

/// A row that must be asked.
pub(super) enum Unknown {
    /// Of a version with a cache.
    Keyed(Key),
    /// Of a version without a cache.
    Plain(Input),
}

/// Where a row waits.
#[derive(Clone)]
enum Row {
    /// The row is answered, or not asked yet.
    Nowhere,
    /// In the queue, since this instant.
    Queued(Place, Instant),
    /// For a flight to land.
    Flying(Arc<Flight>),
}

/// The rows of a request while they are asked. Dropping this gives up all their places.
pub(super) struct Asking<'a> {
    version: Version<'a>,
    answers: Arc<RowAnswers>,
    rows: SmallVec<[Row; 1]>,
}

/// Tasks that enter the queue together, and their rows.
struct Entering {
    now: Instant,
    rows: SmallVec<[usize; 1]>,
    entrants: SmallVec<[Entrant<Task>; 1]>,
}

impl Version<'_> {
    /// The cached output for `input`, or else the input as a row to ask.
    pub(super) fn look_up(&self, input: Input) -> Result<Outcome, Unknown> {
        let Some(cache) = self.cache else {
            return Err(Unknown::Plain(input));
        };
        let key = cache.key(input);
        cache.hit(&key).map(Outcome::cached).ok_or(Unknown::Keyed(key))
    }
}

impl<'a> Asking<'a> {
    /// `rows` rows, none of which is asked yet.
    pub(super) fn new(version: Version<'a>, rows: usize, asked: Asked) -> Self {
        Self {
            version,
            answers: RowAnswers::new(rows, asked),
            rows: smallvec![Row::Nowhere; rows],
        }
    }

    /// Asks all rows, chunk by chunk.
    pub(super) async fn ask_all(&mut self, inputs: Vec<Input>) {
        let mut inputs = inputs.into_iter();
        let mut first = 0;
        while inputs.len() > 0 {
            if first > 0 {
                tokio::task::yield_now().await;
            }
            let chunk = inputs.by_ref().take(ROWS_AT_ONCE);
            first += self.ask_chunk(self.version.clock.now(), first, chunk);
        }
    }

    /// Asks the rows from `first` on. Returns how many they are.
    fn ask_chunk(&mut self, now: Instant, first: usize, inputs: impl Iterator<Item = Input>) -> usize {
        let mut entering = Entering::at(now);
        let mut row = first;
        for input in inputs {
            match self.version.look_up(input) {
                Ok(outcome) => self.answers.put(row, outcome),
                Err(unknown) => self.prepare(row, unknown, &mut entering),
            }
            row += 1;
        }
        self.enter(entering);
        row - first
    }

    /// Asks a row whose answer is not known.
    pub(super) fn ask(&mut self, now: Instant, row: usize, unknown: Unknown) {
        let mut entering = Entering::at(now);
        self.prepare(row, unknown, &mut entering);
        self.enter(entering);
    }

    fn prepare(&mut self, row: usize, unknown: Unknown, entering: &mut Entering) {
        match unknown {
            Unknown::Keyed(key) => self.board(row, key, Try::First, entering),
            Unknown::Plain(input) => {
                let reply = Reply::Asker(self.answers.answerer(row));
                let Asked { deadline, claim } = self.answers.asked();
                entering.push(row, Task::new(input, reply, entering.now).until(deadline, claim));
            }
        }
    }

    fn board(&mut self, row: usize, key: Key, how: Try, entering: &mut Entering) {
        let Some(cache) = self.version.cache else {
            unreachable!("a key is of a version with a cache");
        };
        let boarding = Boarding {
            key,
            answerer: self.answers.answerer(row),
            now: entering.now,
            how,
        };
        let flight = match boarding.board(cache, self.version.queue) {
            Boarded::Landed(answerer, output) => return answerer.send(Outcome::cached(output)),
            Boarded::Joined(flight) => flight,
            Boarded::Leads(flight) => {
                let claim = self.answers.asked().claim;
                let task = Task::new(
                    flight.input().clone(),
                    Reply::Flight(flight.landing()),
                    entering.now,
                );
                entering.push(row, task.until(flight.deadline(), claim));
                flight
            }
        };
        self.rows[row] = Row::Flying(flight);
    }

    /// Lets tasks wait in the queue. Refused tasks are answered.
    fn enter(&mut self, entering: Entering) {
        if entering.rows.is_empty() {
            return;
        }
        let (queue, now) = (self.version.queue, entering.now);
        let entered = queue.enter(now, entering.entrants);
        for (row, entered) in entering.rows.into_iter().zip(entered) {
            match (entered, &mut self.rows[row]) {
                (Ok(place), Row::Flying(flight)) => flight.settle(queue, place),
                (Ok(place), row) => *row = Row::Queued(place, now),
                (Err(refused), _) => refused.task.end(refused.reason.into()),
            }
        }
    }

    /// Waits for all answers, until the deadline at the latest.
    pub(super) async fn outcomes(mut self) -> Outcomes {
        let due = self.version.clock.to_tokio(self.answers.asked().deadline);
        loop {
            match tokio::time::timeout_at(due, self.answers.news()).await {
                Ok(News::Complete(outcomes)) => {
                    self.rows.clear();
                    return outcomes;
                }
                Ok(News::Again(rows)) => rows.into_iter().for_each(|again| self.ask_again(again)),
                Err(_elapsed) => return self.expire().await,
            }
        }
    }

    fn ask_again(&mut self, again: Again) {
        let Again { row, failed, latest } = again;
        let now = self.version.clock.now();
        let Row::Flying(flight) = &self.rows[row] else {
            unreachable!("only a flight's rows are asked again");
        };
        if now >= self.answers.asked().deadline {
            return self.answers.put(row, failed);
        }
        let key = flight.key().clone();
        let mut entering = Entering::at(now);
        self.board(row, key, Try::Again { latest }, &mut entering);
        self.enter(entering);
    }

    /// Gives up at the deadline. The reason of each unanswered row says how far it got.
    async fn expire(mut self) -> Outcomes {
        let mut outcomes = self.answers.abandon();
        for first in (0..outcomes.len()).step_by(ROWS_AT_ONCE) {
            if first > 0 {
                tokio::task::yield_now().await;
            }
            let chunk = first..outcomes.len().min(first + ROWS_AT_ONCE);
            self.expire_chunk(chunk, &mut outcomes);
        }
        outcomes
    }

    fn expire_chunk(&mut self, chunk: Range<usize>, outcomes: &mut Outcomes) {
        let (queue, now) = (self.version.queue, self.version.clock.now());
        let mut queued: SmallVec<[(usize, Instant); 1]> = SmallVec::new();
        let mut places: SmallVec<[Place; 1]> = SmallVec::new();
        for row in chunk {
            match std::mem::replace(&mut self.rows[row], Row::Nowhere) {
                _ if outcomes[row].is_some() => {}
                Row::Nowhere => outcomes[row] = Some(DefaultReason::ExpiredInQueue.into()),
                Row::Queued(place, since) => {
                    queued.push((row, since));
                    places.push(place);
                }
                Row::Flying(flight) => {
                    outcomes[row] = Some(flight.expire(queue, now));
                    flight.leave(queue);
                }
            }
        }
        for ((row, since), reason) in queued.into_iter().zip(queue.leave_places(now, places)) {
            outcomes[row] = Some(expired(reason, since, now));
        }
    }
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        if self.rows.is_empty() {
            return;
        }
        // Answered rows have left the queue. Only an asker that hangs up leaves rows behind.
        self.answers.abandon();
        let (queue, now) = (self.version.queue, self.version.clock.now());
        let mut places: SmallVec<[Place; 1]> = SmallVec::new();
        for row in self.rows.drain(..) {
            match row {
                Row::Nowhere => {}
                Row::Queued(place, _) => places.push(place),
                Row::Flying(flight) => flight.leave(queue),
            }
        }
        queue.leave_places(now, places);
    }
}

impl Entering {
    fn at(now: Instant) -> Self {
        Self {
            now,
            rows: SmallVec::new(),
            entrants: SmallVec::new(),
        }
    }

    fn push(&mut self, row: usize, entrant: Entrant<Task>) {
        self.rows.push(row);
        self.entrants.push(entrant);
    }
}

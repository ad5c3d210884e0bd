//! The answers to the rows of one request. Whoever asked waits for all of them at once: one wake-up and one timer,
//! however many rows there are.

use std::future::poll_fn;
use std::mem;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;
use skysail_core::query::{DefaultReason, Outcome};
use skysail_core::queue::Claim;
use skysail_core::time::Instant;
use smallvec::{SmallVec, smallvec};

/// What became of each row, in order; nothing yet of some.
pub(super) type Outcomes = SmallVec<[Option<Outcome>; 1]>;

/// What all rows of a request are asked with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked {
    /// When their answers are due.
    pub deadline: Instant,
    /// For whom they are asked.
    pub claim: Claim,
}

/// The answers that are there, and those that are still to come.
#[derive(Debug)]
pub(super) struct RowAnswers {
    asked: Asked,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    outcomes: Outcomes,
    missing: usize,
    again: Vec<Again>,
    /// Woken when all rows are answered, or when a row is to be asked again.
    asker: Option<Waker>,
    /// Nobody waits any more.
    abandoned: bool,
}

/// A row whose flight failed for a deadline that is not the row's.
#[derive(Debug)]
pub(super) struct Again {
    /// Which row.
    pub(super) row: usize,
    /// What becomes of it if there is no time left: the flight's failure.
    pub(super) failed: Outcome,
    /// The latest deadline of all who waited for the flight.
    pub(super) latest: Instant,
}

/// What becomes at its deadline of a query that was let into the queue at `since`.
pub(super) fn expired(reason: DefaultReason, since: Instant, now: Instant) -> Outcome {
    let outcome = Outcome::from(reason);
    match reason {
        DefaultReason::ExpiredInQueue => outcome.after(now.saturating_since(since)),
        // It has left the queue: when, its batch knows.
        _ => outcome,
    }
}

/// What whoever waits is woken for.
#[derive(Debug)]
pub(super) enum News {
    /// Every row is answered.
    Complete(Outcomes),
    /// These rows are to be asked again.
    Again(Vec<Again>),
}

impl RowAnswers {
    /// None is there yet.
    pub(super) fn new(rows: usize, asked: Asked) -> Arc<Self> {
        let state = State {
            outcomes: smallvec![None; rows],
            missing: rows,
            again: Vec::new(),
            asker: None,
            abandoned: false,
        };
        Arc::new(Self {
            asked,
            state: Mutex::new(state),
        })
    }

    /// What they are asked with.
    pub(super) fn asked(&self) -> Asked {
        self.asked
    }

    /// The duty to answer a row.
    pub(super) fn answerer(self: &Arc<Self>, row: usize) -> Answerer {
        Answerer {
            answers: Some(self.clone()),
            row,
        }
    }

    /// Takes the answer to a row. If nobody waits any more it is dropped.
    pub(super) fn put(&self, row: usize, outcome: Outcome) {
        let mut state = self.state.lock();
        if state.abandoned {
            return;
        }
        state.outcomes[row] = Some(outcome);
        state.missing -= 1;
        let asker = (state.missing == 0).then(|| state.asker.take()).flatten();
        drop(state);
        wake(asker);
    }

    fn put_again(&self, again: Again) {
        let mut state = self.state.lock();
        state.again.push(again);
        let asker = state.asker.take();
        drop(state);
        wake(asker);
    }

    /// Waits until every row is answered, or a row is to be asked again.
    pub(super) async fn news(&self) -> News {
        poll_fn(|context| self.state.lock().poll(context)).await
    }

    /// Takes what is there; nobody waits for the rest any more.
    pub(super) fn abandon(&self) -> Outcomes {
        let mut state = self.state.lock();
        state.abandoned = true;
        mem::take(&mut state.outcomes)
    }

    fn is_abandoned(&self) -> bool {
        self.state.lock().abandoned
    }
}

impl State {
    fn poll(&mut self, context: &Context<'_>) -> Poll<News> {
        if self.missing == 0 {
            return Poll::Ready(News::Complete(mem::take(&mut self.outcomes)));
        }
        if !self.again.is_empty() {
            return Poll::Ready(News::Again(mem::take(&mut self.again)));
        }
        match &mut self.asker {
            Some(asker) => asker.clone_from(context.waker()),
            None => self.asker = Some(context.waker().clone()),
        }
        Poll::Pending
    }
}

fn wake(asker: Option<Waker>) {
    if let Some(asker) = asker {
        asker.wake();
    }
}

/// The duty to answer one row. One that is dropped unused was lost, which only a batcher that panicked does.
#[derive(Debug)]
pub(crate) struct Answerer {
    /// Nothing once it is used.
    answers: Option<Arc<RowAnswers>>,
    row: usize,
}

impl Answerer {
    /// Gives the one answer. That nobody may be waiting for it any more is no error.
    pub(super) fn send(mut self, outcome: Outcome) {
        if let Some(answers) = self.answers.take() {
            answers.put(self.row, outcome);
        }
    }

    /// Lets the row be asked again. See [`Again`].
    pub(super) fn try_again(mut self, failed: Outcome, latest: Instant) {
        if let Some(answers) = self.answers.take() {
            let row = self.row;
            answers.put_again(Again { row, failed, latest });
        }
    }

    /// What it is asked with.
    pub(super) fn asked(&self) -> Asked {
        let answers = self.answers.as_ref();
        answers
            .expect("it is there until it is used; this is a bug")
            .asked
    }

    /// Whether nobody waits for the answer any more.
    pub(super) fn is_unwanted(&self) -> bool {
        self.answers.as_ref().is_none_or(|answers| answers.is_abandoned())
    }
}

impl Drop for Answerer {
    fn drop(&mut self) {
        if let Some(answers) = self.answers.take() {
            answers.put(self.row, DefaultReason::ReplicaLost.into());
        }
    }
}

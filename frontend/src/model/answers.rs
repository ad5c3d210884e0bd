//! The answers to the rows of one request. The asker waits for all of them at once, with one wake-up and one timer
//! for any number of rows.

use std::future::poll_fn;
use std::mem;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;
use skysail_core::query::{DefaultReason, Outcome};
use skysail_core::queue::Claim;
use skysail_core::time::Instant;
use smallvec::{SmallVec, smallvec};

/// The outcome of each row, in order; `None` until the row is answered.
pub(super) type Outcomes = SmallVec<[Option<Outcome>; 1]>;

/// What all rows of a request have in common.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked {
    /// When their answers are due.
    pub deadline: Instant,
    /// The application for which they are asked.
    pub claim: Claim,
}

/// The answers to the rows of one request, given and still missing.
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
    /// Set once nobody waits any more.
    abandoned: bool,
}

/// A row whose flight failed for a deadline earlier than the row's.
#[derive(Debug)]
pub(super) struct Again {
    /// The row's index in the request.
    pub(super) row: usize,
    /// The flight's failure. It answers the row if there is no time left.
    pub(super) failed: Outcome,
    /// The latest deadline of the flight's askers.
    pub(super) latest: Instant,
}

/// The outcome at its deadline of a query that entered the queue at `since`.
pub(super) fn expired(reason: DefaultReason, since: Instant, now: Instant) -> Outcome {
    let outcome = Outcome::from(reason);
    match reason {
        DefaultReason::ExpiredInQueue => outcome.after(now.saturating_since(since)),
        // The query has left the queue. Only its batch knows when.
        _ => outcome,
    }
}

/// Why the asker is woken.
#[derive(Debug)]
pub(super) enum News {
    /// Every row is answered.
    Complete(Outcomes),
    /// These rows are to be asked again.
    Again(Vec<Again>),
}

impl RowAnswers {
    /// The answers to `rows` rows, none given yet.
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

    /// The deadline and the claim of all rows.
    pub(super) fn asked(&self) -> Asked {
        self.asked
    }

    /// The duty to answer `row`.
    pub(super) fn answerer(self: &Arc<Self>, row: usize) -> Answerer {
        Answerer {
            answers: Some(self.clone()),
            row,
        }
    }

    /// Stores the answer to a row. Drops it if nobody waits any more.
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

    /// Takes the answers given so far. Later answers are dropped.
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

/// The duty to answer one row. Dropping it unused answers `ReplicaLost`: only a batcher that panics does that.
#[derive(Debug)]
pub(crate) struct Answerer {
    /// `None` once it is used.
    answers: Option<Arc<RowAnswers>>,
    row: usize,
}

impl Answerer {
    /// Gives the one answer. It is no error if nobody waits for it any more.
    pub(super) fn send(mut self, outcome: Outcome) {
        if let Some(answers) = self.answers.take() {
            answers.put(self.row, outcome);
        }
    }

    /// Has the row asked again. See [`Again`].
    pub(super) fn try_again(mut self, failed: Outcome, latest: Instant) {
        if let Some(answers) = self.answers.take() {
            let row = self.row;
            answers.put_again(Again { row, failed, latest });
        }
    }

    /// The deadline and the claim of its row.
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

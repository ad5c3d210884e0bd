//! What happens on a connection, counted by those who do it, so that somebody else can look.
//!
//! A request costs a few counts: no timer, no lock, no allocation.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes};
use futures::task::AtomicWaker;
use hyper::Version;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::upload::Rest;

/// How an HTTP/2 client begins, before it asks anything.
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// One connection's activity, and the word that it is to close.
#[derive(Debug)]
pub(super) struct Activity {
    /// When it was accepted.
    opened: Instant,
    /// When an answer was last handed over as a whole, in nanoseconds since it was opened.
    answered: AtomicU64,
    /// Requests whose head was there, since the beginning.
    begun: AtomicUsize,
    /// Requests whose answer was not handed over as a whole.
    open: AtomicUsize,
    /// Times that bytes went out.
    written: AtomicUsize,
    /// There are bytes that the client does not take.
    blocked: AtomicBool,
    /// Bytes came after the last answer that are no whole head yet.
    head_began: AtomicBool,
    /// Bytes come on such a connection without a request: pings, settings.
    is_http2: AtomicBool,
    /// There is a [`Self::rest`]: most requests leave none, and need not look.
    has_rest: AtomicBool,
    /// What the last request of HTTP/1 that was answered has left of its body.
    rest: Mutex<Option<Rest>>,
    /// A [`Closing`], or 0.
    closing: AtomicU8,
    connection: AtomicWaker,
}

/// Whom a connection waits for. Two that are equal mean that nothing has happened in between, as far as it
/// matters.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum State {
    /// The client, to send its first request, or the rest of the head of one.
    Asking { begun: usize },
    /// The client, to send another request.
    Idle { begun: usize },
    /// Us, to answer; or a body, which has a limit of its own.
    Answering,
    /// The client, to take what is sent.
    Taking { written: usize },
}

/// How a connection is to close.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub(super) enum Closing {
    /// After the answers under way.
    Gracefully = 1,
    /// At once.
    AtOnce = 2,
}

impl Default for Activity {
    fn default() -> Self {
        Self {
            opened: Instant::now(),
            answered: AtomicU64::default(),
            begun: AtomicUsize::default(),
            open: AtomicUsize::default(),
            written: AtomicUsize::default(),
            blocked: AtomicBool::default(),
            head_began: AtomicBool::default(),
            is_http2: AtomicBool::default(),
            has_rest: AtomicBool::default(),
            rest: Mutex::default(),
            closing: AtomicU8::default(),
            connection: AtomicWaker::default(),
        }
    }
}

impl Activity {
    pub(super) fn state(&self) -> State {
        let begun = self.begun.load(Ordering::Relaxed);
        if self.blocked.load(Ordering::Relaxed) {
            let written = self.written.load(Ordering::Relaxed);
            State::Taking { written }
        } else if self.open.load(Ordering::Relaxed) > 0 {
            State::Answering
        } else if begun == 0 || self.head_began.load(Ordering::Relaxed) {
            State::Asking { begun }
        } else {
            State::Idle { begun }
        }
    }

    /// Since when its client could have asked and has not: since it was opened, or since the last answer was
    /// handed over. Nothing while a request is under way, or an answer is not taken. A part of a head is no
    /// request: whoever sends a byte and no more has no better claim to a place than who sends none.
    pub(super) fn idle_since(&self) -> Option<Instant> {
        let is_idle = self.open.load(Ordering::Acquire) == 0 && !self.blocked.load(Ordering::Relaxed);
        let answered = Duration::from_nanos(self.answered.load(Ordering::Relaxed));
        is_idle.then(|| self.opened + answered)
    }

    /// Tells the connection to close.
    pub(super) fn close(&self, how: Closing) {
        self.closing.store(how as u8, Ordering::Relaxed);
        // It publishes what was stored before it.
        self.connection.wake();
    }

    /// Whether the connection was told to close; if not, its task will be woken when it is.
    pub(super) fn poll_closing(&self, context: &Context<'_>) -> Poll<Closing> {
        self.connection.register(context.waker());
        match self.closing.load(Ordering::Relaxed) {
            0 => Poll::Pending,
            1 => Poll::Ready(Closing::Gracefully),
            _ => Poll::Ready(Closing::AtOnce),
        }
    }

    /// A request's head is there.
    pub(super) fn begin(self: &Arc<Self>, version: Version) -> Open {
        if version == Version::HTTP_2 {
            self.is_http2.store(true, Ordering::Relaxed);
        }
        self.head_began.store(false, Ordering::Relaxed);
        self.begun.fetch_add(1, Ordering::Relaxed);
        self.open.fetch_add(1, Ordering::Relaxed);
        Open(self.clone())
    }

    /// A request of HTTP/1 does not read its body to the end.
    pub(super) fn leave(&self, rest: Rest) {
        *self.rest.lock() = Some(rest);
        self.has_rest.store(true, Ordering::Release);
    }

    /// These bytes came.
    pub(super) fn read(&self, bytes: &[u8]) {
        if self.is_http2.load(Ordering::Relaxed) {
            return;
        }
        let greets = bytes.starts_with(HTTP2_PREFACE);
        let field = if greets { &self.is_http2 } else { &self.head_began };
        field.store(true, Ordering::Relaxed);
    }

    /// Bytes went out, or could not.
    pub(super) fn wrote<T>(&self, written: &Poll<io::Result<T>>) {
        self.blocked.store(written.is_pending(), Ordering::Relaxed);
        if written.is_ready() {
            self.written.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// A request that is not answered as a whole.
pub(super) struct Open(Arc<Activity>);

impl Open {
    pub(super) fn activity(&self) -> Arc<Activity> {
        self.0.clone()
    }

    /// What was left of the request's body, if something was.
    pub(super) fn rest(&self) -> Option<Rest> {
        match self.0.has_rest.swap(false, Ordering::Acquire) {
            true => self.0.rest.lock().take(),
            false => None,
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        // What was read until now was this request's body.
        self.0.head_began.store(false, Ordering::Relaxed);
        let since_opened = self.0.opened.elapsed().as_nanos();
        let answered = u64::try_from(since_opened).unwrap_or(u64::MAX);
        self.0.answered.store(answered, Ordering::Relaxed);
        self.0.open.fetch_sub(1, Ordering::Release);
    }
}

/// An answer's body, which keeps its request open until it is handed over; only then what was left of the
/// request's body is read, so that this is no word to send it.
pub(super) struct Answer {
    body: Body,
    // Few requests leave something, and all answers are moved about.
    _rest: Option<Box<Rest>>,
    _open: Open,
}

impl Answer {
    pub(super) fn new(body: Body, rest: Option<Rest>, open: Open) -> Self {
        Self {
            body,
            _rest: rest.map(Box::new),
            _open: open,
        }
    }
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_asks_is_answered_and_is_idle_in_turn() {
        let activity = Arc::new(Activity::default());
        assert_eq!(activity.state(), State::Asking { begun: 0 });
        activity.read(b"GET");
        assert_eq!(activity.state(), State::Asking { begun: 0 });
        let open = activity.begin(Version::HTTP_11);
        assert_eq!(activity.state(), State::Answering);
        // Its body.
        activity.read(b"GET");
        assert_eq!(activity.state(), State::Answering);
        drop(open);
        assert_eq!(activity.state(), State::Idle { begun: 1 });
        activity.read(b"GET");
        assert_eq!(activity.state(), State::Asking { begun: 1 });
    }

    #[test]
    fn what_comes_on_an_idle_http2_connection_is_no_head() {
        let activity = Arc::new(Activity::default());
        drop(activity.begin(Version::HTTP_2));
        activity.read(b"GET");
        assert_eq!(activity.state(), State::Idle { begun: 1 });
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_idles_from_when_it_was_opened_or_last_answered() {
        let (activity, opened) = (Arc::new(Activity::default()), Instant::now());
        let millis = Duration::from_millis;
        tokio::time::advance(millis(5)).await;
        assert_eq!(activity.idle_since(), Some(opened));
        activity.read(b"GE");
        assert_eq!(activity.idle_since(), Some(opened), "a part of a head");
        let open = [(); 2].map(|()| activity.begin(Version::HTTP_11));
        for open in open {
            assert_eq!(activity.idle_since(), None, "a request is under way");
            tokio::time::advance(millis(5)).await;
            drop(open);
        }
        assert_eq!(activity.idle_since(), Some(opened + millis(15)));
        activity.wrote(&Poll::<io::Result<()>>::Pending);
        assert_eq!(activity.idle_since(), None, "an answer is not taken");
        // One of HTTP/2 that has greeted has not asked anything.
        let activity = Activity::default();
        activity.read(HTTP2_PREFACE);
        activity.read(b"settings");
        assert!(activity.idle_since().is_some());
        assert_eq!(activity.state(), State::Asking { begun: 0 });
    }

    #[test]
    fn a_client_that_takes_something_is_told_from_one_that_takes_nothing() {
        let activity = Activity::default();
        let (sent, stuck): (Poll<io::Result<()>>, Poll<io::Result<()>>) =
            (Poll::Ready(Ok(())), Poll::Pending);
        activity.wrote(&stuck);
        let before = activity.state();
        assert_eq!(activity.state(), before);
        activity.wrote(&sent);
        activity.wrote(&stuck);
        assert_ne!(activity.state(), before);
        activity.wrote(&sent);
        assert_eq!(activity.state(), State::Asking { begun: 0 });
    }
}

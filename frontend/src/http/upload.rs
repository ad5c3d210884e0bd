//! The body of a request as it comes, and what is left of it when the request is answered.
//!
//! On HTTP/1 the next request stands behind the body of this one, so what an answer left unread is read and
//! thrown away: the connection goes on, and a client that sends before it reads sees its answer (a connection
//! that is closed with unread data is reset). Where the rest will not be read, the answer says
//! `Connection: close`:
//!
//! - the client waits to be told to send it (`Expect: 100-continue`) and was answered instead. What comes next
//!   may be the body or another request, and nothing tells which;
//! - it is announced as larger than what is thrown away.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::header::EXPECT;
use hyper::{Request, Version};
use tokio::time::{Instant, timeout_at};

use super::activity::Activity;

/// What is read and thrown away of a body that an answer left.
const DISCARDED_BYTES: u64 = 64 * 1024 * 1024;

/// How long that may take.
const DISCARD_TIME: Duration = Duration::from_secs(30);

/// How long a client that was not told to send its body may send nothing before it is hung up on: either it
/// does not wait to be told, and sends at once, or it has its answer.
const UNASKED_SILENCE: Duration = Duration::from_secs(1);

/// The body of a request. Dropped before its end, it leaves the rest to its connection.
#[derive(Debug)]
pub(crate) struct Upload {
    /// There until it is dropped.
    body: Option<Incoming>,
    activity: Arc<Activity>,
    version: Version,
    /// The client waits to be told to send it; to read it is to tell.
    waits_to_be_asked: bool,
}

impl Upload {
    /// Puts this in place of a request's body.
    pub(super) fn of(request: Request<Incoming>, activity: Arc<Activity>) -> Request<Self> {
        let version = request.version();
        let expectation = request.headers().get(EXPECT).map(|value| value.as_bytes());
        let waits_to_be_asked = version == Version::HTTP_11
            && expectation.is_some_and(|value| value.eq_ignore_ascii_case(b"100-continue"));
        request.map(|body| Self {
            body: Some(body),
            activity,
            version,
            waits_to_be_asked,
        })
    }

    fn body(&self) -> &Incoming {
        self.body
            .as_ref()
            .expect("it is there until it is dropped; this is a bug")
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        self.waits_to_be_asked = false;
        let body = self.body.as_mut();
        let body = body.expect("it is there until it is dropped; this is a bug");
        Pin::new(body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body().is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body().size_hint()
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        let Some(body) = self.body.take().filter(|body| !body.is_end_stream()) else {
            return;
        };
        let rest = Rest {
            body: Some(body),
            silence: match self.waits_to_be_asked {
                true => UNASKED_SILENCE,
                false => DISCARD_TIME,
            },
            was_asked_for: !self.waits_to_be_asked,
        };
        // Requests of HTTP/2 do not stand behind each other; `rest` is read from now on.
        if self.version != Version::HTTP_2 {
            self.activity.leave(rest);
        }
    }
}

/// What an answer left of a body. Dropped, which is when the answer is on its way, it is read and thrown away.
#[derive(Debug)]
pub(super) struct Rest {
    /// There until it is dropped.
    body: Option<Incoming>,
    silence: Duration,
    was_asked_for: bool,
}

impl Rest {
    /// Whether the next request can be told from it.
    pub(super) fn ends(&self) -> bool {
        let announced = self.body.as_ref().map_or(0, |body| body.size_hint().lower());
        self.was_asked_for && announced <= DISCARDED_BYTES
    }

    /// Leaves it where it is, for a connection that closes at once.
    pub(super) fn abandon(mut self) {
        self.body = None;
    }
}

impl Drop for Rest {
    fn drop(&mut self) {
        let Some(body) = self.body.take() else { return };
        // Without a runtime nothing can be read any more, and nothing has to be.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(discard(body, self.silence));
        }
    }
}

async fn discard(mut body: Incoming, silence: Duration) {
    let mut left = DISCARDED_BYTES;
    let end = Instant::now() + DISCARD_TIME;
    while let Ok(Some(Ok(frame))) = timeout_at(end.min(Instant::now() + silence), body.frame()).await {
        let size = frame.data_ref().map_or(0, Bytes::len) as u64;
        if size > left {
            return;
        }
        left -= size;
    }
}

//! Bodies of requests: read as fast as the client sends, for as long as it does send.

use std::fmt::Display;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::Frame;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};

use super::encoding::{Encodings, Inflated, without_mark};

/// What a client has to send in the long run, in bytes per second: far less than any network carries, and
/// enough that a body sent a byte at a time ends.
const LEAST_RATE: u32 = 10 * 1024;

/// How many bodies of more than a little are inflated, or inflated and not parsed, at once; others wait, as they
/// came.
const INFLATED_AT_ONCE: usize = 4;

/// Why a body was not read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyError {
    /// It is larger than the limit, in bytes.
    #[error("the body is larger than {0} bytes")]
    TooLarge(usize),
    /// It is larger than the limit, in bytes, once it is inflated.
    #[error("the body is larger than {0} bytes when it is inflated")]
    InflatedTooLarge(usize),
    /// It is encoded in a way that is not taken; says which are.
    #[error("{0}")]
    Encoding(String),
    /// The client kept us waiting for it.
    #[error("the body came too slowly: {received} bytes in {} s", .waited.as_secs_f32().round())]
    TooSlow {
        /// What came of it.
        received: usize,
        /// Since it was first waited for.
        waited: Duration,
    },
    /// The connection broke, or the body's chunks are none.
    #[error("the body could not be read: {0}")]
    Broken(String),
    /// The body is not encoded as its header says.
    #[error("the body could not be read: {0}")]
    Undecodable(String),
}

/// What bodies come as: hyper's own, or what a router makes of it.
pub(crate) trait RequestBody:
    hyper::body::Body<Data = Bytes, Error: Display> + Send + Unpin + 'static
{
}

impl<B: hyper::body::Body<Data = Bytes, Error: Display> + Send + Unpin + 'static> RequestBody for B {}

/// Reads bodies.
pub(crate) struct BodyReader {
    /// The largest that is taken, in bytes.
    limit: usize,
    /// For how long a client may send nothing, and how far it may fall behind the least rate.
    timeout: Duration,
    /// Lets large bodies be inflated.
    inflating: Arc<Semaphore>,
}

impl BodyReader {
    /// Reads bodies of up to `limit` bytes. A client may send nothing for `timeout`, and fall as far behind the
    /// least rate.
    pub(crate) fn new(limit: usize, timeout: Duration) -> Self {
        Self {
            limit,
            timeout,
            inflating: Arc::new(Semaphore::new(INFLATED_AT_ONCE)),
        }
    }

    /// Makes what was meant of a body as it was read: decoded, and without a byte order mark.
    ///
    /// What is more than a little does so on a thread of its own, and only a few do at once: it is for little
    /// work that they take the memory of large bodies. Others wait until one of them is inflated, parsed and
    /// dropped.
    pub(crate) async fn decode(&self, encodings: Encodings, body: Bytes) -> Result<Bytes, BodyError> {
        let Some(inflating) = encodings.inflate(body.clone(), self.limit) else {
            return Ok(without_mark(body));
        };
        drop(body);
        let body = match inflating.begin()? {
            Inflated::Whole(body) => body,
            Inflated::Begun(inflating) => {
                let permit = self.inflating.clone().acquire_owned().await;
                let permit = permit.expect("the semaphore is never closed; this is a bug");
                let body = tokio::task::spawn_blocking(|| inflating.finish())
                    .await
                    .expect("inflating does not panic; if it did, so do we")?;
                Bytes::from_owner(Permitted {
                    body,
                    _permit: permit,
                })
            }
        };
        Ok(without_mark(body))
    }

    /// Reads a body, up to its end or the limit.
    pub(crate) async fn read(&self, body: impl RequestBody) -> Result<Bytes, BodyError> {
        let mut pieces = self.pieces(body)?;
        let (mut first, mut rest) = (Bytes::new(), BytesMut::new());
        while let Some(piece) = pieces.next().await? {
            if first.is_empty() && rest.is_empty() {
                // Most bodies come in one piece, which is used as it is.
                first = piece;
            } else {
                rest.extend_from_slice(&std::mem::take(&mut first));
                rest.extend_from_slice(&piece);
            }
        }
        Ok(if rest.is_empty() { first } else { rest.freeze() })
    }

    /// Reads a body piece by piece, for what is too large to be held as a whole. One that is announced as larger than the
    /// limit is refused at once.
    pub(crate) fn pieces<B: RequestBody>(&self, body: B) -> Result<Pieces<B>, BodyError> {
        if body.size_hint().lower() > self.limit as u64 {
            return Err(BodyError::TooLarge(self.limit));
        }
        Ok(Pieces {
            body,
            limit: self.limit,
            timeout: self.timeout,
            received: 0,
            waits_since: None,
        })
    }
}

/// A body that is read piece by piece.
pub(crate) struct Pieces<B> {
    body: B,
    limit: usize,
    timeout: Duration,
    /// Bytes so far.
    received: usize,
    /// When the client was first waited for.
    waits_since: Option<Instant>,
}

impl<B: RequestBody> Pieces<B> {
    /// The next piece; nothing at the end.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, BodyError> {
        while !self.body.is_end_stream() {
            let frame = match right_behind(self.body.frame()).await {
                Some(frame) => frame,
                None => self.waited_for().await?,
            };
            let Some(frame) = frame else { break };
            let frame = frame.map_err(|error| BodyError::Broken(error.to_string()))?;
            let Ok(data) = frame.into_data() else { continue };
            self.received += data.len();
            if self.received > self.limit {
                return Err(BodyError::TooLarge(self.limit));
            }
            return Ok(Some(data));
        }
        Ok(None)
    }

    async fn waited_for(&mut self) -> Result<Option<Result<Frame<Bytes>, B::Error>>, BodyError> {
        let since = *self.waits_since.get_or_insert_with(Instant::now);
        let due = self.due(since);
        let waited = timeout_at(due, self.body.frame()).await;
        waited.map_err(|_| BodyError::TooSlow {
            received: self.received,
            waited: since.elapsed(),
        })
    }

    /// When the next piece has to be there.
    fn due(&self, since: Instant) -> Instant {
        let earned = Duration::from_secs(self.received as u64) / LEAST_RATE;
        (since + self.timeout + earned).min(Instant::now() + self.timeout)
    }
}

/// A large inflated body, which lets the next one be inflated when it is dropped.
struct Permitted {
    body: Bytes,
    _permit: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Permitted {
    fn as_ref(&self) -> &[u8] {
        &self.body
    }
}

/// What comes at once, or when the connection was looked at once more: most bodies come right behind their
/// head, and cost no timer.
async fn right_behind<T>(coming: impl Future<Output = T>) -> Option<T> {
    let mut coming = pin!(coming);
    let mut looked_before = false;
    poll_fn(|context| match coming.as_mut().poll(context) {
        Poll::Ready(come) => Poll::Ready(Some(come)),
        Poll::Pending if looked_before => Poll::Ready(None),
        Poll::Pending => {
            looked_before = true;
            context.waker().wake_by_ref();
            Poll::Pending
        }
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use axum::body::Body;
    use futures::{StreamExt, stream};

    use super::*;

    fn reader(timeout: Duration) -> BodyReader {
        BodyReader::new(1000, timeout)
    }

    /// A body of which a piece of this size comes in each pause, for ever.
    fn paced(bytes: usize, pause: Duration) -> Body {
        Body::from_stream(stream::repeat(()).then(move |()| async move {
            tokio::time::sleep(pause).await;
            Ok::<_, Infallible>(vec![b' '; bytes])
        }))
    }

    #[tokio::test]
    async fn few_large_inflated_bodies_are_there_at_once() {
        use std::io::Write;
        let bodies = BodyReader::new(1 << 20, Duration::from_secs(5));
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(&vec![b' '; 1 << 20]).unwrap();
        let body = Bytes::from(encoder.finish().unwrap());
        let mut headers = axum::http::HeaderMap::new();
        headers.insert("content-encoding", "gzip".parse().unwrap());
        let decode = || bodies.decode(Encodings::of(&headers).unwrap(), body.clone());
        let mut held = Vec::new();
        for _ in 0..INFLATED_AT_ONCE {
            held.push(decode().await.unwrap());
        }
        let mut next = pin!(decode());
        assert!(futures::poll!(next.as_mut()).is_pending());
        assert_eq!(bodies.inflating.available_permits(), 0);
        held.pop();
        assert_eq!(next.await.unwrap().len(), 1 << 20);
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_comes_in_pieces_is_put_together() {
        let pieces = ["", "a", "bc", "", "def"].map(Ok::<_, Infallible>);
        let body = Body::from_stream(stream::iter(pieces));
        assert_eq!(reader(Duration::from_secs(1)).read(body).await.unwrap(), "abcdef");
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_sends_nothing_is_given_up_after_the_timeout() {
        let began = Instant::now();
        let silence = Body::from_stream(stream::pending::<Result<Bytes, Infallible>>());
        let error = reader(Duration::from_secs(5)).read(silence).await.unwrap_err();
        assert!(matches!(error, BodyError::TooSlow { received: 0, .. }), "{error}");
        assert!(error.to_string().contains("0 bytes in 5 s"), "{error}");
        assert_eq!(began.elapsed().as_secs(), 5);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_sends_a_byte_at_a_time_is_given_up_too() {
        let began = Instant::now();
        let body = paced(1, Duration::from_millis(100));
        let error = reader(Duration::from_secs(5)).read(body).await.unwrap_err();
        assert!(
            matches!(error, BodyError::TooSlow { received: 50, .. }),
            "{error}"
        );
        assert_eq!(began.elapsed().as_secs(), 5);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_keeps_the_least_rate_may_take_its_time() {
        let mut patient = reader(Duration::from_secs(5));
        patient.limit = 100 * LEAST_RATE as usize;
        let error = patient
            .read(paced(LEAST_RATE as usize, Duration::from_secs(1)))
            .await
            .unwrap_err();
        // It never ends, so it grows too large, long after the timeout.
        assert!(matches!(error, BodyError::TooLarge(_)), "{error}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_stalls_is_given_up_however_much_it_has_sent() {
        let began = Instant::now();
        let begun = stream::iter([Ok::<_, Infallible>(vec![b' '; 900])]).chain(stream::pending());
        let error = reader(Duration::from_millis(10))
            .read(Body::from_stream(begun))
            .await
            .unwrap_err();
        assert!(
            matches!(error, BodyError::TooSlow { received: 900, .. }),
            "{error}"
        );
        assert!(began.elapsed() < Duration::from_millis(20));
    }
}

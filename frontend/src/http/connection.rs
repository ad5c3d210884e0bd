//! One connection: served until its client ends it, or it is told to close.

use std::convert::Infallible;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use hyper::body::Incoming;
use hyper::header::{HeaderMap, HeaderValue};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tracing::debug;

use super::activity::{Activity, Answer, Closing, Open, State};
use super::upload::Upload;
use super::warden::Timeouts;
use super::{Answers, CLOSES};

/// Requests at once on one HTTP/2 connection; a client that has more lets them wait.
const HTTP2_STREAMS: u32 = 1000;

/// How long a connection that is to close may wait for its client, in which nothing happens.
pub(super) const CLOSING_TIME: Duration = Duration::from_secs(1);

/// Serves connections of one server.
#[derive(Clone)]
pub(super) struct Connections<A> {
    builder: Builder<TokioExecutor>,
    answers: A,
}

impl<A: Answers> Connections<A> {
    pub(super) fn new(answers: A, timeouts: Timeouts) -> Self {
        let mut builder = Builder::new(TokioExecutor::new());
        builder
            .http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(HTTP2_STREAMS)
            // A peer that is gone without a word answers no ping.
            .keep_alive_interval(timeouts.client)
            .keep_alive_timeout(timeouts.client);
        Self { builder, answers }
    }

    /// Serves one connection to its end.
    pub(super) async fn serve(self, stream: TcpStream, activity: Arc<Activity>) {
        let service = service_fn(|request: Request<Incoming>| {
            let open = activity.begin(request.version());
            let answers = self.answers.clone();
            async move {
                let request = Upload::of(request, open.activity());
                let answer = answers.answer(request).await;
                Ok::<_, Infallible>(with_rest(answer, open))
            }
        });
        let stream = Counted {
            stream,
            activity: activity.clone(),
        };
        let mut connection = pin!(self.builder.serve_connection(TokioIo::new(stream), service));
        let told = poll_fn(|context| activity.poll_closing(context));
        tokio::select! {
            biased;
            ended = connection.as_mut() => return log_end(ended),
            closing = told => if closing == Closing::AtOnce {
                return;
            }
        }
        connection.as_mut().graceful_shutdown();
        let mut before = activity.state();
        loop {
            if let Ok(ended) = timeout(CLOSING_TIME, connection.as_mut()).await {
                return log_end(ended);
            }
            let state = activity.state();
            if state == before && state != State::Answering {
                return;
            }
            before = state;
        }
    }
}

/// An answer with what it left of its request's body.
fn with_rest(mut answer: Response<Body>, open: Open) -> Response<Answer> {
    let rest = match open.rest() {
        Some(rest) if closes(answer.headers()) => {
            rest.abandon();
            None
        }
        Some(rest) if !rest.ends() => {
            let [(name, value)] = CLOSES;
            answer.headers_mut().insert(name, HeaderValue::from_static(value));
            Some(rest)
        }
        rest => rest,
    };
    answer.map(|body| Answer::new(body, rest, open))
}

fn closes(headers: &HeaderMap) -> bool {
    let [(name, value)] = CLOSES;
    headers.get(name).is_some_and(|said| said == value)
}

fn log_end<E: std::fmt::Display>(ended: Result<(), E>) {
    if let Err(error) = ended {
        debug!(%error, "connection ended");
    }
}

/// A stream that counts what goes through it.
struct Counted {
    stream: TcpStream,
    activity: Arc<Activity>,
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        if buffer.filled().len() > before {
            self.activity.read(&buffer.filled()[before..]);
        }
        read
    }
}

impl AsyncWrite for Counted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.activity.wrote(&written);
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.activity.wrote(&written);
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

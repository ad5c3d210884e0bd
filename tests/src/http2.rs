//! HTTP/2 without TLS: many requests at once on one connection.

use std::convert::Infallible;
use std::net::SocketAddr;

use bytes::Bytes;
use futures::stream::{self, StreamExt};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::Request;
use hyper::body::Frame;
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper::header::EXPECT;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;

use crate::rest::Reply;

/// One connection; clones share it. Dropping a request's future takes the request back.
#[derive(Clone)]
pub struct Http2 {
    requests: SendRequest<BoxBody<Bytes, Infallible>>,
    addr: SocketAddr,
}

impl Http2 {
    /// Connects.
    pub async fn to(addr: SocketAddr) -> Self {
        let stream = TcpStream::connect(addr).await.expect("connected");
        let shaken = handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
        let (requests, connection) = shaken.expect("an HTTP/2 server");
        tokio::spawn(connection);
        Self { requests, addr }
    }

    /// Whether the server has closed the connection, or asked to hang up.
    pub fn is_closed(&self) -> bool {
        self.requests.is_closed() || !self.requests.is_ready()
    }

    /// `GET`.
    pub async fn get(&self, path: &str) -> Reply {
        self.send("GET", path, "", Full::default().boxed()).await
    }

    /// `GET` by this name, as `:authority`.
    pub async fn get_at(&self, authority: &str, path: &str) -> Reply {
        let request = Request::builder().uri(format!("http://{authority}{path}"));
        let request = request.body(Full::default().boxed()).expect("a request");
        self.exchange(request).await
    }

    /// `POST` with a body.
    pub async fn post(&self, path: &str, body: impl Into<Bytes>) -> Reply {
        self.send("POST", path, "", Full::new(body.into()).boxed()).await
    }

    /// `POST` with a body and an `Expect: 100-continue`, without waiting to be asked for it.
    pub async fn post_expecting(&self, path: &str, body: impl Into<Bytes>) -> Reply {
        let body = Full::new(body.into()).boxed();
        self.send("POST", path, "100-continue", body).await
    }

    /// `POST` with a body that begins and never ends.
    pub async fn post_begun(&self, path: &str, begun: &'static str) -> Reply {
        let begun = stream::iter([Ok(Frame::data(Bytes::from(begun)))]);
        let endless = StreamBody::new(begun.chain(stream::pending()));
        self.send("POST", path, "", BodyExt::boxed(endless)).await
    }

    async fn send(&self, method: &str, path: &str, expect: &str, body: BoxBody<Bytes, Infallible>) -> Reply {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("http://{}{path}", self.addr));
        if !expect.is_empty() {
            request = request.header(EXPECT, expect);
        }
        self.exchange(request.body(body).expect("a request")).await
    }

    async fn exchange(&self, request: Request<BoxBody<Bytes, Infallible>>) -> Reply {
        let what = format!("{} {}", request.method(), request.uri());
        let response = self.requests.clone().send_request(request).await;
        let response = response.unwrap_or_else(|error| panic!("{what}: {error:?}"));
        let (head, body) = response.into_parts();
        let body = body.collect().await.expect("a whole body").to_bytes();
        let text = String::from_utf8(body.into()).expect("text");
        Reply::new(head.status.as_u16(), head.headers, text)
    }
}

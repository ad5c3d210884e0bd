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
use hyper::header::CONTENT_TYPE;
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
        self.send("GET", path, Full::default().boxed()).await
    }

    /// `POST` with a body.
    pub async fn post(&self, path: &str, body: impl Into<Bytes>) -> Reply {
        self.send("POST", path, Full::new(body.into()).boxed()).await
    }

    /// `POST` with a body that begins and never ends.
    pub async fn post_begun(&self, path: &str, begun: &'static str) -> Reply {
        let begun = stream::iter([Ok(Frame::data(Bytes::from(begun)))]);
        let endless = StreamBody::new(begun.chain(stream::pending()));
        self.send("POST", path, BodyExt::boxed(endless)).await
    }

    async fn send(&self, method: &str, path: &str, body: BoxBody<Bytes, Infallible>) -> Reply {
        let request = Request::builder()
            .method(method)
            .uri(format!("http://{}{path}", self.addr))
            .body(body)
            .expect("a request");
        let response = self.requests.clone().send_request(request).await;
        let response = response.unwrap_or_else(|error| panic!("{method} {path}: {error:?}"));
        let content_type = response.headers().get(CONTENT_TYPE);
        let content_type = content_type.and_then(|value| value.to_str().ok());
        Reply {
            status: response.status().as_u16(),
            content_type: content_type.unwrap_or_default().to_owned(),
            text: {
                let body = response.into_body().collect().await.expect("a whole body");
                String::from_utf8(body.to_bytes().into()).expect("text")
            },
        }
    }
}

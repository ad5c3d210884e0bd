//! One keep-alive connection to the query API.
//!
//! Leaner than a client with a pool, for which tens of thousands of queries a second are too many for one
//! core: a connection is driven by the task of the query that holds it, without a task of its own.

use std::io;
use std::net::SocketAddr;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{CONTENT_TYPE, HOST, HeaderValue, USER_AGENT};
use hyper::{Method, Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use reqwest::Url;
use skysail_proto::ids::ApplicationName;
use tokio::net::TcpStream;

/// Where queries go, and how they are addressed.
#[derive(Debug)]
pub(crate) struct Target {
    address: SocketAddr,
    host: HeaderValue,
    path: Uri,
}

/// A connection on which one query at a time is asked.
pub(super) struct Connection {
    sender: SendRequest<Full<Bytes>>,
    /// What reads and writes, boxed because connections are handed from task to task.
    driver: Box<http1::Connection<TokioIo<TcpStream>, Full<Bytes>>>,
}

/// Why a query got no answer from a connection.
pub(super) enum Lost {
    /// The connection had been closed before; nothing was sent.
    Unsent,
    /// It broke while the query was on it.
    Broken,
}

impl Target {
    /// Finds the server of `url`; the connection with which it was found is the first.
    pub(super) async fn find(url: &Url, application: &ApplicationName) -> io::Result<(Self, Connection)> {
        let host = url.host_str().unwrap_or_default();
        let port = url.port_or_known_default().unwrap_or(80);
        // Connecting tries every address of a name; from then on the one that answered is used.
        let stream = TcpStream::connect((host.trim_matches(['[', ']']), port)).await?;
        let path = format!("{}/{application}/predict", url.path().trim_end_matches('/'));
        let target = Self {
            address: stream.peer_addr()?,
            host: HeaderValue::try_from(url.authority()).map_err(io::Error::other)?,
            path: path.try_into().map_err(io::Error::other)?,
        };
        let connection = Connection::over(stream).await?;
        Ok((target, connection))
    }

    pub(super) async fn connect(&self) -> io::Result<Connection> {
        Connection::over(TcpStream::connect(self.address).await?).await
    }

    fn request(&self, body: Bytes) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.path.clone();
        let headers = request.headers_mut();
        headers.insert(HOST, self.host.clone());
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(
            USER_AGENT,
            HeaderValue::from_static(concat!("skysail/", env!("CARGO_PKG_VERSION"))),
        );
        request
    }
}

impl Connection {
    async fn over(stream: TcpStream) -> io::Result<Self> {
        // A query is one small write that must not wait for another.
        stream.set_nodelay(true)?;
        let (sender, driver) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(io::Error::other)?;
        Ok(Self {
            sender,
            driver: Box::new(driver),
        })
    }

    /// Asks, and returns the whole answer, with the connection if it can be used again.
    pub(super) async fn ask(
        self,
        target: &Target,
        body: Bytes,
    ) -> (Result<(StatusCode, Bytes), Lost>, Option<Self>) {
        let Self {
            mut sender,
            mut driver,
        } = self;
        let mut exchange = Box::pin(exchange(&mut sender, target.request(body)));
        let answer = tokio::select! {
            biased;
            _ = &mut driver => None,
            answer = &mut exchange => Some(answer),
        };
        let Some(answer) = answer else {
            // What ended the connection may have brought the answer before; nothing else comes.
            drop(driver);
            return (exchange.await, None);
        };
        drop(exchange);
        let whole = answer.is_ok();
        (answer, whole.then_some(Self { sender, driver }))
    }
}

async fn exchange(
    sender: &mut SendRequest<Full<Bytes>>,
    request: Request<Full<Bytes>>,
) -> Result<(StatusCode, Bytes), Lost> {
    sender.ready().await.map_err(|_| Lost::Unsent)?;
    let response = sender.try_send_request(request).await.map_err(|error| {
        if error.message().is_some() {
            Lost::Unsent
        } else {
            Lost::Broken
        }
    })?;
    let (head, body) = response.into_parts();
    let body = body.collect().await.map_err(|_| Lost::Broken)?;
    Ok((head.status, body.to_bytes()))
}

//! HTTP/1.1 written by hand on one connection: what no well-behaved client sends, and proof that the same
//! connection goes on afterwards.

use std::io;
use std::net::SocketAddr;

use futures::FutureExt;
use reqwest::header::{CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use crate::rest::Reply;
use crate::wait::{PATIENCE, within};

/// One connection. A client that writes all of a request before it reads a byte of the reply.
pub struct Wire {
    stream: BufReader<TcpStream>,
    addr: SocketAddr,
}

impl Wire {
    /// Connects.
    pub async fn to(addr: SocketAddr) -> Self {
        let stream = BufReader::new(TcpStream::connect(addr).await.expect("connected"));
        Self { stream, addr }
    }

    /// Writes these bytes.
    pub async fn write(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.stream.get_mut().write_all(bytes.as_ref()).await
    }

    /// Reads one reply with a Content-Length.
    pub async fn read(&mut self) -> Reply {
        let reply = within("a reply", PATIENCE, self.read_reply()).await;
        reply.unwrap_or_else(|error| panic!("the connection ended without a reply: {error}"))
    }

    /// Says that nothing more will be sent, and goes on reading.
    pub async fn end_sending(&mut self) {
        self.stream
            .get_mut()
            .shutdown()
            .await
            .expect("the sending side is closed");
    }

    /// Sends a request and reads its reply.
    pub async fn request(&mut self, method: &str, path: &str, body: impl AsRef<[u8]>) -> Reply {
        self.request_with("", method, path, body).await
    }

    /// Sends a request with these further header lines, each with its end, and reads its reply. The body is
    /// JSON unless one of them says otherwise.
    pub async fn request_with(
        &mut self,
        headers: &str,
        method: &str,
        path: &str,
        body: impl AsRef<[u8]>,
    ) -> Reply {
        let body = body.as_ref();
        let length = format!("Content-Length: {}", body.len());
        let mut lines = vec![length.as_str()];
        lines.extend(headers.lines());
        if !headers.to_ascii_lowercase().contains("content-type:") {
            lines.push("Content-Type: application/json");
        }
        self.head(method, path, &lines).await;
        self.write(body).await.expect("the body is written");
        self.read().await
    }

    /// Sends the head of a request with these lines, and a Host.
    pub async fn head(&mut self, method: &str, path: &str, lines: &[&str]) {
        let host = self.addr;
        let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\n");
        for line in lines {
            head.extend([line, "\r\n"]);
        }
        head.push_str("\r\n");
        self.write(head).await.expect("the head is written");
    }

    /// Sends a body in chunks, without saying how long it will be, and reads the reply.
    pub async fn chunked(&mut self, path: &str, chunks: impl IntoIterator<Item = Vec<u8>>) -> Reply {
        self.head("POST", path, &["Transfer-Encoding: chunked"]).await;
        for chunk in chunks {
            self.write(format!("{:x}\r\n", chunk.len()))
                .await
                .expect("a chunk is announced");
            self.write(chunk).await.expect("a chunk is written");
            self.write("\r\n").await.expect("a chunk ends");
        }
        self.write("0\r\n\r\n").await.expect("the body ends");
        self.read().await
    }

    /// Reads this many bytes, whatever they are.
    pub async fn read_bytes(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        within("more bytes", PATIENCE, self.stream.read_exact(&mut bytes))
            .await
            .expect("the connection goes on");
        bytes
    }

    /// Whether there is something to read by now, be it the end.
    pub fn has_something(&mut self) -> bool {
        self.stream.fill_buf().now_or_never().is_some()
    }

    /// Waits until the server has closed the connection, and returns what came before.
    pub async fn closed(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        // A connection that is closed before all was read is reset.
        let _ = within(
            "the connection to close",
            PATIENCE,
            self.stream.read_to_end(&mut bytes),
        )
        .await;
        bytes
    }

    async fn read_reply(&mut self) -> io::Result<Reply> {
        let status_line = self.line().await?;
        let status = status_line
            .split(' ')
            .nth(1)
            .and_then(|status| status.parse().ok());
        let status = status.ok_or_else(|| io::Error::other(format!("no status line: {status_line:?}")))?;
        let (mut length, mut headers) = (0, HeaderMap::new());
        while let Some((name, value)) = self.line().await?.split_once(": ") {
            let name: HeaderName = name.parse().map_err(io::Error::other)?;
            if name == CONTENT_LENGTH {
                length = value.parse().map_err(io::Error::other)?;
            }
            headers.append(name, HeaderValue::from_str(value).map_err(io::Error::other)?);
        }
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body).await?;
        let text = String::from_utf8(body).map_err(io::Error::other)?;
        Ok(Reply::new(status, headers, text))
    }

    async fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        match self.stream.read_line(&mut line).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(line.trim_end().to_owned()),
        }
    }
}

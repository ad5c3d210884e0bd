//! The sender that is built in, for machines without `wrk`.
//!
//! It does as little as `wrk` does, because what a sender costs hides what the servers differ in: requests
//! are bytes that are there already, and of an answer no more is understood than where it ends.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, ensure};
use futures::future::{join_all, try_join_all};
use hdrhistogram::Histogram;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::request::{Asks, Request};
use super::sender::{Answers, Load};

/// The headers that an answer may have.
const MOST_HEADERS: usize = 32;

/// A request that takes longer than the longest of an hour counts as that.
const LONGEST_MICROS: u64 = 3_600_000_000;

pub(super) async fn send(load: Load) -> anyhow::Result<Answers> {
    let addr = addr(&load.request)?;
    let first = load.asks.first();
    let threads = (0..load.threads).map(|thread| {
        let part = Share {
            addr,
            request: load.request.clone(),
            asks: load.asks,
            first: first + (thread * load.connections) as u64 * load.asks.apart(),
            connections: share(load.connections, load.threads, thread),
            lasts: load.lasts,
        };
        tokio::task::spawn_blocking(move || part.send())
    });
    let mut all = Seen::new();
    for seen in try_join_all(threads).await? {
        all.add(&seen?);
    }
    ensure!(!all.latencies.is_empty(), "nothing was answered");
    Ok(Answers {
        count: all.latencies.len(),
        seconds: all.lasted.as_secs_f64(),
        p50_micros: all.latencies.value_at_quantile(0.5) as f64,
        p99_micros: all.latencies.value_at_quantile(0.99) as f64,
        failed: all.failed,
    })
}

/// The connections of a thread; the first threads have one more, if they cannot be shared out evenly.
fn share(connections: usize, threads: usize, thread: usize) -> usize {
    (connections + threads - 1 - thread) / threads
}

fn addr(request: &Request) -> anyhow::Result<SocketAddr> {
    let host = request.head.lines().find_map(|line| line.strip_prefix("Host: "));
    Ok(host.context("a request names its host")?.parse()?)
}

/// What one thread sends.
struct Share {
    addr: SocketAddr,
    request: Request,
    asks: Asks,
    first: u64,
    connections: usize,
    lasts: Duration,
}

/// What a connection, a thread or all of them saw.
struct Seen {
    /// In microseconds.
    latencies: Histogram<u64>,
    failed: u64,
    lasted: Duration,
}

impl Seen {
    fn new() -> Self {
        let latencies = Histogram::new_with_bounds(1, LONGEST_MICROS, 3);
        Self {
            latencies: latencies.expect("the bounds and digits are valid; this is a bug"),
            failed: 0,
            lasted: Duration::ZERO,
        }
    }

    fn add(&mut self, other: &Self) {
        let added = self.latencies.add(&other.latencies);
        added.expect("all histograms have the same bounds; this is a bug");
        self.failed += other.failed;
        self.lasted = self.lasted.max(other.lasted);
    }
}

impl Share {
    fn send(&self) -> anyhow::Result<Seen> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(async {
            let connections = (0..self.connections).map(|_| Connection::open(self.addr));
            let connections = try_join_all(connections).await?;
            let start = Instant::now();
            let loops = connections.into_iter().enumerate().map(|(index, connection)| {
                let first = self.first + index as u64 * self.asks.apart();
                self.repeat(connection, first, start)
            });
            let mut all = Seen::new();
            for seen in join_all(loops).await {
                all.add(&seen);
            }
            Ok(all)
        })
    }

    /// Asks and asks again until the time is over.
    async fn repeat(&self, mut connection: Connection, mut number: u64, start: Instant) -> Seen {
        let mut seen = Seen::new();
        let mut request = self.request.bytes(number);
        let mut before = start;
        while seen.lasted < self.lasts {
            number += self.asks.step();
            self.request.renumber(&mut request, number);
            let status = connection.exchange(&request).await;
            let now = Instant::now();
            seen.lasted = now - start;
            match status {
                Ok(200) => seen
                    .latencies
                    .saturating_record((now - before).as_micros() as u64),
                Ok(_) => seen.failed += 1,
                Err(_) => {
                    seen.failed += 1;
                    return seen;
                }
            }
            before = now;
        }
        seen
    }
}

struct Connection {
    stream: TcpStream,
    received: Vec<u8>,
}

impl Connection {
    async fn open(addr: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(addr).await?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            received: Vec::with_capacity(4096),
        })
    }

    /// Sends a request, reads its whole answer and returns the status.
    async fn exchange(&mut self, request: &[u8]) -> io::Result<u16> {
        self.stream.write_all(request).await?;
        self.received.clear();
        loop {
            if self.stream.read_buf(&mut self.received).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if let Some(answer) = Answer::parse(&self.received).map_err(io::Error::other)?
                && answer.length <= self.received.len()
            {
                return Ok(answer.status);
            }
        }
    }
}

/// What the head of an answer says.
#[derive(Debug, Eq, PartialEq)]
struct Answer {
    status: u16,
    /// Of head and body, in bytes.
    length: usize,
}

impl Answer {
    /// Reads the head of an answer; none if it is not all there yet.
    fn parse(received: &[u8]) -> anyhow::Result<Option<Self>> {
        let mut headers = [httparse::EMPTY_HEADER; MOST_HEADERS];
        let mut response = httparse::Response::new(&mut headers);
        let httparse::Status::Complete(head) = response.parse(received)? else {
            return Ok(None);
        };
        let status = response.code.context("an answer has a status")?;
        let mut headers = response.headers.iter();
        let length = headers.find(|header| header.name.eq_ignore_ascii_case("content-length"));
        // Neither server sends chunks; one that did could not be followed here.
        let length = length.context("the answer does not say how long it is")?.value;
        let length: usize = std::str::from_utf8(length)?.parse()?;
        Ok(Some(Self {
            status,
            length: head + length,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_as_long_as_its_head_says() {
        let head = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n";
        let whole = Answer {
            status: 200,
            length: head.len() + 2,
        };
        let whole = Some(whole);
        assert_eq!(Answer::parse(format!("{head}{{}}").as_bytes()).unwrap(), whole);
        assert_eq!(
            Answer::parse(head.as_bytes()).unwrap(),
            whole,
            "the body is yet to come"
        );
        assert_eq!(Answer::parse(&head.as_bytes()[..20]).unwrap(), None);
        assert!(
            Answer::parse(b"HTTP/1.1 200 OK\r\n\r\n").is_err(),
            "it does not say"
        );
    }

    #[test]
    fn connections_are_shared_out_to_the_last() {
        for (connections, threads) in [(64, 1), (64, 3), (1, 1), (5, 4)] {
            let shares: Vec<_> = (0..threads)
                .map(|thread| share(connections, threads, thread))
                .collect();
            assert_eq!(shares.iter().sum::<usize>(), connections, "{shares:?}");
            assert!(shares[0] - shares[threads - 1] <= 1, "{shares:?}");
        }
    }
}

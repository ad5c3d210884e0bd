//! A sustained load in an open loop: queries come when they come, whatever becomes of those before.
//!
//! It asks several frontends in turn, as applications do behind a balancer: a query that fails inside a
//! frontend that is made to fail is asked again elsewhere, and a frontend that failed is left out for a
//! moment. It sends from a thread of its own, so that what a test does meanwhile does not hold it up.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::{JoinSet, LocalSet};
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::journal::{Account, Attempt, End, Journal, Question, Verdict};
use crate::wait;

/// How long after its deadline an answer is still waited for.
const PATIENCE: Duration = Duration::from_millis(400);

/// How long a frontend that failed is left out while another is there.
const SHUNNED_FOR: Duration = Duration::from_millis(250);

/// A query that has failed in so many frontends is given up.
const TRIES: usize = 6;

/// A connection that nobody used for so long is not used again: the server may be about to close it.
const KEPT_FOR: Duration = Duration::from_secs(20);

/// The longest reply; what is longer is none of ours.
const REPLY_BYTES: usize = 16 * 1024;

/// What is asked, of whom and how often.
#[derive(Clone, Debug)]
pub struct Load {
    /// The application.
    pub application: String,
    /// Its latency objective.
    pub slo: Duration,
    /// Its default output; no number, which would come back as one.
    pub default_output: String,
    /// Queries a second; they come at random (a Poisson process).
    pub per_second: f64,
    /// Decides when queries come and what they ask.
    pub seed: u64,
}

/// A load that is being sent. Dropping it ends it.
pub struct Running {
    shared: Arc<Shared>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

struct Shared {
    journal: Mutex<Journal>,
    frontends: Mutex<Vec<SocketAddr>>,
}

impl Load {
    /// Begins to send to the query APIs at these addresses.
    pub fn start(self, frontends: Vec<SocketAddr>) -> Running {
        let shared = Arc::new(Shared {
            journal: Mutex::new(Journal::new(self.slo, self.default_output.clone())),
            frontends: Mutex::new(frontends),
        });
        let (stop, stopped) = oneshot::channel();
        let sender = Arc::clone(&shared);
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.expect("a tokio runtime");
            LocalSet::new().block_on(&runtime, self.send(sender, stopped));
        });
        Running {
            shared,
            stop: Some(stop),
            thread: Some(thread),
        }
    }

    async fn send(self, shared: Arc<Shared>, mut stopped: oneshot::Receiver<()>) {
        let mut random = fastrand::Rng::with_seed(self.seed);
        let sender = Rc::new(Sender {
            application: self.application,
            slo: self.slo,
            pools: RefCell::default(),
            shared,
        });
        let mut queries = JoinSet::new();
        let mut due = Instant::now();
        for number in 0.. {
            due += Duration::from_secs_f64(-(1.0 - random.f64()).ln() / self.per_second);
            tokio::select! {
                () = sleep_until(due) => {}
                _ = &mut stopped => break,
            }
            while queries.try_join_next().is_some() {}
            let question = Question::new(self.seed, number);
            queries.spawn_local(Rc::clone(&sender).settle(question));
        }
        while queries.join_next().await.is_some() {}
        sender.look_for_strays();
    }
}

impl Running {
    /// The frontend at this place among those the load began with is made to fail from now on.
    pub fn disturb(&self, frontend: usize) {
        self.shared.journal.lock().disturb(frontend);
    }

    /// It serves again, at this address.
    pub fn calm(&self, frontend: usize, addr: SocketAddr) {
        self.shared.frontends.lock()[frontend] = addr;
        self.shared.journal.lock().calm(frontend);
    }

    /// The counts so far.
    pub fn so_far(&self) -> Account {
        self.shared.journal.lock().so_far().clone()
    }

    /// Waits until so many more queries were asked.
    pub async fn more(&self, count: u64) {
        let enough = self.so_far().asked + count;
        wait::until("more queries to be asked", wait::PATIENCE, async || {
            self.shared.journal.lock().so_far().asked >= enough
        })
        .await;
    }

    /// Sends no more, waits for what is under way, and returns the counts.
    pub async fn finish(mut self) -> Account {
        drop(self.stop.take());
        let thread = self.thread.take().expect("it was not finished before");
        let joined = tokio::task::spawn_blocking(move || thread.join());
        let joined = wait::within("the last queries to end", wait::PATIENCE, joined).await;
        let sent = joined.expect("joining a thread does not panic");
        sent.expect("the sender does not panic");
        let shared = Arc::clone(&self.shared);
        drop(self);
        let shared = Arc::into_inner(shared).expect("the sender has ended");
        shared.journal.into_inner().close()
    }
}

/// What the queries of a load share.
struct Sender {
    application: String,
    slo: Duration,
    pools: RefCell<Vec<Pool>>,
    shared: Arc<Shared>,
}

/// The connections to one frontend, and whether it is left out for the moment.
#[derive(Default)]
struct Pool {
    idle: Vec<(Connection, Instant)>,
    shunned_until: Option<Instant>,
}

impl Sender {
    /// Asks until there is an answer, or none to be hoped for.
    async fn settle(self: Rc<Self>, question: Question) {
        self.shared.journal.lock().ask(&question);
        let mut last = None;
        for _ in 0..TRIES {
            let (frontend, addr) = self.choose(question.number, last);
            let attempt = self.ask(&question, frontend, addr).await;
            if matches!(
                attempt.end,
                End::Broken(_) | End::Silence | End::Replied { status: 503, .. }
            ) {
                self.shun(frontend);
            }
            if self.shared.journal.lock().note(&question, &attempt) == Verdict::Settled {
                return;
            }
            last = Some(frontend);
        }
    }

    /// Frontends in turn, without those that are left out unless there is no other, and not the last one twice.
    fn choose(&self, number: u64, last: Option<usize>) -> (usize, SocketAddr) {
        let frontends = self.shared.frontends.lock();
        let mut pools = self.pools.borrow_mut();
        pools.resize_with(frontends.len(), Pool::default);
        let now = Instant::now();
        let turn = usize::try_from(number % frontends.len() as u64).expect("a place among them");
        let in_turn = (0..frontends.len()).map(|step| (turn + step) % frontends.len());
        let worst = |frontend: &usize| {
            let shunned = pools[*frontend].shunned_until.is_some_and(|until| now < until);
            (Some(*frontend) == last, shunned)
        };
        let chosen = in_turn.min_by_key(worst).expect("there is a frontend");
        (chosen, frontends[chosen])
    }

    fn shun(&self, frontend: usize) {
        let pool = &mut self.pools.borrow_mut()[frontend];
        pool.shunned_until = Some(Instant::now() + SHUNNED_FOR);
        pool.idle.clear();
    }

    async fn ask(&self, question: &Question, frontend: usize, addr: SocketAddr) -> Attempt {
        let idle = self.idle(frontend, addr);
        let sent = Instant::now();
        let request = self.request(question, addr);
        let exchange = async {
            let mut connection = match idle {
                Some(connection) => connection,
                None => Connection::open(addr).await?,
            };
            let reply = connection.ask(&request).await?;
            io::Result::Ok((connection, reply))
        };
        let end = match timeout_at(sent + self.slo + PATIENCE, exchange).await {
            Err(_) => End::Silence,
            Ok(Err(error)) => End::Broken(error.to_string()),
            Ok(Ok((connection, reply))) => {
                if reply.extra {
                    self.shared.journal.lock().note_stray(frontend);
                } else if !reply.closes {
                    let kept = (connection, Instant::now());
                    self.pools.borrow_mut()[frontend].idle.push(kept);
                }
                End::Replied {
                    status: reply.status,
                    body: reply.body,
                }
            }
        };
        Attempt {
            frontend,
            sent,
            ended: Instant::now(),
            end,
        }
    }

    /// A connection that is open and still; one with something on it that nobody asked for is told of.
    fn idle(&self, frontend: usize, addr: SocketAddr) -> Option<Connection> {
        let mut pools = self.pools.borrow_mut();
        while let Some((connection, since)) = pools[frontend].idle.pop() {
            match connection.now() {
                Now::Still if connection.addr == addr && since.elapsed() < KEPT_FOR => {
                    return Some(connection);
                }
                Now::Stray => self.shared.journal.lock().note_stray(frontend),
                Now::Still | Now::Closed => {}
            }
        }
        None
    }

    fn look_for_strays(&self) {
        for (frontend, pool) in self.pools.borrow().iter().enumerate() {
            let strays = pool.idle.iter().filter(|(idle, _)| idle.now() == Now::Stray);
            strays.for_each(|_| self.shared.journal.lock().note_stray(frontend));
        }
    }

    fn request(&self, question: &Question, addr: SocketAddr) -> Vec<u8> {
        let [number, seed, last] = question.input;
        let body = format!(r#"{{"input":[{number:?},{seed:?},{last:?}]}}"#);
        format!(
            "POST /{}/predict HTTP/1.1\r\nHost: {addr}\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n{body}",
            self.application,
            body.len()
        )
        .into_bytes()
    }
}

/// One connection, read by hand: a client would not tell of a reply too many.
struct Connection {
    stream: TcpStream,
    addr: SocketAddr,
}

struct Reply {
    status: u16,
    body: String,
    /// The server closes the connection.
    closes: bool,
    /// More came than was asked for.
    extra: bool,
}

/// What is on a connection on which nothing is asked.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Now {
    Still,
    Closed,
    Stray,
}

impl Connection {
    async fn open(addr: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(addr).await?;
        // A query is one small write that must not wait for another.
        stream.set_nodelay(true)?;
        Ok(Self { stream, addr })
    }

    fn now(&self) -> Now {
        match self.stream.try_read(&mut [0]) {
            Ok(0) => Now::Closed,
            Ok(_) => Now::Stray,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Now::Still,
            Err(_) => Now::Closed,
        }
    }

    async fn ask(&mut self, request: &[u8]) -> io::Result<Reply> {
        self.stream.write_all(request).await?;
        let mut bytes = Vec::with_capacity(1024);
        loop {
            if self.stream.read_buf(&mut bytes).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if let Some(reply) = parse(&bytes)? {
                return Ok(reply);
            }
            if bytes.len() > REPLY_BYTES {
                return Err(io::Error::other("the reply does not end"));
            }
        }
    }
}

/// The reply in these bytes, if they hold all of it.
fn parse(bytes: &[u8]) -> io::Result<Option<Reply>> {
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut head = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(length) = head.parse(bytes).map_err(io::Error::other)? else {
        return Ok(None);
    };
    let header = |name: &str| {
        let mut headers = head.headers.iter();
        let found = headers.find(|header| header.name.eq_ignore_ascii_case(name))?;
        std::str::from_utf8(found.value).ok()
    };
    let whole = header("content-length").and_then(|value| value.trim().parse::<usize>().ok());
    let whole = length + whole.ok_or_else(|| io::Error::other("the reply does not say how long it is"))?;
    let Some(body) = bytes.get(length..whole) else {
        return Ok(None);
    };
    Ok(Some(Reply {
        status: head.code.unwrap_or_default(),
        body: String::from_utf8_lossy(body).into_owned(),
        closes: header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close")),
        extra: bytes.len() > whole,
    }))
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn a_reply_is_read_when_it_is_whole_and_what_follows_it_is_seen() {
        let text = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nConnection: close\r\n\r\nab";
        for cut in 0..text.len() {
            assert!(parse(&text.as_bytes()[..cut]).unwrap().is_none(), "{cut}");
        }
        let reply = parse(text.as_bytes()).unwrap().unwrap();
        assert_eq!((reply.status, &*reply.body, reply.closes), (200, "ab", true));
        assert!(!reply.extra);
        let twice = format!("{text}{text}");
        assert!(parse(twice.as_bytes()).unwrap().unwrap().extra);
    }

    /// A server whose replies are these bytes, whatever is asked.
    async fn server(reply: &'static str) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                tokio::spawn(async move {
                    let mut request = [0; 4096];
                    while stream.read(&mut request).await.is_ok_and(|read| read > 0) {
                        let _ = stream.write_all(reply.as_bytes()).await;
                    }
                });
            }
        });
        addr
    }

    fn load() -> Load {
        Load {
            application: "app".into(),
            slo: Duration::from_secs(20),
            default_output: "-1.0".into(),
            per_second: 500.0,
            seed: 1,
        }
    }

    #[tokio::test]
    async fn a_server_that_answers_all_with_the_same_is_caught() {
        let reply = "HTTP/1.1 200 OK\r\ncontent-length: 43\r\n\r\n{\"query_id\":1,\"output\":\"x\",\"default\":false}";
        let running = load().start(vec![server(reply).await]);
        running.more(5).await;
        let account = running.finish().await;
        assert!(account.asked >= 5 && account.lost == 0, "{account:?}");
        assert_eq!(account.wrong, account.asked);
        assert_eq!(account.doubled, account.asked - 1, "one id for all of them");
    }

    #[tokio::test]
    async fn a_server_that_answers_twice_is_caught() {
        let reply =
            "HTTP/1.1 503 Down\r\ncontent-length: 0\r\n\r\nHTTP/1.1 503 Down\r\ncontent-length: 0\r\n\r\n";
        let running = load().start(vec![server(reply).await]);
        running.more(5).await;
        let account = running.finish().await;
        assert!(
            account.doubled > 0 && account.failed == account.asked,
            "{account:?}"
        );
    }

    #[tokio::test]
    async fn what_fails_in_a_frontend_that_is_made_to_fail_is_asked_of_the_other() {
        let reply = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}";
        let gone = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = gone.local_addr().unwrap();
        drop(gone);
        let running = load().start(vec![addr, server(reply).await]);
        running.disturb(0);
        running.more(10).await;
        let account = running.finish().await;
        assert!(account.retried > 0, "{account:?}");
        assert_eq!(
            (account.lost, account.failed),
            (0, 0),
            "each was answered, if wrongly"
        );
        assert_eq!(account.wrong, account.asked);
    }
}

//! Sends queries when they are due, and collects what becomes of them.
//!
//! One task keeps the time; each query is a task of its own that holds its connection for as long as it is
//! under way. A server that is slow therefore holds up nothing here: the next query takes the next
//! connection, and where all are taken it is counted as an error instead of waiting.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::StatusCode;
use reqwest::Url;
use serde::Deserialize;
use serde::de::IgnoredAny;
use skysail_process::signals::EndSignals;
use skysail_proto::ids::ApplicationName;
use tokio::task::JoinSet;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at, timeout_at};

use super::alarm::Alarm;
use super::arrivals::Schedule;
use super::connection::{Connection, Lost, Target};
use super::inputs::Bodies;
use super::tally::{Failure, Outcome, Sent, Tally};

/// So many overdue queries are sent before answers are looked at again.
const SENT_AT_ONCE: usize = 32;

/// A sender that is this far behind at the end of the run gives up, so that the run ends.
const CATCH_UP: Duration = Duration::from_secs(1);

/// How often it is told how the run goes.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// How the sending ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Ended {
    /// All was sent, or the sender gave up.
    Complete,
    /// Ctrl-C came before.
    Interrupted,
}

/// How far a run is.
#[derive(Clone, Copy)]
pub(crate) enum Stage<'a> {
    /// It has been sending for so long, and this has become of what was sent.
    Sending(Duration, &'a Tally),
    /// Nothing more is sent, and so many queries are under way.
    Waiting(usize),
}

/// What is sent, and for how long an answer is waited for.
pub(crate) struct Load {
    pub(crate) schedule: Schedule,
    pub(crate) bodies: Bodies,
    /// From when a query is due until it counts as an error.
    pub(crate) patience: Duration,
    pub(crate) max_connections: usize,
}

/// A sender that has found its server.
pub(crate) struct Sender {
    target: Arc<Target>,
    /// Connections that no query holds. The one used last is used next, so that few stay warm.
    idle: Vec<Connection>,
    /// Connections that are open or being opened.
    open: usize,
    /// The most there were at once.
    most_open: usize,
    queries: JoinSet<(Sent, Option<Connection>)>,
    alarm: Alarm,
    interrupt: EndSignals,
}

impl Sender {
    /// Connects to the server, so that a run does not begin without one.
    pub(crate) async fn connect(url: &Url, application: &ApplicationName) -> io::Result<Self> {
        let (target, connection) = Target::find(url, application).await?;
        Ok(Self {
            target: Arc::new(target),
            idle: vec![connection],
            open: 1,
            most_open: 1,
            queries: JoinSet::new(),
            alarm: Alarm::new()?,
            interrupt: EndSignals::listen()?,
        })
    }

    /// How many connections were open at once.
    pub(crate) fn connections(&self) -> usize {
        self.most_open
    }

    /// Sends the whole load, waits for what comes of it, and tells now and then how far it is. Returns how the
    /// sending ended, and after how long.
    pub(crate) async fn run(
        &mut self,
        load: &mut Load,
        tally: &mut Tally,
        mut tell: impl FnMut(Stage<'_>),
    ) -> io::Result<(Ended, Duration)> {
        let start = Instant::now();
        let ended = self.send(load, start, tally, &mut tell).await?;
        let sent_for = start.elapsed();
        self.await_answers(tally, tell).await;
        Ok((ended, sent_for))
    }

    async fn send(
        &mut self,
        load: &mut Load,
        start: Instant,
        tally: &mut Tally,
        tell: &mut impl FnMut(Stage<'_>),
    ) -> io::Result<Ended> {
        let give_up = start + load.schedule.duration() + CATCH_UP;
        let mut ticks = ticks();
        tell(Stage::Sending(Duration::ZERO, tally));
        let mut next = load.schedule.next();
        while let Some(due) = next {
            tokio::select! {
                woken = self.alarm.wait_until(start + due) => {
                    woken?;
                    next = self.send_what_is_due(load, start, due, tally);
                }
                Some(done) = self.queries.join_next() => self.note(done, tally),
                _ = ticks.tick() => tell(Stage::Sending(start.elapsed(), tally)),
                _ = self.interrupt.next() => return Ok(Ended::Interrupted),
            }
            if Instant::now() > give_up {
                give_up_rest(load, next, tally);
                break;
            }
        }
        Ok(Ended::Complete)
    }

    /// Sends the query that is due, and those after it that are due as well; returns when the next one is.
    fn send_what_is_due(
        &mut self,
        load: &mut Load,
        start: Instant,
        first: Duration,
        tally: &mut Tally,
    ) -> Option<Duration> {
        let mut next = Some(first);
        for _ in 0..SENT_AT_ONCE {
            let Some(due) = next.filter(|&due| start + due <= Instant::now()) else {
                break;
            };
            self.send_one(load, start, due, tally);
            next = load.schedule.next();
        }
        next
    }

    fn send_one(&mut self, load: &mut Load, start: Instant, due: Duration, tally: &mut Tally) {
        let idle = self.idle.pop();
        if idle.is_none() {
            if self.open >= load.max_connections {
                tally.record(unsent(due, Failure::NoConnection));
                return;
            }
            self.open += 1;
            self.most_open = self.most_open.max(self.open);
        }
        let query = Query {
            target: Arc::clone(&self.target),
            body: load.bodies.next(),
            start,
            due,
            patience: load.patience,
        };
        self.queries.spawn(query.send(idle));
    }

    /// Waits for what is under way. Every query has a bound, and a second Ctrl-C ends the wait.
    async fn await_answers(&mut self, tally: &mut Tally, mut tell: impl FnMut(Stage<'_>)) {
        let mut ticks = ticks();
        loop {
            tokio::select! {
                done = self.queries.join_next() => match done {
                    Some(done) => self.note(done, tally),
                    None => return,
                },
                _ = ticks.tick() => tell(Stage::Waiting(self.queries.len())),
                _ = self.interrupt.next() => break,
            }
        }
        tally.record_interrupted(self.queries.len() as u64);
        self.queries.abort_all();
    }

    fn note(&mut self, done: Result<(Sent, Option<Connection>), tokio::task::JoinError>, tally: &mut Tally) {
        let (query, connection) = done.expect("a query's task neither panics nor is aborted; this is a bug");
        tally.record(query);
        match connection {
            Some(connection) => self.idle.push(connection),
            None => self.open -= 1,
        }
    }
}

/// When to tell how it goes, for the first time after a while.
fn ticks() -> Interval {
    let mut ticks = interval_at(Instant::now() + TELL_EVERY, TELL_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    ticks
}

fn unsent(due: Duration, failure: Failure) -> Sent {
    Sent {
        due,
        lateness: None,
        latency: Duration::ZERO,
        outcome: Outcome::Failed(failure),
    }
}

/// Counts all that was still to be sent: it was offered, and the sender could not.
fn give_up_rest(load: &mut Load, next: Option<Duration>, tally: &mut Tally) {
    for due in next.into_iter().chain(&mut load.schedule) {
        tally.record(unsent(due, Failure::NotSent));
    }
}

/// One query that is to be sent now.
struct Query {
    target: Arc<Target>,
    body: Bytes,
    start: Instant,
    due: Duration,
    patience: Duration,
}

impl Query {
    /// Asks on this connection or on a new one, and gives the connection back if it can be used again.
    async fn send(self, idle: Option<Connection>) -> (Sent, Option<Connection>) {
        let due = self.start + self.due;
        let lateness = due.elapsed();
        let asked = timeout_at(due + self.patience, ask(&self.target, self.body, idle)).await;
        let latency = due.elapsed();
        let (outcome, connection) = match asked {
            Ok((answer, connection)) => (judged(answer), connection),
            Err(_) => (Outcome::Failed(Failure::Timeout), None),
        };
        let sent = Sent {
            due: self.due,
            lateness: Some(lateness),
            latency,
            outcome,
        };
        (sent, connection)
    }
}

type Reply = Result<(StatusCode, Bytes), Failure>;

/// Asks once. A connection that was closed while nobody used it is no failure of the query: it is replaced.
async fn ask(target: &Target, body: Bytes, idle: Option<Connection>) -> (Reply, Option<Connection>) {
    if let Some(connection) = idle {
        let (reply, connection) = connection.ask(target, body.clone()).await;
        if !matches!(reply, Err(Lost::Unsent)) {
            return (reply.map_err(|_| Failure::Connection), connection);
        }
    }
    let Ok(connection) = target.connect().await else {
        return (Err(Failure::Connection), None);
    };
    let (reply, connection) = connection.ask(target, body).await;
    (reply.map_err(|_| Failure::Connection), connection)
}

/// What the query API answers, as far as it matters here.
#[derive(Deserialize)]
struct Answer {
    #[serde(rename = "output")]
    _output: IgnoredAny,
    default: bool,
    #[serde(default)]
    default_reason: Option<String>,
}

fn judged(reply: Reply) -> Outcome {
    match reply {
        Err(failure) => Outcome::Failed(failure),
        Ok((StatusCode::OK, body)) => match serde_json::from_slice(&body) {
            Ok(Answer { default: false, .. }) => Outcome::Prediction,
            Ok(Answer { default_reason, .. }) => {
                Outcome::Default(default_reason.unwrap_or_else(|| "unknown".to_owned()))
            }
            Err(_) => Outcome::Failed(Failure::Unreadable),
        },
        Ok((status, _)) => Outcome::Failed(Failure::Status(status.as_u16())),
    }
}

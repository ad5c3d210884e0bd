//! The control role's lease, taken and renewed beside the follower. In the follower's queue the lease could run
//! out while it waits for slow commits.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use redis::RedisResult;
use redis::aio::MultiplexedConnection;
use skysail_core::cluster::Lease;
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::warn;

use super::endpoint::{Endpoint, Failure};
use super::pulse::{Beat, Pulse};
use crate::store::{Leased, StoreError, StoreHealth};

const LEASE: &str = concat!(include_str!("now.lua"), include_str!("lease.lua"));

/// The follower's connection, or why it has none; `None` until the first attempt has ended.
pub(super) type Line = Option<Result<(Endpoint, MultiplexedConnection), StoreError>>;

/// Asks for the lease over the follower's connection.
pub(super) struct LeaseDesk {
    line: watch::Receiver<Line>,
    pulse: Arc<Pulse>,
    known: Mutex<Known>,
}

/// This process's knowledge of the lease. It stays when Redis loses the lease.
#[derive(Clone, Debug, Default)]
struct Known {
    /// The highest number of any lease seen here.
    highest: u64,
    /// Another frontend's lease, as it was when last seen.
    others: Option<Others>,
    /// Until when this process holds the lease, by its own clock. A past time stays here until another frontend
    /// is known to have held the lease since.
    own_until: Option<Instant>,
}

/// Another frontend's lease.
#[derive(Clone, Debug)]
struct Others {
    holder: String,
    number: u64,
    /// When it ends by the server's clock, in milliseconds since the Unix epoch.
    until: u64,
    /// When this process noticed that Redis had lost the lease before it ran out.
    lost: Option<Instant>,
}

impl Known {
    /// The number and end that Redis' lease must at least have. Both are empty once a lost lease has been gone
    /// for `ttl`: its holder may have renewed it just before Redis lost it, and has stopped acting by then.
    fn awaited(&self, ttl: Duration) -> (String, String) {
        let over = |lost: Instant| lost.elapsed() >= ttl;
        match &self.others {
            Some(others) if !others.lost.is_some_and(over) => {
                (others.number.to_string(), others.until.to_string())
            }
            _ => (String::new(), String::new()),
        }
    }

    /// Whether taking the lease now would begin to act instead of continuing. While writes are refused, the
    /// last holder goes on asking, because it has containers running. So it is the first when writes are taken
    /// again.
    fn would_begin(&self, doubt: &StoreHealth) -> bool {
        match doubt {
            StoreHealth::RefusesWrites(_) => self.own_until.is_none(),
            _ => self.own_until.is_none_or(|until| until <= Instant::now()),
        }
    }

    fn taken(&mut self, number: u64, until: Instant) {
        self.highest = self.highest.max(number);
        self.others = None;
        self.own_until = self.own_until.max(Some(until));
    }

    fn held(&mut self, holder: &str, number: u64, until: u64) {
        self.highest = self.highest.max(number);
        self.own_until = None;
        self.others = Some(Others {
            holder: holder.to_owned(),
            number,
            until,
            lost: None,
        });
    }

    /// Notes that Redis lost the other's lease, and returns its holder.
    fn lost(&mut self) -> String {
        let Some(others) = &mut self.others else {
            // A newer answer has cleared `others` meanwhile.
            return String::new();
        };
        if others.lost.is_none() {
            others.lost = Some(Instant::now());
            warn!(
                holder = others.holder,
                number = others.number,
                "redis lost the control role's lease; waiting until it has run out"
            );
        }
        others.holder.clone()
    }
}

impl LeaseDesk {
    pub(super) fn new(line: watch::Receiver<Line>, pulse: Arc<Pulse>) -> Self {
        Self {
            line,
            pulse,
            known: Mutex::default(),
        }
    }

    /// Takes or renews the lease. While the store is in doubt, only the last holder may take it: a frontend
    /// that begins to act has to know the whole catalog, and that it can be written.
    pub(super) async fn take(&self, holder: &str, ttl: Duration) -> Result<Leased, StoreError> {
        self.connected().await?;
        if let Some(doubt) = self.pulse.doubt()
            && self.known.lock().would_begin(&doubt)
        {
            return Err(StoreError::HeldBack(doubt.problem().unwrap_or_default()));
        }
        let asked = Instant::now();
        let (highest, (number, until)) = {
            let known = self.known.lock();
            (known.highest.to_string(), known.awaited(ttl))
        };
        let millis = ttl.as_millis().to_string();
        let reply = self
            .ask(&["take", holder, &millis, &highest, &number, &until])
            .await?;
        let mut known = self.known.lock();
        match reply.iter().map(String::as_str).collect::<Vec<_>>()[..] {
            ["taken", number] => {
                let number = figure(number)?;
                known.taken(number, asked + ttl);
                Ok(Leased::Held(Lease {
                    holder: holder.to_owned(),
                    number,
                }))
            }
            ["held", by, number, until] => {
                known.held(by, figure(number)?, figure(until)?);
                Ok(Leased::HeldBy(by.to_owned()))
            }
            ["lost"] => Ok(Leased::HeldBy(known.lost())),
            _ => Err(StoreError::Corrupt(format!(
                "the lease script answered {reply:?}"
            ))),
        }
    }

    pub(super) async fn release(&self, lease: &Lease) -> Result<(), StoreError> {
        self.known.lock().own_until = None;
        let number = lease.number.to_string();
        self.ask(&["release", &lease.holder, &number]).await.map(drop)
    }

    /// The connection, once the first attempt and its first look at the store have ended.
    async fn connected(&self) -> Result<(Endpoint, MultiplexedConnection), StoreError> {
        let gone = || StoreError::Unavailable("the store is closed".into());
        let mut line = self.line.clone();
        let line = line.wait_for(Option::is_some).await.map_err(|_| gone())?.clone();
        line.ok_or_else(gone)?
    }

    async fn ask(&self, arguments: &[&str]) -> Result<Vec<String>, StoreError> {
        let (endpoint, mut connection) = self.connected().await?;
        let asked: RedisResult<Vec<String>> = redis::cmd("EVAL")
            .arg(LEASE)
            .arg(1)
            .arg(&endpoint.keys.lease)
            .arg(arguments)
            .query_async(&mut connection)
            .await;
        let asked = match asked {
            Ok(reply) => Ok(reply),
            Err(error) => Err(endpoint.failure_asking(&error, &mut connection).await),
        };
        match &asked {
            Ok(_) => self.pulse.written(Beat::Lease, None),
            Err(failure) if failure.refusal().is_some() => self.pulse.written(Beat::Lease, failure.refusal()),
            // The follower finds out whether the session is over.
            Err(_) => {}
        }
        asked.map_err(Failure::into_error)
    }
}

fn figure(written: &str) -> Result<u64, StoreError> {
    let wrong = |_| StoreError::Corrupt(format!("the lease's figure is `{written}`"));
    written.parse().map_err(wrong)
}

//! The control role's lease, taken and renewed beside the follower: a lease that had to wait until slow
//! commits are done would run out in a queue.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use skysail_core::cluster::Lease;
use tokio::sync::watch;

use super::endpoint::{Endpoint, Failure};
use super::pulse::{Beat, Pulse};
use crate::store::{Leased, StoreError};

const LEASE: &str = concat!(include_str!("now.lua"), include_str!("lease.lua"));

/// The connection that the follower has, or why it has none; `None` before the first attempt has ended.
pub(super) type Line = Option<Result<(Endpoint, MultiplexedConnection), StoreError>>;

/// Asks for the lease over the connection that the follower keeps.
pub(super) struct LeaseDesk {
    line: watch::Receiver<Line>,
    pulse: Arc<Pulse>,
    /// The highest number this process knows of.
    highest: AtomicU64,
}

impl LeaseDesk {
    pub(super) fn new(line: watch::Receiver<Line>, pulse: Arc<Pulse>) -> Self {
        Self {
            line,
            pulse,
            highest: AtomicU64::new(0),
        }
    }

    pub(super) async fn take(&self, holder: &str, ttl: Duration) -> Result<Leased, StoreError> {
        let floor = self.highest.load(Ordering::Relaxed).to_string();
        let ttl = ttl.as_millis().to_string();
        let reply = self.ask(&["take", holder, &ttl, &floor]).await?;
        match &reply[..] {
            [taken, number] if taken == "taken" => {
                let number = number
                    .parse()
                    .map_err(|_| StoreError::Corrupt(format!("the lease's number is `{number}`")))?;
                self.highest.fetch_max(number, Ordering::Relaxed);
                Ok(Leased::Held(Lease {
                    holder: holder.to_owned(),
                    number,
                }))
            }
            [held, by] if held == "held" => Ok(Leased::HeldBy(by.clone())),
            other => Err(StoreError::Corrupt(format!(
                "the lease script answered {other:?}"
            ))),
        }
    }

    pub(super) async fn release(&self, lease: &Lease) -> Result<(), StoreError> {
        let number = lease.number.to_string();
        self.ask(&["release", &lease.holder, &number]).await.map(drop)
    }

    async fn ask(&self, arguments: &[&str]) -> Result<Vec<String>, StoreError> {
        let gone = || StoreError::Unavailable("the store is closed".into());
        let line = self
            .line
            .clone()
            .wait_for(Option::is_some)
            .await
            .map_err(|_| gone())?
            .clone();
        let (endpoint, mut connection) = line.ok_or_else(gone)??;
        let asked = redis::cmd("EVAL")
            .arg(LEASE)
            .arg(1)
            .arg(&endpoint.keys.lease)
            .arg(arguments)
            .query_async(&mut connection)
            .await
            .map_err(|error| endpoint.failure(&error));
        match &asked {
            Ok(_) => self.pulse.written(Beat::Lease, None),
            Err(failure) if failure.refusal().is_some() => self.pulse.written(Beat::Lease, failure.refusal()),
            // Whether the session is over is the follower's to find out.
            Err(_) => {}
        }
        asked.map_err(Failure::into_error)
    }
}

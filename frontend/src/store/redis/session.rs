//! One connection to Redis: the commands, and the meaning of their answers.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};
use redis::aio::{MultiplexedConnection, PubSubStream};
use redis::{FromRedisValue, RedisError, RedisResult};
use skysail_core::backoff::Backoff;
use skysail_core::catalog::{Catalog, Change, Document, Generation};
use skysail_core::cluster::Lease;
use skysail_core::store::{Inventory, Proof, Seen, Stored};
use tokio::time::{Instant, sleep_until, timeout};
use tracing::warn;

use super::endpoint::{Endpoint, Failure, RESPONSE_TIMEOUT, no_number};
use crate::store::document::{self, Documents, Edit};
use crate::store::incarnation::fresh_incarnation;
use crate::store::layout::{LAYOUT, check_layout};
use crate::store::{Settle, StoreError};

/// The first and the longest pause before subscribing again. An access list that forbids it usually keeps
/// forbidding it, and the periodic look works without it.
const RESUBSCRIBE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(60));

// Scripts are sent with EVAL each time: they are short and few per second. EVALSHA would need a second command
// (SCRIPT LOAD) after each restart of Redis, which access lists and proxies may refuse.
const COMMIT: &str = concat!(
    include_str!("now.lua"),
    include_str!("lost.lua"),
    include_str!("proof.lua"),
    include_str!("commit.lua")
);
const LOOK: &str = concat!(
    include_str!("now.lua"),
    include_str!("live.lua"),
    include_str!("proof.lua"),
    include_str!("look.lua")
);
const ANNOUNCE: &str = concat!(
    include_str!("now.lua"),
    include_str!("live.lua"),
    include_str!("announce.lua")
);
const HOLD_BACK: &str = concat!(include_str!("lost.lua"), include_str!("hold_back.lua"));
const MEND: &str = include_str!("mend.lua");
const SETTLE: &str = concat!(include_str!("proof.lua"), include_str!("settle.lua"));

/// One connection, and the subscription beside it.
pub(super) struct Session {
    endpoint: Endpoint,
    connection: MultiplexedConnection,
    changes: Changes,
    resubscribe: Backoff,
}

/// The subscription to change messages. The periodic look goes on without it.
enum Changes {
    Subscribed(PubSubStream),
    /// Subscribing takes several round trips, and nothing else waits for them.
    Subscribing(BoxFuture<'static, RedisResult<PubSubStream>>),
    /// When subscribing is tried again.
    Unsubscribed(Instant),
}

impl Session {
    /// Connects, and sends the cheapest command.
    pub(super) async fn open(endpoint: &Endpoint) -> Result<Self, StoreError> {
        let connection = endpoint.connect().await?;
        let mut session = Self {
            endpoint: endpoint.clone(),
            connection,
            changes: Changes::Unsubscribed(Instant::now()),
            resubscribe: Backoff::new(RESUBSCRIBE.0, RESUBSCRIBE.1),
        };
        // With a Redis that accepts connections and hangs, the attempt ends here.
        session.about().await?;
        // Subscribes before the first read, so that no change is missed in between. With a slow Redis, reading
        // begins anyway.
        let _ = timeout(RESPONSE_TIMEOUT / 2, session.subscribed()).await;
        Ok(session)
    }

    /// The connection, for commands that need not wait their turn.
    pub(super) fn connection(&self) -> MultiplexedConnection {
        self.connection.clone()
    }

    /// Ends when something may have changed.
    pub(super) async fn woken(&mut self) {
        let Changes::Subscribed(changes) = &mut self.changes else {
            // One look sees all changes made before the subscription.
            return self.subscribed().await;
        };
        let mut message = Some(changes.next().await);
        // One look sees the changes of all messages that came until now.
        while let Some(Some(_)) = message {
            message = changes.next().now_or_never();
        }
        if message.is_some() {
            // Redis went away, or closed only this connection; the look finds out which.
            self.changes = Changes::Unsubscribed(Instant::now());
        }
    }

    /// Subscribes if it is time to, and ends when Redis has answered. May be dropped at any point and called
    /// again.
    async fn subscribed(&mut self) {
        if let Changes::Unsubscribed(again) = self.changes {
            sleep_until(again).await;
            let endpoint = self.endpoint.clone();
            let subscribing = async move { endpoint.subscribe().await };
            self.changes = Changes::Subscribing(subscribing.boxed());
        }
        let Changes::Subscribing(subscribing) = &mut self.changes else {
            return;
        };
        self.changes = match subscribing.await {
            Ok(changes) => {
                self.resubscribe.reset();
                Changes::Subscribed(changes)
            }
            Err(error) => {
                let reason = self.endpoint.explain(&error);
                warn!(%reason, "no messages about changes; the catalog is compared every second");
                Changes::Unsubscribed(Instant::now() + self.resubscribe.pause())
            }
        };
    }

    /// Warns if Redis may evict documents when its memory is full, where INFO is permitted.
    pub(super) async fn warn_of_evictions(&mut self) {
        let asked: RedisResult<String> = redis::cmd("INFO")
            .arg("memory")
            .query_async(&mut self.connection)
            .await;
        let policy = asked.as_deref().ok().and_then(|said| {
            said.lines()
                .find_map(|line| line.trim().strip_prefix("maxmemory_policy:"))
        });
        if let Some(policy) = policy.filter(|policy| *policy != "noeviction") {
            warn!(
                redis = %self.endpoint,
                policy,
                "redis may evict the cluster's metadata when its memory is full: set maxmemory-policy to noeviction"
            );
        }
    }

    async fn about(&mut self) -> Result<Stored, StoreError> {
        let about: RedisResult<About> = self.about_command().query_async(&mut self.connection).await;
        let about = self.read_by(about).await?;
        self.read_about(about)
    }

    /// The state to compare, and the announcements.
    pub(super) async fn look(&mut self) -> Result<(Seen, BTreeMap<String, String>), StoreError> {
        let keys = &self.endpoint.keys;
        type Held = (Option<String>, Option<String>, Option<String>);
        let looked: RedisResult<(About, u64, Held, i64, Hash)> = redis::cmd("EVAL")
            .arg(LOOK)
            .arg(6)
            .arg(&keys.generation)
            .arg(&keys.documents)
            .arg(&keys.held_back)
            .arg(&keys.restore)
            .arg(&keys.frontends)
            .arg(&keys.frontend_expiries)
            .query_async(&mut self.connection)
            .await;
        let (about, documents, held, wish, live) = self.read_by(looked).await?;
        let stored = self.read_about(about)?;
        let (held, number, broken) = held;
        let held_back = match held {
            Some(incarnation) => Some(Generation {
                incarnation,
                number: self.read_number(number)?,
            }),
            None => None,
        };
        let said_broken = format!("{} {}", stored.generation.incarnation, stored.generation.number);
        let seen = Seen {
            broken: broken == Some(said_broken),
            stored,
            documents,
            held_back,
            wish: u64::try_from(wish).ok().map(Duration::from_millis),
        };
        Ok((seen, as_text(live)))
    }

    /// All documents and their generation, read in one transaction.
    pub(super) async fn snapshot(&mut self) -> Result<(Stored, Documents), StoreError> {
        let keys = &self.endpoint.keys;
        let read: RedisResult<(About, Hash)> = redis::pipe()
            .atomic()
            .add_command(self.about_command())
            .hgetall(&keys.documents)
            .query_async(&mut self.connection)
            .await;
        let (about, documents) = self.read_by(read).await?;
        Ok((self.read_about(about)?, by_key(documents)))
    }

    /// The read's result, or an explanation of its failure.
    async fn read_by<T>(&mut self, read: RedisResult<T>) -> Result<T, StoreError> {
        match read {
            Ok(read) => Ok(read),
            Err(error) => Err(self.endpoint.explain_asking(&error, &mut self.connection).await),
        }
    }

    /// Parses the documents into a catalog.
    pub(super) fn catalog(&self, documents: &Documents, stored: Stored) -> Result<Catalog, StoreError> {
        let catalog = document::read(documents, stored.generation);
        let catalog = catalog.map_err(|unreadable| self.endpoint.corrupt(&unreadable.to_string()))?;
        let replaces = stored.replaces;
        Ok(Catalog { replaces, ..catalog })
    }

    fn about_command(&self) -> redis::Cmd {
        let mut command = redis::cmd("HMGET");
        command.arg(&self.endpoint.keys.generation).arg(&[
            "incarnation",
            "number",
            "schema",
            "replaces",
            "count",
            "digest",
        ]);
        command
    }

    fn read_about(&self, about: About) -> Result<Stored, StoreError> {
        let (incarnation, number, layout, replaces, count, digest) = about;
        if let Some(layout) = &layout {
            check_layout(layout).map_err(|reason| self.endpoint.corrupt(&reason))?;
        }
        let incarnation = incarnation.unwrap_or_default();
        let written = |number: Option<String>| number?.parse().ok();
        let proof = match (written(count), written(digest)) {
            _ if incarnation.is_empty() => Some(Proof::default()),
            (Some(count), Some(digest)) if layout.is_some() => Some(Proof { count, digest }),
            _ => None,
        };
        let replaces = replaces.unwrap_or_default();
        Ok(Stored {
            generation: Generation {
                incarnation,
                number: self.read_number(number)?,
            },
            replaces: replaces.split_whitespace().map(str::to_owned).collect(),
            proof,
        })
    }

    fn read_number(&self, number: Option<String>) -> Result<u64, StoreError> {
        match number {
            None => Ok(0),
            Some(number) => number.parse().map_err(|_| {
                self.endpoint
                    .corrupt(&format!("its generation's number is `{number}`"))
            }),
        }
    }

    /// Writes all changes or none, and returns the new generation.
    pub(super) async fn commit(&mut self, write: &Write<'_>) -> Result<Generation, Failure> {
        let command = self.commit_command(write);
        self.written(&command, write.expected).await
    }

    fn commit_command(&self, write: &Write<'_>) -> redis::Cmd {
        let Write {
            lease,
            changes,
            expected,
            known,
        } = write;
        let keys = &self.endpoint.keys;
        let mut command = redis::cmd("EVAL");
        command
            .arg(COMMIT)
            .arg(4)
            .arg(&keys.generation)
            .arg(&keys.documents)
            .arg(&keys.lease)
            .arg(&keys.held_back)
            .arg(&expected.incarnation)
            .arg(expected.number)
            .arg(fresh_incarnation())
            .arg(LAYOUT)
            .arg(&keys.changes)
            .arg(lease.map_or("", |lease| &lease.holder))
            .arg(lease.map_or(0, |lease| lease.number))
            .arg(or_nothing(known.map(|known| known.proof().digest)));
        for Edit { key, document } in changes.iter().map(Edit::from) {
            let before = known.and_then(|known| known.hash_of(&key));
            command
                .arg(key)
                .arg(document.unwrap_or_default())
                .arg(or_nothing(before));
        }
        command
    }

    /// Settles a store that lost something: begins the life `settled`, with these documents instead of the
    /// present ones, or with the present ones. Returns the generation.
    pub(super) async fn settle(
        &mut self,
        seen: &Generation,
        settled: &Stored,
        how: Settle,
        documents: &[Document],
    ) -> Result<Generation, Failure> {
        let keys = &self.endpoint.keys;
        let mut command = redis::cmd("EVAL");
        command
            .arg(SETTLE)
            .arg(4)
            .arg(&keys.generation)
            .arg(&keys.documents)
            .arg(&keys.held_back)
            .arg(&keys.restore)
            .arg(&seen.incarnation)
            .arg(seen.number)
            .arg(&settled.generation.incarnation)
            .arg(settled.generation.number)
            .arg(settled.replaces.join(" "))
            .arg(LAYOUT)
            .arg(&keys.changes)
            .arg(match how {
                Settle::Restore => "restore",
                Settle::Accept => "accept",
            });
        for document in documents {
            command.arg(document.key().to_string()).arg(document.to_json());
        }
        self.written(&command, seen).await
    }

    /// Runs a script that writes the catalog.
    async fn written(&mut self, command: &redis::Cmd, expected: &Generation) -> Result<Generation, Failure> {
        let reply: Vec<String> = command
            .query_async(&mut self.connection)
            .await
            .map_err(|error| self.endpoint.failed_write(&error))?;
        let reply: Vec<&str> = reply.iter().map(String::as_str).collect();
        let generation = |incarnation: &str, number: &str| {
            let number = self.read_number(Some(number.into())).map_err(Failure::Over)?;
            Ok(Generation {
                incarnation: incarnation.into(),
                number,
            })
        };
        match reply[..] {
            ["committed", incarnation, number] => generation(incarnation, number),
            ["conflict", incarnation, number] => Err(Failure::Refused(StoreError::Conflict {
                expected: expected.clone(),
                actual: generation(incarnation, number)?,
            })),
            ["fenced", ""] => Err(Failure::Refused(StoreError::Fenced(
                "ran out, or was given back".into(),
            ))),
            ["fenced", holder] => Err(Failure::Refused(StoreError::Fenced(format!(
                "is held by `{holder}` by now"
            )))),
            // The look that follows says which generation is held.
            ["held-back" | "broken"] => Err(Failure::Refused(StoreError::HeldBack(
                "the metadata store lost something that another frontend holds: run `skysail cluster restore` or \
                 `skysail cluster accept-empty`"
                    .into(),
            ))),
            ["layout", found] => match check_layout(found) {
                Ok(()) => Err(self.unusable("a script refused a layout that it knows")),
                Err(reason) => Err(self.unusable(&reason)),
            },
            ["unreadable", reason] => {
                let misused = self.endpoint.misused_key(&mut self.connection).await;
                Err(self.unusable(misused.as_deref().unwrap_or(reason)))
            }
            _ => Err(self.unusable(&format!("a script answered {reply:?}"))),
        }
    }

    /// Announces or withdraws a frontend, and returns all announcements.
    pub(super) async fn announce(
        &mut self,
        id: &str,
        document: Option<&str>,
        ttl: Duration,
    ) -> Result<BTreeMap<String, String>, Failure> {
        let keys = &self.endpoint.keys;
        let mut command = redis::cmd("EVAL");
        command
            .arg(ANNOUNCE)
            .arg(2)
            .arg(&keys.frontends)
            .arg(&keys.frontend_expiries)
            .arg(id)
            .arg(document.unwrap_or_default())
            .arg(u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX))
            .arg(&keys.changes);
        self.run(&command).await.map(as_text)
    }

    /// Records that this frontend holds a newer generation than the store's, that it found the seen generation
    /// broken, or both.
    pub(super) async fn hold_back(
        &mut self,
        seen: &Generation,
        held: Option<&Generation>,
        is_broken: bool,
    ) -> Result<(), Failure> {
        let keys = &self.endpoint.keys;
        let mut command = redis::cmd("EVAL");
        command
            .arg(HOLD_BACK)
            .arg(2)
            .arg(&keys.generation)
            .arg(&keys.held_back)
            .arg(&seen.incarnation)
            .arg(seen.number)
            .arg(held.map_or("", |held| &held.incarnation))
            .arg(held.map_or(0, |held| held.number))
            .arg(if is_broken { "broken" } else { "" })
            .arg(&keys.changes);
        self.run::<i64>(&command).await.map(drop)
    }

    /// Removes the mark that this generation is broken.
    pub(super) async fn mend(&mut self, whole: &Generation) -> Result<(), Failure> {
        let keys = &self.endpoint.keys;
        let mut command = redis::cmd("EVAL");
        command
            .arg(MEND)
            .arg(1)
            .arg(&keys.held_back)
            .arg(&whole.incarnation)
            .arg(whole.number)
            .arg(&keys.changes);
        self.run::<i64>(&command).await.map(drop)
    }

    /// Asks any frontend that holds the lost generation to write it back; the request expires after `lasts`.
    pub(super) async fn wish_for_restore(&mut self, lasts: Duration) -> Result<(), Failure> {
        let millis = u64::try_from(lasts.as_millis()).unwrap_or(u64::MAX);
        let mut command = redis::cmd("SET");
        command
            .arg(&self.endpoint.keys.restore)
            .arg("wished")
            .arg("PX")
            .arg(millis);
        self.run::<()>(&command).await
    }

    /// Takes the next query block: `max(last + 1, floor + 1)`, or `max(start, floor + 1)` if there was none.
    pub(super) async fn next_query_block(&mut self, start: u64, floor: Option<u64>) -> Result<u64, Failure> {
        let key = self.endpoint.keys.query_block.clone();
        // One transaction. INCR answers the number after the present one, so it is set to one less.
        let mut take = redis::pipe();
        take.atomic()
            .cmd("SET")
            .arg(&key)
            .arg(start.saturating_sub(1))
            .arg("NX")
            .ignore()
            .incr(&key, 1);
        let (block,): (u64,) = match self.query(&take).await {
            Err(Failure::Refused(StoreError::Refuses(why))) if why.contains("not an integer") => {
                let why = self.endpoint.corrupt(&no_number(&key));
                return Err(Failure::Refused(why));
            }
            taken => taken?,
        };
        match floor {
            Some(floor) if block <= floor => {
                let mut skip = redis::pipe();
                skip.incr(&key, floor - block + 1);
                let (block,): (u64,) = self.query(&skip).await?;
                Ok(block)
            }
            _ => Ok(block),
        }
    }

    async fn query<T: FromRedisValue>(&mut self, commands: &redis::Pipeline) -> Result<T, Failure> {
        let done: Result<T, RedisError> = commands.query_async(&mut self.connection).await;
        self.done(done).await
    }

    async fn run<T: FromRedisValue>(&mut self, command: &redis::Cmd) -> Result<T, Failure> {
        let done: Result<T, RedisError> = command.query_async(&mut self.connection).await;
        self.done(done).await
    }

    async fn done<T>(&mut self, done: RedisResult<T>) -> Result<T, Failure> {
        match done {
            Ok(done) => Ok(done),
            Err(error) => Err(self.endpoint.failure_asking(&error, &mut self.connection).await),
        }
    }

    fn unusable(&self, reason: &str) -> Failure {
        Failure::Over(self.endpoint.corrupt(reason))
    }
}

/// A commit's changes and its conditions.
pub(super) struct Write<'a> {
    pub(super) lease: Option<&'a Lease>,
    pub(super) changes: &'a [Change],
    pub(super) expected: &'a Generation,
    /// The documents of the expected generation, if this frontend knows them.
    pub(super) known: Option<&'a Inventory>,
}

/// A catalog's incarnation, number, layout, replaced incarnations, number of documents and digest, each if
/// present.
type About = (
    Option<String>,
    Option<String>,
    Option<String>,
    Option<String>,
    Option<String>,
    Option<String>,
);

type Hash = HashMap<Vec<u8>, Vec<u8>>;

/// A number as the scripts take it; '' for `None`.
fn or_nothing(number: Option<u64>) -> String {
    number.map_or_else(String::new, |number| number.to_string())
}

/// Keys as text. A key that is not UTF-8 is made readable here, and refused when its document is read.
fn by_key(hash: Hash) -> Documents {
    hash.into_iter()
        .map(|(key, json)| (String::from_utf8_lossy(&key).into_owned(), json))
        .collect()
}

/// Announcements as text; readers skip what they cannot parse.
fn as_text(hash: Hash) -> BTreeMap<String, String> {
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    hash.into_iter()
        .map(|(id, document)| (text(id), text(document)))
        .collect()
}

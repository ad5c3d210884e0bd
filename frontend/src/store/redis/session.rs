//! One connection to Redis: the commands, and what their failures mean.

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use futures::StreamExt;
use redis::aio::{MultiplexedConnection, PubSubStream};
use redis::{
    AsyncConnectionConfig, Client, ErrorKind, IntoConnectionInfo, ProtocolVersion, RedisError, RedisResult,
    ServerErrorKind,
};
use skysail_core::backoff::Backoff;
use skysail_core::catalog::{Catalog, Change, Generation};
use skysail_proto::ids::ClusterName;
use tokio::time::{Instant, timeout};
use tracing::warn;

use crate::store::StoreError;
use crate::store::document::{self, Documents, Edit, Kind, SCHEMA};

/// The longest wait for a connection, and then for each answer. A Redis that hangs is away.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(2);
/// The first pause before subscribing is tried again, and the longest: an access list that forbids it
/// usually goes on forbidding it, and the periodic look does without.
const RESUBSCRIBE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(60));
/// Sent with EVAL each time: commits are rare, the script is short, and EVALSHA would need a second command
/// (SCRIPT LOAD) after each restart of Redis, which access lists and proxies may refuse.
const COMMIT: &str = include_str!("commit.lua");

/// A URL that does not name a Redis. The URL itself is not repeated: it may hold a password.
#[derive(Debug, thiserror::Error)]
#[error(
    "the Redis URL is not valid ({reason}): write redis://[[USER]:PASSWORD@]HOST[:PORT][/DB], with special \
     characters in the password percent-encoded"
)]
pub struct InvalidUrl {
    reason: String,
}

/// Why a request failed.
pub(super) enum Failure {
    /// Redis answered, and refused this one.
    Refused(StoreError),
    /// The session is over, or shows a store that cannot be used.
    Over(StoreError),
}

/// Where a cluster's keys are.
#[derive(Clone)]
pub(super) struct Endpoint {
    client: Client,
    keys: Keys,
}

#[derive(Clone)]
struct Keys {
    generation: String,
    applications: String,
    models: String,
    query_block: String,
    changes: String,
}

impl fmt::Display for Endpoint {
    /// Host and port, without user and password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.client.get_connection_info().addr().fmt(f)
    }
}

impl Endpoint {
    pub(super) fn new(url: &str, cluster: &ClusterName) -> Result<Self, InvalidUrl> {
        let invalid = |error: RedisError| InvalidUrl {
            reason: error.to_string(),
        };
        let info = url.into_connection_info().map_err(invalid)?;
        // RESP2, which every server and proxy speaks, and no CLIENT SETINFO, which some refuse.
        let settings = info
            .redis_settings()
            .clone()
            .set_protocol(ProtocolVersion::RESP2)
            .set_skip_set_lib_name();
        let tcp = info.tcp_settings().clone().set_nodelay(true);
        let info = info.set_redis_settings(settings).set_tcp_settings(tcp);
        let key = |name: &str| format!("{{skysail:{cluster}}}:{name}");
        Ok(Self {
            client: Client::open(info).map_err(invalid)?,
            keys: Keys {
                generation: key("generation"),
                applications: key("applications"),
                models: key("models"),
                query_block: key("query-block"),
                changes: key("changes"),
            },
        })
    }

    /// Connects and reads the first snapshot.
    pub(super) async fn open(&self) -> Result<(Session, Catalog), StoreError> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(RESPONSE_TIMEOUT))
            .set_response_timeout(Some(RESPONSE_TIMEOUT));
        let connection = self
            .client
            .get_multiplexed_async_connection_with_config(&config)
            .await
            .map_err(|error| self.explain(&error))?;
        let mut session = Session {
            endpoint: self.clone(),
            connection,
            changes: None,
            resubscribe: Backoff::new(RESUBSCRIBE.0, RESUBSCRIBE.1),
            subscribe_at: Instant::now(),
        };
        // The cheapest question first: a Redis that takes connections and hangs ends the attempt here.
        session.generation().await?;
        // Subscribed before the snapshot is read, so that no change falls in between.
        session.keep_subscribed().await;
        let catalog = session.snapshot().await?;
        Ok((session, catalog))
    }

    async fn subscribe(&self) -> RedisResult<PubSubStream> {
        let subscribing = async {
            let mut subscription = self.client.get_async_pubsub().await?;
            subscription.subscribe(&self.keys.changes).await?;
            Ok(subscription.into_on_message())
        };
        // A connection for messages has no timeouts of its own.
        timeout(RESPONSE_TIMEOUT, subscribing)
            .await
            .unwrap_or_else(|_| Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into()))
    }

    /// What to tell a person about a failure.
    fn explain(&self, error: &RedisError) -> StoreError {
        let code = server_code(error);
        let said = match code.as_deref() {
            _ if error.is_connection_refusal() => "refuses connections: is it running?".into(),
            _ if error.is_timeout() => format!("did not answer within {} s", RESPONSE_TIMEOUT.as_secs()),
            _ if error.kind() == ErrorKind::AuthenticationFailed => {
                "refused to authenticate: are user and password right?".into()
            }
            Some("NOAUTH") => "wants a password: write it into the URL".into(),
            Some("WRONGTYPE") => return StoreError::Corrupt(self.says(&error.to_string())),
            _ => error.to_string(),
        };
        StoreError::Unavailable(self.says(&said))
    }

    fn says(&self, what: &str) -> String {
        format!("redis at {self}: {what}")
    }

    fn corrupt(&self, what: &str) -> StoreError {
        StoreError::Corrupt(self.says(what))
    }
}

/// The word an error reply begins with, also inside a transaction.
fn server_code(error: &RedisError) -> Option<String> {
    let errors = error.clone().into_server_errors()?;
    errors.first().map(|(_, error)| error.code().to_owned())
}

/// Whether Redis answered, and would answer the next request: it is neither gone nor someone's replica now.
fn goes_on_after(error: &RedisError) -> bool {
    matches!(error.kind(), ErrorKind::Server(kind) if kind != ServerErrorKind::ReadOnly)
        || error.kind() == ErrorKind::Extension
}

/// One connection, and the subscription beside it.
pub(super) struct Session {
    endpoint: Endpoint,
    connection: MultiplexedConnection,
    /// `None` while there is no subscription; the periodic look goes on.
    changes: Option<PubSubStream>,
    resubscribe: Backoff,
    subscribe_at: Instant,
}

impl Session {
    /// Ends when there may be a new generation.
    pub(super) async fn woken(&mut self) {
        let Some(changes) = &mut self.changes else {
            return std::future::pending().await;
        };
        if changes.next().await.is_none() {
            // Redis went away, or closed this connection only: looking will tell.
            self.changes = None;
        }
    }

    /// Subscribes again if the subscription was lost and it is time to.
    pub(super) async fn keep_subscribed(&mut self) {
        if self.changes.is_some() || Instant::now() < self.subscribe_at {
            return;
        }
        match self.endpoint.subscribe().await {
            Ok(changes) => {
                self.changes = Some(changes);
                self.resubscribe.reset();
            }
            Err(error) => {
                let reason = self.endpoint.explain(&error);
                warn!(%reason, "no messages about changes; the catalog is compared every second");
                self.subscribe_at = Instant::now() + self.resubscribe.pause();
            }
        }
    }

    pub(super) async fn generation(&mut self) -> Result<Generation, StoreError> {
        let about: About = self
            .about_command()
            .query_async(&mut self.connection)
            .await
            .map_err(|error| self.endpoint.explain(&error))?;
        self.read_generation(about)
    }

    /// The whole catalog, read in one transaction.
    pub(super) async fn snapshot(&mut self) -> Result<Catalog, StoreError> {
        type Hash = HashMap<Vec<u8>, Vec<u8>>;
        let keys = &self.endpoint.keys;
        let (about, applications, models): (About, Hash, Hash) = redis::pipe()
            .atomic()
            .add_command(self.about_command())
            .hgetall(&keys.applications)
            .hgetall(&keys.models)
            .query_async(&mut self.connection)
            .await
            .map_err(|error| self.endpoint.explain(&error))?;
        let documents = Documents {
            applications: by_name(applications),
            models: by_name(models),
        };
        let generation = self.read_generation(about)?;
        documents
            .catalog(generation)
            .map_err(|reason| self.endpoint.corrupt(&reason))
    }

    fn about_command(&self) -> redis::Cmd {
        let mut command = redis::cmd("HMGET");
        command
            .arg(&self.endpoint.keys.generation)
            .arg(&["incarnation", "number", "schema"]);
        command
    }

    fn read_generation(&self, (incarnation, number, schema): About) -> Result<Generation, StoreError> {
        if let Some(schema) = schema
            && !schema.parse::<u32>().is_ok_and(|schema| schema <= SCHEMA)
        {
            return Err(self.endpoint.corrupt(&document::newer_schema(&schema)));
        }
        let number = match number {
            None => 0,
            Some(number) => number.parse().map_err(|_| {
                self.endpoint
                    .corrupt(&format!("its generation's number is `{number}`"))
            })?,
        };
        Ok(Generation {
            incarnation: incarnation.unwrap_or_default(),
            number,
        })
    }

    /// Writes all of `changes` or none, and returns the generation they got.
    pub(super) async fn commit(
        &mut self,
        changes: &[Change],
        expected: &Generation,
    ) -> Result<Generation, Failure> {
        let reply: Vec<String> = self
            .commit_command(changes, expected)
            .query_async(&mut self.connection)
            .await
            .map_err(|error| self.failure(&error))?;
        let reply: Vec<&str> = reply.iter().map(String::as_str).collect();
        let generation = |incarnation: &str, number: &str| {
            self.read_generation((Some(incarnation.into()), Some(number.into()), None))
                .map_err(Failure::Over)
        };
        match reply[..] {
            ["committed", incarnation, number] => generation(incarnation, number),
            ["conflict", incarnation, number] => Err(Failure::Refused(StoreError::Conflict {
                expected: expected.clone(),
                actual: generation(incarnation, number)?,
            })),
            ["newer", schema] => Err(self.unusable(&document::newer_schema(schema))),
            ["unreadable", reason] => Err(self.unusable(reason)),
            _ => Err(self.unusable(&format!("the commit script answered {reply:?}"))),
        }
    }

    fn commit_command(&self, changes: &[Change], expected: &Generation) -> redis::Cmd {
        let keys = &self.endpoint.keys;
        let mut command = redis::cmd("EVAL");
        command
            .arg(COMMIT)
            .arg(3)
            .arg(&keys.generation)
            .arg(&keys.applications)
            .arg(&keys.models)
            .arg(&expected.incarnation)
            .arg(expected.number)
            .arg(document::fresh_incarnation())
            .arg(SCHEMA)
            .arg(&keys.changes);
        for Edit { kind, name, document } in changes.iter().map(Edit::from) {
            // The place of the kind's hash among the script's keys.
            let key = match kind {
                Kind::Application => 2,
                Kind::Model => 3,
            };
            command.arg(key).arg(name).arg(document.unwrap_or_default());
        }
        command
    }

    /// Takes the next query block: the one after the last, `start` if there was none, and in any case one
    /// above `floor`.
    pub(super) async fn next_query_block(&mut self, start: u64, floor: Option<u64>) -> Result<u64, Failure> {
        let key = self.endpoint.keys.query_block.clone();
        // One transaction. INCR answers the number after the one it finds, so one less is what is set.
        let mut take = redis::pipe();
        take.atomic()
            .cmd("SET")
            .arg(&key)
            .arg(start.saturating_sub(1))
            .arg("NX")
            .ignore()
            .incr(&key, 1);
        let (block,): (u64,) = self.query(&take).await?;
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

    async fn query<T: redis::FromRedisValue>(&mut self, commands: &redis::Pipeline) -> Result<T, Failure> {
        commands
            .query_async(&mut self.connection)
            .await
            .map_err(|error| self.failure(&error))
    }

    fn failure(&self, error: &RedisError) -> Failure {
        let explained = self.endpoint.explain(error);
        if goes_on_after(error) {
            Failure::Refused(explained)
        } else {
            Failure::Over(explained)
        }
    }

    fn unusable(&self, reason: &str) -> Failure {
        Failure::Over(self.endpoint.corrupt(reason))
    }
}

/// A catalog's incarnation, number and schema, each if it is there.
type About = (Option<String>, Option<String>, Option<String>);

/// Names as text; one that is not UTF-8 is refused when its document is read, under a name made readable.
fn by_name(hash: HashMap<Vec<u8>, Vec<u8>>) -> Vec<(String, Vec<u8>)> {
    hash.into_iter()
        .map(|(name, json)| (String::from_utf8_lossy(&name).into_owned(), json))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(url: &str) -> Result<Endpoint, InvalidUrl> {
        Endpoint::new(url, &ClusterName::new("blue").unwrap())
    }

    #[test]
    fn what_is_shown_of_a_url_holds_no_password() {
        let good = endpoint("redis://app:s3cret@redis.example:6380/2").unwrap();
        assert_eq!(good.to_string(), "redis.example:6380");
        for bad in [
            "redis://app:s3cret@redis.example/two",
            "http://app:s3cret@redis.example",
            "redis://app:s3cret@redis.example:port",
            "rediss://app:s3cret@redis.example",
            "redis://app:s3cret@",
        ] {
            let error = endpoint(bad).err().expect(bad).to_string();
            assert!(!error.contains("s3cret") && error.contains("redis://"), "{error}");
        }
    }

    #[test]
    fn the_keys_of_a_cluster_share_a_hash_tag() {
        let keys = endpoint("redis://localhost").unwrap().keys;
        for key in [
            keys.generation,
            keys.applications,
            keys.models,
            keys.query_block,
            keys.changes,
        ] {
            assert!(key.starts_with("{skysail:blue}:"), "{key}");
        }
    }
}

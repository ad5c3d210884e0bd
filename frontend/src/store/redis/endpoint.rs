//! The address of a cluster's Redis, how to connect to it, and explanations of its failures.

use std::fmt;
use std::time::Duration;

use redis::aio::{MultiplexedConnection, PubSubStream};
use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, ErrorKind, IntoConnectionInfo, ProtocolVersion,
    RedisError, RedisResult, ServerErrorKind, TlsCertificates,
};
use skysail_proto::ids::ClusterName;
use tokio::time::timeout;

use crate::store::StoreError;

/// The longest wait for an answer. A Redis that hangs counts as away.
pub(super) const RESPONSE_TIMEOUT: Duration = Duration::from_secs(2);

/// The longest wait for a connection, which takes several round trips.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A URL or a certificate that leads to no Redis. The URL itself is not repeated: it may hold a password.
#[derive(Debug, thiserror::Error)]
pub enum InvalidUrl {
    /// The URL does not name a Redis.
    #[error(
        "the Redis URL is not valid ({reason}): write redis://[[USER]:PASSWORD@]HOST[:PORT][/DB], or rediss:// \
         for TLS, with special characters in the password percent-encoded"
    )]
    Url {
        /// What is wrong with the URL.
        reason: String,
    },
    /// The certificates to trust cannot be used.
    #[error("the certificates to trust cannot be used with this Redis URL: {reason}")]
    Authority {
        /// What is wrong with them.
        reason: String,
    },
}

/// Why a request failed.
pub(super) enum Failure {
    /// Redis answered, and refused this request.
    Refused(StoreError),
    /// Redis answered that it is a replica now and takes no writes. The session is over, because the next
    /// session may find the primary.
    Demoted(StoreError),
    /// The session is over, or shows a store that cannot be used.
    Over(StoreError),
    /// The session is over, and the write may have been carried out before. Holds the reason of the end.
    Unanswered(String),
}

impl Failure {
    /// Redis' own refusal, if it answered with one.
    pub(super) fn refusal(&self) -> Option<&StoreError> {
        match self {
            Self::Refused(error) | Self::Demoted(error) => Some(error),
            Self::Over(_) | Self::Unanswered(_) => None,
        }
    }

    /// The error for the caller of the request.
    pub(super) fn into_error(self) -> StoreError {
        match self {
            Self::Refused(error) | Self::Demoted(error) | Self::Over(error) => error,
            Self::Unanswered(why) => StoreError::Unanswered(why),
        }
    }

    /// Why the session is over; `None` if it goes on.
    pub(super) fn outage(&self) -> Option<StoreError> {
        match self {
            Self::Refused(_) => None,
            Self::Demoted(outage) | Self::Over(outage) => Some(outage.clone()),
            Self::Unanswered(why) => Some(StoreError::Unavailable(why.clone())),
        }
    }

    /// Turns the failure of a write that was sent into "may have been carried out", if the session is over.
    pub(super) fn of_a_write(self) -> Self {
        match self {
            Self::Over(StoreError::Unavailable(why)) => Self::Unanswered(why),
            other => other,
        }
    }
}

/// A cluster's Redis and the names of its keys.
#[derive(Clone)]
pub(super) struct Endpoint {
    client: Client,
    pub(super) keys: Keys,
}

#[derive(Clone)]
pub(super) struct Keys {
    pub(super) generation: String,
    pub(super) documents: String,
    pub(super) query_block: String,
    pub(super) frontends: String,
    pub(super) frontend_expiries: String,
    pub(super) lease: String,
    pub(super) held_back: String,
    pub(super) restore: String,
    pub(super) changes: String,
}

impl fmt::Display for Endpoint {
    /// Host and port, without user and password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.client.get_connection_info().addr().fmt(f)
    }
}

/// The host and port of a URL, where it names one.
pub fn host_of(url: &str) -> Option<(String, u16)> {
    match url.into_connection_info().ok()?.addr() {
        ConnectionAddr::Tcp(host, port) | ConnectionAddr::TcpTls { host, port, .. } => {
            Some((host.clone(), *port))
        }
        _ => None,
    }
}

impl Endpoint {
    /// `authority` holds the certificates to trust instead of the public authorities, in PEM.
    pub(super) fn new(url: &str, cluster: &ClusterName, authority: Option<&str>) -> Result<Self, InvalidUrl> {
        let invalid = |error: RedisError| InvalidUrl::Url {
            reason: error.to_string(),
        };
        let info = url.into_connection_info().map_err(invalid)?;
        // RESP2, which every server and proxy speaks; no CLIENT SETINFO, which some refuse.
        let settings = info
            .redis_settings()
            .clone()
            .set_protocol(ProtocolVersion::RESP2)
            .set_skip_set_lib_name();
        let tcp = info.tcp_settings().clone().set_nodelay(true);
        let info = info.set_redis_settings(settings).set_tcp_settings(tcp);
        let client = match authority {
            None => Client::open(info).map_err(invalid)?,
            Some(pem) => {
                let certificates = TlsCertificates {
                    client_tls: None,
                    root_cert: Some(pem.into()),
                };
                Client::build_with_tls(info, certificates).map_err(|error| InvalidUrl::Authority {
                    reason: error.to_string(),
                })?
            }
        };
        Ok(Self {
            client,
            keys: Keys::of(cluster),
        })
    }

    pub(super) async fn connect(&self) -> Result<MultiplexedConnection, StoreError> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_TIMEOUT))
            .set_response_timeout(Some(RESPONSE_TIMEOUT));
        self.client
            .get_multiplexed_async_connection_with_config(&config)
            .await
            .map_err(|error| self.explain_connecting(&error))
    }

    /// Explains a failed connection. A TLS server that is asked without TLS, or the reverse, says nothing or
    /// hangs up.
    fn explain_connecting(&self, error: &RedisError) -> StoreError {
        let tls = matches!(
            self.client.get_connection_info().addr(),
            ConnectionAddr::TcpTls { .. }
        );
        let said = if tls && error.is_timeout() {
            let seconds = CONNECT_TIMEOUT.as_secs();
            format!("did not answer within {seconds} s: if it runs, is this its port for TLS?")
        } else if !tls && error.is_connection_dropped() && !error.is_connection_refusal() {
            "hung up at once: is this its port for TLS (rediss://)?".to_owned()
        } else {
            return self.explain(error);
        };
        StoreError::Unavailable(self.says(&said))
    }

    pub(super) async fn subscribe(&self) -> RedisResult<PubSubStream> {
        let subscribing = async {
            let mut subscription = self.client.get_async_pubsub().await?;
            subscription.subscribe(&self.keys.changes).await?;
            Ok(subscription.into_on_message())
        };
        // A connection for messages has no timeouts of its own.
        timeout(CONNECT_TIMEOUT, subscribing)
            .await
            .unwrap_or_else(|_| Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into()))
    }

    /// Explains a failure for a person.
    pub(super) fn explain(&self, error: &RedisError) -> StoreError {
        let code = server_code(error);
        let words = server_words(error).unwrap_or_else(|| error.to_string());
        let said = match code.as_deref() {
            _ if error.is_connection_refusal() => "refuses connections: is it running?".into(),
            _ if error.is_timeout() => format!("did not answer within {} s", RESPONSE_TIMEOUT.as_secs()),
            _ if error.kind() == ErrorKind::AuthenticationFailed => {
                "refused to authenticate: are user and password right?".into()
            }
            _ if words.contains("invalid peer certificate") => format!(
                "{words}: name the file of the authority that signed it with --store-ca, and the host as the \
                 certificate does"
            ),
            Some("NOAUTH") => "wants a password: write it into the URL".into(),
            Some("WRONGTYPE") => return StoreError::Corrupt(self.says(&words)),
            _ => words,
        };
        StoreError::Unavailable(self.says(&said))
    }

    /// Like [`Self::explain`]. For a key of another type it asks which key that is, and says what to do about
    /// it.
    pub(super) async fn explain_asking(
        &self,
        error: &RedisError,
        connection: &mut MultiplexedConnection,
    ) -> StoreError {
        let explained = self.explain(error);
        if !matches!(explained, StoreError::Corrupt(_)) {
            return explained;
        }
        match self.misused_key(connection).await {
            Some(misused) => self.corrupt(&misused),
            None => explained,
        }
    }

    /// Names the first key whose type is not the expected one, and says what to do about it.
    pub(super) async fn misused_key(&self, connection: &mut MultiplexedConnection) -> Option<String> {
        let keys = self.keys.with_types();
        let mut asking = redis::pipe();
        for (key, ..) in &keys {
            asking.cmd("TYPE").arg(key);
        }
        let found: Vec<String> = asking.query_async(connection).await.ok()?;
        let (key, expected, afterwards, is) =
            keys.iter().zip(&found).find_map(|((key, expected, then), is)| {
                (is != expected && is != "none").then_some((key, expected, then, is))
            })?;
        Some(misused(key, &format!("is a {is}, not a {expected}"), *afterwards))
    }

    /// The consequence of a failed command for the session; asks as [`Self::explain_asking`] does.
    pub(super) async fn failure_asking(
        &self,
        error: &RedisError,
        connection: &mut MultiplexedConnection,
    ) -> Failure {
        match self.failure(error) {
            Failure::Refused(StoreError::Corrupt(_)) => {
                Failure::Refused(self.explain_asking(error, connection).await)
            }
            other => other,
        }
    }

    /// The consequence of a failed command for the session.
    pub(super) fn failure(&self, error: &RedisError) -> Failure {
        let explained = self.explain(error);
        let refusal = |explained| match explained {
            StoreError::Unavailable(why) => StoreError::Refuses(why),
            other => other,
        };
        match error.kind() {
            ErrorKind::Server(ServerErrorKind::ReadOnly) => Failure::Demoted(refusal(explained)),
            // Redis does not answer anything yet, or not by itself.
            ErrorKind::Server(
                ServerErrorKind::BusyLoading | ServerErrorKind::MasterDown | ServerErrorKind::ClusterDown,
            ) => Failure::Refused(explained),
            ErrorKind::Server(_) | ErrorKind::Extension => Failure::Refused(refusal(explained)),
            _ => Failure::Over(explained),
        }
    }

    /// The consequence of a failed write. A write that was sent may have been carried out.
    pub(super) fn failed_write(&self, error: &RedisError) -> Failure {
        let failure = self.failure(error);
        if error.is_connection_refusal() {
            return failure;
        }
        failure.of_a_write()
    }

    pub(super) fn says(&self, what: &str) -> String {
        format!("redis at {self}: {what}")
    }

    pub(super) fn corrupt(&self, what: &str) -> StoreError {
        StoreError::Corrupt(self.says(what))
    }
}

/// What happens once an operator moved a misused key away.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Afterwards {
    /// The store makes the key again.
    MadeAnew,
    /// The key's content is lost, and an operator has to settle it.
    Lost,
}

/// The sentence about a key that another program wrote.
fn misused(key: &str, how: &str, afterwards: Afterwards) -> String {
    let then = match afterwards {
        Afterwards::MadeAnew => "it is made anew then",
        Afterwards::Lost => "then say `skysail cluster restore`, which writes back what the frontends hold",
    };
    format!("key {key} {how}: move it away (`RENAME {key} {key}-aside` in redis-cli); {then}")
}

/// The sentence about a query block that is not a number.
pub(super) fn no_number(key: &str) -> String {
    misused(key, "holds no number", Afterwards::MadeAnew)
}

impl Keys {
    /// Each key with its type, as Redis calls it.
    fn with_types(&self) -> [(&str, &'static str, Afterwards); 8] {
        use Afterwards::{Lost, MadeAnew};
        [
            (&self.generation, "hash", Lost),
            (&self.documents, "hash", Lost),
            (&self.query_block, "string", MadeAnew),
            (&self.frontends, "hash", MadeAnew),
            (&self.frontend_expiries, "zset", MadeAnew),
            (&self.lease, "hash", MadeAnew),
            (&self.held_back, "hash", MadeAnew),
            (&self.restore, "string", MadeAnew),
        ]
    }

    fn of(cluster: &ClusterName) -> Self {
        let key = |name: &str| format!("{{skysail:{cluster}}}:{name}");
        Self {
            generation: key("generation"),
            documents: key("documents"),
            query_block: key("query-block"),
            frontends: key("frontends"),
            frontend_expiries: key("frontend-expiries"),
            lease: key("lease"),
            held_back: key("held-back"),
            restore: key("restore"),
            changes: key("changes"),
        }
    }
}

/// The word that an error reply begins with, also inside a transaction.
fn server_code(error: &RedisError) -> Option<String> {
    let errors = error.clone().into_server_errors()?;
    errors.first().map(|(_, error)| error.code().to_owned())
}

/// The server's own words, also inside a transaction, without the position in a script.
fn server_words(error: &RedisError) -> Option<String> {
    let errors = error.clone().into_server_errors()?;
    let (_, error) = errors.first()?;
    let details = error.details().unwrap_or_default();
    let (details, _script) = details.split_once(" script: ").unwrap_or((details, ""));
    Some(format!("{} {details}", error.code()).trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(url: &str) -> Result<Endpoint, InvalidUrl> {
        Endpoint::new(url, &ClusterName::new("blue").unwrap(), None)
    }

    #[test]
    fn what_is_shown_of_a_url_holds_no_password() {
        for good in [
            "redis://app:s3cret@redis.example:6380/2",
            "rediss://app:s3cret@redis.example:6380/2",
        ] {
            assert_eq!(endpoint(good).unwrap().to_string(), "redis.example:6380");
        }
        for bad in [
            "redis://app:s3cret@redis.example/two",
            "http://app:s3cret@redis.example",
            "redis://app:s3cret@redis.example:port",
            "rediss://app:s3cret@redis.example:port",
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
            keys.documents,
            keys.query_block,
            keys.frontends,
            keys.frontend_expiries,
            keys.lease,
            keys.held_back,
            keys.restore,
            keys.changes,
        ] {
            assert!(key.starts_with("{skysail:blue}:"), "{key}");
        }
    }
}

//! Decides which containers become replicas of a version: those with a token, or all if the version is open.
//!
//! A version that Skysail runs containers for is never open. A version whose containers attach by themselves is open
//! in two cases: it was registered as open, or container RPC can be reached from this machine only. Each frontend
//! looks at its own addresses. If it binds other addresses at its next start, it asks for tokens from then on.

use skysail_container_rpc::server::Refusal;
use skysail_container_rpc::session::Registration;
use skysail_core::catalog::Secret;
use skysail_core::container_token::{Bearer, Subject, check};
use skysail_proto::error_code::ErrorCode;
use skysail_proto::ids::ModelId;

use super::handle::ModelHandle;

/// The rules for registrations of all versions.
#[derive(Debug, Default)]
pub(super) struct Registrar {
    /// The cluster's key in the newest catalog that was followed. It stays while the store is away. Without a key no
    /// token is good.
    pub(super) key: Option<Secret>,
    /// Whether container RPC can be reached from this machine only.
    pub(super) on_this_machine_only: bool,
}

impl Registrar {
    /// Returns the start of the container that registers, or why it is refused. The start of a container started by
    /// hand is empty.
    pub(super) fn admit(&self, model: &ModelHandle, registration: &Registration) -> Result<String, Refusal> {
        let subject = Subject {
            model: &model.id,
            registered_at: model.registered_at,
        };
        let bearer = self
            .key
            .as_ref()
            .and_then(|key| check(key, subject, &registration.replica, &registration.token));
        match bearer {
            Some(Bearer::Started(start)) => Ok(start),
            Some(Bearer::Joined) => Ok(String::new()),
            None if self.is_open(model) => Ok(String::new()),
            None => Err(refusal(&model.id, registration)),
        }
    }

    fn is_open(&self, model: &ModelHandle) -> bool {
        let by_itself = model.spec.deployment.is_none();
        by_itself && (model.spec.open || self.on_this_machine_only)
    }
}

fn refusal(model: &ModelId, registration: &Registration) -> Refusal {
    let found = if registration.token.is_empty() {
        format!("model {model} asks containers for a token, and SKYSAIL_TOKEN is empty")
    } else {
        let replica = &registration.replica;
        format!("the token in SKYSAIL_TOKEN is not one for replica {replica} of model {model}")
    };
    Refusal {
        code: ErrorCode::PermissionDenied,
        reason: format!("{found}: start it with the one that `skysail model show {model} --token` prints"),
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use skysail_core::container_token::{join_token, start_token};
    use skysail_proto::ids::ReplicaId;

    use super::super::tests::{handle_of, spec};
    use super::*;

    const KEY: Secret = Secret::new([7; Secret::BYTES]);

    fn id() -> ModelId {
        "model:1".parse().unwrap()
    }

    fn subject(id: &ModelId) -> Subject<'_> {
        Subject {
            model: id,
            registered_at: Timestamp::UNIX_EPOCH,
        }
    }

    /// Registers a container that shows `token`, for a version with this `open`, at a frontend with this
    /// `on_this_machine_only`.
    fn admitted(token: &str, open: bool, on_this_machine_only: bool) -> Result<String, Refusal> {
        let mut spec = spec();
        spec.open = open;
        let registrar = Registrar {
            key: Some(KEY),
            on_this_machine_only,
        };
        let registration = Registration {
            model: id(),
            signature: spec.signature.clone(),
            annotations: [].into(),
            replica: ReplicaId::new("r").unwrap(),
            token: token.to_owned(),
            hostname: String::new(),
            pid: 1,
            agent: String::new(),
            recent_batches: Vec::new(),
        };
        registrar.admit(&handle_of(spec), &registration)
    }

    #[test]
    fn a_version_that_anybody_can_reach_asks_for_a_token_unless_it_is_open() {
        for (open, on_this_machine_only, taken) in [
            (false, false, false),
            (true, false, true),
            (false, true, true),
            (true, true, true),
        ] {
            for token in ["", "a.b"] {
                let admitted = admitted(token, open, on_this_machine_only);
                assert_eq!(admitted.is_ok(), taken, "{open} {on_this_machine_only} {token}");
            }
        }
    }

    #[test]
    fn a_refusal_names_the_remedy_and_not_the_token() {
        for token in ["", "secret.deadbeef"] {
            let refusal = admitted(token, false, false).unwrap_err();
            assert_eq!(refusal.code, ErrorCode::PermissionDenied);
            let reason = refusal.reason;
            assert!(reason.contains("skysail model show model:1 --token"), "{reason}");
            assert!(!reason.contains("secret"), "{reason}");
        }
    }

    #[test]
    fn only_a_start_token_names_a_start() {
        let (id, replica) = (id(), ReplicaId::new("r").unwrap());
        let started = start_token(&KEY, &id, &replica, "abc");
        assert_eq!(admitted(&started, false, false), Ok("abc".to_owned()));
        let joined = join_token(&KEY, subject(&id));
        assert_eq!(admitted(&joined, false, false), Ok(String::new()));
    }
}

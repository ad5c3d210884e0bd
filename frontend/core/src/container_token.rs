//! Tokens by which a model container shows that it belongs to a version.
//!
//! A token is `nonce.code`, and the code is an HMAC-SHA256 under the cluster's key of what the token is for. Any
//! frontend that knows the key checks one by itself: nobody keeps a list of tokens, so that none is lost with a
//! frontend or a store.
//!
//! There are two kinds. A **start token** is for one start of one replica: the runtime gives it to the container
//! it starts, and its nonce names that start ([`Bearer::Started`]). A **join token** is for any replica of a
//! version: a person gives it to containers started by hand. It can be made again at any time, and ends with the
//! version: one registered anew under the same name has another.

use jiff::Timestamp;
use ring::hmac;
use skysail_proto::ids::{ModelId, ReplicaId};

use crate::catalog::Secret;

/// The version that a token is for.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// Which.
    pub model: &'a ModelId,
    /// When it was registered.
    pub registered_at: Timestamp,
}

/// What showed a good token.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Bearer {
    /// The container of this start.
    Started(String),
    /// A container started by hand.
    Joined,
}

/// The token for one start of a replica.
pub fn start_token(key: &Secret, model: &ModelId, replica: &ReplicaId, start: &str) -> String {
    written(start, &code(key, &start_fields(model, replica, start)))
}

/// The token for any replica of a version.
pub fn join_token(key: &Secret, subject: Subject<'_>) -> String {
    let registered_at = subject.registered_at.to_string();
    let nonce = code(key, &fields("join nonce", subject.model, &[&registered_at]));
    let nonce = &hex(nonce.as_ref())[..NONCE_DIGITS];
    written(nonce, &code(key, &join_fields(subject, nonce)))
}

/// Who shows this token for a replica of a version; `None` if it is not a good one.
///
/// Takes as long whatever of the code is wrong.
pub fn check(key: &Secret, subject: Subject<'_>, replica: &ReplicaId, token: &str) -> Option<Bearer> {
    let (nonce, code) = token.split_once('.')?;
    let code = Secret::from_hex(code)?;
    let is_for = |message: &[u8]| hmac::verify(&hmac_key(key), message, code.bytes()).is_ok();
    if is_for(&start_fields(subject.model, replica, nonce)) {
        return Some(Bearer::Started(nonce.to_owned()));
    }
    is_for(&join_fields(subject, nonce)).then_some(Bearer::Joined)
}

/// Tells keys apart, and says nothing of them: containers that were started under another key hold tokens that
/// are worth nothing.
pub fn fingerprint(key: &Secret) -> String {
    let code = hmac::sign(&hmac_key(key), b"fingerprint");
    hex(&code.as_ref()[..8])
}

/// As long as the nonce of a start.
const NONCE_DIGITS: usize = 32;

fn start_fields(model: &ModelId, replica: &ReplicaId, nonce: &str) -> Vec<u8> {
    fields("start token", model, &[replica.as_str(), nonce])
}

fn join_fields(subject: Subject<'_>, nonce: &str) -> Vec<u8> {
    let registered_at = subject.registered_at.to_string();
    fields("join token", subject.model, &[&registered_at, nonce])
}

/// What a code is made of: each field behind its length, so that no two lists of fields are the same bytes.
fn fields(purpose: &str, model: &ModelId, more: &[&str]) -> Vec<u8> {
    let mut message = Vec::new();
    let first = [purpose, model.name.as_str(), model.version.as_str()];
    for field in first.iter().chain(more) {
        message.extend((field.len() as u64).to_be_bytes());
        message.extend(field.as_bytes());
    }
    message
}

fn code(key: &Secret, message: &[u8]) -> hmac::Tag {
    hmac::sign(&hmac_key(key), message)
}

fn hmac_key(key: &Secret) -> hmac::Key {
    hmac::Key::new(hmac::HMAC_SHA256, key.bytes())
}

fn written(nonce: &str, code: &hmac::Tag) -> String {
    format!("{nonce}.{}", hex(code.as_ref()))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KEY: Secret = Secret::new([7; Secret::BYTES]);

    fn model(id: &str) -> ModelId {
        id.parse().unwrap()
    }

    fn replica(id: &str) -> ReplicaId {
        ReplicaId::new(id).unwrap()
    }

    fn checked(key: &Secret, id: &str, named: &str, token: &str) -> Option<Bearer> {
        let model = model(id);
        let subject = Subject {
            model: &model,
            registered_at: Timestamp::UNIX_EPOCH,
        };
        check(key, subject, &replica(named), token)
    }

    fn join(id: &str, second: i64) -> String {
        let subject = Subject {
            model: &model(id),
            registered_at: Timestamp::from_second(second).unwrap(),
        };
        join_token(&KEY, subject)
    }

    #[test]
    fn a_start_token_is_good_for_its_replica_alone_and_names_its_start() {
        let token = start_token(&KEY, &model("m:1"), &replica("m_1_0"), "abc");
        let started = Some(Bearer::Started("abc".into()));
        assert_eq!(checked(&KEY, "m:1", "m_1_0", &token), started);
        assert_eq!(checked(&KEY, "m:1", "m_1_1", &token), None);
        assert_eq!(checked(&KEY, "m:2", "m_1_0", &token), None);
        assert_eq!(checked(&KEY, "n:1", "m_1_0", &token), None);
        let other = Secret::new([8; Secret::BYTES]);
        assert_eq!(checked(&other, "m:1", "m_1_0", &token), None);
        // The nonce is under the code as well.
        assert_eq!(checked(&KEY, "m:1", "m_1_0", &token.replace("abc", "abd")), None);
    }

    #[test]
    fn a_join_token_is_good_for_any_replica_of_its_version_until_that_is_registered_anew() {
        let token = join("m:1", 0);
        assert_eq!(token, join("m:1", 0), "it can be shown again");
        for name in ["m_1_0", "my-laptop"] {
            assert_eq!(checked(&KEY, "m:1", name, &token), Some(Bearer::Joined));
            assert_eq!(checked(&KEY, "m:2", name, &token), None);
            assert_eq!(checked(&KEY, "m:1", name, &join("m:1", 1)), None);
        }
    }

    #[test]
    fn what_is_no_token_is_not_good() {
        let token = start_token(&KEY, &model("m:1"), &replica("r"), "abc");
        let cut = &token[..token.len() - 2];
        let longer = format!("{token}00");
        for bad in [
            "",
            ".",
            "abc",
            "abc.",
            ".abc",
            cut,
            &longer,
            &token.replace('.', ""),
        ] {
            assert_eq!(checked(&KEY, "m:1", "r", bad), None, "{bad}");
        }
    }

    #[test]
    fn a_fingerprint_tells_keys_apart() {
        let other = Secret::new([8; Secret::BYTES]);
        assert_ne!(fingerprint(&KEY), fingerprint(&other));
        assert_eq!(fingerprint(&KEY).len(), 16);
    }

    proptest! {
        #[test]
        fn no_two_lists_of_fields_are_the_same_bytes(
            one in prop::collection::vec("[ab.]{0,3}", 0..4),
            other in prop::collection::vec("[ab.]{0,3}", 0..4),
        ) {
            let bytes = |list: &[String]| {
                let list: Vec<&str> = list.iter().map(String::as_str).collect();
                fields("p", &model("m:1"), &list)
            };
            prop_assert_eq!(one == other, bytes(&one) == bytes(&other));
        }

        #[test]
        fn a_token_with_one_digit_changed_is_not_good(at in 0_usize..64) {
            let token = start_token(&KEY, &model("m:1"), &replica("r"), "abc");
            let mut bytes = token.into_bytes();
            let at = "abc.".len() + at;
            bytes[at] = if bytes[at] == b'0' { b'1' } else { b'0' };
            let changed = String::from_utf8(bytes).unwrap();
            prop_assert_eq!(checked(&KEY, "m:1", "r", &changed), None);
        }
    }
}

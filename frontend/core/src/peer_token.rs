//! Tokens by which a frontend shows another one that it belongs to the same cluster.
//!
//! A token is an HMAC-SHA256 under a key that every frontend reads from the metadata store (`container_key` of the
//! settings), over a purpose of its own and the id of the frontend that is asked. So a token that was sent to an
//! address which somebody else has by now opens no other frontend, and a model container's token opens none.

use ring::hmac;

use crate::catalog::Secret;

/// Keeps these codes apart from all others under the same key.
const PURPOSE: &[u8] = b"peer token\0";

/// The token to show to the frontend `asked`.
pub fn peer_token(key: &Secret, asked: &str) -> String {
    let code = hmac::sign(&hmac_key(key), &message(asked));
    code.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Whether a token is good at the frontend `own`. Takes as long whatever of it is wrong.
pub fn is_peer(key: &Secret, own: &str, token: &str) -> bool {
    let code = Secret::from_hex(token);
    code.is_some_and(|code| hmac::verify(&hmac_key(key), &message(own), code.bytes()).is_ok())
}

fn message(asked: &str) -> Vec<u8> {
    [PURPOSE, asked.as_bytes()].concat()
}

fn hmac_key(key: &Secret) -> hmac::Key {
    hmac::Key::new(hmac::HMAC_SHA256, key.bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: Secret = Secret::new([7; Secret::BYTES]);

    #[test]
    fn a_token_is_good_at_the_frontend_it_was_made_for_and_under_its_key_only() {
        let token = peer_token(&KEY, "a");
        assert!(is_peer(&KEY, "a", &token));
        assert!(!is_peer(&KEY, "b", &token));
        assert!(!is_peer(&Secret::new([8; Secret::BYTES]), "a", &token));
        let cut = &token[..63];
        for bad in ["", cut, &format!("{cut}g"), &"0".repeat(64), &format!("{token}0")] {
            assert!(!is_peer(&KEY, "a", bad), "{bad}");
        }
    }

    #[test]
    fn a_containers_token_opens_no_frontend() {
        let model = "m:1".parse().unwrap();
        let token = crate::container_token::start_token(&KEY, &model, &"m_1_0".parse().unwrap(), "a");
        let code = token.split_once('.').unwrap().1;
        assert!(!is_peer(&KEY, "a", &token) && !is_peer(&KEY, "a", code));
    }
}

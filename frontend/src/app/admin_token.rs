//! The token that admin REST asks for, according to the configuration.

use tracing::{info, warn};

use super::BuildError;
use crate::admin::access::token::{Asks, TokenFile};
use crate::config::Config;

/// The configured token if there is one; the cluster's token if admin REST is exposed beyond loopback;
/// otherwise none.
pub(super) fn asks(config: &Config) -> Result<Asks, BuildError> {
    if !config.roles.control {
        return Ok(Asks::Nothing);
    }
    if let Some(file) = &config.admin_token {
        return Ok(Asks::Given(file.clone()));
    }
    if !config.is_admin_exposed() {
        return Ok(Asks::Nothing);
    }
    let path = config.made_token.clone().unwrap_or_default();
    let made = TokenFile::made(&path);
    made.map(Asks::Clusters)
        .map_err(|cause| BuildError::AdminToken { path, cause })
}

/// Logs the path of the token.
pub(super) fn log(asks: &Asks) {
    let (Asks::Given(file) | Asks::Clusters(file)) = asks else {
        return;
    };
    let path = file.path.display();
    info!(file = %path, "admin REST asks for the token in this file");
    if file.is_open_to_others() {
        warn!(file = %path, "every user of this machine can read the admin token: chmod 600");
    }
}

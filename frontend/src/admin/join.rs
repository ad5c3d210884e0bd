//! What a container needs to join a version: the cluster's key, which tokens are made with, and the version's own
//! join token.

use skysail_core::catalog::{Catalog, Change, Document, Secret, Settings};
use skysail_core::container_token::{Subject, join_token};
use skysail_core::rules::{model, version_of};
use skysail_proto::admin::JoinToken;
use skysail_proto::error_code::ErrorCode;
use skysail_proto::ids::ModelId;

use super::{AdminError, AdminService};

/// These changes, with a key for the cluster if it has none. A store is given one with the first change that a
/// person asks for, and not before: an empty store may be one that lost everything.
pub(super) fn with_key(catalog: &Catalog, mut changes: Vec<Change>) -> Vec<Change> {
    let put = changes.iter_mut().find_map(|change| match change {
        Change::Put(Document::Settings(settings)) => Some(settings),
        _ => None,
    });
    match put {
        Some(settings) => {
            let known = catalog.settings.container_key.clone();
            let key = || known.unwrap_or_else(fresh_key);
            settings.container_key.get_or_insert_with(key);
        }
        None if catalog.settings.container_key.is_none() => changes.push(Change::put(Settings {
            container_key: Some(fresh_key()),
            ..Settings::clone(&catalog.settings)
        })),
        None => {}
    }
    changes
}

fn fresh_key() -> Secret {
    let random = ring::rand::generate(&ring::rand::SystemRandom::new());
    Secret::new(
        random
            .expect("the system has random numbers; this is a bug")
            .expose(),
    )
}

impl AdminService {
    /// What containers started by hand show to attach to a version.
    pub(crate) fn join_token(&self, catalog: &Catalog, id: &ModelId) -> Result<JoinToken, AdminError> {
        let registered = version_of(model(catalog, &id.name)?, &id.version)?;
        let by_itself = registered.spec.deployment.is_none();
        if by_itself && (registered.spec.open || self.is_on_one_machine()) {
            return Ok(JoinToken { token: String::new() });
        }
        let Some(key) = &catalog.settings.container_key else {
            let detail = "the metadata store holds no key to make the token with: change anything (`skysail app \
                          update`, `skysail model scale`), which writes one";
            return Err(AdminError::new(ErrorCode::Unavailable, detail));
        };
        let subject = Subject {
            model: id,
            registered_at: registered.registered_at,
        };
        Ok(JoinToken {
            token: join_token(key, subject),
        })
    }

    /// Whether the container RPC of every frontend can be reached from its own machine only, as far as there are
    /// frontends to be reached.
    fn is_on_one_machine(&self) -> bool {
        let cluster = self.cluster.look();
        let mut frontends = cluster.query_frontends().peekable();
        frontends.peek().is_some() && frontends.all(|view| view.rpc_is_local)
    }
}

#[cfg(test)]
mod tests {
    use skysail_proto::ids::ApplicationName;

    use super::*;

    fn settings(changes: &[Change]) -> Vec<&Settings> {
        let settings = changes.iter().filter_map(|change| match change {
            Change::Put(Document::Settings(settings)) => Some(settings),
            _ => None,
        });
        settings.collect()
    }

    #[test]
    fn the_first_change_brings_a_key_and_later_ones_leave_it() {
        let change = || vec![Change::delete(&"a".parse::<ApplicationName>().unwrap())];
        let first = with_key(&Catalog::default(), change());
        let [put] = settings(&first)[..] else {
            panic!("{first:?}");
        };
        assert!(put.container_key.is_some());
        let another = with_key(&Catalog::default(), change());
        assert_ne!(settings(&another)[0].container_key, put.container_key);

        let written = Catalog::default().with(&first, Default::default());
        assert_eq!(with_key(&written, change()), change());
    }

    #[test]
    fn other_settings_stay_and_settings_that_are_put_have_the_key_too() {
        let token = Some(Secret::new([1; Secret::BYTES]));
        let without_key = Settings {
            admin_token: token.clone(),
            container_key: None,
        };
        let put = vec![Change::put(without_key)];
        let written = Catalog::default().with(&put, Default::default());
        for changes in [with_key(&written, Vec::new()), with_key(&Catalog::default(), put)] {
            let [settings] = settings(&changes)[..] else {
                panic!("{changes:?}");
            };
            assert_eq!(settings.admin_token, token);
            assert!(settings.container_key.is_some());
        }
    }
}

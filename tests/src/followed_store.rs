//! A store in Redis as a frontend has it, in this process.

use std::ops::Deref;

use skysail_frontend::store::redis::{Follower, InvalidUrl, RedisStore};
use skysail_proto::ids::ClusterName;
use tokio::task::JoinSet;

/// A store, and the task that follows it. Dropping it ends both.
pub struct FollowedStore {
    store: RedisStore,
    _follower: JoinSet<()>,
}

impl FollowedStore {
    /// Connects in the background.
    pub fn connect(url: &str, cluster: &ClusterName) -> Result<Self, InvalidUrl> {
        RedisStore::at(url, cluster).map(Self::follow)
    }

    /// The same, and trusts these certificates (PEM) and no others.
    pub fn connect_trusting(url: &str, cluster: &ClusterName, authority: &str) -> Result<Self, InvalidUrl> {
        RedisStore::at_trusting(url, cluster, authority).map(Self::follow)
    }

    fn follow((store, follower): (RedisStore, Follower)) -> Self {
        let mut running = JoinSet::new();
        running.spawn(follower.run());
        Self {
            store,
            _follower: running,
        }
    }
}

impl Deref for FollowedStore {
    type Target = RedisStore;

    fn deref(&self) -> &RedisStore {
        &self.store
    }
}

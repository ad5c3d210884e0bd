//! Every decision Skysail takes, and nothing else.
//!
//! This crate reads no clock, opens no socket and spawns no task: it is given `now`, and returns what to
//! do. It is a crate and not a module because only a crate boundary keeps a policy from importing tokio or
//! Redis. In reading order:
//!
//! - [`time`]: points in time, as numbers.
//! - [`catalog`]: desired state as an immutable snapshot, and the changes that lead to the next one.
//! - [`store`]: what a store of it lost, and what ends the doubt.
//! - [`cluster`]: what the frontends of a cluster tell each other.
//! - [`container_token`]: how a container shows that it belongs to a version.
//! - [`limits`]: what a request may ask for, whatever the catalog holds.
//! - [`rules`]: what a request may change, given the catalog.
//! - [`rollout`]: which version of a model answers while a change of versions is under way.
//! - [`settling`]: when a frontend that has begun is ready.
//! - [`peer_token`]: how a frontend shows another one that it belongs to the same cluster.
//! - [`query`]: a query's outcome and the reasons for a default output.
//! - [`selection`]: which models answer a query, and what is made of their answers.
//! - [`queue`]: queries waiting for a replica, ordered by deadline.
//! - [`arrivals`]: when they came lately, and how long each was given.
//! - [`batch`]: how many of them the next batch takes, from learned batch times.
//! - [`waiting_room`]: the queries of one version: who is let in, who is taken when, and who is given up.
//! - [`dispatch`]: what one replica is sent next, and what becomes of what it was sent.
//! - [`autoscale`]: how many replicas a version needs for its load.
//! - [`reconcile`]: from desired and observed state to the actions that bring them together.
//! - [`backoff`]: growing pauses between tries.

#![warn(missing_docs)]

pub mod arrivals;
pub mod autoscale;
pub mod backoff;
pub mod batch;
pub mod catalog;
pub mod cluster;
pub mod container_token;
pub mod dispatch;
pub mod limits;
pub mod peer_token;
pub mod query;
pub mod queue;
pub mod reconcile;
pub mod rollout;
pub mod rules;
pub mod selection;
pub mod settling;
pub mod store;
pub mod time;
pub mod waiting_room;

//! Skysail's server: answers queries by their deadline, and keeps replicas running.
//!
//! A frontend is made of two planes that meet in an immutable snapshot, the catalog. This crate does I/O;
//! every decision is in `skysail-core`, the container stream in `skysail-container-rpc`. In reading order:
//!
//! - [`app`]: the composition root: builds, wires and owns everything below.
//! - [`config`]: the only reader of flags, environment and files.
//! - the query role: `query` (HTTP to typed query to answer), `model` (a cache and a queue for
//!   each version, a batcher for each replica);
//! - the control role: `admin` (requests to desired state), `leadership` (which frontend acts),
//!   `autoscaler` (numbers of replicas that follow the load),
//!   `artifacts` (files that were uploaded),
//!   `reconcile` (desired state to containers), [`runtime`] (what starts them);
//! - [`store`]: where desired state lives, for both; `cluster`: what frontends tell each other through it;
//! - `ops` (probes and metrics), `http`, `open_files`, `orphans`, `control_thread`, `health`, `metrics`,
//!   `clock`, [`logging`]:
//!   what every server needs.
//!
//! `query` and `model` reach neither the control role nor a store, which `tests/dependencies.rs` holds; `app` alone
//! sees all.

pub(crate) mod admin;
pub mod app;
pub(crate) mod artifacts;
pub(crate) mod autoscaler;
pub(crate) mod clock;
pub(crate) mod cluster;
pub mod config;
pub(crate) mod control_thread;
pub(crate) mod health;
pub(crate) mod http;
pub(crate) mod leadership;
pub mod logging;
pub(crate) mod metrics;
pub(crate) mod model;
pub(crate) mod open_files;
pub(crate) mod ops;
pub(crate) mod orphans;
pub(crate) mod peer;
pub(crate) mod query;
pub(crate) mod reconcile;
pub mod runtime;
pub mod store;

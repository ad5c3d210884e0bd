//! Models as the query path sees them. Each version has a cache and a queue, each attached replica a batcher.
//!
//! The modules, lowest first: `answers` (answers to a request's rows), [`cache`] (kept predictions, and flights),
//! [`queue`] (queries that wait for a replica), `asking` (a request's rows on their way through cache and queue),
//! `handle` (one version), `delivery` (a batch's outputs to their askers), `times` (a replica's batch times),
//! [`replica`] (attached replicas), `batcher` (one replica's loop), `registrar` (which containers may attach),
//! `table` (all versions and replicas). Each module names only modules before it.

mod answers;
mod asking;
mod batcher;
pub(crate) mod cache;
mod delivery;
mod handle;
pub(crate) mod queue;
mod registrar;
pub(crate) mod replica;
mod table;
#[cfg(test)]
mod tests;
pub(crate) mod times;

pub(crate) use answers::Asked;
pub(crate) use asking::ROWS_AT_ONCE;
pub(crate) use handle::{MAX_INPUT_BYTES, ModelHandle};
pub(crate) use table::{ModelTable, Versions};

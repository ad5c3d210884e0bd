//! Models as the query path sees them: a cache and a queue for each version, and a batcher for each attached
//! replica.
//!
//! From below: `answers` (to the rows of a request), [`cache`] (predictions, and flights on their way), [`queue`]
//! (what waits for a replica), `asking` (rows on their way through these), `handle` (one version), [`replica`] and
//! `batcher` (one replica's loop), `registrar` (which containers are taken in), `table` (all of it). Each names only
//! those before it.

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

//! The prediction cache of one model version, and the flights of predictions that are not in it yet.
//!
//! A query is one of three:
//! - A **hit** is answered from the cache at once, even if its deadline is that instant.
//! - A **join** finds an identical query on its way: they share one input of the model, see [`flight`].
//! - A **miss** leads a flight.
//!
//! Only outputs are kept, never failures. A cache belongs to the handle of its version and goes with it. A flight may
//! outlive a version that is registered anew. It then fills the old cache, which nobody reads any more.
//!
//! Allocations, as counted: a hit makes none, except one at an entry's first hit. A miss makes two more than asking
//! without a cache: the two buffers of the entry.

use std::hash::{BuildHasher, Hash, Hasher};
use std::sync::Arc;

use foldhash::quality::RandomState;
use quick_cache::sync::{Cache, DefaultLifecycle};
use quick_cache::{OptionsBuilder, Weighter};
use skysail_proto::value::{Input, Output};

use crate::metrics::CacheMetrics;

pub(crate) mod flight;
#[cfg(test)]
mod tests;

use flight::Flights;

/// What an entry weighs besides the bytes of its input and its output.
///
/// It is the entry's slot in the cache's slab, its share of the index, and three small allocations with the
/// allocator's rounding. The slab grows by doubling, which adds half as much again on average. The allocations are
/// the two buffers, and the reference count that an output gets when it is first shared. Rounding up covers what the
/// cache remembers of evicted entries.
const ENTRY_BYTES: u64 = 256;

/// What each tensor of an entry weighs besides its elements: its shape, its place in a list, and an allocation.
const TENSOR_BYTES: usize = 128;

/// The size of a typical entry. The cache derives from it how many evicted entries it remembers.
const TYPICAL_ENTRY_BYTES: u64 = 1024;

/// The number of shards, each with its own lock. There are few, because the largest output that is kept is as large
/// as a shard. More shards would not make hits faster on the few threads that serve queries.
const SHARDS: usize = 4;

/// An input with its hash, which is computed once for several look-ups. Keys are equal if their whole inputs are.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Key {
    hash: u64,
    input: Input,
}

impl Key {
    /// The same key in a buffer of its own, which keeps nothing else alive.
    fn detached(&self) -> Self {
        Self {
            hash: self.hash,
            input: self.input.detached(),
        }
    }
}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}

/// A hasher that returns the hash that a [`Key`] brings.
#[derive(Clone, Copy, Debug, Default)]
struct Brought(u64);

impl BuildHasher for Brought {
    type Hasher = Self;
    fn build_hasher(&self) -> Self {
        Self(0)
    }
}

impl Hasher for Brought {
    fn write(&mut self, _bytes: &[u8]) {
        unreachable!("keys write their hash as one number; this is a bug");
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// Weighs an entry by the bytes it takes.
#[derive(Clone, Copy, Debug)]
struct ByBytes;

impl Weighter<Key, Output> for ByBytes {
    fn weight(&self, key: &Key, output: &Output) -> u64 {
        let outputs = output.as_tensors().map_or(0, |(_, tensors)| tensors.len());
        let tensors = key.input.as_tensors().len() + outputs;
        ENTRY_BYTES + (TENSOR_BYTES * tensors + key.input.size() + output.size()) as u64
    }
}

/// The kept outputs and the flights of one version.
pub(crate) struct PredictionCache {
    entries: Cache<Key, Output, ByBytes, Brought>,
    flights: Flights,
    /// Random for each process, so that senders of inputs cannot know which of them collide.
    hashes: RandomState,
    metrics: CacheMetrics,
}

impl PredictionCache {
    /// An empty cache that holds entries of up to `capacity` bytes in all. Takes no memory until it is used.
    pub(crate) fn new(capacity: u64, metrics: CacheMetrics) -> Arc<Self> {
        let typical = usize::try_from(capacity / TYPICAL_ENTRY_BYTES).unwrap_or(usize::MAX);
        let options = OptionsBuilder::new()
            .shards(SHARDS)
            .estimated_items_capacity(typical.max(1))
            .weight_capacity(capacity)
            .build()
            .expect("both capacities are given; this is a bug");
        Arc::new(Self {
            entries: Cache::with_options(options, ByBytes, Brought::default(), DefaultLifecycle::default()),
            flights: Flights::default(),
            hashes: RandomState::default(),
            metrics,
        })
    }

    /// The key of an input, for look-ups and flights.
    pub(crate) fn key(&self, input: Input) -> Key {
        let hash = match input.as_tensors() {
            [] => self.hashes.hash_one(input.row_data()),
            // Lengths as well: the same bytes in another shape are another input.
            tensors => self.hashes.hash_one(tensors),
        };
        Key { hash, input }
    }

    /// The output that is kept for `key`, shared and not copied. Locks a shard for reading.
    pub(crate) fn hit(&self, key: &Key) -> Option<Output> {
        let output = self.entries.get(key)?;
        self.metrics.hits.inc();
        Some(output)
    }

    /// Counts `queries` misses, of queries that find no replica to ask.
    pub(crate) fn missed(&self, queries: usize) {
        self.metrics.misses.inc_by(queries as u64);
    }

    /// Keeps an output, in buffers of its own: the buffers it came in hold a whole batch.
    fn keep(&self, key: &Key, output: &Output) {
        if ByBytes.weight(key, output) <= self.entries.shard_capacity() {
            self.entries.insert(key.detached(), output.detached());
        }
    }

    /// Brings the gauges up to date.
    pub(crate) fn refresh_gauges(&self) {
        self.metrics.set_size(self.entries.len(), self.entries.weight());
    }
}

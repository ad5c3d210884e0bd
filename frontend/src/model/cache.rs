//! The prediction cache of one model version, and the flights of what is not in it yet.
//!
//! A query is a **hit** (answered from the cache, at once, also if its deadline is that instant), a **join** (an identical query is on its way: they share one input of the
//! model, see [`flight`]) or a **miss** (it leads a flight). Only outputs are kept, never failures. A cache
//! belongs to the handle of its version and goes with it: a flight that outlives a version that was
//! registered anew fills the old cache, which nobody reads any more.
//!
//! Counted: a hit allocates nothing (an entry's first hit once), a miss two buffers more than asking without a
//! cache, those of the entry.

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
/// Its slot in the cache's slab, which grows by doubling (half as much again on average), its share of the
/// index, and three small allocations with the allocator's rounding: the two buffers, and the reference
/// count that an output gets when it is shared for the first time. What the cache remembers of evicted
/// entries is in the round-up.
const ENTRY_BYTES: u64 = 256;

/// A typical entry, from which the cache sizes what it remembers of evicted ones.
const TYPICAL_ENTRY_BYTES: u64 = 1024;

/// Locked apart from one another. Few, because the largest output that is kept is as large as one of them:
/// more than some would not make hits faster on the few threads that serve queries.
const SHARDS: usize = 4;

/// An input with its hash, which is computed once and used for several look-ups. Keys are equal if the whole
/// inputs are.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Key {
    hash: u64,
    input: Input,
}

impl Key {
    /// The same key, with nothing kept alive but its own bytes.
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

/// Takes the hash that a [`Key`] brings.
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

/// Weighs entries by what they take.
#[derive(Clone, Copy, Debug)]
struct ByBytes;

impl Weighter<Key, Output> for ByBytes {
    fn weight(&self, key: &Key, output: &Output) -> u64 {
        ENTRY_BYTES + key.input.data().len() as u64 + output.size() as u64
    }
}

/// What is known of one version's predictions.
pub(crate) struct PredictionCache {
    entries: Cache<Key, Output, ByBytes, Brought>,
    flights: Flights,
    /// Random for each process: who sends inputs does not know which of them collide.
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

    /// The key of an input, for all that follows.
    pub(crate) fn key(&self, input: Input) -> Key {
        Key {
            hash: self.hashes.hash_one(input.data()),
            input,
        }
    }

    /// The output that is kept for this input. Shared, not copied; locks a shard for reading.
    pub(crate) fn hit(&self, key: &Key) -> Option<Output> {
        let output = self.entries.get(key)?;
        self.metrics.hits.inc();
        Some(output)
    }

    /// Takes note of so many queries that nobody can be asked.
    pub(crate) fn missed(&self, queries: usize) {
        self.metrics.misses.inc_by(queries as u64);
    }

    /// Keeps an output, in buffers of its own: those it came in hold a whole batch.
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

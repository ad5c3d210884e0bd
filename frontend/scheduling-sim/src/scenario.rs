//! A model, its replicas, and the queries they are offered.

use std::num::NonZeroU32;
use std::time::Duration;

use fastrand::Rng;
use skysail_core::time::Instant;

use crate::arrivals::Arrivals;
use crate::cost::Cost;
use crate::noise::Noise;

/// What a policy is put into.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// What batches cost at pace 1.
    pub cost: Cost,
    /// The SLO, by which load 1 is defined.
    pub slo: Duration,
    /// The SLOs that queries really have, each as often as the others; if none, they have [`Self::slo`].
    pub slo_mix: Vec<Duration>,
    /// How much batch times vary.
    pub noise: Noise,
    /// When queries come.
    pub arrivals: Arrivals,
    /// How many come, relative to [`Self::capacity`].
    pub load: f64,
    /// One for each replica: how many times as long it takes as the cost says.
    pub paces: Vec<f64>,
    /// Decides what is random.
    pub seed: u64,
    /// How many queries come, unless a trace ends before.
    pub queries: usize,
    /// The largest batch.
    pub max_batch: NonZeroU32,
}

/// A query, as far as batching is concerned.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Query {
    /// When it comes.
    pub arrival: Instant,
    /// An answer after this is none.
    pub deadline: Instant,
}

impl Query {
    /// What it is given to be answered in.
    pub fn budget(&self) -> Duration {
        self.deadline.saturating_since(self.arrival)
    }
}

impl Scenario {
    /// Queries per second at load 1, over all replicas.
    pub fn capacity(&self) -> f64 {
        self.replicas()
            .map(|cost| cost.capacity(self.slo, self.max_batch))
            .sum()
    }

    /// What batches cost on each replica.
    pub fn replicas(&self) -> impl Iterator<Item = Cost> + '_ {
        self.paces.iter().map(|&pace| self.cost.at_pace(pace))
    }

    /// The queries, in order of arrival.
    pub fn queries(&self) -> Vec<Query> {
        let mut rng = Stream::Queries.rng(self.seed);
        let rate = self.load * self.capacity();
        let times = self.arrivals.times(rate, self.queries, &mut rng);
        let query = |time: f64| {
            let arrival = Instant::default() + Duration::from_secs_f64(time);
            let deadline = arrival + self.pick_slo(&mut rng);
            Query { arrival, deadline }
        };
        times.into_iter().map(query).collect()
    }

    fn pick_slo(&self, rng: &mut Rng) -> Duration {
        if self.slo_mix.is_empty() {
            return self.slo;
        }
        self.slo_mix[rng.usize(..self.slo_mix.len())]
    }

    /// What the noise is drawn from.
    pub fn noise_rng(&self) -> Rng {
        Stream::Noise.rng(self.seed)
    }
}

/// What is random, each from a seed of its own: queries come alike whatever a policy makes of them.
#[derive(Clone, Copy)]
enum Stream {
    Queries,
    Noise,
}

impl Stream {
    fn rng(self, seed: u64) -> Rng {
        Rng::with_seed(match self {
            Self::Queries => seed.wrapping_mul(1000).wrapping_add(7),
            Self::Noise => seed.wrapping_mul(77).wrapping_add(5),
        })
    }
}

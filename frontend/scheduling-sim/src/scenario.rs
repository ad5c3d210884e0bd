//! A model, its replicas, and the queries they are offered.

use std::num::NonZeroU32;
use std::time::Duration;

use fastrand::Rng;
use skysail_core::time::Instant;
use skysail_proto::deployment::Autoscale;

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
    /// How the replicas are reached, and whether there are always as many.
    pub fleet: Fleet,
}

/// How queries reach replicas.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Fleet {
    /// One queue right beside them: nothing takes time but batches.
    #[default]
    Beside,
    /// Several frontends, each with a queue of its own, share them by credits.
    Shared(Sharing),
    /// As [`Self::Beside`], but their number follows the load.
    Scaled(Scaling),
}

/// Several frontends, at each of which a query is as likely to come as at the others.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sharing {
    /// How many.
    pub frontends: usize,
    /// How long a message to or from a replica is on its way.
    pub delay: Duration,
}

/// A number of replicas that follows the load.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scaling {
    /// What it stays within; it begins with the fewest.
    pub bounds: Autoscale,
    /// How long a replica takes to start.
    pub start: Duration,
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

    /// What the frontends that queries come to are drawn from.
    pub fn frontends_rng(&self) -> Rng {
        Stream::Frontends.rng(self.seed)
    }
}

/// What is random, each from a seed of its own: queries come alike whatever a policy makes of them.
#[derive(Clone, Copy)]
enum Stream {
    Queries,
    Noise,
    Frontends,
}

impl Stream {
    fn rng(self, seed: u64) -> Rng {
        Rng::with_seed(match self {
            Self::Queries => seed.wrapping_mul(1000).wrapping_add(7),
            Self::Noise => seed.wrapping_mul(77).wrapping_add(5),
            Self::Frontends => seed.wrapping_mul(31).wrapping_add(3),
        })
    }
}

/// Batches of n take 5 + n ms, queries are given 50 ms, and nothing varies.
#[cfg(test)]
pub(crate) fn example() -> Scenario {
    Scenario {
        cost: Cost {
            fixed_ms: 5.0,
            per_input_ms: 1.0,
        },
        slo: Duration::from_millis(50),
        slo_mix: Vec::new(),
        noise: Noise::None,
        arrivals: Arrivals::Poisson,
        load: 0.9,
        paces: vec![1.0],
        seed: 3,
        queries: 1000,
        max_batch: NonZeroU32::new(64).unwrap(),
        fleet: Fleet::Beside,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two replicas of unequal speed, at half of their capacity.
    fn scenario() -> Scenario {
        Scenario {
            load: 0.5,
            paces: vec![1.0, 2.0],
            queries: 10_000,
            ..example()
        }
    }

    #[test]
    fn capacity_is_that_of_the_replicas_together() {
        // 20 in 25 ms, and 7 in 24 ms on the replica of half the speed.
        let expected = 20.0 / 0.025 + 7.0 / 0.024;
        assert!((scenario().capacity() - expected).abs() < 1e-6);
    }

    #[test]
    fn queries_come_at_the_load() {
        let queries = scenario().queries();
        let seconds = queries[9999].arrival.seconds_after(Instant::default());
        let load = 1e4 / seconds / scenario().capacity();
        // Four standard deviations of ten thousand events.
        assert!((load / 0.5 - 1.0).abs() < 0.04, "{load}");
    }

    #[test]
    fn each_slo_of_a_mix_is_as_frequent_as_the_others_and_changes_no_arrival() {
        let mut mixed = scenario();
        mixed.slo_mix = [25, 50, 100].map(Duration::from_millis).to_vec();
        let queries = mixed.queries();
        for slo in &mixed.slo_mix {
            let share = queries.iter().filter(|query| query.budget() == *slo).count() as f64 / 1e4;
            assert!((share - 1.0 / 3.0).abs() < 0.02, "{slo:?} {share}");
        }
        let arrivals = |queries: &[Query]| -> Vec<_> { queries.iter().map(|query| query.arrival).collect() };
        assert_eq!(arrivals(&queries), arrivals(&scenario().queries()));
    }
}

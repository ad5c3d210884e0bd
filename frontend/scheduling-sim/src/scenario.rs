//! A model, its replicas, and the queries they are offered.

use std::num::NonZeroU32;
use std::time::Duration;

use fastrand::Rng;
use skysail_core::queue::{Claim, Entrant};
use skysail_core::time::Instant;
use skysail_proto::deployment::Autoscale;

use crate::arrivals::Arrivals;
use crate::cost::Cost;
use crate::inputs::{InputCosts, MEAN_BYTES};
use crate::noise::Noise;

/// What a policy is put into.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// What batches cost at pace 1.
    pub cost: Cost,
    /// What one input costs beside another.
    pub inputs: InputCosts,
    /// The SLO, by which load 1 is defined.
    pub slo: Duration,
    /// The applications whose queries these are; if none are named, there is one, with [`Self::slo`].
    pub slo_mix: Vec<Application>,
    /// Whether queries of each SLO are of an application of their own, which has its share; otherwise all are of one.
    pub apart: bool,
    /// Queries of one more application, which all come at once.
    pub burst: Option<Burst>,
    /// How much batch times vary.
    pub noise: Noise,
    /// When queries come.
    pub arrivals: Arrivals,
    /// How many come, relative to [`Self::capacity`].
    pub load: f64,
    /// One for each replica: how many times as long it takes as the cost says.
    pub paces: Vec<f64>,
    /// How much longer a batch takes for each other replica that computes when it starts: 0.5 is half as long again.
    pub contention: f64,
    /// Decides what is random.
    pub seed: u64,
    /// How many queries come, unless a trace ends before.
    pub queries: usize,
    /// The largest batch.
    pub max_batch: NonZeroU32,
    /// How the replicas are reached, and whether there are always as many.
    pub fleet: Fleet,
}

/// An application.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Application {
    /// What its queries are given.
    pub slo: Duration,
    /// Its share of the queries, relative to the weights of the others.
    pub weight: u32,
}

/// Queries that come at once, when a quarter of the others have come. They are not among [`Scenario::queries`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Burst {
    /// How many.
    pub queries: u32,
    /// What each is given.
    pub slo: Duration,
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
    /// Whose it is: a place in [`Scenario::slos`].
    pub application: usize,
    /// The bytes of its input, by which it costs more or less than others.
    pub bytes: u32,
}

impl Query {
    /// What it costs, where an average query costs 1.
    pub fn cost(&self) -> f64 {
        f64::from(self.bytes) / MEAN_BYTES
    }

    /// What it is given to be answered in.
    pub fn budget(&self) -> Duration {
        self.deadline.saturating_since(self.arrival)
    }

    /// The query on its way into a waiting room. If applications are `apart`, its own has a claim.
    pub(crate) fn entrant(self, apart: bool) -> Entrant<Self> {
        let application = if apart { self.application as u64 } else { 0 };
        Entrant {
            deadline: self.deadline,
            claim: Claim {
                application,
                ..Claim::SOLE
            },
            bytes: self.bytes as usize,
            task: self,
        }
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

    /// What the queries of each application are given.
    pub fn slos(&self) -> Vec<Duration> {
        let mut slos: Vec<_> = self.slo_mix.iter().map(|application| application.slo).collect();
        if slos.is_empty() {
            slos.push(self.slo);
        }
        slos.extend(self.burst.map(|burst| burst.slo));
        slos
    }

    /// The queries, in order of arrival.
    pub fn queries(&self) -> Vec<Query> {
        let mut rng = Stream::Queries.rng(self.seed);
        let rate = self.load * self.capacity();
        let times = self.arrivals.times(rate, self.queries, &mut rng);
        let slos = self.slos();
        let mut costs_rng = Stream::Costs.rng(self.seed);
        let mut query = |arrival: Instant, application: usize| Query {
            arrival,
            deadline: arrival + slos[application],
            application,
            bytes: self.inputs.bytes(&mut costs_rng),
        };
        let steady = times.into_iter().map(|time| {
            let arrival = Instant::default() + Duration::from_secs_f64(time);
            query(arrival, self.pick_application(&mut rng))
        });
        let mut queries: Vec<_> = steady.collect();
        if let Some(burst) = self.burst {
            let before = queries.len() / 4;
            let at = queries.get(before).map(|next| next.arrival).unwrap_or_default();
            let burst = (0..burst.queries).map(|_| query(at, slos.len() - 1));
            queries.splice(before..before, burst);
        }
        queries
    }

    /// A place in the mix, each as likely as its weight says.
    fn pick_application(&self, rng: &mut Rng) -> usize {
        if self.slo_mix.is_empty() {
            return 0;
        }
        let weights = || self.slo_mix.iter().map(|application| application.weight as usize);
        let sum: usize = weights().sum();
        let mut drawn = rng.usize(..sum);
        let is_there = |weight: usize| {
            let there = drawn < weight;
            drawn = drawn.saturating_sub(weight);
            there
        };
        weights()
            .position(is_there)
            .expect("less than their sum was drawn; otherwise this is a bug")
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
    Costs,
}

impl Stream {
    fn rng(self, seed: u64) -> Rng {
        Rng::with_seed(match self {
            Self::Queries => seed.wrapping_mul(1000).wrapping_add(7),
            Self::Noise => seed.wrapping_mul(77).wrapping_add(5),
            Self::Frontends => seed.wrapping_mul(31).wrapping_add(3),
            Self::Costs => seed.wrapping_mul(131).wrapping_add(11),
        })
    }
}

/// Batches of n take 5 + n ms, queries are given 50 ms, and nothing varies.
#[cfg(test)]
pub(crate) fn example() -> Scenario {
    Scenario {
        cost: Cost::line(5.0, 1.0),
        inputs: InputCosts::Equal,
        slo: Duration::from_millis(50),
        slo_mix: Vec::new(),
        apart: false,
        burst: None,
        noise: Noise::None,
        arrivals: Arrivals::Poisson,
        load: 0.9,
        paces: vec![1.0],
        contention: 0.0,
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

    /// Applications with these milliseconds and weights.
    fn mix(applications: &[(u64, u32)]) -> Vec<Application> {
        let application = |&(millis, weight): &(u64, u32)| Application {
            slo: Duration::from_millis(millis),
            weight,
        };
        applications.iter().map(application).collect()
    }

    fn arrivals(queries: &[Query]) -> Vec<Instant> {
        queries.iter().map(|query| query.arrival).collect()
    }

    #[test]
    fn each_application_of_a_mix_is_as_frequent_as_its_weight_and_changes_no_arrival() {
        for weights in [[1, 1, 1], [1, 9, 40]] {
            let mut mixed = scenario();
            mixed.slo_mix = mix(&[(25, weights[0]), (50, weights[1]), (100, weights[2])]);
            let queries = mixed.queries();
            for (index, application) in mixed.slo_mix.iter().enumerate() {
                let of_it = |query: &&Query| query.application == index && query.budget() == application.slo;
                let share = queries.iter().filter(of_it).count() as f64 / 1e4;
                let expected = f64::from(weights[index]) / f64::from(weights.iter().sum::<u32>());
                assert!((share - expected).abs() < 0.02, "{application:?} {share}");
            }
            assert_eq!(arrivals(&queries), arrivals(&scenario().queries()));
        }
    }

    #[test]
    fn costs_that_vary_change_no_arrival() {
        let mut varied = scenario();
        varied.inputs = InputCosts::LogNormal { deviation: 1.2 };
        let queries = varied.queries();
        assert_eq!(arrivals(&queries), arrivals(&scenario().queries()));
        let cost: f64 = queries.iter().map(Query::cost).sum();
        assert!((cost / 1e4 - 1.0).abs() < 0.1, "{cost}");
        assert!(scenario().queries().iter().all(|query| query.bytes == 1000));
    }

    #[test]
    fn a_burst_comes_at_once_after_a_quarter_of_the_others_and_moves_none_of_them() {
        let mut bursting = scenario();
        let slo = Duration::from_secs(10);
        bursting.burst = Some(Burst { queries: 500, slo });
        let queries = bursting.queries();
        assert_eq!((queries.len(), bursting.slos().len()), (10_500, 2));
        assert!(queries.is_sorted_by_key(|query| query.arrival));
        let of_the_burst = |query: &Query| query.application == 1;
        let (burst, others): (Vec<Query>, Vec<Query>) = queries.iter().copied().partition(of_the_burst);
        let at = others[2500].arrival;
        assert_eq!(burst.len(), 500);
        assert!(
            burst
                .iter()
                .all(|query| query.arrival == at && query.budget() == slo)
        );
        assert_eq!(arrivals(&others), arrivals(&scenario().queries()));
    }

    #[test]
    fn a_burst_beside_nothing_comes_at_the_start() {
        let mut alone = scenario();
        alone.queries = 0;
        let slo = Duration::from_millis(20);
        alone.burst = Some(Burst { queries: 3, slo });
        assert_eq!(arrivals(&alone.queries()), [Instant::default(); 3]);
    }
}

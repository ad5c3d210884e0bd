//! A policy in a scenario, and many of these at once.

use std::panic::resume_unwind;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use skysail_core::time::Instant;

use crate::bound::bound;
use crate::cost::Cost;
use crate::noise_aware::noise_aware;
use crate::policy::PolicyKind;
use crate::scenario::{Fleet, Query, Scaling, Scenario};
use crate::simulation::{Tally, simulate};

/// What is simulated at a time.
#[derive(Clone, Debug)]
pub struct Cell {
    /// Who sizes the batches.
    pub policy: PolicyKind,
    /// Of what.
    pub scenario: Scenario,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Figures {
    /// The share of the queries that were answered in time, 0 to 1.
    pub goodput: f64,
    /// The share that no policy can exceed, noise apart.
    pub bound: f64,
    /// The share that no policy can exceed on average over the noise.
    pub noise_aware: f64,
    /// How long the queries took that were answered; none if none was.
    pub latency: Option<Latency>,
    /// What became of them, in numbers.
    pub tally: Tally,
    /// What each application has of it, where there are several.
    pub applications: Vec<Served>,
    /// Where the number of replicas follows the load: what that comes to.
    pub scaled: Option<Scaled>,
}

/// How long answers took, those that were late among them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Latency {
    /// Half took no longer, in milliseconds.
    pub p50_ms: f64,
    /// 99 of 100 took no longer, in milliseconds.
    pub p99_ms: f64,
}

impl Latency {
    fn of(mut micros: Vec<u32>) -> Option<Self> {
        micros.sort_unstable();
        let last = micros.len().checked_sub(1)?;
        let quantile = |percent: usize| f64::from(micros[last * percent / 100]) * 1e-3;
        Some(Self {
            p50_ms: quantile(50),
            p99_ms: quantile(99),
        })
    }
}

/// What became of an application's queries.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Served {
    /// What they were given.
    pub slo: Duration,
    /// How many came.
    pub queries: usize,
    /// How many were answered in time.
    pub in_time: usize,
}

impl Served {
    /// The share of its queries that were answered in time; no number if none came.
    pub fn share(&self) -> f64 {
        self.in_time as f64 / self.queries as f64
    }
}

/// What a number of replicas that follows the load comes to, beside as many as there may be all the time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scaled {
    /// The mean number of replicas, those that start and those that leave among them.
    pub mean_replicas: f64,
    /// Replica-seconds, relative to those of the most replicas.
    pub cost: f64,
    /// What is answered in time, relative to what the most replicas answer in time.
    pub attainment: f64,
}

impl Cell {
    /// Simulates it.
    pub fn run(&self) -> Figures {
        let queries = self.scenario.queries();
        let replicas: Vec<Cost> = self.scenario.replicas().collect();
        let mut tally = simulate(self.policy, &self.scenario, &queries);
        let latency = Latency::of(std::mem::take(&mut tally.answer_micros));
        let Scenario { noise, max_batch, .. } = self.scenario;
        Figures {
            scaled: self.scaled(&queries, &tally),
            goodput: tally.in_time as f64 / queries.len().max(1) as f64,
            bound: bound(&queries, &replicas, max_batch),
            noise_aware: noise_aware(&queries, &replicas, noise, max_batch),
            applications: self.applications(&queries, &tally),
            latency,
            tally,
        }
    }

    fn applications(&self, queries: &[Query], tally: &Tally) -> Vec<Served> {
        let slos = self.scenario.slos();
        if slos.len() == 1 {
            return Vec::new();
        }
        let served = slos.into_iter().zip(&tally.in_time_of).enumerate();
        served
            .map(|(application, (slo, &in_time))| Served {
                slo,
                queries: queries
                    .iter()
                    .filter(|query| query.application == application)
                    .count(),
                in_time,
            })
            .collect()
    }

    fn scaled(&self, queries: &[Query], tally: &Tally) -> Option<Scaled> {
        let Fleet::Scaled(Scaling { bounds, .. }) = self.scenario.fleet else {
            return None;
        };
        let most = Scenario {
            fleet: Fleet::Beside,
            ..self.scenario.clone()
        };
        let most = simulate(self.policy, &most, queries);
        let end = queries.last().map(|last| last.arrival).unwrap_or_default();
        let mean_replicas = tally.replica_seconds / end.seconds_after(Instant::default());
        Some(Scaled {
            mean_replicas,
            cost: mean_replicas / f64::from(bounds.max),
            attainment: tally.in_time as f64 / most.in_time as f64,
        })
    }
}

/// Simulates all, on every processor there is, and calls `done` after each. The figures come in the order of
/// the cells, and do not depend on the number of processors.
pub fn run_all(cells: &[Cell], done: impl Fn() + Sync) -> Vec<Figures> {
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let next = AtomicUsize::new(0);
    let work = || {
        let mine = std::iter::from_fn(|| {
            let index = next.fetch_add(1, Ordering::Relaxed);
            Some((index, cells.get(index)?.run())).inspect(|_| done())
        });
        mine.collect::<Vec<_>>()
    };
    let mut figures = thread::scope(|scope| {
        let workers: Vec<_> = (0..threads.min(cells.len())).map(|_| scope.spawn(work)).collect();
        let results = workers.into_iter().map(|worker| worker.join());
        results
            .flat_map(|result| result.unwrap_or_else(|panic| resume_unwind(panic)))
            .collect::<Vec<_>>()
    });
    figures.sort_unstable_by_key(|&(index, _)| index);
    figures.into_iter().map(|(_, figures)| figures).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::example;

    #[test]
    fn figures_are_those_of_each_cell_by_itself_in_order_and_each_is_announced() {
        let cell = |(index, policy)| Cell {
            policy,
            scenario: Scenario {
                seed: index as u64,
                ..example()
            },
        };
        let cells: Vec<_> = PolicyKind::all().into_iter().enumerate().map(cell).collect();
        let announced = AtomicUsize::new(0);
        let figures = run_all(&cells, || {
            announced.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(announced.into_inner(), cells.len());
        let each: Vec<_> = cells.iter().map(Cell::run).collect();
        assert_eq!(figures, each);
    }

    #[test]
    fn quantiles_are_those_of_the_answers() {
        let latency = Latency::of((0..=1000).rev().map(|millis| millis * 1000).collect()).unwrap();
        assert_eq!((latency.p50_ms, latency.p99_ms), (500.0, 990.0));
        assert_eq!(Latency::of(Vec::new()), None);
    }

    #[test]
    fn no_cells_have_no_figures() {
        assert!(run_all(&[], || ()).is_empty());
    }
}

//! How many replicas a version needs to answer its queries within their latency objective.
//!
//! Let λ be the arrivals per second, l(n) the time of a batch of n, and n* the largest batch of which two fit into
//! the objective: a query that just missed one batch is then in time with the next. A replica answers at most n* /
//! l(n*) queries per second. k = ⌈λ · l(n*) / (n* · ρ)⌉ replicas are busy for the part ρ of their time, and 1 − ρ is
//! left for bursts.
//!
//! The number goes up at once, to the load of the last second as far as that is beyond chance: a late query is lost.
//! It goes down only to the peak need of the last [`HOLD`], and with something to spare: bursts return, and a replica
//! takes time to start. So a steady load never makes the number swing.

use std::collections::VecDeque;
use std::fmt;
use std::num::NonZeroU32;
use std::time::Duration;

use skysail_proto::deployment::Autoscale;

use crate::cluster::ReplicaView;
use crate::time::Instant;

/// ρ: the part of its time that a replica is meant to be busy.
pub const TARGET_UTILISATION: f64 = 0.6;

/// How long a need is remembered: the number goes down only to the peak need within this time.
pub const HOLD: Duration = Duration::from_secs(60);

/// Scale down only if the remaining replicas could carry `SPARE` times the peak need.
const SPARE: f64 = 1.1;

/// The time constant of the smoothed arrival rate, in seconds. The rate of the last second counts only where it
/// exceeds the smoothed rate by more than chance.
const SMOOTHING_SECONDS: f64 = 10.0;

/// A deviation within this many standard deviations is taken for chance.
const CHANCE: f64 = 2.0;

/// The most by which slow batches lengthen the line's times, as a factor. A larger factor would be a stall, not a
/// speed.
const MOST_TAIL: f64 = 2.0;

/// How long batches take, on average over a version's replicas.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BatchTimes {
    /// The time of a batch of one input, in seconds.
    pub first: f64,
    /// The time that each further input adds, in seconds.
    pub further: f64,
    /// The 99th percentile of recent batch times, in seconds. 0 if unknown.
    pub p99: f64,
}

impl BatchTimes {
    /// The means over the replicas that have done a batch. `None` if no replica has.
    #[expect(clippy::cast_precision_loss, reason = "microseconds, and a few replicas")]
    pub fn of<'a>(replicas: impl IntoIterator<Item = &'a ReplicaView>) -> Option<Self> {
        let is_known = |replica: &&ReplicaView| {
            let times = [replica.fixed_micros, replica.per_input_micros];
            times.iter().all(|time| time.is_finite() && *time >= 0.0) && replica.fixed_micros > 0.0
        };
        let (mut count, mut sum) = (0.0, [0.0; 3]);
        for replica in replicas.into_iter().filter(is_known) {
            count += 1.0;
            sum[0] += replica.fixed_micros;
            sum[1] += replica.per_input_micros;
            sum[2] += replica.p99_micros as f64;
        }
        let [first, further, p99] = sum.map(|micros| micros * 1e-6 / count);
        (count > 0.0).then_some(Self { first, further, p99 })
    }

    /// The time of a batch of this size, in seconds.
    fn of_size(self, size: u32) -> f64 {
        self.first + self.further * f64::from(size.saturating_sub(1))
    }

    /// The largest batch of which two fit into the objective, and its time in seconds.
    fn best_batch(self, slo: Option<Duration>, max_batch: NonZeroU32) -> (u32, f64) {
        let longest = slo.map_or(f64::INFINITY, |slo| slo.as_secs_f64() / 2.0);
        let fitting = |tail: f64| self.fitting(longest / tail, max_batch.get());
        let size = fitting(1.0);
        // If the 99th percentile exceeds even the time of this batch, replicas are slower than the line says.
        let tail = (self.p99 / self.of_size(size)).clamp(1.0, MOST_TAIL);
        let size = fitting(tail);
        (size, self.of_size(size))
    }

    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a float casts to the nearest integer there is, and what is not positive to 0"
    )]
    fn fitting(self, longest: f64, most: u32) -> u32 {
        /// Rounding errors may lose this much of an input.
        const SLACK: f64 = 1e-6;
        if self.further <= 0.0 {
            return if self.first <= longest { most } else { 1 };
        }
        let further = ((longest - self.first) / self.further + SLACK) as u32;
        further.saturating_add(1).clamp(1, most)
    }
}

/// A version's load, as seen at one time.
#[derive(Clone, Copy, Debug)]
pub struct Situation {
    /// The time of the observation.
    pub now: Instant,
    /// Queries that arrived in about the last second, per second, over all frontends.
    pub arrivals_per_second: f64,
    /// Queries that wait, over all frontends.
    pub queued: u64,
    /// How long batches take. `None` if no attached replica has done a batch.
    pub batch_times: Option<BatchTimes>,
    /// The tightest latency objective of the version's applications.
    pub slo: Option<Duration>,
    /// The largest batch that may be sent.
    pub max_batch: NonZeroU32,
    /// Replicas that the catalog asks for.
    pub replicas: u32,
    /// Replicas that are attached and take work.
    pub attached: u32,
    /// The least and the most replicas to decide for.
    pub bounds: Autoscale,
}

/// A number of replicas, and the reason for it.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    /// The number of replicas.
    pub replicas: u32,
    /// The need of this moment, as a fraction and without the bounds. `None` if the load or the batch times are
    /// unknown.
    pub need: Option<f64>,
    /// The arrivals per second that the need was computed from.
    pub rate: f64,
    /// The reason for the number.
    pub reason: Reason,
}

/// Why a [`Decision`] has its number of replicas.
#[derive(Clone, Debug, PartialEq)]
pub enum Reason {
    /// The batch times or the arrival rate are unknown, so the number stays.
    NothingKnown,
    /// The arrivals need more replicas than there are.
    Load(Work),
    /// More queries wait than the replicas have room for in one batch each, for the second time.
    Backlog {
        /// Queries that wait.
        queued: u64,
        /// What the arrivals alone need.
        work: Work,
    },
    /// There are as many replicas as the arrivals need.
    Enough(Work),
    /// Fewer replicas would do now, but more were needed within [`HOLD`].
    Hold {
        /// The peak need.
        most: f64,
        /// What the arrivals need now.
        work: Work,
    },
    /// Fewer replicas would have done for all of [`HOLD`].
    Quiet {
        /// The peak need.
        most: f64,
        /// What the arrivals need now.
        work: Work,
    },
}

/// What a replica can do, and how many replicas the arrivals need.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Work {
    /// Arrivals per second.
    pub rate: f64,
    /// n*: the largest batch of which two fit into the objective.
    pub batch: u32,
    /// l(n*): the time of that batch, in seconds.
    pub batch_seconds: f64,
    /// The replicas needed, as a fraction.
    pub need: f64,
}

impl fmt::Display for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            rate,
            batch,
            batch_seconds,
            need,
        } = self;
        let most = f64::from(*batch) / batch_seconds;
        let millis = batch_seconds * 1e3;
        let percent = TARGET_UTILISATION * 1e2;
        write!(
            f,
            "{rate:.1} queries/s need {need:.2} replicas that are busy {percent:.0} % of the time ({most:.1}/s \
             each at the most, in batches of {batch} that take {millis:.1} ms)"
        )
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = HOLD.as_secs();
        match self {
            Self::NothingKnown => f.write_str("nothing is known yet of the load or of what batches take"),
            Self::Load(work) | Self::Enough(work) => work.fmt(f),
            Self::Backlog { queued, work } => write!(f, "{queued} queries wait; {work}"),
            Self::Hold { most, work } => {
                write!(
                    f,
                    "up to {most:.2} replicas were needed in the last {seconds} s; now {work}"
                )
            }
            Self::Quiet { most, work } => {
                write!(
                    f,
                    "no more than {most:.2} replicas were needed in the last {seconds} s; now {work}"
                )
            }
        }
    }
}

/// Decides about once a second for one version, and remembers recent needs.
#[derive(Clone, Debug, Default)]
pub struct Autoscaler {
    /// The smoothed arrival rate.
    mean_rate: f64,
    batch_times: Option<BatchTimes>,
    last: Option<Instant>,
    /// When the first need was recorded.
    since: Option<Instant>,
    /// Needs within [`HOLD`]. A need is dropped when a later one is as large, so the front is the peak.
    needs: VecDeque<(Instant, f64)>,
    /// When more queries last waited than the replicas have room for in one batch each.
    backlog: Option<Instant>,
}

impl Autoscaler {
    /// The number of replicas for this situation, within its bounds.
    pub fn decide(&mut self, situation: &Situation) -> Decision {
        let work = self.work(situation);
        let Autoscale { min, max } = situation.bounds;
        // Contradictory bounds are refused where they are set. Here the lower bound wins.
        let bounded = |replicas: u32| replicas.min(max).max(min);
        let (replicas, reason) = match work {
            None => (situation.replicas, Reason::NothingKnown),
            Some(work) => self.judge(situation, work),
        };
        Decision {
            replicas: bounded(replicas),
            need: work.map(|work| work.need),
            rate: work.map_or(0.0, |work| work.rate),
            reason,
        }
    }

    /// What the arrivals need. `None` if the arrival rate or the batch times are unknown.
    fn work(&mut self, situation: &Situation) -> Option<Work> {
        self.batch_times = situation.batch_times.or(self.batch_times);
        let rate = situation.arrivals_per_second;
        if !rate.is_finite() {
            return None;
        }
        let rate = self.beyond_chance(rate.max(0.0), situation.now);
        let (batch, batch_seconds) = self.batch_times?.best_batch(situation.slo, situation.max_batch);
        let need = rate * batch_seconds / (f64::from(batch) * TARGET_UTILISATION);
        need.is_finite().then_some(Work {
            rate,
            batch,
            batch_seconds,
            need,
        })
    }

    /// `max(mean, rate - CHANCE * sqrt(rate))`: the smoothed rate, or the part of the last rate that chance does not
    /// explain.
    fn beyond_chance(&mut self, rate: f64, now: Instant) -> f64 {
        let elapsed = self.last.map(|last| now.saturating_since(last).as_secs_f64());
        self.last = Some(now);
        self.mean_rate = match elapsed {
            None => rate,
            Some(elapsed) => {
                let kept = (-elapsed / SMOOTHING_SECONDS).exp();
                rate + (self.mean_rate - rate) * kept
            }
        };
        self.mean_rate.max(rate - CHANCE * rate.sqrt())
    }

    fn judge(&mut self, situation: &Situation, work: Work) -> (u32, Reason) {
        let Situation { now, replicas, .. } = *situation;
        let backlog = self.backlog(situation, work);
        let need = work.need.max(backlog.unwrap_or_default());
        self.remember(now, need);
        let wanted = whole(need);
        if wanted > replicas {
            let reason = match backlog {
                Some(backlog) if backlog > work.need => Reason::Backlog {
                    queued: situation.queued,
                    work,
                },
                _ => Reason::Load(work),
            };
            return (wanted, reason);
        }
        let most = self.needs.front().map_or(need, |&(_, most)| most);
        let enough = whole(most * SPARE);
        let known_for = self
            .since
            .map_or(Duration::ZERO, |since| now.saturating_since(since));
        if enough < replicas && known_for >= HOLD {
            return (enough, Reason::Quiet { most, work });
        }
        if wanted < replicas {
            return (replicas, Reason::Hold { most, work });
        }
        (replicas, Reason::Enough(work))
    }

    /// The need because of a backlog, which is `attached + 1`. There is a backlog if more queries wait than one batch
    /// for each replica, for the second time within [`HOLD`]. A single time is a burst that would be over before a
    /// new replica started. Replicas that are still starting are waited for first.
    fn backlog(&mut self, situation: &Situation, work: Work) -> Option<f64> {
        let Situation {
            now,
            queued,
            replicas,
            attached,
            ..
        } = *situation;
        let in_hand = u64::from(attached) * u64::from(work.batch);
        if queued <= in_hand || attached < replicas {
            return None;
        }
        let before = self.backlog.replace(now)?;
        let again = now.saturating_since(before) < HOLD;
        again.then(|| f64::from(attached) + 1.0)
    }

    fn remember(&mut self, now: Instant, need: f64) {
        self.since.get_or_insert(now);
        while self
            .needs
            .front()
            .is_some_and(|&(at, _)| now.saturating_since(at) >= HOLD)
        {
            self.needs.pop_front();
        }
        while self.needs.back().is_some_and(|&(_, least)| least <= need) {
            self.needs.pop_back();
        }
        self.needs.push_back((now, need));
    }
}

/// Rounds a need up to whole replicas.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a float casts to the nearest integer there is, and needs are not negative"
)]
fn whole(replicas: f64) -> u32 {
    /// Rounding errors may add this much of a replica.
    const SLACK: f64 = 1e-9;
    (replicas - SLACK).ceil() as u32
}

#[cfg(test)]
mod tests;

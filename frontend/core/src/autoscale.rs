//! How many replicas a version needs so that its queries are answered within their latency objective.
//!
//! With λ arrivals a second, l(n) the time of a batch and n* the largest batch of which two fit into the
//! objective (a query that just missed one is in time with the next), a replica answers n* / l(n*) queries a
//! second at the most, and k = ⌈λ · l(n*) / (n* · ρ)⌉ replicas leave the part 1 − ρ of their time free for
//! what comes in crowds.
//!
//! Up at once, for whatever the last second asked for beyond chance: a query that is late is lost. Down only
//! to the most that was needed within [`HOLD`], and with something to spare: what comes in crowds comes again,
//! and a replica needs its time to start. So a steady load never makes the number swing.

use std::collections::VecDeque;
use std::fmt;
use std::num::NonZeroU32;
use std::time::Duration;

use skysail_proto::deployment::Autoscale;

use crate::cluster::ReplicaView;
use crate::time::Instant;

/// The part of its time that a replica is to be busy.
pub const TARGET_UTILISATION: f64 = 0.6;

/// What was needed counts for so long.
pub const HOLD: Duration = Duration::from_secs(60);

/// What is left after a step down would have to do for so many times the most that was needed.
const SPARE: f64 = 1.1;

/// The rate of arrivals is smoothed over so many seconds; the last second counts beyond that only for what is
/// no chance.
const SMOOTHING_SECONDS: f64 = 10.0;

/// What lies within so many standard deviations is chance.
const CHANCE: f64 = 2.0;

/// However much longer than the line says batches have taken, it counts for no more: a stall is no speed.
const MOST_TAIL: f64 = 2.0;

/// What batches take, as learned from a version's replicas.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BatchTimes {
    /// A batch of one input, in seconds.
    pub first: f64,
    /// Each further input, in seconds.
    pub further: f64,
    /// The 99th percentile of the last batches, in seconds; 0 if unknown.
    pub p99: f64,
}

impl BatchTimes {
    /// The means over the replicas that have done a batch; nothing if none has.
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

    /// A batch of this size, in seconds.
    fn of_size(self, size: u32) -> f64 {
        self.first + self.further * f64::from(size.saturating_sub(1))
    }

    /// The largest batch of which two fit into the objective, and what it takes, in seconds.
    fn best_batch(self, slo: Option<Duration>, max_batch: NonZeroU32) -> (u32, f64) {
        let longest = slo.map_or(f64::INFINITY, |slo| slo.as_secs_f64() / 2.0);
        let fitting = |tail: f64| self.fitting(longest / tail, max_batch.get());
        let size = fitting(1.0);
        // Batches that take longer than even this one should are slower than the line says.
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
        /// What rounding may take away.
        const SLACK: f64 = 1e-6;
        if self.further <= 0.0 {
            return if self.first <= longest { most } else { 1 };
        }
        let further = ((longest - self.first) / self.further + SLACK) as u32;
        further.saturating_add(1).clamp(1, most)
    }
}

/// What is known of a version at one time.
#[derive(Clone, Copy, Debug)]
pub struct Situation {
    /// Now.
    pub now: Instant,
    /// Queries that came a second, in about the last one, at all frontends together.
    pub arrivals_per_second: f64,
    /// Queries that wait, at all frontends together.
    pub queued: u64,
    /// What batches take; nothing if no replica is attached that has done one.
    pub batch_times: Option<BatchTimes>,
    /// The tightest latency objective.
    pub slo: Option<Duration>,
    /// The largest batch.
    pub max_batch: NonZeroU32,
    /// Replicas asked for.
    pub replicas: u32,
    /// Replicas that take work.
    pub attached: u32,
    /// What the number is to stay within.
    pub bounds: Autoscale,
}

/// How many replicas there are to be, and why.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    /// So many.
    pub replicas: u32,
    /// Replicas that the load of this moment asks for, in parts, bounds apart; nothing where nothing is known
    /// to judge by.
    pub need: Option<f64>,
    /// What it was judged by.
    pub rate: f64,
    /// Why.
    pub reason: Reason,
}

/// Why there are to be as many replicas as there are to be.
#[derive(Clone, Debug, PartialEq)]
pub enum Reason {
    /// Nothing was learned of batch times yet, or the rate is none.
    NothingKnown,
    /// More come.
    Load(Work),
    /// More wait than the replicas have in hand.
    Backlog {
        /// So many.
        queued: u64,
        /// What else there is.
        work: Work,
    },
    /// As many as needed.
    Enough(Work),
    /// Fewer would do now, but more were needed lately.
    Hold {
        /// Replicas that were needed at the most.
        most: f64,
        /// What there is now.
        work: Work,
    },
    /// Fewer have been enough for long.
    Quiet {
        /// Replicas that were needed at the most.
        most: f64,
        /// What there is now.
        work: Work,
    },
}

/// What a replica can do, and what is asked.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Work {
    /// Queries a second.
    pub rate: f64,
    /// The batch that a replica answers most with, in time.
    pub batch: u32,
    /// What that takes, in seconds.
    pub batch_seconds: f64,
    /// Replicas that asks for, in parts.
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

/// Decides for one version, again and again: about once a second.
#[derive(Clone, Debug, Default)]
pub struct Autoscaler {
    /// The smoothed rate.
    mean_rate: f64,
    batch_times: Option<BatchTimes>,
    last: Option<Instant>,
    /// Since when needs are known.
    since: Option<Instant>,
    /// What was needed lately: of each time, only if nothing later needed as much.
    needs: VecDeque<(Instant, f64)>,
    /// When more waited than the replicas had in hand.
    backlog: Option<Instant>,
}

impl Autoscaler {
    /// Decides.
    pub fn decide(&mut self, situation: &Situation) -> Decision {
        let work = self.work(situation);
        let Autoscale { min, max } = situation.bounds;
        // Bounds that contradict each other are refused where they come from; here the lower one decides.
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

    /// What is asked for; nothing if that is unknown.
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

    /// The smoothed rate, or what of the last second's is beyond chance if that is more.
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

    /// Replicas that a backlog asks for, where more wait than a batch for each replica for the second time
    /// within [`HOLD`]: one more than there are. Once is a crowd that is over before a replica has started;
    /// replicas that are on their way are waited for first.
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

/// So many whole replicas.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a float casts to the nearest integer there is, and needs are not negative"
)]
fn whole(replicas: f64) -> u32 {
    /// What rounding may add.
    const SLACK: f64 = 1e-9;
    (replicas - SLACK).ceil() as u32
}

#[cfg(test)]
mod tests;

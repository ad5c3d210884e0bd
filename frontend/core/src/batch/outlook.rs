//! Forecasts: what becomes of the queue in the near future if the next batch is this one. This replica and the others
//! serve the queries that wait and the ones that are expected.
//!
//! The cost of a forecast does not depend on how many queries wait or come, because no single query is followed.
//! Waiting queries are known by a sample of their deadlines, expected ones by their rates. Both are lanes
//! ([`lanes`]), of which a batch is a section. After [`MOST_BATCHES`] batches the replicas are expected to answer
//! queries at the rate that they had.
//!
//! Times are seconds from the start of the batch in question.

use super::latency::LatencyModel;
use super::ratios::POINTS;
use lanes::{Expected, Lanes, Section};

pub(super) mod lanes;

/// The number of batches that a forecast follows one by one.
const MOST_BATCHES: usize = 8;

/// How many sizes are tried in the search for a smaller batch with all its queries in time.
const GUESSES: usize = 4;

/// The value of an answer to a query that is safe, relative to one that is in danger: it would be in time later, too.
const OF_THE_SAFE: f64 = 0.1;

/// The most other replicas that a forecast follows.
pub(super) const MOST_OTHERS: usize = 7;

/// A batch: `passed` queries at the front are passed over, and the `taken` behind them are sent.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) struct Cut {
    pub(super) passed: usize,
    pub(super) taken: usize,
}

/// The rule by which batches are cut from the queue.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Aim {
    /// The size of a batch to aim for.
    pub(super) size: usize,
    /// Skip queries that would be late if the batch took `caution` times its typical time.
    pub(super) caution: f64,
}

/// A replica, as a forecast sees it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Server {
    /// When it is free.
    pub(super) free: f64,
    /// The time of a batch there, relative to this replica.
    pub(super) pace: f64,
}

/// The data of all forecasts of one decision. Its buffers are kept for the next decision.
#[derive(Clone, Debug, Default)]
pub(super) struct Outlook {
    /// Queries that wait, and arrivals that are expected.
    pub(super) expected: Expected,
    /// The other replicas of the queue.
    pub(super) others: Vec<Server>,
    /// The time that other frontends keep a replica between two batches of this queue.
    pub(super) pause: f64,
    /// How far forecasts look ahead.
    pub(super) horizon: f64,
    /// The most inputs of a batch.
    pub(super) largest: usize,
    /// Queries that are due at this time or later are safe: they are in time even if all more urgent ones come first.
    /// Infinite if none are.
    pub(super) safe_from: f64,
    /// The most queries per second that this replica can answer.
    pub(super) most_per_second: f64,
    mean_ratio: f64,
    spread: [f64; POINTS],
}

impl Outlook {
    /// Copies the scatter of batch times from the model.
    pub(super) fn expect_batches(&mut self, model: &LatencyModel) {
        self.mean_ratio = model.mean_ratio();
        self.spread = model.spread();
    }

    pub(super) fn some_are_safe(&self) -> bool {
        self.safe_from < f64::INFINITY
    }

    /// Whether all endangered queries are in time by a cautious estimate, if the next batch takes the first `taken`
    /// queries and later batches take `size` each.
    #[expect(
        clippy::cast_precision_loss,
        reason = "sizes are 32-bit numbers, and there is a handful of replicas"
    )]
    pub(super) fn all_are_in_time(&self, model: &LatencyModel, taken: usize, size: usize) -> bool {
        let caution = model.caution();
        let first_done = caution * model.typical(taken);
        let slowest = self.others.iter().map(|other| other.pace).fold(1.0, f64::max);
        let took = slowest * caution * model.typical(size) + self.pause;
        // By then every replica has been free once.
        let begin = self
            .others
            .iter()
            .map(|other| other.free)
            .fold(first_done + self.pause, f64::max);
        let at_once = (size * (1 + self.others.len())) as f64;
        self.expected
            .all_due_after(self.safe_from, |rank| match rank < taken {
                true => first_done,
                false => begin + took * (1.0 + ((rank - taken) as f64 / at_once).floor()),
            })
    }

    /// The largest batch whose most urgent query, due at `due`, is in time if the batch takes `caution` times its
    /// typical time.
    pub(super) fn fitting(&self, model: &LatencyModel, due: f64, waiting: usize, caution: f64) -> usize {
        model.size_within(due / caution).min(waiting).min(self.largest)
    }

    /// The batch that this aim cuts from the queue as it is now.
    pub(super) fn first_cut(&self, model: &LatencyModel, aim: Aim) -> Cut {
        let lanes = Lanes::new(&self.expected);
        let section = self.cut(model, &lanes, 0.0, aim);
        Cut {
            passed: section.passed(),
            taken: section.taken,
        }
    }

    /// Skips queries that would be late with a batch of the aimed size, and takes that many, or more if the rest
    /// allows it. If too few are left for the aimed size, the batch is about the largest one with all its queries in
    /// time.
    fn cut(&self, model: &LatencyModel, lanes: &Lanes<'_>, now: f64, aim: Aim) -> Section {
        let waiting = lanes.waiting();
        let in_time_for = |size: usize| waiting - lanes.before(now + aim.caution * model.typical(size));
        let (mut size, mut too_large) = (aim.size.min(waiting), 0);
        let in_time = in_time_for(size);
        if in_time < size {
            (size, too_large) = (in_time, size);
        }
        for _ in 0..GUESSES {
            if size + 1 >= too_large {
                break;
            }
            let middle = usize::midpoint(size, too_large);
            match in_time_for(middle) >= middle {
                true => size = middle,
                false => too_large = middle,
            }
        }
        let passed = match size {
            0 => lanes.all_but_last(),
            _ => lanes.counts_before(now + aim.caution * model.typical(size)),
        };
        let left = waiting - passed.iter().sum::<usize>();
        let taken = self.fitting(model, lanes.due_behind(&passed) - now, left, aim.caution);
        // If some queries are safe, a batch is no larger than aimed for: queries that arrive meanwhile may be urgent.
        let most = match self.some_are_safe() {
            true => aim.size,
            false => usize::MAX,
        };
        lanes.section(passed, taken.clamp(1, most.max(1)))
    }

    /// How many queries are answered in time within the horizon, if the next batch is `first` and later ones follow
    /// `aim`. Safe queries count for less. A forecast that can no longer reach `enough` ends early, with a smaller
    /// number.
    pub(super) fn answered(&self, model: &LatencyModel, first: Cut, aim: Aim, enough: f64) -> f64 {
        let mut forecast = Forecast {
            outlook: self,
            model,
            lanes: Lanes::new(&self.expected),
            servers: Servers::new(&self.others),
            now: 0.0,
            answered: 0.0,
        };
        let mut batch = forecast.lanes.behind(first.passed, first.taken);
        let mut halfway = (0.0, 0.0);
        for nth in 1..=MOST_BATCHES {
            forecast.serve(&batch);
            if !forecast.proceed() {
                return forecast.answered;
            }
            let left = forecast.seconds_left();
            if forecast.answered + left * self.most_per_second < enough {
                return forecast.answered;
            }
            if nth == MOST_BATCHES / 2 {
                halfway = (left, forecast.answered);
            }
            batch = self.cut(model, &forecast.lanes, forecast.now, aim);
        }
        // The rest of the replicas' time is extrapolated from the second half of the batches. It is measured in
        // replica time, not in clock time, because several replicas may start their batches at nearly the same
        // moment.
        let left = forecast.seconds_left();
        let rate = (forecast.answered - halfway.1) / (halfway.0 - left).max(f64::MIN_POSITIVE);
        forecast.answered + rate * left
    }
}

/// One forecast under way.
struct Forecast<'a> {
    outlook: &'a Outlook,
    model: &'a LatencyModel,
    lanes: Lanes<'a>,
    servers: Servers,
    now: f64,
    answered: f64,
}

impl Forecast<'_> {
    /// The replica at turn serves this batch.
    fn serve(&mut self, batch: &Section) {
        let server = &mut self.servers.all[self.servers.turn];
        let typical = self.model.typical(batch.taken) * server.pace;
        let took = typical * self.outlook.mean_ratio;
        server.free = self.now + took + self.outlook.pause;
        // A batch that ends beyond the horizon counts for the part within it.
        let within = ((self.outlook.horizon - self.now) / took).clamp(0.0, 1.0);
        self.answered += within * self.in_time(batch, typical);
        match self.outlook.others.is_empty() {
            true => self.lanes.drop_through(batch),
            false => self.lanes.take(batch),
        }
    }

    /// The expected number of queries of a batch that are in time, with safe ones at a lower value.
    fn in_time(&self, batch: &Section, typical: f64) -> f64 {
        let mut late = 0;
        for ratio in self.outlook.spread.iter().rev() {
            match self.lanes.before_within(batch, self.now + ratio * typical) {
                // No query is late at this ratio, so none is at a smaller one.
                0 => break,
                more => late += more,
            }
        }
        let in_danger = match self.outlook.some_are_safe() {
            true => self.lanes.before_within(batch, self.outlook.safe_from),
            false => batch.taken,
        };
        let safe = batch.taken - in_danger;
        in_danger as f64 + OF_THE_SAFE * safe as f64 - late as f64 / POINTS as f64
    }

    /// Seconds of work that the replicas can do until the horizon, in units of this replica's pace.
    fn seconds_left(&self) -> f64 {
        self.servers.seconds_until(self.outlook.horizon, self.now)
    }

    /// Advances to the start of the next batch. Returns whether that is within the horizon.
    fn proceed(&mut self) -> bool {
        self.now = self.now.max(self.servers.next());
        self.lanes.advance(self.now);
        if !self.outlook.others.is_empty() {
            self.lanes.drop_before(self.now + self.model.typical(1));
        }
        if self.lanes.waiting() == 0 {
            let Some(next) = self.lanes.next_arrival() else {
                return false;
            };
            self.now = next;
            self.lanes.advance(next);
        }
        self.now < self.outlook.horizon
    }
}

/// All replicas that a forecast follows. The last is the one that decides.
struct Servers {
    all: [Server; MOST_OTHERS + 1],
    count: usize,
    /// The index of the replica that serves next.
    turn: usize,
}

impl Servers {
    fn new(others: &[Server]) -> Self {
        let mut all = [Server::default(); MOST_OTHERS + 1];
        let turn = others.len().min(MOST_OTHERS);
        all[..turn].copy_from_slice(&others[..turn]);
        all[turn] = Server { free: 0.0, pace: 1.0 };
        Self {
            all,
            count: turn + 1,
            turn,
        }
    }

    /// Seconds of work that the replicas can do from `now` until `end`, in units of this replica's pace.
    fn seconds_until(&self, end: f64, now: f64) -> f64 {
        let servers = self.all[..self.count].iter();
        servers
            .map(|server| (end - server.free.max(now)).max(0.0) / server.pace)
            .sum()
    }

    /// Gives the turn to the replica that is free first, and returns when that is.
    fn next(&mut self) -> f64 {
        self.turn = 0;
        for server in 1..self.count {
            if self.all[server].free < self.all[self.turn].free {
                self.turn = server;
            }
        }
        self.all[self.turn].free
    }
}

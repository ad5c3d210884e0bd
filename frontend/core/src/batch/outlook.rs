//! What becomes of the queue in the near future if the next batch is this one: a forecast in which the
//! queries that wait, and those expected to come, are served by this replica and the others.
//!
//! A forecast costs the same however many wait and come. It follows no single query: those that wait are known by
//! a sample of their deadlines, those expected by their rates, and both are lanes ([`lanes`]) in which a batch is a
//! section. Beyond [`MOST_BATCHES`] batches the replicas are expected to answer as many queries a second as before.
//!
//! Times are seconds from when the batch in question would start.

use super::latency::LatencyModel;
use super::ratios::POINTS;
use lanes::{Expected, Lanes, Section};

pub(super) mod lanes;

/// How many batches a forecast follows one by one.
const MOST_BATCHES: usize = 8;

/// How often a size is guessed if there are too few for the size aimed for.
const GUESSES: usize = 4;

/// An answer that would be in time later, too, counts for so much of another.
const OF_THE_SAFE: f64 = 0.1;

/// The most other replicas a forecast follows.
pub(super) const MOST_OTHERS: usize = 7;

/// A batch: so many of the first are passed over, so many behind them taken.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) struct Cut {
    pub(super) passed: usize,
    pub(super) taken: usize,
}

/// What batches are cut for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Aim {
    /// So many queries.
    pub(super) size: usize,
    /// Those that would be late if the batch took so many times what is typical are passed over.
    pub(super) caution: f64,
}

/// A replica.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Server {
    /// When it is free.
    pub(super) free: f64,
    /// How much longer a batch takes there.
    pub(super) pace: f64,
}

/// What forecasts are made from. Its buffers are used again for the next decision.
#[derive(Clone, Debug, Default)]
pub(super) struct Outlook {
    /// The queries that wait and those that are to come.
    pub(super) expected: Expected,
    /// The other replicas.
    pub(super) others: Vec<Server>,
    /// How long it is others' turn between two batches of this queue.
    pub(super) pause: f64,
    /// How far is looked ahead.
    pub(super) horizon: f64,
    /// The largest batch.
    pub(super) largest: usize,
    /// Those that are due from here on are in no danger.
    pub(super) safe_from: f64,
    /// The most queries per second that a replica of pace 1 can answer.
    pub(super) most_per_second: f64,
    mean_ratio: f64,
    spread: [f64; POINTS],
}

impl Outlook {
    /// Takes over what is known of batch times.
    pub(super) fn expect_batches(&mut self, model: &LatencyModel) {
        self.mean_ratio = model.mean_ratio();
        self.spread = model.spread();
    }

    pub(super) fn some_are_safe(&self) -> bool {
        self.safe_from < f64::INFINITY
    }

    /// Whether all waiting queries that are in danger are in time, even if batches are slow, when the next batch takes the
    /// first `taken` and later ones `size` each.
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

    /// The largest batch whose head, due then, is expected to be in time even if it takes so many times what
    /// is typical.
    pub(super) fn fitting(&self, model: &LatencyModel, due: f64, waiting: usize, caution: f64) -> usize {
        model.size_within(due / caution).min(waiting).min(self.largest)
    }

    /// The batch that is cut from what waits now, as later ones are.
    pub(super) fn first_cut(&self, model: &LatencyModel, aim: Aim) -> Cut {
        let lanes = Lanes::new(&self.expected);
        let section = self.cut(model, &lanes, 0.0, aim);
        Cut {
            passed: section.passed(),
            taken: section.taken,
        }
    }

    /// Passes over those that would be late with a batch of the size aimed for, and takes that many, or more
    /// if those left allow it. If too few are left for that size, it is about the largest batch with all in time.
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
        // Where some can wait, a batch is no larger than it aims for: who comes meanwhile may not be able to.
        let most = match self.some_are_safe() {
            true => aim.size,
            false => usize::MAX,
        };
        lanes.section(passed, taken.clamp(1, most.max(1)))
    }

    /// How many queries are expected to be answered in time within the horizon if the next batch is `first`
    /// and later ones have this aim. A forecast that cannot reach `enough` any more ends early, with a number below it.
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
        // What is left of the replicas' time answers as much as it did in the second half. Measured in their time and not
        // in the clock's, because several replicas may start their batches at nearly the same moment.
        let left = forecast.seconds_left();
        let rate = (forecast.answered - halfway.1) / (halfway.0 - left).max(f64::MIN_POSITIVE);
        forecast.answered + rate * left
    }
}

/// One possible future.
struct Forecast<'a> {
    outlook: &'a Outlook,
    model: &'a LatencyModel,
    lanes: Lanes<'a>,
    servers: Servers,
    now: f64,
    answered: f64,
}

impl Forecast<'_> {
    /// The replica whose turn it is does this batch.
    fn serve(&mut self, batch: &Section) {
        let server = &mut self.servers.all[self.servers.turn];
        let typical = self.model.typical(batch.taken) * server.pace;
        let took = typical * self.outlook.mean_ratio;
        server.free = self.now + took + self.outlook.pause;
        // A batch that ends beyond the horizon counts for its part within.
        let within = ((self.outlook.horizon - self.now) / took).clamp(0.0, 1.0);
        self.answered += within * self.in_time(batch, typical);
        match self.outlook.others.is_empty() {
            true => self.lanes.drop_through(batch),
            false => self.lanes.take(batch),
        }
    }

    /// How many of a batch are expected to be in time, of those in danger.
    fn in_time(&self, batch: &Section, typical: f64) -> f64 {
        let mut late = 0;
        for ratio in self.outlook.spread.iter().rev() {
            match self.lanes.before_within(batch, self.now + ratio * typical) {
                // If it is quicker, all the more.
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

    /// How many seconds of work the servers can do until the horizon, counted at pace 1.
    fn seconds_left(&self) -> f64 {
        self.servers.seconds_until(self.outlook.horizon, self.now)
    }

    /// Goes on to when the next batch starts; whether there is one within the horizon.
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

/// All replicas.
struct Servers {
    all: [Server; MOST_OTHERS + 1],
    count: usize,
    /// Whose turn it is.
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

    /// How many seconds of work the servers can do until `end`, counted at pace 1.
    fn seconds_until(&self, end: f64, now: f64) -> f64 {
        let servers = self.all[..self.count].iter();
        servers
            .map(|server| (end - server.free.max(now)).max(0.0) / server.pace)
            .sum()
    }

    /// Turns to the one that is free first; returns when that is.
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

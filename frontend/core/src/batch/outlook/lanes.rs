//! The queries of a forecast, in lanes: one for the waiting queries, and one for each class of expected arrivals.
//!
//! Within a lane queries come in the order in which they are due. So a few numbers tell the state of a lane.
//! Questions about it are answered by arithmetic, or from the sample, whatever the number of queries.

use crate::arrivals::Class;

/// The most classes of arrivals that are told apart.
pub(in crate::batch) const MOST_CLASSES: usize = 3;

const MOST_LANES: usize = 1 + MOST_CLASSES;

/// Rounding errors may lose this much of a query.
const SLACK: f64 = 1e-9;

/// The arrivals of one class, at a steady rate.
#[derive(Clone, Copy, Debug)]
struct Stream {
    per_second: f64,
    /// Seconds from one query to the next: 1 ÷ `per_second`, kept because a multiplication is cheaper than a
    /// division.
    apart: f64,
    budget: f64,
}

impl Stream {
    fn new(per_second: f64, budget: f64) -> Self {
        let apart = per_second.recip();
        Self {
            per_second,
            apart,
            budget,
        }
    }

    /// When the query at a place arrives.
    #[expect(clippy::cast_precision_loss, reason = "far fewer than 2^52")]
    fn comes(&self, place: usize) -> f64 {
        (place as f64 + 0.5) * self.apart
    }
}

/// All queries of a forecast: the waiting ones and the expected ones.
#[derive(Clone, Debug, Default)]
pub(in crate::batch) struct Expected {
    /// A sample of the waiting queries, by deadline. It ends with the last of all.
    sample: Vec<Sampled>,
    /// Finds deadlines in `sample`.
    index: Index,
    /// Sampled queries are `2^doublings` ranks apart.
    doublings: u32,
    /// The number of waiting queries.
    waiting: usize,
    streams: Vec<Stream>,
}

/// A sampled query, and the unsampled ones up to the next sampled one. Their deadlines are taken to be evenly spread.
#[derive(Clone, Copy, Debug)]
struct Sampled {
    due: f64,
    /// How many of the unsampled ones are due per second.
    per_second: f64,
    /// Seconds from one of them to the next.
    apart: f64,
}

impl Expected {
    /// Sets the waiting queries. `due` has the deadline of each `2^doublings`-th of them, and of the last.
    #[expect(clippy::cast_precision_loss, reason = "far fewer than 2^52")]
    pub(in crate::batch) fn wait(&mut self, waiting: usize, doublings: u32, due: impl Iterator<Item = f64>) {
        self.waiting = waiting;
        self.doublings = doublings;
        self.sample.clear();
        self.sample.extend(due.map(|due| Sampled {
            due,
            per_second: 0.0,
            apart: 0.0,
        }));
        for index in 1..self.sample.len() {
            let ranks = self.rank(index) - self.rank(index - 1);
            let seconds = self.sample[index].due - self.sample[index - 1].due;
            let behind = &mut self.sample[index - 1];
            behind.per_second = (ranks - 1) as f64 / seconds;
            behind.apart = seconds / ranks as f64;
        }
        self.index.build(&self.sample);
    }

    /// Sets the expected arrivals: `per_second` in all, divided among these classes.
    pub(in crate::batch) fn expect_arrivals(&mut self, per_second: f64, classes: &[Class]) {
        self.streams.clear();
        if per_second > 0.0 {
            let stream = |class: &Class| Stream::new(class.share * per_second, class.budget);
            self.streams.extend(classes.iter().map(stream));
        }
    }

    /// The number of waiting queries.
    pub(in crate::batch) fn waiting(&self) -> usize {
        self.waiting
    }

    /// When the first waiting query is due.
    pub(in crate::batch) fn first(&self) -> f64 {
        self.sample.first().map_or(0.0, |first| first.due)
    }

    /// When the last waiting query is due.
    pub(in crate::batch) fn last(&self) -> f64 {
        self.sample.last().map_or(0.0, |last| last.due)
    }

    /// The earliest deadline at or after `loose` from which all waiting queries are in time. Queries, arrivals
    /// included, are answered in the order of their deadlines, `per_second` of them each second. Infinite if there is
    /// none.
    #[expect(clippy::cast_precision_loss, reason = "far fewer than 2^52")]
    pub(in crate::batch) fn safe_from(&self, loose: f64, per_second: f64) -> f64 {
        let come_before = |due: f64| -> f64 {
            let streams = self.streams.iter();
            streams
                .map(|stream| stream.per_second * (due - stream.budget).max(0.0))
                .sum()
        };
        let is_safe = |index: usize| {
            let due = self.sample[index].due;
            let before = (self.rank(index) + 1) as f64 + come_before(due);
            due >= loose && before <= per_second * due
        };
        let waiting = (0..self.sample.len()).rev();
        waiting
            .take_while(|&index| is_safe(index))
            .last()
            .map_or(f64::INFINITY, |index| self.sample[index].due)
    }

    /// Whether each waiting query that is due before `safe_from` is due no earlier than `done(rank)`.
    pub(in crate::batch) fn all_due_after(&self, safe_from: f64, done: impl Fn(usize) -> f64) -> bool {
        let in_danger = self.sample.iter().take_while(|sampled| sampled.due < safe_from);
        in_danger
            .enumerate()
            .all(|(index, sampled)| sampled.due >= done(self.rank(index)))
    }

    /// How many queries of a lane are due before `due`, counted from the first query of the lane.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a float casts to the nearest integer there is, and what is not positive to 0"
    )]
    fn before(&self, lane: usize, due: f64) -> usize {
        if let Some(stream) = lane.checked_sub(1).map(|stream| self.streams[stream]) {
            return rounded_up((due - stream.budget) * stream.per_second - 0.5 - SLACK);
        }
        let next = self.index.first_at_least(due, &self.sample);
        if next == 0 {
            return 0;
        }
        if next == self.sample.len() {
            return self.waiting;
        }
        let earlier = &self.sample[next - 1];
        self.rank(next - 1) + 1 + ((due - earlier.due) * earlier.per_second) as usize
    }

    /// When the query at a place of a lane is due.
    #[expect(clippy::cast_precision_loss, reason = "far fewer than 2^52")]
    fn due(&self, lane: usize, place: usize) -> f64 {
        if let Some(stream) = lane.checked_sub(1).map(|stream| self.streams[stream]) {
            return stream.comes(place) + stream.budget;
        }
        let index = (place >> self.doublings).min(self.sample.len() - 1);
        let sampled = &self.sample[index];
        sampled.due + (place - self.rank(index)) as f64 * sampled.apart
    }

    /// The rank in the queue of a query of the sample.
    fn rank(&self, index: usize) -> usize {
        (index << self.doublings).min(self.waiting - 1)
    }
}

/// Rounds up. `f64::ceil` is a function call on processors without SSE 4.1.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "a float casts to the nearest integer there is, and what is not positive to 0"
)]
fn rounded_up(number: f64) -> usize {
    let below = number as usize;
    below + usize::from((below as f64) < number)
}

/// Finds deadlines in a sorted sample without a binary search over all of it.
///
/// Deadlines fall into cells whose width grows with the deadline: [`CELLS_PER_DOUBLING`] cells for each doubling. So
/// near deadlines are told apart as well as late ones.
#[derive(Clone, Debug, Default)]
struct Index {
    /// The number of the first cell.
    first_cell: usize,
    /// For each cell, the number of sampled queries in cells before it. There is one entry more than there are cells.
    before: Vec<u16>,
}

const CELLS_PER_DOUBLING: usize = 16;

/// Deadlines below the last one ÷ 2^`DOUBLINGS` share the first cell.
const DOUBLINGS: usize = 12;

impl Index {
    /// A cell is the exponent and the first bits of the mantissa of the floating-point number.
    #[expect(clippy::cast_possible_truncation, reason = "12 + 4 bits are left")]
    fn cell(due: f64) -> usize {
        (due.max(0.0).to_bits() >> (f64::MANTISSA_DIGITS - 1 - CELLS_PER_DOUBLING.ilog2())) as usize
    }

    fn build(&mut self, sample: &[Sampled]) {
        let last_cell = sample.last().map_or(0, |last| Self::cell(last.due));
        self.first_cell = last_cell.saturating_sub(DOUBLINGS * CELLS_PER_DOUBLING);
        self.before.clear();
        for (place, sampled) in (0..).zip(sample) {
            let cell = Self::cell(sampled.due).max(self.first_cell) - self.first_cell;
            while self.before.len() <= cell {
                self.before.push(place);
            }
        }
        let all = u16::try_from(sample.len()).unwrap_or(u16::MAX);
        self.before.push(all);
    }

    /// The index in the sample of the first query that is due at `due` or later.
    fn first_at_least(&self, due: f64, sample: &[Sampled]) -> usize {
        let cell = Self::cell(due).max(self.first_cell) - self.first_cell;
        let Some(&[from, to]) = self.before.get(cell..cell + 2).and_then(|two| two.first_chunk()) else {
            return sample.len();
        };
        let (from, to) = (usize::from(from), usize::from(to));
        from + sample[from..to].partition_point(|sampled| sampled.due < due)
    }
}

/// The state of a lane. A place is the position of a query, counted from the first one of the lane.
#[derive(Clone, Copy, Debug, Default)]
struct Lane {
    /// Queries before this place were taken or given up.
    head: usize,
    /// Queries from this place on have not arrived yet.
    tail: usize,
    /// Queries between these places were taken, while some before them were left for another replica.
    hole: (usize, usize),
}

impl Lane {
    fn waiting(&self) -> usize {
        self.tail - self.head - (self.hole.1 - self.hole.0)
    }

    /// The place of the `nth` query that waits.
    fn place(&self, nth: usize) -> usize {
        let place = self.head + nth;
        if place < self.hole.0 {
            return place;
        }
        place + self.hole.1 - self.hole.0
    }

    /// How many queries wait before a place.
    fn waiting_before(&self, place: usize) -> usize {
        let place = place.clamp(self.head, self.tail);
        let taken = place.clamp(self.hole.0, self.hole.1) - self.hole.0;
        place - self.head - taken
    }

    /// Takes out all queries before a place.
    fn drop_before(&mut self, place: usize) {
        self.head = self.head.max(place.min(self.tail));
        if self.head >= self.hole.0 {
            self.head = self.head.max(self.hole.1);
            self.hole = (self.head, self.head);
        }
    }

    /// Takes out the queries between two places. A lane has one hole only. When a second one opens behind it, queries
    /// in front of the first are dropped; otherwise the two become one.
    fn take(&mut self, from: usize, to: usize) {
        if self.waiting_before(from) == 0 {
            return self.drop_before(to);
        }
        if self.hole.0 < self.hole.1 {
            if self.hole.1 < from {
                self.drop_before(self.hole.1);
            } else {
                self.hole = (from.min(self.hole.0), to.max(self.hole.1));
                return;
            }
        }
        self.hole = (from, to);
    }
}

/// A number of queries for each lane.
pub(super) type Counts = [usize; MOST_LANES];

/// A batch of waiting queries: for each lane, how many are skipped, and how many are skipped or taken.
#[derive(Clone, Copy, Debug)]
pub(super) struct Section {
    from: Counts,
    to: Counts,
    pub(super) taken: usize,
}

impl Section {
    /// How many queries are skipped, over all lanes.
    pub(super) fn passed(&self) -> usize {
        self.from.iter().sum()
    }
}

/// The lanes of one forecast. Copied for each forecast, while `expected` is shared.
#[derive(Clone, Copy)]
pub(super) struct Lanes<'a> {
    expected: &'a Expected,
    lanes: [Lane; MOST_LANES],
}

impl<'a> Lanes<'a> {
    pub(super) fn new(expected: &'a Expected) -> Self {
        let mut lanes = [Lane::default(); MOST_LANES];
        lanes[0].tail = expected.waiting;
        Self { expected, lanes }
    }

    fn used(&self) -> usize {
        1 + self.expected.streams.len()
    }

    /// How many queries wait, over all lanes.
    pub(super) fn waiting(&self) -> usize {
        self.lanes.iter().map(Lane::waiting).sum()
    }

    /// How many waiting queries are due before `due`, over all lanes.
    pub(super) fn before(&self, due: f64) -> usize {
        (0..self.used()).map(|lane| self.before_in(lane, due)).sum()
    }

    /// How many waiting queries of each lane are due before `due`.
    pub(super) fn counts_before(&self, due: f64) -> Counts {
        let mut counts = [0; MOST_LANES];
        for (lane, count) in counts.iter_mut().enumerate().take(self.used()) {
            *count = self.before_in(lane, due);
        }
        counts
    }

    fn before_in(&self, lane: usize, due: f64) -> usize {
        let of = &self.lanes[lane];
        if of.waiting() == 0 {
            return 0;
        }
        of.waiting_before(self.expected.before(lane, due))
    }

    /// When the `nth` waiting query of a lane is due.
    fn due_in(&self, lane: usize, nth: usize) -> Option<f64> {
        let of = &self.lanes[lane];
        (nth < of.waiting()).then(|| self.expected.due(lane, of.place(nth)))
    }

    /// When the first query after these counts is due.
    pub(super) fn due_behind(&self, counts: &Counts) -> f64 {
        let heads = (0..self.used()).filter_map(|lane| self.due_in(lane, counts[lane]));
        heads.fold(f64::INFINITY, f64::min)
    }

    /// The counts of all waiting queries but the one that is due last.
    pub(super) fn all_but_last(&self) -> Counts {
        self.first([0; MOST_LANES], self.waiting() - 1)
    }

    /// The batch of `taken` queries after the first `passed`.
    pub(super) fn behind(&self, passed: usize, taken: usize) -> Section {
        self.section(self.first([0; MOST_LANES], passed), taken)
    }

    /// The batch of `taken` queries after these counts.
    pub(super) fn section(&self, from: Counts, taken: usize) -> Section {
        let to = self.first(from, taken);
        Section { from, to, taken }
    }

    /// Adds the next `count` queries by deadline to these counts.
    fn first(&self, mut counts: Counts, count: usize) -> Counts {
        if counts.iter().sum::<usize>() + count == self.waiting() {
            return self.lanes.map(|lane| lane.waiting());
        }
        let mut left = count;
        let mut runs = 0;
        while left > 0 {
            let Some((lane, end)) = self.next_run(&counts) else {
                break;
            };
            let run = match end == f64::INFINITY {
                true => left,
                false => self
                    .before_in(lane, end)
                    .saturating_sub(counts[lane])
                    .clamp(1, left),
            };
            counts[lane] += run;
            left -= run;
            runs += 1;
            if runs == LONG && left > 0 {
                self.skip(&mut counts, &mut left);
            }
        }
        counts
    }

    /// The lane of the next query after these counts, and when the next query of any other lane is due.
    fn next_run(&self, counts: &Counts) -> Option<(usize, f64)> {
        let (mut lane, mut first, mut second) = (None, f64::INFINITY, f64::INFINITY);
        for (other, &count) in counts.iter().enumerate().take(self.used()) {
            let Some(due) = self.due_in(other, count) else {
                continue;
            };
            if due < first || lane.is_none() {
                (lane, first, second) = (Some(other), due, first);
            } else {
                second = second.min(due);
            }
        }
        lane.map(|lane| (lane, second))
    }

    /// Adds most of the `left` queries at once: searches for a deadline before which nearly that many more are due.
    #[expect(clippy::cast_precision_loss, reason = "far fewer than 2^52")]
    fn skip(&self, counts: &mut Counts, left: &mut usize) {
        let found: usize = counts.iter().sum();
        let wanted = found + *left;
        let mut earlier = (self.due_behind(counts), found);
        let ends = (0..self.used())
            .filter_map(|lane| self.due_in(lane, self.lanes[lane].waiting().saturating_sub(1)));
        let mut later = (ends.fold(0.0, f64::max), self.waiting());
        for _ in 0..GUESSES {
            if later.1 <= earlier.1 || wanted == earlier.1 {
                break;
            }
            let part = (wanted - earlier.1) as f64 / (later.1 - earlier.1) as f64;
            let guess = earlier.0 + part * (later.0 - earlier.0);
            let before = self.before(guess);
            if before <= wanted {
                earlier = (guess, before);
            } else {
                later = (guess, before);
            }
        }
        for (lane, count) in counts.iter_mut().enumerate().take(self.used()) {
            *count = (*count).max(self.before_in(lane, earlier.0));
        }
        *left = wanted.saturating_sub(counts.iter().sum());
    }

    /// How many queries of a section are due before `due`.
    pub(super) fn before_within(&self, section: &Section, due: f64) -> usize {
        let lanes = (0..self.used()).filter(|&lane| section.from[lane] < section.to[lane]);
        let late = lanes.map(|lane| {
            let (from, to) = (section.from[lane], section.to[lane]);
            self.before_in(lane, due).clamp(from, to) - from
        });
        late.sum()
    }

    /// Takes out a section, and all queries before it.
    pub(super) fn drop_through(&mut self, section: &Section) {
        for (lane, &to) in self.lanes.iter_mut().zip(&section.to) {
            lane.drop_before(lane.head + to);
        }
    }

    /// Takes out a section. Queries before it stay.
    pub(super) fn take(&mut self, section: &Section) {
        for (index, lane) in self.lanes.iter_mut().enumerate() {
            let (from, to) = (section.from[index], section.to[index]);
            if from < to {
                lane.take(lane.place(from), lane.place(to - 1) + 1);
            }
        }
    }

    /// Takes out all queries that are due before `due`.
    pub(super) fn drop_before(&mut self, due: f64) {
        for lane in 0..self.used() {
            let place = self.expected.before(lane, due);
            self.lanes[lane].drop_before(place);
        }
    }

    /// Lets the queries that arrive until `now` wait.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "far fewer than 2^52, and never negative"
    )]
    pub(super) fn advance(&mut self, now: f64) {
        for (lane, stream) in self.lanes[1..].iter_mut().zip(&self.expected.streams) {
            lane.tail = lane.tail.max((now * stream.per_second + 0.5 + SLACK) as usize);
        }
    }

    /// When the next query arrives.
    pub(super) fn next_arrival(&self) -> Option<f64> {
        let lanes = self.lanes[1..].iter().zip(&self.expected.streams);
        lanes
            .map(|(lane, stream)| stream.comes(lane.tail))
            .min_by(f64::total_cmp)
    }
}

/// After this many runs, each of queries of one lane, the rest is found by a search over deadlines.
const LONG: usize = 4;

/// How often that search guesses a deadline.
const GUESSES: usize = 5;

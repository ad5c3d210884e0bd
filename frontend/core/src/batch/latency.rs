//! How long a replica's next batch will take, learned from the batches that it has done.
//!
//! The typical time comes from a line in the batch size, or from a table of sizes ([`super::table`]) where that is
//! clearly closer ([`super::fit`]). The last ratios of actual to typical time say how far off a batch may be.
//!
//! A replica that changes its speed, because a noisy neighbour came or went, changes it for all sizes. That shows in
//! the median of a few batches. The line is then scaled at once, and not learned anew. One slow batch is no change of
//! speed.
//!
//! Times are seconds as `f64`, because they are multiplied far more often than shown.

use std::collections::VecDeque;
use std::time::Duration;

use skysail_proto::admin::{TimesBy, TimesFit};

use super::bytes::Bytes;
use super::fit::Fit;
use super::line::{LEAST_SECONDS, Line};
use super::ratios::{POINTS, Ratios};
use super::table::Table;

/// A cautious estimate holds for this share of batches.
const CAUTION: f64 = 0.9;

/// A change of speed is looked for in this many of the last batches.
const JUMP_BATCHES: usize = 7;

/// It is a change if the median ratio of those batches leaves 1 ÷ `JUMP` to `JUMP`.
const JUMP: f64 = 1.4;

/// The line learns from one batch at most this multiple of its expected time, and at least 1 ÷ `OUTLIER` of it. A
/// stall of seconds says nothing about the next batch.
const OUTLIER: f64 = 4.0;

/// The longest time of a batch, in seconds. A longer one is a clock that jumped.
const LONGEST_SECONDS: f64 = 1e5;

/// Everything learned about a replica's batch times.
#[derive(Clone, Debug, Default)]
pub struct LatencyModel {
    line: Option<Line>,
    /// Ratios of actual times to the line's.
    line_ratios: Ratios,
    /// Times by size, beside the line. A batch enters the table only when it leaves `recent`, so that a change of
    /// speed can be told from the table.
    table: Table,
    /// Ratios of actual times to the table's.
    table_ratios: Ratios,
    /// Whether the line or the table is used.
    fit: Fit,
    /// The last [`JUMP_BATCHES`] batches.
    recent: VecDeque<Sample>,
    /// Batches since the line was last scaled.
    since_jump: usize,
    /// Batches since the table was last scaled.
    since_table_jump: usize,
    largest: usize,
    /// The correction of the typical time by the bytes of the inputs.
    bytes: Bytes,
    /// Inputs of other frontends in a batch, for each input of this one.
    others: f64,
}

/// The size of a batch, and its time in seconds.
#[derive(Clone, Copy, Debug)]
struct Sample {
    size: usize,
    seconds: f64,
    /// Whether it is in the table already: batches of a size class that the table does not know enter at once.
    in_table: bool,
}

impl LatencyModel {
    /// Whether any batch was seen.
    pub fn is_known(&self) -> bool {
        self.line.is_some()
    }

    /// The largest batch seen so far.
    pub fn largest(&self) -> usize {
        self.largest
    }

    /// From now on the sizes in questions are those of this frontend's part of a batch, which is `share` of the
    /// whole. Sizes in observations are always those of whole batches.
    pub fn see_through(&mut self, share: f64) {
        self.others = (1.0 / share - 1.0).max(0.0);
    }

    /// The typical time of a batch of this size, in seconds. 0 while nothing is known.
    pub fn typical(&self, size: usize) -> f64 {
        match self.fit.uses_table() {
            true => self.table.at(self.whole(size)),
            false => self.on_the_line(size),
        }
    }

    /// The typical time of a whole batch of `size` inputs, which include those of other frontends.
    fn typical_whole(&self, size: usize) -> f64 {
        match self.fit.uses_table() {
            true => self.table.at(size),
            false => self.line.map_or(0.0, |line| line.at(as_number(size))),
        }
    }

    /// The size of the whole batch, if this frontend's part has `size` inputs.
    fn whole(&self, size: usize) -> usize {
        match self.others > 0.0 {
            true => (as_number(size) * (1.0 + self.others)).round() as usize,
            false => size,
        }
    }

    /// The typical time of a batch of a single input, in seconds. 0 while nothing is known.
    pub fn alone(&self) -> f64 {
        self.typical_whole(1)
    }

    /// The time of a batch of this size by the line, even where the table is used. 0 while nothing is known. The line
    /// says how much one more input costs on average, which a step of the table hides.
    pub fn on_the_line(&self, size: usize) -> f64 {
        self.line
            .map_or(0.0, |line| line.at(as_number(size) * (1.0 + self.others)))
    }

    /// Seconds that each further input of a whole batch adds on the whole; nothing while nothing is known.
    pub(crate) fn each(&self) -> f64 {
        self.line.map_or(0.0, |line| line.at(2.0) - line.at(1.0))
    }

    /// The largest size of the step below this size, where the table is used. A size just above the end of a step
    /// wastes most of a wave.
    pub(crate) fn step_below(&self, size: usize) -> Option<usize> {
        self.table
            .step_below(size)
            .filter(|_| self.fit.uses_table() && self.others == 0.0)
    }

    fn ratios(&self) -> &Ratios {
        match self.fit.uses_table() {
            true => &self.table_ratios,
            false => &self.line_ratios,
        }
    }

    /// Which of line, table and bytes is used, and how well it fits. `None` while nothing is known.
    pub fn fit(&self) -> Option<TimesFit> {
        let by_bytes = TimesFit {
            uses: TimesBy::Bytes,
            error: self.bytes.error(),
        };
        self.is_known().then(|| match self.bytes.is_used() {
            true => by_bytes,
            false => self.fit.told(),
        })
    }

    /// Whether the bytes of the inputs are used in expected times.
    pub(crate) fn knows_bytes(&self) -> bool {
        self.bytes.is_used()
    }

    /// The typical time of a batch of `size` inputs with `bytes` bytes together, in seconds.
    pub(crate) fn typical_of(&self, size: usize, bytes: usize) -> f64 {
        self.bytes
            .adjust(self.typical(size), as_number(size), as_number(bytes))
    }

    /// The typical time of such a batch as a `Duration`. `None` while nothing is known.
    pub(crate) fn predict_of(&self, size: usize, bytes: usize) -> Option<Duration> {
        self.is_known()
            .then(|| Duration::from_secs_f64(self.typical_of(size, bytes).min(LONGEST_SECONDS)))
    }

    /// The factor on typical times that nine of ten batches stay within.
    pub fn caution(&self) -> f64 {
        self.ratios().quantile(CAUTION)
    }

    /// The factor on typical times that about half of the batches stay within.
    pub fn even_odds(&self) -> f64 {
        self.ratios().points()[POINTS / 2 - 1]
    }

    /// The factor on typical times that about one of five batches stays within.
    pub fn long_odds(&self) -> f64 {
        self.ratios().points()[POINTS / 4 - 1]
    }

    /// The factor on typical times that hardly any batch is below. At most 1.
    pub fn least_ratio(&self) -> f64 {
        self.ratios().points()[0].min(1.0)
    }

    /// The largest batch that typically takes at most `seconds`.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a float casts to the nearest integer there is, and what is not positive to 0"
    )]
    pub fn size_within(&self, seconds: f64) -> usize {
        /// Rounding errors may lose this much of an input.
        const SLACK: f64 = 1e-9;
        let size = match self.fit.uses_table() {
            true => self.table.size_within(seconds),
            false => self.line.map_or(0.0, |line| line.size_within(seconds)),
        };
        (size / (1.0 + self.others) + SLACK) as usize
    }

    /// Ratios of actual to typical time, each equally likely.
    pub fn spread(&self) -> [f64; POINTS] {
        self.ratios().points()
    }

    /// The mean ratio of actual to typical time.
    pub fn mean_ratio(&self) -> f64 {
        self.ratios().mean()
    }

    /// The typical time of a batch of this size. `None` while nothing is known.
    pub fn predict(&self, size: usize) -> Option<Duration> {
        self.is_known()
            .then(|| Duration::from_secs_f64(self.typical(size).min(LONGEST_SECONDS)))
    }

    /// The queries per second with the best size up to `max_batch` whose cautious time is within `within`. `None`
    /// while nothing is known.
    #[expect(clippy::cast_precision_loss, reason = "batches are far smaller than 2^52")]
    pub fn throughput(&self, max_batch: usize, within: Duration) -> Option<f64> {
        self.line?;
        let (caution, mean_ratio) = (self.caution(), self.mean_ratio());
        let fits = |&size: &usize| size == 1 || caution * self.typical(size) <= within.as_secs_f64();
        let rate = |size: usize| size as f64 / (self.typical(size) * mean_ratio);
        Some((1..=max_batch).take_while(fits).map(rate).fold(0.0, f64::max))
    }

    /// Whether a batch of `size` with this time fits the expected speed, within a factor of `JUMP`.
    pub fn agrees(&self, size: usize, took: Duration) -> bool {
        (1.0 / JUMP..=JUMP).contains(&(took.as_secs_f64() / self.typical_whole(size)))
    }

    /// A batch of `size` inputs took this long inside the model. `pressed`: queries were left waiting or given up
    /// when it was sized.
    pub fn observe(&mut self, size: usize, took: Duration, pressed: bool) {
        let seconds = took.as_secs_f64().clamp(LEAST_SECONDS, LONGEST_SECONDS);
        self.observe_average(size, size, seconds, pressed);
    }

    /// Like [`Self::observe`], for a batch that was planned with `planned` inputs, those of other frontends included.
    /// A batch that turned out larger or smaller widens the scatter of the ratios.
    pub fn observe_planned(&mut self, size: usize, planned: usize, took: Duration, pressed: bool) {
        let seconds = took.as_secs_f64().clamp(LEAST_SECONDS, LONGEST_SECONDS);
        self.observe_average(size, planned, seconds, pressed);
    }

    /// Like [`Self::observe`], for inputs of `bytes` bytes together.
    pub(crate) fn observe_of(&mut self, size: usize, bytes: usize, took: Duration, pressed: bool) {
        let seconds = took.as_secs_f64().clamp(LEAST_SECONDS, LONGEST_SECONDS);
        let (inputs, bytes) = (as_number(size), as_number(bytes));
        let average = self.bytes.of_average(seconds, inputs, bytes);
        if self.is_known() && size > 0 {
            self.bytes
                .observe(seconds, self.typical_whole(size), inputs, bytes);
        }
        self.observe_average(size, size, average, pressed);
    }

    /// A batch of `size` average inputs took `seconds`, and was planned with `planned` inputs.
    fn observe_average(&mut self, size: usize, planned: usize, seconds: f64, pressed: bool) {
        if size == 0 {
            return;
        }
        self.largest = self.largest.max(size);
        self.table.count(pressed);
        self.remember(size, seconds);
        self.forget_slow_start(size, seconds);
        self.follow_jump();
        self.follow_table_jump();
        self.take_in(size, planned, seconds, pressed);
    }

    /// Adds a batch to the last ones. The batch that leaves them enters the table.
    fn remember(&mut self, size: usize, seconds: f64) {
        let in_table = !self.table.knows(size);
        if in_table {
            self.table.observe(size, seconds);
        }
        self.recent.push_back(Sample {
            size,
            seconds,
            in_table,
        });
        if self.recent.len() > JUMP_BATCHES
            && let Some(oldest) = self.recent.pop_front()
            && !oldest.in_table
        {
            self.table.observe(oldest.size, oldest.seconds);
        }
    }

    /// Adds a batch to the line, and its ratio to the ratios.
    fn take_in(&mut self, size: usize, planned: usize, seconds: f64, pressed: bool) {
        let inputs = as_number(size);
        let line = self.line.get_or_insert_with(|| Line::through(inputs, seconds));
        let expected = line.at(inputs);
        self.line_ratios.push(seconds / line.at(as_number(planned)));
        let counted = seconds.clamp(expected / OUTLIER, expected * OUTLIER);
        let by_table = seconds / self.table.at(size);
        line.observe(inputs, counted, pressed);
        self.table.settle(line);
        if by_table.is_finite() {
            self.table_ratios.push(by_table);
            self.fit.observe(seconds / expected, by_table);
        }
    }

    /// Starts anew with this batch if the first batches took far longer. Many models load, compile or fill their
    /// caches in the first call, whose time says nothing about later ones.
    fn forget_slow_start(&mut self, size: usize, seconds: f64) {
        let is_start = self.recent.len() < JUMP_BATCHES && self.since_jump < JUMP_BATCHES;
        let is_far_quicker = |line: Line| seconds * OUTLIER < line.at(as_number(size));
        if is_start && self.line.is_some_and(is_far_quicker) {
            self.line = None;
            self.line_ratios = Ratios::default();
            self.table = Table::default();
            self.table.observe(size, seconds);
            self.table_ratios = Ratios::default();
            self.fit = Fit::default();
            self.bytes = Bytes::default();
        }
    }

    /// Scales the line if the last batches agree on another speed.
    fn follow_jump(&mut self) {
        self.since_jump += 1;
        let Some(line) = &mut self.line else { return };
        if self.since_jump < JUMP_BATCHES {
            return;
        }
        if let Some(factor) = jump(&self.recent, |size| line.at(as_number(size))) {
            line.scale(factor);
            self.bytes.scale(factor);
            self.line_ratios.divide_last(JUMP_BATCHES - 1, factor);
            self.since_jump = 0;
        }
    }

    /// Scales the table if the last batches agree on another speed. None of them is in the table yet.
    fn follow_table_jump(&mut self) {
        self.since_table_jump += 1;
        if self.since_table_jump < JUMP_BATCHES || self.recent.iter().any(|sample| sample.in_table) {
            return;
        }
        if let Some(factor) = jump(&self.recent, |size| self.table.at(size)) {
            self.table.scale(factor);
            self.table_ratios.divide_last(JUMP_BATCHES - 1, factor);
            self.since_table_jump = 0;
        }
    }
}

/// The median ratio of the last batches to their expected times, if it is a change of speed.
fn jump(recent: &VecDeque<Sample>, expected: impl Fn(usize) -> f64) -> Option<f64> {
    if recent.len() < JUMP_BATCHES {
        return None;
    }
    let mut ratios: [f64; JUMP_BATCHES] = std::array::from_fn(|index| {
        let Sample { size, seconds, .. } = recent[index];
        seconds / expected(size)
    });
    ratios.sort_unstable_by(f64::total_cmp);
    let median = ratios[JUMP_BATCHES / 2];
    (!(1.0 / JUMP..=JUMP).contains(&median)).then_some(median)
}

#[expect(clippy::cast_precision_loss, reason = "batches are far smaller than 2^52")]
fn as_number(size: usize) -> f64 {
    size as f64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A model that takes `fixed` and `each` per input, in microseconds.
    #[derive(Clone, Copy, Debug)]
    struct Truth {
        fixed: u64,
        each: u64,
    }

    impl Truth {
        fn of(self, size: usize) -> Duration {
            Duration::from_micros(self.fixed + self.each * size as u64)
        }
    }

    fn learned(truth: Truth, sizes: impl IntoIterator<Item = usize>) -> LatencyModel {
        let mut latency = LatencyModel::default();
        for size in sizes {
            latency.observe(size, truth.of(size), false);
        }
        latency
    }

    fn is_close(latency: &LatencyModel, size: usize, truth: Duration) -> bool {
        (latency.typical(size) / truth.as_secs_f64() - 1.0).abs() < 0.1
    }

    const TRUTH: Truth = Truth {
        fixed: 5000,
        each: 1000,
    };

    #[test]
    fn before_the_first_batch_nothing_is_predicted() {
        let latency = LatencyModel::default();
        assert!(!latency.is_known());
        assert_eq!(latency.predict(1), None);
        assert_eq!(latency.throughput(64, Duration::from_secs(1)), None);
    }

    #[test]
    fn one_stall_is_not_a_change_of_speed() {
        let mut latency = learned(TRUTH, (1..40).map(|n| n % 20 + 1));
        latency.observe(10, Duration::from_secs(60), true);
        for n in 0..20 {
            latency.observe(n + 1, TRUTH.of(n + 1), true);
        }
        assert!(is_close(&latency, 20, TRUTH.of(20)), "{}", latency.typical(20));
    }

    #[test]
    fn what_the_first_batch_took_to_load_the_model_is_forgotten_with_the_second() {
        let mut latency = LatencyModel::default();
        latency.observe(1, Duration::from_secs(5), true);
        latency.observe(1, TRUTH.of(1), true);
        assert!(is_close(&latency, 1, TRUTH.of(1)), "{}", latency.typical(1));
        // Later on, one quick batch is no more believed than one slow one.
        for n in 0..20 {
            latency.observe(n % 5 + 1, TRUTH.of(n % 5 + 1), true);
        }
        latency.observe(5, Duration::from_micros(1), true);
        assert!(latency.typical(5) > 0.7 * TRUTH.of(5).as_secs_f64());
    }

    #[test]
    fn a_change_of_speed_is_followed_within_a_few_batches_both_ways() {
        let slow = Truth {
            fixed: 50_000,
            each: 10_000,
        };
        let mut latency = learned(TRUTH, (0..100).map(|n| n % 20 + 1));
        for (truth, batches) in [(slow, 5), (TRUTH, 8)] {
            for n in 0..batches {
                latency.observe(10 + n % 3, truth.of(10 + n % 3), true);
            }
            assert!(is_close(&latency, 11, truth.of(11)), "{}", latency.typical(11));
        }
    }

    /// Waves of 16 inputs, of 10 ms each.
    fn waves(size: usize) -> Duration {
        Duration::from_millis(10 * size.div_ceil(16) as u64)
    }

    /// A model of waves, with batches of all sizes up to 48 seen.
    fn learned_waves() -> LatencyModel {
        let mut latency = LatencyModel::default();
        for n in 0..300 {
            let size = n * 29 % 48 + 1;
            latency.observe(size, waves(size), false);
        }
        latency
    }

    #[test]
    fn steps_are_learned_at_their_edges() {
        let latency = learned_waves();
        for size in [3, 16, 17, 32, 33, 48] {
            assert!(is_close(&latency, size, waves(size)), "{size}");
        }
        for (millis, size) in [(12, 16), (19, 16), (21, 32)] {
            assert_eq!(latency.size_within(f64::from(millis) * 1e-3), size, "{millis}");
        }
        assert!(latency.on_the_line(2) > latency.on_the_line(1));
        assert_eq!(latency.fit().map(|fit| fit.uses), Some(TimesBy::Table));
        assert_eq!(LatencyModel::default().fit(), None);
    }

    #[test]
    fn a_change_of_speed_moves_all_steps_at_once() {
        let mut latency = learned_waves();
        for _ in 0..8 {
            latency.observe(40, 3 * waves(40), true);
        }
        for size in [10, 16, 17, 32] {
            assert!(is_close(&latency, size, 3 * waves(size)), "{size}");
        }
    }

    #[test]
    fn a_line_that_is_right_is_kept_though_batch_times_vary() {
        let mut latency = LatencyModel::default();
        for n in 0..1000_u32 {
            let size = (n * 29 % 48 + 1) as usize;
            let factor = 0.7 + 0.1 * f64::from(n * n % 7);
            latency.observe(size, TRUTH.of(size).mul_f64(factor), false);
            assert!(!latency.fit.uses_table(), "{n} {:?}", latency.fit);
        }
    }

    #[test]
    fn through_a_share_a_part_takes_what_the_whole_batch_does() {
        let mut latency = learned(TRUTH, (0..100).map(|n| n % 20 + 1));
        latency.see_through(0.25);
        assert!(is_close(&latency, 5, TRUTH.of(20)), "{}", latency.typical(5));
        assert_eq!(latency.size_within(latency.typical(5)), 5);
        let alone = latency.alone() / TRUTH.of(1).as_secs_f64();
        assert!((alone - 1.0).abs() < 0.1, "{alone}");
        latency.see_through(1.0);
        assert!(is_close(&latency, 5, TRUTH.of(5)), "{}", latency.typical(5));
    }

    #[test]
    fn batches_that_are_larger_than_planned_make_expectations_cautious_and_leave_the_line() {
        let mut latency = learned(TRUTH, (0..100).map(|n| n % 20 + 1));
        let before = latency.caution();
        for n in 0..100 {
            let size = n % 10 + 10;
            latency.observe_planned(size, size / 2, TRUTH.of(size), true);
        }
        assert!(before < 1.1 && latency.caution() > 1.4, "{}", latency.caution());
        assert!(is_close(&latency, 15, TRUTH.of(15)), "{}", latency.typical(15));
    }

    #[test]
    fn throughput_is_that_of_the_best_batch_in_time() {
        let latency = learned(TRUTH, (0..100).map(|n| n % 20 + 1));
        let best = latency.throughput(64, Duration::from_millis(25)).unwrap();
        assert!((best / 800.0 - 1.0).abs() < 0.02, "{best}");
        let all = latency.throughput(5, Duration::from_secs(1)).unwrap();
        assert!((all / 500.0 - 1.0).abs() < 0.02, "{all}");
        let none = latency.throughput(64, Duration::ZERO).unwrap();
        assert!((none / 166.7 - 1.0).abs() < 0.02, "{none}");
    }

    fn anything() -> impl Strategy<Value = Vec<(usize, u64, bool)>> {
        let micros = prop_oneof![0u64..100, 1000u64..100_000, 1_000_000u64..1_000_000_000_000];
        prop::collection::vec((1usize..=64, micros, any::<bool>()), 0..100)
    }

    proptest! {
        #[test]
        fn whatever_was_seen_before_the_truth_is_learned(
            before in anything(),
            fixed in 0u64..20_000,
            each in 1u64..5000,
            sizes in prop::collection::vec(1usize..=64, 400..401),
        ) {
            prop_assume!(sizes.iter().any(|size| size.abs_diff(sizes[0]) > 8));
            let truth = Truth { fixed: fixed + 10, each };
            let mut latency = LatencyModel::default();
            for (size, micros, pressed) in before {
                latency.observe(size, Duration::from_micros(micros), pressed);
            }
            for &size in &sizes {
                latency.observe(size, truth.of(size), true);
            }
            for size in [1, 32, 64] {
                let ratio = latency.typical(size) / truth.of(size).as_secs_f64();
                prop_assert!((0.8..1.25).contains(&ratio), "{} of {:?} at {}", ratio, truth, size);
            }
        }

        #[test]
        fn expectations_are_finite_and_grow_with_the_size(seen in anything()) {
            let mut latency = LatencyModel::default();
            for (size, micros, pressed) in seen {
                latency.observe(size, Duration::from_micros(micros), pressed);
                prop_assert!(latency.typical(1).is_finite() && latency.typical(1) > 0.0);
                prop_assert!(latency.typical(64) >= latency.typical(1));
                prop_assert!(latency.caution().is_finite() && latency.caution() >= 1.0);
                let fits = latency.size_within(latency.typical(32));
                prop_assert!(fits >= 31, "{fits}");
            }
        }
    }
}

//! How far batch times scatter: the last ratios of actual to expected time.

use std::collections::VecDeque;

/// The number of ratios that are remembered.
const REMEMBERED: usize = 64;

/// With fewer ratios than this, [`UNKNOWN_TAIL`] is assumed.
const FEW: usize = 8;

/// A cautious ratio, while there are too few to tell.
const UNKNOWN_TAIL: f64 = 1.3;

/// The number of points that stand for the whole distribution.
pub(super) const POINTS: usize = 8;

/// A window of the last ratios, kept in order of arrival and sorted.
#[derive(Clone, Debug, Default)]
pub(super) struct Ratios {
    recent: VecDeque<f64>,
    sorted: Vec<f64>,
}

impl Ratios {
    pub(super) fn push(&mut self, ratio: f64) {
        if self.recent.len() == REMEMBERED
            && let Some(oldest) = self.recent.pop_front()
        {
            let at = self.sorted.partition_point(|&known| known < oldest);
            self.sorted.remove(at);
        }
        self.recent.push_back(ratio);
        let at = self.sorted.partition_point(|&known| known < ratio);
        self.sorted.insert(at, ratio);
    }

    /// Divides the last `count` ratios by `by`, because the expectation that they were taken against has changed.
    pub(super) fn divide_last(&mut self, count: usize, by: f64) {
        let kept = self.recent.len().saturating_sub(count);
        self.recent.iter_mut().skip(kept).for_each(|ratio| *ratio /= by);
        self.sorted.clear();
        self.sorted.extend(&self.recent);
        self.sorted.sort_unstable_by(f64::total_cmp);
    }

    /// The ratio that `share` of the ratios stay below. Never below 1.
    pub(super) fn quantile(&self, share: f64) -> f64 {
        if self.sorted.len() < FEW {
            return UNKNOWN_TAIL;
        }
        self.sorted[index(share, self.sorted.len())].max(1.0)
    }

    /// [`POINTS`] quantiles, each of which stands for an equal share of the ratios.
    #[expect(clippy::cast_precision_loss, reason = "a handful of points")]
    pub(super) fn points(&self) -> [f64; POINTS] {
        if self.sorted.len() < FEW {
            return [UNKNOWN_TAIL; POINTS];
        }
        std::array::from_fn(|point| {
            self.sorted[index((point as f64 + 0.5) / POINTS as f64, self.sorted.len())]
        })
    }

    /// The mean ratio; 1 without any.
    #[expect(clippy::cast_precision_loss, reason = "at most 64 ratios")]
    pub(super) fn mean(&self) -> f64 {
        if self.sorted.is_empty() {
            return 1.0;
        }
        self.sorted.iter().sum::<f64>() / self.sorted.len() as f64
    }
}

/// The index in `len` sorted values that `share` of them stay below.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "a share between 0 and 1 of at most 64 values"
)]
fn index(share: f64, len: usize) -> usize {
    ((share * len as f64) as usize).min(len - 1)
}

//! How far batches were from what was expected of them: the last ratios of actual to expected time.

use std::collections::VecDeque;

/// How many are remembered.
const REMEMBERED: usize = 64;

/// With fewer than this, [`UNKNOWN_TAIL`] stands for what is not known.
const FEW: usize = 8;

/// A cautious ratio while there are too few to tell.
const UNKNOWN_TAIL: f64 = 1.3;

/// Points that stand for the whole distribution.
pub(super) const POINTS: usize = 8;

/// A window of ratios, also kept sorted.
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

    /// Divides the last `count` ratios: they were taken against another expectation.
    pub(super) fn divide_last(&mut self, count: usize, by: f64) {
        let kept = self.recent.len().saturating_sub(count);
        self.recent.iter_mut().skip(kept).for_each(|ratio| *ratio /= by);
        self.sorted.clear();
        self.sorted.extend(&self.recent);
        self.sorted.sort_unstable_by(f64::total_cmp);
    }

    /// The ratio that this share of them stays below; never below 1.
    pub(super) fn quantile(&self, share: f64) -> f64 {
        if self.sorted.len() < FEW {
            return UNKNOWN_TAIL;
        }
        self.sorted[index(share, self.sorted.len())].max(1.0)
    }

    /// As many quantiles as there are [`POINTS`], each standing for an equal share.
    #[expect(clippy::cast_precision_loss, reason = "a handful of points")]
    pub(super) fn points(&self) -> [f64; POINTS] {
        if self.sorted.len() < FEW {
            return [UNKNOWN_TAIL; POINTS];
        }
        std::array::from_fn(|point| {
            self.sorted[index((point as f64 + 0.5) / POINTS as f64, self.sorted.len())]
        })
    }

    /// Their mean; 1 while there is none.
    #[expect(clippy::cast_precision_loss, reason = "at most 64 ratios")]
    pub(super) fn mean(&self) -> f64 {
        if self.sorted.is_empty() {
            return 1.0;
        }
        self.sorted.iter().sum::<f64>() / self.sorted.len() as f64
    }
}

/// The index that a share of `len` sorted values stays below.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "a share between 0 and 1 of at most 64 values"
)]
fn index(share: f64, len: usize) -> usize {
    ((share * len as f64) as usize).min(len - 1)
}

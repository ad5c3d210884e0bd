//! Whether the line or the table predicts batch times better.

use skysail_proto::admin::{TimesBy, TimesFit};

/// Each later batch multiplies an error's weight by this: about the last hundred count.
pub(super) const FADE: f64 = 0.99;

/// The table and the bytes are not used before this many batches.
pub(super) const FEW: u32 = 20;

/// The table is used once its error is below this fraction of the line's. Where times are noisy, a line that is right
/// errs less: it has two numbers to learn, the table has dozens.
const CLEARLY_BETTER: f64 = 0.8;

/// The table is no longer used once its error is above this multiple of the line's.
const WORSE: f64 = 1.02;

/// A line with a smaller error than this is good enough.
const GOOD: f64 = 0.02;

/// The most that one batch counts as an error. A stall says nothing about either.
pub(super) const MOST_ERROR: f64 = 1.0;

/// The choice between line and table, and the errors of both.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Fit {
    batches: u32,
    /// Faded means of the errors: |ln(actual ÷ expected)|.
    line: f64,
    table: f64,
    uses_table: bool,
}

impl Fit {
    /// Whether the table is used, not the line.
    pub(super) fn uses_table(self) -> bool {
        self.uses_table
    }

    /// The choice and its error, as the admin API shows them.
    pub(super) fn told(self) -> TimesFit {
        let (uses, error) = match self.uses_table {
            true => (TimesBy::Table, self.table),
            false => (TimesBy::Line, self.line),
        };
        TimesFit { uses, error }
    }

    /// A batch took `line` times what the line expected, and `table` times what the table expected.
    pub(super) fn observe(&mut self, line: f64, table: f64) {
        self.batches = self.batches.saturating_add(1);
        // The first batches count alike.
        let part = (1.0 / f64::from(self.batches)).max(1.0 - FADE);
        let error = |ratio: f64| ratio.ln().abs().min(MOST_ERROR);
        self.line += part * (error(line) - self.line);
        self.table += part * (error(table) - self.table);
        self.uses_table = match self.uses_table {
            true => self.table <= WORSE * self.line.max(GOOD),
            false => self.batches >= FEW && self.line > GOOD && self.table < CLEARLY_BETTER * self.line,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(ratios: &[(f64, f64)], batches: usize) -> Fit {
        let mut fit = Fit::default();
        for &(line, table) in ratios.iter().cycle().take(batches) {
            fit.observe(line, table);
        }
        fit
    }

    #[test]
    fn the_table_is_used_once_it_is_clearly_better() {
        let better = [(1.2, 1.05), (0.8, 1.0)];
        assert!(!after(&better, 19).uses_table());
        assert!(after(&better, 20).uses_table());
        assert!(!after(&[(1.2, 1.18), (0.8, 0.84)], 500).uses_table());
    }

    #[test]
    fn a_line_that_is_good_enough_is_kept() {
        assert!(!after(&[(1.01, 1.0)], 500).uses_table());
    }

    #[test]
    fn the_table_is_left_when_it_is_worse() {
        let mut fit = after(&[(1.2, 1.0)], 50);
        assert!(fit.uses_table());
        (0..50).for_each(|_| fit.observe(1.1, 1.1));
        assert!(fit.uses_table(), "as good is good enough");
        (0..200).for_each(|_| fit.observe(1.1, 1.2));
        assert!(!fit.uses_table());
        let TimesFit { uses, error } = fit.told();
        assert_eq!(uses, TimesBy::Line);
        assert!((error - 1.1_f64.ln()).abs() < 0.02, "{fit:?}");
    }
}

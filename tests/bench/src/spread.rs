//! A figure that was measured several times.

use std::fmt;

use serde::Serialize;

/// The median and the range of what was measured.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

impl Spread {
    /// Of these; none of nothing.
    pub(crate) fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let (&min, &max) = (values.first()?, values.last()?);
        let middle = values.len() / 2;
        let median = match values.len() % 2 {
            1 => values[middle],
            _ => f64::midpoint(values[middle - 1], values[middle]),
        };
        Some(Self { median, min, max })
    }

    /// In another unit.
    pub(crate) fn times(self, factor: f64) -> Self {
        Self {
            median: self.median * factor,
            min: self.min * factor,
            max: self.max * factor,
        }
    }
}

/// `0.82 [0.79, 0.85]`, with as many digits as the formatter is asked for; the range is left out of what was
/// the same every time, as it is of what was measured once.
impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = f.precision().unwrap_or(0);
        let shown = |value: f64| format!("{value:.digits$}");
        let (min, max) = (shown(self.min), shown(self.max));
        f.write_str(&shown(self.median))?;
        if min == max {
            return Ok(());
        }
        write!(f, " [{min}, {max}]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_one_or_the_middle_of_two() {
        for (values, median, min, max) in [
            (&[3.0][..], 3.0, 3.0, 3.0),
            (&[9.0, 1.0, 5.0], 5.0, 1.0, 9.0),
            (&[4.0, 1.0, 2.0, 10.0], 3.0, 1.0, 10.0),
        ] {
            let spread = Spread::of(values.iter().copied()).unwrap();
            assert_eq!(spread, Spread { median, min, max }, "{values:?}");
        }
        assert_eq!(Spread::of([]), None);
    }

    #[test]
    fn a_range_is_shown_where_there_is_one() {
        let spread = Spread::of([0.8, 0.5, 0.9]).unwrap();
        assert_eq!(format!("{spread:.2}"), "0.80 [0.50, 0.90]");
        assert_eq!(format!("{:.0}", spread.times(100.0)), "80 [50, 90]");
        assert_eq!(format!("{:.0}", Spread::of([7.1, 7.2]).unwrap()), "7");
    }
}

//! What training leaves behind: a plane for each pair of species, and the vote they hold.

/// Numbers in one row: sepal length and width, petal length and width, in centimetres.
pub const FEATURES: usize = 4;

/// Two species, by their number in the data set.
#[derive(Clone, Copy, Debug)]
pub struct Duel {
    /// The species on the side where [`Hyperplane::margin`] is positive.
    pub positive: usize,
    /// The species on the other side.
    pub negative: usize,
}

/// The plane between two species.
#[derive(Clone, Copy, Debug)]
pub struct Hyperplane {
    /// The species it tells apart.
    pub duel: Duel,
    /// The plane's normal.
    pub weights: [f64; FEATURES],
    /// Its offset.
    pub bias: f64,
}

impl Hyperplane {
    /// How far `row` is on the positive side, in units of the margin.
    pub fn margin(&self, row: &[f64; FEATURES]) -> f64 {
        let sum: f64 = self
            .weights
            .iter()
            .zip(row)
            .map(|(weight, feature)| weight * feature)
            .sum();
        sum + self.bias
    }
}

/// The species that wins most duels for `row`; of equals, the one that wins by the wider margins.
pub fn classify(hyperplanes: &[Hyperplane; 3], row: &[f64; FEATURES]) -> usize {
    let mut tallies = [(0_u32, 0.0_f64); 3];
    for plane in hyperplanes {
        let margin = plane.margin(row);
        let winner = if margin >= 0.0 {
            plane.duel.positive
        } else {
            plane.duel.negative
        };
        tallies[winner].0 += 1;
        tallies[plane.duel.positive].1 += margin;
        tallies[plane.duel.negative].1 -= margin;
    }
    let by_votes_then_margin = |&a: &usize, &b: &usize| {
        tallies[a]
            .0
            .cmp(&tallies[b].0)
            .then(tallies[a].1.total_cmp(&tallies[b].1))
    };
    (0..tallies.len())
        .max_by(by_votes_then_margin)
        .unwrap_or_default()
}

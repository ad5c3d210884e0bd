//! A random search for cells in which the learned policy is behind another.
//!
//! A point of the search is a command line. It is read as one that is typed, so what is listed shows exactly what was
//! found. Every policy is simulated there with three seeds, because the best of ten others by one seed is mostly
//! luck. Where several applications send queries, each counts as much as the others: goodput would not
//! show that a few urgent queries are lost.

use std::fmt::Display;

use clap::Parser;
use fastrand::Rng;

use crate::arguments::Arguments;
use crate::cell::{Cell, Figures};
use crate::policy::PolicyKind;

/// Draws points by a seed.
#[derive(Clone, Copy, Debug)]
pub struct Search {
    /// Decides what is random.
    pub seed: u64,
    /// How many points.
    pub points: usize,
}

/// A scenario as it is typed, without the policies.
#[derive(Clone, Debug, PartialEq)]
pub struct Point {
    words: Vec<String>,
}

/// What came of a point.
#[derive(Clone, Debug)]
pub struct Finding {
    /// Where.
    pub point: Point,
    /// What the learned policy reached: the share of the queries that were answered in time, the mean over seeds and
    /// applications.
    pub learned: f64,
    /// What the best of the others reached.
    pub best: f64,
    /// Which that is.
    pub by: PolicyKind,
    /// The mean of the bounds that no policy exceeds on average over the noise.
    pub noise_aware: f64,
}

impl Search {
    /// The points, the same for the same seed.
    pub fn points(self) -> Vec<Point> {
        let mut rng = Rng::with_seed(self.seed.wrapping_mul(101).wrapping_add(13));
        (0..self.points).map(|_| Point::draw(&mut rng)).collect()
    }
}

/// Seeds of each point.
const SEEDS: u64 = 3;

impl Point {
    fn draw(rng: &mut Rng) -> Self {
        let fixed = between(rng, 0.1, 1000.0);
        let per_input = rounded(fixed * between(rng, 0.001, 10.0));
        // From what allows for hardly one batch to what allows for dozens.
        let slo = rounded((fixed + per_input) * between(rng, 1.05, 60.0));
        let seed = rng.u64(1..1000);
        let mut words = Words::default();
        words.add("--fixed-ms", &fixed);
        words.add("--per-input-ms", &per_input);
        words.add("--slo-ms", &slo);
        words.add("--load", &between(rng, 0.3, 12.0));
        words.add("--noise", &pick(rng, &["none", "mild", "noisy", "shift"]));
        words.add("--arrivals", &pick(rng, &["poisson", "bursty", "heavy-tailed"]));
        words.add("--replicas", &pick(rng, &[1, 1, 1, 2, 4, 8, 16]));
        if rng.f64() < 0.5 {
            words.add("--max-batch", &pick(rng, &[8, 16, 256, 1024, 4096]));
        }
        // A few hundred show how a policy begins.
        words.add("--queries", &between(rng, 200.0, 10_000.0).round());
        if rng.f64() < 0.15 {
            let loose = rounded(slo * between(rng, 2.0, 300.0)).min(LONGEST_SLO);
            let weights = pick(rng, &["1,99", "10,90", "50,50", "90,10", "99,1"]);
            if let Some((urgent, others)) = weights.split_once(',') {
                words.add("--slo-mix", &format!("{slo}:{urgent},{loose}:{others}"));
            }
        } else if rng.f64() < 0.1 {
            let loose = rounded(slo * between(rng, 2.0, 300.0)).min(LONGEST_SLO);
            words.add(
                "--burst",
                &format!("{}@{loose}", between(rng, 100.0, 5000.0).round()),
            );
        }
        let seeds: Vec<_> = (seed..seed + SEEDS).map(|seed| seed.to_string()).collect();
        words.add("--seed", &seeds.join(","));
        Self { words: words.0 }
    }

    /// The command that shows what these policies reach here.
    pub fn command(&self, policies: &[PolicyKind]) -> String {
        let policies: Vec<_> = policies.iter().map(PolicyKind::to_string).collect();
        format!(
            "scheduling-sim --policy {} {}",
            policies.join(","),
            self.words.join(" ")
        )
    }

    /// The cells of all policies.
    pub fn cells(&self) -> Vec<Cell> {
        let words = std::iter::once("scheduling-sim").chain(self.words.iter().map(String::as_str));
        Arguments::try_parse_from(words)
            .and_then(|arguments| arguments.cells())
            .expect("a point is drawn from what may be typed; otherwise this is a bug")
    }
}

/// The longest that a query may be given, in milliseconds.
const LONGEST_SLO: f64 = 600_000.0;

#[derive(Default)]
struct Words(Vec<String>);

impl Words {
    fn add(&mut self, name: &str, value: &dyn Display) {
        self.0.extend([name.to_owned(), value.to_string()]);
    }
}

/// A number in this range, every factor of it as likely, in two digits.
fn between(rng: &mut Rng, least: f64, most: f64) -> f64 {
    rounded(least * (most / least).powf(rng.f64()))
}

/// The number in two digits.
fn rounded(number: f64) -> f64 {
    format!("{number:.1e}")
        .parse()
        .expect("what is written as a float is one; otherwise this is a bug")
}

fn pick<T: Copy>(rng: &mut Rng, choices: &[T]) -> T {
    choices[rng.usize(..choices.len())]
}

/// What came of the points, those first in which the learned policy is furthest behind. The cells are those of
/// [`Point::cells`], one point after the other.
pub fn findings(points: &[Point], cells: &[Cell], figures: &[Figures]) -> Vec<Finding> {
    let each = cells.len() / points.len().max(1);
    let cells = cells.chunks(each.max(1)).zip(figures.chunks(each.max(1)));
    let finding = |(point, (cells, figures)): (&Point, (&[Cell], &[Figures]))| {
        let reached = |policy: PolicyKind| {
            let cells = cells.iter().zip(figures);
            mean(
                cells
                    .filter(|(cell, _)| cell.policy == policy)
                    .map(|(_, figures)| share(figures)),
            )
        };
        let others = PolicyKind::all().into_iter();
        let others = others.filter(|policy| *policy != PolicyKind::LEARNED);
        let (best, by) = others
            .map(|policy| (reached(policy), policy))
            .max_by(|(one, _), (other, _)| one.total_cmp(other))
            .expect("there are other policies; otherwise this is a bug");
        Finding {
            point: point.clone(),
            learned: reached(PolicyKind::LEARNED),
            best,
            by,
            noise_aware: mean(figures.iter().map(|figures| figures.noise_aware)),
        }
    };
    let mut findings: Vec<_> = points.iter().zip(cells).map(finding).collect();
    findings.sort_by(|one, other| other.behind().total_cmp(&one.behind()));
    findings
}

impl Finding {
    /// By how much the learned policy is behind.
    pub fn behind(&self) -> f64 {
        self.best - self.learned
    }

    /// The command that shows it.
    pub fn command(&self) -> String {
        self.point.command(&[PolicyKind::LEARNED, self.by])
    }
}

/// What is answered in time, each application counting as much as the others.
fn share(figures: &Figures) -> f64 {
    if figures.applications.is_empty() {
        return figures.goodput;
    }
    let with_queries = figures.applications.iter().filter(|served| served.queries > 0);
    mean(with_queries.map(|served| served.share()))
}

fn mean(numbers: impl Iterator<Item = f64>) -> f64 {
    let (sum, count) = numbers.fold((0.0, 0.0), |(sum, count), number| (sum + number, count + 1.0));
    sum / count
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cell::run_all;

    fn search(seed: u64, points: usize) -> Vec<Point> {
        Search { seed, points }.points()
    }

    fn run(points: &[Point]) -> Vec<Finding> {
        let cells: Vec<_> = points.iter().flat_map(Point::cells).collect();
        findings(points, &cells, &run_all(&cells, || ()))
    }

    /// Points with few queries.
    fn quick(seed: u64) -> Vec<Point> {
        let mut points = search(seed, 4);
        for point in &mut points {
            let queries = point.words.iter().position(|word| word == "--queries").unwrap();
            point.words[queries + 1] = "100".to_owned();
        }
        points
    }

    #[test]
    fn the_same_seed_draws_the_same_points_and_more_of_them_begin_alike() {
        assert_eq!(search(7, 30), search(7, 40)[..30]);
        assert_ne!(search(7, 30), search(8, 30));
    }

    #[test]
    fn every_point_is_of_a_few_thousand_queries_and_can_be_typed() {
        for point in search(3, 500) {
            let cells = point.cells();
            assert_eq!(cells.len(), PolicyKind::all().len() * SEEDS as usize);
            for cell in cells {
                assert!((200..=10_000).contains(&cell.scenario.queries), "{point:?}");
            }
        }
    }

    #[test]
    fn points_are_of_every_kind() {
        let commands: Vec<_> = search(1, 300).iter().map(|point| point.command(&[])).collect();
        for word in [
            "noise none",
            "noise mild",
            "noise noisy",
            "noise shift",
            "poisson",
            "bursty",
            "heavy-tailed",
            "replicas 1 ",
            "replicas 16",
            "max-batch 8",
            "max-batch 4096",
            "slo-mix",
            "burst",
        ] {
            let of_it = commands.iter().filter(|command| command.contains(word)).count();
            assert!((5..295).contains(&of_it), "{word}: {of_it}");
        }
    }

    #[test]
    fn the_worst_come_first() {
        let findings = run(&quick(5));
        assert_eq!(findings.len(), 4);
        assert!(findings.is_sorted_by(|one, other| one.behind() >= other.behind()));
    }

    #[test]
    fn the_command_of_a_finding_shows_its_figures() {
        let finding = &run(&quick(2))[0];
        let command = finding.command();
        let arguments = Arguments::try_parse_from(command.split_whitespace()).unwrap();
        let cells = arguments.cells().unwrap();
        let figures = run_all(&cells, || ());
        for (policy, expected) in [(PolicyKind::LEARNED, finding.learned), (finding.by, finding.best)] {
            let of_it = cells
                .iter()
                .zip(&figures)
                .filter(|(cell, _)| cell.policy == policy);
            let shares: Vec<_> = of_it.map(|(_, figures)| share(figures)).collect();
            assert_eq!(shares.len(), SEEDS as usize);
            let reached = mean(shares.into_iter());
            assert!(
                (reached - expected).abs() < 1e-12,
                "{command}: {reached} {expected}"
            );
        }
    }
}

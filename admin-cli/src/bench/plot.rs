//! A run over time, as an SVG: latencies above, what became of the queries below.
//!
//! Written as text, because two panels need little more than lines: what a plotting crate would add is fonts
//! and colours of its own, and this one is to be read on a light page and on a dark one.

use std::fmt::{self, Display, Write};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use super::tally::{Counts, Tally, Window};

/// All lengths are in pixels.
const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 560.0;
const LEFT: f64 = 76.0;
const RIGHT: f64 = 24.0;
const LATENCY: Panel = Panel {
    top: 84.0,
    height: 190.0,
};
const QUERIES: Panel = Panel {
    top: 330.0,
    height: 176.0,
};
/// Roughly the width of a letter, to place legends.
const LETTER: f64 = 6.6;

/// One rule for each class; a page that is dark replaces some.
const STYLE: &str = "\
text{font:12px system-ui,-apple-system,'Segoe UI',sans-serif;fill:#24292f}
.title{font-size:15px;font-weight:600}
.faint{fill:#57606a}
.page{fill:#ffffff}
.grid{stroke:#d8dee4;fill:none}
.line{fill:none;stroke-width:1.8;stroke-linejoin:round;stroke-linecap:round}
.p50{stroke:#0969da}
.p99{stroke:#bc4c00}
.most{stroke:#8c959f;stroke-width:1.1}
.slo{stroke:#cf222e;stroke-dasharray:6 4;stroke-width:1.4}
.intime{fill:#2da44e}
.late{fill:#e0b03b}
.default{fill:#a8b1bb}
.error{fill:#cf222e}
@media (prefers-color-scheme:dark){
text{fill:#e6edf3}
.faint{fill:#9198a1}
.page{fill:#0d1117}
.grid{stroke:#30363d}
.p50{stroke:#58a6ff}
.p99{stroke:#f0883e}
.most{stroke:#767d86}
.slo{stroke:#ff7b72}
.intime{fill:#2ea043}
.late{fill:#d29922}
.default{fill:#59616b}
.error{fill:#f85149}
}";

/// A file to draw into.
#[derive(Clone, Debug)]
pub(crate) struct SvgFile(PathBuf);

/// A file of another kind.
#[derive(Debug, thiserror::Error)]
#[error("plots are drawn as SVG; write a name that ends in .svg")]
pub(crate) struct NotSvg;

impl FromStr for SvgFile {
    type Err = NotSvg;
    fn from_str(text: &str) -> Result<Self, NotSvg> {
        let path = PathBuf::from(text);
        let is_svg = path
            .extension()
            .is_some_and(|extension| extension.eq_ignore_ascii_case("svg"));
        if is_svg { Ok(Self(path)) } else { Err(NotSvg) }
    }
}

impl SvgFile {
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

/// What stands above the plot.
pub(crate) struct Heading {
    pub(crate) title: String,
    pub(crate) subtitle: String,
}

/// Draws a run that lasted so long.
pub(crate) fn draw(heading: &Heading, tally: &Tally, slo: Duration, lasted: Duration) -> String {
    let windows = windows_of(tally, lasted.as_secs_f64());
    let time = Axis::linear(lasted.as_secs_f64());
    let mut svg = Svg::open(heading);
    draw_latency(&mut svg, &windows, &time, millis(slo));
    draw_queries(&mut svg, &windows, &time);
    svg.close()
}

/// A window with its place in time, in seconds.
struct Placed<'a> {
    from: f64,
    to: f64,
    window: &'a Window,
}

impl Placed<'_> {
    fn per_second(&self, count: u64) -> f64 {
        count as f64 / (self.to - self.from)
    }
}

/// The windows that had begun when the run ended.
fn windows_of(tally: &Tally, end: f64) -> Vec<Placed<'_>> {
    let width = tally.window.as_secs_f64();
    let windows = tally.windows.iter().enumerate();
    let placed = windows.map(|(index, window)| Placed {
        from: index as f64 * width,
        to: ((index + 1) as f64 * width).min(end),
        window,
    });
    placed.filter(|placed| placed.to > placed.from).collect()
}

fn draw_latency(svg: &mut Svg, windows: &[Placed<'_>], time: &Axis, slo_ms: f64) {
    let quantile = |quantile: f64| {
        move |window: &Window| {
            let answers = &window.answers;
            (!answers.is_empty()).then(|| answers.value_at_quantile(quantile).max(1) as f64 / 1e3)
        }
    };
    let lines: [(&str, &str, Vec<Option<f64>>); 3] =
        [("most", "max", 1.0), ("p99", "p99", 0.99), ("p50", "p50", 0.5)].map(|(class, label, of)| {
            let value = quantile(of);
            (
                class,
                label,
                windows.iter().map(|placed| value(placed.window)).collect(),
            )
        });
    let values = lines
        .iter()
        .flat_map(|(_, _, values)| values.iter().flatten().copied());
    let axis = Axis::logarithmic(values.chain([slo_ms]));
    svg.frame(&LATENCY, time, &axis, "latency since due (ms), of all answers");
    for (class, _, values) in &lines {
        let points = windows.iter().zip(values);
        let points = points.map(|(placed, &value)| {
            let middle = f64::midpoint(placed.from, placed.to);
            value.map(|value| (x(time, middle), LATENCY.y(&axis, value)))
        });
        svg.line(class, points);
    }
    let at = LATENCY.y(&axis, slo_ms);
    svg.line("slo", [Some((LEFT, at)), Some((WIDTH - RIGHT, at))]);
    let mut legend = vec![Mark::line("slo", "SLO")];
    legend.extend(lines.iter().map(|&(class, label, _)| Mark::line(class, label)));
    svg.legend(&LATENCY, &legend);
}

/// What can become of queries, from the bottom of the pile to its top.
const LAYERS: [Layer; 4] = [
    Layer::new("intime", "in time", |counts| counts.in_time),
    Layer::new("late", "too late", |counts| counts.late),
    Layer::new("default", "default output", |counts| counts.defaults),
    Layer::new("error", "error", |counts| counts.errors),
];

struct Layer {
    class: &'static str,
    label: &'static str,
    count: fn(Counts) -> u64,
}

impl Layer {
    const fn new(class: &'static str, label: &'static str, count: fn(Counts) -> u64) -> Self {
        Self { class, label, count }
    }
}

fn draw_queries(svg: &mut Svg, windows: &[Placed<'_>], time: &Axis) {
    let rates = windows
        .iter()
        .map(|placed| placed.per_second(placed.window.counts.offered()));
    let axis = Axis::linear(rates.fold(0.0, f64::max));
    let mut below = vec![0.0; windows.len()];
    for layer in &LAYERS {
        let mut area = Area::default();
        for (placed, below) in windows.iter().zip(&mut below) {
            let above = *below + placed.per_second((layer.count)(placed.window.counts));
            area.add(
                (x(time, placed.from), x(time, placed.to)),
                (QUERIES.y(&axis, *below), QUERIES.y(&axis, above)),
            );
            *below = above;
        }
        svg.area(layer.class, &area);
    }
    svg.frame(
        &QUERIES,
        time,
        &axis,
        "queries per second, by what became of them",
    );
    let text = "time at which queries were due (s)";
    svg.text(
        "faint",
        ((WIDTH + LEFT - RIGHT) / 2.0, HEIGHT - 14.0),
        "middle",
        text,
    );
    let legend = LAYERS.map(|layer| Mark::square(layer.class, layer.label));
    svg.legend(&QUERIES, &legend);
}

fn x(time: &Axis, seconds: f64) -> f64 {
    LEFT + time.share(seconds) * (WIDTH - LEFT - RIGHT)
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

struct Panel {
    top: f64,
    height: f64,
}

impl Panel {
    fn y(&self, axis: &Axis, value: f64) -> f64 {
        self.top + self.height * (1.0 - axis.share(value))
    }
}

/// From values to their place, and where its ticks are.
struct Axis {
    scale: Scale,
    ticks: Vec<f64>,
}

#[derive(Clone, Copy)]
enum Scale {
    /// From 0 to this.
    Linear(f64),
    /// Between ten to the power of the one and of the other.
    Logarithmic(f64, f64),
}

impl Axis {
    /// From 0 to `most`, with about six ticks at round numbers.
    fn linear(most: f64) -> Self {
        let most = if most > 0.0 { most } else { 1.0 };
        let rough = most / 6.0;
        let power = 10_f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].map(|step| step * power);
        let step = step.into_iter().find(|&step| step >= rough).unwrap_or(rough);
        let count = (most / step * (1.0 + 1e-9)).floor() as u32;
        Self {
            scale: Scale::Linear(most),
            ticks: (0..=count).map(|tick| f64::from(tick) * step).collect(),
        }
    }

    /// From the tick below all values to the one above: powers of ten, and where these are few, twice and
    /// five times them as well.
    fn logarithmic(values: impl Iterator<Item = f64>) -> Self {
        let (low, high) = values.fold((f64::MAX, f64::MIN), |(low, high), value| {
            (low.min(value), high.max(value))
        });
        let powers = low.log10().floor() as i32..=high.log10().ceil() as i32;
        let steps: &[f64] = if powers.clone().count() <= 3 {
            &[1.0, 2.0, 5.0]
        } else {
            &[1.0]
        };
        let all = powers.flat_map(|power| steps.iter().map(move |step| step * 10_f64.powi(power)));
        let all: Vec<_> = all.collect();
        let first = all.partition_point(|&tick| tick <= low).saturating_sub(1);
        let last = all.partition_point(|&tick| tick < high).max(first + 1);
        let ticks = all[first..all.len().min(last + 1)].to_vec();
        Self {
            scale: Scale::Logarithmic(ticks[0].log10(), ticks[ticks.len() - 1].log10()),
            ticks,
        }
    }

    /// Where on the axis a value is, 0 to 1.
    fn share(&self, value: f64) -> f64 {
        match self.scale {
            Scale::Linear(most) => value / most,
            Scale::Logarithmic(low, high) => (value.log10() - low) / (high - low),
        }
    }
}

/// Steps between two heights, the lower from left to right and the upper back.
#[derive(Default)]
struct Area {
    lower: String,
    upper: Vec<(f64, f64)>,
    /// Whether anything is between the two.
    is_visible: bool,
}

impl Area {
    fn add(&mut self, (from, to): (f64, f64), (below, above): (f64, f64)) {
        // Heights are counted from the top.
        self.is_visible |= above < below;
        for x in [from, to] {
            push_point(&mut self.lower, (x, below));
            self.upper.push((x, above));
        }
    }
}

/// A point of a path; the first command is written by who begins it.
fn push_point(path: &mut String, (x, y): (f64, f64)) {
    push(path, format_args!(" {x:.1},{y:.1}"));
}

/// Writes to a string, which takes everything.
fn push(text: &mut String, what: fmt::Arguments<'_>) {
    let _ = text.write_fmt(what);
}

/// An entry of a legend.
#[derive(Clone, Copy)]
struct Mark {
    class: &'static str,
    label: &'static str,
    is_line: bool,
}

impl Mark {
    fn line(class: &'static str, label: &'static str) -> Self {
        Self {
            class,
            label,
            is_line: true,
        }
    }

    fn square(class: &'static str, label: &'static str) -> Self {
        Self {
            class,
            label,
            is_line: false,
        }
    }
}

/// A drawing in the making.
struct Svg(String);

impl Svg {
    fn open(heading: &Heading) -> Self {
        let mut svg = Self(format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" width=\"{WIDTH}\" \
             height=\"{HEIGHT}\" role=\"img\">\n<title>{}</title>\n<style>{STYLE}</style>\n\
             <rect class=\"page\" width=\"100%\" height=\"100%\"/>\n",
            Escaped(&heading.title)
        ));
        svg.text("title", (LEFT, 26.0), "start", &heading.title);
        svg.text("faint", (LEFT, 46.0), "start", &heading.subtitle);
        svg
    }

    fn close(mut self) -> String {
        self.0.push_str("</svg>\n");
        self.0
    }

    fn text(&mut self, class: &str, (x, y): (f64, f64), anchor: &str, text: &str) {
        let text = Escaped(text);
        let line = format_args!(
            "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{text}</text>\n"
        );
        push(&mut self.0, line);
    }

    /// Grid, ticks with their numbers, and what the numbers mean.
    fn frame(&mut self, panel: &Panel, time: &Axis, values: &Axis, label: &str) {
        let (right, bottom) = (WIDTH - RIGHT, panel.top + panel.height);
        for &tick in &values.ticks {
            let y = panel.y(values, tick);
            push(
                &mut self.0,
                format_args!("<path class=\"grid\" d=\"M{LEFT},{y:.1}H{right}\"/>\n"),
            );
            self.text("faint", (LEFT - 8.0, y + 4.0), "end", &number(tick));
        }
        for &tick in &time.ticks {
            let x = x(time, tick);
            let down = bottom + 5.0;
            push(
                &mut self.0,
                format_args!("<path class=\"grid\" d=\"M{x:.1},{bottom}V{down}\"/>\n"),
            );
            self.text("faint", (x, bottom + 18.0), "middle", &number(tick));
        }
        self.text("", (LEFT, panel.top - 12.0), "start", label);
    }

    /// A line through points, with gaps where there is none. A point between two gaps is a dot.
    fn line(&mut self, class: &str, points: impl IntoIterator<Item = Option<(f64, f64)>>) {
        let mut path = String::new();
        let mut command = 'M';
        for point in points {
            match point {
                Some(point) => {
                    path.push(command);
                    push_point(&mut path, point);
                    if command == 'M' {
                        // A line of no length is drawn as its round end.
                        path.push_str("h0");
                    }
                    command = 'L';
                }
                None => command = 'M',
            }
        }
        push(
            &mut self.0,
            format_args!("<path class=\"line {class}\" d=\"{path}\"/>\n"),
        );
    }

    fn area(&mut self, class: &str, area: &Area) {
        if !area.is_visible {
            return;
        }
        let mut path = format!("M{}", area.lower);
        for &point in area.upper.iter().rev() {
            push_point(&mut path, point);
        }
        push(
            &mut self.0,
            format_args!("<path class=\"{class}\" d=\"{path}Z\"/>\n"),
        );
    }

    /// What the colours mean, at the upper right of a panel.
    fn legend(&mut self, panel: &Panel, marks: &[Mark]) {
        let mut x = WIDTH - RIGHT;
        let y = panel.top - 12.0;
        for &Mark {
            class,
            label,
            is_line,
        } in marks.iter().rev()
        {
            x -= label.len() as f64 * LETTER;
            self.text("faint", (x, y), "start", label);
            x -= 22.0;
            let middle = y - 4.0;
            if is_line {
                let end = x + 16.0;
                let line = format_args!("<path class=\"line {class}\" d=\"M{x:.1},{middle}H{end:.1}\"/>\n");
                push(&mut self.0, line);
            } else {
                let (x, y) = (x + 5.0, y - 10.0);
                let square = format_args!(
                    "<rect class=\"{class}\" x=\"{x:.1}\" y=\"{y}\" width=\"11\" height=\"11\" rx=\"2\"/>\n"
                );
                push(&mut self.0, square);
            }
            x -= 14.0;
        }
    }
}

/// A tick's number, without digits that its step does not have.
fn number(value: f64) -> String {
    // Steps are powers of ten times 1, 2 or 5: what is beyond six digits is the error of arithmetic.
    let rounded: f64 = format!("{value:.6}").parse().unwrap_or(value);
    if rounded >= 10_000.0 {
        format!("{}k", rounded / 1_000.0)
    } else {
        rounded.to_string()
    }
}

/// Text as XML wants it.
struct Escaped<'a>(&'a str);

impl Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for letter in self.0.chars() {
            match letter {
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '&' => f.write_str("&amp;")?,
                letter if letter.is_control() => f.write_char(' ')?,
                letter => f.write_char(letter)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::tally::{Failure, Outcome, Sent};

    const SLO: Duration = Duration::from_millis(50);
    const LASTED: Duration = Duration::from_secs(10);

    fn drawn(queries: impl IntoIterator<Item = (u64, u64, Outcome)>) -> String {
        let mut tally = Tally::new(SLO, LASTED, 10_000.0);
        for (due_ms, latency_micros, outcome) in queries {
            tally.record(Sent {
                due: Duration::from_millis(due_ms),
                lateness: Some(Duration::ZERO),
                latency: Duration::from_micros(latency_micros),
                outcome,
            });
        }
        let heading = Heading {
            title: "iris: trace:<a&b>.csv".into(),
            subtitle: "goodput 1".into(),
        };
        draw(&heading, &tally, SLO, LASTED)
    }

    /// The path of this class.
    fn path<'a>(svg: &'a str, class: &str) -> Option<&'a str> {
        let (_, rest) = svg.split_once(&format!("class=\"{class}\" d=\""))?;
        Some(rest.split_once('"').unwrap().0)
    }

    #[test]
    fn only_a_name_that_ends_in_svg_is_a_plot() {
        for good in ["a.svg", "b/a.SVG"] {
            assert!(good.parse::<SvgFile>().is_ok(), "{good}");
        }
        for bad in ["a.png", "svg", ".svg", "a"] {
            let error = bad.parse::<SvgFile>().expect_err(bad);
            assert!(error.to_string().contains(".svg"), "{error}");
        }
    }

    #[test]
    fn axes_are_labelled_with_their_units() {
        let svg = drawn([(0, 2_000, Outcome::Prediction)]);
        for label in ["(ms)", "queries per second", "due (s)", "SLO", "p99", "in time"] {
            assert!(svg.contains(label), "{label}");
        }
        assert!(svg.contains("prefers-color-scheme:dark"));
    }

    #[test]
    fn a_run_without_a_query_is_drawn_empty_and_in_finite_numbers() {
        let svg = drawn([]);
        for nonsense in ["NaN", "inf"] {
            assert!(!svg.contains(nonsense), "{svg}");
        }
        assert!(path(&svg, "intime").is_none());
    }

    #[test]
    fn a_layer_is_drawn_only_where_there_is_something_of_it() {
        let svg = drawn([
            (0, 1_000, Outcome::Prediction),
            (1, 0, Outcome::Failed(Failure::Timeout)),
        ]);
        assert!(path(&svg, "intime").is_some());
        assert!(path(&svg, "error").is_some());
        assert!(path(&svg, "default").is_none());
        assert!(path(&svg, "late").is_none());
    }

    #[test]
    fn a_time_without_answers_is_a_gap_in_the_lines() {
        let answered = |due| (due, 2_000, Outcome::Prediction);
        let whole = drawn((0..10_000).step_by(10).map(answered));
        assert_eq!(path(&whole, "line p50").unwrap().matches('M').count(), 1);
        let paused = (0..10_000)
            .step_by(10)
            .filter(|due| !(4_000..6_000).contains(due));
        let gap = drawn(paused.map(answered));
        assert_eq!(path(&gap, "line p50").unwrap().matches('M').count(), 2);
    }

    #[test]
    fn text_is_escaped() {
        let svg = drawn([]);
        assert!(svg.contains("trace:&lt;a&amp;b&gt;.csv"));
    }

    #[test]
    fn ticks_are_round_numbers_up_to_the_largest_value() {
        for (most, expected) in [
            (30.0, vec![0.0, 5.0, 10.0, 15.0, 20.0, 25.0, 30.0]),
            (1.0, vec![0.0, 0.2, 0.4, 0.6, 0.8, 1.0]),
            (0.0, vec![0.0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        ] {
            let ticks: Vec<_> = Axis::linear(most).ticks.into_iter().map(number).collect();
            assert_eq!(
                ticks,
                expected.into_iter().map(number).collect::<Vec<_>>(),
                "{most}"
            );
        }
    }

    #[test]
    fn a_logarithmic_axis_spans_its_values_between_round_numbers() {
        for (values, expected) in [
            ([0.3, 50.0], vec!["0.1", "1", "10", "100"]),
            ([12.0, 90.0], vec!["10", "20", "50", "100"]),
            ([1.0, 50.0], vec!["1", "2", "5", "10", "20", "50"]),
            ([10.0, 10.0], vec!["10", "20"]),
            ([30.0, 30.0], vec!["20", "50"]),
            ([0.001, 0.001], vec!["0.001", "0.002"]),
        ] {
            let axis = Axis::logarithmic(values.into_iter());
            let ticks: Vec<_> = axis.ticks.iter().map(|&tick| number(tick)).collect();
            assert_eq!(ticks, expected, "{values:?}");
            for value in values {
                assert!((0.0..=1.0).contains(&axis.share(value)), "{values:?}");
            }
        }
    }

    #[test]
    fn large_ticks_are_counted_in_thousands() {
        for (value, text) in [
            (0.1 + 0.2, "0.3"),
            (5000.0, "5000"),
            (25_000.0, "25k"),
            (0.001, "0.001"),
        ] {
            assert_eq!(number(value), text);
        }
    }
}

//! Goodput against offered load, as an SVG that is read on a light page and on a dark one.

use std::fmt::Write;

use crate::goodput::{Goodput, Policy};

/// All lengths are in pixels.
const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 440.0;
const LEFT: f64 = 72.0;
const RIGHT: f64 = 120.0;
const TOP: f64 = 92.0;
const BOTTOM: f64 = 56.0;

/// One rule for each class; a page that is dark replaces some. The sibling of the plots of `skysail bench`.
const STYLE: &str = "\
text{font:12px system-ui,-apple-system,'Segoe UI',sans-serif;fill:#24292f}
.title{font-size:15px;font-weight:600}
.faint{fill:#57606a}
.page{fill:#ffffff}
.grid{stroke:#d8dee4;fill:none}
.line{fill:none;stroke-width:2;stroke-linejoin:round;stroke-linecap:round}
.learned{stroke:#0969da}
.aimd{stroke:#bc4c00}
.fixed{stroke:#8250df}
.offered{stroke:#8c959f;stroke-dasharray:5 4;stroke-width:1.2}
@media (prefers-color-scheme:dark){
text{fill:#e6edf3}
.faint{fill:#9198a1}
.page{fill:#0d1117}
.grid{stroke:#30363d}
.learned{stroke:#58a6ff}
.aimd{stroke:#f0883e}
.fixed{stroke:#bc8cff}
.offered{stroke:#767d86}
}";

/// Labels at the ends of lines are at least so far apart.
const LINE_HEIGHT: f64 = 15.0;

/// Draws a line for each policy, with the range of its rounds at each load.
pub(crate) fn draw(goodput: &Goodput, subtitle: &str) -> String {
    Plot::new(goodput).draw(goodput, subtitle)
}

/// From figures to places.
struct Plot {
    most_load: f64,
    most_rate: f64,
    svg: String,
}

impl Plot {
    fn new(goodput: &Goodput) -> Self {
        let rates = goodput.cells.iter().map(|cell| cell.in_time_per_second.max);
        let most_rate = rates.fold(goodput.capacity_per_second, f64::max);
        Self {
            most_load: goodput.loads().into_iter().fold(1.0, f64::max),
            most_rate: (most_rate / 200.0).ceil() * 200.0,
            svg: String::new(),
        }
    }

    fn draw(mut self, goodput: &Goodput, subtitle: &str) -> String {
        let title = "Queries answered in time, by batch policy";
        let head = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" width=\"{WIDTH}\" \
             height=\"{HEIGHT}\" role=\"img\">\n<title>{title}</title>\n<style>{STYLE}</style>\n\
             <rect class=\"page\" width=\"100%\" height=\"100%\"/>"
        );
        self.push(&head);
        self.text("title", (LEFT, 26.0), "start", title);
        self.text("faint", (LEFT, 46.0), "start", subtitle);
        self.axes(goodput.capacity_per_second);
        self.offered(goodput.capacity_per_second);
        for policy in Policy::ALL {
            self.line(goodput, policy);
        }
        self.labels(goodput);
        self.push("</svg>");
        self.svg
    }

    fn x(&self, load: f64) -> f64 {
        LEFT + load / self.most_load * (WIDTH - LEFT - RIGHT)
    }

    fn y(&self, rate: f64) -> f64 {
        HEIGHT - BOTTOM - rate / self.most_rate * (HEIGHT - TOP - BOTTOM)
    }

    /// Writes a line to a string, which takes everything.
    fn push(&mut self, line: &str) {
        let _ = writeln!(self.svg, "{line}");
    }

    fn text(&mut self, class: &str, (x, y): (f64, f64), anchor: &str, text: &str) {
        let text = text
            .replace('&', "&amp;")
            .replace('<', "&lt;")
            .replace('>', "&gt;");
        self.push(&format!(
            "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{text}</text>"
        ));
    }

    fn axes(&mut self, capacity: f64) {
        let (right, bottom) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
        let ticks = (self.most_rate / 200.0).round() as u32;
        for tick in 0..=ticks {
            let rate = f64::from(tick) * 200.0;
            let y = self.y(rate);
            self.push(&format!("<path class=\"grid\" d=\"M{LEFT},{y:.1}H{right}\"/>"));
            self.text("faint", (LEFT - 8.0, y + 4.0), "end", &rate.to_string());
        }
        let halves = (self.most_load * 2.0).floor() as u32;
        for half in 0..=halves {
            let load = f64::from(half) / 2.0;
            let (x, down) = (self.x(load), bottom + 5.0);
            self.push(&format!("<path class=\"grid\" d=\"M{x:.1},{bottom}V{down}\"/>"));
            self.text("faint", (x, bottom + 19.0), "middle", &load.to_string());
        }
        let label = format!("offered load, in units of {capacity} queries/s");
        self.text(
            "faint",
            (f64::midpoint(LEFT, right), HEIGHT - 14.0),
            "middle",
            &label,
        );
        self.text(
            "faint",
            (LEFT, TOP - 12.0),
            "start",
            "answered in time (queries/s)",
        );
    }

    /// What nobody can exceed, up to where it leaves the plot.
    fn offered(&mut self, capacity: f64) {
        let load = (self.most_rate / capacity).min(self.most_load);
        let (from, to) = (
            (self.x(0.0), self.y(0.0)),
            (self.x(load), self.y(load * capacity)),
        );
        self.push(&format!(
            "<path class=\"line offered\" d=\"M{:.1},{:.1}L{:.1},{:.1}\"/>",
            from.0, from.1, to.0, to.1
        ));
        self.text("faint", (to.0 + 6.0, to.1 + 12.0), "start", "all that is offered");
    }

    fn line(&mut self, goodput: &Goodput, policy: Policy) {
        let class = policy.application();
        let mut path = String::new();
        for cell in goodput.of(policy) {
            let command = if path.is_empty() { 'M' } else { 'L' };
            let (x, rate) = (self.x(cell.load), cell.in_time_per_second);
            let _ = write!(path, "{command}{x:.1},{:.1}", self.y(rate.median));
            let (high, low) = (self.y(rate.max), self.y(rate.min));
            self.push(&format!(
                "<path class=\"line {class}\" d=\"M{x:.1},{low:.1}V{high:.1}\"/>"
            ));
        }
        self.push(&format!("<path class=\"line {class}\" d=\"{path}\"/>"));
    }

    /// Names the lines where they end, the highest first, without one name on another.
    fn labels(&mut self, goodput: &Goodput) {
        let ends = Policy::ALL.map(|policy| {
            let last = goodput.of(policy).last();
            last.map(|cell| (self.y(cell.in_time_per_second.median), policy))
        });
        let mut ends: Vec<_> = ends.into_iter().flatten().collect();
        ends.sort_by(|(one, _), (other, _)| one.total_cmp(other));
        let mut lowest = f64::MIN;
        for (y, policy) in ends {
            let at = y.max(lowest + LINE_HEIGHT);
            let (x, middle) = (WIDTH - RIGHT + 8.0, at);
            let (end, class) = (x + 16.0, policy.application());
            self.push(&format!(
                "<path class=\"line {class}\" d=\"M{x:.1},{middle:.1}H{end:.1}\"/>"
            ));
            self.text("", (end + 6.0, at + 4.0), "start", policy.name());
            lowest = at;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::goodput::tests::example;

    #[test]
    fn each_policy_is_a_line_with_its_name_and_the_axes_say_what_they_are() {
        let svg = draw(&example(), "a <subtitle> & more");
        for policy in Policy::ALL {
            assert!(svg.contains(&format!(">{}</text>", policy.name())), "{svg}");
            let lines = svg
                .matches(&format!("class=\"line {}\"", policy.application()))
                .count();
            // A range at each of two loads, the line, and its mark beside the name.
            assert_eq!(lines, 4, "{policy:?}");
        }
        for words in [
            "offered load, in units of 800 queries/s",
            "answered in time (queries/s)",
        ] {
            assert!(svg.contains(words), "{words}");
        }
        assert!(svg.contains("prefers-color-scheme:dark"));
        assert!(svg.contains("a &lt;subtitle&gt; &amp; more"));
        assert!(svg.starts_with("<svg") && svg.ends_with("</svg>\n"));
    }

    #[test]
    fn names_of_lines_that_end_at_one_place_stand_below_each_other() {
        let mut goodput = example();
        for cell in &mut goodput.cells {
            cell.in_time_per_second.median = 500.0;
        }
        let svg = draw(&goodput, "");
        let heights: Vec<f64> = Policy::ALL
            .iter()
            .map(|policy| {
                let (before, _) = svg.split_once(&format!(">{}</text>", policy.name())).unwrap();
                let (_, y) = before.rsplit_once(" y=\"").unwrap();
                y.split('"').next().unwrap().parse().unwrap()
            })
            .collect();
        let apart = heights
            .windows(2)
            .all(|pair| (pair[0] - pair[1]).abs() >= LINE_HEIGHT - 0.1);
        assert!(apart, "{heights:?}");
    }
}

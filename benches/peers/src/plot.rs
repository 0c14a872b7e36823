//! Plots as SVG: a line of dots for each subject, on a logarithmic axis, readable on light and dark grounds.

use std::fmt::Write;

const ROW: f64 = 24.0;
const TOP: f64 = 74.0;
const LEFT: f64 = 232.0;
const WIDTH: f64 = 430.0;
const RIGHT: f64 = 218.0;

/// Colours that stand off from white and from black alike.
const COLOURS: [&str; 4] = ["#1f83d6", "#d9730d", "#2b9a5b", "#a259c4"];

const STYLE: &str = "\
text{font:13px system-ui,-apple-system,'Segoe UI',sans-serif;fill:#3b434c}\
.small{font-size:11px}.title{font-size:15px;font-weight:600}.ours{font-weight:700}\
.grid{stroke:#8b949e;stroke-opacity:.28}.span{stroke:#8b949e;stroke-opacity:.75;stroke-width:2}\
.band{fill:#8b949e;fill-opacity:.13}\
@media(prefers-color-scheme:dark){text{fill:#c9d1d9}}";

pub(crate) struct Row {
    pub(crate) label: String,
    /// A value for each series, `None` where there is none.
    pub(crate) values: Vec<Option<f64>>,
    /// What stands at the right.
    pub(crate) note: String,
}

pub(crate) struct Plot {
    pub(crate) title: String,
    pub(crate) unit: &'static str,
    pub(crate) series: Vec<String>,
    /// Whether a line joins the dots of a row, as from median to longest.
    pub(crate) joined: bool,
    pub(crate) rows: Vec<Row>,
}

impl Plot {
    pub(crate) fn svg(&self) -> String {
        let axis = Axis::around(self.rows.iter().flat_map(|row| row.values.iter().flatten()));
        let bottom = TOP + ROW * self.rows.len() as f64;
        let (width, height) = (LEFT + WIDTH + RIGHT, bottom + 40.0);
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" \
             width=\"{width}\" height=\"{height}\" role=\"img\">\n<title>{0}</title>\n\
             <style>{STYLE}</style>\n<text class=\"title\" x=\"12\" y=\"24\">{0}</text>\n",
            escape(&self.title)
        );
        self.legend(&mut svg);
        for (value, shown) in axis.ticks() {
            let x = axis.place(value);
            line(&mut svg, "grid", (x, TOP - 8.0), (x, bottom));
            if shown {
                let label = number(value);
                text(&mut svg, "small", (x, bottom + 16.0), "middle", &label);
            }
        }
        let middle = LEFT + WIDTH / 2.0;
        text(
            &mut svg,
            "small",
            (middle, bottom + 33.0),
            "middle",
            self.unit,
        );
        for (place, row) in self.rows.iter().enumerate() {
            self.row(&mut svg, &axis, row, TOP + ROW * (place as f64 + 0.5));
        }
        svg.push_str("</svg>\n");
        svg
    }

    fn legend(&self, svg: &mut String) {
        let mut x = 18.0;
        for (name, colour) in self.series.iter().zip(COLOURS) {
            dot(svg, colour, (x, 45.0), "");
            text(svg, "small", (x + 10.0, 49.0), "start", name);
            x += 34.0 + 6.6 * name.chars().count() as f64;
        }
    }

    fn row(&self, svg: &mut String, axis: &Axis, row: &Row, y: f64) {
        let ours = row.label == "redlock-fifo";
        if ours {
            let all = LEFT + WIDTH + RIGHT - 8.0;
            let top = y - ROW / 2.0;
            let _ = writeln!(
                svg,
                "<rect class=\"band\" x=\"4\" y=\"{top:.1}\" width=\"{all:.1}\" height=\"{ROW}\" rx=\"4\"/>"
            );
        }
        let class = if ours { "ours" } else { "" };
        text(svg, class, (LEFT - 14.0, y + 4.5), "end", &row.label);
        let right = LEFT + WIDTH + 14.0;
        text(svg, "small", (right, y + 4.0), "start", &row.note);
        let places: Vec<f64> = row
            .values
            .iter()
            .flatten()
            .map(|v| axis.place(*v))
            .collect();
        if self.joined && places.len() > 1 {
            let first = places.iter().copied().fold(f64::MAX, f64::min);
            let last = places.iter().copied().fold(f64::MIN, f64::max);
            line(svg, "span", (first, y), (last, y));
        }
        for ((value, colour), name) in row.values.iter().zip(COLOURS).zip(&self.series) {
            if let Some(value) = value {
                let told = format!("{}, {name}: {} {}", row.label, number(*value), self.unit);
                dot(svg, colour, (axis.place(*value), y), &told);
            }
        }
    }
}

/// A logarithmic axis.
struct Axis {
    low: f64,
    high: f64,
}

impl Axis {
    fn around<'a>(values: impl Iterator<Item = &'a f64>) -> Self {
        let (mut low, mut high) = (f64::MAX, f64::MIN);
        for value in values {
            (low, high) = (low.min(*value), high.max(*value));
        }
        if low > high {
            (low, high) = (1.0, 10.0);
        }
        let (low, high) = (low.log10() - 0.06, high.log10() + 0.06);
        Self { low, high }
    }

    fn place(&self, value: f64) -> f64 {
        LEFT + WIDTH * (value.log10() - self.low) / (self.high - self.low)
    }

    /// Where lines stand, and which of them are named.
    fn ticks(&self) -> Vec<(f64, bool)> {
        let decades = self.high - self.low;
        let mut ticks = Vec::new();
        let (first, last) = (self.low.floor() as i32, self.high.ceil() as i32);
        for power in first..=last {
            for step in [1.0, 2.0, 5.0] {
                let value = step * 10f64.powi(power);
                let inside = (self.low..=self.high).contains(&value.log10());
                if inside && (step == 1.0 || decades < 4.5) {
                    ticks.push((value, step == 1.0 || decades < 3.2));
                }
            }
        }
        ticks
    }
}

pub(crate) fn number(value: f64) -> String {
    match value {
        v if v >= 100.0 => {
            let digits = format!("{v:.0}");
            match digits.len() {
                4.. => format!(
                    "{},{}",
                    &digits[..digits.len() - 3],
                    &digits[digits.len() - 3..]
                ),
                _ => digits,
            }
        }
        v if v >= 10.0 => format!("{v:.0}"),
        v if v >= 1.0 => format!("{v:.1}").trim_end_matches(".0").to_owned(),
        v => format!("{v:.2}").trim_end_matches('0').to_owned(),
    }
}

fn text(svg: &mut String, class: &str, (x, y): (f64, f64), anchor: &str, words: &str) {
    let words = escape(words);
    let _ = writeln!(
        svg,
        "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{words}</text>"
    );
}

fn line(svg: &mut String, class: &str, (x1, y1): (f64, f64), (x2, y2): (f64, f64)) {
    let _ = writeln!(
        svg,
        "<line class=\"{class}\" x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\"/>"
    );
}

fn dot(svg: &mut String, colour: &str, (x, y): (f64, f64), told: &str) {
    let _ = writeln!(
        svg,
        "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"5\" fill=\"{colour}\"><title>{}</title></circle>",
        escape(told)
    );
}

fn escape(words: &str) -> String {
    words.replace('&', "&amp;").replace('<', "&lt;")
}

//! The curves of a comparison as one SVG picture, for pages that run no scripts and for papers.

use std::fmt::Write;

use crate::study::comparison::Comparison;
use crate::study::numbers::{digits, short};

/// Colours of arms, distinct under the common kinds of colour blindness (Okabe and Ito).
pub const COLORS: [&str; 7] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#666666"];

/// Curves that are drawn with their intervals: more of these would hide the curves.
const MOST_BANDS: usize = 4;
/// Letters of a vertical label that have room; longer ones are written smaller.
const Y_LABEL: usize = 52;

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 420.0;
/// Left, right, top, bottom.
const MARGIN: [f64; 4] = [72.0, 20.0, 44.0, 56.0];

/// What a picture shows.
pub struct Plot<'a> {
    /// For those who cannot see it.
    pub title: String,
    /// Below the horizontal axis.
    pub x_label: &'a str,
    /// Beside the vertical axis; its last bracket is left open for the kind of scale.
    pub y_label: String,
    /// Name, and points with the half width of their interval.
    pub curves: Vec<(&'a str, &'a [(f64, f64, Option<f64>)])>,
}

impl Plot<'_> {
    fn has_bands(&self) -> bool {
        self.curves.len() <= MOST_BANDS
    }
}

/// The colour of a curve, and the dashes that tell it from an earlier one of the same colour.
fn look(index: usize) -> (&'static str, &'static str) {
    (COLORS[index % COLORS.len()], if index < COLORS.len() { "" } else { r#" stroke-dasharray="6 4""# })
}

/// From data to pixels: x linear, y logarithmic where the scores allow it.
struct Scale {
    x: (f64, f64),
    y: (f64, f64),
    log: bool,
}

impl Scale {
    fn of(plot: &Plot) -> Self {
        let points = || plot.curves.iter().flat_map(|curve| curve.1);
        let fold = |values: Vec<f64>| {
            values.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), &v| (a.min(v), b.max(v)))
        };
        let means: Vec<f64> = points().map(|point| point.1).collect();
        let half = |half: Option<f64>| half.filter(|_| plot.has_bands()).unwrap_or(0.0);
        let bounds: Vec<f64> =
            points().flat_map(|&(_, mean, own)| [mean - half(own), mean + half(own)]).collect();
        let (low, high) = fold(means);
        let log = low > 0.0 && high > 4.0 * low;
        // Intervals of two seeds can be absurdly wide: they are cut where they would dwarf the curves.
        let (lower, upper) = fold(bounds);
        let room = (high - low).max(high.abs() * 0.05).max(f64::MIN_POSITIVE);
        let bottom = lower.max(low - 0.5 * room);
        let y = (if log { bottom.max(low * 0.6) } else { bottom }, upper.min(high + 0.5 * room));
        let (from, to) = fold(points().map(|point| point.0).collect());
        Self { x: (from, if to > from { to } else { from + 1.0 }), y, log }
    }

    fn x(&self, value: f64) -> f64 {
        MARGIN[0] + (value - self.x.0) / (self.x.1 - self.x.0) * (WIDTH - MARGIN[0] - MARGIN[1])
    }

    fn y(&self, value: f64) -> f64 {
        let place = |v: f64| if self.log { v.max(f64::MIN_POSITIVE).ln() } else { v };
        let (low, high) = (place(self.y.0), place(self.y.1));
        // No `clamp`: places that are not finite leave no range at all, which it takes for a defect.
        let value = value.max(self.y.0).min(self.y.1);
        let share = (place(value) - low) / (high - low).max(f64::MIN_POSITIVE);
        HEIGHT - MARGIN[3] - share * (HEIGHT - MARGIN[2] - MARGIN[3])
    }

    fn y_ticks(&self) -> Vec<f64> {
        if !self.log {
            return ticks(self.y.0, self.y.1, 5);
        }
        let decades = self.y.0.log10().floor() as i32..=self.y.1.log10().ceil() as i32;
        let all = decades.flat_map(|decade| [1.0, 2.0, 5.0].map(|step| step * 10f64.powi(decade)));
        all.filter(|&tick| tick >= self.y.0 && tick <= self.y.1).collect()
    }
}

/// About `count` round numbers from `from` to `to`.
fn ticks(from: f64, to: f64, count: usize) -> Vec<f64> {
    let raw = ((to - from) / count as f64).max(f64::MIN_POSITIVE);
    let power = 10f64.powf(raw.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].map(|s| s * power).into_iter().find(|&step| step >= raw).unwrap_or(raw);
    let first = (from / step).ceil();
    (0..50).map(|i| (first + f64::from(i)) * step).take_while(|&tick| tick <= to + step * 1e-9).collect()
}

/// The curves of a comparison.
pub fn svg(comparison: &Comparison) -> String {
    let better = if comparison.higher_is_better { "higher" } else { "lower" };
    draw(&Plot {
        title: format!("{} against {}", comparison.metric, comparison.axis.name()),
        x_label: comparison.axis.label(),
        y_label: format!("{} ({better} is better", comparison.metric),
        curves: comparison.arms.iter().map(|arm| (arm.name.as_str(), arm.curve.as_slice())).collect(),
    })
}

/// The picture.
pub fn draw(plot: &Plot) -> String {
    let scale = Scale::of(plot);
    let mut body = String::new();
    axes(&mut body, &scale, plot);
    for (index, (_, points)) in plot.curves.iter().enumerate() {
        if plot.has_bands() {
            band(&mut body, &scale, points, look(index).0);
        }
        curve(&mut body, &scale, points, look(index));
    }
    let above = legend(&mut body, plot);
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 {} {WIDTH} {}\" role=\"img\" \
         font-family=\"system-ui, sans-serif\" font-size=\"13\" fill=\"#333\"><title>{}</title>\
         <rect y=\"{}\" width=\"100%\" height=\"100%\" fill=\"#fff\"/>{body}</svg>\n",
        0.0 - above,
        HEIGHT + above,
        escape(&plot.title),
        0.0 - above
    )
}

/// Names the curves, in as many rows as that takes, the last of them at the height of the only one; how far the others reach above
/// the picture.
fn legend(body: &mut String, plot: &Plot) -> f64 {
    const ROW: f64 = 20.0;
    let (mut left, mut row, mut places) = (MARGIN[0], 0.0, Vec::new());
    for (name, _) in &plot.curves {
        let width = 19.0 + 7.5 * name.chars().count() as f64 + 22.0;
        if left > MARGIN[0] && left + width > WIDTH {
            (left, row) = (MARGIN[0], row + ROW);
        }
        places.push((left, row));
        left += width;
    }
    for (index, ((name, _), (left, place))) in plot.curves.iter().zip(places).enumerate() {
        let (y, (color, dashes)) = (18.0 + place - row, look(index));
        let _ = write!(
            body,
            r#"<path d="M{left:.0} {:.0}h16" stroke="{color}" stroke-width="4"{dashes}/><text x="{:.0}" y="{:.0}">{}</text>"#,
            y + 2.0,
            left + 20.0,
            y + 6.0,
            escape(name)
        );
    }
    row
}

fn axes(body: &mut String, scale: &Scale, plot: &Plot) {
    let (right, bottom) = (WIDTH - MARGIN[1], HEIGHT - MARGIN[3]);
    for tick in scale.y_ticks() {
        let y = scale.y(tick);
        let text = round(&digits(tick, 2));
        let _ = write!(
            body,
            "<line x1=\"{}\" x2=\"{right}\" y1=\"{y:.1}\" y2=\"{y:.1}\" stroke=\"#e2e2e2\"/>\
             <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{text}</text>",
            MARGIN[0],
            MARGIN[0] - 8.0,
            y + 4.0
        );
    }
    for tick in ticks(scale.x.0, scale.x.1, 6) {
        let (x, text) = (scale.x(tick), round(&short(tick)));
        let _ = write!(
            body,
            "<line x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{bottom}\" y2=\"{}\" stroke=\"#999\"/>\
             <text x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\">{text}</text>",
            bottom + 5.0,
            bottom + 19.0
        );
    }
    let label = format!("{}{})", plot.y_label, if scale.log { ", log scale" } else { "" });
    let size = 13.0 * (Y_LABEL as f64 / label.chars().count().max(Y_LABEL) as f64);
    let _ = write!(
        body,
        "<line x1=\"{0}\" x2=\"{right}\" y1=\"{bottom}\" y2=\"{bottom}\" stroke=\"#999\"/>\
         <text x=\"{1}\" y=\"{2}\" text-anchor=\"middle\">{3}</text>\
         <text transform=\"translate(18 {4}) rotate(-90)\" text-anchor=\"middle\" font-size=\"{6:.1}\">{5}</text>",
        MARGIN[0],
        (MARGIN[0] + right) / 2.0,
        HEIGHT - 12.0,
        escape(plot.x_label),
        (MARGIN[2] + bottom) / 2.0,
        escape(&label),
        size
    );
}

/// A number without the zeros that end its decimals: ticks are round.
fn round(text: &str) -> String {
    let number = text.trim_end_matches(char::is_alphabetic);
    if !number.contains('.') || number.contains('e') {
        return text.into();
    }
    let unit = &text[number.len()..];
    format!("{}{unit}", number.trim_end_matches('0').trim_end_matches('.'))
}

/// The intervals around a curve.
fn band(body: &mut String, scale: &Scale, points: &[(f64, f64, Option<f64>)], color: &str) {
    let point = |x: f64, y: f64| format!("{:.1},{:.1}", scale.x(x), scale.y(y));
    let upper = points.iter().filter_map(|&(x, mean, half)| Some(point(x, mean + half?)));
    let lower = points.iter().rev().filter_map(|&(x, mean, half)| Some(point(x, mean - half?)));
    let band: Vec<String> = upper.chain(lower).collect();
    if !band.is_empty() {
        let _ = write!(body, r#"<polygon points="{}" fill="{color}" opacity="0.16"/>"#, band.join(" "));
    }
}

fn curve(body: &mut String, scale: &Scale, points: &[(f64, f64, Option<f64>)], (color, dashes): (&str, &str)) {
    let point = |x: f64, y: f64| format!("{:.1},{:.1}", scale.x(x), scale.y(y));
    let line: Vec<String> = points.iter().map(|&(x, mean, _)| point(x, mean)).collect();
    let _ = write!(
        body,
        r#"<polyline points="{}" fill="none" stroke="{color}" stroke-width="2"{dashes}/>"#,
        line.join(" ")
    );
    if points.len() <= 40 {
        for &(x, mean, _) in points {
            let (x, y) = (scale.x(x), scale.y(mean));
            let _ = write!(body, r#"<circle cx="{x:.1}" cy="{y:.1}" r="2.6" fill="{color}"/>"#);
        }
    }
}

/// Text that is safe between tags and in attributes.
pub(super) fn escape(text: &str) -> String {
    let escaped = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    escaped.replace('"', "&quot;").replace('\'', "&#39;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_numbers_end_in_no_decimal_zeros() {
        for (text, expected) in [
            ("10.00", "10"),
            ("0.50", "0.5"),
            ("12.0k", "12k"),
            ("1.0e-10", "1.0e-10"),
            ("100", "100"),
            ("0", "0"),
        ] {
            assert_eq!(round(text), expected);
        }
    }

    #[test]
    fn ticks_are_round_and_inside() {
        assert_eq!(ticks(0.0, 10.0, 5), [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]);
        let small = ticks(0.011, 0.049, 5);
        assert!(small.iter().all(|tick| (0.011..=0.0491).contains(tick)) && small.len() >= 3, "{small:?}");
    }

    #[test]
    fn many_curves_are_told_apart_and_not_hidden() {
        let points: &[(f64, f64, Option<f64>)] = &[(0.0, 1.0, Some(90.0)), (1.0, 2.0, Some(90.0))];
        let plot = |count: usize| Plot {
            title: String::new(),
            x_label: "x",
            y_label: "kid2000-a-very-long-name-of-features-indeed (lower is better".into(),
            curves: vec![("a", points); count],
        };
        let (few, many) = (draw(&plot(4)), draw(&plot(9)));
        assert_eq!((few.matches("<polygon").count(), many.matches("<polygon").count()), (4, 0));
        // Two of nine have the colours of the first two: their curves and their marks are dashed.
        assert_eq!((few.matches("dasharray").count(), many.matches("dasharray").count()), (0, 4));
        assert!(Scale::of(&plot(9)).y.1 < 5.0 && many.contains(r#"font-size="11.1""#), "{many}");
    }

    #[test]
    fn many_names_take_several_rows_above_the_picture() {
        let points = [(0.0, 1.0, None), (1.0, 2.0, None)];
        let names = ["transposed_nest, lr 0.000125", "sagan, lr 0.000125", "transposed_nest, lr 0.0005", "b"];
        let plot = |count: usize| Plot {
            title: String::new(),
            x_label: "x",
            y_label: "y (".into(),
            curves: names.iter().take(count).map(|&name| (name, points.as_slice())).collect(),
        };
        assert!(draw(&plot(2)).contains("viewBox=\"0 0 720 420\""));
        let four = draw(&plot(4));
        assert!(
            four.contains("viewBox=\"0 -20 720 440\"") && names.iter().all(|name| four.contains(name)),
            "{four}"
        );
    }

    #[test]
    fn places_beyond_all_bounds_are_drawn_without_harm() {
        for x in [f64::INFINITY, f64::NAN, 1e300, f64::MAX] {
            for y in [f64::NAN, f64::MAX, -f64::MAX] {
                let points = [(x, y, None), (x, y, Some(f64::INFINITY))];
                let plot = Plot {
                    title: "t".into(),
                    x_label: "x",
                    y_label: "y (".into(),
                    curves: vec![("a", &points)],
                };
                assert!(draw(&plot).ends_with("</svg>\n"));
            }
        }
    }

    #[test]
    fn markup_in_names_stays_text() {
        assert_eq!(escape("<a & 'b'>"), "&lt;a &amp; &#39;b&#39;&gt;");
    }
}
